"""`assay worker|verifier|scheduler|keyservice`: starting a daemon, and talking to the one that owns a data folder.

A daemon needs to be told four things only: the chain's RPC, the contract, a node that knows others, and its own folder. The rest
has defaults that suit a first day.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from assay.cli import care, owner, surety
from assay.cli.common import (
    Bootstrap,
    Contract,
    Data,
    Ipfs,
    Json,
    Lines,
    Releases,
    Rpc,
    Trouble,
    group,
    index_of,
    money,
    read_config,
    run,
    settings,
    show,
)
from assay.cli.fleet import Count, Devices, Offload, Places, Ray, Rays, Split, Through, offload_of, ranks_of
from assay.cli.tables import put
from assay.exact.cuda.budget import DEFAULT as GPU_DEFAULT
from assay.exact.cuda.budget import bytes_of


def _of_memory(text: str) -> str:
    try:
        most(text)
    except ValueError as error:
        raise Trouble("a job cannot be given so much memory", str(error), "--memory 16G", 2) from None
    return text


def most(text: str) -> int:
    """Bytes that a job may take of this machine's memory. Raises ValueError."""
    from assay.adapters.hardware import machine

    total = machine().memory
    return bytes_of(text, total) if text else max(LEAST, total // 2)


def _of_a_gpu(text: str) -> str:
    try:
        bytes_of(text, 1 << 50)
    except ValueError as error:
        raise Trouble("so much of a GPU's memory cannot be given", str(error), "--gpu-memory 60%, or --gpu-memory 20G", 2) from None
    return text


LEAST = 4 << 30
"""Bytes that a job may take in any case, unless the owner says less."""
LISTEN = "Where peers and the gateway listen; 0.0.0.0 for the world, :: for IPv6. Several, with commas: peers on all, the gateway on the first."
Listen = Annotated[str, typer.Option("--listen", metavar="HOST", help=LISTEN)]
ANNOUNCE = "The address that others reach this node by, if another; relay: nobody can call it, and bootstrap nodes relay for it."
Announce = Annotated[str | None, typer.Option("--announce", metavar="HOST", help=ANNOUNCE)]
PRICE = "Asked for a step, in the token's smallest unit; without any price what this machine's speed is worth at a token an hour."
Price = Annotated[int | None, typer.Option("--price", min=1, help=PRICE)]
Stake = Annotated[int | None, typer.Option("--stake", min=0, help="Stake to keep deposited, in the token's smallest unit.")]
Confirmations = Annotated[
    int, typer.Option("--confirmations", min=0, help="Blocks until an event counts as final; 0: 1 on the local chain, 12 elsewhere.")
]
Shut = Annotated[str, typer.Option("--sandbox", metavar="auto|bubblewrap|kernel|off", help="How the engine is shut in.")]
Disk = Annotated[int, typer.Option("--disk", min=0, help="Bytes that the engine's files may take; 0: half of what is free.")]
MEMORY = "What a job may take of this machine's memory, as 16G or 60%; without it half, or 4G where that is more."
Memory = Annotated[str, typer.Option("--memory", metavar="PERCENT|SIZE", help=MEMORY, callback=_of_memory)]
GPU_SHARE = "What engines may hold of a GPU's memory, together: a part of it, as 60%, or a size, as 20G."
GpuMemory = Annotated[str, typer.Option("--gpu-memory", envvar="ASSAY_GPU_MEMORY", metavar="PERCENT|SIZE", help=GPU_SHARE, callback=_of_a_gpu)]
Store = Annotated[int, typer.Option("--store", min=0, help="Bytes that blobs may take; 0: what is there and half of what is free.")]
KeepDays = Annotated[int, typer.Option("--keep-days", min=0, help="Days for which the checkpoints of finished jobs are kept in any case.")]
PreferProven = Annotated[bool, typer.Option("--prefer-proven", help="Take workers with proven hardware before cheaper ones without.")]
Prove = Annotated[int, typer.Option("--prove", min=0, metavar="BYTES", help="Memory that is claimed, and proven when a block asks all nodes to.")]
PerTera = Annotated[int, typer.Option("--price-per-tera", min=0, help="Asked for 10^12 operations of a step on top, smallest units.")]
Percent = Annotated[
    int, typer.Option("--bounty-percent", min=0, max=100, help="Of a job's bounties, what this node counts as earned: so much less it asks.")
]
Metrics = Annotated[str, typer.Option("--metrics", metavar="HOST:PORT", help="Answer Prometheus here.")]
Hours = Annotated[str, typer.Option("--hours", metavar="22-7", help="Work only between these hours of the day.")]
Hottest = Annotated[int | None, typer.Option("--max-temperature", metavar="CELSIUS", help="Pause when a GPU is hotter.")]
Alone = Annotated[bool, typer.Option("--alone", help="Pause while another program uses the GPU.")]
Watts = Annotated[int | None, typer.Option("--max-power", min=1, metavar="WATTS", help="Pause until the driver lets no GPU take more.")]
GRACE = "Seconds that its end may take, to hand over what is under way; 0: none. Without it 5 on the local network, 120 elsewhere."
Grace = Annotated[int | None, typer.Option("--grace", min=0, metavar="SECONDS", help=GRACE)]
UNTESTED = "Start although this machine has not passed the conformance suite: what it computes otherwise is not paid, and loses the bond."
Untested = Annotated[bool, typer.Option("--untested", help=UNTESTED)]
Threads = Annotated[int, typer.Option("--threads", min=1, help="Threads of the engine.")]

WHAT = {
    "worker": "Sell training steps: run the worker daemon and see to its money.",
    "verifier": "Check what the chain draws, for a fee.",
    "scheduler": "Find a provider for each segment of a job.",
    "keyservice": "Keep data keys, and release each after its event on chain is final.",
}
LOCAL_STAKE = {"worker": 400_000_000, "verifier": 100_000_000, "scheduler": 0, "keyservice": 0}
"""Default stake: what a handful of segments of the demo's size, or a seat, take."""


def apps() -> dict[str, typer.Typer]:
    """One sub-application a role."""
    made = {}
    for role, what in WHAT.items():
        app = group(what)
        _common(app, role)
        made[role] = app
    _money(made["worker"], "worker")
    _money(made["verifier"], "verifier")
    _holding(made["keyservice"])
    return made


def _holding(app: typer.Typer) -> None:
    app.command("surety")(surety.surety)

    @app.command("hold")
    def hold(
        account: Annotated[str, typer.Argument(metavar="ACCOUNT", help="The first of the key holders: whom jobs name their key service.")],
        data: Data = None, json: Json = False,
    ) -> None:  # fmt: skip
        """Keeps shares of keys with other holders: for data and jobs whose key holders this node is one of.

        Example: [bold]assay keyservice hold 0x52908400098527886e0f7030069857d2e4169ee7[/bold]
        """
        from assay.ids import address

        try:
            first = address(account)
        except ValueError as error:
            raise Trouble(f"{account} is no account", str(error), code=2) from None
        _order(data, "keyservice", f"hold-{first}", json)


def folder_of(data: Path | None, role: str) -> Path:
    """The data folder that a command speaks of."""
    if data is not None:
        return data.expanduser().absolute()
    base = read_config().get("data")
    return (Path(base) if base else Path("~/.local/share/assay").expanduser()).absolute() / role


def _common(app: typer.Typer, role: str) -> None:
    def serve(rpc: str | None, contract: str | None, bootstrap: str | None, data: Path | None, json: bool, **options: Any) -> None:
        from assay.cli.node import Options, serve

        run(serve(role, settings(rpc, contract, bootstrap, data, role), Options(**options), as_json=json))

    example = f"Example: [bold]assay {role} start --rpc http://127.0.0.1:8545 --contract 0x… --bootstrap /ip4/…/p2p/… --data ~/{role}[/bold]"

    if role == "worker":

        def start_worker(
            rpc: Rpc = None, contract: Contract = None, bootstrap: Bootstrap = None, data: Data = None, listen: Listen = "127.0.0.1",
            announce: Announce = None, price: Price = None, price_per_tera: PerTera = 0, stake: Stake = LOCAL_STAKE["worker"],
            bounty_percent: Percent = 0, threads: Threads = 1, ray: Ray = "", ray_through: Through = "", places: Places = 0,
            keep_days: KeepDays = 7, prove: Prove = 0, memory: Memory = "", gpu_memory: GpuMemory = GPU_DEFAULT,
            offload: Offload = "auto", ranks: Count = 0, devices: Devices = "", split: Split = "auto",
            confirmations: Confirmations = 0, ipfs: Ipfs = None, sandbox: Shut = "auto", disk: Disk = 0, store: Store = 0,
            metrics: Metrics = "", releases: Releases = None, hours: Hours = "", max_temperature: Hottest = None, alone: Alone = False,
            max_power: Watts = None, grace: Grace = None, untested: Untested = False, json: Lines = False,
        ) -> None:  # fmt: skip
            try:
                rules = care.Rules(care.hours_of(hours), max_temperature, alone, max_power)
            except ValueError as error:
                raise Trouble("these hours cannot be kept", str(error), "--hours 22-7", 2) from None
            engine = {"threads": threads, "sandbox": sandbox, "disk": disk, "store": store, "keep_days": keep_days, "prove": prove}
            engine |= {"ray": Rays.of(ray, ray_through, places), "grace": grace, "untested": untested}
            engine |= {"max_memory": most(memory), "gpu_memory": gpu_memory}
            engine |= {"offload": offload_of(offload), "ranks": ranks_of(ranks, devices, split, Rays.of(ray, ray_through, places))}
            options: dict[str, Any] = {"price": price or 0, "price_per_tera": price_per_tera, "stake": stake or 0, "metrics": metrics}
            options |= {"bounty_percent": bounty_percent, "releases": index_of(releases)}
            options |= {"confirmations": confirmations, "ipfs": ipfs, "rules": None if rules == care.Rules() else rules}
            serve(rpc, contract, bootstrap, data, json, listen=listen, announce=announce, **engine, **options)

        start: Any = start_worker
    elif role == "verifier":

        def start_verifier(
            rpc: Rpc = None, contract: Contract = None, bootstrap: Bootstrap = None, data: Data = None, listen: Listen = "127.0.0.1",
            announce: Announce = None, stake: Stake = LOCAL_STAKE["verifier"], threads: Threads = 1,
            ray: Ray = "", ray_through: Through = "", places: Places = 0, memory: Memory = "", gpu_memory: GpuMemory = GPU_DEFAULT,
            offload: Offload = "auto",
            confirmations: Confirmations = 0, ipfs: Ipfs = None, sandbox: Shut = "auto", disk: Disk = 0, store: Store = 0,
            metrics: Metrics = "", releases: Releases = None, grace: Grace = None, untested: Untested = False, json: Lines = False,
        ) -> None:  # fmt: skip
            engine = {"threads": threads, "sandbox": sandbox, "disk": disk, "store": store, "metrics": metrics, "releases": index_of(releases)}
            engine |= {"ray": Rays.of(ray, ray_through, places), "grace": grace, "untested": untested}
            engine |= {"max_memory": most(memory), "gpu_memory": gpu_memory, "offload": offload_of(offload)}
            options = {"stake": stake or 0, "confirmations": confirmations, "ipfs": ipfs}
            serve(rpc, contract, bootstrap, data, json, listen=listen, announce=announce, **engine, **options)

        start = start_verifier
    elif role == "scheduler":

        def start_scheduler(
            rpc: Rpc = None, contract: Contract = None, bootstrap: Bootstrap = None, data: Data = None, listen: Listen = "127.0.0.1",
            announce: Announce = None, confirmations: Confirmations = 0, ipfs: Ipfs = None, prefer_proven: PreferProven = False,
            json: Lines = False,
        ) -> None:  # fmt: skip
            options = {"confirmations": confirmations, "ipfs": ipfs, "prefer_proven": prefer_proven}
            serve(rpc, contract, bootstrap, data, json, listen=listen, announce=announce, **options)

        start = start_scheduler
    else:

        def start_other(
            rpc: Rpc = None, contract: Contract = None, bootstrap: Bootstrap = None, data: Data = None, listen: Listen = "127.0.0.1",
            announce: Announce = None, confirmations: Confirmations = 0, ipfs: Ipfs = None, json: Lines = False,
        ) -> None:  # fmt: skip
            serve(rpc, contract, bootstrap, data, json, listen=listen, announce=announce, confirmations=confirmations, ipfs=ipfs)

        start = start_other

    app.command("start", help=f"Runs the daemon until it is told to stop (Ctrl-C, SIGTERM).\n\n{example}")(start)

    @app.command("status", help=f"What the daemon is doing.\n\nExample: [bold]assay {role} status --data ~/{role}[/bold]")
    def status(data: Data = None, json: Json = False) -> None:
        from assay.cli.folder import read_status

        found = read_status(folder_of(data, role))
        if json:
            show(found)
            return
        from rich.console import Console
        from rich.table import Table

        screen = Console(highlight=False)
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        for key, value in found.items():
            if key not in ("recent", "working_on", "days", "receipts"):
                table.add_row(key.replace("_", " "), _said(key, value))
        table.add_row("working on", ", ".join(found.get("working_on", [])) or "nothing")
        put(table, screen)
        for note in found.get("recent", [])[-10:]:
            screen.print(f"  {note.get('topic', '')}: {note.get('text', '')}", markup=False)


AMOUNTS = {"credit", "dispute_credit", "bounty_credit", "pending"}
TIMES = {"since", "chain_time"}


def _said(key: str, value: Any) -> str:
    """A line of the status for a person: tokens, and the time here, where the file has smallest units and seconds."""
    if key in AMOUNTS and isinstance(value, int):
        return money(value)
    if key in TIMES and isinstance(value, int | float):
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))
    if key == "balance" and isinstance(value, dict):
        held = ", ".join(f"{name} {money(value[name])}" for name in ("tokens", "stake", "reserved") if name in value)
        return held + f", gas {value.get('native', 0) / 1e18:.4f} of the chain's coin"
    return str(value)


def _money(app: typer.Typer, role: str) -> None:
    @app.command("earnings", help=f"What this node has been credited, for what.\n\nExample: [bold]assay {role} earnings --data ~/{role}[/bold]")
    def earnings(rpc: Rpc = None, contract: Contract = None, data: Data = None, json: Json = False) -> None:
        from assay.cli.node import earnings_of

        where = settings(rpc, contract, None, data, role)
        found = run(earnings_of(where))
        if json:
            show(found)
            return
        from rich.console import Console
        from rich.table import Table

        table = Table("segment", "amount", "for")
        for row in found["credits"]:
            table.add_row(str(row["segment"]), money(row["amount"]), row["reason"])
        screen = Console(highlight=False)
        put(table, screen)
        view = found["account"]
        screen.print(f"in the account {money(view['tokens'])}, staked {money(view['stake'])} (reserved {money(view['reserved'])}), ", end="")
        screen.print(f"to be withdrawn {money(view['credit'] + view['bounty_credit'])}")

    @app.command("withdraw", help=f"Pulls what has been credited.\n\nExample: [bold]assay {role} withdraw --data ~/{role}[/bold]")
    def withdraw(data: Data = None, json: Json = False) -> None:
        _order(data, role, "withdraw", json)

    @app.command("view", help=f"The node, live, in this terminal.\n\nExample: [bold]assay {role} view --data ~/{role}[/bold]")
    def view(
        data: Data = None,
        svg: Annotated[Path | None, typer.Option("--svg", metavar="FILE", help="Write one picture and end.")] = None,
    ) -> None:  # fmt: skip
        from assay.cli.view import open_view

        open_view(role, folder_of(data, role), svg)

    @app.command("doctor", help=f"What this machine and the node on it suffer from, and what to do.\n\nExample: [bold]assay {role} doctor[/bold]")
    def doctor(
        rpc: Rpc = None, contract: Contract = None, bootstrap: Bootstrap = None, data: Data = None, releases: Releases = None, json: Json = False
    ) -> None:
        from assay.cli import ailments

        code = ailments.doctor(role, folder_of(data, role), rpc, contract, bootstrap, releases, json)
        if code:
            raise typer.Exit(code)

    owner.receipts_for(app, role)
    if role == "worker":
        owner.add_to(app)


def _order(data: Path | None, role: str, order: str, json: bool) -> None:
    from assay.cli.folder import give_order

    folder = folder_of(data, role)
    give_order(folder, order)
    if json:
        show({"order": order, "taken": True})
    else:
        print(f"the {role} on {folder} has taken the order: {order}")
