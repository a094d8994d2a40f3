"""From ATen operators to the closed set: one function for each operator, found by name in LOWERINGS.

A forward or backward operator of PyTorch (layer norm, GELU, cross-entropy, ...) becomes the few nodes that its mathematical
definition needs, not PyTorch's own decomposition: fewer roundings, fewer roots to commit, and the same program whichever version
of PyTorch traced it. Constants are rounded to f32 once; a division by a Python number is a true division by a constant. Imports
no torch: assay.trace hands over names, Values and plain Python data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from assay.build import Builder, Value
from assay.exact.table import TensorType

Result = Value | tuple[Value | None, ...]


class Unsupported(ValueError):
    """The operator, or this use of it, is outside the closed set. The message says what to do instead."""


class Call:
    """One ATen call: its arguments (tensors as Values, dtypes as names of ours) and the types of its results."""

    def __init__(self, b: Builder, name: str, args: Sequence[Any], kwargs: dict[str, Any], results: Sequence[TensorType | None]) -> None:
        self.b, self.name, self.args, self.kwargs, self.results = b, name, args, kwargs, results

    def arg(self, at: int, name: str = "", default: Any = None) -> Any:
        return self.args[at] if at < len(self.args) else self.kwargs.get(name, default)

    @property
    def out(self) -> TensorType:
        result = self.results[0]
        assert result is not None
        return result

    def operand(self, x: Any, dtype: str) -> Value:
        """A tensor or Python number as a value of the dtype."""
        return self.b.cast(x, dtype) if isinstance(x, Value) else self.b.const(x, dtype)

    def axis(self, axis: int, rank: int | None = None) -> int:
        rank = len(self.args[0].shape) if rank is None else rank
        return axis % max(rank, 1)

    def axes(self, axes: Any, rank: int) -> tuple[int, ...]:
        """All of them for None and []."""
        if isinstance(axes, int):
            axes = [axes]
        return tuple(sorted({a % max(rank, 1) for a in axes})) if axes else tuple(range(rank))


Lowering = Callable[[Call], Result]
LOWERINGS: dict[str, Lowering] = {}


def lower(*names: str) -> Callable[[Lowering], Lowering]:
    def register(function: Lowering) -> Lowering:
        LOWERINGS.update(dict.fromkeys(names, function))
        return function

    return register
