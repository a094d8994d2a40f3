"""Matrix products of the conformance set: what an accumulator, a scale, a panel or a checksum can get wrong.

q at its limit in every place, for longer than any accumulator may wait to be widened; K on both sides of each bound; operands in all
four orientations, shared by a batch, cut out of others; rows and columns of every scale; widths of 8 to 23 bits.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from assay.exact.inputs import Array, Case, Writer, case, floats, integers

KINDS = ("even", "wide", "tiny", "bits", "special", "finite", "rare")
WIDTHS = (8, 14, 15, 23)
"""One for each way of summing: short digits, the default, the widest pair of int16, three planes."""
SHAPES = (
    (1, 1, 1), (1, 2, 1), (2, 1, 3), (3, 5, 7), (4, 31, 8), (5, 32, 9), (6, 33, 16), (7, 34, 17), (12, 63, 32), (13, 64, 33),
    (11, 65, 31), (1, 127, 40), (40, 128, 1), (25, 129, 65), (2, 255, 3), (3, 257, 70), (61, 258, 64),
)  # fmt: skip
"""m, k, n around the heights and widths of tiles, and the blocks of k."""
MOST = np.nextafter(np.float32(2), np.float32(0))
"""Quantised it is 2^(b-1), but for the clamp."""


def products() -> Iterator[Case]:
    for seed, kind in enumerate(KINDS):
        for bits in (8, 14, 15, 16, 20, 23):
            a, b = floats(seed + 600, (3, 14, 301), kind), floats(seed + 700, (3, 301, 37), kind)
            yield case(f"matmul {kind} b={bits}", [a, b], lambda w: [w("matmul", 0, 1)], bits)
    # Products as large as they can be, for longer than any accumulator that is widened too late.
    for bits in (8, 14, 15, 16, 17, 20, 23):
        yield case(f"maximal products b={bits}", _maximal(13, 700, 33), lambda w: [w("matmul", 0, 1)], bits)
    for bits in WIDTHS:
        short = [x for k in (2, 7, 8, 9, 31, 32, 33, 34, 63, 65, 127, 128, 129, 130) for x in _maximal(3, k, 5)]
        yield case(f"maximal products of few terms b={bits}", short, _pairs, bits)
        # At b = 23 2(b - 1) + log2 K = 62, the most that a program may ask for; at b = 14 and 15 the sum of a column of q is past an int32.
        long = _maximal(2, (1 << 18) + (99 if bits < 23 else 0), 3)
        yield case(f"maximal products of many terms b={bits}", long, lambda w: [w("matmul", 0, 1)], bits)
        yield case(f"matmul of every shape b={bits}", _shaped(bits), _orientations, bits)
        threads = [floats(bits + 1600, (67, 300), "rare"), floats(bits + 1620, (300, 70), "even"), floats(bits + 1640, (300, 67), "wide")]
        yield case(f"matmul for many threads b={bits}", threads, lambda w: [w("matmul", 0, 1), w("matmul", w("permute", 2, axes=(1, 0)), 1)], bits)
        yield case(f"matmul of every scale b={bits}", _scales(), lambda w: [w("matmul", 0, 1), w("matmul", 2, 1)], bits)
        yield case(f"matmul at ties b={bits}", _ties(bits), lambda w: [w("matmul", 0, 1)], bits)
        yield case(f"matmul is rounded once b={bits}", _near_ties(bits), lambda w: [w("matmul", 0, 1)], bits)
        tall = [floats(1700, (50021, 3), "even"), floats(1701, (3, 2), "even")]
        yield case(f"matmul of many rows b={bits}", tall, lambda w: [w("matmul", 0, 1)], bits)
        views = [floats(1710, (2, 9, 60), "even"), floats(1711, (20, 11), "even"), floats(1712, (2, 3, 8, 40), "wide")]
        views += [floats(1713, (3, 20, 7), "rare")]
        yield case(f"matmul of views b={bits}", views, _views, bits)
    for bits in (9, 10, 11, 12, 13, 17, 18, 19, 21, 22):
        yield case(f"matmul b={bits}", [floats(1720, (9, 97), "wide"), floats(1721, (97, 21), "even")], lambda w: [w("matmul", 0, 1)], bits)


def _maximal(m: int, k: int, n: int) -> list[Array]:
    """All products of one sign, of the other (column 1), by turns (column 2, where there is one)."""
    a, b = np.full((m, k), MOST, np.float32), np.full((k, n), MOST, np.float32)
    b[:, 1], b[::2, 2] = -MOST, -MOST
    return [a, b]


def _pairs(w: Writer) -> list[int]:
    return [w("matmul", i, i + 1) for i in range(0, len(w.inputs), 2)]


def _shaped(bits: int) -> list[Array]:
    """Of each shape: a, b, and both transposed."""
    out = []
    for i, (m, k, n) in enumerate(SHAPES):
        kind = ("rare", "even", "wide")[i % 3]
        a, b = floats(bits + 1800 + 100 * i, (m, k), kind), floats(bits + 1850 + 100 * i, (k, n), kind)
        out += [a, b, a.T.copy(), b.T.copy()]
    return out


def _orientations(w: Writer) -> list[int]:
    out = []
    for i in range(0, len(w.inputs), 4):
        at, bt = w("permute", i + 2, axes=(1, 0)), w("permute", i + 3, axes=(1, 0))
        out += [w("matmul", a, b) for a in (i, at) for b in (i + 1, bt)]
    return out


def _scales() -> list[Array]:
    """Rows, and columns, each of a scale of its own, so that results are zero, subnormal, ordinary and infinite; then rows of mixed scales."""
    scales = np.array([-149, -140, -127, -126, -100, -30, 0, 30, 64, 100, 126, 127])
    a, b = (np.ldexp(floats(1730 + i, (12, 40), "even").astype(np.float64), scales[:, None]).astype(np.float32) for i in (0, 1))
    mixed = np.ldexp(floats(1732, (12, 40), "even").astype(np.float64), integers(1733, (12, 40), -149, 127)).astype(np.float32)
    return [a, b.T.copy(), mixed]


def _ties(bits: int) -> list[Array]:
    """Every other element lies halfway between two whole q."""
    a, b = (integers(bits + 1740 + 30 * i, (8, 65), -(1 << bits) + 1, 1 << bits) / 2.0**bits for i in (0, 1))
    return [a.astype(np.float32), b.T.astype(np.float32).copy()]


def _near_ties(bits: int) -> list[Array]:
    """Totals halfway between two floats, and off that by the least that there is: at b = 23 too little for a double to tell."""
    q = np.full((4, 4098), 2.0 ** (bits - 2))  # the sum of squares of 4096 of them is 2^(2b + 8)
    q[:, -2], q[:, -1] = 2.0 ** (bits - 8), [1, 0, -1, 1]
    a = (q / 2.0 ** (bits - 1)).astype(np.float32)
    b = np.stack([a[0], -a[0]], 1)
    a[3] *= -1
    return [a, b]


def attention() -> Iterator[Case]:
    """With its gradients, which a device may make without the scores in memory: rows that are masked as a whole, and more keys than a warp has
    threads."""
    for bits, kind in (*((bits, "even") for bits in WIDTHS), (14, "wide"), (14, "rare")):
        given = [floats(1760 + i, (2, length, 20), kind) for i, length in enumerate((43, 39, 39, 43))]
        mask = np.where(np.arange(43)[:, None] - 4 >= np.arange(39)[None], np.float32(0), np.float32(-np.inf))
        yield case(f"attention {kind} b={bits}", [*given, mask], _attention, bits)
    for kind in ("even", "rare"):
        given = [floats(1780 + i, (2, 130, 16), kind) for i in range(4)]
        yield case(f"attention causal {kind}", given, _causal)


def _causal(w: Writer) -> list[int]:
    """The mask is a constant, so that what it empties may be left out; the last lines have three units of 64."""
    key = w("reshape", w("iota", n=130), shape=(1, 130))
    zero, least = (w("expand", w("reshape", w.f32(x), shape=(1, 1)), shape=(130, 130)) for x in (0.0, -np.inf))
    return _attention(w, w("select", w("le", key, w("reshape", key, shape=(130, 1))), zero, least))


def _attention(w: Writer, mask: int = 4) -> list[int]:
    q, k, v, g = range(4)

    def turned(x: int) -> int:
        return w("permute", x, axes=(0, 2, 1))

    def wide(x: int) -> int:
        return w("expand", x, shape=w.type(s).shape)

    def over(op: str, x: int) -> int:
        return wide(w(op, x, axes=(2,), keepdim=True))

    s = w("matmul", q, turned(k))
    x = w("add", s, wide(mask))
    most = over("amax", x)
    e = w("exp", w("sub", x, most))
    p = w("select", w("eq", most, wide(w.f32(-np.inf))), wide(w.f32(0.0)), w("div", e, over("sum", e)))
    o = w("matmul", p, v)
    given = w("mul", o, g)
    d = w("mul", p, w("matmul", given, turned(v)))
    ds = w("sub", d, w("mul", p, over("sum", d)))
    return [o, w("matmul", turned(p), given), w("matmul", ds, k), w("matmul", turned(q), ds)]


def _views(w: Writer) -> list[int]:
    """Attention's layout: heads cut out of one tensor; operands shared by the batch; strides that are not one, or negative, or zero."""
    cut = [w("slice", 0, axis=2, start=s, stop=s + 20, step=1) for s in (0, 20, 40)]
    q, k, v = (w("permute", w("reshape", x, shape=(2, 9, 4, 5)), axes=(0, 2, 1, 3)) for x in cut)
    scores = w("matmul", q, w("permute", k, axes=(0, 1, 3, 2)))
    return [
        scores,
        w("matmul", scores, v),
        w("matmul", cut[0], w("expand", 1, shape=(2, 20, 11))),
        w("matmul", w("slice", 2, axis=3, start=0, stop=40, step=2), w("expand", 3, shape=(2, 3, 20, 7))),
        w("matmul", w("expand", w("slice", 2, axis=0, start=1, stop=2, step=1), shape=(2, 3, 8, 40)), w("permute", 2, axes=(0, 1, 3, 2))),
        w("matmul", w("reverse", w("reverse", cut[1], axis=2), axis=1), w("expand", w("reverse", 1, axis=0), shape=(2, 20, 11))),
        w("matmul", w("expand", w("reshape", 1, shape=(1, 220)), shape=(3, 220)), w("expand", w.f32(0.5), shape=(220, 2))),
        w("matmul", w("windows", w("reshape", 1, shape=(220,)), axis=0, size=20, stride=3, dilation=2), 1),
    ]
