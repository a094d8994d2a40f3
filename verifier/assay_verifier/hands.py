"""The verifier's hands: what its machine asks for, done with keys, blobs, the chain and the engine.

It decrypts the boundary states that were served to it and, of the data, the records of the drawn micro-batches and no others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from assay import bundles, disputing, draw, hands, links, merkle, reads, threshold
from assay.chain import Opening
from assay.engine import MAX_BOUNDARY, LinkReplayed, ReplayLink
from assay.ids import Digest
from assay.job import Field, ShardRef
from assay.ports import Chain, Outage
from assay.record_keys import RecordKeys, ShardKey
from assay.runtime import Fault, Note, TaskFailed
from assay.tasks import (
    AnyOutcome,
    AnyTask,
    BoundaryOpened,
    CheckProgram,
    CheckRecords,
    Dropped,
    DropSegment,
    GatherKey,
    GatherRecords,
    LoadJob,
    MakeMove,
    MakeOpenings,
    OpenBoundary,
    OpeningsMade,
    RecordsChecked,
    RecordsGathered,
    ReplayUnit,
    SayUnserved,
    ServeNodes,
    Signed,
    SignReceipt,
    SignSeal,
    StoreKey,
    UnitReplayed,
)
from assay.workshop import Workshop, quietly, write_atomically


class VerifierHands:
    """Implements assay.daemon.Hands."""

    def __init__(self, workshop: Workshop, chain: Chain) -> None:
        self.shop, self.chain = workshop, chain

    async def perform(self, task: AnyTask, note: Callable[[Note], None]) -> AnyOutcome:
        """Raises TaskFailed, or Outage when it is worth trying again at once."""
        try:
            return await self._perform(task)
        except OSError as error:
            raise TaskFailed(Fault.OWN, f"file trouble: {error}; free some disk, or check the rights of {self.shop.root}") from None

    async def _perform(self, task: AnyTask) -> AnyOutcome:
        match task:
            case LoadJob():
                return await self.shop.load_job(task)
            case CheckProgram():
                return await self.shop.check_program(task)
            case StoreKey():
                return self.shop.store_key(task)
            case CheckRecords():
                return await self._check_records(task)
            case GatherKey():
                return self.shop.gather_key(task)
            case GatherRecords():
                return await self._gather_records(task)
            case OpenBoundary():
                return await self._open_boundary(task)
            case SignReceipt():
                return Signed(signature=self.chain.sign_receipt(task.segment, task.round))
            case SignSeal():
                return Signed(signature=self.chain.sign_seal(task.segment, task.round, task.digest))
            case ReplayUnit():
                return await self._replay(task)
            case SayUnserved():
                return self._unserved(task)
            case MakeOpenings():
                return await self._openings(task)
            case MakeMove():
                return await disputing.make_move(self.shop, self.chain, task, self.shop.open_folder(task.segment, task.spec), None)
            case ServeNodes():
                folder = self.shop.open_folder(task.place.segment, task.place.spec)
                return await disputing.serve_nodes(self.shop, self.chain, task, folder, None)
            case DropSegment():
                await self.shop.drop(task.segment)
                return Dropped()
            case _:
                raise TaskFailed(Fault.OWN, f"a verifier does not do {type(task).__name__}")

    async def _gather_records(self, task: GatherRecords) -> RecordsGathered:
        """Raises TaskFailed (PEER) for masks that are none."""
        ref, wanted = hands.shared_shard(await self.shop.spec(task.spec), task)
        masks = await hands.stored(self.shop.blobs, threshold.masks_ref(ref.sealed.envelope, ref.records)[0])
        return await asyncio.to_thread(hands.gather_records, self.shop.keys, ref, wanted, masks, task)

    async def _check_records(self, task: CheckRecords) -> RecordsChecked:
        """Raises TaskFailed (PEER) for a shard that is not what its owner says, whatever it is opened with."""
        from assay import seal, shard

        spec = await self.shop.spec(task.spec)
        missing: list[Digest] = []
        false: dict[Digest, str] = {}
        for number, wanted in reads.records(reads.reading(spec), task.places).items():
            ref = spec.dataset.shards[number]
            try:
                key = self.shop.keys.shard_key(ref.sealed.key_id)
            except KeyError:
                missing.append(ref.sealed.key_id)
                continue
            if bundles.lacks(key, wanted):
                missing.append(ref.sealed.key_id)
                continue
            sealed = await hands.stored(self.shop.blobs, ref.sealed.cid)
            try:
                await asyncio.to_thread(_read, ref, spec.dataset.fields, sealed, key, wanted)
            except seal.WrongKey as error:
                false[ref.sealed.key_id] = str(error)
            except shard.BadShard as error:
                raise TaskFailed(Fault.PEER, str(error)) from None
        return RecordsChecked(missing=tuple(dict.fromkeys(missing)), false=tuple(false.items()))

    async def _open_boundary(self, task: OpenBoundary) -> BoundaryOpened:
        from assay import seal, state

        boundary = task.boundary
        sealed, key = await hands.stored(self.shop.blobs, boundary.cid), self.shop.key(boundary.key_id)
        folder = self.shop.folder(task.segment)
        folder.mkdir(exist_ok=True, mode=0o700)

        def read() -> None:
            plaintext = seal.unseal(sealed, key)
            state.from_bytes(plaintext, MAX_BOUNDARY)
            write_atomically(folder / f"boundary-{task.unit}.safetensors", plaintext)

        try:
            await asyncio.to_thread(read)
        except (seal.SealError, state.BadTensors) as error:
            raise TaskFailed(Fault.PEER, f"what was served does not open: {error}") from None
        return BoundaryOpened(segment=task.segment, unit=task.unit)

    async def _replay(self, task: ReplayUnit) -> UnitReplayed:
        spec = await self.shop.spec(task.spec)
        folder = self.shop.open_folder(task.segment, task.spec)
        offset, m = links.place(task.unit, spec.micro_batches)
        step = task.start + offset
        if m < spec.micro_batches:
            await self.shop.put_batch(folder, spec, task.unit, step, m)
        ends = list(task.boundary.link_ends)
        replay = ReplayLink(
            job=await self.shop.job_files(task.spec, spec), segment=folder.name, unit=task.unit, step=step, m=m,
            state_end=ends[0] if offset else task.parent_root, acc_end=ends[-2] if m else Digest(b""), end=ends[-1], leaves=task.leaves,
            again=task.again,
        )  # fmt: skip
        found = await self.shop.engine.run(replay, self.shop.root, quietly)
        assert isinstance(found, LinkReplayed)
        return UnitReplayed(
            segment=task.segment, unit=task.unit, agrees=found.agrees, trace_root=found.trace_root, reason=found.reason,
            milliseconds=found.milliseconds, proven=found.proven,
        )  # fmt: skip

    def _unserved(self, task: SayUnserved) -> UnitReplayed:
        folder = self.shop.folder(task.segment)
        folder.mkdir(exist_ok=True, mode=0o700)
        leaves = [Digest(bytes(32))] * task.leaves
        write_atomically(folder / f"trace-{task.unit}.bin", b"".join(leaves))
        return UnitReplayed(
            segment=task.segment, unit=task.unit, agrees=False, trace_root=merkle.root_of(leaves), reason="it was not served"
        )  # fmt: skip

    async def _openings(self, task: MakeOpenings) -> OpeningsMade:
        """Raises Outage until the opening block is there and the next one may carry the openings."""
        head = await self.chain.head()
        if head.number <= task.opening_block:
            raise Outage(f"block {task.opening_block}, which draws the openings, is not there yet")
        block_hash = await self.chain.block_hash(draw.seed_block(task.opening_block, head.number + 1))
        return OpeningsMade(
            openings=tuple(
                self._opening(self.shop.folder(task.segment), *self._drawn(block_hash, j, task)) for j in range(task.terms.params.openings)
            )
        )

    def _drawn(self, block_hash: Digest, j: int, task: MakeOpenings) -> tuple[int, int]:
        """(unit, leaf) of opening j."""
        position, leaf = draw.opening(block_hash, task.segment, self.chain.account, j, task.units, task.terms)
        return task.units[position], leaf

    @staticmethod
    def _opening(folder: Path, unit: int, leaf: int) -> Opening:
        data = (folder / f"trace-{unit}.bin").read_bytes()
        leaves = [Digest(data[at : at + 32]) for at in range(0, len(data), 32)]
        proof = merkle.prove([merkle.leaf(i, content) for i, content in enumerate(leaves)], leaf)
        return Opening(leaf=leaves[leaf], proof=proof)


def _read(ref: ShardRef, fields: tuple[Field, ...], sealed: bytes, key: ShardKey, wanted: tuple[int, ...]) -> None:
    """Opens what is to be checked of a shard. Raises shard.BadShard, seal.WrongKey."""
    from assay import shard

    if isinstance(key, RecordKeys):
        shard.read_records(ref, fields, sealed, key, wanted)
    else:
        shard.read_shard(ref, fields, sealed, key)
