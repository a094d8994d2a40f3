"""Keys that several holders share (assay.threshold): whom a node asks for its share, and what it does with those that come.

    asked        as many holders as are needed, each node beginning at another place of the ring; the next one for each that does not answer
    shares       one a holder, from its answer or its release on chain; the first that came counts
    gathering    as soon as there are enough: true shares give the key; a holder whose share is false is named, and made up for

Where a segment wants single records of a shard, what comes is parts of these (assay.partials), which count for that segment alone, in one answer or
several. They are gathered when so many holders have given parts of as many records as are read, and the masks are here. A share
is not what is due then, and is left alone.
"""

from __future__ import annotations

from assay import bundles, partials, reads, threshold
from assay.ids import Address, Digest, SegmentId
from assay.job import KeyHolders, ShardRef
from assay.merkle import sha256
from assay.messages import KeyRequest
from assay.role.base import RoleConfig, Shares
from assay.role.jobs import Jobs
from assay.runtime import Ask, Do, Done, Failed, Result
from assay.tasks import GatherKey, GatherRecords, KeyGathered, RecordsGathered

MOST_ANSWERS = 2 * (reads.MOST_READ // partials.MOST_TOGETHER + 1)
"""Of one holder, for the records of one shard that a segment wants: all of them, twice over."""


class Holding(Jobs):
    def __init__(self, config: RoleConfig) -> None:
        super().__init__(config)
        self._kinds |= {"shares": self._on_shares, "parts": self._on_parts}

    def _waits_for(self, key: Digest) -> list[SegmentId]:
        raise NotImplementedError

    def _kept(self, key: Digest) -> None:
        """It is stored here now."""
        raise NotImplementedError

    def _look(self, segment: SegmentId) -> None:
        """Keys of records are stored here now."""
        raise NotImplementedError

    def _envelope(self, segment: SegmentId, key: Digest) -> bytes:
        """The shared key's envelope, from the job's document or the parent's commitment; empty: there is none."""
        seg = self.state.facts.segments.get(segment)
        spec = self._job(seg.job) if seg is not None else None
        if seg is None or spec is None:
            return b""
        parent = self.state.facts.segments.get(seg.parent)
        if parent is not None and parent.key_id == key:
            return bytes(parent.key_envelope)
        return next((ref.envelope for ref in (spec.state, *spec.shared_blobs) if ref.key_id == key), b"")

    def _holders(self, segment: SegmentId) -> KeyHolders | None:
        seg = self.state.facts.segments.get(segment)
        spec = self._job(seg.job) if seg is not None else None
        return spec.key_holders if spec is not None else None

    def _entitled(self, segment: SegmentId, grants: list[Address]) -> bool:
        """Whether those who have released keys are the job's key service, or as many of its key holders as are needed."""
        holders, seg = self._holders(segment), self.state.facts.segments[segment]
        if holders is None:
            return self.state.facts.jobs[seg.job].terms.key_service in grants
        return len([who for who in grants if holders.place(who)]) >= holders.threshold

    def _wanted(self, segment: SegmentId, key: Digest) -> int:
        """How many records are wanted of the shard with this key; 0: the key itself is."""
        needs = self.state.needs.get(segment)
        return needs.records.get(key, 0) if needs is not None else 0

    def _shares(self, segment: SegmentId, key: Digest) -> Shares:
        name = f"{segment}/{key.hex()}" if self._wanted(segment, key) else key.hex()
        shares: Shares = self.state.shares.setdefault(name, Shares())
        return shares

    def _drop_records(self, segment: SegmentId) -> None:
        """What came of records that are not wanted any more, or were wanted in an earlier draw."""
        for name in [name for name in self.state.shares if name.startswith(f"{segment}/")]:
            del self.state.shares[name]

    def _given(self, segment: SegmentId, key: Digest) -> list[int]:
        """Places of the holders that have given what is wanted, as far as its size tells."""
        wanted = self._wanted(segment, key)
        have = self._shares(segment, key).have
        return [place for place, given in sorted(have.items()) if sum(map(bundles.count, given)) >= wanted]

    # ---- asking ----------------------------------------------------------------------------------------------------------

    def _ask_holders(self, segment: SegmentId, key: Digest, holders: KeyHolders, again: bool = False) -> None:
        """As many as are needed yet; `again`: whoever was asked before may be asked once more."""
        shares, given = self._shares(segment, key), self._given(segment, key)
        if again:
            shares.asked, shares.silent, shares.kept = [], [], False
        count = len(holders.members)
        first = sha256(self.base.account.encode(), key)[0] % count
        ring = [(first + i) % count + 1 for i in range(count)]
        free = [place for place in ring if place not in given and place not in shares.false and place not in shares.asked]
        waiting = len([place for place in shares.asked if place not in (*given, *shares.silent, *shares.false)])
        for place in free[: max(0, holders.threshold - len(given) - waiting)]:
            shares.asked.append(place)
            message = KeyRequest(segment=segment, key_id=key)
            peer = holders.members[place - 1].peer
            self._do(Ask(key=f"ask:{segment}:{key.hex()}:{place}", peer=peer, message=message, patience=self.base.key_patience))

    def _unanswered(self, segment: SegmentId, key: Digest, place: int, why: str) -> None:
        text = f"segment {segment}: key holder {place} does not give its share of key {key.hex()[:16]}: {why}"
        self._note("key", text, segment=segment, key=key.hex())
        self._shares(segment, key).silent.append(place)
        if (holders := self._holders(segment)) is not None:
            self._ask_holders(segment, key, holders)

    # ---- shares ----------------------------------------------------------------------------------------------------------

    def _take_share(self, segment: SegmentId, key: Digest, place: int, wrapped: bytes) -> None:
        holders, wanted = self._holders(segment), self._wanted(segment, key)
        if holders is None or bundles.is_bundle(wrapped) != bool(wanted):
            return
        shares = self._shares(segment, key)
        given = shares.have.get(place, [])
        if place in shares.false or wrapped in given or len(given) >= (MOST_ANSWERS if wanted else 1):
            return
        shares.have[place] = [*given, wrapped]
        self._join_shares(segment, key, holders)

    def _join_shares(self, segment: SegmentId, key: Digest, holders: KeyHolders) -> None:
        shares, given = self._shares(segment, key), self._given(segment, key)
        if shares.gathering or shares.kept or len(given) < holders.threshold:
            return
        if self._wanted(segment, key):
            return self._gather_parts(segment, key, shares, given)
        shares.gathering = True
        told = tuple((place, shares.have[place][0]) for place in given)
        self._do(Do(key=f"shares:{segment}:{key.hex()}", task=GatherKey(key_id=key, envelope=self._envelope(segment, key), shares=told)))

    def _on_shares(self, event: Result, rest: list[str]) -> None:
        segment, key = SegmentId(int(rest[0])), Digest(bytes.fromhex(rest[1]))
        shares = self.state.shares.setdefault(rest[1], Shares())
        shares.gathering = False
        match event:
            case Failed(error=error):
                self._note("key", f"segment {segment}: key {rest[1][:16]} is not usable: {error}", segment=segment, key=rest[1])
                return
            case Done(outcome=KeyGathered() as found):
                self._false(segment, key, shares, found.false)
                if found.kept:
                    self.state.shares.pop(rest[1], None)
                    return self._kept(key)
        self._go_on(segment, key)

    def _false(self, segment: SegmentId, key: Digest, shares: Shares, places: tuple[int, ...]) -> None:
        holders = self._holders(segment)
        for place in places:
            shares.have.pop(place, None)
            shares.false.append(place)
            who = holders.members[place - 1].account if holders is not None else ""
            text = f"segment {segment}: {who}, key holder {place}, gave a false share of key {key.hex()[:16]}"
            self._note("false-share", text, segment=segment, key=key.hex(), party=who, reason="false share")

    def _go_on(self, segment: SegmentId, key: Digest) -> None:
        holders = self._holders(segment)
        if holders is not None and self._waits_for(key):
            self._ask_holders(segment, key, holders)
            self._join_shares(segment, key, holders)

    # ---- parts of records ------------------------------------------------------------------------------------------------

    def _join_records(self, segment: SegmentId) -> None:
        """A blob has come: it may be the masks that were waited for."""
        needs, holders = self.state.needs.get(segment), self._holders(segment)
        if needs is not None and holders is not None:
            for key in [key for key in needs.records if key in needs.keys]:
                self._join_shares(segment, key, holders)

    def _gather_parts(self, segment: SegmentId, key: Digest, shares: Shares, places: list[int]) -> None:
        needs, seg = self.state.needs[segment], self.state.facts.segments[segment]
        if key not in needs.keys or any(masks in needs.cids for masks in threshold.masks_refs(self._with_key(segment, key))):
            return
        shares.gathering = True
        answers = tuple((place, tuple(shares.have[place])) for place in places)
        spec = self.state.facts.jobs[seg.job].terms.spec
        task = GatherRecords(spec=spec, places=needs.places, key_id=key, answers=answers)
        self._do(Do(key=f"parts:{segment}:{seg.round}:{key.hex()}", task=task))

    def _with_key(self, segment: SegmentId, key: Digest) -> list[ShardRef]:
        spec = self._job(self.state.facts.segments[segment].job)
        return [shard for shard in spec.dataset.shards if shard.sealed.key_id == key][:1] if spec is not None else []

    def _on_parts(self, event: Result, rest: list[str]) -> None:
        segment, key = SegmentId(int(rest[0])), Digest(bytes.fromhex(rest[2]))
        seg, shares = self.state.facts.segments.get(segment), self.state.shares.get(f"{segment}/{key.hex()}")
        if seg is None or shares is None or rest[1] != str(seg.round):
            return  # of an earlier draw
        shares.gathering = False
        match event:
            case Failed(error=error):
                return self._note("key", f"segment {segment}: key {rest[2][:16]} is not usable: {error}", segment=segment, key=rest[2])
            case Done(outcome=RecordsGathered() as found):
                self._false(segment, key, shares, found.false)
                for place in found.short:
                    shares.have.pop(place, None)
                    shares.silent.append(place)
                if found.kept:
                    shares.kept = True
                    return self._look(segment)
        self._go_on(segment, key)
