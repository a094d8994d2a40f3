"""Five hospitals train together, twice: federated, where no record leaves its hospital, and pooled, where all are sealed and licensed.

    python examples/hospitals/run.py [--quick] [--json]

A network of processes on this machine, in a folder of its own, which is ended afterwards: a chain, a coordinator and five owners for the
federated training; a key service, a scheduler, a worker and a verifier for the pooled one. It prints the AUC of each site alone and of all
together, what every site's records are worth and what each was paid, and leaves the certificate and the valuation in --out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import worth
from patients import SITES, joined, load, write_csv
from safetensors.numpy import load_file

from assay.codec import digest, encode
from assay.ids import Address

HERE = Path(__file__).resolve().parent
ASSAY = [sys.executable, "-m", "assay.cli"]
TRAIN = str(HERE / "train.py")
PARAMS = """finality = 1
activate_window = 60
lease_window = 120
serve_window = 60
seal_window = 60
reveal_window = 60
open_window = 60
challenge_window = 5
verifiers = 1
quorum = 1
"""
Tell = Callable[[str], None]
PAY = "1"
"""Tokens for a federated round."""
PRICE = "2"
"""Tokens for a thousand records read."""


class Net:
    """Commands and daemons in one folder."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.folder = folder
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ASSAY_") or name in ("ASSAY_CACHE", "ASSAY_ANVIL")}
        self.env = kept | {"STEPS": str(steps), "OMP_NUM_THREADS": "1"}

    def assay(self, *words: str, site: str = "") -> dict[str, Any]:
        """The JSON object that a command ends with. Raises RuntimeError with what it said."""
        done = subprocess.run([*ASSAY, *words, "--json"], cwd=self.folder, env=self.env | {"SITE": site}, capture_output=True, text=True, timeout=540)
        if done.returncode:
            raise RuntimeError(f"assay {' '.join(words)} failed:\n{done.stdout}\n{done.stderr}")
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    def start(self, *words: str, site: str = "") -> subprocess.Popen[str]:
        log = (self.folder / f"{'-'.join(words[:2])}-{site}.log").open("w")
        command = [*ASSAY, *words, "--json"]
        return subprocess.Popen(command, cwd=self.folder, env=self.env | {"SITE": site}, stdout=subprocess.PIPE, stderr=log, text=True)

    @contextlib.contextmanager
    def daemon(self, role: str, *words: str) -> Iterator[None]:
        process = self.start(role, "start", *words)
        try:
            assert process.stdout is not None
            if not any(json.loads(line)["topic"] == "up" for line in process.stdout):
                raise RuntimeError(f"the {role} did not come up: {self.folder}")
            yield
        finally:
            end(process)


def end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=60)
    process.kill()


def said(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    """What a process says, line by line."""
    assert process.stdout is not None
    return (json.loads(line) for line in process.stdout if line.startswith("{"))


def federated(net: Net, local_steps: int, worth_file: Path, tell: Tell) -> dict[str, Any]:
    """Rounds over processes: only masked updates leave an owner; every owner computes each sum again, and a stranger one of them. A contract
    holds PAY for each round, and parts it by worth among the sites that signed for their rows."""
    owners = {site: net.assay("federated", "id", "--data", site) for site in SITES}
    names = [word for one in owners.values() for word in ("--owner", f"{one['id']}@{one['account']}")]
    shape = ("--local-steps", str(local_steps))
    money = ("--pay", PAY, "--by", "worth", "--worth", str(worth_file), "--window", "5")
    ours = ("--data", "coordinator", "--out", "federated.safetensors", "--patience", "300", "--stay")
    host = net.start("federated", "host", TRAIN, *names, *shape, *money, *ours)
    joins = [net.start("federated", "join", TRAIN, *names, *shape, "--least", "0.01", "--data", site, site=site) for site in SITES]
    rounds: list[dict[str, Any]] = []
    try:
        for line in said(host):
            if line["topic"] == "done":
                break
            if line["topic"] == "posted":
                job = str(line["job"])
            if line["topic"] == "round":
                rounds.append(line)
                tell(f"round {line['round']}: the sum of {len(line['owners'])} owners")
        ends = [list(said(process))[-1:] for process in joins]
        if not rounds or any(not one or one[0].get("state_root") != line["state_root"] for one in ends):
            raise RuntimeError(f"the federated training failed: {line}, {ends}; logs in {net.folder}")
        checked = net.assay("federated", "check", rounds[-1]["record"], "--job", job)
        assert checked["total"] == rounds[-1]["root"]
        while not net.assay("federated", "settle", job, "--data", "coordinator-pays")["ended"]:
            time.sleep(1)
        shown = net.assay("federated", "show", job)
        for site, one in owners.items():
            taken = net.assay("federated", "withdraw", "--data", site)["withdrawn"]
            assert taken == shown["paid"][one["account"]]
    finally:
        for process in joins:
            process.kill()
        end(host)
    paid = {site: shown["paid"][one["account"]] for site, one in owners.items()}
    return {"rounds": len(rounds), "state_root": line["state_root"], "paid": paid}


def pooled(net: Net, shares: dict[str, int], steps: int, tell: Tell) -> dict[str, Any]:
    """One dataset of all sites, sealed; licensed to a client; its revenue parted by worth. SVI keeps the keys for all."""
    accounts = {site: net.assay("federated", "id", "--data", site)["account"] for site in SITES}
    folder = net.folder / "records"
    (net.folder / "fast.toml").write_text(PARAMS)
    rest = [word for site in SITES if site != "SVI" for word in ("--owner", f"{accounts[site]}={shares[site] / 100}")]
    published = net.assay(
        "data", "publish", str(folder), "--name", "thyroid", "--label", "label", "--price", PRICE, "--purpose", "research", "--data", "SVI", *rest
    )
    tell(f"published: {published['records']} records in {published['shards']} sealed shards")
    with contextlib.ExitStack() as stack:
        for role, words in (("scheduler", ()), ("worker", ()), ("verifier", ())):
            stack.enter_context(net.daemon(role, *words))
        granted = net.assay("data", "grant", "thyroid", "--to", "anyone", "--purpose", "research", "--data", "SVI")
        stack.enter_context(net.daemon("keyservice", "--data", "SVI"))
        done = net.assay(
            "submit", TRAIN, "--dataset", str(granted["dataset"]), "--purpose", "research", "--budget", "200", "--params", "fast.toml",
            "--segment-steps", str(steps // 2), "--watch", "--yes", "--out", "pooled.safetensors",
        )  # fmt: skip
        tell(f"job {done['job']} is settled; state root {done['final_state_root']}")
        papers = net.assay("job", "certificate", str(done["job"]), "--out", "papers.json")
        revenue = net.assay("data", "revenue", "thyroid", "--collect", "--data", "SVI")
        bought = net.assay("job", "show", str(done["job"]))
    verified = net.assay("certificate", "verify", "papers.json", "--weights", "pooled.safetensors")
    return {"job": done, "papers": papers, "revenue": revenue, "verified": verified, "segments": bought["segments"], "accounts": accounts}


def state_of(path: Path) -> dict[str, Any]:
    return {f"param.{name}": array for name, array in load_file(path).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer steps: the AUCs mean little")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--out", type=Path, default=Path("hospitals"), help="where certificate, valuation and weights go")
    args = parser.parse_args()
    steps, local = (20, 10) if args.quick else (200, 10)
    sites = load()
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="assay-hospitals-") as base:
        result = together(Net(Path(base), steps), sites, steps, local, args.out)
    if args.json:
        print(json.dumps(result))


def together(net: Net, sites: Any, steps: int, local: int, out: Path) -> dict[str, Any]:
    def tell(text: str) -> None:
        print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)

    plan, kept = worth.plan_of(steps), joined([sites[name].kept for name in SITES])
    net.assay("net", "up")
    try:
        owners = tuple(Address(net.assay("federated", "id", "--data", site)["account"]) for site in SITES)
        tell(f"valuing the records: {2 ** len(SITES) - 1} trainings")
        found = worth.value(plan, [sites[name].shown for name in SITES], kept, owners)
        shares = dict(zip(SITES, found.worth.shares, strict=True))
        print("\n".join(worth.told(found, SITES)))
        (out / "worth.json").write_bytes(encode(found.worth))

        tell("federated training: five owners and a coordinator, records stay where they are")
        rounds = federated(net, local, (out / "worth.json").resolve(), tell)
        federated_auc = worth.measure(state_of(net.folder / "federated.safetensors"), kept)
        tell(f"federated: AUC {federated_auc.auc:.3f}; each of {rounds['rounds']} sums computed again by every owner, the last by a stranger, too")

        (net.folder / "records").mkdir()
        for place, site in enumerate(SITES):  # in the order of SITES, so that the pooled training is the one that was valued
            write_csv(net.folder / "records" / f"{place}-{site}.csv", sites[site].shown)
        tell("pooled training: sealed records, licensed, on a network of processes")
        bought = pooled(net, shares, steps, tell)
        pooled_auc = worth.measure(state_of(net.folder / "pooled.safetensors"), kept)
        for name in ("papers.json", "federated.safetensors", "pooled.safetensors"):
            (out / name).write_bytes((net.folder / name).read_bytes())
    finally:
        net.assay("net", "down")
    earned = bought["revenue"]["earned"]
    print(f"pooled: AUC {pooled_auc.auc:.3f}; {earned / 1e6:.6f} tokens were paid for reading records, and are owed to")
    paid = {site: earned * share // 10_000 for site, share in shares.items()}
    for site, amount in paid.items():
        print(f"  {site:6} {amount / 1e6:10.6f}   {shares[site]:5} of 10,000 parts: its Shapley value in the AUC")
    print(f"federated: {sum(rounds['paid'].values()) / 1e6:.6f} tokens for {rounds['rounds']} rounds were paid to, by the contract that held them,")
    for site, amount in rounds["paid"].items():
        print(f"  {site:6} {amount / 1e6:10.6f}   {shares[site]:5} of 10,000 parts")
    print(f"certificate: {out / 'papers.json'}, {bought['papers']['verdict']}; verified offline against the weights")
    alone = {site: found.aucs[frozenset({i})].auc for i, site in enumerate(SITES)}
    return {
        "alone": alone, "all": found.aucs[frozenset(range(len(SITES)))].auc, "federated": federated_auc.auc, "pooled": pooled_auc.auc,
        "shares": shares, "earned": earned, "paid": paid, "worth": digest(found.worth).hex(), "federated_root": rounds["state_root"],
        "pooled_root": bought["job"]["final_state_root"], "verdict": bought["papers"]["verdict"], "rounds": rounds["rounds"],
        "segments": len(bought["segments"]), "federated_paid": rounds["paid"],
    }  # fmt: skip


if __name__ == "__main__":
    main()
