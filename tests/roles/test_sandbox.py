"""Engines that are shut in: the honest one computes the same, a hostile one reaches nothing, and the daemon goes on after each."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import lay_out, plan

from assay.adapters import engine_process, sandbox
from assay.adapters.engine_process import ProcessEngine
from assay.adapters.sandbox import NoSandbox, Sandbox
from assay.cage import seccomp
from assay.client import run_plan
from assay.engine import CheckFile, FileChecked, LinksRun, RunLinks
from assay.runtime import TaskFailed
from assay.state import state_root

PLAN = plan(2)
SECRET = "the signing key of a node"


@pytest.fixture(scope="module", params=["bubblewrap", "kernel"])
def shut(request: pytest.FixtureRequest) -> Sandbox:
    try:
        found = sandbox.choose(request.param, disk=1 << 30)
    except NoSandbox as error:
        pytest.skip(str(error))
    assert found is not None
    return found


def inside(shut: Sandbox, root: Path, script: str, memory: int = 1 << 30, disk: int = 1 << 24, devices: str = "") -> str:
    """What a hostile engine prints: Python code that runs where the engine would. `attempt(f)` prints what f gave or was refused with."""
    code = f"""
import os, sys
from pathlib import Path
from assay.cage import confine
confine(Path({str(root)!r}), {memory}, {disk}, ({devices}))
def attempt(what):
    try:
        print('GOT', repr(what()))
    except (OSError, MemoryError) as error:
        print('REFUSED', type(error).__name__, getattr(error, 'errno', ''))
def call(name, *arguments):
    import ctypes
    if getattr(ctypes.CDLL(None), name)(*arguments):
        raise OSError(name)
{script}
"""
    done = subprocess.run(
        shut.wrap([sys.executable, "-c", code], root), env=shut.environment(), capture_output=True, text=True, timeout=240, check=False
    )
    return done.stdout + done.stderr


ATTEMPTS = {
    "reads the node's keys": "attempt(lambda: open({secret!r}).read())",
    "lists the data folder": "attempt(lambda: os.listdir({data!r}))",
    "reads a home": "attempt(lambda: os.listdir(os.path.expanduser('~')))",
    "reads the system's secrets": "attempt(lambda: open('/etc/shadow').read())",
    "writes beside its folder": "attempt(lambda: open({data!r} + '/mine', 'w'))",
    "links to the keys": "attempt(lambda: (os.symlink({secret!r}, {root!r} + '/link'), open({root!r} + '/link').read()))",
    "moves a file out": "attempt(lambda: (open({root!r} + '/a', 'w').close(), os.rename({root!r} + '/a', {data!r} + '/a')))",
    "removes the keys": "attempt(lambda: os.remove({secret!r}))",
    "changes a mode": "attempt(lambda: os.chmod({root!r}, 0o777))",
    "opens a connection": "import socket; attempt(lambda: socket.create_connection(('127.0.0.1', {port})))",
    "listens": "import socket; attempt(lambda: socket.socket().bind(('127.0.0.1', 0)))",
    "asks through a socket's file": "import socket; attempt(lambda: socket.socket(socket.AF_UNIX))",
    "starts a program": "import subprocess; attempt(lambda: subprocess.run(['/bin/sh', '-c', 'echo hello']))",
    "becomes another program": "attempt(lambda: os.execv('/bin/true', ['true']))",
    "forks": "attempt(os.fork)",
    "kills the daemon": "attempt(lambda: os.kill({pid}, 9))",
    "stops everybody": "attempt(lambda: os.kill(-1, 19))",
    "reads the daemon's environment": "attempt(lambda: open('/proc/{pid}/environ').read())",
    "reads the daemon's memory": "attempt(lambda: open('/proc/{pid}/mem', 'rb').read(1))",
    "mounts": "attempt(lambda: call('mount', b'x', b'/', b'tmpfs', 0, 0))",
    "traces the daemon": "attempt(lambda: call('ptrace', 16, {pid}, 0, 0))",
    "unshares": "attempt(lambda: call('unshare', 0x10000000))",
    "takes all memory": "attempt(lambda: len(bytearray(2 << 30)))",
    "writes a file without end": "attempt(lambda: open({root!r} + '/big', 'wb').write(bytes(1 << 25)))",
    "types into the terminal": "import fcntl; attempt(lambda: fcntl.ioctl(2, 0x5412, b'x'))",
    "reads its environment": "attempt(lambda: os.environ['ASSAY_PASSWORD']) if 'ASSAY_PASSWORD' in os.environ else print('REFUSED')",
}


@pytest.mark.parametrize("what", ATTEMPTS)
def test_a_hostile_engine_is_refused(shut: Sandbox, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_PASSWORD", SECRET)
    root, secret = tmp_path / "work", tmp_path / "keys"
    root.mkdir(mode=0o700)
    secret.write_text(SECRET)
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        fields = {"secret": str(secret), "data": str(tmp_path), "root": str(root), "pid": os.getpid(), "port": server.getsockname()[1]}
        said = inside(shut, root, ATTEMPTS[what].format(**fields))
    assert re.search(r"^REFUSED", said, re.MULTILINE), said
    assert "GOT" not in said
    assert SECRET not in said
    assert secret.read_text() == SECRET
    assert sorted(p.name for p in tmp_path.iterdir()) == ["keys", "work"]


def test_what_is_not_forbidden_works(shut: Sandbox, tmp_path: Path) -> None:
    said = inside(
        shut, tmp_path,
        f"import threading, numpy as np\nroot = {str(tmp_path)!r}\n"
        "threading.Thread(target=lambda: print('threads')).start()\n"
        "os.mkdir(root + '/a'); open(root + '/a/b', 'w').write('x'); os.replace(root + '/a/b', root + '/c'); os.rmdir(root + '/a')\n"
        "os.link(root + '/c', root + '/d'); print(sorted(os.listdir(root)), np.arange(4) @ np.arange(4)); os.kill(os.getpid(), 0)",
    )  # fmt: skip
    assert "threads" in said
    assert "['c', 'd'] 14" in said


@pytest.mark.parametrize("given", [False, True])
def test_a_device_is_used_by_whom_it_is_given(given: bool, tmp_path: Path) -> None:
    """/dev/full stands for a GPU's: it can be opened for writing and spoken to (ioctl(2)) only where it is named."""
    try:
        shut = sandbox.choose("kernel")
    except NoSandbox as error:
        pytest.skip(str(error))
    assert shut is not None
    said = inside(shut, tmp_path, "attempt(lambda: os.open('/dev/full', os.O_RDWR) > 0)", devices="Path('/dev/full')," if given else "")
    assert ("GOT True" in said) == given, said


def test_it_keeps_what_it_compiles_below_its_own_folder(shut: Sandbox, tmp_path: Path) -> None:
    code = (
        "import os, sys, runpy; sys.argv = ['cage', *sys.argv[1:]]\n"
        "import assay.work, tempfile\n"
        "assay.work.main = lambda _: print(*(os.environ[n] for n in ('ASSAY_CACHE', 'CUPY_CACHE_DIR')), tempfile.mkdtemp(prefix='x')) or 0\n"
        "runpy.run_module('assay.cage', run_name='__main__')"
    )
    command = shut.command(tmp_path)
    command[command.index("-m") : command.index("-m") + 2] = ["-c", code]
    done = subprocess.run(command, env=shut.environment(), capture_output=True, text=True, timeout=240, check=False)
    *caches, temporary = done.stdout.split()
    assert caches == [str(tmp_path / "cache" / name) for name in ("assay_cache", "cupy_cache_dir")], done.stderr
    assert Path(temporary).parent == tmp_path / "cache" / "tmp"


def test_an_engine_that_is_shut_in_computes_the_same(shut: Sandbox, tmp_path: Path) -> None:
    async def run() -> None:
        made = ProcessEngine(sandbox=shut, threads=2)
        try:
            task = RunLinks(job=lay_out(tmp_path, PLAN), segment="segment-1", start=0, stop=2, parent_root=state_root(0, PLAN.state), keep=1 << 20)
            done = await made.run(task, tmp_path, lambda _: None)
            assert isinstance(done, LinksRun)
            assert done.end_root == run_plan(PLAN).root
        finally:
            await made.close()

    asyncio.run(run())


def test_it_dies_with_the_daemon(shut: Sandbox, tmp_path: Path) -> None:
    """The daemon's place is taken by a process that starts an engine and is killed."""
    code = (
        "import sys, subprocess; from pathlib import Path; from assay.adapters.sandbox import Sandbox\n"
        f"shut = Sandbox({shut.kind!r}, {shut.memory}, {shut.disk}, {shut.native!r}); root = Path({str(tmp_path)!r})\n"
        "engine = subprocess.Popen(shut.command(root), env=shut.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "engine.stdin.write(b'{}\\n'); engine.stdin.flush(); engine.stdout.readline(); print(engine.pid, flush=True); sys.stdin.readline()"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True, env=os.environ | shut.environment()) as daemon:
        assert daemon.stdout is not None
        engine = int(daemon.stdout.readline())
        os.kill(engine, 0)
        daemon.send_signal(signal.SIGKILL)
    import psutil

    gone = not psutil.pid_exists(engine) or psutil.wait_procs([psutil.Process(engine)], timeout=240)[1] == []
    assert gone


class Hoards(Sandbox):
    """In place of an engine something that takes a task, fills its folder, and never answers."""

    def command(self, root: Path) -> list[str]:
        code = f"import sys, time; sys.stdin.readline(); open({str(root / 'filler')!r}, 'wb').write(bytes(2 << 20)); time.sleep(600)"
        return [sys.executable, "-c", code]


def test_a_work_folder_that_outgrows_its_quota_ends_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_process, "LOOK_EVERY", 0.01)

    async def run() -> None:
        made = ProcessEngine(sandbox=Hoards("kernel", 1 << 30, 1 << 20, ""))
        try:
            with pytest.raises(TaskFailed, match=r"the engine was ended: the work folder holds .* its quota is 1048576; --disk gives it more"):
                await made.run(CheckFile(folder="job-1", memory=1 << 30, flops=1 << 40), tmp_path, lambda _: None)
        finally:
            await made.close()

    asyncio.run(run())


def test_in_a_work_folder_over_its_quota_nothing_is_begun(shut: Sandbox, tmp_path: Path) -> None:
    async def run() -> None:
        made = ProcessEngine(sandbox=Sandbox(shut.kind, shut.memory, 1 << 20, shut.native))
        (tmp_path / "filler").write_bytes(bytes(2 << 20))
        lay_out(tmp_path, PLAN)
        task = CheckFile(folder="job-1", memory=1 << 30, flops=1 << 40)
        try:
            with pytest.raises(TaskFailed, match="its quota is 1048576; --disk gives it more"):
                await made.run(task, tmp_path, lambda _: None)
            (tmp_path / "filler").unlink()
            assert isinstance(await made.run(task, tmp_path, lambda _: None), FileChecked)
        finally:
            await made.close()

    asyncio.run(run())


def test_where_nothing_works_one_is_told_what_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_fails", lambda shut: f"no {shut.kind} here")
    with pytest.raises(NoSandbox, match="bubblewrap: no bubblewrap here; kernel: no kernel here"):
        sandbox.choose()
    assert sandbox.choose("off") is None
    with pytest.raises(ValueError, match="no sandbox is called 'jail'"):
        sandbox.choose("jail")
    monkeypatch.undo()
    monkeypatch.setenv("PATH", "")
    assert "apt install bubblewrap" in sandbox._fails(Sandbox("bubblewrap", 1 << 30, 1 << 30, ""))


@pytest.mark.parametrize("header", ["/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm-generic/unistd.h"])
def test_the_numbers_of_calls_are_the_kernel_s(header: str) -> None:
    if not Path(header).exists():
        pytest.skip(f"{header} is not installed")
    known = {m[1]: int(m[2]) for m in re.finditer(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", Path(header).read_text())}
    column = 0 if "x86_64" in header else 1
    arch = ("x86_64", "aarch64")[column]
    for name, numbers in seccomp.DENIED.items():
        assert known.get(name) == numbers[column], name
    others = {"clone": seccomp.CLONE, "kill": seccomp.KILL, "prlimit64": seccomp.PRLIMIT, "ioctl": seccomp.IOCTL, "seccomp": seccomp.SECCOMP}
    assert all(known[name] == numbers[arch] for name, numbers in others.items())
    assert known["clone3"] == seccomp.CLONE3


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_the_filter_decides_as_it_should(arch: str) -> None:
    """The BPF of either architecture, run by a small interpreter."""
    import struct

    code = seccomp.program(arch, pid=77)

    def decide(number: int, first: int = 0, second: int = 0, where: int = seccomp.AUDIT_ARCH[arch]) -> int:
        data = {seccomp.NUMBER: number, seccomp.ARCHITECTURE: where, seccomp.FIRST: first, seccomp.SECOND: second}
        at = word = 0
        while True:
            op, yes, no, k = struct.unpack_from("<HBBI", code, 8 * at)
            at += 1
            if op == seccomp.RETURN:
                return int(k)
            if op == seccomp.LOAD:
                word = data[k]
            else:
                holds = {seccomp.EQUAL: word == k, seccomp.ABOVE: word > k, seccomp.ANY_BIT: bool(word & k)}[op]
                at += yes if holds else no

    column = ("x86_64", "aarch64").index(arch)
    refused, unknown = seccomp.REFUSE | 1, seccomp.REFUSE | 38
    assert decide(0 if arch == "x86_64" else 63) == seccomp.ALLOW  # read
    assert {decide(n[column]) for n in seccomp.DENIED.values() if n[column] is not None} == {refused}
    assert decide(seccomp.CLONE[arch], 0x3D0F00) == seccomp.ALLOW  # as pthread_create asks
    assert decide(seccomp.CLONE[arch], 17) == refused  # as fork asks
    assert decide(seccomp.CLONE3) == decide(seccomp.LAST + 1) == decide(0x40000000) == unknown
    assert [decide(seccomp.KILL[arch], pid) for pid in (77, 1, 0xFFFFFFFF)] == [seccomp.ALLOW, refused, refused]
    assert [decide(seccomp.PRLIMIT[arch], pid) for pid in (0, 77, 1)] == [seccomp.ALLOW, seccomp.ALLOW, refused]
    assert [decide(seccomp.IOCTL[arch], 2, what) for what in (0x5401, 0x5412, 0x541C)] == [seccomp.ALLOW, refused, refused]
    assert decide(1, where=0x40000003) == seccomp.KILL_PROCESS  # a 32-bit call
