"""Bounds of a job's terms, as contracts/src/libraries/Bounds.sol has them: no loop is long, no window without end, no sum overflows."""

from __future__ import annotations

from assay import cid
from assay.adapters.refusals import refuse
from assay.chain import Terms
from assay.draw import MOST_LINKS, MOST_UNITS
from assay.ids import ZERO_ADDRESS

_U32, _U64, _U160 = 2**32 - 1, 2**64 - 1, 2**160 - 1
_WINDOW = 7 * 86400
_TERMS = (
    ("steps", 1, _U32), ("micro_batches", 1, 2**20), ("segment_steps", 1, _U32), ("micro_weight", 1, 2**40), ("update_weight", 1, 2**40),
    ("micro_leaves", 2, _U32), ("update_leaves", 2, _U32), ("price_cap", 1, _U64), ("fee", 0, _U64), ("budget", 1, _U64),
)  # fmt: skip
_WINDOWS = ("activate_window", "lease_window", "takeover_window", "serve_window", "seal_window", "reveal_window", "open_window", "challenge_window")


def check_cid(text: str) -> None:
    """Raises Reverted."""
    try:
        cid.to_bytes(text)
    except cid.BadCid:
        raise refuse("BadCid", length=len(text)) from None


def _within(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise refuse("BadTerm", name=name, value=value, least=least, most=most)


def check_terms(terms: Terms, seat_stake: int, now: int) -> None:
    """Raises Reverted for the first term that is out of bounds."""
    check_cid(terms.spec)
    for name, least, most in _TERMS:
        _within(name, getattr(terms, name), least, most)
    _within("deadline", terms.deadline, now + 1, _U64)
    for name, account in (("scheduler", terms.scheduler), ("key_service", terms.key_service)):
        if account == ZERO_ADDRESS:
            _within(name, 0, 1, _U160)
    p = terms.params
    _within("finality", p.finality, 1, 64)
    for name in _WINDOWS:
        _within(name, getattr(p, name), 1, _WINDOW)
    _within("links", p.links, 0, MOST_LINKS)
    _within("verifiers", p.verifiers, 1, 16)
    _within("quorum", p.quorum, p.verifiers // 2 + 1, p.verifiers)
    _within("openings", p.openings, 1, 8)
    _within("redraws", p.redraws, 0, 4)
    _within("links * (1 + redraws)", p.links * (1 + p.redraws), 0, MOST_UNITS)
    _within("depth", p.depth, 1, 8)
    _within("bond_tenths", p.bond_tenths, 0, 1000)
    _within("late_fee_bps", p.late_fee_bps, 0, 10_000)
    _within("no_show_bps", p.no_show_bps, 0, 10_000)
    _within("bond_base", p.bond_base, 0, 2**80 - 1)
    _within("draw_bond", p.draw_bond, 0, seat_stake)
    if p.links == 0:
        _within("links of a segment", terms.segment_steps * (terms.micro_batches + 1), 1, MOST_UNITS)
