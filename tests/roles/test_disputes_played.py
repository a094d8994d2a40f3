"""Disputes that real daemons begin, answer and end by themselves, with real engines over a small job: who wins, who is paid, through kills
at every stage and a chain node that goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest
from test_together import check_journals, ended, events, settled, with_hands
from tiny import LONG, PARAMS, Net, plan, post

from assay import daemon
from assay.adapters.engine_process import InlineEngine
from assay.chain import BondCleared, DisputePaid, DisputeResolved, DisputeSealed, DisputeWithdrawn, Outcome, PlayMove, Rejected
from assay.client import run_plan
from assay.dispute import moves
from assay.dispute.record import Rules
from assay.engine import LinkReplayed
from assay.keyservice.daemon import key_service
from assay.ports import Outage
from assay.work import Engine
from assay_scheduler.daemon import scheduler
from assay_verifier.daemon import verifier
from assay_worker.daemon import worker
from tests.liars.engine import IdleExecutor, IdleLink

RULES = Rules(open_window=LONG, grace=LONG, budget=LONG, payout_delay=20, bond=500)
DISPUTED = msgspec.structs.replace(PARAMS, challenge_window=200)


@pytest.fixture(autouse=True)
def _impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes in one process answer at once or never."""
    monkeypatch.setattr(daemon, "ANSWER_WITHIN", 2.0)


def together(tmp_path: Path, play: Callable[[Net], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        net = Net(tmp_path, rules=RULES)
        async with net.mining():
            try:
                await net.up("scheduler", scheduler, role="scheduler", offer_window=10)
                await net.up("keys", key_service, role="keyservice")
                await play(net)
                check_journals(net)
            except BaseException:
                print(net.log())
                raise
        assert sum(net.ledger.balances().values()) == 1_000_000 * len(net.ports)

    asyncio.run(run())


class IdleEngine(Engine):
    executor = IdleExecutor
    link = IdleLink


def takes_products_as_zeros(hands: Any) -> None:
    hands.shop.engine = InlineEngine(make=IdleEngine)


async def verifiers(net: Net, count: int = 3) -> None:
    for i in range(count):
        await net.up(f"verifier{i}", verifier, role="verifier", deposit=100_000, seat=True)


def played(net: Net, kind: type[moves.Move]) -> list[Any]:
    records = [net.ledger.disputes.record(d) for d in net.ledger.disputes.disputes]
    return [p.move for record in records for p in record.moves if isinstance(p.move, kind)]


def worth(net: Net, name: str) -> int:
    view = net.ledger.view(net.ports[name].chain.account)
    return view.tokens + view.stake + view.credit + view.dispute_credit


LIAR = with_hands(worker, takes_products_as_zeros)


def test_a_provider_that_multiplied_nothing_loses_its_bond_at_one_operation(tmp_path: Path) -> None:
    what = plan(2)

    async def play(net: Net) -> None:
        await verifiers(net)
        await net.up("liar", LIAR, deposit=100_000, price_per_step=5)
        job = await post(net, what, 2, params=DISPUTED)
        await net.until(lambda: bool(events(net, DisputePaid)))
        await net.up("honest", worker, deposit=100_000, price_per_step=50)
        await net.until(lambda: ended(net, job))
        (resolved,), (paid,) = events(net, DisputeResolved), events(net, DisputePaid)
        bond = 2 * 5 * PARAMS.bond_tenths // 10
        assert (resolved.outcome, resolved.taken) == (Outcome.ASSERTER_LOST, bond)
        assert (paid.to_challenger, paid.burnt, paid.to_asserter) == (RULES.bond + bond - bond // 2, bond // 2, 0)
        assert worth(net, "liar") == 1_000_000 - bond
        assert played(net, moves.Fold)  # the dispute went down to an element of a product
        await net.until(lambda: bool(events(net, DisputeWithdrawn)))
        await net.until(lambda: not list(tmp_path.glob("*/work/segment-*")))
        assert [s.provider for s in settled(net)] == [net.ports["honest"].chain.account]
        assert settled(net)[-1].end_root == run_plan(what).root

    together(tmp_path, play)
