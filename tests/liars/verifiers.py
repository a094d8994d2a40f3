"""Verifiers that want the fee without the check, or wish somebody ill."""

from __future__ import annotations

import msgspec

from assay import merkle
from assay.chain import Attest, Drawn, Sealed, Served
from assay.facts import SegmentFacts
from assay.merkle import sha256
from assay.runtime import AnyEffect, AnyEvent, ChainSeen, Fault, Result, Send, TaskFailed
from assay.sim.cast import Part, Self, honest_hands, verifier_config
from assay.sim.hands import Hands
from assay.tasks import MakeOpenings, OpeningsMade, ReplayUnit, UnitReplayed
from assay_verifier.machine import VerifierMachine
from assay_verifier.state import Duty, UnitDuty


def honest_machine(me: Self) -> VerifierMachine:
    return VerifierMachine(verifier_config(me))


class SaysTheOpposite(Hands):
    """Replays, and then says the opposite of what it found."""

    def replay_unit(self, task: ReplayUnit) -> UnitReplayed:
        found = super().replay_unit(task)
        return msgspec.structs.replace(found, agrees=not found.agrees, reason="because" if found.agrees else "")


class SaysYes(Hands):
    """Replays nothing: agrees with a trace root that it made up, and can open."""

    def replay_unit(self, task: ReplayUnit) -> UnitReplayed:
        found = super().replay_unit(task)
        trace = [sha256(b"made up", item) for item in self.disk["trace", task.segment, task.unit]]
        self.disk["trace", task.segment, task.unit] = trace
        return msgspec.structs.replace(found, agrees=True, reason="", trace_root=merkle.root_of(trace))


class WasTold(Hands):
    """Was told the trace root by a friend, so it has no trace to open."""

    def make_openings(self, task: MakeOpenings) -> OpeningsMade:
        raise TaskFailed(Fault.PEER, "there is no trace here")


class CopiesSeals(VerifierMachine):
    """Waits until another has sealed, and seals the same: it is in the other's transaction for anyone to read."""

    def __init__(self, me: Self) -> None:
        super().__init__(verifier_config(me))
        self._ledger = me.chain.ledger
        self._own: dict[int, Send] = {}

    def _hand_seal(self, duty: Duty, seg: SegmentFacts) -> None:
        assert duty.reveal is not None
        call = self._seal(duty.segment, duty.round, duty.reveal)
        self._own[duty.segment] = Send(key=f"seal:{duty.segment}:{duty.round}", call=call)

    def handle(self, event: AnyEvent, now: int, seed: bytes) -> list[AnyEffect]:
        effects = super().handle(event, now, seed)
        if isinstance(event, ChainSeen) and isinstance(event.event, Sealed) and event.event.segment in self._own:
            effects.append(self._copy(self._own.pop(event.event.segment), event.event.verifier))
        return effects

    def _copy(self, own: Send, other: str) -> Send:
        assert isinstance(own.call, Attest)
        checks = self._ledger.jobs.segments[own.call.segment].checks
        digest = next(check.digest for check in checks if check.verifier == other)
        assert digest is not None
        seal = msgspec.structs.replace(own.call.seals[0], digest=digest)
        return msgspec.structs.replace(own, call=msgspec.structs.replace(own.call, seals=(seal,)))


class Sleeps(VerifierMachine):
    """Is drawn and does nothing."""

    wakes_for: tuple[type, ...] = ()

    def __init__(self, me: Self) -> None:
        super().__init__(verifier_config(me))
        self.asleep = False

    def handle(self, event: AnyEvent, now: int, seed: bytes) -> list[AnyEffect]:
        seen = event.event if isinstance(event, ChainSeen) else None
        self.asleep = self.asleep or self.falls_asleep(seen)
        return [] if self.asleep else super().handle(event, now, seed)

    def falls_asleep(self, seen: object) -> bool:
        return isinstance(seen, Drawn) and self.config.account in seen.verifiers


class SleepsAfterReceipt(Sleeps):
    """Takes the boundaries, gives its receipt, and is not heard of again."""

    def falls_asleep(self, seen: object) -> bool:
        return isinstance(seen, Served) and seen.segment in self.state.duties


class Denies(VerifierMachine):
    """Has been served, and says nothing of it: gives no receipt, and no vote either."""

    def _on_sign(self, event: Result, rest: list[str]) -> None:
        return

    def _maybe_seal(self, duty: Duty, seg: SegmentFacts) -> None:
        return


class DeniesAndSaysNo(VerifierMachine):
    """Looks at nothing that it is served, and says so: no receipt, and a no when its provider has shown a chunk."""

    def _maybe_open(self, duty: Duty, unit: UnitDuty, rest: list[str]) -> None:
        return


def with_hands(kind: type[Hands]) -> Part:
    return Part(honest_machine, lambda me: kind(me.chain, me.keys, me.options))


SAYS_THE_OPPOSITE = with_hands(SaysTheOpposite)
SAYS_YES = with_hands(SaysYes)
WAS_TOLD = with_hands(WasTold)
COPIES_SEALS = Part(CopiesSeals, honest_hands)
DENIES = Part(lambda me: Denies(verifier_config(me)), honest_hands)
DENIES_AND_SAYS_NO = Part(lambda me: DeniesAndSaysNo(verifier_config(me)), honest_hands)
SLEEPS = Part(Sleeps, honest_hands)
SLEEPS_AFTER_RECEIPT = Part(SleepsAfterReceipt, honest_hands)
