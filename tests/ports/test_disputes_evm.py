"""What only a real chain does to disputes: nodes that restart, limit ranges or lie, moves inside other contracts' calls, networks without a game."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from chain_world import TOKENS, EvmWorld
from dispute_world import BOND, RULES, Stage, opening

from assay import chain, draw
from assay.adapters import evm_abi, evm_disputes, evm_moves
from assay.adapters.evm import EvmReader
from assay.adapters.evm_rpc import Rpc, RpcError
from assay.chain import Outcome, PlayMove, WithdrawDisputes
from assay.dispute import moves
from assay.dispute.moves import shown
from assay.dispute.players import Asserter, Challenger
from assay.dispute.record import Record
from assay.ids import Address, Digest, DisputeId
from assay.localnet import rpc
from assay.localnet.anvil import Anvil, _mined, deploy, faucet
from assay.ports import Outage, Reverted
from tests import dispute_cases as cases
from tests.liars.disputes import Cunning, Liar, at

MICRO = 1
OTHER = Address("0x" + "c0" * 20)
FORWARDER = "0x60203603806020" "5f375f5f915f5f5f355af16018575f5ffd5b00"
"""A contract that calls the account in its calldata's first word with the rest, and reverts when that does."""


pytestmark = pytest.mark.usefixtures("needs_anvil")


def on_anvil(folder: Path, committed: Sequence[Digest], body: Callable[[Stage, Anvil], Awaitable[None]]) -> None:
    async def go() -> None:
        with Anvil(folder / "chain", block_time=None) as anvil:
            world = await EvmWorld.open(anvil, folder, RULES)
            try:
                await body(await Stage.set(world, committed), anvil)
            finally:
                await world.close()

    asyncio.run(asyncio.wait_for(go(), 300))


async def fresh(anvil: Anvil, stage: Stage, dispute: DisputeId) -> Record:
    """As one reads it that has seen nothing before."""
    reader = await EvmReader.open(anvil.url, stage.world.chains["bob"].contract)
    try:
        return await reader.dispute(dispute)
    finally:
        await reader.close()


def test_a_game_goes_on_over_a_node_that_restarts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    liar = Liar(MICRO, {at("matmul"): lambda y, _: y * 1.5})
    told = [*cases.ends()[:MICRO], liar.end_root, *cases.ends()[MICRO + 1 :]]

    async def body(stage: Stage, anvil: Anvil) -> None:
        world, vera = stage.world, stage.world.chains["vera"]
        players = Cunning(lambda _: liar, told), Challenger(cases.honest().__getitem__, cases.ends(), opening(MICRO))
        dispute = await stage.seal(opening(MICRO), by="vera")
        for _ in range(7):
            assert await stage.step(dispute, *players, ("alice", "vera"))
        before = await vera.dispute(dispute)
        anvil.stop()
        with pytest.raises(Outage):
            await vera.dispute(dispute)
        anvil.start()
        assert await fresh(anvil, stage, dispute) == before
        record = await stage.play(dispute, *players, ("alice", "vera"))
        assert record.outcome is Outcome.ASSERTER_LOST
        assert {type(played.move) for played in record.moves} >= {moves.Fold, moves.Pick, moves.Item}
        await stage.pay(dispute)
        await world.do("vera", WithdrawDisputes())
        held = await world.balances()
        assert (held["disputes"], held["burnt"], sum(held.values())) == (0, BOND // 2, TOKENS * len(world.chains))
        for name, gain in {"alice": -BOND, "vera": BOND - BOND // 2}.items():
            view = await world.chains[name].view(world[name])
            assert view.tokens + view.stake == TOKENS + gain
        record = await vera.dispute(dispute)
        assert record.paid
        monkeypatch.setattr(evm_disputes, "RANGE", 5)
        monkeypatch.setattr("assay.adapters.evm.Rpc", Narrow)
        assert await fresh(anvil, stage, dispute) == record

    on_anvil(tmp_path, told, body)


class Narrow(Rpc):
    """A node that gives logs of ten blocks at most."""

    async def call(self, method: str, *params: Any) -> Any:
        if method == "eth_getLogs" and int(params[0]["toBlock"], 16) - int(params[0]["fromBlock"], 16) >= 10:
            raise RpcError(method, -32005, "range is too large")
        return await super().call(method, *params)


def test_a_move_inside_another_contracts_call_is_read_too(tmp_path: Path) -> None:
    async def body(stage: Stage, anvil: Anvil) -> None:
        bob = stage.world.chains["bob"]
        network = stage.world.network  # type: ignore[attr-defined]
        faucet(network, OTHER, 10 * RULES.bond)
        rpc.call(anvil.url, "anvil_setCode", OTHER, FORWARDER)

        def forward(target: Address, data: bytes) -> None:
            whole = f"0x{int(target, 16):064x}{data.hex()}"
            sender = rpc.call(anvil.url, "eth_accounts")[0]
            _mined(anvil.url, rpc.call(anvil.url, "eth_sendTransaction", {"from": sender, "to": OTHER, "data": whole, "gas": hex(5_000_000)}))

        digest = draw.dispute(bob.chain_id, bob.disputes, stage.segment, OTHER, opening(MICRO))
        forward(network.token, evm_abi.encode("token", "approve", bob.disputes, 10 * RULES.bond))
        for number in (1, 2):
            forward(bob.disputes, evm_abi.encode("disputes", "seal", stage.segment, digest))
            record = await bob.dispute(DisputeId(number))
            assert (record.challenger, record.asserter, record.digest, record.moves) == (OTHER, stage.world["alice"], digest, ())
        for number in (DisputeId(1), DisputeId(2)):
            _, sealed = await stage.state(number)
            forward(bob.disputes, evm_moves.encode(number, opening(MICRO), shown(sealed)))
            record, state = await stage.state(number)
            assert [played.move for played in record.moves] == [opening(MICRO)]
            assert record.digest == digest
        await stage.world.do("alice", PlayMove(dispute=DisputeId(1), move=moves.Concede(), shown=shown(state)))
        record = await bob.dispute(DisputeId(1))
        assert (record.moves[-1].move, record.outcome) == (moves.Concede(), Outcome.CONCEDED)
        await stage.world.later(RULES.grace + RULES.budget + state.facts.allowance + 1)
        forward(bob.disputes, evm_moves.encode(DisputeId(2), moves.Timeout(), shown(state)))
        record = await bob.dispute(DisputeId(2))
        assert len(record.moves) == 1  # no log has what decided, when another contract called it
        assert record.outcome is Outcome.ASSERTER_LOST

    on_anvil(tmp_path, cases.ends(), body)


def test_an_account_with_code_cannot_hide_a_move_either(tmp_path: Path) -> None:
    """By a transaction to itself (EIP-7702), whose sender is then the origin, and whose calldata are no move."""

    async def body(stage: Stage, anvil: Anvil) -> None:
        dispute = await stage.seal(opening(MICRO))
        _, sealed = await stage.state(dispute)
        stranger = stage.world["stranger"]
        rpc.call(anvil.url, "anvil_setCode", OTHER, FORWARDER)
        rpc.call(anvil.url, "anvil_setCode", stranger, f"0xef0100{OTHER[2:]}")
        rpc.call(anvil.url, "anvil_impersonateAccount", stranger)
        move = evm_moves.encode(dispute, opening(MICRO), shown(sealed))
        whole = f"0x{int(stage.world.chains['bob'].disputes, 16):064x}{move.hex()}"
        fields = {"from": stranger, "to": stranger, "data": whole, "gas": hex(5_000_000)}
        _mined(anvil.url, rpc.call(anvil.url, "eth_sendTransaction", fields))
        assert [played.move for played in (await fresh(anvil, stage, dispute)).moves] == [opening(MICRO)]

    on_anvil(tmp_path, cases.ends(), body)


class Lies(Rpc):
    """A node whose answers to one method are changed."""

    method = ""
    change: Callable[[Any], Any] = staticmethod(lambda answer: answer)

    async def call(self, method: str, *params: object) -> Any:
        answer = await super().call(method, *params)
        return type(self).change(answer) if method == self.method else answer


def test_what_a_node_says_of_a_dispute_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(stage: Stage, anvil: Anvil) -> None:
        players = Asserter(cases.honest().__getitem__, stage.ends), Challenger(cases.honest().__getitem__, cases.ends(), opening(MICRO))
        first, second = await stage.seal(opening(MICRO)), await stage.seal(opening(2))
        for _ in range(2):
            await stage.step(first, *players)
        record = await fresh(anvil, stage, first)
        other = "0x" + evm_moves.encode(second, moves.Concede(), shown((await stage.state(first))[1])).hex()
        monkeypatch.setattr("assay.adapters.evm.Rpc", Lies)
        sent, logs = "eth_getTransactionByHash", "eth_getLogs"
        lies: list[tuple[str, Callable[[Any], Any]]] = [
            (sent, lambda a: None),
            (sent, lambda a: {**a, "hash": "0x" + "11" * 32}),
            (sent, lambda a: {**a, "input": other}),
            (sent, lambda a: {**a, "input": "0x12345678"}),
            (sent, lambda a: {**a, "input": a["input"][:100]}),
            (sent, lambda a: {**a, "to": OTHER}),
            (logs, lambda a: None),
            (logs, lambda a: a[1:]),
            (logs, lambda a: [a[0], *a[2:]]),
            (logs, lambda a: [a[0], a[1], *a[3:]]),
            (logs, lambda a: a * 200),
            (logs, lambda a: [{**log, "address": OTHER} for log in a]),
            (logs, lambda a: [{**log, "topics": [log["topics"][0], "0x" + "00" * 32, *log["topics"][2:]]} for log in a]),
            (logs, lambda a: [{**log, "data": log["data"][:70]} for log in a]),
            (logs, lambda a: [{**log, "removed": True} for log in a]),
            (logs, lambda a: [{**log, "transactionHash": "0x"} for log in a]),
            (logs, lambda a: ["log"]),
        ]
        assert await fresh(anvil, stage, first) == record
        for method, change in lies:
            monkeypatch.setattr(Lies, "method", method)
            monkeypatch.setattr(Lies, "change", staticmethod(change))
            with pytest.raises(Outage):
                await fresh(anvil, stage, first)
        monkeypatch.setattr(Lies, "change", staticmethod(lambda a: []))
        monkeypatch.setattr(Lies, "method", logs)
        with pytest.raises(KeyError):
            await fresh(anvil, stage, first)

    on_anvil(tmp_path, cases.ends(), body)


def test_a_network_that_is_bound_to_no_game_has_no_disputes(tmp_path: Path) -> None:
    """Its Disputes contract answers every call with a zero word: `disputable` is false."""
    with Anvil(block_time=None) as anvil:
        network = deploy(anvil.url)
        rpc.call(anvil.url, "anvil_setCode", network.disputes, "0x5f5f5260205ff3")

        async def body() -> None:
            reader = await EvmReader.open(anvil.url, network.jobs)
            try:
                assert reader.disputes == ""
                assert (await reader.view(OTHER)).dispute_credit == 0
                with pytest.raises(KeyError):
                    await reader.dispute(DisputeId(1))
                with pytest.raises(Reverted, match="NoDisputes"):
                    await reader.dispute_rules()
                assert await reader.events((-1, -1), 0) == []
            finally:
                await reader.close()

        asyncio.run(body())


def test_numbers_of_logs_that_stand_for_nothing_are_refused() -> None:
    moved, topics = evm_abi.topic(chain.DisputeMoved), [bytes(32)]
    for stand in (0, 21, 22, 255):
        data = (5 << 16 | 1 << 8 | stand).to_bytes(32, "big")
        with pytest.raises(evm_abi.BadLog):
            evm_abi.decode_log("disputes", [moved, *topics], data, 1, 2, 3)
    paid = b"".join(n.to_bytes(32, "big") for n in (5, 0, 0, 0))
    with pytest.raises(evm_abi.BadLog):
        evm_abi.decode_log("disputes", [evm_abi.topic(chain.DisputePaid), *topics], paid, 1, 2, 3)
