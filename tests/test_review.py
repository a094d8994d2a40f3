"""The answers to the findings of the static analysis (contracts/review.py, contracts/review.toml). Slither itself runs in `make review`."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from typing import Any

HOME = Path(__file__).resolve().parents[1] / "contracts"


def load() -> Any:
    spec = importlib.util.spec_from_file_location("review", HOME / "review.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def finding(check: str, path: str, name: str) -> dict[str, Any]:
    elements = [{"type": "node", "name": "x = 1", "source_mapping": {"filename_relative": path}}]
    elements.append({"type": "function", "name": name, "source_mapping": {"filename_relative": path}})
    return {"check": check, "impact": "High", "description": "says so\n", "elements": elements}


def test_a_finding_is_answered_where_it_is() -> None:
    review = load()
    found = [finding("reentrancy", "src/A.sol", "pay"), finding("reentrancy", "src/B.sol", "pay"), finding("timestamp", "src/A.sol", "pay")]
    answers = [{"check": "reentrancy", "where": "^src/A.sol:pay$", "why": "."}, {"check": "timestamp", "why": "."}]
    unanswered, stale = review.unanswered(found, answers)
    assert len(unanswered) == 1
    assert "reentrancy at src/B.sol:pay" in unanswered[0]
    assert not stale


def test_an_answer_to_nothing_is_stale() -> None:
    review = load()
    unanswered, stale = review.unanswered([finding("timestamp", "src/A.sol", "pay")], [{"check": "timestamp", "where": "B.sol", "why": "."}])
    assert len(unanswered) == 1
    assert stale == ["timestamp at B.sol"]
    assert review.unanswered([], []) == ([], [])


def test_every_answer_says_why_and_is_of_one_place() -> None:
    answers = tomllib.loads((HOME / "review.toml").read_text())["answer"]
    assert answers
    for answer in answers:
        assert set(answer) == {"check", "where", "why"}
        assert answer["where"].startswith("^")
        assert answer["why"].endswith(".")
        re.compile(answer["where"])
