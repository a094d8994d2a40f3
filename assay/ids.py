"""Names of the things that messages speak of. Each is its own type, so that mypy keeps a job's number from being used as a segment's."""

from __future__ import annotations

import re
from typing import Annotated, NewType

import msgspec

Address = NewType("Address", str)
"""An account: `0x` and 40 lower-case hex digits (adapters add and strip the EIP-55 checksum)."""
JobId = NewType("JobId", int)
SegmentId = NewType("SegmentId", int)
"""Counts from 1 over all jobs of a contract; 0 stands for a job's initial state where a parent is named."""
DisputeId = NewType("DisputeId", int)
"""Counts from 1 over all disputes of a contract."""
BountyId = NewType("BountyId", int)
"""Counts from 1 over all bounties of a contract."""
Cid = NewType("Cid", str)
"""CIDv1, base32 lower case, raw (`bafkrei…`) or dag-pb (`bafybei…`), SHA-256."""
PeerId = NewType("PeerId", str)
"""A libp2p peer id in base58btc (`12D3KooW…`)."""
Digest = NewType("Digest", bytes)
"""32 bytes, SHA-256."""

U32 = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
U63 = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Amount = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""Token amount in the smallest unit that fits a message; the test token has 6 decimals."""

ZERO_ADDRESS = Address("0x" + "00" * 20)
_ADDRESS = re.compile(r"0x[0-9a-f]{40}")


def address(text: str) -> Address:
    """Parses an account in any letter case. Raises ValueError."""
    low = text.lower()
    if not _ADDRESS.fullmatch(low):
        raise ValueError(f"{text!r} is not an account: expected 0x and 40 hex digits")
    return Address(low)
