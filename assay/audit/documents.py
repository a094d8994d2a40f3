"""The job's documents as their CIDs give them: what they hash to is what the terms name, or the job is another one than was paid for.

A blob's bytes are vouched for by its CID (the store checks that); here they are held against the roots in the terms. What is sealed
opens only for who has its key; what could not be opened is told.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable

import numpy as np

from assay import bundles, seal, shard, threshold
from assay.audit.auditor import Auditor
from assay.audit.books import Seg
from assay.chain import KeyReleased, SegmentState
from assay.codec import Malformed, decode
from assay.execute import schedule_root
from assay.hands import MAX_SPEC
from assay.ids import Address, Cid, Digest, PeerId
from assay.job import JobSpec, data_root
from assay.merkle import sha256
from assay.ports import Blobs, Keys, Outage
from assay.record_keys import RecordKeys, ShardKey
from assay.runtime import TaskFailed
from assay.state import BadTensors, Tensors, from_bytes, state_root
from assay.tasks import CheckProgram
from assay.workshop import Workshop, check_spec

MAX_DOCUMENT = 1 << 28
"""Bytes of a program or a schedule."""
MAX_STATE = 1 << 34
SLACK = 1 << 20


class Ring:
    """assay.ports.Keys of an audit: the keys that the chain released to the caller, and those of its own ring. Nothing is written to that.

    `keys` is None for who has no account: nothing sealed opens then."""

    def __init__(self, keys: Keys | None, releases: Iterable[KeyReleased]) -> None:
        self.keys = keys
        self.account, self.encryption_key = (keys.account, keys.encryption_key) if keys else (Address(""), b"")
        self._ring: dict[Digest, bytes] = {}
        self._mine: dict[Digest, list[bytes]] = {}
        for release in releases:
            if keys is not None and release.recipient == keys.account:
                self._mine.setdefault(release.key_id, []).append(release.wrapped)
                with contextlib.suppress(ValueError):  # what was released does not open: the key is not had
                    found = keys.unwrap(release.wrapped)
                    if not bundles.is_bundle(release.wrapped):  # what tells whether those are true is done by the node that was drawn
                        self.store(found)

    def gather(self, key_id: Digest, envelope: bytes) -> None:
        """Makes a key of the shares that its holders released, if it was shared."""
        if self.keys is not None and key_id in self._mine and not self.has(key_id):
            with contextlib.suppress(ValueError):
                key = threshold.released(self.keys, envelope, self._mine[key_id], key_id)
                if key is not None:
                    self.store(key)

    def wrap(self, key: bytes, recipient: bytes, info: bytes = b"") -> bytes:
        raise PermissionError("an audit wraps no keys")

    def unwrap(self, wrapped: bytes, info: bytes = b"") -> bytes:
        raise PermissionError("an audit's keys are unwrapped when it begins")

    def store(self, key: bytes) -> Digest:
        self._ring[seal.key_id(key)] = key
        return seal.key_id(key)

    def load(self, key_id: Digest) -> bytes:
        if key_id in self._ring or self.keys is None:
            return self._ring[key_id]
        return self.keys.load(key_id)

    def store_records(self, key_id: Digest, records: RecordKeys) -> None:
        raise PermissionError("an audit keeps no records' keys")

    def shard_key(self, key_id: Digest) -> ShardKey:
        if key_id in self._ring or self.keys is None:
            return self._ring[key_id]
        return self.keys.shard_key(key_id)

    def has(self, key_id: Digest) -> bool:
        """The key itself: those of some records do not count."""
        try:
            self.load(key_id)
        except KeyError:
            return False
        return True


class Library:
    """Fetches blobs, patiently: who has just come does not know all peers yet."""

    def __init__(self, blobs: Blobs, patience: int = 20, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        self.blobs, self.patience, self._sleep = blobs, patience, sleep
        self.fetched: dict[Cid, int] = {}
        """Bytes of what was not here."""

    async def fetch(self, cid: Cid, limit: int, near: tuple[PeerId, ...] = ()) -> str:
        """Brings a blob into the store. Empty, or why it cannot be had."""
        for _ in range(self.patience):
            try:
                if not await self.blobs.has(cid):
                    await self.blobs.fetch(cid, limit, near)
                    self.fetched[cid] = len(await self.blobs.get(cid))
            except Outage as error:
                why = str(error)
            except ValueError as error:
                return str(error)
            else:
                return ""
            await self._sleep(0.5)
        return why


class Documents:
    """Of the audited job, over an auditor that has run."""

    def __init__(self, auditor: Auditor, library: Library, shop: Workshop, ring: Ring) -> None:
        self.auditor, self.library, self.shop, self.ring = auditor, library, shop, ring
        self.job = auditor.books.jobs[auditor.job]
        self.terms, self.sheet = self.job.terms, auditor.sheet
        self.spec: JobSpec | None = None
        """Once it was fetched, and is what the terms name."""
        self.document = b""
        """The bytes of it."""
        self.state: Tensors | None = None
        """What settled last, once it was opened and is that."""
        self.frozen_root = Digest(b"")
        """Of the tensors that its program reads and no step changes; empty when it reads none."""
        self.operations = 0
        """Of a step, once its program was checked."""

    async def _blob(self, cid: Cid, limit: int, what: str) -> bytes | None:
        """None, and a note, when it cannot be had."""
        why = await self.library.fetch(cid, limit)
        if why:
            self.sheet.check("documents", None, f"{what}, {cid}, cannot be had: {why}")
            return None
        return await self.library.blobs.get(cid)

    async def check(self) -> None:
        """The document, the program, the schedule and the form of the data."""
        check, terms = self.sheet.check, self.terms
        data = await self._blob(terms.spec, MAX_SPEC, "the job's document")
        if data is None or not check("documents", sha256(data) == terms.spec_digest, "the job's document is not the one whose digest was posted"):
            return
        try:
            spec = decode(data, JobSpec, limit=MAX_SPEC)
            shard.check_dataset(spec.dataset)
            check_spec(spec)
        except (Malformed, ValueError) as error:
            check("documents", False, f"the job's document is refused: {error}")
            return
        for name in ("program_root", "state_root", "schedule_root", "steps", "micro_batches", "segment_steps", "key_service"):
            same = getattr(spec, name) == getattr(terms, name)
            check("documents", same, f"the document's {name.replace('_', ' ')} is not that of the terms")
        root = data_root(spec.dataset, spec.order, spec.batch)
        check("documents", root == terms.dataset_root, "the data that the document describes has another root than the terms name")
        self.spec, self.document = spec, data
        for ref in (spec.state, *spec.shared_blobs):
            self.ring.gather(ref.key_id, ref.envelope)
        for seg in self.auditor.mine:
            if seg.key_id is not None:
                self.ring.gather(seg.key_id, seg.key_envelope)
        await self._program(spec)
        await self._schedule(spec)

    async def _program(self, spec: JobSpec) -> None:
        if await self._blob(spec.program, MAX_DOCUMENT, "its program") is None:
            return
        check, terms = self.sheet.check, self.terms
        try:
            found = await self.shop.check_program(CheckProgram(job=self.job.number, spec=terms.spec, program=spec.program))
        except TaskFailed as error:
            check("documents", False, f"its program is refused: {error}")
            return
        self.frozen_root, self.operations = found.frozen_root, spec.micro_batches * found.micro_flops + found.update_flops
        check("documents", found.root == terms.program_root, "its program has another root than the terms name")
        leaves = (found.micro_leaves, found.update_leaves)
        named = (terms.micro_leaves, terms.update_leaves)
        check("documents", leaves == named, f"traces of its program have {leaves} leaves, the terms name {named}")
        weights = (max(1, found.micro_flops), max(1, found.update_flops))
        same = weights == (terms.micro_weight, terms.update_weight)
        check("documents", same, f"its program weighs {weights}; links are drawn by {(terms.micro_weight, terms.update_weight)}")

    async def _schedule(self, spec: JobSpec) -> None:
        data = await self._blob(spec.schedule, MAX_DOCUMENT, "its schedule")
        if data is None:
            return
        columns = len(spec.scalars)
        whole = len(data) == 4 * columns * self.terms.steps
        right = whole and schedule_root(np.frombuffer(data, "<f4").reshape(self.terms.steps, columns)) == self.terms.schedule_root
        self.sheet.check("documents", right, f"its schedule is not the one of {self.terms.steps} steps whose root the terms name")

    # ---- what the client gets --------------------------------------------------------------------------------------------

    async def delivery(self) -> None:
        """Of a job that is over: the last settled checkpoint, as its client gets it, is the state whose root settled."""
        last = max((s for s in self.auditor.mine if s.state == SegmentState.SETTLED), key=lambda s: s.stop, default=None)
        if last is None or not (self.job.completed or self.job.closed):
            return
        mine = [r for r in self.auditor.releases if (r.segment, r.recipient, r.key_id) == (last.number, self.job.client, last.key_id)]
        holders = self.spec.key_holders if self.spec is not None else None
        keepers = {self.terms.key_service} if holders is None else {one.account for one in holders.members}
        official = [release for release in mine if release.by in keepers]
        if len({release.by for release in official}) < threshold.needed(last.key_envelope):
            self.sheet.check("delivery", None, f"the key of the last checkpoint, segment {last.number}, was not released to the client yet")
        elif self.ring.account == self.job.client:
            await self._delivered(last, [release.wrapped for release in official])
        else:
            why = "its key was released to the client, and only the client can open it: assay job audit with the client's --data"
            self.sheet.check("delivery", None, f"the last checkpoint, segment {last.number}, is sealed: {why}")

    async def _delivered(self, last: Seg, wrapped: list[bytes]) -> None:
        check, keys = self.sheet.check, self.ring.keys
        assert keys is not None
        assert last.key_id is not None
        assert last.checkpoint is not None
        why = "fewer true shares of it were released than are needed"
        try:
            key = threshold.released(keys, last.key_envelope, wrapped, last.key_id)
        except ValueError as error:
            key, why = None, str(error)
        if key is None:
            check("delivery", False, f"the key of the last checkpoint that the key service released does not open: {why}")
            return
        why = await self.library.fetch(last.checkpoint, MAX_STATE)
        if why:
            check("delivery", None, f"the last checkpoint, {last.checkpoint}, cannot be had: {why}")
            return
        sealed = await self.library.blobs.get(last.checkpoint)
        try:
            state = from_bytes(await asyncio.to_thread(seal.unseal, sealed, key), MAX_STATE)
        except (seal.SealError, BadTensors) as error:
            check("delivery", False, f"the last checkpoint does not open: {error}")
            return
        found = state_root(last.stop, state)
        right = check("delivery", found == last.end_root, f"the last checkpoint has the root {found.hex()[:16]}…, what settled is another state")
        self.state = state if right else None
