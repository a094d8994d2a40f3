"""Random programs: whatever is fused, shared, reused or left as a view, the bits are the reference's, fused and traced."""

from __future__ import annotations

import numpy as np
import pytest

from assay.exact.conformance import Writer, floats, integers
from assay.exact.native.build import levels
from assay.exact.table import OPS, Attr, Kind, TypeRuleError
from assay.program import Part
from tests.exact.support import Array, Route, check

NODES = 45


def _attrs(rng: np.random.Generator, op: str, w: Writer, x: int) -> dict[str, Attr]:
    """Attributes that may suit operand `x`."""
    t = w.type(x)
    rank, shape = len(t.shape), t.shape
    axis = int(rng.integers(rank)) if rank else 0
    at = shape[axis] if rank else 1
    match op:
        case "const":
            return {"dtype": "f32", "bits": int(np.float32(rng.standard_normal()).view(np.uint32))}
        case "iota":
            return {"n": int(rng.integers(1, 9))}
        case "cast":
            return {"dtype": str(rng.choice(["f32", "i32", "i64", "bool"]))}
        case "sum" | "amax":
            axes = np.flatnonzero(rng.integers(0, 2, rank)) if rank else np.zeros(0, np.int64)
            return {"axes": tuple(axes.tolist()) or (axis,), "keepdim": bool(rng.integers(2))}
        case "reshape":
            dims = list(shape)
            if rank > 1 and rng.integers(2):
                i = int(rng.integers(rank - 1))
                dims[i : i + 2] = [dims[i] * dims[i + 1]]
            elif rank and at % 2 == 0:
                dims[axis : axis + 1] = [2, at // 2]
            else:
                dims.insert(axis, 1)
            return {"shape": tuple(dims)}
        case "permute":
            return {"axes": tuple(rng.permutation(rank).tolist())}
        case "expand":
            return {"shape": (int(rng.integers(1, 4)), *(3 if n == 1 else n for n in shape))}
        case "slice":
            start = int(rng.integers(at))
            return {"axis": axis, "start": start, "stop": int(rng.integers(start, at)) + 1, "step": int(rng.integers(1, 3))}
        case "pad":
            return {"axis": axis, "before": int(rng.integers(3)), "after": int(rng.integers(3)), "bits": int(rng.integers(2))}
        case "scatter_value":
            return {"axis": axis, "bits": int(rng.integers(2))}
        case "windows" | "spread":
            n = {"size": int(rng.integers(1, 4))} if op == "windows" else {"n": int(rng.integers(2, 20))}
            return {"axis": axis, "stride": int(rng.integers(1, 4)), "dilation": int(rng.integers(1, 3)), **n}
        case "concat" | "gather" | "cumsum" | "reverse":
            return {"axis": axis}
        case "scatter_add_rows":
            return {"rows": int(rng.integers(1, 6))}
    return {}


def random_part(seed: int) -> tuple[Part, list[Array]]:
    """A part of some 45 nodes over operands of fitting types, and inputs for it. Views, reuse and late uses are likely."""
    rng = np.random.default_rng(seed)
    kinds = ["even", "even", "wide", "special"]
    shapes = [(4, 6), (4, 6), (6,), (2, 2, 6), (4, 1), (), (8, 6), (1, 700)]
    inputs: list[Array] = [floats(seed * 100 + i, s, kinds[int(rng.integers(4))]) for i, s in enumerate(shapes)]
    inputs += [integers(seed, (4,), -1, 7), integers(seed, (4, 6), -1, 5).astype(np.int32), integers(seed, (4, 6), 0, 2) == 1]
    w = Writer(*inputs)
    names = list(OPS)
    often = ("add", "mul", "select", "sum", "matmul", "and", "or", "philox")
    weight = np.array([3.0 if OPS[n].kind is Kind.MOVE or n in often else 1.0 for n in names])
    tries = 0
    while len(w.nodes) < NODES and (tries := tries + 1) < 20_000:
        op = str(rng.choice(names, p=weight / weight.sum()))
        count = len(w.inputs) + len(w.nodes)
        arity = OPS[op].arity if OPS[op].arity is not None else int(rng.integers(1, 4))
        recent = rng.integers(2)
        operands = [int(rng.integers(max(0, count - 12), count) if recent else rng.integers(count)) for _ in range(arity or 0)]
        if op in ("philox", "and", "or"):
            fitting = [v for v in range(count) if w.type(v).dtype == ("i64" if op == "philox" else "bool")]
            operands = rng.choice(fitting, arity or 0).tolist()
        try:
            v = w(op, *operands, **_attrs(rng, op, w, operands[0] if operands else 0))
        except TypeRuleError:
            continue
        if w.type(v).elements > 20_000 or len(w.type(v).shape) > 6:
            w.nodes.pop()
    last = len(w.inputs) + len(w.nodes)
    outputs = sorted({int(v) for v in rng.integers(0, last, 6)} | {last - 1})
    return w.part(*outputs), inputs


@pytest.mark.parametrize("seed", range(60))
def test_random_program(seed: int) -> None:
    part, inputs = random_part(seed)
    check(part, inputs, Route(levels()[seed % len(levels())], 1 + seed % 2), (14, 23)[seed % 5 == 0])


def test_random_programs_use_every_operator() -> None:
    used = {node.op for seed in range(60) for node in random_part(seed)[0].nodes}
    assert used == set(OPS)
