"""Which offer a scheduler takes, and what it learns: a table of cases."""

from __future__ import annotations

import random
from typing import Any

import pytest

from assay.chain import Offer
from assay.ids import Address, JobId, SegmentId
from assay_scheduler.history import ENOUGH_RATIOS, LEAST, MOST, UNLEARNT, fence
from assay_scheduler.placement import FAULTS, KEPT, Bid, Record, Wanted, rank

A, B = Address("0x" + "a" * 40), Address("0x" + "b" * 40)
WANTED = Wanted(cap=1000, now=5, bond_tenths=60, bond_base=10)


def bid(who: Address, price: int = 500, expires: int = 10, **about: Any) -> Bid:
    offer = Offer(provider=who, job=JobId(1), parent=SegmentId(0), start=0, stop=1, price=price, expires=expires, nonce=price)
    return Bid(offer, b"", about.pop("claims", 0), **about)


def settled(count: int, **more: Any) -> Record:
    record = Record(settled=count, **more)
    for _ in range(count):
        record.ended(good=2)
    return record


def lost(count: int, record: Record | None = None) -> Record:
    record = record or Record()
    for _ in range(count):
        record.ended(bad=2)
    return record


CASES: dict[str, tuple[Bid, Bid, dict[str, Record], Wanted]] = {
    # what is better about A; everything else is equal
    "cheaper": (bid(A, 400), bid(B, 500), {}, WANTED),
    "a good history before none": (bid(A), bid(B), {A: settled(5)}, WANTED),
    "a good history before a tenth of the cap": (bid(A, 600), bid(B, 500), {A: settled(20)}, WANTED),
    "none before a lapse": (bid(A), bid(B), {B: lost(1)}, WANTED),
    "none before two lapses and a tenth of the cap": (bid(A, 600), bid(B, 500), {B: lost(2)}, WANTED),
    "a lapse long ago is forgotten": (bid(A, 500), bid(B, 501), {A: settled(60, lapsed=1), B: settled(60)}, WANTED),
    "as fast as others before twice as slow at a third less": (bid(A, 800), bid(B, 500), {B: Record(slowness=200)}, WANTED),
    "a little slower and half the price": (bid(A, 300), bid(B, 600), {A: Record(slowness=130)}, WANTED),
    "proven rate, where nothing is measured": (bid(A, rate=10**12, proven=True), bid(B, rate=10**11, proven=True), {}, WANTED),
    "what was measured before what was proven": (
        bid(A, rate=10**11, proven=True), bid(B, rate=10**12, proven=True), {A: Record(slowness=80), B: Record(slowness=300)}, WANTED,
    ),
    "it has the parent's end": (bid(A), bid(B), {}, WANTED._replace(state=10, shared=90, parent=A, hands={A: 1, B: 1})),
    "it has the shards": (bid(A), bid(B), {}, WANTED._replace(state=10, shared=90, hands={A: 1})),
    "it has the shards, for a little more": (bid(A, 550), bid(B, 500), {}, WANTED._replace(state=10, shared=90, hands={A: 1})),
    "it has the shards, and loses ranges": (bid(B), bid(A), {B: settled(8), A: lost(4, settled(4))}, WANTED._replace(state=1, hands={A: 1})),
    "the state fits its proven memory": (
        bid(A, proven=True, memory=100), bid(B, proven=True, memory=50), {}, WANTED._replace(state=80, shared=40, frozen=20),
    ),
    "more free stake": (bid(A, free=10**6), bid(B, free=3010), {}, WANTED),
    "proven hardware, of equal prices": (bid(A, proven=True), bid(B), {}, WANTED),
    "proven hardware, where it is preferred": (bid(A, 990, proven=True), bid(B, 100), {}, WANTED._replace(prefers_proven=True)),
    "the faster claim, of equals": (bid(A, claims=9), bid(B, claims=8), {}, WANTED),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_better_offer_is_taken(name: str) -> None:
    first, second, records, wanted = CASES[name]
    for bids in ([first, second], [second, first]):
        ranked, left = rank(bids, records, wanted)
        assert [scored.bid for scored in ranked] == [first, second]
        assert not left


@pytest.mark.parametrize(
    ("offer", "record", "why"),
    [
        (bid(A, 1001), Record(), "over the cap"),
        (bid(A, expires=5), Record(), "expired"),
        (bid(A, free=3009), Record(), "does not cover the bond of 3010"),
        (bid(A), Record(withheld=1), "refuted"),
        (bid(A), Record(withheld=1, settled=FAULTS - 1), "refuted"),
        (bid(A), Record(withheld=2, settled=FAULTS), "refuted"),
    ],
)
def test_offers_that_are_not_taken_in_any_case(offer: Bid, record: Record, why: str) -> None:
    ranked, ((left, told),) = rank([offer], {A: record}, WANTED)
    assert not ranked
    assert left == offer
    assert why in told


def test_a_fault_in_a_thousand_segments_is_a_fault_and_unknown_stake_is_no_reason() -> None:
    ranked, left = rank([bid(A)], {A: settled(FAULTS, withheld=1)}, WANTED)
    assert [s.bid for s in ranked] == [bid(A)]
    assert not left


def test_a_score_tells_its_parts() -> None:
    (best,), _ = rank([bid(A, 250, proven=True, free=15100)], {A: settled(8)}, WANTED)
    assert best.parts == {"price": 250, "risk": 124, "time": 0, "data": 0, "memory": 0, "stake": 5, "claimed": 0}
    assert best.why == "379 points (price 250, risk 124, stake 5)"


def test_the_ranking_does_not_depend_on_the_order_in_which_offers_came() -> None:
    draw = random.Random(5)
    people = [Address(f"0x{i:040x}") for i in range(1, 30)]
    records = {who: settled(draw.randrange(9), slowness=draw.choice((0, 90, 150))) for who in people}
    bids = [bid(who, draw.randrange(1, 1000), rate=draw.choice((0, 5, 50)), free=draw.choice((-1, 10**5))) for who in people]
    first = rank(bids, records, WANTED)
    for _ in range(5):
        draw.shuffle(bids)
        assert rank(bids, records, WANTED)[0] == first[0]


def test_a_record_stays_small_and_what_is_long_ago_counts_less() -> None:
    old = lost(5)
    for _ in range(10 * KEPT):
        old.ended(good=2)
        assert old.good + old.bad <= 2 * KEPT + 2
    assert old.bad == 0
    assert lost(3, settled(10 * KEPT)).chance > 2 * settled(10 * KEPT).chance


@pytest.mark.parametrize(
    ("ratios", "late_at"),
    [
        ([100] * (ENOUGH_RATIOS - 1), UNLEARNT),
        ([100] * 64, LEAST),
        ([90, 95, 100, 105, 110] * 12, 105 + 3 * 10),
        ([100] * 52 + [400] * 12, LEAST),  # stragglers, fewer than a quarter, do not move it
        ([60, 100, 200, 250] * 16, MOST),  # machines of all kinds: only what is far out of that
    ],
)
def test_when_a_segment_is_late_is_learnt(ratios: list[int], late_at: int) -> None:
    assert fence(ratios) == max(LEAST, late_at)
