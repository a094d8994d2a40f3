"""What a certificate says of the data of others: which licence, for what, at what price; and that a false one is found offline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from test_audit_whole import Trained, trained  # noqa: F401  # the fixture
from test_papers import ME, OTHER, internal, made, sign, signer, statement, swap  # noqa: F401

from assay import chain
from assay.audit.record import Entry
from assay.cli.licences import claims
from assay.codec import decode, encode
from assay.ids import ZERO_ADDRESS, Address, Cid, DatasetId, Digest, DisputeId, JobId, SegmentId
from assay.job import JobSpec, UsedDataset
from assay.licensing import ENDLESS, Showing, showings
from assay.merkle import sha256
from assay.papers import card
from assay.papers.certificate import seal, verify
from assay.papers.statement import Licensed, NoPapers, Statement, licences
from assay.publish.manifest import shards_root

OWNER, CLIENT = Address("0x" + "33" * 20), Address("0x" + "44" * 20)


def entries(*events: tuple[type[Any], dict[str, Any]]) -> list[Entry]:
    return [Entry(kind(block=i, index=0, time=100 * i, **fields)) for i, (kind, fields) in enumerate(events)]


def published(number: int) -> tuple[type[Any], dict[str, Any]]:
    return chain.DatasetPublished, {
        "dataset": DatasetId(number), "owner": OWNER, "cid": Cid("b"), "manifest": Digest(b"m" * 32), "root": Digest(b"r" * 32), "records": 50,
        "key_service": OWNER, "owners": (OWNER,), "shares": (10_000,),
    }  # fmt: skip


def granted(who: Address, until: int, purposes: int, price: int = 7) -> tuple[type[Any], dict[str, Any]]:
    return chain.LicenceGranted, {"dataset": DatasetId(1), "who": who, "price": price, "uses": ENDLESS, "until": until, "purposes": purposes}


def posted(job: int) -> tuple[type[Any], dict[str, Any]]:
    terms = {"datasets": (DatasetId(1),), "prices": (7,), "purpose": 3, "locked": 9, "lists": (0,)}
    return chain.JobLicensed, {"job": JobId(job), "client": CLIENT, **terms}


PAID = (chain.UsePaid, {"job": JobId(2), "dataset": DatasetId(1), "segment": 4, "amount": 5})


def test_the_licence_is_the_one_that_held_when_the_job_was_posted() -> None:
    told = entries(
        published(1), granted(ZERO_ADDRESS, 10**6, 0), granted(CLIENT, 10**6, 1), posted(1), granted(CLIENT, 10**6, 0b1001), posted(2), PAID, PAID,
        (chain.LicenceRevoked, {"dataset": DatasetId(1), "who": CLIENT}), granted(CLIENT, 10**6, 0b1), posted(3),
    )  # fmt: skip
    (first,), (second,), (third,) = (licences(told, JobId(job)) for job in (1, 2, 3))
    assert (first.licence, first.purposes, first.paid) == (1, ("research",), 0)
    assert (second.licence, second.purposes, second.purpose, second.price, second.paid) == (2, ("research", "health"), "health", 7, 10)
    assert (second.holder, second.owner, second.records, second.until) == (CLIENT, OWNER, 50, 10**6)
    assert third.licence == 3
    everybody = licences(entries(published(1), granted(ZERO_ADDRESS, 10**6, 0), granted(CLIENT, 150, 0), posted(1)), JobId(1))
    assert (everybody[0].holder, everybody[0].purposes) == (ZERO_ADDRESS, ())  # its own had run out
    assert licences(told, JobId(9)) == ()
    with pytest.raises(NoPapers, match="no licence"):
        licences(entries(published(1), posted(1)), JobId(1))


@pytest.fixture(scope="module")
def licensed(statement: Statement) -> Statement:  # noqa: F811
    """The statement, as if its data were a dataset of somebody else's."""
    spec = decode(statement.internal.document, JobSpec, limit=1 << 23)
    used = (UsedDataset(dataset=DatasetId(1), shards=len(spec.dataset.shards)),)
    document = encode(msgspec.structs.replace(spec, published=used))
    one = Licensed(
        dataset=DatasetId(1), owner=OWNER, manifest=OTHER, root=shards_root(spec.dataset), records=spec.dataset.records, licence=2,
        holder=ZERO_ADDRESS, purposes=("health",), until=10**9, purpose="health", price=1_500_000, paid=1,
    )  # fmt: skip
    terms = swap(statement.external.terms, spec_digest=sha256(document))
    definition = swap(
        statement.predicate.build_definition, external_parameters=swap(statement.external, terms=terms),
        internal_parameters=swap(statement.internal, document=document, licences=(one,)),
    )  # fmt: skip
    return swap(statement, predicate=swap(statement.predicate, build_definition=definition))


def findings(trained: Trained, made: Statement) -> list[str]:  # noqa: F811
    sheet = verify(seal(made, ME, sign(ME)), made, trained.record.signers, signer)
    return [one.text for one in sheet.findings if one.check == "licences" and one.ok is False]


def test_a_true_one_holds_and_is_in_the_card(trained: Trained, licensed: Statement) -> None:  # noqa: F811
    assert findings(trained, licensed) == []
    envelope = seal(licensed, ME, sign(ME))
    for text in (card.card(envelope, licensed), card.page(envelope, licensed)):
        assert "licence 2 to anybody, for health until 2001-09-09" in text
        assert "1.5 tokens for 1000 records read" in text
        assert "not measured" in text


Bend = Callable[[Licensed], Licensed | None]


@pytest.mark.parametrize(
    ("bend", "text"),
    [
        (lambda one: None, "other datasets than those"),
        (lambda one: swap(one, dataset=DatasetId(2)), "other datasets than those"),
        (lambda one: swap(one, root=OTHER), "not those of dataset 1"),
        (lambda one: swap(one, records=1), "not those of dataset 1"),
        (lambda one: swap(one, holder=OWNER), "not one that the job's client has"),
        (lambda one: swap(one, purposes=("research",)), "is not for health"),
        (lambda one: swap(one, price=1, paid=10**6), "more was paid"),
    ],
)
def test_a_false_one_is_found(trained: Trained, licensed: Statement, bend: Bend, text: str) -> None:  # noqa: F811
    bent = bend(licensed.internal.licences[0])
    found = findings(trained, internal(licences=() if bent is None else (bent,))(licensed))
    assert any(text in said for said in found), found


def test_an_owner_is_told_of_disputes_that_have_shown_records() -> None:
    def assigned(segment: int, job: int) -> tuple[type[Any], dict[str, Any]]:
        fields = {"parent": SegmentId(0), "provider": OWNER, "start": 0, "stop": 1, "price": 1, "activate_by": 9}
        return chain.Assigned, {"segment": SegmentId(segment), "job": JobId(job), **fields}

    def disputed(dispute: int, segment: int) -> tuple[type[Any], dict[str, Any]]:
        told = {"segment": SegmentId(segment), "challenger": CLIENT, "bond": 1, "open_by": 9, "allowance": 1}
        return chain.DisputeSealed, {"dispute": DisputeId(dispute), **told}

    def shown(dispute: int, first: int, count: int) -> tuple[type[Any], dict[str, Any]]:
        return chain.RecordsShown, {"dispute": DisputeId(dispute), "first": first, "count": count}

    told = [one.event for one in entries(
        published(1), granted(ZERO_ADDRESS, 10**6, 0), posted(1), assigned(1, 1), assigned(2, 2), disputed(5, 1), disputed(6, 1), disputed(7, 2),
        shown(5, 30, 2), shown(7, 1, 1), shown(5, 30, 4),
    )]  # fmt: skip
    one = Showing(DisputeId(5), SegmentId(1), JobId(1), CLIENT, 1000, 30, 4)
    assert showings(told, DatasetId(1)) == [one]
    assert showings(told, DatasetId(2)) == []
    assert claims(told, DatasetId(1)) == []
    told += [e.event for e in entries((chain.ShowingOwed, {"dispute": DisputeId(5), "amount": 9}))]
    assert showings(told, DatasetId(1)) == [one._replace(owed=9)]
    assert claims(told, DatasetId(1)) == [chain.ClaimShowing(dispute=DisputeId(5), head=b"")]
    told += [e.event for e in entries((chain.ShowingPaid, {"dispute": DisputeId(5), "dataset": DatasetId(1), "amount": 9}))]
    assert showings(told, DatasetId(1)) == [one._replace(owed=9, paid=True)]
    assert claims(told, DatasetId(1)) == []
