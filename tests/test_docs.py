"""The pages say what is so: the training file that they show can be used, the folders and pages that they name are there, and the
commands that they tell people to type exist.
"""

from __future__ import annotations

import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from assay.cli.app import app

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHOWN = [page for page in PAGES if "```python" in page.read_text()]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language ("" for none), in order."""
    return [text for found, text in re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE) if found == language]


@pytest.mark.parametrize("page", SHOWN, ids=lambda page: page.name)
def test_the_training_file_that_is_shown_can_be_used(page: Path, tmp_path: Path) -> None:
    from assay.trace import trace
    from assay.training import load_training

    for code in blocks(page, "python"):
        train = tmp_path / "train.py"
        train.write_text(code)
        traced = trace(load_training(train))
        assert traced.schedule.shape[0] == 100


def test_folders_in_the_readme_are_there() -> None:
    (tree,) = (block for block in blocks(ROOT / "README.md", "") if block.startswith("assay/"))
    parent = ROOT
    for line in tree.splitlines():
        name = line.split()[0]
        parent = ROOT / "assay" if line.startswith("  ") else ROOT
        assert (parent / name).is_dir(), name
        assert len(line.split(maxsplit=1)[1]) > 10, f"{name} says nothing of itself"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target
    for name in re.findall(r"`((?:assay|worker|scheduler|verifier|contracts|docs|examples|tests|bench)/[\w./-]*)`", page.read_text()):
        assert (ROOT / name).exists(), name


@cache
def whole() -> Any:
    """All commands: they take a second to build."""
    return typer.main.get_command(app)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_are_shown_exist(page: Path) -> None:
    text = page.read_text()
    shown = [line for block in blocks(page, "") for line in block.splitlines() if line.startswith("assay ")]
    shown += re.findall(r"`(assay [^`]+)`", text)
    for line in dict.fromkeys(shown):
        command = whole()
        words = re.sub(r"\s#.*", "", line).split()[1:]
        for word in words:
            if not hasattr(command, "commands") or word.startswith("-"):
                break
            if word.isupper() or "|" in word:  # a placeholder: `assay ROLE status`, `assay net up|down`
                break
            assert word in command.commands, line
            command = command.commands[word]
        if not hasattr(command, "commands"):
            known = {option for parameter in command.params for option in parameter.opts}
            assert {word for word in words if word.startswith("--")} <= known | {"--help"}, line


@pytest.mark.parametrize("page", [page for page in PAGES if "::" in page.read_text()], ids=lambda page: page.name)
def test_tests_that_are_named_exist(page: Path) -> None:
    """Those of forge and of pytest, as `File.t.sol::test_name`; games, in quotes, are those of the vectors, liars those of the simulated network."""
    text = page.read_text()
    named = re.findall(r"`([\w.]+\.(?:sol|py))::(\w+)`", text)
    assert len(named) == text.count("::") > 0
    for file, test in named:
        (home,) = [*(ROOT / "contracts" / "test").rglob(file), *(ROOT / "tests").rglob(file)]
        assert re.search(rf"(?:def|function) {test}\(", home.read_text()), f"{file}::{test}"
    quoted = re.findall(r'"([^"|\n]+)"', text.partition("## Who has played them")[2].partition("Known and open")[0])
    written = (ROOT / "tests" / "vectors" / "games.py").read_text() + (ROOT / "tests" / "liars" / "links.py").read_text()
    assert not [name for name in quoted if f'"{name}"' not in written and name != "Games" and name != "sim"]


LIGHT = ("train.py", "examples/digits.py", "examples/cnn.py", "examples/shakespeare.py")
"""Training files that need nothing but what set-up brings; `train.py` is the one that the pages show."""


def bought() -> dict[tuple[str, int | None], dict[str, float]]:
    """What `assay submit` is shown with: file and steps, and by page the budget."""
    found: dict[tuple[str, int | None], dict[str, float]] = {}
    for page in [*PAGES, *sorted((ROOT / "examples").glob("*.py"))]:
        for line in re.findall(r"assay submit [^\n`#]+", page.read_text()):
            file, budget, steps = line.split()[2], re.search(r"--budget (\S+)", line), re.search(r"--steps (\d+)", line)
            if file in LIGHT and budget:
                found.setdefault((file, int(steps[1]) if steps else None), {})[page.name] = float(budget[1])
    return found


def test_budgets_that_are_shown_are_enough(tmp_path: Path) -> None:
    from assay.cli.jobs import _case, plan_of
    from assay.cli.submit import read_params

    shown = bought()
    assert {file for file, _ in shown} == set(LIGHT)
    (tmp_path / "train.py").write_text(blocks(ROOT / "README.md", "python")[0])
    for (file, steps), budgets in shown.items():
        plan, _ = plan_of(tmp_path / file if file == "train.py" else ROOT / file, steps, 0)
        case = _case(plan, read_params(None), None, 0.5, None)  # as submit reckons without options
        rounds = math.ceil(plan.steps / case.steps) * (1 + case.params.redraws)
        needed = 0.5 * plan.steps + rounds * case.params.verifiers * case.verifier_fee
        assert min(budgets.values()) >= needed, (file, steps, budgets)
