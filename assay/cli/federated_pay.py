"""What `assay federated` does with money: a job that is posted and its rounds, `show`, `settle`, `strike`, `withdraw`, and a false sum challenged."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from assay.cli.common import FAILED, USAGE, Contract, Data, Json, Rpc, Settings, Trouble, money, run, settings, show
from assay.cli.folder import Lock, prepare
from assay.economics import TOKEN
from assay.ids import ZERO_ADDRESS, Address, Cid, address
from assay.ports import Reverted

if TYPE_CHECKING:
    from assay.adapters.evm_federated import EvmMoney
    from assay.daemon import Ports
    from assay.federated.messages import Record, Terms
    from assay.federated.money import FederatedTerms, Funded, Money, Sum
    from assay.federated.ring import Row

Job = Annotated[int, typer.Argument(metavar="JOB", min=1, help="Its number, as `assay federated host` says it.")]


def tokens(option: str, text: str) -> int:
    """An amount in tokens, in the smallest unit. Raises Trouble."""
    try:
        amount = Decimal(text) * TOKEN
    except InvalidOperation:
        amount = Decimal(0)
    if not amount.is_finite() or amount != int(amount) or not 1 <= amount < 1 << 62:
        raise Trouble(f"{option} {text} is no amount", "tokens, with six digits after the point at most", f"{option} 2.5", USAGE)
    return int(amount)


# ---- what a host offers ------------------------------------------------------------------------------------------------------


class Offer(NamedTuple):
    accounts: tuple[Address, ...]
    pay: int
    bond: int
    rule: int
    worth: bytes
    window: int
    days: float
    auditor: Address


def offer(
    owners: list[str], amounts: tuple[str, str], by: str, worth: Path | None, times: tuple[int, float], auditor: str | None
) -> Offer:  # fmt: skip
    """`amounts` are pay and bond, `times` window and days. Raises Trouble."""
    from assay.federated.money import RULES, WORTH

    if by not in RULES or (worth is not None) != (by == RULES[WORTH]):
        raise Trouble(f"--by {by} is not understood", f"one of {', '.join(RULES)}; worth, and nothing else, with --worth FILE", code=USAGE)
    try:
        accounts = tuple(address(text.partition("@")[2]) for text in owners)
        who = address(auditor) if auditor else ZERO_ADDRESS
    except ValueError as error:
        raise Trouble("somebody cannot be paid", str(error), "--owner ID@ACCOUNT, both as `assay federated id --json` says them", USAGE) from None
    pay = tokens("--pay", amounts[0])
    bond = tokens("--bond", amounts[1]) if amounts[1] else pay
    return Offer(accounts, pay, bond, RULES.index(by), worth.read_bytes() if worth else b"", *times, who)


class Purse(NamedTuple):
    """A job that was posted."""

    money: EvmMoney
    number: int
    terms: FederatedTerms

    def funded(self, round: int) -> Funded:
        from assay.federated.money import Funded

        return Funded(number=self.number, round=round, terms=self.terms)

    async def close(self, ports: Ports, record: Record, published: Cid) -> None:
        """Puts a round's sum on chain. Raises Trouble, naming the owner whose signature it lacks."""
        from assay.federated import money, node
        from assay.federated.messages import Refused

        found = await node.published_at(ports.blobs, ports.peers.peer, published)
        rows = await node.rows_of(ports.blobs, ports.peers.peer, found)
        try:
            said, signatures = money.sum_of(record, money.peeled(record, rows.__getitem__))
            await self.money.close(self.number, self.terms, said, signatures)
        except (Refused, Reverted) as error:
            raise Trouble(f"round {record.terms.round} cannot be paid for", str(error), "start again without that owner", FAILED) from None


async def post(ports: Ports, offer: Offer, terms: Terms, rounds: int) -> Purse:
    """Locks the money of a job. Raises Trouble."""
    from assay.cli.funding import LOCAL_CHAIN
    from assay.codec import Malformed, decode
    from assay.federated.money import FederatedTerms, shares_of
    from assay.worth.report import Worth

    try:
        worth = decode(offer.worth, Worth) if offer.worth else None
        shares, digest = shares_of(offer.rule, terms.weights, offer.accounts, worth)
    except (Malformed, ValueError) as error:
        raise Trouble("the valuation is not one of these owners", str(error), code=USAGE) from None
    purse = purse_of(ports)
    now = await purse.now()
    made = FederatedTerms(
        job=terms.job, auditor=offer.auditor, owners=offer.accounts, shares=shares, rule=offer.rule, worth=digest, rounds=rounds,
        minimum=terms.minimum, bits=terms.bits, length=terms.length, pay=offer.pay, bond=offer.bond, window=offer.window,
        deadline=now + int(offer.days * 86_400),
    )  # fmt: skip
    if purse.chain.chain_id == LOCAL_CHAIN:
        from assay.localnet.faucet import give

        locked = rounds * offer.pay + offer.bond
        held = int(await purse.chain.read("token", "balanceOf", purse.account))
        await give(purse.chain.rpc.url, purse.chain.contract, purse.account, max(0, locked - held))
    try:
        await purse.deploy()
        return Purse(purse, await purse.post(made), made)
    except Reverted as error:
        raise Trouble("the job cannot be posted", str(error), code=FAILED) from None


def told(terms: FederatedTerms) -> str:
    """For a person."""
    from assay.federated.money import RULES

    rounds = f"{terms.rounds} rounds of {money(terms.pay)} tokens for {len(terms.owners)} owners"
    return f"{rounds}, parted by {RULES[terms.rule]}; a bond of {money(terms.bond)}"


def purse_of(ports: Ports) -> EvmMoney:
    """The contract, over a node's own chain."""
    from assay.adapters.evm import EvmChain
    from assay.adapters.evm_federated import EvmMoney

    assert isinstance(ports.chain, EvmChain)  # as `compose` opens it
    return EvmMoney(ports.chain)


# ---- commands ----------------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _purse(where: Settings) -> AsyncIterator[EvmMoney]:
    """The contract, for a folder's account. On a local network the faucet pays for gas. Raises Trouble."""
    from assay.adapters.evm_federated import EvmMoney
    from assay.cli.funding import LOCAL_CHAIN
    from assay.cli.node import open_chain, open_or_create

    prepare(where.data)
    async with contextlib.AsyncExitStack() as stack:
        lock = Lock(where.data)
        stack.callback(lock.release)
        keys = open_or_create(where.data)
        stack.callback(keys.close)
        chain = await open_chain(where, keys)
        stack.push_async_callback(chain.close)
        purse = EvmMoney(chain)
        if not await purse.there():
            raise Trouble("nobody is paid for federated rounds here", "the contract is not on this chain; who posts the first job puts it there")
        if chain.chain_id == LOCAL_CHAIN:
            from assay.localnet.faucet import give

            await give(where.rpc, where.contract, chain.account, 0)
        try:
            yield purse
        except Reverted as error:
            raise Trouble("the contract refuses", str(error), code=FAILED) from None


async def _posted(purse: EvmMoney, number: int) -> FederatedTerms:
    try:
        return await purse.posted(number)
    except KeyError:
        raise Trouble(f"there is no federated job {number}", "the contract has not seen it", code=USAGE) from None


def show_job(job: Job, rpc: Rpc = None, contract: Contract = None, data: Data = None, json: Json = False) -> None:
    """A federated job on the chain: its rounds, who was paid what, and why.

    Example: [bold]assay federated show 1[/bold]
    """

    async def look() -> dict[str, Any]:
        async with _purse(settings(rpc, contract, None, data, "client")) as purse:
            terms, stand = await _posted(purse, job), await purse.job(job)
            paid = await purse.paid(job)
            earned = {who: sum(amount for _, owner, amount in paid if owner == who) for who in terms.owners}
            return {"job": job, "terms": terms, "stand": stand, "paid": earned, "shares": terms.shares}

    found = run(look())
    terms, stand = found["terms"], found["stand"]
    if json:
        told_of = {"closed": stand.closed, "settled": stand.settled, "broken": stand.broken, "ended": stand.ended, "held": stand.held}
        show({"job": job, "host": stand.host, "rounds": terms.rounds, **told_of, "paid": found["paid"], "shares": list(terms.shares)})
        return
    state = "its host put a false sum on chain" if stand.broken else "over" if stand.ended else "under way"
    print(f"job {job}: {told(terms)}; {stand.closed} closed, {stand.settled} settled; {state}")
    for who, share in zip(terms.owners, terms.shares, strict=True):
        print(f"  {who}  {money(found['paid'][who]):>12}   {share} of {sum(terms.shares)} parts")


def settle(job: Job, rpc: Rpc = None, contract: Contract = None, data: Data = None, json: Json = False) -> None:
    """Settles every round whose window is over, and ends the job when no more come: anybody may.

    Example: [bold]assay federated settle 1[/bold]
    """

    async def go() -> dict[str, Any]:
        async with _purse(settings(rpc, contract, None, data, "client")) as purse:
            terms, done = await _posted(purse, job), 0
            stand = await purse.job(job)
            for round in range(stand.closed if not stand.ended else 0):
                with contextlib.suppress(Reverted):  # settled already, or too early
                    await purse.settle(job, terms, round)
                    done += 1
            with contextlib.suppress(Reverted):  # more rounds may come
                await purse.end(job, terms)
            stand = await purse.job(job)
            return {"job": job, "settled_now": done, "settled": stand.settled, "closed": stand.closed, "ended": stand.ended}

    found = run(go())
    _tell(json, f"job {job}: {found['settled']} of {found['closed']} rounds are settled" + ("; it is over" if found["ended"] else ""), found)


def strike(
    job: Job, round: Annotated[int, typer.Argument(metavar="ROUND", min=0, help="From 0.")],
    place: Annotated[int, typer.Argument(metavar="OWNER", min=0, help="Its place among the job's owners, from 0 (assay federated show).")],
    rpc: Rpc = None, contract: Contract = None, data: Data = None, json: Json = False,
) -> None:  # fmt: skip
    """The auditor: this owner showed no update that the terms allow. It is not paid for this round.

    Example: [bold]assay federated strike 1 0 3[/bold]
    """

    async def go() -> None:
        async with _purse(settings(rpc, contract, None, data, "client")) as purse:
            await purse.strike(job, await _posted(purse, job), round, place)

    run(go())
    _tell(json, f"job {job}: owner {place} is not paid for round {round}", {"job": job, "round": round, "owner": place})


def withdraw(rpc: Rpc = None, contract: Contract = None, data: Data = None, json: Json = False) -> None:
    """Takes what federated rounds have credited to this account.

    Example: [bold]assay federated withdraw --data hospital[/bold]
    """

    async def go() -> int:
        async with _purse(settings(rpc, contract, None, data, "owner")) as purse:
            amount = await purse.credit(purse.account)
            await purse.withdraw()
            return amount

    amount = run(go())
    _tell(json, f"withdrawn: {money(amount)} tokens", {"withdrawn": amount})


async def _said(purse: EvmMoney, number: int, round: int) -> Sum:
    """What the host put on the chain of a round. Raises Trouble."""
    try:
        return await purse.sum(number, round)
    except KeyError:
        raise Trouble(f"round {round} of job {number} is not on the chain", "its host has not closed it", code=FAILED) from None


async def compare(where: Settings, number: int, record: Record, rows: dict[int, Row]) -> dict[str, Any]:
    """A round's record, which is right, against what its host put on the chain. An owner that is counted objects to another total; nobody can
    open that to challenge it, but who has its numbers. Raises Trouble."""
    from assay.federated import money as pay
    from assay.federated import ring

    async with _purse(where) as purse:
        terms, round = await _posted(purse, number), record.terms.round
        said = await _said(purse, number, round)
        peeled = pay.peeled(record, rows.__getitem__)
        roots = tuple(ring.row_root(peeled[i]) if i in peeled else pay.ZEROS for i in range(len(said.rows)))
        if roots == said.rows and said.total == record.total:
            return {"text": f"round {round} of job {number} is on the chain as it is in the record", "job": number, "right": True}
        if purse.account in terms.owners and roots == said.rows:
            await purse.object(number, terms, round, terms.owners.index(purse.account))
        what = "another total" if roots == said.rows else "other rows"
        raise Trouble(f"round {round} of job {number} has {what} on the chain", "what its host put there is not what the record proves", code=FAILED)


async def challenged(purse: Money, number: int, terms: FederatedTerms, said: Sum, total: Row, rows: dict[int, Row], round: int) -> dict[str, Any]:
    """A round's total on the chain against the peeled rows that its owners signed for; the first number that is wrong is put on the chain, for half
    of the bond. Raises Trouble when these are not the numbers of the chain's roots."""
    from assay.federated import money as pay
    from assay.federated.messages import Refused

    try:
        found = pay.fault(said, total, rows)
    except Refused as error:
        next = "its owners can: assay federated check CID --job JOB, with the folder of one that is counted"
        raise Trouble(f"round {round} of job {number} cannot be challenged from here", str(error), next, FAILED) from None
    if found is None:
        return {"text": f"round {round} of job {number}: all {total.size} numbers of its total add up", "job": number, "round": round, "right": True}
    *first, last = pay.parts(found, len(terms.owners))
    for some in first:
        await purse.add(number, terms, round, said, found.number, some)
    await purse.challenge(number, terms, round, said, found.number, found.total, last)
    said_so = f"number {found.number} of round {round} of job {number} is not the sum of what its owners signed; that is on the chain now"
    return {
        "text": f"{said_so}, and {money(terms.bond // 2)} tokens are yours: assay federated withdraw", "job": number, "round": round, "right": False,
        "number": found.number, "reward": terms.bond // 2,
    }  # fmt: skip


async def challenge_with(where: Settings, number: int, record: Record, rows: dict[int, Row], total: Row) -> dict[str, Any]:
    """The same for a folder's account, of a round that the contract knows. Raises Trouble."""
    from assay.federated import money as pay

    async with _purse(where) as purse:
        terms, round = await _posted(purse, number), record.terms.round
        said = await _said(purse, number, round)
        return await challenged(purse, number, terms, said, total, pay.peeled(record, rows.__getitem__), round)


def _tell(json: bool, text: str, data: dict[str, Any]) -> None:
    if json:
        show(data)
    else:
        print(text)
