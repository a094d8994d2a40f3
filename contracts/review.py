"""Static analysis and symbolic proofs of the contracts: `make review`.

    python contracts/review.py              both
    python contracts/review.py slither      every finding must be answered in contracts/review.toml, and every answer must have a finding
    python contracts/review.py halmos       every `check_` function of contracts/proofs holds for all inputs

Slither and halmos are installed once, from PyPI, into .tools/review (400 MB, mostly Z3; REVIEW_TOOLS names another folder): they are no
part of the project's environment.
Slither: Feist, Grieco, Groce, "Slither: A Static Analysis Framework for Smart Contracts", WETSEB 2019.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TOOLS = HERE.parent / ".tools"
PACKAGES = ("slither-analyzer==0.11.6", "halmos==0.3.3")
SOLVER_MS = 120_000


def installed() -> Path:
    """The folder with the two programs; installs them when they are missing."""
    home = Path(os.environ.get("REVIEW_TOOLS", TOOLS / "review"))
    if not (home / "bin" / "halmos").exists():
        print(f"installing {' and '.join(PACKAGES)} into {home}", flush=True)
        venv.create(home, with_pip=True, clear=True)
        subprocess.run([home / "bin" / "pip", "install", "--quiet", *PACKAGES], check=True)
    return home / "bin"


def environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{TOOLS}{os.pathsep}{TOOLS / 'bin'}{os.pathsep}{os.environ['PATH']}"}


def workshop(folder: Path, source: str, tests: str) -> Path:
    """A copy of the contracts to compile with what the tools want beside the code, so that forge's own cache stays as it is."""
    home = folder / "contracts"
    for name in ("src", "proofs", "tools"):
        shutil.copytree(HERE / name, home / name)
    text = (HERE / "foundry.toml").read_text()
    text = re.sub(r'(?m)^src = .*$', f'src = "{source}"', text)
    (home / "foundry.toml").write_text(re.sub(r'(?m)^test = .*$', f'test = "{tests}"', text))
    shutil.copy(HERE / "package.json", home)
    (home / "node_modules").symlink_to((HERE / "node_modules").resolve())
    (folder / ".tools").symlink_to(TOOLS.resolve())
    return home


def run(command: list[str | Path], home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=home, env=environment(), capture_output=True, text=True, check=False)


# ---- slither -----------------------------------------------------------------------------------------------------------------


def places(finding: dict[str, Any]) -> str:
    """`file:name` of what a finding is about first."""
    first = next((e for e in finding["elements"] if e["type"] != "node"), finding["elements"][0])
    return f"{Path(first['source_mapping']['filename_relative']).as_posix()}:{first['name']}"


def unanswered(findings: list[dict[str, Any]], answers: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """(findings without an answer, answers without a finding). An answer is for a check, in the places that match `where` (a regular
    expression), and says why it is no fault."""
    used, open_ = Counter[int](), []
    for finding in findings:
        where = places(finding)
        found = [i for i, a in enumerate(answers) if a["check"] == finding["check"] and re.search(a.get("where", ""), where)]
        used.update(found)
        if not found:
            open_.append(f"{finding['impact']}: {finding['check']} at {where}\n  {finding['description'].strip()}")
    stale = [f"{a['check']} at {a.get('where', 'any place')}" for i, a in enumerate(answers) if not used[i]]
    return open_, stale


def slither(tools: Path, folder: Path) -> int:
    home = workshop(folder, "src", "proofs")
    built = run(["forge", "build", "--build-info", "--skip", "proofs"], home)
    if built.returncode:
        sys.exit(f"the contracts do not compile:\n{built.stdout}{built.stderr}")
    out = folder / "slither.json"
    others = ["--ignore-compile", "--foundry-out-directory", "out", "--filter-paths", "node_modules|proofs"]
    done = run([tools / "slither", ".", *others, "--json", out], home)
    if not out.exists():
        sys.exit(f"slither did not run:\n{done.stderr[-2000:]}")
    findings = json.loads(out.read_text())["results"].get("detectors", [])
    answers = tomllib.loads((HERE / "review.toml").read_text())["answer"]
    open_, stale = unanswered(findings, answers)
    for text in open_:
        print(f"not answered: {text}")
    for text in stale:
        print(f"an answer to nothing: {text}")
    print(f"slither: {len(findings)} findings, {len(findings) - len(open_)} answered in contracts/review.toml")
    return bool(open_ or stale)


# ---- halmos ------------------------------------------------------------------------------------------------------------------


def halmos(tools: Path, folder: Path) -> int:
    home = workshop(folder, "src", "proofs")
    done = run([tools / "halmos", "--forge-build-out", "out", "--solver-timeout-assertion", str(SOLVER_MS), "--no-status"], home)
    lines = [re.sub(r"\x1b\[\d+m", "", line) for line in done.stdout.splitlines()]
    passed = [line for line in lines if line.startswith("[PASS]")]
    print("\n".join(line for line in lines if line.startswith("[")))
    wanted = sum(len(re.findall(r"function check_", path.read_text())) for path in (HERE / "proofs").glob("*.sol"))
    print(f"halmos: {len(passed)} of {wanted} proofs")
    if done.returncode or len(passed) != wanted:
        print(done.stdout[-3000:] + done.stderr[-3000:])
        return 1
    return 0


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["slither"], ["halmos"]):
        print((__doc__ or "").strip(), file=sys.stderr)
        return 2
    tools, wrong = installed(), 0
    for name, review in (("slither", slither), ("halmos", halmos)):
        if not arguments or arguments == [name]:
            with tempfile.TemporaryDirectory() as folder:
                wrong |= review(tools, Path(folder))
    return wrong


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
