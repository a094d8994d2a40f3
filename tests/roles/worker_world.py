"""A worker's machine and what brings it to where a test begins. No network, no clock."""

from __future__ import annotations

from typing import Any

import pytest

from assay.chain import (
    Activated,
    Attested,
)
from assay.ids import Address, JobId, SegmentId
from assay.messages import (
    Ack,
    Boundary,
    JobAnnouncement,
    ReceiptMessage,
)
from assay.runtime import Heard
from assay.tasks import (
    SegmentRun,
    Signed,
    UnitsServed,
)
from assay_worker.machine import WorkerMachine
from assay_worker.state import BUSY, WorkerConfig
from bench import (
    ENDS,
    LINK_ROOT,
    ME,
    PARAMS,
    PEERS,
    SCHEDULER,
    SHARDS,
    SPEC,
    TERMS,
    VERIFIERS,
    Bench,
    cid,
    digest,
    sealed,
)

PRICE = 10
INPUTS = [*(shard.sealed for shard in SHARDS), SPEC.state]


@pytest.fixture
def bench() -> Any:
    """A free worker; after each test it is started again from its journal and must be where it was."""
    made = Bench.of(WorkerMachine(WorkerConfig(account=ME, encryption_key=b"k" * 32, peer=PEERS[ME], price_per_step=PRICE)))
    yield made
    made.check_restart()


def announcement(bench: Bench, **changes: Any) -> JobAnnouncement:
    fields = {
        "job": JobId(1), "spec": TERMS.spec, "parent": SegmentId(0), "start": 0, "stop": 10, "price_cap": 1000,
        "scheduler": PEERS[SCHEDULER], "respond_by": bench.now + 5,
    }  # fmt: skip
    return JobAnnouncement(**{**fields, **changes})  # type: ignore[arg-type]


def hear(bench: Bench, **changes: Any) -> None:
    bench.feed(Heard(peer=PEERS[SCHEDULER], message=announcement(bench, **changes)))


def ready(bench: Bench) -> None:
    """The job is known and loaded."""
    bench.posted()
    hear(bench)
    bench.load_job()


def busy(bench: Bench) -> list[int]:
    """Segments that take a place."""
    return [mine.segment for mine in bench.state.mine.values() if mine.phase in BUSY]


def offered(bench: Bench) -> None:
    ready(bench)
    bench.done("sign:", Signed(signature=b"s"))
    bench.answered("offer:", Ack())


def running(bench: Bench) -> None:
    offered(bench)
    bench.assigned()
    bench.supply(INPUTS)
    bench.sent("activate:1")
    bench.seen(Activated, segment=SegmentId(1), lease_until=bench.now + PARAMS.lease_window)


def outcome(stop: int = 10) -> SegmentRun:
    return SegmentRun(
        segment=SegmentId(1), stop=stop, link_root=LINK_ROOT, end_root=ENDS[-1], proof=(digest("p"),), checkpoint=sealed("checkpoint 1"),
        first_loss=1, last_loss=2, milliseconds=5000, computed=10,
    )  # fmt: skip


def committed(bench: Bench) -> None:
    running(bench)
    bench.done("run:1", outcome())
    bench.answered("copy:1", Ack())
    bench.sent("commit:1")
    bench.committed()


def boundary(unit: int) -> Boundary:
    return Boundary(segment=SegmentId(1), unit=unit, cid=cid("b"), key_id=digest("b"), wrapped=b"w", link_ends=(), proofs=())


def drawn(bench: Bench) -> None:
    committed(bench)
    bench.drawn()
    bench.done("units:1", UnitsServed(boundaries=tuple((who, boundary(unit)) for who in VERIFIERS for unit in (4, 9))))


def receipt(who: Address, by: Address | None = None) -> ReceiptMessage:
    return ReceiptMessage(segment=SegmentId(1), round=0, verifier=by or who, signature=b"sig " + who.encode())


def attested(bench: Bench) -> None:
    drawn(bench)
    bench.served()
    bench.seen(Attested, segment=SegmentId(1), settle_after=bench.now + 200)
