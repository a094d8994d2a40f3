"""The engine without a compiler: the reference's operators, with matrix products through a BLAS on integer-valued doubles.

Such a product is exact in any order of summation as long as every partial sum stays below 2^53; wider ones are split into two of
half the width. Everything else is the specification itself (assay.exact.reference), and so the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.exact import reference
from assay.exact.functions import NAN
from assay.program import Part

Array = NDArray[Any]


class FlushedError(RuntimeError):
    """The processor's flags are not those of IEEE 754, and NumPy cannot set them (the native route does)."""


def integer_product(qa: Array, qb: Array, bits: int) -> Array:
    """qa @ qb as int64, exact: both int64 with |q| < 2^(bits-1)."""
    inner = (qa.shape[-1] - 1).bit_length()
    a = qa.astype(np.float64)
    if 2 * (bits - 1) + inner <= 53:
        return np.asarray(np.matmul(a, qb.astype(np.float64))).astype(np.int64)
    half = bits // 2
    if bits - 1 + max(half, bits - half) + inner > 53:
        return np.asarray(np.matmul(qa, qb))
    high = qb >> half
    low = (qb - (high << half)).astype(np.float64)
    top = np.asarray(np.matmul(a, high.astype(np.float64))).astype(np.int64)
    return (top << half) + np.asarray(np.matmul(a, low)).astype(np.int64)


def matmul(a: Array, b: Array, bits: int) -> Array:
    qa, sa, fa = reference.quantise(a, -1, bits)
    qb, sb, fb = reference.quantise(b, -2, bits)
    return np.where(fa & fb, reference.round_scaled(integer_product(qa, qb, bits), -(sa + sb)), NAN)


def last_uses(part: Part) -> list[list[int]]:
    """For each node, the values that no later node and no output needs."""
    n = len(part.inputs)
    last = [-1] * n + list(range(len(part.nodes)))
    for at, node in enumerate(part.nodes):
        for value in node.inputs:
            last[value] = max(last[value], at)
    for output in part.outputs:
        last[output.value] = len(part.nodes)
    dying: list[list[int]] = [[] for _ in part.nodes]
    for value, at in enumerate(last):
        if 0 <= at < len(part.nodes):
            dying[at].append(value)
    return dying


def run(part: Part, inputs: Sequence[Array], gemm_bits: int, see: Callable[[int, Array], None] | None = None) -> dict[str, Array]:
    """Outputs of the part by name; `see` is shown every node's result. Raises FlushedError."""
    if np.float32(2.0**-126) * np.float32(0.5) == 0:
        raise FlushedError("a library has told this thread to flush subnormal numbers, which would change results: start a process without it")
    values: list[Array | None] = list(inputs)
    dying = last_uses(part)
    kept = {o.value for o in part.outputs}
    results = {v: inputs[v] for v in kept if v < len(inputs)}
    with np.errstate(all="ignore"):
        for at, node in enumerate(part.nodes):
            args = [v for i in node.inputs if (v := values[i]) is not None]
            if node.op == "matmul":
                result = matmul(args[0], args[1], gemm_bits)
            else:
                result = reference.apply(node.op, node.attrs, args, node.type.dtype, gemm_bits)
            if see is not None:
                see(at, result)
            value = len(inputs) + at
            values.append(result)
            if value in kept:
                results[value] = result
            for dead in dying[at]:
                values[dead] = None
    return {o.name: np.array(results[o.value], order="C") for o in part.outputs}
