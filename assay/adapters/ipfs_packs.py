"""Whole leaves in large files: what a store does with nearly all of what is fetched, since a file for each block costs more than its hash.

    packs/<pid>-<random>.pack      4096 bytes: SHA-256 digests of SLOTS blocks, zeros where there is none; then the blocks

A block goes to the next slot of a file that its process is filling, its bytes first and then its digest, and no slot is used twice. Threads
that write at the same time fill different files, since the kernel lets one of them into a file. A process appends to files of its own only,
and reads all; it looks for those of others when a block is not found and the folder has changed. To drop a block is to take its digest away
and its room back (a hole in the file), under an exclusive lock of the file (flock): whoever sends a block holds a shared one meanwhile, so
that nobody takes away what another is sending. A file goes when nothing is left in it and nobody fills it, which is another lock (of its
first byte). The bytes may be torn after a crash: whoever reads them checks their hash. Last use is kept in memory for each block, and on
disk (as the modification time) for each file. Memory: about 300 bytes a block, 120 MB for 100 GB.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import struct
import threading
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from assay import cid as cids
from assay.adapters.ipfs_holes import possible, punch

log = logging.getLogger("assay.blobs")

SLOTS = 128
DIGEST = 32
HEAD = SLOTS * DIGEST
SLOT = cids.CHUNK
NOTHING = bytes(DIGEST)
NOTE_EVERY = 60 * 10**9
"""Nanoseconds of use after which a file's time is set anew."""


class Extent(NamedTuple):
    """Where the bytes of a block are, to be sent on. Whoever has it closes `file`."""

    file: BinaryIO
    at: int
    size: int


class _Pack:
    def __init__(self, path: str, seen: int) -> None:
        self.path, self.seen = path, seen
        """`seen`: the time that the file bore when it was last looked at, or that was written to it, nanoseconds."""
        self.used = array("q", [0]) * SLOTS
        self.sound = bytearray(SLOTS)
        """Whether this process has checked the block, or written it."""
        self.digests: dict[int, bytes] = {}
        self.handle = -1
        """While this process fills it."""
        self.next = 0


class Room:
    """Slots of a file that one thread writes to."""

    def __init__(self, pack: _Pack, slot: int, count: int) -> None:
        self.pack, self.slot, self.count = pack, slot, count
        self.kept: set[int] = set()
        self.handle, self.at = pack.handle, HEAD + slot * SLOT
        """The file, and where in it the first slot is."""


class Packs:
    """The packs in `folder`. Safe to use from several threads, and by several processes. Digests are those of the blocks."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._mutex = threading.RLock()
        self._packs: dict[str, _Pack] = {}
        self._where: dict[bytes, tuple[_Pack, int]] = {}
        self._idle: list[_Pack] = []
        """Files that are being filled, and that no thread is writing to now."""
        weakref.finalize(self, _close, self._idle)
        self._looked = 0
        """Modification time of the folder when it was last looked through."""
        self.works = possible(folder)
        if self.works:
            self._look()
            self._clean()

    # ---- reading ---------------------------------------------------------------------------------------------------------

    def among(self, digests: Iterable[bytes]) -> set[bytes]:
        """Those of them that are here."""
        if self.works and self._changed() != self._looked:
            self._look()
        return {digest for digest in digests if digest in self._where}

    def read(self, digest: bytes) -> bytes | None:
        """The bytes in the block's slot, which may be others than its own; None when it is not here."""
        if (found := self._find(digest)) is None:
            return None
        pack, slot = found
        try:
            handle = os.open(pack.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return os.pread(handle, SLOT, HEAD + slot * SLOT)
            finally:
                os.close(handle)
        except FileNotFoundError:
            self._lose(pack)
            return None
        except OSError as error:
            log.warning("%s cannot be read (%s)", pack.path, error)
            self._forget(pack, slot)
            return None

    def open(self, digests: Sequence[bytes]) -> list[Extent | None]:
        """Where blocks are that were checked; None for others. They stay there while the files are open; those of one pack have one."""
        files: dict[_Pack, tuple[BinaryIO, bytes] | None] = {}
        extents: list[Extent | None] = [None] * len(digests)
        for at, digest in enumerate(digests):
            found = self._find(digest)
            if found is None or not found[0].sound[found[1]]:
                continue
            pack, slot = found
            opened = files[pack] = files[pack] if pack in files else self._open(pack)
            if opened is None:
                continue
            if opened[1][slot * DIGEST : (slot + 1) * DIGEST] == digest:
                extents[at] = Extent(opened[0], HEAD + slot * SLOT, SLOT)
            else:
                self._forget(pack, slot)
        used = {extent.file for extent in extents if extent is not None}
        for file in {opened[0] for opened in files.values() if opened is not None} - used:
            file.close()
        return extents

    def _open(self, pack: _Pack) -> tuple[BinaryIO, bytes] | None:
        """The file, locked against the removal of blocks, and its digests; None while something of it is being removed."""
        try:
            file = open(pack.path, "rb", buffering=0)  # noqa: SIM115 (the caller closes it)
        except FileNotFoundError:
            self._lose(pack)
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        return file, os.pread(file.fileno(), HEAD, 0)

    def touch(self, digest: bytes, now: int, sound: bool = False) -> bool:
        """Notes the use of a block, and that its bytes were found right; whether it is here."""
        with self._mutex:
            if (found := self._where.get(digest)) is None:
                return False
            pack, slot = found
            pack.used[slot] = now
            if sound:
                pack.sound[slot] = 1
            if now - pack.seen > NOTE_EVERY:
                with contextlib.suppress(FileNotFoundError):
                    os.utime(pack.path, ns=(now, now))
                pack.seen = now
        return True

    def entries(self) -> Iterator[tuple[int, bytes]]:
        """(time of last use, digest) of all blocks that are known here."""
        with self._mutex:
            known = [(pack.used[slot], digest) for digest, (pack, slot) in self._where.items()]
        yield from known

    def used(self, digest: bytes) -> int:
        """Time of last use, nanoseconds; 0 when it is not here."""
        with self._mutex:
            found = self._where.get(digest)
            return found[0].used[found[1]] if found is not None else 0

    def path(self, digest: bytes) -> str | None:
        found = self._find(digest)
        return found[0].path if found is not None else None

    def _find(self, digest: bytes) -> tuple[_Pack, int] | None:
        found = self._where.get(digest)
        if found is None and self.works and self._changed() != self._looked:
            self._look()
            found = self._where.get(digest)
        return found

    # ---- writing ---------------------------------------------------------------------------------------------------------

    def write(self, blocks: Sequence[tuple[bytes, bytes | memoryview]], now: int) -> tuple[int, int]:
        """Adds blocks of SLOT bytes with their digests, used `now`: as many of the first as fit into one file, in a row. Returns how many
        that were, and how many of them were added: not those that another thread was faster with. Raises OSError: none was added."""
        with self.room(len(blocks)) as room:
            blocks = blocks[: room.count]
            _write(room.handle, [data for _, data in blocks], room.at)
            return room.count, self.keep(room, [digest for digest, _ in blocks], now)

    @contextlib.contextmanager
    def room(self, most: int) -> Iterator[Room]:
        """Slots in a row, `most` of them or as many as are left in a file, for bytes that the caller brings. Those that are not kept until the end
        of the block are given back."""
        with self._mutex:
            pack = self._idle.pop() if self._idle else self._create()
            room = Room(pack, pack.next, min(most, SLOTS - pack.next))
            pack.next += room.count
        try:
            yield room
        finally:
            try:
                for slot in range(room.slot, room.slot + room.count):
                    if slot not in room.kept:
                        _punch(pack.handle, slot)
            finally:
                self._put_back(pack)

    def keep(self, room: Room, digests: Sequence[bytes], now: int) -> int:
        """The bytes in the first slots are the blocks with these digests, which the caller has checked (NOTHING: none that is wanted). Returns how
        many were added."""
        with self._mutex:
            fresh = [NOTHING if self.touch(digest, now) else digest for digest in digests]
            os.pwrite(room.handle, b"".join(fresh), room.slot * DIGEST)
            for slot, digest in enumerate(fresh, room.slot):
                if digest != NOTHING:
                    room.pack.used[slot], room.pack.sound[slot] = now, 1
                    self._know(room.pack, slot, digest)
                    room.kept.add(slot)
        return len(room.kept)

    def _create(self) -> _Pack:
        """A file to fill, locked against removal."""
        mine = self._changed() == self._looked
        path = f"{self.folder}/{os.getpid()}-{secrets.token_hex(8)}.pack"
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _lock_to_fill(handle)
            os.ftruncate(handle, HEAD)
        except BaseException:
            os.close(handle)
            raise
        pack = self._packs[path] = _Pack(path, 0)
        pack.handle = handle
        if mine:
            self._looked = self._changed()
        return pack

    def _put_back(self, pack: _Pack) -> None:
        with self._mutex:
            if pack.next < SLOTS:
                self._idle.append(pack)
            else:
                os.close(pack.handle)
                pack.handle = -1

    def tell(self) -> None:
        """Lets other processes know that there is something new: they look when they miss something."""
        with self._mutex, contextlib.suppress(OSError):
            mine = self._changed() == self._looked
            os.utime(self.folder)
            if mine:
                self._looked = self._changed()

    def drop(self, digest: bytes) -> int:
        """Removes a block; returns the bytes that this frees: none while something of its file is being sent."""
        with self._mutex:
            found = self._where.get(digest)
            if found is None:
                return 0
            pack, slot = found
            try:
                handle = os.open(pack.path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                self._lose(pack)
                return SLOT
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.pread(handle, DIGEST, slot * DIGEST) == digest:
                    os.pwrite(handle, NOTHING, slot * DIGEST)
                    _punch(handle, slot)
                self._forget(pack, slot)
                if not pack.digests:
                    self._remove(pack, handle)
            except BlockingIOError:
                return 0
            finally:
                os.close(handle)
        return SLOT

    # ---- what is there ---------------------------------------------------------------------------------------------------

    def _changed(self) -> int:
        return os.stat(self.folder).st_mtime_ns

    def _look(self) -> None:
        """Reads the digests of files that are new, or were changed by others."""
        with self._mutex:
            self._looked = self._changed()
            there = set()
            for file in os.scandir(self.folder):
                if not file.name.endswith(".pack"):
                    continue
                there.add(file.path)
                with contextlib.suppress(FileNotFoundError):
                    self._load(file.path, file.stat().st_mtime_ns)
            for path in self._packs.keys() - there:
                self._lose(self._packs[path])

    def _load(self, path: str, time: int) -> None:
        pack = self._packs.get(path)
        if pack is not None and (pack.seen == time or pack.handle >= 0):
            return
        if pack is None:
            pack = self._packs[path] = _Pack(path, time)
        pack.seen = time
        with open(path, "rb") as file:
            head = file.read(HEAD)
        for slot in range(len(head) // DIGEST):
            digest = head[slot * DIGEST : (slot + 1) * DIGEST]
            if slot in pack.digests and pack.digests[slot] != digest:
                self._forget(pack, slot)
            if digest != NOTHING and digest not in self._where:
                pack.used[slot] = time
                self._know(pack, slot, digest)

    def _know(self, pack: _Pack, slot: int, digest: bytes) -> None:
        self._where[digest] = (pack, slot)
        pack.digests[slot] = digest

    def _forget(self, pack: _Pack, slot: int) -> None:
        with self._mutex:
            digest = pack.digests.pop(slot, None)
            if digest is not None and self._where.get(digest) == (pack, slot):
                del self._where[digest]

    def _lose(self, pack: _Pack) -> None:
        """The file has gone."""
        with self._mutex:
            for slot in list(pack.digests):
                self._forget(pack, slot)
            self._packs.pop(pack.path, None)
            pack.next = SLOTS  # whoever is writing to it writes no more
            if pack in self._idle:
                self._idle.remove(pack)
                self._put_back(pack)

    def _remove(self, pack: _Pack, handle: int) -> None:
        """Removes a file in which nothing is left, unless somebody fills it."""
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            _lock_to_fill(handle)
            if os.pread(handle, HEAD, 0).strip(b"\0"):
                return  # there is something in it that is not known here
            os.unlink(pack.path)
            self._packs.pop(pack.path, None)

    def _clean(self) -> None:
        for pack in [pack for pack in self._packs.values() if not pack.digests]:
            with contextlib.suppress(FileNotFoundError), open(pack.path, "r+b") as file:
                self._remove(pack, file.fileno())


def _close(packs: list[_Pack]) -> None:
    while packs:
        os.close(packs.pop().handle)


def _write(handle: int, parts: Sequence[bytes | memoryview], at: int) -> None:
    """All of them, one after another, from `at` on. Raises OSError."""
    at, size = at + (done := os.pwritev(handle, parts, at)), sum(map(len, parts))
    rest = memoryview(b"".join(parts))[done:] if done < size else memoryview(b"")
    while rest:  # the disk is nearly full: the call that cannot write anything says so
        done = os.pwrite(handle, rest, at)
        at, rest = at + done, rest[done:]


def _lock_to_fill(handle: int) -> None:
    """Raises BlockingIOError when somebody fills the file."""
    fcntl.fcntl(handle, fcntl.F_OFD_SETLK, struct.pack("@hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0))


def _punch(handle: int, slot: int) -> None:
    """Gives the slot's room back to the disk. Raises OSError."""
    punch(handle, HEAD + slot * SLOT, SLOT)
