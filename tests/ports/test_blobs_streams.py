"""Streams of blocks: several gateways share the work, what any of them does wrong costs time and nothing else, and each side is bounded."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import random
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from assay import cid as cids
from assay import parts
from assay.adapters import ipfs_hash, ipfs_intake, ipfs_packs, ipfs_pull, ipfs_stream
from assay.adapters.ipfs import LocalBlobs
from assay.adapters.ipfs_gateway import BlockGateway
from assay.adapters.ipfs_sources import Failed
from assay.adapters.ipfs_stream import HAS, LACKS, NODE, PATH, UPGRADE, WANTED, Leaf, Streams, Wire, request
from assay.exact.native.build import library
from assay.ids import Cid
from assay.ports import Outage, StorageFull

DATA = random.Random(6).randbytes(40 * cids.CHUNK + 77)
ROOT = cids.of(DATA)
LEAVES = {block.cid for block in cids.blocks(DATA) if cids.is_raw(block.cid)}


class Counting(Streams):
    """Honest; counts what it is asked for. The liars are it with one part replaced."""

    def __init__(self, node: LocalBlobs) -> None:
        super().__init__(node.store)
        self.asked: list[Cid] = []
        self.opened = 0

    def _send(self, wire: Wire, leaves: Sequence[Leaf]) -> None:
        with self._mutex:
            self.asked += [leaf.cid for leaf in leaves]
            turn = len(self.asked)
        self.answer(wire, leaves, turn)

    def answer(self, wire: Wire, leaves: Sequence[Leaf], turn: int) -> None:
        """`turn`: how many leaves it was asked for, with these."""
        super()._send(wire, leaves)

    def enter(self, host: str) -> None:
        self.opened += 1
        super().enter(host)

    def bodies(self, leaves: Sequence[Leaf]) -> bytes:
        found = [self._blocks.read(leaf.cid) for leaf in leaves]  # type: ignore[attr-defined]
        return b"".join(found)

    def say(self, wire: Wire, leaves: Sequence[Leaf], data: bytes) -> None:
        wire.send(bytes([HAS]) * len(leaves) + data, time.monotonic() + 5)


class Flipping(Counting):
    """Answers other bytes from the fifth block on."""

    def answer(self, wire: Wire, leaves: Sequence[Leaf], turn: int) -> None:
        data = self.bodies(leaves)
        self.say(wire, leaves, data if turn < 5 else data[:-1] + bytes([data[-1] ^ 1]))


class Swelling(Counting):
    """Sends more than was asked for."""

    def answer(self, wire: Wire, leaves: Sequence[Leaf], turn: int) -> None:
        self.say(wire, leaves, self.bodies(leaves) + bytes(cids.CHUNK))


class Shrinking(Counting):
    """Sends a byte less than each block has."""

    def answer(self, wire: Wire, leaves: Sequence[Leaf], turn: int) -> None:
        self.say(wire, leaves, b"".join(self.bodies([leaf])[:-1] for leaf in leaves))


class Babbling(Counting):
    """Says neither that it has a block nor that it lacks it."""

    def answer(self, wire: Wire, leaves: Sequence[Leaf], turn: int) -> None:
        wire.send(b"\x07" * len(leaves) + self.bodies(leaves), time.monotonic() + 5)


class Cutting(Counting):
    """Goes away in the middle of a block."""

    def answer(self, wire: Wire, leaves: Sequence[Leaf], turn: int) -> None:
        self.say(wire, leaves, self.bodies(leaves) if turn < 5 else self.bodies(leaves)[:1000])
        if turn >= 5:
            raise EOFError


class Holding(Counting):
    """Sends some blocks and the beginning of another, and then nothing more."""

    def __init__(self, node: LocalBlobs) -> None:
        super().__init__(node)
        self.hold = threading.Event()

    def answer(self, wire: Wire, leaves: Sequence[Leaf], turn: int) -> None:
        self.say(wire, leaves, self.bodies(leaves) if turn < 5 else self.bodies(leaves)[:1000])
        if turn >= 5:
            self.hold.wait(30)
            raise EOFError


class Poor(Counting):
    """Has the first block of each request."""

    def answer(self, wire: Wire, leaves: Sequence[Leaf], turn: int) -> None:
        with self._mutex:
            for leaf in leaves[1:]:
                self.asked.remove(leaf.cid)
        wire.send(bytes([HAS] + [LACKS] * (len(leaves) - 1)) + self.bodies(leaves[:1]), time.monotonic() + 5)


class Waiting(Counting):
    """Sends nothing before three of its kind have been asked for something."""

    def __init__(self, node: LocalBlobs, asked: set[Counting], all_asked: threading.Event) -> None:
        super().__init__(node)
        self._who, self._all = asked, all_asked

    def answer(self, wire: Wire, leaves: Sequence[Leaf], turn: int) -> None:
        self._who.add(self)
        if len(self._who) == 3:
            self._all.set()
        assert self._all.wait(25)
        super().answer(wire, leaves, turn)


class Net:
    """A node that has the blob, gateways over it that differ in their streams, and a node that wants it."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self._stack = stack
        self.urls: list[str] = []
        self.source = LocalBlobs(folder / "source", lambda near: [])
        self.wanting = LocalBlobs(folder / "wanting", lambda near: self.urls, patience=0.1, timeout=2.0)
        stack.push_async_callback(self.wanting.close)

    async def serve(
        self, kind: Callable[[LocalBlobs], Counting], plain: bool = False, blocks: Callable[[LocalBlobs], OnlyRoot] | None = None
    ) -> Counting:
        """A gateway with these streams; without `plain` it answers no requests for single blocks of a blob but its root, or what `blocks` say."""
        streams = kind(self.source)
        shown = self.source.store if plain else (blocks or OnlyRoot)(self.source)
        gateway = BlockGateway(shown)
        gateway._streams = streams
        self.urls.append(await gateway.start())
        self._stack.push_async_callback(gateway.stop)
        if isinstance(streams, Holding):
            self._stack.callback(streams.hold.set)
        return streams

    def be_patient(self) -> None:
        """For the first answer: on a busy machine it may take long."""
        self.wanting._fetcher._bulk._patience = self.wanting._fetcher._bulk._timeout = 30

    async def fetch(self) -> None:
        await self.wanting.fetch(ROOT, len(DATA))
        assert await self.wanting.get(ROOT) == DATA


class OnlyRoot:
    """Blocks of which the plain gateway shows the root alone: what else arrives came over streams."""

    def __init__(self, node: LocalBlobs) -> None:
        self._store = node.store
        self.open, self.write, self.session = node.store.open, node.store.write, node.store.session
        self.write_leaves, self.among, self.intake = node.store.write_leaves, node.store.among, node.store.intake

    def read(self, cid: Cid) -> bytes | None:
        return None if cids.is_raw(cid) else self._store.read(cid)


class NoPlainBlock(OnlyRoot):
    """Blocks of which the plain gateway shows none."""

    def read(self, cid: Cid) -> bytes | None:
        return None


class Rooted(Counting):
    """Answers otherwise than it should when it is asked for a root."""

    def __init__(self, node: LocalBlobs, says: Callable[[bytes], bytes]) -> None:
        super().__init__(node)
        self._says, self._root = says, node.store.read(ROOT) or b""

    def _send_node(self, wire: Wire, digest: bytes) -> None:
        assert digest == cids.parse(ROOT)[1]
        wire.send(self._says(self._root), time.monotonic() + 5)


Body = Callable[[Net], Awaitable[None]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Body], None]:
    def whole(body: Body) -> None:
        async def inside() -> None:
            async with AsyncExitStack() as stack:
                net = Net(tmp_path, stack)
                assert await net.source.put(DATA) == ROOT
                await asyncio.wait_for(body(net), 240)

        asyncio.run(inside())

    return whole


def test_every_leaf_is_sent_once_and_several_gateways_share_them(run: Callable[[Body], None]) -> None:
    async def body(net: Net) -> None:
        net.be_patient()
        who: set[Counting] = set()
        all_asked = threading.Event()
        served = [await net.serve(lambda node: Waiting(node, who, all_asked)) for _ in range(3)]
        await net.fetch()
        assert sorted(cid for one in served for cid in one.asked) == sorted(LEAVES)
        assert all(one.asked for one in served)

    run(body)


def test_the_root_comes_over_the_stream_that_then_brings_the_leaves(run: Callable[[Body], None]) -> None:
    async def body(net: Net) -> None:
        net.be_patient()
        served = await net.serve(Counting, blocks=NoPlainBlock)
        await net.fetch()
        assert served.opened == 1
        assert sorted(served.asked) == sorted(LEAVES)

    run(body)


def test_a_root_of_a_blob_that_is_too_large_leaves_no_stream_open(run: Callable[[Body], None]) -> None:
    async def body(net: Net) -> None:
        net.be_patient()
        served = await net.serve(Counting, blocks=NoPlainBlock)
        with pytest.raises(ValueError, match="over the limit"):
            await net.wanting.fetch(ROOT, len(DATA) - 1)
        assert served.opened == 1
        while served._hosts:  # noqa: ASYNC110 (its thread hears of it in its own time)
            await asyncio.sleep(0.01)

    run(body)


def test_a_blob_that_is_little_is_worth_no_stream(run: Callable[[Body], None]) -> None:
    async def body(net: Net) -> None:
        served = await net.serve(Counting, plain=True)
        little = DATA[: 2 * cids.CHUNK]
        root = await net.source.put(little)
        await net.wanting.fetch(root, len(little))
        assert await net.wanting.get(root) == little
        assert served.opened == 0

    run(body)


@pytest.mark.parametrize(
    "says",
    [lambda root: bytes([LACKS]), lambda root: b"", lambda root: NODE.pack(HAS, len(root)) + root[:-1]],
    ids=["lacks it", "is silent", "stops in its middle"],
)
def test_a_root_that_a_stream_does_not_bring_comes_the_plain_way(run: Callable[[Body], None], says: Callable[[bytes], bytes]) -> None:
    async def body(net: Net) -> None:
        await net.serve(lambda node: Rooted(node, says))
        await net.fetch()

    run(body)


@pytest.mark.parametrize(
    ("says", "words"),
    [
        (lambda root: NODE.pack(HAS, len(root)) + root[:-1] + bytes([root[-1] ^ 1]), "answered other bytes than"),
        (lambda root: NODE.pack(HAS, 1 << 31), "sent over"),
        (lambda root: b"\x07", "answered what is no answer"),
    ],
)
def test_who_lies_about_a_root_is_named_and_left_alone(run: Callable[[Body], None], says: Callable[[bytes], bytes], words: str) -> None:
    async def body(net: Net) -> None:
        net.be_patient()
        liar = await net.serve(lambda node: Rooted(node, says), blocks=NoPlainBlock)
        for _ in range(2):
            with pytest.raises(Outage, match=f"{net.urls[0]}: {words}"):
                await net.fetch()
        assert liar.opened == 1
        await net.serve(Counting)
        await net.fetch()

    run(body)


@pytest.mark.parametrize("kind", [Flipping, Swelling, Shrinking, Babbling, Cutting, Holding])
def test_what_one_gateway_does_wrong_another_makes_good(run: Callable[[Body], None], kind: Callable[[LocalBlobs], Counting]) -> None:
    async def body(net: Net) -> None:
        await net.serve(kind)
        await net.serve(Counting)
        await net.fetch()

    run(body)


@pytest.mark.parametrize(
    ("kind", "words"),
    [(Flipping, "answered other bytes than"), (Swelling, "answered"), (Shrinking, "answered other bytes"), (Babbling, "answered what is no answer")],
)
def test_a_liar_on_a_stream_is_named_and_left_alone(run: Callable[[Body], None], kind: Callable[[LocalBlobs], Counting], words: str) -> None:
    async def body(net: Net) -> None:
        liar = await net.serve(kind)
        with pytest.raises(Outage, match=f"{net.urls[0]}: {words}"):
            await net.fetch()
        while liar._hosts:  # noqa: ASYNC110 (it may still be writing to a stream that was closed)
            await asyncio.sleep(0.01)
        lies = len(liar.asked)
        with pytest.raises(Outage):
            await net.fetch()
        assert len(liar.asked) == lies
        kept = net.wanting.store.stored()
        assert all(net.wanting.store.read(cid) is not None for cid in kept)
        assert set(kept) == set(net.wanting.store.stored())  # none was dropped for being wrong

    run(body)


@pytest.mark.parametrize("kind", [Counting, Flipping, Cutting])
def test_where_the_kernel_does_not_bring_leaves_they_come_through_memory(
    run: Callable[[Body], None], monkeypatch: pytest.MonkeyPatch, kind: Callable[[LocalBlobs], Counting]
) -> None:
    async def body(net: Net) -> None:
        net.wanting.store._direct = False
        monkeypatch.setattr(ipfs_intake.Intake, "bring", None)
        await net.serve(kind)
        await net.serve(Counting)
        await net.fetch()

    run(body)


def test_what_came_wrong_takes_no_room(run: Callable[[Body], None]) -> None:
    async def body(net: Net) -> None:
        net.wanting.store._direct = ipfs_intake.possible(net.wanting.store.folder)
        await net.serve(Flipping)
        with pytest.raises(Outage):
            await net.fetch()
        store = net.wanting.store
        assert store.used == sum(store.stored().values())
        packs = list((store.folder / "packs").iterdir())
        assert sum(512 * os.stat(pack).st_blocks for pack in packs) <= store.used + len(packs) * ipfs_packs.HEAD

    run(body)


@pytest.mark.parametrize("end", ["in the middle", "after a block of other bytes"])
def test_a_leaf_that_drips_in_is_taken_and_a_broken_one_is_not(tmp_path: Path, end: str) -> None:
    store = LocalBlobs(tmp_path, lambda near: []).store
    if not store._direct:
        pytest.skip("the kernel brings no leaves here")
    near, far = socket.socketpair()
    blocks = [DATA[at * cids.CHUNK : (at + 1) * cids.CHUNK] for at in range(3)]
    digests = [hashlib.sha256(block).digest() for block in blocks]
    whole = b"".join(blocks)

    def drip() -> None:
        with far:
            for at in range(300):
                far.sendall(whole[at : at + 1])
            far.sendall(whole[300:] if end != "in the middle" else whole[300 : 2 * cids.CHUNK])

    thread = threading.Thread(target=drip)
    thread.start()
    near.settimeout(None)
    pipe = ipfs_intake.Pipe()
    try:
        with near, store.intake(3) as intake:
            assert intake is not None
            if end == "in the middle":
                with pytest.raises(Failed, match="in the middle of a block"):
                    intake.bring(near, pipe, 20)
            else:
                intake.bring(near, pipe, 20)
                with intake.view() as data:
                    assert data == whole
                intake.keep([digests[0], ipfs_packs.NOTHING])
    finally:
        thread.join()
        pipe.close()
    assert store.among(digests) == ({digests[0]} if end != "in the middle" else set())
    assert store.used == cids.CHUNK * len(store.among(digests))


def test_who_lacks_blocks_gives_those_that_it_has(run: Callable[[Body], None]) -> None:
    async def body(net: Net) -> None:
        poor = await net.serve(Poor)
        full = await net.serve(Counting)
        await net.fetch()
        assert {*poor.asked, *full.asked} >= LEAVES

    run(body)


def test_what_no_stream_has_comes_the_plain_way(run: Callable[[Body], None]) -> None:
    async def body(net: Net) -> None:
        await net.serve(Poor, plain=True)
        await net.fetch()

    run(body)


def test_an_interrupted_fetch_goes_on_where_it_was(run: Callable[[Body], None]) -> None:
    async def body(net: Net) -> None:
        first = await net.serve(Cutting)
        with pytest.raises(Outage):
            await net.fetch()
        had = set(net.wanting.store.stored()) & LEAVES
        assert had
        net.urls.clear()
        second = await net.serve(Counting)
        await net.fetch()
        assert not had & set(second.asked)
        assert had | set(second.asked) == LEAVES
        assert first.asked

    run(body)


def test_a_fetch_that_is_given_up_leaves_no_thread_behind(run: Callable[[Body], None]) -> None:
    async def body(net: Net) -> None:
        held = await net.serve(Holding)
        task = asyncio.create_task(net.fetch())
        while len(held.asked) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        used = net.wanting.store.used
        assert net.wanting._fetcher._bulk._threads is not None
        net.wanting._fetcher._bulk._threads.shutdown(wait=True)  # returns: none of them waits for the gateway
        assert net.wanting.store.used == used

    run(body)


def test_a_full_store_is_said_and_not_the_gateways_fault(run: Callable[[Body], None]) -> None:
    async def body(net: Net) -> None:
        await net.serve(Counting)
        net.wanting.store.quota = 10 * cids.CHUNK
        with pytest.raises(StorageFull, match="raise the quota"):
            await net.fetch()
        net.wanting.store.quota = None
        await net.fetch()

    run(body)


def test_a_leaf_that_its_publisher_made_wrong_is_not_the_gateways_fault(run: Callable[[Body], None]) -> None:
    async def body(net: Net) -> None:
        await net.serve(Counting, plain=True)
        small = b"small"
        links = [cids.Link(cid, cids.CHUNK, cids.CHUNK) for cid in sorted(LEAVES) if len(net.source.store.read(cid) or b"") == cids.CHUNK][:4]
        wrong = cids.encode_node([*links, cids.Link(cids.of_block(cids.RAW, small), 6, 6)])
        net.source.store.write(cids.of_block(cids.RAW, small), small)
        root = cids.of_block(cids.DAG_PB, wrong)
        net.source.store.write(root, wrong)
        with pytest.raises(cids.BadNode, match="whoever published the blob"):
            await net.wanting.fetch(root, 1 << 30)
        await net.fetch()  # nobody is left alone for it

    run(body)


def test_equal_chunks_are_sent_once(run: Callable[[Body], None]) -> None:
    async def body(net: Net) -> None:
        served = await net.serve(Counting)
        zeros = await net.source.put(bytes(12 * cids.CHUNK))
        done = []
        net.wanting._progress = lambda step: done.append(step.done)
        await net.wanting.fetch(zeros, 12 * cids.CHUNK)
        assert served.asked == [cids.of_block(cids.RAW, bytes(cids.CHUNK))]
        assert done[-1] == 12 * cids.CHUNK

    run(body)


def test_of_a_checkpoint_like_the_one_before_only_what_changed_is_sent(run: Callable[[Body], None]) -> None:
    """Two tensors, of which one changed: a node that has the state before fetches the other's part and the table."""
    big = parts.PART
    first, second = random.Random(1).randbytes(2 * big), random.Random(2).randbytes(big)
    before = parts.seal_parts(first[:big] + second, [big, 2 * big], b"k" * 32)
    after = parts.seal_parts(first[big:] + second, [big, 2 * big], b"n" * 32, (before, b"k" * 32))

    async def body(net: Net) -> None:
        served = await net.serve(Counting)
        roots = [await net.source.put(blob) for blob in (before, after)]
        await net.wanting.fetch(roots[0], 1 << 30)
        whole = len(set(served.asked))
        served.asked.clear()
        await net.wanting.fetch(roots[1], 1 << 30)
        assert parts.unseal(await net.wanting.get(roots[1]), b"n" * 32) == first[big:] + second
        assert len(set(served.asked)) <= whole // 2 + 2

    run(body)


# ---- hostile readers -------------------------------------------------------------------------------------------------------


def connect(url: str, upgrade: str = UPGRADE) -> tuple[socket.socket, bytes]:
    """A stream as some stranger would open it, and how the gateway answered."""
    host, port = url.removeprefix("http://").split(":")
    wire = socket.create_connection((host, int(port)), 10)
    wire.sendall(f"GET {PATH} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: {upgrade}\r\n\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        part = wire.recv(1)
        assert part
        head += part
    return wire, head


def ended(wire: socket.socket) -> bytes:
    """What still comes until the other side closes."""
    got = b""
    try:
        while part := wire.recv(1 << 16):
            got += part
    except ConnectionError:
        pass
    return got


def hostile(run: Callable[[Body], None], stranger: Callable[[str], None]) -> None:
    """Runs a stranger in a thread against a gateway, and checks that the gateway still serves afterwards."""

    async def body(net: Net) -> None:
        await net.serve(Counting)
        await asyncio.to_thread(stranger, net.urls[0])
        await net.fetch()

    run(body)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [(b"\x11", "asked for 17 blocks"), (b"\xff" * 99, "asked for 255 blocks"), (b"\x01" + WANTED.pack(bytes(32), cids.CHUNK + 1), "a leaf of over")],
)
def test_what_is_no_request_closes_the_stream(
    run: Callable[[Body], None], caplog: pytest.LogCaptureFixture, wrong: bytes, words: str
) -> None:
    def stranger(url: str) -> None:
        wire, head = connect(url)
        assert head.startswith(b"HTTP/1.1 101 ")
        good = Leaf(cids.parse(min(LEAVES))[1], cids.CHUNK)
        wire.sendall(request([good]) + wrong)
        got = ended(wire)
        assert hashlib.sha256(got[1:]).digest() == good.digest  # the good one before it was answered

    with caplog.at_level(logging.WARNING, "assay.blobs"):
        hostile(run, stranger)
    assert words in caplog.text


@pytest.mark.parametrize("said", [b"", b"\x01\x55\x12"])
def test_a_stream_that_asks_slowly_or_not_at_all_is_closed(
    run: Callable[[Body], None], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(ipfs_stream, "IDLE", 0.3)
    monkeypatch.setattr(ipfs_stream, "REQUEST_WITHIN", 0.3)

    def stranger(url: str) -> None:
        wire, _ = connect(url)
        wire.sendall(said)
        assert ended(wire) == b""

    with caplog.at_level(logging.WARNING, "assay.blobs"):
        hostile(run, stranger)
    assert ("did not finish it" if said else "asks for nothing") in caplog.text


def test_a_reader_that_does_not_read_is_closed(run: Callable[[Body], None], caplog: pytest.LogCaptureFixture) -> None:
    async def body(net: Net) -> None:
        served = await net.serve(Counting)
        served._read_within = 0.3

        def stranger(url: str) -> None:
            wire, _ = connect(url)
            wire.sendall(request([Leaf(cids.parse(cid)[1], cids.CHUNK) for cid in sorted(LEAVES) * 3]))
            while "did not read a block in time" not in caplog.text:
                time.sleep(0.01)

        await asyncio.to_thread(stranger, net.urls[0])
        served._read_within = 15
        await net.fetch()

    with caplog.at_level(logging.WARNING, "assay.blobs"):
        run(body)


def test_streams_are_bounded_for_each_address_and_in_all(run: Callable[[Body], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipfs_stream, "STREAMS_PER_HOST", 3)

    def stranger(url: str) -> None:
        held = [connect(url) for _ in range(5)]
        assert [head[:12] for _, head in held] == [b"HTTP/1.1 101"] * 3 + [b"HTTP/1.1 503"] * 2
        for wire, _ in held:
            wire.close()

    async def body(net: Net) -> None:
        await net.serve(Counting, plain=True)
        await asyncio.to_thread(stranger, net.urls[0])
        await net.fetch()

    run(body)
    one = Streams(None, limit=2)  # type: ignore[arg-type]
    one.enter("a")
    one.enter("b")
    with pytest.raises(ipfs_stream.TooMany):
        one.enter("c")
    one.leave("a")
    one.enter("c")


def test_another_protocol_is_refused(run: Callable[[Body], None]) -> None:
    def stranger(url: str) -> None:
        _, head = connect(url, "websocket")
        assert head.startswith(b"HTTP/1.1 4")

    hostile(run, stranger)


def test_a_gateway_that_is_stopped_ends_its_streams(run: Callable[[Body], None]) -> None:
    async def body(net: Net) -> None:
        gateway = BlockGateway(net.source.store)
        url = await gateway.start()
        wire, _ = await asyncio.to_thread(connect, url)
        await gateway.stop()
        assert await asyncio.to_thread(ended, wire) == b""

    run(body)


# ---- hashes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[], [0], [5], [64, 64, 64], [64, 64, 7], [1, 0, 0, 1, 1], [cids.CHUNK] * 4])
def test_hashes_are_the_same_alone_and_in_pairs(sizes: list[int]) -> None:
    library()  # compiled before it is asked for
    ipfs_hash.best.cache_clear()
    data = random.Random(1).randbytes(sum(sizes))
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    wanted = [hashlib.sha256(data[end - size : end]).digest() for end, size in zip(ends, sizes, strict=True)]
    assert ipfs_hash.best()(memoryview(data), sizes) == ipfs_hash.one_by_one(memoryview(data), sizes) == wanted


# ---- whom to ask for what --------------------------------------------------------------------------------------------------


def test_a_block_that_is_late_is_asked_of_another_and_no_third(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(ipfs_pull.time, "monotonic", lambda: now[0])
    leaf = Leaf(cids.parse(min(LEAVES))[1], 5)
    pull = ipfs_pull.Pull([leaf, leaf], patience=2.0)
    assert pull.take("a", 8) == [leaf]
    assert pull.take("b", 8) == []
    now[0] += 2.1
    assert pull.take("a", 8) == []
    assert pull.take("b", 8) == [leaf]
    assert pull.take("c", 8) == []  # b has had no time yet
    pull.back([leaf], "a")
    assert pull.take("a", 8) == []
    pull.back([leaf], "b", lacks=True)
    assert pull.take("b", 8) == []
    assert pull.take("c", 8) == [leaf]
    pull.stored([leaf])
    assert (pull.over, pull.brought) == (True, 10)
    assert not pull.wait("c")
