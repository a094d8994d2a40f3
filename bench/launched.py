# The launches of a GPT's step on an H200, as the engine would start them, with the text of their kernels and what was uploaded for them: what
# bench/instructions.py counts and bench/roof.py adds up. Nothing runs; it has no goal of its own.
from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from planned import H200
from traffic import taken

from assay.exact.cuda import attend, maps
from assay.exact.cuda.device import Launch
from assay.exact.cuda.maps import Kernels
from assay.exact.cuda.parts import constants_of
from assay.exact.cuda.product import Products
from assay.exact.cuda.ruler import Ruler
from assay.exact.cuda.tape import Tape
from assay.exact.plan import Plan
from assay.exact.steps import Step
from assay.program import Part, Program

APART = 1 << 40
"""Between the addresses of storages; below are what the engine allocates."""


class Kernel:
    def __init__(self, name: str, text: str, arch: str) -> None:
        self.name, self.text, self.arch = name, text, arch

    def parameters(self) -> list[str]:
        """Of its function, as written."""
        found = re.search(rf"KERNEL[^;{{}}]*?\b{re.escape(self.name)}\s*\((.*?)\)\s*{{", self.text, re.DOTALL)
        assert found is not None, self.name
        return [part.strip() for part in found[1].split(",")]


class Module:
    def __init__(self, text: str, arch: str) -> None:
        self._text, self._arch = text, arch

    def kernel(self, name: str) -> Kernel:
        return Kernel(name, self._text, self._arch)


class Noted(Ruler):
    """A device that keeps what is uploaded and which text a kernel is of."""

    def __init__(self) -> None:
        super().__init__(H200)
        self.known: dict[int, bytes] = {}

    def upload(self, to: int, data: NDArray[Any]) -> None:
        self.known[to] = np.ascontiguousarray(data).tobytes()

    def load(self, source: str, arch: str = "") -> Any:
        return Module(source, arch or H200.arch)


class Started(NamedTuple):
    """Launches that belong together: of steps, or those around all steps of a part (no steps)."""

    steps: list[Step]
    launches: list[Launch]
    known: dict[int, bytes]


def plan_of(program: Program, part: Part, products: Products) -> Plan:
    return Plan(part, constants_of(program), program.gemm_bits, rows=True, attention=attend.taking(H200), packs=products.paired)


def launched(plan: Plan, part: Part) -> Iterator[Started]:
    """The launches of a part, by steps, in their order."""
    device = Noted()
    tape = Tape(plan, device, Kernels(device), Products(device, taken))
    bases = {"arena": [APART], **{kind: [(2 + at) * APART + (k << 33) for k in range(len(places))]
                                  for at, (kind, places) in enumerate({"input": part.inputs, "output": part.outputs}.items())}}  # fmt: skip
    all_launches = tape.bind(bases, 8 * APART, [])
    batches = [[plan.steps[at] for at in batch] for batch in maps.together(plan)]
    first, last = tape.marks[0], len(all_launches) - tape.marks[-1]
    compared = int(all_launches[-1].kernel.name == "compare_all")
    topped = last - compared
    yield Started([], all_launches[: first + topped], device.known)
    for steps, begin, end in zip(batches, tape.marks[:-1], tape.marks[1:], strict=True):
        yield Started(steps, all_launches[begin + topped : end + topped], device.known)
    if compared:
        yield Started([], all_launches[-1:], device.known)


def key(launch: Launch) -> str:
    """What the instructions of a launch depend on: its kernel, its grid, numbers it is given, and which addresses are none."""
    kernel = launch.kernel
    assert isinstance(kernel, Kernel)
    given = [("p" if a else "0") if "*" in p else str(a) for p, a in zip(kernel.parameters(), launch.arguments, strict=True)]
    return f"{kernel.name} {'x'.join(map(str, launch.grid))} {' '.join(given)}"


COUNTED_APART = "gemm"
"""Of kernels whose instructions roof.py counts otherwise."""


def counted(launch: Launch) -> bool:
    return not launch.kernel.name.startswith(COUNTED_APART)


def digest(launches: Sequence[Launch]) -> str:
    """Of the text of all kernels that are counted."""
    texts = sorted({launch.kernel.text for launch in launches if counted(launch) and isinstance(launch.kernel, Kernel)})
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()
