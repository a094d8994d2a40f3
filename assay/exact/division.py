"""An update cut into groups, by the entries of the state that it reads and writes: each entry that lies apart is touched by one group alone.

Micro-batches do not read an optimiser's moments. Where a device has no room for them they lie on the host, and the update goes through them: the
`head` first, which makes what several groups want (the factor that clips gradients) and what has nothing to do with them; then the groups,
in any order but for what they read of each other's results (`later`). Nodes are moved, none is changed, so the bits are the same. Entries
whose new values come with those of others are in one group with these. Entries whose group would have a matrix product stay on the
device: what has to be made again when a checksum is wrong must not have been written over.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from assay.exact.table import OPS, Kind, TensorType
from assay.program import Input, Node, Output, Part, Program

ALIGN = 256
"""Bytes to a multiple of which an entry is rounded up."""
HEAD = ""
"""In place of an entry's name: what belongs to no group."""


class Group(NamedTuple):
    part: Part
    entries: tuple[str, ...]
    """Of those that lie apart, in their order."""


class Division(NamedTuple):
    """Parts that are run one after the other. Their inputs of the kind `batch` are results of the head of the kind `acc` and the same name, of
    types `between`."""

    head: Part
    groups: tuple[Group, ...]
    between: dict[str, TensorType]

    def later(self, at: int) -> set[str]:
        """Entries of the state that groups behind group `at` read (-1: behind the head)."""
        return {i.name for group in self.groups[at + 1 :] for i in group.part.inputs if i.kind == "state"}


def aligned(size: int) -> int:
    return -(-size // ALIGN) * ALIGN


def movable(program: Program) -> tuple[str, ...]:
    """The entries of the state that may lie apart, sorted: those that micro-batches neither read nor begin with, and whose new values no matrix
    product makes."""
    bound = {i.name for i in program.micro.inputs if i.kind == "state"} | program.accumulator.keys()
    names = [name for name in program.state if name not in bound]
    sets = _Sets(program.update, names)
    multiplied = {sets.of(at) for at, node in enumerate(program.update.nodes, len(program.update.inputs)) if node.op == "matmul"}
    return tuple(name for name in names if sets.leader(name) not in multiplied)


class _Sets:
    """Entries that have to be there at the same time, and the values that depend on them."""

    def __init__(self, part: Part, names: Collection[str]) -> None:
        self._above = {name: name for name in names}
        self._on: list[str | None] = [i.name if i.kind == "state" and i.name in self._above else None for i in part.inputs]
        for node in part.nodes:
            found = [name for v in node.inputs if (name := self._on[v]) is not None]
            for other in found[1:]:
                self._join(found[0], other)
            self._on.append(found[0] if found else None)
        for o in part.outputs:
            if o.name in self._above and (name := self._on[o.value]) is not None:
                self._join(o.name, name)

    def __contains__(self, name: object) -> bool:
        return name in self._above

    def leader(self, name: str) -> str:
        while self._above[name] != name:
            self._above[name] = name = self._above[self._above[name]]
        return name

    def _join(self, a: str, b: str) -> None:
        self._above[self.leader(a)] = self.leader(b)

    def of(self, value: int) -> str | None:
        """The entries that a value depends on, by their leader."""
        name = self._on[value]
        return None if name is None else self.leader(name)


def divided(part: Part, apart: Sequence[str], most: int) -> Division:
    """An update whose entries `apart`, of those that are movable, are in groups of at most `most` bytes, or of what has to be there at the same
    time."""
    sets = _Sets(part, apart)
    types = {i.name: i.type for i in part.inputs if i.kind == "state"} | {o.name: part.type_of(o.value) for o in part.outputs}
    members: dict[str, list[str]] = {}
    for name in apart:
        members.setdefault(sets.leader(name), []).append(name)
    homes = _homes(part, sets, members)
    outputs: dict[str, list[Output]] = {leader: [] for leader in (HEAD, *members)}
    for o in part.outputs:
        outputs[sets.leader(o.name) if o.name in sets else homes[o.value]].append(o)
    packed: list[tuple[list[Output], list[str]]] = []
    room = 0
    order = {o.name: at for at, o in enumerate(part.outputs)}
    for leader in sorted(members, key=lambda leader: min(order.get(o.name, 0) for o in outputs[leader]) if outputs[leader] else 0):
        size = sum(aligned(types[name].bytes) for name in members[leader])
        if not packed or size > room:
            packed.append(([], []))
            room = most
        room -= size
        packed[-1][0].extend(outputs[leader])
        packed[-1][1].extend(members[leader])
    made = [_taken(part, wanted, homes, False) for wanted, _ in packed]
    between = {str(v): part.type_of(v) for v in sorted({v for _, given in made for v in given})}
    head = [*outputs[HEAD], *(Output(kind="acc", name=name, value=int(name)) for name in between)]
    groups = (Group(found, tuple(names)) for (found, _), (_, names) in zip(made, packed, strict=True))
    return Division(_taken(part, head, homes, True)[0], tuple(groups), between)


def _homes(part: Part, sets: _Sets, members: Mapping[str, object]) -> list[str]:
    """Value -> leader of the group that makes it, or HEAD: what one group alone wants it makes itself, but for matrix products and
    what is one element (a factor, made of all of a tensor: steps over such a tensor could not be cut). An entry that stays
    is put out by whoever makes its value."""
    first = len(part.inputs)
    wanted: list[set[str]] = [set() for _ in range(first + len(part.nodes))]
    for o in part.outputs:
        if o.name in sets:
            wanted[o.value].add(sets.leader(o.name))
    homes = [HEAD] * len(wanted)
    for at in reversed(range(first, len(wanted))):
        node, on = part.nodes[at - first], sets.of(at)
        if on is not None:
            homes[at] = on
        elif len(wanted[at]) == 1 and node.op != "matmul" and node.type.elements > 1:
            (homes[at],) = wanted[at]
        for v in node.inputs:
            wanted[v].add(homes[at])
    return homes


def _taken(part: Part, outputs: Sequence[Output], homes: Sequence[str], head: bool) -> tuple[Part, set[int]]:
    """The part that makes `outputs`, and the values of the head that it is given. Constants, and what only shows a value in another way, it
    makes itself."""
    first = len(part.inputs)
    constant = [i.kind == "constant" for i in part.inputs]
    for node in part.nodes:
        constant.append(all(constant[v] for v in node.inputs))
    needed, given = {o.value for o in outputs}, set[int]()
    for at in reversed(range(first, first + len(part.nodes))):
        if at not in needed:
            continue
        node = part.nodes[at - first]
        shows = constant[at] or (OPS[node.op].kind is Kind.MOVE and len(node.inputs) == 1)
        if head or homes[at] != HEAD or shows:
            needed.update(node.inputs)
        else:
            given.add(at)
    inputs = [at for at in range(first) if at in needed]
    numbers = {at: n for n, at in enumerate([*inputs, *sorted(given)])}
    entries = [part.inputs[at] for at in inputs] + [Input(kind="batch", name=str(at), type=part.type_of(at)) for at in sorted(given)]
    nodes: list[Node] = []
    for at in range(first, first + len(part.nodes)):
        if at in needed and at not in given:
            numbers[at] = len(entries) + len(nodes)
            node = part.nodes[at - first]
            nodes.append(Node(op=node.op, inputs=tuple(numbers[v] for v in node.inputs), attrs=node.attrs, type=node.type))
    made = tuple(Output(kind=o.kind, name=o.name, value=numbers[o.value]) for o in outputs)
    return Part(inputs=tuple(entries), nodes=tuple(nodes), outputs=made), given
