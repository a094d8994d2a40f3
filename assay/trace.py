"""From PyTorch to a program.

The loss (model and all) is exported first (torch.export: a public interface that keeps module names and source lines), then its
gradients are traced around the exported module (assay.replay) with torch.func and make_fx, on fake tensors and with attention in its
mathematical form, and each ATen operator is lowered by name (assay.lower). ATen operators that have no lowering are decomposed by PyTorch's own
table as far as it goes; what is left outside the closed set is refused by name, with its module and line.

Nothing of PyTorch's arithmetic enters the program, so it does not depend on torch's threads, instruction sets or version: only on
which operators were called. One file because export, trace and lowering share what is known of one module. Which tensor of the model
becomes what: assay.entries. Buffers that the model changes are entries of the accumulator and so pass
through the micro-batches of a step; the update puts them into the state.

Dropout: element i of the mask of the model's n-th place that drops (from 0) is 0 where philox(position, stream, key) < p · 2^32
(rounded), else 1 / (1 - p), with position = i + n · 2^40, stream = micro-batch + step · 2^32 and key = the training's seed.
"""

from __future__ import annotations

import hashlib
import math
import operator
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from msgspec import UNSET
from numpy.typing import NDArray
from torch import fx, nn
from torch._decomp import core_aten_decompositions
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.traceback import preserve_node_meta
from torch.nn.attention import SDPBackend, sdpa_kernel

from assay.build import Builder, Value, used_constants
from assay.dataset import Dataset
from assay.entries import DTYPES, INLINE, NUMPY, Names, array_of, trained, type_of
from assay.exact.table import TensorType, TypeRuleError
from assay.lower import LOWERINGS, Call, Result, Unsupported
from assay.lower.products import treated
from assay.optim import SCALAR, Outputs, update_part
from assay.program import Constant, Part, Program, ProgramError
from assay.replay import Replay, Site, is_chance, site, sites
from assay.state import frozen_root
from assay.training import Training, TrainingError

_MODEL = "model."
_TORCH = str(Path(torch.__file__).parent)
_CHECKS = ("aten._assert_tensor_metadata.default", "aten._assert_async.msg", "aten._assert_scalar.default")
"""Calls of the exporter that compute nothing."""
_HINTS = (
    ("dropout|bernoulli", "use nn.Dropout, or its forms of one to three dimensions"),
    ("rand|normal|multinomial|exponential", "a step may not draw random numbers"),
    ("as_strided", "use view, reshape or slices"),
    ("float64", "exact programs compute in float32: call .float()"),
)


@dataclass(frozen=True)
class Traced:
    """A training as data: everything a job needs but the dataset."""

    program: Program
    state: dict[str, NDArray[Any]]
    """The initial state: parameters, averages that equal them, zero moments, buffers."""
    schedule: NDArray[np.float32]
    """[steps, scalars], columns as in `scalars`."""
    frozen: dict[str, NDArray[Any]]
    """What no step changes: frozen parameters and buffers."""

    @property
    def scalars(self) -> tuple[str, ...]:
        return self.program.scalars


def trace(training: Training, steps: int | None = None) -> Traced:
    """The program, initial state and schedule of a training (over `steps` instead of its own number of steps). Raises
    TrainingError, which names the operator, the module and the line at fault. The model is moved to the CPU."""
    model = training.model.cpu()
    parameters = trained(model)
    micro, constants, frozen = _micro(training, list(parameters))
    buffers = {o.name: micro.type_of(o.value) for o in micro.outputs if o.name.startswith("buffer.")}
    update = update_part(training.optimizer, parameters, training.micro_batches, buffers)
    if training.balance or training.rotate:
        micro, update = (treated(part, balance=training.balance, rotate=training.rotate) for part in (micro, update))
    try:
        program = Program(
            gemm_bits=training.gemm_bits,
            micro_batches=training.micro_batches,
            constants=used_constants(constants, micro),
            frozen_root=frozen_root(frozen) if frozen else UNSET,
            micro=micro,
            update=update,
        )
        program = Program.load(program.dump())
    except (ProgramError, TypeRuleError) as error:
        raise TrainingError(f"the traced program is refused: {error}") from error
    columns = training.scalars(steps)
    schedule = np.array([columns[name] for name in program.scalars], dtype=np.float32).T
    return Traced(program, _state(program, model), np.ascontiguousarray(schedule), frozen)


def initial_output(training: Training, state: Mapping[str, NDArray[Any]]) -> str | None:
    """What `training.sample` says of the model with the weights of `state`; None without a `sample`. The model is left with them."""
    if training.sample is None:
        return None
    load_weights(training.model, state)
    with torch.no_grad():
        return str(training.sample(training.model))


def load_weights(model: nn.Module, state: Mapping[str, NDArray[Any]], averaged: bool = False) -> None:
    """Copies parameters (or their moving averages) and buffers of a state into the model."""
    with torch.no_grad():
        for kind, tensors in (("ema" if averaged else "param", model.named_parameters()), ("buffer", model.named_buffers())):
            for name, tensor in tensors:
                if (array := state.get(f"{kind}.{name}")) is not None:
                    tensor.copy_(torch.from_numpy(np.array(array)))


def _state(program: Program, model: nn.Module) -> dict[str, NDArray[Any]]:
    here = {f"param.{n}": p for n, p in model.named_parameters()} | {f"buffer.{n}": b for n, b in model.named_buffers()}
    here |= {f"ema.{n}": p for n, p in model.named_parameters()}
    return {
        name: array_of(here[name]) if name in here else np.zeros(t.shape, dtype=NUMPY[t.dtype]) for name, t in program.state.items()
    }


# ---- the gradients of the loss ---------------------------------------------------------------------------------------------


class Exportable(nn.Module):
    """The loss as a module, to be exported; with `assay.Evaluation` its measures."""

    def __init__(self, model: nn.Module, of: Callable[[nn.Module, dict[str, torch.Tensor]], Any]) -> None:
        super().__init__()
        self.model, self._of = model, of

    def forward(self, batch: dict[str, torch.Tensor]) -> Any:
        return self._of(self.model, batch)


def _micro(training: Training, trained: list[str]) -> tuple[Part, list[Constant], dict[str, NDArray[Any]]]:
    """The part that adds one micro-batch, the constants it may read, and the frozen tensors that it reads."""
    batch = example(training.data, training.batch)
    exported, unused, dropping = export(Exportable(training.model, training.loss), batch)
    replay = Replay(exported)
    prefix = f"exported.{_MODEL}"
    for name in trained:
        if name in unused:
            raise TrainingError(f"parameter {name} is not used by the loss: remove it, or freeze it with requires_grad_(False)")
    tensors = dict(replay.named_parameters()) | dict(replay.named_buffers())
    buffers = [name for name, _ in replay.named_buffers()]
    graph = _gradients(replay, tensors, [prefix + name for name in trained], buffers, batch, dropping)

    changing = _changing(graph, buffers)
    lowering = Lowering(graph, Names(training.model))
    b = lowering.b
    values: list[Value] = []
    for name, tensor in tensors.items():
        short = name.removeprefix(prefix)
        if name in changing:
            values.append(b.input("acc", f"buffer.{short}", type_of(tensor, f"buffer {short}")))
        else:
            values.append(lowering.tensor(short, tensor))
    values += [field_input(b, training.data, training.batch, field) for field in batch]
    values += [_mask(b, s, number, training.seed) for number, s in enumerate(dropping.values())]
    found = lowering.run(values)
    gradients, after, loss = found[: len(trained)], dict(zip(buffers, found[len(trained) : -1], strict=True)), found[-1]
    outputs: Outputs = [("acc", "loss", b.add(b.input("acc", "loss", SCALAR), loss))]
    for name, gradient in zip(trained, gradients, strict=True):
        outputs.append(("acc", f"grad.{name}", b.add(b.input("acc", f"grad.{name}", gradient.type), gradient)))
    outputs += [("acc", f"buffer.{name.removeprefix(prefix)}", after[name]) for name in changing]
    part = b.part(outputs)
    if idle := sorted(batch.keys() - {i.name for i in part.inputs if i.kind == "batch"}):
        raise TrainingError(f"the loss does not use the dataset's field {idle[0]!r}: leave it out of the dataset")
    read = {i.name for i in part.inputs if i.kind == "frozen"}
    return part, lowering.constants, {name: array_of(tensor) for name, tensor in lowering.frozen.items() if name in read}


def _mask(b: Builder, s: Site, number: int, seed: int) -> Value:
    """The mask of a place that drops, as the docstring of this module says."""
    columns = s.shape[-1] if s.shape else 1
    rows = math.prod(s.shape) // columns
    row = b.add(b.mul(b.reshape(b.emit("iota", n=rows), (rows, 1)), b.const(columns, "i64")), b.const(number << 40, "i64"))
    step, m = (b.input("counter", name, TensorType(dtype="i64", shape=())) for name in ("step", "micro"))
    stream = b.add(b.mul(step, b.const(1 << 32, "i64")), m)
    drawn = b.emit("philox", b.add(row, b.emit("iota", n=columns)), stream, b.const(seed, "i64"))
    dropped = b.emit("lt", drawn, b.const(round(s.p * 2**32), "i64"))
    return b.reshape(b.emit("select", dropped, b.const(0.0), b.const(1 / (1 - s.p))), s.shape)


def field_input(b: Builder, data: Dataset, records: int, field: str) -> Value:
    """A field of a batch as the loss gets it."""
    record = data.arrays[field]
    stored = TensorType(dtype=DTYPES[torch.from_numpy(record[:1]).dtype], shape=(records, *record.shape[1:]))
    value = b.input("batch", field, stored)
    return value if stored.dtype in ("f32", "bool") else b.cast(value, "i64")


def example(data: Dataset, records: int) -> dict[str, torch.Tensor]:
    """A micro-batch as the loss gets it: integers as int64."""
    batch = {name: torch.from_numpy(a) for name, a in data.read(list(range(records))).items()}
    return {name: t if t.dtype in (torch.float32, torch.bool) else t.long() for name, t in batch.items()}


def export(module: nn.Module, batch: dict[str, torch.Tensor]) -> tuple[fx.GraphModule, set[str], dict[str, Site]]:
    """The loss as a graph module, which of the model's parameters it never reads, and where it drops."""
    try:
        with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
            warnings.simplefilter("ignore")
            exported = torch.export.export(module, (batch,), strict=False)
            module = exported.module(check_guards=False)
    except Exception as error:
        text = str(error).strip().splitlines()
        raise TrainingError(f"the loss does not export: {type(error).__name__}: {text[0] if text else ''}") from error
    signature = exported.graph_signature
    _refuse_chance(exported.graph)
    idle = {node.name for node in exported.graph.nodes if node.op == "placeholder" and not node.users}
    read = {target for name, target in signature.inputs_to_parameters.items() if name not in idle}
    shared = {id(p) for n, p in exported.named_parameters() if n in read}
    unused = {n.removeprefix(_MODEL) for n, p in exported.named_parameters() if n not in read and id(p) not in shared}
    return module, unused, sites(module.graph)


def _refuse_chance(graph: fx.Graph) -> None:
    """Operators that draw random numbers trace to several; they are looked for while they still have their own names."""
    for node in graph.nodes:
        name = str(node.target)
        try:
            dropped = node.op != "call_function" or site(node) is not None or not is_chance(name)
        except ValueError as error:
            raise TrainingError(f"operator {name}: {error}; it is called {_origin(node.meta)}") from error
        if not dropped:
            raise TrainingError(f"operator {name} is not in the closed set{_hint(name)}; it is called {_origin(node.meta)}")


def _gradients(
    replay: Replay, tensors: dict[str, torch.Tensor], trained: list[str], buffers: list[str], batch: dict[str, torch.Tensor],
    dropping: dict[str, Site],
) -> fx.GraphModule:  # fmt: skip
    """Graph from (tensors..., fields..., masks...) to (gradients of `trained`..., buffers afterwards..., loss)."""
    masks = {name: torch.ones(s.shape) for name, s in dropping.items()}

    def step(*flat: torch.Tensor) -> list[torch.Tensor]:
        given = dict(zip([*tensors, *batch, *masks], flat, strict=True))
        fields, drops = ({name: given[name] for name in names} for names in (batch, masks))

        def loss(parameters: dict[str, torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
            rest = {name: given[name].clone() if name in buffers else given[name] for name in tensors}
            value = cast(torch.Tensor, torch.func.functional_call(replay, rest | parameters, (fields, drops)))
            return value, [rest[name] for name in buffers]

        found, (value, after) = torch.func.grad_and_value(loss, has_aux=True)({name: given[name] for name in trained})
        return [*(found[name] for name in trained), *after, value]

    # Each input is a tensor object of its own: make_fx would merge two that are the same object.
    return graph_of(step, [t.detach().clone() for t in (*tensors.values(), *batch.values(), *masks.values())], "the gradient of the loss")


def graph_of(step: Callable[..., Any], flat: list[torch.Tensor], what: str) -> fx.GraphModule:
    """The graph of a function of tensors, in operators that have a lowering as far as PyTorch's own table goes. Raises TrainingError."""
    table = {op: rule for op, rule in dict(core_aten_decompositions()).items() if str(op) not in LOWERINGS}
    try:
        with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH), preserve_node_meta():
            warnings.simplefilter("ignore")
            graph = make_fx(torch.func.functionalize(step), decomposition_table=table, tracing_mode="fake")(*flat)
    except Exception as error:
        text = str(error).strip().splitlines()
        raise TrainingError(f"{what} does not trace: {type(error).__name__}: {text[0] if text else ''}") from error
    graph.graph.eliminate_dead_code()
    return graph


def _changing(graph: fx.GraphModule, buffers: list[str]) -> list[str]:
    """Buffers that a run of the model changes: what they are afterwards is not a mere copy of what they were."""
    found = graph.graph.output_node().args[0]
    assert isinstance(found, list | tuple)
    after = zip(buffers, found[len(found) - 1 - len(buffers) : -1], strict=True)
    return [name for name, node in after if str(node.target) != "aten.clone.default" or node.args[0].op != "placeholder"]


# ---- lowering --------------------------------------------------------------------------------------------------------------


class Lowering:
    """Turns the nodes of a graph into a part, in order."""

    def __init__(self, graph: fx.GraphModule, names: Names) -> None:
        self.graph, self.names = graph, names
        self._forwards: dict[str, dict[str, Any] | None] = {}  # forward operator -> what is known of its first call in the graph
        self.b = Builder()
        self.constants: list[Constant] = []
        self.frozen: dict[str, torch.Tensor] = {}

    def tensor(self, name: str, tensor: torch.Tensor) -> Value:
        """A parameter or buffer that the model does not write."""
        found = self.names.entry(name, tensor)
        if found is None:
            return self.constant(name, tensor)
        entry, frozen = found
        if frozen:
            self.frozen[entry] = tensor
        return self.b.input("frozen" if frozen else "state", entry, type_of(tensor, entry))

    def constant(self, name: str, tensor: torch.Tensor) -> Value:
        """A tensor that belongs to no checkpoint: written into the program, or frozen when it is large. Equal ones are one entry, a
        tensor of equal elements is a number."""
        t = type_of(tensor, f"constant {name}")
        data = array_of(tensor)
        if data.size == 1 or np.all(data == data.reshape(-1)[0]):
            return self.b.full(data.reshape(-1)[0].item(), t)
        digest = hashlib.sha256(str(t).encode() + data.tobytes()).hexdigest()[:16]
        if data.nbytes > INLINE:
            self.frozen[f"constant.{digest}"] = tensor
            return self.b.input("frozen", f"constant.{digest}", t)
        if digest not in {c.name for c in self.constants}:
            self.constants.append(Constant(name=digest, type=t, data=data.tobytes()))
        return self.b.input("constant", digest, t)

    def run(self, values: list[Value]) -> list[Value]:
        """Values of the graph's outputs, given those of its placeholders."""
        known: dict[fx.Node, Result] = {}
        given = iter(values)
        for node in self.graph.graph.nodes:
            if node.op == "placeholder":
                known[node] = next(given)
            elif node.op == "get_attr":
                known[node] = self.constant(str(node.target), getattr(self.graph, str(node.target)))
            elif node.op == "output":
                return [cast(Value, known[n]) for n in node.args[0]]
            elif str(node.target) in _CHECKS:
                continue
            elif node.target is operator.getitem:
                known[node] = cast(Value, cast(tuple[Value, ...], known[node.args[0]])[node.args[1]])
            else:
                known[node] = self._call(node, known)
        raise AssertionError("a graph ends in an output")

    def _call(self, node: fx.Node, known: Mapping[fx.Node, Result]) -> Result:
        name = str(node.target)
        lowering = LOWERINGS.get(name)
        if lowering is None:
            raise TrainingError(f"operator {name} is not in the closed set{_hint(name)}; it is called {self._where(node)}")
        results = [None if r is None else _result(r, name, self._where(node)) for r in _flat(node.meta["val"])]
        to_value: Any = known.__getitem__
        args: Any = fx.map_arg(node.args, to_value)
        kwargs: Any = fx.map_arg(node.kwargs, to_value)
        try:
            made = lowering(Call(self.b, name, args, kwargs, results))
        except (Unsupported, TypeRuleError, OverflowError) as error:
            raise TrainingError(f"operator {name}: {error}; it is called {self._where(node)}") from error
        for value, result in zip(made if isinstance(made, tuple) else (made,), results, strict=True):
            if value is not None and result is not None and value.shape != result.shape and node.users:
                raise AssertionError(f"lowering of {name} gives {value.type} where PyTorch gives {result}")
        return made

    def _where(self, node: fx.Node) -> str:
        """Module and source line of a call; of the forward operator for a backward one."""
        meta = node.meta
        if "stack_trace" not in meta:
            forward = re.sub(r"_backward(_data)?", "", str(node.target)).split(".")[1]
            if forward not in self._forwards:
                of = (n.meta for n in self.graph.graph.nodes if "stack_trace" in n.meta and f".{forward}." in f".{n.target}.")
                self._forwards[forward] = next(of, None)
            found = self._forwards[forward]
            if found is None:
                return "in the backward pass"
            meta = found
        return _origin(meta)


def _origin(meta: Mapping[str, Any]) -> str:
    """Module and line of the user's code that a node of a graph comes from."""
    path, kind = list((meta.get("nn_module_stack") or {"": ("", "the loss")}).values())[-1]
    kind = kind if isinstance(kind, str) else kind.__name__
    path = path.removeprefix("model").removeprefix(".")
    frames = re.findall(r'File "([^"]+)", line (\d+)[^\n]*\n\s*([^\n]*)', meta.get("stack_trace") or "")
    theirs = [f for f in frames if not f[0].startswith((_TORCH, __file__))]
    line = ", {}, line {}: {}".format(*theirs[-1]) if theirs else ""
    return f"in {path} ({kind.rsplit('.', 1)[-1]}){line}" if path else f"in the loss{line}"


def _hint(name: str) -> str:
    return next((f" ({hint})" for pattern, hint in _HINTS if re.search(pattern, name)), "")


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        yield from value
    else:
        yield value


def _result(tensor: Any, name: str, where: str) -> TensorType | None:
    """Type of a result; None for one of no elements, which nothing may use."""
    if 0 in tensor.shape:
        return None
    if tensor.dtype not in DTYPES:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise TrainingError(f"operator {name} gives {kind}{_hint('float64')}; it is called {where}")
    return TensorType(dtype=DTYPES[tensor.dtype], shape=tuple(tensor.shape))
