"""The scripts for machines with a GPU: without one they say so, and their host code runs on the fake device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from assay.exact import engines
from assay.exact.cuda import fake

ROOT = Path(__file__).resolve().parents[2]
without = pytest.mark.skipif(engines.why_not() is None, reason="this machine has a CUDA device")


def script(*words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run([sys.executable, *words], cwd=ROOT, env=env, capture_output=True, text=True, timeout=900)


@without
def test_a_machine_without_a_gpu_tests_nothing_and_says_so() -> None:
    done = script("tests/gpu.py")
    assert done.returncode == 2
    assert done.stdout.startswith("nothing was tested: ")


@without
def test_a_machine_without_a_gpu_measures_nothing_and_says_so() -> None:
    done = script("bench/gpu.py", "--json")
    assert done.returncode == 0, done.stderr
    assert "skipped" in json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.skipif(fake.compiler() is None, reason="no C++ compiler for the fake device")
def test_the_bench_runs_on_the_fake_device() -> None:
    done = script("bench/gpu.py", "--fake", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["same_bits_as_cpu"]
    assert all(made["equal_to_cpu"] for made in found["gemm"])
    assert found["step"][0]["hashing_ms"] > 0
    assert [(made["what"], made["equal_to_cpu"]) for made in found["moved"]] == [("turned", True), ("cumsum", True), ("scatter_add", True)]
    assert [made["equal"] for made in found["linked"]] == [True]
    whole, *sliced, again = found["sliced"]
    assert all(row["launches"] > whole["launches"] for row in (*sliced, again))
    assert all(row["equal"] and row["memory"] > 0 for row in found["sliced"])
    assert [(row["on_chip"], row["equal"]) for row in found["kept"]] == [(True, True), (False, True)]
    assert [(row["moments"], row["equal"]) for row in found["away"]] == [("memory", True), ("file", True)]
    assert all(row["apart_memory"] < row["whole_memory"] and row["crossing"] > 0 for row in found["away"])
    assert [(row["cut"], row["equal_to_cpu"]) for row in found["ranks"]] == [("records", True), ("tensors", True)]
    assert [set(row["exact_to"].values()) for row in found["ways"]] == [{22}]
    assert {way.split()[0] for way in found["ways"][0]["ways_ms"]} == {"int8", "bf16", "fp8"}
    assert found["left_out"] == []
    late = script("bench/gpu.py", "--fake", "--json", "--seconds", "0")
    assert len(json.loads(late.stdout.splitlines()[-1])["left_out"]) == 9
