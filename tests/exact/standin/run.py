"""What is done with `gpu.Gpu` on the stand-in for a driver, in a process of its own: `python -m tests.exact.standin.run WHAT [WORDS]`. Raises what
fails; the last line is a JSON object: how often each function was called, and which calls were refused."""

from __future__ import annotations

import atexit
import gc
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from numpy.typing import NDArray

from assay.cage import confine
from assay.exact import examination, reference, trainings
from assay.exact.cuda import choice, trial
from assay.exact.cuda.device import DeviceError, DeviceFull, Launch, source
from assay.exact.cuda.gpu import Gpu
from assay.exact.cuda.operands import Axis, Operand
from assay.exact.cuda.product import Product, Products
from assay.exact.cuda.tiles import Size, Way, digits, groups, tiles
from assay.exact.inputs import floats
from assay.exact.ranks.places import DATA, TENSOR
from assay.exact.ranks.team import Team, crew
from tests import gpu as script
from tests.exact.standin.driver import TOTAL, Driver
from tests.exact.standin.install import put_in
from tests.exact.test_ranks_held import same

SITE = Path(__file__).parent / "site"
TWICE = "KERNEL twice(float *x, i64 n) { for (i64 i = threadIdx.x; i < n; i += blockDim.x) x[i] = __fadd_rn(x[i], x[i]); }"
OUTSIDE = "KERNEL outside(float *x, i64 at) { x[at] = 1; }"


def basics(driver: Driver) -> None:
    """Memory, copies, a kernel, graphs, page-locked memory, arrays by DLPack."""
    gpu = Gpu()
    assert gpu.description._replace(name="") == ("", "12090", "sm_80", TOTAL, 2, 4 << 20)
    x, buffer = np.arange(250, dtype=np.float32), gpu.allocate(1000)
    assert buffer.address % 256 == 0
    gpu.upload(buffer.address, x)
    twice = gpu.load(source() + TWICE).kernel("twice")
    launch = Launch(twice, (1, 1, 1), (32, 1, 1), (buffer.address, 250))
    gpu.launch(launch)
    other = gpu.allocate(1000)
    with gpu.record() as recording:
        gpu.launch(launch)
        gpu.copy(other.address, buffer.address, 1000)
    recording.graph.replay()
    recording.graph.replay()
    got = np.empty_like(x)
    gpu.download(other.address, got)
    assert np.array_equal(got, 8 * x)
    seen = gpu.array(buffer.address, (2, 125), "<f4", buffer)
    assert (seen.shape, seen.data.ptr) == ((2, 125), buffer.address)
    locked = gpu.pinned(1000)
    locked[:] = 7
    gpu.upload(buffer.address, locked)
    gpu.download(buffer.address, locked)
    assert set(locked) == {7}
    gpu.prepare([(source() + OUTSIDE, ""), ("nonsense", "")])
    assert driver.calls["cudaGraphLaunch"] == 2


def faults(driver: Driver) -> None:
    """What goes wrong is a DeviceError or a DeviceFull, and says what."""
    gpu = Gpu()
    raises(DeviceError, "NVRTC failed: ", lambda: gpu.load("KERNEL broken("))
    raises(DeviceError, "no kernel 'none'", lambda: gpu.load(source() + TWICE).kernel("none"))
    raises(DeviceFull, f"{2 * TOTAL} bytes of the GPU's memory are not given", lambda: gpu.allocate(2 * TOTAL))
    raises(DeviceFull, f"{2 * TOTAL} bytes of the GPU's memory are not given", lambda: gpu.share(2 * TOTAL))
    held = gpu.allocate(TOTAL * 3 // 4)
    raises(DeviceFull, "bytes of the GPU's memory are not given", lambda: gpu.allocate(TOTAL // 2))
    del held
    gpu.allocate(TOTAL // 2)
    raises(DeviceError, "no handle", lambda: gpu.peer(b"", 16))
    raises(DeviceError, "cannot be opened", lambda: gpu.peer(gpu.share(16).handle, 16))
    raises(ValueError, "writeable", lambda: gpu.download(0, np.ones((4, 4))[:, :2]))
    buffer = gpu.share(1024)  # by itself: the pool has room behind what it gives
    gpu.launch(Launch(gpu.load(source() + OUTSIDE).kernel("outside"), (1, 1, 1), (1, 1, 1), (buffer.address, 1024 // 4)))
    raises(DeviceError, "cudaErrorIllegalAddress", gpu.wait)


def raises(kind: type[Exception], words: str, work: Callable[[], object]) -> None:
    with pytest.raises(kind, match=re.escape(words)):
        work()


def newer(driver: Driver) -> None:
    """A device that NVRTC does not know yet gets PTX."""
    gpu, x = Gpu(), np.ones(8, np.float32)
    buffer = gpu.allocate(x.nbytes)
    gpu.upload(buffer.address, x)
    gpu.launch(Launch(gpu.load(source() + TWICE).kernel("twice"), (1, 1, 1), (32, 1, 1), (buffer.address, 8)))
    gpu.download(buffer.address, x)
    assert set(x) == {2.0}
    assert gpu._arch.startswith("compute_")


def shut(driver: Driver, root: str) -> None:
    """Two steps that stay on the device, where an engine is shut in: no process can be started, and nothing written but below `root`."""
    unmeasured()
    confine(Path(root), 8 << 30, 1 << 30)
    assert script.resident(examination.CUDA, "mlp", 2) is None


def pool(driver: Driver) -> None:
    """What is let go is given out again; shared memory goes back to the driver."""
    gpu = Gpu()
    for _ in range(3):
        gpu.allocate(TOTAL // 2)
        gc.collect()
    assert driver.calls["cudaMalloc"] == 1
    shared = [gpu.share(4096) for _ in range(2)]
    assert len({one.handle for one in shared}) == 2
    del shared
    gc.collect()
    assert driver.calls["cudaFree"] >= 2
    assert gpu._apart == 0


def library(driver: Driver) -> None:
    """cuBLAS's product of int8 matrices, as it is and recorded."""
    gpu, rng = Gpu(), np.random.default_rng(7)
    found = gpu.library()
    m, n, k = 128, 256, 384
    a, b = rng.integers(-128, 128, (m, k)).astype(np.int8), rng.integers(-128, 128, (n, k)).astype(np.int8)
    want = a.astype(np.int32) @ b.astype(np.int32).T
    x, y, c = gpu.allocate(a.nbytes), gpu.allocate(b.nbytes), gpu.allocate(want.nbytes)
    assert found is not None
    launch, got = Launch(found, (1, 1, 1), (1, 1, 1), (x.address, y.address, c.address, m, n, k)), np.empty_like(want)
    for recorded in (False, True):
        gpu.upload(c.address, np.zeros_like(want))
        gpu.upload(x.address, a)
        gpu.upload(y.address, b)
        if recorded:
            with gpu.record() as recording:
                gpu.launch(launch)
            recording.graph.replay()
        else:
            gpu.launch(launch)
        gpu.download(c.address, got)
        assert np.array_equal(got, want)


def without(driver: Driver) -> None:
    """No cuBLAS: its way is not offered."""
    few()
    gpu = Gpu()
    assert gpu.library() is None
    assert None not in [way.tile for way in choice.Choices(gpu).ways(Size(8, 1, 128, 128, 128))]


def unmeasured() -> None:
    """Products are made by the usual tiles: to measure all ways takes the fake device minutes."""
    mock.patch.object(choice.Choices, "way", return_value=None).start()


def few() -> None:
    """One tile of each kind: each takes seconds to compile."""
    choice.tiles = lambda how, arch: tiles(how, arch)[:1]


def chosen(driver: Driver) -> None:
    """All kinds of ways of a product are measured, the probe of bf16 included, and give the reference's bits."""
    few()
    gpu = Gpu()
    size = Size(14, 1, 70, 200, 33)
    ways = choice.Choices(gpu)
    assert {str(way) for way in ways.ways(size)} == set(ways.measured(size))
    assert {"int8", "bf16"} <= {way.kind for way in ways.ways(size)}
    a, b = (np.random.default_rng(at).standard_normal(shape).astype(np.float32) for at, shape in enumerate(((size.m, size.k), (size.k, size.n))))
    want = reference.matmul(a, b, size.bits)
    for way in [*ways.ways(size)]:
        assert multiplied(gpu, a, b, way).tobytes() == want.tobytes(), str(way)
    size = Size(8, 1, 128, 128, 128)
    assert {str(way) for way in ways.ways(size)} == set(ways.measured(size))
    assert any(way.tile is None for way in ways.ways(size))


def hopper(driver: Driver) -> None:
    """wgmma: machine code for sm_90a from a file, clusters, more shared memory than is given unasked."""
    gpu = Gpu()
    assert gpu.description.arch == "sm_90"
    how = digits(14)
    a, b = floats(1, (150, 400), "wide"), floats(2, (400, 140), "wide")
    want = reference.matmul(a, b, 14)
    first, *others = groups(how, "sm_90")
    for tile in (first, next(group for group in others if group.persistent), tiles(how, "sm_90")[0]):
        assert multiplied(gpu, a, b, Way(tile)).tobytes() == want.tobytes(), str(tile)
    trial.LARGE = ()
    ways = choice.Choices(gpu)
    assert ways.admitted(Way(first), 14)


def multiplied(gpu: Gpu, a: NDArray[np.float32], b: NDArray[np.float32], way: Way) -> NDArray[np.float32]:
    (m, k), n = a.shape, b.shape[1]
    one = Axis((1,), (0,))
    product = Product(14, Operand(one, Axis((m,), (k,)), Axis((k,), (1,))), Operand(one, Axis((n,), (1,)), Axis((k,), (n,))), way, 2)
    products, out = Products(gpu), np.empty((m, n), np.float32)
    x, y, z, scratch = (gpu.allocate(size) for size in (a.nbytes, b.nbytes, out.nbytes, product.scratch))
    gpu.upload(x.address, a)
    gpu.upload(y.address, b)
    for launch in products.launches(product, z.address, x.address, y.address, scratch.address):
        gpu.launch(launch)
    gpu.download(z.address, out)
    wrong = np.ones(1, np.uint64)
    gpu.download(products.faults.address, wrong)
    assert not wrong[0]
    return out


def trained(driver: Driver, family: str) -> None:
    """Two steps from the host's state, and two that stay on the device, in graphs; and with what may be of the state on the host."""
    unmeasured()
    assert [str(failed) for failed in examination.trained(examination.Route(examination.CUDA, 1), family, 2)] == []
    for slices, away in ((script.SLICES.get(family, 0), False), (0, True)):
        assert script.resident(examination.CUDA, family, 2, slices, away) is None
    assert driver.calls["cudaGraphLaunch"] > 0


def operators(driver: Driver) -> None:
    """Every case of the conformance set."""
    unmeasured()
    assert [str(failed) for failed in examination.operators(examination.Route(examination.CUDA, 1))] == []


def ranks(driver: Driver, alone: str = "") -> None:
    """Trainings that stay with two ranks, each a process with a driver like this, whose devices read each other's memory; or may not (`alone`)."""
    program = trainings.load("mlp").program
    log = Path(tempfile.mkdtemp()) / "calls"
    log.touch()
    os.environ |= {"ASSAY_DEVICE": "cuda", "PYTHONPATH": os.pathsep.join([str(SITE), *sys.path]), "STANDIN_LOG": str(log)}
    os.environ |= {"STANDIN_ALONE": "yes"} if alone else {}
    for layout in (DATA, TENSOR):
        with Team(program, layout, crew(2)) as team:
            same("mlp", team)
    told = log.read_text().split()
    shutil.rmtree(log.parent)
    assert {"cudaIpcGetMemHandle", "cudaIpcOpenMemHandle"} <= set(told)
    assert ("cudaIpcCloseMemHandle" in told) != bool(alone)


def main(what: str, *words: str) -> int:
    driver = Driver(capability={"hopper": 90, "newer": 199}.get(what, 80), cublas=what != "without")
    put_in(driver)
    choices = Path(tempfile.mkdtemp())
    choice.path = lambda description: choices / "choices.json"  # nothing is remembered
    atexit.register(shutil.rmtree, choices)
    globals()[what](driver, *words)
    print(json.dumps({"calls": driver.calls, "refusals": driver.refusals}))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
