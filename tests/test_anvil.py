"""The local chain: deployment, faucet, restart on its state, and what it says when it cannot start."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from assay.ids import Address
from assay.localnet import rpc
from assay.localnet.anvil import Anvil, balances, deploy, faucet, find_anvil, keep_genesis, load, save
from assay.localnet.net import Network
from assay.ports import Outage

ALICE = Address("0x" + "a1" * 20)


pytestmark = pytest.mark.usefixtures("needs_anvil")


def test_it_comes_back_on_its_state_with_contracts_and_money(tmp_path: Path) -> None:
    with Anvil(tmp_path, block_time=None) as anvil:
        network = deploy(anvil.url)
        assert load(tmp_path, anvil.url) is None
        save(network, tmp_path)
        faucet(network, ALICE, 500)
        anvil.stop()
        anvil.stop()  # harmless
        with pytest.raises(RuntimeError, match="stopped"):
            _ = anvil.pid
        anvil.start()
        assert load(tmp_path, anvil.url) == network
        assert balances(network, [ALICE])[ALICE] == 500
        assert int(rpc.call(anvil.url, "eth_getBalance", ALICE, "latest"), 16) == 10**18


def test_a_state_keeps_the_first_block_that_it_began_with(tmp_path: Path) -> None:
    """Anvil adds one at each start."""
    path = tmp_path / "anvil.json"
    keep_genesis(path)
    assert not path.exists()
    blocks = [{"header": {"number": number, "timestamp": at}} for number, at in (("0x0", "0xa"), ("0x2", "0xd"), ("0x0", "0x9"), ("0x1", "0xb"))]
    path.write_text(json.dumps({"blocks": blocks, "accounts": {"a": 1}}))
    for _ in range(2):
        keep_genesis(path)
        assert json.loads(path.read_text()) == {"blocks": blocks[1:], "accounts": {"a": 1}}
    path.write_text("{")
    with pytest.raises(Outage, match="not a state of anvil"):
        keep_genesis(path)


def test_a_chain_that_is_gone_is_no_network(tmp_path: Path) -> None:
    with Anvil(tmp_path / "one", block_time=None) as anvil:
        save(deploy(anvil.url), tmp_path)
    with Anvil(block_time=None) as other:
        assert load(tmp_path, other.url) is None


def test_blocks_come_by_themselves_and_at_once_for_a_transaction() -> None:
    with Anvil(block_time=3600.0) as anvil:
        network = deploy(anvil.url)
        assert network.chain_id == 31337
        assert int(rpc.call(anvil.url, "eth_blockNumber"), 16) >= 7


def test_a_port_that_is_taken_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(Outage, match=f"does not start on port {taken.getsockname()[1]}"):
            Anvil(port=taken.getsockname()[1])


def test_every_account_s_money_is_seen_from_the_chain_alone() -> None:
    with Anvil(block_time=None) as anvil:
        network = deploy(anvil.url)
        faucet(network, ALICE, 500)
        head = int(str(rpc.call(anvil.url, "eth_blockNumber")), 16)
        found = Network(rpc=anvil.url, chain_id=31337, contract=network.jobs, bootstrap="", contracts=network).balances(head)
        assert found == balances(network, [ALICE])


def test_without_a_binary_one_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("assay.localnet.anvil.ROOT", tmp_path)
    monkeypatch.delenv("ASSAY_ANVIL", raising=False)
    with pytest.raises(FileNotFoundError, match=r"install\.sh anvil"):
        find_anvil()
