"""The `Jobs` contract in Python, second half: what the drawn verifiers do, from the receipts to the decision.

Seal, then reveal, then open leaves that are drawn after the reveal; then count. docs/protocol.md has the rules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from assay import chain, draw, merkle
from assay.adapters.memory_jobs import BPS, Jobs, Segment, Vote
from assay.adapters.memory_stakes import JOBS, Context, Stakes, Token, require
from assay.chain import Attest, Offer, Open, RevealAll, SegmentState, Serve
from assay.ids import Address, Digest, SegmentId


class Committee(Jobs):
    def __init__(
        self,
        token: Token,
        stakes: Stakes,
        offer_signer: Callable[[Offer, bytes], Address | None],
        receipt_signer: Callable[[SegmentId, int, bytes], Address | None],
        seal_signer: Callable[[SegmentId, int, Digest, bytes], Address | None],
    ) -> None:
        super().__init__(token, stakes, offer_signer)
        self.receipt_signer = receipt_signer
        self.seal_signer = seal_signer

    def vote(self, seg: Segment, verifier: Address) -> Vote:
        for vote in seg.votes:
            if vote.verifier == verifier:
                return vote
        require(False, f"{verifier} is not drawn in this round")
        raise AssertionError

    def serve(self, ctx: Context, who: Address, call: Serve) -> None:
        seg = self.segment(call.segment, SegmentState.DRAWN)
        p = self.jobs[seg.job].terms.params
        require(ctx.time <= seg.serve_by, "too late to serve")
        require(len(call.verifiers) == len(call.signatures), "as many signatures as verifiers are needed")
        require(len(set(call.verifiers)) == len(call.verifiers), "a verifier is named twice")
        require(len(call.verifiers) >= p.quorum, f"receipts of {p.quorum} verifiers are needed")
        for verifier, signature in zip(call.verifiers, call.signatures, strict=True):
            self.vote(seg, verifier)
            require(self.receipt_signer(call.segment, seg.round, signature) == verifier, f"the receipt of {verifier} is not signed by it")
        seg.state, seg.seal_by = SegmentState.SERVED, ctx.time + p.seal_window
        ctx.emit(chain.Served, segment=call.segment, round=seg.round, seal_by=seg.seal_by)

    def attest(self, ctx: Context, who: Address, call: Attest) -> None:
        seg = self.segment(call.segment, SegmentState.SERVED)
        p = self.jobs[seg.job].terms.params
        require(not seg.reveal_by and ctx.time <= seg.seal_by, "too late to seal")
        require(0 < len(call.seals) == len({seal.verifier for seal in call.seals}), "a verifier is named twice, or none is")
        for seal in call.seals:
            require(self.vote(seg, seal.verifier).digest is None, f"{seal.verifier} has sealed")
            own = who == seal.verifier and not seal.signature
            signed = own or self.seal_signer(call.segment, seg.round, seal.digest, seal.signature) == seal.verifier
            require(signed, f"the seal of {seal.verifier} is not signed by it")
        for seal in call.seals:
            self.vote(seg, seal.verifier).digest = seal.digest
            ctx.emit(chain.Sealed, segment=call.segment, verifier=seal.verifier)
        if all(vote.digest is not None for vote in seg.votes):
            seg.reveal_by = ctx.time + p.reveal_window
            ctx.emit(chain.RevealsDue, segment=call.segment, reveal_by=seg.reveal_by)

    def reveals_until(self, ctx: Context, seg: Segment) -> int:
        """End of the reveals; refuses before they have begun."""
        if seg.reveal_by:
            return seg.reveal_by
        require(ctx.time > seg.seal_by, f"not all have sealed, and they may until {seg.seal_by}")
        return seg.seal_by + self.jobs[seg.job].terms.params.reveal_window

    def reveal(self, ctx: Context, who: Address, call: RevealAll) -> None:
        seg = self.segment(call.segment, SegmentState.SERVED)
        require(not seg.opening_block and ctx.time <= self.reveals_until(ctx, seg), "too late to reveal")
        require(0 < len(call.reveals) == len({reveal.verifier for reveal in call.reveals}), "a verifier is named twice, or none is")
        for reveal in call.reveals:
            vote = self.vote(seg, reveal.verifier)
            require(not vote.revealed, f"{reveal.verifier} has revealed")
            require(len(reveal.trace_roots) == len(seg.units), f"{len(seg.units)} trace roots are needed")
            sealed = draw.attestation(
                ctx.chain_id, JOBS, call.segment, seg.round, reveal.agrees, reveal.trace_roots, reveal.verifier, reveal.salt
            )
            require(vote.digest == sealed, f"not what {reveal.verifier} sealed")
        for reveal in call.reveals:
            vote = self.vote(seg, reveal.verifier)
            vote.revealed, vote.agrees, vote.trace_roots = True, reveal.agrees, reveal.trace_roots
            seg.revealed.append(vote)
            ctx.emit(chain.Revealed, segment=call.segment, verifier=reveal.verifier, agrees=reveal.agrees, trace_roots=reveal.trace_roots)
        if all(vote.revealed or vote.digest is None for vote in seg.votes):
            self.start_openings(ctx, seg)

    def close_reveals(self, ctx: Context, who: Address, number: SegmentId) -> None:
        seg = self.segment(number, SegmentState.SERVED)
        require(not seg.opening_block, "the reveals are closed")
        require(ctx.time > self.reveals_until(ctx, seg), "the reveals go on")
        self.start_openings(ctx, seg)

    def start_openings(self, ctx: Context, seg: Segment) -> None:
        p = self.jobs[seg.job].terms.params
        seg.opening_block, seg.open_by = ctx.number + p.finality, ctx.time + p.open_window
        ctx.emit(chain.OpeningsDue, segment=seg.number, opening_block=seg.opening_block, open_by=seg.open_by)

    def open(self, ctx: Context, who: Address, call: Open) -> None:
        seg = self.segment(call.segment, SegmentState.SERVED)
        terms = self.jobs[seg.job].terms
        require(seg.opening_block > 0, "the reveals go on")
        require(ctx.number > seg.opening_block, f"the opening block is {seg.opening_block}")
        require(ctx.time <= seg.open_by, "too late to open")
        vote = self.vote(seg, call.verifier)
        require(vote.revealed and not vote.opened, f"{call.verifier} has not revealed, or has opened")
        require(len(call.openings) == terms.params.openings, f"{terms.params.openings} openings are needed")
        block_hash = ctx.block_hash(draw.seed_block(seg.opening_block, ctx.number))
        for j, opening in enumerate(call.openings):
            position, index = draw.opening(block_hash, call.segment, call.verifier, j, seg.units, terms)
            leaves = draw.leaves_of(seg.units[position], terms)
            shown = merkle.verify(vote.trace_roots[position], leaves, index, merkle.leaf(index, opening.leaf), opening.proof)
            require(shown, f"opening {j} does not show leaf {index} of unit {position}")
        vote.opened = True
        ctx.emit(chain.Opened, segment=call.segment, verifier=call.verifier)

    def decide(self, ctx: Context, who: Address, number: SegmentId) -> None:
        seg = self.segment(number, SegmentState.SERVED)
        job = self.jobs[seg.job]
        p = job.terms.params
        require(seg.opening_block > 0, "the reveals go on")
        require(ctx.time > seg.open_by or all(vote.opened or not vote.revealed for vote in seg.votes), "the openings go on")
        opened = [vote for vote in seg.revealed if vote.opened]
        agreeing = Counter(vote.trace_roots for vote in opened if vote.agrees)
        best = max(agreeing, key=lambda roots: agreeing[roots]) if agreeing else ()  # the first of equals, in order of reveal
        yes, no = agreeing[best], sum(not vote.agrees for vote in opened)
        for vote in seg.votes:
            fee = 0 if vote.opened else vote.bond * p.no_show_bps // BPS
            self.stakes.charge(ctx, vote.verifier, number, fee, "no-show")
            job.escrow += fee
            self.stakes.release(vote.verifier, vote.bond - fee)
            vote.bond = 0
            if not vote.opened:
                ctx.emit(chain.NoShow, segment=number, verifier=vote.verifier, fee=fee)
            if vote.opened and (not vote.agrees or vote.trace_roots == best):
                vote.side = vote.agrees
        last = seg.round == p.redraws
        if yes >= p.quorum or (last and not no):
            seg.state = SegmentState.ATTESTED
            seg.settle_after = ctx.time + p.challenge_window * (1 if yes >= p.quorum else 4)
            self.retire(seg)
            ctx.emit(chain.Attested, segment=number, settle_after=seg.settle_after)
        elif no and (no >= p.quorum or last):
            self.retire(seg)
            self.pay(ctx, seg, lambda vote: vote.side is False)
            self.end(ctx, seg, SegmentState.WITHHELD)
            ctx.emit(chain.Withheld, segment=number, yes=yes, no=no)
        else:
            self.next_round(ctx, seg, "no quorum")
