"""Fused MAP steps as CUDA C++: one kernel for each chain of operators, whatever the sizes. The scalar functions are in map.cuh.

Steps of the same chain that do not wait for each other are one launch over a table of their sizes and addresses: an optimiser's, which
does the same to every tensor of a state.

A kernel knows how each of its inputs lies: element i at i, one element for all i, or along a walk (walk.cuh). It reads all inputs of an
element before it writes a result, so a result may lie over an input that it reads element by element.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from assay.exact.cuda.device import Device, Kernel, source
from assay.exact.plan import Plan
from assay.exact.steps import Step
from assay.exact.views import View

TYPES = {"f32": "float", "i32": "i32", "i64": "i64", "bool": "u8", "u8": "u8"}
"""Dtype -> type in CUDA C++."""


SHARE = 2048
"""Elements that a block takes of one of many steps."""
LEAST = 3
"""Steps that are worth a kernel of their own for many."""
WINDOW = 4096
"""Batches that a step may overtake."""


class MapText(NamedTuple):
    name: str
    text: str


def walks(v: View) -> bool:
    """Whether a kernel reads the view along a walk."""
    return not v.contiguous and not v.single


def text(step: Step) -> MapText:
    """The kernel of a MAP step. Parameters: n; for each input its address, and its walk if it has one; the address of each result."""
    parameters, inside = _written(step)
    listed = ", ".join(f"{kind}{name}" for kind, name in [("i64 ", "n"), *parameters])
    return _named("map", f"({listed}) {{\n    FOR_EACH(i, n) {{\n        {inside}\n    }}\n}}\n")


def many(step: Step) -> MapText:
    """The kernel of many MAP steps with the same `text`, which do not wait for each other. Parameters: how many, and a table with a row for each:
    its first block, n, and what `text` takes. Block b works on SHARE elements of the last step whose first block is not behind b."""
    parameters, inside = _written(step)
    width = 2 + len(parameters)
    taken = "\n    ".join(f"{kind}{name} = ({kind.strip()})row[{2 + k}];" for k, (kind, name) in enumerate(parameters))
    tail = f"""(i64 count, const i64 *table) {{
    i64 at = 0, behind = count;
    while (behind - at > 1) {{
        i64 middle = (at + behind) / 2;
        if (table[middle * {width}] <= (i64)blockIdx.x) at = middle; else behind = middle;
    }}
    const i64 *row = table + at * {width};
    {taken}
    u32 n = (u32)row[1], from = (u32)((i64)blockIdx.x - row[0]) * {SHARE}u, to = n - from < {SHARE}u ? n : from + {SHARE}u;
    for (u32 i = from + threadIdx.x; i < to; i += blockDim.x) {{
        {inside}
    }}
}}
"""
    return _named("many", tail)


def _written(step: Step) -> tuple[list[tuple[str, str]], str]:
    """Parameters of a MAP step as (type, name), and what is done with element i."""
    parameters: list[tuple[str, str]] = []
    body, stores = [], []
    names: dict[int | View, str] = {}
    for k, v in enumerate(step.reads):
        kind = TYPES[v.dtype]
        parameters.append((f"const {kind} *", f"x{k}"))
        place = "i" if v.contiguous else "0"
        if walks(v):
            parameters.append(("const i64 *", f"w{k}"))
            place = f"offset_of(w{k}, i)"
        body.append(f"const {kind} a{k} = x{k}[{place}];")
        names[v] = f"a{k}"
    for k, i in enumerate(step.code):
        body.append(f"const {TYPES[i.dtype]} r{k} = {i.kernel}({', '.join(names[o] for o in i.operands)});")
        names[i.result] = f"r{k}"
    for k, v in enumerate(step.writes):
        parameters.append((f"{TYPES[v.dtype]} *", f"y{k}"))
        stores.append(f"y{k}[i] = canon({names[v.root]});")
    return parameters, "\n        ".join([*body, *stores])


def _named(kind: str, tail: str) -> MapText:
    name = f"{kind}_{hashlib.sha256(tail.encode()).hexdigest()[:16]}"
    return MapText(name, f"KERNEL {name}{tail}")


def texts(plans: Iterable[Plan]) -> list[MapText]:
    """The kernels of all MAP steps of some plans, those that run together as one."""
    return [made for plan in plans for batch in together(plan) if (made := text_of(plan, batch)) is not None]


def text_of(plan: Plan, batch: Sequence[int]) -> MapText | None:
    """The kernel of a batch of MAP steps, None of another step."""
    step = plan.steps[batch[0]]
    return None if step.name != "map" else text(step) if len(batch) == 1 else many(step)


def together(plan: Plan) -> list[list[int]]:
    """The steps of a plan in an order in which those of one batch, MAP steps of the same text, do not wait for each other. A step joins the last
    batch of its text if it has nothing to do with what would then run behind it: neither what that writes, nor what it reads and the
    step writes, storage that is used again and results over inputs included."""
    if plan.trace:
        return [[at] for at in range(len(plan.steps))]
    batches: list[list[int]] = []
    last: dict[str, int] = {}
    reads = [{_place(plan, v.root) for v in step.reads} for step in plan.steps]
    writes = [{_place(plan, v.root) for v in step.writes} for step in plan.steps]
    for at, step in enumerate(plan.steps):
        name = text(step).name if step.name == "map" else ""
        spot = last.get(name, len(batches))
        behind = (other for batch in reversed(batches[spot:]) for other in batch)
        if len(batches) - WINDOW < spot < len(batches) and not any(
            _meet(writes[at], writes[other]) or _meet(writes[at], reads[other]) or _meet(reads[at], writes[other]) for other in behind
        ):
            batches[spot].append(at)
            continue
        batches.append([at])
        if name:
            last[name] = len(batches) - 1
    return [part for batch in batches for part in ([batch] if len(batch) >= LEAST else [[at] for at in batch])]


_Place = tuple[str, int, int]
"""A storage, and from where to where in it."""


def _place(plan: Plan, root: int) -> _Place:
    home, where, offset = plan.home(root)
    if home == "arena":
        return home, where + offset, where + offset + plan.bytes_of(root)
    if home == "output" and where in plan.over:
        home, where = "input", plan.over[where]
    return f"{home} {where}", 0, 1


def _meet(some: set[_Place], others: set[_Place]) -> bool:
    return any(a[0] == b[0] and a[1] < b[2] and b[1] < a[2] for a in some for b in others)


class Kernels:
    """What a device has compiled: the kernels of this folder's files, and those that are generated, each once."""

    FILES = ("walk.cuh", "map.cuh", "lines.cuh", "move.cu", "reduce.cu", "exchange.cu", "plain.cu", "sha256.cu")
    GENERATED = ("walk.cuh", "map.cuh", "lines.cuh")
    """What generated kernels call."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._fixed = device.load(source(*self.FILES))
        self._maps: dict[str, Kernel] = {}

    def __getitem__(self, name: str) -> Kernel:
        return self._maps[name] if name in self._maps else self._fixed.kernel(name)

    def compile(self, texts: list[MapText], before: str = "") -> None:
        """Those that are not there yet, in one go, behind the text of what they call (that of GENERATED, if none is given)."""
        missing = {t.name: t.text for t in texts if t.name not in self._maps}
        if missing:
            module = self._device.load((before or source(*self.GENERATED)) + "\n" + "\n".join(missing[name] for name in sorted(missing)))
            self._maps |= {name: module.kernel(name) for name in missing}
