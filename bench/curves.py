# Measures what the precision of products costs in quality: the same models on the same batches from the same initial states, trained by
# PyTorch in float32 and in bfloat16 (autocast) and by the exact engine with b = 8, 14, 15 and 23, rotated operands (h) and balanced ones
# (s), on six tasks with real data, three of them hard on purpose. Against float32 of the same seed. Goal: b = 14 within the spread of
# float32 over seeds, everywhere; the page docs/quality.md (bench/curves_page.py) says where a precision does not reach it.
#
#     python bench/curves.py [--quick] [--json] [TASK ...]
#
# A training that has been done is kept under .assay/curves by the digest of its program, initial state, data and batches, and not done again.
from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

import assay
from assay.build import Builder
from assay.exact import reference
from assay.exact.table import TensorType
from assay.execute import Executor
from assay.lower.products import treated
from assay.merkle import sha256
from assay.sampling import record_indices
from assay.state import state_root
from assay.trace import Traced, load_weights, trace
from assay.training import Training

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / ".assay" / "curves"
SEEDS = (0, 1, 2)
PRECISIONS = ("fp32", "bf16", "8", "8h", "8hs", "14", "14s", "15", "23")
LAST = 20
"""The mean loss of so many last steps is the final training loss."""
POINTS = 30
"""Of a smoothed curve."""
Arrays = dict[str, NDArray[Any]]
Tensors = dict[str, torch.Tensor]


class Task(NamedTuple):
    """`training` holds a fresh model of torch's present seed; `metrics` of it on held-out records, smaller is better unless named accuracy."""

    title: str
    training: Callable[[], Training]
    metrics: Callable[[nn.Module], dict[str, float]]


# ---- models and tasks --------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, time, width = x.shape
        q, k, v = (h.view(batch, time, self.heads, -1).transpose(1, 2) for h in self.qkv(self.norm1(x)).split(width, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, time, width))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    """Pre-norm, learnt places, an output layer of its own."""

    def __init__(self, tokens: int, context: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(tokens, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, tokens, bias=False)
        for p in (self.token.weight, self.place.weight, self.head.weight):
            nn.init.normal_(p, std=0.05)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.token(tokens) + self.place(torch.arange(tokens.shape[1]))
        return self.head(self.norm(self.blocks(x)))


def next_token(model: nn.Module, batch: Tensors) -> torch.Tensor:
    tokens = batch["tokens"]
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def classify(model: nn.Module, batch: Tensors) -> torch.Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"])


def language(title: str, tokens: NDArray[Any], context: int, batch: int, steps: int, rare: int, **size: int) -> Task:
    """The last tenth of a text is held out; `rare` asks for the loss on tokens that occur at most so often before."""
    windows = np.lib.stride_tricks.sliding_window_view(tokens, context + 1)[::context].copy()
    cut = len(windows) * 9 // 10
    shown, hidden = windows[:cut], torch.from_numpy(windows[cut:].astype(np.int64))
    count = int(tokens.max()) + 1
    seldom = torch.from_numpy(np.bincount(shown[:, 1:].ravel(), minlength=count) <= rare)

    def training() -> Training:
        return Training(
            model=GPT(count, context, **size), loss=next_token, data=assay.Dataset("text", tokens=shown), batch=batch, steps=steps,
            optimizer=assay.AdamW(lr=4e-3, betas=(0.9, 0.95), weight_decay=0.1, clip=1.0), schedule=assay.Cosine(warmup=10),
        )  # fmt: skip

    def metrics(model: nn.Module) -> dict[str, float]:
        targets = hidden[:, 1:].flatten()
        losses = torch.cat([F.cross_entropy(model(w[:, :-1]).flatten(0, 1), w[:, 1:].flatten(), reduction="none") for w in hidden.split(32)])
        found = {"held-out loss": float(losses.mean())}
        return found | ({"held-out loss, rare words": float(losses[seldom[targets]].mean())} if rare else {})

    return Task(title, training, metrics)


def classes(
    title: str, model: Callable[[], nn.Module], x: NDArray[Any], y: NDArray[Any], batch: int, steps: int, lr: float, weight_decay: float
) -> Task:
    """A fifth of the records, drawn once, is held out."""
    order = np.random.default_rng(0).permutation(len(x))
    cut = len(x) * 4 // 5
    shown, hidden = order[:cut], order[cut:]
    data = assay.Dataset("records", x=x[shown].astype(np.float32), y=y[shown].astype(np.uint8))
    inputs, labels = torch.from_numpy(x[hidden].astype(np.float32)), torch.from_numpy(y[hidden].astype(np.int64))

    def training() -> Training:
        return Training(
            model=model(), loss=classify, data=data, batch=batch, steps=steps,
            optimizer=assay.AdamW(lr=lr, weight_decay=weight_decay, clip=1.0), schedule=assay.Cosine(warmup=10),
        )  # fmt: skip

    def metrics(model: nn.Module) -> dict[str, float]:
        logits = model(inputs)
        accuracy = float((logits.argmax(1) == labels).float().mean())
        return {"held-out loss": float(F.cross_entropy(logits, labels)), "held-out accuracy": accuracy}

    return Task(title, training, metrics)


def cnn() -> nn.Module:
    def block(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2))

    return nn.Sequential(block(1, 16), block(16, 32), nn.Flatten(), nn.Linear(128, 10))


def mlp(units: NDArray[Any] | None = None) -> nn.Module:
    first = nn.Linear(30, 64)
    if units is not None:
        first.weight.data /= torch.from_numpy(units).float()
    return nn.Sequential(first, nn.ReLU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 2))


def tasks(quick: bool) -> dict[str, Task]:
    """With `quick`, a tenth of the steps and of the text."""
    from sklearn.datasets import load_breast_cancer, load_digits

    text = assay.demo_text()[: 20_000 if quick else None]
    spelt = re.findall(r"[a-z']+|[^a-z'\s]", text.lower())
    images, digits = load_digits(return_X_y=True)
    table, malignant = load_breast_cancer(return_X_y=True)
    table = (table - table.mean(0)) / table.std(0)
    spread = np.abs(np.random.default_rng(1).normal(size=table.shape[1]))

    def steps(n: int) -> int:
        return max(n // 10, 2 * LAST) if quick else n

    def lognormal(sigma: int) -> Task:
        """Columns in units of their own, which the first layer's weights undo: float32 sees the standardised table."""
        units = np.exp(-sigma * spread)
        title = f"Hard: the table in units up to {float(f'{1 / units.min():.1g}'):,.0f} : 1 apart, undone by the first layer's initial weights"
        return classes(title, lambda: mlp(units), table * units, malignant, 32, steps(200), 3e-3, 0.1)

    return {
        "text": language("Text: Shakespeare by characters, GPT", numbers(list(text)), 64, 8, steps(400), 0, width=64, heads=4, layers=2),
        "images": classes(
            "Images: handwritten digits, CNN with BatchNorm", cnn, images.reshape(-1, 1, 8, 8) / 16, digits, 64, steps(200), 5e-3, 0.01
        ),
        "table": classes("Table: breast cancer, 30 standardised columns, MLP", mlp, table, malignant, 32, steps(200), 3e-3, 0.1),
        "words": language(
            "Hard: Shakespeare by words, an output for each, most of them rare", numbers(spelt), 32, 8, steps(300), 5, width=32, heads=2, layers=1
        ),
        "units3": lognormal(3),
        "units5": lognormal(5),
    }


def numbers(spelt: list[str]) -> NDArray[Any]:
    known = {token: i for i, token in enumerate(sorted(set(spelt)))}
    return np.array([known[token] for token in spelt], np.int32)


# ---- trainings ---------------------------------------------------------------------------------------------------------------


def torch_training(t: Training, batches: list[list[int]], bf16: bool) -> list[float]:
    """Trains t.model in eager PyTorch; losses before each update."""
    o = t.optimizer
    assert isinstance(o, assay.AdamW)
    assert o.clip is not None
    optimizer = torch.optim.AdamW(t.model.parameters(), lr=o.lr, betas=o.betas, eps=o.eps, weight_decay=o.weight_decay)
    losses = []
    for step, records in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = o.lr * t.schedule.factor(step, t.steps)
        given = {name: torch.from_numpy(a) for name, a in t.data.read(records).items()}
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = t.loss(t.model, {name: x if x.is_floating_point() else x.long() for name, x in given.items()})
        loss.backward()
        torch.nn.utils.clip_grad_norm_(t.model.parameters(), o.clip)
        optimizer.step()
        losses.append(loss.item())
    return losses


def exact_training(t: Training, traced: Traced, state: Arrays, batches: list[list[int]]) -> list[float]:
    """Trains t.model with the exact engine; losses before each update."""
    executor = Executor(traced.program, traced.schedule, 1)
    losses = []
    for step, records in enumerate(batches):
        acc = executor.micro(step, 0, state, executor.zero_acc(step, state), t.data.read(records))
        state = executor.update(step, state, acc)
        losses.append(float(acc["loss"]))
    load_weights(t.model, state)
    return losses


def train(task: Task, precision: str, seed: int, traced: Traced) -> dict[str, Any]:
    """{losses, metrics, cpu_s} of one training. The metrics are of the weights in float32 by PyTorch, whatever trained them."""
    torch.manual_seed(seed)
    t = task.training()
    batches = [record_indices(sha256(str(seed).encode()), len(t.data), step, 0, 1, t.batch) for step in range(t.steps)]
    start = {f"param.{n}": p for n, p in t.model.named_parameters()} | {f"buffer.{n}": p for n, p in t.model.named_buffers()}
    state = {name: start[name].detach().numpy().copy() if name in start else a for name, a in traced.state.items()}
    native = precision in ("fp32", "bf16")
    data = [hashlib.sha256(a.tobytes()).hexdigest() for a in t.data.arrays.values()]
    depends = [task.title, precision, torch.__version__ if native else "", traced.program.dump().hex(), state_root(0, state).hex()]
    digest = hashlib.sha256(repr((depends, data, batches, traced.schedule.tolist())).encode()).hexdigest()[:32]
    kept = KEPT / f"{digest}.json"
    if kept.exists():
        return dict(json.loads(kept.read_text()))
    before = time.process_time()
    losses = torch_training(t, batches, precision == "bf16") if native else exact_training(t, traced, state, batches)
    spent = time.process_time() - before
    t.model.eval()
    with torch.no_grad():
        metrics = task.metrics(t.model)
    done = {"losses": losses, "metrics": metrics, "cpu_s": spent}
    KEPT.mkdir(parents=True, exist_ok=True)
    partial = kept.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(done))
    partial.replace(kept)
    return done


def smooth(losses: NDArray[np.float64]) -> list[float]:
    """Means of POINTS pieces of a curve; the last axis counts steps, others are averaged."""
    mean = losses.reshape(-1, losses.shape[-1]).mean(0)
    return [round(float(piece.mean()), 6) for piece in np.array_split(mean, POINTS)]


def measure(task: Task, seeds: tuple[int, ...]) -> dict[str, Any]:
    """Precision -> its mean curve, and by seed its final loss and its metrics."""
    torch.manual_seed(0)
    t = task.training()
    traced = {letters: trace(replace(t, rotate="h" in letters, balance="s" in letters)) for letters in ("", "h", "s", "hs")}
    found: dict[str, Any] = {}
    for precision in PRECISIONS:
        treatment = precision.lstrip("bfp0123456789")
        bits = 14 if "f" in precision else int(precision.removesuffix(treatment))
        program = msgspec.structs.replace(traced[treatment].program, gemm_bits=bits)
        runs = [train(task, precision, seed, replace(traced[treatment], program=program)) for seed in seeds]
        losses = np.array([r["losses"] for r in runs])
        finals = {"training loss": [float(x) for x in losses[:, -LAST:].mean(1)]}
        finals |= {name: [r["metrics"][name] for r in runs] for name in runs[0]["metrics"]}
        found[precision] = {
            "curve": smooth(losses), "finals": {name: [round(x, 6) for x in values] for name, values in finals.items()},
            "cpu_s": round(float(np.mean([r["cpu_s"] for r in runs])), 2),
        }  # fmt: skip
        shown = ", ".join(f"{name} {np.mean(values):.4f}" for name, values in finals.items())
        print(f"  {precision:5} {shown}, {found[precision]['cpu_s']:.1f} s of CPU", flush=True)
    parameters = sum(p.numel() for p in t.model.parameters())
    return {"title": task.title, "steps": t.steps, "batch": t.batch, "parameters": parameters, "precisions": found}


# ---- where the output layer loses ----------------------------------------------------------------------------------------------


def output_layer(task: Task) -> dict[str, dict[str, float]]:
    """Error of the two gradients of the output layer after a training in float32 (seed 0), as a share of their size, by precision."""
    torch.manual_seed(0)
    t = task.training()
    *before, last = [record_indices(sha256(b"0"), len(t.data), step, 0, 1, t.batch) for step in range(t.steps)]
    torch_training(t, before, bf16=False)
    seen: Tensors = {}
    t.model.head.register_forward_hook(lambda _, given, logits: seen.update(x=given[0], logits=logits))
    loss = t.loss(t.model, {name: torch.from_numpy(a).long() for name, a in t.data.read(last).items()})
    (slope,) = torch.autograd.grad(loss, seen["logits"])
    g, x, w = (v.detach().flatten(0, -2).numpy() for v in (slope, seen["x"], t.model.head.weight))
    products = {"gradient of its inputs": (g, w), "gradient of its weights": (np.ascontiguousarray(g.T), x)}
    return {
        precision: {name: product_error(*pair, int(precision.rstrip("s")), "s" in precision) for name, pair in products.items()}
        for precision in ("8", "8s", "14", "14s", "15", "23")
    }


def product_error(a: NDArray[Any], c: NDArray[Any], bits: int, balance: bool) -> float:
    b = Builder()
    x, y = (b.input("batch", name, TensorType(dtype="f32", shape=v.shape)) for name, v in (("a", a), ("c", c)))
    part = treated(b.part([("acc", "y", b.emit("matmul", x, y))]), balance=balance, rotate=False)
    found = reference.evaluate(part, [a, c], bits)[part.outputs[0].value]
    exact = a.astype(np.float64) @ c.astype(np.float64)
    return float(f"{np.linalg.norm(found - exact) / np.linalg.norm(exact):.3g}")


def main() -> None:
    parser = argparse.ArgumentParser(description="quality of training for each precision")
    parser.add_argument("tasks", nargs="*", help="these only")
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps, one seed")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds = SEEDS[:1] if options.quick else SEEDS
    known = tasks(options.quick)
    results: dict[str, Any] = {"seeds": len(seeds), "torch": torch.__version__, "tasks": {}}
    for name in options.tasks or known:
        print(known[name].title, flush=True)
        results["tasks"][name] = measure(known[name], seeds)
    if "words" in results["tasks"]:
        results["output_layer"] = output_layer(known["words"])
        print(results["output_layer"], flush=True)
    if options.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
