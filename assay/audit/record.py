"""What an audit reads, as an adapter gathers it from a node of the chain (assay.adapters.evm_record, assay.adapters.memory_record)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from assay import chain, draw
from assay.chain import AnyCall, AnyChainEvent, Block, Offer
from assay.dispute.record import Record as Dispute
from assay.dispute.record import Rules
from assay.ids import Address, Digest, DisputeId, JobId, SegmentId


class Entry(NamedTuple):
    """An event, and the transaction that it came from."""

    event: AnyChainEvent
    sender: Address | None = None
    """Who sent the transaction; None when it was not asked for (another job's)."""
    call: AnyCall | None = None
    """What was sent; None as above, and when the contract was called by another one, whose calldata says something else."""
    transaction: str = ""
    """Its hash, `0x…`, where the chain has transactions and it was asked for."""


class Signers(Protocol):
    """Whose signature the contract would take it for; None for nobody's."""

    def offer_signer(self, offer: Offer, signature: bytes) -> Address | None: ...

    def receipt_signer(self, segment: SegmentId, round: int, signature: bytes) -> Address | None: ...

    def seal_signer(self, segment: SegmentId, round: int, digest: Digest, signature: bytes) -> Address | None: ...


class Held(NamedTuple):
    """What the contract itself says at the end of the last block that was read."""

    tokens: int
    """Of the Jobs contract."""
    credit: Mapping[Address, int]
    """What `withdraw` would pay to each account that was ever credited."""


class Record(NamedTuple):
    """`entries` are all events of Jobs and Stakes up to `head`, in order, those of the audited job with their calls."""

    chain_id: int
    contract: Address
    seat_stake: int
    head: Block
    entries: tuple[Entry, ...]
    hashes: Mapping[int, Digest]
    """Of the blocks that `blocks_of` names."""
    signers: Signers
    wallets: frozenset[Address] = frozenset()
    """Accounts that are contracts: their signatures are theirs to judge (ERC-1271)."""
    held: Held | None = None
    """None where the node no longer knows the state of that block."""
    disputes_contract: Address = Address("")
    """Empty where the network has none."""
    rules: Rules | None = None
    disputes: Mapping[DisputeId, Dispute] = {}
    """The moves of the disputes over the job."""


def segments_of(events: Iterable[AnyChainEvent], job: JobId) -> frozenset[SegmentId]:
    """The numbers of a job's segments."""
    return frozenset(event.segment for event in events if isinstance(event, chain.Assigned) and event.job == job)


def disputes_of(events: Iterable[AnyChainEvent], segments: frozenset[SegmentId]) -> tuple[DisputeId, ...]:
    """The disputes over some segments."""
    return tuple(event.dispute for event in events if isinstance(event, chain.DisputeSealed) and event.segment in segments)


def is_of(event: AnyChainEvent, job: JobId, segments: frozenset[SegmentId]) -> bool:
    """Whether an event is about a job or one of its segments."""
    return getattr(event, "job", None) == job or getattr(event, "segment", None) in segments


def blocks_of(events: Iterable[AnyChainEvent], segments: frozenset[SegmentId]) -> frozenset[int]:
    """Numbers of the blocks whose hashes fixed what was drawn for these segments: seeds and openings."""
    found: set[int] = set()
    due: dict[SegmentId, int] = {}
    opening: dict[SegmentId, int] = {}
    for event in events:
        segment = getattr(event, "segment", None)
        if segment not in segments:
            continue
        match event:
            case chain.Committed() | chain.Redrawn():
                due[event.segment] = event.seed_block
                opening.pop(event.segment, None)
            case chain.Drawn() | chain.Unpaid() | chain.Withheld() if event.segment in due and event.block > due[event.segment]:
                found.add(draw.seed_block(due[event.segment], event.block))
            case chain.RevealsDue() | chain.OpeningsDue():
                opening[event.segment] = event.opening_block
            case chain.Opened() if event.segment in opening and event.block > opening[event.segment]:
                found.add(draw.seed_block(opening[event.segment], event.block))
            case _:
                pass
    return frozenset(found)
