# Writes docs/plots/view-worker.svg and view-verifier.svg: the live view over what two nodes of a demo left (tests/vectors/nodes), without the
# hardware of the machine that this runs on. `python tools/view_pictures.py`
from __future__ import annotations

import asyncio
import json
from pathlib import Path

from assay.cli.view import picture_of
from assay.cli.view.screen import View
from assay.cli.view.seen import Seen, tail

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    for role in ("worker", "verifier"):
        node = ROOT / "tests" / "vectors" / "nodes" / role
        seen = Seen({"running": True, **json.loads((node / "status.json").read_text())}, tail(node / "log.jsonl"), None, ())
        view = View(role, lambda seen=seen: seen, lambda order: None)  # type: ignore[misc]
        (ROOT / "docs" / "plots" / f"view-{role}.svg").write_text(asyncio.run(picture_of(view)))


if __name__ == "__main__":
    main()
