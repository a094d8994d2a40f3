"""What ranks sum on devices of their own (fake ones, in threads of this process): the bits of one engine, from device to device and by way of the
host; and a flipped bit on the way is found."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from assay.exact import conformance, engines, faults, reference, trainings
from assay.exact.conformance import Case, Writer
from assay.exact.cpu import Cpu
from assay.exact.cuda import fake, maps, rows
from assay.exact.cuda.maps import Kernels
from assay.exact.cuda.parts import constants_of
from assay.exact.cuda.product import Products
from assay.exact.plan import Plan
from assay.exact.ranks.between import Between
from assay.exact.ranks.places import BOTH, DATA, TENSOR, Layout
from assay.exact.ranks.rank import Rank
from assay.exact.ranks.split import ranked
from assay.exact.ranks.team import piece
from assay.exact.ranks.wire import DONE, SocketComm, attend, send
from assay.program import Program
from tests.exact.support import first_inputs

pytestmark = pytest.mark.skipif(fake.compiler() is None, reason="the fake device needs a C++ compiler")
SMALL = 256
"""Bytes of a window, so that small operands take several."""
Array = np.ndarray[Any, Any]
routes = pytest.mark.parametrize("peers", [True, False], ids=["peers", "staged"])


def together(size: int, work: Callable[[SocketComm], Any]) -> list[Any]:
    """What ranks give, each in a thread, this one being their hub. Raises what the first of them raised that did."""
    pairs = [socket.socketpair() for _ in range(size)]
    found: list[Any] = [None] * size
    wrong: list[BaseException] = []

    def rank(at: int) -> None:
        sock = pairs[at][1]
        try:
            found[at] = work(SocketComm(sock, at, size))
            send(sock, DONE, b"")
        except BaseException as error:
            wrong.append(error)
            sock.close()

    threads = [threading.Thread(target=rank, args=(at,)) for at in range(size)]
    for thread in threads:
        thread.start()
    try:
        attend([mine for mine, _ in pairs])
    except Exception as error:
        wrong.append(error)
    finally:
        if wrong:
            for mine, _ in pairs:
                mine.close()
        for thread in threads:
            thread.join()
        for pair in pairs:
            for sock in pair:
                sock.close()
    if wrong:
        raise wrong[0]
    return found


def opened(peers: bool, texts: Sequence[maps.MapText] = ()) -> engines.Opened:
    device = fake.Fake(peers=peers)
    kernels = Kernels(device)
    kernels.compile(list(texts))
    return engines.Opened(device, kernels, Products(device))


# ---- bytes ---------------------------------------------------------------------------------------------------------------


@routes
@pytest.mark.parametrize("size", [1, 2, 3])
def test_maxima_sums_and_pieces_of_all_ranks(size: int, peers: bool) -> None:
    """Of fewer elements than ranks, of as many as a window takes, and of many windows."""
    rng = np.random.default_rng(size)
    counts = [1, 2, 31, 32, 33, 500]
    tops = [[rng.integers(0, 1 << 32, n, np.uint32) for n in counts] for _ in range(size)]
    sums = [[rng.integers(0, 1 << 64, n, np.uint64) for n in counts] for _ in range(size)]
    sizes = [[1], [700, 3], [5, 1000, 64]][size - 1]
    pieces = [rng.integers(0, 256, n, np.uint8) for n in sizes]

    def work(comm: SocketComm) -> tuple[str, list[Array]]:
        on = opened(peers)
        whole, out = Between(on.device, on.kernels, comm, SMALL), []

        def placed(array: Array, more: int = 0) -> int:
            held.append(on.device.allocate(array.nbytes + more))
            on.device.upload(held[-1].address, array)
            return held[-1].address

        held: list[Any] = []
        for array in (*tops[comm.rank], *sums[comm.rank]):
            at = placed(array)
            (whole.maximum if array.dtype == np.uint32 else whole.total)(at, array.size)
            out.append(np.empty_like(array))
            on.device.download(at, out[-1])
        into = placed(np.zeros(sum(sizes), np.uint8))
        whole.gather(placed(pieces[comm.rank]), into, sizes)
        out.append(np.empty(sum(sizes), np.uint8))
        on.device.download(into, out[-1])
        return whole.route, out

    want = [np.maximum.reduce(each) for each in zip(*tops, strict=True)] + [np.add.reduce(each) for each in zip(*sums, strict=True)]
    for route, got in together(size, work):
        assert route == ("peers" if peers or size == 1 else "staged")
        assert all(a.tobytes() == b.tobytes() for a, b in zip(got, [*want, np.concatenate(pieces)], strict=True))


@contextmanager
def counted() -> Iterator[Callable[[], int]]:
    before = faults.count()
    yield lambda: faults.count() - before


class Flipping(fake.Fake):
    """Its copies from other devices, or its uploads of what came by way of the host, lose a bit, as often as `times` says."""

    times = 0

    def copy(self, to: int, of: int, size: int) -> None:
        super().copy(to, of, size)
        if self.times and any(w.address <= of < w.address + w.size for w in self._other):
            self._flip(to, size)

    def upload(self, to: int, data: Array) -> None:
        super().upload(to, data)
        if self.times and data.dtype == np.uint8:
            self._flip(to, data.nbytes)

    def _flip(self, at: int, size: int) -> None:
        self.times -= 1
        one = np.empty(size, np.uint8)
        self.download(at, one)
        one[size // 2] ^= 0x10
        fake.Fake.upload(self, at, one)


@routes
@pytest.mark.parametrize("what", ["maximum", "total", "gather"])
def test_a_flipped_bit_on_the_way_is_found_and_a_second_one_ends_it(what: str, peers: bool) -> None:
    def run(times: int) -> list[Array]:
        def work(comm: SocketComm) -> Array:
            device = Flipping(peers=peers)
            whole = Between(device, Kernels(device), comm, SMALL)
            data = np.arange(24, dtype=np.uint64) << np.uint64(comm.rank)
            held = [device.allocate(data.nbytes), device.allocate(3 * data.nbytes)]
            device.upload(held[0].address, data)
            whole._moving()
            device.times = times if comm.rank == 1 else 0
            match what:
                case "maximum":
                    whole.maximum(held[0].address, 48)
                case "total":
                    whole.total(held[0].address, 24)
                case "gather":
                    whole.gather(held[0].address, held[1].address, [data.nbytes] * 3)
            out = np.empty(3 * data.nbytes if what == "gather" else data.nbytes, np.uint8)
            device.download(held[what == "gather"].address, out)
            return out

        return together(3, work)

    right = [one.tobytes() for one in run(0)]
    assert len(set(right)) == 1
    with counted() as found:
        assert [one.tobytes() for one in run(1)] == right
        assert found() == 3  # every rank sees it
    with pytest.raises(faults.HardwareFault, match="an exchange between ranks"):
        run(100)


# ---- parts of programs ---------------------------------------------------------------------------------------------------


def texts(program: Program, layout: Layout, size: int) -> list[maps.MapText]:
    forms = [ranked(part, layout, rank, size) for rank in range(size) for part in (program.micro, program.update)]
    plans = [Plan(stage.part, constants_of(program), program.gemm_bits, rows=True) for form in forms for stage in form.stages if stage.gives]
    return rows.texts(plans)


Named = dict[str, dict[str, Array]]


def run(program: Program, layout: Layout, size: int, peers: bool, parts: Sequence[tuple[str, Named]]) -> list[list[list[Array]]]:
    """For each rank its pieces of the outputs of parts, one after the other."""
    compiled = texts(program, layout, size)

    def work(comm: SocketComm) -> list[list[Array]]:
        rank = Rank(program, layout, comm, on=opened(peers, compiled))
        out = []
        for name, inputs in parts:
            form = rank.parts[name]
            given = [piece(np.asarray(inputs[i.kind][i.name]), place, comm.rank) for i, place in form.inputs]
            out.append(rank.run(name, given))
        return out

    return together(size, work)


def cut_cases() -> list[Case]:
    """Those in which something is summed along the axis that is cut, and one of each kind that the set has only whole."""
    found: dict[str, Case] = {}
    for case in conformance.cases():
        ops = {e.op for stage in ranked(case.part, DATA, 0, 2).stages for e in stage.exchanges}
        if sum(a.size for a in case.inputs) < 40_000 and ops:
            for op in sorted(ops):
                if sum(key.startswith(op) for key in found) < 2:
                    found[f"{op} {case.name}"] = case
    return [*found.values(), *special()]


def special() -> list[Case]:
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((7, 6, 33)).astype(np.float32), rng.standard_normal((7, 6, 5)).astype(np.float32)
    a[2, 3, :] = np.inf
    a[3, 1, 4] = np.nan
    wide = np.exp(20 * rng.standard_normal((90, 70))).astype(np.float32)
    integers = rng.integers(-(1 << 60), 1 << 60, (9, 4))
    w = Writer(a, b, wide, integers)
    first = w("matmul", w("permute", 0, axes=(1, 2, 0)), w("permute", 1, axes=(1, 0, 2)))
    sums = [w("sum", 0, axes=axes, keepdim=False) for axes in ((0,), (0, 1), (0, 2), (0, 1, 2))]
    more = [w("amax", 0, axes=(0, 2), keepdim=True), w("sum", 2, axes=(0,), keepdim=False), w("sum", 3, axes=(0,), keepdim=False)]
    return [Case("special", w.part(first, *sums, *more), (a, b, wide, integers), bits) for bits in (8, 14, 23)]


@pytest.mark.parametrize(("size", "peers"), [(2, True), (3, False)], ids=["peers", "staged"])
def test_cases_whose_summed_axis_is_cut(size: int, peers: bool) -> None:
    exchanged = set()
    for case in cut_cases():
        program = conformance.program(case.part, case.gemm_bits)
        named = {"batch": {f"x{i}": a for i, a in enumerate(case.inputs)}}
        values = reference.evaluate(case.part, case.inputs, case.gemm_bits)
        exchanged |= {e.op for stage in ranked(case.part, DATA, 0, size).stages for e in stage.exchanges}
        found = run(program, DATA, size, peers, [("micro", named)])
        form = ranked(case.part, DATA, 0, size)
        for at, (o, _, place, _) in enumerate(form.outputs):
            pieces = [one[0][at] for one in found]
            got = np.concatenate(pieces, axis=place.axis) if place else pieces[0]
            assert got.tobytes() == np.asarray(values[o.value]).tobytes(), (case.name, o.name)
            assert place or len({p.tobytes() for p in pieces}) == 1
    assert exchanged == {"gather", "sum", "amax", "matmul", "scatter_add_rows"}


@pytest.mark.parametrize(("name", "layout", "peers"), [("mlp", DATA, True), ("gpt", BOTH, False), ("gpt", TENSOR, True)])
def test_a_step_gives_the_bits_of_one_engine(name: str, layout: Layout, peers: bool) -> None:
    program, inputs = trainings.load(name).program, first_inputs(name)
    want = Cpu(program).run("micro", inputs)
    found = run(program, layout, 2, peers, [("micro", inputs)])
    for at, (o, _, place, _) in enumerate(ranked(program.micro, layout, 0, 2).outputs):
        pieces = [one[0][at] for one in found]
        got = np.concatenate(pieces, axis=place.axis) if place else pieces[0]
        assert got.tobytes() == want[o.name].tobytes(), o.name
