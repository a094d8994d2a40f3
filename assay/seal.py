"""Sealed files: AES-256-GCM in chunks of 64 KiB, readable at any place, and keys wrapped to their recipients by HPKE.

A sealed file is a header of 64 bytes and the encrypted chunks, each with a tag of 16 bytes:

    magic "ASSAYSEA" | version u8 = 1 | log2(chunk) u8 = 16 | prefix 7 B | zero 7 B | length u64 | key id 32 B

Chunk i is encrypted under the nonce `prefix | i u32 | last u8` with the header as associated data (the STREAM construction of Hoang,
Reyhanitabar, Rogaway and Vizar, CRYPTO 2015): a chunk that was changed, moved, cut off or added does not open. An empty file is one
empty last chunk. GCM itself does not commit to its key; the key id, SHA-256 of the key, in the authenticated header does, and it
tells a wrong key from a corrupt file. A key seals one file: the random prefix only guards against a slip.

Wrapping is HPKE base mode (RFC 9180), DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM: 80 bytes for a key of 32.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
from collections.abc import Callable
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from assay.ids import Digest

KEY_SIZE = 32
CHUNK = 1 << 16
TAG = 16
HEADER_SIZE = 64
WRAPPED_SIZE = 80
"""Bytes of a wrapped 32-byte key: 32 of encapsulation, 32 of ciphertext, 16 of tag."""
MAX_LENGTH = CHUNK << 32

_HEADER = struct.Struct(">8sBB7s7xQ32s")
_MAGIC, _VERSION, _CHUNK_LOG = b"ASSAYSEA", 1, 16
_SUITE = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


class SealError(ValueError):
    """A sealed file does not open."""


class WrongKey(SealError):
    """The key is another one than the file was sealed with: ask whoever gave the key."""


class Corrupt(SealError):
    """The file is not (any longer) what was sealed: whoever published it is at fault, for its CID was checked when it came."""


def new_key() -> bytes:
    return os.urandom(KEY_SIZE)


def key_id(key: bytes) -> Digest:
    """The public name of a key: its SHA-256."""
    return Digest(hashlib.sha256(key).digest())


class Header(NamedTuple):
    prefix: bytes
    length: int
    """Bytes of the plaintext."""
    key_id: Digest

    @property
    def chunks(self) -> int:
        return max(1, -(-self.length // CHUNK))

    @property
    def sealed_size(self) -> int:
        return HEADER_SIZE + self.length + TAG * self.chunks


def encode_header(header: Header) -> bytes:
    return _HEADER.pack(_MAGIC, _VERSION, _CHUNK_LOG, header.prefix, header.length, header.key_id)


def decode_header(data: bytes) -> Header:
    """The header of a sealed file (its first 64 bytes). Raises Corrupt."""
    if len(data) < HEADER_SIZE:
        raise Corrupt(f"a sealed file has at least {HEADER_SIZE} bytes, this has {len(data)}")
    raw = bytes(data[:HEADER_SIZE])
    magic, version, chunk_log, prefix, length, digest = _HEADER.unpack(raw)
    if magic != _MAGIC:
        raise Corrupt("this is not a sealed file: it does not begin with ASSAYSEA")
    if version != _VERSION or chunk_log != _CHUNK_LOG:
        raise Corrupt(f"the sealed file has format {version}.{chunk_log}, this program reads {_VERSION}.{_CHUNK_LOG}")
    if length > MAX_LENGTH:
        raise Corrupt(f"the sealed file claims {length} bytes")
    header = Header(prefix, length, Digest(digest))
    if encode_header(header) != raw:
        raise Corrupt("the sealed file's header has bytes where there should be zeros")
    return header


def sealed_size(length: int) -> int:
    """Bytes of the sealed form of `length` bytes."""
    return Header(b"", length, Digest(b"")).sealed_size


def _nonce(header: Header, index: int) -> bytes:
    return header.prefix + index.to_bytes(4, "big") + bytes((index == header.chunks - 1,))


def zeros(size: int) -> io.BytesIO:
    """A buffer to be filled in place: its `getvalue` then gives the bytes without a copy, which a large file would feel."""
    out = io.BytesIO()
    if size:
        out.seek(size - 1)
        out.write(b"\0")
    return out


def _check_key(key: bytes) -> None:
    if len(key) != KEY_SIZE:
        raise ValueError(f"a key has {KEY_SIZE} bytes, this has {len(key)}")


def seal_into(plaintext: bytes | bytearray | memoryview, key: bytes, target: memoryview, prefix: bytes | None = None) -> int:
    """Writes the sealed file to the head of `target` and returns its size. `prefix` (7 bytes) is random unless it is given. Use a key for
    one file only. Raises ValueError when `target` is smaller than `sealed_size`."""
    _check_key(key)
    view = memoryview(plaintext).cast("B")
    header = Header(os.urandom(7) if prefix is None else prefix, len(view), key_id(key))
    if len(target) < header.sealed_size:
        raise ValueError(f"{header.sealed_size} bytes do not fit into {len(target)}")
    head, encrypt = encode_header(header), AESGCM(key).encrypt_into
    target[:HEADER_SIZE] = head
    last, at = header.chunks - 1, HEADER_SIZE
    for index in range(last):
        start = index * CHUNK
        nonce = header.prefix + index.to_bytes(4, "big") + b"\0"
        encrypt(nonce, view[start : start + CHUNK], head, target[at : at + CHUNK + TAG])
        at += CHUNK + TAG
    encrypt(_nonce(header, last), view[last * CHUNK :], head, target[at : header.sealed_size])
    return header.sealed_size


def seal(plaintext: bytes | bytearray | memoryview, key: bytes, prefix: bytes | None = None) -> bytes:
    """The sealed file, as `seal_into` writes it."""
    out = zeros(sealed_size(memoryview(plaintext).nbytes))
    target = out.getbuffer()
    seal_into(plaintext, key, target, prefix)
    target.release()
    return out.getvalue()


ReadAt = Callable[[int, int], bytes | memoryview]
"""(offset, length) -> exactly those bytes of a sealed file."""


class Reader:
    """Reads any part of a sealed file, decrypting the chunks that it touches and no more. Raises WrongKey, Corrupt."""

    def __init__(self, read_at: ReadAt, size: int, key: bytes) -> None:
        _check_key(key)
        self._head = bytes(read_at(0, min(size, HEADER_SIZE)))
        self._header = header = decode_header(self._head)
        if key_id(key) != header.key_id:
            raise WrongKey(f"the file is sealed with key {header.key_id.hex()[:16]}…, this is key {key_id(key).hex()[:16]}…")
        if size != header.sealed_size:
            raise Corrupt(f"the sealed file should have {header.sealed_size} bytes and has {size}: it was cut or added to")
        self._read_at = read_at
        self._cipher = AESGCM(key)

    @property
    def size(self) -> int:
        """Bytes of the plaintext."""
        return self._header.length

    def _chunk_size(self, index: int) -> int:
        return min(CHUNK, self.size - index * CHUNK)

    def read_into(self, target: memoryview) -> int:
        """Writes the whole plaintext to the head of `target` and returns its size. Raises ValueError when it does not fit."""
        if len(target) < self.size:
            raise ValueError(f"{self.size} bytes do not fit into {len(target)}")
        return self._fill(0, self._header.chunks - 1, target)

    def _fill(self, first: int, last: int, target: memoryview) -> int:
        """Decrypts chunks [first, last]; the last of the file has a nonce and a size of its own, the others are alike."""
        decrypt, head, read_at, prefix = self._cipher.decrypt_into, self._head, self._read_at, self._header.prefix
        ends = last == self._header.chunks - 1
        at, place, index = 0, HEADER_SIZE + first * (CHUNK + TAG), first
        try:
            for index in range(first, last + 1 - ends):
                decrypt(prefix + index.to_bytes(4, "big") + b"\0", read_at(place, CHUNK + TAG), head, target[at : at + CHUNK])
                at, place = at + CHUNK, place + CHUNK + TAG
            if ends:
                index, step = last, self._chunk_size(last)
                decrypt(_nonce(self._header, last), read_at(place, step + TAG), head, target[at : at + step])
                at += step
        except InvalidTag:
            raise Corrupt(f"chunk {index} of {self._header.chunks} of the sealed file was changed, moved or cut off") from None
        return at

    def read(self, offset: int = 0, length: int | None = None) -> bytes:
        """Plaintext bytes `[offset, offset + length)`, to the end when `length` is None. Raises IndexError outside of the file."""
        length = self.size - offset if length is None else length
        if offset < 0 or length < 0 or offset + length > self.size:
            raise IndexError(f"bytes [{offset}, {offset + length}) of a file of {self.size}")
        first, last = offset // CHUNK, max(offset // CHUNK, -(-(offset + length) // CHUNK) - 1)
        if first >= self._header.chunks:  # nothing, at the very end
            return b""
        out = zeros(sum(self._chunk_size(index) for index in range(first, last + 1)))
        view = out.getbuffer()
        at, start = self._fill(first, last, view), offset - first * CHUNK
        if at != length:
            return bytes(view[start : start + length])
        view.release()
        return out.getvalue()


def reader(sealed: bytes, key: bytes) -> Reader:
    view = memoryview(sealed)
    return Reader(lambda offset, length: view[offset : offset + length], len(view), key)


def unseal(sealed: bytes, key: bytes) -> bytes:
    """The whole plaintext. Raises WrongKey, Corrupt."""
    return reader(sealed, key).read()


# ---- wrapping ------------------------------------------------------------------------------------------------------------


def public_key(private: bytes) -> bytes:
    """X25519 public key of a private one; both 32 bytes."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def wrap(key: bytes, recipient: bytes, info: bytes = b"") -> bytes:
    """HPKE encapsulation and ciphertext (48 bytes more than `key`). Raises ValueError when `recipient` is no X25519 public key."""
    try:
        return bytes(_SUITE.encrypt(key, X25519PublicKey.from_public_bytes(recipient), info))
    except Exception as error:
        raise ValueError(f"{recipient.hex()} is not an X25519 public key that can be wrapped to: {error}") from None


def unwrap(wrapped: bytes, private: bytes, info: bytes = b"") -> bytes:
    """The wrapped key. Raises ValueError when it is not for this recipient and `info`, or was changed."""
    try:
        return bytes(_SUITE.decrypt(wrapped, X25519PrivateKey.from_private_bytes(private), info))
    except Exception:
        raise ValueError("a wrapped key does not open: it was wrapped to another recipient, for another purpose, or changed") from None
