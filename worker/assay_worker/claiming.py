"""What a key service has put up for its keys (contract Sureties), as a provider claims it: by itself.

    keys were withheld from its verifiers to the end     ClaimSurety, at once: after a window its bond is free, and nothing tells the failure
    the key service objects to its checkpoint's envelope  ShowCheckpointKey: the key in the clear. The key service has it then, and what it still
                                                          keeps back is paid for. (It could have told the key to everybody itself.)
"""

from __future__ import annotations

from typing import Any

from assay.chain import CheckpointContested, ClaimSurety, JobVouched, ShowCheckpointKey, SuretyPaid, SuretyReturned, Unpaid, Withheld
from assay.facts import SegmentFacts
from assay.ids import SegmentId
from assay.runtime import Do, Failed, Result, Send
from assay.tasks import KeyTold, TellKey
from assay_worker.ending import Ending


class Claiming(Ending):
    def _surety(self, event: Any) -> None:
        """Every chain event comes by here."""
        match event:
            case JobVouched():
                self.state.vouched.add(event.job)
            case SuretyReturned():
                self.state.vouched.discard(event.job)
            case CheckpointContested() if event.segment in self.state.mine:
                seg = self.state.facts.segments[event.segment]
                text = f"segment {seg.segment}: the key service says that the envelope of its checkpoint does not open; the key is shown"
                self._note("surety", text, segment=seg.segment)
                self._do(Do(key=f"tell:{seg.segment}", task=TellKey(key_id=seg.key_id, checkpoint=seg.checkpoint)))
            case SuretyPaid() if event.provider == self.config.account:
                text = f"segment {event.segment}: the key service has paid {event.amount} for the keys that it kept back"
                self._note("surety", text, segment=event.segment, job=event.job, amount=event.amount)
            case _:
                pass

    def _claim(self, seg: SegmentFacts, event: Any) -> None:
        """A segment that has ended where its key service has put something up. A no of an earlier round makes such an end a withheld one."""
        keys = (isinstance(event, Unpaid) and event.reason == "keys withheld") or (isinstance(event, Withheld) and not seg.seal_by)
        if keys and seg.job in self.state.vouched:
            self._do(Send(key=f"claim:{seg.segment}", call=ClaimSurety(segment=seg.segment)))

    def _on_tell(self, event: Result, rest: list[str]) -> None:
        seg = self.state.facts.segments.get(SegmentId(int(rest[0])))
        if isinstance(event, Failed):
            return self._note("error", f"segment {rest[0]}: its checkpoint's key cannot be shown: {event.error}")
        if seg is not None and seg.live:
            told = self._outcome(event, KeyTold)
            call = ShowCheckpointKey(segment=seg.segment, checkpoint=told.checkpoint, key=told.key)
            self._do(Send(key=f"tellkey:{seg.segment}", call=call))

    def _on_claimed(self, event: Result, rest: list[str]) -> None:
        if isinstance(event, Failed):
            self._note("surety", f"segment {rest[0]}: nothing was paid for its keys: {event.error}", reason=event.error)

    def _on_told(self, event: Result, rest: list[str]) -> None:
        if isinstance(event, Failed):
            self._note("error", f"segment {rest[0]}: its checkpoint's key was not shown: {event.error}")
