"""Which records the drawn links of a segment read: what a draw entitles its verifiers to, and no more.

Micro-batch m of step t reads the records that assay.sampling says, which follow from the job's document and the numbers on chain alone; an
update reads none. Key service, key holders and verifiers compute them alike, each record by its shard and its place in it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import accumulate
from types import MappingProxyType

from assay import links
from assay.codec import Message
from assay.ids import Digest
from assay.job import JobSpec
from assay.sampling import MAX_RECORDS, record_indices

MAX_COUNT = 1 << 20
"""Of micro-batches and of records in one, which machines count through."""
MOST_READ = 1 << 14
"""Records that all draws of a segment together may read: a key of each goes on chain to each drawn verifier, at some 36 bytes of log."""
REMEMBERED, SHORT = 1024, 1024
"""Answers, and the most records in one of them: a node asks for the same micro-batches several times while it checks a segment."""


class Reading(Message, frozen=True, kw_only=True):
    """What of a job's document says which link reads which records."""

    order: Digest
    batch: int
    micro_batches: int
    counts: tuple[int, ...]
    """Records of each shard."""


def reading(spec: JobSpec) -> Reading:
    counts = tuple(shard.records for shard in spec.dataset.shards)
    return Reading(order=spec.order, batch=spec.batch, micro_batches=spec.micro_batches, counts=counts)


def problem(spec: JobSpec) -> str:
    """Why nobody can say which link reads which records; empty when it can be said."""
    for name in ("micro_batches", "batch"):
        if not 1 <= getattr(spec, name) <= MAX_COUNT:
            return f"{name} is {getattr(spec, name)}, not in 1..{MAX_COUNT}"
    if len(spec.order) != 32:
        return f"the key of the order of examples has {len(spec.order)} bytes, not 32"
    if not spec.dataset.shards or not all(shard.records for shard in spec.dataset.shards):
        return f"dataset {spec.dataset.name!r} has no shards, or one without records"
    if spec.dataset.records > MAX_RECORDS:
        return f"dataset {spec.dataset.name!r} has {spec.dataset.records} records, over the limit of {MAX_RECORDS}"
    return ""


def places(units: Iterable[int], start: int, micro_batches: int) -> tuple[tuple[int, int], ...]:
    """(step, micro-batch) of the links of a segment from `start` that read records, each once, in order."""
    found = {links.place(unit, micro_batches) for unit in units}
    return tuple((start + offset, m) for offset, m in sorted(found) if m < micro_batches)


def records(what: Reading, where: Iterable[tuple[int, int]]) -> Mapping[int, tuple[int, ...]]:
    """By the number of each shard that micro-batches (step, m) read from: the places in it of the records that they read, ascending."""
    some = tuple(where)
    return (_short if len(some) * what.batch <= SHORT else _records)(what, some)


def _records(what: Reading, where: tuple[tuple[int, int], ...]) -> Mapping[int, tuple[int, ...]]:
    ends = list(accumulate(what.counts))
    found: dict[int, set[int]] = {}
    for step, m in where:
        for index in record_indices(what.order, ends[-1], step, m, what.micro_batches, what.batch):
            shard = bisect_right(ends, index)
            found.setdefault(shard, set()).add(index - (ends[shard] - what.counts[shard]))
    return MappingProxyType({shard: tuple(sorted(found[shard])) for shard in sorted(found)})


_short = lru_cache(maxsize=REMEMBERED)(_records)


def by_key(keys: Iterable[Digest], what: Reading, found: Mapping[int, tuple[int, ...]]) -> dict[Digest, tuple[int, ...]]:
    """The same by the key ids of the shards, all of them in order. A dataset that a job names twice has the same keys twice. A key of which
    all records are read is not here: it is given as it is, which says no more and is shorter."""
    named = list(keys)
    out: dict[Digest, set[int]] = {}
    size: dict[Digest, int] = {}
    for shard, read in found.items():
        out.setdefault(named[shard], set()).update(read)
        size[named[shard]] = max(size.get(named[shard], 0), what.counts[shard])
    return {key: tuple(sorted(read)) for key, read in out.items() if len(read) < size[key]}


def most(what: Reading, steps: int, drawn: int, rounds: int) -> int:
    """The most records that `rounds` draws of `drawn` links each (0: all of a segment of `steps` steps, once) read."""
    micro = steps * what.micro_batches if drawn == 0 else min(steps * what.micro_batches, drawn * rounds)
    return min(sum(what.counts), micro * what.batch)
