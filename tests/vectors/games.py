"""Writes games.json: whole disputes, move by move, as the state machine of assay/dispute/game.py plays them.

    PYTHONPATH=. python tests/vectors/games.py

forge plays them against the contracts (contracts/test), pytest again against the state machine (tests/test_games.py). The links are those
of tests/dispute_cases.py, the parties honest or those of tests/liars/disputes.py; there is no randomness.

    games[g]  name
              facts      what the contracts know: of the job, the segment, the disputed link; `asserter` provider | verifier
              link       what `trace` has shown (the contract's struct Link); program, stage, input: what later moves bring again
              moves[i]   kind, who, block and time (seconds since the seal), reverts (it changes nothing), the fields of the move,
                         and after it: stand, asserting, outcome; of a fold's range lo, hi, total
              result     outcome, and what is paid: slashed, burnt, challenger, asserter (bond 1001, challenger's bond 501)
              records    the data's that were shown in the clear: place of the first, how many (assay/dispute/showing.py)

Bytes are hex, numbers that may be beyond 2^53 or negative decimal strings.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from assay import merkle, stages
from assay.dispute import game, moves, showing
from assay.dispute.moves import WALK_LINKS, AnyMove, Facts, Moment, Phase, Revealed, Side, State, Verdict
from assay.dispute.players import BEGIN, Asserter, Challenger, Player, play
from assay.dispute.proofs import Link
from tests.dispute_cases import PROGRAM, PROVIDER, START, VERIFIER, batch_of, ends, facts, honest, opening
from tests.liars.disputes import BadParts, Cunning, Doubter, HonestInputs, Liar, Misread, OddBatch, OtherEnd, Padded, TooMany, at, flipped

HERE = Path(__file__).resolve().parent
FIRST, MICRO, UPDATE = 0, 1, 5
OUTCOMES = {None: "NONE", Verdict.ASSERTER: "ASSERTER_WON", Verdict.CHALLENGER: "ASSERTER_LOST", Verdict.CONCEDED: "CONCEDED", Verdict.VOID: "VOID"}
STRINGS = {"totals", "parts", "unit", "element", "item", "value"}
"""Fields whose numbers are written as strings."""


def plain(value: Any, name: str = "") -> Any:
    match value:
        case bytes():
            return "0x" + value.hex()
        case tuple():
            return [plain(v, name) for v in value]
        case msgspec.Struct():
            return {n: plain(getattr(value, n), n) for n in value.__struct_fields__}
        case int() if name in STRINGS:
            return str(value)
    return value


def fields(move: AnyMove, state: State) -> dict[str, Any]:
    out: dict[str, Any] = plain(move)
    if isinstance(move, moves.Gather):
        out |= {"first": int.from_bytes(move.shard[:8], "big"), "records": int.from_bytes(move.shard[8:16], "big")}
        out |= {"shard_root": plain(move.shard[16:]), "example": plain(move.salt + move.record)}
    if isinstance(move, moves.Name):
        out["shown"] = plain(state.chunk)
    if isinstance(move, moves.Pick) and state.phase is Phase.RANGE:
        out |= {"kind": "choose", "parts": plain(state.parts, "parts"), "range": [str(n) for n in (state.low, state.high, state.total)]}
    elif isinstance(move, moves.Pick):
        out |= {"totals": plain(state.totals, "totals"), "roots": plain(state.roots), "parts": plain(state.shown, "parts")}
    return out


class Writer:
    """One game: its moves as they are made, with some that revert in between."""

    def __init__(self, name: str, told: Facts, digest: bytes, asserter: str) -> None:
        self.state = game.sealed(told, digest, BEGIN)  # type: ignore[arg-type]
        self.records = showing.Shown()
        self.out: dict[str, Any] = {"name": name, "facts": plain(told) | {"asserter": asserter}, "moves": []}

    def add(self, move: AnyMove, at: Moment) -> None:
        before = self.state
        try:
            self.state, reverts = game.apply(before, move, at), False
        except game.IllegalMove:
            reverts = True
        if not reverts:
            self.records = showing.noted(self.records, before, move)
        state = self.state
        entry = {"kind": type(move).__name__.lower(), "who": str(before.turn), "block": at.block, "time": at.time, "reverts": reverts}
        after = {
            "stand": str(state.phase), "asserting": state.turn is Side.ASSERTER, "outcome": OUTCOMES[state.verdict],
            "lo": state.low, "hi": state.high, "total": str(state.total),
        }  # fmt: skip
        self.out["moves"].append(entry | fields(move, before) | after)

    def done(self) -> dict[str, Any]:
        state, told = self.state, self.state.facts
        link = {
            "program_root": told.program_root, "dataset_root": told.data_root, "schedule_root": told.schedule_root, "state_root": state.state_root,
            "acc_root": state.acc_root, "batch_root": state.batch_root, "end_root": state.end_root, "trace_root": state.trace_root,
        }  # fmt: skip
        numbers = {"steps": told.steps, "step": state.step, "m": state.m, "micros": told.micro_batches, "leaves": state.leaves}
        shown = {"program": plain(state.head), "stage": plain(state.stage), "input": plain(state.record), "totals": plain(state.totals, "totals")}
        paid = game.payments(state)._asdict()
        result = {"outcome": OUTCOMES[state.verdict], "reason": state.reason} | paid
        records = {"records": list(self.records)}
        return self.out | {"link": {k: plain(v or bytes(32)) for k, v in link.items()} | numbers, **shown, "result": result, **records}


def spoilt(move: AnyMove, state: State) -> list[AnyMove]:
    """What reverts where `move` does not: one thing changed, or somebody else's turn."""
    out: list[AnyMove] = [moves.Timeout()]
    out.append(moves.Name(element=0) if state.turn is Side.ASSERTER else moves.Chunk(chunk=bytes(1024)))
    for name in ("children", "path", "head_path", "end_path", "record_path", "shard_path", "input_path"):
        path = getattr(move, name, ())
        if path:
            out.append(msgspec.structs.replace(move, **{name: (merkle.sha256(path[0]), *path[1:])}))
    for name in ("chunk", "stage", "record", "input", "head", "data", "trace_root", "batch_root", "entries", "tensor", "salt"):
        data = getattr(move, name, b"")
        if data:
            out.append(msgspec.structs.replace(move, **{name: data[:-1] + bytes([data[-1] ^ 1])}))
    if needs := getattr(move, "needs", ()):
        first = msgspec.structs.replace(needs[0], chunk=needs[0].chunk[:-1] + bytes([needs[0].chunk[-1] ^ 1]))
        out += [msgspec.structs.replace(move, needs=(first, *needs[1:])), msgspec.structs.replace(move, needs=needs[:-1])]
    if isinstance(move, moves.Split):
        out.append(moves.Split(parts=(*move.parts[:-1], move.parts[-1] + 1)))
    if isinstance(move, moves.Fold):
        out.append(msgspec.structs.replace(move, totals=(*move.totals[:-1], 1 << 64)))
        out.append(msgspec.structs.replace(move, roots=move.roots[:-1]))
    if isinstance(move, moves.Pick) and state.phase is Phase.PICK and move.which < len(state.totals):
        out += [moves.Pick(which=len(state.totals) + 1), moves.Pick(which=move.which, part=64)]
        if move.item:
            out.append(msgspec.structs.replace(move, item=msgspec.structs.replace(move.item, value=move.item.value + 1)))
    if isinstance(move, moves.Point) and move.element is not None:
        out += [msgspec.structs.replace(move, element=move.element ^ 512), msgspec.structs.replace(move, element=1 << 60)]
    return out


def written(
    name: str, told: Facts, move: moves.Open, asserter: Player, challenger: Player, spoil: bool = False, who: str = "provider"
) -> dict[str, Any]:
    digest = game.seal_digest(told, move)
    writer = Writer(name, told, digest, who)
    for made, moment, _ in play(told, digest, asserter, challenger).moves:
        if spoil:
            for other in spoilt(made, writer.state):
                writer.add(other, moment)
        writer.add(made, moment)
    return writer.done()


def lie(
    name: str,
    link: Link,
    unit: int,
    cls: type[Asserter] = Asserter,
    unit_told: int | None = None,
    spoil: bool = False,
    served: bool = False,
) -> dict[str, Any]:
    """A provider whose link `unit` is a lie, against the honest challenger, whom it may have served it."""
    told = [*ends()[:unit], link.end_root, *ends()[unit + 1 :]]
    move = opening(unit if unit_told is None else unit_told)
    asserter = cls(lambda _: link, told)
    challenger = Challenger(honest().__getitem__, ends(), move, asserter.serve if served else None)
    return written(name, facts(told), move, asserter, challenger, spoil)


def truth(name: str, unit: int, seed: int, aims: dict[Phase, int], leaps: bool = False, spoil: bool = False) -> dict[str, Any]:
    """An honest provider, against one who points where nothing is wrong."""
    asserter, move = Asserter(honest().__getitem__, ends()), opening(unit)
    return written(name, facts(ends()), move, asserter, Doubter(honest().__getitem__, asserter.link_tree, move, seed, aims, leaps), spoil)


def bit(place: int, element: int, which: int = 22) -> Liar:
    return Liar(MICRO, {place: lambda y, _: flipped(y, element, which)})


def revealed() -> dict[str, Any]:
    link = bit(at("exp"), 3, 23)
    link.end_root = ends()[MICRO]
    told = facts(ends(), Revealed(verifier=VERIFIER, round=0, unit=MICRO, agrees=True, trace_root=link.trace.root))
    move = opening(MICRO, 1, VERIFIER)
    challenger = Challenger(honest().__getitem__, ends(), move)
    return written("a verifier that says yes with a false trace", told, move, Asserter(lambda _: link, ends()), challenger, who="verifier")


def said_no() -> dict[str, Any]:
    """What is sealed cannot be opened: the challenger's bond."""
    told = facts(ends(), Revealed(verifier=VERIFIER, round=0, unit=MICRO, agrees=False, trace_root=honest()[MICRO].trace.root))
    move = opening(MICRO, 1, VERIFIER)
    writer = Writer("a verifier that says no is no target", told, game.seal_digest(told, move), "verifier")
    writer.add(move, Moment(2, 1))
    writer.add(moves.Timeout(), Moment(3, 51))
    return writer.done()


class Silent:
    def __init__(self, player: Player, phase: Phase) -> None:
        self.player, self.phase = player, phase

    def move(self, state: State, last: AnyMove | None) -> AnyMove | None:
        return None if state.phase is self.phase else self.player.move(state, last)


class Conceding(Asserter):
    def move(self, state: State, last: AnyMove | None) -> AnyMove | None:
        return moves.Concede()


def games() -> list[dict[str, Any]]:
    last = len(PROGRAM.update.nodes) + 1
    text = batch_of(START, 1)["text"].copy()
    text[4, 2] ^= 1
    padded = Liar(MICRO)
    padded.trace = Padded([merkle.leaf(i, c) for i, c in enumerate(padded.contents)])
    yes, no = Asserter(honest().__getitem__, ends()), opening(MICRO)
    doubt = lambda: Doubter(honest().__getitem__, yes.link_tree, no, 2, {Phase.TRACE: 5})  # noqa: E731
    grown = lambda y, _: y * np.float32(1.5)  # noqa: E731
    return [
        lie("one bit of a product of elements", bit(at("mul", 1), 700), MICRO, spoil=True),
        lie("a sum that does not follow from its totals", bit(at("sum"), 5), MICRO),
        lie("a matrix product whose totals are made to fit", Liar(MICRO, {at("matmul"): grown}), MICRO, Cunning, spoil=True),
        lie("a largest element", Liar(MICRO, {at("amax"): grown}), MICRO, Cunning),
        lie("an embedding's gradient", Liar(MICRO, {at("scatter_add_rows"): grown}), MICRO, Cunning),
        lie("a one that is put elsewhere", Liar(MICRO, {at("scatter_value"): lambda y, _: 1 - y}), MICRO, Cunning),
        lie("a sum of integers", Liar(MICRO, {at("sum", 2): lambda y, _: y + 1}), MICRO, Cunning),
        lie("a row that was not asked for", bit(at("take_rows"), 70), MICRO),
        lie("a random number", bit(at("philox"), 3, 4), MICRO),
        lie("a function", bit(at("exp"), 1000), MICRO),
        lie("another learning rate", HonestInputs(UPDATE, lr=np.array(0.125, np.float32)), UPDATE),
        lie("another moment", HonestInputs(UPDATE, m_emb=np.zeros_like(honest()[UPDATE].state["m.emb"])), UPDATE),
        lie("other data", Liar(MICRO, batch=batch_of(START, 1) | {"text": text}), MICRO, spoil=True),
        lie("a batch without its text", OddBatch(MICRO, {"id": batch_of(START, 1)["id"]}), MICRO),
        lie("an end that is not the output", OtherEnd(UPDATE, param_out=np.ones((64, 80), np.float32)), UPDATE),
        lie("junk where a pad belongs", padded, MICRO),
        lie("a link that is found in the commitment", bit(at("exp"), 3, 23), MICRO, unit_told=WALK_LINKS),
        lie("a bit that was served", bit(at("mul", 1), 700), MICRO, spoil=True, served=True),
        lie("an item that was served", Misread(MICRO, {at("matmul"): grown}), MICRO, spoil=True, served=True),
        lie("parts that do not combine", Liar(MICRO, {at("matmul"): grown}), MICRO, BadParts),
        lie("a total too many", Liar(MICRO, {at("matmul"): grown}), MICRO, TooMany, spoil=True),
        lie("totals of what has no folds", bit(at("exp"), 3, 23), MICRO, TooMany),
        revealed(),
        said_no(),
        truth("a true product", MICRO, 3, {Phase.TRACE: 1 + at("matmul"), Phase.PICK: 2}),
        truth("a true exponent of a column", MICRO, 4, {Phase.TRACE: 1 + at("matmul"), Phase.PICK: 1}, leaps=True, spoil=True),
        truth("a true output of a product", MICRO, 12, {Phase.TRACE: 1 + at("matmul"), Phase.PICK: 3}, spoil=True),
        truth("a true output that needs more than totals", MICRO, 13, {Phase.TRACE: 1 + at("scatter_value"), Phase.PICK: 1}, leaps=True),
        truth("a true sum with a zero accumulator", FIRST, 5, {Phase.TRACE: len(PROGRAM.micro.nodes) - 1}),
        truth("a true sum with a buffer of the state", FIRST, 6, {Phase.TRACE: len(PROGRAM.micro.nodes)}),
        truth("a true gain", MICRO, 7, {Phase.TRACE: 1 + at("mul")}),
        truth("a true frozen tensor", MICRO, 11, {Phase.TRACE: 1 + at("add")}),
        lie("another frozen tensor", HonestInputs(UPDATE, buffer_rate=np.array(1, np.float32)), UPDATE),
        truth("true data", MICRO, 8, {Phase.TRACE: 0}),
        truth("a true copy of the batch", MICRO, 14, {Phase.TRACE: 1 + at("cast")}, spoil=True),
        truth("a true sum over the batch", MICRO, 15, {Phase.TRACE: 1 + at("sum", 3), Phase.PICK: 0}, leaps=True),
        truth("a true entry of the end", UPDATE, 9, {Phase.TRACE: last, Phase.ENTRIES: 6}, spoil=True),
        truth("a true entry that stays", UPDATE, 10, {Phase.TRACE: last, Phase.ENTRIES: 0}, leaps=True),
        written("a silent asserter", facts(ends()), no, Silent(yes, Phase.STAGE), doubt()),
        written("a silent challenger", facts(ends()), no, yes, Silent(doubt(), Phase.NAME)),
        written("a seal that is not opened", facts(ends()), no, yes, Silent(yes, Phase.SEALED)),
        written("conceded", facts(ends()), no, Conceding(honest().__getitem__, ends()), doubt()),
    ]


def render() -> str:
    digests = {"program_root": plain(honest()[0].job.root), "provider": PROVIDER, "stages": len(stages.CODES)}
    return json.dumps(digests | {"games": games()}, separators=(",", ":")) + "\n"


if __name__ == "__main__":
    (HERE / "games.json").write_text(render())
