"""What the key service does with its hands: read job documents, open envelopes, wrap their keys to who is entitled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from assay import hands as labour
from assay import threshold
from assay.chain import Release
from assay.hands import load_job, stored
from assay.ids import Address, Digest
from assay.merkle import sha256
from assay.ports import Blobs, Keys
from assay.publish import manifest as manifests
from assay.publish.manifest import Manifest, info_of
from assay.runtime import Fault, Note, TaskFailed
from assay.tasks import AnyOutcome, AnyTask, KeysWrapped, LoadJob, ManifestRead, ReadManifest, TakeKey, WrapKeys


class KeyServiceHands:
    """Implements assay.daemon.Hands."""

    def __init__(self, blobs: Blobs, keys: Keys) -> None:
        self._blobs, self._keys = blobs, keys

    async def perform(self, task: AnyTask, note: Callable[[Note], None]) -> AnyOutcome:
        match task:
            case LoadJob():
                return await load_job(self._blobs, task)
            case ReadManifest():
                return await self._manifest(task)
            case WrapKeys():
                return await asyncio.to_thread(wrap_keys, self._keys, task)
            case TakeKey():
                return labour.take_key(self._keys, task)
            case _:
                raise TaskFailed(Fault.OWN, f"a key service does not do {type(task).__name__}")

    async def _manifest(self, task: ReadManifest) -> ManifestRead:
        made = _read(await stored(self._blobs, task.cid), task)
        mine = made.key_holders is not None and made.key_holders.place(self._keys.account) > 0
        return ManifestRead(shards=tuple((ref.sealed.cid, ref.sealed.size) for ref in made.dataset.shards) if mine else ())


def _read(data: bytes, task: ReadManifest) -> Manifest:
    if sha256(data) != task.digest:
        raise TaskFailed(Fault.PEER, f"the manifest {task.cid} is not the one whose digest is on chain")
    try:
        return manifests.read(data)
    except manifests.BadManifest as error:
        raise TaskFailed(Fault.PEER, f"the manifest {task.cid} is refused: {error}") from None


def wrap_keys(keys: Keys, task: WrapKeys) -> KeysWrapped:
    """Keys pass through memory here and are not kept. A recipient whose registered key is none gets nothing, and the others do."""
    releases: list[Release] = []
    bad: list[Digest] = []
    for key_id, envelope, publisher, root in task.envelopes:
        try:
            key = threshold.open_own(keys, envelope, info_of(publisher, root), key_id)
        except ValueError:
            bad.append(key_id)
            continue
        for who, encryption_key in task.recipients:
            try:
                wrapped = keys.wrap(key, encryption_key)
            except ValueError:
                continue
            releases.append(Release(recipient=Address(who), key_id=key_id, wrapped=wrapped))
    return KeysWrapped(releases=tuple(releases), bad=tuple(bad))
