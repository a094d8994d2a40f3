"""Several ranks give the bits of one: on every operator with every hard input, and over whole trainings, however the program is cut. A rank
that dies ends the link with an error and nothing else; the training goes on from the last state on disk to the same roots."""

from __future__ import annotations

import os
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assay.exact import conformance, numpy_route, trainings
from assay.exact.conformance import Case, Writer
from assay.exact.cpu import Cpu
from assay.exact.ranks.exchanges import RankLost
from assay.exact.ranks.places import BOTH, DATA, TENSOR, Layout, Split, even
from assay.exact.ranks.split import ranked
from assay.exact.ranks.team import Ask, Team, crew
from assay.exact.ranks.wire import DONE, GATHER, MAXIMUM, TOTAL, SocketComm, attend, receive, send
from assay.exact.table import TensorType
from assay.execute import Executor
from assay.segment import Segment
from assay.state import state_root, to_bytes
from tests.exact.support import Route, first_inputs, on

LAYOUTS = {"data": DATA, "tensor": TENSOR, "both": BOTH}
layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


def reached(name: str, layout: Layout, size: int, steps: int) -> dict[str, str]:
    training = trainings.load(name)
    with Team(training.program, layout, crew(size, processes=False)) as team:
        return {str(n): root.hex() for n, root in trainings.roots(training, team.run, steps).items()}


def wanted(name: str, steps: int) -> dict[str, str]:
    return {n: root for n, root in trainings.expected()[name].items() if int(n) <= steps}


# ---- the same bits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [2, 3])
def test_every_case_of_the_conformance_set(ranks: int) -> None:
    """Inputs are cut along their first axis, unevenly by three; what is summed along it goes through the exchanges."""
    expected, exchanged = conformance.expected(), set()
    for case in conformance.cases():
        with Team(conformance.program(case.part, case.gemm_bits), DATA, crew(ranks, processes=False)) as team:
            got = team.run("micro", {"batch": {f"x{i}": a for i, a in enumerate(case.inputs)}})
        assert conformance.digest_of(list(got.values())) == expected[case.name], case.name
        exchanged |= {e.op for stage in ranked(case.part, DATA, 0, ranks).stages for e in stage.exchanges}
    assert exchanged == {"gather", "sum", "amax", "matmul", "scatter_add_rows"}


@pytest.mark.parametrize("bits", [8, 14, 15, 23])
def test_products_whose_summed_axis_is_cut(bits: int) -> None:
    """Adversarial rows: q at its limit, one infinity or NaN among many, subnormals, a row that is all zeros on one rank."""
    rng = np.random.default_rng(bits)
    a = (rng.standard_normal((6, 301)) * np.exp(9 * rng.standard_normal((6, 301)))).astype(np.float32)
    b = rng.standard_normal((301, 5)).astype(np.float32)
    a[0], a[1, :151], b[:, 0] = np.nextafter(np.float32(1), np.float32(0)), 0, np.nextafter(np.float32(1), np.float32(0))
    a[2, 300], a[3, 7], a[4] = np.inf, np.nan, a[4] * np.float32(2.0**-140)
    w = Writer(np.ascontiguousarray(a.T), b)
    case = Case("cut", w.part(w("matmul", w("permute", 0, axes=(1, 0)), 1)), (np.ascontiguousarray(a.T), b), bits)
    for ranks in (2, 4):
        assert [e.op for s in ranked(case.part, DATA, 0, ranks).stages for e in s.exchanges] == ["matmul"]
        with Team(conformance.program(case.part, bits), DATA, crew(ranks, processes=False)) as team:
            (got,) = team.run("micro", {"batch": {"x0": case.inputs[0], "x1": b}}).values()
        assert got.tobytes() == numpy_route.matmul(a, b, bits).tobytes()


@layouts
@pytest.mark.parametrize("name", ["mlp", "batchnorm", "gpt", "lstm"])
def test_trainings_reach_the_published_states(name: str, layout: Layout) -> None:
    for size in (1, 2, 4):
        assert reached(name, layout, size, 2) == wanted(name, 2)


@pytest.mark.parametrize("effort", [1, 4])
def test_traces_whose_values_are_made_again_by_the_one_that_leads(effort: int) -> None:
    program, inputs = trainings.load("gpt").program, first_inputs("gpt")
    with Team(program, DATA, crew(2, processes=False), effort=effort) as team:
        outputs, roots = team.trace("micro", inputs)
        ran = team.run("micro", inputs)
    assert roots == Cpu(program).trace("micro", inputs)[1]
    assert all(ran[name].tobytes() == array.tobytes() for name, array in outputs.items())


@pytest.mark.slow
@layouts
@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("name", trainings.FAMILIES)
def test_whole_trainings_reach_the_published_states(name: str, size: int, layout: Layout) -> None:
    assert reached(name, layout, size, trainings.STEPS) == wanted(name, trainings.STEPS)


def test_ranks_without_a_compiler() -> None:
    with on(Route("numpy", 1)):
        assert reached("gpt", BOTH, 2, 1) == wanted("gpt", 1)


def test_each_rank_has_its_part_of_the_work() -> None:
    program = trainings.load("gpt").program
    first, second = (ranked(program.micro, TENSOR, rank, 2) for rank in (0, 1))
    given = [sum((place.of(i.type, r) if place else i.type).bytes for i, place in form.inputs) for r, form in enumerate((first, second))]
    whole = sum(i.type.bytes for i, _ in first.inputs)
    assert max(given) < 0.55 * whole
    assert [[e.op for e in s.exchanges] for s in first.stages] == [[e.op for e in s.exchanges] for s in second.stages]
    rows = ranked(program.micro, DATA, 0, 2)
    largest = max(n.type.elements for n in program.micro.nodes if n.op == "matmul")
    assert max(n.type.elements for s in rows.stages for n in s.part.nodes if n.op == "matmul") <= largest // 2


# ---- ranks that fail -----------------------------------------------------------------------------------------------------


class Killing(Team):
    """Kills one of its processes in the middle of a link."""

    kill_at = -1

    def ask(self, ask: Ask, *more: Any) -> Any:
        self.kill_at -= bool(ask.part)
        if self.kill_at == 0:
            os.kill(self.crew.processes[1], signal.SIGKILL)
        return super().ask(ask, *more)


def test_a_rank_that_dies_costs_a_step_and_no_bit(tmp_path: Path) -> None:
    training = trainings.load("mlp")
    p, state = training.program, trainings.initial(training.program)
    parent = state_root(0, state)
    (tmp_path / "state-0.safetensors").write_bytes(to_bytes(state))

    def segment(team: Team) -> Segment:
        executor = Executor(p, training.schedule, p.micro_batches, engine=team)
        return Segment(tmp_path, executor, lambda step, m: trainings.batch(p, step, m), 0, parent, 1 << 20)

    with Killing(p, DATA, crew(2)) as team:
        team.kill_at = 2 * (p.micro_batches + 1) + 2  # in the third step
        begun = segment(team)
        with pytest.raises(RankLost):
            begun.run(10, lambda step, loss: None)
        with pytest.raises(RankLost, match="closed"):
            team.run("micro", {})
        assert team.crew.processes == []
    assert segment(team).done == 2  # what is on disk is whole steps
    with Team(p, DATA, crew(2)) as again:
        resumed = segment(again)
        resumed.run(10, lambda step, loss: None)
    roots = {str(n): resumed.root_before(n).hex() for n in (1, 2, 3, 10)}
    assert roots == wanted("mlp", 10)


def test_a_fault_of_one_rank_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product that fails its checksum twice, in the part of it that one rank has."""
    training = trainings.load("mlp")
    state = trainings.initial(training.program)
    monkeypatch.setattr(numpy_route, "agrees", lambda *_: False)
    with Team(training.program, DATA, crew(2, processes=False)) as team:
        executor = Executor(training.program, training.schedule, training.program.micro_batches, engine=team)
        with pytest.raises(RankLost, match=r"rank \d: HardwareFault"):
            executor.micro(0, 0, state, executor.zero_acc(0, state), trainings.batch(training.program, 0, 0))


# ---- the communicator ----------------------------------------------------------------------------------------------------


def hub(size: int) -> tuple[list[socket.socket], list[SocketComm]]:
    pairs = [socket.socketpair() for _ in range(size)]
    return [mine for mine, _ in pairs], [SocketComm(other, rank, size) for rank, (_, other) in enumerate(pairs)]


def test_all_reduce_and_gather() -> None:
    socks, comms = hub(3)
    results: list[object] = [None] * 3

    def life(comm: SocketComm) -> None:
        r = comm.rank
        largest = comm.maximum(np.array([r, -r], np.int32)).tolist()
        total = comm.total(np.array([1 << 62, r], np.int64)).tolist()  # wraps
        pieces = [bytes(piece) for piece in comm.gather(np.frombuffer(b"abc"[: r + 1], np.uint8))]
        results[r] = (largest, total, pieces)
        send(comm.sock, DONE, b"")

    threads = [threading.Thread(target=life, args=(comm,)) for comm in comms]
    for thread in threads:
        thread.start()
    attend(socks)
    for thread in threads:
        thread.join()
    assert results == [([2, 0], [-(1 << 62), 3], [b"a", b"ab", b"abc"])] * 3
    for sock in [*socks, *(comm.sock for comm in comms)]:
        sock.close()


@pytest.mark.parametrize("second", [(TOTAL, b"\0" * 8), (MAXIMUM, b"\0" * 4), (DONE, b""), (9, b"")])
def test_ranks_that_do_not_do_the_same_end_the_link(second: tuple[int, bytes]) -> None:
    socks, comms = hub(2)
    send(comms[0].sock, MAXIMUM, b"\0" * 8)
    send(comms[1].sock, *second)
    with pytest.raises(RankLost, match="do not do the same"):
        attend(socks)
    for sock in [*socks, *(comm.sock for comm in comms)]:
        sock.close()


def test_frames_are_bounded_and_silence_ends() -> None:
    (mine,), (comm,) = hub(1)
    send(comm.sock, GATHER, b"12345")
    with pytest.raises(RankLost, match="over 4"):
        receive(mine, 4)
    mine.settimeout(0.01)
    with pytest.raises(RankLost, match="does not answer"):
        receive(mine, 100), receive(mine, 100)
    comm.sock.close()
    mine.close()


def test_pieces() -> None:
    t = TensorType(dtype="f32", shape=(2, 7))
    split = even(1, 7, 3)
    assert split == Split(1, (0, 2, 4, 7))
    assert [split.of(t, r).shape for r in range(3)] == [(2, 2), (2, 2), (2, 3)]
    assert DATA.place("batch", t, 3) is None  # too short
    assert DATA.place("batch", t, 2) == Split(0, (0, 1, 2))
    assert DATA.place("state", t, 2) is TENSOR.place("batch", t, 2) is TENSOR.place("scalar", t, 2) is None
    assert BOTH.place("acc", t, 2) == BOTH.place("frozen", t, 2) == Split(0, (0, 1, 2))
