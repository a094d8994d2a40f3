"""What a key service has put up, in the simulated network: owners that are paid and keep keys back, and providers that would like to have them
look as if they did. All machines are the real ones, and claim, object and show by themselves."""

from __future__ import annotations

from typing import Any

from assay.chain import CheckpointContested, CheckpointKeyShown, DepositSurety, JobVouched, OfferSurety, SuretyPaid, SuretyReturned, Unpaid
from assay.sim import Options, World
from assay.sim.cast import Part
from tests.liars import key_services, workers
from tests.test_sim import PRICE, Run, play

EACH, PER_JOB = PRICE * 2 // 5, PRICE * 7 // 10
"""A segment of one step costs half of PRICE."""
OPTIONS = Options(steps=2, segment_steps=1, workers=1, verifiers=3, deadline=900)


class Covered(World):
    """Its key services have put something up for each job."""

    def _enrol(self, name: str, role: str) -> None:
        super()._enrol(name, role)
        if role == "keyservice":
            account = self.ledger.account(name, tokens=2 * PER_JOB)
            self.ledger.apply(account, OfferSurety(per_job=PER_JOB, each=EACH, notice=1))
            self.ledger.apply(account, DepositSurety(amount=2 * PER_JOB))


def covered(cast: dict[str, Part] | None = None) -> Run:
    return play(OPTIONS, cast=cast, world=Covered)


def events(found: Run, kind: type[Any]) -> list[Any]:
    return [event for event in found.world.ledger.events((-1, -1), 0) if isinstance(event, kind)]


def test_an_owner_that_keeps_keys_back_pays_the_provider_for_its_work() -> None:
    found = covered({"keyservice": key_services.WITHHOLDS_FROM_VERIFIERS})
    withheld = [event for event in events(found, Unpaid) if event.reason == "keys withheld"]
    paid = events(found, SuretyPaid)
    worker = found.world.nodes["worker-0"].account
    assert withheld
    assert [event.amount for event in paid] == [EACH, PER_JOB - EACH][: len(paid)]
    assert {event.provider for event in paid} == {worker}
    assert sum(event.amount for event in paid) == min(PER_JOB, EACH * len(withheld))


def test_an_owner_that_says_falsely_that_the_envelope_is_broken_pays_as_well() -> None:
    found = covered({"keyservice": key_services.SLANDERS})
    assert events(found, CheckpointContested)
    assert {event.segment for event in events(found, CheckpointKeyShown)} >= {event.segment for event in events(found, SuretyPaid)}
    assert sum(event.amount for event in events(found, SuretyPaid)) == PER_JOB


def test_a_provider_whose_envelope_is_broken_has_its_key_shown_and_is_checked() -> None:
    """Its key service objects and has the key by that; whoever would not show it is not paid (`ports/test_sureties.py`)."""
    found = covered({"worker": workers.FORGES_ITS_ENVELOPE})
    assert events(found, CheckpointContested)
    assert not events(found, SuretyPaid)
    assert "settled" in found.report.outcomes


def test_what_an_honest_key_service_puts_up_comes_back() -> None:
    found = covered()
    assert len(events(found, JobVouched)) == 1
    assert not events(found, SuretyPaid)
    service = found.world.nodes["keyservice-0"].account

    def back() -> bool:
        return bool(events(found, SuretyReturned))

    assert back() or found.world.run(until=back)
    assert found.world.ledger.sureties.offered[service].free == 2 * PER_JOB
