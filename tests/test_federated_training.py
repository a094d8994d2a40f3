"""Federated averaging on exact arithmetic: rounds of a real program end in the same bits; noise and its account; groups with liars."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from test_federated import Play, identity, terms

from assay.client import Plan
from assay.codec import digest
from assay.federated import privacy, record, ring, robust, training
from assay.federated.coordinator import Phase
from assay.federated.messages import Terms
from assay.merkle import sha256
from assay.state import Tensors, state_root
from tests.exact.mlp import SCHEDULE, batch, initial_state, mlp

STEPS = 2


def plan(owner: int) -> Plan:
    many = [batch(owner, m) for m in range(4)]
    records = {name: np.concatenate([b[name] for b in many]) for name in many[0]}
    return Plan("mlp", mlp(), SCHEDULE, initial_state(), records, f"owner {owner}", len(next(iter(many[0].values()))))


def play(state: Tensors, round: int, gone: tuple[int, ...] = ()) -> tuple[Play, Tensors]:
    t = terms(
        4, round=round, model=training.start_root(state, round, STEPS), length=training.length(state), weights=(3, 1, 2, 1), degree=4, threshold=2,
        fraction=20, limit=1 << 24, norm=1 << 23, minimum=3,
    )  # fmt: skip
    made = Play(t, {Phase.UPLOADS: gone})
    runs = [training.train(plan(i), state, round, STEPS, t.owners[i]) for i in range(4)]
    made.clear = [training.update(t, i, state, runs[i].state) for i in range(4)]
    made.run()
    total = record.check(made.coordinator.record, made.sent.__getitem__)  # type: ignore[arg-type]
    left = [i for i in range(4) if i not in gone]
    assert np.array_equal(total, np.sum([made.clear[i] for i in left], axis=0, dtype=np.int32))
    return made, training.apply(state, training.mean(t, total, left), initial_state())


def test_rounds_of_a_program_learn_and_end_in_the_same_bits() -> None:
    state, losses = initial_state(), []
    for round in range(3):
        made, state = play(state, round, gone=(1,) if round == 1 else ())
        losses.append(training.train(plan(0), state, round, STEPS, made.terms.owners[0]).losses[0])
    assert losses[-1] < losses[0]
    assert state_root(6, state).hex() == "663746925bfcf93c136e8895a895a8a504503ffc16510568f7202b3167662f21"


def test_the_mean_is_that_of_floating_point_within_half_a_unit() -> None:
    state = initial_state()
    made, after = play(state, 0)
    ends = [training.train(plan(i), state, 0, STEPS, made.terms.owners[i]).state for i in range(4)]
    for name in training.exchanged(state):
        mean = sum(w * (e[name].astype(np.float64) - state[name]) for w, e in zip((3, 1, 2, 1), ends, strict=True)) / 7
        assert np.abs(after[name] - state[name] - mean).max() <= 2.0**-20 + np.spacing(np.abs(after[name])).max()
    rest = set(state) - set(training.exchanged(state))
    assert all(np.array_equal(after[name], initial_state()[name]) for name in rest)


def test_a_long_update_is_shortened_to_the_norm() -> None:
    t = terms(4, length=2, norm=100, fraction=0, limit=1000, weights=(1, 1, 1, 1), degree=2, threshold=2)
    start, end = {"param.a": np.zeros(2, np.float32)}, {"param.a": np.array([300, -400], np.float32)}
    assert training.update(t, 0, start, end).tolist() == [60, -80]
    with pytest.raises(ring.BadUpdate, match="noise of 0"):
        training.update(t, 0, start, end, np.zeros(2, np.int64))


# ---- noise -----------------------------------------------------------------------------------------------------------------


def noisy(**change: int) -> Terms:
    return terms(7, **{"length": 4000, "weights": (1,) * 7, "norm": 1000, "noise": 800, "limit": 1 << 20, **change})


def test_the_account_is_that_of_the_paper_and_grows_with_rounds_and_colluders() -> None:
    t = noisy()
    assert privacy.rho(t) == pytest.approx(1000**2 / (2 * 5 * 800**2))  # at this width a sum of discrete Gaussians is as good as one
    assert privacy.rho(t, colluding=3) == pytest.approx(1000**2 / (2 * 2 * 800**2))
    assert privacy.rho(noisy(noise=1, norm=1)) > 1 / (2 * 5)
    for bad in (noisy(noise=0, norm=5), terms()):
        with pytest.raises(ValueError, match="no privacy to account for"):
            privacy.rho(bad)
    with pytest.raises(ValueError, match="no privacy"):
        privacy.rho(t, colluding=5)


def test_noise_is_discrete_gaussian_and_its_loss_is_converted() -> None:
    pytest.importorskip("opendp", reason="the extra `privacy` is not installed")
    drawn = privacy.noise(noisy())
    assert drawn.dtype == np.int64
    assert abs(drawn.std() / 800 - 1) < 0.1
    one = privacy.epsilon([privacy.rho(noisy())], 1e-6)
    many = privacy.epsilon([privacy.rho(noisy())] * 10, 1e-6)
    plain = 10 * privacy.rho(noisy())
    assert one < many <= plain + 2 * math.sqrt(plain * math.log(1e6))  # the conversion of Bun and Steinke (2016) is looser


def test_without_opendp_noise_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opendp.prelude", None)
    with pytest.raises(RuntimeError, match=r"assay\[privacy\]"):
        privacy.noise(noisy())


def test_terms_that_break_the_theorem_are_refused() -> None:
    for change in ({"weights": (1, 2, 1, 1, 1, 1, 1)}, {"norm": 0}, {"limit": 16 * 800}):
        with pytest.raises(ValueError, match="noise"):
            noisy(**change)  # type: ignore[arg-type]


# ---- groups ----------------------------------------------------------------------------------------------------------------


def test_groups_are_even_and_of_three_at_least() -> None:
    parted = robust.groups(11, 3, b"seed")
    assert sorted(sum(parted, ())) == list(range(11))
    assert sorted(map(len, parted)) == [3, 4, 4]
    assert parted != robust.groups(11, 3, b"other")
    with pytest.raises(ValueError, match="at least 3"):
        robust.groups(8, 3, b"")


def sums(poison: dict[int, np.ndarray]) -> list[robust.Sum]:
    """Five groups of four owners, each update 100 give or take one; group i has `poison[i]` instead of its last."""
    rng, out = np.random.default_rng(3), []
    for g in range(5):
        t = terms(4, group=g, length=6, norm=400, weights=(1, 1, 1, 1), limit=1 << 12, degree=2, threshold=2)
        rows = rng.integers(99, 102, (4, 6))
        rows[3] = poison.get(g, rows[3])
        out.append(robust.Sum(t, rows.sum(axis=0).astype(np.int32), (0, 1, 2, 3)))
    return out


def test_a_long_lie_is_found_in_its_group_and_a_short_one_bends_no_median() -> None:
    found = sums({1: np.full(6, 1 << 12), 3: np.full(6, -160)})
    assert [robust.too_long(one) for one in found] == [False, True, False, False, False]
    means = [robust.finer_mean(one) for one in found if not robust.too_long(one)]
    for bent in (robust.median(means), robust.trimmed(means, 1)):
        assert np.abs(robust.real(bent, found[0].terms) * 2**12 - 100).max() <= 1
    plain = np.mean([robust.real(m, found[0].terms) * 2**12 for m in means], axis=0)
    assert np.abs(plain - 100).max() > 10
    odd = robust.median([np.array([1, 9]), np.array([5, 2]), np.array([3, 4])])
    assert odd.tolist() == [3, 4]
    with pytest.raises(ValueError, match="left out on both sides"):
        robust.trimmed(means, 2)


def test_means_that_would_not_fit_are_refused() -> None:
    t = terms(4, bits=64, length=2, limit=1 << 57, weights=(1, 1, 1, 1), degree=2, threshold=2)
    with pytest.raises(OverflowError):
        robust.finer_mean(robust.Sum(t, np.zeros(2, np.int64), (0, 1, 2)))


def test_names_of_rounds_differ_by_group() -> None:
    a, b = (terms(group=g) for g in (0, 1))
    assert digest(a) != digest(b)
    assert identity(0) != sha256(b"")
