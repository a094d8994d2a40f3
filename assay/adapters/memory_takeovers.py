"""The `Takeovers` contract in Python: who places a job's segments when its scheduler is silent, and with whom. Rules and refusals are those of
contracts/src/Takeovers.sol and docs/scheduler.md."""

from __future__ import annotations

from assay import chain
from assay.adapters.memory_jobs import Jobs
from assay.adapters.memory_stakes import Context, pseudo_address
from assay.adapters.refusals import refuse
from assay.codec import encode
from assay.ids import ZERO_ADDRESS, Address, Digest
from assay.merkle import sha256

TAKEOVERS = pseudo_address("takeovers")
MOST_PROVIDERS, MOST_PATIENCE = 64, 7 * 86_400


def _within(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise refuse("BadTerm", name=name, value=value, least=least, most=most)


class Takeovers:
    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
        self.plans: dict[tuple[Address, Digest], chain.Entrust] = {}
        """By client and document."""

    def entrust(self, ctx: Context, who: Address, call: chain.Entrust) -> None:
        _within("scheduler", int(call.scheduler != ZERO_ADDRESS), 1, (1 << 160) - 1)
        _within("patience", call.patience, 1, MOST_PATIENCE)
        _within("providers", len(call.providers), 0, MOST_PROVIDERS)
        if (who, call.spec_digest) in self.plans:
            raise refuse("AlreadyEntrusted", client=who, specDigest=call.spec_digest)
        self.plans[who, call.spec_digest] = call
        ctx.emit(
            chain.Entrusted, client=who, spec_digest=call.spec_digest, scheduler=call.scheduler, patience=call.patience, providers=call.providers
        )

    def assign(self, ctx: Context, who: Address, call: chain.AssignListed, digest: Digest) -> None:
        offer, job = call.offer, self.jobs.job(call.offer.job)
        plan = self.plans.get((job.client, job.terms.spec_digest))
        if plan is None:
            raise refuse("NotEntrusted", job=offer.job)
        if who != plan.scheduler:
            after = (self.jobs.segment(offer.parent) if offer.parent else job).open_since + plan.patience
            if ctx.time <= after:
                raise refuse("NotEntitledToAssign", sender=who, anyoneAfter=after)
            if call.providers != plan.providers:
                raise refuse("WrongProviders", kept=sha256(encode(plan.providers)))
            if offer.provider not in plan.providers:
                raise refuse("NotListed", provider=offer.provider)
        self.jobs.assign(ctx, TAKEOVERS, offer, call.signature, digest)
