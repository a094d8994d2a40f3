# Measures what keys of single records cost where key holders share a shard's key (assay.partials, assay.threshold): of each record, bytes and CPU
# time for who deals the shares (the masks), for a holder (its answer with its proof) and for a drawn verifier (the proofs of as many holders as are
# needed, the keys of their parts). Beside them the same of a key service that has the key (assay.bundles), and one multiplication on the curve, of
# which all of it is made. Several shard sizes, answers and groups; one thread, CPU times, the median of some turns. HPKE is not in it: it is once
# an answer, whatever is in it.
# Goal: under 1 ms a record for each of dealer and holder, and under 1 ms a record and holder for a verifier; a release of 64
# records or more no longer than 1.1 of a key service's.
#
#     python bench/holders.py [--quick] [--json]
from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

from nacl import bindings as sodium

from assay import bundles, cid, partials, record_keys, seal, threshold
from assay.adapters.memory_keys import MemoryKeys
from assay.ids import PeerId
from assay.job import KeyHolder, KeyHolders

INFO = b"bench"


def microseconds(work: Callable[[], object], turns: int, records: int) -> float:
    """CPU time of one record, the median of the turns."""
    work()
    found = []
    for _ in range(turns):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return round(statistics.median(found) / records * 1e6, 2)


def group(needed: int, count: int) -> tuple[KeyHolders, list[MemoryKeys]]:
    nodes = [MemoryKeys(f"holder {i}".encode()) for i in range(count)]
    members = tuple(KeyHolder(account=one.account, peer=PeerId(one.account), encryption_key=one.encryption_key) for one in nodes)
    return KeyHolders(threshold=needed, members=members), nodes


def measured(needed: int, count: int, records: int, turns: int) -> dict[str, Any]:
    """Answers for `records` records of a shard that has them and one more, from `needed` of `count` holders."""
    key, reader, dealer = seal.new_key(), MemoryKeys(b"reader"), MemoryKeys(b"dealer")
    key_id = seal.key_id(key)
    holders, nodes = group(needed, count)
    head, shares, masks = threshold.split(key, needed, count, records + 1)
    dealt = enumerate(zip(shares, holders.members, strict=True), 1)
    envelope = head + b"".join(dealer.wrap(share, one.encryption_key, threshold._info(INFO, head, place)) for place, (share, one) in dealt)
    share, context, wanted = threshold.open_own(nodes[0], envelope, INFO, key_id), threshold.read(envelope).context, range(records)
    cuts = {place: partials.cut(shares[place - 1], context, key_id, wanted) for place in range(1, needed + 1)}
    answers = {place: [dealer.wrap(one, reader.encryption_key) for one in cut] for place, cut in cuts.items()}
    found = threshold.gather_records(reader, envelope, key_id, masks, wanted, answers)
    assert found.keys == record_keys.select(key, wanted)
    given = [partials.read(one) for one in cuts[1]]
    commitment = threshold.read(envelope).commitment(1)
    whole = bundles.cut(key, wanted)
    return {
        "needed": needed, "holders": count, "records": records,
        "dealer_us": microseconds(lambda: partials.masks(key, bytes([5]) + bytes(31), records), turns, records),
        "holder_us": microseconds(lambda: partials.cut(share, context, key_id, wanted), turns, records),
        "verifier_us": microseconds(lambda: threshold.gather_records(reader, envelope, key_id, masks, wanted, answers), turns, records),
        "proof_us": microseconds(lambda: [partials.is_true(one, commitment, context, key_id) for one in given], turns, records),
        "key_service_us": microseconds(lambda: bundles.cut(key, wanted), turns, records),
        "dealer_bytes": (len(masks) / (records + 1)),
        "holder_bytes": round(sum(len(one) for one in answers[1]) / records, 2),
        "key_service_bytes": round(sum(len(one) + seal.WRAPPED_SIZE - seal.KEY_SIZE for one in whole) / records, 2),
        "releases": len(cuts[1]), "envelope_bytes": len(envelope), "masks_are_one_block": cid.is_raw(cid.of(masks)),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="keys of single records from key holders")
    parser.add_argument("--quick", action="store_true", help="fewer turns, fewer records")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    options = parser.parse_args()
    turns = 3 if options.quick else 9
    scalar, point = sodium.crypto_core_ed25519_scalar_reduce(os.urandom(64)), partials.point(seal.key_id(bytes(32)), 0)
    one = microseconds(lambda: [sodium.crypto_scalarmult_ed25519_noclamp(scalar, point) for _ in range(100)], turns, 100)
    hashed = microseconds(lambda: [partials.point(seal.key_id(bytes(32)), i) for i in range(100)], turns, 100)
    result: dict[str, Any] = {"multiplication_us": one, "hashing_to_the_curve_us": hashed, "answers": []}
    print(f"a multiplication takes {one:.0f} us, hashing to the curve {hashed:.0f} us", flush=True)
    for needed, count, records in ((2, 3, 8), (2, 3, 64)) if options.quick else ((2, 3, 8), (2, 3, 64), (2, 3, 224), (2, 3, 1024), (5, 9, 224)):
        made = measured(needed, count, records, turns)
        result["answers"].append(made)
        text = "{needed} of {holders}, {records} records: a record costs the dealer {dealer_us} us and {dealer_bytes:.0f} B, a holder {holder_us} us "
        text += "and {holder_bytes} B in {releases} releases (a key service {key_service_us} us and {key_service_bytes} B), "
        text += "a verifier {verifier_us} us"
        print(text.format(**made), flush=True)
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
