"""The audit's reading of the chain: a record in which everything has happened holds, and with any one fact changed it does not.

Each forgery changes one thing that the chain would have to be wrong about. tests/test_audit_disputes.py looks whether every place in the
code that can say "this is false" has said it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from audit_story import Story, story

from assay import chain
from assay.audit.auditor import Auditor, NoSuchJob
from assay.audit.findings import Report
from assay.audit.record import Entry, Record
from assay.ids import Address, Cid, Digest, DisputeId, JobId, SegmentId
from assay.merkle import sha256

NOBODY = Address("0x" + "99" * 20)
EVENTS = {name: kind for name, kind in vars(chain).items() if isinstance(kind, type) and issubclass(kind, chain.ChainEvent)}
LAPSED, KEYED, IDLE, SETTLED, SILENT, KEYLESS, POOR, LIE, CHILD, THEIRS, LATE, DENIED = range(1, 13)
"""Segments of the story."""
WRONG = sha256(b"wrong")


@pytest.fixture(scope="module")
def told() -> Story:
    return story()


def find(record: Record, kind: type[Any], segment: int = 0, nth: int = 0) -> int:
    """Where the `nth` event of a kind (of a segment) stands."""
    return [i for i, e in enumerate(record.entries) if type(e.event) is kind and segment in (0, getattr(e.event, "segment", 0))][nth]


def put(record: Record, at: int, *entries: Entry) -> Record:
    """The record with entry `at` replaced."""
    return record._replace(entries=(*record.entries[:at], *entries, *record.entries[at + 1 :]))


Forge = Callable[[Record], Record]


def say(kind: type[Any], segment: int = 0, /, nth: int = 0, **fields: Any) -> Forge:
    """An event says something else."""

    def forge(record: Record) -> Record:
        at = find(record, kind, segment, nth)
        changes = {name: value(getattr(record.entries[at].event, name)) if callable(value) else value for name, value in fields.items()}
        return put(record, at, record.entries[at]._replace(event=msgspec.structs.replace(record.entries[at].event, **changes)))

    return forge


def send(kind: type[Any], segment: int = 0, /, nth: int = 0, sender: Address | None = None, **fields: Any) -> Forge:
    """The transaction behind an event was another one."""

    def forge(record: Record) -> Record:
        at = find(record, kind, segment, nth)
        entry = record.entries[at]
        changes = {name: value(getattr(entry.call, name)) if callable(value) else value for name, value in fields.items()}
        call = msgspec.structs.replace(entry.call, **changes) if changes else entry.call  # type: ignore[type-var]
        return put(record, at, entry._replace(call=call, sender=sender or entry.sender))

    return forge


def through_another(kind: type[Any], segment: int) -> Forge:
    """The contract was called by a contract."""

    def forge(record: Record) -> Record:
        at = find(record, kind, segment)
        return put(record, at, record.entries[at]._replace(call=None, sender=NOBODY))

    return forge


def among_others(kind: type[Any], segment: int) -> Forge:
    """Two calls of the same kind came in one transaction: which of them did it cannot be told."""

    def forge(record: Record) -> Record:
        at = find(record, kind, segment)
        entry = record.entries[at]
        assert entry.call is not None
        return put(record, at, entry._replace(call=C.Batch(calls=(entry.call, entry.call))))

    return forge


def drop(kind: type[Any], segment: int = 0, nth: int = 0) -> Forge:
    return lambda record: put(record, find(record, kind, segment, nth))


def twice(kind: type[Any], segment: int = 0, /, nth: int = 0, **fields: Any) -> Forge:
    """It is told once more, right after."""

    def forge(record: Record) -> Record:
        at = find(record, kind, segment, nth)
        entry = record.entries[at]
        again = msgspec.structs.replace(entry.event, index=entry.event.index, **fields)
        return put(record, at, entry, entry._replace(event=again))

    return forge


def before(kind: type[Any], segment: int, other: type[Any], there: int, /, nth: int = 0, **fields: Any) -> Forge:
    """A copy of an event stands right before another one, at whose time it happens."""

    def forge(record: Record) -> Record:
        entry, at = record.entries[find(record, kind, segment)], find(record, other, there, nth)
        where = record.entries[at].event
        moved = msgspec.structs.replace(entry.event, block=where.block, time=where.time, index=where.index, **fields)
        return put(record, at, entry._replace(event=moved), record.entries[at])

    return forge


def both(*forges: Forge) -> Forge:
    def forge(record: Record) -> Record:
        for one in forges:
            record = one(record)
        return record

    return forge


def terms(*, nth: int = 1, **changes: Any) -> Forge:
    """The audited job, the second, was posted with other terms than the contract went by."""

    def forge(record: Record) -> Record:
        at = find(record, chain.JobPosted, nth=nth)
        event: Any = record.entries[at].event
        params = msgspec.structs.replace(event.terms.params, **changes.get("params", {}))
        other = msgspec.structs.replace(event.terms, **{**changes, "params": params})
        return put(record, at, record.entries[at]._replace(event=msgspec.structs.replace(event, terms=other)))

    return forge


def hashes(record: Record) -> Record:
    return record._replace(hashes=dict.fromkeys(record.hashes, WRONG))


def unsigned(items: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(msgspec.structs.replace(item, signature=bytes(65)) for item in items)


def owed(change: int) -> Forge:
    """The contract holds other money than its books say."""

    def forge(record: Record) -> Record:
        assert record.held is not None
        credit = {who: amount + change for who, amount in record.held.credit.items()}
        return record._replace(held=record.held._replace(tokens=record.held.tokens - change, credit=credit))

    return forge


def wallets(record: Record) -> Record:
    """The provider of a segment is a contract, whose signature says nothing to others."""
    forged = send(chain.Assigned, SETTLED, signature=b"contract's own")(record)
    event: Any = record.entries[find(record, chain.Assigned, SETTLED)].event
    return forged._replace(wallets=frozenset({event.provider}))


def rejected(record: Record, after: type[Any]) -> Record:
    """The record ends with an event of the last segment, after which it is rejected."""
    at = find(record, after, LATE)
    where = record.entries[at].event
    fall = chain.Rejected(block=where.block, time=where.time, index=where.index + 1, segment=SegmentId(LATE))
    return record._replace(entries=(*record.entries[: at + 1], Entry(fall)), held=None)


def inserted(record: Record, kind: type[Any], **fields: Any) -> Record:
    """Something else happens before the job is closed."""
    at = find(record, chain.JobClosed)
    where = record.entries[at].event
    return put(record, at, Entry(kind(block=where.block, time=where.time, index=where.index - 1, **fields)), record.entries[at])


def moved(seconds: int) -> Callable[[int], int]:
    return lambda at: at + seconds


def flipped(digests: tuple[Digest, ...]) -> tuple[Digest, ...]:
    return (WRONG, *digests[1:])


def no_leaf(reveals: tuple[chain.Reveal, ...]) -> tuple[chain.Reveal, ...]:
    return tuple(msgspec.structs.replace(reveal, openings=()) for reveal in reveals)


def other_leaf(reveals: tuple[chain.Reveal, ...]) -> tuple[chain.Reveal, ...]:
    wrong = (tuple(msgspec.structs.replace(opening, leaf=WRONG) for opening in reveal.openings) for reveal in reveals)
    return tuple(msgspec.structs.replace(reveal, openings=openings) for reveal, openings in zip(reveals, wrong, strict=True))


JOB = 0
"""Stands for the job's own sheet."""
C = chain
FORGERIES: dict[str, tuple[Forge, int, str]] = {
    # ---- the record
    "events out of order": (say(C.Activated, SETTLED, index=-1, block=0), JOB, "record"),
    "an assignment of no job": (say(C.Assigned, LATE, job=JobId(9)), JOB, "record"),
    "money for no job": (say(C.JobFunded, job=JobId(9)), JOB, "record"),
    "a charge for no segment": (say(C.FeeCharged, KEYED, segment=SegmentId(99)), JOB, "record"),
    "a slash of no segment": (lambda r: inserted(r, C.Slashed, segment=SegmentId(99), who=NOBODY, amount=1, burnt=0), JOB, "record"),
    "a move of no dispute": (lambda r: inserted(r, C.DisputeCredited, dispute=DisputeId(9), who=NOBODY, amount=1), JOB, "record"),
    "a slash without a dispute": (lambda r: inserted(r, C.Slashed, segment=SegmentId(LATE), who=NOBODY, amount=1, burnt=0), LATE, "money"),
    "a step of no segment": (say(C.Activated, SETTLED, segment=SegmentId(99)), JOB, "record"),
    # ---- range
    "a number left out": (say(C.Assigned, DENIED, segment=SegmentId(13)), 13, "range"),
    "a parent that never was": (say(C.Assigned, SETTLED, parent=SegmentId(77)), SETTLED, "range"),
    "a parent of another job": (say(C.Assigned, LATE, parent=SegmentId(THEIRS)), LATE, "range"),
    "a parent that was not committed": (say(C.Assigned, IDLE, parent=SegmentId(KEYED)), IDLE, "range"),
    "a parent that had lapsed, not yet": (both(drop(C.Committed, LIE)), CHILD, "range"),
    "other steps": (say(C.Assigned, SETTLED, stop=3), SETTLED, "range"),
    "too deep": (terms(params={"depth": 1}), CHILD, "range"),
    "a range that was taken": (drop(C.Lapsed, IDLE), SETTLED, "range"),
    "a job that was over": (before(C.JobCancelled, 0, C.Assigned, LATE), LATE, "range"),
    "past the deadline": (terms(deadline=1), SETTLED, "times"),
    "assigned by a stranger": (send(C.Assigned, SETTLED, sender=NOBODY), SETTLED, "range"),
    "another time to start": (say(C.Assigned, SETTLED, activate_by=moved(1)), SETTLED, "times"),
    # ---- offer
    "a price over the cap": (terms(price_cap=1), SETTLED, "offer"),
    "a provider that had not registered": (drop(C.Registered, nth=0), SETTLED, "offer"),
    "another price than was offered": (say(C.Assigned, SETTLED, price=moved(1)), SETTLED, "offer"),
    "an offer that had expired": (send(C.Assigned, SETTLED, offer=lambda o: msgspec.structs.replace(o, expires=1)), SETTLED, "offer"),
    "a nonce used twice": (
        lambda r: send(C.Assigned, KEYED, offer=lambda o: msgspec.structs.replace(o, nonce=_nonce(r)))(r), KEYED, "offer"),
    "an offer that nobody signed": (send(C.Assigned, SETTLED, signature=bytes(65)), SETTLED, "offer"),
    "an offer without a signature, sent by another": (send(C.Assigned, SETTLED, signature=b""), SETTLED, "offer"),
    "a bond that was not there": (terms(params={"bond_tenths": 1000_000}), SETTLED, "money"),
    "an escrow that does not cover it": (terms(budget=1), SETTLED, "money"),
    # ---- lease, commitment
    "started twice": (twice(C.Activated, SETTLED), SETTLED, "verdict"),
    "started by another": (send(C.Activated, SETTLED, sender=NOBODY), SETTLED, "root"),
    "started too late": (say(C.Activated, SETTLED, time=moved(10_000)), SETTLED, "times"),
    "another lease": (say(C.Activated, SETTLED, lease_until=moved(1)), SETTLED, "times"),
    "lapsed too early": (say(C.Lapsed, IDLE, time=moved(-50)), IDLE, "times"),
    "lapsed when it was committed": (before(C.Lapsed, IDLE, C.Drawn, LATE, segment=SegmentId(LATE)), LATE, "verdict"),
    "a late fee off by one": (say(C.Lapsed, KEYED, fee=moved(1)), KEYED, "money"),
    "a late fee that was not charged": (drop(C.FeeCharged, KEYED), KEYED, "money"),
    "a late fee without keys": (drop(C.KeyReleased, KEYED), KEYED, "money"),
    "committed when it was not active": (drop(C.Activated, SETTLED), SETTLED, "verdict"),
    "committed by another": (send(C.Committed, SETTLED, sender=NOBODY), SETTLED, "root"),
    "committed too late": (say(C.Committed, SETTLED, time=moved(10_000)), SETTLED, "times"),
    "committed on what had failed": (before(C.Withheld, LIE, C.Committed, CHILD), CHILD, "root"),
    "committed beyond its range": (both(say(C.Committed, SETTLED, stop=3), send(C.Committed, SETTLED, stop=3)), SETTLED, "root"),
    "a link root that does not chain": (say(C.Committed, SETTLED, link_root=WRONG), SETTLED, "root"),
    "an end that is not the last link's": (
        both(say(C.Committed, SETTLED, end_root=WRONG), send(C.Committed, SETTLED, end_root=WRONG)), SETTLED, "root"),
    "another commitment": (say(C.Committed, SETTLED, commitment=WRONG), SETTLED, "root"),
    "a parent's commitment that is another": (say(C.Committed, SETTLED, commitment=WRONG), LATE, "root"),
    "a checkpoint that is no CID": (say(C.Committed, SETTLED, checkpoint=Cid("nowhere")), SETTLED, "root"),
    "another program": (terms(program_root=WRONG), SETTLED, "root"),
    "another document": (terms(spec_digest=WRONG), SETTLED, "root"),
    "another seed block": (say(C.Committed, SETTLED, seed_block=moved(1)), SETTLED, "draw"),
    # ---- draw
    "drawn when it was not committed": (drop(C.Committed, LATE), LATE, "verdict"),
    "another round": (say(C.Drawn, SETTLED, round=1), SETTLED, "draw"),
    "another seed": (say(C.Drawn, SETTLED, seed=WRONG), SETTLED, "draw"),
    "another block's hash": (hashes, SETTLED, "draw"),
    "other links": (say(C.Drawn, SETTLED, units=lambda u: (u[0] ^ 1, *u[1:])), SETTLED, "draw"),
    "another verifier": (say(C.Drawn, SETTLED, verifiers=lambda v: (v[1], v[0], *v[2:])), SETTLED, "draw"),
    "a friend in a verifier's place": (say(C.Drawn, SETTLED, verifiers=lambda v: (NOBODY, *v[1:])), SETTLED, "draw"),
    "a seat that was not there": (drop(C.SeatTaken, nth=0), SETTLED, "draw"),
    "a seat that was left": (drop(C.SeatLeft), SETTLED, "draw"),
    "a stake that was not there": (drop(C.Deposited, nth=3), SETTLED, "draw"),
    "too few drawn": (say(C.Drawn, SETTLED, verifiers=lambda v: v[:1]), SETTLED, "draw"),
    "drawn before its seed": (say(C.Drawn, SETTLED, block=lambda b: b - 2), SETTLED, "draw"),
    "another time to serve": (say(C.Drawn, SETTLED, serve_by=moved(1)), SETTLED, "times"),
    "drawn again when it was decided": (terms(params={"quorum": 1}), SETTLED, "verdict"),
    "drawn again for another reason": (say(C.Redrawn, SILENT, reason="keys withheld"), SILENT, "verdict"),
    "drawn again too early": (say(C.Redrawn, SILENT, time=moved(-50)), SILENT, "times"),
    "drawn again once more than the terms allow": (terms(params={"redraws": 0}), SILENT, "verdict"),
    "a round left out": (say(C.Redrawn, SILENT, round=2), SILENT, "verdict"),
    "drawn again when nothing was drawn": (drop(C.Drawn, SILENT), SILENT, "verdict"),
    # ---- served
    "served when nothing was drawn": (drop(C.Drawn, LATE), LATE, "verdict"),
    "served too late": (say(C.Served, LATE, time=moved(10_000)), LATE, "times"),
    "another time to seal": (say(C.Served, LATE, seal_by=moved(1)), LATE, "times"),
    "a receipt of one who was not drawn": (send(C.Served, LATE, verifiers=lambda v: (NOBODY, *v[1:])), LATE, "served"),
    "a receipt that nobody signed": (send(C.Served, LATE, signatures=lambda s: (bytes(65), *s[1:])), LATE, "served"),
    "too few receipts": (send(C.Served, LATE, verifiers=lambda v: v[:1], signatures=lambda s: s[:1]), LATE, "served"),
    # ---- a chunk that is asked for
    "not served, and nothing was asked for": (drop(C.ChunkAsked, SILENT), SILENT, "verdict"),
    "asked for when nothing was drawn": (drop(C.Drawn, DENIED, nth=1), DENIED, "verdict"),
    "asked for too early": (say(C.ChunkAsked, DENIED, time=moved(-50)), DENIED, "times"),
    "asked for in another round": (say(C.ChunkAsked, DENIED, round=0), DENIED, "served"),
    "asked for without keys": (both(*[drop(C.KeyReleased, DENIED, nth=4)] * 3), DENIED, "served"),
    "asked for twice": (twice(C.ChunkAsked, DENIED), DENIED, "served"),
    "asked for by another block": (say(C.ChunkAsked, DENIED, at_block=moved(1)), DENIED, "served"),
    "another time to show it": (say(C.ChunkAsked, DENIED, show_by=moved(1)), DENIED, "times"),
    "shown when nothing was drawn": (before(C.ChunkShown, DENIED, C.Drawn, DENIED, nth=1), DENIED, "verdict"),
    "shown and not asked for": (drop(C.ChunkAsked, DENIED), DENIED, "served"),
    "shown too late": (say(C.ChunkShown, DENIED, time=moved(10_000)), DENIED, "times"),
    "another chunk than was asked for": (hashes, DENIED, "served"),
    "something else than was committed": (
        send(C.ChunkShown, DENIED, proof=lambda p: msgspec.structs.replace(p, chunk=bytes(1024), count=7)), DENIED, "served"),
    "told another chunk than was shown": (say(C.ChunkShown, DENIED, entry=moved(1)), DENIED, "served"),
    # ---- votes
    "sealed when it was not served": (drop(C.Served, LATE), LATE, "verdict"),
    "sealed too late": (say(C.Sealed, LATE, time=moved(10_000)), LATE, "times"),
    "a seal of one who was not drawn": (say(C.Sealed, LATE, verifier=NOBODY), LATE, "votes"),
    "sealed twice": (twice(C.Sealed, LATE), LATE, "votes"),
    "a seal that nobody signed": (send(C.Sealed, LATE, nth=1, seals=unsigned), LATE, "votes"),
    "a seal that was not sent": (send(C.Sealed, LATE, seals=()), LATE, "votes"),
    "reveals before all had sealed": (drop(C.Sealed, SETTLED), SETTLED, "times"),
    "another time to reveal": (say(C.RevealsDue, SETTLED, reveal_by=moved(1)), SETTLED, "times"),
    "revealed too early": (drop(C.RevealsDue, SETTLED), SETTLED, "times"),
    "revealed too late": (say(C.Revealed, LATE, time=moved(10_000)), LATE, "times"),
    "revealed in another state": (drop(C.Served, LATE), LATE, "verdict"),
    "revealed and not sealed": (drop(C.Sealed, LATE), LATE, "votes"),
    "revealed twice": (twice(C.Revealed, LATE), LATE, "votes"),
    "too few trace roots": (say(C.Revealed, LATE, trace_roots=lambda t: t[:1]), LATE, "votes"),
    "another trace root": (say(C.Revealed, LATE, trace_roots=flipped), LATE, "votes"),
    "another vote": (say(C.Revealed, LATE, agrees=False), LATE, "votes"),
    "a reveal that was not sent": (send(C.Revealed, LATE, reveals=()), LATE, "votes"),
    "another seal than what was revealed": (
        send(C.Sealed, LATE, seals=lambda s: tuple(msgspec.structs.replace(seal, digest=WRONG) for seal in s)), LATE, "votes"),
    # ---- openings
    "openings in another state": (drop(C.Served, LATE), LATE, "verdict"),
    "openings before all had revealed": (drop(C.Revealed, SETTLED), SETTLED, "times"),
    "openings before all could seal": (both(drop(C.RevealsDue, SETTLED), say(C.OpeningsDue, SETTLED, time=moved(-50))), SETTLED, "times"),
    "another opening block": (say(C.OpeningsDue, SETTLED, opening_block=moved(1)), SETTLED, "opened"),
    "another time to open": (say(C.OpeningsDue, SETTLED, open_by=moved(1)), SETTLED, "times"),
    "opened in another state": (drop(C.Served, LATE), LATE, "verdict"),
    "opened too late": (say(C.Opened, LATE, time=moved(10_000)), LATE, "times"),
    "opened before it was due": (drop(C.OpeningsDue, LATE), LATE, "opened"),
    "opened and not revealed": (drop(C.Revealed, LATE), LATE, "opened"),
    "opened twice": (twice(C.Opened, LATE), LATE, "opened"),
    "opened before its block": (say(C.Opened, LATE, block=lambda b: b - 2), LATE, "opened"),
    "too few leaves": (send(C.Opened, LATE, reveals=no_leaf), LATE, "opened"),
    "another leaf": (send(C.Opened, LATE, reveals=other_leaf), LATE, "opened"),
    "a trace that does not end where it was committed": (
        say(C.Committed, LATE, end_root=WRONG), LATE, "opened"),
    # ---- decision
    "a no-show in another state": (drop(C.Served, LATE), LATE, "verdict"),
    "a no-show who opened": (drop(C.Opened, LATE), LATE, "verdict"),
    "a no-show who was not drawn": (say(C.NoShow, LATE, verifier=NOBODY), LATE, "verdict"),
    "a no-show that nobody tells": (drop(C.NoShow, LATE), LATE, "verdict"),
    "a no-show's fee off by one": (say(C.NoShow, LATE, fee=moved(1)), LATE, "money"),
    "a no-show's fee that was not charged": (drop(C.FeeCharged, LATE), LATE, "money"),
    "decided before all had revealed": (both(drop(C.OpeningsDue, LATE), drop(C.Revealed, LATE)), LATE, "times"),
    "decided before all could seal": (both(drop(C.OpeningsDue, LATE), say(C.Attested, LATE, time=moved(-110))), LATE, "times"),
    "decided before all could open": (both(drop(C.Opened, LATE), say(C.Attested, LATE, time=moved(-110))), LATE, "times"),
    "attested in another state": (twice(C.Attested, LATE), LATE, "verdict"),
    "attested without a quorum": (terms(params={"quorum": 3}), SETTLED, "verdict"),
    "another challenge window": (say(C.Attested, LATE, settle_after=moved(-1)), LATE, "times"),
    "withheld without a quorum": (terms(params={"quorum": 3}), LIE, "verdict"),
    "withheld in another state": (twice(C.Withheld, LIE), LIE, "verdict"),
    "other votes than were cast": (say(C.Withheld, LIE, no=moved(1)), LIE, "verdict"),
    "unpaid for another reason": (say(C.Unpaid, SILENT, reason="keys withheld"), SILENT, "verdict"),
    "unpaid in another state": (twice(C.Unpaid, SILENT), SILENT, "verdict"),
    "unpaid, and one had said no": (
        before(C.Unpaid, KEYLESS, C.Drawn, SETTLED, nth=1, segment=SegmentId(SETTLED)), SETTLED, "verdict"),
    "unpaid, and there were enough": (drop(C.Unbonding, nth=0), POOR, "verdict"),
    "too few, too early": (say(C.Unpaid, POOR, time=moved(-60)), POOR, "times"),
    "void, and its parent is not": (drop(C.Withheld, LIE), CHILD, "verdict"),
    "void when it was over": (twice(C.Voided, CHILD), CHILD, "verdict"),
    "settled in another state": (drop(C.Attested, LATE), LATE, "verdict"),
    "settled too early": (say(C.Settled, LATE, time=moved(-60)), LATE, "times"),
    "settled before its parent": (drop(C.Settled, SETTLED), LATE, "verdict"),
    "a price off by one": (say(C.Settled, LATE, price=moved(1)), LATE, "money"),
    "another provider paid": (say(C.Settled, LATE, provider=NOBODY), LATE, "money"),
    "rejected when it was over": (lambda record: rejected(record, C.Settled), LATE, "verdict"),
    "rejected without a dispute": (lambda record: rejected(record, C.Attested), LATE, "verdict"),
    "a bond of another size": (say(C.BondCleared, SILENT, amount=moved(1)), SILENT, "money"),
    "a bond cleared too early": (say(C.BondCleared, SILENT, time=moved(-60)), SILENT, "times"),
    "a bond cleared of what stands": (say(C.BondCleared, SILENT, segment=SegmentId(SETTLED)), SETTLED, "verdict"),
    # ---- money
    "a payment off by one": (say(C.Credited, LATE, amount=moved(1)), LATE, "money"),
    "a payment to another": (say(C.Credited, LATE, who=NOBODY), LATE, "money"),
    "a payment that was not made": (drop(C.Credited, LATE), LATE, "money"),
    "a payment made twice": (twice(C.Credited, LATE), LATE, "money"),
    "a payment after the end": (before(C.Credited, LATE, C.JobCancelled, 0), LATE, "money"),
    "a fee of another size": (terms(fee=10_001), LATE, "money"),
    "another draw bond": (terms(params={"draw_bond": 999_990}), LATE, "money"),
    "closed twice": (twice(C.JobClosed), JOB, "escrow"),
    "closed while it ran": (before(C.JobClosed, 0, C.Settled, LATE), JOB, "escrow"),
    "closed and not cancelled": (drop(C.JobCancelled), JOB, "escrow"),
    "a refund off by one": (say(C.JobClosed, refund=moved(1)), JOB, "escrow"),
    "a refund that was not made": (drop(C.Credited, nth=-1), JOB, "escrow"),
    "a payment that nothing explains": (say(C.Credited, nth=-1, reason="a gift"), JOB, "escrow"),
    "money added that the job has not": (say(C.JobFunded, amount=moved(1)), JOB, "escrow"),
    "cancelled by a stranger": (send(C.JobCancelled, sender=NOBODY), JOB, "escrow"),
    "pulled more than was owed": (say(C.Withdrawn, nth=1, amount=moved(1)), JOB, "escrow"),
    "the contract owes less": (owed(-1), JOB, "escrow"),
    "the contract holds less": (owed(1), JOB, "escrow"),
    # ---- order
    "settled from elsewhere": (both(say(C.Committed, LATE, stop=2), drop(C.Settled, SETTLED)), JOB, "order"),
}  # fmt: skip
UNKNOWN: dict[str, tuple[Forge, int, str]] = {
    "an offer by way of a contract": (through_another(C.Assigned, SETTLED), SETTLED, "offer"),
    "an assignment by way of a contract": (through_another(C.Assigned, SETTLED), SETTLED, "range"),
    "a start by way of a contract": (through_another(C.Activated, SETTLED), SETTLED, "root"),
    "a commitment by way of a contract": (through_another(C.Committed, SETTLED), SETTLED, "root"),
    "one of two commitments of a transaction": (among_others(C.Committed, SETTLED), SETTLED, "root"),
    "receipts by way of a contract": (through_another(C.Served, SETTLED), SETTLED, "served"),
    "a chunk by way of a contract": (through_another(C.ChunkShown, DENIED), DENIED, "served"),
    "a seal by way of a contract": (through_another(C.Sealed, SETTLED), SETTLED, "votes"),
    "a reveal by way of a contract": (through_another(C.Revealed, SETTLED), SETTLED, "votes"),
    "an opening by way of a contract": (through_another(C.Opened, SETTLED), SETTLED, "opened"),
    "a contract's signature": (wallets, SETTLED, "offer"),
    "a block that the node does not give": (lambda record: record._replace(hashes={}), SETTLED, "draw"),
    "a block that the node does not give, for openings": (lambda record: record._replace(hashes={}), SETTLED, "opened"),
    "balances that the node does not give": (lambda record: record._replace(held=None), JOB, "escrow"),
}


def _nonce(record: Record) -> int:
    call: Any = record.entries[find(record, chain.Assigned, LAPSED)].call
    return int(call.offer.nonce)


def audited(told: Story, forge: Forge = lambda record: record) -> Report:
    return Auditor(forge(told.record), told.job).run()


def findings(report: Report, segment: int, ok: bool | None) -> set[str]:
    sheet = report.sheet if segment == JOB else next(row.sheet for row in report.rows if row.segment == segment)
    return {finding.check for finding in sheet.findings if finding.ok is ok}


def test_a_record_in_which_everything_has_happened_holds(told: Story) -> None:
    report = audited(told)
    assert not [finding for sheet in report.sheets for finding in sheet.findings]
    assert report.held > 500
    assert {row.state for row in report.rows} == {"LAPSED", "SETTLED", "UNPAID", "WITHHELD", "VOID"}
    assert report.verdict == f"✓ all {report.held} checks hold"


@pytest.mark.parametrize("name", FORGERIES)
def test_a_fact_that_is_false_is_found(told: Story, name: str) -> None:
    forge, segment, check = FORGERIES[name]
    report = audited(told, forge)
    assert check in findings(report, segment, False)
    assert report.failed
    assert report.verdict.startswith("✗")


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_cannot_be_checked_is_told_and_is_no_failure(told: Story, name: str) -> None:
    forge, segment, check = UNKNOWN[name]
    report = audited(told, forge)
    assert check in findings(report, segment, None)
    assert not report.failed
    assert f"{report.unchecked} could not be made" in report.verdict


@pytest.mark.parametrize("kind", EVENTS.values(), ids=EVENTS)
def test_no_record_breaks_the_audit(told: Story, kind: type[Any]) -> None:
    """Whatever is left out or told twice, there is a report."""
    count = sum(type(entry.event) is kind for entry in told.record.entries)
    for nth in range(count):
        if kind is chain.JobPosted and nth == 1:
            continue  # without it there is no such job
        audited(told, drop(kind, nth=nth))
        audited(told, twice(kind, nth=nth))


def test_a_job_that_is_not_there_is_named(told: Story) -> None:
    with pytest.raises(NoSuchJob, match="this contract has: 1, 2"):
        Auditor(told.record, JobId(7)).run()
