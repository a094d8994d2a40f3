"""Identities and records of peers: who a node is, and what is known of where the others can be reached.

A peer id is the base58 form of the identity multihash of a libp2p Ed25519 public key (libp2p specs, peer-ids), so the key that
must have signed a record can be read from the id itself and nobody can speak for another. A record's sequence is the time at
which it was made, in milliseconds since 1970: the higher one wins, one from the future is refused, and one that has not been
renewed for `STALE` is no longer shown (though still tried when there is nobody else to ask). The book is bounded: ids cost
nothing to make, so when it is full, the record that was renewed longest ago makes room, but one of a peer that answered before
only when there is no other.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import base58
import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from assay.codec import Malformed, decode, encode
from assay.ids import Address, PeerId
from assay.messages import PeerRecord, SignedRecord

log = logging.getLogger("assay.peers")

STALE = 3600 * 1000
"""Milliseconds."""
FORGET = 7 * 24 * STALE
AHEAD = 10 * 60 * 1000
"""How far in the future a sequence may lie: clocks differ."""
MAX_RECORD = 4096
MAX_ADDRESSES = 16
MAX_TEXT = 256
MAX_BOOK = 4096

_MULTIHASH = bytes.fromhex("0024") + bytes.fromhex("08011220")
"""identity multihash of 36 bytes; protobuf PublicKey { type: Ed25519, data: 32 bytes }."""
_SIGNED = b"assay-peer-record/1\x00"


def peer_id(seed: bytes) -> PeerId:
    """The id of the node whose identity is the Ed25519 key of this 32-byte seed. Raises ValueError."""
    return _peer_id(Ed25519PrivateKey.from_private_bytes(seed).public_key())


def _peer_id(key: Ed25519PublicKey) -> PeerId:
    return PeerId(base58.b58encode(_MULTIHASH + key.public_bytes_raw()).decode())


def public_key(peer: PeerId) -> Ed25519PublicKey:
    """Raises ValueError when this is not the id of an Ed25519 identity."""
    if not 40 <= len(peer) <= 64:
        raise ValueError(f"{peer[:80]!r} is not a peer id")
    data = base58.b58decode(peer)
    if len(data) != 38 or not data.startswith(_MULTIHASH):
        raise ValueError(f"{peer!r} is not the id of an Ed25519 identity")
    key = Ed25519PublicKey.from_public_bytes(data[6:])
    if _peer_id(key) != peer:
        raise ValueError(f"{peer!r} is not the canonical form of its id")
    return key


def sign(record: PeerRecord, seed: bytes) -> SignedRecord:
    """Signs with the identity of `seed`. Raises ValueError when the record names another peer."""
    if record.peer != peer_id(seed):
        raise ValueError(f"a record of {record.peer} must be signed by that peer's key")
    return SignedRecord(record=record, signature=Ed25519PrivateKey.from_private_bytes(seed).sign(_SIGNED + encode(record)))


def verify(signed: SignedRecord) -> PeerRecord:
    """The record, if its peer signed it and it keeps the bounds. Raises Malformed."""
    record = signed.record
    if len(record.addresses) > MAX_ADDRESSES or any(len(text) > MAX_TEXT for text in (*record.addresses, record.gateway, record.role)):
        raise Malformed("a peer record may have 16 addresses, and no text in it more than 256 characters")
    if record.hardware is not None and (len(record.hardware.device) > MAX_TEXT or len(record.hardware.opening) > MAX_TEXT):
        raise Malformed("no text in a peer record may have more than 256 characters")
    try:
        public_key(record.peer).verify(signed.signature, _SIGNED + encode(record))
    except (ValueError, InvalidSignature) as error:
        raise Malformed(f"peer record of {record.peer[:64]} is not signed by that peer: {error}") from None
    return record


def parse(data: bytes) -> SignedRecord:
    """A signed record from its bytes, verified. Raises Malformed."""
    signed = decode(data, SignedRecord, limit=MAX_RECORD)
    verify(signed)
    return signed


class Peerbook:
    """The records a node keeps of the others on its chain and contract, and on disk in `file`. Not safe for several threads."""

    def __init__(self, own: PeerId, chain_id: int, contract: Address, now_ms: Callable[[], int], file: Path | None = None) -> None:
        self.own, self.chain_id, self.contract = own, chain_id, contract
        self.changed = False
        """Whether there is something that `save` would write."""
        self._now = now_ms
        self._file = file
        self._records: dict[PeerId, SignedRecord] = {}
        self._proven: set[PeerId] = set()
        if file is not None:
            self._load(file)

    def add(self, signed: SignedRecord) -> bool:
        """Whether the record is news. Raises Malformed when it is forged or from the future; a record of another chain or
        contract, of this node itself, or one that is not newer than what is known, is not news."""
        record = signed.record
        known = self._records.get(record.peer)
        if record.peer == self.own or (known is not None and known.record.sequence >= record.sequence):
            return False
        if (record.chain_id, record.contract) != (self.chain_id, self.contract):
            return False
        now = self._now()
        if record.sequence > now + AHEAD:
            raise Malformed(f"peer record of {record.peer[:64]} is from the future")
        if record.sequence < now - FORGET:
            return False
        verify(signed)
        if known is None and len(self._records) >= MAX_BOOK:
            gone = min(self._records, key=lambda peer: (peer in self._proven, self._records[peer].record.sequence))
            del self._records[gone]
            self._proven.discard(gone)
        self._records[record.peer] = signed
        self.changed = True
        return True

    def get(self, peer: PeerId) -> PeerRecord | None:
        signed = self._records.get(peer)
        return signed.record if signed is not None else None

    def is_proven(self, peer: PeerId) -> bool:
        return peer in self._proven

    def proven(self, peer: PeerId) -> None:
        """This peer was reached at its address (that it called proves nothing: who has no address can do that)."""
        if peer in self._records:
            self._proven.add(peer)

    def fresh(self) -> list[PeerRecord]:
        """Records that were renewed within `STALE`, in no order that means anything. May be called from another thread."""
        oldest = self._now() - STALE
        return [signed.record for signed in list(self._records.values()) if signed.record.sequence >= oldest]

    def signed(self) -> list[SignedRecord]:
        """Everything that is kept, newest first."""
        return sorted(self._records.values(), key=lambda signed: -signed.record.sequence)

    def _load(self, file: Path) -> None:
        try:
            kept: Iterable[SignedRecord] = msgspec.json.decode(file.read_bytes(), type=tuple[SignedRecord, ...])
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            log.warning("%s cannot be read (%s); starting without the peers it held", file, error)
            return
        for signed in kept:
            try:
                self.add(signed)
            except Malformed as error:
                log.warning("a record in %s is wrong and was left out: %s", file, error)
        self.changed = False

    def save(self) -> None:
        """Writes the newest 256 records, all or nothing. Raises OSError."""
        if self._file is None or not self.changed:
            return
        part = self._file.with_suffix(".part")
        part.write_bytes(encode(self.signed()[:256]))
        os.replace(part, self._file)
        self.changed = False
