"""The work folder of a worker or verifier: puts what the engine needs there, in the clear, and takes it away again.

    job-<cid of its document>/   program, schedule and frozen tensors; removed with the last segment of the job
    segment-<number>/            states, records, boundaries, traces (assay.engine); removed with the segment
    published-<job>              CIDs of the checkpoints that this node has published; `segment-<number>/published` those of boundaries

Nothing else on the node holds decrypted data. Whatever is found wrong is named with the one whose fault it is: a shard or checkpoint
that does not open with its published key is its publisher's (PEER), a missing key or a full disk is this node's (OWN).

NumPy and what needs it is imported when there is work, so that a daemon that waits stays small.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from assay import hands, reads
from assay.codec import Message, encode
from assay.engine import CheckFile, FileChecked, JobFiles, KeptRecord
from assay.ids import Cid, Digest, JobId, SegmentId
from assay.job import JobSpec, SealedRef
from assay.ports import Blobs, Engine, Keys, Outage
from assay.record_keys import ShardKey
from assay.runtime import Fault, TaskFailed
from assay.tasks import CheckProgram, GatherKey, JobLoaded, KeyGathered, KeyStored, LoadJob, ProgramChecked, StoreKey

MAX_MEMORY = 1 << 36
MAX_FLOPS = 1 << 50


def quietly(_: Message) -> None:
    """For tasks whose progress nobody watches."""


class Workshop:
    """`root` is this node's alone (0700). `max_memory` in bytes, `max_flops` in operations of one link; `disk`: bytes of files that states may
    lie in where memory is short, 0 for none."""

    def __init__(
        self, root: Path, blobs: Blobs, keys: Keys, engine: Engine, threads: int = 1, max_memory: int = MAX_MEMORY, max_flops: int = MAX_FLOPS,
        disk: int = 0,
    ) -> None:  # fmt: skip
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.root, self.blobs, self.keys, self.engine, self.threads = root, blobs, keys, engine, threads
        self.max_memory, self.max_flops, self.disk = max_memory, max_flops, disk
        self._specs: dict[Cid, JobSpec] = {}

    # ---- jobs ------------------------------------------------------------------------------------------------------------

    async def load_job(self, task: LoadJob) -> JobLoaded:
        from assay import shard

        loaded = await hands.load_job(self.blobs, task)
        try:
            shard.check_dataset(loaded.spec.dataset)
            check_spec(loaded.spec)
        except ValueError as error:
            raise TaskFailed(Fault.PEER, f"job {task.job}: its document is refused: {error}") from None
        return loaded

    async def spec(self, cid: Cid) -> JobSpec:
        """The document of a job that was loaded before."""
        if cid not in self._specs:
            loaded = await hands.load_job(self.blobs, LoadJob(job=0, spec=cid))  # type: ignore[arg-type]
            self._specs = {cid: loaded.spec}
        return self._specs[cid]

    async def check_program(self, task: CheckProgram) -> ProgramChecked:
        """In the engine: the program is a stranger's."""
        name = f"program-{task.job}"
        folder = self.root / name
        folder.mkdir(exist_ok=True)
        try:
            (folder / "program.json").write_bytes(await hands.stored(self.blobs, task.program))
            check = CheckFile(folder=name, memory=self.max_memory, flops=self.max_flops, threads=self.threads, disk=self.disk)
            checked = await self.engine.run(check, self.root, quietly)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        assert isinstance(checked, FileChecked)
        if problem := mismatch(await self.spec(task.spec), checked):
            raise TaskFailed(Fault.PEER, f"its program does not fit its document: {problem}")
        return ProgramChecked(
            job=task.job, root=checked.root, micro_flops=checked.micro_flops, update_flops=checked.update_flops,
            peak_memory=checked.peak_memory, micro_leaves=checked.micro_leaves, update_leaves=checked.update_leaves,
            frozen_root=checked.frozen_root, on_disk=checked.on_disk,
        )  # fmt: skip

    async def job_files(self, cid: Cid, spec: JobSpec) -> JobFiles:
        """Program, schedule and frozen tensors of a job, in its folder: put there once, for all its segments."""
        name = f"job-{cid}"
        folder = self.root / name
        folder.mkdir(exist_ok=True, mode=0o700)
        for file, blob in (("program.json", spec.program), ("schedule.bin", spec.schedule)):
            if not (folder / file).exists():
                write_atomically(folder / file, await hands.stored(self.blobs, blob))
        for ref in spec.frozen_blobs:
            if not (folder / "frozen.safetensors").exists():
                write_atomically(folder / "frozen.safetensors", await self.unsealed(ref, "the job's frozen tensors: "))
        return JobFiles(
            folder=name, program_root=spec.program_root, schedule_root=spec.schedule_root, scalars=len(spec.scalars),
            micro_batches=spec.micro_batches, batch=spec.batch, order=spec.order, threads=self.threads, memory=self.max_memory, disk=self.disk,
            fields=tuple(field.name for field in spec.dataset.fields), shard_records=tuple(s.records for s in spec.dataset.shards),
        )  # fmt: skip

    # ---- keys ------------------------------------------------------------------------------------------------------------

    def store_key(self, task: StoreKey) -> KeyStored:
        """Raises TaskFailed (PEER) when it is not the one it is said to be."""
        return hands.store_key(self.keys, task)

    def gather_key(self, task: GatherKey) -> KeyGathered:
        """Raises TaskFailed (PEER) when the shares are true and the key is another one."""
        return hands.gather_key(self.keys, task)

    def key(self, key_id: Digest) -> bytes:
        try:
            return self.keys.load(key_id)
        except KeyError:
            raise TaskFailed(Fault.OWN, f"key {key_id.hex()[:16]}… was here and is gone: is the data folder of this node whole?") from None

    def shard_key(self, key_id: Digest) -> ShardKey:
        """What is here to read a shard with: its key, or those of some of its records."""
        try:
            return self.keys.shard_key(key_id)
        except KeyError:
            raise TaskFailed(Fault.OWN, f"key {key_id.hex()[:16]}… was here and is gone: is the data folder of this node whole?") from None

    # ---- segments --------------------------------------------------------------------------------------------------------

    def folder(self, segment: SegmentId) -> Path:
        return self.root / f"segment-{segment}"

    def open_folder(self, segment: SegmentId, spec: Cid) -> Path:
        """The segment's folder, which says which job it needs."""
        folder = self.folder(segment)
        folder.mkdir(exist_ok=True, mode=0o700)
        (folder / "job").write_text(f"job-{spec}")
        return folder

    async def drop(self, segment: SegmentId) -> None:
        """Removes a segment's folder, and its job's when no other segment needs that. To remove its states takes a second or more, and is not done
        on the event loop: the folder gets another name first, so that nobody meets half of it."""
        folder, gone = self.folder(segment), self.root / f"gone-{segment}"
        job = next((path.read_text() for path in (folder / "job", gone / "job") if path.exists()), "")
        await asyncio.to_thread(shutil.rmtree, gone, True)  # of a removal that was cut off
        with contextlib.suppress(OSError):
            folder.rename(gone)
        others = {path.read_text() for path in self.root.glob("segment-*/job")}
        if job.startswith("job-") and job not in others:
            shutil.rmtree(self.root / job, ignore_errors=True)
        await asyncio.to_thread(shutil.rmtree, gone, True)
        for left in (folder, gone):
            if left.exists():
                raise TaskFailed(Fault.OWN, f"{left} cannot be removed; it holds decrypted data: remove it by hand")

    async def unsealed(self, ref: SealedRef, what: str = "") -> bytes:
        """The plaintext of a sealed blob that is in the store, with a key that is. Raises TaskFailed, which begins with `what`."""
        from assay import parts, seal

        sealed, key = await hands.stored(self.blobs, ref.cid), self.key(ref.key_id)
        try:
            return await asyncio.to_thread(parts.unseal, sealed, key)
        except seal.SealError as error:
            raise TaskFailed(Fault.PEER, f"{what}{ref.cid} was fetched and its key is here, but it does not open: {error}") from None

    async def seal(self, plaintext: bytes, listed: Path) -> tuple[Cid, bytes]:
        """Seals under a new key that is kept, and publishes: (cid, key). The blob is pinned until `let_go(listed)`."""
        from assay import seal

        key = seal.new_key()
        self.keys.store(key)
        published = await self.blobs.put(await asyncio.to_thread(seal.seal, plaintext, key))
        _list(listed, published)
        return published, key

    def published(self, job: JobId) -> Path:
        """The list of a job's checkpoints that this node has published."""
        return self.root / f"published-{job}"

    async def let_go(self, listed: Path) -> int:
        """What is on a list need not be served any more: it goes when room is needed, oldest first. Returns how many blobs that are."""
        named = await asyncio.to_thread(_listed, listed)
        for name in named:
            await self.blobs.unpin(name)
        await asyncio.to_thread(listed.unlink, True)
        return len(named)

    async def find(self, cids: Iterable[Cid]) -> list[Cid]:
        """Those of some blobs of this node that are gone, and that nobody gives back; what somebody gave is pinned again."""
        lost = []
        for cid in cids:
            if not await self.blobs.has(cid):
                try:
                    await hands.stored(self.blobs, cid)
                    await self.blobs.pin(cid)
                except Outage:
                    lost.append(cid)
        return lost

    async def seal_state(self, state: bytes, parent: SealedRef, listed: Path) -> tuple[Cid, bytes]:
        """As `seal`, for a state's file: tensors that are as in `parent`, which is in the store with its key, stay the blocks that they are."""
        from assay import parts, seal
        from assay.state import ends

        key = seal.new_key()
        self.keys.store(key)
        like: tuple[bytes, bytes] | None = None
        with contextlib.suppress(TaskFailed, Outage):  # gone since the segment began: all is sealed anew
            like = await hands.stored(self.blobs, parent.cid), self.key(parent.key_id)
        published = await self.blobs.put(await asyncio.to_thread(parts.seal_parts, state, parts.cuts(ends(state)), key, like))
        _list(listed, published)
        return published, key

    async def check_room(self, spec: JobSpec) -> None:
        """Raises TaskFailed (OWN) where the files of one more segment of a job might come to more than half of what this folder may hold: the
        rest is for what computes, whose engine is ended when the folder outgrows that."""
        need = sum(blob.size for blob in (spec.state, *spec.shared_blobs))
        held, free = await asyncio.to_thread(hands.bytes_below, self.root), shutil.disk_usage(self.root).free
        most = self.disk or held + free
        if 2 * (held + need) > most or 2 * need > free:
            raise TaskFailed(Fault.OWN, f"its files take up to {need} bytes beside {held}, and half of {most} may be taken for what waits")

    async def put_parent(self, folder: Path, step: int, parent: SealedRef) -> None:
        """The state that a segment starts from."""
        path = folder / f"state-{step}.safetensors"
        if not path.exists():
            await asyncio.to_thread(write_atomically, path, await self.unsealed(parent))

    async def put_records(self, folder: Path, spec: JobSpec, steps: range) -> None:
        """The shards that steps read, one array a field; taken from another segment of the job where they are already."""
        for index in await self.shards_for(spec, steps):
            names = [f"records-{index}-{at}.npy" for at in range(len(spec.dataset.fields))]
            if all((folder / name).exists() for name in names) or self._linked(folder, names):
                continue
            ref = spec.dataset.shards[index]
            sealed, key = await hands.stored(self.blobs, ref.sealed.cid), self.key(ref.sealed.key_id)
            await asyncio.to_thread(self._write_shard, folder, spec, index, sealed, key)

    async def shards_for(self, spec: JobSpec, steps: range) -> list[int]:
        """Numbers of the shards that steps (a range without gaps) read."""
        return await asyncio.to_thread(self._shards_read, spec, steps)

    @staticmethod
    def _shards_read(spec: JobSpec, steps: range) -> list[int]:
        import numpy as np

        from assay.sampling import walk

        ends, each = np.cumsum([shard.records for shard in spec.dataset.shards]), spec.micro_batches * spec.batch
        read = np.zeros(len(ends), dtype=bool)
        for indices in walk(spec.order, spec.dataset.records, steps.start * each, len(steps) * each):
            read[np.searchsorted(ends, indices, side="right")] = True
            if read.all():  # mostly soon: a segment reads all over the dataset
                break
        return [int(i) for i in np.flatnonzero(read)]

    def _linked(self, folder: Path, names: list[str]) -> bool:
        job = (folder / "job").read_text()
        for other in self.root.glob("segment-*"):
            if other != folder and (other / "job").exists() and (other / "job").read_text() == job and all((other / n).exists() for n in names):
                for name in names:
                    (folder / name).unlink(missing_ok=True)
                    os.link(other / name, folder / name)
                return True
        return False

    @staticmethod
    def _shards_of(spec: JobSpec, records: Iterable[int]) -> list[int]:
        """Numbers of the shards that hold some records."""
        import numpy as np

        ends = np.cumsum([shard.records for shard in spec.dataset.shards])
        return [int(i) for i in np.unique(np.searchsorted(ends, np.fromiter(records, dtype=np.int64), side="right"))]

    @staticmethod
    def _write_shard(folder: Path, spec: JobSpec, index: int, sealed: bytes, key: bytes) -> None:
        from assay import seal, shard

        try:
            arrays = shard.read_shard(spec.dataset.shards[index], spec.dataset.fields, sealed, key)
        except (shard.BadShard, seal.SealError) as error:
            raise TaskFailed(Fault.PEER, str(error)) from None
        for at, field in enumerate(spec.dataset.fields):
            _save(folder / f"records-{index}-{at}.npy", arrays[field.name])

    async def put_batch(self, folder: Path, spec: JobSpec, unit: int, step: int, m: int) -> None:
        """The records of one micro-batch and no others."""
        from assay import seal, shard
        from assay.sampling import record_indices

        indices = record_indices(spec.order, spec.dataset.records, step, m, spec.micro_batches, spec.batch)
        refs = [spec.dataset.shards[i].sealed for i in self._shards_of(spec, indices)]
        blobs = {ref.cid: await hands.stored(self.blobs, ref.cid) for ref in refs}

        def read() -> None:
            arrays = shard.Records(spec.dataset, blobs.__getitem__, self.shard_key).read(indices)
            for at, field in enumerate(spec.dataset.fields):
                _save(folder / f"batch-{unit}-{at}.npy", arrays[field.name])

        try:
            await asyncio.to_thread(read)
        except (shard.BadShard, seal.SealError) as error:
            raise TaskFailed(Fault.PEER, str(error)) from None

    async def put_record(self, folder: Path, spec: JobSpec, number: int) -> None:
        """One record of the dataset with its salt and its path under its shard's root: all that a dispute over it shows."""
        (index,) = await asyncio.to_thread(self._shards_of, spec, [number])
        ref = spec.dataset.shards[index]
        sealed, key = await hands.stored(self.blobs, ref.sealed.cid), self.shard_key(ref.sealed.key_id)
        local = number - sum(shard.records for shard in spec.dataset.shards[:index])
        await asyncio.to_thread(self._write_record, folder / f"record-{number}.json", spec, index, local, sealed, key)

    @staticmethod
    def _write_record(path: Path, spec: JobSpec, index: int, local: int, sealed: bytes, key: ShardKey) -> None:
        from assay import seal, shard

        try:
            shown = shard.prove(spec.dataset.shards[index], spec.dataset.fields, sealed, key, local)
        except (shard.BadShard, seal.SealError) as error:
            raise TaskFailed(Fault.PEER, str(error)) from None
        write_atomically(path, encode(KeptRecord(shard=index, salt=shown.salt, data=shown.data, path=shown.path)))


def _list(path: Path, cid: Cid) -> None:
    with path.open("a") as file:
        file.write(f"{cid}\n")


def _listed(path: Path) -> list[Cid]:
    """The CIDs on a list; a line that was cut off by a crash is none."""
    from assay import cid

    found = []
    for line in path.read_text().split() if path.exists() else ():
        with contextlib.suppress(cid.BadCid):
            cid.parse(Cid(line))
            found.append(Cid(line))
    return found


def check_spec(spec: JobSpec) -> None:
    """Raises ValueError for a document that nothing can be done with, whatever its program is."""
    from assay import cid, threshold

    for blob in (spec.program, spec.schedule, spec.state.cid, *(ref.cid for ref in spec.shared_blobs)):
        cid.parse(blob)
    if problem := reads.problem(spec):
        raise ValueError(problem)
    if len(spec.key_service_key) != 32:
        raise ValueError(f"the key service's encryption key has {len(spec.key_service_key)} bytes, not 32")
    threshold.check_document(spec)


def mismatch(spec: JobSpec, checked: FileChecked) -> str:
    """What keeps a program from being run on a job's data; empty when nothing does."""
    if checked.micro_batches != spec.micro_batches:
        return f"it averages over {checked.micro_batches} micro-batches, a step has {spec.micro_batches}"
    if checked.scalars != spec.scalars:
        return f"it takes the scalars {', '.join(checked.scalars)}, the schedule has {', '.join(spec.scalars)}"
    fields = {field.name: field for field in spec.dataset.fields}
    for taken in checked.batch:
        has = fields.get(taken.name)
        if has is None or (has.dtype, (spec.batch, *has.shape)) != (taken.dtype, taken.shape):
            given = f"{has.dtype}{[spec.batch, *has.shape]}" if has is not None else "not there"
            return f"it takes {taken.name!r} as {taken.dtype}{list(taken.shape)}, which in the data is {given}"
    return _frozen_mismatch(spec, checked.frozen)


def _frozen_mismatch(spec: JobSpec, needed: int) -> str:
    from assay.seal import sealed_size
    from assay.state import MAX_HEADER

    blobs = spec.frozen_blobs
    if bool(blobs) != bool(needed):
        return "it reads frozen tensors, and the document names none" if needed else "the document names frozen tensors, and it reads none"
    if blobs and not sealed_size(needed) <= blobs[0].size <= sealed_size(needed + MAX_HEADER + 8):
        return f"its frozen tensors have {needed} bytes, which is not what a blob of {blobs[0].size} bytes holds"
    return ""


def _save(path: Path, array: Any) -> None:
    import numpy as np

    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        np.save(file, array, allow_pickle=False)
    os.replace(part, path)


def write_atomically(path: Path, data: bytes) -> None:
    """The file is there whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    os.replace(part, path)
