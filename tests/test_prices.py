"""The price book: what settled segments say of the price and the time of a step."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from assay.chain import Activated, AnyChainEvent, Assigned, Committed, JobClosed, JobPosted, Lapsed, Params, Settled, Terms
from assay.cli.prices import told
from assay.ids import Address, Cid, Digest, JobId, SegmentId
from assay.prices import ENOUGH, LATELY, MOST_SALES, NEWEST, PriceBook, operations, tenths

WHO = [Address(f"0x{i:040x}") for i in range(1, 9)]
DIGEST = Digest(b"\x07" * 32)
CID = Cid("bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy")


def terms(micro_weight: int = 490, micro_batches: int = 2, update_weight: int = 20) -> Terms:
    return Terms(
        spec=CID, spec_digest=DIGEST, program_root=DIGEST, state_root=DIGEST, dataset_root=DIGEST, schedule_root=DIGEST, steps=100,
        micro_batches=micro_batches, segment_steps=10, micro_weight=micro_weight, update_weight=update_weight, micro_leaves=9, update_leaves=5,
        price_cap=10**9, fee=10, budget=10**12, deadline=10**9, scheduler=WHO[0], key_service=WHO[1], params=Params(),
    )  # fmt: skip


def sold(segment: int, job: int, time: int, price: int, seconds: int = 20, steps: int = 10, who: Address = WHO[2]) -> Iterator[AnyChainEvent]:
    """A segment that is assigned, begun five seconds later, done after so many seconds, and settled."""
    number, at = SegmentId(segment), {"block": segment, "index": 0}
    yield Assigned(segment=number, job=JobId(job), parent=SegmentId(0), provider=who, start=0, stop=10, price=price, activate_by=0, time=time, **at)
    yield Activated(segment=number, lease_until=0, time=time + 5, **at)
    yield Committed(
        segment=number, stop=steps, link_root=DIGEST, end_root=DIGEST, checkpoint=CID, key_id=DIGEST, key_envelope=b"", commitment=DIGEST,
        seed_block=0, time=time + 5 + seconds, **at,
    )  # fmt: skip
    yield Settled(segment=number, provider=who, price=price * steps // 10, time=time + 100, **at)


def book_of(*prices: int, size: Terms | None = None) -> PriceBook:
    """One job whose segments cost so much, one after the other."""
    book = PriceBook()
    book.see(JobPosted(job=JobId(1), client=WHO[0], terms=size or terms(), block=0, index=0, time=0))
    for i, price in enumerate(prices, 1):
        book.feed(sold(i, 1, 200 * i, price))
    return book


def test_a_step_of_the_same_size_costs_what_it_cost_others() -> None:
    assert operations(terms()) == 1000
    guess = book_of(*[100] * 20).estimate(1000, 5000)
    assert guess is not None
    assert (guess.sales, guess.factor, guess.low, guess.likely, guess.high) == (20, 2, 10, 10, 10)
    assert (guess.step_low, guess.step_likely, guess.step_high) == (2, 2, 2)
    assert guess.waiting == 180  # from the commitment before it


def test_other_sizes_cost_in_proportion_and_are_only_asked_where_there_are_none_nearer() -> None:
    book = book_of(*[100] * 20)
    near, far = book.estimate(500, 5000), book.estimate(16_000, 5000)
    assert near is not None
    assert far is not None
    assert (near.factor, near.likely, near.step_likely) == (2, 5, 1)
    assert (far.factor, far.likely) == (16, 160)
    assert book.estimate(16_001, 5000) is None


def test_a_prefix_counts_as_what_it_was() -> None:
    book = book_of()
    book.feed(sold(1, 1, 100, price=100, steps=4))
    (sale,) = book.sales
    assert (sale.steps, sale.price, sale.step) == (4, 40, 10)


def test_what_did_not_settle_is_no_sale_and_old_sales_do_not_count() -> None:
    book = book_of(100)
    lost = list(sold(9, 1, 500, 10**6))[:2]
    book.feed([*lost, Lapsed(segment=SegmentId(9), fee=1, block=9, index=0, time=900)])
    assert [sale.price for sale in book.sales] == [100]
    assert book.estimate(1000, 300 + LATELY) is None
    assert not book.rows(300 + LATELY)
    book.see(JobClosed(job=JobId(1), refund=0, block=10, index=0, time=1000))
    assert not book._open
    assert not book._sizes


def test_the_newest_sales_count_and_the_book_stays_small() -> None:
    book = book_of(*[100] * (MOST_SALES - 10), *[300] * NEWEST)
    assert len(book.sales) == MOST_SALES
    guess = book.estimate(1000, 0)
    assert guess is not None
    assert (guess.low, guess.high) == (30, 30)


def test_strange_events_change_nothing() -> None:
    book = PriceBook()
    book.feed(sold(1, 7, 0, 100))
    assert not book.sales


@pytest.mark.parametrize("count", [ENOUGH, 19, 64])
def test_the_next_price_lies_in_the_range_four_times_of_five(count: int) -> None:
    draw = random.Random(count)
    hits = 0
    for _ in range(4000):
        *seen, after = (draw.lognormvariate(0, 1) for _ in range(count + 1))
        low, high = tenths(seen)
        hits += low <= after <= high
    assert abs(hits / 4000 - 0.8) < 0.025


def test_rows_by_size() -> None:
    book = book_of(*[100] * 9)
    book.see(JobPosted(job=JobId(2), client=WHO[0], terms=terms(micro_weight=49_000), block=0, index=0, time=0))
    book.feed(sold(99, 2, 200, 7000, who=WHO[3]))
    small, large = book.rows(5000)
    assert (small.least, small.sales, small.providers, small.likely, small.tera) == (1000, 9, 1, 10, 10**10)
    assert (large.least, large.sales, large.likely) == (10_000, 1, 700)


def test_what_a_person_is_told() -> None:
    book = book_of(*[10_000_000] * 9)
    assert told(book.estimate(1000, 5000), 1000) == (
        "a step of 1.0e+03 operations: 1.00, in four of five cases 1.00 to 1.00 (9 segments within 2 times that size); it took 2.00 s (2.00 to 2.00)"
    )
    assert told(book.estimate(10**9, 5000), 10**9) == "no step of about 1.0e+09 operations has been sold here in 30 days"
