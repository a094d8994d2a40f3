"""CUDA C++ of matrix products: what is compiled for digits, tiles and layouts (digits.cuh says what is defined)."""

from __future__ import annotations

from functools import cache

from assay.exact.cuda.device import source
from assay.exact.cuda.tiles import NARROW, Digits, Group, Layout, Tile


def _defined(how: Digits, layout: Layout) -> str:
    plain, width, _ = layout
    given = {
        "PLANES": how.planes, "KARATSUBA": how.karatsuba, "PLAIN": plain, "BF16": how.kind == "bf16", "FP8": how.kind == "fp8", "WIDTH": width,
    }  # fmt: skip
    return "".join(f"#define {name} {int(value)}\n" for name, value in given.items())


@cache
def around(how: Digits, layout: Layout) -> str:
    """CUDA C++ of what comes before and after a multiplication."""
    return _defined(how, layout) + source("digits.cuh", "tensor.cuh", "pack.cuh", "pack.cu", "check.cu")


@cache
def of_making(how: Digits, layout: Layout) -> str:
    """CUDA C++ of what is called by kernels that make what they pack (making.py)."""
    return _defined(how, layout) + source("walk.cuh", "map.cuh", "lines.cuh", "digits.cuh", "tensor.cuh", "pack.cuh")


@cache
def of_heads(how: Digits) -> str:
    """CUDA C++ of what packs operands for kernels of attention."""
    return _defined(how, NARROW) + source("digits.cuh", "tensor.cuh", "heads.cu")


@cache
def multiplication(how: Digits, tile: Tile | Group, adds: bool = False) -> str:
    """CUDA C++ of the multiplication in tiles; `adds`: with something that is added to the result."""
    return _defined(how, tile.layout) + f"#define HOLDS {how.holds}\n#define ADDS {int(adds)}\n" + tile.defined() + source(*tile.files)
