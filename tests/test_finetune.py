"""Fine-tunes of transformers models: what is trained and what is not, what comes back and who can load it, texts and tables as data.

The models are small and random, saved as their library saves them. Skipped where `transformers` is missing, and what needs PEFT where that is.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec import UNSET
from torch import nn

import assay
from assay import finetune
from assay.adapters.memory_blobs import BlobNet, MemoryBlobs
from assay.adapters.memory_chain import MemoryChain, MemoryLedger
from assay.adapters.memory_keys import MemoryKeys
from assay.chain import Params
from assay.client import Plan, Service, Wish, publish, run_plan
from assay.codec import decode, digest, encode
from assay.ids import PeerId
from assay.job import Origin
from assay.optim import SettingError
from assay.state import from_bytes, weights
from assay.trace import trace
from assay.training import Training

transformers = pytest.importorskip("transformers", reason="needs the package transformers: pip install transformers")

SIZES: dict[str, Any] = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
LENGTH = 9


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> finetune.Base:
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    transformers.BertModel(transformers.BertConfig(**SIZES, max_position_embeddings=32)).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# A card\nlicense: another\n")
    return finetune.Base(folder, "tests/small-bert")


def classifier(base: finetune.Base, seed: int = 1) -> Any:
    torch.manual_seed(seed)
    return base.load(transformers.AutoModelForSequenceClassification, num_labels=3)


def data() -> assay.Dataset:
    rng = np.random.default_rng(0)
    mask = np.ones((24, LENGTH), np.uint8)
    mask[::2, 6:] = 0
    return assay.Dataset("lines", tokens=rng.integers(0, 40, (24, LENGTH)).astype(np.int32), mask=mask, label=rng.integers(0, 3, 24).astype(np.int32))


def tuned(base: finetune.Base, method: Any, seed: int = 1) -> Training:
    model = classifier(base, seed)
    origin = finetune.tune(model, method, base)
    return Training(
        model=model, loss=finetune.classification, data=data(), optimizer=assay.AdamW(lr=1e-2), batch=8, steps=3, origin=origin, name="tuned"
    )


def run(training: Training) -> dict[str, np.ndarray[Any, Any]]:
    traced = trace(training)
    name, held = training.name, training.data
    plan = Plan(name, traced.program, traced.schedule, traced.state, held.arrays, held.name, training.batch, traced.frozen)
    return run_plan(plan).state


def logits(model: nn.Module) -> torch.Tensor:
    held = data().arrays
    with torch.no_grad():
        made: torch.Tensor = model(input_ids=torch.from_numpy(held["tokens"]).long(), attention_mask=torch.from_numpy(held["mask"]).long()).logits
    return made


LORA = finetune.Lora(rank=4, alpha=8, targets=("query", "value"), dropout=0.25, save=("classifier",))


def test_the_origin_names_the_base_its_files_and_its_licence(base: finetune.Base) -> None:
    origin = tuned(base, LORA).origin
    assert origin is not None
    assert (origin.name, origin.licence, origin.method) == ("tests/small-bert", "apache-2.0", "lora")
    (digest,) = base.files.values()
    assert digest == hashlib.sha256((Path(base.folder) / "model.safetensors").read_bytes()).digest()
    assert origin.root == base.root != digest
    assert decode(encode(origin), Origin) == origin


def test_a_base_without_licence_or_safetensors_is_refused(tmp_path: Path, base: finetune.Base) -> None:
    with pytest.raises(SettingError, match="no folder"):
        finetune.Base(tmp_path / "nothing", "x")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(SettingError, match="safetensors"):
        finetune.Base(tmp_path, "x")
    (tmp_path / "model.safetensors").write_bytes((Path(base.folder) / "model.safetensors").read_bytes())
    with pytest.raises(SettingError, match="licence"):
        finetune.Base(tmp_path, "x")
    assert finetune.Base(tmp_path, "x", "mit").root == base.root


@pytest.mark.parametrize(
    ("method", "trained"),
    [
        (LORA, {"lora_A", "lora_B", "classifier"}),
        (finetune.BitFit(save=("classifier",)), {"bias", "classifier"}),
        (finetune.Head(save=("classifier",)), {"classifier"}),
        (finetune.Full(except_for=("embeddings",)), {"encoder", "pooler", "classifier"}),
    ],
)
def test_what_a_method_trains(base: finetune.Base, method: Any, trained: set[str]) -> None:
    names = [name for name, p in tuned(base, method).model.named_parameters() if p.requires_grad]
    assert names
    assert all(trained & set(name.split(".")) for name in names), names
    assert all(any(part in name.split(".") for name in names) for part in trained)
    frozen = {name for name, p in tuned(base, method).model.named_parameters() if not p.requires_grad}
    assert not any(trained - {"encoder"} & set(name.split(".")) for name in frozen if name.endswith("bias"))


def test_lora_starts_as_the_base(base: finetune.Base) -> None:
    plain, adapted = classifier(base), tuned(base, LORA).model.eval()
    assert torch.equal(logits(plain), logits(adapted))


@pytest.mark.parametrize("kind", ["plain", "rslora", "all-linear", "regex"])
def test_peft_loads_what_comes_back_and_says_the_same(base: finetune.Base, tmp_path: Path, kind: str) -> None:
    peft = pytest.importorskip("peft", reason="needs the package peft: pip install peft")
    methods = {
        "plain": LORA,
        "rslora": replace(LORA, rslora=True, rank=3),
        "all-linear": replace(LORA, targets="all-linear", dropout=0.0),
        "regex": replace(LORA, targets=r".*\.layer\.1\..*(query|intermediate\.dense)"),
    }
    training = tuned(base, methods[kind])
    state = run(training)
    assert state["param.classifier.weight"].any()
    finetune.write_tuned(tmp_path, training, state)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]

    missing = training.model.load_state_dict({n: torch.from_numpy(a) for n, a in weights(state).items()}, strict=False).unexpected_keys
    assert not missing
    theirs = peft.PeftModel.from_pretrained(classifier(base, seed=99), tmp_path).eval()  # its new head comes from the file
    assert torch.equal(logits(theirs), logits(training.model.eval()))
    assert not torch.allclose(logits(theirs), logits(classifier(base)), atol=1e-3)
    fresh = tuned(base, methods[kind], seed=99).model
    finetune.load(fresh, tmp_path)
    assert torch.equal(logits(fresh.eval()), logits(training.model.eval()))
    with pytest.raises(SettingError, match="not an adapter of this model"):
        finetune.load(tuned(base, replace(methods[kind], targets=("key",))).model, tmp_path)
    adapted = {name for name, module in training.model.named_modules() if type(module).__name__ == "LoraLinear"}
    assert adapted == {n.removeprefix("base_model.model.") for n, m in theirs.named_modules() if isinstance(m, peft.tuners.lora.LoraLayer)}


def test_the_config_has_the_names_that_peft_knows(base: finetune.Base) -> None:
    peft = pytest.importorskip("peft", reason="needs the package peft: pip install peft")
    origin = tuned(base, LORA).origin
    assert origin is not None
    settings = json.loads(origin.adapter)
    made = peft.LoraConfig(**settings)
    assert (made.r, made.lora_alpha, made.lora_dropout, made.task_type, made.target_modules) == (4, 8, 0.25, "SEQ_CLS", {"query", "value"})


@pytest.mark.parametrize("method", [finetune.BitFit(save=("classifier",)), finetune.Head(save=("classifier",)), finetune.Full()])
def test_the_other_methods_come_back_as_whole_models(base: finetune.Base, tmp_path: Path, method: Any) -> None:
    training = tuned(base, method)
    state = run(training)
    finetune.write_tuned(tmp_path, training, state)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(theirs.classifier.weight.detach(), torch.from_numpy(state["param.classifier.weight"]))
    assert torch.equal(logits(theirs.eval()), logits(training.model.eval()))
    assert json.loads((tmp_path / "origin.json").read_text())["root"] == base.root.hex()
    assert training.origin is not None
    with pytest.raises(ValueError, match="no adapter"):
        finetune.write_adapter(tmp_path, training.origin, {})


def test_the_layers_of_gpt2_have_adapters_too(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="needs the package peft: pip install peft")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=40, n_positions=16, n_embd=32, n_layer=1, n_head=2, use_cache=False)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    base = finetune.Base(tmp_path / "base", "tests/gpt2", "mit")
    model = base.load(transformers.AutoModelForCausalLM)
    origin = finetune.tune(model, finetune.Lora(rank=2, targets=("c_attn",)), base)
    windows = assay.Dataset("text", tokens=np.random.default_rng(0).integers(0, 40, (16, 13)).astype(np.int32))
    optimizer = assay.SGD(lr=0.5)
    training = Training(model=model, loss=finetune.language, data=windows, optimizer=optimizer, batch=4, steps=3, origin=origin)
    state = run(training)
    finetune.write_tuned(tmp_path / "out", training, state)
    theirs = peft.PeftModel.from_pretrained(base.load(transformers.AutoModelForCausalLM), tmp_path / "out").eval()
    tokens = torch.from_numpy(windows.arrays["tokens"]).long()
    model.load_state_dict({n: torch.from_numpy(a) for n, a in weights(state).items()}, strict=False)
    with torch.no_grad():
        assert torch.equal(theirs(tokens).logits, model.eval()(tokens).logits)


class Rows(transformers.PreTrainedModel):  # type: ignore[misc]
    """A classifier of rows of a table, saved and loaded as transformers does."""

    config_class = transformers.PretrainedConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.hidden, self.classifier = nn.Linear(4, 16), nn.Linear(16, 2)
        self.post_init()

    def forward(self, row: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.classifier(self.hidden(row).relu())
        return made


METHODS: dict[str, Any] = {
    "lora": finetune.Lora(rank=2, targets=("hidden",), save=("classifier",)), "bitfit": finetune.BitFit(), "full": finetune.Full(),
}  # fmt: skip


def of_rows(folder: Path, kind: str) -> tuple[finetune.Base, Training]:
    torch.manual_seed(0)
    Rows(transformers.PretrainedConfig()).save_pretrained(folder / "base")
    base = finetune.Base(folder / "base", "tests/rows", "mit")
    model = base.load(Rows)
    origin = finetune.tune(model, METHODS[kind], base)
    rng = np.random.default_rng(0)
    columns = {"age": list(rng.integers(20, 80, 24)), "pulse": list(rng.normal(size=24)), "kind": ["a", "b"] * 12}
    rows = finetune.Table(columns).dataset("rows", columns, [int(age > 50) for age in columns["age"]])
    optimizer = assay.AdamW(lr=1e-1)
    return base, Training(
        model=model, loss=finetune.classification, data=rows, optimizer=optimizer, batch=8, steps=6, origin=origin, name="rows"
    )


@pytest.mark.parametrize("kind", METHODS)
def test_a_model_of_a_table_is_tuned_and_loads(tmp_path: Path, kind: str) -> None:
    peft = pytest.importorskip("peft", reason="needs the package peft: pip install peft")
    base, training = of_rows(tmp_path, kind)
    model, rows = training.model, training.data
    before = finetune.accuracy(base.load(Rows), rows)
    state = run(training)
    finetune.write_tuned(tmp_path / "out", training, state)
    model.load_state_dict({n: torch.from_numpy(a) for n, a in weights(state).items()}, strict=False)
    theirs = peft.PeftModel.from_pretrained(base.load(Rows), tmp_path / "out") if kind == "lora" else Rows.from_pretrained(tmp_path / "out")
    row = torch.from_numpy(rows.arrays["row"])
    with torch.no_grad():
        assert torch.equal(theirs.eval()(row), model.eval()(row))
    assert finetune.accuracy(model, rows) > before


def test_the_job_names_the_base_its_root_and_its_licence(tmp_path: Path) -> None:
    base, training = of_rows(tmp_path, "lora")
    traced, held = trace(training), training.data
    plan = Plan("tuned", traced.program, traced.schedule, traced.state, held.arrays, held.name, training.batch, traced.frozen, training.origin)
    ledger = MemoryLedger(b"origin")
    chain, blobs = MemoryChain(ledger, "client"), MemoryBlobs(BlobNet(), PeerId("client"))
    keys = MemoryKeys(b"client", chain.account)
    service = Service(chain.account, PeerId("keys"), keys.encryption_key)
    wish = Wish(segment_steps=3, price_cap=1, fee=1, budget=100, deadline=1000, scheduler=chain.account, params=Params())
    spec, terms = asyncio.run(publish(plan, wish, service, chain, blobs, keys))
    assert spec.origin == training.origin
    assert spec.origin is not UNSET
    assert (spec.origin.root, spec.origin.licence) == (base.root, "mit")
    assert terms.spec_digest == digest(spec), "what is paid for names them"


def test_no_file_of_a_job_has_metadata_and_the_adapter_has(base: finetune.Base, tmp_path: Path) -> None:
    training = tuned(base, LORA)
    finetune.write_tuned(tmp_path, training, trace(training).state)
    with pytest.raises(ValueError, match="header"):
        from_bytes((tmp_path / "adapter_model.safetensors").read_bytes(), 1 << 20)


@pytest.mark.parametrize(
    ("method", "told"),
    [
        (finetune.Lora(targets=("quarry",)), "end in: .*query"),
        (finetune.Lora(targets=("LayerNorm",)), "is a LayerNorm"),
        (finetune.Lora(targets=("query",), save=("clasifier",)), "at its top are bert, dropout, classifier"),
        (finetune.Head(save=("score",)), "no module 'score'"),
    ],
)
def test_names_that_the_model_lacks_are_told(base: finetune.Base, method: Any, told: str) -> None:
    with pytest.raises(SettingError, match=told):
        finetune.tune(classifier(base), method, base)


def test_settings_that_make_no_sense_are_refused() -> None:
    for settings in ({"rank": 0}, {"rank": True}, {"alpha": 0}, {"dropout": 1.0}, {"save": "classifier"}):
        with pytest.raises(SettingError):
            finetune.Lora(**settings)  # type: ignore[arg-type]
    with pytest.raises(SettingError):
        finetune.Head(save=())


# ---- data ------------------------------------------------------------------------------------------------------------------


class Letters:
    """A tokenizer that is called as those of transformers are."""

    def __call__(self, lines: list[str], *, max_length: int, **_: Any) -> dict[str, np.ndarray[Any, Any]]:
        cut = [[ord(c) for c in line[:max_length]] for line in lines]
        pad = [[*line, *[0] * (max_length - len(line))] for line in cut]
        return {"input_ids": np.array(pad), "attention_mask": np.array([[1] * len(c) + [0] * (max_length - len(c)) for c in cut])}


def test_texts_are_cut_and_padded() -> None:
    made = finetune.texts("t", Letters(), ["abcdef", "x"], [1, 0], 4)
    assert made.arrays["tokens"].tolist() == [[97, 98, 99, 100], [120, 0, 0, 0]]
    assert made.arrays["mask"].tolist() == [[1, 1, 1, 1], [1, 0, 0, 0]]
    assert {name: a.dtype.name for name, a in made.arrays.items()} == {"tokens": "int32", "mask": "uint8", "label": "int32"}
    with pytest.raises(SettingError):
        finetune.texts("t", Letters(), ["a"], [1, 0], 4)


def test_a_table_is_numbers_and_applies_to_rows_it_has_not_seen() -> None:
    columns = {"age": [20, 40, None], "kind": ["a", "b", "a"], "same": [1, 1, 1]}
    table = finetune.Table(columns)
    made = table.encode(columns)
    assert made.dtype == np.float32
    assert made.tolist() == [[-1, 0, 1, 0], [1, 0, 0, 1], [0, 0, 1, 0]]
    assert table.encode({"age": [30], "kind": ["new"], "same": [2]}).tolist() == [[0, 1, 0, 0]]
    assert table.dataset("rows", columns, [0, 1, 0]).arrays["row"].shape == (3, table.width)
    for bad in ({}, {"a": [1], "b": [1, 2]}, {"a": [None]}):
        with pytest.raises(SettingError):
            finetune.Table(bad)
    with pytest.raises(SettingError, match="'kind'"):
        table.encode({"age": [1], "same": [1]})


def test_measures_by_hand() -> None:
    class Fixed(nn.Module):
        def forward(self, row: torch.Tensor) -> torch.Tensor:
            return row

    held = assay.Dataset("held", row=np.array([[2, 1], [0, 1], [0, 1], [3, 1]], np.float32), label=np.array([0, 1, 0, 1], np.int32))
    assert finetune.accuracy(Fixed(), held) == 0.5
    assert "accuracy 50.0%, F1 0.500 on 4 records" in finetune.measured(Fixed(), held)
