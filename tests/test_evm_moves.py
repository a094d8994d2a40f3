"""Moves of disputes as calldata: back to themselves, and understood however oddly the contract lets them be written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from eth_abi import abi
from hypothesis import given
from hypothesis import strategies as st

from assay.adapters import evm_moves
from assay.adapters.evm_abi import BadLog
from assay.dispute import moves
from assay.dispute.moves import AnyMove
from assay.ids import DisputeId
from tests.vectors.game_calls import move_of, shown_of

GAMES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "vectors" / "games.json").read_text())["games"]
MADE = [(move_of(m), shown_of(game, m)) for game in GAMES for m in game["moves"]]


def test_every_move_of_every_game_comes_back() -> None:
    kinds = set()
    for at, (move, known) in enumerate(MADE):
        assert evm_moves.decode(evm_moves.encode(DisputeId(at), move, known)) == (at, move)
        kinds.add(type(move))
    assert kinds == set(moves.Move.__subclasses__())


def first(kind: type[moves.Move]) -> tuple[AnyMove, bytes]:
    move, known = next(each for each in MADE if isinstance(each[0], kind))
    return move, evm_moves.encode(DisputeId(7), move, known)


def word(value: int) -> bytes:
    return value.to_bytes(32, "big")


@pytest.mark.parametrize("kind", moves.Move.__subclasses__())
def test_bytes_that_nothing_points_to_mean_nothing(kind: type[moves.Move]) -> None:
    move, data = first(kind)
    assert evm_moves.decode(data + b"\xff" * 77) == (7, move)


def test_arguments_may_stand_anywhere() -> None:
    move, data = first(moves.Reveal)
    assert isinstance(move, moves.Reveal)
    tail = word(len(move.children)) + b"".join(move.children)
    assert evm_moves.decode(data[:4] + word(7) + word(64 + 13) + b"\xaa" * 13 + tail) == (7, move)  # after a gap, unaligned
    empty = moves.Reveal(children=())
    assert evm_moves.decode(data[:4] + word(0) + word(0)) == (0, empty)  # the list's length is the first word


@pytest.mark.parametrize("junk", [word(1 << 255), word((1 << 256) - 1), word(1 << 64), word(10**6)])
def test_a_member_that_the_contract_did_not_read_hides_no_move(junk: bytes) -> None:
    """In a segment's first step the contract looks neither at the state's root nor at its path."""
    move = next(m for m, _ in MADE if isinstance(m, moves.Trace) and m.state is None and m.acc is not None)
    data = evm_moves.encode(DisputeId(7), move, MADE[0][1])
    at = 4 + 64 + 32  # selector, number and place of the struct; its second member is the place of statePath
    assert abi.decode(["uint256"], data[at : at + 32]) != abi.decode(["uint256"], junk)
    assert evm_moves.decode(data[:at] + junk + data[at + 32 :]) == (7, move)


def test_an_unread_number_that_does_not_fit_is_zero() -> None:
    """The count of entries beside an operand that is a stage's output."""
    move, known = next(each for each in MADE if isinstance(each[0], moves.Prove))
    assert isinstance(move, moves.Prove)
    counted = moves.Prove(chunk=move.chunk, needs=tuple(msgspec.structs.replace(need, count=0xC0FFEE) for need in move.needs))
    data = evm_moves.encode(DisputeId(7), counted, known)
    assert evm_moves.decode(data) == (7, counted)
    zeros = moves.Prove(chunk=move.chunk, needs=tuple(msgspec.structs.replace(need, count=0) for need in move.needs))
    assert evm_moves.decode(data.replace(word(0xC0FFEE), word(0xC0FFEE + (1 << 32)))) == (7, zeros)


def test_what_is_no_move_is_refused() -> None:
    _, data = first(moves.Prove)
    for bad in (b"", data[:3], data[:4], data[:40], b"\0" * 4 + data[4:], bytes(evm_moves.MOST_CALLDATA + 1)):
        with pytest.raises(BadLog):
            evm_moves.decode(bad)
    head, openings = data[:4], 4 + 64 + 13 * 32 + 4 * 32
    place = 4 + 64 + int.from_bytes(data[openings : openings + 32], "big")
    assert int.from_bytes(data[place : place + 32], "big") == 2
    with pytest.raises(BadLog, match="9 openings"):
        evm_moves.decode(data[:place] + word(9) + data[place + 32 :])
    assert head == data[:4]


def test_what_does_not_fit_is_not_sent() -> None:
    known = MADE[0][1]
    for move in (moves.Name(element=1 << 64), moves.Name(element=-1), moves.Pick(which=-1), moves.Reveal(children=(b"x" * 33,))):  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="cannot be called"):
            evm_moves.encode(DisputeId(1), move, known)


WORDS = st.lists(st.one_of(st.integers(0, 400), st.integers(0, (1 << 256) - 1)), max_size=40)


@given(st.sampled_from(sorted(evm_moves._functions())), WORDS, st.binary())
def test_any_calldata_are_a_move_or_refused(selector: bytes, words: list[int], rest: bytes) -> None:
    try:
        dispute, move = evm_moves.decode(selector + b"".join(word(w) for w in words) + rest)
    except BadLog:
        return
    assert dispute >= 0
    assert isinstance(move, moves.Move)


@given(st.integers(0, len(MADE) - 1), st.integers(0), st.integers(0, 255))
def test_a_changed_byte_is_a_move_or_refused(which: int, at: int, byte: int) -> None:
    data = bytearray(evm_moves.encode(DisputeId(7), *MADE[which]))
    data[at % len(data)] = byte
    try:
        evm_moves.decode(bytes(data))
    except BadLog:
        return
