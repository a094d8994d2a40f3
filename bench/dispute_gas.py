# Measures the gas of a dispute at the size of a training step of a billion parameters (a trace of 2^16 leaves, tensors of 2^22 chunks, a fold
# of 2^16 items, 2^10 links), each move a transaction of its own with its calldata, and of an undisputed segment under the policy as it comes
# (three verifiers, two links, one opening, all honest and in time). Settlement: all transactions from the first seal to the money paid, that is
# seals, reveals with their openings (the last one decides), settle; intrinsic gas and calldata included, EIP-7623's floor for settlement
# (never reached), too. Batched: one transaction of seals, one of reveals. Alone: every verifier posts its own. Life: from assign to settle,
# batched. In a network that runs; "first" is the first segment of all, whose words are all new. Traces of 5 and 9 leaves, and of 1024.
# "At once": of 1, 4 and 8 segments of one provider, each of another job, which share their three transactions (Jobs.batch), among 24
# verifiers, gas a segment.
# Committees of several sizes from the draw to the settlement, too.
# Forge runs contracts/test/DisputeGas.t.sol, Gas.t.sol and Policies.t.sol; the two real leaves decide, and EIP-7623's floor is counted in a
# dispute, too.
# Goals: each side under 1.2 M with every level opened on chain, under 600 k over nodes that were served off chain, no move over 500 k;
# settlement under 200 k batched, under 450 k when everybody posts alone.
#
#     python bench/dispute_gas.py [--quick] [--json]
from __future__ import annotations

import argparse
import json
import os
import subprocess
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parent.parent
CONTRACTS = TOP / "contracts"
BATCHED = ("attest, 3 seals", "reveal, 3 votes and openings", "settle")
ALONE = tuple(f"alone: {call}" for call in ("attest 1", "attest 2", "attest 3", "reveal 1", "reveal 2", "reveal 3", "settle"))
BEFORE = ("assign", "activate", "commit, 12 links", "draw", "release, 3 keys", "served, 3 receipts")
DEEP = "1024 leaves: "
SETTLEMENTS = {
    "settlement_batched": BATCHED,
    "settlement_alone": ALONE,
    "settlement_batched_first": tuple(f"first: {call}" for call in BATCHED),
    "settlement_batched_1024_leaves": tuple(DEEP + call for call in BATCHED),
    "settlement_alone_1024_leaves": tuple(DEEP + call for call in ALONE),
    "life_batched": BEFORE + BATCHED,
}
"""Sums: the transactions of each."""
SHARED = (1, 4, 8)
"""Segments of one provider, each of another job, whose seals, votes and settlements share a transaction each."""


def measure() -> dict[str, dict[str, int]]:
    """Gas by call, of disputes and of jobs. Raises CalledProcessError when forge fails."""
    tools = TOP / ".tools" / "bin"
    env = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "FORGE_SNAPSHOT_CHECK": "false"}
    command = [tools / "forge", "test", "--match-contract", "DisputeGasTest|^Gas|PoliciesTest"]
    subprocess.run(command, cwd=CONTRACTS, env=env, check=True, stdout=subprocess.DEVNULL)
    read = {name: json.loads((CONTRACTS / "snapshots" / f"{name}.json").read_text()) for name in ("Disputes", "Jobs", "Policies")}
    return {name: {call: int(gas) for call, gas in calls.items()} for name, calls in read.items()}


def paid(jobs: dict[str, int], call: str) -> int:
    """What a transaction costs: its gas, at least the floor for its calldata where that was taken."""
    return max(jobs[call], jobs.get(f"floor: {call}", 0))


def shared(jobs: dict[str, int], segments: int) -> int:
    """Gas of one of so many segments that are settled together."""
    return sum(jobs[f"{segments} segments: {call}"] for call in ("attest", "reveal", "settle")) // segments


def summary(gas: dict[str, dict[str, int]]) -> dict[str, Any]:
    disputes = gas["Disputes"]
    moves = {call: used for call, used in disputes.items() if not call.startswith("total")}
    return {
        "totals": {call.removeprefix("total: "): used for call, used in disputes.items() if call.startswith("total")},
        "moves": moves,
        "dearest_move": max(moves.values()),
        **{name: sum(paid(gas["Jobs"], call) for call in calls) for name, calls in SETTLEMENTS.items()},
        **{f"settlement_{n}_at_once": shared(gas["Jobs"], n) for n in SHARED},
        "jobs": gas["Jobs"],
        "committees": gas["Policies"],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="the same: gas does not vary")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = summary(measure())
    for name in ("totals", "moves"):
        for call, used in sorted(found[name].items(), key=lambda item: -item[1]):
            print(f"{call:45} {used:>10,}")
    for name in (*SETTLEMENTS, *(f"settlement_{n}_at_once" for n in SHARED)):
        print(f"{name.replace('_', ' '):45} {found[name]:>10,}")
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
