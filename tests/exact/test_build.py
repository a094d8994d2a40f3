"""The native library is built once, by one of many, or not at all with a notice, and never loaded from where others can write."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from assay.exact.native import build

ASK = """
from assay.exact.native import build
build.FLAGS = tuple("-O0" if flag == "-O3" else flag for flag in build.FLAGS)  # which takes a second instead of ten
print(build.build(build.level()))
"""


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path))
    monkeypatch.setenv("ASSAY_SIMD", "portable")
    monkeypatch.delenv("ASSAY_NATIVE", raising=False)
    build._notice.cache_clear()
    return tmp_path


def test_many_at_once_build_one_library(fresh: Path) -> None:
    asking = [subprocess.Popen([sys.executable, "-c", ASK], stdout=subprocess.PIPE, text=True, env={**os.environ}) for _ in range(4)]
    try:
        paths = {process.communicate(timeout=120)[0].strip() for process in asking}
    finally:
        for process in asking:
            process.kill()
            process.wait()
    files = sorted(path.name for path in (fresh / "native").iterdir())
    assert len(paths) == 1
    assert files == sorted(["lock", Path(paths.pop()).name])


def test_without_a_compiler_numpy_runs_with_one_notice(fresh: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("PATH", str(fresh))
    monkeypatch.delenv("CC", raising=False)
    build._library.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            assert build.library() is None
            assert build.library() is None
    finally:
        build._library.cache_clear()
    assert [record.getMessage() for record in caplog.records] == [
        "exact arithmetic runs in NumPy, slowly: no C compiler (cc, gcc or clang): install one, e.g. `apt install gcc libc6-dev`"
    ]


def test_a_failing_compiler_leaves_nothing_and_says_so(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "false")
    with pytest.raises(build.NativeError, match="false failed"):
        build.build("portable")
    assert [path.name for path in (fresh / "native").iterdir()] == ["lock"]


def test_a_folder_that_others_can_write_is_not_trusted(fresh: Path) -> None:
    (fresh / "native").mkdir()
    (fresh / "native").chmod(0o777)
    with pytest.raises(build.NativeError, match="written by others"):
        build.build("portable")


def test_a_level_that_the_machine_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_SIMD", "avx1024")
    with pytest.raises(build.NativeError, match="this machine has portable"):
        build.level()


def test_an_aarch64_machine_takes_neon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASSAY_SIMD", raising=False)
    monkeypatch.setattr(build, "features", lambda: frozenset({"asimd", "sha2"}))
    assert build.levels() == ["portable", "neon"]
    assert build.level() == "neon"
    assert {"-DASSAY_NEON=1", "-march=armv8-a+crypto", "-ffp-contract=off"} <= set(build._flags("neon"))
    assert build._flags("portable") == build.FLAGS
    monkeypatch.setattr(build, "features", lambda: frozenset({"asimd"}))
    assert build._flags("neon") == (*build.FLAGS, "-DASSAY_NEON=1")


def test_native_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_NATIVE", "0")
    assert build.library() is None


def test_the_wheel_carries_the_sources() -> None:
    here = Path(build.__file__).parent
    assert {path.name for path in here.glob("*.[ch]")} == {*build.SOURCES, *build.HEADERS}
