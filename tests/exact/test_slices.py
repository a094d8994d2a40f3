"""Regions of a program that run slice by slice: the bits are the reference's, whatever is cut and however, and less is there at a time."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest

from assay.exact import reference, trainings
from assay.exact.conformance import Writer, program
from assay.exact.cpu import Cpu
from assay.exact.hashing import Chunks, chunk_root, tensor_root
from assay.exact.memory import needed
from assay.exact.native.build import levels
from assay.exact.plan import Plan
from assay.exact.recompute import written
from assay.exact.regions import Range, batch, box, cuts, regions
from assay.exact.slices import sliced
from assay.execute import Executor
from assay.program import Part
from tests.exact.support import Array, Route, floats, names, on, same

NATIVE = Route(levels()[-1], 1)
routes = pytest.mark.parametrize("route", [Route("numpy", 1), Route(levels()[-1], 2)], ids=names)
HEADS, LONG, SHORT = 3, 16, 4
STEPS = ["unary", "binary", "binary", "broadcast", "reduce", "reshape", "permute", "cumsum", "matmul", "small", "along", "expand"]


def test_a_batch_is_the_shortest_run_of_first_dimensions() -> None:
    assert [batch(shape, 6) for shape in ((2, 3, 5), (6,), (6, 1, 5), (1, 6), (2, 2, 3), (4, 3), ())] == [2, 1, 1, 2, None, None, None]


def test_every_cut_is_a_box_in_every_shape_and_the_cuts_are_the_batch() -> None:
    for forms in ([(2, 3), (6,)], [(4, 2, 3), (8, 3), (24,), (4, 6)], [(7,)], [(5, 7), (35,)]):
        n = prod(forms[0])
        elements = {form: np.arange(n).reshape(form) for form in forms}
        for most in range(1, n + 1):
            ranges = cuts(forms, n, most)
            assert ranges is not None
            assert [i for r in ranges for i in range(*r)] == list(range(n))
            assert all(r.stop - r.start <= most for r in ranges)
            for here in ranges:
                for form in forms:
                    inside = box(form, here)
                    assert inside is not None
                    assert elements[form][tuple(slice(*r) for r in inside)].reshape(-1).tolist() == list(range(*here))
    assert {r.stop - r.start for r in cuts([(7,)], 7, 3) or ()} == {2, 3}  # some cuts do not divide
    assert cuts([(2, 3), (3, 2)], 6, 2) is None
    assert box((2, 3), Range(1, 4)) is None


@pytest.mark.parametrize("effort", [0, 1, 2])
@pytest.mark.parametrize(("name", "size"), [("gpt", 3000), ("vit", 800), ("bert", 3000), ("llama", 5000)])
def test_trainings_reach_the_published_states(name: str, size: int, effort: int) -> None:
    training = trainings.load(name)
    micro = training.program.micro
    want = {n: root for n, root in trainings.expected()[name].items() if int(n) <= 2}
    seen = set()
    for most in (1, size):
        found = regions(written(micro, effort, most).part, most)
        assert len(found) >= (2 if most == 1 else 1), "cut are the way forwards and the way back"
        seen |= {r.stop - r.start for _, ranges in found for r in ranges}
        engine = Cpu(training.program, 1, effort, slices=most)
        assert {str(n): root.hex() for n, root in trainings.roots(training, engine.run, 2).items()} == want
    assert len(seen) > 1


def random_region(seed: int) -> tuple[Part, list[Array]]:
    """Scores of a batch of matrices, and whatever can be made of them, in both shapes; masks and biases that are broadcast; products with
    them and of them; results that are read within, outside and by both."""
    rng = np.random.default_rng(seed)
    texts = int(rng.integers(1, 4))
    n, kinds = texts * HEADS, ["normal", "normal", "wide", "special"]
    shapes = [(texts, HEADS, LONG, SHORT), (n, SHORT, LONG), (LONG, LONG), (texts, 1, 1, LONG), (HEADS, 1, 1), (n, LONG, LONG), ()]
    inputs: list[Array] = [floats(rng, s, str(rng.choice(kinds))) for s in shapes]
    w = Writer(*inputs)
    scores = w("matmul", w("reshape", 0, shape=(n, LONG, SHORT)), 1)
    four, three = (texts, HEADS, LONG, LONG), (n, LONG, LONG)
    large = [w("reshape", scores, shape=four), scores, 5]
    made = [scores]
    for _ in range(18):
        x = int(rng.choice(large))
        shape, rank = w.type(x).shape, len(w.type(x).shape)
        alike = [v for v in large if w.type(v).shape == shape]
        match str(rng.choice(STEPS)):
            case "unary":
                y = w(str(rng.choice(["exp", "tanh", "neg", "abs"])), x)
            case "binary":
                y = w(str(rng.choice(["add", "mul", "sub", "maximum"])), x, int(rng.choice(alike)))
            case "broadcast":
                y = w("select", w("lt", x, 2), x, w.f32(0.5)) if rng.integers(2) else w("mul", x, int(rng.choice([2, 6] + [3, 4] * (rank == 4))))
            case "reduce":
                axis = int(rng.integers(rank - 2, rank))
                y = w("sub", x, w(str(rng.choice(["amax", "sum"])), x, axes=(axis,), keepdim=True))
            case "reshape":
                y = w("reshape", x, shape=three if rank == 4 else four)
            case "permute":
                y = w("permute", x, axes=(*range(rank - 2), rank - 1, rank - 2))
            case "cumsum":
                y = w(str(rng.choice(["cumsum", "reverse"])), x, axis=rank - 1)
            case "matmul":
                y = w("matmul", x, int(rng.choice(alike)))
            case "small":
                made.append(w("matmul", x, w("permute", 1, axes=(0, 2, 1))) if rank == 3 else w("sum", x, axes=(2, 3), keepdim=False))
                continue
            case "along":  # ends a region: one sum over all elements of the batch
                y = w("add", x, w("sum", x, axes=(0,), keepdim=True)) if rng.integers(4) == 0 else w("abs", x)
            case _:
                y = w("expand", w("amax", x, axes=(rank - 1,), keepdim=True), shape=shape)
        large.append(y)
        made.append(y)
    outputs = sorted({int(v) for v in rng.choice(made, 3)} | {made[-1]})
    return w.part(*outputs), inputs


@pytest.mark.parametrize("seed", range(30))
def test_random_regions(seed: int) -> None:
    part, inputs = random_region(seed)
    values = reference.evaluate(part, inputs, 14)
    named = {"batch": {f"x{i}": a for i, a in enumerate(inputs)}}
    for most, route in ((1, NATIVE), (5000, NATIVE), (2000, Route("numpy", 1))):
        with on(route):
            cpu = Cpu(program(part, 14), route.threads, slices=most)
            got, (traced, roots) = cpu.run("micro", named), cpu.trace("micro", named)
        assert all(same(got[o.name], values[o.value]) and same(traced[o.name], values[o.value]) for o in part.outputs), most
        assert roots == [tensor_root(np.asarray(v)) for v in values[len(inputs) :]]


def test_most_random_regions_are_cut() -> None:
    found = [[(r.nodes, ranges) for r, ranges in regions(random_region(seed)[0], 1)] for seed in range(30)]
    assert sum(map(bool, found)) > 25
    assert max(len(nodes) for some in found for nodes, _ in some) > 12
    sizes = [{r.stop - r.start for r in ranges} for seed in range(30) for _, ranges in regions(random_region(seed)[0], 5000)]
    assert {1, 2} in sizes


def attention(texts: int, heads: int, length: int) -> Part:
    """softmax(q k) v, the weights themselves being no result."""
    q, v = np.zeros((texts * heads, length, 4), np.float32), np.zeros((texts * heads, 4, length), np.float32)
    w = Writer(q, v, q)
    scores = w("reshape", w("matmul", 0, 1), shape=(texts, heads, length, length))
    weights = w("exp", w("sub", scores, w("amax", scores, axes=(3,), keepdim=True)))
    weights = w("div", weights, w("sum", weights, axes=(3,), keepdim=True))
    return w.part(w("matmul", w("reshape", weights, shape=(texts * heads, length, length)), 2))


def test_what_is_used_within_a_region_alone_is_there_for_one_slice() -> None:
    part = attention(2, 4, 64)
    each = 4 * 64 * 64
    whole, cut = (Plan(p, {}, 14) for p in (part, sliced(part, 2 * each).part))
    assert whole.arena >= 2 * 8 * each
    assert cut.arena < 3 * each + 8 * 64 * 4 * 4 + 4096
    assert not [step for step in cut.steps if step.name == "copy"], "the pieces of a result are made in their places"


@routes
def test_a_root_of_pieces_is_that_of_the_whole(route: Route) -> None:
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, 200_000).astype(np.uint8)
    with on(route):
        for size in (1, 1023, 1024, 1025, 5000, 131072, 200_000):
            for pieces in (1, 2, 3, 7):
                chunks = Chunks(size)
                cuts_of = np.sort(rng.integers(0, size + 1, pieces - 1)) if size % 2 else np.arange(1, pieces) * 1024
                for piece in np.split(data[:size], cuts_of):
                    chunks.add(piece, route.threads)
                assert chunks.root() == chunk_root(data[:size])


@pytest.mark.parametrize("effort", [0, 1])
def test_a_traced_link_is_the_same_and_needs_less(effort: int) -> None:
    training = trainings.load("bert")
    p, state = training.program, trainings.initial(training.program)
    traces = []
    for most in (0, 1, 3000):
        executor = Executor(p, training.schedule, p.micro_batches, 1, engine=Cpu(p, 1, effort, slices=most))
        traces.append(executor.trace_micro(0, 0, state, executor.zero_acc(0, state), trainings.batch(p, 0, 0)))
    assert traces[0].leaves == traces[1].leaves == traces[2].leaves
    wide = program(attention(2, 8, 128), 14)
    assert needed(wide, slices=1 << 17) < 0.6 * needed(wide, slices=0)


@routes
def test_pieces_of_a_concat_lie_in_their_places(route: Route) -> None:
    """Read before and after, one in another, twice the same, a view, an input, and one that is a result itself."""
    x = floats(np.random.default_rng(0), (3, 5), "normal")
    w = Writer(x)
    a, b, c = w("exp", 0), w("matmul", w("permute", 0, axes=(1, 0)), 0), w("neg", 0)
    inner = w("concat", a, b, axis=0)
    late = w("sum", inner, axes=(0,), keepdim=False)
    outer = w("concat", inner, w("slice", inner, axis=0, start=1, stop=3, step=1), 0, c, c, axis=0)
    beside = w("concat", w("tanh", a), a, axis=1)
    part = w.part(w("abs", outer), late, c, w("mul", a, a), beside, outer)
    values = reference.evaluate(part, [x], 14)
    with on(route):
        got = Cpu(program(part, 14), route.threads).run("micro", {"batch": {"x0": x}})
    assert all(same(got[o.name], values[o.value]) for o in part.outputs)


def test_nothing_is_cut_where_it_is_not_worth_it() -> None:
    part = attention(2, 4, 64)
    assert sliced(part, 0).part is part
    assert sliced(part).part is part  # half a megabyte
    assert sliced(attention(1, 1, 64), 1).part.nodes == attention(1, 1, 64).nodes  # one head
    mlp = trainings.load("mlp").program
    assert sliced(mlp.micro, 1).part is mlp.micro
    assert sliced(mlp.update, 1).part is mlp.update
