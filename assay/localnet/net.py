"""A network on this machine: a chain, the contracts, a bootstrap node, and where to find them.

`start` leaves one running that outlives its command (`assay net up`): its state lies under a folder, so `start` after `stop` goes on
with the same chain. `launch` runs one that ends with its caller (the demo, tests).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import IO, Any

import msgspec

from assay import template
from assay.adapters import evm_abi
from assay.cli import behind
from assay.cli.common import ENVIRONMENT, Trouble
from assay.cli.folder import prepare, running
from assay.cli.left import Running, end
from assay.dispute.record import Rules
from assay.ids import Address
from assay.localnet import anvil, rpc
from assay.localnet.leash import Leash
from assay.localnet.processes import Processes, die_with_parent
from assay.ports import Outage

UP_WITHIN = 180.0
"""Seconds in which a bootstrap node says that it is up, on a machine that has much else to do; one that ends is noticed at once."""
TRANSFER = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"
"""Topic of Transfer(address,address,uint256), EIP-20."""
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""As engines have it, unless their owner says otherwise."""
BURN = Address("0x000000000000000000000000000000000000dead")


class Network(msgspec.Struct):
    """Where everything is."""

    rpc: str
    chain_id: int
    contract: Address
    bootstrap: str
    contracts: anvil.Network
    processes: dict[str, Running] = {}

    def arguments(self, data: Path) -> list[str]:
        """All that a node is told."""
        return ["--rpc", self.rpc, "--contract", self.contract, "--bootstrap", self.bootstrap, "--data", str(data)]

    def public(self) -> dict[str, Any]:
        return {"rpc": self.rpc, "chain_id": self.chain_id, "contract": self.contract, "bootstrap": self.bootstrap, "token": self.contracts.token}

    def names(self) -> dict[Address, str]:
        """What a person may call the accounts of the network itself."""
        known = self.contracts
        return {
            known.jobs: "escrow (Jobs)", known.stakes: "stakes (Stakes)", known.disputes: "bonds of disputes (Disputes)",
            known.datasets: "data (Datasets)", known.bounties: "bounties (Bounties)", BURN: "burnt",
        }  # fmt: skip

    async def reader(self) -> Any:
        """Reads the network's contracts."""
        from assay.adapters.evm import EvmReader

        return await EvmReader.open(self.rpc, self.contract)

    def balances(self, block: int) -> dict[str, int]:
        """Tokens and stake of every account that ever held any, of the contracts (less those stakes) and of the burn address, at the end
        of a block."""
        token, known = self.contracts.token, self.contracts
        logs: Any = rpc.call(self.rpc, "eth_getLogs", {"address": token, "topics": [TRANSFER], "fromBlock": "0x0", "toBlock": hex(block)})
        holders = {"0x" + topic[-40:] for log in logs for topic in log["topics"][1:3]} - {"0x" + "00" * 20}
        contracts = {*known.purses, BURN}

        def read(contract: str, data: bytes) -> int:
            return int(str(rpc.call(self.rpc, "eth_call", {"to": contract, "data": "0x" + data.hex()}, hex(block))), 16)

        found = {who: read(token, evm_abi.encode("token", "balanceOf", who)) for who in sorted(holders | contracts)}
        for who in holders - contracts:
            stake = read(known.stakes, evm_abi.encode("stakes", "stakeOf", who))
            found[who] += stake
            found[known.stakes] -= stake
        return found

    async def balance_changes(self, reader: Any, before: dict[str, int]) -> dict[str, int]:
        """From `before` (`balances` then) until now. A chain node may have forgotten the state of blocks long past."""
        last = (await reader.head()).number
        after = await asyncio.to_thread(self.balances, last)
        return {who: after[who] - before.get(who, 0) for who in after}


# ---- one that ends with its caller -------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def launch(processes: Processes, base: Path, *, block_time: float = 1.0, rules: Rules = anvil.RULES) -> AsyncIterator[Network]:
    """A fresh network whose processes end on leaving; `rules` of its disputes. Raises Trouble, Outage."""
    chain = await asyncio.to_thread(lambda: _anvil(None, 0, block_time, die_with_parent))
    try:
        contracts = await asyncio.to_thread(lambda: anvil.deploy(chain.url, rules=rules))
        network = Network(rpc=chain.url, chain_id=contracts.chain_id, contract=contracts.jobs, bootstrap="", contracts=contracts)
        process = await processes.start("bootstrap", bootstrap_command(network, base / "bootstrap"))
        if sys.platform == "linux":
            await processes.start(template.NAME, engines_command(base), ONE_THREAD)
        network.bootstrap = await asyncio.to_thread(address_of, base / "logs" / "bootstrap.out", lambda: process.returncode is None)
        yield network
    finally:
        await asyncio.to_thread(chain.stop)


def _anvil(folder: Path | None, port: int, block_time: float, prepare: Callable[[], None]) -> anvil.Anvil:
    try:
        return anvil.Anvil(folder, port=port, block_time=block_time, prepare=prepare)
    except FileNotFoundError as error:
        raise Trouble("there is no local chain to start", str(error), "contracts/tools/install.sh anvil", ENVIRONMENT) from None


def bootstrap_command(network: Network, data: Path) -> list[str]:
    base = [sys.executable, "-m", "assay.cli", "net", "bootstrap", "--json"]
    return [*base, "--rpc", network.rpc, "--contract", network.contract, "--data", str(data)]


def engines_command(base: Path) -> list[str]:
    """What engines are forked from of the nodes whose folders lie in `base`."""
    return [sys.executable, "-m", "assay.template", str(base.absolute() / template.NAME)]


def address_of(log: Path, alive: Callable[[], bool]) -> str:
    """The address that a bootstrap node prints when it is up. Raises Trouble."""
    deadline = time.monotonic() + UP_WITHIN
    while time.monotonic() < deadline and alive():
        with contextlib.suppress(OSError, ValueError):
            for line in log.read_text().splitlines():
                note = msgspec.json.decode(line)
                if isinstance(note, dict) and note.get("topic") == "up":
                    return str(note["address"])
        time.sleep(0.05)
    what = "the bootstrap node did not come up"
    if alive():
        raise Trouble(what, f"it said nothing within {UP_WITHIN:g} s; is this machine busy?", "the same once more, or assay doctor", ENVIRONMENT)
    raise Trouble(what, f"it ended; {log} tells why", "assay doctor", ENVIRONMENT)


# ---- one that is left running ------------------------------------------------------------------------------------------------


def _state(base: Path) -> Path:
    return base / "net"


def load(base: Path) -> Network | None:
    """The network whose state lies under `base`, whether it runs or not."""
    try:
        return msgspec.json.decode((_state(base) / "network.json").read_bytes(), type=Network)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, ValueError) as error:
        path = _state(base) / "network.json"
        raise Trouble(f"{path} cannot be read", str(error), f"delete {_state(base)} to start afresh", ENVIRONMENT) from None


def start(base: Path, *, port: int, block_time: float) -> Network:
    """Starts what is not up, on the chain state of last time if there is any. Raises Trouble, Outage."""
    old = load(base)
    if old is not None and old.processes and all(left.process() for left in old.processes.values()):
        return old
    stop(base)
    folder = _state(base).absolute()
    prepare(folder)
    with Leash() as leash:
        network, contracts, left = _begin(base, port, block_time, leash)
        network.processes = left
        anvil.save(contracts, folder)  # the chain's own state is written by anvil, every second
        (folder / "network.json").write_bytes(msgspec.json.encode(network))
        leash.let_go()
    lines = {"rpc": network.rpc, "contract": network.contract, "bootstrap": network.bootstrap, "data": str(base.absolute())}
    if contracts.receipts:
        lines["receipts"] = contracts.receipts
    (base / "net.toml").write_text("# Written by `assay net up`: what commands in this folder take for granted.\n" + _toml(lines))
    return network


def _begin(base: Path, port: int, block_time: float, leash: Leash) -> tuple[Network, anvil.Network, dict[str, Running]]:
    """Starts all of it. Raises Trouble, Outage; then nothing of it is left."""
    folder = _state(base).absolute()
    chain = _anvil(folder, port, block_time, leash.hold)
    left = {"chain": Running.of(chain.pid)}
    try:
        contracts = anvil.load(folder, chain.url) or anvil.deploy_whole(chain.url)
        network = Network(rpc=chain.url, chain_id=contracts.chain_id, contract=contracts.jobs, bootstrap="", contracts=contracts)
        log = folder / "bootstrap.out"
        log.unlink(missing_ok=True)
        with log.open("ab") as out:
            process = _left_running(bootstrap_command(network, base.absolute() / "bootstrap"), out, leash)
        left["bootstrap"] = Running.of(process.pid)
        if sys.platform == "linux":
            with (folder / "engines.out").open("wb") as out:
                left[template.NAME] = Running.of(_left_running(engines_command(base), out, leash, ONE_THREAD).pid)
        network.bootstrap = address_of(log, lambda: process.poll() is None)
    except BaseException:
        end(left.values())
        raise
    return network, contracts, left


def _left_running(command: list[str], out: IO[bytes], leash: Leash, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL, stdout=out, stderr=out, preexec_fn=leash.hold
    )  # fmt: skip


def _toml(lines: dict[str, str]) -> str:
    return "".join(f"{key} = {msgspec.json.encode(value).decode()}\n" for key, value in lines.items())


def stop(base: Path) -> list[str]:
    """Ends what runs; returns the names of what did. The state stays."""
    network = load(base)
    left = network.processes if network else {}
    over = end(left.values())
    ended = [name for name, process in left.items() if process in over]
    ended += [path.parent.name for path in base.glob("*/behind.json") if behind.end(path.parent)]
    (base / "net.toml").unlink(missing_ok=True)
    return sorted(ended)


def inspect(base: Path) -> dict[str, Any]:
    """What `assay net status` says."""
    network = load(base)
    if network is None:
        return {"up": False, "why": f"nothing was ever started under {base}"}
    up = {name: left.process() is not None for name, left in network.processes.items()}
    found: dict[str, Any] = {"up": bool(up) and all(up.values()), **network.public()}
    found |= {name: "up" if is_up else "down" for name, is_up in up.items()}
    if up.get("chain"):
        try:
            found["block"] = int(str(rpc.call(network.rpc, "eth_blockNumber")), 16)
        except Outage as error:
            found |= {"up": False, "why": str(error)}
    found["nodes"] = sorted(path.parent.name for path in base.glob("*/lock") if running(path.parent))
    return found
