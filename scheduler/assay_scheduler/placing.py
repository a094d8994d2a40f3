"""How a scheduler places a range: when it announces, how long it waits for offers, whom it takes.

    when      a range is announced so that offers are there when it opens, and not before: when its parent is about to be committed (as
              far as the job's earlier segments tell), or its oldest unsettled ancestor to settle, if there are as many as the policy allows.
              An offer that waits keeps its worker from other jobs
    how long  until all workers that are known to be there, and have no segment, have offered; until an offer has come and `offer_grace` is
              over; `offer_window` at most, then the range is announced once more
              while nobody has offered, nodes that may not have heard of it are looked for by what they say they have, once in `look_every`
              seconds, and told directly
    whom      assay_scheduler.placement
"""

from __future__ import annotations

import hashlib

from assay.chain import Assign, AssignListed
from assay.ids import Address, PeerId, SegmentId
from assay.messages import Ack, JobAnnouncement, Means, OfferMessage, Refusal
from assay.runtime import AnyEffect, Ask, Cancel, Do, Gossip, Note, Reply, Send, Wake
from assay.tasks import FindNodes, NodesFound, OfferVerified, VerifyOffer
from assay_scheduler.books import (
    LIVE_UNCOMMITTED,
    LONGEST_PAUSE,
    MAX_BIDS,
    MAX_TOLD,
    OPEN,
    OVER,
    PATIENT,
    PROVEN_FOR,
    RESTING,
    Config,
    JobBook,
    State,
    range_key,
)
from assay_scheduler.placement import Bid, Wanted, rank


class Placing:
    config: Config
    state: State

    def _seek(self, job: JobBook, now: int) -> list[AnyEffect]:
        """Announces the next range to place when it is time; assigns it when it is open and offers for it are there."""
        if not self._mine(job) or job.cancelled:
            return []
        parent, start, live, unsettled = job.tip()
        if start >= job.terms.steps:
            return []
        stop = min(job.terms.steps, (start // job.terms.segment_steps + 1) * job.terms.segment_steps)
        key = range_key(job.id, parent, start, stop)
        stage = self.state.soliciting.get(key)
        if key in self.state.assigning or stage in (OPEN, RESTING):
            return []
        shut = live or unsettled >= job.terms.params.depth
        allowed = 0 if job.scheduler == self.config.account else job.open_since + job.patience + 1
        if allowed and (shut or now < allowed):  # it goes on for a silent one: for each range anew
            return [] if shut else [Wake(key=f"open:{key}:{allowed}", at=allowed)]
        if stage == OVER and self.state.bids.get(key):
            return [] if shut else self._assign(job, key, now)
        if job.fruitless >= PATIENT and stage is None:
            return [] if live else self._rest(job, key, now)
        opens = job.opens() if shut else 0
        if opens is None:
            asked = stage is not None or not live or unsettled >= job.terms.params.depth
            return [] if asked else self._announce(job, parent, start, stop, now)
        if opens > now + self.config.offer_window:
            return [Wake(key=f"open:{key}:{opens}", at=opens - self.config.offer_window)]
        if shut and stage == OVER:  # it opens later than was thought
            return []
        return self._announce(job, parent, start, stop, now)

    def _rest(self, job: JobBook, key: str, now: int) -> list[AnyEffect]:
        self.state.soliciting[key] = RESTING
        pause = min(self.config.offer_window << min(job.fruitless - PATIENT + 1, 16), LONGEST_PAUSE)
        text = f"job {job.id}: {job.fruitless} segments in a row came to nothing; it rests for {pause} s"
        rest = Wake(key=f"rested:{key}:{job.fruitless}", at=now + pause)
        return [Note(topic="paused", text=text, data={"job": job.id, "seconds": pause}), rest]

    def _on_turn(self, kind: str, rest: str, now: int) -> list[AnyEffect]:
        """The time to answer is over (`choose`), the rest after failures (`rested`), or a range is about to open."""
        range_, _, serial = rest.rpartition(":")
        job = self.state.jobs.get(int(range_.split(":")[0]))
        if job is None:
            return []
        if kind == "open":
            return self._seek(job, now)
        if range_ not in self.state.soliciting or (kind == "choose" and self.state.turns.get(range_) != int(serial)):
            return []
        self.state.soliciting[range_] = OVER
        again = self._seek(job, now)
        unheard = kind == "choose" and self.state.soliciting.get(range_) == OPEN
        return [*again, *self._look(job, range_, now)] if unheard else again

    def _look(self, job: JobBook, key: str, now: int) -> list[AnyEffect]:
        """For nodes with room for the job's tensors, since nobody has offered on this range."""
        if not self.config.look_every or now < job.looked + self.config.look_every:
            return []
        job.looked, self.state.serial = now, self.state.serial + 1
        means = Means(gpu=False, memory=sum(job.sizes), bits=0)
        return [Do(key=f"look:{key}:{self.state.serial}", task=FindNodes(means=means))]

    def _on_found(self, task: str, found: NodesFound, now: int, seed: bytes) -> list[AnyEffect]:
        key = task.removeprefix("look:").rpartition(":")[0]
        number, parent, start, stop = (int(part) for part in key.split(":"))
        job = self.state.jobs.get(number)
        if job is None or key not in self.state.soliciting or self.state.bids.get(key):  # placed meanwhile, or there are offers
            return []
        drawn = sorted(found.peers, key=lambda peer: hashlib.sha256(seed + peer.encode()).digest())
        others = [peer for peer in drawn if peer != self.config.peer][:MAX_TOLD]
        text = f"{number}: no offer for steps {start}-{stop} will do; {len(others)} nodes that say they have the memory for it are told directly"
        tell = self._announcement(job, parent, start, stop, now)
        return [self._about(job, "looked", text), *(Ask(key=f"tell:{key}:{peer}:{now}", peer=peer, message=tell) for peer in others)]

    def _announce(self, job: JobBook, parent: int, start: int, stop: int, now: int) -> list[AnyEffect]:
        key = range_key(job.id, parent, start, stop)
        self.state.soliciting[key] = OPEN
        self.state.serial += 1
        self.state.turns[key] = self.state.serial
        announcement = self._announcement(job, parent, start, stop, now)
        return [Gossip(message=announcement), Wake(key=f"choose:{key}:{self.state.serial}", at=announcement.respond_by)]

    def _announcement(self, job: JobBook, parent: int, start: int, stop: int, now: int) -> JobAnnouncement:
        return JobAnnouncement(
            job=job.id, spec=job.terms.spec, parent=SegmentId(parent), start=start, stop=stop,
            price_cap=job.terms.price_cap * (stop - start), scheduler=self.config.peer, respond_by=now + self.config.offer_window,
        )  # fmt: skip

    def _on_offer(self, ask: int, peer: PeerId, message: OfferMessage, now: int) -> list[AnyEffect]:
        offer = message.offer
        key = range_key(offer.job, offer.parent, offer.start, offer.stop)
        if self.state.peers.get(offer.provider) != peer:
            return [Reply(ask=ask, message=Refusal(reason="this peer is not the one that the provider registered on chain"))]
        if key not in self.state.soliciting:
            return [Reply(ask=ask, message=Refusal(reason="no offers are wanted for this range"))]
        job = self.state.jobs[offer.job]
        if offer.price > job.terms.price_cap * (offer.stop - offer.start):
            return [Reply(ask=ask, message=Refusal(reason="the price is over the job's cap"))]
        if offer.expires <= now:
            return [Reply(ask=ask, message=Refusal(reason="the offer has expired"))]
        if len(self.state.bids.get(key, [])) + len(self.state.pending) >= MAX_BIDS:
            return [Reply(ask=ask, message=Refusal(reason="too many offers", retry_after=5))]
        self.state.serial += 1
        task = f"verify:{key}:{self.state.serial}"
        self.state.pending[task] = message
        return [Reply(ask=ask, message=Ack()), Do(key=task, task=VerifyOffer(offer=offer, signature=message.signature))]

    def _on_verified(self, task: str, found: OfferVerified, now: int) -> list[AnyEffect]:
        message = self.state.pending.pop(task)
        offer = message.offer
        key = range_key(offer.job, offer.parent, offer.start, offer.stop)
        if key not in self.state.soliciting:  # placed meanwhile
            return []
        bids = [bid for bid in self.state.bids.get(key, []) if bid.offer.provider != offer.provider]
        proven = found.proven_at > 0 and now < found.proven_at + PROVEN_FOR
        bid = Bid(offer, message.signature, message.steps_per_second_milli, proven, found.memory, found.rate, found.free)
        self.state.bids[key] = [*bids, bid]
        if self.state.soliciting[key] == OPEN and self._all_answered(key, found.workers):
            self.state.soliciting[key] = OVER
            return [Cancel(key=f"choose:{key}:{self.state.turns[key]}"), *self._seek(self.state.jobs[offer.job], now)]
        if self.state.soliciting[key] == OPEN and not bids:
            before, self.state.serial = self.state.turns[key], self.state.serial + 1
            self.state.turns[key] = self.state.serial
            sooner = Wake(key=f"choose:{key}:{self.state.serial}", at=now + self.config.offer_grace)
            return [Cancel(key=f"choose:{key}:{before}"), sooner]
        return self._seek(self.state.jobs[offer.job], now)

    def _all_answered(self, key: str, workers: tuple[Address, ...]) -> bool:
        """Whether nobody is waited for: more offers can only come from who has work, or is not known."""
        if not workers or any(task.startswith(f"verify:{key}:") for task in self.state.pending):
            return False
        busy = {s.provider for job in self.state.jobs.values() for s in job.segments.values() if s.state in LIVE_UNCOMMITTED}
        return busy.union(bid.offer.provider for bid in self.state.bids[key]).issuperset(workers)

    def _assign(self, job: JobBook, key: str, now: int) -> list[AnyEffect]:
        parent, start, stop = (int(part) for part in key.split(":")[1:])
        ranked, left = rank(self.state.bids.get(key, []), self.state.records, self._wanted(job, parent, start, stop, now))
        notes = [self._about(job, "passed over", f"{job.id}: {gone.bid.offer.provider} for steps {start}-{stop}: {gone.why}") for gone in left]
        self.state.bids[key] = [scored.bid for scored in ranked]
        if not ranked:
            self.state.bids.pop(key, None)
            return [*notes, *self._announce(job, parent, start, stop, now)]
        best = ranked[0]
        others = f"; then {ranked[1].bid.offer.provider} with {ranked[1].why}, of {len(ranked)}" if ranked[1:] else ", the only one"
        job.placed = f"steps {start}-{stop} to {best.bid.offer.provider} for {best.bid.offer.price}: {best.why}{others}"
        self.state.assigning[key] = best.bid
        assign = Send(key=f"assign:{key}:{best.bid.offer.nonce}", call=_call(job, best.bid))
        return [*notes, self._about(job, "chosen", f"{job.id}: {job.placed}"), assign]

    def _wanted(self, job: JobBook, parent: int, start: int, stop: int, now: int) -> Wanted:
        params, (state, shared, frozen) = job.terms.params, job.sizes
        before = job.segments.get(parent)
        return Wanted(
            cap=job.terms.price_cap * (stop - start), now=now, bond_tenths=params.bond_tenths, bond_base=params.bond_base, state=state, shared=shared,
            frozen=frozen, parent=before.provider if before is not None else Address(""), hands=job.hands, prefers_proven=self.config.prefers_proven,
            listed=job.plan.providers if job.plan is not None and job.overdue else None,
        )  # fmt: skip

    @staticmethod
    def _about(job: JobBook, topic: str, text: str) -> Note:
        return Note(topic=topic, text=f"job {text}", data={"job": job.id})

    def _forget_ranges(self, job: JobBook) -> None:
        """A job that is over needs no offers."""
        head = f"{job.id}:"
        for kept in (self.state.bids, self.state.assigning, self.state.soliciting, self.state.turns):
            for key in [key for key in kept if key.startswith(head)]:
                del kept[key]

    def _mine(self, job: JobBook) -> bool:
        return job.scheduler == self.config.account or job.overdue

    def _near(self, account: Address) -> tuple[PeerId, ...]:
        peer = self.state.peers.get(account)
        return (peer,) if peer is not None else ()


def _call(job: JobBook, bid: Bid) -> Assign | AssignListed:
    """Who goes on for a silent scheduler brings the list that it is bound to."""
    if job.plan is None:
        return Assign(offer=bid.offer, signature=bid.signature)
    return AssignListed(offer=bid.offer, signature=bid.signature, providers=job.plan.providers if job.overdue else ())
