"""The worker's machine: from the draw to the end of a segment."""

from __future__ import annotations

import pytest
from worker_world import attested, bench, boundary, committed, drawn, ready, receipt

from assay.chain import (
    Attested,
    CheckpointContested,
    ChunkAsked,
    ClaimSurety,
    ClearBond,
    CloseReveals,
    Credited,
    Decide,
    Draw,
    JobVouched,
    OpeningsDue,
    Redraw,
    Redrawn,
    Revealed,
    Serve,
    Settle,
    Settled,
    ShowCheckpointKey,
    ShowChunk,
    SuretyPaid,
    SuretyReturned,
    Unpaid,
    Withdraw,
    Withdrawn,
    Withheld,
)
from assay.hearing import ChunkProof
from assay.ids import JobId, SegmentId
from assay.messages import (
    Ack,
    BoundaryRequest,
    Heartbeat,
    KeyRequest,
    Refusal,
)
from assay.runtime import Fault, Ordered
from assay.tasks import (
    ChunkMade,
    DropSegment,
    KeyTold,
    MakeChunk,
    ReceiptVerified,
    ServeUnits,
    UnitsServed,
    VerifyReceipt,
)
from assay_worker.machine import WorkerMachine
from assay_worker.state import WorkerConfig
from bench import (
    KEYS,
    ME,
    OTHER,
    PARAMS,
    PEERS,
    VERIFIERS,
    Bench,
    digest,
)

__all__ = ["bench"]


# ---- drawn and served ----------------------------------------------------------------------------------------------------


def test_the_draw_is_called_when_its_seed_block_is_past(bench: Bench) -> None:
    committed(bench)
    wake = bench.wants("due:draw:1")
    assert wake.block == bench.state.facts.segments[1].seed_block + 1
    bench.woke("due:draw:1")
    assert bench.call("nudge:draw:1") == Draw(segment=SegmentId(1))


def test_a_call_that_somebody_else_made_first_is_not_made_again(bench: Bench) -> None:
    committed(bench)
    bench.woke("due:draw:1")
    bench.drawn()
    bench.failed("nudge:draw:1", Fault.REFUSED, "segment 1 is DRAWN")
    assert bench.idle("due:draw:1")


def test_a_call_that_did_not_help_is_made_again(bench: Bench) -> None:
    committed(bench)
    bench.woke("due:draw:1")
    bench.failed("nudge:draw:1", Fault.REFUSED, "too few verifiers")
    bench.woke("due:draw:1")
    assert bench.call("nudge:draw:1") == Draw(segment=SegmentId(1))


def test_drawn_verifiers_and_nobody_else_get_the_boundaries_of_drawn_links(bench: Bench) -> None:
    committed(bench)
    early = bench.asked(VERIFIERS[0], BoundaryRequest(segment=SegmentId(1), round=0, unit=4))
    assert isinstance(early, Refusal)
    assert early.retry_after
    bench.drawn()
    task = bench.task("units:1")
    assert isinstance(task, ServeUnits)
    assert task.units == (4, 9)
    assert [who for who, _ in task.recipients] == list(VERIFIERS)
    soon = bench.asked(VERIFIERS[0], BoundaryRequest(segment=SegmentId(1), round=0, unit=4))
    assert soon == Refusal(reason="it is being made ready", retry_after=1)
    bench.done("units:1", UnitsServed(boundaries=((VERIFIERS[0], boundary(4)),)))
    assert bench.asked(VERIFIERS[0], BoundaryRequest(segment=SegmentId(1), round=0, unit=4)) == boundary(4)
    for who, request in (
        (OTHER, BoundaryRequest(segment=SegmentId(1), round=0, unit=4)),
        (VERIFIERS[0], BoundaryRequest(segment=SegmentId(1), round=0, unit=5)),
        (VERIFIERS[0], BoundaryRequest(segment=SegmentId(1), round=1, unit=4)),
        (VERIFIERS[0], BoundaryRequest(segment=SegmentId(9), round=0, unit=4)),
    ):
        answer = bench.asked(who, request)
        assert isinstance(answer, Refusal), request
        assert not answer.retry_after


def test_a_request_for_a_boundary_leaves_no_trace(bench: Bench) -> None:
    drawn(bench)
    _, _, before = bench.core.journal.load()
    bench.asked(VERIFIERS[0], BoundaryRequest(segment=SegmentId(1), round=0, unit=4))
    assert bench.core.journal.load()[2] == before


def test_a_quorum_of_good_receipts_is_sent_after_a_short_grace(bench: Bench) -> None:
    drawn(bench)
    for who in VERIFIERS[:2]:
        assert bench.asked(who, receipt(who)) == Ack()
        task = bench.task(f"receipt:1:0:{who}")
        assert isinstance(task, VerifyReceipt)
        bench.done(f"receipt:1:0:{who}", ReceiptVerified(verifier=who, valid=True))
    assert bench.idle("serve:")
    bench.woke("grace:1")
    assert bench.call("serve:1") == Serve(
        segment=SegmentId(1), verifiers=VERIFIERS[:2], signatures=tuple(b"sig " + who.encode() for who in VERIFIERS[:2])
    )


def test_with_all_receipts_nothing_is_waited_for_and_a_bad_one_is_left_out(bench: Bench) -> None:
    drawn(bench)
    for who in VERIFIERS:
        bench.asked(who, receipt(who))
        bench.done(f"receipt:1:0:{who}", ReceiptVerified(verifier=who, valid=who != VERIFIERS[1]))
    assert "is not signed by it" in next(note.text for note in bench.said if note.topic == "receipt")
    bench.woke("grace:1")
    call = bench.call("serve:1")
    assert isinstance(call, Serve)
    assert call.verifiers == (VERIFIERS[0], VERIFIERS[2])
    bench.asked(VERIFIERS[1], receipt(VERIFIERS[1]))  # it may send a better one
    bench.done(f"receipt:1:0:{VERIFIERS[1]}", ReceiptVerified(verifier=VERIFIERS[1], valid=True))
    assert len(bench.state.mine[1].receipts) == 3


def test_a_receipt_in_anothers_name_is_refused(bench: Bench) -> None:
    drawn(bench)
    for who, message in ((VERIFIERS[0], receipt(VERIFIERS[0], by=VERIFIERS[1])), (OTHER, receipt(OTHER))):
        assert isinstance(bench.asked(who, message), Refusal)
    assert bench.idle("receipt:")


def test_refused_it_serves_again_while_there_is_time(bench: Bench) -> None:
    drawn(bench)
    for who in VERIFIERS:
        bench.asked(who, receipt(who))
        bench.done(f"receipt:1:0:{who}", ReceiptVerified(verifier=who, valid=True))
    bench.failed("serve:1:0:1", Fault.REFUSED, "no")
    bench.woke("grace:1")
    assert not bench.idle("serve:1:0:2")


def test_links_that_cannot_be_served_are_tried_again(bench: Bench) -> None:
    committed(bench)
    bench.drawn()
    bench.failed("units:1", Fault.OWN, "the engine crashed")
    bench.woke("reserve:1")
    assert isinstance(bench.task("units:1"), ServeUnits)


def test_not_served_in_time_it_is_drawn_again_and_served_to_the_new_verifiers(bench: Bench) -> None:
    drawn(bench)
    bench.woke("due:redraw:1")
    assert bench.call("nudge:redraw:1") == Redraw(segment=SegmentId(1))
    bench.seen(Redrawn, segment=SegmentId(1), round=1, reason="not served", seed_block=bench.block + 2)
    bench.woke("due:draw:1:1")
    bench.drawn(units=(4, 9, 11, 12), round=1, verifiers=(OTHER,))
    task = bench.task("units:1:1")
    assert isinstance(task, ServeUnits)
    assert [who for who, _ in task.recipients] == [OTHER]
    assert isinstance(bench.asked(VERIFIERS[0], BoundaryRequest(segment=SegmentId(1), round=0, unit=4)), Refusal)


PROOF = ChunkProof(end_path=(digest("path"),), count=1, entries=digest("entries"))


def asked(bench: Bench) -> None:
    """No quorum has signed, and the chain asks for a chunk."""
    drawn(bench)
    bench.now += PARAMS.serve_window + 1
    bench.seen(ChunkAsked, segment=SegmentId(1), round=0, at_block=bench.block + 2, show_by=bench.now + PARAMS.serve_window)


def test_what_is_asked_for_on_chain_is_shown_there(bench: Bench) -> None:
    asked(bench)
    seg = bench.state.facts.segments[1]
    task = bench.task("chunk:1:0:1")
    assert isinstance(task, MakeChunk)
    assert (task.units, task.asked_block, task.stop) == ((4, 9), seg.asked_block, 10)
    bench.failed("chunk:1:0:1", Fault.OWN, "the engine crashed")
    bench.woke("reopen:1")
    bench.done("chunk:1:0:2", ChunkMade(proof=PROOF))
    assert bench.call("open:1:0:2") == ShowChunk(segment=SegmentId(1), proof=PROOF)
    bench.failed("open:1:0:2", Fault.REFUSED, "the block is another by now")
    bench.woke("reopen:1")
    bench.served()
    bench.done("chunk:1:0:3", ChunkMade(proof=PROOF))
    assert bench.idle("open:1")


def test_what_is_asked_for_is_not_shown_after_its_time(bench: Bench) -> None:
    asked(bench)
    until = bench.state.facts.segments[1].serve_by
    bench.now = until
    bench.failed("chunk:1:0:1", Fault.OWN, "the engine crashed")
    assert bench.idle("reopen:1")
    bench.woke(f"due:redraw:1:0:0:{until + 1}")
    assert bench.call("nudge:redraw:1") == Redraw(segment=SegmentId(1))


def test_a_redraw_is_not_called_while_a_chunk_may_be_shown(bench: Bench) -> None:
    drawn(bench)
    due = bench.state.facts.segments[1].serve_by + 1
    bench.seen(ChunkAsked, segment=SegmentId(1), round=0, at_block=bench.block + 2, show_by=due + 50)
    bench.woke(f"due:redraw:1:0:0:{due}")
    assert bench.idle("nudge:redraw:1")


def test_other_requests_are_refused(bench: Bench) -> None:
    for message in (Heartbeat(segment=SegmentId(1), step=1, loss_f32=0), KeyRequest(segment=SegmentId(1), key_id=digest("k"))):
        assert isinstance(bench.asked(VERIFIERS[0], message), Refusal)


# ---- to the end ----------------------------------------------------------------------------------------------------------


def test_every_deadline_after_serving_is_kept(bench: Bench) -> None:
    drawn(bench)
    bench.served()
    bench.woke("due:close:1")
    assert bench.call("nudge:close:1") == CloseReveals(segment=SegmentId(1))
    bench.seen(Revealed, segment=SegmentId(1), verifier=VERIFIERS[0], agrees=True, trace_roots=())
    bench.seen(OpeningsDue, segment=SegmentId(1), opening_block=bench.block + 2, open_by=bench.now + 50)
    late = bench.wants("due:decide:1")
    assert late.at == bench.now + 51
    bench.woke("due:decide:1")
    assert bench.call("nudge:decide:1") == Decide(segment=SegmentId(1))


def test_attested_it_settles_after_the_challenge_window_and_only_after_its_parent(bench: Bench) -> None:
    attested(bench)
    bench.woke("due:settle:1")
    assert bench.call("nudge:settle:1") == Settle(segment=SegmentId(1))
    bench.seen(Settled, segment=SegmentId(1), provider=ME, price=100)
    assert bench.task("drop:1") == DropSegment(segment=SegmentId(1))
    assert bench.state.mine == {}


def test_a_child_is_settled_when_its_parent_is(bench: Bench) -> None:
    ready(bench)
    bench.assigned(provider=OTHER)
    bench.committed()
    bench.assigned(segment=2, parent=1, start=10, stop=20)
    bench.committed(segment=2, stop=20)
    bench.seen(Attested, segment=SegmentId(2), settle_after=bench.now)
    assert bench.idle("due:settle:2")
    bench.seen(Settled, segment=SegmentId(1), provider=OTHER, price=100)
    bench.woke("due:settle:2")
    assert bench.call("nudge:settle:2") == Settle(segment=SegmentId(2))


def test_withheld_keeps_what_a_dispute_would_need(bench: Bench) -> None:
    drawn(bench)
    bench.served()
    bench.seen(Withheld, segment=SegmentId(1), yes=0, no=3)
    assert bench.idle("drop:")
    assert bench.said[-1].topic == "withheld"


@pytest.mark.parametrize("reason", ["not served", "keys withheld"])
def test_unserved_and_unpaid_the_bond_is_cleared_when_it_may_be(bench: Bench, reason: str) -> None:
    drawn(bench)
    bench.seen(Unpaid, segment=SegmentId(1), reason=reason)
    assert bench.topics()[-1] == "unpaid"
    bench.woke("due:clear:1")
    assert bench.call("nudge:clear:1") == ClearBond(segment=SegmentId(1))


def vouched(bench: Bench) -> None:
    drawn(bench)
    bench.seen(JobVouched, job=JobId(1), keeper=KEYS, amount=1000, each=100)


@pytest.mark.parametrize("served", [False, True])
def test_keys_that_were_withheld_are_claimed_from_who_has_vouched_for_them(bench: Bench, served: bool) -> None:
    vouched(bench)
    if served:
        bench.served()
        bench.seen(Redrawn, segment=SegmentId(1), round=1, reason="undecided", seed_block=3)
        bench.seen(Withheld, segment=SegmentId(1), yes=0, no=1)  # of the first round; the second had no keys
    else:
        bench.seen(Unpaid, segment=SegmentId(1), reason="keys withheld")
    assert bench.call("claim:1") == ClaimSurety(segment=SegmentId(1))
    bench.sent("claim:1")
    bench.seen(SuretyPaid, segment=SegmentId(1), job=JobId(1), provider=ME, amount=100)
    assert bench.said[-1].topic == "surety"


@pytest.mark.parametrize("reason", ["not served", "too few verifiers"])
def test_nothing_is_claimed_for_other_failures_or_where_nobody_has_vouched(bench: Bench, reason: str) -> None:
    vouched(bench)
    bench.seen(SuretyReturned, job=JobId(2), keeper=KEYS, amount=5)
    bench.seen(Unpaid, segment=SegmentId(1), reason=reason)
    assert bench.idle("claim:")


def test_noes_of_a_served_round_claim_nothing_and_neither_does_who_is_not_vouched_for(bench: Bench) -> None:
    drawn(bench)
    bench.served()
    bench.seen(Withheld, segment=SegmentId(1), yes=0, no=3)
    assert bench.idle("claim:")


def test_a_contested_checkpoint_is_answered_with_its_key(bench: Bench) -> None:
    vouched(bench)
    bench.seen(CheckpointContested, segment=SegmentId(99), keeper=KEYS)
    assert bench.idle("tell:")
    bench.seen(CheckpointContested, segment=SegmentId(1), keeper=KEYS)
    bench.done("tell:1", KeyTold(key=digest("the key"), checkpoint=digest("it")))
    assert bench.call("tellkey:1") == ShowCheckpointKey(segment=SegmentId(1), checkpoint=digest("it"), key=digest("the key"))
    bench.seen(Unpaid, segment=SegmentId(1), reason="keys withheld")
    assert bench.call("claim:1") == ClaimSurety(segment=SegmentId(1))


def test_credit_is_pulled_when_it_is_ordered_or_when_the_threshold_is_reached(bench: Bench) -> None:
    bench.feed(Ordered(order="withdraw"))
    assert bench.said[-1].text == "there is nothing to withdraw"
    bench.seen(Credited, who=ME, segment=SegmentId(1), amount=100, reason="price")
    bench.seen(Credited, who=OTHER, segment=SegmentId(1), amount=900, reason="price")
    assert bench.idle("withdraw")
    bench.feed(Ordered(order="withdraw"))
    assert bench.call("withdraw:1") == Withdraw()
    bench.sent("withdraw:1")
    bench.seen(Withdrawn, who=ME, amount=100)
    assert bench.state.credit == 0
    eager = Bench.of(WorkerMachine(WorkerConfig(account=ME, encryption_key=b"k" * 32, peer=PEERS[ME], price_per_step=1, withdraw_at=100)))
    eager.seen(Credited, who=ME, segment=SegmentId(1), amount=99, reason="price")
    assert eager.idle("withdraw")
    eager.seen(Credited, who=ME, segment=SegmentId(1), amount=1, reason="price")
    assert eager.call("withdraw:1") == Withdraw()
