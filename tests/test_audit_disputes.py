"""Disputes as the audit reads them: their bonds, what they decide, what they pay, and every game played again from its moves."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec
import pytest
from audit_story import Sites, story
from test_audit import FORGERIES, NOBODY, UNKNOWN, WRONG, Forge, both, drop, find, moved, put, say
from test_takeover import entrusting, taken_over

from assay import chain as C
from assay.audit.auditor import Auditor
from assay.audit.findings import Report
from assay.audit.record import Entry, Record
from assay.chain import Outcome, SegmentState
from assay.dispute.moves import Name
from assay.ids import DisputeId, JobId, SegmentId

sys.path.insert(0, str(Path(__file__).parent / "ports"))
from chain_world import MemoryWorld
from dispute_world import RULES
from test_disputes_on_chain import (
    Script,
    a_concession_costs_half,
    a_liar_is_slashed,
    a_no_is_paid_when_a_dispute_bears_it_out,
    a_no_that_nobody_bears_out_is_not_paid,
    a_pardon_costs_the_price_alone,
    an_honest_provider_is_paid,
    the_silent_lose,
)
from test_showings import a_liar_pays_and_no_less_is_burnt, who_disputes_in_vain_pays_for_what_had_to_be_shown

DISPUTED = SegmentId(2)
ONE = DisputeId(1)
OTHERS = {
    "pardoned": a_pardon_costs_the_price_alone, "borne out": a_no_is_paid_when_a_dispute_bears_it_out, "kept": a_no_that_nobody_bears_out_is_not_paid,
}  # fmt: skip
SHOWN = {"shown": who_disputes_in_vain_pays_for_what_had_to_be_shown, "shown by a liar": a_liar_pays_and_no_less_is_burnt}
SCRIPTS = {"liar": a_liar_is_slashed, "honest": an_honest_provider_is_paid, "conceded": a_concession_costs_half, "silent": the_silent_lose}


def recorded(script: Script) -> Record:
    async def run() -> Record:
        world = MemoryWorld(RULES)
        await script(world)
        return await world.record(JobId(1))

    return asyncio.run(run())


@pytest.fixture(scope="module")
def records() -> dict[str, Record]:
    return {name: recorded(script) for name, script in (SCRIPTS | OTHERS | SHOWN).items()}


def audited(record: Record) -> Report:
    return Auditor(record, JobId(1)).run()


def told(report: Report, ok: bool | None) -> set[str]:
    return {finding.check for sheet in report.sheets for finding in sheet.findings if finding.ok is ok}


def played(change: int | None = None, name: bool = False) -> Forge:
    """The moves of the dispute were others: the first `change` alone, or another element named."""

    def forge(record: Record) -> Record:
        dispute = record.disputes[ONE]
        made = list(dispute.moves[:change])
        if name:
            at = next(i for i, one in enumerate(made) if isinstance(one.move, Name))
            made[at] = msgspec.structs.replace(made[at], move=Name(element=10**9))
        return record._replace(disputes={ONE: msgspec.structs.replace(dispute, moves=tuple(made))})

    return forge


def sealed_early(record: Record) -> Record:
    """While nothing was committed."""
    at, there = find(record, C.DisputeSealed), find(record, C.Committed, DISPUTED)
    where, event = record.entries[there].event, record.entries[at].event
    early = msgspec.structs.replace(event, block=where.block, time=where.time, index=where.index)
    return put(record, there, Entry(early), record.entries[there])


def settled_meanwhile(record: Record) -> Record:
    """The segment settles while a dispute is open."""
    at = find(record, C.DisputeOpened)
    where = record.entries[at].event
    settled = C.Settled(block=where.block, time=where.time, index=where.index + 1, segment=DISPUTED, provider=NOBODY, price=1)
    return record._replace(entries=(*record.entries[: at + 1], Entry(settled)), held=None)


def twice(kind: type[C.ChainEvent]) -> Forge:
    def forge(record: Record) -> Record:
        at = find(record, kind)
        return put(record, at, record.entries[at], record.entries[at])

    return forge


CASES: dict[str, tuple[str, Forge, str, bool | None]] = {
    "disputed before it was committed": ("liar", sealed_early, "dispute", False),
    "another stake": ("liar", say(C.DisputeSealed, bond=moved(1)), "dispute", False),
    "another time to open": ("liar", say(C.DisputeSealed, open_by=moved(1)), "times", False),
    "a seal of no segment": ("liar", say(C.DisputeSealed, segment=SegmentId(99)), "record", False),
    "another asserter": ("liar", say(C.DisputeOpened, asserter=NOBODY), "dispute", False),
    "a vote that nobody cast": ("liar", say(C.DisputeOpened, target=1), "dispute", False),
    "decided otherwise": ("honest", say(C.DisputeResolved, outcome=Outcome.ASSERTER_LOST), "dispute", False),
    "decided for a liar": ("liar", say(C.DisputeResolved, outcome=Outcome.ASSERTER_WON), "dispute", False),
    "decided twice": ("liar", twice(C.DisputeResolved), "dispute", False),
    "more taken than was there": ("liar", say(C.DisputeResolved, taken=moved(1)), "money", False),
    "all taken of who conceded": ("conceded", say(C.DisputeResolved, taken=lambda taken: 2 * taken), "money", False),
    "another time to pay": ("liar", say(C.DisputeResolved, pay_after=moved(1)), "times", False),
    "a slash of another size": ("liar", say(C.Slashed, amount=moved(-1)), "money", False),
    "a slash that was not made": ("liar", drop(C.Slashed), "money", False),
    "a liar that is not rejected": ("liar", drop(C.Rejected), "verdict", False),
    "rejected, and the dispute was won": ("liar", say(C.DisputeResolved, outcome=Outcome.ASSERTER_WON), "verdict", False),
    "paid too early": ("liar", say(C.DisputePaid, time=moved(-20)), "times", False),
    "paid as another outcome": ("liar", say(C.DisputePaid, outcome=Outcome.CONCEDED), "dispute", False),
    "paid twice": ("honest", twice(C.DisputePaid), "dispute", False),
    "a payment off by one": ("liar", say(C.DisputePaid, burnt=moved(1)), "money", False),
    "a credit off by one": ("liar", say(C.DisputeCredited, amount=moved(1)), "money", False),
    "a credit to another": ("honest", say(C.DisputeCredited, who=NOBODY), "money", False),
    "a credit that was not made": ("liar", drop(C.DisputeCredited), "money", False),
    "settled while it was open": ("liar", settled_meanwhile, "dispute", False),
    "a bond cleared while it was open": ("conceded", both(drop(C.DisputeResolved), drop(C.DisputePaid)), "dispute", False),
    "a move that no game takes": ("liar", played(name=True), "dispute", False),
    "another commitment": ("liar", say(C.Committed, DISPUTED, link_root=WRONG), "dispute", False),
    "pardoned before the seals were over": ("pardoned", say(C.Served, DISPUTED, seal_by=moved(10_000)), "dispute", False),
    "pardoned twice": ("pardoned", twice(C.Pardoned), "dispute", False),
    "pardoned, and too few segments had settled": ("pardoned", drop(C.Settled), "dispute", False),
    "another window after a pardon": ("pardoned", say(C.Pardoned, until=moved(1)), "times", False),
    "conceded for nothing, and not pardoned": ("pardoned", drop(C.Pardoned), "money", False),
    "a no that is paid another fee": ("borne out", say(C.Credited, amount=moved(1)), "money", False),
    "a fee that goes back in part": ("kept", say(C.Credited, SegmentId(1), amount=moved(-1)), "money", False),
    "moves that are not there": ("liar", lambda record: record._replace(disputes={}), "dispute", None),
    "a last move that is hidden": ("liar", played(-1), "dispute", None),
    "more for owners than the loser can spare": ("shown by a liar", say(C.ShowingOwed, amount=moved(1)), "money", False),
    "for owners of what was not shown": ("shown", drop(C.RecordsShown), "money", False),
    "for owners, twice": ("shown", twice(C.ShowingOwed), "money", False),
    "for owners, and not credited": ("shown", say(C.DisputeCredited, amount=moved(1)), "money", False),
    "for owners, and not taken from anybody": ("shown", drop(C.ShowingOwed), "money", False),
    "more records than it has shown": ("shown", say(C.RecordsShown, count=moved(1)), "dispute", False),
    "declared void": ("honest", say(C.DisputePaid, outcome=Outcome.VOID, to_asserter=0, to_challenger=RULES.bond, burnt=0), "dispute", None),
}  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_dispute_that_was_played_by_the_rules_holds(records: dict[str, Record], name: str) -> None:
    report = audited(records[name])
    assert not [finding for sheet in report.sheets for finding in sheet.findings]
    row = next(row for row in report.rows if row.segment == DISPUTED)
    assert row.sheet.mark("dispute") == "✓"
    assert row.state == ("DRAWN" if name == "honest" else SegmentState.REJECTED.name)


@pytest.mark.parametrize("name", CASES)
def test_what_is_false_or_cannot_be_known_is_told(records: dict[str, Record], name: str) -> None:
    which, forge, check, ok = CASES[name]
    report = audited(forge(records[which]))
    assert check in told(report, ok)
    if ok is False:
        assert report.failed


def test_every_place_that_can_say_no_has_said_it(records: dict[str, Record], monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all forgeries of records, those of tests/test_audit.py too."""
    sites, whole = Sites("hand", "committee", "ends", "auditor", "disputes"), story()
    sites.watch(monkeypatch)
    for which, forge, _, _ in CASES.values():
        audited(forge(records[which]))
    for forge, _, _ in [*FORGERIES.values(), *UNKNOWN.values()]:
        Auditor(forge(whole.record), whole.job).run()
    _, record, job = taken_over()
    Auditor(entrusting(record, providers=()), job).run()
    unseen = sites.unseen()
    assert not unseen, "\n".join(unseen)
