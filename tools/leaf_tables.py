"""Writes contracts/src/leaf/table/Tables.sol: what the leaf "from tables" interprets, in place of code for each operator.

    python tools/leaf_tables.py            write the file
    python tools/leaf_tables.py --check    exit 1 unless the committed file is what would be written

Two tables. Programs: the arithmetic of an operator is a short program for the machine of tools/leaf_machine.py. Recipes: where an element
comes from, as the numbers of an affine map. tests/exact/test_leaf_tables.py runs all programs in Python.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path

from leaf_machine import BITS, ONE, PLACE, REST, SIGN, SIZE, TOP, TOTAL, TOTAL2, Program, Reg, X, Y, Z

from assay.exact import functions as spec
from assay.exact.types import NAN_BITS

TARGET = Path(__file__).resolve().parent.parent / "contracts" / "src" / "leaf" / "table" / "Tables.sol"
Maker = Callable[[Program], Reg]

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
    x, y = (p("key", p("xor", v, sign)) for v in (X, Y))
    return p("xor", p("unkey", p("max", x, y)), sign)


def clamped(p: Program) -> Reg:
    return p("min", p("max", X, 0), p("sub", SIZE, 1))


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


def sum_item(p: Program, rows: bool = False) -> Reg:
    """q of x; for `rows` that of y, 0 unless the index x, clamped, is the row."""
    y = Reg()
    nothing = [zero_if_endless(p, y, TOP)]
    if rows:
        nothing.append(p.skip("jz", p("eq", clamped(p), PLACE)))
    p("fix", Y if rows else X, p("sub", p("add", BITS, 126), TOP), to=y)
    p.land(*nothing)
    return y


def product(p: Program) -> Reg:
    y, room = Reg(), p("sub", BITS, 1)
    endless = [zero_if_endless(p, y, top) for top in (TOP, TOTAL)]
    most = p("sub", p("shl", p.constant(1), room), 1)
    least = p("sub", p.constant(0), most)
    x, z = (p("min", p("max", p("fix", v, p("sub", p("add", room, 126), top)), least), most) for v, top in ((X, TOP), (Y, TOTAL)))
    p("mul", x, z, to=y)
    p.land(*endless)
    return y


def to_product(p: Program) -> Reg:
    y = p.constant(NAN_BITS)
    endless = [p.skip("jnz", p("eq", top, 255)) for top in (TOP, TOTAL)]
    p("round", TOTAL2, p("sub", p("add", TOP, TOTAL), p("add", p("add", BITS, BITS), 250)), to=y)
    p.land(*endless)
    return y


def compared(mask: int) -> tuple[Maker, Maker]:
    """A comparison of floats and of integers, by the outcomes for which it is true."""
    name, turned = {1: ("lt", 0), 3: ("gt", 1), 4: ("gt", 0), 6: ("lt", 1), 2: ("eq", 0), 13: ("eq", 1)}[mask]

    def whole(p: Program) -> Reg:
        y = p(name, X, Y)
        return p("eq", y, 0) if turned else y

    return lambda p: p("gt", p("and", p("fcmp", X, Y), mask), 0), whole


def cast(f32: bool, to: int) -> Maker:
    """To f32, i32, i64 or bool, by number."""

    def make(p: Program) -> Reg:
        if to == 0:
            return p("canon", X) if f32 else p("round", X, 0)
        if to == 3:
            return true(p, p("and", X, REST) if f32 else X)
        if not f32:
            return X
        top = p("shl", p.constant(1), (31, 63)[to - 1])
        return p("max", p("min", p("trunc", X), p("sub", top, 1)), p("sub", p.constant(0), top))

    return make


def either(p: Program, choice: Reg, yes: Reg, no: Reg) -> Reg:
    y = p("mov", yes)
    chosen = p.skip("jnz", choice)
    p("mov", no, to=y)
    p.land(chosen)
    return y


def two(name: str) -> Maker:
    return lambda p: p(name, X, Y)


def true(p: Program, x: Reg) -> Reg:
    return p("eq", p("eq", x, 0), 0)


ENTRIES: dict[int, tuple[Maker | None, ...]] = {
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
    15: (two("fadd"), two("add")),
    16: (two("fsub"), two("sub")),
    17: (two("fmul"), two("mul")),
    18: (two("fdiv"),),
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
    30: (lambda p: p("canon", either(p, X, Y, Z)), lambda p: either(p, X, Y, Z)),
    31: (None, lambda p: p("philox", X, Y, to=Z)),
    33: (exponent, sum_item, None, to_sum),
    34: (lambda p: p("key", X), None, None, lambda p: p("unkey", TOP)),
    35: (exponent, sum_item, None, to_sum),
    36: (exponent, exponent, product, to_product),
    37: (exponent, lambda p: sum_item(p, True), None, to_sum),
    49: (lambda p: p("eq", clamped(p), PLACE), None, None, lambda p: either(p, p("eq", TOP, 1), BITS, X)),
    50: tuple(cast(True, to) for to in range(4)),
    51: tuple(cast(False, to) for to in range(4)),
    52: (lambda p: p("mov", X), None, None, lambda p: p("mov", TOP)),
}
"""Programs by operator code (docs/dispute.md). MAP: for f32 operands, for others. REDUCE: an item of each fold, and at 3 the result.
`cast` is at 50 (from f32) and 51, by the dtype that it gives (f32, i32, i64, bool); sums of integers are at 52."""
FUNCTIONS = {8: "exp", 9: "log", 10: "tanh", 11: "erf", 12: "sigmoid", 13: "sin", 14: "cos"}
"""What is not in TABLE, so that no call carries all of it."""


def programs() -> dict[tuple[int, int], bytes]:
    """Assembled, by row and column of ENTRIES."""
    made = {}
    for row, makers in ENTRIES.items():
        for column, make in enumerate(makers):
            if make is not None:
                p = Program()
                p.end(make(p))
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
    "left": ("0", "1", "0", "1", "1", "0", "M", "0", "0", "inf", "N", "0"),
}


def factor(text: str) -> int:
    """A product of at most two symbols as two nibbles; nothing is 0."""
    first, second = (SYMBOLS.index(s) for s in ((text, "1") if text in SYMBOLS else text))
    return first and first << 4 | second


def recipe(name: str) -> bytes:
    """32 bytes: the six numbers, then three a digit, zeros after the last."""
    return bytes(factor(text) for text in RECIPES[name]).ljust(32, b"\0")


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

    /// The program of one of the long functions (operators {min(FUNCTIONS)} to {max(FUNCTIONS)}).
    function long(uint256 op) internal pure returns (bytes memory) {{
{choice}
        revert();
    }}
}}
"""


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print(__doc__)
        return 2
    if not arguments:
        TARGET.write_text(render())
    elif TARGET.read_text() != render():
        print(f"{TARGET.name} is not what tools/leaf_tables.py writes; run: python tools/leaf_tables.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
