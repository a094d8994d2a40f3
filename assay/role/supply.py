"""What a segment waits for: sealed blobs and their keys. When all is there, the role goes on (`_supplied`).

A key comes with the chain's event KeyReleased; one that does not come, or that is wrong, is asked for at the job's key service.

A drawn verifier needs the keys of the records that the drawn links read, and is given no others: a bundle of them comes in the place of a shard's
key, from the job's key service alone, since nothing but the records tells whether it is right. So they are opened as soon as shards and keys are
here, and nothing goes on before they open: another's fault is found before this node says that it has what it needs.

Where keys are shared (assay.threshold), each holder's event or answer brings its share, or its parts of the records that are read. As many holders
as are needed are asked at once, each node beginning with another of them; whoever does not answer, or answers falsely, is made up for by the
next, and named. Parts are proven (assay.partials): records that do not open with the keys that they make are the fault of who dealt the keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from assay import bundles
from assay.chain import NOTHING, KeyReleased
from assay.facts import SegmentFacts
from assay.ids import Address, Cid, Digest, SegmentId
from assay.job import JobSpec, SealedRef
from assay.merkle import sha256
from assay.messages import KeyGrant, KeyRequest
from assay.role.base import SLACK, Needs, RoleConfig
from assay.role.holding import Holding
from assay.runtime import (
    Answered,
    Ask,
    Cancel,
    Do,
    Failed,
    Fault,
    Fetch,
    Result,
    Wake,
    Woke,
)
from assay.tasks import CheckRecords, KeyStored, RecordsChecked, StoreKey


class Supply(Holding):
    def __init__(self, config: RoleConfig) -> None:
        super().__init__(config)
        self._kinds |= {"fetch": self._on_fetch, "key": self._on_key, "nag": self._on_nag, "ask": self._on_ask, "records": self._on_records}

    def _shards(self, spec: JobSpec) -> list[tuple[SealedRef, int]]:
        """All shards of a job and the most bytes each may have."""
        return [(shard.sealed, shard.sealed.size + SLACK) for shard in spec.dataset.shards]

    def _frozen(self, spec: JobSpec) -> list[tuple[SealedRef, int]]:
        """The job's frozen tensors, if it has any: the first segment fetches them, the others find them in the store."""
        return [(ref, ref.size + SLACK) for ref in spec.frozen_blobs]

    def _parent(self, seg: SegmentFacts) -> tuple[SealedRef, Digest] | None:
        """Checkpoint and state root that a segment starts from. None while its parent or its job is not known."""
        spec = self._job(seg.job)
        if seg.parent == 0:
            return (spec.state, spec.state_root) if spec is not None else None
        parent = self.state.facts.segments.get(seg.parent)
        if parent is None or not parent.checkpoint:
            return None
        return SealedRef(cid=parent.checkpoint, size=0, key_id=parent.key_id, envelope=parent.key_envelope), parent.end_root

    def _need(
        self, seg: SegmentFacts, blobs: list[tuple[SealedRef, int]], records: Mapping[Digest, int] = MappingProxyType({}),
        places: tuple[tuple[int, int], ...] = (), masks: Mapping[Cid, int] = MappingProxyType({}),
    ) -> None:
        """Fetches blobs with their sizes' bounds and waits for their keys; `_supplied` when there is nothing to wait for. Of the shards with the
        keys `records` only what `places` read is needed, which is so many of their records. `masks` are blobs in the clear, with their sizes."""
        facts, entry = self.state.facts, self.state.jobs[seg.job]
        parent = facts.segments.get(seg.parent)
        peers = [*(facts.peer(parent.provider) if parent else ()), *facts.peer(seg.provider), *entry.near]
        if entry.spec is not None:
            peers.append(entry.spec.key_service_peer)
        near = tuple(dict.fromkeys(peer for peer in peers if peer != self.base.peer))
        cids = dict.fromkeys([*(ref.cid for ref, _ in blobs), *masks])
        keys = [key for key in dict.fromkeys(ref.key_id for ref, _ in blobs) if key not in self.state.keys]
        self._drop_records(seg.segment)
        self.state.needs[seg.segment] = Needs(list(cids), keys, {key: records[key] for key in keys if key in records}, places)
        bounds = {**{ref.cid: bound for ref, bound in blobs}, **masks}
        for cid in cids:
            self._do(Fetch(key=f"fetch:{seg.segment}:{cid}", cid=cid, limit=bounds[cid], near=near))
        if keys and entry.spec is not None and entry.spec.key_holders is not None:
            for key in keys:
                self._ask_holders(seg.segment, key, entry.spec.key_holders)
        if keys:
            self._do(Wake(key=f"nag:{seg.segment}", at=self._now + self.base.key_patience))

    def _unneed(self, segment: SegmentId) -> None:
        self._drop_records(segment)
        needs = self.state.needs.pop(segment, None)
        if needs is not None:
            for cid in needs.cids:
                self._do(Cancel(key=f"fetch:{segment}:{cid}"))
            for key in [key for key in needs.keys if not self._waits_for(key)]:
                self.state.shares.pop(key.hex(), None)
        self._drop_again(segment)

    def _check_supplied(self, segment: SegmentId) -> None:
        needs = self.state.needs.get(segment)
        if needs is not None and not needs.cids and not needs.keys:
            self._drop_records(segment)
            del self.state.needs[segment]
            self._supplied(segment)

    def _on_fetch(self, event: Result, rest: list[str]) -> None:
        segment, cid = SegmentId(int(rest[0])), Cid(rest[1])
        needs = self.state.needs.get(segment)
        if needs is None or cid not in needs.cids:
            return
        if isinstance(event, Failed):
            self._note("waiting", f"segment {segment}: a blob cannot be had: {event.error}", segment=segment, cid=cid)
            if event.fault is not Fault.PEER:  # a blob that is too large stays so
                self._later(self._refetch(segment, cid))
            return
        needs.cids.remove(cid)
        self._join_records(segment)
        self._look(segment)
        self._check_supplied(segment)

    def _refetch(self, segment: SegmentId, cid: Cid) -> Fetch:
        job = self.state.facts.segments[segment].job
        return Fetch(key=f"fetch:{segment}:{cid}", cid=cid, limit=self.base.max_blob, near=tuple(self.state.jobs[job].near))

    # ---- keys ------------------------------------------------------------------------------------------------------------

    def _waits_for(self, key: Digest) -> list[SegmentId]:
        return [segment for segment, needs in self.state.needs.items() if key in needs.keys]

    def _released(self, event: KeyReleased) -> None:
        known = event.key_id == NOTHING or event.key_id in self.state.keys
        if event.recipient != self.base.account or known or not self._wants_key(event):
            return
        holders = self._holders(event.segment)
        if holders is None:
            if not bundles.is_bundle(event.wrapped) or event.by == self._service(event.segment):
                self._store(event.segment, event.key_id, event.wrapped)
        elif place := holders.place(event.by):
            self._take_share(event.segment, event.key_id, place, event.wrapped)

    def _wants_key(self, event: KeyReleased) -> bool:
        """A key of a segment that this node has to do with. It may come before the needs are stated."""
        seg = self.state.facts.segments.get(event.segment)
        return seg is not None and (seg.provider == self.base.account or self.base.account in seg.verifiers)

    def _service(self, segment: SegmentId) -> Address:
        facts = self.state.facts
        service: Address = facts.jobs[facts.segments[segment].job].terms.key_service
        return service

    def _store(self, segment: SegmentId, key: Digest, wrapped: bytes) -> None:
        which = f":{sha256(wrapped)[:8].hex()}" if bundles.is_bundle(wrapped) else ""
        self._do(Do(key=f"key:{segment}:{key.hex()}{which}", task=StoreKey(key_id=key, wrapped=wrapped)))

    def _look(self, segment: SegmentId) -> None:
        """Are the keys of the records that are needed here, and true? When all shards are."""
        needs = self.state.needs.get(segment)
        seg = self.state.facts.segments.get(segment)
        if needs is None or seg is None or needs.cids or not any(key in needs.keys for key in needs.records):
            return
        needs.checks += 1
        spec = self.state.facts.jobs[seg.job].terms.spec
        self._do(Do(key=f"records:{segment}:{seg.round}:{needs.checks}", task=CheckRecords(segment=segment, spec=spec, places=needs.places)))

    def _on_records(self, event: Result, rest: list[str]) -> None:
        segment = SegmentId(int(rest[0]))
        needs, seg = self.state.needs.get(segment), self.state.facts.segments.get(segment)
        if needs is None or seg is None or rest[1:] != [str(seg.round), str(needs.checks)]:
            return  # of an earlier draw, which read less, or before more keys came
        if isinstance(event, Failed):
            return self._note("key", f"segment {segment}: the records to be checked cannot be opened: {event.error}", segment=segment)
        found: RecordsChecked = self._outcome(event, RecordsChecked)
        false = dict(found.false)
        for key in needs.records:
            if key in false:
                shared = self._holders(segment) is not None
                whose = "made of its key holders' parts, which are true: the fault of who dealt its keys" if shared else "released"
                text = f"segment {segment}: records cannot be opened with the keys of {key.hex()[:16]}… that were {whose}: {false[key]}"
                party = self.state.facts.jobs[seg.job].client if shared else self._service(segment)
                self._note("false-keys", text, segment=segment, key=key.hex(), party=party, reason=false[key])
            elif key in needs.keys and key not in found.missing:
                needs.keys.remove(key)
        self._check_supplied(segment)

    def _on_key(self, event: Result, rest: list[str]) -> None:
        segment, key = SegmentId(int(rest[0])), Digest(bytes.fromhex(rest[1]))
        if isinstance(event, Failed):
            self._note("key", f"segment {segment}: key {rest[1][:16]} is not usable: {event.error}", segment=segment, key=rest[1])
            if self._waits_for(key):
                self._ask_key(segment, key)
            return
        if self._outcome(event, KeyStored).whole:
            return self._kept(key)
        for waiting in self._waits_for(key):
            self._look(waiting)

    def _kept(self, key: Digest) -> None:
        self.state.keys.add(key)
        for waiting in self._waits_for(key):
            self.state.needs[waiting].keys.remove(key)
            self._check_supplied(waiting)

    def _ask_key(self, segment: SegmentId, key: Digest) -> None:
        seg = self.state.facts.segments.get(segment)
        spec = self._job(seg.job) if seg is not None else None
        if spec is not None and spec.key_holders is not None:
            self._ask_holders(segment, key, spec.key_holders, again=True)
            self._join_records(segment)
        elif spec is not None:
            message = KeyRequest(segment=segment, key_id=key)
            self._do(Ask(key=f"ask:{segment}:{key.hex()}", peer=spec.key_service_peer, message=message, patience=self.base.key_patience))

    def _on_ask(self, event: Result, rest: list[str]) -> None:
        segment, key = SegmentId(int(rest[0])), Digest(bytes.fromhex(rest[1]))
        waiting = self._waits_for(key)
        if not waiting:
            return
        place = int(rest[2]) if len(rest) > 2 else 0
        if isinstance(event, Answered) and isinstance(event.message, KeyGrant) and event.message.key_id == key:
            for wrapped in event.message.wrapped:
                if place:
                    self._take_share(segment, key, place, wrapped)
                else:
                    self._store(segment, key, wrapped)
            if place and segment in waiting and place not in (*self._given(segment, key), *self._shares(segment, key).false):
                self._unanswered(segment, key, place, "what it gives is not what is due")
            return
        why = event.error if isinstance(event, Failed) else "it answered something else"
        if place:
            return self._unanswered(segment, key, place, why)
        self._note("key", f"segment {segment}: the key service does not give key {rest[1][:16]}: {why}", segment=segment, key=rest[1])

    def _on_nag(self, event: Woke, rest: list[str]) -> None:
        segment = SegmentId(int(rest[0]))
        needs = self.state.needs.get(segment)
        if needs is None or not needs.keys:
            return
        for key in needs.keys:
            self._ask_key(segment, key)
        self._do(Wake(key=f"nag:{segment}", at=self._now + 2 * self.base.key_patience))
