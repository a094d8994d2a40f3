"""The disputes that forge plays (tests/vectors/games.json) are those that the state machine plays today, and they reach everything."""

from __future__ import annotations

import json
from pathlib import Path

from assay.dispute import moves
from assay.dispute.moves import Phase
from tests.vectors import games

FILE = Path(__file__).resolve().parent / "vectors" / "games.json"


def test_the_file_is_what_the_tool_writes() -> None:
    assert FILE.read_text() == games.render()


def test_every_stand_and_every_move_is_in_it() -> None:
    data = json.loads(FILE.read_text())["games"]
    made = [m for g in data for m in g["moves"] if not m["reverts"]]
    assert {m["stand"] for m in made} == {str(p) for p in Phase} - {"sealed"}
    kinds = {kind.__name__.lower() for kind in moves.Move.__subclasses__()} | {"choose"}
    assert {m["kind"] for m in made} == kinds
    assert {g["result"]["outcome"] for g in data} == {"ASSERTER_WON", "ASSERTER_LOST", "CONCEDED"}
    assert sum(m["reverts"] for g in data for m in g["moves"]) > 100
