"""The wheel carries what it must: it is built, installed into an empty folder, and used from there, away from the checkout.

What is easily left out of a wheel is not Python: ABI and bytecode, the conformance digests, the demo's text, the native source.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed wheel and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT)], check=True, timeout=120)
    (wheel,) = folder.glob("assay-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-compile", "--target", str(folder / "site"), str(wheel)], check=True, timeout=120)
    return folder


def python(installed: Path, code: str) -> str:
    """Runs `code` where the installed packages, not the checkout's, are found first; returns what it printed."""
    head = f"import sys; sys.path.insert(0, {str(installed / 'site')!r})\n"
    out = subprocess.run([sys.executable, "-I", "-c", head + code], cwd=installed, capture_output=True, text=True, timeout=120)
    assert out.returncode == 0, out.stderr
    return out.stdout.strip()


def test_every_package_is_in_it(installed: Path) -> None:
    names = ("assay", "assay_worker", "assay_scheduler", "assay_verifier")
    places = python(installed, "\n".join(f"import {name}; print({name}.__file__)" for name in names)).splitlines()
    assert len(places) == 4
    assert all(Path(place).is_relative_to(installed / "site") for place in places)


def test_no_file_of_the_packages_is_left_out(installed: Path) -> None:
    """Whatever git tracks inside a package is in the wheel, and nothing else is."""
    (wheel,) = installed.glob("assay-*.whl")
    carried = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    tracked = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "assay", "worker", "scheduler", "verifier"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    expected = {name.split("/", 1)[1] if not name.startswith("assay/") else name for name in tracked if (ROOT / name).exists()}
    assert carried == expected


def test_the_command_answers(installed: Path) -> None:
    said = python(installed, "from assay.cli import main\nsys.argv[1:] = ['--version']\ntry: main()\nexcept SystemExit as end: assert not end.code")
    assert said.startswith("assay ")
