"""The price book: what steps of what size cost lately, and how long they took, from settled segments on chain and nothing else.

A sale is a segment that settled: its provider was paid what its signed offer said. Sizes are the operations of a step, as the job's program counts
them. What a step of some size will cost is told from the newest sales of about that size: a step's price in them, taken in proportion to the
operations; told are the middle and the ends between which the next sale lies four times of five. Where there are few sales near, sizes further away
count, up to the factors of `REACH`. Every segment counts, so whoever sold much weighs much. How well estimates hold: bench/prices.py.

A sale can be made up: a client that buys from itself pays fees and gas for each, and names any price under its own cap. So the book says what was
paid, and nothing follows from it by itself: a client's cap and an owner's price are theirs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from statistics import median
from typing import NamedTuple

import msgspec

from assay.chain import (
    Activated,
    AnyChainEvent,
    Assigned,
    Committed,
    JobClosed,
    JobPosted,
    Lapsed,
    Rejected,
    Settled,
    Terms,
    Unpaid,
    Voided,
    Withheld,
)
from assay.ids import Address, JobId, SegmentId

TERA = 10**12
MOST_SALES = 4096
"""Of the whole book."""
NEWEST = 64
"""Sales that an estimate rests on at most."""
ENOUGH = 9
"""And at least, where there are so many within reach."""
LATELY = 30 * 86_400
"""Seconds; older sales do not count."""
REACH = (2, 4, 16)
"""Factors of the size within which sales are looked for, one after the other."""


class Sale(msgspec.Struct, frozen=True):
    """A settled segment. Times are the chain's, in seconds; amounts in smallest units."""

    job: JobId
    provider: Address
    at: int
    operations: int
    """Of a step."""
    steps: int
    price: int
    """Of the segment."""
    waited: int
    """From the opening of its range to its activation."""
    seconds: int
    """From activation to commitment."""

    @property
    def step(self) -> float:
        return self.price / self.steps

    @property
    def tera(self) -> float:
        """For 10^12 operations."""
        return self.price * TERA / (self.steps * self.operations)


class Estimate(msgspec.Struct, frozen=True):
    """Four sales in five lie between `low` and `high`, where it rests on enough of them. Amounts for a step, times in seconds."""

    sales: int
    factor: int
    """Sizes of the sales are within this factor of the one that was asked for."""
    newest: int
    low: float
    likely: float
    high: float
    step_low: float
    step_likely: float
    step_high: float
    waiting: float
    """Of a segment until its provider begins."""


class Row(NamedTuple):
    """What was sold of sizes from `least` up to ten times as much."""

    least: int
    sales: int
    providers: int
    low: float
    likely: float
    high: float
    tera: float
    seconds: float
    newest: int


class _Open(msgspec.Struct):
    job: JobId
    provider: Address
    start: int
    stop: int
    assigned: int
    activated: int = 0
    committed: int = 0


def operations(terms: Terms) -> int:
    """Of a step."""
    return max(1, terms.micro_batches * terms.micro_weight + terms.update_weight)


def middle(values: Sequence[float]) -> float:
    return float(median(values))


def tenths(values: Sequence[float]) -> tuple[float, float]:
    """Between which the next value lies with a chance of four fifths, if it is drawn as these nine or more were: the k-th value from either end,
    k = (n + 1)/10 (Wilks, Annals of Mathematical Statistics 12, 1941). Of fewer, the ends."""
    ordered = sorted(values)
    k = max(1, (len(ordered) + 1) // 10)
    return ordered[k - 1], ordered[-k]


class PriceBook:
    """A fold over final chain events."""

    def __init__(self) -> None:
        self.sales: deque[Sale] = deque(maxlen=MOST_SALES)
        self._sizes: dict[JobId, int] = {}
        self._opened: dict[JobId, int] = {}
        """When a range of a job was opened last."""
        self._open: dict[SegmentId, _Open] = {}

    def feed(self, events: Iterable[AnyChainEvent]) -> None:
        for event in events:
            self.see(event)

    def see(self, event: AnyChainEvent) -> None:
        """Takes one event in. Events of jobs or segments that were not seen to begin change nothing."""
        match event:
            case JobPosted():
                self._sizes[event.job], self._opened[event.job] = operations(event.terms), event.time
            case JobClosed():
                self._sizes.pop(event.job, None)
                self._opened.pop(event.job, None)
            case Assigned() if event.job in self._sizes:
                self._open[event.segment] = _Open(event.job, event.provider, event.start, event.stop, self._opened[event.job])
            case Activated() if event.segment in self._open:
                self._open[event.segment].activated = event.time
            case Committed() if event.segment in self._open:
                seg = self._open[event.segment]
                seg.stop, seg.committed = event.stop, event.time
                self._opened[seg.job] = event.time
            case Settled() if event.segment in self._open:
                self._sold(self._open.pop(event.segment), event)
            case Lapsed() | Withheld() | Unpaid() | Voided() | Rejected():
                gone = self._open.pop(event.segment, None)
                if gone is not None and gone.job in self._opened:
                    self._opened[gone.job] = event.time
            case _:
                pass

    def _sold(self, seg: _Open, event: Settled) -> None:
        if seg.job not in self._sizes:
            return
        self.sales.append(Sale(
            job=seg.job, provider=seg.provider, at=event.time, operations=self._sizes[seg.job], steps=seg.stop - seg.start, price=event.price,
            waited=max(0, seg.activated - seg.assigned), seconds=seg.committed - seg.activated,
        ))  # fmt: skip

    # ---- what it tells ---------------------------------------------------------------------------------------------------

    def near(self, size: int, now: int) -> tuple[list[Sale], int]:
        """The newest sales of about that size, and the factor within which they were looked for."""
        lately = [sale for sale in reversed(self.sales) if sale.at + LATELY > now]
        found: list[Sale] = []
        for factor in REACH:
            found = [sale for sale in lately if size <= sale.operations * factor and sale.operations <= size * factor][:NEWEST]
            if len(found) >= ENOUGH:
                return found, factor
        return found, REACH[-1]

    def estimate(self, size: int, now: int) -> Estimate | None:
        """Of a step of so many operations; None where nothing of about that size has been sold lately."""
        found, factor = self.near(size, now)
        if not found:
            return None
        prices = [sale.tera * size / TERA for sale in found]
        paces = [sale.seconds / sale.steps * size / sale.operations for sale in found]
        (low, high), (quick, slow) = tenths(prices), tenths(paces)
        return Estimate(
            sales=len(found), factor=factor, newest=found[0].at, low=low, likely=middle(prices), high=high, step_low=quick,
            step_likely=middle(paces), step_high=slow, waiting=middle([sale.waited for sale in found]),
        )  # fmt: skip

    def rows(self, now: int) -> list[Row]:
        """By decades of the size, smallest first."""
        by: dict[int, list[Sale]] = {}
        for sale in self.sales:
            if sale.at + LATELY > now:
                by.setdefault(len(str(sale.operations)) - 1, []).append(sale)
        rows = []
        for decade, of in sorted(by.items()):
            low, high = tenths([sale.step for sale in of])
            rows.append(Row(
                least=10**decade, sales=len(of), providers=len({sale.provider for sale in of}), low=low, likely=middle([s.step for s in of]),
                high=high, tera=middle([s.tera for s in of]), seconds=middle([s.seconds / s.steps for s in of]), newest=max(s.at for s in of),
            ))  # fmt: skip
        return rows
