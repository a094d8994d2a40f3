"""Providers that lie about their links (tests/link_world.py): each runs the honest link with one thing replaced, commits to what comes out,
goes on from there, and stands by it in a dispute."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from assay import merkle
from assay.dispute.proofs import Link
from assay.dispute.tree import Tree
from assay.ids import Digest
from assay.program import Node
from assay.state import Tensors
from tests import dispute_cases as cases
from tests.liars.disputes import Padded, at, flipped
from tests.liars.engine import IdleLink
from tests.link_world import OPTIONS, LinkHands

LAST_STEP = OPTIONS.segment_steps - 1
Change = Callable[[Any, Sequence[Any]], Any]


def computing(op: str, change: Change, nth: int = 0, part: str = "micro") -> type[Link]:
    """The nth stage with an operator comes out otherwise: (honest output, operands) -> output."""
    place = at(op, nth, part)

    class Otherwise(Link):
        def node(self, number: int, node: Node, args: Sequence[Any]) -> Any:
            made = super().node(number, node, args)
            return change(made, args) if number == place and self.is_update == (part == "update") else made

    return Otherwise


def reading(part: str, **other: Callable[[Link, Any], Any]) -> type[Link]:
    """Computes with other inputs than those that it names, and opens those that it names: the best that it can do."""

    class Elsewhere(Link):
        @functools.cached_property
        def values(self) -> list[Any]:
            given = Link.inputs(self)
            return [*given, *super().values[len(given) :]]

        def inputs(self) -> list[Any]:
            given = super().inputs()
            if self.is_update != (part == "update"):
                return given
            names = [f"{i.kind}_{i.name}".replace(".", "_") for i in self.trees.part.inputs]
            return [other[name](self, value) if name in other else value for name, value in zip(names, given, strict=True)]

    return Elsewhere


class Skips(Link):
    """Hands on what it was given as what it has computed."""

    @functools.cached_property
    def end(self) -> Tensors:
        return self.state if self.is_update else self.acc


class FirstAlone(Skips):
    """Computes the first micro-batch of each step, where it expects the draw, and hands on what it was given in the others."""

    @functools.cached_property
    def end(self) -> Tensors:
        return Link.end.func(self) if self.m == 0 else super().end  # type: ignore[attr-defined]


class FalseEnd(Link):
    """Commits to an end that it has not come to, goes on from the one that it has, and shows the honest trace."""

    @functools.cached_property
    def end_root(self) -> Digest:
        true: Digest = Link.end_root.func(self)  # type: ignore[attr-defined]
        return merkle.sha256(b"elsewhere", true) if self.is_update and self.step == LAST_STEP else true


class OtherEnd(Link):
    """Ends an update in other parameters than its stages put out."""

    @functools.cached_property
    def end(self) -> Tensors:
        made = super().end
        return made | {"param.out": made["param.out"] + np.float32(1)} if self.is_update else made


class NativeProducts(Link):
    """Multiplies in plain float32, as a cheaper machine would."""

    def node(self, number: int, node: Node, args: Sequence[Any]) -> Any:
        return args[0] @ args[1] if node.op == "matmul" else super().node(number, node, args)


class JunkInPads(computing("exp", lambda y, _: flipped(y, 3, 23))):  # type: ignore[misc]  # a class that is made
    """One number wrong, and something where the pads of its trace belong."""

    @functools.cached_property
    def trace(self) -> Tree:
        return Padded([merkle.leaf(i, content) for i, content in enumerate(self.contents)])


def zero(_: Link, value: Any) -> Any:
    return np.zeros_like(value)


LINKS: dict[str, type[Link]] = {
    "computes nothing": Skips,
    "computes the first micro-batch alone": FirstAlone,
    "an honest trace to a false end": FalseEnd,
    "takes products as zeros": IdleLink,
    "one bit of one gradient": computing("scatter_add_rows", lambda y, _: flipped(y, 77, 3)),
    "products in native float32": NativeProducts,
    "a stale state": reading("micro", state_param_emb=lambda link, value: cases.initial_state()["param.emb"] if link.step else value),
    "a wrong learning rate": reading("update", scalar_lr=lambda _, value: np.float32(value * 2)),
    "a wrong moment": reading("update", state_m_out=lambda _, value: value + np.float32(0.25)),
    "a wrong counter of dropout": reading("micro", counter_step=lambda _, value: value + 1),
    "links that do not chain": reading("micro", acc_grad_out=zero),
    "an end that is not the outputs": OtherEnd,
    "junk where pads belong": JunkInPads,
}


def providing(kind: type[Link]) -> type[LinkHands]:
    class Lying(LinkHands):
        def make(self, step: int, m: int, state: Tensors, acc: Tensors | None, batch: Tensors) -> Link:
            return kind(cases.job(), step, m, state, acc, batch)

    return Lying


class OtherData(LinkHands):
    """Trains on records of its own."""

    def make(self, step: int, m: int, state: Tensors, acc: Tensors | None, batch: Tensors) -> Link:
        other = {name: (array + 1) % 7 if name == "text" else array for name, array in batch.items()}
        return super().make(step, m, state, acc, {name: other[name].astype(batch[name].dtype) for name in batch})


class OtherOrder(LinkHands):
    """Trains on the right records in another order."""

    def make(self, step: int, m: int, state: Tensors, acc: Tensors | None, batch: Tensors) -> Link:
        return super().make(step, m, state, acc, cases.batch_of(step, cases.MICRO_BATCHES - 1 - m) if batch else batch)


PROVIDERS: dict[str, type[LinkHands]] = {name: providing(kind) for name, kind in LINKS.items()}
PROVIDERS |= {"other data": OtherData, "another order": OtherOrder}
