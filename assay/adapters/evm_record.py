"""What an audit reads, of an EVM chain: events, the transactions behind those of one job, block hashes, and what the contract holds.

All of it is what the node says: an audit is as good as the node that it asks. A node of one's own is the one to trust.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from assay.adapters import evm_abi
from assay.adapters.evm import EvmReader
from assay.adapters.evm_reader import Found
from assay.adapters.evm_rpc import Refused, RpcError, blob, block_of
from assay.audit.record import Entry, Held, Record, blocks_of, disputes_of, is_of, segments_of
from assay.chain import Assigned, Block, Credited, Drawn
from assay.ids import Address, Digest, JobId
from assay.ports import Outage


async def read_record(reader: EvmReader, job: JobId, depth: int = 1) -> Record:
    """Everything up to `depth` blocks under the head. Raises Outage, or Reorganised."""
    head = await reader.rpc.block(max(0, (await reader.head()).number - depth))
    found = [one for one in await reader.reader.found((-1, -1), depth) if one.event.block <= head.number]
    events = [one.event for one in found]
    segments = segments_of(events, job)
    calls = await _calls(reader, [one for one in found if is_of(one.event, job, segments)])
    parties = {event.provider for event in events if isinstance(event, Assigned) and event.job == job}
    parties |= {who for event in events if isinstance(event, Drawn) and event.segment in segments for who in event.verifiers}
    return Record(
        chain_id=reader.chain_id, contract=reader.contract, seat_stake=await reader.read("stakes", "seatStake"), head=head,
        entries=tuple(_entry(one, calls) for one in found),
        hashes=await _hashes(reader, blocks_of(events, segments)), signers=reader,
        wallets=await _wallets(reader, parties), held=await _held(reader, {e.who for e in events if isinstance(e, Credited)}, head),
        disputes_contract=reader.disputes, rules=await reader.dispute_rules() if reader.disputes else None,
        disputes={number: await reader.dispute(number) for number in disputes_of(events, segments)},
    )  # fmt: skip


def _entry(one: Found, calls: Mapping[Digest, tuple[Address, Any]]) -> Entry:
    return Entry(one.event, *calls[one.transaction], "0x" + one.transaction.hex()) if one.transaction in calls else Entry(one.event)


async def _calls(reader: EvmReader, found: list[Found]) -> dict[Digest, tuple[Address, Any]]:
    """(sender, call) by transaction; no call where the transaction went to another contract than ours."""
    names = {reader.contracts[name]: name for name in ("jobs", "stakes", "takeovers") if name in reader.contracts}
    wanted = list(dict.fromkeys(one.transaction for one in found))
    answers = await reader.rpc.batch([("eth_getTransactionByHash", ["0x" + hash.hex()]) for hash in wanted])
    out: dict[Digest, tuple[Address, Any]] = {}
    for hash, answer in zip(wanted, answers, strict=True):
        if not isinstance(answer, dict):
            raise Outage(f"the chain node does not give transaction 0x{hash.hex()}: {str(answer)[:200]}")
        sender, to = (Address(str(answer.get(side)).lower()) for side in ("from", "to"))
        out[hash] = (sender, evm_abi.decode_call(names[to], blob(answer.get("input"))) if to in names else None)
    return out


async def _hashes(reader: EvmReader, numbers: Iterable[int]) -> dict[int, Digest]:
    wanted = sorted(numbers)
    answers = await reader.rpc.batch([("eth_getBlockByNumber", [hex(number), False]) for number in wanted])
    return {number: block_of(answer).hash for number, answer in zip(wanted, answers, strict=True) if isinstance(answer, dict)}


async def _wallets(reader: EvmReader, accounts: Iterable[Address]) -> frozenset[Address]:
    """Those that have code."""
    wanted = sorted(accounts)
    answers = await reader.rpc.batch([("eth_getCode", [who, "latest"]) for who in wanted])
    return frozenset(who for who, code in zip(wanted, answers, strict=True) if not isinstance(code, Exception) and blob(code))


async def _held(reader: EvmReader, credited: Iterable[Address], head: Block) -> Held | None:
    """Balances at the end of a block: None where the node has forgotten that state."""
    accounts = sorted(credited)
    views = [("token", "balanceOf", reader.contract), *(("jobs", "credit", who) for who in accounts)]
    requests: list[tuple[str, list[object]]] = []
    for contract, function, who in views:
        data = "0x" + evm_abi.encode(contract, function, who).hex()
        requests.append(("eth_call", [{"to": reader.contracts[contract], "data": data}, hex(head.number)]))
    answers = await reader.rpc.batch(requests)
    if any(isinstance(answer, RpcError | Refused) for answer in answers):
        return None
    try:
        tokens, *credit = (evm_abi.decode_result(view[0], view[1], blob(answer)) for view, answer in zip(views, answers, strict=True))
    except evm_abi.BadLog as error:
        raise Outage(f"the chain node sent something else: {error}") from None
    return Held(tokens, dict(zip(accounts, credit, strict=True)))
