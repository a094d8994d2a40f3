"""Real daemons over anvil: the seals, votes and settlements of several segments of one provider go in three transactions, and what that costs."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from eth_account import Account
from tiny import PARAMS, Net, plan

from assay import beats, client, daemon
from assay.adapters import evm_abi
from assay.adapters.evm import EvmChain
from assay.adapters.memory_keys import MemoryKeys
from assay.adapters.memory_peers import MemoryPeers
from assay.chain import Attest, Attested, Batch, JobClosed, RevealAll, Sealed, SegmentState, Settle, Settled
from assay.daemon import Ports, enrol
from assay.ids import Address, PeerId
from assay.keyservice.daemon import key_service
from assay.localnet import rpc
from assay.localnet.anvil import RULES, Anvil, deploy, faucet
from assay.merkle import sha256
from assay.messages import AnyReply, AnyRequest, PeerRecord, SealMessage
from assay_scheduler.daemon import scheduler
from assay_verifier.daemon import verifier
from assay_worker.daemon import worker

pytestmark = pytest.mark.usefixtures("needs_anvil")

SEGMENTS = 4
STAKE = 10_000_000
WINDOW = 3600
GOAL = 200_000
"""Gas of settling a segment with three verifiers: all transactions from the first seal to the money paid."""


class Patient(MemoryPeers):
    """Seals are handed over when `gate` is open."""

    gate: asyncio.Event

    async def request(self, peer: PeerId, message: AnyRequest, timeout: float) -> AnyReply:
        if isinstance(message, SealMessage):
            await self.gate.wait()
        return await super().request(peer, message, timeout)


class EvmNet(Net):
    """The network of tiny.Net on a chain of its own: anvil, whose clock goes as the machine's but for `pass_to`."""

    def __init__(self, folder: Path, anvil: Anvil) -> None:
        super().__init__(folder, beat=0.05)
        self.url, self.network = anvil.url, deploy(anvil.url, rules=RULES)
        self.gate = asyncio.Event()

    async def open(self, name: str, role: str = "worker") -> None:
        signer = Account.from_key(sha256(str(self.folder).encode(), name.encode()))
        faucet(self.network, Address(signer.address.lower()), 2 * STAKE)
        chain = await EvmChain.open(self.url, self.network.jobs, signer, self.folder / f"{name}.sqlite")
        keys = MemoryKeys(name.encode(), chain.account)

        def record(addresses: list[str]) -> PeerRecord:
            return PeerRecord(
                peer=PeerId(""), account=chain.account, role=role, addresses=tuple(addresses), gateway="", sequence=0,
                chain_id=chain.chain_id, contract=chain.contract,
            )  # fmt: skip

        peers = Patient(self.board, keys.peer_seed, record)
        peers.gate = self.gate
        made = self.make_ports(name, role)
        self.ports[name] = dataclasses.replace(made, chain=chain, peers=peers, keys=keys, poll=self.beat)

    async def pass_to(self, time: int) -> None:
        await asyncio.to_thread(rpc.call, self.url, "evm_increaseTime", max(0, time - await self.head()))

    @contextlib.asynccontextmanager
    async def mining(self) -> AsyncIterator[None]:
        async def mine() -> None:
            while True:
                await asyncio.sleep(0.25)
                await asyncio.to_thread(rpc.call, self.url, "evm_mine")

        miner = asyncio.create_task(mine())
        try:
            yield
        finally:
            for task in [miner, *self.running.values()]:
                task.cancel()
            await asyncio.gather(miner, *self.running.values(), return_exceptions=True)
            for ports in self.ports.values():
                if isinstance(ports.chain, EvmChain):
                    await ports.chain.close()

    async def head(self) -> int:
        return (await self.ports["client"].chain.head()).time

    async def events(self, kind: type[Any]) -> list[Any]:
        return [event for event in await self.ports["client"].chain.events((-1, -1), 0) if isinstance(event, kind)]

    async def seen(self, kind: type[Any], count: int) -> None:
        for _ in range(1800):
            if len(await self.events(kind)) >= count:
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"not {count} of {kind.__name__}")


async def post(net: EvmNet, what: client.Plan) -> int:
    ports: Ports = net.ports["client"]
    await enrol(ports)
    found = await client.find_service(ports.chain, net.ports["keys"].chain.account, 0)
    wish = client.Wish(
        segment_steps=1, price_cap=100, fee=10, budget=10_000, deadline=await net.head() + 10**6, scheduler=net.ports["scheduler"].chain.account,
        params=msgspec.structs.replace(PARAMS, depth=SEGMENTS, challenge_window=WINDOW, seal_window=1800, reveal_window=600),
    )  # fmt: skip
    _, terms = await client.publish(what, wish, found, ports.chain, ports.blobs, ports.keys)
    return await client.post(ports.chain, terms)


def settlements(net: EvmNet) -> list[tuple[str, list[str], int]]:
    """Of every transaction with seals, votes or settlements: who sent it, its calls, its gas."""
    names = {ports.chain.account: name for name, ports in net.ports.items()}
    found = []
    for number in range(int(rpc.call(net.url, "eth_blockNumber"), 16) + 1):
        for tx in rpc.call(net.url, "eth_getBlockByNumber", hex(number), True)["transactions"]:
            call = evm_abi.decode_call("jobs", bytes.fromhex(tx["input"][2:])) if tx["to"] == net.network.jobs else None
            parts = call.calls if isinstance(call, Batch) else (call,)
            if any(isinstance(part, Attest | RevealAll | Settle) for part in parts):
                receipt = rpc.call(net.url, "eth_getTransactionReceipt", tx["hash"])
                found.append((names[tx["from"]], [type(part).__name__ for part in parts], int(receipt["gasUsed"], 16)))
    return found


def test_several_segments_share_their_transactions_and_cost_less_than_the_goal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job of eight segments, of which four are unsettled at a time. Their seals come when all four are trained, within a beat of the chain's clock,
    which then passes to its end. The second four are those of a network that runs: every word that they write was written before."""
    monkeypatch.setattr(beats, "LONGEST", 240)
    monkeypatch.setattr(daemon, "ANSWER_WITHIN", 2.0)

    async def play(net: EvmNet) -> None:
        for name, role in (("client", "client"), ("scheduler", "scheduler"), ("keys", "keyservice"), ("worker", "worker")):
            await net.open(name, role)
        for i in range(4):
            await net.open(f"verifier{i}", "verifier")
        await net.up("scheduler", scheduler, role="scheduler", offer_window=2)
        await net.up("keys", key_service, role="keyservice")
        provider = await net.up("worker", worker, deposit=STAKE, price_per_step=10)
        for i in range(4):
            await net.up(f"verifier{i}", verifier, role="verifier", deposit=STAKE, seat=True)
        await net.pass_to(beats.beat(await net.head(), beats.LONGEST))  # so that no beat comes while the first four are trained
        await post(net, plan(2 * SEGMENTS))
        state: Any = provider.core.machine.state  # type: ignore[attr-defined]
        for done in (SEGMENTS, 2 * SEGMENTS):
            await net.until(lambda: sum(seg.state == SegmentState.SERVED for seg in state.facts.segments.values()) == SEGMENTS)
            net.gate.set()
            for kind, each in ((Sealed, 3), (Attested, 1)):
                await net.until(lambda: len(state.outbox) == SEGMENTS)
                await net.pass_to(max(waiting.at for waiting in state.outbox))
                await net.seen(kind, done * each)
            net.gate.clear()
            await net.until(lambda: sum(seg.state == SegmentState.ATTESTED for seg in state.facts.segments.values()) == SEGMENTS)
            await net.pass_to(beats.settles(max(event.settle_after for event in await net.events(Attested)) + 1, WINDOW))
            await net.seen(Settled, done)
        await net.seen(JobClosed, 1)

    async def run() -> list[tuple[str, list[str], int]]:
        with Anvil(block_time=None) as anvil:
            net = EvmNet(tmp_path, anvil)
            async with net.mining():
                try:
                    await play(net)
                    return await asyncio.to_thread(settlements, net)
                except BaseException:
                    print(net.log())
                    raise

    found = asyncio.run(run())
    assert [(who, calls) for who, calls, _ in found] == [("worker", [kind] * SEGMENTS) for kind in ("Attest", "RevealAll", "Settle")] * 2
    first, second = (sum(gas for _, _, gas in found[i : i + 3]) / SEGMENTS for i in (0, 3))
    print(f"gas a segment: {first:.0f} where every word is new, {second:.0f} later")
    assert second < GOAL
