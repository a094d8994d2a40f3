"""The `Datasets` contract in Python: datasets, licences, and what jobs owe their owners. Rules and refusals are those of
contracts/src/Datasets.sol and docs/protocol.md; each method is one call, which checks all first and then acts.

Money: for every job that is not refunded the contract holds `escrow`, for every dataset what it has earned less what was taken.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from assay import chain
from assay.adapters.memory_jobs import Jobs
from assay.adapters.memory_stakes import Context, Token, pseudo_address
from assay.adapters.memory_terms import check_cid
from assay.adapters.refusals import refuse
from assay.chain import AdmitVerifiers, DatasetCall, GrantLicence, PublishDataset, SegmentState, Terms
from assay.ids import ZERO_ADDRESS, Address, DatasetId, JobId, SegmentId
from assay.licensing import ENDLESS, MOST_DATASETS, BadUses, Uses, decode_uses, due, read_head, reads
from assay.merkle import sha256
from assay.ports import Reverted
from assay.publish.manifest import MOST_OWNERS, SHARES

DATASETS = pseudo_address("datasets")
MOST_RECORDS = (1 << 40) - 1
MOST_TIME = (1 << 40) - 1
MOST_COST = (1 << 96) - 1
MOST_ADMITTED = 64


@dataclass(slots=True)
class Licence:
    price: int = 0
    left: int = 0
    until: int = 0
    purposes: int = 0
    number: int = 0
    epoch: int = 0

    def permits(self, now: int, purpose: int) -> bool:
        return self.until >= now and (self.purposes == 0 or (purpose < 16 and self.purposes >> purpose & 1 == 1))


@dataclass(slots=True)
class Dataset:
    published: PublishDataset
    owner: Address
    earned: int = 0
    lists: list[tuple[Address, ...]] = field(default_factory=lambda: [()])
    """Of verifiers, by number; the last one holds for jobs posted from now on, one without names admits all."""
    taken: dict[Address, int] = field(default_factory=dict)


@dataclass(slots=True)
class Part:
    dataset: DatasetId
    price: int
    number: int
    epoch: int
    list: int
    """Of its verifiers."""
    holder: Address
    """Whose licence it is: the client's, or everybody's (the zero address)."""


@dataclass(slots=True)
class Use:
    client: Address
    purpose: int
    each_step: int
    records: int
    parts: list[Part]
    escrow: int = 0
    settled: int = 0
    cursor: SegmentId = SegmentId(0)  # noqa: RUF009
    refunded: bool = False


class Datasets:
    def __init__(self, token: Token, jobs: Jobs) -> None:
        self.token, self.jobs = token, jobs
        jobs.need, jobs.admitted = self.need, self.admitted
        self.datasets: dict[DatasetId, Dataset] = {}
        self.licences: dict[tuple[DatasetId, Address], Licence] = {}
        self.uses: dict[JobId, Use] = {}

    def run(self, ctx: Context, who: Address, call: DatasetCall) -> None:
        match call:
            case chain.PublishDataset():
                self.publish(ctx, who, call)
            case chain.GrantLicence():
                self.grant(ctx, who, call)
            case chain.RevokeLicence():
                self.revoke(ctx, who, call.dataset, call.who)
            case chain.AdmitVerifiers():
                self.admit(ctx, who, call)
            case chain.PostLicensed():
                self.post(ctx, who, call.terms, call.uses)
            case chain.CollectUse():
                self.collect(ctx, call.job, call.most)
            case chain.RefundUse():
                self.refund(ctx, call.job)
            case chain.WithdrawRevenue():
                self.withdraw(ctx, who, call.dataset)

    # ---- owners

    def publish(self, ctx: Context, who: Address, call: PublishDataset) -> None:
        check_cid(call.cid)
        if not 1 <= len(call.owners) <= MOST_OWNERS:
            raise refuse("BadLength", name="owners", length=len(call.owners), most=MOST_OWNERS)
        if len(call.shares) != len(call.owners):
            raise refuse("BadLength", name="shares", length=len(call.shares), most=len(call.owners))
        if not 1 <= call.records <= MOST_RECORDS:
            raise refuse("BadTerm", name="records", value=call.records, least=1, most=MOST_RECORDS)
        number = DatasetId(len(self.datasets) + 1)
        if call.owners[0] != who:
            raise refuse("NotOwner", sender=who, dataset=number)
        for i, (owner, share) in enumerate(zip(call.owners, call.shares, strict=True)):
            if owner == ZERO_ADDRESS or not share or owner in call.owners[:i]:
                raise refuse("BadShares", sum=i)
        if sum(call.shares) != SHARES:
            raise refuse("BadShares", sum=sum(call.shares))
        self.datasets[number] = Dataset(call, who)
        ctx.emit(chain.DatasetPublished, dataset=number, owner=who, **{name: getattr(call, name) for name in call.__struct_fields__})

    def _dataset(self, number: DatasetId) -> Dataset:
        if number not in self.datasets:
            raise refuse("NoSuchDataset", dataset=number)
        return self.datasets[number]

    def _need_owner(self, number: DatasetId, who: Address) -> None:
        if self._dataset(number).owner != who:
            raise refuse("NotOwner", sender=who, dataset=number)

    def _licence(self, number: DatasetId, who: Address) -> Licence:
        return self.licences.get((number, who), Licence())

    def grant(self, ctx: Context, who: Address, call: GrantLicence) -> None:
        self._need_owner(call.dataset, who)
        if not ctx.time <= call.until <= MOST_TIME:
            raise refuse("BadTerm", name="until", value=call.until, least=ctx.time, most=MOST_TIME)
        if call.uses == 0:
            raise refuse("BadTerm", name="uses", value=0, least=1, most=ENDLESS)
        had = self._licence(call.dataset, call.who)
        fresh = Licence(call.price, call.uses, call.until, call.purposes, had.number + 1, had.epoch)
        self.licences[call.dataset, call.who] = fresh
        ctx.emit(
            chain.LicenceGranted, dataset=call.dataset, who=call.who, price=call.price, uses=call.uses, until=call.until, purposes=call.purposes
        )  # fmt: skip

    def revoke(self, ctx: Context, who: Address, number: DatasetId, holder: Address) -> None:
        self._need_owner(number, who)
        licence = self._licence(number, holder)
        if not licence.until:
            raise refuse("NoLicence", dataset=number, who=holder)
        licence.left = licence.until = 0
        licence.epoch += 1
        ctx.emit(chain.LicenceRevoked, dataset=number, who=holder)

    def admit(self, ctx: Context, who: Address, call: AdmitVerifiers) -> None:
        self._need_owner(call.dataset, who)
        if len(call.verifiers) > MOST_ADMITTED:
            raise refuse("BadLength", name="verifiers", length=len(call.verifiers), most=MOST_ADMITTED)
        for i, (before, verifier) in enumerate(itertools.pairwise((ZERO_ADDRESS, *call.verifiers))):
            if verifier <= before:
                raise refuse("BadList", index=i)
        lists = self.datasets[call.dataset].lists
        lists.append(call.verifiers)
        ctx.emit(chain.VerifiersAdmitted, dataset=call.dataset, list=len(lists) - 1, verifiers=call.verifiers)

    def withdraw(self, ctx: Context, who: Address, number: DatasetId) -> None:
        amount = self.revenue(number, who)
        if not amount:
            raise refuse("NothingToWithdraw", who=who)
        dataset = self.datasets[number]
        dataset.taken[who] = dataset.taken.get(who, 0) + amount
        ctx.emit(chain.RevenueWithdrawn, dataset=number, owner=who, amount=amount)
        self.token.move(DATASETS, who, amount)

    def revenue(self, number: DatasetId, who: Address) -> int:
        dataset = self._dataset(number)
        shares = dict(zip(dataset.published.owners, dataset.published.shares, strict=True))
        return dataset.earned * shares.get(who, 0) // SHARES - dataset.taken.get(who, 0)

    # ---- jobs

    def post(self, ctx: Context, who: Address, terms: Terms, data: bytes) -> None:
        self.jobs.check_post(ctx, who, terms)
        number = JobId(len(self.jobs.jobs) + 1)
        try:
            uses = decode_uses(data)
        except BadUses as error:
            raise Reverted(f"refused without a known reason: {error}") from None
        use = self._opened(ctx, who, number, terms, uses)
        use.escrow = self._due(use, terms.steps)
        if use.escrow > MOST_COST:
            raise refuse("BadTerm", name="cost", value=use.escrow, least=0, most=MOST_COST)
        if use.escrow > uses.most:
            raise refuse("DataOverMost", cost=use.escrow, most=uses.most)
        self.token.check(who, terms.budget + use.escrow)
        self.jobs.post(ctx, who, terms)
        for part in use.parts:
            self._take(part, -self._reads(use, part, terms.steps))
        self.uses[number] = use
        ctx.emit(
            chain.JobLicensed, job=number, client=who, datasets=uses.datasets, prices=tuple(part.price for part in use.parts), purpose=uses.purpose,
            locked=use.escrow, lists=uses.lists,
        )  # fmt: skip
        self.token.move(who, DATASETS, use.escrow)

    def _opened(self, ctx: Context, who: Address, number: JobId, terms: Terms, uses: Uses) -> Use:
        """Refuses data that are not those that are named, and a missing licence; changes nothing."""
        if not 1 <= len(uses.datasets) <= MOST_DATASETS:
            raise refuse("BadLength", name="datasets", length=len(uses.datasets), most=MOST_DATASETS)
        if len(uses.lists) != len(uses.datasets):
            raise refuse("BadLength", name="lists", length=len(uses.lists), most=len(uses.datasets))
        try:
            head = read_head(uses.head)
        except BadUses:
            raise refuse("OtherData", job=number) from None
        if sha256(uses.head) != terms.dataset_root:
            raise refuse("OtherData", job=number)
        named = [(dataset, self._dataset(dataset).published) for dataset in uses.datasets]
        for dataset, published in named:
            if published.key_service != terms.key_service:
                raise refuse("OtherKeyService", dataset=dataset, keyService=published.key_service)
        if head.records != sum(published.records for _, published in named) or (len(named) == 1 and head.root != named[0][1].root):
            raise refuse("OtherData", job=number)
        use = Use(who, uses.purpose, terms.micro_batches * head.batch, head.records, [])
        wanted: dict[tuple[DatasetId, Address], int] = {}
        for (dataset, _), seen in zip(named, uses.lists, strict=True):
            holder = who if self._licence(dataset, who).until >= ctx.time else ZERO_ADDRESS
            licence = self._licence(dataset, holder)
            if licence.until < ctx.time:
                raise refuse("NoLicence", dataset=dataset, who=who)
            if not licence.permits(ctx.time, uses.purpose):
                raise refuse("WrongPurpose", dataset=dataset, purpose=uses.purpose)
            present = len(self.datasets[dataset].lists) - 1
            part = Part(dataset, licence.price, licence.number, licence.epoch, present, holder)
            needed, left = self._reads(use, part, terms.steps), licence.left - wanted.get((dataset, holder), 0)
            if licence.left != ENDLESS and left < needed:
                raise refuse("UsesExhausted", dataset=dataset, left=left, needed=needed)
            if seen != present:
                raise refuse("OtherList", dataset=dataset, list=present)
            wanted[dataset, holder] = wanted.get((dataset, holder), 0) + needed
            use.parts.append(part)
        self._need_admitted(use, ZERO_ADDRESS, terms.params.verifiers)
        return use

    # ---- verifiers

    def admitted(self, job: JobId) -> tuple[Address, ...] | None:
        use = self.uses.get(job)
        return None if use is None else self._common(use)

    def _common(self, use: Use) -> tuple[Address, ...] | None:
        """Who is on the lists of all its datasets that have names; None where none has."""
        lists = [names for part in use.parts if (names := self.datasets[part.dataset].lists[part.list])]
        return tuple(sorted(set(lists[0]).intersection(*lists))) if lists else None

    def _need_admitted(self, use: Use, provider: Address, needed: int) -> None:
        names = self._common(use)
        found = sum(who not in (use.client, provider) and self.jobs.stakes.seated(who) for who in names or ())
        if names is not None and found < needed:
            raise refuse("TooFewAdmitted", found=found, needed=needed)

    def _take(self, part: Part, change: int) -> None:
        licence = self._licence(part.dataset, part.holder)
        if licence.left != ENDLESS:
            licence.left += change

    def need(self, ctx: Context, job: JobId, provider: Address) -> None:
        """Refuses when a licence that the job rests on is over, or too few have seats who may check it."""
        use = self.uses.get(job)
        for part in use.parts if use is not None else ():
            licence = self._licence(part.dataset, part.holder)
            if use is not None and (licence.epoch != part.epoch or not licence.permits(ctx.time, use.purpose)):
                raise refuse("NoLicence", dataset=part.dataset, who=use.client)
        if use is not None:
            self._need_admitted(use, provider, self.jobs.jobs[job].terms.params.quorum)

    # ---- anybody

    def _use(self, job: JobId) -> Use:
        if job not in self.uses:
            raise refuse("NoUse", job=job)
        return self.uses[job]

    def collect(self, ctx: Context, job: JobId, most: int) -> None:
        use = self._use(job)
        if not self._collect(ctx, job, use, most):
            raise refuse("NothingToCollect", job=job)

    def _collect(self, ctx: Context, job: JobId, use: Use, most: int) -> int:
        count, following = 0, self.jobs.segments[use.cursor].child if use.cursor else self.jobs.jobs[job].child
        while following and count < most:
            segment = self.jobs.segments[following]
            if segment.state != SegmentState.SETTLED:
                break
            for part in use.parts:
                amount = self._due_of(use, part, segment.stop) - self._due_of(use, part, use.settled)
                use.escrow -= amount
                self.datasets[part.dataset].earned += amount
                ctx.emit(chain.UsePaid, job=job, dataset=part.dataset, segment=following, amount=amount)
            use.cursor, use.settled, following = following, segment.stop, segment.child
            count += 1
        return count

    def refund(self, ctx: Context, job: JobId) -> None:
        use = self._use(job)
        if use.refunded:
            raise refuse("AlreadyRefunded", job=job)
        if not self.jobs.jobs[job].closed:
            raise refuse("JobIsOpen", job=job)
        self._collect(ctx, job, use, ENDLESS)
        use.refunded = True
        amount, use.escrow = use.escrow, 0
        for part in use.parts:
            licence = self._licence(part.dataset, part.holder)
            if (licence.number, licence.epoch) == (part.number, part.epoch):
                self._take(part, self._reads(use, part, self.jobs.jobs[job].terms.steps) - self._reads(use, part, use.settled))
        ctx.emit(chain.UseRefunded, job=job, amount=amount)
        self.token.move(DATASETS, use.client, amount)

    # ---- sums

    def _reads(self, use: Use, part: Part, steps: int) -> int:
        return reads(steps, use.each_step, self.datasets[part.dataset].published.records, use.records)

    def _due_of(self, use: Use, part: Part, steps: int) -> int:
        return due(steps, use.each_step, self.datasets[part.dataset].published.records, use.records, part.price)

    def _due(self, use: Use, steps: int) -> int:
        return sum(self._due_of(use, part, steps) for part in use.parts)
