"""The trio side of the peer network: one py-libp2p host with its links, records, gossip and distributed hash table.

How a node that knows only a bootstrap address finds the others, and is found:
- It opens a link to the bootstrap node. Both sides introduce themselves with their own signed record and those they know.
- A record that is news is passed on over every other link, so a newcomer is known everywhere after as many hops as the network
  is wide; a record that is no news goes no further, which ends the flood. Each node opens links to a few others, and takes those that
  others open; who is called and who is taken: assay.adapters.peer_standing.
- It puts its record into the Kademlia table under `/assay/<peer id>` and renews it, so that whoever is missing a peer can look it
  up. Every value there is a signed record again: the validator refuses forgeries and prefers the higher sequence.
- The book is kept on disk: after a restart the node calls on those it knew, with or without a bootstrap node.

Announcements are flooded over the same links (assay.adapters.rumours); who has what is found by assay.adapters.rendezvous.

The library's traps: assay.adapters.libp2p_host.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from libp2p.custom_types import TProtocol
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from assay.adapters.libp2p_frames import Frame, Kind
from assay.adapters.libp2p_host import Running, another_stream, look_up, make_host, make_table, open_stream, plain, probe, publish, reachable, remote
from assay.adapters.libp2p_link import MAX_SERVED, Link, LinkClosed
from assay.adapters.libp2p_relay import BEHIND, Relays
from assay.adapters.libp2p_rendezvous import Rendezvous
from assay.adapters.libp2p_tunnel import PROTOCOL, Tunnels
from assay.adapters.peer_standing import MAX_LINKS, RECORDS, REQUESTS, Candidate, Standing, candidate, choose, refusal, wanted
from assay.adapters.peerbook import MAX_RECORD, Peerbook
from assay.adapters.rumours import Allowance, Rumours
from assay.codec import Malformed, decode, encode
from assay.ids import PeerId
from assay.messages import RPC_PROTOCOL, AnyGossip, AnyQuest, AnyRequest, Enlist, Refusal, Seek, SignedRecord
from assay.ports import Outage

log = logging.getLogger("assay.peers")

RPC = TProtocol(RPC_PROTOCOL)
MAX_SERVED_IN_ALL = 512
INTRODUCED = 128
"""Records that two nodes tell each other when they meet."""
RENEW = 600.0
PUBLISH_AFTER = (2.0, 6.0)
"""Seconds until the record is put into the table: everybody may be starting at once."""
FIRST_PAUSE, LAST_PAUSE = 0.25, 15.0
LOOKUP_AGAIN, DIAL_WITHIN = 5.0, 5.0
"""Seconds for one address of a peer."""


class Net:
    """Everything here runs in the trio thread. `await run(started)` until cancelled."""

    def __init__(
        self, *, seed: bytes,
        listen: list[str],
        announce: str,
        serves: bool,
        bootstrap: dict[PeerId, list[str]],
        book: Peerbook,
        tunnels: Tunnels,
        describe: Callable[[list[str]], SignedRecord],
        on_request: Callable[[PeerId, AnyRequest, Callable[[bytes], None]], None],
        on_gossip: Callable[[PeerId, AnyGossip], None],
    ) -> None:
        self.book = book
        self.rumours = Rumours(seed, book.chain_id, book.contract, lambda: time.time_ns() // 1_000_000)
        self.listen = listen
        """Multiaddrs; port 0 becomes the port that was bound, so that a second run listens where the first did."""
        self._seed, self._announce, self._serves, self._bootstrap = seed, announce, serves, bootstrap
        self._describe, self._on_request, self._on_gossip, self._tunnels = describe, on_request, on_gossip, tunnels
        self._own: SignedRecord | None = None
        self._links: dict[PeerId, list[Link]] = {}
        self._dialling: dict[PeerId, trio.Lock] = {}
        self._pauses: dict[PeerId, tuple[float, float]] = {}
        """After a failed dial: (length of the pause, its end)."""
        self._lookups: dict[PeerId, float] = {}
        self._serving = 0
        self._records = Allowance(*RECORDS)
        self._requests = Allowance(*REQUESTS)
        self._standing, self._wanted = Standing(), trio.Event()
        self._rng = random.Random(seed + random.randbytes(16))
        self._up: Running | None = None
        self.rendezvous = Rendezvous(book, self.request, self._rng)

    # ---- life ------------------------------------------------------------------------------------------------------------

    async def run(self, started: Callable[[list[str]], None]) -> None:
        """Calls `started` with the addresses as soon as the node listens. Raises OSError when a port is taken."""
        for address in self.listen:
            probe(address)
        listen = [Multiaddr(address) for address in self.listen]
        host = make_host(self._seed, listen, MAX_LINKS)
        async with host.run(listen):
            wanted_order = {address.rsplit("/", 1)[0]: place for place, address in enumerate(self.listen)}
            bound = [str(address) for address in host.get_transport_addrs()]  # in the order in which they came up
            self.listen = sorted(bound, key=lambda address: wanted_order.get(address.rsplit("/", 1)[0], len(bound)))
            host.set_stream_handler(RPC, self._accept)
            host.set_stream_handler(TProtocol(PROTOCOL), self._join)
            dht = make_table(host)
            relays = Relays(host, self._serves)
            async with background_trio_service(dht), relays.running(), trio.open_nursery() as nursery:
                self._up = Running(host, dht, relays, nursery)
                self._renew()
                started(self.addresses)
                try:
                    nursery.start_soon(self._keep_neighbours)
                    nursery.start_soon(self._keep_published)
                    nursery.start_soon(self._tunnels.run, self._reach)
                    if self._announce == BEHIND:
                        nursery.start_soon(relays.keep, self._called, lambda: self._spread([self._renew()], None))
                    await self._keep_file()
                finally:
                    self._up = None

    @property
    def addresses(self) -> list[str]:
        """Where others reach this node, without `/p2p/`."""
        if self._announce == BEHIND:
            return self._up.relays.addresses if self._up is not None else []
        return [found for address in self.listen for found in reachable(address, self._announce)]

    def _renew(self) -> SignedRecord:
        self._own = self._describe(self.addresses)
        return self._own

    async def renew(self) -> None:
        """Tells the neighbours what the record says now; the table has it when it is next published."""
        self._spread([self._renew()], None)

    async def _keep_file(self) -> None:
        while True:
            await trio.sleep(1)
            try:
                self.book.save()
            except OSError as error:
                log.warning("the peers cannot be saved: %s", error)
                await trio.sleep(30)

    async def _keep_published(self) -> None:
        """Puts the node's record into the table, a little after the start, then regularly."""
        assert self._up is not None
        await trio.sleep(random.uniform(*PUBLISH_AFTER))
        while True:
            own = self._own or self._renew()
            if self._links:
                try:
                    await publish(self._up.dht, own)
                    await self.rendezvous.enlist(own)
                except Exception as error:
                    log.debug("publishing the record: %s", error)
                await trio.sleep(RENEW * random.uniform(0.8, 1.2))
                self._spread([self._renew()], None)
            else:
                await trio.sleep(random.uniform(*PUBLISH_AFTER))

    def spawn(self, work: Callable[[], Awaitable[None]], otherwise: Callable[[], None]) -> None:
        """Runs `work` beside the rest, or calls `otherwise` when the host is down."""
        if self._up is None:
            otherwise()
        else:
            self._up.nursery.start_soon(work)

    # ---- requests --------------------------------------------------------------------------------------------------------

    async def request(self, peer: PeerId, body: bytes) -> bytes:
        """The answer's bytes. Raises Outage. To be bounded by whoever calls it."""
        with contextlib.suppress(LinkClosed):
            return await (await self._link(peer)).request(body)
        return await (await self._link(peer)).request(body)

    async def _reach(self, peer: PeerId, protocol: str) -> Any:
        await self._link(peer)
        assert self._up is not None
        return await another_stream(self._up.host, peer, TProtocol(protocol))

    async def _join(self, stream: Any) -> None:
        barred = self._standing.barred(PeerId(str(stream.muxed_conn.peer_id)), remote(stream), trio.current_time())
        await (stream.reset() if barred else self._tunnels.accept(stream))

    async def gossip(self, message: AnyGossip) -> None:
        """Passes an announcement of this node to all neighbours. Raises Outage."""
        if self._up is None:
            raise Outage("the peer network is starting again")
        self._pass_on(Frame(Kind.GOSSIP, 0, self.rumours.say(message)), None)

    async def _serve(self, link: Link, number: int, body: bytes) -> None:
        message: AnyRequest | AnyQuest = decode(body, AnyRequest | AnyQuest)
        allowed = self._requests.take(link.peer, trio.current_time())
        if not allowed or link.serving >= MAX_SERVED or self._serving >= MAX_SERVED_IN_ALL:
            if link.refused():
                log.warning("%s asks for too much: some of its requests are refused", link.peer)
            link.put(Frame(Kind.REPLY, number, encode(Refusal(reason="too many requests at once", retry_after=1))))
            return
        if isinstance(message, Enlist | Seek):
            return link.put(Frame(Kind.REPLY, number, self.rendezvous.serve(link.peer, link.host, message)))
        link.serving += 1
        self._serving += 1
        token = trio.lowlevel.current_trio_token()

        def finish(answer: bytes) -> None:
            link.serving -= 1
            self._serving -= 1
            if not link.closed:
                with contextlib.suppress(LinkClosed):
                    link.put(Frame(Kind.REPLY, number, answer))

        self._on_request(link.peer, message, lambda answer: token.run_sync_soon(finish, answer))

    # ---- links -----------------------------------------------------------------------------------------------------------

    def _alive(self, peer: PeerId) -> Link | None:
        return next((link for link in self._links.get(peer, ()) if not link.closed), None)

    async def _link(self, peer: PeerId) -> Link:
        """The link to this peer, opened if need be. Raises Outage."""
        link = self._alive(peer)
        if link is not None:
            return link
        if peer == self.book.own:
            raise Outage("a node does not send requests to itself")
        if self._standing.barred(peer, "", trio.current_time()):
            raise Outage(f"{peer} did what it should not a while ago")
        async with self._dialling.setdefault(peer, trio.Lock()) as _:
            link = self._alive(peer)
            if link is None:
                pause, until = self._pauses.get(peer, (FIRST_PAUSE, 0.0))
                if trio.current_time() < until:
                    raise Outage(f"{peer} could not be reached a moment ago")
                try:
                    link = await self._dial(peer)
                except Outage:
                    self._pauses[peer] = (min(2 * pause, LAST_PAUSE), trio.current_time() + pause * random.uniform(0.7, 1.3))
                    raise
                finally:
                    lock = self._dialling.get(peer)
                    if lock is not None and lock.statistics().tasks_waiting == 0:
                        del self._dialling[peer]
        self._pauses.pop(peer, None)
        return link

    async def _dial(self, peer: PeerId) -> Link:
        up = self._up
        if up is None:
            raise Outage("the peer network is starting again")
        addresses = self._known_addresses(peer) or await self._look_up(up, peer)
        if not addresses:
            raise Outage(f"no address of {peer} is known")
        troubles = []
        for address in addresses:
            try:
                with trio.fail_after(DIAL_WITHIN):
                    stream = await open_stream(up.host, up.relays, peer, address, RPC)
                break
            except trio.TooSlowError:
                troubles.append(f"{address}: no answer in {DIAL_WITHIN:g} s")
            except Exception as error:  # any of the library's errors: it is not there, or not what it says it is
                troubles.append(f"{address}: {plain(error)}")
        else:
            raise Outage(f"{peer} cannot be reached ({'; '.join(troubles)})")
        self.book.proven(peer)
        link = self._new_link(peer, stream, opened=True)
        up.nursery.start_soon(self._run_link, link)
        return link

    def _known_addresses(self, peer: PeerId) -> list[str]:
        record = self.book.get(peer)
        told = self._bootstrap.get(peer, [])
        return [*(record.addresses if record is not None else ()), *told]

    async def _look_up(self, up: Running, peer: PeerId) -> list[str]:
        now = trio.current_time()
        if now < self._lookups.get(peer, 0.0) or not self._links:
            return []
        if len(self._lookups) > 1024:
            self._lookups = {other: until for other, until in self._lookups.items() if until > now}
        self._lookups[peer] = now + LOOKUP_AGAIN
        self._learn(await look_up(up.dht, peer), None)
        return self._known_addresses(peer)

    async def _accept(self, stream: Any) -> None:
        peer = PeerId(str(stream.muxed_conn.peer_id))
        host = remote(stream)
        if self._standing.barred(peer, host, trio.current_time()):
            log.debug("%s from %s is not taken back yet", peer, host)
            await stream.reset()
            return
        if why := refusal([(link.peer, link.host, link.opened) for links in self._links.values() for link in links], peer, host):
            log.warning("a link of %s from %s was not taken: %s", peer, host, why)
            await stream.reset()
            return
        await self._run_link(self._new_link(peer, stream, opened=False))

    def _new_link(self, peer: PeerId, stream: Any, opened: bool) -> Link:
        link = Link(peer, stream, self._serve, self._heard_records, self._heard_gossip, host=remote(stream), opened=opened)
        self._links.setdefault(peer, []).append(link)
        known = self.book.signed()
        link.put(Frame(Kind.RECORDS, 0, encode([self._own or self._renew(), *random.sample(known, min(INTRODUCED, len(known)))])))
        for body in self.rumours.recent():
            link.put(Frame(Kind.GOSSIP, 0, body))
        return link

    async def _run_link(self, link: Link) -> None:
        try:
            await link.run()
        finally:
            links = self._links.get(link.peer, [])
            links.remove(link)
            if not links:
                self._links.pop(link.peer, None)
            if link.fault:
                self._standing.fault(link.peer, link.host, trio.current_time())
            self._wanted.set()

    async def _keep_neighbours(self) -> None:
        """Sees to it that there are links enough for records to spread, and that the way back in is tried after an outage."""
        assert self._up is not None
        greeted = False
        while True:
            opened = [link for links in self._links.values() for link in links if link.opened]
            missing = wanted(len(opened), len(self._links))
            due = [one for one in self._candidates(greeted) if self._may_call(one.peer)] if missing or not greeted else []
            chosen = choose(due, [link.host for link in opened], missing, self._rng)
            if not greeted:  # the way in comes first
                chosen = list(dict.fromkeys([*(one.peer for one in due if one.peer in self._bootstrap), *chosen]))[:missing]
            async with trio.open_nursery() as nursery:
                for peer in chosen:
                    nursery.start_soon(self._try_link, peer)
            greeted = greeted or any(peer in self._links for peer in self._bootstrap)
            self._wanted = trio.Event()
            with trio.move_on_after(random.uniform(0.2, 0.4) if missing > 0 and due else random.uniform(1.5, 2.5)):
                await self._wanted.wait()
                await trio.sleep(random.uniform(0.02, 0.1))

    def _candidates(self, greeted: bool) -> list[Candidate]:
        """Everybody who could be called; bootstrap nodes when there is nobody else, or they have not been met."""
        records = [signed.record for signed in self.book.signed()]
        known = [candidate(record.peer, record.addresses, self.book.is_proven(record.peer)) for record in records]
        if greeted and wanted(0, len(self._links)) == 0:
            return known
        told = [candidate(peer, addresses, True) for peer, addresses in self._bootstrap.items()]
        return [*told, *(one for one in known if one.peer not in self._bootstrap)]

    def _called(self) -> dict[PeerId, list[str]]:
        """Where those are that this node has called."""
        return {link.peer: self._known_addresses(link.peer) for links in self._links.values() for link in links if link.opened}

    def _may_call(self, peer: PeerId) -> bool:
        now = trio.current_time()
        return peer not in self._links and self._pauses.get(peer, (0.0, 0.0))[1] <= now and not self._standing.barred(peer, "", now)

    async def _try_link(self, peer: PeerId) -> None:
        with contextlib.suppress(Outage), trio.move_on_after(10):
            await self._link(peer)

    # ---- records ---------------------------------------------------------------------------------------------------------

    def _heard_records(self, link: Link, body: bytes) -> None:
        records = decode(body, tuple[SignedRecord, ...])
        if not self._records.take(link.peer, trio.current_time(), len(records)):
            raise Malformed("more records than anybody needs")
        if any(len(encode(signed)) > MAX_RECORD for signed in records):
            raise Malformed(f"a record of more than {MAX_RECORD} bytes")
        self._learn(list(records), link)

    def _learn(self, records: list[SignedRecord], source: Link | None) -> None:
        news = [signed for signed in records if self.book.add(signed)]
        for signed in news:
            self._pauses.pop(signed.record.peer, None)
            self.rendezvous.board.know(signed)
        if news:
            self._spread(news, source)
            self._wanted.set()

    def _spread(self, records: list[SignedRecord], source: Link | None) -> None:
        self._pass_on(Frame(Kind.RECORDS, 0, encode(records)), source)

    def _pass_on(self, frame: Frame, source: Link | None) -> None:
        """To every neighbour but the one it came from."""
        for link in [link for links in self._links.values() for link in links[:1]]:
            if (source is None or link.peer != source.peer) and not link.closed:
                with contextlib.suppress(LinkClosed):
                    link.put(frame)

    # ---- gossip ----------------------------------------------------------------------------------------------------------

    def _heard_gossip(self, link: Link, body: bytes) -> None:
        news = self.rumours.hear(body, link.peer)
        if news is not None:
            self._pass_on(Frame(Kind.GOSSIP, 0, body), link)
            self._on_gossip(news.author, news.message)
