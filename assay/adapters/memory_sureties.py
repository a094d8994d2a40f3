"""The `Sureties` contract in Python: what key services put up for keys that they do not release. Rules and refusals are those of
contracts/src/Sureties.sol and docs/protocol.md.

Money: the contract's balance is the sum of `free` over key services and of `left` over jobs.
"""

from __future__ import annotations

from dataclasses import dataclass

from assay import chain, draw
from assay.adapters.memory_jobs import Jobs
from assay.adapters.memory_records import Segment
from assay.adapters.memory_stakes import JOBS, Context, Token, pseudo_address
from assay.adapters.refusals import refuse
from assay.chain import SegmentState
from assay.ids import Address, JobId, SegmentId
from assay.merkle import sha256

SURETIES = pseudo_address("sureties")
MOST = (1 << 96) - 1


@dataclass(slots=True)
class Offered:
    per_job: int = 0
    each: int = 0
    notice: int = 0
    free: int = 0


@dataclass(slots=True)
class Cover:
    keeper: Address
    left: int
    each: int
    ends_after: int = 0


class Sureties:
    def __init__(self, token: Token, jobs: Jobs, chain_id: int) -> None:
        self.token, self.jobs, self.chain_id = token, jobs, chain_id
        self.offered: dict[Address, Offered] = {}
        self.covers: dict[JobId, Cover] = {}
        self.contested: dict[SegmentId, bool] = {}
        """Segments whose checkpoint's envelope does not open, the key service says; False: the key has been shown since."""
        self.paid: set[SegmentId] = set()

    def run(self, ctx: Context, who: Address, call: chain.SuretyCall) -> None:
        match call:
            case chain.OfferSurety():
                self.offer(ctx, who, call)
            case chain.DepositSurety():
                self.deposit(ctx, who, call.amount)
            case chain.WithdrawSurety():
                self.withdraw(ctx, who, call.amount)
            case chain.VouchJob():
                self.vouch(ctx, who, call.job)
            case chain.ContestCheckpoint():
                self.contest(ctx, who, call.segment)
            case chain.ShowCheckpointKey():
                self.show(ctx, call)
            case chain.ClaimSurety():
                self.claim(ctx, call.segment)
            case chain.ReturnSurety():
                self.give_back(ctx, call.job)

    # ---- key services

    def _of(self, keeper: Address) -> Offered:
        return self.offered.setdefault(keeper, Offered())

    def offer(self, ctx: Context, who: Address, call: chain.OfferSurety) -> None:
        if not 1 <= call.each <= call.per_job:
            raise refuse("BadTerm", name="each", value=call.each, least=1, most=call.per_job)
        offered = self._of(who)
        offered.per_job, offered.each, offered.notice = call.per_job, call.each, call.notice
        ctx.emit(chain.SuretyOffered, keeper=who, per_job=call.per_job, each=call.each, notice=call.notice)

    def deposit(self, ctx: Context, who: Address, amount: int) -> None:
        if amount == 0:
            raise refuse("ZeroAmount")
        self.token.move(who, SURETIES, amount)
        self._of(who).free += amount
        ctx.emit(chain.SuretyDeposited, keeper=who, amount=amount)

    def _need_free(self, keeper: Address, amount: int) -> Offered:
        offered = self._of(keeper)
        if offered.free < amount:
            raise refuse("InsufficientSurety", keeper=keeper, free=offered.free, needed=amount)
        return offered

    def withdraw(self, ctx: Context, who: Address, amount: int) -> None:
        if amount == 0:
            raise refuse("ZeroAmount")
        self._need_free(who, amount).free -= amount
        ctx.emit(chain.SuretyWithdrawn, keeper=who, amount=amount)
        self.token.move(SURETIES, who, amount)

    def vouch(self, ctx: Context, who: Address, number: JobId) -> None:
        job, offered = self.jobs.job(number), self._of(who)
        p = job.terms.params
        if who != job.terms.key_service:
            raise refuse("NotKeyService", sender=who, keyService=job.terms.key_service)
        if number in self.covers:
            raise refuse("AlreadyVouched", job=number)
        if job.cancelled or job.completed:
            raise refuse("JobIsOver", job=number)
        if not offered.each:
            raise refuse("BadTerm", name="each", value=0, least=1, most=MOST)
        if p.serve_window < offered.notice:
            raise refuse("ShortNotice", window=p.serve_window, notice=offered.notice)
        if not p.redraws:
            raise refuse("NoRedraw", job=number)
        self._need_free(who, offered.per_job).free -= offered.per_job
        self.covers[number] = Cover(who, offered.per_job, offered.each)
        ctx.emit(chain.JobVouched, job=number, keeper=who, amount=offered.per_job, each=offered.each)

    def contest(self, ctx: Context, who: Address, number: SegmentId) -> None:
        seg = self.jobs.segment(number)
        cover = self._cover(seg.job)
        if who != cover.keeper:
            raise refuse("NotKeyService", sender=who, keyService=cover.keeper)
        if number in self.contested:
            raise refuse("AlreadyContested", segment=number)
        if seg.state not in (SegmentState.COMMITTED, SegmentState.DRAWN) or seg.round:
            raise refuse("WrongState", segment=number, state=seg.state)
        until = seg.serve_by - self.jobs.jobs[seg.job].terms.params.serve_window // 2
        if seg.state == SegmentState.DRAWN and ctx.time > until:
            raise refuse("TooLate", notAfter=until, now_=ctx.time)
        self.contested[number] = True
        ctx.emit(chain.CheckpointContested, segment=number, keeper=who)

    # ---- anybody

    def show(self, ctx: Context, call: chain.ShowCheckpointKey) -> None:
        if not self.contested.get(call.segment):
            raise refuse("NotContested", segment=call.segment)
        seg = self.jobs.segment(call.segment)
        terms = self.jobs.jobs[seg.job].terms
        if seg.state != SegmentState.COMMITTED and not (seg.state == SegmentState.DRAWN and seg.round < terms.params.redraws):
            raise refuse("WrongState", segment=call.segment, state=seg.state)
        parent = self.jobs.segments[seg.parent].commitment if seg.parent else terms.spec_digest
        head = (self.chain_id, JOBS, seg.job, parent, terms.program_root, seg.start, seg.stop, seg.link_root)
        if draw.commitment_to(*head, call.checkpoint, sha256(call.key)) != seg.commitment:
            raise refuse("OtherKey", segment=call.segment)
        self.contested[call.segment] = False
        ctx.emit(chain.CheckpointKeyShown, segment=call.segment, key=call.key)

    def claim(self, ctx: Context, number: SegmentId) -> None:
        seg = self.jobs.segment(number)
        cover = self._cover(seg.job)
        if number in self.paid:
            raise refuse("AlreadyPaid", segment=number)
        self._need_withheld(seg)
        if self.contested.get(number):
            raise refuse("IsContested", segment=number)
        if self.jobs.stakes.reservation(seg.provider, number) < seg.bond:
            raise refuse("IsSeized", segment=number)
        amount = min(seg.price, cover.each, cover.left)
        if not amount:
            raise refuse("NothingLeft", job=seg.job)
        self.paid.add(number)
        cover.left -= amount
        ctx.emit(chain.SuretyPaid, segment=number, job=seg.job, provider=seg.provider, amount=amount)
        self.token.move(SURETIES, seg.provider, amount)

    def _need_withheld(self, seg: Segment) -> None:
        """It has failed in a round that was drawn and not served, for which fewer than a quorum had keys, and its provider had its own."""
        quorum = self.jobs.jobs[seg.job].terms.params.quorum
        failed = seg.state in (SegmentState.UNPAID, SegmentState.WITHHELD) and seg.keyed and seg.bonded
        served = max(sum(check.keyed for check in seg.checks), sum(check.receipted for check in seg.checks)) >= quorum
        if not failed or not seg.checks or served:
            raise refuse("NotWithheld", segment=seg.number)

    def give_back(self, ctx: Context, number: JobId) -> None:
        cover = self._cover(number)
        job = self.jobs.job(number)
        if not job.closed:
            raise refuse("JobIsOpen", job=number)
        if not cover.ends_after:
            cover.ends_after = ctx.time + job.terms.params.challenge_window
            ctx.emit(chain.SuretyEnding, job=number, ends_after=cover.ends_after)
            return
        if ctx.time <= cover.ends_after:
            raise refuse("TooEarly", notBefore=cover.ends_after, now_=ctx.time)
        if not cover.left:
            raise refuse("NothingLeft", job=number)
        amount, cover.left = cover.left, 0
        self._of(cover.keeper).free += amount
        ctx.emit(chain.SuretyReturned, job=number, keeper=cover.keeper, amount=amount)

    def _cover(self, job: JobId) -> Cover:
        if job not in self.covers:
            raise refuse("NotVouched", job=job)
        return self.covers[job]
