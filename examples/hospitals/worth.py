"""What each site's records are worth: the same training on every set of sites, each measured on patients that no model saw.

    python examples/hospitals/worth.py [--steps 120] [--out worth.json]
    python examples/hospitals/worth.py --years      # what each year's records are worth, whoever has them
    python examples/hospitals/worth.py --related    # records that several sites have

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
from assay.worth import records, report
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


def with_records(plan: Plan, shown: Records) -> Plan:
    return plan._replace(records={"features": shown.features, "label": shown.label}, key=merkle.sha256(b"hospitals"))


def trained(plan: Plan, shown: Records) -> LocalRun:
    return run_plan(with_records(plan, shown))


class Valued(NamedTuple):
    worth: report.Worth
    aucs: dict[frozenset[int], Measured]


def value(plan: Plan, parts: list[Records], kept: Records, owners: tuple[Address, ...], tell: Callable[[str], None] = lambda text: None) -> Valued:
    """Every set of parts is trained on alone: 31 trainings of five."""
    ends: dict[frozenset[int], Digest] = {}
    aucs: dict[frozenset[int], Measured] = {}

    def train(coalition: frozenset[int]) -> int:
        run = trained(plan, joined([parts[i] for i in sorted(coalition)]))
        ends[coalition], aucs[coalition] = run.root, measure(run.state, kept)
        tell(f"trained on {sorted(coalition)}: AUC {aucs[coalition].auc:.3f}")
        return aucs[coalition].right

    nobody = measure(plan.state, kept)  # the untrained model
    game = Game(len(parts), train, nobody.right)
    metric = f"twice the pairs ranked rightly, of {nobody.of}, patients kept apart by every site"
    return Valued(report.make(job_of(plan, 1, plan.steps), owners, metric, game, ends), aucs)


def told(found: Valued, names: tuple[str, ...]) -> list[str]:
    """A line for each part: alone, what its leaving costs, what it is worth, its part of the money."""
    worth, pairs = found.worth, next(iter(found.aucs.values())).of
    out = [f"{'records':8} {'AUC alone':>9} {'left out':>9} {'Shapley':>9} {'share':>8}"]
    for i, name in enumerate(names):
        out.append(
            f"{name:8} {found.aucs[frozenset({i})].auc:9.3f} {-worth.alone[i] / pairs:+9.4f} {float(worth.worth[i].exact / pairs):+9.4f} "
            f"{worth.shares[i] / 100:7.2f}%"
        )
    out.append(f"all      {found.aucs[frozenset(range(len(names)))].auc:9.3f}")
    pair = sorted(worth.together, key=lambda t: t[2].exact)
    for kind, (i, j, both) in {"most alike": pair[0], "least alike": pair[-1]}.items():
        out.append(f"{kind}: {names[i]} and {names[j]} ({float(Fraction(both.exact) / pairs):+.4f})")
    return out


def related(sites: dict[str, Site]) -> list[str]:
    """How many records of each site another has to the last number, and how many each is credited with when those are parted."""
    key = merkle.sha256(b"a key that the sites share")
    marks = [[records.mark(key, row.tobytes()) for row in sites[name].shown.features] for name in SITES]
    both, credit = records.overlaps(marks), records.credit(marks)
    out = [f"{'':8}" + "".join(f"{name:>8}" for name in SITES) + f"{'records':>9}{'credited':>10}"]
    for i, name in enumerate(SITES):
        out.append(f"{name:8}" + "".join(f"{n:8}" for n in both[i]) + f"{len(marks[i]):9}{float(credit[i]):10.2f}")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--years", action="store_true")
    parser.add_argument("--related", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    sites = load()
    if args.related:
        print("\n".join(related(sites)))
        return
    names, parts = SITES, [sites[name].shown for name in SITES]
    if args.years:
        everybody = joined(parts)
        names = tuple(map(str, sorted(set(everybody.year.tolist()))))
        parts = [everybody.of(everybody.year == int(name)) for name in names]
    owners = tuple(Address(f"0x{i + 1:040x}") for i in range(len(names)))
    found = value(plan_of(args.steps), parts, joined([sites[name].kept for name in SITES]), owners, print)
    print("\n".join(told(found, names)))
    print(f"digest of the valuation {digest(found.worth).hex()}")
    if args.out:
        args.out.write_bytes(encode(found.worth))


if __name__ == "__main__":
    main()
