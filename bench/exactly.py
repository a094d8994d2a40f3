# What bench/machine.py needs beside bench/meanings.py so that a kernel's machine code gives the bits it has: one rounding for FFMA, NVIDIA's NaN,
# memory whose every access is looked at, atomics. For tests (tests/exact/coded.py), which compare these bits with the reference's; it has no goal of
# its own.
#
# The bits of reciprocals and roots (MUFU) are published nowhere, only how far from the truth they may be; nor is which quotients FCHK sends the slow
# way. `Loose` says which of all that is allowed is taken: what a kernel gives must be the same for each. But for one thing: the reciprocal of a
# number whose significand is all ones is the nearest always, for NVIDIA's own division of floats is wrong with others. An instruction whose meaning
# is not known to the bit ends it with ValueError.
from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import meanings
import numpy as np
from accesses import place, size_of
from machine import SHARED, WARP, Block, Lanes, Memory, Op, Run, flag_like
from rounding import NAN, canonical, directed, flushed, fused

U32, U64, I32, I64, F32, F64 = np.uint32, np.uint64, np.int32, np.int64, np.float32, np.float64
ONES = U32(0x7FFFFF)
RCP_ULPS, RSQ_RELATIVE = 1.0, 2.0**-22.9
"""How far rcp.approx and rsqrt.approx may be from the truth ("PTX ISA")."""
SIZED = {"U8": np.uint8, "S8": np.int8, "U16": np.uint16, "S16": np.int16}


class Loose(NamedTuple):
    side: int
    """Reciprocals and roots: -1 the lowest that is allowed, 1 the highest, 0 the nearest. Not 0: subnormals are flushed there."""
    slow: bool
    """FCHK sends every quotient the slow way."""


class Real(Memory):
    """Memory of this process between `buffers` (address, bytes); an access elsewhere, or that is not aligned, raises IndexError."""

    def __init__(self, buffers: list[tuple[int, int]], loose: Loose) -> None:
        super().__init__({}, {})
        own = sorted(buffers)
        self.loose, self.low = loose, own[0][0]
        self._begin = np.array([at for at, _ in own], U64)
        self._end = np.array([at + size for at, size in own], U64)
        span = max(at + size for at, size in own) - self.low
        self.bytes = np.ctypeslib.as_array((ctypes.c_uint8 * (span + 16)).from_address(self.low))

    def at(self, address: Any, size: int) -> Any:
        """Where in `bytes` accesses of so many bytes are."""
        which = np.searchsorted(self._begin, address, "right") - 1
        if (which < 0).any() or (address + U64(size) > self._end[which]).any():
            raise IndexError("an access outside of all buffers")
        if (address % U64(size)).any():
            raise IndexError(f"an access of {size} bytes that is not aligned")
        return (address - U64(self.low)).astype(I64)


def unknown(op: Op) -> ValueError:
    return ValueError(f"an instruction that is not known to the bit: {op}")


def only(op: Op, *modes: str) -> None:
    if set(op.modes) - set(modes):
        raise unknown(op)


def spaced(token: str, count: int) -> list[str]:
    return [token] * count if token == "RZ" else [f"R{int(token[1:]) + k}" for k in range(count)]


# ---- floats


def floats(what: Callable[..., Any]) -> Callable[[Block, Op], Run]:
    def made(b: Block, op: Op) -> Run:
        ways = [mode for mode in op.modes if mode in ("RM", "RP", "RZ")]
        only(op, "FTZ", *(("RM", "RP", "RZ") if op.name == "FFMA" else ()))
        put, given, how = b.put(op.given[0]), [b.real(t) for t in op.given[1:]], directed(ways[0]) if ways else what
        if "FTZ" not in op.modes:
            return lambda on: put(canonical(how(*(np.broadcast_to(g(), b.n) for g in given))), on)

        def run(on: Lanes) -> None:
            values = [flushed(np.broadcast_to(g(), b.n)) for g in given]
            out = np.asarray(how(*values), F32)
            if op.name != "FADD" and (on & (np.abs(out) == F32(2.0**-126))).any():  # sums this small are exact
                raise ValueError(f"whether this is flushed depends on how it is rounded: {op}")
            put(canonical(flushed(out)), on)

        return run

    return made


def fmnmx(b: Block, op: Op) -> Run:
    """-0 is below 0."""
    only(op, "NAN")
    put, x, y, least = b.put(op.given[0]), b.real(op.given[1]), b.real(op.given[2]), b.flag(op.given[3])

    def rank(v: Any) -> Any:
        word = v.view(I32).astype(I64)
        return np.where(word < 0, -(word & 0x7FFFFFFF) - 1, word)

    def run(on: Lanes) -> None:
        p, q = (np.broadcast_to(v(), b.n) for v in (x, y))
        first = np.where(least(), rank(p) < rank(q), rank(p) > rank(q))
        first = np.where(np.isnan(q), True, first & ~np.isnan(p))
        out = np.where(first, p, q).astype(F32)
        none = np.isnan(p) | np.isnan(q) if "NAN" in op.modes else np.isnan(p) & np.isnan(q)
        put(np.where(none, NAN, out.view(U32)), on)

    return run


def mufu(b: Block, op: Op) -> Run:
    put, x = b.put(op.given[0]), b.real(op.given[1])
    if op.modes not in (("RCP",), ("RSQ",)):
        raise unknown(op)
    assert isinstance(b.memory, Real)
    side = b.memory.loose.side

    def flush(v: Any) -> Any:
        return np.where(np.abs(v) < 2.0**-126, np.copysign(0.0, v), v) if side else v

    def run(on: Lanes) -> None:
        v = flush(np.broadcast_to(x(), b.n).astype(F64))
        true: Any = 1 / v if op.modes == ("RCP",) else 1 / np.sqrt(v)
        out = true.astype(F32)
        room = np.spacing(np.abs(out)).astype(F64) * RCP_ULPS if op.modes == ("RCP",) else true * RSQ_RELATIVE
        room = np.where(np.asarray(v.astype(F32)).view(U32) & ONES == ONES, 0, room)  # NVIDIA's own division wants the nearest
        for _ in range(2 if side else 0):
            far = np.nextafter(out, F32(side * np.inf))
            out = np.where(np.isfinite(out) & (out != 0) & (np.abs(far.astype(F64) - true) <= room), far, out).astype(F32)
        put(canonical(flush(out).astype(F32)), on)

    return run


def fchk(b: Block, op: Op) -> Run:
    """Which quotients go the slow way is published nowhere. Here those do that are near the ends of what there is, or all."""
    assert isinstance(b.memory, Real)
    put, x, y, slow = b.put_flag(op.given[0]), b.bits(op.given[1], True), b.bits(op.given[2], True), b.memory.loose.slow

    def run(on: Lanes) -> None:
        p, q = ((np.broadcast_to(np.asarray(v()), b.n) >> U32(23) & U32(255)).astype(I32) for v in (x, y))
        put((p < 32) | (p > 250) | (q < 4) | (q > 250) | (np.abs(p - q) > 120) | slow, on)

    return run


def from_integer(b: Block, op: Op) -> Run:
    """Up, where it says so, as in divisions of integers."""
    only(op, "F32", "S32", "U32", "S64", "U64", "RP")
    wide, kind = "S64" in op.modes or "U64" in op.modes, I64 if "S64" in op.modes else U64 if "U64" in op.modes else U32 if "U32" in op.modes else I32
    put, get = b.put(op.given[0]), b.pair(op.given[1]) if wide else b.bits(op.given[1])

    def run(on: Lanes) -> None:
        given = np.broadcast_to(np.asarray(get()), b.n).view(kind)
        out = given.astype(F32)
        if "RP" in op.modes:
            out = np.where(out.astype(np.longdouble) < given.astype(np.longdouble), np.nextafter(out, F32(np.inf)), out)
        put(out.view(U32), on)

    return run


def to_integer(b: Block, op: Op) -> Run:
    """What is no number is 0 of 32 bits and the lowest of 64 ("PTX ISA")."""
    only(op, "TRUNC", "FLOOR", "CEIL", "NTZ", "U32", "S32", "U64", "S64", "FTZ")
    round_ = np.trunc if "TRUNC" in op.modes else np.floor if "FLOOR" in op.modes else np.ceil if "CEIL" in op.modes else np.rint
    x, wide, plain = b.real(op.given[1]), "U64" in op.modes or "S64" in op.modes, "U32" in op.modes or "U64" in op.modes
    low, high = (0, (1 << (64 if wide else 32)) - 1) if plain else (-(1 << (63 if wide else 31)), (1 << (63 if wide else 31)) - 1)
    nan, put = 1 << 63 if wide else 0, b.put_pair(op.given[0]) if wide else b.put(op.given[0])

    def run(on: Lanes) -> None:
        out = np.zeros(b.n, U64)
        for k in np.flatnonzero(on):
            v = float(np.broadcast_to(x(), b.n)[k])
            whole = nan if v != v else (high if v > 0 else low) if abs(v) == np.inf else min(max(int(round_(v)), low), high)
            out[k] = whole & (1 << 64) - 1
        put(out if wide else out.astype(U32), on)

    return run


# ---- memory


def near(op: Op) -> bool:
    return op.name in ("LDS", "STS", "ATOMS", "LDSM")


def home(b: Block, op: Op, address: Any, size: int) -> tuple[Any, Any]:
    """The bytes that an access is of, and where in them."""
    if not near(op):
        assert isinstance(b.memory, Real)
        return b.memory.bytes, b.memory.at(address, size)
    if (address + U64(size) > SHARED).any() or (address % U64(size)).any():
        raise IndexError("an access outside of shared memory, or that is not aligned")
    return b.near.view(np.uint8), address.astype(I64)


def far(b: Block, op: Op, token: str) -> Callable[[], Any]:
    """Addresses; one of the device's memory is of 64 bits where nothing else is said."""
    return place(b, re.sub(r"(\[R\d+)(?=[]+])", r"\1.64", token) if "E" in op.modes else token)


def gathered(bytes_: Any, at: Any, size: int) -> Any:
    return sum(bytes_[at + k].astype(U64) << U64(8 * k) for k in range(size))


def scattered(bytes_: Any, at: Any, size: int, value: Any) -> None:
    for k in range(size):
        bytes_[at + k] = (value >> U64(8 * k) & U64(255)).astype(np.uint8)


def load(b: Block, op: Op) -> Run:
    if op.name == "LDL":
        return meanings.TABLE["LDL"](b, op)
    if len(op.given) > 2 and op.given[2] not in ("!PT", "PT"):
        raise unknown(op)
    at, size = far(b, op, op.given[1]), size_of(op)
    puts, kind = [b.put(t) for t in spaced(op.given[0], max(1, size // 4))], next((SIZED[m] for m in op.modes if m in SIZED), None)

    def run(on: Lanes) -> None:
        bytes_, where = home(b, op, at()[on], size)
        for k, put in enumerate(puts):
            out = np.zeros(b.n, U32)
            word = gathered(bytes_, where + 4 * k, min(4, size)).astype(U32)
            out[on] = word if kind is None else word.astype(kind).astype(I32).view(U32)
            put(out, on)

    return run


def store(b: Block, op: Op) -> Run:
    if op.name == "STL":
        return meanings.TABLE["STL"](b, op)
    at, size = far(b, op, op.given[0]), size_of(op)
    values = [b.bits(t) for t in spaced(op.given[1], max(1, size // 4))]

    def run(on: Lanes) -> None:
        bytes_, where = home(b, op, at()[on], size)
        for k, value in enumerate(values):
            scattered(bytes_, where + 4 * k, min(4, size), np.broadcast_to(np.asarray(value(), U32), b.n)[on].astype(U64))

    return run


def copied(b: Block, op: Op) -> Run:
    to, at, size = place(b, op.given[0]), far(b, op, op.given[1]), size_of(op)
    if len(op.given) > 2:
        raise unknown(op)

    def run(on: Lanes) -> None:
        bytes_, of = home(b, op, at()[on], size)
        own, where = home(b, op._replace(name="STS"), to()[on], size)
        for k in range(0, size, 4):
            scattered(own, where + k, 4, gathered(bytes_, of + k, 4))

    return run


def matrices(b: Block, op: Op) -> Run:
    """Matrices of 8 x 8 halves: thread 8 k + r of a warp says where row r of matrix k is; register k of thread t is word t % 4 of row t / 4 of it
    ("PTX ISA", ldmatrix)."""
    if op.modes[:2] != ("16", "M88") or op.modes[2:] not in ((), ("2",), ("4",)):
        raise unknown(op)
    at, puts = place(b, op.given[1]), [b.put(t) for t in spaced(op.given[0], int(op.modes[2]) if op.modes[2:] else 1)]
    own = np.arange(b.n)

    def run(on: Lanes) -> None:
        address = at()
        for k, put in enumerate(puts):
            rows, out = address[own // WARP * WARP + 8 * k + own % WARP // 4][on], np.zeros(b.n, U32)
            bytes_, where = home(b, op, rows, 16)
            out[on] = gathered(bytes_, where + 4 * (own[on] % 4), 4).astype(U32)
            put(out, on)

    return run


DONE: dict[str, Callable[[int, list[int], Callable[[int], int]], int]] = {
    "ADD": lambda old, new, value: old + new[0], "MAX": lambda old, new, value: max(old, new[0], key=value),
    "MIN": lambda old, new, value: min(old, new[0], key=value), "OR": lambda old, new, value: old | new[0],
    "AND": lambda old, new, value: old & new[0], "XOR": lambda old, new, value: old ^ new[0], "EXCH": lambda old, new, value: new[0],
    "CAS": lambda old, new, value: new[1] if old == new[0] else old,
}  # fmt: skip
"""What atomics leave; `value`: which number bits are."""


def atomic(b: Block, op: Op) -> Run:
    """One thread after the other."""
    bits, signed = 64 if "64" in op.modes else 32, "S32" in op.modes or "S64" in op.modes
    what = next((m for m in op.modes if m in DONE), None)
    if what is None or set(op.modes) - {what, "E", "STRONG", "GPU", "SYS", "CTA", "64", "S32", "S64", "U32"}:
        raise unknown(op)
    where = next(k for k, t in enumerate(op.given) if "[" in t)
    out = op.given[where - 1] if where and not flag_like(op.given[where - 1]) else "RZ"
    given = [t for t in op.given[where + 1 :] if not flag_like(t)]
    at, put = far(b, op, op.given[where]), b.put_pair(out) if bits == 64 else b.put(out)
    gets = [b.pair(t) if bits == 64 else b.bits(t) for t in given]
    top = 1 << bits - 1
    value = lambda v: v - 2 * top if signed and v >= top else v  # noqa: E731

    def run(on: Lanes) -> None:
        bytes_, places = home(b, op, at()[on], bits // 8)
        before, own = np.zeros(b.n, U64), [np.broadcast_to(np.asarray(g()), b.n) for g in gets]
        for lane, place_ in zip(np.flatnonzero(on), places.tolist(), strict=True):
            old, new = int.from_bytes(bytes_[place_ : place_ + bits // 8].tobytes(), "little"), [int(v[lane]) for v in own]
            done = DONE[what](old, new, value) & 2 * top - 1
            before[lane] = old
            bytes_[place_ : place_ + bits // 8] = np.frombuffer(done.to_bytes(bits // 8, "little"), np.uint8)
        put(before if bits == 64 else before.astype(U32), on)

    return run


# ---- others, of which only some modes are known to the bit


def whole(what: Callable[[Block, Op], Run]) -> Callable[[Block, Op], Run]:
    """What a warp does as one."""

    def made(b: Block, op: Op) -> Run:
        own = what(b, op)

        def run(on: Lanes) -> None:
            if (on != b.warps(on) & ~b.over).any():
                raise ValueError(f"not by whole warps: {op}")
            own(on)

        return run

    return made


def branch(b: Block, op: Op) -> Run:
    """One that asks whether a warp is whole is for such as are."""
    return (AS_ONE if "DIV" in op.modes else meanings.meaning)(b, op)


def shfl(b: Block, op: Op) -> Run:
    """By whole warps; of a thread that is named, by some, as where the compiler adds up for a warp first what its threads add to one place."""
    if op.given[0] != "PT" or op.given[4] != ("RZ" if op.modes[0] == "UP" else "0x1f"):
        raise unknown(op)
    if op.modes[0] != "IDX":
        return AS_ONE(b, op)
    own, by, lanes = meanings.meaning(b, op), b.bits(op.given[3]), np.arange(b.n)

    def run(on: Lanes) -> None:
        which = np.broadcast_to(np.asarray(by()), b.n)
        if (which[on] >= WARP).any() or not on[(lanes // WARP * WARP + which)[on]].all():
            raise ValueError(f"of a thread that does not do it, too: {op}")
        own(on)

    return run


def vote(b: Block, op: Op) -> Run:
    only(op, "ALL", "ANY")
    return meanings.TABLE["VOTE"](b, op)


def prmt(b: Block, op: Op) -> Run:
    only(op)
    return meanings.prmt(b, op)


def lop3(b: Block, op: Op) -> Run:
    """A flag that is given besides makes the one that is told true; that none is told by is never."""
    only(op, "LUT")
    if op.given[-1] in ("!PT", "!UPT"):
        return meanings.lop3(b, op)
    if not flag_like(op.given[0]):
        raise unknown(op)
    whole, more, put = meanings.lop3(b, op), b.flag(op.given[-1]), b.put_flag(op.given[0])

    def run(on: Lanes) -> None:
        already = more().copy()
        whole(on)
        put(b.flag(op.given[0])() | already, on)

    return run


def shf(b: Block, op: Op) -> Run:
    """By a register: those whose lengths beyond 32 do not depend on more than the manual says."""
    apart = "W" in op.modes or ("R" in op.modes and "HI" not in op.modes and not {"U64", "S64"} & set(op.modes))
    if apart and not op.given[2].startswith("0x"):
        raise unknown(op)
    return meanings.shf(b, op)


def imad(b: Block, op: Op) -> Run:
    given = [t for t in op.given[1:] if not flag_like(t)]
    if ("WIDE" in op.modes or "HI" in op.modes) and any(t[0] in "-~" and "R" in t for t in given[:2]):
        raise unknown(op)
    return meanings.imad(b, op)


AS_ONE = whole(meanings.meaning)
TABLE: dict[str, Callable[[Block, Op], Run]] = {
    "FADD": floats(lambda x, y: x + y), "FMUL": floats(lambda x, y: x * y), "FFMA": floats(fused), "FMNMX": fmnmx, "MUFU": mufu, "FCHK": fchk,
    "I2F": from_integer, "I2FP": from_integer, "F2I": to_integer, "LDG": load, "LD": load, "LDS": load, "LDL": load, "STG": store, "ST": store,
    "STS": store, "STL": store, "LDGSTS": copied, "LDSM": whole(matrices), "RED": atomic, "REDG": atomic, "ATOM": atomic, "ATOMG": atomic,
    "ATOMS": atomic, "SHFL": shfl, "REDUX": AS_ONE, "IMMA": AS_ONE, "BRA": branch, "VOTE": vote, "VOTEU": vote, "PRMT": prmt, "UPRMT": prmt,
    "LOP3": lop3, "ULOP3": lop3, "IMAD": imad, "UIMAD": imad,
}  # fmt: skip


def meaning(b: Block, op: Op) -> Run:
    """What an instruction does, to the bit."""
    return TABLE[op.name](b, op) if op.name in TABLE else meanings.meaning(b, op)


