"""Optimisers and schedules: settings that a model developer writes, and the update part that they stand for.

The update runs on the accumulated gradients `grad.<name>` of M micro-batches. What depends on the step alone (learning rate, bias
corrections) is worked out by the client in double precision, rounded once to f32, and comes in as scalars: row t of the schedule.
AdamW is Loshchilov and Hutter's (arXiv:1711.05101, as torch.optim.AdamW), clipping is by the global norm (Pascanu et al.,
arXiv:1211.5063, as torch.nn.utils.clip_grad_norm_). Needs neither torch nor NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal

from assay.build import Builder, Value
from assay.exact.table import TensorType
from assay.program import OutputKind, Part

SCALAR = TensorType(dtype="f32", shape=())
Outputs = list[tuple[OutputKind, str, Value]]


class SettingError(ValueError):
    """A setting of the training is out of its range or of the wrong type."""


def _positive(owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0 or not math.isfinite(value):
            raise SettingError(f"{type(owner).__name__}: {name} must be a positive number, not {value!r}")


def _fraction(owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            raise SettingError(f"{type(owner).__name__}: {name} must be a number in [0, 1), not {value!r}")


# ---- schedules -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Constant:
    """Learning rate as set, after `warmup` steps of linear increase."""

    warmup: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.warmup, int) or self.warmup < 0:
            raise SettingError(f"{type(self).__name__}: warmup counts steps, it cannot be {self.warmup!r}")
        if any(f.name == "floor" for f in fields(self)):
            _fraction(self, "floor")

    def factor(self, step: int, steps: int) -> float:
        """What the optimiser's lr is multiplied by at `step` of `steps`, steps counted from 0."""
        return (step + 1) / (self.warmup + 1) if step < self.warmup else self.after(step - self.warmup, max(steps - self.warmup, 1))

    def after(self, step: int, steps: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Linear(Constant):
    """Linear decay from lr to floor · lr at the last step, after the warm-up."""

    floor: float = 0.0

    def after(self, step: int, steps: int) -> float:
        return 1 - (1 - self.floor) * step / max(steps - 1, 1)


@dataclass(frozen=True)
class Cosine(Constant):
    """Half a cosine from lr down to floor · lr at the last step, after the warm-up (arXiv:1608.03983, without restarts)."""

    floor: float = 0.1

    def after(self, step: int, steps: int) -> float:
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * step / max(steps - 1, 1))) / 2


# ---- optimisers ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AdamW:
    """`decay` says which parameters weight decay acts on: all, or only those of rank 2 and more."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01
    decay: Literal["all", "matrices"] = "all"
    clip: float | None = None

    def __post_init__(self) -> None:
        _positive(self, "lr", "eps", *(["clip"] if self.clip is not None else []))
        _fraction(self, "weight_decay")
        if self.decay not in ("all", "matrices"):
            raise SettingError(f"AdamW: decay is 'all' or 'matrices', not {self.decay!r}")
        if not isinstance(self.betas, tuple | list) or len(self.betas) != 2 or not all(0 <= b < 1 for b in self.betas):
            raise SettingError(f"AdamW: betas are two numbers in [0, 1), not {self.betas!r}")

    moments = ("m", "v")

    def scalars(self, factors: Sequence[float]) -> dict[str, list[float]]:
        """Columns of the schedule; row t belongs to step t."""
        rates = [self.lr * f for f in factors]
        b1, b2 = self.betas
        return {
            "decay": [1 - lr * self.weight_decay for lr in rates],
            "inv_root_bias2": [1 / math.sqrt(1 - b2 ** (t + 1)) for t in range(len(rates))],
            "step_size": [lr / (1 - b1 ** (t + 1)) for t, lr in enumerate(rates)],
        }

    def apply(self, b: Builder, name: str, p: Value, g: Value) -> Outputs:
        b1, b2 = self.betas
        m, v = (b.input("state", f"{moment}.{name}", p.type) for moment in self.moments)
        m = b.add(b.scale(m, b1), b.scale(g, 1 - b1))
        v = b.add(b.scale(v, b2), b.scale(b.mul(g, g), 1 - b2))
        root = b.mul(b.emit("sqrt", v), b.input("scalar", "inv_root_bias2", SCALAR))
        change = b.div(b.mul(m, b.input("scalar", "step_size", SCALAR)), b.add(root, b.const(self.eps)))
        if self.weight_decay and (self.decay == "all" or len(p.shape) >= 2):
            p = b.mul(p, b.input("scalar", "decay", SCALAR))
        return [("state", f"param.{name}", b.sub(p, change)), ("state", f"m.{name}", m), ("state", f"v.{name}", v)]


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent, with momentum and L2 weight decay as torch.optim.SGD (but: the first step's momentum buffer
    starts from zero, which is the same)."""

    lr: float
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    clip: float | None = None

    def __post_init__(self) -> None:
        _positive(self, "lr", *(["clip"] if self.clip is not None else []))
        _fraction(self, "momentum", "weight_decay")
        if self.nesterov and not self.momentum:
            raise SettingError("SGD: nesterov needs a momentum above 0")

    @property
    def moments(self) -> tuple[str, ...]:
        return ("m",) if self.momentum else ()

    def scalars(self, factors: Sequence[float]) -> dict[str, list[float]]:
        return {"lr": [self.lr * f for f in factors]}

    def apply(self, b: Builder, name: str, p: Value, g: Value) -> Outputs:
        out: Outputs = []
        if self.weight_decay:
            g = b.add(g, b.scale(p, self.weight_decay))
        if self.momentum:
            m = b.add(b.scale(b.input("state", f"m.{name}", p.type), self.momentum), g)
            out.append(("state", f"m.{name}", m))
            g = b.add(g, b.scale(m, self.momentum)) if self.nesterov else m
        return [*out, ("state", f"param.{name}", b.sub(p, b.mul(g, b.input("scalar", "lr", SCALAR))))]


Optimizer = AdamW | SGD
Schedule = Constant | Linear | Cosine


def update_part(optimizer: Optimizer, parameters: Mapping[str, TensorType], micro_batches: int, buffers: Mapping[str, TensorType] = {}) -> Part:
    """The part that turns the sums over M micro-batches into the next state. `parameters`: those that are trained;
    `buffers`: entries of the accumulator that become those of the state."""
    b = Builder()
    mean = 1 / micro_batches
    sums = {name: b.input("acc", f"grad.{name}", t) for name, t in parameters.items()}
    factor = b.const(mean)
    if optimizer.clip is not None:
        squares = [b.sum(b.mul(g, g), range(len(g.shape)), False) for g in sums.values()]
        total = squares[0]
        for square in squares[1:]:
            total = b.add(total, square)
        norm = b.scale(b.emit("sqrt", total), mean)
        ratio = b.div(b.const(optimizer.clip), b.add(norm, b.const(1e-6)))
        factor = b.mul(b.emit("minimum", ratio, b.const(1.0)), factor)
    outputs: Outputs = [("state", "metric.loss", b.scale(b.input("acc", "loss", SCALAR), mean))]
    outputs += [("state", name, b.input("acc", name, t)) for name, t in buffers.items()]
    for name, g in sums.items():
        outputs += optimizer.apply(b, name, b.input("state", f"param.{name}", parameters[name]), b.mul(g, factor))
    return b.part(outputs)
