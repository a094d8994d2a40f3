"""A small MLP classifier with SGD and momentum as a program, written by hand, and its data."""

from __future__ import annotations

import numpy as np

from assay.exact.conformance import Writer, floats, integers
from assay.exact.table import TensorType
from assay.program import Input, Output, Part, Program, check
from assay.state import Tensors

BATCH, IN, HIDDEN, CLASSES = 9, 13, 21, 5
MICRO_BATCHES = 2
SHAPES = {"w1": (IN, HIDDEN), "b1": (HIDDEN,), "w2": (HIDDEN, CLASSES), "b2": (CLASSES,)}


def _f32(kind: str, name: str, shape: tuple[int, ...]) -> Input:
    return Input(kind=kind, name=name, type=TensorType(dtype="f32", shape=shape))  # type: ignore[arg-type]


def _micro() -> Part:
    w = Writer()
    w.inputs = [_f32("state", f"param.{n}", s) for n, s in SHAPES.items()] + [_f32("acc", f"grad.{n}", s) for n, s in SHAPES.items()]
    w.inputs += [_f32("acc", "loss", ()), _f32("batch", "x", (BATCH, IN))]
    w.inputs += [Input(kind="batch", name="y", type=TensorType(dtype="u8", shape=(BATCH,)))]
    w1, b1, w2, b2, *grads, loss, x, y = range(len(w.inputs))
    target = w("reshape", w("cast", y, dtype="i64"), shape=(BATCH, 1))
    hidden = w("tanh", w("add", w("matmul", x, w1), b1))
    logits = w("add", w("matmul", hidden, w2), b2)
    shifted = w("sub", logits, w("amax", logits, axes=(1,), keepdim=True))
    weights = w("exp", shifted)
    total = w("sum", weights, axes=(1,), keepdim=True)
    scale = w.f32(1 / BATCH)
    losses = w("sub", w("log", total), w("gather", shifted, target, axis=1))
    mean = w("mul", w("sum", losses, axes=(0, 1), keepdim=False), scale)
    zeros = w("expand", w.f32(0), shape=(BATCH, CLASSES))
    wrong = w("mul", w("sub", w("div", weights, total), w("scatter_value", zeros, target, axis=1, bits=0x3F800000)), scale)
    back = w("mul", w("matmul", wrong, w("permute", w2, axes=(1, 0))), w("sub", w.f32(1), w("mul", hidden, hidden)))
    new = [
        w("matmul", w("permute", x, axes=(1, 0)), back),
        w("sum", back, axes=(0,), keepdim=False),
        w("matmul", w("permute", hidden, axes=(1, 0)), wrong),
        w("sum", wrong, axes=(0,), keepdim=False),
    ]
    sums = {f"grad.{n}": w("add", g, d) for n, g, d in zip(SHAPES, grads, new, strict=True)} | {"loss": w("add", loss, mean)}
    return Part(inputs=tuple(w.inputs), nodes=tuple(w.nodes), outputs=tuple(Output(kind="acc", name=n, value=v) for n, v in sums.items()))


def _update() -> Part:
    w = Writer()
    w.inputs = [_f32("state", f"{k}.{n}", s) for n, s in SHAPES.items() for k in ("param", "m")]
    w.inputs += [_f32("acc", f"grad.{n}", s) for n, s in SHAPES.items()] + [_f32("scalar", "lr", ()), _f32("state", "buffer.decay", ())]
    lr, decay = len(w.inputs) - 2, len(w.inputs) - 1
    out = {}
    for i, n in enumerate(SHAPES):
        m = w("add", w("mul", 2 * i + 1, decay), w("mul", 2 * len(SHAPES) + i, w.f32(1 / MICRO_BATCHES)))
        out |= {f"param.{n}": w("sub", 2 * i, w("mul", m, lr)), f"m.{n}": m}
    return Part(inputs=tuple(w.inputs), nodes=tuple(w.nodes), outputs=tuple(Output(kind="state", name=n, value=v) for n, v in out.items()))


def mlp() -> Program:
    program = Program(gemm_bits=14, micro_batches=MICRO_BATCHES, constants=(), micro=_micro(), update=_update())
    check(program)
    return program


def initial_state() -> Tensors:
    state: Tensors = {f"param.{n}": floats(i, s, "even") * np.float32(0.5) for i, (n, s) in enumerate(SHAPES.items())}
    return state | {f"m.{n}": np.zeros(s, np.float32) for n, s in SHAPES.items()} | {"buffer.decay": np.array(0.9, np.float32)}


def batch(step: int, m: int) -> Tensors:
    """Classes that can be told apart: the largest of the first five entries."""
    x = floats(1000 + 2 * step % 8 + m, (BATCH, IN), "even")
    return {"x": x, "y": x[:, :CLASSES].argmax(1).astype(np.uint8), "id": integers(step, (BATCH,), 0, 9)}


SCHEDULE = np.full((30, 1), 0.5, np.float32)
