"""`assay worker view`, `assay verifier view`: a node, live, in a terminal.

    seen     what there is to show: the daemon's status, the end of its log, this machine's hardware
    picture  words for it: rows and lines of text, pure
    screen   where they stand, and the keys (textual)

The view reads the files of the node's folder as `assay ROLE status` does; it works beside a running daemon, and shows the last status of one
that has ended. It sends nothing but the owner's orders.
"""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from assay.cli.common import FAILED, USAGE, Trouble

if TYPE_CHECKING:
    from assay.cli.view.screen import View

FONTS = re.compile(r"@font-face \{.*?\}", re.DOTALL)
"""What a picture would fetch from elsewhere when it is looked at."""
SIZE = (150, 46)
"""Columns and rows of a picture in a file."""


def open_view(role: str, data: Path, svg: Path | None = None) -> None:
    """Shows the node on `data` until its owner quits; or writes one picture to `svg`. Raises Trouble."""
    from assay.cli.folder import give_order
    from assay.cli.view.screen import View
    from assay.cli.view.seen import look

    look(data)  # that no node ever ran here is told before the screen is taken
    app = View(role, lambda: look(data), lambda order: give_order(data, order))
    if svg is not None:
        svg.write_text(asyncio.run(picture_of(app)))
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Trouble("a live view needs a terminal", "this is none", f"assay {role} status --json, or --svg FILE for one picture", USAGE)
    app.run()
    if app.return_code:
        raise Trouble("the view has ended", "its last words stand above", f"assay {role} status", FAILED)


async def picture_of(app: View) -> str:
    """One picture of a view, SVG."""
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        return FONTS.sub("", app.export_screenshot())
