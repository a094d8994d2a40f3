"""The `Bounties` contract in Python: payment by result. Rules and refusals are those of contracts/src/Bounties.sol and docs/protocol.md.

Money: the contract's balance is the sum over bounties of what has not been credited of their amount, and of `credit`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from assay import bounty, chain, merkle
from assay.adapters.memory_jobs import Jobs
from assay.adapters.memory_records import Segment
from assay.adapters.memory_stakes import Context, Token, pseudo_address
from assay.adapters.refusals import refuse
from assay.chain import BountyTerms, SegmentState
from assay.codec import digest
from assay.ids import Address, BountyId, Digest, SegmentId

BOUNTIES = pseudo_address("bounties")
NONE = SegmentId(0)
MOST_ENTRIES, MOST_RUNGS = 4096, 16
MOST_WINDOW = 90 * 24 * 3600


@dataclass(slots=True)
class Bounty:
    number: BountyId
    sponsor: Address
    terms: BountyTerms
    amount: int
    reached: int = 0
    last: SegmentId = NONE
    until: int = 0
    shown: bool = False
    returned: bool = False
    paid: set[SegmentId] = field(default_factory=set)


def _within(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise refuse("BadTerm", name=name, value=value, least=least, most=most)


def check(terms: BountyTerms) -> None:
    """Refuses what the contract does."""
    _within("window", terms.window, 1, MOST_WINDOW)
    _within("entries", len(terms.start), 1, MOST_ENTRIES)
    if terms.dtype not in (bounty.F32, bounty.I64):
        raise refuse("BadTerm", name="dtype", value=terms.dtype, least=bounty.F32, most=bounty.I64)
    if all(entry.name != terms.metric for entry in terms.start):
        raise refuse("BadTerm", name="metric", value=len(terms.start), least=0, most=len(terms.start))
    _within("rungs", len(terms.rungs), 1, MOST_RUNGS)
    before: chain.Rung | None = None
    for i, rung in enumerate(terms.rungs):
        harder = before is None or (rung.threshold < before.threshold if terms.at_most else rung.threshold > before.threshold)
        if rung.amount <= (before.amount if before else 0) or not harder:
            raise refuse("BadRungs", index=i)
        before = rung
    _within("amount", terms.amount, 1, (1 << 96) - 1)


class Bounties:
    def __init__(self, token: Token, jobs: Jobs) -> None:
        self.token, self.jobs = token, jobs
        self.bounties: dict[BountyId, Bounty] = {}
        self.credit: dict[Address, int] = {}

    def run(self, ctx: Context, who: Address, call: chain.BountyCall) -> None:
        match call:
            case chain.OfferBounty():
                self.offer(ctx, who, call.terms)
            case chain.BeginBounty():
                self.begin(ctx, call)
            case chain.ShowBounty():
                self.show(ctx, call)
            case chain.CollectBounty():
                self.collect(ctx, call)
            case chain.ReturnBounty():
                self.give_back(ctx, call.bounty)
            case chain.WithdrawBounties():
                self.withdraw(ctx, who)

    def _known(self, number: BountyId) -> Bounty:
        if number not in self.bounties:
            raise refuse("NoSuchBounty", bounty=number)
        return self.bounties[number]

    def _settled(self, number: SegmentId) -> Segment:
        return self.jobs.segment(number, SegmentState.SETTLED)

    def offer(self, ctx: Context, who: Address, terms: BountyTerms) -> None:
        self.jobs.job(terms.job)
        check(terms)
        number, locked = BountyId(len(self.bounties) + 1), terms.amount
        self.token.move(who, BOUNTIES, locked)
        self.bounties[number] = Bounty(number, who, terms, locked)
        ctx.emit(chain.BountyOffered, bounty=number, job=terms.job, sponsor=who, terms=terms)

    def begin(self, ctx: Context, call: chain.BeginBounty) -> None:
        b = self._known(call.bounty)
        if b.until:
            raise refuse("HasBegun", bounty=b.number)
        job = self.jobs.job(b.terms.job)
        if job.live or not (job.completed or job.cancelled):
            raise refuse("JobIsLive", job=job.number, segments=job.live)
        if call.last == 0:
            if job.child:
                raise refuse("NotTheLast", segment=call.last)
            b.until, b.shown = ctx.time, True
        else:
            last = self._settled(call.last)
            if last.job != job.number or last.child:
                raise refuse("NotTheLast", segment=call.last)
            b.last, b.until = call.last, ctx.time + b.terms.window
        ctx.emit(chain.BountyBegun, bounty=b.number, last=b.last, until=b.until)

    def show(self, ctx: Context, call: chain.ShowBounty) -> None:
        b, terms = self._known(call.bounty), call.terms
        if terms != b.terms:
            raise refuse("BadTerms", terms=digest(b.terms))
        if not b.until:
            raise refuse("NotBegun", bounty=b.number)
        if ctx.time > b.until:
            raise refuse("TooLate", notAfter=b.until, now_=ctx.time)
        segment = self._settled(call.segment)
        if segment.stop != terms.evaluation.steps:
            raise refuse("NotTheEvaluation", job=segment.job, what="its end")
        self._need_evaluation(b, segment, call)
        if call.value >> 8 * bounty.NUMPY[terms.dtype].itemsize:
            raise refuse("BadProof")
        if _end(terms, call.value, call.path) != segment.end_root:
            raise refuse("BadProof")
        found = bounty.reached(terms, call.value)
        b.reached, b.shown = max(b.reached, found), True
        ctx.emit(chain.BountyShown, bounty=b.number, segment=call.segment, value=call.value, reached=found)

    def _need_evaluation(self, b: Bounty, segment: Segment, call: chain.ShowBounty) -> None:
        job = self.jobs.job(segment.job)
        if bounty.evaluated(job.terms) != b.terms.evaluation:
            raise refuse("NotTheEvaluation", job=job.number, what="its terms")
        if len(call.trained) > MOST_ENTRIES:
            raise refuse("BadLength", name="trained", length=len(call.trained), most=MOST_ENTRIES)
        last = self.jobs.segments.get(b.last)
        if last is None or bounty.root_of(last.stop, call.trained) != last.end_root:
            raise refuse("NotTheEvaluation", job=job.number, what="the training's last state")
        try:
            start = bounty.started(b.terms.start, call.trained)
        except bounty.NoMatch:
            raise refuse("BadProof") from None
        if bounty.root_of(0, start) != job.terms.state_root:
            raise refuse("NotTheEvaluation", job=job.number, what="its start")

    def _earned(self, ctx: Context, b: Bounty) -> int:
        if not b.until:
            raise refuse("NotBegun", bounty=b.number)
        if not (ctx.time > b.until or b.reached == b.amount or not b.last):
            raise refuse("TooEarly", notBefore=b.until, now_=ctx.time)
        return b.reached if b.shown else b.amount

    def collect(self, ctx: Context, call: chain.CollectBounty) -> None:
        b = self._known(call.bounty)
        earned = self._earned(ctx, b)
        fresh: set[SegmentId] = set()
        for number in call.segments:
            if self._settled(number).job != b.terms.job:
                raise refuse("NotOfTheJob", segment=number, job=b.terms.job)
            if number in b.paid | fresh:
                raise refuse("IsPaid", bounty=b.number, segment=number)
            fresh.add(number)
        for number in call.segments:
            seg, steps = self.jobs.segments[number], self.jobs.segments[b.last].stop
            share = earned * seg.stop // steps - earned * seg.start // steps
            self.credit[seg.provider] = self.credit.get(seg.provider, 0) + share
            ctx.emit(chain.BountyPaid, bounty=b.number, segment=number, provider=seg.provider, amount=share)
        b.paid |= fresh

    def give_back(self, ctx: Context, number: BountyId) -> None:
        b = self._known(number)
        back = b.amount - self._earned(ctx, b)
        if b.returned:
            raise refuse("IsReturned", bounty=number)
        b.returned = True
        self.credit[b.sponsor] = self.credit.get(b.sponsor, 0) + back
        ctx.emit(chain.BountyReturned, bounty=number, amount=back)

    def withdraw(self, ctx: Context, who: Address) -> None:
        paid = self.credit.get(who, 0)
        if not paid:
            raise refuse("NothingToWithdraw", who=who)
        self.credit[who] = 0
        self.token.move(BOUNTIES, who, paid)
        ctx.emit(chain.BountyWithdrawn, who=who, amount=paid)


def _end(terms: BountyTerms, value: int, path: tuple[Digest, ...]) -> Digest | None:
    """The state root that a path from the metric leads to."""
    count, place = len(terms.start), bounty.place_of(terms)
    if len(path) != merkle.depth(count):
        return None
    here = bounty.metric_leaf(terms, value)
    for sibling in path:
        here = merkle.node(sibling, here) if place & 1 else merkle.node(here, sibling)
        place >>= 1
    return bounty.root_over(terms.evaluation.steps, count, here)
