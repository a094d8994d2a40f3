"""The `Jobs` contract in Python, between its halves: what counts as served (contracts/src/jobs/Hearings.sol).

A quorum's receipts do; and where the last round gave none though its verifiers had their keys, a chunk that a block names and the provider
shows.
"""

from __future__ import annotations

from assay import chain, draw, hearing
from assay.adapters.memory_jobs import Jobs
from assay.adapters.memory_records import Segment
from assay.adapters.memory_stakes import Context
from assay.adapters.refusals import refuse
from assay.chain import SegmentState, ShowChunk
from assay.ids import Address, Digest

SEAL, REVEAL, OPEN, SHOW = 1, 2, 3, 4


class Hearings(Jobs):
    def _reach(self, ctx: Context, block: int) -> tuple[Digest, int]:
        """Hash of a past block that the EVM still reaches, and which one it is."""
        if ctx.number <= block:
            raise refuse("BlockTooEarly", afterBlock=block, blockNumber=ctx.number)
        block = draw.seed_block(block, ctx.number)
        return ctx.block_hash(block), block

    def _ask(self, ctx: Context, seg: Segment) -> None:
        p = self.jobs[seg.job].terms.params
        seg.phase, seg.serve_by, seg.seed_block = SHOW, ctx.time + p.serve_window, ctx.number + p.finality
        ctx.emit(chain.ChunkAsked, segment=seg.number, round=seg.round, at_block=seg.seed_block, show_by=seg.serve_by)

    def _now_served(self, ctx: Context, seg: Segment) -> None:
        p = self.jobs[seg.job].terms.params
        seg.state, seg.phase = SegmentState.SERVED, SEAL
        seg.seal_by = ctx.time + p.seal_window
        seg.reveal_by = seg.seal_by + p.reveal_window
        ctx.emit(chain.Served, segment=seg.number, round=seg.round, seal_by=seg.seal_by)

    def show(self, ctx: Context, who: Address, call: ShowChunk) -> None:
        seg = self.segment(call.segment, SegmentState.DRAWN)
        if seg.phase != SHOW:
            raise refuse("WrongPhase", segment=call.segment, phase=seg.phase)
        ctx.need_before(seg.serve_by)
        block_hash, _ = self._reach(ctx, seg.seed_block)
        micros = self.jobs[seg.job].terms.micro_batches
        try:
            found = hearing.prove(
                draw.chunk(block_hash, call.segment), seg.units, seg.start, seg.stop, micros, seg.link_root, call.proof
            )
        except hearing.NotTheChunk as error:
            raise refuse("NotTheChunk", what=str(error)) from None
        for check in seg.checks:
            check.receipted = check.receipted or check.keyed
        ctx.emit(chain.ChunkShown, segment=call.segment, place=found.place, entry=found.entry, chunk=found.chunk)
        self._now_served(ctx, seg)
