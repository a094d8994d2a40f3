"""Machines of a fleet without Ray: places that are objects of this process, and are lost when a test says so."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from assay.adapters.engine_process import InlineEngine
from assay.adapters.fleet.driver import Node
from assay.adapters.fleet.errands import PlaceLost
from assay.adapters.fleet.place import Place


class FakeHandle:
    """A place of this process. `after`: it is lost when its engine has told of so many steps."""

    def __init__(self, place: Any, after: int | None) -> None:
        self.place, self.after, self.gone = place, after, False
        self.calls: list[str] = []

    async def call(self, method: str, *arguments: Any) -> Any:
        self.calls.append(method)
        if self.gone:
            raise PlaceLost("the machine is gone")
        return await getattr(self.place, method)(*arguments)

    async def stream(self, method: str, *arguments: Any) -> AsyncIterator[bytes]:
        told = 0
        async for line in getattr(self.place, method)(*arguments):
            if self.gone or told == self.after:
                self.gone = True
                raise PlaceLost("the machine is gone")
            told += 1
            yield line


@dataclasses.dataclass
class FakeCluster:
    """One place on each of these machines, as `make` makes it."""

    machines: list[str]
    make: Callable[[str], FakeHandle]
    made: list[FakeHandle] = dataclasses.field(default_factory=list)
    killed: list[FakeHandle] = dataclasses.field(default_factory=list)

    def nodes(self) -> list[Node]:
        return [Node(name, name, 1) for name in self.machines]

    async def place(self, node: Node) -> FakeHandle:
        self.made.append(self.make(node.id))
        return self.made[-1]

    def kill(self, handle: Any) -> None:
        handle.gone = True
        self.killed.append(handle)

    def close(self) -> None:
        pass


def real_place(address: str, home: Path) -> Place:
    """With an engine of this process, and files of its own, or in the daemon's folder."""
    made = Place(str(home) if address == "local" else "", 1, "off", 1 << 30, 1)
    made.engine = InlineEngine()  # type: ignore[assignment]
    return made
