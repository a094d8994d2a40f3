"""A model without its gradients as a program: what it scores on held-out records (assay.Evaluation), or what it puts out (assay.inference).

Nothing is trained, so every parameter is frozen: the program names the root of all weights, and whoever has the program and the records has
the claim, "these weights give this on those records", which is computed, committed, checked and disputed exactly as a training step is.

    evaluation   one step for each batch of the records, each record once. State `metric.<name>`: i64, a sum of counts; f32, the sum of
                 each batch's share, in the order of the steps; the schedule's one column `share` is 1 / records, and `mean.<name>` = sum · share
                 With `live`, the entries of a training's state: what the model has of these is not frozen but passed through the state, so that the
                 program is known before the training has ended (assay.bounty)
    inference    one step on one batch. State `output.<name>` is what the model puts out

One of the few modules that import torch, through assay.trace.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import torch
from msgspec import UNSET
from numpy.typing import NDArray
from torch import nn

from assay.build import Builder, Value, used_constants
from assay.dataset import Dataset
from assay.entries import NUMPY, Names, array_of
from assay.exact.table import TensorType, TypeRuleError
from assay.optim import SCALAR, Outputs
from assay.program import Part, Program, ProgramError
from assay.replay import Replay
from assay.state import frozen_root
from assay.trace import Exportable, Lowering, Traced, example, export, field_input, graph_of
from assay.training import Evaluation, TrainingError

Measure = Callable[[nn.Module, dict[str, torch.Tensor]], Mapping[str, torch.Tensor]]


def trace_evaluation(evaluation: Evaluation, live: Mapping[str, TensorType] | None = None) -> Traced:
    """Its program, state (of zeros) and schedule. Raises TrainingError."""
    steps, left = divmod(len(evaluation.data), evaluation.batch)
    if left:
        raise TrainingError(f"{len(evaluation.data)} records are no whole number of batches of {evaluation.batch}: every record counts once")

    def add(b: Builder, found: dict[str, Value]) -> Outputs:
        if odd := [name for name, value in found.items() if value.dtype not in ("f32", "i64")]:
            raise TrainingError(f"{odd[0]!r} is {found[odd[0]].type}: give sums of floats or counts of integers")
        if "loss" not in found or found["loss"].type != SCALAR:
            raise TrainingError("an evaluation measures the loss, as a sum over the records of a batch: a float32 scalar")
        sums: Outputs = [("acc", f"metric.{name}", b.add(b.input("acc", f"metric.{name}", v.type), v)) for name, v in found.items()]
        mean = b.scale(found["loss"], 1 / evaluation.batch)
        return [*sums, ("acc", "loss", b.add(b.input("acc", "loss", SCALAR), mean))]

    micro, constants, frozen = _forward(evaluation.model, evaluation.measure, evaluation.data, evaluation.batch, add, live)
    b = Builder()
    outputs: Outputs = []
    for o in (o for o in micro.outputs if o.name != "loss"):
        total = b.input("acc", o.name, micro.type_of(o.value))
        outputs.append(("state", o.name, total))
        if total.dtype == "f32":
            outputs.append(("state", o.name.replace("metric.", "mean.", 1), b.mul(total, b.input("scalar", "share", SCALAR))))
    program = _program(evaluation.gemm_bits, micro, b.part(outputs), constants, frozen)
    schedule = np.full((steps, 1), np.float32(1) / np.float32(len(evaluation.data)), np.float32)
    if live is not None:
        _check_live(program, live)
    return Traced(program, _zeros(program), schedule, frozen)


def _check_live(program: Program, live: Mapping[str, TensorType]) -> None:
    read = program.state.keys() & live.keys()
    if not read:
        raise TrainingError("the evaluation reads nothing that the training trains: is it of the same model, made in the same way?")
    for name in sorted(read):
        if program.state[name] != live[name]:
            raise TrainingError(f"{name} is {program.state[name]} in the evaluation and {live[name]} in the training")


def trace_inference(model: nn.Module, outputs: Measure, records: Dataset, gemm_bits: int = 14) -> Traced:
    """The program that puts out `outputs(model, batch)` for all of `records` at once. Raises TrainingError."""
    def put(b: Builder, found: dict[str, Value]) -> Outputs:
        return [("acc", f"output.{name}", value) for name, value in found.items()]

    micro, constants, frozen = _forward(model, outputs, records, len(records), put)
    b = Builder()
    update = b.part([("state", o.name, b.input("acc", o.name, micro.type_of(o.value))) for o in micro.outputs])
    program = _program(gemm_bits, micro, update, constants, frozen)
    return Traced(program, _zeros(program), np.zeros((1, 0), np.float32), frozen)


def _zeros(program: Program) -> dict[str, NDArray[Any]]:
    return {name: np.zeros(t.shape, NUMPY[t.dtype]) for name, t in program.state.items()}


def _program(gemm_bits: int, micro: Part, update: Part, constants: Any, frozen: Mapping[str, NDArray[Any]]) -> Program:
    try:
        program = Program(
            gemm_bits=gemm_bits, micro_batches=1, constants=used_constants(constants, micro),
            frozen_root=frozen_root(frozen) if frozen else UNSET, micro=micro, update=update,
        )  # fmt: skip
        return Program.load(program.dump())
    except (ProgramError, TypeRuleError) as error:
        raise TrainingError(f"the traced program is refused: {error}") from error


def _forward(
    model: nn.Module, measure: Measure, data: Dataset, records: int, outputs: Callable[[Builder, dict[str, Value]], Outputs],
    live: Collection[str] | None = None,
) -> tuple[Part, Any, dict[str, NDArray[Any]]]:
    """The part that runs the model on a batch, its constants, and the weights that it reads, all frozen but those in `live`. `outputs` makes its
    outputs of what was measured. The model is left in eval mode."""
    model.cpu().eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    names: list[str] = []

    def measured(of: nn.Module, fields: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        found = dict(measure(of, fields))
        names[:] = sorted(found)
        return tuple(found[name] for name in names)

    batch = example(data, records)
    exported, _, dropping = export(Exportable(model, measured), batch)
    if dropping:
        raise TrainingError("the model drops elements in eval mode; only a training may")
    replay = Replay(exported)
    tensors = dict(replay.named_parameters()) | dict(replay.named_buffers())

    def step(*flat: torch.Tensor) -> list[torch.Tensor]:
        given = dict(zip([*tensors, *batch], flat, strict=True))
        fields = {name: given[name] for name in batch}
        found: Any = torch.func.functional_call(replay, {name: given[name] for name in tensors}, (fields, {}))
        return list(found)

    graph = graph_of(step, [t.detach().clone() for t in (*tensors.values(), *batch.values())], "what is measured")
    lowering = Lowering(graph, Names(model, live))
    b = lowering.b
    values = [lowering.tensor(name.removeprefix("exported.model."), tensor) for name, tensor in tensors.items()]
    found = lowering.run([*values, *(field_input(b, data, records, field) for field in batch)])
    part = b.part(outputs(b, dict(zip(names, found, strict=True))))
    if idle := sorted(batch.keys() - {i.name for i in part.inputs if i.kind == "batch"}):
        raise TrainingError(f"the field {idle[0]!r} of the records is not used: leave it out")
    read = {i.name for i in part.inputs if i.kind == "frozen"}
    return part, lowering.constants, {name: array_of(tensor) for name, tensor in lowering.frozen.items() if name in read}
