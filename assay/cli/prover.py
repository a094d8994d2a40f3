"""A node that proves its hardware: when its owner asks (`assay worker prove`), and at every block that asks all nodes, if it is idle then.

A block asks all when its hash says so, one in EVERY on average: whoever has two identities on one machine has to answer for both at the same time.
What the last proof was is kept in `hardware.json` of the node's folder, and told to others with the node's record.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from assay.chain import Block
from assay.codec import Malformed, decode, encode
from assay.exact.cuda import budget
from assay.ids import Digest
from assay.messages import Hardware
from assay.ports import Blobs, Outage, Stamps
from assay.proving import claims
from assay.proving.proof import Claim, Refuted
from assay.runtime import Note

EVERY, EVERY_LOCAL = 1800, 240
"""Blocks; six hours where one comes every twelve seconds, a minute or some on a local chain."""
LATE = 2
"""Blocks after one that asks, from which it is too late to begin."""
SECONDS = 30.0
"""That the products of a claim take: long beside a block, so that what is proven is near what is there."""
DEFAULT = 1 << 28
"""Bytes that are proven when the owner asks and has claimed nothing."""
LOOK_EVERY = 1.0
FILE = "hardware.json"


def asks(block_hash: Digest, every: int) -> bool:
    """Whether a block asks all nodes."""
    return int.from_bytes(block_hash[:8], "big") % every == 0


def told_in(folder: Path) -> Hardware | None:
    """The last proof of the node on a folder."""
    try:
        return decode((folder / FILE).read_bytes(), Hardware)
    except (OSError, Malformed):
        return None


class Prover:
    """`memory`: bytes that are claimed, 0: none until asked; of a GPU `gpu_memory` may be taken, as the owner says it. `idle` says whether the
    machine is free, `renew` tells others of a new proof."""

    def __init__(
        self, chain: Stamps, blobs: Blobs, folder: Path, memory: int, every: int, idle: Callable[[], bool], note: Callable[[Note], None],
        seconds: float = SECONDS, renew: Callable[[], Awaitable[None]] | None = None, gpu_memory: str = budget.DEFAULT,
    ) -> None:  # fmt: skip
        self._environment = {budget.VARIABLE: gpu_memory}
        self._chain, self._blobs, self._folder, self._memory, self._every = chain, blobs, folder, memory, every
        self._idle, self._note, self._seconds, self._renew = idle, note, seconds, renew
        self._wanted = asyncio.Event()
        self._claim: Claim | None = None
        self._seen = -1

    def ask(self) -> None:
        """The owner wants a proof now."""
        self._wanted.set()

    async def watch(self, every: float = LOOK_EVERY) -> None:
        """Until it is cancelled."""
        while True:
            block = None
            with contextlib.suppress(Outage):  # the node itself tells that the chain does not answer
                block = await self._due()
            try:
                if block is not None:
                    await self.prove(block)
            except Outage as error:
                self._note(Note(topic="hardware", text=f"a proof of the hardware came to nothing: {error}"))
            except (claims.Failed, Refuted, MemoryError, OSError) as error:
                self._note(Note(topic="error", text=f"the hardware could not be proven: {error}"))
            await asyncio.sleep(every)

    async def _due(self) -> Block | None:
        """The newest block, if the owner has asked; else one of the last that asks all, if the machine is free."""
        head = await self._chain.head()
        if self._wanted.is_set():
            self._wanted.clear()
            self._seen = head.number
            return head
        first, self._seen = max(self._seen + 1, head.number - LATE, 0), head.number
        if not self._memory or not self._idle():
            return None
        for number in range(first, head.number + 1):
            block = head if number == head.number else await self._chain.block(number)
            if asks(block.hash, self._every):
                return block
        return None

    async def prove(self, block: Block) -> claims.Proven:
        """Proves, publishes, and checks what it has published as others will. Raises Failed, Refuted or Outage."""
        before = told_in(self._folder)
        async with claims.working(self._environment) as work:
            if self._claim is None:
                self._claim = await work.measure(self._memory or DEFAULT, self._seconds)
                block = await self._chain.head()  # measuring took its time
            told = await claims.prove(self._chain, self._blobs, work, self._claim, block.number, self._folder)
        proven = await claims.examine(self._chain, self._blobs, self._chain.account, told)
        await asyncio.to_thread((self._folder / FILE).write_bytes, encode(told))
        if self._renew is not None:
            await self._renew()
        if before is not None and before.opening != told.opening:
            await self._blobs.unpin(before.opening)
        text = f"proven: {proven.memory / 2**30:.2f} GiB held, {proven.rate / 1e9:.1f} billion exact operations a second ({proven.seconds} s)"
        data: dict[str, str | int | bool] = {"memory": proven.memory, "rate": proven.rate, "seconds": proven.seconds, "block": proven.block}
        self._note(Note(topic="hardware", text=text, data=data))
        return proven

