"""What a scheduler does with its hands: read job documents, check who signed an offer."""

from __future__ import annotations

from collections.abc import Callable

from assay.hands import load_job
from assay.ports import Blobs, Chain
from assay.runtime import Fault, Note, TaskFailed
from assay.tasks import AnyOutcome, AnyTask, LoadJob, OfferVerified, VerifyOffer


class SchedulerHands:
    """Implements assay.daemon.Hands."""

    def __init__(self, blobs: Blobs, chain: Chain) -> None:
        self.blobs = blobs
        self.chain = chain

    async def perform(self, task: AnyTask, note: Callable[[Note], None]) -> AnyOutcome:
        match task:
            case LoadJob():
                return await load_job(self.blobs, task)
            case VerifyOffer():
                signer = self.chain.offer_signer(task.offer, task.signature)
                if signer != task.offer.provider:
                    raise TaskFailed(Fault.PEER, f"the offer in the name of {task.offer.provider} was signed by {signer or 'nobody'}")
                return OfferVerified()
            case _:
                raise TaskFailed(Fault.OWN, f"a scheduler does not do {type(task).__name__}")
