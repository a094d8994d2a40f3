"""The conformance set: every operator of the table with every attribute and dtype, on random and on adversarial inputs.

What is adversarial: numbers at the edges of float32 and of each conversion, rows of one scale next to rows of another, a NaN or an
infinity in one place only, signed zeros, sums whose rounding a wider float would get wrong, axes of 1, sizes that are no multiple of any
vector, block or tile, enough elements for a second thread, operands that are views (turned, cut, repeated, transposed). Nothing is
empty: the table knows no axis of 0. Products are in assay.exact.cases_of_products.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from assay.exact.cases_of_products import attention, products
from assay.exact.inputs import SPECIAL, Array, Case, Writer, case, floats, integers, whole, words
from assay.exact.table import OPS, Kind

AXES = ((2,), (1,), (0, 1), (0, 2), (0, 1, 2))
KINDS = ("even", "wide", "tiny", "bits", "special", "finite", "rare")
UNARY = tuple(name for name, op in OPS.items() if op.kind is Kind.MAP and op.arity == 1 and name not in ("cast", "not"))
BINARY = ("add", "sub", "mul", "div", "maximum", "minimum", "eq", "ne", "lt", "le", "gt", "ge")
ARITHMETIC = ("add", "sub", "mul", "eq", "ne", "lt", "le", "gt", "ge")
SIZES = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 65, 127, 255, 256, 257, 1023, 1024, 1025)
"""Around the widths of vectors, and of the native code's tiles (256) and blocks (1024)."""
SCALES = (-149, -140, -127, -126, -125, -100, -24, 0, 23, 64, 100, 127)
"""Exponents of rows that differ much."""
DTYPES = ("f32", "i32", "i64", "bool", "u8")


def cases() -> Iterator[Case]:
    """The set, in order."""
    yield from _maps()
    yield from _other_types()
    yield from _layouts()
    yield from _sums()
    yield from _rows()
    yield from products()
    yield from attention()
    yield from _moves()


def _scaled(seed: int, shape: tuple[int, int]) -> Array:
    """Rows between +-1 times the powers of two of SCALES, in turn."""
    rows = np.array([SCALES[i % len(SCALES)] for i in range(shape[0])])[:, None]
    return np.asarray(np.ldexp(floats(seed, shape, "even").astype(np.float64), rows).astype(np.float32))


# ---- MAP, CONST --------------------------------------------------------------------------------------------------------------


def _maps() -> Iterator[Case]:
    for seed, kind in enumerate(KINDS):
        yield case(f"unary {kind}", [floats(seed, (7, 523), kind)], lambda w: [w(op, 0) for op in UNARY])
        pair = [floats(seed + 100, (5, 1, 211), kind), floats(seed + 200, (4, 211), kind)]
        yield case(f"binary {kind}", pair, lambda w: [w(op, 0, 1) for op in BINARY])
    exponents = np.arange(0, 1 << 31, (1 << 31) // 30011, dtype=np.int64).astype(np.uint32).view(np.float32)
    yield case("functions over all exponents", [np.concatenate([exponents, -exponents])], lambda w: [w(op, 0) for op in UNARY])
    # Where a function changes its formula or its range ends, and forty numbers on either side.
    seams = [0.5, 0.625, 2**-0.5, 1, 2, 4, 9, 87.3, 88.72284, 89, 103.97, 104, 2.0**22, 2.0**-126, 1e5, 1e20] + [n * np.pi / 4 for n in range(1, 9)]
    near = (np.array(seams, np.float32).view(np.uint32)[:, None] + np.arange(-40, 41, dtype=np.int64)).astype(np.uint32).view(np.float32)
    yield case("functions near their seams", [np.concatenate([near, -near])], lambda w: [w(op, 0) for op in UNARY])
    several = [floats(900 + n, (n,), "rare") for n in SIZES]
    yield case("unary of every size", several, lambda w: [w(op, i) for i in range(len(SIZES)) for op in UNARY])
    pairs = [floats(930 + i, (n,), "finite") for n in SIZES for i in (0, 1)]
    yield case("binary of every size", pairs, lambda w: [w(op, i, i + 1) for i in range(0, len(pairs), 2) for op in BINARY])
    yield case("special pairs", [SPECIAL[:, None].copy(), SPECIAL[None].copy()], lambda w: [w(op, 0, 1) for op in BINARY])
    shapes = [(), (), (1,), (2, 3, 1), (7, 1, 130), (5, 1), (2100,), (1,), (2, 1, 3, 1, 2, 1, 2, 1), (1, 2, 1, 3, 1, 2, 1, 5)]
    broadcast = [floats(970 + i, shape, "rare") for i, shape in enumerate(shapes)]
    yield case("binary, broadcast", broadcast, lambda w: [w(op, *p) for i in range(0, 10, 2) for op in BINARY for p in ((i, i + 1), (i + 1, i))])
    large = [floats(980, (27, 1031), "rare"), floats(981, (1031,), "wide"), floats(982, (27, 1), "bits")]
    yield case("maps for many threads", large, lambda w: [w(op, 0) for op in UNARY] + [w(op, 0, v) for op in BINARY for v in (1, 2)])
    chained = [floats(990 + i, (3, 701), "even") for i in range(30)]
    yield case("long chains", chained, _chain)
    yield case("constants", [], lambda w: [w("const", dtype=t, bits=b) for t, b in _CONSTANTS] + [w("iota", n=n) for n in (1, 9, 2500)])


_CONSTANTS = [("f32", int(bits)) for bits in SPECIAL.view(np.uint32) if bits & 0x7FFFFFFF <= 0x7F800000] + [
    ("f32", 0x7FC00000), ("i32", 0), ("i32", 0xFFFFFFFF), ("i32", 1 << 31), ("i64", (1 << 64) - 5), ("i64", 1 << 63), ("bool", 0), ("bool", 1),
]  # fmt: skip


def _chain(w: Writer) -> list[int]:
    """More members and inputs than one fused step takes; forks that meet again; a sum in between."""
    a, b = 0, 1
    for n in range(90):
        a, b = w(("add", "mul", "sub", "maximum")[n % 4], a, n % 30), w(("mul", "sub", "minimum")[n % 3], b, a)
    centred = w("sub", b, w("sum", b, axes=(1,), keepdim=True))
    return [a, b, centred, w("select", w("lt", centred, a), w("exp", w("neg", w("abs", centred))), w("sigmoid", a))]


def _other_types() -> Iterator[Case]:
    ends = np.array([0, 1, -1, 2**24 + 1, 2**31, -(2**31) - 1, 2**53 + 1, 2**63 - 1, -(2**63)], np.int64)
    mixed = np.concatenate([ends, (words(800, 300) >> (words(801, 300) % np.uint64(64))).view(np.int64)])
    numbers = [np.concatenate([SPECIAL, floats(802, (400,), "wide")]), mixed, mixed.astype(np.int32), mixed % 3 == 0, mixed.astype(np.uint8)]
    to = ("f32", "i32", "i64", "bool")
    yield case("cast", numbers, lambda w: [w("cast", v, dtype=t) for v in range(5) for t in to])
    # Halves, the last numbers inside and the first outside of each integer type; integers whose rounding through a double would be twice.
    around = np.array([0.5, 1.5, 2.5, 0.99999994, 2.0**24 + 2, 2.0**31, 2.0**63, 2.0**64], np.float32)
    edges = np.concatenate([np.nextafter(around, np.float32(0)), around, np.nextafter(around, np.float32(np.inf))])
    ties = np.array([s * (2**e + 2 ** (e - 24) + d) for e in (24, 25, 31, 40, 53, 60, 62) for d in (-1, 0, 1) for s in (1, -1)], np.int64)
    yield case("cast at the edges", [np.concatenate([edges, -edges]), ties], lambda w: [w("cast", v, dtype=t) for v in (0, 1) for t in to])
    large = [floats(804, (9001,), "wide") * np.float32(2.0**30)] + [whole(830 + i, (9001,), t) for i, t in enumerate(("i32", "i64", "bool", "u8"))]
    yield case("casts for many threads", large, lambda w: [w("cast", v, dtype=t) for v in range(5) for t in to])
    both = [mixed, mixed[::-1].copy(), mixed.astype(np.int32), mixed[::-1].astype(np.int32)]
    yield case("integers", both, lambda w: [w(op, v, v + 1) for v in (0, 2) for op in ARITHMETIC] + [w("sum", 0, axes=(0,), keepdim=False)])
    more = [whole(840 + i, shape, t) for i, t in enumerate(("i32", "i64")) for shape in ((3, 2801), (3, 1))]
    yield case("integers, broadcast", more, lambda w: [w(op, *p) for v in (0, 2) for op in ARITHMETIC for p in ((v, v + 1), (v + 1, v), (v, v))])
    truths = [mixed % 2 == 0, mixed % 3 == 0, mixed, floats(803, (len(mixed),), "bits")]

    def choose(w: Writer) -> list[int]:
        x = w("permute", 3, axes=(0,))
        return [w("and", 0, 1), w("or", 0, 1), w("not", 0), w("select", 0, 2, w("mul", 2, 2)), w("select", 1, 3, w("neg", x)), w("select", 0, 1, 0)]

    yield case("select", truths, choose)
    wide = [whole(850, (9, 1, 1025), "bool"), whole(851, (5, 1), "bool")]
    wide += [a for i, t in enumerate(("f32", "i32", "i64", "bool")) for a in (whole(852 + 2 * i, (5, 1025), t), whole(853 + 2 * i, (1,), t))]
    chosen = [(c, *p) for v in (2, 4, 6, 8) for c in (0, 1) for p in ((v, v + 1), (v + 1, v))]
    yield case("select, broadcast", wide, lambda w: [w("and", 0, 1), w("or", 0, 1), w("not", w("and", 0, 1))] + [w("select", *p) for p in chosen])
    counters = [words(806, 400).view(np.int64), words(807, 400).view(np.int64), words(808, 1).view(np.int64)]
    yield case("philox", counters, lambda w: [w("philox", 0, 1, 2), w("philox", w("iota", n=400), 1, 2)])
    # Known answers of Random123 (Salmon et al.), every word of a counter on its own, and a whole mask.
    known = [[0, 0, 0], [-1, -1, -1], [0x85A308D3243F6A88, 0x0370734413198A2E, 0x299F31D0A4093822]]
    known += [[x if i == at else 0 for i in range(3)] for at in range(3) for x in (1, 1 << 31, 1 << 32, 1 << 63)]
    columns = [np.array([row[i] % (1 << 64) for row in known], np.uint64).view(np.int64) for i in range(3)]
    mask = [integers(809, (9, 1001), 0, 1 << 41), np.array(3 << 32, np.int64), np.array(77, np.int64)]
    yield case("philox, known answers", columns + mask, lambda w: [w("philox", 0, 1, 2), w("philox", 3, 4, 5), w("philox", 5, 3, 4)])


# ---- operands that are views -------------------------------------------------------------------------------------------------


def _views(w: Writer, x: int) -> list[int]:
    """Of an input [6, 5, 44]: nine that lie in memory in nine ways, all of shape [5, 6, 44] but for the last."""
    t = w("permute", x, axes=(1, 0, 2))
    return [
        t,
        w("reverse", t, axis=2),
        w("reverse", w("permute", w("reverse", x, axis=0), axes=(1, 0, 2)), axis=0),
        w("reshape", w("permute", x, axes=(2, 1, 0)), shape=(5, 6, 44)),
        w("expand", w("slice", t, axis=2, start=7, stop=8, step=1), shape=(5, 6, 44)),
        w("expand", w("slice", t, axis=0, start=4, stop=5, step=1), shape=(5, 6, 44)),
        w("reshape", w("windows", w("slice", t, axis=2, start=0, stop=23, step=1), axis=2, size=2, stride=1, dilation=1), shape=(5, 6, 44)),
        w("pad", w("slice", t, axis=2, start=1, stop=44, step=3), axis=2, before=14, after=15, bits=1),
        w("slice", t, axis=1, start=1, stop=6, step=2),
    ]


def _layouts() -> Iterator[Case]:
    for seed, t in enumerate(("f32", "i32", "i64", "bool")):
        x = [floats(860, (6, 5, 44), "rare") if t == "f32" else whole(860 + seed, (6, 5, 44), t)]

        def each(w: Writer, t: str = t) -> list[int]:
            views = _views(w, 0)
            if t == "bool":
                pairs = [w(op, views[0], v) for op in ("and", "or") for v in views[:8]]
                return [w("not", v) for v in views] + pairs + [w("select", v, views[1], v) for v in views[:8]]
            cast = [w("cast", v, dtype=to) for v in views for to in ("f32", "i32", "i64", "bool")]
            maps = [w("add", v, v) for v in views] + [w("lt", views[0], v) for v in views[:8]] + [w("mul", v, views[3]) for v in views[:8]]
            reduced = [] if t == "i32" else [w(op, v, axes=a, keepdim=False) for op in ("sum",) for v in views for a in ((0,), (1, 2), (0, 2))]
            if t == "f32":
                maps += [w(op, v) for v in views for op in ("exp", "neg", "relu")]
                reduced += [w("amax", v, axes=a, keepdim=True) for v in views for a in ((0,), (2,), (0, 1, 2))]
            return cast + maps + reduced + ([] if t == "i32" else [w("cumsum", v, axis=a) for v in views[:6] for a in (0, 2)])

        yield case(f"views of {t}", x, each)


# ---- REDUCE but products -----------------------------------------------------------------------------------------------------


def _sums() -> Iterator[Case]:
    for seed, kind in enumerate(KINDS):
        x = floats(seed + 300, (6, 40, 33), kind)
        yield case(f"reduce {kind}", [x], lambda w: [w(op, 0, axes=a, keepdim=k) for op in ("sum", "amax") for a in AXES for k in (True, False)])
        x = floats(seed + 810, (5, 40, 7), kind)
        i = words(seed + 820, 1400).view(np.int64).reshape(x.shape)
        yield case(f"prefix {kind}", [x, i], lambda w: [w("cumsum", v, axis=a) for v in (0, 1) for a in (0, 1, 2)])
    rows = [floats(1000 + n, (3, n), "rare") for n in SIZES]
    columns = [floats(1100 + n, (n, 3), "wide") for n in SIZES] + [floats(1200 + n, (5, n), "rare") for n in SIZES]
    both = ("sum", "amax")
    yield case("reduce rows of every size", rows, lambda w: [w(op, v, axes=(1,), keepdim=False) for v in range(len(rows)) for op in both])
    yield case("reduce columns of every size", columns, lambda w: [w(op, v, axes=(0,), keepdim=True) for v in range(len(columns)) for op in both])
    yield case("prefix of every size", rows, lambda w: [w("cumsum", v, axis=1) for v in range(len(rows))])
    large = [floats(1300, (2, 70, 301), "rare"), whole(1301, (2, 70, 301), "i64"), floats(1302, (3, 5001), "wide"), floats(1303, (5001, 3), "tiny")]

    def many(w: Writer) -> list[int]:
        out = [w(op, v, axes=a, keepdim=False) for op, v in (("sum", 0), ("sum", 1), ("amax", 0)) for a in ((0,), *AXES, (1, 2))]
        out += [w(op, v, axes=(a,), keepdim=False) for op in both for v in (2, 3) for a in (0, 1)]
        return out + [w("cumsum", v, axis=a) for v in (0, 1) for a in (0, 1, 2)]

    yield case("reduce for many threads", large, many)
    scaled = _scaled(1310, (36, 50))
    every = [(op, a) for op in both for a in ((0,), (1,), (0, 1))]
    yield case("reduce rows of every scale", [scaled], lambda w: [w(op, 0, axes=a, keepdim=False) for op, a in every] + [w("cumsum", 0, axis=1)])
    # Totals at a tie between two floats that something below a double's reach breaks, and terms as large as they can be.
    tie = np.zeros((4, (1 << 15) + 2), np.float32)
    tie[:, : 1 << 15], tie[:, -2], tie[1::2, -1] = 1, 2.0**-9, 2.0**-39
    tie[2:] *= -1
    big = np.full((4, 1 << 16), np.nextafter(np.float32(1), np.float32(0)), np.float32)
    big[1, ::2] *= -1
    big[2], big[2, 0], big[3] = 2.0**-20, 16, floats(1320, (1 << 16,), "even")
    once = [(v, a) for v in (0, 1) for a in ((1,), (0, 1))]
    yield case("sums are rounded once", [tie, big], lambda w: [w("sum", v, axes=a, keepdim=False) for v, a in once] + [w("cumsum", 0, axis=1)])
    largest = np.full((2, 300), np.finfo(np.float32).max, np.float32)
    largest[1, ::2] *= -1
    yield case("sums that overflow", [largest], lambda w: [w("sum", 0, axes=a, keepdim=False) for a in ((0,), (1,))] + [w("cumsum", 0, axis=1)])
    zeros = [np.full((4, 9), -0.0, np.float32), np.array([[0.0, -0.0, -0.0], [-0.0, 0.0, -0.0], [-1.0, -0.0, 1.0], [-0.0, -1e-45, -0.0]], np.float32)]
    yield case("signed zeros", zeros, _signed)
    # From 2^22 terms on a sum has fewer than 40 bits for each.
    long = [floats(1330, (1, 1025), "wide"), floats(1331, (4097, 1), "even")]

    def spread_out(w: Writer) -> list[int]:
        x = w("reshape", w("expand", 0, shape=(4097, 1025)), shape=(4097 * 1025,))
        y = w("expand", 1, shape=(4097, 1025))
        return [w("sum", x, axes=(0,), keepdim=False), w("sum", y, axes=(0, 1), keepdim=False)]

    yield case("sums of more than 2^22", long, spread_out)


def _signed(w: Writer) -> list[int]:
    out = [w(op, v, axes=(a,), keepdim=False) for op in ("sum", "amax") for v in (0, 1) for a in (0, 1)]
    out += [w("cumsum", v, axis=1) for v in (0, 1)] + [w("matmul", v, w("permute", v, axes=(1, 0))) for v in (0, 1)]
    turned = w("reverse", 1, axis=1)
    return out + [w(op, 1, turned) for op in ("maximum", "minimum", "add", "sub", "mul", "div", "eq", "lt")] + [w(op, 1) for op in UNARY]


def _rows() -> Iterator[Case]:
    for seed, kind in enumerate(KINDS):
        index = integers(seed + 400, (50,), -3, 13)
        rows = [index, floats(seed + 500, (50, 9), kind)]
        yield case(f"rows {kind}", rows, lambda w: [w("scatter_add_rows", 0, 1, rows=10), w("take_rows", 1, 0)])
    ends = np.array([-1, 7, 99, -(2**31), 2**31 - 1], np.int64)
    long = np.concatenate([ends, [-(2**63), 2**63 - 1, 2**32 + 3], integers(1400, (93,), 0, 7)])
    short = np.concatenate([ends, [0, 1, 2], integers(1401, (93,), 0, 7)]).astype(np.int32)
    values = [long, short, floats(1402, (101,), "finite"), floats(1403, (101, 3, 5), "wide"), floats(1404, (101, 2), "tiny"), _scaled(1405, (101, 4))]

    def add(w: Writer) -> list[int]:
        return [w("scatter_add_rows", i, v, rows=n) for i in (0, 1) for v in (2, 3, 4, 5) for n in (1, 7, 8, 300)]

    yield case("scatter-add", values, add)
    one = [np.array([5], np.int64), floats(1410, (1, 3), "even"), np.zeros(7, np.int32), np.full((7, 2), -0.0, np.float32)]
    yield case("scatter-add of little", one, lambda w: [w("scatter_add_rows", 0, 1, rows=2), w("scatter_add_rows", 2, 3, rows=1)])
    many = [integers(1420, (20011,), 0, 40), floats(1421, (20011, 3), "rare"), floats(1422, (20011, 3), "even")]
    yield case("scatter-add of much", many, lambda w: [w("scatter_add_rows", 0, v, rows=40) for v in (1, 2)])
    tie = np.concatenate([np.ones(1 << 15), [2.0**-9, 2.0**-39]]).astype(np.float32)
    sums: list[Array] = [np.zeros(len(tie), np.int64), tie, -tie]
    yield case("scatter-add is rounded once", sums, lambda w: [w("scatter_add_rows", 0, v, rows=2) for v in (1, 2)])
    tables = [long, short] + [whole(1430 + i, (7, 4), t) for i, t in enumerate(DTYPES)] + [whole(1440 + i, (7,), t) for i, t in enumerate(DTYPES)]

    def take(w: Writer) -> list[int]:
        grid = w("slice", w("reshape", w("slice", 0, axis=0, start=1, stop=101, step=1), shape=(4, 25)), axis=1, start=3, stop=21, step=2)
        single = w("reshape", w("slice", 1, axis=0, start=9, stop=10, step=1), shape=())
        return [w("take_rows", v, i) for v in range(2, 12) for i in (0, 1, grid, single)]

    yield case("rows by index", tables, take)
    for axis in range(3):
        shape = [4, 5, 6]
        shape[axis] = 3
        indices = [integers(1450 + axis, shape, -2, 8), integers(1460 + axis, shape, -2, 8).astype(np.int32)]
        xs = [whole(1470 + i, (4, 5, 6), t) for i, t in enumerate(DTYPES)]
        fills = (0xBF800000, 1 << 31, (1 << 64) - 2, 1, 255)

        def along(w: Writer, axis: int = axis, fills: tuple[int, ...] = fills) -> list[int]:
            out = [w("gather", v, i, axis=axis) for v in range(2, 7) for i in (0, 1)]
            return out + [w("scatter_value", v, i, axis=axis, bits=fills[v - 2]) for v in range(2, 7) for i in (0, 1)]

        yield case(f"gather and scatter along {axis}", indices + xs, along)


# ---- MOVE ----------------------------------------------------------------------------------------------------------------------


def _moves() -> Iterator[Case]:
    x, at = floats(804, (4, 5, 6), "bits"), integers(805, (4, 3, 6), -2, 8)

    def move(w: Writer) -> list[int]:
        t = w("permute", 0, axes=(2, 0, 1))
        return [
            w("reshape", t, shape=(12, 10)),
            w("slice", t, axis=0, start=1, stop=6, step=2),
            w("pad", t, axis=1, before=1, after=2, bits=0x40490FDB),
            w("concat", 0, 0, axis=1),
            w("expand", w("slice", 0, axis=1, start=2, stop=3, step=1), shape=(4, 9, 6)),
            w("gather", 0, 1, axis=1),
            w("scatter_value", 0, 1, axis=1, bits=0xBF800000),
            w("reverse", 0, axis=1),
            w("windows", 0, axis=2, size=2, stride=3, dilation=2),
            w("spread", 0, axis=1, n=18, stride=3, dilation=1),
            w("iota", n=9),
        ]

    yield case("moves", [x, at], move)
    fills = {"f32": 0x80000000, "i32": 1 << 31, "i64": (1 << 64) - 1, "bool": 1, "u8": 255}
    for seed, t in enumerate(DTYPES):
        xs = [whole(1500 + seed, (4, 6, 10), t), whole(1510 + seed, (1, 1, 10, 1), t)]
        yield case(f"moves of {t}", xs, partial(_every_move, fill=fills[t]))
    deep = [floats(1520, (2, 1, 3, 1, 2, 2, 1, 5), "bits")]
    yield case("moves of eight axes", deep, _deep_moves)


def _every_move(w: Writer, fill: int) -> list[int]:
    t = w("permute", 0, axes=(2, 0, 1))
    out = [w("permute", 0, axes=a) for a in ((0, 1, 2), (2, 1, 0), (1, 2, 0))]
    out += [w("reshape", v, shape=s) for v in (0, t) for s in ((240,), (20, 12))]
    out += [w("reshape", 1, shape=(10,)), w("expand", 1, shape=(3, 2, 10, 7)), w("expand", 1, shape=(2, 2, 1, 10, 1))]
    for axis, n in enumerate((10, 4, 6)):
        out += [w("slice", t, axis=axis, start=s, stop=e, step=step) for s, e, step in ((0, n, 1), (n - 1, n, 1), (1, n, 2), (0, n - 1, n))]
        out += [w("pad", t, axis=axis, before=b, after=a, bits=fill) for b, a in ((0, 0), (0, 3), (2, 0), (1, 1))]
        out += [w("concat", t, w("reverse", t, axis=axis), w("slice", t, axis=axis, start=1, stop=2, step=1), axis=axis), w("concat", t, axis=axis)]
        for size, stride, dilation in ((1, 1, 1), (n, 1, 1), (2, 3, 1), (2, 1, 2), (3, 2, 1)):
            y = w("windows", t, axis=axis, size=size, stride=stride, dilation=dilation)
            reach = (w.type(y).shape[axis] - 1) * stride + (size - 1) * dilation
            out += [y, w("spread", y, axis=axis, n=reach + 1, stride=stride, dilation=dilation)]
        out += [w("spread", t, axis=axis, n=60, stride=5, dilation=1)] if axis < 2 else []
        out += [w("reverse", w("reverse", t, axis=axis), axis=(axis + 1) % 3)]
    return out


def _deep_moves(w: Writer) -> list[int]:
    t = w("permute", 0, axes=(7, 5, 3, 1, 0, 2, 4, 6))
    return [
        t,
        w("reverse", t, axis=0),
        w("neg", t),
        w("reshape", t, shape=(1, 10, 1, 2, 3, 2)),
        w("expand", 0, shape=(2, 4, 3, 2, 2, 2, 3, 5)),
        w("concat", t, t, axis=4),
        w("sum", t, axes=(0, 2, 4, 6), keepdim=True),
        w("amax", t, axes=(1, 3, 5, 7), keepdim=False),
        w("cumsum", t, axis=5),
    ]
