"""A program as bytes that a contract can open: types, stages, inputs, outputs, parts (docs/dispute.md, "What a program is on chain").

Integers are big-endian, trees those of assay.merkle. `decode_stage` is the way back, as strict as the encoding is unique: it is what a
dispute (assay.dispute) evaluates. Codes of dtypes are those of tensor roots, codes of operators never change.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple

from msgspec import UNSET

from assay import merkle
from assay.exact.table import OPS, Attr, TensorType
from assay.exact.types import DTYPE_CODES, ITEM_BYTES
from assay.ids import Digest
from assay.program import Input, Part, Program

NONE = 0xFFFFFFFF
"""No value, no entry."""

CODES = {
    op: code
    for code, op in enumerate(
        (
            "const", "iota", "neg", "abs", "relu", "sqrt", "rsqrt", "reciprocal", "exp", "log", "tanh", "erf", "sigmoid", "sin", "cos", "add",
            "sub", "mul", "div", "maximum", "minimum", "and", "or", "not", "eq", "ne", "lt", "le", "gt", "ge", "select", "philox",
            "cast", "sum", "amax", "cumsum", "matmul", "scatter_add_rows", "reshape", "permute", "expand", "slice", "reverse", "windows",
            "spread", "pad", "concat", "take_rows", "gather", "scatter_value",
        )
    )
}  # fmt: skip
_OPS = {code: op for op, code in CODES.items()}
_DTYPES = {code: dtype for dtype, (code, _) in DTYPE_CODES.items() if dtype in ITEM_BYTES}

_ORDER = {
    "const": ("dtype", "bits"), "iota": ("n",), "cast": ("dtype",), "sum": ("axes", "keepdim"), "amax": ("axes", "keepdim"), "cumsum": ("axis",),
    "scatter_add_rows": ("rows",), "permute": ("axes",), "slice": ("axis", "start", "stop", "step"), "reverse": ("axis",),
    "windows": ("axis", "size", "stride", "dilation"), "spread": ("axis", "n", "stride", "dilation"), "pad": ("axis", "before", "after", "bits"),
    "concat": ("axis",), "gather": ("axis",), "scatter_value": ("axis", "bits"),
}  # fmt: skip
"""Attributes of each operator in the order of their bytes; the shape of a `reshape` or `expand` is that of the result."""

KINDS = {"state": 0, "acc": 1, "batch": 2, "scalar": 3, "counter": 4, "constant": 5, "frozen": 6}
COUNTERS = ("step", "micro")


class Undecodable(ValueError):
    """The bytes are not the encoding of what they should be."""


class Stage(NamedTuple):
    """A decoded stage: operator, values that it reads with their types, type of the result, attributes (`bits` of a matmul: its width b)."""

    op: str
    operands: tuple[tuple[int, TensorType], ...]
    type: TensorType
    attrs: Mapping[str, Attr]


# ---- writing ---------------------------------------------------------------------------------------------------------------


def encode_type(t: TensorType) -> bytes:
    return struct.pack(f">BB{len(t.shape)}Q", DTYPE_CODES[t.dtype][0], len(t.shape), *t.shape)


def _named(name: str) -> bytes:
    data = name.encode()
    return struct.pack(">H", len(data)) + data


def _attribute(op: str, name: str, value: Attr) -> bytes:
    if name == "dtype":
        return bytes([DTYPE_CODES[str(value)][0]])
    if name == "axes":
        assert isinstance(value, tuple)
        return (b"" if op == "permute" else bytes([len(value)])) + bytes(value)
    assert isinstance(value, int)
    return bytes([value]) if name in ("axis", "keepdim") else value.to_bytes(8, "big")


def encode_stage(part: Part, at: int, gemm_bits: int) -> bytes:
    """Stage `at` of a part of a checked program."""
    node = part.nodes[at]
    operands = b"".join(struct.pack(">I", v) + encode_type(part.type_of(v)) for v in node.inputs)
    attrs = b"".join(_attribute(node.op, name, node.attrs[name]) for name in _ORDER.get(node.op, ()))
    if node.op == "matmul":
        attrs = bytes([gemm_bits])
    return struct.pack(">BH", CODES[node.op], len(node.inputs)) + operands + encode_type(node.type) + attrs


def _encode_input(i: Input, places: Mapping[str, Mapping[str, int]], roots: Mapping[str, Digest], frozen: bytes) -> bytes:
    extra = b""
    if i.kind == "acc":
        extra = struct.pack(">I", places["state"].get(i.name, NONE))
    elif i.kind == "scalar":
        extra = struct.pack(">I", len(places["scalar"]))
    elif i.kind == "constant":
        extra = roots[i.name]
    elif i.kind == "frozen":
        extra = struct.pack(">I", len(places["frozen"])) + frozen
    place = 0 if i.kind == "constant" else places[i.kind][i.name]
    return struct.pack(">BI", KINDS[i.kind], place) + encode_type(i.type) + _named(i.name) + extra


class EncodedPart(NamedTuple):
    """The items of the three trees of a part."""

    inputs: tuple[bytes, ...]
    stages: tuple[bytes, ...]
    outputs: tuple[bytes, ...]

    @property
    def record(self) -> bytes:
        """108 bytes: three counts, three roots."""
        return struct.pack(">III", *map(len, self)) + b"".join(merkle.root_of(items) for items in self)


def constant_roots(program: Program) -> dict[str, Digest]:
    """Tensor root of each constant by its name."""
    return {
        c.name: merkle.sha256(
            b"\x10", encode_type(c.type), merkle.root_of([c.data[i : i + 1024].ljust(1024, b"\0") for i in range(0, len(c.data), 1024)])
        )
        for c in program.constants
    }


def encode_part(program: Program, name: str) -> EncodedPart:
    """Part `micro` or `update` of a checked program."""
    part: Part = getattr(program, name)
    kinds = {
        "state": program.state, "acc": program.accumulator, "batch": program.batch, "scalar": program.scalars, "counter": COUNTERS,
        "frozen": program.frozen,
    }  # fmt: skip
    places = {kind: {entry: at for at, entry in enumerate(entries)} for kind, entries in kinds.items()}
    roots, frozen = constant_roots(program), b"" if program.frozen_root is UNSET else program.frozen_root
    values = {o.name: o.value for o in part.outputs}
    end = program.accumulator if name == "micro" else program.state
    return EncodedPart(
        tuple(_encode_input(i, places, roots, frozen) for i in part.inputs),
        tuple(encode_stage(part, at, program.gemm_bits) for at in range(len(part.nodes))),
        tuple(struct.pack(">I", values.get(entry, NONE)) + encode_type(t) + _named(entry) for entry, t in end.items()),
    )


def program_head(program: Program) -> bytes:
    """The 221 bytes after the tag: b, M, and the records of both parts."""
    return struct.pack(">BI", program.gemm_bits, program.micro_batches) + encode_part(program, "micro").record + encode_part(program, "update").record


def program_root(program: Program) -> Digest:
    """SHA256(0x15 ‖ b u8 ‖ M u32 ‖ part micro ‖ part update) of a checked program."""
    return merkle.sha256(b"\x15", program_head(program))


# ---- reading ---------------------------------------------------------------------------------------------------------------


class Reader:
    """Takes an encoding apart. Raises Undecodable where it ends early, or (`done`) late."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, n: int) -> bytes:
        if self._at + n > len(self._data):
            raise Undecodable(f"{len(self._data)} bytes end before what they hold")
        self._at += n
        return self._data[self._at - n : self._at]

    def u(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def type(self) -> TensorType:
        code, rank = self.u(1), self.u(1)
        if code not in _DTYPES or rank > 8:
            raise Undecodable(f"no type has dtype {code} and rank {rank}")
        return TensorType(dtype=_DTYPES[code], shape=tuple(self.u(8) for _ in range(rank)))

    def name(self) -> str:
        try:
            return self.take(self.u(2)).decode()
        except UnicodeDecodeError as error:
            raise Undecodable(str(error)) from None

    def done(self) -> None:
        if self._at != len(self._data):
            raise Undecodable(f"{len(self._data) - self._at} bytes are left over")


def _read_attribute(r: Reader, op: str, name: str, rank: int) -> Attr:
    if name == "dtype":
        code = r.u(1)
        if code not in _DTYPES:
            raise Undecodable(f"no dtype {code}")
        return _DTYPES[code]
    if name == "axes":
        return tuple(r.take(rank if op == "permute" else r.u(1)))
    return bool(r.u(1)) if name == "keepdim" else r.u(1 if name == "axis" else 8)


def decode_stage(data: bytes) -> Stage:
    """Raises Undecodable for what is not the encoding of a stage; the types are not inferred again: a program's root vouches for them."""
    r = Reader(data)
    code, count = r.u(1), r.u(2)
    if code not in _OPS or OPS[_OPS[code]].arity not in (None, count):
        raise Undecodable(f"there is no operator {code} of {count} operands")
    op = _OPS[code]
    operands = tuple((r.u(4), r.type()) for _ in range(count))
    type = r.type()
    attrs: dict[str, Attr] = {name: _read_attribute(r, op, name, len(type.shape)) for name in _ORDER.get(op, ())}
    if op == "matmul":
        attrs["bits"] = r.u(1)
    r.done()
    return Stage(op, operands, type, attrs)


class InputRecord(NamedTuple):
    kind: int
    place: int
    type: TensorType
    name: str
    extra: bytes


def decode_input(data: bytes) -> InputRecord:
    """Raises Undecodable."""
    r = Reader(data)
    kind, place, type, name = r.u(1), r.u(4), r.type(), r.name()
    if kind >= len(KINDS):
        raise Undecodable(f"no input is of kind {kind}")
    extra = r.take({KINDS["acc"]: 4, KINDS["scalar"]: 4, KINDS["constant"]: 32, KINDS["frozen"]: 36}.get(kind, 0))
    r.done()
    return InputRecord(kind, place, type, name, extra)


class OutputRecord(NamedTuple):
    value: int
    type: TensorType
    name: str


def decode_output(data: bytes) -> OutputRecord:
    """Raises Undecodable."""
    r = Reader(data)
    record = OutputRecord(r.u(4), r.type(), r.name())
    r.done()
    return record


class PartRecord(NamedTuple):
    inputs: int
    stages: int
    outputs: int
    inputs_root: Digest
    stages_root: Digest
    outputs_root: Digest


def decode_head(head: bytes) -> tuple[int, int, tuple[PartRecord, PartRecord]]:
    """(b, M, (micro, update)) of the bytes of `program_head`. Raises Undecodable."""
    r = Reader(head)
    bits, micro_batches = r.u(1), r.u(4)
    micro, update = (PartRecord(r.u(4), r.u(4), r.u(4), *(Digest(r.take(32)) for _ in range(3))) for _ in range(2))
    r.done()
    return bits, micro_batches, (micro, update)
