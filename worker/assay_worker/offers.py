"""The worker's offers: which announced ranges it wants, at what price, and for how long one offer blocks the next.

    heard      an announcement that may still become an offer (its job is loaded meanwhile)
    live       signed, sent, standing until it expires, its range goes to somebody else, its parent ends elsewhere than the offer says,
               or the scheduler refuses it; no more of them than there are places for what they may bring. The range behind one that
               computes here needs none: it opens when that one is committed, and not before
    cheap      a job that pays less than this node asks is not looked at again for a minute, then for two, up to an hour
"""

from __future__ import annotations

from collections import Counter

from assay.chain import FAILED, Offer
from assay.ids import JobId, SegmentId
from assay.messages import Ack, JobAnnouncement, OfferMessage
from assay.runtime import Answered, Ask, Do, Failed, Fault, Result, Wake, Woke
from assay.tasks import Signed, SignOffer
from assay_worker.earning import Earning
from assay_worker.state import BUSY, WAITING, Cheap, LiveOffer, Mine, WorkerConfig, WorkerState

MAX_WAIT = 600
"""Seconds that an announcement may ask for answers; what asks for longer is not answered."""
FIRST_PAUSE, LAST_PAUSE = 60, 3600
"""Seconds for which a job that pays too little is left alone."""
MAX_CHEAP = 256
"""Of such jobs that are remembered."""
MAX_HEARD = 64
"""Announcements that are remembered; when there are more, the scheduler that said most of them loses its oldest."""


class Offering(Earning):
    state: WorkerState
    config: WorkerConfig

    def _busy(self, *phases: str) -> list[Mine]:
        """Segments in these phases; by default, those that are being worked on."""
        return [mine for mine in self.state.mine.values() if mine.phase in (phases or BUSY)]

    def _hear(self, announcement: JobAnnouncement) -> None:
        if not self._now <= announcement.respond_by <= self._now + MAX_WAIT:  # an offer blocks the next one for as long
            return
        job, cheap = self.state.facts.jobs.get(announcement.job), self.state.cheap.get(announcement.job)
        if cheap is not None and self._now < cheap.until:
            return
        if job is not None and job.terms.price_cap < self.config.price_per_step and not self.config.bounty_percent:  # known without its document
            return self._too_cheap(announcement.job, self.config.price_per_step, job.terms.price_cap)
        key = (announcement.scheduler, announcement.job, announcement.parent, announcement.start)
        heard = [a for a in self.state.heard if (a.scheduler, a.job, a.parent, a.start) != key and a.respond_by >= self._now]
        self.state.heard = [*heard, announcement]
        if len(self.state.heard) > MAX_HEARD:
            loudest = Counter(a.scheduler for a in self.state.heard).most_common(1)[0][0]
            self.state.heard.remove(next(a for a in self.state.heard if a.scheduler == loudest))
        self._want_job(announcement.job, (announcement.scheduler,))

    def _too_cheap(self, job: JobId, asked: int, cap: int) -> None:
        """Prices for a step."""
        known = {number: cheap for number, cheap in self.state.cheap.items() if number != job and not self.state.facts.jobs[number].over}
        before = self.state.cheap.get(job)
        pause = min(2 * before.pause, LAST_PAUSE) if before is not None else FIRST_PAUSE
        known[job] = Cheap(asked, cap, self._now + pause, pause)
        self.state.cheap = dict(list(known.items())[-MAX_CHEAP:])
        text = f"no offer for job {job}: the cap of {cap} a step is below this node's price of {asked}; it is left alone for {pause} s"
        self._note("declined", text, job=job, asked=asked, cap=cap)

    def _computes(self, segment: SegmentId) -> bool:
        mine = self.state.mine.get(segment)
        return mine is not None and mine.phase == "running"

    def _room(self) -> int:
        """Places for which nothing is there, and nothing offered."""
        offered = [live for live in self.state.offers if not self._computes(live.offer.parent)]
        return self.config.places - len(self._busy("running", *WAITING)) - len(offered)

    def _consider(self, room: int) -> None:
        """Makes the first offer that can be made; forgets announcements that never can be."""
        for announcement in list(self.state.heard):
            if room <= 0 and not self._computes(announcement.parent):
                continue
            verdict, why = self._judge(announcement)
            if verdict == "wait":
                continue
            self.state.heard.remove(announcement)
            if verdict == "offer":
                return self._offer(announcement)
            if why:
                self._note("declined", f"no offer for steps {announcement.start}-{announcement.stop} of job {announcement.job}: {why}")

    def _judge(self, a: JobAnnouncement) -> tuple[str, str]:
        """offer, wait or drop; and the reason, where the owner may want to know it."""
        if a.respond_by < self._now:
            return "drop", ""
        job = self.state.facts.jobs.get(a.job)
        if job is None:
            return "wait", ""
        terms, entry = job.terms, self.state.jobs.get(a.job)
        if any((live.offer.job, live.offer.parent, live.offer.start) == (a.job, a.parent, a.start) for live in self.state.offers):
            return "wait", ""
        if job.over or a.spec != terms.spec:
            return "drop", "the announcement is not about the job on chain, or that has ended"
        if entry is None:
            self._want_job(a.job, (a.scheduler,))
            return "wait", ""
        if entry.stage == "refused":
            return "drop", entry.reason
        if a.stop != min(terms.steps, (a.start // terms.segment_steps + 1) * terms.segment_steps) or not a.start < a.stop:
            return "drop", "the announced range is not one that the contract assigns"
        if a.parent == 0 and a.start != 0:
            return "drop", "the announced range does not begin where its parent ends"
        if a.parent != 0:
            parent = self.state.facts.segments.get(a.parent)
            if parent is None:
                return "wait", ""
            if parent.job != a.job or parent.state in FAILED or parent.stop != a.start:
                return "drop", "the announced range does not begin where its parent ends"
        if not self._may_schedule(a):
            return "drop", "whoever announced it may not assign it"
        price, steps = self._price_of_step(a), a.stop - a.start
        if price * steps > min(a.price_cap, terms.price_cap * steps):
            self._too_cheap(a.job, price, min(a.price_cap // steps, terms.price_cap))
            return "drop", ""
        if (seconds := self._seconds(terms.micro_batches * entry.micro_flops + entry.update_flops)) >= terms.params.lease_window:
            return "drop", f"one step takes about {seconds} s here, and the lease of a whole segment is {terms.params.lease_window} s"
        if entry.stage != "ready":
            return "wait", ""
        return ("drop" if self._taken(a.job, a.parent, a.start) else "offer"), ""  # it may be said again while an offer for it stands

    def _taken(self, job: JobId, parent: SegmentId, start: int) -> bool:
        return any(s.parent == parent and s.start == start and s.live for s in self.state.facts.of_job(job))

    def _price_of_step(self, a: JobAnnouncement) -> int:
        """What this node asks for a step of the job; as long as its program is not known, at least what it will ask."""
        terms, entry = self.state.facts.jobs[a.job].terms, self.state.jobs[a.job]
        operations = terms.micro_batches * entry.micro_flops + entry.update_flops
        price = self.config.price_per_step - (-operations * self.config.price_per_tera // 10**12)
        return max(1, price - self._bounty_of_step(a.job))

    def _may_schedule(self, a: JobAnnouncement) -> bool:
        """The job's scheduler or client; anyone who is registered, once nothing has moved for the takeover window, if the client lets it take us."""
        job = self.state.facts.jobs[a.job]
        if self.state.facts.account(a.scheduler, (job.scheduler, job.client)) is not None:
            return True
        if job.plan is not None and self.config.account not in job.plan.providers:
            return False
        overdue = self._now >= job.touched + job.patience
        return overdue and any(person.peer == a.scheduler for person in self.state.facts.people.values())

    def _offer(self, a: JobAnnouncement) -> None:
        self.state.cheap.pop(a.job, None)
        nonce = int.from_bytes(self._seed[:8], "big") >> 1
        while self._live(str(nonce)) is not None:
            nonce += 1
        offer = Offer(
            provider=self.config.account,
            job=a.job,
            parent=a.parent,
            start=a.start,
            stop=a.stop,
            price=self._price_of_step(a) * (a.stop - a.start),
            expires=a.respond_by + self.config.offer_margin,
            nonce=nonce,
        )
        self.state.offers.append(LiveOffer(a, offer))
        bonds = sum(self._bond(live.offer) for live in self.state.offers)
        self._do(Do(key=f"sign:{offer.nonce}", task=SignOffer(offer=offer, bond=bonds)))
        self._do(Wake(key=f"expire:{offer.nonce}", at=offer.expires + 1))

    def _bond(self, offer: Offer) -> int:
        """What is reserved of the stake when it is taken."""
        p = self.state.facts.jobs[offer.job].terms.params
        return offer.price * p.bond_tenths // 10 + p.bond_base

    def _live(self, nonce: str) -> LiveOffer | None:
        return next((live for live in self.state.offers if live.offer.nonce == int(nonce)), None)

    def _on_sign(self, event: Result, rest: list[str]) -> None:
        live = self._live(rest[0])
        if live is None:
            return
        if isinstance(event, Failed):
            self.state.offers.remove(live)
            return self._note("declined", f"no offer for steps {live.offer.start}-{live.offer.stop} of job {live.offer.job}: {event.error}")
        signed: Signed = self._outcome(event, Signed)
        message = OfferMessage(offer=live.offer, signature=signed.signature, steps_per_second_milli=self.state.speed_milli)
        patience = max(2, live.announcement.respond_by - self._now)
        self._do(Ask(key=f"offer:{rest[0]}", peer=live.announcement.scheduler, message=message, patience=patience))

    def _on_offer(self, event: Result, rest: list[str]) -> None:
        live = self._live(rest[0])
        if live is None:
            return
        offer = live.offer
        if isinstance(event, Answered) and isinstance(event.message, Ack):
            text = f"offered steps {offer.start}-{offer.stop} of job {offer.job} for {offer.price}"
            self._note("offer", text, job=offer.job, start=offer.start, stop=offer.stop, price=offer.price)
        elif isinstance(event, Failed) and event.fault is Fault.OUTAGE:
            self._note("offer", f"the scheduler did not answer an offer ({event.error}); it stands until it expires", job=offer.job)
        else:
            self.state.offers.remove(live)
            why = event.error if isinstance(event, Failed) else "it answered something else"
            self._note("offer", f"the scheduler does not take an offer for job {offer.job}: {why}", job=offer.job)

    def _on_expire(self, event: Woke, rest: list[str]) -> None:
        live = self._live(rest[0])
        if live is not None:
            self.state.offers.remove(live)

    def _review_offers(self) -> None:
        """A live offer whose range is gone blocks nothing any more."""
        facts = self.state.facts
        for live in list(self.state.offers):
            offer, parent = live.offer, facts.segments.get(live.offer.parent)
            moved = parent is not None and (parent.state in FAILED or parent.stop != offer.start)
            if self._taken(offer.job, offer.parent, offer.start) or moved or facts.jobs[offer.job].over:
                self.state.offers.remove(live)
