"""A link as one party has it, with all that the game may ask for opened: the counterpart of assay.dispute.checks.

A `Link` runs its part once, with every value kept in memory, and builds the trees over it when they are asked for. What it says of its
own values is what its owner asserts: the game checks it against the trace that the owner committed to.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from assay import merkle, record_keys, shard, stages
from assay.dispute import checks
from assay.dispute.checks import CHUNK
from assay.dispute.leaf import Need
from assay.dispute.moves import Opening
from assay.dispute.tree import Tree
from assay.exact import numpy_route, reference
from assay.exact.hashing import DTYPES
from assay.exact.types import ITEM_BYTES, TensorType
from assay.execute import check_tensors, counters, zeros
from assay.hearing import ChunkProof, entry_named
from assay.ids import Digest
from assay.job import DatasetRef, data_head, shard_items
from assay.program import Node, Part, Program
from assay.sampling import permute
from assay.stages import NONE
from assay.state import Tensors, dtype_name, tensor_root

Array = NDArray[Any]


def bytes_of(array: Array) -> bytes:
    return np.asarray(array, DTYPES[dtype_name(array)][1]).tobytes()


def chunks_of(array: Array) -> list[bytes]:
    data = bytes_of(array)
    return [data[i : i + CHUNK].ljust(CHUNK, b"\0") for i in range(0, len(data), CHUNK)]


class Tensor:
    """An array with the tree over its chunks."""

    def __init__(self, array: Array) -> None:
        self.array, self.chunks = array, chunks_of(array)
        self.tree = Tree.of(self.chunks)

    def element(self, at: int) -> int:
        size = self.array.dtype.itemsize
        return int.from_bytes(self.chunks[at * size // CHUNK][at * size % CHUNK :][:size], "little")

    def opened(self, at: int, **rest: Any) -> Opening:
        """Opening of an element; `rest` says where the tensor stands."""
        index = at * self.array.dtype.itemsize // CHUNK
        where: dict[str, Any] = {"input": b"", "input_path": (), "count": 0, "entries": Digest(bytes(32)), "path": ()} | rest
        return Opening(**where, chunks=self.tree.root, chunk=self.chunks[index], chunk_path=self.tree.path(index))


class Entries:
    """A set of tensors, by name, with the tree over its entries."""

    def __init__(self, tensors: Mapping[str, Array]) -> None:
        self.roots = {name: tensor_root(tensors[name]) for name in sorted(tensors)}
        self.names = list(self.roots)
        items = [checks.entry(name, root) for name, root in self.roots.items()]
        self.tree = Tree.of(items) if items else None

    @property
    def count(self) -> int:
        return len(self.names)

    @property
    def root(self) -> Digest:
        return self.tree.root if self.tree else merkle.EMPTY

    def path(self, place: int) -> tuple[Digest, ...]:
        assert self.tree is not None
        return self.tree.path(place)


class PartTrees(NamedTuple):
    """A part as the contract sees it, and the trees over its records."""

    part: Part
    encoded: stages.EncodedPart
    inputs: Tree | None
    stages: Tree | None
    outputs: Tree | None


class Data:
    """The records of a job: `shard_of(i)` gives the arrays and the data key of shard i. A party that has the keys of its unit's records alone
    plays with records that were proven one by one (assay.dispute.answers.KeptData, assay.shard.prove)."""

    def __init__(self, dataset: DatasetRef, order: Digest, batch: int, shard_of: Callable[[int], tuple[Tensors, bytes]]) -> None:
        self.dataset, self.order, self.batch = dataset, order, batch
        self.head = data_head(dataset, order, batch)
        self.items = shard_items(dataset)
        self.shards = Tree.of(self.items)
        self._shard_of = shard_of

    def record(self, number: int) -> tuple[int, Digest, bytes, tuple[Digest, ...]]:
        """(shard, salt, bytes, path under the shard's root) of a record."""
        at = next(i for i, item in enumerate(self.items) if sum(struct.unpack(">QQ", item[:16])) > number)
        arrays, key = self._shard_of(at)
        fields = self.dataset.fields
        local = number - struct.unpack(">Q", self.items[at][:8])[0]
        data = b"".join(bytes_of(arrays[field.name][local]) for field in fields)
        return at, record_keys.salt(record_keys.derive(key, local)), data, Tree(shard.record_leaves(fields, arrays, key)).path(local)


class Job:
    """What both sides know of a job before they run a link. Raises BadTensors for frozen tensors that the program does not take."""

    def __init__(self, program: Program, schedule: NDArray[np.float32], data: Data, frozen: Tensors | None = None) -> None:
        self.program, self.data, self.frozen = program, data, frozen or {}
        check_tensors("frozen set", self.frozen, program.frozen)
        self.head = stages.program_head(program)
        self.root = stages.program_root(program)
        self.schedule = Tensor(np.ascontiguousarray(schedule))
        self.constants = {c.name: np.frombuffer(c.data, DTYPES[c.type.dtype][1]).reshape(c.type.shape) for c in program.constants}

    @functools.cached_property
    def schedule_root(self) -> Digest:
        return tensor_root(self.schedule.array)

    @functools.cached_property
    def frozen_entries(self) -> Entries:
        return Entries(self.frozen)

    @functools.cached_property
    def parts(self) -> dict[str, PartTrees]:
        """`micro` and `update`."""
        found = {}
        for name in ("micro", "update"):
            encoded = stages.encode_part(self.program, name)
            found[name] = PartTrees(getattr(self.program, name), encoded, *(Tree.of(items) if items else None for items in encoded))
        return found


class Link:
    """One link: from `state`, `acc` (the zero accumulator where m is 0) and the batch's fields (none for an update).

    `node` is what computes a stage and `end` what the link ends in; a liar's differ. Raises BadTensors for inputs that the program does
    not take.
    """

    def __init__(self, job: Job, step: int, m: int, state: Tensors, acc: Tensors | None, batch: Tensors) -> None:
        self.job, self.step, self.m, self.state = job, step, m, state
        program = job.program
        self.is_update = m == program.micro_batches
        self.trees = job.parts["update" if self.is_update else "micro"]
        check_tensors("state", state, program.state)
        self.acc = acc if acc is not None else {n: state[n] if n in state else zeros(t) for n, t in program.accumulator.items()}
        check_tensors("accumulator", self.acc, program.accumulator)
        self.batch = {} if self.is_update else {name: batch[name] for name in program.batch}
        self.sets = {"state": Entries(state), "acc": Entries(self.acc), "batch": Entries(self.batch), "frozen": job.frozen_entries}
        self._tensors: dict[int, Tensor] = {}

    # ---- values ----------------------------------------------------------------------------------------------------------

    def node(self, at: int, node: Node, args: Sequence[Array]) -> Array:
        """The output of stage `at`."""
        if node.op == "matmul":
            return numpy_route.matmul(args[0], args[1], self.job.program.gemm_bits)
        return np.asarray(reference.apply(node.op, node.attrs, args, node.type.dtype, self.job.program.gemm_bits))

    def inputs(self) -> list[Array]:
        """Values of the part's inputs."""
        job, given = self.job, {"state": self.state, "acc": self.acc, "batch": self.batch, "constant": self.job.constants, "frozen": self.job.frozen}
        given["counter"] = counters(self.step, self.m)
        given["scalar"] = {n: job.schedule.array[self.step, i] for i, n in enumerate(job.program.scalars)}
        return [np.asarray(given[i.kind][i.name]) for i in self.trees.part.inputs]

    @functools.cached_property
    def values(self) -> list[Array]:
        """All values of the part: inputs, then stages."""
        values = self.inputs()
        with np.errstate(all="ignore"):
            for at, node in enumerate(self.trees.part.nodes):
                values.append(self.node(at, node, [values[v] for v in node.inputs]))
        return values

    @functools.cached_property
    def end(self) -> Tensors:
        """The accumulator after the link, or the state."""
        made = {o.name: self.values[o.value] for o in self.trees.part.outputs}
        return self.state | made if self.is_update else made

    def tensor(self, value: int) -> Tensor:
        if value not in self._tensors:
            self._tensors[value] = Tensor(self.values[value])
        return self._tensors[value]

    # ---- roots -----------------------------------------------------------------------------------------------------------

    @functools.cached_property
    def ends(self) -> Entries:
        return Entries(self.end)

    @functools.cached_property
    def end_root(self) -> Digest:
        if self.is_update:
            return checks.state_hash(self.step + 1, self.ends.count, self.ends.root)
        return checks.acc_hash(self.step, self.m + 1, self.ends.count, self.ends.root)

    @property
    def batch_root(self) -> Digest:
        return checks.batch_hash(self.sets["batch"].count, self.sets["batch"].root)

    @functools.cached_property
    def contents(self) -> list[Digest]:
        """Contents of the leaves of the trace (docs/protocol.md)."""
        state, acc = self.sets["state"], self.sets["acc"]
        head = merkle.sha256(
            struct.pack(">B32sBQI", 0x14, self.job.root, self.is_update, self.step, self.m),
            checks.state_hash(self.step, state.count, state.root),
            checks.acc_hash(self.step, self.m, acc.count, acc.root) if self.m else bytes(32),
            self.batch_root,
            self.job.schedule_root,
        )
        return [head, *(tensor_root(v) for v in self.values[len(self.trees.part.inputs) :]), self.end_root]

    @functools.cached_property
    def trace(self) -> Tree:
        return Tree.of(self.contents)

    # ---- openings --------------------------------------------------------------------------------------------------------

    def read(self, stage: stages.Stage, need: Need) -> int:
        """Bits of an element of a stage's operand, as this party has it."""
        return self.tensor(stage.operands[need.operand][0]).element(need.element)

    def opening(self, stage: stages.Stage, need: Need) -> Opening:
        return self.open_value(stage.operands[need.operand][0], need.element)

    def open_value(self, value: int, element: int) -> Opening:
        inputs = len(self.trees.part.inputs)
        if value >= inputs:
            return self.tensor(value).opened(element, path=self.trace.path(1 + value - inputs))
        assert self.trees.inputs is not None
        record = stages.decode_input(self.trees.encoded.inputs[value])
        given: dict[str, Any] = {"input": self.trees.encoded.inputs[value], "input_path": self.trees.inputs.path(value)}
        if record.kind == stages.KINDS["scalar"]:
            return self.job.schedule.opened(self.step * len(self.job.program.scalars) + record.place, **given)
        kind, place = self.where(record)
        if kind in self.sets:
            given |= {"count": self.sets[kind].count, "entries": self.sets[kind].root, "path": self.sets[kind].path(place)}
        return self.tensor(value).opened(element, **given)

    def where(self, record: stages.InputRecord) -> tuple[str, int]:
        """The set and the place that an input is read from; another word where it is in none."""
        kind = next(name for name, code in stages.KINDS.items() if code == record.kind)
        if kind == "acc" and not self.m:
            start = int.from_bytes(record.extra, "big")
            return ("zeros", 0) if start == NONE else ("state", start)
        return kind, record.place

    def record(self, field: str, element: int) -> tuple[int, Digest, bytes, tuple[Digest, ...]]:
        """The record (Data.record) that an element of the batch comes from."""
        t, data = self.job.program.batch[field], self.job.data
        records, first = data.dataset.records, (self.step * self.job.program.micro_batches + self.m) * data.batch
        epoch, at = divmod(first + element // (t.elements // data.batch), records)
        return data.record(permute(data.order, epoch, records, at))


def chunk_proof(tensors: Tensors, rest: int, end_path: tuple[Digest, ...]) -> ChunkProof:
    """Shows the chunk of a link's end that `rest` names (assay.hearing)."""
    entries = Entries(tensors)
    if not entries.count:
        return ChunkProof(end_path=end_path, count=0, entries=entries.root)
    place, rest = entry_named(rest, entries.count)
    name = entries.names[place]
    tensor, t = Tensor(tensors[name]), TensorType(dtype=dtype_name(tensors[name]), shape=tensors[name].shape)
    shown = ChunkProof(
        end_path=end_path, count=entries.count, entries=entries.root, name=name.encode(), kind=stages.encode_type(t), chunks=tensor.tree.root,
        entry_path=entries.path(place),
    )  # fmt: skip
    index = rest % len(tensor.chunks)
    return msgspec.structs.replace(shown, chunk=tensor.chunks[index], chunk_path=tensor.tree.path(index))


def element_at(array: Array, chunk: int, ours: bytes, theirs: bytes) -> int | None:
    """The first element of chunk `chunk` in which two chunks differ."""
    size = ITEM_BYTES[dtype_name(array)]
    return next((chunk * CHUNK // size + at // size for at in range(0, CHUNK, size) if ours[at : at + size] != theirs[at : at + size]), None)
