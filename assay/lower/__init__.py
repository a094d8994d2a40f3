"""Lowering of ATen operators to the closed set; see assay.lower.call."""

from __future__ import annotations

from assay.lower import maps, moves, norms, reduces, windows
from assay.lower.call import LOWERINGS, Call, Result, Unsupported

__all__ = ["LOWERINGS", "Call", "Result", "Unsupported", "maps", "moves", "norms", "reduces", "windows"]
