"""The worker's hands: what its machine asks for, done with keys, blobs, the chain's signatures and the engine.

What was sealed is never sealed twice for one run: the outcome of a finished run is on disk (`run.json`) before it is told, so that a
crash between the two commits the same checkpoint; but one that this disk has lost, and nobody else has, is made again as long as it is not
committed. Heartbeats are sent beside the run and may be lost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from assay import disputing, draw, threshold, votes
from assay.chain import JobPosted
from assay.codec import Malformed, Message, decode, encode
from assay.engine import ChunkOpened, LinksOpened, LinksRun, OpenChunk, OpenLinks, OwnRun, RunLinks, ShowTree, StepDone, TreeShown
from assay.ids import Address, Digest, PeerId
from assay.job import JobSpec, SealedRef, envelope_info
from assay.merkle import sha256
from assay.messages import Boundary, Heartbeat, JobAnnouncement
from assay.ports import Chain, Outage, Peers
from assay.runtime import AnyEvent, ChainSeen, Fault, Heard, Note, TaskFailed
from assay.tasks import (
    AnyOutcome,
    AnyTask,
    CheckProgram,
    ChunkMade,
    Dropped,
    DropSegment,
    FindPublished,
    GatherKey,
    KeyTold,
    LetGo,
    LoadJob,
    MakeChunk,
    MakeMove,
    MoveMade,
    NodesShown,
    PrepareSegment,
    PublishedFound,
    ReceiptVerified,
    RunSegment,
    SegmentPrepared,
    SegmentRun,
    ServeNodes,
    ServeUnits,
    ShowNodes,
    Signed,
    SignOffer,
    Stopping,
    StopSegment,
    StoreKey,
    TellKey,
    UnitsServed,
    VerifyReceipt,
    VerifySeal,
    VerifyVisit,
    VerifyVote,
    VisitVerified,
    VoteVerified,
)
from assay.workshop import Workshop, quietly, write_atomically

KEEP = 2 << 30
"""Bytes of states that are kept of each segment for serving."""
BOUNDARIES = "published"
"""In a segment's folder: the list of the boundaries that were served."""
BEAT = 0.5
"""Seconds between heartbeats, at least."""
BEAT_TIMEOUT = 5.0


class WorkerHands:
    """Implements assay.daemon.Hands. `keep` in bytes a segment."""

    def __init__(self, workshop: Workshop, chain: Chain, peers: Peers, keep: int = KEEP) -> None:
        self.shop, self.chain, self.peers, self.keep = workshop, chain, peers, keep
        self._beats: set[asyncio.Task[None]] = set()
        self._beaten = 0.0

    async def perform(self, task: AnyTask, note: Callable[[Note], None]) -> AnyOutcome:
        """Raises TaskFailed, or Outage when it is worth trying again at once."""
        try:
            return await self._perform(task, note)
        except OSError as error:
            raise TaskFailed(Fault.OWN, f"file trouble: {error}; free some disk, or check the rights of {self.shop.root}") from None

    def foresee(self, event: AnyEvent) -> None:
        """A job that is new to the network: its program will be checked in the engine."""
        match event:
            case ChainSeen(event=JobPosted()) | Heard(message=JobAnnouncement(parent=0)):
                self.shop.engine.expect(self.shop.root)

    async def _perform(self, task: AnyTask, note: Callable[[Note], None]) -> AnyOutcome:
        match task:
            case LoadJob():
                return await self.shop.load_job(task)
            case CheckProgram():
                return await self.shop.check_program(task)
            case SignOffer():
                return await self._sign(task)
            case StoreKey():
                return self.shop.store_key(task)
            case GatherKey():
                return self.shop.gather_key(task)
            case TellKey():
                return KeyTold(key=Digest(self.shop.key(task.key_id)), checkpoint=draw.checkpoint_digest(task.checkpoint))
            case PrepareSegment():
                return await self._lay_out(task)
            case RunSegment():
                return await self._run(task, note)
            case StopSegment():
                self.shop.folder(task.segment).mkdir(exist_ok=True, mode=0o700)
                (self.shop.folder(task.segment) / "stop").touch()
                return Stopping(segment=task.segment)
            case ServeUnits():
                return await self._serve(task)
            case VerifyReceipt():
                signer = self.chain.receipt_signer(task.segment, task.round, task.signature)
                return ReceiptVerified(verifier=task.verifier, valid=signer == task.verifier)
            case VerifySeal():
                signer = self.chain.seal_signer(task.segment, task.round, task.digest, task.signature)
                return VoteVerified(verifier=task.verifier, valid=signer == task.verifier)
            case VerifyVote():
                return await self._verify_vote(task)
            case MakeChunk():
                return await self._chunk(task)
            case MakeMove():
                return await self._move(task)
            case ServeNodes():
                folder, _ = await self._prepare(task.place)
                return await disputing.serve_nodes(self.shop, self.chain, task, folder, self._own(task.place))
            case VerifyVisit():
                valid = self.chain.visit_signer(task.peer, task.signature) == task.account
                return VisitVerified(peer=task.peer, account=task.account, valid=valid)
            case ShowNodes():
                return await self._show(task)
            case DropSegment():
                await self.shop.let_go(self.shop.folder(task.segment) / BOUNDARIES)
                await self.shop.drop(task.segment)
                return Dropped()
            case FindPublished():
                return PublishedFound(lost=tuple(await self.shop.find(task.cids)))
            case LetGo():
                count = await self.shop.let_go(self.shop.published(task.job))
                text = f"job {task.job}: {count} checkpoints are kept no longer than there is room for them"
                note(Note(topic="tidied", text=text, data={"job": task.job, "blobs": count}))
                return Dropped()
            case _:
                raise TaskFailed(Fault.OWN, f"a worker does not do {type(task).__name__}")

    async def _verify_vote(self, task: VerifyVote) -> VoteVerified:
        """Raises Outage until the opening block is there and the next one may carry the openings."""
        block_hash = await self._drawn_by(task.opening_block)
        valid = votes.is_sealed(self.chain.chain_id, self.chain.contract, task) and votes.is_opened(block_hash, task)
        return VoteVerified(verifier=task.vote.verifier, valid=valid)

    async def _sign(self, task: SignOffer) -> Signed:
        view = await self.chain.view(self.chain.account)
        free = view.stake - view.reserved
        if free < task.bond:
            raise TaskFailed(Fault.OWN, f"its bond is {task.bond} and the free stake of {self.chain.account} is {free}; start with a higher --stake")
        return Signed(signature=self.chain.sign_offer(task.offer))

    # ---- running ---------------------------------------------------------------------------------------------------------

    async def _prepare(self, task: PrepareSegment | RunSegment | ServeUnits | MakeChunk | MakeMove) -> tuple[Path, JobSpec]:
        """All that the engine needs for a segment is in its folder."""
        spec = await self.shop.spec(task.spec)
        folder = self.shop.open_folder(task.segment, task.spec)
        await self.shop.put_parent(folder, task.start, task.parent)
        await self.shop.put_records(folder, spec, range(task.start, task.stop))
        return folder, spec

    async def _lay_out(self, task: PrepareSegment) -> SegmentPrepared:
        spec = await self.shop.spec(task.spec)
        await self.shop.check_room(spec)
        await self._prepare(task)
        await self.shop.job_files(task.spec, spec)
        return SegmentPrepared(segment=task.segment)

    async def _run(self, task: RunSegment, note: Callable[[Note], None]) -> SegmentRun:
        told = self.shop.folder(task.segment) / "run.json"
        if told.exists():
            try:
                kept = decode(told.read_bytes(), SegmentRun)
                if not await self.shop.find([kept.checkpoint.cid]):
                    return kept
            except Malformed:  # written by another version: the same bits come again
                pass
            told.unlink()
        folder, spec = await self._prepare(task)

        def progress(done: Message) -> None:
            if isinstance(done, StepDone):
                text = f"segment {task.segment}: step {done.step} is done"
                note(Note(topic="step", text=text, data={"segment": task.segment, "job": task.job, "step": done.step, "loss_f32": done.loss}))
                self._beat(task.scheduler, Heartbeat(segment=task.segment, step=done.step, loss_f32=done.loss))

        links = RunLinks(
            job=await self.shop.job_files(task.spec, spec), segment=folder.name, start=task.start, stop=task.stop,
            parent_root=task.parent_root, keep=self.keep,
        )  # fmt: skip
        run = await self.shop.engine.run(links, self.shop.root, progress)
        assert isinstance(run, LinksRun)
        outcome = SegmentRun(
            segment=task.segment, stop=run.stop, link_root=run.link_root, end_root=run.end_root, proof=run.proof,
            checkpoint=await self._checkpoint(task, spec, (folder / run.state).read_bytes()),
            first_loss=run.first_loss, last_loss=run.last_loss, milliseconds=run.milliseconds, computed=run.computed, energy=run.energy,
        )  # fmt: skip
        write_atomically(told, encode(outcome))
        return outcome

    async def _checkpoint(self, task: RunSegment, spec: JobSpec, state: bytes) -> SealedRef:
        """Seals and publishes an end state; its key goes to the job's key service with the commitment."""
        cid, key = await self.shop.seal_state(state, task.parent, self.shop.published(task.job))
        try:
            envelope = threshold.seal_to(self.shop.keys, key, spec.key_service_key, spec.key_holders, envelope_info(self.chain.account))
        except ValueError as error:
            raise TaskFailed(Fault.PEER, f"the job's key service has no usable encryption key: {error}") from None
        return SealedRef(cid=cid, size=0, key_id=sha256(key), envelope=envelope)

    def _beat(self, scheduler: PeerId, beat: Heartbeat) -> None:
        """Tells the scheduler, not too often, and without waiting."""
        now = time.monotonic()
        if not scheduler or now - self._beaten < BEAT:
            return
        self._beaten = now
        task = asyncio.create_task(self._send_beat(scheduler, beat))
        self._beats.add(task)
        task.add_done_callback(self._beats.discard)

    async def _send_beat(self, scheduler: PeerId, beat: Heartbeat) -> None:
        try:
            await self.peers.request(scheduler, beat, BEAT_TIMEOUT)
        except Outage:
            return

    async def _move(self, task: MakeMove) -> MoveMade:
        folder, _ = await self._prepare(task)
        return await disputing.make_move(self.shop, self.chain, task, folder, self._own(task))

    def _own(self, task: MakeMove | ServeUnits) -> OwnRun:
        return OwnRun(parent_root=task.parent_root, keep=self.keep)

    # ---- serving ---------------------------------------------------------------------------------------------------------

    async def _serve(self, task: ServeUnits) -> UnitsServed:
        folder, spec = await self._prepare(task)
        links = OpenLinks(
            job=await self.shop.job_files(task.spec, spec), segment=folder.name, start=task.start, stop=task.stop,
            parent_root=task.parent_root, keep=self.keep, units=task.units,
        )  # fmt: skip
        opened = await self.shop.engine.run(links, self.shop.root, quietly)
        assert isinstance(opened, LinksOpened)
        boundaries: list[tuple[Address, Boundary]] = []
        for link in opened.opened:
            path = folder / link.file
            cid, key = await self.shop.seal(path.read_bytes(), folder / BOUNDARIES)
            path.unlink()
            for who, encryption_key in task.recipients:
                try:
                    wrapped = self.shop.keys.wrap(key, encryption_key)
                except ValueError:
                    continue  # it registered no usable key: it cannot be served, and the others are
                boundary = Boundary(
                    segment=task.segment, unit=link.unit, cid=cid, key_id=sha256(key), wrapped=wrapped,
                    link_ends=link.ends, proofs=link.proofs,
                )  # fmt: skip
                boundaries.append((who, boundary))
        return UnitsServed(boundaries=tuple(boundaries))

    async def _chunk(self, task: MakeChunk) -> ChunkMade:
        """Raises Outage until the block that names it is there and the next one may carry what is shown."""
        number = draw.chunk(await self._drawn_by(task.asked_block), task.segment)
        folder, spec = await self._prepare(task)
        chunk = OpenChunk(
            job=await self.shop.job_files(task.spec, spec), segment=folder.name, start=task.start, stop=task.stop,
            parent_root=task.parent_root, keep=self.keep, units=task.units, number=Digest(draw.u256(number)),
        )  # fmt: skip
        opened = await self.shop.engine.run(chunk, self.shop.root, quietly)
        assert isinstance(opened, ChunkOpened)
        return ChunkMade(proof=opened.proof)

    async def _drawn_by(self, block: int) -> Digest:
        """The hash that a draw of `block` has for a transaction of the next block. Raises Outage until it is there."""
        head = await self.chain.head()
        if head.number <= block:
            raise Outage(f"block {block}, which draws, is not there yet")
        return await self.chain.block_hash(draw.seed_block(block, head.number + 1))

    async def _show(self, task: ShowNodes) -> NodesShown:
        place = task.place
        folder, spec = await self._prepare(place)
        asked = ShowTree(
            job=await self.shop.job_files(place.spec, spec), dataset=spec.dataset, segment=folder.name, start=place.start, stop=place.stop,
            own=self._own(place), question=task.question,
        )  # fmt: skip
        shown = await self.shop.engine.run(asked, self.shop.root, quietly)
        assert isinstance(shown, TreeShown)
        return NodesShown(segment=place.segment, nodes=shown.nodes)
