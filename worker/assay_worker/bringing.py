"""Bringing the verifiers' seals and votes to the chain, all of a committee in one transaction: who wants to be paid pays for it.

    seal, vote   a drawn verifier hands it over -> checked (one bad one would spoil the call that carries all) -> kept
    brought      when all have come: at once if no other segment of this provider's is on its way, else with the next beat of the clock
                 (assay.beats), which the others' calls share, settlements among them. Or, of those that have come, when a share of the
                 time is over since the last one; in the order of the draw
    alone        what is not on the chain by a greater share of the time its verifier sends itself (assay_verifier.handing)

A provider that keeps a seal or a vote to itself wins nothing: it was worth what its own call would have been.
"""

from __future__ import annotations

from assay.beats import SETTLING, beat
from assay.chain import MOST_CALLS, Attest, Batch, BatchedCall, Reveal, RevealAll, Seal, SegmentState
from assay.facts import SegmentFacts
from assay.ids import Address, PeerId, SegmentId
from assay.messages import Ack, Refusal, SealMessage, VoteMessage
from assay.runtime import Do, Failed, Result, Send, Wake, Woke
from assay.tasks import VerifySeal, VerifyVote, VoteVerified
from assay_worker.serving import MAX_SIGNATURE, Serving
from assay_worker.state import Mine, Waiting

SHARE = 8
"""A seal or vote waits for the others for this part of the time that is left for all."""
PATIENCE = 6
"""And for other segments' calls for this part of it, from the first that came on: less than verifiers wait before they go alone."""
MAX_PATH = 64
MAX_ROOTS = 64
MAX_OPENINGS = 8


class Bringing(Serving):
    # ---- taking ----------------------------------------------------------------------------------------------------------

    def _take_seal(self, peer: PeerId, message: SealMessage) -> Ack | Refusal:
        found = self._drawn_verifier(peer, message.segment, message.round)
        if isinstance(found, Refusal):
            return found
        mine, seg, who = found
        if message.verifier != who or len(message.signature) > MAX_SIGNATURE or len(message.digest) != 32:
            return Refusal(reason="this is not a seal of the verifier who sends it")
        if seg.state != SegmentState.SERVED:  # it may be final at the verifier's chain node and not yet at this one's
            return Refusal(reason=f"segment {seg.segment} is not served yet", retry_after=1)
        if who not in seg.sealed and who not in mine.seals and f"seal:{who}" not in mine.checking:
            mine.checking[f"seal:{who}"] = Seal(verifier=who, digest=message.digest, signature=message.signature)
            task = VerifySeal(segment=seg.segment, round=seg.round, verifier=who, digest=message.digest, signature=message.signature)
            self._do(Do(key=f"seal:{seg.segment}:{seg.round}:{who}", task=task))
        return Ack()

    def _take_vote(self, peer: PeerId, message: VoteMessage) -> Ack | Refusal:
        found = self._drawn_verifier(peer, message.segment, message.round)
        if isinstance(found, Refusal):
            return found
        (mine, seg, who), vote = found, message.vote
        if not seg.drawing_block or seg.opening_block:
            return Refusal(reason=f"segment {seg.segment} does not wait for votes", retry_after=0 if seg.opening_block else 1)
        fits = len(vote.trace_roots) <= MAX_ROOTS and len(vote.openings) <= MAX_OPENINGS and all(len(o.proof) <= MAX_PATH for o in vote.openings)
        words = (*vote.trace_roots, vote.salt, *(word for o in vote.openings for word in (o.leaf, *o.proof)))
        digest = seg.digests.get(who)
        if vote.verifier != who or not fits or any(len(word) != 32 for word in words) or digest is None:
            return Refusal(reason="this is not a vote of the verifier who sends it")
        if who not in seg.revealed and who not in mine.votes and f"vote:{who}" not in mine.checking:
            mine.checking[f"vote:{who}"] = vote
            task = VerifyVote(
                segment=seg.segment, round=seg.round, opening_block=seg.drawing_block, units=seg.units,
                terms=self.state.facts.jobs[seg.job].terms, digest=digest, vote=vote,
            )  # fmt: skip
            self._do(Do(key=f"vote:{seg.segment}:{seg.round}:{who}", task=task))
        return Ack()

    def _on_seal(self, event: Result, rest: list[str]) -> None:
        self._checked("seal", event, rest)

    def _on_vote(self, event: Result, rest: list[str]) -> None:
        self._checked("vote", event, rest)

    def _checked(self, what: str, event: Result, rest: list[str]) -> None:
        found, who = self._collecting(rest), Address(rest[2])
        if found is None:
            return
        mine, seg = found
        kept = mine.checking.pop(f"{what}:{who}", None)
        if isinstance(event, Failed) or kept is None:
            return self._note("error", f"segment {seg.segment}: a {what} of {who} could not be checked", segment=seg.segment, verifier=who)
        checked: VoteVerified = self._outcome(event, VoteVerified)
        if not checked.valid:
            return self._note("vote", f"segment {seg.segment}: a {what} of {who} is not its own", segment=seg.segment, verifier=who)
        if isinstance(kept, Seal):
            mine.seals[who] = kept
        else:
            mine.votes[who] = kept
        self._gather_votes(what, mine, seg)

    def _collecting(self, rest: list[str]) -> tuple[Mine, SegmentFacts] | None:
        """The segment, if this round of it is still voted on."""
        mine, seg = self.state.mine.get(SegmentId(int(rest[0]))), self.state.facts.segments.get(SegmentId(int(rest[0])))
        if mine is None or seg is None or seg.round != int(rest[1]) or seg.state != SegmentState.SERVED:
            return None
        return mine, seg

    # ---- bringing --------------------------------------------------------------------------------------------------------

    def _gather_votes(self, what: str, mine: Mine, seg: SegmentFacts) -> None:
        """Brings them when all are there; else waits some time for the next."""
        until = seg.seal_by if what == "seal" else seg.reveal_by
        have: set[Address] = set(mine.seals if what == "seal" else mine.votes) | set(seg.sealed if what == "seal" else seg.revealed)
        latest = mine.waits.setdefault(what, self._now + (until - self._now) // PATIENCE)
        if have >= set(seg.verifiers):
            window = self.state.facts.jobs[seg.job].terms.params.challenge_window
            most = min(latest - self._now, window // SETTLING)
            return self._bring(what, mine, seg, beat(self._now, most) if self._company(seg, voting=True) else self._now)
        wait = min(self._now + (until - self._now) // SHARE, latest)
        self._do(Wake(key=f"gather:{what}:{seg.segment}:{seg.round}:{len(have)}", at=max(self._now + 1, wait)))

    def _on_gather(self, event: Woke, rest: list[str]) -> None:
        found = self._collecting(rest[1:])
        if found is not None:
            self._bring(rest[0], *found, self._now)

    def _bring(self, what: str, mine: Mine, seg: SegmentFacts, at: int) -> None:
        order = [who for who in seg.verifiers if f"{what}:{who}" not in mine.brought]
        call: Attest | RevealAll | Batch
        if what == "seal":
            seals = tuple(mine.seals[who] for who in order if who in mine.seals and who not in seg.sealed)
            if seg.drawing_block or not seals:
                return
            mine.brought += [f"seal:{seal.verifier}" for seal in seals]
            call = Attest(segment=seg.segment, seals=seals)
        else:
            votes = tuple(mine.votes[who] for who in order if who in mine.votes and who not in seg.revealed)
            if seg.opening_block or not votes:
                return
            mine.brought += [f"vote:{vote.verifier}" for vote in votes]
            call = self._votes(seg, votes)
        self.state.outbox.append(Waiting(call, at))
        self._do(Wake(key=f"post:{seg.segment}:{seg.round}:{len(mine.brought)}", at=at))

    @staticmethod
    def _votes(seg: SegmentFacts, votes: tuple[Reveal, ...]) -> RevealAll | Batch:
        call = RevealAll(segment=seg.segment, reveals=votes)
        return call if tuple(vote.verifier for vote in votes) == seg.verifiers else seg.alone(seg.round, call)

    def _on_post(self, event: Woke, rest: list[str]) -> None:
        """All that has waited for this beat, and what may be settled, in as few transactions as can be. What waits for a later one stays: the
        votes of segments whose seals go together come together, too."""
        due: list[BatchedCall] = []
        for call in (waiting.call for waiting in self.state.outbox if waiting.at <= self._now):
            due += call.calls if isinstance(call, Batch) else (call,)
        self.state.outbox = [waiting for waiting in self.state.outbox if waiting.at > self._now]
        if not due:
            return
        due += self._ripe()
        for first in range(0, len(due), MOST_CALLS):
            calls = due[first : first + MOST_CALLS]
            self.state.posts += 1
            sent = calls[0] if len(calls) == 1 else Batch(calls=tuple(calls))
            self._do(Send(key=f"posted:{self.state.posts}", call=sent))

    def _on_posted(self, event: Result, rest: list[str]) -> None:
        """What was not taken its verifiers send themselves."""
        if isinstance(event, Failed):
            self._note("waiting", f"seals or votes of others were not taken: {event.error}")
