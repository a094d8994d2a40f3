"""Datasets, licences and what they earn, as the chain's events tell it; and the sums of the Datasets contract.

A job that rests on datasets of others names them when it is posted. What is owed follows from the settled steps alone:

    reads(steps) = steps * micro-batches * batch * the dataset's records // records of all the job's datasets
    due(steps)   = steps * micro-batches * batch * the dataset's records * price // (PRICED * records of all)

and what a segment brings is the difference of `due` over it, so that sums do not depend on how a job was cut into segments.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from assay import bundles
from assay.chain import (
    AnyChainEvent,
    Assigned,
    DatasetPublished,
    DisputeSealed,
    JobLicensed,
    KeyReleased,
    LicenceGranted,
    LicenceRevoked,
    RecordPriced,
    RecordsShown,
    RevenueWithdrawn,
    ShowingOwed,
    ShowingPaid,
    ShowingWithdrawn,
    UsePaid,
    UseRefunded,
    VerifiersAdmitted,
)
from assay.ids import ZERO_ADDRESS, Address, DatasetId, Digest, DisputeId, JobId, SegmentId
from assay.job import DatasetRef, Field, KeyHolders, ShardRef, UsedDataset
from assay.publish.manifest import PRICED, Manifest
from assay.shard import BadRecords

ENDLESS = (1 << 64) - 1
"""Uses of a licence without an end."""
MOST_DATASETS = 16
_WORD = 32


class BadUses(ValueError):
    """What a job says of its datasets is malformed: the client's fault."""


class Uses(NamedTuple):
    """What a job says of its datasets: `uses` of the contract's `postLicensed`."""

    datasets: tuple[DatasetId, ...]
    head: bytes
    """What the job's data root is the hash of (assay.job.data_head)."""
    purpose: int
    """Place in assay.publish.purposes.PURPOSES."""
    most: int
    """That the client is ready to pay for them."""
    lists: tuple[int, ...]
    """The lists of verifiers that the client has seen; the contract takes no others."""


class Others(NamedTuple):
    """Datasets of others that a job is to rest on."""

    datasets: tuple[tuple[DatasetId, Manifest], ...]
    purpose: int
    most: int
    lists: tuple[int, ...]
    """Numbers of their lists of verifiers."""

    @property
    def key_service(self) -> Address:
        return self.datasets[0][1].key_service

    @property
    def key_holders(self) -> KeyHolders | None:
        return self.datasets[0][1].key_holders

    @property
    def used(self) -> tuple[UsedDataset, ...]:
        """What the job's document says of them."""
        return tuple(UsedDataset(dataset=number, shards=len(manifest.dataset.shards)) for number, manifest in self.datasets)

    def uses(self, head: bytes) -> Uses:
        return Uses(tuple(number for number, _ in self.datasets), head, self.purpose, self.most, self.lists)


def joined(fields: tuple[Field, ...], others: Others) -> DatasetRef:
    """The records of all of them, in their order. Raises BadRecords when they are not of these fields, which a training reads."""
    shards: list[ShardRef] = []
    for number, manifest in others.datasets:
        if manifest.dataset.fields != fields:
            has, needs = (", ".join(f"{f.name} {f.dtype}{list(f.shape)}" for f in each) for each in (manifest.dataset.fields, fields))
            raise BadRecords(f"dataset {number} holds {has}, the training reads {needs}")
        shards += manifest.dataset.shards
    return DatasetRef(name=others.datasets[0][1].dataset.name, fields=fields, shards=tuple(shards))


def _word(value: int) -> bytes:
    return value.to_bytes(_WORD, "big")


def encode_uses(uses: Uses) -> bytes:
    """abi.encode(uint64[] datasets, bytes head, uint8 purpose, uint128 most, uint32[] lists)."""
    ids = b"".join(map(_word, (len(uses.datasets), *uses.datasets)))
    head = _word(len(uses.head)) + uses.head + bytes(-len(uses.head) % _WORD)
    lists = b"".join(map(_word, (len(uses.lists), *uses.lists)))
    at = 5 * _WORD
    return b"".join((
        _word(at), _word(at + len(ids)), _word(uses.purpose), _word(uses.most), _word(at + len(ids) + len(head)), ids, head, lists
    ))  # fmt: skip


def decode_uses(data: bytes) -> Uses:
    """Raises BadUses for anything but what `encode_uses` writes."""

    def words(at: int) -> tuple[int, ...]:
        count = int.from_bytes(data[at : at + _WORD], "big")
        if count > MOST_DATASETS:
            raise BadUses(f"a job names at most {MOST_DATASETS} datasets")
        return tuple(int.from_bytes(data[at + _WORD * i : at + _WORD * (i + 1)], "big") for i in range(1, count + 1))

    datasets = words(5 * _WORD)
    at = _WORD * (6 + len(datasets))
    length = min(int.from_bytes(data[at : at + _WORD], "big"), len(data))
    purpose, most = (int.from_bytes(data[_WORD * i : _WORD * (i + 1)], "big") for i in (2, 3))
    lists = words(at + _WORD + length + -length % _WORD)
    uses = Uses(tuple(map(DatasetId, datasets)), data[at + _WORD : at + _WORD + length], purpose, most, lists)
    if encode_uses(uses) != data:
        raise BadUses("what the job says of its datasets is not in its one form")
    return uses


class Head(NamedTuple):
    """What a data root is the hash of, as far as the contract looks at it."""

    batch: int
    records: int
    root: bytes


def read_head(head: bytes) -> Head:
    """Raises BadUses."""
    if len(head) < 81 or head[0] != 0x17:
        raise BadUses("that is not what a data root is the hash of")
    batch, records = struct.unpack_from(">IQ", head, 33)
    return Head(batch, records, head[49:81])


def reads(steps: int, each_step: int, records: int, of: int) -> int:
    """Records of a dataset of `records` that `steps` steps read, of `of` in all."""
    return steps * each_step * records // of


def due(steps: int, each_step: int, records: int, of: int, price: int) -> int:
    return steps * each_step * records * price // (PRICED * of)


class Showing(NamedTuple):
    """A dispute that has put bytes of records of a job's data on chain, in the clear."""

    dispute: DisputeId
    segment: SegmentId
    job: JobId
    challenger: Address
    time: int
    first: int
    """Place at which training reads the first of them."""
    records: int
    owed: int = 0
    """Set aside for their owners, of whichever dataset; 0 before the dispute is paid, and where nobody lost."""
    paid: bool = False
    """Owners have been credited with it."""


def showings(events: Iterable[AnyChainEvent], dataset: DatasetId) -> list[Showing]:
    """Of jobs that rest on the dataset, alone or with others, by the last word on each."""
    jobs: set[JobId] = set()
    segments: dict[SegmentId, JobId] = {}
    sealed: dict[DisputeId, DisputeSealed] = {}
    found: dict[DisputeId, Showing] = {}
    for event in events:
        match event:
            case JobLicensed() if dataset in event.datasets:
                jobs.add(event.job)
            case Assigned() if event.job in jobs:
                segments[event.segment] = event.job
            case DisputeSealed() if event.segment in segments:
                sealed[event.dispute] = event
            case RecordsShown(dispute=number) if number in sealed:
                one = sealed[number]
                found[number] = Showing(number, one.segment, segments[one.segment], one.challenger, event.time, event.first, event.count)
            case ShowingOwed(dispute=number) if number in found:
                found[number] = found[number]._replace(owed=event.amount)
            case ShowingPaid(dispute=number) if number in found:
                found[number] = found[number]._replace(paid=True)
            case _:
                pass
    return list(found.values())


class Admissions:
    """Whom owners let check jobs on their datasets: a fold over the chain's events."""

    def __init__(self) -> None:
        self.lists: dict[tuple[DatasetId, int], tuple[Address, ...]] = {}
        self.present: dict[DatasetId, int] = {}
        """Numbers of the lists that hold for jobs posted from now on; a dataset without one has number 0, which admits all."""
        self._jobs: dict[JobId, JobLicensed] = {}

    def see(self, event: AnyChainEvent) -> None:
        match event:
            case VerifiersAdmitted():
                self.lists[event.dataset, event.list] = event.verifiers
                self.present[event.dataset] = event.list
            case JobLicensed():
                self._jobs[event.job] = event
            case _:
                pass

    def common(self, named: Iterable[tuple[DatasetId, int]]) -> tuple[Address, ...] | None:
        """Who is on all of these lists that have names, in ascending order; None where none has."""
        lists = [set(names) for one in named if (names := self.lists.get(one))]
        return tuple(sorted(set.intersection(*lists))) if lists else None

    def of(self, job: JobId) -> tuple[Address, ...] | None:
        """Who may be drawn for a job; None: whoever has a seat."""
        found = self._jobs.get(job)
        return None if found is None else self.common(zip(found.datasets, found.lists, strict=True))


class Licences:
    """A fold over the chain's events."""

    def __init__(self) -> None:
        self.datasets: dict[DatasetId, DatasetPublished] = {}
        self.licences: dict[tuple[DatasetId, Address], LicenceGranted] = {}
        """Those that have not been revoked; ZERO_ADDRESS stands for anybody."""
        self.jobs: dict[JobId, JobLicensed] = {}
        self.admissions = Admissions()
        self.paid: list[UsePaid] = []
        self.withdrawn: dict[tuple[DatasetId, Address], int] = {}
        self.refunded: dict[JobId, int] = {}
        self.record_prices: dict[DatasetId, int] = {}
        """Of a record that a dispute shows, for jobs posted from now on; a dataset that is not named asks as much as for PRICED reads."""
        self.shown: list[ShowingPaid] = []
        self.shown_withdrawn: dict[tuple[DatasetId, Address], int] = {}

    def feed(self, events: Iterable[AnyChainEvent]) -> None:
        for event in events:
            self.admissions.see(event)
            match event:
                case DatasetPublished():
                    self.datasets[event.dataset] = event
                case LicenceGranted():
                    self.licences[event.dataset, event.who] = event
                case LicenceRevoked():
                    self.licences.pop((event.dataset, event.who), None)
                case JobLicensed():
                    self.jobs[event.job] = event
                case UsePaid():
                    self.paid.append(event)
                case RevenueWithdrawn():
                    key = (event.dataset, event.owner)
                    self.withdrawn[key] = self.withdrawn.get(key, 0) + event.amount
                case UseRefunded():
                    self.refunded[event.job] = event.amount
                case RecordPriced():
                    self.record_prices[event.dataset] = event.price
                case ShowingPaid():
                    self.shown.append(event)
                case ShowingWithdrawn():
                    key = (event.dataset, event.owner)
                    self.shown_withdrawn[key] = self.shown_withdrawn.get(key, 0) + event.amount
                case _:
                    pass

    def earned(self, dataset: DatasetId) -> int:
        return sum(payment.amount for payment in self.paid if payment.dataset == dataset)

    def earned_shown(self, dataset: DatasetId) -> int:
        """For records that disputes have shown."""
        return sum(payment.amount for payment in self.shown if payment.dataset == dataset)

    def licence(self, dataset: DatasetId, who: Address, now: int) -> LicenceGranted | None:
        """What `who` may do at chain time `now`: under a licence of its own, or else under everybody's."""
        for holder in (who, ZERO_ADDRESS):
            found = self.licences.get((dataset, holder))
            if found is not None and found.until >= now:
                return found
        return None

    def cost(self, datasets: Sequence[DatasetId], who: Address, now: int, steps: int, each_step: int) -> int | None:
        """What a job would have to lock for its data; None when a licence is missing."""
        found = [self.licence(dataset, who, now) for dataset in datasets]
        records = [self.datasets[dataset].records for dataset in datasets]
        if any(licence is None for licence in found):
            return None
        return sum(due(steps, each_step, count, sum(records), one.price) for count, one in zip(records, found, strict=True) if one is not None)


def given(seen: Iterable[object], own: Collection[Digest]) -> list[dict[str, Any]]:
    """Who was released what of the shards with the keys `own`, by segment: whole shards, and records (those of two rounds count twice)."""
    rows: dict[tuple[int, str, str], tuple[int, set[Digest], list[int]]] = {}
    for event in seen:
        if isinstance(event, KeyReleased) and event.key_id in own:
            _, whole, records = rows.setdefault((event.segment, event.recipient, event.by), (event.time, set(), []))
            if bundles.is_bundle(event.wrapped):
                records.append(bundles.count(event.wrapped))
            else:
                whole.add(event.key_id)
    return [
        {"time": time, "segment": segment, "recipient": recipient, "by": by, "shards": len(whole), "of": len(own), "records": sum(records)}
        for (segment, recipient, by), (time, whole, records) in rows.items()
    ]  # fmt: skip
