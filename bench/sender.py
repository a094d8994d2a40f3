# Measures: transactions per second of the EVM sender, each simulated, journaled to disk (fsync) before broadcast and confirmed by its
# receipt: many callers at once, and one caller that waits for each; and calls per second of the chain in memory.
# Against: in the same run, on the same anvil, a burst of eth_sendRawTransaction with transactions that were signed beforehand,
# without journal and simulation, one per request and 50 per request, until the last is mined.
# Goal: with many callers at least half of the plain burst (a node with one account never waits for its sender); in memory over 5,000.
"""Run: python bench/sender.py [--quick] [--json] [--count N] [--runs N]"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from eth_account import Account
from eth_account.signers.local import LocalAccount
from web3 import Web3

from assay.adapters.evm import EvmChain
from assay.adapters.evm_abi import calldata
from assay.adapters.evm_rpc import Rpc, number
from assay.adapters.memory_chain import MemoryLedger
from assay.chain import CallId, Register
from assay.ids import Address, PeerId
from assay.localnet.anvil import Anvil, Network, deploy, faucet
from assay.merkle import sha256

CALL = Register(encryption_key=b"k" * 32, peer=PeerId("12D3KooWBmZGyCwzFw4ru1ygzFQSvRkrFzvZKPnkZ3PT9Z3PLZZZ"))


def fresh(network: Network, name: str) -> LocalAccount:
    signer: LocalAccount = Account.from_key(sha256(name.encode(), network.jobs.encode()))
    faucet(network, Address(signer.address.lower()), 0)
    return signer


async def burst(network: Network, name: str, count: int, at_once: int) -> float:
    """Seconds from the first broadcast to the last receipt; `at_once` transactions in a request."""
    signer, rpc = fresh(network, name), Rpc(network.url)
    fields: dict[str, Any] = {
        "type": 2, "chainId": network.chain_id, "to": Web3.to_checksum_address(network.stakes), "data": calldata(CALL)[1], "value": 0,
        "gas": 150_000, "maxFeePerGas": 10**11, "maxPriorityFeePerGas": 10**9,
    }  # fmt: skip
    signed = [signer.sign_transaction({**fields, "nonce": nonce}) for nonce in range(count)]
    raw = ["0x" + bytes(one.raw_transaction).hex() for one in signed]
    await rpc.head()
    started = time.perf_counter()
    for start in range(0, count, at_once):
        if at_once == 1:
            await rpc.call("eth_sendRawTransaction", raw[start])
        else:
            await rpc.batch([("eth_sendRawTransaction", [one]) for one in raw[start : start + at_once]])
    while number(await rpc.call("eth_getTransactionCount", signer.address, "latest")) < count:  # noqa: ASYNC110 (the chain's)
        await asyncio.sleep(0.005)
    took = time.perf_counter() - started
    await rpc.close()
    return took


async def sender(network: Network, name: str, count: int, folder: Path, together: bool) -> float:
    chain = await EvmChain.open(network.url, network.jobs, fresh(network, name), folder / f"{name}.sqlite")
    started = time.perf_counter()
    if together:
        await asyncio.gather(*(chain.send(CallId(f"call {i}"), CALL) for i in range(count)))
    else:
        for i in range(count):
            await chain.send(CallId(f"call {i}"), CALL)
    took = time.perf_counter() - started
    await chain.close()
    return took


def memory(count: int) -> float:
    ledger = MemoryLedger()
    accounts = [ledger.account(f"account {i}") for i in range(1000)]
    started = time.perf_counter()
    for i in range(count):
        ledger.send(accounts[i % 1000], CallId(f"call {i}"), CALL)
        if i % 50 == 0:
            ledger.mine()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="100 transactions once instead of 500 five times")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    parser.add_argument("--count", type=int)
    parser.add_argument("--runs", type=int)
    args = parser.parse_args()
    count, runs = args.count or (100 if args.quick else 500), args.runs or (1 if args.quick else 5)
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, Anvil() as anvil:
        network = deploy(anvil.url)
        asyncio.run(sender(network, "warm-up", 10, Path(folder), True))
        for run in range(runs):  # interleaved, so that a busy machine is busy for all of them
            for what, seconds in {
                "raw burst": burst(network, f"raw {run}", count, 1),
                "raw burst, 50 a request": burst(network, f"batch {run}", count, 50),
                "sender, all at once": sender(network, f"many {run}", count, Path(folder), True),
                "sender, one by one": sender(network, f"single {run}", count, Path(folder), False),
            }.items():
                rates.setdefault(what, []).append(count / asyncio.run(seconds))
            rates.setdefault("chain in memory", []).append(20 * count / memory(20 * count))
    middle = {what: statistics.median(found) for what, found in rates.items()}
    for what, rate in middle.items():
        print(f"{what:26} {rate:8.0f} /s   ({min(rates[what]):.0f} to {max(rates[what]):.0f})")
    share = middle["sender, all at once"] / middle["raw burst"]
    print(f"{'sender / raw burst':26} {share:8.2f}")
    if args.json:
        report = {
            "bench": "sender", "transactions": count, "runs": runs, "cpus": os.cpu_count(), "machine": platform.machine(),
            "raw_per_s": round(middle["raw burst"], 1), "raw_batched_per_s": round(middle["raw burst, 50 a request"], 1),
            "sender_per_s": round(middle["sender, all at once"], 1), "sender_one_by_one_per_s": round(middle["sender, one by one"], 1),
            "sender_to_raw": round(share, 3), "memory_per_s": round(middle["chain in memory"], 1),
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }  # fmt: skip
        print(json.dumps(report))


if __name__ == "__main__":
    main()
