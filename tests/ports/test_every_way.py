"""Every way that a segment can go: each party silent in each of its states or doing the wrong thing, in every combination, over the chain
in memory with real disputes; seals and votes brought one by one or together; a provider to whom a pardon is due. After each: no money is stuck
or lost, nobody is paid for a lie that somebody watches, silence never pays, and who did its part loses nothing (docs/protocol.md; the machines
of a segment and of a dispute).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
import pytest

from assay import cid, draw, hearing, merkle
from assay.adapters.memory_chain import MemoryLedger
from assay.adapters.memory_committee import OPEN
from assay.adapters.memory_records import Segment
from assay.chain import (
    TERMINAL,
    Activate,
    AnyCall,
    Assign,
    Attest,
    Batch,
    CancelJob,
    ClearBond,
    ClearDisputed,
    CloseJob,
    CloseReveals,
    Commit,
    Decide,
    Deposit,
    Draw,
    Lapse,
    Offer,
    Opening,
    Params,
    PayDispute,
    PlayMove,
    PostJob,
    Redraw,
    Register,
    Release,
    ReleaseKeys,
    Reveal,
    RevealAll,
    Seal,
    SealDispute,
    SegmentState,
    Serve,
    Settle,
    ShowChunk,
    Spread,
    TakeSeat,
    Terms,
    Withdraw,
    WithdrawDisputes,
)
from assay.dispute import moves
from assay.dispute.game import seal_digest
from assay.dispute.moves import Side, shown
from assay.dispute.players import Asserter, Challenger
from assay.dispute.proofs import Array, chunk_proof
from assay.dispute.record import Rules
from assay.ids import ZERO_ADDRESS, Address, Digest, DisputeId, JobId, PeerId, SegmentId
from assay.job import data_root
from assay.merkle import sha256
from assay.ports import Reverted
from assay.program import Node
from assay.state import state_root
from tests import dispute_cases as cases
from tests.liars.disputes import at as stage_of
from tests.liars.disputes import flipped

RULES = Rules(open_window=50, grace=10, budget=100, payout_delay=30, bond=5_000, pardon_after=1)
TOKENS, STAKE, SEAT, WINDOW = 10**9, 10**8, 1_000_000, 100
PRICE, FEE, DRAW_BOND = 1_000_000, 10_000, 1_000_000
BOND = 6 * PRICE
VERIFIERS = ("vera", "vic", "val")
PEOPLE = ("client", "scheduler", "keyservice", "alice", "watcher", "griefer", "anyone", *VERIFIERS)
LIE = 1
"""The link in which a false commitment is false."""


class Way(NamedTuple):
    provider: str
    """`away` after its offer, `idle` after it has begun, `false` or `right` in what it commits."""
    keys: bool
    """The key service releases them."""
    serves: str
    """The provider `serves` its verifiers, and shows the chunk that it is asked for where they deny it; it `shows` that and serves nobody; or does
    `nothing`."""
    votes: tuple[str, ...]
    """Of each drawn verifier: how far it goes (`away`, `receipt`, `seal`, `reveal`), or its vote (`yes`, `no`)."""
    answers: str
    """In a dispute the provider is `silent`, `concedes`, `plays`, or `replays`: plays after the time that it is given for that."""
    griefs: str = ""
    """Somebody disputes what is right: `seals` or `opens` and says no more, or `plays`. Or throws the game over what is false."""
    watched: bool = True
    """An honest challenger disputes what is false, as soon as it may."""
    batched: bool = False
    """Where all three seal, somebody brings their seals in one transaction, and all votes if there are three."""
    settled: bool = False
    """The provider has had as many segments settled as a pardon takes."""


class Bent(cases.Link):
    """One bit of one element is wrong."""

    def node(self, at: int, node: Node, args: Sequence[Array]) -> Array:
        result = super().node(at, node, args)
        return flipped(result, 3, 23) if at == stage_of("exp") else result


@functools.cache
def bent() -> cases.Link:
    link = cases.run(0, 1)[LIE]
    return Bent(link.job, link.step, link.m, link.state, link.acc if link.m else None, link.batch)


@functools.cache
def ends(false: bool) -> tuple[Digest, ...]:
    right = tuple(link.end_root for link in cases.run(0, 1))
    return (*right[:LIE], bent().end_root, *right[LIE + 1 :]) if false else right


@functools.cache
def trace(unit: int, leaves: int) -> list[Digest]:
    return [sha256(b"trace", bytes([unit, i % 256])) for i in range(leaves)]


class World:
    """One segment of one step, from its offer to the last withdrawal."""

    def __init__(self, way: Way) -> None:
        self.way = way
        self.ledger = MemoryLedger(b"ways", rules=RULES, seat_stake=SEAT, unbond_delay=10)
        self.who = {name: self.ledger.account(name, TOKENS) for name in PEOPLE}
        for i, name in enumerate(("alice", *VERIFIERS)):
            self.do(name, Register(encryption_key=bytes([i + 1]) * 32, peer=PeerId(name)))
            self.do(name, Deposit(amount=STAKE))
        for name in VERIFIERS:
            self.do(name, TakeSeat())
        self.ledger.mine()
        self.terms = self._terms()
        self.start = self.worth()
        self.do("client", PostJob(terms=self.terms))
        self.ledger.mine()
        if way.settled:
            self.ledger.jobs.settled[self.who["alice"]] = RULES.pardon_after
        self.total = sum(self.ledger.balances().values())
        self.segment = SegmentId(1)
        self.disputes: list[DisputeId] = []

    def _terms(self) -> Terms:
        windows = ("activate_window", "lease_window", "takeover_window", "serve_window", "seal_window", "reveal_window", "open_window")
        params = Params(
            **dict.fromkeys(windows, WINDOW), challenge_window=1000, finality=1, redraws=1, links=2 if self.way.settled else 1, verifiers=3, quorum=2,
            draw_bond=DRAW_BOND,
        )  # fmt: skip
        program = cases.PROGRAM
        return Terms(
            spec=cid.of(b"spec"), spec_digest=sha256(b"spec"), program_root=cases.job().root, state_root=state_root(0, cases.initial_state()),
            dataset_root=data_root(cases.data().dataset, cases.ORDER, cases.BATCH), schedule_root=cases.job().schedule_root,
            steps=len(cases.SCHEDULE), micro_batches=cases.MICRO_BATCHES, segment_steps=1, micro_weight=3, update_weight=1,
            micro_leaves=program.micro_leaves, update_leaves=program.update_leaves, price_cap=PRICE, fee=FEE, budget=20 * PRICE,
            deadline=self.ledger.head.time + 10**6, scheduler=self.who["scheduler"], key_service=self.who["keyservice"], params=params,
        )  # fmt: skip

    # ---- small things

    def do(self, name: str, call: AnyCall) -> None:
        self.ledger.apply(self.who[name], call)

    def may(self, name: str, call: AnyCall) -> bool:
        """Whether the chain took it."""
        try:
            self.do(name, call)
        except Reverted:
            return False
        return True

    def worth(self) -> dict[str, int]:
        """Tokens and stake of everybody."""
        return {name: (view := self.ledger.view(who)).tokens + view.stake for name, who in self.who.items()}

    @property
    def state(self) -> SegmentState:
        return self.seg.state

    @property
    def seg(self) -> Segment:
        return self.ledger.jobs.segments[self.segment]

    # ---- the segment

    def run(self) -> None:
        way, now = self.way, self.ledger.head.time
        offer = Offer(provider=self.who["alice"], job=JobId(1), parent=SegmentId(0), start=0, stop=1, price=PRICE, expires=now + 99, nonce=1)
        self.do("scheduler", Assign(offer=offer, signature=self.ledger.sign_offer(self.who["alice"], offer)))
        if way.keys:
            self._release("alice")
        if way.provider != "away":
            self.do("alice", Activate(segment=self.segment))
            if way.provider != "idle":
                self._commit()
        if self.state in (SegmentState.ASSIGNED, SegmentState.ACTIVE):
            self.ledger.mine(WINDOW + 1)
            self.do("anyone", Lapse(segment=self.segment))
        while self.state == SegmentState.COMMITTED:
            self._round()
        self._disputes()
        if self.state == SegmentState.ATTESTED:
            self.ledger.mine(4 * 1000 + 1)
            self.do("anyone", Settle(segment=self.segment))
        self._close()

    def _release(self, *names: str) -> None:
        releases = tuple(Release(recipient=self.who[name], key_id=sha256(b"key"), wrapped=b"w" * 80) for name in names)
        self.do("keyservice", ReleaseKeys(segment=self.segment, releases=releases))

    def _commit(self) -> None:
        committed = ends(self.way.provider == "false")
        leaves = [merkle.leaf(i, end) for i, end in enumerate(committed)]
        self.do("alice", Commit(
            segment=self.segment, stop=1, link_root=merkle.root(leaves), end_root=committed[-1], proof=merkle.prove(leaves, len(leaves) - 1),
            checkpoint=cid.of(b"checkpoint"), key_id=sha256(b"key"), key_envelope=b"e" * 80,
        ))  # fmt: skip

    def _round(self) -> None:
        self.ledger.mine()
        self.ledger.mine()
        self.do("anyone", Draw(segment=self.segment))
        if self.state != SegmentState.DRAWN:
            return
        if self.way.keys:
            self._release(*VERIFIERS)
        had = [name for name, vote in zip(VERIFIERS, self.way.votes, strict=True) if vote != "away"]
        if self.way.keys and self.way.serves == "serves" and len(had) >= 2:
            signed = tuple(self.ledger.sign_receipt(self.who[name], self.segment, self.seg.round) for name in had)
            self.do("alice", Serve(segment=self.segment, verifiers=tuple(self.who[name] for name in had), signatures=signed))
            return self._vote()
        self.ledger.mine(WINDOW + 1)
        self.do("anyone", Redraw(segment=self.segment))
        if self.state == SegmentState.DRAWN:
            self._asked()

    def _asked(self) -> None:
        """A chunk is to be shown."""
        if self.way.serves == "nothing":
            self.ledger.mine(WINDOW + 1)
            return self.do("anyone", Redraw(segment=self.segment))
        self.ledger.mine()
        self.ledger.mine()
        committed, links = ends(self.way.provider == "false"), list(cases.run(0, 1))
        if self.way.provider == "false":
            links[LIE] = bent()
        number = draw.chunk(self.ledger.blocks[self.seg.seed_block].hash, self.segment)
        place, rest = hearing.end_named(number, self.seg.units, cases.MICRO_BATCHES)
        path = merkle.prove([merkle.leaf(i, end) for i, end in enumerate(committed)], place)
        self.do("alice", ShowChunk(segment=self.segment, proof=chunk_proof(links[place].end, rest, path)))
        self._vote()

    def _vote(self) -> None:
        units = self.seg.units
        traces = [trace(unit, draw.leaves_of(unit, self.terms)) for unit in units]
        roots = tuple(merkle.root_of(items) for items in traces)
        reveals: dict[str, Reveal] = {}
        seals: dict[Address, Seal] = {}
        for name, vote in zip(VERIFIERS, self.way.votes, strict=True):
            if vote not in ("seal", "reveal", "yes", "no"):
                continue
            told = (vote != "no", roots, self.who[name], sha256(name.encode(), bytes([self.seg.round])))
            reveals[name] = Reveal(verifier=told[2], agrees=told[0], trace_roots=roots, salt=told[3])
            digest = draw.attestation(self.ledger.chain_id, self.ledger.contract, self.segment, self.seg.round, *told)
            seals[told[2]] = Seal(verifier=told[2], digest=digest, signature=self.ledger.sign_seal(told[2], self.segment, self.seg.round, digest))
        votes = dict(zip(VERIFIERS, self.way.votes, strict=True))
        if self.way.batched and len(seals) == len(VERIFIERS):
            if self._together(tuple(seals[check.verifier] for check in self.seg.checks), reveals, traces):
                return
        else:
            for name in reveals:
                self.do(name, Attest(segment=self.segment, seals=(seals[self.who[name]],)))
        if len(reveals) < 3:
            self.ledger.mine(WINDOW + 1)
        revealing = tuple(reveal for name, reveal in reveals.items() if votes[name] != "seal")
        if revealing:
            self.do("anyone", RevealAll(segment=self.segment, reveals=revealing))
        if self.state == SegmentState.SERVED and self.seg.phase != OPEN:
            self.ledger.mine(WINDOW + 1)
            self.do("anyone", CloseReveals(segment=self.segment))
        self.ledger.mine()
        self.ledger.mine()
        for name in reveals:
            if votes[name] in ("yes", "no"):
                self._open(name, reveals[name], traces)
        if self.state == SegmentState.SERVED:
            self.ledger.mine(WINDOW + 1)
            self.do("anyone", Decide(segment=self.segment))

    def _together(self, seals: tuple[Seal, ...], reveals: dict[str, Reveal], traces: list[list[Digest]]) -> bool:
        """All seals in one call, and all votes; false where some do not vote: then the seals are spread, and the others vote alone."""
        self.do("anyone", Batch(calls=(Attest(segment=self.segment, seals=seals),)))
        if all(vote in ("yes", "no") for vote in self.way.votes):
            self.ledger.mine()
            self.ledger.mine()
            whole = {reveal.verifier: self._opened(name, reveal, traces) for name, reveal in reveals.items()}
            self.do("anyone", RevealAll(segment=self.segment, reveals=tuple(whole[seal.verifier] for seal in seals)))
            return True
        row = draw.seals([(seal.verifier, seal.digest) for seal in seals])
        self.do("anyone", Spread(segment=self.segment, round=self.seg.round, seals=row))
        return False

    def _open(self, name: str, reveal: Reveal, traces: list[list[Digest]]) -> None:
        self.do(name, RevealAll(segment=self.segment, reveals=(self._opened(name, reveal, traces),)))

    def _opened(self, name: str, reveal: Reveal, traces: list[list[Digest]]) -> Reveal:
        """A vote with its openings."""
        who, block = self.who[name], self.seg.opening_block
        block_hash = self.seg.opening_hash or self.ledger.blocks[block].hash
        openings = []
        for j in range(self.terms.params.openings):
            position, leaf = draw.opening(block_hash, self.segment, who, j, self.seg.units, self.terms)
            items = traces[position]
            openings.append(Opening(leaf=items[leaf], proof=merkle.prove([merkle.leaf(i, item) for i, item in enumerate(items)], leaf)))
        return msgspec.structs.replace(reveal, openings=tuple(openings))

    # ---- disputes

    def _disputes(self) -> None:
        if self.way.griefs:
            self._dispute("griefer")
        if self.way.watched and self.way.provider == "false":
            self._dispute("watcher")
        self.ledger.mine(RULES.payout_delay + 1)
        for dispute in self.disputes:
            self.do("anyone", PayDispute(dispute=dispute))

    def _dispute(self, name: str) -> None:
        opening = moves.Open(target=0, unit=LIE, verifier=ZERO_ADDRESS, round=0, salt=sha256(name.encode()))
        known = {"chain_id": self.ledger.chain_id, "disputes": self.ledger.disputes_address, "segment": self.segment}
        facts = msgspec.structs.replace(cases.facts(ends(False)), challenger=self.who[name], **known)
        if not self.may(name, SealDispute(segment=self.segment, digest=seal_digest(facts, opening))):
            return
        number = DisputeId(len(self.ledger.disputes.disputes))
        self.disputes.append(number)
        self.ledger.mine()
        self._play(number, name, opening)

    def _play(self, number: DisputeId, name: str, opening: moves.Open) -> None:
        links = cases.run(0, 1)
        wrong = name == "griefer" and self.way.provider != "false"
        challenger = Challenger(lambda unit: bent() if wrong and unit == LIE else links[unit], ends(False), opening)
        false = self.way.provider == "false"
        asserter = Asserter(lambda unit: bent() if false and unit == LIE else links[unit], ends(false))
        last: moves.AnyMove | None = None
        while (d := self.ledger.disputes.dispute(number)).outcome is None:
            asserting, made = d.state.turn is Side.ASSERTER, sum(d.state.moves)
            move: moves.AnyMove | None = None
            if asserting and self.way.answers != "silent":
                move = moves.Concede() if self.way.answers == "concedes" and d.state.moves[0] == 0 else asserter.move(d.state, last)
            elif not asserting:
                done = {"seals": 0, "opens": 1}.get(self.way.griefs, 99) if name == "griefer" else 99
                move = challenger.move(d.state, last) if made < done else None
            self.ledger.mine()
            if asserting and self.way.answers == "replays" and d.state.moves[0] == 0:
                self.ledger.mine(d.state.facts.allowance + RULES.grace)
            who = "alice" if asserting else name
            if move is None or not self.may(who, PlayMove(dispute=number, move=move, shown=shown(d.state))):
                self.ledger.mine(RULES.grace + RULES.budget + RULES.open_window + d.state.facts.allowance)
                move = moves.Timeout()
                self.do("anyone", PlayMove(dispute=number, move=move, shown=shown(d.state)))
            last = move

    # ---- the end

    def _close(self) -> None:
        """Everybody takes what is theirs; anyone makes the calls that anyone may."""
        self.ledger.mine(5000)
        if self.state == SegmentState.UNPAID:
            self.may("anyone", ClearBond(segment=self.segment))
        elif self.state in (SegmentState.WITHHELD, SegmentState.REJECTED):
            self.may("anyone", ClearDisputed(segment=self.segment))
        self.do("client", CancelJob(job=JobId(1)))
        self.do("client", CloseJob(job=JobId(1)))
        for name in PEOPLE:
            self.may(name, Withdraw())
            self.may(name, WithdrawDisputes())
        self.ledger.mine()


def ways() -> Iterator[Way]:
    yield from (Way(provider, True, "serves", ("yes",) * 3, "plays") for provider in ("away", "idle"))
    votes = list(itertools.combinations_with_replacement(("away", "receipt", "seal", "reveal", "yes", "no"), 3))
    served = ((True, "serves"), (True, "shows"), (True, "nothing"), (False, "shows"))
    for vote, (keys, serves) in itertools.product(votes, served):
        for griefs in ("", "seals", "opens", "plays"):
            yield Way("right", keys, serves, vote, "plays", griefs)
        for answers, griefs in itertools.product(("silent", "concedes", "plays"), ("", "seals", "opens")):
            yield Way("false", keys, serves, vote, answers, griefs)
        yield Way("false", keys, serves, vote, "plays", "", watched=False)
        yield Way("right", keys, serves, vote, "replays", "plays")
        for griefs in ("", "seals", "opens"):
            yield Way("false", keys, serves, vote, "concedes", griefs, settled=True)
    for vote in itertools.combinations_with_replacement(("seal", "reveal", "yes", "no"), 3):
        for griefs in ("", "seals", "plays"):
            yield Way("right", True, True, vote, "plays", griefs, batched=True)
        for answers in ("silent", "concedes", "plays"):
            yield Way("false", True, True, vote, answers, batched=True)


def name_of(way: Way) -> str:
    return "-".join(["/".join(part) if isinstance(part, tuple) else str(part) for part in way])


def check(way: Way) -> None:
    world = World(way)
    world.run()
    ledger, gained = world.ledger, {name: after - world.start[name] for name, after in world.worth().items()}
    # Nothing is stuck, nothing is made.
    assert world.state in TERMINAL
    assert sum(ledger.balances().values()) == world.total
    assert ledger.balances()[ledger.contract] == 0
    assert ledger.balances()[ledger.disputes_address] == 0
    assert ledger.view(world.who["alice"]).reserved == 0
    assert all(ledger.view(world.who[name]).reserved == SEAT for name in VERIFIERS)
    burnt = ledger.balances()[ledger.burn_address]
    # A lie that is watched is never paid, and once drawn costs what it must, whoever its friends are.
    pardoned = world.seg.pardoned is not None
    if way.provider == "false" and way.watched:
        assert burnt >= (0 if pardoned else BOND // 2)
        assert gained["alice"] + gained["griefer"] <= (0 if pardoned else -BOND // 2)
        assert gained["watcher"] >= 0
        assert pardoned <= (way.settled and way.answers == "concedes")
    # Who did its part loses nothing; who did not is not paid.
    if way.provider == "right":
        assert gained["alice"] >= 0
        assert world.state not in (SegmentState.REJECTED, SegmentState.VOID)
        if way.keys and way.serves == "serves" and (way.votes.count("yes") >= 2 or "no" not in way.votes):
            assert gained["alice"] >= PRICE
    if way.provider in ("away", "idle"):
        assert gained["alice"] < 0
    # Silence is not paid; who shows a chunk and serves nobody is not, where one that was not served says so and too few friends say yes.
    if way.serves == "nothing" or not way.keys or (way.serves == "shows" and "no" in way.votes and way.votes.count("yes") < 2):
        assert gained["alice"] <= RULES.bond
    # To deny having been served costs whoever had its key.
    if way.keys and way.serves != "nothing" and way.votes.count("away") == 3 and way.provider == "right":
        assert all(gained[name] < 0 for name in VERIFIERS)
    for name, vote in zip(VERIFIERS, way.votes, strict=True):
        if vote == ("no" if way.provider == "false" else "yes"):
            assert gained[name] >= 0
        if vote not in ("yes", "no"):
            assert gained[name] <= 0
        # Who said no in a round that came to an end is paid for it when, and only when, a dispute bears it out.
        if vote == "no" and world.state in (SegmentState.REJECTED, SegmentState.WITHHELD):
            assert (gained[name] > 0) == (way.provider == "false" and way.watched), name
    # Nobody can stall for nothing.
    if way.griefs and world.disputes and way.provider == "right":
        assert gained["griefer"] == -RULES.bond
    # The client pays for what is settled and for honest checks, and for nothing else.
    fees = sum(max(0, gained[name]) for name in VERIFIERS)
    assert gained["client"] >= -(PRICE if world.state == SegmentState.SETTLED else 0) - fees


ALL = list(ways())


@pytest.mark.parametrize("way", ALL[::29], ids=name_of)
def test_some_ways(way: Way) -> None:
    check(way)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(16))
def test_every_way(part: int) -> None:
    for way in ALL[part::16]:
        try:
            check(way)
        except Exception as error:
            raise AssertionError(name_of(way)) from error
