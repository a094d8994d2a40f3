"""The audit's way through a segment, third part: how it ends, and who is paid."""

from __future__ import annotations

from collections import Counter

from assay import chain
from assay.audit.books import Seg, told
from assay.audit.committee import Committee
from assay.audit.record import Entry
from assay.chain import AnyChainEvent, SegmentState
from assay.ids import Address

MOST_COUNTED = 65_535
"""Settled segments of a provider (contracts/src/jobs/Base.sol)."""


class Ends(Committee):
    def attested(self, entry: Entry, event: chain.Attested, seg: Seg) -> None:
        job, check = self.books.jobs[seg.job], seg.sheet.check
        p = job.terms.params
        self.expect_state(seg, event, SegmentState.SERVED)
        yes, no = self.decided(seg, event, job)
        last = seg.round >= p.redraws and no < p.quorum and not seg.negatives
        check("verdict", yes >= p.quorum or last, f"it is attested with {yes} yes and {no} no in round {seg.round}, the quorum is {p.quorum}")
        self.window(seg, event, event.settle_after, event.time, p.challenge_window * (1 if yes >= p.quorum else 4))
        seg.state, seg.opening, seg.settle_after = SegmentState.ATTESTED, False, event.settle_after

    def withheld(self, entry: Entry, event: chain.Withheld, seg: Seg) -> None:
        job, check = self.books.jobs[seg.job], seg.sheet.check
        p = job.terms.params
        self.expect_state(seg, event, SegmentState.SERVED, SegmentState.DRAWN, SegmentState.COMMITTED)
        yes, last = 0, seg.round >= p.redraws
        if seg.state == SegmentState.SERVED:
            yes, no = self.decided(seg, event, job)
            right = yes < p.quorum and (no >= p.quorum or (last and seg.negatives > 0))
        else:
            right = seg.negatives > 0 and self._no_committee(seg, event) is not None
        check("verdict", right, f"it is withheld with {event.yes} yes and {event.no} no, the quorum is {p.quorum}")
        votes = (event.yes, event.no) == (yes, seg.negatives)
        check("verdict", votes, f"{told(event)} tells {event.yes} yes and {event.no} no; there were {yes} and {seg.negatives}")
        seg.settle_after = event.time + p.challenge_window
        self.end(seg, event, SegmentState.WITHHELD)

    def unpaid(self, entry: Entry, event: chain.Unpaid, seg: Seg) -> None:
        check = seg.sheet.check
        self.expect_state(seg, event, SegmentState.DRAWN, SegmentState.COMMITTED)
        reason = self._no_committee(seg, event)
        check("verdict", event.reason == reason, f"it is unpaid as {event.reason!r}; the rules make it {reason!r}")
        check("verdict", not seg.negatives, f"it is unpaid, though {seg.negatives} verifiers had said no")
        if event.reason == "too few verifiers" and not seg.disputes:
            self.stakes.release(seg.provider, seg.number)
        seg.settle_after = event.time + self.books.jobs[seg.job].terms.params.challenge_window
        self.end(seg, event, SegmentState.UNPAID)

    def _no_committee(self, seg: Seg, event: AnyChainEvent) -> str | None:
        """Why no committee came about for good; None when one might have."""
        job = self.books.jobs[seg.job]
        if seg.state == SegmentState.DRAWN:
            reason = self._unserved(seg, event, job)
            if reason == "not served" and not seg.asked_block:
                return None
            return reason if seg.round >= job.terms.params.redraws else None
        self.after(seg, event, seg.draw_by)
        seed = self._seed(seg, event)
        few = seed is None or len(self._select(seg, job, seed)) < job.terms.params.quorum
        return "too few verifiers" if few else None

    def voided(self, entry: Entry, event: chain.Voided, seg: Seg) -> None:
        above = self.books.segs.get(seg.parent)
        if above is not None and above.state in chain.FAILED:
            seg.sheet.check("verdict", seg.state not in chain.TERMINAL, f"it was {seg.state.name.lower()} before it was void")
            self.undisputed(seg, event)
        else:
            seg.sheet.check("verdict", seg.voids, "it is void, and neither has what it builds on failed nor was a dispute void")
        self.stakes.release(seg.provider, seg.number)
        self.end(seg, event, SegmentState.VOID)

    def settled(self, entry: Entry, event: chain.Settled, seg: Seg) -> None:
        check, above = seg.sheet.check, self.books.segs.get(seg.parent)
        self.expect_state(seg, event, SegmentState.ATTESTED)
        self.after(seg, event, seg.settle_after)
        self.undisputed(seg, event)
        before = above is None or above.state == SegmentState.SETTLED
        check("verdict", before, f"it settled before segment {seg.parent}, which it builds on")
        check("money", event.price == seg.price, f"its price was told as {event.price}; offer and steps make it {seg.price}")
        check("money", event.provider == seg.provider, f"{event.provider} is told as its provider, it is {seg.provider}")
        self.stakes.release(seg.provider, seg.number)
        self.books.settled[seg.provider] = min(self.books.settled[seg.provider] + 1, MOST_COUNTED)
        self.end(seg, event, SegmentState.SETTLED)

    def rejected(self, entry: Entry, event: chain.Rejected, seg: Seg) -> None:
        self.expect_state(seg, event, SegmentState.DRAWN, SegmentState.SERVED, SegmentState.ATTESTED)
        seg.sheet.check("verdict", seg.falls, "it is rejected, and its provider has lost no dispute")
        seg.falls = False
        self.end(seg, event, SegmentState.REJECTED)

    def bond_cleared(self, entry: Entry, event: chain.BondCleared, seg: Seg) -> None:
        self.expect_state(seg, event, SegmentState.UNPAID, SegmentState.WITHHELD, SegmentState.REJECTED)
        if seg.state != SegmentState.REJECTED or seg.pardoned is not None:
            self.after(seg, event, seg.settle_after)
        self.undisputed(seg, event)
        job, owed, back = self.books.jobs[seg.job], Counter[tuple[Address, int, str]](), seg.held
        if job.closed:
            owed[job.client, back, "refund"] += 1
        else:
            job.escrow += back
        seg.held = 0
        self.owes(seg, event, owed)
        there = self.stakes.reservation(seg.provider, seg.number)
        seg.sheet.check("money", event.amount == there, f"{event.amount} of its bond came free, {there} were reserved")
        self.stakes.release(seg.provider, seg.number)

    # ---- the job ---------------------------------------------------------------------------------------------------------

    def closed(self, event: chain.JobClosed) -> None:
        job = self.books.jobs[event.job]
        check = job.sheet.check
        check("escrow", job.live == 0, f"it was closed while {job.live} of its segments were live")
        check("escrow", job.completed or job.cancelled, "it was closed, and neither trained to its end nor cancelled")
        check("escrow", event.refund == job.escrow, f"its client got {event.refund} back, the terms leave {job.escrow}")
        check("escrow", not job.closed, "it was closed twice")
        job.refund, job.escrow, job.closed = event.refund, 0, True

    def credited(self, event: chain.Credited) -> None:
        """Counted where the event that follows explains it."""
        self.books.credit[event.who] += event.amount
        seg = self.books.segs.get(event.segment)
        if seg is not None:
            seg.paid[event.who, event.amount, event.reason] += 1
            return
        closed = (job for job in self.books.jobs.values() if job.client == event.who and job.refund == event.amount)
        job = next(closed, None) if event.reason == "refund" else None
        if job is None:
            self.sheet.check("escrow", False, f"{told(event)}: {event.who} was credited {event.amount} ({event.reason}), which nothing explains")
        else:
            job.refund = 0

    def withdrawn(self, event: chain.Withdrawn) -> None:
        owed = self.books.credit[event.who]
        mine = any(seg.provider == event.who or any(event.who in round.verifiers for round in seg.rounds.values())
                   for seg in self.books.segs.values() if self.audited(seg))  # fmt: skip
        if mine or event.amount != owed:
            self.sheet.check("escrow", event.amount == owed, f"{told(event)}: {event.who} pulled {event.amount}, {owed} were owed")
        self.books.credit[event.who] -= event.amount

    def left_over(self) -> None:
        """After the last event: money that moved and that no event explained, and what the contract itself says it holds."""
        for seg in self.books.segs.values():
            for (who, amount, reason), count in (seg.paid - seg.owed + seg.charged).items():
                seg.sheet.check("money", False, f"{who} was paid or charged {amount} ({reason}) {count} times, which nothing explains")
            seg.paid, seg.charged = Counter(), Counter()
            seg.sheet.check("verdict", not seg.falls, "its provider lost a dispute, and it is not rejected")
            seg.sheet.check("money", not seg.slashes, f"{seg.slashes} that a dispute took were not slashed")
        missing = self.books.jobs[self.job].refund
        self.sheet.check("escrow", not missing, f"it was closed, and {missing} were not credited to its client")
        held = self.record.held
        if held is None:
            self.sheet.check("escrow", None, f"the node does not give what the contract held in block {self.record.head.number}")
            return
        for who, amount in self.books.credit.items():
            found = held.credit.get(who, 0)
            self.sheet.check("escrow", found == amount, f"the contract owes {who} {found}; all payments make it {amount}")
        short = self.books.tokens - held.tokens
        self.sheet.check("escrow", short <= 0, f"the contract holds {held.tokens}, {short} less than the escrows and debts of its books")
