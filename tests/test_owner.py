"""What a GPU owner has beside the daemon: hardware as NVML tells it, when to pause, metrics, receipts, a unit, a proposed price."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from assay.adapters.hardware import Gpu, gpus, machine
from assay.chain import SegmentState
from assay.cli import asking, care, metrics, owner
from assay.cli.app import app
from assay.cli.care import Rules, forbids, hours_of
from assay.cli.common import USAGE, Trouble
from assay.cli.node import Options
from assay.ids import Address, JobId, SegmentId
from assay.ports import Outage
from assay.prices import PriceBook, Sale
from assay.receipts import Ledger, Payment, Segment
from assay.runtime import Note

ME, OTHER = Address("0x" + "a1" * 20), Address("0x" + "b2" * 20)


class Nvml:
    """The part of pynvml that is used, over one card that hides what consumer cards hide."""

    class NVMLError(Exception):
        pass

    NVML_TEMPERATURE_GPU = 0

    def __init__(self, cards: int = 1, driver: bool = True) -> None:
        self.cards, self.driver, self.open = cards, driver, 0

    def nvmlInit(self) -> None:
        if not self.driver:
            raise self.NVMLError
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def __getattr__(self, name: str) -> Any:
        known = {
            "nvmlSystemGetDriverVersion": "570.1", "nvmlDeviceGetCount": self.cards, "nvmlDeviceGetHandleByIndex": "card",
            "nvmlDeviceGetUUID": "GPU-1", "nvmlDeviceGetName": "Some GPU", "nvmlDeviceGetCudaComputeCapability": (9, 0),
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=8 << 30, used=1 << 30), "nvmlDeviceGetTemperature": 61,
            "nvmlDeviceGetPowerUsage": 215_500, "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=37, memory=5),
            "nvmlDeviceGetComputeRunningProcesses": [SimpleNamespace(pid=7)],
            "nvmlDeviceGetGraphicsRunningProcesses": [SimpleNamespace(pid=7), SimpleNamespace(pid=5)],
        }  # fmt: skip

        def answer(*_: Any) -> Any:
            if name not in known:
                raise self.NVMLError(name)
            return known[name]

        return answer


def gpu(**changes: Any) -> Gpu:
    (found,) = gpus(Nvml())
    return Gpu(**{name: changes.get(name, getattr(found, name)) for name in Gpu.__struct_fields__})


def test_a_card_is_told_with_what_it_hides_left_out() -> None:
    nvml = Nvml()
    (found,) = gpus(nvml)
    assert nvml.open == 0
    assert found == Gpu(
        index=0, uuid="GPU-1", name="Some GPU", driver="570.1", capability=(9, 0), memory=8 << 30, used=1 << 30, temperature=61, power=215.5,
        power_limit=None, busy=37, ecc=None, mig=None, processes=(5, 7),
    )  # fmt: skip
    assert found.text == "Some GPU, 8 GiB (1.0 taken), driver 570.1, compute 9.0, 61 °C, 216 W; used by processes 5, 7"
    assert gpus(Nvml(driver=False)) == ()
    assert machine().cores >= 1


def test_who_takes_how_much_of_a_card_is_told_where_the_driver_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml, asked = Nvml(), []
    answers: list[Any] = [[SimpleNamespace(pid=7, smUtil=3), SimpleNamespace(pid=5, smUtil=80), SimpleNamespace(pid=7, smUtil=41)], 6, 3]

    def utilisation(_: Any, since: int) -> Any:
        asked.append(since)
        if isinstance(found := answers.pop(0), int):
            error = nvml.NVMLError()
            error.value = found  # type: ignore[attr-defined]
            raise error
        return found

    monkeypatch.setattr(nvml, "nvmlDeviceGetProcessUtilization", utilisation, raising=False)
    assert [gpus(nvml)[0].shares for _ in range(3)] == [((5, 80), (7, 41)), (), None]
    assert all(since > 10**15 for since in asked)  # microseconds since 1970: what was long ago does not count


@pytest.mark.parametrize(
    ("text", "hours"), [("", None), ("22-7", (22, 7)), ("9-17", (9, 17)), ("0-24", (0, 24))]
)  # fmt: skip
def test_hours_are_read(text: str, hours: Any) -> None:
    assert hours_of(text) == hours


@pytest.mark.parametrize("text", ["22", "22-", "7-7", "25-3", "ten-six", "-1-5"])
def test_what_is_no_span_of_hours_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="22-7"):
        hours_of(text)


@pytest.mark.parametrize(
    ("rules", "hour", "card", "paused", "why"),
    [
        (Rules(), 12, gpu(temperature=99, busy=100), False, ""),
        (Rules(hours=(22, 7)), 23, gpu(), False, ""),
        (Rules(hours=(22, 7)), 6, gpu(), False, ""),
        (Rules(hours=(22, 7)), 7, gpu(), False, "from 22 to 7"),
        (Rules(hours=(9, 17)), 17, gpu(), False, "from 9 to 17"),
        (Rules(hours=(9, 17)), 9, gpu(), False, ""),
        (Rules(hottest=80), 0, gpu(temperature=80), False, ""),
        (Rules(hottest=80), 0, gpu(temperature=81), False, "81 °C"),
        (Rules(hottest=80), 0, gpu(temperature=76), True, "76 °C"),
        (Rules(hottest=80), 0, gpu(temperature=75), True, ""),
        (Rules(hottest=80), 0, gpu(temperature=None), False, ""),
        (Rules(watts=250), 0, gpu(power_limit=300.0, power=90.0), False, "sudo nvidia-smi -i 0 -pl 250"),
        (Rules(watts=250), 0, gpu(power_limit=250.0), True, ""),
        (Rules(watts=250), 0, gpu(power_limit=None, power=251.0), False, "takes 251 W"),
        (Rules(watts=250), 0, gpu(power_limit=None, power=None), False, ""),
        (Rules(alone=True), 0, gpu(processes=(5, 7)), False, "process 7"),
        (Rules(alone=True), 0, gpu(processes=(5,)), False, ""),
        (Rules(alone=True), 0, gpu(processes=(5, 7), busy=9), False, ""),
        (Rules(alone=True), 0, gpu(processes=(5, 7), busy=99, shares=((5, 97), (7, 2))), False, ""),  # 7 is the desktop
        (Rules(alone=True), 0, gpu(processes=(5, 7), busy=99, shares=((5, 60), (7, 39))), False, "process 7"),
        (Rules(alone=True), 0, gpu(processes=(5, 7), busy=99, shares=()), False, ""),
    ],
)
def test_when_a_worker_may_work(rules: Rules, hour: int, card: Gpu, paused: bool, why: str) -> None:
    said = forbids(rules, hour, (card,), frozenset([5]), paused)
    assert why in said
    assert bool(why) == bool(said)


def test_it_pauses_and_goes_on_and_says_so() -> None:
    days = [23, 8, 12, 22, 23, 9]
    orders: list[str] = []
    said: list[str] = []

    async def run() -> None:
        def look() -> Any:
            return days.pop(0), (), frozenset()

        node = SimpleNamespace(order=orders.append)
        with pytest.raises(IndexError):  # the days are over
            await care.look_after(node, care.Orders(node), Rules(hours=(22, 7)), look, lambda note: said.append(note.text), every=0)

    asyncio.run(run())
    assert orders == ["drain", "resume", "drain"]
    assert said[:2] == ["this worker pauses: it works from 22 to 7 o'clock", "this worker goes on"]


def test_an_engine_is_known_by_its_command_whoever_has_started_it() -> None:
    import psutil

    with subprocess.Popen([sys.executable, "-c", "input()", care.ENGINE], stdin=subprocess.PIPE) as engine:
        try:
            assert care._engine(psutil, engine.pid)
            assert not care._engine(psutil, os.getpid())
        finally:
            engine.kill()
    assert not care._engine(psutil, engine.pid)


def test_a_drain_by_hand_stands_until_the_owner_ends_it() -> None:
    orders: list[str] = []
    owner = care.Orders(SimpleNamespace(order=orders.append))
    days: list[int | str] = [8, "drain", 23, 8, "resume", 23]

    async def run() -> None:
        def look() -> Any:
            while isinstance(day := days.pop(0), str):
                owner.order(day)
            return day, (), frozenset()

        with pytest.raises(IndexError):
            await care.look_after(SimpleNamespace(order=orders.append), owner, Rules(hours=(22, 7)), look, lambda note: None, every=0)

    asyncio.run(run())
    assert orders == ["drain", "drain", "drain", "resume", "resume"]  # by the clock, by hand, by the clock, by hand, by the clock


def test_figures_for_prometheus(tmp_path: Path) -> None:
    status = {
        "pid": 7, "head": 99, "chain_time": 1234, "known_peers": 3, "chain_reachable": True, "draining": False, "credit": 2_500_000,
        "working_on": ["a"], "segments": [{"phase": "running"}, {"phase": "committed"}, {"phase": "committed"}], "disputes": [],
    }  # fmt: skip
    (tmp_path / "status.json").write_text(json.dumps(status))
    registered = {family.name: family for family in metrics.Figures(tmp_path, lambda: gpus(Nvml())).collect()}
    assert registered["assay_credit_tokens"].samples[0].value == 2.5
    assert {s.labels["phase"]: s.value for s in registered["assay_segments"].samples} == {"running": 1, "committed": 2}
    assert registered["assay_gpu_temperature_celsius"].samples[0].labels == {"gpu": "0", "name": "Some GPU"}
    assert registered["assay_gpu_busy_ratio"].samples[0].value == 0.37
    assert list(metrics.Figures(tmp_path / "nowhere").collect()) == []


def test_they_are_served_over_http_until_the_daemon_ends(tmp_path: Path) -> None:
    import socket

    (tmp_path / "status.json").write_text('{"pid": 7, "head": 99}')
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Trouble, match="cannot be served"):
            metrics.serve(f"127.0.0.1:{port}", tmp_path)
    end = metrics.serve(f"127.0.0.1:{port}", tmp_path)
    try:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=240).read().decode()
    finally:
        end()
    assert "assay_chain_head 99.0" in text
    assert "process_resident_memory_bytes" in text
    for wrong in ("9470", "127.0.0.1:", ":9470", "127.0.0.1:x"):
        with pytest.raises(Trouble, match="cannot be served on"):
            metrics.serve(wrong, tmp_path)


def ledger() -> Ledger:
    made = Ledger()
    rows = [
        Segment(SegmentId(1), JobId(1), SegmentId(0), ME, 0, 8, 100, state=SegmentState.SETTLED, payments=[Payment(ME, 1_500_000, "settled")]),
        Segment(SegmentId(2), JobId(1), SegmentId(1), ME, 8, 16, 100, state=SegmentState.LAPSED, reason="its lease ran out, with nothing"),
        Segment(SegmentId(3), JobId(2), SegmentId(0), OTHER, 0, 4, 100, verifiers=(ME,), payments=[Payment(ME, -50, 'said "no"')]),
        Segment(SegmentId(4), JobId(2), SegmentId(3), OTHER, 4, 8, 100, payments=[Payment(OTHER, 9, "settled")]),
    ]
    rows[1].payments.append(Payment(ME, -2_000_000, "late"))
    made.segments = {segment.number: segment for segment in rows}
    return made


def test_receipts_are_of_this_node_only_and_survive_a_spreadsheet() -> None:
    rows = owner.rows_of(ME, ledger())
    found = [(row["segment"], row["as"], row["paid"]) for row in rows]
    assert found == [(1, "provider", 1_500_000), (2, "provider", -2_000_000), (3, "verifier", -50)]
    read = list(csv.DictReader(io.StringIO(owner.as_table(rows))))
    assert [row["paid"] for row in read] == ["1.500000", "-2.000000", "-0.000050"]
    assert [row["why"] for row in read] == ["settled", "its lease ran out, with nothing; late", 'said "no"']


WHERE = ["--rpc", "http://127.0.0.1:8545", "--contract", "0x" + "aa" * 20, "--bootstrap", "/ip4/127.0.0.1/tcp/1/p2p/x"]


def test_a_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    said = CliRunner().invoke(app, ["worker", "unit", "--data", "/var/lib/assay/worker", *WHERE, "--options", "--hours 22-7 --gpu-memory 60%"])
    assert said.exit_code == 0, said.output
    assert "worker drain --data /var/lib/assay/worker --wait 600" in said.output
    assert "--data /var/lib/assay/worker --hours 22-7 --gpu-memory 60%%\n" in said.output
    file = tmp_path / "assay-worker.service"
    file.write_text(said.output.replace("User=assay", "User=root"))
    if shutil.which("systemd-analyze"):
        verified = subprocess.run(["systemd-analyze", "verify", str(file)], capture_output=True, text=True, check=False)
        assert "assay-worker" not in verified.stderr, verified.stderr


@pytest.mark.parametrize("wrong", [["--user", "a\nExecStart=/bin/evil"], ["--data", "/tmp/a b"], ["--options", "--price $(id)"], ["--user", "%i"]])
def test_a_unit_takes_no_characters_that_mean_something_to_systemd(wrong: list[str]) -> None:
    said = CliRunner().invoke(app, ["worker", "unit", "--data", "/var/lib/assay", *WHERE, *wrong])
    assert said.exit_code == USAGE, said.output
    assert "a unit cannot be written" in said.output


def test_a_worker_without_a_price_asks_what_its_speed_is_worth(tmp_path: Path) -> None:
    told: list[Note] = []

    def ask(local: bool = False, **named: int) -> tuple[int, int]:
        found = asyncio.run(asking.priced("worker", Options(**named), tmp_path, local, told.append))  # type: ignore[arg-type]
        return found.price, found.price_per_tera

    assert ask(price=5) == (5, 0)
    assert ask(price_per_tera=7) == (100_000, 7)
    assert ask(local=True) == (100_000, 0)
    assert asyncio.run(asking.measured(tmp_path, 2, (sys.executable, "-c", "raise SystemExit(1)"))) == 0
    assert asyncio.run(asking.measured(tmp_path, 2, (sys.executable, "-c", "print(50_000_000_000)"))) == 100_000_000_000
    assert not told
    assert ask(threads=2) == (1, 2778)  # remembered; 360 times 10^12 operations an hour for 10^6 units
    assert "100 G operations a second with 2 threads" in told[0].text
    assert asyncio.run(asking.measured(tmp_path, 1, (sys.executable, "-c", "print('no number')"))) == 0


def test_init_makes_keys_once_looks_around_and_proposes_a_price(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(owner, "BENCH_SIZE", 64)
    monkeypatch.setattr(owner, "BENCH_SECONDS", 0.01)
    found = [json.loads(CliRunner().invoke(app, ["worker", "init", "--data", str(tmp_path / "w"), "--json"]).stdout.splitlines()[-1]) for _ in "12"]
    assert found[0]["account"] == found[1]["account"]
    assert found[0]["operations_per_second"] > 0
    assert {finding["what"] for finding in found[0]["findings"]} >= {"sandbox", "data folder", "native engine"}
    said = CliRunner().invoke(app, ["worker", "init", "--data", str(tmp_path / "w"), "--per-hour", "3"])
    assert "bring 3 an hour" in said.output
    assert "lately" not in said.output


def test_init_tells_what_was_paid_lately_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    async def read(where: Any) -> tuple[PriceBook, int]:
        book = PriceBook()
        for operations, prices in ((10**9, (7, 5, 6)), (10**12, (900,))):
            book.sales.extend(
                Sale(job=JobId(1), provider=ME, at=50, operations=operations, steps=1, price=price, waited=0, seconds=1) for price in prices
            )
        return book, 60

    async def gone(where: Any) -> tuple[PriceBook, int]:
        raise Outage("nobody answers")

    monkeypatch.setattr("assay.cli.prices.read_book", read)
    assert owner.paid_lately("http://here", ME) == 6000
    assert owner.paid_lately(None, ME) is None
    monkeypatch.setattr("assay.cli.prices.read_book", gone)
    assert owner.paid_lately("http://here", ME) is None


@pytest.mark.parametrize(("per_hour", "operations", "price"), [(1.0, 1e12 / 3600, 1_000_000), (2.0, 1e12, 556), (0.0, 1e9, 1)])
def test_a_price_brings_what_was_asked(per_hour: float, operations: float, price: int) -> None:
    assert owner.price_per_tera(per_hour, operations) == price
