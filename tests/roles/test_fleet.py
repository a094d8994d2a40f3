"""A fleet: which place takes what, what travels, what is taken up again, and where Ray may be. The places here are objects of this process
that are lost when a test says so; a cluster of real Ray nodes, one of which is killed, is in test_fleet_ray.py."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from fleet_fakes import FakeCluster, FakeHandle, real_place
from tiny import lay_out, plan

from assay.adapters.engine_process import InlineEngine
from assay.adapters.fleet import exposure, files
from assay.adapters.fleet.driver import Fleet, NotUsable
from assay.adapters.fleet.exposure import Listener, exposed
from assay.adapters.fleet.messages import AnyNews, Begin, FileFacts, Listing, News, PlaceFacts, PlaceTested, Told, Up
from assay.adapters.fleet.place import Place, version
from assay.adapters.fleet.placing import MOVES, PlaceId, Placing
from assay.client import Plan, run_plan
from assay.codec import Malformed, decode, encode
from assay.engine import Failure, LinksOpened, LinksRun, OpenLinks, RunLinks, StepDone
from assay.ids import Digest
from assay.runtime import Fault
from assay.state import state_root

STEPS = 30
PLAN = plan(STEPS)
A, B, C = PlaceId("a"), PlaceId("b"), PlaceId("c")


# ---- placing -------------------------------------------------------------------------------------------------------------


def placing(*places: PlaceId) -> Placing:
    made = Placing()
    for place in places:
        made.up(place)
    return made


def test_runs_go_to_different_places_and_wait_when_all_have_one() -> None:
    fleet = placing(A, B)
    for number in (1, 2, 3):
        fleet.asked(number, f"segment-{number}", run=True)
    assert fleet.next() == [(1, A), (2, B)]
    assert fleet.next() == []
    fleet.done(2)
    assert fleet.next() == [(3, B)]


def test_a_drawn_link_is_served_beside_a_run_where_the_files_are() -> None:
    fleet = placing(A, B)
    fleet.asked(1, "segment-1", run=True)
    fleet.asked(2, "segment-2", run=True)
    fleet.next()
    fleet.done(2)
    fleet.asked(3, "segment-1", run=False)
    fleet.asked(4, "segment-1", run=False)
    assert fleet.next() == [(3, A), (4, B)]  # a third one at the same place would wait for hours


def test_links_are_replayed_in_parallel() -> None:
    fleet = placing(A, B)
    for number in range(5):
        fleet.asked(number, f"segment-{number}", run=False)
    assert [place for _, place in fleet.next()] == [A, B, A, B]


def test_what_a_lost_place_did_comes_first_and_is_given_up_in_the_end() -> None:
    fleet = placing(A)
    fleet.asked(1, "segment-1", run=True)
    fleet.next()
    fleet.asked(2, "segment-2", run=True)
    for _ in range(MOVES - 1):
        assert fleet.lost(A) == []
        fleet.up(A)
        assert fleet.next() == [(1, A)]
    assert fleet.lost(A) == [1]
    fleet.up(A)
    assert fleet.next() == [(2, A)]


def test_what_failed_at_a_place_is_tried_at_another() -> None:
    fleet = placing(A, B)
    fleet.asked(1, "segment-1", run=True)
    assert fleet.next() == [(1, A)]
    fleet.done(1, failed=True)
    fleet.asked(2, "segment-1", run=True)
    assert fleet.next() == [(2, B)]


# ---- exposure ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "addresses", "open_to"),
    [
        ("0.0.0.0", ["127.0.0.1", "10.0.0.5"], []),
        ("0.0.0.0", ["127.0.0.1", "10.0.0.5", "8.8.4.4"], ["8.8.4.4"]),
        ("::", ["127.0.0.1", "8.8.4.4"], ["8.8.4.4"]),  # a wildcard of IPv6 takes IPv4, too
        ("::", ["::1", "fe80::1%eth0", "fd00::1", "2a00:1450::1"], ["2a00:1450::1"]),
        ("0.0.0.0", ["2a00:1450::1", "192.168.1.2", "100.64.0.9"], []),
        ("10.0.0.5", ["10.0.0.5", "8.8.4.4"], []),
        ("::ffff:127.0.0.1", ["8.8.4.4"], []),
        ("8.8.4.4", [], ["8.8.4.4"]),
    ],
)
def test_a_socket_is_exposed_where_the_world_routes_to_one_of_its_addresses(host: str, addresses: list[str], open_to: list[str]) -> None:
    found = exposed([Listener(host, 6379, "gcs_server")], addresses)
    assert found == [f"gcs_server listens on {address} port 6379" for address in open_to]


def test_on_one_machine_nothing_but_the_loopback_will_do() -> None:
    listeners = [Listener("127.0.0.1", 1, "raylet"), Listener("10.0.0.5", 2, "raylet"), Listener("::ffff:127.0.0.1", 3, "raylet")]
    assert exposed(listeners, [], loopback_only=True) == ["raylet listens on 10.0.0.5 port 2"]


def process(pid: int, command: list[str], *sockets: tuple[str, int, str], error: Exception | None = None) -> Any:
    def connections(kind: str) -> list[Any]:
        if error:
            raise error
        return [SimpleNamespace(laddr=SimpleNamespace(ip=host, port=port), status=status) for host, port, status in sockets]

    return SimpleNamespace(pid=pid, cmdline=lambda: command, name=lambda: Path(command[0]).name, net_connections=connections)


def test_the_sockets_that_ray_listens_on_are_found_and_no_others() -> None:
    found = exposure.of_ray(
        [
            process(1, ["/x/site-packages/ray/core/src/ray/gcs/gcs_server", "--log"], ("::", 6379, "LISTEN"), ("10.0.0.1", 40000, "ESTABLISHED")),
            process(2, ["python", "-u", "/x/site-packages/ray/dashboard/agent.py"], ("0.0.0.0", 52365, "LISTEN")),
            process(3, ["ray::Place", ""], ("0.0.0.0", 10002, "LISTEN")),
            process(4, ["/usr/sbin/sshd"], ("0.0.0.0", 22, "LISTEN")),
            process(7, ["python", "/home/ray/server.py"], ("0.0.0.0", 80, "LISTEN")),
            process(5, ["ray::IDLE"], error=psutil.NoSuchProcess(5)),
            process(6, []),
        ]
    )
    assert found == [Listener("::", 6379, "gcs_server"), Listener("0.0.0.0", 52365, "python"), Listener("0.0.0.0", 10002, "ray::Place")]


@pytest.mark.parametrize(
    ("address", "why"), [("8.8.4.4:6379", "routes to"), ("[2a00:1450::1]:6379", "routes to"), ("10.0.0.1", "HOST:PORT"), ("a:0", "HOST:PORT")]
)
def test_a_head_is_not_attached_to_over_the_world(address: str, why: str) -> None:
    assert why in exposure.refused_address(address)
    assert not exposure.refused_address("10.0.0.1:6379")
    assert not exposure.refused_address("gpu-tower:6379")


# ---- files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../keys/password", "/etc/passwd", "a/../b", "segment-1/../../keys", "segment-1", "segment-1/a/b", "segment-1/.a", "", "A/b"]
)
def test_a_name_leads_nowhere_but_into_a_folder_below_the_root(tmp_path: Path, name: str) -> None:
    with pytest.raises(files.BadFile):
        files.write_piece(tmp_path, name, 0, b"x")
    with pytest.raises(files.BadFile):
        files.read_piece(tmp_path, name, 0)
    with pytest.raises(Malformed):
        decode(encode(Listing(files=(FileFacts(name=name, size=1, digest=Digest(b"d" * 32)),))), Listing)


def test_a_file_takes_its_name_only_when_it_is_the_one_that_was_announced(tmp_path: Path) -> None:
    (tmp_path / "segment-1").mkdir()
    (tmp_path / "segment-1" / "steps.bin").write_bytes(b"right")
    facts = files.Digests(tmp_path).of("segment-1/steps.bin")
    there = tmp_path / "there"
    there.mkdir()
    for data in (b"wrong", b"righ", b"right!"):
        files.write_piece(there, "segment-1/steps.bin", 0, data)
        with pytest.raises(files.BadFile):
            files.arrived(there, facts)
        assert not (there / "segment-1" / "steps.bin").exists()
    files.write_piece(there, "segment-1/steps.bin", 0, b"rig")
    files.write_piece(there, "segment-1/steps.bin", 3, b"ht")
    files.arrived(there, facts)
    assert (there / "segment-1" / "steps.bin").read_bytes() == b"right"


def test_links_are_not_followed_out_of_a_segment(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"key")
    run = task(tmp_path)
    (tmp_path / "segment-1" / "state-1.safetensors").symlink_to(tmp_path / "secret")
    assert files.named(tmp_path, "segment-1", files.coming(run)) == ["segment-1/state-0.safetensors"]


# ---- a driver's places ---------------------------------------------------------------------------------------------------


def task(root: Path, segment: str = "segment-1", made: Plan = PLAN) -> RunLinks:
    job = lay_out(root, made)
    if segment != "segment-1":
        shutil.copytree(root / "segment-1", root / segment)
    return RunLinks(job=job, segment=segment, start=0, stop=len(made.schedule), parent_root=state_root(0, made.state), keep=1 << 20)


@dataclasses.dataclass
class World:
    """A driver with places that die as `deaths` says, in the order in which they are made; `told` is what the daemon would hear."""

    home: Path
    cluster: FakeCluster
    fleet: Fleet
    told: list[AnyNews]
    driving: asyncio.Task[None]

    async def until(self, right: Callable[[], bool]) -> None:
        end = time.monotonic() + 240
        while time.monotonic() < end:
            if right():
                return
            if self.driving.done():
                self.driving.result()
            await asyncio.sleep(0.005)
        raise AssertionError(f"it did not come to that: {[news for news in self.told if isinstance(news, News)]}")

    def steps(self) -> list[int]:
        return [news.message.step for news in self.told if isinstance(news, Told) and isinstance(news.message, StepDone)]

    def result(self, number: int = 1) -> Any:
        found = [news.message for news in self.told if isinstance(news, Told) and news.number == number and not isinstance(news.message, StepDone)]
        return found[0] if found else None


def play(tmp_path: Path, story: Callable[[World], Any], address: str = "10.0.0.1:6379", deaths: tuple[int | None, ...] = (), **changes: Any) -> None:
    home = tmp_path / "home"
    home.mkdir()
    places: list[Place] = []

    def make(machine: str) -> FakeHandle:
        places.append(changes["make"](machine) if "make" in changes else real_place(address, home))
        return FakeHandle(places[-1], deaths[len(places) - 1] if len(places) <= len(deaths) else None)

    async def run() -> None:
        disk, tested = changes.get("disk", 1 << 30), changes.get("tested", False)
        begin = Begin(
            address=address, root=str(home), places=0, gpus=0, cores=2, threads=1, sandbox="off", must=False, disk=disk, tested=tested
        )  # fmt: skip
        cluster, told = FakeCluster(["a", "b"], make), []  # type: ignore[var-annotated]
        fleet = Fleet(begin, cluster, told.append, version())  # type: ignore[arg-type]
        world = World(home, cluster, fleet, told, asyncio.create_task(fleet.run()))
        try:
            await story(world)
        finally:
            world.driving.cancel()
            await fleet.close()

    try:
        asyncio.run(run())
    finally:
        for place in places:
            if isinstance(place, Place) and place.root.exists() and place.root != home:
                os.close(place._lock)  # it was killed
        if any(isinstance(place, Place) for place in places):
            asyncio.run(real_place("", home).close())
        assert not list(Path(tempfile.gettempdir()).iterdir()), "a place leaves nothing behind, or the next one removes it"


@pytest.fixture(autouse=True)
def own_places(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Places of other machines make their folders here."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("places")))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("address", ["local", "10.0.0.1:6379"])
def test_a_segment_at_a_place_is_the_same_segment_and_all_of_it_comes_home(tmp_path: Path, address: str) -> None:
    asyncio.run(InlineEngine().run(task(tmp_path / "alone"), tmp_path / "alone", lambda _: None))

    async def story(world: World) -> None:
        await world.until(lambda: any(isinstance(news, Up) and news.places == 2 for news in world.told))
        run = task(world.home)
        world.fleet.perform(1, run)
        await world.until(lambda: world.result() is not None)
        assert isinstance(world.result(), LinksRun)
        assert world.result().end_root == run_plan(PLAN).root
        assert world.steps() == list(range(STEPS))
        assert contents(world.home / "segment-1") == contents(tmp_path / "alone" / "segment-1")
        fields = {name: getattr(run, name) for name in ("job", "segment", "start", "stop", "parent_root", "keep")}
        before = len(world.cluster.made[0].calls)
        world.fleet.perform(2, OpenLinks(**fields, units=(7, 8)))
        await world.until(lambda: world.result(2) is not None)
        assert isinstance(world.result(2), LinksOpened)
        assert world.result(2).link_root == world.result().link_root
        assert {"boundary-7.safetensors", "boundary-8.safetensors"} < {path.name for path in (world.home / "segment-1").iterdir()}
        assert "put" not in world.cluster.made[0].calls[before:]  # it went where the files were

    play(tmp_path, story, address)


@pytest.mark.parametrize("address", ["local", "10.0.0.1:6379"])
def test_a_lost_place_costs_a_resume_and_not_a_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr("assay.adapters.fleet.errands.SHARE", float("inf"))  # each state comes home

    async def story(world: World) -> None:
        await world.until(lambda: any(isinstance(news, Up) for news in world.told))
        world.fleet.perform(1, task(world.home))
        await world.until(lambda: world.result() is not None)
        assert isinstance(world.result(), LinksRun)
        assert world.result().end_root == run_plan(PLAN).root
        assert world.result().computed <= STEPS - 7  # in the same folder its engine may have done more than it has told
        assert set(range(7)) < set(world.steps())
        assert world.cluster.killed == [world.cluster.made[0]]
        assert any(isinstance(news, News) and "is lost" in news.text for news in world.told)

    play(tmp_path, story, address, deaths=(7,))


def test_a_run_at_another_machine_ends_after_its_step_when_the_daemon_says_so(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.fleet.perform(1, run := task(world.home, made=plan(2000)))
        await world.until(lambda: len(world.steps()) > 2)
        (world.home / run.segment / "stop").touch()
        await world.until(lambda: world.result() is not None)
        assert 2 < world.result().stop < 2000

    play(tmp_path, story)


def test_segments_run_at_once_at_different_places(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        for number, segment in ((1, "segment-1"), (2, "segment-2")):
            world.fleet.perform(number, task(world.home, segment))
        await world.until(lambda: world.result(1) is not None and world.result(2) is not None)
        assert world.result(1).end_root == world.result(2).end_root == run_plan(PLAN).root
        assert all("lacks" in handle.calls for handle in world.cluster.made)

    play(tmp_path, story)


def test_what_is_given_up_is_ended_and_what_is_dropped_at_home_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assay.adapters.fleet.driver.KEEP_EVERY", 0.0)
    monkeypatch.setattr("assay.adapters.fleet.driver.LOOK_EVERY", 0.02)

    async def story(world: World) -> None:
        world.fleet.perform(1, task(world.home, made=plan(100_000)))
        await world.until(lambda: bool(world.steps()))
        await world.fleet.give_up(1)
        shutil.rmtree(world.home / "segment-1")
        assert any("give_up" in handle.calls for handle in world.cluster.made)
        world.fleet.perform(2, task(world.home))
        await world.until(lambda: world.result(2) is not None)
        root = next(handle.place.root for handle in world.cluster.made if "arrived" in handle.calls)
        assert (root / "segment-1").exists()
        shutil.rmtree(world.home / "segment-1")
        await world.until(lambda: not (root / "segment-1").exists())
        assert world.result(1) is None

    play(tmp_path, story, make=lambda machine: Place("", 1, "off", 1 << 30, 1))  # with engines that can be ended


def test_a_place_that_answers_garbage_is_ended_and_another_goes_on(tmp_path: Path) -> None:
    class Liar(Place):
        async def made(self, task: bytes) -> bytes:
            return encode(Listing(files=(FileFacts(name="keys/password", size=1, digest=Digest(b"d" * 32)),)))

    machines: list[str] = []

    def make(machine: str) -> Place:
        machines.append(machine)
        made = (Liar if len(machines) == 1 else Place)("", 1, "off", 1 << 30, 1)
        made.engine = InlineEngine()  # type: ignore[assignment]
        return made

    async def story(world: World) -> None:
        await world.until(lambda: any(isinstance(news, Up) for news in world.told))
        world.fleet.perform(1, task(world.home))
        await world.until(lambda: world.result() is not None)
        assert world.result().end_root == run_plan(PLAN).root
        assert any(isinstance(news, News) and "answers garbage: 'keys/password' is not made by RunLinks" in news.text for news in world.told)

    play(tmp_path, story, make=make)


def test_a_place_that_sends_more_than_there_is_room_for_is_ended(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.fleet.perform(1, task(world.home))
        await world.until(lambda: any(isinstance(news, News) and "there is room for 100" in news.text for news in world.told))

    play(tmp_path, story, disk=100)


class Facts:
    """A place that only says what it is."""

    def __init__(self, **changes: Any) -> None:
        fields = {"version": version(), "host": "tower", "device": "", "sandbox": "kernel", "refused": "", "exposed": ()}
        self.said = PlaceFacts(**{**fields, **changes})  # type: ignore[arg-type]

    async def facts(self) -> bytes:
        return encode(self.said)

    async def tested(self) -> bytes:
        return encode(PlaceTested(why="case exp-17 (avx2, 1 thread): element [3]"))

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, "tower has not passed the conformance suite: case exp-17"),
        ({"exposed": ("raylet listens on 8.8.4.4 port 9",)}, "Ray on tower takes orders from the world: raylet listens on 8.8.4.4 port 9"),
        ({"version": "assay 9, Python 9"}, "it has assay 9, Python 9, and this node"),
    ],
)
def test_no_fleet_of_exposed_or_other_machines(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    async def story(world: World) -> None:
        with pytest.raises(NotUsable) as refused:
            await asyncio.wait_for(world.driving, 240)
        assert why in refused.value.why
        assert world.cluster.killed

    play(tmp_path, story, make=lambda machine: Facts(**changes), tested=True)


def test_a_task_that_no_place_survives_fails_by_this_nodes_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assay.adapters.fleet.driver.FIRST_PAUSE", 0.0)
    monkeypatch.setattr("assay.adapters.fleet.driver.LOOK_EVERY", 0.02)

    async def story(world: World) -> None:
        world.fleet.perform(1, task(world.home))
        await world.until(lambda: world.result() is not None)
        assert isinstance(world.result(), Failure)
        assert world.result().fault is Fault.OWN
        assert "lost each place that tried it" in world.result().error

    play(tmp_path, story, deaths=(0,) * 20)
