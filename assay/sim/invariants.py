"""What must hold of a simulated network at every moment, whatever goes wrong in it; `Broken` ends the run where it does not.

    money     as many tokens as were made; what Jobs holds is what it owes (escrows, live segments, credits), what Stakes holds is the stakes
    bonds     nothing is reserved for a segment that was settled, voided or has lapsed, nor long after the window of an unpaid one
    honesty   nobody who keeps the protocol is slashed, and what it was paid for is the result of an undisturbed run: so a job that is
              finished ends in the same state, whatever happened on the way
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay.adapters.memory_stakes import JOBS, STAKES
from assay.chain import TERMINAL, AnyChainEvent, SegmentState, Settled, Slashed
from assay.ids import SegmentId
from assay.sim.hands import decode_toy
from assay.sim.toy import root

if TYPE_CHECKING:
    from assay.sim.world import World

FREED_AT_ONCE = (SegmentState.SETTLED, SegmentState.LAPSED, SegmentState.VOID)
PATIENCE = 3600
"""Seconds after its window in which the bond of an unpaid segment must have been asked back by a provider that is up."""


class Broken(Exception):
    """A rule of the network does not hold; the message says which and when."""


class Invariants:
    def __init__(self, world: World) -> None:
        self.world = world
        self.checked = 0
        """How often all money was counted."""
        self._live: set[SegmentId] = set()
        self._known = 0

    def _broken(self, what: str) -> Broken:
        return Broken(f"seed {self.world.seed}, after {self.world.clock.now:.0f} s: {what}")

    def see(self, event: AnyChainEvent) -> None:
        """Raises Broken."""
        if isinstance(event, Slashed) and event.who not in self.world.liars:
            raise self._broken(f"{self.world.name_of(event.who)}, which is honest, was slashed {event.amount} for segment {event.segment}")
        if isinstance(event, Settled) and event.provider not in self.world.liars and not honest(self.world, event.segment):
            raise self._broken(f"segment {event.segment} of {self.world.name_of(event.provider)}, which is honest, settled in another state")

    def count(self) -> None:
        """Counts all money and looks at all bonds. Raises Broken."""
        ledger = self.world.ledger
        self.checked += 1
        jobs, stakes, balances = ledger.jobs, ledger.stakes, ledger.token.balance
        if (now := sum(balances.values())) != self.world.minted:
            raise self._broken(f"there were {self.world.minted} tokens, now there are {now}")
        self._live |= {SegmentId(number) for number in range(self._known + 1, len(jobs.segments) + 1)}
        self._known = len(jobs.segments)
        self._live = {number for number in self._live if number in jobs.segments and jobs.segments[number].state not in TERMINAL}
        owed = sum(job.escrow for job in jobs.jobs.values()) + sum(jobs.credit.values())
        owed += sum(jobs.segments[number].price for number in self._live)
        owed += sum(segment.fees_held for segment in jobs.segments.values())  # kept for noes that a dispute may yet bear out, too
        if owed != balances.get(JOBS, 0):
            raise self._broken(f"the contract holds {balances.get(JOBS, 0)} and owes {owed}")
        staked = sum(account.stake for account in stakes.accounts.values())
        if staked != balances.get(STAKES, 0):
            raise self._broken(f"the stakes add up to {staked}, the contract holds {balances.get(STAKES, 0)}")
        for (who, number), amount in stakes.reservations.items():
            seg = jobs.segments.get(number)
            if seg is None or not amount:
                continue
            overdue = seg.state == SegmentState.UNPAID and ledger.head.time > seg.settle_after + PATIENCE and self.world.is_up(who)
            if seg.state in FREED_AT_ONCE or overdue:
                raise self._broken(f"{amount} of {self.world.name_of(who)} are stuck in segment {number}, which is {seg.state.name.lower()}")


def honest(world: World, number: SegmentId) -> bool:
    """Whether every link of a committed segment follows from the one before."""
    segment = world.ledger.jobs.segments[number]
    terms = world.receipts.jobs[segment.job].terms
    spec = world.specs[segment.job]
    start = world.ledger.jobs.segments[segment.parent].end_root if segment.parent else terms.state_root
    toy = decode_toy(world.store[spec.program])
    ends = [link.end for link in toy.links(segment.start, segment.stop, start)]
    return root(ends) == segment.link_root
