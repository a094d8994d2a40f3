"""What a step `attend` (assay.exact.attention) reads and writes where others have it, without a copy in between.

Queries, keys and values are columns of one matrix, which a product made; heads apart, and multiplied by a number, they used to be copied before
a kernel packed them. Their gradients are columns of one matrix, too, which the next product packs. What packs knows any strides, and multiplies
while it does; the kernel that makes a gradient writes each element once, so it may as well write it there.

So a copy, or a MAP step that multiplies by one number, becomes a part of the kernels that read its result: a part `seen` reads (what is copied,
the number if there is one) and writes the whole value, which has no place in memory. And a copy of what a kernel's product makes, or of that times
a number, becomes a part `placed`: it reads (the product's result, the number if there is one) and writes the elements of the target in the
result's order. One rounding each, as before, so the bits are the same.

This comes before values have places, and where a place may be read later, or written earlier: nothing writes a `seen` matrix after the copy that
was taken of it, and a `placed` matrix has no writers but copies (parts of a concatenation, which lie apart) and no reader before the last of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from assay.exact.steps import Step
from assay.exact.views import View, c_strides, merged
from assay.exact.wide import sizes

BORDER = ("seen", "placed")
"""Parts of a step `attend` that say where a value lies."""


class Lying(NamedTuple):
    """Where the elements of a value lie, in the value's C order, and what each is multiplied by, if it is."""

    view: View
    factor: View | None


def seen_by(step: Step) -> dict[int, Lying]:
    """The values that a step `attend` sees in another storage, by their roots."""
    return {p.writes[0].root: Lying(p.reads[0], p.reads[1] if len(p.reads) > 1 else None) for p in step.parts if p.name == "seen"}


def placed_by(step: Step) -> dict[int, Lying]:
    """The results of a step `attend` that are made in another storage, by their roots."""
    return {p.reads[0].root: Lying(p.writes[0], p.reads[1] if len(p.reads) > 1 else None) for p in step.parts if p.name == "placed"}


def through(v: View, n: int, stride: int) -> list[tuple[int, int]] | None:
    """Elements 0, stride, ..., (n - 1) * stride of a view in C order, as (size, step) in its storage, the outermost first. None where there are no
    such dimensions."""
    if n == 1 or stride == 0:
        return [(n, 0)]
    dims, (steps,) = merged(v.shape, v.strides)
    out: list[tuple[int, int]] = []
    for size, step, below in zip(reversed(dims), reversed(steps), reversed(c_strides(dims)), strict=True):
        if n == 1:
            break
        if stride >= below * size:
            continue
        if stride < below or stride % below or size % (stride // below):
            return None
        apart = stride // below
        here = min(n, size // apart)
        if n % here or (here < n and here * apart != size):
            return None
        out.insert(0, (here, step * apart))
        n //= here
        stride = below * size
    return out if n == 1 else None


def translated(v: View, of: View) -> tuple[View, tuple[int, ...]] | None:
    """A view of a value that lies as `of` does, and how many dimensions each of its own became; None where that is no view."""
    if v.offset:
        return None
    found = [through(of, n, step) for n, step in zip(v.shape, v.strides, strict=True)]
    dims = [dim for one in found if one is not None for dim in one]
    if None in found:
        return None
    counts = tuple(len(one) for one in found if one is not None)
    return View(of.root, of.offset, tuple(n for n, _ in dims), tuple(step for _, step in dims), of.dtype), counts


def multiplied(part: Step, lying: dict[int, Lying]) -> tuple[Step, tuple[View | None, View | None]] | None:
    """A product with its operands as they lie, and what each is multiplied by; None where they cannot be read so."""
    counts = part.extra[1:3], part.extra[3:5]
    reads, sizes, factors = [], [], []
    for v, (near, far) in zip(part.reads, counts, strict=True):
        found = lying.get(v.root)
        made = (v, (1,) * len(v.shape)) if found is None else translated(v, found.view)
        if made is None:
            return None
        cut, of = len(v.shape) - near - far, made[1]
        reads.append(made[0])
        sizes += [sum(of[cut : cut + near]), sum(of[cut + near :])]
        factors.append(found.factor if found is not None else None)
    return part._replace(reads=tuple(reads), extra=(part.extra[0], *sizes)), (factors[0], factors[1])


class Steps(NamedTuple):
    """Of a result of a product where it lies: the (size, step) of the batch, and the steps of rows and of columns."""

    batch: list[tuple[int, int]]
    row: int
    column: int


def stepped(v: View, m: int, n: int) -> Steps | None:
    """Of a view of batch x m x n elements in C order; None where rows or columns have no step."""
    batch, rows, columns = through(v, v.elements // (m * n), m * n), through(v, m, n), through(v, n, 1)
    if batch is None or rows is None or columns is None or len(rows) > 1 or len(columns) > 1:
        return None
    return Steps(batch, rows[0][1], columns[0][1])


def _factored(step: Step) -> Lying | None:
    """What a copy, or a multiplication by one number, makes its result of."""
    if step.name not in ("copy", "map") or not step.writes:
        return None
    out = step.writes[0]
    if not out.contiguous or out.offset or out.dtype != "f32" or len(step.writes) > 1:
        return None
    if step.name == "copy":
        return Lying(step.reads[0], None)
    if len(step.code) != 1 or step.code[0].kernel != "mul_f32":
        return None
    x, y = step.code[0].operands
    if not isinstance(x, View) or not isinstance(y, View) or x.single == y.single:
        return None
    x, y = (y, x) if x.single else (x, y)
    return Lying(x, y._replace(shape=(1,), strides=(1,)))


class InPlace:
    """`storage` is that of a root, `wanted` are roots that are read by more than steps or lie in another's storage."""

    def __init__(self, steps: Sequence[Step], storage: Callable[[int], int], wanted: Collection[int]) -> None:
        self._steps: list[Step | None] = list(steps)
        self._storage, self._wanted = storage, wanted
        self._readers: dict[int, set[int]] = {}
        self._writers: dict[int, set[int]] = {}
        self._reading: dict[int, set[int]] = {}  # storage -> steps
        self._writing: dict[int, set[int]] = {}
        for at, step in enumerate(steps):
            self._count(at, step)

    def made(self) -> list[Step]:
        """The steps, in the same order."""
        sources: dict[int, list[tuple[int, Step]]] = {}
        for at, step in enumerate(self._steps):
            if step is not None and (found := _factored(step)) is not None:
                sources.setdefault(self._storage(found.view.root), []).append((at, step))
        for storage, copies in sources.items():
            self._all_seen(storage, copies)
        for at, step in enumerate(list(self._steps)):
            if step is not None and step.name == "copy":
                self._placed(at, step)
        return [step for step in self._steps if step is not None]

    def _count(self, at: int, step: Step) -> None:
        for of, views in ((self._readers, step.reads), (self._writers, step.writes)):
            for v in views:
                of.setdefault(v.root, set()).add(at)
        for of, views in ((self._reading, step.reads), (self._writing, step.writes)):
            for v in views:
                of.setdefault(self._storage(v.root), set()).add(at)

    def _put(self, at: int, step: Step | None) -> None:
        for of in (self._readers, self._writers, self._reading, self._writing):
            for places in of.values():
                places.discard(at)
        self._steps[at] = step
        if step is not None:
            self._count(at, step)

    def _alone(self, v: View) -> bool:
        """Whether a view is all that is written of a storage which nothing but steps read."""
        own = v.root not in self._wanted and self._storage(v.root) == v.root
        return own and len(self._writing[v.root]) == 1

    def _still(self, v: View, at: int) -> bool:
        """Whether nothing writes a view's storage from a step on."""
        return all(writer < at for writer in self._writing.get(self._storage(v.root), ()))

    def _all_seen(self, storage: int, copies: Sequence[tuple[int, Step]]) -> None:
        """Lets kernels read a storage instead of copies of it, where it lies as long as these anyway or takes no more memory than they do."""
        found = [(at, step) for at, step in copies if self._sees(at, step)]
        roots = {step.writes[0].root for _, step in found}
        copied = sum(step.writes[0].elements for _, step in found)
        size = sum(v.elements for at in self._writing.get(storage, ()) for v in self._at(at).writes if self._storage(v.root) == storage)
        ends = max((at for root in roots for at in self._readers[root]), default=-1)
        if size <= copied or max(self._reading[storage]) >= ends:
            for at, step in found:
                self._seen(at, step)

    def _at(self, at: int) -> Step:
        step = self._steps[at]
        assert step is not None
        return step

    def _sees(self, at: int, step: Step) -> bool:
        """Whether all that read a copy are kernels that may read what it is a copy of."""
        found, out = _factored(step), step.writes[0]
        if found is None or not self._alone(out) or not all(self._still(v, at) for v in found if v is not None):
            return False
        readers = [self._at(reader) for reader in self._readers.get(out.root, ())]
        reading = [p for kernel in readers for p in kernel.parts if any(v.root == out.root for v in p.reads)]
        fits = all(p.name == "matmul" and multiplied(p, {out.root: found}) is not None for p in reading)
        return bool(readers) and fits and all(kernel.name == "attend" for kernel in readers)

    def _seen(self, at: int, step: Step) -> None:
        found, out = _factored(step), step.writes[0]
        assert found is not None
        part = Step("seen", tuple(v for v in found if v is not None), (out,))
        for reader in list(self._readers[out.root]):
            kernel = self._at(reader)
            reads = dict.fromkeys((*(v for v in kernel.reads if v.root != out.root), *part.reads))
            self._put(reader, kernel._replace(reads=tuple(reads), parts=(part, *kernel.parts)))
        self._put(at, None)

    def _placed(self, at: int, step: Step) -> None:
        """Lets the kernel whose result is copied write it there."""
        (read,), (to,) = step.reads, step.writes
        places, factor, gone = _target(read, to), None, [at]
        if places is None or not self._only(read, at):
            return
        root, (maker,) = read.root, self._writers[read.root]
        before = self._at(maker)
        if before.name == "map":
            found = _factored(before)
            if found is None or found.factor is None or not found.view.contiguous or found.view.offset or not self._only(found.view, maker):
                return
            gone.append(maker)
            root, factor, (maker,) = found.view.root, found.factor, self._writers[found.view.root]
        kernel = self._at(maker)
        if kernel.name != "attend" or not self._free(to, maker, at) or (factor is not None and not self._still(factor, maker)):
            return
        part = next((p for p in kernel.parts if p.name == "matmul" and p.writes[0].root == root and p.writes[0] in kernel.writes), None)
        if part is None or part.writes[0].elements != places.elements:
            return
        v, size = part.writes[0], sizes(part)
        if stepped(places, size.m, size.n) is None:
            return
        placed = Step("placed", (v, *([] if factor is None else [factor])), (places,))
        writes = tuple(places if w == v else w for w in kernel.writes)
        reads = dict.fromkeys((*kernel.reads, *([] if factor is None else [factor])))
        self._put(maker, kernel._replace(reads=tuple(reads), writes=writes, parts=(*kernel.parts, placed)))
        for one in gone:
            self._put(one, None)

    def _only(self, v: View, reader: int) -> bool:
        """Whether a storage is written once, and read by one step alone."""
        return len(self._writing.get(v.root, ())) == 1 and self._alone(v) and self._readers[v.root] == {reader}

    def _free(self, to: View, maker: int, at: int) -> bool:
        """Whether a target that is written at `at` may be written at `maker` already."""
        storage = self._storage(to.root)
        parts = all(one.name == "copy" or _lies_in(one, to.root) for one in map(self._at, self._writing[storage]))
        return parts and maker < at and all(reader > at for reader in self._reading.get(storage, ()))


def _lies_in(step: Step, root: int) -> bool:
    return step.name == "attend" and any(found.view.root == root for found in placed_by(step).values())


def _target(read: View, to: View) -> View | None:
    """Where a copy puts the elements of a storage, in their order there; None where it does not copy each of them once."""
    dims, (of, steps) = merged(read.shape, read.strides, to.strides)
    order = sorted(range(len(dims)), key=lambda i: -of[i])
    shape = tuple(dims[i] for i in order)
    if read.offset or tuple(of[i] for i in order) != c_strides(shape):
        return None
    return View(to.root, to.offset, shape, tuple(steps[i] for i in order), to.dtype)
