"""The published digests are the reference's, every operator is there with every dtype that it takes, and every route matches them."""

from __future__ import annotations

import pytest

from assay.exact import conformance
from assay.exact.table import ITEM_BYTES, OPS, Attr, Kind, TensorType, TypeRuleError, infer
from tests.exact.support import ROUTES, Route, names, on

SOME: dict[str, dict[str, Attr]] = {
    "iota": {"n": 3}, "sum": {"axes": (0,), "keepdim": True}, "amax": {"axes": (0,), "keepdim": True}, "cumsum": {"axis": 0},
    "scatter_add_rows": {"rows": 3}, "reshape": {"shape": (4, 1)}, "permute": {"axes": (1, 0)}, "expand": {"shape": (2, 2, 2)},
    "slice": {"axis": 0, "start": 0, "stop": 1, "step": 1}, "reverse": {"axis": 0}, "pad": {"axis": 0, "before": 1, "after": 0, "bits": 1},
    "windows": {"axis": 0, "size": 1, "stride": 1, "dilation": 1}, "spread": {"axis": 0, "n": 9, "stride": 2, "dilation": 1}, "concat": {"axis": 0},
    "gather": {"axis": 0}, "scatter_value": {"axis": 0, "bits": 1},
}  # fmt: skip
"""Attributes that suit operands [2, 2] (an index of [2] where rows are meant)."""
INDEXED = {"take_rows": 1, "gather": 1, "scatter_value": 1, "scatter_add_rows": 0}
"""Operator -> which operand is the index."""


def kinds(op: str) -> set[tuple[str, ...]]:
    """Dtypes of operands, and of the result of a cast or constant, that the table lets an operator have."""
    out = set()
    for dtype in ITEM_BYTES:
        if op in ("const", "cast"):
            sources = ITEM_BYTES if op == "cast" else ("",)
            trials = [((s,) if s else (), {"dtype": dtype} | ({"bits": 1} if op == "const" else {}), (s, dtype)) for s in sources]
        elif op in INDEXED:
            trials = [((dtype, i) if INDEXED[op] else (i, dtype), SOME.get(op, {}), (dtype, i)) for i in ITEM_BYTES]
        elif op == "select":
            trials = [(("bool", dtype, dtype), {}, (dtype,))]
        else:
            arity = OPS[op].arity
            trials = [((dtype,) * (2 if arity is None else arity), SOME.get(op, {}), (dtype,))]
        for operands, attrs, key in trials:
            shapes = [(2,) if op == "scatter_add_rows" and i == 0 else (2, 2) for i in range(len(operands))]
            try:
                infer(op, [TensorType(dtype=d, shape=s) for d, s in zip(operands, shapes, strict=True)], attrs)
            except TypeRuleError:
                continue
            out.add(key if OPS[op].arity != 0 or op == "const" else ())
    return out


def used() -> dict[str, set[tuple[str, ...]]]:
    """The same of the set's nodes."""
    out: dict[str, set[tuple[str, ...]]] = {op: set() for op in OPS}
    for case in conformance.cases():
        for node in case.part.nodes:
            dtypes = [case.part.type_of(v).dtype for v in node.inputs]
            if node.op in ("const", "cast"):
                key = (dtypes[0] if dtypes else "", str(node.attrs["dtype"]))
            elif node.op in INDEXED:
                key = (dtypes[1 - INDEXED[node.op]], dtypes[INDEXED[node.op]])
            else:
                key = (dtypes[-1],) if dtypes else ()
            out[node.op].add(key)
    return out


def test_published_digests_are_the_references() -> None:
    with on(Route("numpy", 1)):
        assert conformance.from_reference() == conformance.expected()


def test_every_operator_is_in_the_set_with_every_dtype() -> None:
    seen = used()
    assert {op: kinds(op) - seen[op] for op in OPS if kinds(op) - seen[op]} == {}
    assert all(kinds(op) for op in OPS)


def test_attributes_take_more_than_one_value() -> None:
    """Each attribute of each operator; every axis of rank 3; keepdim both ways."""
    values: dict[tuple[str, str], set[Attr]] = {}
    for case in conformance.cases():
        for node in case.part.nodes:
            for name, value in node.attrs.items():
                values.setdefault((node.op, name), set()).add(value)
    assert set(values) == {(op, name) for op, row in OPS.items() for name in row.attrs}
    assert {key for key, found in values.items() if len(found) < 2} == set()
    assert all(found >= {0, 1, 2} for (op, name), found in values.items() if name == "axis" and op != "spread")
    assert all(found == {True, False} for (_, name), found in values.items() if name == "keepdim")


@pytest.mark.parametrize(
    ("op", "attrs"),
    [("iota", {"n": 0}), ("reshape", {"shape": (0,)}), ("expand", {"shape": (0, 4, 4)}), ("slice", {"axis": 0, "start": 1, "stop": 1, "step": 1})],
)
def test_nothing_is_empty(op: str, attrs: dict[str, Attr]) -> None:
    operands = [] if OPS[op].kind is Kind.CONST else [TensorType(dtype="f32", shape=(4, 4))]
    with pytest.raises(TypeRuleError):
        infer(op, operands, attrs)


@pytest.mark.parametrize("route", ROUTES, ids=names)
def test_route_conforms(route: Route) -> None:
    with on(route):
        assert conformance.failures(route.threads) == []


def test_a_wrong_digest_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = dict(conformance.expected())
    wrong["moves"] = "0" * 64
    monkeypatch.setattr(conformance, "expected", lambda: wrong)
    assert conformance.failures() == ["moves"]
