# Measures how well the price book's estimates hold: a simulated market of owners with prices of their own (lognormal, some four times as dear as
# others) sells jobs of 1 to 32 micro-batches a step; before each job the book, from settled segments alone, says what a step will cost, and
# afterwards that is compared with what was paid, over all jobs and over the second half, when the market has found its price. Goals: in eight of ten
# jobs the price of a step lies in the range that was told, in nine of ten it is no more than the higher end.
"""Run: python bench/prices.py [--quick] [--json] [--seeds N]"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from functools import partial
from typing import Any

import msgspec

from assay.chain import AnyChainEvent, Terms
from assay.prices import ENOUGH, Estimate, PriceBook, operations
from assay.sim import Options, World
from assay.sim.cast import HONEST, WORKER, Part, Self, worker_config
from assay_worker.machine import WorkerMachine

SIZES = (1, 2, 4, 8, 16, 32)
"""Micro-batches of a step."""
OPERATION = 10**16
"""What the middle owner asks for 10^12 operations, in smallest units: so that the toy's few cost something."""


class Market(World):
    """Jobs of different sizes; a book that is kept as they settle."""

    def __init__(self, options: Options, seed: int, cast: dict[str, Part]) -> None:
        self.book = PriceBook()
        self.told: dict[bytes, Estimate | None] = {}
        self.chosen = random.Random(seed)
        self.at = (-1, -1)
        super().__init__(options, seed, cast)

    def _publish(self, number: int) -> Terms:
        whole = self.options
        self.options = msgspec.structs.replace(whole, micro_batches=self.chosen.choice(SIZES))
        try:
            terms = super()._publish(number)
        finally:
            self.options = whole
        found = self.book.estimate(operations(terms), self.ledger.head.time)
        self.told[terms.spec_digest] = found if found is not None and found.sales >= ENOUGH else None
        return terms

    def _on_block(self) -> None:
        events: list[AnyChainEvent] = self.ledger.events(self.at, 0)
        for event in events:
            self.at = (event.block, event.index)
            self.book.see(event)
        super()._on_block()


def owner(me: Self, price: int) -> WorkerMachine:
    return WorkerMachine(msgspec.structs.replace(worker_config(me), price_per_step=1, price_per_tera=price))


def market(seed: int, workers: int, jobs: int) -> list[dict[str, Any]]:
    """One row for each finished job that had an estimate."""
    draw = random.Random(f"owners {seed}")
    cast = {
        f"{WORKER}-{i}": Part(partial(owner, price=round(OPERATION * draw.lognormvariate(0, 0.4))), HONEST[WORKER].hands) for i in range(workers)
    }
    options = Options(
        jobs=jobs, every=25.0, steps=16, segment_steps=4, workers=workers, verifiers=6, price_cap=10**7, stake=10**11, deadline=200_000,
        step_seconds=4.0,
    )  # fmt: skip
    world = Market(options, seed, cast)
    assert world.run(), f"seed {seed}: the jobs were not over in time"
    rows = []
    for number, job in world.receipts.jobs.items():
        estimate = world.told[job.terms.spec_digest]
        sold = [sale for sale in world.book.sales if sale.job == number]
        if estimate is None or not world.receipts.finished(number):
            continue
        steps = sum(sale.steps for sale in sold)
        paid = sum(sale.price for sale in sold) / steps
        rows.append({
            "within": estimate.low <= paid <= estimate.high, "covered": paid <= estimate.high, "off": abs(paid / estimate.likely - 1),
            "late": number > jobs // 2,
        })  # fmt: skip
    return rows


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    off, late = sorted(row["off"] for row in rows), [row for row in rows if row["late"]]
    return {
        "jobs_with_an_estimate": len(rows), "price_within_told_range": round(statistics.mean(row["within"] for row in rows), 3),
        "price_at_or_under_high": round(statistics.mean(row["covered"] for row in rows), 3), "price_off_median": round(statistics.median(off), 3),
        "price_off_worst_tenth": round(off[9 * len(off) // 10], 3),
        "second_half_within_told_range": round(statistics.mean(row["within"] for row in late), 3),
        "second_half_off_median": round(statistics.median(row["off"] for row in late), 3),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    seeds, workers, jobs = (1, 12, 30) if args.quick else (args.seeds, 20, 80)
    found = figures([row for seed in range(seeds) for row in market(seed, workers, jobs)])
    found |= {"seeds": seeds, "workers": workers, "jobs_of_a_market": jobs}
    if args.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:28} {value}")


if __name__ == "__main__":
    main()
