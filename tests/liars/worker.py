"""A worker that commits what it did not compute: the honest daemon with another engine (tests.liars.engine).

python -m tests.liars.worker start --rpc URL --contract ADDRESS --bootstrap MULTIADDR --data FOLDER [--price N] [--silent] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from assay.cli.common import settings
from assay.cli.node import Options, serve
from assay.cli.roles import LOCAL_STAKE


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("start", choices=["start"])
    for name in ("--rpc", "--contract", "--bootstrap"):
        parser.add_argument(name, required=True)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--price", type=int, default=50_000)
    parser.add_argument("--silent", action="store_true", help="serves its challenger nothing off chain")
    parser.add_argument("--json", action="store_true")
    told = parser.parse_args()
    where = settings(told.rpc, told.contract, told.bootstrap, told.data, "worker")
    options = Options(price=told.price, stake=LOCAL_STAKE["worker"], engine=(sys.executable, "-m", "tests.liars.engine", *["silent"] * told.silent))
    asyncio.run(serve("worker", where, options, as_json=told.json))


if __name__ == "__main__":
    main()
