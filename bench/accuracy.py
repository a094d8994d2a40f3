# Measures the error of every one-argument function of the exact engine over all 2^32 float32 inputs, in units in the last place (ulp) of the
# correctly rounded result, against the same function in float64 (good to about 2^-27 of such an ulp); the worst input of each is computed
# again with mpmath at 200 bits. Goal: the bounds that tests/exact/test_functions.py promises. --write puts the rows into the table of
# docs/exact-arithmetic.md. Signs are free: where a function is odd or even its negative half must mirror the other bit for bit.
#
#     python bench/accuracy.py [--quick] [--json] [--write] [FUNCTION ...]
from __future__ import annotations

import argparse
import ctypes
import json
import math
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import mpmath
import numpy as np
from numpy.typing import NDArray

from assay.exact.conformance import Writer, program
from assay.exact.cpu import Cpu
from assay.exact.native import build

Array = NDArray[Any]
PAGE = Path(__file__).parent.parent / "docs" / "exact-arithmetic.md"
BEGIN, END = "<!-- accuracy: python bench/accuracy.py --write -->\n", "<!-- end of accuracy -->\n"
CHUNK = 1 << 15
HALF = 1 << 31
"""Bit patterns of one sign."""
ODD, EVEN, BOTH, NONE = "odd", "even", "both", "none"
"""What a function does with negative inputs: f(-x) = -f(x), f(-x) = f(x), something of its own, or NaN."""


def erf(x: Array) -> Array:
    from scipy.special import erf as f64

    return np.asarray(f64(x))


class Function(NamedTuple):
    f64: Callable[[Array], Array]
    exact: Callable[[Any], Any]
    negative: str


FUNCTIONS: dict[str, Function] = {
    "sqrt": Function(np.sqrt, mpmath.sqrt, NONE),
    "rsqrt": Function(lambda x: 1 / np.sqrt(x), lambda x: 1 / mpmath.sqrt(x), NONE),
    "reciprocal": Function(lambda x: 1 / x, lambda x: 1 / x, ODD),
    "exp": Function(np.exp, mpmath.exp, BOTH),
    "log": Function(np.log, mpmath.log, NONE),
    "tanh": Function(np.tanh, mpmath.tanh, ODD),
    "sigmoid": Function(lambda x: 1 / (1 + np.exp(-x)), lambda x: 1 / (1 + mpmath.exp(-x)), BOTH),
    "erf": Function(erf, mpmath.erf, ODD),
    "sin": Function(np.sin, mpmath.sin, ODD),
    "cos": Function(np.cos, mpmath.cos, EVEN),
}


class Error(NamedTuple):
    ulp: float
    worst: float
    """The input where it is so large."""
    rounded: float
    """Share of finite results that are correctly rounded."""
    inputs: int


SOURCE = """
#include <math.h>
#include <stdint.h>
#include <string.h>
/* error[i] = |got - want| in ulp; NaN and overflow must come together, else it is infinite. */
void error_of(const float *got, const double *want, double *error, long n) {
    for (long i = 0; i < n; i++) {
        double w = want[i], g = got[i], scale;
        int64_t bits, e;
        memcpy(&bits, &w, 8);
        e = bits >> 52 & 0x7ff;
        e = (2046 + 23 - (e < 1023 - 126 ? 1023 - 126 : e)) << 52;
        memcpy(&scale, &e, 8);
        double r = fabs(g - w) * scale;
        r = fabs(w) >= 0x1p128 - 0x1p103 ? (g == (w > 0 ? INFINITY : -INFINITY) ? 0 : INFINITY) : r;
        error[i] = w != w ? (g != g ? 0 : INFINITY) : (g != g ? INFINITY : r);
    }
}
"""


@cache
def _error_of() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "error.c", Path(folder) / "error.so"
        source.write_text(SOURCE)
        flags = [*build.FLAGS, *build.LEVELS[build.levels()[-1]][1]]
        subprocess.run([build.compiler(), *flags, "-o", str(library), str(source)], check=True, timeout=60)
        return ctypes.CDLL(str(library)).error_of


def error_of(got: Array, want: Array) -> Array:
    """|got - want| in ulp; f32 and f64. NaN and overflow must come together, else the error is infinite."""
    got, want, error = np.ascontiguousarray(got), np.ascontiguousarray(want), np.empty(got.shape)
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in (got, want, error)]
    _error_of()(*pointers, ctypes.c_long(got.size))
    return error


def worst_exactly(name: str, x: float, got: float) -> float:
    """The error at one input by mpmath."""
    with mpmath.workprec(200):
        want = FUNCTIONS[name].exact(mpmath.mpf(x))
        if not mpmath.isfinite(want) or want == 0 or not math.isfinite(got):
            return 0.0
        return float(abs(mpmath.mpf(got) - want) / mpmath.mpf(2) ** max(-149, int(mpmath.floor(mpmath.log(abs(want), 2))) - 23))


def measure(name: str, stride: int = 1) -> Error:
    """Errors at every stride-th bit pattern. Raises AssertionError where the negative half is not what it should be."""
    function = FUNCTIONS[name]
    x = np.empty(CHUNK, np.float32)
    w = Writer(x)
    cpu = Cpu(program(w.part(w(name, 0)), 14))
    most, where, rounded, finite, inputs = -1.0, 0.0, 0, 0, 0

    def run(values: Array) -> Array:
        return cpu.run("micro", {"batch": {"x0": values}})["y0"]

    def judge(values: Array, got: Array) -> None:
        nonlocal most, where, rounded, finite
        with np.errstate(all="ignore"):
            error = error_of(got, function.f64(values.astype(np.float64)))
        at = int(error.argmax())
        if error[at] > most:
            most, where = float(error[at]), float(values[at])
        good = np.isfinite(got)
        finite += int(np.count_nonzero(good))
        rounded += int(np.count_nonzero(good & (error <= 0.5)))

    for start in range(0, HALF, CHUNK * stride):
        bits = (np.arange(CHUNK, dtype=np.int64) * stride + start) % HALF
        x = bits.astype(np.uint32).view(np.float32)
        got = run(x)
        judge(x, got)
        mirrored = run(-x)
        if function.negative == BOTH:
            judge(-x, mirrored)
        elif function.negative == NONE:
            assert np.isnan(mirrored[x > 0]).all(), f"{name} of a negative number is not NaN"
        else:
            sign = np.where(np.isnan(got), 0, 0x80000000 if function.negative == ODD else 0).astype(np.uint32)
            assert np.array_equal(mirrored.view(np.uint32), got.view(np.uint32) ^ sign), f"{name} is not {function.negative}"
        inputs += 2 * CHUNK
    by_hand = worst_exactly(name, where, float(run(np.full(CHUNK, where, np.float32))[0]))
    assert not math.isfinite(most) or abs(by_hand - most) < 1e-3, f"{name}({where!r}): {most} ulp in float64, {by_hand} by mpmath"
    return Error(most, where, rounded / max(finite, 1), inputs)


def row(name: str, e: Error) -> str:
    return f"| {name} | {e.ulp:.3f} | `{e.worst.hex()}` | {e.rounded:.2%} | {e.inputs} |"


def rows() -> dict[str, str]:
    """Function -> its row in the page's table."""
    text = PAGE.read_text()
    lines = text[text.index(BEGIN) + len(BEGIN) : text.index(END)].splitlines()[2:]
    return {line.split("|")[1].strip(): line for line in lines}


def write(results: dict[str, Error]) -> None:
    """Puts these rows into the page's table, in the order of FUNCTIONS; the others stay."""
    text = PAGE.read_text()
    now = rows() | {name: row(name, e) for name, e in results.items()}
    head = "| function | largest error, ulp | at | correctly rounded | inputs |\n|---|---|---|---|---|\n"
    table = head + "".join(now[name] + "\n" for name in FUNCTIONS if name in now)
    PAGE.write_text(text[: text.index(BEGIN) + len(BEGIN)] + table + text[text.index(END) :])


def published() -> dict[str, float]:
    """Function -> largest error of the page's table."""
    return {name: float(line.split("|")[2]) for name, line in rows().items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="errors of the one-argument functions over all float32")
    parser.add_argument("functions", nargs="*", help="these only")
    parser.add_argument("--quick", action="store_true", help="every 1021st input")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    parser.add_argument("--write", action="store_true", help="put the table into docs/exact-arithmetic.md")
    options = parser.parse_args()
    if options.write and options.quick:
        parser.error("--write needs all inputs: leave --quick out")
    results = {}
    for name in options.functions or FUNCTIONS:
        e = results[name] = measure(name, 1021 if options.quick else 1)
        print(f"{name}: {e.ulp:.3f} ulp at {e.worst.hex()}, {e.rounded:.2%} correctly rounded, {e.inputs} inputs", flush=True)
    if options.write:
        write(results)
    if options.json:
        print(json.dumps({name: e._asdict() for name, e in results.items()}))


if __name__ == "__main__":
    main()
