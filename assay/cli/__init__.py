"""The `assay` command. Nothing heavy is imported until a command needs it, so that help and completion answer at once."""

from __future__ import annotations


def main() -> None:
    """Entry point of the console script."""
    from assay.cli.app import app

    app(prog_name="assay")
