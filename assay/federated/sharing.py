"""Shamir's secret sharing (Communications of the ACM, 1979) of 32-byte secrets, over the field of 2^256 + 297 elements.

Fewer than `threshold` shares say nothing about the secret. The owner of share `x` has the polynomial's value at x, from 1 on. The coefficients
follow from the secret's owner's own randomness by HKDF (RFC 5869), so that a dealer that starts again deals the same shares.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from assay import shamir

PRIME = 2**256 + 297
SIZE = 33
"""Bytes of a share."""


def split(secret: bytes, threshold: int, places: int, entropy: bytes) -> list[bytes]:
    """Shares at 1..`places` of a secret of 32 bytes. `entropy` is secret and used for nothing else. Raises ValueError."""
    if len(secret) != 32 or not 1 <= threshold <= places:
        raise ValueError(f"a secret of {len(secret)} bytes cannot be shared among {places} with threshold {threshold}")
    coefficients = [int.from_bytes(secret, "big")]
    coefficients += [
        int.from_bytes(hmac.digest(entropy, b"assay/share/1" + i.to_bytes(4, "big"), "sha512"), "big") % PRIME for i in range(1, threshold)
    ]
    return [shamir.value(coefficients, x, PRIME).to_bytes(SIZE, "big") for x in range(1, places + 1)]


def join(shares: Mapping[int, bytes]) -> bytes | None:
    """The secret from exactly as many shares as its threshold, by place; None when they are no shares of a 32-byte secret."""
    weight = shamir.weights(shares, PRIME)
    secret = sum(int.from_bytes(share, "big") * weight[x] for x, share in shares.items()) % PRIME
    return secret.to_bytes(32, "big") if secret < 2**256 else None
