"""Nodes served off chain: how far down they take a challenger, that nothing served is believed, and what an asserter serves and what not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay import merkle
from assay.codec import MAX_MESSAGE, encode
from assay.dispute import game, moves
from assay.dispute.moves import AnyMove, Moment, Phase, Side, State
from assay.dispute.players import BEGIN, Asserter, Challenger, Played
from assay.dispute.proofs import Link
from assay.dispute.served import ASKS, DEEP, Nodes, Wanted, below, descend, fits, follows, patience, serve
from assay.dispute.tree import Tree, Walk, climb
from tests.dispute_cases import dispute, ends, facts, honest, opening
from tests.liars.disputes import Liar, Misread, at, flipped

MICRO = 1
FEW = settings(max_examples=40, deadline=None)


def items(count: int) -> list[bytes]:
    return [i.to_bytes(4, "big") for i in range(count)]


def trees(count: int, *wrong: int) -> tuple[list[bytes], Tree, Tree]:
    """The asserter's items, its tree and ours, which differ in some."""
    theirs = [item if i not in wrong else b"wrong" + item for i, item in enumerate(items(count))]
    return theirs, Tree.of(theirs), Tree.of(items(count))


def steps_down(height: int) -> list[int]:
    """Heights of the nodes that are asked about."""
    heights = []
    while height:
        heights.append(height)
        height -= below(height)
    return heights


# ---- the way down ------------------------------------------------------------------------------------------------------------


@FEW
@given(st.integers(1, 3000), st.lists(st.integers(0, 1 << 20), min_size=1, max_size=3), st.booleans())
def test_the_first_leaf_that_differs_is_reached_over_what_was_served(count: int, places: list[int], shown: bool) -> None:
    wrong = sorted({place % count for place in places})
    theirs, tree, ours = trees(count, *wrong)
    walk, asked = Walk.at_root(tree.root, count), []

    def source(wanted: Wanted) -> Nodes | None:
        asked.append(wanted)
        return serve(tree, walk, wanted, theirs.__getitem__)

    children = tree.children(walk.height, 0) if shown else ()
    found = descend(walk, children, ours, source, content=True)
    assert found is not None
    assert (found.height, found.index, found.node, found.content) == (0, wrong[0], tree.node(0, wrong[0]), theirs[wrong[0]])
    assert climb(found.node, found.index, found.path) == tree.root
    assert walk.down(found.index, found.node, found.path) is not None
    begun = walk.height - walk.levels if shown else walk.height
    assert [wanted.height for wanted in asked] == [*steps_down(begun), 0]


@FEW
@given(st.integers(40, 3000), st.integers(0, 1 << 20), st.integers(0, 3))
def test_where_answers_end_it_points_as_far_as_they_went(count: int, place: int, answers: int) -> None:
    theirs, tree, ours = trees(count, place % count)
    walk, left = Walk.at_root(tree.root, count), answers

    def source(wanted: Wanted) -> Nodes | None:
        nonlocal left
        left -= 1
        return serve(tree, walk, wanted, theirs.__getitem__) if left >= 0 else None

    found = descend(walk, tree.children(walk.height, 0), ours, source, content=True)
    assert found is not None
    heights = [*steps_down(walk.height - walk.levels), 0]
    assert found.height == (heights[answers] if answers < len(heights) else 0)
    assert (found.wanted is None) == (found.content is not None)
    below_walk = walk.down(found.index, found.node, found.path)
    assert below_walk is not None
    assert found.node != ours.node(found.height, found.index)


def bent(how: str, tree: Tree, walk: Walk, other: Tree) -> Callable[[Wanted], Nodes | None]:
    def source(wanted: Wanted) -> Nodes | None:
        right = serve(tree, walk, wanted, lambda i: b"content")
        assert right is not None
        match how:
            case "nothing at all":
                return Nodes(nodes=())
            case "too few":
                return Nodes(nodes=right.nodes[:-1])
            case "too many":
                return Nodes(nodes=right.nodes * 2)
            case "in another order":
                return Nodes(nodes=right.nodes[::-1])
            case "short ones":
                return Nodes(nodes=tuple(n[:31] for n in right.nodes))  # type: ignore[misc]
            case "of another tree":
                return serve(other, walk, wanted, None)
            case "with a content":
                return msgspec.structs.replace(right, content=b"x")
            case "the node itself":
                return Nodes(nodes=(tree.node(wanted.height, wanted.index),))
        raise AssertionError(how)

    return source


@pytest.mark.parametrize(
    "how", ["nothing at all", "too few", "too many", "in another order", "short ones", "of another tree", "with a content", "the node itself"]
)
def test_what_does_not_join_takes_it_nowhere(how: str) -> None:
    _, tree, ours = trees(2000, 1234)
    _, other, _ = trees(2000, 1234, 1235)
    walk = Walk.at_root(tree.root, 2000)
    found = descend(walk, tree.children(walk.height, 0), ours, bent(how, tree, walk, other), content=True)
    alone = descend(walk, tree.children(walk.height, 0), ours, None, content=True)
    assert found is not None
    assert alone is not None
    assert found.junk
    assert not alone.junk
    assert (found.height, found.index, found.node, found.path) == (alone.height, alone.index, alone.node, alone.path)
    assert found.wanted is None


def test_a_leaf_whose_content_is_junk_is_pointed_at_all_the_same() -> None:
    theirs, tree, ours = trees(20, 7)
    walk = Walk.at_root(tree.root, 20)
    for content in (b"", b"junk", theirs[8], b"x" * 2000):
        found = descend(walk, tree.children(walk.height, 0), ours, lambda _, content=content: Nodes(nodes=(), content=content), content=True)  # type: ignore[misc]
        assert found is not None
        assert (found.height, found.index, found.content, found.junk) == (0, 7, None, True)


def test_who_has_the_same_tree_is_led_nowhere() -> None:
    tree = Tree.of(items(100))
    walk = Walk.at_root(tree.root, 100)
    assert descend(walk, tree.children(walk.height, 0), tree, lambda _: None) is None


def test_junk_where_a_pad_belongs_is_reached() -> None:
    ours = Tree.of(items(70))
    leaves = [merkle.leaf(i, item) for i, item in enumerate(items(70))]
    padded = Tree([*leaves, *[merkle.sha256(b"junk")] * 58])
    walk = Walk.at_root(padded.root, 70)
    found = descend(walk, padded.children(walk.height, 0), ours, lambda wanted: serve(padded, walk, wanted, None), content=True)
    assert found is not None
    assert (found.height, found.index, found.content) == (0, 70, None)


# ---- bounds ------------------------------------------------------------------------------------------------------------------


def test_answers_are_few_and_small() -> None:
    for height in range(33):
        assert len(steps_down(height)) == -(-height // DEEP)
        assert below(height) <= DEEP
    assert len(steps_down(32)) + 1 <= ASKS
    most = Nodes(nodes=tuple(merkle.sha256(bytes([i % 256])) for i in range(1 << DEEP)))
    assert len(encode(most)) < MAX_MESSAGE // 16


def test_an_answer_is_waited_for_a_small_share_of_the_grace() -> None:
    assert [patience(grace) for grace in (0, 5, 300, 3600, 1 << 40)] == [1, 1, 6, 20, 20]


def test_an_answer_fits_only_where_it_belongs() -> None:
    theirs, tree, _ = trees(300, 5)
    walk = Walk.at_root(tree.root, 300)
    answer = serve(tree, walk, Wanted(height=9, index=0), None)
    assert answer is not None
    assert fits(tree.root, Wanted(height=9, index=0), answer)
    assert not fits(tree.node(8, 0), Wanted(height=8, index=0), answer)
    leaf = serve(tree, walk, Wanted(height=0, index=5), theirs.__getitem__)
    assert leaf is not None
    assert fits(tree.node(0, 5), Wanted(height=0, index=5), leaf)
    assert not fits(tree.node(0, 5), Wanted(height=0, index=6), leaf)
    assert not fits(tree.node(0, 5), Wanted(height=0, index=5), Nodes(nodes=answer.nodes, content=leaf.content))


# ---- what is served ----------------------------------------------------------------------------------------------------------


def test_nothing_but_what_lies_below_the_node_that_was_shown_is_served() -> None:
    theirs, tree, _ = trees(300)
    walk = Walk(tree.node(4, 3), 4, 3, 300)
    assert serve(tree, walk, Wanted(height=4, index=3), None) is not None
    assert serve(tree, walk, Wanted(height=2, index=15), None) is not None
    for height, index in ((9, 0), (5, 1), (4, 2), (4, 4), (2, 16), (2, 11), (0, 47), (0, 64), ((1 << 32) - 1, 0), (0, (1 << 63) - 1)):
        assert serve(tree, walk, Wanted(height=height, index=index), theirs.__getitem__) is None
    assert serve(tree, walk, Wanted(height=0, index=48), None) is None  # a leaf that has no content
    top = Walk.at_root(tree.root, 300)
    assert serve(tree, top, Wanted(height=0, index=300), theirs.__getitem__) is None  # a pad
    assert serve(tree, top, Wanted(height=0, index=299), theirs.__getitem__) is not None


def test_one_way_down_is_answered_and_no_other() -> None:
    first, second, leaf = Wanted(height=9, index=0), Wanted(height=4, index=3), Wanted(height=0, index=50)
    given: list[Wanted] = []
    for wanted in (first, second, leaf):
        assert follows(given, wanted)
        given.append(wanted)
        assert follows(given, first)  # the same again: an answer may be lost
    for other in (Wanted(height=4, index=2), Wanted(height=0, index=51), Wanted(height=0, index=50, fold=1), Wanted(height=9, index=1)):
        assert not follows(given, other)
    assert not follows([first, second], Wanted(height=0, index=64))
    assert not follows([first], Wanted(height=4, index=3, fold=1))
    assert not follows([leaf], second)  # never up


def liar() -> Liar:
    return Misread(MICRO, {at("matmul"): lambda y, _: y * np.float32(1.5)})


def told(link: Link) -> list[merkle.Digest]:
    return [*ends()[:MICRO], link.end_root, *ends()[MICRO + 1 :]]


def stands() -> list[State]:
    """Of a dispute in which the challenger opens every level on chain."""
    link = liar()
    played = dispute(Asserter(lambda _: link, told(link)), told(link), MICRO)
    return [game.sealed(played.state.facts, played.state.digest, BEGIN), *(state for _, _, state in played.moves)]


def test_an_asserter_serves_in_the_challengers_turn_alone() -> None:
    link = liar()
    asserter, seen = Asserter(lambda _: link, told(link)), set()
    for state in stands():
        if state.phase is Phase.RESOLVED:
            continue
        top = state.walk or Walk.at_root(merkle.PAD, 1)
        height = 6 if state.phase is Phase.PICK else top.height
        answer = asserter.serve(state, Wanted(height=height, index=top.index, fold=2 if state.phase is Phase.PICK else 0))
        wanted = state.turn is Side.CHALLENGER and state.phase in (Phase.TRACE, Phase.CHUNKS, Phase.PICK)
        assert (answer is not None) == wanted, state.phase
        if answer is not None and state.walk is not None and height:
            node = state.roots[2] if state.phase is Phase.PICK else state.walk.node
            assert fits(node, Wanted(height=height, index=top.index), answer)
        seen.add(state.phase)
    assert {Phase.TRACED, Phase.TRACE, Phase.STAGE, Phase.CHUNKS, Phase.ELEMENT, Phase.PICK, Phase.RANGE} <= seen


def test_a_fold_that_there_is_not_is_not_served() -> None:
    link, state = liar(), next(state for state in stands() if state.phase is Phase.PICK)
    asserter = Asserter(lambda _: link, told(link))
    assert asserter.serve(state, Wanted(height=0, index=3, fold=2)) is not None
    for wanted in (Wanted(height=0, index=3, fold=3), Wanted(height=0, index=1 << 40, fold=0), Wanted(height=40, index=0, fold=0)):
        assert asserter.serve(state, wanted) is None


# ---- liars -------------------------------------------------------------------------------------------------------------------


class Honest:
    """Serves what it opens on chain; liars serve otherwise."""

    def __init__(self, asserter: Asserter) -> None:
        self.asserter, self.asked = asserter, 0

    def __call__(self, state: State, wanted: Wanted) -> Nodes | None:
        self.asked += 1
        return self.asserter.serve(state, wanted)


class Junk(Honest):
    def __call__(self, state: State, wanted: Wanted) -> Nodes | None:
        right = super().__call__(state, wanted)
        assert right is not None
        return Nodes(nodes=tuple(merkle.sha256(node) for node in right.nodes), content=bytes(len(right.content)))


class OtherTree(Honest):
    """Of the honest link: a way down on which nothing is wrong."""

    def __call__(self, state: State, wanted: Wanted) -> Nodes | None:
        return Asserter(honest().__getitem__, ends()).serve(state, wanted)


class Half(Honest):
    def __call__(self, state: State, wanted: Wanted) -> Nodes | None:
        return super().__call__(state, wanted) if self.asked < 2 else None


class Silent(Honest):
    def __call__(self, state: State, wanted: Wanted) -> Nodes | None:
        return None


def served(cls: type[Honest], asserter: type[Asserter] = Asserter, link: Link | None = None) -> Played:
    link = link or liar()
    player = asserter(lambda _: link, told(link))
    challenger = Challenger(honest().__getitem__, ends(), opening(MICRO), cls(player))
    return dispute(player, told(link), MICRO, challenger)


@pytest.mark.parametrize("cls", [Honest, Junk, OtherTree, Half, Silent])
def test_whatever_a_liar_serves_it_loses_as_it_would_have(cls: type[Honest]) -> None:
    link = liar()
    alone = dispute(Asserter(lambda _: link, told(link)), told(link), MICRO)
    played = served(cls)
    assert not played.reverted
    assert (played.state.verdict, played.state.reason) == (alone.state.verdict, alone.state.reason)
    assert len(played.moves) <= len(alone.moves)
    assert played.state.spent == (0, 0)
    kinds = [type(move) for move, _, _ in played.moves]
    if cls is Honest:
        assert kinds == [moves.Open, moves.Trace, moves.Point, moves.Stage, moves.Point, moves.Fold, moves.Pick, moves.Item]
    if cls in (Junk, OtherTree, Silent):
        assert kinds == [type(move) for move, _, _ in alone.moves]


class OpensOthers(Asserter):
    """Serves what it has committed to, and opens something else on chain."""

    def chunk(self, link: Link, state: State) -> bytes:
        return bytes(1024)

    def shown(self, link: Link, state: State) -> Any:
        return merkle.sha256(b"others")

    def parts(self, link: Link, state: State) -> tuple[int, ...]:
        return super().parts(honest()[MICRO], state)


def test_who_serves_right_nodes_and_opens_others_has_no_move_that_is_taken() -> None:
    played = served(Honest, OpensOthers)
    assert played.state.verdict is game.Verdict.CHALLENGER
    wrong_end = Liar(MICRO, {at("exp"): lambda y, _: flipped(y, 3, 23)})
    played = served(Honest, type("Reveals", (Asserter,), {"stage": other_stage}), wrong_end)
    assert "silent in stage" in played.state.reason
    assert [type(move) for move in played.reverted] == [moves.Stage]


def other_stage(self: Asserter, link: Link, state: State) -> AnyMove:
    return Asserter.stage(self, honest()[MICRO], state)


def test_a_false_challenger_is_served_and_finds_nothing() -> None:
    """An honest asserter's answers are those of its commitment: a challenger that computed something else points at where it differs, and loses."""
    asserter, wrong = Asserter(honest().__getitem__, ends()), liar()
    challenger = Challenger(lambda _: wrong, ends(), opening(MICRO), asserter.serve)
    played = dispute(asserter, ends(), MICRO, challenger)
    assert played.state.verdict is game.Verdict.ASSERTER
    assert facts(ends()).link_root == played.state.facts.link_root
    assert game.left(played.state, Moment(1, played.state.since).time) > 0
