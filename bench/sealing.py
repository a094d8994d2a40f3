# Measures sealing and opening of a shard (assay.seal: AES-256-GCM in chunks of 64 KiB under one header, nonces in order) into a buffer that is there
# against the cipher's own speed in the same run: the same library's `encrypt_into` and `decrypt_into` of the same bytes in chunks of 64 KiB, one key,
# one nonce, likewise. Then the same into fresh memory, whose pages the system must find first; the hash that names the blob; and all that
# publishing does to a shard, part by part: the salted leaves of its records are most of it where these are small.
# One thread, CPU times, turn by turn; a ratio is the median within a turn.
# Goal: 80 % or more of the cipher's own speed, both ways; the cipher itself at 1 GB/s a core or more.
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
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from assay import cid, merkle, seal, shard, state

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


def published(records: int, width: int, count: int) -> dict[str, Any]:
    """What publishing does with a shard of `records` records of `width` floats, from arrays to a named blob and its root, part by part: GB/s of the
    records' bytes. The hashes have a ceiling of their own, the blocks of SHA-256 that a record's salt, leaf and node take (RFC 2104, FIPS 180-4)
    against hashlib's speed on one long message; a root that is worked out two records at a time may pass it."""
    arrays = {"features": np.random.default_rng(0).standard_normal((records, width), np.float32)}
    fields, key, size = shard.fields_of(arrays), seal.new_key(), arrays["features"].nbytes
    plaintext = state.to_bytes(arrays)
    blob = seal.seal(plaintext, key)

    def whole() -> None:
        plaintext = state.to_bytes(arrays)
        merkle.sha256(plaintext)
        cid.of(seal.seal(plaintext, key))
        shard.record_root(fields, arrays, key)

    works: dict[str, Callable[[], object]] = {
        "all": whole, "content": lambda: merkle.sha256(plaintext), "sealed": lambda: seal.seal(plaintext, key), "named": lambda: cid.of(blob),
        "root": lambda: shard.record_root(fields, arrays, key),
    }  # fmt: skip
    for work in works.values():
        work()
    turns = [{name: seconds(work) for name, work in works.items()} for _ in range(count)]
    blocks = 2 + -(-(41 + 4 * width + 9) // 64) + 2
    ceiling = statistics.median(turn["content"] * blocks * 64 / (4 * width) / turn["root"] for turn in turns)
    speed = {f"{name}_gb_s": round(size / statistics.median(turn[name] for turn in turns) / 1e9, 3) for name in works}
    return {"records": records, "bytes_a_record": 4 * width, **speed, "root_of_its_hashing": ceiling}


def main() -> None:
    parser = argparse.ArgumentParser(description="sealing against the cipher's own speed")
    parser.add_argument("--quick", action="store_true", help="fewer turns, less to seal")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    options = parser.parse_args()
    count = 5 if options.quick else 15
    result: dict[str, Any] = {"shards": [], "publishing": []}
    for mib in (4, 16) if options.quick else (4, 64, 256):
        made = measured(mib, count)
        result["shards"].append(made)
        sealing = f"cipher {made['cipher_gb_s']:.2f} GB/s, sealing {made['seal_gb_s']:.2f} ({made['sealing_of_cipher']:.0%})"
        opening = f"deciphering {made['decipher_gb_s']:.2f}, opening {made['open_gb_s']:.2f} ({made['opening_of_cipher']:.0%})"
        fresh = f"into fresh memory {made['seal_fresh_gb_s']:.2f} and {made['open_fresh_gb_s']:.2f}"
        print(f"{mib} MiB: {sealing}; {opening}; {fresh}; the blob's name {made['named_gb_s']:.2f}", flush=True)
    for records, width in ((262144, 16), (4096, 1024)):  # shards as they are cut: 16 MiB
        told = published(records, width, count)
        result["publishing"].append(told)
        parts = "sealed {sealed_gb_s:.2f}, named {named_gb_s:.2f}, looked up {content_gb_s:.2f}, their root {root_gb_s:.2f}".format(**told)
        ratio = f"{told['root_of_its_hashing']:.0%} of hashlib's speed on as many blocks"
        print("publishing records of {bytes_a_record} bytes: {all_gb_s:.3f} GB/s; ".format(**told) + f"{parts} ({ratio})", flush=True)
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
