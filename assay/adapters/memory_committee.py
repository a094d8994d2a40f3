"""The `Jobs` contract in Python, second half: draw, receipts, sealed votes, reveals, openings, decision.

Rules and refusals are those of contracts/src/jobs/Checks.sol, Votes.sol and docs/protocol.md. A round that decides nothing leads to the next
one, which checks the units of all rounds so far.
"""

from __future__ import annotations

from assay import chain, draw, merkle
from assay.adapters.memory_hearings import OPEN, REVEAL, SEAL, SHOW, Hearings
from assay.adapters.memory_jobs import BPS
from assay.adapters.memory_records import NO_DIGEST, Check, Segment
from assay.adapters.memory_stakes import JOBS, Context
from assay.adapters.refusals import refuse
from assay.chain import Attest, Disclose, Reveal, RevealAll, SegmentState, Serve, Spread
from assay.ids import Address, Digest, PeerId, SegmentId
from assay.merkle import sha256


def receipt_digest(chain_id: int, segment: SegmentId, round: int) -> Digest:
    """What a receipt's MAC is made over (stands for the EIP-712 digest)."""
    return sha256(b"receipt", draw.u64(chain_id), draw.raw(JOBS), draw.u64(segment), draw.u32(round))


def seal_digest(chain_id: int, segment: SegmentId, round: int, digest: Digest) -> Digest:
    return sha256(b"seal", draw.u64(chain_id), draw.raw(JOBS), draw.u64(segment), draw.u32(round), digest)


def visit_digest(chain_id: int, peer: PeerId) -> Digest:
    return sha256(b"visit", draw.u64(chain_id), draw.raw(JOBS), peer.encode())


class Committee(Hearings):
    def _check(self, seg: Segment, verifier: Address) -> Check:
        for check in seg.checks:
            if check.verifier == verifier:
                return check
        raise refuse("NotDrawn", segment=seg.number, verifier=verifier)

    # ---- draw

    def draw(self, ctx: Context, who: Address, number: SegmentId) -> None:
        seg = self.segment(number, SegmentState.COMMITTED)
        terms = self.jobs[seg.job].terms
        p = terms.params
        block_hash, block = self._reach(ctx, seg.seed_block)
        seed = draw.seed(block_hash, number, seg.round)
        drawn = self._select(seg, seed)
        if len(drawn) < p.quorum:
            if ctx.time <= seg.draw_by:
                raise refuse("TooFewVerifiers", found=len(drawn), quorum=p.quorum)
            self._fail(ctx, seg, "too few verifiers", keep_bond=False)
            return
        seg.seed_block = block
        for verifier in drawn:
            self.stakes.reserve(verifier, number, p.draw_bond)
        seg.rounds.append([Check(verifier) for verifier in drawn])
        seg.units += draw.units(seed, terms, seg.stop - seg.start, seg.round)
        seg.state, seg.serve_by = SegmentState.DRAWN, ctx.time + p.serve_window
        ctx.emit(
            chain.Drawn, segment=number, round=seg.round, seed=seed, units=seg.units, verifiers=tuple(drawn), serve_by=seg.serve_by,
        )  # fmt: skip

    def _select(self, seg: Segment, seed: Digest) -> list[Address]:
        """The verifiers of a round: 64 tries among those not drawn before in this segment, then 64 that allow them. Of a job whose data
        admit some verifiers only: these in the seed's order, likewise."""
        job = self.jobs[seg.job]
        admitted = self.admitted(seg.job)
        if admitted is not None:
            return self._select_listed(seg, draw.listed(seed, admitted))
        p = job.terms.params
        seats = self.stakes.seats_at(seg.seats_block)
        before = {check.verifier for checks in seg.rounds for check in checks}
        drawn: list[Address] = []
        for i in range((draw.TRIES if seg.round == 0 else 2 * draw.TRIES) if seats else 0):
            if len(drawn) == p.verifiers:
                break
            holder = self.stakes.holder_at(draw.slot(seed, i, seats), seg.seats_block)
            if holder in (seg.provider, job.client) or holder in drawn or (i < draw.TRIES and holder in before):
                continue
            if self.stakes.account(holder).free >= p.draw_bond:
                drawn.append(holder)
        return drawn

    def _select_listed(self, seg: Segment, order: list[Address]) -> list[Address]:
        job = self.jobs[seg.job]
        p = job.terms.params
        before = {check.verifier for checks in seg.rounds for check in checks}
        able = [
            who for who in sorted(order, key=lambda who: who in before)
            if who not in (seg.provider, job.client) and self.stakes.seated(who) and self.stakes.account(who).free >= p.draw_bond
        ]  # fmt: skip
        return able[: p.verifiers]

    # ---- receipts

    def serve(self, ctx: Context, who: Address, call: Serve) -> None:
        seg = self.segment(call.segment, SegmentState.DRAWN)
        p = self.jobs[seg.job].terms.params
        ctx.need_before(seg.serve_by)
        if len(call.verifiers) != len(call.signatures):
            raise refuse("LengthMismatch", expected=len(call.verifiers), given=len(call.signatures))
        digest = receipt_digest(ctx.chain_id, call.segment, seg.round)
        receipted: list[Check] = []
        for verifier, signature in zip(call.verifiers, call.signatures, strict=True):
            check = self._check(seg, verifier)
            if check in receipted:
                continue
            if not self.consents(verifier, who, digest, signature):
                raise refuse("BadSignature", signer=verifier)
            receipted.append(check)
        if len(receipted) < p.quorum:
            raise refuse("NoQuorum", receipts=len(receipted), quorum=p.quorum)
        for check in receipted:
            check.receipted = True
        self._now_served(ctx, seg)

    def redraw(self, ctx: Context, who: Address, number: SegmentId) -> None:
        seg = self.segment(number, SegmentState.DRAWN)
        p = self.jobs[seg.job].terms.params
        ctx.need_after(seg.serve_by)
        keys = sum(check.keyed for check in seg.checks) >= p.quorum
        if keys and seg.round == p.redraws and seg.phase != SHOW:
            self._ask(ctx, seg)
            return
        for check in seg.checks:
            self.release_draw(seg, check, p.draw_bond)
        reason = "not served" if keys else "keys withheld"
        if seg.round < p.redraws:
            self._next_round(ctx, seg, reason)
        else:
            self._fail(ctx, seg, reason, keep_bond=True)

    def _next_round(self, ctx: Context, seg: Segment, reason: str) -> None:
        seg.state, seg.phase, seg.opening_hash, seg.opening_block = SegmentState.COMMITTED, 0, None, 0
        seg.round += 1
        self.await_seed(ctx, seg)
        ctx.emit(chain.Redrawn, segment=seg.number, round=seg.round, reason=reason, seed_block=seg.seed_block)

    def _fail(self, ctx: Context, seg: Segment, reason: str, keep_bond: bool) -> None:
        """No committee came about: never paid."""
        if seg.negatives:
            self._withhold(ctx, seg, 0)
            return
        seg.settle_after = ctx.time + self.jobs[seg.job].terms.params.challenge_window
        if not keep_bond and not seg.disputes:
            self.release_bond(seg)
        self.end(ctx, seg, SegmentState.UNPAID)
        ctx.emit(chain.Unpaid, segment=seg.number, reason=reason)

    def _withhold(self, ctx: Context, seg: Segment, yes: int) -> None:
        seg.settle_after = ctx.time + self.jobs[seg.job].terms.params.challenge_window
        self.end(ctx, seg, SegmentState.WITHHELD)
        ctx.emit(chain.Withheld, segment=seg.number, yes=yes, no=seg.negatives)

    # ---- seal, reveal, open

    def attest(self, ctx: Context, who: Address, call: Attest) -> None:
        seg = self.segment(call.segment, SegmentState.SERVED)
        if seg.phase != SEAL:
            raise refuse("WrongPhase", segment=call.segment, phase=seg.phase)
        ctx.need_before(seg.seal_by)
        fresh: dict[Address, tuple[Check, Digest]] = {}
        for seal in call.seals:
            check = self._check(seg, seal.verifier)
            if check.digest is not None or seal.verifier in fresh:  # nobody can spoil a batch by sending a part of it first
                continue
            if not self.consents(seal.verifier, who, seal_digest(ctx.chain_id, call.segment, seg.round, seal.digest), seal.signature):
                raise refuse("BadSignature", signer=seal.verifier)
            fresh[seal.verifier] = (check, seal.digest)
        together = list(fresh) == [check.verifier for check in seg.checks] and len(call.seals) == len(fresh)
        for verifier, (check, digest) in fresh.items():
            check.digest, check.together = digest, together
            ctx.emit(chain.Sealed, segment=call.segment, verifier=verifier, digest=digest, together=together)
        if all(check.digest is not None for check in seg.checks):
            p = self.jobs[seg.job].terms.params
            seg.phase, seg.reveal_by, seg.opening_block = REVEAL, ctx.time + p.reveal_window, ctx.number + p.finality
            ctx.emit(chain.RevealsDue, segment=call.segment, reveal_by=seg.reveal_by, opening_block=seg.opening_block)

    def _need_revealing(self, ctx: Context, seg: Segment) -> None:
        if seg.phase == SEAL:
            ctx.need_after(seg.seal_by)
        elif seg.phase != REVEAL:
            raise refuse("WrongPhase", segment=seg.number, phase=seg.phase)

    def reveal(self, ctx: Context, who: Address, call: RevealAll) -> None:
        seg = self.segment(call.segment, SegmentState.SERVED)
        if seg.phase == OPEN:
            ctx.need_before(seg.open_by)
        else:
            self._need_revealing(ctx, seg)
            ctx.need_before(seg.reveal_by)
        if any(check.together for check in seg.checks):
            self._need_all(ctx, seg, call.reveals)
        fresh: dict[Address, tuple[Check, Reveal]] = {}
        opened: list[Check] = []
        told: list[tuple[type[chain.Revealed | chain.Opened], dict[str, object]]] = []
        block: tuple[Digest, int] | None = None
        for reveal in call.reveals:
            check = self._check(seg, reveal.verifier)
            shown = fresh[reveal.verifier][1].trace_roots if reveal.verifier in fresh else check.trace_roots if check.revealed else None
            done = check.opened or any(check is other for other in opened)
            self._need_vote(ctx, seg, check, reveal, shown, skip=not reveal.openings or done)
            if shown is None:
                fresh[reveal.verifier] = (check, reveal)
                told.append((chain.Revealed, {name: getattr(reveal, name) for name in ("verifier", "agrees", "trace_roots", "salt")}))
            if reveal.openings and not done:
                block = block or self._opening_block(ctx, seg)
                self._need_openings(seg, reveal, block[0])
                opened.append(check)
                told.append((chain.Opened, {"verifier": reveal.verifier}))
        for check, reveal in fresh.values():
            check.revealed, check.agrees, check.trace_roots = True, reveal.agrees, reveal.trace_roots
        for check in opened:
            check.opened = True
        if block is not None:
            seg.opening_hash, seg.opening_block = block
        for kind, fields in told:
            ctx.emit(kind, segment=call.segment, **fields)
        self._proceed(ctx, seg, over=self._all_revealed(seg))

    def _need_all(self, ctx: Context, seg: Segment, reveals: tuple[Reveal, ...]) -> None:
        """Of a round whose seals are kept together all votes come in one call, in the order of the draw, with their openings."""
        shown = [
            (r.verifier, draw.attestation(ctx.chain_id, JOBS, seg.number, seg.round, r.agrees, r.trace_roots, r.verifier, r.salt)) for r in reveals
        ]
        if not all(r.openings for r in reveals) or shown != [(check.verifier, check.digest) for check in seg.checks]:
            raise refuse("Together", segment=seg.number)

    def spread(self, ctx: Context, who: Address, call: Spread) -> None:
        seg = self.segment(call.segment)
        checks = seg.rounds[call.round] if 0 <= call.round < len(seg.rounds) else []
        if seg.state in chain.TERMINAL or not any(check.together for check in checks):
            raise refuse("NotTogether", segment=call.segment)
        if call.seals != draw.seals([(check.verifier, check.digest or NO_DIGEST) for check in checks]):
            raise refuse("BadSeals", segment=call.segment)
        for check in checks:
            check.together = False

    def _need_vote(
        self, ctx: Context, seg: Segment, check: Check, reveal: Reveal, shown: tuple[Digest, ...] | None, skip: bool
    ) -> None:
        """A vote that is new must be what was sealed; one that is shown again, with its openings, what was revealed (`shown`)."""
        if check.digest is None:
            raise refuse("NotSealed", verifier=reveal.verifier)
        if shown is not None and skip:
            return
        if shown is None and seg.phase == OPEN:
            raise refuse("NotRevealed", verifier=reveal.verifier)
        if len(reveal.trace_roots) != len(seg.units):
            raise refuse("LengthMismatch", expected=len(seg.units), given=len(reveal.trace_roots))
        told = (reveal.agrees, reveal.trace_roots, reveal.verifier, reveal.salt)
        sealed = check.digest == draw.attestation(ctx.chain_id, JOBS, seg.number, seg.round, *told) if shown is None else shown == reveal.trace_roots
        if not sealed:
            raise refuse("DigestMismatch", verifier=reveal.verifier)

    def _opening_block(self, ctx: Context, seg: Segment) -> tuple[Digest, int]:
        """Hash of the block that draws the openings, and which one it is."""
        if not seg.opening_block:
            raise refuse("WrongPhase", segment=seg.number, phase=seg.phase)
        return (seg.opening_hash, seg.opening_block) if seg.opening_hash else self._reach(ctx, seg.opening_block)

    def _need_openings(self, seg: Segment, reveal: Reveal, block_hash: Digest) -> None:
        terms = self.jobs[seg.job].terms
        if len(reveal.openings) != terms.params.openings:
            raise refuse("LengthMismatch", expected=terms.params.openings, given=len(reveal.openings))
        for j, opening in enumerate(reveal.openings):
            position, index = draw.opening(block_hash, seg.number, reveal.verifier, j, seg.units, terms)
            leaves = draw.leaves_of(seg.units[position], terms)
            if not merkle.verify(reveal.trace_roots[position], leaves, index, merkle.leaf(index, opening.leaf), opening.proof):
                raise refuse("BadOpening", verifier=reveal.verifier, index=j)

    def _all_revealed(self, seg: Segment) -> bool:
        """Whether all who sealed have revealed."""
        return all(check.revealed or check.digest is None for check in seg.checks)

    def close_reveals(self, ctx: Context, who: Address, number: SegmentId) -> None:
        seg = self.segment(number, SegmentState.SERVED)
        self._need_revealing(ctx, seg)
        if not self._all_revealed(seg):
            ctx.need_after(seg.reveal_by)
        self._proceed(ctx, seg, over=True)

    def _proceed(self, ctx: Context, seg: Segment, over: bool) -> None:
        """When all who sealed have revealed, or can no more (`over`), the openings are due; when these are all there, the round is
        decided."""
        p = self.jobs[seg.job].terms.params
        opened = all(check.opened or not check.revealed for check in seg.checks)
        if seg.phase != OPEN and over:
            seg.phase = OPEN
            if not opened:
                seg.opening_block, seg.open_by = seg.opening_block or ctx.number + p.finality, ctx.time + p.open_window
                ctx.emit(chain.OpeningsDue, segment=seg.number, opening_block=seg.opening_block, open_by=seg.open_by)
        if seg.phase == OPEN and opened:
            self._conclude(ctx, seg)

    def disclose(self, ctx: Context, who: Address, call: Disclose) -> None:
        seg = self.segment(call.segment)
        checks = seg.rounds[call.round] if 0 <= call.round < len(seg.rounds) else []
        check = next((check for check in checks if check.verifier == call.verifier), None)
        if check is None:
            raise refuse("NotDrawn", segment=call.segment, verifier=call.verifier)
        if not check.revealed:
            raise refuse("NotRevealed", verifier=call.verifier)
        if not check.bonded:
            raise refuse("NoBond", segment=call.segment)
        if check.together:
            raise refuse("Together", segment=call.segment)
        if check.trace_roots != call.trace_roots:
            raise refuse("DigestMismatch", verifier=call.verifier)
        check.disclosed = True

    # ---- decision

    def decide(self, ctx: Context, who: Address, number: SegmentId) -> None:
        seg = self.segment(number, SegmentState.SERVED)
        if seg.phase != OPEN:
            raise refuse("WrongPhase", segment=number, phase=seg.phase)
        if any(check.revealed and not check.opened for check in seg.checks):
            ctx.need_after(seg.open_by)
        self._conclude(ctx, seg)

    def _conclude(self, ctx: Context, seg: Segment) -> None:
        p = self.jobs[seg.job].terms.params
        yes, no = self._tally(seg)
        seg.negatives += no
        self._charge_no_shows(ctx, seg)
        if yes >= p.quorum:
            self._attested(ctx, seg, p.challenge_window)
        elif no >= p.quorum:
            self._withhold(ctx, seg, yes)
        elif seg.round < p.redraws:
            self._next_round(ctx, seg, "undecided")
        elif seg.negatives:
            self._withhold(ctx, seg, yes)
        else:
            self._attested(ctx, seg, 4 * p.challenge_window)

    def _tally(self, seg: Segment) -> tuple[int, int]:
        """(yes, no) among those who opened. The largest group that agrees on all trace roots is marked; of equal ones the group
        with who was drawn first."""
        opened = [check for check in seg.checks if check.opened]
        groups: dict[tuple[Digest, ...], list[Check]] = {}
        for check in opened:
            if check.agrees:
                groups.setdefault(check.trace_roots, []).append(check)
        best = max(groups.values(), key=len, default=[])
        for check in best:
            check.prevailed = True
        return len(best), sum(not check.agrees for check in opened)

    def _charge_no_shows(self, ctx: Context, seg: Segment) -> None:
        """Those who did not see the round through get their draw bond back, less the fee if they had taken part."""
        job = self.jobs[seg.job]
        p = job.terms.params
        fee = p.draw_bond * p.no_show_bps // BPS
        for check in seg.checks:
            if check.opened:
                continue
            charged = 0
            if check.receipted or check.digest is not None:
                charged = self.stakes.charge(ctx, check.verifier, seg.number, fee, "no-show")
                job.escrow += charged
            self.release_draw(seg, check, p.draw_bond - charged)
            ctx.emit(chain.NoShow, segment=seg.number, verifier=check.verifier, fee=charged)

    def _attested(self, ctx: Context, seg: Segment, window: int) -> None:
        seg.state, seg.phase, seg.settle_after = SegmentState.ATTESTED, 0, ctx.time + window
        ctx.emit(chain.Attested, segment=seg.number, settle_after=seg.settle_after)
