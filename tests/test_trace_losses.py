"""Losses, and the functions of language models beyond those of test_trace: traced, and beside torch at every step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import assay
from tests.tracing import agree, classify, mlp, one_thread, points, tokens, training

__all__ = ["one_thread"]

SGD = assay.SGD(lr=0.05)


def pairs() -> assay.Dataset:
    rng = np.random.default_rng(1)
    return assay.Dataset("pairs", x=rng.normal(size=(48, 12)), y=rng.normal(size=(48, 5)), c=rng.integers(0, 5, 48))


Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
LOSSES: dict[str, Loss] = {
    "mse": lambda z, y, c: F.mse_loss(z, y),
    "mse sum": lambda z, y, c: F.mse_loss(z, y, reduction="sum") / 8,
    "l1": lambda z, y, c: F.l1_loss(z, y),
    "huber": lambda z, y, c: F.huber_loss(z, y, delta=0.7),
    "smooth l1": lambda z, y, c: F.smooth_l1_loss(z, y, beta=0.4),
    "smooth l1 sum": lambda z, y, c: F.smooth_l1_loss(z, y, reduction="sum") / 8,
    "bce with logits": lambda z, y, c: F.binary_cross_entropy_with_logits(z, (y > 0).float()),
    "weighted bce with logits": lambda z, y, c: F.binary_cross_entropy_with_logits(z, y.sigmoid(), pos_weight=torch.arange(1.0, 6.0)),
    "bce": lambda z, y, c: F.binary_cross_entropy(z.sigmoid(), (y > 0).float()),
    "kl": lambda z, y, c: F.kl_div(z.log_softmax(-1), y.softmax(-1), reduction="batchmean"),
    "kl of logarithms": lambda z, y, c: F.kl_div(z.log_softmax(-1), y.log_softmax(-1), reduction="mean", log_target=True),
    "cosine": lambda z, y, c: (1 - F.cosine_similarity(z, y)).mean(),
    "cosine embedding": lambda z, y, c: F.cosine_embedding_loss(z, y, torch.where(c > 2, 1.0, -1.0), margin=0.1),
    "cross-entropy, smoothed": lambda z, y, c: F.cross_entropy(z, c, label_smoothing=0.1),
    "cross-entropy, some ignored": lambda z, y, c: F.cross_entropy(z, c, ignore_index=2),
    "cross-entropy, smoothed, some ignored": lambda z, y, c: F.cross_entropy(z, c, label_smoothing=0.2, ignore_index=1),
    "cross-entropy, weighted": lambda z, y, c: F.cross_entropy(z, c, weight=torch.tensor([1.0, 2.0, 0.5, 1.5, 1.0])),
    "cross-entropy of each": lambda z, y, c: (F.cross_entropy(z, c, reduction="none") * y[:, 0].abs()).mean(),
    "cross-entropy with probabilities": lambda z, y, c: F.cross_entropy(z, y.softmax(-1)),
    "soft margin": lambda z, y, c: F.soft_margin_loss(z, torch.where(y > 0, 1.0, -1.0)),
    "hinge": lambda z, y, c: F.hinge_embedding_loss(z, torch.where(y > 0, 1.0, -1.0)),
    "poisson": lambda z, y, c: F.poisson_nll_loss(z, y.abs()),
    "triplet": lambda z, y, c: F.triplet_margin_loss(z, y, y.flip(0)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name: str) -> None:
    def loss(m: nn.Module, b: dict[str, torch.Tensor]) -> torch.Tensor:
        unused = 0.0 * (b["y"].sum() + b["c"].sum())
        return LOSSES[name](m(b["x"]), b["y"], b["c"]) + unused

    agree(training(mlp(), loss, pairs(), optimizer=SGD))


def rotated(x: torch.Tensor) -> torch.Tensor:
    """Rotary embedding (arXiv:2104.09864) of [batch, 6] seen as [batch, 1 place, 6]."""
    angle = torch.arange(1.0, x.shape[0] + 1)[:, None] / 10000 ** (torch.arange(0, 3) / 3)
    cos, sin = torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)
    return x * cos + torch.cat([-x[:, 3:], x[:, :3]], -1) * sin


FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "cumsum": lambda x: x.cumsum(1) + x.cumsum(0) * 0.1,
    "counting": lambda x: x * (x > 0).long().cumsum(0),
    "powers": lambda x: (x * x + 0.5) ** 1.5 + (x * x + 1) ** 0.3 + (x * x + 1) ** -2.5 + (x.abs() + 1) ** 9 * 1e-4,
    "indices": lambda x: x[torch.tensor([[-1, 2], [0, 0]]), torch.tensor([1, -6])].sum() * x * x[torch.arange(8)],
    "indices of columns": lambda x: x[:, torch.tensor([5, -2, 0, 0, 1, 3])] * x,
    "flip": lambda x: x * x.flip(1) + x.flip(0, 1),
    "roll": lambda x: x * x.roll(1, 1),
    "rotary": rotated,
    "swiglu": lambda x: (F.silu(x[:, :3]) * x[:, 3:]).repeat(1, 2),
    "glu": lambda x: F.glu(x, 1).repeat(1, 2),
    "rms norm": lambda x: F.rms_norm(x, (6,), torch.ones(6), 1e-5),
    "exact gelu": F.gelu,
    "mish and softsign": lambda x: F.mish(x) + F.softsign(x),
    "hard functions": lambda x: F.hardswish(x) + F.hardsigmoid(x) + F.relu6(x * 4),
    "selu and celu": lambda x: F.selu(x) + F.celu(x, 0.7),
    "logsigmoid": F.logsigmoid,
    "norm": lambda x: F.normalize(x, dim=1) + x.norm(dim=0),
    "logsumexp": lambda x: x * x.logsumexp(1, keepdim=True),
    "std": lambda x: x / (x.std(1, keepdim=True) + 0.1),
    "einsum": lambda x: torch.einsum("bi,bj->bij", x, x).sum(2),
    "unfold": lambda x: x.unfold(1, 3, 1).sum(2).repeat(1, 2)[:, :6] * x,
    "outer masks": lambda x: x.unsqueeze(1).masked_fill(torch.ones(6, 6).triu(1).bool(), 0.0).sum(1),
    "written slices": lambda x: torch.zeros_like(x).slice_scatter(x[:, 1:3], 1, 0, 2) + x,
    "repeat": lambda x: x.repeat(1, 2)[:, 3:9] + x.repeat_interleave(2, 1)[:, :6] * x,
    "exponentials": lambda x: torch.expm1(x) + torch.log1p(x.abs()) + torch.exp2(x) + torch.log2(x.abs() + 1) + torch.log10(x * x + 1),
    "rounding": lambda x: x * (x.detach() * 3).floor() + x * (x.detach() * 5).round() + x * (x * 4).ceil() - x * (x * 3).trunc(),
}


class Elementwise(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.layer, self.function = nn.Linear(12, 6), function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.layer(x))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    data = assay.Dataset("pairs", x=np.random.default_rng(1).normal(size=(48, 12)), y=np.random.default_rng(2).normal(size=(48, 6)))
    agree(training(Elementwise(FUNCTIONS[name]), lambda m, b: F.mse_loss(m(b["x"])[:, :6], b["y"]), data, optimizer=SGD))


class Llama(nn.Module):
    """RMSNorm, rotary embeddings, grouped queries and SwiGLU, with tied embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(20, 16)
        self.norms = nn.ModuleList(nn.RMSNorm(16) for _ in range(3))
        self.q, self.k, self.v, self.o = nn.Linear(16, 16, False), nn.Linear(16, 8, False), nn.Linear(16, 8, False), nn.Linear(16, 16, False)
        self.gate, self.up, self.down = nn.Linear(16, 24, False), nn.Linear(16, 24, False), nn.Linear(24, 16, False)

    def turn(self, x: torch.Tensor) -> torch.Tensor:
        angle = torch.arange(x.shape[-2]).float()[:, None] / 10000 ** (torch.arange(0, 2).float() / 2)
        cos, sin = torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)
        return x * cos + torch.cat([-x[..., 2:], x[..., :2]], -1) * sin

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.token(tokens)
        h = self.norms[0](x)
        q, k, v = (p(h).unflatten(-1, (-1, 4)).transpose(1, 2) for p in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(self.turn(q), self.turn(k), v, is_causal=True, enable_gqa=True)
        x = x + self.o(y.transpose(1, 2).flatten(2))
        h = self.norms[1](x)
        x = x + self.down(F.silu(self.gate(h)) * self.up(h))
        return F.linear(self.norms[2](x), self.token.weight)


def test_llama() -> None:
    def loss(m: nn.Module, b: dict[str, torch.Tensor]) -> torch.Tensor:
        return F.cross_entropy(m(b["tokens"][:, :-1]).flatten(0, 1), b["tokens"][:, 1:].flatten())

    agree(training(Llama(), loss, tokens(), optimizer=SGD))


def test_an_embedding_whose_padding_does_not_learn() -> None:
    model = nn.Sequential(nn.Embedding(20, 8, padding_idx=3), nn.Flatten(), nn.Linear(8 * 17, 5))
    agree(training(model, lambda m, b: F.cross_entropy(m(b["tokens"]), (b["tokens"][:, 0] < 9).long()), tokens(), optimizer=SGD))


def test_muon_and_averages_train() -> None:
    muon = assay.Muon(lr=0.02, others=assay.AdamW(lr=1e-2), exclude=("5.",))
    traced = agree(training(mlp(), classify, points(), optimizer=assay.Averaged(muon, decay=0.9)))
    assert {"m.0.weight", "ema.0.weight", "v.0.bias"} <= traced.state.keys()
    assert "v.0.weight" not in traced.state
