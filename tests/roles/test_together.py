"""All roles in one process on ports in memory: a job is trained, checked, settled and paid, and ends in the state of a local run."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tiny import Net, plan, post

from assay.chain import JobClosed, SegmentState
from assay.client import run_plan
from assay.keyservice.daemon import key_service
from assay.receipts import Ledger
from assay_scheduler.daemon import scheduler
from assay_verifier.daemon import verifier
from assay_worker.daemon import worker


async def start(net: Net, workers: int = 2, verifiers: int = 4) -> None:
    await net.up("scheduler", scheduler, role="scheduler")
    await net.up("keys", key_service, role="keyservice")
    for i in range(workers):
        await net.up(f"worker{i}", worker, deposit=100_000, price_per_step=10 + i)
    for i in range(verifiers):
        await net.up(f"verifier{i}", verifier, role="verifier", deposit=100_000, seat=True)


def ledger(net: Net) -> Ledger:
    out = Ledger()
    out.feed(net.ledger.events())
    return out


def ended(net: Net, job: int) -> bool:
    return any(isinstance(event, JobClosed) and event.job == job for event in net.ledger.events())


def test_a_job_is_trained_checked_and_paid(tmp_path: Path) -> None:
    async def run() -> None:
        net, what = Net(tmp_path), plan(6)
        async with net.mining():
            await start(net)
            job = await post(net, what, 2)
            try:
                await net.until(lambda: ended(net, job))
            except BaseException:
                print(net.log())
                raise
        found = ledger(net)
        segments = [s for s in found.segments.values() if s.state == SegmentState.SETTLED]
        assert [(s.start, s.stop) for s in segments] == [(0, 2), (2, 4), (4, 6)]
        assert segments[-1].end_root == run_plan(what).root
        assert all(sum(p.amount for p in s.payments if p.who == s.provider) == s.price for s in segments)

    asyncio.run(run())
