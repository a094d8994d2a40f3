"""Reads the contracts' events from an EVM node, in order, each once, only from blocks that are deep enough.

The reader asks for logs in bounded ranges (nodes limit them; a range that is refused, or whose answer is too long, is halved) and only
up to `depth` under the head, so a shallow reorganisation is never seen. It remembers how far it has read, and the hashes of the blocks
whose events it has handed out, also over restarts when it is given a `Memory`. A block that was read and then replaced is read again if
nothing was in it; if something was, Reorganised is raised instead of mixing two histories. What a log says is decoded strictly
(evm_abi); a log that our contracts cannot have written is the node's fault and an Outage.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from assay.adapters.evm_abi import BadLog, decode_log
from assay.adapters.evm_rpc import Rpc, TooLong, blob, block_of, number
from assay.chain import AnyChainEvent, Block
from assay.ids import Address, Digest
from assay.ports import Outage, Reorganised

RANGE = 2000
"""Blocks in one eth_getLogs; what the strictest public nodes allow."""


class Memory(Protocol):
    """Keeps hashes of blocks whose events were handed out."""

    def note_delivered(self, hashes: dict[int, Digest]) -> None: ...

    def delivered(self, number: int) -> Digest | None: ...


class Forgetful:
    """A memory that ends with the process."""

    def __init__(self) -> None:
        self._hashes: dict[int, Digest] = {}

    def note_delivered(self, hashes: dict[int, Digest]) -> None:
        self._hashes = hashes or self._hashes

    def delivered(self, number: int) -> Digest | None:
        return self._hashes.get(number)


class Found(NamedTuple):
    """An event, with the hashes of its block and of its transaction."""

    event: AnyChainEvent
    block: Digest
    transaction: Digest


class TooMuch(Exception):
    """The node refused a range."""


class Replaced(Exception):
    """The block before a range is another one now."""


class Reader:
    """`contracts`: address -> name as in evm_abi.FILES. `first_block`: where the contracts were deployed, or before."""

    def __init__(self, rpc: Rpc, contracts: dict[Address, str], first_block: int = 0, memory: Memory | None = None) -> None:
        self.rpc, self.contracts, self.first_block = rpc, contracts, first_block
        self.memory = memory or Forgetful()
        self._read: Block | None = None
        """Deepest block that has been read to its end."""
        self._cursor: tuple[int, int] | None = None
        """What the caller's cursor is when it has taken all that was read."""
        self._times: dict[int, int] = {}
        """Block times, for nodes whose logs do not carry them."""

    async def events(self, after: tuple[int, int], depth: int) -> list[AnyChainEvent]:
        """Events after (block, index) and at least `depth` blocks under the head. Raises Outage or Reorganised."""
        return [found.event for found in await self.found(after, depth)]

    async def found(self, after: tuple[int, int], depth: int) -> list[Found]:
        """`events`, and where they are found."""
        last = (await self.rpc.head()).number - depth
        known = self._read if self._cursor == after else None
        if known is None:
            await self._check(after)
        first = max(after[0], self.first_block, 0)
        start = first if known is None else known.number + 1
        out: list[Found] = []
        hashes: dict[int, Digest] = {}
        step = RANGE
        while start <= last:
            stop = min(start + step - 1, last)
            try:
                logs, end = await self._range(start, stop, known)
            except TooMuch as error:
                if start == stop:
                    raise Outage(f"the chain node does not give the logs of block {start}: {error}") from None
                step = (stop - start + 1) // 2
                continue
            except Replaced:
                await self._check(after)
                known, start, out, hashes = None, first, [], {}  # what was replaced had nothing for us; what replaced it may have
                continue
            for found in await self.decode(logs, start, stop):
                if (found.event.block, found.event.index) > after:
                    out.append(found)
                    hashes[found.event.block] = found.block
            known, start = end, stop + 1
        self.memory.note_delivered(hashes)
        self._read, self._cursor = known, ((out[-1].event.block, out[-1].event.index) if out else after)
        return out

    async def _check(self, after: tuple[int, int]) -> None:
        """Raises Reorganised when the block of the last event that was handed out has been replaced."""
        told = self.memory.delivered(after[0])
        if told is not None and (await self.rpc.block(after[0])).hash != told:
            raise Reorganised(f"block {after[0]} was replaced after its events were delivered: use a greater confirmation depth")

    async def _range(self, start: int, stop: int, known: Block | None) -> tuple[list[dict[str, Any]], Block]:
        """Logs of [start, stop] and the block `stop`, in one round trip, from one history: that of `known`, the block before."""
        header: tuple[str, list[object]] = ("eth_getBlockByNumber", [hex(stop), False])
        query = {"address": list(self.contracts), "fromBlock": hex(start), "toBlock": hex(stop)}
        requests: list[tuple[str, list[object]]] = [header, ("eth_getLogs", [query]), header]
        if known is not None:
            requests.append(("eth_getBlockByNumber", [hex(known.number), False]))
        try:
            before, logs, after, *parent = await self.rpc.batch(requests)
        except TooLong as error:
            raise TooMuch(str(error)) from None
        if isinstance(logs, Exception):
            raise TooMuch(str(logs))
        if not isinstance(logs, list) or not all(isinstance(log, dict) for log in logs):
            raise Outage(f"the chain node sent {str(logs)[:100]} where logs were expected")
        end = block_of(before)
        if block_of(after).hash != end.hash:
            raise Outage("the chain was reorganised while it was read")
        if known is not None and block_of(parent[0]).hash != known.hash:
            raise Replaced
        return logs, end

    async def decode(self, logs: list[dict[str, Any]], start: int, stop: int) -> list[Found]:
        """The logs of blocks [start, stop] that are in the vocabulary. Raises Outage."""
        out = []
        for log in logs:
            block = number(log.get("blockNumber"))
            contract = self.contracts.get(Address(str(log.get("address")).lower()))
            topics = log.get("topics")
            if log.get("removed") or not start <= block <= stop or contract is None or not isinstance(topics, list):
                raise Outage(f"the chain node sent a log that was not asked for: {str(log)[:200]}")
            try:
                events = decode_log(
                    contract,
                    [blob(topic, 32) for topic in topics],
                    blob(log.get("data")),
                    block,
                    await self._time(log, block),
                    number(log.get("logIndex")),
                )
            except BadLog as error:
                raise Outage(f"the chain node sent {error}") from None
            if events:
                place = Digest(blob(log.get("blockHash"), 32)), Digest(blob(log.get("transactionHash"), 32))
                out += [Found(event, *place) for event in events]
        return out

    async def _time(self, log: dict[str, Any], block: int) -> int:
        if "blockTimestamp" in log:
            return number(log["blockTimestamp"])
        if block not in self._times:
            if len(self._times) > 10_000:
                self._times.clear()
            self._times[block] = (await self.rpc.block(block)).time
        return self._times[block]
