"""The verifier as a daemon: the machine, its hands and the ports it is given."""

from __future__ import annotations

from collections.abc import Callable

from assay.daemon import Node, Ports
from assay.runtime import Note
from assay.workshop import Workshop
from assay_verifier.hands import VerifierHands
from assay_verifier.machine import VerifierMachine
from assay_verifier.state import VerifierConfig


def verifier(
    ports: Ports, on_note: Callable[[Note], None] | None = None, *, withdraw_at: int = 0, max_memory: int = 4 << 30, threads: int = 1
) -> Node:
    """A node that checks. `withdraw_at` in the token's smallest unit, `max_memory` in bytes. `ports.engine` is needed."""
    assert ports.engine is not None
    config = VerifierConfig(
        account=ports.chain.account, encryption_key=ports.keys.encryption_key, peer=ports.peers.peer,
        disputes=ports.chain.disputes, chain_id=ports.chain.chain_id, contract=ports.chain.contract, withdraw_at=withdraw_at, max_memory=max_memory,
    )  # fmt: skip
    shop = Workshop(ports.folder / "work", ports.blobs, ports.keys, ports.engine, threads, max_memory, disk=ports.disk)
    return Node(ports, VerifierMachine(config), VerifierHands(shop, ports.chain), on_note)
