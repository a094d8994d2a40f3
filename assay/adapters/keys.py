"""A node's secrets, in the folder `keys` (0700) of its data folder, every file 0600 and written whole or not at all.

    account.json    the account's private key: an Ethereum keyfile (Web3 Secret Storage v3, PBKDF2), which wallets can import
    password        what opens it, when nobody gave a password: 256 random bits, so that a daemon starts unattended
    node.sealed     X25519 key, libp2p identity seed and the ring's master key, under a key that follows from the account's
    ring.db         symmetric keys of shards and checkpoints by their id, and keys of single records by their shard's, each AES-256-GCM under
                    the master key

A random password needs no stretching, so a daemon starts in milliseconds; a person's own password is stretched (PBKDF2-HMAC-SHA256,
SLOW_ITERATIONS). Nothing secret is ever part of a repr, a log line or an error.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from assay import record_keys, seal
from assay.adapters.journal import explained, open_database
from assay.ids import Address, Digest, address
from assay.record_keys import RecordKeys, ShardKey

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount

FAST_ITERATIONS = 1000
SLOW_ITERATIONS = 300_000
"""PBKDF2 rounds under a generated password, and under a person's."""
PASSWORD_VARIABLE = "ASSAY_PASSWORD"

_RING = """
create table if not exists ring (id blob primary key, sealed blob not null) without rowid;
create table if not exists records (id blob primary key, sealed blob not null) without rowid;
"""
_RECORDS_OF = b"records of "
"""Before the key id, in what the master key binds a bundle to."""


class KeyTrouble(Exception):
    """The node's keys cannot be used: what is wrong and what to do."""


def exists(folder: Path) -> bool:
    """Whether the data folder holds an account."""
    return (folder / "keys" / "account.json").exists()


def create(folder: Path, password: str | None = None, private_key: bytes | None = None) -> NodeKeys:
    """Makes the keys of a new node in its data folder and opens them. Raises KeyTrouble when it has an account already.

    Without `password` a random one is made and kept beside the keyfile. `private_key`: an account that exists already.
    """
    from eth_account import Account

    home = _home(folder)
    if exists(folder):
        raise KeyTrouble(f"{home} holds an account already: `assay keys show` shows it; to make another give another --data folder")
    if password is None:
        password = secrets.token_hex(32)
        _write(home / "password", password.encode())
        iterations = FAST_ITERATIONS
    else:
        iterations = SLOW_ITERATIONS
    keyfile = Account.encrypt(private_key or secrets.token_bytes(32), password, kdf="pbkdf2", iterations=iterations)
    _write(home / "account.json", json.dumps(keyfile).encode())
    return open_keys(folder, password)


def open_keys(folder: Path, password: str | None = None, prompt: Callable[[str], str] | None = None) -> NodeKeys:
    """The keys of the node whose data folder this is. Raises KeyTrouble.

    The password is, in this order: `password`, the environment's ASSAY_PASSWORD, the file `keys/password`, what `prompt` answers.
    """
    from eth_account import Account

    if not exists(folder):
        raise KeyTrouble(f"{folder} holds no account: make one with `assay keys new --data {folder}`")
    home = _home(folder)
    if password is None:
        password = os.environ.get(PASSWORD_VARIABLE)
    if password is None and (home / "password").exists():
        password = _read(home / "password").decode().strip()
    if password is None and prompt is not None:
        password = prompt(f"Password of the account in {home}: ")
    if password is None:
        raise KeyTrouble(f"the account in {home} needs its password: set {PASSWORD_VARIABLE}, or put it into {home / 'password'} (mode 0600)")
    try:
        keyfile = json.loads(_read(home / "account.json"))
        private = bytes(Account.decrypt(keyfile, password))
    except (ValueError, KeyError, TypeError) as error:
        wrong = "MAC mismatch" in str(error)
        what = "does not open with this password" if wrong else "is damaged: put back a copy of it"
        raise KeyTrouble(f"{home / 'account.json'} {what}") from None
    return NodeKeys(home, Account.from_key(private))


class NodeKeys:
    """assay.ports.Keys, and what the adapters of chain and peers need: `signer` and `peer_seed`."""

    def __init__(self, home: Path, signer: LocalAccount) -> None:
        self.account: Address = address(signer.address)
        self._home, self._signer = home, signer
        own = _node_secrets(home, signer)
        self._private, self._peer_seed, master = own[:32], own[32:64], own[64:]
        self.encryption_key: bytes = seal.public_key(self._private)
        self._master = AESGCM(master)
        self._ring = open_database(home / "ring.db", _RING)
        self._mutex = threading.Lock()

    def __repr__(self) -> str:
        return f"NodeKeys({self.account})"

    @property
    def signer(self) -> LocalAccount:
        """Signs transactions and typed data (eth-account); for the chain's adapter alone."""
        return self._signer

    @property
    def peer_seed(self) -> bytes:
        """Ed25519 seed of the libp2p identity, 32 bytes; for the peers' adapter alone."""
        return self._peer_seed

    def wrap(self, key: bytes, recipient: bytes, info: bytes = b"") -> bytes:
        return seal.wrap(key, recipient, info)

    def unwrap(self, wrapped: bytes, info: bytes = b"") -> bytes:
        return seal.unwrap(wrapped, self._private, info)

    def store(self, key: bytes) -> Digest:
        key_id, nonce = seal.key_id(key), os.urandom(12)
        sealed = nonce + self._master.encrypt(nonce, key, key_id)
        with self._mutex, explained(self._home / "ring.db"):
            self._ring.execute("insert or ignore into ring values (?, ?)", (key_id, sealed))
        return key_id

    def load(self, key_id: Digest) -> bytes:
        with self._mutex, explained(self._home / "ring.db"):
            row = self._ring.execute("select sealed from ring where id = ?", (key_id,)).fetchone()
        if row is None:
            raise KeyError(f"no key {key_id.hex()[:16]}… in this node's ring")
        try:
            return self._master.decrypt(row[0][:12], row[0][12:], key_id)
        except InvalidTag:
            raise KeyError(f"key {key_id.hex()[:16]}… in {self._home / 'ring.db'} is damaged: put back a copy of the folder") from None

    def store_records(self, key_id: Digest, records: RecordKeys) -> None:
        with self._mutex, explained(self._home / "ring.db"):
            known, nonce = self._records(key_id), os.urandom(12)
            made = record_keys.encode(records if known is None else known | records)
            sealed = nonce + self._master.encrypt(nonce, made, _RECORDS_OF + key_id)
            self._ring.execute("insert or replace into records values (?, ?)", (key_id, sealed))

    def shard_key(self, key_id: Digest) -> ShardKey:
        try:
            return self.load(key_id)
        except KeyError:
            with self._mutex, explained(self._home / "ring.db"):
                known = self._records(key_id)
            if known is None:
                raise
            return known

    def _records(self, key_id: Digest) -> RecordKeys | None:
        row = self._ring.execute("select sealed from records where id = ?", (key_id,)).fetchone()
        if row is None:
            return None
        try:
            return record_keys.decode(self._master.decrypt(row[0][:12], row[0][12:], _RECORDS_OF + key_id))
        except InvalidTag:
            raise KeyError(f"the records' keys {key_id.hex()[:16]}… in {self._home / 'ring.db'} are damaged: put back a copy of the folder") from None

    def close(self) -> None:
        with self._mutex:
            self._ring.close()


# ---- files ---------------------------------------------------------------------------------------------------------------


def _node_secrets(home: Path, signer: LocalAccount) -> bytes:
    """96 random bytes, made when they are first wanted and kept under a key that follows from the account's private key."""
    path = home / "node.sealed"
    under = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"assay/node-secrets/1").derive(bytes(signer.key))
    if not path.exists():
        _write(path, seal.seal(os.urandom(96), under))
    try:
        return seal.unseal(_read(path), under)
    except seal.WrongKey:
        raise KeyTrouble(f"{path} belongs to another account than {signer.address}: put the two files of one node together") from None
    except seal.Corrupt as error:
        raise KeyTrouble(f"{path} is damaged ({error}): put back a copy of it") from None


def _home(folder: Path) -> Path:
    home = folder / "keys"
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    mode = stat.S_IMODE(home.stat().st_mode)
    if mode & 0o077:
        raise KeyTrouble(f"others may enter {home} (mode {mode:o}): if none of them is a stranger, `chmod 700 {home}`, else make new keys")
    return home


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise KeyTrouble(f"others may read {path} (mode {mode:o}): if none of them is a stranger, `chmod 600 {path}`, else make new keys")
        return file.read()


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all, and on the disk when this returns."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
