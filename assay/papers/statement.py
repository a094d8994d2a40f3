"""What a certificate states, and how it is made of an audit.

The statement is an in-toto Statement v1 (github.com/in-toto/attestation, spec/v1) about the state that settled, and its predicate is SLSA
provenance v1 (slsa.dev/spec/v1.0/provenance), so that tools for either read it:

    subject                 the state by its root, and every tensor of it by name where the maker could open it
    externalParameters      the job as its client posted it: chain, contract, number, terms
    internalParameters      the job's document as it was published, byte for byte, and the segments that led to the state: who offered, computed
                            and voted, with their signatures, what was paid, and the transactions; the licences of the data of others
    resolvedDependencies    program, schedule, initial state, frozen tensors, base model and data, each by its root: never any content

A digest named `assay-…` is a Merkle root of docs/protocol.md in hex. The statement follows from the chain and the document alone: two people
who make it of the same job get the same bytes.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable, Mapping
from importlib.metadata import version

import msgspec
from msgspec import UNSET, UnsetType

from assay import chain
from assay.audit.auditor import Auditor
from assay.audit.books import Seg
from assay.audit.record import Entry
from assay.chain import Offer, Terms
from assay.energy import Energy
from assay.ids import Address, Cid, DatasetId, Digest, JobId, SegmentId
from assay.job import JobSpec
from assay.licensing import Licences
from assay.publish.purposes import PURPOSES
from assay.state import Array, dtype_name, tensor_roots

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD = "urn:assay:training:1"
STATE_ROOT = "assay-state-root"
TENSOR_ROOT = "assay-tensor-root"


class Paper(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Base of what a certificate is made of: closed, with the names that the standards give."""


class Tensor(Paper, frozen=True, kw_only=True):
    """Of the state: what any copy of it is held against."""

    dtype: str
    shape: tuple[int, ...]


class Subject(Paper, frozen=True, kw_only=True):
    name: str
    digest: dict[str, str]
    annotations: Tensor | None = None


class Dependency(Paper, frozen=True, kw_only=True):
    name: str
    digest: dict[str, str]
    uri: str = ""
    annotations: dict[str, str | int] = {}


class Vote(Paper, frozen=True, kw_only=True):
    """Of a drawn verifier. `signature` is that of its seal (EIP-712); empty when it sent the seal itself, in `transaction`."""

    round: int
    verifier: Address
    agrees: bool
    trace_roots: tuple[Digest, ...]
    salt: Digest
    signature: bytes
    transaction: str


class Payment(Paper, frozen=True, kw_only=True):
    who: Address
    amount: int
    reason: str


class Trained(Paper, frozen=True, kw_only=True):
    """A segment that settled."""

    segment: SegmentId
    parent: SegmentId
    start: int
    stop: int
    provider: Address
    offer: Offer
    offer_signature: bytes
    end_root: Digest
    checkpoint: Cid
    links: tuple[int, ...]
    """That were drawn, over all rounds."""
    committees: tuple[tuple[Address, ...], ...]
    """The verifiers that were drawn, a round each."""
    votes: tuple[Vote, ...]
    payments: tuple[Payment, ...]
    transactions: dict[str, str]
    """By event: assigned, committed, settled."""
    settled: int
    """Seconds since 1970, of the block."""
    energy: Energy | UnsetType = UNSET
    """What its provider says that it took, in the transaction in which it committed: its word, which nothing proves."""


class Licensed(Paper, frozen=True, kw_only=True):
    """A dataset of others that the job rests on, and the licence that the contract found for it when the job was posted."""

    dataset: DatasetId
    owner: Address
    manifest: Digest
    root: Digest
    """Over its shards: what the contract knows it by."""
    records: int
    licence: int
    """Its number among those that its owner has granted to `holder`, from 1."""
    holder: Address
    """The client, or the zero address: anybody."""
    purposes: tuple[str, ...]
    """None: any."""
    until: int
    """Seconds since 1970."""
    purpose: str
    """Of the job."""
    price: int
    """For PRICED records read (assay.publish.manifest)."""
    paid: int
    """To its owners for what has settled, as far as that was collected."""


class External(Paper, frozen=True, kw_only=True):
    chain_id: int
    contract: Address
    job: JobId
    client: Address
    terms: Terms


class Internal(Paper, frozen=True, kw_only=True):
    document: bytes
    """The job's document (assay.job.JobSpec), whose digest the terms name."""
    segments: tuple[Trained, ...]
    licences: tuple[Licensed, ...] = ()
    """Of the datasets of others, in the order of the job's shards."""
    others: dict[str, int]
    """Segments of the job that did not lead here, by their state."""


class BuildDefinition(Paper, frozen=True, kw_only=True):
    build_type: str = BUILD
    external_parameters: External
    internal_parameters: Internal
    resolved_dependencies: tuple[Dependency, ...]


class Builder(Paper, frozen=True, kw_only=True):
    id: str
    """The contract as CAIP-10 names it: eip155:<chain>:<address>."""
    version: dict[str, str]


class Metadata(Paper, frozen=True, kw_only=True):
    invocation_id: str
    started_on: str
    finished_on: str


class RunDetails(Paper, frozen=True, kw_only=True):
    builder: Builder
    metadata: Metadata


class Provenance(Paper, frozen=True, kw_only=True):
    build_definition: BuildDefinition
    run_details: RunDetails


class Statement(Paper, frozen=True, kw_only=True):
    type: str = msgspec.field(name="_type", default=STATEMENT)
    subject: tuple[Subject, ...]
    predicate_type: str = PREDICATE
    predicate: Provenance

    @property
    def external(self) -> External:
        return self.predicate.build_definition.external_parameters

    @property
    def internal(self) -> Internal:
        return self.predicate.build_definition.internal_parameters


class NoPapers(Exception):
    """The job cannot be certified: why."""


# ---- made of an audit ----------------------------------------------------------------------------------------------------


def statement(auditor: Auditor, document: bytes, spec: JobSpec, state: Mapping[str, Array] | None) -> Statement:
    """Of an auditor that has run and found nothing false; `state` is the one that settled last, where it could be opened. Raises NoPapers."""
    book = auditor.books.jobs[auditor.job]
    trained = _trained(auditor)
    if not trained:
        raise NoPapers(f"nothing of job {auditor.job} has settled yet")
    others: dict[str, int] = {}
    for seg in auditor.mine:
        if seg.state != chain.SegmentState.SETTLED:
            others[seg.state.name] = others.get(seg.state.name, 0) + 1
    record = auditor.record
    posted = next(e.event.time for e in record.entries if isinstance(e.event, chain.JobPosted) and e.event.job == auditor.job)
    external = External(chain_id=record.chain_id, contract=record.contract, job=auditor.job, client=book.client, terms=book.terms)
    internal = Internal(document=document, segments=trained, licences=licences(record.entries, auditor.job), others=others)
    return Statement(
        subject=subjects(trained[-1], state),
        predicate=Provenance(
            build_definition=BuildDefinition(
                external_parameters=external, internal_parameters=internal, resolved_dependencies=dependencies(spec),
            ),
            run_details=RunDetails(
                builder=Builder(id=builder_id(external), version={"assay": version("assay"), "document": spec.format, "statement": BUILD}),
                metadata=Metadata(invocation_id=f"job/{auditor.job}", started_on=timestamp(posted), finished_on=timestamp(trained[-1].settled)),
            ),
        ),
    )  # fmt: skip


def licences(entries: Iterable[Entry], job: JobId) -> tuple[Licensed, ...]:
    """Of a job's datasets, as the chain's events tell it: what held when the job was posted, and what has been paid since."""
    known, numbers = Licences(), Counter[tuple[DatasetId, Address]]()
    found: list[Licensed] = []
    for entry in entries:
        event = entry.event
        known.feed([event])
        if isinstance(event, chain.LicenceGranted):
            numbers[event.dataset, event.who] += 1
        if not isinstance(event, chain.JobLicensed) or event.job != job:
            continue
        for number, price in zip(event.datasets, event.prices, strict=True):
            dataset, licence = known.datasets[number], known.licence(number, event.client, event.time)
            if licence is None:
                raise NoPapers(f"the chain's events show no licence of dataset {number} for the job's client")
            found.append(Licensed(
                dataset=number, owner=dataset.owner, manifest=dataset.manifest, root=dataset.root, records=dataset.records,
                licence=numbers[number, licence.who], holder=licence.who, until=licence.until, purpose=PURPOSES[event.purpose], price=price,
                purposes=tuple(name for i, name in enumerate(PURPOSES) if licence.purposes >> i & 1), paid=0,
            ))  # fmt: skip
    paid = Counter[DatasetId]()
    for payment in known.paid:
        if payment.job == job:
            paid[payment.dataset] += payment.amount
    return tuple(msgspec.structs.replace(one, paid=paid[one.dataset]) for one in found)


def builder_id(external: External) -> str:
    return f"eip155:{external.chain_id}:{external.contract}"


def timestamp(seconds: int) -> str:
    """RFC 3339, UTC."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def subjects(last: Trained, state: Mapping[str, Array] | None) -> tuple[Subject, ...]:
    """The state after the last step that settled, then its tensors in the order of their names."""
    whole = Subject(name=f"state after step {last.stop}", digest={STATE_ROOT: last.end_root.hex()})
    if state is None:
        return (whole,)
    roots = tensor_roots(state)
    named = sorted(state, key=str.encode)
    notes = {name: Tensor(dtype=dtype_name(state[name]), shape=tuple(state[name].shape)) for name in named}
    return (whole, *(Subject(name=name, digest={TENSOR_ROOT: roots[name].hex()}, annotations=notes[name]) for name in named))


def dependencies(spec: JobSpec) -> tuple[Dependency, ...]:
    """What went into the training, as the job's document names it."""
    out = [
        Dependency(name="program", uri=f"ipfs://{spec.program}", digest={"assay-program-root": spec.program_root.hex()}),
        Dependency(name="schedule", uri=f"ipfs://{spec.schedule}", digest={"assay-schedule-root": spec.schedule_root.hex()}),
        Dependency(name="initial state", uri=f"ipfs://{spec.state.cid}", digest={STATE_ROOT: spec.state_root.hex()}),
    ]
    out += [Dependency(name="frozen tensors", uri=f"ipfs://{ref.cid}", digest={"assay-key-id": ref.key_id.hex()}) for ref in spec.frozen_blobs]
    if spec.origin is not msgspec.UNSET:
        note = {"licence": spec.origin.licence, "method": spec.origin.method}
        out.append(Dependency(name=f"base model {spec.origin.name}", digest={"assay-base-root": spec.origin.root.hex()}, annotations={**note}))
    for number, shard in enumerate(spec.dataset.shards):
        name = f"data {spec.dataset.name}, shard {number}"
        digest = {"assay-record-root": shard.root.hex()}
        out.append(Dependency(name=name, uri=f"ipfs://{shard.sealed.cid}", digest=digest, annotations={"records": shard.records}))
    return tuple(out)


def _trained(auditor: Auditor) -> tuple[Trained, ...]:
    """The settled segments from the job's start on."""
    settled = sorted((seg for seg in auditor.mine if seg.state == chain.SegmentState.SETTLED), key=lambda seg: seg.start)
    of: dict[SegmentId, list[Entry]] = {seg.number: [] for seg in settled}
    for entry in auditor.record.entries:
        if (number := getattr(entry.event, "segment", None)) in of:
            of[number].append(entry)
    return tuple(_segment(seg, of[seg.number]) for seg in settled)


def _sent(entry: Entry) -> tuple[chain.AnyCall | None, ...]:
    return entry.call.calls if isinstance(entry.call, chain.Batch) else (entry.call,)


def _segment(seg: Seg, entries: list[Entry]) -> Trained:
    transactions: dict[str, str] = {}
    seals: dict[tuple[int, Address], tuple[bytes, str]] = {}
    salts: dict[tuple[int, Address], Digest] = {}
    payments, offer, signature, settled, round = [], None, b"", 0, 0
    for entry in entries:
        match entry.event:
            case chain.Assigned():
                transactions["assigned"] = entry.transaction
                for call in _sent(entry):
                    if isinstance(call, chain.Assign | chain.AssignListed) and (call.offer.parent, call.offer.start) == (seg.parent, seg.start):
                        offer, signature = call.offer, call.signature
            case chain.Committed():
                transactions["committed"] = entry.transaction
            case chain.Drawn() as event:
                round = event.round
            case chain.Sealed() as event:
                sealed = [one for call in _sent(entry) if isinstance(call, chain.Attest) and call.segment == seg.number for one in call.seals]
                found = next((one.signature for one in sealed if one.verifier == event.verifier), b"")
                seals[round, event.verifier] = (found, entry.transaction)
            case chain.Revealed() as event:
                salts[round, event.verifier] = event.salt
            case chain.Credited() as event:
                payments.append(Payment(who=event.who, amount=event.amount, reason=event.reason))
            case chain.Settled() as event:
                transactions["settled"], settled = entry.transaction, event.time
            case _:
                pass
    if offer is None or seg.end_root is None or seg.checkpoint is None:
        raise NoPapers(f"the chain's node does not give the offer of segment {seg.number}, which its provider signed")
    votes = tuple(
        Vote(round=number, verifier=who, agrees=vote.agrees, trace_roots=vote.trace_roots, salt=salts[number, who],
             signature=seals[number, who][0], transaction=seals[number, who][1])
        for number, one in sorted(seg.rounds.items()) for who, vote in one.votes.items()
    )  # fmt: skip
    return Trained(
        segment=seg.number, parent=seg.parent, start=seg.start, stop=seg.stop, provider=seg.provider, offer=offer, offer_signature=signature,
        end_root=seg.end_root, checkpoint=seg.checkpoint, links=seg.units,
        committees=tuple(one.verifiers for _, one in sorted(seg.rounds.items())), votes=votes, payments=tuple(payments),
        transactions=transactions, settled=settled, energy=_claimed(seg),
    )  # fmt: skip


def _claimed(seg: Seg) -> Energy | UnsetType:
    """What is claimed for more steps than there are is no claim: nobody can spoil a certificate with it."""
    found = seg.energy
    return UNSET if isinstance(found, UnsetType) or found.steps > seg.steps else found
