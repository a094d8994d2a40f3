"""Activations made twice instead of being kept: a part of a program written again so that it needs less memory, with the same results.

What the backward pass reads of the forward pass is most of what a step holds. A value that a node reads after the fullest moment of a part
may be made again there, by the same operators on the same values: every operator is a function of its operands' bits, so the result is the
same, and so is every value after it. The program itself is not touched: this is a choice of whoever runs it, and of nobody else. Links,
their roots and the trace of a check are those of the program as it is written.

`effort` says how much is made again:

    0      nothing
    1      what MAP and MOVE operators make of values that are kept anyway, and the large values of what runs slice by slice
           (assay.exact.slices), the scores and weights of attention (as arXiv:2205.05198, "selective")
    k > 1  the part before its fullest moment is cut into k blocks where the fewest bytes go from one into the next; these are kept, the
           values within all blocks but the last are made again (arXiv:1604.06174)
"""

from __future__ import annotations

from typing import NamedTuple

from assay.exact.regions import SLICE, large
from assay.exact.table import OPS, Kind
from assay.exact.views import moved, whole
from assay.program import Node, Output, Part

EFFORTS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Those that are tried in turn, to find one that fits a memory."""
CHEAP = (Kind.MAP, Kind.MOVE)
MOST = 8
"""Results that are looked at together, as what a value could be made of again."""


class Again(NamedTuple):
    """A part with nodes that are made again. `first[i]`: whether node i is one of the program's own (these stand in the program's order)."""

    part: Part
    first: tuple[bool, ...]


def turns(part: Part) -> list[int]:
    """Each node's turn when nothing has to be seen: program order, but what only adds to an entry of the accumulator follows at once what it adds,
    so that a gradient is gone before the next one is made. (A traced program has all these additions at its end.)"""
    first, n = len(part.inputs), len(part.nodes)
    read = {v for node in part.nodes for v in node.inputs}
    results = {o.value for o in part.outputs if o.kind == "acc"}
    key = []
    for at, node in enumerate(part.nodes):
        adds = first + at in results - read and node.op == "add"
        key.append(max((v - first for v in node.inputs), default=at) if adds else at)
    out = [0] * n
    for turn, at in enumerate(sorted(range(n), key=lambda at: (key[at], at))):
        out[at] = turn
    return out


class _Lives:
    """When the values of a part are there, in turns; a view counts as what it is a view of."""

    def __init__(self, part: Part, slices: int) -> None:
        self.part, self.turns = part, turns(part)
        first = len(part.inputs)
        self.fixed = [i.kind == "constant" for i in part.inputs]
        """Values of constants alone, which are computed when a plan is made."""
        views = [whole(v, part.type_of(v).shape, part.type_of(v).dtype) for v in range(first)]
        for at, node in enumerate(part.nodes):
            self.fixed.append(all(self.fixed[v] for v in node.inputs))
            view = moved(node.op, node.attrs, views[node.inputs[0]]) if node.inputs else None
            views.append(view or whole(first + at, node.type.shape, node.type.dtype))
        self.source = [view.root for view in views]
        """The value whose storage a value lies in."""
        self.born = {v: -1 if v < first else self.turns[v - first] for v in self.source}
        self.uses: dict[int, list[int]] = {v: [] for v in self.born}
        for at, node in enumerate(part.nodes):
            for v in node.inputs:
                self.uses[self.source[v]].append(self.turns[at])
        results = {self.source[o.value] for o in part.outputs}
        self.free = [v for v in self.born if v >= first and not self.fixed[v] and v not in results]
        """Storages that come and go: no inputs, constants or results."""
        self.size = {v: part.type_of(v).bytes for v in self.free}
        self.large = large(part, slices)
        self.last = {v: max(self.uses[v], default=self.born[v]) for v in self.free}

    def fullest(self) -> int:
        """The turn at which the most bytes are held; what is there for one slice alone is not counted."""
        change = [0] * (len(self.part.nodes) + 1)
        for v in self.free:
            if v - len(self.part.inputs) in self.large.passing:
                continue
            change[self.born[v]] += self.size[v]
            change[self.last[v] + 1] -= self.size[v]
        held, most, found = 0, -1, 0
        for turn, difference in enumerate(change):
            held += difference
            if held > most:
                most, found = held, turn
        return found


def written(part: Part, effort: int, slices: int = SLICE) -> Again:
    """The part with what `effort` says made again; `slices` is about how many bytes there are of a slice (assay.exact.slices)."""
    own = Again(part, (True,) * len(part.nodes))
    if effort == 0 or not part.nodes:
        return own
    lives = _Lives(part, slices)
    fullest = lives.fullest()
    crossing = sorted((v for v in lives.free if lives.born[v] <= fullest < lives.last[v]), key=lives.born.__getitem__)
    if effort == 1:
        kept, dropped = _cheap(lives, set(crossing))
    else:
        kept, start = _frontiers(lives, crossing, fullest, effort)
        dropped = {v for v in crossing if lives.born[v] <= start} - kept
    return _without(lives, dropped, (kept | set(crossing)) - dropped, fullest) if dropped else own


def _cheap(lives: _Lives, crossing: set[int]) -> tuple[set[int], set[int]]:
    """(results of other operators that are kept for it, what cheap operators make of these, of inputs and of what is kept anyway).

    A result is kept for it where that takes fewer bytes than all the values which it, with others like it, allows to be made again."""
    part, first = lives.part, len(lives.part.inputs)
    cheap = [OPS[node.op].kind in CHEAP or at in lives.large.made for at, node in enumerate(part.nodes)]
    wants: list[frozenset[int]] = []
    """Results that would have to be kept for a value to be made again."""
    allowed: dict[frozenset[int], int] = {}
    for v, source in enumerate(lives.source):
        if v < first or lives.fixed[v]:
            wants.append(frozenset())
        elif not cheap[v - first]:
            wants.append(frozenset() if v in crossing else frozenset({v}))
        else:
            # Whatever depends on many results is as good as kept: the sets stay small.
            wanted = frozenset[int]().union(*(wants[w] for w in part.nodes[v - first].inputs))
            wants.append(wanted if len(wanted) <= MOST else frozenset({source}))
            if v in crossing:
                allowed[wanted] = allowed.get(wanted, 0) + lives.size[v]
    kept = {v for wanted, gain in allowed.items() if gain > sum(lives.size.get(v, gain) for v in wanted) for v in wanted}
    made: list[bool] = []
    dropped: set[int] = set()
    for v, source in enumerate(lives.source):
        again = v >= first and cheap[v - first] and all(made[w] for w in part.nodes[v - first].inputs)
        if again and v in crossing:
            dropped.add(v)
        made.append(v < first or lives.fixed[v] or again or source in crossing or v in kept)
    return kept, dropped


def _frontiers(lives: _Lives, crossing: list[int], fullest: int, blocks: int) -> tuple[set[int], int]:
    """(what is kept between blocks, the turn after which the last block begins)."""
    n = fullest + 1
    across = [0] * (n + 1)
    """Bytes that lie between turn t and the next, of values that some turn up to the fullest one still reads."""
    span: dict[int, int] = {}
    for v in lives.free:
        span[v] = max((use for use in lives.uses[v] if use <= fullest), default=-1)
        if lives.born[v] < span[v]:
            across[lives.born[v]] += lives.size[v]
            across[span[v]] -= lives.size[v]
    for turn in range(1, n):
        across[turn] += across[turn - 1]
    total = sum(lives.size[v] for v in crossing)
    so_far = [0] * n
    for v in crossing:
        so_far[lives.born[v]] += lives.size[v]
    for turn in range(1, n):
        so_far[turn] += so_far[turn - 1]
    kept: set[int] = set()
    start = -1
    for block in range(1, blocks):
        low, aim, high = (total * (2 * block + d) / (2 * blocks) for d in (-1, 0, 1))
        places = [turn for turn in range(n - 1) if low <= so_far[turn] < high]
        if places:
            start = min(places, key=lambda turn: (across[turn], abs(so_far[turn] - aim)))
            kept |= {v for v in lives.free if lives.born[v] <= start < span[v]}
    return kept, start


def _without(lives: _Lives, dropped: set[int], there: set[int], fullest: int) -> Again:
    """The part in which what is read of `dropped` after the fullest moment is made again, from inputs, constants, the values `there` and,
    where need be, others that are made again, too; each once, just before it is first read."""
    part, first = lives.part, len(lives.part.inputs)
    nodes: list[Node] = []
    own: list[bool] = []
    number = list(range(first))
    """Of each value of the program in the new part."""
    again: dict[int, int] = {}

    def put(node: Node, inputs: tuple[int, ...], of_program: bool) -> int:
        nodes.append(Node(op=node.op, inputs=inputs, attrs=node.attrs, type=node.type))
        own.append(of_program)
        return first + len(nodes) - 1

    def late(value: int) -> int:
        todo = [value]
        while todo:
            v = todo[-1]
            source = lives.source[v]
            if v in again:
                todo.pop()
            elif v < first or lives.fixed[v] or source in there or lives.born[source] > fullest:
                again[v] = number[v]
            elif missing := [w for w in part.nodes[v - first].inputs if w not in again]:
                todo += missing
            else:
                again[v] = put(part.nodes[v - first], tuple(again[w] for w in part.nodes[v - first].inputs), False)
        return again[value]

    for at, node in enumerate(part.nodes):
        after = lives.turns[at] > fullest
        inputs = tuple(late(v) if after and lives.source[v] in dropped else number[v] for v in node.inputs)
        number.append(put(node, inputs, True))
    outputs = tuple(Output(kind=o.kind, name=o.name, value=number[o.value]) for o in part.outputs)
    return Again(Part(inputs=part.inputs, nodes=tuple(nodes), outputs=outputs), tuple(own))
