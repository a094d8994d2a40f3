"""What is trained of a model, and what is frozen: LoRA, biases alone, the head alone, everything.

LoRA (Hu et al., arXiv:2106.09685; rank-stabilised: Kalajdzievski, arXiv:2312.03732) adds s · B A dropout(x) to a linear layer, A [rank, in]
as nn.Linear draws it, B [out, rank] zeros, s = alpha / rank, or alpha / sqrt(rank) for rsLoRA. Modules and parameters have PEFT's names, so
that a state's entries are those of its files (assay.finetune.files). BitFit (Ben Zaken et al., arXiv:2106.10199) trains biases.

One of the few modules that import torch.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from assay.finetune.base import Base
from assay.finetune.files import PREFIX
from assay.job import Origin
from assay.optim import SettingError

_TASKS = (
    ("ForSequenceClassification", "SEQ_CLS"), ("ForTokenClassification", "TOKEN_CLS"), ("ForQuestionAnswering", "QUESTION_ANS"),
    ("ForCausalLM", "CAUSAL_LM"), ("LMHeadModel", "CAUSAL_LM"), ("ForConditionalGeneration", "SEQ_2_SEQ_LM"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Head:
    """Trains the modules named in `save` and nothing else."""

    save: Sequence[str]

    def __post_init__(self) -> None:
        _check_names("Head", "save", self.save)
        if not self.save:
            raise SettingError('Head: save names the modules that are trained, for instance save=("classifier",)')


@dataclass(frozen=True, kw_only=True)
class BitFit:
    """Trains every bias, and the modules named in `save`."""

    save: Sequence[str] = ()

    def __post_init__(self) -> None:
        _check_names("BitFit", "save", self.save)


@dataclass(frozen=True, kw_only=True)
class Full:
    """Trains every parameter; `except_for` names modules that stay frozen (embeddings, or what the loss does not use)."""

    except_for: Sequence[str] = ()

    def __post_init__(self) -> None:
        _check_names("Full", "except_for", self.except_for)


@dataclass(frozen=True, kw_only=True)
class Lora:
    """`targets`: names of linear layers, or endings of them after a dot; a text is a regular expression for whole names; "all-linear" is
    every linear layer outside `save` and the output layer. `save` names modules that are trained whole (a new head)."""

    rank: int = 8
    alpha: float = 16.0
    targets: Sequence[str] | str = "all-linear"
    dropout: float = 0.0
    rslora: bool = False
    save: Sequence[str] = ()

    def __post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise SettingError(f"Lora: rank must be a whole number of at least 1, not {self.rank!r}")
        if not self.alpha > 0 or not 0 <= self.dropout < 1:
            raise SettingError(f"Lora: alpha must be over 0 and dropout in [0, 1), not {self.alpha!r} and {self.dropout!r}")
        _check_names("Lora", "save", self.save)
        if not isinstance(self.targets, str):
            _check_names("Lora", "targets", self.targets)

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


Method = Lora | BitFit | Head | Full
_METHODS: dict[type, Literal["lora", "bitfit", "head", "full"]] = {Lora: "lora", BitFit: "bitfit", Head: "head", Full: "full"}


class LoraLinear(nn.Module):
    """A frozen linear layer (nn.Linear, or the Conv1D of GPT-2, which is one with its weight transposed) beside the two thin ones."""

    def __init__(self, base_layer: nn.Module, lora: Lora) -> None:
        super().__init__()
        weight = base_layer.weight
        assert isinstance(weight, nn.Parameter)
        out, inner = weight.shape if isinstance(base_layer, nn.Linear) else weight.shape[::-1]
        self.base_layer, self.scale = base_layer, lora.scale
        self.lora_dropout = nn.Dropout(lora.dropout) if lora.dropout else nn.Identity()
        self.lora_A, self.lora_B = nn.Linear(inner, lora.rank, bias=False), nn.Linear(lora.rank, out, bias=False)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.base_layer(x) + self.lora_B(self.lora_A(self.lora_dropout(x))) * self.scale
        return made


def tune(model: nn.Module, method: Method, base: Base) -> Origin:
    """Freezes and adapts `model` in place, and gives what the job's document says of it. The mode of its modules stays as it is: a base
    from Base.load drops nothing, LoRA's own dropout does. Raises SettingError for names that the model does not have."""
    for parameter in model.parameters():
        parameter.requires_grad_(isinstance(method, Full))
    saved = method.except_for if isinstance(method, Full) else method.save
    for name in _named(model, saved, "except_for" if isinstance(method, Full) else "save"):
        model.get_submodule(name).requires_grad_(not isinstance(method, Full))
    adapter = ""
    if isinstance(method, BitFit):
        for name, parameter in model.named_parameters():
            if name.rsplit(".", 1)[-1] == "bias":
                parameter.requires_grad_(True)
    if isinstance(method, Lora):
        targets = _targets(model, method)
        transposed = [not isinstance(model.get_submodule(name), nn.Linear) for name in targets]
        if len(set(transposed)) > 1:
            raise SettingError("Lora: targets are of nn.Linear and of Conv1D at once; one adapter holds one kind")
        for name in targets:
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, LoraLinear(model.get_submodule(name), method))
        adapter = _config(model, method, base, transposed[0])
    return Origin(name=base.name, licence=base.licence, root=base.root, method=_METHODS[type(method)], adapter=adapter)


def load(model: nn.Module, folder: Path | str) -> None:
    """Puts the weights of an adapter's folder (assay.finetune.files) into a model that `tune` has adapted in the same way. Raises SettingError."""
    from safetensors.torch import load_file

    found = {name.removeprefix(PREFIX): tensor for name, tensor in load_file(Path(folder) / "adapter_model.safetensors").items()}
    wanted = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if found.keys() != wanted:
        odd = sorted(found.keys() ^ wanted)
        raise SettingError(f"{folder} is not an adapter of this model: {odd[0]} is {'not there' if odd[0] in wanted else 'not trained here'}")
    model.load_state_dict(found, strict=False)


def _config(model: nn.Module, lora: Lora, base: Base, transposed: bool) -> str:
    """Text of PEFT's adapter_config.json."""
    kind = type(model).__name__
    task = next((task for ending, task in _TASKS if kind.endswith(ending)), None)
    whole = float(lora.alpha)
    settings: dict[str, Any] = {
        "auto_mapping": None if task else {"base_model_class": kind, "parent_library": type(model).__module__},
        "base_model_name_or_path": base.name,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": int(whole) if whole.is_integer() else whole,
        "lora_dropout": lora.dropout,
        "modules_to_save": list(lora.save) or None,
        "peft_type": "LORA",
        "r": lora.rank,
        "target_modules": lora.targets if isinstance(lora.targets, str) and lora.targets != "all-linear" else _listed(model, lora),
        "task_type": task,
        "use_rslora": lora.rslora,
    }
    return json.dumps(settings, indent=2, sort_keys=True) + "\n"


def _listed(model: nn.Module, lora: Lora) -> list[str]:
    if not isinstance(lora.targets, str):
        return list(lora.targets)
    return [name for name, module in model.named_modules() if isinstance(module, LoraLinear)]


# ---- names -----------------------------------------------------------------------------------------------------------------


def _check_names(kind: str, field: str, names: Any) -> None:
    if isinstance(names, str) or not all(isinstance(name, str) and name for name in names):
        raise SettingError(f'{kind}: {field} is a list of names of modules, for instance ("classifier",), not {names!r}')


def _ends(name: str, wanted: str) -> bool:
    return name == wanted or name.endswith("." + wanted)


def _named(model: nn.Module, wanted: Sequence[str], field: str) -> Iterator[str]:
    """Full names of modules. Raises SettingError."""
    names = [name for name, _ in model.named_modules()]
    for each in wanted:
        found = [name for name in names if _ends(name, each)]
        if not found:
            top = ", ".join(name for name, _ in model.named_children())
            raise SettingError(f"{field}: the model has no module {each!r}; at its top are {top}")
        yield from found


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _targets(model: nn.Module, lora: Lora) -> list[str]:
    """Full names of the layers that get matrices beside them. Raises SettingError."""
    saved = tuple(_named(model, lora.save, "save"))
    linear = {name for name, m in model.named_modules() if _is_linear(m) and not any(name == s or name.startswith(s + ".") for s in saved)}
    if isinstance(lora.targets, str) and lora.targets == "all-linear":
        last = getattr(model, "get_output_embeddings", lambda: None)()
        found = [name for name, module in model.named_modules() if name in linear and module is not last]
    else:
        named = [name for name, _ in model.named_modules() if name and _wanted(name, lora.targets)]
        if odd := [name for name in named if name not in linear]:
            raise SettingError(f"Lora: {odd[0]} is a {type(model.get_submodule(odd[0])).__name__}; adapters go beside linear layers outside `save`")
        found = named
    if not found:
        there = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in linear})) or "none"
        raise SettingError(f"Lora: no layer is named by targets={lora.targets!r}; the model's linear layers end in: {there}")
    return found


def _wanted(name: str, targets: Sequence[str] | str) -> bool:
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(_ends(name, target) for target in targets)
