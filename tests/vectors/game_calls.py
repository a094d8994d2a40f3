"""Writes tests/vectors/game_calls.json: the games of games.json as the calls of contracts/src/interfaces/IDisputes.sol, for forge.

    PYTHONPATH=. python tests/vectors/game_calls.py

Forge cannot take parts out of a large JSON fast, so each game is a few flat lists: calldata (the dispute's number is 1), sender (0 challenger,
1 asserter), block, time, whether it reverts, and the state after it. The digest of the seal is computed by the test, which knows the addresses.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_type_hints

from assay.adapters import evm_moves
from assay.codec import Message
from assay.dispute import moves
from assay.dispute.moves import AnyMove, Shown
from assay.ids import DisputeId

STANDS = (
    "none", "sealed", "links", "traced", "trace", "stage", "chunks", "chunk", "name", "element", "pick", "finish", "range", "end", "entries",
    "entry", "batch", "fields", "field", "record", "resolved", "paid",
)  # fmt: skip
OUTCOMES = ("NONE", "ASSERTER_WON", "ASSERTER_LOST", "CONCEDED", "VOID")
KINDS = {kind.__name__.lower(): kind for kind in moves.Move.__subclasses__()} | {"choose": moves.Pick}


def plain(value: Any) -> Any:
    """Back from what games.py has written: hex to bytes, decimal strings to numbers."""
    if isinstance(value, list):
        return tuple(plain(item) for item in value)
    if not isinstance(value, str):
        return value
    return bytes.fromhex(value[2:]) if value.startswith("0x") else int(value)


def message(kind: type[Message], fields: dict[str, Any]) -> Any:
    """A message from its fields as games.py has written them."""
    out = {}
    for name, hint in get_type_hints(kind).items():
        value = fields[name]
        if isinstance(value, dict):
            out[name] = message(moves.FoldItem if name == "item" else moves.Named, value)
        elif hint == tuple[moves.Opening, ...]:
            out[name] = tuple(message(moves.Opening, item) for item in value)
        else:
            out[name] = value if name == "verifier" else plain(value)
    return kind(**out)


def move_of(m: dict[str, Any]) -> AnyMove:
    made: AnyMove = message(KINDS[m["kind"]], m)
    return made


def shown_of(game: dict[str, Any], m: dict[str, Any]) -> Shown:
    """What a game has shown in the end, which is never less than what was shown before a move."""
    link = {name: plain(value) for name, value in game["link"].items()}
    low, high, total = plain(m.get("range", ["0", "0", "0"]))
    return Shown(
        **{name: link[name] for name in ("program_root", "schedule_root", "state_root", "acc_root", "batch_root", "end_root", "trace_root")},
        data_root=link["dataset_root"], steps=link["steps"], step=link["step"], m=link["m"], micro_batches=link["micros"], leaves=link["leaves"],
        head=plain(game["program"]), stage=plain(game["stage"]), record=plain(game["input"]),
        totals=plain(m["totals"] if m["kind"] == "pick" else game["totals"]), roots=plain(m.get("roots", [])),
        folded=plain(m["parts"]) if m["kind"] == "pick" else (), chunk=plain(m.get("shown", "0x")), low=low, high=high, total=total,
        parts=plain(m["parts"]) if m["kind"] == "choose" else (),
    )  # fmt: skip


def encode(game: dict[str, Any], m: dict[str, Any]) -> str:
    """Calldata of one move."""
    return "0x" + evm_moves.encode(DisputeId(1), move_of(m), shown_of(game, m)).hex()


def flat(game: dict[str, Any]) -> dict[str, Any]:
    f, moves = game["facts"], game["moves"]
    opening = next((m for m in sorted(moves, key=lambda m: bool(m["reverts"])) if m["kind"] == "open"), None)
    none = {"verifier": "0x" + "00" * 20, "round": 0, "unit": 0, "agrees": False, "trace_root": "0x" + "00" * 32}
    vote = (f["revealed"] or [none])[0]
    out: dict[str, Any] = {
        "name": game["name"],
        "roots": [f[name] for name in ("program_root", "data_root", "schedule_root", "parent_end", "link_root")],
        "numbers": [f[name] for name in ("start", "stop", "steps", "micro_batches", "micro_leaves", "update_leaves", "open_window", "grace")]
        + [f["budget"], f["stake"], f["bond"], int(f["asserter"] == "verifier"), vote["round"], int(vote["unit"]), int(vote["agrees"])],
        "trace_root": vote["trace_root"],
        "verifier": vote["verifier"],
        "salt": opening["salt"] if opening else "0x" + "00" * 32,
        "target": [opening["target"], str(opening["unit"]), opening["round"]] if opening else [0, "0", 0],
        "calls": [encode(game, m) for m in moves],
        "senders": [int(m["who"] == "asserter") for m in moves],
        "blocks": [m["block"] for m in moves],
        "times": [m["time"] for m in moves],
        "reverts": [int(m["reverts"]) for m in moves],
        "stands": [STANDS.index(m["stand"]) for m in moves],
        "turns": [int(m["asserting"]) for m in moves],
        "outcomes": [OUTCOMES.index(m["outcome"]) for m in moves],
        "los": [int(m["lo"]) for m in moves],
        "his": [int(m["hi"]) for m in moves],
        "totals": [int(m["total"]) for m in moves],
        "kinds": [m["kind"] for m in moves],
    }
    out["result"] = [OUTCOMES.index(game["result"]["outcome"]), *(game["result"][k] for k in ("slashed", "burnt", "challenger", "asserter"))]
    out["records"] = game["records"]
    return out


def render() -> str:
    games = json.loads((Path(__file__).parent / "games.json").read_text())["games"]
    return json.dumps({"games": [flat(game) for game in games]}, separators=(",", ":")) + "\n"


if __name__ == "__main__":
    (Path(__file__).parent / "game_calls.json").write_text(render())
