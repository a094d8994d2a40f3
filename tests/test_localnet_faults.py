"""The fault injector: its plan, which follows from a seed, and its cables; last and slowly, a network of processes under it."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from assay.localnet.faults import LONGEST, REST, Fault, Kind, faults
from assay.localnet.ordeal import Ordeal, Scale
from assay.localnet.wires import Wires

TARGETS = {"chain": tuple(Kind), "worker-1": tuple(Kind), "worker-2": tuple(Kind), "scheduler": tuple(Kind), "bootstrap": (Kind.KILL,)}


def first(count: int, seed: int = 1, together: int = 2, gap: float = 1.0) -> list[Fault]:
    return list(itertools.islice(faults(seed, TARGETS, gap, together), count))


def over(fault: Fault) -> float:
    return fault.at + fault.seconds + (REST if fault.kind is Kind.KILL else 0.0)


# ---- the plan ------------------------------------------------------------------------------------------------------------------


def test_a_seed_tells_the_whole_plan_and_another_one_another() -> None:
    assert first(300) == first(300)
    assert first(300)[:100] == first(100)
    assert first(100) != first(100, seed=2)


def test_whatever_may_befall_a_target_does_and_nothing_else() -> None:
    met = {(fault.target, fault.kind) for fault in first(600)}
    assert met == {(target, kind) for target, kinds in TARGETS.items() for kind in kinds}


@pytest.mark.parametrize("together", [1, 2, 3])
def test_nobody_is_hit_twice_at_once_and_few_are_hit_together(together: int) -> None:
    plan = first(400, together=together, gap=0.3)
    assert [fault.number for fault in plan] == list(range(400))
    for place, fault in enumerate(plan):
        still = [before for before in plan[:place] if over(before) > fault.at + 0.02]  # times are rounded
        assert fault.target not in {before.target for before in still}
        assert len(still) < together
        assert place == 0 or fault.at >= plan[place - 1].at
        assert LONGEST[fault.kind] / 10 - 0.01 <= fault.seconds <= LONGEST[fault.kind]
        assert (fault.delay > 0) == (fault.kind is Kind.SLOW)


def test_faults_come_as_often_as_was_asked_for() -> None:
    targets = {f"node-{i}": (Kind.CUT,) for i in range(40)}
    plan = list(itertools.islice(faults(3, targets, 2.0, 20), 500))
    assert 1.9 < plan[-1].at / 500 < 2.1


def test_a_target_that_nothing_may_befall_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing may befall"):
        next(faults(1, {"worker": ()}, 1.0, 1))


# ---- the cables ------------------------------------------------------------------------------------------------------------------


def over_a_cable(scene: Callable[[Wires, asyncio.StreamReader, asyncio.StreamWriter, int], Awaitable[None]]) -> None:
    """Runs a scene with a connection to an echo, over a cable between `here` and `there`."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.transport.abort()

    def whose(host: str, port: int) -> str:
        return "here"

    async def run() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        to = server.sockets[0].getsockname()[:2]
        async with server, Wires(whose) as wires:
            port = await wires.lay(("127.0.0.1", 0), (str(to[0]), int(to[1])), "there")
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            await scene(wires, reader, writer, port)
            writer.transport.abort()

    asyncio.run(asyncio.wait_for(run(), 240))


@pytest.mark.parametrize("end", ["here", "there"])
def test_a_cut_ends_connections_of_either_end_and_refuses_new_ones(end: str) -> None:
    async def scene(wires: Wires, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        assert wires.cut("somebody else") == 0
        assert wires.cut(end) == 1
        with pytest.raises(OSError, match="reset"):
            await reader.readexactly(1)
        for healed in (False, True):
            if healed:
                wires.heal_cut(end)
            again, out = await asyncio.open_connection("127.0.0.1", port)
            try:
                out.write(b"again")
                got = await again.readexactly(5)
            except (OSError, asyncio.IncompleteReadError):
                got = b""
            assert got == (b"again" if healed else b"")
            out.transport.abort()

    over_a_cable(scene)


@pytest.mark.parametrize("end", ["here", "there"])
def test_nothing_passes_a_hole_until_it_is_closed_and_nothing_is_lost(end: str) -> None:
    async def scene(wires: Wires, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        assert wires.hold(end) == 1
        sent = bytes(range(256)) * 2000
        writer.write(sent)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readexactly(1), 0.05)
        wires.release(end)
        assert await reader.readexactly(len(sent)) == sent

    over_a_cable(scene)


def test_what_is_slowed_arrives_whole_and_later() -> None:
    async def scene(wires: Wires, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        loop = asyncio.get_running_loop()
        assert wires.slow("here", 0.05) == 1
        began = loop.time()
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        assert loop.time() - began >= 0.1  # there and back
        assert wires.passed["here"] == wires.passed["there"] == 20

    over_a_cable(scene)


# ---- the network -----------------------------------------------------------------------------------------------------------------

TRAINING = """
import numpy as np
import torch.nn.functional as F
from torch import nn
import assay
x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
training = assay.Training(model=nn.Linear(6, 3), loss=lambda model, batch: F.cross_entropy(model(batch["x"]), batch["y"]),
                          data=assay.Dataset("dots", x=x, y=(x[:, 0] > 0).astype("int64")), optimizer=assay.AdamW(lr=1e-2), batch=8, steps=16)
"""


@pytest.mark.slow
def test_faults_of_real_processes_change_neither_a_bit_nor_a_balance(tmp_path: Path) -> None:
    train, base = tmp_path / "train.py", tmp_path / "net"
    train.write_text(TRAINING)
    base.mkdir()
    found = asyncio.run(Ordeal(Scale(faults=24, gap=2.0, steps=8), 24, base, train).run())
    assert found["problems"] == []
    assert found["faults"] == 24
    assert set(found["by_kind"]) == {str(kind) for kind in Kind}
    assert found["jobs"] >= 1
    done = [json.loads(line) for line in (base / "faults.jsonl").read_text().splitlines()]
    assert len([line for line in done if "number" in line and not line.get("missed")]) == 24
