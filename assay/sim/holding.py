"""Key holders of a simulated network: with `Options.holders` all its key services share the keys of every job, and so many release one together."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from assay import threshold
from assay.ids import Address
from assay.job import DatasetRef, Field, KeyHolder, KeyHolders, SealedRef, ShardRef, envelope_info
from assay.keyservice.licensed import HOLD
from assay.merkle import sha256
from assay.runtime import Ordered
from assay.sim.cast import KEY_SERVICE
from assay.sim.hands import seal
from assay.sim.records import RECORDS, made

if TYPE_CHECKING:
    from assay.sim.node import SimNode
    from assay.sim.world import World

ORDERED = 0.6
"""When all have been started."""
TRIES = 10


def group(world: World) -> KeyHolders | None:
    if not world.options.holders:
        return None
    members = (KeyHolder(account=n.account, peer=n.peer, encryption_key=n.hands.keys.encryption_key) for n in world.of_role[KEY_SERVICE])
    return KeyHolders(threshold=world.options.holders, members=tuple(members))


def begin(world: World) -> None:
    """Their owners tell them with whom they keep shares, until they have taken it. Raises ValueError."""
    if world.options.holders and world.options.shared:
        raise ValueError("a network that shares its facts has no key holders")
    if world.options.holders:
        first, *others = world.of_role[KEY_SERVICE]
        for node in others:
            world.clock.after(ORDERED, partial(_order, world, node, first.account, TRIES))


def _order(world: World, node: SimNode, first: Address, tries: int) -> None:
    node.act(node.life, lambda: node.step(Ordered(order=HOLD + first)))
    if tries > 1 and (not node.up or first not in node.core.machine.state.holds):
        world.clock.after(1.0, partial(_order, world, node, first, tries - 1))


def key_of(world: World, number: int, what: str) -> bytes:
    return sha256(b"client key", str(world.seed).encode(), str(number).encode(), what.encode())


def sealed(world: World, number: int, what: str, body: Any) -> SealedRef:
    """A blob of the client's, in its store, with its key for whoever keeps it."""
    service, key = world.turn(KEY_SERVICE, number).hands.keys, key_of(world, number, what)
    blob = seal(body, key)
    envelope = threshold.seal_to(world.client_keys, key, service.encryption_key, group(world), envelope_info(world.client))
    return SealedRef(cid=world.store.put(blob), size=len(blob), key_id=sha256(key), envelope=envelope)


def dataset(world: World, number: int) -> DatasetRef:
    """A job's only shard, in the client's store, with the masks of its records where there are key holders."""
    service, key = world.turn(KEY_SERVICE, number).hands.keys, key_of(world, number, "shard")
    world.client_keys.store(key)
    blob = seal(made(key), key)
    ref = SealedRef(cid=world.store.put(blob), size=len(blob), key_id=sha256(key), envelope=b"")
    only = ShardRef(sealed=ref, records=RECORDS, root=sha256(b"toy records"))
    bare = DatasetRef(name="toy", fields=(Field(name="x", dtype="u8", shape=(1,)),), shards=(only,))
    whole, masks = threshold.seal_shards(world.client_keys, bare, service.encryption_key, group(world), envelope_info(world.client))
    for one in masks:
        world.store.put(one)
    return whole
