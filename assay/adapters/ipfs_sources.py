"""Gateways as a fetch sees them: who is known, how each has behaved, and whom to ask next.

One that answers other bytes than it was asked for is left alone for minutes, one that fails or is slow for seconds, longer each time; the
others are asked in the order in which they have been answering fastest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from assay.adapters.ipfs_reader import Stream

MAX_GATEWAYS = 256
MAX_URL = 512
LONGEST_REST, LIAR_REST = 15.0, 300.0
WORTH_WAITING = 4.0
"""Seconds that a fetch waits for a resting gateway when it has no other."""


class Failed(Exception):
    """A gateway did not give the block."""


class Lacks(Failed):
    """It says that it does not have it."""


class Lied(Failed):
    """It answered something else."""


class Narrow(str):
    """The base URL of a gateway that is worth one stream at a time: what goes there shares one connection, however many streams there are."""


class Gateway:
    """What is known of a gateway."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.under_way = 0
        self.seconds = 0.0
        """What a block takes, smoothed; 0 before the first."""
        self.failures = 0
        self.lies = 0
        self.rest_until = 0.0
        self.trouble = ""
        self.no_streams_until = 0.0
        """It said that it has no stream for us."""
        self.narrow = False
        """Worth one stream of a fetch."""

    @property
    def cost(self) -> float:
        """Expected wait for one more block."""
        return max(self.seconds, 0.001) * (1 + self.under_way)

    def answered(self, seconds: float) -> None:
        self.seconds = seconds if not self.seconds else 0.7 * self.seconds + 0.3 * seconds
        self.failures = 0

    def failed(self, started: float, trouble: Failed) -> None:
        """Several blocks that fail at the same time count as one failure."""
        self.trouble = str(trouble)
        now = time.monotonic()
        if isinstance(trouble, Lacks) or (started < self.rest_until and not isinstance(trouble, Lied)):
            return
        if isinstance(trouble, Lied):
            self.lies += 1
            rest = LIAR_REST
        else:
            self.failures += 1
            rest = min(LONGEST_REST, 0.2 * 2**self.failures)
        self.rest_until = now + rest


def good_url(url: str) -> str | None:
    """A gateway's base URL without its last slash; None when it is none that we would ask."""
    try:
        parts = urlsplit(url)
        port_ok = parts.port is None or parts.port > 0
    except ValueError:
        return None
    plain = not (parts.query or parts.fragment or parts.username or parts.password)
    if len(url) > MAX_URL or parts.scheme not in ("http", "https") or not parts.hostname or not port_ok or not plain:
        return None
    return url.rstrip("/")


class Sources:
    """The gateways of one fetch, in order of preference."""

    def __init__(self, gateway: Callable[[str], Gateway], locate: Callable[[], Sequence[str]], rounds: int) -> None:
        self._gateway, self._locate, self.rounds = gateway, locate, rounds
        self.gateways: list[Gateway] = []
        self.lacking: set[str] = set()
        """URLs of those that have lacked a block: asked last."""
        self.begun: tuple[Stream, Gateway] | None = None
        """A stream that brought the root and waits for leaves to bring."""
        self.refresh()

    def refresh(self) -> bool:
        """Looks who is known now; whether somebody is new."""
        known = {gateway.url for gateway in self.gateways}
        told = {url: isinstance(raw, Narrow) for raw in self._locate() if (url := good_url(raw))}
        fresh = [self._gateway(url) for url in list(told)[:MAX_GATEWAYS] if url not in known]
        for gateway in fresh:
            gateway.narrow = told[gateway.url]
        self.gateways += fresh
        return bool(fresh)

    def pick(self, tries: dict[str, int], busy: set[str]) -> Gateway | None:
        """The best gateway to ask now, of those with tries left that are not busy with this very block."""
        now = time.monotonic()
        able = [g for g in self.gateways if g.url not in busy and tries.get(g.url, 0) < self.rounds and g.rest_until <= now]
        return min(able, key=lambda g: (g.url in self.lacking, g.cost), default=None)

    def next_rest(self, tries: dict[str, int]) -> float | None:
        """Seconds until a resting gateway may be asked again; None when no such wait is worth it."""
        now = time.monotonic()
        waits = [g.rest_until - now for g in self.gateways if tries.get(g.url, 0) < self.rounds]
        return max(0.0, min(waits)) if waits and min(waits) <= WORTH_WAITING else None

    def troubles(self) -> str:
        if not self.gateways:
            return "no gateway is known"
        said = [f"{gateway.url}: {gateway.trouble or 'not asked'}" for gateway in self.gateways[:6]]
        return "; ".join(said) + (f"; and {len(self.gateways) - 6} more" if len(self.gateways) > 6 else "")
