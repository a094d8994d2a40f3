"""Who may go on placing a job when its scheduler is silent: the list of its client, kept by the contract Takeovers (docs/scheduler.md)."""

from __future__ import annotations

from assay.chain import CallId, Entrust, SegmentState
from assay.ids import Address, Digest
from assay.ports import Chain
from assay.receipts import Ledger


def reliable(ledger: Ledger, most: int = 64) -> tuple[Address, ...]:
    """Providers of whom something has settled and nothing was refuted on this contract, who settled most first."""
    good: dict[Address, int] = {}
    refuted = {s.provider for s in ledger.segments.values() if s.state in (SegmentState.WITHHELD, SegmentState.REJECTED)}
    for segment in ledger.segments.values():
        if segment.state == SegmentState.SETTLED and segment.provider not in refuted:
            good[segment.provider] = good.get(segment.provider, 0) + 1
    return tuple(sorted(good, key=lambda who: (-good[who], who))[:most])


async def entrust(chain: Chain, spec_digest: Digest, scheduler: Address, patience: int, providers: tuple[Address, ...]) -> None:
    """Says who places the job that will be posted with this document: `scheduler`, and for it, when a range has been open for `patience` seconds of
    the chain's clock, anybody with one of `providers`. Raises Reverted, Outage."""
    call = Entrust(spec_digest=spec_digest, scheduler=scheduler, patience=patience, providers=providers)
    await chain.send(CallId(f"entrust:{spec_digest.hex()}"), call)
