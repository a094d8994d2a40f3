"""Frozen parameters: named by the program's root, out of the state, the same in every step; LoRA written as ordinary modules.

The reference of tracing is torch, as in tests/test_trace.py.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from typer.testing import CliRunner

import assay
from assay import codec
from assay.build import Builder
from assay.chain import Params
from assay.cli.app import app
from assay.cli.jobs import plan_of as plan_of_file
from assay.client import Plan, estimate, run_plan, weights
from assay.exact.memory import needed
from assay.exact.table import TensorType
from assay.execute import Executor
from assay.job import JobSpec, SealedRef
from assay.merkle import root_of, sha256
from assay.optim import AdamW, update_part
from assay.program import MAX_NODES, Input, Part, Program, ProgramError
from assay.stages import KINDS, Undecodable, decode_input, encode_part, encode_type, program_root
from assay.state import BadTensors, Tensors, from_bytes, frozen_root, tensor_root
from assay.trace import Traced, trace
from assay.training import Training, TrainingError
from tests.test_program import PROGRAM as WITHOUT
from tests.test_trace import GPT, next_token
from tests.tracing import agree, classify, mlp, one_thread, points, tokens, training

__all__ = ["one_thread"]

SCALAR = TensorType(dtype="f32", shape=())
GAIN = {"param.gain": np.array([1, 2, 4], np.float32)}


def f32(*shape: int) -> TensorType:
    return TensorType(dtype="f32", shape=shape)


def build() -> Program:
    """w · gain to be near the batch's mean: one tensor that is trained, one that is frozen."""
    b = Builder()
    w, x = b.input("state", "param.w", f32(3)), b.input("batch", "x", f32(4, 3))
    offset = b.sub(b.mul(w, b.input("frozen", "param.gain", f32(3))), b.scale(b.sum(x, (0,), False), 1 / 4))
    loss = b.sum(b.mul(offset, offset), (0,), False)
    micro = b.part([("acc", "loss", b.add(b.input("acc", "loss", SCALAR), loss)), ("acc", "grad.w", b.add(b.input("acc", "grad.w", f32(3)), offset))])
    return Program(
        gemm_bits=14, micro_batches=1, constants=(), frozen_root=frozen_root(GAIN), micro=micro, update=update_part(AdamW(lr=0.1), {"w": f32(3)}, 1)
    )


PROGRAM = build()
TEXT = PROGRAM.dump()


def text_of(change: Callable[[dict[str, Any]], None]) -> bytes:
    data = json.loads(TEXT)
    change(data)
    return codec.encode(data)


def frozen_input(data: dict[str, Any]) -> dict[str, Any]:
    return next(i for i in data["micro"]["inputs"] if i["kind"] == "frozen")


# ---- the program ---------------------------------------------------------------------------------------------------------


def test_a_program_without_frozen_tensors_has_the_text_and_root_that_it_had() -> None:
    assert b"frozen" not in WITHOUT.dump()
    assert program_root(WITHOUT).hex() == "4c83998b35d9dc50eaa82f01454cc89798a6cb02b32ee07e716a572631efd1fe"
    assert WITHOUT.frozen == {}


def test_the_root_of_frozen_tensors_is_as_the_protocol_says() -> None:
    both = {"param.b": np.arange(3, dtype=np.int64), "param.a": np.ones((2, 2), np.float32)}
    entries = [len(name).to_bytes(2, "big") + name.encode() + tensor_root(both[name]) for name in sorted(both)]
    assert frozen_root(both) == sha256(b"\x18" + (2).to_bytes(4, "big"), root_of(entries))


def test_the_record_of_a_frozen_input_holds_their_number_and_root() -> None:
    (record,) = (data for data in encode_part(PROGRAM, "micro").inputs if data[0] == KINDS["frozen"])
    number, root = (1).to_bytes(4, "big"), frozen_root(GAIN)
    assert record == b"\x06" + bytes(4) + encode_type(f32(3)) + (10).to_bytes(2, "big") + b"param.gain" + number + root
    assert decode_input(record) == (6, 0, f32(3), "param.gain", number + root)
    for bad in (record[:-1], record + b"\0", b"\x07" + record[1:]):
        with pytest.raises(Undecodable):
            decode_input(bad)


def test_the_programs_root_binds_names_types_and_values() -> None:
    loaded = Program.load(TEXT)
    assert (loaded, loaded.dump()) == (PROGRAM, TEXT)
    assert loaded.frozen == {"param.gain": f32(3)}
    assert "param.gain" not in loaded.state
    roots = {program_root(PROGRAM)}
    for change in (
        lambda d: frozen_input(d).update(name="param.other"),
        lambda d: d.update(frozen_root="A" * 43 + "="),
        lambda d: frozen_input(d).update(type={"dtype": "f32", "shape": [1]}),
    ):
        roots.add(program_root(Program.load(text_of(change))))
    assert len(roots) == 4


LIES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "no root": (lambda d: d.pop("frozen_root"), r"frozen tensors are read \('param.gain'\), but the program does not name their root"),
    "null": (lambda d: d.update(frozen_root=None), "refused"),
    "short root": (lambda d: d.update(frozen_root="AAAA"), "the root of the frozen tensors has 3 bytes, not 32"),
    "empty root": (lambda d: d.update(frozen_root=""), "has 0 bytes"),
    "of the state, too": (lambda d: frozen_input(d).update(name="param.w"), "'param.w' is frozen and an entry of the state, too"),
    "twice": (lambda d: d["micro"]["inputs"].append(frozen_input(d)), "occurs twice"),
    "put out": (lambda d: d["update"]["outputs"][0].update(kind="frozen"), "refused"),
    "huge": (lambda d: frozen_input(d)["type"].update(shape=[1 << 40]), "dimension"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_about_frozen_tensors_is_refused_by_name(lie: str) -> None:
    change, message = LIES[lie]
    with pytest.raises(ProgramError, match=message):
        Program.load(text_of(change))


def test_a_root_of_frozen_tensors_that_nobody_reads_is_refused() -> None:
    data = json.loads(WITHOUT.dump())
    data["frozen_root"] = json.loads(TEXT)["frozen_root"]
    with pytest.raises(ProgramError, match="a root of frozen tensors is named, but none are read"):
        Program.load(codec.encode(data))


def reading(*inputs: Input) -> Program:
    """The program with an update that reads these and does nothing."""
    return Program(
        gemm_bits=14, micro_batches=1, constants=(), frozen_root=PROGRAM.frozen_root, micro=PROGRAM.micro,
        update=Part(inputs=inputs, nodes=(), outputs=()),
    )  # fmt: skip


def test_a_frozen_tensor_has_one_type_in_both_parts() -> None:
    Program.load(reading(Input(kind="frozen", name="param.gain", type=f32(3))).dump())
    with pytest.raises(ProgramError, match=r"frozen 'param.gain' is f32\[3\] in one place and f32\[2\] in another"):
        Program.load(reading(Input(kind="frozen", name="param.gain", type=f32(2))).dump())


def test_frozen_tensors_are_bounded_in_number_and_count_as_memory() -> None:
    many = reading(*(Input(kind="frozen", name=f"param.{i}", type=f32(1)) for i in range(MAX_NODES + 1)))
    with pytest.raises(ProgramError, match=f"update has more than {MAX_NODES} nodes or inputs"):
        Program.load(many.dump())
    large = reading(Input(kind="frozen", name="param.large", type=f32(1 << 10, 1 << 10)))
    assert 4 << 20 < needed(large) < 5 << 20  # it is there while the other part runs


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(TEXT) - 1), st.binary(min_size=0, max_size=6), st.integers(0, 6))
def test_mutated_bytes_never_do_more_than_be_refused(at: int, new: bytes, removed: int) -> None:
    text = TEXT[:at] + new + TEXT[at + removed :]
    try:
        program = Program.load(text)
    except ProgramError:
        return
    assert program.dump() == text


ODD = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=60), st.binary(max_size=40), st.lists(st.none()))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["frozen_root", "kind", "name", "type"]), ODD)
def test_odd_values_where_frozen_tensors_are_named_never_do_more_than_be_refused(place: str, odd: Any) -> None:
    try:
        text = text_of(lambda d: (d if place == "frozen_root" else frozen_input(d)).update({place: odd}))
    except (ValueError, OverflowError):
        return
    try:
        program = Program.load(text)
    except ProgramError:
        return
    assert program.dump() == text


def test_a_document_without_frozen_tensors_has_the_form_that_it_had() -> None:
    assert b"frozen" not in codec.encode(document())
    ref = SealedRef(cid="bafy", size=1, key_id=bytes(32), envelope=b"e")  # type: ignore[arg-type]
    one = document(frozen=ref)
    assert (one.frozen_blobs, one.shared_blobs) == ((ref,), (ref,))
    assert codec.decode(codec.encode(one), JobSpec) == one
    with pytest.raises(codec.Malformed):
        codec.decode(codec.encode(json.loads(codec.encode(document())) | {"frozen": None}), JobSpec)


def document(**more: Any) -> JobSpec:
    none = bytes(32)
    fields = {
        "name": "", "program": "c", "program_root": none, "schedule": "c", "schedule_root": none, "scalars": (), "state_root": none, "order": none,
        "state": {"type": "SealedRef", "cid": "c", "size": 1, "key_id": "", "envelope": ""}, "steps": 1, "micro_batches": 1, "batch": 1,
        "dataset": {"type": "DatasetRef", "name": "", "fields": [], "shards": []}, "segment_steps": 1, "key_service": "k", "key_service_peer": "p",
        "key_service_key": b"", "format": "assay-job/1", "type": "JobSpec",
    }  # fmt: skip
    return codec.decode(codec.encode(fields | more), JobSpec)


# ---- running -------------------------------------------------------------------------------------------------------------


def test_an_executor_takes_the_frozen_tensors_that_the_program_names_and_no_others() -> None:
    schedule = np.ones((2, len(PROGRAM.scalars)), np.float32)
    Executor(PROGRAM, schedule, 1, frozen=GAIN)
    for wrong, why in (
        ({}, "the frozen set lacks 'param.gain'"),
        ({"param.gain": np.array([1, 2, 5], np.float32)}, "not those that the program names"),
        (GAIN | {"param.more": np.ones(1, np.float32)}, "'param.more', which the program does not know"),
    ):
        with pytest.raises(BadTensors, match=why):
            Executor(PROGRAM, schedule, 1, frozen=wrong)
    with pytest.raises(BadTensors, match="which the program does not know"):
        Executor(WITHOUT, np.ones((1, 3), np.float32), 2, frozen=GAIN)


# ---- tracing -------------------------------------------------------------------------------------------------------------


class Adapter(nn.Module):
    """LoRA (arXiv:2106.09685) as a developer writes it."""

    def __init__(self, linear: nn.Linear, rank: int = 3, alpha: float = 6.0, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear, self.scaling, self.dropout = linear, alpha / rank, nn.Dropout(dropout)
        self.a = nn.Parameter(torch.randn(rank, linear.in_features) * 0.2)
        self.b = nn.Parameter(torch.randn(linear.out_features, rank) * 0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + self.scaling * F.linear(F.linear(self.dropout(x), self.a), self.b)


def lora(dropout: float = 0.0, tied: bool = True) -> GPT:
    model = GPT("sdpa", tied=tied)
    for p in model.parameters():
        p.requires_grad_(False)
    model.attention.qkv, model.attention.out = (Adapter(layer, dropout=dropout) for layer in (model.attention.qkv, model.attention.out))
    return model


ADAPTERS = {f"attention.{layer}.{matrix}" for layer in ("qkv", "out") for matrix in "ab"}


def test_lora_of_a_transformer_trains_as_in_torch_and_its_state_is_adapters_and_moments() -> None:
    traced = agree(training(lora(), next_token, tokens()))
    assert set(traced.state) == {f"{kind}.{name}" for kind in ("param", "m", "v") for name in ADAPTERS} | {"metric.loss"}
    assert set(traced.program.accumulator) == {f"grad.{name}" for name in ADAPTERS} | {"loss"}
    model = lora()
    assert set(traced.frozen) == {f"param.{n}" for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen_root(traced.frozen) == traced.program.frozen_root


def test_lora_with_dropout_gives_one_root_with_any_number_of_threads() -> None:
    t = training(lora(dropout=0.2), next_token, tokens())
    plan = plan_of(t, trace(t))
    assert run_plan(plan).root == run_plan(plan, threads=2).root
    assert any(node.op == "philox" for node in plan.program.micro.nodes)


def plan_of(t: Training, traced: Traced) -> Plan:
    return Plan("plan", traced.program, traced.schedule, traced.state, t.data.arrays, "data", t.batch, traced.frozen)


def test_the_weights_of_a_fine_tune_and_the_base_are_the_whole_model() -> None:
    t = training(lora(), next_token, tokens())
    state = run_plan(plan_of(t, trace(t))).state
    changed = {name: torch.from_numpy(array) for name, array in weights(state).items()}
    assert set(changed) == ADAPTERS
    torch.manual_seed(0)
    fresh = lora()
    fresh.load_state_dict({n: p for n, p in t.model.state_dict().items() if n not in changed}, strict=False)  # the base
    missing, unexpected = fresh.load_state_dict(changed, strict=False)
    assert not unexpected
    assert not ADAPTERS & set(missing)
    for name, p in fresh.state_dict().items():
        assert torch.equal(p, changed.get(name, t.model.state_dict()[name])), name


class Head(nn.Module):
    """Registered under two names, the second one first."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(12, 5, bias=False)
        self.first = nn.Linear(12, 5, bias=False)
        self.first.weight = self.out.weight
        self.other = nn.Linear(12, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.tanh(self.other(x))) + self.first(x)


@pytest.mark.parametrize("name", ["out", "first"])
def test_what_is_frozen_by_one_name_is_frozen_by_all(name: str) -> None:
    model = Head()
    getattr(model, name).weight.requires_grad_(False)
    traced = agree(training(model, classify, points(), optimizer=assay.SGD(lr=0.1)))
    assert set(traced.frozen) == {"param.out.weight"}
    assert set(traced.state) == {"param.other.weight", "param.other.bias", "metric.loss"}


def test_what_is_tied_and_trained_is_one_entry_of_the_state_beside_frozen_ones() -> None:
    model = GPT("sdpa", tied=True)
    for p in model.parameters():
        p.requires_grad_(False)
    model.head.weight.requires_grad_(True)  # the embedding, too
    traced = agree(training(model, next_token, tokens(), optimizer=assay.SGD(lr=0.1)))
    assert set(traced.state) == {"param.token.weight", "metric.loss"}


def test_memory_shared_between_a_trained_and_a_frozen_parameter_is_refused_by_name() -> None:
    model = Head()
    model.first.weight = nn.Parameter(model.out.weight.data, requires_grad=False)
    refused(model, "first.weight is not trained, but shares its memory with parameter out.weight, which is")
    model.first.weight = nn.Parameter(model.out.weight.detach().clone(), requires_grad=False)
    assert set(trace(training(model, classify, points())).frozen) == {"param.first.weight"}
    model.register_buffer("part", model.other.weight.data[3:])
    refused(model, "part is not trained, but shares its memory with parameter other.weight")


def refused(model: nn.Module, why: str) -> None:
    with pytest.raises(TrainingError, match=why):
        trace(training(model, classify, points()))


def test_frozen_parameters_of_another_precision_are_refused_with_what_to_do() -> None:
    model = mlp()
    model[0].half().requires_grad_(False)

    def loss(m: nn.Module, b: dict[str, torch.Tensor]) -> torch.Tensor:
        return classify(m[1:], {**b, "x": m[0](b["x"].half()).float()})  # type: ignore[index]

    with pytest.raises(TrainingError, match=r"param.0.weight is torch.float16\[24, 12\].*model.float\(\) makes it float32"):
        trace(training(model, loss, points()))


def test_frozen_normalisation_in_eval_mode_is_frozen_and_in_training_mode_changes() -> None:
    norm = nn.Sequential(nn.Linear(12, 5, bias=False), nn.BatchNorm1d(5))
    norm[1].requires_grad_(False).eval()
    norm[1].running_mean.uniform_(-1, 1)
    still = agree(training(norm, classify, points()))
    assert {"buffer.1.running_mean", "buffer.1.running_var", "param.1.weight"} <= set(still.frozen)
    assert not any(name.startswith("buffer.") for name in still.state)
    norm[1].train()
    moving = agree(training(norm, classify, points()))
    assert {"buffer.1.running_mean", "buffer.1.running_var"} <= set(moving.state)
    assert set(moving.frozen) == {"param.1.weight", "param.1.bias"}


def test_a_frozen_parameter_that_the_loss_does_not_read_is_not_carried() -> None:
    model = mlp()
    model.register_parameter("idle", nn.Parameter(torch.zeros(3), requires_grad=False))
    traced = trace(training(model, classify, points()))
    assert traced.frozen == {}
    assert b"frozen" not in traced.program.dump()


def test_large_constants_are_frozen_and_equal_ones_are_one() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside, self.outside = nn.Linear(12, 200), nn.Linear(200, 5)
            for name in "ab":
                self.register_buffer(name, torch.arange(40_000.0).reshape(200, 200).cos() / 20, persistent=False)
            self.register_buffer("zeros", torch.zeros(200, 200), persistent=False)
            self.register_buffer("small", torch.arange(5.0), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.outside(self.inside(x) @ (self.a + self.zeros) @ self.b) + self.small

    traced = agree(training(Masked(), classify, points(), optimizer=assay.SGD(lr=0.1)))
    ((name, array),) = traced.frozen.items()
    assert name.startswith("constant.")
    assert array.shape == (200, 200)
    assert [c.type.shape for c in traced.program.constants] == [(5,)]
    assert set(weights(traced.state | traced.frozen)) == {f"{layer}.{kind}" for layer in ("inside", "outside") for kind in ("weight", "bias")}


TRAIN = """
    import numpy as np
    import torch.nn.functional as F
    from torch import nn
    import assay

    x = np.random.default_rng(0).normal(size=(40, 6)).astype("float32")
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    training = assay.Training(
        model=model, loss=lambda model, batch: F.cross_entropy(model(batch["x"]), batch["y"]),
        data=assay.Dataset("dots", x=x, y=(x[:, 0] > 0).astype("int64")), optimizer=assay.SGD(lr=0.1), batch=8, steps=3,
    )
"""


def test_a_training_file_with_frozen_parameters_runs_by_command(tmp_path: Path) -> None:
    train, out = tmp_path / "train.py", tmp_path / "weights.safetensors"
    train.write_text(textwrap.dedent(TRAIN))
    done = CliRunner().invoke(app, ["run", str(train), "--local", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "; the 2 frozen tensors are those of the file's model" in done.output
    plan, _ = plan_of_file(train, None, 0)
    assert run_plan(plan).root.hex() in done.output
    assert sorted(from_bytes(out.read_bytes(), 1 << 20)) == ["2.bias", "2.weight"]
    guess = estimate(plan, segment_steps=1, price_cap=1, fee=1, params=Params())
    assert guess.segments == 3


@pytest.mark.parametrize("optimizer", [assay.Averaged(assay.AdamW(lr=1e-2)), assay.Muon(lr=0.02, others=assay.AdamW(lr=1e-2)), assay.Lion(lr=1e-3)])
def test_every_optimiser_keeps_moments_of_what_is_trained_only(optimizer: Any) -> None:
    model = mlp()
    model[0].requires_grad_(False)
    traced = trace(training(model, classify, points(), optimizer=optimizer))
    assert not [name for name in traced.state if ".0." in name]
    assert set(traced.frozen) == {"param.0.weight", "param.0.bias"}


def test_a_trace_is_bound_to_the_frozen_tensors_by_the_programs_root() -> None:
    state: Tensors = {name: np.zeros(t.shape, np.float32) for name, t in PROGRAM.state.items()}
    schedule, batch = np.ones((1, len(PROGRAM.scalars)), np.float32), {"x": np.ones((4, 3), np.float32)}
    heads = set()
    for gain in (GAIN, {"param.gain": np.array([1, 2, 5], np.float32)}):
        executor = Executor(msgspec.structs.replace(PROGRAM, frozen_root=frozen_root(gain)), schedule, 1, frozen=gain)
        found = executor.trace_micro(0, 0, state, executor.zero_acc(0, state), batch)
        assert len(found.leaves) == PROGRAM.micro_leaves
        assert found.output["grad.w"].tolist() == [-1, -1, -1]  # w is 0: the gain has no say in the result
        heads.add(found.leaves[0])
    assert len(heads) == 2
