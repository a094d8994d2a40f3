"""Proofs of hardware: what holds for honest ones on every route, and what becomes of those who have less than they claim."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from assay.adapters.memory_blobs import BlobNet, MemoryBlobs
from assay.adapters.memory_chain import MemoryLedger
from assay.adapters.memory_stamps import Kept, MemoryStamps
from assay.chain import CallId, Offer
from assay.cli import prover
from assay.codec import decode, encode
from assay.exact.cuda import fake
from assay.exact.hashing import chunk_root
from assay.ids import Address, Cid, Digest, JobId, PeerId, SegmentId
from assay.merkle import sha256
from assay.messages import Hardware
from assay.ports import Outage
from assay.proving import claims, held, products, work
from assay.proving.benches import OnDevice, Processor
from assay.proving.proof import BLOCKS, Answer, Bench, Claim, Opening, Proving, Refuted, check, drawn, seed_of
from assay_scheduler.placement import Bid, Wanted, rank

CLAIM = Claim(lanes=64, levels=16, side=128, products=6)
SEED, SAMPLE = sha256(b"seed"), sha256(b"sample")


def proof(bench: Bench, claim: Claim = CLAIM, sample: Digest = SAMPLE) -> tuple[Answer, Opening]:
    proving = Proving(bench, claim, 7)
    return proving.answer(SEED), proving.open(SEED, sample)


@pytest.mark.parametrize(
    ("lanes", "levels", "side", "products"),
    [(64, 16, 128, 6), (16, 20, 128, 1), (512, 33, 1024, 1), (1024, 65, 2048, 1)],
    ids=["small", "narrow", "rows of a chunk", "rows of two chunks"],
)
def test_an_honest_proof_holds_and_survives_being_sent(lanes: int, levels: int, side: int, products: int) -> None:
    claim = Claim(lanes=lanes, levels=levels, side=side, products=products)
    answer, opening = proof(Processor(), claim)
    check(decode(encode(answer), Answer), SEED, SAMPLE, decode(encode(opening), Opening, limit=1 << 28))
    assert len(encode(answer)) < claims.MAX_ANSWER


@pytest.mark.skipif(fake.compiler() is None, reason="the fake device needs a C++ compiler")
@pytest.mark.parametrize("library", [True, False], ids=["library", "plain product"])
def test_a_device_gives_the_same_bits(library: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not library:
        monkeypatch.setattr(fake.Fake, "library", lambda self: None)
    assert proof(OnDevice(fake.Fake())) == proof(Processor())


def test_the_first_words_and_a_mixing_are_those_that_they_always_were() -> None:
    """Golden values: what was proven stays checkable."""
    memory = held.fill(SEED, 64, 4)
    assert sha256(memory.tobytes()).hex()[:16] == "868bde1343063e67"
    state = memory.view(np.int8).reshape(-1)[: 64 * 64].reshape(64, 64)
    assert sha256(products.rows(state, state).tobytes()).hex()[:16] == "8e68386002c01c57"


def test_sums_are_exact_where_floats_would_not_hold_them() -> None:
    worst = np.full((2048, 2048), -128, np.int8)
    exact = products.fold(np.full((1, 2048), 2048 * 2**14, np.int32))
    assert np.array_equal(products.rows(worst, worst[:1]), exact)


# ---- cheats ----------------------------------------------------------------------------------------------------------------


class Forgetful(Processor):
    """Has half of the memory: the second half of the levels is the first once more."""

    def fill(self, claim: Claim, seed: Digest) -> list[Digest]:
        words = held.fill(seed, claim.lanes, claim.levels // 2)
        self._memory, self._side = np.concatenate([words, words]).view(np.uint8).reshape(-1), claim.side
        return [chunk_root(level) for level in self._memory.reshape(claim.levels, -1)]


class Careless(Processor):
    """Leaves one block in eight as it is."""

    def fill(self, claim: Claim, seed: Digest) -> list[Digest]:
        words = held.fill(seed, claim.lanes, claim.levels)
        words[::8] ^= 1
        self._memory, self._side = words.view(np.uint8).reshape(-1), claim.side
        return [chunk_root(level) for level in words.reshape(claim.levels, -1)]


class Lazy(Processor):
    """Does every other product."""

    def step(self, at: int) -> Digest:
        self.done = getattr(self, "done", 0) + 1
        return super().step(at) if self.done % 2 else chunk_root(self._state)


class Hasty(Processor):
    """Begins its products with a state of its own, before the memory is full."""

    def start(self) -> Digest:
        self._state = np.zeros((self._side, self._side), np.int8)
        return chunk_root(self._state)


@pytest.mark.parametrize(
    ("cheat", "why"),
    [
        (Forgetful, "is not what its parents are mixed to"),
        (Careless, "is not what its parents are mixed to"),
        (Lazy, "rows of product"),
        (Hasty, "first state is not the end of the memory"),
    ],
)
def test_who_has_not_done_the_work_is_found_out(cheat: type[Processor], why: str) -> None:
    answer, opening = proof(cheat(), msgspec.structs.replace(CLAIM, products=12))
    with pytest.raises(Refuted, match=why):
        check(answer, SEED, SAMPLE, opening)


def test_an_answer_is_for_one_seed_and_an_opening_for_one_sample() -> None:
    answer, opening = proof(Processor())
    for seed, sample in ((sha256(b"other"), SAMPLE), (SEED, sha256(b"other"))):
        with pytest.raises(Refuted):
            check(answer, seed, sample, opening)
    ours, others = (seed_of(1, SEED, who, CLAIM) for who in (Address("0x" + "a" * 40), Address("0x" + "b" * 40)))
    assert ours != others


def changed(value: Any, path: tuple[Any, ...], by: Callable[[Any], Any]) -> Any:
    if not path:
        return by(value)
    if isinstance(value, tuple):
        inner = changed(value[path[0]], path[1:], by)
        return (*value[: path[0]], inner, *value[path[0] + 1 :])
    return msgspec.structs.replace(value, **{path[0]: changed(getattr(value, path[0]), path[1:], by)})


def flipped(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


@pytest.mark.parametrize(
    ("path", "by"),
    [
        (("levels", 3), flipped),
        (("levels",), lambda roots: roots[:-1]),
        (("states", 2), flipped),
        (("states",), lambda roots: (*roots, roots[0])),
        (("pieces", 5, "data"), flipped),
        (("pieces", 5, "data"), lambda data: data[:-1]),
        (("pieces", 5, "of"), lambda of: 99),
        (("pieces", 5, "of"), lambda of: -1),
        (("pieces", 5, "chunk"), lambda chunk: 10**9),
        (("pieces", 5, "path"), lambda path: path[:-1]),
        (("pieces",), lambda pieces: pieces[:20]),
        (("start",), lambda start: start[1:]),
        (("start", 0, 0), lambda piece: msgspec.structs.replace(piece, of=0)),
        (("start", 0, 1, "data"), flipped),
        (("steps",), lambda steps: steps[:-1]),
        (("steps", 0, "step"), lambda step: step + 1),
        (("steps", 0, "state"), flipped),
        (("steps", 0, "state"), lambda state: state[:-1]),
        (("steps", 0, "slabs"), lambda slabs: slabs[1:]),
        (("steps", 0, "slabs", 0), lambda slab: (slab[1], slab[0])),
        (("steps", 0, "slabs", 0, 0, 0, "data"), flipped),
        (("steps", 0, "slabs", 0, 1, 0, "data"), flipped),
        (("steps", 0, "slabs", 0, 1), lambda after: ()),
    ],
)  # fmt: skip
def test_nothing_of_an_opening_can_be_changed(path: tuple[Any, ...], by: Callable[[Any], Any]) -> None:
    answer, opening = PROVEN
    with pytest.raises(Refuted):
        check(answer, SEED, SAMPLE, changed(opening, path, by))


PROVEN = proof(Processor())


@pytest.mark.parametrize(
    "changes",
    [
        {"lanes": 8}, {"lanes": 65}, {"lanes": 1 << 30}, {"levels": 1}, {"levels": 1 << 30}, {"side": 100}, {"side": 64}, {"side": 1 << 20},
        {"products": 0}, {"products": 1 << 40}, {"lanes": 16, "levels": 2}, {"lanes": -16}, {"lanes": 1 << 26, "levels": 1 << 16},
    ],
)  # fmt: skip
def test_a_claim_that_nobody_can_prove_is_refused_before_anything_is_computed(changes: dict[str, int]) -> None:
    answer, opening = PROVEN
    with pytest.raises(ValueError, match=r"lanes|matrices|levels"):
        check(msgspec.structs.replace(answer, claim=msgspec.structs.replace(CLAIM, **changes)), SEED, SAMPLE, opening)


class Saver:
    """Keeps some of the levels, and computes blocks of others again when they are pointed at: counts how many it computes for the last level."""

    def __init__(self, claim: Claim, keeps: Callable[[int], bool], most: int = 10**9) -> None:
        self.claim, self.keeps, self.most = claim, keeps, most
        self.memory = held.fill(SEED, claim.lanes, claim.levels)
        self.computed = 0

    def block(self, number: int) -> held.Words:
        level = number // self.claim.lanes
        return self.memory[number : number + 1] if level == 0 or self.keeps(level) else self.again(number)

    def again(self, number: int) -> held.Words:
        self.computed += 1
        if self.computed > self.most:
            raise OverflowError
        lanes = self.claim.lanes
        made = held.mixed(self.block(number - lanes), number // lanes * lanes, lambda at: self.block(int(at[0])))
        assert np.array_equal(made[0], self.memory[number])
        return made


def test_who_keeps_less_computes_much_more() -> None:
    """Blocks computed for one of the last level, whose own is one of them: without one level in 32, in sixteen, in eight, in four."""
    claim, spent = Claim(lanes=64, levels=48, side=128, products=1), []
    for missing in (32, 16, 8, 4):
        saver = Saver(claim, lambda level, missing=missing: level % missing != 1, most=20_000)  # type: ignore[misc]
        for lane in range(8):
            saver.again(47 * 64 + lane)
        spent.append(saver.computed / 8)
    assert 1 <= spent[0] < spent[1] < spent[2] < spent[3]
    assert spent[0] < 2
    assert spent[3] > 10


def test_samples_reach_everywhere() -> None:
    numbers = drawn(SAMPLE, b"block", 4096, 1024)
    assert len(set(numbers)) > 900
    assert drawn(SAMPLE, b"step", 4096, 1024) != numbers
    assert (1 - 1 / 8) ** BLOCKS < 2e-4  # what a careless one in eight gets away with


# ---- on the chain ----------------------------------------------------------------------------------------------------------


class Here:
    """In place of the process: the work is done at once, and takes what the stamp takes."""

    def __init__(self, bench: Callable[[], Bench] = Processor) -> None:
        self.bench = bench

    async def answer(self, claim: Claim, block: int, seed: Digest) -> Answer:
        self.proving, self.seed = Proving(self.bench(), claim, block), seed
        return self.proving.answer(seed)

    async def opening(self, sample: Digest, to: Path) -> bytes:
        return encode(self.proving.open(self.seed, sample))


class Net:
    """A chain and a store of blobs for a worker, its accomplice and a scheduler."""

    def __init__(self, takes: int = 10) -> None:
        self.ledger, self.kept, self.blobs = MemoryLedger(b"proving"), Kept(), BlobNet()
        self.stamps = {name: MemoryStamps(self.ledger, name, self.kept, takes) for name in ("worker", "other")}
        self.stores = {name: MemoryBlobs(self.blobs, PeerId(name)) for name in ("worker", "other", "scheduler")}
        self.ledger.mine()

    async def prove(
        self, name: str = "worker", bench: Callable[[], Bench] = Processor, block: int | None = None, claim: Claim = CLAIM
    ) -> Hardware:
        asked, work = self.ledger.head.number if block is None else block, Here(bench)
        return await claims.prove(self.stamps[name], self.stores[name], work, claim, asked, Path("/none"))  # type: ignore[arg-type]

    async def examine(self, told: Hardware, name: str = "worker") -> claims.Proven:
        return await claims.examine(self.stamps["other"], self.stores["scheduler"], self.stamps[name].account, told)


def play(body: Any) -> Any:
    return asyncio.run(body)


def test_anybody_can_examine_what_a_node_has_proven() -> None:
    async def scene() -> None:
        net = Net(takes=10)
        told = await net.prove()
        found = await net.examine(told)
        assert (found.memory, found.seconds, found.rate) == (CLAIM.memory, 10, CLAIM.operations // 10)
        assert told.memory == CLAIM.memory

    play(scene())


def test_a_proof_is_its_own_accounts_and_no_other_transaction_will_do() -> None:
    async def scene() -> None:
        net = Net()
        told = await net.prove()
        with pytest.raises(Refuted, match="that of"):
            await net.examine(told, "other")
        with pytest.raises(Refuted, match="no such answer"):
            await net.examine(msgspec.structs.replace(told, transaction=sha256(b"none")))
        junk = await net.stamps["worker"].stamp(CallId("junk"), b"{}")
        with pytest.raises(Refuted, match="malformed"):
            await net.examine(msgspec.structs.replace(told, transaction=junk))
        early = encode(Answer(claim=CLAIM, block=10**6, memory=SEED, chain=SEED))
        with pytest.raises(Refuted, match="not there yet"):
            await net.examine(msgspec.structs.replace(told, transaction=await net.stamps["worker"].stamp(CallId("early"), early)))
        absurd = encode(Answer(claim=msgspec.structs.replace(CLAIM, levels=0), block=0, memory=SEED, chain=SEED))
        with pytest.raises(Refuted, match="malformed"):
            await net.examine(msgspec.structs.replace(told, transaction=await net.stamps["worker"].stamp(CallId("absurd"), absurd)))

    play(scene())


def test_an_opening_that_is_junk_missing_or_of_a_cheat_proves_nothing() -> None:
    async def scene() -> None:
        net = Net()
        told = await net.prove(bench=Careless)
        with pytest.raises(Refuted, match="parents"):
            await net.examine(told)
        good = await net.prove("worker")
        for data in (b"{}", b"\xff", encode(PROVEN[1])):
            with pytest.raises(Refuted):
                await net.examine(msgspec.structs.replace(good, opening=await net.stores["worker"].put(data)))
        with pytest.raises(Outage):
            await net.examine(msgspec.structs.replace(good, opening=Cid("bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku")))
        with pytest.raises(Refuted, match="not to be had"):
            await net.examine(msgspec.structs.replace(good, opening=Cid("../x")))

    play(scene())


def test_who_answers_late_has_proven_little_or_nothing() -> None:
    async def scene() -> None:
        net = Net(takes=claims.LONGEST + 1)
        with pytest.raises(Refuted, match="are allowed"):
            await net.examine(await net.prove())

    play(scene())


def test_two_identities_on_one_machine_prove_half_of_it_each() -> None:
    """Both are asked by the same block, and their seeds differ: one is done when the machine has done the other's work, too."""

    async def scene() -> None:
        net = Net(takes=10)
        asked = net.ledger.head.number
        first = await net.prove("worker", block=asked)
        second = await net.prove("other", block=asked)  # its ten seconds begin when the first one's are over
        one, two = await net.examine(first), await net.examine(second, "other")
        assert one.block == two.block == asked
        assert two.seconds >= 2 * one.seconds
        assert two.rate <= one.rate // 2
        with pytest.raises(Refuted, match="that of"):  # and the first one's answer does not serve the second
            await net.examine(first, "other")

    play(scene())


# ---- the process and the daemon --------------------------------------------------------------------------------------------


def test_the_process_measures_answers_and_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_DEVICE", "cpu")
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))

    async def scene() -> None:
        async with claims.working() as process:
            with pytest.raises(claims.Failed, match="no answer yet"):
                await process.opening(SAMPLE, tmp_path / "opening")
            claim = await process.measure(1 << 20, 0.01)
            assert claim.memory == 1 << 20
            with pytest.raises(claims.Failed, match="matrices"):
                await process.answer(msgspec.structs.replace(claim, side=100), 7, SEED)
            answer = await process.answer(CLAIM, 7, SEED)
            data = await process.opening(SAMPLE, tmp_path / "opening")
            assert (answer, decode(data, Opening)) == PROVEN
            assert not (tmp_path / "opening").exists()

    play(scene())


@pytest.mark.parametrize("memory", [1 << 15, 1 << 20, 3 << 20, 1 << 30, 80 << 30])
@pytest.mark.parametrize("device", [False, True])
def test_a_claim_is_of_nearly_all_of_the_memory(memory: int, device: bool) -> None:
    claim = work.shape(memory, device)
    assert memory * 0.9 <= claim.memory <= memory
    with pytest.raises(ValueError, match=r"matrices|lanes|levels"):
        work.shape(1000, device)


def test_a_node_proves_when_its_owner_or_a_block_asks_and_it_is_idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, notes, proven, idle = Net(), [], [], [True]

    async def prove(self: prover.Prover, block: Any) -> Any:
        proven.append(block.number)

    monkeypatch.setattr(prover.Prover, "prove", prove)

    async def scene() -> None:
        made = prover.Prover(net.stamps["worker"], net.stores["worker"], tmp_path, 1 << 20, 4, lambda: idle[0], notes.append)
        watching = asyncio.create_task(made.watch(0))

        async def blocks(count: int) -> list[int]:
            first = net.ledger.head.number + 1
            for _ in range(count):
                net.ledger.mine()
                for _ in range(5):
                    await asyncio.sleep(0)
            return [n for n in range(first, first + count) if prover.asks(net.ledger.blocks[n].hash, 4)]

        await blocks(1)
        proven.clear()
        asked = await blocks(40)
        assert proven == asked
        assert 4 <= len(asked) <= 18
        proven.clear()
        idle[0] = False
        await blocks(20)
        assert proven == []
        made.ask()
        await blocks(1)
        assert proven == [net.ledger.head.number - 1] or proven == [net.ledger.head.number]
        watching.cancel()

    play(scene())


def test_what_was_proven_is_kept_told_and_replaces_what_was_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, notes = Net(), []

    class Near(Here):
        async def measure(self, memory: int, seconds: float) -> Claim:
            return CLAIM

    class Working:
        def __init__(self, environment: dict[str, str]) -> None:
            assert environment == {"ASSAY_GPU_MEMORY": "90%"}

        async def __aenter__(self) -> Any:
            return Near()

        async def __aexit__(self, *_: object) -> None:
            return None

    monkeypatch.setattr(claims, "working", Working)

    async def scene() -> None:
        made = prover.Prover(net.stamps["worker"], net.stores["worker"], tmp_path, 0, 4, lambda: True, notes.append)
        assert prover.told_in(tmp_path) is None
        told = []
        for _ in range(2):
            await made.prove(net.ledger.head)
            told.append(prover.told_in(tmp_path))
        assert told[0] != told[1]
        assert set(net.stores["worker"]._pins) == {told[1].opening}
        assert [note.topic for note in notes] == ["hardware"] * 2
        (tmp_path / prover.FILE).write_bytes(b"{torn")
        assert prover.told_in(tmp_path) is None

    play(scene())


# ---- placing ---------------------------------------------------------------------------------------------------------------


def bid(price: int, proven: bool, speed: int = 0) -> Bid:
    offer = Offer(provider=Address("0x" + "a" * 40), job=JobId(1), parent=SegmentId(0), start=0, stop=1, price=price, expires=10, nonce=price)
    return Bid(offer, b"", speed, proven)


def test_of_equal_prices_the_proven_hardware_is_taken_and_before_the_price_where_that_is_preferred() -> None:
    cheap, dear, proven = bid(1, False), bid(2, False, speed=9), bid(2, True)
    for preferred, order in ((False, [cheap, proven, dear]), (True, [proven, cheap, dear])):
        ranked, _ = rank([dear, proven, cheap], {}, Wanted(cap=10, now=0, prefers_proven=preferred))
        assert [scored.bid for scored in ranked] == order
