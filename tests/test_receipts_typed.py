"""Arguing with receipts by typing commands: here, from what the signer serves; and on a local chain, against the stake behind them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from test_answering import lied
from test_inference import MODEL
from typer.testing import CliRunner

from assay import inference
from assay.adapters.keys import create, open_keys
from assay.answering import Case
from assay.cli.app import app
from assay.cli.common import FAILED
from assay.codec import decode, encode
from assay.dispute.record import Rules
from assay.exact.native.build import cache_folder
from assay.localnet.anvil import Anvil, deploy, deploy_receipts
from assay.localnet.rpc import call
from assay.state import from_bytes, to_bytes

RULES = Rules(open_window=500, grace=300, budget=1000, payout_delay=1, bond=1_000_000)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "native").symlink_to(cache_folder())
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(MODEL)
    for name, secret in (("me", b"\x01"), ("other", b"\x02")):
        create(tmp_path / name, private_key=secret * 32).close()
    return tmp_path


def typed(*words: str, code: int = 0) -> dict[str, Any]:
    """The JSON object that a command ends with."""
    found = CliRunner().invoke(app, [*words, "--json"])
    assert found.exit_code == code, found.output
    told: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return told


def falsified(here: Path, receipt: Path, trace: Path) -> inference.SignedReceipt:
    """The receipt with a lie in it, and the trace that its signer would serve; the lie is not signed."""
    signed = decode(receipt.read_bytes(), inference.SignedReceipt)
    weights = from_bytes((here / "w.safetensors").read_bytes(), 1 << 20)
    nodes = Case(signed.receipt, weights).program.micro.nodes
    at = next(i for i, node in enumerate(nodes) if node.op == "matmul")
    false, told = lied(signed.receipt, weights, f"micro.{at}")
    trace.write_bytes(to_bytes(told))
    return msgspec.structs.replace(signed, receipt=false)


def test_a_receipt_is_argued_about_from_what_its_signer_serves(here: Path) -> None:
    asked = ["infer", "model.py", "word", "--receipt", "answer.json", "--data", "me", "--weights", "w.safetensors", "--threads", "1"]
    typed(*asked, "--trace", "trace.safetensors")
    assert typed("receipt", "dispute", "answer.json", "--trace", "trace.safetensors")["agrees"]
    false = falsified(here, here / "answer.json", here / "lie.safetensors")
    (here / "false.json").write_bytes(encode(false))
    found = typed("receipt", "dispute", "false.json", "--trace", "lie.safetensors", code=FAILED)
    assert found["signer_lost"]
    assert any("matmul" in told for told in found["steps"])
    silent = typed("receipt", "dispute", "false.json", "--weights", "w.safetensors", code=FAILED)
    assert "silent" in silent["reason"]
    told = CliRunner().invoke(app, ["receipt", "dispute", "false.json", "--trace", "lie.safetensors"])
    assert "matmul" in told.output
    for broken in (b"junk", to_bytes({})):
        (here / "broken.safetensors").write_bytes(broken)
        assert "served trace" in typed("receipt", "dispute", "false.json", "--trace", "broken.safetensors", code=FAILED)["error"]
    typed("receipt", "dispute", "answer.json", "--chain", "--data", "other", code=FAILED)  # a true one


@pytest.mark.slow
@pytest.mark.usefixtures("needs_anvil")
def test_a_bond_behind_a_false_receipt_is_lost_on_a_local_chain(here: Path) -> None:
    with Anvil(here / "chain", block_time=1) as anvil:
        network = deploy(anvil.url)
        where = ["--rpc", anvil.url, "--receipts", deploy_receipts(network, rules=RULES)]
        mine = [*where, "--data", "me"]
        asked = ["infer", "model.py", "word", "--receipt", "answer.json", "--weights", "w.safetensors", "--threads", "1", *mine, "--for", "30m"]
        assert "not covered" in typed(*asked, "--bond", "3", code=FAILED)["error"]
        call(anvil.url, "anvil_setBalance", open_account(here / "me"), hex(10**18))
        stake(anvil, network.token, here / "me", 5_000_000)
        assert typed("receipt", "stake", "5", *mine)["stake"] == 5_000_000
        typed(*asked, "--bond", "3")
        true = decode((here / "answer.json").read_bytes(), inference.SignedReceipt)
        assert true.bonded
        # Its signer signs a lie as well; its own daemon finds out, and concedes.
        false = falsified(here, here / "answer.json", here / "lie.safetensors")
        case = Case(false.receipt, from_bytes((here / "w.safetensors").read_bytes(), 1 << 20))
        bonded = sign(case, here / "me", true.bonded)
        (here / "false.json").write_bytes(encode(msgspec.structs.replace(false, bonded=bonded)))
        (here / "me" / "receipts" / f"{case.link_root.hex()}.json").write_bytes((here / "false.json").read_bytes())
        command = [sys.executable, "-m", "assay.cli", "receipt", "defend", "--once", *mine]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as defending:
            found = typed("receipt", "dispute", "false.json", "--weights", "w.safetensors", "--chain", *where, "--data", "other")
            said, wrong = defending.communicate(timeout=240)
        assert "conceded" in said, wrong
        assert found["outcome"] == "conceded"
        call(anvil.url, "evm_increaseTime", 5)
        call(anvil.url, "evm_mine")
        assert typed("receipt", "collect", str(found["dispute"]), *where, "--data", "other")["withdrawn"] == RULES.bond
        assert typed("receipt", "unstake", "1", *mine) == {"stake": 3_500_000, "reserved": 0, "leaving": 1_000_000}


def open_account(folder: Path) -> str:
    keys = open_keys(folder)
    try:
        return str(keys.account)
    finally:
        keys.close()


def stake(anvil: Anvil, token: str, folder: Path, amount: int) -> None:
    """Tokens for an account: the faucet gives a command only what it asks for."""
    from assay.adapters import evm_abi

    data = "0x" + evm_abi.encode("token", "mint", open_account(folder), amount).hex()
    call(anvil.url, "eth_sendTransaction", {"from": call(anvil.url, "eth_accounts")[0], "to": token, "data": data})


def sign(case: Case, folder: Path, like: inference.Bonded) -> inference.Bonded:
    from assay.adapters.evm_receipts import typed as typed_data

    keys = open_keys(folder)
    try:
        message = typed_data(case.claim(like.bond, like.expires), like.chain_id, like.contract)
        return msgspec.structs.replace(like, signature=bytes(keys.signer.sign_message(message).signature))
    finally:
        keys.close()
