"""A whole training by hand: the same roots on every route, a loss that falls, traces that end where the run ends, and clear refusals."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import msgspec
import numpy as np
import pytest

from assay import merkle
from assay.exact import numpy_route, reference
from assay.exact.cpu import Cpu
from assay.exact.memory import needed
from assay.execute import Executor
from assay.ids import Digest
from assay.program import Program, ProgramError
from assay.state import BadTensors, Tensors, acc_root, batch_root, state_root, tensor_root
from tests.exact.mlp import MICRO_BATCHES, SCHEDULE, batch, initial_state, mlp
from tests.exact.support import ROUTES, Route, names, on


@dataclass
class Run:
    losses: list[float]
    links: list[Digest]
    state: Tensors


def train(route: Route, steps: int) -> Run:
    with on(route):
        executor = Executor(mlp(), SCHEDULE, MICRO_BATCHES, route.threads)
        run = Run([], [], initial_state())
        for step in range(steps):
            acc = executor.zero_acc(step, run.state)
            for m in range(MICRO_BATCHES):
                acc = executor.micro(step, m, run.state, acc, batch(step, m))
                run.links.append(acc_root(step, m + 1, acc))
            run.losses.append(float(acc["loss"]) / MICRO_BATCHES)
            run.state = executor.update(step, run.state, acc)
            run.links.append(state_root(step + 1, run.state))
        return run


@pytest.fixture(scope="module")
def by_reference() -> list[Digest]:
    """Link ends of twelve steps, through the specification alone."""
    program, state, links = mlp(), initial_state(), []
    for step in range(12):
        acc = {name: np.zeros(t.shape, np.float32) for name, t in program.accumulator.items()}
        for m in range(MICRO_BATCHES):
            given = {"state": state, "acc": acc, "batch": batch(step, m)}
            values = reference.evaluate(program.micro, [given[i.kind][i.name] for i in program.micro.inputs], program.gemm_bits)
            acc = {o.name: np.asarray(values[o.value]) for o in program.micro.outputs}
            links.append(acc_root(step, m + 1, acc))
        given = {"state": state, "acc": acc, "scalar": {"lr": SCHEDULE[step, 0]}}
        values = reference.evaluate(program.update, [np.asarray(given[i.kind][i.name]) for i in program.update.inputs], program.gemm_bits)
        state = state | {o.name: np.asarray(values[o.value]) for o in program.update.outputs}
        links.append(state_root(step + 1, state))
    return links


@pytest.mark.parametrize("route", ROUTES, ids=names)
def test_training_has_the_references_roots_on_every_route(route: Route, by_reference: list[Digest]) -> None:
    assert train(route, 12).links == by_reference


def test_training_learns() -> None:
    run = train(ROUTES[-1], 30)
    assert run.losses[0] > 1.2
    assert run.losses[-1] < 0.35 * run.losses[0]
    assert run.state["buffer.decay"] == np.float32(0.9)  # an entry without an output stays


@pytest.mark.parametrize("route", ROUTES, ids=names)
def test_a_trace_binds_its_link(route: Route) -> None:
    program, state = mlp(), initial_state()
    with on(route):
        executor = Executor(program, SCHEDULE, MICRO_BATCHES, route.threads)
        acc0, data = executor.zero_acc(3, state), batch(3, 1)
        acc = executor.micro(3, 1, state, acc0, data)
        trace = executor.trace_micro(3, 1, state, acc0, data)
        assert acc_root(3, 2, trace.output) == acc_root(3, 2, acc) == trace.leaves[-1]
        assert len(trace.leaves) == program.micro_leaves
        assert trace.root == merkle.root_of(trace.leaves)
        read = {name: data[name] for name in ("x", "y")}
        roots = (state_root(3, state), acc_root(3, 1, acc0), batch_root(read), tensor_root(SCHEDULE))
        assert trace.leaves[0] == merkle.sha256(b"\x14", executor.root, b"\0" + bytes(7) + b"\3" + bytes(3) + b"\1", *roots)
        given = {"state": state, "acc": acc0, "batch": data}
        values = reference.evaluate(program.micro, [given[i.kind][i.name] for i in program.micro.inputs], program.gemm_bits)
        assert list(trace.leaves[1:-1]) == [tensor_root(np.asarray(v)) for v in values[len(program.micro.inputs) :]]
        first = executor.trace_micro(3, 0, state, acc0, data)  # its accumulator follows from the state
        roots = (state_root(3, state), Digest(bytes(32)), batch_root(read), tensor_root(SCHEDULE))
        assert first.leaves[0] == merkle.sha256(b"\x14", executor.root, b"\0" + bytes(7) + b"\3" + bytes(4), *roots)
        update = executor.trace_update(3, state, acc)
        after = executor.update(3, state, acc)
        assert update.leaves[-1] == state_root(4, after) == state_root(4, update.output)
        assert len(update.leaves) == program.update_leaves
        roots = (state_root(3, state), acc_root(3, 2, acc), batch_root({}), tensor_root(SCHEDULE))
        assert update.leaves[0] == merkle.sha256(b"\x14", executor.root, b"\1" + bytes(7) + b"\3" + bytes(3) + b"\2", *roots)


def test_results_are_never_overwritten() -> None:
    """The memory of results is used again, but only when nobody holds them any more."""
    executor = Executor(mlp(), SCHEDULE, MICRO_BATCHES)
    state = initial_state()
    acc = executor.zero_acc(0, state)
    held = [executor.micro(0, 0, state, acc, batch(step, 0)) for step in range(6)]
    part_of_one = executor.micro(0, 0, state, acc, batch(6, 0))["grad.w1"][3:, :2]
    roots = [acc_root(0, 1, a) for a in held]
    kept = part_of_one.copy()
    assert len(set(roots)) > 1
    for step in range(6, 12):
        executor.micro(0, 0, state, acc, batch(step, 1))
    assert [acc_root(0, 1, a) for a in held] == roots
    assert np.array_equal(part_of_one, kept)


def test_threads_may_share_an_executor(by_reference: list[Digest]) -> None:
    executor = Executor(mlp(), SCHEDULE, MICRO_BATCHES, threads=2)
    state = initial_state()
    acc, roots = executor.zero_acc(0, state), []

    def run() -> None:
        for _ in range(20):
            roots.append(acc_root(0, 1, executor.micro(0, 0, state, acc, batch(0, 0))))

    workers = [threading.Thread(target=run) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert set(roots) == {by_reference[0]}
    assert len(roots) == 60


def test_a_fresh_thread_needs_no_scratch_memory_from_before() -> None:
    """A step without registers asks for no bytes; scratch memory is the thread's own."""
    executor = Executor(mlp(), SCHEDULE, MICRO_BATCHES)
    state, out = initial_state(), []
    acc = executor.zero_acc(0, state)
    worker = threading.Thread(target=lambda: out.append(executor.update(0, state, acc)))
    worker.start()
    worker.join()
    assert state_root(1, out[0]) == state_root(1, executor.update(0, state, acc))


def test_inputs_may_lie_anywhere() -> None:
    """Fortran order, unaligned, big-endian: elements are what counts."""
    executor = Executor(mlp(), SCHEDULE, MICRO_BATCHES)
    state, data = initial_state(), batch(0, 0)
    acc = executor.zero_acc(0, state)
    want = acc_root(0, 1, executor.micro(0, 0, state, acc, data))
    raw = np.frombuffer(b"\0" + data["x"].tobytes(), np.uint8)[1:].view(np.float32).reshape(data["x"].shape)
    odd = state | {"param.w1": np.asfortranarray(state["param.w1"]), "param.w2": state["param.w2"].astype(">f4")}
    assert acc_root(0, 1, executor.micro(0, 0, odd, acc, data | {"x": raw})) == want


def test_a_new_step_starts_from_zeros() -> None:
    acc = Executor(mlp(), SCHEDULE, MICRO_BATCHES).zero_acc(0, initial_state())
    assert set(acc) == {"loss", "grad.w1", "grad.b1", "grad.w2", "grad.b2"}
    assert not any(a.any() for a in acc.values())


def test_wrong_tensors_are_refused_by_name() -> None:
    executor = Executor(mlp(), SCHEDULE, MICRO_BATCHES)
    state, data = initial_state(), batch(0, 0)
    acc = executor.zero_acc(0, state)
    x = data["x"]
    for bad, words in (
        ({"state": {n: a for n, a in state.items() if n != "param.b1"}}, "state lacks 'param.b1'"),
        ({"state": state | {"param.b1": np.zeros(22, np.float32)}}, "'param.b1' is float32"),
        ({"data": data | {"x": x.astype(np.float64)}}, "'x' is float64"),
        ({"data": data | {"x": x[:3]}}, "takes f32\\[9, 13\\]"),
        ({"state": state | {"cursor": np.zeros(1, np.int64)}}, "'cursor', which the program does not know"),
        ({"acc": acc | {"grad.w9": acc["loss"]}}, "'grad.w9', which the program does not know"),
    ):
        given = {"state": state, "acc": acc, "data": data} | bad
        with pytest.raises(BadTensors, match=words):
            executor.micro(0, 0, given["state"], given["acc"], given["data"])
    with pytest.raises(ValueError, match="micro-batch 2"):
        executor.micro(0, 2, state, acc, data)
    with pytest.raises(ValueError, match="step 30"):
        executor.update(30, state, acc)
    with pytest.raises(BadTensors, match="schedule"):
        Executor(mlp(), SCHEDULE[:, :0], MICRO_BATCHES)
    with pytest.raises(BadTensors, match="3 micro-batches"):
        Executor(mlp(), SCHEDULE, 3)


def test_an_unknown_operator_is_refused_by_name() -> None:
    program: Program = mlp()
    node = msgspec.structs.replace(program.micro.nodes[5], op="conjure")
    nodes = (*program.micro.nodes[:5], node, *program.micro.nodes[6:])
    bad = msgspec.structs.replace(program, micro=msgspec.structs.replace(program.micro, nodes=nodes))
    with pytest.raises(ProgramError, match="micro node 5: this engine has no operator 'conjure'"):
        Cpu(bad)


def test_numpy_products_of_any_width_are_exact() -> None:
    rng = np.random.default_rng(30)
    for bits in range(8, 24):
        most = (1 << (bits - 1)) - 1
        for k in (1, 70, 5000):
            a, b = (rng.integers(-most, most, shape, endpoint=True) for shape in ((3, k), (k, 2)))
            a[0], b[:, 0] = most, most
            assert np.array_equal(numpy_route.integer_product(a, b, bits), a @ b)


def test_many_micro_batches_are_one_sum_in_their_order() -> None:
    """A step of M micro-batches takes the memory of one, and its gradient is the sum of theirs, added up in order, each addition rounded."""
    many = 7
    program = msgspec.structs.replace(mlp(), micro_batches=many)
    assert needed(program) == needed(mlp())
    executor, state = Executor(program, SCHEDULE, many), initial_state()
    acc = zero = executor.zero_acc(0, state)
    alone = [executor.micro(0, m, state, zero, batch(0, m)) for m in range(many)]
    for m in range(many):
        acc = executor.micro(0, m, state, acc, batch(0, m))
    for name in acc:
        total = zero[name]
        for each in alone:
            total = np.asarray(total + each[name])
        assert acc[name].tobytes() == total.tobytes()
    exact = {name: sum(each[name].astype(np.float64) for each in alone) for name in acc}
    assert all(np.allclose(acc[name], exact[name], rtol=1e-5, atol=1e-6) for name in acc)
