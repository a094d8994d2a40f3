"""Tensors in mapped files, touched a window at a time: the same roots, a bounded part of them in memory, states written and read in pieces."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assay.exact import offload, trainings
from assay.exact.conformance import Writer
from assay.exact.cpu import Cpu
from assay.exact.native.build import levels, library
from assay.exact.offload import Store, cut, mapping, release, windows
from assay.exact.plan import Plan
from assay.exact.table import TensorType
from assay.exact.tape import Tape
from assay.execute import Executor
from assay.program import Input, Output, Part
from assay.segment import Segment, write_tensors
from assay.state import BadTensors, Tensors, from_file, state_root, to_bytes, to_file
from tests.exact.support import Route, floats, names, on

routes = pytest.mark.parametrize("route", [Route("numpy", 1), Route(levels()[-1], 2)], ids=names)
SMAPS = Path("/proc/self/smaps")


def run(folder: Path, name: str, store: Store | None, steps: int, threads: int = 1) -> Segment:
    training = trainings.load(name)
    p, state = training.program, trainings.initial(training.program)
    folder.mkdir()
    write_tensors(folder / "state-0.safetensors", state)
    executor = Executor(p, training.schedule, p.micro_batches, threads, store=store)
    segment = Segment(folder, executor, lambda step, m: trainings.batch(p, step, m), 0, state_root(0, state), 0)
    segment.run(steps, lambda step, loss: None)
    return segment


@routes
@pytest.mark.parametrize("name", trainings.FAMILIES)
def test_trainings_reach_the_published_states(name: str, route: Route, tmp_path: Path) -> None:
    """With windows far smaller than the tensors, so that every step is cut that can be."""
    published = trainings.expected()[name]
    with on(route):
        segment = run(tmp_path / "segment", name, Store(tmp_path, window=256), 2, route.threads)
    assert [segment.root_before(n).hex() for n in (1, 2)] == [published[n] for n in ("1", "2")]
    assert [path.name for path in tmp_path.iterdir()] == ["segment"]  # the files have no names, and are gone


def test_what_a_training_holds_is_mapped(tmp_path: Path) -> None:
    training = trainings.load("gpt")
    p, store = training.program, Store(tmp_path)
    executor = Executor(p, training.schedule, p.micro_batches, store=store)
    state = {name: store.put(array) for name, array in trainings.initial(p).items()}
    for step in range(2):
        acc = executor.zero_acc(step, state)
        for m in range(p.micro_batches):
            acc = executor.micro(step, m, state, acc, trainings.batch(p, step, m), spend=True)
            assert all(mapping(array) is not None for array in acc.values())
        state = executor.update(step, state, acc, spend=True)
        assert all(mapping(array) is not None for array in state.values())


def resident(arrays: Tensors) -> int:
    """Bytes of mapped arrays that are in this process' memory."""
    starts = {array.ctypes.data for array in arrays.values()}
    out = 0
    for found in re.finditer(r"(?m)^([0-9a-f]+)-[0-9a-f]+ .*\n(?:[A-Z].*\n)*?Rss:\s+(\d+)", SMAPS.read_text()):
        if int(found[1], 16) in starts:
            out += int(found[2]) * 1024
    return out


@pytest.mark.skipif(not SMAPS.exists() or library() is None, reason="reads Linux's /proc, and windows are of the native route")
def test_an_update_has_a_window_of_its_tensors_in_memory(tmp_path: Path) -> None:
    """Momentum over tensors of 2 MiB: 16 MiB in all, of which a window of 1 MiB is there at a time, and nothing in the end."""
    size, count, window = 1 << 19, 4, 1 << 20
    w = Writer(*[np.zeros(size, np.float32)] * (2 * count))
    outputs = []
    for i in range(count):
        m = w("add", w("mul", 2 * i + 1, w.f32(0.9)), 2 * i)
        outputs += [w("sub", 2 * i, w("mul", m, w.f32(0.1))), m]
    entries = tuple(Input(kind="state", name=i.name, type=i.type) for i in w.inputs)
    results = tuple(Output(kind="state", name=f"x{i}", value=v) for i, v in enumerate(outputs))
    part = Part(inputs=entries, nodes=tuple(w.nodes), outputs=results)
    program = trainings.load("mlp").program
    program = type(program)(**{n: getattr(program, n) for n in program.__struct_fields__} | {"update": part})
    store, rng = Store(tmp_path, window), np.random.default_rng(0)
    plain = {f"x{i}": floats(rng, (size,), "normal") for i in range(2 * count)}
    mapped = {name: store.put(array) for name, array in plain.items()}
    want = Cpu(program).run("update", {"state": plain})
    seen: list[int] = []
    original = offload.release

    def watched(array: Any) -> None:
        seen.append(resident(mapped))
        original(array)

    cpu = Cpu(program, store=store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(offload, "release", watched)
        got = cpu.run("update", {"state": mapped}, ("state",))
    assert all(got[name].tobytes() == want[name].tobytes() for name in want)
    assert all(mapping(got[name]) is not None for name in got)  # written where they were
    for array in mapped.values():
        release(array)
    assert resident(mapped) == 0
    assert len(seen) > 16
    assert window // 8 < max(seen) <= 2 * window  # pages around what is touched come along


def test_pieces_and_windows() -> None:
    w = Writer(np.zeros(100, np.float32), np.zeros((100, 100), np.float32), np.zeros((10, 10), np.float32))
    total = w("sum", 1, axes=(0,), keepdim=False)
    part = w.part(w("add", w("mul", 0, w.f32(2)), total), w("tanh", w("permute", 2, axes=(1, 0))))
    plan = Plan(part, {}, 14)
    whole = [step.name for step in plan.steps]
    cut(plan, 400)
    native = library()
    if native is None:
        pytest.skip("no compiler here")
    assert [step.name for step in plan.steps if step.name != "map"] == [name for name in whole if name != "map"]
    sizes = [step.writes[0].elements for step in plan.steps if step.name == "map"]
    assert sizes.count(100) == 1  # what is read across its order is not cut
    assert sum(sizes) == 200
    assert max(size for size in sizes if size != 100) <= 400 // 12
    tape = Tape(plan, native)
    made = windows(plan, tape, range(2, 5), 400)
    assert [part.stop for part in made[:-1]] == [part.start for part in made[1:]]
    assert (made[0].start, made[-1].stop) == (0, len(plan.steps))
    assert any(3 in part.touched for part in made)
    assert [part.touched for part in windows(plan, tape, [], 400)] == [()]


def test_states_are_written_and_read_in_pieces(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    state: Tensors = {
        "wide": floats(rng, (3, 1 << 20), "normal"), "turned": floats(rng, (5, 7), "bits").T, "one": np.array(3, np.int64),
        "flags": rng.random(9) < 0.5,
    }  # fmt: skip
    file = io.BytesIO()
    to_file(file, state)
    assert file.getvalue() == to_bytes(state)
    path = tmp_path / "state"
    path.write_bytes(file.getvalue())
    store = Store(tmp_path)
    found = from_file(path, 1 << 30, store.put)
    assert state_root(1, found) == state_root(1, state)
    assert all(mapping(array) is not None and array.flags.writeable for array in found.values())
    path.write_bytes(b"")
    with pytest.raises(BadTensors):
        from_file(path, 1 << 30, np.copy)
    path.write_bytes(file.getvalue()[:-1])
    with pytest.raises(BadTensors):
        from_file(path, 1 << 30, np.copy)


def test_an_array_in_memory_is_left_alone(tmp_path: Path) -> None:
    array = np.arange(10)
    release(array)
    assert mapping(array) is None
    own = Store(tmp_path).put(array)
    assert own is Store(tmp_path).put(own)
    assert own.tolist() == array.tolist()
    zero = Store(tmp_path).zeros(TensorType(dtype="bool", shape=()))
    assert zero.shape == ()
    assert not zero
