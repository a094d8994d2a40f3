"""`assay doctor`: what is in the way, in the order in which a newcomer would meet it."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from assay.cli.common import ENVIRONMENT, FAILED, Bootstrap, Contract, Data, Json, Rpc, Trouble, read_config, show
from assay.cli.folder import running
from assay.localnet import rpc
from assay.ports import Outage

ROOM = 2 << 30
"""Bytes of disk below which a node will soon be in trouble."""
DRIFT = 120
"""Seconds by which the chain's clock may be off."""


class Finding(NamedTuple):
    what: str
    good: bool | None
    """None: not in the way, but worth knowing."""
    detail: str
    next: str = ""


def python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= (3, 11)
    return Finding("python", good, version, "" if good else "use Python 3.11 or later: make setup PYTHON=python3.11")


def engine() -> Finding:
    """The native library; without it NumPy gives the same bits, more slowly."""
    from assay.exact.native import build

    try:
        return Finding("native engine", True, str(build.build(build.level())))
    except build.NativeError as error:
        return Finding("native engine", None, f"{error}; the NumPy engine gives the same bits", "python -m assay.exact.native.build")


def arithmetic() -> Finding:
    """Whether this machine has passed the conformance suite."""
    from assay.adapters.sandbox import native_library
    from assay.adapters.tested import mark

    if mark(native_library()).exists():
        return Finding("arithmetic", True, "this processor and its GPUs' driver have passed the conformance suite")
    return Finding("arithmetic", None, "not tested on this machine yet; a node tests it at its first start", "assay doctor --conformance (a minute)")


def sandbox() -> Finding:
    """What engines are shut in."""
    from assay.adapters.sandbox import NoSandbox, choose

    try:
        found = choose()
    except NoSandbox as error:
        return Finding("sandbox", False, f"engines cannot be shut in: {error}", "apt install bubblewrap, or a kernel with Landlock (Linux 5.13)")
    assert found is not None
    kind = found.kind if found.kind == "bubblewrap" else "Landlock and seccomp; bubblewrap would add namespaces (apt install bubblewrap)"
    return Finding("sandbox", True, kind)


def gpu() -> Finding:
    """Which GPUs there are, and whether an engine could use one; that its bits are right, --conformance says."""
    from assay.adapters.hardware import gpus
    from assay.exact import engines

    found, reason = gpus(), engines.why_not()
    names = "; ".join(gpu.text for gpu in found)
    if found:
        names += f"; {gpu_memory(max(gpu.memory for gpu in found))}"
    if reason is None:
        return Finding("gpu", True, f"{names or 'a CUDA device'}; the exact engine can use it, once it has passed its test")
    if not found:
        return Finding("gpu", None, "none seen by NVML; the CPU engine gives the same bits")
    return Finding("gpu", None, f"{names}, not used: {reason}; the CPU engine gives the same bits", "pip install 'assay[gpu]'")


def gpu_memory(total: int) -> str:
    """What engines may take of `total` bytes, and whether that is held from outside, too."""
    import pynvml

    from assay.adapters import gpu_use
    from assay.exact.cuda import budget

    text = os.environ.get(budget.VARIABLE) or budget.DEFAULT
    try:
        limit = budget.bytes_of(text, total)
    except ValueError as error:
        return f"{budget.VARIABLE}: {error}"
    given = f"engines may hold {limit / 2**30:.1f} GiB of it ({text}; --gpu-memory)"
    try:
        gpu_use.held(pynvml, ())
    except gpu_use.Unseen as error:
        return f"{given}, by their own limit alone, for what they hold is not seen from outside: {error}"
    return f"{given}, and one that holds more is ended"


def torch() -> Finding:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return Finding("torch", True, version("torch"))
    except PackageNotFoundError:
        return Finding("torch", None, "not installed: this machine can work and verify, but not submit", "pip install 'assay[train]'")


def anvil() -> Finding:
    try:
        from assay.localnet.anvil import find_anvil

        return Finding("anvil", True, str(find_anvil()))
    except Exception as error:
        return Finding("anvil", None, f"{error}", "contracts/tools/install.sh anvil (needed for a local network only)")


def folder(path: Path) -> Finding:
    here = path
    while not here.exists():
        here = here.parent
    if not os.access(here, os.W_OK):
        return Finding("data folder", False, f"{here} cannot be written to", "name another folder: --data FOLDER")
    if (path / "keys").exists() and path.stat().st_mode & 0o077:
        return Finding("data folder", False, f"{path} can be read by others", f"chmod 700 {path}")
    free = shutil.disk_usage(here).free
    advice = "" if free >= ROOM else "free some disk, or name another folder"
    return Finding("data folder", free >= ROOM, f"{path}, {free / 2**30:.1f} GiB free", advice)


def kept_ports(path: Path) -> list[tuple[str, int]]:
    """Host and port that a node on this folder had last, of its gateway and of its peers; none before its first start."""
    found = []
    with contextlib.suppress(OSError, ValueError):
        found.append(("", int((path / "gateway-port").read_text()[:6])))
    with contextlib.suppress(OSError, ValueError, TypeError, IndexError):
        for address in json.loads((path / "peers" / "listen.json").read_bytes()):
            parts = str(address).split("/")
            found.append((parts[2], int(parts[4])))
    return found


def ports(path: Path) -> Finding:
    """Whether a node may listen, on the ports that it had last, and whether others can call a machine with these addresses."""
    from assay.adapters.fleet.exposure import here

    taken = []
    for host, port in [] if (path / "lock").exists() and running(path) else kept_ports(path) or [("", 0)]:
        kind = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            with socket.socket(kind) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
        except OSError as error:
            taken.append(f"{port}: {error.strerror}")
    if taken:
        next = "end what holds it (ss -ltnp), or let your router forward the port that the node takes instead"
        return Finding("ports", False, f"this node cannot listen on the port that it had, {'; '.join(taken)}", next)
    public = [address for address in here() if ipaddress.ip_address(address.partition("%")[0]).is_global]
    if public:
        return Finding("ports", True, f"it may listen; this machine has {', '.join(public)}: --listen 0.0.0.0, and :: for IPv6")
    forward = "forward two ports to this machine, then --listen 0.0.0.0 --announce HOST; or --announce relay (not for a worker)"
    return Finding("ports", None, "it may listen; none of this machine's addresses is one that the world routes to", forward)


def chain(url: str) -> Finding:
    try:
        number = int(str(rpc.call(url, "eth_chainId")), 16)
        block = rpc.call(url, "eth_getBlockByNumber", "latest", False)
        stamp = int(block["timestamp"], 16)
    except (Outage, rpc.RpcRefused, ValueError, TypeError, KeyError) as error:
        return Finding("chain", False, f"{url}: {error}", "start a local network with `assay net up`, or name a chain: --rpc URL")
    drift = abs(time.time() - stamp)
    detail = f"{url}, id {number}, last block {drift:.0f} s ago"
    return Finding("chain", drift < DRIFT, detail, "" if drift < DRIFT else "the chain stands still, or one of the two clocks is wrong")


def contract(url: str, address: str) -> Finding:
    try:
        code = str(rpc.call(url, "eth_getCode", address, "latest"))
    except (Outage, rpc.RpcRefused) as error:
        return Finding("contract", False, f"{address}: {error}", "see the chain's line above")
    size = max(len(code) // 2 - 1, 0)
    return Finding("contract", size > 0, f"{address}, {size} bytes of code", "" if size else "nothing is deployed there: --contract ADDRESS")


def bootstrap(multiaddr: str) -> Finding:
    parts = multiaddr.split("/")
    try:
        host, port = parts[2], int(parts[4])
        with socket.create_connection((host, port), timeout=5):
            return Finding("bootstrap", True, multiaddr)
    except (OSError, IndexError, ValueError) as error:
        return Finding("bootstrap", False, f"{multiaddr}: {error}", "name a node that is up: --bootstrap /ip4/HOST/tcp/PORT/p2p/PEER")


def examine(url: str | None, address: str | None, peers: str | None, data: Path) -> list[Finding]:
    """All findings; what is not configured is not looked at."""
    checks: list[Callable[[], Finding]] = [python, engine, arithmetic, sandbox, torch, gpu, anvil, lambda: folder(data), lambda: ports(data)]
    if url:
        checks.append(lambda: chain(url))
        if address:
            checks.append(lambda: contract(url, address))
    for peer in filter(None, (peers or "").split(",")):
        checks.append(lambda peer=peer: bootstrap(peer.strip()))  # type: ignore[misc]
    found = [check() for check in checks]
    if not url:
        found.append(Finding("chain", None, "none is configured", "assay net up starts a local one"))
    return found


SHOWN = 5
"""Failures of one route that are printed in full."""


def conform(json: bool) -> None:
    """Runs the conformance suite on every route of this machine, and says what failed, where, what it means and what to do."""
    from assay.adapters.sandbox import native_library
    from assay.adapters.tested import remember
    from assay.exact import conformance, examination, trainings

    if not json:
        cases, families, routes = len(conformance.expected()), len(trainings.FAMILIES), len(examination.routes())
        print(f"{cases} cases of all operators and trainings of {families} families, {trainings.STEPS} steps each, on {routes} routes", flush=True)
    results = []
    for result in examination.examine():
        results.append(result)
        if json:
            continue
        operators = result.seconds["operators"]
        times = f"operators {operators:.1f} s, trainings {sum(result.seconds.values()) - operators:.1f} s"
        passed = f"{result.checks - len(result.failed)} of {result.checks} checks"
        print(f"{'no' if result.failed else 'ok'} {result.route}: {passed}; {times}", flush=True)
        for failed in result.failed[:SHOWN]:
            print(f"     {failed.what}\n       where: {failed.where}\n       means: {failed.means}\n       next:  {failed.next}")
        if len(result.failed) > SHOWN:
            print(f"     and {len(result.failed) - SHOWN} more: all of them with --json")
    good = not any(result.failed for result in results)
    if good:
        remember(native_library())
    if json:
        show({"good": good, "routes": [{"route": str(r.route), "checks": r.checks, "seconds": r.seconds, "failed": [f._asdict() for f in r.failed]}
                                       for r in results]})  # fmt: skip
    elif good:
        print("every route gives the committed bits: this machine may work and verify")
    else:
        failed_on = ", ".join(str(r.route) for r in results if r.failed)
        print(f"this machine must not work or verify: it gives other bits than the specification ({failed_on})")
    if not good:
        raise typer.Exit(FAILED)


def tell(found: list[Finding]) -> None:
    """Prints findings for a person."""
    from rich.console import Console

    screen = Console(highlight=False, soft_wrap=True)
    for finding in found:
        mark = {True: "[green]ok[/green]", False: "[red]no[/red]", None: "[yellow]--[/yellow]"}[finding.good]
        screen.print(f"{mark} [bold]{finding.what}[/bold]", end=" ")
        screen.print(finding.detail, markup=False)
        if finding.next:
            screen.print(f"     next: {finding.next}", markup=False)


def doctor(
    rpc_url: Rpc = None,
    contract: Contract = None,
    bootstrap: Bootstrap = None,
    data: Data = None,
    json: Json = False,
    conformance: Annotated[bool, typer.Option("--conformance", help="Only test its arithmetic; takes about a minute.")] = False,
) -> None:
    """Says what is in the way of running a node here.

    Example: [bold]assay doctor[/bold]
    Example: [bold]assay doctor --conformance[/bold]
    """
    if conformance:
        return conform(json)
    try:
        kept = read_config()
    except Trouble as trouble:
        kept = {}
        print(f"configuration: {trouble.what} ({trouble.why})", file=sys.stderr)
    base = Path(data or kept.get("data") or Path("~/.local/share/assay").expanduser())
    found = examine(rpc_url or kept.get("rpc"), contract or kept.get("contract"), bootstrap or kept.get("bootstrap"), base)
    bad = [finding for finding in found if finding.good is False]
    if json:
        show({"good": not bad, "findings": [finding._asdict() for finding in found]})
    else:
        tell(found)
    if bad:
        raise typer.Exit(ENVIRONMENT if any(f.what in ("chain", "bootstrap") for f in bad) else FAILED)
