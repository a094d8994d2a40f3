"""What `assay federated` makes of what was typed: owners, weights, and terms of a round for every number of owners."""

from __future__ import annotations

import numpy as np
import pytest
from test_federated import identity
from test_federated_training import plan

from assay.adapters.peerbook import peer_id
from assay.cli import federated
from assay.cli import federated_pay as pays
from assay.cli.common import Trouble
from assay.federated.messages import identity_of


def test_owners_and_weights_as_they_are_typed() -> None:
    a, b = peer_id(identity(0)), peer_id(identity(1))
    assert federated._weighted([a, f"{b}=3@0xabc"]) == {identity_of(a): 1, identity_of(b): 3}
    for bad in (["someone"], [a, a], [f"{a}=half"], [f"{a}=-1"], ["0OIl"]):
        with pytest.raises(Trouble, match="is not understood"):
            federated._weighted(bad)


@pytest.mark.parametrize("count", [3, 4, 5, 6, 65, 66, 100])
@pytest.mark.parametrize("bits", [32, 64])
def test_every_number_of_owners_makes_a_round(count: int, bits: int) -> None:
    work = plan(0)
    owners = {bytes([i]) * 32: 1 for i in range(count)}
    made = federated.terms_of(work, owners, 2, 5, work.state, (1.5, 0.0, 1e-6), bits)
    assert made.norm == 1.5 * 2**made.fraction
    assert made.limit * count < 1 << (bits - 1)
    assert 3 * made.minimum > 2 * count
    noisy = federated.terms_of(work, owners, 2, 5, work.state, (1.5, 0.5, 1e-6), bits)
    assert noisy.noise == np.ceil(0.75 * 2**made.fraction)


def test_what_a_host_pays_as_it_is_typed() -> None:
    a, b = "0x" + "aa" * 20, "0x" + "bb" * 20
    made = pays.offer([f"x=2@{a}", f"y@{b}"], ("2.5", ""), "records", None, (60, 1.0), b)
    assert (made.accounts, made.pay, made.bond, made.rule, made.auditor) == ((a, b), 2_500_000, 2_500_000, 1, b)
    assert pays.offer([f"x@{a}"], ("1", "0.000001"), "equal", None, (60, 1.0), None).bond == 1
    for owners, amounts, by, why in (
        (["x"], ("1", ""), "equal", "somebody cannot be paid"), ([f"x@{a}"], ("no", ""), "equal", "--pay no is no amount"),
        ([f"x@{a}"], ("0.0000001", ""), "equal", "no amount"), ([f"x@{a}"], ("1", "NaN"), "equal", "--bond NaN"),
        ([f"x@{a}"], ("1", ""), "taste", "--by taste"), ([f"x@{a}"], ("1", ""), "worth", "--by worth"),
    ):  # fmt: skip
        with pytest.raises(Trouble, match=why):
            pays.offer(owners, amounts, by, None, (60, 1.0), None)


def test_too_few_owners_make_none() -> None:
    work = plan(0)
    with pytest.raises(ValueError, match="3 to 1024 different owners"):
        federated.terms_of(work, {bytes(32): 1, b"1" * 32: 1}, 0, 5, work.state, (0.0, 0.0, 1e-6), 64)
