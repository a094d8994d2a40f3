"""Fixtures that test files of several folders share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import assay.adapters.evm  # noqa: F401  # first, because of the recursion limit that it sets
from assay.exact.native.build import cache_folder, cache_home
from assay.localnet.anvil import Anvil, find_anvil

os.environ["ASSAY_CACHE"] = str(cache_home().absolute())
"""What was compiled stays where it is when a test has another home or folder."""


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache folder of the test's own, but for the libraries that were compiled: those are every test's, since compiling takes seconds."""
    shared, own = cache_folder(), tmp_path / "cache" / "native"
    own.mkdir(parents=True, mode=0o700)
    for path in shared.glob("*.so"):
        (own / path.name).symlink_to(path)
    monkeypatch.setenv("ASSAY_CACHE", str(own.parent))
    yield own.parent
    for path in own.glob("*.so"):
        if not path.is_symlink():
            fresh = shared / f".{path.name}.{os.getpid()}"
            shutil.copy(path, fresh)
            fresh.replace(shared / path.name)


@pytest.fixture(scope="session")
def needs_anvil() -> None:
    """Skips a test where there is no chain to run it on, and says how to get one."""
    try:
        find_anvil()
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture
def anvil(needs_anvil: None) -> Iterator[Anvil]:
    """A chain of the test's own, which mines each transaction at once. Not shared: each block costs anvil more the more was ever deployed."""
    with Anvil(block_time=None) as running:
        yield running


FIRST = ("test_whole_way", "test_localnet_net", "test_cuda_route", "test_chain", "test_sim", "test_fuzz_decoders", "test_together", "test_trace")
"""Files of a minute and more. Each is one worker's: what begins last should be short."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        name = Path(item.path).stem
        return FIRST.index(name) if name in FIRST else len(FIRST)

    items.sort(key=place)
