"""Losses for the datasets of assay.finetune.data, and what is measured on records that were held out. In ordinary PyTorch: the measures
here are for looking at a model; the claim that others can check is an assay.Evaluation with `judged` or `read`.

One of the few modules that import torch.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from assay.dataset import Dataset

AT_ONCE = 64
"""Records in one pass when a model is measured."""


def scores(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Logits [records, classes] of a transformers classifier, for `texts` and `images`; of any other model, for the `row` of a table."""
    if "row" in batch:
        made: Tensor = model(batch["row"])
        return made
    if "pixels" in batch:
        made = model(pixel_values=batch["pixels"]).logits
        return made
    made = model(input_ids=batch["tokens"], attention_mask=batch["mask"]).logits
    return made


def classification(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Mean cross entropy of `scores` and `label`."""
    return F.cross_entropy(scores(model, batch), batch["label"])


def judged(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """For an assay.Evaluation of a classifier: the sum of the losses, how often each label (rows) was taken for each class (columns), and in how
    many records the guess was right. Of classes with the same score the first counts."""
    made, label = scores(model, batch), batch["label"]
    best = (made == made.amax(1, keepdim=True)).long()
    guess = best * (best.cumsum(1) == 1)
    known = (label[:, None] == torch.arange(made.shape[1])[None, :]).long()
    counts = (known[:, :, None] * guess[:, None, :]).sum(0)
    return {"loss": F.cross_entropy(made, label, reduction="sum"), "confusion": counts, "right": (known * guess).sum()}


def read(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """For an assay.Evaluation of a causal language model: the sum over `windows` of each one's mean loss, so that the mean is of a token."""
    return {"loss": language(model, batch) * batch["tokens"].shape[0]}


def language(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Mean cross entropy of each next token of `windows`, by a causal language model of transformers."""
    logits = model(input_ids=batch["tokens"][:, :-1]).logits
    return F.cross_entropy(logits.flatten(0, 1), batch["tokens"][:, 1:].flatten())


def guesses(model: nn.Module, held: Dataset) -> NDArray[np.int64]:
    """The class of highest score for each record, by PyTorch. The model is left in eval mode."""
    model.eval()
    found = []
    for start in range(0, len(held), AT_ONCE):
        batch = {name: torch.from_numpy(a) for name, a in held.read(range(start, min(start + AT_ONCE, len(held)))).items()}
        with torch.no_grad():
            found.append(scores(model, {n: t if t.dtype == torch.float32 else t.long() for n, t in batch.items()}).argmax(1).numpy())
    return np.concatenate(found)


def accuracy(model: nn.Module, held: Dataset) -> float:
    """Share of records whose class of highest score is their label."""
    return float((guesses(model, held) == held.arrays["label"]).mean())


def measured(model: nn.Module, held: Dataset) -> str:
    """Accuracy and F1 (of class 1 where there are two classes, else their mean) in a line, for a training's `sample`."""
    found, label = guesses(model, held), held.arrays["label"]
    kinds = [1] if label.max() <= 1 else sorted(set(label.tolist()))
    f1 = []
    for kind in kinds:
        right = int(((found == kind) & (label == kind)).sum())
        f1.append(2 * right / max(1, int((found == kind).sum()) + int((label == kind).sum())))
    return f"accuracy {(found == label).mean():.1%}, F1 {np.mean(f1):.3f} on {len(label)} records that were held out"
