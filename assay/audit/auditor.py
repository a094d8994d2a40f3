"""A job's audit over a record of the chain: every event of the contract in order, those of the job held against the rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from assay import chain
from assay.audit.books import JobBook, Seg, told
from assay.audit.disputes import Case, Disputes
from assay.audit.findings import Report, Row, Sheet
from assay.audit.record import Entry, Record
from assay.chain import AnyChainEvent
from assay.ids import JobId


class NoSuchJob(LookupError):
    """The contract has no job of that number."""


class Auditor(Disputes):
    """`run` once; then `report`, and the books for whoever looks further (documents, replays)."""

    def __init__(self, record: Record, job: JobId) -> None:
        super().__init__(record, job)
        self._of_segment: dict[type[chain.ChainEvent], Callable[[Entry, Any, Seg], None]] = {
            chain.Activated: self.activated, chain.Lapsed: self.lapsed, chain.Committed: self.committed, chain.Drawn: self.drawn,
            chain.Redrawn: self.redrawn, chain.KeyReleased: self.key_released, chain.Served: self.served, chain.Sealed: self.sealed,
            chain.RevealsDue: self.reveals_due, chain.Revealed: self.revealed, chain.OpeningsDue: self.openings_due, chain.Opened: self.opened,
            chain.NoShow: self.no_show, chain.Attested: self.attested, chain.Withheld: self.withheld, chain.Unpaid: self.unpaid,
            chain.Voided: self.voided, chain.Settled: self.settled, chain.Rejected: self.rejected, chain.BondCleared: self.bond_cleared,
            chain.Pardoned: self.pardoned, chain.ChunkAsked: self.chunk_asked, chain.ChunkShown: self.chunk_shown,
        }  # fmt: skip
        self._of_dispute: dict[type[chain.ChainEvent], Callable[[Any, Case], None]] = {
            chain.DisputeOpened: self.dispute_opened, chain.DisputeResolved: self.dispute_resolved, chain.DisputePaid: self.dispute_paid,
            chain.DisputeCredited: self.dispute_credited, chain.RecordsShown: self.records_shown, chain.ShowingOwed: self.showing_owed,
        }  # fmt: skip
        self.releases: list[chain.KeyReleased] = []
        """Of the audited job's segments."""

    def run(self) -> Report:
        """Raises NoSuchJob."""
        last = (-1, -1)
        for entry in self.record.entries:
            event = entry.event
            at = (event.block, event.index)
            if not last < at:
                self.sheet.check("record", False, f"{told(event)} does not come after what was read before it")
            last = at
            self.stakes.pass_to(event.block)
            self._see(entry, event)
            self.stakes.apply(event)
            self.admissions.see(event)
            if isinstance(event, chain.Slashed) and event.segment in self.books.segs:
                self._free(self.books.segs[event.segment])
        if self.job not in self.books.jobs:
            there = ", ".join(map(str, self.books.jobs)) or "none yet"
            raise NoSuchJob(f"there is no job {self.job}; this contract has: {there}")
        self.left_over()
        self.unpaid_disputes()
        self.games()
        self._order()
        return self.report()

    def _see(self, entry: Entry, event: AnyChainEvent) -> None:
        match event:
            case chain.Entrusted():
                self.plans[event.client, event.spec_digest] = event
                for known in self.books.jobs.values():
                    if (known.client, known.terms.spec_digest) == (event.client, event.spec_digest):
                        known.plan = event
            case chain.JobPosted():
                sheet = self.sheet if event.job == self.job else Sheet()
                book = JobBook(event.job, event.client, event.terms, event.terms.budget, event.time, sheet)
                book.plan = self.plans.get((event.client, event.terms.spec_digest))
                self.books.jobs[event.job] = book
            case chain.JobFunded() | chain.JobCancelled() | chain.JobClosed() if event.job not in self.books.jobs:
                self.sheet.check("record", False, f"{told(event)}: there is no job {event.job}")
            case chain.JobFunded():
                self.books.jobs[event.job].escrow += event.amount
            case chain.JobCancelled():
                self._cancelled(entry, event)
            case chain.JobClosed():
                self.closed(event)
            case chain.Assigned():
                self.assigned(entry, event)
            case chain.Credited():
                self.credited(event)
            case chain.Withdrawn():
                self.withdrawn(event)
            case chain.FeeCharged():
                if event.segment in self.books.segs:
                    self.books.segs[event.segment].charged[event.who, event.amount, event.reason] += 1
                else:
                    self.sheet.check("record", False, f"{told(event)}: segment {event.segment} was never assigned")
            case _ if type(event) in self._of_segment:
                self._of_a_segment(entry, event)
            case chain.DisputeSealed() | chain.Slashed() if event.segment not in self.books.segs:
                self.sheet.check("record", False, f"{told(event)}: segment {event.segment} was never assigned")
            case chain.DisputeSealed():
                self.dispute_sealed(event, self.books.segs[event.segment])
            case chain.Slashed():
                self.slashed(event, self.books.segs[event.segment])
            case (
                chain.DisputeOpened() | chain.DisputeResolved() | chain.DisputePaid() | chain.DisputeCredited() | chain.RecordsShown()
                | chain.ShowingOwed()
            ):  # fmt: skip
                if event.dispute in self.cases:
                    self._of_dispute[type(event)](event, self.cases[event.dispute])
                else:
                    self.sheet.check("record", False, f"{told(event)}: there is no dispute {event.dispute}")
            case _:
                pass

    def _of_a_segment(self, entry: Entry, event: Any) -> None:
        seg = self.books.segs.get(event.segment)
        if seg is None:
            self.sheet.check("record", False, f"{told(event)}: segment {event.segment} was never assigned")
            return
        if isinstance(event, chain.KeyReleased) and self.audited(seg):
            self.releases.append(event)
        self._of_segment[type(event)](entry, event, seg)

    def _free(self, seg: Seg) -> None:
        """Draw bonds that were held beyond their segment's end by a dispute."""
        for who in seg.freed:
            self.stakes.release(who, seg.number)
        seg.freed.clear()

    def _cancelled(self, entry: Entry, event: chain.JobCancelled) -> None:
        job = self.books.jobs[event.job]
        if event.job == self.job and event.time <= job.terms.deadline:
            by_client = None if entry.call is None and entry.sender != job.client else entry.sender == job.client
            job.sheet.check("escrow", by_client, f"{told(event)} was sent by {entry.sender} before its deadline; only its client may do that")
        job.cancelled = True

    def _order(self) -> None:
        """The settled segments of the job: one way from its start, each from where the one before it ends."""
        at, done = 0, 0
        for seg in sorted((s for s in self.mine if s.state == chain.SegmentState.SETTLED), key=lambda s: s.start):
            follows = seg.start == at and seg.parent == done
            self.sheet.check("order", follows, f"segment {seg.number} settled from step {seg.start} after segment {seg.parent}; step {at} was next")
            at, done = seg.stop, seg.number

    @property
    def mine(self) -> list[Seg]:
        """Segments of the audited job."""
        return [seg for seg in self.books.segs.values() if self.audited(seg)]

    def report(self) -> Report:
        rows = [Row(s.number, s.start, s.stop, s.provider, s.state.name, s.sheet, s.end_root) for s in self.mine]
        return Report(self.job, self.books.jobs[self.job].client, self.record.head.number, self.sheet, rows)
