"""Fixtures that test files of several folders share."""

from __future__ import annotations

import pytest

import assay.adapters.evm  # noqa: F401  # first, because of the recursion limit that it sets
from assay.localnet.anvil import find_anvil


@pytest.fixture(scope="session")
def needs_anvil() -> None:
    """Skips a test where there is no chain to run it on, and says how to get one."""
    try:
        find_anvil()
    except FileNotFoundError as error:
        pytest.skip(str(error))
