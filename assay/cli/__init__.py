"""The `assay` command. Nothing heavy is imported until a command needs it, so that help and completion answer at once."""

from __future__ import annotations

import gc


def main() -> None:
    """Entry point of the console script."""
    gc.set_threshold(20_000, 20, 20)  # a node starts with two thousand modules; looking for garbage among them takes a third of that time
    from assay.cli.app import app

    app(prog_name="assay")
