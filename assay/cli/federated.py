"""`assay federated id|host|join|check|challenge`: owners train where their data lies; the coordinator sees sums."""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from msgspec import UNSET

from assay.cli import federated_pay as pays
from assay.cli.common import ENVIRONMENT, FAILED, USAGE, Bootstrap, Contract, Data, Json, Rpc, Settings, Trouble, group, run, settings, show, writable
from assay.cli.jobs import OUT_HELP, Seed, Threads, Train, plan_of
from assay.ids import Cid, Digest, PeerId
from assay.ports import Outage

if TYPE_CHECKING:
    from assay.client import Plan
    from assay.daemon import Ports
    from assay.federated.messages import Terms

app = group("Train on the data of several owners without any of it leaving them: only sums of their updates are seen, and everybody can check those.")

app.command("show")(pays.show_job)
app.command("settle")(pays.settle)
app.command("strike")(pays.strike)
app.command("withdraw")(pays.withdraw)

ROLE = "coordinator"
DISCOVERY = 60.0
POLL = 0.2
LocalSteps = Annotated[int, typer.Option("--local-steps", min=1, help="Steps that each owner trains in a round; the file's steps are all of them.")]


@app.command("id")
def id_(data: Data = None, json: Json = False) -> None:
    """The name under which this folder takes part: give it to the coordinator. Makes keys if there are none.

    Example: [bold]assay federated id --data hospital[/bold]
    """
    from assay.adapters.peerbook import peer_id
    from assay.cli.folder import prepare
    from assay.cli.node import open_or_create
    from assay.cli.roles import folder_of

    folder = folder_of(data, "owner")
    prepare(folder)
    keys = open_or_create(folder)
    told = {"id": peer_id(keys.peer_seed), "account": keys.account}
    keys.close()
    if json:
        show(told)
    else:
        print(told["id"])


@app.command()
def host(
    train: Train,
    owner: Annotated[list[str], typer.Option("--owner", metavar="ID[=WEIGHT][@ACCOUNT]", help="Who takes part, with what weight, who is paid.")],
    local_steps: LocalSteps = 1,
    out: Annotated[Path | None, typer.Option("--out", metavar="PATH", help=OUT_HELP, callback=writable)] = None,
    norm: Annotated[float, typer.Option("--norm", min=0, help="Longest update; longer ones are shortened by their owners. 0: any.")] = 0.0,
    noise: Annotated[float, typer.Option("--noise", min=0, help="Each owner adds Gaussian noise of so many norms: differential privacy.")] = 0.0,
    delta: Annotated[float, typer.Option("--delta", min=1e-15, max=0.1, help="Of the privacy that noise gives.")] = 1e-6,
    bits: Annotated[int, typer.Option("--bits", help="Of a number on its way: 32 or 64.")] = 64,
    patience: Annotated[float, typer.Option("--patience", min=1, help="Seconds that a phase of a round waits for owners.")] = 120.0,
    stay: Annotated[bool, typer.Option("--stay", help="Go on serving records and rows when all is done, until it is stopped.")] = False,
    pay: Annotated[str, typer.Option("--pay", metavar="TOKENS", help="For each round, to all owners; locked beforehand.")] = "",
    bond: Annotated[str, typer.Option("--bond", metavar="TOKENS", help="Lost with a false sum; as much as a round's pay, if not said.")] = "",
    by: Annotated[str, typer.Option("--by", help="How pay is parted: equal, records (by weight), or worth.")] = "records",
    worth: Annotated[Path | None, typer.Option("--worth", metavar="FILE", help="The valuation that --by worth parts by.")] = None,
    window: Annotated[int, typer.Option("--window", min=1, help="Seconds in which a sum can be challenged before owners are paid.")] = 3600,
    days: Annotated[float, typer.Option("--days", min=0.01, help="After which what was not used goes back.")] = 7.0,
    auditor: Annotated[str | None, typer.Option("--auditor", metavar="ACCOUNT", help="Who may strike one owner a round that it looked at.")] = None,
    seed: Seed = 0, rpc: Rpc = None, contract: Contract = None, bootstrap: Bootstrap = None, data: Data = None, json: Json = False,
) -> None:  # fmt: skip
    """Coordinates a federated training. The file's data are an example of the owners' records; nothing is trained here.

    Example: [bold]assay federated host train.py --owner 12D3KooW… --owner 12D3KooW…=3 --owner 12D3KooW… --local-steps 8[/bold]
    """
    from assay.cli.submit import fits, write_weights

    where = settings(rpc, contract, bootstrap, data, ROLE)
    plan, training = plan_of(train, None, seed)
    fits(out, training)
    if plan.steps % local_steps:
        raise Trouble(f"{plan.steps} steps are no whole rounds of {local_steps}", "every round has as many", "--local-steps N", USAGE)
    offer = pays.offer(owner, (pay, bond), by, worth, (window, days), auditor) if pay else None
    state = run(_host(where, plan, _weighted(owner), local_steps, (norm, noise, delta), bits, (patience, stay), json, offer))
    if out is not None:
        write_weights(out, training, state)
        if not json:
            print(f"weights written to {out}")


def _weighted(given: list[str]) -> dict[bytes, int]:
    from assay.federated.messages import identity_of

    found: dict[bytes, int] = {}
    for text in given:
        name, _, weight = text.partition("@")[0].partition("=")
        key = identity_of(PeerId(name))
        if len(key) != 32 or not (weight or "1").isdecimal() or key in found:
            raise Trouble(f"--owner {text} is not understood", "an id that `assay federated id` prints, once, and a whole number", code=USAGE)
        found[key] = int(weight or 1)
    return found


def terms_of(
    plan: Plan, owners: dict[bytes, int], round: int, steps: int, state: Any, privacy: tuple[float, float, float], bits: int
) -> Terms:  # fmt: skip
    """The terms of a round as this command makes them: everybody is everybody's neighbour up to 65 owners. Raises ValueError."""
    from assay.federated import training
    from assay.federated.messages import Terms

    count, total = len(owners), sum(owners.values())
    fraction = 24 if bits == 64 else 16
    norm = round_(privacy[0] * 2**fraction)
    near = min(64, count - 1)
    job = training.job_of(plan, plan.steps // steps, steps)
    return Terms(
        job=job, round=round, model=training.start_root(state, round, steps), length=training.length(state),
        bits=bits, fraction=fraction, limit=min(1 << (fraction + 8), ((1 << (bits - 1)) - 1) // total), norm=norm, noise=math.ceil(privacy[1] * norm),
        owners=tuple(owners), weights=tuple(owners.values()), degree=near + near % 2, threshold=near // 2 + 1, minimum=2 * count // 3 + 1,
    )  # fmt: skip


def round_(x: float) -> int:
    """To the nearest whole number (the name `round` is taken by the number of a round)."""
    return int(x + 0.5)


async def _host(
    where: Settings, plan: Plan, owners: dict[bytes, int], steps: int, privacy: tuple[float, float, float], bits: int,
    times: tuple[float, bool], json: bool, offer: pays.Offer | None = None,
) -> Any:  # fmt: skip
    """`times`: how patient it is, and whether it stays."""
    from assay.federated import node, training
    from assay.federated import privacy as account
    from assay.federated.coordinator import Lost

    async with _node(where, ROLE) as ports:
        there = node.Host(ports.blobs, times[0])
        await ports.peers.start(there.on_request, lambda *_: None)
        try:
            state, spent = plan.state, []
            purse = None
            if offer is not None:
                first_terms = terms_of(plan, owners, 0, steps, state, privacy, bits)
                purse = await pays.post(ports, offer, first_terms, plan.steps // steps)
                _say(json, "posted", f"job {purse.number}: {pays.told(purse.terms)}", job=purse.number, contract=purse.money.contract)
            _say(json, "up", f"waiting for {len(owners)} owners at {ports.peers.peer}", peer=ports.peers.peer)
            for number in range(plan.steps // steps):
                try:
                    terms = terms_of(plan, owners, number, steps, state, privacy, bits)
                except ValueError as error:
                    raise Trouble("these owners make no round", str(error), code=USAGE) from None
                first = node.Invitation(
                    terms=terms, rounds=plan.steps // steps, steps=steps, state=await node.publish_state(ports.blobs, state),
                    funded=purse.funded(number) if purse else UNSET,
                )  # fmt: skip
                try:
                    record, total = await there.hold(first, lambda: _beacon(ports))
                except Lost as error:
                    raise Trouble(f"round {number} has no sum", str(error), "start again without those who are gone") from None
                left = sorted(there.rows)
                if purse is not None:
                    await purse.close(ports, record, there.published)
                state = training.apply(state, training.mean(terms, total, left), plan.state)
                told: dict[str, Any] = {"round": number, "owners": left, "record": there.published, "root": record.total.hex()}
                if terms.noise:
                    spent.append(account.rho(terms))
                    told["epsilon"] = account.epsilon(spent, privacy[2])
                text = f"round {number}: the sum of {len(left)} of {len(owners)} owners; record {there.published}"
                _say(json, "round", text + (f"; epsilon {told['epsilon']:.2f} at delta {privacy[2]:g}" if terms.noise else ""), **told)
            await there.end(await node.publish_state(ports.blobs, state), len(left))
            root = training.start_root(state, plan.steps // steps, steps)
            _say(json, "done", f"done; state root {root.hex()}", state_root=root.hex())
            if times[1]:
                ended = asyncio.Event()
                for name in (signal.SIGTERM, signal.SIGINT):
                    asyncio.get_running_loop().add_signal_handler(name, ended.set)
                await ended.wait()
            return state
        finally:
            await ports.peers.stop()


@app.command()
def join(
    train: Train,
    local_steps: LocalSteps = 1,
    owner: Annotated[list[str] | None, typer.Option("--owner", metavar="ID", help="All who take part; else whoever the coordinator names.")] = None,
    host: Annotated[str | None, typer.Option("--host", metavar="ID", help="The coordinator; else found among peers.")] = None,
    least: Annotated[str, typer.Option("--least", metavar="TOKENS", help="Take part only for so much a round, held by a contract.")] = "",
    trust: Annotated[bool, typer.Option("--trust", help="Believe the coordinator's sums instead of computing each again.")] = False,
    out: Annotated[Path | None, typer.Option("--out", metavar="PATH", help=OUT_HELP, callback=writable)] = None,
    seed: Seed = 0, threads: Threads = 1,
    rpc: Rpc = None, contract: Contract = None, bootstrap: Bootstrap = None, data: Data = None, json: Json = False,
) -> None:  # fmt: skip
    """Takes part in a federated training with the records of this file, which stay here.

    Example: [bold]assay federated join train.py --local-steps 8[/bold]
    """
    from assay.cli.submit import fits, write_weights

    among = frozenset(_weighted(owner or []))
    where, wanted = settings(rpc, contract, bootstrap, data, "owner"), pays.tokens("--least", least) if least else 0
    plan, training = plan_of(train, None, seed)
    fits(out, training)
    state = run(_join(where, plan, local_steps, host, (trust, among), threads, json, wanted))
    if out is not None:
        write_weights(out, training, state)


async def _join(
    where: Settings, plan: Plan, steps: int, host: str | None, trust: tuple[bool, frozenset[bytes]], threads: int, json: bool, least: int = 0
) -> Any:  # fmt: skip
    from assay.federated import node, privacy, ring, training
    from assay.federated.messages import Refused
    from assay.messages import Ack

    def train(terms: Terms, place: int, state: Any) -> tuple[Any, Digest, float]:
        done = training.train(plan, state, terms.round, steps, terms.owners[place], threads)
        row = training.update(terms, place, state, done.state, privacy.noise(terms) if terms.noise else None)
        _say(json, "trained", f"round {terms.round}: loss {done.losses[-1]:.4f}", round=terms.round, loss=done.losses[-1])
        return row, done.root, done.losses[-1]

    async def nothing(*_: object) -> Ack:
        return Ack()

    async with _node(where, "owner") as ports:
        await ports.peers.start(nothing, lambda *_: None)
        try:
            at = PeerId(host) if host else await _coordinator(ports.peers)
            owner = node.Owner(
                ports.peers, ports.blobs, at, _seed(ports), lambda i: training.job_of(plan, i.rounds, i.steps), train,
                lambda: asyncio.sleep(POLL), None if trust[0] else plan.state, pays.purse_of(ports), least, trust[1],
            )  # fmt: skip
            done, state = await owner.take_part()
        except (Refused, ring.BadUpdate) as error:
            raise Trouble("this owner takes no part any more", str(error), code=FAILED) from None
        finally:
            await ports.peers.stop()
    lost = [one.terms.round for one in done if not one.outcome.record]
    root = training.start_root(state, plan.steps // steps, steps)
    text = f"took part in {len(done) - len(lost)} rounds" + (f", and not in the sums of {lost}" if lost else "")
    _say(json, "done", f"{text}; state root {root.hex()}", rounds=len(done) - len(lost), lost=lost, checked=not trust[0], state_root=root.hex())
    return state


@app.command()
def check(
    record: Annotated[str, typer.Argument(metavar="CID", help="Of a round's record, as the coordinator tells it.")],
    job: Annotated[int, typer.Option("--job", min=0, help="That pays for it: what its host put on the chain is compared.")] = 0,
    rpc: Rpc = None, contract: Contract = None, bootstrap: Bootstrap = None, data: Data = None, json: Json = False,
) -> None:  # fmt: skip
    """Computes a round's sum again from the masked rows that its owners signed, and compares. Nobody is believed.

    Example: [bold]assay federated check bafkrei…[/bold]
    """
    run(_check(settings(rpc, contract, bootstrap, data, "stranger"), Cid(record), json, job))


async def _check(where: Settings, cid: Cid, json: bool, job: int = 0) -> None:
    import tempfile

    from assay.cli.audit import visit
    from assay.federated import node
    from assay.federated.messages import Refused

    with tempfile.TemporaryDirectory(prefix="assay-federated-") as base:
        async with visit(where, Path(base)) as (_, blobs, peers):
            at = await _coordinator(peers)
            try:
                published = await node.published_at(blobs, at, cid)
                rows = await node.rows_of(blobs, at, published) if job else {}
                await node.summed(blobs, at, published)
            except Refused as error:
                raise Trouble("the record is false", str(error), code=FAILED) from None
    made = published.record
    owners = [owner for owner, _ in published.rows]
    if job:
        told = await pays.compare(where, job, made, rows)
        _say(json, "compared", told.pop("text"), **told)
    text = f"round {made.terms.round}: the sum of owners {owners} is {made.total.hex()}: right"
    _say(json, "right", text, round=made.terms.round, owners=owners, total=made.total.hex(), length=made.terms.length)


@app.command()
def challenge(
    record: Annotated[str, typer.Argument(metavar="CID", help="Of a round's record, as the coordinator tells it.")],
    job: Annotated[int, typer.Option("--job", min=1, help="That pays for it.")],
    total: Annotated[Path | None, typer.Option("--total", metavar="FILE", help="Its total's numbers, if the host does not give them: raw.")] = None,
    rpc: Rpc = None, contract: Contract = None, bootstrap: Bootstrap = None, data: Data = None, json: Json = False,
) -> None:  # fmt: skip
    """Adds up the rows that a round's owners signed for. Where the total on the chain differs, one number shows it, for half of the host's bond.

    Example: [bold]assay federated challenge bafkrei… --job 1[/bold]
    """
    run(_challenge(settings(rpc, contract, bootstrap, data, "stranger"), Cid(record), job, total.read_bytes() if total else None, json))


async def _challenge(where: Settings, cid: Cid, job: int, given: bytes | None, json: bool) -> None:
    import tempfile

    from assay.cli.audit import visit
    from assay.federated import node
    from assay.federated.messages import Refused

    with tempfile.TemporaryDirectory(prefix="assay-federated-") as base:
        async with visit(where, Path(base)) as (_, blobs, peers):
            at = await _coordinator(peers)
            try:
                published = await node.published_at(blobs, at, cid)
                rows = await node.rows_of(blobs, at, published)
                total = node.row_of(given, published.record.terms) if given else await node.total_of(blobs, at, published)
            except Refused as error:
                raise Trouble("the record is false", str(error), code=FAILED) from None
    told = await pays.challenge_with(where, job, published.record, rows, total)
    _say(json, "right" if told["right"] else "challenged", told.pop("text"), **told)


# ---- what they share -------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _node(where: Settings, role: str) -> AsyncIterator[Ports]:
    from assay.cli.node import Options, compose

    async with compose(role, where, Options()) as ports:
        yield ports


def _seed(ports: Ports) -> bytes:
    from assay.adapters.keys import NodeKeys

    assert isinstance(ports.keys, NodeKeys)  # as `compose` opens them
    return ports.keys.peer_seed


async def _coordinator(peers: Any) -> PeerId:
    deadline = time.monotonic() + DISCOVERY
    while time.monotonic() < deadline:
        for seen in peers.records():
            if seen.role == ROLE:
                return PeerId(seen.peer)
        await asyncio.sleep(POLL)
    raise Trouble(f"no coordinator was seen within {DISCOVERY:g} s", "nobody on this network holds federated rounds", "--host ID", ENVIRONMENT)


async def _beacon(ports: Ports) -> Digest:
    """The hash of the next block: nobody knows it when the adverts are in."""
    number = (await ports.chain.head()).number + 1
    while True:
        try:
            return await ports.chain.block_hash(number)
        except Outage:
            await asyncio.sleep(POLL)


def _say(json: bool, topic: str, text: str, **data: Any) -> None:
    if json:
        show({"topic": topic, **data})
    else:
        print(text, flush=True)
