"""What a node never uses is not computed when it starts, and still works for whoever uses it (assay/adapters/__init__.py)."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import assay.adapters, eth_account, sys
assert not any(name.startswith("py_ecc.optimized") for name in sys.modules), "the tables were computed"
from eth_keyfile import keyfile
print(keyfile.bls.SkToPk(5).hex())
from py_ecc import bls12_381
assert bls12_381.curve_order == assay.adapters.CURVE_ORDER == keyfile.MAX_V4_PRIVATE_KEY + 1
"""
# The public key of the secret key 5 in py_ecc itself, imported first.
PLAIN = "from py_ecc.bls import G2ProofOfPossession as bls; print(bls.SkToPk(5).hex())"


def run(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=240).stdout


def test_bls_is_loaded_when_it_is_used() -> None:
    assert run(PROGRAM) == run(PLAIN)


CLIENT = """
import assay.adapters, sys
from libp2p.security.tls.autotls import acme
assert "pygments" not in sys.modules, "it was loaded with libp2p"
print(acme.httpx.AsyncClient.__name__, acme.httpx.codes.OK)
import httpx
import httpx._models
assert httpx is not acme.httpx and httpx.AsyncClient is acme.httpx.AsyncClient
"""


def test_the_http_client_of_libp2p_is_loaded_when_it_is_used() -> None:
    assert run(CLIENT) == "AsyncClient 200\n"
