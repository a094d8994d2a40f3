"""The models of the closed set, as small as they can be and still train: what tools/conformance_programs.py traces.

Between them they hold every kind of layer that the families consist of: convolutions with stride, groups and dilation, transposed ones,
pooling, five norms, recurrence in one direction and in two, attention that is causal, masked, with grouped queries and with dropout,
rotary embeddings, and six activations.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.exact.trainings import CHANNELS, CLASSES, CONTEXT, FEATURES, LARGE_SIZES, SIDE, VOCABULARY

WIDTH, HEADS = 16, 2


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(FEATURES, 24), nn.Tanh(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class BatchNormCnn(nn.Module):
    """Running statistics, overlapping and padded pooling, groups and dilation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(CHANNELS, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.second, self.norm2 = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2, bias=False), nn.BatchNorm2d(8)
        self.pool, self.head = nn.MaxPool2d(3, stride=2, padding=1), nn.Linear(8 * 9, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.norm1(self.first(x))))
        x = F.avg_pool2d(F.relu(self.norm2(self.second(x))), 2, ceil_mode=True)
        return self.head(x.flatten(1))


class GroupNormCnn(nn.Module):
    """A residual block, a convolution with a stride and the transposed one that undoes it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm1 = nn.Conv2d(CHANNELS, 8, 3, stride=2), nn.GroupNorm(4, 8)
        self.body, self.norm2 = nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(2, 8)
        self.up, self.norm3 = nn.ConvTranspose2d(8, 4, 3, stride=2), nn.InstanceNorm2d(4, affine=True)
        self.head = nn.Linear(4 * 9, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.norm1(self.stem(x)))
        x = x + F.mish(self.norm2(self.body(x)))
        x = F.hardswish(self.norm3(self.up(x)))
        return self.head(F.adaptive_max_pool2d(x, 3).flatten(1))


class Reader(nn.Module):
    """Reads tokens, says the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.layer = nn.Embedding(VOCABULARY, WIDTH), nn.LSTM(WIDTH, WIDTH, num_layers=2, batch_first=True)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layer(self.token(tokens))[0])


class Listener(nn.Module):
    """Hears a row of vectors in both directions, says what it was."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.GRU(FEATURES, 12, batch_first=True, bidirectional=True), nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.layer(x)
        return self.head(F.elu(y.mean(1)))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        q, k, v = (h.view(batch, time, self.heads, -1).transpose(1, 2) for h in self.qkv(self.norm1(x)).split(width, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, time, width))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Gpt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.block, self.norm = Block(WIDTH, HEADS, 2 * WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens) + self.place(torch.arange(tokens.shape[1]))
        return self.norm(self.block(x)) @ self.token.weight.T


class LargeGpt(nn.Module):
    """Two layers as wide, and a text as long, as GPT-2 has them (12 heads of 64, 1024 characters); rows of logits that no block of a GPU holds."""

    def __init__(self) -> None:
        super().__init__()
        vocabulary, context, width = LARGE_SIZES
        self.token, self.place = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, width // 64, 4 * width) for _ in range(2)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens) + self.place(torch.arange(tokens.shape[1]))
        return self.head(self.norm(self.blocks(x)))


class Vit(nn.Module):
    """A vision transformer (arXiv:2010.11929) of PyTorch's own layers, with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(CHANNELS, WIDTH, 4, stride=4)
        self.place = nn.Parameter(torch.zeros(1, 1 + (SIDE // 4) ** 2, WIDTH))
        self.cls, self.drop = nn.Parameter(torch.zeros(1, 1, WIDTH)), nn.Dropout(0.1)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, dropout=0.1, activation="gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.place
        return self.head(self.norm(self.blocks(self.drop(x)))[:, 0])


class Bert(nn.Module):
    """An encoder whose attention is masked where there is nothing to read (arXiv:1810.04805): norms after the sums, biased everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.place, self.norm = nn.Embedding(VOCABULARY + 1, WIDTH), nn.Embedding(CONTEXT + 1, WIDTH), nn.LayerNorm(WIDTH)
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down, self.norm1, self.norm2 = nn.Linear(WIDTH, 24), nn.Linear(24, WIDTH), nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.turn, self.norm3, self.bias = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.Parameter(torch.zeros(VOCABULARY))

    def forward(self, tokens: Tensor, there: Tensor) -> Tensor:
        x = self.norm(self.token(tokens) + self.place(torch.arange(tokens.shape[1])))
        q, k, v = (p(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for p in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=there[:, None, None, :])
        x = self.norm1(x + self.out(y.transpose(1, 2).flatten(2)))
        x = self.norm2(x + self.down(F.gelu(self.up(x))))
        return self.norm3(F.gelu(self.turn(x))) @ self.token.weight[:VOCABULARY].T + self.bias


class Llama(nn.Module):
    """RMSNorm, rotary embeddings (arXiv:2104.09864), grouped queries and SwiGLU, as in arXiv:2307.09288, with tied embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(VOCABULARY, WIDTH)
        self.norm1, self.norm2, self.norm3 = (nn.RMSNorm(WIDTH) for _ in range(3))
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, n, bias=False) for n in (16, 8, 8, 16))
        self.gate, self.up, self.down = nn.Linear(WIDTH, 24, bias=False), nn.Linear(WIDTH, 24, bias=False), nn.Linear(24, WIDTH, bias=False)

    def turn(self, x: Tensor) -> Tensor:
        angle = torch.arange(x.shape[-2]).float()[:, None] * torch.exp(torch.arange(0, 2).float() * -4.6)
        cos, sin = torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)
        return x * cos + torch.cat([-x[..., 2:], x[..., :2]], -1) * sin

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens)
        h = self.norm1(x)
        q, k, v = (p(h).unflatten(-1, (-1, 4)).transpose(1, 2) for p in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(self.turn(q), self.turn(k), v, is_causal=True, enable_gqa=True)
        x = x + self.o(y.transpose(1, 2).flatten(2))
        h = self.norm2(x)
        x = x + self.down(F.silu(self.gate(h)) * self.up(h))
        return F.linear(self.norm3(x), self.token.weight)


def classify(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"])


def smoothed(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"], label_smoothing=0.05)


def predict(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch["tokens"][:, :-1]).flatten(0, 1), batch["tokens"][:, 1:].flatten())


def fill_in(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Tokens are to be guessed, some hidden and some left as they are, as in the paper; texts that begin with a small token lack their end."""
    tokens, place = batch["tokens"], torch.arange(CONTEXT + 1)
    there = (place < 10) | (tokens[:, :1] > 3)
    hidden = (place == 1) | (place == 7)
    asked = hidden | (place == 4) | (place == 6) | (place == 10) | (place == 12)
    guesses = model(torch.where(hidden, VOCABULARY, tokens), there)
    return F.cross_entropy(guesses.flatten(0, 1), torch.where(asked & there, tokens, -100).flatten(), ignore_index=-100)
