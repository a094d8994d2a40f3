"""What a simulated network is made of and what goes wrong in it. Times in seconds of the virtual clock."""

from __future__ import annotations

import msgspec

from assay.chain import Params
from assay.dispute.record import Rules

FAST = Params(
    finality=2, activate_window=120, lease_window=300, takeover_window=120, serve_window=120, seal_window=120, reveal_window=60,
    open_window=60, challenge_window=120, links=2, verifiers=3, quorum=2, openings=1, redraws=2, depth=2, bond_tenths=60,
)  # fmt: skip
"""The policy of a simulated job: the real rules with windows of minutes."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    jobs: int = 1
    every: float = 20.0
    """Between one job and the next."""
    steps: int = 4
    segment_steps: int = 2
    micro_batches: int = 1
    params: Params = FAST
    price_cap: int = 1_000_000
    """Per step."""
    fee: int = 50_000
    workers: int = 2
    verifiers: int = 4
    schedulers: int = 1
    """Jobs are spread over them and over the key services in turn."""
    key_services: int = 1
    holders: int = 0
    """How many of them release each key together, all of them being holders of every job's keys; 0: each job has one of them to itself."""
    step_seconds: float = 1.0
    """What a worker takes for one training step."""
    stake: int = 1_000_000_000
    purse: int = 0
    """Tokens that workers and verifiers have beside it, for the bonds of challengers."""
    rules: Rules | None = None
    """Of disputes; None: there are none."""
    latency: tuple[float, float] = (0.01, 0.15)
    loss: float = 0.0
    """Share of messages between peers that are lost."""
    churn: float = 0.0
    """Crashes of each node in 1,000 seconds, on average."""
    down: tuple[float, float] = (2.0, 20.0)
    """How long a crashed node stays down."""
    partitions: float = 0.0
    """Partitions of the peer network in 1,000 seconds, on average; the chain is reached from both sides."""
    split: tuple[float, float] = (10.0, 60.0)
    """How long a partition lasts."""
    leaving: float = 0.0
    """Share of the workers and verifiers that leave for good in an hour, with nothing said; as many others come."""
    stragglers: float = 0.0
    """Share of the workers that are `slowness` times as slow as the others."""
    slowness: float = 4.0
    liars: float = 0.0
    """Share of the workers that commit to what they have not computed."""
    reorgs: float = 0.0
    """Reorganisations of the chain in 1,000 seconds, each of as many blocks as are not final."""
    shared: bool = False
    """Nodes share the facts of the chain, and keep no journals (assay.sim.reader, assay.sim.shared): for large networks, without disputes."""
    readers: int = 4
    """Chain nodes that a large network reads the chain from."""
    fanout: int = 0
    """Workers that an announcement reaches: those that the job's last one reached, one of them replaced by another; 0: everybody."""
    patience: float = 86_400.0
    """After this much virtual time the run ends, whatever is missing."""
    deadline: int = 7200
    """Of each job, from the beginning: whatever is not done then is cancelled by whoever likes, and the rest refunded."""
