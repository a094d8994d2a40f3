# Jumps, barriers and accesses to memory of sm_90, for bench/machine.py, which counts them; the other instructions are in bench/meanings.py. It has
# no goal of its own.
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from machine import SHARED, WARP, Block, Lanes, Op, Run, always, flag_like

U32, U64, I64 = np.uint32, np.uint64, np.int64


def jump(b: Block, op: Op) -> Run:
    if "DIV" in op.modes:  # warps are whole where it is asked
        return lambda on: None
    to = b.labels[op.given[-1].strip("`()")]
    flag = b.flag(op.given[0]) if flag_like(op.given[0]) else None

    def run(on: Lanes) -> None:
        b.pc[on if flag is None else on & flag()] = to

    return run


def back(b: Block, op: Op) -> Run:
    of = b.bits(op.given[0].split()[0])

    def run(on: Lanes) -> None:
        b.pc[on] = (np.asarray(of())[on] // 16).astype(np.int64)

    return run


def ended(b: Block, op: Op) -> Run:
    def run(on: Lanes) -> None:
        b.over[on] = True

    return run


def named(op: Op) -> int:
    return int(op.given[0][1:])


def together(b: Block, op: Op) -> Run:
    def run(on: Lanes) -> None:
        b.masks[named(op)] = np.where(b.warps(on), on, b.masks.get(named(op), np.zeros(b.n, np.bool_)))

    return run


def waiting(b: Block, op: Op) -> Run:
    def run(on: Lanes) -> None:
        b.waits[on & b.masks[named(op)]] = named(op)

    return run


def left(b: Block, op: Op) -> Run:
    def run(on: Lanes) -> None:
        b.masks[named(op)] &= ~on

    return run


def barrier(b: Block, op: Op) -> Run:
    """Of all threads; with RED they tell each other whether one of them has a flag (OR), or all (AND), which B2R.RESULT gives."""
    vote = b.flag(op.given[1]) if op.modes[:2] in (("RED", "OR"), ("RED", "AND")) and len(op.given) == 2 else None
    if op.given[0] != "0x0" or (vote is None and (op.modes[0] != "SYNC" or len(op.given) > 1)):
        raise ValueError(f"an instruction that is not known: {op}")

    def run(on: Lanes) -> None:
        b.waits[on] = -2
        if vote is not None:
            b.all_have = op.modes[1] == "AND"
            b.votes[on] = vote()[on] != b.all_have

    return run


def gathering(b: Block, op: Op) -> Run:
    """Of a warp's threads: those that went another way are waited for."""
    if op.modes != ("ALL",):
        raise ValueError(f"an instruction that is not known: {op}")

    def run(on: Lanes) -> None:
        b.waits[on] = -3

    return run


def told(b: Block, op: Op) -> Run:
    if op.modes != ("RESULT",) or op.given[0] != "RZ":
        raise ValueError(f"an instruction that is not known: {op}")
    put = b.put_flag(op.given[1])

    def run(on: Lanes) -> None:
        put(np.full(b.n, (b.votes & ~b.over).any() != b.all_have), on)

    return run


# ---- memory


def place(b: Block, token: str) -> Callable[[], Any]:
    """Addresses that stand in brackets."""
    inside = token[token.rindex("[") + 1 : -1]
    terms: list[Callable[[], Any]] = []
    for part in inside.replace("+-", "+~").split("+"):
        if part[0] == "~":
            terms.append(always(I64(-int(part[1:], 16)).view(U64)))
        elif part.startswith("0x"):
            terms.append(always(U64(int(part, 16))))
        else:
            name, _, kind = part.partition(".")
            times = U64(int(kind[1:])) if kind.startswith("X") else U64(1)
            get = b.pair(name) if kind == "64" else b.bits(name)
            terms.append(lambda get=get, times=times: np.asarray(get()).astype(U64) * times)  # type: ignore[misc]
    return lambda: sum((t() for t in terms), start=b.zero.astype(U64))


def size_of(op: Op) -> int:
    """Bytes of an access."""
    return next((size for mode, size in (("U8", 1), ("S8", 1), ("U16", 2), ("S16", 2), ("64", 8), ("128", 16)) if mode in op.modes), 4)


def asked(b: Block, address: Any, size: int, on: Lanes) -> None:
    """Counts the sectors of 32 bytes that each warp asks for."""
    where = np.flatnonzero(on)
    first, last = address[where] >> U64(5), (address[where] + U64(size - 1)) >> U64(5)
    warp = (where // WARP).astype(U64) << U64(50)
    b.counts["sectors"] += len(np.unique(np.concatenate([warp | first, warp | last])))


def fronts(b: Block, address: Any, size: int, on: Lanes) -> None:
    """Counts how often shared memory's 32 banks are asked: once for each different word of a bank, half a warp at a time where a thread takes 8
    bytes, a quarter where 16."""
    at_once = WARP * 4 // max(4, size)
    where = np.flatnonzero(on)
    words = np.concatenate([(address[where].astype(I64) >> 2) + k for k in range(max(1, size // 4))])
    group = np.tile(where // at_once, max(1, size // 4))
    found = np.unique(group.astype(I64) << 40 | words)
    _, counts = np.unique(found >> 40 << 8 | found & 31, return_counts=True)
    banks = np.unique(found >> 40 << 8 | found & 31)
    most = np.zeros(int(group.max()) + 1, I64)
    np.maximum.at(most, banks >> 8, counts)
    b.counts["wavefronts"] += int(most.sum())


def load(b: Block, op: Op) -> Run:
    at, size = place(b, op.given[1]), size_of(op)
    first = op.given[0]
    names = [first] if first == "RZ" else [f"R{int(first[1:]) + k}" for k in range(max(1, size // 4))]
    puts = [b.put(n) for n in names]

    def run(on: Lanes) -> None:
        address = at()
        if op.name == "LDS":
            fronts(b, address, size, on)
            word = address.astype(I64) // 4 % (SHARED // 4)
            for k, put in enumerate(puts):
                put(b.near[(word + k) % (SHARED // 4)], on)
        elif op.name == "LDL":
            word = address.astype(I64) // 4 % len(b.local)
            for k, put in enumerate(puts):
                put(b.local[(word + k) % len(b.local), np.arange(b.n)], on)
        else:
            asked(b, address, size, on)
            for k, put in enumerate(puts):
                put(b.memory.word(address + U64(4 * k), min(size, 4), size == 8), on)

    return run


def copied(b: Block, op: Op) -> Run:
    """From the device's memory to shared memory, at once."""
    to, at, size = place(b, op.given[0]), place(b, op.given[1]), size_of(op)
    if len(op.given) > 2:
        raise ValueError(f"an instruction that is not known: {op}")

    def run(on: Lanes) -> None:
        near, far = to(), at()
        asked(b, far, size, on)
        fronts(b, near, size, on)
        for k in range(size // 4):
            b.near[(near.astype(I64)[on] // 4 + k) % (SHARED // 4)] = b.memory.word(far + U64(4 * k), 4, False)[on]

    return run


def matrices(b: Block, op: Op) -> Run:
    """Matrices of 8 x 8 halves: thread 8 k + r of a warp says where row r of matrix k is; register k of thread t is word t % 4 of row t / 4 of it
    ("PTX ISA", ldmatrix)."""
    count = int(op.modes[2]) if op.modes[2:] else 1
    if op.modes[:2] != ("16", "M88") or "T" in op.modes:
        raise ValueError(f"an instruction that is not known: {op}")
    at, puts, own = place(b, op.given[1]), [b.put(f"R{int(op.given[0][1:]) + k}") for k in range(count)], np.arange(b.n)

    def run(on: Lanes) -> None:
        address = at().astype(I64)
        fronts(b, address, 16, on & (own % WARP < 8 * count))
        for k, put in enumerate(puts):
            put(b.near[(address[own // WARP * WARP + 8 * k + own % WARP // 4] // 4 + own % 4) % (SHARED // 4)], on)

    return run


def store(b: Block, op: Op) -> Run:
    at, size = place(b, op.given[0]), size_of(op)
    name = op.given[1]
    values = [b.bits(name if name == "RZ" else f"R{int(name[1:]) + k}") for k in range(max(1, size // 4))]

    def run(on: Lanes) -> None:
        address = at()
        if op.name == "STS":
            fronts(b, address, size, on)
        elif op.name != "STL":
            asked(b, address, size, on)
            return
        word = address.astype(I64) // 4
        for k, value in enumerate(values):
            given = np.broadcast_to(np.asarray(value()), b.n)[on]
            if op.name == "STL":
                b.local[(word[on] + k) % len(b.local), np.flatnonzero(on)] = given
            elif size == 1:
                bits = (address[on] % U64(4) * U64(8)).astype(U32)
                np.bitwise_and.at(b.near, word[on] % (SHARED // 4), ~(U32(255) << bits))
                np.bitwise_or.at(b.near, word[on] % (SHARED // 4), (given & U32(255)) << bits)
            else:
                b.near[(word[on] + k) % (SHARED // 4)] = given

    return run


def atomic(b: Block, op: Op) -> Run:
    """In shared memory as it is; elsewhere what was there is nothing, or what a comparison wants."""
    if op.name == "ATOMS":
        at, value = place(b, op.given[1]), b.bits(op.given[2])
        what = {"ADD": np.add, "MAX": np.maximum}[op.modes[0]]

        def near(on: Lanes) -> None:
            address = at()
            fronts(b, address, 4, on)
            what.at(b.near, address[on].astype(I64) // 4 % (SHARED // 4), np.broadcast_to(np.asarray(value()), b.n)[on])

        if op.given[0] != "RZ":
            raise ValueError(f"an instruction that is not known: {op}")
        return near
    far = place(b, next(t for t in op.given if "[" in t))
    where = next(k for k, t in enumerate(op.given) if "[" in t)
    out = op.given[where - 1] if where else "RZ"
    same = b.bits(op.given[where + 1]) if "CAS" in op.modes else lambda: b.zero
    wide = "64" in op.modes

    def run(on: Lanes) -> None:
        asked(b, far(), 8 if wide else 4, on)
        if wide:
            b.put_pair(out)(b.zero.astype(U64), on)
        else:
            b.put(out)(same(), on)

    return run


PLACES: dict[str, Callable[[Block, Op], Run]] = {
    "BRA": jump, "CALL": jump, "RET": back, "EXIT": ended, "BSSY": together, "BSYNC": waiting, "BREAK": left, "BAR": barrier, "B2R": told,
    "WARPSYNC": gathering,
    "LDG": load, "LD": load, "LDS": load, "LDL": load, "STG": store, "ST": store, "STS": store, "STL": store, "LDGSTS": copied, "LDSM": matrices,
    "RED": atomic, "REDG": atomic, "ATOM": atomic, "ATOMG": atomic, "ATOMS": atomic,
}  # fmt: skip
