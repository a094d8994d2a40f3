"""`assay keys`: the secrets of a node. They live in its data folder and are never printed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from assay.cli.common import Data, Json, Trouble, group, show

if TYPE_CHECKING:
    from assay.adapters.keys import NodeKeys

app = group("A node's keys: its account on the chain, its key for sealed data, its identity among peers.")

Private = Annotated[Path | None, typer.Option("--import", metavar="FILE", help="A file with a private key (64 hex digits) to use as the account.")]
Ask = Annotated[bool, typer.Option("--password", help="Ask for a password of your own; without one a random one is kept beside the keyfile.")]


@app.command()
def new(data: Data = None, private: Private = None, password: Ask = False, json: Json = False) -> None:
    """Makes the keys of a new node.

    Example: [bold]assay keys new --data ~/my-worker[/bold]
    """
    from assay.adapters.keys import create
    from assay.cli.folder import prepare

    folder = _folder(data)
    prepare(folder)
    own = typer.prompt("Password", hide_input=True, confirmation_prompt=True) if password else None
    _tell(create(folder, own, _read(private) if private else None), folder, json)


@app.command(name="show")
def show_(data: Data = None, json: Json = False) -> None:
    """Shows the public side of a node's keys.

    Example: [bold]assay keys show --data ~/my-worker --json[/bold]
    """
    from assay.adapters.keys import open_keys

    folder = _folder(data)
    _tell(open_keys(folder, prompt=lambda text: typer.prompt(text.rstrip(": "), hide_input=True)), folder, json)


def _folder(data: Path | None) -> Path:
    if data is None:
        raise Trouble("no folder is named", "keys belong to one node", "name its folder: --data FOLDER (or ASSAY_DATA)", 2)
    return data.expanduser().absolute()


def _read(path: Path) -> bytes:
    try:
        key = bytes.fromhex(path.read_text().strip().removeprefix("0x"))
    except (ValueError, UnicodeDecodeError):
        key = b""
    if len(key) != 32:
        raise Trouble(f"{path} holds no private key", "64 hex digits are expected in it", code=2)
    return key


def _tell(keys: NodeKeys, folder: Path, json: bool) -> None:
    from eth_utils.address import to_checksum_address

    from assay.adapters.peerbook import peer_id

    peer = peer_id(keys.peer_seed)
    keys.close()
    if json:
        show({"account": keys.account, "peer": peer, "encryption_key": keys.encryption_key.hex(), "folder": str(folder)})
        return
    print(f"account         {to_checksum_address(keys.account)}")
    print(f"peer            {peer}")
    print(f"encryption key  {keys.encryption_key.hex()}")
    print(f"kept in         {folder / 'keys'} (back this folder up: it is the account)")
