# Measures what a model's papers cost whoever checks them: holding weights against a certificate (every tensor's root computed again) beside
# reading the same bytes once with SHA-256, in turns in one run; and checking a certificate of 1,000 segments with three signed votes each, in
# seconds and bytes. Signatures are real ones (secp256k1). Goal: weights at no less than half the speed of plain SHA-256 on one thread, a
# certificate in under a minute.
#
#     python bench/papers.py [--quick] [--json]
from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import time

import msgspec
import numpy as np
from eth_account import Account
from eth_account.messages import encode_defunct

from assay import draw
from assay.adapters.evm_typed import TypedData
from assay.adapters.signatures import text_signer
from assay.chain import Offer, Params, Terms
from assay.ids import ZERO_ADDRESS, Address, Cid, Digest, JobId, SegmentId, address
from assay.papers.certificate import compare, read, seal, to_bytes, verify
from assay.papers.statement import (
    STATE_ROOT,
    BuildDefinition,
    Builder,
    External,
    Internal,
    Metadata,
    Provenance,
    RunDetails,
    Statement,
    Subject,
    Trained,
    Vote,
    builder_id,
    subjects,
    timestamp,
)
from assay.state import Tensors, state_root

ROOT = Digest(b"\x05" * 32)
CHAIN, CONTRACT = 31337, Address("0x" + "ab" * 20)
TIMES = 5


def terms() -> Terms:
    zero, numbers = Digest(bytes(32)), {name: 1 for name, kind in Terms.__annotations__.items() if kind == "int"}
    roots = {name: zero for name in ("spec_digest", "program_root", "state_root", "dataset_root", "schedule_root")}
    return Terms(spec=Cid("bafk"), scheduler=ZERO_ADDRESS, key_service=ZERO_ADDRESS, params=Params(), **roots, **numbers)  # type: ignore[arg-type]


def trained(number: int, network: TypedData, who: object) -> Trained:
    """A segment with an offer and three votes, signed."""
    me = address(who.address)  # type: ignore[attr-defined]

    def sign(data: object) -> bytes:
        return bytes(who.sign_message(data).signature)  # type: ignore[attr-defined]

    offer = Offer(provider=me, job=JobId(1), parent=SegmentId(number - 1), start=number - 1, stop=number, price=1, expires=1, nonce=number)
    digest = draw.attestation(CHAIN, CONTRACT, SegmentId(number), 0, True, [ROOT, ROOT], me, ROOT)
    mark = sign(network.seal_data(SegmentId(number), 0, digest))
    vote = Vote(round=0, verifier=me, agrees=True, trace_roots=(ROOT, ROOT), salt=ROOT, signature=mark, transaction="0x" + "00" * 32)
    return Trained(
        segment=SegmentId(number), parent=SegmentId(number - 1), start=number - 1, stop=number, provider=me, offer=offer,
        offer_signature=sign(network.offer_data(offer)), end_root=ROOT, checkpoint=Cid("bafk"), links=(0, 1), committees=((me, me, me),),
        votes=(vote, vote, vote), payments=(), transactions={}, settled=number,
    )  # fmt: skip


def certificate(segments: int) -> tuple[float, int]:
    """Seconds to read and check one of so many segments, and its bytes. What it says of a job's document is not checked: it has none."""
    who, network = Account.from_key(b"\x07" * 32), TypedData(CHAIN, CONTRACT)
    made = tuple(trained(number, network, who) for number in range(1, segments + 1))
    asked = msgspec.structs.replace(terms(), steps=segments)
    external = External(chain_id=CHAIN, contract=CONTRACT, job=JobId(1), client=address(who.address), terms=asked)
    statement = Statement(
        subject=(Subject(name="state", digest={STATE_ROOT: ROOT.hex()}),),
        predicate=Provenance(
            build_definition=BuildDefinition(
                external_parameters=external, internal_parameters=Internal(document=b"", segments=made, others={}), resolved_dependencies=()
            ),
            run_details=RunDetails(
                builder=Builder(id=builder_id(external), version={}),
                metadata=Metadata(invocation_id="job/1", started_on=timestamp(0), finished_on=timestamp(segments)),
            ),
        ),
    )  # fmt: skip
    data = to_bytes(seal(statement, address(who.address), lambda text: bytes(who.sign_message(encode_defunct(text=text)).signature)))
    begun = time.perf_counter()
    sheet = verify(*read(data), network, text_signer)
    took = time.perf_counter() - begun
    assert sheet.held["votes"] >= 3 * segments, "votes are not held to be signed"
    assert sheet.mark("offers") == "✓", "offers are not held to be signed"
    return took, len(data)


def weights(megabytes: int) -> tuple[float, float]:
    """MB/s of holding weights against a certificate, and of SHA-256 over the same bytes."""
    rng = np.random.default_rng(0)
    state: Tensors = {f"param.layer{i}": rng.normal(size=(512, 512)).astype("float32") for i in range(megabytes)}
    last = msgspec.structs.replace(trained(1, TypedData(CHAIN, CONTRACT), Account.from_key(b"\x07" * 32)), end_root=state_root(1, state))
    statement = Statement(subject=subjects(last, state), predicate=None)  # type: ignore[arg-type]
    ours, plain = [], []
    for _ in range(TIMES):
        begun = time.process_time()
        assert not compare(statement, state).findings
        ours.append(time.process_time() - begun)
        begun = time.process_time()
        for array in state.values():
            hashlib.sha256(array.data).digest()
        plain.append(time.process_time() - begun)
    size = sum(array.nbytes for array in state.values()) / 1e6
    return size / statistics.median(ours), size / statistics.median(plain)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    segments, megabytes = (20, 16) if args.quick else (1000, 256)
    took, size = certificate(segments)
    ours, plain = weights(megabytes)
    figures = {
        "segments": segments, "certificate_bytes": size, "verify_seconds": round(took, 3), "weights_mb": megabytes,
        "compare_mb_s": round(ours), "sha256_mb_s": round(plain), "ratio": round(ours / plain, 2),
    }  # fmt: skip
    if not args.json:
        print(f"a certificate of {segments} segments ({size / 1e6:.2f} MB) is checked in {took:.1f} s")
        print(f"weights are held against it at {ours:.0f} MB/s, SHA-256 reads them at {plain:.0f} MB/s: {ours / plain:.2f}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
