# Measures proofs of hardware (assay.proving) on this processor: what filling the memory, the products with their roots, an opening and its check
# take, and how large an opening is; and what it costs to keep less memory than is claimed: blocks computed for each block of the last level.
# Against: the honest fill of the same run. Goals: a check under a second of one core; keeping three quarters of the memory costs at least ten times
# the work. CPU seconds of one thread. The kernels for CUDA give the same bits (tests/test_proving.py) and are not timed here.

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import numpy as np

from assay.codec import encode
from assay.merkle import sha256
from assay.proving import held, products
from assay.proving.benches import Processor
from assay.proving.proof import Claim, Proving, check

SEED, SAMPLE = sha256(b"bench hardware"), sha256(b"bench sample")
KEPT = (31, 32), (15, 16), (7, 8), (3, 4)
MOST = 100_000
"""Blocks after which a cheat gives up."""


def timed(work: Any) -> tuple[float, Any]:
    began = time.process_time()
    found = work()
    return time.process_time() - began, found


def honest(claim: Claim) -> dict[str, Any]:
    bench = Processor()
    fill, _ = timed(lambda: held.fill(SEED, claim.lanes, claim.levels))
    bench.fill(claim, SEED)
    bench.start()
    chain, _ = timed(lambda: [bench.step(0) for _ in range(claim.products)])
    proving = Proving(bench, claim, 0)
    whole, answer = timed(lambda: proving.answer(SEED))
    opening_seconds, opening = timed(lambda: proving.open(SEED, SAMPLE))
    checked, _ = timed(lambda: check(answer, SEED, SAMPLE, opening))
    return {
        "claim": {"mib": claim.memory / 2**20, "levels": claim.levels, "lanes": claim.lanes, "side": claim.side, "products": claim.products},
        "fill_seconds": round(fill, 3),
        "fill_mib_per_second": round(claim.memory / 2**20 / fill, 1),
        "product_gops": round(claim.operations / chain / 1e9, 1),
        "answer_seconds": round(whole, 3),
        "opening_seconds": round(opening_seconds, 3),
        "opening_mib": round(len(encode(opening)) / 2**20, 2),
        "check_seconds": round(checked, 3),
    }


class TooMuch(Exception):
    pass


def cheat(levels: int, kept: tuple[int, int], tries: int) -> dict[str, Any]:
    """Keeps `kept[0]` levels of every `kept[1]`: blocks computed for one of the last level, on average over `tries`."""
    lanes = 64
    memory = held.fill(SEED, lanes, levels)
    counted = [0]

    def block(number: int) -> held.Words:
        level = number // lanes
        missing = level and level % kept[1] >= kept[0]
        return again(number) if missing else memory[number : number + 1]

    def again(number: int) -> held.Words:
        counted[0] += 1
        if counted[0] > MOST:
            raise TooMuch
        return held.mixed(block(number - lanes), number // lanes * lanes, lambda at: block(int(at[0])))

    done = 0
    try:
        for lane in range(tries):
            assert np.array_equal(again((levels - 1) * lanes + lane)[0], memory[(levels - 1) * lanes + lane])
            done += 1
    except TooMuch:
        pass
    share = kept[0] / kept[1]
    return {"kept": share, "levels": levels, "blocks_for_one": round(counted[0] / max(1, done), 2), "more_than_that": done < tries, "tries": done}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    claims = [Claim(lanes=1024, levels=128, side=256, products=16)]
    if not args.quick:
        claims += [Claim(lanes=4096, levels=256, side=512, products=64), Claim(lanes=4096, levels=1024, side=512, products=64)]
    exact = products.rows(np.full((256, 256), 127, np.int8), np.full((1, 256), 127, np.int8))
    assert (exact == products.fold(np.full(1, 256 * 127 * 127, np.int32))).all()
    found = {
        "honest": [honest(claim) for claim in claims],
        "cheats": [cheat(levels, kept, 4 if args.quick else 16) for levels in ((32,) if args.quick else (64, 256)) for kept in KEPT],
    }
    for row in [*found["honest"], *found["cheats"]]:
        print(row, file=sys.stderr if args.json else sys.stdout)
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
