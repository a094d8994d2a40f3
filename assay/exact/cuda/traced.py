"""A trace on a device: after which steps which results are hashed, of those that are there as a whole or slice by slice (assay.exact.slices).

A slice is the next piece of its node's bytes, in C order. Its whole chunks are hashed at once, and the hashes are kept; what is left of a
chunk is carried to the next slice, in front of which it is put then. After the last slice the tree is made of the hashes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from assay.exact import hashing
from assay.exact.arena import Arena
from assay.exact.cuda.device import Buffer, Device
from assay.exact.cuda.maps import Kernels
from assay.exact.cuda.tape import Tape
from assay.exact.cuda.trees import HASH, Piece, Trees, pads_on, work_bytes
from assay.exact.hashing import CHUNK
from assay.exact.slices import Sliced
from assay.exact.views import View
from assay.ids import Digest
from assay.program import Part

ALIGN = 256
Work = Callable[[], object]


class _Grown(NamedTuple):
    """A node's result whose slices come one after the other: where the hashes of its chunks are, what is carried behind them, and how far it is."""

    at: int
    chunks: int
    done: int = 0
    carried: int = 0
    left: int = 0

    @property
    def size(self) -> int:
        return _aligned(HASH * self.chunks + CHUNK)

    @property
    def carry(self) -> int:
        """Relative to what the hashes are relative to."""
        return self.at + HASH * self.chunks


class _Stage(NamedTuple):
    """What is hashed after the same step, with places relative to the memory that all stages share."""

    ready: int
    """Steps that have run then."""
    nodes: list[int]
    """Whose roots are there then: first those of `tensors`, then those of `grown`."""
    packed: list[tuple[View, int]]
    """Views that are copied in C order, and where to."""
    carried: list[tuple[int, int, int]]
    """Copies of (bytes of packed memory, place among the hashes, size) that go in front of what was packed."""
    kept: list[tuple[View | int, int, int, int]]
    """What is carried on: a view in its place, or where it was packed; byte offset from there, place among the hashes, size."""
    tensors: list[tuple[View | int, int]]
    grown: list[tuple[int, int]]
    pieces: list[tuple[View | int, Piece]]


class Traced:
    """The results of all nodes of `part`, as those of another part make them (`sliced`, whose makers are theirs), which `tape` runs at `bases`."""

    def __init__(
        self, part: Part, sliced: Sliced, tape: Tape, bases: Mapping[str, Sequence[int]], device: Device, kernels: Kernels
    ) -> None:  # fmt: skip
        self._part, self._device = part, device
        self._packed_end, self._work_end = 0, 0
        self._hashes = Arena()
        stages = self._planned(sliced, tape)
        self._held: list[Buffer] = [device.allocate(size + 1) for size in (self._packed_end, self._work_end, self._hashes.end)]
        packed, work, hashes = self._held
        pads = pads_on(device)
        self.stages: list[tuple[int, list[Work]]] = []
        """Steps that have run, and what is done then."""
        self._trees: list[tuple[list[int], Trees]] = []
        """Of all stages, since their launches read what these hold, with the nodes whose roots they have."""

        def address(where: View | int) -> int:
            return packed.address + where if isinstance(where, int) else tape.place(where, bases)

        for stage in stages:
            trees = Trees(
                device, kernels, [(address(where), size) for where, size in stage.tensors], work,
                [(hashes.address + at, size) for at, size in stage.grown],
                [piece._replace(address=address(where) + piece.address, to=hashes.address + piece.to) for where, piece in stage.pieces], pads,
            )  # fmt: skip
            todo: list[Work] = []
            for v, to in stage.packed:
                todo += self._copied(tape, v, tape.place(v, bases), packed.address + to)
            todo += [partial(device.copy, packed.address + to, hashes.address + at, size) for to, at, size in stage.carried]
            todo += [partial(device.launch, launch) for launch in trees.launches]
            todo += [partial(device.copy, hashes.address + to, address(where) + at, size) for where, at, to, size in stage.kept]
            self.stages.append((stage.ready, todo))
            self._trees.append((stage.nodes, trees))

    def _copied(self, tape: Tape, v: View, of: int, to: int) -> list[Work]:
        if v.contiguous:
            return [partial(self._device.copy, to, of, v.elements * v.item)]
        return [partial(self._device.launch, launch) for launch in tape.pack(v, of, to)]

    def roots(self) -> list[Digest]:
        """Of all nodes, in the program's order, after the last stage."""
        found = {node: chunk for nodes, trees in self._trees for node, chunk in zip(nodes, trees.roots(), strict=True)}
        types = (node.type for node in self._part.nodes)
        return [hashing.headed_as(t.dtype, t.shape, found[at]) for at, t in enumerate(types)]

    def _planned(self, sliced: Sliced, tape: Tape) -> list[_Stage]:
        of = {by: node for node, makers in enumerate(sliced.makers) for by in makers}
        made: list[tuple[int, dict[int, int]]] = []
        """Steps that have run, and the nodes of the program with those that make them; one slice of a node at a time."""
        for by in sorted(of):
            ready = tape.plan.ready[by]
            if not made or made[-1][0] != ready or of[by] in made[-1][1]:
                made.append((ready, {}))
            made[-1][1][of[by]] = by
        growing: dict[int, _Grown] = {}
        first = len(sliced.part.inputs)
        stages = []
        for ready, results in made:
            stage, end, over = _Stage(ready, [], [], [], [], [], [], []), 0, list[_Grown]()
            ended: list[int] = []
            for node, by in results.items():
                v = tape.plan.views[first + by]
                size, whole = v.elements * v.item, self._part.nodes[node].type.bytes
                if len(sliced.makers[node]) == 1:
                    where: View | int = v
                    if not v.contiguous:
                        where, end = end, end + _aligned(size)
                        stage.packed.append((v, where))
                    stage.tensors.append((where, size))
                    stage.nodes.append(node)
                    continue
                grown = growing.get(node) or self._begun(whole)
                where = v
                if grown.carried or not v.contiguous:
                    where, end = end, end + _aligned(CHUNK + size)
                    stage.packed.append((v, where + grown.carried))
                    if grown.carried:
                        stage.carried.append((where, grown.carry, grown.carried))
                there, left = grown.carried + size, grown.left - size
                hashed = there if not left else there // CHUNK * CHUNK
                if not left and grown.chunks == 1:
                    stage.tensors.append((where, whole))
                    stage.nodes.append(node)
                elif hashed:
                    stage.pieces.append((where, Piece(0, hashed, grown.at + HASH * grown.done, grown.done)))
                if there > hashed:
                    stage.kept.append((where, hashed, grown.carry, there - hashed))
                if left:
                    growing[node] = grown._replace(done=grown.done + hashed // CHUNK, carried=there - hashed, left=left)
                else:
                    over.append(grown)
                    if grown.chunks > 1:
                        stage.grown.append((grown.at, whole))
                        ended.append(node)
            stage.nodes.extend(ended)
            self._packed_end = max(self._packed_end, end)
            self._work_end = max(self._work_end, work_bytes([size for _, size in (*stage.tensors, *stage.grown)]))
            for grown in over:  # only now: the trees of this stage are made of them
                self._hashes.give(grown.at, grown.size)
            stages.append(stage)
        return stages

    def _begun(self, size: int) -> _Grown:
        grown = _Grown(0, -(-size // CHUNK), left=size)
        return grown._replace(at=self._hashes.take(grown.size))


def _aligned(size: int) -> int:
    return -(-size // ALIGN) * ALIGN
