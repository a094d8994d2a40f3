"""Disputes in memory: a liar of every kind loses to the honest challenger, an honest asserter to nobody, and the silent side always loses.

One file because all of it is played over the same links by the same players.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay import merkle, stages
from assay.dispute import game, leaf, moves
from assay.dispute.bounds import Sizes, moves_left, seconds_left
from assay.dispute.checks import IllegalMove
from assay.dispute.game import apply, payments, sealed
from assay.dispute.moves import AnyMove, Moment, Phase, Revealed, Side, Verdict
from assay.dispute.players import BEGIN, Asserter, Challenger, Played, play
from assay.dispute.proofs import Job, Link, Tensor
from assay.dispute.tree import Tree
from assay.exact import reference
from assay.execute import Executor
from assay.ids import Digest
from assay.program import Program, ProgramError
from assay.state import tensor_root
from tests.dispute_cases import (
    FROZEN,
    LINKS,
    MICRO_BATCHES,
    PROGRAM,
    SCHEDULE,
    START,
    TOKENS,
    VERIFIER,
    WORDS,
    batch_of,
    dispute,
    ends,
    facts,
    honest,
    initial_state,
    job,
    opening,
)
from tests.liars.disputes import (
    BadParts,
    Cunning,
    Doubter,
    HonestInputs,
    Inputs,
    Liar,
    Misread,
    OddBatch,
    OtherEnd,
    Padded,
    TooMany,
    at,
    doubted,
    flipped,
)

MICRO, UPDATE = 1, 5
"""The links that are disputed here: a step's second micro-batch, and the update of the segment's second step."""


def against(link: Link, unit: int, cls: type[Asserter] = Asserter, committed: Digest | None = None, served: Link | bool = False) -> Played:
    """A provider whose link `unit` is a lie, and the honest challenger, whom it has served that, or another, or nothing."""
    told = [*ends()[:unit], committed or link.end_root, *ends()[unit + 1 :]]
    shown = link if served is True else served
    server = cls(lambda _: shown, told) if isinstance(shown, Link) else None
    return dispute(cls(lambda _: link, told), told, unit, Challenger(honest().__getitem__, ends(), opening(unit), server.serve if server else None))


def phases(played: Played) -> list[str]:
    return [str(state.phase) for _, _, state in played.moves]


def lost(played: Played, *through: Phase) -> str:
    """That the challenger has won, by way of some phases; the reason."""
    assert played.state.verdict is Verdict.CHALLENGER, played.state.reason
    assert set(through) <= set(phases(played)), phases(played)
    assert len(played.moves) <= moves_left(sealed(played.state.facts, played.state.digest, BEGIN), sizes()) + 1
    return played.state.reason


# ---- what is argued about ----------------------------------------------------------------------------------------------------


def test_the_links_are_those_of_the_engine() -> None:
    executor = Executor(PROGRAM, SCHEDULE, MICRO_BATCHES, frozen=FROZEN)
    for unit, link in enumerate(honest()):
        if link.is_update:
            trace = executor.trace_update(link.step, link.state, link.acc)
        else:
            trace = executor.trace_micro(link.step, link.m, link.state, link.acc, batch_of(link.step, link.m))
        assert list(trace.leaves) == link.contents, unit
        assert trace.root == link.trace.root


# ---- liars -------------------------------------------------------------------------------------------------------------------

REDUCES = ("matmul", "sum", "amax", "scatter_add_rows", "scatter_value")


STAGES = [(unit, i, node.op) for unit, part in ((MICRO, PROGRAM.micro), (UPDATE, PROGRAM.update)) for i, node in enumerate(part.nodes)]


@pytest.mark.parametrize(("unit", "at", "op"), STAGES, ids=lambda v: str(v))
def test_one_bit_of_any_stage(unit: int, at: int, op: str) -> None:
    rng = np.random.default_rng(at)
    element, bit = int(rng.integers(1 << 20)), 3 if op == "const" else int(rng.integers(31))
    link = Liar(unit, {at: lambda y, _: flipped(y, element, bit)})
    assert op in lost(against(link, unit), Phase.STAGE, Phase.CHUNKS, Phase.CHUNK, Phase.NAME, Phase.ELEMENT)


@pytest.mark.parametrize("nth", range(4))
@pytest.mark.parametrize("hide", [0, 3, -1])
@pytest.mark.parametrize("op", REDUCES)
def test_totals_that_are_made_to_fit(op: str, hide: int, nth: int) -> None:
    places = [i for i, node in enumerate(PROGRAM.micro.nodes) if node.op == op]
    if nth >= len(places):
        return
    change = (lambda y, _: y + np.ones_like(y)) if PROGRAM.micro.nodes[places[nth]].type.dtype == "i64" else (lambda y, _: y * np.float32(1.5))
    if op == "scatter_value":
        change = lambda y, _: np.where(np.arange(y.size).reshape(y.shape) == 90, 1 - y, y).astype(np.float32)  # noqa: E731
    link = Liar(MICRO, {places[nth]: change})
    played = against(link, MICRO, type("Hiding", (Cunning,), {"hide": hide}))
    assert f"of {op} is wrong" in lost(played, Phase.PICK, Phase.RANGE)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(STAGES),
    st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 31)), min_size=1, max_size=4),
    st.integers(-16, 15),
    st.booleans(),
)
def test_any_bits_of_any_stage(stage: tuple[int, int, str], bits: list[tuple[int, int]], hide: int, cunning: bool) -> None:
    unit, at, _ = stage

    def change(y: Any, _: Any) -> Any:
        return functools.reduce(lambda out, place: flipped(out, *place), bits, y)

    link = Liar(unit, {at: change})
    if link.trace.root != honest()[unit].trace.root:  # the same bit twice
        lost(against(link, unit, type("Hiding", (Cunning,), {"hide": hide}) if cunning else Asserter))


def test_wrong_wiring() -> None:
    link = Liar(MICRO, {at("sub"): lambda y, args: args[0]})
    assert "of sub is wrong" in lost(against(link, MICRO), Phase.ELEMENT)


def test_another_shape_has_no_move() -> None:
    """The right bytes under another shape: the leaf of the trace does not open as what the program says."""
    link = Liar(MICRO)
    place = 1 + at("amax")
    link.contents = [*link.contents]
    link.contents[place] = tensor_root(np.zeros((1, TOKENS), np.float32))
    played = against(link, MICRO)
    assert "silent in stage" in lost(played)
    assert [type(m) for m in played.reverted] == [moves.Stage]


def test_a_cheaper_product() -> None:
    def cheap(y: Any, args: Sequence[Any]) -> Any:
        return reference.matmul(args[0], args[1], 8)

    for cls in (Asserter, Cunning):
        assert "of matmul" in lost(against(Liar(MICRO, {at("matmul"): cheap}), MICRO, cls), Phase.ELEMENT)


def test_another_learning_rate() -> None:
    assert "of mul is wrong" in lost(against(HonestInputs(UPDATE, lr=np.array(0.125, np.float32)), UPDATE), Phase.ELEMENT)


def test_another_moment() -> None:
    zero = np.zeros_like(honest()[UPDATE].state["m.emb"])
    played = against(HonestInputs(UPDATE, m_emb=zero), UPDATE)
    assert "of mul is wrong" in lost(played, Phase.ELEMENT)
    silent = against(Inputs(UPDATE, m_emb=zero), UPDATE)  # its own moment does not open under the committed state
    assert "silent in element" in lost(silent)


def test_another_order_of_examples() -> None:
    link = Liar(MICRO, batch=batch_of(START + 1, 0))
    assert "of the batch's 'id' is wrong" in lost(against(link, MICRO), Phase.BATCH, Phase.FIELDS, Phase.CHUNKS, Phase.NAME, Phase.RECORD)


def test_other_data() -> None:
    text = batch_of(START, 1)["text"].copy()
    text[4, 2] = (text[4, 2] + 1) % WORDS
    link = Liar(MICRO, batch=batch_of(START, 1) | {"text": text})
    assert lost(against(link, MICRO), Phase.RECORD) == "element 22 of the batch's 'text' is wrong"


def test_a_batch_of_too_few_or_too_many_fields() -> None:
    both = batch_of(START, 1)
    text = both["text"]
    for entries, phase, reason in (
        (both | {"zzz": text}, Phase.FIELD, "the asserter was silent in field"),
        (both | {f"z{i}": text for i in range(40)}, Phase.FIELD, "the asserter was silent in field"),
        ({}, Phase.FIELDS, "the batch has no 'text'"),
        ({"id": both["id"], "next": text}, Phase.FIELD, "the asserter was silent in field"),
        ({"id": both["id"]}, Phase.FIELDS, "the batch has no 'text'"),
    ):
        assert lost(against(OddBatch(MICRO, entries), MICRO), phase) == reason


@pytest.mark.parametrize(
    ("unit", "other"),
    [
        (MICRO, {"loss": np.array(0, np.float32)}),
        (UPDATE, {"param_out": np.ones((64, 80), np.float32)}),
        (UPDATE, {"buffer_beta": np.array(0.5, np.float32)}),
    ],
    ids=["a loss", "a parameter", "an entry that stays"],
)
def test_an_end_that_is_not_the_outputs(unit: int, other: dict[str, Any]) -> None:
    played = against(OtherEnd(unit, **other), unit)
    assert lost(played, Phase.END, Phase.ENTRIES, Phase.ENTRY) == "the asserter was silent in entry"
    assert [type(m) for m in played.reverted] == [moves.EndEntry]


def test_a_committed_end_that_is_no_end() -> None:
    """The trace is right; its last leaf must be what was committed."""

    class Blind(Liar):
        end_root = merkle.sha256(b"another end")

    assert lost(against(Blind(MICRO), MICRO), Phase.END) == "the asserter was silent in end"
    honest_trace = against(Liar(MICRO), MICRO, committed=merkle.sha256(b"another end"))
    assert lost(honest_trace) == "the asserter was silent in traced"


def test_junk_where_a_pad_belongs() -> None:
    link = Liar(MICRO)
    link.trace = Padded([merkle.leaf(i, c) for i, c in enumerate(link.contents)])
    assert "is no pad" in lost(against(link, MICRO), Phase.TRACE)
    chunks = Liar(MICRO)
    value = len(PROGRAM.micro.inputs) + at("take_rows")
    tensor = chunks.tensor(value)
    tensor.tree = Padded([merkle.leaf(i, c) for i, c in enumerate(tensor.chunks)])
    chunks.contents = [*chunks.contents]
    chunks.contents[1 + at("take_rows")] = game.checks.tensor_root(PROGRAM.micro.nodes[at("take_rows")].type, tensor.tree.root)
    assert "in chunks is no pad" in lost(against(chunks, MICRO), Phase.CHUNKS)


def test_bytes_after_the_last_element() -> None:
    link = Liar(MICRO)
    node = at("amax")  # 24 elements
    tensor: Tensor = link.tensor(len(PROGRAM.micro.inputs) + node)
    tensor.chunks = [tensor.chunks[0][:-1] + b"\1"]
    tensor.tree = Tree.of(tensor.chunks)
    link.contents = [*link.contents]
    link.contents[1 + node] = game.checks.tensor_root(PROGRAM.micro.nodes[node].type, tensor.tree.root)
    assert lost(against(link, MICRO), Phase.CHUNK) == "the asserter was silent in chunk"


def test_a_challenger_who_was_not_served_finds_the_link() -> None:
    link = Liar(MICRO, {at("exp"): lambda y, _: flipped(y, 3, 23)})
    told = [*ends()[:MICRO], link.end_root, *ends()[MICRO + 1 :]]
    move = opening(moves.WALK_LINKS)
    known = facts(told)
    challenger = Challenger(honest().__getitem__, ends(), move)
    played = play(known, game.seal_digest(known, move), Asserter(lambda _: link, told), challenger)
    assert "of exp is wrong" in lost(played, Phase.LINKS, Phase.TRACED)
    assert played.state.unit == MICRO


def test_a_verifier_that_revealed_a_false_trace() -> None:
    link = Liar(MICRO, {at("exp"): lambda y, _: flipped(y, 3, 23)})
    link.end_root = ends()[MICRO]  # a yes: it ends in the committed end, whatever it has traced
    told = facts(ends(), Revealed(verifier=VERIFIER, round=0, unit=MICRO, agrees=True, trace_root=link.trace.root))
    move, asserter = opening(MICRO, 1, VERIFIER), Asserter(lambda _: link, ends())
    played = play(told, game.seal_digest(told, move), asserter, Challenger(honest().__getitem__, ends(), move))
    assert "of exp is wrong" in lost(played, Phase.ELEMENT)
    other = Asserter(honest().__getitem__, ends())  # the right trace is another than the one that it revealed
    played = play(told, game.seal_digest(told, move), other, Challenger(honest().__getitem__, ends(), move))
    assert lost(played) == "the asserter was silent in traced"


def test_a_verifier_that_says_no_asserts_nothing() -> None:
    """It may have been served what it cannot trace: it only withholds."""
    told = facts(ends(), Revealed(verifier=VERIFIER, round=0, unit=MICRO, agrees=False, trace_root=honest()[MICRO].trace.root))
    move = opening(MICRO, 1, VERIFIER)
    with pytest.raises(IllegalMove, match="said no"):
        apply(sealed(told, game.seal_digest(told, move), Moment(1, 0)), move, Moment(2, 1))


# ---- challengers who are wrong, too ------------------------------------------------------------------------------------------


def test_who_points_at_a_later_difference_loses_and_the_next_wins() -> None:
    """A later stage is right, given what the false one put out. One challenger's loss binds nobody else."""
    first, later = at("exp"), at("sum")
    link = Liar(MICRO, {first: lambda y, _: flipped(y, 3, 23)})
    told = [*ends()[:MICRO], link.end_root, *ends()[MICRO + 1 :]]
    asserter = Asserter(lambda _: link, told)
    doubter = Doubter(lambda _: link, asserter.link_tree, opening(MICRO), 1, {Phase.TRACE: 1 + later})
    assert merkle.leaf(1 + later, link.contents[1 + later]) != merkle.leaf(1 + later, honest()[MICRO].contents[1 + later]), "a difference it is"
    assert dispute(asserter, told, MICRO, doubter).state.verdict is Verdict.ASSERTER
    assert "of exp is wrong" in lost(against(link, MICRO), Phase.ELEMENT)


@pytest.mark.parametrize(("asserters", "challengers", "loser"), [("exp", "log", Verdict.CHALLENGER), ("log", "exp", Verdict.ASSERTER)])
def test_where_both_are_wrong_the_first_of_their_faults_decides(asserters: str, challengers: str, loser: Verdict) -> None:
    """The verdict is that of the element where they part; the asserter that wins by the other's fault still loses to who makes none."""
    link, other = (Liar(MICRO, {at(op): lambda y, _: flipped(y, 3, 23)}) for op in (asserters, challengers))
    told = [*ends()[:MICRO], link.end_root, *ends()[MICRO + 1 :]]
    wrong = Challenger(lambda unit: other if unit == MICRO else honest()[unit], ends(), opening(MICRO))
    played = dispute(Asserter(lambda _: link, told), told, MICRO, wrong)
    assert played.state.verdict is loser, played.state.reason
    assert f"of {asserters} is wrong" in lost(against(link, MICRO), Phase.ELEMENT)


# ---- an honest asserter ------------------------------------------------------------------------------------------------------


def won(played: Played) -> list[str]:
    assert played.state.verdict is Verdict.ASSERTER, (played.state.reason, played.reverted)
    assert not played.reverted
    return phases(played)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, LINKS - 1), st.integers(0, 1 << 32), st.booleans(), st.booleans())
def test_wins_wherever_it_is_pointed_at(unit: int, seed: int, leaps: bool, walks: bool) -> None:
    won(doubted(unit, seed, leaps=leaps, move=opening(moves.WALK_LINKS) if walks else None))


@pytest.mark.parametrize("unit", [0, MICRO, UPDATE])
def test_wins_at_every_leaf_of_the_trace(unit: int) -> None:
    seen: set[str] = set()
    for place in range(1 if unit == UPDATE else 0, len(honest()[unit].contents)):
        seen |= set(won(doubted(unit, place, {Phase.TRACE: place})))
        seen |= set(won(doubted(unit, place + 1000, {Phase.TRACE: place}, leaps=True)))
    silent = {"sealed", "links"} | ({"batch", "fields", "field", "record", "pick", "range", "finish"} if unit == UPDATE else set())
    assert {str(p) for p in Phase} - seen == silent


@pytest.mark.parametrize("unit", [MICRO, UPDATE])
def test_wins_at_every_entry_of_the_end(unit: int) -> None:
    last = len(honest()[unit].contents) - 1
    for entry in range(honest()[unit].ends.count):
        assert "entry" in won(doubted(unit, entry, {Phase.TRACE: last, Phase.ENTRIES: entry}))


def test_concedes_before_it_shows_a_trace_and_not_later() -> None:
    told, move = facts(ends()), opening(MICRO)
    state = apply(sealed(told, game.seal_digest(told, move), Moment(1, 0)), move, Moment(2, 1))
    assert apply(state, moves.Concede(), Moment(3, 2)).verdict is Verdict.CONCEDED
    walk = opening(moves.WALK_LINKS)
    state = apply(sealed(told, game.seal_digest(told, walk), Moment(1, 0)), walk, Moment(2, 1))
    asserter = Asserter(honest().__getitem__, ends())
    assert apply(state, moves.Concede(), Moment(3, 2)).verdict is Verdict.CONCEDED
    shown = asserter.move(state, None)
    assert isinstance(shown, moves.Reveal)
    state = apply(state, shown, Moment(3, 2))
    link = moves.Point(index=2, node=asserter.link_tree.node(0, 2), path=asserter.link_tree.path(2))
    state = apply(state, link, Moment(4, 3))
    assert apply(state, moves.Concede(), Moment(5, 4)).verdict is Verdict.CONCEDED
    trace = asserter.move(state, link)
    assert isinstance(trace, moves.Trace)
    with pytest.raises(IllegalMove, match="Concede in"):
        apply(apply(state, trace, Moment(5, 4)), moves.Concede(), Moment(6, 5))


def test_an_end_that_cannot_be_opened_makes_the_dispute_void() -> None:
    """A program that nobody who checks it runs: its loss is the accumulator's as it came in, zeros that no tree holds."""
    part = PROGRAM.micro
    zero = next(i for i, x in enumerate(part.inputs) if (x.kind, x.name) == ("acc", "loss"))
    outputs = tuple(msgspec.structs.replace(o, value=zero) if o.name == "loss" else o for o in part.outputs)
    program = msgspec.structs.replace(PROGRAM, micro=msgspec.structs.replace(part, outputs=outputs))
    with pytest.raises(ProgramError, match="as it came in"):
        Program.load(program.dump())
    link = Link(Job(program, SCHEDULE, job().data, FROZEN), START, 0, initial_state(), None, batch_of(START, 0))
    committed = [link.end_root, *ends()[1:]]
    told, move = msgspec.structs.replace(facts(committed), program_root=link.job.root), opening(0)
    asserter = Asserter(lambda _: link, committed)
    aims = {Phase.TRACE: len(link.contents) - 1, Phase.ENTRIES: link.ends.names.index("loss")}
    played = play(told, game.seal_digest(told, move), asserter, Doubter(lambda _: link, asserter.link_tree, move, 1, aims))
    assert played.state.verdict is Verdict.VOID


# ---- turns and clocks --------------------------------------------------------------------------------------------------------


def transcript() -> Played:
    """A game with a fold, a split and an item."""
    value = at("matmul")
    return doubted(MICRO, 3, {Phase.TRACE: 1 + value, Phase.PICK: 2})


def test_moves_out_of_turn_are_refused() -> None:
    played = transcript()
    every: list[AnyMove] = [move for move, _, _ in played.moves]
    every += [moves.Concede(), moves.Missing(head=b"", at=0, input=b"", input_path=()), moves.Chunk(chunk=b"")]
    state = sealed(played.state.facts, played.state.digest, Moment(1, 0))
    for made, moment, after in played.moves:
        for other in every:
            if type(other) not in game.TABLE[state.phase, state.turn]:
                with pytest.raises(IllegalMove, match="turn"):
                    apply(state, other, moment)
        assert apply(state, made, moment) == after
        state = after
    for other in every:
        with pytest.raises(IllegalMove, match="is resolved"):
            apply(state, other, Moment(99, 99))


def test_the_silent_side_loses() -> None:
    played = transcript()
    state = sealed(played.state.facts, played.state.digest, Moment(1, 0))
    for made, moment, after in played.moves:
        left = game.left(state, moment.time)
        late = Moment(moment.block, moment.time + left + 1)
        with pytest.raises(IllegalMove, match=r"has .* s left"):
            apply(state, moves.Timeout(), Moment(moment.block, moment.time + left))
        with pytest.raises(IllegalMove, match="is late"):
            apply(state, made, late)
        over = apply(state, moves.Timeout(), late)
        assert over.verdict is (Verdict.CHALLENGER if state.turn is Side.ASSERTER else Verdict.ASSERTER)
        assert "silent" in over.reason
        state = after


def test_time_beyond_the_grace_draws_on_one_budget() -> None:
    played = transcript()
    state, time = sealed(played.state.facts, played.state.digest, Moment(1, 0)), 0
    for block, (made, _, _) in enumerate(played.moves, 2):
        time += 10 + (20 if state.turn is Side.ASSERTER and state.phase is not Phase.SEALED else 0)
        try:
            state = apply(state, made, Moment(block, time))
        except IllegalMove:
            break
    assert state.spent == (100, 0)
    assert state.moves[0] == 5


def test_a_seal_is_opened_as_sealed_and_later() -> None:
    told, move = facts(ends()), opening(MICRO)
    state = sealed(told, game.seal_digest(told, move), Moment(7, 0))
    for other, moment, message in (
        (move, Moment(7, 3), "later block"),
        (opening(MICRO + 1), Moment(8, 3), "not what was sealed"),
        (move, Moment(8, 51), "late"),
    ):
        with pytest.raises(IllegalMove, match=message):
            apply(state, other, moment)
    stranger = opening(LINKS)
    with pytest.raises(IllegalMove, match=f"no link {LINKS}"):
        apply(sealed(told, game.seal_digest(told, stranger), Moment(7, 0)), stranger, Moment(8, 1))
    nobody = opening(MICRO, 1, VERIFIER)
    with pytest.raises(IllegalMove, match="revealed no such trace"):
        apply(sealed(told, game.seal_digest(told, nobody), Moment(7, 0)), nobody, Moment(8, 1))


# ---- money -------------------------------------------------------------------------------------------------------------------


def test_money() -> None:
    bond, stake = 1001, 501
    verdicts = {
        Verdict.CHALLENGER: (1001, 500, 501 + 501, 0),
        Verdict.CONCEDED: (500, 500, 501, 0),
        Verdict.ASSERTER: (0, 250, 0, 251),
        Verdict.VOID: (0, 0, 501, 0),
    }
    for verdict, paid in verdicts.items():
        state = sealed(facts(ends()), Digest(b""), Moment(1, 0))._replace(verdict=verdict)
        found = payments(state)
        assert tuple(found) == paid
        assert found.slashed + stake == found.burnt + found.challenger + found.asserter
        assert found.slashed <= bond


# ---- every dispute ends ------------------------------------------------------------------------------------------------------


@functools.cache
def sizes() -> Sizes:
    types = [node.type for part in (PROGRAM.micro, PROGRAM.update) for node in part.nodes] + [i.type for i in PROGRAM.micro.inputs]
    every = [stages.decode_stage(data) for link in honest()[: MICRO_BATCHES + 1] for data in link.trees.encoded.stages]
    items = max(leaf.length(s, s.type.elements - 1, fold) for s in every for fold in range(leaf.folds(s)))
    return Sizes(max(game.checks.chunk_count(t) for t in types), items, max(link.ends.count for link in honest()))


def ends_in_time(played: Played) -> None:
    """That each move leaves fewer moves, and less time."""
    state, at = sealed(played.state.facts, played.state.digest, BEGIN), BEGIN
    for made, moment, after in played.moves:
        if not isinstance(made, moves.Timeout):
            assert moves_left(after, sizes()) < moves_left(state, sizes()), (type(made), state.phase)
        if after.phase is not Phase.RESOLVED:
            assert 0 <= seconds_left(after, sizes(), moment.time) <= seconds_left(state, sizes(), at.time) - (moment.time - at.time)
        state, at = after, moment
    assert moves_left(state, sizes()) == 0


@settings(max_examples=100, deadline=None)
@given(st.integers(0, LINKS - 1), st.integers(0, 1 << 32), st.booleans(), st.booleans())
def test_every_move_leaves_fewer(unit: int, seed: int, leaps: bool, walks: bool) -> None:
    ends_in_time(doubted(unit, seed, leaps=leaps, move=opening(moves.WALK_LINKS) if walks else None))


@pytest.mark.parametrize("cls", [Asserter, Cunning, BadParts, TooMany])
@pytest.mark.parametrize("served", [False, True])
def test_a_lie_is_found_in_time(cls: type[Asserter], served: bool) -> None:
    link = Misread(MICRO, {at("matmul"): lambda y, _: y * np.float32(1.5)})
    ends_in_time(against(link, MICRO, cls, served=served))
    many = OddBatch(MICRO, batch_of(START, 1) | {f"z{i}": batch_of(START, 1)["text"] for i in range(40)})
    ends_in_time(against(many, MICRO))


def test_the_most_moves_of_a_billion_parameters() -> None:
    """docs/dispute.md says so: 32 moves, 40 over a batch of a lying number of fields; in a network with a grace of an hour, a budget of a day."""
    told = msgspec.structs.replace(
        facts(ends()), micro_leaves=1 << 16, update_leaves=1 << 16, micro_batches=3, start=0, stop=256, grace=3600, budget=86400, open_window=3600
    )
    state = sealed(told, Digest(b""), Moment(1, 0))
    large = Sizes(chunks=1 << 22, items=1 << 16, entries=1 << 10)
    assert moves_left(state, large) == 4 + 2 * (2 + 4 + 7 + 5)
    assert seconds_left(state, large, 0) == 3600 + 39 * 3600 + 2 * 86400
    at_stage = state._replace(phase=Phase.STAGE, turn=Side.ASSERTER)
    assert moves_left(at_stage, large) + 2 + 2 * (2 + 4) - 1 == 32


def test_who_takes_all_its_time_ends_in_time() -> None:
    """Each side makes every move as late as it may, and spends its budget on its last."""
    played = transcript()
    state, time = sealed(played.state.facts, played.state.digest, Moment(1, 0)), 0
    most = seconds_left(state, sizes(), 0)
    for block, (made, _, _) in enumerate(played.moves, 2):
        time = state.since + (50 if state.phase is Phase.SEALED else 10 + (100 if block >= len(played.moves) else 0))
        state = apply(state, made, Moment(block, time))
    assert state.phase is Phase.RESOLVED
    assert state.spent == (100, 100)
    assert time <= most


# ---- a challenger who was served ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("unit", "at", "op"), STAGES, ids=lambda v: str(v))
def test_who_was_served_points_at_once(unit: int, at: int, op: str) -> None:
    rng = np.random.default_rng(at)
    link = Liar(unit, {at: lambda y, _: flipped(y, int(rng.integers(1 << 20)), 3)})
    played = against(link, unit, served=True)
    assert op in lost(played, Phase.STAGE, Phase.ELEMENT)
    assert not {"chunk", "name"} & set(phases(played))
    assert not any(isinstance(move, moves.Reveal) for move, _, _ in played.moves)


def test_who_was_served_names_the_item() -> None:
    link = Misread(MICRO, {at("matmul"): lambda y, _: y * np.float32(1.5)})
    played = against(link, MICRO, served=True)
    assert "of matmul is wrong" in lost(played, Phase.PICK, Phase.RANGE)
    made = [type(move) for move, _, _ in played.moves]
    assert made == [moves.Open, moves.Trace, moves.Point, moves.Stage, moves.Point, moves.Fold, moves.Pick, moves.Item]


def test_who_was_served_something_else_walks() -> None:
    """What was served is not what was committed to: the challenger plays as if it had been served nothing."""
    link = Misread(MICRO, {at("matmul"): lambda y, _: y * np.float32(1.5)})
    other = Liar(MICRO, {at("matmul"): lambda y, _: y * np.float32(2)})
    played = against(link, MICRO, served=other)
    assert "of matmul is wrong" in lost(played, Phase.TRACE, Phase.CHUNK, Phase.NAME, Phase.RANGE)


@pytest.mark.parametrize(
    ("cls", "op", "reason"), [(BadParts, "matmul", "do not combine"), (TooMany, "matmul", "in finish"), (TooMany, "exp", "in finish")]
)
def test_a_fold_that_is_none(cls: type[Asserter], op: str, reason: str) -> None:
    assert reason in lost(against(Liar(MICRO, {at(op): lambda y, _: y * np.float32(1.5)}), MICRO, cls), Phase.PICK)
