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
from assay.exact.types import ITEM_BYTES
from assay.ids import Address, Digest, DisputeId

MOST_ITEMS = 64
"""Of a list: a path in a tree of 2^64 leaves. Children are at most 32, the totals of a fold 8."""
MOST_NEEDS = 8
"""Openings in a move (MOST_NEEDS of dispute/Verdict.sol)."""
MOST_CALLDATA = 16 << 20
"""Bytes; no block has the gas for more."""
ZERO = Digest(bytes(32))
WORDS = "bytes32[6]"
LINK = ["bytes32"] * 8 + ["uint64", "uint64", "uint32", "uint32", "uint32"]

# ---- to calldata -----------------------------------------------------------------------------------------------------------


def _link(s: Shown) -> tuple[object, ...]:
    """The contract's struct Link."""
    roots = (s.program_root, s.data_root, s.schedule_root, s.state_root, s.acc_root, s.batch_root, s.end_root, s.trace_root)
    return (*(root or ZERO for root in roots), s.steps, s.step, s.m, s.micro_batches, s.leaves)


def _link_hash(s: Shown) -> bytes:
    return keccak(abi.encode(LINK, _link(s)))


def packed(parts: tuple[int, ...]) -> bytes:
    """Totals of parts, i64 each."""
    return b"".join(n.to_bytes(8, "big", signed=True) for n in parts)


def _folded(s: Shown, totals: tuple[int, ...], roots: Path, parts: tuple[tuple[int, ...], ...]) -> tuple[object, ...]:
    """The contract's struct Folded."""
    return (_link_hash(s), keccak(s.stage), totals, roots, tuple(keccak(packed(each)) for each in parts))


def _word(s: Shown, element: int) -> tuple[bytes, ...]:
    """The 32 bytes of the chunk that was shown with the element, and their siblings in the tree of keccak256 over its words (Words.sol)."""
    t = stages.decode_stage(s.stage).type if s.stage else stages.decode_input(s.record).type
    row, place = [s.chunk[i : i + 32] for i in range(0, 1024, 32)], element * ITEM_BYTES[t.dtype] % 1024 // 32
    out = [row[place]]
    while len(row) > 1:
        out.append(row[place ^ 1])
        row, place = [keccak(row[i] + row[i + 1]) for i in range(0, len(row), 2)], place >> 1
    return tuple(out)


def _pick(m: moves.Pick, s: Shown) -> tuple[str, tuple[object, ...]]:
    if s.parts:
        return "choose", (struct.pack(">QQQq", s.low, s.high, 0, s.total), packed(s.parts), m.which)
    shown = _folded(s, s.totals, s.roots, s.folded)
    if m.which == len(s.totals):
        return "pickOutput", (shown,)
    if m.item is not None:
        return "pickItem", (shown, s.stage, m.which, m.item.item, m.item.value, m.item.path)
    return "pick", (shown, s.stage, m.which, packed(s.folded[m.which]) if 0 <= m.which < len(s.folded) else b"", m.part)


def _point(m: moves.Point) -> tuple[str, tuple[object, ...]]:
    where = (m.node, m.index, m.path)
    return ("point", where) if m.element is None else ("pointElement", (*where, m.element))


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
    moves.Point: lambda m, s: _point(m),
    moves.Trace: lambda m, s: ("trace", (_trace(m),)),
    moves.Stage: lambda m, s: ("stage", (_link(s), m.head, m.stage, m.path, m.chunks, m.children)),
    moves.Chunk: lambda m, s: ("chunk", (m.chunk,)),
    moves.Name: lambda m, s: ("element", (m.element, _word(s, m.element) if s.chunk else (ZERO,) * 6)),
    moves.Prove: lambda m, s: ("prove", (_proof(s, m.chunk, (), m.needs),)),
    moves.Fold: lambda m, s: ("fold", (_folded(s, m.totals, m.roots, m.parts), tuple(packed(parts) for parts in m.parts))),
    moves.Pick: _pick,
    moves.Finish: lambda m, s: ("finish", (_proof(s, m.chunk, s.totals, m.needs),)),
    moves.Split: lambda m, s: ("split", (packed(m.parts),)),
    moves.Item: lambda m, s: ("item", (_proof(s, b"", s.totals, m.needs),)),
    moves.End: lambda m, s: ("end", (_link(s), m.head, m.entries, m.children)),
    moves.EndEntry: lambda m, s: ("endEntry", (_proof(s, b"", (), (_entry(m),)), m.record, m.record_path, m.tensor)),
    moves.Batch: lambda m, s: ("batch", (_link(s), m.count, m.entries, m.children)),
    moves.Missing: lambda m, s: ("missing", (_link(s), (m.head, m.at, m.input, m.input_path))),
    moves.BatchEntry: lambda m, s: ("batchEntry", (_link(s), (m.head, m.at, m.input, m.input_path), m.chunks, m.children)),
    moves.Gather: lambda m, s: ("gather", (_gather(m, s),)),
    moves.Timeout: lambda m, s: ("timeout", ()),
}


def encode(dispute: DisputeId, move: AnyMove, shown: Shown) -> bytes:
    """Raises ValueError when a field does not fit."""
    try:
        function, arguments = _ENCODERS[type(move)](move, shown)
    except (OverflowError, struct.error) as error:
        raise ValueError(f"{type(move).__name__} cannot be sent like this: {error}") from None
    return evm_abi.encode("disputes", function, dispute, *arguments)


# ---- from calldata ---------------------------------------------------------------------------------------------------------


def _dynamic(item: dict[str, Any]) -> bool:
    return item["type"] in ("bytes", "bytes[]", "bytes32[]", "int256[]", "tuple[]") or any(_dynamic(part) for part in item.get("components", ()))


def _size(item: dict[str, Any]) -> int:
    """Bytes that it takes where it is named."""
    if item["type"] == WORDS:
        return 192
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
        if item["type"] == WORDS:
            return tuple(self.word("bytes32", at + 32 * i) for i in range(6))
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
                return self.bytes(start)
            case "bytes[]":
                count = self.uint(start)
                if count > MOST_NEEDS:
                    raise BadLog(f"a move with {count} lists of parts")
                return tuple(self.bytes(start + 32 + self.uint(start + 32 * (i + 1))) for i in range(count))
        count = self.uint(start)
        if count > MOST_ITEMS or start + 32 + 32 * count > len(self.data):
            return ()
        return tuple(self.word(item["type"].removesuffix("[]"), start + 32 * (i + 1)) for i in range(count))

    def bytes(self, start: int) -> bytes:
        length = self.uint(start)
        return self.data[start + 32 : start + 32 + length] if start + 32 + length <= len(self.data) else b""

    def word(self, kind: str, at: int) -> Any:
        """Zero for what is no `kind`."""
        if kind == "bytes32":
            return Digest(self.data[at : at + 32])
        value = self.uint(at)
        if kind in ("int256", "int64"):
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


def _parts(data: bytes) -> tuple[int, ...]:
    """The contract takes none but whole ones."""
    if len(data) % 8:
        raise BadLog(f"parts of {len(data)} bytes")
    return tuple(int.from_bytes(data[i : i + 8], "big", signed=True) for i in range(0, len(data), 8))


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
    "pointElement": lambda node, index, path, element: moves.Point(index=index, node=node, path=path, element=element),
    "trace": _trace_of,
    "stage": lambda _, head, stage, path, chunks, children: moves.Stage(head=head, stage=stage, path=path, chunks=chunks, children=children),
    "chunk": lambda chunk: moves.Chunk(chunk=chunk),
    "element": lambda element, word: moves.Name(element=element),
    "prove": lambda p: moves.Prove(chunk=p[3], needs=_openings(p)),
    "fold": lambda f, parts: moves.Fold(totals=f[2], roots=f[3], parts=tuple(_parts(each) for each in parts)),
    "pick": lambda f, stage, fold, parts, part: moves.Pick(which=fold, part=part),
    "pickItem": lambda f, stage, fold, item, value, path: moves.Pick(which=fold, item=moves.FoldItem(item=item, value=value, path=path)),
    "pickOutput": lambda f: moves.Pick(which=len(f[2])),
    "finish": lambda p: moves.Finish(chunk=p[3], needs=_openings(p)),
    "choose": lambda range, parts, part: moves.Pick(which=part),
    "split": lambda parts: moves.Split(parts=_parts(parts)),
    "item": lambda p: moves.Item(needs=_openings(p)),
    "end": _end_of,
    "endEntry": _end_entry_of,
    "batch": lambda _, count, entries, children: moves.Batch(count=count, entries=entries, children=children),
    "missing": lambda _, f: moves.Missing(head=f[0], at=f[1], input=f[2], input_path=f[3]),
    "batchEntry": lambda _, f, chunks, children: moves.BatchEntry(head=f[0], at=f[1], input=f[2], input_path=f[3], chunks=chunks, children=children),
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
