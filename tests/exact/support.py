"""Small parts of programs, hard inputs, and every route that this machine has: what the tests of the exact engine share."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from assay.exact import reference
from assay.exact.cpu import Cpu
from assay.exact.native.build import levels
from assay.exact.table import Attr, TensorType, infer
from assay.program import Input, Node, Output, Part, Program

Array = NDArray[Any]
DTYPE = {np.dtype(code): name for name, code in {"f32": "f4", "i32": "i4", "i64": "i8", "bool": "?", "u8": "u1"}.items()}


class Route(NamedTuple):
    level: str
    """numpy, or a SIMD level."""
    threads: int


ROUTES = [Route("numpy", 1)] + [Route(level, threads) for level in levels() for threads in (1, 2)]


def names(route: Route) -> str:
    return f"{route.level}-{route.threads}"


@contextmanager
def on(route: Route) -> Iterator[None]:
    """Forces what `library()` gives."""
    keys = ("ASSAY_NATIVE", "ASSAY_SIMD")
    before = {key: os.environ.pop(key, None) for key in keys}
    if route.level == "numpy":
        os.environ["ASSAY_NATIVE"] = "0"
    else:
        os.environ["ASSAY_SIMD"] = route.level
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value


class Writer:
    """Writes a part node by node; values are numbers."""

    def __init__(self, *inputs: Array, kind: str = "batch") -> None:
        self.inputs = [Input(kind=kind, name=f"x{i}", type=type_of(a)) for i, a in enumerate(inputs)]  # type: ignore[arg-type]
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
        return Part(
            inputs=tuple(self.inputs),
            nodes=tuple(self.nodes),
            outputs=tuple(Output(kind="acc", name=f"y{i}", value=v) for i, v in enumerate(outputs)),
        )


def type_of(a: Array) -> TensorType:
    return TensorType(dtype=DTYPE[a.dtype], shape=a.shape)


def program(part: Part, gemm_bits: int = 14) -> Program:
    empty = Part(inputs=(), nodes=(), outputs=())
    return Program(gemm_bits=gemm_bits, micro_batches=1, constants=(), micro=part, update=empty)


def same(got: Array, want: Array) -> bool:
    """Equal in type, shape and every bit."""
    want = np.asarray(want)
    return got.dtype == want.dtype and got.shape == want.shape and np.asarray(got, order="C").tobytes() == np.asarray(want, order="C").tobytes()


def check(part: Part, inputs: Sequence[Array], route: Route, gemm_bits: int = 14) -> None:
    """Runs the part on a route, fused and traced, and compares every value with the reference."""
    from assay.exact.hashing import tensor_root

    values = reference.evaluate(part, inputs, gemm_bits)
    named = {"batch": {f"x{i}": a for i, a in enumerate(inputs)}}
    with on(route):
        cpu = Cpu(program(part, gemm_bits), route.threads)
        assert cpu.route == ("numpy" if route.level == "numpy" else "native")
        got = cpu.run("micro", named)
        traced, roots = cpu.trace("micro", named)
        for o in part.outputs:
            assert same(got[o.name], values[o.value]), f"{part.nodes[o.value - len(inputs)]} differs"
            assert same(traced[o.name], values[o.value]), f"{part.nodes[o.value - len(inputs)]} differs in the trace"
        assert roots == [tensor_root(np.asarray(v)) for v in values[len(inputs) :]]


SPECIAL = np.array(
    [
        0x00000000, 0x80000000, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF,  # zeros, infinities, NaNs
        0x00000001, 0x80000001, 0x007FFFFF, 0x807FFFFF, 0x00800000, 0x80800000, 0x7F7FFFFF, 0xFF7FFFFF,  # edges of subnormal and finite
        0x3F800000, 0xBF800000, 0x3F7FFFFF, 0x3F800001, 0x4B000000, 0x4B800001, 0xCB000001, 0x5F000000,  # one, 2^23 and around, 2^63
        0xDF000000, 0x4F000000, 0xCF000000, 0x42B17218, 0xC2CFF1B5, 0x3F490FDB, 0x3FC90FDB, 0x7E967699,  # 2^31, ends of exp, pi/4, pi/2
    ],
    np.uint32,
).view(np.float32)  # fmt: skip


def floats(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> Array:
    """f32 of a kind: normal, bits (any pattern), special, tiny (subnormals and around), wide (lognormal), mixed."""
    n = int(np.prod(shape, dtype=np.int64))
    match kind:
        case "normal":
            x = rng.standard_normal(n)
        case "bits":
            x = rng.integers(0, 1 << 32, n, dtype=np.uint32).view(np.float32)
        case "special":
            x = rng.choice(SPECIAL, n)
        case "finite":
            x = rng.choice(SPECIAL[np.isfinite(SPECIAL)], n)
        case "tiny":
            x = rng.integers(-(1 << 24), 1 << 24, n) * 2.0**-149
        case "wide":
            x = rng.standard_normal(n) * np.exp(rng.standard_normal(n) * 12)
        case "ones":
            x = rng.choice(np.array([1.0, -1.0, np.float32(1) - np.float32(2) ** -24, -np.float32(1) + np.float32(2) ** -24], np.float32), n)
        case _:
            raise ValueError(kind)
    return x.astype(np.float32).reshape(shape)
