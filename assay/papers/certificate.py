"""A certificate: the statement in a DSSE envelope (github.com/secure-systems-lab/dsse, v1), and what it says checked offline.

    {"payload": base64 of the statement, "payloadType": "application/vnd.in-toto+json", "signatures": [{"keyid": account, "sig": base64}, ...]}

Signatures are those of accounts, over the pre-authentication encoding `DSSEv1 <len> <type> <len> <payload>` as wallets sign messages (EIP-191).
Its maker signs it; whoever has audited the job may add a signature. What a certificate says is true as far as

    the signers are believed        that the segments settled on that chain (an audit asks the chain itself)
    nobody need be believed         that providers offered and verifiers voted what it shows, with their own signatures; that these votes are for
                                    this program and data; that the tensors are those whose root the last segment ended in
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec
from msgspec import UNSET, UnsetType

from assay import draw
from assay.audit.findings import Sheet
from assay.chain import Offer
from assay.codec import Malformed, decode, encode
from assay.hands import MAX_SPEC
from assay.ids import ZERO_ADDRESS, Address, Digest, SegmentId
from assay.job import DatasetRef, JobSpec, data_root
from assay.merkle import sha256
from assay.papers import statement as papers
from assay.papers.statement import STATE_ROOT, TENSOR_ROOT, Paper, Statement, Trained
from assay.publish.manifest import PRICED, shards_root
from assay.shard import check_dataset
from assay.state import Array, state_root_of, tensor_roots

PAYLOAD = "application/vnd.in-toto+json"
MAX_CERTIFICATE = 1 << 26
"""Bytes."""
MOST_SIGNERS = 64
PREFIXES = ("", "param.", "buffer.")
"""Before a tensor's name in a model, for its name in the state."""
PEFT = "base_model.model."


class Signature(Paper, frozen=True, kw_only=True):
    keyid: Address
    sig: bytes


class Envelope(Paper, frozen=True, kw_only=True):
    payload: bytes
    payload_type: str = PAYLOAD
    signatures: tuple[Signature, ...]


class Signers(Protocol):
    """Whose signature under an offer or a seal it is, by EIP-712; None for nobody's (assay.adapters.evm_typed)."""

    def offer_signer(self, offer: Offer, signature: bytes) -> Address | None: ...

    def seal_signer(self, segment: SegmentId, round: int, digest: Digest, signature: bytes) -> Address | None: ...


def signed_text(payload: bytes) -> str:
    """DSSE's pre-authentication encoding."""
    return f"DSSEv1 {len(PAYLOAD)} {PAYLOAD} {len(payload)} {payload.decode()}"


def seal(statement: Statement, account: Address, sign: Callable[[str], bytes]) -> Envelope:
    """A certificate with one signature."""
    payload = encode(statement)
    return Envelope(payload=payload, signatures=(Signature(keyid=account, sig=sign(signed_text(payload))),))


def add(envelope: Envelope, account: Address, sign: Callable[[str], bytes]) -> Envelope:
    """With one more signature; one that the account has made before is replaced."""
    others = tuple(one for one in envelope.signatures if one.keyid != account)
    return msgspec.structs.replace(envelope, signatures=(*others, Signature(keyid=account, sig=sign(signed_text(envelope.payload)))))


def read(data: bytes) -> tuple[Envelope, Statement]:
    """A certificate's bytes, strictly. Raises Malformed."""
    if len(data) > MAX_CERTIFICATE:
        raise Malformed(f"a certificate of {len(data)} bytes is over the limit of {MAX_CERTIFICATE}")
    try:
        envelope = msgspec.json.decode(data, type=Envelope)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Malformed(f"not a certificate: {error}") from None
    if envelope.payload_type != PAYLOAD:
        raise Malformed(f"its payload is {envelope.payload_type!r}, a certificate's is {PAYLOAD!r}")
    if not 0 < len(envelope.signatures) <= MOST_SIGNERS:
        raise Malformed(f"it has {len(envelope.signatures)} signatures; 1 to {MOST_SIGNERS} are allowed")
    found = decode(envelope.payload, Statement, limit=MAX_CERTIFICATE)
    kinds = (found.type, found.predicate_type, found.predicate.build_definition.build_type)
    if kinds != (papers.STATEMENT, papers.PREDICATE, papers.BUILD):
        raise Malformed(f"it states {', '.join(kinds)}; known is {papers.STATEMENT}, {papers.PREDICATE}, {papers.BUILD}")
    return envelope, found


def verify(envelope: Envelope, statement: Statement, typed: Signers, signer: Callable[[str, bytes], Address | None]) -> Sheet:
    """Everything that can be checked without a network. `typed` for the statement's chain and contract; `signer` recovers the signer of a text."""
    sheet = Sheet()
    text = signed_text(envelope.payload)
    for one in envelope.signatures:
        sheet.check("signatures", signer(text, one.sig) == one.keyid, f"the signature of {one.keyid} is not under this statement")
    _document(sheet, statement)
    _licences(sheet, statement)
    _range(sheet, statement)
    for segment in statement.internal.segments:
        _offer(sheet, statement, segment, typed)
        _votes(sheet, statement, segment, typed)
        _energy(sheet, segment)
    _subject(sheet, statement)
    return sheet


def _document(sheet: Sheet, statement: Statement) -> None:
    terms, check = statement.external.terms, sheet.check
    document = statement.internal.document
    if not check("document", sha256(document) == terms.spec_digest, "the job's document is not the one whose digest the terms name"):
        return
    try:
        spec = decode(document, JobSpec, limit=MAX_SPEC)
        check_dataset(spec.dataset)
    except (Malformed, ValueError) as error:
        check("document", False, f"the job's document is refused: {error}")
        return
    for name in ("program_root", "state_root", "schedule_root", "steps", "micro_batches", "segment_steps"):
        check("document", getattr(spec, name) == getattr(terms, name), f"the document's {name.replace('_', ' ')} is not that of the terms")
    root = data_root(spec.dataset, spec.order, spec.batch)
    check("document", root == terms.dataset_root, "the data that the document describes has another root than the terms name")
    same = papers.dependencies(spec) == statement.predicate.build_definition.resolved_dependencies
    check("document", same, "what it lists as gone into the training is not what the job's document names")


def _licences(sheet: Sheet, statement: Statement) -> None:
    """The licences are for the datasets that the document names, and for what it is: a training for their purpose on their shards."""
    try:
        spec = decode(statement.internal.document, JobSpec, limit=MAX_SPEC)
    except Malformed:
        return
    used, shown, check = () if spec.published is UNSET else spec.published, statement.internal.licences, sheet.check
    if not used and not shown:
        return
    same = [one.dataset for one in used] == [one.dataset for one in shown]
    if not check("licences", same, "it shows licences of other datasets than those that the job's document names"):
        return
    at = 0
    for one, licence in zip(used, shown, strict=True):
        shards = spec.dataset.shards[at : at + one.shards]
        at += one.shards
        part = DatasetRef(name=spec.dataset.name, fields=spec.dataset.fields, shards=shards)
        right = bool(shards) and shards_root(part) == licence.root and part.records == licence.records
        check("licences", right, f"the job's shards are not those of dataset {licence.dataset}")
        told = f"the licence of dataset {licence.dataset}"
        check("licences", licence.holder in (statement.external.client, ZERO_ADDRESS), f"{told} is not one that the job's client has")
        check("licences", not licence.purposes or licence.purpose in licence.purposes, f"{told} is not for {licence.purpose}")
        most = licence.price * _reads(statement, spec)
        check("licences", licence.paid <= most, f"more was paid for dataset {licence.dataset} than it can have cost")


def _reads(statement: Statement, spec: JobSpec) -> int:
    """Records that the settled steps have read, over all datasets, in thousands and rounded up."""
    steps = max((one.stop for one in statement.internal.segments), default=0)
    return -(-steps * spec.micro_batches * spec.batch // PRICED)


def _range(sheet: Sheet, statement: Statement) -> None:
    """The segments are one way from the job's start to the state; the frame says what they say."""
    terms, at, done = statement.external.terms, 0, SegmentId(0)
    segments = statement.internal.segments
    for one in segments:
        right = (one.start, one.parent) == (at, done) and at < one.stop <= terms.steps
        sheet.check("segments", right, f"segment {one.segment} runs over steps {one.start}-{one.stop} after segment {one.parent}; step {at} was next")
        at, done = one.stop, one.segment
    sheet.check("segments", bool(segments), "it shows no segment")
    details, external = statement.predicate.run_details, statement.external
    right = details.builder.id == papers.builder_id(external) and details.metadata.invocation_id == f"job/{external.job}"
    sheet.check("segments", right, "its builder and invocation are not the contract and the job of its parameters")
    ended = bool(segments) and details.metadata.finished_on == papers.timestamp(segments[-1].settled)
    sheet.check("segments", ended, "it was not finished when its last segment settled")


def _offer(sheet: Sheet, statement: Statement, one: Trained, typed: Signers) -> None:
    offer, check = one.offer, sheet.check
    same = (offer.provider, offer.job, offer.parent, offer.start) == (one.provider, statement.external.job, one.parent, one.start)
    check("offers", same and one.stop <= offer.stop, f"the offer shown for segment {one.segment} is for something else")
    signer = typed.offer_signer(offer, one.offer_signature)
    ok = None if not one.offer_signature else signer == one.provider
    check("offers", ok, f"the offer of segment {one.segment} is not signed by {one.provider}")


def _votes(sheet: Sheet, statement: Statement, one: Trained, typed: Signers) -> None:
    """Who voted was drawn and sealed this very vote; enough of the last round's agree, or nobody objected while it could be checked."""
    external, check = statement.external, sheet.check
    for vote in one.votes:
        drawn = vote.round < len(one.committees) and vote.verifier in one.committees[vote.round]
        check("votes", drawn, f"{vote.verifier} voted in round {vote.round} of segment {one.segment} and was not drawn")
        told = (vote.agrees, vote.trace_roots, vote.verifier, vote.salt)
        digest = draw.attestation(external.chain_id, external.contract, one.segment, vote.round, *told)
        signer = typed.seal_signer(one.segment, vote.round, digest, vote.signature) if vote.signature else None
        what = f"the vote of {vote.verifier} on segment {one.segment}"
        if vote.signature:
            check("votes", signer == vote.verifier, f"{what} is not the one that it signed")
        else:
            check("votes", None, f"{what} was sent in transaction {vote.transaction or '(unknown)'}, and holds no signature of its own")
    groups: dict[tuple[Digest, ...], int] = {}
    last = len(one.committees) - 1
    for vote in one.votes:
        if vote.round == last and vote.agrees:
            groups[vote.trace_roots] = groups.get(vote.trace_roots, 0) + 1
    enough = max(groups.values(), default=0) >= external.terms.params.quorum
    check("votes", enough or None, f"segment {one.segment} settled without a quorum of {external.terms.params.quorum} equal votes in its last round")


def _energy(sheet: Sheet, one: Trained) -> None:
    """What a provider claims cannot be proven; that it claims it for more steps than there are is false."""
    if not isinstance(one.energy, UnsetType):
        steps, all_ = one.energy.steps, one.stop - one.start
        sheet.check("energy", steps <= all_, f"segment {one.segment} has {all_} steps, and energy is claimed for {steps}")


def _subject(sheet: Sheet, statement: Statement) -> None:
    segments, subject, check = statement.internal.segments, statement.subject, sheet.check
    if not segments or not check("state", bool(subject), "it is about nothing"):
        return
    named = subject[0].digest.get(STATE_ROOT, "")
    check("state", named == segments[-1].end_root.hex(), "the state that it is about is not the one that its last segment ended in")
    if len(subject) == 1:
        check("state", None, "it names the state by its root alone: its maker could not open it, so single tensors cannot be held against it")
        return
    try:
        roots = {one.name: bytes.fromhex(one.digest[TENSOR_ROOT]) for one in subject[1:]}
    except (KeyError, ValueError):
        check("state", False, "a tensor that it lists has no root")
        return
    distinct = len(roots) == len(subject) - 1
    found = state_root_of(segments[-1].stop, roots)
    check("state", distinct and found.hex() == named, "the tensors that it lists are not those of the state")


def compare(statement: Statement, tensors: Mapping[str, Array]) -> Sheet:
    """Weights that somebody has, held against a certificate: a whole state, the model's weights, or an adapter as PEFT writes it.

    Every parameter and buffer of the state must be there, with its bits, and nothing besides."""
    sheet = Sheet()
    listed = {one.name: one.digest.get(TENSOR_ROOT, "") for one in statement.subject[1:]}
    if not listed:
        sheet.check("weights", None, "the certificate lists no tensors: it can be held against a whole state only, by its root")
        return sheet
    roots = tensor_roots(tensors)
    seen = set()
    for name, root in roots.items():
        plain = name.removeprefix(PEFT)
        known = next((prefix + plain for prefix in PREFIXES if prefix + plain in listed), None)
        if sheet.check("weights", known is not None, f"{name!r} is no tensor of this model") and known is not None:
            seen.add(known)
            sheet.check("weights", root.hex() == listed[known], f"{name!r} is not what settled: it was altered, or is another model's")
    for name in listed:
        if name.startswith(PREFIXES[1:]):
            sheet.check("weights", name in seen, f"{name!r} is missing")
    return sheet


def to_bytes(envelope: Envelope) -> bytes:
    """As it is written to a file."""
    return msgspec.json.format(msgspec.json.encode(envelope), indent=1) + b"\n"


def accounts(envelope: Envelope) -> tuple[Address, ...]:
    return tuple(one.keyid for one in envelope.signatures)


def fingerprint(envelope: Envelope) -> str:
    """SHA-256 of the statement, hex: what other documents cite."""
    return sha256(envelope.payload).hex()

