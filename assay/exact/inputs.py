"""Inputs made of integers, and parts of programs written by hand: what the conformance set, tests and benches are made from.

Inputs come from splitmix64 (Steele et al. 2014), so that no library's generator has a say in them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from assay.exact import reference
from assay.exact.table import Attr, TensorType, infer
from assay.program import Input, Node, Output, Part, Program

Array = NDArray[Any]
_DTYPES = {dtype: name for name, dtype in reference.NUMPY.items()}

SPECIAL = np.array(
    [
        0x00000000, 0x80000000, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF,  # zeros, infinities, NaNs
        0x00000001, 0x80000001, 0x007FFFFF, 0x807FFFFF, 0x00800000, 0x80800000, 0x7F7FFFFF, 0xFF7FFFFF,  # edges of subnormal and finite
        0x3F800000, 0xBF800000, 0x3F7FFFFF, 0x3F800001, 0x4B000000, 0x4B800001, 0xCB000001, 0x5F000000,  # one, 2^23 and around, 2^63
        0xDF000000, 0x4F000000, 0xCF000000, 0x42B17218, 0xC2CFF1B5, 0x3F490FDB, 0x3FC90FDB, 0x7E967699,  # 2^31, ends of exp, pi/4, pi/2
    ],
    np.uint32,
).view(np.float32)  # fmt: skip
"""Values where functions, conversions and rounding change their behaviour."""


class Writer:
    """Writes a part node by node; a value is its number."""

    def __init__(self, *inputs: Array) -> None:
        types = [TensorType(dtype=_DTYPES[a.dtype], shape=a.shape) for a in inputs]
        self.inputs = [Input(kind="batch", name=f"x{i}", type=t) for i, t in enumerate(types)]
        self.nodes: list[Node] = []

    def type(self, value: int) -> TensorType:
        n = len(self.inputs)
        return self.inputs[value].type if value < n else self.nodes[value - n].type

    def __call__(self, op: str, *operands: int, **attrs: Attr) -> int:
        self.nodes.append(Node(op=op, inputs=operands, attrs=attrs, type=infer(op, [self.type(v) for v in operands], attrs)))
        return len(self.inputs) + len(self.nodes) - 1

    def f32(self, x: float) -> int:
        return self("const", dtype="f32", bits=int(np.float32(x).view(np.uint32)))

    def part(self, *outputs: int) -> Part:
        named = tuple(Output(kind="acc", name=f"y{i}", value=v) for i, v in enumerate(outputs))
        return Part(inputs=tuple(self.inputs), nodes=tuple(self.nodes), outputs=named)


class Case(NamedTuple):
    """A part, what it is run on (inputs x0, x1, ...), and the width of its products."""

    name: str
    part: Part
    inputs: tuple[Array, ...]
    gemm_bits: int


def program(part: Part, gemm_bits: int) -> Program:
    """A program whose micro part is `part`."""
    return Program(gemm_bits=gemm_bits, micro_batches=1, constants=(), micro=part, update=Part(inputs=(), nodes=(), outputs=()))


def words(seed: int, n: int) -> NDArray[np.uint64]:
    """n outputs of splitmix64."""
    with np.errstate(over="ignore"):
        z = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def integers(seed: int, shape: Sequence[int], low: int, high: int) -> Array:
    """int64 in low..high-1."""
    return (words(seed, int(np.prod(shape))) % np.uint64(high - low)).astype(np.int64).reshape(shape) + low


def floats(seed: int, shape: Sequence[int], kind: str) -> Array:
    """f32: even (uniform in -1..1), wide (exponents over +-40), tiny (subnormals and a little above), bits (any pattern), special
    (of SPECIAL), finite (of those of SPECIAL that are), rare (even, but for one of SPECIAL in some 500)."""
    w = words(seed, int(np.prod(shape)))
    mantissa = (w >> np.uint64(40)).astype(np.int64) - (1 << 23)
    if kind == "bits":
        x = (w >> np.uint64(32)).astype(np.uint32).view(np.float32)
    elif kind in ("special", "finite"):
        values = SPECIAL[np.isfinite(SPECIAL)] if kind == "finite" else SPECIAL
        x = values[w % np.uint64(len(values))]
    else:
        exponents: dict[str, Any] = {"even": -23, "wide": (w % np.uint64(81)).astype(np.int64) - 63, "tiny": -149}
        x = np.ldexp(mantissa.astype(np.float64), exponents.get(kind, -23)).astype(np.float32)
    if kind == "rare":
        x = np.where(w % np.uint64(509) == 0, SPECIAL[(w >> np.uint64(20)) % np.uint64(len(SPECIAL))], x)
    return x.reshape(shape)


def whole(seed: int, shape: Sequence[int], dtype: str) -> Array:
    """An array of the dtype (a name of the table): any pattern of bits."""
    w = words(seed, int(np.prod(shape)))
    x = w % np.uint64(2) == 1 if dtype == "bool" else (w >> np.uint64(64 - 8 * reference.NUMPY[dtype].itemsize))
    unsigned = np.dtype(f"<u{reference.NUMPY[dtype].itemsize}")
    return x.astype(unsigned).view(reference.NUMPY[dtype]).reshape(shape)


def case(name: str, inputs: Sequence[Array], write: Callable[[Writer], Sequence[int]], gemm_bits: int = 14) -> Case:
    """A case whose part `write` writes; it gives the values that are compared."""
    w = Writer(*inputs)
    outputs = write(w)
    return Case(name, w.part(*outputs), tuple(inputs), gemm_bits)
