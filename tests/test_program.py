"""The program format: what a program may be, and that nothing else gets in, whatever bytes a stranger sends."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay import codec
from assay.build import Builder, bits_of
from assay.exact.table import MAX_DIM, OPS, TensorType, TypeRuleError, infer
from assay.optim import SGD, AdamW, Cosine, Linear, SettingError, update_part
from assay.program import Constant, Limits, Program, ProgramError, cost
from assay.stages import program_root

SCALAR = TensorType(dtype="f32", shape=())


def f32(*shape: int) -> TensorType:
    return TensorType(dtype="f32", shape=shape)


def build() -> Program:
    """Least squares of x w against y: small, but with every kind of input and an optimiser."""
    b = Builder()
    w, x, y = b.input("state", "param.w", f32(4, 3)), b.input("batch", "x", f32(8, 4)), b.input("batch", "y", f32(8, 3))
    offset = b.sub(b.emit("matmul", x, w), b.mul(y, b.input("constant", "gain", f32(3))))
    loss = b.scale(b.sum(b.mul(offset, offset), (0, 1), False), 1 / 24)
    gradient = b.emit("matmul", b.permute(x, (1, 0)), b.scale(offset, 2 / 24))
    micro = b.part(
        [
            ("acc", "loss", b.add(b.input("acc", "loss", SCALAR), loss)),
            ("acc", "grad.w", b.add(b.input("acc", "grad.w", w.type), gradient)),
        ]
    )
    gain = Constant(name="gain", type=f32(3), data=bytes.fromhex("0000803f") * 3)
    update = update_part(AdamW(lr=0.1, clip=1.0), {"w": w.type}, 2)
    return Program(gemm_bits=14, micro_batches=2, constants=(gain,), micro=micro, update=update)


PROGRAM = build()
TEXT = PROGRAM.dump()


def text_of(change: Callable[[dict[str, Any]], None]) -> bytes:
    """Canonical text of the program after a change to its plain data."""
    data = json.loads(TEXT)
    change(data)
    return codec.encode(data)


def node_of(data: dict[str, Any], op: str, part: str = "micro") -> dict[str, Any]:
    return next(n for n in data[part]["nodes"] if n["op"] == op)


def test_a_program_loads_as_what_it_was() -> None:
    loaded = Program.load(TEXT)
    assert loaded == PROGRAM
    assert loaded.dump() == TEXT
    assert list(loaded.state) == ["m.w", "metric.loss", "param.w", "v.w"]
    assert list(loaded.accumulator) == ["grad.w", "loss"]
    assert list(loaded.batch) == ["x", "y"]
    assert loaded.scalars == ("decay", "inv_root_bias2", "step_size")
    assert loaded.micro_leaves == len(loaded.micro.nodes) + 2


def test_the_root_binds_nodes_interface_and_constants() -> None:
    def swap(d: dict[str, Any]) -> None:
        a, b = d["micro"]["outputs"]
        a["name"], b["name"] = b["name"], a["name"]

    roots = {program_root(PROGRAM)}
    for change in (
        lambda d: d["micro"]["nodes"][-1].update(op="sub"),
        lambda d: d["constants"][0].update(data="AACAPwAAgD8AAABA"),
        lambda d: d.update(gemm_bits=15),
        lambda d: d.update(micro_batches=3),
    ):
        roots.add(program_root(Program.load(text_of(change))))
    assert len(roots) == 5


def set_operand(op: str, at: int, value: int) -> Callable[[dict[str, Any]], None]:
    def change(d: dict[str, Any]) -> None:
        node_of(d, op)["inputs"][at] = value

    return change


def set_attrs(op: str, **attrs: Any) -> Callable[[dict[str, Any]], None]:
    return lambda d: node_of(d, op)["attrs"].update(attrs)


LIES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "shape": (lambda d: node_of(d, "matmul")["type"].update(shape=[8, 4]), r"\(matmul\): says f32\[8, 4\], but yields"),
    "dtype": (lambda d: node_of(d, "sub")["type"].update(dtype="i64"), r"\(sub\): says i64"),
    "unknown dtype": (lambda d: d["micro"]["inputs"][0]["type"].update(dtype="f64"), "no dtype 'f64'"),
    "cycle": (lambda d: node_of(d, "matmul").update(inputs=[len(d["micro"]["inputs"]), 1]), "not a value before it"),
    "forward": (set_operand("matmul", 0, 10**6), "not a value before it"),
    "negative": (set_operand("matmul", 0, -1), "not a value before it"),
    "unknown operator": (lambda d: node_of(d, "matmul").update(op="exec"), r"node \d+ \(exec\): is not an operator"),
    "operands": (lambda d: node_of(d, "sum").update(inputs=[0, 0]), "takes 1 operands, not 2"),
    "attribute missing": (lambda d: node_of(d, "sum")["attrs"].pop("axes"), "takes the attributes"),
    "attribute added": (set_attrs("sum", extra=1), "takes the attributes"),
    "attribute of another kind": (set_attrs("sum", axes=3), "attribute axes is no ints"),
    "flag as a number": (set_attrs("sum", keepdim=1), "attribute keepdim is no flag"),
    "axes": (set_attrs("sum", axes=[1, 0]), "not ascending axes"),
    "huge": (lambda d: d["micro"]["inputs"][0]["type"].update(shape=[MAX_DIM, MAX_DIM]), "more than"),
    "huge dimension": (lambda d: d["micro"]["inputs"][0]["type"].update(shape=[MAX_DIM + 1]), "dimension"),
    "empty": (lambda d: d["micro"]["inputs"][0]["type"].update(shape=[0]), "dimension 0"),
    "rank": (lambda d: d["micro"]["inputs"][0]["type"].update(shape=[1] * 9), "rank 9"),
    "input twice": (lambda d: d["micro"]["inputs"].append(d["micro"]["inputs"][0]), "occurs twice"),
    "output twice": (lambda d: d["micro"]["outputs"].append(d["micro"]["outputs"][0]), "occurs twice"),
    "output of nothing": (lambda d: d["micro"]["outputs"][0].update(value=10**6), "there is no value"),
    "output of another type": (lambda d: d["micro"]["outputs"][1].update(value=0), "in one place"),
    "accumulator as it came in": (
        lambda d: next(o for o in d["micro"]["outputs"] if o["name"] == "loss").update(
            value=next(i for i, x in enumerate(d["micro"]["inputs"]) if x["kind"] == "acc" and x["name"] == "loss")
        ),
        "acc input 'loss' as it came in cannot be put out",
    ),
    "accumulator not put out": (lambda d: d["micro"]["outputs"].pop(), "does not put out"),
    "state from micro": (lambda d: d["micro"]["outputs"][0].update(kind="state"), "puts out acc, not state"),
    "batch in update": (lambda d: d["update"]["inputs"][0].update(kind="batch"), "this part takes"),
    "entry of two types": (lambda d: d["update"]["inputs"][1].update(type={"dtype": "f32", "shape": [2]}), r"says f32\[4, 3\], but yields f32\[2\]"),
    "constant too short": (lambda d: d["constants"][0].update(data="AAAA"), "has 3 bytes"),
    "constant of a NaN": (lambda d: d["constants"][0].update(data="AACAfwAAgD8BAIB/"), "NaN"),
    "no such constant": (lambda d: d["constants"][0].update(name="x"), "no constant of that name"),
    "bits": (lambda d: d.update(gemm_bits=40), "gemm_bits"),
    "format": (lambda d: d.update(format="assay-program/2"), "refused"),
    "field": (lambda d: d.update(code="import os"), "refused"),
    "const": (lambda d: node_of(d, "const")["attrs"].update(bits=1 << 32), "is no f32"),
    "const of a NaN": (lambda d: node_of(d, "const")["attrs"].update(bits=0x7F800001), "NaN other than"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused_by_name(lie: str) -> None:
    change, message = LIES[lie]
    with pytest.raises(ProgramError, match=message):
        Program.load(text_of(change))


def test_only_canonical_text_is_a_program() -> None:
    for text in (json.dumps(json.loads(TEXT)).encode(), TEXT + b" ", TEXT[:-1], b"", b"\xff", b"null", b"[" * 100_000):
        with pytest.raises(ProgramError):
            Program.load(text)


def test_inner_dimensions_that_could_overflow_are_refused() -> None:
    b = Builder()
    x = b.input("batch", "x", f32(1, 1 << 20))
    b.input("acc", "loss", SCALAR)
    total = b.sum(b.emit("matmul", x, b.permute(x, (1, 0))), (0, 1), False)
    micro = b.part([("acc", "loss", b.add(b.input("acc", "loss", SCALAR), total))])
    program = Program(gemm_bits=22, micro_batches=1, constants=(), micro=micro, update=Builder().part([]))
    assert Program.load(program.dump()) == program
    wide = Program(gemm_bits=23, micro_batches=1, constants=(), micro=micro, update=Builder().part([]))
    with pytest.raises(ProgramError, match=r"\(matmul\): with b = 23 an inner dimension of 1048576"):
        Program.load(wide.dump())


def test_limits_are_checked_before_anything_runs() -> None:
    c = cost(PROGRAM.micro)
    assert c.flops > 2 * 8 * 4 * 3 * 2
    big = max(cost(PROGRAM.update).flops, c.flops)
    Program.load(TEXT, Limits(flops=big))
    with pytest.raises(ProgramError, match="limit here"):
        Program.load(TEXT, Limits(flops=big - 1))


# ---- fuzz ------------------------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(TEXT) - 1), st.binary(min_size=0, max_size=6), st.integers(0, 6))
def test_mutated_bytes_never_do_more_than_be_refused(at: int, new: bytes, removed: int) -> None:
    text = TEXT[:at] + new + TEXT[at + removed :]
    try:
        program = Program.load(text)
    except ProgramError:
        return
    assert program.dump() == text


ODD = st.one_of(
    st.integers(-3, 12),
    st.sampled_from([2**31, 2**32, 2**63, 2**64, -(2**63), 10**40]),
    st.booleans(),
    st.none(),
    st.text(max_size=3),
    st.sampled_from([*OPS, "f32", "i64", "i32", "bool", "u8", "state", "acc", "batch"]),
    st.lists(st.integers(-2, 9), max_size=3),
)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_mutated_values_never_do_more_than_be_refused(data: st.DataObject) -> None:
    """Replaces one to three values anywhere in the program by odd ones."""
    plain = json.loads(TEXT)
    for _ in range(data.draw(st.integers(1, 3))):
        here: Any = plain
        while True:
            keys = list(here) if isinstance(here, dict) else list(range(len(here)))
            if not keys:
                break
            key = data.draw(st.sampled_from(keys))
            if not isinstance(here[key], dict | list) or data.draw(st.integers(0, 9)) == 0:
                here[key] = data.draw(ODD)
                break
            here = here[key]
    try:
        text = codec.encode(plain)
    except (ValueError, OverflowError):
        return
    try:
        program = Program.load(text)
    except ProgramError:
        return
    assert program.dump() == text


TYPES = st.builds(
    lambda dtype, shape: TensorType(dtype=dtype, shape=tuple(shape)),
    st.sampled_from(["f32", "i64", "i32", "bool", "u8"]),
    st.lists(st.integers(1, 4), max_size=4),
)
ATTRS = st.one_of(st.integers(-2, 9), st.booleans(), st.sampled_from(["f32", "i64", "q"]), st.lists(st.integers(-2, 5), max_size=4).map(tuple))


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_inference_is_total(data: st.DataObject) -> None:
    op = data.draw(st.sampled_from(sorted(OPS)))
    row = OPS[op]
    types = data.draw(st.lists(TYPES, min_size=row.arity or 0, max_size=row.arity or 3))
    attrs = {name: data.draw(ATTRS) for name in row.attrs}
    try:
        result = infer(op, types, attrs)
    except TypeRuleError:
        return
    assert all(n >= 1 for n in result.shape)
    assert row.flops(types, result) >= 0


# ---- writing ---------------------------------------------------------------------------------------------------------------


def test_bits_are_rounded_once() -> None:
    assert bits_of(0.1, "f32") == 0x3DCCCCCD
    assert bits_of(1e300, "f32") == 0x7F800000
    assert bits_of(float("nan"), "f32") == 0x7FC00000
    assert bits_of(-1, "i64") == 2**64 - 1
    with pytest.raises(OverflowError):
        bits_of(300, "u8")


def test_equal_nodes_are_one_and_idle_ones_none() -> None:
    b = Builder()
    x = b.input("batch", "x", f32(2, 3))
    assert b.mul(x, x) == b.mul(x, x)
    assert b.reshape(b.reshape(x, (6,)), (2, 3)) == x
    assert b.permute(b.permute(x, (1, 0)), (1, 0)) == x
    assert b.scale(x, 1.0) == x
    assert b.add(x, b.full(2.0, x.type)) == b.add(x, b.const(2.0))
    b.emit("exp", x)
    part = b.part([("acc", "y", b.mul(x, x))])
    assert [n.op for n in part.nodes] == ["mul"]


def test_schedules() -> None:
    cosine = Cosine(warmup=4, floor=0.1)
    factors = [cosine.factor(t, 20) for t in range(20)]
    assert factors[:5] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert factors[-1] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(factors[4:]))
    assert [round(Linear(floor=0.5).factor(t, 3), 3) for t in range(3)] == [1.0, 0.75, 0.5]


def test_settings_out_of_range_say_what_is_meant() -> None:
    for make, message in (
        (lambda: AdamW(lr=-1), "AdamW: lr must be a positive number, not -1"),
        (lambda: AdamW(lr=1e-3, betas=(0.9, 1.0)), "betas are two numbers"),
        (lambda: SGD(lr=0.1, nesterov=True), "nesterov needs a momentum"),
        (lambda: Cosine(warmup=-1), "warmup counts steps"),
        (lambda: Cosine(floor=2), "floor must be a number in"),
        (lambda: AdamW(lr=1e-3, clip=0), "clip must be a positive number"),
    ):
        with pytest.raises(SettingError, match=message):
            make()
