"""`assay receipt dispute|defend|stake|unstake|collect`: receipts argued about, here or on a chain, and the stake behind them."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assay.cli.common import ENVIRONMENT, FAILED, USAGE, Data, Json, Rpc, Settings, Trouble, money, read_config, settings, show
from assay.cli.common import run as run_async
from assay.cli.folder import Lock, prepare
from assay.cli.infer import app as app
from assay.cli.infer import read_signed, weights_of
from assay.ids import DisputeId, SegmentId

if TYPE_CHECKING:
    from assay.adapters.evm_receipts import ReceiptsChain
    from assay.answering import Argued, Case
    from assay.inference import Bonded, InferenceReceipt, SignedReceipt

MICRO = 1_000_000
LOOK = 0.5
Receipts = Annotated[str | None, typer.Option("--receipts", envvar="ASSAY_RECEIPTS", metavar="ADDRESS", help="The Receipts contract.")]
File = Annotated[Path, typer.Argument(metavar="FILE", help="The signed receipt.")]
Weights = Annotated[Path | None, typer.Option("--weights", metavar="FILE", help="The weights that it names; else from the cache.")]
Amount = Annotated[float, typer.Argument(metavar="TOKENS", min=0, help="How many.")]


def where_of(rpc: str | None, receipts: str | None, data: Path | None) -> Settings:
    """Where the chain, its Receipts and this node's folder are. Raises Trouble."""
    named = receipts or read_config().get("receipts")
    if not named:
        why = "neither --receipts nor ASSAY_RECEIPTS nor a configuration file names it"
        raise Trouble("no Receipts contract is named", why, "--receipts ADDRESS", USAGE)
    return settings(rpc, named, None, data, "client")


@contextlib.asynccontextmanager
async def receipts_chain(where: Settings, tokens: int = 0) -> AsyncIterator[ReceiptsChain]:
    """The account's port; on a local network it takes what it lacks from the faucet. Raises Trouble and what the adapter raises."""
    from assay.adapters.evm_receipts import ReceiptsChain
    from assay.cli.funding import LOCAL_CHAIN
    from assay.cli.node import open_or_create

    prepare(where.data)
    async with contextlib.AsyncExitStack() as stack:
        lock = Lock(where.data)
        stack.callback(lock.release)
        keys = open_or_create(where.data)
        stack.callback(keys.close)
        chain = await ReceiptsChain.open(where.rpc, where.contract, keys.signer, where.data / "receipts.sqlite")
        stack.push_async_callback(chain.close)
        if chain.chain_id == LOCAL_CHAIN:
            from assay.localnet.faucet import give

            held = int(await chain.read("token", "balanceOf", chain.account))
            await give(where.rpc, where.contract, chain.account, max(0, tokens - held))
        yield chain


# ---- what a bonded receipt is ------------------------------------------------------------------------------------------------


async def bond(where: Settings, case: Case, amount: int, seconds: int) -> Bonded:
    """The claim of a receipt, signed for the contract. Raises Trouble when the stake does not cover it or may leave before it expires."""
    from assay.inference import Bonded

    async with receipts_chain(where) as chain:
        stake, _, leaving = await chain.stake_of(chain.account)
        if stake - leaving < amount:
            why = f"{chain.account} has {money(stake - leaving)} staked there"
            raise Trouble(f"a bond of {money(amount)} is not covered", why, f"assay receipt stake {money(amount)}", FAILED)
        if seconds > (delay := await chain.unbond_delay()):
            raise Trouble("the receipt would outlive its stake", f"stake may leave after {delay} s", f"--for {delay}s", USAGE)
        expires = (await chain.head()).time + seconds
        signature = chain.sign_claim(case.claim(amount, expires))
        return Bonded(chain_id=chain.chain_id, contract=chain.contract, bond=amount, expires=expires, signature=signature)


def kept(data: Path, root: bytes) -> Path:
    """Where a signer keeps a bonded receipt, for its defence."""
    return data / "receipts" / f"{root.hex()}.json"


def case_of(receipt: InferenceReceipt, weights: Path | None) -> Case:
    """Raises Trouble."""
    from assay.answering import Case
    from assay.inference import Refuted
    from assay.state import BadTensors

    try:
        return Case(receipt, weights_of(receipt.weights_root, weights))
    except Refuted as error:
        raise Trouble("there is nothing to argue about", f"the receipt does not fit together: {error}", code=FAILED) from None
    except BadTensors as error:
        raise Trouble("the weights are not those that the receipt names", str(error), "--weights FILE", ENVIRONMENT) from None


# ---- commands ----------------------------------------------------------------------------------------------------------------


@app.command()
def dispute(
    file: File, weights: Weights = None,
    trace: Annotated[Path | None, typer.Option("--trace", metavar="FILE", help="What its signer serves of its run.")] = None,
    chain: Annotated[bool, typer.Option("--chain", help="On chain, against the bond that stands behind it.")] = False,
    rpc: Rpc = None, receipts: Receipts = None, data: Data = None, json: Json = False,
) -> None:  # fmt: skip
    """Argues with a receipt, down to the one operation in which its signer's run and a run of one's own part.

    Exit code 0: the receipt is true; 1: it is false, and where; 3: the weights that it names are not here.

    Example: [bold]assay receipt dispute answer.json --trace trace.safetensors[/bold]
    """
    from assay.answering import argue, read_trace
    from assay.inference import Refuted

    signed = read_signed(file)
    case = case_of(signed.receipt, weights)
    if chain:
        unit = case.wrong()
        if unit is None:
            raise Trouble("the receipt is true", "a dispute over it would cost your bond", code=FAILED)
        found = run_async(_on_chain(where_of(rpc, receipts, data), signed, case, unit))
        show(found) if json else print(f"dispute {found['dispute']}: {found['outcome']}; then: assay receipt collect {found['dispute']}")
        return
    try:
        argued = argue(case, read_trace(trace.read_bytes(), case.program) if trace is not None else None)
    except Refuted as error:
        raise Trouble("the served trace cannot be used", str(error), code=FAILED) from None
    _tell(signed, argued, json)
    if argued is not None:
        raise typer.Exit(FAILED)


def _tell(signed: SignedReceipt, argued: Argued | None, as_json: bool) -> None:
    from assay.dispute.drawing import lines

    if as_json:
        steps = [] if argued is None else [step.told for step in argued.drawing.steps]
        reason = "" if argued is None else argued.drawing.reason
        show({"agrees": argued is None, "signer_lost": argued is not None and argued.signer_lost, "reason": reason, "steps": steps})
    elif argued is None:
        print(f"✓ nothing to dispute: {signed.receipt.account} signed what comes out here")
    else:
        for line in lines(argued.drawing):
            print(line)


async def _on_chain(where: Settings, signed: SignedReceipt, case: Case, unit: int) -> dict[str, Any]:
    from assay import answering_chain
    from assay.answering import challenger
    from assay.dispute.moves import Side
    from assay.ids import Digest
    from assay.stages import program_head

    bonded = signed.bonded
    if not bonded or bonded.contract != where.contract:
        raise Trouble("no bond stands behind this receipt there", "its signer has not signed it for that contract", "--receipts ADDRESS", FAILED)
    async with receipts_chain(where, 100 * MICRO) as chain:
        claim = case.claim(bonded.bond, bonded.expires)
        number = await chain.accuse(claim, bonded.signature, program_head(case.program))
        salt = Digest(secrets.token_bytes(32))
        sealed = await answering_chain.seal(chain, case, number, unit, salt)
        player = challenger(case, unit, salt)
        record = await answering_chain.play(chain, case, number, sealed, Side.CHALLENGER, player, asyncio.sleep)
        return {"receipt": number, "dispute": sealed, "outcome": str(record.outcome), "moves": len(record.moves)}


@app.command()
def defend(
    once: Annotated[bool, typer.Option("--once", help="Until one dispute is over.")] = False,
    rpc: Rpc = None, receipts: Receipts = None, data: Data = None, json: Json = False,
) -> None:  # fmt: skip
    """Answers disputes over this account's bonded receipts, as long as it runs: who is silent loses the bond.

    Example: [bold]assay receipt defend --data me[/bold]
    """
    run_async(_defend(where_of(rpc, receipts, data), once, json))


async def _defend(where: Settings, once: bool, as_json: bool) -> None:
    from assay.chain import DisputeSealed
    from assay.codec import decode
    from assay.inference import MAX_RECEIPT, SignedReceipt
    from assay.ports import Outage

    async with receipts_chain(where) as chain:
        after, playing = (-1, -1), set[asyncio.Task[None]]()
        try:
            while not (once and playing and all(task.done() for task in playing)):
                with contextlib.suppress(Outage):
                    for event in await chain.events(after, 0):
                        after = (event.block, event.index)
                        if isinstance(event, DisputeSealed):
                            signer, root = await chain.link_root(event.segment)
                            if signer == chain.account and (await chain.dispute(event.dispute)).outcome is None:
                                signed = decode(kept(where.data, root).read_bytes(), SignedReceipt, limit=MAX_RECEIPT)
                                answer = _answer(chain, case_of(signed.receipt, None), event.segment, event.dispute, as_json)
                                playing.add(asyncio.create_task(answer))
                for task in (task for task in playing if task.done()):
                    task.result()
                await asyncio.sleep(LOOK)
        finally:
            for task in playing:
                task.cancel()
            await asyncio.gather(*playing, return_exceptions=True)


async def _answer(chain: ReceiptsChain, case: Case, number: SegmentId, dispute: DisputeId, as_json: bool) -> None:
    from assay import answering_chain
    from assay.answering import defender
    from assay.dispute.moves import Side

    print(f"dispute {dispute} over receipt {number} is being answered", file=sys.stderr, flush=True)
    player = answering_chain.Honest(case, defender(case))
    record = await answering_chain.play(chain, case, number, dispute, Side.ASSERTER, player, asyncio.sleep)
    if as_json:
        show({"receipt": number, "dispute": dispute, "outcome": str(record.outcome)})
    else:
        print(f"dispute {dispute}: {record.outcome}", flush=True)


@app.command()
def stake(tokens: Amount, rpc: Rpc = None, receipts: Receipts = None, data: Data = None, json: Json = False) -> None:
    """Stakes tokens behind this account's receipts.

    Example: [bold]assay receipt stake 50 --data me[/bold]
    """
    from assay.chain import Deposit

    async def work(where: Settings) -> dict[str, int]:
        async with receipts_chain(where, amount) as chain:
            before = await chain.stake_of(chain.account)
            await chain.send(_call("stake", before), Deposit(amount=amount))
            return _stakes(await chain.stake_of(chain.account))

    amount = round(tokens * MICRO)
    _told(run_async(work(where_of(rpc, receipts, data))), json)


@app.command()
def unstake(tokens: Amount = 0, rpc: Rpc = None, receipts: Receipts = None, data: Data = None, json: Json = False) -> None:
    """Lets stake leave: TOKENS of it begin to, and what has waited long enough comes back.

    Example: [bold]assay receipt unstake 50 --data me[/bold]
    """
    from assay.chain import Unbond, WithdrawStake

    async def work(where: Settings) -> dict[str, int]:
        async with receipts_chain(where) as chain:
            before = await chain.stake_of(chain.account)
            call = Unbond(amount=round(tokens * MICRO)) if tokens else WithdrawStake()
            await chain.send(_call("unstake", before), call)
            return _stakes(await chain.stake_of(chain.account))

    _told(run_async(work(where_of(rpc, receipts, data))), json)


@app.command()
def collect(
    number: Annotated[int, typer.Argument(metavar="DISPUTE", help="As `dispute --chain` named it.")],
    rpc: Rpc = None, receipts: Receipts = None, data: Data = None, json: Json = False,
) -> None:  # fmt: skip
    """Pays out a dispute over a receipt that is decided, and pulls what is this account's.

    Example: [bold]assay receipt collect 1 --data me[/bold]
    """
    from assay.chain import CallId, PayDispute, WithdrawDisputes

    async def work(where: Settings) -> int:
        async with receipts_chain(where) as chain:
            if not (await chain.dispute(DisputeId(number))).paid:
                await chain.send(CallId(f"pay:{number}"), PayDispute(dispute=DisputeId(number)))
            credit = int(await chain.read("disputes", "credit", chain.account))
            if credit:
                await chain.send(CallId(f"collect:{number}:{credit}"), WithdrawDisputes())
            return credit

    credit = run_async(work(where_of(rpc, receipts, data)))
    show({"dispute": number, "withdrawn": credit}) if json else print(f"{money(credit)} withdrawn")


def _call(kind: str, before: tuple[int, int, int]) -> Any:
    from assay.chain import CallId

    return CallId(f"{kind}:{secrets.token_hex(8)}:{before[0]}")


def _stakes(found: tuple[int, int, int]) -> dict[str, int]:
    return {"stake": found[0], "reserved": found[1], "leaving": found[2]}


def _told(found: dict[str, int], as_json: bool) -> None:
    if as_json:
        show(dict(found))
    else:
        print(f"{money(found['stake'])} staked, {money(found['reserved'])} of it reserved for disputes, {money(found['leaving'])} leaving")
