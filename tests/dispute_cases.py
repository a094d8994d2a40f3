"""A small language model whose links the tests of disputes argue about: an embedding, a product, a softmax with cross-entropy, dropout by
Philox, a buffer that is carried along, SGD with momentum; trees that are deeper than one opening in every place."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from assay import merkle, shard
from assay.exact.conformance import Writer, floats, integers
from assay.exact.table import TensorType
from assay.execute import Executor
from assay.ids import Digest
from assay.job import DatasetRef
from assay.program import Constant, Input, Output, Part, Program, check
from assay.sampling import record_indices
from assay.state import Tensors

WORDS, WIDTH, BATCH, CONTEXT, MICRO_BATCHES, RECORDS = 80, 64, 6, 4, 2, 30
TOKENS = BATCH * CONTEXT
F32: TensorType = TensorType(dtype="f32", shape=())
SHAPES = {"param.emb": (WORDS, WIDTH), "param.out": (WIDTH, WORDS)}
ORDER = merkle.sha256(b"order")


def _in(kind: str, name: str, *shape: int, dtype: str = "f32") -> Input:
    return Input(kind=kind, name=name, type=TensorType(dtype=dtype, shape=shape))  # type: ignore[arg-type]


def _micro() -> Part:
    w = Writer()
    w.inputs = [_in("state", n, *s) for n, s in SHAPES.items()] + [_in("acc", n.replace("param", "grad"), *s) for n, s in SHAPES.items()]
    w.inputs += [_in("acc", "loss"), _in("acc", "buffer.seen", dtype="i64"), _in("batch", "text", BATCH, CONTEXT + 1, dtype="u8")]
    w.inputs += [_in("counter", "micro", dtype="i64"), _in("counter", "step", dtype="i64"), _in("constant", "gain", WIDTH)]
    emb, out, grad_emb, grad_out, loss, seen, text, micro, step, gain = range(len(w.inputs))
    words = w("cast", text, dtype="i64")
    seen_by = w("reshape", w("slice", words, axis=1, start=0, stop=CONTEXT, step=1), shape=(TOKENS,))
    target = w("reshape", w("slice", words, axis=1, start=1, stop=CONTEXT + 1, step=1), shape=(TOKENS, 1))
    chance = w("philox", w("iota", n=WIDTH), step, micro)
    kept = w("cast", w("ge", chance, w("const", dtype="i64", bits=1 << 30)), dtype="f32")
    scale = w("mul", kept, gain)
    hidden = w("mul", w("take_rows", emb, seen_by), scale)
    logits = w("matmul", hidden, out)
    shifted = w("sub", logits, w("amax", logits, axes=(1,), keepdim=True))
    weights = w("exp", shifted)
    total = w("sum", weights, axes=(1,), keepdim=True)
    losses = w("sub", w("log", total), w("gather", shifted, target, axis=1))
    share = w.f32(1 / TOKENS)
    mean = w("mul", w("sum", losses, axes=(0, 1), keepdim=False), share)
    zeros = w("expand", w.f32(0), shape=(TOKENS, WORDS))
    wrong = w("mul", w("sub", w("div", weights, total), w("scatter_value", zeros, target, axis=1, bits=0x3F800000)), share)
    back = w("mul", w("matmul", wrong, w("permute", out, axes=(1, 0))), scale)
    sums = {
        "grad.emb": w("add", grad_emb, w("scatter_add_rows", seen_by, back, rows=WORDS)),
        "grad.out": w("add", grad_out, w("matmul", w("permute", hidden, axes=(1, 0)), wrong)),
        "loss": w("add", loss, mean),
        "buffer.seen": w("add", seen, w("sum", w("slice", words, axis=1, start=0, stop=1, step=1), axes=(0, 1), keepdim=False)),
    }
    return Part(inputs=tuple(w.inputs), nodes=tuple(w.nodes), outputs=tuple(Output(kind="acc", name=n, value=v) for n, v in sums.items()))


def _update() -> Part:
    w = Writer()
    names = ("emb", "out")
    w.inputs = [_in("state", f"{kind}.{n}", *SHAPES[f"param.{n}"]) for n in names for kind in ("param", "m")]
    w.inputs += [_in("acc", f"grad.{n}", *SHAPES[f"param.{n}"]) for n in names]
    w.inputs += [_in("acc", "buffer.seen", dtype="i64"), _in("scalar", "decay"), _in("scalar", "lr"), _in("state", "buffer.beta"), _in("acc", "loss")]
    seen, decay, lr, beta, loss = range(6, 11)
    out = {}
    for i, n in enumerate(names):
        m = w("add", w("mul", 2 * i + 1, beta), w("mul", 4 + i, w.f32(1 / MICRO_BATCHES)))
        out |= {f"param.{n}": w("sub", w("mul", 2 * i, decay), w("mul", m, lr)), f"m.{n}": m}
    out |= {"buffer.seen": w("reshape", seen, shape=()), "metric.loss": w("mul", loss, w.f32(1 / MICRO_BATCHES))}
    return Part(inputs=tuple(w.inputs), nodes=tuple(w.nodes), outputs=tuple(Output(kind="state", name=n, value=v) for n, v in out.items()))


def _program() -> Program:
    gain = Constant(name="gain", type=TensorType(dtype="f32", shape=(WIDTH,)), data=floats(9, (WIDTH,), "even").astype("<f4").tobytes())
    program = Program(gemm_bits=14, micro_batches=MICRO_BATCHES, constants=(gain,), micro=_micro(), update=_update())
    check(program)
    return program


PROGRAM = _program()
SCHEDULE = np.array([[0.99, 0.5 / (t + 1)] for t in range(6)], np.float32)
RECORD_DATA = {"id": integers(3, (RECORDS,), 0, 99), "text": integers(4, (RECORDS, CONTEXT + 1), 0, WORDS).astype(np.uint8)}


def initial_state() -> Tensors:
    state: Tensors = {n: floats(i, s, "even") * np.float32(0.3) for i, (n, s) in enumerate(SHAPES.items())}
    state |= {n.replace("param", "m"): np.zeros(s, np.float32) for n, s in SHAPES.items()}
    return state | {"buffer.beta": np.array(0.9, np.float32), "buffer.seen": np.array(5, np.int64), "metric.loss": np.array(0, np.float32)}


class Data(NamedTuple):
    dataset: DatasetRef
    keys: tuple[bytes, ...]
    """Data key of each shard."""

    def batch(self, step: int, m: int) -> Tensors:
        wanted = record_indices(ORDER, RECORDS, step, m, MICRO_BATCHES, BATCH)
        return {name: array[wanted] for name, array in RECORD_DATA.items()}


@functools.cache
def data() -> Data:
    keys = [merkle.sha256(b"shard key", bytes([i])) for i in range(3)]
    given = iter(keys)
    dataset, _ = shard.seal_dataset("words", RECORD_DATA, lambda key: b"e" * 80, shard_records=12, new_key=lambda: next(given))
    return Data(dataset, tuple(keys))


@functools.cache
def executor() -> Executor:
    return Executor(PROGRAM, SCHEDULE, MICRO_BATCHES)


ZERO = Digest(bytes(32))
