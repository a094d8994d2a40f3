"""Writes tests/vectors/game_calls.json: the games of games.json as the calls of contracts/src/interfaces/IDisputes.sol, for forge.

    python tests/vectors/game_calls.py

Forge cannot take parts out of a large JSON fast, so each game is a few flat lists: calldata (the dispute's number is 1), sender (0 challenger,
1 asserter), block, time, whether it reverts, and the state after it. The digest of the seal is computed by the test, which knows the addresses.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eth_abi import abi
from eth_utils.abi import collapse_if_tuple, function_abi_to_4byte_selector
from eth_utils.crypto import keccak

TOP = Path(__file__).resolve().parent.parent.parent
CALLS = {
    entry["name"]: entry
    for entry in json.loads((TOP / "assay" / "_data" / "contracts" / "Disputes.json").read_text())["abi"]
    if entry["type"] == "function"
}
STANDS = (
    "none", "sealed", "links", "traced", "trace", "stage", "chunks", "chunk", "name", "element", "pick", "range", "end", "entries", "entry",
    "batch", "fields", "field", "record", "resolved", "paid",
)  # fmt: skip
OUTCOMES = ("NONE", "ASSERTER_WON", "ASSERTER_LOST", "CONCEDED", "VOID")
EMPTY = {"input": "0x", "input_path": [], "count": 0, "entries": "0x" + "00" * 32, "path": [], "chunks": "0x" + "00" * 32, "chunk": "0x"}
EMPTY["chunk_path"] = []


def raw(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


def words(texts: list[str]) -> list[bytes]:
    return [raw(text) for text in texts]


def numbers(texts: list[str]) -> list[int]:
    return [int(text) for text in texts]


def call(name: str, *arguments: Any) -> str:
    entry = CALLS[name]
    types = [collapse_if_tuple(item) for item in entry["inputs"]]
    return "0x" + (function_abi_to_4byte_selector(entry) + abi.encode(types, (1, *arguments))).hex()


def link(game: dict[str, Any]) -> tuple[Any, ...]:
    known = game["link"]
    roots = ("program_root", "dataset_root", "schedule_root", "state_root", "acc_root", "batch_root", "end_root", "trace_root")
    return (*(raw(known[name]) for name in roots), *(known[name] for name in ("steps", "step", "m", "micros", "leaves")))


def link_hash(game: dict[str, Any]) -> bytes:
    return keccak(abi.encode(["bytes32"] * 8 + ["uint64", "uint64", "uint32", "uint32", "uint32"], link(game)))


def totals_hash(game: dict[str, Any]) -> bytes:
    return keccak(abi.encode(["int256[]"], [numbers(game["totals"])]))


def evidence(need: dict[str, Any]) -> tuple[Any, ...]:
    n = {**EMPTY, **need}
    return (
        raw(n["input"]), words(n["input_path"]), raw(n["entries"]), n["count"], words(n["path"]), raw(n["chunks"]), raw(n["chunk"]),
        words(n["chunk_path"]),
    )  # fmt: skip


def proof(game: dict[str, Any], chunk: str, totals: list[str], needs: list[dict[str, Any]]) -> tuple[Any, ...]:
    return (link(game), raw(game["program"]), raw(game["stage"]), raw(chunk), numbers(totals), [evidence(need) for need in needs])


def trace(m: dict[str, Any]) -> tuple[Any, ...]:
    ends = [m[name] or {"root": "0x" + "00" * 32, "path": []} for name in ("state", "acc", "end")]
    return (
        *(part for end in ends for part in (raw(end["root"]), words(end["path"]))),
        raw(m["batch_root"]), raw(m["trace_root"]), words(m["head_path"]), words(m["end_path"]), words(m["children"]),
    )  # fmt: skip


def gather(game: dict[str, Any], m: dict[str, Any]) -> tuple[Any, ...]:
    return (
        link(game), raw(game["input"]), raw(m["data"]), raw(m["chunk"]), m["shard_at"], m["first"], m["records"], raw(m["shard_root"]),
        words(m["shard_path"]), raw(m["example"]), words(m["record_path"]),
    )  # fmt: skip


def encode(game: dict[str, Any], m: dict[str, Any]) -> str:
    """Calldata of one move."""
    kind, stage = m["kind"], raw(game["stage"])
    if kind == "open":
        return call("open", m["target"], int(m["unit"]), m["verifier"], m["round"], raw(m["salt"]))
    if kind in ("concede", "timeout"):
        return call(kind)
    if kind == "reveal":
        return call("reveal", words(m["children"]))
    if kind == "point":
        return call("point", raw(m["node"]), m["index"], words(m["path"]))
    if kind == "trace":
        return call("trace", trace(m))
    if kind == "stage":
        parts = (raw(m["head"]), raw(m["stage"]), words(m["path"]), raw(m["chunks"]), words(m["children"]))
        return call("stage", link(game), *parts)
    if kind == "chunk":
        return call("chunk", raw(m["chunk"]))
    if kind == "name":
        return call("element", int(m["element"]))
    if kind == "prove":
        return call("prove", proof(game, m["chunk"], [], m["needs"]))
    if kind == "fold":
        return call("fold", proof(game, m["chunk"], m["totals"], m["needs"]))
    if kind == "item":
        return call("item", proof(game, "0x", game["totals"], m["needs"]))
    if kind == "pick":
        return call("pick", link_hash(game), stage, numbers(game["totals"]), m["which"])
    if kind == "split":
        return call("split", link_hash(game), totals_hash(game), stage, numbers(m["parts"]))
    if kind == "choose":
        return call("choose", numbers(m["parts"]), m["which"])
    if kind == "end":
        return call("end", link(game), raw(m["head"]), raw(m["entries"]), words(m["children"]))
    if kind == "endentry":
        return call("endEntry", proof(game, "0x", [], [m]), raw(m["record"]), words(m["record_path"]), raw(m["tensor"]))
    if kind == "batch":
        return call("batch", link(game), m["count"], raw(m["entries"]), words(m["children"]))
    if kind in ("batchentry", "missing"):
        field = (raw(m["head"]), m["at"], raw(m["input"]), words(m["input_path"]))
        if kind == "missing":
            return call("missing", link(game), *field)
        return call("batchEntry", link(game), *field, raw(m["chunks"]), words(m["children"]))
    if kind == "gather":
        return call("gather", gather(game, m))
    raise ValueError(f"a move of kind {kind!r}")


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
    return out


def render() -> str:
    games = json.loads((Path(__file__).parent / "games.json").read_text())["games"]
    return json.dumps({"games": [flat(game) for game in games]}, separators=(",", ":")) + "\n"


if __name__ == "__main__":
    (Path(__file__).parent / "game_calls.json").write_text(render())
