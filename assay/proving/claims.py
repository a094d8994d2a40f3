"""Proving hardware on the chain, and examining what others have proven.

    prove     the newest block's hash -> a process does the work -> the answer goes into a transaction to oneself -> the block after that one draws
              the sample -> the opening is published as a blob. Whoever wants to know is told the transaction and the blob's CID
    examine   anybody with a chain node and the blob: the account, the two blocks' times, the opening. It trusts nobody but the chain

What is proven are lower bounds: so many bytes were held, and so many operations done in the seconds from one block to the other, which include
filling the memory, hashing and the chain's own delay.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from assay.chain import CallId
from assay.codec import Malformed, Message, decode, encode
from assay.ids import Address, Cid, Digest
from assay.messages import Hardware
from assay.ports import Blobs, Outage, Stamps
from assay.proving.proof import MAX_OPENING, Answer, Claim, Opening, Refuted, check, seed_of

MAX_ANSWER = 4096
LONGEST = 600
"""Seconds from one block to the other that an answer may take: slow storage in place of memory takes longer."""
LOOK_EVERY = 0.25


class Proven(Message, frozen=True, kw_only=True):
    """What an examination found."""

    account: Address
    memory: int
    """Bytes."""
    rate: int
    """Exact int8 operations a second."""
    seconds: int
    block: int
    """That the seed came from: all who answered for the same block did so at the same time."""
    at: int
    """Chain time of the answer."""


class Failed(Exception):
    """The work could not be done here; says why."""


class Work:
    """The process that does it (assay.proving.work)."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ask(self, **asked: Any) -> dict[str, Any]:
        """Raises Failed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(encode(asked) + b"\n")
            await self._process.stdin.drain()
            told: dict[str, Any] = json.loads(await self._process.stdout.readline())
        except (ValueError, ConnectionError):
            raise Failed("the process that does the work has ended") from None
        if "error" in told:
            raise Failed(told["error"])
        return told

    async def measure(self, memory: int, seconds: float) -> Claim:
        return msgspec.convert((await self.ask(measure=memory, seconds=seconds))["claim"], Claim)

    async def answer(self, claim: Claim, block: int, seed: Digest) -> Answer:
        told = await self.ask(claim=msgspec.to_builtins(claim), block=block, seed=seed.hex())
        return msgspec.convert(told["answer"], Answer)

    async def opening(self, sample: Digest, to: Path) -> bytes:
        await self.ask(sample=sample.hex(), to=str(to))
        try:
            return await asyncio.to_thread(to.read_bytes)
        finally:
            await asyncio.to_thread(to.unlink, True)


@contextlib.asynccontextmanager
async def working(environment: Mapping[str, str] = {}) -> AsyncIterator[Work]:
    """Starts the process, with this process's environment and `environment`; ends it on leaving."""
    command = [sys.executable, "-m", "assay.proving.work"]
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 20, env=dict(os.environ) | dict(environment)
    )
    try:
        yield Work(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def prove(chain: Stamps, blobs: Blobs, work: Work, claim: Claim, block: int, folder: Path, device: str = "") -> Hardware:
    """Answers for a block's hash, and publishes the opening. Raises Failed or Outage."""
    head = await chain.block(block)
    seed = seed_of(chain.chain_id, head.hash, chain.account, claim)
    answer = await work.answer(claim, block, seed)
    transaction = await chain.stamp(CallId(f"hardware:{block}"), encode(answer))
    drawing = (await chain.stamped(transaction)).block.number + 1
    data = await work.opening((await _when(chain, drawing)).hash, folder / "opening.json")
    return Hardware(device=device, memory=claim.memory, transaction=transaction, opening=await blobs.put(data))


async def _when(chain: Stamps, number: int) -> Any:
    """A block, once it is there."""
    while True:
        try:
            return await chain.block(number)
        except Outage:
            await asyncio.sleep(LOOK_EVERY)


async def examine(chain: Stamps, blobs: Blobs, account: Address, told: Hardware) -> Proven:
    """What a node's last proof shows. Raises Refuted when it shows nothing, Outage when that cannot be told now."""
    try:
        stamp = await chain.stamped(told.transaction)
        answer = decode(stamp.data, Answer, limit=MAX_ANSWER)
        answer.claim.check()
    except KeyError:
        raise Refuted("there is no such answer on the chain") from None
    except (Malformed, ValueError) as error:
        raise Refuted(f"its answer is malformed: {error}") from None
    if stamp.sender != account:
        raise Refuted(f"its answer is that of {stamp.sender}")
    if not 0 <= answer.block < stamp.block.number:
        raise Refuted("its answer names a block that was not there yet")
    before, drawing = await chain.block(answer.block), await chain.block(stamp.block.number + 1)
    seconds = max(1, stamp.block.time - before.time)
    if seconds > LONGEST:
        raise Refuted(f"its answer took {seconds} s, and {LONGEST} are allowed")
    try:
        cid = Cid(told.opening)
        await blobs.fetch(cid, MAX_OPENING)
        data = await blobs.get(cid)
    except (ValueError, KeyError) as error:
        raise Refuted(f"its opening is not to be had: {error}") from None
    await asyncio.to_thread(_check, answer, seed_of(chain.chain_id, before.hash, account, answer.claim), drawing.hash, data)
    rate = answer.claim.operations // seconds
    return Proven(account=account, memory=answer.claim.memory, rate=rate, seconds=seconds, block=answer.block, at=stamp.block.time)


def _check(answer: Answer, seed: Digest, sample: Digest, data: bytes) -> None:
    try:
        opening = decode(data, Opening, limit=MAX_OPENING)
    except Malformed as error:
        raise Refuted(f"its opening is malformed: {error}") from None
    check(answer, seed, sample, opening)
