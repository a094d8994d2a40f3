"""Receipts with stake behind them, on a chain: a false one costs its signer the bond in a dispute over one operation, a true one its challenger's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from eth_account import Account
from test_answering import lied, made, stage

from assay import answering, answering_chain
from assay.adapters.evm_receipts import ReceiptsChain
from assay.answering import Case
from assay.chain import CallId, Deposit, Outcome, PayDispute, Unbond, WithdrawDisputes, WithdrawStake
from assay.dispute import moves
from assay.dispute.moves import Side
from assay.dispute.players import Asserter, Challenger, Player
from assay.dispute.record import Record, Rules
from assay.ids import Address, Digest, SegmentId
from assay.inference import InferenceReceipt
from assay.localnet import rpc
from assay.localnet.anvil import Anvil, deploy, deploy_receipts, faucet
from assay.merkle import sha256
from assay.ports import Reverted
from assay.stages import program_head
from assay.state import Tensors

RULES = Rules(open_window=500, grace=100, budget=1000, payout_delay=30, bond=5_000)
STAKE, BOND, DELAY = 100_000, 60_000, 1000
SALT = Digest(sha256(b"salt"))


pytestmark = pytest.mark.usefixtures("needs_anvil")


class Court:
    """A signer and a doubter on a chain of their own."""

    def __init__(self, anvil: Anvil, signer: ReceiptsChain, doubter: ReceiptsChain) -> None:
        self.anvil, self.signer, self.doubter = anvil, signer, doubter

    async def later(self, seconds: int) -> None:
        rpc.call(self.anvil.url, "evm_increaseTime", seconds)
        rpc.call(self.anvil.url, "evm_mine")

    async def brought(self, receipt: InferenceReceipt, weights: Tensors, bond: int = BOND) -> tuple[Case, SegmentId]:
        """The receipt, signed by the signer's account, brought by the doubter."""
        case = Case(msgspec.structs.replace(receipt, account=self.signer.account), weights)
        claim = case.claim(bond, (await self.signer.head()).time + 10_000)
        return case, await self.doubter.accuse(claim, self.signer.sign_claim(claim), program_head(case.program))

    async def argued(self, case: Case, number: SegmentId, unit: int, signer: Player, doubter: Player) -> Record:
        dispute = await answering_chain.seal(self.doubter, case, number, unit, SALT)
        yielding: Callable[[float], Awaitable[object]] = lambda _: asyncio.sleep(0.01)  # noqa: E731
        sides = ((self.signer, Side.ASSERTER, signer), (self.doubter, Side.CHALLENGER, doubter))
        records = await asyncio.gather(*(answering_chain.play(c, case, number, dispute, side, player, yielding) for c, side, player in sides))
        await self.later(RULES.payout_delay + 1)
        await self.doubter.send(CallId(f"pay {dispute}"), PayDispute(dispute=dispute))
        return records[0]


def in_court(folder: Path, body: Callable[[Court], Awaitable[None]]) -> None:
    async def go() -> None:
        with Anvil(folder / "chain", block_time=None) as anvil:
            network = deploy(anvil.url)
            receipts = deploy_receipts(network, unbond_delay=DELAY, rules=RULES)
            chains = []
            for name in ("signer", "doubter"):
                account = Account.from_key(sha256(name.encode()))
                faucet(network, Address(account.address.lower()), STAKE)
                chains.append(await ReceiptsChain.open(anvil.url, receipts, account, folder / f"{name}.sqlite"))
            try:
                await chains[0].send(CallId("deposit"), Deposit(amount=STAKE))
                await body(Court(anvil, *chains))
            finally:
                for chain in chains:
                    await chain.close()

    asyncio.run(asyncio.wait_for(go(), 300))


def test_a_false_receipt_costs_its_signer_the_bond(tmp_path: Path) -> None:
    receipt, weights = made()
    false, trace = lied(receipt, weights, stage(weights, receipt, "matmul"))

    async def body(court: Court) -> None:
        case, number = await court.brought(false, weights)
        unit = case.wrong()
        assert unit is not None
        assert await court.signer.link_root(number) == (court.signer.account, case.link_root)
        liar = Asserter(case.told(trace).__getitem__, case.ends)
        record = await court.argued(case, number, unit, liar, answering.challenger(case, unit, SALT))
        assert record.outcome is Outcome.ASSERTER_LOST
        assert {type(played.move) for played in record.moves} >= {moves.Trace, moves.Stage, moves.Fold, moves.Pick}
        assert await court.signer.stake_of(court.signer.account) == (STAKE - BOND, 0, 0)
        had = rpc_balance(court, court.doubter)
        await court.doubter.send(CallId("withdraw"), WithdrawDisputes())
        assert rpc_balance(court, court.doubter) == had + RULES.bond + BOND - BOND // 2
        with pytest.raises(Reverted, match="HasFallen"):
            await answering_chain.seal(court.doubter, case, number, unit, Digest(sha256(b"again")))

    in_court(tmp_path, body)


def rpc_balance(court: Court, chain: ReceiptsChain) -> int:
    from assay.adapters import evm_abi

    data = "0x" + evm_abi.encode("token", "balanceOf", chain.account).hex()
    return int(str(rpc.call(court.anvil.url, "eth_call", {"to": chain.contracts["token"], "data": data}, "latest")), 16)


def test_a_true_receipt_stands_and_its_stake_may_leave_after_the_dispute(tmp_path: Path) -> None:
    receipt, weights = made()

    async def body(court: Court) -> None:
        case, number = await court.brought(receipt, weights)
        claim = case.claim(BOND, (await court.signer.head()).time)
        again = await court.doubter.accuse(claim, court.signer.sign_claim(claim), program_head(case.program))
        assert again == await court.doubter.accuse(claim, court.signer.sign_claim(claim), program_head(case.program)) == number + 1
        forged = case.claim(BOND, 10**10)
        with pytest.raises(Reverted, match="BadSignature"):
            await court.doubter.accuse(forged, court.doubter.sign_claim(forged), program_head(case.program))
        await court.signer.send(CallId("unbond"), Unbond(amount=STAKE))
        doubt = lied(receipt, weights, stage(weights, receipt, "add"))[1]
        mistaken = Challenger(case.told(doubt).__getitem__, (), answering.opening(0, SALT))
        record = await court.argued(case, number, 0, answering_chain.Honest(case, answering.defender(case)), mistaken)
        assert record.outcome is Outcome.ASSERTER_WON
        await court.later(DELAY + 1)
        await court.signer.send(CallId("leave"), WithdrawStake())
        assert await court.signer.stake_of(court.signer.account) == (0, 0, 0)
        with pytest.raises(Reverted, match="InsufficientStake"):
            await answering_chain.seal(court.doubter, case, number, 0, Digest(sha256(b"late")))
        await court.later(10_000)
        with pytest.raises(Reverted, match="TooLate"):
            await answering_chain.seal(court.doubter, case, number, 0, Digest(sha256(b"later")))

    in_court(tmp_path, body)


def test_a_signer_that_finds_itself_wrong_concedes_for_half(tmp_path: Path) -> None:
    receipt, weights = made()
    false, _ = lied(receipt, weights, stage(weights, receipt, "matmul"))

    async def body(court: Court) -> None:
        case, number = await court.brought(false, weights)
        unit = case.wrong()
        assert unit is not None
        ill = answering_chain.Honest(case, answering.defender(case))
        record = await court.argued(case, number, unit, ill, answering.challenger(case, unit, SALT))
        assert record.outcome is Outcome.CONCEDED
        assert await court.signer.stake_of(court.signer.account) == (STAKE - BOND // 2, 0, 0)

    in_court(tmp_path, body)
