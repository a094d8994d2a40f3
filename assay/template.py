"""A process that has loaded the engine (assay.work) and does nothing but fork: the nodes of a network on one machine get engines in milliseconds
instead of half a second of a core each, and what all of them have loaded is in memory once (`python -m assay.template PATH`, of a socket to listen
at that is made there).

A connection is one engine: the request comes with its input, output and errors (SCM_RIGHTS, unix(7)), then `pid NUMBER` goes back, and `ended
STATUS` when it has ended; `refused` when it would not be the engine that was asked for, which whoever asks then starts in its own way. Who closes
the connection has no use for the engine any more: it is killed, and so are all when this process ends. Told to end, it does when it has none.

A child is shut in as any engine (assay.cage) before it reads anything, and keeps nothing of this process but its pages: no connection, and of the
environment nothing but the engine's. Engines of one template have the same layout of their memory, so nodes of different owners share none.
"""

from __future__ import annotations

import contextlib
import gc
import os
import selectors
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from assay.codec import Malformed, Message, decode

NAME = "engines"
"""Of the socket, beside the data folders of the nodes that it is for."""
MAX_REQUEST = 1 << 16
HANDLES = 3
"""That come with a request: input, output, errors."""
LOADED_WITH = ("ASSAY_NATIVE", "ASSAY_SIMD", "ASSAY_CHECKSUMS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "PYTHONHASHSEED")
"""Variables that say what is loaded, or how."""

class Wanted(Message, frozen=True, kw_only=True):
    """An engine for the work folder `root`."""

    code: str
    """Which code it shall run (`code`)."""
    root: str
    environment: dict[str, str]
    memory: int = 0
    """Bytes of private memory, and of one file (assay.cage.confine); 0: it is not shut in."""
    disk: int = 0


def code() -> str:
    """What this process has loaded: the interpreter, and where this package lies."""
    return f"{sys.executable}:{Path(__file__).resolve().parent}"


@dataclass(eq=False)
class _Engine:
    pid: int
    watched: int
    """A handle that is readable when it has ended (pidfd_open(2))."""
    connection: socket.socket


class Template:
    """Serves until it is told to end and has no engine. Linux only."""

    def __init__(self, listener: socket.socket, told: socket.socket) -> None:
        """`told` is readable when it is to end."""
        self.listener, self.told, self._ending = listener, told, False
        self._ready = selectors.DefaultSelector()
        for sock in (listener, told):
            self._ready.register(sock, selectors.EVENT_READ)
        self._engines: dict[socket.socket, _Engine] = {}

    def serve(self) -> None:
        while not self._ending or self._engines:
            for key, _ in self._ready.select():
                if isinstance(key.data, _Engine):
                    self._reap(key.data)
                elif key.fileobj is self.told:
                    self._ending = True
                    self._ready.unregister(self.told)
                elif key.fileobj is self.listener:
                    self._ready.register(self.listener.accept()[0], selectors.EVENT_READ)
                elif isinstance(key.fileobj, socket.socket) and key.fileobj.fileno() >= 0:
                    self._hear(key.fileobj)

    def _hear(self, connection: socket.socket) -> None:
        """A request, or the end."""
        handles: list[int] = []
        try:
            data, handles, _, _ = socket.recv_fds(connection, MAX_REQUEST, HANDLES)
            if data and connection not in self._engines and len(handles) == HANDLES and not self._ending:
                wanted = decode(data, Wanted, limit=MAX_REQUEST)
                if _is_this(wanted):
                    return self._begin(connection, wanted, handles)
                connection.send(b"refused")
        except (Malformed, OSError) as error:
            print(f"a request for an engine came to nothing: {error}", file=sys.stderr)
        finally:
            for handle in handles:
                os.close(handle)
        if connection not in self._engines:
            return self._close(connection)
        engine = self._engines[connection]
        os.kill(engine.pid, signal.SIGKILL)  # nobody else can have its number before it is reaped
        self._ready.unregister(connection)

    def _begin(self, connection: socket.socket, wanted: Wanted, handles: list[int]) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                status = _become(wanted, handles, parent)
            finally:
                sys.stderr.flush()
                os._exit(status)
        engine = self._engines[connection] = _Engine(pid, os.pidfd_open(pid), connection)
        self._ready.register(engine.watched, selectors.EVENT_READ, engine)
        connection.send(f"pid {pid}".encode())

    def _reap(self, engine: _Engine) -> None:
        _, status = os.waitpid(engine.pid, 0)
        self._ready.unregister(engine.watched)
        os.close(engine.watched)
        del self._engines[engine.connection]
        with contextlib.suppress(OSError):
            engine.connection.send(f"ended {os.waitstatus_to_exitcode(status)}".encode())
        self._close(engine.connection)

    def _close(self, connection: socket.socket) -> None:
        with contextlib.suppress(KeyError):
            self._ready.unregister(connection)
        connection.close()


def _is_this(wanted: Wanted) -> bool:
    """Whether a child of this process is what was asked for."""
    return wanted.code == code() and all(wanted.environment.get(name) == os.environ.get(name) for name in LOADED_WITH)


def _become(wanted: Wanted, handles: list[int], parent: int) -> int:
    """In the child: what starting an interpreter of its own would have come to."""
    os.setpgid(0, 0)
    for number, handle in enumerate([os.dup(handle) for handle in handles]):
        os.dup2(handle, number)
    os.closerange(HANDLES, os.sysconf("SC_OPEN_MAX"))
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.chdir(wanted.root)
    os.environ.clear()
    os.environ.update(wanted.environment)
    arguments = [wanted.root, str(parent)]
    if wanted.memory:
        from assay.cage.__main__ import main as shut_in

        return shut_in([*arguments, str(wanted.memory), str(wanted.disk)])
    from assay.work import main as work

    return work(arguments)


def main(arguments: list[str]) -> int:
    """Until SIGTERM."""
    if len(arguments) != 1 or not os.path.isabs(arguments[0]):
        print("usage: python -m assay.template PATH (started by a network on this machine, not by hand)", file=sys.stderr)
        return 2
    import assay.cage.__main__
    import assay.work  # noqa: F401
    from assay.exact.native import build

    with contextlib.suppress(build.NativeError):  # under the name by which an engine that is shut in is given it
        os.environ.setdefault("ASSAY_NATIVE_LIBRARY", str(build.build(build.level())))
    build.library()
    told, tell = socket.socketpair()
    tell.setblocking(False)
    signal.set_wakeup_fd(tell.fileno())
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who has started it
    folder, name = os.path.split(arguments[0])
    os.chdir(folder)  # a socket's name is short (unix(7)), the way to it may be long
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        os.umask(0o077)
        listener.bind(name)
        listener.listen(128)
        gc.collect()
        gc.freeze()  # so that a child's collector leaves these pages alone
        Template(listener, told).serve()
    os.unlink(name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
