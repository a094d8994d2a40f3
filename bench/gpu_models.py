# The GPTs that bench/gpu.py trains, written as one would for PyTorch alone. This file measures nothing.
from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import assay
from assay.training import Training


class Size(NamedTuple):
    layers: int
    width: int
    heads: int
    context: int
    vocabulary: int
    batch: int


SIZES = {
    "124M": Size(12, 768, 12, 1024, 50304, 8),
    "1B": Size(16, 2048, 16, 1024, 50304, 8),
    "tiny": Size(2, 32, 2, 16, 61, 2),
}


class Block(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads = size.heads
        self.norm1, self.norm2 = nn.LayerNorm(size.width), nn.LayerNorm(size.width)
        self.qkv, self.out = nn.Linear(size.width, 3 * size.width, bias=False), nn.Linear(size.width, size.width, bias=False)
        self.up, self.down = nn.Linear(size.width, 4 * size.width, bias=False), nn.Linear(4 * size.width, size.width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, time, width = x.shape
        q, k, v = (h.view(batch, time, self.heads, -1).transpose(1, 2) for h in self.qkv(self.norm1(x)).split(width, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, time, width))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class GPT(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(size.vocabulary, size.width), nn.Embedding(size.context, size.width)
        self.blocks = nn.Sequential(*(Block(size) for _ in range(size.layers)))
        self.norm, self.head = nn.LayerNorm(size.width), nn.Linear(size.width, size.vocabulary, bias=False)
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.token(tokens) + self.place(torch.arange(tokens.shape[1], device=tokens.device))
        return self.head(self.norm(self.blocks(x)))


def loss(model: Any, batch: Any) -> torch.Tensor:
    tokens = batch["tokens"]
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def training(name: str) -> Training:
    size = SIZES[name]
    torch.manual_seed(0)
    tokens = np.random.default_rng(0).integers(0, size.vocabulary, (4 * size.batch, size.context + 1)).astype(np.int32)
    return assay.Training(
        model=GPT(size), loss=loss, data=assay.Dataset("noise", tokens=tokens), optimizer=assay.AdamW(lr=1e-4), schedule=assay.Constant(),
        batch=size.batch, steps=8,
    )  # fmt: skip


def flops(model: nn.Module, size: Size) -> float:
    """Of a step: 6 for each weight of a product and token, and attention's two products (PaLM, arXiv:2204.02311, appendix B)."""
    weights = sum(p.numel() for name, p in model.named_parameters() if p.dim() == 2 and not name.startswith(("token", "place")))
    tokens = size.batch * size.context
    return float(6 * weights * tokens + 12 * size.layers * size.width * size.context * tokens)
