"""What a client may ask for off chain while its job runs: the checkpoint of each segment that has settled, so that it can check any step
of its job from the state before it. The key is wrapped when the segment settles, before the facts of it are forgotten.
"""

from __future__ import annotations

from assay.facts import SegmentFacts
from assay.ids import Address, SegmentId
from assay.keyservice.base import Base
from assay.keyservice.state import SHOWN, Envelope
from assay.runtime import Do, Done, Result
from assay.tasks import KeysWrapped, WrapKeys


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


def wrap(envelopes: list[Envelope], recipients: list[tuple[Address, bytes]] | None = None) -> WrapKeys:
    named = dict.fromkeys((envelope.key_id, envelope.wrapped, envelope.publisher, envelope.root) for envelope in envelopes)
    return WrapKeys(envelopes=tuple(named), recipients=tuple(recipients or ()))

