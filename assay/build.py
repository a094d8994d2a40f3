"""Writing a part of a program: one operator at a time, with equal nodes made once and idle ones left out.

Every rewrite here keeps the bits: a node is dropped only where its result equals its operand element for element (a reshape to
the same shape, a product with one), views of views become one view, and an `expand` that a MAP would have made by broadcasting
anyway is left to it. Nothing that rounds is reassociated.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping

import msgspec

from assay.exact.table import NAN_BITS, OPS, Attr, Kind, TensorType, infer
from assay.program import Constant, Input, InputKind, Node, Output, OutputKind, Part

INTEGER_BITS = {"i64": 64, "i32": 32, "u8": 8, "bool": 1}
_KIND_ORDER = ("state", "acc", "batch", "scalar", "counter", "constant", "frozen")


class Value(msgspec.Struct, frozen=True):
    """A value of the part being written: its number in the builder (not in the finished part) and its type."""

    id: int
    type: TensorType

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape

    @property
    def dtype(self) -> str:
        return self.type.dtype


class _Made(msgspec.Struct, frozen=True):
    op: str
    operands: tuple[int, ...]
    attrs: dict[str, Attr]


def _axes(attrs: Mapping[str, Attr]) -> tuple[int, ...]:
    axes = attrs["axes"]
    assert isinstance(axes, tuple)
    return axes


def bits_of(x: float, dtype: str) -> int:
    """Raw pattern of `x` rounded to the dtype (f32: to nearest even, overflow to infinity, one NaN; integers: exactly).
    Raises OverflowError for an integer that the dtype does not hold."""
    if dtype == "f32":
        if math.isnan(x):
            return NAN_BITS
        try:
            data = struct.pack("<f", x)
        except OverflowError:
            data = struct.pack("<f", math.copysign(math.inf, x))
        return int(struct.unpack("<I", data)[0])
    width = INTEGER_BITS[dtype]
    value = int(x)
    low, high = (0, 1 << width) if dtype in ("u8", "bool") else (-(1 << (width - 1)), 1 << (width - 1))
    if not low <= value < high:
        raise OverflowError(f"{x} is no {dtype}")
    return value % (1 << width)


class Builder:
    """Collects nodes; `part` gives them as a Part, inputs first and sorted, without what no output needs."""

    def __init__(self) -> None:
        self._made: list[_Made | Input] = []
        self._values: list[Value] = []
        self._seen: dict[object, Value] = {}

    def input(self, kind: InputKind, name: str, type: TensorType) -> Value:
        key = (kind, name)
        if key not in self._seen:
            self._seen[key] = self._append(Input(kind=kind, name=name, type=type), type)
        return self._seen[key]

    def const(self, x: float, dtype: str = "f32") -> Value:
        """Rank-0 constant, rounded to the dtype."""
        return self.emit("const", dtype=dtype, bits=bits_of(x, dtype))

    def full(self, x: float, type: TensorType) -> Value:
        return self.expand(self.const(x, type.dtype), type.shape)

    def emit(self, op: str, *operands: Value, **attrs: Attr) -> Value:
        """Value of `op` on the operands. Raises assay.exact.table.TypeRuleError."""
        type = infer(op, [v.type for v in operands], attrs)
        if OPS[op].kind is Kind.MAP:
            operands = self._without_expands(op, operands, attrs, type)
        if (same := self._same(op, operands, attrs, type)) is not None:
            return same
        key = (op, tuple(v.id for v in operands), tuple(sorted(attrs.items())))
        if key not in self._seen:
            self._seen[key] = self._append(_Made(op, key[1], dict(attrs)), type)
        return self._seen[key]

    def _append(self, made: _Made | Input, type: TensorType) -> Value:
        value = Value(len(self._values), type)
        self._made.append(made)
        self._values.append(value)
        return value

    def origin(self, value: Value, op: str) -> tuple[_Made, tuple[Value, ...]] | None:
        """The node that makes `value`, and its operands, if it is an `op`."""
        made = self._made[value.id]
        if isinstance(made, _Made) and made.op == op:
            return made, tuple(self._values[i] for i in made.operands)
        return None

    def _without_expands(self, op: str, operands: tuple[Value, ...], attrs: Mapping[str, Attr], type: TensorType) -> tuple[Value, ...]:
        for at in range(len(operands)):
            found = self.origin(operands[at], "expand")
            if found:
                bare = (*operands[:at], found[1][0], *operands[at + 1 :])
                if infer(op, [v.type for v in bare], attrs) == type:
                    operands = bare
        return operands

    def _same(self, op: str, operands: tuple[Value, ...], attrs: Mapping[str, Attr], type: TensorType) -> Value | None:
        """An operand, or a value of an earlier one, that equals the result."""
        if not operands:
            return None
        x = operands[0]
        match op:
            case "reshape" | "permute" | "expand" | "cast" | "slice" | "concat" | "pad":
                if x.type == type and (op != "permute" or attrs["axes"] == tuple(range(len(type.shape)))):
                    return x
                if op in ("reshape", "expand", "permute") and (found := self.origin(x, op)):
                    made, (inner,) = found
                    if op == "permute":
                        return self.emit(op, inner, axes=tuple(_axes(made.attrs)[a] for a in _axes(attrs)))
                    return self.emit(op, inner, **attrs)
            case "mul":
                for one, other in ((operands[1], x), (x, operands[1])):
                    if other.type == type and type.dtype == "f32" and self._is_const(one, 1.0):
                        return other
            case "div":
                if x.type == type and self._is_const(operands[1], 1.0):
                    return x
        return None

    def _is_const(self, value: Value, x: float) -> bool:
        found = self.origin(value, "const")
        return found is not None and found[0].attrs == {"dtype": "f32", "bits": bits_of(x, "f32")}

    # ---- shorthands that every lowering uses

    def add(self, a: Value, b: Value) -> Value:
        return self.emit("add", a, b)

    def sub(self, a: Value, b: Value) -> Value:
        return self.emit("sub", a, b)

    def mul(self, a: Value, b: Value) -> Value:
        return self.emit("mul", a, b)

    def div(self, a: Value, b: Value) -> Value:
        return self.emit("div", a, b)

    def scale(self, a: Value, x: float) -> Value:
        return self.emit("mul", a, self.const(x))

    def reshape(self, a: Value, shape: Iterable[int]) -> Value:
        return self.emit("reshape", a, shape=tuple(shape))

    def permute(self, a: Value, axes: Iterable[int]) -> Value:
        return self.emit("permute", a, axes=tuple(axes))

    def expand(self, a: Value, shape: Iterable[int]) -> Value:
        return self.emit("expand", a, shape=tuple(shape))

    def cast(self, a: Value, dtype: str) -> Value:
        return self.emit("cast", a, dtype=dtype)

    def sum(self, a: Value, axes: Iterable[int], keepdim: bool) -> Value:
        """Sum over `axes`; without axes the operand itself."""
        axes = tuple(sorted(axes))
        return self.emit("sum", a, axes=axes, keepdim=keepdim) if axes else a

    def part(self, outputs: Iterable[tuple[OutputKind, str, Value]]) -> Part:
        outputs = list(outputs)
        needed: set[int] = set()
        todo = [value.id for _, _, value in outputs]
        while todo:
            at = todo.pop()
            if at not in needed:
                needed.add(at)
                made = self._made[at]
                if isinstance(made, _Made):
                    todo.extend(made.operands)
        inputs = [(i, m) for i, m in enumerate(self._made) if isinstance(m, Input) and i in needed]
        inputs.sort(key=lambda pair: (_KIND_ORDER.index(pair[1].kind), pair[1].name))
        nodes = [(i, m) for i, m in enumerate(self._made) if isinstance(m, _Made) and i in needed]
        number = {old: new for new, (old, _) in enumerate([*inputs, *nodes])}
        return Part(
            inputs=tuple(m for _, m in inputs),
            nodes=tuple(
                Node(op=m.op, inputs=tuple(number[o] for o in m.operands), attrs=m.attrs, type=self._values[i].type) for i, m in nodes
            ),
            outputs=tuple(Output(kind=kind, name=name, value=number[v.id]) for kind, name, v in sorted(outputs, key=lambda o: o[:2])),
        )


def used_constants(constants: Iterable[Constant], *parts: Part) -> tuple[Constant, ...]:
    names = {i.name for part in parts for i in part.inputs if i.kind == "constant"}
    return tuple(sorted((c for c in constants if c.name in names), key=lambda c: c.name))
