"""Both honest sides of a dispute, and a whole dispute in memory.

The asserter answers from the link that it ran. The challenger, which ran the link from the same committed inputs, points at the first
place where what the asserter shows differs from its own: leftmost in the program's order, since a later difference may be right given a
wrong input. A side without a move is silent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from assay import merkle, stages
from assay.dispute import folds, game, leaf, moves
from assay.dispute.checks import IllegalMove
from assay.dispute.folds import part_range
from assay.dispute.moves import AnyMove, Facts, Moment, Named, Path, Phase, Side, State
from assay.dispute.proofs import Link, element_at
from assay.dispute.tree import Tree, Walk, first_difference, opened
from assay.ids import Digest
from assay.stages import NONE

Links = Callable[[int], Link]
"""A party's own run of the segment's link with some number."""
MOST_SHOWN = 1 << 16
"""Items of a fold whose root its asserter computes."""


class Player(Protocol):
    def move(self, state: State, last: AnyMove | None) -> AnyMove | None:
        """What it does now that it is its turn; `last` is the other side's last move. None: nothing."""


def own_tree(link: Link, state: State) -> Tree:
    """The party's own tree for the walk that a state is in."""
    tree: Tree | None
    match state.phase:
        case Phase.TRACE:
            tree = link.trace
        case Phase.CHUNKS:
            tree = link.tensor(_walked(link, state)).tree
        case Phase.ENTRIES:
            tree = link.ends.tree
        case Phase.FIELDS:
            tree = link.sets["batch"].tree
        case _:
            raise AssertionError(state.phase)
    assert tree is not None
    return tree


def _value(link: Link, state: State) -> int:
    """The stage whose output is walked."""
    return len(link.trees.part.inputs) + state.place - 1


def _field(link: Link, state: State) -> int:
    """The input whose chunks are walked."""
    return link.trees.encoded.inputs.index(state.record)


def _walked(link: Link, state: State) -> int:
    return _value(link, state) if state.stage else _field(link, state)


def _items(link: Link, state: State, totals: Sequence[int], low: int, high: int) -> int:
    """Total of the items [low, high) of a state's fold, as this party has it."""
    return leaf.combine(stages.decode_stage(state.stage), state.fold, _values(link, state, totals, low, high))


def _values(link: Link, state: State, totals: Sequence[int], low: int = 0, high: int = -1) -> list[int]:
    """Items [low, high) of a state's fold; all by default."""
    stage = stages.decode_stage(state.stage)
    return leaf.fold_items(stage, state.element, state.fold, totals, lambda need: link.read(stage, need), low, high)


def item_tree(items: Sequence[int]) -> Tree:
    """Over the items of a fold."""
    return Tree.of([folds.int256(value) for value in items])


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
        tree = link.tensor(_value(link, state)).tree
        return moves.Stage(
            head=link.job.head, stage=link.trees.encoded.stages[state.place - 1], path=link.trees.stages.path(state.place - 1), chunks=tree.root,
            children=_top(tree),
        )  # fmt: skip

    def chunk(self, link: Link, state: State) -> bytes:
        """The chunk of the walk's leaf; nothing when it has been shown."""
        if state.claimed is not None:
            return b""
        assert state.walk is not None
        return link.tensor(_walked(link, state)).chunks[state.walk.index]

    def element(self, link: Link, state: State) -> AnyMove:
        stage = stages.decode_stage(state.stage)
        if not leaf.folds(stage):
            return moves.Prove(chunk=self.chunk(link, state), needs=self.openings(link, state, 0, 0))
        totals = self.totals(link, state)
        each = [state._replace(totals=totals, fold=i, low=0, high=leaf.length(stage, state.element, i), total=t) for i, t in enumerate(totals)]
        return moves.Fold(totals=totals, roots=tuple(self.shown(link, s) for s in each), parts=tuple(self.parts(link, s) for s in each))

    def shown(self, link: Link, state: State) -> Digest:
        """The root over the items of a state's fold; of more than MOST_SHOWN zeros, for they are not shown one by one."""
        return item_tree(_values(link, state, state.totals)).root if state.high <= MOST_SHOWN else Digest(bytes(32))

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
        return tuple(_items(link, state, state.totals, *part_range(state.low, state.high, j)) for j in range(k))

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
    """`opening` is what it sealed; `ends`: the link ends of its own run, which only who walks over the links needs; `served`: the asserter's
    run, as it has served it off chain. Where that is what it has committed to, the challenger points at once to the leaf, the element and the
    item that are wrong."""

    def __init__(self, links: Links, ends: Sequence[Digest], opening: moves.Open | None, served: Links | None = None) -> None:
        self.links, self.opening, self.served = links, opening, served
        self.link_tree = Tree.of(list(ends)) if ends else None

    def move(self, state: State, last: AnyMove | None) -> AnyMove | None:
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
        if state.phase is not Phase.LINKS and self.served is not None and (leap := self.leap(ours, self.served(state.unit), state)):
            return leap
        if ours.count != state.walk.count:
            return self.miscounted(self.links(state.unit), state, children)
        at = first_difference(ours, state.walk, children)
        return None if at is None else point(state.walk, children, at)

    def leap(self, ours: Tree, served: Link, state: State) -> AnyMove | None:
        """To the first leaf that differs, and in it to the element."""
        assert state.walk is not None
        theirs, walk = own_tree(served, state), state.walk
        if theirs.count != ours.count or theirs.node(walk.height, walk.index) != walk.node:
            return None
        at = next((i for i in range(ours.count) if theirs.node(0, i) != ours.node(0, i)), None)
        if at is None or at >> walk.height != walk.index:
            return None
        element = None
        if state.phase is Phase.CHUNKS:
            mine, other = (link.tensor(_walked(link, state)) for link in (self.links(state.unit), served))
            element = element_at(mine.array, at, mine.chunks[at], other.chunks[at])
        return moves.Point(index=at, node=theirs.node(0, at), path=theirs.path(at, top=walk.height), element=element)

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
        return point(state.walk, children, (link.sets["batch"].count >> (state.walk.height - down)) & ((1 << down) - 1))

    def name(self, link: Link, state: State, last: moves.Chunk) -> AnyMove | None:
        assert state.walk is not None
        tensor = link.tensor(_walked(link, state))
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
        if self.served is not None and (item := self.item(link, self.served(state.unit), state)):
            return moves.Pick(which=fold, item=item)
        parts = state.shown[fold]
        if len(parts) != folds.part_count(state.high):
            return moves.Pick(which=fold)
        at = self.wrong_part(link, state, parts)
        return moves.Pick(which=fold, part=0 if at is None else at)

    def item(self, link: Link, served: Link, state: State) -> moves.FoldItem | None:
        """The first item that the asserter has wrong, if its root is over what it has served."""
        if state.high > MOST_SHOWN:
            return None
        ours, theirs = (_values(run, state, state.totals) for run in (link, served))
        tree = item_tree(theirs)
        at = next((i for i in range(len(ours)) if ours[i] != theirs[i]), None)
        if at is None or tree.root != state.roots[state.fold]:
            return None
        return moves.FoldItem(item=at, value=theirs[at], path=tree.path(at))

    def part(self, link: Link, state: State) -> AnyMove | None:
        at = self.wrong_part(link, state, state.parts)
        return None if at is None else moves.Pick(which=at)

    def wrong_part(self, link: Link, state: State, parts: Sequence[int]) -> int | None:
        """The first that differs, of the parts of a state's range."""
        ranges = (part_range(state.low, state.high, i) for i in range(len(parts)))
        return next((i for i, r in enumerate(ranges) if _items(link, state, state.totals, *r) != parts[i]), None)


def point(walk: Walk, children: Sequence[Digest], at: int) -> moves.Point:
    """At child `at` of those that the asserter showed."""
    rows, path = merkle.levels(children), []
    for level, row in enumerate(rows[:-1]):
        path.append(row[(at >> level) ^ 1])
    return moves.Point(index=(walk.index << walk.levels) + at, node=children[at], path=tuple(path))


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
