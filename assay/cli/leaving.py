"""How a daemon ends when it is told to (SIGTERM, Ctrl-C): for a while it finishes or hands over what others wait for. Told again, it ends at once.

    worker    drains: it stops after the step it is in, commits that, and serves what it has committed to the verifiers that are drawn for it;
              from there on whoever is owed something by a segment can go on with it
    verifier  goes on with what it has signed a receipt for, until it has sealed and opened it
    others    end at once: what they do is on the chain, and any other node of theirs can go on with it

What is left when that time is over is told. It is on disk, and gone on with at the next start; but windows wait for nobody. Where the chain does
not answer nothing can be handed over, and nothing is waited for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from assay.cli.view.picture import entries, whole
from assay.runtime import Note

GRACE, GRACE_LOCAL = 120, 5
"""Seconds; on the local network nothing is at stake."""
LOOK_EVERY = 0.25
UNFINISHED = ("queued", "gathering", "ready", "running", "copying", "committing")
"""Phases of a worker's segment before it has committed."""
UNSERVED = ("committed", "drawn")
SIGNED = ("ready", "replayed", "sealed", "revealed")
"""Phases of a verifier's duty in which its silence costs it a fee."""


def owed(role: str, status: Mapping[str, Any]) -> list[str]:
    """What of a node's status would be lost, or hold others up, if it ended now; empty where nothing would, or nothing can be done."""
    if not status.get("chain_reachable", True):
        return []
    if role == "verifier":
        return [f"segment {whole(d, 'segment')} is {d.get('phase')}" for d in entries(status, "duties") if d.get("phase") in SIGNED]
    if role != "worker":
        return []
    told = []
    for segment in entries(status, "segments"):
        phase, state = segment.get("phase"), segment.get("state")
        if phase in UNFINISHED:
            told.append(f"segment {whole(segment, 'segment')} is {phase}")
        elif phase == "committed" and state in UNSERVED:
            told.append(f"segment {whole(segment, 'segment')} is {state} and not served yet")
    return told


class Leaving:
    """Of one run of a daemon. `asked` is called by each signal."""

    def __init__(
        self, role: str, status: Callable[[], Mapping[str, Any]], order: Callable[[str], None], stop: Callable[[], None],
        note: Callable[[Note], None], grace: float,
    ) -> None:  # fmt: skip
        self.role, self.grace = role, grace
        self._status, self._order, self._stop, self._note = status, order, stop, note
        self._waiting: asyncio.Task[None] | None = None

    @property
    def asked_to(self) -> bool:
        """Whether the daemon has been told to end."""
        return self._waiting is not None

    def asked(self) -> None:
        if self._waiting is not None:
            self._stop()
        else:
            self._waiting = asyncio.create_task(self._wait())

    def over(self) -> None:
        """The daemon has ended."""
        if self._waiting is not None:
            self._waiting.cancel()

    async def _wait(self) -> None:
        left = owed(self.role, self._status())
        if left and self.grace:
            text = f"it ends when what is under way is handed over, in {self.grace:g} s at the latest; once more ends it now: {', '.join(left)}"
            self._note(Note(topic="leaving", text=text))
        if self.role == "worker":
            self._order("drain")
        deadline = time.monotonic() + self.grace
        while left and time.monotonic() < deadline:
            await asyncio.sleep(LOOK_EVERY)
            left = owed(self.role, self._status())
        if left:
            self._note(Note(topic="left", text=f"left behind: {', '.join(left)}. Start it again soon: windows do not wait"))
        self._stop()
