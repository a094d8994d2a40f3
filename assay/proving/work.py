"""The process that does a proof: it holds the memory between answer and opening, and gives all of it back when it ends.

Lines of JSON on stdin and stdout, each request answered by one line:

    {"measure": BYTES, "seconds": S}        -> {"claim": CLAIM}     what this machine does of products in S seconds, with so much memory
    {"claim": CLAIM, "block": N, "seed": H} -> {"answer": ANSWER}
    {"sample": H, "to": FILE}               -> {"bytes": N}         the opening, encoded, is in FILE

It has no keys and no network, and takes nothing from others. What goes wrong is {"error": TEXT}.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from assay.codec import encode
from assay.ids import Digest
from assay.proving.benches import Processor, bench
from assay.proving.proof import PER_CHUNK, Bench, Claim, Proving

DEEPEST = 16_384
"""Levels: more would make openings long."""
TRIAL = 1.0
"""Seconds of products from which their speed is told."""


def shape(memory: int, device: bool) -> Claim:
    """A claim of at most so many bytes and of one product. Raises ValueError when that is too little."""
    blocks, most = max(1, memory // 64), 65_536 if device else 4096
    lanes = min(most, max(PER_CHUNK, 1 << (blocks.bit_length() - 1) // 2))
    lanes = max(lanes, 1 << (blocks // DEEPEST).bit_length())
    side = min(4096 if device else 512, 1 << (math.isqrt(memory).bit_length() - 1))
    claim = Claim(lanes=lanes, levels=memory // (64 * lanes), side=side, products=1)
    claim.check()
    return claim


def measured(worker: Bench, memory: int, seconds: float) -> Claim:
    """As many products as it does in so many seconds. The first ones show how fast it is; what filling the memory takes is not counted in."""
    small = shape(memory, not isinstance(worker, Processor))
    worker.fill(msgspec.structs.replace(small, levels=max(2, min(small.levels, -(-small.side**2 // (64 * small.lanes)) + 1))), Digest(bytes(32)))
    worker.start()
    worker.step(0)
    began, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < TRIAL:
        worker.step(0)
        done += 1
    return msgspec.structs.replace(small, products=max(1, int(done * seconds / spent)))


def main() -> None:
    os.nice(5)  # behind the owner's own programs
    worker: Bench | None = None
    proving: Proving | None = None
    seed = Digest(b"")
    for line in sys.stdin:
        try:
            asked: dict[str, Any] = json.loads(line)
            if worker is None:
                worker = bench()
            if "measure" in asked:
                told: dict[str, Any] = {"claim": measured(worker, asked["measure"], asked["seconds"])}
            elif "claim" in asked:
                seed = Digest(bytes.fromhex(asked["seed"]))
                proving = Proving(worker, msgspec.convert(asked["claim"], Claim), asked["block"])
                told = {"answer": proving.answer(seed)}
            else:
                if proving is None:
                    raise ValueError("there is no answer yet")
                data = encode(proving.open(seed, Digest(bytes.fromhex(asked["sample"]))))
                Path(asked["to"]).write_bytes(data)
                told = {"bytes": len(data)}
        except (ValueError, KeyError, MemoryError, OSError, RuntimeError, msgspec.ValidationError) as error:
            told = {"error": f"{type(error).__name__}: {error}"}
        print(encode(told).decode(), flush=True)


if __name__ == "__main__":
    main()
