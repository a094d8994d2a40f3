"""The contracts' custom errors in plain words, the same from every adapter.

`TooEarly(notBefore=20, now_=10)` becomes "too early (TooEarly): not before 20, now 10".
"""

from __future__ import annotations

import re

from assay.chain import SegmentState
from assay.dispute.moves import Phase
from assay.ports import Reverted

PHASES = ("NONE", "SEAL", "REVEAL", "OPEN", "SHOW")
STANDS = ("none", *Phase, "paid")
"""Of contracts/src/types/DisputeTypes.sol."""
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def words(name: str) -> str:
    """camelCase or CamelCase as lower-case words."""
    return _HUMP.sub(" ", name).rstrip("_").lower()


def snake(name: str) -> str:
    return words(name).replace(" ", "_")


def _value(name: str, value: object) -> str:
    if name == "state" and isinstance(value, int) and value in set(SegmentState):
        return SegmentState(value).name
    if name == "phase" and isinstance(value, int) and value < len(PHASES):
        return PHASES[value]
    if name == "stand" and isinstance(value, int) and value < len(STANDS):
        return str(STANDS[value])
    return "0x" + value.hex() if isinstance(value, bytes) else str(value)


def explain(error: str, **arguments: object) -> str:
    """`error` is the Solidity name; `arguments` have their Solidity names."""
    details = ", ".join(f"{words(name)} {_value(name, value)}" for name, value in arguments.items())
    return f"{words(error)} ({error})" + (f": {details}" if details else "")


def refuse(error: str, **arguments: object) -> Reverted:
    """The exception for a custom error, to be raised."""
    return Reverted(explain(error, **arguments))
