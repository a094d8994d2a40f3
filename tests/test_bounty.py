"""Payment by result, from a training file to the provider's credit: what a bounty commits to, what it is paid for, and who sees to it."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from roles.tiny import LONG, PARAMS, Net, post
from test_evaluation import model, plan, records
from torch import nn

import assay
from assay import bounty, chain, client, finetune
from assay.chain import Rung
from assay.cli import sponsor
from assay.cli.bounty import awaited
from assay.cli.common import Settings, Trouble
from assay.execute import zeros
from assay.forward import trace_evaluation
from assay.ids import Address, BountyId, JobId
from assay.keyservice.daemon import key_service
from assay.receipts import Bounty, Ledger
from assay.state import state_root, weights
from assay.trace import trace
from assay.training import TrainingError
from assay_scheduler.daemon import scheduler
from assay_verifier.daemon import verifier
from assay_worker.daemon import worker

STEPS = 4


def training(seed: int = 0) -> assay.Training:
    data = records()
    return assay.Training(model=model(), loss=finetune.classification, data=data, optimizer=assay.AdamW(lr=0.05), batch=20, steps=STEPS, seed=seed)


def evaluation(batch: int = 20) -> assay.Evaluation:
    return assay.Evaluation(model=model(), measure=finetune.judged, data=records(), batch=batch, name="held")


# ---- thresholds ------------------------------------------------------------------------------------------------------------


def bits(x: float) -> int:
    return int(struct.unpack("<I", struct.pack("<f", x))[0])


@given(st.floats(width=32, allow_nan=False), st.floats(width=32, allow_nan=False))
def test_the_order_of_floats_is_theirs(x: float, y: float) -> None:
    assert (x < y) == (bounty.order(bits(x)) < bounty.order(bits(y)))
    assert bounty.figure(bounty.threshold(x, bounty.F32), bounty.F32) == x


def terms(rungs: tuple[Rung, ...], dtype: int, at_most: bool) -> Any:
    traced = trace_evaluation(evaluation())
    return chain.BountyTerms(
        job=JobId(1), window=60, evaluation=None, start=bounty.template(traced.state, ()), metric=b"metric.right", dtype=dtype,  # type: ignore[arg-type]
        at_most=at_most, rungs=rungs,
    )  # fmt: skip


def test_what_a_result_reaches() -> None:
    counted = terms(sponsor.rungs_of(("75%:30", "50%:10"), bounty.I64, False, 60), bounty.I64, False)
    assert [r.threshold for r in counted.rungs] == [30, 45]
    assert [bounty.reached(counted, n) for n in (29, 30, 45, 60, (1 << 64) - 1)] == [0, 10_000_000, 30_000_000, 30_000_000, 0]
    lost = terms(sponsor.rungs_of(("0.5:30", "1.0:10"), bounty.F32, True, 60), bounty.F32, True)
    assert [bounty.reached(lost, bits(x)) for x in (1.01, 1.0, 0.5, -3.0, float("nan"))] == [0, 10_000_000, 30_000_000, 30_000_000, 0]
    for pays, dtype in (
        (("75%:30", "80%:20"), bounty.I64), (("x:1",), bounty.I64), (("5:0",), bounty.I64), (("50%:1",), bounty.F32), (("1.5:1",), bounty.I64),
    ):  # fmt: skip
        with pytest.raises(Trouble):
            sponsor.rungs_of(pays, dtype, False, 60)


# ---- what is committed to --------------------------------------------------------------------------------------------------


def test_the_program_is_known_before_the_training_ends_and_measures_what_it_leaves() -> None:
    made = trace(training())
    live = bounty.live(made.program.state)
    ended = client.run_plan(plan(made, records(), 20)).state
    traced = trace_evaluation(evaluation(), live)
    assert traced.program == trace_evaluation(evaluation(), live).program
    names = [name for name in traced.state if name in live]
    assert {"param.0.weight", "buffer.1.running_mean", "buffer.1.running_var"} <= set(names)
    assert not any(name.startswith("param.") for name in traced.frozen)
    start = bounty.template(traced.state, names)
    state = traced.state | {name: ended[name] for name in names}
    assert bounty.root_of(0, bounty.started(start, bounty.entries_of(ended))) == state_root(0, state)
    found = dict(client.run_plan(plan(traced, records(), 20)._replace(state=state)).state)
    for name in names:
        assert np.array_equal(found[name], ended[name])
    trained_model = model()
    trained_model.load_state_dict({name: torch.from_numpy(a) for name, a in weights(ended).items()}, strict=False)
    plain = trace_evaluation(assay.Evaluation(model=trained_model, measure=finetune.judged, data=records(), batch=20))
    other = dict(client.run_plan(plan(plain, records(), 20)).state)
    assert found["metric.right"] == np.trace(other["metric.confusion"])
    assert np.array_equal(found["metric.confusion"], other["metric.confusion"])


def test_an_evaluation_of_another_model_is_refused() -> None:
    live = bounty.live(trace(training()).program.state)
    wide = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Dropout(0.5), nn.Linear(8, 3))
    with pytest.raises(TrainingError, match=r"running_mean is f32\[8\] in the evaluation and f32\[16\]"):
        trace_evaluation(assay.Evaluation(model=wide, measure=finetune.judged, data=records(), batch=20), live)
    other = nn.Sequential()
    other.add_module("first", nn.Linear(5, 3))
    with pytest.raises(TrainingError, match="nothing that the training trains"):
        trace_evaluation(assay.Evaluation(model=other, measure=finetune.judged, data=records(), batch=20), live)


def test_a_metric_is_a_single_number() -> None:
    state = {name: zeros(t) for name, t in trace_evaluation(evaluation()).program.state.items()}
    assert sponsor.metric_of(state, "right") == ("metric.right", bounty.I64)
    assert sponsor.metric_of(state, "mean.loss") == ("mean.loss", bounty.F32)
    for name in ("confusion", "accuracy"):
        with pytest.raises(Trouble, match="no single number"):
            sponsor.metric_of(state, name)


# ---- on a network ----------------------------------------------------------------------------------------------------------


def test_a_bounty_is_earned_and_paid_by_daemons(tmp_path: Path) -> None:
    """Two bounties on one training: of the first a settled evaluation says how much is paid; for the second nobody shows anything, and the
    worker sees by itself to all of it."""
    net, window = Net(tmp_path), LONG  # passes only when the test says so

    async def run() -> None:
        async with net.mining():
            await net.up("scheduler", scheduler, role="scheduler", offer_window=10)
            await net.up("keys", key_service, role="keyservice")
            for i in range(3):
                await net.up(f"verifier{i}", verifier, role="verifier", deposit=100_000, seat=True)
            node = net.make_ports("client", "client")
            where = Settings(rpc="", contract=node.chain.contract, bootstrap=(), data=tmp_path / "client")
            made = trace(training())
            job = JobId(await post(net, plan(made, records(), 20), 2))
            wanted = sponsor.Wanted(
                evaluation(), ("1:0.1", "60:0.3"), "right", False, window, PARAMS, 8, net.ports["keys"].chain.account
            )  # fmt: skip
            first, offered = await sponsor.offer(node, where, job, wanted)
            second, _ = await sponsor.offer(node, where, job, wanted)
            assert (first, second, offered.amount) == (1, 2, 300_000)
            # The job pays 100 a step at most: it is worth this node's while for the hundredth of the bounties that it counts, 1,500 a step.
            await net.up("worker", worker, deposit=100_000, price_per_step=1550, bounty_percent=1)

            def ledger() -> Ledger:
                found = Ledger()
                found.feed(net.ledger.events())
                return found

            with pytest.raises(Trouble, match="not over"):
                await sponsor.trained(node, ledger(), job, None)
            def delivered(number: JobId) -> bool:
                with contextlib.suppress(client.NotYet):
                    return bool(client.deliverable(ledger(), number, node.chain.account))
                return False

            await net.until(lambda: delivered(job), 120)
            told = await sponsor.claim(node, first)
            assert told == ["the training is over: the window for results has begun"]
            wish = client.Wish(2, 2000, 10, 20_000, net.ledger.head.time + 10**6, net.ports["scheduler"].chain.account, PARAMS)
            wish = wish._replace(segment_steps=offered.evaluation.segment_steps)
            held = await sponsor.post_evaluation(node, where, ledger().bounties[first], ledger(), wish, None)
            await net.until(lambda: delivered(held), 120)
            told = await sponsor.claim(node, first)
            assert "metric.right = " in told[0]
            b = ledger().bounties[first]
            assert b.reached == 100_000
            state = await client.fetch(ledger(), held, node.chain, node.blobs, node.keys)
            assert b.value == int(state["metric.right"]) == np.trace(state["metric.confusion"])
            await net.until(lambda: ledger().bounties[second].until is not None)  # the worker has begun it
            net.skip(window)
            await net.until(lambda: all(len(ledger().bounties[n].paid) == 2 for n in (first, second)))
            await sponsor.claim(node, first)
            await sponsor.claim(node, second)

    asyncio.run(run())
    found = Ledger()
    found.feed(net.ledger.events())
    first, second = (found.bounties[BountyId(n)] for n in (1, 2))
    assert (sum(first.paid.values()), first.returned) == (100_000, 200_000)
    assert (sum(second.paid.values()), second.returned) == (300_000, None)
    who = net.ports["worker"].chain.account
    earned = [p for s in found.segments.values() for p in s.payments if p.reason == "bounty"]
    assert {p.who for p in earned} == {who}
    assert net.ledger.bounties.credit[who] == 400_000
    assert net.ledger.balances()[Address(net.ledger.bounties_address)] == 400_000
    assert {s.price for s in found.segments.values() if s.job == 1} == {2 * 50}


def test_whoever_waits_for_a_bounty_is_told_for_what() -> None:
    about = SimpleNamespace(number=3, terms=SimpleNamespace(job=7), until=None)
    assert awaited(cast(Bounty, about), 100) == "until the training, job 7, is over"
    about.until = 190
    assert awaited(cast(Bounty, about), 100).startswith("until the window is over, in 90 s; ")
