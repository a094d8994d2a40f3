"""What ranks do together: a REDUCE along an axis that is cut between them, and gathering pieces.

A sum of floats is a sum of integers under a power of two that comes from the largest magnitude (assay.exact.reference), and so is a product
of matrices. So each rank finds its largest exponents; these are compared (one all-reduce, max); each rank rounds its own elements under the
common scale and adds them up in int64; these sums are added (one all-reduce, sum); the total is rounded once. Integer addition and max know no
order, so the bits are those of one device. Products are checked by their checksums (assay.exact.faults) before anything is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from assay.exact import faults, numpy_route, reference
from assay.exact.functions import NAN
from assay.exact.ranks.places import Split
from assay.exact.table import Attr, TensorType

Array = NDArray[Any]
INFINITE = 255
"""Exponent of a set that holds an infinity or a NaN."""


class Comm(Protocol):
    """Between the ranks of one program. All call the same methods in the same order with arrays of the same shapes (but for bytes). Raises
    RankLost when one of them is gone."""

    rank: int
    size: int

    def maximum(self, values: NDArray[np.int32]) -> NDArray[np.int32]:
        """Element by element, over all ranks."""
        ...

    def total(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Element by element, over all ranks, modulo 2^64."""
        ...

    def gather(self, piece: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        """Every rank's bytes, in the order of ranks."""
        ...

    def deal(self, pieces: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
        """Bytes for each rank; what each rank has for this one, in the order of ranks."""
        ...


class RankLost(Exception):
    """A rank died or stopped answering: nothing of the link that was run may be used."""


class Exchange(NamedTuple):
    """`op` on local values `operands`; `whole` is the result's type, `terms` how many elements of all ranks make up one of the result's. Of a
    gather, `split` says how the operand is cut."""

    op: str
    operands: tuple[int, ...]
    result: int
    whole: TensorType
    attrs: Mapping[str, Attr]
    terms: int = 0
    split: Split | None = None


class _Sum(NamedTuple):
    """A REDUCE under way."""

    tops: list[Array]
    """Largest exponents (of `amax`: keys), i32, to be compared."""
    partial: Callable[[Sequence[Array]], Array | None]
    """int64 sums of this rank's elements, given the common exponents."""
    finish: Callable[[Sequence[Array], Array | None], Array]


def perform(exchanges: Sequence[Exchange], operands: Sequence[Sequence[Array]], gemm_bits: int, comm: Comm) -> list[Array]:
    """Results of exchanges that do not depend on each other: at most three calls of the communicator for all of them."""
    sums = {at: _begun(e, args, gemm_bits) for at, (e, args) in enumerate(zip(exchanges, operands, strict=True)) if e.op != "gather"}
    tops = _merged([top for s in sums.values() for top in s.tops], np.int32, comm.maximum)
    common = {at: [next(tops) for _ in s.tops] for at, s in sums.items()}
    partials = {at: s.partial(common[at]) for at, s in sums.items()}
    totals = _merged([p for p in partials.values() if p is not None], np.int64, comm.total)
    results: dict[int, Array] = {at: s.finish(common[at], None if partials[at] is None else next(totals)) for at, s in sums.items()}
    gathers = {at: (e, operands[at][0]) for at, e in enumerate(exchanges) if e.op == "gather"}
    if gathers:
        everyones = comm.gather(np.concatenate([np.asarray(a, order="C").reshape(-1).view(np.uint8) for _, a in gathers.values()]))
        results |= {at: joined for (at, _), joined in zip(gathers.items(), _joined([e for e, _ in gathers.values()], everyones), strict=True)}
    return [results[at] for at in range(len(exchanges))]


def _merged(arrays: Sequence[Array], dtype: Any, call: Callable[[Array], Array]) -> Any:
    """The arrays after one call with all of them."""
    if not arrays:
        return iter(())
    flat = call(np.concatenate([np.asarray(a, dtype).reshape(-1) for a in arrays]))
    ends = np.cumsum([a.size for a in arrays])
    return (flat[end - a.size : end].reshape(a.shape) for a, end in zip(arrays, ends, strict=True))


def _joined(gathers: Sequence[Exchange], everyones: Sequence[NDArray[np.uint8]]) -> list[Array]:
    out = []
    at = [0] * len(everyones)
    for e in gathers:
        sizes = sizes_of(e, len(everyones))
        out.append(joined(e, [data[start : start + size] for data, start, size in zip(everyones, at, sizes, strict=True)]))
        at = [start + size for start, size in zip(at, sizes, strict=True)]
    return out


def sizes_of(gather: Exchange, ranks: int) -> list[int]:
    """Bytes of each rank's piece."""
    assert gather.split is not None
    return [gather.split.of(gather.whole, rank).bytes for rank in range(ranks)]


def joined(gather: Exchange, pieces: Sequence[NDArray[np.uint8]]) -> Array:
    """The whole, of every rank's bytes."""
    assert gather.split is not None
    types = [gather.split.of(gather.whole, rank) for rank in range(len(pieces))]
    arrays = [piece.view(reference.NUMPY[t.dtype]).reshape(t.shape) for piece, t in zip(pieces, types, strict=True)]
    return np.concatenate(arrays, axis=gather.split.axis)


def _begun(e: Exchange, args: Sequence[Array], bits: int) -> _Sum:
    match e.op:
        case "matmul":
            return _product(args[0], args[1], bits)
        case "sum":
            return _total(args[0], e)
        case "amax":
            return _largest(args[0], e)
    return _scattered(args[0], args[1], e)


def _rounded(e: Exchange, top: Array, scale: Array, total: Array) -> Array:
    return np.where(top == INFINITE, NAN, reference.round_scaled(total, -scale)).reshape(e.whole.shape)


def _total(x: Array, e: Exchange) -> _Sum:
    axes = e.attrs["axes"]
    assert isinstance(axes, tuple)
    if x.dtype == np.int64:
        own = np.asarray(x.sum(axis=axes)).reshape(e.whole.shape)
        return _Sum([], lambda _: own, lambda _, total: np.asarray(total))
    bits = reference.sum_bits(e.terms)

    def partial(tops: Sequence[Array]) -> Array:
        return np.asarray(reference.fixed(x, bits + 126 - tops[0]).sum(axis=axes, keepdims=True))

    def finish(tops: Sequence[Array], total: Array | None) -> Array:
        assert total is not None
        return _rounded(e, tops[0], bits + 126 - tops[0], total)

    return _Sum([reference.exponent(x, axes)], partial, finish)


def _largest(x: Array, e: Exchange) -> _Sum:
    axes = e.attrs["axes"]
    assert isinstance(axes, tuple)
    own = reference.key(reference.amax(x, axes, True))  # the key of the one NaN is above all others

    def finish(tops: Sequence[Array], _: Array | None) -> Array:
        (top,) = tops
        return np.asarray(top ^ ((top >> 31) & 0x7FFFFFFF)).astype(np.int32).view(np.float32).reshape(e.whole.shape)

    return _Sum([own], lambda _: None, finish)


def _product(a: Array, b: Array, bits: int) -> _Sum:
    def scales(tops: Sequence[Array]) -> tuple[Array, Array]:
        return bits - 1 + 126 - tops[0], bits - 1 + 126 - tops[1]

    def partial(tops: Sequence[Array]) -> Array:
        sa, sb = scales(tops)
        most = (1 << (bits - 1)) - 1
        for _ in range(2):
            qa, qb = np.clip(reference.fixed(a, sa), -most, most), np.clip(reference.fixed(b, sb), -most, most)
            product = numpy_route.integer_product(qa, qb, bits)
            if numpy_route.agrees(product, qa, qb):
                return product
            faults.seen(1)
        raise faults.HardwareFault

    def finish(tops: Sequence[Array], total: Array | None) -> Array:
        assert total is not None
        sa, sb = scales(tops)
        infinite = (tops[0] == INFINITE) | (tops[1] == INFINITE)
        return np.where(infinite, NAN, reference.round_scaled(total, -(sa + sb)))

    return _Sum([reference.exponent(a, (a.ndim - 1,)), reference.exponent(b, (b.ndim - 2,))], partial, finish)


def _scattered(index: Array, values: Array, e: Exchange) -> _Sum:
    rows, bits = e.whole.shape[0], reference.sum_bits(e.terms)
    own = reference.exponent(values, tuple(range(values.ndim)))

    def partial(tops: Sequence[Array]) -> Array:
        total = np.zeros((rows, prod(values.shape[1:])), np.int64)
        np.add.at(total, np.clip(index, 0, rows - 1), reference.fixed(values, bits + 126 - tops[0]).reshape(len(values), -1))
        return total.reshape(e.whole.shape)

    def finish(tops: Sequence[Array], total: Array | None) -> Array:
        assert total is not None
        top = tops[0].reshape(())
        return _rounded(e, top, bits + 126 - top, total)

    return _Sum([own], partial, finish)
