"""The key service's logic: it holds the keys of jobs wrapped to it, and passes each on when the chain entitles somebody to it.

    job         fetching -> loading -> checking -> ready        its document, then every envelope in it, is checked when it is posted; on
                                                                datasets of others it waits for the contract's word that it is licensed
                any of these -> refused                         the reason is noted, and told to whoever asks
    checkpoint  Committed -> checked                            a provider's envelope that does not open is remembered as bad
    grant       waiting -> wrapping -> sending -> done          one batch of keys for one event of one segment

    event (final)                        recipients             keys
    Assigned                             the provider           all shards, the frozen tensors; the parent's checkpoint, or the initial state
    Drawn, each round                    the drawn verifiers    of the records that the drawn links read (assay.reads), the frozen tensors;
                                                                where that is nothing, a release that says so
    Settled with stop = steps            the client             the checkpoint
    JobCancelled, JobClosed              the client             the checkpoint of the last segment that settled
    Settled, on request and off chain    the client             the checkpoint

The machine sees only final chain events, so nothing is released before its event is final. A grant waits for the job's document and
for the recipient's registered encryption key, and is dropped when its segment ends first. If a provider's checkpoint envelope is bad,
nothing is released for its segment's draws (it ends unpaid: "keys withheld") nor for a segment that would start from it (whose
provider then owes no late fee), so that a provider cannot be paid for a checkpoint that nobody can open.

Behind the keys of a job it puts money, where its owner has deposited some (assay.keyservice.vouching).
As one of several key holders it does the same with its share of each key, for whom its owner says (assay.keyservice.adopting).
"""

from __future__ import annotations

from typing import Any

from assay import bundles
from assay.chain import (
    Assigned,
    CheckpointKeyShown,
    Committed,
    DatasetPublished,
    Drawn,
    JobCancelled,
    JobClosed,
    JobLicensed,
    JobPosted,
    Registered,
    ReleaseKeys,
    SegmentState,
    Settled,
    ShowingOwed,
)
from assay.codec import Message
from assay.facts import SegmentFacts
from assay.ids import Address, JobId, SegmentId
from assay.keyservice.answers import answer, bad_envelope
from assay.keyservice.licensed import Licensed
from assay.keyservice.showing import Showing, drawn_keys, wrap
from assay.keyservice.state import Envelope, Grant, JobKeys, JobStage, Kind
from assay.keyservice.vouching import SuretyEvent, Vouching
from assay.messages import KeyRequest, Refusal
from assay.role import PAUSE, SPEC_LIMIT
from assay.runtime import (
    AnyEffect,
    AnyEvent,
    Asked,
    ChainSeen,
    Do,
    Done,
    Failed,
    Fault,
    Fetch,
    Fetched,
    Heard,
    IllegalEvent,
    Ordered,
    Reply,
    Result,
    Send,
    Sent,
    Started,
    Wake,
    Woke,
)
from assay.tasks import JobLoaded, KeysWrapped, LoadJob


class KeyServiceMachine(Licensed, Showing, Vouching):
    """See the module's comment. `handle` is pure."""

    SOFT: tuple[type[Message], ...] = (KeyRequest,)

    def handle(self, event: AnyEvent, now: int, seed: bytes) -> list[AnyEffect]:
        self._out, self._now = [], now
        match event:
            case ChainSeen(event=seen):
                known = self.state.facts.people.get(seen.who) if isinstance(seen, Registered) else None
                self.state.facts.see(seen)
                self._chain(seen)
                if isinstance(seen, Registered) and known is not None and known.encryption_key != seen.encryption_key:
                    self._rekeyed(seen)
            case Asked(ask=ask, peer=peer, message=KeyRequest() as message):
                self._do(Reply(ask=ask, message=answer(self.state, peer, message)))
            case Asked(ask=ask):
                self._do(Reply(ask=ask, message=Refusal(reason="this node is a key service: it answers key requests only")))
            case Result(key=key):
                kind, *rest = key.split(":")
                self._result(kind, rest, event)
            case Ordered(order=order):
                self._ordered(order)
            case Started() | Heard():
                pass
        return self._out

    def summary(self) -> dict[str, Any]:
        return self.state.summary()

    # ---- the chain -------------------------------------------------------------------------------------------------------

    def _chain(self, event: Any) -> None:
        match event:
            case JobPosted(job=job, terms=terms) if terms.key_service in (self.config.account, *self.state.holds):
                self._adopt(job)
            case DatasetPublished() | JobLicensed() | ShowingOwed():
                self._dataset_event(event)
            case CheckpointKeyShown():
                self._key_shown(event)
            case _ if isinstance(event, SuretyEvent):
                self._surety_event(event)
            case Registered(who=who):
                for grant in [g for g in self.state.grants.values() if who in g.recipients]:
                    self._advance(grant)
            case JobCancelled(job=job) | JobClosed(job=job) if job in self.state.jobs:
                self.state.jobs[job].over = True
                self._final(self.state.jobs[job].settled)
                if isinstance(event, JobClosed):
                    self.state.jobs[job].shards, self.state.jobs[job].frozen = [], []  # nobody is entitled to them any more
                    self._take_back(event)
            case _:
                seg = self.state.facts.segments.get(getattr(event, "segment", SegmentId(0)))
                if seg is not None and seg.job in self.state.jobs:
                    self._segment(event, seg, self.state.jobs[seg.job])

    def _segment(self, event: Any, seg: SegmentFacts, job: JobKeys) -> None:
        match event:
            case Assigned():
                self._grant(seg, Kind.ASSIGNED, 0, [seg.provider])
            case Committed():
                self._committed(seg)
            case Drawn():
                self._grant(seg, Kind.DRAWN, seg.round, list(seg.verifiers))
            case Settled():
                job.settled = seg.segment
                self._show(seg)
                if job.over or seg.stop == self.state.facts.jobs[seg.job].terms.steps:
                    self._final(seg.segment)
                self._forget()
            case _ if not seg.live:
                self._advance_all(seg.job)  # drops what has lost its reason

    def _final(self, segment: SegmentId) -> None:
        """The client gets the checkpoint of the last settled segment, if there is one, and once."""
        seg = self.state.facts.segments.get(segment)
        if seg is None:
            return
        client = self.state.facts.jobs[seg.job].client
        if not any(r.recipient == client and r.key_id == seg.key_id for r in self.state.released.get(segment, [])):
            self._grant(seg, Kind.FINAL, 0, [client])

    def _rekeyed(self, event: Registered) -> None:
        """An account that has lost its encryption key and registered another gets what it is entitled to now once more."""
        mark = f"@{event.block}.{event.index}"
        self.state.shown = {segment: told for segment, told in self.state.shown.items() if told.recipient != event.who}
        for segment, releases in self.state.released.items():
            self.state.released[segment] = [r for r in releases if r.recipient != event.who]
        for seg in self.state.facts.segments.values():
            job = self.state.jobs.get(seg.job)
            if job is None:
                continue
            if seg.provider == event.who and seg.state in (SegmentState.ASSIGNED, SegmentState.ACTIVE):
                self._grant(seg, Kind.ASSIGNED, 0, [event.who], name=f"{seg.segment}:{Kind.ASSIGNED}:0{mark}")
            if event.who in seg.verifiers and seg.state in (SegmentState.DRAWN, SegmentState.SERVED):
                self._grant(seg, Kind.DRAWN, seg.round, [event.who], name=f"{seg.segment}:{Kind.DRAWN}:{seg.round}{mark}")
            facts = self.state.facts.jobs[seg.job]
            if event.who == facts.client and seg.segment == job.settled and (job.over or seg.stop == facts.terms.steps):
                self._grant(seg, Kind.FINAL, 0, [event.who], name=f"{seg.segment}:{Kind.FINAL}:0{mark}")

    def _forget(self) -> None:
        """Envelopes and releases of segments that the facts have forgotten: nothing builds on them any more."""
        for kept in (self.state.checkpoints, self.state.released):
            for segment in [s for s in kept if s not in self.state.facts.segments]:
                del kept[segment]

    # ---- jobs ------------------------------------------------------------------------------------------------------------

    def _fetch(self, job: JobId) -> None:
        cid, near = self.state.facts.jobs[job].terms.spec, tuple(self.state.jobs[job].near)
        self._do(Fetch(key=f"spec:{job}", cid=cid, limit=SPEC_LIMIT, near=near))

    def _refuse(self, job: JobId, reason: str) -> None:
        keys = self.state.jobs[job]
        keys.stage, keys.reason = JobStage.REFUSED, reason
        self._note("refused", f"job {job} is refused: {reason}", job=job, reason=reason)
        self._advance_all(job)

    def _checked(self, job: JobId, outcome: KeysWrapped) -> None:
        keys = self.state.jobs[job]
        if outcome.bad:
            return self._refuse(
                job,
                f"{len(outcome.bad)} of its {1 + len(keys.shared)} key envelopes do not open to the key they name "
                f"(first: {outcome.bad[0].hex()[:16]}…): the client wrapped them to another key service or for another account",
            )
        keys.stage, keys.reason = JobStage.READY, ""
        self._vouch(job)
        self._note("job", f"job {job}: all {1 + len(keys.shared)} keys are here", job=job, keys=1 + len(keys.shared))
        self._advance_all(job)

    # ---- grants ----------------------------------------------------------------------------------------------------------

    def _grant(self, seg: SegmentFacts, kind: Kind, round: int, recipients: list[Address], name: str = "") -> None:
        name = name or f"{seg.segment}:{kind}:{round}"
        if recipients and name not in self.state.grants:
            self.state.grants[name] = Grant(name, seg.segment, kind, round, recipients)
            self._advance(self.state.grants[name])

    def _advance(self, grant: Grant) -> None:
        """Goes on with a waiting grant if it can, or drops it when its time is over."""
        if grant.stage != "waiting":
            return
        seg = self.state.facts.segments.get(grant.segment)
        why = self._void(grant, seg)
        if seg is None or why:
            return self._drop(grant, why)
        keys = self.state.jobs[seg.job]
        if keys.stage is JobStage.REFUSED:
            return self._drop(grant, keys.reason)
        wanted = self._wanted(grant, seg, keys)
        if keys.stage is not JobStage.READY or wanted is None:
            grant.reason = "waiting for the job's document" if keys.stage is not JobStage.READY else "checking the checkpoint's envelope"
            return
        people = self.state.facts.people
        unknown = [who for who in grant.recipients if who not in people]
        known = [(who, people[who].encryption_key) for who in grant.recipients if who in people]
        if unknown and known:  # those who have a key do not wait for those who have none
            self._grant(seg, grant.kind, grant.round, unknown, name=f"{grant.name}+")
            grant.recipients = [who for who, _ in known]
        if not known:
            grant.reason = f"{', '.join(unknown)} has not registered an encryption key: `assay keys show`, then start the node once"
            return
        grant.stage, grant.reason = "wrapping", ""
        drawn = drawn_keys(keys, seg) if grant.kind is Kind.DRAWN else None
        self._do(Do(key=f"wrap:{grant.name}", task=wrap(wanted, known, drawn)))

    def _advance_all(self, job: JobId) -> None:
        for grant in list(self.state.grants.values()):
            seg = self.state.facts.segments.get(grant.segment)
            if seg is None or seg.job == job:
                self._advance(grant)

    def _void(self, grant: Grant, seg: SegmentFacts | None) -> str:
        """Why a grant is not to be carried out any more, empty if it is."""
        if seg is None:
            return "the segment is over"
        if grant.kind is Kind.ASSIGNED and seg.state not in (SegmentState.ASSIGNED, SegmentState.ACTIVE):
            return "the segment was committed or has lapsed before"
        if grant.kind is Kind.DRAWN and (not seg.live or seg.round != grant.round or seg.state == SegmentState.COMMITTED):
            return "the draw is over"
        blocked = self.state.checkpoints.get(seg.parent if grant.kind is Kind.ASSIGNED else seg.segment)
        if blocked is not None and blocked.bad:
            return bad_envelope(blocked.envelope.publisher)
        return ""

    def _wanted(self, grant: Grant, seg: SegmentFacts, keys: JobKeys) -> list[Envelope] | None:
        """The keys of a grant, without those of drawn records; None while the check of a checkpoint's envelope is still out."""
        needed = seg.parent if grant.kind is Kind.ASSIGNED else seg.segment
        if not needed:
            return [*keys.shared, keys.initial] if keys.initial is not None else None
        found = self.state.checkpoints.get(needed)
        if found is None or not found.checked:
            return None
        match grant.kind:
            case Kind.ASSIGNED:
                return [*keys.shared, found.envelope]
            case Kind.DRAWN:
                return keys.frozen
            case Kind.FINAL:
                return [found.envelope]

    def _drop(self, grant: Grant, reason: str) -> None:
        self.state.grants.pop(grant.name, None)
        text = f"segment {grant.segment}: no keys to {', '.join(grant.recipients)}: {reason}"
        self._note("withheld", text, segment=grant.segment, reason=reason)

    def _wrapped(self, grant: Grant, outcome: KeysWrapped) -> None:
        if outcome.bad:
            return self._drop(grant, f"key {outcome.bad[0].hex()[:16]}… has an envelope that does not open to it")
        if not outcome.releases:
            return self._drop(grant, "the encryption key that was registered is none")
        grant.stage, grant.keys = "sending", len(outcome.releases)
        fresh = {(release.recipient, release.key_id) for release in outcome.releases}
        kept = [r for r in self.state.released.get(grant.segment, []) if (r.recipient, r.key_id) not in fresh]
        self.state.released[grant.segment] = [*kept, *outcome.releases]
        for at, releases in enumerate(bundles.calls(outcome.releases)):
            self._do(Send(key=f"release:{grant.name}:{at}", call=ReleaseKeys(segment=grant.segment, releases=releases)))
            grant.sending += 1

    def _mined(self, grant: Grant) -> None:
        grant.sending -= 1
        if grant.stage == "sending" and grant.sending <= 0:
            del self.state.grants[grant.name]
            self.state.count += grant.keys
            text = f"segment {grant.segment}: {grant.keys} keys to {', '.join(grant.recipients)} ({grant.kind})"
            self._note("released", text, segment=grant.segment, keys=grant.keys)

    def _retry(self, grant: Grant, error: str) -> None:
        grant.stage, grant.reason, grant.sending = "waiting", error, 0
        self._note("error", f"segment {grant.segment}: keys could not be released: {error}; trying again", segment=grant.segment)
        self._do(Wake(key=f"again:grant:{grant.name}", at=self._now + PAUSE))

    # ---- results ---------------------------------------------------------------------------------------------------------

    def _result(self, kind: str, rest: list[str], event: Result) -> None:
        if kind in ("spec", "load", "envelopes"):
            return self._job_result(kind, JobId(int(rest[0])), event)
        if kind == "show":
            return self._shown(SegmentId(int(rest[0])), event)
        if kind == "manifest":
            return self._mirrored(rest, event)
        if kind in ("vouch", "contest", "take", "return", "ending"):
            return self._surety_result(kind, int(rest[0]), event)
        if kind == "order":
            return self._order_result(event)
        if kind == "showing":
            return self._showing_result(rest[0], event)
        if kind == "checkpoint":
            return self._checkpoint_result(SegmentId(int(rest[0])), event)
        if kind == "again" and isinstance(event, Woke):
            return self._again(rest)
        grant = self.state.grants.get(":".join(rest[:3]))
        match event:
            case _ if grant is None and kind in ("wrap", "release"):
                return
            case Done(outcome=KeysWrapped() as outcome) if kind == "wrap" and grant is not None:
                self._wrapped(grant, outcome)
            case Sent() if kind == "release" and grant is not None:
                self._mined(grant)
            case Failed(fault=Fault.REFUSED, error=error) if kind == "release" and grant is not None:
                self.state.grants.pop(grant.name)
                text = f"segment {grant.segment}: the contract did not take the keys: {error}; they are given to whoever asks"
                self._note("error", text, segment=grant.segment, reason=error)
            case Failed(error=error) if kind in ("wrap", "release") and grant is not None:
                self._retry(grant, error)
            case _:
                raise IllegalEvent(f"{type(event).__name__} of {event.key!r} has no place here")

    def _job_result(self, kind: str, job: JobId, event: Result) -> None:
        match event:
            case Fetched() if kind == "spec":
                self.state.jobs[job].stage = JobStage.LOADING
                self._do(Do(key=f"load:{job}", task=LoadJob(job=job, spec=self.state.facts.jobs[job].terms.spec)))
            case Done(outcome=JobLoaded() as loaded) if kind == "load":
                self._loaded(job, loaded)
            case Done(outcome=KeysWrapped() as outcome) if kind == "envelopes":
                self._checked(job, outcome)
            case Failed(fault=Fault.OUTAGE | Fault.OWN, error=error):
                self.state.jobs[job].reason = error
                self._note("waiting", f"job {job}: {error}; trying again", job=job)
                self._do(Wake(key=f"again:job:{job}", at=self._now + PAUSE))
            case Failed(error=error):
                self._refuse(job, error)
            case _:
                raise IllegalEvent(f"{type(event).__name__} of {event.key!r} has no place here")

    def _checkpoint_result(self, segment: SegmentId, event: Result) -> None:
        found = self.state.checkpoints.get(segment)
        if found is None:
            return
        match event:
            case Done(outcome=KeysWrapped() as outcome):
                found.checked, found.bad = True, bool(outcome.bad)
                if found.bad:
                    who = found.envelope.publisher
                    self._note("bad-envelope", f"segment {segment}: {bad_envelope(who)}", segment=segment, party=who, reason="bad key envelope")
                    self._contest(segment)
                self._advance_all(self.state.facts.segments[segment].job)
            case Failed(error=error):
                self._note("error", f"segment {segment}: the envelope could not be checked: {error}; trying again", segment=segment)
                self._do(Wake(key=f"again:checkpoint:{segment}", at=self._now + PAUSE))
            case _:
                raise IllegalEvent(f"{type(event).__name__} of {event.key!r} has no place here")

    def _again(self, rest: list[str]) -> None:
        match rest:
            case ["job", job]:
                self._fetch(JobId(int(job)))
            case ["checkpoint", segment]:
                if (found := self.state.checkpoints.get(SegmentId(int(segment)))) is not None:
                    self._do(Do(key=f"checkpoint:{segment}", task=wrap([found.envelope])))
            case ["grant", *name]:
                if (grant := self.state.grants.get(":".join(name))) is not None:
                    self._advance(grant)
            case _:
                raise IllegalEvent(f"Woke of again:{':'.join(rest)} has no place here")
