"""The worker as a daemon: the machine, its hands and the ports it is given."""

from __future__ import annotations

from collections.abc import Callable

from assay.daemon import Node, Ports
from assay.runtime import Note
from assay.workshop import Workshop
from assay_worker.hands import KEEP, WorkerHands
from assay_worker.machine import WorkerMachine
from assay_worker.state import RETENTION, WorkerConfig


def worker(
    ports: Ports,
    on_note: Callable[[Note], None] | None = None,
    *,
    price_per_step: int,
    price_per_tera: int = 0,
    bounty_percent: int = 0,
    withdraw_at: int = 0,
    max_memory: int = 4 << 30,
    threads: int = 1,
    keep: int = KEEP,
    retention: int = RETENTION,
) -> Node:
    """A node that trains. `price_per_step`, `price_per_tera` (for 10^12 operations of a step, on top) and `withdraw_at` in the token's
    smallest unit, `max_memory` and `keep` (of the states of a segment that wait to be served) in bytes. `ports.engine` is needed."""
    assert ports.engine is not None
    config = WorkerConfig(
        account=ports.chain.account, encryption_key=ports.keys.encryption_key, peer=ports.peers.peer,
        disputes=ports.chain.disputes, price_per_step=price_per_step, price_per_tera=price_per_tera, bounty_percent=bounty_percent,
        withdraw_at=withdraw_at, max_memory=max_memory,
        retention=retention,
        places=ports.places,
    )  # fmt: skip
    shop = Workshop(ports.folder / "work", ports.blobs, ports.keys, ports.engine, threads, max_memory, disk=ports.disk)
    return Node(ports, WorkerMachine(config), WorkerHands(shop, ports.chain, ports.peers, keep), on_note)
