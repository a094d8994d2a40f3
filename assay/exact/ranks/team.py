"""The ranks of one program, each a process (or, for tests and small models, a thread) at the other end of a socket.

    host   tensors whole: state, accumulator, records; cuts them, joins what comes back, commits
    rank   its pieces of one link, while it runs: a fraction of the activations, and of the matrices where the state is cut

A team stands where an engine does (assay.execute). Traces are made on the host alone: a check is of one link, and has the same bits anyway.
When a rank is lost, the link raises RankLost and gives nothing; the crew is over, and a new one starts from the last state on disk.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from assay.cage.libc import die_with_parent
from assay.codec import decode
from assay.exact import engines, reference
from assay.exact.cpu import Inputs
from assay.exact.ranks.exchanges import RankLost
from assay.exact.ranks.places import Layout, Place
from assay.exact.ranks.rank import Rank
from assay.exact.ranks.split import Ranked, forms
from assay.exact.ranks.wire import DONE, FAULT, RUN, SETUP, SocketComm, attend, last_words, receive, send
from assay.exact.table import TensorType
from assay.ids import Digest
from assay.program import MAX_BYTES, Program

Array = NDArray[Any]
PARTS = ("micro", "update")
PATIENCE = 600.0
"""Seconds that a rank may be silent."""


class Setup(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The first frame of a program: what a rank is."""

    rank: int
    size: int
    batch: bool
    state: bool
    threads: int


class Crew:
    """Ranks that run programs one after the other: sockets to them, and the processes or threads that were started here. To be closed."""

    def __init__(
        self, socks: Sequence[socket.socket], children: Sequence[subprocess.Popen[bytes] | threading.Thread] = (), patience: float = PATIENCE
    ) -> None:  # fmt: skip
        self.socks, self._children = list(socks), list(children)
        self.team: Team | None = None
        """Whose program they are set up for."""
        for sock in self.socks:
            sock.settimeout(patience)

    @property
    def size(self) -> int:
        """Ranks; 0 when it is closed."""
        return len(self.socks)

    @property
    def processes(self) -> list[int]:
        """Process ids of the ranks that were started here."""
        return [child.pid for child in self._children if isinstance(child, subprocess.Popen)]

    def close(self) -> None:
        """Ends all ranks: they stop when their socket does."""
        for sock in self.socks:
            sock.close()
        for child in self._children:
            if isinstance(child, threading.Thread):
                child.join()
            else:
                child.kill()
                child.wait()
        self.socks, self._children, self.team = [], [], None


def crew(size: int, threads: int = 1, processes: bool = True, patience: float = PATIENCE) -> Crew:
    """Starts `size` ranks here. (A node's are started by its daemon: assay.adapters.engine_process.)"""
    pairs = [socket.socketpair() for _ in range(size)]
    return Crew([mine for mine, _ in pairs], [_process(other, threads) if processes else _thread(other) for _, other in pairs], patience)


class Team:
    """A crew at work on one program, cut up by `layout`, with `threads` native threads for each rank; `effort` is what traces, which
    are made here, make again (assay.exact.recompute). Closes the crew with itself. Raises RankLost where the crew is closed."""

    def __init__(self, program: Program, layout: Layout, crew: Crew, threads: int = 1, effort: int = 0) -> None:
        if not crew.size:
            raise RankLost("the ranks are gone")
        self._program, self._layout, self._threads, self._effort, self.crew = program, layout, threads, effort, crew
        self._forms = [forms(program, layout, rank, crew.size) for rank in range(crew.size)]

    @cached_property
    def _host(self) -> engines.Engine:
        return engines.engine(self._program, self._threads, self._effort)

    def __enter__(self) -> Team:
        return self

    def __exit__(self, *_: object) -> None:
        self.crew.close()

    def _set_up(self) -> None:
        if not self.crew.size:
            raise RankLost("the crew is closed")
        if self.crew.team is self:
            return
        text, layout = self._program.dump(), self._layout
        for rank, sock in enumerate(self.crew.socks):
            setup = Setup(rank=rank, size=self.crew.size, batch=layout.batch, state=layout.state, threads=self._threads)
            send(sock, SETUP, msgspec.json.encode(setup))
            send(sock, SETUP, text)
        self.crew.team = self

    def run(self, part: str, inputs: Inputs, spent: Collection[str] = ()) -> dict[str, Array]:
        """As assay.exact.cpu.Cpu.run, on all ranks; nothing is written over inputs. Raises RankLost, after which the crew is closed."""
        every = [parts[part] for parts in self._forms]
        try:
            self._set_up()
            for rank, (sock, form) in enumerate(zip(self.crew.socks, every, strict=True)):
                send(sock, RUN, bytes([PARTS.index(part)]))
                for i, place in form.inputs:
                    send(sock, RUN, piece(np.asarray(inputs[i.kind][i.name], reference.NUMPY[i.type.dtype]), place, rank))
            attend(self.crew.socks)
            return {o.name: self._joined(t, place) for o, t, place, _ in every[0].outputs}
        except RankLost as error:
            why = last_words(self.crew.socks)
            self.crew.close()
            if why is None:
                raise
            raise RankLost(why) from error

    def _joined(self, t: TensorType, place: Place) -> Array:
        """An output of all ranks; what is whole comes from the first."""
        socks = self.crew.socks if place else self.crew.socks[:1]
        pieces = [take(sock, place.of(t, rank) if place else t) for rank, sock in enumerate(socks)]
        return np.concatenate(pieces, axis=place.axis) if place else pieces[0]

    def trace(self, part: str, inputs: Inputs) -> tuple[dict[str, Array], list[Digest]]:
        return self._host.trace(part, inputs)


def _process(sock: socket.socket, threads: int) -> subprocess.Popen[bytes]:
    """A rank's process; its BLAS must not take every core."""
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    command = [sys.executable, "-m", "assay.exact.ranks.team", str(sock.fileno())]
    with sock:
        return subprocess.Popen(command, pass_fds=[sock.fileno()], stdin=subprocess.DEVNULL, env=os.environ | limits)


def _thread(sock: socket.socket) -> threading.Thread:
    thread = threading.Thread(target=serve, args=(sock,), daemon=True)
    thread.start()
    return thread


def piece(array: Array, place: Place, rank: int) -> Array:
    return array if place is None else array[(slice(None),) * place.axis + (slice(place.cuts[rank], place.cuts[rank + 1]),)]


def take(sock: socket.socket, t: TensorType) -> Array:
    """An array of a type from the other end. Raises RankLost when it is none."""
    _, data = receive(sock)
    if data.nbytes != t.bytes:
        raise RankLost(f"{data.nbytes} bytes came where {t} was due")
    return data.view(reference.NUMPY[t.dtype]).reshape(t.shape)


def serve(sock: socket.socket) -> None:
    """A rank's life: program after program, link after link, until its socket is closed."""
    rank: Rank | None = None
    try:
        while True:
            kind, head = receive(sock, 1 << 12)
            if kind == SETUP:
                rank = None  # gone before the next one is made
                rank = _set_up(sock, msgspec.json.decode(head.tobytes(), type=Setup))
                if rank is None:
                    return
            elif rank is not None:
                (which,) = head.tolist()
                form = rank.parts[PARTS[which]]
                _answer(sock, rank, PARTS[which], form, _pieces(sock, form, rank.comm.rank))
    except RankLost:
        pass  # the host has gone, or gives up
    finally:
        sock.close()


def _set_up(sock: socket.socket, setup: Setup) -> Rank | None:
    """None where it cannot be, which the host has been told then."""
    program = decode(receive(sock, MAX_BYTES)[1].tobytes(), Program, limit=MAX_BYTES)  # the host has checked it
    try:
        return Rank(program, Layout(setup.batch, setup.state), SocketComm(sock, setup.rank, setup.size), setup.threads)
    except Exception as error:
        send(sock, FAULT, f"{type(error).__name__}: {error}".encode())
        return None


def _pieces(sock: socket.socket, form: Ranked, rank: int) -> list[Array]:
    return [take(sock, place.of(i.type, rank) if place else i.type) for i, place in form.inputs]


def _answer(sock: socket.socket, rank: Rank, part: str, form: Ranked, pieces: Sequence[Array]) -> None:
    try:
        results = rank.run(part, pieces)
    except RankLost:
        raise
    except Exception as error:
        send(sock, FAULT, f"{type(error).__name__}: {error}".encode())
        return
    send(sock, DONE, b"")
    for (*_, place, _local), result in zip(form.outputs, results, strict=True):
        if place is not None or rank.comm.rank == 0:
            send(sock, DONE, result)


def main(arguments: list[str]) -> int:
    """`python -m assay.exact.ranks.team SOCKET [PARENT_PID]`: a rank at a socket that it has inherited, to whoever leads it. It ends when that one
    does, or who started it."""
    if arguments[1:]:
        die_with_parent(int(arguments[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(socket.socket(fileno=int(arguments[0])))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
