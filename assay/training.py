"""What a model developer writes: a file of ordinary PyTorch that ends in `training = assay.Training(...)`.

    import torch.nn.functional as F
    import assay

    text = assay.Dataset.from_text("hamlet", open("hamlet.txt").read(), context=64)
    model = MyModel(len(text.vocabulary))

    def loss(model, batch):                     # batch: a dict of tensors, one micro-batch of the dataset's records
        tokens = batch["tokens"]                # integers arrive as int64, [batch, 65]
        return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())

    training = assay.Training(model=model, loss=loss, data=text, optimizer=assay.AdamW(lr=3e-3, clip=1.0),
                              schedule=assay.Cosine(warmup=10), batch=16, micro_batches=2, steps=96)

The file runs once, on the developer's machine, to be traced (assay.trace); what leaves the machine is the program, never the file.
"""

from __future__ import annotations

import runpy
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay.dataset import Dataset
from assay.job import Origin
from assay.optim import SGD, Adam, AdamW, Averaged, Constant, Cosine, Linear, Lion, Muon, Optimizer, Schedule, SettingError
from assay.program import GEMM_BITS

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = [
    "SGD", "Adam", "AdamW", "Averaged", "Constant", "Cosine", "Dataset", "Evaluation", "Inference", "Linear", "Lion", "Muon", "SettingError",
    "Training", "TrainingError", "load_inference", "load_training",
]  # fmt: skip


class TrainingError(ValueError):
    """The training file cannot be used: its author's to mend. Says what to write instead."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """A whole training. Raises SettingError for settings of the wrong type or out of range."""

    model: nn.Module
    loss: Callable[[nn.Module, dict[str, Tensor]], Tensor]
    """(model, micro-batch) -> mean loss over its records, a float32 scalar."""
    data: Dataset
    optimizer: Optimizer
    batch: int
    """Records in one micro-batch."""
    steps: int
    schedule: Schedule = field(default_factory=Constant)
    micro_batches: int = 1
    """Micro-batches in a step; their gradients are averaged."""
    sample: Callable[[nn.Module], str] | None = None
    """Text that shows what the model can do, to be printed before and after; ordinary PyTorch on the model it is given."""
    name: str = ""
    """Of the job; `load_training` fills in the file's name."""
    origin: Origin | None = None
    """Of a fine-tune: what `assay.finetune.tune` gives, named in the job's document."""
    seed: int = 0
    """Of dropout: 64 bits; with it the program says which elements are dropped, at every step, on every machine."""
    gemm_bits: int = 14
    """b, the width of quantised matrix operands: 14 trains like float32 on ordinary tasks, 23 on all (docs/quality.md)."""
    rotate: bool = False
    """Operands of products are rotated first (assay.lower.products): makes 8 bits, then called 8h, last longer."""
    balance: bool = False
    """Operands of products are balanced first (same place): for thousands of rare classes, or values orders of magnitude apart."""

    def __post_init__(self) -> None:
        for name in ("batch", "steps", "micro_batches"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise SettingError(f"Training: {name} must be a whole number of at least 1, not {value!r}")
        for name, kinds in (("data", Dataset), ("optimizer", Optimizer), ("schedule", Constant)):
            if not isinstance(value := getattr(self, name), kinds):
                one_of = {"optimizer": "assay.AdamW, Adam, SGD, Lion, Muon or Averaged", "schedule": "assay.Constant, Linear or Cosine"}
                raise SettingError(f"Training: {name} must be an {one_of.get(name, 'assay.Dataset')}, not {type(value).__name__}")
        if not callable(self.loss) or not (self.sample is None or callable(self.sample)):
            raise SettingError("Training: loss is a function of (model, batch), sample one of (model)")
        if not (self.origin is None or isinstance(self.origin, Origin)):
            raise SettingError(f"Training: origin is what assay.finetune.tune gives, not {type(self.origin).__name__}")
        if not hasattr(self.model, "named_parameters"):
            raise SettingError(f"Training: model must be a torch.nn.Module, not {type(self.model).__name__}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not -(1 << 63) <= self.seed < 1 << 63:
            raise SettingError(f"Training: seed must be a whole number of 64 bits, not {self.seed!r}")
        if not isinstance(self.gemm_bits, int) or not GEMM_BITS[0] <= self.gemm_bits <= GEMM_BITS[1]:
            raise SettingError(f"Training: gemm_bits must be in {GEMM_BITS[0]}..{GEMM_BITS[1]}, not {self.gemm_bits!r}")
        for name in ("rotate", "balance"):
            if not isinstance(value := getattr(self, name), bool):
                raise SettingError(f"Training: {name} is True or False, not {value!r}")
        if len(self.data) < self.batch:
            raise SettingError(f"Training: the dataset has {len(self.data)} records, fewer than a batch of {self.batch}")

    def scalars(self, steps: int | None = None) -> dict[str, list[float]]:
        """The optimiser's scalars at each step, by name."""
        steps = steps or self.steps
        return self.optimizer.scalars([self.schedule.factor(t, steps) for t in range(steps)])


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a model scores on records that were held out, as a job of its own: each record is read once, and what is measured is committed,
    checked and disputed as a training's steps are (assay.forward). Raises SettingError."""

    model: nn.Module
    measure: Callable[[nn.Module, dict[str, Tensor]], Mapping[str, Tensor]]
    """(model, batch) -> sums over its records by name: int64 counts, float32 sums (assay.finetune.judged)."""
    data: Dataset
    batch: int
    """Records in a step; divides the number of records."""
    origin: Origin | None = None
    name: str = ""
    gemm_bits: int = 14
    sample: None = None

    def __post_init__(self) -> None:
        if not isinstance(self.data, Dataset) or not callable(self.measure) or not hasattr(self.model, "named_parameters"):
            raise SettingError("Evaluation: model is a torch.nn.Module, measure a function of (model, batch), data an assay.Dataset")
        if isinstance(self.batch, bool) or not isinstance(self.batch, int) or self.batch < 1 or len(self.data) % self.batch:
            raise SettingError(f"Evaluation: batch must divide the {len(self.data)} records, so that each counts once; {self.batch!r} does not")
        if not isinstance(self.gemm_bits, int) or not GEMM_BITS[0] <= self.gemm_bits <= GEMM_BITS[1]:
            raise SettingError(f"Evaluation: gemm_bits must be in {GEMM_BITS[0]}..{GEMM_BITS[1]}, not {self.gemm_bits!r}")


@dataclass(frozen=True, kw_only=True)
class Inference:
    """A model to be asked, with a receipt for its answers (`assay infer`). Raises SettingError."""

    model: nn.Module
    outputs: Callable[[nn.Module, dict[str, Tensor]], Mapping[str, Tensor]]
    """(model, batch) -> what it puts out, by name."""
    encode: Callable[[str], Mapping[str, Any]]
    """A text -> arrays `[records, ...]` by name, as a dataset holds them."""
    decode: Callable[[Mapping[str, Any]], str] | None = None
    """What was put out -> a text for people."""
    origin: Origin | None = None
    name: str = ""
    gemm_bits: int = 14

    def __post_init__(self) -> None:
        if not hasattr(self.model, "named_parameters") or not callable(self.outputs) or not callable(self.encode):
            raise SettingError("Inference: model is a torch.nn.Module, outputs a function of (model, batch), encode one of a text")


def load_training(path: Path | str, seed: int = 0) -> Training | Evaluation:
    """Runs a training file with torch's generator seeded and gives its `training`, which may be an evaluation. Raises TrainingError.

    The seed makes two runs on one machine start from the same weights; a job carries its initial state, so nobody else needs it.
    """
    training = _run(Path(path), seed, "training", "assay.Training(model=..., loss=..., data=..., ...)")
    if not isinstance(training, Training | Evaluation):
        raise TrainingError(f"{path}: `training` is a {type(training).__name__}, not an assay.Training")
    return training if training.name else replace(training, name=Path(path).stem)


def load_inference(path: Path | str, seed: int = 0) -> Inference:
    """Runs a file as `load_training` does and gives its `inference`. Raises TrainingError."""
    inference = _run(Path(path), seed, "inference", "assay.Inference(model=..., outputs=..., encode=...)")
    if not isinstance(inference, Inference):
        raise TrainingError(f"{path}: `inference` is a {type(inference).__name__}, not an assay.Inference")
    return inference if inference.name else replace(inference, name=Path(path).stem)


def _run(path: Path, seed: int, name: str, example: str) -> Any:
    """What a file calls `name` in the end."""
    if not path.is_file():
        raise TrainingError(f"there is no file {path}: name a Python file that ends in `{name} = {example}`")
    try:
        import torch
    except ImportError:
        raise TrainingError("tracing a model needs PyTorch: pip install 'assay[train]'") from None
    torch.manual_seed(seed)
    here = str(path.resolve().parent)
    sys.path.insert(0, here)
    try:
        names: dict[str, Any] = runpy.run_path(str(path))
    except SettingError as error:
        raise TrainingError(f"{path}, line {_line(error, path)}: {error}") from error
    except SyntaxError as error:
        raise TrainingError(f"{error.filename}, line {error.lineno}: {error.msg}") from error
    except Exception as error:
        raise TrainingError(f"{path}, line {_line(error, path)}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(here)
    if name not in names:
        raise TrainingError(f"{path} has no `{name}`: end it in `{name} = {example}`")
    return names[name]


def _line(error: BaseException, path: Path) -> int | str:
    """The last line of the file that the error went through."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return next((n for n in reversed(lines) if n is not None), "?")
