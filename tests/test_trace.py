"""Tracing: what PyTorch would compute is what the program computes, and what it cannot hold is refused by name.

The reference is torch.autograd with torch.optim and clip_grad_norm_, in float32. Programs run on the exact engine with 23-bit matrix
operands, whose rounding is of the order of float32's own.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import assay
from assay.execute import Executor
from assay.local import run_local
from assay.lower import LOWERINGS
from assay.lower.products import width
from assay.merkle import sha256
from assay.optim import Optimizer, SettingError
from assay.program import Program
from assay.stages import program_root
from assay.state import state_root
from assay.trace import load_weights, trace
from assay.training import TrainingError, load_training
from tests.tracing import agree, classify, mlp, one_thread, points, tokens, training

ROOT = Path(__file__).resolve().parent.parent
__all__ = ["one_thread"]


# ---- models ----------------------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, form: str) -> None:
        super().__init__()
        self.heads, self.form = heads, form
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.register_buffer("mask", torch.ones(16, 16).tril().bool(), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, time, width = x.shape
        q, k, v = (h.view(batch, time, self.heads, -1).transpose(1, 2) for h in self.qkv(x).split(width, dim=2))
        if self.form == "sdpa":
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            scores = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(q.shape[-1]))
            fill = -math.inf if self.form == "infinite" else -1e9
            y = scores.masked_fill(~self.mask[:time, :time], fill).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(batch, time, width))


class GPT(nn.Module):
    def __init__(self, form: str = "matmul", tied: bool = False, gelu: str = "tanh") -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(20, 16), nn.Embedding(16, 16)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(16) for _ in range(3))
        self.attention = Attention(16, 2, form)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(approximate=gelu), nn.Linear(32, 16))
        self.head = nn.Linear(16, 20, bias=False)
        if tied:
            self.head.weight = self.token.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.token(tokens) + self.place(torch.arange(tokens.shape[1]))
        x = x + self.attention(self.norm1(x))
        return self.head(self.norm3(x + self.mlp(self.norm2(x))))


def next_token(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    tokens = batch["tokens"]
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


# ---- against torch ---------------------------------------------------------------------------------------------------------


def test_mlp() -> None:
    traced = agree(training(mlp(), classify, points()))
    assert len(traced.program.micro.nodes) < 100


@pytest.mark.parametrize("form", ["matmul", "infinite", "sdpa"])
def test_gpt(form: str) -> None:
    traced = agree(training(GPT(form), next_token, tokens()))
    assert len(traced.program.micro.nodes) < 300
    assert len(traced.program.constants) == (form != "sdpa")


def test_gpt_with_exact_gelu_and_decay_on_matrices_only() -> None:
    agree(training(GPT(gelu="none"), next_token, tokens(), optimizer=assay.AdamW(lr=1e-2, decay="matrices")))


def test_tied_weights_are_one_entry() -> None:
    traced = agree(training(GPT(tied=True), next_token, tokens()))
    assert "param.token.weight" in traced.state
    assert "param.head.weight" not in traced.state


@pytest.mark.parametrize(
    "optimizer",
    [
        assay.SGD(lr=0.1),
        assay.SGD(lr=0.1, momentum=0.9, weight_decay=0.01),
        assay.SGD(lr=0.1, momentum=0.9, nesterov=True, clip=0.5),
        assay.AdamW(lr=1e-2, weight_decay=0.0),
        assay.Adam(lr=1e-2),
        assay.Adam(lr=1e-2, weight_decay=0.1, clip=0.5),
        assay.Lion(lr=1e-3, weight_decay=0.1),
        assay.Muon(lr=0.02, others=assay.AdamW(lr=1e-2), weight_decay=0.1, exclude=("5.weight",)),
        assay.Muon(lr=0.02, others=assay.AdamW(lr=1e-2), nesterov=False, clip=0.5),
        assay.Averaged(assay.SGD(lr=0.1), decay=0.9),
    ],
)
def test_optimizers(optimizer: Optimizer) -> None:
    agree(training(mlp(), classify, points(), optimizer=optimizer, schedule=assay.Linear(warmup=1)))


@pytest.mark.parametrize("optimizer", [assay.AdamW(lr=1e-2), assay.Muon(lr=0.02, others=assay.AdamW(lr=1e-2))])
def test_rotated_products_train_alike(optimizer: Optimizer) -> None:
    """Forwards, of both gradients, and the optimiser's own."""
    plain = trace(training(mlp(), classify, points(), optimizer=optimizer)).program
    turned = agree(training(mlp(), classify, points(), optimizer=optimizer, rotate=True)).program
    for before, after in ((plain.micro, turned.micro), (plain.update, turned.update)):
        products = [[node for node in part.nodes if node.op == "matmul"] for part in (before, after)]
        assert len(products[0]) == len(products[1])
        sizes = [after.type_of(node.inputs[1]).shape[-2] for node in products[1]]
        assert all(k % width(k) == 0 for k in sizes)  # without a rotation 5, 12 and 24 would be among them


def test_attention_with_treated_products() -> None:
    agree(training(GPT("sdpa"), next_token, tokens(), rotate=True, balance=True))
    agree(training(GPT("matmul"), next_token, tokens(), balance=True))
    with pytest.raises(SettingError, match="rotate is True or False"):
        training(mlp(), classify, points(), rotate="8h")


def test_averages_of_weights() -> None:
    t = training(mlp(), classify, points(), optimizer=assay.Averaged(assay.SGD(lr=0.1), decay=0.75))
    traced = trace(t)
    executor = Executor(traced.program, traced.schedule, t.micro_batches)
    state, average = traced.state, {n: a.astype(np.float64) for n, a in traced.state.items() if n.startswith("param.")}
    for step in range(3):
        acc = executor.zero_acc(step, state)
        for m in range(2):
            acc = executor.micro(step, m, state, acc, t.data.read(range(8 * m, 8 * m + 8)))
        state = executor.update(step, state, acc)
        average = {n: 0.75 * a + 0.25 * state[n] for n, a in average.items()}
    for name, expected in average.items():
        assert np.allclose(state[name.replace("param.", "ema.")], expected, atol=1e-6), name
    load_weights(t.model, state, averaged=True)
    assert np.allclose(t.model[0].weight.detach().numpy(), average["param.0.weight"], atol=1e-6)


def test_frozen_parameters_and_kept_buffers_stay() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.arange(1.0, 13.0) / 12)
            self.first, self.second = nn.Linear(12, 16), nn.Linear(16, 5)
            self.first.requires_grad_(False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(torch.tanh(self.first(x * self.scale)))

    traced = agree(training(Model(), classify, points(), optimizer=assay.SGD(lr=0.1)))
    assert sorted(traced.frozen) == ["buffer.scale", "param.first.bias", "param.first.weight"]
    assert sorted(traced.state) == ["metric.loss", "param.second.bias", "param.second.weight"]
    assert "grad.first.weight" not in traced.program.accumulator
    assert {o.name for o in traced.program.update.outputs} == {"metric.loss", "param.second.bias", "param.second.weight"}


class Elementwise(nn.Module):
    """A linear layer and one function of its output."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.layer, self.function = nn.Linear(12, 6), function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.layer(x))


FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "leaky relu": lambda x: F.leaky_relu(x, 0.1),
    "exp": lambda x: torch.exp(-x),
    "log and abs": lambda x: torch.log(x.abs() + 1.5),
    "sin and cos": lambda x: x.sin() * x.cos(),
    "powers": lambda x: x**3 + (x * x + 1) ** 0.5 + (x * x + 1) ** -1 + (x**2 + 1).rsqrt(),
    "clamp": lambda x: x.clamp(-0.5, 0.4) + x.clamp(min=0.1),
    "where": lambda x: torch.where(x > 0, x, x * 0.1) + (x < 0.2) * x,
    "division": lambda x: x / (x * x + 3) + 2 / (x.abs() + 2) - x / 7,
    "softmax": lambda x: x.softmax(-1) * x.log_softmax(0),
    "mean and variance": lambda x: (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 0.1).sqrt(),
    "amax": lambda x: x - x.amax(-1, keepdim=True),
    "slices": lambda x: torch.cat([x[:, 3:], x[:, :3] * 2], dim=1) + F.pad(x[:, 1:], (0, 1)),
    "stack": lambda x: torch.stack([x, x * x], 1).sum(1) + x[:, 2:3] + x[:, 0].unsqueeze(1),
    "chunks": lambda x: torch.cat([p * (i + 1) for i, p in enumerate(x.chunk(3, dim=1))], 1),
    "reshape": lambda x: x.view(-1, 2, 3).transpose(1, 2).reshape(-1, 6) + x.unflatten(1, (3, 2)).flatten(1),
    "matmul": lambda x: (x.unsqueeze(1) @ x.unsqueeze(2)).squeeze(2) + x @ torch.ones(6, 6).tril(),
    "maximum": lambda x: torch.maximum(x, -x * 0.5) - torch.minimum(x, x * x),
    "rows": lambda x: x[torch.tensor([3, 1, 0, 0, 2, 7, 6, 5])],
    "rms": lambda x: F.rms_norm(x, (6,)),
    "squeeze": lambda x: x.sum(1, keepdim=True).expand(-1, 6) * x.max(),
    "softplus": F.softplus,
    "erf and sign": lambda x: torch.erf(x) * torch.sign(x) + x.square(),
    "extremes": lambda x: x - x.amin(-1, keepdim=True) * x.min() + x.mean(),
    "bounds": lambda x: F.hardtanh(x, -0.3, 0.3) + x.clamp_min(-0.1) + x.clamp_max(0.2) + x.clamp(x.detach() * 0 - 0.2, x.detach() * 0 + 0.2),
    "conditions": lambda x: torch.where(~((x > -0.1) & (x < 0.3)) | (x == 5), x, 2.0 - x) + x * torch.logical_not(x >= 0),
    "comparisons": lambda x: x * (x <= x * x) + x * (x != 0) + x * (x >= -x) + x * (x != x.abs()),
    "scalars": lambda x: 1 - x + torch.where(x > 0, 1.0, x) + torch.where(x > 0, x, 0.5) - 3 + torch.where(x > 0.1, 1.0, 2.0),
    "counting": lambda x: x * torch.arange(1, 7) + x * torch.arange(0.0, 3.0, 0.5) + torch.ones(6, 6).triu(1).sum(0) * x,
    "fills": lambda x: x + x.new_ones(6) + x.new_full((6,), 0.5) + torch.zeros(6) + torch.zeros_like(x) + torch.full((6,), 2.0),
    "masks": lambda x: x.masked_fill(x > 0, torch.tensor(0.5)),
    "pieces": lambda x: torch.cat([*x.split([1, 2, 3], 1)][::-1], 1) + sum(x.unbind(1)).unsqueeze(1),
    "axes": lambda x: x.view(-1, 1, 2, 3).permute(3, 1, 0, 2).squeeze().permute(1, 2, 0).reshape(-1, 6) + x.view(1, -1, 1, 6).squeeze((0, 2)),
    "products": lambda x: torch.baddbmm(x.view(1, -1, 6), x.view(1, -1, 6), torch.ones(1, 6, 6), beta=0.5).squeeze(0) + (x @ x[0]).unsqueeze(1),
    "casts": lambda x: x * (x > 0).float() + (x * 3).long() * x + torch.rsub(x, x * x) - 0.5,
    "bounds that are tensors": lambda x: x.clamp_min(torch.tensor(-0.2)) * x.clamp_max(torch.tensor(0.3)),
    "dot": lambda x: x * x[0].dot(x[1]),
    "var_mean": lambda x: sum(torch.var_mean(x, 1, keepdim=True, correction=0)) * x,
    "columns": lambda x: x.index_select(1, torch.tensor([5, 0, 0, 1, 2, 3])),
    "row of rows": lambda x: x.index_select(0, torch.tensor([1, 1, 0, 3, 2, 7, 6, 5])),
    "elu": F.elu,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_and_their_gradients(name: str) -> None:
    model = Elementwise(FUNCTIONS[name])
    data = assay.Dataset("pairs", x=np.random.default_rng(1).normal(size=(48, 12)), y=np.random.default_rng(2).normal(size=(48, 6)))
    agree(training(model, lambda m, b: F.mse_loss(m(b["x"]), b["y"]), data, optimizer=assay.SGD(lr=0.05)))


def test_gather_from_data() -> None:
    data = points()
    agree(training(mlp(), lambda m, b: (m(b["x"]) * b["x"].gather(1, b["y"][:, None])).square().mean(), data, optimizer=assay.SGD(lr=0.05)))


def test_targets_that_do_not_count() -> None:
    data = points()
    data.arrays["y"][::3] = -100
    agree(training(mlp(), classify, data, optimizer=assay.SGD(lr=0.05)))


def test_sum_of_cross_entropies() -> None:
    agree(training(mlp(), lambda m, b: F.cross_entropy(m(b["x"]), b["y"], reduction="sum") / 8, points(), optimizer=assay.SGD(lr=0.05)))


def test_every_lowering_is_of_an_operator_that_there_is() -> None:
    for name in LOWERINGS:
        _, operator, overload = name.split(".")
        assert hasattr(getattr(torch.ops.aten, operator), overload), name


# ---- refusals --------------------------------------------------------------------------------------------------------------


def refused(model: nn.Module, message: str, loss: Callable[..., torch.Tensor] = classify, data: assay.Dataset | None = None) -> None:
    with pytest.raises(TrainingError, match=message):
        trace(training(model, loss, data or points()))


def test_an_operator_outside_the_set_is_refused_by_name_module_and_line() -> None:
    class Sorted(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.sort(-1).values

    refused(mlp(Sorted()), r"aten\.sort\.default is not in the closed set; it is called in 6 \(Sorted\), .*test_trace\.py, line \d+: .*x\.sort")


def test_dropout_in_evaluation_is_nothing() -> None:
    agree(training(mlp(nn.Dropout(0.5)).eval(), classify, points()))


def test_what_a_program_cannot_be_is_refused() -> None:
    refused(mlp().double(), "parameter 0.weight is torch.float64", lambda m, b: classify(m, {**b, "x": b["x"].double()}))
    refused(mlp(), r"gives float64.*call \.float\(\)", lambda m, b: classify(m, b).double().sqrt().float())
    refused(mlp(), "does not use the dataset's field 'z'", data=assay.Dataset("p", **points().arrays, z=np.zeros(48)))
    idle = mlp()
    idle.register_parameter("extra", nn.Parameter(torch.zeros(3)))
    refused(idle, "parameter extra is not used by the loss")
    refused(mlp().requires_grad_(False), "all 6 parameters of the model are frozen, 0.weight the first of them")
    refused(nn.Flatten(), "no parameter to train")
    refused(mlp(), "does not export: ", lambda m, b: classify(m, b) if classify(m, b).item() > 0 else classify(m, b) * 2)
    with pytest.raises(assay.training.SettingError, match="fewer than a batch"):
        training(mlp(), classify, points(), batch=49)


# ---- the same program ------------------------------------------------------------------------------------------------------


def test_a_program_depends_on_neither_threads_nor_chance() -> None:
    one = trace(training(GPT("sdpa"), next_token, tokens()))
    torch.set_num_threads(2)
    torch.manual_seed(5)
    assert trace(training(GPT("sdpa"), next_token, tokens())).program.dump() == one.program.dump()


EXAMPLES = {"shakespeare": 421_376, "digits": 26_122, "cnn": 6_138}


def test_examples_trace_alike_in_every_process() -> None:
    code = (
        "import sys; from assay.training import load_training; from assay.trace import trace; from assay.state import state_root\n"
        "from assay.stages import program_root\n"
        "for path in sys.argv[1:]:\n"
        "    t = trace(load_training(path)); print((program_root(t.program) + state_root(0, t.state)).hex())"
    )
    paths = [ROOT / "examples" / f"{name}.py" for name in EXAMPLES]
    there = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True, timeout=240).stdout.split()
    for path, root in zip(paths, there, strict=True):
        loaded = load_training(path)
        assert loaded.name == path.stem
        assert sum(p.numel() for p in loaded.model.parameters()) == EXAMPLES[path.stem]
        traced = trace(loaded)
        assert Program.load(traced.program.dump()) == traced.program
        assert bytes.fromhex(root) == program_root(traced.program) + state_root(0, traced.state)


def test_a_local_run_learns_and_repeats() -> None:
    t = load_training(ROOT / "examples" / "digits.py")
    traced = trace(t, steps=30)
    before = {name: array.copy() for name, array in traced.state.items()}
    runs = [run_local(traced.program, traced.schedule, traced.state, t.data.read, len(t.data), sha256(b"order")) for _ in range(2)]
    assert runs[0].root == runs[1].root
    assert runs[0].losses[0] > 2.2
    assert runs[0].losses[-1] < 1.2
    load_weights(t.model, runs[0].state)
    assert all((traced.state[name] == array).all() for name, array in before.items())
    assert t.sample is not None
    assert "unseen" in t.sample(t.model)


# ---- training files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no `training`"),
        ("training = 3", "`training` is a int, not an assay.Training"),
        ("import assay\n\nassay.AdamW(lr=0)", "line 3: AdamW: lr must be a positive number"),
        ("x = [\n", "line 1: '\\[' was never closed"),
        ("import math\nmath.sqrt(-1)\n", "line 2: ValueError: "),
        ("import assay\nassay.Trainer()\n", "assay has no 'Trainer'; it has Adam, AdamW"),
        ("import assay\nassay.Dataset('d', x=[[1.0]], y=[1, 2])\n", "the same number of records"),
        ("import assay\nassay.Dataset('d', x=['a'])\n", "has dtype <U1"),
    ],
)
def test_a_training_file_that_is_wrong_says_where(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "train.py"
    path.write_text(text)
    with pytest.raises(TrainingError, match=message):
        load_training(path)


def test_a_training_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="there is no file"):
        load_training(tmp_path / "no.py")


def test_text_as_a_dataset() -> None:
    data = assay.Dataset.from_text("abc", "abcabcabca", context=3)
    assert data.vocabulary is not None
    assert [data.vocabulary.decode(row) for row in data.arrays["tokens"]] == ["abca", "abca", "abca"]
    assert data.arrays["tokens"].dtype == np.uint8
    with pytest.raises(assay.training.SettingError, match="no character 'z'"):
        data.vocabulary.encode("z")
    assert len(assay.demo_text()) > 200_000
