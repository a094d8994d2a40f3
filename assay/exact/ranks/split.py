"""A part of a program as one rank runs it: stages, each a part of its own on this rank's pieces, then exchanges with the other ranks.

Every rank makes the same stages with the same exchanges in the same order; only the sizes of pieces differ. A value that a stage hands on is
an array; views (MOVE operators that place nothing anew) and values of constants alone are made again where they are used, which costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import NamedTuple

from assay.exact.ranks.exchanges import Exchange
from assay.exact.ranks.places import Layout, Place, rule
from assay.exact.table import Attr, TensorType, infer
from assay.exact.views import ints
from assay.program import Input, Node, Output, Part, Program

BUCKET = 32 << 20
"""Bytes of operands of exchanges that may wait for others, so that they go together."""
VIEWS = ("reshape", "permute", "expand", "slice", "reverse", "windows")


class Stage(NamedTuple):
    """`part` takes the values `takes` (inputs of kind `state`, named by their numbers; constants have their own names) and gives `gives`."""

    part: Part
    takes: tuple[int, ...]
    gives: tuple[int, ...]
    exchanges: tuple[Exchange, ...]
    dying: tuple[int, ...]
    """Values that no later stage reads."""


class Ranked(NamedTuple):
    """One rank's form of a part. Inputs that are no constants come first among its values, numbered in the part's order."""

    stages: tuple[Stage, ...]
    inputs: tuple[tuple[Input, Place], ...]
    """Of the part as it is written, without constants: how each is cut."""
    outputs: tuple[tuple[Output, TensorType, Place, int], ...]
    """Output, its whole type, how it is cut, and the value that holds this rank's piece."""


Entry = tuple[str, str]
"""Kind and name of an input or output."""


def entries(parts: Iterable[Ranked]) -> dict[Entry, tuple[TensorType, Place]]:
    """All inputs and outputs of parts, by kind: their whole types, and how they are cut."""
    found = {(i.kind, i.name): (i.type, place) for form in parts for i, place in form.inputs}
    found |= {(o.kind, o.name): (t, place) for form in parts for o, t, place, _ in form.outputs}
    return {entry: found[entry] for entry in sorted(found)}


class _Local(NamedTuple):
    """A value of a rank: what makes it (a node on local values, an input or an exchange), and its type there."""

    type: TensorType
    node: Node | None = None
    constant: Input | None = None
    exchange: Exchange | None = None


def ranked(part: Part, layout: Layout, rank: int, ranks: int) -> Ranked:
    return _Writer(part, layout, rank, ranks).result()


def forms(program: Program, layout: Layout, rank: int, ranks: int) -> dict[str, Ranked]:
    """Of both parts."""
    return {name: ranked(part, layout, rank, ranks) for name, part in (("micro", program.micro), ("update", program.update))}


class _Writer:
    def __init__(self, part: Part, layout: Layout, rank: int, ranks: int) -> None:
        self.part, self.rank, self.ranks = part, rank, ranks
        self.locals: list[_Local] = []
        self.fixed: list[bool] = []
        self.places: list[Place] = []
        """Of the program's values, as they were first made."""
        self.made: dict[tuple[int, Place], int] = {}
        """Local value of a program's value in a place."""
        self.order: list[int] = []
        """Local values that nodes and exchanges make, in order."""
        given: list[tuple[Input, Place]] = []
        for i in part.inputs:
            place = layout.place(i.kind, i.type, ranks)
            if i.kind != "constant":
                given.append((i, place))
                self._new(_Local(place.of(i.type, rank) if place else i.type))
        self.given = tuple(given)
        taken = 0
        for v, i in enumerate(part.inputs):
            place = layout.place(i.kind, i.type, ranks)
            self.places.append(place)
            if i.kind == "constant":
                self.made[v, place] = self._new(_Local(i.type, constant=i))
            else:
                self.made[v, place] = taken
                taken += 1
        for at, node in enumerate(part.nodes):
            self._place(len(part.inputs) + at, node)
        self.outputs = []
        for o in part.outputs:
            t = part.type_of(o.value)
            place = layout.place(o.kind, t, ranks)
            self.outputs.append((o, t, place, self._get(o.value, place)))

    # ---- placing

    def _new(self, value: _Local) -> int:
        self.locals.append(value)
        operands = value.node.inputs if value.node else ()
        self.fixed.append(bool(value.constant or (value.node and all(self.fixed[v] for v in operands))))
        if value.node or value.exchange:
            self.order.append(len(self.locals) - 1)
        return len(self.locals) - 1

    def _node(self, op: str, operands: tuple[int, ...], attrs: dict[str, Attr]) -> int:
        t = infer(op, [self.locals[v].type for v in operands], attrs)
        return self._new(_Local(t, node=Node(op=op, inputs=operands, attrs=attrs, type=t)))

    def _exchange(self, op: str, operands: tuple[int, ...], whole: TensorType, attrs: Mapping[str, Attr], terms: int = 0, split: Place = None) -> int:
        e = Exchange(op, operands, len(self.locals), whole, attrs, terms, split)
        return self._new(_Local(whole, exchange=e))

    def _get(self, value: int, place: Place) -> int:
        """The local value of a program's value in a place; gathered or cut if it does not lie there yet."""
        key = (value, place)
        if key not in self.made:
            t, own = self.part.type_of(value), self.places[value]
            if place is None:
                assert own is not None
                self.made[key] = self._exchange("gather", (self.made[value, own],), t, {}, split=own)
            else:
                cut = {"axis": place.axis, "start": place.cuts[self.rank], "stop": place.cuts[self.rank + 1], "step": 1}
                self.made[key] = self._node("slice", (self._get(value, None),), dict(cut))
        return self.made[key]

    def _place(self, value: int, node: Node) -> None:
        types = [self.part.type_of(v) for v in node.inputs]
        found = rule(node, types, [self.places[v] for v in node.inputs])
        operands = tuple(self._get(v, p) for v, p in zip(node.inputs, found.operands, strict=True))
        self.places.append(found.result)
        if found.summed:
            local = self._exchange(node.op, operands, node.type, node.attrs, _terms(node, types))
        else:
            local = self._node(node.op, operands, self._attrs(node, found.result))
        assert found.summed or self.locals[local].type == (found.result.of(node.type, self.rank) if found.result else node.type)
        self.made[value, found.result] = local

    def _attrs(self, node: Node, place: Place) -> dict[str, Attr]:
        """The attributes of a node on pieces."""
        if place is None or node.op not in ("reshape", "expand"):
            return dict(node.attrs)
        shape = ints(node.attrs, "shape")
        return {**node.attrs, "shape": place.of(TensorType(dtype="f32", shape=shape), self.rank).shape}

    # ---- stages

    def result(self) -> Ranked:
        groups = self._grouped()
        ends = {local for *_, local in self.outputs}
        reads = []
        for nodes, exchanges in groups:
            operands = [v for n in nodes for v in self._operands(n)]
            reads.append(self._sources([*operands, *(v for e in exchanges for v in e.operands)]))
        reads[-1] |= self._sources(ends)
        later: set[int] = set()
        made: list[tuple[Part, tuple[int, ...], tuple[int, ...], list[Exchange]]] = []
        for at in range(len(groups) - 1, -1, -1):
            nodes, exchanges = groups[at]
            own = set(nodes)
            asked = {v for e in exchanges for v in e.operands} | (ends if at + 1 == len(groups) else set())
            gives = sorted((own & later) | {v for v in asked if v in own or self._again(v)})
            made.append((*self._written(gives, own), tuple(gives), exchanges))
            later |= reads[at]
        stages: list[Stage] = []
        used = set(ends)
        for part, takes, gives_, exchanges in made:  # from the last on
            now = {*takes, *gives_, *(v for e in exchanges for v in e.operands), *(e.result for e in exchanges)}
            stages.insert(0, Stage(part, takes, gives_, tuple(exchanges), tuple(sorted(now - used))))
            used |= now
        return Ranked(tuple(stages), self.given, tuple(self.outputs))

    def _operands(self, local: int) -> tuple[int, ...]:
        node = self.locals[local].node
        return node.inputs if node else ()

    def _again(self, local: int) -> bool:
        """Whether a value is made where it is used."""
        node = self.locals[local].node
        return self.fixed[local] or (node is not None and node.op in VIEWS)

    def _grouped(self) -> list[tuple[list[int], list[Exchange]]]:
        """Nodes, then exchanges that do not depend on each other."""
        groups: list[tuple[list[int], list[Exchange]]] = [([], [])]
        waiting: set[int] = set()
        size = 0
        for local in self.order:
            made = self.locals[local]
            operands = made.node.inputs if made.node else made.exchange.operands if made.exchange else ()
            if size > BUCKET or any(source in waiting for source in self._sources(operands)):
                groups.append(([], []))
                waiting, size = set(), 0
            if made.exchange:
                groups[-1][1].append(made.exchange)
                waiting.add(local)
                size += sum(self.locals[v].type.bytes for v in operands)
            elif not self._again(local):
                groups[-1][0].append(local)
        if groups[-1][1]:
            groups.append(([], []))
        return groups

    def _sources(self, values: Iterable[int]) -> set[int]:
        """What views and values of constants are made of."""
        found: set[int] = set()
        todo = list(values)
        while todo:
            v = todo.pop()
            node = self.locals[v].node
            if node is not None and self._again(v):
                todo += node.inputs
            else:
                found.add(v)
        return found

    def _written(self, gives: Sequence[int], own: set[int]) -> tuple[Part, tuple[int, ...]]:
        """The part that makes values, by nodes `own` and those that are made wherever they are used, and what it takes of what is there."""
        needed: set[int] = set()
        todo = list(gives)
        while todo:
            v = todo.pop()
            if v not in needed:
                needed.add(v)
                if v in own or self._again(v):
                    todo += self._operands(v)
        order = sorted(needed)
        constants = [v for v in order if self.locals[v].constant]
        takes = [v for v in order if v not in own and not self._again(v)]
        nodes = [v for v in order if self.locals[v].node and (v in own or self._again(v))]
        number = {v: at for at, v in enumerate([*takes, *constants, *nodes])}
        inputs = [Input(kind="state", name=str(v), type=self.locals[v].type) for v in takes]
        inputs += [i for v in constants if (i := self.locals[v].constant)]
        written = []
        for v in nodes:
            node = self.locals[v].node
            assert node
            written.append(Node(op=node.op, inputs=tuple(number[w] for w in node.inputs), attrs=node.attrs, type=node.type))
        outputs = tuple(Output(kind="state", name=str(v), value=number[v]) for v in gives)
        return Part(inputs=tuple(inputs), nodes=tuple(written), outputs=outputs), tuple(takes)


def _terms(node: Node, types: Sequence[TensorType]) -> int:
    if node.op == "scatter_add_rows":
        return types[0].shape[0]
    return prod(types[0].shape[a] for a in ints(node.attrs, "axes")) if "axes" in node.attrs else 0
