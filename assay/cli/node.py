"""Puts a node together: keys, chain, blobs with their gateway, peers, journal, engine, and the role's daemon on top of them.

The only things that it is told are those of `Settings`; all else is made in the data folder when it is first wanted. On the local
network a node that has nothing takes its first money from the faucet; elsewhere it says which account needs some, and waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay import template
from assay.cli import care
from assay.cli.asking import priced
from assay.cli.beside import Account, printer, watch_releases
from assay.cli.common import Settings, Trouble
from assay.cli.fleet import Rays, admit, open_engine
from assay.cli.folder import Lock, attend, prepare
from assay.cli.funding import LOCAL_CHAIN, bonds, fund
from assay.cli.leaving import GRACE, GRACE_LOCAL, Leaving
from assay.cli.patience import through
from assay.cli.prover import EVERY, EVERY_LOCAL, Prover, told_in
from assay.cli.store import open_blobs, open_gateway, told_as
from assay.daemon import Node, Ports, enrol
from assay.exact.cuda import budget
from assay.ids import Address, PeerId
from assay.messages import PeerRecord
from assay.ports import AccountView, Reorganised, Reverted
from assay.receipts import Ledger
from assay.runtime import Note

if TYPE_CHECKING:
    from assay.adapters.engine_process import Ranks
    from assay.adapters.evm import EvmChain
    from assay.adapters.keys import NodeKeys
    from assay.adapters.sandbox import Sandbox

CONFIRMATIONS = 12
"""Blocks; what exchanges have long asked of Ethereum. A chain that reorganises deeper needs --confirmations."""
DAY = 86_400
SENT = "sender.sqlite"
"""What a node remembers of what it has sent to the chain."""
ENGINES = ("worker", "verifier")


@dataclass(frozen=True)
class Options:
    """What has a default."""

    listen: str = "127.0.0.1"
    announce: str | None = None
    price: int = 0
    price_per_tera: int = 0
    bounty_percent: int = 0
    """Asked for a step (0: assay.cli.asking) and for 10^12 operations of it, smallest units; what part of a job's bounties is taken off that."""
    stake: int = 0
    threads: int = 1
    confirmations: int = 0
    """Blocks under the head from which an event counts as final; 0: one on the local chain, CONFIRMATIONS elsewhere."""
    ipfs: str | None = None
    """RPC of an external IPFS daemon that keeps the blobs; None: the embedded store."""
    engine: tuple[str, ...] = ()
    """Command that starts an engine, if another than the honest one (the liars of the tests)."""
    sandbox: str = "auto"
    disk: int = 0
    max_memory: int = 4 << 30
    gpu_memory: str = budget.DEFAULT
    """How engines are shut in (adapters.sandbox.KINDS), bytes of their folder (0: half of what is free), of a job, of a GPU (exact.cuda.budget)."""
    offload: str = "auto"
    """Whether a job's state may lie in files of the work folder where it does not fit in `max_memory` (`never`: not)."""
    store: int = 0
    """Bytes of the blobs; 0: what is there and half of what is free, for who works or checks, else as many as the disk takes."""
    keep_days: int = 7
    """For which a worker keeps the checkpoints of a finished job, whatever room they take."""
    releases: str = ""
    """Page of a package index that is asked for newer versions; none by default."""
    metrics: str = ""
    """HOST:PORT on which Prometheus may ask; none by default."""
    prove: int = 0
    """Bytes of memory that are claimed and proven when a block asks; 0: only when the owner asks."""
    prefer_proven: bool = False
    """Whether a scheduler takes proven hardware before a lower price."""
    rules: care.Rules | None = None
    """When a worker works; None: always."""
    ray: Rays | None = None
    """The fleet that it runs on; None: engines of this machine."""
    ranks: Ranks | None = None
    """The processes that run one segment together; None: one engine does."""
    grace: int | None = None
    """Seconds that its end may take (assay.cli.leaving); None: by the chain."""
    untested: bool = False
    """Whether it may start though this machine has not passed the conformance suite; on the local network it always may."""


@contextlib.asynccontextmanager
async def compose(role: str, where: Settings, options: Options, note: Callable[[Note], None] = lambda note: None) -> AsyncIterator[Ports]:
    """The node's ports; what has to be closed is closed on leaving. Raises Trouble and what the adapters raise."""
    from assay.adapters import hardware
    from assay.adapters.journal import SqliteJournal
    from assay.adapters.libp2p import Libp2pPeers
    from assay.adapters.sandbox import native_library

    prepare(where.data)
    async with contextlib.AsyncExitStack() as stack:
        lock = Lock(where.data)
        stack.callback(lock.release)
        keys = open_or_create(where.data)
        stack.callback(keys.close)
        been = (where.data / SENT).exists()  # where it was before it waits for it; a mistyped address is told at once
        say = lambda text: note(Note(topic="chain", text=text))  # noqa: E731
        chain = await (through(lambda: open_chain(where, keys), say) if been else open_chain(where, keys))
        stack.push_async_callback(chain.close)
        known: list[Libp2pPeers] = []

        def locate(near: Sequence[PeerId]) -> list[str]:
            return [url for peers in known for url in peers.gateways(near)]

        room = options.store if options.store or role in ENGINES else None
        blobs, blocks = open_blobs(where.data / "blobs", options.ipfs, locate, room)
        stack.push_async_callback(blobs.close)
        hosts = options.listen.split(",")
        gateway, url = await open_gateway(blocks, hosts[0], where.data / "gateway-port")
        stack.push_async_callback(gateway.stop)
        url, inside = told_as(url, options.announce or "")

        has = await asyncio.to_thread(hardware.means, options.max_memory, options.gpu_memory) if role == "worker" else None

        def record(addresses: list[str]) -> PeerRecord:
            return PeerRecord(
                peer=PeerId(""), account=keys.account, role=role, addresses=tuple(addresses), gateway=url, sequence=0,
                chain_id=chain.chain_id, contract=chain.contract, hardware=told_in(where.data), means=has,
            )  # fmt: skip

        listen = [f"/{'ip6' if ':' in host else 'ip4'}/{host}/tcp/0" for host in hosts]
        try:
            peers = Libp2pPeers(
                keys.peer_seed, listen, list(where.bootstrap), record, where.data / "peers", options.announce or "",
                relays=role == "bootstrap", gateway=inside,
            )  # fmt: skip
        except ValueError as error:
            raise Trouble("the bootstrap address cannot be used", str(error), "--bootstrap /ip4/HOST/tcp/PORT/p2p/PEER", 2) from None
        known.append(peers)
        journal = SqliteJournal(where.data / "journal.sqlite")
        stack.callback(journal.close)
        engine, places, disk = None, 1, 0
        if role in ENGINES:
            local = chain.chain_id == LOCAL_CHAIN
            shut = await asyncio.to_thread(find_sandbox, options.sandbox, options.disk, where.data, local)
            options = replace(options, untested=options.untested or local)
            if not options.untested:
                await admit(shut.native if shut else await asyncio.to_thread(native_library), note)
            ready = role == "worker" and not local  # nodes of a local network share one machine's memory
            if options.offload == "auto" and options.ray is None:  # another machine's disk is its own
                disk = shut.disk if shut else options.disk or shutil.disk_usage(where.data).free // 2
            forks = where.data.parent / template.NAME if local and (shut is None or shut.kind == "kernel") else None
            engine, places = await open_engine(options, where.data, shut, not local and options.sandbox != "off", note, stack, ready, forks)
        depth = options.confirmations or (1 if chain.chain_id == LOCAL_CHAIN else CONFIRMATIONS)
        yield Ports(
            chain=chain, stamps=chain, blobs=blobs, peers=peers, keys=keys, journal=journal, engine=engine, folder=where.data, depth=depth,
            places=places, finder=peers, disk=disk,
        )  # fmt: skip


def find_sandbox(kind: str, disk: int, folder: Path, local: bool) -> Sandbox | None:
    """What engines are shut in. Raises Trouble when there is none, but on the `local` chain, where that is a warning."""
    from assay.adapters import sandbox

    try:
        return sandbox.choose(kind, disk or shutil.disk_usage(folder).free // 2)
    except ValueError as error:
        raise Trouble("there is no such sandbox", str(error), "--sandbox auto", 2) from None
    except sandbox.NoSandbox as error:
        if not local or kind != "auto":
            what = "what others have sent is not computed unless the engine is shut in"
            raise Trouble(what, str(error), "apt install bubblewrap, or take the risk: --sandbox off", 3) from None
        print(f"warning: engines are not shut in here: {error}", file=sys.stderr)
        return None


def open_or_create(data: Path) -> NodeKeys:
    """The node's keys, made when there are none."""
    from assay.adapters.keys import create, exists, open_keys

    return open_keys(data) if exists(data) else create(data)


async def open_chain(where: Settings, keys: NodeKeys) -> EvmChain:
    """Raises Trouble when there is no such chain or contract."""
    from assay.adapters.evm import EvmChain

    return await EvmChain.open(where.rpc, where.contract, keys.signer, where.data / SENT)


# ---- running ---------------------------------------------------------------------------------------------------------------


def build(role: str, ports: Ports, options: Options, on_note: Callable[[Note], None]) -> Node:
    """The role's daemon."""
    match role:
        case "scheduler":
            from assay_scheduler.daemon import scheduler

            if ports.chain.chain_id == LOCAL_CHAIN:  # nobody is far away
                return scheduler(ports, on_note, offer_window=1, patience=1, prefers_proven=options.prefer_proven)
            return scheduler(ports, on_note, prefers_proven=options.prefer_proven)
        case "keyservice":
            from assay.keyservice.daemon import key_service

            return key_service(ports, on_note)
        case "worker":
            from assay_worker.daemon import worker

            more = {name: getattr(options, name) for name in ("price_per_tera", "bounty_percent", "threads", "max_memory")}
            return worker(ports, on_note, price_per_step=options.price, retention=options.keep_days * DAY, **more)
        case "verifier":
            from assay_verifier.daemon import verifier

            return verifier(ports, on_note, threads=options.threads, max_memory=options.max_memory)
    raise ValueError(f"there is no role {role!r}")


async def _enlist(role: str, where: Settings, options: Options, ports: Ports, note: Callable[[Note], None]) -> None:
    """Money, registration, stake and seat. Raises Reverted."""

    async def enlist() -> None:
        stake = await fund(ports.chain, where.rpc, options.stake, note, await bonds(role, ports.chain))
        await enrol(ports, deposit=stake, seat=role == "verifier")

    await through(enlist, lambda text: note(Note(topic="chain", text=text)))


def _prover(role: str, node: Node, ports: Ports, options: Options, note: Callable[[Note], None]) -> Prover | None:
    """Of a worker: it proves its hardware when it runs nothing."""
    if role != "worker" or ports.stamps is None:
        return None
    every = EVERY_LOCAL if ports.chain.chain_id == LOCAL_CHAIN else EVERY

    def idle() -> bool:
        return node.status().get("current_segment") is None

    return Prover(ports.stamps, ports.blobs, ports.folder, options.prove, every, idle, note, renew=ports.peers.renew, gpu_memory=options.gpu_memory)


async def serve(role: str, where: Settings, options: Options, *, as_json: bool) -> None:
    """Runs a role's daemon until SIGTERM or SIGINT, and what it owes is handed over."""
    this = asyncio.current_task()
    assert this is not None
    running: list[Leaving] = []

    def stop() -> None:
        if running:
            running[0].asked()
        else:
            this.cancel()

    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop)
    with contextlib.suppress(asyncio.CancelledError):
        while await _serve_until_reorganised(role, where, options, running, as_json) and not running[0].asked_to:
            running.clear()


async def _serve_until_reorganised(role: str, where: Settings, options: Options, running: list[Leaving], as_json: bool) -> bool:
    """Whether to begin again: events that the machine acted on are no longer part of the chain, so what it knows is set aside and
    learnt anew from the chain, as after the loss of a disk. Keys, blobs and the sender's memory stay."""
    prepare(where.data)
    note = printer(as_json, where.data / "log.jsonl")
    async with compose(role, where, options, note) as ports:
        try:
            await _enlist(role, where, options, ports, note)
        except Reverted as error:
            raise Trouble(f"the {role} could not be enrolled", str(error), f"assay {role} earnings --data {where.data}", 4) from None
        node = build(role, ports, await priced(role, options, where.data, ports.chain.chain_id == LOCAL_CHAIN, note), note)
        owner = care.Orders(node)
        grace = options.grace if options.grace is not None else GRACE_LOCAL if ports.chain.chain_id == LOCAL_CHAIN else GRACE
        running.append(Leaving(role, node.status, owner.order, node.stop, note, grace))
        note(Note(topic="up", text=f"{role} {ports.keys.account} is up", data={"account": ports.keys.account, "pid": os.getpid()}))
        gc.freeze()  # what is loaded now stays; the collector need not look at it again
        account, began = Account(ports.chain), int(time.time())

        def told() -> dict[str, Any]:
            return {"role": role, "pid": os.getpid(), "since": began, **node.status(), "balance": account.told}

        prover = _prover(role, node, ports, options, note)
        order = owner.order if prover is None else lambda name: prover.ask() if name == "prove" else owner.order(name)
        watchers = [asyncio.create_task(attend(where.data, told, order)), asyncio.create_task(account.watch())]
        if prover is not None:
            watchers.append(asyncio.create_task(prover.watch()))
        if options.releases:
            watchers.append(asyncio.create_task(watch_releases(options.releases, note)))
        if options.rules is not None:
            watchers.append(asyncio.create_task(care.look_after(node, owner, options.rules, care.look_here, note)))
        try:
            with contextlib.ExitStack() as stack:
                if options.metrics:
                    from assay.cli import metrics

                    stack.callback(metrics.serve(options.metrics, where.data))
                await node.run()
        except Reorganised as error:
            note(Note(topic="reorganised", text=f"{error}. This node begins again from the chain; its journal is kept beside the new one"))
        else:
            note(Note(topic="down", text=f"{role} {ports.keys.account} stops"))
            return False
        finally:
            running[0].over()
            for watcher in watchers:
                watcher.cancel()
    for name in ("journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm"):
        if (where.data / name).exists():
            (where.data / name).rename(where.data / f"before-{int(time.time())}-{name}")
    return True


async def serve_bootstrap(where: Settings, options: Options, *, as_json: bool) -> None:
    """A node without a role: it knows others and tells of them."""
    from assay.messages import Refusal

    async def refuse(peer: object, message: object) -> Refusal:
        return Refusal(reason="this is a bootstrap node; it only knows others")

    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, ended.set)
    prepare(where.data)
    note = printer(as_json, where.data / "log.jsonl")
    async with compose("bootstrap", where, options, note) as ports:
        peers: Any = ports.peers
        await peers.start(refuse, lambda peer, message: None)
        try:
            note(Note(topic="up", text=f"bootstrap {peers.addresses[0]}", data={"address": peers.addresses[0], "pid": os.getpid()}))
            await ended.wait()
        finally:
            await peers.stop()


# ---- questions ---------------------------------------------------------------------------------------------------------------


async def read_ledger(where: Settings, *, need_keys: bool = False) -> tuple[Ledger, Address | None]:
    """Everything final on the contract, and this folder's account if it has one."""
    from assay.adapters.evm import EvmReader
    from assay.adapters.keys import exists, open_keys

    if need_keys and not exists(where.data):
        raise Trouble(f"{where.data} holds no account", "which jobs are yours cannot be told", "name the folder: --data FOLDER", 2)
    account = open_keys(where.data).account if exists(where.data) else None
    ledger = Ledger()
    reader = await EvmReader.open(where.rpc, where.contract)
    try:
        ledger.feed(await reader.events((-1, -1), 1))
    finally:
        await reader.close()
    return ledger, account


async def account_of(where: Settings) -> tuple[AccountView, Address, Ledger]:
    """The account of a data folder, its address, and all that the chain says of segments; works beside a running daemon."""
    from assay.adapters.evm import EvmReader
    from assay.adapters.keys import exists, open_keys

    if not exists(where.data):
        raise Trouble(f"{where.data} holds no account", "no node has run on it", "name the node's folder: --data FOLDER")
    keys = open_keys(where.data)
    keys.close()
    ledger = Ledger()
    reader = await EvmReader.open(where.rpc, where.contract)
    try:
        ledger.feed(await reader.events((-1, -1), 1))
        return await reader.view(keys.account), keys.account, ledger
    finally:
        await reader.close()


async def earnings_of(where: Settings) -> dict[str, Any]:
    """`assay ROLE earnings`."""
    view, account, ledger = await account_of(where)
    credits = [
        {"segment": segment.number, "amount": payment.amount, "reason": payment.reason}
        for segment in ledger.segments.values()
        for payment in segment.payments
        if payment.who == account
    ]
    return {"account": {"address": account, **{n: getattr(view, n) for n in view.__struct_fields__}}, "credits": credits}
