"""Logs of Jobs that stand for several events of the vocabulary: what one call did is one log, however many it concerns.

A log costs 375 gas, as much for each topic and 8 for a byte, so one for three verifiers is less than half of three. How the bytes are
packed is said in contracts/src/interfaces/IJobs.sol.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from assay import chain
from assay.codec import Message
from assay.ids import Address

SHARE = 128
"""Places in a block that a log's events have: more than the members of all rounds' committees."""
_Told = list[tuple[type[Message], dict[str, Any]]]


def _sealed(segment: int, verifier: Address, digest: bytes) -> _Told:
    return [(chain.Sealed, {"segment": segment, "verifier": verifier, "digest": digest})]


def _together(segment: int, seals: bytes) -> _Told:
    """Packed: verifier 20 B, digest 32 B, for each."""
    if len(seals) % 52:
        raise ValueError("cut off")
    told: _Told = []
    for at in range(0, len(seals), 52):
        who, digest = Address("0x" + seals[at : at + 20].hex()), seals[at + 20 : at + 52]
        told.append((chain.Sealed, {"segment": segment, "verifier": who, "digest": digest, "together": True}))
    return told


def _voted(segment: int, votes: bytes) -> _Told:
    """The votes are packed (contracts/src/interfaces/IJobs.sol): verifier 20 B, flags u8, number of roots u8, salt 32 B, roots."""
    told: _Told = []
    at = 0
    while at < len(votes):
        head, flags, count = votes[at : at + 20], *(*votes[at + 20 : at + 22], 0, 0)[:2]
        stop = at + 54 + 32 * count
        if stop > len(votes):
            raise ValueError("cut off")
        who = Address("0x" + head.hex())
        if flags & 2:
            roots = tuple(votes[place : place + 32] for place in range(at + 54, stop, 32))
            vote = {"segment": segment, "verifier": who, "agrees": flags & 1 != 0, "trace_roots": roots, "salt": votes[at + 22 : at + 54]}
            told.append((chain.Revealed, vote))
        if flags & 4:
            told.append((chain.Opened, {"segment": segment, "verifier": who}))
        at = stop
    return told


def _paid(segment: int, provider: Address, price: int, fee: int, verifiers: tuple[Address, ...]) -> _Told:
    credits = [(provider, price, "price"), *((who, fee, "fee") for who in verifiers)]
    told: _Told = [
        (chain.Credited, {"who": who, "segment": segment, "amount": amount, "reason": reason}) for who, amount, reason in credits if amount
    ]
    return [*told, (chain.Settled, {"segment": segment, "provider": provider, "price": price})]


SPREAD: dict[str, tuple[tuple[type[Message], ...], Callable[..., _Told]]] = {
    "SealedBy": ((chain.Sealed,), _sealed),
    "SealedTogether": ((chain.Sealed,), _together),
    "Voted": ((chain.Revealed, chain.Opened), _voted),
    "Paid": ((chain.Settled, chain.Credited), _paid),
}
"""Logs of several events: what they may stand for, and those events from the log's arguments."""
