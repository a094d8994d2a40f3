"""An ahead-of-time plan of a program's part: which native steps, in which order, on which storage.

Three passes. Where: every value gets a storage of its own or is a view of another's; what depends on constants alone is computed now.
When: nodes in program order; MAP nodes over equally many elements that feed each other gather in a group, which becomes one
step as soon as something else needs one of its results, or nothing more can join. Storage: places in one arena, reused when the last
step that reads them is done; results of the part go straight to the caller's arrays, or over an input of the caller's that is given up.

With `trace`, nothing is fused and every node's result can be seen, after the step that makes it: the bits are the same. With `rows`, and
without `trace`, steps over the same rows are one (assay.exact.rows), for a device that has kernels for that; with `attention`, too, what products
make for these alone is kept away from memory (assay.exact.attention), as far as the device takes it; with `packs`, what several read is packed once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.exact import attention as keeping
from assay.exact import reference
from assay.exact.added import Added, addends
from assay.exact.again import Again
from assay.exact.arena import Arena
from assay.exact.columns import Columns
from assay.exact.inplace import InPlace
from assay.exact.recompute import turns
from assay.exact.rows import Finder
from assay.exact.steps import LOWER, Instruction, Step, kernel
from assay.exact.table import OPS, Kind, TensorType
from assay.exact.views import Folded, View, broadcast, c_strides, folded, ints, lanes, moved, reshaped, whole, whole_of
from assay.program import Node, Part, ProgramError

Array = NDArray[Any]

MAX_MEMBERS, MAX_READS = 40, 24
"""Nodes and inputs of a fused step."""
FEW = 16
"""Elements whose maximum is taken one after the other, within a fused step."""
MAX_FOLDED = 256 << 20
"""Bytes of all values that are computed when the plan is made, and of what they are computed from."""
ALIGN = 64
MAX_STEPS = 1 << 18
SMALL = 1 << 14
"""Bytes of values that have a region of their own, so that none that lives long cuts up the room of large ones."""


class _Group:
    """MAP nodes that will be one step."""

    def __init__(self, elements: int) -> None:
        self.elements = elements
        self.members: list[int] = []
        self.reads: dict[View, None] = {}
        self.code: list[Instruction] = []
        self.results: set[int] = set()

    def room(self, members: int, reads: int) -> bool:
        return len(self.members) + members <= MAX_MEMBERS and len(self.reads) + reads <= MAX_READS

    def take(self, other: _Group) -> None:
        """Joins two groups that do not depend on each other (a group's reads are there before it is opened)."""
        self.members += other.members
        self.reads |= other.reads
        self.code += other.code
        self.results |= other.results


Packs = Callable[[Sequence[Step], Callable[[int], int], Callable[[TensorType, bool], View], Mapping[int, tuple[str, int]]], list[Step]]
"""Steps, a root's storage, what makes one (zero at the part's begin, or not), places that are known -> steps that pack for several products."""


class Plan:
    """Steps and storage of one part. `homes` maps a root to ("input" | "constant" | "output", index) or ("arena", byte offset)."""

    def __init__(
        self, part: Part, constants: Mapping[str, Array], gemm_bits: int, trace: bool = False, rows: bool = False,
        attention: keeping.Attention | None = None, packs: Packs | None = None,
    ) -> None:  # fmt: skip
        self.part, self.trace, self.gemm_bits = part, trace, gemm_bits
        self.steps: list[Step] = []
        self.views: list[View] = []
        self.constants: list[Array] = []
        self.folded: dict[int, Folded] = {}
        """Values that only matrix products read, as these read them."""
        self.within: dict[int, tuple[int, int]] = {}
        """A root that lies in another one's storage -> (that root, byte offset)."""
        self.homes: dict[int, tuple[str, int]] = {}
        self.zeros = (0, 0)
        """Byte offset and size of what of the arena has to be zero when the part begins."""
        self._zeros: set[int] = set()
        self.ready: list[int] = []
        """With `trace`: how many steps have run when node i's result is there."""
        self._types: dict[int, TensorType] = {}
        self._known: dict[int, Array] = {}
        self.known = self._known.get
        """The value of a root that is a constant, or is made of constants alone, or None."""
        self._makers: dict[int, int] = {}
        self._uses: dict[int, list[int]] = {}
        self._joiners: dict[tuple[int, int], int] = {}  # (root, elements) -> turn of the last MAP node of that size that reads the root
        self._pending: dict[int, _Group] = {}
        self._folded = 0
        self.folding = 0
        """Bytes of operands and result of the largest node that was computed when the plan was made."""
        self._where(constants)
        self._wanted = {self.views[o.value].root for o in part.outputs}
        self._when()
        self._outputs()
        wanted = {*self.within, *(root for root, (home, _) in self.homes.items() if home == "output")}
        if rows and not trace:
            self.steps = Finder(self.steps, self._storage, wanted, self._additions()).fused()
            if attention is not None:
                self.steps = keeping.Finder(self.steps, self._storage, wanted, self._additions(), attention.takes).fused()
                self.steps = InPlace(self.steps, self._storage, wanted).made()
            again = Again(self.steps, self._storage, self.homes).made()
            self.steps = attention.handed(again, self._made, self.known) if attention is not None else again
        if packs is not None and not trace:
            self.steps = packs(self.steps, self._storage, self._made, self.homes)
        if rows and not trace:
            self.steps = Columns(Added(self.steps, self._storage, wanted).made(), self._storage, self.homes, wanted, self._made).made()
        self.arena = self._store()
        self.over: dict[int, int] = self._over()
        """Output -> the input of the same entry that it may be written over, if the caller gives that up."""

    def bytes_of(self, root: int) -> int:
        return self._types[root].bytes

    # ---- where

    def _root(self, t: TensorType) -> View:
        root = len(self._types)
        self._types[root] = t
        return whole(root, t.shape, t.dtype)

    def _made(self, t: TensorType, zero: bool) -> View:
        self._zeros |= {len(self._types)} if zero else set()
        return self._root(t)

    def _constant(self, array: Array, t: TensorType) -> View:
        v = self._root(t)
        self.homes[v.root] = ("constant", len(self.constants))
        self.constants.append(np.asarray(array, order="C"))
        self._known[v.root] = self.constants[-1]
        return v

    def _seen(self, v: View) -> Array:
        """A constant's view as an array."""
        flat = self._known[v.root].reshape(-1)[v.offset :]
        return np.lib.stride_tricks.as_strided(flat, v.shape, [s * v.item for s in v.strides], writeable=False)

    def _where(self, constants: Mapping[str, Array]) -> None:
        for at, i in enumerate(self.part.inputs):
            if i.kind == "constant":
                self.views.append(self._constant(constants[i.name], i.type))
            else:
                self.views.append(self._root(i.type))
                self.homes[self.views[-1].root] = ("input", at)
        multiplied = self._multiplied()
        self._turns = list(range(len(self.part.nodes))) if self.trace else turns(self.part)
        for at, node in enumerate(self.part.nodes):
            operands = [self.views[v] for v in node.inputs]
            if node.op in ("reshape", "permute") and len(self.views) in multiplied and (fold := self._fold_of(node)) is not None:
                self.folded[len(self.views)] = fold
                self.views.append(fold.view)
                continue
            view = moved(node.op, node.attrs, operands[0]) if operands else None
            if view is None and all(v.root in self._known for v in operands) and self._fold(node, operands):
                args = [self._seen(v) for v in operands]
                view = self._constant(reference.apply(node.op, node.attrs, args, node.type.dtype, self.gemm_bits), node.type)
            elif view is None:
                view = self._root(node.type)
                self._makers[view.root] = at
                for v in operands:
                    self._uses.setdefault(v.root, []).append(at)
                    if OPS[node.op].kind is Kind.MAP:
                        key = v.root, node.type.elements
                        self._joiners[key] = max(self._turns[at], self._joiners.get(key, 0))
            self.views.append(view)

    def _multiplied(self) -> set[int]:
        """Values that are read by matrix products alone, or by transpositions that are."""
        if self.trace:
            return set()
        first = len(self.part.inputs)
        read = {v for node in self.part.nodes for v in node.inputs}
        others = {o.value for o in self.part.outputs}
        for at, node in reversed(list(enumerate(self.part.nodes))):
            lead = tuple(range(len(node.type.shape) - 2))
            turned = node.op == "permute" and ints(node.attrs, "axes")[:-2] == lead
            if node.op != "matmul" and (not turned or first + at in others):
                others.update(node.inputs)
        return read - others

    def _fold_of(self, node: Node) -> Folded | None:
        """What a node makes of dimensions that no view has, or None where it makes a view."""
        (source,) = node.inputs
        if node.op == "permute" and source in self.folded:
            f, axes = self.folded[source], ints(node.attrs, "axes")
            return f._replace(axes=tuple(f.axes[a] for a in axes))
        if node.op != "reshape" or source in self.folded or len(node.type.shape) < 2 or moved(node.op, node.attrs, self.views[source]) is not None:
            return None
        return folded(self.views[source], node.type.shape)

    def _fold(self, node: Node, operands: Sequence[View]) -> bool:
        """Whether to compute a node of constants now: as long as they stay small. A part has no other way to make CONST values."""
        size = node.type.bytes + sum(v.elements * v.item for v in operands)
        self._folded += size
        if self._folded > MAX_FOLDED and OPS[node.op].kind is Kind.CONST:
            raise ProgramError(f"the constants of a part take more than {MAX_FOLDED} bytes")
        if self._folded <= MAX_FOLDED:
            self.folding = max(self.folding, size)
        return self._folded <= MAX_FOLDED

    # ---- when

    def _when(self) -> None:
        first = len(self.part.inputs)
        for at in sorted(range(len(self.part.nodes)), key=self._turns.__getitem__):
            node = self.part.nodes[at]
            view = self.views[first + at]
            if self._makers.get(view.root) == at:
                operands = [self.views[v] for v in node.inputs]
                if OPS[node.op].kind is Kind.MAP:
                    self._map(at, view, operands, [kernel(node, operands)])
                elif node.op == "amax" and operands[0].elements <= FEW * view.elements:
                    parts = lanes(operands[0], ints(node.attrs, "axes"), view.shape)
                    self._map(at, view, parts, ["maximum_f32"] * (len(parts) - 1) or ["copy_4"])
                else:
                    for v in operands:
                        self._close(v.root)
                    LOWER[node.op](self, node, view, operands)
            self.ready.append(len(self.steps))
        for group in dict.fromkeys(self._pending.values()):
            self._emit(group)

    def _map(self, at: int, view: View, operands: list[View], kernels: list[str]) -> None:
        """One kernel of all operands, or several that take them in one after the other."""
        size = view.elements
        for v in operands:
            if not self._joins(v, size):
                self._close(v.root)
        group = _Group(size)
        for other in dict.fromkeys(self._pending[v.root] for v in operands if v.root in self._pending):
            if group.room(len(other.members) + len(kernels), len(other.reads) + len(operands)):
                group.take(other)
            else:
                self._emit(other)
        names = [v.root if v.root in group.results else broadcast(v, view.shape) for v in operands]
        group.reads |= dict.fromkeys(name for name in names if isinstance(name, View))
        for name in kernels[:-1]:
            result = self._root(TensorType(dtype=view.dtype, shape=view.shape)).root
            group.code.append(Instruction(name, result, view.dtype, (names[0], names[1])))
            names[:2] = [result]
        group.code.append(Instruction(kernels[-1], view.root, view.dtype, tuple(names)))
        group.members.append(at)
        group.results |= {i.result for i in group.code[-len(kernels) :]}
        self._pending |= dict.fromkeys(group.results, group)
        if self.trace or not any(self._joiners.get((root, size), 0) > self._turns[at] for root in group.results):
            self._emit(group)

    def _joins(self, v: View, size: int) -> bool:
        """Whether an operand is, element by element, a result of a group that has not run yet (and not a part of one)."""
        group = self._pending.get(v.root)
        return group is not None and group.elements == size and v.elements == size and v.contiguous

    def _close(self, root: int) -> None:
        if root in self._pending:
            self._emit(self._pending[root])

    def _emit(self, group: _Group) -> None:
        members = set(group.members)
        writes = []
        for i in group.code:
            del self._pending[i.result]
            seen = (self.trace and i.result in self._makers) or i.result in self._wanted
            if seen or any(use not in members for use in self._uses.get(i.result, ())):
                writes.append(whole(i.result, (group.elements,), i.dtype))
        if writes:
            self.steps.append(Step("map", tuple(group.reads), tuple(writes), tuple(group.code)))

    def packed(self, v: View) -> View:
        """The view in C order, copied if it is not."""
        if v.contiguous:
            return v._replace(strides=c_strides(v.shape))
        out = self._root(TensorType(dtype=v.dtype, shape=v.shape))
        self.steps.append(Step("copy", (v,), (out,)))
        return out

    def place(self, v: View, out: View) -> None:
        """Sees to it that the elements of `v` are at `out`, an empty place: they are made there, if they are a storage of their own, and copied once
        if they were copied for this alone."""
        alone = v.root in self._makers and v.root not in self.within and v.root not in self._wanted and whole_of(v, self._types[v.root].elements)
        if alone and out.contiguous:
            self.within[v.root] = out.root, out.offset * out.item
            return
        once = alone and not self.trace and len(self._uses[v.root]) == 1
        made = [step for step in self.steps if step.writes[0].root == v.root] if once else []
        if len(made) == 1 and made[0].name == "copy" and (to := reshaped(out, made[0].reads[0].shape)) is not None:
            self.steps.remove(made[0])
            self.steps.append(Step("copy", made[0].reads, (to,)))
        else:
            self.steps.append(Step("copy", (v,), (out,)))

    def home(self, root: int) -> tuple[str, int, int]:
        """(kind, index or byte offset, byte offset from there) of a root."""
        at = 0
        while root in self.within:
            root, offset = self.within[root]
            at += offset
        return (*self.homes[root], at)

    def _storage(self, root: int) -> int:
        """The root in whose storage a root lies."""
        while root in self.within:
            root = self.within[root][0]
        return root

    def step(self, name: str, reads: Sequence[View], write: View, *extra: int) -> None:
        if len(self.steps) >= MAX_STEPS:
            raise ProgramError(f"a part needs more than {MAX_STEPS} steps")
        self.steps.append(Step(name, tuple(reads), (write,), (), extra))

    # ---- storage

    def _outputs(self) -> None:
        """Lets results be made where the caller wants them; copies those that are views, inputs, constants or wanted twice."""
        for slot, o in enumerate(self.part.outputs):
            v = self.views[o.value]
            if v.root not in self.homes and v.contiguous and v.offset == 0 and v.elements == self._types[v.root].elements:
                self.homes[v.root] = ("output", slot)
            else:
                out = self._root(self.part.type_of(o.value))
                self.homes[out.root] = ("output", slot)
                self.steps.append(Step("copy", (v,), (out,)))

    def _additions(self) -> set[int]:
        """Steps that read an entry and write its successor: these may lie over each other as long as the step is one by itself (_over)."""
        entries = {(i.kind, i.name): v.root for i, v in zip(self.part.inputs, self.views, strict=False)}
        found = set()
        for at, step in enumerate(self.steps):
            slots = [where for home, where in (self.homes.get(v.root, ("", 0)) for v in step.writes) if home == "output"]
            before = {entries.get((self.part.outputs[slot].kind, self.part.outputs[slot].name)) for slot in slots}
            if any(v.root in before for v in step.reads):
                found.add(at)
        return found

    def _store(self) -> int:
        """Gives the remaining roots places in the arena; returns its size in bytes."""
        last: dict[int, int] = {}
        for at, step in enumerate(self.steps):
            for v in (*step.reads, *step.writes):
                last[self._storage(v.root)] = at
        if self.trace:
            for node, ready in enumerate(self.ready):
                root = self._storage(self.views[len(self.part.inputs) + node].root)
                last[root] = max(last.get(root, 0), ready - 1)
        large, small, zero = Arena(), Arena(), Arena()
        places: dict[int, tuple[Arena, int]] = {}
        dying: dict[int, list[tuple[Arena, int, int]]] = {}
        for at, step in enumerate(self.steps):
            for root in (self._storage(v.root) for v in step.writes):
                if root not in self.homes and root not in places:
                    size = (self._types[root].bytes + ALIGN - 1) // ALIGN * ALIGN
                    arena = zero if root in self._zeros else large if size > SMALL else small
                    offset = arena.take(size)
                    places[root] = (arena, offset)
                    if arena is not zero:
                        dying.setdefault(last[root], []).append((arena, offset, size))
            for arena, offset, size in dying.get(at, ()):
                arena.give(offset, size)
        self.zeros = (large.end + small.end, zero.end)
        self.homes |= {root: ("arena", at + (0 if of is large else large.end if of is small else self.zeros[0])) for root, (of, at) in places.items()}
        return sum(self.zeros)

    def _over(self) -> dict[int, int]:
        """An entry's successor may lie where the entry does when nothing reads the entry after the first step that writes the successor, and that
        step, if it reads it, takes element i of the one before it writes element i of the other (tape.py sees to the order within a block)."""
        if self.trace:
            return {}
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        for at, step in enumerate(self.steps):
            for v in step.writes:
                first.setdefault(self._storage(v.root), at)
            last |= dict.fromkeys((v.root for v in step.reads), at)
        entries = {(i.kind, i.name): at for at, i in enumerate(self.part.inputs)}
        over: dict[int, int] = {}
        for root, (home, slot) in self.homes.items():
            o = self.part.outputs[slot] if home == "output" else None
            if o is None or (o.kind, o.name) not in entries or root not in first:
                continue
            at = entries[o.kind, o.name]
            entry, made = self.views[at].root, first[root]
            read, step = last.get(entry, -1), self.steps[made]
            own = [v for v in step.reads if v.root == entry]
            alike = (step.name == "map" or own == [addends(step).get(root)]) and all(whole_of(v, step.writes[0].elements) for v in own)
            if read < made or (read == made and alike):
                over[slot] = at
        return over
