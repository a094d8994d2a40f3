"""A library that sets the processor's flush-to-zero flags for the thread (gcc's crtfastmath does) changes no result unseen."""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from assay.exact import cpu, reference
from assay.exact.conformance import Writer, floats, program
from assay.exact.cpu import Cpu
from assay.exact.native import build
from assay.exact.numpy_route import FlushedError
from tests.exact.support import Route, on, same

pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="sets MXCSR")
STANDARD, FLUSHING = 0x1F80, 0x9FC0


@pytest.fixture(scope="module")
def set_flags(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], None]:
    folder: Path = tmp_path_factory.mktemp("flags")
    (folder / "flags.c").write_text("void set(unsigned v) { __builtin_ia32_ldmxcsr(v); }")
    subprocess.run([build.compiler(), "-shared", "-fPIC", "-o", str(folder / "flags.so"), str(folder / "flags.c")], check=True, timeout=240)
    call = ctypes.CDLL(str(folder / "flags.so")).set
    call.argtypes, call.restype = [ctypes.c_uint], None
    return lambda flags: call(flags)


@pytest.mark.parametrize("level", build.levels())
def test_native_code_sets_its_own_flags(level: str, set_flags: Callable[[int], None]) -> None:
    x = floats(1, (3, 500), "tiny")
    w = Writer(x)
    part = w.part(w("add", 0, 0), w("sum", 0, axes=(1,), keepdim=False), w("matmul", 0, w("permute", 0, axes=(1, 0))))
    values = reference.evaluate(part, [x], 14)
    with on(Route(level, 1)):
        engine = Cpu(program(part, 14))
        set_flags(FLUSHING)
        try:
            got = engine.run("micro", {"batch": {"x0": x}})
        finally:
            set_flags(STANDARD)
    assert all(same(got[o.name], values[o.value]) for o in part.outputs)


def test_threads_that_hashing_has_started_set_theirs(set_flags: Callable[[int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = build.Library(Path(shutil.copy(build.build(build.level()), tmp_path)))  # one without threads
    monkeypatch.setattr(cpu, "library", lambda: fresh)
    x = floats(1, (1 << 18,), "tiny")
    w = Writer(x)
    part = w.part(w("add", 0, 0))
    engine = cpu.Cpu(program(part, 14), 2)
    set_flags(FLUSHING)
    try:
        fresh.chunk_root(x, 2)
    finally:
        set_flags(STANDARD)
    for _ in range(50):  # the second thread may come too late for its part
        (got,) = engine.run("micro", {"batch": {"x0": x}}).values()
        assert same(got, x + x)


def test_numpy_refuses(set_flags: Callable[[int], None]) -> None:
    x = floats(1, (3, 5), "tiny")
    w = Writer(x)
    with on(Route("numpy", 1)):
        engine = Cpu(program(w.part(w("add", 0, 0)), 14))
        set_flags(FLUSHING)
        try:
            with pytest.raises(FlushedError, match="flush subnormal"):
                engine.run("micro", {"batch": {"x0": x}})
        finally:
            set_flags(STANDARD)
