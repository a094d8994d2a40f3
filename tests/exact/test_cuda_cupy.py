"""gpu.py with the real CuPy and NVRTC, on a stand-in for NVIDIA's driver (tests/exact/standin): that it calls CuPy rightly, and that CuPy then asks
the driver for what was meant. Each in a process of its own, which `tests.exact.standin.run` describes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from assay.exact import trainings
from tests.exact.standin.install import why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
ROOT = Path(__file__).parents[2]
PATIENCE = 900


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of CuPy's compiled kernels."""
    return tmp_path_factory.mktemp("cupy")


def ran(cache: Path, *words: str) -> dict[str, Any]:
    environment = os.environ | {"CUPY_CACHE_DIR": str(cache), "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    environment.pop("ASSAY_DEVICE", None)
    command = [sys.executable, "-m", "tests.exact.standin.run", *words]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("what", ["basics", "pool", "library", "without", "chosen", "hopper"])
def test_it_does_what_the_engine_asks(what: str, cache: Path) -> None:
    assert ran(cache, what)["refusals"] == []


def test_what_goes_wrong_is_said(cache: Path) -> None:
    assert [line.partition(":")[0] for line in ran(cache, "faults")["refusals"]] == [
        "cuModuleGetFunction", "cudaIpcOpenMemHandle", "cudaStreamSynchronize", "cudaFree",
    ]  # fmt: skip


def test_ranks_in_processes_of_their_own_reach_the_bits_of_one_engine(cache: Path) -> None:
    ran(cache, "ranks")


@pytest.mark.slow
def test_ranks_do_that_may_not_read_each_others_memory(cache: Path) -> None:
    ran(cache, "ranks", "alone")


def test_a_training_reaches_the_published_states(cache: Path) -> None:
    assert ran(cache, "trained", "mlp")["refusals"] == []


@pytest.mark.slow
@pytest.mark.parametrize("family", [family for family in trainings.FAMILIES if family != "mlp"])
def test_every_training_does(family: str, cache: Path) -> None:
    assert ran(cache, "trained", family)["refusals"] == []


@pytest.mark.slow
def test_every_case_of_the_conformance_set_does(cache: Path) -> None:
    assert ran(cache, "operators")["refusals"] == []
