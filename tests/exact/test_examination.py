"""What `assay doctor --conformance` says of a machine that computes wrongly: what failed, where, what it means and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from assay.cli.app import app
from assay.exact import conformance, examination, numpy_route, reference, trainings
from assay.exact.cpu import Cpu
from assay.exact.examination import NUMPY, Reason, Route

PLAIN = Route(NUMPY, 1)
CASES = [case for case in conformance.cases() if case.name in ("unary even", "matmul even b=14", "moves")]
Product = Callable[[Any, Any, int], Any]


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three cases, one family and one route."""
    monkeypatch.setattr(conformance, "cases", lambda: iter(CASES))
    monkeypatch.setattr(trainings, "FAMILIES", ("mlp",))
    monkeypatch.setattr(examination, "routes", lambda every=True: [PLAIN])


def spoil(monkeypatch: pytest.MonkeyPatch, times: int, by: float = 0) -> None:
    """The next `times` products (-1: all) have one element that is off by `by` and one unit in the last place."""
    right, left = numpy_route.matmul, times

    def wrong(a: Any, b: Any, bits: int) -> Any:
        nonlocal left
        y = np.array(right(a, b, bits))
        if left:
            left -= 1
            y.reshape(-1)[-1:] = np.nextafter(y.reshape(-1)[-1:] + np.float32(by), np.float32(np.inf))
        return y

    monkeypatch.setattr(numpy_route, "matmul", wrong)


def said() -> dict[str, examination.Failed]:
    (result,) = examination.examine(steps=3)
    return {failed.what: failed for failed in result.failed}


def reason(failed: examination.Failed) -> Reason:
    return Reason(failed.means, failed.next)


def test_a_route_that_is_wrong_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, -1)
    found = said()
    assert set(found) == {"matmul even b=14", "training mlp"}
    assert found["matmul even b=14"].where.startswith("operator matmul, element [2, 13, 36] is 0x")
    assert found["matmul even b=14"].where.endswith("; 1 of 1 results differ")
    assert found["training mlp"].where.startswith("step 0, micro-batch 0: grad.")
    assert {reason(failed) for failed in found.values()} == {examination.WRONG_ROUTE}


def test_a_fault_that_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, 1)
    found = said()
    assert set(found) == {"matmul even b=14"}
    assert found["matmul even b=14"].where == "nowhere when it was run again"
    assert reason(found["matmul even b=14"]) == examination.UNSTEADY


def test_a_fault_that_passes_in_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conformance, "cases", lambda: iter(()))
    spoil(monkeypatch, 1, by=1)
    (failed,) = said().values()
    assert failed.where == "the state after 1 step; nowhere when it was run again beside the reference"
    assert reason(failed) == examination.UNSTEADY


def test_a_reference_that_is_wrong_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    right = reference.MAP["tanh"]
    monkeypatch.setitem(reference.MAP, "tanh", lambda x: np.nextafter(right(x), np.float32(1)))
    found = said()
    assert found["unary even"].where == "the NumPy reference"
    assert found["training mlp"].where == "the state after 1 step, by the NumPy reference"
    assert {reason(failed) for failed in found.values()} == {examination.OTHER_REFERENCE}


def test_products_that_fail_their_checksums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numpy_route, "agrees", lambda product, qa, qb: False)
    found = said()
    assert set(found) == {"matmul even b=14", "training mlp"}
    assert {failed.where for failed in found.values()} == {"the checksums of its matrix products"}
    assert {reason(failed) for failed in found.values()} == {examination.CHECKSUM}


def test_an_engine_that_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*_: Any) -> Any:
        raise MemoryError("the native engine ran out of memory")

    monkeypatch.setattr(numpy_route, "matmul", out_of_memory)
    found = said()
    assert {failed.where for failed in found.values()} == {"MemoryError: the native engine ran out of memory"}
    assert {reason(failed) for failed in found.values()} == {examination.UNFINISHED}


def test_a_trace_that_is_wrong_where_the_results_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Cpu.trace

    def wrong(self: Cpu, part: str, inputs: Any) -> Any:
        outputs, roots = right(self, part, inputs)
        return outputs, [roots[-1], *roots[1:]]

    monkeypatch.setattr(Cpu, "trace", wrong)
    found = said()
    assert found["unary even"].where == f"operator {conformance.UNARY[0]}, stage 0 of its trace (the results are right)"
    assert reason(found["unary even"]) == examination.WRONG_ROUTE


def test_doctor_prints_it(monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, -1)
    done = CliRunner().invoke(app, ["doctor", "--conformance"])
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert lines[0].endswith("cases of all operators and trainings of 1 families, 100 steps each, on 1 routes")
    assert lines[1].startswith("no numpy: ")
    assert lines[2:6] == [
        "     matmul even b=14",
        f"       where: {said()['matmul even b=14'].where}",
        f"       means: {examination.WRONG_ROUTE.means}",
        f"       next:  {examination.WRONG_ROUTE.next}",
    ]
    assert lines[-1] == "this machine must not work or verify: it gives other bits than the specification (numpy)"


def test_doctor_prints_a_few_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conformance, "cases", lambda: iter([CASES[0]._replace(name=f"case {n}") for n in range(9)]))
    done = CliRunner().invoke(app, ["doctor", "--conformance"])
    assert "     case 4\n" in done.stdout
    assert "     case 5\n" not in done.stdout
    assert "     and 4 more: all of them with --json\n" in done.stdout


def test_doctor_tells_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, -1)
    done = CliRunner().invoke(app, ["doctor", "--conformance", "--json"])
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert told["good"] is False
    (route,) = told["routes"]
    assert list(route["seconds"]) == ["operators", "mlp"]
    assert [failed["what"] for failed in route["failed"]] == ["matmul even b=14", "training mlp"]
    assert set(route["failed"][0]) == {"what", "where", "means", "next"}


def test_doctor_says_that_all_is_well() -> None:
    done = CliRunner().invoke(app, ["doctor", "--conformance"])
    assert done.exit_code == 0, done.output
    assert "may work and verify" in done.stdout
