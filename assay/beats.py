"""When calls are made that can wait, so that those of several segments share a transaction.

Calls wait for the next multiple of a beat, a number of seconds of the chain's clock: BEAT times a power of two, LONGEST at most. So what waits
for a long beat meets what waits for a short one, whoever's job it is from.
"""

from __future__ import annotations

BEAT = 15
"""The shortest beat."""
LONGEST = 240
"""The longest one."""
SETTLING = 8
"""A call waits at most this part of the challenge window, which is what a job's end waits for in any case."""


def beat(now: int, most: int) -> int:
    """When a call is made that may be made from `now` on and may wait `most` seconds: at the first multiple after that of the longest beat that is no
    longer than that, at once where none is. (Not on a multiple itself: what one beat has set going would be early for the next by a second.)"""
    each = LONGEST
    while each > max(most, BEAT):
        each //= 2
    return (now // each + 1) * each if each <= most else now


def settles(now: int, window: int) -> int:
    """When a segment's provider settles it, which it may from `now` on."""
    return beat(now, window // SETTLING)


def settles_for(now: int, window: int) -> int:
    """When somebody else does, because its provider has not."""
    return settles(now, window) + (BEAT if window // SETTLING >= BEAT else 0)
