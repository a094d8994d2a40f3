"""Receipts for inferences: they come out again bit for bit, and whatever is changed in one is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import assay
from assay import inference
from assay.adapters.keys import create
from assay.adapters.signatures import text_signer
from assay.cli.app import app
from assay.cli.common import ENVIRONMENT, FAILED
from assay.codec import decode, encode
from assay.exact.native.build import cache_folder
from assay.forward import trace_inference
from assay.ids import Address, Digest
from assay.state import BadTensors, Tensors, frozen_root, to_bytes

ACCOUNT = Address("0x" + "11" * 20)
MODEL = """
import numpy as np
import torch
from torch import nn
import assay

torch.manual_seed(0)
model = nn.Sequential(nn.Embedding(128, 8), nn.Flatten(), nn.Linear(32, 3))
inference = assay.Inference(
    model=model, outputs=lambda m, b: {"scores": m(b["letters"])},
    encode=lambda text: {"letters": np.array([[ord(c) for c in text[:4].ljust(4)]], np.uint8)},
    decode=lambda output: "abc"[int(output["output.scores"][0].argmax())],
)
"""


def made() -> tuple[inference.InferenceReceipt, Tensors, nn.Module]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 16), nn.GELU(), nn.Linear(16, 3))
    records = assay.Dataset("asked", row=np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32))
    traced = trace_inference(model, lambda m, b: {"scores": m(b["row"])}, records)
    receipt, _ = inference.make("three", traced.program, traced.frozen, records.read(range(4)), ACCOUNT, 7, None)
    return receipt, traced.frozen, model


def test_a_receipt_comes_out_again_and_is_near_to_torch() -> None:
    receipt, weights, model = made()
    assert decode(encode(receipt), inference.InferenceReceipt) == receipt
    for threads in (1, 2):
        output = inference.replay(receipt, weights, threads)
        assert to_bytes(output) == receipt.output
    rows = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    assert np.allclose(output["output.scores"], model(torch.from_numpy(rows)).detach().numpy(), atol=1e-3)
    assert receipt.weights_root == frozen_root(weights)


def nudged(data: bytes) -> bytes:
    """The last element of the last tensor is another one."""
    return data[:-4] + np.float32(3.5).tobytes()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda r: {"output": nudged(r.output)}, "root"),
        (lambda r: {"input": nudged(r.input)}, "root"),
        (lambda r: {"program_root": Digest(bytes(32))}, "root"),
        (lambda r: {"weights_root": Digest(bytes(32))}, "other weights"),
        (lambda r: {"input": b"no tensors"}, "cannot be read"),
        (lambda r: {"program": b"{}"}, "cannot be read"),
    ],
)
def test_a_receipt_that_does_not_fit_together_is_refuted(change: Any, told: str) -> None:
    receipt, weights, _ = made()
    with pytest.raises(inference.Refuted, match=told):
        inference.replay(msgspec.structs.replace(receipt, **change(receipt)), weights)


def test_a_false_output_is_refuted_by_its_name() -> None:
    from assay.state import from_bytes, state_root

    receipt, weights, _ = made()
    output = nudged(receipt.output)
    lie = msgspec.structs.replace(receipt, output=output, output_root=state_root(1, from_bytes(output, 1 << 20)))
    with pytest.raises(inference.Refuted, match=r"output\.scores"):
        inference.replay(lie, weights)


def test_other_weights_and_too_much_memory_are_told_apart_from_lies() -> None:
    receipt, weights, _ = made()
    with pytest.raises(BadTensors):
        inference.replay(receipt, {name: array * 2 for name, array in weights.items()})
    with pytest.raises(inference.Refuted, match="memory"):
        inference.replay(receipt, weights, max_memory=10)


def test_a_training_program_is_no_inference() -> None:
    from roles.tiny import plan

    with pytest.raises(BadTensors, match="no inference"):
        inference.infer(plan(2).program, {}, {})


def test_by_typing_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = CliRunner()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "native").symlink_to(cache_folder())
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(MODEL)
    keys = create(tmp_path / "me", private_key=b"\x01" * 32)
    account = keys.account
    keys.close()
    words = ["infer", "model.py", "word", "--receipt", "answer.json", "--data", "me", "--weights", "w.safetensors", "--threads", "1"]
    said = runner.invoke(app, words)
    assert said.exit_code == 0, said.output
    assert said.output.splitlines()[0] in "abc"
    signed = decode((tmp_path / "answer.json").read_bytes(), inference.SignedReceipt)
    assert text_signer(inference.statement(signed.receipt), signed.signature) == account

    def verify(*words: str) -> tuple[int, str]:
        found = runner.invoke(app, ["receipt", "verify", "answer.json", "--threads", "1", *words])
        return found.exit_code, found.output

    assert verify()[0] == 0
    for kept in (tmp_path / "cache" / "bases").iterdir():
        kept.unlink()
    assert verify()[0] == ENVIRONMENT
    assert verify("--weights", "w.safetensors")[0] == 0
    (tmp_path / "w.safetensors").write_bytes(to_bytes({"param.2.weight": np.zeros((3, 32), np.float32)}))
    assert verify("--weights", "w.safetensors")[0] == ENVIRONMENT
    lie = msgspec.structs.replace(signed, receipt=msgspec.structs.replace(signed.receipt, time=1))
    (tmp_path / "answer.json").write_bytes(encode(lie))
    code, told = verify()
    assert (code, "not signed by" in told) == (FAILED, True)
    assert text_signer("x", b"short") is None
    assert text_signer("x", bytes(65)) is None
