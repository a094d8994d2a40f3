"""A local chain: anvil as a child process on loopback, and the contracts on it.

    with Anvil(folder) as anvil:                       # port chosen, state kept in the folder, survives kill -9 and restarts
        network = deploy(anvil.url)                    # or load(folder): Network(url, jobs, stakes, token, disputes, ...)
        faucet(network, account, tokens=10**9)

Blocks come every `block_time` seconds and at once for each transaction (mixed mining), with the wall clock's time. The first dev
account (unlocked, well known, worth nothing) deploys the contracts and is the test token's minter.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import msgspec

from assay.adapters.evm_abi import encode as calldata
from assay.adapters.evm_create2 import DEPLOYER, created, creation, deployment
from assay.codec import Message, decode, encode
from assay.dispute.record import Rules
from assay.ids import ZERO_ADDRESS, Address, address
from assay.localnet import rpc
from assay.localnet.faucet import give_now
from assay.ports import Outage

CHAIN_ID = 31337
SEAT_STAKE = 1_000_000
"""1 token: a seat of the local network costs little."""
UNBOND_DELAY = 3600
"""Seconds."""
DEPLOY_GAS = hex(12_000_000)
"""More than any of the contracts needs: estimating it would take longer than deploying."""
RULES = Rules(open_window=600, grace=300, budget=3600, payout_delay=600, bond=1_000_000)
"""Of disputes, where people and machines take their time."""
OLD_STATES = 32
"""States of old blocks that anvil may write to its cache, some megabytes each; it has 500 in memory. Left alone it writes one a block to the
user's home, and leaves them there when it is killed."""
STARTS_WITHIN = 120.0
"""Seconds, also for each transaction of the deployment, on a machine that has much else to do; one that ends is noticed at once."""
ROOT = Path(__file__).resolve().parents[2]


class Network(Message, frozen=True, kw_only=True):
    """A deployed network."""

    url: str
    chain_id: int
    jobs: Address
    stakes: Address
    token: Address
    disputes: Address
    datasets: Address
    deployed_in: int
    """Block."""
    receipts: Address = Address("")
    """Empty where the network has none (`deploy_receipts`)."""

    @property
    def bounties(self) -> Address:
        return created("bounties", self.jobs)

    @property
    def sureties(self) -> Address:
        return created("sureties", self.jobs)

    @property
    def showings(self) -> Address:
        return created("showings", self.jobs)

    @property
    def purses(self) -> tuple[Address, ...]:
        """The contracts that hold tokens."""
        return self.jobs, self.stakes, self.disputes, self.datasets, self.bounties, self.sureties, self.showings

    @property
    def takeovers(self) -> Address:
        return created("takeovers", self.jobs)


def find_anvil() -> Path:
    """The anvil binary: $ASSAY_ANVIL, the checkout's .tools, or PATH. Raises FileNotFoundError that says how to get it."""
    named = os.environ.get("ASSAY_ANVIL")
    for candidate in (named, str(ROOT / ".tools" / "bin" / "anvil"), shutil.which("anvil")):
        if candidate and os.access(candidate, os.X_OK):
            return Path(candidate)
    raise FileNotFoundError("anvil is not here: run contracts/tools/install.sh anvil, or put it on PATH, or name it in ASSAY_ANVIL")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Anvil:
    """A running anvil; `stop()` ends it. `folder` keeps its state (None: nothing is kept). With `port=0` a free one is taken."""

    def __init__(
        self, folder: Path | None = None, *, port: int = 0, block_time: float | None = 1, chain_id: int = CHAIN_ID,
        prepare: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        """`prepare` runs in the child before anvil does. With no block time, blocks come for transactions only. Raises
        FileNotFoundError, Outage."""
        self.folder = folder
        self.binary = find_anvil()
        self._options = ["--host", "127.0.0.1", "--chain-id", str(chain_id), "--silent"]
        if block_time is not None:
            self._options += ["--block-time", str(block_time), "--mixed-mining"]
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._options += ["--state", str(folder / "anvil.json"), "--state-interval", "1"]
        self._states = str((folder or Path(tempfile.gettempdir())) / f"anvil-states-{secrets.token_hex(8)}")
        self._options += ["--cache-path", self._states, "--max-persisted-states", str(OLD_STATES)]
        self._prepare = prepare
        self._fixed = port
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the process. Raises RuntimeError when it was stopped."""
        if self._process is None:
            raise RuntimeError("anvil was stopped")
        return self._process.pid

    def start(self) -> None:
        """Starts it again after `stop` or `kill`, on the port that it had. Raises Outage."""
        if self.folder is not None:
            keep_genesis(self.folder / "anvil.json")
        said = "something else listens there"
        for _ in range(3):
            self.port = self.port or _free_port()
            if _listens(self.port):
                if self._fixed:
                    break
                self.port = 0
                continue
            args = [str(self.binary), "--port", str(self.port), *self._options]
            with tempfile.TemporaryFile() as errors:
                self._process = subprocess.Popen(
                    args, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, preexec_fn=self._prepare
                )
                if self._answers(self._process):
                    self._fixed = self.port
                    return
                self.stop()
                errors.seek(0)
                said = errors.read(4000).decode("utf-8", "replace").strip() or "it does not answer"
            if not self._fixed:  # somebody else took it between the look and the start
                self.port = 0
        raise Outage(f"anvil does not start on port {self.port or self._fixed}: {said}")

    def _answers(self, process: subprocess.Popen[bytes]) -> bool:
        deadline = time.monotonic() + STARTS_WITHIN
        while time.monotonic() < deadline and process.poll() is None:
            try:
                rpc.call(self.url, "eth_chainId", timeout=1.0)
            except Outage:
                time.sleep(0.02)
            else:
                return process.poll() is None
        return False

    def stop(self) -> None:
        """Ends it with SIGTERM, on which it writes its state. Does nothing when it does not run."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it with SIGKILL: what it did since it last wrote its state (a second at most) is lost."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(how)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self._states, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def keep_genesis(path: Path) -> None:
    """Anvil makes a first block at each start and keeps it beside those of its state: with the third start it may show another one than
    with the first, which to nodes is another chain. Leaves only the oldest in the state, if there is one."""
    try:
        state = json.loads(path.read_bytes())
        first = [block for block in state["blocks"] if int(str(block["header"]["number"]), 16) == 0]
        if len(first) < 2:
            return
        oldest = min(first, key=lambda block: int(str(block["header"]["timestamp"]), 16))
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError) as error:
        raise Outage(f"{path} is not a state of anvil: {error}") from None
    state["blocks"] = [block for block in state["blocks"] if block is oldest or block not in first]
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(state))
    fresh.replace(path)


# ---- contracts -----------------------------------------------------------------------------------------------------------


def _mined(url: str, sent: str) -> dict[str, Any]:
    deadline = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < deadline:
        receipt = rpc.call(url, "eth_getTransactionReceipt", sent)
        if receipt is not None:
            if int(receipt["status"], 16) != 1:
                raise Outage(f"the transaction {sent} failed: is this a fresh local chain?")
            return dict(receipt)
        time.sleep(0.01)
    raise Outage(f"the transaction {sent} was not mined in {STARTS_WITHIN:g} s")


def _create(url: str, deployer: str, contract: str, *arguments: object) -> Address:
    data = "0x" + creation(contract, *arguments).hex()
    receipt = _mined(url, rpc.call(url, "eth_sendTransaction", {"from": deployer, "data": data, "gas": DEPLOY_GAS}))
    return address(receipt["contractAddress"])


def deploy(url: str, *, seat_stake: int = SEAT_STAKE, unbond_delay: int = UNBOND_DELAY, rules: Rules = RULES) -> Network:
    """Deploys token, Stakes, Jobs, Disputes, which have no guardian, Datasets, Bounties, Takeovers, Sureties and Showings. Raises Outage,
    rpc.RpcRefused."""
    deployer = rpc.call(url, "eth_accounts")[0]
    chain_id, head = int(rpc.call(url, "eth_chainId"), 16), int(rpc.call(url, "eth_blockNumber"), 16)
    token = _create(url, deployer, "token")
    stakes = _create(url, deployer, "stakes", token, seat_stake, unbond_delay)
    jobs = _create(url, deployer, "jobs", stakes, *(_create(url, deployer, part, stakes) for part in ("segments", "checks", "escrow", "appeals")))
    game = (*(getattr(rules, name) for name in rules.__struct_fields__), ZERO_ADDRESS)
    descent = _create(url, deployer, "descent", jobs, game, created("showings", jobs))
    leaves = (_create(url, deployer, "clear_leaf"), _create(url, deployer, "table_leaf"))
    disputes = _create(url, deployer, "disputes", jobs, game, descent, _create(url, deployer, "verdict", jobs, game, *leaves))
    datasets = _create(url, deployer, "datasets", jobs)
    for function, bound in (("bind", (jobs, disputes)), ("bindDatasets", (datasets,))):
        bind = "0x" + calldata("stakes", function, *bound).hex()
        _mined(url, rpc.call(url, "eth_sendTransaction", {"from": deployer, "to": stakes, "data": bind}))
    for name in ("bounties", "takeovers", "sureties", "showings"):
        made = {"from": deployer, "to": DEPLOYER, "data": "0x" + deployment(name, jobs).hex(), "gas": DEPLOY_GAS}
        _mined(url, rpc.call(url, "eth_sendTransaction", made))
    return Network(url=url, chain_id=chain_id, jobs=jobs, stakes=stakes, token=token, disputes=disputes, datasets=datasets, deployed_in=head)


def deploy_receipts(network: Network, *, unbond_delay: int = UNBOND_DELAY, rules: Rules = RULES) -> Address:
    """Deploys Receipts on a network, with a Disputes of its own, in which nobody is pardoned; its address. Raises Outage, rpc.RpcRefused."""
    url = network.url
    deployer = rpc.call(url, "eth_accounts")[0]
    receipts = _create(url, deployer, "receipts", network.token, unbond_delay)
    game = (rules.open_window, rules.grace, rules.budget, rules.payout_delay, rules.bond, 0, ZERO_ADDRESS)
    leaves = (_create(url, deployer, "clear_leaf"), _create(url, deployer, "table_leaf"))
    parts = (_create(url, deployer, "descent", receipts, game, ZERO_ADDRESS), _create(url, deployer, "verdict", receipts, game, *leaves))
    disputes = _create(url, deployer, "disputes", receipts, game, *parts)
    bind = "0x" + calldata("receipts", "bind", disputes).hex()
    _mined(url, rpc.call(url, "eth_sendTransaction", {"from": deployer, "to": receipts, "data": bind}))
    return receipts


def deploy_whole(url: str) -> Network:
    """A network with Receipts. Raises Outage, rpc.RpcRefused."""
    network = deploy(url)
    return msgspec.structs.replace(network, receipts=deploy_receipts(network))


def save(network: Network, folder: Path) -> None:
    """Keeps the addresses beside the chain's state."""
    fresh = folder / "contracts.json.new"
    fresh.write_bytes(encode(network))
    fresh.replace(folder / "contracts.json")


def load(folder: Path, url: str) -> Network | None:
    """The network that was deployed on this chain state, now at `url`; None when there is none (or its chain was lost)."""
    try:
        network = decode((folder / "contracts.json").read_bytes(), Network)
    except FileNotFoundError:
        return None
    if rpc.call(url, "eth_getCode", network.jobs, "latest") in ("0x", None):
        return None
    return msgspec.structs.replace(network, url=url)


def faucet(network: Network, who: Address, tokens: int) -> None:
    """Gas money and `tokens` (smallest unit) for an account; returns when both are there. Raises Outage."""
    give_now(network.url, network.jobs, who, tokens)


def balances(network: Network, accounts: list[Address]) -> dict[Address, int]:
    """Token balance of each of `accounts`, of the contracts and of the burn address."""
    burn = Address("0x000000000000000000000000000000000000dead")
    found = {}
    for who in [*accounts, *network.purses, burn]:
        data = "0x" + calldata("token", "balanceOf", who).hex()
        found[who] = int(rpc.call(network.url, "eth_call", {"to": network.token, "data": data}, "latest"), 16)
    return found
