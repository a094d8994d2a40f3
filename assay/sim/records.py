"""The records of the simulated jobs: without content, each known by its key, so that who was given which keys can be told from who was not."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from assay import bundles, reads
from assay.adapters.memory_keys import MemoryKeys
from assay.codec import Message, decode
from assay.ids import Cid, Digest
from assay.job import JobSpec
from assay.merkle import sha256
from assay.record_keys import RecordKeys, derive_all
from assay.tasks import RecordsChecked

RECORDS = 64
"""Of a job's only shard."""


class ToyShard(Message, frozen=True, kw_only=True):
    leaves: tuple[Digest, ...]
    """SHA-256 of each record's key. Anybody may see them, as the leaf hashes of a shard in earnest."""


def made(key: bytes, count: int = RECORDS) -> ToyShard:
    return ToyShard(leaves=tuple(sha256(one) for one in derive_all(key, count)))


@lru_cache(maxsize=4096)
def read_shard(body: bytes) -> ToyShard:
    """Raises Malformed."""
    return decode(body, ToyShard)


def looked(spec: JobSpec, places: tuple[tuple[int, int], ...], keys: MemoryKeys, body: Callable[[Cid], bytes]) -> RecordsChecked:
    """What the keys of a node open of the records that some micro-batches read; `body` gives what anybody sees of a shard."""
    missing: list[Digest] = []
    false: list[tuple[Digest, str]] = []
    for number, wanted in reads.records(reads.reading(spec), places).items():
        ref = spec.dataset.shards[number].sealed
        try:
            key = keys.shard_key(ref.key_id)
        except KeyError:
            missing.append(ref.key_id)
            continue
        if bundles.lacks(key, wanted):
            missing.append(ref.key_id)
        elif isinstance(key, RecordKeys):
            leaves = read_shard(body(ref.cid)).leaves
            if wrong := [index for index in wanted if sha256(key.keys[index]) != leaves[index]]:
                false.append((ref.key_id, f"record {wrong[0]} does not open"))
    return RecordsChecked(missing=tuple(missing), false=tuple(false))
