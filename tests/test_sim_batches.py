"""Seals and votes of a committee in one transaction, in the simulated network: who brings them, and what nobody can do by not bringing them.

What is asserted is what the chain says: which calls were made by whom, who was paid, who was fined.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from assay.chain import Attest, Batch, Params, RevealAll, SegmentState, Settle
from assay.merkle import sha256
from assay.messages import Ack, SealMessage, VoteMessage
from assay.runtime import AnyEffect, AnyEvent, Ask, Asked, Reply, Send
from assay.sim import Options, World
from assay.sim.cast import Part, Self, honest_hands, verifier_config, worker_config
from assay.sim.report import report
from assay_verifier.machine import VerifierMachine
from assay_worker.machine import WorkerMachine
from tests.audited import check_audit

SMALL = Options(steps=2, segment_steps=1, workers=1, verifiers=3)
FEE = 50_000
PRICE = 500_000
"""Of a segment of one step: half the cap."""


class KeepsToItself(WorkerMachine):
    """Takes what verifiers hand over, says so, and brings none of it, or not the votes, or nothing of the first verifier."""

    def __init__(self, me: Self, keeps: Callable[[AnyEvent], bool]) -> None:
        super().__init__(worker_config(me))
        self.keeps = keeps

    def handle(self, event: AnyEvent, now: int, seed: bytes) -> list[AnyEffect]:
        if isinstance(event, Asked) and self.keeps(event):
            return [Reply(ask=event.ask, message=Ack())]
        return super().handle(event, now, seed)


def keeping(keeps: Callable[[Asked], bool]) -> Part:
    return Part(lambda me: KeepsToItself(me, keeps), honest_hands)  # type: ignore[arg-type]


class HandsOverJunk(VerifierMachine):
    """What it hands over is spoilt, so that the provider's call be refused; what it sends itself is right."""

    def __init__(self, me: Self, seal: bytes, leaf: bytes) -> None:
        super().__init__(verifier_config(me))
        self.seal, self.leaf = seal, leaf

    def handle(self, event: AnyEvent, now: int, seed: bytes) -> list[AnyEffect]:
        return [self._spoilt(effect) for effect in super().handle(event, now, seed)]

    def _spoilt(self, effect: AnyEffect) -> AnyEffect:
        if not isinstance(effect, Ask):
            return effect
        message = effect.message
        if isinstance(message, SealMessage) and self.seal:
            message = msgspec.structs.replace(message, signature=self.seal)
        elif isinstance(message, VoteMessage) and self.leaf:
            opened = tuple(msgspec.structs.replace(opening, leaf=self.leaf) for opening in message.vote.openings)
            message = msgspec.structs.replace(message, vote=msgspec.structs.replace(message.vote, openings=opened))
        return msgspec.structs.replace(effect, message=message)


def played(cast: dict[str, Part], seed: int = 3) -> World:
    """A job of two segments to its end; everybody is paid, nobody is fined."""
    world = World(SMALL, seed, cast)
    finished = world.run()
    found = report(world, finished, 0.0)
    assert found.problems == [], f"seed {seed}"
    assert found.outcomes == {"settled": 2}
    assert found.paid["worker-0"] == 2 * PRICE
    assert [found.paid[f"verifier-{i}"] for i in range(3)] == [2 * FEE] * 3
    assert not [check for seg in world.ledger.jobs.segments.values() for checks in seg.rounds for check in checks if not check.prevailed]
    assert {seg.state for seg in world.ledger.jobs.segments.values()} == {SegmentState.SETTLED}
    check_audit(world.ledger)
    return world


def calls(world: World, kind: type[Attest] | type[RevealAll]) -> list[tuple[str, int]]:
    """(who sent it, how many seals or votes) of each such call, alone in its transaction or with that of another segment."""
    seen = dict.fromkeys((sender, block, repr(call)) for (block, _), (sender, call) in world.ledger.origins.items())
    by_call = {(sender, block, repr(call)): call for (block, _), (sender, call) in world.ledger.origins.items()}
    out = []
    for key in seen:
        call = by_call[key]
        parts = [part for part in (call.calls if isinstance(call, Batch) else (call,)) if isinstance(part, kind)]
        out += [(world.name_of(key[0]), len(part.seals if isinstance(part, Attest) else part.reveals)) for part in parts]
    return out


def test_a_provider_brings_all_seals_in_one_call_and_all_votes_in_one() -> None:
    world = played({})
    assert calls(world, Attest) == [("worker-0", 3)] * 2
    assert calls(world, RevealAll) == [("worker-0", 3)] * 2


def test_a_provider_that_brings_nothing_costs_its_verifiers_gas_and_nobody_else_anything() -> None:
    world = played({"worker-0": keeping(lambda event: isinstance(event.message, SealMessage | VoteMessage))})
    assert sorted(calls(world, Attest)) == sorted([(f"verifier-{i}", 1) for i in range(3)] * 2)
    assert sorted(calls(world, RevealAll)) == sorted([(f"verifier-{i}", 1) for i in range(3)] * 2)


def test_a_provider_that_brings_the_seals_and_dies_before_the_votes() -> None:
    """Of the seals the contract has one hash: each verifier spreads them, and shows its vote alone."""
    world = played({"worker-0": keeping(lambda event: isinstance(event.message, VoteMessage))})
    assert calls(world, Attest) == [("worker-0", 3)] * 2
    assert sorted(calls(world, RevealAll)) == sorted([(f"verifier-{i}", 1) for i in range(3)] * 2)


@pytest.mark.parametrize("left_out", [SealMessage, VoteMessage])
def test_a_provider_that_leaves_one_verifier_out(left_out: type[SealMessage] | type[VoteMessage]) -> None:
    """It sends what is its own, in time; nobody is fined and all are paid."""
    victim: list[str] = []

    def keeps(event: Asked) -> bool:
        if isinstance(event.message, left_out) and not victim:
            victim.append(event.peer)
        return isinstance(event.message, left_out) and event.peer in victim

    world = played({"worker-0": keeping(keeps)})
    kind: type[Attest] | type[RevealAll] = Attest if left_out is SealMessage else RevealAll
    assert sorted(count for _, count in calls(world, kind)) == [1, 1, 2, 2]


@pytest.mark.parametrize(("seal", "leaf"), [(b"junk", b""), (b"", sha256(b"junk")), (b"s" * 65, b""), (b"x" * 1000, b"short")])
def test_junk_that_a_verifier_hands_over_spoils_nobodys_call(seal: bytes, leaf: bytes) -> None:
    world = played({"verifier-1": Part(lambda me: HandsOverJunk(me, seal, leaf), honest_hands)})
    if seal:
        assert sorted(calls(world, Attest)) == [("verifier-1", 1)] * 2 + [("worker-0", 2)] * 2
    if leaf:
        assert sorted(calls(world, RevealAll)) == [("verifier-1", 1)] * 2 + [("worker-0", 2)] * 2


# ---- several segments in one transaction -------------------------------------------------------------------------------------

LONG = Params(verifiers=3, quorum=2)
"""The windows that jobs come with: an hour for challenges, half an hour for seals, ten minutes for votes."""


def shared(options: Options, cast: dict[str, Part] | None = None) -> dict[str, list[tuple[str, int]]]:
    """By kind of call: who sent each transaction that has such calls, and of how many segments."""
    world = World(msgspec.structs.replace(options, deadline=10**6, patience=1e6), 3, cast)
    found = report(world, world.run(), 0.0)
    assert found.problems == []
    assert set(found.outcomes) == {"settled"}
    check_audit(world.ledger)
    sent: dict[str, set[tuple[str, int, tuple[Any, ...]]]] = {"Attest": set(), "RevealAll": set(), "Settle": set()}
    for (block, _), (sender, call) in world.ledger.origins.items():
        parts = call.calls if isinstance(call, Batch) else (call,)
        for kind, seen in sent.items():
            if segments := tuple(part.segment for part in parts if type(part).__name__ == kind):  # type: ignore[union-attr]
                seen.add((world.name_of(sender), block, segments))
    return {kind: [(who, len(segments)) for who, _, segments in sorted(seen, key=lambda s: s[1])] for kind, seen in sent.items()}


@pytest.mark.parametrize(("jobs", "depth"), [(1, 8), (4, 2)])
def test_segments_that_are_ripe_in_the_same_beats_share_their_transactions(jobs: int, depth: int) -> None:
    """Eight segments of ten seconds: three transactions, where each would have three of its own."""
    params = msgspec.structs.replace(LONG, depth=depth)
    options = Options(jobs=jobs, every=5, steps=16 // jobs, segment_steps=2, step_seconds=5, workers=1, verifiers=6, params=params)
    assert shared(options) == {key: [("worker-0", 8)] for key in ("Attest", "RevealAll", "Settle")}


def test_votes_of_segments_whose_seals_went_together_go_together() -> None:
    """Segments of a minute: seals wait for beats of four minutes, and are not sent with what waits for the shorter ones of votes."""
    params = msgspec.structs.replace(LONG, depth=8)
    sent = shared(Options(steps=16, segment_steps=2, step_seconds=30, workers=1, verifiers=6, params=params))
    assert sent["Attest"] == sent["RevealAll"] == sent["Settle"]
    assert [count for _, count in sent["Attest"]] == [2, 4, 2]


def test_a_job_of_two_unsettled_segments_shares_between_two() -> None:
    sent = shared(Options(steps=16, segment_steps=2, step_seconds=5, workers=1, verifiers=6, params=LONG))
    assert sent == dict.fromkeys(("Attest", "RevealAll", "Settle"), [("worker-0", 2)] * 4)


class NeverSettles(WorkerMachine):
    def handle(self, event: AnyEvent, now: int, seed: bytes) -> list[AnyEffect]:
        effects = super().handle(event, now, seed)
        return [e for e in effects if not (isinstance(e, Send) and isinstance(e.call, Settle | Batch))]


def test_a_provider_that_does_not_settle_is_settled_for() -> None:
    """By its scheduler, a beat later; so are those that it had left to a call which was never sent."""
    never = Part(lambda me: NeverSettles(worker_config(me)), honest_hands)
    sent = shared(Options(steps=4, segment_steps=2, workers=1, verifiers=3, params=LONG), {"worker-0": never})
    assert sent["Settle"] == [("scheduler-0", 1)] * 2
