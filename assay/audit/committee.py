"""The audit's way through a segment, second part: the committee. Draws are made again from the seed block and the seats, seals are held
against reveals, openings against the trace roots, and the decision against the votes.
"""

from __future__ import annotations

from collections import Counter

from assay import chain, draw, hearing, merkle
from assay.audit.books import JobBook, Round, Seg, Vote, told
from assay.audit.hand import BPS, Hand
from assay.audit.record import Entry
from assay.chain import AnyChainEvent, SegmentState
from assay.ids import Address, Digest


class Committee(Hand):
    # ---- draw ------------------------------------------------------------------------------------------------------------

    def drawn(self, entry: Entry, event: chain.Drawn, seg: Seg) -> None:
        job = self.books.jobs[seg.job]
        p, check = job.terms.params, seg.sheet.check
        self.expect_state(seg, event, SegmentState.COMMITTED)
        check("draw", event.round == seg.round, f"round {event.round} was drawn when round {seg.round} was due")
        seed = self._seed(seg, event)
        if seed is not None:
            check("draw", event.seed == seed, f"the seed of round {event.round} is not that of block {draw.seed_block(seg.seed_block, event.block)}")
            units = seg.units + draw.units(seed, job.terms, seg.steps, seg.round)
            check("draw", event.units == units, f"round {event.round} drew links {_list(event.units)}; the seed draws {_list(units)}")
            chosen = self._select(seg, job, seed)
            check("draw", event.verifiers == chosen, f"round {event.round} drew {_list(event.verifiers)}; the seats draw {_list(chosen)}")
        check("draw", len(event.verifiers) >= p.quorum, f"{len(event.verifiers)} verifiers were drawn, the quorum is {p.quorum}")
        self.window(seg, event, event.serve_by, event.time, p.serve_window)
        for who in event.verifiers:
            self.stakes.reserve(who, seg.number, p.draw_bond)
        seg.rounds[seg.round] = Round(event.verifiers)
        seg.state, seg.units, seg.serve_by = SegmentState.DRAWN, event.units, event.serve_by

    def _seed(self, seg: Seg, event: AnyChainEvent) -> Digest | None:
        """The seed as the chain's own block makes it; notes when there is none yet, or when it cannot be had."""
        if not self.audited(seg):
            return None
        if not seg.sheet.check("draw", event.block > seg.seed_block, f"{told(event)}: its seed block {seg.seed_block} was not over"):
            return None
        block = draw.seed_block(seg.seed_block, event.block)
        found = self.record.hashes.get(block)
        if found is None:
            seg.sheet.check("draw", None, f"{told(event)}: the node does not give the hash of block {block}")
            return None
        return draw.seed(found, seg.number, seg.round)

    def _select(self, seg: Seg, job: JobBook, seed: Digest) -> tuple[Address, ...]:
        """The verifiers that a seed draws: 64 tries among those not drawn before in this segment, then 64 that allow them; of a job whose data
        admit some verifiers only, these in the seed's order, likewise."""
        before = {who for round in seg.rounds.values() for who in round.verifiers}
        admitted = self.admissions.of(seg.job)
        if admitted is not None:
            ranked = sorted(draw.listed(seed, admitted), key=lambda who: who in before)
            able = (who for who in ranked if who not in (seg.provider, job.client) and self.stakes.seated(who))
            return tuple(who for who in able if self.stakes.free(who) >= job.terms.params.draw_bond)[: job.terms.params.verifiers]
        seats = self.stakes.seats(seg.seats_block)
        found: list[Address] = []
        for i in range((2 if seg.round else 1) * draw.TRIES if seats else 0):
            if len(found) == job.terms.params.verifiers:
                break
            who = seats[draw.slot(seed, i, len(seats))]
            if who in (seg.provider, job.client) or who in found or (i < draw.TRIES and who in before):
                continue
            if self.stakes.free(who) >= job.terms.params.draw_bond:
                found.append(who)
        return tuple(found)

    def redrawn(self, entry: Entry, event: chain.Redrawn, seg: Seg) -> None:
        job, check = self.books.jobs[seg.job], seg.sheet.check
        self.expect_state(seg, event, SegmentState.DRAWN, SegmentState.SERVED)
        reason = self._undecided(seg, event, job) if seg.state == SegmentState.SERVED else self._unserved(seg, event, job)
        check("verdict", event.reason == reason, f"round {seg.round} was drawn again as {event.reason!r}, it was {reason!r}")
        left = seg.round < job.terms.params.redraws
        check("verdict", left, f"round {seg.round} was drawn again; the terms allow {job.terms.params.redraws} redraws")
        check("verdict", event.round == seg.round + 1, f"round {event.round} follows round {seg.round}")
        seg.state, seg.round, seg.all_sealed, seg.opening, seg.opening_from = SegmentState.COMMITTED, event.round, False, False, 0
        self.await_seed(seg, event, event.seed_block)

    def _unserved(self, seg: Seg, event: AnyChainEvent, job: JobBook) -> str:
        """Why a round that was not served ends; its draw bonds are free."""
        self.after(seg, event, seg.serve_by)
        committee = seg.committee or Round(())
        for who in committee.verifiers:
            if not seg.holds[who]:
                self.stakes.release(who, seg.number, job.terms.params.draw_bond)
        return "not served" if len(committee.keyed) >= job.terms.params.quorum else "keys withheld"

    def _undecided(self, seg: Seg, event: AnyChainEvent, job: JobBook) -> str:
        yes, no = self.decided(seg, event, job)
        return "undecided" if max(yes, no) < job.terms.params.quorum else "decided"

    # ---- served ----------------------------------------------------------------------------------------------------------

    def chunk_asked(self, entry: Entry, event: chain.ChunkAsked, seg: Seg) -> None:
        job, check = self.books.jobs[seg.job], seg.sheet.check
        p, committee = job.terms.params, seg.committee or Round(())
        self.expect_state(seg, event, SegmentState.DRAWN)
        self.after(seg, event, seg.serve_by)
        keyed = len(committee.keyed) >= p.quorum
        check("served", keyed and seg.round == event.round == p.redraws, f"a chunk was asked for in round {event.round}, which was not due")
        check("served", not seg.asked_block, f"a second chunk was asked for in round {event.round}")
        right = event.block + p.finality
        check("served", event.at_block == right, f"the chunk was to be named by block {event.at_block}, the rules make it {right}")
        self.window(seg, event, event.show_by, event.time, p.serve_window)
        seg.asked_block, seg.serve_by = event.at_block, event.show_by

    def chunk_shown(self, entry: Entry, event: chain.ChunkShown, seg: Seg) -> None:
        job, check = self.books.jobs[seg.job], seg.sheet.check
        self.expect_state(seg, event, SegmentState.DRAWN)
        if not check("served", bool(seg.asked_block), "a chunk was shown that nobody had asked for"):
            return
        self.in_time(seg, event, seg.serve_by)
        seg.shown = True
        call = self.call_of(entry, chain.ShowChunk, seg, "served")
        found = self.record.hashes.get(draw.seed_block(seg.asked_block, event.block))
        if call is None or found is None or seg.link_root is None:
            return
        number, micros = draw.chunk(found, seg.number), job.terms.micro_batches
        try:
            shown = hearing.prove(number, seg.units, seg.start, seg.stop, micros, seg.link_root, call.proof)
        except hearing.NotTheChunk as error:
            check("served", False, f"what was shown is not what was asked for: {error}")
            return
        right = shown == (event.place, event.entry, event.chunk)
        check("served", right, f"chunk {event.chunk} of entry {event.entry} of end {event.place} is told, shown was {tuple(shown)}")

    def served(self, entry: Entry, event: chain.Served, seg: Seg) -> None:
        job, check = self.books.jobs[seg.job], seg.sheet.check
        p = job.terms.params
        self.expect_state(seg, event, SegmentState.DRAWN)
        self.in_time(seg, event, seg.serve_by)
        self.window(seg, event, event.seal_by, event.time, p.seal_window)
        committee = seg.committee or Round(())
        call = self.call_of(entry, chain.Serve, seg, "served") if not seg.shown else None
        if seg.shown:
            committee.receipted |= committee.keyed
        elif call is not None:
            for who, signature in zip(call.verifiers, call.signatures, strict=False):
                check("served", who in committee.verifiers, f"{who} gave a receipt for round {seg.round} and was not drawn")
                signer = self.record.signers.receipt_signer(seg.number, seg.round, signature)
                self.signed(seg, "served", who, signature, signer, entry, f"the receipt for round {seg.round}")
            committee.receipted = set(call.verifiers)
            enough = len(committee.receipted) >= p.quorum
            check("served", enough, f"{len(committee.receipted)} receipts for round {seg.round}, the quorum is {p.quorum}")
        seg.state, seg.seal_by, seg.reveal_by = SegmentState.SERVED, event.seal_by, event.seal_by + p.reveal_window

    # ---- votes -----------------------------------------------------------------------------------------------------------

    def sealed(self, entry: Entry, event: chain.Sealed, seg: Seg) -> None:
        self.expect_state(seg, event, SegmentState.SERVED)
        self.in_time(seg, event, seg.seal_by)
        committee, check, who = seg.committee or Round(()), seg.sheet.check, event.verifier
        check("votes", who in committee.verifiers, f"{who} sealed in round {seg.round} and was not drawn")
        check("votes", who not in committee.digests and not seg.opening, f"{who} sealed in round {seg.round} when it could not")
        committee.digests[who] = None
        call = self.call_of(entry, chain.Attest, seg, "votes")
        if call is None:
            return
        seal = next((seal for seal in call.seals if seal.verifier == who), None)
        if seal is None:
            check("votes", False, f"the transaction holds no seal of {who}")
            return
        committee.digests[who] = seal.digest
        signer = self.record.signers.seal_signer(seg.number, seg.round, seal.digest, seal.signature)
        self.signed(seg, "votes", who, seal.signature, signer, entry, f"the seal of round {seg.round}")

    def reveals_due(self, entry: Entry, event: chain.RevealsDue, seg: Seg) -> None:
        committee = seg.committee or Round(())
        missing = set(committee.verifiers) - committee.digests.keys()
        seg.sheet.check("times", not missing, f"reveals began before {_list(sorted(missing))} had sealed")
        self.window(seg, event, event.reveal_by, event.time, self.books.jobs[seg.job].terms.params.reveal_window)
        self.opening_block(seg, event, event.block + self.books.jobs[seg.job].terms.params.finality)
        seg.all_sealed, seg.reveal_by = True, event.reveal_by

    def opening_block(self, seg: Seg, event: chain.RevealsDue | chain.OpeningsDue, right: int) -> None:
        """It is fixed by the last seal or, when not all seal, by the last reveal."""
        seg.sheet.check("opened", event.opening_block == right, f"{told(event)} names block {event.opening_block}; the terms make it {right}")
        seg.opening_block = right

    def revealed(self, entry: Entry, event: chain.Revealed, seg: Seg) -> None:
        self.expect_state(seg, event, SegmentState.SERVED)
        if not seg.all_sealed:
            self.after(seg, event, seg.seal_by)
        self.in_time(seg, event, seg.reveal_by)
        committee, check, who = seg.committee or Round(()), seg.sheet.check, event.verifier
        check("votes", who in committee.digests, f"{who} revealed in round {seg.round} what it had not sealed")
        check("votes", who not in committee.votes, f"{who} revealed twice in round {seg.round}")
        right = len(event.trace_roots) == len(seg.units)
        check("votes", right, f"{who} revealed {len(event.trace_roots)} trace roots for {len(seg.units)} links")
        committee.votes[who] = Vote(event.agrees, event.trace_roots)
        seg.told.append((seg.round, who, committee.votes[who]))
        call = self.call_of(entry, chain.RevealAll, seg, "votes")
        digest = committee.digests.get(who)
        if call is None or digest is None:
            return
        reveal = next((reveal for reveal in call.reveals if reveal.verifier == who), None)
        if reveal is None:
            check("votes", False, f"the transaction holds no reveal of {who}")
            return
        check("votes", (reveal.agrees, reveal.trace_roots) == (event.agrees, event.trace_roots), f"what {who} sent is not what was logged")
        head = (self.record.chain_id, self.record.contract, seg.number, seg.round)
        made = draw.attestation(*head, event.agrees, event.trace_roots, who, reveal.salt)
        check("votes", made == digest, f"what {who} revealed in round {seg.round} is not what it had sealed")

    # ---- openings --------------------------------------------------------------------------------------------------------

    def openings_due(self, entry: Entry, event: chain.OpeningsDue, seg: Seg) -> None:
        p = self.books.jobs[seg.job].terms.params
        self.expect_state(seg, event, SegmentState.SERVED)
        committee = seg.committee or Round(())
        if committee.digests.keys() - committee.votes.keys():
            self.after(seg, event, seg.reveal_by)
        if not seg.all_sealed:
            self.after(seg, event, seg.seal_by)
        self.opening_block(seg, event, seg.opening_block if seg.all_sealed else event.block + p.finality)
        self.window(seg, event, event.open_by, event.time, p.open_window)
        seg.opening, seg.open_by = True, event.open_by

    def opened(self, entry: Entry, event: chain.Opened, seg: Seg) -> None:
        job, check, who = self.books.jobs[seg.job], seg.sheet.check, event.verifier
        self.expect_state(seg, event, SegmentState.SERVED)
        self.in_time(seg, event, seg.open_by if seg.opening else seg.reveal_by)
        check("opened", seg.opening or seg.all_sealed, f"{who} opened before openings were due")
        vote = (seg.committee or Round(())).votes.get(who)
        if vote is None:
            check("opened", False, f"{who} opened in round {seg.round} and had not revealed")
            return
        check("opened", not vote.opened, f"{who} opened twice in round {seg.round}")
        vote.opened = True
        call = self.call_of(entry, chain.RevealAll, seg, "opened")
        if call is not None and check("opened", event.block > seg.opening_block, f"{who} opened before block {seg.opening_block} was over"):
            self._openings(seg, job, event, call, vote)

    def _openings(self, seg: Seg, job: JobBook, event: chain.Opened, call: chain.RevealAll, vote: Vote) -> None:
        check, who = seg.sheet.check, event.verifier
        openings = next((reveal.openings for reveal in call.reveals if reveal.verifier == who and reveal.openings), ())
        seg.opening_from = seg.opening_from or draw.seed_block(seg.opening_block, event.block)
        block_hash = self.record.hashes.get(seg.opening_from)
        if block_hash is None:
            check("opened", None, f"the node does not give the hash of block {seg.opening_from}, which drew what {who} opened")
            return
        wanted = job.terms.params.openings
        check("opened", len(openings) == wanted, f"{who} opened {len(openings)} leaves, the terms ask for {wanted}")
        for j, opening in enumerate(openings[:wanted]):
            position, index = draw.opening(block_hash, seg.number, who, j, seg.units, job.terms)
            unit = seg.units[position]
            leaves, root = job.leaves(unit), vote.trace_roots[position] if position < len(vote.trace_roots) else b""
            shown = merkle.verify(root, leaves, index, merkle.leaf(index, opening.leaf), opening.proof)
            check("opened", shown, f"{who} did not show leaf {index} of its trace of link {unit}, which block {seg.opening_from} drew")
            if shown and vote.agrees and index == leaves - 1 and job.unit_is_last(unit, seg):
                check("opened", opening.leaf == seg.end_root, f"{who} said yes with a trace of link {unit} that does not end in the committed state")

    # ---- decision --------------------------------------------------------------------------------------------------------

    def no_show(self, entry: Entry, event: chain.NoShow, seg: Seg) -> None:
        job, check, who = self.books.jobs[seg.job], seg.sheet.check, event.verifier
        self.expect_state(seg, event, SegmentState.SERVED)
        committee, p = seg.committee or Round(()), job.terms.params
        vote = committee.votes.get(who)
        true = who in committee.verifiers and who not in committee.gone and not (vote and vote.opened)
        check("verdict", true, f"{who} is told a no-show of round {seg.round} and is none")
        committee.gone.add(who)
        known = all(digest is not None for digest in committee.digests.values()) and bool(committee.receipted)
        fee = p.draw_bond * p.no_show_bps // BPS if who in committee.receipted or who in committee.digests else 0
        if self.audited(seg) and known:
            check("money", event.fee == fee, f"{who} was charged {event.fee} as a no-show, the terms make it {fee}")
        self.charges(seg, event, Counter({(who, event.fee, "no-show"): 1}))
        job.escrow += event.fee
        if not seg.holds[who]:
            self.stakes.release(who, seg.number, p.draw_bond - event.fee)

    def decided(self, seg: Seg, event: AnyChainEvent, job: JobBook) -> tuple[int, int]:
        """(yes, no) of a round that is decided by this event, which may come only when all had their time."""
        committee, check = seg.committee or Round(()), seg.sheet.check
        if not seg.opening and committee.digests.keys() - committee.votes.keys():
            self.after(seg, event, seg.reveal_by)
        elif not seg.opening and not seg.all_sealed:
            self.after(seg, event, seg.seal_by)
        if any(not vote.opened for vote in committee.votes.values()):
            self.after(seg, event, seg.open_by)
        away = {who for who in committee.verifiers if not (who in committee.votes and committee.votes[who].opened)}
        wrong = _list(sorted(away ^ committee.gone))
        check("verdict", not away ^ committee.gone, f"the decision of round {seg.round} tells the wrong no-shows: {wrong}")
        yes, no = committee.tally()
        seg.negatives += no
        return yes, no


def _list(items: tuple[object, ...] | list[Address]) -> str:
    return ", ".join(map(str, items)) or "none"
