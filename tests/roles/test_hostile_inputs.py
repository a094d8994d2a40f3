"""Programs, checkpoints and shards made to hurt: an engine that is shut in (where this machine can do that) says whose fault they are, writes and
reads nothing else, stays within its memory, and takes the next task. Messages: tests/test_fuzz_decoders.py, tests/ports/test_peers_hostile.py."""

from __future__ import annotations

import asyncio
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tiny import lay_out, plan

from assay import record_keys, seal, shard
from assay.adapters import sandbox
from assay.adapters.engine_process import ProcessEngine
from assay.adapters.sandbox import NoSandbox, Sandbox
from assay.build import Builder
from assay.codec import Message
from assay.engine import CheckFile, FileChecked, LinksRun, ReplayLink, RunLinks
from assay.exact.table import TensorType
from assay.ids import Digest
from assay.runtime import Fault, TaskFailed
from assay.state import state_root, to_bytes

PLAN = plan(2)
MEMORY, FLOPS = 1 << 28, 1 << 40


class Evil:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


def program(size: int, times: int = 1) -> bytes:
    """Products of matrices `size` x `size`, one after the other."""
    b = Builder()
    square = TensorType(dtype="f32", shape=(size, size))
    w = value = b.input("state", "param.w", square)
    for _ in range(times):
        value = b.emit("matmul", value, w)
    micro = b.part([("acc", "grad.w", b.add(b.input("acc", "grad.w", square), value))])
    return msgspec.structs.replace(PLAN.program, micro=micro).dump()


def bent(**changes: Any) -> bytes:
    """The honest program with another member at its top."""
    return json.dumps({**json.loads(PLAN.program.dump()), **changes}, sort_keys=True, separators=(",", ":")).encode()


def programs(mark: Path) -> dict[str, bytes]:
    honest = PLAN.program.dump()
    return {
        "nothing": b"",
        "a pickle": pickle.dumps(Evil(mark)),
        "nesting without end": b'{"constants":' + b"[" * 200_000,
        "nesting in an unknown member": honest[:-1] + b',"x":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        "longer than any": b" " * ((64 << 20) + 1),
        "a path for a format": bent(format="../../etc/passwd"),
        "micro-batches without end": bent(micro_batches=1 << 62),
        "an operator that is none": honest.replace(b'"matmul"', b'"os.system"'),
        "a value that refers to itself": honest.replace(b'"inputs":[5,4]', b'"inputs":[6,4]', 1),
        "more memory than there is": program(1 << 20),
        "arithmetic for a year": program(1 << 12, 60),
    }


def header(text: bytes, body: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text)) + text + body


def tensor_files(mark: Path) -> dict[str, bytes]:
    """In place of a checkpoint, a boundary, or a shard's plaintext."""

    def one(dtype: str, shape: list[int], offsets: list[int], name: str = "param.w") -> bytes:
        return header(json.dumps({name: {"dtype": dtype, "shape": shape, "data_offsets": offsets}}).encode(), bytes(48))

    return {
        "nothing": b"",
        "a pickle": pickle.dumps(Evil(mark)),
        "a pickle for a header": header(pickle.dumps(Evil(mark))),
        "a header longer than the file": struct.pack("<Q", 1 << 63) + b"{}",
        "nesting without end": header(b"[" * 200_000),
        "nesting in a tensor": header(b'{"w":{"dtype":' + b"[" * 20_000 + b"]" * 20_000 + b"}}"),
        "a shape that no memory holds": one("F32", [1 << 31, 1 << 31], [0, 48]),
        "a shape whose product wraps": one("F32", [1 << 32, 1 << 32, 3], [0, 48]),
        "a negative shape": one("F32", [-4, -3], [0, 48]),
        "bytes beyond the end": one("F32", [4, 3], [1 << 40, (1 << 40) + 48]),
        "objects": one("O", [6], [0, 48]),
        "a path for a name": one("F32", [4, 3], [0, 48], name="../../../home/keys"),
        "tensors without end": header(json.dumps({str(i): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(5_000)}).encode()),
        "not a number in it": to_bytes({name: np.full_like(array, np.nan) for name, array in PLAN.state.items()}),
    }


@pytest.fixture(scope="module")
def shut() -> Sandbox | None:
    for kind in ("bubblewrap", "kernel"):
        try:
            return sandbox.choose(kind, disk=1 << 28)
        except NoSandbox:
            continue
    return None


def suffered(root: Path, shut: Sandbox | None, honest: Message, evil: dict[str, Callable[[], Message]]) -> dict[str, TaskFailed | None]:
    """What each of the tasks came to, all of them in one engine; after each, the honest one goes through."""

    async def go() -> dict[str, TaskFailed | None]:
        engine, found = ProcessEngine(sandbox=shut), {}
        try:
            for name, make in evil.items():
                try:
                    await engine.run(make(), root, lambda _: None)
                    found[name] = None
                except TaskFailed as failed:
                    found[name] = failed
                lay_out(root, PLAN)
                assert isinstance(await engine.run(honest, root, lambda _: None), FileChecked | LinksRun), name
                assert engine.alive == 1
        finally:
            await engine.close()
        return found

    return asyncio.run(go())


def blamed(found: dict[str, TaskFailed | None]) -> None:
    """Each was the fault of whoever gave it."""
    wrong = {name: "nothing" if failed is None else f"{failed.fault}: {failed.error}" for name, failed in found.items()}
    assert {name: text for name, text in wrong.items() if not text.startswith(str(Fault.PEER))} == {}


def names(root: Path) -> set[str]:
    """But for the engine's own folders, which are empty."""
    return {str(path.relative_to(root)) for path in root.rglob("*")} - {"cache", "cache/tmp"}


def test_a_hostile_program_is_refused_before_it_is_run(tmp_path: Path, shut: Sandbox | None) -> None:
    root, mark = tmp_path / "work", tmp_path / "mark"
    root.mkdir(mode=0o700)
    lay_out(root, PLAN)
    before, check = names(root), CheckFile(folder="job-1", memory=MEMORY, flops=FLOPS)

    def given(data: bytes) -> Callable[[], Message]:
        def make() -> Message:
            (root / "job-1" / "program.json").write_bytes(data)
            return check

        return make

    blamed(suffered(root, shut, check, {name: given(data) for name, data in programs(mark).items()}))
    assert not mark.exists()
    assert names(root) == before


def test_a_hostile_checkpoint_is_refused_by_who_starts_from_it_and_by_who_checks_it(tmp_path: Path, shut: Sandbox | None) -> None:
    root, mark = tmp_path / "work", tmp_path / "mark"
    root.mkdir(mode=0o700)
    job, segment = lay_out(root, PLAN), root / "segment-1"
    honest = CheckFile(folder="job-1", memory=MEMORY, flops=FLOPS)
    run = RunLinks(job=job, segment="segment-1", start=0, stop=2, parent_root=state_root(0, PLAN.state), keep=1 << 20)
    zero = Digest(bytes(32))
    replay = ReplayLink(job=job, segment="segment-1", unit=0, step=0, m=0, state_end=run.parent_root, acc_end=zero, end=zero, leaves=8)

    def given(name: str, data: bytes, task: Message) -> Callable[[], Message]:
        def make() -> Message:
            (segment / name).write_bytes(data)
            return task

        return make

    evil: dict[str, Callable[[], Message]] = {}
    for name, data in tensor_files(mark).items():
        evil[f"{name}, to start from"] = given("state-0.safetensors", data, run)
        if name not in ("a path for a name", "tensors without end", "not a number in it"):  # these are well formed: a no, with a trace to seal
            evil[f"{name}, to check"] = given("boundary-0.safetensors", data, replay)
    before = names(root)
    blamed(suffered(root, shut, honest, evil))
    assert not mark.exists()
    assert names(root) - before <= {"segment-1/boundary-0.safetensors", "segment-1/lock"}


def test_a_hostile_shard_is_its_owners_fault(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    key, records = seal.new_key(), {"x": np.zeros((4, 3), np.float32)}
    dataset, (blob,) = shard.seal_dataset("dots", records, lambda _: b"", new_key=lambda: key)
    (ref,), few = dataset.shards, record_keys.select(key, [0])
    for name, data in tensor_files(mark).items():
        room = blob[:64] + (data + bytes(len(blob)))[: len(blob) - 64]
        for hostile in (data, room, blob[:64] + data, seal.seal(data, key), *(blob[:cut] for cut in (0, 10, 60, 100))):
            with pytest.raises((shard.BadShard, seal.WrongKey)):
                shard.read_records(ref, dataset.fields, hostile, few, [0])
            with pytest.raises(shard.BadShard):
                shard.read_shard(ref, dataset.fields, hostile, key)
        assert not mark.exists(), name
