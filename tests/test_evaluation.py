"""An evaluation as a job: what is counted is what a plain count gives, every record counts once, and the program is one like any other."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from roles.tiny import Net, post
from torch import nn

import assay
from assay import evaluation, finetune
from assay.client import NotYet, Plan, deliverable, fetch, run_plan
from assay.forward import trace_evaluation, trace_inference
from assay.keyservice.daemon import key_service
from assay.program import Program
from assay.receipts import Ledger
from assay.state import frozen_root
from assay.trace import Traced
from assay.training import TrainingError
from assay_scheduler.daemon import scheduler
from assay_verifier.daemon import verifier
from assay_worker.daemon import worker

RECORDS, CLASSES = 60, 3


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.GELU(), nn.Dropout(0.5), nn.Linear(16, CLASSES))


def records() -> assay.Dataset:
    rng = np.random.default_rng(0)
    return assay.Dataset("held", row=rng.normal(size=(RECORDS, 5)).astype(np.float32), label=rng.integers(0, CLASSES, RECORDS).astype(np.int32))


def plan(traced: Traced, data: assay.Dataset, batch: int) -> Plan:
    return Plan("held", traced.program, traced.schedule, traced.state, data.arrays, data.name, batch, traced.frozen)


def evaluated(batch: int, of: Any = finetune.judged, model: nn.Module | None = None, data: assay.Dataset | None = None) -> dict[str, Any]:
    data = data or records()
    traced = trace_evaluation(assay.Evaluation(model=model or globals()["model"](), measure=of, data=data, batch=batch))
    return dict(run_plan(plan(traced, data, batch)).state)


@pytest.mark.parametrize("batch", [60, 20, 1])
def test_the_counts_are_those_of_torch_however_they_are_batched(batch: int) -> None:
    result = evaluation.of_state(evaluated(batch))
    net, held = model().eval(), records().arrays
    logits = net(torch.from_numpy(held["row"])).detach()
    want = np.zeros((CLASSES, CLASSES), np.int64)
    for label, guess in zip(held["label"], logits.argmax(1).numpy(), strict=True):
        want[label, guess] += 1
    assert result.confusion is not None
    assert np.array_equal(result.confusion, want)
    assert result.accuracy == pytest.approx((logits.argmax(1).numpy() == held["label"]).mean())
    assert result.loss == pytest.approx(float(F.cross_entropy(logits, torch.from_numpy(held["label"]).long())), rel=1e-3)
    from sklearn.metrics import f1_score

    assert result.f1 == pytest.approx(f1_score(held["label"], logits.argmax(1).numpy(), average="macro"))


def test_of_classes_with_one_score_the_first_is_taken() -> None:
    flat = nn.Linear(5, CLASSES)
    nn.init.zeros_(flat.weight)
    nn.init.zeros_(flat.bias)
    result = evaluation.of_state(evaluated(20, model=flat))
    assert result.confusion is not None
    assert result.confusion[:, 0].sum() == RECORDS


def test_all_weights_are_frozen_and_the_program_names_them() -> None:
    traced = trace_evaluation(assay.Evaluation(model=model(), measure=finetune.judged, data=records(), batch=20))
    assert traced.program.frozen_root == frozen_root(traced.frozen)
    assert set(traced.state) == {"metric.loss", "metric.confusion", "metric.right", "mean.loss"}
    assert {name for name in traced.frozen if name.startswith("param.")} == {f"param.{name}" for name, _ in model().named_parameters()}
    assert Program.load(traced.program.dump()) == traced.program
    other = model()
    with torch.no_grad():
        other[0].weight[0, 0] += 1
    again = trace_evaluation(assay.Evaluation(model=other, measure=finetune.judged, data=records(), batch=20))
    assert again.program.frozen_root != traced.program.frozen_root


def test_an_evaluation_settles_on_a_network_and_its_result_is_what_was_paid_for(tmp_path: Path) -> None:
    data = records()
    held = plan(trace_evaluation(assay.Evaluation(model=model(), measure=finetune.judged, data=data, batch=15)), data, 15)
    net = Net(tmp_path)

    async def run() -> dict[str, Any]:
        async with net.mining():
            await net.up("scheduler", scheduler, role="scheduler", offer_window=10)
            await net.up("keys", key_service, role="keyservice")
            await net.up("worker", worker, deposit=100_000, price_per_step=10)
            for i in range(3):
                await net.up(f"verifier{i}", verifier, role="verifier", deposit=100_000, seat=True)
            job = await post(net, held, 2)
            ports = net.ports["client"]

            def told() -> bool:
                ledger = Ledger()
                ledger.feed(net.ledger.events())
                try:
                    return bool(deliverable(ledger, job, ports.chain.account))
                except NotYet:
                    return False

            await net.until(told)
            ledger = Ledger()
            ledger.feed(net.ledger.events())
            return dict(await fetch(ledger, job, ports.chain, ports.blobs, ports.keys))

    state = asyncio.run(run())
    assert evaluation.of_state(state).told() == evaluation.of_state(evaluated(15)).told()


def test_figures_of_two_classes_and_of_language() -> None:
    state: dict[str, Any] = {"mean.loss": np.array(0.5, np.float32), "metric.loss": np.array(5, np.float32)}
    state["metric.confusion"] = np.array([[5, 1], [2, 2]])
    result = evaluation.of_state(state)
    assert result.accuracy == 0.7
    assert result.f1 == pytest.approx(4 / 7)
    assert result.told() == "accuracy 70.00% (7 of 10 records), F1 0.571, mean loss 0.5000"
    del state["metric.confusion"]
    assert evaluation.of_state(state).told() == "mean loss 0.5000, perplexity 1.65"


@pytest.mark.parametrize(
    "change",
    [
        {"m.w": np.zeros(1, np.float32)},
        {"mean.loss": np.zeros(2, np.float32)},
        {"metric.confusion": np.array([[1, -1], [0, 1]])},
        {"metric.confusion": np.zeros((2, 2), np.int64)},
        {"metric.confusion": np.ones((2, 3), np.int64)},
    ],
)
def test_a_state_that_is_no_result_is_refused(change: dict[str, Any]) -> None:
    state = {"mean.loss": np.array(0.5, np.float32), "metric.loss": np.array(0.5, np.float32), "metric.confusion": np.ones((2, 2), np.int64)}
    evaluation.of_state(state)
    with pytest.raises(ValueError, match=r"not|no square"):
        evaluation.of_state(state | change)


def test_what_cannot_be_evaluated_says_why() -> None:
    with pytest.raises(ValueError, match="divide the 60 records"):
        assay.Evaluation(model=model(), measure=finetune.judged, data=records(), batch=7)
    for measure, told in (
        (lambda m, b: {"right": (m(b["row"]).argmax(1) == b["label"]).sum()}, "argmax"),
        (lambda m, b: {"n": (m(b["row"]) > 0).sum() + b["label"].sum() * 0}, "measures the loss"),
        (lambda m, b: {"loss": m(b["row"]).sum()}, "'label'"),
        (lambda m, b: {"loss": F.dropout(m(b["row"]), 0.5).sum() + b["label"].sum()}, "drops"),
    ):
        with pytest.raises(TrainingError, match=told):
            trace_evaluation(assay.Evaluation(model=model(), measure=measure, data=records(), batch=20))


def test_an_inference_puts_out_what_the_model_does() -> None:
    data = assay.Dataset("asked", row=records().arrays["row"][:4])
    traced = trace_inference(model(), lambda m, b: {"logits": m(b["row"])}, data)
    state = run_plan(plan(traced, data, 4)).state
    order = plan(traced, data, 4)
    assert set(state) == {"output.logits"}
    want = model().eval()(torch.from_numpy(records().arrays["row"][:4])).detach().numpy()
    got = state["output.logits"]
    assert order.size == 4
    assert np.allclose(np.sort(got, axis=0), np.sort(want, axis=0), atol=1e-3)  # the records come in an order of their own
