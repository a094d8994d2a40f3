"""Handing seals and votes to who brings them: the provider posts those of the whole committee in one transaction, and pays for it.

    seal   signed -> handed over -> Sealed, seen on chain
    vote   with its openings, once all have sealed -> handed over -> Revealed, Opened, seen on chain

What the provider refuses, or what is not on the chain when a share of the time is over, this node sends itself: a provider that is away,
that keeps something back or leaves somebody out costs its verifiers gas, and no more. Nothing that is handed over can be turned against
this node: a seal hides what it seals, a vote is shown when nobody can change a seal any more, and the signature is for this round only.
"""

from __future__ import annotations

import msgspec

from assay import draw
from assay.chain import Attest, Opening, Reveal, Seal
from assay.facts import SegmentFacts
from assay.ids import Address, Digest, SegmentId
from assay.messages import SealMessage, VoteMessage
from assay.role import Role
from assay.runtime import Ask, Do, Failed, Result, Send, Wake, Woke
from assay.tasks import Signed, SignSeal
from assay_verifier.state import Duty, VerifierConfig, VerifierState

SHARE = 4
"""This part of the time that is left is given to who brings all seals, or all votes."""
LEAST = 4
"""Seconds of it, below which nobody is waited for."""


class Handing(Role):
    state: VerifierState
    config: VerifierConfig

    def _duty(self, rest: list[str]) -> tuple[Duty, SegmentFacts] | None:
        raise NotImplementedError

    def _reveal(self, duty: Duty, seg: SegmentFacts, openings: tuple[Opening, ...] = ()) -> None:
        raise NotImplementedError

    def _share(self, until: int) -> int:
        return (until - self._now) // SHARE

    # ---- seals -----------------------------------------------------------------------------------------------------------

    def _digest(self, segment: SegmentId, round: int, reveal: Reveal) -> Digest:
        told = (reveal.agrees, reveal.trace_roots, reveal.verifier, reveal.salt)
        return draw.attestation(self.config.chain_id, Address(self.config.contract), segment, round, *told)

    def _seal(self, segment: SegmentId, round: int, reveal: Reveal) -> Attest:
        digest = self._digest(segment, round, reveal)
        return Attest(segment=segment, seals=(Seal(verifier=reveal.verifier, digest=digest, signature=b""),))

    def _hand_seal(self, duty: Duty, seg: SegmentFacts) -> None:
        assert duty.reveal is not None
        if self._share(seg.seal_by) < LEAST or not self.state.facts.peer(seg.provider):
            return self._seal_alone(duty)
        task = SignSeal(segment=duty.segment, round=duty.round, digest=self._digest(duty.segment, duty.round, duty.reveal))
        self._do(Do(key=f"sealing:{duty.segment}:{duty.round}", task=task))

    def _on_sealing(self, event: Result, rest: list[str]) -> None:
        found = self._duty(rest)
        if found is None or found[0].reveal is None:
            return
        duty, seg = found
        if isinstance(event, Failed):
            return self._seal_alone(duty)
        assert duty.reveal is not None
        signed: Signed = self._outcome(event, Signed)
        digest, share = self._digest(duty.segment, duty.round, duty.reveal), max(1, self._share(seg.seal_by))
        message = SealMessage(
            segment=duty.segment, round=duty.round, verifier=self.config.account, digest=digest, signature=signed.signature,
        )  # fmt: skip
        peer = self.state.facts.peer(seg.provider)
        if peer:
            self._do(Ask(key=f"hand:seal:{duty.segment}:{duty.round}", peer=peer[0], message=message, patience=share))
        self._do(Wake(key=f"alone:seal:{duty.segment}:{duty.round}", at=self._now + share))

    def _seal_alone(self, duty: Duty) -> None:
        assert duty.reveal is not None
        self._do(Send(key=f"seal:{duty.segment}:{duty.round}", call=self._seal(duty.segment, duty.round, duty.reveal)))

    # ---- votes -----------------------------------------------------------------------------------------------------------

    def _hand_vote(self, duty: Duty, seg: SegmentFacts, openings: tuple[Opening, ...]) -> None:
        peer, share = self.state.facts.peer(seg.provider), self._share(seg.reveal_by)
        if share < LEAST or not peer:
            return self._reveal(duty, seg, openings)
        assert duty.reveal is not None
        duty.reveal = msgspec.structs.replace(duty.reveal, openings=openings)
        message = VoteMessage(segment=duty.segment, round=duty.round, vote=duty.reveal)
        self._do(Ask(key=f"hand:vote:{duty.segment}:{duty.round}", peer=peer[0], message=message, patience=share))
        self._do(Wake(key=f"alone:vote:{duty.segment}:{duty.round}", at=self._now + share))

    # ---- what became of it -----------------------------------------------------------------------------------------------

    def _on_hand(self, event: Result, rest: list[str]) -> None:
        """Taken: then the chain will show it. Not taken: alone, now."""
        if isinstance(event, Failed):
            self._stand_alone(rest)

    def _on_alone(self, event: Woke, rest: list[str]) -> None:
        self._stand_alone(rest)

    def _stand_alone(self, rest: list[str]) -> None:
        found = self._duty(rest[1:])
        if found is None or found[0].phase != "sealed" or found[0].reveal is None:
            return
        duty, seg = found
        assert duty.reveal is not None
        if rest[0] == "vote":
            if self.config.account not in seg.revealed:
                self._reveal(duty, seg, duty.reveal.openings)
        elif self.config.account not in seg.sealed and self._now <= seg.seal_by and not duty.alone:
            duty.alone = True
            self._seal_alone(duty)
