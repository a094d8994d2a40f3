"""The hashes of docs/protocol.md in Python, on the vectors that forge checks, too. (The committed
contracts against their sources: contracts/build.py --check.)"""

from __future__ import annotations

import json
import runpy
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from assay import chain, cid, draw, hearing, merkle
from assay.ids import Address, Digest, JobId, SegmentId

TOP = Path(__file__).resolve().parent.parent
VECTORS: dict[str, Any] = json.loads((TOP / "tests" / "vectors" / "protocol.json").read_text())
CONTRACTS = (
    "TestToken", "Stakes", "Segments", "Checks", "Escrow", "Jobs", "ClearLeaf", "TableLeaf", "Descent", "Verdict", "Disputes", "Bounties",
)  # fmt: skip


def raw(text: str) -> Digest:
    return Digest(bytes.fromhex(text[2:]))


def terms(**changes: Any) -> chain.Terms:
    word, account = Digest(b"\1" * 32), Address("0x" + "11" * 20)
    policy = chain.Params(links=changes.pop("links", 1))
    fields: dict[str, Any] = {
        "spec": cid.from_bytes(b"\x01\x55\x12\x20" + b"\1" * 32), "spec_digest": word, "program_root": word, "state_root": word,
        "dataset_root": word, "schedule_root": word, "steps": 1, "micro_batches": 1, "segment_steps": 1, "micro_weight": 1, "update_weight": 1,
        "micro_leaves": 2, "update_leaves": 2, "price_cap": 1, "fee": 1, "budget": 1, "deadline": 1, "scheduler": account, "key_service": account,
    }  # fmt: skip
    return chain.Terms(**{**fields, **changes}, params=policy)


def test_the_vectors_are_what_their_script_writes() -> None:
    made = runpy.run_path(str(TOP / "tests" / "vectors" / "make.py"))["render"]()
    assert (TOP / "tests" / "vectors" / "protocol.json").read_text() == made


def test_the_calls_of_whole_games_are_what_their_script_writes() -> None:
    made = runpy.run_path(str(TOP / "tests" / "vectors" / "game_calls.py"))["render"]()
    assert (TOP / "tests" / "vectors" / "game_calls.json").read_text() == made


@pytest.mark.parametrize("vector", VECTORS["merkle"], ids=lambda v: str(v["count"]))
def test_merkle_trees(vector: dict[str, Any]) -> None:
    assert (raw(VECTORS["pad"]), raw(VECTORS["empty"])) == (merkle.PAD, merkle.EMPTY)
    leaves = [merkle.leaf(i, raw(item)) for i, item in enumerate(vector["items"])]
    assert merkle.root(leaves) == raw(vector["root"])
    for proof in vector["proofs"]:
        path = tuple(raw(node) for node in proof["path"])
        assert merkle.prove(leaves, proof["index"]) == path
        assert merkle.verify(raw(vector["root"]), vector["count"], proof["index"], leaves[proof["index"]], path)
        wrong = merkle.leaf(proof["index"], b"another item")
        assert not merkle.verify(raw(vector["root"]), vector["count"], proof["index"], wrong, path)


@pytest.mark.parametrize("v", VECTORS["commitment"], ids=lambda v: str(v["job"]))
def test_commitments(v: dict[str, Any]) -> None:
    checkpoint = cid.from_bytes(raw(v["checkpoint"]))
    assert cid.to_bytes(checkpoint) == raw(v["checkpoint"])
    made = draw.commitment(
        v["chain_id"], Address(v["jobs"]), JobId(v["job"]), raw(v["parent"]), raw(v["program"]), v["start"], v["stop"],
        raw(v["links"]), checkpoint, raw(v["key"]),
    )  # fmt: skip
    assert made == raw(v["digest"])


@pytest.mark.parametrize("v", VECTORS["draw"], ids=lambda v: str(v["segment"]))
def test_draws(v: dict[str, Any]) -> None:
    seed = draw.seed(raw(v["block_hash"]), SegmentId(v["segment"]), v["round"])
    assert seed == raw(v["seed"])
    job = terms(
        micro_batches=v["micros"], micro_weight=v["micro_weight"], update_weight=v["update_weight"], links=len(v["units"])
    )  # fmt: skip
    assert list(draw.units(seed, job, v["steps"])) == v["units"]
    assert [draw.slot(seed, i, v["seats"]) for i in range(len(v["slots"]))] == v["slots"]


@pytest.mark.parametrize("v", VECTORS["attestation"], ids=lambda v: str(v["segment"]))
def test_attestations(v: dict[str, Any]) -> None:
    roots = [raw(root) for root in v["roots"]]
    made = draw.attestation(
        v["chain_id"], Address(v["jobs"]), SegmentId(v["segment"]), v["round"], v["agrees"], roots, Address(v["verifier"]), raw(v["salt"])
    )
    assert made == raw(v["digest"])


@pytest.mark.parametrize("v", VECTORS["opening"], ids=lambda v: str(v["segment"]))
def test_openings(v: dict[str, Any]) -> None:
    job = terms(micro_batches=v["micros"], micro_leaves=v["micro_leaves"], update_leaves=v["update_leaves"])
    made = [
        draw.opening(raw(v["block_hash"]), SegmentId(v["segment"]), Address(v["verifier"]), j, v["units"], job)
        for j in range(len(v["positions"]))
    ]
    assert made == list(zip(v["positions"], v["leaves"], strict=True))


@pytest.mark.parametrize("v", VECTORS["chunk"], ids=lambda v: str(v["segment"]))
def test_chunks_that_are_asked_for(v: dict[str, Any]) -> None:
    number = draw.chunk(raw(v["block_hash"]), SegmentId(v["segment"]))
    assert number == int.from_bytes(raw(v["number"]), "big")
    place, rest = hearing.end_named(number, v["units"], v["micros"])
    entry, rest = hearing.entry_named(rest, v["entries"])
    assert (place, entry, rest % v["chunks"]) == (v["place"], v["entry"], v["chunk"])


@pytest.mark.parametrize("contract", CONTRACTS)
def test_the_package_carries_each_contract(contract: str) -> None:
    artifact = json.loads((resources.files("assay") / "_data" / "contracts" / f"{contract}.json").read_text())
    code = bytes.fromhex(artifact["bytecode"].removeprefix("0x"))
    assert len(code) <= 49_152, "EIP-3860: creation code"
    assert artifact["abi"]


def test_jobs_answers_every_call_at_one_address() -> None:
    folder = resources.files("assay") / "_data" / "contracts"
    functions = {
        name: {e["name"] for e in json.loads((folder / f"{name}.json").read_text())["abi"] if e["type"] == "function"}
        for name in ("Jobs", "Segments", "Checks", "Escrow")
    }
    assert functions["Segments"] | functions["Checks"] | functions["Escrow"] <= functions["Jobs"]
