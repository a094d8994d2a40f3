"""What ranks sum on devices of their own (fake ones, in threads of this process): the bits of one engine, from device to device and by way of the
host; and a flipped bit on the way is found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np
import pytest

from assay.exact import conformance, faults, reference, trainings
from assay.exact.conformance import Case, Writer
from assay.exact.cpu import Cpu
from assay.exact.cuda import fake
from assay.exact.cuda.maps import Kernels
from assay.exact.cuda.product import Products, Shared
from assay.exact.cuda.tiles import BF16_TILES, Size, Way
from assay.exact.ranks.between import Between
from assay.exact.ranks.lives import Pool
from assay.exact.ranks.places import BOTH, DATA, TENSOR, Layout
from assay.exact.ranks.rank import Rank
from assay.exact.ranks.split import ranked
from assay.exact.ranks.team import piece
from assay.exact.ranks.wire import SocketComm
from assay.program import Program
from tests.exact.ranks_here import Array, Counting, opened, texts, together
from tests.exact.support import first_inputs
from tests.exact.test_cuda_route import Flipping as Struck
from tests.exact.test_cuda_wgmma import FEW

pytestmark = pytest.mark.skipif(fake.compiler() is None, reason="the fake device needs a C++ compiler")
SMALL = 256
"""Bytes of a window, so that small operands take several."""
routes = pytest.mark.parametrize("peers", [True, False], ids=["peers", "staged"])


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


@pytest.mark.parametrize(("bits", "way"), [(14, Way(FEW[0])), (23, Way(FEW[1])), (8, Way(BF16_TILES[1][-1], True)), (14, Way(None))], ids=str)
def test_shared_products_by_ways_that_were_measured(bits: int, way: Way) -> None:
    """Groups of wgmma, tiles of bf16; and by tiles where the library would be the fastest, which cannot leave sums to be added."""
    (case,) = [case for case in special() if case.gemm_bits == bits]
    program, asked = conformance.program(case.part, bits), []
    compiled = texts(program, DATA, 2)

    def fastest(size: Size, shared: bool = False) -> Way | None:
        asked.append((size, shared))
        return way if shared else None

    def work(comm: SocketComm) -> list[Array]:
        on = opened(True, compiled)
        rank = Rank(program, DATA, comm, on=on._replace(products=Products(on.device, fastest)))
        form = rank.parts["micro"]
        return rank.run("micro", [piece(case.inputs[int(i.name[1:])], place, comm.rank) for i, place in form.inputs])

    values = reference.evaluate(case.part, case.inputs, bits)
    outputs = ranked(case.part, DATA, 0, 2).outputs
    for made in together(2, work):
        assert all(got.tobytes() == np.asarray(values[o.value]).tobytes() for got, (o, *_) in zip(made, outputs, strict=True))
    assert {size.k for size, shared in asked if shared} == {3, 4}  # of seven


class Striking(Struck):
    """Of what ranks share, too."""

    def shared(self, *arguments: Any) -> Shared:
        made = super().shared(*arguments)
        return made._replace(sums=[*made.sums, self._strike])


@pytest.mark.parametrize("layout", [DATA, TENSOR, BOTH], ids=["data", "tensor", "both"])
def test_a_wrong_checksum_of_one_rank_is_made_again_and_the_second_ends_it(layout: Layout) -> None:
    """In its stages, recorded or not, and in what is shared: the others wait for it, and none of them sees a wrong bit."""
    program, inputs = trainings.load("mlp").program, first_inputs("mlp")
    compiled, want = texts(program, layout, 2), Cpu(program).run("micro", inputs)

    def run(times: int) -> list[list[Array]]:
        def work(comm: SocketComm) -> list[Array]:
            on = opened(True, compiled)
            products = Striking(on.device, on.kernels, 0)
            rank = Rank(program, layout, comm, on=on._replace(products=products))
            given = [piece(np.asarray(inputs[i.kind][i.name]), place, comm.rank) for i, place in rank.parts["micro"].inputs]
            for n in (0, times if comm.rank else 0):
                on.device.upload(products._left.address, np.array([n], np.uint64))
                made = rank.run("micro", given)
            return made

        return together(2, work)

    with counted() as found:
        ranks = run(1)
        assert found() == 1
    for at, (o, _, place, _) in enumerate(ranked(program.micro, layout, 0, 2).outputs):
        pieces = [one[at] for one in ranks]
        assert (np.concatenate(pieces, axis=place.axis) if place else pieces[1]).tobytes() == want[o.name].tobytes(), o.name
    with pytest.raises(faults.HardwareFault):
        run(1000)


@pytest.mark.parametrize("layout", [DATA, TENSOR], ids=["whole", "cut"])
def test_entries_that_become_each_other_and_read_each_other_late(layout: Layout) -> None:
    """Results take the places of what they replace, on the device, when nothing reads that any more: three links in a row."""
    rng = np.random.default_rng(8)
    values = [rng.standard_normal((4, 6)).astype(np.float32) for _ in range(8)]
    w = Writer(*values)
    a, b, c, d, e, f, g, h = range(8)
    early = w("mul", g, g)  # long before g itself is read for the last time
    total = w("expand", w("sum", a, axes=(0,), keepdim=True), shape=(4, 6))
    product = w("matmul", w("matmul", a, w("permute", b, axes=(1, 0))), c)
    outputs = [b, a, w("add", c, total), product, d, w("mul", f, w("add", product, e)), early, w("add", h, w("add", g, total))]
    part = w.part(*outputs)
    part = msgspec.structs.replace(
        part, inputs=tuple(msgspec.structs.replace(i, kind="acc", name=f"y{at}") for at, i in enumerate(part.inputs)),
    )  # fmt: skip
    program = conformance.program(part, 14)
    compiled = texts(program, layout, 2)

    def work(comm: SocketComm) -> list[Array]:
        rank = Rank(program, layout, comm, on=opened(True, compiled))
        for (i, place), array in zip(rank.parts["micro"].inputs, values, strict=True):
            rank.kept.put((i.kind, i.name), piece(array, place, comm.rank))
        for _ in range(3):
            rank.kept.run("micro")
        return [rank.kept.get(("acc", f"y{at}")) for at in range(8)]

    want: list[Array] = list(values)
    for _ in range(3):
        made = reference.evaluate(part, want, 14)
        want = [np.ascontiguousarray(made[v]) for v in outputs]
    ranks = together(2, work)
    for at, whole in enumerate(want):
        pieces = [one[at] for one in ranks]
        assert (np.concatenate(pieces) if layout.state else pieces[1]).tobytes() == whole.tobytes(), at


def test_what_is_wanted_at_the_same_time_lies_apart() -> None:
    rng = np.random.default_rng(2)
    pool, spans = Pool(), []
    for _ in range(300):
        first = int(rng.integers(0, 40))
        spans.append((first, first + int(rng.integers(0, 9)), int(rng.integers(0, 5000))))
        assert pool.add(*spans[-1]) == len(spans) - 1
    places, size = pool.placed()
    for at, (first, last, bytes_) in enumerate(spans):
        assert places[at] % 256 == 0
        assert places[at] + bytes_ <= size
        for other, (begin, end, much) in enumerate(spans[:at]):
            apart = places[at] + bytes_ <= places[other] or places[other] + much <= places[at]
            assert apart or last < begin or end < first
    assert size < sum(bytes_ for *_, bytes_ in spans) / 4


@pytest.mark.parametrize("layout", [DATA, TENSOR, BOTH], ids=["data", "tensor", "both"])
def test_what_crosses_in_a_link_by_itself_is_what_it_takes_and_gives(layout: Layout) -> None:
    """Beside eight bytes of each digest that ranks compare, and of each look at the count of wrong checksums."""
    program, inputs = trainings.load("mlp").program, first_inputs("mlp")
    compiled = texts(program, layout, 2)

    def work(comm: SocketComm) -> tuple[int, int, int]:
        device = Counting()
        rank = Rank(program, layout, comm, on=opened(True, compiled, device))
        form = rank.parts["micro"]
        given = [piece(np.asarray(inputs[i.kind][i.name]), place, comm.rank) for i, place in form.inputs]
        device.up = device.down = 0
        made = rank.run("micro", given)
        assert device.up == sum(a.nbytes for a in given)
        looks = sum(4 * len(stage.exchanges) + 2 for stage in form.stages)
        return device.down, sum(a.nbytes for a in made), looks

    for down, given, looks in together(2, work):
        assert given < down <= given + 8 * looks


@pytest.mark.parametrize(("name", "layout", "peers"), [("mlp", DATA, True), ("gpt", BOTH, False), ("gpt", TENSOR, True)])
def test_a_step_gives_the_bits_of_one_engine(name: str, layout: Layout, peers: bool) -> None:
    program, inputs = trainings.load(name).program, first_inputs(name)
    want = Cpu(program).run("micro", inputs)
    found = run(program, layout, 2, peers, [("micro", inputs)])
    for at, (o, _, place, _) in enumerate(ranked(program.micro, layout, 0, 2).outputs):
        pieces = [one[0][at] for one in found]
        got = np.concatenate(pieces, axis=place.axis) if place else pieces[0]
        assert got.tobytes() == want[o.name].tobytes(), o.name
