"""A CUDA device whose kernels are the machine code that NVIDIA's compiler makes of them for sm_90, run on NumPy an instruction at a time
(bench/machine.py, bench/exactly.py). Its memory is the fake device's. For small launches: a block starts some thousands of instructions a second."""

from __future__ import annotations

import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from assay.exact.cuda import fake
from assay.exact.cuda.device import DeviceError, Launch
from tests.exact import nvrtc

BENCH = str(Path(__file__).resolve().parents[2] / "bench")
if BENCH not in sys.path:
    sys.path.append(BENCH)

import exactly  # noqa: E402
import instructions  # noqa: E402
import machine  # noqa: E402

ARCH = "sm_90"
Code = tuple[list[Any], dict[str, int]]
Change = Callable[[Any], Any]
USUAL = exactly.Loose(0, False)


def missing() -> str:
    """What of NVIDIA's tools is not installed, or nothing."""
    return "" if instructions.nvdisasm() and nvrtc.library() else instructions.MISSING


class Constants:
    """What kernels of a text have beside their code: bank 3, and tables in memory, whose addresses are bank 4. Of an ELF file of 64 bits ("System V
    ABI") with NVIDIA's names of sections; a table's address is the only relocation there."""

    def __init__(self, cubin: bytes) -> None:
        self._cubin = cubin
        begin, each, count, names = (*struct.unpack_from("<Q", cubin, 40), *struct.unpack_from("<HHH", cubin, 58))
        headers = [struct.unpack_from("<IIQQQQIIQQ", cubin, begin + i * each) for i in range(count)]
        called = [cubin[headers[names][4] + h[0] :].partition(b"\0")[0].decode() for h in headers]
        parts = {name: cubin[h[4] : h[4] + h[5]] for name, h in zip(called, headers, strict=True)}
        self.tables = np.frombuffer(parts.get(".nv.global.init", b"") + bytes(16), np.uint8)
        where, home = bytearray(parts.get(".nv.constant4", b"")), called.index(".nv.global.init") if ".nv.global.init" in called else 0
        for offset, info, addend in struct.iter_unpack("<QQq", parts.get(".rela.nv.constant4", b"")):
            _, _, _, section, value, _ = struct.unpack_from("<IBBHQQ", parts[".symtab"], (info >> 32) * 24)
            if section == home:
                struct.pack_into("<Q", where, offset, self.tables.ctypes.data + value + addend)
        self.banks = {number: np.frombuffer(bytes(part), np.uint32) for number, part in ((3, parts.get(".nv.constant3", b"")), (4, where)) if part}


@cache
def listed(text: str, arch: str) -> tuple[dict[str, Code], Constants]:
    """The machine code of each kernel of a text."""
    tool, cubin = instructions.nvdisasm(), nvrtc.compiled(text, arch)[1]
    assert tool is not None
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        printed = subprocess.run([tool, "-c", file.name], capture_output=True, text=True, check=True).stdout
    return {name: machine.parsed(lines) for name, lines in machine.functions(printed).items()}, Constants(cubin)


class _Kernel:
    def __init__(self, name: str, code: Code, constants: Constants, parameters: int) -> None:
        self.name, self.code, self.constants, self.parameters = name, code, constants, parameters


class _Module:
    def __init__(self, text: str, arch: str, own: Any) -> None:
        self._text, self._arch, self._own = text, arch, own

    def kernel(self, name: str) -> _Kernel:
        own, (found, constants) = self._own.kernel(name), listed(self._text, self._arch)
        return _Kernel(name, found[name], constants, own.parameters)


class Coded(fake.Fake):
    """`loose`: which of what NVIDIA leaves open is taken. `back`: blocks run from the last to the first. `change`: what an instruction is taken for.
    `ran` counts launches by their kernels' names, `issued` instructions."""

    def __init__(self, loose: Any = USUAL, back: bool = False, change: Change = lambda op: op) -> None:
        super().__init__(order=fake.Order.ASCENDING)
        self._loose, self._back, self._change = loose, back, change
        self.ran: Counter[str] = Counter()
        self.issued = 0

    def load(self, source: str, arch: str = "") -> Any:
        return _Module(source, arch or ARCH, super().load(source, arch))

    def launch(self, launch: Launch) -> None:
        kernel = launch.kernel
        if not isinstance(kernel, _Kernel):
            super().launch(launch)
            return
        if len(launch.arguments) != kernel.parameters:
            raise DeviceError(f"{kernel.name} takes {kernel.parameters} arguments, not {len(launch.arguments)}")
        self._do(lambda: self._run(launch, kernel))

    def _run(self, launch: Launch, kernel: _Kernel) -> None:
        self.launches += 1
        self.ran[kernel.name] += 1
        tables = kernel.constants.tables
        held = [(b.address, b.size) for b in (*self._held, *self._other) if b.size]
        memory = exactly.Real([*held, (tables.ctypes.data, tables.nbytes)], self._loose)
        code = [self._change(op) for op in kernel.code[0]], kernel.code[1]
        wide, tall, deep = launch.grid
        blocks = range(wide * tall * deep)
        for at in reversed(blocks) if self._back else blocks:
            where = (at % wide, at // wide % tall, at // (wide * tall))
            block = machine.Block(code, launch.grid, launch.block, where, launch.arguments, memory, kernel.constants.banks)
            self.issued += block.run(exactly.meaning)["issued"]
