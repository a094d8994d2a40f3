"""Programs beside torch, step by step: what the tests of tracing share.

The reference is torch.autograd with torch.optim and clip_grad_norm_, in float32. Programs run on the exact engine with 23-bit matrix
operands, whose rounding is of the order of float32's own.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import assay
from assay.execute import Executor
from assay.optim import Optimizer, Schedule
from assay.program import Program
from assay.trace import Traced, load_weights, trace
from assay.training import Training

BITS = 23


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def classify(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"])


def tokens() -> assay.Dataset:
    return assay.Dataset("tokens", tokens=np.random.default_rng(0).integers(0, 20, (48, 17)).astype(np.uint8))


def points() -> assay.Dataset:
    rng = np.random.default_rng(0)
    return assay.Dataset("points", x=rng.normal(size=(48, 12)), y=rng.integers(0, 5, 48))


def training(model: nn.Module, loss: Callable[..., torch.Tensor], data: assay.Dataset, **settings: Any) -> Training:
    optimizer: Optimizer = settings.pop("optimizer", assay.AdamW(lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1, clip=1.0))
    schedule: Schedule = settings.pop("schedule", assay.Cosine(warmup=1))
    return Training(
        model=model, loss=loss, data=data, optimizer=optimizer, schedule=schedule,
        **({"batch": 8, "micro_batches": 2, "steps": 3, "gemm_bits": BITS} | settings),
    )  # fmt: skip


def mlp(*last: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Dropout(0.0), nn.Linear(24, 24), nn.GELU(), nn.Linear(24, 5), *last)


def torch_optimizer(t: Training, model: nn.Module) -> torch.optim.Optimizer:
    o = t.optimizer.optimizer if isinstance(t.optimizer, assay.Averaged) else t.optimizer
    if isinstance(o, assay.Adam):
        return torch.optim.Adam(model.parameters(), lr=o.lr, betas=o.betas, eps=o.eps, weight_decay=o.weight_decay)
    if isinstance(o, assay.Lion | assay.Muon):
        return Plain(model, o)
    if isinstance(o, assay.SGD):
        return torch.optim.SGD(model.parameters(), lr=o.lr, momentum=o.momentum, nesterov=o.nesterov, weight_decay=o.weight_decay)
    plain = [p for p in model.parameters() if o.decay == "matrices" and p.dim() < 2]
    rest = [p for p in model.parameters() if not any(p is q for q in plain)]
    groups = [{"params": rest, "weight_decay": o.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=o.lr, betas=o.betas, eps=o.eps)


class Plain(torch.optim.Optimizer):
    """Lion and Muon, as their papers write them, in float32; AdamW for what is no matrix."""

    def __init__(self, model: nn.Module, o: assay.Lion | assay.Muon) -> None:
        super().__init__(model.parameters(), {"lr": o.lr})
        self.o, self.buffers = o, {p: torch.zeros_like(p) for p in model.parameters()}
        names = {p: n for n, p in model.named_parameters()}
        rest = [p for p in names if isinstance(o, assay.Muon) and (p.dim() < 2 or any(word in names[p] for word in o.exclude))]
        self.rest = set(rest)
        self.adam = torch.optim.AdamW(rest, lr=o.others.lr, betas=o.others.betas, weight_decay=o.others.weight_decay) if rest else None

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        o, lr = self.o, self.param_groups[0]["lr"]
        if self.adam is not None:
            self.adam.param_groups[0]["lr"] = lr / o.lr * o.others.lr
            self.adam.step()
        for p, m in self.buffers.items():
            if p in self.rest or p.grad is None:
                continue
            p.mul_(1 - lr * o.weight_decay)
            if isinstance(o, assay.Lion):
                p.sub_(lr * torch.sign(o.betas[0] * m + (1 - o.betas[0]) * p.grad))
                m.mul_(o.betas[1]).add_((1 - o.betas[1]) * p.grad)
                continue
            m.lerp_(p.grad, 1 - o.momentum)
            u = (p.grad.lerp(m, o.momentum) if o.nesterov else m).flatten(1)
            x = u.T if u.shape[0] > u.shape[1] else u
            x = x / x.norm()
            for _ in range(o.iterations):
                a = x @ x.T
                x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
            x = x.T if u.shape[0] > u.shape[1] else x
            p.sub_(lr * math.sqrt(max(1, u.shape[0] / u.shape[1])) * x.view_as(p))


def close(ours: np.ndarray, theirs: torch.Tensor, what: str, relative: float) -> None:
    """Within `relative` of the largest element."""
    expected = theirs.detach().numpy()
    worst = float(np.abs(ours - expected).max()) / max(float(np.abs(expected).max()), 1e-6)
    assert worst < relative, f"{what} is off by {worst:.2e} of its largest element"


def agree(t: Training, relative: float = 2e-4) -> Traced:
    """Runs program and torch side by side; every gradient, loss and parameter must agree at every step."""
    model = copy.deepcopy(t.model)
    traced = trace(t)
    program = Program.load(traced.program.dump())
    executor = Executor(program, traced.schedule, t.micro_batches, frozen=traced.frozen)
    optimizer, state = torch_optimizer(t, model), traced.state
    assert {n: (a.dtype.name, a.shape) for n, a in state.items()} == {n: (_NAMES[x.dtype], x.shape) for n, x in program.state.items()}
    for step in range(t.steps):
        for group in optimizer.param_groups:
            group["lr"] = t.optimizer.lr * t.schedule.factor(step, t.steps)
        optimizer.zero_grad()
        acc, total = executor.zero_acc(step, state), 0.0
        for m in range(t.micro_batches):
            start = (step * t.micro_batches + m) * t.batch % (len(t.data) - t.batch)
            batch = t.data.read(range(start, start + t.batch))
            acc = executor.micro(step, m, state, acc, batch)
            given = {n: torch.from_numpy(a) for n, a in batch.items()}
            loss = t.loss(model, {n: x if x.is_floating_point() else x.long() for n, x in given.items()})
            (loss / t.micro_batches).backward()
            total += loss.item() / t.micro_batches
        for name, p in model.named_parameters():
            if p.requires_grad:
                assert p.grad is not None
                close(acc[f"grad.{name}"] / t.micro_batches, p.grad, f"gradient of {name} at step {step}", relative)
        if t.optimizer.clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), t.optimizer.clip)
        optimizer.step()
        state = executor.update(step, state, acc)
        assert float(state["metric.loss"]) == pytest.approx(total, rel=relative)
        # Adam divides by the gradient's size: where that is rounding noise (a bias before a softmax), a step may differ by lr.
        loose = 10 * relative if isinstance(t.optimizer, assay.SGD) else 0.05
        for name, p in model.named_parameters():
            if p.requires_grad:
                close(state[f"param.{name}"], p, f"parameter {name} after step {step}", loose)
            elif f"param.{name}" in traced.frozen:
                assert np.array_equal(traced.frozen[f"param.{name}"], p.detach().numpy()), name
        for name, buffer in model.named_buffers():
            if f"buffer.{name}" in state:
                close(state[f"buffer.{name}"], buffer, f"buffer {name} after step {step}", relative)
        load_weights(model, state)
    return traced


_NAMES = {"f32": "float32", "i64": "int64", "i32": "int32", "bool": "bool", "u8": "uint8"}
