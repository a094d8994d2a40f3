# What threads of a warp of sm_90 do together, for bench/machine.py: exchanges, votes, sums over a warp, products of tensor cores. It has no goal of
# its own.
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from machine import WARP, Block, Lanes, Op, Run, flag_like

U32, U64, I32, I64 = np.uint32, np.uint64, np.int32, np.int64


def shfl(b: Block, op: Op) -> Run:
    put, x, by = b.put(op.given[1]), b.bits(op.given[2]), b.bits(op.given[3])
    lane = np.arange(b.n) % WARP

    def run(on: Lanes) -> None:
        s = np.broadcast_to(np.asarray(by()), b.n).astype(I64)
        to = {"BFLY": lane ^ s, "IDX": s, "DOWN": lane + s, "UP": lane - s}[op.modes[0]]
        put(np.asarray(x())[np.arange(b.n) // WARP * WARP + np.where((to >= 0) & (to < WARP), to, lane)], on)

    return run


def redux(b: Block, op: Op) -> Run:
    put, x = b.put(op.given[0]), b.bits(op.given[1])
    kind: Any = I32 if "S32" in op.modes else U32
    what = {"SUM": np.add, "MAX": np.maximum, "MIN": np.minimum, "OR": np.bitwise_or, "AND": np.bitwise_and}[op.modes[0]]

    def run(on: Lanes) -> None:
        values = np.broadcast_to(np.asarray(x()), b.n).view(kind).reshape(-1, WARP)
        lanes = on.reshape(-1, WARP)
        out = np.zeros(len(lanes), U32)
        for k in np.flatnonzero(lanes.any(1)):
            out[k] = what.reduce(values[k][lanes[k]]).astype(kind).view(U32)
        put(np.repeat(out, WARP), on)

    return run


def vote(b: Block, op: Op) -> Run:
    flag = b.flag(op.given[-1])
    kind = op.modes[0]

    def run(on: Lanes) -> None:
        mine, lanes = (flag() & on).reshape(-1, WARP), on.reshape(-1, WARP)
        mask = (mine * (U64(1) << np.arange(WARP, dtype=U64))).sum(1).astype(U32)
        found = (mine == lanes).all(1) if kind == "ALL" else mine.any(1)
        for token in op.given[:-1]:
            if flag_like(token):
                b.put_flag(token)(np.repeat(found, WARP), on)
            else:
                b.put(token)(np.repeat(mask, WARP), on)

    return run


def imma(b: Block, op: Op) -> Run:
    """16 x 8 sums of 32 products of bytes; thread t of 32 has, with g = t / 4 and c = t % 4, bytes 4 c + 16 h + (0 to 3) of rows g + 8 r of A in its
    register 2 h + r, of column g of B in register h, and of sums columns 2 c + s of row g + 8 r in 2 r + s ("PTX ISA", mma.m16n8k32)."""
    out, a, of_b, c = (token.partition(".")[0] for token in op.given)
    if op.modes[0] != "16832":
        raise ValueError(f"an instruction that is not known: {op}")
    kinds = [np.int8 if kind == "S8" else np.uint8 for kind in op.modes[1:3]]
    behind = lambda name, k: name if name == "RZ" else f"R{int(name[1:]) + k}"  # noqa: E731
    rows = [b.bits(behind(a, k)) for k in range(4)]
    columns = [b.bits(behind(of_b, k)) for k in range(2)]
    before, puts = [b.bits(behind(c, k)) for k in range(4)], [b.put(behind(out, k)) for k in range(4)]

    def bytes_of(gets: list[Callable[[], Any]], kind: Any) -> Any:
        """(warps, g, register, c, byte)."""
        words = np.stack([np.broadcast_to(np.asarray(get()), b.n) for get in gets], -1).astype(U32)
        return words.view(kind).reshape(-1, 8, 4, len(gets), 4).transpose(0, 1, 3, 2, 4).astype(I64)

    def run(on: Lanes) -> None:
        left = bytes_of(rows, kinds[0]).reshape(-1, 8, 2, 2, 16)  # h, r
        left = left.transpose(0, 3, 1, 2, 4).reshape(-1, 16, 32)
        right = bytes_of(columns, kinds[1]).reshape(-1, 8, 32)
        sums = (left @ right.transpose(0, 2, 1)).reshape(-1, 2, 8, 4, 2)  # r, g, c, s
        sums = sums.transpose(0, 2, 3, 1, 4).reshape(-1, 4)
        for k, (put, get) in enumerate(zip(puts, before, strict=True)):
            put((sums[:, k] + np.asarray(get()).astype(I64) & 0xFFFFFFFF).astype(U32), on)

    return run


WARPS: dict[str, Callable[[Block, Op], Run]] = {"SHFL": shfl, "REDUX": redux, "VOTE": vote, "VOTEU": vote, "IMMA": imma}
