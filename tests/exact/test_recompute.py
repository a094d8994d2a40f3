"""Values made again rather than kept: every root is the one it would have been, the memory is less, and a node that has only so much takes
a job that it could not take before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from assay import merkle
from assay.engine import AnyEngineResult, AnyEngineTask, CheckFile, Failure, FileChecked, JobFiles, LinksRun, RunLinks
from assay.exact import trainings
from assay.exact.conformance import Writer, program
from assay.exact.cpu import Cpu
from assay.exact.memory import fitting, needed
from assay.exact.native.build import levels
from assay.exact.recompute import EFFORTS, written
from assay.exact.table import TensorType
from assay.execute import Executor
from assay.ids import Digest
from assay.program import Input, Part, Program, cost
from assay.sampling import record_indices
from assay.segment import Segment
from assay.stages import program_root
from assay.state import Tensors, state_root, to_bytes
from assay.work import Engine
from tests.exact.support import Route, floats, names, on

routes = pytest.mark.parametrize("route", [Route("numpy", 1), Route(levels()[-1], 2)], ids=names)
DEEP, WIDE, ROWS = 24, 64, 128


def deep() -> Program:
    """DEEP layers of tanh after a product with one matrix, and the product of each with what comes back: a backward pass in outline."""
    w = Writer(np.zeros((ROWS, WIDE), np.float32), np.zeros((WIDE, WIDE), np.float32))
    w.inputs[1] = Input(kind="state", name="param.w", type=w.inputs[1].type)
    x, kept = 0, []
    for _ in range(DEEP):
        x = w("tanh", w("matmul", x, 1))
        kept.append(x)
    back = x
    for y in reversed(kept):
        back = w("mul", w("matmul", back, 1), w("sub", w.f32(1), w("mul", y, y)))
    return program(w.part(back), 14)


def wanted(name: str, steps: int) -> dict[str, str]:
    return {n: root for n, root in trainings.expected()[name].items() if int(n) <= steps}


def reached(name: str, effort: int, steps: int) -> dict[str, str]:
    training = trainings.load(name)
    return {str(n): root.hex() for n, root in trainings.roots(training, Cpu(training.program, 1, effort).run, steps).items()}


@pytest.mark.parametrize("effort", [1, 2])
@pytest.mark.parametrize("name", trainings.FAMILIES)
def test_trainings_reach_the_published_states(name: str, effort: int) -> None:
    assert reached(name, effort, 3) == wanted(name, 3)


@pytest.mark.slow
@pytest.mark.parametrize("effort", EFFORTS[1:])
@pytest.mark.parametrize("name", trainings.FAMILIES)
def test_whole_trainings_reach_the_published_states(name: str, effort: int) -> None:
    assert reached(name, effort, trainings.STEPS) == wanted(name, trainings.STEPS)


@routes
@pytest.mark.parametrize("name", ["gpt", "lstm", "vit"])
def test_the_trace_of_a_link_is_that_of_the_program_as_it_is_written(name: str, route: Route) -> None:
    training = trainings.load(name)
    p, state = training.program, trainings.initial(training.program)
    with on(route):
        traces = []
        for effort in (0, 1, 2):
            assert effort == 0 or len(written(p.micro, effort).part.nodes) > len(p.micro.nodes), "nothing would be made again"
            executor = Executor(p, training.schedule, p.micro_batches, route.threads, effort=effort)
            traces.append(executor.trace_micro(0, 0, state, executor.zero_acc(0, state), trainings.batch(p, 0, 0)))
    assert traces[0].leaves == traces[1].leaves == traces[2].leaves


@routes
def test_a_deep_model_needs_a_fraction(route: Route) -> None:
    with on(route):
        p = deep()
        least = min(needed(p, route.threads, effort) for effort in EFFORTS)
        own = ROWS * WIDE * 4
        assert needed(p, route.threads) - least > 10 * own  # of the 24 that are kept else
        given = {
            "batch": {"x0": floats(np.random.default_rng(0), (ROWS, WIDE), "normal")},
            "state": {"param.w": floats(np.random.default_rng(1), (WIDE, WIDE), "normal") / np.float32(8)},
        }
        results = [Cpu(p, route.threads, effort).run("micro", given) for effort in EFFORTS]
    assert len({result[o.name].tobytes() for result in results for o in p.micro.outputs}) == 1


def test_no_more_arithmetic_is_done_twice_than_a_limit_asks_for() -> None:
    p = deep()
    plain = needed(p)
    assert fitting(p, 1, plain) == (0, plain, 0, 0)
    works = []
    for limit in np.linspace(plain - 1, min(needed(p, 1, effort) for effort in EFFORTS), 5):
        fit = fitting(p, 1, int(limit))
        assert fit.bytes == needed(p, 1, fit.effort) <= limit
        works.append(cost(written(p.micro, fit.effort).part).flops)
        less = [e for e in EFFORTS if cost(written(p.micro, e).part).flops < works[-1]]
        assert all(needed(p, 1, effort) > limit for effort in less)
    assert works == sorted(works)
    assert works[0] < works[-1]
    assert works[-1] < 1.5 * cost(p.micro).flops  # at most the forward pass once more
    assert fitting(p, 1, 1000).bytes == min(needed(p, 1, effort) for effort in EFFORTS)


def test_nothing_is_made_again_where_nothing_is_kept() -> None:
    x = Input(kind="batch", name="x0", type=TensorType(dtype="f32", shape=(3,)))
    assert all(written(Part(inputs=(x,), nodes=(), outputs=()), effort) == (Part(inputs=(x,), nodes=(), outputs=()), ()) for effort in EFFORTS)


# ---- a node with little memory -------------------------------------------------------------------------------------------


def perform(root: Path, task: AnyEngineTask) -> AnyEngineResult:
    return Engine(root).perform(task, lambda _: None)


def test_a_node_takes_a_job_that_it_could_not_take_before(tmp_path: Path) -> None:
    training = trainings.load("gpt")
    p, state, order = training.program, trainings.initial(training.program), merkle.sha256(b"order")
    plain, least = needed(p), min(needed(p, 1, effort) for effort in EFFORTS)
    assert least < plain
    (tmp_path / "job-1").mkdir()
    (tmp_path / "segment-1").mkdir()
    (tmp_path / "job-1" / "program.json").write_bytes(p.dump())
    (tmp_path / "job-1" / "schedule.bin").write_bytes(training.schedule.tobytes())
    (tmp_path / "segment-1" / "state-0.safetensors").write_bytes(to_bytes(state))
    tokens = np.concatenate([trainings.batch(p, step, 0)["tokens"] for step in range(4)])
    np.save(tmp_path / "segment-1" / "records-0-0.npy", tokens)

    found = perform(tmp_path, CheckFile(folder="job-1", memory=least, flops=1 << 40))
    assert isinstance(found, FileChecked)
    assert found.peak_memory == least
    refused = perform(tmp_path, CheckFile(folder="job-1", memory=least - 1, flops=1 << 40))
    assert isinstance(refused, Failure)
    assert str(least) in refused.error

    job = JobFiles(
        folder="job-1", program_root=program_root(p), schedule_root=Executor(p, training.schedule, p.micro_batches).schedule_root,
        scalars=len(p.scalars), micro_batches=p.micro_batches, batch=trainings.BATCH, order=order, fields=("tokens",),
        shard_records=(len(tokens),), memory=least,
    )  # fmt: skip
    task = RunLinks(job=job, segment="segment-1", start=0, stop=2, parent_root=state_root(0, state), keep=0)
    engine = Engine(tmp_path)
    done = engine.perform(task, lambda _: None)
    assert isinstance(done, LinksRun), done
    assert engine._executor(job).effort == fitting(p, 1, least).effort > 0

    def batches(step: int, m: int) -> Tensors:
        return {"tokens": tokens[record_indices(order, len(tokens), step, m, p.micro_batches, trainings.BATCH)]}

    folder = tmp_path / "plain"
    folder.mkdir()
    (folder / "state-0.safetensors").write_bytes(to_bytes(state))
    plainly = Segment(folder, Executor(p, training.schedule, p.micro_batches), batches, 0, Digest(task.parent_root), 0)
    plainly.run(2, lambda step, loss: None)
    assert done.end_root == plainly.root_before(2)
