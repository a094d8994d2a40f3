"""Writes tests/vectors/softfloat.json: single operations of binary32 by this machine's floating-point unit (through NumPy, as
assay.exact.reference uses it), for the contracts' soft-float.

    python tools/softfloat_vectors.py            (some seconds)

An input is a number i and two words of splitmix64, w and v (`inputs`); from them come
    a, b    floats: i & 7 chooses random bits, exponents near each other, mantissas of few bits, or results near the ends of the range
    whole   an i64 of any magnitude
    shift   -400..111
    s       the scale of a fixed point that |a| fits: rint(a · 2^s) has at most 40 bits
`pairs`: columns of hard inputs (every pair of assay.exact.inputs.SPECIAL, roots and quotients next to
a tie, then generated ones), all big-endian: a, b u32, whole i64,
shift, s i32; then a column for each operation, u64 (results with sign as two's complement).
`bulk`: block k (from 0) is the inputs w = words(k << 40), v = words(k << 40 | 1 << 39), i = 0..16383. digest(k) =
SHA-256(digest(k - 1) ‖ results of block k, u64 big-endian each), digest(-1) = 32 zero bytes. `counts` of blocks, and for each operation
the digests after so many.
`functions`: the same for one f32 -> f32 function at a time, blocks of 1024 inputs: w >> 32, for odd i with the exponent field brought
into 112..135, where most functions do their work.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from assay.exact import reference
from assay.exact.functions import NAN
from assay.exact.inputs import SPECIAL, words

Array = NDArray[Any]
TARGET = Path(__file__).resolve().parent.parent / "tests" / "vectors" / "softfloat.json"
BLOCK = 16384
FUNCTION_BLOCK = 1024
COUNTS = (1, 10, 100, 640)
HARD = 2000


class Inputs(NamedTuple):
    a: Array
    b: Array
    whole: Array
    shift: Array
    s: Array


def _field(bits: Array) -> Array:
    return (bits >> 23) & 255


def inputs(w: Array, v: Array, i: Array) -> Inputs:
    a, b = (w >> np.uint64(32)).astype(np.int64), (w & np.uint64(0xFFFFFFFF)).astype(np.int64)
    mode = i & 7
    few = (mode == 3) | (mode == 4)
    a, b = np.where(few, a & 0xFF9E0007, a), np.where(few, b & 0xFF9E0007, b)
    e, off = _field(a), (_field(b) & 63) - 32
    centre = np.select([mode == 5, mode == 6, mode == 7], [127 - e, 381 - e, np.where(e < 128, e + 127, e - 127)], e)
    moved = (b & 0x807FFFFF) | (np.clip(centre + off, 0, 254) << 23)
    b = np.where((mode == 2) | (mode >= 4), moved, b)
    whole = w.view(np.int64) >> (v & np.uint64(63)).astype(np.int64)
    high = (v >> np.uint64(8)).astype(np.int64)
    return _inputs(a, b, whole, high)


def _inputs(a: Array, b: Array, whole: Array, high: Array) -> Inputs:
    s = high % 41 + 126 - np.minimum(254, _field(a) + (high >> 16) % 32)
    return Inputs(a.astype(np.uint32).view(np.float32), b.astype(np.uint32).view(np.float32), whole, high % 512 - 400, s)


def _bits(x: Array) -> Array:
    return np.where(np.isnan(x), NAN, x).view(np.uint32)


OPERATIONS: dict[str, Callable[[Inputs], Array]] = {
    "add": lambda x: _bits(x.a + x.b),
    "sub": lambda x: _bits(x.a - x.b),
    "mul": lambda x: _bits(x.a * x.b),
    "div": lambda x: _bits(x.a / x.b),
    "sqrt": lambda x: _bits(np.sqrt(x.a)),
    "rint": lambda x: _bits(np.rint(x.a)),
    "order": lambda x: (x.a < x.b).astype(np.int64) + 2 * (x.a <= x.b) + 4 * (x.a == x.b),
    "to_i32": lambda x: reference.cast(x.a, "i32"),
    "to_i64": lambda x: reference.cast(x.a, "i64"),
    "from_i64": lambda x: _bits(reference.cast(x.whole, "f32")),
    "scaled": lambda x: _bits(reference.round_scaled(x.whole >> 1, x.shift)),
    "fixed": lambda x: reference.fixed(x.a, x.s),
}


FUNCTIONS = ("rsqrt", "reciprocal", "exp", "log", "tanh", "erf", "sigmoid", "sin", "cos")


def results(name: str, x: Inputs) -> Array:
    """u64; negative numbers in two's complement."""
    with np.errstate(all="ignore"):
        return OPERATIONS[name](x).astype(np.int64).view(np.uint64)


def block(k: int) -> Inputs:
    return inputs(words(k << 40, BLOCK), words(k << 40 | 1 << 39, BLOCK), np.arange(BLOCK))


ROOTS = np.array(
    [
        0x3F6E9372, 0x3F5AE03B, 0x3F2A177F, 0x3F3B8BCC, 0x3F4D142A, 0x3F5F5FA5, 0x3F7FFFFF, 0x3F551DBF,
        0x3EFC114A, 0x3E925859, 0x3EA97BEF, 0x3EF0D9CE, 0x3EBB61F7, 0x3E800001, 0x3E800003, 0x3EB0C6C3,
    ],
    np.int64,
)  # fmt: skip
"""Their square roots are closer to the middle between two floats than 2^-43 of themselves, on either side."""


def quotients(n: int) -> tuple[Array, Array]:
    """a, b whose quotient is next to the middle between two floats: a·2^25 = b·c ± 1 with an odd c of 25 bits."""
    b = (words(5, n) % np.uint64(1 << 22)).astype(np.int64) * 2 + (1 << 23) + 1
    inverse = np.ones(n, np.int64)
    for _ in range(5):  # Newton's way to 1/b modulo 2^25
        inverse = inverse * (2 - b * inverse) % (1 << 25)
    c = np.where(np.arange(n) % 2 == 0, inverse, (1 << 25) - inverse)
    a = (b * c + (1 << 24)) >> 25
    fits = (a < 1 << 24) & (c >> 24 == 1)
    return tuple(np.ldexp(x[fits].astype(np.float64), -23).astype(np.float32).view(np.uint32).astype(np.int64) for x in (a, b))


def pairs() -> dict[str, str]:
    special = SPECIAL.view(np.uint32).astype(np.int64)
    above, below = quotients(400)
    a = np.concatenate([np.repeat(special, len(special)), ROOTS, above])
    b = np.concatenate([np.tile(special, len(special)), ROOTS, below])
    w, v = words(1, len(a)), words(2, len(a))
    edges = np.array([0, 1, -1, 2**24 + 1, 2**24 + 3, 2**25 + 2, 2**62 + 2**38, 2**62 + 3 * 2**38, 2**63 - 1, -(2**63), 2**54 + 2**30], np.int64)
    whole = np.concatenate([edges, (w.view(np.int64) >> (v & np.uint64(63)).astype(np.int64))[len(edges) :]])
    hard = _inputs(a, b, whole, (v >> np.uint64(8)).astype(np.int64))
    random = inputs(words(3, HARD), words(4, HARD), np.arange(HARD))
    x = Inputs(*(np.concatenate(column) for column in zip(hard, random, strict=True)))
    columns = {"a": _raw(x.a), "b": _raw(x.b), "whole": _raw(x.whole), "shift": _raw(x.shift.astype(np.int32)), "s": _raw(x.s.astype(np.int32))}
    return columns | {name: _raw(results(name, x)) for name in OPERATIONS}


def _raw(x: Array) -> str:
    return "0x" + x.astype(x.dtype.newbyteorder(">")).tobytes().hex()


def bulk(blocks: int) -> dict[str, list[str]]:
    """The digests after COUNTS, as far as `blocks`."""
    return _digests(blocks, list(OPERATIONS), lambda k: (results(name, x) for x in [block(k)] for name in OPERATIONS))


def functions(blocks: int) -> dict[str, list[str]]:
    def outputs(k: int) -> Iterator[Array]:
        bits, odd = (words(k << 40, FUNCTION_BLOCK) >> np.uint64(32)).astype(np.int64), np.arange(FUNCTION_BLOCK) % 2 == 1
        bits = np.where(odd, (bits & 0x807FFFFF) | ((112 + _field(bits) % 24) << 23), bits)
        x = bits.astype(np.uint32).view(np.float32)
        for name in FUNCTIONS:
            yield reference.apply(name, {}, [x], "f32", 14).view(np.uint32)

    return _digests(blocks, FUNCTIONS, outputs)


def _digests(blocks: int, names: Sequence[str], outputs: Callable[[int], Iterator[Array]]) -> dict[str, list[str]]:
    digests, out = dict.fromkeys(names, bytes(32)), {name: list[str]() for name in names}
    for k in range(blocks):
        for name, y in zip(names, outputs(k), strict=True):
            digests[name] = hashlib.sha256(digests[name] + y.astype(">u8").tobytes()).digest()
            if k + 1 in COUNTS:
                out[name].append("0x" + digests[name].hex())
    return out


def render(blocks: int) -> str:
    rows = {"format": "assay-softfloat/1", "pairs": pairs(), "counts": COUNTS, "bulk": bulk(blocks), "functions": functions(blocks)}
    return json.dumps(rows, indent=0) + "\n"


if __name__ == "__main__":
    TARGET.write_text(render(COUNTS[-1]))
