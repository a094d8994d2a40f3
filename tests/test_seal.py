"""Sealed files: any part can be read, and nothing that was changed, moved, cut off or added opens."""

from __future__ import annotations

import os
import random

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from assay import seal
from assay.seal import CHUNK, HEADER_SIZE, TAG

KEY = bytes(range(32))
SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 5]


def data(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.mark.parametrize("size", SIZES)
def test_opens_to_what_was_sealed(size: int) -> None:
    sealed = seal.seal(data(size), KEY)
    assert len(sealed) == seal.sealed_size(size)
    assert seal.unseal(sealed, KEY) == data(size)
    assert seal.decode_header(sealed).key_id == seal.key_id(KEY)


def test_format_is_the_documented_one() -> None:
    """Opened by hand, from the module's docstring alone."""
    sealed = seal.seal(data(CHUNK + 9), KEY, prefix=b"1234567")
    head = b"ASSAYSEA\x01\x10" + b"1234567" + bytes(7) + (CHUNK + 9).to_bytes(8, "big") + seal.key_id(KEY)
    assert sealed[:HEADER_SIZE] == head
    first, last = sealed[HEADER_SIZE : HEADER_SIZE + CHUNK + TAG], sealed[HEADER_SIZE + CHUNK + TAG :]
    assert AESGCM(KEY).decrypt(b"1234567\x00\x00\x00\x00\x00", first, head) == data(CHUNK + 9)[:CHUNK]
    assert AESGCM(KEY).decrypt(b"1234567\x00\x00\x00\x01\x01", last, head) == data(CHUNK + 9)[CHUNK:]


@given(st.sampled_from(SIZES), st.data())
@settings(max_examples=60, deadline=None)
def test_any_part_can_be_read(size: int, draw: st.DataObject) -> None:
    reader = seal.reader(seal.seal(data(size), KEY), KEY)
    offset = draw.draw(st.integers(0, size))
    length = draw.draw(st.integers(0, size - offset))
    assert reader.read(offset, length) == data(size)[offset : offset + length]
    with pytest.raises(IndexError):
        reader.read(offset, size - offset + 1)


def test_a_part_is_read_without_the_rest() -> None:
    sealed, read = seal.seal(data(3 * CHUNK), KEY), []

    def read_at(offset: int, length: int) -> bytes:
        read.append((offset, length))
        return sealed[offset : offset + length]

    assert seal.Reader(read_at, len(sealed), KEY).read(CHUNK, 10) == data(3 * CHUNK)[CHUNK : CHUNK + 10]
    assert read == [(0, HEADER_SIZE), (HEADER_SIZE + CHUNK + TAG, CHUNK + TAG)]


def test_wrong_key_is_told_from_a_corrupt_file() -> None:
    sealed = seal.seal(b"secret", KEY)
    with pytest.raises(seal.WrongKey, match="is sealed with key 630dcd2966c43366…, this is key"):
        seal.unseal(sealed, b"w" * 32)
    with pytest.raises(seal.Corrupt, match="chunk 0 of 1"):
        seal.unseal(sealed[:-1] + bytes([sealed[-1] ^ 1]), KEY)
    with pytest.raises(ValueError, match="32 bytes, this has 31"):
        seal.unseal(sealed, b"w" * 31)


@pytest.mark.parametrize("size", [0, 5, CHUNK, 2 * CHUNK + 5])
def test_no_changed_bit_goes_unseen(size: int) -> None:
    sealed = seal.seal(data(size), KEY)
    for at in [*range(HEADER_SIZE), HEADER_SIZE, len(sealed) // 2, len(sealed) - TAG, len(sealed) - 1]:
        for bit in (0, 7):
            changed = bytearray(sealed)
            changed[at] ^= 1 << bit
            with pytest.raises(seal.SealError):
                seal.unseal(bytes(changed), KEY)


def test_cut_moved_and_added_chunks_are_seen() -> None:
    sealed = seal.seal(data(3 * CHUNK), KEY)
    head, unit = sealed[:HEADER_SIZE], CHUNK + TAG
    chunks = [sealed[HEADER_SIZE + i * unit :][:unit] for i in range(3)]
    for tail in ([1, 0, 2], [0, 1], [0, 1, 2, 2], [0, 2], [0, 0, 2], [0, 1, 1], []):
        with pytest.raises(seal.Corrupt):
            seal.unseal(head + b"".join(chunks[i] for i in tail), KEY)
    # cut at a chunk's end, with a header that says so: the last of what is left was not sealed as the last
    shorter = seal.encode_header(seal.decode_header(head)._replace(length=2 * CHUNK))
    with pytest.raises(seal.Corrupt):
        seal.unseal(shorter + chunks[0] + chunks[1], KEY)
    for length in (0, 1, HEADER_SIZE - 1, HEADER_SIZE, len(sealed) - 1):
        with pytest.raises(seal.Corrupt):
            seal.unseal(sealed[:length], KEY)
    with pytest.raises(seal.Corrupt, match="cut or added to"):
        seal.unseal(sealed + b"\0", KEY)


def test_sealing_twice_gives_different_files() -> None:
    assert seal.seal(b"x", KEY) != seal.seal(b"x", KEY)


@given(st.binary(max_size=200) | st.binary(max_size=150).map(lambda tail: b"ASSAYSEA\x01\x10" + tail))
@settings(max_examples=300)
def test_any_header_is_either_canonical_or_refused(raw: bytes) -> None:
    try:
        header = seal.decode_header(raw)
    except seal.Corrupt:
        return
    assert seal.encode_header(header) == raw[:HEADER_SIZE]


@given(st.binary(max_size=300))
@settings(max_examples=100)
def test_no_bytes_but_sealed_ones_open(raw: bytes) -> None:
    with pytest.raises(seal.SealError):
        seal.unseal(raw, KEY)


# ---- wrapping ------------------------------------------------------------------------------------------------------------


def test_only_the_recipient_unwraps_and_only_for_the_same_purpose() -> None:
    private, other = os.urandom(32), os.urandom(32)
    wrapped = seal.wrap(KEY, seal.public_key(private), b"purpose")
    assert len(wrapped) == seal.WRAPPED_SIZE
    assert seal.unwrap(wrapped, private, b"purpose") == KEY
    changed = bytes([wrapped[0] ^ 1]) + wrapped[1:]
    for bad in (changed, wrapped[:79], b""):
        with pytest.raises(ValueError, match="does not open"):
            seal.unwrap(bad, private, b"purpose")
    for key, info in [(other, b"purpose"), (private, b"")]:
        with pytest.raises(ValueError, match="does not open"):
            seal.unwrap(wrapped, key, info)


def test_unwrap_agrees_with_rfc_9180() -> None:
    """RFC 9180, appendix A.1 has this suite's KEM and KDF with AES-128; the vector here is made by its steps with AES-256, by hand."""
    import hmac

    def extract(salt: bytes, label: bytes, ikm: bytes, suite: bytes) -> bytes:
        return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + ikm, "sha256")

    def expand(prk: bytes, label: bytes, info: bytes, size: int, suite: bytes) -> bytes:
        return hmac.digest(prk, size.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info + b"\x01", "sha256")[:size]

    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

    private, ephemeral = bytes(range(1, 33)), bytes(range(2, 34))
    public, enc = seal.public_key(private), seal.public_key(ephemeral)
    dh = X25519PrivateKey.from_private_bytes(ephemeral).exchange(X25519PublicKey.from_public_bytes(public))
    kem = b"KEM\x00\x20"
    shared = expand(extract(b"", b"eae_prk", dh, kem), b"shared_secret", enc + public, 32, kem)
    suite = b"HPKE\x00\x20\x00\x01\x00\x02"
    context = b"\x00" + extract(b"", b"psk_id_hash", b"", suite) + extract(b"", b"info_hash", b"purpose", suite)
    secret = extract(shared, b"secret", b"", suite)
    key, nonce = expand(secret, b"key", context, 32, suite), expand(secret, b"base_nonce", context, 12, suite)
    assert seal.unwrap(enc + AESGCM(key).encrypt(nonce, KEY, b""), private, b"purpose") == KEY


@pytest.mark.parametrize("recipient", [b"", bytes(31), bytes(32), bytes(33)])
def test_a_recipient_that_is_no_key_is_refused(recipient: bytes) -> None:
    with pytest.raises(ValueError, match="is not an X25519 public key"):
        seal.wrap(KEY, recipient)


@pytest.mark.parametrize("size", [0, 1, seal.CHUNK, seal.CHUNK + 1, 3 * seal.CHUNK])
def test_buffers_that_are_there_are_written_to_their_size_and_no_further(size: int) -> None:
    data, key = bytes(i % 251 for i in range(size)), bytes(32)
    whole = seal.seal(data, key, prefix=b"prefix!")
    target, opened = bytearray(b"\xee" * (len(whole) + 5)), bytearray(b"\xee" * (size + 5))
    assert seal.seal_into(data, key, memoryview(target), prefix=b"prefix!") == len(whole) == seal.sealed_size(size)
    assert bytes(target) == whole + b"\xee" * 5
    assert seal.reader(whole, key).read_into(memoryview(opened)) == size
    assert bytes(opened) == data + b"\xee" * 5
    with pytest.raises(ValueError, match="do not fit"):
        seal.seal_into(data, key, memoryview(target)[: len(whole) - 1])
    if size:
        with pytest.raises(ValueError, match="do not fit"):
            seal.reader(whole, key).read_into(memoryview(opened)[: size - 1])
