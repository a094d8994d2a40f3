"""Programs as bytes: every operator's stage comes back as what it was, the bytes are those of the page, and nothing else decodes."""

from __future__ import annotations

import hashlib
import struct

import msgspec
import numpy as np
import pytest

from assay import merkle, stages
from assay.exact.conformance import Writer, cases
from assay.exact.hashing import tensor_root
from assay.exact.table import OPS, TensorType
from assay.exact.types import ITEM_BYTES
from assay.program import Node, Part, Program, ProgramError
from tests.exact.mlp import mlp
from tests.test_program import PROGRAM


def u(size: int, *values: int) -> bytes:
    return b"".join(value.to_bytes(size, "big") for value in values)


def test_codes_are_those_of_the_page() -> None:
    assert set(stages.CODES) == set(OPS)
    assert sorted(stages.CODES.values()) == list(range(50))
    found = {op: stages.CODES[op] for op in ("const", "add", "sub", "cast", "sum", "matmul", "pad", "concat", "take_rows", "gather", "scatter_value")}
    assert list(found.values()) == [0, 15, 16, 32, 33, 36, 45, 46, 47, 48, 49]


def test_every_operators_stage_comes_back() -> None:
    seen = set()
    for case in cases():
        for at, node in enumerate(case.part.nodes):
            data = stages.encode_stage(case.part, at, case.gemm_bits)
            stage = stages.decode_stage(data)
            attrs = {name: value for name, value in node.attrs.items() if name != "shape"}
            if node.op == "matmul":
                attrs = {"bits": case.gemm_bits}
            assert stage == (node.op, tuple((v, case.part.type_of(v)) for v in node.inputs), node.type, attrs)
            seen.add(node.op)
            for bad in (data[:-1], data + b"\0", b"\xff" + data[1:]):
                with pytest.raises(stages.Undecodable):
                    stages.decode_stage(bad)
    assert seen | {"const"} == set(OPS)


def test_a_stage_by_hand() -> None:
    w = Writer(np.zeros((4, 3), np.float32))
    const = stages.decode_stage(u(1, 0) + u(2, 0) + u(1, 1, 0, 1) + u(8, 5))
    assert const == ("const", (), TensorType(dtype="f32", shape=()), {"dtype": "f32", "bits": 5})
    w("sum", w("pad", 0, axis=1, before=1, after=2, bits=0x3F800000), axes=(0, 1), keepdim=False)
    part = w.part(2)
    padded = u(1, 1, 2) + u(8, 4, 6)
    assert stages.encode_stage(part, 0, 14) == u(1, 45) + u(2, 1) + u(4, 0) + u(1, 1, 2) + u(8, 4, 3) + padded + u(1, 1) + u(8, 1, 2, 0x3F800000)
    assert stages.encode_stage(part, 1, 14) == u(1, 33) + u(2, 1) + u(4, 1) + padded + u(1, 1, 0) + u(1, 2, 0, 1, 0)


def test_inputs_and_outputs_by_hand() -> None:
    """State entries: m.w, metric.loss, param.w, v.w; accumulator: grad.w, loss; batch x, y; constant gain."""
    micro = stages.encode_part(PROGRAM, "micro")
    by_name = {(r.kind, r.name): (r, data) for data in micro.inputs for r in [stages.decode_input(data)]}
    f32 = lambda *shape: u(1, 1, len(shape)) + u(8, *shape)  # noqa: E731
    assert by_name[0, "param.w"][1] == u(1, 0) + u(4, 2) + f32(4, 3) + u(2, 7) + b"param.w"
    assert by_name[1, "loss"][1] == u(1, 1) + u(4, 1) + f32() + u(2, 4) + b"loss" + b"\xff" * 4
    assert by_name[2, "y"][1] == u(1, 2) + u(4, 1) + f32(8, 3) + u(2, 1) + b"y"
    gain = tensor_root(np.ones(3, np.float32))
    assert by_name[5, "gain"][1] == u(1, 5) + u(4, 0) + f32(3) + u(2, 4) + b"gain" + gain
    update = stages.encode_part(PROGRAM, "update")
    scalars = [r for r in map(stages.decode_input, update.inputs) if r.kind == 3]
    assert [(r.place, r.name, r.extra) for r in scalars] == [(0, "decay", u(4, 3)), (1, "inv_root_bias2", u(4, 3)), (2, "step_size", u(4, 3))]
    values = {o.name: o.value for o in PROGRAM.update.outputs}
    assert [(o.name, o.value) for o in map(stages.decode_output, update.outputs)] == [(n, values[n]) for n in sorted(values)]
    kept = [o for o in map(stages.decode_output, stages.encode_part(mlp(), "update").outputs) if o.value == stages.NONE]
    assert [o.name for o in kept] == ["buffer.decay"]
    for data in (*micro.inputs, *update.inputs):
        with pytest.raises(stages.Undecodable):
            stages.decode_input(data[:-1])


def test_an_accumulators_entry_that_starts_as_a_buffer_names_it() -> None:
    from tests.dispute_cases import PROGRAM as carried

    records = [stages.decode_input(data) for data in stages.encode_part(carried, "micro").inputs]
    found = {r.name: int.from_bytes(r.extra, "big") for r in records if r.kind == 1}
    assert found["buffer.seen"] == list(carried.state).index("buffer.seen")
    assert found["loss"] == stages.NONE


def test_the_root_is_over_both_parts() -> None:
    head = stages.program_head(PROGRAM)
    assert len(head) == 221
    assert stages.program_root(PROGRAM) == hashlib.sha256(b"\x15" + head).digest()
    bits, micro_batches, (micro, update) = stages.decode_head(head)
    assert (bits, micro_batches) == (14, 2)
    for name, record in (("micro", micro), ("update", update)):
        part = stages.encode_part(PROGRAM, name)
        assert record[:3] == tuple(map(len, part))
        assert record[3:] == tuple(merkle.root_of(items) for items in part)
    assert update.outputs == len(PROGRAM.state)
    assert head[:5] == struct.pack(">BI", 14, 2)


def test_too_many_operands_for_one_transaction_are_refused() -> None:
    w = Writer(np.zeros(1, np.float32), np.zeros((), np.float32))
    w.nodes.append(Node(op="concat", inputs=(0,) * 4097, attrs={"axis": 0}, type=TensorType(dtype="f32", shape=(4097,))))
    part: Part = msgspec.structs.replace(w.part(2), inputs=tuple(msgspec.structs.replace(i, name=f"n{k}") for k, i in enumerate(w.inputs)))
    program = Program(gemm_bits=14, micro_batches=1, constants=(), micro=part, update=Part(inputs=(), nodes=(), outputs=()))
    with pytest.raises(ProgramError, match="4097 operands are more than 4096"):
        Program.load(program.dump())


def test_all_dtypes_have_their_code() -> None:
    for dtype in ITEM_BYTES:
        array = np.zeros(3, {"f32": "<f4", "i32": "<i4", "i64": "<i8", "bool": "?", "u8": "u1"}[dtype])
        t = Writer(array).type(0)
        assert merkle.sha256(b"\x10", stages.encode_type(t), merkle.root_of([array.tobytes().ljust(1024, b"\0")])) == tensor_root(array)
