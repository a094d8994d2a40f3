"""gpu.py with the real CuPy and NVRTC, on a stand-in for NVIDIA's driver (tests/exact/standin): that it calls CuPy rightly, and that CuPy then asks
the driver for what was meant. Each in a process of its own, which `tests.exact.standin.run` describes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from assay.adapters import sandbox
from assay.adapters.sandbox import NoSandbox
from assay.exact import trainings
from assay.exact.native.build import cache_folder
from tests.exact.standin.install import why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
ROOT = Path(__file__).parents[2]
PATIENCE = 900


def ran(*words: str, **variables: str) -> dict[str, Any]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])} | variables
    environment.pop("ASSAY_DEVICE", None)
    command = [sys.executable, "-m", "tests.exact.standin.run", *words]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("what", ["basics", "pool", "library", "without", "chosen", "hopper", "newer"])
def test_it_does_what_the_engine_asks(what: str) -> None:
    assert ran(what)["refusals"] == []


def test_what_goes_wrong_is_said() -> None:
    assert [line.partition(":")[0] for line in ran("faults")["refusals"]] == [
        "cuModuleGetFunction", "cudaIpcOpenMemHandle", "cudaStreamSynchronize", "cudaFree",
    ]  # fmt: skip


def test_ranks_in_processes_of_their_own_reach_the_bits_of_one_engine() -> None:
    ran("ranks")


@pytest.mark.slow
def test_ranks_do_that_may_not_read_each_others_memory() -> None:
    ran("ranks", "alone")


def test_a_training_reaches_the_published_states() -> None:
    assert ran("trained", "mlp")["refusals"] == []


def test_it_does_in_an_engine_that_is_shut_in(tmp_path: Path) -> None:
    """What runs on the processor must be there before: its compiler is a process."""
    try:
        sandbox.choose("kernel")
    except NoSandbox as error:
        pytest.skip(str(error))
    (tmp_path / "tmp").mkdir()
    (tmp_path / "native").mkdir(mode=0o700)
    for path in cache_folder().glob("*.so"):
        shutil.copy(path, tmp_path / "native")
    places = {"ASSAY_CACHE": str(tmp_path), "TMPDIR": str(tmp_path / "tmp")}
    ran("trained", "mlp", **places)
    for path in (tmp_path / "native").glob("cuda-*"):
        path.unlink()
    assert ran("shut", str(tmp_path), **places)["refusals"] == []
    assert list((tmp_path / "native").glob("cuda-*.cubin"))


@pytest.mark.slow
@pytest.mark.parametrize("family", [family for family in trainings.FAMILIES if family != "mlp"])
def test_every_training_does(family: str) -> None:
    assert ran("trained", family)["refusals"] == []


@pytest.mark.slow
def test_every_case_of_the_conformance_set_does() -> None:
    assert ran("operators")["refusals"] == []
