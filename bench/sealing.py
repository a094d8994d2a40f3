# Measures sealing and opening, each against the speed of its cipher alone, by the same library of ciphers in the same run on as many bytes.
#   Files (assay.seal: AES-256-GCM in chunks of 64 KiB): into a buffer that is there, against the library's `encrypt_into` and `decrypt_into` in
#   chunks of 64 KiB under one key and one nonce; then into fresh memory, whose pages the system must find first.
#   Shards (assay.sealed_records: ChaCha20 under a key for each record, salted leaves of SHA-256 in the same pass): part by part. `cipher` is the
#   library's ChaCha20 over all bytes as one message; `leaves` the hashing alone (each record's key, salt, leaf and node of the tree); `seal` and
#   `open` all of it. `sealing_of_cipher` is the speed of the enciphering, what sealing takes beyond the leaves, as a part of `cipher`.
#   Then opening some records with their keys, and all that publishing does to a shard.
# One thread, CPU times, turn by turn; a ratio is the median within a turn.
# Goal: 80 % or more of the cipher's own speed, both ways; the ciphers themselves at 1 GB/s a core or more. Records of 32 and 64 bytes fill half of
# a block of ChaCha20 or one: they are measured, and have no goal of their own.
#
#     python bench/sealing.py [--quick] [--json]
from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from assay import cid, record_keys, seal, sealed_records, shard
from assay.exact.native.build import library

CHUNK, TAG = seal.CHUNK, seal.TAG


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def cipher(data: bytes, key: bytes) -> tuple[Callable[[], None], Callable[[], None]]:
    """Encrypting and decrypting of whole chunks, with nothing around it."""
    aead, nonce = AESGCM(key), bytes(12)
    plain = memoryview(data)
    sealed, opened = memoryview(bytearray(len(data) // CHUNK * (CHUNK + TAG))), memoryview(bytearray(len(data)))
    places = [(i * CHUNK, i * (CHUNK + TAG)) for i in range(len(data) // CHUNK)]

    def encrypt() -> None:
        for at, to in places:
            aead.encrypt_into(nonce, plain[at : at + CHUNK], b"", sealed[to : to + CHUNK + TAG])

    def decrypt() -> None:
        for at, to in places:
            aead.decrypt_into(nonce, sealed[to : to + CHUNK + TAG], b"", opened[at : at + CHUNK])

    return encrypt, decrypt


def measured(mib: int, count: int) -> dict[str, Any]:
    data, key = os.urandom(mib << 20), seal.new_key()
    encrypt, decrypt = cipher(data, key)
    blob = seal.seal(data, key)
    target, opened, reader = memoryview(bytearray(len(blob))), memoryview(bytearray(len(data))), seal.reader(blob, key)
    works: dict[str, Callable[[], object]] = {
        "cipher": encrypt, "seal": lambda: seal.seal_into(data, key, target), "decipher": decrypt, "open": lambda: reader.read_into(opened),
        "seal_fresh": lambda: seal.seal(data, key), "open_fresh": lambda: seal.unseal(blob, key), "named": lambda: cid.of(blob),
    }  # fmt: skip
    for work in works.values():
        work()
    turns = [{name: seconds(work) for name, work in works.items()} for _ in range(count)]
    speed = {name: len(data) / statistics.median(turn[name] for turn in turns) / 1e9 for name in works}
    return {
        "mib": mib, **{f"{name}_gb_s": round(value, 3) for name, value in speed.items()},
        "sealing_of_cipher": statistics.median(turn["cipher"] / turn["seal"] for turn in turns),
        "opening_of_cipher": statistics.median(turn["decipher"] / turn["open"] for turn in turns),
    }  # fmt: skip


def whole_chacha20(data: bytes, out: bytearray) -> None:
    Cipher(algorithms.ChaCha20(bytes(32), bytes(16)), None).encryptor().update_into(data, out)


def recorded(records: int, width: int, count: int) -> dict[str, Any]:
    """A shard of `records` records of `width` bytes: GB/s of their bytes."""
    rows = np.frombuffer(bytearray(os.urandom(records * width)), np.uint8).reshape(records, width)
    key, native = seal.new_key(), library()
    assert native is not None, "there is no native library to measure"
    prk, out, again, data, into = record_keys.extract(key), np.empty_like(rows), np.empty_like(rows), rows.tobytes(), bytearray(rows.nbytes)
    leaves, _ = native.records(prk, rows, out)
    blob, some = sealed_records.seal_records(rows, key)[0], range(0, records, max(1, records // 256))
    reader, keys = sealed_records.Reader(blob), record_keys.select(key, some)
    works: dict[str, Callable[[], object]] = {
        "cipher": lambda: whole_chacha20(data, into), "leaves": lambda: native.records(prk, rows), "seal": lambda: native.records(prk, rows, out),
        "open": lambda: native.records(prk, out, again, leaves), "seal_fresh": lambda: sealed_records.seal_records(rows, key),
        "open_fresh": lambda: reader.open(key), "some": lambda: reader.some(keys, some),
    }  # fmt: skip
    for work in works.values():
        work()
    turns = [{name: seconds(work) for name, work in works.items()} for _ in range(count)]
    speed = {f"{name}_gb_s": round(rows.nbytes / statistics.median(turn[name] for turn in turns) / 1e9, 3) for name in works if name != "some"}
    return {
        "records": records, "bytes_a_record": width, **speed,
        "sealing_of_cipher": statistics.median(turn["cipher"] / (turn["seal"] - turn["leaves"]) for turn in turns),
        "opening_of_cipher": statistics.median(turn["cipher"] / (turn["open"] - turn["leaves"]) for turn in turns),
        "some_us_a_record": round(statistics.median(turn["some"] for turn in turns) / len(some) * 1e6, 2),
    }  # fmt: skip


def published(records: int, width: int, count: int) -> dict[str, Any]:
    """What publishing does with a shard of `records` records of `width` floats, from arrays to a named blob, part by part: GB/s of the records'
    bytes. The hashes have a ceiling of their own, the blocks of SHA-256 that a record's key, salt, leaf and node take (RFC 2104, FIPS 180-4)
    against hashlib's speed on one long message; leaves that are worked out two records at a time may pass it."""
    arrays = {"features": np.random.default_rng(0).standard_normal((records, width), np.float32)}
    fields, key, size = shard.fields_of(arrays), seal.new_key(), arrays["features"].nbytes
    blob, _ = shard.seal_shard(fields, arrays, key)

    def whole() -> None:
        shard.content(fields, arrays)
        cid.of(shard.seal_shard(fields, arrays, key)[0])

    works: dict[str, Callable[[], object]] = {
        "all": whole, "content": lambda: shard.content(fields, arrays), "sealed": lambda: shard.seal_shard(fields, arrays, key),
        "named": lambda: cid.of(blob), "leaves": lambda: shard.record_root(fields, arrays, key),
    }  # fmt: skip
    for work in works.values():
        work()
    turns = [{name: seconds(work) for name, work in works.items()} for _ in range(count)]
    blocks = 2 + 1 + -(-(41 + 4 * width + 9) // 64) + 2
    ceiling = statistics.median(turn["content"] * blocks * 64 / (4 * width) / turn["leaves"] for turn in turns)
    speed = {f"{name}_gb_s": round(size / statistics.median(turn[name] for turn in turns) / 1e9, 3) for name in works}
    return {"records": records, "bytes_a_record": 4 * width, **speed, "leaves_of_their_hashing": ceiling}


def main() -> None:
    parser = argparse.ArgumentParser(description="sealing against the cipher's own speed")
    parser.add_argument("--quick", action="store_true", help="fewer turns, less to seal")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    options = parser.parse_args()
    count = 5 if options.quick else 15
    result: dict[str, Any] = {"files": [], "shards": [], "publishing": []}
    for mib in (4, 16) if options.quick else (4, 64, 256):
        made = measured(mib, count)
        result["files"].append(made)
        sealing = f"cipher {made['cipher_gb_s']:.2f} GB/s, sealing {made['seal_gb_s']:.2f} ({made['sealing_of_cipher']:.0%})"
        opening = f"deciphering {made['decipher_gb_s']:.2f}, opening {made['open_gb_s']:.2f} ({made['opening_of_cipher']:.0%})"
        fresh = f"into fresh memory {made['seal_fresh_gb_s']:.2f} and {made['open_fresh_gb_s']:.2f}"
        print(f"files of {mib} MiB: {sealing}; {opening}; {fresh}; the blob's name {made['named_gb_s']:.2f}", flush=True)
    size = 4 << 20 if options.quick else 16 << 20  # shards as they are cut
    for width in (32, 64, 784, 4096, 1 << 18):
        made = recorded(size // width, width, count)
        result["shards"].append(made)
        parts = "cipher {cipher_gb_s:.2f} GB/s, leaves {leaves_gb_s:.2f}, sealing {seal_gb_s:.2f}, opening {open_gb_s:.2f}".format(**made)
        ratio = f"enciphering at {made['sealing_of_cipher']:.0%} and deciphering at {made['opening_of_cipher']:.0%} of the cipher"
        fresh = "into fresh memory {seal_fresh_gb_s:.2f} and {open_fresh_gb_s:.2f}; one by its key in {some_us_a_record} us".format(**made)
        print(f"records of {width} bytes: {parts} ({ratio}); {fresh}", flush=True)
    for records, width in ((262144, 16), (4096, 1024)):
        told = published(records, width, count)
        result["publishing"].append(told)
        parts = "sealed {sealed_gb_s:.2f}, named {named_gb_s:.2f}, looked up {content_gb_s:.2f}; the leaves alone {leaves_gb_s:.2f}".format(**told)
        ratio = f"{told['leaves_of_their_hashing']:.0%} of hashlib's speed on as many blocks"
        print("publishing records of {bytes_a_record} bytes: {all_gb_s:.3f} GB/s; ".format(**told) + f"{parts} ({ratio})", flush=True)
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
