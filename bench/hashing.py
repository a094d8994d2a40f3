# Measures the Merkle root of a state against bare SHA-256 (hashlib, OpenSSL) of the same bytes, with 1 and 2 threads on either side, turn by turn
# in one run. hashlib's side cuts the bytes in one piece for each thread. The tree has a ceiling: a leaf of 1024 bytes with its tag, index and
# padding takes 17 compressions instead of 16, and a node above takes 2, so 16 / 19 of the bare speed. Goal: 80 % of that ceiling; both sides
# use the processor's SHA instructions where it has them. Then the root of the state of a model of 1.9 million parameters (22 MB in 19
# tensors, as a step commits it) with two threads against one. One thread: CPU times; two: wall-clock times. A ratio is the median within a turn.
#
#     python bench/hashing.py [--quick] [--json]
from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from assay.exact.hashing import CHUNK, tensor_root
from assay.exact.native import build
from assay.state import state_root

CEILING = (CHUNK / 64) / (CHUNK / 64 + 3)


def measured(mib: int, threads: int, count: int) -> dict[str, Any]:
    data = np.random.default_rng(0).standard_normal(mib << 18, np.float32)
    raw = memoryview(data.view(np.uint8))
    pieces = [raw[i * len(raw) // threads : (i + 1) * len(raw) // threads] for i in range(threads)]
    clock = time.process_time if threads == 1 else time.perf_counter
    with ThreadPoolExecutor(threads) as pool:

        def bare() -> None:
            list(pool.map(lambda piece: hashlib.sha256(piece).digest(), pieces))

        def tree() -> None:
            tensor_root(data, threads)

        def seconds(work: Any) -> float:
            start = clock()
            work()
            return clock() - start

        bare(), tree()
        pairs = [(seconds(bare), seconds(tree)) for _ in range(count)]
    of_bare = statistics.median(a / b for a, b in pairs)
    gb = [len(raw) / statistics.median(times) / 1e9 for times in zip(*pairs, strict=True)]
    return {"mib": mib, "threads": threads, "bare_gb_s": gb[0], "tree_gb_s": gb[1], "of_bare": of_bare, "of_ceiling": of_bare / CEILING}


def state(count: int) -> dict[str, float]:
    """Wall-clock ms of a state's root with one thread and with two; medians, the ratio within a turn."""
    rng = np.random.default_rng(0)
    shapes = ((1024, 784), (1024,), (1024, 1024), (1024,), (10, 1024), (10,))
    tensors = {f"{kind}.{i}": rng.standard_normal(shape, np.float32) for kind in ("param", "m", "v") for i, shape in enumerate(shapes)}
    tensors["metric.loss"] = np.float32(1).reshape(())
    pairs = []
    for _ in range(count + 1):
        times = []
        for threads in (1, 2):
            start = time.perf_counter()
            state_root(1, tensors, threads)
            times.append(time.perf_counter() - start)
        pairs.append(times)
    one, two = (statistics.median(times) * 1e3 for times in zip(*pairs[1:], strict=True))
    return {"one_thread_ms": one, "two_threads_ms": two, "speedup": statistics.median(a / b for a, b in pairs[1:])}


def main() -> None:
    parser = argparse.ArgumentParser(description="Merkle root of a state against bare SHA-256")
    parser.add_argument("--quick", action="store_true", help="fewer turns, less to hash")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    options = parser.parse_args()
    result: dict[str, Any] = {"level": build.level() if build.library() else "numpy", "ceiling": CEILING, "roots": []}
    for threads in (1, 2):
        made = measured(16 if options.quick else 256, threads, 7 if options.quick else 15)
        result["roots"].append(made)
        speeds = f"bare {made['bare_gb_s']:.2f} GB/s, tree {made['tree_gb_s']:.2f} GB/s"
        print(f"{made['mib']} MiB threads={threads}: {speeds}, {made['of_bare']:.0%} of bare, {made['of_ceiling']:.0%} of the ceiling", flush=True)
    result["state"] = state(7 if options.quick else 31)
    print("state of 22 MB: {one_thread_ms:.1f} ms, with two threads {two_threads_ms:.1f} ms, {speedup:.2f} times as fast".format(**result["state"]))
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
