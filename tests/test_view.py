"""The live view and the doctor of a node, over statuses and logs that three nodes of a demo left (tests/vectors/nodes): a worker in the middle
of its day, a verifier with duties, and a worker who has lied."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from textual.widgets import DataTable, Static
from typer.testing import CliRunner

from assay.adapters import releases
from assay.adapters.hardware import Gpu, Machine
from assay.adapters.releases import NoIndex
from assay.cli import ailments, beside
from assay.cli.app import app
from assay.cli.common import USAGE, Trouble
from assay.cli.view import picture
from assay.cli.view.screen import View
from assay.cli.view.seen import Seen, look, tail
from assay.runtime import Note

NODES = Path(__file__).parent / "vectors" / "nodes"
MACHINE = Machine(cpu="Some CPU", cores=4, memory=16 << 30, available=12 << 30, load=3.0)
GPU = Gpu(
    index=0, uuid="GPU-1", name="Some GPU", driver="570.1", capability=(9, 0), memory=80 << 30, used=20 << 30, temperature=61, power=215.5,
    power_limit=300.0, busy=75, ecc=None, mig=None, processes=(7,),
)  # fmt: skip


def recorded(name: str, **changes: Any) -> dict[str, Any]:
    return {"running": True, **json.loads((NODES / name / "status.json").read_text()), **changes}


def seen(name: str, **changes: Any) -> Seen:
    return Seen(recorded(name, **changes), tail(NODES / name / "log.jsonl"), MACHINE, (GPU,))


def text_of(shown: View, name: str) -> str:
    return str(shown.query_one(name, Static).render())


def rows_of(shown: View, name: str) -> list[tuple[str, ...]]:
    table = shown.query_one(name, DataTable)
    return [tuple(str(cell) for cell in table.get_row_at(i)) for i in range(table.row_count)]


def on_screen(role: str, now: Seen | Callable[[], Seen], body: Callable[[View, Any], Any], order: Callable[[str], None] = lambda order: None) -> None:
    async def run() -> None:
        shown = View(role, now if callable(now) else lambda: now, order)
        async with shown.run_test(size=(150, 46)) as pilot:
            await pilot.pause()
            await body(shown, pilot)

    asyncio.run(run())


# ---- the screen ------------------------------------------------------------------------------------------------------------


def test_a_worker_sees_its_work_machine_money_and_receipts() -> None:
    async def body(shown: View, pilot: Any) -> None:
        status = recorded("worker")
        work = rows_of(shown, "#work")
        assert [(row[0], row[4], row[5]) for row in work] == [
            (str(s["segment"]), s["phase"], s["state"]) for s in reversed(status["segments"])
        ]  # fmt: skip
        assert re.search(r"\d+%", work[0][3])  # of the one that is run
        assert "75 %" in text_of(shown, "#machine")
        assert "61 °C, 216 W of 300" in text_of(shown, "#machine")
        assert len(rows_of(shown, "#receipts")) == len(status["receipts"])
        assert picture.money(status["days"][-1]["earned"]) in text_of(shown, "#days")
        assert "segment" in text_of(shown, "#log")

    on_screen("worker", seen("worker"), body)


def test_a_verifier_sees_what_it_is_drawn_for_what_it_earns_and_what_it_risks() -> None:
    async def body(shown: View, pilot: Any) -> None:
        status = recorded("verifier")
        work = rows_of(shown, "#work")
        assert [row[0] for row in work] == [str(duty["segment"]) for duty in reversed(status["duties"])]
        assert {row[7] for row in work} == {"1.00"}  # the bond of a draw
        assert shown.check_action("order", ("drain",)) is False
        assert shown.check_action("order", ("withdraw",)) is True

    on_screen("verifier", seen("verifier"), body)
    counted = dict(picture.reputation(recorded("verifier")))
    assert int(counted["drawn"]) >= int(counted["checked"]) > 0


def test_keys_are_the_owners_orders_and_what_goes_wrong_is_told() -> None:
    given: list[str] = []

    def order(order: str) -> None:
        given.append(order)
        if order == "withdraw":
            raise Trouble("no node is running", "orders are for a running node")

    async def body(shown: View, pilot: Any) -> None:
        await pilot.press("d", "r")
        await shown.workers.wait_for_complete()
        await pilot.press("w")
        await shown.workers.wait_for_complete()
        await pilot.pause()
        assert any("no node is running: orders are for" in each.message for each in shown._notifications)
        await pilot.press("q")

    on_screen("worker", seen("worker"), body, order)
    assert given[-1] == "withdraw"
    assert set(given) <= {"drain", "resume", "withdraw"}


def test_it_is_read_again_and_the_last_picture_stays_when_it_cannot_be() -> None:
    pictures = [seen("worker"), seen("worker", credit=77_000_000)]

    def now() -> Seen:
        if not pictures:
            raise Trouble("no node has run here")
        return pictures.pop(0)

    async def body(shown: View, pilot: Any) -> None:
        assert ("to be withdrawn", "77.00") not in picture.funds(seen("worker").status)
        await shown.refresh_picture()
        assert rows_of(shown, "#work")
        await shown.refresh_picture()
        assert rows_of(shown, "#work")

    on_screen("worker", now, body)
    assert not pictures


def test_a_picture_of_it_is_written_for_who_has_no_terminal(tmp_path: Path) -> None:
    shutil.copytree(NODES / "worker", tmp_path / "w")
    (tmp_path / "w" / "lock").touch()
    said = CliRunner().invoke(app, ["worker", "view", "--data", str(tmp_path / "w"), "--svg", str(tmp_path / "w.svg")])
    assert said.exit_code == 0, said.output
    text = unescape((tmp_path / "w.svg").read_text()).replace("\xa0", " ")
    assert "NOT RUNNING" in text
    assert "credited by day (UTC)" in text
    assert "url(http" not in text  # nothing is fetched by who looks at it
    said = CliRunner().invoke(app, ["worker", "view", "--data", str(tmp_path / "w")])
    assert said.exit_code == USAGE
    assert "a live view needs a terminal" in said.output
    assert CliRunner().invoke(app, ["worker", "view", "--data", str(tmp_path / "nowhere")]).exit_code == 1


# ---- words -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["worker", "verifier", "liar"])
@pytest.mark.parametrize("junk", [None, "x", 7, [], {}, [1, "x"], [{"segment": "x", "links": 5, "day": "y", "amount": None}], {"settled": "many"}])
def test_a_status_of_another_version_is_shown_as_far_as_it_goes(name: str, junk: Any) -> None:
    status = recorded(name)
    for key in status:
        if key not in ("running", "role"):
            changed = {**status, key: junk}
            assert picture.head(changed)
            for rows in (picture.work(changed, []), picture.funds(changed), picture.reputation(changed), picture.days(changed, 14)):
                assert isinstance(rows, list)
            picture.receipts(changed)
            ailments.findings(str(status["role"]), changed, [{"topic": junk, "text": junk}], 0.0)


def test_what_others_said_cannot_write_on_the_screen() -> None:
    entry = {"time": 0, "segment": 1, "amount": 5, "why": "\x1b[2J\x1b]0;title\x07evil\nline\u202e" + "x" * 500}
    ((_, _, amount, why),) = picture.receipts({"receipts": [entry]})
    assert amount == "0.000005"
    assert why.isprintable()
    assert len(why) == picture.LONG

    async def body(shown: View, pilot: Any) -> None:
        assert rows_of(shown, "#receipts")[0][3].isprintable()
        assert "[bold]not markup[/bold]" in text_of(shown, "#log")

    log = [{"time": 1, "topic": "x", "text": "[bold]not markup[/bold]"}]
    on_screen("worker", Seen(recorded("worker", receipts=[entry]), log, None, ()), body)


@pytest.mark.parametrize(("share", "text"), [(0, "    "), (0.5, "██  "), (1, "████"), (7, "████"), (-1, "    "), (0.28, "█▏  ")])
def test_bars(share: float, text: str) -> None:
    assert picture.bar(share, 4) == text


def test_days_without_earnings_are_shown_between_those_with_some() -> None:
    status = {"chain_time": 103 * 86_400, "days": [{"day": 100, "earned": 4_000_000, "lost": 0}, {"day": 102, "earned": 2_000_000, "lost": 500_000}]}
    shown = picture.days(status, 14)
    assert [line.split()[-1] for line in shown] == ["0.00", "-0.50", "0.00", "4.00"]
    assert shown[3].count("█") == picture.BAR == 2 * shown[1].count("█")
    assert len(picture.days(status, 2)) == 2


def test_the_tail_of_a_long_log_begins_with_a_whole_line(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    note = beside.printer(False, log)
    for i in range(2000):
        note(Note(topic="x", text="y" * 100, data={"i": i}))
    found = tail(log)
    assert [entry["i"] for entry in found] == list(range(1800, 2000))
    log.write_bytes(b'{"torn\n[1]\n\xff\n{"topic": "good"}\n')
    assert tail(log) == [{"topic": "good"}]
    assert tail(tmp_path / "none") == []


def test_a_log_stays_under_twice_its_limit(tmp_path: Path) -> None:
    note = beside.printer(False, tmp_path / "log.jsonl", limit=10_000)
    for i in range(1000):
        note(Note(topic="x", text="y" * 100, data={"i": i}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "log.jsonl.1"]
    assert all(path.stat().st_size < 10_200 for path in tmp_path.iterdir())
    assert tail(tmp_path / "log.jsonl")[-1]["i"] == 999


def test_the_view_of_a_folder_reads_what_the_daemon_left(tmp_path: Path) -> None:
    shutil.copytree(NODES / "verifier", tmp_path / "v")
    found = look(tmp_path / "v", lambda: (GPU,))
    assert found.status["running"] is False
    assert found.log[-1]["topic"]
    assert found.gpus == (GPU,)
    with pytest.raises(Trouble, match="no node has run"):
        look(tmp_path / "other")


# ---- the doctor ------------------------------------------------------------------------------------------------------------


def ill(name: str, log: Any = (), now: float | None = None, **changes: Any) -> dict[str, ailments.Finding]:
    status = recorded(name, **changes)
    return {finding.what: finding for finding in ailments.findings(status["role"], status, log, now or status["chain_time"])}


def test_a_healthy_node_has_nothing_to_complain_of() -> None:
    assert all(finding.good for finding in ill("worker").values())
    assert all(finding.good for finding in ill("verifier").values())


@pytest.mark.parametrize(
    ("name", "changes", "what", "good", "says"),
    [
        ("worker", {"running": False}, "daemon", False, "does not run"),
        ("worker", {"chain_reachable": False}, "the node's chain", False, "does not answer"),
        ("worker", {"chain_time": 5, "now": 5000}, "the node's chain", False, "4995 s old"),
        ("worker", {"known_peers": 0}, "peers", False, "0 are known"),
        ("worker", {"balance": {"tokens": 0, "stake": 5, "reserved": 5, "native": 10**18}}, "stake", False, "are free"),
        ("worker", {"balance": {"tokens": 0, "stake": 5, "reserved": 0, "native": 7}}, "gas", False, "0.0000"),
        ("worker", {"draining": True}, "work", None, "its owner has drained it"),
        ("worker", {"draining": True, "log": [{"topic": "paused", "text": "GPU 0 has 90 °C"}]}, "work", None, "90 °C"),
        ("worker", {"too_cheap": [{"job": 1, "asked": 9_000_000, "cap": 2_000_000}]}, "price", None, "2.00 a step, where it asks 9.00"),
        ("worker", {"refused_jobs": {"3": "needs more memory"}}, "jobs", None, "job 3: needs more memory"),
        ("worker", {"log": [{"topic": "error", "text": "disk"}, {"topic": "error", "text": "disk"}]}, "log", None, "disk"),
        ("liar", {}, "record", None, "1 withheld"),
        ("verifier", {"absent": 2}, "record", None, "2 draws missed"),
    ],
)
def test_what_a_node_suffers_from_is_named_with_what_to_do(name: str, changes: dict[str, Any], what: str, good: bool | None, says: str) -> None:
    found = ill(name, **changes)[what]
    assert found.good is good
    assert says in found.detail
    assert found.next or what in ("jobs", "log")


def test_the_doctor_of_a_node_looks_at_the_machine_and_at_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(NODES / "worker", tmp_path / "w")
    said = CliRunner().invoke(app, ["worker", "doctor", "--data", str(tmp_path / "w"), "--json"])
    assert said.exit_code == 1
    told = json.loads(said.stdout.splitlines()[-1])
    assert {"sandbox", "data folder", "daemon", "gas", "stake"} <= {finding["what"] for finding in told["findings"]}
    assert [finding["what"] for finding in told["findings"] if finding["good"] is False] == ["daemon"]
    (tmp_path / "w" / "status.json").write_text("{torn")
    assert "cannot be read" in CliRunner().invoke(app, ["worker", "doctor", "--data", str(tmp_path / "w")]).output


# ---- newer versions --------------------------------------------------------------------------------------------------------


def page(*names: str, **more: Any) -> bytes:
    return json.dumps({"files": [{"filename": name, "yanked": False} for name in names], **more}).encode()


def test_the_newest_final_version_of_an_index_page_is_found() -> None:
    names = ("assay-0.9.0-py3-none-any.whl", "assay-0.10.0.tar.gz", "assay-0.11.0rc1.tar.gz", "assay-0.2-py3-none-any.whl", "evil\x1b-99999999.zip")
    assert releases.newest(page(*names)) == "0.10.0"
    withdrawn = json.dumps({"files": [{"filename": "assay-2.0.tar.gz", "yanked": "broken"}, {"filename": "assay-1.0.tar.gz"}]}).encode()
    assert releases.newest(withdrawn) == "1.0"


@pytest.mark.parametrize("junk", [b"", b"<html>", b"[]", b"{}", b'{"files": 5}', b'{"files": [5, {"filename": 5}]}', page(), b"[" * 100_000])
def test_what_is_no_index_page_is_refused(junk: bytes) -> None:
    with pytest.raises(NoIndex):
        releases.newest(junk)


def test_nesting_is_refused_in_a_process_that_speaks_to_a_chain() -> None:
    """And does not overflow the stack, which would end the daemon: a library of web3's raises the recursion limit to 100,000."""
    code = "import json, assay.adapters.evm\ntry: json.loads('[' * 100_000)\nexcept RecursionError: print('refused')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "refused\n"


@pytest.mark.parametrize(
    ("here", "there", "told"),
    [("0.1.0", "0.2.0", True), ("0.1.0", "0.1", False), ("0.2", "0.1.9", False), ("1.0rc1", "2.0", False), ("0.9", "0.10", True)],
)
def test_only_a_newer_version_is_told(here: str, there: str, told: bool) -> None:
    assert bool(releases.news(here, there)) is told


@pytest.mark.parametrize("url", ["file:///etc/passwd", "https://", "simple/assay", "https://user:pass@host/simple/assay/"])
def test_what_is_no_address_of_an_index_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="package index"):
        releases.check_url(url)


def test_the_daemon_tells_of_a_newer_version_once_and_the_doctor_when_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from aiohttp import web

    answers: list[web.Response] = []
    asked: list[str] = []
    enough = asyncio.Event()

    async def index(request: web.Request) -> web.Response:
        asked.append(request.headers["Accept"])
        if len(asked) == 6:
            enough.set()
        return answers.pop(0) if answers else web.Response(status=404)

    async def scene() -> list[str]:
        said: list[str] = []
        server = web.Application()
        server.router.add_get("/simple/assay/", index)
        runner = web.AppRunner(server)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/simple/assay/"
        watching = asyncio.create_task(beside.watch_releases(url, lambda note: said.append(note.text), every=0))
        await asyncio.wait_for(enough.wait(), 240)
        watching.cancel()
        monkeypatch.setattr(releases, "LIMIT", 10)
        answers.append(web.Response(body=page("assay-1.0.tar.gz")))
        with pytest.raises(NoIndex, match="more than"):
            await releases.ask(url)
        await runner.cleanup()
        with pytest.raises(NoIndex, match="does not answer"):
            await releases.ask(url)
        return said

    monkeypatch.setattr(beside, "this_version", lambda: "0.1.0")
    answers += [web.Response(body=page(f"assay-{version}.tar.gz")) for version in ("0.1.0", "0.3.0", "0.3.0", "0.4.0")]
    said = asyncio.run(scene())
    assert [text.split(",")[0] for text in said[:2]] == ["version 0.3.0 is out", "version 0.4.0 is out"]
    assert "it answered 404" in said[2]
    assert len(said) == 3
    assert set(asked) == {releases.ACCEPT}
