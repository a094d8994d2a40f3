"""What goes wrong in a simulated network: crashes, partitions, nodes that leave for good, reorganisations; all from the world's seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay.sim.cast import VERIFIER, WORKER
from assay.sim.shared import SharedNode

if TYPE_CHECKING:
    from assay.sim.node import SimNode
    from assay.sim.world import World


class Troubles:
    def __init__(self, world: World) -> None:
        self.world, self.options = world, world.options
        for node in list(world.nodes.values()):
            self.plan(node)
        self._plan_partition()
        if self.options.leaving > 0:
            self._plan_leave()
        if self.options.reorgs > 0:
            self._plan_reorg()

    def plan(self, node: SimNode) -> None:
        if self.options.churn > 0:
            self.world.clock.after(self.world.random.expovariate(self.options.churn / 1000), lambda: self._crash(node))

    def _crash(self, node: SimNode) -> None:
        if node.up:
            node.kill()
            self.world.incident("crash", node.name)
            self.world.clock.after(self.world.random.uniform(*self.options.down), node.boot)
        if self.world.nodes.get(node.name) is node:
            self.plan(node)

    def _plan_partition(self) -> None:
        if self.options.partitions > 0:
            self.world.clock.after(self.world.random.expovariate(self.options.partitions / 1000), self._partition)

    def _partition(self) -> None:
        world = self.world
        peers = [node.peer for node in world.nodes.values()]
        world.random.shuffle(peers)
        cut = world.random.randrange(1, len(peers))
        world.board.partition(peers[:cut], peers[cut:])
        world.incident("partition")
        world.clock.after(world.random.uniform(*self.options.split), world.board.heal)
        self._plan_partition()

    def _plan_leave(self) -> None:
        """`leaving` of the providers and verifiers in an hour, one at a time."""
        people = self.options.workers + self.options.verifiers
        self.world.clock.after(self.world.random.expovariate(self.options.leaving * people / 3600), self._leave)

    def _leave(self) -> None:
        world = self.world
        node = world.random.choice([*world.of_role[WORKER], *world.of_role[VERIFIER]])
        assert isinstance(node, SharedNode)
        node.leave()
        world.incident("left", node.name)
        world.replace(node)
        self._plan_leave()

    def _plan_reorg(self) -> None:
        self.world.clock.after(self.world.random.expovariate(self.options.reorgs / 1000), self._reorg)

    def _reorg(self) -> None:
        if self.world.chain.reorg():
            self.world.incident("reorganisation")
        self._plan_reorg()
