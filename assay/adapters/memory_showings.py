"""The `Showings` contract in Python: what owners get for records that a dispute has shown. Rules and refusals are those of
contracts/src/Showings.sol and docs/economics.md.

Money: for every dataset what it has earned here less what its owners have taken; and, drawn from Disputes with them, nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from assay import chain
from assay.adapters.memory_datasets import Datasets, Part
from assay.adapters.memory_disputes import Disputes
from assay.adapters.memory_jobs import Jobs
from assay.adapters.memory_stakes import BURN, Context, Token, pseudo_address
from assay.adapters.refusals import refuse
from assay.chain import Outcome
from assay.dispute.checks import decode_data
from assay.dispute.showing import Shown
from assay.ids import Address, DatasetId, DisputeId, JobId, SegmentId
from assay.merkle import sha256
from assay.publish.manifest import SHARES
from assay.sampling import permute
from assay.stages import Undecodable

SHOWINGS = pseudo_address("showings")


@dataclass(slots=True)
class Earning:
    earned: int = 0
    taken: dict[Address, int] = field(default_factory=dict)


class Showings:
    def __init__(self, token: Token, jobs: Jobs, datasets: Datasets, disputes: Disputes) -> None:
        self.token, self.jobs, self.datasets, self.disputes = token, jobs, datasets, disputes
        disputes.asked, disputes.showings = self.asked, SHOWINGS
        self.prices: dict[DatasetId, list[tuple[int, int]]] = {}
        """(jobs that there were when it was set, price)."""
        self.claimed: set[DisputeId] = set()
        self.earnings: dict[DatasetId, Earning] = {}

    def run(self, ctx: Context, who: Address, call: chain.ShowingCall) -> None:
        match call:
            case chain.PriceRecords():
                self.set_price(ctx, who, call)
            case chain.ClaimShowing():
                self.claim(ctx, call.dispute, call.head)
            case chain.WithdrawShowings():
                self.withdraw(ctx, who, call.dataset)

    # ---- owners

    def set_price(self, ctx: Context, who: Address, call: chain.PriceRecords) -> None:
        self.datasets._need_owner(call.dataset, who)
        count = len(self.jobs.jobs)
        self.prices.setdefault(call.dataset, []).append((count, call.price))
        ctx.emit(chain.RecordPriced, dataset=call.dataset, price=call.price, after_job=JobId(count))

    def withdraw(self, ctx: Context, who: Address, number: DatasetId) -> None:
        published, earning = self.datasets._dataset(number).published, self.earnings.get(number, Earning())
        share = dict(zip(published.owners, published.shares, strict=True)).get(who, 0)
        amount = earning.earned * share // SHARES - earning.taken.get(who, 0)
        if not amount:
            raise refuse("NothingToWithdraw", who=who)
        earning.taken[who] = earning.taken.get(who, 0) + amount
        ctx.emit(chain.ShowingWithdrawn, dataset=number, owner=who, amount=amount)
        self.token.move(SHOWINGS, who, amount)

    # ---- anybody

    def claim(self, ctx: Context, number: DisputeId, head: bytes) -> None:
        if number in self.claimed:
            raise refuse("AlreadyClaimed", dispute=number)
        d = self.disputes.disputes.get(number)
        if d is None or not d.owed:
            raise refuse("NothingOwed", dispute=number)
        job = self.jobs.segments[SegmentId(d.state.facts.segment)].job
        parts = self.datasets.uses[job].parts
        asked = [n * self._price(part, job) for n, part in zip(self._counts(job, parts, d.shown, head), parts, strict=True)]
        self.claimed.add(number)
        if self.disputes.credit.get(SHOWINGS):
            self.disputes.withdraw(ctx, SHOWINGS)
        rest, total = d.owed, sum(asked)
        for amount, part in zip(asked, parts, strict=True):
            amount = amount * d.owed // total if total > d.owed else amount
            if amount:
                rest -= amount
                self.earnings.setdefault(part.dataset, Earning()).earned += amount
                ctx.emit(chain.ShowingPaid, dispute=number, dataset=part.dataset, amount=amount)
        self.token.move(SHOWINGS, d.state.facts.challenger if d.outcome is Outcome.ASSERTER_LOST else BURN, rest)

    def _counts(self, job: JobId, parts: list[Part], shown: Shown, head: bytes) -> list[int]:
        """How many of the records that were shown are each dataset's."""
        if len(parts) == 1:
            return [shown.records]
        try:
            data = decode_data(head)
        except Undecodable:
            raise refuse("BadOpening", what="the data root") from None
        if sha256(head) != self.jobs.jobs[job].terms.dataset_root:
            raise refuse("BadOpening", what="the data root")
        ends, counts = [0], [0] * len(parts)
        for part in parts:
            ends.append(ends[-1] + self.datasets.datasets[part.dataset].published.records)
        for place in range(shown.first, shown.first + shown.records):
            record = permute(data.order, place // data.records, data.records, place % data.records)
            counts[sum(record >= end for end in ends[1:])] += 1
        return counts

    # ---- look-up

    def _price(self, part: Part, job: JobId) -> int:
        return next((price for count, price in reversed(self.prices.get(part.dataset, [])) if count < job), part.price)

    def asked(self, segment: SegmentId, count: int) -> int:
        """The most that owners ask for so many records of a segment's job; 0 where it rests on no dataset."""
        job = self.jobs.segments[segment].job
        use = self.datasets.uses.get(job)
        return count * max(self._price(part, job) for part in use.parts) if use is not None else 0
