"""What counts instructions of machine code (bench/machine.py): how often its parts run, and what its arithmetic gives, on listings as nvdisasm prints
them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"

COURSE = """
        S2R R0, SR_TID.X
        LDC R2, c[0x0][0x210]
        IMAD.MOV.U32 R3, RZ, RZ, RZ
        LOP3.LUT R4, R0, 0x1f, RZ, 0xc0, !PT
.L_x_0:
        VIADD R3, R3, 0x1
        ISETP.GE.U32.AND P0, PT, R3, R2, PT
        @!P0 BRA `(.L_x_0)
        BSSY B0, `(.L_x_2)
        ISETP.GE.U32.AND P1, PT, R4, 0x10, PT
        @P1 BRA `(.L_x_1)
        IADD3 R5, R4, 0x2, RZ
        BRA `(.L_x_2)
.L_x_1:
        MUFU.RCP R5, R4
        BRA `(.L_x_2)
.L_x_2:
        BSYNC B0
        @!P1 IMAD.MOV.U32 R7, RZ, RZ, 0x7
        SHF.L.U32 R6, R0, 0x7, RZ
        STS [R6], R0
        BAR.SYNC.DEFER_BLOCKING 0x0
        LOP3.LUT R6, R6, 0x1000, RZ, 0x3c, !PT
        LDS R8, [R6]
        REDUX.SUM UR4, R0
        EXIT
"""
"""Three times round a loop, then half a warp goes another way than the other; 64 threads."""


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCH))
    yield importlib.import_module("machine")
    for name in ("machine", "meanings", "accesses", "warps"):
        sys.modules.pop(name, None)


def run(b: Any) -> Any:
    return b.run(importlib.import_module("meanings").meaning)


def block(machine: Any, text: str, threads: int, *arguments: int) -> Any:
    lines = [f"        /*{16 * k:04x}*/ {line.strip()} ;" if line.startswith(" ") else line for k, line in enumerate(text.strip("\n").splitlines())]
    return machine.Block(machine.parsed(lines), (1, 1, 1), (threads, 1, 1), (0, 0, 0), arguments, machine.Memory({}, {}))


def test_loops_branches_and_barriers_run_as_often_as_they_do(machine: Any) -> None:
    b = block(machine, COURSE, 64, 3)
    counts = run(b)
    assert counts["issued"] == 2 * (4 + 3 * 3 + 3 + 2 + 2 + 9)
    assert counts["slow"] == 2 * 2  # a reciprocal and a sum
    assert counts["_MUFU"] == 2
    assert counts["heavy"] == 2 * 2  # IMAD.MOV, the one with a guard among them
    assert counts["alu"] == 2 * (1 + 3 * 2 + 1 + 1 + 1 + 1)
    assert counts["shared"] == 2 * 2
    assert counts["wavefronts"] == 2 * 2 * 32  # all words of a warp lie in one bank
    assert (b.r["R8"] == np.arange(64) ^ 32).all()  # what the other warp has stored before the barrier
    assert (b.r["UR4"][[0, 32]] == [sum(range(32)), sum(range(32, 64))]).all()
    assert run(block(machine, COURSE, 64, 4))["issued"] == counts["issued"] + 2 * 3


VOTES = """
        S2R R0, SR_TID.X
        ISETP.EQ.U32.AND P0, PT, R0, 0x28, PT
        BAR.RED.OR.DEFER_BLOCKING 0x0, P0
        B2R.RESULT RZ, P1
        SEL R1, RZ, 0x1, !P1
        ISETP.EQ.U32.AND P0, PT, R0, 0x40, PT
        BAR.RED.OR.DEFER_BLOCKING 0x0, P0
        B2R.RESULT RZ, P1
        SEL R2, RZ, 0x1, !P1
        ISETP.NE.U32.AND P0, PT, R0, 0x28, PT
        BAR.RED.AND.DEFER_BLOCKING 0x0, P0
        B2R.RESULT RZ, P1
        SEL R3, RZ, 0x1, !P1
        ISETP.NE.U32.AND P0, PT, R0, 0x40, PT
        BAR.RED.AND.DEFER_BLOCKING 0x0, P0
        B2R.RESULT RZ, P1
        SEL R4, RZ, 0x1, !P1
        EXIT
"""


def test_what_one_thread_says_at_a_barrier_all_know(machine: Any) -> None:
    b = block(machine, VOTES, 64)
    run(b)
    assert (b.r["R1"] == 1).all()
    assert (b.r["R2"] == 0).all()  # no thread has that number
    assert (b.r["R3"] == 0).all()
    assert (b.r["R4"] == 1).all()


APART = """
        S2R R0, SR_TID.X
        ISETP.GE.U32.AND P0, PT, R0, 0x10, PT
        @P0 BRA `(.L_x_1)
.L_x_0:
        WARPSYNC.ALL
        REDUX.SUM UR4, R0
        EXIT
.L_x_1:
        VIADD R0, R0, 0x1
        BRA `(.L_x_0)
"""


def test_threads_that_went_another_way_are_waited_for(machine: Any) -> None:
    b = block(machine, APART, 64)
    run(b)
    assert (b.r["UR4"][[0, 32]] == [sum(range(32)) + 16, sum(range(32, 64)) + 32]).all()


TENSOR = """
        S2R R0, SR_TID.X
        LDC.64 R2, c[0x0][0x210]
        IMAD R4, R0, R2, R3
        IMAD R5, R4, R2, R0
        IMAD R6, R5, R2, R0
        IMAD R7, R6, R2, R0
        IMAD R8, R7, R2, R0
        IMAD R9, R8, R2, R0
        IMMA.16832.S8.S8 R12, R4.ROW, R8.COL, RZ
        IMMA.16832.U8.S8 R16, R4.ROW, R8.COL, R12
        EXIT
"""


def test_products_of_tensor_cores_are_those_of_fragments(machine: Any) -> None:
    b = block(machine, TENSOR, 64, 0x9E3779B97F4A7C15)
    run(b)
    word = lambda k, t: int(b.r[f"R{k}"][t])  # noqa: E731
    for warp in range(2):
        for row, column in ((0, 0), (3, 5), (11, 6), (15, 7)):
            want = [0, 0]
            for k in range(32):
                at = 4 * (k % 16 // 4)  # the thread of a group of four, in bits
                x = word(4 + row // 8 + 2 * (k // 16), 32 * warp + 4 * (row % 8) + at // 4) >> 8 * (k % 4) & 255
                y = signed(word(8 + k // 16, 32 * warp + 4 * column + at // 4) >> 8 * (k % 4), 8)
                want = [want[0] + signed(x, 8) * y, want[1] + x * y]
            for which, total in ((12, want[0]), (16, sum(want))):
                assert signed(word(which + column % 2 + 2 * (row // 8), 32 * warp + 4 * (row % 8) + column // 2), 32) == total


WIDE = """
        LDC.64 R2, c[0x0][0x210]
        LDC.64 R4, c[0x0][0x218]
        IADD3 R6, P0, R2, R4, RZ
        IADD3.X R7, R3, R5, RZ, P0, !PT
        IADD3 R8, P1, R2, -R4, RZ
        IMAD.X R9, R3, 0x1, ~R5, P1
        IMAD.WIDE.U32 R10, R2, R4, RZ
        IMAD.WIDE R12, R2, R4, R10
        SHF.L.U64.HI R15, R2, 0x9, R3
        SHF.L.U32 R14, R2, 0x9, RZ
        SHF.R.S64 R16, R2, 0x9, R3
        SHF.R.S32.HI R17, RZ, 0x9, R3
        LEA R18, P2, R2, R4, 0x3
        LEA.HI.X R19, R2, R5, R3, 0x3, P2
        ISETP.GE.U32.AND P3, PT, R2, R4, PT
        ISETP.GE.AND.EX P3, PT, R3, R5, PT, P3
        SEL R20, RZ, 0x1, !P3
        ISETP.NE.U32.AND P4, PT, R2, R4, PT
        ISETP.NE.AND.EX P4, PT, R3, R5, PT, P4
        SEL R21, RZ, 0x1, !P4
        PRMT R22, R2, 0x7531, R4
        IDP.4A.S8.S8 R23, R2, R4, R5
        VIADDMNMX R24, R2, -R4, R5, PT
        VIMNMX.RELU R27, R2, R4, PT
        I2F.S64 R25, R2
        FLO.U32 R26, R2
        EXIT
"""


def signed(x: int, bits: int) -> int:
    x &= (1 << bits) - 1
    return x - (x >> bits - 1 << bits)


@pytest.mark.parametrize("seed", range(6))
def test_arithmetic_of_pairs_is_that_of_integers(machine: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (signed(int.from_bytes(rng.bytes(8), "little"), 64) >> int(rng.integers(0, 40)) for _ in range(2))
    b = a if seed == 5 else b
    found = block(machine, WIDE, 32, a, b)
    run(found)
    word = lambda k: int(found.r[f"R{k}"][0])  # noqa: E731
    pair = lambda k: word(k) | word(k + 1) << 32  # noqa: E731
    all64, low, low_b, high_b = (1 << 64) - 1, a & 0xFFFFFFFF, b & 0xFFFFFFFF, b >> 32 & 0xFFFFFFFF
    assert pair(6) == (a + b) & all64
    assert pair(8) == (a - b) & all64
    assert pair(10) == low * low_b
    assert pair(12) == (signed(low, 32) * signed(low_b, 32) + low * low_b) & all64
    assert pair(14) == (a << 9) & all64
    assert pair(16) == (a >> 9) & all64
    assert pair(18) == ((a << 3) + b) & all64
    assert word(20) == (0 if a < b else 1)
    assert word(21) == (0 if a == b else 1)
    bytes_ = low.to_bytes(4, "little") + low_b.to_bytes(4, "little")
    assert word(22) == int.from_bytes(bytes(bytes_[k] for k in (1, 3, 5, 7)), "little")
    assert word(23) == (sum(signed(low >> 8 * k, 8) * signed(low_b >> 8 * k, 8) for k in range(4)) + high_b) & 0xFFFFFFFF
    assert signed(word(24), 32) == min(signed(low - low_b, 32), signed(high_b, 32))
    assert word(27) == max(0, min(signed(low, 32), signed(low_b, 32)))
    assert word(25) == int(np.float32(a).view(np.uint32))
    assert word(26) == (low.bit_length() - 1) & 0xFFFFFFFF


def test_what_is_not_known_ends_it(machine: Any) -> None:
    for line in ("DADD R0, R2, R4", "I2F.F64 R0, R2", "MOV R0, c[0x7][0x0]"):
        with pytest.raises(ValueError, match="not known"):
            run(block(machine, f"        {line}\n        EXIT", 32))


def test_memory_holds_what_was_uploaded_and_values_of_its_arguments_kinds(machine: Any) -> None:
    memory = machine.Memory({256: bytes(range(8))}, {4096: "float", 8192: "top", 12288: "zeros"})
    at = lambda *addresses: np.array(addresses, np.uint64)  # noqa: E731
    assert memory.word(at(256, 260), 4).tolist() == [0x03020100, 0x07060504]
    assert memory.word(at(259), 1).tolist() == [3]
    data = memory.word(at(*range(4096, 8192, 4)), 4).view(np.float32)
    assert np.isfinite(data).all()
    assert (data < 0).any()
    assert np.abs(data).max() < float(memory.word(at(8192), 4).view(np.float32)[0])
    assert memory.word(at(12288), 4).tolist() == [0]
