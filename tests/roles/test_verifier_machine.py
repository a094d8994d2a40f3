"""The verifier's machine: events in, effects out. No network, no clock.

One file because all of it drives one machine with one bench.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from assay import draw, links, merkle, reads
from assay.chain import (
    NOTHING,
    Attest,
    Batch,
    ChunkAsked,
    ChunkShown,
    Credited,
    KeyReleased,
    Opened,
    Opening,
    OpeningsDue,
    Redrawn,
    RevealAll,
    Revealed,
    RevealsDue,
    Sealed,
    SegmentState,
    Settled,
    Spread,
    Withdraw,
    Withheld,
)
from assay.ids import Address, Digest, JobId, SegmentId
from assay.job import JobSpec, SealedRef, ShardRef
from assay.messages import Ack, Boundary, BoundaryRequest, KeyGrant, ReceiptMessage, Refusal, SealMessage, VoteMessage
from assay.runtime import Fault, Ordered
from assay.sampling import record_indices
from assay.tasks import (
    BoundaryOpened,
    CheckRecords,
    DropSegment,
    KeyStored,
    MakeOpenings,
    OpenBoundary,
    OpeningsMade,
    RecordsChecked,
    ReplayUnit,
    SayUnserved,
    Signed,
    SignReceipt,
    SignSeal,
    StoreKey,
    UnitReplayed,
)
from assay_verifier.machine import VerifierMachine
from assay_verifier.state import VerifierConfig
from bench import ENDS, KEYS, LEAVES, LINK_ROOT, ME, OTHER, PARAMS, PEERS, SHARDS, SPEC, TERMS, VERIFIERS, Bench, cid, digest
from bench import sealed as sealed_blob

UNITS = (7, 9, 7)
"""Link 7 (micro-batch 1 of step 2) twice, and link 9 (the first micro-batch of step 3)."""
DRAWN = (ME, *VERIFIERS[:2])
CONFIG = VerifierConfig(account=ME, encryption_key=b"k" * 32, peer=PEERS[ME], chain_id=7, contract="0x" + "9" * 40)
SEED = b"\x11" * 32
OPENING = Opening(leaf=digest("leaf"), proof=())


@pytest.fixture
def bench() -> Any:
    """A verifier; after each test it is started again from its journal and must be where it was."""
    made = Bench.of(VerifierMachine(CONFIG))
    yield made
    made.check_restart()


def boundary(of: int, **changes: Any) -> Boundary:
    places = links.named_ends(of, 2)
    fields = {
        "segment": SegmentId(1), "unit": of, "cid": cid(f"boundary {of}"), "key_id": digest(f"key {of}"), "wrapped": b"w",
        "link_ends": tuple(ENDS[place] for place in places), "proofs": tuple(merkle.prove(LEAVES, place) for place in places),
    }  # fmt: skip
    return Boundary(**{**fields, **changes})  # type: ignore[arg-type]


def drawn(bench: Bench, units: tuple[int, ...] = UNITS) -> None:
    bench.posted()
    bench.assigned(provider=OTHER)
    bench.committed()
    bench.drawn(units=units, verifiers=DRAWN)


def get_boundary(bench: Bench, unit: int) -> None:
    bench.answered(f"boundary:1:0:{unit}", boundary(unit))
    bench.fetched(f"bfetch:1:0:{unit}")
    bench.done(f"bkey:1:0:{unit}", KeyStored(key_id=digest(f"key {unit}")))
    bench.done(f"bopen:1:0:{unit}", BoundaryOpened(segment=SegmentId(1), unit=unit))


def read(bench: Bench, spec: JobSpec = SPEC) -> dict[int, tuple[int, ...]]:
    """What the drawn links of the segment read, by shard."""
    seg = bench.state.facts.segments[1]
    return reads.records(reads.reading(spec), reads.places(seg.units, seg.start, spec.micro_batches))


def supply(bench: Bench) -> None:
    bench.supply([shard.sealed for at, shard in enumerate(SHARDS) if at in read(bench)])


def ready(bench: Bench) -> None:
    drawn(bench)
    bench.load_job()
    supply(bench)
    for unit in sorted(set(UNITS)):
        get_boundary(bench, unit)


def found(unit: int, agrees: bool = True) -> UnitReplayed:
    reason = "" if agrees else "it ends elsewhere"
    return UnitReplayed(segment=SegmentId(1), unit=unit, agrees=agrees, trace_root=digest(f"trace {unit}"), reason=reason, milliseconds=50)


def replayed(bench: Bench, agrees: bool = True) -> None:
    ready(bench)
    bench.done("replay:1:0:7", found(7))
    bench.done("replay:1:0:9", found(9, agrees))


def hand_over(bench: Bench) -> SealMessage:
    """The seal is signed; the message that brings it to the provider, which has not been answered."""
    assert isinstance(bench.task("sealing:1"), SignSeal)
    bench.done("sealing:1", Signed(signature=b"sealed"))
    asked = bench.wants("hand:seal:1")
    assert asked.peer == PEERS[OTHER]
    assert isinstance(asked.message, SealMessage)
    return asked.message


def away(bench: Bench, what: str = "seal") -> None:
    """The provider does not take it."""
    bench.failed(f"hand:{what}:1", Fault.OUTAGE, "no answer")


def sealed(bench: Bench, agrees: bool = True) -> None:
    replayed(bench, agrees)
    bench.served()
    hand_over(bench)
    away(bench)
    bench.sent("seal:1")
    bench.seen(Sealed, segment=SegmentId(1), verifier=ME)


def revealed(bench: Bench) -> None:
    """Without openings: not all have sealed."""
    sealed(bench)
    bench.woke("unsealed:1")
    bench.sent("reveal:1")


# ---- gathering -----------------------------------------------------------------------------------------------------------


def test_drawn_it_asks_the_provider_for_each_drawn_link_once(bench: Bench) -> None:
    drawn(bench)
    for unit in (7, 9):
        ask = bench.wants(f"boundary:1:0:{unit}")
        assert (ask.peer, ask.message) == (PEERS[OTHER], BoundaryRequest(segment=SegmentId(1), round=0, unit=unit))


def test_a_draw_of_others_is_none_of_its_business(bench: Bench) -> None:
    bench.posted()
    bench.assigned(provider=OTHER)
    bench.committed()
    bench.drawn(verifiers=VERIFIERS)
    assert bench.state.duties == {}
    assert bench.idle("")


def test_with_everything_there_it_signs_a_receipt_and_replays(bench: Bench) -> None:
    ready(bench)
    assert bench.task("sign:1") == SignReceipt(segment=SegmentId(1), round=0)
    task = bench.task("replay:1:0:7")
    assert isinstance(task, ReplayUnit)
    assert (task.parent_root, task.link_root, task.leaves) == (SPEC.state_root, LINK_ROOT, TERMS.micro_leaves)
    bench.done("sign:1", Signed(signature=b"s"))
    ask = bench.wants("receipt:1")
    assert (ask.peer, ask.message) == (PEERS[OTHER], ReceiptMessage(segment=SegmentId(1), round=0, verifier=ME, signature=b"s"))
    bench.answered("receipt:1", Ack())
    assert bench.topics()[-1] == "receipt"


@pytest.mark.parametrize("missing", ["boundary", "shard", "job"])
def test_without_everything_there_is_no_receipt(bench: Bench, missing: str) -> None:
    drawn(bench)
    if missing != "job":
        bench.load_job()
        if missing != "shard":
            supply(bench)
    get_boundary(bench, 7)
    if missing != "boundary":
        get_boundary(bench, 9)
    assert bench.idle("sign:")
    assert bench.idle("replay:")


def test_only_the_shards_that_the_drawn_links_read_are_needed() -> None:
    shards = tuple(ShardRef(sealed=shard.sealed, records=n, root=shard.root) for shard, n in zip(SHARDS, (3, 13), strict=True))
    spec = msgspec.structs.replace(SPEC, dataset=msgspec.structs.replace(SPEC.dataset, shards=shards))
    machine = Bench.of(VerifierMachine(CONFIG))
    for unit in range(30):
        drawn(fresh := Bench.of(VerifierMachine(CONFIG)), units=(unit,))
        step, m = links.place(unit, 2)
        drawn_records = [] if m == 2 else record_indices(spec.order, 16, step, m, 2, 4)
        assert sorted(i + 3 * shard for shard, some in read(fresh, spec).items() for i in some) == sorted(set(drawn_records))
        fresh.load_job()
        assert {key for key in fresh.core.outstanding if key.startswith("fetch:")} == {f"fetch:1:{SHARDS[i].sealed.cid}" for i in read(fresh)}
    machine.check_restart()


def by_records(bench: Bench) -> list[SealedRef]:
    """All but the records' keys is here. The shards that the drawn links read from."""
    drawn(bench)
    bench.load_job()
    refs = [SHARDS[at].sealed for at in read(bench)]
    for ref in refs:
        bench.fetched(f"fetch:1:{ref.cid}")
    for unit in sorted(set(UNITS)):
        get_boundary(bench, unit)
    return refs


def bundle(bench: Bench, ref: SealedRef, wrapped: bytes = b"w" * 89, by: Address = KEYS) -> None:
    """Keys of some of its records are released, and can be read."""
    bench.seen(KeyReleased, segment=SegmentId(1), recipient=ME, key_id=ref.key_id, wrapped=wrapped, by=by)
    if not bench.idle(f"key:1:{ref.key_id.hex()}"):
        bench.done(f"key:1:{ref.key_id.hex()}", KeyStored(key_id=ref.key_id, whole=False))


def looked(bench: Bench, missing: tuple[Digest, ...] = (), false: tuple[tuple[Digest, str], ...] = ()) -> None:
    task = bench.task(f"records:1:0:{bench.state.needs[1].checks}")
    assert task == CheckRecords(segment=SegmentId(1), spec=cid("spec"), places=((2, 1), (3, 0)))
    bench.done(f"records:1:0:{bench.state.needs[1].checks}", RecordsChecked(missing=missing, false=false))


def test_with_the_keys_of_its_records_alone_it_replays_once_they_have_opened(bench: Bench) -> None:
    one, two = by_records(bench)
    looked(bench, missing=(one.key_id, two.key_id))  # which an earlier draw might have left here
    bundle(bench, one)
    assert bench.idle("sign:")
    looked(bench, missing=(two.key_id,))
    bundle(bench, two, b"first" * 20)
    looked(bench, missing=(two.key_id,))  # those of some more come in another bundle
    bundle(bench, two, b"second" * 20)
    assert bench.idle("replay:")
    looked(bench)
    assert isinstance(bench.task("sign:1"), SignReceipt)
    assert isinstance(bench.task("replay:1:0:7"), ReplayUnit)
    assert not bench.state.keys & {one.key_id, two.key_id}  # the next draw reads other records


def test_what_was_looked_for_in_an_earlier_draw_says_nothing_of_this_one(bench: Bench) -> None:
    """A later round reads more: an answer about the earlier one's records is not taken for one about all."""
    one, two = by_records(bench)
    bundle(bench, one)
    bundle(bench, two)
    bench.seen(Redrawn, segment=SegmentId(1), round=1, reason="not served", seed_block=bench.block + 2)
    bench.drawn(units=(*UNITS, 0), verifiers=DRAWN, round=1)
    late = max(key for key in bench.core.outstanding if key.startswith("records:1:0:"))
    bench.done(late, RecordsChecked(missing=(), false=()))
    assert set(bench.state.needs[1].records) == set(bench.state.needs[1].keys) != set()
    for ref in (shard.sealed for shard in SHARDS):
        if not bench.idle(f"fetch:1:{ref.cid}"):
            bench.fetched(f"fetch:1:{ref.cid}")
    assert bench.task("records:1:1:1").places == ((0, 0), (2, 1), (3, 0))


def test_records_that_do_not_open_are_told_and_asked_for_again_and_there_is_no_receipt(bench: Bench) -> None:
    one, two = by_records(bench)
    bundle(bench, one)
    bundle(bench, two)
    looked(bench, false=((two.key_id, "record 3 does not open"),))
    told = next(note for note in bench.said if note.topic == "false-keys")
    assert (told.data["party"], told.data["key"]) == (KEYS, two.key_id.hex())
    assert bench.idle("sign:")
    bench.woke("nag:1")
    bench.answered(f"ask:1:{two.key_id.hex()}", KeyGrant(key_id=two.key_id, wrapped=(b"right" * 20, b"more" * 25)))
    for _ in range(2):
        key = next(key for key in bench.core.outstanding if key.startswith(f"key:1:{two.key_id.hex()}"))
        bench.done(key, KeyStored(key_id=two.key_id, whole=False))
    looked(bench)
    assert isinstance(bench.task("sign:1"), SignReceipt)


def test_a_strangers_bundle_is_not_even_opened(bench: Bench) -> None:
    """Nothing but the records tells whether it is right, so it might stand in the way of the true one."""
    one, _ = by_records(bench)
    bundle(bench, one, by=OTHER)
    assert bench.idle("key:1:")
    bench.seen(KeyReleased, segment=SegmentId(1), recipient=ME, key_id=one.key_id, wrapped=b"w" * 80, by=OTHER)
    assert isinstance(bench.task("key:1:"), StoreKey)  # a whole key says itself whether it is the right one


def test_frozen_tensors_are_needed_whichever_link_is_drawn(bench: Bench) -> None:
    frozen = sealed_blob("frozen")
    drawn(bench, units=(5,))
    bench.load_job(frozen=frozen)
    get_boundary(bench, 5)
    assert bench.idle("replay:")
    bench.supply([frozen])
    assert isinstance(bench.task("replay:1:0:5"), ReplayUnit)


def test_an_update_needs_no_data_at_all(bench: Bench) -> None:
    drawn(bench, units=(5,))
    bench.load_job()
    assert bench.idle("fetch:")
    get_boundary(bench, 5)
    assert bench.idle("replay:")  # the key service has not said that all is well with the checkpoint's key
    bench.seen(KeyReleased, segment=SegmentId(1), recipient=ME, key_id=NOTHING, wrapped=b"", by=KEYS)
    assert bench.idle("key:")
    assert isinstance(bench.task("replay:1:0:5"), ReplayUnit)
    assert bench.task("replay:1:0:5").leaves == TERMS.update_leaves


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"unit": 8}, "another link"),
        ({"segment": SegmentId(2)}, "another link"),
        ({"link_ends": (ENDS[5],), "proofs": (merkle.prove(LEAVES, 5),)}, "should open 3 link ends"),
        ({"link_ends": (ENDS[5], ENDS[6], ENDS[8])}, "not the committed one"),
        ({"link_ends": (ENDS[5], ENDS[6], digest("a lie"))}, "not the committed one"),
        ({"proofs": ((), (), ())}, "not the committed one"),
        ({"proofs": tuple((Digest(b"x"),) * 5 for _ in range(3))}, "not the committed one"),
    ],
)
def test_a_boundary_whose_ends_are_not_committed_is_as_good_as_none(bench: Bench, changes: dict[str, Any], why: str) -> None:
    drawn(bench)
    bench.answered("boundary:1:0:7", boundary(7, **changes))
    assert bench.said[-1].topic == "unserved"
    assert why in bench.said[-1].text
    assert bench.idle("bfetch:")
    bench.woke("reask:1:0:7")
    assert not bench.idle("boundary:1:0:7:2")


@pytest.mark.parametrize("stage", ["ask", "fetch", "key", "open", "answer"])
def test_whatever_is_wrong_with_what_is_served_it_is_asked_for_again_and_no_receipt_is_given(bench: Bench, stage: str) -> None:
    drawn(bench)
    if stage == "ask":
        bench.failed("boundary:1:0:7", Fault.REFUSED, "no")
    elif stage == "answer":
        bench.answered("boundary:1:0:7", Ack())
    else:
        bench.answered("boundary:1:0:7", boundary(7))
        assert isinstance(bench.task("bkey:1:0:7"), StoreKey)
        if stage == "fetch":
            bench.failed("bfetch:1:0:7", Fault.OUTAGE)
        elif stage == "key":
            bench.failed("bkey:1:0:7", Fault.PEER, "another key")
        else:
            bench.fetched("bfetch:1:0:7")
            bench.done("bkey:1:0:7", KeyStored(key_id=digest("key 7")))
            assert isinstance(bench.task("bopen:1:0:7"), OpenBoundary)
            bench.failed("bopen:1:0:7", Fault.PEER, "garbage")
    assert bench.said[-1].topic == "unserved"
    bench.woke("reask:1:0:7")
    bench.answered("boundary:1:0:7", boundary(7))
    bench.fetched("bfetch:1:0:7:2")
    assert bench.idle("sign:")


def test_results_for_an_earlier_question_are_not_taken_for_the_later_one(bench: Bench) -> None:
    drawn(bench)
    bench.answered("boundary:1:0:7", boundary(7))
    bench.failed("bkey:1:0:7", Fault.PEER, "another key")
    bench.woke("reask:1:0:7")
    bench.fetched("bfetch:1:0:7:1")
    assert not bench.state.duties[1].units[7].fetched


def test_a_provider_that_serves_nothing_in_time_is_given_up(bench: Bench) -> None:
    drawn(bench)
    bench.now += PARAMS.serve_window
    bench.failed("boundary:1:0:7", Fault.OUTAGE)
    bench.woke("reask:1:0:7")
    assert bench.state.duties[1].phase == "failed"
    assert "was not served" in bench.said[-1].text


def last_round(bench: Bench) -> None:
    """Drawn in the last round there is, with everything there but what the provider must serve."""
    bench.posted()
    bench.assigned(provider=OTHER)
    bench.committed()
    bench.seen(Redrawn, segment=SegmentId(1), round=1, reason="not served", seed_block=bench.block + 2)
    bench.drawn(units=UNITS, verifiers=DRAWN, round=1)
    bench.load_job()
    supply(bench)


def chunk_shown(bench: Bench) -> None:
    bench.now = bench.state.facts.segments[1].serve_by + 1
    bench.seen(ChunkAsked, segment=SegmentId(1), round=1, at_block=bench.block + 2, show_by=bench.now + PARAMS.serve_window)
    bench.seen(ChunkShown, segment=SegmentId(1), place=1, entry=0, chunk=0)
    bench.served(round=1)


def test_who_was_not_served_goes_on_asking_in_the_last_round_and_says_no_when_a_chunk_stood_for_it(bench: Bench) -> None:
    last_round(bench)
    bench.now = bench.state.facts.segments[1].serve_by + 1
    for unit in sorted(set(UNITS)):
        bench.failed(f"boundary:1:1:{unit}:1", Fault.OUTAGE)
    for unit in sorted(set(UNITS)):
        bench.woke(f"reask:1:1:{unit}")
        assert not bench.idle(f"boundary:1:1:{unit}:2")
    chunk_shown(bench)
    bench.woke("unserved:1:1")
    assert bench.now == bench.state.facts.segments[1].seal_by - PARAMS.seal_window // 4
    for unit in sorted(set(UNITS)):
        task = bench.task(f"replay:1:1:{unit}")
        assert task == SayUnserved(segment=SegmentId(1), unit=unit, leaves=TERMS.micro_leaves)
    bench.failed("boundary:1:1:7:2", Fault.OUTAGE)
    bench.woke("reask:1:1:7")
    assert bench.idle("boundary:1:1:7")  # it has given up waiting
    for unit in sorted(set(UNITS)):
        bench.done(f"replay:1:1:{unit}", msgspec.structs.replace(found(unit, agrees=False), reason="it was not served"))
    duty = bench.state.duties[1]
    assert duty.phase == "sealed"
    assert not duty.reveal.agrees
    assert not bench.state.cases  # it has nothing to dispute with


def test_who_was_served_says_what_it_found_though_others_deny(bench: Bench) -> None:
    last_round(bench)
    for unit in sorted(set(UNITS)):
        bench.answered(f"boundary:1:1:{unit}", boundary(unit))
        bench.fetched(f"bfetch:1:1:{unit}")
        bench.done(f"bkey:1:1:{unit}", KeyStored(key_id=digest(f"key {unit}")))
        bench.done(f"bopen:1:1:{unit}", BoundaryOpened(segment=SegmentId(1), unit=unit))
    for unit in sorted(set(UNITS)):
        bench.done(f"replay:1:1:{unit}", found(unit))
    chunk_shown(bench)
    assert bench.state.duties[1].reveal.agrees
    bench.woke("unserved:1:1")
    assert not bench.state.duties[1].unserved


def test_who_lacks_what_is_not_the_providers_to_give_says_nothing(bench: Bench) -> None:
    """Its shards have not come: nobody else is to blame for that than who keeps them."""
    bench.posted()
    bench.assigned(provider=OTHER)
    bench.committed()
    bench.seen(Redrawn, segment=SegmentId(1), round=1, reason="not served", seed_block=bench.block + 2)
    bench.drawn(units=UNITS, verifiers=DRAWN, round=1)
    bench.load_job()
    chunk_shown(bench)
    bench.woke("unserved:1:1")
    assert bench.idle("replay:")


def test_a_replay_that_would_take_too_long_is_not_begun(bench: Bench) -> None:
    replayed(bench)
    assert bench.state.speed == 1000 * 1000 // 50
    bench.state.speed = 1
    bench.core.snapshot(bench.core.journal.load()[2][-1].sequence)
    bench.assigned(segment=2, provider=OTHER, parent=1, start=10, stop=20)
    bench.committed(segment=2, stop=20)
    bench.drawn(segment=2, units=(0,), verifiers=DRAWN)
    assert bench.state.duties[2].phase == "failed"
    assert "takes about 1000 s here" in bench.said[-1].text


def test_a_job_that_it_refuses_is_not_checked(bench: Bench) -> None:
    drawn(bench)
    bench.load_job(steps=21)
    assert bench.state.duties[1].phase == "failed"
    assert bench.topics()[-1] == "failed"


# ---- seal ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["replay", "served"])
def test_it_seals_when_it_has_replayed_and_the_draw_is_served(bench: Bench, first: str) -> None:
    ready(bench)
    if first == "served":
        bench.served()
    bench.done("replay:1:0:7", found(7))
    bench.done("replay:1:0:9", found(9))
    if first == "replay":
        assert bench.idle("sealing:")
        bench.served()
    handed = hand_over(bench)
    assert bench.idle("seal:")
    away(bench)
    call = bench.call("seal:1")
    assert isinstance(call, Attest)
    (seal,) = call.seals
    roots = tuple(digest(f"trace {unit}") for unit in UNITS)
    salt = merkle.sha256(b"salt", SEED, draw.u64(1), draw.u32(0))
    assert seal.digest == draw.attestation(7, Address(CONFIG.contract), SegmentId(1), 0, True, roots, ME, salt)
    assert (seal.verifier, seal.signature) == (ME, b"")
    assert handed == SealMessage(segment=SegmentId(1), round=0, verifier=ME, digest=seal.digest, signature=b"sealed")


def test_one_wrong_link_is_enough_not_to_agree(bench: Bench) -> None:
    sealed(bench, agrees=False)
    assert bench.state.disagreed == 1
    disagreement = next(note for note in bench.said if note.topic == "disagree")
    assert disagreement.data["reason"] == "it ends elsewhere"
    bench.seen(RevealsDue, segment=SegmentId(1), reveal_by=bench.now + 50, opening_block=40)
    bench.done("openings:1", OpeningsMade(openings=(OPENING,)))
    away(bench, "vote")
    call = bench.call("reveal:1")
    assert isinstance(call, RevealAll)
    assert not call.reveals[0].agrees


def test_a_replay_that_fails_here_is_tried_again_and_then_given_up(bench: Bench) -> None:
    ready(bench)
    for _ in range(2):
        bench.failed("replay:1:0:7", Fault.OWN, "the engine crashed")
    assert bench.state.duties[1].phase == "ready"
    bench.failed("replay:1:0:7", Fault.OWN, "the engine crashed")
    assert bench.state.duties[1].phase == "failed"


def test_a_replay_that_took_too_long_is_not_sealed(bench: Bench) -> None:
    ready(bench)
    bench.served()
    bench.done("replay:1:0:7", found(7))
    bench.now += PARAMS.seal_window + 1
    bench.done("replay:1:0:9", found(9))
    assert bench.idle("seal:")
    assert "longer than the time to seal" in bench.said[-1].text


def test_a_refused_seal_is_given_up_and_an_outage_is_not(bench: Bench) -> None:
    replayed(bench)
    bench.served()
    hand_over(bench)
    away(bench)
    bench.failed("seal:1", Fault.OUTAGE)
    bench.woke("again:seal:1")
    bench.failed("seal:1", Fault.REFUSED, "too late to seal")
    bench.seen(RevealsDue, segment=SegmentId(1), reveal_by=bench.now + 60, opening_block=bench.block + 2)
    assert bench.state.duties[1].phase == "failed"


def test_a_seal_that_is_refused_because_the_provider_brought_it_goes_on(bench: Bench) -> None:
    replayed(bench)
    bench.served()
    hand_over(bench)
    away(bench)
    bench.failed("seal:1", Fault.REFUSED, "wrong phase")
    bench.seen(Sealed, segment=SegmentId(1), verifier=ME, digest=digest("seal"), together=True)
    bench.seen(RevealsDue, segment=SegmentId(1), reveal_by=bench.now + 60, opening_block=bench.block + 2)
    assert bench.state.duties[1].phase == "sealed"


def brought(bench: Bench) -> None:
    """The provider takes the seal and brings it with those of the others, in the order of the draw."""
    replayed(bench)
    bench.served()
    message = hand_over(bench)
    bench.answered("hand:seal:1", Ack())
    seg = bench.state.facts.segments[1]
    for who in seg.verifiers:
        bench.seen(Sealed, segment=SegmentId(1), verifier=who, digest=message.digest if who == ME else digest(who), together=True)
    bench.seen(RevealsDue, segment=SegmentId(1), reveal_by=bench.now + 50, opening_block=40)
    bench.done("openings:1", OpeningsMade(openings=(OPENING,)))


def test_what_the_provider_brings_it_does_not_send(bench: Bench) -> None:
    brought(bench)
    vote = bench.wants("hand:vote:1").message
    assert isinstance(vote, VoteMessage)
    assert vote.vote.openings == (OPENING,)
    bench.answered("hand:vote:1", Ack())
    bench.seen(Revealed, segment=SegmentId(1), verifier=ME, agrees=True, trace_roots=vote.vote.trace_roots)
    bench.seen(Opened, segment=SegmentId(1), verifier=ME)
    bench.woke("alone:vote:1")
    assert bench.idle("seal:")
    assert bench.idle("reveal:")
    assert (bench.state.done, bench.topics()[-1]) == (1, "opened")


def test_a_seal_that_nobody_brought_by_a_quarter_of_the_time_it_sends_itself(bench: Bench) -> None:
    replayed(bench)
    bench.served()
    hand_over(bench)
    bench.answered("hand:seal:1", Ack())
    assert bench.idle("seal:")
    begun = bench.now
    bench.woke("alone:seal:1")
    assert bench.now - begun <= PARAMS.seal_window // 4
    assert isinstance(bench.call("seal:1"), Attest)


def test_a_vote_that_nobody_brought_it_shows_alone_after_spreading_the_seals(bench: Bench) -> None:
    brought(bench)
    bench.answered("hand:vote:1", Ack())
    bench.woke("alone:vote:1")
    call = bench.call("reveal:1")
    assert isinstance(call, Batch)
    spread, shown = call.calls
    seg = bench.state.facts.segments[1]
    assert spread == Spread(segment=SegmentId(1), round=0, seals=draw.seals([(who, seg.digests[who]) for who in seg.verifiers]))
    assert isinstance(shown, RevealAll)
    assert shown.reveals[0].openings == (OPENING,)


# ---- reveal and open -----------------------------------------------------------------------------------------------------


def test_it_reveals_with_the_openings_when_all_have_sealed(bench: Bench) -> None:
    sealed(bench)
    assert bench.idle("reveal:")
    bench.seen(RevealsDue, segment=SegmentId(1), reveal_by=bench.now + 50, opening_block=40)
    assert bench.task("openings:1") == MakeOpenings(segment=SegmentId(1), round=0, opening_block=40, units=UNITS, terms=TERMS)
    bench.failed("openings:1", Fault.OUTAGE, "the block is not there yet")
    assert bench.idle("reveal:")
    bench.woke("again:openings:1")
    bench.done("openings:1", OpeningsMade(openings=(OPENING,)))
    away(bench, "vote")
    call = bench.call("reveal:1")
    assert isinstance(call, RevealAll)
    assert call.reveals[0].openings == (OPENING,)
    bench.sent("reveal:1")
    assert (bench.state.done, bench.topics()[-1]) == (1, "opened")
    assert (call.reveals[0].agrees, call.reveals[0].trace_roots) == (True, tuple(digest(f"trace {unit}") for unit in UNITS))


def test_when_half_of_the_time_is_over_it_reveals_without_openings_and_opens_later(bench: Bench) -> None:
    sealed(bench)
    begun = bench.now
    bench.seen(RevealsDue, segment=SegmentId(1), reveal_by=begun + 50, opening_block=40)
    bench.woke("unsealed:1")
    call = bench.call("reveal:1")
    assert isinstance(call, RevealAll)
    assert call.reveals[0].openings == ()
    bench.sent("reveal:1")
    assert bench.state.done == 0
    bench.done("openings:1", OpeningsMade(openings=(OPENING,)))
    assert bench.call("open:1") == RevealAll(segment=SegmentId(1), reveals=(msgspec.structs.replace(call.reveals[0], openings=(OPENING,)),))
    bench.sent("open:1")
    assert bench.state.done == 1


def test_openings_that_cannot_be_made_do_not_keep_it_from_revealing(bench: Bench) -> None:
    sealed(bench)
    bench.seen(RevealsDue, segment=SegmentId(1), reveal_by=bench.now + 50, opening_block=40)
    bench.failed("openings:1", Fault.PEER, "there is no such leaf")
    call = bench.call("reveal:1")
    assert isinstance(call, RevealAll)
    assert call.reveals[0].openings == ()


def test_it_reveals_when_the_time_to_seal_is_over(bench: Bench) -> None:
    sealed(bench)
    bench.woke("unsealed:1")
    assert bench.now == bench.state.facts.segments[1].seal_by + 1
    assert isinstance(bench.call("reveal:1"), RevealAll)


def test_a_reveal_that_came_too_early_is_made_again_under_another_name(bench: Bench) -> None:
    sealed(bench)
    bench.woke("unsealed:1")
    bench.failed("reveal:1:0:1", Fault.REFUSED, "too early")
    bench.woke("unsealed:1")
    assert not bench.idle("reveal:1:0:2")


def test_who_has_not_sealed_reveals_nothing(bench: Bench) -> None:
    ready(bench)
    bench.served()
    bench.woke("unsealed:1")
    assert bench.idle("reveal:")


def test_the_drawn_leaves_are_opened(bench: Bench) -> None:
    revealed(bench)
    bench.seen(OpeningsDue, segment=SegmentId(1), opening_block=50, open_by=bench.now + 50)
    assert bench.task("openings:1") == MakeOpenings(segment=SegmentId(1), round=0, opening_block=50, units=UNITS, terms=TERMS)
    bench.failed("openings:1", Fault.OWN, "the disk is full")
    bench.woke("again:openings:1")
    bench.done("openings:1", OpeningsMade(openings=(OPENING,)))
    call = bench.call("open:1")
    assert isinstance(call, RevealAll)
    assert call.reveals[0].openings == (OPENING,)
    bench.sent("open:1")
    assert bench.state.done == 1
    assert bench.topics()[-1] == "opened"


def test_who_has_not_revealed_opens_nothing(bench: Bench) -> None:
    sealed(bench)
    bench.seen(OpeningsDue, segment=SegmentId(1), opening_block=50, open_by=bench.now + 50)
    assert bench.idle("openings:")


# ---- ends ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["settled", "withheld", "redrawn"])
def test_when_it_is_over_everything_decrypted_goes(bench: Bench, how: str) -> None:
    ready(bench)
    if how == "settled":
        bench.seen(Settled, segment=SegmentId(1), provider=OTHER, price=100)
    elif how == "withheld":
        bench.seen(Withheld, segment=SegmentId(1), yes=0, no=2)
    else:
        bench.seen(Redrawn, segment=SegmentId(1), round=1, reason="not served", seed_block=bench.block + 2)
    assert bench.task("drop:1") == DropSegment(segment=SegmentId(1))
    assert bench.state.duties == {}


def test_drawn_again_in_another_round_it_checks_all_units_of_that_round(bench: Bench) -> None:
    ready(bench)
    bench.seen(Redrawn, segment=SegmentId(1), round=1, reason="undecided", seed_block=bench.block + 2)
    bench.drawn(units=(*UNITS, 0, 1, 2), round=1, verifiers=DRAWN)
    assert sorted(bench.state.duties[1].units) == [0, 1, 2, 7, 9]
    assert not bench.idle("boundary:1:1:0")
    bench.done("sign:1:0", Signed(signature=b"s"))  # of the round that is over
    assert bench.idle("receipt:")


def test_several_draws_live_side_by_side(bench: Bench) -> None:
    drawn(bench)
    bench.assigned(segment=2, provider=OTHER, parent=1, start=10, stop=20)
    bench.committed(segment=2, stop=20)
    bench.drawn(segment=2, verifiers=DRAWN)
    assert sorted(bench.state.duties) == [1, 2]
    bench.load_job()
    assert set(bench.state.needs) == {1, 2}


def test_requests_are_refused_and_credit_is_pulled_on_order(bench: Bench) -> None:
    assert isinstance(bench.asked(OTHER, BoundaryRequest(segment=SegmentId(1), round=0, unit=0)), Refusal)
    bench.seen(Credited, who=ME, segment=SegmentId(1), amount=10, reason="fee")
    bench.feed(Ordered(order="withdraw"))
    assert bench.call("withdraw:1") == Withdraw()
    bench.feed(Ordered(order="dance"))
    assert "does not know the order" in bench.said[-1].text


def test_the_past_of_a_contract_moves_nothing(bench: Bench) -> None:
    drawn(bench)
    bench.now += 10**6
    bench.served()
    bench.seen(Settled, segment=SegmentId(1), provider=OTHER, price=100)
    assert bench.state.duties == {}
    assert bench.state.facts.segments[1].state == SegmentState.SETTLED
    assert JobId(1) in bench.state.jobs
