"""Merkle trees over SHA-256, as the contracts check them.

leaf(i, data) = SHA256(0x00 || u64be(i) || data)      binds the index
node(l, r)    = SHA256(0x01 || l || r)
PAD           = SHA256(0x02)                          stands at every place past the last leaf, up to the next power of two
EMPTY         = SHA256(0x03)                          root of a tree without leaves

The depth follows from the number of leaves, which every user of a tree knows from elsewhere (a tensor's shape, a segment's
range), so no proof carries it. Tags 0x10.. are heads of what is built on top (see assay.state, assay.commitment).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from assay.ids import Digest


def sha256(*parts: bytes) -> Digest:
    """SHA-256 of the concatenation."""
    return Digest(hashlib.sha256(parts[0] if len(parts) == 1 else b"".join(parts)).digest())


PAD = sha256(b"\x02")
EMPTY = sha256(b"\x03")


def leaf(index: int, data: bytes) -> Digest:
    return Digest(hashlib.sha256(b"\x00" + index.to_bytes(8, "big") + data).digest())


def node(left: bytes, right: bytes) -> Digest:
    return Digest(hashlib.sha256(b"\x01" + left + right).digest())


def depth(count: int) -> int:
    """Levels above the leaves of a tree of `count` leaves."""
    return max(count - 1, 0).bit_length()


def levels(leaves: Sequence[Digest]) -> list[list[Digest]]:
    """All levels, leaves first, each padded to an even length (but the root's). `leaves` are leaf hashes, at least one."""
    out, row, pad = [], list(leaves), PAD
    for _ in range(depth(len(leaves))):
        if len(row) % 2:
            row.append(pad)
        out.append(row)
        row = [node(row[i], row[i + 1]) for i in range(0, len(row), 2)]
        pad = node(pad, pad)
    out.append(row)
    return out


def root(leaves: Sequence[Digest]) -> Digest:
    """Root over leaf hashes."""
    return levels(leaves)[-1][0] if leaves else EMPTY


def root_of(items: Sequence[bytes]) -> Digest:
    """Root of the tree whose i-th leaf holds `items[i]`."""
    return root([leaf(i, item) for i, item in enumerate(items)])


def prove(leaves: Sequence[Digest], index: int) -> tuple[Digest, ...]:
    """Siblings from the leaf up. Raises IndexError."""
    if not 0 <= index < len(leaves):
        raise IndexError(f"leaf {index} of {len(leaves)}")
    path = []
    for row in levels(leaves)[:-1]:
        path.append(row[index ^ 1])
        index >>= 1
    return tuple(path)


def verify(root: bytes, count: int, index: int, leaf_hash: bytes, path: Sequence[bytes]) -> bool:
    """Whether `leaf_hash` is leaf `index` of the tree of `count` leaves under `root`."""
    if not 0 <= index < count or len(path) != depth(count):
        return False
    here = leaf_hash
    for sibling in path:
        if len(sibling) != 32:
            return False
        here = node(sibling, here) if index & 1 else node(here, sibling)
        index >>= 1
    return here == root
