"""Reads the public record of a dispute from an EVM node: its seal, its moves, what came of it.

A move's calldata are those of its transaction, or stand in its log where another contract made it; evm_moves reads them. The move that
decides is in no log: if another contract made it, the record ends before it, and has the outcome. Logs are asked for by the
dispute's number, from the newest block backwards where a node limits ranges, until its seal is found. Transactions are asked for one by
one and kept, so that a player cannot make its opponent's node choke on long ones.
"""

from __future__ import annotations

import asyncio
from typing import Any

from assay import draw
from assay.adapters import evm_abi, evm_moves
from assay.adapters.evm_abi import BadLog
from assay.adapters.evm_reader import RANGE, Reader
from assay.adapters.evm_rpc import RpcError, TooLong, blob
from assay.chain import AnyChainEvent, DisputeMoved, DisputeOpened, DisputePaid, DisputeResolved, DisputeSealed
from assay.dispute.moves import AnyMove, Open
from assay.dispute.record import Played, Record
from assay.ids import Address, Digest, DisputeId
from assay.ports import Outage

KINDS = (DisputeSealed, DisputeOpened, DisputeMoved, DisputeResolved, DisputePaid)
MOST_LOGS = 500
"""Of a dispute. Trees have at most 64 levels and every move of a walk or a range takes at least four, so a game has fewer than 200 moves."""
DIGEST, ASSERTER = 15, 13
"""Places in contracts/src/types/DisputeTypes.sol: Dispute."""
KEPT = 2000
"""Transactions whose moves are remembered."""


class DisputeReader:
    """`disputes`: address of the contract; `reader` reads it, too."""

    def __init__(self, reader: Reader, chain_id: int, disputes: Address) -> None:
        self.reader, self.rpc, self.chain_id, self.disputes = reader, reader.rpc, chain_id, disputes
        self._sealed: dict[DisputeId, int] = {}
        """In which block, once it is known."""
        self._moves: dict[bytes, tuple[DisputeId, AnyMove] | None] = {}
        """By hash of the transaction."""

    async def record(self, dispute: DisputeId) -> Record:
        """Up to the newest block. Raises Outage, or KeyError when there is no such dispute."""
        head = await self.rpc.head()
        logs = await self._logs(dispute, head.number)
        if (await self.rpc.block(head.number)).hash != head.hash:
            raise Outage("the chain was reorganised while it was read")
        self._sealed.pop(dispute, None)  # a reorganisation may have put the seal elsewhere
        if not logs:
            raise KeyError(dispute)
        if len(logs) > MOST_LOGS:
            raise Outage(f"the chain node sent {len(logs)} logs of dispute {dispute}, which no game has")
        events = [found.event for found in await self.reader.decode(logs, 0, head.number)]
        if len(events) != len(logs) or not isinstance(events[0], DisputeSealed) or any(getattr(e, "dispute", None) != dispute for e in events):
            raise Outage(f"the chain node sent logs that are not those of dispute {dispute}")
        sealed = events[0]
        self._sealed[dispute] = sealed.block
        played = await self._played(dispute, events, logs)
        opened = next((event for event in events if isinstance(event, DisputeOpened)), None)
        if opened is None and not any(isinstance(event, DisputeMoved) for event in events):
            asserter, digest = await self._sealed_view(dispute, head.number)
        elif opened and played and isinstance(played[0].move, Open):
            asserter, digest = opened.asserter, draw.dispute(self.chain_id, self.disputes, sealed.segment, sealed.challenger, played[0].move)
        else:
            raise Outage(f"the chain node sent logs of dispute {dispute} that do not begin with its opening")
        last = next((event for event in reversed(events) if isinstance(event, DisputeResolved | DisputePaid)), None)
        return Record(
            dispute=dispute, segment=sealed.segment, challenger=sealed.challenger, asserter=asserter, stake=sealed.bond,
            allowance=sealed.allowance, digest=digest, block=sealed.block, time=sealed.time, moves=played,
            outcome=last.outcome if last else None, paid=isinstance(last, DisputePaid),
        )  # fmt: skip

    async def _sealed_view(self, dispute: DisputeId, block: int) -> tuple[Address, Digest]:
        """(provider, digest) of one that has not been opened. Raises Outage."""
        data = "0x" + evm_abi.encode("disputes", "dispute", dispute).hex()
        answer = await self.rpc.call("eth_call", {"to": self.disputes, "data": data}, hex(block))
        try:
            found = evm_abi.decode_result("disputes", "dispute", blob(answer))
        except BadLog as error:
            raise Outage(f"the chain node sent something else: {error}") from None
        return Address(found[ASSERTER].lower()), Digest(found[DIGEST])

    # ---- logs

    async def _logs(self, dispute: DisputeId, head: int) -> list[dict[str, Any]]:
        """In order, from the seal to block `head`."""
        first = self._sealed.get(dispute, self.reader.first_block)
        topics = [["0x" + evm_abi.topic(kind).hex() for kind in KINDS], f"0x{dispute:064x}"]
        found: list[dict[str, Any]] = []
        stop, step = head, max(head - first + 1, 1)
        while stop >= first:
            start = max(first, stop - step + 1)
            query = {"address": self.disputes, "topics": topics, "fromBlock": hex(start), "toBlock": hex(stop)}
            try:
                logs = await self.rpc.call("eth_getLogs", query)
            except (RpcError, TooLong) as error:
                if start == stop:
                    raise Outage(f"the chain node does not give the logs of block {start}: {error}") from None
                step = min((stop - start + 1) // 2, RANGE)
                continue
            if not isinstance(logs, list) or not all(isinstance(log, dict) and log.get("topics") for log in logs):
                raise Outage(f"the chain node sent {str(logs)[:100]} where logs were expected")
            found = logs + found
            if any(log["topics"][0] == topics[0][0] for log in logs):
                break
            stop = start - 1
        return found

    # ---- moves

    async def _played(self, dispute: DisputeId, events: list[AnyChainEvent], logs: list[dict[str, Any]]) -> tuple[Played, ...]:
        moves = [(event, log) for event, log in zip(events, logs, strict=True) if isinstance(event, DisputeMoved | DisputeResolved)]
        made = await asyncio.gather(*(self._move(dispute, event, log) for event, log in moves), return_exceptions=True)
        played = []
        for (event, _), move in zip(moves, made, strict=True):
            if isinstance(move, BaseException):
                raise move
            if move is not None:
                played.append(Played(move=move, block=event.block, time=event.time))
        return tuple(played)

    async def _move(self, dispute: DisputeId, event: AnyChainEvent, log: dict[str, Any]) -> AnyMove | None:
        """What a log's move was; None for a deciding one that another contract made."""
        try:
            given = evm_moves.decode(data) if isinstance(event, DisputeMoved) and (data := evm_abi.moved_calldata(blob(log["data"]))) else None
            found = given or await self._sent(log)
        except BadLog as error:
            raise Outage(f"the chain node sent {error}") from None
        if found is None and isinstance(event, DisputeResolved):
            return None
        if found is None or found[0] != dispute:
            raise Outage(f"the chain node sent another transaction than that of a move of dispute {dispute} in block {event.block}")
        return found[1]

    async def _sent(self, log: dict[str, Any]) -> tuple[DisputeId, AnyMove] | None:
        """The move in a log's transaction; None if it called somebody else. Raises BadLog."""
        hash = blob(log.get("transactionHash"), 32)
        if hash not in self._moves:
            transaction = await self._transaction(hash)
            ours = str(transaction.get("to")).lower() == self.disputes
            while len(self._moves) >= KEPT:
                del self._moves[next(iter(self._moves))]
            self._moves[hash] = evm_moves.decode(blob(transaction.get("input"))) if ours else None
        return self._moves[hash]

    async def _transaction(self, hash: bytes) -> dict[str, Any]:
        transaction = await self.rpc.call("eth_getTransactionByHash", "0x" + hash.hex())
        if not isinstance(transaction, dict) or transaction.get("hash") != "0x" + hash.hex():
            raise Outage(f"the chain node sent {str(transaction)[:100]} where the transaction 0x{hash.hex()} was expected")
        return transaction
