"""Clients that change their mind, or never meant it."""

from __future__ import annotations

from typing import Any

import msgspec

from assay.chain import SegmentState
from assay.job import SealedRef
from assay.sim.world import World


class WithdrawsMoney(World):
    """Cancels its job as soon as a segment of it is committed."""

    def _on_block(self) -> None:
        super()._on_block()
        committed = [s for s in self.receipts.segments.values() if s.state == SegmentState.COMMITTED]
        for job in {segment.job for segment in committed}:
            if not self.receipts.jobs[job].cancelled:
                self.cancel(job)


class WithholdsKeys(World):
    """Publishes envelopes that do not open to the keys of its data."""

    def _sealed(self, number: int, what: str, body: Any) -> SealedRef:
        return msgspec.structs.replace(super()._sealed(number, what, body), envelope=bytes(80))
