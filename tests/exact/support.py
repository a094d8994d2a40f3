"""Small parts of programs, hard inputs, and every route that this machine has: what the tests of the exact engine share."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from assay.exact import reference, trainings
from assay.exact.conformance import SPECIAL, program
from assay.exact.cpu import Cpu
from assay.exact.native.build import levels
from assay.program import Part

Array = NDArray[Any]

class Route(NamedTuple):
    level: str
    """numpy, or a SIMD level."""
    threads: int


FAMILIES = [name if name in ("mlp", "gpt", "batchnorm", "vit") else pytest.param(name, marks=pytest.mark.slow) for name in trainings.FAMILIES]
"""SGD, AdamW, running statistics and Muon in every run; all of them in the slow one."""
ROUTES = [Route("numpy", 1)] + [Route(level, threads) for level in levels() for threads in (1, 2)]


def names(route: Route) -> str:
    return f"{route.level}-{route.threads}"


@contextmanager
def on(route: Route) -> Iterator[None]:
    """Forces what `library()` gives."""
    keys = ("ASSAY_NATIVE", "ASSAY_SIMD")
    before = {key: os.environ.pop(key, None) for key in keys}
    if route.level == "numpy":
        os.environ["ASSAY_NATIVE"] = "0"
    else:
        os.environ["ASSAY_SIMD"] = route.level
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value


def same(got: Array, want: Array) -> bool:
    """Equal in type, shape and every bit."""
    want = np.asarray(want)
    return got.dtype == want.dtype and got.shape == want.shape and np.asarray(got, order="C").tobytes() == np.asarray(want, order="C").tobytes()


def check(part: Part, inputs: Sequence[Array], route: Route, gemm_bits: int = 14) -> None:
    """Runs the part on a route, fused and traced, and compares every value with the reference."""
    from assay.exact.hashing import tensor_root

    values = reference.evaluate(part, inputs, gemm_bits)
    named = {"batch": {f"x{i}": a for i, a in enumerate(inputs)}}
    with on(route):
        cpu = Cpu(program(part, gemm_bits), route.threads)
        assert cpu.route == ("numpy" if route.level == "numpy" else "native")
        got = cpu.run("micro", named)
        traced, roots = cpu.trace("micro", named)
        for o in part.outputs:
            assert same(got[o.name], values[o.value]), f"{part.nodes[o.value - len(inputs)]} differs"
            assert same(traced[o.name], values[o.value]), f"{part.nodes[o.value - len(inputs)]} differs in the trace"
        assert roots == [tensor_root(np.asarray(v)) for v in values[len(inputs) :]]


def floats(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> Array:
    """f32 of a kind: normal, bits (any pattern), special, tiny (subnormals and around), wide (lognormal), mixed."""
    n = int(np.prod(shape, dtype=np.int64))
    match kind:
        case "normal":
            x = rng.standard_normal(n)
        case "bits":
            x = rng.integers(0, 1 << 32, n, dtype=np.uint32).view(np.float32)
        case "special":
            x = rng.choice(SPECIAL, n)
        case "finite":
            x = rng.choice(SPECIAL[np.isfinite(SPECIAL)], n)
        case "tiny":
            x = rng.integers(-(1 << 24), 1 << 24, n) * 2.0**-149
        case "wide":
            x = rng.standard_normal(n) * np.exp(rng.standard_normal(n) * 12)
        case "ones":
            x = rng.choice(np.array([1.0, -1.0, np.float32(1) - np.float32(2) ** -24, -np.float32(1) + np.float32(2) ** -24], np.float32), n)
        case _:
            raise ValueError(kind)
    return x.astype(np.float32).reshape(shape)


def first_inputs(family: str) -> dict[str, dict[str, Array]]:
    """Of the first micro-batch."""
    training = trainings.load(family)
    p = training.program
    return {
        "state": trainings.initial(p), "acc": {n: np.zeros(t.shape, reference.NUMPY[t.dtype]) for n, t in p.accumulator.items()}, "frozen": {},
        "batch": trainings.batch(p, 0, 0), "scalar": dict(zip(p.scalars, training.schedule[0], strict=True)),
        "counter": {"step": np.array(0, np.int64), "micro": np.array(0, np.int64)},
    }  # fmt: skip
