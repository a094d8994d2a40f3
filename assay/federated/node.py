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
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import numpy as np

from assay.codec import Malformed, Message, decode, digest, encode
from assay.federated import messages, ring, training
from assay.federated.client import Client, OutOfTurn
from assay.federated.coordinator import Coordinator, Phase
from assay.federated.messages import Delivery, Order, Record, Refused, Roster, Signed, Survivors, Terms
from assay.federated.ring import Row
from assay.ids import Cid, Digest, PeerId
from assay.messages import Ack, AnyReply, AnyRequest, FederatedAnswer, FederatedTurn, Refusal
from assay.ports import Blobs, Outage, Peers
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


class Outcome(Message, frozen=True, kw_only=True):
    """The end of a round. `record` is empty when it had no sum; `why` says so."""

    terms: Digest
    record: Cid
    why: str = ""


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
        self._came = asyncio.Event()
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
        cid = await self._blobs.put(encode(self._round.record))
        self._ended[self._round.name] = Outcome(terms=self._round.name, record=cid)
        return self._round.record, self._round.total

    def end(self, state: Cid) -> None:
        self._first, self._round = Over(state=state), None

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
            row = np.frombuffer(await self._blobs.get(message.row), ring.SIGNED[this.terms.bits])
        this.take(signed, row)
        if message.row:
            self.rows[signed.body.owner] = message.row
        self._came.set()


class Round(NamedTuple):
    """What an owner did in a round."""

    terms: Terms
    outcome: Outcome
    loss: float
    """Mean over its local steps, at its last step."""


Train = Callable[[Terms, int, Tensors], tuple[Row, Digest, float]]
"""(terms, this owner's place, the round's state) -> row, root that the training ended in, loss. Runs in a thread."""


async def take_part(
    peers: Peers, blobs: Blobs, host: PeerId, identity: bytes, job: Callable[[Invitation], Digest], train: Train, wait: Callable[[], Awaitable[None]]
) -> tuple[list[Round], Over]:
    """An owner's part in all rounds of a federated job. `identity` is its node's Ed25519 seed; `job` gives the name that the job must have;
    `wait` is called before the coordinator is asked again. Raises Refused when the coordinator breaks the protocol or the job is another one."""
    done: list[Round] = []
    while True:
        body = await _ask(peers, host, FederatedTurn(terms=NO_ROUND, seen=0), wait)
        if isinstance(body, Over):
            return done, body
        if not isinstance(body, Invitation):
            raise Refused(f"{type(body).__name__} where an invitation is due")
        name = digest(body.terms)
        if done and name == digest(done[-1].terms):
            await wait()
            continue
        if body.terms.job != job(body):
            raise Refused("the coordinator's job is not the one of this training file")
        done.append(await _round(peers, blobs, host, identity, body, train, wait))


async def _round(
    peers: Peers, blobs: Blobs, host: PeerId, identity: bytes, first: Invitation, train: Train, wait: Callable[[], Awaitable[None]]
) -> Round:
    terms = first.terms
    client = Client(terms, identity, secrets.token_bytes(32))
    await blobs.fetch(first.state, MAX_STATE, (host,))
    state = _read(await blobs.get(first.state))
    if training.start_root(state, terms.round, first.steps) != terms.model:
        raise Refused("the round's state is not the one that its terms name")
    said, row, seen, loss = client.advert(), Cid(""), 0, float("nan")
    while True:
        turn = FederatedTurn(terms=client.name, seen=seen, said=encode(said), row=row)
        body = await _ask(peers, host, turn, wait, client.name)
        seen += 1
        row = Cid("")
        match body:
            case Roster():
                said = client.roster(body)
            case Delivery():
                client.delivery(body)
                clear, trained, loss = await asyncio.to_thread(train, terms, client.owner, state)
                said, masked = client.upload(clear, trained)
                row = await blobs.put(masked.tobytes())
            case Survivors():
                said = client.survivors(body)
            case Order():
                said = client.order(body)
            case Outcome():
                return Round(terms, body, loss)
            case _:
                raise Refused(f"{type(body).__name__} in the middle of a round")


def _read(data: bytes) -> Tensors:
    try:
        return from_bytes(data, MAX_STATE + MAX_HEADER)
    except BadTensors as error:
        raise Refused(f"the round's state cannot be read: {error}") from None


async def _ask(peers: Peers, host: PeerId, turn: FederatedTurn, wait: Callable[[], Awaitable[None]], round: Digest | None = None) -> AnyBody:
    """Asks until there is something new; what was said is said once. An outage is waited out."""
    while True:
        try:
            reply = await peers.request(host, turn, ASKING)
        except Outage:
            await wait()
            continue
        if isinstance(reply, Refusal) and not reply.retry_after:
            raise Refused(f"the coordinator refuses: {reply.reason}")
        if isinstance(reply, FederatedAnswer):
            body: AnyBody = decode(reply.body, AnyBody, messages.MAX_MESSAGE)
            if round is not None and isinstance(body, Invitation | Over):
                return Outcome(terms=round, record=Cid(""), why="the coordinator has gone on without this owner")
            return body
        if isinstance(reply, Ack) and turn.said:
            turn = FederatedTurn(terms=turn.terms, seen=turn.seen)
        await wait()


async def publish_state(blobs: Blobs, state: Tensors) -> Cid:
    """The round's state as everybody gets it."""
    return await blobs.put(to_bytes(state))
