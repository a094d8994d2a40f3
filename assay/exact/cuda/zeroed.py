"""Memory that is zero when a part begins: one launch clears it for all steps, instead of one each.

Largest magnitudes, sums of digits, and sums that blocks share are made by atomics and begin as zero. They are small, and each has a place of its
own for the whole part (as the heads of packed matrices have in the arena: Plan.zeros). So the checksums of all products are there when the part
ends, and one launch compares them; and one launch in the beginning finds the magnitudes of all operands that are there already, as weights are.
Where a part has very many products (attention by slices), those that find no room clear and compare for themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from assay.exact.plan import Plan
from assay.exact.views import View

ALIGN = 256


class Row(NamedTuple):
    """What a launch for many products does for one."""

    source: str
    """CUDA C++ that has the kernel."""
    words: tuple[int, ...]
    """As check.cu's `compare_all` and pack.cu's `tops_all` read them."""
    blocks: int


class Zeros(NamedTuple):
    """What a product has of it: an address, whether a value is there when the part begins and stays as it is, and where it says which magnitudes are
    to be found in the beginning and what is to be compared in the end."""

    address: int
    still: Callable[[View], bool]
    tops: list[Row]
    checks: list[Row]


class Zeroed:
    """Places are taken while a tape is made, addresses are known from `begin` on."""

    def __init__(self, most: int, plan: Plan) -> None:
        """`most`: bytes."""
        self._most, self._plan = most, plan
        self.size = self.address = 0
        self.tops: list[Row] = []
        self.checks: list[Row] = []

    def take(self, size: int) -> int | None:
        """Byte offset of a place, None where there is no room."""
        at = self.size
        if at + size > self._most:
            return None
        self.size += -(-size // ALIGN) * ALIGN
        return at

    def begin(self, address: int) -> None:
        """Says where it lies; `tops` and `checks` are those of the launches that are made from now on."""
        self.address, self.tops, self.checks = address, [], []

    def still(self, v: View) -> bool:
        """Whether a value is there when the part begins and nothing is written over it."""
        home, where, _ = self._plan.home(v.root)
        return home == "constant" or (home == "input" and where not in self._plan.over.values())

    def of(self, place: int | None) -> Zeros | None:
        return None if place is None else Zeros(self.address + place, self.still, self.tops, self.checks)
