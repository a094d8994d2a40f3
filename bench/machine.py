# Runs the machine code of one block of a kernel (sm_90's, as nvdisasm prints it) on NumPy, and counts what its warps start: instructions, and what
# of them each pipe of a processor takes. It is what bench/instructions.py counts with; it measures nothing by itself, so it has no goal. All
# threads of a block go together, those with the lowest place in the program first; what has met a BSSY waits at its BSYNC, and all at a barrier.
#
# It is for counting, not for results: FFMA is rounded twice, reciprocals and roots are rounded to nearest, and memory that nobody described has
# values that are made up (`Memory`). Which way a jump goes and how often a loop runs are as in the kernel, as far as they depend on arguments, on
# tables and on usual data. An instruction that it does not know ends it with ValueError.
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]
Lanes = NDArray[np.bool_]
Get = Callable[[], Any]
Run = Callable[[Lanes], None]
Size = tuple[int, ...]

WARP, FULL = 32, np.uint64(0xFFFFFFFF)
PARAMETERS = 0x210
"""Where a kernel's arguments begin in its bank of constants."""
SHARED = 1 << 18

FMA = ("FADD", "FMUL", "FFMA", "HFMA2")
HEAVY = ("IMAD", "IDP")
SLOW = ("MUFU", "F2I", "I2F", "POPC", "FLO", "FCHK", "REDUX")
ACROSS, TENSOR = ("SHFL",), ("IMMA",)
MEMORY = ("LDG", "STG", "LD", "ST", "RED", "REDG", "ATOM", "ATOMG", "LDGSTS")
NEAR = ("LDS", "STS", "ATOMS", "LDSM")
FREE = ("BRA", "EXIT", "BSSY", "BSYNC", "BREAK", "CALL", "RET", "BAR", "NOP", "WARPSYNC", "YIELD", "LDC", "S2R", "S2UR", "CS2R", "MEMBAR", "ERRBAR",
        "CCTL", "CGAERRBAR", "ENDCOLLECTIVE", "LDL", "STL", "R2UR", "B2R", "DEPBAR", "LDGDEPBAR")  # fmt: skip
KINDS = {"fma": FMA, "heavy": HEAVY, "slow": SLOW, "shuffle": ACROSS, "tensor": TENSOR, "memory": MEMORY, "shared": NEAR, "": FREE}


def pipe(name: str) -> str:
    """Which part of a processor an instruction keeps busy beside starting it: `fma`, `heavy` (integers' products, half of fma's lanes), `alu`,
    `slow` (conversions, reciprocals, sums over a warp), `shuffle`, `tensor`, `memory`, `shared`, or nothing that is counted."""
    for kind, names in KINDS.items():
        if name in names:
            return kind
    if name.startswith("I2FP"):
        return "alu"
    return "" if name.startswith("U") or name.startswith("VOTE") else "alu"


def flag_like(token: str) -> bool:
    """Whether an operand is a predicate."""
    return token.lstrip("!").startswith(("P", "UP"))


def always(value: Any) -> Get:
    return lambda: value


def looked_up(bank: Words, at: Words) -> Words:
    """Words of a bank, which threads that do nothing may look for anywhere: there is something else there."""
    return np.where(at < len(bank), bank[np.minimum(at, len(bank) - 1)], np.uint32(0xBAADF00D))


class Memory:
    """Memory of the device: `known` bytes at addresses, and made-up values elsewhere, each by the kind of the argument that begins last before it
    (`places`: address -> `float`, `top` (a magnitude), `i64`, `u8`, ...)."""

    def __init__(self, known: dict[int, bytes], places: dict[int, str]) -> None:
        self._starts = np.array(sorted(known), np.uint64)
        parts = [known[int(at)] for at in self._starts]
        self._ends = self._starts + np.array([len(p) for p in parts], np.uint64)
        self._at = np.cumsum([0, *(len(p) for p in parts)])[:-1]
        self._bytes = np.frombuffer(b"".join(parts) + bytes(16), np.uint8)
        self._places = np.array(sorted(places), np.uint64)
        self._kinds = [places[int(at)] for at in self._places]

    def word(self, address: NDArray[np.uint64], size: int, pair: bool = False) -> Words:
        """What 1 to 4 bytes at each address hold; `pair`: of 8, which are no floats."""
        h = (address >> np.uint64(2)) * np.uint64(0x9E3779B97F4A7C15)
        made = (np.uint32(0x3E800000) + (h >> np.uint64(40)).astype(np.uint32)) | ((h >> np.uint64(33)).astype(np.uint32) & 1) << np.uint32(31)
        out: Words = made
        if len(self._places):
            at = np.searchsorted(self._places, address, "right") - 1
            kinds = np.array([{"float": 0, "top": 1}.get(kind, 2) for kind in self._kinds] + [0])[at]
            kinds[at < 0] = 0
            kinds = np.full_like(kinds, 2) if pair else kinds
            out = np.where(kinds == 0, made, np.where(kinds == 1, np.uint32(0x41000000), np.uint32(0))).astype(np.uint32)
        if len(self._starts):
            at = np.searchsorted(self._starts, address, "right") - 1
            inside = (at >= 0) & (address < self._ends[at])
            if inside.any():
                offset = np.where(inside, self._at[at] + (address - self._starts[at]).astype(np.int64), 0)
                found = sum(self._bytes[offset + k].astype(np.uint32) << np.uint32(8 * k) for k in range(size))
                out = np.where(inside, found, out)
        return out if size == 4 else out & np.uint32((1 << 8 * size) - 1)


class Op(NamedTuple):
    guard: str
    """`P0`, `!P0`, or nothing."""
    name: str
    modes: tuple[str, ...]
    given: tuple[str, ...]


def parsed(lines: list[str]) -> tuple[list[Op], dict[str, int]]:
    """Instructions of a function and its labels."""
    ops, labels = list[Op](), dict[str, int]()
    for line in lines:
        if m := re.match(r"^(\.L_\S+|\$\S+):", line):
            labels[m[1]] = len(ops)
        elif m := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@(!?U?P\w+)\s+)?(\S+?)(?:\s+(.*?))?\s*;", line):
            name, *modes = m[2].split(".")
            given = re.sub(r"\(\*.*?\*\)|\.reuse", "", m[3] or "").split(",")
            ops.append(Op(m[1] or "", name, tuple(modes), tuple(g.strip() for g in given if g.strip())))
    return ops, labels


def functions(listing: str) -> dict[str, list[str]]:
    """The lines of each kernel of what nvdisasm prints."""
    found, own = dict[str, list[str]](), list[str]()
    for line in listing.splitlines():
        if m := re.match(r"^\s*\.text\.(\S+):", line):
            own = found[m[1]] = []
        own.append(line)
    return found


class Block:
    """A block of a kernel. `counts` after `run`: `issued` (instructions that warps start), by pipe, `wavefronts` of shared memory, and `sectors` of
    32 bytes that are asked of memory. `banks`: constants beside the kernel's arguments, by their number."""

    def __init__(
        self, code: tuple[list[Op], dict[str, int]], grid: Size, block: Size, at: Size, arguments: tuple[int, ...], memory: Memory,
        banks: dict[int, Words] | None = None,
    ) -> None:  # fmt: skip
        self._ops, self.labels, self.memory = *code, memory
        real = block[0] * block[1] * block[2]
        self.n = n = -(-real // WARP) * WARP
        k = np.arange(n, dtype=np.uint32)
        x, xy = np.uint32(block[0]), np.uint32(block[0] * block[1])
        zero = np.zeros(n, np.uint32)
        self._special = {
            "SR_TID.X": k % x, "SR_TID.Y": k // x % np.uint32(block[1]), "SR_TID.Z": k // xy, "SR_LANEID": k % WARP, "SRZ": zero, "SR_CgaCtaId": zero,
            "SR_LTMASK": (np.uint32(1) << k % WARP) - np.uint32(1),
        } | {f"SR_CTAID.{axis}": np.full(n, value, np.uint32) for axis, value in zip("XYZ", at, strict=True)}  # fmt: skip
        bank = np.zeros(4096, np.uint32)
        bank[:3], bank[3:6], bank[0x28 // 4] = block, grid, 0x1000
        for i, value in enumerate(arguments):
            bank[PARAMETERS // 4 + 2 * i : PARAMETERS // 4 + 2 * i + 2] = value & 0xFFFFFFFF, value >> 32 & 0xFFFFFFFF
        self._banks = {0: bank, **(banks or {})}
        self.r: dict[str, Words] = {}
        self._p: dict[str, Lanes] = {}
        self._true, self.zero = np.ones(n, np.bool_), zero
        self.near = np.full(SHARED // 4, 0x3F400000, np.uint32)
        self.local = np.zeros((2048, n), np.uint32)
        self.pc = np.zeros(n, np.int64)
        self.over = k >= real
        self.waits = np.full(n, -1, np.int64)
        """Where a thread waits: -1 nowhere, -2 at a barrier, -3 for its warp, else the number of what BSSY named."""
        self.masks: dict[int, Lanes] = {}
        self.votes, self.all_have = np.zeros(n, np.bool_), False
        """Threads that have a flag at a barrier that asks whether one has, or have not at one that asks whether all do."""
        self._warp_of = k // WARP
        self.counts: Counter[str] = Counter()
        self._made: dict[int, Run] = {}

    # ---- operands

    def _reg(self, name: str) -> Words:
        if name not in self.r:
            self.r[name] = np.zeros(self.n, np.uint32)
        return self.r[name]

    def bits(self, token: str, real: bool = False, high: bool = False) -> Get:
        """A source of 32 bits; `real`: signs are those of floats; `high`: the upper half of a pair."""
        sign, name = re.fullmatch(r"([-~+]?\|?)(.*?)\|?", token).groups()  # type: ignore[union-attr]
        if name[:1].isdigit() or name.strip() in ("INF", "QNAN", "SNAN"):
            name = name.strip()
            if name.startswith("0x"):
                value = (-int(name, 16) if "-" in sign else int(name, 16)) & 0xFFFFFFFF
                value = (0xFFFFFFFF if high and "-" in sign else 0) if high else value
                return always(np.uint32(value))
            number = float({"INF": "inf", "QNAN": "nan", "SNAN": "nan"}.get(name, name)) * (-1 if "-" in sign else 1)
            return always(np.array(number, np.float32).view(np.uint32)[()])
        get = self._source(name, high)
        if not sign or sign == "+":
            return get
        if real:
            clear, flip = np.uint32(0x7FFFFFFF if "|" in sign else 0xFFFFFFFF), np.uint32(0x80000000 if "-" in sign else 0)
            return lambda: (get() & clear) ^ flip
        return (lambda: ~get()) if sign == "~" else lambda: np.uint32(0) - get()

    def _source(self, name: str, high: bool = False) -> Get:
        if name in ("RZ", "URZ", "SRZ"):
            return lambda: self.zero
        if m := re.fullmatch(r"(U?R)(\d+)(?:\.\w+)?", name):
            register = self._reg(f"{m[1]}{int(m[2]) + high}")
            return lambda: register
        m = re.fullmatch(r"c\[(0x\w)\]\[(?:(U?R\w+)\+?)?(0x\w+)?\]", name)
        if m and int(m[1], 16) in self._banks:
            bank, first = self._banks[int(m[1], 16)], int(m[3] or "0x0", 16) // 4 + high
            if not m[2]:
                return always(bank[first])
            place = self._source(m[2])
            return lambda: looked_up(bank, place() // 4 + np.uint32(first))
        if name in self._special:
            return lambda: self._special[name]
        raise ValueError(f"an operand that is not known: {name}")

    def real(self, token: str) -> Get:
        get = self.bits(token, True)
        return lambda: np.asarray(get()).view(np.float32)

    def pair(self, token: str) -> Get:
        low, high = self.bits(token.lstrip("-~")), self.bits(token.lstrip("-~"), high=True)
        get = lambda: np.asarray(low()).astype(np.uint64) | np.asarray(high()).astype(np.uint64) << np.uint64(32)  # noqa: E731
        return (lambda: np.uint64(0) - get()) if token[0] == "-" else get

    def flag(self, token: str) -> Get:
        name = token.lstrip("!")
        true = self._true if name in ("PT", "UPT") else self._p.setdefault(name, np.zeros(self.n, np.bool_))
        return (lambda: ~true) if token[0] == "!" else lambda: true

    def put(self, token: str) -> Callable[[Any, Lanes], None]:
        if token in ("RZ", "URZ"):
            return lambda value, on: None
        register = self._reg(token)
        if token[0] == "U":  # one for all of a warp
            return lambda value, on: np.copyto(register, value, where=self.warps(on))
        return lambda value, on: np.copyto(register, value, where=on)

    def put_pair(self, token: str) -> Callable[[Any, Lanes], None]:
        name = re.fullmatch(r"(U?R)(\d+|Z)", token)
        assert name is not None
        if name[2] == "Z":
            return lambda value, on: None
        low, high = self.put(token), self.put(f"{name[1]}{int(name[2]) + 1}")

        def put(value: Any, on: Lanes) -> None:
            low((value & FULL).astype(np.uint32), on)
            high((value >> np.uint64(32)).astype(np.uint32), on)

        return put

    def put_flag(self, token: str) -> Callable[[Any, Lanes], None]:
        if token in ("PT", "UPT"):
            return lambda value, on: None
        flag = self._p.setdefault(token, np.zeros(self.n, np.bool_))
        return lambda value, on: np.copyto(flag, value, where=self.warps(on) if token[0] == "U" else on)

    def warps(self, on: Lanes) -> Lanes:
        """All threads of the warps that have one of these."""
        return np.repeat(on.reshape(-1, WARP).any(1), WARP)

    # ---- the course

    def run(self, meaning: Callable[[Block, Op], Run]) -> Counter[str]:
        """To the end of all threads; `meaning`: what an instruction does (meanings.py). Gives `counts`."""
        ops, masks, waits = self._ops, self.masks, self.waits
        with np.errstate(all="ignore"):
            while True:
                ready = ~self.over & (waits == -1)
                if not ready.any():
                    if self.over.all():
                        return self.counts
                    assert (self.over | (waits == -2)).all(), "threads wait for each other"
                    waits[waits == -2] = -1
                    continue
                at = int(self.pc[ready].min())
                on = ready & (self.pc == at)
                op = ops[at]
                self.pc[on] = at + 1
                if op.guard:
                    taken = on & self.flag(op.guard)()
                else:
                    taken = on
                self._count(op, on, taken)
                if taken.any():
                    if at not in self._made:
                        self._made[at] = meaning(self, op)
                    self._made[at](taken)
                if (waits == -3).any():
                    whole = ((waits == -3) | self.over).reshape(-1, WARP).all(1)
                    waits[np.repeat(whole, WARP) & (waits == -3)] = -1
                for which in {int(w) for w in waits[waits >= 0]}:
                    here = masks[which] & ~self.over
                    for warp in np.flatnonzero((here & (waits == which)).reshape(-1, WARP).any(1)):
                        mine = slice(warp * WARP, (warp + 1) * WARP)
                        if (waits[mine][here[mine]] == which).all():
                            waits[mine][waits[mine] == which] = -1

    def _count(self, op: Op, on: Lanes, taken: Lanes) -> None:
        started = int(on.reshape(-1, WARP).any(1).sum())
        self.counts["issued"] += started
        kind = pipe(op.name)
        if kind:
            busy = started if taken is on else int(taken.reshape(-1, WARP).any(1).sum())
            self.counts[kind] += busy
            self.counts[f"_{op.name}"] += busy
