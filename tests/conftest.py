"""Fixtures that test files of several folders share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import assay.adapters.evm  # noqa: F401  # first, because of the recursion limit that it sets
from assay.localnet.anvil import Anvil, find_anvil


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
