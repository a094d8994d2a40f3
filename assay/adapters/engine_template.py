"""An engine that is forked from a template (assay.template), as its node sees it: like one that it has started itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from pathlib import Path
from typing import IO

from assay.codec import encode
from assay.engine import MAX_LINE
from assay.template import MAX_REQUEST, Wanted, code

WITHIN = 10.0
"""Seconds for the answer; who has none by then starts an engine in its own way."""
KILLED = -9


class Forked:
    """As much of asyncio.subprocess.Process as an engine's node uses."""

    def __init__(self, pid: int, connection: socket.socket, stdin: asyncio.StreamWriter, stdout: asyncio.StreamReader) -> None:
        self.pid, self.stdin, self.stdout = pid, stdin, stdout
        self.returncode: int | None = None
        self._connection, self._ended = connection, asyncio.Event()
        asyncio.get_running_loop().add_reader(connection.fileno(), self._told)

    def _told(self) -> None:
        """It has ended, or its template has, and it with that."""
        data = b""
        with contextlib.suppress(OSError):
            data = self._connection.recv(64)
        kind, _, status = data.partition(b" ")
        self.returncode = int(status) if kind == b"ended" else KILLED
        asyncio.get_running_loop().remove_reader(self._connection.fileno())
        self._connection.close()
        self.stdin.close()
        self._ended.set()

    async def wait(self) -> int:
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode


async def fork(path: Path, root: Path, environment: dict[str, str], memory: int = 0, disk: int = 0) -> Forked | None:
    """An engine for the work folder `root`; shut in when it gets `memory` (bytes, as `disk`). None where the template at `path` is not there, or
    is another one than is wanted."""
    request = encode(Wanted(code=code(), root=str(root), environment=environment, memory=memory, disk=disk))
    if len(request) > MAX_REQUEST:
        return None
    given, told = os.pipe(), os.pipe()
    try:
        answered = await asyncio.to_thread(_ask, path, request, [given[0], told[1], 2])
        if answered is not None:
            os.set_blocking(told[0], False)
            return await _connected(*answered, os.fdopen(given[1], "wb", 0), os.fdopen(told[0], "rb", 0))
    finally:
        os.close(given[0])
        os.close(told[1])
    os.close(given[1])
    os.close(told[0])
    return None


async def _connected(pid: int, connection: socket.socket, into: IO[bytes], out: IO[bytes]) -> Forked:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=MAX_LINE, loop=loop)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader, loop=loop), out)
    transport, protocol = await loop.connect_write_pipe(lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader(loop=loop), loop=loop), into)
    return Forked(pid, connection, asyncio.StreamWriter(transport, protocol, None, loop), reader)


def _ask(path: Path, request: bytes, handles: list[int]) -> tuple[int, socket.socket] | None:
    """Process number and connection."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.settimeout(WITHIN)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if os.stat(path.name, dir_fd=folder).st_uid != os.getuid():  # nobody else's engine
                raise PermissionError(path)
            connection.connect(f"/proc/self/fd/{folder}/{path.name}")  # a socket's name is short (unix(7)), the way to it may be long
        finally:
            os.close(folder)
        socket.send_fds(connection, [request], handles)
        kind, _, number = connection.recv(64).partition(b" ")
        if kind == b"pid":
            connection.setblocking(False)
            return int(number), connection
    except OSError:
        pass
    connection.close()
    return None
