"""What each site's records are worth: the same training on every set of sites, each measured on patients that no model saw.

    python examples/hospitals/worth.py [--steps 120] [--out worth.json]

A value counts pairs of a sick and a healthy patient that a model ranks rightly (twice, and ties once): the numerator of its AUC. Model and score
are exact, so the file's digest is the same on every machine. `assay.worth.report.check` checks it without a training.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from patients import SITES, Records, Site, joined, load

from assay import merkle
from assay.client import Plan, run_plan
from assay.codec import digest, encode
from assay.exact import reference
from assay.federated.training import job_of
from assay.ids import Address, Digest
from assay.local import LocalRun
from assay.worth import report
from assay.worth.games import Game

HERE = Path(__file__).resolve().parent


class Measured(NamedTuple):
    """Twice the pairs that are ranked rightly, of twice all pairs."""

    right: int
    of: int

    @property
    def auc(self) -> float:
        return self.right / self.of


def scores(state: dict[str, NDArray[Any]], features: NDArray[np.float32]) -> NDArray[np.float32]:
    """How sick the model finds each patient, by the reference's own operators."""

    def layer(x: NDArray[Any], name: str) -> NDArray[Any]:
        return reference.apply("add", {}, [reference.matmul(x, state[f"param.{name}.weight"].T, 14), state[f"param.{name}.bias"]], "f32", 14)

    hidden = reference.apply("maximum", {}, [layer(features, "0"), np.zeros((), np.float32)], "f32", 14)
    out = layer(hidden, "2")
    return np.asarray(reference.apply("sub", {}, [out[:, 1], out[:, 0]], "f32", 14))


def measure(state: dict[str, NDArray[Any]], on: Records) -> Measured:
    """Counted in whole numbers, by ranks."""
    found = scores(state, on.features)
    sick, well = np.sort(found[on.label == 1]), np.sort(found[on.label == 0])
    below, not_above = np.searchsorted(well, sick, "left"), np.searchsorted(well, sick, "right")
    return Measured(int(below.sum() + not_above.sum()), 2 * len(sick) * len(well))


def plan_of(steps: int) -> Plan:
    """The training of train.py, with an example of the records."""
    from assay.cli.jobs import plan_of as traced

    os.environ.pop("SITE", None)
    os.environ["STEPS"] = str(steps)
    return traced(HERE / "train.py", None, 0)[0]


def with_records(plan: Plan, records: Records) -> Plan:
    return plan._replace(records={"features": records.features, "label": records.label}, key=merkle.sha256(b"hospitals"))


def trained(plan: Plan, records: Records) -> LocalRun:
    return run_plan(with_records(plan, records))


class Valued(NamedTuple):
    worth: report.Worth
    aucs: dict[frozenset[int], Measured]


def value(plan: Plan, sites: dict[str, Site], owners: tuple[Address, ...], tell: Callable[[str], None] = lambda text: None) -> Valued:
    """Every set of sites is trained on alone: 31 trainings of five sites."""
    kept = joined([sites[name].kept for name in SITES])
    ends: dict[frozenset[int], Digest] = {}
    aucs: dict[frozenset[int], Measured] = {}

    def train(coalition: frozenset[int]) -> int:
        run = trained(plan, joined([sites[SITES[i]].shown for i in sorted(coalition)]))
        ends[coalition], aucs[coalition] = run.root, measure(run.state, kept)
        tell(f"trained on {'+'.join(SITES[i] for i in sorted(coalition))}: AUC {aucs[coalition].auc:.3f}")
        return aucs[coalition].right

    nobody = measure(plan.state, kept)  # the untrained model
    game = Game(len(SITES), train, nobody.right)
    metric = f"twice the pairs ranked rightly, of {nobody.of}, patients kept apart by every site"
    return Valued(report.make(job_of(plan, 1, plan.steps), owners, metric, game, ends), aucs)


def told(found: Valued) -> list[str]:
    """A line for each site: alone, what its leaving costs, what it is worth, its part of the money."""
    worth, pairs = found.worth, next(iter(found.aucs.values())).of
    everybody = frozenset(range(len(SITES)))
    out = [f"{'site':8} {'AUC alone':>9} {'left out':>9} {'Shapley':>9} {'share':>8}"]
    for i, name in enumerate(SITES):
        out.append(
            f"{name:8} {found.aucs[frozenset({i})].auc:9.3f} {-worth.alone[i] / pairs:+9.4f} {float(worth.worth[i].exact / pairs):+9.4f} "
            f"{worth.shares[i] / 100:7.2f}%"
        )
    out.append(f"all five {found.aucs[everybody].auc:9.3f}")
    for kind, (i, j, both) in {
        "most alike": min(worth.together, key=lambda t: t[2].exact), "best together": max(worth.together, key=lambda t: t[2].exact),
    }.items():  # fmt: skip
        out.append(f"{kind}: {SITES[i]} and {SITES[j]} ({float(Fraction(both.exact) / pairs):+.4f})")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    owners = tuple(Address(f"0x{i + 1:040x}") for i in range(len(SITES)))
    found = value(plan_of(args.steps), load(), owners, print)
    print("\n".join(told(found)))
    print(f"digest of the valuation {digest(found.worth).hex()}")
    if args.out:
        args.out.write_bytes(encode(found.worth))


if __name__ == "__main__":
    main()
