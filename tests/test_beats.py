"""Beats of the chain's clock: what waits for one waits no longer than it may, and what waits for several of them meets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from assay.beats import BEAT, LONGEST, SETTLING, beat, settles, settles_for

NOW = st.integers(0, 1 << 40)
MOST = st.integers(-100, 1 << 20)


@given(NOW, MOST)
def test_it_waits_no_longer_than_it_may(now: int, most: int) -> None:
    at = beat(now, most)
    assert now <= at <= now + max(0, most)
    assert at - now <= LONGEST
    assert at == now or at % BEAT == 0


@given(NOW, MOST, MOST, st.integers(0, LONGEST))
def test_who_may_wait_long_meets_who_may_not(now: int, most: int, less: int, later: int) -> None:
    """What becomes ripe before the longer beat, and may wait for it, goes with it."""
    at = beat(now, most)
    if now + later < at and less >= LONGEST and most >= LONGEST:
        assert beat(now + later, less) == at


def test_beats_of_windows() -> None:
    assert beat(1001, BEAT - 1) == 1001
    assert beat(1001, BEAT) == 1005
    assert beat(1001, 2 * BEAT - 1) == 1005
    assert beat(1001, 2 * BEAT) == 1020
    assert beat(1001, LONGEST) == beat(1001, 1 << 20) == 1200
    assert beat(1200, LONGEST) == 1440, "not on a multiple itself"


def test_a_settlement_is_its_providers_first() -> None:
    for window in (1, SETTLING * BEAT - 1, SETTLING * BEAT, 3600):
        waits = window >= SETTLING * BEAT
        assert settles_for(1001, window) - settles(1001, window) == (BEAT if waits else 0)
        assert (settles(1001, window) > 1001) == waits
