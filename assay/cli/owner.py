"""`assay worker init|unit|receipts|drain|resume`: a machine joins, stays, and is accounted for."""

from __future__ import annotations

import csv
import io
import shutil
import sys
import time
from typing import Annotated, Any

import typer

from assay.cli.common import (
    FAILED,
    TOKEN,
    USAGE,
    Bootstrap,
    Contract,
    Data,
    Json,
    Rpc,
    Trouble,
    money,
    read_config,
    run,
    settings,
    show,
    translate,
)
from assay.cli.leaving import GRACE
from assay.cli.tables import put
from assay.ids import Address
from assay.receipts import Ledger

BENCH_SIZE = 1024
BENCH_SECONDS = 1.0
POLL = 0.5
UNIT = """\
# {path}: `systemctl daemon-reload && systemctl enable --now assay-worker`
[Unit]
Description=Assay worker: sells training steps
Documentation=man:systemd.exec(5)
Wants=network-online.target
After=network-online.target

[Service]
User={user}
ExecStart={command}
# What is under way is committed, and paid, before the machine goes down.
ExecStop={drain}
TimeoutStopSec={patience}
KillMode=mixed
Restart=on-failure
RestartSec=10
Nice=5
LimitNOFILE=65536
Environment=ASSAY_CACHE={data}/cache PYTHONUNBUFFERED=1
# The daemon; its engine is shut in more tightly by itself (`assay doctor`).
ReadWritePaths={data}
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectClock=yes
ProtectHostname=yes
ProtectControlGroups=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=user mnt pid net uts ipc cgroup
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native

[Install]
WantedBy=multi-user.target
"""


def add_to(app: typer.Typer) -> None:
    """The commands of a worker's owner."""
    for command in (init, unit, drain, resume, prove):
        app.command(command.__name__)(command)


def receipts_for(app: typer.Typer, role: str) -> None:
    """`receipts`, for the roles that are paid."""

    example = f"Example: [bold]assay {role} receipts --csv > receipts.csv[/bold]"

    @app.command("receipts", help=f"What became of each segment of this node, and why.\n\n{example}")
    def receipts(
        rpc: Rpc = None, contract: Contract = None, data: Data = None, json: Json = False,
        as_csv: Annotated[bool, typer.Option("--csv", help="Comma-separated values, amounts in tokens.")] = False,
    ) -> None:  # fmt: skip
        from assay.cli.node import account_of

        _, account, ledger = run(account_of(settings(rpc, contract, None, data, role)))
        rows = rows_of(account, ledger)
        if json:
            show({"receipts": rows})
        elif as_csv:
            sys.stdout.write(as_table(rows))
        else:
            from rich.table import Table

            table = Table("segment", "job", "steps", "state", "paid", "why")
            for row in rows:
                table.add_row(*(str(row[key]) for key in ("segment", "job", "steps", "state")), money(row["paid"]), row["why"])
            put(table)


def rows_of(account: Address, ledger: Ledger) -> list[dict[str, Any]]:
    """One row a segment that the account provided, was drawn for or was paid for."""
    rows = []
    for segment in ledger.segments.values():
        own = [payment for payment in segment.payments if payment.who == account]
        part = "provider" if segment.provider == account else "verifier" if account in segment.verifiers else "party" if own else ""
        if part:
            why = "; ".join([*([segment.reason] if segment.reason else []), *(payment.reason for payment in own)])
            rows.append({
                "segment": segment.number, "job": segment.job, "steps": f"{segment.start}-{segment.stop}", "as": part,
                "state": segment.state.name.lower(), "paid": sum(payment.amount for payment in own), "why": why,
            })  # fmt: skip
    return rows


def as_table(rows: list[dict[str, Any]]) -> str:
    """RFC 4180 text with a header."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(["segment", "job", "steps", "as", "state", "paid", "why"])
    for row in rows:
        amount = int(row["paid"])
        (whole, part), sign = divmod(abs(amount), TOKEN), "-" if amount < 0 else ""
        writer.writerow([row["segment"], row["job"], row["steps"], row["as"], row["state"], f"{sign}{whole}.{part:06d}", row["why"]])
    return out.getvalue()


# ---- joining ---------------------------------------------------------------------------------------------------------------


def speed() -> float:
    """Operations a second of the exact engine on one thread of this processor, counted as a job's are (assay.program.cost): products of
    1024 x 1024 at b = 14 for about a second."""
    import numpy as np

    from assay.exact.conformance import Writer, program
    from assay.exact.cpu import Cpu
    from assay.program import cost

    random = np.random.default_rng(0)
    a, b = (random.standard_normal((BENCH_SIZE, BENCH_SIZE), np.float32) for _ in range(2))
    writer = Writer(a, b)
    made = program(writer.part(writer("matmul", 0, 1)), 14)
    engine, inputs = Cpu(made, 1), {"batch": {"x0": a, "x1": b}}
    engine.run("micro", inputs)
    began, runs = time.perf_counter(), 0
    while time.perf_counter() - began < BENCH_SECONDS:
        engine.run("micro", inputs)
        runs += 1
    return runs * cost(made.micro).flops / (time.perf_counter() - began)


def price_per_tera(per_hour: float, operations: float) -> int:
    """Smallest units for 10^12 operations, at which an hour of so many operations a second brings `per_hour` tokens."""
    return max(1, round(per_hour * TOKEN / (operations * 3600 / 1e12)))


def paid_lately(rpc: str | None, contract: str | None) -> int | None:
    """The middle of what settled segments of the last 30 days cost for 10^12 operations; None where nothing is known."""
    from assay.cli.prices import read_book

    if not rpc or not contract:
        return None
    try:
        book, now = run(read_book(settings(rpc, contract, None, None, "worker")))
    except Exception as error:
        if translate(error) is None:
            raise
        return None  # what is in the way has been told among the findings
    rows = book.rows(now)
    return round(max(rows, key=lambda row: row.sales).tera) if rows else None


def init(
    rpc: Rpc = None, contract: Contract = None, bootstrap: Bootstrap = None, data: Data = None, json: Json = False,
    per_hour: Annotated[float, typer.Option("--per-hour", min=0.0, metavar="TOKENS", help="What an hour of this machine shall bring.")] = 1.0,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads that the engine will have.")] = 1,
) -> None:  # fmt: skip
    """Looks this machine over, makes the node's keys, proposes a price.

    Example: [bold]assay worker init --per-hour 5[/bold]
    """
    from assay.adapters import hardware
    from assay.cli.doctor import examine, tell
    from assay.cli.folder import prepare
    from assay.cli.node import open_or_create
    from assay.cli.roles import folder_of

    known, folder = read_config(), folder_of(data, "worker")
    prepare(folder)
    keys = open_or_create(folder)
    keys.close()
    found = examine(rpc or known.get("rpc"), contract or known.get("contract"), bootstrap or known.get("bootstrap"), folder)
    here, devices = hardware.machine(), hardware.gpus()
    operations = threads * speed()
    price = price_per_tera(per_hour, operations)
    paid = paid_lately(rpc or known.get("rpc"), contract or known.get("contract"))
    bad = [finding for finding in found if finding.good is False]
    if json:
        show({
            "good": not bad, "account": keys.account, "data": str(folder), "findings": [finding._asdict() for finding in found],
            "cpu": here.cpu, "cores": here.cores, "memory": here.memory, "gpus": [gpu.text for gpu in devices],
            "operations_per_second": round(operations), "price_per_tera": price, "paid_per_tera": paid,
        })  # fmt: skip
    else:
        print(f"account   {keys.account}\n          its keys lie in {folder / 'keys'}: keep a copy of them in a safe place")
        print(f"machine   {here.cpu}, {here.cores} cores, {here.memory / 2**30:.0f} GiB")
        for gpu in devices:
            print(f"gpu {gpu.index}     {gpu.text}")
        print(f"speed     {operations / 1e9:.0f} G operations a second with {threads} thread{'s' * (threads > 1)} (a product of 1024 x 1024)")
        print(f"price     {money(price)} tokens for 10^12 operations bring {per_hour:g} an hour at that speed; real steps are slower")
        if paid is not None:
            print(f"lately    {money(paid)} was paid for 10^12 operations (assay prices); that would bring {per_hour * paid / price:.2g} an hour")
        tell(found)
        command = f"assay worker start --data {folder} --price 1 --price-per-tera {price} --threads {threads}"
        print(f"next      {'mend what is marked no' if bad else command}")
    if bad:
        raise typer.Exit(FAILED)


def unit(
    data: Data = None, rpc: Rpc = None, contract: Contract = None, bootstrap: Bootstrap = None,
    user: Annotated[str, typer.Option("--user", help="The user that it runs as.")] = "assay",
    patience: Annotated[int, typer.Option("--wait", min=1, help="Seconds that a stop may take to commit what is under way.")] = 600,
    options: Annotated[str, typer.Option("--options", help="More options for `assay worker start`.")] = "",
) -> None:  # fmt: skip
    """Prints a systemd unit for this worker.

    Example: [bold]assay worker unit --data /var/lib/assay/worker > /etc/systemd/system/assay-worker.service[/bold]
    """
    from assay.cli.roles import folder_of

    where, folder = settings(rpc, contract, bootstrap, data, "worker"), folder_of(data, "worker")
    program = shutil.which("assay") or f"{sys.executable} -m assay.cli"
    told = (where.rpc, str(where.contract), *where.bootstrap, str(folder), user, options.replace("%", ""))
    unsafe = [word for word in told if any(c in word for c in "\n%\"'\\$;")]
    if unsafe or " " in str(folder):
        why = f"{(unsafe or [str(folder)])[0]!r} has characters that systemd reads otherwise"
        raise Trouble("a unit cannot be written", why, "take other names", USAGE)
    words = [program, "worker start", "--rpc", where.rpc, "--contract", where.contract, *(w for b in where.bootstrap for w in ("--bootstrap", b))]
    command = " ".join([*words, "--data", str(folder), *([options.replace("%", "%%")] if options else [])])
    drain = f"{program} worker drain --data {folder} --wait {patience}"
    path = "/etc/systemd/system/assay-worker.service"
    print(UNIT.format(path=path, user=user, command=command, drain=drain, patience=patience + GRACE + 60, data=folder), end="")


# ---- staying ---------------------------------------------------------------------------------------------------------------


def drain(
    data: Data = None, json: Json = False,
    wait: Annotated[int, typer.Option("--wait", min=0, help="Seconds to wait until nothing is being run; 0: do not wait.")] = 0,
) -> None:  # fmt: skip
    """Finishes or commits what is under way and takes nothing new.

    Example: [bold]assay worker drain --wait 600[/bold]
    """
    from assay.cli.folder import give_order, read_status
    from assay.cli.roles import folder_of

    folder = folder_of(data, "worker")
    give_order(folder, "drain")

    def rests() -> bool:
        status = read_status(folder)
        return not status["running"] or (bool(status.get("draining")) and status.get("current_segment") is None)

    deadline, idle = time.monotonic() + wait, False
    while wait and not (idle := rests()) and time.monotonic() < deadline:
        time.sleep(POLL)
    if wait and not idle:
        next = "wait longer, or stop the worker: what is not committed is lost"
        raise Trouble(f"something is still being run after {wait} s", "it is committed when its step is done", next)
    if json:
        show({"order": "drain", "taken": True, "idle": idle})
    else:
        print(f"the worker on {folder} {'runs nothing and takes nothing new' if idle else 'has taken the order: drain'}")


def resume(data: Data = None, json: Json = False) -> None:
    """Takes work again after a drain.

    Example: [bold]assay worker resume[/bold]
    """
    from assay.cli.folder import give_order
    from assay.cli.roles import folder_of

    folder = folder_of(data, "worker")
    give_order(folder, "resume")
    if json:
        show({"order": "resume", "taken": True})
    else:
        print(f"the worker on {folder} takes work again")


def prove(
    data: Data = None, json: Json = False,
    wait: Annotated[int, typer.Option("--wait", min=0, help="Seconds to wait for what comes of it; 0: do not wait.")] = 300,
) -> None:  # fmt: skip
    """Proves this machine's memory and speed on the chain, so that anybody can check them.

    Example: [bold]assay worker prove[/bold]
    """
    from assay.cli.folder import give_order, read_status
    from assay.cli.prover import told_in
    from assay.cli.roles import folder_of

    folder = folder_of(data, "worker")
    before = told_in(folder)
    give_order(folder, "prove")
    deadline, found = time.monotonic() + wait, before
    while found == before and time.monotonic() < deadline and read_status(folder)["running"]:
        time.sleep(POLL)
        found = told_in(folder)
    if wait and found == before:
        raise Trouble(f"nothing has been proven within {wait} s", "the log says why", "assay worker view, or a longer --wait")
    if json:
        show({"order": "prove", "taken": True, "hardware": found})
    elif found is None or not wait:
        print(f"the worker on {folder} has taken the order: prove")
    else:
        print(f"proven: {found.memory / 2**30:.2f} GiB, in transaction 0x{found.transaction.hex()}")
