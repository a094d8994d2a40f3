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
        _two_fractions(self, self.betas)

    def scalars(self, factors: Sequence[float]) -> dict[str, list[float]]:
        """Columns of the schedule; row t belongs to step t."""
        rates = [self.lr * f for f in factors]
        return {"decay": [1 - lr * self.weight_decay for lr in rates]} | _adam_scalars(rates, self.betas)

    def apply(self, b: Builder, name: str, p: Value, g: Value) -> Outputs:
        change, moments = _adam(b, name, g, self.betas, self.eps)
        if self.weight_decay and (self.decay == "all" or len(p.shape) >= 2):
            p = b.mul(p, b.input("scalar", "decay", SCALAR))
        return [("state", f"param.{name}", b.sub(p, change)), *moments]


def _two_fractions(owner: object, betas: object) -> None:
    if not isinstance(betas, tuple | list) or len(betas) != 2 or not all(isinstance(b, int | float) and 0 <= b < 1 for b in betas):
        raise SettingError(f"{type(owner).__name__}: betas are two numbers in [0, 1), not {betas!r}")


def _adam_scalars(rates: Sequence[float], betas: tuple[float, float]) -> dict[str, list[float]]:
    b1, b2 = betas
    return {
        "inv_root_bias2": [1 / math.sqrt(1 - b2 ** (t + 1)) for t in range(len(rates))],
        "step_size": [lr / (1 - b1 ** (t + 1)) for t, lr in enumerate(rates)],
    }


def _adam(b: Builder, name: str, g: Value, betas: tuple[float, float], eps: float) -> tuple[Value, Outputs]:
    """(what to take from the parameter, the moments)."""
    b1, b2 = betas
    m, v = (b.input("state", f"{moment}.{name}", g.type) for moment in "mv")
    m = b.add(b.scale(m, b1), b.scale(g, 1 - b1))
    v = b.add(b.scale(v, b2), b.scale(b.mul(g, g), 1 - b2))
    root = b.mul(b.emit("sqrt", v), b.input("scalar", "inv_root_bias2", SCALAR))
    change = b.div(b.mul(m, b.input("scalar", "step_size", SCALAR)), b.add(root, b.const(eps)))
    return change, [("state", f"m.{name}", m), ("state", f"v.{name}", v)]


@dataclass(frozen=True)
class Adam:
    """arXiv:1412.6980, with L2 weight decay as torch.optim.Adam."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float | None = None

    def __post_init__(self) -> None:
        _positive(self, "lr", "eps", *(["clip"] if self.clip is not None else []))
        _fraction(self, "weight_decay")
        _two_fractions(self, self.betas)

    def scalars(self, factors: Sequence[float]) -> dict[str, list[float]]:
        return _adam_scalars([self.lr * f for f in factors], self.betas)

    def apply(self, b: Builder, name: str, p: Value, g: Value) -> Outputs:
        if self.weight_decay:
            g = b.add(g, b.scale(p, self.weight_decay))
        change, moments = _adam(b, name, g, self.betas, self.eps)
        return [("state", f"param.{name}", b.sub(p, change)), *moments]


@dataclass(frozen=True)
class Lion:
    """Sign of an interpolated momentum (arXiv:2302.06675); weight decay is decoupled."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    clip: float | None = None

    def __post_init__(self) -> None:
        _positive(self, "lr", *(["clip"] if self.clip is not None else []))
        _fraction(self, "weight_decay")
        _two_fractions(self, self.betas)

    def scalars(self, factors: Sequence[float]) -> dict[str, list[float]]:
        rates = [self.lr * f for f in factors]
        return {"lr": rates, "decay": [1 - lr * self.weight_decay for lr in rates]}

    def apply(self, b: Builder, name: str, p: Value, g: Value) -> Outputs:
        b1, b2 = self.betas
        m, lr, zero = b.input("state", f"m.{name}", p.type), b.input("scalar", "lr", SCALAR), b.const(0.0)
        c = b.add(b.scale(m, b1), b.scale(g, 1 - b1))
        change = b.emit("select", b.emit("gt", c, zero), lr, b.emit("select", b.emit("lt", c, zero), b.emit("neg", lr), zero))
        if self.weight_decay:
            p = b.mul(p, b.input("scalar", "decay", SCALAR))
        return [("state", f"param.{name}", b.sub(p, change)), ("state", f"m.{name}", b.add(b.scale(m, b2), b.scale(g, 1 - b2)))]


NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


@dataclass(frozen=True)
class Muon:
    """Momentum made orthogonal by five steps of a Newton-Schulz iteration, for parameters of rank 2 and more (seen as matrices, rows
    first); all others, and those whose names hold a word of `exclude` (embeddings, heads), go to `others`. Jordan et al., "Muon: an
    optimizer for hidden layers in neural networks" (2024), with the scale and decoupled weight decay of torch.optim.Muon."""

    lr: float
    others: AdamW
    momentum: float = 0.95
    nesterov: bool = True
    weight_decay: float = 0.0
    exclude: Sequence[str] = ()
    iterations: int = 5
    clip: float | None = None

    def __post_init__(self) -> None:
        _positive(self, "lr", *(["clip"] if self.clip is not None else []))
        _fraction(self, "momentum", "weight_decay")
        if not isinstance(self.others, AdamW):
            raise SettingError(f"Muon: others must be an assay.AdamW, for what is no matrix, not {self.others!r}")
        if not isinstance(self.exclude, tuple | list):
            raise SettingError(f"Muon: exclude is a tuple of parts of names, not {self.exclude!r}")
        if not isinstance(self.iterations, int) or not 1 <= self.iterations <= 32:
            raise SettingError(f"Muon: iterations must be in 1..32, not {self.iterations!r}")

    def scalars(self, factors: Sequence[float]) -> dict[str, list[float]]:
        rates = [self.lr * f for f in factors]
        return {"muon_lr": rates, "muon_decay": [1 - lr * self.weight_decay for lr in rates]} | self.others.scalars(factors)

    def apply(self, b: Builder, name: str, p: Value, g: Value) -> Outputs:
        if len(p.shape) < 2 or any(word in name for word in self.exclude):
            return self.others.apply(b, name, p, g)
        m = b.add(b.scale(b.input("state", f"m.{name}", p.type), self.momentum), b.scale(g, 1 - self.momentum))
        u = b.add(b.scale(g, 1 - self.momentum), b.scale(m, self.momentum)) if self.nesterov else m
        rows, columns = p.shape[0], math.prod(p.shape[1:])
        x = b.reshape(self._orthogonal(b, b.reshape(u, (rows, columns))), p.shape)
        change = b.mul(b.scale(x, math.sqrt(max(1, rows / columns))), b.input("scalar", "muon_lr", SCALAR))
        if self.weight_decay:
            p = b.mul(p, b.input("scalar", "muon_decay", SCALAR))
        return [("state", f"param.{name}", b.sub(p, change)), ("state", f"m.{name}", m)]

    def _orthogonal(self, b: Builder, x: Value) -> Value:
        turned = x.shape[0] > x.shape[1]
        x = b.permute(x, (1, 0)) if turned else x
        norm = b.emit("sqrt", b.sum(b.mul(x, x), (0, 1), False))
        x = b.div(x, b.emit("maximum", norm, b.const(1e-7)))
        c1, c2, c3 = NEWTON_SCHULZ
        for _ in range(self.iterations):
            a = b.emit("matmul", x, b.permute(x, (1, 0)))
            a = b.add(b.scale(a, c2), b.scale(b.emit("matmul", a, a), c3))
            x = b.add(b.scale(x, c1), b.emit("matmul", a, x))
        return b.permute(x, (1, 0)) if turned else x


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


@dataclass(frozen=True)
class Averaged:
    """Any of the others, with an exponential moving average of the weights beside them: entries `ema.<name>` of the state, which
    start as the weights and become decay · average + (1 - decay) · weight after each step (Polyak and Juditsky, SIAM J. Control
    Optim. 30, 1992; as torch.optim.swa_utils.get_ema_multi_avg_fn)."""

    optimizer: AdamW | Adam | SGD | Lion | Muon
    decay: float = 0.999

    def __post_init__(self) -> None:
        _fraction(self, "decay")
        if not isinstance(self.optimizer, AdamW | Adam | SGD | Lion | Muon):
            raise SettingError(f"Averaged: optimizer must be one of the optimisers, not {self.optimizer!r}")

    @property
    def lr(self) -> float:
        return self.optimizer.lr

    @property
    def clip(self) -> float | None:
        return self.optimizer.clip

    def scalars(self, factors: Sequence[float]) -> dict[str, list[float]]:
        return self.optimizer.scalars(factors)

    def apply(self, b: Builder, name: str, p: Value, g: Value) -> Outputs:
        outputs = self.optimizer.apply(b, name, p, g)
        after = next(value for _, entry, value in outputs if entry == f"param.{name}")
        average = b.add(b.scale(b.input("state", f"ema.{name}", p.type), self.decay), b.scale(after, 1 - self.decay))
        return [*outputs, ("state", f"ema.{name}", average)]


Optimizer = AdamW | Adam | SGD | Lion | Muon | Averaged
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
