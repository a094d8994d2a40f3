"""Disputes drawn: those of tests/vectors/games.json, read from the file as a stranger would read them from the chain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
import pytest

from assay.dispute import game, moves
from assay.dispute.checks import IllegalMove
from assay.dispute.drawing import Drawing, draw, lines, number
from assay.dispute.moves import AnyMove, Facts, Moment
from assay.dispute.players import BEGIN

GAMES = {g["name"]: g for g in json.loads((Path(__file__).parent / "vectors" / "games.json").read_text())["games"]}
KINDS = {kind.__name__.lower(): kind for kind in get_args(AnyMove)} | {"choose": moves.Pick}
SEALED = "a verifier that says no is no target"
"""Its seal is never opened."""


def read(hint: Any, value: Any) -> Any:
    """A field of a move or of the facts, as the file has it."""
    hint = getattr(hint, "__supertype__", hint)
    if value is None:
        return None
    if get_origin(hint) is tuple:
        return tuple(read(get_args(hint)[0], item) for item in value)
    kinds = [kind for kind in get_args(hint) if kind is not type(None)] or [hint]
    if hint is not str and isinstance(kinds[0], type) and issubclass(kinds[0], msgspec.Struct):
        hints = get_type_hints(kinds[0])
        return kinds[0](**{name: read(hints[name], value[name]) for name in kinds[0].__struct_fields__})
    return bytes.fromhex(value[2:]) if hint is bytes else kinds[0](value)


def record(name: str) -> tuple[Facts, list[tuple[AnyMove, Moment]]]:
    told = GAMES[name]
    made = [m for m in told["moves"] if not m["reverts"]]
    return read(Facts, told["facts"]), [(read(KINDS[m["kind"]], m), Moment(m["block"], m["time"])) for m in made]


def drawn(name: str, until: int | None = None) -> Drawing:
    facts, made = record(name)
    opening = next((move for move, _ in made if isinstance(move, moves.Open)), None)
    digest = game.seal_digest(facts, opening) if opening else moves.Digest(bytes(32))
    return draw(facts, digest, BEGIN, made[:until])


@pytest.mark.parametrize("name", GAMES)
def test_every_game_is_drawn_to_its_end(name: str) -> None:
    drawing, told = drawn(name), GAMES[name]
    assert len(drawing.steps) == sum(not move["reverts"] for move in told["moves"])
    assert drawing.reason == told["result"]["reason"]
    paid = {amount for line in drawing.pays for amount in map(int, [word for word in line.replace(",", "").split() if word.isdigit()])}
    assert {told["result"][name] for name in ("slashed", "burnt", "challenger", "asserter")} - {0} <= paid
    assert all((step.told and not step.told.islower()) or " " in step.told or step.move == "Concede" for step in drawing.steps)
    assert len(lines(drawing)) == 2 + len(drawing.steps) + sum(len(step.values) for step in drawing.steps) + len(drawing.pays) + len(drawing.descents)


@pytest.mark.parametrize("name", GAMES)
def test_a_game_that_is_under_way_says_who_has_to_move(name: str) -> None:
    for until in range(len(drawn(name).steps)):
        drawing = drawn(name, until)
        assert drawing.outcome == drawing.reason == ""
        assert drawing.awaits.startswith(("the asserter has to move", "the challenger has to move"))


def test_a_wrong_product_is_drawn_down_to_its_operands() -> None:
    text = "\n".join(lines(drawn("one bit of a product of elements")))
    for part in (
        "disputes the provider's link 1 (step 1, micro-batch 1)", "leaf 13 of 47: stage 12", "mul(f32[24, 64], f32[64]) -> f32[24, 64]",
        "names element 700", "operand 1, stage 10 f32[64], element 60 = -0.710069418 (0xbf35c71c)", "as asserted = -0.104001649 (0xbdd4fed1)",
        "as it follows = -0.0727516487 (0xbd94fed1)", "the challenger has won: element 700 of mul is wrong", "loses 1001 of its bond of 1001",
    ):  # fmt: skip
        assert part in text, part


def test_what_is_drawn_as_following_follows() -> None:
    """The two last values of an element that decides are its bits as asserted and by the numbers of its operands."""
    step = drawn("one bit of a product of elements").steps[-1]
    x, y, asserted, right = (msgspec.structs.astuple(value)[2] for value in step.values)
    import numpy as np

    factors = np.array([x, y], np.uint32).view(np.float32)
    assert int((factors[0] * factors[1]).view(np.uint32)) == right != asserted


def test_a_matrix_product_is_drawn_down_to_one_item() -> None:
    drawing = drawn("a matrix product whose totals are made to fit")
    assert [step.phase for step in drawing.steps][-3:] == ["element", "pick", "range"]
    last = drawing.steps[-1]
    assert "item 63 of fold 2 of matmul" in last.told
    assert "state param.out" in last.values[1].what
    assert [step.level for step in drawing.steps] == sorted(step.level for step in drawing.steps)  # ever further down


def test_it_is_told_what_was_opened_on_chain_and_what_was_served_off_it() -> None:
    def told(name: str) -> list[str]:
        return [descent.text for descent in drawn(name).descents]

    assert told("one bit of a product of elements") == [
        "the trace: 6 levels opened on chain, 0 served off chain",
        "the tensor's chunks: 3 levels opened on chain, 0 served off chain; the leaf opened on chain",
    ]
    assert told("a bit that was served") == [
        "the trace: 3 levels opened on chain, 3 served off chain",
        "the tensor's chunks: 3 levels opened on chain, 0 served off chain; the leaf served off chain",
    ]
    assert told("an item that was served")[-1] == "fold 2: 0 choices of a part opened on chain, 6 served off chain; the leaf served off chain"
    assert told("a matrix product whose totals are made to fit")[-1] == "fold 2: 1 choice of a part opened on chain, 0 served off chain"
    text = "\n".join(lines(drawn("an item that was served")))
    assert "past 3 levels that were served off chain" in text
    assert "of fold 2, served off chain as" in text


def test_data_are_drawn_beside_what_was_asserted() -> None:
    asserted, right = drawn("other data").steps[-1].values
    assert asserted.what == "in the batch, as asserted"
    assert asserted.bits == right.bits ^ 1


def test_the_clock_is_drawn() -> None:
    drawing = drawn("a silent asserter")
    assert drawing.steps[-1].side == "anyone"
    assert "asserter is silent" in drawing.steps[-1].told
    assert drawing.steps[-1].seconds > 100


def test_moves_that_no_contract_took_are_not_drawn() -> None:
    facts, made = record("a function")
    with pytest.raises(IllegalMove):
        draw(facts, moves.Digest(bytes(32)), BEGIN, made)


@pytest.mark.parametrize(
    ("dtype", "bits", "text"),
    [("f32", 0x7FC00000, "nan (0x7fc00000)"), ("f32", 0x80000000, "-0 (0x80000000)"), ("i64", 2**64 - 1, "-1 (0xffffffffffffffff)"),
     ("bool", 1, "True"), ("u8", 200, "200 (0xc8)")],
)  # fmt: skip
def test_numbers_are_told_with_their_bits(dtype: str, bits: int, text: str) -> None:
    assert number(dtype, bits) == text
