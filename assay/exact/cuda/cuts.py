"""How a product is cut up: into rows whose tiles are made whole, and rows of whose tiles several blocks have a part of k each, so that the last round
of tiles, of which a processor makes one at a time, is no longer than it has to be; and how many blocks share k where a checksum's right side is
made."""

from __future__ import annotations

from typing import NamedTuple

from assay.exact.cuda.tiles import Group, Size, Tile

LEAST_PART = 512
"""Elements of k of which a part has at least."""
FEW_PARTS = 1024
"""The same, where blocks may share a processor: below it a part is not worth its sums' way through memory."""
BESIDE, ADDING, TOTALS, LAUNCH = 84, 192, 607, 200
"""In elements of k of a tile (13 cycles of an H200 each, counted, not measured: docs/cuda.md, "Products on Hopper"): what a tile takes beside
multiplying; where its sums are added to totals; a tile's totals once through memory, by one processor's share of it; a launch more."""
LEAST_CHECKED, CHECKED = 2, 3.5
"""Of check.cu's `expected`, in rows of 128 elements of k: of which a block has at least so many; what it does beside them, about (at b = 14 a row is
2088 instructions of warps, the rest of a block 7360: machine code for sm_90, counted)."""


class Cut(NamedTuple):
    """Rows that are made whole, a multiple of what a cluster makes, or 0; blocks that share k of each tile of the others."""

    whole: int
    parts: int


class Piece(NamedTuple):
    """Rows of C that are made by one launch."""

    first: int
    rows: int
    tiles: int
    grid: int
    """Blocks of a part."""
    parts: int
    run: int
    """Stages of k of a part."""


def pieces(tile: Tile | Group, size: Size, steps: int, most: int, processors: int, parts: int | Cut | None) -> list[Piece]:
    """What is launched for a product whose k is so many stages, of which a block adds up at most `most`. `parts`: blocks that share k of each tile,
    or the cut, where that is to be said; 0: whatever is usual, but the same of all tiles."""
    tiles = size.products * tile.blocks(size.m, size.n)
    if isinstance(parts, Cut):
        wanted = parts
    elif parts is None and isinstance(tile, Group) and steps <= most:
        wanted = cut(tile, *size[1:], processors)
    else:
        wanted = Cut(0, parts or max(1, min(2 * processors // tiles, size.k // FEW_PARTS)))
    run = min(-(-steps // min(wanted.parts, steps)), most)

    def piece(first: int, rows: int, run: int) -> Piece:
        tiles = size.products * tile.blocks(rows, size.n)
        return Piece(first, rows, tiles, tile.grid(tiles, processors), -(-steps // run), run)

    rest = piece(wanted.whole, size.m - wanted.whole, run)
    return [piece(0, wanted.whole, steps), rest] if wanted.whole else [rest]


def cut(group: Group, products: int, m: int, n: int, k: int, processors: int) -> Cut:
    """The cut that takes least, by count. Only one product by itself has rows of both kinds."""
    size, high = group.cm * group.cn, group.tm * group.cm
    at_once, rows = max(1, processors // size) * size, -(-m // high)
    of_row = group.blocks(high, n)
    full = {0, *(j * at_once // of_row for j in range(1, rows * of_row // at_once + 1))} if products == 1 else {0}

    def takes(option: Cut) -> float:
        whole, parts = option.whole // high * of_row, option.parts
        rest = products * rows * of_row - whole
        each = -(-k // parts) + (ADDING if parts > 1 else BESIDE)
        out = -(-whole // at_once) * (k + BESIDE) + -(-rest * parts // at_once) * each
        return out + (parts > 1) * (TOTALS * rest * (parts + 2) / at_once + (3 if whole else 2) * LAUNCH)

    options = [Cut(0, 1)] + [Cut(r * high, parts) for r in sorted(full) if r < rows for parts in range(2, k // LEAST_PART + 1)]
    return min(options, key=takes)


def checked(lanes: int, rows: int, most: int, processors: int) -> int:
    """Rows of k, `most` at most, of which a block makes the right side of checksums for its lanes, where k is so many rows and so many blocks have
    different lanes: those with which the launch takes least, by count, in whole rounds of blocks."""

    def takes(run: int) -> float:
        return -(-lanes * -(-rows // run) // processors) * (run + CHECKED)

    return min(range(min(rows, most), min(rows, most, LEAST_CHECKED) - 1, -1), key=takes)
