"""Pay for federated rounds: peeled rows add up and hide what they should, one number shows a false sum, and everybody is paid what the rule says.
The same story runs over the ledger in memory and (slow) over the contract."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from test_federated import Play, summed, terms

from assay.adapters.memory_federated import FEDERATED, Federated, MemoryMoney
from assay.adapters.memory_stakes import BURN
from assay.cli import federated_pay as pays
from assay.cli.common import Trouble
from assay.codec import digest
from assay.federated import money, ring
from assay.federated.coordinator import Phase
from assay.federated.messages import Agreement, Record, Refused, Survivors, sign
from assay.federated.money import EQUAL, RECORDS, WORTH, FederatedTerms, Funded, Money, Sum
from assay.federated.ring import Row
from assay.ids import Address, Digest
from assay.merkle import sha256
from assay.ports import Reverted
from assay.worth import report
from assay.worth.games import Game

HOST, AUDITOR, STRANGER = (Address("0x" + f"{n:02x}" * 20) for n in (0xA1, 0xA2, 0xA3))
OWNERS = tuple(Address("0x" + f"{n:02x}" * 20) for n in range(1, 8))
NOW = 1_800_000_000
Pledge = Callable[[int, Digest, Digest], bytes]


def posted(**changes: Any) -> FederatedTerms:
    usual = dict(
        job=sha256(b"job"), auditor=AUDITOR, owners=OWNERS, shares=(1, 2, 3, 1, 1, 1, 1), rule=RECORDS, rounds=2, minimum=5, bits=32, length=40,
        pay=1_000_001, bond=500_001, window=60, deadline=NOW + 10_000,
    )  # fmt: skip
    return FederatedTerms(**{**usual, **changes})


class Paid(Play):
    """A round whose owners sign for their rows."""

    pledge: Pledge = staticmethod(lambda owner, name, row: b"mine")

    def answer(self, owner: int, message: Any) -> Any:
        if isinstance(message, Survivors):
            client = self.clients[owner]
            return client.survivors(message, lambda row: self.pledge(owner, client.name, row)), None
        return super().answer(owner, message)


def round_of(pledge: Pledge | None = None, gone: dict[Phase, Sequence[int]] | None = None, **changes: Any) -> tuple[Paid, Record, dict[int, Row]]:
    play = Paid(terms(**changes), gone or {})
    if pledge is not None:
        play.pledge = pledge
    made = play.run()
    return play, made, money.peeled(made, play.sent.__getitem__)


# ---- rows ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("gone", [{}, {Phase.UPLOADS: (1, 4)}, {Phase.DEALING: (2,), Phase.UPLOADS: (5,)}])
def test_peeled_rows_add_up_and_are_what_each_owner_signed(bits: int, gone: dict[Phase, Sequence[int]]) -> None:
    play, made, peeled = round_of(gone=gone, bits=bits)
    left = sorted(peeled)
    assert money.first_wrong(play.coordinator.total, list(peeled.values())) is None
    assert np.array_equal(play.coordinator.total, summed(play, left))
    said, signatures = money.sum_of(made, peeled)
    assert said == Sum(terms=digest(play.terms), total=made.total, rows=said.rows)
    for owner in range(7):
        counted = owner in left
        assert (said.rows[owner] != money.ZEROS) == counted
        assert signatures[owner] == (b"mine" if counted else b"")


def test_a_peeled_row_hides_its_update() -> None:
    play, _, peeled = round_of(length=4000)
    for owner, row in peeled.items():
        bits = np.unpackbits((row - play.clear[owner]).view(np.uint8)).mean()
        assert abs(bits - 0.5) < 0.01


def test_who_signs_another_row_or_none_is_named() -> None:
    play, made, peeled = round_of()
    silent = Play(play.terms).run()
    with pytest.raises(Refused, match="owner 0 is in the sum and has not signed its row"):
        money.sum_of(silent, peeled)
    _, made, _ = round_of(gone={Phase.AGREEING: (6,)})
    with pytest.raises(Refused, match="owner 6 is in the sum and has not signed"):
        money.sum_of(made, peeled)
    one = made.agreements[2].body
    assert isinstance(one, Agreement)
    from test_federated import identity

    lie = sign(msgspec.structs.replace(one, row=sha256(b"another")), identity(2))
    made = msgspec.structs.replace(made, agreements=(*made.agreements[:2], lie, *made.agreements[3:]))
    with pytest.raises(Refused, match="owner 2 has signed another row"):
        money.sum_of(made, peeled)


def test_a_row_and_a_signature_come_together() -> None:
    at = dict(terms=bytes(32), owner=0, survivors=bytes(32))
    for half in ({"row": Digest(bytes(32))}, {"pledge": b"x"}):
        with pytest.raises(ValueError, match="a signature of nothing"):
            Agreement(**at, **half)  # type: ignore[arg-type]
    for pledge in (b"", b"x" * 1025):
        with pytest.raises(ValueError, match="1 to 1024 bytes"):
            Agreement(**at, row=Digest(bytes(32)), pledge=pledge)  # type: ignore[arg-type]


# ---- rules ---------------------------------------------------------------------------------------------------------------


def valued() -> report.Worth:
    values = {frozenset(): 0, frozenset({0}): 4, frozenset({1}): 2, frozenset({0, 1}): 10}
    return report.make(Digest(bytes(32)), OWNERS[:2], "points", Game(2, values.__getitem__, 0), {})


def test_shares_follow_from_the_rule() -> None:
    assert money.shares_of(EQUAL, (5, 1), OWNERS[:2]) == ((1, 1), money.ZEROS)
    assert money.shares_of(RECORDS, (5, 1), OWNERS[:2]) == ((5, 1), money.ZEROS)
    worth = valued()
    assert money.shares_of(WORTH, (5, 1), OWNERS[:2], worth) == (worth.shares, digest(worth))
    with pytest.raises(ValueError, match="of other owners"):
        money.shares_of(WORTH, (5, 1), OWNERS[1:3], worth)
    with pytest.raises(report.Disagrees, match="shares"):
        money.shares_of(WORTH, (5, 1), OWNERS[:2], msgspec.structs.replace(worth, shares=(9_999, 1)))


def test_an_owner_looks_the_money_up() -> None:
    ledger = Federated()
    ledger.token.mint(HOST, 10**9)
    t = posted()
    ledger.post(HOST, t)
    stand = asyncio.run(MemoryMoney(ledger, OWNERS[0]).job(1))
    ours, name = terms(), digest(t)

    def need(
        funded: Funded, stand: money.Stand = stand, name: Digest = name, ours: Any = ours, who: Address = OWNERS[0], least: int = 100_000
    ) -> None:  # fmt: skip
        money.need_funded(funded, stand, name, ours, 0, who, least)

    good = Funded(number=1, round=0, terms=t)
    need(good)
    for why, changes in (
        ("other terms, or is over", {"name": sha256(b"other")}),
        ("other terms, or is over", {"stand": msgspec.structs.replace(stand, broken=True)}),
        ("another training", {"ours": msgspec.structs.replace(ours, job=sha256(b"another"))}),
        ("another training", {"ours": msgspec.structs.replace(ours, length=41)}),
        ("at another round", {"funded": Funded(number=1, round=2, terms=t)}),
        ("at another round", {"stand": msgspec.structs.replace(stand, closed=1)}),
        ("does not name", {"who": OWNERS[1]}),
        ("pays .* 100000 a round, less than 100001", {"least": 100_001}),
    ):
        with pytest.raises(Refused, match=why):
            need(**({"funded": good} | changes))  # type: ignore[arg-type]


# ---- the story, on every chain --------------------------------------------------------------------------------------------


class World:
    """A chain with accounts: `money` of each by its place (owners, then host, auditor, stranger), and a clock."""

    def __init__(self, accounts: dict[str, Money], wait: Callable[[int], Awaitable[None]], held: Callable[[], Awaitable[int]]) -> None:
        self.accounts, self.wait, self.held = accounts, wait, held

    def __getitem__(self, who: str) -> Money:
        return self.accounts[who]

    @property
    def owners(self) -> tuple[Address, ...]:
        return tuple(self.accounts[f"owner {i}"].account for i in range(7))

    def terms(self, now: int, **changes: Any) -> FederatedTerms:
        return posted(owners=self.owners, auditor=self["auditor"].account, deadline=now + 10_000, **changes)

    def sign(self, number: int, round: int) -> Pledge:
        return lambda owner, name, row: self[f"owner {owner}"].sign(number, round, name, owner, row)


async def story(world: World) -> None:
    """A round that is right, one that is not, and what everybody has afterwards."""
    host, stranger = world["host"], world["stranger"]
    t = world.terms(await host.now())
    number = await host.post(t)
    assert await world.held() == 2 * t.pay + t.bond
    stand = await host.job(number)
    assert (stand.terms, stand.host, stand.closed) == (host.name(t), host.account, 0)

    _, made, peeled = round_of(world.sign(number, 0), {Phase.UPLOADS: (3,)})
    said, signatures = money.sum_of(made, peeled)
    with pytest.raises(Reverted, match="NotTheHost"):
        await stranger.close(number, t, said, signatures)
    with pytest.raises(Reverted, match="BadSignature"):
        await host.close(number, t, said, [signatures[1], *signatures[1:]])
    await host.close(number, t, said, signatures)
    right = [money.piece(row, 7) for row in peeled.values()]
    total = np.sum(list(peeled.values()), axis=0, dtype=np.int32)
    with pytest.raises(Reverted, match="SumIsRight"):
        await stranger.challenge(number, t, 0, said, 7, money.piece(total, 7), right)
    with pytest.raises(Reverted, match="BadProof"):
        await stranger.challenge(number, t, 0, said, 7, money.piece(total + 1, 7), right)
    assert money.fault(said, total, peeled) is None
    told = await pays.challenged(stranger, number, t, said, total, peeled, 0)
    assert told["right"] and "all 40 numbers of its total add up" in told["text"]  # noqa: PT018
    with pytest.raises(Trouble, match="cannot be challenged from here"):
        await pays.challenged(stranger, number, t, said, total + 1, peeled, 0)
    with pytest.raises(Reverted, match="NotTheAuditor"):
        await host.strike(number, t, 0, 1)
    with pytest.raises(Reverted, match="NotCounted"):
        await world["auditor"].strike(number, t, 0, 3)
    await world["auditor"].strike(number, t, 0, 1)
    with pytest.raises(Reverted, match="IsStruck"):
        await world["auditor"].strike(number, t, 0, 2)
    with pytest.raises(Reverted, match="TooEarly"):
        await host.settle(number, t, 0)

    _, made, peeled = round_of(world.sign(number, 1))
    said, signatures = money.sum_of(made, peeled)
    false = np.sum(list(peeled.values()), axis=0, dtype=np.int32)
    false[23] += 1
    lie = msgspec.structs.replace(said, total=ring.row_root(false))
    await host.close(number, t, lie, signatures)
    with pytest.raises(Refused, match="not the numbers of the total"):
        money.fault(said, false, peeled)
    with pytest.raises(Refused, match="not those that the owners signed"):
        money.fault(lie, false, {i: row for i, row in peeled.items() if i})
    found = money.fault(lie, false, peeled)
    assert found is not None
    wrong, pieces = found.number, found.rows
    assert wrong == 23
    with pytest.raises(Reverted, match="BadSum"):
        await stranger.challenge(number, t, 1, said, wrong, money.piece(false, wrong), pieces)
    with pytest.raises(Reverted, match="BadLength"):
        await stranger.challenge(number, t, 1, lie, wrong, money.piece(false, wrong), pieces[:-1])
    told = await pays.challenged(stranger, number, t, lie, false, peeled, 1)
    assert (told["right"], told["number"], told["reward"]) == (False, 23, t.bond // 2)
    with pytest.raises(Reverted, match="IsOver"):
        await host.challenge(number, t, 1, lie, wrong, money.piece(false, wrong), pieces)
    assert (await host.job(number)).broken

    with pytest.raises(Reverted, match="IsOver"):
        await world["owner 0"].object(number, t, 1, 0)
    other = msgspec.structs.replace(t, job=sha256(b"another job"))
    opaque = await host.post(other)
    _, made, peeled = round_of(world.sign(opaque, 0))
    said, signatures = money.sum_of(made, peeled)
    await host.close(opaque, other, msgspec.structs.replace(said, total=sha256(b"a total that nobody can open")), signatures)
    with pytest.raises(Reverted, match="NotCounted"):
        await world["owner 0"].object(opaque, other, 0, 1)
    for i in range(4):
        assert not (await host.job(opaque)).broken
        await world[f"owner {i}"].object(opaque, other, 0, i)
    assert (await host.job(opaque)).broken

    await world.wait(t.window + 1)
    await stranger.settle(opaque, other, 0)
    await host.end(opaque, other)
    with pytest.raises(Reverted, match="NotSettled"):
        await host.end(number, t)
    for round in (0, 1):
        await stranger.settle(number, t, round)
    await host.end(number, t)
    with pytest.raises(Reverted, match="IsOver"):
        await stranger.end(number, t)

    def share(place: int) -> int:
        return t.pay * t.shares[place] // sum(t.shares)

    due = [3 * share(i) for i in range(7)]
    due[3], due[1] = 2 * share(3), 2 * share(1)  # silent in one round, struck in one
    assert [await host.credit(who) for who in world.owners] == due
    assert await host.credit(stranger.account) == t.bond // 2
    assert await host.credit(host.account) == 4 * t.pay - sum(due)
    for who in ("host", "stranger", *(f"owner {i}" for i in range(7))):
        await world[who].withdraw()
    assert await world.held() == 0
    with pytest.raises(Reverted, match="NothingToWithdraw"):
        await stranger.withdraw()


def memory() -> tuple[World, Federated]:
    ledger = Federated(time=NOW)
    ledger.token.mint(HOST, 10**9)
    names = {"host": HOST, "auditor": AUDITOR, "stranger": STRANGER} | {f"owner {i}": who for i, who in enumerate(OWNERS)}

    async def wait(seconds: int) -> None:
        ledger.time += seconds

    async def held() -> int:
        return ledger.token.balance.get(FEDERATED, 0)

    return World({name: MemoryMoney(ledger, who) for name, who in names.items()}, wait, held), ledger


def test_the_story_in_memory() -> None:
    world, ledger = memory()
    asyncio.run(story(world))
    assert ledger.token.balance[BURN] == 250_001 + 500_001
    assert sum(ledger.token.balance.values()) == 10**9


def test_rows_that_do_not_fit_one_transaction_are_added_up_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(money, "MOST_CALLDATA", 96 * 7 + 4 * 1250)  # three pieces, and the total's

    async def run() -> None:
        world, ledger = memory()
        host, stranger = world["host"], world["stranger"]
        t = world.terms(await host.now())
        number = await host.post(t)
        _, made, peeled = round_of(world.sign(number, 0))
        said, signatures = money.sum_of(made, peeled)
        false = np.sum(list(peeled.values()), axis=0, dtype=np.int32)
        false[39] -= 5
        lie = msgspec.structs.replace(said, total=ring.row_root(false))
        await host.close(number, t, lie, signatures)
        found = money.fault(lie, false, peeled)
        assert found is not None
        assert [len(some) for some in money.parts(found, 7)] == [3, 3, 1]
        with pytest.raises(Reverted, match="BadLength"):
            await stranger.add(number, t, 0, lie, 39, [*found.rows, found.rows[0]])
        with pytest.raises(Reverted, match="BadProof"):
            await stranger.add(number, t, 0, lie, 39, found.rows[1:3])
        told = await pays.challenged(stranger, number, t, lie, false, peeled, 0)
        assert (told["number"], (await host.job(number)).broken) == (39, True)
        assert ledger.credit[stranger.account] == t.bond // 2

    asyncio.run(run())


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "two owners": ({"owners": OWNERS[:2], "shares": (1, 1)}, "owners"), "no rounds": ({"rounds": 0}, "rounds"),
    "a small minimum": ({"minimum": 4}, "minimum"), "half a word": ({"bits": 16}, "bits"), "no numbers": ({"length": 0}, "length"),
    "no pay": ({"pay": 0}, "pay"), "no bond": ({"bond": 0}, "bond"), "no window": ({"window": 0}, "window"),
    "a time that is over": ({"deadline": NOW - 1}, "deadline"), "fewer shares": ({"shares": (1, 1)}, "BadLength"),
    "no shares": ({"shares": (0,) * 7}, "BadShare"), "unequal": ({"rule": EQUAL}, "BadShare"),
    "worth without a valuation": ({"rule": WORTH}, "worth"), "records with one": ({"worth": sha256(b"w")}, "worth"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_terms_that_make_no_job(name: str) -> None:
    changes, why = BAD[name]
    ledger = Federated(time=NOW)
    with pytest.raises(Reverted, match=why):
        ledger.post(HOST, posted(**changes))


def test_a_host_that_stops_gets_the_rest_after_the_deadline() -> None:
    world, ledger = memory()
    host = world["host"]

    async def run() -> None:
        t = world.terms(NOW)
        number = await host.post(t)
        with pytest.raises(Reverted, match="TooEarly"):
            await host.end(number, t)
        await world.wait(10_001)
        with pytest.raises(Reverted, match="TooLate"):
            await host.close(number, t, Sum(terms=money.ZEROS, total=money.ZEROS, rows=()), [])
        await host.end(number, t)
        await host.withdraw()
        assert ledger.token.balance[HOST] == 10**9

    asyncio.run(run())


@pytest.mark.slow
def test_the_story_on_a_chain(needs_anvil: None, tmp_path: Any) -> None:
    from eth_account import Account

    from assay.adapters.evm import EvmChain
    from assay.adapters.evm_federated import EvmMoney
    from assay.localnet import rpc
    from assay.localnet.anvil import Anvil, deploy
    from assay.localnet.faucet import give_now

    async def run(url: str) -> None:
        network = deploy(url)
        names = ["host", "auditor", "stranger", *(f"owner {i}" for i in range(7))]
        chains = []
        for i, name in enumerate(names):
            signer = Account.from_key(sha256(b"account", name.encode()))
            give_now(url, network.jobs, Address(signer.address.lower()), 10**9)
            chains.append(await EvmChain.open(url, network.jobs, signer, tmp_path / f"{i}.sqlite"))
        moneys = {name: EvmMoney(chain) for name, chain in zip(names, chains, strict=True)}
        await moneys["host"].deploy()
        await moneys["stranger"].deploy()  # it is there already

        async def wait(seconds: int) -> None:
            rpc.call(url, "evm_increaseTime", seconds)
            rpc.call(url, "evm_mine")

        async def held() -> int:
            return int(await chains[0].read("token", "balanceOf", moneys["host"].contract))

        try:
            await story(World({**moneys}, wait, held))
        finally:
            for chain in chains:
                await chain.close()

    with Anvil(block_time=None) as anvil:
        asyncio.run(run(anvil.url))
