"""Fine-tunes of models that exist: ordinary `transformers` classes with their real weights, tuned and given back under the names that
their own libraries load.

    base = finetune.Base(FOLDER, "sentence-transformers/all-MiniLM-L6-v2")          # safetensors, hashed; licence from its model card
    model = base.load(AutoModelForSequenceClassification, num_labels=2)
    origin = finetune.tune(model, finetune.Lora(rank=8, targets=("query", "value"), save=("classifier",)), base)
    training = assay.Training(model=model, loss=finetune.classification, data=finetune.texts("reviews", tokenizer, texts, labels, 48),
                              origin=origin, optimizer=assay.AdamW(lr=1e-3), batch=16, steps=100)

methods   LoRA, biases alone (BitFit), the head alone, everything: what is trained, what is frozen
base      the files that the weights come from, their root and licence
data      tokenised texts, images and tables as datasets, losses and metrics for them
files     what comes back, as PEFT and transformers write it
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from assay.finetune.base import Base as Base
    from assay.finetune.data import Table as Table
    from assay.finetune.data import images as images
    from assay.finetune.data import texts as texts
    from assay.finetune.data import windows as windows
    from assay.finetune.files import write_adapter as write_adapter
    from assay.finetune.files import write_tuned as write_tuned
    from assay.finetune.losses import accuracy as accuracy
    from assay.finetune.losses import classification as classification
    from assay.finetune.losses import judged as judged
    from assay.finetune.losses import language as language
    from assay.finetune.losses import measured as measured
    from assay.finetune.losses import read as read
    from assay.finetune.methods import BitFit as BitFit
    from assay.finetune.methods import Full as Full
    from assay.finetune.methods import Head as Head
    from assay.finetune.methods import Lora as Lora
    from assay.finetune.methods import load as load
    from assay.finetune.methods import tune as tune

_HOMES = {
    "base": ("Base",),
    "data": ("Table", "images", "texts", "windows"),
    "files": ("write_adapter", "write_tuned"),
    "losses": ("accuracy", "classification", "judged", "language", "measured", "read"),
    "methods": ("BitFit", "Full", "Head", "Lora", "load", "tune"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"assay.finetune has no {name!r}; it has {', '.join(sorted(_HOME))}")
    return getattr(importlib.import_module(f"assay.finetune.{_HOME[name]}"), name)
