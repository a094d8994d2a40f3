"""Compiles the contracts and writes what Python needs of them (ABI and bytecode) to assay/_data/contracts, which is committed.

    python contracts/build.py            compile and write
    python contracts/build.py --check    compile and compare with what is committed; exit 1 and say which differ

The compiler's version and settings are in foundry.toml, and its output carries no metadata, so the bytes depend on the sources alone.
Jobs.json has the ABI of interfaces/IJobs.sol beside Jobs' own, because Jobs answers part of it through Segments, Checks and Escrow; likewise
Disputes.json that of IDisputeGame.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TOOLS = HERE.parent / ".tools" / "bin"
TARGET = HERE.parent / "assay" / "_data" / "contracts"
CONTRACTS = {
    "TestToken": "TestToken.sol",
    "Stakes": "Stakes.sol",
    "Segments": "Segments.sol",
    "Checks": "Checks.sol",
    "Escrow": "Escrow.sol",
    "Appeals": "Appeals.sol",
    "Jobs": "Jobs.sol",
    "ClearLeaf": "ClearLeaf.sol",
    "TableLeaf": "TableLeaf.sol",
    "Descent": "Descent.sol",
    "Verdict": "Verdict.sol",
    "Disputes": "Disputes.sol",
    "Datasets": "Datasets.sol",
    "Bounties": "Bounties.sol",
    "Receipts": "Receipts.sol",
    "Takeovers": "Takeovers.sol",
    "Sureties": "Sureties.sol",
    "Showings": "Showings.sol",
    "Federated": "Federated.sol",
}
WHOLE = {"Jobs": ("IJobs.sol", "IJobs"), "Disputes": ("IDisputes.sol", "IDisputeGame")}
"""Contracts that answer part of an interface through others: file and name of the interface."""
MOST_CODE = 24_576
"""Bytes of a contract, EIP-170."""


def forge() -> Path:
    """Where forge is. Raises SystemExit when it has not been installed."""
    found = TOOLS / "forge"
    if not found.exists():
        raise SystemExit("forge is not here; install it with: contracts/tools/install.sh")
    return found


def compile_all(tests: bool) -> dict[str, dict[str, Any]]:
    """Artifacts by contract: `abi`, `bytecode` (creation, hex with 0x). Raises SystemExit when the sources do not compile.

    With the tests, which `forge test` then need not compile: they hold the contracts, so that the compiler would do these twice.
    """
    without = [] if tests else ["--skip", "test"]
    env = {**os.environ, "PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([forge(), "build", "--quiet", *without], cwd=HERE, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"the contracts do not compile:\n{done.stdout}{done.stderr}")

    def artifact(file: str, contract: str) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((HERE / "out" / file / f"{contract}.json").read_text())
        return loaded

    built = {}
    for contract, file in CONTRACTS.items():
        made = artifact(file, contract)
        abi: list[dict[str, Any]] = made["abi"]
        if contract in WHOLE:
            own = {_signature(entry) for entry in abi}  # what it overrides it may promise more strictly
            abi = abi + [entry for entry in artifact(*WHOLE[contract])["abi"] if _signature(entry) not in own]
        size = (len(made["deployedBytecode"]["object"]) - 2) // 2
        if size > MOST_CODE:
            raise SystemExit(f"{contract} has {size} bytes of code; a contract may have {MOST_CODE}")
        built[contract] = {"abi": abi, "bytecode": made["bytecode"]["object"]}
    return built


def _signature(entry: dict[str, Any]) -> tuple[str, str, str]:
    return entry["type"], entry.get("name", ""), json.dumps(entry.get("inputs", []), sort_keys=True)


def render(artifact: dict[str, Any]) -> str:
    """JSON with one line for each entry of the ABI, so that a change of the interface reads well in a diff."""
    entries = sorted(json.dumps(entry, sort_keys=True, separators=(",", ":")) for entry in artifact["abi"])
    lines = ",\n".join(entries)
    return f'{{"abi":[\n{lines}\n],\n"bytecode":"{artifact["bytecode"]}"}}\n'


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print(__doc__)
        return 2
    texts = {f"{contract}.json": render(artifact) for contract, artifact in compile_all(tests=bool(arguments)).items()}
    if not arguments:
        TARGET.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (TARGET / name).write_text(text)
        print(f"wrote {', '.join(texts)} to {TARGET.relative_to(HERE.parent)}")
        return 0
    differ = [name for name, text in texts.items() if not (TARGET / name).exists() or (TARGET / name).read_text() != text]
    differ += sorted(path.name for path in TARGET.glob("*.json") if path.name not in texts)
    if differ:
        print(f"{', '.join(differ)} in {TARGET.relative_to(HERE.parent)} are not what the sources compile to; run: python contracts/build.py")
        return 1
    print(f"{', '.join(texts)} are what the sources compile to")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
