"""Where two runs of a link part: down to the stage and the element, from what the other side shows of its trees (assay.dispute.questions) off chain.

What is shown of a trace hangs together, and ends in what was committed; but nobody has signed it: it says where to look, and is evidence of nothing.
Evidence is what a dispute makes a provider open on chain (docs/dispute.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay import merkle
from assay.dispute import checks
from assay.dispute.checks import CHUNK
from assay.dispute.proofs import Link, Tensor, bytes_of, element_at
from assay.dispute.questions import Kind, Parted, Question
from assay.dispute.served import MOST_CONTENT, Nodes, Wanted, below, descend, fits
from assay.dispute.tree import Tree, Walk, joined
from assay.exact.hashing import DTYPES
from assay.exact.types import TensorType
from assay.ids import Digest
from assay.program import Part
from assay.state import dtype_name


class Junk(Exception):
    """What is shown does not hang together with what was committed."""


class Unanswered(Exception):
    """There is no answer yet to the question in `args`."""

    @property
    def question(self) -> Question:
        found: Question = self.args[0]
        return found


Ask = Callable[[Question], Nodes | None]


# ---- the side that shows -------------------------------------------------------------------------------------------------


def show(question: Question, ends: Sequence[Digest], link: Callable[[], Link]) -> Nodes | None:
    """The answer, from the ends of a segment and from the run of one of its links; None for what is not there."""
    wanted = question.wanted
    if question.kind is Kind.ENDS:
        return _show(Tree.of(ends), wanted, lambda at: ends[at])
    run = link()
    match question.kind:
        case Kind.TRACE:
            return _show(run.trace, wanted, lambda at: run.contents[at])
        case Kind.STAGE if question.at < len(run.trees.part.nodes):
            tensor = run.tensor(len(run.trees.part.inputs) + question.at)
        case Kind.END if run.ends.tree is not None:
            return _show(run.ends.tree, wanted, lambda at: _entry(run, at))
        case Kind.ENTRY if question.at < run.ends.count:
            tensor = Tensor(run.end[run.ends.names[question.at]])
        case _:
            return None
    return _show(tensor.tree, wanted, lambda at: tensor.chunks[at])


def _show(tree: Tree, wanted: Wanted, contents: Callable[[int], bytes]) -> Nodes | None:
    if wanted.height > merkle.depth(tree.count) or wanted.index << wanted.height >= tree.count:
        return None
    if wanted.height == 0:
        return Nodes(nodes=(), content=contents(wanted.index))
    down = below(wanted.height)
    return Nodes(nodes=tuple(tree.node(wanted.height - down, (wanted.index << down) + i) for i in range(1 << down)))


def _entry(run: Link, at: int) -> bytes:
    name = run.ends.names[at]
    return checks.entry(name, run.ends.roots[name])


# ---- the side that asks --------------------------------------------------------------------------------------------------


class Shown:
    """A tree of the other side: what it shows is held against its root, which is known, or is what it shows on top (`root` None)."""

    def __init__(self, ask: Ask, kind: Kind, count: int, unit: int = 0, at: int = 0, root: Digest | None = None) -> None:
        self._ask, self.kind, self.count, self.unit, self.at = ask, kind, count, unit, at
        self.height = merkle.depth(count)
        self.root = self._top() if root is None else root

    def _question(self, wanted: Wanted) -> Question:
        return Question(kind=self.kind, unit=self.unit, at=self.at, wanted=wanted)

    def _nodes(self, wanted: Wanted) -> Nodes:
        """Raises Unanswered."""
        found = self._ask(self._question(wanted))
        if found is None:
            raise Unanswered(self._question(wanted))
        return found

    def _top(self) -> Digest:
        found = self._nodes(Wanted(height=self.height, index=0))
        if self.height == 0:
            return merkle.leaf(0, found.content)
        if len(found.nodes) != 1 << below(self.height) or any(len(node) != 32 for node in found.nodes):
            raise Junk(f"the top of the {self.kind} tree that is shown is not one of {self.count} leaves")
        return joined(found.nodes)

    def leaf(self, index: int) -> Digest:
        """The node over a leaf. Raises Unanswered, Junk."""
        node, height = self.root, self.height
        while height:
            wanted = Wanted(height=height, index=index >> height)
            found = self._nodes(wanted)
            if not fits(node, wanted, found):
                raise Junk(f"what is shown of the {self.kind} tree is not below its root")
            height -= below(height)
            node = found.nodes[(index >> height) & (len(found.nodes) - 1)]
        return node

    def content(self, index: int) -> bytes:
        """Raises Unanswered, Junk."""
        node, wanted = self.leaf(index), Wanted(height=0, index=index)
        found = self._nodes(wanted)
        if not fits(node, wanted, found):
            raise Junk(f"what is shown as leaf {index} of the {self.kind} tree is not under its root")
        return found.content

    def first(self, ours: Tree) -> int | None:
        """The first leaf that differs from ours; None where none does. Raises Unanswered, Junk."""
        walk = Walk.at_root(self.root, self.count)
        reached = descend(walk, (), ours, lambda wanted: self._nodes(wanted)) if self.root != ours.root else None
        if reached is not None and reached.junk:
            raise Junk(f"what is shown of the {self.kind} tree is not below its root")
        return None if reached is None else reached.index


def part(link: Link, unit: int, committed: Digest, ask: Ask) -> Parted:
    """Where our run of a link and theirs, which ends in `committed`, part. Raises Unanswered, and Junk for what cannot be theirs."""
    count = len(link.contents)
    trace = Shown(ask, Kind.TRACE, count, unit)
    if trace.leaf(count - 1) != merkle.leaf(count - 1, committed):
        raise Junk("the trace that is shown does not end in what was committed")
    at = trace.first(link.trace)
    if at is None:
        raise Junk("the trace that is shown is ours, and what was committed is not its end")
    if at == 0:
        return Parted(stage=None, what="the inputs: it names another state, accumulator, batch or schedule")
    inputs, nodes = len(link.trees.part.inputs), link.trees.part.nodes
    if at == count - 1:
        return _end(link, unit, committed, ask)
    stage, t = at - 1, nodes[at - 1].type
    what = f"stage {stage}, {said(link.trees.part, stage)}"
    return _element(Parted(stage=stage, what=what), ask, Kind.STAGE, unit, stage, link.values[inputs + stage], t, trace.content(at))


def _end(link: Link, unit: int, committed: Digest, ask: Ask) -> Parted:
    """Every stage is ours; what is handed on is not what they put out."""
    ends = link.ends
    assert ends.tree is not None
    shown = Shown(ask, Kind.END, ends.count, unit)
    update, step, m = link.is_update, link.step, link.m
    if committed != (checks.state_hash(step + 1, ends.count, shown.root) if update else checks.acc_hash(step, m + 1, ends.count, shown.root)):
        raise Junk("the end that is shown is not the one that was committed")
    at = shown.first(ends.tree)
    if at is None:
        raise Junk("the end that is shown is ours, and what was committed is another")
    name = ends.names[at]
    found, array = shown.content(at), link.end[name]
    parted = Parted(stage=None, what=f"{name!r} of the end, which is not what the stages put out")
    if found[:-32] != checks.entry(name, b""):
        return parted
    return _element(parted, ask, Kind.ENTRY, unit, at, array, TensorType(dtype=dtype_name(array), shape=array.shape), found[-32:])


def _element(
    parted: Parted, ask: Ask, kind: Kind, unit: int, at: int, array: NDArray[Any], t: TensorType, root: bytes
) -> Parted:  # fmt: skip
    """The first element of a tensor that differs, where it is shown to that point."""
    ours = Tensor(array)
    shown = Shown(ask, kind, ours.tree.count, unit, at)
    if checks.tensor_root(t, shown.root) != root:
        raise Junk(f"the chunks that are shown of {parted.what} are not those of its root")
    chunk = shown.first(ours.tree)
    if chunk is None:
        raise Junk(f"the chunks that are shown of {parted.what} are ours, and its root is another")
    content = shown.content(chunk)
    element = element_at(array, chunk, ours.chunks[chunk], content) if len(content) == CHUNK else None
    if element is None or element >= array.size:
        return parted
    dtype = np.dtype(DTYPES[dtype_name(array)][1])
    theirs = np.frombuffer(content, dtype)[element - chunk * CHUNK // dtype.itemsize]
    mine = np.frombuffer(bytes_of(array), dtype)[element]
    return Parted(stage=parted.stage, what=parted.what, element=element, ours=str(mine), theirs=str(theirs))


def said(part: Part, stage: int) -> str:
    """A stage in words: its operator, what it gives, and the named tensors next to it on the way to it."""
    node, inputs = part.nodes[stage], part.inputs
    names: list[str] = []
    seen, rest = set(node.inputs), list(node.inputs)
    while rest and len(names) < NAMED:
        value = rest.pop(0)
        if value < len(inputs):
            names.append(f"{inputs[value].kind} {inputs[value].name}")
        else:
            fresh = [v for v in part.nodes[value - len(inputs)].inputs if v not in seen]
            seen.update(fresh)
            rest += fresh
    given = f", from {' and '.join(names)}" if names else ""
    return f"{node.op} giving {node.type.dtype}{list(node.type.shape)}{given}"


NAMED = 2
"""Inputs that are named of a stage."""
assert CHUNK <= MOST_CONTENT
