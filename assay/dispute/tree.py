"""Walks down a Merkle tree, several levels at a time: a node's children, the point that picks a descendant (docs/dispute.md, "The game").

Trees are those of assay.merkle. A node's height is its distance from the leaves, its index its place among those of its height. Its
children are its descendants some levels down, as many as `opened` says; those of a node of height 0 are itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from assay import merkle
from assay.ids import Digest

WIDTH = 5
"""Most levels of one opening."""


def opened(height: int) -> int:
    """Levels of the next opening of a node: as few openings as possible, of equal size."""
    openings = -(-height // WIDTH)
    return -(-height // openings) if openings else 0


def pad_node(height: int) -> Digest:
    """What stands above 2^height places past the last leaf."""
    node = merkle.PAD
    for _ in range(height):
        node = merkle.node(node, node)
    return node


def climb(node: bytes, index: int, path: Sequence[bytes]) -> Digest:
    """The node len(path) levels above node `index`."""
    here = Digest(node)
    for sibling in path:
        here = merkle.node(sibling, here) if index & 1 else merkle.node(here, sibling)
        index >>= 1
    return here


def joined(children: Sequence[Digest]) -> Digest:
    """The node above 2^k children."""
    row = list(children)
    while len(row) > 1:
        row = [merkle.node(row[i], row[i + 1]) for i in range(0, len(row), 2)]
    return row[0]


@dataclass(frozen=True, slots=True)
class Walk:
    """Where a walk stands: a node of the asserter's tree of `count` leaves."""

    node: Digest
    height: int
    index: int
    count: int

    @staticmethod
    def at_root(root: Digest, count: int) -> Walk:
        return Walk(root, merkle.depth(count), 0, count)

    @property
    def levels(self) -> int:
        """Levels of its next opening."""
        return opened(self.height)

    def has(self, children: Sequence[Digest]) -> bool:
        return len(children) == 1 << self.levels and all(len(c) == 32 for c in children) and joined(children) == self.node

    def down(self, index: int, node: Digest, path: Sequence[Digest]) -> Walk | None:
        """The walk at a descendant; None when it is none, or not as far down as the children."""
        if not self.levels <= len(path) <= self.height or index >> len(path) != self.index or index < 0:
            return None
        if len(node) != 32 or any(len(p) != 32 for p in path) or climb(node, index, path) != self.node:
            return None
        return Walk(node, self.height - len(path), index, self.count)


class Tree:
    """A tree whose nodes one has: at least one leaf hash."""

    def __init__(self, leaves: Sequence[Digest]) -> None:
        self.count = len(leaves)
        self._levels = merkle.levels(leaves)

    @staticmethod
    def of(items: Sequence[bytes]) -> Tree:
        return Tree([merkle.leaf(i, item) for i, item in enumerate(items)])

    @property
    def root(self) -> Digest:
        return self._levels[-1][0]

    def node(self, height: int, index: int) -> Digest:
        row = self._levels[height]
        return row[index] if index < len(row) else pad_node(height)

    def children(self, height: int, index: int) -> tuple[Digest, ...]:
        down = opened(height)
        return tuple(self.node(height - down, (index << down) + i) for i in range(1 << down))

    def path(self, index: int, height: int = 0, top: int | None = None) -> tuple[Digest, ...]:
        """Siblings from node `index` of `height` up to (not including) the node at height `top`, or the root."""
        top = len(self._levels) - 1 if top is None else top
        return tuple(self.node(h, (index >> (h - height)) ^ 1) for h in range(height, top))
