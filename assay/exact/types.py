"""Types of the values of a program, and the bounds that every type keeps: dtypes, shapes, bit patterns, broadcasting.

Imports neither NumPy nor torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

ITEM_BYTES: dict[str, int] = {"f32": 4, "i32": 4, "i64": 8, "bool": 1, "u8": 1}
"""The dtypes of a program's values and their sizes. u8 occurs only in records: `cast` turns it into something else."""

DTYPE_CODES: dict[str, tuple[int, int]] = {
    "f32": (1, 4), "i32": (2, 4), "i64": (3, 8), "u8": (4, 1), "bool": (5, 1), "i8": (6, 1), "i16": (7, 2), "f64": (8, 8), "u32": (9, 4),
}  # fmt: skip
"""Dtypes that records and states may hold: their codes in roots (docs/protocol.md) and sizes."""

NAN_BITS = 0x7FC00000
MAX_RANK = 8
MAX_DIM = 1 << 32
MAX_ELEMENTS = 1 << 40

FLOATS = ("f32",)
INTEGERS = ("i64", "i32")
NUMBERS = FLOATS + INTEGERS
COMPUTED = (*NUMBERS, "bool")

Attr = bool | int | str | tuple[int, ...]
Attrs = Mapping[str, Attr]


class TypeRuleError(ValueError):
    """An operator was given operands or attributes that its row of the table does not allow."""


class TensorType(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Type of a value: dtype (a key of ITEM_BYTES) and shape; rank 0 is a scalar."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.elements * ITEM_BYTES[self.dtype]

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


def check_type(t: TensorType) -> None:
    """Raises TypeRuleError unless dtype and shape are within the bounds of this table."""
    if t.dtype not in ITEM_BYTES:
        raise TypeRuleError(f"there is no dtype {t.dtype!r}; there are {', '.join(ITEM_BYTES)}")
    if len(t.shape) > MAX_RANK:
        raise TypeRuleError(f"rank {len(t.shape)} is over {MAX_RANK}")
    elements = 1
    for n in t.shape:
        if not 1 <= n <= MAX_DIM:
            raise TypeRuleError(f"dimension {n} is not in 1..{MAX_DIM}")
        elements *= n
    if elements > MAX_ELEMENTS:
        raise TypeRuleError(f"{t} has more than {MAX_ELEMENTS} elements")


def check_bits(bits: int, dtype: str) -> None:
    """Raises TypeRuleError unless `bits` is a value of the dtype: in range, and the one NaN if it is a NaN."""
    if not 0 <= bits < (2 if dtype == "bool" else 1 << (8 * ITEM_BYTES[dtype])):
        raise TypeRuleError(f"bit pattern {bits} is no {dtype}")
    if dtype == "f32" and bits & 0x7F800000 == 0x7F800000 and bits & 0x007FFFFF and bits != NAN_BITS:
        raise TypeRuleError(f"bit pattern {bits:#010x} is a NaN other than the canonical {NAN_BITS:#010x}")


def broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """NumPy's broadcasting of shapes without zeros. Raises TypeRuleError."""
    rank = max(map(len, shapes))
    out = []
    for i in range(-rank, 0):
        dims = {s[i] for s in shapes if len(s) >= -i} - {1}
        if len(dims) > 1:
            raise TypeRuleError(f"shapes {', '.join(str(list(s)) for s in shapes)} do not broadcast")
        out.append(dims.pop() if dims else 1)
    return tuple(out)


def _small(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(1 << 63) <= value < 1 << 64


def well_formed(kind: str, value: Attr) -> bool:
    """Whether an attribute is of a kind: int, ints, dtype, bits or flag."""
    match kind:
        case "flag":
            return isinstance(value, bool)
        case "ints":
            return isinstance(value, tuple) and all(_small(n) for n in value)
        case "dtype":
            return isinstance(value, str) and value in ITEM_BYTES
        case _:
            return _small(value)
