"""Every refusal of the contracts is provoked by some test of contracts/test: the selector of each error stands there as what a call must revert
with, and
each text of the errors that have one, at least as often as the sources have it. What the dispute's machine refuses: test_dispute_refusals.py."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

CONTRACTS = Path(__file__).resolve().parents[1] / "contracts"
TESTS = "\n".join(path.read_text() for path in sorted((CONTRACTS / "test").rglob("*.t.sol")))
SOURCES = {path: path.read_text() for path in sorted((CONTRACTS / "src").rglob("*.sol"))}
CODE = "\n".join(SOURCES.values())


def errors() -> set[tuple[str, str]]:
    """(contract, library or interface; error)."""
    found = set()
    for text in SOURCES.values():
        home = ""
        for line in text.splitlines():
            if opened := re.match(r"(?:abstract )?(?:contract|library|interface) (\w+)", line):
                home = opened[1]
            if said := re.match(r"\s+error (\w+)\(", line):
                found.add((home, said[1]))
    return found


def test_every_error_is_provoked() -> None:
    assert len(errors()) > 100
    missing = {f"{home}.{name}" for home, name in errors() if not re.search(rf"\b{home}\.{name}\.selector", TESTS)}
    assert not missing, f"no test provokes {sorted(missing)}"


def test_every_error_is_raised() -> None:
    unused = {name for _, name in errors() if not re.search(rf"revert (\w+\.)?{name}\(", CODE)}
    assert not unused, f"nothing reverts with {sorted(unused)}"


TEXTS = r'\b(?:revert (?:\w+\.)?\w+|need|within|_needBelow|_needBefore)\([^;{}]*?"([^"]+)"'
"""An error's or a helper's text, which is the only one in it."""


def texts() -> Counter[str]:
    """Texts and names that the sources put into errors, and how many refusals of theirs have each."""
    return Counter(re.findall(TEXTS, CODE))


def test_every_text_is_provoked() -> None:
    assert len(texts()) > 60
    said = Counter(re.findall(r'"([^"\n]+)"', TESTS))
    missing = {text: times for text, times in texts().items() if said[text] < times}
    assert not missing, f"no test provokes {missing}"
