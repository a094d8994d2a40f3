# Measures the GPT of examples/ trained by several ranks (assay/exact/ranks), each a process with one thread, against the same step by one
# engine: wall-clock time of a whole step with the roots of all its links' ends, turn by turn in one run, medians. Of ranks twice: state and
# accumulator stay with them, as in a segment; and each link brings its tensors and takes them back, as a link by itself does. And what a rank is
# given of state, accumulator and batch, and what all ranks exchange for a micro-batch (int64 sums and gathered pieces; exponents not counted). The
# roots are compared. Sums along an axis that is cut are made in NumPy here, and ranks share the processor's cores and memory: this shows what a
# way of cutting moves, and is no figure of how fast several GPUs are. Goal: none yet.
#
#     python bench/ranks.py [--quick] [--json]
from __future__ import annotations

import argparse
import json
import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from assay.course import course
from assay.exact.ranks.places import BOTH, DATA, TENSOR
from assay.exact.ranks.split import Ranked, ranked
from assay.exact.ranks.team import Team, crew
from assay.execute import Executor
from assay.ids import Digest
from assay.state import Tensors, acc_root, state_root
from assay.trace import trace
from assay.training import load_training

LAYOUTS = {"data": DATA, "tensor": TENSOR, "both": BOTH}


def by_links(executor: Executor, state: Tensors, batches: list[Tensors]) -> list[Digest]:
    """Step 0, each link by itself: the roots of their ends."""
    acc, ends = executor.zero_acc(0, state), []
    for m, batch in enumerate(batches):
        acc = executor.micro(0, m, state, acc, batch)
        ends.append(acc_root(0, m + 1, acc))
    return [*ends, state_root(1, executor.update(0, state, acc))]


def given(form: Ranked) -> int:
    return sum((place.of(i.type, 0) if place else i.type).bytes for i, place in form.inputs)


def exchanged(form: Ranked) -> int:
    each = [e for stage in form.stages for e in stage.exchanges]
    return sum(e.whole.bytes if e.op == "gather" else 8 * e.whole.elements for e in each)


def main() -> None:
    parser = argparse.ArgumentParser(description="a step by several ranks")
    parser.add_argument("--quick", action="store_true", help="two ranks alone, fewer turns")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    options = parser.parse_args()
    training = load_training(Path(__file__).parent.parent / "examples" / "shakespeare.py")
    traced = trace(training)
    program, state = traced.program, traced.state
    rows = np.arange(training.batch)
    batches: list[Tensors] = [training.data.read((rows + m * training.batch).tolist()) for m in range(program.micro_batches)]
    result: dict[str, Any] = {"whole_bytes": given(ranked(program.micro, DATA, 0, 1)), "ranks": []}
    one = Executor(program, traced.schedule, program.micro_batches)
    copied = {name: array.copy() for name, array in state.items()}
    alone, want = course(one, 0, copied), by_links(one, state, batches)
    assert list(alone.step(lambda _, m: batches[m]).ends) == want
    for size in (2,) if options.quick else (2, 4):
        for name, layout in LAYOUTS.items():
            form = ranked(program.micro, layout, 0, size)
            with Team(program, layout, crew(size)) as team:
                several = Executor(program, traced.schedule, program.micro_batches, engine=team)
                assert by_links(several, state, batches) == want, "the bits differ"
                staying = course(several, 0, {name: array.copy() for name, array in state.items()})
                assert list(staying.step(lambda _, m: batches[m]).ends) == want, "the bits differ"
                times: list[tuple[float, ...]] = []
                for _ in range(3 if options.quick else 9):
                    at = [time.perf_counter()]
                    staying.step(lambda _, m: batches[m])
                    at.append(time.perf_counter())
                    alone.step(lambda _, m: batches[m])
                    at.append(time.perf_counter())
                    by_links(several, state, batches)
                    at.append(time.perf_counter())
                    staying.state()  # the ranks have it again, and that is not timed
                    times.append(tuple(after - before for before, after in pairwise(at)))
            row = {
                "ranks": size, "layout": name, "given_bytes": given(form), "exchanged_bytes": exchanged(form), "stages": len(form.stages),
                "milliseconds": statistics.median(a for a, _, _ in times) * 1e3, "ratio": statistics.median(a / b for a, b, _ in times),
                "links_milliseconds": statistics.median(c for _, _, c in times) * 1e3, "links_ratio": statistics.median(c / b for _, b, c in times),
            }  # fmt: skip
            result["ranks"].append(row)
            print(
                f"{size} ranks, {name}: given {row['given_bytes'] / result['whole_bytes']:.2f} of the tensors,"
                f" {row['exchanged_bytes'] / 2**20:.1f} MiB exchanged in {row['stages']} stages,"
                f" {row['milliseconds']:.0f} ms, {row['ratio']:.2f} of one engine's time;"
                f" link by link {row['links_milliseconds']:.0f} ms, {row['links_ratio']:.2f}",
                flush=True,
            )
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
