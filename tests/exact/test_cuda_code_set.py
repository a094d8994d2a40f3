"""The conformance set, steps of training and tensor roots in the machine code that NVIDIA's compiler makes of the kernels for sm_90, run an
instruction at a time: what a GPU that does what the manuals say will give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from assay.exact import conformance, hashing, trainings
from assay.exact.cuda import fake
from assay.exact.cuda.engine import Cuda
from assay.exact.cuda.maps import Kernels
from assay.exact.cuda.trees import Trees, work_bytes
from assay.exact.inputs import Case, program, words
from tests.exact import coded
from tests.exact.test_cuda_code import SLOW, WAYS
from tests.exact.test_cuda_route import named

pytestmark = [
    pytest.mark.skipif(fake.compiler() is None, reason="the fake device needs a C++ compiler"),
    pytest.mark.skipif(bool(coded.missing()), reason=coded.missing() or "there"),
]
CASES = {c.name: c for c in conformance.cases()}
LONG = ("sums of more than 2^22", "maximal products of many terms", "matmul of many rows")
"""With too many instructions for an interpreter."""
QUICK = (
    "functions near their seams", "special pairs", "cast at the edges", "casts for many threads", "integers", "select", "philox, known answers",
    "views of bool", "reduce special", "reduce rows of every size", "prefix special", "prefix of every size", "sums that overflow", "rows special",
    "scatter-add", "rows by index", "gather and scatter along 1", "moves", "moves of eight axes",
)  # fmt: skip


def digest(c: Case) -> str:
    device = coded.Coded(*WAYS[1])
    got = Cuda(program(c.part, c.gemm_bits), device, Kernels(device)).run("micro", named(c))
    device.wait()
    assert device.ran
    return conformance.digest_of(list(got.values()))


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in QUICK else SLOW) for name in CASES if not name.startswith(LONG)])
def test_the_conformance_set(name: str) -> None:
    assert digest(CASES[name]) == conformance.expected()[name]


def test_which_cases_are_quick_or_left_out() -> None:
    assert CASES.keys() >= {*QUICK}
    assert sum(name.startswith(LONG) for name in CASES) == 9


@pytest.mark.parametrize("family", [pytest.param(family, marks=[] if family == "mlp" else SLOW) for family in trainings.FAMILIES])
def test_a_step_of_training(family: str) -> None:
    """The way forward and back and the update, from launch to launch."""
    device, training = coded.Coded(*WAYS[1]), trainings.load(family)
    got = trainings.roots(training, Cuda(training.program, device, Kernels(device)).run, 1)
    assert {str(n): root.hex() for n, root in got.items()} == {"1": trainings.expected()[family]["1"]}
    assert {"fill_4", "gemm", "compare_all"} <= set(device.ran)


def test_tensor_roots() -> None:
    device = coded.Coded(*WAYS[1])
    sizes = [1, 3, 1023, 1024, 1025, 5000, 9221]
    data = [words(seed, size).astype(np.uint8) for seed, size in enumerate(sizes)]
    held = [device.allocate(size + 1) for size in sizes]
    places = [buffer.address + seed % 2 for seed, buffer in enumerate(held)]  # bytes may start anywhere
    for place, one in zip(places, data, strict=True):
        device.upload(place, one)
    trees = Trees(device, Kernels(device), list(zip(places, sizes, strict=True)), device.allocate(work_bytes(sizes)))
    for launch in trees.launches:
        device.launch(launch)
    assert trees.roots() == [hashing.chunk_root(one) for one in data]
    assert device.ran


def test_a_changed_instruction_of_the_hash_is_found() -> None:
    """Of a rotation: the funnel shift that is taken for one by one bit less."""

    def change(op: Any) -> Any:
        return op._replace(given=(*op.given[:2], "0x5", *op.given[3:])) if op.name == "SHF" and op.given[2] == "0x6" else op

    device = coded.Coded(change=change)
    data = words(1, 5000).astype(np.uint8)
    held = device.allocate(5000)
    device.upload(held.address, data)
    trees = Trees(device, Kernels(device), [(held.address, 5000)], device.allocate(work_bytes([5000])))
    for launch in trees.launches:
        device.launch(launch)
    assert trees.roots() != [hashing.chunk_root(data)]
