"""Getting what a check needs: document, program, frozen tensors, shards and keys of the job, and the boundary of each drawn link from its provider.

    boundary  asked -> answered (its link ends are under the commitment) -> blob fetched and key unwrapped -> opened
              anything else: noted, and asked for again after a pause, as long as a receipt would still count
"""

from __future__ import annotations

from collections.abc import Mapping

from assay import draw, links, merkle, reads, threshold
from assay.chain import SegmentState
from assay.facts import SegmentFacts
from assay.ids import Digest, JobId, SegmentId
from assay.job import JobSpec
from assay.messages import Boundary, BoundaryRequest
from assay.role import SLACK, Role
from assay.runtime import Answered, Ask, Do, Failed, Fetch, Result, Wake, Woke
from assay.tasks import BoundaryOpened, KeyStored, OpenBoundary, StoreKey
from assay_verifier.state import Duty, UnitDuty, VerifierConfig, VerifierState

ASK_AGAIN = 5
"""Seconds before a provider is asked again for a boundary that was not usable."""
MAX_PATH = 64
"""Siblings of a Merkle path."""


class Gathering(Role):
    state: VerifierState
    config: VerifierConfig

    def _maybe_ready(self, duty: Duty) -> None:
        raise NotImplementedError

    def _fail(self, duty: Duty, reason: str) -> None:
        duty.phase = "failed"
        self._note("failed", f"segment {duty.segment}: the check is given up: {reason}", segment=duty.segment, reason=reason)

    def _drawn(self, seg: SegmentFacts) -> None:
        units = {unit: UnitDuty(unit) for unit in sorted(set(seg.units))}
        salt = merkle.sha256(b"salt", self._seed, draw.u64(seg.segment), draw.u32(seg.round))
        duty = self.state.duties[seg.segment] = Duty(seg.segment, seg.round, salt, units)
        text = f"segment {seg.segment}: drawn to check {len(units)} links of {seg.provider}"
        self._note("drawn", text, segment=seg.segment, job=seg.job, round=seg.round, provider=seg.provider)
        self._want_job(seg.job, self.state.facts.peer(seg.provider))
        entry = self.state.jobs.get(seg.job)
        if entry is not None and entry.stage == "refused":
            return self._fail(duty, entry.reason)
        for unit in units.values():
            self._ask_boundary(duty, unit)
        self._gather(seg)

    def _gather(self, seg: SegmentFacts) -> None:
        spec = self._job(seg.job)
        if spec is not None:
            entry, window = self.state.jobs[seg.job], self.state.facts.jobs[seg.job].terms.params.seal_window
            work = sum(entry.update_flops if draw.is_update(unit, spec.micro_batches) else entry.micro_flops for unit in set(seg.units))
            if (seconds := self._seconds(work)) >= window:
                return self._fail(self.state.duties[seg.segment], f"the replay takes about {seconds} s here, and there are {window} s to seal")
            where = reads.places(seg.units, seg.start, spec.micro_batches)
            read = reads.records(reads.reading(spec), where)  # of the other shards nothing is needed
            shards = [blob for at, blob in enumerate(self._shards(spec)) if at in read]
            records = {key: len(some) for key, some in self._by_record(spec, read).items()}
            masks = threshold.masks_refs(spec.dataset.shards[at] for at in read if spec.dataset.shards[at].sealed.key_id in records)
            self._need(seg, [*shards, *self._frozen(spec)], records, where, masks)
            self._check_supplied(seg.segment)

    @staticmethod
    def _by_record(spec: JobSpec, read: Mapping[int, tuple[int, ...]]) -> dict[Digest, tuple[int, ...]]:
        """By the ids of the keys that this node is not given: the records whose keys it is given."""
        return reads.by_key([shard.sealed.key_id for shard in spec.dataset.shards], reads.reading(spec), read)

    def _job_ready(self, job: JobId) -> None:
        for duty in list(self.state.duties.values()):
            seg = self.state.facts.segments[duty.segment]
            if seg.job == job and duty.phase == "gathering":
                self._gather(seg)

    def _job_refused(self, job: JobId, reason: str) -> None:
        for duty in self.state.duties.values():
            if self.state.facts.segments[duty.segment].job == job:
                self._fail(duty, reason)

    def _supplied(self, segment: SegmentId) -> None:
        duty = self.state.duties.get(segment)
        if duty is not None:
            duty.supplied = True
            self._maybe_ready(duty)

    def _granted(self, duty: Duty) -> bool:
        """Program, shards and keys are here, and were released for this draw."""
        return duty.supplied and self._entitled(duty.segment, duty.grants)

    # ---- boundaries ------------------------------------------------------------------------------------------------------

    def _unit(self, rest: list[str]) -> tuple[Duty, UnitDuty, SegmentFacts] | None:
        """The duty that a result belongs to, if that is still wanted. `rest` is segment, round, unit, ask."""
        duty = self.state.duties.get(SegmentId(int(rest[0])))
        seg = self.state.facts.segments.get(SegmentId(int(rest[0])))
        if duty is None or seg is None or duty.round != int(rest[1]) or duty.phase == "failed":
            return None
        unit = duty.units.get(int(rest[2]))
        return (duty, unit, seg) if unit is not None and unit.asks == int(rest[3]) else None

    def _ask_boundary(self, duty: Duty, unit: UnitDuty) -> None:
        """Asks as long as a receipt would still count."""
        seg = self.state.facts.segments[duty.segment]
        deadline = self._serves_until(seg)
        peer = self.state.facts.peer(seg.provider)
        if not peer or self._now >= deadline:
            return self._fail(duty, f"link {unit.unit} was not served")
        unit.asks, unit.boundary, unit.fetched, unit.keyed, unit.opened = unit.asks + 1, None, False, False, False
        key = f"boundary:{duty.segment}:{duty.round}:{unit.unit}:{unit.asks}"
        message = BoundaryRequest(segment=duty.segment, round=duty.round, unit=unit.unit)
        self._do(Ask(key=key, peer=peer[0], message=message, patience=min(60, max(ASK_AGAIN, deadline - self._now))))

    def _serves_until(self, seg: SegmentFacts) -> int:
        """Until when what is served counts. A last round may still count as served when its time is over: a chunk is asked for then."""
        if seg.state != SegmentState.DRAWN:
            return seg.seal_by
        p = self.state.facts.jobs[seg.job].terms.params
        return seg.serve_by + (p.serve_window if seg.round == p.redraws else 0)

    def _unusable(self, duty: Duty, unit: UnitDuty, why: str) -> None:
        """Nothing that can be checked has come; the provider may still mend it."""
        text = f"segment {duty.segment}: link {unit.unit} is not served: {why}"
        self._note("unserved", text, segment=duty.segment, unit=unit.unit, reason=why)
        self._do(Wake(key=f"reask:{duty.segment}:{duty.round}:{unit.unit}:{unit.asks}", at=self._now + ASK_AGAIN))

    def _on_reask(self, event: Woke, rest: list[str]) -> None:
        found = self._unit(rest)
        if found is not None and not found[0].unserved:
            self._ask_boundary(found[0], found[1])

    def _on_boundary(self, event: Result, rest: list[str]) -> None:
        found = self._unit(rest)
        if found is None:
            return
        duty, unit, seg = found
        if not isinstance(event, Answered) or not isinstance(event.message, Boundary):
            why = event.error if isinstance(event, Failed) else "the provider answered something else"
            return self._unusable(duty, unit, why)
        boundary = event.message
        problem = self._check_boundary(seg, unit.unit, boundary)
        if problem:
            return self._unusable(duty, unit, problem)
        unit.boundary = boundary
        tail = ":".join(rest)
        near = self.state.facts.peer(seg.provider)
        self._do(Fetch(key=f"bfetch:{tail}", cid=boundary.cid, limit=self.config.max_blob + SLACK, near=near, patience=120))
        self._do(Do(key=f"bkey:{tail}", task=StoreKey(key_id=boundary.key_id, wrapped=boundary.wrapped)))

    def _check_boundary(self, seg: SegmentFacts, unit: int, boundary: Boundary) -> str:
        """What is wrong with a boundary that can be seen from the message alone: its link ends must be the committed ones."""
        m = self.state.facts.jobs[seg.job].terms.micro_batches
        places = links.named_ends(unit, m)
        if boundary.segment != seg.segment or boundary.unit != unit:
            return "it is the boundary of another link"
        if len(boundary.link_ends) != len(places) or len(boundary.proofs) != len(places):
            return f"it should open {len(places)} link ends"
        total = links.count(seg.stop - seg.start, m)
        for place, end, path in zip(places, boundary.link_ends, boundary.proofs, strict=True):
            if len(path) > MAX_PATH or not merkle.verify(seg.link_root, total, place, merkle.leaf(place, end), path):
                return f"the end of link {place} that it names is not the committed one"
        return ""

    def _on_bfetch(self, event: Result, rest: list[str]) -> None:
        found = self._unit(rest)
        if found is None:
            return
        duty, unit, _ = found
        if isinstance(event, Failed):
            return self._unusable(duty, unit, event.error)
        unit.fetched = True
        self._maybe_open(duty, unit, rest)

    def _on_bkey(self, event: Result, rest: list[str]) -> None:
        found = self._unit(rest)
        if found is None:
            return
        duty, unit, _ = found
        if isinstance(event, Failed):
            return self._unusable(duty, unit, event.error)
        self._outcome(event, KeyStored)
        unit.keyed = True
        self._maybe_open(duty, unit, rest)

    def _maybe_open(self, duty: Duty, unit: UnitDuty, rest: list[str]) -> None:
        if unit.fetched and unit.keyed and unit.boundary is not None:
            task = OpenBoundary(segment=duty.segment, round=duty.round, unit=unit.unit, boundary=unit.boundary)
            self._do(Do(key=f"bopen:{':'.join(rest)}", task=task))

    def _on_bopen(self, event: Result, rest: list[str]) -> None:
        found = self._unit(rest)
        if found is None:
            return
        duty, unit, _ = found
        if isinstance(event, Failed):
            return self._unusable(duty, unit, event.error)
        self._outcome(event, BoundaryOpened)
        unit.opened = True
        self._maybe_ready(duty)
