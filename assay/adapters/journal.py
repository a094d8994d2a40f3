"""The journal in an SQLite file: what was appended survives a kill and a power cut.

Write-ahead log with `synchronous=FULL`: a commit returns when the log is on the disk (https://sqlite.org/pragma.html#pragma_synchronous).
One process writes a journal; a second one is refused at once, since two daemons on one data folder would contradict each other on
chain. A journal that cannot be written raises StorageFull or Unusable and has lost nothing that it acknowledged.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from assay.ports import Row, StorageFull

_SCHEMA = """
create table if not exists rows (sequence integer primary key, now integer not null, seed blob not null, event blob not null);
create table if not exists snapshot (id integer primary key check (id = 1), sequence integer not null, state blob not null);
"""
_PAGE = 4096


class Unusable(Exception):
    """The journal's file cannot be used, and why."""


def open_database(path: Path, schema: str, limit: int | None = None) -> sqlite3.Connection:
    """A durable SQLite file of mode 0600. Raises Unusable when the file is no database or was damaged, StorageFull."""
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    with explained(path):
        database.execute("pragma journal_mode=wal")
        database.execute("pragma synchronous=full")
        if limit is not None:
            database.execute(f"pragma max_page_count={max(limit // _PAGE, 8)}")
        (sound,) = database.execute("pragma quick_check(1)").fetchone()
        if sound != "ok":
            raise Unusable(f"{path} is damaged ({sound}): put back a copy, or move it away to start afresh from the chain")
        database.executescript(schema)
    return database


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns SQLite's errors about the disk into ours."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise StorageFull(f"{path} cannot grow: the disk is full. Free some space on it and start again; nothing written is lost") from None
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            raise Unusable(f"{path} is damaged ({error}): put back a copy, or move it away to start afresh from the chain") from None
        if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
            raise Unusable(f"{path} cannot be written ({error}): look at the disk and at who owns the folder") from None
        raise


class SqliteJournal:
    """assay.ports.Journal in the file `path`; `limit` bounds the file in bytes (None: the disk does)."""

    def __init__(self, path: Path, limit: int | None = None) -> None:
        self.path = path
        self._lock = os.open(path.with_name(path.name + ".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            self._claim()
            self._database = open_database(path, _SCHEMA, limit)
        except BaseException:
            os.close(self._lock)
            raise
        (rows,) = self._database.execute("select max(sequence) from rows").fetchone()
        sequence, _ = self._snapshot()
        self._last = max(rows or 0, sequence)

    def _claim(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._lock, 20, 0).decode(errors="replace").strip() or "unknown"
            raise Unusable(
                f"{self.path} is in use by process {holder}: one daemon a data folder; stop that one, or give another --data folder"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode(), 0)

    def _snapshot(self) -> tuple[int, bytes | None]:
        row = self._database.execute("select sequence, state from snapshot").fetchone()
        return (row[0], row[1]) if row else (0, None)

    def append(self, now: int, seed: bytes, event: bytes) -> int:
        with explained(self.path):
            self._database.execute("insert into rows values (?, ?, ?, ?)", (self._last + 1, now, seed, event))
        self._last += 1
        return self._last

    def snapshot(self, sequence: int, state: bytes) -> None:
        if sequence > self._last:
            raise ValueError(f"a snapshot of row {sequence} when the last is {self._last}")
        with explained(self.path):
            self._database.execute("begin immediate")
            try:
                self._database.execute("insert or replace into snapshot values (1, ?, ?)", (sequence, state))
                self._database.execute("delete from rows where sequence <= ?", (sequence,))
                self._database.execute("commit")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("rollback")
                raise

    def load(self) -> tuple[int, bytes | None, list[Row]]:
        with explained(self.path):
            sequence, state = self._snapshot()
            rows = self._database.execute("select sequence, now, seed, event from rows where sequence > ? order by sequence", (sequence,))
            return sequence, state, [Row(sequence=s, now=n, seed=seed, event=event) for s, n, seed, event in rows]

    def close(self) -> None:
        """Lets the file go; the journal cannot be used after it."""
        self._database.close()
        os.close(self._lock)
