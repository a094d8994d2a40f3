"""What nodes of the simulated network do with their hands: the tasks of all roles over the toy training (assay.sim.toy).

`Hands.perform` finds the method by the task's name (`RunSegment` -> `run_segment`), so that a liar is a subclass with one method
replaced. What a task keeps lies in `disk`, which outlives a crash and not a deleted disk.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import Any

from assay import cid, draw, hearing, links, threshold, votes
from assay import hands as labour
from assay.adapters.memory_chain import MemoryChain
from assay.adapters.memory_keys import MemoryKeys
from assay.chain import Opening
from assay.codec import Malformed, Message, decode, encode
from assay.ids import Cid, Digest
from assay.job import JobSpec, SealedRef, envelope_info
from assay.keyservice.hands import wrap_keys
from assay.merkle import sha256
from assay.messages import Boundary
from assay.ports import Outage
from assay.runtime import Fault, TaskFailed
from assay.sim.options import Options
from assay.sim.records import looked
from assay.sim.toy import Link, Toy, ToyBoundary, ToyState, prove, root, show
from assay.tasks import (
    AnyOutcome,
    AnyTask,
    BoundaryOpened,
    CheckProgram,
    CheckRecords,
    ChunkMade,
    Dropped,
    DropSegment,
    FindPublished,
    GatherKey,
    GatherRecords,
    JobLoaded,
    KeepBlob,
    KeyGathered,
    KeyStored,
    KeysWrapped,
    KeyTold,
    LoadJob,
    MakeChunk,
    MakeOpenings,
    OfferVerified,
    OpenBoundary,
    OpeningsMade,
    PinsSet,
    ProgramChecked,
    PublishedFound,
    ReceiptVerified,
    RecordsChecked,
    RecordsGathered,
    ReleaseBlobs,
    ReplayUnit,
    RunSegment,
    SayUnserved,
    SegmentRun,
    ServeUnits,
    Signed,
    SignOffer,
    SignReceipt,
    SignSeal,
    Stopping,
    StopSegment,
    StoreKey,
    TakeKey,
    TellKey,
    UnitReplayed,
    UnitsServed,
    VerifyOffer,
    VerifyReceipt,
    VerifySeal,
    VerifyVote,
    VoteVerified,
    WrapKeys,
)


class Sealed(Message, frozen=True, kw_only=True):
    """A sealed blob of the simulation: its key is needed to read it, by the rules of this module if not by arithmetic."""

    key_id: Digest
    body: bytes


@cache
def method_of(task: type) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", task.__name__).lower()


@lru_cache(maxsize=4096)
def read_spec(document: bytes) -> JobSpec:
    """Raises Malformed."""
    return decode(document, JobSpec)


@lru_cache(maxsize=4096)
def read_sealed(blob: bytes) -> Sealed:
    """Raises Malformed."""
    return decode(blob, Sealed)


@lru_cache(maxsize=4096)
def read_state(body: bytes) -> ToyState:
    """Raises Malformed."""
    return decode(body, ToyState)


@lru_cache(maxsize=4096)
def read_boundary(body: bytes) -> ToyBoundary:
    """Raises Malformed."""
    return decode(body, ToyBoundary)


def seal(body: Message, key: bytes) -> bytes:
    return encode(Sealed(key_id=sha256(key), body=encode(body)))


class Store(dict[Cid, bytes]):
    """Blobs of one node; what is put gets its true CID."""

    def put(self, data: bytes) -> Cid:
        name = cid.of(data)
        self[name] = data
        return name

    def stored(self, name: Cid) -> bytes:
        """Raises Outage."""
        if name not in self:
            raise Outage(f"blob {name} is not in the local store")
        return self[name]


class Hands:
    def __init__(self, chain: MemoryChain, keys: MemoryKeys, options: Options) -> None:
        self.chain, self.keys, self.options = chain, keys, options
        self.account = chain.account
        self.store = Store()
        self.disk: dict[Any, Any] = {}
        self.kept: dict[Cid, int] = {}
        """Of a scheduler: what it has pinned, until when."""

    def wipe(self) -> None:
        """The disk is gone: blobs, work and keys, all but the identity."""
        self.store, self.disk, self.kept = Store(), {}, {}
        self.keys._ring.clear()
        self.keys._records.clear()

    def perform(self, task: AnyTask) -> AnyOutcome:
        """Raises TaskFailed or Outage."""
        outcome: AnyOutcome = getattr(self, method_of(type(task)))(task)
        return outcome

    # ---- jobs ------------------------------------------------------------------------------------------------------------

    def spec(self, name: Cid) -> JobSpec:
        try:
            return read_spec(self.store.stored(name))
        except Malformed as error:
            raise TaskFailed(Fault.PEER, f"the job's document is refused: {error}") from None

    def toy(self, spec: JobSpec) -> Toy:
        return decode_toy(self.store.stored(spec.program))

    def load_job(self, task: LoadJob) -> JobLoaded:
        return JobLoaded(job=task.job, spec=self.spec(task.spec), spec_digest=sha256(self.store.stored(task.spec)))

    def check_program(self, task: CheckProgram) -> ProgramChecked:
        toy = decode_toy(self.store.stored(task.program))
        return ProgramChecked(
            job=task.job, root=toy.program, micro_flops=1, update_flops=1, peak_memory=1, micro_leaves=toy.micro_leaves,
            update_leaves=toy.update_leaves,
        )  # fmt: skip

    # ---- signatures and keys ---------------------------------------------------------------------------------------------

    def sign_offer(self, task: SignOffer) -> Signed:
        return Signed(signature=self.chain.sign_offer(task.offer))

    def verify_offer(self, task: VerifyOffer) -> OfferVerified:
        signer = self.chain.offer_signer(task.offer, task.signature)
        if signer != task.offer.provider:
            raise TaskFailed(Fault.PEER, f"the offer in the name of {task.offer.provider} was signed by {signer or 'nobody'}")
        view = self.chain.ledger.view(task.offer.provider)
        return OfferVerified(free=view.stake - view.reserved)

    def keep_blob(self, task: KeepBlob) -> PinsSet:
        self.kept[task.cid] = task.until
        return PinsSet()

    def release_blobs(self, task: ReleaseBlobs) -> PinsSet:
        for name in task.cids:
            self.kept.pop(name, None)
        return PinsSet()

    def sign_receipt(self, task: SignReceipt) -> Signed:
        return Signed(signature=self.chain.sign_receipt(task.segment, task.round))

    def verify_receipt(self, task: VerifyReceipt) -> ReceiptVerified:
        signer = self.chain.receipt_signer(task.segment, task.round, task.signature)
        return ReceiptVerified(verifier=task.verifier, valid=signer == task.verifier)

    def sign_seal(self, task: SignSeal) -> Signed:
        return Signed(signature=self.chain.sign_seal(task.segment, task.round, task.digest))

    def verify_seal(self, task: VerifySeal) -> VoteVerified:
        signer = self.chain.seal_signer(task.segment, task.round, task.digest, task.signature)
        return VoteVerified(verifier=task.verifier, valid=signer == task.verifier)

    def verify_vote(self, task: VerifyVote) -> VoteVerified:
        block_hash = self.opening_hash(task.opening_block)
        valid = votes.is_sealed(self.chain.chain_id, self.chain.contract, task) and votes.is_opened(block_hash, task)
        return VoteVerified(verifier=task.vote.verifier, valid=valid)

    def store_key(self, task: StoreKey) -> KeyStored:
        return labour.store_key(self.keys, task)

    def check_records(self, task: CheckRecords) -> RecordsChecked:
        return looked(self.spec(task.spec), task.places, self.keys, lambda cid: read_sealed(self.store.stored(cid)).body)

    def gather_key(self, task: GatherKey) -> KeyGathered:
        return labour.gather_key(self.keys, task)

    def gather_records(self, task: GatherRecords) -> RecordsGathered:
        ref, wanted = labour.shared_shard(self.spec(task.spec), task)
        masks = self.store.stored(threshold.masks_ref(ref.sealed.envelope, ref.records)[0])
        return labour.gather_records(self.keys, ref, wanted, masks, task)

    def wrap_keys(self, task: WrapKeys) -> KeysWrapped:
        return wrap_keys(self.keys, task)

    def take_key(self, task: TakeKey) -> KeysWrapped:
        return labour.take_key(self.keys, task)

    def tell_key(self, task: TellKey) -> KeyTold:
        return KeyTold(key=Digest(self.keys.load(task.key_id)), checkpoint=draw.checkpoint_digest(task.checkpoint))

    def opened(self, blob: Cid) -> bytes:
        """Plaintext of a sealed blob. Raises TaskFailed (PEER) for a wrong key or content."""
        try:
            sealed = read_sealed(self.store.stored(blob))
            self.keys.load(sealed.key_id)
            return sealed.body
        except Malformed as error:
            raise TaskFailed(Fault.PEER, f"blob {blob} is not a sealed one: {error}") from None
        except KeyError:
            raise TaskFailed(Fault.PEER, f"no key here opens blob {blob}") from None

    # ---- the worker ------------------------------------------------------------------------------------------------------

    def run(self, toy: Toy, start: int, stop: int, state: Digest) -> list[Link]:
        """The links of the segment, in order: what a worker is paid for."""
        return list(toy.links(start, stop, state))

    def parent_state(self, parent: SealedRef, parent_root: Digest) -> Digest:
        try:
            found = read_state(self.opened(parent.cid)).state
        except Malformed as error:
            raise TaskFailed(Fault.PEER, f"the parent's checkpoint is refused: {error}") from None
        if found != parent_root:
            raise TaskFailed(Fault.PEER, "the parent's checkpoint is not the state that was committed")
        return found

    def run_segment(self, task: RunSegment) -> SegmentRun:
        spec = self.spec(task.spec)
        for ref in spec.shared_blobs:
            self.opened(ref.cid)
        done = self.run(self.toy(spec), task.start, task.stop, self.parent_state(task.parent, task.parent_root))
        ends = [link.end for link in done]
        self.disk["run", task.segment] = done
        key = sha256(b"checkpoint key", self.keys._seed, draw.u64(task.segment), draw.u64(task.stop))
        blob = seal(ToyState(step=task.stop, state=ends[-1]), key)
        envelope = threshold.seal_to(self.keys, key, spec.key_service_key, spec.key_holders, envelope_info(self.account))
        self.keys.store(key)
        ref = SealedRef(cid=self.store.put(blob), size=len(blob), key_id=sha256(key), envelope=envelope)
        milliseconds = int((task.stop - task.start) * self.options.step_seconds * 1000)
        return SegmentRun(
            segment=task.segment, stop=task.stop, link_root=root(ends), end_root=ends[-1], proof=prove(ends, len(ends) - 1), checkpoint=ref,
            first_loss=0, last_loss=0, milliseconds=milliseconds, computed=task.stop - task.start,
        )  # fmt: skip

    def stop_segment(self, task: StopSegment) -> Stopping:
        return Stopping(segment=task.segment)

    def done(self, task: ServeUnits | MakeChunk) -> tuple[Toy, list[Link]]:
        toy = self.toy(self.spec(task.spec))
        links_run: list[Link] | None = self.disk.get(("run", task.segment))
        if links_run is None:
            links_run = self.run(toy, task.start, task.stop, self.parent_state(task.parent, task.parent_root))
        return toy, links_run

    def make_chunk(self, task: MakeChunk) -> ChunkMade:
        number = draw.chunk(self.opening_hash(task.asked_block), task.segment)
        toy, done = self.done(task)
        place, _ = hearing.end_named(number, task.units, toy.micro_batches)
        link = done[place]
        content = toy.content(link.step, link.m, link.state, link.acc)
        return ChunkMade(proof=show(content, [link.end for link in done], place))

    def serve_units(self, task: ServeUnits) -> UnitsServed:
        toy, done = self.done(task)
        ends = [link.end for link in done]
        served = []
        for unit in task.units:
            body = ToyBoundary(state=done[unit].state, acc=done[unit].acc)
            key = sha256(b"boundary key", self.keys._seed, draw.u64(task.segment), draw.u64(unit))
            blob = self.store.put(seal(body, key))
            places = links.named_ends(unit, toy.micro_batches)
            for who, encryption_key in task.recipients:
                boundary = Boundary(
                    segment=task.segment, unit=unit, cid=blob, key_id=sha256(key), wrapped=self.keys.wrap(key, encryption_key),
                    link_ends=tuple(ends[place] for place in places), proofs=tuple(prove(ends, place) for place in places),
                )  # fmt: skip
                served.append((who, boundary))
        return UnitsServed(boundaries=tuple(served))

    # ---- the verifier ----------------------------------------------------------------------------------------------------

    def boundary(self, blob: Cid) -> ToyBoundary:
        try:
            return read_boundary(self.opened(blob))
        except Malformed as error:
            raise TaskFailed(Fault.PEER, f"the boundary is refused: {error}") from None

    def open_boundary(self, task: OpenBoundary) -> BoundaryOpened:
        self.boundary(task.boundary.cid)
        return BoundaryOpened(segment=task.segment, unit=task.unit)

    def replay_unit(self, task: ReplayUnit) -> UnitReplayed:
        spec = self.spec(task.spec)
        for ref in spec.frozen_blobs:
            self.opened(ref.cid)
        toy = self.toy(spec)
        step, m = toy.place(task.unit, task.start)
        if m < toy.micro_batches:
            seen = self.check_records(CheckRecords(segment=task.segment, spec=task.spec, places=((step, m),)))
            if seen.missing or seen.false:
                raise TaskFailed(Fault.PEER, f"link {task.unit} reads records that no key here opens")
        served = self.boundary(task.boundary.cid)
        ends = list(task.boundary.link_ends)
        committed = ends.pop()
        acc = ends.pop() if m else toy.zero(step, served.state)
        state = ends.pop() if step > task.start else task.parent_root
        end = toy.end(step, m, served.state, served.acc)
        trace = toy.trace(Link(step, m, served.state, served.acc, end))
        self.disk["trace", task.segment, task.unit] = trace
        reason = ""
        if (served.state, served.acc) != (state, acc):
            reason = "what was served is not what was committed"
        elif end != committed:
            reason = f"its replay ends in {end.hex()[:16]}, committed is {committed.hex()[:16]}"
        return UnitReplayed(segment=task.segment, unit=task.unit, agrees=not reason, trace_root=root(trace), reason=reason)

    def say_unserved(self, task: SayUnserved) -> UnitReplayed:
        trace = self.disk["trace", task.segment, task.unit] = [Digest(bytes(32))] * task.leaves
        return UnitReplayed(segment=task.segment, unit=task.unit, agrees=False, trace_root=root(trace), reason="it was not served")

    def opening_hash(self, block: int) -> Digest:
        """Raises Outage before the block is there."""
        ledger = self.chain.ledger
        if ledger.head.number < block:
            raise Outage(f"block {block} does not exist yet")
        return ledger.blocks[draw.seed_block(block, ledger.head.number + 1)].hash

    def make_openings(self, task: MakeOpenings) -> OpeningsMade:
        block_hash = self.opening_hash(task.opening_block)
        openings = []
        for j in range(task.terms.params.openings):
            position, index = draw.opening(block_hash, task.segment, self.account, j, task.units, task.terms)
            trace = self.disk.get(("trace", task.segment, task.units[position]))
            if trace is None:  # the round ended while the block was waited for
                raise TaskFailed(Fault.OWN, f"what was replayed of segment {task.segment} is not kept any more")
            openings.append(Opening(leaf=trace[index], proof=prove(trace, index)))
        return OpeningsMade(openings=tuple(openings))

    def find_published(self, task: FindPublished) -> PublishedFound:
        return PublishedFound(lost=tuple(name for name in task.cids if name not in self.store))

    def drop_segment(self, task: DropSegment) -> Dropped:
        for key in [key for key in self.disk if key[1] == task.segment]:
            del self.disk[key]
        return Dropped()


def encode_toy(toy: Toy) -> bytes:
    return encode([toy.program, toy.micro_batches, toy.micro_leaves, toy.update_leaves])


@lru_cache(maxsize=4096)
def decode_toy(data: bytes) -> Toy:
    """Raises Malformed."""
    return Toy(*decode(data, tuple[Digest, int, int, int]))
