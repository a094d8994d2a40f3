"""What only a real chain does to the EVM adapter: restarts, reorganisations, full mempools, other programs with the same key, crashes."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount
from hypothesis import given
from hypothesis import strategies as st

from assay.adapters import evm_abi, evm_rpc
from assay.adapters.evm import EvmChain, EvmReader, NoContract
from assay.adapters.evm_journal import Entry, SendJournal, WrongFolder
from assay.adapters.evm_rpc import Rpc
from assay.adapters.evm_sender import BUMP_BLOCKS, FEE_LIMIT, FINAL_BLOCKS, NoLimit, Sender
from assay.chain import CallId, Deposit, FundJob, Register, TakeSeat
from assay.ids import Address, Digest, JobId, PeerId
from assay.localnet import rpc
from assay.localnet.anvil import Anvil, Network, deploy, faucet, load, save
from assay.merkle import sha256
from assay.ports import Outage, Reorganised, Reverted, StorageFull

REGISTER = Register(encryption_key=b"k" * 32, peer=PeerId("peer"))
TOKENS = 1_000_000_000


pytestmark = pytest.mark.usefixtures("needs_anvil")


@pytest.fixture
def network(anvil: Anvil) -> Network:
    return deploy(anvil.url)


def signer_for(network: Network, name: str, tokens: int = TOKENS) -> LocalAccount:
    signer: LocalAccount = Account.from_key(sha256(network.jobs.encode(), name.encode()))
    faucet(network, Address(signer.address.lower()), tokens)
    return signer


def run(network: Network, folder: Path, body: Callable[[EvmChain], Awaitable[None]], signer: LocalAccount | None = None) -> None:
    async def go() -> None:
        chain = await EvmChain.open(network.url, network.jobs, signer or signer_for(network, "alice"), folder / "sender.sqlite")
        try:
            await body(chain)
        finally:
            await chain.close()

    asyncio.run(asyncio.wait_for(go(), 240))


def mine(network: Network, blocks: int = 1) -> None:
    for _ in range(blocks):
        rpc.call(network.url, "evm_mine")


async def until(condition: Callable[[], bool]) -> None:
    """Lets other tasks run until `condition` holds."""
    async with asyncio.timeout(240):
        while not condition():  # noqa: ASYNC110 (the condition is in another process)
            await asyncio.sleep(0.005)


def pool(network: Network, signer: LocalAccount) -> dict[str, Any]:
    """What waits in the node's mempool for an account, by nonce."""
    waiting: dict[str, Any] = rpc.call(network.url, "txpool_content")["pending"]
    return {**waiting.get(signer.address, {}), **waiting.get(signer.address.lower(), {})}


# ---- restarts ------------------------------------------------------------------------------------------------------------


def test_a_node_that_restarts_is_an_outage_and_nothing_is_sent_twice(tmp_path: Path) -> None:
    with Anvil(tmp_path / "chain", block_time=1) as anvil:
        network = deploy(anvil.url)
        save(network, tmp_path / "chain")

        async def body(chain: EvmChain) -> None:
            await chain.send(CallId("one"), Deposit(amount=1))
            before = await chain.events((-1, -1), 0)
            anvil.stop()
            with pytest.raises(Outage):
                await chain.head()
            with pytest.raises(Outage):
                await chain.send(CallId("two"), Deposit(amount=10))
            anvil.start()
            found = load(tmp_path / "chain", anvil.url)
            assert found == network
            await chain.send(CallId("two"), Deposit(amount=10))
            await chain.send(CallId("one"), Deposit(amount=1))
            assert (await chain.view(chain.account)).stake == 11
            assert (await chain.events((-1, -1), 0))[: len(before)] == before

        run(network, tmp_path, body)


def test_a_chain_that_lost_its_last_blocks_gets_the_same_transactions_again(tmp_path: Path) -> None:
    with Anvil(tmp_path / "chain", block_time=None) as anvil:
        network = deploy(anvil.url)
        signer = signer_for(network, "alice")
        anvil.stop()
        anvil.start()

        async def body(chain: EvmChain) -> None:
            for i in range(5):
                await chain.send(CallId(f"deposit {i}"), Deposit(amount=10**i))
            anvil.kill()
            anvil.start()
            for i in range(5):
                await chain.send(CallId(f"deposit {i}"), Deposit(amount=10**i))
            assert (await chain.view(chain.account)).stake == 11111

        run(network, tmp_path, body, signer)


# ---- reorganisations -----------------------------------------------------------------------------------------------------


def test_a_shallow_reorganisation_is_not_seen_and_what_it_dropped_comes_back(network: Network, tmp_path: Path) -> None:
    async def body(chain: EvmChain) -> None:
        await chain.send(CallId("one"), REGISTER)
        mine(network, 3)
        seen = await chain.events((-1, -1), 2)
        assert len(seen) == 1
        await chain.send(CallId("two"), REGISTER)
        rpc.call(network.url, "anvil_reorg", 1, [])
        cursor = (seen[-1].block, seen[-1].index)
        mine(network, 2)
        assert await chain.events(cursor, 2) == []
        await chain.send(CallId("two"), REGISTER)
        mine(network, 2)
        assert len(await chain.events(cursor, 2)) == 1

    run(network, tmp_path, body)


def test_what_a_reorganisation_dropped_unseen_comes_back_before_the_next_call(network: Network, tmp_path: Path) -> None:
    """Nothing was asked while the chain fell back: the next call's nonce is then beyond what the chain has counted."""

    async def body(chain: EvmChain) -> None:
        for i in range(3):
            await chain.send(CallId(f"deposit {i}"), Deposit(amount=10**i))
        rpc.call(network.url, "anvil_reorg", 2, [])
        sending = asyncio.create_task(chain.send(CallId("deposit 3"), Deposit(amount=1000)))
        while not sending.done():
            mine(network)
            await asyncio.sleep(0.05)
        await sending
        assert (await chain.view(chain.account)).stake == 1111

    run(network, tmp_path, body)


@pytest.mark.parametrize("how", ["it fell back", "it was away"])
def test_what_a_chain_took_back_is_sent_again_though_nothing_new_is_asked(network: Network, tmp_path: Path, how: str) -> None:
    """A node that waits for the event of its call makes no other."""

    async def body(chain: EvmChain) -> None:
        for i in range(3):
            await chain.send(CallId(f"deposit {i}"), Deposit(amount=10**i))
        await chain.head()
        await until(lambda: not chain.sender._pending)
        rpc.call(network.url, "anvil_reorg", 2, [])
        if how == "it was away":
            mine(network, 2)
            chain.sender.seen(None)
        assert (await chain.view(chain.account)).stake < 111
        async with asyncio.timeout(240):
            while (await chain.view(chain.account)).stake != 111:
                await chain.head()
                mine(network)
                await asyncio.sleep(0.02)

    run(network, tmp_path, body)


def test_empty_blocks_that_are_replaced_are_read_again(network: Network, tmp_path: Path) -> None:
    async def body(chain: EvmChain) -> None:
        await chain.send(CallId("one"), REGISTER)
        (event,) = await chain.events((-1, -1), 0)
        mine(network, 3)
        cursor = (event.block, event.index)
        assert await chain.events(cursor, 0) == []
        rpc.call(network.url, "anvil_reorg", 2, [])
        await chain.send(CallId("two"), REGISTER)
        assert len(await chain.events(cursor, 0)) == 1

    run(network, tmp_path, body)


def test_a_reorganisation_while_a_node_was_down_is_named(network: Network, tmp_path: Path) -> None:
    signer, seen = signer_for(network, "alice"), []

    async def before(chain: EvmChain) -> None:
        await chain.send(CallId("one"), REGISTER)
        seen.extend(await chain.events((-1, -1), 0))

    async def after(chain: EvmChain) -> None:
        with pytest.raises(Reorganised, match="replaced"):
            await chain.events((seen[-1].block, seen[-1].index), 0)

    run(network, tmp_path, before, signer)
    rpc.call(network.url, "anvil_reorg", 2, [])
    run(network, tmp_path, after, signer)


def test_a_deep_reorganisation_is_named(network: Network, tmp_path: Path) -> None:
    async def body(chain: EvmChain) -> None:
        await chain.send(CallId("one"), REGISTER)
        seen = await chain.events((-1, -1), 0)
        rpc.call(network.url, "anvil_reorg", 2, [])
        mine(network)
        with pytest.raises(Reorganised, match="replaced"):
            await chain.events((seen[-1].block, seen[-1].index), 0)

    run(network, tmp_path, body)


# ---- the mempool ---------------------------------------------------------------------------------------------------------


def test_a_transaction_that_is_not_mined_is_replaced_at_a_higher_fee(network: Network, tmp_path: Path) -> None:
    signer = signer_for(network, "alice")

    async def body(chain: EvmChain) -> None:
        rpc.call(network.url, "evm_setAutomine", False)
        sending = asyncio.create_task(chain.send(CallId("one"), REGISTER))
        await until(lambda: len(pool(network, signer)) == 1 and chain.sender._first == 0)  # it watches from this block on
        (first,) = pool(network, signer).values()
        rpc.call(network.url, "anvil_dropAllTransactions")  # a node that forgets
        entry = chain.sender.journal.get(CallId("one"))
        assert entry is not None
        for _ in range(BUMP_BLOCKS):  # the last brings the bump; one more could mine it
            rpc.call(network.url, "anvil_setNextBlockBaseFeePerGas", hex(entry.attempts[0].fee + 1))  # too dear for the first
            before = chain.sender.broadcasts
            mine(network)
            await until(lambda before=before: chain.sender.broadcasts > before)  # type: ignore[misc]
        entry = chain.sender.journal.get(CallId("one"))
        assert entry is not None
        assert len(entry.attempts) == 2
        assert entry.attempts[1].fee > entry.attempts[0].fee
        while not sending.done():
            mine(network)
            await asyncio.sleep(0.05)
        mined = rpc.call(network.url, "eth_getTransactionByBlockNumberAndIndex", hex(await sending), "0x0")
        assert mined["nonce"] == first["nonce"]
        assert len(await chain.events((-1, -1), 0)) == 1

    run(network, tmp_path, body, signer)


def test_a_call_that_fails_only_when_it_is_mined_is_refused_with_the_reason(network: Network, tmp_path: Path) -> None:
    async def body(chain: EvmChain) -> None:
        await chain.send(CallId("register"), REGISTER)
        await chain.send(CallId("deposit"), Deposit(amount=1_000_000))
        rpc.call(network.url, "evm_setAutomine", False)
        both = [asyncio.create_task(chain.send(CallId(f"seat {i}"), TakeSeat())) for i in range(2)]
        await until(lambda: sum(chain.sender.journal.get(CallId(f"seat {i}")) is not None for i in range(2)) == 2)
        await until(lambda: len(pool_of(chain)) == 2)
        mine(network)
        outcomes = await asyncio.gather(*both, return_exceptions=True)
        (late,) = [CallId(f"seat {i}") for i in range(2) if isinstance(outcomes[i], Reverted)]  # whichever came second
        assert sum(isinstance(outcome, int) for outcome in outcomes) == 1
        rpc.call(network.url, "evm_setAutomine", True)
        with pytest.raises(Reverted, match="InsufficientStake"):
            await chain.send(late, TakeSeat())
        await chain.send(CallId("more"), Deposit(amount=1_000_000))
        with pytest.raises(Outage, match="would pass now"):
            await chain.send(late, TakeSeat())
        mine(network, FINAL_BLOCKS)
        await chain.send(late, TakeSeat())  # its failure is final, so this is the first time that it has an effect
        assert (await chain.view(chain.account)).reserved == 2_000_000

    def pool_of(chain: EvmChain) -> dict[str, Any]:
        return pool(network, chain.sender.account)

    run(network, tmp_path, body)


def test_another_program_with_the_same_key_costs_nothing(network: Network, tmp_path: Path) -> None:
    signer = signer_for(network, "alice")

    def foreign(nonce: int) -> None:
        fields = {"chainId": network.chain_id, "nonce": nonce, "to": signer.address, "value": 0, "gas": 21_000, "gasPrice": 10**11}
        raw = signer.sign_transaction(fields).raw_transaction  # type: ignore[arg-type]
        rpc.call(network.url, "eth_sendRawTransaction", "0x" + raw.hex())

    async def body(chain: EvmChain) -> None:
        foreign(0)
        await chain.send(CallId("one"), Deposit(amount=1))  # nonces 1 and 2
        rpc.call(network.url, "evm_setAutomine", False)
        taken = asyncio.create_task(chain.send(CallId("two"), Deposit(amount=1)))
        await until(lambda: len(pool(network, signer)) == 1)
        rpc.call(network.url, "anvil_dropAllTransactions")
        rpc.call(network.url, "evm_setAutomine", True)
        foreign(3)
        await until(lambda: CallId("two approve 1") in chain.sender._missing)
        mine(network, FINAL_BLOCKS + 1)
        await taken
        assert (await chain.view(chain.account)).stake == 2
        entry = chain.sender.journal.get(CallId("two"))
        assert entry is not None
        assert entry.nonce > 3

    run(network, tmp_path, body, signer)


class LosesReceipts(Rpc):
    """A node that has pruned every receipt, and all blocks' bodies."""

    async def batch(self, requests: list[tuple[str, list[object]]]) -> list[Any]:
        gone = {"eth_getTransactionReceipt": lambda answer: None, "eth_getBlockByNumber": lambda answer: {**answer, "transactions": []}}
        answers = await super().batch(requests)
        return [gone.get(method, lambda answer: answer)(answer) for (method, _), answer in zip(requests, answers, strict=True)]


def test_a_node_that_loses_receipts_makes_nobody_send_twice(network: Network, tmp_path: Path) -> None:
    async def body(chain: EvmChain) -> None:
        whole = chain.sender.rpc
        chain.sender.rpc = LosesReceipts(network.url)
        try:
            sending = asyncio.create_task(chain.sender.send(CallId("one"), network.stakes, evm_abi.calldata(REGISTER)[1]))
            await until(lambda: CallId("one") in chain.sender._missing)
            mine(network, FINAL_BLOCKS + 1)
            with pytest.raises(Outage, match="use another node"):
                await sending
        finally:
            await chain.sender.rpc.close()
            chain.sender.rpc = whole
        mine(network, FINAL_BLOCKS + 1)
        await chain.send(CallId("one"), REGISTER)
        assert rpc.call(network.url, "eth_getTransactionCount", chain.sender.account.address, "latest") == "0x1"
        assert len(await chain.events((-1, -1), 0)) == 1

    run(network, tmp_path, body)


def test_without_gas_money_one_is_told_so(network: Network, tmp_path: Path) -> None:
    async def body(chain: EvmChain) -> None:
        with pytest.raises(Outage, match="no money for gas: send it"):
            await chain.send(CallId("one"), REGISTER)
        faucet(network, chain.account, 0)
        await chain.send(CallId("one"), REGISTER)

    run(network, tmp_path, body, Account.from_key(sha256(b"poor", network.jobs.encode())))


def test_a_chain_node_cannot_have_the_coin_spent_on_fees(network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def base(fee: int) -> None:
        rpc.call(network.url, "anvil_setNextBlockBaseFeePerGas", hex(fee))
        mine(network)

    async def body(chain: EvmChain) -> None:
        base(10**13)
        with pytest.raises(Outage, match=r"wants up to .* coins of gas for one call, over the limit of 0\.1"):
            await chain.send(CallId("one"), REGISTER)
        assert chain.sender.journal.get(CallId("one")) is None  # nothing was signed
        base(10**9)
        await chain.send(CallId("one"), REGISTER)
        with pytest.raises(Outage, match="over the limit"):
            chain.sender._sign(Entry(CallId("two"), 9, chain.account, b"", 21_000), FEE_LIMIT // 21_000 + 1, 1)

    run(network, tmp_path, body)
    monkeypatch.setenv("ASSAY_FEE_LIMIT", "0.1 coins")
    with pytest.raises(NoLimit, match=r"0\.1 coins"):
        run(network, tmp_path, body)


# ---- crashes -------------------------------------------------------------------------------------------------------------


class DiesBeforeBroadcast(Sender):
    """Loses power after the journal was written."""

    async def _broadcast(self, entries: list[Entry]) -> None:
        if entries:
            raise Outage("power cut")


def test_what_was_written_but_not_broadcast_is_sent_after_a_restart_with_the_same_nonce(network: Network, tmp_path: Path) -> None:
    signer = signer_for(network, "alice")

    async def first(chain: EvmChain) -> None:
        dying = DiesBeforeBroadcast(chain.rpc, signer, chain.chain_id, chain.sender.journal)
        chain.sender = dying
        lost = await asyncio.gather(*(chain.send(CallId(f"call {i}"), REGISTER) for i in range(3)), return_exceptions=True)
        assert [str(error) for error in lost] == ["power cut"] * 3
        assert rpc.call(network.url, "eth_getTransactionCount", signer.address, "pending") == "0x0"

    async def second(chain: EvmChain) -> None:
        await chain.send(CallId("call 3"), REGISTER)  # waits for the nonces before it, which nobody asks for any more
        assert rpc.call(network.url, "eth_getTransactionCount", signer.address, "latest") == "0x4"
        nonces = []
        for i in range(4):
            await chain.send(CallId(f"call {i}"), REGISTER)
            entry = chain.sender.journal.get(CallId(f"call {i}"))
            assert entry is not None
            nonces.append(entry.nonce)
        assert nonces == [0, 1, 2, 3]
        assert len(await chain.events((-1, -1), 0)) == 4

    run(network, tmp_path, first, signer)
    run(network, tmp_path, second, signer)


SENDING = """
import asyncio, sys
from pathlib import Path
from eth_account import Account
from assay.adapters.evm import EvmChain
from assay.chain import CallId, Deposit

async def main(url, contract, key, journal):
    chain = await EvmChain.open(url, contract, Account.from_key(key), Path(journal))
    for i in range(12):
        await chain.send(CallId(f"deposit {i}"), Deposit(amount=1 + i))
        print(i, flush=True)
    await chain.close()

asyncio.run(main(*sys.argv[1:]))
"""


def test_a_sender_killed_again_and_again_sends_everything_once(network: Network, tmp_path: Path) -> None:
    signer = signer_for(network, "alice")
    command = [sys.executable, "-c", SENDING, network.url, network.jobs, "0x" + bytes(signer.key).hex(), str(tmp_path / "sender.sqlite")]
    for last in (1, 4, 7, None):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    if last is not None and int(line) >= last:
                        process.send_signal(signal.SIGKILL)
                        break
            finally:
                process.kill()

    async def check(chain: EvmChain) -> None:
        assert (await chain.view(chain.account)).stake == sum(range(1, 13))
        assert len(await chain.events((-1, -1), 0)) == 12

    run(network, tmp_path, check, signer)


def test_an_approval_that_another_call_has_used_up_is_given_again(network: Network, tmp_path: Path) -> None:
    async def body(chain: EvmChain) -> None:
        await chain.approve(CallId("late"), network.stakes, 5)  # then the power goes, and another deposit comes first
        await chain.send(CallId("early"), Deposit(amount=5))
        await chain.send(CallId("late"), Deposit(amount=5))
        assert (await chain.view(chain.account)).stake == 10

    run(network, tmp_path, body)


def test_a_journal_serves_one_network_one_account_and_one_process(network: Network, tmp_path: Path) -> None:
    signer = signer_for(network, "alice")
    other = deploy(network.url)

    async def body(chain: EvmChain) -> None:
        with pytest.raises(WrongFolder, match="another process"):
            await EvmChain.open(network.url, network.jobs, signer, tmp_path / "sender.sqlite")

    run(network, tmp_path, body, signer)
    for contract, key in ((other.jobs, signer), (network.jobs, signer_for(network, "bob"))):
        with pytest.raises(WrongFolder, match="Use another data folder"):
            asyncio.run(EvmChain.open(network.url, contract, key, tmp_path / "sender.sqlite"))


def test_a_stamp_says_who_put_what_on_the_chain_and_when(network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(chain: EvmChain) -> None:
        before = await chain.head()
        transaction = await chain.stamp(CallId("note"), b"some bytes")
        assert await chain.stamp(CallId("note"), b"some bytes") == transaction  # once
        stamp = await chain.stamped(transaction)
        assert (stamp.sender, stamp.data) == (chain.account, b"some bytes")
        assert stamp.block == await chain.block(stamp.block.number)
        assert stamp.block.number > before.number
        with pytest.raises(KeyError):
            await chain.stamped(Digest(bytes(32)))
        call, mined = chain.rpc.call, True

        async def waiting(method: str, *parameters: object) -> Any:
            """As anvil answers when it has the block and has not yet taken the transaction out of its pool; or never mines it."""
            found = await call(method, *parameters)
            if method == "eth_getTransactionReceipt":
                return found if mined else None
            return found | {"blockNumber": None} if method == "eth_getTransactionByHash" else found

        with monkeypatch.context() as patch:
            patch.setattr(chain.rpc, "call", waiting)
            assert await chain.stamped(transaction) == stamp
            mined = False
            with pytest.raises(KeyError):
                await chain.stamped(transaction)
        await chain.send(CallId("register"), Register(encryption_key=b"k" * 32, peer=PeerId("p")))
        entry = chain.sender.journal.get(CallId("register"))
        assert entry is not None
        with pytest.raises(KeyError):  # a call of a contract is no note to oneself
            await chain.stamped(Digest(entry.attempts[0].hash))

    run(network, tmp_path, body)


def test_a_call_id_is_one_call(network: Network, tmp_path: Path) -> None:
    async def body(chain: EvmChain) -> None:
        await chain.send(CallId("one"), Deposit(amount=1))
        with pytest.raises(ValueError, match="another call"):
            await chain.send(CallId("one"), Deposit(amount=2))
        with pytest.raises(ValueError, match="cannot be called like this"):
            await chain.send(CallId("two"), FundJob(job=JobId(-1), amount=1))

    run(network, tmp_path, body)


# ---- reading -------------------------------------------------------------------------------------------------------------


def test_a_wrong_address_or_url_is_named(network: Network) -> None:
    with pytest.raises(NoContract, match="check the address"):
        asyncio.run(EvmReader.open(network.url, Address("0x" + "12" * 20)))
    with pytest.raises(Outage, match="no answer"):
        asyncio.run(EvmReader.open("http://127.0.0.1:9", network.jobs))


def test_a_reader_without_a_key_reads_the_same_in_small_ranges(network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(chain: EvmChain) -> None:
        for i in range(5):
            await chain.send(CallId(f"call {i}"), REGISTER)
        mine(network, 5)
        everything = await chain.events((-1, -1), 1)
        monkeypatch.setattr("assay.adapters.evm_reader.RANGE", 2)
        reader = await EvmReader.open(network.url, network.jobs)
        try:
            assert await reader.events((-1, -1), 1) == everything
        finally:
            await reader.close()

    run(network, tmp_path, body)


def test_logs_that_are_too_long_for_one_answer_are_read_in_parts(network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(chain: EvmChain) -> None:
        for i in range(20):
            await chain.send(CallId(f"call {i}"), REGISTER)
        everything = await chain.events((-1, -1), 0)
        assert len(everything) == 20
        reader = await EvmReader.open(network.url, network.jobs)
        monkeypatch.setattr("assay.adapters.evm_rpc.MOST_BYTES", 12_000)
        try:
            query = {"address": network.stakes, "fromBlock": "0x0", "toBlock": "latest"}
            with pytest.raises(evm_rpc.TooLong):
                await reader.rpc.call("eth_getLogs", query)
            assert await reader.events((-1, -1), 0) == everything
        finally:
            await reader.close()

    run(network, tmp_path, body)


def test_requests_that_are_cancelled_do_not_block_the_next_ones(network: Network) -> None:
    """web3's own session cache locks for ever when a task that waits for it is cancelled; a daemon cancels tasks all the time."""

    async def body() -> None:
        connection = Rpc(network.url)
        try:
            for rounds in range(40):
                asked = [asyncio.create_task(connection.head()) for _ in range(20)]
                for _ in range(rounds % 5):
                    await asyncio.sleep(0)
                for task in asked:
                    task.cancel()
                await asyncio.gather(*asked, return_exceptions=True)
                async with asyncio.timeout(240):
                    assert (await connection.head()).number > 0
        finally:
            await connection.close()

    asyncio.run(body())


def test_a_connection_is_kept(network: Network) -> None:
    async def body() -> None:
        connection = Rpc(network.url)
        await connection.head()
        here = {sock.laddr for sock in psutil.Process().net_connections("tcp") if sock.raddr and sock.raddr.port == port}
        for _ in range(5):
            await connection.head()
        again = {sock.laddr for sock in psutil.Process().net_connections("tcp") if sock.raddr and sock.raddr.port == port}
        await connection.close()
        assert len(here) == 1
        assert again == here

    port = int(network.url.rsplit(":", 1)[1])
    asyncio.run(body())


def test_an_answer_without_end_is_an_outage(monkeypatch: pytest.MonkeyPatch, network: Network) -> None:
    monkeypatch.setattr("assay.adapters.evm_rpc.MOST_BYTES", 50)

    async def body() -> None:
        connection = Rpc(network.url)
        try:
            with pytest.raises(Outage, match="more than 50 bytes"):
                await connection.head()
        finally:
            await connection.close()

    asyncio.run(body())


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["0x", "0x1", "0xzz", "-0x1", "0x" + "11" * 32]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["number", "hash", "timestamp", "data", "x"]), inner, max_size=3),
    max_leaves=6,
)


@given(JSON)
def test_what_a_node_may_send_is_understood_or_an_outage(value: Any) -> None:
    for read in (evm_rpc.number, evm_rpc.blob, lambda value: evm_rpc.blob(value, 32), evm_rpc.block_of):
        try:
            read(value)  # type: ignore[operator]
        except Outage:
            continue
    result = evm_rpc._result("eth_call", {"error": value})
    assert value is None or isinstance(result, Exception)


@given(st.sampled_from(sorted(evm_abi.events())), st.lists(st.binary(min_size=32, max_size=32), max_size=3), st.binary(max_size=400))
def test_a_log_decodes_or_is_refused(topic: bytes, more: list[bytes], data: bytes) -> None:
    for contract in ("jobs", "stakes"):
        try:
            evm_abi.decode_log(contract, [topic, *more], data, 1, 2, 3)
        except evm_abi.BadLog:
            continue


@given(st.sampled_from(sorted(evm_abi._errors())), st.binary(max_size=200))
def test_any_revert_data_give_words(selector: bytes, data: bytes) -> None:
    assert evm_abi.explain_revert(selector + data, "reverted")
    assert evm_abi.explain_revert(data, "reverted")


def test_a_full_disk_is_said_to_who_waits(tmp_path: Path) -> None:
    journal = SendJournal(tmp_path / "j", 1, Digest(b"g" * 32), Address("0x" + "11" * 20), Address("0x" + "22" * 20))
    journal._db.execute("PRAGMA max_page_count=9")
    entries = [Entry(CallId(f"{i}"), i, Address("0x" + "11" * 20), bytes(3000), 1) for i in range(40)]
    with pytest.raises(StorageFull, match="free some space"):
        journal.write(entries)
    assert journal.next_nonce() == 0  # nothing of it
    journal.close()
