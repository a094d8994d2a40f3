"""Rules of the code base that a reader may rely on, kept by reading every module's syntax tree (nothing is imported here, except in
the last tests, which import in a fresh process and look at what came along).

A module may import from its own layer and from those below it:

    base         assay.ids assay.codec assay.merkle
    table        assay.exact.{types,table}
    vocabulary   what is shared: messages, chain, job, program, ports, the exact engine, sealing, ...
    machines     the roles' pure machines
    daemons      the roles' daemons, the generic node, the client
    adapters     the outside (EVM, IPFS, libp2p, SQLite, processes): they know the vocabulary and nothing above it
    composition  assay.cli, assay.localnet, assay.sim: the only ones that put adapters and daemons together

Two roles never import each other, and torch is imported by TORCH_USERS alone.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HOMES = {"assay": ROOT, "assay_worker": ROOT / "worker", "assay_scheduler": ROOT / "scheduler", "assay_verifier": ROOT / "verifier"}
ROLES = ("assay_worker", "assay_scheduler", "assay_verifier", "assay.keyservice")
BASE, TABLE, VOCABULARY, MACHINES, DAEMONS, COMPOSITION, ADAPTERS = range(7)
MAY_IMPORT = {
    BASE: {BASE},
    TABLE: {BASE, TABLE},
    VOCABULARY: {BASE, TABLE, VOCABULARY},
    MACHINES: {BASE, TABLE, VOCABULARY, MACHINES},
    DAEMONS: {BASE, TABLE, VOCABULARY, MACHINES, DAEMONS},
    ADAPTERS: {BASE, TABLE, VOCABULARY, ADAPTERS},
    COMPOSITION: {BASE, TABLE, VOCABULARY, MACHINES, DAEMONS, ADAPTERS, COMPOSITION},
}
HEAVY = ("torch", "web3", "libp2p", "ray", "trio", "eth_account", "sklearn", "shakespeare", "pyarrow", "PIL")
TORCH_USERS = ("assay.trace", "assay.forward", "assay.entries", "assay.replay", "assay.training", "assay.finetune.methods", "assay.finetune.losses")
LONGEST = 400


def modules() -> dict[str, Path]:
    """Every module of the product by its dotted name."""
    found = {}
    for package, home in HOMES.items():
        for path in sorted((home / package).rglob("*.py")):
            parts = path.relative_to(home).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def layer(module: str) -> int:
    last = module.rsplit(".", 1)[-1]
    if module in ("assay", "assay.ids", "assay.codec", "assay.merkle"):
        return BASE
    if module in ("assay.exact.table", "assay.exact.types"):
        return TABLE
    if module.startswith(("assay.cli", "assay.localnet", "assay.sim")):
        return COMPOSITION
    if module.startswith("assay.adapters"):
        return ADAPTERS
    if module.startswith(ROLES):
        return DAEMONS if last == "daemon" else MACHINES
    return DAEMONS if module in ("assay.daemon", "assay.client") else VOCABULARY


def imports(path: Path, at_import_time: bool = False) -> set[str]:
    """Absolute names that a module imports; with `at_import_time`, only those that run when it is imported itself."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if at_import_time and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found.update(f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in MODULES else node.module for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree(path))
    return found


def ours(names: set[str]) -> set[str]:
    return {name for name in names if name.split(".")[0] in HOMES}


def role(module: str) -> str | None:
    return next((name for name in ROLES if module == name or module.startswith(name + ".")), None)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_only_from_below(module: str) -> None:
    for target in sorted(ours(imports(MODULES[module]))):
        assert layer(target) in MAY_IMPORT[layer(module)], f"{module} may not import {target}: see the layers in {Path(__file__).name}"
        if role(module) and role(target):
            assert role(module) == role(target), f"{module} imports {target}: roles meet through messages only"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_heavy_packages_stay_where_they_belong(module: str) -> None:
    heavy = {name.split(".")[0] for name in imports(MODULES[module], at_import_time=True)} & set(HEAVY)
    if module in TORCH_USERS:
        heavy -= {"torch"}
    if layer(module) == ADAPTERS:
        heavy -= {"web3", "libp2p", "trio", "eth_account", "ray"}
    assert not heavy, f"{module} imports {', '.join(sorted(heavy))} when it is imported: import it in the function that needs it"
    anywhere = {name.split(".")[0] for name in imports(MODULES[module])}
    assert "torch" not in anywhere or module in TORCH_USERS or layer(module) == COMPOSITION, f"{module} imports torch"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_every_module_says_its_rule(module: str) -> None:
    text = MODULES[module].read_text()
    doc = ast.get_docstring(tree(MODULES[module])) or ""
    assert doc or not text.strip(), f"{module} has no docstring: give its rule or theory"
    lines = text.count("\n")
    assert lines <= LONGEST or "One file because" in doc, f"{module} has {lines} lines: split it, or argue in its docstring ('One file because ...')"


def test_tests_and_benches_open_with_what_they_are_about() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for folder in ("tests", "bench", "examples")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path.read_text().strip() and not ast.get_docstring(tree(path)) and not path.read_text().startswith("#")
    ]
    assert not silent


def loaded_after(statement: str) -> set[str]:
    """Top-level packages in a fresh interpreter after `statement`."""
    code = f"{statement}\nimport sys; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    path = os.pathsep.join(str(home) for home in dict.fromkeys(HOMES.values()))
    out = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=120)
    assert out.returncode == 0, out.stderr
    return set(out.stdout.split())


LIGHT = ["assay.cli", "assay.execute", "assay.exact", "assay.daemon", "assay.client", "assay_worker.machine", "assay_verifier.machine"]


@pytest.mark.parametrize("module", LIGHT)
def test_a_light_import_stays_light(module: str) -> None:
    """A GPU machine without libp2p, web3 or ray runs the engine; a waiting daemon and `assay --help` carry no gigabyte."""
    assert not loaded_after(f"import {module}") & set(HEAVY)
