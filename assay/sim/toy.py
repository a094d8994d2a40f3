"""Training without arithmetic: a state is a digest, and a link's end follows from what it names by a hash.

    acc(t, m+1)  = R(H(program, t, m, state(t), acc(t, m)))     acc(t, 0) = H(program, t, state(t))
    state(t + 1) = R(H(program, t, state(t), acc(t, M)))

R is the root of a state or accumulator with one tensor of 32 bytes, which holds the hash. So all that the protocol looks at has the
structure that it has in earnest: link ends in order, what stands under them, their Merkle root, proofs, boundaries, traces with leaves.
What is missing is the training, which takes no part in what the protocol decides.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from assay import hearing, merkle
from assay.codec import Message
from assay.draw import is_update, u64
from assay.hearing import ChunkProof
from assay.ids import Digest
from assay.merkle import sha256

NAME = b"w"
KIND = struct.pack(">BBQ", 4, 1, 32)
"""u8 [32]."""
KEPT = 4096
"""Results of a pure function that are kept: several nodes ask for each within seconds."""


class ToyState(Message, frozen=True, kw_only=True):
    """Plaintext of a checkpoint."""

    step: int
    state: Digest


class ToyBoundary(Message, frozen=True, kw_only=True):
    """Plaintext of a boundary: what a link starts from."""

    state: Digest
    acc: Digest


class Link(NamedTuple):
    """A link as it was run: what it started from and its end."""

    step: int
    m: int
    """The micro-batch, or M for the update."""
    state: Digest
    acc: Digest
    end: Digest


class Toy(NamedTuple):
    program: Digest
    micro_batches: int
    micro_leaves: int
    update_leaves: int

    def zero(self, step: int, state: Digest) -> Digest:
        return sha256(b"toy zero", self.program, u64(step), state)

    def end(self, step: int, m: int, state: Digest, acc: Digest) -> Digest:
        """End of micro-batch m of a step, or of its update when m is M."""
        return _end(self, step, m, state, acc)

    def content(self, step: int, m: int, state: Digest, acc: Digest) -> Digest:
        """What stands in that end's tensor."""
        return sha256(b"toy end", self.program, u64(step), u64(m), state, acc)

    def links(self, start: int, stop: int, state: Digest) -> Iterator[Link]:
        """The honest run of steps [start, stop) from `state`."""
        for step in range(start, stop):
            acc = self.zero(step, state)
            for m in range(self.micro_batches):
                end = self.end(step, m, state, acc)
                yield Link(step, m, state, acc, end)
                acc = end
            end = self.end(step, self.micro_batches, state, acc)
            yield Link(step, self.micro_batches, state, acc, end)
            state = end

    def place(self, unit: int, start: int) -> tuple[int, int]:
        """(step, m) of link `unit` of a segment that begins at step `start`."""
        return start + unit // (self.micro_batches + 1), unit % (self.micro_batches + 1)

    def trace(self, link: Link) -> list[bytes]:
        """The items of its trace: a head that binds what the link names, an output for each stage, the end."""
        return list(_trace(self, link))


@lru_cache(maxsize=KEPT)
def _end(toy: Toy, step: int, m: int, state: Digest, acc: Digest) -> Digest:
    return hearing.end_root(m, step, toy.micro_batches, 1, merkle.leaf(0, item_of(toy.content(step, m, state, acc))))


@lru_cache(maxsize=KEPT)
def _trace(toy: Toy, link: Link) -> tuple[bytes, ...]:
    leaves = toy.update_leaves if is_update(link.m, toy.micro_batches) else toy.micro_leaves
    head = sha256(b"toy head", toy.program, u64(link.step), u64(link.m), link.state, link.acc)
    return head, *(sha256(b"toy stage", head, u64(i)) for i in range(1, leaves - 1)), link.end


@lru_cache(maxsize=KEPT)
def _levels(items: tuple[bytes, ...]) -> list[list[Digest]]:
    return merkle.levels([merkle.leaf(i, item) for i, item in enumerate(items)])


def chunk_of(content: bytes) -> bytes:
    return content.ljust(hearing.CHUNK, b"\0")


def item_of(content: bytes) -> bytes:
    """The one entry of an end."""
    return hearing.entry_item(NAME, hearing.tensor_root(KIND, merkle.leaf(0, chunk_of(content))))


def show(content: bytes, ends: list[Digest], place: int) -> ChunkProof:
    """The one chunk of end `place`."""
    chunk = chunk_of(content)
    return ChunkProof(
        end_path=prove(ends, place), count=1, entries=merkle.leaf(0, item_of(content)), name=NAME, kind=KIND, chunks=merkle.leaf(0, chunk),
        chunk=chunk,
    )  # fmt: skip


def root(items: Sequence[bytes]) -> Digest:
    """As merkle.root_of."""
    return _levels(tuple(items))[-1][0] if items else merkle.EMPTY


def prove(items: Sequence[bytes], index: int) -> tuple[Digest, ...]:
    """As merkle.prove of the items' leaves. Raises IndexError."""
    if not 0 <= index < len(items):
        raise IndexError(f"leaf {index} of {len(items)}")
    return tuple(row[index >> i ^ 1] for i, row in enumerate(_levels(tuple(items))[:-1]))
