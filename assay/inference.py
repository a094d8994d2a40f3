"""Receipts for inferences: what a model put out for an input, signed, and computed again by anybody to the same bits.

A receipt holds the program, the input and the output, and names the weights by their root, so that whoever has these weights (a base model
that is public, an adapter that was bought) needs nothing else. It says the same as a commitment to one step of a job whose program is that one:
the output's root is the state root after the step. Who signs a receipt that does not come out has signed a proof of it.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from msgspec import UNSET, UnsetType

from assay.codec import Message, digest
from assay.exact.memory import needed
from assay.execute import Executor, zeros
from assay.ids import U63, Address, Digest
from assay.job import Origin
from assay.program import Limits, Program, ProgramError
from assay.stages import program_root
from assay.state import BadTensors, Tensors, batch_root, from_bytes, state_root, to_bytes

MAX_RECEIPT = 1 << 28
MAX_TENSORS = 1 << 26
"""Bytes of an input or an output."""
MAX_MEMORY = 1 << 35
NO_ROOT = Digest(b"")


class InferenceReceipt(Message, frozen=True, kw_only=True):
    format: Literal["assay-inference/1"] = "assay-inference/1"
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
    output_root: Digest
    """Of the state `output.<name>` after the program's one step."""
    origin: Origin | UnsetType = UNSET
    account: Address
    time: U63
    """Seconds since 1970, as its signer says."""


class SignedReceipt(Message, frozen=True, kw_only=True):
    receipt: InferenceReceipt
    signature: bytes
    """By the account, of `statement` (EIP-191)."""


def statement(receipt: InferenceReceipt) -> str:
    """What is signed."""
    return f"assay inference receipt {digest(receipt).hex()}"


class Refuted(Exception):
    """The receipt is false, or is none; says where."""


def infer(program: Program, weights: Tensors, batch: Tensors, threads: int = 1) -> Tensors:
    """What a program of one step puts out for a batch. Raises BadTensors."""
    if len(program.scalars) or program.micro_batches != 1:
        raise BadTensors("the program is no inference: it has a schedule, or several micro-batches")
    executor = Executor(program, np.zeros((1, 0), np.float32), 1, threads, weights)
    state = {name: zeros(t) for name, t in program.state.items()}
    acc = executor.micro(0, 0, state, executor.zero_acc(0, state), batch)
    return executor.update(0, state, acc)


def make(
    name: str, program: Program, weights: Tensors, batch: Tensors, account: Address, time: int, origin: Origin | None, threads: int = 1
) -> tuple[InferenceReceipt, Tensors]:
    """Computes, and writes the receipt, to be signed. Raises BadTensors."""
    output = infer(program, weights, batch, threads)
    receipt = InferenceReceipt(
        name=name, program=program.dump(), program_root=program_root(program),
        weights_root=NO_ROOT if program.frozen_root is UNSET else program.frozen_root,
        input=to_bytes(batch), input_root=batch_root(batch), output=to_bytes(output), output_root=state_root(1, output),
        origin=UNSET if origin is None else origin, account=account, time=time,
    )  # fmt: skip
    return receipt, output


def replay(receipt: InferenceReceipt, weights: Tensors, threads: int = 1, max_memory: int = MAX_MEMORY) -> Tensors:
    """Computes a receipt's output again. Raises Refuted when it is another one, or when the receipt does not fit together; BadTensors when
    `weights` are not those that it names."""
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
    if (memory := needed(program, threads)) > max_memory:
        raise Refuted(f"its program needs {memory} bytes of memory; the limit here is {max_memory}")
    output = infer(program, weights, batch, threads)
    if (found := state_root(1, output)) != receipt.output_root:
        worst = next(name for name in sorted(output) if name not in said or not np.array_equal(output[name], said[name], equal_nan=True))
        raise Refuted(f"{worst!r} comes out otherwise: the output computed here has the root {found.hex()[:16]}…")
    return output
