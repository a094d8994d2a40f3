"""A small language model whose links the tests of disputes argue about: an embedding, a product, a softmax with cross-entropy, dropout by
Philox, a buffer that is carried along, SGD with momentum; trees that are deeper than one opening in every place."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from assay import merkle, shard
from assay.dispute.game import seal_digest
from assay.dispute.moves import Facts, Open, Revealed
from assay.dispute.players import Challenger, Played, Player, play
from assay.dispute.proofs import Data, Job, Link
from assay.exact.conformance import Writer, floats, integers
from assay.exact.table import TensorType
from assay.execute import schedule_root
from assay.ids import ZERO_ADDRESS, Address, Digest
from assay.job import DatasetRef, data_root
from assay.program import Constant, Input, Output, Part, Program, check
from assay.sampling import record_indices
from assay.state import Tensors, frozen_root, state_root

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
    w.inputs += [_in("batch", "id", BATCH, dtype="i64")]
    w.inputs += [_in("counter", "micro", dtype="i64"), _in("counter", "step", dtype="i64"), _in("constant", "gain", WIDTH)]
    w.inputs += [_in("frozen", "param.bias", WIDTH)]
    emb, out, grad_emb, grad_out, loss, seen, text, ids, micro, step, gain, bias = range(len(w.inputs))
    words = w("cast", text, dtype="i64")
    seen_by = w("reshape", w("slice", words, axis=1, start=0, stop=CONTEXT, step=1), shape=(TOKENS,))
    target = w("reshape", w("slice", words, axis=1, start=1, stop=CONTEXT + 1, step=1), shape=(TOKENS, 1))
    chance = w("philox", w("iota", n=WIDTH), step, micro)
    kept = w("cast", w("ge", chance, w("const", dtype="i64", bits=1 << 30)), dtype="f32")
    scale = w("mul", kept, gain)
    hidden = w("add", w("mul", w("take_rows", emb, seen_by), scale), bias)
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
    first = w("slice", words, axis=1, start=0, stop=1, step=1)
    counted = w("add", w("sum", first, axes=(0, 1), keepdim=False), w("sum", ids, axes=(0,), keepdim=False))
    sums = {
        "grad.emb": w("add", grad_emb, w("scatter_add_rows", seen_by, back, rows=WORDS)),
        "grad.out": w("add", grad_out, w("matmul", w("permute", hidden, axes=(1, 0)), wrong)),
        "loss": w("add", loss, mean),
        "buffer.seen": w("add", seen, counted),
    }
    return Part(inputs=tuple(w.inputs), nodes=tuple(w.nodes), outputs=tuple(Output(kind="acc", name=n, value=v) for n, v in sums.items()))


def _update() -> Part:
    w = Writer()
    names = ("emb", "out")
    w.inputs = [_in("state", f"{kind}.{n}", *SHAPES[f"param.{n}"]) for n in names for kind in ("param", "m")]
    w.inputs += [_in("acc", f"grad.{n}", *SHAPES[f"param.{n}"]) for n in names]
    w.inputs += [_in("acc", "buffer.seen", dtype="i64"), _in("scalar", "decay"), _in("scalar", "lr"), _in("state", "buffer.beta"), _in("acc", "loss")]
    w.inputs += [_in("frozen", "buffer.rate")]
    seen, decay, lr, beta, loss, rate = range(6, 12)
    out = {}
    for i, n in enumerate(names):
        m = w("add", w("mul", 2 * i + 1, beta), w("mul", 4 + i, w.f32(1 / MICRO_BATCHES)))
        out |= {f"param.{n}": w("sub", w("mul", 2 * i, decay), w("mul", m, lr)), f"m.{n}": m}
    out |= {"buffer.seen": w("reshape", seen, shape=()), "metric.loss": w("mul", w("mul", loss, w.f32(1 / MICRO_BATCHES)), rate)}
    return Part(inputs=tuple(w.inputs), nodes=tuple(w.nodes), outputs=tuple(Output(kind="state", name=n, value=v) for n, v in out.items()))


FROZEN = {"buffer.rate": np.array(0.75, np.float32), "param.bias": floats(8, (WIDTH,), "even") * np.float32(0.1)}


def _program() -> Program:
    gain = Constant(name="gain", type=TensorType(dtype="f32", shape=(WIDTH,)), data=floats(9, (WIDTH,), "even").astype("<f4").tobytes())
    program = Program(gemm_bits=14, micro_batches=MICRO_BATCHES, constants=(gain,), frozen_root=frozen_root(FROZEN), micro=_micro(), update=_update())
    check(program)
    return program


PROGRAM = _program()
SCHEDULE = np.array([[0.99, 0.5 / (t + 1)] for t in range(6)], np.float32)
RECORD_DATA = {"id": integers(3, (RECORDS,), 0, 99), "text": integers(4, (RECORDS, CONTEXT + 1), 0, WORDS).astype(np.uint8)}


def initial_state() -> Tensors:
    state: Tensors = {n: floats(i, s, "even") * np.float32(0.3) for i, (n, s) in enumerate(SHAPES.items())}
    state |= {n.replace("param", "m"): np.zeros(s, np.float32) for n, s in SHAPES.items()}
    return state | {"buffer.beta": np.array(0.9, np.float32), "buffer.seen": np.array(5, np.int64), "metric.loss": np.array(0, np.float32)}


def batch_of(step: int, m: int) -> Tensors:
    wanted = record_indices(ORDER, RECORDS, step, m, MICRO_BATCHES, BATCH)
    return {name: array[wanted] for name, array in RECORD_DATA.items()}


class Sealed(NamedTuple):
    dataset: DatasetRef
    keys: tuple[bytes, ...]
    """Data key of each shard."""


@functools.cache
def data() -> Sealed:
    keys = [merkle.sha256(b"shard key", bytes([i])) for i in range(3)]
    given = iter(keys)
    dataset, _ = shard.seal_dataset("words", RECORD_DATA, lambda key: b"e" * 80, shard_records=12, new_key=lambda: next(given))
    return Sealed(dataset, tuple(keys))


START, STOP = 1, 3
LINKS = (STOP - START) * (MICRO_BATCHES + 1)
CHALLENGER, PROVIDER, VERIFIER = (Address("0x" + c * 40) for c in "abc")
SALT = merkle.sha256(b"salt")


@functools.cache
def job() -> Job:
    def shard_of(at: int) -> tuple[Tensors, bytes]:
        first = 12 * at
        return {name: array[first : first + 12] for name, array in RECORD_DATA.items()}, data().keys[at]

    return Job(PROGRAM, SCHEDULE, Data(data().dataset, ORDER, BATCH, shard_of), FROZEN)


@functools.cache
def run(start: int, stop: int) -> tuple[Link, ...]:
    """The links of steps [start, stop) from the initial state, each from the end of the one before."""
    state, links = initial_state(), []
    for step in range(start, stop):
        acc: Tensors | None = None
        for m in range(MICRO_BATCHES):
            links.append(Link(job(), step, m, state, acc, batch_of(step, m)))
            acc = links[-1].end
        links.append(Link(job(), step, MICRO_BATCHES, state, acc, {}))
        state = links[-1].end
    return tuple(links)


def honest() -> tuple[Link, ...]:
    """The links of steps [START, STOP)."""
    return run(START, STOP)


@functools.cache
def ends() -> tuple[Digest, ...]:
    return tuple(link.end_root for link in honest())


def facts(committed: Sequence[Digest], *revealed: Revealed) -> Facts:
    return Facts(
        chain_id=31337, disputes=Address("0x" + "d" * 40), segment=7, challenger=CHALLENGER, program_root=job().root,
        schedule_root=schedule_root(SCHEDULE), data_root=data_root(data().dataset, ORDER, BATCH), steps=len(SCHEDULE),
        micro_batches=MICRO_BATCHES, micro_leaves=PROGRAM.micro_leaves, update_leaves=PROGRAM.update_leaves, start=START, stop=STOP,
        parent_end=state_root(START, initial_state()), link_root=merkle.root_of(list(committed)), revealed=revealed,
        open_window=50, grace=10, budget=100, bond=1001, stake=501,
    )  # fmt: skip


def opening(unit: int, target: int = 0, verifier: Address = ZERO_ADDRESS) -> Open:
    return Open(target=target, unit=unit, verifier=verifier, round=0, salt=SALT)


def dispute(asserter: Player, committed: Sequence[Digest], unit: int, challenger: Player | None = None) -> Played:
    """Over link `unit` of a provider that committed to some ends; the challenger is honest if none is given."""
    told, move = facts(committed), opening(unit)
    return play(told, seal_digest(told, move), asserter, challenger or Challenger(honest().__getitem__, ends(), move))
