"""What the tests of this folder share."""

from __future__ import annotations

import pytest

from assay import beats


@pytest.fixture(autouse=True)
def _short_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that run in real time, with blocks of a fiftieth of a second, do not wait for long beats of the chain's clock."""
    monkeypatch.setattr(beats, "LONGEST", beats.BEAT)
