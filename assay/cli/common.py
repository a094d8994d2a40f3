"""What every command shares: how trouble is told, how JSON is printed, which options there are and where their defaults come from.

Exit codes: 0 what was asked for is done; 1 it failed; 2 it was asked for wrongly; 3 the environment is in the way (a chain that
does not answer, a port, a full disk); 4 a contract refused. An error says what happened, why, and what to type next, on stderr;
with --json it is also the last line of stdout: {"error", "why", "next", "code"}. A traceback means a bug of ours.

Where a node's settings come from, first hit wins: the option; the environment (ASSAY_RPC, ASSAY_CONTRACT, ASSAY_BOOTSTRAP,
ASSAY_DATA, ASSAY_RELEASES); the file named by ASSAY_CONFIG, else `.assay/net.toml` in this folder (written by `assay net up`), else
`~/.config/assay/config.toml`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tomllib
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import msgspec
import typer
from typer.core import TyperGroup

from assay.codec import Malformed
from assay.ids import Address, address
from assay.ports import Outage, Reverted

FAILED, USAGE, ENVIRONMENT, REFUSED = 1, 2, 3, 4
LOCAL_CONFIG = Path(".assay/net.toml")
USER_CONFIG = Path("~/.config/assay/config.toml")
T = TypeVar("T")


class Trouble(Exception):
    """Something a person has to hear about: what happened, why, and what to type next."""

    def __init__(self, what: str, why: str = "", next: str = "", code: int = FAILED) -> None:
        super().__init__(what)
        self.what, self.why, self.next, self.code = what, why, next, code


KNOWN = {
    ("assay.adapters.keys", "KeyTrouble"): ("the node's keys cannot be used", ENVIRONMENT),
    ("assay.adapters.journal", "Unusable"): ("the node's journal cannot be used", ENVIRONMENT),
    ("assay.adapters.evm", "NoContract"): ("the contract is not there", ENVIRONMENT),
    ("assay.adapters.evm_journal", "WrongFolder"): ("this folder belongs to another network or account", USAGE),
    ("assay.adapters.evm_sender", "NoLimit"): ("the limit of fees cannot be used", USAGE),
    ("assay.localnet.rpc", "RpcRefused"): ("the chain's node refused", ENVIRONMENT),
    ("assay.training", "TrainingError"): ("the training file cannot be used", FAILED),
}
"""Errors of modules that are loaded only when they are needed: what to call them, and the exit code."""


def translate(error: Exception) -> Trouble | None:
    """The person's view of an error that the ports raise; None for one that is a bug."""
    for (module, name), (what, code) in KNOWN.items():
        if module in sys.modules and isinstance(error, getattr(sys.modules[module], name)):
            return Trouble(what, str(error), code=code)
    match error:
        case Trouble():
            return error
        case Reverted():
            return Trouble("the contract refused", str(error), "assay job show JOB tells the state that the contract is in", REFUSED)
        case Outage():
            return Trouble("something outside did not answer", str(error), "assay doctor tells what can be reached", ENVIRONMENT)
        case Malformed():
            return Trouble("what was read is malformed", str(error), code=FAILED)
        case PermissionError() | FileNotFoundError() | OSError():
            return Trouble("the system refused", str(error), code=ENVIRONMENT)
    return None


def report(trouble: Trouble, as_json: bool) -> NoReturn:
    """Tells it and ends the command with its exit code."""
    from rich.console import Console
    from rich.text import Text

    screen = Console(stderr=True, highlight=False, soft_wrap=True)
    screen.print(Text.assemble(("error: ", "bold red"), trouble.what))
    if trouble.why:
        screen.print(Text.assemble(("  why: ", "bold"), trouble.why))
    if trouble.next:
        screen.print(Text.assemble((" next: ", "bold"), trouble.next))
    if as_json:
        print(json.dumps({"error": trouble.what, "why": trouble.why, "next": trouble.next, "code": trouble.code}), flush=True)
    raise typer.Exit(trouble.code)


class Guarded(TyperGroup):
    """A command group that turns known errors into messages and exit codes."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            trouble = translate(error)
            if trouble is None:
                raise
            report(trouble, bool(ctx.find_root().meta.get("assay.json")))


def group(help: str) -> typer.Typer:
    """A sub-application that shows its help when nothing is asked of it."""
    return typer.Typer(help=help, cls=Guarded, no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False)


def _remember_json(ctx: typer.Context, value: bool) -> bool:
    ctx.find_root().meta["assay.json"] = value
    return value


def writable(out: Path | None) -> Path | None:
    """Of an option that names what is written in the end: whether it can be, before anything long or dear begins. Raises Trouble."""
    if out is None:
        return None
    if not out.parent.is_dir():
        raise Trouble(f"{out} cannot be written", f"there is no folder {out.parent}", f"mkdir -p {out.parent}", USAGE)
    if not os.access(out if out.exists() else out.parent, os.W_OK):
        raise Trouble(f"{out} cannot be written", "it is not yours to write", "name another place", USAGE)
    if out.is_dir() and out.suffix:
        raise Trouble(f"{out} cannot be written", "it is a folder", "name another file", USAGE)
    return out


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.", callback=_remember_json, is_eager=True)]
Lines = Annotated[bool, typer.Option("--json", help="Print the log as JSON lines.", callback=_remember_json, is_eager=True)]
Rpc = Annotated[str | None, typer.Option("--rpc", envvar="ASSAY_RPC", metavar="URL", help="JSON-RPC of the chain.")]
Contract = Annotated[str | None, typer.Option("--contract", envvar="ASSAY_CONTRACT", metavar="ADDRESS", help="The Jobs contract.")]
Bootstrap = Annotated[
    str | None, typer.Option("--bootstrap", envvar="ASSAY_BOOTSTRAP", metavar="MULTIADDR", help="A node that knows others, or several by commas.")
]
Ipfs = Annotated[
    str | None, typer.Option("--ipfs", envvar="ASSAY_IPFS", metavar="URL", help="RPC of an IPFS daemon (Kubo) that keeps the blobs; else embedded.")
]
Releases = Annotated[
    str | None, typer.Option("--releases", envvar="ASSAY_RELEASES", metavar="URL", help="Page of a package index that tells of newer versions.")
]
Data = Annotated[Path | None, typer.Option("--data", envvar="ASSAY_DATA", metavar="FOLDER", help="The node's own folder: keys, journal, blobs.")]


def show(value: dict[str, Any]) -> None:
    """One JSON object on one line."""
    print(json.dumps(value, default=_plain), flush=True)


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.asdict(value)
    return str(value)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All that a node needs to be told."""

    rpc: str
    contract: Address
    bootstrap: tuple[str, ...]
    """libp2p multiaddresses; empty for the first node of a network."""
    data: Path


def config_file() -> Path | None:
    """The file that defaults come from."""
    named = os.environ.get("ASSAY_CONFIG")
    if named:
        return Path(named)
    return next((path for path in (LOCAL_CONFIG, USER_CONFIG.expanduser()) if path.is_file()), None)


def read_config() -> dict[str, str]:
    """Its keys rpc, contract, receipts, bootstrap, data and releases, as far as it has them. Raises Trouble."""
    path = config_file()
    if path is None:
        return {}
    try:
        table = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise Trouble(f"there is no {path}", "ASSAY_CONFIG names it", "unset ASSAY_CONFIG, or name a file that exists", USAGE) from None
    except tomllib.TOMLDecodeError as error:
        raise Trouble(f"{path} is not TOML", str(error), f"mend or delete {path}", USAGE) from None
    known = {"rpc", "contract", "receipts", "bootstrap", "data", "releases"}
    odd = sorted(set(table) - known)
    if odd or not all(isinstance(value, str) for value in table.values()):
        why = f"it may have the texts {', '.join(sorted(known))}; it has {', '.join(odd) or 'something that is not a text'}"
        raise Trouble(f"{path} has what is not expected there", why, code=USAGE)
    return table


def settings(rpc: str | None, contract: str | None, bootstrap: str | None, data: Path | None, role: str) -> Settings:
    """Settings from options, environment and file. Raises Trouble when something needed is nowhere."""
    kept = read_config()
    rpc = rpc or kept.get("rpc")
    contract = contract or kept.get("contract")
    hint = "start a local network with `assay net up`, or name one: --rpc URL --contract ADDRESS --bootstrap MULTIADDR"
    if not rpc:
        raise Trouble("no chain is named", "neither --rpc nor ASSAY_RPC nor a configuration file says where it is", hint, USAGE)
    if not contract:
        raise Trouble("no contract is named", "neither --contract nor ASSAY_CONTRACT nor a configuration file names it", hint, USAGE)
    if data is None:
        base = Path(kept["data"]) if "data" in kept else Path("~/.local/share/assay").expanduser()
        data = base / role
    addresses = bootstrap if bootstrap is not None else kept.get("bootstrap", "")
    try:
        where = address(contract)
    except ValueError as error:
        raise Trouble("the contract's address is malformed", str(error), code=USAGE) from None
    return Settings(rpc=rpc, contract=where, bootstrap=tuple(a.strip() for a in addresses.split(",") if a.strip()), data=data.expanduser().absolute())


def index_of(named: str | None) -> str:
    """The page that tells of newer versions; empty when nobody has named one. Raises Trouble."""
    from assay.adapters import releases

    url = named or read_config().get("releases") or ""
    try:
        return releases.check_url(url) if url else ""
    except ValueError as error:
        raise Trouble("newer versions cannot be looked for there", str(error), "--releases https://HOST/simple/assay/", USAGE) from None


THREADS = 8
"""Of a daemon, for what would block it; asyncio takes up to 32, by the machine's cores."""


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs it to its end in an event loop of its own, with at most THREADS threads for what blocks; Ctrl-C ends it with exit code 130."""

    async def bounded() -> T:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS, "labour"))
        return await work

    try:
        return asyncio.run(bounded())
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise typer.Exit(130) from None


TOKEN = 1_000_000
"""Smallest units of the test token."""


def money(amount: int) -> str:
    """An amount of the test token, which has six decimals; two of them are always shown."""
    whole, part = divmod(abs(amount), TOKEN)
    digits = f"{part:06d}".rstrip("0").ljust(2, "0")
    return f"{'-' if amount < 0 else ''}{whole:,}.{digits}"
