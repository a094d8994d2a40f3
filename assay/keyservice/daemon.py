"""The key service as a daemon: the machine, its hands and the ports it is given."""

from __future__ import annotations

from collections.abc import Callable

from assay.daemon import Node, Ports
from assay.keyservice.hands import KeyServiceHands
from assay.keyservice.machine import KeyServiceMachine
from assay.keyservice.state import Config
from assay.runtime import Note


def key_service(ports: Ports, on_note: Callable[[Note], None] | None = None) -> Node:
    """A node that keeps keys and passes them on."""
    config = Config(account=ports.chain.account, encryption_key=ports.keys.encryption_key, peer=ports.peers.peer)
    return Node(ports, KeyServiceMachine(config), KeyServiceHands(ports.blobs, ports.keys), on_note)
