"""What the hands of worker and verifier do for a dispute: the chain's newest record of it to the engine, its move, or what it serves, back."""

from __future__ import annotations

from pathlib import Path

import msgspec

from assay import links
from assay.dispute.moves import Named
from assay.dispute.record import Disputed, facts_of
from assay.dispute.served import patience
from assay.engine import AnswerDispute, DisputeAnswered, OwnRun
from assay.messages import Boundary
from assay.ports import Chain
from assay.runtime import Fault, TaskFailed
from assay.tasks import MakeMove, MoveMade, NodesServed, ServeNodes
from assay.workshop import Workshop, quietly


async def make_move(shop: Workshop, chain: Chain, task: MakeMove, folder: Path, own: OwnRun | None) -> MoveMade:
    """Raises TaskFailed, or Outage while the chain does not answer."""
    asked, grace = await _question(shop, chain, task, folder, own)
    found = await _answer(shop, asked)
    if found.record is not None:
        await shop.put_record(folder, await shop.spec(task.spec), found.record)
        found = await _answer(shop, asked)
    return MoveMade(
        dispute=task.dispute, move=found.move, shown=found.shown, why=found.why, wanted=found.wanted, patience=patience(grace), junk=found.junk
    )  # fmt: skip


async def serve_nodes(shop: Workshop, chain: Chain, task: ServeNodes, folder: Path, own: OwnRun | None) -> NodesServed:
    """Raises TaskFailed, or Outage while the chain does not answer."""
    asked, _ = await _question(shop, chain, task.place, folder, own)
    found = await _answer(shop, msgspec.structs.replace(asked, asked=task.wanted))
    return NodesServed(dispute=task.place.dispute, nodes=found.nodes)


async def _question(shop: Workshop, chain: Chain, task: MakeMove, folder: Path, own: OwnRun | None) -> tuple[AnswerDispute, int]:
    """What the engine is asked, and the grace of a move in seconds."""
    try:
        record = await chain.dispute(task.dispute)
    except KeyError:
        raise TaskFailed(Fault.OWN, f"the chain node does not know dispute {task.dispute}") from None
    rules, head, spec = await chain.dispute_rules(), await chain.head(), await shop.spec(task.spec)
    segment = Disputed(
        segment=task.segment, start=task.start, stop=task.stop, parent_end=task.parent_root, link_root=task.link_root, bond=task.bond,
        revealed=task.revealed,
    )  # fmt: skip
    asked = AnswerDispute(
        job=await shop.job_files(task.spec, spec), dataset=spec.dataset, segment=folder.name,
        facts=facts_of(record, rules, chain.chain_id, chain.disputes, task.terms, segment), record=record, side=task.side,
        block=head.number, time=head.time, own=own, named=named(task.boundary, spec.micro_batches), opening=task.opening, last=task.last,
        served=task.served,
    )  # fmt: skip
    return asked, rules.grace


async def _answer(shop: Workshop, asked: AnswerDispute) -> DisputeAnswered:
    found = await shop.engine.run(asked, shop.root, quietly)
    assert isinstance(found, DisputeAnswered)
    return found


def named(boundary: Boundary | None, micro_batches: int) -> tuple[tuple[int, Named], ...]:
    """The link ends of a served boundary, with their paths."""
    if boundary is None:
        return ()
    places = links.named_ends(boundary.unit, micro_batches)
    return tuple((place, Named(root=end, path=path)) for place, end, path in zip(places, boundary.link_ends, boundary.proofs, strict=True))
