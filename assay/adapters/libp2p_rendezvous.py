"""The trio side of assay.adapters.rendezvous: asks over links, and answers those who ask here."""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable

import trio

from assay.adapters.peerbook import MAX_RECORD, Peerbook, verify
from assay.adapters.rendezvous import STRANGERS, Board, Search, keys_to_list, place
from assay.codec import Malformed, decode, encode
from assay.ids import Digest, PeerId
from assay.messages import Ack, AnyQuest, Enlist, Found, Means, Refusal, Seek, SignedRecord
from assay.ports import Outage

log = logging.getLogger("assay.peers")

ANSWER_WITHIN = 8.0
FIND_WITHIN = 30.0
KEY_EVERY = 0.5
"""Seconds between two keys under which a node has itself listed."""


class Rendezvous:
    """`ask(peer, body)`: the bytes that a peer answers to a request; raises Outage. Everything here runs in the trio thread."""

    def __init__(self, book: Peerbook, ask: Callable[[PeerId, bytes], Awaitable[bytes]], rng: random.Random) -> None:
        self._book, self._ask, self._rng = book, ask, rng
        self.board = Board(book, _now)

    def serve(self, peer: PeerId, host: str, quest: AnyQuest) -> bytes:
        """The answer to one that comes over a link. Raises Malformed."""
        if isinstance(quest, Seek):
            return encode(self.board.answer(quest, self._rng))
        if len(encode(quest.record)) > MAX_RECORD:
            raise Malformed(f"a record of more than {MAX_RECORD} bytes")
        if self.board.enlist(quest.record, peer, host):
            return encode(Ack())
        return encode(Refusal(reason="as many as may be are listed here from your network", retry_after=600))

    async def find(self, key: Digest, means: Means) -> list[SignedRecord]:
        """Nodes with these means, as they themselves say. What is known here need not be asked for. In no order."""
        search = self._begin(Seek(key=key, means=means))
        with trio.move_on_after(FIND_WITHIN):
            await self._go(search)
        return list(search.found.values())

    async def enlist(self, own: SignedRecord) -> None:
        """Has this node listed at the holders of all its keys. Gets to know those near to itself first: the way to keys near it ends here."""
        await self._go(self._begin(Seek(key=place(self._book.own))))
        told: set[PeerId] = set()
        body = encode(Enlist(record=own))
        for key in keys_to_list(own.record):
            search = self._begin(Seek(key=key))
            await self._go(search)
            for holder in search.holders():
                if holder.record.peer not in told:
                    told.add(holder.record.peer)
                    with contextlib.suppress(Outage), trio.move_on_after(ANSWER_WITHIN):
                        await self._ask(holder.record.peer, body)
            await trio.sleep(KEY_EVERY * self._rng.uniform(0.5, 1.5))

    def _begin(self, seek: Seek) -> Search:
        known = self._book.signed()
        proven = [signed for signed in known if self._book.is_proven(signed.record.peer)]
        strangers = self._rng.sample(proven, min(STRANGERS, len(proven))) if seek.means is not None else []
        return Search(seek, known, strangers, self._good, _now())

    async def _go(self, search: Search) -> None:
        body = encode(search.seek)
        async with trio.open_nursery() as nursery:
            while not search.over:
                ready = trio.Event()
                for signed in search.next():
                    nursery.start_soon(self._one, search, signed, body, ready)
                with trio.move_on_after(1):
                    await ready.wait()

    async def _one(self, search: Search, signed: SignedRecord, body: bytes, ready: trio.Event) -> None:
        peer = signed.record.peer
        try:
            self._book.add(signed)
            with trio.fail_after(ANSWER_WITHIN):
                found = decode(await self._ask(peer, body), Found)
            search.answered(peer, found)
            for one in found.nearer:
                if self._good(one):
                    self.board.know(one)
        except (Outage, Malformed, trio.TooSlowError) as error:
            log.debug("looking around at %s: %s", peer, error)
            search.failed(peer)
        finally:
            ready.set()

    def _good(self, signed: SignedRecord) -> bool:
        record = signed.record
        if (record.chain_id, record.contract) != (self._book.chain_id, self._book.contract):
            return False
        try:
            verify(signed)
        except Malformed:
            return False
        return True


def _now() -> int:
    return time.time_ns() // 1_000_000
