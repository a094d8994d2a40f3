"""The embedded block store, in a folder of its own: whole leaves in large files, and every other block in one named by its CID.

    packs/ (assay.adapters.ipfs_packs)     blocks/<last but one character of the CID>/<CID>     pins/<CID of a root>     tmp/

Where holes cannot be made in files, whole leaves are as other blocks. A file of one block is written to `tmp` and renamed, so that it is
there whole or not at all. What a node has promised to serve (`pin`) is on the disk when the call returns; what it has fetched need not be,
since a torn block is found out: every read checks the hash, and a corrupt block is dropped, as if it had never come. (`open`, for sending a
block on, checks what this process has not checked yet, or what has changed since: who receives it checks it again.) The modification time
of a file of one block is the time of its last use. When the quota is reached, or `evict` is called, the blocks that were used least
recently go first; never those under a pin (which may end by itself: assay.adapters.ipfs_pins), nor those that something under way has
written or read.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import psutil

from assay import cid as cids
from assay.adapters.ipfs_intake import Intake, possible
from assay.adapters.ipfs_packs import SLOT, Extent, Packs
from assay.adapters.ipfs_pins import Pins, sync_all
from assay.ids import Cid
from assay.ports import StorageFull

log = logging.getLogger("assay.blobs")

T = TypeVar("T")

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
MAX_SOUND = 1 << 16
"""Blocks that are remembered as checked."""
SLACK = 20
"""Eviction frees one in SLACK of the quota more than it must, so that it is not needed again for the next block."""


class _Entry(NamedTuple):
    used: int
    """Time of last use, nanoseconds."""
    size: int
    cid: str  # or what the file of a stray is called
    path: str  # "" for a block in a pack


class Usage(NamedTuple):
    used: int
    """Bytes of all blocks."""
    pinned: int
    """Bytes of those that may not be evicted."""
    quota: int | None


class BlockStore:
    """Blocks in `folder`, at most `quota` bytes of them (None: as many as the disk takes). Safe to use from several threads.

    `quota` may be set anew at any time; what is over it then goes with the next `evict` or write.
    """

    def __init__(self, folder: Path, quota: int | None = None) -> None:
        self.folder, self.quota = folder, quota
        self._blocks, self._tmp = folder / "blocks", folder / "tmp"
        self._pins = Pins(folder / "pins")
        self._packs = Packs(folder / "packs")
        for part in [self._tmp, *(self._blocks / letter for letter in "abcdefghijklmnopqrstuvwxyz234567")]:
            part.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._direct = self._packs.works and possible(self._tmp)
        self._clean()
        self._mutex = threading.RLock()
        self._now = 0
        self._serial = 0
        self._sessions: dict[int, int] = {}
        """Time at which each thing under way began."""
        self._sound: dict[Cid, tuple[int, int]] = {}
        """Blocks that were checked: modification time that this process gave the file then, and size."""
        self.used = sum(entry.size for entry in self._entries())
        """Bytes of all blocks."""

    # ---- reading ---------------------------------------------------------------------------------------------------------

    def read(self, cid: Cid) -> bytes | None:
        """The block, checked against its CID; None when it is not here (or was corrupt and is dropped)."""
        codec, digest = cids.parse(cid)
        data = self._packs.read(digest) if codec == cids.RAW else None
        if data is not None and cids.matches(cid, data):
            self._packs.touch(digest, self._tick(), sound=True)
            return data
        if data is not None:
            log.warning("block %s is corrupt on disk: dropped; it will be fetched again when it is needed", cid)
            self._account(-self._packs.drop(digest))
        return self._read_file(cid)

    def _read_file(self, cid: Cid) -> bytes | None:
        path = self._path(cid)
        try:
            with open(path, "rb", buffering=0) as file:
                data = file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("block %s cannot be read (%s): dropped", cid, error)
            self._drop(path)
            return None
        if not cids.matches(cid, data):
            log.warning("block %s is corrupt on disk: dropped; it will be fetched again when it is needed", cid)
            self._drop(path)
            return None
        self._touch(path, cid, len(data))
        return data

    def open(self, digests: Sequence[bytes]) -> list[Extent | None]:
        """Where the leaves with these digests are, to be sent on; None for one that is not here (or was corrupt and is dropped)."""
        found = self._packs.open(digests)
        for at, digest in enumerate(digests):
            if found[at] is not None:
                self._packs.touch(digest, self._tick())
            else:
                found[at] = self._open(cids.of_digest(cids.RAW, digest), digest)
        return found

    def _open(self, cid: Cid, digest: bytes) -> Extent | None:
        """As `open`, of what is in no pack, or was not checked yet."""
        path, data = self._path(cid), b""
        for _ in range(2):
            with contextlib.suppress(FileNotFoundError):
                file = open(path, "rb", buffering=0)  # noqa: SIM115 (the caller closes it)
                state = os.fstat(file.fileno())
                if self._sound.get(cid) == (state.st_mtime_ns, state.st_size):
                    self._touch(path, cid, state.st_size)
                    return Extent(file, 0, state.st_size)
                file.close()
            if (found := self.read(cid)) is None:
                return None
            data = found
            if (extent := self._packs.open([digest])[0]) is not None:
                return extent
        return Extent(io.BytesIO(data), 0, len(data))  # others touch it at the same time

    def size(self, cid: Cid) -> int | None:
        """Bytes of the block, None when it is not here. (Not checked.)"""
        codec, digest = cids.parse(cid)
        if codec == cids.RAW and self._packs.among([digest]):
            return SLOT
        try:
            return os.stat(self._path(cid)).st_size
        except FileNotFoundError:
            return None

    def among(self, digests: Sequence[bytes]) -> set[bytes]:
        """Those of these leaves that are here. (Not checked.)"""
        packed = self._packs.among(digests)
        return {d for d in digests if d in packed or os.access(self._path(cids.of_digest(cids.RAW, d)), os.F_OK)}

    def stored(self) -> dict[Cid, int]:
        """All blocks that are here, and the bytes of each. (Not checked.)"""
        return {Cid(entry.cid): entry.size for entry in self._entries()}

    # ---- writing ---------------------------------------------------------------------------------------------------------

    def write(self, cid: Cid, data: bytes | memoryview) -> None:
        """Adds a block whose bytes the caller has checked. Raises StorageFull."""
        codec, digest = cids.parse(cid)
        if codec == cids.RAW:
            self.write_leaves([(digest, data)])
        else:
            self._write_file(cid, data)

    def write_leaves(self, leaves: Iterable[tuple[bytes, bytes | memoryview]]) -> None:
        """Adds leaves with these digests, which the caller has checked, few calls for many. Raises StorageFull: some may have been added."""
        packed: dict[bytes, bytes | memoryview] = {}
        for digest, data in leaves:
            if not self._packs.works or len(data) != SLOT:
                self._write_file(cids.of_digest(cids.RAW, digest), data)
            elif not self._packs.touch(digest, self._tick()):
                packed[digest] = data
        left = list(packed.items())
        while left:
            taken, kept = self._add(SLOT * len(left), functools.partial(self._packs.write, left, self._tick()))
            self._account(SLOT * (kept - len(left)))  # room for the next round, and for what another thread has brought meanwhile
            left = left[taken:]

    def _write_file(self, cid: Cid, data: bytes | memoryview) -> None:
        path = self._path(cid)
        with self._mutex, contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_size == len(data):
                self._touch(path, cid)
                return
        self._add(len(data), lambda: self._create(path, cid, data))

    @contextlib.contextmanager
    def intake(self, most: int) -> Iterator[Intake | None]:
        """Room for up to `most` whole leaves that the kernel is to bring; None where it cannot. Raises StorageFull."""
        if not self._direct:
            yield None
            return
        with contextlib.ExitStack() as stack:
            room = self._with_room(SLOT * most, lambda: stack.enter_context(self._packs.room(most)))
            self._reserve(SLOT * room.count)
            try:
                yield Intake(room, self._with_room, functools.partial(self._packs.keep, room, now=self._tick()))
            finally:
                self._account(SLOT * (len(room.kept) - room.count))

    def _add(self, size: int, write: Callable[[], T]) -> T:
        """Writes `size` bytes where there is room for them."""
        self._reserve(size)
        try:
            return self._with_room(size, write)
        except OSError:
            self._account(-size)
            raise

    def _with_room(self, size: int, write: Callable[[], T]) -> T:
        """Tries again when the disk was full and something could be dropped. Raises StorageFull."""
        dropped = 0
        while True:
            try:
                return write()
            except OSError as error:
                if error.errno not in NO_SPACE:
                    raise
            if dropped or not (dropped := self._evict(size, 15 * size)):
                raise StorageFull(
                    errno.ENOSPC, f"the disk of {self.folder} is full and nothing more in the block store may be dropped: free some space on it"
                )

    def _create(self, path: str, cid: Cid, data: bytes | memoryview) -> None:
        temporary = f"{self._tmp}/{os.getpid()}-{self._next()}"
        try:
            now = self._put(temporary, data)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        self._remember(cid, now, len(data))

    def _put(self, path: str, data: bytes | memoryview) -> int:
        """Writes a file; returns the time that it now bears."""
        now, at = self._tick(), 0
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            while at < len(data):
                at += os.write(handle, data[at:] if at else data)
            os.utime(handle, ns=(now, now))
        finally:
            os.close(handle)
        return now

    def flush(self, blocks: Iterable[Cid]) -> None:
        """Returns when these blocks are on the disk, not just in the machine's memory."""
        sync_all([Path(self._packs.path(cids.parse(cid)[1]) or self._path(cid)) for cid in blocks])

    # ---- pins ------------------------------------------------------------------------------------------------------------

    def pin(self, root: Cid, until: int | None = None) -> None:
        """Keeps the blob from eviction, durably, until this chain time (None: until `unpin`). Never shortens a pin."""
        self._pins.add(root, until)

    def unpin(self, root: Cid) -> None:
        self._pins.remove(root)

    def lapse(self, now: int) -> list[Cid]:
        """Ends the pins whose time is over at the chain time `now`; returns them. Their blocks go when room is needed."""
        return self._pins.lapse(now)

    def pins(self) -> dict[Cid, int | None]:
        """The pinned blobs, and when each pin ends."""
        return self._pins.all()

    # ---- room ------------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """What is written or read from here on is not evicted until the end of the block."""
        token = self._next()
        with self._mutex:
            self._sessions[token] = self._tick()
        try:
            yield
        finally:
            with self._mutex:
                del self._sessions[token]
            self._packs.tell()

    def evict(self, to: int | None = None) -> int:
        """Drops what was used least recently, and may go, until at most `to` bytes are left (None: the quota); returns the bytes freed."""
        with self._mutex:
            most = self.quota if to is None else to
            return self._evict(self.used - most, 0) if most is not None and self.used > most else 0

    def usage(self) -> Usage:
        kept = self._pins.blocks(self._path)
        return Usage(self.used, sum(entry.size for entry in self._entries() if entry.cid in kept), self.quota)

    def _reserve(self, size: int) -> None:
        with self._mutex:
            if self.quota is not None:
                over = self.used + size - self.quota
                if over > 0 and self._evict(over, self.quota // SLACK) < over:
                    raise StorageFull(
                        errno.ENOSPC,
                        f"the block store {self.folder} may hold {self.quota} bytes, and {self.used} are pinned or in use: "
                        "raise the quota, or let go of finished jobs",
                    )
            self.used += size

    def _account(self, change: int) -> None:
        with self._mutex:
            self.used = max(0, self.used + change)

    def _evict(self, wanted: int, slack: int) -> int:
        """Drops what was used least recently until `wanted + slack` bytes are free, or all that may go; returns how many are."""
        kept, freed = self._pins.blocks(self._path), 0
        for entry in sorted(self._entries()):
            if freed >= wanted + slack:
                break
            if entry.cid not in kept:
                freed += self._drop_unused(entry)
        return freed

    def _drop_unused(self, entry: _Entry) -> int:
        with self._mutex:  # nobody takes it into use between the look and the removal
            oldest = min(self._sessions.values(), default=None)
            if not entry.path:
                digest = cids.parse(entry.cid)[1]
                size = self._packs.drop(digest) if oldest is None or self._packs.used(digest) < oldest else 0
                self._account(-size)
                return size
            try:
                return self._drop(entry.path) if oldest is None or os.stat(entry.path).st_mtime_ns < oldest else 0
            except FileNotFoundError:
                return 0

    def _entries(self) -> Iterator[_Entry]:
        for used, digest in self._packs.entries():
            yield _Entry(used, SLOT, cids.of_digest(cids.RAW, digest), "")
        for shard in os.scandir(self._blocks):
            for file in os.scandir(shard.path):
                with contextlib.suppress(FileNotFoundError):
                    state = file.stat()
                    yield _Entry(state.st_mtime_ns, state.st_size, file.name, file.path)

    # ---- files -----------------------------------------------------------------------------------------------------------

    def _path(self, cid: Cid) -> str:
        cids.parse(cid)  # nothing but a CID ever becomes part of a path
        return f"{self._blocks}/{cid[-2]}/{cid}"

    def _next(self) -> int:
        with self._mutex:
            self._serial += 1
            return self._serial

    def _tick(self) -> int:
        """The time, and never twice the same."""
        with self._mutex:
            self._now = max(self._now + 1, time.time_ns())
            return self._now

    def _touch(self, path: str, cid: Cid, checked: int | None = None) -> None:
        """Notes the use of a block, and that its `checked` bytes were found right."""
        now = self._tick()
        with contextlib.suppress(FileNotFoundError):
            os.utime(path, ns=(now, now))
            if checked is not None:
                self._remember(cid, now, checked)

    def _remember(self, cid: Cid, now: int, size: int) -> None:
        with self._mutex:
            self._sound.pop(cid, None)
            self._sound[cid] = (now, size)
            if len(self._sound) > MAX_SOUND:
                del self._sound[next(iter(self._sound))]

    def _drop(self, path: str) -> int:
        """Removes a block; returns the bytes that it took."""
        try:
            size = os.stat(path).st_size
            os.unlink(path)
        except FileNotFoundError:
            return 0
        self._account(-size)
        return size

    def _clean(self) -> None:
        """Removes what a killed process left half-written."""
        for name in os.listdir(self._tmp):
            pid = name.split("-")[0]
            if not pid.isdigit() or not psutil.pid_exists(int(pid)):
                (self._tmp / name).unlink(missing_ok=True)
