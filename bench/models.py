# The trainings that bench/step.py and bench/memory.py measure, each a path of an example or a larger model of the same family on data
# from a seeded generator. This file measures nothing.
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import assay
from assay.training import Training, load_training

EXAMPLES = Path(__file__).parent.parent / "examples"


def _loss(model: Any, batch: Any) -> Any:
    return F.cross_entropy(model(batch["x"]), batch["y"])


def _training(model: nn.Module, x: np.ndarray[Any, Any], classes: int, batch: int) -> Training:
    y = np.random.default_rng(1).integers(0, classes, len(x)).astype("uint8")
    return assay.Training(
        model=model, loss=_loss, data=assay.Dataset("noise", x=x, y=y), optimizer=assay.AdamW(lr=1e-3, clip=1.0),
        schedule=assay.Constant(), batch=batch, steps=4,
    )  # fmt: skip


def _block(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2))


def cnn_32() -> Training:
    """0.1 million parameters, 32 images of 3 x 32 x 32."""
    torch.manual_seed(0)
    model = nn.Sequential(_block(3, 32), _block(32, 64), _block(64, 128), nn.Flatten(), nn.Linear(2048, 10))
    return _training(model, np.random.default_rng(0).standard_normal((128, 3, 32, 32), np.float32), 10, 32)


def mlp_784() -> Training:
    """1.9 million parameters, 128 rows of 784."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.GELU(), nn.Linear(1024, 10))
    return _training(model, np.random.default_rng(0).standard_normal((512, 784), np.float32), 10, 128)


MODELS: dict[str, Callable[[], Training]] = {
    "gpt": lambda: load_training(EXAMPLES / "shakespeare.py"),
    "cnn": lambda: load_training(EXAMPLES / "cnn.py"),
    "mlp": lambda: load_training(EXAMPLES / "digits.py"),
    "cnn-32": cnn_32,
    "mlp-784": mlp_784,
}
SMALL = ("gpt", "cnn", "mlp")
