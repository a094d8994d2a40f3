"""`assay net`, `assay demo`: networks on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from assay.cli.common import Bootstrap, Contract, Data, Json, Rpc, Trouble, group, run, settings, show

app = group("A network on this machine: a chain, the contracts, a bootstrap node, a faucet. All on loopback.")

Base = Annotated[Path, typer.Option("--base", metavar="FOLDER", help="Where the network keeps its state.")]
HERE = Path(".assay")


@app.command()
def up(
    base: Base = HERE,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Of the chain's RPC; 0 takes a free one.")] = 0,
    block_time: Annotated[float, typer.Option("--block-time", min=0.1, help="Seconds between blocks.")] = 1.0,
    json: Json = False,
) -> None:
    """Starts a local network; commands in this folder then use it without being told.

    Example: [bold]assay net up[/bold]
    """
    from assay.localnet.net import start

    network = start(base, port=port, block_time=block_time)
    if json:
        show(network.public())
        return
    print(f"chain      {network.rpc} (id {network.chain_id})")
    print(f"contract   {network.contract}")
    print(f"bootstrap  {network.bootstrap}")
    print(f"written to {base / 'net.toml'}; end it with: assay net down")


@app.command()
def down(base: Base = HERE, json: Json = False) -> None:
    """Ends the local network.

    Example: [bold]assay net down[/bold]
    """
    from assay.localnet.net import stop

    ended = stop(base)
    if json:
        show({"ended": ended})
    else:
        print("ended: " + (", ".join(ended) or "nothing was running"))


@app.command()
def status(base: Base = HERE, json: Json = False) -> None:
    """Says what of the local network is up.

    Example: [bold]assay net status --json[/bold]
    """
    from assay.localnet.net import inspect

    found = inspect(base)
    if json:
        show(found)
    else:
        for key, value in found.items():
            print(f"{key:12} {value}")
    if not found["up"]:
        raise typer.Exit(1)


@app.command(hidden=True)
def bootstrap(rpc: Rpc = None, contract: Contract = None, bootstrap: Bootstrap = None, data: Data = None, json: Json = False) -> None:
    """Runs a node without a role, which others can start from.

    Example: [bold]assay net bootstrap --data FOLDER[/bold]
    """
    from assay.cli.node import Options, serve_bootstrap

    run(serve_bootstrap(settings(rpc, contract, bootstrap or "", data, "bootstrap"), Options(), as_json=json))


def demo(
    json: Json = False,
    keep: Annotated[Path | None, typer.Option("--keep", metavar="FOLDER", help="Keep the nodes' folders and logs there.")] = None,
    train: Annotated[Path | None, typer.Option("--train", metavar="TRAIN.py", help="Another training file than the demo's own.")] = None,
    steps: Annotated[int, typer.Option("--steps", min=8, help="Steps to train.")] = 80,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the initial weights.")] = 0,
) -> None:
    """The whole network on this machine: a real model, one liar, one crash, everybody paid by the contract.

    Example: [bold]assay demo[/bold]
    """
    from assay.localnet.demo import Demo

    result = run(Demo(as_json=json, keep=keep, train=train, steps=steps, seed=seed).run())
    if json:
        show(result)
    if result["final_state_root"] != result["local_state_root"]:
        why = "this must not happen: it is a bug of ours"
        raise Trouble("the network's weights are not those of the local run", why, "assay demo --keep FOLDER keeps the logs")
