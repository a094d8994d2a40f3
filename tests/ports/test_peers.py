"""The Peers port: one suite over py-libp2p on loopback and over the shipped fake.

A `Net` of the suite makes nodes and can also misbehave as a stranger with an identity of its own would: write any bytes to a node.

One file because every test runs over both networks of peers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from libp2p.connection_types import ConnectionType
from libp2p.peer.id import ID

from assay.adapters import libp2p_rendezvous, peerbook
from assay.adapters.libp2p import Libp2pPeers
from assay.adapters.libp2p_frames import HEAD, Frame, Frames, Kind, pack
from assay.adapters.memory_peers import MemoryPeers, Switchboard
from assay.adapters.rumours import Rumours
from assay.codec import decode, encode
from assay.ids import Address, Cid, Digest, JobId, PeerId, SegmentId
from assay.messages import (
    RPC_PROTOCOL,
    Ack,
    AnyReply,
    AnyRequest,
    Hardware,
    Heartbeat,
    JobAnnouncement,
    Means,
    PeerRecord,
    Refusal,
    SignedGossip,
    SignedRecord,
)
from assay.ports import Outage, Peers

CONTRACT = Address("0x" + "11" * 20)


def record_of(number: int, contract: Address = CONTRACT) -> Callable[[list[str]], PeerRecord]:
    account = Address("0x" + f"{number:040x}")
    return lambda addresses: PeerRecord(
        peer=PeerId(""), account=account, role="worker", addresses=tuple(addresses), gateway=f"http://127.0.0.1/{number}", sequence=0,
        chain_id=7, contract=contract,
    )  # fmt: skip


def seed_of(number: int) -> bytes:
    return number.to_bytes(32, "big")


class Node:
    """A started node that answers heartbeats with Ack (step 1), never (step 2), by raising (step 3), with 2 MiB (step 4)."""

    def __init__(self, peers: Peers) -> None:
        self.peers = peers
        self.asked: list[tuple[PeerId, AnyRequest]] = []
        self.heard: list[tuple[PeerId, Any]] = []

    async def start(self) -> Node:
        await self.peers.start(self._answer, lambda peer, message: self.heard.append((peer, message)))
        return self

    async def _answer(self, peer: PeerId, message: AnyRequest) -> AnyReply:
        self.asked.append((peer, message))
        assert isinstance(message, Heartbeat)
        if message.step == 2:
            await asyncio.Event().wait()
        if message.step == 3:
            raise RuntimeError("a bug of the handler")
        if message.step == 4:
            return Refusal(reason="x" * (2 << 20))
        return Ack()

    @property
    def id(self) -> PeerId:
        return self.peers.peer


async def until(condition: Callable[[], bool], seconds: float = 240.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "what was waited for did not happen"
        await asyncio.sleep(0.005)


class MemoryNet:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.board = Switchboard()
        self.nodes: list[Node] = []

    async def node(self, number: int, *, bootstrap: bool = True, contract: Address = CONTRACT) -> Node:
        node = Node(MemoryPeers(self.board, seed_of(number), record_of(number, contract), self.folder / str(number)))
        self.nodes.append(node)
        return await node.start()

    async def write(self, target: Node, data: bytes, stranger: int = 99) -> None:
        """As a stranger: opens a stream, writes `data`, returns when the node has closed it."""
        assert isinstance(target.peers, MemoryPeers)
        assert await target.peers.receive(peerbook.peer_id(seed_of(stranger)), data) is None
        assert target.peers.faults

    async def __aenter__(self) -> MemoryNet:
        return self

    async def __aexit__(self, *_: object) -> None:
        for node in self.nodes:
            await node.peers.stop()


class Libp2pNet(MemoryNet):
    """The first node is the bootstrap node of all the others."""

    async def node(self, number: int, *, bootstrap: bool = True, contract: Address = CONTRACT) -> Node:
        known = self.nodes[0].peers.addresses if self.nodes and bootstrap else []  # type: ignore[attr-defined]
        node = Node(Libp2pPeers(seed_of(number), [], known, record_of(number, contract), self.folder / str(number)))
        self.nodes.append(node)
        return await node.start()

    async def write(self, target: Node, data: bytes, stranger: int = 99) -> None:
        assert isinstance(target.peers, Libp2pPeers)
        address = target.peers.addresses[0]
        await asyncio.to_thread(_stranger, address, data, stranger)


def _stranger(address: str, data: bytes, number: int = 99) -> None:
    """Connects as a libp2p host of its own, writes, and reads until the stream ends."""
    import trio
    from libp2p import new_host
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.custom_types import TProtocol
    from libp2p.peer.peerinfo import info_from_p2p_addr
    from multiaddr import Multiaddr

    async def main() -> None:
        host = new_host(key_pair=create_new_key_pair(seed_of(number)))
        async with host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
            info = info_from_p2p_addr(Multiaddr(address))
            await host.connect(info)
            stream = await host.new_stream(info.peer_id, [TProtocol(RPC_PROTOCOL)])
            await stream.write(data)
            with trio.fail_after(240), contextlib.suppress(Exception):
                while await stream.read(65536):
                    pass

    trio.run(main)


@pytest.fixture(params=[MemoryNet, Libp2pNet], ids=["memory", "libp2p"])
def net(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return request.param(tmp_path)


def run(work: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(240):
            await work

    asyncio.run(bounded())


def knows(node: Node, *others: Node) -> bool:
    return {other.id for other in others} <= {record.peer for record in node.peers.records()}


def beat(step: int) -> Heartbeat:
    return Heartbeat(segment=SegmentId(1), step=step, loss_f32=0)


def announcement(job: int) -> JobAnnouncement:
    return JobAnnouncement(
        job=JobId(job), spec=Cid("bafkrei"), parent=SegmentId(0), start=0, stop=1, price_cap=1, scheduler=PeerId("s"), respond_by=1
    )


def test_nodes_that_know_only_the_bootstrap_address_find_and_ask_each_other(net: MemoryNet) -> None:
    async def main() -> None:
        async with net:
            a, b, c = [await net.node(i) for i in (1, 2, 3)]
            await until(lambda: knows(b, a, c) and knows(c, a, b) and knows(a, b, c))
            assert await b.peers.request(c.id, beat(1), 240) == Ack()
            assert c.asked == [(b.id, beat(1))]
            record = next(r for r in b.peers.records() if r.peer == c.id)
            assert (record.account, record.gateway) == ("0x" + f"{3:040x}", "http://127.0.0.1/3")

    run(main())


def test_what_a_node_tells_of_itself_is_renewed_when_it_has_changed(net: MemoryNet) -> None:
    async def scene() -> None:
        async with net:
            one, two = [await net.node(i) for i in (1, 2)]
            await until(lambda: [record.peer for record in two.peers.records()] == [one.id])
            told = Hardware(device="", memory=1 << 30, transaction=Digest(bytes(32)), opening=Cid("x"))
            before: Any = one.peers._record  # type: ignore[attr-defined]
            one.peers._record = lambda addresses: msgspec.structs.replace(before(addresses), hardware=told)  # type: ignore[attr-defined]
            await one.peers.renew()
            await until(lambda: [record.hardware for record in two.peers.records()] == [told])

    asyncio.run(scene())


def test_many_requests_share_a_link(net: MemoryNet) -> None:
    async def main() -> None:
        async with net:
            a, b = [await net.node(i) for i in (1, 2)]
            await until(lambda: knows(a, b) and knows(b, a))
            answers = await asyncio.gather(*(x.peers.request(y.id, beat(1), 240) for _ in range(150) for x, y in ((a, b), (b, a))))
            assert answers == [Ack()] * 300

    run(main())


def test_no_answer_in_time_is_an_outage_and_the_link_goes_on(net: MemoryNet) -> None:
    async def main() -> None:
        async with net:
            a, b = [await net.node(i) for i in (1, 2)]
            await until(lambda: knows(a, b))
            with pytest.raises(Outage, match="did not answer within"):
                await a.peers.request(b.id, beat(2), 0.3)
            assert await a.peers.request(b.id, beat(1), 240) == Ack()

    run(main())


def test_an_unknown_peer_is_an_outage(net: MemoryNet) -> None:
    async def main() -> None:
        async with net:
            a, b = [await net.node(i) for i in (1, 2)]
            await until(lambda: knows(a, b))
            for stranger in (peerbook.peer_id(seed_of(77)), PeerId("no such thing"), PeerId("")):
                with pytest.raises(Outage):
                    await a.peers.request(stranger, beat(1), 8)

    run(main())


def test_gossip_reaches_all_and_names_its_author(net: MemoryNet) -> None:
    async def main() -> None:
        async with net:
            nodes = [await net.node(i) for i in range(1, 6)]
            await until(lambda: all(knows(x, *(y for y in nodes if y is not x)) for x in nodes))
            job = 0
            while not all(node.heard for node in nodes[:-1]):  # the mesh forms while messages already flow
                job += 1
                await nodes[-1].peers.gossip(announcement(job))
                await asyncio.sleep(0.1)
                assert job < 2400
            await nodes[-1].peers.gossip(announcement(0))
            await until(lambda: all((nodes[-1].id, announcement(0)) in node.heard for node in nodes[:-1]))
            assert nodes[-1].heard == []

    run(main())


def rumours_of(number: int, contract: Address = CONTRACT, late: int = 0) -> Rumours:
    return Rumours(seed_of(number), 7, contract, lambda: time.time_ns() // 1_000_000 - late)


def test_gossip_that_its_author_did_not_sign_is_refused_and_old_news_is_none(net: MemoryNet) -> None:
    async def main() -> None:
        async with net:
            a = await net.node(1)
            said = rumours_of(8).say(announcement(8))
            signed = decode(said, SignedGossip)
            forged = msgspec.structs.replace(signed, author=peerbook.peer_id(seed_of(9)))
            changed = msgspec.structs.replace(signed, message=announcement(9))
            foreign = rumours_of(9, contract=Address("0x" + "22" * 20)).say(announcement(9))
            for stranger, wrong in enumerate((encode(forged), encode(changed), foreign)):
                await net.write(a, pack(Frame(Kind.GOSSIP, 0, wrong)), 90 + stranger)
            old = rumours_of(9, late=10 * 60 * 1000).say(announcement(9))
            await net.write(a, b"".join(pack(Frame(Kind.GOSSIP, 0, body)) for body in (old, said, said)) + b"\xff" * 64)
            assert a.heard == [(peerbook.peer_id(seed_of(8)), announcement(8))]

    run(main())


def test_what_one_author_or_neighbour_says_is_bounded() -> None:
    def at_noon(number: int) -> Rumours:
        return Rumours(seed_of(number), 7, CONTRACT, lambda: 10**12)

    ears, loud = at_noon(1), at_noon(2)
    assert sum(ears.hear(loud.say(announcement(i)), f"source {i}") is not None for i in range(400)) == 256
    others = [at_noon(number) for number in range(10, 20)]
    assert sum(ears.hear(others[i % 10].say(announcement(i)), "one source") is not None for i in range(1300)) == 1024
    assert len(ears.recent()) == 64


def test_a_newcomer_hears_what_was_said_before_it_came(tmp_path: Path) -> None:
    async def main() -> None:
        async with Libp2pNet(tmp_path) as net:
            a, b = [await net.node(i) for i in (1, 2)]
            await until(lambda: knows(a, b) and knows(b, a))
            await b.peers.gossip(announcement(5))
            await until(lambda: bool(a.heard))
            c = await net.node(3)
            await until(lambda: bool(c.heard))
            assert c.heard == [(b.id, announcement(5))]

    run(main())


def test_a_burst_of_gossip_is_not_thinned_out(net: MemoryNet) -> None:
    async def main() -> None:
        async with net:
            a, b, c = [await net.node(i) for i in (1, 2, 3)]
            await until(lambda: knows(c, a, b) and knows(b, a, c))
            while not (a.heard and b.heard):
                await c.peers.gossip(announcement(0))
                await asyncio.sleep(0.1)
            for job in range(1, 61):
                await c.peers.gossip(announcement(job))
            for node in (a, b):
                await until(lambda node=node: {m.job for _, m in node.heard} >= set(range(61)))

    run(main())


GARBAGE = {
    "noise": b"\xff" * 64,
    "empty frame": HEAD.pack(0, 0, 0),
    "unknown kind": HEAD.pack(9, 200, 1),
    "not a message": pack(Frame(Kind.REQUEST, 1, b"{}")),
    "not canonical": pack(Frame(Kind.REQUEST, 1, encode(beat(1)) + b" ")),
    "a reply as a request": pack(Frame(Kind.REQUEST, 1, encode(Ack()))),
    "deep": pack(Frame(Kind.REQUEST, 1, b"[" * 100_000)),
    "not gossip": pack(Frame(Kind.GOSSIP, 0, encode(announcement(1)))),
    "not records": pack(Frame(Kind.RECORDS, 0, b"[1]")),
    "too long": HEAD.pack((1 << 20) + 10, 0, 1) + b"x" * 100,
    "far too long": HEAD.pack(2**32 - 1, 0, 1),
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_closes_the_stream_is_logged_and_hurts_nobody(net: MemoryNet, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with net:
            a, b = [await net.node(i) for i in (1, 2)]
            await until(lambda: knows(a, b))
            with caplog.at_level(logging.WARNING, "assay.peers"):
                await net.write(a, data)
            assert peerbook.peer_id(seed_of(99)) in caplog.text
            assert await b.peers.request(a.id, beat(1), 240) == Ack()
            assert [peer for peer, _ in a.asked] == [b.id]

    run(main())


def signed_by(number: int, **changes: Any) -> SignedRecord:
    now = time.time_ns() // 1_000_000
    record = msgspec.structs.replace(record_of(number)([]), peer=peerbook.peer_id(seed_of(number)), sequence=now, **changes)
    return peerbook.sign(record, seed_of(number))


def test_a_forged_record_is_refused(net: MemoryNet) -> None:
    async def main() -> None:
        async with net:
            a, b = [await net.node(i) for i in (1, 2)]
            await until(lambda: knows(a, b))
            before = {r.peer: r for r in a.peers.records()}[b.id]
            forged = msgspec.structs.replace(before, gateway="http://thief", sequence=before.sequence + 1000)
            signature = peerbook.sign(msgspec.structs.replace(forged, peer=peerbook.peer_id(seed_of(99))), seed_of(99)).signature
            await net.write(a, pack(Frame(Kind.RECORDS, 0, encode([SignedRecord(record=forged, signature=signature)]))))
            assert {r.peer: r for r in a.peers.records()}[b.id] == before

    run(main())


def test_a_stale_record_and_one_of_another_contract_are_ignored(net: MemoryNet) -> None:
    async def main() -> None:
        async with net:
            a, b = [await net.node(i) for i in (1, 2)]
            await until(lambda: knows(a, b))
            before = {r.peer: r for r in a.peers.records()}[b.id]
            stale = peerbook.sign(msgspec.structs.replace(before, gateway="http://old", sequence=before.sequence - 1), seed_of(2))
            foreign = signed_by(5, contract=Address("0x" + "22" * 20))
            fresh = signed_by(6)
            good = pack(Frame(Kind.RECORDS, 0, encode([stale, foreign, fresh])))
            await net.write(a, good + b"\xff" * 64)
            found = {r.peer: r for r in a.peers.records()}
            assert found[b.id] == before
            assert fresh.record.peer in found
            assert foreign.record.peer not in found

    run(main())


def test_a_restarted_node_keeps_its_identity_and_finds_back_without_bootstrap(net: MemoryNet) -> None:
    async def main() -> None:
        async with net:
            a, b, c = [await net.node(i) for i in (1, 2, 3)]
            await until(lambda: knows(a, b, c) and knows(b, a, c) and knows(c, a, b))
            before = {r.peer: r.sequence for r in a.peers.records()}[b.id]
            await b.peers.stop()
            net.nodes.remove(b)
            with pytest.raises(Outage):
                await a.peers.request(b.id, beat(1), 2)
            again = await net.node(2, bootstrap=False)
            assert again.id == b.id
            assert knows(again, a, c)
            await until(lambda: {r.peer: r.sequence for r in a.peers.records()}[b.id] > before)
            assert await again.peers.request(c.id, beat(1), 240) == Ack()
            assert await a.peers.request(again.id, beat(1), 240) == Ack()

    run(main())


def test_a_handler_that_fails_is_refused_plainly_and_an_answer_too_long_too(tmp_path: Path) -> None:
    async def main() -> None:
        async with Libp2pNet(tmp_path) as net:
            a, b = [await net.node(i) for i in (1, 2)]
            await until(lambda: knows(a, b))
            for step in (3, 4):
                answer = await a.peers.request(b.id, beat(step), 240)
                assert isinstance(answer, Refusal)
                assert answer.retry_after

    run(main())


def test_a_partition_ends_and_lost_messages_are_outages() -> None:
    async def main() -> None:
        async def sleep(_: float) -> None:
            await asyncio.sleep(0)

        board = Switchboard(seed=3, latency=(0.01, 0.2), sleep=sleep)
        a, b = [await Node(MemoryPeers(board, seed_of(i), record_of(i))).start() for i in (1, 2)]
        await until(lambda: knows(a, b) and knows(b, a))
        board.partition([a.id], [b.id])
        with pytest.raises(Outage):
            await a.peers.request(b.id, beat(1), 1)
        board.heal()
        assert await a.peers.request(b.id, beat(1), 1) == Ack()
        board.loss = 0.5
        outcomes = []
        for _ in range(40):
            try:
                await a.peers.request(b.id, beat(1), 1)
                outcomes.append(True)
            except Outage:
                outcomes.append(False)
        assert 2 < sum(outcomes) < 25  # a quarter of the round trips
        await a.peers.stop()
        await b.peers.stop()

    run(main())


def test_plaintext_is_refused(tmp_path: Path) -> None:
    """multistream-select 1.0: what is not supported is answered with `na`."""

    def lines(*texts: bytes) -> bytes:
        return b"".join(bytes([len(text) + 1]) + text + b"\n" for text in texts)

    def offer(port: int, protocol: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=240) as wire:
            wire.sendall(lines(b"/multistream/1.0.0", protocol))
            wire.settimeout(240)
            got = b""
            while got.count(b"\n") < 2:
                more = wire.recv(1024)
                if not more:
                    break
                got += more
        return got

    async def main() -> None:
        async with Libp2pNet(tmp_path) as net:
            a = await net.node(1)
            port = int(a.peers.addresses[0].split("/")[4])  # type: ignore[attr-defined]
            for protocol in (b"/plaintext/2.0.0", b"/plaintext/1.0.0", b"/secio/1.0.0", b"/tls/1.0.0"):
                assert b"na\n" in await asyncio.to_thread(offer, port, protocol)
            assert lines(b"/noise") in await asyncio.to_thread(offer, port, b"/noise")

    run(main())


def test_a_frame_that_is_begun_and_not_finished_closes_the_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from assay.adapters import libp2p_link

    monkeypatch.setattr(libp2p_link, "FRAME_WITHIN", 0.5)

    async def main() -> None:
        async with Libp2pNet(tmp_path) as net:
            a = await net.node(1)
            await net.write(a, HEAD.pack(1000, 0, 1) + b"slowly")

    run(main())


def test_a_port_that_is_taken_and_a_wrong_address_are_said_plainly(tmp_path: Path) -> None:
    async def main() -> None:
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            other.bind(("127.0.0.1", 0))
            other.listen()
            taken = f"/ip4/127.0.0.1/tcp/{other.getsockname()[1]}"
            with pytest.raises(OSError, match="choose another port"):
                await Node(Libp2pPeers(seed_of(1), [taken], [], record_of(1), tmp_path / "a")).start()
        with pytest.raises(ValueError, match="is not an address to listen on"):
            await Node(Libp2pPeers(seed_of(1), ["127.0.0.1:80"], [], record_of(1), tmp_path / "b")).start()
        with pytest.raises(ValueError, match="must end in /p2p/"):
            Libp2pPeers(seed_of(1), [], ["/ip4/127.0.0.1/tcp/1"], record_of(1), tmp_path / "c")

    run(main())


def test_a_peer_that_nobody_mentioned_is_looked_up_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes that introduce nobody but themselves and keep to one neighbour: what is left is the Kademlia table."""
    from assay.adapters import libp2p_net, peer_standing

    monkeypatch.setattr(libp2p_net, "INTRODUCED", 0)
    monkeypatch.setattr(peer_standing, "NEIGHBOURS", 1)
    monkeypatch.setattr(peer_standing, "OWN", 0)
    monkeypatch.setattr(libp2p_net, "PUBLISH_AFTER", (0.0, 0.1))

    async def main() -> None:
        async with Libp2pNet(tmp_path) as net:
            a, c = [await net.node(i) for i in (1, 3)]
            table = a.peers._net._up.dht.value_store  # type: ignore[attr-defined]
            await until(lambda: table.get(f"/assay/{c.id}".encode()) is not None)
            b = await net.node(2)
            await until(lambda: knows(b, a))
            assert not knows(b, c)
            assert await b.peers.request(c.id, beat(1), 240) == Ack()
            assert knows(b, c)

    run(main())


def test_a_provider_is_found_by_what_it_has_where_it_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three nodes; two forget the third, which is listed at one of them: the other finds it there."""
    monkeypatch.setattr(libp2p_rendezvous, "KEY_EVERY", 0.0)
    has = Means(gpu=True, memory=1 << 28, bits=23)

    async def main() -> None:
        async with Libp2pNet(tmp_path) as net:
            one, seeker = [await net.node(i) for i in (1, 2)]
            tell = lambda addresses: msgspec.structs.replace(record_of(3)(addresses), means=has)  # noqa: E731
            provider = Node(Libp2pPeers(seed_of(3), [], one.peers.addresses, tell, tmp_path / "3"))  # type: ignore[attr-defined]
            net.nodes.append(await provider.start())
            await until(lambda: knows(seeker, one, provider) and knows(one, seeker, provider) and knows(provider, one))
            peers = [cast(Libp2pPeers, node.peers) for node in (one, seeker, provider)]
            await peers[2]._call(lambda net: net.rendezvous.enlist(net._own))
            board = cast(Any, peers[0]._net).rendezvous.board
            assert list(board._listed) == [provider.id]
            for board in [cast(Any, known._net).rendezvous.board for known in peers[:2]]:
                board._near.pop(provider.id, None)
            cast(Any, peers[1]._net).rendezvous.board._listed.clear()
            for known in peers[:2]:
                known._book._records.pop(provider.id)
            assert [record.peer for record in await peers[1].find(has)] == [provider.id]
            assert await peers[1].find(Means(gpu=True, memory=1 << 29, bits=23)) == []

    run(main())


def test_frames_cut_anywhere_come_out_whole() -> None:
    frames = [Frame(Kind.REQUEST, 2**64 - 1, b"x" * 1000), Frame(Kind.PING, 0, b""), Frame(Kind.REPLY, 5, b"y")]
    data = b"".join(map(pack, frames))
    for size in (1, 2, 3, 13, 500, len(data)):
        parser = Frames()
        assert [frame for i in range(0, len(data), size) for frame in parser.feed(data[i : i + size])] == frames
        assert not parser.partial


def test_the_book_is_bounded_and_keeps_whom_it_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peerbook, "MAX_BOOK", 3)
    book = peerbook.Peerbook(peerbook.peer_id(seed_of(1)), 7, CONTRACT, lambda: time.time_ns() // 1_000_000)
    for number in range(2, 8):
        assert book.add(signed_by(number))
        if number == 2:
            book.proven(peerbook.peer_id(seed_of(2)))
    assert [len(book.signed()), book.get(peerbook.peer_id(seed_of(2))) is not None] == [3, True]


def ipv6_here() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not ipv6_here(), reason="this machine has no IPv6")
def test_several_addresses_of_both_families_any_of_which_leads_there(tmp_path: Path) -> None:
    """One node listens on IPv4 and IPv6; others that were told one of the two find it there, and one family's nodes the other's through it."""

    async def main() -> None:
        both = ["/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0"]
        a = await Node(Libp2pPeers(seed_of(1), both, [], record_of(1), tmp_path / "a")).start()
        told = a.peers.addresses  # type: ignore[attr-defined]
        assert [address.split("/")[1] for address in told] == ["ip4", "ip6"]
        nodes = [a]
        try:
            for number, address in enumerate(told, 2):
                own = "/".join([*address.split("/")[:4], "0"])
                peers = Libp2pPeers(seed_of(number), [own], [address], record_of(number), tmp_path / str(number))
                nodes.append(await Node(peers).start())
            await until(lambda: all(knows(x, *(y for y in nodes if y is not x)) for x in nodes))
            assert await nodes[1].peers.request(nodes[2].id, beat(1), 240) == Ack()
            assert await nodes[2].peers.request(nodes[1].id, beat(1), 240) == Ack()
            record = next(r for r in nodes[1].peers.records() if r.peer == a.id)
            assert len(record.addresses) == 2
            await a.peers.stop()
            nodes[0] = await Node(Libp2pPeers(seed_of(1), both, [], record_of(1), tmp_path / "a")).start()
            assert nodes[0].peers.addresses == told  # type: ignore[attr-defined]
        finally:
            for node in nodes:
                await node.peers.stop()

    run(main())


def test_of_several_addresses_those_that_lead_nowhere_do_no_harm(tmp_path: Path) -> None:
    async def main() -> None:
        with socket.socket() as gone:
            gone.bind(("127.0.0.1", 0))  # bound, and nobody listens
            dead = f"/ip4/127.0.0.1/tcp/{gone.getsockname()[1]}"
            async with Libp2pNet(tmp_path) as net:
                a = await net.node(1)
                live, _, peer = a.peers.addresses[0].partition("/p2p/")  # type: ignore[attr-defined]
                told = [f"{dead}/p2p/{peer}", f"{live}/p2p/{peer}"]
                b = Node(Libp2pPeers(seed_of(2), [], told, record_of(2), tmp_path / "2"))
                net.nodes.append(b)
                await b.start()
                await until(lambda: knows(b, a))
                assert await b.peers.request(a.id, beat(1), 240) == Ack()

    run(main())


def test_a_node_that_nobody_can_call_is_asked_over_the_links_that_it_opened(tmp_path: Path) -> None:
    """As behind a router that lets nothing in: its record names an address that leads nowhere."""

    async def main() -> None:
        async with Libp2pNet(tmp_path) as net:
            a = await net.node(1)
            known = a.peers.addresses  # type: ignore[attr-defined]
            inside = Node(Libp2pPeers(seed_of(2), [], known, record_of(2), tmp_path / "2", announce="192.0.2.1"))  # TEST-NET-1, RFC 5737
            net.nodes.append(inside)
            await inside.start()
            await until(lambda: knows(a, inside) and knows(inside, a))
            (address,) = next(r for r in a.peers.records() if r.peer == inside.id).addresses
            assert address.startswith("/ip4/192.0.2.1/tcp/")
            assert await inside.peers.request(a.id, beat(1), 240) == Ack()
            assert await a.peers.request(inside.id, beat(1), 240) == Ack()

    run(main())


def test_two_nodes_behind_routers_meet_at_a_relay(tmp_path: Path) -> None:
    """Neither tells an address of its own, only one at the relay that it has called: a link between them can only be a circuit there."""

    async def main() -> None:
        async with Libp2pNet(tmp_path) as net:
            relay = Node(Libp2pPeers(seed_of(1), [], [], record_of(1), tmp_path / "1", relays=True))
            net.nodes.append(await relay.start())
            known = relay.peers.addresses  # type: ignore[attr-defined]
            pair = [Node(Libp2pPeers(seed_of(n), [], known, record_of(n), tmp_path / str(n), announce="relay")) for n in (2, 3)]
            for node in pair:
                net.nodes.append(await node.start())
            one, other = pair
            await until(lambda: all(knows(a, b) and all(r.addresses for r in a.peers.records()) for a, b in ((one, other), (other, one))))
            (address,) = next(r for r in one.peers.records() if r.peer == other.id).addresses
            assert address.endswith(f"/p2p/{relay.id}/p2p-circuit")
            assert await one.peers.request(other.id, beat(1), 240) == Ack()
            assert other.asked == [(one.id, beat(1))]
            assert relay.asked == []  # it carries what it cannot read
            host = cast(Any, one.peers)._net._up.host
            kinds = [c.muxed_conn.get_connection_type() for c in host.get_network().get_connections(ID.from_base58(other.id))]
            assert kinds
            assert set(kinds) == {ConnectionType.RELAYED}

    run(main())
