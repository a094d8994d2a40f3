"""The command line: help for everybody, exit codes that mean something, errors that say what to type next, settings from four places."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import psutil
import pytest
import typer
from rich.console import Console
from rich.table import Table
from typer.testing import CliRunner

from assay.cli import behind, common, folder
from assay.cli.app import app
from assay.cli.common import ENVIRONMENT, FAILED, REFUSED, USAGE, Settings, Trouble, money, settings, translate
from assay.cli.patience import goes_on
from assay.cli.roles import _said
from assay.cli.submit import fits, read_params
from assay.cli.tables import put
from assay.codec import Malformed
from assay.ids import Address, JobId
from assay.ports import Outage, Reverted

CONTRACT = "0x" + "ab" * 20
runner = CliRunner()


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        yield (*path, name), command
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))


ALL = {path: command for path, command in commands(typer.main.get_command(app))}


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No configuration of this machine reaches a test."""
    for name in ("ASSAY_RPC", "ASSAY_CONTRACT", "ASSAY_BOOTSTRAP", "ASSAY_DATA", "ASSAY_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("path", sorted(ALL), ids=" ".join)
def test_every_command_has_help_with_an_example(path: tuple[str, ...]) -> None:
    said = runner.invoke(app, [*path, "--help"])
    assert said.exit_code == 0, said.output
    if not hasattr(ALL[path], "commands"):
        assert "Example: " + ("assay " + " ".join(path))[:30] in " ".join(said.output.split())
        assert [each.name for each in ALL[path].params if not each.help and not getattr(each, "hidden", False)] == []


def test_the_commands_that_were_promised_are_there() -> None:
    promised = """demo; net up; net down; net status; keys new; keys show; worker start; worker status; worker earnings; worker withdraw; worker init;
        worker unit; worker receipts; worker drain; worker resume; worker view; worker doctor;
        worker prove; peers; verifier receipts; verifier view; verifier doctor;
        scheduler start; scheduler status; verifier start; verifier status; keyservice start; keyservice status; submit; job list; job show;
        job watch; job audit; job fetch; job cancel; job result; dispute show; check; infer;
        receipt verify; run; doctor; economics; prices; sim"""
    assert {tuple(name.split()) for name in promised.split(";")} <= set(ALL)


def test_help_answers_without_loading_what_it_does_not_need() -> None:
    code = "import sys; from assay.cli import main\ntry: main()\nexcept SystemExit: pass\nprint(sorted({m.split('.')[0] for m in sys.modules}))"
    out = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, timeout=240)
    loaded = set(json.loads(out.stdout.splitlines()[-1].replace("'", '"')))
    assert not loaded & {"torch", "web3", "libp2p", "trio", "eth_account", "numpy", "aiohttp"}


# ---- errors ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [(Reverted("Late"), REFUSED), (Outage("nobody"), ENVIRONMENT), (Malformed("x"), FAILED), (OSError("disk"), ENVIRONMENT), (Trouble("t"), FAILED)],
)
def test_each_kind_of_trouble_has_its_exit_code(error: Exception, code: int) -> None:
    told = translate(error)
    assert told is not None
    assert told.code == code


def test_a_bug_is_not_dressed_up_as_trouble() -> None:
    assert translate(ZeroDivisionError()) is None


def test_an_error_says_what_why_and_what_to_type_next() -> None:
    said = runner.invoke(app, ["worker", "start"])
    assert said.exit_code == USAGE
    assert "no chain is named" in said.output
    assert "assay net up" in said.output
    assert "Traceback" not in said.output


def test_with_json_the_last_line_of_an_error_is_an_object() -> None:
    said = runner.invoke(app, ["job", "list", "--json"])
    assert said.exit_code == USAGE
    assert json.loads(said.stdout.splitlines()[-1])["code"] == USAGE


def test_a_chain_that_does_not_answer_is_the_environment(tmp_path: Path) -> None:
    said = runner.invoke(app, ["doctor", "--rpc", "http://127.0.0.1:9", "--data", str(tmp_path), "--json"])
    found = json.loads(said.stdout.splitlines()[-1])
    assert said.exit_code == ENVIRONMENT
    assert [finding["good"] for finding in found["findings"] if finding["what"] == "chain"] == [False]


# ---- where the result goes is looked at before anything long or dear begins -------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["run", "train.py", "--local"], ["submit", "train.py", "--budget", "1", "--watch"], ["job", "fetch", "1"], ["job", "result", "1"],
        ["job", "certificate", "1"], ["certificate", "card", "papers.json"], ["federated", "host", "train.py", "--owner", "a"],
        ["federated", "join", "train.py"],
    ],
    ids=lambda words: " ".join(words[:2]),
)  # fmt: skip
def test_a_folder_that_is_not_there_is_told_at_once(words: list[str]) -> None:
    said = runner.invoke(app, [*words, "--out", "nowhere/model.safetensors", "--json"])
    assert said.exit_code == USAGE
    assert json.loads(said.stdout.splitlines()[-1])["next"] == "mkdir -p nowhere"


@pytest.mark.parametrize("option", ["--receipt", "--weights", "--trace"])
def test_neither_is_an_answer_computed_that_cannot_be_kept(option: str) -> None:
    said = runner.invoke(app, ["infer", "model.py", "a question", option, "nowhere/file"])
    assert said.exit_code == USAGE
    assert "there is no folder nowhere" in said.output


def test_a_folder_is_not_overwritten_with_a_file_nor_a_file_with_a_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "kept").write_text("mine")
    whole, tuned = SimpleNamespace(origin=None), SimpleNamespace(origin=object())
    for out, training in (("folder", whole), ("kept", tuned)):
        with pytest.raises(Trouble, match=f"cannot be written to {out}") as told:
            fits(Path(out), training)
        assert told.value.code == USAGE
    for out, training in (("folder", tuned), ("kept", whole), ("new", tuned), ("new", whole)):
        fits(Path(out), training)
    (tmp_path / "model.safetensors").mkdir()
    assert runner.invoke(app, ["run", "train.py", "--local", "--out", "model.safetensors"]).exit_code == USAGE


def test_weights_are_not_asked_for_where_nobody_waits_for_them() -> None:
    common.LOCAL_CONFIG.parent.mkdir()
    common.LOCAL_CONFIG.write_text(f'rpc = "http://127.0.0.1:9"\ncontract = "{CONTRACT}"\n')
    said = runner.invoke(app, ["submit", "train.py", "--budget", "1", "--out", "model.safetensors"])
    assert said.exit_code == USAGE
    assert "add --watch" in said.output


# ---- settings --------------------------------------------------------------------------------------------------------------


def test_an_option_wins_over_the_file_and_the_file_over_nothing(tmp_path: Path) -> None:
    common.LOCAL_CONFIG.parent.mkdir()
    common.LOCAL_CONFIG.write_text(f'rpc = "http://file"\ncontract = "{CONTRACT}"\nbootstrap = "/ip4/1.2.3.4/tcp/1/p2p/x, /ip4/5.6.7.8/tcp/1"\n')
    from_file = settings(None, None, None, None, "worker")
    assert (from_file.rpc, from_file.contract, len(from_file.bootstrap)) == ("http://file", CONTRACT, 2)
    assert from_file.data == tmp_path / ".local/share/assay/worker"
    assert settings("http://option", None, None, tmp_path / "own", "worker").rpc == "http://option"


@pytest.mark.parametrize(("text", "complaint"), [("rpc = 5", "not expected"), ('odd = "x"', "odd"), ("rpc = ", "not TOML")])
def test_a_bad_file_is_named_with_what_is_wrong_in_it(text: str, complaint: str) -> None:
    common.LOCAL_CONFIG.parent.mkdir()
    common.LOCAL_CONFIG.write_text(text)
    with pytest.raises(Trouble) as trouble:
        settings(None, None, None, None, "worker")
    assert complaint in trouble.value.what + trouble.value.why


def test_a_malformed_contract_is_a_usage_error() -> None:
    with pytest.raises(Trouble, match="address") as trouble:
        settings("http://x", "0x12", None, None, "worker")
    assert trouble.value.code == USAGE


@pytest.mark.parametrize(
    ("amount", "text"), [(0, "0.00"), (1_500_000, "1.50"), (-1_234_567_891, "-1,234.567891"), (10, "0.00001"), (100_000_000, "100.00")]
)
def test_money_is_shown_in_tokens_without_losing_any(amount: int, text: str) -> None:
    assert money(amount) == text


# ---- folders ---------------------------------------------------------------------------------------------------------------


def test_a_folder_is_private_and_has_one_owner(tmp_path: Path) -> None:
    data = tmp_path / "node"
    data.mkdir(mode=0o755)
    folder.prepare(data)
    assert data.stat().st_mode & 0o777 == 0o700
    assert not folder.running(data)
    lock = folder.Lock(data)
    assert folder.running(data)
    with pytest.raises(Trouble, match="already running"):
        folder.Lock(data)
    lock.release()
    assert not folder.running(data)


def test_orders_and_status_go_through_the_folder(tmp_path: Path) -> None:
    code = f"""
import asyncio
from pathlib import Path
from assay.cli.folder import Lock, attend, prepare
data, taken = Path({str(tmp_path)!r}), []
prepare(data)
lock = Lock(data)
async def main():
    print('up', flush=True)
    watcher = asyncio.create_task(attend(data, lambda: {{'taken': taken, 'root': b'ab'}}, taken.append))
    await watcher
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == "up\n"
        try:
            folder.give_order(tmp_path, "withdraw")
            said = runner.invoke(app, ["worker", "drain", "--data", str(tmp_path), "--json"])
            assert json.loads(said.stdout) == {"order": "drain", "taken": True, "idle": False}
            assert runner.invoke(app, ["worker", "resume", "--data", str(tmp_path)]).exit_code == 0
            late = runner.invoke(app, ["worker", "drain", "--wait", "1", "--data", str(tmp_path)])
            assert late.exit_code == FAILED
            assert "something is still being run after 1 s" in late.output
            status = folder.read_status(tmp_path)
            assert status["running"] is True
        finally:
            daemon.kill()
    status = folder.read_status(tmp_path)
    assert status["running"] is False
    assert status["root"] == "6162"


def test_what_a_command_leaves_behind_lets_go_of_the_folder_and_its_jobs_are_remembered(tmp_path: Path) -> None:
    where = Settings(rpc="http://127.0.0.1:9", contract=Address("0x" + "1" * 40), bootstrap=(), data=tmp_path)
    assert behind.take(where) == set()
    number = behind.leave(where, {JobId(2), JobId(1)})
    left = psutil.Process(number)
    try:
        assert left.cmdline()[left.cmdline().index("watch") :][1:3] == ["1", "2"]
        assert behind.pid(tmp_path) == number
        assert behind.take(where) == {1, 2}
        assert not left.is_running() or left.status() == psutil.STATUS_ZOMBIE
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            left.kill()
    assert behind.take(where) == {1, 2}  # until a command leaves another, which a power loss can come before
    assert behind.take(msgspec.structs.replace(where, contract=Address("0x" + "2" * 40))) == set()
    assert behind.leave(where, set()) == 0
    assert behind.take(where) == set()
    (tmp_path / "behind.json").write_text("{}")
    assert behind.take(where) == set()


def test_no_order_for_a_node_that_does_not_run(tmp_path: Path) -> None:
    said = runner.invoke(app, ["worker", "withdraw", "--data", str(tmp_path)])
    assert said.exit_code == FAILED
    assert "no node is running" in said.output
    assert not list(tmp_path.glob("orders/*"))


def test_keys_are_made_once_and_never_shown(tmp_path: Path) -> None:
    made = runner.invoke(app, ["keys", "new", "--data", str(tmp_path / "k"), "--json"])
    assert made.exit_code == 0, made.output
    shown = runner.invoke(app, ["keys", "show", "--data", str(tmp_path / "k"), "--json"])
    assert json.loads(made.stdout) == json.loads(shown.stdout)
    assert set(json.loads(shown.stdout)) == {"account", "peer", "encryption_key", "folder"}
    again = runner.invoke(app, ["keys", "new", "--data", str(tmp_path / "k")])
    assert again.exit_code == ENVIRONMENT
    assert "already" in again.output
    assert Address(json.loads(made.stdout)["account"]) == json.loads(made.stdout)["account"].lower()


# ---- what is bought --------------------------------------------------------------------------------------------------------


def test_a_file_of_windows_changes_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "windows.toml"
    file.write_text("challenge_window = 30\n")
    assert read_params(file) == msgspec.structs.replace(read_params(None), challenge_window=30)
    assert read_params(None).bond_base > 0
    assert (read_params(None).links, read_params(file, "every-step").links) == (2, 0)
    file.write_text("links = 5\nbond_base = 0\n")
    assert (read_params(file, "every-step").links, read_params(file).bond_base) == (5, 0)
    file.write_text("chalenge_window = 30\n")
    with pytest.raises(Trouble, match="cannot be used") as told:
        read_params(file)
    assert "challenge_window" in told.value.next


def test_a_licence_that_is_not_there_is_no_title(tmp_path: Path) -> None:
    (tmp_path / "set.csv").write_text("x\n1\n")
    said = runner.invoke(app, ["data", "publish", "set.csv", "--licence", "LICENCE.txt", "--data", "own"])
    assert said.exit_code == USAGE
    assert "there is no LICENCE.txt" in said.output


def test_whoever_stops_watching_is_told_what_becomes_of_the_job(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(asyncio.CancelledError), goes_on(JobId(3)):
        raise asyncio.CancelledError
    assert "assay job watch 3" in capsys.readouterr().err
    with goes_on(JobId(3)):
        pass
    assert not capsys.readouterr().err


# ---- tables ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("terminal", [True, False])
def test_nothing_in_a_table_is_cut_off(terminal: bool) -> None:
    table = Table("account", "why", title="whose")
    table.add_row("0x" + "0123456789abcdef" * 3, "a reason that is said at some length")
    out = StringIO()
    put(table, Console(file=out, width=40, force_terminal=terminal, color_system=None))
    said = out.getvalue()
    assert "…" not in said
    if terminal:
        assert max(map(len, said.splitlines())) <= 40
        cells = [line.split("│")[1].strip() for line in said.splitlines() if line.startswith("│")]
        assert "".join(cells) == "0x" + "0123456789abcdef" * 3
    else:
        assert "0x" + "0123456789abcdef" * 3 + " │ a reason that is said at some length" in said


def test_a_status_is_told_in_tokens_and_in_the_time_here() -> None:
    balance = {"tokens": 0, "stake": 400_000_000, "reserved": 1_500_000, "native": 10**18}
    assert _said("balance", balance) == "tokens 0.00, stake 400.00, reserved 1.50, gas 1.0000 of the chain's coin"
    assert _said("credit", 6_400_000) == "6.40"
    assert _said("since", 1_795_388_566).startswith("2026-11-2")
    assert _said("head", 699) == "699"
