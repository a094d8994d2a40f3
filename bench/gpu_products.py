# The parts of bench/gpu.py that are no steps of a model: a GEMM, every way of multiplying, and what moves values.
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gpu_machine import Machine, medians

from assay.exact.cpu import Cpu
from assay.exact.cuda.choice import Choices
from assay.exact.cuda.engine import Cuda
from assay.exact.cuda.tiles import FLOATING, Size
from assay.exact.inputs import Writer, program
from assay.exact.steps import Step
from assay.exact.views import whole


def gemm(machine: Machine, n: int) -> dict[str, Any]:
    """n x n x n at b = 14: both times, the exact one's TFLOP/s, what of it is comparing checksums (sums come with packing and rounding), whether
    a corner has the CPU's bits, and the time of every way of multiplying (of a slow one that of a single run)."""
    device, products = machine.device, machine.products_of()
    shape = (n, n)
    a, b, c = (whole(root, shape, "f32") for root in range(3))
    held = [device.allocate(4 * n * n) for _ in range(3)]
    x, y = (np.random.default_rng(seed).standard_normal(shape, np.float32) for seed in (0, 1))
    for buffer, array in zip(held, (x, y), strict=False):
        device.upload(buffer.address, array)
    step = Step("matmul", (a, b), (c,), (), (14, 1, 1, 1, 1))
    scratch = device.allocate(products.scratch(step) or 0)
    launches = products.prepare(step, lambda v: held[v.root].address, scratch.address)

    def exact() -> None:
        for launch in launches:
            device.launch(launch)

    native = None
    if machine.torch is not None:
        torch = machine.torch
        p, q = (torch.from_numpy(array).cuda().bfloat16() for array in (x, y))
        native = lambda: torch.matmul(p, q)  # noqa: E731
    product = products.product(step)
    assert product is not None
    found = medians(exact, native, machine)
    out = np.empty(shape, np.float32)
    device.download(held[2].address, out)
    corner = min(n, 64)
    w = Writer(x[:corner], y[:, :corner])
    want = Cpu(program(w.part(w("matmul", 0, 1)), 14)).run("micro", {"batch": {"x0": x[:corner], "x1": np.ascontiguousarray(y[:, :corner])}})["y0"]
    equal = out[:corner, :corner].tobytes() == want.tobytes()
    def check() -> None:
        for launch in launches[-2:]:  # what the sums should be, and whether they are
            device.launch(launch)

    checked = medians(check, None, machine)["exact_ms"]
    found |= {"check_share": checked / found["exact_ms"]}
    rates = {name.replace("_ms", "_tflops"): 2 * n**3 / ms / 1e9 for name, ms in found.items() if name.endswith("_ms")}
    ways = {} if machine.choices is None else {way: seconds * 1e3 for way, seconds in machine.choices.measured(Size(14, 1, n, n, n)).items()}
    return {"n": n, **found, **rates, "equal_to_cpu": equal, "chosen": str(product.way), "ways_ms": ways}


def ways(machine: Machine, bits: int, n: int) -> dict[str, Any]:
    """Milliseconds of every way of multiplying at a width, and the power of two up to which bf16's and fp8's accumulators are exact (0: not used)."""
    choices = machine.choices or Choices(machine.device)
    taken = choices.measured(Size(bits, 1, n, n, n))
    return {"bits": bits, "n": n, "exact_to": {kind: choices.holds(kind) for kind in FLOATING}, "ways_ms": {way: s * 1e3 for way, s in taken.items()}}


def moved(machine: Machine) -> list[dict[str, Any]]:
    """A matrix turned round, prefix sums along lines and the gradient of an embedding, each beside torch's, and whether they have the CPU's bits.
    torch's sums are of f32 in some order; ours are exact."""
    n, lines, length, rows, tokens, width = (40, 2, 600, 50, 30, 8) if machine.torch is None else (8192, 256, 1 << 17, 50304, 8192, 768)
    random = np.random.default_rng(2)
    matrix, long = (random.standard_normal(shape, np.float32) for shape in ((n, n - 3), (lines, length)))
    index, values = random.integers(0, rows, tokens), random.standard_normal((tokens, width), np.float32)
    native: list[Callable[[], Any] | None] = [None] * 3
    if machine.torch is not None:
        torch = machine.torch
        a, b, i, v = (torch.from_numpy(array).cuda() for array in (matrix, long, index, values))
        native = [
            lambda: a.t().contiguous(), lambda: torch.cumsum(b, 1),
            lambda: torch.zeros(rows, width, device="cuda").index_add_(0, i, v),
        ]  # fmt: skip
    out = []
    writers = [
        ("turned", [matrix], lambda w: w("permute", 0, axes=(1, 0))), ("cumsum", [long], lambda w: w("cumsum", 0, axis=1)),
        ("scatter_add", [index, values], lambda w: w("scatter_add_rows", 0, 1, rows=rows)),
    ]  # fmt: skip
    for (what, inputs, write), theirs in zip(writers, native, strict=True):
        w = Writer(*inputs)
        p = program(w.part(write(w)), 14)
        named = {"batch": {f"x{k}": array for k, array in enumerate(inputs)}}
        cuda = Cuda(p, machine.device, machine.kernels, machine.products_of())
        equal = cuda.run("micro", named)["y0"].tobytes() == Cpu(p, 2).run("micro", named)["y0"].tobytes()
        graph = cuda._bound["micro", False].graph
        assert graph is not None
        out.append({"what": what, **medians(graph.replay, theirs, machine), "equal_to_cpu": equal})
    return out
