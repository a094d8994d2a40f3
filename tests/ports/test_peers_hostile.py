"""Peers that flood, stall, swarm, surround or come back: each is bounded and logged, and honest nodes go on. The stranger is a libp2p host."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from test_peers import Libp2pNet, Node, beat, knows, record_of, run, seed_of, signed_by, until

from assay.adapters import libp2p_host, libp2p_link, peer_standing, peerbook
from assay.adapters.libp2p_frames import Frame, Frames, Kind, pack
from assay.adapters.peer_standing import Candidate, Standing, choose, network_of, refusal, wanted
from assay.codec import encode
from assay.ids import PeerId
from assay.messages import RPC_PROTOCOL, Ack

Script = Callable[["Stranger"], Awaitable[None]]


class Stranger:
    """A host that does what a script says, in a thread; `await run(script)`."""

    def __init__(self, target: Node, number: int = 99) -> None:
        self.peer = peerbook.peer_id(seed_of(number))
        self._number = number
        self._address = target.peers.addresses[0]  # type: ignore[attr-defined]
        self._host: Any = None

    async def run(self, script: Script) -> None:
        await asyncio.to_thread(self._run, script)

    def _run(self, script: Script) -> None:
        from libp2p import new_host
        from libp2p.crypto.ed25519 import create_new_key_pair
        from libp2p.peer.peerinfo import info_from_p2p_addr
        from multiaddr import Multiaddr

        async def main() -> None:
            self._host = new_host(key_pair=create_new_key_pair(seed_of(self._number)))
            async with self._host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
                self._info = info_from_p2p_addr(Multiaddr(self._address))
                with trio.fail_after(240):
                    await self._host.connect(self._info)
                    await script(self)

        trio.run(main)

    async def link(self) -> Any:
        from libp2p.custom_types import TProtocol

        return await self._host.new_stream(self._info.peer_id, [TProtocol(RPC_PROTOCOL)])


async def ended(stream: Any) -> list[Frame]:
    """The frames that still come until the node closes the stream."""
    parser, frames = Frames(), []
    try:
        while data := await stream.read(65536):
            frames += parser.feed(data)
    except Exception:  # a reset, by any of the library's names
        return frames
    return frames


async def refused(stranger: Stranger, said: bytes = b"") -> None:
    """Opens a link that the node ends without an answer, before the library has done or after."""
    from libp2p.host.exceptions import StreamFailure
    from libp2p.network.stream.exceptions import StreamError

    with contextlib.suppress(StreamFailure, StreamError):
        stream = await stranger.link()
        await stream.write(said)
        assert not [frame for frame in await ended(stream) if frame.kind == Kind.REPLY]


async def closed(stream: Any) -> None:
    await ended(stream)


# ---- floods and slow ones --------------------------------------------------------------------------------------------------


def test_a_flood_of_requests_is_refused_beyond_the_bound_and_others_are_served(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Refused, and at last left, when it does not even read the refusals."""
    requests = b"".join(pack(Frame(Kind.REQUEST, number, encode(beat(1)))) for number in range(1500))

    async def flood(stranger: Stranger) -> None:
        stream = await stranger.link()
        while "does not read" not in caplog.text:
            with contextlib.suppress(Exception), trio.move_on_after(1):  # it may have been closed by now
                await stream.write(requests)

    async def main() -> None:
        async with Libp2pNet(tmp_path) as net:
            a, b = [await net.node(i) for i in (1, 2)]
            await until(lambda: knows(b, a))
            with caplog.at_level(logging.WARNING, "assay.peers"):
                await asyncio.gather(Stranger(a).run(flood), b.peers.request(a.id, beat(1), 240))
            assert 1 <= len(a.asked) <= 1024 + 1 + 100 * 40
            assert "asks for too much" in caplog.text

    run(main())


def test_a_flood_of_records_ends_the_link(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = pack(Frame(Kind.RECORDS, 0, encode([signed_by(5)] * 300)))

    async def flood(stranger: Stranger) -> None:
        from libp2p.network.stream.exceptions import StreamError

        stream = await stranger.link()
        with contextlib.suppress(StreamError):  # it may be closed before the last of them
            for _ in range(6):
                await stream.write(records)
        await closed(stream)

    async def main() -> None:
        async with Libp2pNet(tmp_path) as net:
            a = await net.node(1)
            with caplog.at_level(logging.WARNING, "assay.peers"):
                await Stranger(a).run(flood)
            assert "more records than anybody needs" in caplog.text

    run(main())


def test_a_peer_that_does_not_read_is_left(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libp2p_link, "OUTBOX", 64)

    async def deaf(stranger: Stranger) -> None:
        stream = await stranger.link()
        pings = b"".join(pack(Frame(Kind.PING, number, b"")) for number in range(5000))
        while "does not read" not in caplog.text:
            with contextlib.suppress(Exception), trio.move_on_after(1):
                await stream.write(pings)

    async def main() -> None:
        async with Libp2pNet(tmp_path) as net:
            a = await net.node(1)
            with caplog.at_level(logging.WARNING, "assay.peers"):
                await Stranger(a).run(deaf)
            b = await net.node(2)
            await until(lambda: knows(b, a))
            assert await b.peers.request(a.id, beat(1), 240) == Ack()

    run(main())


@pytest.mark.parametrize("said", [b"", b"\x13/multistream/1.0.0\n", b"\xff" * 3])
def test_connections_that_never_become_one_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    monkeypatch.setattr(libp2p_host, "UPGRADE_WITHIN", 0.5)

    def hold(port: int) -> None:
        held = [socket.create_connection(("127.0.0.1", port), timeout=240) for _ in range(30)]
        for wire in held:
            wire.sendall(said)
        for wire in held:
            try:
                while wire.recv(1024):
                    pass
            except ConnectionError:
                pass
            wire.close()

    async def main() -> None:
        async with Libp2pNet(tmp_path) as net:
            a = await net.node(1)
            holding = asyncio.create_task(asyncio.to_thread(hold, int(a.peers.addresses[0].split("/")[4])))  # type: ignore[attr-defined]
            b = await net.node(2)
            await until(lambda: knows(b, a))
            assert await b.peers.request(a.id, beat(1), 240) == Ack()
            await holding

    run(main())


def test_who_was_at_fault_is_not_taken_back_at_once(tmp_path: Path) -> None:
    asked = pack(Frame(Kind.REQUEST, 1, encode(beat(1))))

    async def again(stranger: Stranger) -> None:
        stream = await stranger.link()
        await stream.write(b"\xff" * 64)
        await closed(stream)
        await refused(stranger, asked)

    async def main() -> None:
        async with Libp2pNet(tmp_path) as net:
            a = await net.node(1)
            await Stranger(a).run(again)
            assert not a.asked

    run(main())


def test_one_peer_has_a_few_links_and_no_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def many(stranger: Stranger) -> None:
        held = [await stranger.link() for _ in range(peer_standing.LINKS_PER_PEER)]
        await refused(stranger)
        await refused(stranger)
        await held[0].write(pack(Frame(Kind.REQUEST, 1, encode(beat(1)))))
        parser = Frames()
        while not [frame for frame in parser.feed(await held[0].read(65536)) if frame.kind == Kind.REPLY]:
            pass

    async def main() -> None:
        async with Libp2pNet(tmp_path) as net:
            a = await net.node(1)
            with caplog.at_level(logging.WARNING, "assay.peers"):
                await Stranger(a).run(many)
            assert f"was not taken: it has {peer_standing.LINKS_PER_PEER} links" in caplog.text

    run(main())


# ---- swarms and eclipses ---------------------------------------------------------------------------------------------------


def test_a_node_surrounded_by_strangers_still_calls_whom_it_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many strangers have opened links to it as it wants neighbours; it opens its own to the honest node all the same."""
    monkeypatch.setattr(peer_standing, "NEIGHBOURS", 2)
    monkeypatch.setattr(peer_standing, "OWN", 1)
    done = threading.Event()

    async def stay(stranger: Stranger) -> None:
        stream = await stranger.link()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(closed, stream)
            await trio.to_thread.run_sync(done.wait, 30, abandon_on_cancel=True)
            nursery.cancel_scope.cancel()

    async def surrounded(net: Libp2pNet) -> None:
        a = await net.node(1)
        swarm = [asyncio.create_task(Stranger(a, 200 + i).run(stay)) for i in range(2)]
        links: dict[PeerId, list[Any]] = a.peers._net._links  # type: ignore[attr-defined]
        try:
            await until(lambda: len(links) == 2)
            b = await net.node(2, bootstrap=False)
            record = b.peers._net._own  # type: ignore[attr-defined]
            await net.write(a, pack(Frame(Kind.RECORDS, 0, encode([record]))) + b"\xff" * 64)
            await until(lambda: any(link.opened for link in links.get(b.id, [])))
            assert await a.peers.request(b.id, beat(1), 240) == Ack()
        finally:
            done.set()
            await asyncio.gather(*swarm)

    async def main() -> None:
        async with Libp2pNet(tmp_path) as net:
            await surrounded(net)

    run(main())


def candidates(honest: int, networks: int, sybils: int, proven: int, shown: int) -> list[Candidate]:
    """`honest` peers in `networks` networks, `proven` of them met before; `sybils` that show themselves in `shown` networks."""
    found = [Candidate(PeerId(f"honest {i}"), f"{20 + i % networks}.1.{i // 250}.{i % 250}", i < proven) for i in range(honest)]
    return [*found, *(Candidate(PeerId(f"sybil {i}"), f"{150 + i % shown}.7.{i // 250 % 250}.{i % 250}", False) for i in range(sybils))]


def test_a_swarm_of_ids_behind_a_few_addresses_is_seldom_called() -> None:
    everybody = candidates(honest=40, networks=30, sybils=4000, proven=0, shown=3)
    called = [peer for seed in range(100) for peer in choose(everybody, [], 4, random.Random(seed))]
    assert len(called) == 400
    assert sum(peer.startswith("sybil") for peer in called) < 80  # by peers it would be 396; by networks, a tenth


def test_a_swarm_that_shows_many_networks_does_not_get_every_link_while_somebody_was_met_before() -> None:
    """Addresses in a record cost nothing to claim; to be proven, a peer must have answered there."""
    everybody = candidates(honest=20, networks=20, sybils=4000, proven=8, shown=100)
    for seed in range(50):
        called = choose(everybody, [], peer_standing.OWN, random.Random(seed))
        assert sum(peer.startswith("honest") for peer in called) >= peer_standing.OWN // 2


def test_links_are_spread_over_networks() -> None:
    everybody = candidates(honest=12, networks=4, sybils=0, proven=12, shown=1)
    for seed in range(50):
        called = choose(everybody, ["20.1.0.9"], 3, random.Random(seed))
        hosts = [one.host for one in everybody if one.peer in called]
        assert {host.split(".")[0] for host in hosts} == {"21", "22", "23"}
    assert len(choose(everybody, [], 99, random.Random(1))) == 12
    assert choose([], [], 3, random.Random(1)) == []


def test_links_of_others_do_not_stand_for_those_it_opens() -> None:
    assert wanted(opened=0, links=0) == peer_standing.NEIGHBOURS
    assert wanted(opened=0, links=500) == peer_standing.OWN
    assert wanted(opened=peer_standing.OWN, links=500) == 0


def test_one_network_has_a_bounded_share_and_own_links_room() -> None:
    held = [(PeerId(f"p{i}"), f"99.1.{i}.1", False) for i in range(peer_standing.LINKS_PER_NETWORK)]
    assert "come from 99.1.0.0/16" in refusal(held, PeerId("x"), "99.1.250.9")
    assert refusal(held, PeerId("x"), "99.2.0.1") == ""
    assert refusal(held, PeerId("x"), "192.168.0.1") == ""  # of one's own site
    full = [(PeerId(f"p{i}"), f"10.0.{i // 250}.{i % 250}", False) for i in range(peer_standing.OPENED_BY_OTHERS)]
    assert "links are open" in refusal(full, PeerId("x"), "8.8.8.8")
    assert peer_standing.MAX_LINKS - peer_standing.OPENED_BY_OTHERS >= peer_standing.NEIGHBOURS


def test_networks_of_addresses() -> None:
    assert network_of("8.8.4.4") == "8.8.0.0/16"
    assert network_of("::ffff:8.8.4.4") == "8.8.0.0/16"
    assert network_of("2001:4860:4860::8888") == "2001:4860::/32"
    for own in ("127.0.0.1", "10.1.2.3", "192.168.1.1", "fe80::1", "::1", "fd00::1", "example.org", ""):
        assert network_of(own) is None


def test_a_bar_doubles_and_ends_and_an_address_is_barred_after_several() -> None:
    standing, someone, host = Standing(), PeerId("x"), "8.8.8.8"
    assert not standing.barred(someone, host, 0)
    standing.fault(someone, host, 100)
    assert standing.barred(someone, host, 129)
    assert not standing.barred(someone, host, 131)
    standing.fault(someone, host, 131)
    assert standing.barred(someone, host, 190)
    assert not standing.barred(someone, host, 192)
    for i in range(2):
        standing.fault(PeerId(f"y{i}"), host, 200)
    assert standing.barred(PeerId("new"), host, 201)  # four faults at one address
    assert not standing.barred(PeerId("new"), "8.8.8.9", 201)
    for i in range(9):
        standing.fault(PeerId(f"z{i}"), "127.0.0.1", 200)
    assert not standing.barred(PeerId("new"), "127.0.0.1", 201)  # nodes of one machine do not answer for one another
    standing.fault(someone, "8.8.4.4", 131 + peer_standing.FORGIVEN + 100)
    assert not standing.barred(someone, "", 131 + peer_standing.FORGIVEN + 131)  # it is the first again
    for i in range(3 * peer_standing.MAX_REMEMBERED):
        standing.fault(PeerId(f"w{i}"), f"h{i}", 0)
    assert len(standing._faults) <= peer_standing.MAX_REMEMBERED


# ---- the table -------------------------------------------------------------------------------------------------------------


def test_nothing_forged_or_old_stands_in_the_table() -> None:
    from assay.adapters.libp2p_host import RecordValidator

    validator = RecordValidator()
    mine, key = signed_by(5), f"/assay/{peerbook.peer_id(seed_of(5))}"
    validator.validate(key, encode(mine))
    forged = msgspec.structs.replace(mine, record=msgspec.structs.replace(mine.record, gateway="http://thief"))
    for wrong in (encode(forged), encode(signed_by(6)), b"", b"[" * 5000, encode(mine) + b" "):
        with pytest.raises(ValueError):  # noqa: PT011 (each for a reason of its own)
            validator.validate(key, wrong)
    older = peerbook.sign(msgspec.structs.replace(mine.record, sequence=mine.record.sequence - 1), seed_of(5))
    assert validator.select(key, [encode(older), encode(mine)]) == 1
    assert validator.select(key, [encode(mine), encode(older)]) == 0


def test_a_full_book_keeps_whom_it_called_and_not_who_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peerbook, "MAX_BOOK", 8)
    contract = record_of(1)([]).contract
    book = peerbook.Peerbook(peerbook.peer_id(seed_of(1)), 7, contract, lambda: time.time_ns() // 1_000_000)
    for number in (2, 3):
        book.add(signed_by(number))
        book.proven(peerbook.peer_id(seed_of(number)))
    for number in range(100, 140):
        book.add(signed_by(number))
    kept = {signed.record.peer for signed in book.signed()}
    assert len(kept) == 8
    assert {peerbook.peer_id(seed_of(2)), peerbook.peer_id(seed_of(3))} <= kept
