"""The block store on disk: whole or not at all, corrupt blocks found out, a quota that loses nothing, a disk that is full."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from assay import cid as cids
from assay.adapters import ipfs_packs
from assay.adapters.ipfs import LocalBlobs
from assay.adapters.ipfs_gateway import BlockGateway
from assay.adapters.ipfs_packs import HEAD
from assay.adapters.ipfs_store import BlockStore
from assay.adapters.ipfs_stream import in_rows
from assay.adapters.memory_blobs import BlobNet, MemoryBlobs
from assay.ids import Cid, PeerId
from assay.ports import StorageFull

CHUNK = cids.CHUNK


def data(size: int, seed: int = 0) -> bytes:
    return random.Random(size * 1000 + seed).randbytes(size)


def alone(folder: Path, quota: int | None = None) -> LocalBlobs:
    return LocalBlobs(folder, lambda near: [], quota=quota)


def files(folder: Path) -> dict[str, Path]:
    """Of the blocks that have one each."""
    return {path.name: path for path in (folder / "blocks").rglob("*") if path.is_file()}


def damaged(folder: Path, victim: Cid, damage: str) -> None:
    """Spoils a block on the disk, behind the store's back: in a file of its own, or where it lies in a pack."""
    found = files(folder).get(victim)
    if found is None:
        digest = cids.parse(victim)[1]
        heads = {pack: pack.read_bytes()[:HEAD] for pack in (folder / "packs").iterdir()}
        [(path, at)] = [(pack, HEAD + head.index(digest) // 32 * CHUNK) for pack, head in heads.items() if digest in head]
        size = CHUNK
    else:
        path, at, size = found, 0, found.stat().st_size
    match damage:
        case "flip":
            with path.open("r+b") as file:
                file.seek(at)
                first = file.read(1)[0]
                file.seek(at)
                file.write(bytes([first ^ 1]))
        case "cut":
            os.truncate(path, at + size - 1)
        case "empty":
            os.truncate(path, at)
        case "gone":
            path.unlink()


def on_disk(folder: Path) -> int:
    """Bytes that the packs take on the disk, without their holes."""
    return sum(pack.stat().st_blocks * 512 for pack in (folder / "packs").iterdir())


# ---- corruption ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone"])
@pytest.mark.parametrize("which", ["leaf", "root"])
def test_a_corrupt_block_is_dropped_and_fetched_again(tmp_path: Path, damage: str, which: str) -> None:
    blob = data(3 * CHUNK + 9)

    async def body() -> None:
        async with AsyncExitStack() as stack:
            source = alone(tmp_path / "a")
            gateway = BlockGateway(source.store)
            url = await gateway.start()
            stack.push_async_callback(gateway.stop)
            node = LocalBlobs(tmp_path / "b", lambda near: [url])
            stack.push_async_callback(node.close)
            root = await source.put(blob)
            await node.fetch(root, len(blob))
            used = node.store.used
            victim = root if which == "root" else cids.walk(files(tmp_path / "b")[root].read_bytes())[1][0]
            damaged(tmp_path / "b", victim, damage)
            with pytest.raises(KeyError, match="not in the local store: fetch"):
                await node.get(root)
            assert victim not in node.store.stored()
            assert not await node.has(root)
            await node.fetch(root, len(blob))
            assert await node.get(root) == blob
            assert damage != "flip" or node.store.used == used

    asyncio.run(body())


def test_a_corrupt_block_is_not_served(tmp_path: Path) -> None:
    async def body() -> None:
        source = alone(tmp_path / "a")
        cid = await source.put(b"precious")
        files(tmp_path / "a")[cid].write_bytes(b"precioux")
        assert source.store.read(cid) is None

    asyncio.run(body())


# ---- room ----------------------------------------------------------------------------------------------------------------


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    store = BlockStore(tmp_path, quota=10 * CHUNK)
    blobs = [data(CHUNK, seed) for seed in range(12)]
    names = [cids.of(blob) for blob in blobs]
    for blob, name in zip(blobs[:10], names[:10], strict=True):
        store.write(name, blob)
    assert store.read(names[0]) == blobs[0]  # used again
    store.write(names[10], blobs[10])
    left = set(store.stored())
    assert names[0] in left
    assert names[1] not in left
    assert names[10] in left
    assert store.used == sum(store.stored().values()) <= 10 * CHUNK
    assert on_disk(tmp_path) <= 11 * CHUNK
    assert BlockStore(tmp_path).used == store.used


def test_what_is_pinned_stays_with_all_its_blocks(tmp_path: Path) -> None:
    async def body() -> None:
        blobs = alone(tmp_path, quota=8 * CHUNK)
        mine = await blobs.put(data(3 * CHUNK))
        for seed in range(20):
            other = await blobs.put(data(CHUNK, seed))
            await blobs.unpin(other)
        assert await blobs.get(mine) == data(3 * CHUNK)
        again = alone(tmp_path, quota=8 * CHUNK)  # also over a restart
        for seed in range(20, 30):
            await again.unpin(await again.put(data(CHUNK, seed)))
        assert await again.get(mine) == data(3 * CHUNK)

    asyncio.run(body())


def test_a_quota_that_is_used_up_is_said_and_loses_nothing(tmp_path: Path) -> None:
    async def body() -> None:
        blobs = alone(tmp_path, quota=4 * CHUNK)
        kept = [await blobs.put(data(CHUNK, seed)) for seed in range(3)]
        with pytest.raises(StorageFull, match=r"may hold 1048576 bytes, and 1048576 are pinned or in use: raise the quota"):
            await blobs.put(data(2 * CHUNK))
        for seed, cid in enumerate(kept):
            assert await blobs.get(cid) == data(CHUNK, seed)
        await blobs.unpin(kept[0])
        cid = await blobs.put(data(CHUNK, 9))  # what is left of the failed one makes room, and what was let go
        assert await blobs.get(cid) == data(CHUNK, 9)
        assert await blobs.get(kept[1]) == data(CHUNK, 1)

    asyncio.run(body())


def test_a_pin_with_an_end_holds_over_a_restart_and_lets_go_after_it(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    names = [cids.of(data(CHUNK, seed)) for seed in range(3)]
    for seed, name in enumerate(names):
        store.write(name, data(CHUNK, seed))
    store.pin(names[0], until=100)
    store.pin(names[1])
    again = BlockStore(tmp_path)
    assert again.pins() == {names[0]: 100, names[1]: None}
    assert again.usage() == (3 * CHUNK, 2 * CHUNK, None)
    assert again.evict(0) == CHUNK
    assert again.lapse(99) == []
    assert again.lapse(100) == [names[0]]
    assert again.evict(0) == CHUNK
    assert set(again.stored()) == {names[1]}
    with pytest.raises(ValueError, match="cannot end at -1"):
        again.pin(names[1], until=-1)


def test_a_quota_may_be_set_anew(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    names = [cids.of(data(CHUNK, seed)) for seed in range(6)]
    for seed, name in enumerate(names):
        store.write(name, data(CHUNK, seed))
    assert store.evict() == 0  # no quota, nothing to do
    store.quota = 4 * CHUNK
    assert store.evict() == 2 * CHUNK
    assert set(store.stored()) == set(names[2:])
    with store.session():
        assert store.read(names[2]) is not None
        assert store.evict(0) == 3 * CHUNK  # what is being used stays


def test_a_pin_whose_file_is_damaged_stays(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    name = cids.of(data(CHUNK))
    store.write(name, data(CHUNK))
    for content in (b"\xff\xfe", b"1e3", b"-5", "²".encode(), b"9" * 21):
        (tmp_path / "pins" / name).write_bytes(content)
        assert store.lapse(1 << 62) == []
        assert store.evict(0) == 0


def test_a_blob_does_not_push_out_its_own_blocks(tmp_path: Path) -> None:
    async def body() -> None:
        async with AsyncExitStack() as stack:
            source = alone(tmp_path / "a")
            gateway = BlockGateway(source.store)
            url = await gateway.start()
            stack.push_async_callback(gateway.stop)
            small = LocalBlobs(tmp_path / "b", lambda near: [url], quota=4 * CHUNK)
            stack.push_async_callback(small.close)
            fits, large = await source.put(data(3 * CHUNK)), await source.put(data(6 * CHUNK))
            with pytest.raises(StorageFull):
                await small.fetch(large, 1 << 30)
            await small.fetch(fits, 1 << 30)
            assert await small.get(fits) == data(3 * CHUNK)

    asyncio.run(body())


def test_the_quota_in_memory_behaves_the_same() -> None:
    async def body() -> None:
        blobs = MemoryBlobs(BlobNet(), PeerId("a"), quota=1000)
        kept = await blobs.put(data(400))
        gone = await blobs.put(data(500))
        await blobs.unpin(gone)
        with pytest.raises(StorageFull):
            await blobs.put(data(700))
        await blobs.put(data(600))
        assert not await blobs.has(gone)
        assert await blobs.get(kept) == data(400)

    asyncio.run(body())


FILLER = """
import asyncio, random, sys
from pathlib import Path
from assay.adapters.ipfs import LocalBlobs
from assay.ports import StorageFull

async def main():
    blobs = LocalBlobs(Path(sys.argv[1]), lambda near: [])
    kept = []
    try:
        while True:
            blob = random.Random(len(kept)).randbytes(300_000)
            kept.append(await blobs.put(blob))
    except StorageFull as error:
        print("full:", error)
    for seed, cid in enumerate(kept):
        assert await blobs.get(cid) == random.Random(seed).randbytes(300_000)
    assert not list((Path(sys.argv[1]) / "tmp").iterdir())
    await blobs.unpin(kept[0])
    await blobs.unpin(kept[1])
    again = await blobs.put(random.Random(99).randbytes(300_000))
    assert await blobs.get(again) == random.Random(99).randbytes(300_000)
    assert await blobs.get(kept[2]) == random.Random(2).randbytes(300_000)
    print("kept", len(kept))

asyncio.run(main())
"""


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """A file system of 4 MiB, in a mount namespace of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = 'mount -t tmpfs -o size=4m none "$1" && exec "$2" -c "$3" "$1/store"'
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-Urm", "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount in a namespace of their own (unshare -Urm)")
    done = subprocess.run(
        [unshare, "-Urm", "sh", "-c", script, "sh", str(disk), sys.executable, FILLER], capture_output=True, text=True, timeout=240
    )
    if "mount:" in done.stderr:
        pytest.skip(f"no tmpfs may be mounted here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    full, kept = done.stdout.splitlines()
    assert full.startswith("full: [Errno 28] the disk of")
    assert "free some space on it" in full
    assert 8 <= int(kept.split()[1]) <= 13


# ---- whole leaves in large files -------------------------------------------------------------------------------------------


def test_many_leaves_take_few_files_and_give_their_room_back(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    names = [cids.of(data(CHUNK, seed)) for seed in range(24)]
    for seed, name in enumerate(names):
        store.write(name, data(CHUNK, seed))
    assert (len(files(tmp_path)), len(list((tmp_path / "packs").iterdir()))) == (0, 1)
    assert store.evict(20 * CHUNK) == 4 * CHUNK
    assert on_disk(tmp_path) <= 21 * CHUNK
    assert store.evict(0) == 20 * CHUNK
    assert on_disk(tmp_path) <= CHUNK
    store.write(names[0], data(CHUNK))  # the file that was emptied is still the one that is being filled
    assert store.read(names[0]) == data(CHUNK)


def test_leaves_that_come_together_lie_in_a_row_over_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipfs_packs, "SLOTS", 4)
    store = BlockStore(tmp_path)
    leaves = [(cids.parse(cids.of(data(CHUNK, seed)))[1], data(CHUNK, seed)) for seed in range(7)]
    small = (cids.parse(cids.of(b"small"))[1], b"small")
    store.write_leaves(leaves[2:3])
    store.write_leaves([*leaves[:6], leaves[0], small])  # one of them is there already, one comes twice
    digests = [digest for digest, _ in [*leaves, small]]
    assert store.among(digests) == {*digests} - {leaves[6][0]}
    assert store.used == 6 * CHUNK + 5
    assert (len(list((tmp_path / "packs").iterdir())), len(files(tmp_path))) == (2, 1)
    again = BlockStore(tmp_path)
    assert [again.read(cids.of(block)) for _, block in leaves] == [*(block for _, block in leaves[:6]), None]
    opened = store.open(digests)
    rows = in_rows(opened)
    assert [(row.at, row.size) for row in rows] == [(HEAD + CHUNK, 2 * CHUNK), (HEAD, CHUNK), (HEAD + 3 * CHUNK, CHUNK), (HEAD, 2 * CHUNK), (0, 5)]
    sent = b"".join(os.pread(row.file.fileno(), row.size, row.at) for row in rows)
    assert sent == b"".join(block for _, block in leaves[:6]) + b"small"
    for extent in opened:
        if extent is not None:
            extent.file.close()


def test_leaves_for_which_there_is_no_room_are_not_there_and_take_none(tmp_path: Path) -> None:
    store = BlockStore(tmp_path, quota=3 * CHUNK)
    leaves = [(cids.parse(cids.of(data(CHUNK, seed)))[1], data(CHUNK, seed)) for seed in range(4)]
    with store.session():
        with pytest.raises(StorageFull):
            store.write_leaves(leaves)
        assert (store.among([digest for digest, _ in leaves]), store.used) == (set(), 0)
        store.write_leaves(leaves[:3])
        assert store.used == 3 * CHUNK


def test_a_pack_is_removed_when_nothing_is_left_in_it_and_nobody_fills_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipfs_packs, "SLOTS", 2)
    store = BlockStore(tmp_path)
    names = [cids.of(data(CHUNK, seed)) for seed in range(5)]
    for seed, name in enumerate(names):
        store.write(name, data(CHUNK, seed))
    assert len(list((tmp_path / "packs").iterdir())) == 3
    other = BlockStore(tmp_path)
    assert other.evict(0) == 5 * CHUNK
    assert len(list((tmp_path / "packs").iterdir())) == 1  # `store` fills it
    assert [store.read(name) for name in names] == [None] * 5
    store.write(names[0], data(CHUNK))
    with store.session():
        pass
    assert other.read(names[0]) == data(CHUNK)
    assert BlockStore(tmp_path).read(names[0]) == data(CHUNK)


def test_what_is_being_sent_is_not_taken_away(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    name = cids.of(data(CHUNK))
    store.write(name, data(CHUNK))
    other = BlockStore(tmp_path)  # as another process would
    assert other.read(name) is not None
    [sent] = other.open([cids.parse(name)[1]])
    assert sent is not None
    assert (store.evict(0), other.evict(0)) == (0, 0)
    sent.file.seek(sent.at)
    assert sent.file.read(sent.size) == data(CHUNK)
    sent.file.close()
    assert store.evict(0) == CHUNK
    assert (store.open([cids.parse(name)[1]]), other.open([cids.parse(name)[1]])) == ([None], [None])


def test_a_pack_that_somebody_removed_is_missed_and_written_anew(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    names = [cids.of(data(CHUNK, seed)) for seed in range(2)]
    store.write(names[0], data(CHUNK, 0))
    [pack] = (tmp_path / "packs").iterdir()
    pack.unlink()
    assert store.open([cids.parse(names[0])[1]]) == [None]
    for seed, name in enumerate(names):
        store.write(name, data(CHUNK, seed))
    assert [BlockStore(tmp_path).read(name) for name in names] == [data(CHUNK, 0), data(CHUNK, 1)]


def test_threads_that_bring_the_same_blocks_keep_one_of_each(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    leaves = [data(CHUNK, seed) for seed in range(6)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda leaf: store.write(cids.of(leaf), leaf), leaves * 4))
    assert store.used == sum(store.stored().values()) == 6 * CHUNK
    assert on_disk(tmp_path) <= 7 * CHUNK
    assert all(BlockStore(tmp_path).read(cids.of(leaf)) == leaf for leaf in leaves)


def test_a_store_that_nobody_uses_any_more_holds_no_file_open(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    store.write(cids.of(data(CHUNK)), data(CHUNK))
    open_files = lambda: [link for link in map(_target, Path("/proc/self/fd").iterdir()) if link.startswith(str(tmp_path))]  # noqa: E731
    assert len(open_files()) == 1
    del store
    gc.collect()
    assert open_files() == []


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except FileNotFoundError:  # of the listing itself
        return ""


def test_a_head_of_anything_does_no_harm(tmp_path: Path) -> None:
    """A file that some program spoiled: its digests name blocks that are not there, and they are found out."""
    store = BlockStore(tmp_path)
    wanted = cids.of(data(CHUNK))
    (tmp_path / "packs" / "0-0.pack").write_bytes(cids.parse(wanted)[1] + random.Random(3).randbytes(1000))
    (tmp_path / "packs" / "stray").write_bytes(b"x")
    again = BlockStore(tmp_path)
    assert again.read(wanted) is None
    assert wanted not in again.stored()
    again.write(wanted, data(CHUNK))
    assert again.read(wanted) == data(CHUNK) == BlockStore(tmp_path).read(wanted)
    assert store.read(wanted) is not None


def test_without_holes_in_files_every_block_has_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ipfs_packs, "possible", lambda folder: False)
        store = BlockStore(tmp_path)
        name = cids.of(data(CHUNK))
        store.write(name, data(CHUNK))
        assert set(files(tmp_path)) == {name}
        assert store.read(name) == data(CHUNK)
    [sent] = BlockStore(tmp_path).open([cids.parse(name)[1]])  # nor are such files lost where there are holes
    assert sent is not None
    sent.file.close()


# ---- crashes -------------------------------------------------------------------------------------------------------------


PUTTER = """
import asyncio, random, sys
from pathlib import Path
from assay.adapters.ipfs import LocalBlobs

async def main():
    blobs = LocalBlobs(Path(sys.argv[1]), lambda near: [])
    seed = 0
    while True:
        print(await blobs.put(random.Random(seed).randbytes(300_000)), flush=True)
        seed += 1

asyncio.run(main())
"""


@pytest.mark.parametrize("acks", [1, 4])
def test_a_kill_loses_nothing_that_was_put(tmp_path: Path, acks: int) -> None:
    child = subprocess.Popen([sys.executable, "-c", PUTTER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        put = [child.stdout.readline().strip() for _ in range(acks)]
        child.send_signal(signal.SIGKILL)
        put += [line.strip() for line in child.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    finally:
        child.kill()
        child.wait(timeout=240)
        child.stdout.close()

    async def body() -> None:
        blobs = alone(tmp_path)
        for seed, cid in enumerate(put):
            assert await blobs.get(Cid(cid)) == random.Random(seed).randbytes(300_000)
        assert not list((tmp_path / "tmp").iterdir())
        for name, path in files(tmp_path).items():  # whole or not at all
            assert cids.matches(Cid(name), path.read_bytes())
        assert blobs.store.used == sum(blobs.store.stored().values())

    asyncio.run(body())


def test_what_a_live_process_is_writing_is_left_alone(tmp_path: Path) -> None:
    BlockStore(tmp_path)
    mine, dead = tmp_path / "tmp" / f"{os.getpid()}-1", tmp_path / "tmp" / "4194305-1"  # over the kernel's largest pid
    mine.write_bytes(b"x")
    dead.write_bytes(b"x")
    BlockStore(tmp_path)
    assert (mine.exists(), dead.exists()) == (True, False)


def test_nothing_but_a_cid_becomes_a_path(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    for name in ("../../../escaped", "/etc/passwd", "x" * 59):
        with pytest.raises(cids.BadCid):
            store.read(Cid(name))
        with pytest.raises(cids.BadCid):
            store.write(Cid(name), b"x")
        with pytest.raises(cids.BadCid):
            store.pin(Cid(name))


def test_stray_files_do_no_harm(tmp_path: Path) -> None:
    store = BlockStore(tmp_path, quota=2 * CHUNK)
    (tmp_path / "pins" / ".stray").touch()
    (tmp_path / "blocks" / "a" / "stray").write_bytes(b"x")
    for seed in range(4):
        store.write(cids.of(data(CHUNK, seed)), data(CHUNK, seed))
    assert store.used <= 2 * CHUNK


def test_the_folder_is_private(tmp_path: Path) -> None:
    BlockStore(tmp_path / "store")
    for part in ("blocks/a", "pins", "tmp"):
        assert (tmp_path / "store" / part).stat().st_mode & 0o777 == 0o700
