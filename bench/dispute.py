# Measures whole disputes over a micro-batch of the 0.4 M parameter GPT of examples/shakespeare.py, played in memory by the honest asserter
# (assay/dispute) against a challenger who points at one stage of each operator and follows its longest fold to a single item. For each: the
# moves of both sides together, the bytes of the largest move (as docs/dispute.md counts them, without what a contract asks for again), and the
# CPU time of the asserter's slowest move. Besides, the CPU time of running the link for a dispute (every value kept) against a verifier's replay of
# it, the same run of the engine with every stage hashed.
# Goal: at most 34 moves, no move over 64 KiB, no move over 60 s of CPU time (a grace of minutes must do).
#
#     python bench/dispute.py [--quick] [--json]
from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from assay import merkle, shard, stages
from assay.dispute import game, leaf, moves
from assay.dispute.moves import AnyMove, Facts, Phase, State, Verdict
from assay.dispute.own import own_tree
from assay.dispute.players import Asserter, play
from assay.dispute.proofs import Data, Job, Link
from assay.exact.types import ITEM_BYTES
from assay.execute import Executor, schedule_root
from assay.ids import ZERO_ADDRESS
from assay.job import data_root
from assay.sampling import record_indices
from assay.state import Tensors, state_root
from assay.trace import trace
from assay.training import load_training

EXAMPLE = Path(__file__).parent.parent / "examples" / "shakespeare.py"
ORDER = merkle.sha256(b"bench")


def seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def size(value: Any) -> int:
    """Bytes of what a move carries."""
    match value:
        case bytes():
            return len(value)
        case tuple():
            return sum(size(v) for v in value)
        case msgspec.Struct():
            return sum(size(getattr(value, n)) for n in value.__struct_fields__)
        case int():
            return 32
    return 0


class Pointing:
    """Walks to one leaf of the trace, an element by chance, the longest fold, any of its items."""

    def __init__(self, links: Callable[[int], Link], opening: moves.Open, place: int) -> None:
        self.links, self.opening, self.place, self.random = links, opening, place, random.Random(place)

    def move(self, state: State, _: AnyMove | None) -> AnyMove | None:
        walk = state.walk
        match state.phase:
            case Phase.SEALED:
                return self.opening
            case Phase.PICK:
                stage = stages.decode_stage(state.stage)
                return moves.Pick(which=max(range(len(state.totals)), key=lambda fold: leaf.length(stage, state.element, fold)))
            case Phase.RANGE:
                return moves.Pick(which=self.random.randrange(len(state.parts)))
        assert walk is not None
        if state.phase is Phase.NAME:
            t = stages.decode_stage(state.stage).type
            each = 1024 // ITEM_BYTES[t.dtype]
            return moves.Name(element=self.random.randrange(walk.index * each, min((walk.index + 1) * each, t.elements)))
        tree, height = own_tree(self.links(state.unit), state), walk.height - walk.levels
        target = self.place if state.phase is Phase.TRACE else (walk.index << walk.height if walk.index else walk.count // 2)
        return moves.Point(index=target >> height, node=tree.node(height, target >> height), path=tree.path(target >> height, height, walk.height))


class Timed:
    """Remembers the CPU time of the slowest move."""

    def __init__(self, player: Asserter) -> None:
        self.player, self.slowest = player, 0.0

    def move(self, state: State, last: AnyMove | None) -> AnyMove | None:
        found: list[AnyMove | None] = []
        self.slowest = max(self.slowest, seconds(lambda: found.append(self.player.move(state, last))))
        return found[0]


def bench(quick: bool) -> dict[str, Any]:
    training = load_training(EXAMPLE)
    traced = trace(training)
    program, records = traced.program, training.data.arrays
    count, key = len(training.data), merkle.sha256(b"key")
    dataset, _ = shard.seal_dataset("text", records, lambda k: b"", new_key=lambda: key)

    def shard_of(at: int) -> tuple[Tensors, bytes]:
        return {name: array[at * shard.SHARD_RECORDS :][: shard.SHARD_RECORDS] for name, array in records.items()}, key

    job = Job(program, traced.schedule, Data(dataset, ORDER, training.batch, shard_of), traced.frozen)
    wanted = record_indices(ORDER, count, 0, 0, program.micro_batches, training.batch)
    batch = training.data.read(wanted)
    link = Link(job, 0, 0, traced.state, None, batch)
    run = seconds(lambda: link.trace)
    executor = Executor(program, traced.schedule, program.micro_batches, frozen=traced.frozen)
    acc = executor.zero_acc(0, traced.state)
    executor.trace_micro(0, 0, traced.state, acc, batch)
    replay = seconds(lambda: executor.trace_micro(0, 0, traced.state, acc, batch))
    ends = [link.end_root] * (program.micro_batches + 1)
    facts = Facts(
        chain_id=1, disputes=ZERO_ADDRESS, segment=1, challenger=ZERO_ADDRESS, program_root=job.root, schedule_root=schedule_root(traced.schedule),
        data_root=data_root(dataset, ORDER, training.batch), steps=len(traced.schedule), micro_batches=program.micro_batches,
        micro_leaves=program.micro_leaves, update_leaves=program.update_leaves, start=0, stop=1, parent_end=state_root(0, traced.state),
        link_root=merkle.root_of(ends), revealed=(), open_window=60, grace=600, budget=600, bond=1, stake=1,
    )  # fmt: skip
    opening = moves.Open(target=0, unit=0, verifier=ZERO_ADDRESS, round=0, salt=merkle.sha256(b"salt"))
    largest: dict[str, tuple[int, int]] = {}
    for at, node in enumerate(program.micro.nodes):
        operands = sum(program.micro.type_of(v).elements for v in node.inputs) + node.type.elements
        if operands >= largest.get(node.op, (0, 0))[0]:
            largest[node.op] = (operands, at)
    found = {}
    for op, (_, at) in sorted(largest.items())[:: 6 if quick else 1]:
        asserter = Timed(Asserter(lambda _: link, ends))
        played = play(facts, game.seal_digest(facts, opening), asserter, Pointing(lambda _: link, opening, 1 + at))
        assert played.state.verdict is Verdict.ASSERTER, played.state.reason
        found[op] = {
            "moves": len(played.moves), "largest_bytes": max(size(m) for m, _, _ in played.moves), "slowest_s": round(asserter.slowest, 3),
        }  # fmt: skip
    return {
        "stages": len(program.micro.nodes), "stage_megabytes": sum(n.type.bytes for n in program.micro.nodes) / 1e6,
        "link_s": run, "replay_s": replay, "link_ratio": run / replay, "operators": found,
        "most_moves": max(f["moves"] for f in found.values()), "largest_bytes": max(f["largest_bytes"] for f in found.values()),
        "slowest_s": max(f["slowest_s"] for f in found.values()),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    np.seterr(all="ignore")
    figures = bench(args.quick)
    for op, f in figures["operators"].items():
        print(f"{op:18} {f['moves']:3} moves, largest {f['largest_bytes']:6} B, slowest {f['slowest_s']:8.3f} s")
    print(f"the link for a dispute {figures['link_s']:.1f} s, a replay {figures['replay_s']:.3f} s; {figures['stage_megabytes']:.0f} MB of outputs")
    if args.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
