"""The conformance set finds a fault of any native kernel: one flipped bit of what it writes, and subtle changes of the C code."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assay.exact import conformance, cpu, examination, faults
from assay.exact.inputs import Case
from assay.exact.native import build
from assay.exact.table import OPS
from tests.exact.support import Route, on

pytestmark = pytest.mark.skipif(build.library() is None, reason="there is no native library here")
LEVEL = build.levels()[-1]
LARGE = {"matmul": 1 << 18, "sum": 1 << 14, "amax": 1 << 14, "cumsum": 1 << 14}
"""Step -> size (work of a product, elements of a sum) from which on the native code uses more than one thread; 8 blocks for maps."""
STEPS = {"scatter_add": "scatter_add_rows"}
"""Step -> operator, where they differ in name."""


def kernel_operator(name: str) -> str:
    """The operator that a kernel or step belongs to; empty for those that place elements for several."""
    first = name.split("_")[0]
    return STEPS.get(name, name if name in OPS else "cast" if "_to_" in name or name.startswith("copy_") else first if first in OPS else "")


def _walked(words: list[int], at: int) -> tuple[int, int]:
    """Elements of a walk (rank, dims, strides) in the words of a step, and where the words after it begin."""
    rank = words[at]
    return int(np.prod(words[at + 1 : at + 1 + rank])), at + 1 + 2 * rank


def product_size(words: list[int]) -> int:
    """Rows times columns times inner dimension (native/gemm.c has the layout)."""
    rows, at = _walked(words, 8 + 3 * words[7])
    inner, at = _walked(words, at)
    return rows * inner * _walked(words, at)[0]


def reduced(name: str, words: list[int]) -> int:
    """Elements that a reduction reads (native/reduce.c has the layouts)."""
    if name == "cumsum":
        return int(np.prod(words[4:7]))
    outer, at = _walked(words, 7)
    return outer * words[5] * _walked(words, at)[0] * words[6]


class Struck(build.Library):
    """The library, but one kernel or step flips the lowest bit of one element that it writes."""

    def __init__(self, path: Path, broken: str = "") -> None:
        super().__init__(path)
        self.broken, self.largest = broken, dict.fromkeys([*self.kernels, *self.steps], 0)
        self._kernel_names, self._step_names = list(self.kernels), list(self.steps)

    def run(self, tape: Any, start: int, stop: int, bases: Any, threads: int) -> None:
        while start < stop:
            end = start + 2 + int(tape[start + 1])
            super().run(tape, start, end, bases, threads)
            name, words = self._step_names[int(tape[start])], [int(word) for word in tape[start + 2 : end]]
            if name == "map":
                self._after_map(words, bases)
            size = product_size(words) if name == "matmul" else reduced(name, words) if name in LARGE else 0
            self._wrote(name, size, int(bases[words[0]]) + words[1] if name != "map" else 0)
            start = end

    def _after_map(self, w: list[int], bases: Any) -> None:
        """Looks for outputs that the broken kernel writes (native/map.c has the layout); a NaN is made canonical on the way."""
        n, inputs, outputs, registers = w[:4]
        at = 6
        for _ in range(inputs):
            at += 8 + 2 * w[at + 7]
        places, code = w[at : at + 3 * outputs], w[at + 3 * outputs + registers :]
        writer: dict[int, str] = {}
        for op, target, source in zip(code[0::5], code[1::5], code[2::5], strict=True):
            name = self._kernel_names[op]
            writer[target] = writer.get(source, "") if name == "canon" else name
            if inputs <= target < inputs + outputs:
                base, offset, item = places[3 * (target - inputs) : 3 * (target - inputs) + 3]
                for written in {name, writer[target]}:
                    self._wrote(written, n, int(bases[base]) + offset + (n - 1) * item)

    def _wrote(self, name: str, size: int, address: int) -> None:
        self.largest[name] = max(self.largest[name], size)
        if name == self.broken and address:
            ctypes.c_uint8.from_address(address).value ^= 1


def test_a_flipped_bit_of_any_kernel_is_found_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    path = build.build(LEVEL)
    looking = Struck(path)
    monkeypatch.setattr(cpu, "library", lambda: looking)
    cases: dict[str, Case] = {}
    want = conformance.expected()
    for case in conformance.cases():
        before = dict(looking.largest)
        looking.largest = dict.fromkeys(before, -1)
        assert conformance.matches(case, want[case.name])
        cases |= {name: case for name, size in looking.largest.items() if size >= 0 and name not in cases}
        looking.largest = {name: max(size, looking.largest[name]) for name, size in before.items()}
    assert set(cases) == {*looking.kernels, *looking.steps}
    small = {name for name in looking.kernels if looking.largest[name] < 8 * 1024} | {name for name, n in LARGE.items() if looking.largest[name] < n}
    assert small == set(), "too small for a second thread"
    for name in sorted({*looking.kernels, *looking.steps} - {"map"}):  # whose faults are its kernels'
        broken = Struck(path, name)
        monkeypatch.setattr(cpu, "library", lambda broken=broken: broken)
        monkeypatch.setattr(conformance, "cases", lambda case=cases[name]: iter([case]))
        found = examination.operators(examination.Route(LEVEL, 1))
        assert len(found) == 1, f"a fault in {name} is not found"
        assert found[0].where.startswith(f"operator {kernel_operator(name)}"), f"a fault in {name} is said to be in: {found[0].where}"


def _rewritten(file: str, old: str, new: str) -> Callable[[Path], list[str]]:
    def change(folder: Path) -> list[str]:
        text = (folder / file).read_text()
        assert old in text, f"{file} has no `{old}`: choose another fault"
        (folder / file).write_text(text.replace(old, new))
        return []

    return change


def _flags(*flags: str) -> Callable[[Path], list[str]]:
    return lambda folder: list(flags)


def _wrong(case: Case, want: str) -> bool:
    try:
        return not conformance.matches(case, want, 2)
    except faults.HardwareFault:  # a product that the checksum refuses is found, too
        return True


FLUSHED = ("_FLOATS 0\n", "_FLOATS (1 << 24)\n") if "asimd" in build.features() else ("_FLOATS 0x1f80", "_FLOATS 0x9fc0")
CHANGES: dict[str, Callable[[Path], list[str]]] = {
    "q is not clamped": _rewritten("pack.c", "return most(least(q, limit), minus(zero, limit));", "return q;"),
    "products are widened one pair too late": _rewritten("gemm.c", "? INT32_MAX / (2 *", "? 1 + INT32_MAX / (2 *"),
    "blocks of products are trusted for twice as long": _rewritten("gemm.c", "< 0x1p61f", "< 0x1p63f"),
    "wide products are rounded twice": _rewritten("gemm.c", "> 53,", "> 63,"),
    "a row with an infinity counts as finite": _rewritten("pack.c", "e == 255 ? from_bits64(0x7ff8000000000000u) :", "e == 256 ? from_bits64(0) :"),
    "totals are rounded twice": _rewritten("assay.h", " | ((size & 1023) != 0)", ""),
    "sums of infinities are numbers": _rewritten("reduce.c", ">> 23 == 255", ">> 23 == 256"),
    "negative numbers are ordered backwards": _rewritten("reduce.c", "b ^ ((b >> 31) & 0x7fffffff)", "b"),
    "the greater zero is not told": _rewritten("map.c", "y = a == b ? from_bits(bits_of(a) & bits_of(b)) : y;", ""),
    "NaNs are left as they are": _rewritten("map.c", "x != x ? from_bits(NAN_BITS) : x)", "x)"),
    "2^31 is taken for an int32": _rewritten("map.c", "x < 0x1p31f", "x <= 0x1p31f"),
    "int64 goes through a double": _rewritten("map.c", "1ll << 53 ? x : odd", "1ll << 53 ? x : x"),
    "Philox has nine rounds": _rewritten("map.c", "round < 10", "round < 9"),
    "one bit of 2/pi": _rewritten("map.c", "0xfc2757d1", "0xfc2757d0"),
    "one bit of exp": _rewritten("map.c", "0x1.5554bap-5f", "0x1.5554bcp-5f"),
    "subnormals are flushed": _rewritten("assay.h", *FLUSHED),
    "the last element of a large map is left out": _rewritten("assay.h", "? b : total;", "? b : total - (total > 9000);"),
    "a multiplication and an addition are one": _flags("-ffp-contract=fast", *(["-mfma"] if "fma" in build.features() else [])),
    "additions are reordered": _flags("-fassociative-math", "-freciprocal-math", "-fno-signed-zeros"),  # -ffast-math would outlive the test
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_the_native_code_is_found(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for source in (*build.SOURCES, *build.HEADERS):
        shutil.copy(Path(build.__file__).parent / source, tmp_path)
    flags = [*build._flags(LEVEL), *CHANGES[name](tmp_path)]
    target = tmp_path / "changed.so"
    sources = [str(tmp_path / source) for source in build.SOURCES]
    subprocess.run([build.compiler(), *flags, "-o", str(target), *sources, "-lm", "-lpthread"], check=True, timeout=300)
    changed = build.Library(target)
    monkeypatch.setattr(cpu, "library", lambda: changed)
    want = conformance.expected()
    with on(Route(LEVEL, 2)):
        assert any(_wrong(case, want[case.name]) for case in conformance.cases())
