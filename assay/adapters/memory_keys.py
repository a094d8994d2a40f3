"""Keys without cryptography, for simulations: deterministic from a seed and fast. They keep no secret from whoever reads memory.

What holds is what the rules of the network rest on: a wrapped key opens for its recipient and for the `info` it was wrapped with,
and for nobody else who uses this class; a changed one does not open.
"""

from __future__ import annotations

import hashlib
import hmac

from assay.ids import Address, Digest
from assay.merkle import sha256
from assay.record_keys import RecordKeys, ShardKey


class MemoryKeys:
    """assay.ports.Keys of the node that `seed` names; `account` follows from the seed unless it is given."""

    def __init__(self, seed: bytes, account: Address | None = None) -> None:
        self._seed = seed
        self.account = account or Address("0x" + sha256(b"account", seed)[:20].hex())
        self.encryption_key: bytes = sha256(b"encryption", seed)
        self.peer_seed: bytes = sha256(b"peer", seed)
        self._ring: dict[Digest, bytes] = {}
        self._records: dict[Digest, RecordKeys] = {}
        self._wrapped = 0

    def __repr__(self) -> str:
        return f"MemoryKeys({self.account})"

    def wrap(self, key: bytes, recipient: bytes, info: bytes = b"") -> bytes:
        if len(recipient) != 32:
            raise ValueError(f"{recipient.hex()} is not an encryption key: expected 32 bytes")
        self._wrapped += 1
        nonce = sha256(b"nonce", self._seed, self._wrapped.to_bytes(8, "big"))
        hidden = _mask(key, recipient, nonce)
        return nonce + hidden + _tag(recipient, info, nonce + hidden)

    def unwrap(self, wrapped: bytes, info: bytes = b"") -> bytes:
        body, tag = wrapped[:-16], wrapped[-16:]
        if len(body) < 32 or not hmac.compare_digest(tag, _tag(self.encryption_key, info, body)):
            raise ValueError("a wrapped key does not open: it was wrapped to another recipient, for another purpose, or changed")
        return _mask(body[32:], self.encryption_key, body[:32])

    def store(self, key: bytes) -> Digest:
        key_id = Digest(hashlib.sha256(key).digest())
        self._ring[key_id] = key
        return key_id

    def load(self, key_id: Digest) -> bytes:
        return self._ring[key_id]

    def store_records(self, key_id: Digest, records: RecordKeys) -> None:
        known = self._records.get(key_id)
        self._records[key_id] = records if known is None else known | records

    def shard_key(self, key_id: Digest) -> ShardKey:
        return self._ring[key_id] if key_id in self._ring else self._records[key_id]


def _mask(key: bytes, recipient: bytes, nonce: bytes) -> bytes:
    stream = hashlib.shake_256(recipient + nonce).digest(len(key))
    return (int.from_bytes(key, "big") ^ int.from_bytes(stream, "big")).to_bytes(len(key), "big")


def _tag(recipient: bytes, info: bytes, body: bytes) -> bytes:
    return sha256(b"tag", recipient, len(info).to_bytes(4, "big"), info, body)[:16]
