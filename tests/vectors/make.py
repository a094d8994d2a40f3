"""Writes protocol.json: the hashes of docs/protocol.md on fixed inputs, computed here with hashlib alone, straight from the page.

    python tests/vectors/make.py

forge (contracts/test/Vectors.t.sol) and pytest (tests/test_contracts.py) read the file, so that the page, the contracts and assay
agree or a test says where they do not. Inputs come from SHA-256 of their names: no randomness.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def h(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def be(value: int, size: int) -> bytes:
    return value.to_bytes(size, "big")


def word(name: str) -> bytes:
    """32 bytes that stand for `name`."""
    return h(b"assay test vector: ", name.encode())


def account(name: str) -> bytes:
    return word(name)[:20]


def hexed(data: bytes) -> str:
    return "0x" + data.hex()


def tree(items: list[bytes]) -> list[list[bytes]]:
    """All levels of the full tree, leaves first: padded to a power of two, which is the definition that merkle.py shortens."""
    size = 1
    while size < len(items):
        size *= 2
    row = [h(b"\x00", be(i, 8), items[i]) if i < len(items) else h(b"\x02") for i in range(size)]
    levels = [row]
    while len(row) > 1:
        row = [h(b"\x01", row[i], row[i + 1]) for i in range(0, len(row), 2)]
        levels.append(row)
    return levels


def merkle(count: int) -> dict[str, Any]:
    items = [word(f"item {i} of {count}") for i in range(count)]
    levels = tree(items)
    proofs = []
    for index in sorted({0, 1 % count, count // 2, count - 1}):
        place, path = index, []
        for row in levels[:-1]:
            path.append(hexed(row[place ^ 1]))
            place >>= 1
        proofs.append({"index": index, "path": path})
    return {"count": count, "items": [hexed(item) for item in items], "root": hexed(levels[-1][0]), "proofs": proofs}


def commitment(i: int) -> dict[str, Any]:
    chain_id, jobs, job, start, stop = 31337 + i, account(f"jobs {i}"), i + 1, 5 * i, 5 * i + 4
    parent, program, links, key = (word(f"{what} {i}") for what in ("parent", "program", "links", "key"))
    checkpoint = bytes([1, 0x55 if i % 2 else 0x70, 0x12, 0x20]) + word(f"checkpoint {i}")
    head = (b"\x13", be(chain_id, 32), jobs, be(job, 8), parent, program, be(start, 8), be(stop, 8))
    return {
        "chain_id": chain_id, "jobs": hexed(jobs), "job": job, "parent": hexed(parent), "program": hexed(program), "start": start, "stop": stop,
        "links": hexed(links), "checkpoint": hexed(checkpoint), "key": hexed(key), "digest": hexed(h(*head, links, h(checkpoint), key)),
    }  # fmt: skip


def draw(i: int, steps: int, micros: int, micro_weight: int, update_weight: int, links: int, seats: int) -> dict[str, Any]:
    block_hash, segment, round_ = word(f"block {i}"), 7 + i, i % 3
    seed = h(b"\x20", block_hash, be(segment, 8), be(round_, 4))
    per_step = micros * micro_weight + update_weight
    units = []
    for j in range(links):
        x = int.from_bytes(h(b"\x21", seed, be(j, 4)), "big") % (steps * per_step)
        step, rest = x // per_step, x % per_step
        units.append(step * (micros + 1) + (rest // micro_weight if rest < micros * micro_weight else micros))
    slots = [int.from_bytes(h(b"\x22", seed, be(t, 4)), "big") % seats for t in range(16)]
    return {
        "block_hash": hexed(block_hash), "segment": segment, "round": round_, "seed": hexed(seed), "steps": steps, "micros": micros,
        "micro_weight": micro_weight, "update_weight": update_weight, "units": units, "seats": seats, "slots": slots,
    }  # fmt: skip


def attestation(i: int) -> dict[str, Any]:
    chain_id, jobs, verifier, salt = 1 + i, account(f"jobs {i}"), account(f"verifier {i}"), word(f"salt {i}")
    segment, round_, agrees = 3 + i, i, i % 2 == 0
    roots = [word(f"trace {i}.{j}") for j in range(2 * (i + 1))]
    head = (b"\x23", be(chain_id, 32), jobs, be(segment, 8), be(round_, 4), be(agrees, 1))
    return {
        "chain_id": chain_id, "jobs": hexed(jobs), "segment": segment, "round": round_, "agrees": agrees, "roots": [hexed(r) for r in roots],
        "verifier": hexed(verifier), "salt": hexed(salt), "digest": hexed(h(*head, *roots, verifier, salt)),
    }  # fmt: skip


def opening(i: int, units: list[int], micros: int, micro_leaves: int, update_leaves: int) -> dict[str, Any]:
    block_hash, segment, verifier = word(f"opening block {i}"), 11 + i, account(f"verifier {i}")
    positions, leaves = [], []
    for j in range(8):
        x = int.from_bytes(h(b"\x24", block_hash, be(segment, 8), verifier, be(j, 4)), "big")
        positions.append(x % len(units))
        count = update_leaves if units[positions[-1]] % (micros + 1) == micros else micro_leaves
        leaves.append(x // len(units) % count)
    return {
        "block_hash": hexed(block_hash), "segment": segment, "verifier": hexed(verifier), "units": units, "micros": micros,
        "micro_leaves": micro_leaves, "update_leaves": update_leaves, "positions": positions, "leaves": leaves,
    }  # fmt: skip


def chunk(i: int, units: list[int], micros: int, entries: int, chunks: int) -> dict[str, Any]:
    """Which chunk a block names, of an end with so many entries, each of so many chunks."""
    block_hash, segment = word(f"chunk block {i}"), 17 + i
    number = x = int.from_bytes(h(b"\x26", block_hash, be(segment, 8)), "big")
    unit, x = units[x % len(units)], x // len(units)
    before = [unit - unit % (micros + 1) - 1] if unit > micros else []
    ends = [*before, *([unit - 1] if unit % (micros + 1) else []), unit]
    place, x = ends[x % len(ends)], x // len(ends)
    return {
        "block_hash": hexed(block_hash), "segment": segment, "number": hexed(be(number, 32)), "units": units, "micros": micros, "place": place,
        "entries": entries, "entry": x % entries, "chunks": chunks, "chunk": x // entries % chunks,
    }  # fmt: skip


def vectors() -> dict[str, Any]:
    return {
        "pad": hexed(h(b"\x02")),
        "empty": hexed(h(b"\x03")),
        "merkle": [merkle(count) for count in (1, 2, 3, 4, 5, 7, 8, 9, 33)],
        "commitment": [commitment(i) for i in range(3)],
        "draw": [
            draw(0, 1, 1, 1, 1, 2, 3),
            draw(1, 4, 2, 3, 1, 4, 6),
            draw(2, 25, 1, 9, 2, 16, 7),
            draw(3, 2**32 - 1, 2**20, 2**40, 1, 16, 1000),
            draw(4, 8, 3, 1, 2**40, 16, 1),
        ],
        "attestation": [attestation(i) for i in range(3)],
        "opening": [opening(0, [0, 1], 1, 10, 20), opening(1, [3, 3, 5, 2], 2, 57, 133), opening(2, [8], 8, 2, 2**32 - 1)],
        "chunk": [
            chunk(0, [0], 1, 1, 1),
            chunk(1, [3, 3, 5, 2], 2, 3, 7),
            chunk(2, [8], 8, 2**32 - 1, 2**50),
            chunk(3, list(range(64)), 3, 148, 2**22),
            chunk(4, [6, 1], 2, 12, 5),
        ],
    }


def render() -> str:
    return json.dumps(vectors(), indent=1) + "\n"


if __name__ == "__main__":
    (HERE / "protocol.json").write_text(render())
