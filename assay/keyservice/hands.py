"""What the key service does with its hands: read job documents, open envelopes, wrap their keys to who is entitled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from assay import bundles, partials, reads, threshold
from assay import hands as labour
from assay.chain import NOTHING, Release
from assay.hands import load_job, stored
from assay.ids import Address, Digest
from assay.merkle import sha256
from assay.ports import Blobs, Keys
from assay.publish import manifest as manifests
from assay.publish.manifest import Manifest, info_of
from assay.runtime import Fault, Note, TaskFailed
from assay.seal import WRAPPED_SIZE
from assay.tasks import AnyOutcome, AnyTask, DrawnKeys, KeysWrapped, LoadJob, ManifestRead, ReadManifest, TakeKey, WrapKeys


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
        if not mine:
            return ManifestRead(shards=())
        shards = [(ref.sealed.cid, ref.sealed.size) for ref in made.dataset.shards]
        return ManifestRead(shards=(*shards, *threshold.masks_refs(made.dataset.shards).items()))


def _read(data: bytes, task: ReadManifest) -> Manifest:
    if sha256(data) != task.digest:
        raise TaskFailed(Fault.PEER, f"the manifest {task.cid} is not the one whose digest is on chain")
    try:
        return manifests.read(data)
    except manifests.BadManifest as error:
        raise TaskFailed(Fault.PEER, f"the manifest {task.cid} is refused: {error}") from None


def wrap_keys(keys: Keys, task: WrapKeys) -> KeysWrapped:
    """Keys pass through memory here and are not kept. A recipient whose registered key is none gets nothing, and the others do."""
    work = _Wrapping(keys, task.recipients)
    for key_id, envelope, publisher, root in task.envelopes:
        if (key := work.opened(key_id, envelope, publisher, root)) is not None:
            work.give(key_id, key)
    if task.drawn is not None:
        work.give_records(task.drawn)
        if not work.releases and not work.bad:
            work.releases = [Release(recipient=Address(who), key_id=NOTHING, wrapped=b"") for who, _ in task.recipients]
    return KeysWrapped(releases=tuple(work.releases), bad=tuple(work.bad))


class _Wrapping:
    def __init__(self, keys: Keys, recipients: tuple[tuple[str, bytes], ...]) -> None:
        self.keys, self.recipients = keys, recipients
        self.releases: list[Release] = []
        self.bad: list[Digest] = []

    def opened(self, key_id: Digest, envelope: bytes, publisher: Address, root: bytes) -> bytes | None:
        """The key in an envelope, or this holder's share of it."""
        try:
            return threshold.open_own(self.keys, envelope, info_of(publisher, root), key_id)
        except ValueError:
            self.bad.append(key_id)
            return None

    def give(self, key_id: Digest, what: bytes) -> None:
        for who, encryption_key in self.recipients:
            try:
                wrapped = self.keys.wrap(what, encryption_key)
            except ValueError:
                continue
            self.releases.append(Release(recipient=Address(who), key_id=key_id, wrapped=wrapped))

    def give_records(self, drawn: DrawnKeys) -> None:
        """Of each shard that drawn links read from the keys of the records that they read, or this holder's parts of them; its own key, or the
        share of it, where they read all of it."""
        read = reads.records(drawn.reading, drawn.places)
        some = reads.by_key([shard[0] for shard in drawn.shards], drawn.reading, read)
        for key_id, envelope, publisher, root in dict.fromkeys(drawn.shards[number] for number in read):
            key = self.opened(key_id, envelope, publisher, root)
            if key is None:
                continue
            if key_id not in some:
                made = [key]
            elif len(envelope) == WRAPPED_SIZE:
                made = bundles.cut(key, some[key_id])
            else:
                made = partials.cut(key, threshold.read(envelope).context, key_id, some[key_id])
            for one in made:
                self.give(key_id, one)
