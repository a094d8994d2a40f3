"""Both honest sides of a dispute, and a whole dispute in memory.

The asserter answers from the link that it ran. The challenger, which ran the link from the same committed inputs, points at the first
place where what the asserter shows differs from its own: leftmost in the program's order, since a later difference may be right given a
wrong input. A side without a move is silent.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from assay import merkle, stages
from assay.dispute import folds, game, leaf, moves
from assay.dispute.bounds import WALKS
from assay.dispute.checks import IllegalMove
from assay.dispute.folds import part_range
from assay.dispute.moves import AnyMove, Facts, Moment, Named, Path, Phase, Side, State
from assay.dispute.own import item_tree, items_of, own_tree, stage_value, total_of, walked
from assay.dispute.proofs import Link, element_at
from assay.dispute.served import Nodes, Reached, Wanted, descend, serve, siblings
from assay.dispute.tree import Tree, Walk, opened
from assay.ids import Digest
from assay.stages import NONE

Links = Callable[[int], Link]
"""A party's own run of the segment's link with some number."""
Source = Callable[[State, Wanted], Nodes | None]
"""What an asserter serves of the tree that a state is in; None: that it does not."""
MOST_SHOWN = 1 << 16
"""Items of a fold whose root its asserter computes."""
ITEM = 32
"""Bytes of an item, under that root."""


class Player(Protocol):
    def move(self, state: State, last: AnyMove | None) -> AnyMove | None:
        """What it does now that it is its turn; `last` is the other side's last move. None: nothing."""


class Asserter:
    """Answers for the links of a segment (or for the one whose trace it revealed). `ends`: the committed link ends."""

    def __init__(self, links: Links, ends: Sequence[Digest]) -> None:
        self.links, self.ends = links, list(ends)
        self.link_tree = Tree.of(self.ends)

    def move(self, state: State, last: AnyMove | None) -> AnyMove | None:
        if state.phase is Phase.LINKS:
            return moves.Reveal(children=_children(self.link_tree, state))
        link = self.links(state.unit)
        match state.phase:
            case Phase.TRACED:
                return self.trace(link, state)
            case Phase.TRACE | Phase.CHUNKS | Phase.ENTRIES | Phase.FIELDS:
                return moves.Reveal(children=_children(own_tree(link, state), state))
            case Phase.STAGE:
                return self.stage(link, state)
            case Phase.CHUNK:
                return moves.Chunk(chunk=self.chunk(link, state))
            case Phase.ELEMENT:
                return self.element(link, state)
            case Phase.FINISH:
                return self.finish(link, state)
            case Phase.RANGE:
                return self.range(link, state)
            case Phase.END:
                ends = link.ends
                assert ends.tree is not None
                return moves.End(head=link.job.head, count=ends.count, entries=ends.root, children=_top(ends.tree))
            case Phase.ENTRY:
                return self.end_entry(link, state)
            case Phase.BATCH:
                batch = link.sets["batch"]
                children = _top(batch.tree) if batch.tree else (merkle.EMPTY,)
                return moves.Batch(count=batch.count, entries=batch.root, children=children)
            case Phase.FIELD:
                return self.batch_entry(link, state)
            case Phase.RECORD:
                return self.gather(link, state)
        return None

    def serve(self, state: State, wanted: Wanted) -> Nodes | None:
        """What its challenger, whose turn it is, asks for off chain: the same nodes as its moves would bring. None: that is not to be asked."""
        if state.turn is not Side.CHALLENGER:
            return None
        if state.phase is Phase.PICK:
            return self.serve_items(state, wanted)
        if state.walk is None or state.phase not in WALKS:
            return None
        tree = self.link_tree if state.phase is Phase.LINKS else own_tree(self.links(state.unit), state)
        if state.phase is not Phase.CHUNKS:
            return serve(tree, state.walk, wanted, None)
        link = self.links(state.unit)
        return serve(tree, state.walk, wanted, link.tensor(walked(link, state)).chunks.__getitem__)

    def serve_items(self, state: State, wanted: Wanted) -> Nodes | None:
        stage = stages.decode_stage(state.stage)
        if wanted.fold >= len(state.totals) or leaf.length(stage, state.element, wanted.fold) > MOST_SHOWN:
            return None
        items = items_of(self.links(state.unit), state._replace(fold=wanted.fold), state.totals)
        return serve(item_tree(items), Walk.at_root(state.roots[wanted.fold], len(items)), wanted, lambda at: folds.int256(items[at]))

    def trace(self, link: Link, state: State) -> AnyMove:
        first, tree, unit = state.step == state.facts.start, link.trace, state.unit
        before = unit - state.m - 1
        height = merkle.depth(tree.count)
        down = height - opened(height)
        return moves.Trace(
            state=None if first else self.named(before, game.meeting(unit, before)),
            acc=self.named(unit - 1, game.meeting(unit, unit - 1)) if state.m else None,
            end=self.named(state.unit), batch_root=link.batch_root, trace_root=tree.root, head_path=tree.path(0, top=down),
            end_path=tree.path(tree.count - 1, top=down), children=_top(tree),
        )  # fmt: skip

    def named(self, unit: int, top: int | None = None) -> Named:
        return Named(root=self.ends[unit], path=self.link_tree.path(unit, top=top))

    def stage(self, link: Link, state: State) -> AnyMove:
        assert link.trees.stages is not None
        tree = link.tensor(stage_value(link, state)).tree
        return moves.Stage(
            head=link.job.head, stage=link.trees.encoded.stages[state.place - 1], path=link.trees.stages.path(state.place - 1), chunks=tree.root,
            children=_top(tree),
        )  # fmt: skip

    def chunk(self, link: Link, state: State) -> bytes:
        """The chunk of the walk's leaf; nothing when it has been shown."""
        if state.claimed is not None:
            return b""
        assert state.walk is not None
        return link.tensor(walked(link, state)).chunks[state.walk.index]

    def element(self, link: Link, state: State) -> AnyMove:
        stage = stages.decode_stage(state.stage)
        if not leaf.folds(stage):
            return moves.Prove(chunk=self.chunk(link, state), needs=self.openings(link, state, 0, 0))
        totals = self.totals(link, state)
        each = [state._replace(totals=totals, fold=i, low=0, high=leaf.length(stage, state.element, i), total=t) for i, t in enumerate(totals)]
        return moves.Fold(totals=totals, roots=tuple(self.shown(link, s) for s in each), parts=tuple(self.parts(link, s) for s in each))

    def shown(self, link: Link, state: State) -> Digest:
        """The root over the items of a state's fold; of more than MOST_SHOWN zeros, for they are not shown one by one."""
        return item_tree(items_of(link, state, state.totals)).root if state.high <= MOST_SHOWN else Digest(bytes(32))

    def finish(self, link: Link, state: State) -> AnyMove:
        stage = stages.decode_stage(state.stage)
        return moves.Finish(chunk=self.chunk(link, state), needs=self.openings(link, state, leaf.folds(stage), 0))

    def openings(self, link: Link, state: State, fold: int, index: int) -> tuple[moves.Opening, ...]:
        stage = stages.decode_stage(state.stage)
        values = leaf.gather(stage, state.element, fold, index, lambda need: link.read(stage, need))
        return tuple(link.opening(stage, need) for need in leaf.needs(stage, state.element, fold, index, values))

    def totals(self, link: Link, state: State) -> tuple[int, ...]:
        stage = stages.decode_stage(state.stage)
        return tuple(leaf.fold_totals(stage, state.element, lambda need: link.read(stage, need)))

    def range(self, link: Link, state: State) -> AnyMove:
        if state.high - state.low == 1:
            return moves.Item(needs=self.openings(link, state, state.fold, state.low))
        return moves.Split(parts=self.parts(link, state))

    def parts(self, link: Link, state: State) -> tuple[int, ...]:
        k = folds.part_count(state.high - state.low)
        return tuple(total_of(link, state, state.totals, *part_range(state.low, state.high, j)) for j in range(k))

    def end_entry(self, link: Link, state: State) -> AnyMove:
        assert state.walk is not None
        assert link.trees.outputs is not None
        at = state.walk.index
        record = link.trees.encoded.outputs[at]
        output, inputs = stages.decode_output(record), len(link.trees.part.inputs)
        given, counted, entries = b"", 0, Digest(bytes(32))
        input_path: Path = ()
        path: Path = ()
        if output.value == NONE:
            kept = link.sets["state"]
            counted, entries, path = kept.count, kept.root, kept.path(at)
        elif output.value >= inputs:
            path = link.trace.path(1 + output.value - inputs)
        else:
            opened = link.open_value(output.value, 0)
            given, input_path, counted, entries, path = opened.input, opened.input_path, opened.count, opened.entries, opened.path
        return moves.EndEntry(
            record=record, record_path=link.trees.outputs.path(at), tensor=link.ends.roots[output.name], input=given, input_path=input_path,
            count=counted, entries=entries, path=path,
        )  # fmt: skip

    def batch_entry(self, link: Link, state: State) -> AnyMove | None:
        assert state.walk is not None
        assert link.trees.inputs is not None
        records = [stages.decode_input(data) for data in link.trees.encoded.inputs]
        at = next((i for i, r in enumerate(records) if r.kind == stages.KINDS["batch"] and r.place == state.walk.index), None)
        if at is None:
            return None
        tree = link.tensor(at).tree
        return moves.BatchEntry(
            head=link.job.head, at=at, input=link.trees.encoded.inputs[at], input_path=link.trees.inputs.path(at), chunks=tree.root,
            children=_top(tree),
        )  # fmt: skip

    def gather(self, link: Link, state: State) -> AnyMove:
        data = link.job.data
        at, salt, record, path = link.record(stages.decode_input(state.record).name, state.element)
        return moves.Gather(
            chunk=self.chunk(link, state), data=data.head, shard=data.items[at], shard_at=at, shard_path=data.shards.path(at), salt=salt,
            record=record, record_path=path,
        )  # fmt: skip


def _children(tree: Tree, state: State) -> Path:
    assert state.walk is not None
    return tree.children(state.walk.height, state.walk.index)


def _top(tree: Tree) -> Path:
    return tree.children(merkle.depth(tree.count), 0)


class Voter(Asserter):
    """Answers for the one link whose trace it revealed; `served`: the link ends that it was served, with their paths."""

    def __init__(self, links: Links, served: Mapping[int, Named]) -> None:
        self.links, self.served = links, served

    def named(self, unit: int, top: int | None = None) -> Named:
        return Named(root=self.served[unit].root, path=self.served[unit].path[:top])


class Challenger:
    """`opening` is what it sealed; `ends`: the link ends of its own run, which only who walks over the links needs; `source`: what the asserter
    has served it off chain. As far as that goes, it points at once to the leaf, the element and the item that are wrong; after a move, `wanted` is
    what would have taken it further, and `junk` says that it was served what the asserter has not committed to."""

    def __init__(self, links: Links, ends: Sequence[Digest], opening: moves.Open | None, source: Source | None = None) -> None:
        self.links, self.opening, self.source = links, opening, source
        self.link_tree = Tree.of(list(ends)) if ends else None
        self.wanted: Wanted | None = None
        self.junk = False

    def move(self, state: State, last: AnyMove | None) -> AnyMove | None:
        self.wanted, self.junk = None, False
        match state.phase:
            case Phase.SEALED:
                return self.opening
            case Phase.NAME:
                assert isinstance(last, moves.Chunk)
                return self.name(self.links(state.unit), state, last)
            case Phase.PICK:
                return self.fold(self.links(state.unit), state)
            case Phase.RANGE:
                return self.part(self.links(state.unit), state)
        assert state.walk is not None
        assert isinstance(last, moves.Reveal | moves.Trace | moves.Stage | moves.End | moves.Batch | moves.BatchEntry)
        children = last.children
        ours = self.link_tree if state.phase is Phase.LINKS else own_tree(self.links(state.unit), state)
        if ours is None:
            return None
        if ours.count != state.walk.count:
            return self.miscounted(self.links(state.unit), state, children)
        return self.point(ours, state, children)

    def point(self, ours: Tree, state: State, children: Path) -> AnyMove | None:
        """As far towards the first leaf that differs as is known, and in a chunk to the element."""
        assert state.walk is not None
        chunked = state.phase is Phase.CHUNKS
        found = self.descend(state, state.walk, children, ours, chunked)
        if found is None:
            return None
        element = None
        if found.content is not None:
            mine = self.links(state.unit).tensor(walked(self.links(state.unit), state))
            element = element_at(mine.array, found.index, mine.chunks[found.index], found.content)
        return moves.Point(index=found.index, node=found.node, path=found.path, element=element)

    def descend(self, state: State, walk: Walk, children: Path, ours: Tree, content: bool) -> Reached | None:
        source = functools.partial(self.source, state) if self.source is not None else None
        found = descend(walk, children, ours, source, content, state.fold)
        if found is not None:
            self.wanted, self.junk = found.wanted, found.junk
        return found

    def miscounted(self, link: Link, state: State, children: Path) -> AnyMove | None:
        """The batch has another number of fields than the program reads."""
        assert state.walk is not None
        assert link.trees.inputs is not None
        records = [stages.decode_input(data) for data in link.trees.encoded.inputs]
        for at, r in enumerate(records):
            if r.kind == stages.KINDS["batch"] and r.place >= state.walk.count:
                return moves.Missing(head=link.job.head, at=at, input=link.trees.encoded.inputs[at], input_path=link.trees.inputs.path(at))
        # It has a field too many: the one after those that the program reads.
        down = state.walk.levels
        at = (link.sets["batch"].count >> (state.walk.height - down)) & ((1 << down) - 1)
        return moves.Point(index=(state.walk.index << down) + at, node=children[at], path=siblings(children, at))

    def name(self, link: Link, state: State, last: moves.Chunk) -> AnyMove | None:
        assert state.walk is not None
        tensor = link.tensor(walked(link, state))
        at = element_at(tensor.array, state.walk.index, tensor.chunks[state.walk.index], last.chunk)
        return None if at is None else moves.Name(element=at)

    def fold(self, link: Link, state: State) -> AnyMove | None:
        """The first total that is wrong, and its first part, or item; where none is, the output does not follow from them."""
        stage = stages.decode_stage(state.stage)
        totals = leaf.fold_totals(stage, state.element, lambda need: link.read(stage, need))
        wrong = (i for i, (ours, theirs) in enumerate(zip(totals, state.totals, strict=False)) if ours != theirs)
        fold = next(wrong, None)
        if len(totals) != len(state.totals) or fold is None:
            return moves.Pick(which=len(state.totals))
        state = state._replace(fold=fold, low=0, high=leaf.length(stage, state.element, fold))
        if self.source is not None and state.high <= MOST_SHOWN and (item := self.item(link, state)):
            return moves.Pick(which=fold, item=item)
        parts = state.shown[fold]
        if len(parts) != folds.part_count(state.high):
            return moves.Pick(which=fold)
        at = self.wrong_part(link, state, parts)
        return moves.Pick(which=fold, part=0 if at is None else at)

    def item(self, link: Link, state: State) -> moves.FoldItem | None:
        """The first item that the asserter has wrong, if it has been served."""
        top = Walk.at_root(state.roots[state.fold], state.high)
        found = self.descend(state, top, (), item_tree(items_of(link, state, state.totals)), True)
        if found is None or found.content is None or len(found.content) != ITEM:
            return None
        value = int.from_bytes(found.content, "big", signed=True)
        return moves.FoldItem(item=found.index, value=value, path=found.path) if value in folds.I64 else None

    def part(self, link: Link, state: State) -> AnyMove | None:
        at = self.wrong_part(link, state, state.parts)
        return None if at is None else moves.Pick(which=at)

    def wrong_part(self, link: Link, state: State, parts: Sequence[int]) -> int | None:
        """The first that differs, of the parts of a state's range."""
        ranges = (part_range(state.low, state.high, i) for i in range(len(parts)))
        return next((i for i, r in enumerate(ranges) if total_of(link, state, state.totals, *r) != parts[i]), None)


class Played(NamedTuple):
    state: State
    moves: tuple[tuple[AnyMove, Moment, State], ...]
    """Each move, when it was made, and the state after it."""
    reverted: tuple[AnyMove, ...]
    """What did not verify."""


BEGIN = Moment(1, 0)


def play(facts: Facts, digest: Digest, asserter: Player, challenger: Player) -> Played:
    """A whole dispute: each side moves a second later. Who has no move, or one that reverts, lets its time run out."""
    state, last, at = game.sealed(facts, digest, BEGIN), None, BEGIN
    done: list[tuple[AnyMove, Moment, State]] = []
    reverted: list[AnyMove] = []
    while state.phase is not Phase.RESOLVED:
        at = Moment(at.block + 1, at.time + 1)
        player = asserter if state.turn is Side.ASSERTER else challenger
        move = player.move(state, last)
        try:
            after = game.apply(state, move, at) if move else None
        except IllegalMove:
            assert move is not None
            reverted.append(move)
            after = None
        if move is None or after is None:
            at = Moment(at.block + 1, at.time + game.left(state, at.time) + 1)
            move = moves.Timeout()
            after = game.apply(state, move, at)
        state, last = after, move
        done.append((move, at, state))
    return Played(state, tuple(done), tuple(reverted))
