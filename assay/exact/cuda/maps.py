"""Fused MAP steps as CUDA C++: one kernel for each chain of operators, whatever the sizes. The scalar functions are in map.cuh.

A kernel knows how each of its inputs lies: element i at i, one element for all i, or along a walk (walk.cuh). It reads all inputs of an
element before it writes a result, so a result may lie over an input that it reads element by element.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

from assay.exact.cuda.device import Device, Kernel, source
from assay.exact.plan import Plan
from assay.exact.steps import Step
from assay.exact.views import View

TYPES = {"f32": "float", "i32": "i32", "i64": "i64", "bool": "u8", "u8": "u8"}
"""Dtype -> type in CUDA C++."""


class MapText(NamedTuple):
    name: str
    text: str


def walks(v: View) -> bool:
    """Whether a kernel reads the view along a walk."""
    return not v.contiguous and not v.single


def text(step: Step) -> MapText:
    """The kernel of a MAP step. Parameters: n; for each input its address, and its walk if it has one; the address of each result."""
    parameters, body, stores = ["i64 n"], [], []
    names: dict[int | View, str] = {}
    for k, v in enumerate(step.reads):
        kind = TYPES[v.dtype]
        parameters.append(f"const {kind} *x{k}")
        place = "i" if v.contiguous else "0"
        if walks(v):
            parameters.append(f"const i64 *w{k}")
            place = f"offset_of(w{k}, i)"
        body.append(f"const {kind} a{k} = x{k}[{place}];")
        names[v] = f"a{k}"
    for k, i in enumerate(step.code):
        body.append(f"const {TYPES[i.dtype]} r{k} = {i.kernel}({', '.join(names[o] for o in i.operands)});")
        names[i.result] = f"r{k}"
    for k, v in enumerate(step.writes):
        parameters.append(f"{TYPES[v.dtype]} *y{k}")
        stores.append(f"y{k}[i] = canon({names[v.root]});")
    inside = "\n        ".join([*body, *stores])
    tail = f"({', '.join(parameters)}) {{\n    FOR_EACH(i, n) {{\n        {inside}\n    }}\n}}\n"
    name = f"map_{hashlib.sha256(tail.encode()).hexdigest()[:16]}"
    return MapText(name, f"KERNEL {name}{tail}")


def texts(plans: Iterable[Plan]) -> list[MapText]:
    """The kernels of all MAP steps of some plans."""
    return [text(step) for plan in plans for step in plan.steps if step.name == "map"]


class Kernels:
    """What a device has compiled: the kernels of this folder's files, and those of MAP steps, each once."""

    FILES = ("walk.cuh", "map.cuh", "move.cu", "reduce.cu", "plain.cu", "sha256.cu")

    def __init__(self, device: Device) -> None:
        self._device = device
        self._fixed = device.load(source(*self.FILES))
        self._maps: dict[str, Kernel] = {}

    def __getitem__(self, name: str) -> Kernel:
        return self._maps[name] if name in self._maps else self._fixed.kernel(name)

    def compile(self, texts: list[MapText]) -> None:
        """Those that are not there yet, in one go."""
        missing = {t.name: t.text for t in texts if t.name not in self._maps}
        if missing:
            module = self._device.load(source("walk.cuh", "map.cuh") + "\n" + "\n".join(missing[name] for name in sorted(missing)))
            self._maps |= {name: module.kernel(name) for name in missing}
