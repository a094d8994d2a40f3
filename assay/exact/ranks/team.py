"""The ranks of one program, each a process (or, for tests and small models, a thread) at the other end of a socket.

    host   tensors whole: records, and the state where it begins and is written; cuts them, joins what comes back, commits
    rank   its pieces: a fraction of the activations, and of the matrices where the state is cut; of a training that stays (assay.exact.ranks.held)
           state and accumulator from link to link, else those of one link, while it runs

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
import weakref
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

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
from assay.exact.ranks.roots import joined, stretch
from assay.exact.ranks.split import Entry, entries, forms
from assay.exact.ranks.wire import DONE, FAULT, RUN, SETUP, SocketComm, attend, last_words, receive, send
from assay.exact.table import TensorType
from assay.ids import Digest
from assay.program import MAX_BYTES, Program

if TYPE_CHECKING:
    from assay.exact.ranks.held import Held

Array = NDArray[Any]
T = TypeVar("T")
PATIENCE = 600.0
"""Seconds that a rank may be silent."""
MAX_ASK = 1 << 24
"""Bytes of what a rank is asked, names of tensors included."""


class Setup(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The first frame of a program: what a rank is."""

    rank: int
    size: int
    batch: bool
    state: bool
    threads: int


class Ask(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a rank is to do, in this order; its pieces of the tensors that it is given follow, a frame each."""

    kinds: tuple[str, ...] = ()
    """It is given all entries of these kinds."""
    begin: bool = False
    """An empty accumulator."""
    part: str = ""
    """Runs a part; `alone`: of all that the part takes, which comes with this, and is answered by what it gives."""
    alone: bool = False
    roots: str = ""
    """Answers with what it has of the roots of this kind's entries, in one frame."""
    show: str = ""
    """Answers with its pieces of this kind's entries; of `names`, if there are any."""
    names: tuple[str, ...] = ()


class Guest(Protocol):
    """A training that the ranks hold."""

    def leave(self) -> None:
        """They are wanted for something else."""
        ...


class Crew:
    """Ranks that run programs one after the other: sockets to them, and the processes or threads that were started here. To be closed."""

    def __init__(
        self, socks: Sequence[socket.socket], children: Sequence[subprocess.Popen[bytes] | threading.Thread] = (), patience: float = PATIENCE
    ) -> None:  # fmt: skip
        self.socks, self._children = list(socks), list(children)
        self.team: Team | None = None
        """Whose program they are set up for."""
        self.guest: weakref.ref[Guest] | None = None
        """Whose training they hold."""
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
        self.socks, self._children, self.team, self.guest = [], [], None, None

    def free(self) -> None:
        """Whose training they hold takes it away."""
        guest, self.guest = self.guest, None
        if guest is not None and (held := guest()) is not None:
            held.leave()


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
        self.entries = entries(self._forms[0].values())
        self.micro_batches = program.micro_batches

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
        self.crew.free()
        text, layout = self._program.dump(), self._layout
        for rank, sock in enumerate(self.crew.socks):
            setup = Setup(rank=rank, size=self.crew.size, batch=layout.batch, state=layout.state, threads=self._threads)
            send(sock, SETUP, msgspec.json.encode(setup))
            send(sock, SETUP, text)
        self.crew.team = self

    def resident(self) -> Held:
        """A training of the program that stays with the ranks as long as somebody holds it. Not for two threads at a time."""
        from assay.exact.ranks.held import Held

        return Held(self)

    def run(self, part: str, inputs: Inputs, spent: Collection[str] = ()) -> dict[str, Array]:
        """As assay.exact.cpu.Cpu.run, on all ranks; nothing is written over inputs. Raises RankLost, after which the crew is closed."""
        form = self._forms[0][part]
        taken = [(i.kind, i.name) for i, _ in form.inputs]
        if self.crew.size:
            self.crew.free()
        return self.ask(Ask(part=part, alone=True), taken, inputs, lambda: self.shown([(o.kind, o.name) for o, *_ in form.outputs]))

    def ask(self, ask: Ask, taken: Sequence[Entry], given: Inputs, answer: Callable[[], T]) -> T:
        """What `answer` reads when all ranks have done it. Raises RankLost, after which the crew is closed."""
        try:
            self._set_up()
            for rank, sock in enumerate(self.crew.socks):
                send(sock, RUN, msgspec.json.encode(ask))
                for kind, name in taken:
                    t, place = self.entries[kind, name]
                    send(sock, RUN, piece(np.asarray(given[kind][name], reference.NUMPY[t.dtype]), place, rank))
            attend(self.crew.socks)
            return answer()
        except RankLost as error:
            why = last_words(self.crew.socks)
            self.crew.close()
            if why is None:
                raise
            raise RankLost(why) from error

    def shown(self, wanted: Sequence[Entry]) -> dict[str, Array]:
        """Entries by name; what is whole comes from the first rank."""
        return {entry[1]: self._joined(*self.entries[entry]) for entry in wanted}

    def _joined(self, t: TensorType, place: Place) -> Array:
        socks = self.crew.socks if place else self.crew.socks[:1]
        pieces = [take(sock, place.of(t, rank) if place else t) for rank, sock in enumerate(socks)]
        return np.concatenate(pieces, axis=place.axis) if place else pieces[0]

    def rooted(self, kind: str) -> dict[str, Digest]:
        """The tensor roots of a kind's entries."""
        own = {name: (t, place) for (k, name), (t, place) in self.entries.items() if k == kind}
        lies = {name: [stretch(t, place, rank) for rank in range(self.crew.size)] for name, (t, place) in own.items()}
        given = []
        for rank, sock in enumerate(self.crew.socks):
            size = sum(each[rank].size for each in lies.values())
            data = receive(sock, size)[1].tobytes()
            if len(data) != size:
                raise RankLost(f"{len(data)} bytes came where the roots of a rank's pieces take {size}")
            given.append(data)
        roots, at = {}, [0] * len(given)
        for name, (t, place) in own.items():
            told = [data[start : start + one.size] for data, start, one in zip(given, at, lies[name], strict=True)]
            at = [start + one.size for start, one in zip(at, lies[name], strict=True)]
            if place is None and len(set(told)) > 1:
                raise RankLost(f"the ranks have different bits of {name!r}, of which each has all: a processor, a GPU or memory here is faulty")
            roots[name] = joined(t, list(zip(lies[name], told, strict=True))[: None if place else 1])
        return roots

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
            kind, head = receive(sock, MAX_ASK)
            if kind == SETUP:
                rank = None  # gone before the next one is made
                rank = _set_up(sock, msgspec.json.decode(head.tobytes(), type=Setup))
                if rank is None:
                    return
            elif rank is not None:
                _answer(sock, rank, msgspec.json.decode(head.tobytes(), type=Ask))
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


def _answer(sock: socket.socket, rank: Rank, ask: Ask) -> None:
    kept, own = rank.kept, rank.comm.rank
    shown = [entry for entry in rank.entries if entry[0] == ask.show and (not ask.names or entry[1] in ask.names)]
    try:
        taken = [entry for entry in rank.entries if entry[0] in ask.kinds]
        if ask.alone:
            form = rank.parts[ask.part]
            taken, shown = [(i.kind, i.name) for i, _ in form.inputs], [(o.kind, o.name) for o, *_ in form.outputs]
        for entry in taken:
            t, place = rank.entries[entry]
            kept.put(entry, take(sock, place.of(t, own) if place else t))
        if ask.begin:
            kept.begin()
        if ask.part:
            kept.run(ask.part)
        answers: list[bytes | Array] = [kept.roots(ask.roots)] if ask.roots else []
        answers += [kept.get(entry) for entry in shown if own == 0 or rank.entries[entry][1] is not None]
        if ask.alone:
            kept.forget()
    except RankLost:
        raise
    except Exception as error:
        send(sock, FAULT, f"{type(error).__name__}: {error}".encode())
        return
    send(sock, DONE, b"")
    for one in answers:
        send(sock, DONE, one)


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
