# What the arithmetic of sm_90 does, for bench/machine.py, which counts it: the instructions that kernels beside attention and products have. After
# NVIDIA's names for them ("CUDA Binary Utilities") and what listings of known arithmetic show. It has no goal of its own.
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from accesses import PLACES
from machine import WARP, Block, Lanes, Op, Run, flag_like
from rounding import flushed
from warps import WARPS

U32, U64, I32, I64, F32 = np.uint32, np.uint64, np.int32, np.int64, np.float32
COMPARED: dict[str, Callable[[Any, Any], Any]] = {
    "EQ": np.equal, "NE": np.not_equal, "LT": np.less, "LE": np.less_equal, "GT": np.greater, "GE": np.greater_equal,
}  # fmt: skip
IDLE = ("NOP", "YIELD", "MEMBAR", "ERRBAR", "CCTL", "CGAERRBAR", "ENDCOLLECTIVE", "DEPBAR", "LDGDEPBAR")


def meaning(b: Block, op: Op) -> Run:
    """What an instruction does to the threads that it is given. Raises ValueError for one that is not known."""
    name = op.name[1:] if op.name[0] == "U" and op.name[1:] in TABLE else op.name
    if name in IDLE:
        return lambda on: None
    if name not in TABLE:
        raise ValueError(f"an instruction that is not known: {op}")
    return TABLE[name](b, op)


def bools(modes: tuple[str, ...]) -> Callable[[Any, Any], Any]:
    return np.logical_or if "OR" in modes else np.logical_xor if "XOR" in modes else np.logical_and


def iadd3(b: Block, op: Op) -> Run:
    given = list(op.given)
    put, carries = b.put(given.pop(0)), []
    while flag_like(given[0]):
        carries.append(b.put_flag(given.pop(0)))
    terms: list[Callable[[], Any]] = []
    for token in given[:3]:
        if token[0] == "-" and "R" in token:  # ~x + 1, whose carry counts
            of = b.bits(token[1:])
            terms.append(lambda of=of: (~np.asarray(of())).astype(U64) + U64(1))  # type: ignore[misc]
        else:
            of = b.bits(token)
            terms.append(lambda of=of: np.asarray(of()).astype(U64))  # type: ignore[misc]
    more = [b.flag(token) for token in given[3:]]

    def run(on: Lanes) -> None:
        total = sum((t() for t in terms), start=b.zero.astype(U64))
        for carry in more:
            total = total + carry().astype(U64)
        put(total.astype(U32), on)
        for k, out in enumerate(carries):
            out(total >> U64(32) > k, on)

    return run


def imad(b: Block, op: Op) -> Run:
    given, modes = list(op.given), op.modes
    out = given.pop(0)
    carry = b.put_flag(given.pop(0)) if flag_like(given[0]) else None
    if given[0] == "URZ" and len(given) == 4 and op.name == "UIMAD":
        given.pop(0)
    signed = "U32" not in modes and ("WIDE" in modes or "HI" in modes)
    kind: Any = I64 if signed else U64
    get_a, get_b = b.bits(given[0]), b.bits(given[1])
    wide = lambda x: np.asarray(x).view(I32).astype(I64) if signed else np.asarray(x).astype(U64)  # noqa: E731
    more = [b.flag(token) for token in given[3:]]
    if "WIDE" in modes or "HI" in modes:
        pair, put = b.pair(given[2]), b.put_pair(out) if "WIDE" in modes else b.put(out)

        def run_wide(on: Lanes) -> None:
            product, c = (wide(get_a()) * wide(get_b())).astype(U64), pair() + sum(f().astype(U64) for f in more)
            total = product + c
            put(total if "WIDE" in modes else (total >> U64(32)).astype(U32), on)
            if carry is not None:
                carry(total < product, on)

        return run_wide
    get_c, put = b.bits(given[2]), b.put(out)

    def run(on: Lanes) -> None:
        total = np.asarray(get_a()).astype(U64) * np.asarray(get_b()).astype(U64) + np.asarray(get_c()).astype(U64)
        for f in more:
            total = total + f().astype(U64)
        put((total & U64(0xFFFFFFFF)).astype(U32), on)
        if carry is not None:
            carry(total >> U64(32) > 0, on)

    assert kind is U64
    return run


def lea(b: Block, op: Op) -> Run:
    given, modes = list(op.given), op.modes
    put = b.put(given.pop(0))
    carry = b.put_flag(given.pop(0)) if flag_like(given[0]) else None
    more = b.flag(given.pop()) if flag_like(given[-1]) else None
    shift = U64(int(given.pop(), 16))
    a, other = b.bits(given[0]), b.bits(given[1])
    high = b.bits(given[2]) if len(given) > 2 else None

    def run(on: Lanes) -> None:
        low = np.asarray(a()).astype(U64)
        if "HI" in modes:
            top = np.asarray(a()).view(I32).astype(I64).astype(U64) if "SX32" in modes else low | (
                np.asarray(high()).astype(U64) << U64(32) if high is not None else U64(0))  # fmt: skip
            low = top >> (U64(32) - shift) & U64(0xFFFFFFFF)
        else:
            low = low << shift & U64(0xFFFFFFFF)
        total = low + np.asarray(other()).astype(U64) + (more().astype(U64) if more is not None else U64(0))
        put((total & U64(0xFFFFFFFF)).astype(U32), on)
        if carry is not None:
            carry(total >> U64(32) > 0, on)

    return run


def shf(b: Block, op: Op) -> Run:
    put, low, by, high = b.put(op.given[0]), *(b.bits(t) for t in op.given[1:4])
    left, signed, top = "L" in op.modes, "S32" in op.modes or "S64" in op.modes, "HI" in op.modes

    def run(on: Lanes) -> None:
        v = np.asarray(low()).astype(U64) | np.asarray(high()).astype(U64) << U64(32)
        s = np.minimum(np.asarray(by()), U32(64)).astype(U64)
        most = np.minimum(s, U64(63))
        if left:
            r = np.where(s > U64(63), U64(0), v << most)
        elif signed:
            r = (v.view(I64) >> most.astype(I64)).view(U64)
        else:
            r = np.where(s > U64(63), U64(0), v >> most)
        put((r >> U64(32) if top else r & U64(0xFFFFFFFF)).astype(U32), on)

    return run


def lop3(b: Block, op: Op) -> Run:
    given = list(op.given)
    flag = b.put_flag(given.pop(0)) if flag_like(given[0]) else None
    put, table = b.put(given[0]), int(given[4], 16)
    x, y, z = (b.bits(t) for t in given[1:4])

    def run(on: Lanes) -> None:
        p, q, r = np.asarray(x()), np.asarray(y()), np.asarray(z())
        out = np.zeros(b.n, U32)
        for k in range(8):
            if table >> k & 1:
                out = out | (p if k & 4 else ~p) & (q if k & 2 else ~q) & (r if k & 1 else ~r)
        put(out, on)
        if flag is not None:
            flag(out != 0, on)

    return run


def plop3(b: Block, op: Op) -> Run:
    puts, (x, y, z) = [b.put_flag(t) for t in op.given[:2]], (b.flag(t) for t in op.given[2:5])
    tables = [int(t, 16) for t in op.given[5:7]]

    def run(on: Lanes) -> None:
        which = 4 * x().astype(I32) + 2 * y() + z()
        for put, table in zip(puts, tables, strict=True):
            put((table >> which & 1).astype(np.bool_), on)

    return run


def isetp(b: Block, op: Op) -> Run:
    (first, second, ta, tb, *flags), modes = op.given, op.modes
    puts, compare, both = (b.put_flag(first), b.put_flag(second)), COMPARED[modes[0]], bools(modes)
    x, y, inputs = b.bits(ta), b.bits(tb), [b.flag(t) for t in flags]
    kind: Any = U32 if "U32" in modes else I32

    def run(on: Lanes) -> None:
        p, q = (np.broadcast_to(np.asarray(v()), b.n).view(kind) for v in (x, y))
        found = compare(p, q)
        if "EX" in modes:
            same, below = p == q, inputs[1]()
            strict = {"GE": "GT", "LE": "LT"}.get(modes[0], modes[0])
            found = (same & below if modes[0] == "EQ" else ~same | below if modes[0] == "NE" else COMPARED[strict](p, q) | same & below)
        other = inputs[0]()
        puts[0](both(found, other), on)
        puts[1](both(~found, other), on)

    return run


def fsetp(b: Block, op: Op) -> Run:
    (first, second, ta, tb, flag), mode, both = op.given, op.modes[0], bools(op.modes)
    puts, x, y, other = (b.put_flag(first), b.put_flag(second)), b.real(ta), b.real(tb), b.flag(flag)
    seen: Callable[[Any], Any] = flushed if "FTZ" in op.modes else lambda x: x

    def run(on: Lanes) -> None:
        p, q = seen(x()), seen(y())
        unordered = np.isnan(p) | np.isnan(q)
        found = unordered if mode == "NAN" else ~unordered if mode == "NUM" else COMPARED[mode[:2]](p, q)
        found = found | unordered if mode.endswith("U") else found & ~unordered if mode == "NE" else found
        puts[0](both(found, other()), on)
        puts[1](both(~found, other()), on)

    return run


def floats(what: Callable[..., Any]) -> Callable[[Block, Op], Run]:
    def made(b: Block, op: Op) -> Run:
        put, given = b.put(op.given[0]), [b.real(t) for t in op.given[1:]]

        def run(on: Lanes) -> None:
            result = what(*(np.asarray(g()).astype(np.float64) for g in given))
            put(np.asarray(result, F32).view(U32), on)

        return run

    return made


def fmnmx(b: Block, op: Op) -> Run:
    put, x, y, least = b.put(op.given[0]), b.real(op.given[1]), b.real(op.given[2]), b.flag(op.given[3])
    low, high = (np.minimum, np.maximum) if "NAN" in op.modes else (np.fmin, np.fmax)
    return lambda on: put(np.where(least(), low(x(), y()), high(x(), y())).astype(F32).view(U32), on)


def imnmx(b: Block, op: Op) -> Run:
    """VIMNMX, VIMNMX3 and VIADDMNMX, which adds its first two before; RELU: at least 0."""
    if set(op.modes) - {"U32", "S32", "RELU"} or {"U32", "RELU"} <= set(op.modes):
        raise ValueError(f"an instruction that is not known: {op}")
    put, *given, least = b.put(op.given[0]), *(b.bits(t) for t in op.given[1:-1]), b.flag(op.given[-1])
    kind: Any = U32 if "U32" in op.modes else I32
    adds = op.name == "VIADDMNMX"

    def run(on: Lanes) -> None:
        values = [np.broadcast_to(np.asarray(g(), U32), b.n) for g in given]
        if adds:
            values = [values[0] + values[1], values[2]]
        low = high = values[0].view(kind)
        for v in values[1:]:
            low, high = np.minimum(low, v.view(kind)), np.maximum(high, v.view(kind))
        found = np.where(least(), low, high)
        put((np.maximum(found, 0) if "RELU" in op.modes else found).view(U32), on)

    return run


def sel(b: Block, op: Op) -> Run:
    real = op.name == "FSEL"
    put, x, y, flag = b.put(op.given[0]), b.bits(op.given[1], real), b.bits(op.given[2], real), b.flag(op.given[3])
    return lambda on: put(np.where(flag(), x(), y()), on)


def prmt(b: Block, op: Op) -> Run:
    put, low, which, high = b.put(op.given[0]), *(b.bits(t) for t in op.given[1:4])

    def run(on: Lanes) -> None:
        v = np.broadcast_to(np.asarray(low()).astype(U64) | np.asarray(high()).astype(U64) << U64(32), b.n)
        s, out = np.broadcast_to(np.asarray(which(), U32), b.n), np.zeros(b.n, U32)
        for k in range(4):
            nibble = s >> U32(4 * k) & U32(15)
            byte = (v >> (nibble & U32(7)).astype(U64) * U64(8) & U64(255)).astype(U32)
            out |= np.where(nibble & U32(8), np.where(byte & U32(128), U32(255), U32(0)), byte) << U32(8 * k)
        put(out, on)

    return run


def dot(b: Block, op: Op) -> Run:
    put, x, y, z = b.put(op.given[0]), *(b.bits(t) for t in op.given[1:4])

    def run(on: Lanes) -> None:
        p, q = (np.broadcast_to(np.asarray(v(), U32), b.n) for v in (x, y))
        total = np.broadcast_to(np.asarray(z(), U32), b.n).copy()
        for k in range(4):
            total += ((p >> U32(8 * k)).astype(np.int8).astype(I32) * (q >> U32(8 * k)).astype(np.int8).astype(I32)).view(U32)
        put(total, on)

    return run


def add(b: Block, op: Op) -> Run:
    put, x, y = b.put(op.given[0]), b.bits(op.given[1]), b.bits(op.given[2])
    return lambda on: put(np.asarray(x(), U32) + np.asarray(y(), U32), on)


def moved(b: Block, op: Op) -> Run:
    """MOV, S2R, LDC, R2UR and their kin: one word or a pair. Where a word comes from a thread for its warp, the first of those that do it has it."""
    if op.name == "R2UR":
        put, get = b.put(op.given[0]), b.bits(op.given[1])

        def run(on: Lanes) -> None:
            lanes = on.reshape(-1, WARP)
            first = np.asarray(get()).reshape(-1, WARP)[np.arange(len(lanes)), lanes.argmax(1)]
            put(np.repeat(first, WARP), on)

        return run
    wide = "64" in op.modes or (op.name == "CS2R" and "32" not in op.modes)
    if wide and op.name != "CS2R":
        both, pair = b.put_pair(op.given[0]), b.pair(op.given[1])
        return lambda on: both(pair(), on)
    if wide:
        both = b.put_pair(op.given[0])
        return lambda on: both(b.zero.astype(U64), on)
    put, get = b.put(op.given[0]), b.bits(op.given[1])
    return lambda on: put(get(), on)


def halves(b: Block, op: Op) -> Run:
    """HFMA2.MMA as what makes a constant: -0 times 0 and two halves."""
    if op.given[1:3] != ("-RZ", "RZ"):
        raise ValueError(f"an instruction that is not known: {op}")
    high, low = (int(np.float16(float(t)).view(np.uint16)) for t in op.given[3:5])
    put = b.put(op.given[0])
    return lambda on: put(U32(high << 16 | low), on)


def unary(what: Callable[[Any], Any]) -> Callable[[Block, Op], Run]:
    def made(b: Block, op: Op) -> Run:
        put, x = b.put(op.given[0]), b.bits(op.given[1])
        return lambda on: put(what(np.broadcast_to(np.asarray(x(), U32), b.n)).astype(U32), on)

    return made


def highest(x: Any) -> Any:
    return np.where(x == 0, U32(0xFFFFFFFF), np.floor(np.log2(np.maximum(x, U32(1)).astype(np.float64))).astype(U32))


def from_integer(b: Block, op: Op) -> Run:
    if "F64" in op.modes:
        raise ValueError(f"an instruction that is not known: {op}")
    put = b.put(op.given[0])
    if "S64" in op.modes or "U64" in op.modes:
        pair = b.pair(op.given[1])
        return lambda on: put(np.asarray(pair()).view(I64 if "S64" in op.modes else U64).astype(F32).view(U32), on)
    one = b.bits(op.given[1])
    return lambda on: put(np.asarray(one()).view(U32 if "U32" in op.modes else I32).astype(F32).view(U32), on)


def to_integer(b: Block, op: Op) -> Run:
    x = b.real(op.given[1])
    whole = lambda: np.nan_to_num((np.trunc if "TRUNC" in op.modes else np.rint)(x().astype(np.float64)))  # noqa: E731
    if "U64" in op.modes or "S64" in op.modes:
        both = b.put_pair(op.given[0])
        return lambda on: both(np.clip(whole(), -(2.0**63), 2.0**63).astype(I64).view(U64), on)
    put = b.put(op.given[0])
    return lambda on: put((np.clip(whole(), -(2.0**31), 2.0**32 - 1).astype(I64) & 0xFFFFFFFF).astype(U32), on)


def mufu(b: Block, op: Op) -> Run:
    what = {"RCP": lambda x: 1 / x, "RSQ": lambda x: 1 / np.sqrt(x), "SQRT": np.sqrt, "EX2": np.exp2, "LG2": np.log2}[op.modes[0]]
    return floats(what)(b, op)


def fchk(b: Block, op: Op) -> Run:
    """Whether a quotient wants the slow way: a divisor or a result at the ends of what there is."""
    put, x, y = b.put_flag(op.given[0]), b.bits(op.given[1], True), b.bits(op.given[2], True)

    def run(on: Lanes) -> None:
        p, q = (np.asarray(v()) >> U32(23) & U32(255) for v in (x, y))
        far = p.astype(I32) - q.astype(I32)
        put((q < 2) | (q > 252) | (p == 255) | (far > 125) | ((p > 0) & (far < -125)), on)

    return run


def predicates(b: Block, op: Op) -> Run:
    put, kept, mask = b.put(op.given[0]), b.bits(op.given[2]), int(op.given[3], 16)
    flags = [b.flag(f"P{k}") for k in range(7)]

    def run(on: Lanes) -> None:
        own = sum(flag().astype(U32) << U32(k) for k, flag in enumerate(flags))
        put(np.asarray(kept()) & U32(~mask & 0xFFFFFFFF) | own & U32(mask), on)

    return run


TABLE: dict[str, Callable[[Block, Op], Run]] = PLACES | WARPS | {
    "IADD3": iadd3, "IMAD": imad, "LEA": lea, "SHF": shf, "LOP3": lop3, "PLOP3": plop3, "ISETP": isetp, "FSETP": fsetp, "FMNMX": fmnmx,
    "VIMNMX": imnmx, "VIMNMX3": imnmx, "VIADDMNMX": imnmx, "SEL": sel, "FSEL": sel, "PRMT": prmt, "IDP": dot, "VIADD": add, "MOV": moved,
    "LDC": moved, "S2R": moved, "S2UR": moved, "CS2R": moved, "R2UR": moved, "HFMA2": halves, "P2R": predicates,
    "IABS": unary(lambda x: np.abs(x.view(I32)).view(U32)), "POPC": unary(lambda x: np.array([int(v).bit_count() for v in x])),
    "FLO": unary(highest), "I2F": from_integer, "I2FP": from_integer, "F2I": to_integer, "MUFU": mufu, "FCHK": fchk,
    "FADD": floats(lambda x, y: x + y), "FMUL": floats(lambda x, y: x * y), "FFMA": floats(lambda x, y, z: x * y + z),
}  # fmt: skip
