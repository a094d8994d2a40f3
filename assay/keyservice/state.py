"""What the key service remembers: jobs with their envelopes, and grants (who may have which keys of a segment, and how far that is)."""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from assay.chain import Release
from assay.facts import Facts
from assay.ids import Address, Cid, DatasetId, Digest, JobId, PeerId, SegmentId
from assay.reads import Reading

SHOWN = 1 << 14
"""Checkpoint keys that are kept for clients, each some 250 bytes; a client's node asks for its own as soon as they settle."""


class Config(msgspec.Struct, frozen=True):
    account: Address
    encryption_key: bytes
    peer: PeerId


class Envelope(msgspec.Struct, frozen=True):
    """A key wrapped to this node, as `publisher` put it on chain."""

    key_id: Digest
    wrapped: bytes
    publisher: Address
    root: bytes = b""
    """Of a published dataset: what its owner bound it to (assay.publish.manifest.dataset_info)."""


class Dataset(msgspec.Struct, frozen=True):
    """A published dataset."""

    owner: Address
    root: Digest
    key_service: Address
    manifest: Cid
    digest: Digest
    """Of the manifest."""


class JobStage(enum.StrEnum):
    FETCHING = "fetching"
    LOADING = "loading"
    CHECKING = "checking"
    READY = "ready"
    REFUSED = "refused"


class JobKeys(msgspec.Struct):
    """A job that names this node its key service, or one of its key holders."""

    near: list[PeerId]
    stage: JobStage = JobStage.FETCHING
    reason: str = ""
    """Why it is refused, or what it waits for."""
    shards: list[Envelope] = []
    """In the order of the document: what a provider gets, and drawn verifiers of the records that the drawn links read."""
    frozen: list[Envelope] = []
    """Of the frozen tensors: what provider and verifiers get alike."""
    reading: Reading | None = None
    """Which link reads which records."""
    initial: Envelope | None = None
    settled: SegmentId = SegmentId(0)
    """The last segment that settled; its checkpoint is what the job has come to."""
    over: bool = False
    """Cancelled or closed."""

    @property
    def shared(self) -> list[Envelope]:
        """All but the initial state."""
        return [*self.shards, *self.frozen]


class Kind(enum.StrEnum):
    """Which event entitles."""

    ASSIGNED = "assigned"
    DRAWN = "drawn"
    FINAL = "final"


class Grant(msgspec.Struct):
    """Keys of one segment to some accounts, after one event. The stages are those of assay.keyservice.machine."""

    name: str
    segment: SegmentId
    kind: Kind
    round: int
    recipients: list[Address]
    stage: str = "waiting"
    reason: str = ""
    keys: int = 0
    sending: int = 0
    """Calls that are not mined yet."""


class Checkpoint(msgspec.Struct):
    """The envelope of a committed segment's checkpoint."""

    envelope: Envelope
    checked: bool = False
    bad: bool = False


class Surety(msgspec.Struct):
    """What this account has put up (contract Sureties)."""

    per_job: int = 0
    notice: int = 0
    """Seconds that a job must give it."""
    free: int = 0
    vouched: set[JobId] = set()
    asked: set[JobId] = set()
    """For which a call has been sent."""
    calls: int = 0
    """Sent so far: one that is made again is another call."""


class State(msgspec.Struct):
    facts: Facts = msgspec.field(default_factory=Facts)
    jobs: dict[JobId, JobKeys] = {}
    datasets: dict[DatasetId, Dataset] = {}
    licensed: dict[JobId, tuple[DatasetId, ...]] = {}
    """The datasets that the contract has found a job licensed for, when it was posted."""
    heads: dict[JobId, bytes] = {}
    """What the data root of a job on several datasets is the hash of: whose record each is follows from it."""
    grants: dict[str, Grant] = {}
    checkpoints: dict[SegmentId, Checkpoint] = {}
    shown: dict[SegmentId, Release] = {}
    """Checkpoints of settled segments wrapped to the job's client, off chain: what it paid for, and can check steps from. The newest SHOWN."""
    released: dict[SegmentId, list[Release]] = {}
    """What has been wrapped, so that a request is answered with the same bytes that go on chain."""
    count: int = 0
    """Keys released so far."""
    holds: list[Address] = []
    """First key holders with whose jobs this node keeps shares."""
    surety: Surety = msgspec.field(default_factory=Surety)
    orders: int = 0
    """Calls that the owner has given to send."""

    def summary(self) -> dict[str, Any]:
        return {
            "released": self.count,
            "holds": list(self.holds),
            "jobs": [{"job": job, "stage": str(keys.stage), "reason": keys.reason} for job, keys in self.jobs.items()],
            "waiting": [{"segment": g.segment, "for": str(g.kind), "reason": g.reason} for g in self.grants.values()],
        }
