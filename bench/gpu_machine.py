# The device that bench/gpu.py measures, and how it times two sides turn by turn. This file measures nothing.
from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from assay.exact import engines
from assay.exact.cuda.choice import Choices
from assay.exact.cuda.product import Products

TURNS = 7


class Machine:
    """The device, and torch on it unless it is the fake one."""

    def __init__(self, fake: bool) -> None:
        opened = engines._open("fake" if fake else "cuda")
        self.device, self.kernels, self.products = opened.device, opened.kernels, opened.products
        self.choices = None if fake else Choices(opened.device)
        self.torch: Any = None
        if not fake:
            import torch

            self.torch = torch

    def wait(self) -> None:
        self.device.wait()
        if self.torch is not None:
            self.torch.cuda.synchronize()

    def products_of(self) -> Products:
        """With a fault counter of its own, and the measured choices of tiles."""
        return Products(self.device, self.products._way)


def medians(ours: Callable[[], Any], theirs: Callable[[], Any] | None, machine: Machine, turns: int = TURNS) -> dict[str, float]:
    """Milliseconds of both, turn by turn, and the median of their ratios. On the fake device each runs once."""

    def timed(work: Callable[[], Any]) -> float:
        machine.wait()
        start = time.perf_counter()
        work()
        machine.wait()
        return (time.perf_counter() - start) * 1e3

    fake = machine.torch is None
    for work in () if fake else (ours, theirs) * 2:
        if work is not None:
            work()
    pairs = [(timed(ours), timed(theirs) if theirs is not None else float("nan")) for _ in range(1 if fake else turns)]
    a, b = (statistics.median(times) for times in zip(*pairs, strict=True))
    return {"exact_ms": a, "native_ms": b, "ratio": statistics.median(x / y for x, y in pairs)} if theirs is not None else {"exact_ms": a}
