"""A verifier that denies what it has been served: the honest daemon with another machine (tests.liars.verifiers: Denies).

python -m tests.liars.verifier start --rpc URL --contract ADDRESS --bootstrap MULTIADDR --data FOLDER [--json]
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

import assay_verifier.daemon
from assay.cli.common import settings
from assay.cli.node import Options, serve
from assay.cli.roles import LOCAL_STAKE
from tests.liars.verifiers import Denies


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("start", choices=["start"])
    for name in ("--rpc", "--contract", "--bootstrap"):
        parser.add_argument(name, required=True)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--json", action="store_true")
    told = parser.parse_args()
    assay_verifier.daemon.VerifierMachine = Denies  # type: ignore[misc]
    where = settings(told.rpc, told.contract, told.bootstrap, told.data, "verifier")
    asyncio.run(serve("verifier", where, Options(stake=LOCAL_STAKE["verifier"]), as_json=told.json))


if __name__ == "__main__":
    main()
