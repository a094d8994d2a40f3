"""Results over the inputs that a caller gives up: the same bits, one copy of the state, and nothing of what the caller keeps is touched."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from assay.exact import faults, reference
from assay.exact.conformance import Writer, program
from assay.exact.cpu import Cpu
from assay.exact.native.build import levels
from assay.execute import Executor
from assay.ids import Digest
from assay.local import run_local
from assay.program import Part
from assay.state import BadTensors, Tensors, acc_root, state_root
from tests.exact.mlp import MICRO_BATCHES, SCHEDULE, batch, initial_state, mlp
from tests.exact.support import ROUTES, Array, Route, names, on, same

NATIVE = [Route(level, threads) for level in levels() for threads in (1, 2)]
STEPS = 5


def links(spend: bool, threads: int = 1) -> tuple[list[Digest], Tensors]:
    executor = Executor(mlp(), SCHEDULE, MICRO_BATCHES, threads)
    state, ends = initial_state(), []
    for step in range(STEPS):
        acc = executor.zero_acc(step, state)
        for m in range(MICRO_BATCHES):
            acc = executor.micro(step, m, state, acc, batch(step, m), spend=spend)
            ends.append(acc_root(step, m + 1, acc))
        state = executor.update(step, state, acc, spend=spend)
        ends.append(state_root(step + 1, state))
    return ends, state


@pytest.mark.parametrize("route", ROUTES, ids=names)
def test_a_training_in_place_has_the_same_roots(route: Route) -> None:
    with on(route):
        kept, spent = links(False, route.threads), links(True, route.threads)
    assert kept[0] == spent[0]
    assert state_root(0, kept[1]) == state_root(0, spent[1])


@pytest.mark.parametrize("route", NATIVE, ids=names)
def test_one_state_and_one_accumulator_are_all_that_a_training_holds(route: Route) -> None:
    with on(route):
        executor, state = Executor(mlp(), SCHEDULE, MICRO_BATCHES, route.threads), initial_state()
    acc = executor.zero_acc(0, state)
    places = {name: array.ctypes.data for name, array in (state | acc).items()}
    for step in range(2):
        for m in range(MICRO_BATCHES):
            acc = executor.micro(step, m, state, acc, batch(step, m), spend=True)
        assert {name: array.ctypes.data for name, array in acc.items()}.items() <= places.items()
        state = executor.update(step, state, acc, spend=True)
        assert {name: array.ctypes.data for name, array in state.items() if name != "metric.loss"}.items() <= places.items()
        acc = executor.zero_acc(step + 1, state)
        assert not any(array.any() for array in acc.values())


@pytest.mark.parametrize("route", ROUTES, ids=names)
def test_what_the_caller_keeps_stays(route: Route) -> None:
    """A parent's state is served, replayed and run again: only `spend` may touch it."""
    with on(route):
        executor, state = Executor(mlp(), SCHEDULE, MICRO_BATCHES, route.threads), initial_state()
        parent, first = {name: array.copy() for name, array in state.items()}, executor.zero_acc(0, state)
        acc = executor.micro(0, 0, state, first, batch(0, 0))
        held = {name: array.copy() for name, array in acc.items()}
        after = executor.micro(0, 1, state, {name: array.copy() for name, array in acc.items()}, batch(0, 1), spend=True)
        executor.trace_update(0, state, after)
        executor.update(0, executor.update(0, state, after), after, spend=True)
        run_local(mlp(), SCHEDULE[:3], state, lambda _: batch(0, 0), 9, Digest(bytes(32)), threads=route.threads)
    assert all(same(state[name], parent[name]) for name in parent), "the parent's state changed"
    assert all(same(acc[name], held[name]) for name in held), "an accumulator that was not given up changed"
    assert not any(array.any() for array in first.values())


def test_what_is_spent_is_gone() -> None:
    executor, state = Executor(mlp(), SCHEDULE, MICRO_BATCHES), initial_state()
    acc = executor.zero_acc(0, state)
    with pytest.raises(BadTensors, match="batch lacks"):
        executor.micro(0, 0, state, acc, {}, spend=True)
    assert acc, "a refused call takes nothing"
    after = executor.micro(0, 0, state, acc, batch(0, 0), spend=True)
    assert not acc
    with pytest.raises(BadTensors, match="the accumulator lacks"):
        executor.micro(0, 0, state, acc, batch(0, 0))
    executor.update(0, state, after, spend=True)
    assert not state
    assert not after


@pytest.mark.parametrize("level", levels())
def test_what_is_spent_on_a_failed_link_is_gone(level: str) -> None:
    with on(Route(level, 1)):
        executor, state = Executor(mlp(), SCHEDULE, MICRO_BATCHES), initial_state()
        acc = executor.zero_acc(0, state)
        library = executor._engine._library
        assert library is not None
        library.inject(3, 5, 3, 2)
        with pytest.raises(faults.HardwareFault):
            executor.micro(0, 0, state, acc, batch(0, 0), spend=True)
        assert not acc


# ---- what may lie over what ------------------------------------------------------------------------------------------------


def entries(part: Part, slots: dict[int, int]) -> Part:
    """The part with its inputs as entries of the accumulator; output i is the next one of entry slots[i]."""
    inputs = tuple(msgspec.structs.replace(i, kind="acc") for i in part.inputs)
    outputs = tuple(msgspec.structs.replace(o, kind="acc", name=f"x{slots[i]}" if i in slots else o.name) for i, o in enumerate(part.outputs))
    return msgspec.structs.replace(part, inputs=inputs, outputs=outputs)


def overwritten(route: Route, part: Part, arrays: list[Array]) -> set[str]:
    """Runs a part on entries that are given up, and not, against the reference; the entries whose results lie where they did."""
    want = reference.evaluate(part, arrays, 14)
    with on(route):
        cpu = Cpu(program(part, 14), route.threads)
        kept = {f"x{i}": a.copy() for i, a in enumerate(arrays)}
        for given, spent in ((kept, ()), ({n: a.copy() for n, a in kept.items()}, ("acc",))):
            where = {n: a.ctypes.data for n, a in given.items()}
            got = cpu.run("micro", {"acc": given}, spent)
            for o in part.outputs:
                assert same(got[o.name], want[o.value]), f"{o.name} differs"
    assert all(same(kept[f"x{i}"], a) for i, a in enumerate(arrays)), "what was not given up changed"
    return {n for n, a in got.items() if where.get(n) == a.ctypes.data}


def two(n: int, seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((n, 6), np.float32) for _ in range(2)]


@pytest.mark.parametrize("route", NATIVE, ids=names)
@pytest.mark.parametrize("n", [1, 200, 3000])
def test_each_entry_lies_over_its_own_where_no_element_is_read_later(route: Route, n: int) -> None:
    arrays = two(n)
    w = Writer(*arrays)
    y = w("add", 0, 1)
    assert overwritten(route, entries(w.part(y, w("mul", y, w("sub", 1, 0))), {0: 0, 1: 1}), arrays) == {"x0", "x1"}
    # The first result is there before the last reader of what it would lie over has run: it waits for it.
    w = Writer(*arrays)
    y = w("add", 0, 1)
    z = w("exp", w("neg", w("mul", y, 0)))
    assert overwritten(route, entries(w.part(y, w("add", z, 0)), {0: 0, 1: 1}), arrays) == {"x0", "x1"}
    # Through a sum of the old values, which comes first.
    w = Writer(*arrays)
    total = w("sum", w("mul", 0, 0), axes=(0, 1), keepdim=True)
    assert overwritten(route, entries(w.part(w("div", 0, total), w("add", 1, total)), {0: 0, 1: 1}), arrays) == {"x0", "x1"}


@pytest.mark.parametrize("route", NATIVE, ids=names)
def test_what_is_read_elsewhere_or_later_is_left_alone(route: Route) -> None:
    arrays = two(3000)
    cases: list[tuple[Any, set[str]]] = []

    def case(over: set[str], slots: dict[int, int], build: Any) -> None:
        w = Writer(*arrays)
        cases.append((entries(w.part(*build(w)), slots), over))

    case(set(), {0: 0}, lambda w: [w("add", w("reverse", 0, axis=0), 1)])  # another element of it
    case(set(), {0: 0}, lambda w: [w("add", w("slice", 0, axis=0, start=0, stop=1, step=1), 1)])  # one for all
    case(set(), {0: 0}, lambda w: [w("add", w("reverse", 0, axis=1), 0)])  # its own and another
    case(set(), {0: 0}, lambda w: [w("add", 0, 1), w("sum", 0, axes=(0,), keepdim=False)])  # read by a later step
    case({"x0"}, {0: 0, 1: 1}, lambda w: [w("reverse", 1, axis=0), w("add", w("reverse", 0, axis=0), w("neg", 0))])
    case({"x1"}, {0: 0, 1: 1}, lambda w: [w("reshape", 1, shape=(3000, 6)), w("reshape", 0, shape=(3000, 6))])  # changed places
    for part, over in cases:
        assert overwritten(route, part, arrays) == over


@pytest.mark.parametrize("route", NATIVE, ids=names)
@pytest.mark.parametrize("seed", range(8))
def test_random_parts_over_their_inputs(route: Route, seed: int) -> None:
    """Whatever reads what, in whatever order."""
    rng = np.random.default_rng(seed)
    n = int(rng.choice([5, 1024, 2600]))
    arrays = [rng.standard_normal((n, 3)).astype(np.float32) for _ in range(4)]
    arrays += [rng.integers(-9, 9, (n, 3)) for _ in range(2)]
    w = Writer(*arrays)
    kinds: dict[str, list[int]] = {"f32": [0, 1, 2, 3], "i64": [4, 5]}
    for _ in range(30):
        kind = str(rng.choice(["f32", "f32", "i64"]))
        a, b = (int(x) for x in rng.choice(kinds[kind], 2))
        match int(rng.integers(7)):
            case 0:
                kinds[kind].append(w("reverse", a, axis=int(rng.integers(2))))
            case 1 if kind == "f32":
                kinds[kind].append(w("sub", b, w("sum", a, axes=(0,), keepdim=True)))
            case 2:
                kinds["i64" if kind == "f32" else "f32"].append(w("cast", a, dtype="i64" if kind == "f32" else "f32"))
            case _:
                kinds[kind].append(w(str(rng.choice(["add", "sub", "mul"])), a, b))
    results = [int(x) for x in rng.choice(kinds["f32"], 4)] + [int(x) for x in rng.choice(kinds["i64"], 2)]
    overwritten(route, entries(w.part(*results), dict(enumerate(range(6)))), arrays)


@pytest.mark.parametrize("route", NATIVE, ids=names)
def test_shared_and_read_only_memory_is_left_alone(route: Route) -> None:
    arrays = two(2000)
    w = Writer(*arrays)
    part = entries(w.part(w("add", 0, 1), w("mul", 0, 1)), {0: 0, 1: 1})
    want = [arrays[0] + arrays[0], arrays[0] * arrays[0]]
    both = np.concatenate([arrays[0], arrays[0]])
    fixed = arrays[0].copy()
    fixed.flags.writeable = False
    with on(route):
        cpu = Cpu(program(part, 14), route.threads)
        for x0, x1 in ((arrays[0], arrays[0]), (arrays[0], arrays[0][:]), (fixed, fixed.copy()), (fixed.copy(), fixed)):
            got = cpu.run("micro", {"acc": {"x0": x0, "x1": x1}}, ("acc",))
            assert [got[o.name].tobytes() for o in part.outputs] == [a.tobytes() for a in want]
        got = cpu.run("micro", {"acc": {"x0": both[:2000], "x1": both[2000:]}}, ("acc",))  # side by side
        assert got["x1"].ctypes.data == both[2000:].ctypes.data
    assert same(fixed, arrays[0])
