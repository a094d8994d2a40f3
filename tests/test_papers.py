"""A model's papers: what a certificate states is what was trained, and every alteration of it, or of the weights, is found offline."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from test_audit import Forge, drop, say
from test_audit_whole import Trained, trained  # noqa: F401  # the fixture
from typer.testing import CliRunner

from assay import chain, draw, energy
from assay.adapters.engine_process import InlineEngine
from assay.adapters.evm_typed import TypedData
from assay.adapters.memory_blobs import BlobNet, MemoryBlobs
from assay.audit.findings import Sheet
from assay.chain import Offer
from assay.cli.app import app
from assay.codec import Malformed, encode
from assay.energy import Energy
from assay.ids import Address, Digest, JobId, PeerId, SegmentId, address
from assay.papers import card
from assay.papers.certificate import Envelope, accounts, add, compare, read, seal, signed_text, to_bytes, verify
from assay.papers.make import certify
from assay.papers.statement import NoPapers, Statement
from assay.papers.statement import Trained as Segment
from assay.state import Tensors, from_bytes, weights
from assay.state import to_bytes as tensor_bytes

ME, FRIEND = Address("0x" + "11" * 20), Address("0x" + "22" * 20)


def sign(account: Address) -> Callable[[str], bytes]:
    """A signature that its text and account make, for `signer`."""
    return lambda text: account.encode() + encode(text)


def signer(text: str, signature: bytes) -> Address | None:
    return Address(signature[:42].decode()) if signature[42:] == encode(text) else None


def made(trained: Trained, folder: Path, who: str | None = "client", forge: Forge = lambda record: record) -> Statement:  # noqa: F811
    shelf = MemoryBlobs(BlobNet(), PeerId("maker"))
    shelf._blobs = dict(trained.blobs)
    keys = trained.keys[who] if who else None
    return asyncio.run(certify(forge(trained.record), trained.job, shelf, keys, InlineEngine(), folder / "papers", patience=1))[0]


@pytest.fixture(scope="module")
def statement(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Statement:  # noqa: F811
    return made(trained, tmp_path_factory.mktemp("papers"))


@pytest.fixture(scope="module")
def state(trained: Trained) -> Tensors:  # noqa: F811
    from assay import seal as sealing

    release = trained.release[1]
    key = trained.keys["client"].unwrap(release.wrapped)
    return from_bytes(sealing.unseal(trained.blobs[trained.last.checkpoint], key), 1 << 30)


def checked(trained: Trained, statement: Statement) -> Sheet:  # noqa: F811
    return verify(seal(statement, ME, sign(ME)), statement, trained.record.signers, signer)


# ---- what holds ----------------------------------------------------------------------------------------------------------


def test_a_certificate_says_who_trained_and_checked_what(trained: Trained, statement: Statement, state: Tensors) -> None:  # noqa: F811
    sheet = checked(trained, statement)
    assert not sheet.findings
    assert set(sheet.held) == {"signatures", "document", "segments", "offers", "votes", "state"}
    assert statement.subject[0].digest == {"assay-state-root": trained.last.end_root.hex()}
    assert [one.name for one in statement.subject[1:]] == sorted(state)
    assert [(one.start, one.stop) for one in statement.internal.segments] == [(0, 2), (2, 4)]
    assert all(len(one.votes) >= 2 and {vote.verifier for vote in one.votes} <= set(one.committees[-1]) for one in statement.internal.segments)
    names = [one.name for one in statement.predicate.build_definition.resolved_dependencies]
    assert names[:4] == ["program", "schedule", "initial state", "frozen tensors"]
    assert names[4:] == [f"data {trained.spec.dataset.name}, shard {i}" for i in range(len(trained.spec.dataset.shards))]


def test_it_follows_from_chain_and_document_alone(trained: Trained, statement: Statement, tmp_path: Path) -> None:  # noqa: F811
    assert encode(made(trained, tmp_path)) == encode(statement)


def test_it_is_read_as_it_was_written(statement: Statement) -> None:
    envelope = add(seal(statement, ME, sign(ME)), FRIEND, sign(FRIEND))
    again, found = read(to_bytes(envelope))
    assert (again, found) == (envelope, statement)
    assert accounts(again) == (ME, FRIEND)
    assert accounts(add(again, ME, sign(ME))) == (FRIEND, ME)
    plain = json.loads(envelope.payload)
    assert plain["_type"] == "https://in-toto.io/Statement/v1"
    assert plain["predicateType"] == "https://slsa.dev/provenance/v1"
    assert set(plain["predicate"]) == {"buildDefinition", "runDetails"}


def test_a_stranger_certifies_the_state_by_its_root(trained: Trained, tmp_path: Path) -> None:  # noqa: F811
    found = made(trained, tmp_path, None)
    assert len(found.subject) == 1
    sheet = checked(trained, found)
    assert [(one.check, one.ok) for one in sheet.findings] == [("state", None)]
    assert [(one.check, one.ok) for one in compare(found, {}).findings] == [("weights", None)]


def claims(steps: int, segment: int = 1) -> Forge:
    """The provider says what a segment took."""
    said = Energy(gpu_meter="counter", gpu=1_500_000, cpu_meter="", cpu=0, steps=steps)
    return say(chain.Committed, segment, key_envelope=lambda envelope: energy.join(envelope, said))


def test_energy_is_what_its_provider_says_and_is_told_as_that(trained: Trained, statement: Statement, tmp_path: Path) -> None:  # noqa: F811
    assert "not measured: no provider said" in card.card(seal(statement, ME, sign(ME)), statement)
    assert b"energy" not in encode(statement)  # as certificates were before there was any
    found = made(trained, tmp_path, forge=claims(2))
    sheet = checked(trained, found)
    assert not sheet.findings
    assert "energy" in sheet.held
    assert [one.energy for one in found.internal.segments][1] is msgspec.UNSET
    envelope = seal(found, ME, sign(ME))
    assert read(to_bytes(envelope)) == (envelope, found)
    told = card.card(envelope, found)
    assert "1,500 J for 2 of 4 steps (GPUs (NVML) 1,500 J)" in told
    assert "which nothing proves" in told
    assert "| 1,500.0 |" in told


def test_a_claim_for_more_steps_than_there_are_spoils_no_certificate(trained: Trained, tmp_path: Path) -> None:  # noqa: F811
    found = made(trained, tmp_path, forge=claims(3))
    assert not checked(trained, found).findings
    assert all(one.energy is msgspec.UNSET for one in found.internal.segments)


# ---- weights -------------------------------------------------------------------------------------------------------------


def test_weights_are_held_against_it(statement: Statement, state: Tensors) -> None:
    plain = weights(state)
    for copy in (state, plain, {"base_model.model." + name: array for name, array in plain.items()}):
        assert not compare(statement, copy).findings


def test_every_alteration_of_weights_is_found(statement: Statement, state: Tensors) -> None:
    plain = weights(state)
    name, array = next((name, array) for name, array in plain.items() if array.size and array.dtype == np.float32)
    for index in (0, array.size - 1):
        bent = array.copy()
        bent.reshape(-1).view(np.uint32)[index] ^= 1
        found = [f.text for f in compare(statement, plain | {name: bent}).findings]
        assert found == [f"{name!r} is not what settled: it was altered, or is another model's"]
    reshaped = array.reshape(1, *array.shape)
    assert "altered" in compare(statement, plain | {name: reshaped}).findings[0].text
    fewer = {other: array for other, array in plain.items() if other != name}
    assert [f.text for f in compare(statement, fewer).findings] == [f"'param.{name}' is missing"]
    assert [f.text for f in compare(statement, plain | {"more": array}).findings] == ["'more' is no tensor of this model"]


# ---- what is false in it -------------------------------------------------------------------------------------------------

Bend = Callable[[Statement], Statement]


def swap(value: Any, **changes: Any) -> Any:
    return msgspec.structs.replace(value, **changes)


def definition(statement: Statement, **changes: Any) -> Statement:
    found = swap(statement.predicate.build_definition, **changes)
    return swap(statement, predicate=swap(statement.predicate, build_definition=found))


def internal(**changes: Any) -> Bend:
    return lambda s: definition(s, internal_parameters=swap(s.internal, **changes))


def external(**changes: Any) -> Bend:
    return lambda s: definition(s, external_parameters=swap(s.external, **changes))


def segment(change: Callable[[Segment], Segment], at: int = 0) -> Bend:
    return lambda s: internal(segments=tuple(change(one) if i == at else one for i, one in enumerate(s.internal.segments)))(s)


def vote(**changes: Any) -> Bend:
    return segment(lambda one: swap(one, votes=(swap(one.votes[0], **changes), *one.votes[1:])))


def details(**changes: Any) -> Bend:
    return lambda s: swap(s, predicate=swap(s.predicate, run_details=swap(s.predicate.run_details, **changes)))


OTHER = Digest(b"\x07" * 32)
MUCH = Energy(gpu_meter="counter", gpu=1, cpu_meter="", cpu=0, steps=3)


def frame(**changes: Any) -> Bend:
    return lambda s: details(metadata=swap(s.predicate.run_details.metadata, **changes))(s)


def last_subject(**changes: Any) -> Bend:
    return lambda s: swap(s, subject=(*s.subject[:-1], swap(s.subject[-1], **changes)))


def fewer_dependencies(s: Statement) -> Statement:
    return definition(s, resolved_dependencies=s.predicate.build_definition.resolved_dependencies[:-1])


STRANGE = "are not those of the state"
BENT: dict[str, tuple[Bend, str, str]] = {
    "another document": (internal(document=b"{}"), "document", "not the one whose digest the terms name"),
    "another program": (lambda s: external(terms=swap(s.external.terms, program_root=OTHER))(s), "document", "program root is not that of the terms"),
    "other data": (lambda s: external(terms=swap(s.external.terms, dataset_root=OTHER))(s), "document", "another root than the terms name"),
    "another base": (fewer_dependencies, "document", "not what the job"),
    "a gap": (lambda s: internal(segments=s.internal.segments[1:])(s), "segments", "step 0 was next"),
    "no segment": (internal(segments=()), "segments", "it shows no segment"),
    "another contract": (lambda s: details(builder=swap(s.predicate.run_details.builder, id="eip155:1:0x"))(s), "segments", "builder and invocation"),
    "another day": (frame(finished_on="2020-01-01T00:00:00Z"), "segments", "was not finished"),
    "an offer of another job": (segment(lambda one: swap(one, offer=swap(one.offer, job=JobId(9)))), "offers", "for something else"),
    "an offer that nobody made": (segment(lambda one: swap(one, offer_signature=b"\x01" * 65)), "offers", "is not signed by"),
    "another provider": (segment(lambda one: swap(one, provider=ME, offer=swap(one.offer, provider=ME))), "offers", "is not signed by"),
    "energy of more steps": (segment(lambda one: swap(one, energy=MUCH)), "energy", "claimed for 3"),
    "a turned vote": (vote(agrees=False), "votes", "is not the one that it signed"),
    "a vote for something else": (vote(trace_roots=(OTHER,)), "votes", "is not the one that it signed"),
    "a vote of who was not drawn": (vote(verifier=ME), "votes", "was not drawn"),
    "another end": (segment(lambda one: swap(one, end_root=OTHER), at=1), "state", "not the one that its last segment ended in"),
    "another tensor": (last_subject(digest={"assay-tensor-root": "07" * 32}), "state", STRANGE),
    "a tensor without a root": (last_subject(digest={}), "state", "has no root"),
    "a tensor twice": (lambda s: swap(s, subject=(*s.subject, s.subject[-1])), "state", STRANGE),
    "nothing": (lambda s: swap(s, subject=()), "state", "about nothing"),
}  # fmt: skip


@pytest.mark.parametrize("name", BENT)
def test_every_falsehood_in_it_is_found(trained: Trained, statement: Statement, name: str) -> None:  # noqa: F811
    bend, check, text = BENT[name]
    found = [(one.check, one.ok, one.text) for one in checked(trained, bend(statement)).findings]
    assert any(one == (check, False) and text in said for *one_, said in found for one in [tuple(one_)]), found


def test_votes_that_hold_no_signature_are_named(trained: Trained, statement: Statement) -> None:  # noqa: F811
    sheet = checked(trained, vote(signature=b"", transaction="0xabc")(statement))
    assert [(one.check, one.ok) for one in sheet.findings] == [("votes", None)]
    assert "0xabc" in sheet.findings[0].text


def test_too_few_votes_are_named(trained: Trained, statement: Statement) -> None:  # noqa: F811
    sheet = checked(trained, segment(lambda one: swap(one, votes=()))(statement))
    assert [one.ok for one in sheet.findings] == [None]
    assert "without a quorum" in sheet.findings[0].text


def test_a_signature_is_for_this_statement(trained: Trained, statement: Statement) -> None:  # noqa: F811
    other = swap(seal(statement, ME, sign(ME)), payload=encode(internal(others={"LAPSED": 3})(statement)))
    sheet = verify(other, read(to_bytes(other))[1], trained.record.signers, signer)
    assert [(one.check, one.ok) for one in sheet.findings] == [("signatures", False)]


@pytest.mark.parametrize(
    ("bend", "text"),
    [
        (lambda e: b"junk", "not a certificate"),
        (lambda e: to_bytes(swap(e, payload_type="text/plain")), "its payload is 'text/plain'"),
        (lambda e: to_bytes(swap(e, signatures=())), "0 signatures"),
        (lambda e: to_bytes(swap(e, signatures=e.signatures * 65)), "65 signatures"),
        (lambda e: to_bytes(swap(e, payload=b" " + e.payload)), "canonical"),
        (lambda e: to_bytes(swap(e, payload=e.payload.replace(b"in-toto.io/Statement/v1", b"in-toto.io/Statement/v9"))), "it states"),
        (lambda e: to_bytes(swap(e, payload=e.payload.replace(b'"subject"', b'"subjekt"'))), "not a valid Statement"),
        (lambda e: to_bytes(e)[:-40], "not a certificate"),
    ],
)
def test_what_is_no_certificate_is_refused(statement: Statement, bend: Callable[[Envelope], bytes], text: str) -> None:
    with pytest.raises(Malformed, match=text):
        read(bend(seal(statement, ME, sign(ME))))


def test_a_job_whose_audit_fails_gets_no_papers(trained: Trained, tmp_path: Path) -> None:  # noqa: F811
    with pytest.raises(NoPapers, match="its audit fails"):
        made(trained, tmp_path, forge=drop(chain.Committed))


# ---- real signatures, cards, commands --------------------------------------------------------------------------------------


def test_offers_and_seals_are_checked_without_a_chain() -> None:
    from eth_account import Account

    signer = Account.from_key(b"\x05" * 32)
    me, network = address(signer.address), TypedData(31337, Address("0x" + "ab" * 20))
    offer = Offer(provider=me, job=JobId(1), parent=SegmentId(0), start=0, stop=4, price=7, expires=99, nonce=1)
    signature = bytes(signer.sign_message(network.offer_data(offer)).signature)
    assert network.offer_signer(offer, signature) == me
    assert network.offer_signer(swap(offer, price=8), signature) != me
    assert TypedData(1, network.contract).offer_signer(offer, signature) != me
    digest = draw.attestation(31337, network.contract, SegmentId(3), 0, True, [OTHER], me, OTHER)
    sealed = bytes(signer.sign_message(network.seal_data(SegmentId(3), 0, digest)).signature)
    assert network.seal_signer(SegmentId(3), 0, digest, sealed) == me
    assert network.seal_signer(SegmentId(3), 1, digest, sealed) != me


def test_cards_say_what_the_statement_says(statement: Statement) -> None:
    envelope = seal(statement, ME, sign(ME))
    for text in (card.card(envelope, statement), card.page(envelope, statement)):
        for fact in (statement.subject[0].digest["assay-state-root"], statement.internal.segments[0].provider, ME, "0-2", "2-4"):
            assert fact in text
    assert card.card(envelope, statement).startswith("---\ntags: [assay, verified-training]\n")


def test_a_strangers_words_format_nothing_in_a_card() -> None:
    assert card._plain("a|b\n# <b>`x`") == "a\\|b \\# \\<b\\>\\`x\\`"
    assert card._yaml('x"\n: y') == '"x\\" : y"'


def test_the_commands(trained: Trained, statement: Statement, state: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    from assay.adapters import evm_typed, keys, signatures

    mine = keys.create(tmp_path / "mine")
    file, good, bad = tmp_path / "c.json", tmp_path / "good.safetensors", tmp_path / "bad.safetensors"
    file.write_bytes(to_bytes(seal(statement, mine.account, lambda text: signatures.sign_text(mine, text))))
    plain = weights(state)
    good.write_bytes(tensor_bytes(plain))
    bad.write_bytes(tensor_bytes({name: array + 1 for name, array in plain.items()}))
    mine.close()
    monkeypatch.setattr(evm_typed, "TypedData", lambda chain_id, contract: trained.record.signers)  # as the chain in memory signs

    def assay(*words: str) -> tuple[int, str]:
        found = CliRunner().invoke(app, ["certificate", *words])
        return found.exit_code, found.output

    code, said = assay("verify", str(file), "--weights", str(good))
    assert (code, "✓ all" in said) == (0, True), said
    code, said = assay("verify", str(file), "--weights", str(bad))
    assert (code, "is not what settled" in said) == (1, True)
    code, said = assay("verify", str(file), "--signer", FRIEND, "--json")
    assert (code, json.loads(said)["holds"]) == (1, False)
    keys.create(tmp_path / "theirs").close()
    assert assay("sign", str(file), "--data", str(tmp_path / "theirs"))[0] == 0
    assert len(read(file.read_bytes())[0].signatures) == 2
    assert assay("verify", str(file))[0] == 0
    for name in ("card.md", "card.html"):
        assert assay("card", str(file), "--out", str(tmp_path / name))[0] == 0
        assert trained.last.end_root.hex() in (tmp_path / name).read_text()
    code, said = assay("card", str(file), "--out", str(tmp_path / "card.pdf"))
    assert (code, "neither Markdown nor HTML" in said) == (2, True)
    assert assay("verify", str(good))[0] == 1
    assert assay("verify", str(file), "--weights", str(file))[0] == 1


def test_what_is_signed_is_as_dsse_says() -> None:
    assert signed_text(b"hello") == "DSSEv1 28 application/vnd.in-toto+json 5 hello"
