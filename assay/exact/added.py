"""Sums that are made where one of their terms is stored: a product, a sum along an axis or a scatter-add whose result is only added to something
that is there already.

A gradient dW is added to its accumulator, and what a layer makes to what it was given. Done in a step by itself, the term is written, then read. The
kernel that rounds it may as well add: the term is rounded to f32, and the sum once more, as before, so the bits are the same.

Such a step reads what is added behind its own operands, writes the sum, and has the addition as its `code`; the step as it was is its first part.
This is for devices, comes after everything that looks at products, and before values have places. What is added has to be there when the step
runs, and where the sum is to be, nothing else may write.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from assay.exact.rows import Rows, whole_rows
from assay.exact.steps import Instruction, Step
from assay.exact.views import View, whole

TERMS = ("matmul", "sum", "scatter_add")


def addend(step: Step) -> View | None:
    """What a step adds to what it makes, if it adds something."""
    return step.reads[-1] if step.code and step.name in TERMS else None


def addends(step: Step) -> dict[int, View]:
    """What a step adds to what it makes, by the root of the sum; of several sums, too (assay.exact.columns)."""
    code = step.code if step.name in (*TERMS, "columns") else ()
    return {i.result: v for i in code for v in i.operands if isinstance(v, View)}


def added_at(step: Step, at: Callable[[View], int]) -> int:
    """Address of what a step adds, 0 where it adds nothing."""
    v = addend(step)
    return at(v) if v is not None else 0


def alone(step: Step) -> Step:
    """A step as it was before it added."""
    return step.parts[0] if step.code and step.name in TERMS else step


class Added:
    """`storage` is that of a root, `wanted` are roots that are read by more than steps or lie in another's storage."""

    def __init__(self, steps: Sequence[Step], storage: Callable[[int], int], wanted: Collection[int]) -> None:
        self._steps: list[Step | None] = list(steps)
        self._storage, self._wanted = storage, wanted
        self._makers: dict[int, list[int]] = {}
        self._readers: dict[int, set[int]] = {}
        self._writing: dict[int, list[int]] = {}
        for at, step in enumerate(steps):
            for v in step.writes:
                self._makers.setdefault(v.root, []).append(at)
                self._writing.setdefault(storage(v.root), []).append(at)
            for v in step.reads:
                self._readers.setdefault(v.root, set()).add(at)

    def made(self) -> list[Step]:
        """The steps, in the same order."""
        for at, step in enumerate(list(self._steps)):
            if step is None:
                continue
            if step.name == "map" and len(step.code) == 1:
                self._by_itself(at, step)
            elif step.name == "rows" and len(step.parts[0].code) == 1:
                self._among_rows(at, step)
        return [step for step in self._steps if step is not None]

    def _by_itself(self, at: int, step: Step) -> None:
        out = step.writes[0]
        if self._moved(at, step.code[0], out) is not None:
            self._steps[at] = None

    def _among_rows(self, at: int, step: Step) -> None:
        """A kernel over rows that begins with the addition then reads the sum."""
        first, rows = step.parts[0], Rows(*step.extra)
        (i,) = first.code
        out = whole_rows(i.result, rows, i.dtype)
        if first.writes != (out,) or len(step.parts) < 2:
            return
        gone = self._moved(at, i, out)
        if gone is None:
            return
        rest = step.parts[1:]
        still = {v for part in rest for v in part.reads}
        reads = [v for v in step.reads if v not in first.reads or v in still]
        made = step._replace(reads=tuple(dict.fromkeys((out, *reads))), writes=tuple(v for v in step.writes if v != out), parts=rest)
        self._steps[at] = made
        self._readers.setdefault(out.root, set()).add(at)
        for v in first.reads:
            if all(w.root != v.root for w in made.reads):
                self._readers[v.root].discard(at)

    def _moved(self, at: int, i: Instruction, out: View) -> View | None:
        """Lets the maker of one term add the other, and write `out`; the term, or None where neither can."""
        if i.kernel != "add_f32" or i.dtype != "f32" or len(self._writing.get(self._storage(out.root), ())) != 1:
            return None
        for term, other in (i.operands, i.operands[::-1]):
            if not isinstance(term, View) or not isinstance(other, View) or term.root == other.root:
                continue
            maker = self._maker(term, at, out.elements)
            if maker is None or not other.contiguous or other.elements != out.elements or not self._there(other, maker):
                continue
            step = self._steps[maker]
            assert step is not None
            to, more = whole(out.root, (out.elements,), "f32"), other._replace(shape=(other.elements,), strides=(1,))
            code = (Instruction("add_f32", out.root, "f32", (term.root, more)),)
            self._steps[maker] = step._replace(reads=(*step.reads, more), writes=(to,), code=code, parts=(step, *step.parts))
            self._makers[out.root] = self._writing[self._storage(out.root)] = [maker]
            self._readers.setdefault(other.root, set()).add(maker)
            return term
        return None

    def _maker(self, term: View, at: int, elements: int) -> int | None:
        """The one step that makes a term which is read here alone, if that can add."""
        makers, root = self._makers.get(term.root, []), term.root
        alone_there = self._storage(root) == root and root not in self._wanted and len(self._writing.get(root, ())) == 1
        if len(makers) != 1 or not alone_there or self._readers.get(root) != {at}:
            return None
        step = self._steps[makers[0]]
        if step is None or step.name not in TERMS or step.code or step.writes[0].dtype != "f32":
            return None
        return makers[0] if term.contiguous and not term.offset and term.elements == elements == step.writes[0].elements else None

    def _there(self, v: View, maker: int) -> bool:
        """Whether all of a value is written before a step, and nothing is written over it afterwards."""
        return all(one < maker for one in self._writing.get(self._storage(v.root), ()))
