"""Waiting out a chain that answered a moment ago and does not now: the node behind it is starting again, or a cable is out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

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
