"""The worker brings its verifiers' seals and votes: what it takes, what it refuses, when it sends, and with what."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from assay import draw
from assay.beats import SETTLING, beat
from assay.chain import Attest, Attested, Batch, Opening, Reveal, RevealAll, RevealsDue, Seal, Sealed, Settle, Spread
from assay.ids import Address, SegmentId
from assay.messages import Ack, Refusal, SealMessage, VoteMessage
from assay.runtime import Fault
from assay.tasks import VerifySeal, VerifyVote, VoteVerified
from assay_verifier import handing
from assay_worker.bringing import PATIENCE
from assay_worker.machine import WorkerMachine
from assay_worker.state import WorkerConfig
from bench import ME, OTHER, PARAMS, PEERS, Bench, digest
from tests.roles.worker_world import VERIFIERS, drawn


@pytest.fixture
def bench() -> Any:
    made = Bench.of(WorkerMachine(WorkerConfig(account=ME, encryption_key=b"k" * 32, peer=PEERS[ME], price_per_step=10)))
    yield made
    made.check_restart()


def seal_of(who: Address, **changes: Any) -> SealMessage:
    return msgspec.structs.replace(
        SealMessage(segment=SegmentId(1), round=0, verifier=who, digest=digest(f"seal {who}"), signature=b"s" * 65), **changes
    )


def vote_of(bench: Bench, who: Address, **changes: Any) -> VoteMessage:
    roots = tuple(digest(f"root {unit}") for unit in bench.state.facts.segments[1].units)
    opening = Opening(leaf=digest("leaf"), proof=(digest("sibling"),))
    vote = Reveal(verifier=who, agrees=True, trace_roots=roots, salt=digest(f"salt {who}"), openings=(opening,))
    return VoteMessage(segment=SegmentId(1), round=0, vote=msgspec.structs.replace(vote, **changes))


def served(bench: Bench) -> None:
    drawn(bench)
    bench.served()


def handed(bench: Bench, *who: Address, valid: bool = True) -> None:
    for one in who:
        assert bench.asked(one, seal_of(one)) == Ack()
        assert isinstance(bench.task(f"seal:1:0:{one}"), VerifySeal)
        bench.done(f"seal:1:0:{one}", VoteVerified(verifier=one, valid=valid))


def all_sealed(bench: Bench) -> None:
    served(bench)
    for who in VERIFIERS:
        bench.seen(Sealed, segment=SegmentId(1), verifier=who, digest=digest(f"seal {who}"), together=True)
    bench.seen(RevealsDue, segment=SegmentId(1), reveal_by=bench.now + PARAMS.reveal_window, opening_block=bench.block + 2)


def voted(bench: Bench, *who: Address) -> None:
    for one in who:
        assert bench.asked(one, vote_of(bench, one)) == Ack()
        task = bench.task(f"vote:1:0:{one}")
        assert isinstance(task, VerifyVote)
        assert task.digest == digest(f"seal {one}")
        bench.done(f"vote:1:0:{one}", VoteVerified(verifier=one, valid=True))


def test_all_seals_go_in_one_call_in_the_order_of_the_draw(bench: Bench) -> None:
    served(bench)
    handed(bench, *reversed(VERIFIERS))
    bench.woke("post:1:0")
    expected = tuple(Seal(verifier=who, digest=digest(f"seal {who}"), signature=b"s" * 65) for who in VERIFIERS)
    assert bench.call("posted:1") == Attest(segment=SegmentId(1), seals=expected)


def test_what_has_come_is_sent_when_a_share_of_the_time_is_over(bench: Bench) -> None:
    served(bench)
    begun = bench.now
    handed(bench, VERIFIERS[0])
    assert bench.idle("post:")
    bench.woke("gather:seal:1")
    bench.woke("post:1:0")
    assert bench.now - begun < PARAMS.seal_window // 4, "before its verifier sends it itself"
    call = bench.call("posted:1")
    assert isinstance(call, Attest)
    assert [seal.verifier for seal in call.seals] == [VERIFIERS[0]]
    bench.failed("posted:1", Fault.REFUSED, "somebody was first")
    handed(bench, *VERIFIERS[1:])
    bench.woke("post:1:0")
    later = bench.call("posted:2")
    assert isinstance(later, Attest)
    assert [seal.verifier for seal in later.seals] == list(VERIFIERS[1:])


def test_a_seal_that_its_verifier_has_not_signed_is_left_out_and_may_be_mended(bench: Bench) -> None:
    served(bench)
    handed(bench, VERIFIERS[0], valid=False)
    assert bench.state.mine[1].seals == {}
    handed(bench, *VERIFIERS)
    assert len(bench.state.mine[1].seals) == len(VERIFIERS)


@pytest.mark.parametrize(
    "changes", [{"verifier": OTHER}, {"digest": b"short"}, {"signature": b"s" * 257}, {"round": 1}, {"segment": SegmentId(9)}]
)
def test_malformed_seals_are_refused(bench: Bench, changes: dict[str, Any]) -> None:
    served(bench)
    assert isinstance(bench.asked(VERIFIERS[0], seal_of(VERIFIERS[0], **changes)), Refusal)
    assert bench.idle("seal:")


def test_a_seal_of_a_stranger_or_before_its_time_is_refused(bench: Bench) -> None:
    drawn(bench)
    early = bench.asked(VERIFIERS[0], seal_of(VERIFIERS[0]))
    assert isinstance(early, Refusal)
    assert early.retry_after > 0
    bench.served()
    assert isinstance(bench.asked(OTHER, seal_of(OTHER)), Refusal)


def test_all_votes_go_in_one_call(bench: Bench) -> None:
    all_sealed(bench)
    voted(bench, *reversed(VERIFIERS))
    bench.woke("post:1:0")
    assert bench.call("posted:1") == RevealAll(segment=SegmentId(1), reveals=tuple(vote_of(bench, who).vote for who in VERIFIERS))


def test_some_votes_go_behind_the_spread_seals(bench: Bench) -> None:
    all_sealed(bench)
    voted(bench, VERIFIERS[1])
    bench.woke("gather:vote:1")
    bench.woke("post:1:0")
    call = bench.call("posted:1")
    row = draw.seals([(who, digest(f"seal {who}")) for who in VERIFIERS])
    assert call == Batch(
        calls=(
            Spread(segment=SegmentId(1), round=0, seals=row),
            RevealAll(segment=SegmentId(1), reveals=(vote_of(bench, VERIFIERS[1]).vote,)),
        )
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"verifier": OTHER}, {"trace_roots": (b"short",)}, {"trace_roots": (bytes(32),) * 65}, {"salt": b""},
        {"openings": (Opening(leaf=digest("leaf"), proof=(digest("sibling"),) * 65),)},
        {"openings": (Opening(leaf=b"", proof=()),)}, {"openings": (Opening(leaf=digest("leaf"), proof=()),) * 9},
    ],
)  # fmt: skip
def test_malformed_votes_are_refused(bench: Bench, changes: dict[str, Any]) -> None:
    all_sealed(bench)
    assert isinstance(bench.asked(VERIFIERS[0], vote_of(bench, VERIFIERS[0], **changes)), Refusal)
    assert bench.idle("vote:")


def test_a_vote_before_all_have_sealed_is_refused(bench: Bench) -> None:
    served(bench)
    answer = bench.asked(VERIFIERS[0], vote_of(bench, VERIFIERS[0]))
    assert isinstance(answer, Refusal)
    assert answer.retry_after > 0


def test_what_may_be_settled_goes_with_it(bench: Bench) -> None:
    """A segment that is attested and ripe when another's seals are sent."""
    served(bench)
    handed(bench, *VERIFIERS)
    seg = bench.state.facts.segments[1]
    bench.seen(Attested, segment=SegmentId(1), settle_after=bench.now - 1)
    bench.woke("post:1:0")
    call = bench.call("posted:1")
    assert isinstance(call, Batch)
    assert call.calls[-1] == Settle(segment=seg.segment)


def test_what_has_no_company_waits_for_nothing(bench: Bench) -> None:
    served(bench)
    bench.assigned(2, provider=OTHER, parent=1, start=10, stop=20)
    begun = bench.now
    handed(bench, *VERIFIERS)
    assert [waiting.at for waiting in bench.state.outbox] == [begun]


def test_what_all_verifiers_have_handed_over_waits_less_than_they_do(bench: Bench) -> None:
    served(bench)
    bench.assigned(2, parent=1, start=10, stop=20)
    begun = bench.now
    handed(bench, *VERIFIERS)
    (waiting,) = bench.state.outbox
    assert waiting.at == beat(begun, min(PARAMS.seal_window // PATIENCE, PARAMS.challenge_window // SETTLING))
    assert begun <= waiting.at < begun + PARAMS.seal_window // handing.SHARE
