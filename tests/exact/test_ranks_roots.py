"""Tensor roots of what several ranks have: the root of the whole, wherever it is cut, made on processors and on (fake) devices."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from assay.exact.cuda import fake
from assay.exact.cuda.maps import Kernels
from assay.exact.cuda.trees import pads_on
from assay.exact.hashing import CHUNK, tensor_root
from assay.exact.ranks.places import Split
from assay.exact.ranks.roots import OnDevice, Stretch, by_host, joined, room_for, stretch
from assay.exact.table import TensorType
from tests.exact.support import Route, on

ROWS = (2, 3, 5, 8, 13, 64)
WIDTHS = (1, 7, CHUNK // 4, CHUNK // 4 + 1, 3 * CHUNK // 4, 1000)
"""Of rows, in f32: pieces within one chunk, at the ends of chunks, and across many."""


def cases() -> list[tuple[TensorType, Split | None]]:
    rng = np.random.default_rng(5)
    out: list[tuple[TensorType, Split | None]] = [(TensorType(dtype="f32", shape=shape), None) for shape in ((), (3,), (300,), (5, 256), (9, 1024))]
    for rows, width, ranks in itertools.product(ROWS, WIDTHS, (2, 3, 4)):
        if rows >= ranks:
            cuts = sorted(rng.choice(np.arange(1, rows), ranks - 1, replace=False).tolist())
            out.append((TensorType(dtype="f32", shape=(rows, width)), Split(0, (0, *cuts, rows))))
    out.append((TensorType(dtype="u8", shape=(5000,)), Split(0, (0, 1025, 1026, 5000))))
    return out


def filled(t: TensorType) -> np.ndarray:  # type: ignore[type-arg]
    raw = np.random.default_rng(t.bytes).integers(0, 256, t.bytes, np.uint8)
    return raw.view({"f32": "<f4", "u8": "u1"}[t.dtype]).reshape(t.shape)


def ranks_of(split: Split | None) -> range:
    return range(len(split.cuts) - 1 if split else 1)


def pieces(whole: np.ndarray, split: Split | None) -> list[np.ndarray]:  # type: ignore[type-arg]
    return [whole[split.cuts[r] : split.cuts[r + 1]] if split else whole for r in ranks_of(split)]


@pytest.mark.parametrize("level", ["numpy", ""])
def test_of_arrays(level: str) -> None:
    for t, split in cases():
        whole = filled(t)
        own = [stretch(t, split, r) for r in ranks_of(split)]
        if level:
            with on(Route(level, 1)):
                given = [by_host(piece, one) for piece, one in zip(pieces(whole, split), own, strict=True)]
        else:
            given = [by_host(piece, one) for piece, one in zip(pieces(whole, split), own, strict=True)]
        assert [len(data) for data in given] == [one.size for one in own]
        assert joined(t, list(zip(own, given, strict=True))) == tensor_root(whole), (t, split)


@pytest.mark.skipif(fake.compiler() is None, reason="the fake device needs a C++ compiler")
def test_on_a_device_all_at_once_and_again() -> None:
    device = fake.Fake()
    kernels = Kernels(device)
    placed, held, wanted = [], [], []
    for t, split in cases():
        whole = filled(t)
        own = [stretch(t, split, r) for r in ranks_of(split)]
        for piece, one in zip(pieces(whole, split), own, strict=True):
            held.append(device.allocate(piece.nbytes))
            device.upload(held[-1].address, np.ascontiguousarray(piece))
            placed.append((held[-1].address, one))
            wanted.append(by_host(piece, one))
    room = device.allocate(room_for([one for _, one in placed]))
    made = OnDevice(device, kernels, placed, room, pads_on(device))
    for _ in range(2):
        for do in made.works:
            do()
        assert made.data() == b"".join(wanted)


def test_little_is_given_of_much() -> None:
    """Two hashes of each level, and less than two chunks."""
    one = Stretch(1_000_001, 900_000_007, 1 << 30)
    assert one.size < 2 * 32 * 20 + 2 * CHUNK
    assert Stretch(0, 1 << 29, 1 << 30).size == 32
    assert Stretch(0, 1 << 30, 1 << 30).size == 32
