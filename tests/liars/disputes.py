"""Parties to a dispute who lie, or doubt what is true: each the honest one with one part replaced, over the links of tests/dispute_cases.py."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from assay import merkle, stages
from assay.dispute import game, leaf, moves
from assay.dispute.moves import AnyMove, Phase, State
from assay.dispute.own import item_tree, own_tree
from assay.dispute.players import Asserter, Played, play
from assay.dispute.proofs import Entries, Link
from assay.dispute.tree import Tree
from assay.dispute.turns import walked_type
from assay.exact.types import ITEM_BYTES
from assay.ids import Digest
from tests.dispute_cases import PROGRAM, ends, facts, honest, opening


def at(op: str, nth: int = 0, part: str = "micro") -> int:
    """Number of the nth stage with an operator."""
    return [i for i, node in enumerate(getattr(PROGRAM, part).nodes) if node.op == op][nth]


def flipped(array: Any, element: int = 0, bit: int = 0) -> Any:
    """With one bit of one element turned."""
    out = np.array(array, order="C")
    size = out.dtype.itemsize
    raw = out.reshape(-1).view(np.uint8)
    raw[(element % out.size) * size + bit // 8 % size] ^= 1 << bit % 8 if out.dtype != bool else 1
    return out


class Liar(Link):
    """The honest link `unit` with some stages computed otherwise: number of a stage -> (stage's honest output, operands) -> output."""

    def __init__(self, unit: int, tampered: dict[int, Callable[[Any, Sequence[Any]], Any]] | None = None, **given: Any) -> None:
        link = honest()[unit]
        self.tampered = tampered or {}
        args = {"state": link.state, "acc": link.acc if link.m else None, "batch": link.batch} | given
        super().__init__(link.job, link.step, link.m, **args)

    def node(self, at: int, node: Any, args: Sequence[Any]) -> Any:
        result = super().node(at, node, args)
        return self.tampered[at](result, args) if at in self.tampered else result


class Cunning(Asserter):
    """Makes its totals fit its output, and hides what they are off by in one part of each split."""

    hide = -1

    def totals(self, link: Link, state: State) -> tuple[int, ...]:
        stage, totals = stages.decode_stage(state.stage), list(super().totals(link, state))
        wanted = link.tensor(len(link.trees.part.inputs) + state.place - 1).element(state.element)
        values = leaf.gather(stage, state.element, leaf.folds(stage), 0, lambda need: link.read(stage, need))
        low, high = leaf.bounds(stage, len(totals) - 1)
        key = lambda bits: bits ^ (0x7FFFFFFF if bits >> 31 else 0)  # noqa: E731
        for _ in range(70):  # bisection: outputs of f32 sums grow with their totals
            middle = (low + high) // 2
            got = leaf.finish(stage, state.element, [*totals[:-1], middle], values)
            if got == wanted:
                return (*totals[:-1], middle)
            if stage.op == "scatter_value":
                return (1 - totals[0],)
            ours, theirs = (v - (1 << 32) if v >> 31 else v for v in (key(got), key(wanted)))
            if stage.type.dtype == "i64":
                return (wanted - (1 << 64) if wanted >> 63 else wanted,)
            low, high = (middle + 1, high) if ours < theirs or got == 0x7FC00000 else (low, middle - 1)
        return tuple(totals)

    def parts(self, link: Link, state: State) -> tuple[int, ...]:
        parts = list(super().parts(link, state))
        hide = self.hide % len(parts)
        stage = stages.decode_stage(state.stage)
        if leaf.combine(stage, state.fold, [0, 5]) == leaf.combine(stage, state.fold, [5, 5]):  # a maximum
            parts[hide] = state.total
            parts = [min(p, state.total) for p in parts]
        else:
            parts[hide] += state.total - sum(parts)
        return tuple(parts)


class Misread(Liar):
    """Evaluates folds with one bit of every first operand turned, and serves that."""

    def read(self, stage: stages.Stage, need: leaf.Need) -> int:
        return super().read(stage, need) ^ (1 << 20 if need.operand == 0 else 0)


class BadParts(Cunning):
    """Makes its totals fit its output, and its parts do not combine to them."""

    def parts(self, link: Link, state: State) -> tuple[int, ...]:
        first, *rest = super().parts(link, state)
        return (first + 1, *rest)


class TooMany(Asserter):
    """Shows a total more than there are folds."""

    def element(self, link: Link, state: State) -> AnyMove:
        made = super().element(link, state)
        zero = moves.Fold(totals=(0,), roots=(Digest(bytes(32)),), parts=((0,),))
        if not isinstance(made, moves.Fold):
            return zero
        return moves.Fold(totals=made.totals + zero.totals, roots=made.roots + zero.roots, parts=made.parts + zero.parts)


class Inputs(Liar):
    """Takes other inputs than those that are committed to."""

    def __init__(self, unit: int, **values: Any) -> None:
        super().__init__(unit)
        self.other = values

    def inputs(self) -> list[Any]:
        names = [i.name for i in self.trees.part.inputs]
        return [self.other.get(n.replace(".", "_"), v) for n, v in zip(names, super().inputs(), strict=True)]


class HonestInputs(Inputs):
    """Opens what is committed, though it computed with something else: the best it can do."""

    @functools.cached_property
    def values(self) -> list[Any]:
        made = super().values
        return [*Link.inputs(self), *made[len(self.trees.part.inputs) :]]


class OddBatch(Liar):
    """Commits to a batch of other entries."""

    def __init__(self, unit: int, entries: dict[str, Any]) -> None:
        super().__init__(unit)
        self.sets = self.sets | {"batch": Entries(entries)}


class OtherEnd(Liar):
    """Ends in something else than the program's outputs."""

    def __init__(self, unit: int, **values: Any) -> None:
        super().__init__(unit)
        self.other = values

    @functools.cached_property
    def end(self) -> dict[str, Any]:
        return super().end | {n.replace("_", ".", 1): v for n, v in self.other.items()}


class Padded(Tree):
    """A tree with something where a pad belongs."""

    def __init__(self, leaves: Sequence[Digest]) -> None:
        super().__init__([*leaves, *[merkle.sha256(b"junk")] * ((1 << merkle.depth(len(leaves))) - len(leaves))])
        self.count = len(leaves)


class Doubter:
    """A challenger that points anywhere: leaves by phase if `aims` names them, else by chance; at once to the leaf where it `leaps`."""

    def __init__(
        self, links: Callable[[int], Link], ends: Tree, opening: moves.Open, seed: int, aims: Mapping[Phase, int] | None = None, leaps: bool = False
    ) -> None:
        self.links, self.ends, self.opening, self.random, self.aims, self.leaps = links, ends, opening, random.Random(seed), aims or {}, leaps
        self.chosen: dict[Phase, int] = {}

    def move(self, state: State, last: AnyMove | None) -> AnyMove | None:
        walk = state.walk
        match state.phase:
            case Phase.SEALED:
                return self.opening
            case Phase.NAME:
                assert walk is not None
                return moves.Name(element=self.element(state, walk.index))
            case Phase.PICK:
                return self.pick(state)
            case Phase.RANGE:
                return moves.Pick(which=self.random.randrange(len(state.parts)))
        assert walk is not None
        tree = self.ends if state.phase is Phase.LINKS else own_tree(self.links(state.unit), state)
        if state.phase not in self.chosen:
            least = 1 if state.phase is Phase.TRACE and state.is_update else 0
            self.chosen[state.phase] = self.aims.get(state.phase, self.random.randrange(least, walk.count))
        target, height = self.chosen[state.phase], 0 if self.leaps else walk.height - walk.levels
        element = self.element(state, target) if self.leaps and state.phase is Phase.CHUNKS else None
        path = tree.path(target >> height, height, walk.height)
        return moves.Point(index=target >> height, node=tree.node(height, target >> height), path=path, element=element)

    def element(self, state: State, chunk: int) -> int:
        """Any one of a chunk."""
        t = walked_type(state)
        each = 1024 // ITEM_BYTES[t.dtype]
        return self.random.randrange(chunk * each, min((chunk + 1) * each, t.elements))

    def pick(self, state: State) -> moves.Pick:
        """Any part of a fold, where it leaps any item of it; or the output."""
        stage, folds = stages.decode_stage(state.stage), len(state.totals)
        fold = self.aims.get(Phase.PICK, self.random.randrange(folds + 1))
        if fold == folds:
            return moves.Pick(which=folds)
        if not self.leaps:
            return moves.Pick(which=fold, part=self.random.randrange(len(state.shown[fold])))
        link = self.links(state.unit)
        items = leaf.fold_items(stage, state.element, fold, state.totals, lambda need: link.read(stage, need))
        at, tree = self.random.randrange(len(items)), item_tree(items)
        return moves.Pick(which=fold, item=moves.FoldItem(item=at, value=items[at], path=tree.path(at)))


def doubted(unit: int, seed: int, aims: Mapping[Phase, int] | None = None, leaps: bool = False, move: moves.Open | None = None) -> Played:
    """Every link honest, and a challenger that points anywhere."""
    asserter = Asserter(honest().__getitem__, ends())
    told, move = facts(ends()), move or opening(unit)
    doubter = Doubter(honest().__getitem__, asserter.link_tree, move, seed, aims, leaps)
    return play(told, game.seal_digest(told, move), asserter, doubter)
