"""Waiting out a chain that answered a moment ago and does not now (the node behind it starts again, or a cable is out), and giving up waiting."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from assay.ids import JobId
from assay.ports import Outage

AGAIN = 2.0
"""Seconds between looks."""
T = TypeVar("T")


async def through(call: Callable[[], Awaitable[T]], tell: Callable[[str], None], again: float = AGAIN) -> T:
    """What `call` gives, which is asked again as long as it raises Outage; the first one is told. It has to be harmless to repeat."""
    told = False
    while True:
        try:
            return await call()
        except Outage as error:
            if not told:
                tell(f"the chain does not answer ({error}); waiting for it")
            told = True
            await asyncio.sleep(again)


@contextlib.contextmanager
def goes_on(job: JobId) -> Iterator[None]:
    """Tells whoever stops watching (Ctrl-C) what becomes of the job, which nobody has ended."""
    try:
        yield
    except asyncio.CancelledError:
        text = f"job {job} goes on, and its data are not served from here now: assay job watch {job} does both again, assay job cancel {job} ends it"
        print(text, file=sys.stderr, flush=True)
        raise
