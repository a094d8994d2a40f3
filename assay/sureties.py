"""What key services have put up for keys that they do not release, as the chain's events tell it: a fold (contract Sureties)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from assay.chain import AnyChainEvent, JobVouched, SuretyDeposited, SuretyOffered, SuretyPaid, SuretyReturned, SuretyWithdrawn
from assay.ids import Address, JobId


@dataclass
class Surety:
    """Of one key service; amounts in the token's smallest unit."""

    per_job: int = 0
    each: int = 0
    """At most for one segment."""
    notice: int = 0
    """Seconds that a job must give it to release keys."""
    free: int = 0
    behind: dict[JobId, int] = field(default_factory=dict)
    """What is left behind each job that it vouches for."""
    paid: int = 0
    """To providers, so far."""


class Sureties:
    def __init__(self) -> None:
        self.keepers: dict[Address, Surety] = {}
        self._keeper: dict[JobId, Address] = {}

    def of(self, keeper: Address) -> Surety:
        return self.keepers.setdefault(keeper, Surety())

    def feed(self, events: Iterable[AnyChainEvent]) -> None:
        for event in events:
            match event:
                case SuretyOffered():
                    one = self.of(event.keeper)
                    one.per_job, one.each, one.notice = event.per_job, event.each, event.notice
                case SuretyDeposited():
                    self.of(event.keeper).free += event.amount
                case SuretyWithdrawn():
                    self.of(event.keeper).free -= event.amount
                case JobVouched():
                    one, self._keeper[event.job] = self.of(event.keeper), event.keeper
                    one.free -= event.amount
                    one.behind[event.job] = event.amount
                case SuretyPaid() if event.job in self._keeper:
                    one = self.of(self._keeper[event.job])
                    one.behind[event.job] -= event.amount
                    one.paid += event.amount
                case SuretyReturned():
                    one = self.of(event.keeper)
                    one.free += event.amount
                    one.behind.pop(event.job, None)
                case _:
                    pass
