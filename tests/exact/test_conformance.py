"""The published digests are the reference's, and every route matches them."""

from __future__ import annotations

import pytest

from assay.exact import conformance
from tests.exact.support import ROUTES, Route, names, on


def test_published_digests_are_the_references() -> None:
    with on(Route("numpy", 1)):
        assert conformance.from_reference() == conformance.expected()


def test_every_operator_is_in_the_set() -> None:
    used = {node.op for case in conformance.cases() for node in case.part.nodes}
    assert used | {"const"} == set(conformance.OPS)


@pytest.mark.parametrize("route", ROUTES, ids=names)
def test_route_conforms(route: Route) -> None:
    with on(route):
        assert conformance.failures(route.threads) == []


def test_a_wrong_digest_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = dict(conformance.expected())
    wrong["moves"] = "0" * 64
    monkeypatch.setattr(conformance, "expected", lambda: wrong)
    assert conformance.failures() == ["moves"]
