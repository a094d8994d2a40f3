"""`python -m assay.adapters.fleet.driver`: the process that attaches to Ray for a daemon, and has none of its keys.

Orders come over stdin, news go over stdout (assay.adapters.fleet.messages). It keeps as many places up as the fleet's machines have room for,
puts tasks on them, and takes up again elsewhere what a lost one was doing. It ends with its stdin, and Ray with it, where it has started Ray.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from assay.adapters.fleet import exposure, files
from assay.adapters.fleet.errands import Errand, Handle, PlaceLost
from assay.adapters.fleet.messages import (
    LOCAL,
    MAX_LINE,
    AnyNews,
    AnyOrder,
    Begin,
    FleetTask,
    GiveUp,
    News,
    Perform,
    PlaceFacts,
    PlaceTested,
    Told,
    Unusable,
    Up,
)
from assay.adapters.fleet.placing import PlaceId, Placing
from assay.codec import Malformed, decode, encode
from assay.engine import Failure, RunLinks
from assay.runtime import Fault

LOOK_EVERY = 2.0
"""Seconds between looks at which machines there are."""
KEEP_EVERY = 10.0
"""Seconds between looks at which segments are still there at home."""
FIRST_PAUSE, LAST_PAUSE = 2.0, 120.0
"""Seconds until a place that did not come up, or was refused, is tried again; doubling."""
CLOSE_WITHIN, END_WITHIN = 10.0, 20.0
"""Seconds for places to end their engines, and for all of Ray to end."""
NOBODY = 600.0
"""Seconds without any place after which what waits is given up."""


class NotUsable(Exception):
    """This Ray is not used: why, and what its owner can do."""

    def __init__(self, why: str, advice: str) -> None:
        super().__init__(why)
        self.why, self.advice = why, advice


class Node(NamedTuple):
    """A machine of the fleet, and how many places it has room for."""

    id: str
    address: str
    places: int
    gpus: bool = False


class Cluster(Protocol):
    """What the driver wants of Ray (assay.adapters.fleet.cluster)."""

    def nodes(self) -> list[Node]: ...

    async def place(self, node: Node) -> Handle:
        """Raises PlaceLost."""

    def kill(self, handle: Handle) -> None: ...

    def close(self) -> None: ...


class Fleet:
    """`await run()` for ever; orders by `perform` and `give_up`; `tell` gets the news. `own`: what this very place's version is."""

    def __init__(self, begin: Begin, cluster: Cluster, tell: Callable[[AnyNews], None], own: str) -> None:
        self.begin, self.cluster, self.tell, self.own = begin, cluster, tell, own
        self.root, self.local = Path(begin.root), begin.address == LOCAL
        self.placing = Placing()
        self._digests = files.Digests(self.root)
        self._handles: dict[PlaceId, Handle] = {}
        self._nodes: dict[PlaceId, str] = {}
        self._starting: dict[PlaceId, asyncio.Task[None]] = {}
        self._pauses: dict[PlaceId, tuple[float, float]] = {}
        """Until when a place is not tried again, and how long it was not."""
        self._tasks: dict[int, FleetTask] = {}
        self._errands: dict[int, asyncio.Task[None]] = {}
        self._up = self._closed = False
        self._refused = "no machine of this Ray has room for a place"
        self._folders: list[str] = []
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # ---- orders ------------------------------------------------------------------------------------------------------------

    def perform(self, number: int, task: FleetTask) -> None:
        self._tasks[number] = task
        self.placing.asked(number, task.segment, isinstance(task, RunLinks))
        self._go_on()

    async def give_up(self, number: int) -> None:
        self._tasks.pop(number, None)
        place, errand = self.placing.where(number), self._errands.pop(number, None)
        if errand is not None:
            errand.cancel()
        if place is not None:
            try:
                await self._handles[place].call("give_up", number)
            except PlaceLost as error:
                self._lost(place, str(error))
        self.placing.done(number)
        self._go_on()

    # ---- places ------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Raises NotUsable when Ray can be reached from outside, or has no place to begin with."""
        loop = asyncio.get_running_loop()
        next_keep, alone_since = 0.0, loop.time()
        while not self._ended.done():
            nodes = await asyncio.to_thread(self.cluster.nodes)
            self._match(nodes, loop.time())
            now = loop.time()
            if self.placing.places or not self.placing.queue:
                alone_since = now
            elif now - alone_since > NOBODY:
                self._fail_waiting()
            if now >= next_keep:
                next_keep = now + KEEP_EVERY
                await self._keep()
            await asyncio.wait([self._ended], timeout=LOOK_EVERY)
        self._ended.result()

    def _match(self, nodes: list[Node], now: float) -> None:
        """Places for what room there is; none on machines that are gone."""
        alive = {node.id for node in nodes}
        for place in [place for place, node in self._nodes.items() if node not in alive and place in self._handles]:
            self._lost(place, "its machine is gone")
        wanted = [(PlaceId(f"{node.address}-{node.id[:8]}-{i}"), node) for node in nodes for i in range(node.places)]
        for place, node in wanted[: self.begin.places or None]:
            self._nodes[place] = node.id
            if place not in self._handles and place not in self._starting and now >= self._pauses.get(place, (0.0, 0.0))[0]:
                self._starting[place] = asyncio.create_task(self._start(place, node))
        self._say_up()

    async def _start(self, place: PlaceId, node: Node) -> None:
        handle: Handle | None = None
        try:
            handle = await self.cluster.place(node)
            facts = decode(await handle.call("facts"), PlaceFacts)
            if facts.exposed:
                raise NotUsable(f"Ray on {facts.host} takes orders from the world: {'; '.join(facts.exposed)}", PRIVATE)
            if why := self._objection(facts):
                raise PlaceLost(why)
            if self.begin.tested and not self.local and (why := decode(await handle.call("tested"), PlaceTested).why):
                raise PlaceLost(f"{facts.host} has not passed the conformance suite: {why}")
        except (PlaceLost, Malformed, OSError) as error:
            self._refused = f"{place}: {error}"
            self.tell(News(topic="place", text=f"no place of the fleet at {self._refused}"))
            self._pause(place)
        except NotUsable as error:
            if not self._ended.done():
                self._ended.set_exception(error)
        else:
            self._handles[place] = handle
            self._pauses.pop(place, None)
            self.placing.up(place)
            what = f"GPU {facts.device}" if facts.device else f"{self.begin.threads} threads"
            self.tell(News(topic="place", text=f"a place of the fleet at {place} on {facts.host}: {what}, {facts.sandbox or 'no'} sandbox"))
            self._go_on()
        finally:
            del self._starting[place]
            if handle is not None and place not in self._handles:
                self.cluster.kill(handle)
            self._say_up()

    def _objection(self, facts: PlaceFacts) -> str:
        if facts.version != self.own:
            return f"it has {facts.version}, and this node {self.own}"
        if self.begin.must and not facts.sandbox:
            return f"engines cannot be shut in there: {facts.refused}"
        return ""

    def _pause(self, place: PlaceId) -> None:
        pause = min(LAST_PAUSE, 2 * self._pauses.get(place, (0.0, FIRST_PAUSE / 2))[1])
        self._pauses[place] = (asyncio.get_running_loop().time() + pause, pause)

    def _say_up(self) -> None:
        """Once, when all places that there are have come up or been refused."""
        if self._up or self._starting or self._closed or self._ended.done():
            return
        if not self._handles:
            return self._ended.set_exception(NotUsable(f"the fleet has no place: {self._refused}", "ray status, and assay doctor on its machines"))
        self._up = True
        self.tell(Up(places=len(self._handles)))

    def _lost(self, place: PlaceId, why: str) -> None:
        """What it was doing is done elsewhere, or there again once it is back."""
        handle = self._handles.pop(place, None)
        if handle is None:
            return
        self.cluster.kill(handle)
        self._pause(place)
        self.tell(News(topic="place", text=f"the place of the fleet at {place} is lost: {why}; what it was doing is taken up again"))
        for number in list(self.placing.places[place].tasks):
            if (errand := self._errands.pop(number, None)) is not None and errand is not asyncio.current_task():
                errand.cancel()
        for number in self.placing.lost(place):
            self._tell_result(number, Failure(fault=Fault.OWN, error=f"the fleet lost each place that tried it, at last {place}: {why}"))
        self._go_on()

    def _fail_waiting(self) -> None:
        for task in list(self.placing.queue):
            self._tell_result(task.number, Failure(fault=Fault.OWN, error=f"the fleet has had no place for {NOBODY:.0f} seconds: {self._refused}"))

    async def _keep(self) -> None:
        """Places of other machines drop the files of segments that are gone here."""
        if self.local:
            return
        folders = sorted(path.name for path in self.root.iterdir() if path.is_dir())
        if folders == self._folders:
            return
        self._folders = folders
        self.placing.dropped(set(folders))
        for place, handle in list(self._handles.items()):
            try:
                await handle.call("keep", folders)
            except PlaceLost as error:
                self._lost(place, str(error))

    async def close(self) -> None:
        """Places leave nothing behind, if they can be told in time."""
        self._closed = True
        for task in [*self._errands.values(), *self._starting.values()]:
            task.cancel()
        closing = [handle.call("close") for handle in self._handles.values()]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_WITHIN):
                await asyncio.gather(*closing, return_exceptions=True)

    # ---- tasks -------------------------------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        for number, place in self.placing.next():
            self._errands[number] = asyncio.create_task(self._run(number, place))

    async def _run(self, number: int, place: PlaceId) -> None:
        errand = Errand(self.root, self._digests, self._handles[place], self.local, self.begin.disk)
        try:
            result = await errand.run(number, self._tasks[number], lambda message: self.tell(Told(number=number, message=message)))
        except PlaceLost as error:
            return self._lost(place, str(error))
        except Exception as error:  # whatever it was, it was said there
            return self._lost(place, f"{type(error).__name__}: {error}")
        if self._errands.pop(number, None) is not None:
            self._tell_result(number, result)

    def _tell_result(self, number: int, result: Failure | object) -> None:
        self._tasks.pop(number, None)
        self.placing.done(number, isinstance(result, Failure) and result.fault is Fault.OWN)
        self.tell(Told(number=number, message=result))  # type: ignore[arg-type]
        self._go_on()


PRIVATE = "start Ray on addresses that the world does not route to (a VPN's or a local network's), or in a network namespace that has no other"


# ---- the process -----------------------------------------------------------------------------------------------------------


async def serve(begin: Begin, orders: asyncio.Queue[bytes | None], tell: Callable[[AnyNews], None]) -> None:
    """Until the orders end. Raises NotUsable."""
    from assay.adapters.fleet.cluster import RayCluster
    from assay.adapters.fleet.place import version

    cluster = await asyncio.to_thread(RayCluster, begin)
    found = exposure.exposed(await asyncio.to_thread(exposure.of_ray), exposure.here(), loopback_only=cluster.local)
    if found:
        raise NotUsable(f"Ray takes orders from outside: {'; '.join(found)}", PRIVATE)
    fleet = Fleet(begin, cluster, tell, version())
    running = asyncio.create_task(fleet.run())
    try:
        while True:
            getter = asyncio.create_task(orders.get())
            await asyncio.wait([running, getter], return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                getter.cancel()
                return running.result()
            line = getter.result()
            if line is None:
                return None
            order: AnyOrder = decode(line, AnyOrder, MAX_LINE)
            match order:
                case Perform():
                    fleet.perform(order.number, order.task)
                case GiveUp():
                    await fleet.give_up(order.number)
    finally:
        await fleet.close()
        cluster.close()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the daemon, which ends this in order
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not be taken for news
    begin = decode(sys.stdin.buffer.readline(MAX_LINE).rstrip(b"\n"), Begin)

    def tell(news: AnyNews) -> None:
        out.write(encode(news) + b"\n")
        out.flush()

    async def run() -> None:
        orders: asyncio.Queue[bytes | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def read() -> None:
            while line := sys.stdin.buffer.readline(MAX_LINE + 1):
                loop.call_soon_threadsafe(orders.put_nowait, line.rstrip(b"\n"))
            loop.call_soon_threadsafe(orders.put_nowait, None)  # the daemon is gone, or has said all
            time.sleep(END_WITHIN)
            os._exit(0)  # Ray hangs, or has not even begun

        threading.Thread(target=read, daemon=True).start()
        await serve(begin, orders, tell)

    try:
        asyncio.run(run())
    except NotUsable as error:
        tell(Unusable(why=error.why, advice=error.advice))
    except Exception:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(0)  # the thread that reads cannot be ended otherwise


if __name__ == "__main__":
    importlib.import_module("assay.adapters.fleet.driver").main()  # under its own name, so that its classes are the cluster's
