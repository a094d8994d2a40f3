"""Memory that is zero when a part begins: one launch clears it for all steps, instead of one each.

Largest magnitudes, sums of digits, and sums that blocks share are made by atomics and begin as zero. They are small, and each has a place of its
own for the whole part (as the heads of packed matrices have in the arena: Plan.zeros). So the checksums of all products are there when the part
ends, and one launch compares them. Where a part has very many products (attention by slices), those that find no room clear and compare for
themselves.
"""

from __future__ import annotations

from typing import NamedTuple

ALIGN = 256


class Check(NamedTuple):
    """A product's checksum that is compared at the end of a part."""

    source: str
    """CUDA C++ that has the kernel."""
    words: tuple[int, ...]
    """As check.cu's `compare_all` reads them."""


class Zeros(NamedTuple):
    """What a product has of it: an address, and where it says what is to be compared."""

    address: int
    checks: list[Check]


class Zeroed:
    """Places are taken while a tape is made, addresses are known from `begin` on."""

    def __init__(self, most: int) -> None:
        """`most`: bytes."""
        self._most = most
        self.size = self.address = 0
        self._checks: list[Check] = []

    def take(self, size: int) -> int | None:
        """Byte offset of a place, None where there is no room."""
        at = self.size
        if at + size > self._most:
            return None
        self.size += -(-size // ALIGN) * ALIGN
        return at

    def begin(self, address: int) -> list[Check]:
        """Says where it lies; what the launches that are made from now on have to be compared is added to the list."""
        self.address, self._checks = address, []
        return self._checks

    def of(self, place: int) -> Zeros:
        return Zeros(self.address + place, self._checks)
