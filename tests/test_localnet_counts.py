"""What an ordeal is counted by: receipts against money, and what processes take over time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from assay.chain import SegmentState
from assay.ids import Address, JobId, SegmentId
from assay.localnet.books import due, unpaid
from assay.localnet.sockets import listening, owner
from assay.localnet.usage import LEAST, Sample, disk, growth, leaks, sample, slope
from assay.receipts import Job, Ledger, Payment, Segment

WORKER, VERIFIER, CLIENT = (Address("0x" + digit * 40) for digit in "123")


def segment(state: SegmentState, *payments: Payment) -> Segment:
    return Segment(SegmentId(1), JobId(1), SegmentId(0), WORKER, 0, 2, 200, state=state, payments=list(payments), reason="why")


PAID = Payment(WORKER, 200, "price")


@pytest.mark.parametrize(
    ("ended", "wrong"),
    [
        (segment(SegmentState.SETTLED, PAID, Payment(VERIFIER, 5, "fee")), ""),
        (segment(SegmentState.SETTLED, Payment(VERIFIER, 200, "price")), "was credited 0 of 200"),
        (segment(SegmentState.SETTLED, Payment(WORKER, 199, "price")), "was credited 199 of 200"),
        (segment(SegmentState.SETTLED, PAID, Payment(WORKER, -1, "late")), "was charged"),
        (segment(SegmentState.LAPSED, Payment(WORKER, -1, "late")), ""),
        (segment(SegmentState.UNPAID), "ended as UNPAID: why"),
        (segment(SegmentState.VOID), "ended as VOID: why"),
        (segment(SegmentState.DRAWN), "ended as DRAWN: why"),
    ],
)
def test_who_committed_is_paid_or_it_is_told(ended: Segment, wrong: str) -> None:
    found = unpaid(ended)
    assert wrong in found
    assert bool(found) == bool(wrong)


def test_what_an_account_must_have_follows_from_what_was_made_for_it_and_from_receipts() -> None:
    ledger = Ledger()
    ledger.segments[SegmentId(1)] = segment(SegmentState.SETTLED, PAID, Payment(VERIFIER, 5, "fee"), Payment(VERIFIER, -2, "no-show"))
    ledger.jobs[JobId(1)] = Job(JobId(1), CLIENT, None, 1000, refund=797)  # type: ignore[arg-type]
    ledger.jobs[JobId(2)] = Job(JobId(2), CLIENT, None, 50)  # type: ignore[arg-type]
    made = {WORKER: 10, CLIENT: 2000}
    assert due(ledger, made) == {WORKER: 210, VERIFIER: 3, CLIENT: 2000 - 1000 + 797 - 50}
    assert made == {WORKER: 10, CLIENT: 2000}


# ---- what processes take -----------------------------------------------------------------------------------------------------------


def test_a_slope_is_that_of_the_line_through_the_samples() -> None:
    assert slope([0, 10, 20, 30], [5, 6, 7, 8]) == pytest.approx(360)
    assert slope([0, 10, 20, 30], [4, 4, 4, 4]) == 0
    assert slope([7], [4]) == 0


def grown(start: float, pid: int, count: int, leak: int) -> list[Sample]:
    return [Sample(start + 10.0 * i, pid, 100_000_000 + leak * i, 20, 7, 0, 4096) for i in range(count)]


def test_growth_is_that_of_the_process_that_lived_longest() -> None:
    found = growth([*grown(0, 1, 5, 50_000_000), *grown(50, 2, 40, 1_000_000), *grown(450, 3, 9, 0)])
    assert found is not None
    assert (found.seconds, found.handles, found.handles_an_hour, found.threads) == (390, [20] * 4, 0, [7] * 4)
    assert found.resident_mb == [104.5, 114.5, 124.5, 134.5]
    assert found.resident_mb_an_hour == pytest.approx(360)
    assert growth(grown(0, 1, LEAST, 0)) is None
    assert growth([]) is None


def test_what_a_process_fills_once_is_no_leak_and_what_only_grows_is() -> None:
    hour = [Sample(10.0 * i, 1, 150_000_000 + 100_000 * min(i, 100), 30, 7, 0, 4096) for i in range(360)]
    found = growth(hour)
    assert found is not None
    assert leaks(found) == []
    assert found.resident_mb[0] < found.resident_mb[3]
    growing = growth([each._replace(resident=each.resident + 50_000 * i, handles=30 + i // 60) for i, each in enumerate(hour)])
    assert growing is not None
    assert [text.split()[0] for text in leaks(growing)] == ["resident_mb_an_hour", "handles_an_hour"]
    assert leaks(growing._replace(seconds=600.0)) == []  # too young to tell


def test_samples_are_of_real_processes_and_folders(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_bytes(b"x" * 100_000)
    mine = sample(1.0, os.getpid(), tmp_path)
    assert mine is not None
    assert mine.handles > 2
    assert mine.resident > 1 << 20
    assert mine.disk == disk(tmp_path) >= 100_000
    assert sample(1.0, 2**22 + 1, tmp_path) is None


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="Linux tells it there")
def test_a_connection_is_found_to_be_whose_it_is() -> None:
    import socket

    with socket.socket() as server, socket.socket() as caller:
        server.bind(("127.0.3.7", 0))
        assert listening("127.0.3.7") == []
        server.listen()
        assert listening("127.0.3.7") == [server.getsockname()[1]]
        caller.connect(server.getsockname())
        host, port = caller.getsockname()
        assert owner(host, port, {"nobody": 2**22 + 1, "me": os.getpid()}) == "me"
        assert owner(host, port, {"nobody": 2**22 + 1}) == ""
