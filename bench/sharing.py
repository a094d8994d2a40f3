# Measures how many segments of a provider share the transactions of their settlement (seals, votes, settle), and what a segment costs by that:
# the real machines of all roles on the simulated network, under the windows that jobs come with; one worker, six verifiers, one job, by the time
# that a segment takes and by the number of unsettled segments that a job allows (`depth`). Gas: of transactions with so many segments, as
# bench/dispute_gas.py has measured them (bench/results/dispute_gas.json), on a straight line between its figures.
# Goal: 200 k gas a segment, which is met from about three segments a transaction.
#
#     python bench/sharing.py [--quick] [--json]
from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from assay.chain import Batch, Params
from assay.sim import Options, World
from assay.sim.report import report

CALLS = {"Attest": "attest", "RevealAll": "reveal", "Settle": "settle"}
SEGMENTS = 24
GAS = Path(__file__).resolve().parent / "results" / "dispute_gas.json"


def transactions(depth: int, seconds: float) -> dict[str, list[int]]:
    """By kind of call, the segments of each transaction that has such calls. Raises RuntimeError when a segment is not settled."""
    options = Options(
        steps=SEGMENTS, segment_steps=1, step_seconds=seconds, workers=1, verifiers=6, params=Params(verifiers=3, quorum=2, depth=depth),
        deadline=10**6, patience=1e6,
    )  # fmt: skip
    world = World(options, 1)
    found = report(world, world.run(), 0.0)
    if found.problems or found.outcomes != {"settled": SEGMENTS}:
        raise RuntimeError(f"{found.outcomes} {found.problems}")
    sent: dict[str, set[tuple[int, tuple[int, ...]]]] = {kind: set() for kind in CALLS}
    for (block, _), (_, call) in world.ledger.origins.items():
        parts = call.calls if isinstance(call, Batch) else (call,)
        for kind, seen in sent.items():
            if segments := tuple(int(part.segment) for part in parts if type(part).__name__ == kind):  # type: ignore[union-attr]
                seen.add((block, segments))
    return {kind: sorted(len(segments) for _, segments in seen) for kind, seen in sent.items()}


def gas_of(jobs: dict[str, int], call: str, segments: int) -> float:
    """Of one transaction with the calls of so many segments."""
    known = sorted((int(name.split()[0]), gas) for name, gas in jobs.items() if name.endswith(f" segments: {call}"))
    (low, least), (high, most) = known[0], known[-1]
    if segments >= high:
        return least + (most - least) * (segments - low) / (high - low)
    return float(np.interp(segments, [n for n, _ in known], [gas for _, gas in known]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="three rows")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    options = parser.parse_args()
    jobs: dict[str, int] = json.loads(GAS.read_text())["figures"]["jobs"]
    rows: list[dict[str, Any]] = []
    for depth in (2, 8) if options.quick else (1, 2, 4, 8):
        for seconds in (60,) if options.quick else (10, 60, 240, 1200):
            sent = transactions(depth, seconds)
            gas = sum(gas_of(jobs, CALLS[kind], n) for kind, sizes in sent.items() for n in sizes) / SEGMENTS
            sizes = [n for found in sent.values() for n in found]
            each = round(sum(sizes) / len(sizes), 2)
            rows.append({"depth": depth, "seconds": seconds, "segments_a_transaction": each, "gas": round(gas)})
            if not options.json:
                print(f"depth {depth}, segments of {seconds:5} s: {each:5} segments a transaction, {gas / 1000:.0f} k gas a segment")
    if options.json:
        print(json.dumps({"rows": rows, "goal": 200_000}))


if __name__ == "__main__":
    main()
