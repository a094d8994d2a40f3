"""What an audit reads, of a chain in memory."""

from __future__ import annotations

from assay.adapters.memory_chain import MemoryChain
from assay.adapters.memory_stakes import JOBS
from assay.audit.record import Entry, Held, Record, blocks_of, disputes_of, is_of, segments_of
from assay.chain import Credited
from assay.ids import JobId


def read_record(chain: MemoryChain, job: JobId) -> Record:
    """All of the chain up to its head; the calls are those of the job's events only, as a reader of a real chain gets them."""
    ledger = chain.ledger
    events = ledger.events()
    segments = segments_of(events, job)
    entries = [Entry(e, *ledger.origins[e.block, e.index]) if is_of(e, job, segments) else Entry(e) for e in events]
    credited = {event.who: ledger.jobs.credit.get(event.who, 0) for event in events if isinstance(event, Credited)}
    return Record(
        chain_id=chain.chain_id, contract=chain.contract, seat_stake=ledger.stakes.seat_stake, head=ledger.head, entries=tuple(entries),
        hashes={number: ledger.blocks[number].hash for number in blocks_of(events, segments)}, signers=chain,
        held=Held(ledger.balances()[JOBS], credited), disputes_contract=chain.disputes, rules=ledger.disputes._rules,
        disputes={number: ledger.disputes.record(number) for number in disputes_of(events, segments)},
    )  # fmt: skip
