"""What runs beside a daemon and knows nothing of its machine: its log, a look at its account every few seconds, and, where its owner has
named an index, a look for newer versions once a day.

The log is JSON lines, one a note: `time` (seconds since 1970), `topic`, `text` and what the note says of segment, job or amount. When it
has grown to LOG_LIMIT it becomes `log.jsonl.1`, and the one before that goes.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from assay.cli.common import show
from assay.ports import Chain, Outage
from assay.runtime import Note

GAS_MONEY = 10**15
"""Wei under which a node is told to be out of gas money."""
LOG_LIMIT = 16 << 20
"""Bytes."""
LOOK_EVERY = 15.0
"""Seconds between looks at the account."""
ASK_EVERY = 86_400.0
"""Seconds between looks for a newer version."""


def printer(as_json: bool, log: Path, limit: int = LOG_LIMIT) -> Callable[[Note], None]:
    """Prints notes, and keeps them in `log`, which takes at most twice `limit` bytes."""
    file = log.open("a")

    def note(note: Note) -> None:
        nonlocal file
        entry = {"time": round(time.time(), 3), "topic": note.topic, "text": note.text, **note.data}
        if file.tell() >= limit:
            file.close()
            log.replace(log.with_name(log.name + ".1"))
            file = log.open("a")
        file.write(json.dumps(entry) + "\n")
        file.flush()
        if as_json:
            show(entry)
        else:
            print(f"{time.strftime('%H:%M:%S')}  {note.topic:10}  {note.text}", flush=True)

    return note


class Account:
    """What the chain last said of the node's own account; nothing before it has said anything."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self.told: dict[str, Any] = {}

    async def watch(self, every: float = LOOK_EVERY) -> None:
        """Until it is cancelled."""
        while True:
            try:
                view = await self._chain.view(self._chain.account)
                self.told = {name: getattr(view, name) for name in ("tokens", "stake", "reserved", "native")}
            except Outage:
                pass
            await asyncio.sleep(every)


def this_version() -> str:
    """Of the installed distribution."""
    from importlib.metadata import version

    return version("assay")


async def watch_releases(index: str, note: Callable[[Note], None], every: float = ASK_EVERY) -> None:
    """Tells of each newer version once; until it is cancelled. That the index cannot be read is told once, too."""
    from assay.adapters import releases

    told = ""
    while True:
        try:
            text = releases.news(this_version(), await releases.ask(index))
            text = f"{text}: drain this node, install it, and start it again" if text else ""
        except releases.NoIndex as error:
            text = f"whether there is a newer version is not known: {index}: {error}"
        if text and text != told:
            note(Note(topic="update", text=text))
            told = text
        await asyncio.sleep(every)
