"""Writes contracts/src/leaf/table/Tables.sol: what the leaf "from tables" interprets, in place of code for each operator.

    python tools/leaf_tables.py            write the file
    python tools/leaf_tables.py --check    exit 1 unless the committed file is what would be written

Two tables. **Programs**: the arithmetic of an operator is a short program for a machine of 32 registers of 256 bits; f32 values are
their bits, integers are signed. Registers at the start: 0..2 values, 3..5 totals of folds, 6 the bits of a sum, of a product or of a
constant, 7 the element's place along the axis, 8 the size of the axis. An instruction is `code u8 | to u8 | a u8 | b u8`, or with
0x80 added to the code `code | to | a | immediate u32`; jumps go forward only, so every program ends. **Recipes**: where an element
comes from, as the numbers of an affine map (see `recipe`). tests/exact/test_leaf_tables.py runs the programs in Python (`run`).
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np

from assay.exact import functions as spec
from assay.exact.reference import _fixed, _key, round_scaled
from assay.exact.types import NAN_BITS

TARGET = Path(__file__).resolve().parent.parent / "contracts" / "src" / "leaf" / "table" / "Tables.sol"
INSTRUCTIONS = (
    "trap", "fmul", "fadd", "fsub", "horner", "fdiv", "round", "fix",
    "and", "jz", "mov", "const", "add", "sub", "shl", "shr",
    "lt", "gt", "eq", "or", "jnz", "jump", "end", "xor",
    "sar", "key", "unkey", "max", "min", "canon", "fcmp", "mul",
    "sqrt", "trunc", "philox",
)
"""By code. fcmp: 1 less, 2 equal, 4 greater, 8 unordered. round: RN32(a * 2^b). fix: rint(a * 2^b), 0 for NaN and infinities. trunc:
towards zero, NaN as 0, infinities as anything beyond 64 bits. key, unkey: order of the floats, NaN as 2^31. canon: the one NaN."""
CODE = {name: code for code, name in enumerate(INSTRUCTIONS)}
UNARY = ("mov", "key", "unkey", "canon", "sqrt", "trunc")
JUMPS = ("jz", "jnz", "jump")
PINNED = 9
SIGN, REST, ONE = 0x80000000, 0x7FFFFFFF, 0x3F800000


class Reg:
    """A value of a program; its number is chosen when the program is assembled."""


Instruction = tuple[str, Reg | None, Reg | None, "Reg | int | tuple[int, ...]"]
IN = tuple(Reg() for _ in range(PINNED))
X, Y, Z, TOP, TOTAL, TOTAL2, BITS, PLACE, SIZE = IN


def word(value: object) -> int:
    """An immediate: an f32 as its bits."""
    return int(value.view(np.uint32)) if isinstance(value, np.float32) else int(value)  # type: ignore[call-overload, no-any-return]


class Program:
    """`p(name, a, b)` adds an instruction and gives its result; `b` is a register, an integer or an f32."""

    def __init__(self) -> None:
        self.lines: list[Instruction] = []

    def __call__(self, name: str, a: Reg | None = None, b: object = 0, to: Reg | None = None) -> Reg:
        to, b = to or Reg(), a if name in UNARY else b
        self.lines.append((name, to, a, b if isinstance(b, Reg) else tuple(map(word, b)) if isinstance(b, list) else word(b)))
        return to

    def constant(self, value: object, to: Reg | None = None) -> Reg:
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


# ---- the elementary functions, operation by operation as in assay.exact.functions ---------------------------------------------


def exp(p: Program, x: Reg) -> Reg:
    c = p("mov", x)
    inside = p.skip("jz", p("gt", p("and", x, REST), spec.f32(89)))
    above = p.skip("jz", p("and", p("fcmp", x, spec.f32(-104)), 1))
    p.constant(spec.f32(-104), to=c)
    p.land(above)
    below = p.skip("jz", p("and", p("fcmp", x, spec.f32(89)), 4))
    p.constant(spec.f32(89), to=c)
    p.land(inside, below)
    k = p("fix", p("fmul", c, spec.LOG2_E), 0)
    n = p("round", k, 0)
    r = p("fsub", c, p("fmul", n, spec.LN2_HIGH))
    r = p("fsub", r, p("fmul", n, spec.LN2_LOW))
    y = p("fmul", p("horner", r, list(spec.EXP)), p("fmul", r, r))
    y = p("fadd", p("fadd", y, r), ONE)
    half = p("sar", k, 1)
    for power in (half, p("sub", k, half)):
        y = p("fmul", y, p("shl", p("add", power, 127), 23))
    return y


def log(p: Program, x: Reg) -> Reg:
    y = p.constant(NAN_BITS)
    whole = p.skip("jnz", p("and", x, REST))
    p.constant(0xFF800000, to=y)
    zero = p.skip("jump")
    p.land(whole)
    negative = p.skip("jnz", p("and", x, SIGN))
    nan = p.skip("jnz", p("gt", x, 0x7F800000))
    p("mov", x, to=y)
    infinite = p.skip("jnz", p("eq", x, 0x7F800000))
    bits, k = p("mov", x), p.constant(126)
    normal = p.skip("jz", p("lt", x, 0x00800000))
    p("fmul", x, spec._c("0x1p23"), to=bits)
    p("add", k, 23, to=k)
    p.land(normal)
    n = p("sub", p("shr", bits, 23), k)
    f = p("or", p("and", bits, 0x7FFFFF), 0x3F000000)
    high = p.skip("jz", p("lt", f, spec.SQRT_HALF))
    p("sub", n, 1, to=n)
    p("fadd", f, f, to=f)
    p.land(high)
    f, n = p("fsub", f, ONE), p("round", n, 0)
    z = p("fmul", f, f)
    t = p("fmul", p("fmul", p("horner", f, list(spec.LOG)), f), z)
    t = p("fadd", t, p("fmul", n, spec.LN2_LOW))
    t = p("fsub", t, p("fmul", z, spec.f32(0.5)))
    p("fadd", p("fadd", f, t), p("fmul", n, spec.LN2_HIGH), to=y)
    p.land(zero, negative, nan, infinite)
    return y


def tanh(p: Program, x: Reg) -> Reg:
    a, y = p("and", x, REST), Reg()
    large = p.skip("jz", p("lt", a, spec.TANH_SMALL))
    z = p("fmul", a, a)
    p("fadd", a, p("fmul", a, p("fmul", z, p("horner", z, list(spec.TANH)))), to=y)
    done = p.skip("jump")
    p.land(large)
    p("fsub", p.constant(ONE), p("fdiv", p.constant(spec.f32(2)), p("fadd", exp(p, p("fadd", a, a)), ONE)), to=y)
    p.land(done)
    return p("or", y, p("and", x, SIGN))


def erf(p: Program, x: Reg) -> Reg:
    a, y = p("and", x, REST), Reg()
    large = p.skip("jz", p("lt", a, ONE))
    p("fadd", a, p("fmul", a, p("horner", p("fmul", a, a), list(spec.ERF))), to=y)
    done = p.skip("jump")
    p.land(large)
    c = p("mov", a)
    most = p.skip("jz", p("and", p("fcmp", a, spec.f32(4)), 4))
    p.constant(spec.f32(4), to=c)
    p.land(most)
    p("fsub", p.constant(ONE), exp(p, p("xor", p("horner", c, list(spec.ERFC)), SIGN)), to=y)
    p.land(done)
    return p("or", y, p("and", x, SIGN))


def sigmoid(p: Program, x: Reg) -> Reg:
    t = exp(p, p("or", x, SIGN))
    above = p("mov", t)
    negative = p.skip("jnz", p("and", x, SIGN))
    p.constant(ONE, to=above)
    p.land(negative)
    return p("fdiv", above, p("fadd", t, ONE))


def sine(p: Program, x: Reg, turn: int) -> Reg:
    """sin(|x| + turn * pi/2), NaN for NaN and infinities; the window of 2/pi as in functions._quadrant."""
    a, y = p("and", x, REST), p.constant(NAN_BITS)
    endless = p.skip("jz", p("lt", a, 0x7F800000))
    n, r = p.constant(turn), p("mov", a)
    near = p.skip("jnz", p("lt", a, spec.QUARTER_PI))
    shift = p("sub", p.constant(280), p("shr", a, 23))
    window = p("shr", p("shl", p("shr", p.constant(spec.TWO_OVER_PI), shift), 160), 160)
    m = p("or", p("and", a, 0x7FFFFF), 0x800000)
    turns = p("shr", p("shl", p("shr", p("mul", window, m), 32), 192), 192)
    q = p("shr", p("add", turns, p("shl", p.constant(1), 61)), 62)
    rest = p("round", p("sub", turns, p("shl", q, 62)), 0)
    p("fmul", p("fmul", rest, spec.HALF_PI), spec._c("0x1p-62"), to=r)
    p("add", n, q, to=n)
    p.land(near)
    z = p("fmul", r, r)
    even = p.skip("jz", p("and", n, 1))
    c = p("fmul", p("fmul", p("horner", z, list(spec.COS)), z), z)
    p("fadd", p("fsub", c, p("fmul", z, spec.f32(0.5))), ONE, to=y)
    odd = p.skip("jump")
    p.land(even)
    p("fadd", p("fmul", p("fmul", p("horner", z, list(spec.SIN)), z), r), r, to=y)
    p.land(odd)
    p("xor", y, p("shl", p("and", n, 2), 30), to=y)
    p.land(endless)
    return y


def sin(p: Program, x: Reg) -> Reg:
    return p("xor", sine(p, x, 0), p("and", x, SIGN))


# ---- every operator -----------------------------------------------------------------------------------------------------------


def largest(p: Program, sign: int) -> Reg:
    """max(x, y), or with the signs turned minus min."""
    return p("xor", p("unkey", p("max", *(p("key", p("xor", v, sign)) for v in (X, Y)))), sign)


def clamped(p: Program) -> Reg:
    return p("min", p("max", X, 0), p("sub", SIZE, 1))


def scale(p: Program, top: Reg) -> Reg:
    return p("sub", p("add", BITS, 126), top)


def fixed(p: Program, x: Reg) -> Reg:
    """q of a sum: zero where x is not finite, as all are then."""
    return p("fix", x, scale(p, TOP))


def exponent(p: Program) -> Reg:
    return p("and", p("shr", X, 23), 255)


def to_sum(p: Program) -> Reg:
    y = p.constant(NAN_BITS)
    nan = p.skip("jnz", p("eq", TOP, 255))
    p("round", TOTAL, p("sub", TOP, p("add", BITS, 126)), to=y)
    p.land(nan)
    return y


def zero_if_endless(p: Program, y: Reg, top: Reg) -> int:
    p.constant(0, to=y)
    return p.skip("jnz", p("eq", top, 255))


def sum_item(p: Program) -> Reg:
    y = Reg()
    endless = zero_if_endless(p, y, TOP)
    p("mov", fixed(p, X), to=y)
    p.land(endless)
    return y


def row_item(p: Program) -> Reg:
    y = Reg()
    endless = zero_if_endless(p, y, TOP)
    other = p.skip("jz", p("eq", clamped(p), PLACE))
    p("mov", fixed(p, Y), to=y)
    p.land(endless, other)
    return y


def product(p: Program) -> Reg:
    y, room = Reg(), p("sub", BITS, 1)
    endless = [zero_if_endless(p, y, top) for top in (TOP, TOTAL)]
    most = p("sub", p("shl", p.constant(1), room), 1)
    least = p("sub", p.constant(0), most)
    q = [p("min", p("max", p("fix", v, p("sub", p("add", room, 126), top)), least), most) for v, top in ((X, TOP), (Y, TOTAL))]
    p("mul", *q, to=y)
    p.land(*endless)
    return y


def to_product(p: Program) -> Reg:
    y = p.constant(NAN_BITS)
    endless = [p.skip("jnz", p("eq", top, 255)) for top in (TOP, TOTAL)]
    p("round", TOTAL2, p("sub", p("add", TOP, TOTAL), p("add", p("add", BITS, BITS), 250)), to=y)
    p.land(*endless)
    return y


def compared(mask: int) -> tuple[object, object]:
    """A comparison of floats and of integers, by the outcomes for which it is true."""
    name, turned = {1: ("lt", 0), 3: ("gt", 1), 4: ("gt", 0), 6: ("lt", 1), 2: ("eq", 0), 13: ("eq", 1)}[mask]

    def whole(p: Program) -> Reg:
        y = p(name, X, Y)
        return p("eq", y, 0) if turned else y

    return lambda p: p("gt", p("and", p("fcmp", X, Y), mask), 0), whole


def cast(f32: bool, to: int) -> object:
    def make(p: Program) -> Reg:
        if to == 0:
            return p("canon", X) if f32 else p("round", X, 0)
        if to == 3:
            return p("eq", p("eq", p("and", X, REST) if f32 else X, 0), 0)
        if not f32:
            return X
        top = p("shl", p.constant(1), (31, 63)[to - 1])
        return p("max", p("min", p("trunc", X), p("sub", top, 1)), p("sub", p.constant(0), top))

    return make


def chosen(canonical: bool) -> object:
    def make(p: Program) -> Reg:
        y = p("mov", Y)
        yes = p.skip("jnz", X)
        p("mov", Z, to=y)
        p.land(yes)
        return p("canon", y) if canonical else y

    return make


def marked(p: Program) -> Reg:
    y = p("mov", BITS)
    yes = p.skip("jnz", TOP)
    p("mov", X, to=y)
    p.land(yes)
    return y


def both(make: object) -> tuple[object, object]:
    return make, make


def integers(name: str) -> object:
    return lambda p: p(name, X, Y)


def true(p: Program, x: Reg) -> Reg:
    return p("eq", p("eq", x, 0), 0)


ENTRIES: dict[int, tuple[object, ...]] = {
    2: (lambda p: p("canon", p("xor", X, SIGN)),),
    3: (lambda p: p("canon", p("and", X, REST)),),
    4: (lambda p: p("unkey", p("max", p("key", X), 0)),),
    5: (lambda p: p("sqrt", X),),
    6: (lambda p: p("fdiv", p.constant(ONE), p("sqrt", X)),),
    7: (lambda p: p("fdiv", p.constant(ONE), X),),
    8: (lambda p: exp(p, X),),
    9: (lambda p: log(p, X),),
    10: (lambda p: p("canon", tanh(p, X)),),
    11: (lambda p: p("canon", erf(p, X)),),
    12: (lambda p: sigmoid(p, X),),
    13: (lambda p: p("canon", sin(p, X)),),
    14: (lambda p: sine(p, X, 1),),
    15: (integers("fadd"), integers("add")),
    16: (integers("fsub"), integers("sub")),
    17: (integers("fmul"), integers("mul")),
    18: (integers("fdiv"),),
    19: (lambda p: largest(p, 0),),
    20: (lambda p: p("canon", largest(p, SIGN)),),
    21: (None, lambda p: p("and", true(p, X), true(p, Y))),
    22: (None, lambda p: true(p, p("or", X, Y))),
    23: (None, lambda p: p("eq", X, 0)),
    24: compared(2),
    25: compared(13),
    26: compared(1),
    27: compared(3),
    28: compared(4),
    29: compared(6),
    30: (chosen(True), chosen(False)),
    31: (None, lambda p: p("philox", X, Y, to=Z)),
    33: (exponent, sum_item, None, to_sum),
    34: (lambda p: p("key", X), None, None, lambda p: p("unkey", TOP)),
    35: (exponent, sum_item, None, to_sum),
    36: (exponent, exponent, product, to_product),
    37: (exponent, row_item, None, to_sum),
    49: (lambda p: p("eq", clamped(p), PLACE), None, None, marked),
    50: tuple(cast(True, to) for to in range(4)),
    51: tuple(cast(False, to) for to in range(4)),
    52: (lambda p: p("mov", X), None, None, lambda p: p("mov", TOP)),
}
"""Programs by operator code (docs/dispute.md). MAP: for f32 operands, for others. REDUCE: an item of each fold, and at 3 the result.
`cast` is at 50 (from f32) and 51, by the dtype that it gives (f32, i32, i64, bool); sums of integers are at 52."""


FUNCTIONS = {8: "exp", 9: "log", 10: "tanh", 11: "erf", 12: "sigmoid", 13: "sin", 14: "cos"}


def programs() -> dict[tuple[int, int], bytes]:
    """Assembled, by row and column of ENTRIES."""
    made = {}
    for row, makers in ENTRIES.items():
        for column, make in enumerate(makers):
            if make is not None:
                p = Program()
                p.end(make(p))  # type: ignore[operator]
                made[row, column] = p.assemble()
    return made


def table(made: dict[tuple[int, int], bytes]) -> bytes:
    """Places of programs, u16 each, four a row of ENTRIES; then the programs, equal ones once. Place 0 is no program."""
    at, places, seen, body = 4 * 2 * (max(ENTRIES) + 1), {}, {}, b""
    for key, code in made.items():
        if code not in seen:
            seen[code] = at + len(body)
            body += code
        places[key] = seen[code]
    heads = [places.get((row, column), 0) for row, column in itertools.product(range(max(ENTRIES) + 1), range(4))]
    return b"".join(h.to_bytes(2, "big") for h in heads) + body


# ---- recipes ------------------------------------------------------------------------------------------------------------------

SYMBOLS = ("0", "1", "-", "inf", "L", "N", "M", "P", "Q", "R", "T", "J", "S")
"""What a map is made of, for operand X and an axis: L elements of X to a step along the axis, N = its size in X, M = its size in the
result, T = N - 1, J = the size of X's next axis, S = L / J; P, Q, R the attributes after the axis; "-" is -1, "inf" 2^64."""
NO_DIGIT = ()
RECIPES: dict[str, tuple[str, ...]] = {
    # source = offset + item * each + sum of digit * along + (t / every) * step, with t = before + sum of digit * across;
    # nothing where t is negative, no multiple of `every`, or t / every >= bound
    #            offset, each, before, every, bound, step | size, along, across of each digit, the last dimension first
    "reverse": ("TL", "0", "0", "1", "1", "0", "L", "1", "0", "N", "-L", "0", "inf", "NL", "0"),
    "slice": ("PL", "0", "0", "1", "1", "0", "L", "1", "0", "M", "RL", "0", "inf", "NL", "0"),
    "windows": ("0", "0", "0", "1", "1", "0", "L", "1", "0", "P", "RL", "0", "M", "QL", "0", "inf", "NL", "0"),
    "spread": ("0", "0", "0", "Q", "N", "L", "S", "1", "0", "J", "S", "-R", "P", "0", "1", "inf", "NL", "0"),
    "pad": ("0", "0", "-P", "1", "N", "L", "L", "1", "0", "M", "0", "1", "inf", "NL", "0"),
    "along": ("0", "L", "0", "1", "1", "0", "L", "1", "0", "M", "0", "0", "inf", "NL", "0"),
    "row": ("0", "L", "0", "1", "1", "0", "L", "1", "0"),
    "place": ("0", "0", "0", "1", "1", "0", "L", "0", "0", "M", "1", "0"),
    "whole": ("0", "0", "0", "1", "1", "0", "L", "0", "0", "inf", "1", "0"),
    "left": ("0", "1", "0", "1", "1", "0", "M", "0", "0", "inf", "N", "0"),
}


def factor(text: str) -> int:
    """A product of at most two symbols as two nibbles."""
    first, second = (SYMBOLS.index(s) for s in ((text, "1") if text in SYMBOLS else text))
    return first << 4 | second


def recipe(name: str) -> bytes:
    """32 bytes: the six numbers, then three a digit, zeros after the last."""
    made = bytes(factor(text) for text in RECIPES[name])
    return made.ljust(32, b"\0")


def literal(name: str, code: bytes) -> str:
    lines = "\n".join(f'        hex"{code[i : i + 56].hex()}"' for i in range(0, len(code), 56))
    return f"    bytes internal constant {name} =\n{lines};"


def render() -> str:
    words = "\n".join(f"    uint256 internal constant {name.upper()} = 0x{recipe(name).hex()};" for name in RECIPES)
    made = programs()
    alone = "\n".join(literal(name.upper(), made.pop((code, 0))) for code, name in FUNCTIONS.items())
    choice = "\n".join(f"        if (op == {code}) return {name.upper()};" for code, name in FUNCTIONS.items())
    return f"""// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

// Written by tools/leaf_tables.py, which says what it means; do not edit.

/// Where elements come from: the numbers of an affine map each, as pairs of symbols. Read by Maps.sol.
library Recipes {{
{words}
}}

/// The arithmetic of the operators as programs. Read by Machine.sol.
library Programs {{
    /// Places of programs, u16 each, four for a row; then the programs.
{literal("TABLE", table(made))}
{alone}

    /// The program of one of the long functions (operators {min(FUNCTIONS)} to {max(FUNCTIONS)}), which are not in TABLE so that no call carries all.
    function long(uint256 op) internal pure returns (bytes memory) {{
{choice}
        revert();
    }}
}}
"""


# ---- the machine in Python ----------------------------------------------------------------------------------------------------


def _f(bits: int) -> np.float32:
    return np.uint32(bits).view(np.float32)  # type: ignore[return-value]


def _b(x: object) -> int:
    return int(np.float32(x).view(np.uint32)) if x == x else NAN_BITS  # type: ignore[arg-type]


def _order(x: int) -> int:
    return int(_key(_f(x))) if _f(x) == _f(x) else 1 << 31


def _compare(a: int, b: int) -> int:
    x, y = _f(a), _f(b)
    return 1 if x < y else 2 if x == y else 4 if x > y else 8


def _trunc(a: int) -> int:
    return 0 if _f(a) != _f(a) else int(_f(a)) if np.isfinite(_f(a)) else (-1 if a & SIGN else 1) << 128


def _unkey(a: int) -> int:
    return NAN_BITS if a == 1 << 31 else (a ^ (a >> 31 & REST)) & 0xFFFFFFFF


SCALAR = {
    "fmul": lambda a, b: _b(_f(a) * _f(b)), "fadd": lambda a, b: _b(_f(a) + _f(b)), "fsub": lambda a, b: _b(_f(a) - _f(b)),
    "fdiv": lambda a, b: _b(_f(a) / _f(b)), "sqrt": lambda a, _: _b(np.sqrt(_f(a))), "mov": lambda a, _: a, "and": lambda a, b: a & b,
    "or": lambda a, b: a | b, "xor": lambda a, b: a ^ b, "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b,
    "shl": lambda a, b: a << b & (1 << 256) - 1, "shr": lambda a, b: a >> b, "sar": lambda a, b: a >> b,
    "lt": lambda a, b: int(a < b), "gt": lambda a, b: int(a > b), "eq": lambda a, b: int(a == b), "max": max, "min": min,
    "fcmp": _compare, "key": lambda a, _: _order(a), "unkey": lambda a, _: _unkey(a), "canon": lambda a, _: _b(_f(a)),
    "round": lambda a, b: _b(round_scaled(np.int64(a), b)), "fix": lambda a, b: int(_fixed(_f(a), b)), "trunc": lambda a, _: _trunc(a),
}  # fmt: skip


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
                registers[to] = int(spec.philox(*(np.array(v, np.int64) for v in (a, b, registers[to]))))
            case _:
                registers[to] = SCALAR[name](a, b)


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print(__doc__)
        return 2
    if not arguments:
        TARGET.write_text(render())
        return 0
    if TARGET.read_text() != render():
        print(f"{TARGET.name} is not what tools/leaf_tables.py writes; run: python tools/leaf_tables.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
