"""A segment's provider as it is asked by who checks: for the state before one step, and for where its run of a link parts from ours.

Everything that it says is held against the link root that it committed to (assay.dispute.parting), so a lie here is no more than no answer.
It answers peers that ask for the job's client or a verifier of the segment, as these have signed (messages.Visit), while it has the segment's
files: as a rule until the segment has settled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from assay import links, merkle
from assay.audit.books import Seg
from assay.audit.record import Record
from assay.chain import Registered
from assay.dispute.parting import Ask, Junk, Shown, Unanswered
from assay.dispute.questions import Kind, Parted, Question, Told
from assay.dispute.served import Nodes
from assay.dispute.tree import Tree
from assay.engine import LinkParted, PartLink
from assay.ids import Digest, PeerId
from assay.messages import AnyReply, Boundary, Refusal, StepRequest, TreeRequest, Visit
from assay.ports import Outage, Peers

T = TypeVar("T")

WITHIN = 60.0
"""Seconds that an answer may take; what takes longer to make is ready when it is asked for again."""
MOST_PATH = 64
"""Siblings of a Merkle path."""


class NotShown(Exception):
    """The provider does not show what it was asked for; the message says why."""


class Provider:
    """Of one segment of a job with `micro_batches` a step. `tries`: times that one thing is asked for."""

    def __init__(
        self, peers: Peers, visit: Visit, peer: PeerId, seg: Seg, micro_batches: int, tries: int = 20,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:  # fmt: skip
        self.peers, self.peer, self.seg, self.m, self.tries, self._sleep = peers, peer, seg, micro_batches, tries, sleep
        self._visit: Visit | None = visit
        self._told: dict[Question, Nodes] = {}
        self.count = links.count(seg.steps, micro_batches)
        assert seg.link_root is not None
        self.root: Digest = seg.link_root

    async def _ask(self, message: StepRequest | TreeRequest) -> AnyReply:
        """Raises NotShown."""
        if self._visit is not None:
            visit, self._visit = self._visit, None
            await self._say(visit)
        return await self._say(message)

    async def _say(self, message: StepRequest | TreeRequest | Visit) -> AnyReply:
        why = ""
        for _ in range(self.tries):
            try:
                reply = await self.peers.request(self.peer, message, WITHIN)
            except Outage as error:
                why, pause = str(error), 0.5
            else:
                if not isinstance(reply, Refusal):
                    return reply
                why, pause = reply.reason, float(reply.retry_after)
                if not reply.retry_after:
                    break
            await self._sleep(pause)
        raise NotShown(why)

    async def _answered(self, use: Callable[[Ask], T]) -> T:
        """`use` with answers to all that it asks. Raises NotShown."""
        while True:
            try:
                return use(self._told.get)
            except Unanswered as error:
                await self._learn(error.question)
            except Junk as error:
                raise NotShown(str(error)) from None

    async def _learn(self, question: Question) -> None:
        reply = await self._ask(TreeRequest(segment=self.seg.number, question=question))
        if not isinstance(reply, Nodes):
            raise NotShown("it answers something else")
        self._told[question] = reply

    async def state(self, step: int, before: Digest) -> Boundary:
        """The state before a step, as it is sealed to this account; its link ends are under the committed root. `before` is the root of the
        segment's first state."""
        reply = await self._ask(StepRequest(segment=self.seg.number, step=step))
        unit = (step - self.seg.start) * (self.m + 1)
        places = links.named_ends(unit, self.m)
        if not isinstance(reply, Boundary) or (reply.segment, reply.unit) != (self.seg.number, unit):
            raise NotShown("it answers something else")
        if len(reply.link_ends) != len(places) or len(reply.proofs) != len(places):
            raise NotShown(f"it should open {len(places)} link ends")
        for place, end, path in zip(places, reply.link_ends, reply.proofs, strict=True):
            if len(path) > MOST_PATH or not merkle.verify(self.root, self.count, place, merkle.leaf(place, end), path):
                raise NotShown(f"the end of link {place} that it names is not the committed one")
        return reply if step > self.seg.start else msgspec.structs.replace(reply, link_ends=(before, *reply.link_ends))

    async def leaf(self, unit: int) -> Digest:
        """The leaf of a link's end under the committed root."""
        return await self._answered(lambda ask: self._ends(ask).leaf(unit))

    async def first(self, ends: list[Digest]) -> int | None:
        """The first link whose end is another one than ours."""
        ours = Tree.of(ends)
        return await self._answered(lambda ask: self._ends(ask).first(ours))

    def _ends(self, ask: Ask) -> Shown:
        return Shown(ask, Kind.ENDS, self.count, root=self.root)

    async def part(self, task: PartLink, run: Callable[[PartLink], Awaitable[LinkParted]]) -> Parted:
        """Where our run of a link and its part: the engine says what is to be asked. `task` without what was told and committed."""
        committed = Digest(await self._answered(lambda ask: self._ends(ask).content(task.named)))
        told: list[Told] = []
        while True:
            found = await run(msgspec.structs.replace(task, committed=committed, told=tuple(told)))
            if found.parted is not None:
                return found.parted
            if found.question is None or found.question in (t.question for t in told):
                raise NotShown(found.junk or "it answers in circles")
            await self._learn(found.question)
            told.append(Told(question=found.question, nodes=self._told[found.question]))


class Providers:
    """Of the segments in a record, as `peers` reach them."""

    def __init__(self, record: Record, peers: Peers | None, visit: Visit | None, micro_batches: int, tries: int = 20) -> None:
        self.peers, self.visit, self.micro_batches, self.tries = peers, visit, micro_batches, tries
        self._of = {event.who: event.peer for event in (entry.event for entry in record.entries) if isinstance(event, Registered)}
        self._met: dict[int, Provider] = {}

    def of(self, seg: Seg) -> Provider:
        """Raises NotShown where there is nobody to ask."""
        if self.peers is None or self.visit is None:
            raise NotShown("it shows nothing to who has no account")
        peer = self._of.get(seg.provider)
        if peer is None:
            raise NotShown("it has registered no peer")
        if seg.number not in self._met:
            self._met[seg.number] = Provider(self.peers, self.visit, peer, seg, self.micro_batches, self.tries)
        return self._met[seg.number]
