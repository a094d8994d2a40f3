"""Traces the model families whose short trainings `assay doctor --conformance` repeats, and writes their programs.

python tools/conformance_programs.py && python -m assay.exact.conformance

Needs PyTorch; what runs them does not. A change of a program changes the committed state roots, which only the NumPy reference gives.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import assay
from assay.exact.trainings import BATCH, CLASSES, CONTEXT, FEATURES, MICRO_BATCHES, PROGRAMS, STEPS, VOCABULARY
from assay.trace import trace

WIDTH, HEADS = 16, 2


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(FEATURES, 24), nn.Tanh(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, _ = x.shape
        q, k, v = (h.view(batch, time, HEADS, -1).transpose(1, 2) for h in self.qkv(self.norm1(x)).split(WIDTH, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, time, WIDTH))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Gpt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.block, self.norm = Block(), nn.LayerNorm(WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens) + self.place(torch.arange(tokens.shape[1]))
        return self.norm(self.block(x)) @ self.token.weight.T


def classify(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"])


def predict(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch["tokens"][:, :-1]).flatten(0, 1), batch["tokens"][:, 1:].flatten())


def main() -> None:
    table = assay.Dataset("table", x=np.zeros((BATCH, FEATURES), np.float32), y=np.zeros(BATCH, np.int64))
    text = assay.Dataset("text", tokens=np.zeros((BATCH, CONTEXT + 1), np.int64))
    families = {
        "mlp": (Mlp(), classify, table, assay.SGD(lr=0.1, momentum=0.9)),
        "gpt": (Gpt(), predict, text, assay.AdamW(lr=1e-2, weight_decay=0.1, clip=1.0)),
    }
    PROGRAMS.mkdir(exist_ok=True)
    for name, (model, loss, data, optimizer) in families.items():
        training = assay.Training(
            model=model, loss=loss, data=data, optimizer=optimizer, schedule=assay.Cosine(warmup=5),
            batch=BATCH, micro_batches=MICRO_BATCHES, steps=STEPS,
        )
        traced = trace(training)
        # The schedule goes with the program: torch has no part in it, but the C library's cosine does.
        schedule = traced.schedule.astype("<f4")
        data_bytes = zlib.compress(traced.program.dump(), 9)
        (PROGRAMS / f"{name}.program.z").write_bytes(data_bytes)
        (PROGRAMS / f"{name}.schedule").write_bytes(schedule.tobytes())
        print(name, len(data_bytes), "bytes,", len(traced.program.micro.nodes), "+", len(traced.program.update.nodes), "nodes", schedule.shape)
        print({n: a.shape for n, a in traced.state.items()}, {n: t for n, t in traced.program.batch.items()})


if __name__ == "__main__":
    main()
