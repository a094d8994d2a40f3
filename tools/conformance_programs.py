"""Traces the model families whose short trainings `assay doctor --conformance` repeats, and writes their programs.

python tools/conformance_programs.py [--into FOLDER] [FAMILY ...] && python -m assay.exact.trainings

Needs PyTorch; what runs them does not. A change of a program changes the committed state roots, which only the NumPy reference gives.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))

import conformance_models as models

import assay
from assay.exact.trainings import BATCH, CHANNELS, CONTEXT, FAMILIES, FEATURES, LARGE, LARGE_SIZES, LARGE_STEPS, PROGRAMS, SIDE, STEPS, TIMES
from assay.optim import Optimizer, Schedule
from assay.trace import trace


class Family(NamedTuple):
    """Between them: every optimiser, schedule and width of operands, with and without clipping, averages and accumulation."""

    model: Callable[[], nn.Module]
    loss: Callable[[nn.Module, dict[str, Tensor]], Tensor]
    optimizer: Optimizer
    schedule: Schedule
    micro_batches: int = 2
    gemm_bits: int = 14
    batch: int = BATCH
    steps: int = STEPS


def families() -> dict[str, Family]:
    rest = assay.AdamW(lr=1e-2, betas=(0.9, 0.99), weight_decay=0.02, decay="matrices")
    slow = assay.Averaged(assay.AdamW(lr=2e-2, betas=(0.9, 0.9), decay="matrices"), 0.9)
    return {
        "mlp": Family(models.Mlp, models.classify, assay.SGD(lr=0.1, momentum=0.9), assay.Cosine(warmup=5)),
        "gpt": Family(models.Gpt, models.predict, assay.AdamW(lr=1e-2, weight_decay=0.1, clip=1.0), assay.Cosine(warmup=5)),
        "batchnorm": Family(
            models.BatchNormCnn, models.classify, assay.SGD(lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3), assay.Linear(floor=0.1), 3
        ),
        "groupnorm": Family(models.GroupNormCnn, models.smoothed, assay.Lion(lr=3e-3, weight_decay=0.1), assay.Constant(warmup=8), 1),
        "lstm": Family(models.Reader, models.predict, assay.Adam(lr=3e-2, weight_decay=1e-5, clip=1.0), assay.Cosine(floor=0.2)),
        "gru": Family(models.Listener, models.classify, assay.Averaged(assay.SGD(lr=0.3, clip=2.0), 0.95), assay.Constant(), 1, 15),
        "vit": Family(models.Vit, models.classify, assay.Muon(lr=2e-2, others=rest, weight_decay=0.01, exclude=("head",)), assay.Cosine(warmup=3)),
        "bert": Family(models.Bert, models.fill_in, slow, assay.Linear(warmup=4, floor=0.2), 2, 23),
        "llama": Family(models.Llama, models.predict, assay.Muon(lr=3e-2, others=rest, nesterov=False, clip=1.0), assay.Linear(warmup=2), 2, 16),
        LARGE: Family(models.LargeGpt, models.predict, assay.AdamW(lr=1e-3, weight_decay=0.1, clip=1.0), assay.Constant(), 2, 14, 1, LARGE_STEPS),
    }


DATA = {
    models.predict: {"tokens": np.zeros((BATCH, CONTEXT + 1), np.int64)},
    models.fill_in: {"tokens": np.zeros((BATCH, CONTEXT + 1), np.int64)},
}
SHAPES = {"mlp": (FEATURES,), "gru": (TIMES, FEATURES)}


def dataset(name: str, family: Family) -> assay.Dataset:
    """Records of the shapes that the family reads: the traced program holds nothing else of them."""
    if name == LARGE:
        return assay.Dataset(name, tokens=np.zeros((family.batch, LARGE_SIZES[1] + 1), np.int64))
    arrays = DATA.get(family.loss) or {"x": np.zeros((BATCH, *SHAPES.get(name, (CHANNELS, SIDE, SIDE))), np.float32), "y": np.zeros(BATCH, np.int64)}
    return assay.Dataset(name, **arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description="traces the families of the conformance suite")
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="these only")
    parser.add_argument("--into", type=Path, default=PROGRAMS, metavar="FOLDER", help="where to write the programs and schedules")
    options = parser.parse_args()
    every = families()
    assert tuple(every) == (*FAMILIES, LARGE)
    options.into.mkdir(exist_ok=True)
    for name in options.families or every:
        family = every[name]
        training = assay.Training(
            model=family.model(), loss=family.loss, data=dataset(name, family), optimizer=family.optimizer, schedule=family.schedule,
            batch=family.batch, micro_batches=family.micro_batches, steps=family.steps, gemm_bits=family.gemm_bits, seed=77,
        )  # fmt: skip
        traced = trace(training)
        # The schedule goes with the program: torch has no part in it, but the C library's cosine does.
        schedule = traced.schedule.astype("<f4")
        data_bytes = zlib.compress(traced.program.dump(), 9)
        (options.into / f"{name}.program.z").write_bytes(data_bytes)
        (options.into / f"{name}.schedule").write_bytes(schedule.tobytes())
        print(name, len(data_bytes), "bytes,", len(traced.program.micro.nodes), "+", len(traced.program.update.nodes), "nodes", schedule.shape)


if __name__ == "__main__":
    main()
