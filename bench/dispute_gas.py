# Measures the gas of a dispute at the size of a training step of a billion parameters (a trace of 2^16 leaves, tensors of 2^22 chunks, a fold
# of 2^16 items, 2^10 links), each move a transaction of its own with its calldata, of the calls that settle an undisputed segment with
# three verifiers, and of committees of several sizes from the draw to the settlement. Forge runs contracts/test/DisputeGas.t.sol, Gas.t.sol and
# Policies.t.sol; the two real leaves decide, and the calldata floor of EIP-7623 is counted in a dispute.
# Goals: each side under 1.2 M with every level opened on chain, under 600 k over nodes that were served off chain, no move over 500 k;
# settlement under 200 k with batched attestations, under 450 k when everybody posts alone.
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
BATCHED = {"attest, 3 seals": 1, "reveal, 3 votes": 1, "open, 2 leaves": 3, "decide": 1, "settle": 1}
"""Calls after a segment is served, and how often each is made."""


def measure() -> dict[str, dict[str, int]]:
    """Gas by call, of disputes and of jobs. Raises CalledProcessError when forge fails."""
    tools = TOP / ".tools" / "bin"
    env = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "FORGE_SNAPSHOT_CHECK": "false"}
    command = [tools / "forge", "test", "--match-contract", "DisputeGasTest|^GasTest|PoliciesTest"]
    subprocess.run(command, cwd=CONTRACTS, env=env, check=True, stdout=subprocess.DEVNULL)
    read = {name: json.loads((CONTRACTS / "snapshots" / f"{name}.json").read_text()) for name in ("Disputes", "Jobs", "Policies")}
    return {name: {call: int(gas) for call, gas in calls.items()} for name, calls in read.items()}


def summary(gas: dict[str, dict[str, int]]) -> dict[str, Any]:
    disputes = gas["Disputes"]
    moves = {call: used for call, used in disputes.items() if not call.startswith("total")}
    return {
        "totals": {call.removeprefix("total: "): used for call, used in disputes.items() if call.startswith("total")},
        "moves": moves,
        "dearest_move": max(moves.values()),
        "settlement_batched": sum(gas["Jobs"][call] * times for call, times in BATCHED.items()),
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
    print(f"{'settlement, batched (seals to settle)':45} {found['settlement_batched']:>10,}")
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
