"""A model's tensors as entries of a job: what is trained, what is frozen, what is written into the program.

    trained    a parameter that requires a gradient      state `param.<name>`, and the optimiser's moments of it
    changing   a buffer that the model writes            accumulator and state `buffer.<name>`
    frozen     a parameter that requires no gradient     frozen `param.<name>`
               a buffer of the checkpoint, never written frozen `buffer.<name>`
    constant   any other tensor                          the program itself; frozen `constant.<digest>` over INLINE bytes

A parameter is known by what it is, not by what it is called: one that several modules share (tied weights) is frozen for all of them
when it is frozen for one, and has the first of its names. One of the few modules that import torch.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from assay.exact.table import TensorType
from assay.training import TrainingError

DTYPES = {torch.float32: "f32", torch.int64: "i64", torch.int32: "i32", torch.bool: "bool", torch.uint8: "u8"}
NUMPY = {"f32": "<f4", "i64": "<i8", "i32": "<i4", "bool": "|b1", "u8": "|u1"}
INLINE = 1 << 16
"""Bytes of a constant that is written into the program, which everyone who hears of a job reads."""
_HALVES = (torch.float16, torch.bfloat16, torch.float64)


def type_of(tensor: torch.Tensor, what: str) -> TensorType:
    """Raises TrainingError for what no program holds."""
    if tensor.dtype not in DTYPES or 0 in tensor.shape:
        hint = "; model.float() makes it float32" if tensor.dtype in _HALVES else ""
        raise TrainingError(
            f"{what} is {tensor.dtype}{list(tensor.shape)}: programs compute on float32, int64, int32 and bool, without empty axes{hint}"
        )
    return TensorType(dtype=DTYPES[tensor.dtype], shape=tuple(tensor.shape))


def array_of(tensor: torch.Tensor) -> NDArray[Any]:
    """A copy: the model may be trained or given other weights later."""
    return np.array(tensor.detach().cpu().numpy(), dtype=NUMPY[DTYPES[tensor.dtype]], order="C")


def trained(model: nn.Module) -> dict[str, TensorType]:
    """Parameters that the training changes. Raises TrainingError when there are none, or when one shares its memory with a frozen one
    that is not the same parameter: PyTorch would change both."""
    parameters = dict(model.named_parameters())
    if not parameters:
        raise TrainingError("the model has no parameter to train")
    found = {name: type_of(p, f"parameter {name}") for name, p in parameters.items() if p.requires_grad}
    if not found:
        first = next(iter(parameters))
        raise TrainingError(
            f"all {len(parameters)} parameters of the model are frozen, {first} the first of them: leave requires_grad on for what is to be trained"
        )
    where = {name: _memory(parameters[name]) for name in found}
    for name, tensor in [*parameters.items(), *model.named_buffers()]:
        if name in found:
            continue
        start, stop = _memory(tensor)
        if other := next((n for n, (a, b) in where.items() if a < stop and start < b), None):
            raise TrainingError(
                f"{name} is not trained, but shares its memory with parameter {other}, which is: use the same nn.Parameter for both, or a clone()"
            )
    return found


def _memory(tensor: torch.Tensor) -> tuple[int, int]:
    """First address and the one past the last of a tensor's elements."""
    last = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    start = tensor.data_ptr()
    return start, start + (last + 1) * tensor.element_size()


class Names:
    """The entry of each tensor of a model. `live`: which of them are entries of the state, where that is not for the model to say."""

    def __init__(self, model: nn.Module, live: Collection[str] | None = None) -> None:
        self._parameters = {id(p): name for name, p in model.named_parameters()}
        self._kept = set(model.state_dict())
        self._live = live

    def entry(self, name: str, tensor: torch.Tensor) -> tuple[str, bool] | None:
        """(entry, whether it is frozen) of a tensor that the model does not write, called `name` where it is read; None for a constant."""
        if isinstance(tensor, nn.Parameter):
            entry, frozen = f"param.{self._parameters.get(id(tensor), name)}", not tensor.requires_grad
        elif name in self._kept:
            entry, frozen = f"buffer.{name}", True
        else:
            return None
        return entry, frozen if self._live is None else entry not in self._live
