"""Records that are related, and records that are old, made explicit.

Two records are related when their owners say so by the same mark: a keyed hash of what names the patient, the household, the device, or of the
record itself for copies. Owners compute marks by themselves, under a key that they share and the coordinator has not, so that no list of patients
leaves anybody. A mark counts once, whoever has it: what several owners have is credited to them in equal parts.

Age is a number of whole periods. A curve says how much a record of each age still counts, in parts of 10,000; a policy, not a measurement: what old
records are really worth is measured by a game whose players are periods (assay.worth.games).
"""

from __future__ import annotations

import hmac
from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import pairwise

FULL = 10_000


def mark(key: bytes, *fields: bytes) -> bytes:
    """HMAC-SHA256 over the fields, each with its length: what two owners compare instead of a patient's name."""
    return hmac.digest(key, b"assay/worth/mark/1" + b"".join(len(f).to_bytes(4, "big") + f for f in fields), "sha256")


def overlaps(marks: Sequence[Iterable[bytes]]) -> list[list[int]]:
    """[i][j]: how many different marks of owner i owner j has, too; [i][i] how many it has."""
    sets = [set(m) for m in marks]
    return [[len(a & b) for b in sets] for a in sets]


def credit(marks: Sequence[Iterable[bytes]]) -> list[Fraction]:
    """Records of each owner, a mark that several have in equal parts, a mark that one has several times once."""
    sets = [set(m) for m in marks]
    holders = Counter(one for s in sets for one in s)
    return [sum((Fraction(1, holders[one]) for one in s), Fraction(0)) for s in sets]


def decayed(ages: Iterable[int], curve: Sequence[int]) -> Fraction:
    """How many fresh records the records of these ages count for. `curve[a]` is for age a, its last entry for all that are older. Raises
    ValueError for a curve that rises, or leaves 0..FULL, and for negative ages."""
    if not curve or any(not 0 <= c <= FULL for c in curve) or any(a < b for a, b in pairwise(curve)):
        raise ValueError(f"a curve of freshness falls, within 0..{FULL}")
    count = Counter(ages)
    if any(a < 0 for a in count):
        raise ValueError("a record is not from the future")
    return Fraction(sum(n * curve[min(a, len(curve) - 1)] for a, n in count.items()), FULL)
