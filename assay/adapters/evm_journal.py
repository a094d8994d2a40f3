"""What an account has sent, on disk before it leaves: the reason why a crash never turns one call into two transactions.

A call id is bound to one nonce, and every signed transaction for it (the first and its replacements with a higher fee) is written
with its raw bytes before it is broadcast. Whatever happens, at most one transaction can be mined on a nonce (Ethereum yellow
paper, 6.2), so repeating a broadcast is harmless. SQLite with `synchronous=FULL`; one process at a time may have it open.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assay.chain import CallId
from assay.ids import Address, Digest
from assay.ports import StorageFull

_SCHEMA = """
CREATE TABLE IF NOT EXISTS network (one INTEGER PRIMARY KEY CHECK (one = 1), chain_id INTEGER, genesis BLOB, contract TEXT, account TEXT);
CREATE TABLE IF NOT EXISTS sends (call_id TEXT PRIMARY KEY, nonce INTEGER UNIQUE, target TEXT, data BLOB, gas INTEGER);
CREATE TABLE IF NOT EXISTS attempts (hash BLOB PRIMARY KEY, call_id TEXT, raw BLOB, fee INTEGER, tip INTEGER);
CREATE INDEX IF NOT EXISTS attempts_of ON attempts (call_id);
CREATE TABLE IF NOT EXISTS delivered (number INTEGER PRIMARY KEY, hash BLOB);
"""

KEPT_BLOCKS = 1000
"""How far back the reader remembers hashes."""


class WrongFolder(Exception):
    """The folder's journal belongs to another network or account, or another process is using it."""


@dataclass(slots=True)
class Attempt:
    """A signed transaction. Fees in wei per unit of gas."""

    hash: bytes
    raw: bytes
    fee: int
    tip: int


@dataclass(slots=True)
class Entry:
    call_id: CallId
    nonce: int
    target: Address
    data: bytes
    gas: int
    attempts: list[Attempt] = field(default_factory=list)
    """Oldest first; the last has the highest fee."""


class SendJournal:
    """Raises WrongFolder when it is opened for another network than it was made for, or twice."""

    def __init__(self, path: Path, chain_id: int, genesis: Digest, contract: Address, account: Address) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        """The sender writes in a thread, so that the event loop goes on while the disk syncs."""
        self._db = sqlite3.connect(path, isolation_level=None, timeout=0.5, check_same_thread=False)
        try:
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
            self._db.execute("BEGIN EXCLUSIVE")
            row = self._db.execute("SELECT chain_id, genesis, contract, account FROM network").fetchone()
            here = (chain_id, genesis, contract, account)
            if row is None:
                self._db.execute("INSERT INTO network VALUES (1, ?, ?, ?, ?)", here)
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            self._db.close()
            raise WrongFolder(f"{path} cannot be used ({error}): does another process run with this data folder? Stop it first.") from None
        except BaseException:
            self._db.close()
            raise
        if row is not None and row != here:
            self._db.close()
            raise WrongFolder(
                f"{path} belongs to account {row[3]} at contract {row[2]} on chain {row[0]} (genesis {row[1].hex()[:8]}), "
                f"not to {account} at {contract} on chain {chain_id} (genesis {genesis.hex()[:8]}). "
                "Use another data folder for another network, or delete this one if its network is gone."
            )

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _rows(self, query: str, *parameters: object) -> list[Any]:
        with self._lock:
            return self._db.execute(query, parameters).fetchall()

    def _entry(self, row: tuple[str, int, str, bytes, int]) -> Entry:
        entry = Entry(CallId(row[0]), row[1], Address(row[2]), row[3], row[4])
        query = "SELECT hash, raw, fee, tip FROM attempts WHERE call_id = ? ORDER BY fee"
        entry.attempts = [Attempt(*attempt) for attempt in self._rows(query, entry.call_id)]
        return entry

    def get(self, call_id: CallId) -> Entry | None:
        with self._lock:
            rows = self._rows("SELECT call_id, nonce, target, data, gas FROM sends WHERE call_id = ?", call_id)
            return self._entry(rows[0]) if rows else None

    def from_nonce(self, nonce: int) -> list[Entry]:
        """Entries with that nonce or a higher one, lowest first."""
        query = "SELECT call_id, nonce, target, data, gas FROM sends WHERE nonce >= ? ORDER BY nonce"
        with self._lock:
            return [self._entry(row) for row in self._rows(query, nonce)]

    def next_nonce(self) -> int:
        """One more than the highest nonce that was ever used here."""
        ((highest,),) = self._rows("SELECT max(nonce) FROM sends")
        return 0 if highest is None else int(highest) + 1

    def write(self, entries: list[Entry]) -> None:
        """Adds entries, or puts them in place of those of the same call id (which then must be known to be dead). Durable on return.
        Raises StorageFull, and then nothing of it is there."""
        with self._transaction():
            for entry in entries:
                self._db.execute("DELETE FROM attempts WHERE call_id = ?", (entry.call_id,))
                self._db.execute("DELETE FROM sends WHERE call_id = ?", (entry.call_id,))
                row = (entry.call_id, entry.nonce, entry.target, entry.data, entry.gas)
                self._db.execute("INSERT INTO sends VALUES (?, ?, ?, ?, ?)", row)
                for attempt in entry.attempts:
                    self._attempt(entry, attempt)

    def add(self, entry: Entry, attempt: Attempt) -> None:
        """A replacement on the same nonce. Durable on return. Raises StorageFull."""
        with self._transaction():
            self._attempt(entry, attempt)
        entry.attempts.append(attempt)

    def _attempt(self, entry: Entry, attempt: Attempt) -> None:
        row = (attempt.hash, entry.call_id, attempt.raw, attempt.fee, attempt.tip)
        self._db.execute("INSERT OR REPLACE INTO attempts VALUES (?, ?, ?, ?, ?)", row)

    # ---- for the reader (evm_reader.Memory)

    def note_delivered(self, hashes: dict[int, Digest]) -> None:
        """Not synced: after a power cut the reader merely knows less of what it has read."""
        if not hashes:
            return
        with self._lock:
            self._db.execute("PRAGMA synchronous=OFF")
            try:
                with self._transaction():
                    self._db.executemany("INSERT OR REPLACE INTO delivered VALUES (?, ?)", hashes.items())
                    self._db.execute("DELETE FROM delivered WHERE number <= ?", (max(hashes) - KEPT_BLOCKS,))
            finally:
                self._db.execute("PRAGMA synchronous=FULL")

    def delivered(self, number: int) -> Digest | None:
        rows = self._rows("SELECT hash FROM delivered WHERE number = ?", number)
        return Digest(rows[0][0]) if rows else None

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            try:
                self._db.execute("BEGIN")
                yield
                self._db.execute("COMMIT")
            except BaseException as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                    raise StorageFull("the disk is full, so nothing can be sent: free some space in the node's data folder") from None
                raise
