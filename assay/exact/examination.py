"""Whether this machine's arithmetic can be trusted: every operator and every family of models, on every route that it has.

A route is what computes (NumPy, or the native library at a SIMD level) and with how many threads. Each must give the committed digests
(assay.exact.conformance) and reach the committed state roots (assay.exact.trainings), which come only from the NumPy reference. Where
one does not, the reference is run here, too, to say which operator, which element, and whether it is the reference itself that differs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from assay.exact import conformance, faults, reference, trainings
from assay.exact.cpu import Cpu
from assay.exact.native import build

Array = NDArray[Any]
NUMPY = "numpy"
_BROKEN = "this machine's processor, memory, compiler or NumPy computes wrongly: it must not work or verify before that is found"


class Route(NamedTuple):
    level: str
    """numpy, or a SIMD level of the native library."""
    threads: int

    def __str__(self) -> str:
        return NUMPY if self.level == NUMPY else f"{self.level}, {self.threads} thread{'s' * (self.threads > 1)}"


class Failed(NamedTuple):
    what: str
    """Case or training."""
    where: str
    means: str


class Result(NamedTuple):
    route: Route
    checks: int
    failed: list[Failed]


def routes(every: bool = True) -> list[Route]:
    """All routes of this machine, or only the one that the engine takes by default."""
    native = build.library() is not None
    if not every:
        return [Route(build.level() if native else NUMPY, 1)]
    return [Route(NUMPY, 1)] + [Route(level, threads) for level in (build.levels() if native else []) for threads in (1, 2)]


@contextmanager
def forced(route: Route) -> Iterator[None]:
    """Engines made meanwhile take this route."""
    keys = ("ASSAY_NATIVE", "ASSAY_SIMD")
    before = {key: os.environ.pop(key, None) for key in keys}
    os.environ |= {"ASSAY_NATIVE": "0"} if route.level == NUMPY else {"ASSAY_SIMD": route.level}
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value


def _first(got: Array, want: Array) -> str:
    """The first element that differs, with both bit patterns."""
    unsigned = np.dtype(f"<u{want.dtype.itemsize}")
    a, b = (np.ascontiguousarray(x).reshape(-1).view(unsigned) for x in (got, want))
    at = int(np.flatnonzero(a != b)[0])
    index = ", ".join(str(int(i)) for i in np.unravel_index(at, want.shape))
    return f"element [{index}] is 0x{int(a[at]):x}, must be 0x{int(b[at]):x}"


def operators(route: Route) -> list[Failed]:
    """Cases of the conformance set that a route gets wrong."""
    out = []
    with forced(route):
        try:
            wrong = set(conformance.failures(route.threads))
        except faults.HardwareFault as fault:
            return [Failed("matrix products", "their checksums", str(fault))]
        for case in conformance.cases():
            if case.name not in wrong:
                continue
            values = [np.asarray(v) for v in reference.evaluate(case.part, case.inputs, case.gemm_bits)]
            right = [values[o.value] for o in case.part.outputs]
            if conformance.digest_of(right) != conformance.expected().get(case.name):
                out.append(Failed(case.name, "the NumPy reference itself", f"it gives other bits here than where it was published: {_BROKEN}"))
                continue
            named = {"batch": {f"x{i}": a for i, a in enumerate(case.inputs)}}
            got = list(Cpu(conformance.program(case.part, case.gemm_bits), route.threads).run("micro", named).values())
            differ = [i for i, (x, y) in enumerate(zip(got, right, strict=True)) if np.asarray(x).tobytes() != y.tobytes()]
            if not differ:
                out.append(Failed(case.name, "nowhere when it was run again", f"a passing fault: {_BROKEN}"))
                continue
            o = case.part.outputs[differ[0]]
            node = case.part.nodes[o.value - len(case.part.inputs)]
            where = f"operator {node.op}: {_first(got[differ[0]], right[differ[0]])}"
            out.append(Failed(case.name, where, f"{len(differ)} results differ: {_BROKEN}"))
    return out


def trained(route: Route, steps: int = trainings.STEPS) -> list[Failed]:
    """Trainings that leave the committed states on a route."""
    out = []
    with forced(route):
        for name in trainings.FAMILIES:
            what = f"training {name}"
            try:
                wrong = trainings.failures(name, trainings.expected()[name], route.threads, steps)
                if not wrong:
                    continue
                where = trainings.first_difference(name, wrong[0], route.threads)
            except faults.HardwareFault as fault:
                out.append(Failed(what, "checksums of its matrix products", str(fault)))
                continue
            where = where or f"the state after {wrong[0]} steps; not seen again beside the reference: a passing fault, or the reference differs"
            out.append(Failed(what, where, f"the state root after {wrong[0]} steps is not the committed one: {_BROKEN}"))
    return out


def examine(every: bool = True, steps: int = trainings.STEPS) -> Iterator[Result]:
    """Route after route."""
    checks = len(conformance.expected()) + len(trainings.FAMILIES)
    for route in routes(every):
        yield Result(route, checks, operators(route) + trained(route, steps))
