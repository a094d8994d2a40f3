"""A node's first money, on a chain that has no faucet: it says what it needs, waits, and is not held up by a fee that it paid since."""

from __future__ import annotations

import asyncio

import pytest

from assay.adapters.memory_chain import MemoryChain, MemoryLedger
from assay.chain import CallId, Deposit, Register
from assay.cli import funding
from assay.dispute.record import Rules
from assay.ids import PeerId
from assay.runtime import Note

STAKE = 5_000_000


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(funding, "LOOK_EVERY", 0.001)


def funded(chain: MemoryChain, ledger: MemoryLedger, gift: int = 0) -> tuple[int, list[Note]]:
    """The stake that `fund` gives, and what it said; `gift` comes when it has said that it waits."""
    said: list[Note] = []

    def note(what: Note) -> None:
        said.append(what)
        if gift:
            ledger.mint(chain.account, gift)

    async def go() -> int:
        return await asyncio.wait_for(funding.fund(chain, "unused", STAKE, note), 240)

    return asyncio.run(go()), said


def test_a_poor_node_names_its_account_and_waits_until_the_money_is_there() -> None:
    ledger = MemoryLedger(b"fund")
    ledger.account("poor")
    stake, said = funded(MemoryChain(ledger, "poor"), ledger, gift=STAKE)
    assert stake == STAKE
    (note,) = said
    assert note.topic == "waiting"
    assert ledger.account("poor") in note.text
    assert "5.00 tokens" in note.text


def test_a_rich_node_says_nothing() -> None:
    ledger = MemoryLedger(b"fund")
    ledger.account("rich", tokens=2 * STAKE)
    assert funded(MemoryChain(ledger, "rich"), ledger) == (STAKE, [])


def test_a_node_that_paid_a_fee_from_its_stake_starts_with_what_is_left() -> None:
    ledger = MemoryLedger(b"fund")
    ledger.account("fined", tokens=STAKE - 1000)
    chain = MemoryChain(ledger, "fined")

    async def enrol() -> None:
        await chain.send(CallId("register"), Register(encryption_key=b"k" * 32, peer=PeerId("p")))
        await chain.send(CallId("deposit"), Deposit(amount=STAKE - 1000))

    asyncio.run(enrol())
    assert funded(chain, ledger) == (STAKE - 1000, [])


def test_a_verifier_is_told_what_it_lacks_for_disputes_and_not_held_up() -> None:
    rules = Rules(open_window=60, grace=60, budget=60, payout_delay=60, bond=1_000_000)
    ledger = MemoryLedger(b"fund", rules=rules)
    ledger.account("verifier", tokens=STAKE + 1_000_000)
    chain = MemoryChain(ledger, "verifier")
    said: list[Note] = []
    beside = asyncio.run(funding.bonds("verifier", chain))
    assert beside == funding.BONDS * rules.bond
    assert asyncio.run(funding.bonds("worker", chain)) == 0
    assert asyncio.run(funding.fund(chain, "unused", STAKE, said.append, beside)) == STAKE
    (note,) = said
    assert (note.topic, "3.00 tokens" in note.text) == ("bonds", True)
