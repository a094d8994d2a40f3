"""The memory that a program is said to need is never less than what a run takes, and not far from it.

What a run takes: the elements of all arrays that NumPy holds when a link is over (tracemalloc says so), what it takes more in between, and
what the native code holds as scratch. Everything runs in a thread of its own: with it goes its scratch.
"""

from __future__ import annotations

import gc
import os
import threading
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assay.exact.cases_of_products import products
from assay.exact.conformance import Writer, program
from assay.exact.cpu import Cpu
from assay.exact.inputs import Case
from assay.exact.memory import needed
from assay.exact.native.build import levels, library
from assay.exact.offload import Store
from assay.exact.trainings import FAMILIES, batch, initial, load
from assay.execute import Executor, Trace
from assay.state import Tensors
from tests.exact.support import Array, Route, floats, names, on
from tests.exact.test_plans import columns

FAST = Route(levels()[-1], 1)
SLOW = [pytest.param(route, marks=pytest.mark.slow) for route in (Route("numpy", 1), Route(levels()[-1], 2))]
routes = pytest.mark.parametrize("route", [FAST, *SLOW], ids=names)
OBJECTS = 1 << 16
"""Bytes of objects that the interpreter, in whatever thread, makes while a link runs; tracemalloc cannot tell them from arrays."""


def scratch() -> int:
    native = library()
    return native.scratch_bytes() if native else 0


def arrays() -> int:
    """Bytes of the elements of all NumPy arrays made since tracemalloc was started."""
    gc.collect()
    traces = tracemalloc.take_snapshot().traces._traces  # as tuples: the objects that it makes of them take longer than all that is measured
    return sum(size for domain, size, *_ in traces if domain == np.lib.tracemalloc_domain)


def alone(measure: Callable[[], int], threads: int) -> int:
    """What `measure` gives in a thread of its own, and the scratch that this thread held."""
    found: list[int] = []
    before = scratch()

    def run() -> None:
        gc.freeze()  # so that a collection looks at what the run makes, and not at every object of the tests before it
        tracemalloc.start()
        try:
            found.append(measure() + scratch() - before)
        finally:
            tracemalloc.stop()
            gc.unfreeze()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    while Path(f"/proc/self/task/{thread.native_id}").exists():  # Python is done with it a little before the system is
        os.sched_yield()
    assert threads > 1 or scratch() == before, "a thread's scratch outlives it"  # (threads of the engine's own do not end)
    return found[0]


def run_link(link: Callable[[], Tensors], traced: bool) -> tuple[Tensors, int]:
    """What a link gives, and the most that arrays took while it ran. (A trace makes roots besides, which are objects, so that what it takes
    in between is not to be told from them.)"""
    held, (now, _) = arrays(), tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    result = link()
    peak = tracemalloc.get_traced_memory()[1]
    return result, max(arrays(), held if traced else held + peak - now)


def result_of(executor: Executor, mode: str, part: str, *link: Any) -> Tensors:
    if mode == "traced":
        trace: Trace = getattr(executor, f"trace_{part}")(*link)
        return trace.output
    output: Tensors = getattr(executor, part)(*link, spend=mode == "in place")
    return output


def train(name: str, mode: str, threads: int, effort: int = 0, store: Store | None = None) -> int:
    """The most that arrays took in the second step. (In the first one, plans are made.)"""
    training = load(name)
    p = training.program
    executor = Executor(p, training.schedule, p.micro_batches, threads, effort=effort, store=store)
    state = {name: executor.kept(array) for name, array in initial(p).items()}
    most = 0
    for step in range(2):
        acc = executor.zero_acc(step, state)
        for m in range(p.micro_batches):
            given = batch(p, step, m)
            acc, micro = run_link(partial(result_of, executor, mode, "micro", step, m, state, acc, given), mode == "traced")
            most = max(most, micro) if step else 0
        state, update = run_link(partial(result_of, executor, mode, "update", step, state, acc), mode == "traced")
        most = max(most, update) if step else 0
        del acc
    return most


@routes
@pytest.mark.parametrize("name", FAMILIES)
def test_a_training_takes_no_more_than_it_is_said_to_need(name: str, route: Route) -> None:
    with on(route):
        need = needed(load(name).program, route.threads)
        taken = {mode: alone(partial(train, name, mode, route.threads), route.threads) for mode in ("in place", "kept", "traced")}
    assert max(taken.values()) <= need + OBJECTS
    assert route.level == "numpy" or need <= 2 * max(taken.values())


@routes
@pytest.mark.parametrize("effort", [1, 2])
def test_nor_does_one_that_makes_values_again(effort: int, route: Route) -> None:
    with on(route):
        need = needed(load("bert").program, route.threads, effort)
        taken = [alone(partial(train, "bert", mode, route.threads, effort), route.threads) for mode in ("in place", "kept", "traced")]
    assert max(taken) <= need + OBJECTS


@pytest.mark.skipif(library() is None, reason="windows are of the native route")
@pytest.mark.parametrize("name", ["gpt", "batchnorm"])
def test_nor_does_one_whose_state_is_in_files(name: str, tmp_path: Path) -> None:
    window = 1 << 14
    with on(FAST):
        need = needed(load(name).program, 1, 0, window)
        taken = [alone(partial(train, name, mode, 1, 0, Store(tmp_path, window)), 1) for mode in ("in place", "traced")]
        assert need < needed(load(name).program)
    assert max(taken) <= need + OBJECTS


def convolutions() -> Case:
    shapes = ((3, 4, 18, 18), (2, 3, 18), (2, 3, 3 * 64))
    inputs: list[Array] = [floats(np.random.default_rng(seed), shape, "normal") for seed, shape in enumerate(shapes)]
    w = Writer(*inputs)
    forward = w("matmul", 1, columns(w, 0, 3, 2, 2, 3, 4, 8))
    backward = w("matmul", 2, w("permute", columns(w, 0, 3, 2, 2, 3, 4, 8), axes=(0, 2, 1)))
    return Case("convolutions", w.part(forward, backward), tuple(inputs), 14)


@routes
def test_products_and_convolutions_take_no_more_than_they_are_said_to_need(route: Route) -> None:
    with on(route):
        for case in (convolutions(), *products()):
            p = program(case.part, case.gemm_bits)
            cpu, given = Cpu(p, route.threads), {"batch": {f"x{i}": a for i, a in enumerate(case.inputs)}}

            def run() -> Tensors:
                return cpu.run("micro", given)  # noqa: B023

            def again() -> int:
                run()  # makes the plan
                return run_link(run, False)[1]

            taken = alone(again, route.threads)
            assert taken + sum(a.nbytes for a in case.inputs) <= needed(p, route.threads) + OBJECTS, case.name
