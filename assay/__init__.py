"""Assay: model training that is proven, not trusted.

What a training file needs is here by name: `assay.Training`, `assay.Dataset`, the optimisers and the schedules, each loaded when
it is first asked for, so that `import assay` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from assay.dataset import demo_text as demo_text
    from assay.training import SGD as SGD
    from assay.training import Adam as Adam
    from assay.training import AdamW as AdamW
    from assay.training import Averaged as Averaged
    from assay.training import Constant as Constant
    from assay.training import Cosine as Cosine
    from assay.training import Dataset as Dataset
    from assay.training import Evaluation as Evaluation
    from assay.training import Inference as Inference
    from assay.training import Linear as Linear
    from assay.training import Lion as Lion
    from assay.training import Muon as Muon
    from assay.training import Training as Training

_HOMES = {"demo_text": "assay.dataset"} | dict.fromkeys(
    ("SGD", "Adam", "AdamW", "Averaged", "Constant", "Cosine", "Dataset", "Evaluation", "Inference", "Linear", "Lion", "Muon", "Training"),
    "assay.training",
)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"assay has no {name!r}; it has {', '.join(sorted(_HOMES))}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
