"""Layers of convolutional and recurrent networks, pooling, normalisation and dropout: traced, and beside torch at every step."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import assay
from assay.exact import reference
from assay.execute import Executor, counters
from assay.program import Program
from assay.trace import trace
from assay.training import TrainingError
from tests.exact.support import ROUTES, on, same
from tests.tracing import agree, classify, close, one_thread, training

__all__ = ["one_thread"]

SGD = assay.SGD(lr=0.05)


def images(*shape: int) -> assay.Dataset:
    rng = np.random.default_rng(0)
    return assay.Dataset("images", x=rng.normal(size=(24, *shape)), y=rng.integers(0, 3, 24))


class Net(nn.Module):
    """Layers, then a linear layer to three classes."""

    def __init__(self, shape: tuple[int, ...], *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        with torch.no_grad():
            width = self.layers(torch.zeros(2, *shape)).flatten(1).shape[1]
        for layer in self.layers.modules():
            if hasattr(layer, "reset_running_stats"):
                layer.reset_running_stats()
        self.head = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(x).flatten(1))


LAYERS: dict[str, tuple[tuple[int, ...], Callable[[], list[nn.Module]]]] = {
    "conv1d": ((2, 9), lambda: [nn.Conv1d(2, 4, 3), nn.Conv1d(4, 3, 2, stride=2, padding=1)]),
    "conv2d": ((2, 7, 8), lambda: [nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, (3, 2), stride=(2, 3))]),
    "a convolution that leaves a rest": ((1, 8, 8), lambda: [nn.Conv2d(1, 2, 1), nn.Conv2d(2, 3, 3, stride=3)]),
    "dilation": ((2, 9, 9), lambda: [nn.Conv2d(2, 2, 1), nn.Conv2d(2, 4, 3, padding=2, dilation=(2, 3), stride=2)]),
    "groups": ((4, 6, 6), lambda: [nn.Conv2d(4, 6, 1), nn.Conv2d(6, 4, 3, groups=2, padding=1, bias=False)]),
    "depthwise": ((3, 6, 6), lambda: [nn.Conv2d(3, 3, 1), nn.Conv2d(3, 6, 3, groups=3, padding=1)]),
    "more padding than kernel": ((1, 5, 5), lambda: [nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 2, padding=3)]),
    "same padding": ((1, 5, 5), lambda: [nn.Conv2d(1, 2, 3, padding="same")]),
    "conv3d": ((2, 4, 5, 4), lambda: [nn.Conv3d(2, 2, 1), nn.Conv3d(2, 3, 2, stride=2, padding=1)]),
    "transposed": ((2, 4, 5), lambda: [nn.Conv2d(2, 4, 1), nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1, output_padding=1, groups=2)]),
    "max pooling": ((2, 8, 9), lambda: [nn.Conv2d(2, 2, 2), nn.MaxPool2d(2)]),
    "max pooling, overlapping": ((2, 7, 7), lambda: [nn.Conv2d(2, 2, 1), nn.MaxPool2d(3, stride=2, padding=1)]),
    "max pooling, dilated": ((2, 9, 9), lambda: [nn.Conv2d(2, 2, 1), nn.MaxPool2d((2, 3), stride=(1, 2), dilation=2, ceil_mode=True)]),
    "max pooling of a line": ((2, 9), lambda: [nn.Conv1d(2, 2, 1), nn.MaxPool1d(3, stride=2)]),
    "max pooling of a space": ((2, 4, 4, 4), lambda: [nn.Conv3d(2, 2, 1), nn.MaxPool3d(2)]),
    "average pooling": ((2, 8, 8), lambda: [nn.Conv2d(2, 2, 1), nn.AvgPool2d(2)]),
    "average pooling with padding": ((2, 7, 7), lambda: [nn.Conv2d(2, 2, 1), nn.AvgPool2d(3, stride=2, padding=1)]),
    "average pooling without it": ((2, 7, 7), lambda: [nn.Conv2d(2, 2, 1), nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False)]),
    "average pooling past the end": ((2, 8, 8), lambda: [nn.Conv2d(2, 2, 1), nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True)]),
    "average pooling of a line": ((2, 9), lambda: [nn.Conv1d(2, 2, 1), nn.AvgPool1d(3, stride=2)]),
    "adaptive average": ((2, 8, 6), lambda: [nn.Conv2d(2, 2, 1), nn.AdaptiveAvgPool2d((2, 3))]),
    "adaptive average of a line": ((2, 8), lambda: [nn.Conv1d(2, 2, 1), nn.AdaptiveAvgPool1d(4)]),
    "global average": ((2, 5, 6), lambda: [nn.Conv2d(2, 3, 1), nn.AdaptiveAvgPool2d(1)]),
    "adaptive maximum": ((2, 8, 6), lambda: [nn.Conv2d(2, 2, 1), nn.AdaptiveMaxPool2d((2, 3))]),
    "group norm": ((4, 5, 5), lambda: [nn.Conv2d(4, 6, 1), nn.GroupNorm(3, 6), nn.ReLU(), nn.GroupNorm(1, 6, affine=False)]),
    "instance norm": ((2, 5, 5), lambda: [nn.Conv2d(2, 3, 1, bias=False), nn.InstanceNorm2d(3, affine=True)]),
    "batch norm": ((2, 5, 5), lambda: [nn.Conv2d(2, 3, 2, bias=False), nn.BatchNorm2d(3), nn.ReLU()]),
    "batch norm of vectors": ((6,), lambda: [nn.Linear(6, 4, bias=False), nn.BatchNorm1d(4, momentum=0.3), nn.Tanh()]),
    "batch norm without weights": ((6,), lambda: [nn.Linear(6, 4, bias=False), nn.BatchNorm1d(4, affine=False)]),
    "batch norm without statistics": ((2, 6), lambda: [nn.Conv1d(2, 3, 1, bias=False), nn.BatchNorm1d(3, track_running_stats=False)]),
    "upsampling": ((2, 3, 3), lambda: [nn.Conv2d(2, 2, 1), nn.PixelShuffle(1), nn.ZeroPad2d(1)]),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_and_their_gradients(name: str) -> None:
    shape, layers = LAYERS[name]
    agree(training(Net(shape, *layers()), classify, images(*shape), optimizer=SGD, batch=6))


def test_batch_norm_threads_its_statistics_through_the_micro_batches() -> None:
    shape = (2, 5, 5)
    net = Net(shape, nn.Conv2d(2, 3, 2, bias=False), nn.BatchNorm2d(3))
    traced = agree(training(net, classify, images(*shape), optimizer=SGD, batch=6, micro_batches=3))
    names = {f"buffer.layers.1.{n}" for n in ("running_mean", "running_var", "num_batches_tracked")}
    assert names <= traced.program.accumulator.keys()
    assert names <= {o.name for o in traced.program.update.outputs}


def test_batch_norm_in_evaluation_changes_nothing() -> None:
    net = Net((2, 5, 5), nn.Conv2d(2, 3, 2, bias=False), nn.BatchNorm2d(3))
    net.layers[1].eval()
    traced = agree(training(net, classify, images(2, 5, 5), optimizer=SGD, batch=6))
    assert not any(name.startswith("buffer.") for name in traced.program.accumulator)


class Counter(nn.Module):
    """Changes parts of its buffer, and reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.arange(6.0).view(2, 3))
        self.layer = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen[:1] += x.detach().mean(0)
        self.seen[1] *= 0.5
        return self.layer(x * self.seen.sum(0))


def test_any_buffer_may_change() -> None:
    traced = agree(training(Counter(), classify, images(3), optimizer=SGD, batch=6))
    assert "buffer.seen" in traced.program.accumulator


def test_a_maximum_that_occurs_twice_counts_once() -> None:
    """Its first place gets the whole gradient, as in torch."""
    data = images(1, 6, 6)
    data.arrays["x"][:] = np.round(data.arrays["x"])
    first = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.ones_(first.weight)
    agree(training(Net((1, 6, 6), first, nn.MaxPool2d(3, stride=2)), classify, data, optimizer=SGD, batch=6))


# ---- dropout ---------------------------------------------------------------------------------------------------------------


class Masked(nn.Module):
    """Stands for dropout on torch's side: a product with the mask that the program's definition gives."""

    def __init__(self, number: int, p: float, channels: bool, seed: int) -> None:
        super().__init__()
        self.number, self.p, self.channels, self.seed, self.at = number, p, channels, seed, (0, 0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = (*x.shape[:2], *(1,) * (x.dim() - 2)) if self.channels else tuple(x.shape)
        step, m = self.at
        position = np.arange(int(np.prod(shape)), dtype=np.int64) + (self.number << 40)
        word = reference.philox(position, np.int64((step << 32) + m), np.int64(self.seed))
        keep = np.where(word < round(self.p * 2**32), 0.0, 1 / (1 - self.p)).astype(np.float32)
        return x * torch.from_numpy(keep.reshape(shape))


def test_dropout_is_philox_of_step_micro_batch_and_place() -> None:
    shape = (3, 4, 4)
    net = Net(shape, nn.Conv2d(3, 4, 1), nn.Dropout2d(0.5), nn.Flatten(), nn.Dropout(0.3), nn.Linear(64, 20), nn.ReLU(), nn.Dropout(0.25))
    t = training(net, classify, images(*shape), optimizer=SGD, batch=6, seed=-5)
    model = copy.deepcopy(net)
    for number, (at, layer) in enumerate([(at, layer) for at, layer in enumerate(model.layers) if isinstance(layer, nn.Dropout | nn.Dropout2d)]):
        model.layers[at] = Masked(number, layer.p, isinstance(layer, nn.Dropout2d), -5)
    traced = trace(t)
    program = Program.load(traced.program.dump())
    executor = Executor(program, traced.schedule, t.micro_batches)
    seen = []
    for step, m in ((0, 0), (0, 1), (2, 0)):
        for layer in model.layers:
            if isinstance(layer, Masked):
                layer.at = (step, m)
        batch = t.data.read(range(6))
        acc = executor.micro(step, m, traced.state, executor.zero_acc(step, traced.state), batch)
        model.zero_grad()
        loss = classify(model, {n: torch.from_numpy(a) if a.dtype == np.float32 else torch.from_numpy(a).long() for n, a in batch.items()})
        loss.backward()
        assert float(acc["loss"]) == pytest.approx(loss.item(), rel=1e-5)
        for name, p in model.named_parameters():
            assert p.grad is not None
            close(acc[f"grad.{name}"], p.grad, f"gradient of {name}", 2e-4)
        seen.append(float(acc["loss"]))
    assert len(set(seen)) == 3


class Attend(nn.Module):
    """Causal attention of grouped queries with dropout, by PyTorch's function or with a mask of ours."""

    def __init__(self, mask: Masked | None = None) -> None:
        super().__init__()
        self.qkv, self.mask = nn.Linear(6, 16), mask

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (t.unflatten(-1, (-1, 4)).transpose(1, 2) for t in self.qkv(x).split([8, 4, 4], -1))
        if self.mask is None:
            return F.scaled_dot_product_attention(q, k, v, dropout_p=0.25, is_causal=True, enable_gqa=True)
        scores = (q @ k.transpose(-2, -1) / 2).masked_fill(~torch.ones(5, 5).tril().bool(), -torch.inf)
        return self.mask(scores.softmax(-1)) @ v


def test_attention_with_dropout() -> None:
    net = Net((5, 6), Attend())
    t = training(net, classify, images(5, 6), optimizer=SGD, batch=6, seed=3)
    model = copy.deepcopy(net)
    masked = Masked(0, 0.25, False, 3)
    masked.at = (1, 1)
    model.layers[0].mask = masked
    traced = trace(t)
    executor = Executor(traced.program, traced.schedule, t.micro_batches)
    batch = t.data.read(range(6))
    acc = executor.micro(1, 1, traced.state, executor.zero_acc(1, traced.state), batch)
    loss = classify(model, {"x": torch.from_numpy(batch["x"]), "y": torch.from_numpy(batch["y"]).long()})
    loss.backward()
    assert float(acc["loss"]) == pytest.approx(loss.item(), rel=1e-5)
    for name, p in model.named_parameters():
        assert p.grad is not None
        close(acc[f"grad.{name}"], p.grad, f"gradient of {name}", 2e-4)


def test_every_route_gives_a_network_the_same_bits() -> None:
    """Convolutions, pooling, normalisation and dropout together: each stage's root, and the reference's results."""
    shape = (2, 9, 9)
    layers = [nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.MaxPool2d(3, stride=2), nn.Conv2d(4, 4, 3, groups=2, dilation=1)]
    net = Net(shape, *layers, nn.GroupNorm(2, 4), nn.Dropout(0.4), nn.AvgPool2d(2, stride=1, padding=1))
    t = training(net, classify, images(*shape), batch=6, gemm_bits=14)
    traced, batch = trace(t), t.data.read(range(6))
    roots = set()
    for route in ROUTES:
        with on(route):
            executor = Executor(traced.program, traced.schedule, t.micro_batches, route.threads)
            found = executor.trace_micro(2, 1, traced.state, executor.zero_acc(2, traced.state), batch)
        roots.add(found.root)
    assert len(roots) == 1
    part = traced.program.micro
    given: dict[str, Any] = {"state": traced.state, "acc": executor.zero_acc(2, traced.state), "batch": batch, "counter": counters(2, 1)}
    values = reference.evaluate(part, [given[i.kind][i.name] for i in part.inputs], 14)
    assert all(same(found.output[o.name], values[o.value]) for o in part.outputs)


class Vit(nn.Module):
    """A small vision transformer (arXiv:2010.11929) of PyTorch's own layers."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 16, 4, stride=4)
        self.place = nn.Parameter(torch.randn(1, 5, 16) * 0.02)
        self.cls = nn.Parameter(torch.zeros(1, 1, 16))
        self.drop = nn.Dropout(p)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=p, activation="gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.place
        return self.head(self.norm(self.blocks(self.drop(x)))[:, 0])


def test_vision_transformer() -> None:
    agree(training(Vit(0.0), classify, images(1, 8, 8), optimizer=SGD, batch=6))


def test_vision_transformer_with_dropout() -> None:
    t = training(Vit(0.2), classify, images(1, 8, 8), batch=6, seed=1)
    traced = trace(t)
    program = Program.load(traced.program.dump())
    masks = [n for n in program.micro.nodes if n.op == "philox"]
    assert len(masks) == 1 + 2 * 4
    batch, losses = t.data.read(range(6)), set()
    for seed in (1, 2):
        traced = trace(training(t.model, classify, t.data, batch=6, seed=seed))
        executor = Executor(traced.program, traced.schedule, 2)
        losses |= {float(executor.micro(s, m, traced.state, executor.zero_acc(s, traced.state), batch)["loss"]) for s in (0, 1) for m in (0, 1)}
    assert len(losses) == 8


# ---- recurrent layers ------------------------------------------------------------------------------------------------------


class Reader(nn.Module):
    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, last = self.layer(x)
        return self.head(y[:, -1]) + (last[0] if isinstance(last, tuple) else last)[-1, :, :3]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("settings", [{}, {"num_layers": 2, "bias": False}, {"bidirectional": True}])
def test_recurrent_layers(kind: Any, settings: dict[str, Any]) -> None:
    layer = kind(4, 5, batch_first=True, **settings)
    agree(training(Reader(layer, 10 if "bidirectional" in settings else 5), classify, images(6, 4), optimizer=SGD, batch=6))


# ---- refusals --------------------------------------------------------------------------------------------------------------


def refused(message: str, shape: tuple[int, ...], *layers: nn.Module) -> None:
    with pytest.raises(TrainingError, match=message):
        trace(training(Net(shape, *layers), classify, images(*shape), batch=6))


def test_what_is_still_outside_is_refused_by_name() -> None:
    refused(r"adaptive pooling of \[7, 7\] to \[2, 2\].*1 \(AdaptiveAvgPool2d\)", (1, 7, 7), nn.Conv2d(1, 1, 1), nn.AdaptiveAvgPool2d(2))
    refused(r"alpha_dropout.*use nn\.Dropout.*1 \(AlphaDropout\)", (4,), nn.Linear(4, 4), nn.AlphaDropout(0.1))
    refused(r"probability of 1.*1 \(Dropout\)", (4,), nn.Linear(4, 4), nn.Dropout(1.0))
    with pytest.raises(TrainingError, match=r"dropout between the layers of an LSTM or GRU.*layer \(LSTM\)"):
        trace(training(Reader(nn.LSTM(4, 5, 2, batch_first=True, dropout=0.1), 5), classify, images(6, 4), batch=6))


def test_a_seed_is_of_64_bits() -> None:
    with pytest.raises(assay.training.SettingError, match="seed must be a whole number of 64 bits"):
        training(nn.Linear(4, 3), lambda m, b: F.cross_entropy(m(b["x"]), b["y"]), images(4), seed=1 << 63)
