"""The conformance set: small parts with hard inputs, and the digests of what they must give (assay/_data/conformance.json).

The digests come from the reference alone (`python -m assay.exact.conformance` writes them anew; a change of them is a change of the
specification). Every route and device must match them before it is trusted: `failures` is what `assay doctor` asks. Inputs come from
integers (splitmix64, Steele et al. 2014), so that no library's generator has a say.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from assay import merkle
from assay.exact import reference
from assay.exact.cpu import Cpu
from assay.exact.hashing import tensor_root
from assay.exact.table import OPS, Attr, Kind, TensorType, infer
from assay.program import Input, Node, Output, Part, Program

Array = NDArray[Any]
DATA = Path(__file__).parent.parent / "_data" / "conformance.json"
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
    (of SPECIAL), finite (of those of SPECIAL that are)."""
    w = words(seed, int(np.prod(shape)))
    mantissa = (w >> np.uint64(40)).astype(np.int64) - (1 << 23)
    if kind == "bits":
        x = (w >> np.uint64(32)).astype(np.uint32).view(np.float32)
    elif kind in ("special", "finite"):
        values = SPECIAL[np.isfinite(SPECIAL)] if kind == "finite" else SPECIAL
        x = values[w % np.uint64(len(values))]
    else:
        exponents: dict[str, Any] = {"even": -23, "wide": (w % np.uint64(81)).astype(np.int64) - 63, "tiny": -149}
        x = np.ldexp(mantissa.astype(np.float64), exponents[kind]).astype(np.float32)
    return x.reshape(shape)


AXES = ((2,), (1,), (0, 1), (0, 2), (0, 1, 2))
KINDS = ("even", "wide", "tiny", "bits", "special", "finite")
UNARY = tuple(name for name, op in OPS.items() if op.kind is Kind.MAP and op.arity == 1 and name not in ("cast", "not"))
BINARY = ("add", "sub", "mul", "div", "maximum", "minimum", "eq", "ne", "lt", "le", "gt", "ge")


def _case(name: str, inputs: Sequence[Array], write: Callable[[Writer], Sequence[int]], gemm_bits: int = 14) -> Case:
    w = Writer(*inputs)
    outputs = write(w)
    return Case(name, w.part(*outputs), tuple(inputs), gemm_bits)


def cases() -> Iterator[Case]:
    """The set, in order."""
    for seed, kind in enumerate(KINDS):
        yield _case(f"unary {kind}", [floats(seed, (7, 523), kind)], lambda w: [w(op, 0) for op in UNARY])
        pair = [floats(seed + 100, (5, 1, 211), kind), floats(seed + 200, (4, 211), kind)]
        yield _case(f"binary {kind}", pair, lambda w: [w(op, 0, 1) for op in BINARY])
        x = floats(seed + 300, (6, 40, 33), kind)
        yield _case(f"reduce {kind}", [x], lambda w: [w(op, 0, axes=a, keepdim=k) for op in ("sum", "amax") for a in AXES for k in (True, False)])
        index = integers(seed + 400, (50,), -3, 13)
        rows = [index, floats(seed + 500, (50, 9), kind)]
        yield _case(f"rows {kind}", rows, lambda w: [w("scatter_add_rows", 0, 1, rows=10), w("take_rows", 1, 0)])
        for bits in (8, 14, 15, 16, 20, 23):
            a, b = floats(seed + 600, (3, 14, 301), kind), floats(seed + 700, (3, 301, 37), kind)
            yield _case(f"matmul {kind} b={bits}", [a, b], lambda w: [w("matmul", 0, 1)], bits)
    exponents = np.arange(0, 1 << 31, (1 << 31) // 30011, dtype=np.int64).astype(np.uint32).view(np.float32)
    yield _case("functions over all exponents", [np.concatenate([exponents, -exponents])], lambda w: [w(op, 0) for op in UNARY])
    yield _case("special pairs", [SPECIAL[:, None].copy(), SPECIAL[None].copy()], lambda w: [w(op, 0, 1) for op in BINARY])
    # Products as large as they can be, for longer than any accumulator that is widened too late.
    most, k = np.nextafter(np.float32(2), np.float32(0)), 700
    a, b = np.full((13, k), most, np.float32), np.full((k, 33), most, np.float32)
    b[:, 1], b[::2, 2] = -most, -most
    for bits in (14, 15, 16, 23):
        yield _case(f"maximal products b={bits}", [a, b], lambda w: [w("matmul", 0, 1)], bits)
    ends = np.array([0, 1, -1, 2**24 + 1, 2**31, -(2**31) - 1, 2**53 + 1, 2**63 - 1, -(2**63)], np.int64)
    whole = np.concatenate([ends, (words(800, 300) >> (words(801, 300) % np.uint64(64))).view(np.int64)])
    numbers = [np.concatenate([SPECIAL, floats(802, (400,), "wide")]), whole, whole.astype(np.int32), whole % 3 == 0, whole.astype(np.uint8)]
    yield _case("cast", numbers, lambda w: [w("cast", v, dtype=to) for v in range(5) for to in ("f32", "i32", "i64", "bool")])
    both = [whole, whole[::-1].copy(), whole.astype(np.int32), whole[::-1].astype(np.int32)]
    arithmetic = ("add", "sub", "mul", "eq", "ne", "lt", "le", "gt", "ge")
    yield _case("integers", both, lambda w: [w(op, v, v + 1) for v in (0, 2) for op in arithmetic] + [w("sum", 0, axes=(0,), keepdim=False)])
    truths = [whole % 2 == 0, whole % 3 == 0, whole, floats(803, (len(whole),), "bits")]

    def choose(w: Writer) -> list[int]:
        x = w("permute", 3, axes=(0,))
        return [w("and", 0, 1), w("or", 0, 1), w("not", 0), w("select", 0, 2, w("mul", 2, 2)), w("select", 1, 3, w("neg", x)), w("select", 0, 1, 0)]

    yield _case("select", truths, choose)
    counters = [words(806, 400).view(np.int64), words(807, 400).view(np.int64), words(808, 1).view(np.int64)]
    yield _case("philox", counters, lambda w: [w("philox", 0, 1, 2), w("philox", w("iota", n=400), 1, 2)])
    for seed, kind in enumerate(KINDS):
        x = floats(seed + 810, (5, 40, 7), kind)
        whole = words(seed + 820, 1400).view(np.int64).reshape(x.shape)
        yield _case(f"prefix {kind}", [x, whole], lambda w: [w("cumsum", v, axis=a) for v in (0, 1) for a in (0, 1, 2)])
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

    yield _case("moves", [x, at], move)


def digest_of(outputs: Sequence[Array]) -> str:
    """Hex SHA-256 over the tensor roots."""
    return merkle.sha256(struct.pack(">I", len(outputs)), *(tensor_root(np.asarray(a)) for a in outputs)).hex()


def expected() -> dict[str, str]:
    """Name of a case -> digest of its outputs, as published."""
    data: dict[str, str] = json.loads(DATA.read_text())["digests"]
    return data


def from_reference() -> dict[str, str]:
    """The digests that the specification gives."""
    out = {}
    for case in cases():
        values = reference.evaluate(case.part, case.inputs, case.gemm_bits)
        out[case.name] = digest_of([values[o.value] for o in case.part.outputs])
    return out


def failures(threads: int = 1) -> list[str]:
    """Names of the cases that the engine of this machine gets wrong: none, where its arithmetic can be trusted."""
    want, wrong = expected(), []
    for case in cases():
        outputs = Cpu(program(case.part, case.gemm_bits), threads).run("micro", {"batch": {f"x{i}": a for i, a in enumerate(case.inputs)}})
        if digest_of(list(outputs.values())) != want.get(case.name):
            wrong.append(case.name)
    return wrong


if __name__ == "__main__":
    DATA.write_text(json.dumps({"format": "assay-conformance/1", "digests": from_reference()}, indent=1) + "\n")
