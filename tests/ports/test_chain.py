"""The Chain port: one suite over the ledger in memory and over the contracts on anvil.

Every script runs on both, checks what it is about, and must leave the same events and the same balances on both; in the end no token
has come into being or gone.

One file because it is one list of scripts, each of which runs on both chains.
"""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bounty_world import bounty_earned, bounty_of_a_cancelled_job
from chain_world import NAMES, NO, STAKE, TOKENS, VERIFIERS, WINDOW, YES, EvmWorld, MemoryWorld, World, audited, told

from assay import chain, draw
from assay.adapters import evm_abi
from assay.chain import (
    Activate,
    Assign,
    AssignListed,
    CallId,
    CancelJob,
    ClearBond,
    CloseJob,
    CloseReveals,
    Decide,
    Deposit,
    Draw,
    Drawn,
    Entrust,
    FundJob,
    Lapse,
    LeaveSeat,
    Redraw,
    Seal,
    Settle,
    Settled,
    ShowChunk,
    TakeSeat,
    Unbond,
    Unpaid,
    Voided,
    VoidSegment,
    Withdraw,
    WithdrawStake,
    Withheld,
)  # fmt: skip
from assay.ids import Address, Digest, PeerId, SegmentId
from assay.localnet import rpc
from assay.localnet.anvil import Anvil
from assay.merkle import sha256
from assay.ports import Outage

Script = Callable[[World], Awaitable[None]]
PRICE, FEE, DRAW_BOND = 1_000_001, 10_000, 1_000_000


async def conserved(world: World) -> None:
    assert sum((await world.balances()).values()) == TOKENS * len(NAMES)


# ---- scripts -------------------------------------------------------------------------------------------------------------


async def happy(world: World) -> None:
    """Two segments are assigned, done, checked and paid; the client gets the rest back."""
    await world.populate()
    job = await world.post()
    first = await world.committed(job, 0, 0, 2)
    second = await world.assign(job, first, 2, 4, price=500_000, by="bob")
    await world.do("bob", Activate(segment=second))
    await world.checked(first, dict.fromkeys(VERIFIERS, YES))
    await world.do("bob", world.commitment(second, 2, 4))
    await world.settled(first)
    assert await world.refused("client", CloseJob(job=job)) == "JobIsLive"
    await world.checked(second, dict.fromkeys(VERIFIERS, YES))
    await world.settled(second)
    await world.do("stranger", CloseJob(job=job))
    for name in ("client", "alice", "bob", *VERIFIERS):
        await world.do(name, Withdraw())
    balances = await world.balances()
    assert balances["alice"] == TOKENS - STAKE + PRICE
    assert balances["bob"] == TOKENS - STAKE + 500_000
    assert all(balances[name] == TOKENS - STAKE + 2 * FEE for name in VERIFIERS)
    assert balances["client"] == TOKENS - PRICE - 500_000 - 6 * FEE
    assert balances["jobs"] == 0
    view = await world.chains["vera"].view(world["vera"])
    assert (view.tokens, view.stake, view.reserved, view.credit) == (balances["vera"], STAKE, 1_000_000, 0)
    assert await world.refused("alice", Withdraw()) == "NothingToWithdraw"


async def withheld(world: World) -> None:
    """Two of three say no: no payment, the bond stays reserved, a no by itself earns nothing, the range opens again."""
    await world.populate()
    job = await world.post()
    segment = await world.committed(job, 0, 0, 2)
    await world.checked(segment, {"vera": NO, "vic": YES, "val": NO})
    assert await world.last(Withheld)
    view = await world.chains["alice"].view(world["alice"])
    assert view.reserved == PRICE * 6
    assert view.credit == 0
    assert [(await world.chains[name].view(world[name])).credit for name in VERIFIERS] == [0, 0, 0]
    assert await world.refused("stranger", ClearBond(segment=segment)) == "NotDisputes"
    assert await world.refused("stranger", Settle(segment=segment)) == "WrongState"
    await world.assign(job, 0, 0, 2, by="bob")


async def split_vote(world: World) -> None:
    """Agreeing verifiers with different traces are not a quorum; the next round checks the units of both."""
    await world.populate()
    job = await world.post()
    segment = await world.committed(job, 0, 0, 2)
    await world.checked(segment, {"vera": YES, "vic": (True, b"other"), "val": NO})
    assert (await world.last(chain.Redrawn)).reason == "undecided"
    second = await world.drawn(segment)
    assert len(second.units) == 4
    assert second.units[:2] == (await first_draw(world)).units
    await world.keys(segment, *VERIFIERS)
    await world.served(segment, 1, ("vera", "val"))
    await world.vote(second, {"vera": NO, "val": NO})  # whoever of the first round was drawn first: nobody who agreed is paid
    await world.mine(2)
    terms = (await world.last_posted()).terms
    for name in ("vera", "val"):
        await world.do(name, await world.openings(second, name, b"right", terms))
    assert await world.refused("stranger", Decide(segment=segment)) == "WrongState"
    assert (await world.last(chain.Withheld)).no == 3
    no_show = await world.last(chain.NoShow)
    assert world.name(no_show.verifier) == "vic"
    assert no_show.fee == 0
    assert [(await world.chains[name].view(world[name])).credit for name in VERIFIERS] == [0, 0, 0]


async def first_draw(world: World) -> Drawn:
    return next(event for event in await world.events() if isinstance(event, Drawn))


async def no_show(world: World) -> None:
    """Who signed a receipt and then does not seal is charged; two are still a quorum. Late calls are refused."""
    await world.populate()
    job = await world.post()
    segment = await world.committed(job, 0, 0, 2)
    drawn = await world.drawn(segment)
    assert await world.refused("stranger", CloseReveals(segment=segment)) == "WrongState"
    await world.served(segment, 0)
    digest, _ = world.reveal_of("val", drawn, True, b"right")
    forged = Seal(verifier=world["val"], digest=digest, signature=world.chains["vic"].sign_seal(segment, 0, digest))
    assert await world.refused("vic", chain.Attest(segment=segment, seals=(forged,))) == "BadSignature"
    await world.vote(drawn, {"vera": YES, "vic": YES})
    late = Seal(verifier=world["val"], digest=digest, signature=b"")
    assert await world.refused("val", chain.Attest(segment=segment, seals=(late,))) == "WrongPhase"
    terms = (await world.last_posted()).terms
    await world.mine(2)
    await world.do("vera", await world.openings(drawn, "vera", b"right", terms))
    assert await world.refused("stranger", Decide(segment=segment)) == "TooEarly"
    wrong = await world.openings(drawn, "vic", b"wrong", terms, shown=b"right")
    assert await world.refused("vic", wrong) == "BadOpening"
    await world.do("vic", await world.openings(drawn, "vic", b"right", terms))
    fee = await world.last(chain.NoShow)
    assert world.name(fee.verifier) == "val"
    assert fee.fee == DRAW_BOND // 10
    await world.settled(segment)
    assert (await world.chains["val"].view(world["val"])).stake == STAKE - DRAW_BOND // 10


async def overlapping_batches(world: World) -> None:
    """Nobody spoils a batch of seals or reveals by sending a part of it first: what is there is skipped, also within a batch."""
    await world.populate()
    job = await world.post()
    segment = await world.committed(job, 0, 0, 2)
    drawn = await world.drawn(segment)
    await world.served(segment, 0)
    made = {name: world.reveal_of(name, drawn, True, b"right") for name in VERIFIERS}
    seals = [
        Seal(verifier=world[name], digest=digest, signature=world.chains[name].sign_seal(segment, 0, digest)) for name, (digest, _) in made.items()
    ]
    await world.do("stranger", chain.Attest(segment=segment, seals=(seals[0],)))
    other = msgspec.structs.replace(seals[0], digest=sha256(b"a change of mind"))
    await world.do("stranger", chain.Attest(segment=segment, seals=(other, seals[1], seals[1])))
    assert await world.refused("stranger", chain.RevealAll(segment=segment, reveals=(made["vera"][1],))) == "TooEarly"
    await world.do("stranger", chain.Attest(segment=segment, seals=tuple(seals)))
    reveals = [reveal for _, reveal in made.values()]
    await world.do("stranger", chain.RevealAll(segment=segment, reveals=(reveals[0], reveals[0])))
    changed = msgspec.structs.replace(reveals[0], agrees=False)
    await world.do("stranger", chain.RevealAll(segment=segment, reveals=(changed, *reveals[1:])))
    assert [world.name(event.verifier) for event in await world.events() if isinstance(event, chain.Revealed)] == list(VERIFIERS)
    assert all(event.agrees for event in await world.events() if isinstance(event, chain.Revealed))
    assert await world.last(chain.OpeningsDue)


async def batched(world: World) -> None:
    """Votes with their openings settle a segment in three calls: seals, reveals, settlement; a part of it that came first does no harm."""
    await world.populate()
    job = await world.post()
    segment = await world.committed(job, 0, 0, 2)
    drawn = await world.drawn(segment)
    await world.served(segment, 0)
    made = {name: world.reveal_of(name, drawn, True, b"right") for name in VERIFIERS}
    seals = tuple(
        Seal(verifier=world[name], digest=digest, signature=world.chains[name].sign_seal(segment, 0, digest)) for name, (digest, _) in made.items()
    )
    backwards = sorted(seals, key=lambda seal: drawn.verifiers.index(seal.verifier), reverse=True)
    await world.do("stranger", chain.Attest(segment=segment, seals=tuple(backwards)))
    due = await world.last(chain.RevealsDue)
    early = msgspec.structs.replace(made["vera"][1], openings=(chain.Opening(leaf=sha256(b"leaf"), proof=()),))
    assert await world.refused("stranger", chain.RevealAll(segment=segment, reveals=(early,))) == "BlockTooEarly"
    await world.mine(2)
    terms = (await world.last_posted()).terms
    votes = [(await world.openings(drawn, name, b"right", terms)).reveals[0] for name in VERIFIERS]
    unlike = msgspec.structs.replace(votes[0], trace_roots=votes[0].trace_roots[::-1] if len(set(votes[0].trace_roots)) > 1 else (sha256(b"x"),) * 2)
    assert await world.refused("stranger", chain.RevealAll(segment=segment, reveals=(made["vera"][1], unlike))) == "DigestMismatch"
    await world.do("stranger", chain.RevealAll(segment=segment, reveals=(made["vera"][1], votes[1])))
    wrong = chain.Disclose(segment=segment, round=0, verifier=world["vera"], trace_roots=(sha256(b"x"),), salt=votes[0].salt)
    assert await world.refused("stranger", wrong) == "DigestMismatch"
    for round, name, refusal in ((1, "vera", "NotDrawn"), (0, "stranger", "NotDrawn"), (0, "val", "NotRevealed")):
        other = msgspec.structs.replace(wrong, round=round, verifier=world[name])
        assert await world.refused("stranger", other) == refusal
    await world.do("stranger", msgspec.structs.replace(wrong, trace_roots=votes[0].trace_roots))
    await world.do("stranger", chain.RevealAll(segment=segment, reveals=tuple(votes)))
    assert not [event for event in await world.events() if isinstance(event, chain.OpeningsDue)]
    assert due.opening_block
    await world.settled(segment)
    gone = msgspec.structs.replace(wrong, trace_roots=votes[0].trace_roots)
    assert await world.refused("stranger", gone) == "NoBond"


async def _sealed_together(world: World, job: int) -> tuple[Any, list[str], dict[str, tuple[Any, chain.Reveal]]]:
    """A segment of which one call has brought all seals, in the order of the draw; the verifiers in that order; their seals and votes."""
    segment = await world.committed(job, 0, 0, 2)  # type: ignore[arg-type]
    drawn = await world.drawn(segment)
    await world.served(segment, 0)
    order = [world.name(who) for who in drawn.verifiers]
    made = {name: world.reveal_of(name, drawn, True, b"right") for name in order}
    seals = tuple(
        Seal(verifier=world[name], digest=digest, signature=world.chains[name].sign_seal(segment, 0, digest)) for name, (digest, _) in made.items()
    )
    await world.do("stranger", chain.Attest(segment=segment, seals=seals))
    assert all(event.together for event in await world.events() if isinstance(event, chain.Sealed))
    await world.mine(2)
    return drawn, order, made


async def together(world: World) -> None:
    """Of seals that came all at once the hash is kept: all votes come at once, too, or the seals are spread first."""
    await world.populate()
    job = await world.post()
    drawn, order, made = await _sealed_together(world, job)
    segment, terms = drawn.segment, (await world.last_posted()).terms
    votes = [(await world.openings(drawn, name, b"right", terms)).reveals[0] for name in order]
    changed = msgspec.structs.replace(votes[1], salt=sha256(b"another"))
    for some in (votes[:2], votes[::-1], [votes[0], made[order[1]][1], votes[2]], [votes[0], changed, votes[2]], [], [*votes, votes[0]]):
        assert await world.refused("stranger", chain.RevealAll(segment=segment, reveals=tuple(some))) == "Together"
    wrong = msgspec.structs.replace(votes[2], openings=(chain.Opening(leaf=sha256(b"leaf"), proof=votes[2].openings[0].proof),))
    assert await world.refused("stranger", chain.RevealAll(segment=segment, reveals=(*votes[:2], wrong))) == "BadOpening"
    assert await world.refused("stranger", chain.Spread(segment=segment, round=0, seals=b"")) == "BadSeals"
    assert await world.refused("stranger", chain.Spread(segment=segment, round=1, seals=b"")) == "NotTogether"
    await world.do("stranger", chain.RevealAll(segment=segment, reveals=tuple(votes)))
    assert await world.last(chain.Attested)
    shown = chain.Disclose(segment=segment, round=0, verifier=world[order[1]], trace_roots=votes[1].trace_roots, salt=votes[1].salt)
    assert await world.refused("stranger", shown) == "Together"
    row = draw.seals([(world[name], digest) for name, (digest, _) in made.items()])
    await world.do("stranger", chain.Batch(calls=(chain.Spread(segment=segment, round=0, seals=row), shown)))
    await world.do("stranger", chain.Batch(calls=(chain.Spread(segment=segment, round=0, seals=row), shown)))
    await world.settled(segment)
    assert await world.refused("stranger", chain.Spread(segment=segment, round=0, seals=row)) == "NotTogether"


async def parted(world: World) -> None:
    """Who brought the seals all at once goes away: each verifier spreads them and shows its vote alone."""
    await world.populate()
    job = await world.post()
    drawn, order, made = await _sealed_together(world, job)
    segment, terms = drawn.segment, (await world.last_posted()).terms
    row = chain.Spread(segment=segment, round=0, seals=draw.seals([(world[name], digest) for name, (digest, _) in made.items()]))
    for name in order:
        vote = await world.openings(drawn, name, b"right", terms)
        await world.do(name, chain.Batch(calls=(row, vote)))
    assert await world.last(chain.Attested)
    await world.settled(segment)


async def several_at_once(world: World) -> None:
    """One transaction for segments of two jobs; what is refused of it changes nothing, and it is refused when all is."""
    await world.populate()
    jobs = [await world.post(), await world.post()]
    segments = [await world.committed(job, 0, 0, 2) for job in jobs]
    for segment in segments:
        await world.checked(segment, dict.fromkeys(VERIFIERS, YES))
    settle = tuple(chain.Settle(segment=segment) for segment in segments)
    assert await world.refused("stranger", chain.Batch(calls=settle)) == "TooEarly"
    assert await world.refused("stranger", chain.Batch(calls=())) == "BadLength"
    assert await world.refused("stranger", chain.Batch(calls=settle[:1] * 65)) == "BadLength"
    await world.later(WINDOW + 1)
    await world.do("alice", settle[0])
    await world.do("stranger", chain.Batch(calls=(settle[0], settle[1], settle[1])))
    assert len([event for event in await world.events() if isinstance(event, chain.Settled)]) == 2
    assert await world.refused("stranger", chain.Batch(calls=settle)) == "WrongState"


async def lapse(world: World) -> None:
    """A provider that does not start pays only if it had keys; one that does not finish pays; then others may."""
    await world.populate()
    job = await world.post()
    without_keys = await world.assign(job, 0, 0, 2)
    assert await world.refused("stranger", Lapse(segment=without_keys)) == "TooEarly"
    await world.later(WINDOW + 1)
    await world.do("stranger", Lapse(segment=without_keys))
    assert (await world.last(chain.Lapsed)).fee == 0
    with_keys = await world.assign(job, 0, 0, 2)
    await world.keys(with_keys, "alice")
    await world.later(WINDOW + 1)
    assert await world.refused("alice", Activate(segment=with_keys)) == "TooLate"
    await world.do("stranger", Lapse(segment=with_keys))
    assert (await world.last(chain.Lapsed)).fee == PRICE * 500 // 10_000
    active = await world.assign(job, 0, 0, 2)
    assert await world.refused("bob", Activate(segment=active)) == "NotProvider"
    await world.do("alice", Activate(segment=active))
    await world.later(WINDOW + 1)
    assert await world.refused("alice", world.commitment(active, 0, 2)) == "TooLate"
    await world.do("stranger", Lapse(segment=active))
    offer = await world.offer(job, 0, 0, 2, by="bob")
    assert await world.refused("stranger", offer) == "NotEntitledToAssign"
    await world.later(WINDOW + 1)
    await world.do("stranger", offer)
    assert (await world.chains["alice"].view(world["alice"])).reserved == 0


async def prefix(world: World) -> None:
    """A committed prefix is paid in proportion; the rest of the range is opened after it."""
    await world.populate()
    job = await world.post()
    segment = await world.committed(job, 0, 0, 2, end=1)
    assert await world.refused("scheduler", await world.offer(job, segment, 2, 4, by="bob")) == "WrongRange"
    rest = await world.assign(job, segment, 1, 2, price=300_000, by="bob")
    await world.checked(segment, dict.fromkeys(VERIFIERS, YES))
    await world.settled(segment)
    assert (await world.last(Settled)).price == PRICE // 2
    assert rest == segment + 1


async def void(world: World) -> None:
    """When a segment fails, what was built on it is void: bonds come back, verifiers who worked are paid."""
    await world.populate()
    job = await world.post()
    parent = await world.committed(job, 0, 0, 2)
    child = await world.committed(job, parent, 2, 4, by="bob")
    await world.checked(child, dict.fromkeys(VERIFIERS, YES))
    assert await world.refused("stranger", Settle(segment=child)) == "TooEarly"
    await world.later(WINDOW + 1)
    assert await world.refused("stranger", Settle(segment=child)) == "ParentUnsettled"
    assert await world.refused("stranger", VoidSegment(segment=child)) == "NotVoidable"
    await world.checked(parent, dict.fromkeys(VERIFIERS, NO))
    await world.do("stranger", VoidSegment(segment=child))
    assert (await world.last(Voided)).segment == child
    assert (await world.chains["bob"].view(world["bob"])).reserved == 0
    assert [(await world.chains[name].view(world[name])).credit for name in VERIFIERS] == [FEE] * 3
    await world.do("client", CancelJob(job=job))
    await world.do("stranger", CloseJob(job=job))


async def unpaid(world: World) -> None:
    """Nobody is served, twice: the provider's bond stays for whoever may dispute, with keys posted or without."""
    await world.populate()
    job = await world.post()
    silent = await world.committed(job, 0, 0, 2)
    for round in (0, 1):
        await world.drawn(silent)
        await world.keys(silent, "vera", "vic")
        assert await world.refused("stranger", Redraw(segment=silent)) == "TooEarly"
        await world.later(WINDOW + 1)
        assert await world.refused("alice", Decide(segment=silent)) == "WrongState"
        await world.do("stranger", Redraw(segment=silent))
        assert isinstance((await world.events())[-1], chain.ChunkAsked if round else chain.Redrawn)
    assert await world.refused("stranger", Redraw(segment=silent)) == "TooEarly"
    await world.later(WINDOW + 1)
    await world.do("stranger", Redraw(segment=silent))
    assert (await world.last(Unpaid)).reason == "not served"
    assert (await world.chains["alice"].view(world["alice"])).reserved == PRICE * 6
    assert await world.refused("alice", ClearBond(segment=silent)) == "TooEarly"
    await world.later(WINDOW + 1)
    await world.do("alice", ClearBond(segment=silent))
    assert await world.refused("alice", ClearBond(segment=silent)) == "NoBond"
    keyless = await world.committed(job, 0, 0, 2, by="bob")
    for _ in (0, 1):
        await world.drawn(keyless)
        await world.later(WINDOW + 1)
        await world.do("stranger", Redraw(segment=keyless))
    assert (await world.last(Unpaid)).reason == "keys withheld"
    assert (await world.chains["bob"].view(world["bob"])).reserved == PRICE * 6
    await world.later(WINDOW + 1)
    await world.do("stranger", ClearBond(segment=keyless))
    for name in ("alice", "bob"):
        assert (await world.chains[name].view(world[name])).reserved == 0
    for name in VERIFIERS:
        assert (await world.chains[name].view(world[name])).reserved == 1_000_000  # the seat


async def keys_by_record(world: World) -> None:
    """Bundles of record keys up to the bound, and the word that nothing is due, are releases like any other: who had one had its keys."""
    await world.populate()
    job = await world.post()
    segment = await world.committed(job, 0, 0, 2)
    for round in (0, 1):
        await world.drawn(segment)
        large = chain.Release(recipient=world["vera"], key_id=sha256(b"key"), wrapped=b"r" * chain.MOST_WRAPPED)
        nothing = chain.Release(recipient=world["vic"], key_id=chain.NOTHING, wrapped=b"")
        beyond = msgspec.structs.replace(large, wrapped=b"r" * (chain.MOST_WRAPPED + 1))
        assert await world.refused("keyservice", chain.ReleaseKeys(segment=segment, releases=(nothing, beyond))) == "BadLength"
        await world.do("keyservice", chain.ReleaseKeys(segment=segment, releases=(large, large, nothing)))
        released = [event for event in await world.events() if isinstance(event, chain.KeyReleased)]
        assert [(event.recipient, len(event.wrapped)) for event in released[3 * round :]] == [
            (world["vera"], chain.MOST_WRAPPED), (world["vera"], chain.MOST_WRAPPED), (world["vic"], 0)
        ]  # fmt: skip
        await world.later(WINDOW + 1)
        await world.do("stranger", Redraw(segment=segment))
    assert isinstance((await world.events())[-1], chain.ChunkAsked)  # and not unpaid, as where keys were withheld


async def denied(world: World, redraws: int = 1) -> None:
    """Two of three verifiers say in every round that they were not served. Their provider shows the chunk that it is asked for: the round counts
    as served, the third one's yes is not outvoted, who said nothing and had its key is a no-show."""
    world.whole = 0
    await world.populate()
    job = await world.post(params={"redraws": redraws, "no_show_bps": 1000})
    segment = await world.committed(job, 0, 0, 2)
    for _ in range(redraws + 1):
        drawn = await world.drawn(segment)
        await world.keys(segment, "vera", "vic")
        await world.later(WINDOW + 1)
        assert await world.refused("alice", world.shown(drawn, 2, Digest(bytes(32)))) == "WrongPhase"
        await world.do("alice", Redraw(segment=segment))
    asked = await world.last(chain.ChunkAsked)
    assert (asked.segment, asked.round) == (segment, redraws)
    assert await world.refused("alice", world.shown(drawn, 2, Digest(bytes(32)))) == "BlockTooEarly"
    await world.mine(2)
    block_hash = await world.chains["alice"].block_hash(asked.at_block)
    assert await world.refused("alice", world.shown(drawn, 2, block_hash, more=1)) == "NotTheChunk"
    right = world.shown(drawn, 2, block_hash)
    for change in ({"end_path": ()}, {"count": 2}, {"name": b"other"}, {"kind": b""}, {"chunk": b"\1" * 1024}, {"chunk_path": right.proof.end_path}):
        assert await world.refused("alice", ShowChunk(segment=segment, proof=msgspec.structs.replace(right.proof, **change))) == "NotTheChunk"
    await world.do("alice", right)
    assert await world.refused("alice", right) == "WrongState"
    await world.vote(drawn, {"vera": YES})
    await world.mine(2)
    await world.do("stranger", await world.openings(drawn, "vera", b"right", (await world.last_posted()).terms))
    fees = {world.name(event.verifier): event.fee for event in await world.events() if isinstance(event, chain.NoShow)}
    assert fees == {"vic": 100_000, "val": 0}
    await world.later(WINDOW + 1)
    assert await world.refused("alice", Settle(segment=segment)) == "TooEarly"
    await world.later(3 * WINDOW)
    await world.do("alice", Settle(segment=segment))
    assert (await world.chains["alice"].view(world["alice"])).credit == PRICE
    assert (await world.chains["vera"].view(world["vera"])).credit == FEE


async def too_few(world: World) -> None:
    """Verifiers without free stake cannot be drawn; a draw that finds no quorum waits, and then the segment fails."""
    await world.populate()
    job = await world.post()
    segment = await world.committed(job, 0, 0, 2)
    for name in ("vera", "vic"):
        await world.do(name, Unbond(amount=STAKE - 1_000_000))
    await world.mine(2)
    assert await world.refused("stranger", Draw(segment=segment)) == "TooFewVerifiers"
    await world.later(WINDOW + 1)
    await world.do("stranger", Draw(segment=segment))
    assert (await world.last(Unpaid)).reason == "too few verifiers"
    assert await world.refused("vera", WithdrawStake()) == "StillUnbonding"
    await world.later(3601)
    await world.do("vera", WithdrawStake())
    assert await world.refused("vera", WithdrawStake()) == "NothingUnbonding"
    assert (await world.balances())["vera"] == TOKENS - 1_000_000


async def cancel(world: World) -> None:
    """A client adds money, cancels, and gets back what was not promised."""
    await world.populate()
    job = await world.post()
    await world.do("client", FundJob(job=job, amount=5))
    segment = await world.assign(job, 0, 0, 2)
    assert await world.refused("stranger", CancelJob(job=job)) == "NotClient"
    await world.do("client", CancelJob(job=job))
    assert await world.refused("client", CancelJob(job=job)) == "JobIsCancelled"
    assert await world.refused("client", FundJob(job=job, amount=5)) == "JobIsCancelled"
    assert await world.refused("client", CloseJob(job=job)) == "JobIsLive"
    await world.later(WINDOW + 1)
    await world.do("stranger", Lapse(segment=segment))
    assert await world.refused("scheduler", await world.offer(job, 0, 0, 2)) == "JobIsCancelled"
    await world.do("stranger", CloseJob(job=job))
    assert await world.refused("stranger", CloseJob(job=job)) == "JobIsClosed"
    await world.do("client", Withdraw())
    assert (await world.balances())["client"] == TOKENS


async def offers(world: World) -> None:
    """What is no valid offer is refused."""
    await world.populate()
    job = await world.post()
    good = await world.offer(job, 0, 0, 2)
    for name, change in {
        "WrongRange": {"stop": 3}, "WrongParent": {"parent": SegmentId(9)}, "PriceOverCap": {"price": 2_000_001}, "ZeroAmount": {"price": 0},
        "OfferExpired": {"expires": 1}, "NoSuchJob": {"job": 99},
    }.items():  # fmt: skip
        offer = msgspec.structs.replace(good.offer, **change)
        assert await world.refused("scheduler", Assign(offer=offer, signature=world.chains["alice"].sign_offer(offer))) == name
    forged = Assign(offer=good.offer, signature=world.chains["bob"].sign_offer(good.offer))
    assert await world.refused("scheduler", forged) == "BadSignature"
    changed = Assign(offer=msgspec.structs.replace(good.offer, price=1), signature=good.signature)
    assert await world.refused("scheduler", changed) == "BadSignature"
    unknown = await world.offer(job, 0, 0, 2, by="stranger")
    assert await world.refused("scheduler", unknown) == "NotRegistered"
    await world.do("scheduler", good)
    assert await world.refused("scheduler", good) == "NonceUsed"
    assert await world.refused("scheduler", await world.offer(job, 0, 0, 2, by="bob")) == "RangeTaken"
    dear = await world.post(price_cap=10**12, budget=200_000_000)
    assert await world.refused("scheduler", await world.offer(dear, 0, 0, 2, price=100_000_000)) == "InsufficientStake"
    assert await world.refused("scheduler", await world.offer(dear, 0, 0, 2, price=200_000_000)) == "InsufficientEscrow"


async def takeovers(world: World) -> None:
    """Through Takeovers: the scheduler that the client entrusted places with anybody, others later and with whom the client has listed."""
    await world.populate()
    contract, listed = world.chains["client"].takeovers, (world["bob"], world["vera"])
    digest = Digest(sha256(b"spec"))
    await world.do("client", Entrust(spec_digest=digest, scheduler=world["scheduler"], patience=100, providers=listed))
    assert await world.refused("client", Entrust(spec_digest=digest, scheduler=world["bob"], patience=1, providers=())) == "AlreadyEntrusted"
    await world.do("stranger", Entrust(spec_digest=digest, scheduler=world["stranger"], patience=1, providers=()))  # of jobs of its own
    job = await world.post(scheduler=contract, params={"takeover_window": 7 * 86_400})

    async def through(parent: int, start: int, by: str, providers: tuple[Address, ...]) -> AssignListed:
        made = await world.offer(job, parent, start, start + 2, by=by)
        return AssignListed(offer=made.offer, signature=made.signature, providers=providers)

    assert await world.refused("scheduler", await world.offer(job, 0, 0, 2)) == "NotEntitledToAssign"
    assert await world.refused("stranger", await through(0, 0, "bob", listed)) == "NotEntitledToAssign"
    unsigned = msgspec.structs.replace(await through(0, 0, "alice", ()), signature=b"")
    assert await world.refused("scheduler", unsigned) == "BadSignature"
    await world.do("scheduler", await through(0, 0, "alice", ()))
    first = (await world.last(chain.Assigned)).segment
    await world.keys(first, "alice")
    await world.do("alice", Activate(segment=first))
    await world.do("alice", world.commitment(first, 0, 2))
    assert await world.refused("stranger", await through(first, 2, "bob", listed)) == "NotEntitledToAssign"
    await world.later(101)
    assert await world.refused("stranger", await through(first, 2, "alice", listed)) == "NotListed"
    assert await world.refused("stranger", await through(first, 2, "alice", (world["alice"],))) == "WrongProviders"
    assert await world.refused("stranger", await through(99, 2, "bob", listed)) == "NoSuchSegment"
    await world.do("stranger", await through(first, 2, "bob", listed))
    assert world.name((await world.last(chain.Assigned)).provider) == "bob"
    unplanned = await world.post(scheduler=contract, spec_digest=sha256(b"another"))
    made = await world.offer(unplanned, 0, 0, 2)
    assert await world.refused("scheduler", AssignListed(offer=made.offer, signature=made.signature)) == "NotEntrusted"


async def seats(world: World) -> None:
    """Seats reserve stake; a left one is filled by the last, and its holder is not drawn any more."""
    await world.populate()
    for _ in range(3):
        await world.do("bob", TakeSeat())
    assert await world.refused("stranger", TakeSeat()) == "NotRegistered"
    assert await world.refused("vera", LeaveSeat(seat=2)) == "NotSeatHolder"
    await world.do("vic", LeaveSeat(seat=2))
    assert await world.refused("vic", LeaveSeat(seat=2)) == "NotSeatHolder"
    await world.do("bob", LeaveSeat(seat=4))
    await world.do("bob", LeaveSeat(seat=6))
    assert (await world.chains["bob"].view(world["bob"])).reserved == 1_000_000
    job = await world.post()
    segment = await world.committed(job, 0, 0, 2)
    drawn = await world.drawn(segment)
    assert {world.name(who) for who in drawn.verifiers} == {"vera", "val", "bob"}


async def bad_terms(world: World) -> None:
    """Terms out of bounds are refused before money moves."""
    head = await world.chains["client"].head()
    for changes in ({"steps": 0}, {"update_leaves": 1}, {"deadline": 5}, {"params": {"quorum": 1}}, {"params": {"seal_window": 10**6}},
                    {"params": {"links": 16, "redraws": 4}}, {"params": {"draw_bond": 10**9}},
                    {"segment_steps": 22, "params": {"links": 0}}):  # fmt: skip
        assert await world.refused("client", chain.PostJob(terms=world.terms(head.time, **changes))) == "BadTerm"
    assert (await world.balances())["client"] == TOKENS


async def every_link(world: World) -> None:
    """With no links in the terms all of the segment's are drawn, once; a redraw adds none."""
    await world.populate()
    job = await world.post(params={"links": 0})
    segment = await world.committed(job, 0, 0, 2)
    assert (await world.drawn(segment)).units == tuple(range(2 * 3))
    await world.later(2 * WINDOW)
    await world.do("stranger", chain.Redraw(segment=segment))
    again = await world.drawn(segment)
    assert (again.round, again.units) == (1, tuple(range(2 * 3)))


SCRIPTS: list[Script] = [
    every_link, happy, withheld, split_vote, no_show, overlapping_batches, batched, together, parted, several_at_once, lapse, prefix, void,
    unpaid, denied, too_few, cancel, offers, takeovers, seats, bad_terms, bounty_earned, bounty_of_a_cancelled_job,
]  # fmt: skip


async def _run(world: World, script: Script) -> tuple[list[Any], dict[str, int]]:
    try:
        await script(world)
        await conserved(world)
        await audited(world)
        return await told(world), await world.balances()
    finally:
        await world.close()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_a_script_in_memory(script: Script) -> None:
    asyncio.run(_run(MemoryWorld(), script))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_a_script_on_the_evm_and_in_memory_leaves_the_same(script: Script, anvil: Anvil, tmp_path: Path) -> None:
    async def on_evm() -> tuple[list[Any], dict[str, int]]:
        return await _run(await EvmWorld.open(anvil, tmp_path), script)

    here = asyncio.run(_run(MemoryWorld(), script))
    there = asyncio.run(on_evm())
    assert there == here


def test_votes_that_are_sent_at_once_all_come_through_whoever_decides(anvil: Anvil, tmp_path: Path) -> None:
    """Each is estimated before the others are mined; the last one decides and pays, which takes far more gas."""

    async def body() -> None:
        world = await EvmWorld.open(anvil, tmp_path)
        try:
            await world.populate()
            segment = await world.committed(await world.post(), 0, 0, 2)
            drawn = await world.drawn(segment)
            await world.served(segment, 0)
            for name in VERIFIERS:
                digest, _ = world.reveal_of(name, drawn, False, b"right")
                await world.do(name, chain.Attest(segment=segment, seals=(Seal(verifier=world[name], digest=digest, signature=b""),)))
            await world.mine(2)
            terms = (await world.last_posted()).terms
            calls = {name: await world.openings(drawn, name, b"right", terms, agrees=False) for name in VERIFIERS}
            rpc.call(anvil.url, "evm_setAutomine", False)
            sent = [asyncio.create_task(world.do(name, call)) for name, call in calls.items()]
            while int(rpc.call(anvil.url, "txpool_status")["pending"], 16) < len(sent):  # noqa: ASYNC110 (it is in another process)
                await asyncio.sleep(0.01)
            rpc.call(anvil.url, "evm_mine")
            assert len(set(await asyncio.gather(*sent))) == 1
            assert (await world.last(chain.Withheld)).no == 3
        finally:
            rpc.call(anvil.url, "evm_setAutomine", True)
            await world.close()

    asyncio.run(body())


def test_the_ledger_in_memory_refuses_with_the_contracts_errors_only() -> None:
    known = [(name, names) for name, names, _ in evm_abi._errors().values()]
    known += [(f"No{contract}", []) for contract in ("Disputes", "Bounties", "Takeovers")]  # no contract to ask
    known += [("IllegalMove", ["reason"])]  # what contracts say in many ways
    refusals = 0
    for path in sorted(Path(evm_abi.__file__).parent.glob("memory_*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "refuse":
                (name,) = (argument.value for argument in call.args if isinstance(argument, ast.Constant))
                assert (name, [keyword.arg for keyword in call.keywords]) in known, f"{path.name}:{call.lineno} {name}"
                refusals += 1
    assert refusals > 50


# ---- the port itself -----------------------------------------------------------------------------------------------------

Opener = Callable[[], Awaitable[World]]


@pytest.fixture(params=["memory", "evm"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    if request.param == "evm":
        anvil: Anvil = request.getfixturevalue("anvil")

    async def open_world() -> World:
        return MemoryWorld() if request.param == "memory" else await EvmWorld.open(anvil, tmp_path)

    return open_world


def with_world(opener: Opener, body: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        world = await opener()
        try:
            await body(world)
        finally:
            await world.close()

    asyncio.run(run())


def test_a_call_id_is_sent_once(opener: Opener) -> None:
    async def body(world: World) -> None:
        port = world.chains["alice"]
        first = await port.send(CallId("deposit"), Deposit(amount=7))
        both = await asyncio.gather(*(port.send(CallId("deposit"), Deposit(amount=7)) for _ in range(3)))
        assert set(both) == {first}
        assert (await port.view(port.account)).stake == 7

    with_world(opener, body)


def test_a_refused_call_leaves_no_trace_and_may_come_again(opener: Opener) -> None:
    async def body(world: World) -> None:
        assert await world.refused("alice", TakeSeat()) == "NotRegistered"
        assert await world.events() == []
        await world.populate()
        await world.do("alice", TakeSeat())

    with_world(opener, body)


def test_many_calls_at_once_all_come_through(opener: Opener) -> None:
    async def body(world: World) -> None:
        port = world.chains["alice"]
        register = chain.Register(encryption_key=b"k" * 32, peer=chain.PeerId("peer"))
        blocks = await asyncio.gather(*(port.send(CallId(f"call {i}"), register) for i in range(30)))
        assert len(await world.events()) == 30
        assert {event.block for event in await world.events()} == set(blocks)

    with_world(opener, body)


def test_events_come_in_order_from_a_cursor_on_and_at_a_depth(opener: Opener) -> None:
    async def body(world: World) -> None:
        await world.populate()
        port = world.chains["stranger"]
        everything = await port.events((-1, -1), 0)
        places = [(event.block, event.index) for event in everything]
        assert places == sorted(set(places))
        for i in (0, len(everything) // 2, len(everything) - 1):
            assert await port.events(places[i], 0) == everything[i + 1 :]
        head = await port.head()
        deep = await port.events((-1, -1), 2)
        assert deep == [event for event in everything if event.block <= head.number - 2]
        assert deep != everything
        await world.mine(2)
        assert await port.events((deep[-1].block, deep[-1].index), 2) == everything[len(deep) :]
        assert await port.block_hash(head.number) == head.hash
        with pytest.raises(Outage):
            await port.block_hash(head.number + 100)

    with_world(opener, body)


def test_signatures_name_their_signer_and_nobody_else(opener: Opener) -> None:
    async def body(world: World) -> None:
        alice, bob = world.chains["alice"], world.chains["bob"]
        good = await world.offer(chain.JobId(1), 0, 0, 2)
        assert bob.offer_signer(good.offer, good.signature) == alice.account
        assert bob.offer_signer(msgspec.structs.replace(good.offer, price=2), good.signature) != alice.account
        receipt = alice.sign_receipt(SegmentId(3), 1)
        assert bob.receipt_signer(SegmentId(3), 1, receipt) == alice.account
        assert bob.receipt_signer(SegmentId(3), 2, receipt) != alice.account
        for broken in (b"", receipt[:-1], receipt + b"\0", bytes(65), b"\xff" * 65):
            assert bob.receipt_signer(SegmentId(3), 1, broken) is None
            assert bob.offer_signer(good.offer, broken) is None
        assert alice.sign_seal(SegmentId(3), 1, sha256(b"1")) != alice.sign_seal(SegmentId(3), 1, sha256(b"2"))
        visit = world.sign_visit("alice", PeerId("peer"))
        assert bob.visit_signer(PeerId("peer"), visit) == alice.account
        assert bob.visit_signer(PeerId("other"), visit) != alice.account
        for broken in (b"", visit[:-1], visit + b"\0", bytes(65), b"\xff" * 65):
            assert bob.visit_signer(PeerId("peer"), broken) is None

    with_world(opener, body)
