"""The daemon's side of a fleet, against drivers made for the test: it sends again what a dead driver was doing, and believes nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import lay_out, plan

from assay.adapters import sandbox
from assay.adapters.engine_process import InlineEngine, ProcessEngine
from assay.adapters.fleet import engine as fleet_engine
from assay.adapters.fleet.engine import FleetEngine, FleetTrouble
from assay.adapters.fleet.messages import Begin, News
from assay.adapters.meters import Metered
from assay.cli.common import USAGE, Trouble
from assay.cli.fleet import Rays, open_engine
from assay.cli.node import Options
from assay.engine import CheckFile, FileChecked, LinksRun, RunLinks
from assay.runtime import Fault, TaskFailed
from assay.state import state_root

PLAN = plan(3)
HEAD = """
import asyncio, json, os, sys
from pathlib import Path
from assay.adapters.fleet.messages import AnyOrder, Begin, News, Perform, GiveUp, Told, Unusable, Up
from assay.codec import decode, encode
log = Path(LOG)
log.write_text(log.read_text() + "driver\\n" if log.exists() else "driver\\n")
count = log.read_text().count("driver")
begin = decode(sys.stdin.buffer.readline().rstrip(b"\\n"), Begin)
def tell(news):
    sys.stdout.buffer.write((news if isinstance(news, bytes) else encode(news)) + b"\\n"); sys.stdout.flush()
def orders():
    for line in sys.stdin.buffer:
        yield decode(line.rstrip(b"\\n"), AnyOrder, 1 << 25)
def work(order):
    from assay.work import Engine
    result = Engine(Path(begin.root)).perform(order.task, lambda step: tell(Told(number=order.number, message=step)))
    tell(Told(number=order.number, message=result))
"""


class Scripted(FleetEngine):
    """With a driver that is a script."""

    script = ""

    def _command(self) -> list[str]:
        return [sys.executable, "-c", HEAD.replace("LOG", repr(str(self._log) + ".drivers")) + self.script]


def play(tmp_path: Path, script: str, story: Callable[[Scripted, list[News]], Any]) -> int:
    """How many drivers there were."""
    root = tmp_path / "work"
    root.mkdir()
    begin = Begin(address="10.0.0.1:6379", root=str(root), places=0, gpus=0, cores=1, threads=1, sandbox="off", must=False, disk=1 << 30)

    async def run() -> None:
        engine, news = Scripted(begin, InlineEngine(), None, tmp_path / "fleet.log"), []  # type: ignore[var-annotated]
        engine.script, engine.on_news = script, news.append
        try:
            await story(engine, news)
        finally:
            await engine.close()

    asyncio.run(run())
    return (tmp_path / "fleet.log.drivers").read_text().count("driver")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_engine, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(fleet_engine, "LAST_PAUSE", 0.01)


def segment(root: Path) -> RunLinks:
    return RunLinks(job=lay_out(root, PLAN), segment="segment-1", start=0, stop=3, parent_root=state_root(0, PLAN.state), keep=1 << 20)


def test_a_task_goes_to_the_driver_and_what_needs_no_place_stays_at_home(tmp_path: Path) -> None:
    async def story(engine: Scripted, news: list[News]) -> None:
        assert await engine.start() == 2
        steps: list[object] = []
        root = tmp_path / "work"
        done = await engine.run(segment(root), root, steps.append)
        assert isinstance(done, LinksRun)
        assert len(steps) == 3
        checked = await engine.run(CheckFile(folder="job-1", memory=1 << 30, flops=1 << 40), root, steps.append)
        assert isinstance(checked, FileChecked)
        assert [n.text for n in news] == ["hello"]

    script = "tell(News(topic='place', text='hello')); tell(Up(places=2))\nfor order in orders(): assert order.task.stop; work(order)"
    assert play(tmp_path, script, story) == 1


def test_what_a_dead_driver_did_the_next_one_is_told(tmp_path: Path) -> None:
    async def story(engine: Scripted, news: list[News]) -> None:
        await engine.start()
        root = tmp_path / "work"
        assert isinstance(await engine.run(segment(root), root, lambda _: None), LinksRun)
        assert any("the fleet is away: its driver ended" in n.text for n in news)

    script = "tell(Up(places=1))\nfor order in orders():\n    if count == 1: os._exit(1)\n    work(order)"
    assert play(tmp_path, script, story) == 2


def test_a_task_that_no_driver_survives_fails_by_this_nodes_fault(tmp_path: Path) -> None:
    async def story(engine: Scripted, news: list[News]) -> None:
        await engine.start()
        root = tmp_path / "work"
        with pytest.raises(TaskFailed, match="the fleet is away") as failed:
            await engine.run(segment(root), root, lambda _: None)
        assert failed.value.fault is Fault.OWN

    assert play(tmp_path, "tell(Up(places=1))\nfor order in orders(): os._exit(1)", story) >= fleet_engine.DRIVERS


@pytest.mark.parametrize(
    "garbage",
    [
        "b'hello'",
        "b'{\"places\": 2, \"type\": \"Up\"}'",
        "b'x' * (1 << 25)",
        'encode({"message": {"computed": 1, "type": "LinksRun", "state": "../keys/password"}, "number": 1, "type": "Told"})',
    ],
)
def test_a_driver_that_says_garbage_is_ended_and_another_started(tmp_path: Path, garbage: str) -> None:
    async def story(engine: Scripted, news: list[News]) -> None:
        await engine.start()
        root = tmp_path / "work"
        assert isinstance(await engine.run(segment(root), root, lambda _: None), LinksRun)
        assert any("garbage" in n.text for n in news)

    script = f"tell(Up(places=1))\nfor order in orders():\n    if count == 1: tell({garbage}); sys.stdin.read()\n    else: work(order)"
    assert play(tmp_path, script, story) == 2


def test_a_ray_that_is_not_used_keeps_the_daemon_from_starting(tmp_path: Path) -> None:
    async def story(engine: Scripted, news: list[News]) -> None:
        with pytest.raises(FleetTrouble) as refused:
            await engine.start()
        assert (refused.value.why, refused.value.advice) == ("Ray takes orders from the world", "move it")

    assert play(tmp_path, "tell(Unusable(why='Ray takes orders from the world', advice='move it'))", story) == 1


def test_a_cancelled_task_is_given_up_and_no_password_reaches_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_PASSWORD", "secret")

    async def story(engine: Scripted, news: list[News]) -> None:
        await engine.start()
        root = tmp_path / "work"
        running = asyncio.create_task(engine.run(segment(root), root, lambda _: None))
        while not news:  # noqa: ASYNC110 (a driver of another process tells)
            await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        while len(news) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert [n.text for n in news] == ["Perform 1 none", "GiveUp 1 none"]

    text = "f\"{type(order).__name__} {order.number} {os.environ.get('ASSAY_PASSWORD', 'none')}\""
    script = f"tell(Up(places=1))\nfor order in orders(): tell(News(topic='t', text={text}))"
    play(tmp_path, script, story)


# ---- the command line ----------------------------------------------------------------------------------------------------


def opened(folder: Path, rays: Rays | None) -> tuple[object, int]:
    async def run() -> tuple[object, int]:
        async with contextlib.AsyncExitStack() as stack:
            return await open_engine(Options(ray=rays), folder, None, False, lambda note: None, stack, ready=False, template=None)

    return asyncio.run(run())


def test_without_a_fleet_one_segment_is_run_at_once(tmp_path: Path) -> None:
    engine, places = opened(tmp_path, Rays.of("", "", 0))
    assert isinstance(engine, Metered)
    assert isinstance(engine.engine, ProcessEngine)
    assert places == 1


@pytest.mark.parametrize(("through", "places"), [("", 2), ("nsenter", 0)])
def test_places_without_a_fleet_are_a_mistake(through: str, places: int) -> None:
    with pytest.raises(Trouble) as refused:
        Rays.of("", through, places)
    assert refused.value.code == USAGE


def test_a_fleet_that_cannot_be_used_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(kind: str = "auto", disk: int = 0) -> None:
        raise sandbox.NoSandbox("bwrap is not installed")

    monkeypatch.setattr(sandbox, "choose", none)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with pytest.raises(Trouble) as refused:
        opened(tmp_path, Rays.of("local", "", 1))
    assert refused.value.next == "apt install bubblewrap"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Trouble) as refused:
        opened(tmp_path, Rays.of("local", "", 1))
    assert refused.value.next == "pip install 'assay[fleet]'"
