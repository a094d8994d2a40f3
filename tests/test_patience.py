"""A chain that does not answer for a moment ends nothing: what asks it is asked again, and a client reads anew what a chain took back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from assay import client
from assay.chain import Registered
from assay.cli.patience import through
from assay.ids import Address, PeerId
from assay.ports import Outage, Reorganised, Reverted

ALICE = Address("0x" + "a1" * 20)


class Answers:
    """Gives or raises one after another."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    async def __call__(self, *_: Any) -> Any:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_it_is_asked_again_and_told_once() -> None:
    told: list[str] = []
    assert asyncio.run(through(Answers(Outage("gone"), Outage("still gone"), 7), told.append, again=0.0)) == 7
    assert told == ["the chain does not answer (gone); waiting for it"]


def test_what_the_contract_refuses_is_not_asked_again() -> None:
    answers = Answers(Outage("gone"), Reverted("no"), 7)
    with pytest.raises(Reverted, match="no"):
        asyncio.run(through(answers, lambda text: None, again=0.0))
    assert answers.answers == [7]


def test_a_client_reads_anew_what_the_chain_took_back() -> None:
    events = [Registered(block=n, index=0, time=n, who=ALICE, encryption_key=bytes(32), peer=PeerId(f"peer-{n}")) for n in range(3)]
    asked: list[tuple[int, int]] = []
    answers = Answers(events[:2], Outage("gone"), Reorganised("block 1 was replaced"), events[2:])

    class Chain:
        async def events(self, after: tuple[int, int], depth: int) -> Any:
            asked.append(after)
            return await answers()

    async def scene() -> list[list[Any]]:
        found = []
        async for _, fresh in client.follow(Chain(), lambda seconds: asyncio.sleep(0), 1):  # type: ignore[arg-type]
            found.append(fresh)
            if len(found) == 2:
                return found
        return found

    assert asyncio.run(scene()) == [events[:2], events[2:]]
    assert asked == [(-1, -1), (1, 0), (1, 0), (-1, -1)]
