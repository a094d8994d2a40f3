"""What a client may ask for off chain while its job runs: the checkpoint of each segment that has settled, so that it can check any step
of its job from the state before it. The key is wrapped when the segment settles, before the facts of it are forgotten.
"""

from __future__ import annotations

from assay import reads
from assay.facts import SegmentFacts
from assay.ids import Address, Digest, SegmentId
from assay.keyservice.base import Base
from assay.keyservice.state import SHOWN, Envelope, JobKeys
from assay.runtime import Do, Done, Result
from assay.tasks import DrawnKeys, KeysWrapped, WrapKeys


class Showing(Base):
    def _show(self, seg: SegmentFacts) -> None:
        found, client = self.state.checkpoints.get(seg.segment), self.state.facts.jobs[seg.job].client
        if found is not None and found.checked and not found.bad and client in self.state.facts.people:
            recipient = (client, self.state.facts.people[client].encryption_key)
            self._do(Do(key=f"show:{seg.segment}", task=wrap([found.envelope], [recipient])))

    def _shown(self, segment: SegmentId, event: Result) -> None:
        match event:
            case Done(outcome=KeysWrapped(releases=(release,))):
                self.state.shown[segment] = release
                while len(self.state.shown) > SHOWN:
                    del self.state.shown[next(iter(self.state.shown))]
            case _:
                self._note("error", f"segment {segment}: its checkpoint's key could not be wrapped for the client", segment=segment)


def wrap(envelopes: list[Envelope], recipients: list[tuple[Address, bytes]] | None = None, drawn: DrawnKeys | None = None) -> WrapKeys:
    return WrapKeys(envelopes=tuple(dict.fromkeys(_told(envelopes))), recipients=tuple(recipients or ()), drawn=drawn)


def drawn_keys(keys: JobKeys, seg: SegmentFacts) -> DrawnKeys:
    """What the links that were drawn of a segment in all its rounds read. The job's document has been read."""
    assert keys.reading is not None
    where = reads.places(seg.units, seg.start, keys.reading.micro_batches)
    return DrawnKeys(shards=tuple(_told(keys.shards)), reading=keys.reading, places=where)


def _told(envelopes: list[Envelope]) -> list[tuple[Digest, bytes, Address, bytes]]:
    return [(envelope.key_id, envelope.wrapped, envelope.publisher, envelope.root) for envelope in envelopes]

