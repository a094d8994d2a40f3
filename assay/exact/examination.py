"""Whether this machine's arithmetic can be trusted: every operator and every family of models, on every route that it has.

A route is what computes (NumPy, the native library at a SIMD level, a CUDA device) and with how many threads. Each must give the committed digests
(assay.exact.conformance) and reach the committed state roots (assay.exact.trainings), which come only from the NumPy reference. Where
one does not, the reference is run here, too, to say which operator, which element, and whether it is the reference itself that differs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from assay.exact import conformance, engines, faults, reference, trainings
from assay.exact.hashing import tensor_root
from assay.exact.inputs import program
from assay.exact.native import build

Array = NDArray[Any]
NUMPY = "numpy"
CUDA, FAKE = "cuda", "fake"
DEVICES = (CUDA, FAKE)


class Route(NamedTuple):
    level: str
    """numpy, a SIMD level of the native library, cuda, or the fake device."""
    threads: int

    def __str__(self) -> str:
        return self.level if self.level in (NUMPY, *DEVICES) else f"{self.level}, {self.threads} thread{'s' * (self.threads > 1)}"


class Reason(NamedTuple):
    means: str
    next: str


OTHER_REFERENCE = Reason(
    "the NumPy reference itself gives other bits here than where the digests were published: NumPy, Python or this processor computes"
    " wrongly, or the installed files do not belong together",
    "install Assay and NumPy anew and run this again; if it stays, take this machine out of service",
)
WRONG_ROUTE = Reason(
    "this route computes wrongly, and the same way each time: the compiler that built it, or the instructions that it uses, are at fault",
    "try another compiler (CC=clang) or other instructions (ASSAY_SIMD=portable); report it with the output of --json",
)
UNSTEADY = Reason(
    "it came out right when it was run again: the processor or the memory of this machine is unsteady (heat, overclocking, a bad module)",
    "test its memory and its cooling, undo any overclocking; what it has computed so far is doubtful",
)
CHECKSUM = Reason("a matrix product failed its checksum twice in a row: a processor or memory of this machine is faulty", UNSTEADY.next)
UNFINISHED = Reason("the engine gave up instead of giving a result: something else on this machine is in its way", "mend what the message names")


class Failed(NamedTuple):
    what: str
    """Case or training."""
    where: str
    means: str
    next: str
    """What to do about it."""


class Result(NamedTuple):
    route: Route
    checks: int
    failed: list[Failed]
    seconds: dict[str, float]
    """Part of the examination (operators, then each family) -> how long it took."""


def routes(every: bool = True) -> list[Route]:
    """All routes of this machine, or only the one that the engine takes by default (on a CPU)."""
    native = build.library() is not None
    if not every:
        return [Route(build.level() if native else NUMPY, 1)]
    cuda = [Route(CUDA, 1)] if engines.chosen() != "cpu" and engines.why_not() is None else []
    return [Route(NUMPY, 1)] + [Route(level, threads) for level in (build.levels() if native else []) for threads in (1, 2)] + cuda


@contextmanager
def forced(route: Route) -> Iterator[None]:
    """Engines made meanwhile take this route."""
    keys = ("ASSAY_NATIVE", "ASSAY_SIMD", engines.VARIABLE)
    before = {key: os.environ.pop(key, None) for key in keys}
    if route.level in DEVICES:
        os.environ[engines.VARIABLE] = route.level
    else:
        os.environ |= {engines.VARIABLE: "cpu"} | ({"ASSAY_NATIVE": "0"} if route.level == NUMPY else {"ASSAY_SIMD": route.level})
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
    want, out = conformance.expected(), []
    with forced(route):
        if route.level in DEVICES:
            engines.prepare(route.level, [program(case.part, case.gemm_bits) for case in conformance.cases()])
        for case in conformance.cases():
            try:
                if not conformance.matches(case, want.get(case.name), route.threads):
                    out.append(Failed(case.name, *_explained(case, want.get(case.name), route.threads)))
            except Exception as error:  # an engine that raises, whatever it is, has not passed
                out.append(Failed(case.name, *_raised(error)))
    return out


def _raised(error: Exception) -> tuple[str, str, str]:
    if isinstance(error, faults.HardwareFault):
        return "the checksums of its matrix products", *CHECKSUM
    return f"{type(error).__name__}: {error}", *UNFINISHED


def _explained(case: conformance.Case, want: str | None, threads: int) -> tuple[str, str, str]:
    """(where, what it means, what to do) of a case that came out wrong: run once more beside the reference."""
    values = [np.asarray(v) for v in reference.evaluate(case.part, case.inputs, case.gemm_bits)]
    right, first = [values[o.value] for o in case.part.outputs], len(case.inputs)
    if conformance.digest_of(right) != want:
        return "the NumPy reference", *OTHER_REFERENCE
    got = conformance.run(case, threads)
    differ = [i for i, (x, y) in enumerate(zip(got, right, strict=True)) if np.asarray(x).tobytes() != y.tobytes()]
    stages = conformance.stages(case, threads)
    wrong = [i for i, (root, value) in enumerate(zip(stages, values[first:], strict=True)) if root != tensor_root(value)]
    if differ:
        makers = {i: case.part.outputs[i].value - first for i in differ}
        culprit = wrong[0] if wrong else makers[differ[0]]
        at = next((i for i in differ if makers[i] == culprit), differ[0])
        seen = "" if makers[at] == culprit else f", seen in operator {case.part.nodes[makers[at]].op}"
        where = f"operator {case.part.nodes[culprit].op}{seen}, {_first(got[at], right[at])}; {len(differ)} of {len(right)} results differ"
        return where, *WRONG_ROUTE
    if wrong:
        return f"operator {case.part.nodes[wrong[0]].op}, stage {wrong[0]} of its trace (the results are right)", *WRONG_ROUTE
    return "nowhere when it was run again", *UNSTEADY


def trained(route: Route, name: str, steps: int = trainings.STEPS) -> list[Failed]:
    """One, if the family's training leaves the committed states on a route."""
    what = f"training {name}"
    with forced(route):
        try:
            wrong = trainings.failure(name, trainings.expected()[name], route.threads, steps)
            if wrong is None:
                return []
            where = trainings.first_difference(name, wrong, route.threads)
            if where:
                return [Failed(what, where, *WRONG_ROUTE)]
            at = f"the state after {wrong} step{'s' * (wrong > 1)}"
            if trainings.from_reference(name, wrong)[str(wrong)] != trainings.expected()[name].get(str(wrong)):
                return [Failed(what, f"{at}, by the NumPy reference", *OTHER_REFERENCE)]
            return [Failed(what, f"{at}; nowhere when it was run again beside the reference", *UNSTEADY)]
        except Exception as error:  # as above
            return [Failed(what, *_raised(error))]


def large(route: Route) -> list[Failed]:
    """One, if the training at the sizes of real ones leaves the committed states."""
    return trained(route, trainings.LARGE, trainings.LARGE_STEPS)


def examine(every: bool = True, steps: int = trainings.STEPS) -> Iterator[Result]:
    """Route after route."""
    for route in routes(every):
        parts: dict[str, Callable[[], list[Failed]]] = {"operators": partial(operators, route)}
        parts |= {name: partial(trained, route, name, steps) for name in trainings.FAMILIES}
        if route.level in DEVICES:
            parts[trainings.LARGE] = partial(large, route)
        failed: list[Failed] = []
        seconds = {}
        for part, work in parts.items():
            start = time.perf_counter()
            failed += work()
            seconds[part] = time.perf_counter() - start
        yield Result(route, len(conformance.expected()) + len(parts) - 1, failed, seconds)
