"""Labour that several roles share. A role's own hands (`assay_ROLE.hands`) call these and add what only that role does."""

from __future__ import annotations

import os
from pathlib import Path

from assay import reads, record_keys, threshold
from assay.chain import Release
from assay.codec import Malformed, decode
from assay.ids import Cid
from assay.job import FORMAT, JobSpec, ShardRef
from assay.merkle import sha256
from assay.ports import Blobs, Keys, Missing, Outage
from assay.publish.manifest import info_of
from assay.record_keys import RecordKeys
from assay.runtime import Fault, TaskFailed
from assay.tasks import (
    GatherKey,
    GatherRecords,
    JobLoaded,
    KeyGathered,
    KeyStored,
    KeysWrapped,
    LoadJob,
    RecordsGathered,
    StoreKey,
    TakeKey,
)

MAX_SPEC = 8 << 20
"""Bytes of a job document."""
MAX_BLOB = 2 << 30
"""Bytes of a blob that is fetched once more. What it may have was held against its document when it was fetched first."""


async def stored(blobs: Blobs, cid: Cid) -> bytes:
    """A blob that was fetched or published before. One that is gone (it made room, or a disk was lost) is fetched again, from whoever has it.
    Raises Missing (the effect is then tried again for a while)."""
    try:
        return await blobs.get(cid)
    except KeyError:
        pass
    try:
        await blobs.fetch(cid, MAX_BLOB)
        return await blobs.get(cid)
    except (Outage, KeyError) as error:
        raise Missing(f"blob {cid} was here and is gone, and nobody gives it: {error}") from None
    except ValueError as error:
        raise TaskFailed(Fault.PEER, str(error)) from None


async def load_job(blobs: Blobs, task: LoadJob) -> JobLoaded:
    """Reads a job document. Raises TaskFailed (PEER) when it is malformed, or of another format."""
    data = await stored(blobs, task.spec)
    try:
        spec = decode(data, JobSpec, limit=MAX_SPEC)
    except Malformed as error:
        raise TaskFailed(Fault.PEER, f"job {task.job}: its document is refused: {error}") from None
    if spec.format != FORMAT:
        raise TaskFailed(Fault.PEER, f"job {task.job}: its document has the format {spec.format[:40]!r}, this program reads {FORMAT}")
    return JobLoaded(job=task.job, spec=spec, spec_digest=sha256(data))


def store_key(keys: Keys, task: StoreKey) -> KeyStored:
    """Unwraps and keeps a key, or a bundle of record keys. Raises TaskFailed (PEER) when it is not the one it is said to be: of a bundle only
    opening the records can tell (CheckRecords)."""
    try:
        found = record_keys.parse(keys.unwrap(task.wrapped))
    except ValueError as error:
        raise TaskFailed(Fault.PEER, str(error)) from None
    if isinstance(found, RecordKeys):
        keys.store_records(task.key_id, found)
    elif sha256(found) != task.key_id:
        raise TaskFailed(Fault.PEER, f"the wrapped key is another one than {task.key_id.hex()[:16]}…")
    else:
        keys.store(found)
    return KeyStored(key_id=task.key_id, whole=not isinstance(found, RecordKeys))


def gather_key(keys: Keys, task: GatherKey) -> KeyGathered:
    """Raises TaskFailed (PEER) when the shares are true and the key is another one."""
    try:
        found = threshold.gather(keys, task.envelope, dict(task.shares), task.key_id)
    except threshold.BadEnvelope as error:
        raise TaskFailed(Fault.PEER, str(error)) from None
    if found.key is not None:
        keys.store(found.key)
    return KeyGathered(key_id=task.key_id, kept=found.key is not None, false=found.false)


def shared_shard(spec: JobSpec, task: GatherRecords) -> tuple[ShardRef, tuple[int, ...]]:
    """The shard that a task is about, and the records of it that are read. Raises TaskFailed (OWN) when none are."""
    what, keys = reads.reading(spec), [shard.sealed.key_id for shard in spec.dataset.shards]
    wanted = reads.by_key(keys, what, reads.records(what, task.places)).get(task.key_id)
    if wanted is None:
        raise TaskFailed(Fault.OWN, f"no single records are read of a shard with key {task.key_id.hex()[:16]}…")
    return spec.dataset.shards[keys.index(task.key_id)], wanted


def gather_records(keys: Keys, shard: ShardRef, wanted: tuple[int, ...], masks: bytes, task: GatherRecords) -> RecordsGathered:
    """`masks` is the blob that the shard's envelope names. Raises TaskFailed (PEER) when it is none for these records."""
    try:
        found = threshold.gather_records(keys, shard.sealed.envelope, task.key_id, masks, wanted, dict(task.answers))
    except threshold.BadEnvelope as error:
        raise TaskFailed(Fault.PEER, f"{error}: the fault of who dealt the keys") from None
    if found.keys is not None:
        keys.store_records(task.key_id, found.keys)
    return RecordsGathered(key_id=task.key_id, kept=found.keys is not None, false=found.false, short=found.short)


def take_key(keys: Keys, task: TakeKey) -> KeysWrapped:
    """A key that is known to everybody, as if its publisher had wrapped it to this node."""
    wrapped = keys.wrap(task.key, keys.encryption_key, info_of(task.publisher, b""))
    return KeysWrapped(releases=(Release(recipient=keys.account, key_id=sha256(task.key), wrapped=wrapped),), bad=())


def bytes_below(folder: Path) -> int:
    """Of all files below a folder; a file that goes away meanwhile counts nothing."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(where, name)).st_blocks * 512
            except OSError:
                continue
    return total
