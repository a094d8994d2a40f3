"""`assay worker doctor`, `assay verifier doctor`: what a node that has run may suffer from, told from its status and the end of its log.

The general look at the machine is that of `assay doctor` (assay.cli.doctor); this adds what only a node can have: no peers, no money for gas,
no stake that is free, a drain that was forgotten, prices that nobody pays, jobs that it refuses, segments that it lost, errors.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from assay.cli.beside import GAS_MONEY, this_version
from assay.cli.common import ENVIRONMENT, FAILED, Trouble, index_of, money, read_config, run, show
from assay.cli.doctor import DRIFT, Finding, examine, tell
from assay.cli.view.picture import entries, inner, plain, whole

SHOWN = 3
"""Errors, refused jobs and the like that are named."""


def findings(role: str, status: Mapping[str, Any], log: Sequence[Mapping[str, Any]], now: float) -> list[Finding]:
    """Of a node; `now`: seconds since 1970."""
    found = [_running(role, status)]
    if status.get("running"):
        found += [_chain(status, now), _peers(status)]
    found += _balance(role, status)
    if role == "worker":
        found += _work(status, log)
    return [*found, *_refused(status), *_lost(role, status), *_errors(log)]


def _running(role: str, status: Mapping[str, Any]) -> Finding:
    if status.get("running"):
        return Finding("daemon", True, f"process {whole(status, 'pid')}")
    return Finding("daemon", False, "it does not run", f"assay {role} start …; the end of log.jsonl in its folder tells why it has stopped")


def _chain(status: Mapping[str, Any], now: float) -> Finding:
    behind = int(now - whole(status, "chain_time"))
    if not status.get("chain_reachable", True):
        return Finding("the node's chain", False, "the chain's node does not answer it", "is it up, and is --rpc right? Windows wait for nobody")
    if behind > DRIFT:
        return Finding("the node's chain", False, f"its last block is {behind} s old", "the chain stands still, or this machine's clock is wrong")
    return Finding("the node's chain", True, f"block {whole(status, 'head')}, {max(0, behind)} s ago")


def _peers(status: Mapping[str, Any]) -> Finding:
    count = whole(status, "known_peers")
    next = "" if count else "is the bootstrap node up, and may this machine open connections? --bootstrap, --listen, --announce"
    return Finding("peers", count > 0, f"{count} are known", next)


def _balance(role: str, status: Mapping[str, Any]) -> list[Finding]:
    balance = inner(status, "balance")
    if not balance:
        return []
    account, gas = plain(status.get("account", "")), whole(balance, "native")
    stake, free = whole(balance, "stake"), whole(balance, "stake") - whole(balance, "reserved")
    found = [Finding("gas", gas >= GAS_MONEY, f"{gas / 10**18:.4f}", "" if gas >= GAS_MONEY else f"send some of the chain's own coin to {account}")]
    detail = f"{money(stake)}, of which {money(free)} are free"
    next = "" if free > 0 else f"no bond can be covered: wait until segments have settled, or start it with a higher --stake ({role})"
    return [*found, Finding("stake", free > 0, detail, next)]


def _work(status: Mapping[str, Any], log: Sequence[Mapping[str, Any]]) -> list[Finding]:
    found = []
    if status.get("draining"):
        paused: Mapping[str, Any] = next((entry for entry in reversed(log) if entry.get("topic") in ("paused", "resumed")), {})
        why = plain(paused.get("text", "")) if paused.get("topic") == "paused" else "its owner has drained it"
        found.append(Finding("work", None, f"it takes nothing new: {why}", "assay worker resume"))
    cheap = entries(status, "too_cheap")
    if cheap:
        best = max(cheap, key=lambda entry: whole(entry, "cap"))
        pays, asks = money(whole(best, "cap")), money(whole(best, "asked"))
        detail = f"{len(cheap)} jobs pay less than it asks; the best of them {pays} a step, where it asks {asks}"
        found.append(Finding("price", None, detail, "a lower --price or --price-per-tera, or patience"))
    return found


def _refused(status: Mapping[str, Any]) -> list[Finding]:
    refused = inner(status, "refused_jobs")
    if not refused:
        return []
    named = "; ".join(f"job {plain(job, 20)}: {plain(why)}" for job, why in list(refused.items())[-SHOWN:])
    return [Finding("jobs", None, f"{len(refused)} are refused: {named}")]


def _lost(role: str, status: Mapping[str, Any]) -> list[Finding]:
    ends = inner(status, "ends")
    bad = {end: whole(ends, end) for end in ("lapsed", "withheld", "unpaid", "rejected") if whole(ends, end)}
    if not bad and not whole(status, "absent"):
        return []
    counts = [f"{count} {end}" for end, count in bad.items()]
    counts += [f"{whole(status, 'absent')} draws missed"] if whole(status, "absent") else []
    advice = f"assay {role} receipts tells why; `withheld` and `rejected` mean other bits: assay doctor --conformance"
    return [Finding("record", None, f"{', '.join(counts)}; {whole(ends, 'settled')} settled", advice)]


def _errors(log: Sequence[Mapping[str, Any]]) -> list[Finding]:
    last = {plain(entry.get("text", "")): None for entry in log if entry.get("topic") == "error"}
    return [Finding("log", None, text) for text in list(last)[-SHOWN:]]


def _version(index: str) -> list[Finding]:
    """Whether there is a newer one, where an index is named."""
    if not index:
        return []
    from assay.adapters import releases

    try:
        text = releases.news(this_version(), run(releases.ask(index)))
    except releases.NoIndex as error:
        return [Finding("version", None, f"{this_version()}; whether there is a newer one is not known: {index}: {error}")]
    return [Finding("version", None if text else True, text or f"{this_version()}, and no newer one is out")]


def doctor(role: str, data: Path, rpc: str | None, contract: str | None, bootstrap: str | None, index: str | None, json_: bool) -> int:
    """Looks at the machine and at the node on `data`, tells what it finds, and returns the exit code."""
    from assay.cli.folder import read_status
    from assay.cli.view.seen import tail

    kept = read_config()
    found = examine(rpc or kept.get("rpc"), contract or kept.get("contract"), bootstrap or kept.get("bootstrap"), data)
    try:
        found += findings(role, read_status(data), tail(data / "log.jsonl"), time.time())
    except Trouble as trouble:
        found.append(Finding("daemon", None, trouble.what, trouble.next))
    except json.JSONDecodeError as error:
        found.append(Finding("daemon", False, f"status.json cannot be read: {error}", "remove it; the daemon writes it anew"))
    found += _version(index_of(index))
    bad = [finding for finding in found if finding.good is False]
    if json_:
        show({"good": not bad, "findings": [finding._asdict() for finding in found]})
    else:
        tell(found)
    outside = any(finding.what in ("chain", "bootstrap", "the node's chain") for finding in bad)
    return (ENVIRONMENT if outside else FAILED) if bad else 0
