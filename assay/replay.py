"""An exported model run once more, node by node, with three kinds of call written as arithmetic that has no hidden parts.

* Dropout, and attention with dropout, multiply by a mask that comes in from outside (assay.trace makes it by Philox): no bits of
  torch's own generators get into a program.
* Batch normalisation in training writes its running statistics as changes of buffers that tracing sees.
* LSTM and GRU layers are unrolled over time: their backward passes have no operators that could be lowered.

One of the few modules that import torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import fx, nn

_DROPOUT = {f"aten.{kind}dropout{place}.default": bool(kind) for kind in ("", "feature_") for place in ("", "_")}
"""Operator -> whether whole channels are dropped."""
_ATTENTION = "aten.scaled_dot_product_attention.default"
_BATCH_NORM = "aten.batch_norm.default"


class Site(NamedTuple):
    """A place where the model drops elements: the mask's shape, and the probability of a zero."""

    shape: tuple[int, ...]
    p: float


def _argument(node: fx.Node, at: int, name: str, default: Any = None) -> Any:
    return node.args[at] if at < len(node.args) else node.kwargs.get(name, default)


def _shape(node: Any) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)


def site(node: fx.Node) -> Site | None:
    """What a call of the exported graph drops; None if nothing. Raises ValueError where that cannot be a mask."""
    name = str(node.target)
    if name in _DROPOUT:
        p, training = float(_argument(node, 1, "p")), _argument(node, 2, "train")
        shape = _shape(node.args[0])
        if not training or p == 0:
            return None
        if p >= 1:
            raise ValueError("a probability of 1 leaves nothing to train")
        return Site((*shape[:2], *(1,) * (len(shape) - 2)) if _DROPOUT[name] else shape, p)
    if name == _ATTENTION and (p := float(_argument(node, 4, "dropout_p", 0.0))) > 0:
        query, key = _shape(node.args[0]), _shape(node.args[1])
        return Site((*query[:-1], key[-2]), p)
    if name in ("aten.lstm.input", "aten.gru.input") and node.args[5] and node.args[6]:
        raise ValueError("dropout between the layers of an LSTM or GRU: use layers of one level with nn.Dropout between them")
    return None


def sites(graph: fx.Graph) -> dict[str, Site]:
    """Name of a node -> what it drops, in order. Raises ValueError."""
    return {node.name: s for node in graph.nodes if node.op == "call_function" and (s := site(node)) is not None}


class Replay(nn.Module):
    """The exported module; each node's origin (module, line) is handed on to what is traced."""

    def __init__(self, exported: fx.GraphModule) -> None:
        super().__init__()
        self.exported = exported

    def forward(self, batch: dict[str, torch.Tensor], masks: dict[str, torch.Tensor]) -> torch.Tensor:
        return cast(torch.Tensor, _Interpreter(self.exported, masks).run(batch))


class _Interpreter(fx.Interpreter):
    def __init__(self, exported: fx.GraphModule, masks: dict[str, torch.Tensor]) -> None:
        super().__init__(exported)
        self._masks = masks
        self._node = ""

    def run_node(self, n: fx.Node) -> Any:
        self._node = n.name
        return super().run_node(n)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name, mask = str(target), self._masks.get(self._node)
        if name in _DROPOUT:
            return args[0] if mask is None else args[0] * mask
        if name == _ATTENTION and mask is not None:
            return _attention(mask, *args, **kwargs)
        if name == _BATCH_NORM and args[5]:
            return _batch_norm(*args)
        if name == "aten.lstm.input":
            return _recurrent(_lstm_step, *args, **kwargs)
        if name == "aten.gru.input":
            return _recurrent(_gru_step, args[0], [args[1]], *args[2:], **kwargs)
        return super().call_function(target, args, kwargs)


def _attention(
    mask: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, *, scale: float | None = None, enable_gqa: bool = False,
) -> torch.Tensor:  # fmt: skip
    if enable_gqa:
        k, v = (t.repeat_interleave(q.shape[-3] // t.shape[-3], -3) for t in (k, v))
    scores = q @ k.transpose(-2, -1) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if is_causal:
        bias = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if bias is not None:
        scores = scores.masked_fill(~bias, -math.inf) if bias.dtype == torch.bool else scores + bias
    return scores.softmax(-1) * mask @ v


def _batch_norm(
    x: torch.Tensor, weight: Any, bias: Any, mean: torch.Tensor | None, var: torch.Tensor | None, _: bool, momentum: float, eps: float, *__: Any
) -> torch.Tensor:
    if mean is not None and var is not None:
        axes = [0, *range(2, x.dim())]
        seen = x.detach()
        mean.copy_(mean * (1 - momentum) + seen.mean(axes) * momentum)
        var.copy_(var * (1 - momentum) + seen.var(axes, correction=1) * momentum)
    return F.batch_norm(x, None, None, weight, bias, True, momentum, eps)


def _lstm_step(gates: torch.Tensor, hidden: torch.Tensor, weight: torch.Tensor, bias: Any, cell: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Hochreiter and Schmidhuber, Neural Computation 9 (1997); gates in PyTorch's order i, f, g, o."""
    i, f, g, o = (gates + F.linear(hidden, weight, bias)).chunk(4, -1)
    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


def _gru_step(gates: torch.Tensor, hidden: torch.Tensor, weight: torch.Tensor, bias: Any) -> tuple[torch.Tensor, ...]:
    """arXiv:1406.1078, with the reset gate after the product, as PyTorch has it; gates in the order r, z, n."""
    r, z, n = gates.chunk(3, -1)
    hr, hz, hn = F.linear(hidden, weight, bias).chunk(3, -1)
    z = (z + hz).sigmoid()
    return ((1 - z) * (n + (r + hr).sigmoid() * hn).tanh() + z * hidden,)


def _recurrent(
    step: Any, x: torch.Tensor, initial: Sequence[torch.Tensor], weights: Sequence[torch.Tensor], biased: bool, layers: int,
    _dropout: float, _training: bool, both: bool, batch_first: bool,
) -> tuple[torch.Tensor, ...]:  # fmt: skip
    """(output, last states...) of a stack of recurrent layers; the input products of all times are one product."""
    x = x.transpose(0, 1) if batch_first else x
    given: Iterator[torch.Tensor] = iter(weights)
    last: list[tuple[torch.Tensor, ...]] = []
    for layer in range(layers):
        outputs = []
        for direction in range(1 + both):
            w_in, w_hidden = next(given), next(given)
            b_in, b_hidden = (next(given), next(given)) if biased else (None, None)
            states = tuple(s[layer * (1 + both) + direction] for s in initial)
            gates = F.linear(x, w_in, b_in).unbind(0)
            seen = []
            for gate in reversed(gates) if direction else gates:
                states = step(gate, states[0], w_hidden, b_hidden, *states[1:])
                seen.append(states[0])
            outputs.append(torch.stack(seen[::-1] if direction else seen))
            last.append(states)
        x = torch.cat(outputs, -1) if both else outputs[0]
    return (x.transpose(0, 1) if batch_first else x), *(torch.stack(s) for s in zip(*last, strict=True))


def is_chance(name: str) -> bool:
    """Whether an operator of the exported graph draws random numbers that have no mask."""
    return name not in _DROPOUT and re.search("dropout|bernoulli|aten.rand|aten.normal|multinomial|exponential", name) is not None
