"""What a fine-tune gives back, as the libraries of its model write it.

    LoRA          adapter_config.json and adapter_model.safetensors: `PeftModel.from_pretrained(model, folder)` of PEFT
    the others    a whole model: `Class.from_pretrained(folder)` of transformers

PEFT's names are ours with `base_model.model.` before them, because the adapted layers have the names that PEFT gives (assay.finetune.methods).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay.job import Origin
from assay.state import Array, to_bytes, weights

if TYPE_CHECKING:
    from assay.training import Training

PREFIX = "base_model.model."


def write_adapter(folder: Path, origin: Origin, tensors: Mapping[str, Array]) -> None:
    """PEFT's two files, from the weights under their names in the model (assay.state.weights). Raises ValueError without an adapter."""
    if not origin.adapter:
        raise ValueError(f"a fine-tune of the kind {origin.method!r} has no adapter: its weights are those of a whole model")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(origin.adapter)
    (folder / "adapter_model.safetensors").write_bytes(to_bytes({PREFIX + name: array for name, array in tensors.items()}, {"format": "pt"}))


def write_tuned(folder: Path, training: Training, state: Mapping[str, Array]) -> None:
    """Of any method, from a state of the training (entries `param.…`, `buffer.…`), whose model is left with it."""
    from assay.trace import load_weights

    assert training.origin is not None
    if training.origin.adapter:
        return write_adapter(folder, training.origin, weights(state))
    load_weights(training.model, state)
    model: Any = training.model
    model.save_pretrained(folder)
    note = {"base": training.origin.name, "licence": training.origin.licence, "root": training.origin.root.hex(), "method": training.origin.method}
    (folder / "origin.json").write_text(json.dumps(note, indent=2) + "\n")
