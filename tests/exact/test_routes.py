"""Every operator gives the reference's bits on every route: NumPy, each SIMD level of this machine, one thread and two, fused and traced."""

from __future__ import annotations

import numpy as np
import pytest

from assay.exact import reference
from assay.exact.conformance import BINARY, SPECIAL, UNARY, Writer
from tests.exact.support import ROUTES, Route, check, floats, names

KINDS = ["normal", "bits", "special", "tiny", "wide"]
routes = pytest.mark.parametrize("route", ROUTES, ids=names)


@routes
@pytest.mark.parametrize("kind", KINDS)
def test_unary(route: Route, kind: str) -> None:
    rng = np.random.default_rng(1)
    x = floats(rng, (5, 1031), kind)
    w = Writer(x)
    check(w.part(*[w(op, 0) for op in UNARY]), [x], route)


@routes
def test_functions_near_their_seams(route: Route) -> None:
    """Around the places where a function changes its formula, and over a grid of exponents."""
    seams = np.array([0.625, 1, 4, 89, 104, 88.72284, 103.97, np.sqrt(0.5), np.pi / 4, np.pi / 2, np.pi, 2**-126, 2**22, 1e5, 1e20], np.float32)
    near = (seams.view(np.uint32)[:, None] + np.arange(-40, 40, dtype=np.int64)).astype(np.uint32).view(np.float32)
    grid = (np.arange(0, 1 << 31, (1 << 31) // 20000, dtype=np.int64)).astype(np.uint32).view(np.float32)
    x = np.concatenate([near.ravel(), grid])
    x = np.concatenate([x, -x])
    w = Writer(x)
    check(w.part(*[w(op, 0) for op in UNARY]), [x], route)


@routes
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("left", "right"), [((3, 700), (3, 700)), ((7, 1, 130), (5, 1)), ((4, 33), ()), ((1,), (2, 3, 1)), ((), ()), ((3000,), (1,))]
)
def test_binary(route: Route, kind: str, left: tuple[int, ...], right: tuple[int, ...]) -> None:
    rng = np.random.default_rng(2)
    a, b = floats(rng, left, kind), floats(rng, right, kind)
    w = Writer(a, b)
    check(w.part(*[w(op, 0, 1) for op in BINARY], *[w(op, 1, 0) for op in ("sub", "div", "maximum")]), [a, b], route)


@routes
def test_every_pair_of_special_values(route: Route) -> None:
    a, b = SPECIAL[:, None].copy(), SPECIAL[None, :].copy()
    w = Writer(a, b)
    check(w.part(*[w(op, 0, 1) for op in BINARY]), [a, b], route)


@routes
@pytest.mark.parametrize("dtype", ["i4", "i8"])
def test_integers(route: Route, dtype: str) -> None:
    rng = np.random.default_rng(3)
    info = np.iinfo(dtype)
    a = rng.integers(info.min, info.max, (3, 1030), dtype=dtype, endpoint=True)
    b = np.concatenate([[info.min, info.max, 0, -1, 1], rng.integers(-5, 5, 1025)]).astype(dtype)
    w = Writer(a, b)
    check(w.part(*[w(op, 0, 1) for op in ("add", "sub", "mul", "eq", "ne", "lt", "le", "gt", "ge")]), [a, b], route)


@routes
def test_booleans_and_select(route: Route) -> None:
    rng = np.random.default_rng(4)
    a, b = rng.integers(0, 2, (6, 500)).astype(bool), rng.integers(0, 2, (500,)).astype(bool)
    x, y, i = floats(rng, (6, 500), "bits"), floats(rng, (6, 1), "special"), rng.integers(-9, 9, (6, 500))
    w = Writer(a, b, x, y, i)
    j = w("add", 4, 4)
    outputs = [w("and", 0, 1), w("or", 0, 1), w("not", 0), w("select", 0, 2, 3), w("select", 1, 3, 2), w("select", 0, 4, j), w("select", 0, 1, 0)]
    check(w.part(*outputs), [a, b, x, y, i], route)


@routes
def test_cast(route: Route) -> None:
    rng = np.random.default_rng(5)
    around = np.array([2.0**31, 2.0**63, -(2.0**31), -(2.0**63), 2.0**24 + 2, 0.5, 1.5, -1.5, -0.5], np.float32)
    x = np.concatenate([SPECIAL, around, floats(rng, (900,), "wide")])
    i = np.concatenate([[0, 1, -1, 2**24 + 1, 2**24 + 3, -(2**24) - 1, 2**40 + 1, 2**63 - 1, -(2**63), 2**31], rng.integers(-(2**62), 2**62, 500)])
    j, p, u = i.astype(np.int32), rng.integers(0, 2, 77).astype(bool), np.arange(256, dtype=np.uint8)
    w = Writer(x, i, j, p, u)
    check(w.part(*[w("cast", v, dtype=to) for v in range(5) for to in ("f32", "i32", "i64", "bool")]), [x, i, j, p, u], route)


@routes
@pytest.mark.parametrize("kind", [*KINDS, "finite"])
@pytest.mark.parametrize(
    ("shape", "axes"),
    [((3, 1025), (1,)), ((1025, 3), (0,)), ((2, 70, 300), (1,)), ((2, 70, 300), (0, 2)), ((5, 6, 7), (0, 1, 2)), ((4, 1, 9), (1,)), ((3, 600), (0,))],
)
def test_reductions(route: Route, kind: str, shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(6)
    x = floats(rng, shape, kind)
    i = rng.integers(-(2**63), 2**63 - 1, shape)
    w = Writer(x, i)
    t = w("permute", 0, axes=tuple(reversed(range(len(shape)))))
    back = tuple(sorted(len(shape) - 1 - a for a in axes))
    outputs = [w(op, 0, axes=axes, keepdim=keep) for op in ("sum", "amax") for keep in (False, True)]
    check(w.part(*outputs, w("sum", 1, axes=axes, keepdim=False), w("sum", t, axes=back, keepdim=True)), [x, i], route)


@routes
def test_sum_is_rounded_once(route: Route) -> None:
    """Totals past 2^53 and at ties: maximal terms, and terms that cancel."""
    big = np.full((4, 1 << 16), np.float32(1) - np.float32(2) ** -24, np.float32)
    big[1, ::2] *= -1
    big[2] = np.float32(2) ** -20
    big[2, 0] = np.float32(2) ** 4
    big[3] = np.linspace(-1, 1, 1 << 16)
    # 2^15 + 2^-9 is a tie between two floats; 2^-39 more, far below what a double holds beside it, breaks it.
    tie = np.zeros((4, (1 << 15) + 2), np.float32)
    tie[:, : 1 << 15] = 1
    tie[:, -2] = 2.0**-9
    tie[1::2, -1] = 2.0**-39
    tie[2:] *= -1
    w = Writer(big, tie)
    outputs = [w("sum", 0, axes=(1,), keepdim=False), w("sum", 0, axes=(0, 1), keepdim=False), w("sum", 1, axes=(1,), keepdim=False)]
    check(w.part(*outputs), [big, tie], route)
    assert np.array_equal(reference.sum_(tie, (1,), False) == np.float32(2**15), [True, False, False, False])


@routes
@pytest.mark.parametrize("bits", [8, 14, 15, 16, 17, 23])
@pytest.mark.parametrize("kind", [*KINDS, "finite", "ones"])
def test_matmul(route: Route, bits: int, kind: str) -> None:
    rng = np.random.default_rng(7)
    for m, k, n in [(1, 1, 1), (3, 5, 7), (13, 130, 33), (33, 257, 65), (12, 128, 32), (2, 129, 1), (1, 64, 50)]:
        a, b = floats(rng, (m, k), kind), floats(rng, (k, n), kind)
        w = Writer(a, b, a.T.copy(), b.T.copy())
        at, bt = w("permute", 2, axes=(1, 0)), w("permute", 3, axes=(1, 0))
        check(w.part(w("matmul", 0, 1), w("matmul", at, bt), w("matmul", 0, bt), w("matmul", at, 1)), [a, b, a.T.copy(), b.T.copy()], route, bits)


@routes
@pytest.mark.parametrize("bits", [14, 15, 16])
def test_matmul_of_maximal_entries(route: Route, bits: int) -> None:
    """Every product as large as it can be: an int32 that is widened too late would wrap."""
    k = 400
    a = np.full((14, k), np.nextafter(np.float32(2), np.float32(0)), np.float32)
    b = np.full((k, 34), np.nextafter(np.float32(4), np.float32(0)), np.float32)
    b[:, 1] *= -1
    b[::2, 2] *= -1
    a[3, 100:] = 0
    w = Writer(a, b)
    check(w.part(w("matmul", 0, 1)), [a, b], route, bits)


@routes
def test_matmul_of_views(route: Route) -> None:
    """Attention's layout: heads cut out of one tensor, transposed; an operand shared by the batch; strides that are not one."""
    rng = np.random.default_rng(8)
    x, y, z = floats(rng, (2, 9, 3 * 20), "normal"), floats(rng, (20, 11), "normal"), floats(rng, (2, 9, 40), "wide")
    w = Writer(x, y, z)
    q, k, v = (
        w("permute", w("reshape", w("slice", 0, axis=2, start=s, stop=s + 20, step=1), shape=(2, 9, 4, 5)), axes=(0, 2, 1, 3)) for s in (0, 20, 40)
    )
    scores = w("matmul", q, w("permute", k, axes=(0, 1, 3, 2)))
    mixed = w("reshape", w("permute", w("matmul", scores, v), axes=(0, 2, 1, 3)), shape=(2, 9, 20))
    shared = w("matmul", mixed, w("expand", 1, shape=(2, 20, 11)))
    every_other = w("matmul", w("slice", 2, axis=2, start=0, stop=40, step=2), w("expand", 1, shape=(2, 20, 11)))
    flat = w("matmul", w("expand", w("reshape", 1, shape=(1, 220)), shape=(3, 220)), w("expand", w.f32(0.5), shape=(220, 2)))
    check(w.part(scores, mixed, shared, every_other, flat), [x, y, z], route)


@routes
@pytest.mark.parametrize("kind", ["normal", "wide", "tiny", "finite", "special"])
def test_rows_by_index(route: Route, kind: str) -> None:
    rng = np.random.default_rng(9)
    table, values = floats(rng, (7, 5), kind), floats(rng, (40, 5), kind)
    for dtype in ("i4", "i8"):
        index = np.concatenate([[-1, 7, 99, -(2**31), 2**31 - 1], rng.integers(0, 7, 35)]).astype(dtype)
        w = Writer(table, index, values)
        outputs = [w("take_rows", 0, 1), w("scatter_add_rows", 1, 2, rows=7), w("take_rows", 0, w("reshape", 1, shape=(8, 5)))]
        check(w.part(*outputs, w("take_rows", 1, 1)), [table, index, values], route)


@routes
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gather_and_scatter_value(route: Route, axis: int) -> None:
    rng = np.random.default_rng(10)
    x, i, p = floats(rng, (4, 5, 6), "bits"), rng.integers(-9, 9, (4, 5, 6)), rng.integers(0, 2, (4, 5, 6)).astype(bool)
    shape = [4, 5, 6]
    shape[axis] = 3
    index = rng.integers(-2, 8, shape)
    w = Writer(x, i, p, index)
    outputs = [w("gather", v, 3, axis=axis) for v in (0, 1, 2)]
    outputs += [w("scatter_value", v, 3, axis=axis, bits=bits) for v, bits in ((0, 0xBF800000), (1, (1 << 64) - 2), (2, 1))]
    check(w.part(*outputs), [x, i, p, index], route)


@routes
def test_moves(route: Route) -> None:
    rng = np.random.default_rng(11)
    x, i = floats(rng, (4, 6, 10), "bits"), rng.integers(-9, 9, (4, 6, 10))
    w = Writer(x, i)
    t = w("permute", 0, axes=(2, 0, 1))
    outputs = [
        w("reshape", t, shape=(20, 12)),
        w("reshape", 0, shape=(240,)),
        w("slice", t, axis=0, start=1, stop=9, step=3),
        w("pad", t, axis=1, before=2, after=1, bits=0x40490FDB),
        w("pad", 1, axis=2, before=0, after=3, bits=(1 << 64) - 1),
        w("concat", 0, w("slice", 0, axis=1, start=2, stop=3, step=1), 0, axis=1),
        w("expand", w("slice", 0, axis=0, start=3, stop=4, step=1), shape=(2, 3, 6, 10)),
        w("iota", n=1500),
        t,
        0,
        w("const", dtype="i64", bits=(1 << 64) - 5),
    ]
    check(w.part(*outputs, outputs[0]), [x, i], route)


@routes
def test_long_chains(route: Route) -> None:
    """Groups that grow past every limit of a fused step, fork, meet again, and are read at other shapes."""
    rng = np.random.default_rng(12)
    inputs = [floats(rng, (6, 350), "normal") for _ in range(30)]
    w = Writer(*inputs)
    a, b = 0, 1
    for n in range(120):
        a, b = w(("add", "mul", "sub", "maximum")[n % 4], a, n % 30), w(("mul", "sub", "minimum")[n % 3], b, a)
    wide = w("reshape", b, shape=(2, 3, 350))
    total = w("sum", wide, axes=(2,), keepdim=True)
    centred = w("sub", wide, total)
    flat = w("reshape", centred, shape=(6, 350))
    more = w("add", flat, b)
    turned = w("add", w("permute", more, axes=(1, 0)), w("reshape", more, shape=(350, 6)))
    check(w.part(a, b, turned, w("exp", w("neg", w("abs", more))), total), inputs, route)


@routes
def test_large_maps_are_cut_anywhere(route: Route) -> None:
    rng = np.random.default_rng(13)
    x, bias = floats(rng, (37, 1, 1000), "bits"), floats(rng, (3, 1000), "normal")
    w = Writer(x, bias)
    y = w("add", 0, 1)
    check(w.part(y, w("select", w("gt", y, 1), y, w("tanh", 0)), w("sum", y, axes=(0, 1), keepdim=False)), [x, bias], route)


@routes
def test_windows_spread_and_reverse(route: Route) -> None:
    """Also read by what comes next: a product of windows (a convolution), a map and a sum over them."""
    rng = np.random.default_rng(14)
    x, i, k = floats(rng, (2, 3, 9, 11), "bits"), rng.integers(-9, 9, (5, 12)), floats(rng, (4, 3 * 2 * 3), "normal")
    y = floats(rng, (2, 3, 9, 11), "normal")
    w = Writer(x, i, k, y)

    def cut(v: int) -> int:
        return w("windows", w("windows", v, axis=3, size=3, stride=2, dilation=2), axis=2, size=2, stride=3, dilation=1)

    patches, plain = cut(0), cut(3)
    columns = w("reshape", w("permute", plain, axes=(1, 3, 5, 0, 2, 4)), shape=(18, 24))
    outputs = [
        patches,
        w("add", patches, patches),
        w("sum", patches, axes=(3, 5), keepdim=False),
        w("amax", plain, axes=(3, 5), keepdim=True),
        w("matmul", 2, columns),
        w("matmul", 2, w("reverse", w("reverse", columns, axis=0), axis=1)),
        w("spread", w("spread", patches, axis=4, n=12, stride=2, dilation=2), axis=2, n=9, stride=3, dilation=1),
        w("spread", w("reshape", 1, shape=(5, 4, 3)), axis=0, n=30, stride=5, dilation=2),
        w("windows", 1, axis=0, size=5, stride=1, dilation=1),
        w("neg", w("reverse", 0, axis=2)),
        w("reverse", w("reverse", 1, axis=0), axis=1),
        w("add", w("windows", w("exp", 3), axis=3, size=11, stride=4, dilation=1), w("reshape", 3, shape=(2, 3, 9, 1, 11))),
    ]
    check(w.part(*outputs), [x, i, k, y], route)


@routes
@pytest.mark.parametrize("kind", [*KINDS, "finite"])
def test_prefix_sums(route: Route, kind: str) -> None:
    rng = np.random.default_rng(15)
    x, i = floats(rng, (5, 300, 13), kind), rng.integers(-(2**63), 2**63 - 1, (5, 300, 13))
    w = Writer(x, i)
    t = w("permute", 0, axes=(2, 0, 1))
    check(w.part(*[w("cumsum", v, axis=a) for v in (0, 1, t) for a in (0, 1, 2)]), [x, i], route)


@routes
def test_philox(route: Route) -> None:
    """The known answers of Random123 (Salmon et al.), and random counters."""
    known = [(0, 0, 0), (-1, -1, -1), (0x85A308D3243F6A88, 0x0370734413198A2E, 0x299F31D0A4093822)]
    answers = [0x6627E8D5, 0x408F276D, 0xD16CFE09]
    columns = [np.array([np.uint64(row[c] % (1 << 64)) for row in known]).view(np.int64) for c in range(3)]
    assert reference.apply("philox", {}, columns, "i64", 14).tolist() == answers
    rng = np.random.default_rng(16)
    a, b = (rng.integers(-(2**63), 2**63 - 1, shape) for shape in ((40, 70), (70,)))
    w = Writer(a, b, *columns)
    outputs = [w("philox", 2, 3, 4), w("philox", 0, 1, w("const", dtype="i64", bits=7)), w("lt", w("philox", w("iota", n=70), 1, 1), 0)]
    check(w.part(*outputs), [a, b, *columns], route)
