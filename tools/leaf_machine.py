"""The machine of the leaf "from tables": its instructions, an assembler for its programs, and the machine itself in Python.

It has 32 registers of 256 bits; f32 values are their bits, integers are signed. At the start registers 0 to 2 hold values, 3 to 5 totals
of folds, 6 the bits of a sum, of a product or of a constant, 7 the element's place along the axis, 8 the size of the axis. An
instruction is `code u8 | to u8 | a u8 | b u8`, or with 0x80 added to the code `code | to | a | immediate u32`; `const` is `code | to |
size u8 | its bytes`, `horner` is followed by b coefficients, u32 each. Jumps go forward only, so every program ends. The other writing
of the machine is contracts/src/leaf/table/Machine.sol.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from assay.exact import functions
from assay.exact.reference import fixed, key, round_scaled
from assay.exact.types import NAN_BITS

INSTRUCTIONS = (
    "trap", "fmul", "fadd", "fsub", "horner", "fdiv", "round", "fix",
    "and", "jz", "mov", "const", "add", "sub", "shl", "shr",
    "lt", "gt", "eq", "or", "jnz", "jump", "end", "xor",
    "sar", "key", "unkey", "max", "min", "canon", "fcmp", "mul",
    "sqrt", "trunc", "philox",
)  # fmt: skip
"""By code. fcmp: 1 less, 2 equal, 4 greater, 8 unordered. round: RN32(a * 2^b). fix: rint(a * 2^b), 0 for NaN and infinities. trunc:
towards zero, NaN as 0, infinities as anything beyond 64 bits. key, unkey: order of the floats, NaN as 2^31. canon: the one NaN."""
CODE = {name: code for code, name in enumerate(INSTRUCTIONS)}
UNARY = ("mov", "key", "unkey", "canon", "sqrt", "trunc")
JUMPS = ("jz", "jnz", "jump")
PINNED = 9
SIGN, REST, ONE = 0x80000000, 0x7FFFFFFF, 0x3F800000


class Reg:
    """A value of a program; its number is chosen when the program is assembled."""


Operand = Reg | int | np.float32 | list[np.float32] | None
Instruction = tuple[str, Reg | None, Reg | None, Reg | int | tuple[int, ...]]
IN = tuple(Reg() for _ in range(PINNED))
X, Y, Z, TOP, TOTAL, TOTAL2, BITS, PLACE, SIZE = IN


def word(value: int | np.float32) -> int:
    """An immediate: an f32 as its bits."""
    return int(value.view(np.uint32)) if isinstance(value, np.float32) else value


class Program:
    """`p(name, a, b)` adds an instruction and gives its result; `b` is a register, an integer or an f32."""

    def __init__(self) -> None:
        self.lines: list[Instruction] = []

    def __call__(self, name: str, a: Reg | None = None, b: Operand = 0, to: Reg | None = None) -> Reg:
        to, b = to or Reg(), a if name in UNARY else b
        assert b is not None
        self.lines.append((name, to, a, b if isinstance(b, Reg) else tuple(map(word, b)) if isinstance(b, list) else word(b)))
        return to

    def constant(self, value: int | np.float32, to: Reg | None = None) -> Reg:
        return self("const", None, value, to)

    def skip(self, name: str, a: Reg | None = None) -> int:
        """A jump over what follows, up to `land`."""
        self.lines.append((name, None, a, -1))
        return len(self.lines) - 1

    def land(self, *jumps: int) -> None:
        for jump in jumps:
            name, to, a, _ = self.lines[jump]
            self.lines[jump] = (name, to, a, len(self.lines))

    def end(self, a: Reg) -> None:
        self.lines.append(("end", None, a, 0))

    def _numbers(self) -> dict[Reg, int]:
        """Registers: a value lives from its first line to its last, which holds on every path because jumps go forward."""
        last: dict[Reg, int] = {}
        for at, (_, to, a, b) in enumerate(self.lines):
            last.update({r: at for r in (to, a, b) if isinstance(r, Reg)})
        numbers = {r: i for i, r in enumerate(IN)}
        free = list(range(PINNED, 32))
        for at, (_, to, a, b) in enumerate(self.lines):
            free = sorted([*free, *(numbers[r] for r in {a, b} if isinstance(r, Reg) and last[r] == at and r not in IN and r is not to)])
            if to is not None and to not in numbers:
                numbers[to] = free.pop(0)
        return numbers

    def assemble(self) -> bytes:
        numbers, places, code = self._numbers(), [0], b""
        for name, _, _, b in self.lines:
            size = 4 + 4 * len(b) if isinstance(b, tuple) else 4 if isinstance(b, Reg) or name == "end" else 7
            places.append(places[-1] + (3 + _size(b) if name == "const" else size))
        for at, (name, to, a, b) in enumerate(self.lines):
            op, head = CODE[name], bytes([numbers[to] if to else 0, numbers[a] if a else 0])
            if isinstance(b, tuple):
                code += bytes([op, *head, len(b)]) + b"".join(c.to_bytes(4, "big") for c in b)
            elif isinstance(b, Reg) or name == "end":
                code += bytes([op, *head, numbers[b] if isinstance(b, Reg) else 0])
            elif name == "const":
                code += bytes([op, head[0], _size(b)]) + b.to_bytes(_size(b), "big")
            else:
                code += bytes([op | 0x80, *head]) + (places[b] - places[at + 1] if name in JUMPS else b).to_bytes(4, "big")
            assert len(code) == places[at + 1], name
        return code


def _size(number: object) -> int:
    """Bytes of a constant."""
    assert isinstance(number, int)
    return (number.bit_length() + 7) // 8


# ---- the machine in Python ----------------------------------------------------------------------------------------------------


def _f(bits: int) -> np.float32:
    return np.float32(np.uint32(bits).view(np.float32))


def _b(x: np.float32) -> int:
    return int(np.float32(x).view(np.uint32)) if x == x else NAN_BITS


def _order(x: int) -> int:
    return int(key(_f(x))) if _f(x) == _f(x) else 1 << 31


def _compare(a: int, b: int) -> int:
    x, y = _f(a), _f(b)
    return 1 if x < y else 2 if x == y else 4 if x > y else 8


def _trunc(a: int) -> int:
    return 0 if _f(a) != _f(a) else int(_f(a)) if np.isfinite(_f(a)) else (-1 if a & SIGN else 1) << 128


def _round(a: int, b: int) -> int:
    if a == -(1 << 63):  # has no absolute value in 64 bits
        a, b = a >> 1, b + 1
    return _b(round_scaled(np.int64(a), b))


def _unkey(a: int) -> int:
    return NAN_BITS if a == 1 << 31 else (a ^ (a >> 31 & REST)) & 0xFFFFFFFF


SCALAR: dict[str, Callable[[int, int], int]] = {
    "fmul": lambda a, b: _b(_f(a) * _f(b)), "fadd": lambda a, b: _b(_f(a) + _f(b)), "fsub": lambda a, b: _b(_f(a) - _f(b)),
    "fdiv": lambda a, b: _b(_f(a) / _f(b)), "sqrt": lambda a, _: _b(np.sqrt(_f(a))), "mov": lambda a, _: a, "and": lambda a, b: a & b,
    "or": lambda a, b: a | b, "xor": lambda a, b: a ^ b, "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b,
    "shl": lambda a, b: a << b & (1 << 256) - 1, "shr": lambda a, b: a >> b, "sar": lambda a, b: a >> b,
    "lt": lambda a, b: int(a < b), "gt": lambda a, b: int(a > b), "eq": lambda a, b: int(a == b), "max": max, "min": min,
    "fcmp": _compare, "key": lambda a, _: _order(a), "unkey": lambda a, _: _unkey(a), "canon": lambda a, _: _b(_f(a)),
    "round": _round, "fix": lambda a, b: int(fixed(_f(a), b)), "trunc": lambda a, _: _trunc(a),
}  # fmt: skip


@np.errstate(all="ignore")
def run(code: bytes, start: list[int]) -> int:
    """What a program gives, `start` being the first registers. f32 arithmetic is NumPy's; integers are Python's."""
    registers, at = dict(enumerate(start)), 0
    while True:
        name, immediate = INSTRUCTIONS[code[at] & 127], code[at] > 127
        to, a, last = code[at + 1], registers.get(code[at + 2], 0), code[at + 3]
        if name == "const":
            last, at = code[at + 2], at + 3 + code[at + 2]
            registers[to] = int.from_bytes(code[at - last : at], "big")
            continue
        b = int.from_bytes(code[at + 3 : at + 7], "big") if immediate else registers.get(last, 0)
        at += 7 if immediate else 4
        match name:
            case "end":
                return a
            case "jump" | "jz" | "jnz":
                at += b if name == "jump" or (a == 0) == (name == "jz") else 0
            case "horner":
                terms = np.frombuffer(code, ">u4", last, at).tolist()
                at, y = at + 4 * last, terms[0]
                for term in terms[1:]:
                    y = SCALAR["fadd"](SCALAR["fmul"](y, a), term)
                registers[to] = y
            case "philox":
                registers[to] = int(functions.philox(*(np.array(v, np.int64) for v in (a, b, registers[to]))))
            case _:
                registers[to] = SCALAR[name](a, b)
