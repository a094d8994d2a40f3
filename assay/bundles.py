"""What is given of a shard's keys to one who may read some of its records: bundles of record keys (of key holders: parts of them, assay.partials)
that fit one release on chain each.

A release's bytes are wrapped to one recipient and logged, so that they are bounded (assay.chain.MOST_WRAPPED); who may read more records than
fit gets several bundles of one key id, which it keeps as one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from assay import partials, record_keys
from assay.chain import MOST_WRAPPED, Release
from assay.seal import KEY_SIZE, WRAPPED_SIZE

_HEAD = WRAPPED_SIZE - KEY_SIZE + record_keys.encoded_size(0)
MOST_TOGETHER = (MOST_WRAPPED - _HEAD) // (record_keys.encoded_size(1) - record_keys.encoded_size(0))
"""Keys of records in one release: 226."""

MOST_IN_CALL, MOST_CALL = 64, 3 * MOST_WRAPPED
"""Releases in one call, as the contract takes them; bytes that are wrapped in one: some 1 M gas (docs/protocol.md)."""


def cut(key: bytes, records: Sequence[int]) -> list[bytes]:
    """The keys of some records, ascending, of the shard with this key, in as few bundles as may be."""
    every = record_keys.select(key, records).keys
    cuts = (records[at : at + MOST_TOGETHER] for at in range(0, len(records), MOST_TOGETHER))
    return [record_keys.encode(record_keys.RecordKeys({index: every[index] for index in some})) for some in cuts]


def calls(releases: Sequence[Release]) -> list[tuple[Release, ...]]:
    """Releases by the call that brings them: none is larger than a node takes."""
    out: list[tuple[Release, ...]] = []
    size = 0
    for release in releases:
        if not out or len(out[-1]) == MOST_IN_CALL or size + len(release.wrapped) > MOST_CALL:
            out.append(())
            size = 0
        out[-1] = (*out[-1], release)
        size += len(release.wrapped)
    return out


def is_bundle(wrapped: bytes) -> bool:
    """Whether what was wrapped is the keys of some records, or parts of them, and no whole key or share of one."""
    return len(wrapped) != WRAPPED_SIZE


def count(wrapped: bytes) -> int:
    """Of how many records the keys, or a key holder's parts of them, were wrapped together; of nothing 0."""
    for size in (record_keys.encoded_size, partials.encoded_size):
        found, rest = divmod(len(wrapped) - (WRAPPED_SIZE - KEY_SIZE) - size(0), size(1) - size(0))
        if found > 0 and not rest:
            return found
    return 0


def lacks(key: record_keys.ShardKey, records: Iterable[int]) -> int:
    """How many of these records it does not open."""
    return len(set(records) - key.keys.keys()) if isinstance(key, record_keys.RecordKeys) else 0
