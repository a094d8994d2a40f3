"""Finding providers by what they have: whole networks in memory, honest and not, on a clock that stands still unless it is told to move."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable

import pytest

from assay.adapters import hardware, peerbook, rendezvous
from assay.adapters.peerbook import Peerbook
from assay.adapters.rendezvous import (
    HOLDERS,
    LISTED,
    LISTED_PER_NETWORK,
    MAX_ASKED,
    TOLD,
    Board,
    Search,
    fits,
    key_to_ask,
    keys_to_list,
    nearest,
    place,
)
from assay.cli.common import Trouble
from assay.cli.peers import wanted
from assay.codec import Malformed
from assay.ids import Address, Digest, PeerId
from assay.messages import Found, Means, PeerRecord, Seek, SignedRecord

CONTRACT = Address("0x" + "ab" * 20)
CHAIN = 31337
GIB = 1 << 30
START = 1_800_000_000_000
PLAIN = Means(gpu=False, memory=4 * GIB, bits=14)
VERIFY = peerbook.verify
BIG = Means(gpu=True, memory=24 * GIB, bits=23)


@functools.cache
def verified(signed: SignedRecord) -> bool:
    """Once for each record: a network in one process would verify each a thousand times."""
    try:
        VERIFY(signed)
    except Malformed:
        return False
    return True


def record(seed: bytes, address: str, has: Means | None, now: int, **changes: object) -> SignedRecord:
    fields: dict[str, object] = {
        "peer": peerbook.peer_id(seed), "account": CONTRACT, "role": "worker", "addresses": (address,), "gateway": "", "sequence": now,
        "chain_id": CHAIN, "contract": CONTRACT, "means": has,
    }  # fmt: skip
    return peerbook.sign(PeerRecord(**(fields | changes)), seed)  # type: ignore[arg-type]


class Member:
    """A node of the network below. The liars are it with one part replaced."""

    def __init__(self, net: Network, number: int, address: str, means: Means | None = PLAIN) -> None:
        self.net, self.host = net, address.split("/")[2]
        self.seed = number.to_bytes(32)
        self.means, self.address = means, address
        self.peer = peerbook.peer_id(self.seed)
        self.book = Peerbook(self.peer, CHAIN, CONTRACT, lambda: net.now)
        self.board = Board(self.book, lambda: net.now)
        self.asked = 0
        self.renew()

    def renew(self) -> None:
        self.own = record(self.seed, self.address, self.means, self.net.now)

    def answer(self, seek: Seek) -> Found:
        self.asked += 1
        return self.board.answer(seek, self.net.rng)

    def enlisted(self, signed: SignedRecord, peer: PeerId, host: str) -> bool:
        return self.board.enlist(signed, peer, host)

    def search(self, seek: Seek) -> Search:
        known = self.book.signed()
        search = Search(seek, known, known[:4] if seek.means else [], verified, self.net.now)
        while not search.over:
            for signed in search.next():
                other = self.net.members.get(signed.record.peer)
                if other is None:
                    search.failed(signed.record.peer)
                    continue
                found = other.answer(seek)
                search.answered(signed.record.peer, found)
                for one in found.nearer:
                    if verified(one):
                        self.board.know(one)
        return search

    def join(self) -> None:
        self.search(Seek(key=place(self.peer)))

    def enlist(self) -> int:
        told = set()
        for key in keys_to_list(self.own.record):
            told |= {holder.record.peer for holder in self.search(Seek(key=key)).holders()}
        return sum(self.net.members[peer].enlisted(self.own, self.peer, self.host) for peer in told if peer in self.net.members)

    def find(self, means: Means) -> set[PeerId]:
        return set(self.search(Seek(key=key_to_ask(CHAIN, CONTRACT, means), means=means)).found)


class Network:
    def __init__(self, seed: int = 0) -> None:
        self.rng, self.now = random.Random(seed), START
        self.members: dict[PeerId, Member] = {}

    def add(self, kind: Callable[..., Member] = Member, network: int | None = None, means: Means | None = PLAIN) -> Member:
        """A node at an address of its own, in an IPv4 /16 of its own unless it is told which."""
        number = len(self.members) + 1
        which = number if network is None else network
        member = kind(self, number, f"/ip4/{20 + which // 200}.{which % 200}.{number % 250}.{number // 250}/tcp/4001", means)
        self.members[member.peer] = member
        return member

    def meet(self, each: int) -> None:
        """Every node hears of `each` others, and then looks for those near to it."""
        everybody = list(self.members.values())
        for member in everybody:
            self.tell(member, each)
        for member in everybody:
            member.join()

    def tell(self, member: Member, each: int) -> None:
        for other in self.rng.sample(list(self.members.values()), each):
            member.book.add(other.own)

    def late(self, means: Means, each: int) -> Member:
        """A node that comes when the others have met: it hears of some of them, and nobody hears of it but who is near to it."""
        member = self.add(means=means)
        self.tell(member, each)
        member.join()
        return member


@pytest.fixture(autouse=True)
def _verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(signed: SignedRecord) -> PeerRecord:
        if not verified(signed):
            raise Malformed("not signed by that peer")
        return signed.record

    monkeypatch.setattr(rendezvous, "verify", check)
    monkeypatch.setattr(peerbook, "verify", check)


def test_what_fits_and_under_which_keys_it_stands() -> None:
    assert fits(BIG, BIG)
    assert fits(BIG, PLAIN)
    assert not fits(PLAIN, BIG)
    assert not fits(None, Means(gpu=False, memory=0, bits=0))
    assert not fits(BIG, Means(gpu=True, memory=24 * GIB + 1, bits=23))
    own = record(b"k" * 32, "/ip4/1.2.3.4/tcp/1", BIG, START).record
    for sought in (BIG, PLAIN, Means(gpu=True, memory=17 * GIB, bits=8), Means(gpu=False, memory=0, bits=0), Means(gpu=True, memory=1, bits=0)):
        assert fits(own.means, sought)
        assert key_to_ask(CHAIN, CONTRACT, sought) in keys_to_list(own)
    more = Means(gpu=False, memory=64 * GIB, bits=8)
    assert key_to_ask(CHAIN, CONTRACT, more) not in keys_to_list(own)
    assert key_to_ask(CHAIN + 1, CONTRACT, BIG) not in keys_to_list(own)
    most = [key_to_ask(CHAIN, CONTRACT, Means(gpu=False, memory=1 << size, bits=8)) for size in (42, 62)]
    assert most[0] == most[1]


def test_a_provider_is_found_that_nobody_had_told_of() -> None:
    """Of 200 nodes that each have heard of a dozen, three have what is wanted; whoever looks finds all three, asking few."""
    net = Network()
    for _ in range(197):
        net.add()
    net.meet(12)
    rare = [net.late(BIG, 12) for _ in range(3)]
    assert all(one.enlist() > 0 for one in rare)
    seekers = list(net.members.values())[:197:29]
    assert not any(member.book.get(one.peer) for one in rare for member in seekers)
    for seeker in seekers:
        before = sum(member.asked for member in net.members.values())
        assert seeker.find(BIG) == {one.peer for one in rare}
        assert sum(member.asked for member in net.members.values()) - before <= MAX_ASKED
        assert seeker.find(Means(gpu=True, memory=80 * GIB, bits=23)) == set()


def test_a_listing_ends_unless_it_is_renewed_and_an_old_one_does_not_come_back() -> None:
    net = Network()
    board = net.add().board
    provider = net.add(means=BIG)
    old = provider.own
    assert board.enlist(old, provider.peer, "20.2.0.1")
    seek = Seek(key=key_to_ask(CHAIN, CONTRACT, BIG), means=BIG)
    assert [signed.record.peer for signed in board.answer(seek, net.rng).records] == [provider.peer]
    net.now += LISTED // 2
    provider.means = PLAIN
    provider.renew()
    assert board.enlist(provider.own, provider.peer, "20.2.0.1")
    assert board.enlist(old, provider.peer, "20.2.0.1")  # a replay changes nothing
    assert board.answer(seek, net.rng).records == ()
    assert len(board.answer(Seek(key=seek.key, means=PLAIN), net.rng).records) == 1
    net.now += LISTED
    assert board.answer(Seek(key=seek.key, means=PLAIN), net.rng).records == ()
    with pytest.raises(Malformed, match="old, or from the future"):
        board.enlist(old, provider.peer, "20.2.0.1")


@pytest.mark.parametrize(
    "changes",
    [{"chain_id": 1}, {"means": None}, {"sequence": START + LISTED}, {"sequence": START - LISTED}, {"addresses": ("/ip4/1.1.1.1/tcp/1",) * 17}],
)
def test_what_may_not_be_listed(changes: dict[str, object]) -> None:
    board = Network().add().board
    signed = record(b"p" * 32, "/ip4/20.2.0.1/tcp/1", BIG, START, **changes)
    with pytest.raises(Malformed):
        board.enlist(signed, signed.record.peer, "20.2.0.1")


def test_nobody_lists_another_or_what_it_did_not_sign() -> None:
    board = Network().add().board
    signed = record(b"p" * 32, "/ip4/20.2.0.1/tcp/1", BIG, START)
    with pytest.raises(Malformed, match="asks itself"):
        board.enlist(signed, peerbook.peer_id(b"q" * 32), "20.2.0.1")
    with pytest.raises(Malformed, match="signed"):
        board.enlist(SignedRecord(record=signed.record, signature=bytes(64)), signed.record.peer, "20.2.0.1")


def test_a_swarm_from_one_network_fills_neither_a_board_nor_an_answer() -> None:
    net = Network()
    board = net.add().board
    for number in range(LISTED_PER_NETWORK + 20):
        signed = record((1000 + number).to_bytes(32), f"/ip4/{30 + number}.7.0.1/tcp/1", BIG, START)  # it claims an address in each of many networks
        assert board.enlist(signed, signed.record.peer, "66.66.0.9") == (number < LISTED_PER_NETWORK)
    honest = [net.add(means=BIG) for _ in range(3)]
    assert all(board.enlist(one.own, one.peer, one.host) for one in honest)
    told = {signed.record.peer for signed in board.answer(Seek(key=place(honest[0].peer), means=BIG), net.rng).records}
    assert len(told) == TOLD
    assert told >= {one.peer for one in honest}


class Silent(Member):
    """Takes listings and tells of none; as nearest it names its friends."""

    friends: tuple[Member, ...] = ()

    def answer(self, seek: Seek) -> Found:
        self.asked += 1
        return Found(records=(), nearer=tuple(nearest([one.own for one in self.friends], seek.key, HOLDERS)))


class Forging(Silent):
    """Tells of providers that do not exist."""

    def answer(self, seek: Seek) -> Found:
        self.asked += 1
        return Found(records=(SignedRecord(record=record(b"z" * 32, "/ip4/9.9.9.9/tcp/1", BIG, START).record, signature=bytes(64)),), nearer=())


class Stale(Silent):
    """Tells of providers whose time is over, and of such as have not what is wanted."""

    def answer(self, seek: Seek) -> Found:
        self.asked += 1
        old = record(b"z" * 32, "/ip4/9.9.9.9/tcp/1", BIG, START - LISTED - 1)
        return Found(records=(old, record(b"y" * 32, "/ip4/9.9.9.9/tcp/1", PLAIN, START)), nearer=())


@pytest.mark.parametrize("kind", [Silent, Forging, Stale])
def test_an_eclipse_from_few_networks_hides_nobody(kind: type[Silent]) -> None:
    """Forty ids, ground to be nearer to the key than any honest node's, at addresses of three networks of the internet."""
    net = Network()
    for _ in range(60):
        net.add()
    wanted = key_to_ask(CHAIN, CONTRACT, BIG)
    honest = min(int.from_bytes(place(peer)) ^ int.from_bytes(wanted) for peer in net.members)
    ground = [n for n in range(10_000, 11_500) if int.from_bytes(place(ids(n))) ^ int.from_bytes(wanted) < honest][:40]
    assert len(ground) >= 12
    swarm = []
    for count, number in enumerate(ground):
        one = kind(net, number, f"/ip4/{150 + count % 3}.9.0.{count + 1}/tcp/1")
        net.members[one.peer] = one
        swarm.append(one)
    for one in swarm:
        one.friends = tuple(swarm)
    net.meet(12)
    rare = net.late(BIG, 12)
    assert rare.enlist() > 0
    asked = [member for member in net.members.values() if not isinstance(member, Silent) and member is not rare][::9]
    assert all(member.find(BIG) == {rare.peer} for member in asked)


@functools.cache
def ids(number: int) -> PeerId:
    return peerbook.peer_id(number.to_bytes(32))


def test_a_search_ends_whatever_it_is_told() -> None:
    """Each answer names eight nodes nearer than all before, which do not end."""
    seek = Seek(key=Digest(bytes(32)), means=BIG)
    numbers = iter(range(50_000, 60_000))

    def fresh() -> SignedRecord:
        number = next(numbers)
        return record(number.to_bytes(32), f"/ip4/{number % 200}.{number // 200 % 250}.1.1/tcp/1", PLAIN, START)

    search = Search(seek, [fresh() for _ in range(8)], [], lambda signed: True, START)
    asked = 0
    while not search.over:
        for signed in search.next():
            asked += 1
            search.answered(signed.record.peer, Found(records=(), nearer=tuple(fresh() for _ in range(HOLDERS))))
    assert asked <= MAX_ASKED
    crowd = Search(seek, [fresh()], [], lambda signed: True, START)
    [one] = crowd.next()
    many = tuple(record(n.to_bytes(32), "/ip4/1.1.1.1/tcp/1", BIG, START) for n in range(1, TOLD + 2))
    crowd.answered(one.record.peer, Found(records=many, nearer=()))
    assert (crowd.over, crowd.found, crowd.holders()) == (True, {}, [])


# ---- the command line ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpu", "memory", "precision", "means"),
    [
        (False, None, None, None),
        (True, None, None, Means(gpu=True, memory=0, bits=0)),
        (True, "24G", "exact", Means(gpu=True, memory=24 * GIB, bits=23)),
        (False, "512MiB", "14", Means(gpu=False, memory=GIB // 2, bits=14)),
        (False, "1000", None, Means(gpu=False, memory=1000, bits=0)),
    ],
)
def test_what_is_wanted_as_it_is_typed(gpu: bool, memory: str | None, precision: str | None, means: Means | None) -> None:
    assert wanted(gpu, memory, precision) == means


@pytest.mark.parametrize(
    ("memory", "precision"), [("24", "24"), ("24", "7"), ("24", "exactly"), ("24", "\u0661\u0664"), ("much", None), ("-1G", None), ("9" * 30, None)]
)
def test_what_cannot_be_read_is_said(memory: str, precision: str | None) -> None:
    with pytest.raises(Trouble):
        wanted(True, memory, precision)


def test_a_machine_says_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "gpus", lambda: ())
    assert hardware.means(1 << 50) == Means(gpu=False, memory=hardware.machine().memory, bits=23)
    assert hardware.means(1 << 20) == Means(gpu=False, memory=1 << 20, bits=23)
    device = hardware.Gpu(
        index=0, uuid="x", name="x", driver="1", capability=None, memory=80 * GIB, used=0, temperature=None, power=None, power_limit=None, busy=None,
        ecc=None, mig=None, processes=(),
    )  # fmt: skip
    monkeypatch.setattr(hardware, "gpus", lambda: (device,))
    assert hardware.means(1 << 50) == Means(gpu=True, memory=72 * GIB, bits=23)
    assert hardware.means(1 << 50, "20G") == Means(gpu=True, memory=20 * GIB, bits=23)
    assert hardware.means(30 * GIB, "50%") == Means(gpu=True, memory=30 * GIB, bits=23)
    monkeypatch.setenv("ASSAY_DEVICE", "cpu")
    assert not hardware.means(1 << 50).gpu
