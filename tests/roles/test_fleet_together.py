"""A worker with a fleet in a network in memory: two jobs at once under one account, and a machine that dies under one of them."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fleet_fakes import FakeCluster, FakeHandle, real_place
from test_together import ended, settled, together
from tiny import Net, plan, post

from assay.adapters.engine_process import InlineEngine
from assay.adapters.fleet.driver import Fleet
from assay.adapters.fleet.messages import AnyNews, Begin, FleetTask, Told
from assay.adapters.fleet.place import version
from assay.client import run_plan
from assay.codec import Message
from assay.engine import Failure, StepDone
from assay.keyservice.daemon import key_service
from assay.runtime import TaskFailed
from assay_scheduler.daemon import scheduler
from assay_verifier.daemon import verifier
from assay_worker.daemon import worker


class HereFleet:
    """Implements assay.ports.Engine: the driver's own logic, without its process and without Ray."""

    def __init__(self, root: Path, cluster: FakeCluster) -> None:
        root.mkdir(parents=True)
        begin = Begin(address="10.0.0.1:6379", root=str(root), places=0, gpus=0, cores=2, threads=1, sandbox="off", must=False, disk=1 << 30)
        self.fleet, self.home = Fleet(begin, cluster, self._told, version()), InlineEngine()  # type: ignore[arg-type]
        self.driving = asyncio.create_task(self.fleet.run())
        self._asked: dict[int, tuple[Callable[[Message], None], asyncio.Future[Any]]] = {}

    def _told(self, news: AnyNews) -> None:
        if isinstance(news, Told):
            progress, result = self._asked[news.number]
            if isinstance(news.message, StepDone):
                progress(news.message)
            else:
                result.set_result(news.message)

    async def run(self, task: Message, folder: Path, progress: Callable[[Message], None]) -> Message:
        if not isinstance(task, FleetTask):
            return await self.home.run(task, folder, progress)
        number, result = len(self._asked), asyncio.get_running_loop().create_future()
        self._asked[number] = (progress, result)
        self.fleet.perform(number, task)
        found: Message = await result
        if isinstance(found, Failure):
            raise TaskFailed(found.fault, found.error)
        return found

    def expect(self, folder: Path) -> None:
        self.home.expect(folder)

    async def close(self) -> None:
        self.driving.cancel()
        await self.fleet.close()


def test_two_jobs_run_at_once_under_one_account_and_a_lost_machine_costs_neither(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = tmp_path / "places"
    places.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(places))
    monkeypatch.setattr("assay.adapters.fleet.driver.FIRST_PAUSE", 0.1)
    monkeypatch.setattr("assay.adapters.fleet.driver.LOOK_EVERY", 0.05)
    made: list[Any] = []

    def make(machine: str) -> FakeHandle:
        made.append(real_place("", tmp_path))
        return FakeHandle(made[-1], 5 if len(made) == 1 else None)

    async def play(net: Net) -> None:
        ports = net.make_ports("owner")
        fleet = HereFleet(ports.folder / "work", FakeCluster(["a", "b"], make))
        net.ports["owner"] = dataclasses.replace(ports, engine=fleet, places=2)
        await net.up("scheduler", scheduler, role="scheduler", offer_window=1)
        await net.up("keys", key_service, role="keyservice")
        await net.up("owner", worker, deposit=100_000, price_per_step=10)
        for i in range(3):
            await net.up(f"verifier{i}", verifier, role="verifier", deposit=100_000, seat=True)
        plans = {await post(net, what, 40): what for what in (plan(40, seed=1), plan(40, seed=2))}
        await net.until(lambda: all(ended(net, job) for job in plans))
        segments = {s.job: s for s in settled(net)}
        assert {job: s.end_root for job, s in segments.items()} == {job: run_plan(what).root for job, what in plans.items()}
        assert {s.provider for s in segments.values()} == {ports.chain.account}
        topics = [note.topic for who, note in net.notes if who == "owner" and note.topic in ("running", "run")]
        assert topics[:2] == ["running", "running"], "both before either was done"
        assert sum(handle.gone for handle in fleet.fleet.cluster.made) == 1  # type: ignore[attr-defined]
        assert not net.said("error", "owner")
        await fleet.close()

    together(tmp_path, play)
    os.close(made[0]._lock)  # as when its process ends
    asyncio.run(real_place("", tmp_path).close())
    assert not list(places.iterdir())
