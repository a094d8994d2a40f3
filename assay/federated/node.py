"""Rounds over the ports of a node: owners ask the coordinator for their turn (messages.FederatedTurn), masked rows go as blobs.

    owner   --Turn(zeros)-------------------> coordinator      which round is there?
            <--Invitation(terms, state)------                  the state is a blob: everybody's model so far
    owner   --Turn(round, said, row)--------> coordinator      an owner's message, and the CID of its masked row
            <--Roster | Delivery | Survivors | Order | Outcome, or Ack while others are waited for

The sender of a request is the peer that the transport authenticated, whose Ed25519 identity is the owner's key in the terms; messages are signed
all the same, because the record has to convince others. A phase ends when all have answered, or after `patience` seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import numpy as np
from msgspec import UNSET, UnsetType

from assay.codec import Malformed, Message, decode, digest, encode
from assay.federated import messages, record, ring, training
from assay.federated.client import Client, OutOfTurn
from assay.federated.coordinator import Coordinator, Phase
from assay.federated.messages import Delivery, Order, Record, Refused, Roster, Signed, Survivors, Terms
from assay.federated.money import Funded, Money, need_funded
from assay.federated.ring import Row
from assay.ids import U32, Cid, Digest, PeerId
from assay.messages import Ack, AnyReply, AnyRequest, FederatedAnswer, FederatedTurn, Refusal
from assay.ports import Blobs, Outage, Peers, Reverted
from assay.state import MAX_HEADER, BadTensors, Tensors, from_bytes, to_bytes

log = logging.getLogger("assay.federated")

NO_ROUND = Digest(bytes(32))
MAX_STATE = 1 << 33
ASKING = 30.0
"""Seconds for one request."""


class Invitation(Message, frozen=True, kw_only=True):
    terms: Terms
    rounds: int
    """Of the job, and local steps of each: its name follows from them (training.job_of)."""
    steps: int
    state: Cid
    """The round's state, a tensor file in the clear."""
    funded: Funded | UnsetType = UNSET
    """Where its pay is, if it is paid for."""


class Outcome(Message, frozen=True, kw_only=True):
    """The end of a round. `record` is the blob of a Published, or empty when there was no sum; `why` says so."""

    terms: Digest
    record: Cid
    why: str = ""


class Published(Message, frozen=True, kw_only=True):
    """A round's record, and where its masked rows are."""

    record: Record
    rows: tuple[tuple[U32, Cid], ...]
    total: Cid | UnsetType = UNSET
    """The sum's numbers: with these a false one is shown on the chain. A root there that nobody has the numbers of, its owners object to."""


class Over(Message, frozen=True, kw_only=True):
    """There are no more rounds. `state` is the model."""

    state: Cid


AnyBody = Invitation | Roster | Delivery | Survivors | Order | Outcome | Over


class Host:
    """The coordinator's node. `on_request` is for its peers' handler; `hold` runs a round, `end` says that there are no more."""

    def __init__(self, blobs: Blobs, patience: float) -> None:
        self._blobs, self._patience = blobs, patience
        self._round: Coordinator | None = None
        self._near: dict[int, list[AnyBody]] = {}
        """What each owner is to be told, in order."""
        self._first: Invitation | Over | None = None
        self._said: dict[int, bytes] = {}
        self._ended: dict[Digest, Outcome] = {}
        self._have: set[PeerId] = set()
        self._came = asyncio.Event()
        self.published = Cid("")
        """The record of the last round, a Published."""
        self.rows: dict[int, Cid] = {}
        """Of the last round, by owner."""

    async def hold(self, invitation: Invitation, beacon: Callable[[], Awaitable[Digest]]) -> tuple[Record, Row]:
        """One round. `beacon` gives a hash that nobody knew when the adverts were in. Raises coordinator.Lost."""
        self._round, self._first = Coordinator(invitation.terms), invitation
        self._near, self._said, self.rows = {i: [] for i in range(len(invitation.terms.owners))}, {}, {}
        try:
            while self._round.phase is not Phase.DONE:
                await self._all_or_late(self._round)
                out = self._round.close(await beacon() if self._round.phase is Phase.ADVERTS else None)
                for owner, message in out.items():
                    self._near[owner].append(message)
        except Exception as error:
            self._ended[self._round.name] = Outcome(terms=self._round.name, record=Cid(""), why=str(error))
            raise
        assert self._round.record is not None
        rows, total = tuple((owner, cid) for owner, cid in sorted(self.rows.items())), await self._blobs.put(self._round.total.tobytes())
        published = Published(record=self._round.record, rows=rows, total=total)
        self.published = cid = await self._blobs.put(encode(published))
        self._ended[self._round.name] = Outcome(terms=self._round.name, record=cid)
        return self._round.record, self._round.total

    async def end(self, state: Cid, owners: int) -> None:
        """Tells `owners` that the job is over; comes back when they have the model, or after the patience of a phase."""
        self._first, self._round = Over(state=state), None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience):
                while len(self._have) < owners:
                    self._came.clear()
                    await self._came.wait()

    async def _all_or_late(self, this: Coordinator) -> None:
        deadline = asyncio.get_running_loop().time() + self._patience
        while this.waiting:
            self._came.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._came.wait()
            except TimeoutError:
                return

    async def on_request(self, peer: PeerId, message: AnyRequest) -> AnyReply:
        """Answers an owner's turn."""
        if not isinstance(message, FederatedTurn):
            return Refusal(reason="this node coordinates federated rounds and does nothing else")
        this, first = self._round, self._first
        if first is None:
            return Ack()
        if isinstance(first, Over) and message.terms == NO_ROUND and message.seen:
            self._have.add(peer)
            self._came.set()
            return Ack()
        if message.terms in self._ended:
            return FederatedAnswer(body=encode(self._ended[message.terms]))
        if this is None or message.terms != this.name:
            return FederatedAnswer(body=encode(first))
        key = messages.identity_of(peer)
        if key not in this.terms.owners:
            return Refusal(reason="the round's terms do not name this peer")
        owner = this.terms.owners.index(key)
        try:
            if message.said and message.said != self._said.get(owner):  # not the same again, because its answer was lost
                await self._take(peer, this, message)
                self._said[owner] = message.said
        except (Refused, OutOfTurn, Malformed) as error:
            log.warning("%s: %s", peer, error)
            return FederatedAnswer(body=encode(Outcome(terms=this.name, record=Cid(""), why=str(error))))
        except Outage as error:
            return Refusal(reason=str(error), retry_after=1)
        told = self._near[owner]
        return FederatedAnswer(body=encode(told[message.seen])) if message.seen < len(told) else Ack()

    async def _take(self, peer: PeerId, this: Coordinator, message: FederatedTurn) -> None:
        signed = decode(message.said, Signed)
        if this.terms.owners[signed.body.owner : signed.body.owner + 1] != (messages.identity_of(peer),):
            raise Refused("a message of another owner's")
        row = None
        if message.row:
            await self._blobs.fetch(message.row, this.total.nbytes, (peer,))
            row = row_of(await self._blobs.get(message.row), this.terms)
        this.take(signed, row)
        if message.row:
            self.rows[signed.body.owner] = message.row
        self._came.set()


def row_of(data: bytes, terms: Terms) -> Row:
    """The numbers of a row or a total. Raises Refused."""
    if len(data) != terms.length * terms.bits // 8:
        raise Refused(f"a row of {len(data)} bytes is none of this round's")
    return np.frombuffer(data, ring.SIGNED[terms.bits])


class Round(NamedTuple):
    """What an owner did in a round."""

    terms: Terms
    outcome: Outcome
    loss: float
    """Mean over its local steps, at its last step."""


Train = Callable[[Terms, int, Tensors], tuple[Row, Digest, float]]
"""(terms, this owner's place, the round's state) -> row, root that the training ended in, loss. Runs in a thread."""


class Owner(NamedTuple):
    """What an owner's node takes part with."""

    peers: Peers
    blobs: Blobs
    host: PeerId
    identity: bytes
    """Its Ed25519 seed: that of its peer id."""
    job: Callable[[Invitation], Digest]
    """The name that the job must have."""
    train: Train
    wait: Callable[[], Awaitable[None]]
    """Called before the coordinator is asked again."""
    start: Tensors | None = None
    """The job's initial state, to compute every round's sum and state again from what the owners signed for; None: the coordinator is believed."""

    purse: Money | None = None
    """The contract that pays, for this owner's account."""
    least: int = 0
    """What it must pay this owner for a round; 0: rounds that nobody pays for are as welcome."""
    among: frozenset[bytes] = frozenset()
    """The identity keys of all owners that it takes part with, itself too; empty: whoever the coordinator names, who may all be its friends."""

    async def take_part(self) -> tuple[list[Round], Tensors]:
        """All rounds: what was done, and the model. Raises Refused when the coordinator breaks the protocol, lies, or has another job."""
        done: list[Round] = []
        due: Digest | None = None
        while True:
            body = await self._ask(FederatedTurn(terms=NO_ROUND, seen=0))
            if isinstance(body, Over):
                state = await self._state(body.state)
                with contextlib.suppress(Outage):  # it may be gone already: this only lets it go
                    await self.peers.request(self.host, FederatedTurn(terms=NO_ROUND, seen=1), ASKING)
                return done, state
            if not isinstance(body, Invitation):
                raise Refused(f"{type(body).__name__} where an invitation is due")
            if done and digest(body.terms) == digest(done[-1].terms):
                await self.wait()
                continue
            if body.terms.job != self.job(body):
                raise Refused("the coordinator's job is not the one of this training file")
            if self.among and self.among != set(body.terms.owners):
                raise Refused("the round's owners are not those that this owner takes part with")
            if due is not None and body.terms.model != due:
                raise Refused("the round's state is not the one that follows from the last round's sum")
            this, state = await self._round(body)
            done.append(this)
            due = await self._follow(body, this.outcome, state) if self.start is not None else None

    async def _follow(self, body: Invitation, outcome: Outcome, state: Tensors) -> Digest | None:
        """The root of the state that the next round must have."""
        if not outcome.record or self.start is None:
            return None
        published = await published_at(self.blobs, self.host, outcome.record)
        if published.record.terms != body.terms:
            raise Refused("the record is of another round")
        total = await summed(self.blobs, self.host, published)
        mean = training.mean(body.terms, total, [owner for owner, _ in published.rows])
        return training.start_root(training.apply(state, mean, self.start), body.terms.round + 1, body.steps)

    async def _state(self, cid: Cid) -> Tensors:
        await self.blobs.fetch(cid, MAX_STATE, (self.host,))
        try:
            return from_bytes(await self.blobs.get(cid), MAX_STATE + MAX_HEADER)
        except BadTensors as error:
            raise Refused(f"the state cannot be read: {error}") from None

    async def _pledge(self, first: Invitation, place: int) -> Callable[[Digest], bytes] | None:
        """Signs this owner's row for the contract that pays for it, which has been looked at. Raises Refused."""
        funded, purse, terms = first.funded, self.purse, first.terms
        if isinstance(funded, UnsetType) or purse is None:
            if self.least and isinstance(funded, UnsetType):
                raise Refused("this owner takes part for pay, and nobody pays")
            if not isinstance(funded, UnsetType):
                raise Refused("the round is paid for, and this owner has no account")
            return None
        try:
            stand = await purse.job(funded.number)
        except Reverted as error:
            raise Refused(f"the job that would pay for this round is not on the chain: {error}") from None
        need_funded(funded, stand, purse.name(funded.terms), terms, place, purse.account, self.least)
        number, round, name = funded.number, funded.round, digest(terms)
        return lambda row: purse.sign(number, round, name, place, row)

    async def _round(self, first: Invitation) -> tuple[Round, Tensors]:
        terms, loss = first.terms, float("nan")
        client = Client(terms, self.identity, secrets.token_bytes(32))
        pledge = await self._pledge(first, client.owner)
        state = await self._state(first.state)
        if training.start_root(state, terms.round, first.steps) != terms.model:
            raise Refused("the round's state is not the one that its terms name")
        said, row, seen = client.advert(), Cid(""), 0
        while True:
            body = await self._ask(FederatedTurn(terms=client.name, seen=seen, said=encode(said), row=row))
            seen, row = seen + 1, Cid("")
            match body:
                case Roster():
                    said = client.roster(body)
                case Delivery():
                    client.delivery(body)
                    clear, trained, loss = await asyncio.to_thread(self.train, terms, client.owner, state)
                    said, masked = client.upload(clear, trained)
                    row = await self.blobs.put(masked.tobytes())
                case Survivors():
                    said = client.survivors(body, pledge)
                case Order():
                    said = client.order(body)
                case Outcome():
                    return Round(terms, body, loss), state
                case Invitation() | Over():
                    return Round(terms, Outcome(terms=client.name, record=Cid(""), why="the coordinator has gone on"), loss), state

    async def _ask(self, turn: FederatedTurn) -> AnyBody:
        """Asks until there is something new; what was said is said once. An outage is waited out."""
        while True:
            try:
                reply = await self.peers.request(self.host, turn, ASKING)
            except Outage:
                await self.wait()
                continue
            if isinstance(reply, Refusal) and not reply.retry_after:
                raise Refused(f"the coordinator refuses: {reply.reason}")
            if isinstance(reply, FederatedAnswer):
                body: AnyBody = decode(reply.body, AnyBody, messages.MAX_MESSAGE)
                return body
            if isinstance(reply, Ack) and turn.said:
                turn = FederatedTurn(terms=turn.terms, seen=turn.seen)
            await self.wait()


async def published_at(blobs: Blobs, host: PeerId, cid: Cid) -> Published:
    """Raises Refused for what is no record, Outage."""
    await blobs.fetch(cid, messages.MAX_MESSAGE, (host,))
    try:
        return decode(await blobs.get(cid), Published, messages.MAX_MESSAGE)
    except Malformed as error:
        raise Refused(f"the record cannot be read: {error}") from None


async def summed(blobs: Blobs, host: PeerId, published: Published) -> Row:
    """A round's sum, computed from the rows that its owners signed for. Raises Refused, Outage."""
    rows = await rows_of(blobs, host, published)
    try:
        return record.check(published.record, rows.__getitem__)
    except KeyError as error:
        raise Refused(f"the row of owner {error} is nowhere") from None


async def rows_of(blobs: Blobs, host: PeerId, published: Published) -> dict[int, Row]:
    """The masked rows of a round, by owner. Raises Refused, Outage."""
    terms, rows = published.record.terms, {}
    for owner, cid in published.rows:
        await blobs.fetch(cid, terms.length * terms.bits // 8, (host,))
        rows[owner] = row_of(await blobs.get(cid), terms)
    return rows


async def total_of(blobs: Blobs, host: PeerId, published: Published) -> Row:
    """The sum's numbers as the host gives them, which is no proof that they are the sum. Raises Refused, Outage."""
    terms = published.record.terms
    if isinstance(published.total, UnsetType):
        raise Refused("the host gives nobody the total's numbers")
    await blobs.fetch(published.total, terms.length * terms.bits // 8, (host,))
    return row_of(await blobs.get(published.total), terms)


async def publish_state(blobs: Blobs, state: Tensors) -> Cid:
    """The round's state as everybody gets it."""
    return await blobs.put(to_bytes(state))
