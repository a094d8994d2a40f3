"""Federated rounds over the ports: nodes in memory train a real program, one dies in the middle of a round, a stranger gets nothing."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
import numpy as np
import pytest
from test_federated import BEACON, identity, terms
from test_federated_training import STEPS, plan

from assay.adapters import peerbook
from assay.adapters.memory_blobs import BlobNet, MemoryBlobs
from assay.adapters.memory_federated import Federated, MemoryMoney
from assay.adapters.memory_peers import MemoryPeers, Switchboard
from assay.codec import decode, encode
from assay.federated import money, node, record, ring, training
from assay.federated.client import Client
from assay.federated.coordinator import Lost
from assay.federated.messages import Record, Refused, Terms
from assay.federated.money import FederatedTerms, Funded, Money
from assay.federated.node import Host, Invitation, Outcome
from assay.federated.ring import Row
from assay.ids import ZERO_ADDRESS, Address, Digest, PeerId
from assay.messages import Ack, FederatedTurn, PeerRecord, Refusal, Visit
from assay.state import Tensors, state_root
from tests.exact.mlp import initial_state

ROUNDS = 2
JOB = training.job_of(plan(0), ROUNDS, STEPS)


def peers_of(board: Switchboard, seed: bytes) -> MemoryPeers:
    def record_of(addresses: list[str]) -> PeerRecord:
        return PeerRecord(
            peer=PeerId(""), account=ZERO_ADDRESS, role="owner", addresses=tuple(addresses), gateway="", sequence=0, chain_id=1, contract=ZERO_ADDRESS
        )

    return MemoryPeers(board, seed, record_of)


def invited(state: Tensors, round: int) -> Terms:
    return terms(
        4, job=JOB, round=round, model=training.start_root(state, round, STEPS), length=training.length(state), weights=(1, 1, 1, 1), degree=4,
        threshold=2, minimum=3, fraction=20, limit=1 << 24,
    )  # fmt: skip


class World:
    def __init__(self, patience: float) -> None:
        self.board, self.net = Switchboard(), BlobNet()
        self.peers = [peers_of(self.board, identity(i)) for i in range(4)]
        self.blobs = [MemoryBlobs(self.net, p.peer) for p in self.peers]
        self.at = peers_of(self.board, identity(99))
        self.store = MemoryBlobs(self.net, self.at.peer)
        self.host = Host(self.store, patience)

    async def start(self) -> None:
        async def nothing(peer: PeerId, message: object) -> Ack:
            return Ack()

        await self.at.start(self.host.on_request, lambda *_: None)
        for p in self.peers:
            await p.start(nothing, lambda *_: None)

    def owner(
        self, i: int, dies: int | None = None, job: Digest = JOB, among: tuple[bytes, ...] = (), purse: Money | None = None, least: int = 0
    ) -> asyncio.Task:  # type: ignore[type-arg]  # fmt: skip
        work = plan(i)

        def train(t: Terms, place: int, state: Tensors) -> tuple[Row, Digest, float]:
            if t.round == dies:
                raise RuntimeError("the machine is gone")
            run = training.train(work, state, t.round, STEPS, t.owners[place])
            return training.update(t, place, state, run.state), run.root, run.losses[-1]

        at = self.at.peer
        owner = node.Owner(
            self.peers[i], self.blobs[i], at, identity(i), lambda _: job, train, lambda: asyncio.sleep(0.001), initial_state(), purse, least,
            frozenset(among),
        )  # fmt: skip
        return asyncio.create_task(owner.take_part())


async def beacon() -> Digest:
    return BEACON


async def job(world: World, there: int, lie: float = 0.0) -> tuple[Tensors, list[Record]]:
    state, records = initial_state(), []
    for round in range(ROUNDS):
        invitation = Invitation(terms=invited(state, round), rounds=ROUNDS, steps=STEPS, state=await node.publish_state(world.store, state))
        made, total = await world.host.hold(invitation, beacon)
        rows = {i: np.frombuffer(await world.store.get(cid), np.int32) for i, cid in world.host.rows.items()}
        assert np.array_equal(record.check(made, rows.__getitem__), total)
        state = training.apply(state, training.mean(made.terms, total, sorted(rows)), initial_state())
        state = {name: array + np.float32(lie) for name, array in state.items()}
        records.append(made)
    await world.host.end(await node.publish_state(world.store, state), there)
    return state, records


def test_a_job_over_peers_and_blobs_ends_where_it_ends_in_one_process() -> None:
    async def go() -> None:
        world = World(20)
        await world.start()
        owners = [world.owner(i, among=invited(initial_state(), 0).owners) for i in range(4)]
        state, _ = await job(world, 4)
        for done, model in await asyncio.gather(*owners):
            assert [r.outcome.why for r in done] == ["", ""]
            assert state_root(4, model) == state_root(4, state)
        published = await node.published_at(world.blobs[0], world.at.peer, world.host.published)
        total = await node.total_of(world.blobs[0], world.at.peer, published)
        assert ring.row_root(total) == published.record.total  # so that somebody can show it where it is false
        with pytest.raises(Refused, match="gives nobody the total's numbers"):
            await node.total_of(world.blobs[0], world.at.peer, node.Published(record=published.record, rows=published.rows))
        here = initial_state()
        for round in range(ROUNDS):
            t = invited(here, round)
            rows = [training.update(t, i, here, training.train(plan(i), here, round, STEPS, t.owners[i]).state) for i in range(4)]
            here = training.apply(here, training.mean(t, np.sum(rows, axis=0, dtype=np.int32), [0, 1, 2, 3]), initial_state())
        assert state_root(4, here) == state_root(4, state)

    asyncio.run(go())


def paying(owners: int = 4) -> tuple[Federated, FederatedTerms, list[Address]]:
    """A ledger with a job of these rounds, and its owners' accounts."""
    ledger, accounts = Federated(), [Address("0x" + f"{i:02x}" * 20) for i in range(1, owners + 1)]
    ledger.token.mint(ZERO_ADDRESS, 10**9)
    terms = FederatedTerms(
        job=JOB, owners=tuple(accounts), shares=(1,) * owners, rule=money.EQUAL, rounds=ROUNDS, minimum=3, bits=32,
        length=training.length(initial_state()), pay=400, bond=100, window=10, deadline=ledger.time + 1000,
    )  # fmt: skip
    ledger.post(ZERO_ADDRESS, terms)
    return ledger, terms, accounts


def test_owners_sign_for_rounds_that_are_paid_for_and_get_what_they_were_promised() -> None:
    async def go() -> None:
        world = World(120)
        await world.start()
        ledger, terms, accounts = paying()
        purses = [MemoryMoney(ledger, who) for who in accounts]
        owners = [world.owner(i, purse=purses[i], least=100) for i in range(4)]
        host, state = MemoryMoney(ledger, ZERO_ADDRESS), initial_state()
        for round in range(ROUNDS):
            first = Invitation(
                terms=invited(state, round), rounds=ROUNDS, steps=STEPS, state=await node.publish_state(world.store, state),
                funded=Funded(number=1, round=round, terms=terms),
            )  # fmt: skip
            made, total = await world.host.hold(first, beacon)
            rows = {i: np.frombuffer(await world.store.get(cid), np.int32) for i, cid in world.host.rows.items()}
            said, signatures = money.sum_of(made, money.peeled(made, rows.__getitem__))
            await host.close(1, terms, said, signatures)
            state = training.apply(state, training.mean(made.terms, total, sorted(rows)), initial_state())
        await world.host.end(await node.publish_state(world.store, state), 4)
        await asyncio.gather(*owners)
        ledger.time += 11
        for round in range(ROUNDS):
            await host.settle(1, terms, round)
        assert [await one.credit(one.account) for one in purses] == [200] * 4

    asyncio.run(go())


def test_an_owner_takes_part_for_the_pay_that_it_wants_or_not_at_all() -> None:
    async def go() -> None:
        world = World(120)
        await world.start()
        ledger, terms, accounts = paying()
        state = initial_state()
        first = Invitation(terms=invited(state, 0), rounds=ROUNDS, steps=STEPS, state=await node.publish_state(world.store, state))
        paid = msgspec.structs.replace(first, funded=Funded(number=1, round=0, terms=terms))
        purse = MemoryMoney(ledger, accounts[0])
        for invitation, changes, why in (
            (first, {"purse": purse, "least": 1}, "nobody pays"),
            (paid, {"purse": purse, "least": 101}, "100 a round, less than 101"),
            (paid, {"purse": MemoryMoney(ledger, accounts[1])}, "does not name"),
            (paid, {}, "has no account"),
            (msgspec.structs.replace(paid, funded=Funded(number=2, round=0, terms=terms)), {"purse": purse}, "not on the chain"),
        ):  # fmt: skip
            holding = asyncio.create_task(world.host.hold(invitation, beacon))
            await asyncio.sleep(0)
            with pytest.raises(Refused, match=why):
                await world.owner(0, **changes)  # type: ignore[arg-type]
            holding.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await holding

    asyncio.run(go())


def test_who_dies_in_a_round_is_left_out_of_it_and_of_the_next() -> None:
    async def go() -> None:
        world = World(0.3)
        await world.start()
        owners = [world.owner(i, dies=0 if i == 2 else None) for i in range(4)]
        _, records = await job(world, 3)
        assert [[s.body.owner for s in r.survivors.uploads] for r in records] == [[0, 1, 3], [0, 1, 3]]
        assert [one.of for one in records[0].masks] == [2]
        done = await asyncio.gather(*owners, return_exceptions=True)
        assert isinstance(done[2], RuntimeError)

    asyncio.run(go())


def test_a_coordinator_that_changes_the_model_between_rounds_loses_its_owners() -> None:
    async def go() -> None:
        world = World(0.2)
        await world.start()
        owners = [world.owner(i) for i in range(4)]
        with pytest.raises(Lost):
            await job(world, 4, lie=0.5)
        for error in await asyncio.gather(*owners, return_exceptions=True):
            assert "follows from the last round's sum" in str(error)

    asyncio.run(go())


def test_a_round_without_enough_owners_tells_those_who_came() -> None:
    async def go() -> None:
        world = World(0.1)
        await world.start()
        tasks = [world.owner(i) for i in (0, 1)]
        state = initial_state()
        invitation = Invitation(terms=invited(state, 0), rounds=ROUNDS, steps=STEPS, state=await node.publish_state(world.store, state))
        with pytest.raises(Lost, match="only 2 of at least 3"):
            await world.host.hold(invitation, beacon)
        await world.host.end(invitation.state, 2)
        for done, _ in await asyncio.gather(*tasks):
            assert len(done) <= 1
            assert all("only 2" in r.outcome.why or "gone on" in r.outcome.why for r in done)

    asyncio.run(go())


def test_an_owner_trains_no_other_job_and_a_stranger_is_told_nothing() -> None:
    async def go() -> None:
        world = World(20)
        await world.start()
        state = initial_state()
        assert await world.host.on_request(world.peers[0].peer, FederatedTurn(terms=node.NO_ROUND, seen=0)) == Ack()
        invitation = Invitation(terms=invited(state, 0), rounds=ROUNDS, steps=STEPS, state=await node.publish_state(world.store, state))
        holding = asyncio.create_task(world.host.hold(invitation, beacon))
        with pytest.raises(Refused, match="not the one of this training file"):
            await world.owner(0, job=Digest(bytes(32)))
        with pytest.raises(Refused, match="are not those that this owner takes part with"):
            await world.owner(0, among=invitation.terms.owners[:3])
        t = invitation.terms
        name = Client(t, identity(0), bytes(32)).name
        ask = world.host.on_request
        assert isinstance(await ask(peerbook.peer_id(identity(50)), FederatedTurn(terms=name, seen=0)), Refusal)
        assert isinstance(await ask(world.peers[0].peer, Visit(account=ZERO_ADDRESS, signature=b"")), Refusal)
        said = encode(Client(t, identity(1), bytes(32)).advert())
        for peer, bad in ((world.peers[0].peer, said), (world.peers[0].peer, b"{}")):
            reply = await ask(peer, FederatedTurn(terms=name, seen=0, said=bad))
            assert "a message of another owner" in (why := decode(reply.body, Outcome).why) or "not a valid" in why  # type: ignore[union-attr]
        assert await ask(world.peers[1].peer, FederatedTurn(terms=name, seen=0, said=said)) == Ack()
        assert await ask(world.peers[1].peer, FederatedTurn(terms=name, seen=0, said=said)) == Ack()  # again: its answer was lost
        holding.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await holding

    asyncio.run(go())


def test_a_state_that_is_not_the_terms_is_not_trained_on() -> None:
    async def go() -> None:
        world = World(20)
        await world.start()
        state = initial_state()
        other = {name: array + np.float32(1) for name, array in state.items()}
        invitation = Invitation(terms=invited(state, 0), rounds=ROUNDS, steps=STEPS, state=await node.publish_state(world.store, other))
        holding = asyncio.create_task(world.host.hold(invitation, beacon))
        with pytest.raises(Refused, match="state is not the one"):
            await world.owner(0)
        holding.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await holding

    asyncio.run(go())
