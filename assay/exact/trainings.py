"""Short trainings of small models, and the state roots they must reach: the second half of `assay doctor --conformance`.

Single operators on hard inputs do not show what a whole training does to them: values that drift, optimisers, plans that fuse and reuse
memory. So each family's program (assay/_data/programs, traced once by tools/conformance_programs.py) trains for STEPS steps on
data made of integers, and its state roots at CHECKED steps are compared with the committed ones. Those come from the NumPy reference
alone, which walks the nodes one by one. Nothing here needs PyTorch.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from assay.exact import reference
from assay.exact.engines import engine as engine_of
from assay.exact.inputs import floats, integers, words
from assay.ids import Digest
from assay.program import Part, Program
from assay.state import state_root

Array = NDArray[Any]
Tensors = dict[str, Array]
Run = Callable[[str, Mapping[str, Mapping[str, Array]]], Tensors]
"""(part, inputs) -> outputs."""

_DATA = Path(__file__).parent.parent / "_data"
PROGRAMS, ROOTS = _DATA / "programs", _DATA / "trainings.json"
FAMILIES = ("mlp", "gpt", "batchnorm", "groupnorm", "lstm", "gru", "vit", "bert", "llama")
STEPS, BATCH = 100, 4
FEATURES, CLASSES = 10, 5
CONTEXT, VOCABULARY = 12, 17
TIMES = 6
"""Vectors in a row that a recurrent model hears."""
CHANNELS, SIDE = 2, 9
"""Of an image."""
LARGE, LARGE_STEPS, LARGE_SIZES = "largegpt", 2, (10048, 1024, 768)
"""A GPT as wide as real ones, for devices: most of what makes them fast is only taken at such sizes. Its steps; vocabulary, context, width."""
CHECKED = (1, 2, 3, 10, 30, 100)
"""Numbers of steps after which the state is compared: few enough to print, close enough at first to say where it went wrong."""


class Training(NamedTuple):
    name: str
    program: Program
    schedule: NDArray[np.float32]
    """[steps, scalars]"""


def load(name: str) -> Training:
    """The committed program and schedule of a family."""
    program = Program.load(zlib.decompress((PROGRAMS / f"{name}.program.z").read_bytes()))
    schedule = np.frombuffer((PROGRAMS / f"{name}.schedule").read_bytes(), "<f4").reshape(-1, len(program.scalars))
    return Training(name, program, schedule)


def initial(program: Program) -> Tensors:
    """Weights from integers, uniform in +-1/4 (+-1/32 where rows are long); norms' weights and variances one; averages as what they are the averages
    of; all else zero."""
    state: Tensors = {}
    for seed, (name, t) in enumerate(sorted(program.state.items())):
        state[name] = np.zeros(t.shape, reference.NUMPY[t.dtype])
        if name.startswith("param.") and len(t.shape) > 1:
            state[name] = floats(5000 + seed, t.shape, "even") * np.float32(0.25 if t.shape[-1] < 256 else 0.03125)
        elif (name.startswith("param.") and name.endswith("weight")) or name.endswith("running_var"):
            state[name] = np.ones(t.shape, np.float32)
    return state | {name: state[f"param.{name[4:]}"].copy() for name in state if name.startswith("ema.")}


def batch(program: Program, step: int, m: int) -> Tensors:
    """A micro-batch that can be learnt: rows whose class is where they are largest, images and rows of vectors that are noise over the
    pattern of their class, or texts that count up by a step of their own."""
    seed = 9000 + 2 * (step % 16) + m
    if "x" in program.batch:
        shape = program.batch["x"].shape
        x = floats(seed, shape, "even")
        y = x[:, :CLASSES].argmax(1) if len(shape) == 2 else integers(seed + 1000, (BATCH,), 0, CLASSES)
        if len(shape) > 2:
            x = x * np.float32(0.5) + floats(4000, (CLASSES, *shape[1:]), "even")[y]
        return {"x": x, "y": y.astype(reference.NUMPY[program.batch["y"].dtype])}
    texts, length = program.batch["tokens"].shape
    vocabulary = VOCABULARY if length == CONTEXT + 1 else LARGE_SIZES[0]
    start, stride = integers(seed, (texts, 1), 0, vocabulary), 1 + (words(seed + 100, texts) % np.uint64(3)).astype(np.int64)[:, None]
    tokens = (start + stride * np.arange(length)) % vocabulary
    return {"tokens": tokens.astype(reference.NUMPY[program.batch["tokens"].dtype])}


def _counters(step: int, m: int) -> Tensors:
    return {"step": np.array(step, np.int64), "micro": np.array(m, np.int64)}


def reached(training: Training, run: Run, steps: int = STEPS) -> Iterator[tuple[int, Digest]]:
    """Trains; gives each of the CHECKED numbers of steps and the state root after it, as soon as it is there."""
    program, state = training.program, initial(training.program)
    for step in range(steps):
        acc: Tensors = {n: state[n].copy() if n in state else np.zeros(t.shape, reference.NUMPY[t.dtype]) for n, t in program.accumulator.items()}
        for m in range(program.micro_batches):
            acc = run("micro", {"state": state, "acc": acc, "batch": batch(program, step, m), "counter": _counters(step, m)})
        scalars = {name: training.schedule[step, i : i + 1].reshape(()) for i, name in enumerate(program.scalars)}
        state = state | run("update", {"state": state, "acc": acc, "scalar": scalars, "counter": _counters(step, program.micro_batches)})
        if step + 1 in CHECKED:
            yield step + 1, state_root(step + 1, state)


def roots(training: Training, run: Run, steps: int = STEPS) -> dict[int, Digest]:
    """The state roots after the CHECKED numbers of steps."""
    return dict(reached(training, run, steps))


def _reference(program: Program, part: str, inputs: Mapping[str, Mapping[str, Array]]) -> Tensors:
    p: Part = program.micro if part == "micro" else program.update
    constants = {c.name: np.frombuffer(c.data, reference.NUMPY[c.type.dtype]).reshape(c.type.shape) for c in program.constants}
    values = reference.evaluate(p, [(constants if i.kind == "constant" else inputs[i.kind])[i.name] for i in p.inputs], program.gemm_bits)
    return {o.name: np.ascontiguousarray(values[o.value]).reshape(values[o.value].shape) for o in p.outputs}


def from_reference(name: str, steps: int = STEPS) -> dict[str, str]:
    """Number of steps -> hex state root, as the specification gives them."""
    training = load(name)
    return {str(n): root.hex() for n, root in roots(training, partial(_reference, training.program), steps).items()}


def failure(name: str, expected: Mapping[str, str], threads: int = 1, steps: int = STEPS) -> int | None:
    """The first of the CHECKED numbers of steps after which this machine's engine has another state than the committed one."""
    training = load(name)
    got = reached(training, engine_of(training.program, threads).run, steps)
    return next((n for n, root in got if root.hex() != expected.get(str(n))), None)


def expected() -> dict[str, dict[str, str]]:
    """Family -> number of steps -> hex state root, as published."""
    data: dict[str, dict[str, str]] = json.loads(ROOTS.read_text())["roots"]
    return data


def first_difference(name: str, steps: int, threads: int = 1) -> str:
    """Where the engine first gives another result than the reference on the same inputs, within `steps` steps; empty where it does not."""
    training = load(name)
    engine = engine_of(training.program, threads)
    calls = 0

    def run(part: str, inputs: Mapping[str, Mapping[str, Array]]) -> Tensors:
        nonlocal calls
        want, got = _reference(training.program, part, inputs), engine.run(part, inputs)
        wrong = sorted(n for n in want if want[n].tobytes() != got[n].tobytes())
        if wrong:
            step, m = divmod(calls, training.program.micro_batches + 1)
            raise _Differs(f"step {step}, {'update' if part == 'update' else f'micro-batch {m}'}: {', '.join(wrong)}")
        calls += 1
        return want

    try:
        roots(training, run, steps)
    except _Differs as found:
        return str(found)
    return ""


class _Differs(Exception):
    pass


if __name__ == "__main__":
    published = {name: from_reference(name) for name in FAMILIES} | {LARGE: from_reference(LARGE, LARGE_STEPS)}
    ROOTS.write_text(json.dumps({"format": "assay-trainings/1", "roots": published}, indent=1) + "\n")
