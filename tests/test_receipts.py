"""Receipts follow from chain events alone: each way a segment can end is told in words, with who was paid and who was not."""

from __future__ import annotations

from itertools import count

import msgspec
import pytest

from assay import chain, energy
from assay.chain import AnyChainEvent, Params, SegmentState, Terms
from assay.energy import Energy
from assay.facts import Facts
from assay.ids import Address, Cid, Digest, JobId, SegmentId
from assay.receipts import Ledger, receipt

CLIENT, WORKER, *VERIFIERS = (Address("0x" + f"{n:02x}" * 20) for n in range(1, 6))
ZERO = Digest(bytes(32))
JOB, FIRST, SECOND = JobId(1), SegmentId(1), SegmentId(2)


class Events:
    """Makes events at successive places of a chain."""

    def __init__(self) -> None:
        self._block = count(1)

    def __call__(self, kind: type, **fields: object) -> AnyChainEvent:
        number = next(self._block)
        event: AnyChainEvent = kind(block=number, time=1000 + number, index=0, **fields)
        return event


@pytest.fixture
def at() -> Events:
    return Events()


def terms() -> Terms:
    return Terms(
        spec=Cid("bafkreia"), spec_digest=ZERO, program_root=ZERO, state_root=ZERO, dataset_root=ZERO, schedule_root=ZERO, steps=16,
        micro_batches=2, segment_steps=8, micro_weight=3, update_weight=1, micro_leaves=9, update_leaves=5, price_cap=10, fee=1, budget=500,
        deadline=10_000, scheduler=CLIENT, key_service=CLIENT, params=Params(),
    )  # fmt: skip


def committed(at: Events) -> list[AnyChainEvent]:
    """A job whose first segment is drawn and served."""
    return [
        at(chain.JobPosted, job=JOB, client=CLIENT, terms=terms()),
        at(chain.Assigned, segment=FIRST, job=JOB, parent=SegmentId(0), provider=WORKER, start=0, stop=8, price=80, activate_by=2000),
        at(chain.Activated, segment=FIRST, lease_until=3000),
        at(
            chain.Committed, segment=FIRST, stop=8, link_root=ZERO, end_root=ZERO, checkpoint=Cid("bafkreib"), key_id=ZERO, key_envelope=b"",
            commitment=ZERO, seed_block=9,
        ),
        at(chain.Drawn, segment=FIRST, round=0, seed=ZERO, units=(3, 11), verifiers=tuple(VERIFIERS), serve_by=4000),
        at(chain.Served, segment=FIRST, round=0, seal_by=5000),
    ]  # fmt: skip


def test_honest_work_is_paid_and_the_receipt_says_by_whose_word(at: Events) -> None:
    ledger = Ledger()
    ledger.feed(committed(at))
    assert receipt(ledger.segments[FIRST]) == "steps 0-8: not decided yet (served)"
    for verifier in VERIFIERS[:2]:
        ledger.apply(at(chain.Revealed, segment=FIRST, verifier=verifier, agrees=True, trace_roots=(ZERO, ZERO)))
    ledger.apply(at(chain.NoShow, segment=FIRST, verifier=VERIFIERS[2], fee=7))
    ledger.apply(at(chain.Attested, segment=FIRST, settle_after=6000))
    ledger.apply(at(chain.Settled, segment=FIRST, provider=WORKER, price=80))
    ledger.apply(at(chain.Credited, who=WORKER, segment=FIRST, amount=80, reason="work"))
    segment = ledger.segments[FIRST]
    assert receipt(segment) == "steps 0-8: the provider is paid, since 2 of 3 drawn verifiers replayed links 3, 11 and got the committed bits"
    assert segment.no_shows == [VERIFIERS[2]]
    assert [(p.who, p.amount) for p in segment.payments] == [(WORKER, 80)]
    assert not ledger.finished(JOB)
    assert ledger.outcomes(JOB) == {"SETTLED": 1}


def test_a_liar_is_not_paid_and_what_builds_on_it_is_void(at: Events) -> None:
    ledger = Ledger()
    ledger.feed(committed(at))
    ledger.apply(at(chain.Assigned, segment=SECOND, job=JOB, parent=FIRST, provider=WORKER, start=8, stop=16, price=80, activate_by=2000))
    for verifier in VERIFIERS:
        ledger.apply(at(chain.Revealed, segment=FIRST, verifier=verifier, agrees=False, trace_roots=(ZERO, ZERO)))
    ledger.apply(at(chain.Withheld, segment=FIRST, yes=0, no=3))
    ledger.apply(at(chain.Voided, segment=SECOND))
    told = receipt(ledger.segments[FIRST])
    assert told.startswith("steps 0-8: the provider is not paid and its bond stays reserved, since 3 of 3 drawn verifiers")
    assert told.endswith("replayed links 3, 11 and did not get the committed bits")
    assert receipt(ledger.segments[SECOND]) == "steps 8-16: the provider is not paid, since the segment 1 that it builds on is withheld"
    assert ledger.last_good(JOB) is None


def test_what_a_segment_took_is_its_providers_word_beside_the_envelope(at: Events) -> None:
    ledger, facts = Ledger(), Facts()
    claim = Energy(gpu_meter="counter", gpu=9_000, cpu_meter="", cpu=0, steps=8)
    for event in committed(at)[:4]:
        if isinstance(event, chain.Committed):
            event = msgspec.structs.replace(event, key_envelope=energy.join(b"e" * 80, claim))
        ledger.apply(event)
        facts.see(event)
    assert (ledger.segments[FIRST].key_envelope, ledger.segments[FIRST].energy) == (b"e" * 80, claim)
    assert facts.segments[FIRST].key_envelope == b"e" * 80


def test_a_providers_segments_are_found_until_they_are_forgotten_also_in_facts_kept_before_there_was_an_index(at: Events) -> None:
    facts, other = Facts(), Address("0x" + "7" * 40)
    for event in [*committed(at), at(chain.Attested, segment=FIRST, settle_after=6000), at(chain.Settled, segment=FIRST, provider=WORKER, price=80)]:
        facts.see(event)
    for number, who in ((2, other), (3, WORKER)):
        facts.see(
            at(chain.Assigned, segment=SegmentId(number), job=JOB, parent=FIRST, provider=who, start=8, stop=16, price=80, activate_by=9000)
        )
    old = msgspec.to_builtins(facts)
    del old["by_provider"]
    for known in (facts, msgspec.convert(old, Facts), msgspec.json.decode(msgspec.json.encode(facts), type=Facts)):
        assert [[seg.segment for seg in known.of_provider(who)] for who in (WORKER, other)] == [[FIRST, SegmentId(3)], [SegmentId(2)]]
        known.see(at(chain.Voided, segment=SegmentId(2)))
        known.see(at(chain.Settled, segment=SegmentId(3), provider=WORKER, price=80))
        assert known.by_provider == {WORKER: [SegmentId(3)]}
        assert list(known.segments) == known.by_job[JOB] == [SegmentId(3)]


@pytest.mark.parametrize(("activated", "why"), [(False, "it was never taken up"), (True, "its lease ran out with nothing committed")])
def test_a_lapse_says_what_was_late(at: Events, activated: bool, why: str) -> None:
    ledger = Ledger()
    ledger.feed(committed(at)[: 3 if activated else 2])
    ledger.apply(at(chain.Lapsed, segment=FIRST, fee=4))
    ledger.apply(at(chain.FeeCharged, who=WORKER, segment=FIRST, amount=4, reason="late"))
    assert receipt(ledger.segments[FIRST]) == f"steps 0-8: the provider is not paid, since {why}"
    assert ledger.segments[FIRST].payments[0].amount == -4


def test_a_committed_prefix_shortens_the_segment_and_its_price(at: Events) -> None:
    ledger = Ledger()
    events = committed(at)
    ledger.feed(events[:3])
    ledger.apply(
        at(
            chain.Committed, segment=FIRST, stop=3, link_root=ZERO, end_root=ZERO, checkpoint=Cid("bafkreib"), key_id=ZERO, key_envelope=b"",
            commitment=ZERO, seed_block=9,
        )
    )  # fmt: skip
    assert (ledger.segments[FIRST].stop, ledger.segments[FIRST].price) == (3, 30)


def test_a_redraw_forgets_the_verdicts_of_the_round_before(at: Events) -> None:
    ledger = Ledger()
    ledger.feed(committed(at))
    ledger.apply(at(chain.Revealed, segment=FIRST, verifier=VERIFIERS[0], agrees=False, trace_roots=()))
    ledger.apply(at(chain.Redrawn, segment=FIRST, round=1, reason="not served", seed_block=20))
    assert ledger.segments[FIRST].state is SegmentState.COMMITTED
    ledger.apply(at(chain.Drawn, segment=FIRST, round=1, seed=ZERO, units=(5,), verifiers=tuple(VERIFIERS), serve_by=9000))
    assert ledger.segments[FIRST].verdicts == {}
    ledger.apply(at(chain.Unpaid, segment=FIRST, reason="not served"))
    assert receipt(ledger.segments[FIRST]) == "steps 0-8: the provider is not paid, since not served"


def test_a_chunk_that_was_shown_is_named_in_the_reason(at: Events) -> None:
    ledger = Ledger()
    ledger.feed(committed(at))
    ledger.apply(at(chain.ChunkAsked, segment=FIRST, round=0, at_block=9, show_by=99))
    ledger.apply(at(chain.ChunkShown, segment=FIRST, place=1, entry=0, chunk=0))
    ledger.apply(at(chain.Served, segment=FIRST, round=0, seal_by=99))
    told = ledger.segments[FIRST]
    assert "were not served, or did not get" in ledger._verdict(told, False)
    ledger.apply(at(chain.Settled, segment=FIRST, provider=told.provider, price=told.price))
    assert receipt(told).startswith("steps 0-8: the provider is paid, since it showed on chain what it was asked for")
