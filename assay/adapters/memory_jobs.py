"""The `Jobs` contract in Python, first half: escrow, assignment, commitment, keys, ends (the committee's half: memory_committee).

Rules and refusals are those of contracts/src/jobs (Base, Escrow, Segments) and docs/protocol.md. Each method is one call; it checks
all first and then acts. Money: the contract's balance is the sum over jobs of `escrow`, over live segments of `price + fees_held`,
over withheld ones of `fees_held`, and of `credit`.
"""

from __future__ import annotations

from collections.abc import Callable

from assay import chain, draw, merkle
from assay.adapters.memory_records import Check, Job, Segment
from assay.adapters.memory_stakes import JOBS, Context, Stakes, Token
from assay.adapters.memory_terms import check_cid, check_terms
from assay.adapters.refusals import refuse
from assay.chain import MOST_WRAPPED, Commit, Offer, ReleaseKeys, SegmentState, Terms
from assay.ids import Address, Digest, JobId, SegmentId

BPS = 10_000
MOST_ENVELOPE = 2048
MOST_RELEASES = 64
MOST_COUNTED = 65_535
"""Settled segments of a provider."""


class Jobs:
    """`consents(who, sender, digest, signature)` is the contract's signature check."""

    def __init__(self, token: Token, stakes: Stakes, consents: Callable[[Address, Address, Digest, bytes], bool]) -> None:
        self.token = token
        self.stakes = stakes
        self.consents = consents
        self.jobs: dict[JobId, Job] = {}
        self.segments: dict[SegmentId, Segment] = {}
        self.credit: dict[Address, int] = {}
        self.nonces: set[tuple[Address, int]] = set()
        self.settled: dict[Address, int] = {}
        """Segments of a provider that have settled since it was pardoned last."""
        # Datasets sets both: what refuses a provider, and who may be drawn for a job (None: whoever has a seat).
        self.need: Callable[[Context, JobId, Address], None] = lambda ctx, job, provider: None
        self.admitted: Callable[[JobId], tuple[Address, ...] | None] = lambda job: None

    # ---- jobs

    def job(self, number: JobId) -> Job:
        if number not in self.jobs:
            raise refuse("NoSuchJob", job=number)
        return self.jobs[number]

    def check_post(self, ctx: Context, who: Address, terms: Terms) -> None:
        check_terms(terms, self.stakes.seat_stake, ctx.time)
        self.token.check(who, terms.budget)

    def post(self, ctx: Context, who: Address, terms: Terms) -> None:
        self.check_post(ctx, who, terms)
        number = JobId(len(self.jobs) + 1)
        self.jobs[number] = Job(number, who, terms, terms.budget, ctx.time)
        ctx.emit(chain.JobPosted, job=number, client=who, terms=terms)
        self.token.move(who, JOBS, terms.budget)

    def _running(self, job: Job) -> None:
        if job.cancelled:
            raise refuse("JobIsCancelled", job=job.number)
        if job.completed:
            raise refuse("JobIsCompleted", job=job.number)

    def fund(self, ctx: Context, who: Address, number: JobId, amount: int) -> None:
        job = self.job(number)
        if amount == 0:
            raise refuse("ZeroAmount")
        self._running(job)
        self.token.move(who, JOBS, amount)
        job.escrow += amount
        ctx.emit(chain.JobFunded, job=number, amount=amount)

    def cancel(self, ctx: Context, who: Address, number: JobId) -> None:
        job = self.job(number)
        self._running(job)
        if who != job.client and ctx.time <= job.terms.deadline:
            raise refuse("NotClient", sender=who, client=job.client)
        job.cancelled = True
        ctx.emit(chain.JobCancelled, job=number)

    def close(self, ctx: Context, who: Address, number: JobId) -> None:
        job = self.job(number)
        if job.closed:
            raise refuse("JobIsClosed", job=number)
        if job.live or not (job.completed or job.cancelled):
            raise refuse("JobIsLive", job=number, segments=job.live)
        job.closed = True
        refund, job.escrow = job.escrow, 0
        ctx.emit(chain.JobClosed, job=number, refund=refund)
        self.credit_to(ctx, job.client, SegmentId(0), refund, "refund")

    def withdraw(self, ctx: Context, who: Address) -> None:
        amount = self.credit.get(who, 0)
        if amount == 0:
            raise refuse("NothingToWithdraw", who=who)
        del self.credit[who]
        ctx.emit(chain.Withdrawn, who=who, amount=amount)
        self.token.move(JOBS, who, amount)

    # ---- assignment

    def segment(self, number: SegmentId, *states: SegmentState) -> Segment:
        """The segment, which must be in one of `states` (any, when none is named)."""
        if number not in self.segments:
            raise refuse("NoSuchSegment", segment=number)
        found = self.segments[number]
        if states and found.state not in states:
            raise refuse("WrongState", segment=number, state=found.state)
        return found

    def unsettled_from(self, number: SegmentId) -> int:
        """Unsettled segments from `number` up to what is settled; refuses when one of them has failed."""
        count, up = 0, number
        while up and self.segments[up].state != SegmentState.SETTLED:
            if self.segments[up].state in chain.FAILED:
                raise refuse("AncestorFailed", segment=number, ancestor=up)
            count += 1
            up = self.segments[up].parent
        return count

    def assign(self, ctx: Context, who: Address, offer: Offer, signature: bytes, digest: Digest) -> None:
        job = self.job(offer.job)
        p = job.terms.params
        self._running(job)
        if ctx.time > job.terms.deadline:
            raise refuse("JobPastDeadline", job=offer.job, deadline=job.terms.deadline)
        self.need(ctx, offer.job, offer.provider)
        if ctx.time > offer.expires:
            raise refuse("OfferExpired", expires=offer.expires, now_=ctx.time)
        if (offer.provider, offer.nonce) in self.nonces:
            raise refuse("NonceUsed", provider=offer.provider, nonce=offer.nonce)
        if not self.consents(offer.provider, who, digest, signature):
            raise refuse("BadSignature", signer=offer.provider)
        if not self.stakes.account(offer.provider).registered:
            raise refuse("NotRegistered", who=offer.provider)
        self._check_range(ctx, who, job, offer)
        cap = job.terms.price_cap * (offer.stop - offer.start)
        if offer.price == 0:
            raise refuse("ZeroAmount")
        if offer.price > cap:
            raise refuse("PriceOverCap", price=offer.price, cap=cap)
        fees = job.terms.fee * p.verifiers * (1 + p.redraws)
        bond = offer.price * p.bond_tenths // 10 + p.bond_base
        if job.escrow < offer.price + fees:
            raise refuse("InsufficientEscrow", escrow=job.escrow, needed=offer.price + fees)
        number = SegmentId(len(self.segments) + 1)
        if bond:
            self.stakes.reserve(offer.provider, number, bond)
        self.nonces.add((offer.provider, offer.nonce))
        job.escrow -= offer.price + fees
        job.live += 1
        self._next(job, offer.parent).child = number
        by = ctx.time + p.activate_window
        self.segments[number] = Segment(
            number, offer.job, offer.parent, offer.provider, offer.start, offer.stop, offer.price, bond > 0, fees, by, bond=bond)
        ctx.emit(
            chain.Assigned, segment=number, job=offer.job, parent=offer.parent, provider=offer.provider, start=offer.start, stop=offer.stop,
            price=offer.price, activate_by=by,
        )  # fmt: skip

    def _next(self, job: Job, parent: SegmentId) -> Job | Segment:
        """What keeps the book on the range after `parent`."""
        return self.segments[parent] if parent else job

    def _check_range(self, ctx: Context, who: Address, job: Job, offer: Offer) -> None:
        p, start = job.terms.params, 0
        if offer.parent:
            parent = self.segments.get(offer.parent)
            if parent is None or parent.job != offer.job:
                raise refuse("WrongParent", parent=offer.parent, job=offer.job)
            if parent.state < SegmentState.COMMITTED:
                raise refuse("ParentNotCommitted", parent=offer.parent, state=parent.state)
            if self.unsettled_from(offer.parent) >= p.depth:
                raise refuse("TooDeep", parent=offer.parent, depth=p.depth)
            start = parent.stop
        span = self._next(job, offer.parent)
        if span.child:
            raise refuse("RangeTaken", parent=offer.parent, child=span.child)
        each = job.terms.segment_steps
        stop = min(job.terms.steps, (start // each + 1) * each)
        if (offer.start, offer.stop) != (start, stop) or start == stop:
            raise refuse("WrongRange", start=start, stop=stop)
        anyone_after = span.open_since + p.takeover_window
        if who not in (job.terms.scheduler, job.client) and ctx.time <= anyone_after:
            raise refuse("NotEntitledToAssign", sender=who, anyoneAfter=anyone_after)

    def activate(self, ctx: Context, who: Address, number: SegmentId) -> None:
        seg = self.segment(number, SegmentState.ASSIGNED)
        self._need_provider(seg, who)
        ctx.need_before(seg.activate_by)
        seg.state = SegmentState.ACTIVE
        seg.lease_until = ctx.time + self.jobs[seg.job].terms.params.lease_window
        ctx.emit(chain.Activated, segment=number, lease_until=seg.lease_until)

    def _need_provider(self, seg: Segment, who: Address) -> None:
        if who != seg.provider:
            raise refuse("NotProvider", sender=who, provider=seg.provider)

    def lapse(self, ctx: Context, who: Address, number: SegmentId) -> None:
        seg = self.segment(number, SegmentState.ASSIGNED, SegmentState.ACTIVE)
        job = self.jobs[seg.job]
        assigned = seg.state == SegmentState.ASSIGNED
        ctx.need_after(seg.activate_by if assigned else seg.lease_until)
        self.unsettled_from(seg.parent)
        fee = 0 if assigned and not seg.keyed else seg.price * job.terms.params.late_fee_bps // BPS
        charged = self.stakes.charge(ctx, seg.provider, number, fee, "late")
        job.escrow += charged
        self.release_bond(seg)
        self.end(ctx, seg, SegmentState.LAPSED)
        ctx.emit(chain.Lapsed, segment=number, fee=charged)

    # ---- commitment

    def commit(self, ctx: Context, who: Address, call: Commit) -> None:
        seg = self.segment(call.segment, SegmentState.ACTIVE)
        job = self.jobs[seg.job]
        terms = job.terms
        self._need_provider(seg, who)
        ctx.need_before(seg.lease_until)
        self.unsettled_from(seg.parent)
        if not seg.start < call.stop <= seg.stop:
            raise refuse("StopOutOfRange", stop=call.stop, start=seg.start, most=seg.stop)
        check_cid(call.checkpoint)
        if len(call.key_envelope) > MOST_ENVELOPE:
            raise refuse("BadLength", name="key_envelope", length=len(call.key_envelope), most=MOST_ENVELOPE)
        links = (call.stop - seg.start) * (terms.micro_batches + 1)
        if not merkle.verify(call.link_root, links, links - 1, merkle.leaf(links - 1, call.end_root), call.proof):
            raise refuse("BadProof")
        price = seg.price * (call.stop - seg.start) // (seg.stop - seg.start)
        job.escrow += seg.price - price
        seg.price, seg.stop = price, call.stop
        seg.state, seg.link_root, seg.end_root, seg.open_since = SegmentState.COMMITTED, call.link_root, call.end_root, ctx.time
        above = self.segments[seg.parent].commitment if seg.parent else terms.spec_digest
        seg.commitment = draw.commitment(
            ctx.chain_id, JOBS, seg.job, above, terms.program_root, seg.start, seg.stop, call.link_root, call.checkpoint, call.key_id
        )
        self.await_seed(ctx, seg)
        ctx.emit(
            chain.Committed, segment=seg.number, stop=seg.stop, link_root=seg.link_root, end_root=seg.end_root, checkpoint=call.checkpoint,
            key_id=call.key_id, key_envelope=call.key_envelope, commitment=seg.commitment, seed_block=seg.seed_block,
        )  # fmt: skip

    def await_seed(self, ctx: Context, seg: Segment) -> None:
        """Fixes the next draw: its seed block lies `finality` blocks ahead, its seats are those at the end of this block."""
        p = self.jobs[seg.job].terms.params
        seg.seats_block, seg.seed_block = ctx.number, ctx.number + p.finality
        seg.draw_by = ctx.time + p.serve_window

    # ---- keys

    def release_keys(self, ctx: Context, who: Address, call: ReleaseKeys) -> None:
        seg = self.segment(call.segment)
        if len(call.releases) > MOST_RELEASES:
            raise refuse("BadLength", name="releases", length=len(call.releases), most=MOST_RELEASES)
        for release in call.releases:
            if len(release.wrapped) > MOST_WRAPPED:
                raise refuse("BadLength", name="wrapped", length=len(release.wrapped), most=MOST_WRAPPED)
        for release in call.releases:
            if who == self.jobs[seg.job].terms.key_service:
                self._note_key(seg, release.recipient)
            ctx.emit(chain.KeyReleased, segment=seg.number, recipient=release.recipient, key_id=release.key_id, wrapped=release.wrapped, by=who)

    def _note_key(self, seg: Segment, recipient: Address) -> None:
        if seg.state in (SegmentState.ASSIGNED, SegmentState.ACTIVE):
            seg.keyed = seg.keyed or recipient == seg.provider
        elif seg.state == SegmentState.DRAWN:
            for check in seg.checks:
                check.keyed = check.keyed or check.verifier == recipient

    # ---- ends

    def settle(self, ctx: Context, who: Address, number: SegmentId) -> None:
        seg = self.segment(number, SegmentState.ATTESTED)
        ctx.need_after(seg.settle_after)
        self._need_no_dispute(seg)
        if seg.parent and self.segments[seg.parent].state != SegmentState.SETTLED:
            raise refuse("ParentUnsettled", parent=seg.parent, state=self.segments[seg.parent].state)
        self.release_bond(seg)
        self.end(ctx, seg, SegmentState.SETTLED)
        ctx.emit(chain.Settled, segment=number, provider=seg.provider, price=seg.price)

    def void(self, ctx: Context, who: Address, number: SegmentId) -> None:
        seg = self.segment(number)
        if seg.state in chain.TERMINAL:
            raise refuse("WrongState", segment=number, state=seg.state)
        if not seg.parent or self.segments[seg.parent].state not in chain.FAILED:
            raise refuse("NotVoidable", segment=number)
        self._need_no_dispute(seg)
        self.release_bond(seg)
        self.end(ctx, seg, SegmentState.VOID)
        ctx.emit(chain.Voided, segment=number)

    def clear_bond(self, ctx: Context, who: Address, number: SegmentId) -> None:
        """An UNPAID segment's; those of WITHHELD and REJECTED ones are for Disputes to clear."""
        seg = self.segment(number, SegmentState.UNPAID, SegmentState.WITHHELD, SegmentState.REJECTED)
        if seg.state != SegmentState.UNPAID:
            raise refuse("NotDisputes", sender=who)
        ctx.need_after(seg.settle_after)
        self.clear_disputed(ctx, seg)

    def clear_disputed(self, ctx: Context, seg: Segment) -> None:
        self._need_no_dispute(seg)
        if not seg.bonded:
            raise refuse("NoBond", segment=seg.number)
        self._return_fees(ctx, seg)
        ctx.emit(chain.BondCleared, segment=seg.number, amount=self.stakes.reservation(seg.provider, seg.number))
        self.release_bond(seg)

    def pardon(self, ctx: Context, number: SegmentId, unit: int, after: int) -> bool:
        """Whether its provider may concede a link for nothing (contracts/src/jobs/Segments.sol). For Disputes."""
        seg = self.segments[number]
        if seg.pardoned is not None:
            return seg.pardoned == unit
        told = seg.state == SegmentState.SERVED and (seg.phase > 1 or ctx.time > seg.seal_by)
        if not told and seg.state not in (SegmentState.ATTESTED, SegmentState.WITHHELD):
            return False
        p = self.jobs[seg.job].terms.params
        if after == 0 or self.settled.get(seg.provider, 0) < after or p.links == 1:
            return False
        self.settled[seg.provider] = 0
        seg.pardoned = unit
        until = ctx.time + p.challenge_window
        if seg.state == SegmentState.WITHHELD:
            seg.settle_after = until
        ctx.emit(chain.Pardoned, segment=number, unit=unit, until=until)
        return True

    @staticmethod
    def _need_no_dispute(seg: Segment) -> None:
        if seg.disputes:
            raise refuse("DisputeOpen", segment=seg.number, disputes=seg.disputes)

    def release_bond(self, seg: Segment) -> None:
        self.stakes.release(seg.provider, seg.number, self.stakes.reservation(seg.provider, seg.number))
        seg.bonded = False

    def release_draw(self, seg: Segment, check: Check, amount: int) -> None:
        if check.bonded and not check.disputes:
            check.bonded = False
            self.stakes.release(check.verifier, seg.number, amount)

    def end(self, ctx: Context, seg: Segment, to: SegmentState) -> None:
        """Moves a live segment to a terminal state: pays those verifiers that the state entitles, releases draw bonds, pays the
        provider or returns the price, and opens the range again when it failed. What becomes of the bond is up to the caller."""
        job = self.jobs[seg.job]
        seg.state, seg.phase = to, 0
        job.live -= 1
        if to == SegmentState.SETTLED:
            self.credit_to(ctx, seg.provider, seg.number, seg.price, "price")
            self.settled[seg.provider] = min(self.settled.get(seg.provider, 0) + 1, MOST_COUNTED)
            job.completed = job.completed or seg.stop == job.terms.steps
        else:
            job.escrow += seg.price
            span = self._next(job, seg.parent)
            span.child, span.open_since = SegmentId(0), ctx.time
        for checks in seg.rounds:
            for check in checks:
                self.release_draw(seg, check, job.terms.params.draw_bond)
                if check.opened and self._entitled(check, to):
                    seg.fees_held -= job.terms.fee
                    self.credit_to(ctx, check.verifier, seg.number, job.terms.fee, "fee")
        kept = job.terms.fee * seg.negatives if to == SegmentState.WITHHELD and seg.bonded else 0
        job.escrow += seg.fees_held - kept
        seg.fees_held = kept

    def pay_noes(self, ctx: Context, seg: Segment) -> None:
        """A dispute has borne out those who said no to a withheld segment: they earn as if they had attested. For Disputes."""
        fee = self.jobs[seg.job].terms.fee
        if not seg.fees_held:
            return
        seg.fees_held = 0
        for check in (check for checks in seg.rounds for check in checks):
            if check.opened and not check.agrees:
                self.credit_to(ctx, check.verifier, seg.number, fee, "fee")

    def _return_fees(self, ctx: Context, seg: Segment) -> None:
        """What was kept for those who said no to what nobody has refuted."""
        job = self.jobs[seg.job]
        kept, seg.fees_held = seg.fees_held, 0
        if job.closed:
            self.credit_to(ctx, job.client, seg.number, kept, "refund")
        else:
            job.escrow += kept

    def _entitled(self, check: Check, to: SegmentState) -> bool:
        """A no asserts nothing that could be disputed, so it earns nothing by itself (contracts/src/jobs/Base.sol)."""
        if to == SegmentState.SETTLED:
            return check.prevailed
        if to == SegmentState.REJECTED:
            return not check.agrees
        return to != SegmentState.WITHHELD

    def credit_to(self, ctx: Context, who: Address, segment: SegmentId, amount: int, reason: str) -> None:
        if amount:
            self.credit[who] = self.credit.get(who, 0) + amount
            ctx.emit(chain.Credited, who=who, segment=segment, amount=amount, reason=reason)
