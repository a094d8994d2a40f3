"""What a scheduler does with its hands: read job documents, check who signed an offer, examine what its provider has proven of its
hardware, and keep what jobs need until nobody goes on from there any more.

An offer does not wait for an examination: that goes on beside it, and counts for the next offer of the same provider.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from assay.hands import load_job
from assay.ids import Address, Digest
from assay.messages import Hardware, PeerRecord
from assay.ports import Blobs, Chain, Finder, Outage, Peers, Stamps
from assay.runtime import Fault, Note, TaskFailed
from assay.tasks import AnyOutcome, AnyTask, FindNodes, KeepBlob, LoadJob, NodesFound, OfferVerified, PinsSet, ReleaseBlobs, VerifyOffer

if TYPE_CHECKING:
    from assay.proving.claims import Proven

MAX_EXAMINED = 4096
"""Accounts whose examination is remembered."""
MOST_KNOWN = 16
"""Workers; in a larger network a range is worth the wait for more offers, and nobody lists them all."""
AT_ONCE = 2
"""Examinations: each fetches a blob of some megabytes."""


class SchedulerHands:
    """Implements assay.daemon.Hands. Without `peers` nobody is known to be there, without `stamps` no hardware is examined, and without
    `finder` no nodes are looked for."""

    def __init__(
        self, blobs: Blobs, chain: Chain, peers: Peers | None = None, stamps: Stamps | None = None, finder: Finder | None = None
    ) -> None:
        self.blobs, self.chain, self.peers, self.stamps, self.finder = blobs, chain, peers, stamps, finder
        self._examined: dict[Address, tuple[Digest, Proven | None]] = {}
        """The last proof of an account that was examined, and what it shows; None when it proves nothing."""
        self._examining: dict[Address, asyncio.Task[None]] = {}

    async def perform(self, task: AnyTask, note: Callable[[Note], None]) -> AnyOutcome:
        match task:
            case LoadJob():
                return await load_job(self.blobs, task)
            case VerifyOffer():
                signer = self.chain.offer_signer(task.offer, task.signature)
                if signer != task.offer.provider:
                    raise TaskFailed(Fault.PEER, f"the offer in the name of {task.offer.provider} was signed by {signer or 'nobody'}")
                proven, view = self._proven(task.offer.provider, note), await self.chain.view(task.offer.provider)
                free = view.stake - view.reserved
                at, memory, rate = (proven.at, proven.memory, proven.rate) if proven is not None else (0, 0, 0)
                return OfferVerified(proven_at=at, memory=memory, rate=rate, free=free, workers=self._workers())
            case FindNodes() if self.finder is not None:
                found = await self.finder.find(task.means)
                return NodesFound(peers=tuple(record.peer for record in found))
            case KeepBlob():
                await self.blobs.pin(task.cid, task.until)
                await self.blobs.lapse((await self.chain.head()).time)
                return PinsSet()
            case ReleaseBlobs():
                for cid in task.cids:
                    await self.blobs.unpin(cid)
                return PinsSet()
            case _:
                raise TaskFailed(Fault.OWN, f"a scheduler does not do {type(task).__name__}")

    def _records(self) -> list[PeerRecord]:
        return self.peers.records() if self.peers is not None else []

    def _workers(self) -> tuple[Address, ...]:
        known = sorted({record.account for record in self._records() if record.role == "worker"})
        return tuple(known) if len(known) <= MOST_KNOWN else ()

    def _proven(self, who: Address, note: Callable[[Note], None]) -> Proven | None:
        """Of its last proof; what has not been examined is examined now, for the next time."""
        told = next((r.hardware for r in self._records() if r.account == who and r.hardware), None) if self.stamps is not None else None
        if told is None:
            return None
        transaction, found = self._examined.get(who, (Digest(b""), None))
        if transaction != told.transaction and who not in self._examining and len(self._examining) < AT_ONCE:
            self._examining[who] = asyncio.create_task(self._examine(who, told, note))
            self._examining[who].add_done_callback(lambda _: self._examining.pop(who, None))
        return found

    async def _examine(self, who: Address, told: Hardware, note: Callable[[Note], None]) -> None:
        from assay.proving.claims import examine
        from assay.proving.proof import Refuted

        assert self.stamps is not None
        try:
            shown = await examine(self.stamps, self.blobs, who, told)
            proven: Proven | None = shown
            text = f"{who} has proven {shown.memory / 2**30:.2f} GiB and {shown.rate / 1e9:.1f} billion operations a second"
        except Refuted as error:
            proven, text = None, f"{who} has proven no hardware: {error}"
        except Outage:
            return
        if len(self._examined) >= MAX_EXAMINED:
            del self._examined[next(iter(self._examined))]
        self._examined[who] = (told.transaction, proven)
        note(Note(topic="hardware", text=text, data={"provider": who, "at": proven.at if proven is not None else 0}))
