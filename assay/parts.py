"""Sealed files in parts, so that what did not change from one checkpoint to the next is not sent again.

A sealed file (assay.seal) is other bytes each time, because its key is. Here each large tensor, and each run of small ones, is a sealed file
under a key of its own, and a sealed table of those keys is under the file's key. Whoever holds the state before and its key seals the next
one `like` it: a part whose plaintext is the same keeps its ciphertext and its key. Parts begin at multiples of a blob's chunk (assay.cid),
so equal parts are equal blocks with equal CIDs, which a node that has the state before does not fetch again.

    magic "ASSAYPTS" | version u8 = 1 | zeros 7 | length of the table u64
    the sealed table | zeros | sealed part | zeros | sealed part | zeros ...

each of them filled up with zeros to a multiple of 262144 bytes; the table is the canonical form of Table. A file with a single part is an
ordinary sealed file. Who sees only the blobs learns which tensors did not change. The key of a part that was kept is known to those who
could open the state before, who know its plaintext from there.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

from assay import seal
from assay.cid import CHUNK as ALIGN
from assay.codec import Malformed, Message, decode, encode
from assay.ids import U63
from assay.seal import Corrupt, SealError

PART = 1 << 22
"""Bytes from which on a tensor is a part; smaller ones are put together."""
MAX_PARTS = 1 << 15

_HEAD = struct.Struct(">8sB7xQ")
_MAGIC, _VERSION = b"ASSAYPTS", 1


class Part(Message, frozen=True, kw_only=True):
    key: bytes
    size: U63
    """Bytes of its plaintext."""


class Table(Message, frozen=True, kw_only=True):
    parts: tuple[Part, ...]


class _Place(NamedTuple):
    start: int
    """Of the sealed part in the file."""
    stop: int
    part: Part


def largest(size: int) -> int:
    """Bytes that a file of `size` bytes of plaintext has at most when it is sealed here."""
    return seal.sealed_size(size) + (size // PART + 2) * (2 * ALIGN + 256) + ALIGN


def cuts(ends: Iterable[int]) -> list[int]:
    """Where to cut a file whose tensors end at these places (its header's end first): ends of parts, the last that of the file."""
    found: list[int] = []
    last = begun = 0
    for end in ends:
        if end - last >= PART and last > begun:  # a large tensor does not share a part with what stands before it
            found.append(last)
            begun = last
        if end - begun >= PART:
            found.append(end)
            begun = end
        last = end
    if last > begun or not found:
        found.append(last)
    return found


def seal_parts(plaintext: bytes | memoryview, ends: list[int], key: bytes, like: tuple[bytes, bytes] | None = None) -> bytes:
    """The sealed file; `ends`: of the parts, the last that of the plaintext. `like`: (sealed file, its key) of which equal parts are kept.
    Raises SealError when `like` does not open with its key."""
    view = memoryview(plaintext).cast("B")
    if len(ends) < 2:
        return seal.seal(view, key)
    if ends != sorted(ends) or ends[-1] != len(view) or len(ends) > MAX_PARTS:
        raise ValueError(f"parts that end at {ends[:4]}… do not make up a file of {len(view)} bytes")
    old, old_parts = (memoryview(like[0]), _table(*like)) if like is not None and is_parts(like[0]) else (memoryview(b""), [])
    parts, blobs = [], []
    for index, (start, stop) in enumerate(pairwise([0, *ends])):
        kept = old_parts[index] if index < len(old_parts) and old_parts[index].part.size == stop - start else None
        if kept is not None and _opens_to(old[kept.start : kept.stop], kept.part.key, view[start:stop]):
            parts.append(kept.part)
            blobs.append(bytes(old[kept.start : kept.stop]))
        else:
            parts.append(Part(key=seal.new_key(), size=stop - start))
            blobs.append(seal.seal(view[start:stop], parts[-1].key))
    table = seal.seal(encode(Table(parts=tuple(parts))), key)
    return b"".join(_padded([_HEAD.pack(_MAGIC, _VERSION, len(table)) + table, *blobs]))


def is_parts(sealed: bytes | memoryview) -> bool:
    return bytes(sealed[: len(_MAGIC)]) == _MAGIC


def unseal(sealed: bytes, key: bytes) -> bytes:
    """The plaintext of a sealed file, in parts or not. Raises WrongKey, Corrupt."""
    if not is_parts(sealed):
        return seal.unseal(sealed, key)
    view = memoryview(sealed)
    return b"".join(_open(view[place.start : place.stop], place.part.key) for place in _table(sealed, key))


def _padded(pieces: Iterable[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        yield piece
        yield bytes(-len(piece) % ALIGN)


def _open(sealed: memoryview, key: bytes) -> bytes:
    return seal.Reader(lambda offset, length: sealed[offset : offset + length], len(sealed), key).read()


def _opens_to(sealed: memoryview, key: bytes, plaintext: memoryview) -> bool:
    """A part of the state before is kept only if it is what we say: its table is another's word."""
    try:
        return _open(sealed, key) == plaintext
    except SealError:
        return False


def _table(sealed: bytes, key: bytes) -> list[_Place]:
    """The parts of a file and where they lie; the file is just as long as they say, with zeros between. Raises WrongKey, Corrupt."""
    view = memoryview(sealed)
    if len(view) < _HEAD.size:
        raise Corrupt("a file of sealed parts ends in its head")
    magic, version, length = _HEAD.unpack(view[: _HEAD.size])
    if version != _VERSION:
        raise Corrupt(f"the file of sealed parts has version {version}, this program reads {_VERSION}")
    if bytes(view[: _HEAD.size]) != _HEAD.pack(magic, version, length) or length > len(view) - _HEAD.size:
        raise Corrupt("the head of a file of sealed parts is not what it should be")
    end = _HEAD.size + length
    try:
        parts = decode(_open(view[_HEAD.size : end], key), Table, limit=256 * MAX_PARTS).parts
    except Malformed as error:
        raise Corrupt(f"the table of a file of sealed parts: {error}") from None
    if len(parts) > MAX_PARTS or any(len(part.key) != seal.KEY_SIZE or part.size > seal.MAX_LENGTH for part in parts):
        raise Corrupt("the table of a file of sealed parts names parts that there cannot be")
    places = []
    for part in parts:
        start = end + -end % ALIGN
        _check_zeros(view[end:start])
        end = start + seal.sealed_size(part.size)
        places.append(_Place(start, end, part))
    if len(view) != end + -end % ALIGN:
        raise Corrupt(f"a file of sealed parts has {len(view)} bytes where its table says {end + -end % ALIGN}")
    _check_zeros(view[end:])
    return places


def _check_zeros(padding: memoryview) -> None:
    if bytes(padding).count(0) != len(padding):
        raise Corrupt("a file of sealed parts has bytes where there should be zeros")
