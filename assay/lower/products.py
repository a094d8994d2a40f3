"""Two treatments of matrix products that make few bits go further: both leave the product and change what its operands look like.

Balancing (as SmoothQuant, arXiv:2211.10438, for both operands at once and in every product): for each k of the contracted axis, what
A has as column k is divided by s_k and what B has as row k is multiplied by it, with

    s_k = √max|A_·k| / √max|B_k·|        (each maximum at least the least normal float)

so that an element that is small in one operand but matters in the product is no longer lost beside large ones of its row. Needed
where elements of a row are many orders of magnitude apart; costs each operand one rounding an element. An infinity or NaN spreads to the whole
product.

Rotation (as Xi et al., arXiv:2306.11987, for training with 4 bits): (A H)(Hᵀ B) = w · A B for the Hadamard matrix H of w rows (Sylvester's:
entries ±1, H Hᵀ = w I), which spreads a large element, and with it the error of rounding, over its neighbours. H is applied as a
butterfly of log2 w steps,

    y = x · (1, -1) + reverse(x)        on pairs of elements, half of what is left of an axis of w apart,

each of which rounds an element once. The factor w is a power of two and is taken from the product, where it is exact (but for
subnormal results); the scales of rows and columns take no notice of it. Sums of w elements near the largest float overflow. An axis of K
elements is padded with zeros to a multiple of w = min(64, least power of two >= K); element k is mixed with k ± j · K/w, so that the
innermost axis of every step is long.

All of this is existing operators: the engine knows nothing of it. Imports no torch.
"""

from __future__ import annotations

from assay.build import Builder, Value
from assay.program import Part

WIDTH = 64
"""Most elements that are mixed with each other: a power of two."""
LEAST = 2.0**-126


def treated(part: Part, *, balance: bool, rotate: bool) -> Part:
    """The part with the operands of every `matmul` balanced, rotated along the contracted axis, or both in this order."""
    b = Builder()
    values = [b.input(i.kind, i.name, i.type) for i in part.inputs]
    for node in part.nodes:
        operands = [values[v] for v in node.inputs]
        if node.op == "matmul":
            x, y = operands
            if balance:
                x, y = balanced(b, x, y)
            values.append(_rotated(b, x, y) if rotate else b.emit("matmul", x, y))
        else:
            values.append(b.emit(node.op, *operands, **node.attrs))
    return b.part((o.kind, o.name, values[o.value]) for o in part.outputs)


def _turned(x: Value) -> tuple[int, ...]:
    """The axes with the last two exchanged."""
    rank = len(x.shape)
    return (*range(rank - 2), rank - 1, rank - 2)


# ---- balancing ---------------------------------------------------------------------------------------------------------------


def balanced(b: Builder, x: Value, y: Value) -> tuple[Value, Value]:
    """x [*, M, K] with columns divided by s_k, y [*, K, N] with rows multiplied by it."""
    rank = len(x.shape)

    def root(v: Value, axis: int) -> Value:
        most = b.emit("amax", b.emit("abs", v), axes=(axis,), keepdim=True)
        return b.emit("sqrt", b.emit("maximum", most, b.const(LEAST)))

    s = b.div(b.permute(root(x, rank - 2), _turned(x)), root(y, rank - 1))
    return b.div(x, b.permute(s, _turned(x))), b.mul(y, s)


# ---- rotation ----------------------------------------------------------------------------------------------------------------


def width(k: int) -> int:
    """w for a contracted axis of k elements."""
    return min(WIDTH, 1 << (k - 1).bit_length())


def _rotated(b: Builder, x: Value, y: Value) -> Value:
    """x [*, M, K] times y [*, K, N]."""
    x = b.permute(rotate(b, b.permute(x, _turned(x))), _turned(x))
    return b.scale(b.emit("matmul", x, rotate(b, y)), 1 / width(y.shape[-2]))


def rotate(b: Builder, x: Value) -> Value:
    """H x along the last axis but one: [*, K, N] -> [*, K up to a multiple of w, N], √w times as long."""
    *lead, k, n = x.shape
    w = width(k)
    if w == 1:
        return x
    x = b.emit("pad", x, axis=len(lead), before=0, after=-k % w, bits=0)
    shape = x.shape
    signs = b.reshape(b.emit("select", b.emit("eq", b.emit("iota", n=2), b.const(0, "i64")), b.const(1.0), b.const(-1.0)), (2, 1))
    for blocks in (1 << i for i in range(w.bit_length() - 1)):
        x = b.reshape(x, (*lead, blocks, 2, shape[-2] * n // (2 * blocks)))
        x = b.add(b.mul(x, signs), b.emit("reverse", x, axis=len(lead) + 1))
    return b.reshape(x, shape)
