"""Roots of tensors by hand, by assay.merkle and natively; stored tensors read strictly."""

from __future__ import annotations

import hashlib
import random
import struct

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from assay import merkle, state
from assay.exact.native.build import levels, library
from tests.exact.support import ROUTES, Route, names, on

TENSORS: state.Tensors = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.array(True),
    "é": np.arange(700, dtype=np.int64),
    "empty": np.zeros((0, 3), np.uint8),
    "z": np.arange(5, dtype=np.int16),
}


@pytest.mark.parametrize("route", ROUTES, ids=names)
@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 2048, 3000, 4096, 5000, 9 * 1024, 100_000])
def test_tensor_root(route: Route, size: int) -> None:
    data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    raw = data.tobytes()
    chunks = [raw[i : i + 1024].ljust(1024, b"\0") for i in range(0, size, 1024)]
    want = hashlib.sha256(b"\x10\x04\x01" + struct.pack(">Q", size) + merkle.root_of(chunks)).digest()
    with on(route):
        assert state.tensor_root(data) == want


@pytest.mark.parametrize("level", levels())
def test_native_sha256(level: str) -> None:
    with on(Route(level, 1)):
        native = library()
        assert native is not None
        for size in (0, 1, 55, 56, 63, 64, 65, 119, 120, 1000):
            data = bytes(range(256)) * 4
            assert native.sha256(data[:size]) == hashlib.sha256(data[:size]).digest()


@pytest.mark.parametrize("level", levels())
@pytest.mark.parametrize("size", [1, 55, 56, 63, 64, 65, 119, 120, 4096])
def test_native_sha256_of_messages_in_a_row(level: str, size: int) -> None:
    data = random.Random(size).randbytes(5 * size)
    messages = [data[at : at + size] for at in range(0, len(data), size)]
    with on(Route(level, 1)):
        native = library()
        assert native is not None
        for n in range(6):
            assert native.sha256_row(memoryview(data)[: n * size], size) == b"".join(hashlib.sha256(m).digest() for m in messages[:n])


def test_a_root_is_of_the_elements_not_of_their_layout() -> None:
    a = np.arange(24, dtype=np.float32).reshape(4, 6)
    assert state.tensor_root(a.T) == state.tensor_root(np.ascontiguousarray(a.T)) != state.tensor_root(a)
    assert state.tensor_root(a.astype(">f4")) == state.tensor_root(a)
    assert len({state.tensor_root(x) for x in (a, a.reshape(6, 4), a.view(np.int32), a.reshape(24))}) == 4


def test_set_roots_follow_the_protocol() -> None:
    entries = [struct.pack(">H", len(n.encode())) + n.encode() + state.tensor_root(TENSORS[n]) for n in ("a", "b", "empty", "z", "é")]
    root = merkle.root_of(entries)
    assert state.state_root(7, TENSORS) == merkle.sha256(b"\x11" + struct.pack(">QI", 7, 5) + root)
    assert state.acc_root(7, 3, TENSORS) == merkle.sha256(b"\x12" + struct.pack(">QII", 7, 3, 5) + root)
    assert state.batch_root(TENSORS) == merkle.sha256(b"\x16" + struct.pack(">I", 5) + root)
    assert state.batch_root({}) == merkle.sha256(b"\x16" + bytes(4) + merkle.EMPTY)


@pytest.mark.parametrize("route", ROUTES, ids=names)
def test_roots_do_not_depend_on_threads(route: Route) -> None:
    rng = np.random.default_rng(7)
    tensors = TENSORS | {f"t{n}": rng.standard_normal(n, np.float32) for n in (16_383, 16_384, 16_385, 33_000, 65_000, 300_001)}
    want = state.entries_root({n: state.tensor_root(a) for n, a in tensors.items()})
    with on(route):
        for threads in (route.threads, 2, 3, 64):
            assert state.entries_root(state.tensor_roots(tensors, threads)) == want
            assert state.state_root(3, tensors, threads) == state.state_root(3, tensors)
            assert state.acc_root(3, 1, tensors, threads) == state.acc_root(3, 1, tensors)
            assert state.frozen_root(tensors, threads) == state.frozen_root(tensors)


def test_bytes_round_trip_and_are_safetensors() -> None:
    data = state.to_bytes(TENSORS)
    back = state.from_bytes(data, 1 << 20)
    assert state.state_root(0, back) == state.state_root(0, TENSORS)
    assert data == state.to_bytes(dict(reversed(TENSORS.items())))
    theirs = safetensors.numpy.load(data)
    assert all(np.array_equal(theirs[name], TENSORS[name]) for name in TENSORS)
    ours = state.from_bytes(safetensors.numpy.save(TENSORS), 1 << 20)
    assert state.state_root(0, ours) == state.state_root(0, TENSORS)
    ours["b"][0, 0] = 5  # its own memory


def _file(header: str, body: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header.encode() + body


BAD = {
    "short": b"\0" * 7,
    "header past the end": struct.pack("<Q", 100) + b"{}",
    "no json": _file("{", b""),
    "unknown dtype": _file('{"a":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}', b"\0\0"),
    "wrong size": _file('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}', b"\0" * 4),
    "past the end": _file('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', b"\0" * 4),
    "gap": _file('{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}', b"\0\0"),
    "overlap": _file('{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}', b"\0\0\0"),
    "left over": _file('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"\0\0"),
    "negative": _file('{"a":{"dtype":"U8","shape":[-1,-1],"data_offsets":[0,1]}}', b"\0"),
    "huge": _file('{"a":{"dtype":"U8","shape":[9223372036854775807,4,0],"data_offsets":[0,0]}}', b""),
    "metadata": _file('{"__metadata__":{"a":"b"}}', b""),
    "bool of 2": _file('{"a":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]}}', b"\2"),
}


@pytest.mark.parametrize("name", BAD)
def test_malformed_files_are_refused(name: str) -> None:
    with pytest.raises(state.BadTensors):
        state.from_bytes(BAD[name], 1 << 20)


def test_too_large_a_file_is_refused_before_it_is_read() -> None:
    with pytest.raises(state.BadTensors, match="limit"):
        state.from_bytes(state.to_bytes(TENSORS), 100)


@given(st.binary(max_size=200), st.integers(0, 400))
def test_any_damage_is_refused_or_harmless(noise: bytes, at: int) -> None:
    data = bytearray(state.to_bytes(TENSORS))
    data[at : at + len(noise)] = noise
    try:
        back = state.from_bytes(bytes(data), 1 << 20)
    except state.BadTensors:
        return
    assert all(state.dtype_name(a) in state.DTYPES for a in back.values())


def test_a_dtype_that_states_do_not_hold() -> None:
    with pytest.raises(state.BadTensors, match="complex64"):
        state.tensor_root(np.zeros(2, np.complex64))
