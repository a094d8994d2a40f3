"""Keys that several holders share (assay.threshold): whom a node asks for its share, and what it does with those that come.

    asked        as many holders as are needed, each node beginning at another place of the ring; the next one for each that does not answer
    shares       one a holder, from its answer or its release on chain; the first that came counts
    gathering    as soon as there are enough: true shares give the key; a holder whose share is false is named, and made up for
"""

from __future__ import annotations

from assay.ids import Address, Digest, SegmentId
from assay.job import KeyHolders
from assay.merkle import sha256
from assay.messages import KeyRequest
from assay.role.base import RoleConfig, Shares
from assay.role.jobs import Jobs
from assay.runtime import Ask, Do, Done, Failed, Result
from assay.tasks import GatherKey, KeyGathered


class Holding(Jobs):
    def __init__(self, config: RoleConfig) -> None:
        super().__init__(config)
        self._kinds |= {"shares": self._on_shares}

    def _waits_for(self, key: Digest) -> list[SegmentId]:
        raise NotImplementedError

    def _kept(self, key: Digest) -> None:
        """It is stored here now."""
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

    def _shares(self, key: Digest) -> Shares:
        shares: Shares = self.state.shares.setdefault(key, Shares())
        return shares

    # ---- asking ----------------------------------------------------------------------------------------------------------

    def _ask_holders(self, segment: SegmentId, key: Digest, holders: KeyHolders, again: bool = False) -> None:
        """As many as are needed yet; `again`: whoever was asked before may be asked once more."""
        shares = self._shares(key)
        if again:
            shares.asked, shares.silent = [], []
        count = len(holders.members)
        first = sha256(self.base.account.encode(), key)[0] % count
        ring = [(first + i) % count + 1 for i in range(count)]
        free = [place for place in ring if place not in shares.have and place not in shares.false and place not in shares.asked]
        waiting = len([place for place in shares.asked if place not in shares.have and place not in shares.silent])
        for place in free[: max(0, holders.threshold - len(shares.have) - waiting)]:
            shares.asked.append(place)
            message = KeyRequest(segment=segment, key_id=key)
            peer = holders.members[place - 1].peer
            self._do(Ask(key=f"ask:{segment}:{key.hex()}:{place}", peer=peer, message=message, patience=self.base.key_patience))

    def _unanswered(self, segment: SegmentId, key: Digest, place: int, why: str) -> None:
        text = f"segment {segment}: key holder {place} does not give its share of key {key.hex()[:16]}: {why}"
        self._note("key", text, segment=segment, key=key.hex())
        self._shares(key).silent.append(place)
        if (holders := self._holders(segment)) is not None:
            self._ask_holders(segment, key, holders)

    # ---- shares ----------------------------------------------------------------------------------------------------------

    def _take_share(self, segment: SegmentId, key: Digest, place: int, wrapped: bytes) -> None:
        shares, holders = self._shares(key), self._holders(segment)
        if holders is None or place in shares.have or place in shares.false:
            return
        shares.have[place] = wrapped
        self._join_shares(segment, key, holders)

    def _join_shares(self, segment: SegmentId, key: Digest, holders: KeyHolders) -> None:
        shares = self._shares(key)
        if shares.gathering or len(shares.have) < holders.threshold:
            return
        shares.gathering = True
        told = tuple(sorted(shares.have.items()))
        self._do(Do(key=f"shares:{segment}:{key.hex()}", task=GatherKey(key_id=key, envelope=self._envelope(segment, key), shares=told)))

    def _on_shares(self, event: Result, rest: list[str]) -> None:
        segment, key = SegmentId(int(rest[0])), Digest(bytes.fromhex(rest[1]))
        shares, holders = self._shares(key), self._holders(segment)
        shares.gathering = False
        match event:
            case Failed(error=error):
                self._note("key", f"segment {segment}: key {rest[1][:16]} is not usable: {error}", segment=segment, key=rest[1])
                return
            case Done(outcome=KeyGathered() as found):
                for place in found.false:
                    shares.have.pop(place, None)
                    shares.false.append(place)
                    who = holders.members[place - 1].account if holders is not None else ""
                    text = f"segment {segment}: {who}, key holder {place}, gave a false share of key {rest[1][:16]}"
                    self._note("false-share", text, segment=segment, key=rest[1], party=who, reason="false share")
                if found.kept:
                    self.state.shares.pop(key, None)
                    return self._kept(key)
        if holders is not None and self._waits_for(key):
            self._ask_holders(segment, key, holders)
            self._join_shares(segment, key, holders)
