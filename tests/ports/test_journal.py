"""One suite over every journal, and what only a file can suffer: a kill, a full disk, a second daemon, damage."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from assay.adapters.journal import SqliteJournal, Unusable
from assay.adapters.memory_journal import MemoryJournal
from assay.ports import Journal, StorageFull

Reopen = Callable[[], Journal]


@pytest.fixture(params=["sqlite", "memory"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Reopen]:
    """Each call gives the journal as a process that starts now would find it."""
    memory, opened = MemoryJournal(), []

    def open_it() -> Journal:
        if request.param == "memory":
            return memory
        for journal in opened:
            journal.close()
        opened[:] = [SqliteJournal(tmp_path / "journal.db")]
        return opened[0]

    yield open_it
    for journal in opened:
        journal.close()


def contents(journal: Journal) -> tuple[int, bytes | None, list[tuple[int, int, bytes, bytes]]]:
    sequence, state, rows = journal.load()
    return sequence, state, [(row.sequence, row.now, row.seed, row.event) for row in rows]


def test_rows_come_back_in_order(reopen: Reopen) -> None:
    journal = reopen()
    assert contents(journal) == (0, None, [])
    assert [journal.append(10 + i, bytes([i]), b"event %d" % i) for i in range(3)] == [1, 2, 3]
    expected = (0, None, [(i + 1, 10 + i, bytes([i]), b"event %d" % i) for i in range(3)])
    assert contents(journal) == expected
    assert contents(reopen()) == expected


def test_a_snapshot_replaces_what_came_before(reopen: Reopen) -> None:
    journal = reopen()
    for i in range(4):
        journal.append(i, b"", b"%d" % i)
    journal.snapshot(3, b"state after 3")
    assert contents(reopen()) == (3, b"state after 3", [(4, 3, b"", b"3")])
    journal = reopen()
    assert journal.append(9, b"", b"next") == 5
    journal.snapshot(5, b"state after 5")
    assert contents(reopen()) == (5, b"state after 5", [])
    assert reopen().append(9, b"", b"after all") == 6  # a sequence is never used twice


def test_a_snapshot_of_rows_that_do_not_exist_is_refused(reopen: Reopen) -> None:
    journal = reopen()
    journal.append(0, b"", b"")
    with pytest.raises(ValueError, match="a snapshot of row 2 when the last is 1"):
        journal.snapshot(2, b"")
    assert contents(journal)[2] == [(1, 0, b"", b"")]


@pytest.fixture(params=["sqlite", "memory"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Journal]:
    journal = SqliteJournal(tmp_path / "journal.db", limit=100_000) if request.param == "sqlite" else MemoryJournal(limit=100_000)
    yield journal
    journal.close()


def test_a_full_disk_is_said_and_loses_nothing(small: Journal) -> None:
    event, acknowledged = bytes(5000), []

    def fill() -> None:
        for now in range(100):
            acknowledged.append(small.append(now, b"", event))

    with pytest.raises(StorageFull, match="nothing written is lost"):
        fill()
    assert 5 < len(acknowledged) < 50
    assert [row.sequence for row in small.load()[2]] == acknowledged
    with pytest.raises(StorageFull):
        small.append(0, b"", event)
    small.snapshot(acknowledged[-1], b"small")  # what frees space still works
    assert small.append(0, b"", event) == acknowledged[-1] + 1


APPENDER = """
import sys
from pathlib import Path
from assay.adapters.journal import SqliteJournal
journal = SqliteJournal(Path(sys.argv[1]))
now = 0
while True:
    sequence = journal.append(now, b"s", b"event %d" % now)
    sys.stdout.write(f"{sequence} {now}\\n")
    sys.stdout.flush()
    if sequence % 10 == 0:
        journal.snapshot(sequence - 3, b"until %d" % (sequence - 3))
    now += 1
"""


@pytest.mark.parametrize("acks", [1, 9, 10, 47])
def test_a_kill_loses_nothing_that_was_acknowledged(tmp_path: Path, acks: int) -> None:
    path = tmp_path / "journal.db"
    child = subprocess.Popen([sys.executable, "-c", APPENDER, str(path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    try:
        for _ in range(acks):
            child.stdout.readline()
        child.send_signal(signal.SIGKILL)  # it goes on appending until this hits it
        rest = child.stdout.read().splitlines(keepends=True)
    finally:
        child.kill()
        child.wait(timeout=240)
        child.stdout.close()
    last = acks + sum(line.endswith(b"\n") for line in rest)
    journal = SqliteJournal(path)
    sequence, state, rows = journal.load()
    journal.close()
    assert state is None if sequence == 0 else state == b"until %d" % sequence
    assert [row.sequence for row in rows] == list(range(sequence + 1, sequence + 1 + len(rows)))
    assert [row.event for row in rows] == [b"event %d" % (row.sequence - 1) for row in rows]
    assert last <= sequence + len(rows) <= last + 1


def test_a_second_daemon_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    first = SqliteJournal(tmp_path / "journal.db")
    with pytest.raises(Unusable, match=f"in use by process {os.getpid()}: one daemon a data folder"):
        SqliteJournal(tmp_path / "journal.db")
    first.append(0, b"", b"still works")
    first.close()
    SqliteJournal(tmp_path / "journal.db").close()


def test_damage_is_said(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(b"this is not a database at all" * 100)
    with pytest.raises(Unusable, match=r"journal\.db is damaged .* put back a copy"):
        SqliteJournal(path)


def test_a_journal_is_private_and_durable(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = SqliteJournal(path)
    journal.append(0, b"", b"")
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}
    assert journal._database.execute("pragma synchronous").fetchone() == (2,)
    assert journal._database.execute("pragma journal_mode").fetchone() == ("wal",)
    journal.close()
    with sqlite3.connect(path) as database:
        assert database.execute("select count(*) from rows").fetchone() == (1,)
    database.close()
