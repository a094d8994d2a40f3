"""The `Jobs` contract in Python, first half: escrow, assignment, commitment, draw, settlement (the committee's half: memory_committee).

The rules are those of docs/protocol.md, in the order of its table. Each method is one call; it checks all first and then acts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from assay import chain, draw, merkle
from assay.adapters.memory_stakes import JOBS, Context, Stakes, Token, require
from assay.chain import FAILED, TERMINAL, Commit, Offer, ReleaseKeys, SegmentState, Terms
from assay.ids import Address, Digest, JobId, SegmentId

BPS = 10_000
PARENT_STATES = frozenset({SegmentState.COMMITTED, SegmentState.DRAWN, SegmentState.SERVED, SegmentState.ATTESTED, SegmentState.SETTLED})


@dataclass(slots=True)
class Range:
    """What follows a segment (or the job's start): its live child, if any, and since when it has been open."""

    child: SegmentId = SegmentId(0)  # noqa: RUF009
    opened_at: int = 0


@dataclass(slots=True)
class Job:
    number: JobId
    client: Address
    terms: Terms
    escrow: int
    """Not held for a segment."""
    cancelled: bool = False
    closed: bool = False
    finished: bool = False
    live: int = 0
    """Segments that are not in a terminal state."""
    ranges: dict[SegmentId, Range] = field(default_factory=dict)


@dataclass(slots=True)
class Vote:
    """One drawn verifier in one round."""

    verifier: Address
    bond: int
    digest: Digest | None = None
    revealed: bool = False
    agrees: bool = False
    trace_roots: tuple[Digest, ...] = ()
    opened: bool = False
    side: bool | None = None
    """What it was counted as, once decided."""


@dataclass(slots=True)
class Segment:
    number: SegmentId
    job: JobId
    parent: SegmentId
    provider: Address
    start: int
    stop: int
    price: int
    bond: int
    held: int
    """Of the job's escrow."""
    activate_by: int
    state: SegmentState = SegmentState.ASSIGNED
    keys_posted: bool = False
    """By the job's key service, since the state began that needs them (ASSIGNED, DRAWN)."""
    lease_until: int = 0
    link_root: Digest = Digest(b"")  # noqa: RUF009
    end_root: Digest = Digest(b"")  # noqa: RUF009
    commitment: Digest = Digest(b"")  # noqa: RUF009
    committed_in: int = 0
    seats: int = 0
    seed_block: int = 0
    round: int = 0
    units: tuple[int, ...] = ()
    votes: list[Vote] = field(default_factory=list)
    """Of this round."""
    past: list[Vote] = field(default_factory=list)
    """Of earlier rounds."""
    revealed: list[Vote] = field(default_factory=list)
    """Of this round, in the order of their reveals."""
    serve_by: int = 0
    seal_by: int = 0
    reveal_by: int = 0
    opening_block: int = 0
    open_by: int = 0
    settle_after: int = 0


class Jobs:
    def __init__(self, token: Token, stakes: Stakes, offer_signer: Callable[[Offer, bytes], Address | None]) -> None:
        self.token = token
        self.stakes = stakes
        self.offer_signer = offer_signer
        self.jobs: dict[JobId, Job] = {}
        self.segments: dict[SegmentId, Segment] = {}
        self.credit: dict[Address, int] = {}
        self.nonces: set[tuple[Address, int]] = set()

    # ---- jobs

    def job(self, number: JobId) -> Job:
        require(number in self.jobs, f"no job {number}")
        return self.jobs[number]

    def post(self, ctx: Context, who: Address, terms: Terms) -> None:
        p = terms.params
        require(0 < len(terms.spec) <= 128, "the spec's CID must have 1 to 128 characters")
        for name in ("steps", "micro_batches", "segment_steps", "micro_weight", "update_weight"):
            require(getattr(terms, name) > 0, f"{name} is zero")
        require(terms.micro_leaves >= 2 and terms.update_leaves >= 2, "a trace has at least 2 leaves")
        require(terms.deadline > ctx.time, "the deadline has passed")
        require(1 <= p.finality <= 128, "finality must be 1 to 128 blocks")
        require(1 <= p.links <= 64, "links must be 1 to 64")
        require(1 <= p.quorum <= p.verifiers <= 32, "1 <= quorum <= verifiers <= 32 is needed")
        require(p.openings <= 16 and p.redraws <= 8 and 1 <= p.depth <= 16, "openings <= 16, redraws <= 8 and 1 <= depth <= 16 are needed")
        require(p.late_fee_bps <= BPS and p.no_show_bps <= BPS, "a fee is at most 10000 basis points")
        self.token.move(who, JOBS, terms.budget)
        number = JobId(len(self.jobs) + 1)
        job = self.jobs[number] = Job(number, who, terms, terms.budget)
        job.ranges[SegmentId(0)] = Range(opened_at=ctx.time)
        ctx.emit(chain.JobPosted, job=number, client=who, terms=terms)

    def fund(self, ctx: Context, who: Address, number: JobId, amount: int) -> None:
        job = self.job(number)
        require(not job.closed, "the job is closed")
        self.token.move(who, JOBS, amount)
        job.escrow += amount
        ctx.emit(chain.JobFunded, job=number, amount=amount)

    def cancel(self, ctx: Context, who: Address, number: JobId) -> None:
        job = self.job(number)
        require(not job.cancelled and not job.finished, "the job has ended")
        require(who == job.client or ctx.time > job.terms.deadline, "only the client may cancel before the deadline")
        job.cancelled = True
        ctx.emit(chain.JobCancelled, job=number)

    def close(self, ctx: Context, who: Address, number: JobId) -> None:
        job = self.job(number)
        require(job.cancelled or job.finished, "the job goes on")
        require(not job.closed, "the job is closed")
        require(job.live == 0, f"{job.live} segments are live")
        job.closed = True
        refund, job.escrow = job.escrow, 0
        self.credit_to(ctx, job.client, SegmentId(0), refund, "refund")
        ctx.emit(chain.JobClosed, job=number, refund=refund)

    # ---- segments

    def segment(self, number: SegmentId, *states: SegmentState) -> Segment:
        """The segment, which must be in one of `states` (any, when none is named)."""
        require(number in self.segments, f"no segment {number}")
        found = self.segments[number]
        require(not states or found.state in states, f"segment {number} is {found.state.name}")
        return found

    def assign(self, ctx: Context, who: Address, offer: Offer, signature: bytes) -> None:
        job = self.job(offer.job)
        terms, p = job.terms, job.terms.params
        require(not job.cancelled and not job.finished, "the job has ended")
        require(ctx.time <= terms.deadline, "the deadline has passed")
        require(self.offer_signer(offer, signature) == offer.provider, "the offer is not signed by its provider")
        require(ctx.time <= offer.expires, "the offer has expired")
        require((offer.provider, offer.nonce) not in self.nonces, "the offer's nonce was used")
        if offer.parent:
            parent = self.segment(offer.parent)
            require(parent.job == offer.job, "the parent is of another job")
            require(parent.state in PARENT_STATES, f"the parent is {parent.state.name}")
        require(offer.parent in job.ranges, "the parent has no end yet")
        span = job.ranges[offer.parent]
        require(not span.child, f"segment {span.child} is live there")
        require(who in (terms.scheduler, job.client) or ctx.time >= span.opened_at + p.takeover_window, "only the scheduler or the client yet")
        start = self.segments[offer.parent].stop if offer.parent else 0
        stop = min(terms.steps, (start // terms.segment_steps + 1) * terms.segment_steps)
        require((offer.start, offer.stop) == (start, stop) and start < stop, f"the range is [{start}, {stop})")
        require(offer.price <= terms.price_cap * (stop - start), "the price is over the cap")
        require(self.unsettled(offer.parent, p.depth) < p.depth, "too many unsettled ancestors")
        held = offer.price + p.verifiers * (1 + p.redraws) * terms.fee
        require(job.escrow >= held, f"escrow too small: {job.escrow} of {held}")
        bond = offer.price * p.bond_tenths // 10
        self.stakes.reserve(offer.provider, bond)
        self.nonces.add((offer.provider, offer.nonce))
        job.escrow -= held
        job.live += 1
        number = SegmentId(len(self.segments) + 1)
        span.child = number
        by = ctx.time + p.activate_window
        self.segments[number] = Segment(number, offer.job, offer.parent, offer.provider, start, stop, offer.price, bond, held, by)
        ctx.emit(
            chain.Assigned, segment=number, job=offer.job, parent=offer.parent, provider=offer.provider, start=start, stop=stop, price=offer.price,
            activate_by=by,
        )  # fmt: skip

    def unsettled(self, number: SegmentId, limit: int) -> int:
        """Unsettled segments from `number` upwards, counted up to `limit`."""
        count = 0
        while number and count < limit and self.segments[number].state != SegmentState.SETTLED:
            count += 1
            number = self.segments[number].parent
        return count

    def activate(self, ctx: Context, who: Address, number: SegmentId) -> None:
        seg = self.segment(number, SegmentState.ASSIGNED)
        require(who == seg.provider, "only the provider")
        require(ctx.time <= seg.activate_by, "too late to activate")
        seg.state = SegmentState.ACTIVE
        seg.lease_until = ctx.time + self.jobs[seg.job].terms.params.lease_window
        ctx.emit(chain.Activated, segment=number, lease_until=seg.lease_until)

    def lapse(self, ctx: Context, who: Address, number: SegmentId) -> None:
        seg = self.segment(number, SegmentState.ASSIGNED, SegmentState.ACTIVE)
        job = self.jobs[seg.job]
        assigned = seg.state == SegmentState.ASSIGNED
        require(ctx.time > (seg.activate_by if assigned else seg.lease_until), "not late yet")
        fee = 0 if assigned and not seg.keys_posted else min(seg.bond, seg.price * job.terms.params.late_fee_bps // BPS)
        self.stakes.charge(ctx, seg.provider, number, fee, "late")
        seg.bond -= fee
        job.escrow += fee
        self.end(ctx, seg, SegmentState.LAPSED)
        ctx.emit(chain.Lapsed, segment=number, fee=fee)

    def commit(self, ctx: Context, who: Address, call: Commit) -> None:
        seg = self.segment(call.segment, SegmentState.ACTIVE)
        job = self.jobs[seg.job]
        terms = job.terms
        require(who == seg.provider, "only the provider")
        require(ctx.time <= seg.lease_until, "the lease has ended")
        require(seg.start < call.stop <= seg.stop, f"the end must be in ({seg.start}, {seg.stop}]")
        require(0 < len(call.checkpoint) <= 128, "the checkpoint's CID must have 1 to 128 characters")
        require(len(call.key_envelope) <= 256, "the key's envelope is over 256 bytes")
        links = (call.stop - seg.start) * (terms.micro_batches + 1)
        opened = merkle.verify(call.link_root, links, links - 1, merkle.leaf(links - 1, call.end_root), call.proof)
        require(opened, "the proof does not open the last link end")
        price = seg.price * (call.stop - seg.start) // (seg.stop - seg.start)
        job.escrow += seg.price - price
        seg.held -= seg.price - price
        seg.price, seg.stop = price, call.stop
        above = self.segments[seg.parent].commitment if seg.parent else terms.spec_digest
        seg.link_root, seg.end_root = call.link_root, call.end_root
        seg.commitment = draw.commitment(
            ctx.chain_id, JOBS, seg.job, above, terms.program_root, seg.start, seg.stop, call.link_root, call.checkpoint, call.key_id
        )
        seg.state, seg.committed_in, seg.seats = SegmentState.COMMITTED, ctx.number, len(self.stakes.seats)
        seg.seed_block = ctx.number + terms.params.finality
        job.ranges[seg.number] = Range(opened_at=ctx.time)
        ctx.emit(
            chain.Committed, segment=seg.number, stop=seg.stop, link_root=seg.link_root, end_root=seg.end_root, checkpoint=call.checkpoint,
            key_id=call.key_id, key_envelope=call.key_envelope, commitment=seg.commitment, seed_block=seg.seed_block,
        )  # fmt: skip

    def draw(self, ctx: Context, who: Address, number: SegmentId) -> None:
        seg = self.segment(number, SegmentState.COMMITTED)
        job = self.jobs[seg.job]
        p = job.terms.params
        require(ctx.number > seg.seed_block, f"the seed block is {seg.seed_block}")
        seg.seed_block = draw.seed_block(seg.seed_block, ctx.number)
        seed = draw.seed(ctx.block_hash(seg.seed_block), number, seg.round)
        taken = {seg.provider, job.client, *(vote.verifier for vote in seg.past)}
        seg.votes = []
        for i in range(draw.MAX_TRIES if seg.seats else 0):
            if len(seg.votes) == p.verifiers:
                break
            seat = self.stakes.seats[draw.seat(seed, i, seg.seats)]
            gone = 0 < seat.left <= seg.committed_in
            if seat.holder in taken or gone or self.stakes.stake(seat.holder).free < p.draw_bond:
                continue
            self.stakes.reserve(seat.holder, p.draw_bond)
            taken.add(seat.holder)
            seg.votes.append(Vote(seat.holder, p.draw_bond))
        seg.units = draw.units(seed, job.terms, seg.stop - seg.start)
        seg.state, seg.serve_by, seg.keys_posted = SegmentState.DRAWN, ctx.time + p.serve_window, False
        chosen = tuple(vote.verifier for vote in seg.votes)
        ctx.emit(chain.Drawn, segment=number, round=seg.round, seed=seed, units=seg.units, verifiers=chosen, serve_by=seg.serve_by)

    def release_keys(self, ctx: Context, who: Address, call: ReleaseKeys) -> None:
        seg = self.segment(call.segment)
        require(len(call.releases) > 0, "nothing to release")
        for release in call.releases:
            require(len(release.wrapped) <= 256, "a wrapped key is over 256 bytes")
        if who == self.jobs[seg.job].terms.key_service:
            seg.keys_posted = True
        for release in call.releases:
            ctx.emit(
                chain.KeyReleased, segment=call.segment, recipient=release.recipient, key_id=release.key_id, wrapped=release.wrapped, by=who,
            )  # fmt: skip

    def redraw(self, ctx: Context, who: Address, number: SegmentId) -> None:
        seg = self.segment(number, SegmentState.DRAWN)
        require(ctx.time > seg.serve_by, "not late yet")
        reason = "not served" if seg.keys_posted else "keys withheld"
        for vote in seg.votes:
            self.stakes.release(vote.verifier, vote.bond)
        if seg.round < self.jobs[seg.job].terms.params.redraws:
            self.next_round(ctx, seg, reason)
        else:
            self.retire(seg)
            self.pay(ctx, seg, lambda vote: vote.opened)
            self.end(ctx, seg, SegmentState.UNPAID)
            ctx.emit(chain.Unpaid, segment=number, reason=reason)

    def retire(self, seg: Segment) -> None:
        seg.past += seg.votes
        seg.votes, seg.revealed = [], []

    def next_round(self, ctx: Context, seg: Segment, reason: str) -> None:
        """The draw came to nothing; bonds of its verifiers have been seen to."""
        self.retire(seg)
        seg.round += 1
        seg.state, seg.seed_block = SegmentState.COMMITTED, ctx.number + self.jobs[seg.job].terms.params.finality
        seg.seal_by = seg.reveal_by = seg.opening_block = seg.open_by = 0
        ctx.emit(chain.Redrawn, segment=seg.number, round=seg.round, reason=reason, seed_block=seg.seed_block)

    # ---- ends

    def settle(self, ctx: Context, who: Address, number: SegmentId) -> None:
        seg = self.segment(number, SegmentState.ATTESTED)
        job = self.jobs[seg.job]
        require(ctx.time > seg.settle_after, f"the challenge window runs until {seg.settle_after}")
        require(not seg.parent or self.segments[seg.parent].state == SegmentState.SETTLED, "the parent is not settled")
        seg.held -= seg.price
        self.credit_to(ctx, seg.provider, number, seg.price, "price")
        self.pay(ctx, seg, lambda vote: vote.side is True)
        self.end(ctx, seg, SegmentState.SETTLED)
        job.finished = seg.stop == job.terms.steps
        ctx.emit(chain.Settled, segment=number, provider=seg.provider, price=seg.price)

    def void(self, ctx: Context, who: Address, number: SegmentId) -> None:
        seg = self.segment(number)
        require(seg.state not in TERMINAL, f"segment {number} is {seg.state.name}")
        require(bool(seg.parent) and self.segments[seg.parent].state in FAILED, "the parent has not failed")
        for vote in seg.votes:
            self.stakes.release(vote.verifier, vote.bond)
            vote.bond = 0
        self.retire(seg)
        self.pay(ctx, seg, lambda vote: vote.opened)
        self.end(ctx, seg, SegmentState.VOID)
        ctx.emit(chain.Voided, segment=number)

    def end(self, ctx: Context, seg: Segment, state: SegmentState) -> None:
        """Enters a terminal state: the rest of the hold goes back to the escrow, the bond is free unless a dispute may want it."""
        job = self.jobs[seg.job]
        seg.state = state
        job.escrow += seg.held
        seg.held = 0
        job.live -= 1
        if state != SegmentState.WITHHELD:
            self.stakes.release(seg.provider, seg.bond)
            seg.bond = 0
        if state != SegmentState.SETTLED:
            job.ranges[seg.parent] = Range(opened_at=ctx.time)

    def pay(self, ctx: Context, seg: Segment, prevailed: Callable[[Vote], bool]) -> None:
        """Credits the fee to the verifiers of all rounds who prevailed."""
        fee = self.jobs[seg.job].terms.fee
        for vote in seg.past:
            if prevailed(vote):
                seg.held -= fee
                self.credit_to(ctx, vote.verifier, seg.number, fee, "fee")

    def credit_to(self, ctx: Context, who: Address, segment: SegmentId, amount: int, reason: str) -> None:
        if amount:
            self.credit[who] = self.credit.get(who, 0) + amount
            ctx.emit(chain.Credited, who=who, segment=segment, amount=amount, reason=reason)

    def withdraw(self, ctx: Context, who: Address) -> None:
        amount = self.credit.pop(who, 0)
        require(amount > 0, "nothing to withdraw")
        self.token.move(JOBS, who, amount)
        ctx.emit(chain.Withdrawn, who=who, amount=amount)
