"""A training step as data: what a client publishes, a provider runs, a verifier replays and a contract can point into.

A program has two parts. `micro` (state, batch, accumulator) -> accumulator adds one micro-batch's gradients and loss;
`update` (state, accumulator, scalars) -> state applies the optimiser. A part is a list of nodes, each one operator of the closed
set (assay.exact.table) on earlier values: no control flow, no user code, and nothing whose size is not known from the text.

    micro   inputs  state  "param.<name>", "buffer.<name>"; batch "<field>"; acc "grad.<name>", "loss", "buffer.<name>"
            outputs acc    "grad.<name>" = acc + gradient of this micro-batch's mean loss, "loss" = acc + loss; "buffer.<name>" as changed
    update  inputs  state, acc; scalar "<name>" (f32, rank 0: row t of the schedule)
            outputs state  "param.<name>", "m.<name>", "v.<name>", "buffer.<name>", "metric.loss"; entries without an output stay
    both    inputs  counter "step" and "micro" (i64, rank 0; M in an update): what a random number may depend on, besides the program
                    frozen "param.<name>", "buffer.<name>", "constant.<digest>": tensors that no step changes

The frozen tensors are a blob of their own beside the job's state; `frozen_root` names them all, exactly, and the program's root binds
that. A program without them has no `frozen_root`.

The accumulator of a step starts as zeros, but an entry with the name of a state's entry (a buffer) starts as that. Values of a part
are numbered: inputs first, then constants, then nodes in order; node operands name smaller numbers. The text is canonical JSON
without floats (assay.codec). `Program.load` trusts nothing: every shape and dtype is inferred again and compared, and the work
is known before anything runs (the memory, too: assay.exact.memory).
"""

from __future__ import annotations

import struct
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from assay import codec
from assay.exact.table import OPS, Attr, TensorType, TypeRuleError, check_bits, check_type, infer
from assay.ids import Digest

MAX_BYTES = 64 << 20
MAX_NODES = 1 << 16
MAX_OPERANDS = 4096
"""Of one node: a stage with all its operands must fit a transaction."""
MAX_NAME = 200
MAX_CONSTANT_BYTES = 1 << 20
"""All inline constants of a program together."""
GEMM_BITS = (8, 23)
"""Least and greatest width of quantised GEMM operands."""


class ProgramError(ValueError):
    """The program breaks a rule: the fault of whoever wrote it. Says which node and operator."""


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME)]
InputKind = Literal["state", "acc", "batch", "scalar", "counter", "constant", "frozen"]
OutputKind = Literal["acc", "state"]


class Input(_Record, frozen=True, kw_only=True):
    """A value that comes from outside the part. `constant` names an entry of Program.constants."""

    kind: InputKind
    name: Name
    type: TensorType


class Node(_Record, frozen=True, kw_only=True):
    """One stage: `op` of the closed set on the values `inputs`; its result has type `type`."""

    op: Annotated[str, msgspec.Meta(max_length=32)]
    inputs: tuple[int, ...]
    attrs: dict[str, Attr]
    type: TensorType


class Output(_Record, frozen=True, kw_only=True):
    kind: OutputKind
    name: Name
    value: int


class Part(_Record, frozen=True, kw_only=True):
    inputs: tuple[Input, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Output, ...]

    def type_of(self, value: int) -> TensorType:
        n = len(self.inputs)
        return self.inputs[value].type if value < n else self.nodes[value - n].type


class Constant(_Record, frozen=True, kw_only=True):
    """A tensor written into the program: little-endian elements in C order."""

    name: Name
    type: TensorType
    data: bytes


class Cost(NamedTuple):
    """Of one run of a part: estimated scalar operations, bytes read and written by its nodes."""

    flops: int
    bytes: int


class Limits(NamedTuple):
    """What a provider or verifier is ready to run; a program over it is refused before anything runs. (Its memory: assay.exact.memory.)"""

    flops: int = 1 << 50


DEFAULT_LIMITS = Limits()


class Program(_Record, frozen=True, kw_only=True):
    format: Literal["assay-program/1"] = "assay-program/1"
    gemm_bits: int
    """b: operands of `matmul` are quantised to b bits (assay.exact)."""
    micro_batches: Annotated[int, msgspec.Meta(ge=1, lt=1 << 20)]
    """M: how many runs of `micro` the update's averaging stands for."""
    constants: tuple[Constant, ...]
    frozen_root: Digest | UnsetType = UNSET
    """Root of the frozen tensors (assay.state.frozen_root); not there when no part reads any."""
    micro: Part
    update: Part

    @staticmethod
    def load(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Program:
        """The program whose canonical text is `data`, checked in full. Raises ProgramError."""
        try:
            program = codec.decode(data, Program, limit=MAX_BYTES)
        except codec.Malformed as error:
            raise ProgramError(f"program refused: {error}") from None
        check(program, limits)
        return program

    def dump(self) -> bytes:
        """Canonical text."""
        return codec.encode(self)

    @property
    def state(self) -> dict[str, TensorType]:
        """Entries of the training state that the program reads or writes, sorted by name."""
        return _entries("state", self.micro, self.update)

    @property
    def accumulator(self) -> dict[str, TensorType]:
        return _entries("acc", self.micro, self.update)

    @property
    def frozen(self) -> dict[str, TensorType]:
        """The frozen tensors, all of them, sorted by name."""
        return _entries("frozen", self.micro, self.update)

    @property
    def batch(self) -> dict[str, TensorType]:
        """Fields of one micro-batch; axis 0 counts records."""
        return _entries("batch", self.micro)

    @property
    def scalars(self) -> tuple[str, ...]:
        """Names of the schedule's columns, sorted."""
        return tuple(_entries("scalar", self.update))

    @property
    def micro_leaves(self) -> int:
        """Leaves of a micro-batch's trace (docs/protocol.md): head, one for each stage, end."""
        return len(self.micro.nodes) + 2

    @property
    def update_leaves(self) -> int:
        return len(self.update.nodes) + 2


def _entries(kind: str, *parts: Part) -> dict[str, TensorType]:
    found = [(i.name, i.type) for part in parts for i in part.inputs if i.kind == kind]
    found += [(o.name, part.type_of(o.value)) for part in parts for o in part.outputs if o.kind == kind]
    return {name: type for name, type in sorted(found, key=lambda entry: entry[0])}


# ---- cost ------------------------------------------------------------------------------------------------------------------


def cost(part: Part) -> Cost:
    """Of one run of a checked part."""
    types = [i.type for i in part.inputs] + [node.type for node in part.nodes]
    flops = moved = 0
    for node in part.nodes:
        operands = [types[v] for v in node.inputs]
        flops += OPS[node.op].flops(operands, node.type)
        moved += node.type.bytes + sum(t.bytes for t in operands)
    return Cost(flops, moved)


# ---- checks ----------------------------------------------------------------------------------------------------------------

_INPUTS = {
    "micro": {"state", "acc", "batch", "counter", "constant", "frozen"},
    "update": {"state", "acc", "scalar", "counter", "constant", "frozen"},
}
_COUNTERS = ("step", "micro")
_OUTPUTS = {"micro": "acc", "update": "state"}


def check(program: Program, limits: Limits = DEFAULT_LIMITS) -> None:
    """Raises ProgramError unless the program keeps every rule of this module and stays within `limits`."""
    if not GEMM_BITS[0] <= program.gemm_bits <= GEMM_BITS[1]:
        raise ProgramError(f"gemm_bits is {program.gemm_bits}, not in {GEMM_BITS[0]}..{GEMM_BITS[1]}")
    constants = _check_constants(program)
    for name in ("micro", "update"):
        _check_part(name, getattr(program, name), program.gemm_bits, constants)
    for kind in ("state", "acc", "frozen"):
        _check_agree(kind, program)
    _check_frozen(program)
    _check_outputs(program)
    if missing := sorted(program.accumulator.keys() - {o.name for o in program.micro.outputs}):
        raise ProgramError(f"micro does not put out the accumulator's {missing[0]!r}")
    for i in program.update.inputs:
        if i.kind == "scalar" and i.type != TensorType(dtype="f32", shape=()):
            raise ProgramError(f"scalar {i.name!r} is {i.type}, not f32[]")
    _check_batch(program)
    for name in ("micro", "update"):
        flops = cost(getattr(program, name)).flops
        if flops > limits.flops:
            raise ProgramError(f"{name} needs {flops} operations; the limit here is {limits.flops}")


def _check_constants(program: Program) -> dict[str, TensorType]:
    out: dict[str, TensorType] = {}
    if sum(len(c.data) for c in program.constants) > MAX_CONSTANT_BYTES:
        raise ProgramError(f"the constants take more than {MAX_CONSTANT_BYTES} bytes")
    for c in program.constants:
        where = f"constant {c.name!r}"
        _typed(where, c.type)
        if c.name in out:
            raise ProgramError(f"{where} occurs twice")
        if len(c.data) != c.type.bytes:
            raise ProgramError(f"{where} has {len(c.data)} bytes, its type {c.type} needs {c.type.bytes}")
        if c.type.dtype in ("f32", "bool"):
            width = {"f32": "<I", "bool": "<B"}[c.type.dtype]
            try:
                for bits in {b for (b,) in struct.iter_unpack(width, c.data)}:
                    check_bits(bits, c.type.dtype)
            except TypeRuleError as error:
                raise ProgramError(f"{where}: {error}") from None
        out[c.name] = c.type
    return out


def _typed(where: str, t: TensorType) -> None:
    try:
        check_type(t)
    except TypeRuleError as error:
        raise ProgramError(f"{where}: {error}") from None


def _check_part(name: str, part: Part, bits: int, constants: dict[str, TensorType]) -> None:
    if len(part.nodes) > MAX_NODES or len(part.inputs) > MAX_NODES:
        raise ProgramError(f"{name} has more than {MAX_NODES} nodes or inputs")
    seen: set[tuple[str, str]] = set()
    types: list[TensorType] = []
    for i in part.inputs:
        where = f"{name}, {i.kind} input {i.name!r}"
        if i.kind not in _INPUTS[name]:
            raise ProgramError(f"{where}: this part takes {', '.join(sorted(_INPUTS[name]))}")
        if (i.kind, i.name) in seen:
            raise ProgramError(f"{where} occurs twice")
        _typed(where, i.type)
        if i.kind == "counter" and (i.name not in _COUNTERS or i.type != TensorType(dtype="i64", shape=())):
            raise ProgramError(f"{where}: the counters are {' and '.join(_COUNTERS)}, each i64[]")
        if i.kind == "constant" and constants.get(i.name) != i.type:
            raise ProgramError(f"{where}: there is no constant of that name and type")
        seen.add((i.kind, i.name))
        types.append(i.type)
    for at, node in enumerate(part.nodes):
        where = f"{name} node {at} ({node.op})"
        if len(node.inputs) > MAX_OPERANDS:
            raise ProgramError(f"{where}: {len(node.inputs)} operands are more than {MAX_OPERANDS}")
        for value in node.inputs:
            if not 0 <= value < len(types):
                raise ProgramError(f"{where}: operand {value} is not a value before it")
        try:
            found = infer(node.op, [types[v] for v in node.inputs], node.attrs)
        except TypeRuleError as error:
            raise ProgramError(f"{where}: {error}") from None
        if found != node.type:
            raise ProgramError(f"{where}: says {node.type}, but yields {found}")
        if node.op == "matmul":
            check_gemm(where, bits, types[node.inputs[0]].shape[-1])
        types.append(found)
    names: set[str] = set()
    for o in part.outputs:
        if o.kind != _OUTPUTS[name]:
            raise ProgramError(f"{name}, output {o.name!r}: this part puts out {_OUTPUTS[name]}, not {o.kind}")
        if o.name in names:
            raise ProgramError(f"{name}, output {o.name!r} occurs twice")
        if not 0 <= o.value < len(types):
            raise ProgramError(f"{name}, output {o.name!r}: there is no value {o.value}")
        names.add(o.name)


def check_gemm(where: str, bits: int, k: int) -> None:
    """Raises ProgramError unless sums of K products of b-bit numbers fit int64 with room: 2(b-1) + ceil(log2 K) <= 62."""
    if 2 * (bits - 1) + (k - 1).bit_length() > 62:
        raise ProgramError(f"{where}: with b = {bits} an inner dimension of {k} overflows 62 bits")


def _check_agree(kind: str, program: Program) -> None:
    """One type for each entry, in both parts, read or written."""
    types: dict[str, TensorType] = {}
    for part in (program.micro, program.update):
        uses = [(i.name, i.type) for i in part.inputs if i.kind == kind]
        uses += [(o.name, part.type_of(o.value)) for o in part.outputs if o.kind == kind]
        for name, type in uses:
            if types.setdefault(name, type) != type:
                raise ProgramError(f"{kind} {name!r} is {types[name]} in one place and {type} in another")


def _check_frozen(program: Program) -> None:
    frozen = program.frozen
    if program.frozen_root is UNSET:
        if frozen:
            raise ProgramError(f"frozen tensors are read ({next(iter(frozen))!r}), but the program does not name their root")
        return
    if not frozen:
        raise ProgramError("a root of frozen tensors is named, but none are read")
    if len(program.frozen_root) != 32:
        raise ProgramError(f"the root of the frozen tensors has {len(program.frozen_root)} bytes, not 32")
    if both := sorted(frozen.keys() & program.state.keys()):
        raise ProgramError(f"{both[0]!r} is frozen and an entry of the state, too")


def _check_outputs(program: Program) -> None:
    """Every entry of a link's end is a tensor that a dispute can open (docs/dispute.md): no scalar or counter as it came in, and no entry of
    the accumulator that a step begins as zeros."""
    state = program.state
    for name, part in (("micro", program.micro), ("update", program.update)):
        for o in part.outputs:
            i = part.inputs[o.value] if o.value < len(part.inputs) else None
            if i is not None and (i.kind in ("scalar", "counter") or (name == "micro" and i.kind == "acc" and i.name not in state)):
                raise ProgramError(f"{name}, output {o.name!r}: the {i.kind} input {i.name!r} as it came in cannot be put out")


def _check_batch(program: Program) -> None:
    fields = program.batch
    if not fields:
        raise ProgramError("micro reads no field of the batch")
    if any(not t.shape for t in fields.values()) or len({t.shape[0] for t in fields.values()}) != 1:
        raise ProgramError("the fields of the batch differ in axis 0, the number of records")
