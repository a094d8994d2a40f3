"""The audit's way through a segment, first part: assigned, active, committed, or lapsed.

Every event is held against what the rules of docs/protocol.md allow after those before it, then the books are brought up to date with
what the event says, so that one false fact is told once and not by everything that follows.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, TypeVar

from assay import chain, cid, draw, energy, links, merkle
from assay.audit.books import Books, JobBook, Payments, Seg, told
from assay.audit.findings import Sheet
from assay.audit.record import Entry, Record
from assay.audit.stakes import StakeBook
from assay.chain import AnyChainEvent, SegmentState
from assay.ids import Address, Digest, DisputeId, JobId, SegmentId
from assay.licensing import Admissions

if TYPE_CHECKING:
    from assay.audit.disputes import Case

BPS = 10_000
C = TypeVar("C", bound=chain.Call)


class Base:
    """What all parts share. `job` is the audited one; of other jobs the books are kept, and nothing is checked that needs their calls."""

    def __init__(self, record: Record, job: JobId) -> None:
        self.record, self.job = record, job
        self.books, self.stakes = Books(), StakeBook(record.seat_stake)
        self.admissions = Admissions()
        self.cases: dict[DisputeId, Case] = {}
        self.plans: dict[tuple[Address, Digest], chain.Entrusted] = {}
        """By client and document."""
        self.sheet = Sheet()
        """Of the job as a whole."""

    def audited(self, seg: Seg) -> bool:
        return seg.job == self.job

    def call_of(self, entry: Entry, kind: type[C], seg: Seg, check: str) -> C | None:
        """The call behind an event of the audited job; notes when it cannot be read."""
        if not self.audited(seg):
            return None
        sent = entry.call.calls if isinstance(entry.call, chain.Batch) else (entry.call,)
        found = [call for call in sent if isinstance(call, kind) and getattr(call, "segment", seg.number) == seg.number]
        if len(found) == 1:
            return found[0]
        if found:
            seg.sheet.check(check, None, f"{told(entry.event)}: {len(found)} calls of its transaction may have done it")
            return None
        seg.sheet.check(check, None, f"{told(entry.event)}: it came by way of another contract, whose calldata does not show what was signed")
        return None

    def signed(self, seg: Seg, check: str, who: Address, signature: bytes, signer: Address | None, entry: Entry, what: str) -> None:
        """Notes whether `who` consented: by its signature, or, with none, as the sender."""
        if who in self.record.wallets and signer != who:
            seg.sheet.check(check, None, f"{what}: {who} is a contract, which judges its signatures itself (ERC-1271)")
            return
        right = signer == who if signature else entry.sender == who
        seg.sheet.check(check, right, f"{what} is not signed by {who}")

    def expect_state(self, seg: Seg, event: AnyChainEvent, *states: SegmentState) -> None:
        names = " or ".join(state.name for state in states)
        seg.sheet.check("verdict", seg.state in states, f"{told(event)} in the state {seg.state.name}; it needs {names}")

    def in_time(self, seg: Seg, event: AnyChainEvent, until: int) -> None:
        seg.sheet.check("times", event.time <= until, f"{told(event)} came {event.time - until} s too late")

    def after(self, seg: Seg, event: AnyChainEvent, since: int) -> None:
        seg.sheet.check("times", event.time > since, f"{told(event)} came {since + 1 - event.time} s too early")

    def window(self, seg: Seg, event: AnyChainEvent, said: int, start: int, length: int) -> None:
        right = start + length
        seg.sheet.check("times", said == right, f"{told(event)} names {said} as its deadline; the terms make it {right}")

    def undisputed(self, seg: Seg, event: AnyChainEvent) -> None:
        seg.sheet.check("dispute", not seg.disputes, f"{told(event)} while {seg.disputes} disputes were open")

    # ---- money -----------------------------------------------------------------------------------------------------------

    def owes(self, seg: Seg, event: AnyChainEvent, owed: Payments) -> None:
        """What was credited for a segment since the last look must be what is owed."""
        self._same(seg, event, "credited", owed + seg.owed, seg.paid)
        seg.paid, seg.owed = Counter(), Counter()

    def charges(self, seg: Seg, event: AnyChainEvent, owed: Payments) -> None:
        self._same(seg, event, "charged from stake", owed, seg.charged)
        seg.charged = Counter()

    def _same(self, seg: Seg, event: AnyChainEvent, verb: str, owed: Payments, moved: Payments) -> None:
        owed = Counter({what: count for what, count in owed.items() if what[1]})
        for (who, amount, reason), count in (owed - moved).items():
            seg.sheet.check("money", False, f"{told(event)}: {who} was to be {verb} {amount} ({reason}) {count} time{'s' * (count > 1)} more")
        for (who, amount, reason), count in (moved - owed).items():
            seg.sheet.check("money", False, f"{told(event)}: {who} was {verb} {amount} ({reason}), which the terms do not explain, {count} times")
        if owed == moved:
            seg.sheet.check("money", True, "")

    def end(self, seg: Seg, event: AnyChainEvent, to: SegmentState) -> None:
        """A live segment ends: the terms say who is paid; draw bonds are free again, what was not spent returns to the escrow."""
        job = self.books.jobs[seg.job]
        owed: Payments = Counter()
        if to == SegmentState.SETTLED:
            owed[seg.provider, seg.price, "price"] += 1
            job.completed = job.completed or seg.stop == job.terms.steps
        else:
            job.escrow += seg.price
            span = self.books.after(job, seg.parent)
            span.child, span.open_since = SegmentId(0), event.time
        for round in seg.rounds.values():
            for who, vote in round.votes.items():
                if vote.opened and (vote.prevailed if to == SegmentState.SETTLED else self._entitled(vote.agrees, to)):
                    owed[who, job.terms.fee, "fee"] += 1
                    job.escrow -= job.terms.fee
            for who in round.verifiers:
                if not seg.holds[who]:
                    self.stakes.release(who, seg.number)
        kept = job.terms.fee * seg.negatives if to == SegmentState.WITHHELD and self.stakes.reservation(seg.provider, seg.number) else 0
        job.escrow += seg.held - kept
        job.live -= 1
        seg.held, seg.state = kept, to
        self.owes(seg, event, owed)

    @staticmethod
    def _entitled(agrees: bool, to: SegmentState) -> bool:
        """A no earns its fee where a dispute has borne it out, and nowhere else."""
        return not agrees if to == SegmentState.REJECTED else to != SegmentState.WITHHELD


class Hand(Base):
    # ---- assignment ------------------------------------------------------------------------------------------------------

    def assigned(self, entry: Entry, event: chain.Assigned) -> None:
        job = self.books.jobs.get(event.job)
        if job is None:
            self.sheet.check("record", False, f"{told(event)}: there is no job {event.job}")
            return
        sheet = Sheet()
        parent = event.parent if event.parent in self.books.segs else SegmentId(0)
        seg = Seg(event.segment, event.job, parent, event.provider, event.start, event.stop, event.price, job.fees, sheet)
        number = max(self.books.segs, default=0) + 1
        sheet.check("range", event.segment == number, f"it is numbered {event.segment}, and the one before it {number - 1}")
        sheet.check("range", event.parent == parent, f"its parent, segment {event.parent}, was never assigned")
        self._range(seg, event, job, entry)
        self._offer(seg, event, job, entry)
        self._bond(seg, event, job)
        self.books.after(job, parent).child = event.segment
        self.window(seg, event, event.activate_by, event.time, job.terms.params.activate_window)
        seg.activate_by = event.activate_by
        job.escrow -= event.price + job.fees
        job.live += 1
        sheet.check("money", job.escrow >= 0, f"the job's escrow does not cover it: {-job.escrow} are missing")
        self.books.segs[event.segment] = seg

    def _range(self, seg: Seg, event: chain.Assigned, job: JobBook, entry: Entry) -> None:
        terms, start, check = job.terms, 0, seg.sheet.check
        if seg.parent:
            above = self.books.segs[seg.parent]
            start = above.stop
            check("range", above.job == seg.job, f"its parent is a segment of job {above.job}")
            check("range", above.state >= SegmentState.COMMITTED, f"its parent was {above.state.name.lower()} when it was assigned")
            depth, fallen = self.books.unsettled(seg.parent)
            check("range", fallen is None, f"segment {fallen}, which it builds on, had failed when it was assigned")
            check("range", depth < terms.params.depth, f"{depth} unsettled segments lie before it, the terms allow {terms.params.depth}")
        stop = min(terms.steps, (start // terms.segment_steps + 1) * terms.segment_steps)
        said = f"it runs over steps {seg.start}-{seg.stop}; what was open after segment {seg.parent} is {start}-{stop}"
        check("range", (seg.start, seg.stop) == (start, stop), said)
        span = self.books.after(job, seg.parent)
        check("range", not span.child, f"the range was taken by segment {span.child}")
        check("range", not job.cancelled and not job.completed, "the job was over when it was assigned")
        self.in_time(seg, event, terms.deadline)
        if self.audited(seg) and job.plan is not None and isinstance(entry.call, chain.AssignListed):
            self._listed(seg, event, job, entry, span.open_since)
        elif self.audited(seg) and entry.sender not in (terms.scheduler, job.client):
            open_to_all = event.time > span.open_since + terms.params.takeover_window
            who = f"{entry.sender} assigned it, who is neither scheduler nor client, {event.time - span.open_since} s after the range opened"
            check("range", open_to_all or (None if entry.call is None else False), who)

    def _listed(self, seg: Seg, event: chain.Assigned, job: JobBook, entry: Entry, since: int) -> None:
        """Through Takeovers: by whom the client has entrusted, or late enough and with one whom it has listed."""
        assert job.plan is not None
        late, listed = event.time > since + job.plan.patience, event.provider in job.plan.providers
        said = f"{entry.sender} assigned it to {event.provider} {event.time - since} s after the range opened; entrusted was {job.plan.scheduler}"
        seg.sheet.check("range", entry.sender == job.plan.scheduler or (late and listed), said)

    def _offer(self, seg: Seg, event: chain.Assigned, job: JobBook, entry: Entry) -> None:
        cap, check = job.terms.price_cap * seg.steps, seg.sheet.check
        check("offer", 0 < event.price <= cap, f"its price is {event.price}, the job's cap {cap}")
        check("offer", event.provider in self.stakes.registered, f"{event.provider} had not registered")
        kind = chain.AssignListed if isinstance(entry.call, chain.AssignListed) else chain.Assign
        call: Any = self.call_of(entry, kind, seg, "offer")
        if call is None:
            return
        offer = call.offer
        for name in ("provider", "job", "parent", "start", "stop", "price"):
            offered, taken = getattr(offer, name), getattr(event, name)
            check("offer", offered == taken, f"the offer's {name} is {offered}, what was assigned has {taken}")
        check("offer", event.time <= offer.expires, f"the offer had expired {event.time - offer.expires} s before")
        check("offer", (offer.provider, offer.nonce) not in job.nonces, f"the offer's nonce {offer.nonce} was used before")
        job.nonces.add((offer.provider, offer.nonce))
        signer = self.record.signers.offer_signer(offer, call.signature)
        self.signed(seg, "offer", event.provider, call.signature, signer, entry, "the offer")

    def _bond(self, seg: Seg, event: chain.Assigned, job: JobBook) -> None:
        bond = event.price * job.terms.params.bond_tenths // 10 + job.terms.params.bond_base
        free = self.stakes.free(event.provider)
        seg.sheet.check("money", free >= bond, f"its provider had {free} of free stake, the bond is {bond}")
        self.stakes.reserve(event.provider, event.segment, bond)

    def activated(self, entry: Entry, event: chain.Activated, seg: Seg) -> None:
        self.expect_state(seg, event, SegmentState.ASSIGNED)
        self._by_provider(seg, entry)
        self.in_time(seg, event, seg.activate_by)
        self.window(seg, event, event.lease_until, event.time, self.books.jobs[seg.job].terms.params.lease_window)
        seg.state, seg.lease_until = SegmentState.ACTIVE, event.lease_until

    def _by_provider(self, seg: Seg, entry: Entry) -> None:
        """Of a call that only the provider may make. The sender of a transaction is known even where the call is not."""
        if not self.audited(seg):
            return
        if entry.sender != seg.provider and entry.call is None:
            seg.sheet.check("root", None, f"{told(entry.event)}: it came by way of another contract, so that who called is not to be seen")
            return
        seg.sheet.check("root", entry.sender == seg.provider, f"{told(entry.event)} was sent by {entry.sender}, who is not its provider")

    def lapsed(self, entry: Entry, event: chain.Lapsed, seg: Seg) -> None:
        job = self.books.jobs[seg.job]
        self.expect_state(seg, event, SegmentState.ASSIGNED, SegmentState.ACTIVE)
        late = seg.state == SegmentState.ACTIVE
        self.after(seg, event, seg.lease_until if late else seg.activate_by)
        fee = seg.price * job.terms.params.late_fee_bps // BPS if late or seg.keyed else 0
        bond = self.stakes.reservation(seg.provider, seg.number) + sum(amount * n for (_, amount, _), n in seg.charged.items())
        fee = min(fee, bond)
        seg.sheet.check("money", event.fee == fee, f"the late fee was {event.fee}, the terms make it {fee}")
        self.charges(seg, event, Counter({(seg.provider, fee, "late"): 1}))
        job.escrow += event.fee
        self.stakes.release(seg.provider, seg.number)
        self.end(seg, event, SegmentState.LAPSED)

    # ---- commitment ------------------------------------------------------------------------------------------------------

    def committed(self, entry: Entry, event: chain.Committed, seg: Seg) -> None:
        job, check = self.books.jobs[seg.job], seg.sheet.check
        self.expect_state(seg, event, SegmentState.ACTIVE)
        self._by_provider(seg, entry)
        self.in_time(seg, event, seg.lease_until)
        fallen = self.books.unsettled(seg.parent)[1]
        check("root", fallen is None, f"segment {fallen}, which it builds on, had failed when it was committed")
        if check("root", seg.start < event.stop <= seg.stop, f"it was committed up to step {event.stop}, of {seg.start}-{seg.stop}"):
            price = seg.price * (event.stop - seg.start) // seg.steps
            job.escrow += seg.price - price
            seg.price, seg.stop = price, event.stop
        check("root", event.commitment == self._commitment(event, seg, job), "the commitment is not that of what was posted and of its parent")
        call = self.call_of(entry, chain.Commit, seg, "root")
        if call is not None:
            for name in ("segment", "stop", "link_root", "end_root", "checkpoint", "key_id"):
                same = getattr(call, name) == getattr(event, name)
                check("root", same, f"the {name.replace('_', ' ')} that was sent is another one than was logged")
            leaves = links.count(seg.steps, job.terms.micro_batches)
            proven = merkle.verify(event.link_root, leaves, leaves - 1, merkle.leaf(leaves - 1, event.end_root), call.proof)
            check("root", proven, f"the end is not the last of {leaves} link ends under the link root")
        self.await_seed(seg, event, event.seed_block)
        seg.state, seg.open_since = SegmentState.COMMITTED, event.time
        seg.link_root, seg.end_root, seg.commitment = event.link_root, event.end_root, event.commitment
        seg.checkpoint, seg.key_id = event.checkpoint, event.key_id
        seg.key_envelope, seg.energy = energy.part(event.key_envelope)

    def _commitment(self, event: chain.Committed, seg: Seg, job: JobBook) -> Digest | None:
        above = self.books.segs[seg.parent].commitment if seg.parent else job.terms.spec_digest
        if above is None:
            return None
        try:
            return draw.commitment(
                self.record.chain_id, self.record.contract, seg.job, above, job.terms.program_root, seg.start, seg.stop, event.link_root,
                event.checkpoint, event.key_id,
            )  # fmt: skip
        except cid.BadCid:
            return None

    def await_seed(self, seg: Seg, event: AnyChainEvent, seed_block: int) -> None:
        """The next draw is fixed: its seed block lies `finality` blocks ahead, its seats are those at the end of this block."""
        p = self.books.jobs[seg.job].terms.params
        right = event.block + p.finality
        seg.sheet.check("draw", seed_block == right, f"{told(event)} names block {seed_block} for the seed; the terms make it {right}")
        seg.seats_block, seg.seed_block, seg.draw_by = event.block, right, event.time + p.serve_window
        self.stakes.want(event.block)

    def key_released(self, entry: Entry, event: chain.KeyReleased, seg: Seg) -> None:
        if event.by != self.books.jobs[seg.job].terms.key_service:
            return
        if seg.state in (SegmentState.ASSIGNED, SegmentState.ACTIVE):
            seg.keyed = seg.keyed or event.recipient == seg.provider
        elif seg.state == SegmentState.DRAWN and (committee := seg.committee) and event.recipient in committee.verifiers:
            committee.keyed.add(event.recipient)
