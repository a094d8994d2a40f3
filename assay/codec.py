"""One canonical encoding for everything that is hashed, signed or sent.

A value is a frozen `msgspec.Struct`; its canonical form is JSON with sorted keys, no spaces, integers in decimal and bytes in
base64. Decoding is strict: the size is bounded, unknown fields are refused, and the bytes must be *the* canonical form of the
value they decode to (so that a digest of the bytes is a digest of the value). There is no float in any message: a float32 that
must travel does so as its bit pattern.
"""

from __future__ import annotations

import hashlib
from types import UnionType
from typing import Any, TypeVar, overload

import msgspec

from assay.ids import Digest

T = TypeVar("T")

MAX_MESSAGE = 1 << 20
"""Bytes; the largest message that a peer may send."""

_encoder = msgspec.json.Encoder(order="sorted")


class Malformed(ValueError):
    """The bytes are not the canonical form of the expected type: the sender's fault."""


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag=True):
    """Base of every message: immutable, closed, named in its encoding by its class."""


def encode(value: object) -> bytes:
    """Canonical bytes of a message (or of plain JSON-able data)."""
    return _encoder.encode(value)


@overload
def decode(data: bytes, kind: type[T], limit: int = MAX_MESSAGE) -> T: ...


@overload
def decode(data: bytes, kind: UnionType, limit: int = MAX_MESSAGE) -> Any: ...


def decode(data: bytes, kind: Any, limit: int = MAX_MESSAGE) -> Any:
    """The value of type `kind` (a Message class or a union of them) whose canonical form is `data`; raises Malformed otherwise."""
    if len(data) > limit:
        raise Malformed(f"message of {len(data)} bytes is over the limit of {limit}")
    try:
        value = msgspec.json.decode(data, type=kind, strict=True)
    except (msgspec.DecodeError, ValueError, RecursionError, OverflowError) as error:
        raise Malformed(f"not a valid {getattr(kind, '__name__', kind)}: {error}") from None
    if _encoder.encode(value) != data:
        raise Malformed(f"not the canonical form of a {getattr(kind, '__name__', kind)}")
    return value


def digest(value: object) -> Digest:
    """SHA-256 of the canonical form."""
    return Digest(hashlib.sha256(encode(value)).digest())
