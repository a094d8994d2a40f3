"""How a node begins and ends: a machine works only when its arithmetic was tested, and who is told to end hands over what others wait for."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from assay.adapters import tested
from assay.adapters.fleet import exposure
from assay.cli import doctor, fleet, leaving
from assay.cli.common import Trouble
from assay.cli.folder import Lock
from assay.cli.leaving import Leaving, owed
from assay.runtime import Note
from assay_worker.state import BUSY


def worker(*segments: tuple[int, str, str], **more: Any) -> dict[str, Any]:
    return {"segments": [{"segment": n, "phase": phase, "state": state} for n, phase, state in segments], "chain_reachable": True, **more}


@pytest.mark.parametrize(
    ("role", "status", "left"),
    [
        ("worker", worker(), []),
        ("worker", worker((1, "running", "active"), (2, "lost", "active")), ["segment 1 is running"]),
        ("worker", worker((1, "committed", "drawn"), (2, "committed", "committed")), ["segment 1 is drawn", "segment 2 is committed"]),
        ("worker", worker((1, "committed", "served"), (2, "committed", "attested")), []),  # whoever is owed something can go on with it
        ("worker", worker((1, "running", "active"), chain_reachable=False), []),
        ("verifier", {"duties": [{"segment": 4, "phase": "sealed"}, {"segment": 5, "phase": "opened"}]}, ["segment 4 is sealed"]),
        ("verifier", {"duties": [{"segment": 4, "phase": "gathering"}]}, []),  # nothing is signed yet
        ("scheduler", worker((1, "running", "active")), []),
        ("worker", {"segments": "what another version wrote", "chain_reachable": True}, []),
    ],
)
def test_what_is_owed(role: str, status: dict[str, Any], left: list[str]) -> None:
    found = owed(role, status)
    assert len(found) == len(left)
    assert all(part in whole for part, whole in zip(left, found, strict=True))


class Daemon:
    """What a signal finds: one status after the other, the last one for ever."""

    def __init__(self, role: str, *statuses: dict[str, Any], grace: float = 600.0) -> None:
        self.statuses, self.did, self.said = list(statuses), [], []  # type: ignore[var-annotated]
        self.ended = asyncio.Event()
        self.leaving = Leaving(role, self.status, self.order, self.stop, self.note, grace)

    def status(self) -> dict[str, Any]:
        return self.statuses.pop(0) if len(self.statuses) > 1 else dict(self.statuses[0])

    def order(self, order: str) -> None:
        self.did.append(order)

    def stop(self) -> None:
        self.did.append("stop")
        self.ended.set()

    def note(self, note: Note) -> None:
        self.said.append((note.topic, note.text))


def told(make: Callable[[], Daemon], signals: int = 1) -> Daemon:
    async def go() -> Daemon:
        daemon = make()
        for _ in range(signals):
            daemon.leaving.asked()
        await daemon.ended.wait()
        daemon.leaving.over()
        return daemon

    return asyncio.run(go())


def test_a_worker_that_is_told_to_end_commits_and_serves_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaving, "LOOK_EVERY", 0)
    way = [("running", "active"), ("copying", "active"), ("committing", "active"), ("committed", "drawn"), ("committed", "served")]
    states = [worker((1, phase, state)) for phase, state in way]
    found = told(lambda: Daemon("worker", *states))
    assert found.did == ["drain", "stop"]
    assert found.statuses == states[4:]  # not before the last one
    ((topic, text),) = found.said
    assert topic == "leaving"
    assert "segment 1 is running" in text


def test_no_phase_of_a_worker_is_forgotten() -> None:
    assert set(leaving.UNFINISHED) == {"queued", *BUSY}


def test_who_is_told_twice_ends_at_once() -> None:
    assert told(lambda: Daemon("worker", worker((1, "running", "active"))), signals=2).did == ["stop"]


def test_what_cannot_be_handed_over_in_time_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaving, "LOOK_EVERY", 0)
    found = told(lambda: Daemon("worker", worker((7, "committed", "committed")), grace=0.0))
    assert found.did == ["drain", "stop"]
    assert [topic for topic, _ in found.said] == ["left"]
    assert "segment 7" in found.said[0][1]
    quick = told(lambda: Daemon("scheduler", worker()))
    assert (quick.did, quick.said) == (["stop"], [])


# ---- ports -----------------------------------------------------------------------------------------------------------------


def test_a_port_that_a_node_had_and_another_program_has_now_is_named(tmp_path: Path) -> None:
    assert doctor.ports(tmp_path).good is not False  # it has had none
    (tmp_path / "peers").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for gateway, listen in ((str(port), "[]"), ("what?", f'["/ip4/127.0.0.1/tcp/{port}"]'), ("", '["/ip4/127.0.0.1/tcp/x"]'), ("", "{torn")):
            (tmp_path / "gateway-port").write_text(gateway)
            (tmp_path / "peers" / "listen.json").write_text(listen)
            found = doctor.ports(tmp_path)
            assert (found.good is False) == (str(port) in gateway + listen)
            assert (str(port) in found.detail) == (found.good is False)
        with Lock(tmp_path)._file:  # a node runs there: they are its own
            (tmp_path / "gateway-port").write_text(str(port))
            assert doctor.ports(tmp_path).good is not False


@pytest.mark.parametrize(("addresses", "good"), [(["127.0.0.1", "192.168.1.5", "fe80::1%eth0"], None), (["10.0.0.1", "2a00:1450::1"], True)])
def test_a_machine_that_nobody_can_call_says_what_its_router_must_do(
    addresses: list[str], good: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exposure, "here", lambda: addresses)
    found = doctor.ports(tmp_path)
    assert found.good is good
    assert ("2a00:1450::1" in found.detail) == (good is True)
    assert ("forward" in found.next) == (good is None)


# ---- arithmetic ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path))
    return tmp_path


def test_the_suite_is_run_once_for_a_machine_and_again_when_it_has_changed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []

    async def suite() -> str:
        runs.append(1)
        return ""

    monkeypatch.setattr(tested, "suite", suite)
    said: list[str] = []
    for library in ("/a/exact-avx2-1.so", "/b/exact-avx2-1.so", "/a/exact-avx2-2.so", ""):
        asyncio.run(tested.admit(library, lambda note: said.append(note.topic)))
    assert len(runs) == 3  # the same library at another place is the same
    assert said == ["testing", "tested"] * 3
    monkeypatch.setattr(tested, "version", lambda name: "9.9")
    asyncio.run(tested.admit("", lambda note: None))
    assert len(runs) == 4
    assert len(list(cache.iterdir())) == 4


def test_a_machine_that_does_not_pass_does_not_work_and_is_tested_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def suite() -> str:
        return "case exp-17 (avx2, 1 thread): element [3] is 0x1, must be 0x2"

    monkeypatch.setattr(tested, "suite", suite)
    for _ in range(2):
        with pytest.raises(Trouble, match="must not work") as caught:
            asyncio.run(fleet.admit("", lambda note: None))
        assert "exp-17" in caught.value.why
        assert "--untested" in caught.value.next
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("raise SystemExit(0)", ""),
        (
            "print('{\"routes\": [{\"route\": \"avx2\", \"failed\": [{\"what\": \"exp\", \"where\": \"element 3\"}]}]}'); raise SystemExit(1)",
            "exp (avx2): element 3",
        ),
        ("raise RuntimeError('no such instruction')", "no such instruction"),
        ("print('[1]'); raise SystemExit(4)", "status 4"),
        ("import os; raise SystemExit('ASSAY_PASSWORD' in os.environ)", ""),
    ],
)
def test_what_the_suite_says_is_read(script: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "assay"
    (package / "cli").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "cli" / "__init__.py").touch()
    (package / "cli" / "__main__.py").write_text(script)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tested, "python_path", lambda: str(tmp_path))
    monkeypatch.setenv("ASSAY_PASSWORD", "SECRET")
    found = asyncio.run(tested.suite())
    assert why in found
    assert bool(why) == bool(found)
