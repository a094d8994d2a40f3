"""The scheduler as a daemon: the machine, its hands and the ports it is given."""

from __future__ import annotations

from collections.abc import Callable

from assay.daemon import Node, Ports
from assay.runtime import Note
from assay_scheduler.books import Config
from assay_scheduler.hands import SchedulerHands
from assay_scheduler.machine import SchedulerMachine

LOOK_EVERY = 60
"""Seconds: looking for nodes asks some dozen of others."""


def scheduler(
    ports: Ports, on_note: Callable[[Note], None] | None = None, *, offer_window: int = 5, patience: int = 3, volunteer: bool = True,
    prefers_proven: bool = False,
) -> Node:
    """A node that schedules. `offer_window` and `patience` in seconds (see assay_scheduler.books.Config). Where the
    ports have a finder it looks for nodes when nobody offers."""
    config = Config(
        account=ports.chain.account, peer=ports.peers.peer, offer_window=offer_window, patience=patience, volunteer=volunteer,
        prefers_proven=prefers_proven, look_every=LOOK_EVERY if ports.finder is not None else 0,
    )  # fmt: skip
    hands = SchedulerHands(ports.blobs, ports.chain, ports.peers, ports.stamps, ports.finder)
    return Node(ports, SchedulerMachine(config), hands, on_note)
