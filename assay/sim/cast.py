"""Who plays which part. A part makes a node's machine and hands; a liar is a part of its own (tests/liars), put in by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

from assay.adapters.memory_chain import MemoryChain
from assay.adapters.memory_keys import MemoryKeys
from assay.ids import Address, PeerId
from assay.keyservice.machine import KeyServiceMachine
from assay.keyservice.state import Config as KeyServiceConfig
from assay.runtime import Machine
from assay.sim.hands import Hands
from assay.sim.options import Options
from assay_scheduler.books import Config as SchedulerConfig
from assay_scheduler.machine import SchedulerMachine
from assay_verifier.machine import VerifierMachine
from assay_verifier.state import VerifierConfig
from assay_worker.machine import WorkerMachine
from assay_worker.state import WorkerConfig

WORKER, VERIFIER, SCHEDULER, KEY_SERVICE = "worker", "verifier", "scheduler", "keyservice"


class Self(NamedTuple):
    """What a node knows of itself."""

    chain: MemoryChain
    peer: PeerId
    keys: MemoryKeys
    options: Options

    @property
    def account(self) -> Address:
        return self.chain.account


class Part(NamedTuple):
    machine: Callable[[Self], Machine]
    hands: Callable[[Self], Hands]


def honest_hands(me: Self) -> Hands:
    return Hands(me.chain, me.keys, me.options)


def worker_config(me: Self) -> WorkerConfig:
    return WorkerConfig(
        account=me.account, encryption_key=me.keys.encryption_key, peer=me.peer, price_per_step=me.options.price_cap // 2, disputes=me.chain.disputes
    )  # fmt: skip


def verifier_config(me: Self) -> VerifierConfig:
    return VerifierConfig(
        account=me.account, encryption_key=me.keys.encryption_key, peer=me.peer, chain_id=me.chain.chain_id, contract=me.chain.contract,
        disputes=me.chain.disputes,
    )  # fmt: skip


def key_service_config(me: Self) -> KeyServiceConfig:
    return KeyServiceConfig(me.account, me.keys.encryption_key, me.peer)


HONEST: Mapping[str, Part] = {
    WORKER: Part(lambda me: WorkerMachine(worker_config(me)), honest_hands),
    VERIFIER: Part(lambda me: VerifierMachine(verifier_config(me)), honest_hands),
    SCHEDULER: Part(lambda me: SchedulerMachine(SchedulerConfig(account=me.account, peer=me.peer)), honest_hands),
    KEY_SERVICE: Part(lambda me: KeyServiceMachine(key_service_config(me)), honest_hands),
}


def load(text: str) -> tuple[str, Part]:
    """`worker-0=module:NAME`: the node or role, and the Part of that name in a module that can be imported. Raises ValueError."""
    node, _, place = text.partition("=")
    module, _, name = place.partition(":")
    if not (node and module and name):
        raise ValueError(f"{text!r} is not NODE=MODULE:NAME")
    try:
        part = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{place!r} cannot be imported: {error}") from None
    if not isinstance(part, Part):
        raise ValueError(f"{place!r} is a {type(part).__name__}, not an assay.sim.cast.Part")
    return node, part
