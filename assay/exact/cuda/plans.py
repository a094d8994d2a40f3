"""Plans as devices run them."""

from __future__ import annotations

from collections.abc import Mapping

from assay.exact.cuda.attend import taking
from assay.exact.cuda.device import Description
from assay.exact.cuda.tape import Products
from assay.exact.plan import Array, Plan
from assay.program import Part


def plan_for(part: Part, constants: Mapping[str, Array], bits: int, of: Description, products: Products, trace: bool = False) -> Plan:
    """Steps over the same rows are one, attention's scores stay on the chip, matrices that several products read are packed once."""
    return Plan(part, constants, bits, trace, rows=True, attention=taking(of), packs=products.paired)
