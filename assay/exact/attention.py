"""Products of few elements of k whose results are read by steps over their rows and by other narrow products alone, as attention's scores are.
With these in one step, `attend`, such a result needs no place in memory: a device makes it where it is read, again wherever that is
(assay.exact.cuda.attend).

A *wide* value has batch x R x L elements, and is made by a product with small k, or of wide values by MAP steps and reductions over its rows
(a chain; assay.exact.rows). It is *kept away* from memory if it is read by chains and by products with few other lanes alone. There are two kinds
of kernels. *By rows*: a chain, with the products that it reads, with those that read its results row by row, and with what it makes for others:
whatever has one element a row, and wide results that are wanted in memory. *By columns*: products that read wide values column by column.

What a kernel reads of a value that is kept away is made again in it: the product anew, and the chain's MAP steps; what has one element a row is
read, since the chain's own kernel stores that. So each reduction is made once, and making a value again is elementwise.

This happens before values have places, and behind assay.exact.rows. Every storage is written before it is read, so to read it later is no matter as
long as it has its place until then (Plan._store). Kernels are put in among the steps in an order in which each
waits for what its members waited for; where that is impossible, and where a kernel does not fit the device, products stay as they are.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from assay.exact.rows import COUNT, LEAST, Rows, mapped, reduced, whole_rows
from assay.exact.steps import Step
from assay.exact.table import TensorType
from assay.exact.views import View
from assay.exact.wide import NARROW, Shape, sizes, use

Known = Callable[[int], NDArray[Any] | None]
"""The value of a root that is a constant."""


class Attention(Protocol):
    """What a device says of steps `attend`: whether it has room for one, and which hand on what they have made to others, in roots that the second
    argument makes."""

    def takes(self, step: Step) -> bool: ...

    def handed(self, steps: Sequence[Step], made: Callable[[TensorType, bool], View], known: Known) -> list[Step]: ...


class _Chain(NamedTuple):
    """A step over rows: its parts with views as rows, what they make, and what it hands on."""

    shape: Shape
    parts: tuple[Step, ...]
    reads: tuple[View, ...]
    writes: tuple[View, ...]

    def maker(self, v: View) -> Step | None:
        return next((part for part in self.parts if v in part.writes), None)


class _Kernel:
    """A step `attend` to be: its own members, and what it makes again."""

    def __init__(self, shape: Shape, chain: int | None = None, uses: Sequence[int] = ()) -> None:
        self.shape, self.chain, self.uses = shape, chain, list(uses)
        self.products: dict[int, int] = {}
        """Products, and for which member each is made first."""
        self.again: dict[tuple[int, Step], int] = {}
        """Parts of other kernels' chains, likewise."""

    @property
    def members(self) -> list[int]:
        return sorted([*([] if self.chain is None else [self.chain]), *self.uses])


class Finder:
    """`storage` is that of a root, `wanted` are roots that are read by more than steps or lie in another's storage, `barred` steps that stay by
    themselves; `takes` says of a step `attend` whether the device has room for it."""

    def __init__(
        self, steps: Sequence[Step], storage: Callable[[int], int], wanted: Collection[int], barred: Collection[int], takes: Callable[[Step], bool]
    ) -> None:  # fmt: skip
        self._steps, self._storage, self._wanted, self._takes = steps, storage, set(wanted), takes
        self._plain = set(barred)
        """Steps that stay as they are."""
        self._apart: set[int] = set()
        """Products that have a kernel of their own."""
        self._readers: dict[int, list[int]] = {}
        self._writers: dict[int, list[int]] = {}
        self._last: dict[int, int] = {}  # storage -> the last step that writes there
        for at, step in enumerate(steps):
            for v in step.writes:
                self._writers.setdefault(v.root, []).append(at)
                self._last[storage(v.root)] = at
            for root in {v.root for v in step.reads}:
                self._readers.setdefault(root, []).append(at)
        self._shapes: dict[int, Shape] = {}
        """Of wide values that may be kept away."""
        self._chains: dict[int, _Chain] = {}
        self._narrow: dict[int, dict[View, None]] = {}
        """What kernels read of what other kernels' chains reduce."""

    def fused(self) -> list[Step]:
        """The steps in an order that keeps to what they wait for. A step `attend` has as `extra` its Shape, as `parts` products that make wide
        values, MAP steps and reductions with their views as rows, and products that read wide values."""
        while True:
            self._kept_away()
            kernels = list(self._kernels())
            if not kernels:
                return list(self._steps)
            steps = [self._step(kernel) for kernel in kernels]
            bad = [k for k, step in zip(kernels, steps, strict=True) if not (self._worth(k) and self._allowed(k) and self._takes(step))]
            if not bad:
                ordered, bad = self._ordered(kernels, steps)
                if not bad:
                    return ordered
            self._undone(bad)

    def _undone(self, bad: Sequence[_Kernel]) -> None:
        """Sees to it that kernels are smaller, or not made."""
        several = [kernel for kernel in bad if len(kernel.members) > 1 and kernel.uses]
        self._apart.update(max(kernel.uses) for kernel in several)
        for kernel in bad if not several else ():
            self._plain.update(kernel.members)

    # ---- which values are kept away

    def _alone(self, v: View) -> bool:
        """Whether a view is all that is ever written of a storage that nothing but steps read."""
        return v.root not in self._wanted and len(self._writers[v.root]) == 1 and v.offset == 0 and v.contiguous

    def _kept_away(self) -> None:
        self._shapes, self._chains = {}, {}
        for at, step in enumerate(self._steps):
            if at in self._plain:
                continue
            if step.name == "matmul":
                (out,), size = step.writes, sizes(step)
                if size.k <= NARROW and size.m >= COUNT and size.n >= LEAST and out.dtype == "f32" and self._alone(out):
                    self._shapes[out.root] = Shape(False, size.batch, size.m, size.n)
            elif (chain := self._chain(step)) is not None:
                self._chains[at] = chain
                for v in chain.writes:
                    if v == whole_rows(v.root, chain.shape.all_rows, v.dtype) and self._alone(v):
                        self._shapes[v.root] = chain.shape
        while lost := self._lost():
            for root in lost:
                del self._shapes[root]
            for at, chain in list(self._chains.items()):
                if not any(v.root in self._shapes for v in chain.reads):
                    del self._chains[at]

    def _chain(self, step: Step) -> _Chain | None:
        found = {self._shapes[v.root] for v in step.reads if v.root in self._shapes}
        if len(found) != 1 or step.name not in ("rows", "map", "sum", "amax"):
            return None
        (shape,), rows = found, next(iter(found)).all_rows
        if step.name == "rows":
            alike = Rows(*step.extra) == rows and all(part.name in ("map", "sum", "amax") for part in step.parts)
            return _Chain(shape, step.parts, step.reads, step.writes) if alike else None
        one = reduced(step)
        part = mapped(step, rows) if step.name == "map" else one[1] if one is not None and one[0] == rows else None
        if part is None or (step.name == "map" and step.writes[0].elements != rows.number * rows.length):
            return None
        return _Chain(shape, (part,), part.reads, part.writes)

    def _lost(self) -> list[int]:
        """Values that have to be in memory after all: read in another way, or by a chain or product that is none of a kernel's. Once there are no
        such, one of two of which a product reads both, or makes one of the other."""
        lost = [root for root, shape in self._shapes.items() if not all(self._fits(at, root, shape) for at in self._readers.get(root, (-1,)))]
        makers = {root: self._writers[root][0] for root in self._shapes}
        lost += [root for root, at in makers.items() if self._steps[at].name != "matmul" and at not in self._chains]
        for root, maker in makers.items() if not lost else ():
            if self._steps[maker].name == "matmul" and any(v.root in self._shapes for v in self._steps[maker].reads):
                return [root]
            for at in self._readers[root]:
                both = [v.root for v in self._steps[at].reads if v.root in self._shapes]
                if at not in self._chains and len(both) > 1:
                    return [next((v for v in both if self._between_products(v)), both[-1])]
        return lost

    def _fits(self, at: int, root: int, shape: Shape) -> bool:
        """Whether a step reads a value as one of a kernel's members can."""
        if at < 0 or at in self._plain:
            return False
        step, chain, seen = self._steps[at], self._chains.get(at), whole_rows(root, shape.all_rows, "")
        if chain is not None:
            return chain.shape == shape and all(v._replace(dtype="") == seen for v in chain.reads if v.root == root)
        return use(step, root, shape) is not None and step.writes[0].contiguous and step.reads[0].dtype == "f32"

    def _between_products(self, root: int) -> bool:
        return self._steps[self._writers[root][0]].name == "matmul" and not any(at in self._chains for at in self._readers[root])

    # ---- kernels

    def _kernels(self) -> Iterator[_Kernel]:
        """By rows, in the order of their chains; then by columns, those together that make the same product."""
        rowwise: dict[int, list[int]] = {}
        columns: list[tuple[int, int]] = []
        alone: list[tuple[int, int]] = []
        for root, shape in self._shapes.items():
            maker = self._writers[root][0]
            for at in self._readers[root]:
                if at in self._chains:
                    continue
                found = use(self._steps[at], root, shape)
                assert found is not None
                if found.by_columns:
                    columns.append((at, root))
                elif maker in self._chains and at not in self._apart:
                    rowwise.setdefault(maker, []).append(at)
                else:
                    alone.append((at, root))
        for at, chain in self._chains.items():
            rowwise.setdefault(at, []).extend(self._beside(chain))
        made = [_Kernel(chain.shape, at, rowwise[at]) for at, chain in self._chains.items()]
        made += [self._needing(_Kernel(self._shapes[root], None, [at]), root, at) for at, root in alone]
        groups: list[_Kernel] = []
        for at, root in sorted(columns):
            shape = self._shapes[root]._replace(by_columns=True)
            one = self._needing(_Kernel(shape, None, [at]), root, at)
            same = next((k for k in groups if k.shape == shape and not one.products.keys().isdisjoint(k.products)), None)
            if same is None or not self._apart.isdisjoint((at, *same.uses)):
                groups.append(one)
            else:
                same.uses.append(at)
                self._needing(same, root, at)
        made += groups
        for kernel in made:
            if kernel.chain is not None:
                for v in self._chains[kernel.chain].reads:
                    if v.root in self._shapes:
                        self._needing(kernel, v.root, kernel.chain)
        self._narrow.clear()
        for kernel in made:
            for maker, part in kernel.again:
                for v in part.reads:
                    if v.strides[-1] == 0 and self._chains[maker].maker(v) is not None:
                        self._narrow.setdefault(maker, {})[v] = None
        for kernel in made:
            if kernel.uses or kernel.chain is None or self._given(kernel.chain):
                yield kernel

    def _beside(self, chain: _Chain) -> Iterator[int]:
        """Products that read row by row what a chain has to store: they may as well be made where it is."""
        for v in chain.writes:
            for at in self._readers.get(v.root, ()) if v.root not in self._shapes else ():
                step = self._steps[at]
                found = use(step, v.root, chain.shape) if at not in self._plain and at not in self._apart else None
                if found is not None and not found.by_columns and not any(read.root in self._shapes for read in step.reads):
                    yield at

    def _needing(self, kernel: _Kernel, root: int, member: int) -> _Kernel:
        """The kernel with all that makes a value that is kept away, for one of its members."""
        maker = self._writers[root][0]
        if maker not in self._chains:
            kernel.products.setdefault(maker, member)
        elif maker != kernel.chain:
            self._part(kernel, maker, whole_rows(root, self._shapes[root].all_rows, self._dtype(maker, root)), member)
        return kernel

    def _dtype(self, maker: int, root: int) -> str:
        return next(v.dtype for v in self._chains[maker].writes if v.root == root)

    def _part(self, kernel: _Kernel, maker: int, v: View, member: int) -> None:
        chain = self._chains[maker]
        part = chain.maker(v)
        assert part is not None
        if (maker, part) in kernel.again:
            return
        for read in part.reads:
            if read.root in self._shapes and self._writers[read.root][0] != maker:
                self._needing(kernel, read.root, member)
            elif read.strides[-1] == 1 and chain.maker(read) is not None:
                self._part(kernel, maker, read, member)
        kernel.again[maker, part] = member

    def _given(self, chain: int) -> list[View]:
        """What a chain's kernel stores: what other steps read, and what others' kernels do instead of making it again."""
        given = [v for v in self._chains[chain].writes if v.root not in self._shapes]
        return list(dict.fromkeys([*given, *self._narrow.get(chain, {})]))

    def _step(self, kernel: _Kernel) -> Step:
        own = self._chains[kernel.chain] if kernel.chain is not None else None
        parts = [self._steps[at] for at in sorted(kernel.products)]
        parts += [part for _, part in kernel.again]
        parts += own.parts if own is not None else ()
        parts += [self._steps[at] for at in kernel.uses]
        inside = {v.root for part in parts for v in part.writes}
        reads = dict.fromkeys(v for part in parts for v in part.reads if v.root not in inside)
        writes = [*(self._given(kernel.chain) if kernel.chain is not None else ()), *(self._steps[at].writes[0] for at in kernel.uses)]
        return Step("attend", tuple(reads), tuple(writes), (), tuple(map(int, kernel.shape)), tuple(parts))

    def _worth(self, kernel: _Kernel) -> bool:
        """Whether more is saved than one value's way through memory."""
        return kernel.chain is None or bool(kernel.uses) or all(v.strides[-1] == 0 for v in self._given(kernel.chain))

    def _allowed(self, kernel: _Kernel) -> bool:
        """Whether what is made again reads what nobody writes any more."""
        again = [(at, self._steps[at].reads) for at in kernel.products] + [(maker, part.reads) for maker, part in kernel.again]
        return all(
            self._last.get(self._storage(v.root), -1) <= maker for maker, reads in again for v in reads if v.root not in self._shapes
        )  # fmt: skip

    # ---- order

    def _ordered(self, kernels: Sequence[_Kernel], made: Sequence[Step]) -> tuple[list[Step], list[_Kernel]]:
        """The steps with the kernels among them; or kernels that wait for each other in a circle."""
        gone = {at for kernel in kernels for at in (*kernel.members, *kernel.products)} | set(self._chains)
        units: list[tuple[int, Step, _Kernel | None]] = [(at, step, None) for at, step in enumerate(self._steps) if at not in gone]
        units += [(kernel.members[-1], step, kernel) for kernel, step in zip(kernels, made, strict=True)]
        units.sort(key=lambda unit: unit[0])
        reads: dict[int, list[tuple[int, int]]] = {}  # storage -> (turn among the steps as they were, unit)
        writes: dict[int, list[tuple[int, int]]] = {}
        for number, (at, step, kernel) in enumerate(units):
            if kernel is None:
                seen = [(at, step.reads, step.writes)]
            else:
                seen = [(own, self._steps[own].reads, self._steps[own].writes) for own in kernel.members]
                seen += [(member, self._steps[of].reads, ()) for of, member in kernel.products.items()]
                seen += [(member, part.reads, ()) for (_, part), member in kernel.again.items()]
                seen += [(kernel.chain, (), tuple(self._given(kernel.chain)))] if kernel.chain is not None else []
            for turn, read, written in seen:
                for v in read:
                    reads.setdefault(self._storage(v.root), []).append((turn, number))
                for v in written:
                    writes.setdefault(self._storage(v.root), []).append((turn, number))
        after: list[set[int]] = [set() for _ in units]
        for storage, places in writes.items():
            for turn, number in places:
                for other, another in reads.get(storage, ()):
                    (after[number] if turn < other else after[another]).add(another if turn < other else number)
                for other, another in places:
                    if turn < other:
                        after[number].add(another)
        waits = [0] * len(units)
        for number, others in enumerate(after):
            others.discard(number)
            for other in others:
                waits[other] += 1
        ready = [number for number, count in enumerate(waits) if not count]
        out: list[Step] = []
        done: set[int] = set()
        while ready:
            number = heapq.heappop(ready)
            out.append(units[number][1])
            done.add(number)
            for other in after[number]:
                waits[other] -= 1
                if not waits[other]:
                    heapq.heappush(ready, other)
        return out, [kernel for number, (_, _, kernel) in enumerate(units) if number not in done and kernel is not None]
