"""A CUDA device whose kernels are the machine code that NVIDIA's compiler makes of them for sm_90, run on NumPy an instruction at a time
(bench/machine.py, bench/exactly.py). Its memory is the fake device's. For small launches: a block starts some thousands of instructions a second."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

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


@cache
def listed(text: str, arch: str) -> dict[str, Code]:
    """The machine code of each kernel of a text."""
    tool = instructions.nvdisasm()
    assert tool is not None
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(nvrtc.compiled(text, arch)[1])
        file.flush()
        printed = subprocess.run([tool, "-c", file.name], capture_output=True, text=True, check=True).stdout
    return {name: machine.parsed(lines) for name, lines in machine.functions(printed).items()}


class _Kernel:
    def __init__(self, name: str, code: Code, parameters: int) -> None:
        self.name, self.code, self.parameters = name, code, parameters


class _Module:
    def __init__(self, text: str, arch: str, own: Any) -> None:
        self._text, self._arch, self._own = text, arch, own

    def kernel(self, name: str) -> _Kernel:
        own = self._own.kernel(name)
        return _Kernel(name, listed(self._text, self._arch)[name], own.parameters)


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
        memory = exactly.Real([(b.address, b.size) for b in (*self._held, *self._other) if b.size], self._loose)
        code = [self._change(op) for op in kernel.code[0]], kernel.code[1]
        wide, tall, deep = launch.grid
        blocks = range(wide * tall * deep)
        for at in reversed(blocks) if self._back else blocks:
            where = (at % wide, at // wide % tall, at // (wide * tall))
            block = machine.Block(code, launch.grid, launch.block, where, launch.arguments, memory)
            self.issued += block.run(exactly.meaning)["issued"]
