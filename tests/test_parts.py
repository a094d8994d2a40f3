"""Sealed files in parts: what did not change keeps its blocks, and nothing that was changed, moved or padded otherwise opens."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest

from assay import cid as cids
from assay import parts, seal, state
from assay.codec import encode
from assay.parts import ALIGN, Part, Table

KEY, NEXT = bytes(range(32)), bytes(range(1, 33))
BIG = parts.PART


def tensors(seed: int, changed: tuple[str, ...] = ()) -> bytes:
    """A state of two large and many small tensors, of which some differ from those of `seed` 0."""
    sizes = {"param.a": 2 * BIG // 4 + 3, "param.b": 5, "param.c": 700, "param.d": BIG // 4 + 9, "param.e": 1}
    arrays = {}
    for index, (name, size) in enumerate(sizes.items()):
        rng = np.random.default_rng([index, seed if name in changed else 0])
        arrays[name] = rng.standard_normal(size).astype(np.float32)
    return state.to_bytes(arrays)


def sealed(data: bytes, key: bytes = KEY, like: tuple[bytes, bytes] | None = None) -> bytes:
    return parts.seal_parts(data, parts.cuts(state.ends(data)), key, like)


def leaves(blob: bytes) -> set[str]:
    return {block.cid for block in cids.blocks(blob) if cids.is_raw(block.cid)}


def test_it_opens_to_what_was_sealed_within_the_bound() -> None:
    data = tensors(0)
    blob = sealed(data)
    assert parts.is_parts(blob)
    assert parts.unseal(blob, KEY) == data
    assert len(blob) % ALIGN == 0
    assert len(blob) <= parts.largest(len(data))
    with pytest.raises(seal.WrongKey):
        parts.unseal(blob, NEXT)


def test_a_small_state_is_an_ordinary_sealed_file() -> None:
    data = state.to_bytes({"param.w": np.ones(4, np.float32)})
    blob = sealed(data)
    assert len(blob) == seal.sealed_size(len(data))
    assert seal.unseal(blob, KEY) == parts.unseal(blob, KEY) == data


def test_what_did_not_change_keeps_its_blocks() -> None:
    before = sealed(tensors(0))
    same = sealed(tensors(0), NEXT, (before, KEY))
    assert len(leaves(same) - leaves(before)) == 1  # the table: its key is another
    after = sealed(tensors(1, ("param.d",)), NEXT, (before, KEY))
    assert parts.unseal(after, NEXT) == tensors(1, ("param.d",))
    new = len(leaves(after) - leaves(before)) * ALIGN
    assert new <= 4 * (BIG // 4 + 9) + 3 * ALIGN  # d and the table, and a, twice as large, not at all
    again = sealed(tensors(1, ("param.b",)), NEXT, (before, KEY))
    assert len(leaves(again) - leaves(before)) <= 3  # small ones share a part
    assert not leaves(sealed(tensors(0), NEXT)) & leaves(before)


def test_what_is_not_what_its_table_says_is_not_kept() -> None:
    """The provider before may have put anything under a key; what we publish must be what we computed."""
    data = tensors(0)
    ends = parts.cuts(state.ends(data))
    other = bytes(byte ^ 1 for byte in data[: ends[0]]) + data[ends[0] :]
    lying = parts.seal_parts(other, ends, KEY)
    assert parts.unseal(sealed(data, NEXT, (lying, KEY)), NEXT) == data
    broken = bytearray(lying)
    broken[len(broken) // 2] ^= 1
    assert parts.unseal(sealed(data, NEXT, (bytes(broken), KEY)), NEXT) == data
    plain = seal.seal(data, KEY)
    assert parts.unseal(sealed(data, NEXT, (plain, KEY)), NEXT) == data
    fewer = parts.seal_parts(data[: ends[-2]], ends[:-1], KEY)
    assert parts.unseal(sealed(data, NEXT, (fewer, KEY)), NEXT) == data


def test_no_changed_byte_goes_unseen() -> None:
    data = random.Random(1).randbytes(3000)
    blob = parts.seal_parts(data, [1000, 3000], KEY)
    places = [*range(80), 200, ALIGN - 1, ALIGN, ALIGN + 70, ALIGN + 1200, 2 * ALIGN - 1, 2 * ALIGN, 2 * ALIGN + 2100, len(blob) - 1]
    for at in places:
        changed = bytearray(blob)
        changed[at] ^= 1
        with pytest.raises(seal.SealError):
            parts.unseal(bytes(changed), KEY)
    for wrong in (blob[:-1], blob + bytes(ALIGN), blob[:ALIGN], blob[:20], blob[:8], blob[:ALIGN] + blob[2 * ALIGN :] + blob[ALIGN : 2 * ALIGN]):
        with pytest.raises(seal.SealError):
            parts.unseal(wrong, KEY)


def forged(table: bytes) -> bytes:
    inner = seal.seal(table, KEY)
    head = parts._HEAD.pack(b"ASSAYPTS", 1, len(inner)) + inner
    return head + bytes(-len(head) % ALIGN)


@pytest.mark.parametrize(
    "table",
    [
        b"", b"{}", b"[" * 1000, b'{"parts":[]} ', encode(Table(parts=(Part(key=b"short", size=1),))),
        encode(Table(parts=(Part(key=KEY, size=1 << 60),))), encode(Table(parts=(Part(key=KEY, size=5),))),
    ],
)  # fmt: skip
def test_a_table_that_names_what_is_not_there_is_refused(table: bytes) -> None:
    with pytest.raises(seal.Corrupt):
        parts.unseal(forged(table), KEY)


def test_cuts_make_up_the_file() -> None:
    rng = random.Random(3)
    for _ in range(200):
        sizes = [rng.choice([0, 1, 1000, BIG - 1, BIG, BIG + 1, 3 * BIG]) for _ in range(rng.randrange(1, 12))]
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        found = parts.cuts(ends)
        assert found[-1] == ends[-1]
        assert found == sorted(set(found))
        assert set(found) <= set(ends)
        assert len(found) <= 2 * (ends[-1] // BIG) + 1
        for start, stop in pairwise([0, *found]):
            inside = [(a, b) for a, b in pairwise([0, *ends]) if a >= start and b <= stop]
            assert stop - start < 2 * BIG or sum(b > a for a, b in inside) == 1


def test_parts_that_do_not_make_up_the_file_are_our_own_fault() -> None:
    for ends in ([5, 3], [3, 9], [3, 11]):
        with pytest.raises(ValueError, match="do not make up"):
            parts.seal_parts(bytes(10), ends, KEY)
