"""Ranks in threads of this process, each on a fake device of its own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from assay.exact import engines
from assay.exact.cuda import fake, maps, rows
from assay.exact.cuda.maps import Kernels
from assay.exact.cuda.parts import constants_of
from assay.exact.cuda.product import Products
from assay.exact.plan import Plan
from assay.exact.ranks.places import Layout
from assay.exact.ranks.split import ranked
from assay.exact.ranks.wire import DONE, SocketComm, attend, send
from assay.program import Program

Array = np.ndarray[Any, Any]


def together(size: int, work: Callable[[SocketComm], Any]) -> list[Any]:
    """What ranks give, each in a thread, this one being their hub. Raises what the first of them raised that did."""
    pairs = [socket.socketpair() for _ in range(size)]
    found: list[Any] = [None] * size
    wrong: list[BaseException] = []

    def rank(at: int) -> None:
        sock = pairs[at][1]
        try:
            found[at] = work(SocketComm(sock, at, size))
            send(sock, DONE, b"")
        except BaseException as error:
            wrong.append(error)
            sock.close()

    threads = [threading.Thread(target=rank, args=(at,)) for at in range(size)]
    for thread in threads:
        thread.start()
    try:
        attend([mine for mine, _ in pairs])
    except Exception as error:
        wrong.append(error)
    finally:
        if wrong:
            for mine, _ in pairs:
                mine.close()
        for thread in threads:
            thread.join()
        for pair in pairs:
            for sock in pair:
                sock.close()
    if wrong:
        raise wrong[0]
    return found


def opened(peers: bool, texts: Sequence[maps.MapText] = (), device: fake.Fake | None = None) -> engines.Opened:
    device = device or fake.Fake(peers=peers)
    kernels = Kernels(device)
    kernels.compile(list(texts))
    return engines.Opened(device, kernels, Products(device))


def texts(program: Program, layout: Layout, size: int) -> list[maps.MapText]:
    forms = [ranked(part, layout, rank, size) for rank in range(size) for part in (program.micro, program.update)]
    plans = [Plan(stage.part, constants_of(program), program.gemm_bits, rows=True) for form in forms for stage in form.stages if stage.gives]
    return rows.texts(plans)


class Counting(fake.Fake):
    """Counts what crosses, in bytes."""

    up = down = 0

    def upload(self, to: int, data: Array) -> None:
        self.up += data.nbytes
        super().upload(to, data)

    def download(self, of: int, into: Array) -> None:
        self.down += into.nbytes
        super().download(of, into)
