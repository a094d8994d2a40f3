"""What an asserter serves its challenger off chain, so that a walk takes one move instead of one for every few levels.

    on chain    the asserter has shown a node and its children (of a fold's items: the root alone)
    Wanted      the challenger names the first of them that is not its own; the asserter answers with what lies below it, up to DEEP levels
    ...         again, down to a leaf; then what that leaf is the hash of: a chunk, or a fold's item
    on chain    the challenger points straight to that leaf, with the Merkle path (Point, or Pick with an item)

An answer that does not join to the node that it is below is none, and one that does is the asserter's own assertion, whoever brought it:
so what is served is never trusted. Where answers end, the challenger points as far down as they went, which is never less far than the
chain alone would take it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from assay import merkle
from assay.codec import Message
from assay.dispute.tree import Tree, Walk, joined
from assay.ids import U32, U63, Digest

DEEP = 10
"""Most levels of one answer: 1024 nodes, 32 KiB."""
MOST_CONTENT = 1024
"""Bytes of a leaf: a chunk."""
SHARE, MOST_PATIENCE = 50, 20
"""An answer is waited for no longer than this share of the grace, and so many seconds."""
ASKS = 5
"""Answers' times that all that is asked in one turn may take: a tree of 2^32 leaves takes no more answers."""


class Wanted(Message, frozen=True, kw_only=True):
    """A node of the tree that is walked now, or, where folds have just been shown, of the tree over the items of one. Height 0: the leaf's
    content."""

    height: U32
    index: U63
    fold: U32 = 0


class Nodes(Message, frozen=True, kw_only=True):
    """The answer: all nodes `below(height)` levels down, from the left, or a leaf's content."""

    nodes: tuple[Digest, ...]
    content: bytes = b""


class Given(Message, frozen=True, kw_only=True):
    """An answer and what it is to."""

    wanted: Wanted
    nodes: Nodes


def below(height: int) -> int:
    """Levels of the answer about a node so high: as few answers as possible, of equal size."""
    answers = -(-height // DEEP)
    return -(-height // answers) if answers else 0


def patience(grace: int) -> int:
    """Seconds that one answer is waited for."""
    return max(1, min(MOST_PATIENCE, grace // SHARE))


def fits(node: Digest, wanted: Wanted, answer: Nodes) -> bool:
    """Whether an answer is what lies below `node`, or what the leaf `node` is the hash of."""
    if wanted.height == 0:
        return not answer.nodes and len(answer.content) <= MOST_CONTENT and merkle.leaf(wanted.index, answer.content) == node
    rows = answer.nodes
    whole = len(rows) == 1 << below(wanted.height) and not answer.content and all(len(n) == 32 for n in rows)
    return whole and joined(rows) == node


@dataclass(frozen=True, slots=True)
class Reached:
    """How far down a walk gets."""

    height: int
    index: int
    node: Digest
    path: tuple[Digest, ...]
    """From here up to the node where the walk stood."""
    content: bytes | None
    """Of the leaf, if it was wanted and has been served."""
    wanted: Wanted | None = None
    """What would lead further down."""
    junk: bool = False
    """What was served for that is not what the asserter has committed to."""


def descend(
    walk: Walk, children: Sequence[Digest], ours: Tree, source: Callable[[Wanted], Nodes | None] | None, content: bool = False, fold: int = 0
) -> Reached | None:  # fmt: skip
    """Down to the leftmost difference from `ours`, by the children that are on chain (none: the walk's node alone is) and then by what `source`
    says was served (None: that was not). `content`: that of the leaf is wanted, too. None where nothing below the walk's node differs."""
    node, height, index, row = walk.node, walk.height, walk.index, list(children)
    path: tuple[Digest, ...] = ()
    while True:
        if row:
            down = (len(row) - 1).bit_length()
            at = next((i for i, child in enumerate(row) if child != ours.node(height - down, (index << down) + i)), None)
            if at is None:
                return None
            path = siblings(row, at) + path
            node, height, index = row[at], height - down, (index << down) + at
        answer, wanted = None, Wanted(height=height, index=index, fold=fold)
        if height == 0 and not (content and index < ours.count):
            return Reached(height, index, node, path, None)
        if source is not None:
            answer = source(wanted)
        if answer is None:
            return Reached(height, index, node, path, None, wanted if source is not None else None)
        if not fits(node, wanted, answer):
            return Reached(height, index, node, path, None, junk=True)
        if height == 0:
            return Reached(height, index, node, path, answer.content)
        row = list(answer.nodes)


def siblings(row: Sequence[Digest], at: int) -> tuple[Digest, ...]:
    """The path of entry `at` of 2^k nodes of one height, up to the node above all of them."""
    return tuple(level[(at >> i) ^ 1] for i, level in enumerate(merkle.levels(row)[:-1]))


def serve(tree: Tree, top: Walk, wanted: Wanted, contents: Callable[[int], bytes] | None) -> Nodes | None:
    """The asserter's answer, from its own tree; None for what does not lie below the node where the walk stands, or has no content."""
    up = top.height - wanted.height
    if up < 0 or wanted.index >> up != top.index:
        return None
    if wanted.height == 0:
        return Nodes(nodes=(), content=contents(wanted.index)) if contents is not None and wanted.index < tree.count else None
    down = below(wanted.height)
    return Nodes(nodes=tuple(tree.node(wanted.height - down, (wanted.index << down) + i) for i in range(1 << down)))


def follows(given: Sequence[Wanted], wanted: Wanted) -> bool:
    """Whether an asserter that has answered `given` in this turn should answer `wanted`: the same again, or the next on one way down. So it
    serves no more than what it would have to open on chain, but for the siblings, which are hashes."""
    if wanted in given or not given:
        return True
    last = given[-1]
    up = last.height - wanted.height
    return last.fold == wanted.fold and up > 0 and wanted.index >> up == last.index
