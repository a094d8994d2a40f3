"""Tracing the families gives the same programs whatever PyTorch's dispatch: its arithmetic has no part in them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from assay.exact.native.build import levels
from assay.exact.trainings import FAMILIES, LARGE

pytest.importorskip("torch")

TOOL = Path(__file__).parents[2] / "tools" / "conformance_programs.py"
SETTINGS = [
    {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "OMP_NUM_THREADS": "1"},
    *([{"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "2"}] if "avx2" in levels() else []),
    {"OMP_NUM_THREADS": "2"},
]


def traced(folder: Path, setting: dict[str, str], *families: str) -> dict[str, bytes]:
    """File -> what the tool writes under a setting of PyTorch."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | setting
    subprocess.run([sys.executable, str(TOOL), "--into", str(folder), *families], env=env, check=True, timeout=600, capture_output=True)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_every_setting_of_torch_traces_the_same_programs(tmp_path: Path) -> None:
    found = [traced(tmp_path / str(i), setting) for i, setting in enumerate(SETTINGS)]
    assert len(found[0]) == 2 * len((*FAMILIES, LARGE))
    assert all(other == found[0] for other in found)
