"""Receipts for inferences: what a model put out for an input, signed, and computed again by anybody to the same bits.

A receipt holds the program, the input and the output, and names the weights by their root, so that whoever has these weights (a base model
that is public, an adapter that was bought) needs nothing else. It says the same as a commitment to one step of a job whose program is that one:
two links, the run (its end is the accumulator's root) and the update, which puts the output into the state. So it can be disputed like a step of
training (assay.answering), down to one operation. Who signs a receipt that does not come out has signed a proof of it.

The job's data are the input itself: one shard, its records laid so that the job's order reads them as they were given, salted from a key that
everybody knows.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from msgspec import UNSET, UnsetType

from assay import cid, shard
from assay.codec import Message, digest
from assay.exact.memory import needed
from assay.execute import Executor, zeros
from assay.ids import U63, Address, Digest
from assay.job import DatasetRef, Origin, SealedRef, ShardRef
from assay.merkle import sha256
from assay.program import Limits, Program, ProgramError
from assay.sampling import record_indices
from assay.stages import program_root
from assay.state import BadTensors, Tensors, acc_root, batch_root, from_bytes, state_root, to_bytes

MAX_RECEIPT = 1 << 28
MAX_TENSORS = 1 << 26
"""Bytes of an input or an output."""
MAX_MEMORY = 1 << 35
NO_ROOT = Digest(b"")
ORDER, KEY = sha256(b"assay/inference-order/1"), sha256(b"assay/inference-key/1")
"""Of the permutation of the input's records, and of their salts."""
SCHEDULE = np.zeros((1, 0), np.float32)


class InferenceReceipt(Message, frozen=True, kw_only=True):
    format: Literal["assay-inference/2"] = "assay-inference/2"
    name: str
    program: bytes
    """Canonical text."""
    program_root: Digest
    weights_root: Digest
    """Of the frozen tensors (assay.state.frozen_root); empty for a program that reads none."""
    input: bytes
    """A safetensors file of one batch."""
    input_root: Digest
    output: bytes
    run_root: Digest
    """Of the accumulator after the program's run: the end of the first link."""
    output_root: Digest
    """Of the state `output.<name>` after the program's one step: the end of the second."""
    origin: Origin | UnsetType = UNSET
    account: Address
    time: U63
    """Seconds since 1970, as its signer says."""


class Bonded(Message, frozen=True, kw_only=True):
    """The same claim, signed for a contract that holds stake of the signer's (contracts/src/Receipts.sol)."""

    chain_id: U63
    contract: Address
    bond: U63
    expires: U63
    """Chain time, seconds: until when it can be disputed."""
    signature: bytes
    """EIP-712, of assay.answering.claim."""


class SignedReceipt(Message, frozen=True, kw_only=True):
    receipt: InferenceReceipt
    signature: bytes
    """By the account, of `statement` (EIP-191)."""
    bonded: Bonded | UnsetType = UNSET


def statement(receipt: InferenceReceipt) -> str:
    """What is signed."""
    return f"assay inference receipt {digest(receipt).hex()}"


class Refuted(Exception):
    """The receipt is false, or is none; says where."""


def infer(program: Program, weights: Tensors, batch: Tensors, threads: int = 1) -> tuple[Digest, Tensors]:
    """What a program of one step puts out for a batch, and the root of the accumulator before that. Raises BadTensors."""
    if len(program.scalars) or program.micro_batches != 1:
        raise BadTensors("the program is no inference: it has a schedule, or several micro-batches")
    executor = Executor(program, SCHEDULE, 1, threads, weights)
    state = start_of(program)
    acc = executor.micro(0, 0, state, executor.zero_acc(0, state), batch)
    return acc_root(0, 1, acc), executor.update(0, state, acc)


def start_of(program: Program) -> Tensors:
    return {name: zeros(t) for name, t in program.state.items()}


def data_of(batch: Tensors) -> tuple[DatasetRef, Tensors]:
    """The input as a job's dataset, and its records in the dataset's order."""
    count = len(next(iter(batch.values())))
    places = record_indices(ORDER, count, 0, 0, 1, count)
    records = {name: np.empty_like(array) for name, array in batch.items()}
    for name, array in batch.items():
        records[name][places] = array
    nowhere = SealedRef(cid=cid.of(b""), size=0, key_id=sha256(KEY), envelope=b"")
    fields = shard.fields_of(records)
    root = shard.record_root(fields, records, KEY)
    return DatasetRef(name="asked", fields=fields, shards=(ShardRef(sealed=nowhere, records=count, root=root),)), records


def make(
    name: str, program: Program, weights: Tensors, batch: Tensors, account: Address, time: int, origin: Origin | None, threads: int = 1
) -> tuple[InferenceReceipt, Tensors]:
    """Computes, and writes the receipt, to be signed. Raises BadTensors."""
    run_root, output = infer(program, weights, batch, threads)
    receipt = InferenceReceipt(
        name=name, program=program.dump(), program_root=program_root(program),
        weights_root=NO_ROOT if program.frozen_root is UNSET else program.frozen_root,
        input=to_bytes(batch), input_root=batch_root(batch), run_root=run_root, output=to_bytes(output), output_root=state_root(1, output),
        origin=UNSET if origin is None else origin, account=account, time=time,
    )  # fmt: skip
    return receipt, output


def replay(receipt: InferenceReceipt, weights: Tensors, threads: int = 1, max_memory: int = MAX_MEMORY) -> Tensors:
    """Computes a receipt's output again. Raises Refuted when it is another one, or when the receipt does not fit together; BadTensors when
    `weights` are not those that it names."""
    program, batch, said = opened(receipt)
    if (memory := needed(program, threads)) > max_memory:
        raise Refuted(f"its program needs {memory} bytes of memory; the limit here is {max_memory}")
    run_root, output = infer(program, weights, batch, threads)
    if (found := state_root(1, output)) != receipt.output_root:
        worst = next(name for name in sorted(output) if name not in said or not np.array_equal(output[name], said[name], equal_nan=True))
        raise Refuted(f"{worst!r} comes out otherwise: the output computed here has the root {found.hex()[:16]}…")
    if run_root != receipt.run_root:
        raise Refuted(f"the output is right and its run is not: it has the root {run_root.hex()[:16]}… here")
    return output


def opened(receipt: InferenceReceipt) -> tuple[Program, Tensors, Tensors]:
    """Program, input and output of a receipt that fits together. Raises Refuted."""
    try:
        program = Program.load(receipt.program, Limits())
        batch = from_bytes(receipt.input, MAX_TENSORS)
        said = from_bytes(receipt.output, MAX_TENSORS)
    except (ProgramError, BadTensors) as error:
        raise Refuted(f"what it holds cannot be read: {error}") from None
    if program_root(program) != receipt.program_root or batch_root(batch) != receipt.input_root or state_root(1, said) != receipt.output_root:
        raise Refuted("a root that it names is not that of what it holds")
    if (NO_ROOT if program.frozen_root is UNSET else program.frozen_root) != receipt.weights_root:
        raise Refuted("its program reads other weights than it names")
    return program, batch, said
