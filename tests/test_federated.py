"""A federated round: the sum is exact whoever drops out, the record proves it to anybody, and no side gets a mask off by lying."""

from __future__ import annotations

import itertools
import json
import os
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from test_fuzz_decoders import bend, harmless

from assay.codec import Malformed, decode, digest, encode
from assay.exact import reference
from assay.federated import graph, messages, record, ring, sharing
from assay.federated.client import Client, OutOfTurn
from assay.federated.coordinator import Coordinator, Lost, Phase
from assay.federated.messages import Delivery, Order, Record, Refused, Roster, Secret, Signed, Survivors, Terms, sign
from assay.federated.ring import Row
from assay.ids import Digest
from assay.merkle import sha256

BEACON = sha256(b"block")
TRAINED = sha256(b"trained")


def identity(i: int) -> bytes:
    return sha256(b"identity", bytes([i]))


def terms(count: int = 7, **change: Any) -> Terms:
    owners = tuple(Ed25519PrivateKey.from_private_bytes(identity(i)).public_key().public_bytes_raw() for i in range(count))
    usual = dict(
        job=sha256(b"job"), round=3, model=sha256(b"model"), length=40, bits=32, fraction=12, limit=1 << 20, norm=0, owners=owners,
        weights=(1, 2, 3, *(1,) * (count - 3)), degree=6, threshold=4, minimum=count * 2 // 3 + 1,
    )  # fmt: skip
    return Terms(**{**usual, **change})


def rows(t: Terms, seed: int = 0) -> list[Row]:
    rng = np.random.default_rng(seed)
    clear = rng.integers(-t.limit, t.limit + 1, (len(t.owners), t.length))
    return [(clear[i] * t.weights[i]).astype(ring.SIGNED[t.bits]) for i in range(len(t.owners))]


@dataclass
class Play:
    """A round in one process. `gone` names who says nothing from a phase on; `twist` may replace what is delivered to an owner."""

    terms: Terms
    gone: dict[Phase, Iterable[int]] = field(default_factory=dict)
    twist: Callable[[int, Any], Any] = lambda owner, message: message
    clients: list[Client] = field(init=False)
    coordinator: Coordinator = field(init=False)
    sent: dict[int, Row] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clients = [Client(self.terms, identity(i), sha256(b"secret", bytes([i]))) for i in range(len(self.terms.owners))]
        self.coordinator = Coordinator(self.terms)
        self.clear = rows(self.terms)

    def answer(self, owner: int, message: Any) -> tuple[Signed, Row | None]:
        client = self.clients[owner]
        if isinstance(message, Delivery):
            client.delivery(message)
            signed, self.sent[owner] = client.upload(self.clear[owner], TRAINED)
            return signed, self.sent[owner]
        if isinstance(message, Roster):
            return client.roster(message), None
        return (client.survivors(message) if isinstance(message, Survivors) else client.order(message)), None

    def phase(self, to: dict[int, Any]) -> None:
        away = set(
            itertools.chain(*(who for phase, who in self.gone.items() if list(Phase).index(phase) <= list(Phase).index(self.coordinator.phase)))
        )
        for owner, message in to.items():
            if owner not in away:
                try:
                    wire = decode(encode(self.twist(owner, message)), messages.AnyFromCoordinator, messages.MAX_MESSAGE)
                    signed, row = self.answer(owner, wire)
                    self.coordinator.take(decode(encode(signed), Signed), row)
                except Refused as error:
                    self.refused[owner] = str(error)

    def run(self) -> Record:
        for owner, client in enumerate(self.clients):
            if owner not in set(self.gone.get(Phase.ADVERTS, ())):
                self.coordinator.take(client.advert())
        self.phase(dict(self.coordinator.close(BEACON)))
        while self.coordinator.phase is not Phase.REVEALING:
            self.phase(dict(self.coordinator.close()))
        self.coordinator.close()
        assert self.coordinator.record is not None
        return decode(encode(self.coordinator.record), Record, messages.MAX_MESSAGE)


def unsigned(signed: Signed) -> Signed:
    return msgspec.structs.replace(signed, signature=bytes(64))


def summed(play: Play, owners: Iterable[int]) -> Row:
    return np.sum([play.clear[o] for o in owners], axis=0, dtype=ring.SIGNED[play.terms.bits])


# ---- honest rounds -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("phase", "bits"), [(None, 32), *zip(list(Phase)[:-1], (64, 32, 64, 32, 64), strict=True)])
def test_the_sum_is_exact_whenever_owners_drop_out(phase: Phase | None, bits: int) -> None:
    play = Play(terms(10, bits=bits, limit=1 << (bits - 9), degree=8, threshold=5), {phase: (1, 6, 8)} if phase else {})
    made = play.run()
    counted = [o for o in range(10) if phase in (None, Phase.AGREEING, Phase.REVEALING) or o not in (1, 6, 8)]
    assert [signed.body.owner for signed in made.survivors.uploads] == counted
    assert np.array_equal(play.coordinator.total, summed(play, counted))
    assert np.array_equal(record.check(made, play.sent.__getitem__), summed(play, counted))


def test_a_round_of_many_phases_of_losses_on_a_sparse_graph() -> None:
    play = Play(terms(16, degree=12, threshold=7), {Phase.DEALING: (3,), Phase.UPLOADS: (5, 9), Phase.AGREEING: (10,), Phase.REVEALING: (2,)})
    made = play.run()
    assert len(made.masks) == 2
    counted = sorted(set(range(16)) - {3, 5, 9})
    assert np.array_equal(record.check(made, play.sent.__getitem__), summed(play, counted))
    assert all(len(near) == 12 for near in play.coordinator.near.values())


def test_what_is_sent_says_nothing_and_the_sum_is_a_reduce_of_the_table() -> None:
    play = Play(terms(length=4000))
    play.clear[0][:] = 0
    made = play.run()
    ones = np.unpackbits(play.sent[0].view(np.uint8)).mean()
    assert abs(ones - 0.5) < 0.01
    masks = np.zeros(4000, np.int32)
    adverts = messages.all_opened(made.roster.adverts, made.terms, digest(made.terms), messages.Advert)
    uploads = messages.all_opened(made.survivors.uploads, made.terms, digest(made.terms), messages.Upload)
    secrets = {s.of: s.secret for s in made.seeds}, {s.of: s.secret for s in made.masks}
    record.unmask(masks, made.terms, digest(made.terms), adverts, uploads, *secrets)
    stacked = np.stack([*(play.sent[o] for o in range(7)), masks]).astype(np.int64)
    total = reference.apply("sum", {"axes": (0,), "keepdim": False}, [stacked], "i64", 14)
    assert np.array_equal(reference.apply("cast", {"dtype": "i32"}, [total], "i32", 14), play.coordinator.total)


def test_the_same_secrets_give_the_same_bits_everywhere() -> None:
    play = Play(terms(), {Phase.UPLOADS: (2,)})
    made = play.run()
    assert made.total.hex() == "457950f04d8520f63e82b8107399f0ad8b80740af26068c5bdbdfc941b2b533c"
    assert digest(made).hex() == "9fe86b3bbe1ff08657b2561a5be6f6c9555c441e32a80e25996a8cc42901498b"


# ---- owners and a coordinator that lie -----------------------------------------------------------------------------------


def test_two_stories_of_who_survived_end_the_round_before_a_share_is_shown() -> None:
    """The attack of a coordinator that wants both secrets of owner 0: some hear that it survived, the others that it is gone."""

    def twist(owner: int, message: Any) -> Any:
        if isinstance(message, Survivors) and owner >= 4:
            return msgspec.structs.replace(message, uploads=message.uploads[1:])
        return message

    play = Play(terms(), twist=twist)
    with pytest.raises(Lost, match="only 4 of at least 5"):
        play.run()
    assert set(play.refused) == {4, 5, 6}  # they agree to other survivors
    honest = Play(terms())
    honest.run()
    agreements = [honest.coordinator._signed[Phase.AGREEING][o] for o in range(7)]
    with pytest.raises(OutOfTurn):
        honest.clients[0].survivors(Survivors(terms=honest.coordinator.name, uploads=()))
    again = Client(terms(), identity(0), sha256(b"secret", bytes([0])))
    again.advert()
    again.roster(honest.coordinator._roster)  # type: ignore[arg-type]
    again.delivery(honest.coordinator._delivery(0))
    again.upload(honest.clear[0], TRAINED)
    again.survivors(Survivors(terms=again.name, uploads=tuple(honest.coordinator._signed[Phase.UPLOADS][o] for o in range(6))))
    with pytest.raises(Refused, match="tells each what suits it"):
        again.order(Order(terms=again.name, agreements=tuple(agreements)))


@pytest.mark.parametrize(
    ("kind", "change", "why"),
    [
        (Roster, lambda m: msgspec.structs.replace(m, terms=TRAINED), "another round"),
        (Roster, lambda m: msgspec.structs.replace(m, adverts=m.adverts[:4]), "too short"),
        (Roster, lambda m: msgspec.structs.replace(m, adverts=m.adverts[:0:-1]), "out of order"),
        (Roster, lambda m: msgspec.structs.replace(m, adverts=(*m.adverts[:6], unsigned(m.adverts[6]))), "not that of owner 6"),
        (Delivery, lambda m: msgspec.structs.replace(m, terms=TRAINED), "this round's neighbours"),
        (Delivery, lambda m: msgspec.structs.replace(m, shares=m.shares[::-1]), "this round's neighbours"),
        (Delivery, lambda m: msgspec.structs.replace(m, shares=m.shares[:3]), "fewer than the threshold"),
        (Survivors, lambda m: msgspec.structs.replace(m, terms=TRAINED), "another round"),
        (Survivors, lambda m: msgspec.structs.replace(m, uploads=m.uploads[1:]), "left out"),
        (Survivors, lambda m: msgspec.structs.replace(m, uploads=m.uploads[:4]), "too few survive"),
        (Order, lambda m: msgspec.structs.replace(m, terms=TRAINED), "too few agree"),
        (Order, lambda m: msgspec.structs.replace(m, agreements=m.agreements[:4]), "too few agree"),
    ],
)  # fmt: skip
def test_an_owner_takes_nothing_that_a_coordinator_may_not_send(kind: type, change: Callable[[Any], Any], why: str) -> None:
    play = Play(terms(), twist=lambda owner, m: change(m) if owner == 0 and isinstance(m, kind) else m)
    play.run()
    assert why in play.refused[0]


def test_an_owner_that_was_told_of_other_neighbours_is_noticed() -> None:
    def twist(owner: int, message: Any) -> Any:
        return msgspec.structs.replace(message, shares=message.shares[1:]) if owner == 3 and isinstance(message, Delivery) else message

    play = Play(terms(), twist=twist)
    play.run()
    assert "masks with others than was delivered" in play.refused[3]  # the coordinator's own machine would not count it
    honest = Play(terms())
    honest.run()
    uploads = [honest.coordinator._signed[Phase.UPLOADS][o] for o in range(7)]
    uploads[3] = sign(msgspec.structs.replace(uploads[3].body, partners=(1, 2, 4, 5, 6)), identity(3))
    client = Client(terms(), identity(0), sha256(b"secret", bytes([0])))
    client.advert()
    client.roster(honest.coordinator._roster)  # type: ignore[arg-type]
    client.delivery(honest.coordinator._delivery(0))
    client.upload(honest.clear[0], TRAINED)
    with pytest.raises(Refused, match="owner 3 was told otherwise"):
        client.survivors(Survivors(terms=client.name, uploads=tuple(uploads)))


def test_keys_that_agree_on_nothing_are_taken_by_nobody() -> None:
    play = Play(terms())
    bad = sign(msgspec.structs.replace(play.clients[1].advert().body, mask=bytes(32)), identity(1))
    with pytest.raises(Refused, match="agrees on nothing"):
        play.coordinator.take(bad)
    adverts = tuple(client.advert() if i != 1 else bad for i, client in enumerate(play.clients))
    with pytest.raises(Refused, match="agrees on nothing"):
        play.clients[0].roster(Roster(terms=play.coordinator.name, adverts=adverts, beacon=BEACON))


def test_the_coordinator_refuses_what_is_not_due() -> None:
    play = Play(terms())
    c, adverts = play.coordinator, [client.advert() for client in play.clients]
    for a in adverts:
        c.take(a)
    with pytest.raises(Refused, match="nothing is due from owner 2"):
        c.take(adverts[2])
    with pytest.raises(OutOfTurn, match="beacon"):
        c.close()
    roster: Any = c.close(BEACON)[0]
    with pytest.raises(Refused, match="Advert where Dealt is due"):
        c.take(adverts[2])
    dealt = [client.roster(roster) for client in play.clients]
    with pytest.raises(Refused, match="to each of its neighbours"):
        c.take(sign(msgspec.structs.replace(dealt[0].body, shares=dealt[0].body.shares[1:]), identity(0)))  # type: ignore[union-attr]
    with pytest.raises(Refused, match="there is no owner 9"):
        c.take(sign(msgspec.structs.replace(dealt[0].body, owner=9), identity(0)))
    for d in dealt:
        c.take(d)
    for owner, message in c.close().items():
        play.clients[owner].delivery(message)  # type: ignore[arg-type]
    upload, row = play.clients[0].upload(play.clear[0], TRAINED)
    for other in (None, row[1:], row.astype(np.int64), row + np.int32(1)):
        with pytest.raises(Refused, match="not the one that it signed for"):
            c.take(upload, other)
    c.take(upload, row)
    for client, clear in zip(play.clients[1:], play.clear[1:], strict=True):
        c.take(*client.upload(clear, TRAINED))
    survivors: Any = c.close()[0]
    for client in play.clients:
        c.take(client.survivors(survivors))
    order: Any = c.close()[0]
    reveals = [client.order(order).body for client in play.clients]
    first: Any = reveals[0]
    shown = first.seeds[0]
    for false, why in (
        (msgspec.structs.replace(first, masks=(shown,)), "nobody asked for"),
        (msgspec.structs.replace(first, seeds=(msgspec.structs.replace(shown, of=0), *first.seeds)), "nobody asked for"),
        (
            msgspec.structs.replace(first, seeds=(msgspec.structs.replace(shown, share=bytes(33)), *first.seeds[1:])),
            "another share than owner 1 dealt",
        ),
    ):
        with pytest.raises(Refused, match=why):
            c.take(sign(false, identity(0)))
    for i, body in enumerate(reveals):
        c.take(sign(body, identity(i)))
    assert c.waiting == set()
    c.close()
    with pytest.raises(OutOfTurn, match="over"):
        c.take(adverts[0])
    with pytest.raises(OutOfTurn, match="over"):
        c.close()


def test_a_dealer_of_junk_is_named_and_a_single_bad_share_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def twist(owner: int, message: Any) -> Any:
        if isinstance(message, Delivery) and owner == 2:
            (dealer, share), *rest = message.shares
            return msgspec.structs.replace(message, shares=((dealer, msgspec.structs.replace(share, sealed=bytes(82))), *rest))
        return message

    play = Play(terms(), twist=twist)
    made = play.run()
    assert np.array_equal(record.check(made, play.sent.__getitem__), summed(play, range(7)))
    play = Play(terms())
    play.clients[4]._seed = sha256(b"what it deals")
    deal = play.clients[4].roster

    def dealing(message: Roster) -> Signed:
        out = deal(message)
        play.clients[4]._seed = sha256(b"what it masks with")
        return out

    monkeypatch.setattr(play.clients[4], "roster", dealing)
    with pytest.raises(Lost, match="owners \\[4\\]") as lost:
        play.run()
    assert lost.value.faulty == (4,)


def test_too_few_owners_or_shares_are_no_sum() -> None:
    with pytest.raises(Lost, match="only 4 of at least 5 owners sent their Upload"):
        Play(terms(), {Phase.UPLOADS: (0, 1, 2)}).run()
    with pytest.raises(Lost, match="shares of the seed of owner 0"):
        Play(terms(), {Phase.REVEALING: (1, 2, 3)}).run()


def test_whatever_is_changed_in_a_record_is_found() -> None:
    play = Play(terms(), {Phase.UPLOADS: (2,)})
    made = play.run()
    rep = msgspec.structs.replace
    other = Play(terms(round=4), {Phase.UPLOADS: (2,)}).run()

    def changed(rows: Any, i: int, **what: Any) -> Any:
        return (*rows[:i], rep(rows[i], **what), *rows[i + 1 :])

    false = [
        rep(made, terms=other.terms), rep(made, roster=other.roster), rep(made, survivors=other.survivors), rep(made, agreements=other.agreements),
        rep(made, agreements=made.agreements[:4]), rep(made, seeds=made.seeds[1:]), rep(made, seeds=changed(made.seeds, 0, secret=bytes(32))),
        rep(made, masks=()), rep(made, masks=(Secret(of=2, secret=bytes(32)),)), rep(made, total=TRAINED),
        rep(made, roster=rep(made.roster, beacon=TRAINED, adverts=made.roster.adverts[:5])),
        rep(made, survivors=rep(made.survivors, uploads=made.survivors.uploads[:5])),
        rep(made, survivors=rep(made.survivors, uploads=changed(made.survivors.uploads, 0, signature=bytes(64)))),
    ]  # fmt: skip
    for one in false:
        with pytest.raises(Refused):
            record.check(one, play.sent.__getitem__)
    with pytest.raises(Refused, match="row of owner"):
        record.check(made, lambda owner: play.sent[owner] + np.int32(owner == 3))


def test_an_auditor_that_an_owner_shows_its_update_sees_that_one_only() -> None:
    play = Play(terms(norm=5_000_000), {Phase.UPLOADS: (2,)})
    made = play.run()
    opening = play.clients[3].opening()
    assert np.array_equal(record.look(made, opening, play.sent[3]), play.clear[3])
    for false in (opening._replace(seed=bytes(32)), opening._replace(mask=bytes(32)), opening._replace(salt=bytes(32)), opening._replace(owner=2)):
        with pytest.raises(Refused):
            record.look(made, false, play.sent[3])
    with pytest.raises(Refused):
        record.look(made, opening, play.sent[4])
    with pytest.raises(OutOfTurn):
        Client(play.terms, identity(0), bytes(32)).opening()


def test_an_owner_that_poisons_is_found_by_the_auditor_who_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    play = Play(terms(norm=5_000_000))
    play.clear[5][:] = play.terms.limit
    with pytest.raises(Refused, match="longer than"):
        play.clients[5].delivery, play.clients[5].upload(play.clear[5], TRAINED)
    monkeypatch.setattr("assay.federated.client.need_bounds", lambda *_: None)  # a client that was changed
    made = play.run()
    with pytest.raises(Refused, match="owner 5 is longer"):
        record.look(made, play.clients[5].opening(), play.sent[5])


# ---- the parts -----------------------------------------------------------------------------------------------------------


def test_shares_join_from_any_that_are_enough_and_from_no_fewer() -> None:
    secret = sha256(b"secret")
    shares = sharing.split(secret, 3, 5, b"entropy")
    for places in itertools.combinations(range(5), 3):
        assert sharing.join({p + 1: shares[p] for p in places}) == secret
    assert sharing.join({1: shares[0], 2: shares[1]}) != secret
    assert sharing.join({1: shares[0], 2: shares[1], 4: shares[2]}) != secret
    assert sharing.split(secret, 3, 5, b"entropy") == shares
    assert sharing.join({1: (2**256 + 5).to_bytes(33, "big")}) is None
    for bad in ((b"short", 2, 3), (secret, 4, 3), (secret, 0, 3)):
        with pytest.raises(ValueError, match="cannot be shared"):
            sharing.split(*bad, b"e")  # type: ignore[arg-type]


def test_neighbours_are_mutual_and_follow_from_the_seed() -> None:
    members = [1, 2, 5, 8, 9, 11, 12, 20, 33, 34]
    near = graph.neighbours(members, 4, b"seed")
    assert all(len(n) == 4 and all(me in near[other] for other in n) for me, n in near.items())
    assert near == graph.neighbours(members, 4, b"seed") != graph.neighbours(members, 4, b"other")
    assert graph.neighbours(members, 10, b"") == {me: tuple(o for o in members if o != me) for me in members}


def test_the_bounds_of_the_graph_hold_where_they_can_be_counted() -> None:
    """Every set of corrupt members of a small round, over seeds."""
    members, degree, threshold, corrupt = 9, 4, 3, 4
    hits = parts = trials = 0
    for seed in range(12):
        near = graph.neighbours(range(members), degree, bytes([seed]))
        for bad in itertools.combinations(range(members), corrupt):
            trials += 1
            left = set(range(members)) - set(bad)
            hits += any(len(set(near[me]) & set(bad)) >= threshold for me in left)
            reached, new = set(), {min(left)}
            while new:
                reached |= new
                new = {n for me in new for n in near[me] if n in left} - reached
            parts += reached != left
    assert hits / trials <= graph.exposed(members, degree, threshold, corrupt)
    assert parts / trials <= graph.parted(members, degree, corrupt)
    assert graph.exposed(32, 31, 16, 10) == graph.parted(32, 31, 20) == graph.stuck(32, 31, 16, 8) == 0
    assert graph.stuck(32, 31, 16, 16) == 1.0
    assert 0 < graph.stuck(32, 16, 9, 8) < 1


def test_fixed_point_is_exact_and_bounded() -> None:
    x = np.array([0.5, 1.5, -2.5, 7, -9, 1e-9], np.float32)
    assert ring.fixed(x, 0, 8).tolist() == [0, 2, -2, 7, -8, 0]
    assert ring.fixed(x, 4, 1 << 20).tolist() == [8, 24, -40, 112, -144, 0]
    with pytest.raises(ring.BadUpdate):
        ring.fixed(np.array([np.nan]), 4, 9)
    rng = np.random.default_rng(1)
    for bits in (8, 20, 40, 63):
        row = rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), 70_000 if bits == 20 else 3_000)
        assert ring.square(row) == sum(v * v for v in row.tolist())
    assert ring.square(np.array([-(2**63), 0])) == 2**126
    assert ring.square(np.zeros(3, np.int32)) == 0
    short = ring.shortened(row, 1 << 50)
    assert ring.square(short) <= 1 << 100
    assert ring.square(short) > (1 << 100) * 0.999
    assert ring.shortened(np.array([3, -4]), 5).tolist() == [3, -4]


def test_terms_that_cannot_be_kept_are_no_terms() -> None:
    for change in (
        {"limit": 1 << 29}, {"minimum": 4}, {"minimum": 8}, {"degree": 3}, {"degree": 0}, {"threshold": 3}, {"threshold": 7}, {"bits": 16},
        {"weights": (1,) * 6}, {"weights": (0,) + (1,) * 6}, {"owners": (bytes(32),) * 7}, {"fraction": 41}, {"job": b"x"}, {"length": 0},
    ):  # fmt: skip
        with pytest.raises(ValueError):  # noqa: PT011
            terms(**change)
    good = encode(terms())
    assert decode(good, Terms) == terms()
    with pytest.raises(Malformed):
        decode(good.replace(b'"minimum":5', b'"minimum":4'), Terms)


def test_bent_and_broken_messages_are_harmless() -> None:
    """Every message of a round that was played, with bytes flipped, cut, or the JSON under them bent."""
    play = Play(terms(4, weights=(1, 1, 1, 1), degree=4, threshold=2), {Phase.UPLOADS: (2,)})
    heard: list[tuple[Any, Any]] = []
    play.twist = lambda owner, message: (heard.append((messages.AnyFromCoordinator, message)), message)[1]
    heard += [(Record, play.run()), (Terms, play.terms)]
    heard += [(Signed, signed) for phase in play.coordinator._signed.values() for signed in phase.values()]
    choose = random.Random(1)
    for kind, message in heard:
        good = encode(message)
        assert decode(good, kind) == message
        for _ in range(12):
            bent = json.dumps(bend(json.loads(good), choose), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            harmless(bent.encode("utf-8", "surrogatepass"), kind)
            at = choose.randrange(len(good))
            harmless(good[:at] + bytes([good[at] ^ choose.randrange(1, 256)]) + good[at + 1 :], kind)
            harmless(good[:at], kind)


def test_a_client_is_of_its_terms_and_its_row_of_their_shape() -> None:
    with pytest.raises(ValueError, match="do not name this owner"):
        Client(terms(), os.urandom(32), bytes(32))
    play = Play(terms())
    for bad in (play.clear[1].astype(np.int64), play.clear[1][1:], play.clear[1] + 1, play.clear[1] * 3):
        with pytest.raises(Refused):
            play.clients[1].upload(bad.astype(bad.dtype), Digest(bytes(32)))
