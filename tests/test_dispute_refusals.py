"""What the machine of a dispute refuses: right moves but for one thing, each with the words that say which; none of its refusals is left out.

The words are those of the sources (assay/dispute), found there; of messages with values in them any value will do.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from assay import merkle, stages
from assay.dispute import game, moves
from assay.dispute.checks import IllegalMove, batch_hash
from assay.dispute.game import apply, sealed
from assay.dispute.moves import AnyMove, Moment, Phase, Revealed, Side, State, Verdict
from assay.dispute.players import Asserter, play
from assay.dispute.proofs import Job, Link
from assay.dispute.tree import Tree, Walk
from assay.dispute.turns import walk_of
from assay.exact.types import TensorType
from tests.dispute_cases import (
    FROZEN,
    PROGRAM,
    SCHEDULE,
    START,
    VERIFIER,
    WIDTH,
    WORDS,
    batch_of,
    ends,
    facts,
    honest,
    initial_state,
    job,
    opening,
)
from tests.liars.disputes import Doubter, at, doubted

DISPUTE = Path(game.__file__).parent
MICRO, UPDATE = 1, 5
"""A step's second micro-batch, and the update of the segment's second step."""
LAST = len(PROGRAM.update.nodes) + 1
GAMES = {
    "fold": (MICRO, {Phase.TRACE: 1 + at("matmul"), Phase.PICK: 2}),
    "fold of 80": (MICRO, {Phase.TRACE: 1 + at("matmul", 1), Phase.PICK: 2}),
    "output of a fold": (MICRO, {Phase.TRACE: 1 + at("matmul"), Phase.PICK: 3}),
    "move": (MICRO, {Phase.TRACE: 1 + at("take_rows")}),
    "constant": (MICRO, {Phase.TRACE: 1 + at("mul")}),
    "batch": (MICRO, {Phase.TRACE: 0}),
    "entry that stays": (UPDATE, {Phase.TRACE: LAST, Phase.ENTRIES: 0}),
    "entry": (UPDATE, {Phase.TRACE: LAST, Phase.ENTRIES: 6}),
    "schedule": (UPDATE, {Phase.TRACE: 1 + at("mul", 2, "update")}),
}


class Turn(NamedTuple):
    state: State
    move: Any
    moment: Moment

    def but(self, **changed: Any) -> Turn:
        """The same move with some fields changed; those of the state's facts that go with them begin with `told_`, of the state with `seen_`."""
        told = {n[5:]: v for n, v in changed.items() if n.startswith("told_")}
        seen = {n[5:]: v for n, v in changed.items() if n.startswith("seen_")}
        state = self.state._replace(facts=msgspec.structs.replace(self.state.facts, **told), **seen)
        rest = {n: v for n, v in changed.items() if not n.startswith(("told_", "seen_"))}
        return Turn(state, msgspec.structs.replace(self.move, **rest), self.moment)

    def with_(self, move: AnyMove) -> Turn:
        return Turn(self.state, move, self.moment)


def turns(name: str, leaps: bool = False) -> list[Turn]:
    """Of the game of an honest asserter and somebody who doubts it."""
    unit, aims = GAMES[name]
    played = doubted(unit, 8, aims, leaps)
    out, state = [], sealed(played.state.facts, played.state.digest, Moment(1, 0))
    for made, moment, after in played.moves:
        out.append(Turn(state, made, moment))
        state = after
    return out


def turn(name: str, phase: Phase, side: Side, nth: int = 0, leaps: bool = False) -> Turn:
    return [t for t in turns(name, leaps) if (t.state.phase, t.state.turn) == (phase, side)][nth]


A, C = Side.ASSERTER, Side.CHALLENGER
JUNK = merkle.sha256(b"junk")


# ---- one thing changed in every field ------------------------------------------------------------------------------------------


def changes(value: Any) -> list[Any]:
    """A value with one thing in it changed."""
    match value:
        case bytes():
            return [bytes([value[0] ^ 1]) + value[1:], value[:-1] + bytes([value[-1] ^ 1]), value + b"\0", value[:-1], b""] if value else [b"\0"]
        case bool():
            return []
        case int():
            return [value + 1, value - 1, -1, 1 << 70]
        case tuple():
            out = [(*value[:i], other, *value[i + 1 :]) for i in {0, len(value) - 1} & set(range(len(value))) for other in changes(value[i])]
            return [*out, value[:-1], (*value, *value[-1:])] if value else out
        case msgspec.Struct():  # what is empty is not read there
            fields = {n: getattr(value, n) for n in value.__struct_fields__}
            used = {n: v for n, v in fields.items() if v not in (b"", (), 0, bytes(32))}
            return [msgspec.structs.replace(value, **{n: other}) for n, v in used.items() for other in changes(v)]
    return []


def spoilt(name: str) -> Iterator[str]:
    """What is said of each move of a game with one thing changed; whatever is changed in one of the honest asserter is refused, but totals that
    are wrong (they lose) and parts that still combine."""
    for t in turns(name):
        for other in changes(t.move):
            try:
                found = apply(t.state, other, t.moment)
            except IllegalMove as error:
                yield str(error)
                continue
            if t.state.turn is A:
                assert found.verdict is not Verdict.ASSERTER, other
                assert isinstance(t.move, moves.Fold | moves.Split), (type(t.move), found.phase)


@pytest.mark.parametrize("name", GAMES)
def test_nothing_else_verifies(name: str) -> None:
    assert len(list(spoilt(name))) > 100


# ---- by hand -------------------------------------------------------------------------------------------------------------------


def of_the_opening() -> Iterator[tuple[str, Turn]]:
    t = turns("fold")[0]
    yield "later block", Turn(t.state, t.move, t.state.opened)
    yield "is late", Turn(t.state, t.move, Moment(9, 51))
    yield "has 0 s left", Turn(t.state, moves.Timeout(), Moment(9, 50))
    yield "there is no link 6", _sealed(opening(6))
    yield "said no with it", _sealed(opening(MICRO, 1, VERIFIER))
    yield "turn, with", t.with_(moves.Concede())
    yield "is resolved", Turn(t.state._replace(phase=Phase.RESOLVED), t.move, t.moment)


def _sealed(move: moves.Open) -> Turn:
    told = facts(ends())
    return Turn(sealed(told, game.seal_digest(told, move), Moment(1, 0)), move, Moment(2, 1))


def of_the_link() -> Iterator[tuple[str, Turn]]:
    t = turn("schedule", Phase.TRACED, A)
    yield "the state before the step", t.but(state=None)
    yield "the accumulator before the link", t.but(acc=None)
    yield "an update has no batch", t.but(batch_root=batch_hash(1, merkle.EMPTY))
    told = facts(ends(), Revealed(verifier=VERIFIER, round=0, unit=MICRO, agrees=True, trace_root=JUNK))
    move = opening(MICRO, 1, VERIFIER)
    state = apply(sealed(told, game.seal_digest(told, move), Moment(1, 0)), move, Moment(2, 1))
    trace = Asserter(honest().__getitem__, ends()).move(state, move)
    assert trace is not None
    yield "not the trace that was revealed", Turn(state, trace, Moment(3, 2))


def of_the_walk() -> Iterator[tuple[str, Turn]]:
    t = turn("schedule", Phase.TRACE, C)
    tree = honest()[UPDATE].trace
    yield "all of an update's head", t.with_(_point(tree, 0))
    yield "against a pad", t.with_(_point(tree, tree.count))
    yield "named in a chunk", t.with_(msgspec.structs.replace(_point(tree, 1), element=0))
    nothing = moves.Point(index=0, node=merkle.EMPTY, path=())
    yield "nothing to point at", Turn(t.state._replace(walk=Walk(merkle.EMPTY, 0, 0, 0)), nothing, t.moment)


def _point(tree: Tree, leaf: int) -> moves.Point:
    return moves.Point(index=leaf, node=tree.node(0, leaf), path=tree.path(leaf))


def of_a_chunk() -> Iterator[tuple[str, Turn]]:
    t = turn("batch", Phase.CHUNK, A)
    junk = t.move.chunk[:-1] + b"\1"
    yield "bytes and zeros", t.but(chunk=junk, seen_walk=Walk(merkle.leaf(0, junk), 0, 0, 1))
    yield "the chunk has been shown", turn("schedule", Phase.ELEMENT, A).but(chunk=turn("schedule", Phase.CHUNK, A).move.chunk)


def of_operands() -> Iterator[tuple[str, Turn]]:
    t = turn("schedule", Phase.ELEMENT, A)
    kind, turned = (stages.encode_type(TensorType(dtype="f32", shape=shape)) for shape in ((WORDS, WIDTH), (WIDTH, WORDS)))
    yield "another type than the operand", t.but(seen_stage=t.state.stage.replace(kind, turned, 1))


def of_a_fold() -> Iterator[tuple[str, Turn]]:
    t = turn("fold", Phase.ELEMENT, A)
    yield "has 3 folds, not 0", t.with_(moves.Prove(chunk=b"", needs=()))
    yield "9 totals", t.but(totals=(0,) * 9, roots=(JUNK,) * 9, parts=((0,),) * 9)
    less = t.but(totals=t.move.totals[:2], roots=t.move.roots[:2], parts=t.move.parts[:2])
    after = apply(less.state, less.move, t.moment)
    yield "what is wrong is the output", Turn(after, moves.Pick(which=0), t.moment)
    more = t.but(totals=(256, *t.move.totals[1:]))
    after = apply(apply(more.state, more.move, t.moment), moves.Pick(which=3), t.moment)
    finish = turn("output of a fold", Phase.FINISH, A).move
    yield "256 is no total of fold 0", Turn(after, finish, t.moment)


def of_items() -> Iterator[tuple[str, Turn]]:
    t = turn("fold", Phase.PICK, C, leaps=True)
    item = t.move.item
    yield "the item is not leaf", t.but(item=msgspec.structs.replace(item, value=item.value + 1))
    yield "an item is an i64, and no part", t.but(part=1)
    shown = turn("fold", Phase.RANGE, A, leaps=True)
    yield "a single item is shown, not split", shown.with_(moves.Split(parts=(shown.state.total,)))
    t = turn("fold of 80", Phase.RANGE, A)
    yield "items have", t.but(parts=t.move.parts[:-1])
    yield "do not combine to the total", t.but(parts=(t.move.parts[0] + 1, *t.move.parts[1:]))
    yield "items are split, not shown", t.with_(shown.move)


def of_the_end() -> Iterator[tuple[str, Turn]]:
    t = turn("entry", Phase.ENTRY, A)
    walk = walk_of(t.state)
    yield "the end's entry is another", t.but(seen_walk=Walk(JUNK, 0, walk.index, walk.count))
    # A program, checked by nobody, whose loss is a constant.
    part = PROGRAM.micro
    gain = next(i for i, x in enumerate(part.inputs) if x.kind == "constant")
    outputs = tuple(msgspec.structs.replace(o, value=gain) if o.name == "loss" else o for o in part.outputs)
    program = msgspec.structs.replace(PROGRAM, micro=msgspec.structs.replace(part, outputs=outputs))
    link = Link(Job(program, SCHEDULE, job().data, FROZEN), START, 0, initial_state(), None, batch_of(START, 0))
    committed, move = [link.end_root, *ends()[1:]], opening(0)
    told = msgspec.structs.replace(facts(committed), program_root=link.job.root)
    asserter = Asserter(lambda _: link, committed)
    aims = {Phase.TRACE: len(link.contents) - 1, Phase.ENTRIES: link.ends.names.index("loss")}
    played = play(told, game.seal_digest(told, move), asserter, Doubter(lambda _: link, asserter.link_tree, move, 1, aims))
    assert played.state.verdict is Verdict.ASSERTER
    made, moment, _ = played.moves[-1]
    yield "the constant is not the program's", Turn(played.moves[-2][2], made, moment).but(tensor=JUNK)


def of_the_batch() -> Iterator[tuple[str, Turn]]:
    t = turn("batch", Phase.FIELD, A)
    walk = walk_of(t.state)
    yield "is not field", t.but(seen_walk=Walk(walk.node, 0, 1 - walk.index, walk.count))
    field = moves.Missing(head=t.move.head, at=t.move.at, input=t.move.input, input_path=t.move.input_path)
    yield "no field that the batch lacks", turn("batch", Phase.FIELDS, C).with_(field)


def of_the_record() -> Iterator[tuple[str, Turn]]:
    """Of element 7 of the field `text`, u8 [6, 5]; the data of the job are changed with the move."""
    t = turn("batch", Phase.RECORD, A)
    form = b"\x00\x04text\x04" + (5).to_bytes(8, "big")
    assert t.move.data.endswith(form)
    data, one = t.move.data, (1).to_bytes(4, "big")

    def with_(data: bytes, **changed: Any) -> Turn:
        return t.but(data=data, told_data_root=merkle.sha256(data), **changed)

    yield "has another form", with_(data[:-1] + b"\x06")
    yield "batch has another size", with_(data[:33] + (3).to_bytes(4, "big") + data[37:-1] + b"\x0a")
    yield "have no field", with_(data.replace(b"text", b"test"))
    yield "cannot be counted through", with_(data[:37] + bytes(8) + data[45:])
    for word, item in (("48 bytes", t.move.shard + b"\0"), ("is in another shard", bytes(16) + t.move.shard[16:])):
        yield word, with_(data[:45] + one + merkle.leaf(0, item) + data[81:], shard=item, shard_at=0, shard_path=())


BY_HAND = [of_the_opening, of_the_link, of_the_walk, of_a_chunk, of_operands, of_a_fold, of_items, of_the_end, of_the_batch, of_the_record]


@pytest.mark.parametrize("made", BY_HAND)
def test_right_moves_but_for_one_thing(made: Callable[[], Iterator[tuple[str, Turn]]]) -> None:
    for words, t in made():
        with pytest.raises(IllegalMove, match=re.escape(words)):
            apply(t.state, t.move, t.moment)


# ---- all of them ---------------------------------------------------------------------------------------------------------------

SUFFIX = {"digest": " has 32 bytes", "under": " is not leaf .* under its root", "below": " is not leaf .* below its node"}


def pattern(said: ast.expr) -> str:
    """A regular expression for a message of the sources; empty for one that is a parameter of the function."""
    match said:
        case ast.Constant(value=str(text)):
            return re.escape(text)
        case ast.JoinedStr(values=parts):
            return "".join(pattern(part) or ".*" for part in parts)
    return ""


def refusals() -> set[str]:
    """Of every call that refuses, its message."""
    found = set()
    for path in (DISPUTE / f"{name}.py" for name in ("checks", "folds", "game", "sets", "turns")):
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call):
                continue
            name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
            if name in ("demand", "IllegalMove", *SUFFIX) and (said := pattern(call.args[-1])):
                found.add(said + SUFFIX.get(name, ""))
    return found


def test_no_refusal_is_left_out() -> None:
    seen = {text for name in GAMES for text in spoilt(name)}
    for made in BY_HAND:
        for _, t in made():
            with pytest.raises(IllegalMove) as refused:
                apply(t.state, t.move, t.moment)
            seen.add(str(refused.value))
    assert len(refusals()) > 60
    assert not sorted(said for said in refusals() if not any(re.fullmatch(said, text) for text in seen))
