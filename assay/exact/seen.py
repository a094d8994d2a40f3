"""The roots of a trace, of results that are there as a whole or slice by slice (assay.exact.slices), each hashed while it is there.

A reshape has the bytes of its operand: what lies in one piece is hashed once, under its storage, place and size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.exact import hashing
from assay.exact.views import View
from assay.ids import Digest
from assay.program import Part

Array = NDArray[Any]
Key = tuple[int, int, int]


class Seen:
    """Roots of the results of a part's nodes, hashed with `threads` native threads."""

    def __init__(self, part: Part, threads: int) -> None:
        self._part, self._threads = part, threads
        self._known: dict[Key, Digest] = {}
        self._begun: dict[int, hashing.Chunks] = {}
        """Node -> what there is of its root, until there is all."""
        self._hashes: dict[Key, tuple[int, Array]] = {}
        """Of the slices that are there now: number of the first chunk, and hashes of them all."""
        self._piece = 0

    def root(self, v: View, result: Array) -> Digest:
        """Of a result that is there as a whole, at `v`."""
        if not v.contiguous:
            return hashing.tensor_root(result, self._threads)
        key = (v.root, v.offset, v.elements)
        if key not in self._known:
            self._known[key] = hashing.chunk_root(result, self._threads)
        return hashing.headed(result, self._known[key])

    def piece(self, node: int, piece: int, v: View, result: Array) -> Digest | None:
        """Takes in the next slice of a node's result, number `piece`, at `v`; gives the root of the whole with the last one."""
        t = self._part.nodes[node].type
        if piece != self._piece:
            self._piece = piece
            self._hashes.clear()
        chunks = self._begun.setdefault(node, hashing.Chunks(t.bytes)) if not piece else self._begun[node]
        key, first, even = (v.root, v.offset, v.elements), chunks.done, chunks.even
        known = self._hashes.get(key)
        if known is not None and v.contiguous and even and known[0] == first:
            chunks.repeat(known[1], result.nbytes)
        else:
            hashes = chunks.add(np.asarray(result, order="C"), self._threads)
            if v.contiguous and even and chunks.even:
                self._hashes[key] = first, hashes.copy()
        if chunks.left:
            return None
        return hashing.headed_as(t.dtype, t.shape, self._begun.pop(node).root())
