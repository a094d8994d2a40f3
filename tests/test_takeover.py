"""A scheduler dies: others go on from the chain and from blobs alone, and cannot fill the job with their friends where its client has listed whom
they may take."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from assay.adapters.memory_chain import MemoryChain, MemoryLedger
from assay.adapters.memory_record import read_record
from assay.adapters.memory_takeovers import TAKEOVERS
from assay.audit.auditor import Auditor
from assay.audit.record import Record
from assay.chain import Assigned, Entrust, Entrusted, SegmentState, Terms
from assay.cli.common import Trouble
from assay.cli.successors import successors, successors_of
from assay.ids import Address, Digest, JobId, SegmentId
from assay.messages import JobAnnouncement
from assay.receipts import Ledger, Segment
from assay.sim import Options, World
from assay.sim.cast import HONEST, SCHEDULER, WORKER, Part, Self, worker_config
from assay.sim.report import report
from assay.successors import reliable
from assay_scheduler import placing
from assay_scheduler.books import Config
from assay_scheduler.machine import SchedulerMachine
from assay_scheduler.placement import Bid, Left, Scored, Wanted, rank
from assay_worker.machine import WorkerMachine
from tests.audited import check_audit

OPTIONS = Options(steps=6, segment_steps=2, workers=3, verifiers=4, schedulers=3)
FRIEND = "worker-2"


class Entrusting(World):
    """The client lists workers 0 and 1 before it posts; its scheduler is scheduler-0."""

    def _publish(self, number: int) -> Terms:
        terms = super()._publish(number)
        listed = tuple(self.nodes[name].account for name in ("worker-0", "worker-1"))
        patience = terms.params.takeover_window
        call = Entrust(spec_digest=terms.spec_digest, scheduler=terms.scheduler, patience=patience, providers=listed)
        self.client_calls(f"entrust:{number}", call)
        params = msgspec.structs.replace(terms.params, takeover_window=7 * 86_400)
        return msgspec.structs.replace(terms, scheduler=TAKEOVERS, params=params)


def end_root(world: World) -> Digest | None:
    last = world.receipts.last_good(world.posted[0])
    return last.end_root if last is not None else None


def assignments(world: World) -> list[tuple[str, str]]:
    """(scheduler, provider) of every segment."""
    origins, name = world.ledger.origins, world.name_of
    return [(name(origins[e.block, e.index][0]), name(e.provider)) for e in world.ledger.events() if isinstance(e, Assigned)]


def finish(world: World) -> None:
    finished = world.run()
    found = report(world, finished, 0.0)
    assert found.problems == []
    assert world.receipts.finished(world.posted[0])
    check_audit(world.ledger)


@pytest.fixture(scope="module")
def calm() -> Digest | None:
    world = World(msgspec.structs.replace(OPTIONS, schedulers=1), 3)
    finish(world)
    return end_root(world)


@pytest.mark.parametrize("kind", [World, Entrusting])
def test_a_scheduler_with_an_empty_disk_takes_over_and_the_job_ends_in_the_same_state(kind: type[World], calm: Digest | None) -> None:
    """scheduler-0 is killed for good in the middle; scheduler-1 was not there before, and has the chain and what others serve; there is no other."""
    world = kind(OPTIONS, 3)
    first, second, third = world.of_role[SCHEDULER]
    world.clock.after(0.6, second.kill)
    world.clock.after(0.6, third.kill)
    world.clock.after(10.0, lambda: first.kill(wipe=True))
    world.clock.after(20.0, lambda: (second.kill(wipe=True), second.boot()))
    finish(world)
    assert end_root(world) == calm
    by = [scheduler for scheduler, _ in assignments(world)]
    assert by[0] == "scheduler-0"
    assert set(by[1:]) <= {"scheduler-0", "scheduler-1"}
    assert by[-1] == "scheduler-1"


class FillsWithFriends(SchedulerMachine):
    """Takes its friend's offer whenever it has one, and tells the contract that it was listed."""

    friend = Address("")

    def _on_entrusted(self, event: Any, now: int) -> Any:
        return super()._on_entrusted(msgspec.structs.replace(event, providers=(*event.providers, self.friend)), now)


class OffersAnybody(WorkerMachine):
    """A friend: it offers to whoever announces."""

    def _may_schedule(self, a: JobAnnouncement) -> bool:
        return True


def friendly(bids: Sequence[Bid], records: Mapping[str, Any], wanted: Wanted) -> tuple[list[Scored], list[Left]]:
    ranked, left = rank(bids, records, wanted)
    return sorted(ranked, key=lambda scored: scored.bid.offer.provider != FillsWithFriends.friend), left


@pytest.mark.parametrize("kind", [World, Entrusting])
def test_a_scheduler_that_takes_over_has_the_client_s_list_alone(
    kind: type[World], calm: Digest | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """scheduler-1 gives everything to worker-2; the contract does not let it where the client has listed others, and an honest one, back later, ends
    the job."""

    def part(me: Self) -> SchedulerMachine:
        return FillsWithFriends(Config(account=me.account, peer=me.peer))

    friend = Part(lambda me: OffersAnybody(worker_config(me)), HONEST[WORKER].hands)
    world = kind(OPTIONS, 3, {"scheduler-1": Part(part, HONEST[SCHEDULER].hands), FRIEND: friend})
    FillsWithFriends.friend = world.nodes[FRIEND].account
    plain = SchedulerMachine._assign

    def assign(machine: SchedulerMachine, *given: Any) -> Any:
        with monkeypatch.context() as patched:
            if isinstance(machine, FillsWithFriends):
                patched.setattr(placing, "rank", friendly)
            return plain(machine, *given)

    monkeypatch.setattr(SchedulerMachine, "_assign", assign)
    honest = world.nodes["scheduler-2"]
    world.clock.after(0.6, honest.kill)
    world.clock.after(1200.0, honest.boot)
    world.clock.after(10.0, lambda: world.nodes["scheduler-0"].kill(wipe=True))
    finish(world)
    assert end_root(world) == calm
    after = [(who, provider) for who, provider in assignments(world) if who != "scheduler-0"]
    assert after
    if kind is Entrusting:
        assert {who for who, _ in after} == {"scheduler-2"}
        assert {provider for _, provider in after} <= {"worker-0", "worker-1"}
        refused = [note.text for _, name, note in world.log if name == "scheduler-1" and note.topic == "refused"]
        assert any("WrongProviders" in text for text in refused)
    else:
        assert set(after) == {("scheduler-1", FRIEND)}


def taken_over() -> tuple[World, Record, JobId]:
    """A job whose scheduler falls silent, and what the chain says of it."""
    world = Entrusting(OPTIONS, 3)
    world.clock.after(10.0, lambda: world.nodes["scheduler-0"].kill(wipe=True))
    finish(world)
    (job,) = world.posted
    return world, read_record(MemoryChain(world.ledger, "auditor"), job), job


def entrusting(record: Record, **changed: Any) -> Record:
    """The chain says that the client entrusted others than it did."""
    entries = tuple(
        entry._replace(event=msgspec.structs.replace(entry.event, **changed)) if isinstance(entry.event, Entrusted) else entry
        for entry in record.entries
    )
    return record._replace(entries=entries)


def test_an_audit_finds_who_was_not_entitled_to_take_over() -> None:
    """A right takeover is a wrong one where the chain says that others were entrusted."""
    world, record, job = taken_over()

    def told(**changed: Any) -> list[str]:
        report = Auditor(entrusting(record, **changed), job).run()
        return [f"{finding.check}: {finding.text}" for row in report.rows for finding in row.sheet.findings]

    assert told() == []
    nobody = told(providers=())
    assert nobody
    assert all(text.startswith("range: ") and "s after the range opened; entrusted was" in text for text in nobody)
    assert told(patience=7 * 86_400) == nobody
    assert len(told(scheduler=Address("0x" + "9" * 40), patience=7 * 86_400)) == len(assignments(world)) > len(nobody)


def test_a_client_lists_who_has_settled_and_was_never_refuted() -> None:
    ledger = Ledger()
    ends = "1 SETTLED, 2 SETTLED, 2 SETTLED, 3 SETTLED, 3 WITHHELD, 4 LAPSED, 5 SETTLED, 5 LAPSED"
    for number, (who, end) in enumerate((each.split() for each in ends.split(", ")), 1):
        segment = Segment(SegmentId(number), JobId(1), SegmentId(0), Address("0x" + who * 40), 0, 1, 1)
        segment.state = SegmentState[end]
        ledger.segments[segment.number] = segment
    assert reliable(ledger) == tuple(Address("0x" + who * 40) for who in "215")
    assert reliable(ledger, 1) == (Address("0x" + "2" * 40),)


TWO = ("0x" + "1" * 40, "0x" + "2" * 40)


@pytest.mark.parametrize(("said", "meant"), [(None, None), (["anybody"], None), (["reliable"], ()), ([*TWO], TWO)])
def test_what_a_client_may_say_of_takeovers(said: list[str] | None, meant: tuple[str, ...] | None) -> None:
    assert successors(said) == meant


def test_what_it_may_not_say() -> None:
    with pytest.raises(Trouble, match="with anybody, with reliable providers, or with those that are named"):
        successors(["reliable", "0x" + "1" * 40])

    async def asked(*named: str, contract: str = TAKEOVERS) -> dict[str, Any]:
        chain = MemoryChain(MemoryLedger(), "client")
        chain.takeovers = Address(contract)
        return await successors_of(SimpleNamespace(chain=chain, depth=0), named)

    assert asyncio.run(asked("0x" + "1" * 40)) == {"takeovers": TAKEOVERS, "successors": ("0x" + "1" * 40,)}
    for named, contract, why in (((), TAKEOVERS, "nobody can be listed"), (("0x1",), TAKEOVERS, "malformed"), ((), "", "no contract for takeovers")):
        with pytest.raises(Trouble, match=why):
            asyncio.run(asked(*named, contract=contract))
