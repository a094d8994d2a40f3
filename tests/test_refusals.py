"""Every error of the dispute contracts is provoked by some test of contracts/test: its selector stands there as what a call must revert with."""

from __future__ import annotations

import re
from pathlib import Path

CONTRACTS = Path(__file__).resolve().parents[1] / "contracts"
TESTS = "\n".join(path.read_text() for path in sorted((CONTRACTS / "test").rglob("*.t.sol")))
SOURCES = [*sorted((CONTRACTS / "src" / "dispute").glob("*.sol")), CONTRACTS / "src" / "interfaces" / "IDisputes.sol"]


def errors() -> set[tuple[str, str]]:
    """(contract, library or interface; error)."""
    found = set()
    for path in SOURCES:
        home = ""
        for line in path.read_text().splitlines():
            if opened := re.match(r"(?:abstract )?(?:contract|library|interface) (\w+)", line):
                home = opened[1]
            if said := re.match(r"\s+error (\w+)\(", line):
                found.add((home, said[1]))
    return found


def test_every_error_is_provoked() -> None:
    assert len(errors()) > 30
    missing = {f"{home}.{name}" for home, name in errors() if not re.search(rf"\b{home}\.{name}\.selector", TESTS)}
    assert not missing, f"no test provokes {sorted(missing)}"


def test_every_error_is_raised() -> None:
    code = "\n".join(path.read_text() for path in sorted((CONTRACTS / "src").rglob("*.sol")))
    unused = {name for _, name in errors() if not re.search(rf"revert (\w+\.)?{name}\(", code)}
    assert not unused, f"nothing reverts with {sorted(unused)}"
