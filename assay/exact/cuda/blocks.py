"""What a block of attend.cuh has of shared memory (planes of its lines, their digits, rings of what streams by), and the text that kernels call."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from assay.exact.cuda.device import source
from assay.exact.cuda.streamed import in_memory
from assay.exact.cuda.tiles import NARROW, Digits

LANES_OUT, ALIGN = 128, 128
"""As in attend.cuh: lanes of what a line is multiplied with, and the multiple of bytes at which shared memory is cut."""
TOPS = 128
"""Bytes for the scales of a block's lines."""


class Room(NamedTuple):
    """What a block has (attend.cuh): lines, units of a warp's ring, floats between lines of a plane, bytes of digits, of all shared memory."""

    lines: int
    ring: int
    pitch: int
    digits: int
    shared: int


def room(products: int, puts: bool, elements: int, lines: int, ring: int, how: Digits) -> Room:
    """For lines of so many elements of some products, whose digits are `put`."""
    planes = _even(4 * products * lines * pitch_of(elements, lines))
    of_digits = digits_bytes(lines, elements, how) if puts else 0
    return Room(lines, ring, pitch_of(elements, lines), of_digits, planes + of_digits + TOPS + _even(ring_bytes(lines, ring, how)))


def pitch_of(elements: int, lines: int) -> int:
    return (elements + lines - 1) // 16 * 16 + 8


def digits_bytes(lines: int, elements: int, how: Digits) -> int:
    return _even(8 * lines) + -(-elements // NARROW.width) * NARROW.width * in_memory(how) * lines


def ring_bytes(lines: int, ring: int, how: Digits) -> int:
    own = in_memory(how)
    return ring * own * lines * 8 * NARROW.width + own * 2 * lines * NARROW.width + 8 * LANES_OUT


def alike(how: Digits, ring: int) -> str:
    """C++ that says no if these sizes are not those of attend.cuh."""
    wanted = list[str]()
    for lines in (8, 16):
        wanted += [f"pitch_of<{lines}>({n}) == {pitch_of(n, lines)}" for n in (1, 1000, 1016)]
        wanted.append(f"ring_bytes<{lines}>() == {ring_bytes(lines, ring, how)}")
        wanted += [f"digits_bytes<{lines}>({n}) == {digits_bytes(lines, n, how)}" for n in (1, 1000)]
    return f'static_assert({" && ".join(wanted)}, "sizes");\n'


def _even(size: int) -> int:
    return -(-size // ALIGN) * ALIGN


@cache
def before(how: Digits, ring: int) -> str:
    """CUDA C++ that kernels of these digits call, with so many units a ring."""
    given = {"PLANES": how.planes, "KARATSUBA": how.karatsuba, "PLAIN": 0, "BF16": 0, "FP8": 0, "WIDTH": NARROW.width, "RING": ring}
    defined = "".join(f"#define {name} {int(value)}\n" for name, value in given.items())
    files = ("walk.cuh", "map.cuh", "lines.cuh", "digits.cuh", "tensor.cuh", "attend.cuh", "attend_out.cuh", "handed.cuh", "chain.cuh")
    return defined + source(*files) + alike(how, ring)
