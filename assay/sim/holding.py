"""Key holders of a simulated network: with `Options.holders` all its key services share the keys of every job, and so many release one together."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from assay.job import KeyHolder, KeyHolders
from assay.keyservice.licensed import HOLD
from assay.runtime import Ordered
from assay.sim.cast import KEY_SERVICE

if TYPE_CHECKING:
    from assay.sim.world import World

ORDERED = 0.6
"""When all have been started."""


def group(world: World) -> KeyHolders | None:
    if not world.options.holders:
        return None
    members = (KeyHolder(account=n.account, peer=n.peer, encryption_key=n.hands.keys.encryption_key) for n in world.of_role[KEY_SERVICE])
    return KeyHolders(threshold=world.options.holders, members=tuple(members))


def begin(world: World) -> None:
    """Their owners tell them with whom they keep shares. Raises ValueError."""
    if world.options.holders and world.options.shared:
        raise ValueError("a network that shares its facts has no key holders")
    if world.options.holders:
        first, *others = world.of_role[KEY_SERVICE]
        for node in others:
            world.clock.after(ORDERED, partial(node.step, Ordered(order=HOLD + first.account)))
