"""assay.ports.Peers over py-libp2p: TCP, Noise and nothing else, Yamux.

libp2p runs on trio, the daemons on asyncio: the host lives in a thread of its own with a trio loop (assay.adapters.libp2p_net),
and work goes over by `run_sync_soon` and back by `call_soon_threadsafe`; cancelling a request here cancels it there. If the
library fails, the loop is started again on the same port; requests meanwhile raise Outage. The library is imported in that thread,
while the daemon does other things.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from assay.adapters import peerbook
from assay.adapters.libp2p_tunnel import Tunnels
from assay.adapters.peerbook import Peerbook
from assay.adapters.rendezvous import fits, key_to_ask
from assay.codec import MAX_MESSAGE, Malformed, decode, encode
from assay.ids import PeerId
from assay.messages import THROUGH, AnyGossip, AnyReply, AnyRequest, Means, PeerRecord, Refusal, SignedRecord
from assay.ports import Handler, Outage

if TYPE_CHECKING:
    from assay.adapters.libp2p_net import Net

log = logging.getLogger("assay.peers")

LISTEN = "/ip4/127.0.0.1/tcp/0"
ANSWER_WITHIN = 60.0
STOP_WITHIN = 10.0
MOST_THROUGH = 8


class Libp2pPeers:
    """`seed`: 32 bytes of the identity. `listen`: multiaddrs, loopback and any port by default. `bootstrap`: multiaddrs that end
    in `/p2p/<peer id>`. `record(addresses)` says what the node tells of itself; peer, addresses and sequence are filled in here.
    `folder` keeps the peers that are known and the port. `announce`: IP address or name that others reach the ports by, if another;
    `relay` when nobody can, and others are to relay for it (assay.adapters.libp2p_relay). `relays`: whether it relays for such nodes.
    `gateway`: host and port of the node's own gateway, if others are to have it through streams (assay.adapters.libp2p_tunnel).
    Raises ValueError for an address that is not one."""

    def __init__(
        self,
        seed: bytes,
        listen: list[str],
        bootstrap: list[str],
        record: Callable[[list[str]], PeerRecord],
        folder: Path,
        announce: str = "",
        relays: bool = False,
        gateway: tuple[str, int] | None = None,
    ) -> None:
        self.peer = peerbook.peer_id(seed)
        self.addresses: list[str] = []
        """Once started: multiaddrs with `/p2p/`, what others are given as their bootstrap address."""
        self._seed, self._record, self._announce, self._relays = seed, record, announce, relays
        self._listen = listen or [LISTEN]
        self._bootstrap = _by_peer(bootstrap, self.peer)
        self._ports = folder / "listen.json"
        self._tunnels = Tunnels(gateway)
        self._sequence = 0
        folder.mkdir(parents=True, exist_ok=True)
        kind = record([])
        self._book = Peerbook(self.peer, kind.chain_id, kind.contract, lambda: time.time_ns() // 1_000_000, folder / "peers.json")
        self._thread: threading.Thread | None = None
        self._net: Net | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._scope: trio.CancelScope | None = None
        self._stopping = False
        self._answers: set[asyncio.Task[None]] = set()

    # ---- the port --------------------------------------------------------------------------------------------------------

    async def start(self, on_request: Handler, on_gossip: Callable[[PeerId, AnyGossip], None]) -> None:
        """Returns when the node listens; it finds the others meanwhile. Raises OSError when a port is taken."""
        if self._thread is not None:
            raise RuntimeError("the peers have been started already")
        self._loop = asyncio.get_running_loop()
        self._handler, self._gossip_handler = on_request, on_gossip
        started: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, args=(started,), name="libp2p", daemon=True)
        self._thread.start()
        await started

    async def stop(self) -> None:
        thread = self._thread
        if thread is None:
            return
        self._stopping = True
        token, scope = self._token, self._scope
        if token is not None and scope is not None:
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(scope.cancel)
        await asyncio.to_thread(thread.join, STOP_WITHIN)
        if thread.is_alive():
            log.warning("the peer network did not stop in %g seconds", STOP_WITHIN)
        for task in list(self._answers):
            task.cancel()
        with contextlib.suppress(OSError):
            self._book.save()

    async def request(self, peer: PeerId, message: AnyRequest, timeout: float) -> AnyReply:
        """Raises Outage, also when the peer answers with what is not an answer. ValueError: the message is too long."""
        body = encode(message)
        if len(body) > MAX_MESSAGE:
            raise ValueError(f"a message of {len(body)} bytes is over the limit of {MAX_MESSAGE}")
        try:
            peerbook.public_key(peer)
        except ValueError as error:
            raise Outage(f"nobody can be reached there: {error}") from None

        async def ask(net: Net) -> bytes:
            with trio.move_on_after(timeout):
                return await net.request(peer, body)
            raise Outage(f"{peer} did not answer within {timeout:g} s")

        data = await self._call(ask)
        try:
            reply: AnyReply = decode(data, AnyReply)
            return reply
        except Malformed as error:
            log.warning("%s answered with what is not an answer: %s", peer, error)
            raise Outage(f"{peer} answered with what is not an answer: {error}") from None

    async def gossip(self, message: AnyGossip) -> None:
        await self._call(lambda net: net.gossip(message))

    async def renew(self) -> None:
        await self._call(lambda net: net.renew())

    def records(self) -> list[PeerRecord]:
        return self._book.fresh()

    def gateways(self, near: Sequence[PeerId] = ()) -> list[str]:
        """Base URLs of gateways: those of the peers named, in this order, then all others that are known. Of others that are had through
        streams only, MOST_THROUGH."""
        told = {record.peer: record.gateway for record in self._book.fresh() if record.gateway}
        wanted = [peer for peer in near if peer in told]
        through = [peer for peer in told if told[peer] == THROUGH and peer not in wanted]
        direct = [peer for peer in told if told[peer] != THROUGH and peer not in wanted]
        urls = [self._tunnels.url(peer) if told[peer] == THROUGH else told[peer] for peer in (*wanted, *direct, *through[:MOST_THROUGH])]
        return list(dict.fromkeys(url for url in urls if url is not None))

    async def find(self, means: Means) -> list[PeerRecord]:
        """Nodes that say they have at least these means: those that are known, and those that the network finds. Raises Outage."""
        key = key_to_ask(self._book.chain_id, self._book.contract, means)
        told: list[SignedRecord] = await self._call(lambda net: net.rendezvous.find(key, means))
        known = {record.peer: record for record in self._book.fresh() if fits(record.means, means)}
        return list({**known, **{signed.record.peer: signed.record for signed in told}}.values())

    # ---- the thread ------------------------------------------------------------------------------------------------------

    def _run(self, started: asyncio.Future[None]) -> None:
        pause = 0.5
        while not self._stopping:
            try:
                trio.run(self._main, started)
            except BaseException as error:
                if not started.done() and isinstance(error, Exception):
                    self._tell(_settle, started, error)
                    return
                log.exception("the peer network failed; starting it again in %g s", pause)
                time.sleep(pause)
                pause = min(pause * 2, 30.0)

    async def _main(self, started: asyncio.Future[None]) -> None:
        from assay.adapters.libp2p_host import check_listen
        from assay.adapters.libp2p_net import Net

        check_listen(self._listen)
        net = Net(
            seed=self._seed,
            listen=self._remembered(),
            announce=self._announce,
            serves=self._relays,
            bootstrap=self._bootstrap,
            book=self._book,
            tunnels=self._tunnels,
            describe=self._describe,
            on_request=lambda peer, message, done: self._tell(self._on_request, peer, message, done),
            on_gossip=lambda peer, message: self._tell(self._gossip_handler, peer, message),
        )

        def up(addresses: list[str]) -> None:
            self._net = net
            self._listen = net.listen
            self.addresses = [f"{address}/p2p/{self.peer}" for address in addresses]
            with contextlib.suppress(OSError):
                self._ports.write_text(json.dumps(net.listen))
            self._tell(_settle, started, None)

        self._token = trio.lowlevel.current_trio_token()
        with trio.CancelScope() as self._scope:
            if self._stopping:
                return
            try:
                await net.run(up)
            except* OSError as group:  # a taken port, said plainly
                raise group.exceptions[0] from None
            finally:
                self._net = None

    def _remembered(self) -> list[str]:
        """Where the node listened last, if that is what it is told to listen on and the port is free: records that others hold
        of it then stay right over a restart."""
        from assay.adapters.libp2p_host import free

        try:
            last = msgspec.json.decode(self._ports.read_bytes(), type=list[str])
        except (OSError, ValueError):
            return self._listen
        pattern = [address.rsplit("/", 1) for address in self._listen]
        if len(last) != len(pattern):
            return self._listen
        return [
            old if head == old.rsplit("/", 1)[0] and port == "0" and free(old) else f"{head}/{port}"
            for (head, port), old in zip(pattern, last, strict=True)
        ]

    def _describe(self, addresses: list[str]) -> SignedRecord:
        self._sequence = max(self._sequence + 1, time.time_ns() // 1_000_000)
        record = msgspec.structs.replace(self._record(addresses), peer=self.peer, addresses=tuple(addresses), sequence=self._sequence)
        return peerbook.sign(record, self._seed)

    def _tell(self, function: Callable[..., Any], *args: Any) -> None:
        """From the trio thread: run it in the daemon's loop, unless that is gone."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *args)

    async def _call(self, work: Callable[[Net], Any]) -> Any:
        """From the daemon's loop: run `work` in the trio thread and wait for it. Raises Outage when there is no network."""
        net, token = self._net, self._token
        if net is None or token is None:
            raise Outage("the peer network is not up")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        scope = trio.CancelScope()

        async def run() -> None:
            error: BaseException | None = Outage("the peer network is stopping")
            value = None
            try:
                with scope:
                    value = await work(net)
                    error = None
            except Outage as outage:
                error = outage
            except trio.Cancelled:
                raise
            except Exception as other:
                log.debug("peers: %s", other, exc_info=True)
                error = Outage(f"{type(other).__name__}: {other}")
            finally:
                self._tell(_settle, future, error, value)

        try:
            token.run_sync_soon(net.spawn, run, lambda: self._tell(_settle, future, Outage("the peer network is stopping")))
        except trio.RunFinishedError:
            raise Outage("the peer network is not up") from None
        try:
            return await future
        except asyncio.CancelledError:
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(scope.cancel)
            raise

    # ---- requests of others ----------------------------------------------------------------------------------------------

    def _on_request(self, peer: PeerId, message: AnyRequest, done: Callable[[bytes], None]) -> None:
        task = self._loop.create_task(self._answer(peer, message, done))
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    async def _answer(self, peer: PeerId, message: AnyRequest, done: Callable[[bytes], None]) -> None:
        answer = encode(Refusal(reason="this node could not answer", retry_after=5))
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                data = encode(await self._handler(peer, message))
            if len(data) > MAX_MESSAGE:
                raise ValueError(f"an answer of {len(data)} bytes is over the limit of {MAX_MESSAGE}")
            answer = data
        except Exception:
            log.exception("answering %s of %s", type(message).__name__, peer)
        finally:
            with contextlib.suppress(trio.RunFinishedError):
                done(answer)


def _settle(future: asyncio.Future[Any], error: BaseException | None, value: Any = None) -> None:
    if not future.done():
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)


def _by_peer(addresses: list[str], own: PeerId) -> dict[PeerId, list[str]]:
    """Bootstrap addresses by the peer that each must lead to. Raises ValueError."""
    found: dict[PeerId, list[str]] = {}
    for address in addresses:
        where, mark, peer = address.partition("/p2p/")
        if not mark:
            raise ValueError(f"bootstrap address {address!r} does not say whom it leads to; it must end in /p2p/<peer id>")
        peerbook.public_key(PeerId(peer))
        if peer != own:
            found.setdefault(PeerId(peer), []).append(where)
    return found
