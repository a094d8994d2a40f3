"""Ray: started on this machine in a network of its own, or attached to; its nodes, and the actors that are places.

The driver alone imports this. Everything that crosses between its actors and itself is bytes, names and numbers.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from typing import Any

from assay.adapters.fleet import exposure, files
from assay.adapters.fleet.driver import PRIVATE, Node, NotUsable
from assay.adapters.fleet.errands import Handle, PlaceLost
from assay.adapters.fleet.messages import LOCAL, Begin
from assay.adapters.fleet.place import Place

STORE = 80 << 20
"""Bytes of Ray's object store here: nothing large is kept in it."""
CALL = 600.0
"""Seconds that a place may take for anything but a task."""
START = 300.0
"""Seconds that an actor may take to begin."""


class RayHandle:
    """Implements assay.adapters.fleet.errands.Handle."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    async def call(self, method: str, *arguments: Any) -> Any:
        import ray

        try:
            async with asyncio.timeout(CALL):
                return await getattr(self.actor, method).remote(*arguments)
        except (files.BadFile, OSError):
            raise  # what the place raised comes as a kind of itself
        except (ray.exceptions.RayError, TimeoutError) as error:
            raise PlaceLost(_first_line(error)) from None

    async def stream(self, method: str, *arguments: Any) -> AsyncIterator[bytes]:
        import ray

        try:
            async for reference in getattr(self.actor, method).options(num_returns="streaming").remote(*arguments):
                yield await reference
        except ray.exceptions.RayError as error:
            raise PlaceLost(_first_line(error)) from None


class RayCluster:
    """Started or attached to by `begin`; `close` leaves it. Raises NotUsable."""

    def __init__(self, begin: Begin) -> None:
        self.begin, self.local = begin, begin.address == LOCAL
        os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token"}  # read when ray is imported
        if self.local:
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        quiet = {"log_to_driver": False, "configure_logging": False}
        if self.local:
            outside = [address for address in exposure.here() if not exposure.loopback(address)]
            if outside:
                why = f"Ray would listen on {', '.join(outside)}: it is started where there is no network but the loopback"
                raise NotUsable(why, "apt install bubblewrap")
            self._count = begin.places or begin.gpus or max(1, begin.cores // begin.threads)
            cores = self._count * begin.threads
            import ray

            ray.init(
                num_cpus=cores, num_gpus=begin.gpus, include_dashboard=False, object_store_memory=STORE, _node_ip_address="127.0.0.1", **quiet,
            )  # fmt: skip
            return
        if refused := exposure.refused_address(begin.address):
            raise NotUsable(f"Ray's head is not attached to: {refused}", PRIVATE)
        if not _has_token():
            why = "this Ray would take orders from anybody who reaches it: it has no token"
            raise NotUsable(why, "ray get-auth-token --generate, copy ~/.ray/auth_token to each machine, and start Ray with RAY_AUTH_MODE=token")
        import ray

        try:
            ray.init(address=begin.address, **quiet)
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            why = f"Ray at {begin.address} cannot be attached to: {_first_line(error)}"
            raise NotUsable(why, f"this machine must be one of its nodes: ray start --address {begin.address}") from None

    def nodes(self) -> list[Node]:
        """Those that are alive."""
        import ray

        found = []
        for entry in ray.nodes():
            resources = entry["Resources"]
            if not entry["Alive"]:
                continue
            gpus = int(resources.get("GPU", 0))
            room = gpus or int(resources.get("CPU", 0)) // self.begin.threads
            found.append(Node(entry["NodeID"], entry["NodeManagerAddress"], min(room, self._count) if self.local else room, gpus > 0))
        return sorted(found)

    async def place(self, node: Node) -> Handle:
        """A new actor on a node. Raises PlaceLost when it does not come up."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        begin = self.begin
        needs = {"num_gpus": 1, "num_cpus": 0} if node.gpus else {"num_cpus": begin.threads}
        there = NodeAffinitySchedulingStrategy(node.id, soft=False)
        options: dict[str, Any] = {"max_restarts": 0, "max_task_retries": 0, "scheduling_strategy": there, **needs}
        handle = RayHandle(
            ray.remote(Place)
            .options(**options)
            .remote(
                begin.root if self.local else "", begin.threads, begin.sandbox, begin.disk if self.local else 0, max(1, node.places),
                begin.gpu_memory,
            )
        )
        try:
            async with asyncio.timeout(START):
                await handle.actor.facts.remote()
        except (ray.exceptions.RayError, TimeoutError) as error:
            self.kill(handle)
            raise PlaceLost(_first_line(error)) from None
        return handle

    def kill(self, handle: Handle) -> None:
        """Its engines end with it."""
        import ray

        assert isinstance(handle, RayHandle)
        ray.kill(handle.actor)

    def close(self) -> None:
        import ray

        ray.shutdown()


def _has_token() -> bool:
    from pathlib import Path

    given = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(given) or (Path.home() / ".ray" / "auth_token").exists()


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:300]
