"""A receipt that is false is argued down to one operation, whatever its signer serves; a true one is nobody's to dispute."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch
from test_inference import ACCOUNT
from torch import nn

import assay
from assay import answering, inference
from assay.answering import RUN, UPDATE, Case
from assay.forward import trace_inference
from assay.state import Tensors, from_bytes, state_root, to_bytes


def made(rows: int = 5) -> tuple[inference.InferenceReceipt, Tensors]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 3))
    records = assay.Dataset("asked", row=np.random.default_rng(0).normal(size=(rows, 4)).astype(np.float32))
    traced = trace_inference(model, lambda m, b: {"scores": m(b["row"])}, records)
    receipt, _ = inference.make("three", traced.program, traced.frozen, records.read(range(rows)), ACCOUNT, 7, None)
    return receipt, traced.frozen


def lied(receipt: inference.InferenceReceipt, weights: Tensors, name: str) -> tuple[inference.InferenceReceipt, Tensors]:
    """A receipt whose signer computed one stage otherwise and went on from there, with the trace that it would serve."""
    case = Case(receipt, weights)
    honest = case.trace()
    part, at = name.split(".")
    trace: Tensors = {}

    class Liar(answering.Told):
        def node(self, number, node, args):  # type: ignore[no-untyped-def]
            value = answering.Link.node(self, number, node, args)
            if (answering.PARTS[self.m], str(number)) == (part, at):
                value = np.array(value)
                value.reshape(-1)[1 % value.size] += 1
            trace[f"{answering.PARTS[self.m]}.{number}"] = value
            return value

    run = Liar(case.job, RUN, case.start, None, case.batch, honest)
    update = Liar(case.job, UPDATE, case.start, run.end, {}, honest)
    output = {name: np.asarray(a) for name, a in update.end.items()}
    roots = {"run_root": run.end_root, "output_root": update.end_root}
    assert state_root(1, output) == update.end_root
    return msgspec.structs.replace(receipt, output=to_bytes(output), **roots), trace


def stage(weights: Tensors, receipt: inference.InferenceReceipt, op: str) -> str:
    nodes = Case(receipt, weights).program.micro.nodes
    return f"micro.{next(i for i, node in enumerate(nodes) if node.op == op)}"


def test_the_links_are_those_of_the_engine() -> None:
    for rows in (1, 5):
        receipt, weights = made(rows)
        case = Case(receipt, weights)
        assert case.wrong() is None
        assert answering.argue(case, None) is None
        told = case.told(answering.read_trace(to_bytes(case.trace()), case.program))
        assert tuple(link.end_root for link in told) == case.ends


@pytest.mark.parametrize("op", ["matmul", "add", "erf"])
def test_a_lie_is_named(op: str) -> None:
    receipt, weights = made()
    false, trace = lied(receipt, weights, stage(weights, receipt, op))
    with pytest.raises(inference.Refuted, match="comes out otherwise"):
        inference.replay(false, weights)
    case = Case(false, weights)
    found = answering.argue(case, answering.read_trace(to_bytes(trace), case.program))
    assert found is not None
    assert (found.unit, found.signer_lost) == (RUN, True)
    assert op in " ".join(step.told for step in found.drawing.steps)
    silent = answering.argue(case, None)
    assert silent is not None
    assert silent.signer_lost
    assert "silent" in silent.drawing.reason


def test_a_trace_that_is_not_the_receipts_loses_by_silence() -> None:
    receipt, weights = made()
    false, _ = lied(receipt, weights, stage(weights, receipt, "matmul"))
    case = Case(false, weights)
    found = answering.argue(case, case.trace())  # an honest trace does not end where the receipt does
    assert found is not None
    assert found.signer_lost
    assert "silent" in found.drawing.reason


def test_an_output_that_is_not_of_the_run_is_disputed_in_the_update() -> None:
    receipt, weights = made()
    output = from_bytes(receipt.output, 1 << 20)
    output["output.scores"] = output["output.scores"] + 1
    false = msgspec.structs.replace(receipt, output=to_bytes(output), output_root=state_root(1, output))
    case = Case(false, weights)
    found = answering.argue(case, case.trace())
    assert found is not None
    assert (found.unit, found.signer_lost) == (UPDATE, True)


def test_a_served_trace_is_read_strictly() -> None:
    receipt, weights = made()
    case = Case(receipt, weights)
    trace = case.trace()
    for broken in (b"junk", to_bytes({"micro.0": np.zeros(1, np.float32)})):
        with pytest.raises(inference.Refuted, match="served trace"):
            answering.read_trace(broken, case.program)
    first = next(iter(trace))
    wide = to_bytes(trace | {first: np.zeros((9, 9, 9), np.float32)})
    with pytest.raises(inference.Refuted, match="no "):
        case.told(answering.read_trace(wide, case.program))[0].end_root  # noqa: B018
    with pytest.raises(inference.Refuted, match="root"):
        Case(msgspec.structs.replace(receipt, output_root=receipt.input_root), weights)
