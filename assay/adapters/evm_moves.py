"""Moves of a dispute as calldata of the Disputes contract (contracts/src/interfaces/IDisputes.sol), and back.

    data = encode(dispute, move, shown(state))         # `shown`: what earlier moves have shown and the contract has only a hash of
    dispute, move = decode(data)                       # of a move that the contract has taken; BadLog for what is none

A party must understand every move that the contract took, or its opponent could make one that it cannot answer. So calldata are read as
the contract reads them (docs.soliditylang.org, abi-spec, and calldata of nested types): the encoder's layout is not asked for, bytes that
nothing points to mean nothing, and a member that cannot be read is zero or empty: the contract reverts when it reads such a thing, so it
has not read it. What is read is bounded by the calldata, by MOST_ITEMS in a list and MOST_NEEDS openings.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from typing import Any

from eth_abi import abi
from eth_utils.abi import function_abi_to_4byte_selector
from eth_utils.crypto import keccak

from assay import stages
from assay.adapters import evm_abi
from assay.adapters.evm_abi import BadLog
from assay.dispute import moves
from assay.dispute.moves import AnyMove, Named, Opening, Path, Shown
from assay.ids import Address, Digest, DisputeId

MOST_ITEMS = 64
"""Of a list: a path in a tree of 2^64 leaves. Children and parts are at most 16."""
MOST_NEEDS = 8
"""Openings in a move (MOST_NEEDS of dispute/Verdict.sol)."""
MOST_CALLDATA = 16 << 20
"""Bytes; no block has the gas for more."""
ZERO = Digest(bytes(32))
LINK = ["bytes32"] * 8 + ["uint64", "uint64", "uint32", "uint32", "uint32"]

# ---- to calldata -----------------------------------------------------------------------------------------------------------


def _link(s: Shown) -> tuple[object, ...]:
    """The contract's struct Link."""
    roots = (s.program_root, s.data_root, s.schedule_root, s.state_root, s.acc_root, s.batch_root, s.end_root, s.trace_root)
    return (*(root or ZERO for root in roots), s.steps, s.step, s.m, s.micro_batches, s.leaves)


def _link_hash(s: Shown) -> bytes:
    return keccak(abi.encode(LINK, _link(s)))


def _totals_hash(s: Shown) -> bytes:
    return keccak(abi.encode(["int256[]"], [s.totals]))


def _evidence(o: Opening) -> tuple[object, ...]:
    return (o.input, o.input_path, o.entries, o.count, o.path, o.chunks, o.chunk, o.chunk_path)


def _proof(s: Shown, chunk: bytes, totals: tuple[int, ...], needs: tuple[Opening, ...]) -> tuple[object, ...]:
    return (_link(s), s.head, s.stage, chunk, totals, [_evidence(need) for need in needs])


def _trace(m: moves.Trace) -> tuple[object, ...]:
    none = Named(root=ZERO, path=())
    ends = [part for end in (m.state or none, m.acc or none, m.end) for part in (end.root, end.path)]
    return (*ends, m.batch_root, m.trace_root, m.head_path, m.end_path, m.children)


def _entry(m: moves.EndEntry) -> Opening:
    where = {"input": m.input, "input_path": m.input_path, "count": m.count, "entries": m.entries, "path": m.path}
    return Opening(**where, chunks=ZERO, chunk=b"", chunk_path=())  # type: ignore[arg-type]


def _gather(m: moves.Gather, s: Shown) -> tuple[object, ...]:
    first, records = struct.unpack(">QQ", m.shard[:16])
    shard = (m.shard_at, first, records, m.shard[16:], m.shard_path)
    return (_link(s), s.record, m.data, m.chunk, *shard, m.salt + m.record, m.record_path)


_ENCODERS: dict[type[moves.Move], Callable[[Any, Shown], tuple[str, tuple[object, ...]]]] = {
    moves.Open: lambda m, s: ("open", (m.target, m.unit, m.verifier, m.round, m.salt)),
    moves.Concede: lambda m, s: ("concede", ()),
    moves.Reveal: lambda m, s: ("reveal", (m.children,)),
    moves.Point: lambda m, s: ("point", (m.node, m.index, m.path)),
    moves.Trace: lambda m, s: ("trace", (_trace(m),)),
    moves.Stage: lambda m, s: ("stage", (_link(s), m.head, m.stage, m.path, m.chunks, m.children)),
    moves.Chunk: lambda m, s: ("chunk", (m.chunk,)),
    moves.Name: lambda m, s: ("element", (m.element,)),
    moves.Prove: lambda m, s: ("prove", (_proof(s, m.chunk, (), m.needs),)),
    moves.Fold: lambda m, s: ("fold", (_proof(s, m.chunk, m.totals, m.needs),)),
    moves.Pick: lambda m, s: ("choose", (s.parts, m.which)) if s.parts else ("pick", (_link_hash(s), s.stage, s.totals, m.which)),
    moves.Split: lambda m, s: ("split", (_link_hash(s), _totals_hash(s), s.stage, m.parts)),
    moves.Item: lambda m, s: ("item", (_proof(s, b"", s.totals, m.needs),)),
    moves.End: lambda m, s: ("end", (_link(s), m.head, m.entries, m.children)),
    moves.EndEntry: lambda m, s: ("endEntry", (_proof(s, b"", (), (_entry(m),)), m.record, m.record_path, m.tensor)),
    moves.Batch: lambda m, s: ("batch", (_link(s), m.count, m.entries, m.children)),
    moves.Missing: lambda m, s: ("missing", (_link(s), m.head, m.at, m.input, m.input_path)),
    moves.BatchEntry: lambda m, s: ("batchEntry", (_link(s), m.head, m.at, m.input, m.input_path, m.chunks, m.children)),
    moves.Gather: lambda m, s: ("gather", (_gather(m, s),)),
    moves.Timeout: lambda m, s: ("timeout", ()),
}


def encode(dispute: DisputeId, move: AnyMove, shown: Shown) -> bytes:
    """Raises ValueError when a field does not fit."""
    function, arguments = _ENCODERS[type(move)](move, shown)
    return evm_abi.encode("disputes", function, dispute, *arguments)


# ---- from calldata ---------------------------------------------------------------------------------------------------------


def _dynamic(item: dict[str, Any]) -> bool:
    return item["type"] in ("bytes", "bytes32[]", "int256[]", "tuple[]") or any(_dynamic(part) for part in item.get("components", ()))


def _size(item: dict[str, Any]) -> int:
    """Bytes that it takes where it is named."""
    if _dynamic(item) or "components" not in item:
        return 32
    return sum(_size(part) for part in item["components"])


class _Calldata:
    """The arguments of a call, after the selector."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def uint(self, at: int) -> int:
        """Zero past the end, as the EVM has it."""
        return int.from_bytes(self.data[at : at + 32].ljust(32, b"\0"), "big")

    def members(self, items: list[dict[str, Any]], base: int) -> list[Any]:
        """Arguments, or members of a struct, whose places start at `base`. Raises BadLog when they end past the calldata."""
        if base + sum(map(_size, items)) > len(self.data):
            raise BadLog("calldata that end before their arguments")
        out, at = [], base
        for item in items:
            out.append(self.value(item, base, at))
            at += _size(item)
        return out

    def value(self, item: dict[str, Any], base: int, at: int) -> Any:
        if not _dynamic(item):
            return self.members(item["components"], at) if item["type"] == "tuple" else self.word(item["type"], at)
        start = base + self.uint(at)
        match item["type"]:
            case "tuple":
                return self.members(item["components"], start)
            case "tuple[]":
                count = self.uint(start)
                if count > MOST_NEEDS:
                    raise BadLog(f"a move with {count} openings")
                return [self.members(item["components"], start + 32 + self.uint(start + 32 * (i + 1))) for i in range(count)]
            case "bytes":
                length = self.uint(start)
                return self.data[start + 32 : start + 32 + length] if start + 32 + length <= len(self.data) else b""
        count = self.uint(start)
        if count > MOST_ITEMS or start + 32 + 32 * count > len(self.data):
            return ()
        return tuple(self.word(item["type"].removesuffix("[]"), start + 32 * (i + 1)) for i in range(count))

    def word(self, kind: str, at: int) -> Any:
        """Zero for what is no `kind`."""
        if kind == "bytes32":
            return Digest(self.data[at : at + 32])
        value = self.uint(at)
        if kind == "int256":
            return value - (1 << 256) if value >> 255 else value
        value = 0 if value >> (160 if kind == "address" else int(kind.removeprefix("uint"))) else value
        return Address(f"0x{value:040x}") if kind == "address" else value


def _opening(e: list[Any]) -> Opening:
    return Opening(
        input=e[0], input_path=e[1], entries=e[2], count=e[3], path=e[4], chunks=e[5], chunk=e[6], chunk_path=e[7]
    )  # fmt: skip


def _openings(proof: list[Any]) -> tuple[Opening, ...]:
    return tuple(_opening(e) for e in proof[5])


def _named(root: Digest, path: Path) -> Named | None:
    return Named(root=root, path=path) if root != ZERO or path else None


def _trace_of(t: list[Any]) -> moves.Trace:
    return moves.Trace(
        state=_named(t[0], t[1]), acc=_named(t[2], t[3]), end=Named(root=t[4], path=t[5]), batch_root=t[6], trace_root=t[7], head_path=t[8],
        end_path=t[9], children=t[10],
    )  # fmt: skip


def _end_of(link: list[Any], head: bytes, entries: Digest, children: Path) -> moves.End:
    """The contract takes the number of entries from the program."""
    try:
        _, micro_batches, parts = stages.decode_head(head)
    except stages.Undecodable as error:
        raise BadLog(f"no program: {error}") from None
    return moves.End(head=head, count=parts[link[10] == micro_batches].outputs, entries=entries, children=children)


def _end_entry_of(proof: list[Any], record: bytes, record_path: Path, tensor: Digest) -> moves.EndEntry:
    if len(proof[5]) != 1:
        raise BadLog(f"an entry of the end with {len(proof[5])} openings")
    (o,) = _openings(proof)
    where: Any = {"input": o.input, "input_path": o.input_path, "count": o.count, "entries": o.entries, "path": o.path}
    return moves.EndEntry(record=record, record_path=record_path, tensor=tensor, **where)


def _gather_of(g: list[Any]) -> moves.Gather:
    shard = struct.pack(">QQ", g[5], g[6]) + g[7]
    return moves.Gather(
        chunk=g[3], data=g[2], shard=shard, shard_at=g[4], shard_path=g[8], salt=Digest(g[9][:32]), record=g[9][32:], record_path=g[10]
    )


_DECODERS: dict[str, Callable[..., AnyMove]] = {
    "open": lambda target, unit, verifier, round, salt: moves.Open(target=target, unit=unit, verifier=verifier, round=round, salt=salt),
    "concede": moves.Concede,
    "reveal": lambda children: moves.Reveal(children=children),
    "point": lambda node, index, path: moves.Point(index=index, node=node, path=path),
    "trace": _trace_of,
    "stage": lambda _, head, stage, path, chunks, children: moves.Stage(head=head, stage=stage, path=path, chunks=chunks, children=children),
    "chunk": lambda chunk: moves.Chunk(chunk=chunk),
    "element": lambda element: moves.Name(element=element),
    "prove": lambda p: moves.Prove(chunk=p[3], needs=_openings(p)),
    "fold": lambda p: moves.Fold(chunk=p[3], totals=p[4], needs=_openings(p)),
    "pick": lambda link, stage, totals, fold: moves.Pick(which=fold),
    "choose": lambda parts, part: moves.Pick(which=part),
    "split": lambda link, totals, stage, parts: moves.Split(parts=parts),
    "item": lambda p: moves.Item(needs=_openings(p)),
    "end": _end_of,
    "endEntry": _end_entry_of,
    "batch": lambda _, count, entries, children: moves.Batch(count=count, entries=entries, children=children),
    "missing": lambda _, head, at, record, path: moves.Missing(head=head, at=at, input=record, input_path=path),
    "batchEntry": lambda _, head, at, record, path, chunks, children: moves.BatchEntry(
        head=head, at=at, input=record, input_path=path, chunks=chunks, children=children
    ),
    "gather": _gather_of,
    "timeout": moves.Timeout,
}


@functools.cache
def _functions() -> dict[bytes, tuple[str, list[dict[str, Any]]]]:
    """(name, arguments) of the moves by selector."""
    entries = [entry for entry in evm_abi.artifact("disputes")["abi"] if entry["type"] == "function" and entry["name"] in _DECODERS]
    return {function_abi_to_4byte_selector(entry): (entry["name"], entry["inputs"]) for entry in entries}


def decode(data: bytes) -> tuple[DisputeId, AnyMove]:
    """A move that the contract has taken, and of which dispute. Raises BadLog for what cannot be one."""
    if len(data) > MOST_CALLDATA or data[:4] not in _functions():
        raise BadLog(f"calldata of {len(data)} bytes that are no move: {data.hex()[:80]}")
    name, inputs = _functions()[data[:4]]
    dispute, *arguments = _Calldata(data[4:]).members(inputs, 0)
    return DisputeId(dispute), _DECODERS[name](*arguments)
