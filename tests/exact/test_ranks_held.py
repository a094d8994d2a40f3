"""A training that stays with several ranks has the ends of one engine's, link by link, on processors and on (fake) devices; what crosses is batches
and what roots are made of; it comes back where the ranks are wanted for something else; a rank with other bits than the others is found."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import numpy as np
import pytest

from assay.course import Course, StepRecord, course
from assay.exact import engines, trainings
from assay.exact.cpu import Cpu
from assay.exact.cuda import fake
from assay.exact.hashing import BadTensors
from assay.exact.ranks.choice import on_device
from assay.exact.ranks.device import Stages
from assay.exact.ranks.exchanges import RankLost
from assay.exact.ranks.host import Host
from assay.exact.ranks.places import BOTH, DATA, TENSOR, Layout
from assay.exact.ranks.roots import stretch
from assay.exact.ranks.split import Entry
from assay.exact.ranks.team import Crew, Team, crew
from assay.execute import Executor
from assay.state import acc_root_of, state_root_of, to_bytes
from tests.exact.ranks_here import Counting, opened, texts
from tests.exact.support import FAMILIES, first_inputs

layouts = pytest.mark.parametrize("layout", [DATA, TENSOR, BOTH], ids=["data", "tensor", "both"])
needs_fake = pytest.mark.skipif(fake.compiler() is None, reason="the fake device needs a C++ compiler")


def begun(name: str, engine: Any) -> tuple[Course, Executor]:
    training = trainings.load(name)
    executor = Executor(training.program, training.schedule, training.program.micro_batches, engine=engine)
    return course(executor, 0, trainings.initial(training.program)), executor


def stepped(name: str, going: Course, steps: int) -> list[StepRecord]:
    return [going.step(partial(trainings.batch, trainings.load(name).program)) for _ in range(steps)]


def alone(name: str, steps: int) -> list[StepRecord]:
    return stepped(name, begun(name, Cpu(trainings.load(name).program))[0], steps)


def same(name: str, team: Team, steps: int = 2) -> None:
    going, _ = begun(name, team)
    assert not going.here
    assert stepped(name, going, steps) == alone(name, steps)


@layouts
@pytest.mark.parametrize("name", FAMILIES)
def test_every_link_ends_as_one_engines(name: str, layout: Layout) -> None:
    for size in (2, 3):
        with Team(trainings.load(name).program, layout, crew(size, processes=False)) as team:
            same(name, team)


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Each rank, a thread of this process, has a fake device of its own; tells which."""
    made: dict[int, fake.Fake] = {}

    def prepared(name: str, layout: Layout, size: int, peers: bool = True) -> dict[int, Counting]:
        compiled = texts(trainings.load(name).program, layout, size)

        def own() -> engines.Opened:
            made[threading.get_ident()] = device = Counting(peers=peers)
            return opened(peers, compiled, device)

        monkeypatch.setattr(engines, "opened", own)
        return made  # type: ignore[return-value]

    return prepared


@needs_fake
@pytest.mark.parametrize(
    ("name", "layout", "size", "peers"),
    [("mlp", DATA, 2, True), ("mlp", TENSOR, 3, False), ("batchnorm", BOTH, 2, True), ("gpt", DATA, 2, True), ("gpt", TENSOR, 2, True)],
)
def test_on_devices_too(name: str, layout: Layout, size: int, peers: bool, devices: Any) -> None:
    devices(name, layout, size, peers)
    with Team(trainings.load(name).program, layout, crew(size, processes=False)) as team:
        same(name, team)


@needs_fake
@pytest.mark.slow
@layouts
@pytest.mark.parametrize("name", trainings.FAMILIES)
def test_all_families_on_devices(name: str, layout: Layout, devices: Any) -> None:
    devices(name, layout, 2)
    with Team(trainings.load(name).program, layout, crew(2, processes=False)) as team:
        same(name, team)


@needs_fake
@layouts
def test_what_crosses_to_devices_is_batches_and_what_roots_are_made_of(layout: Layout, devices: Any) -> None:
    """Not the state, nor what stages hand on; beside eight bytes of each digest, and of each look at the count of wrong checksums."""
    program, made = trainings.load("mlp").program, devices("mlp", layout, 2)
    with Team(program, layout, crew(2, processes=False)) as team:
        going, _ = begun("mlp", team)
        stepped("mlp", going, 1)
        for device in made.values():
            device.up = device.down = 0
        assert stepped("mlp", going, 1) == alone("mlp", 2)[1:]
        m, brought = program.micro_batches, sum(t.bytes for t in program.batch.values())
        kinds = {kind: [(t, place) for (k, _), (t, place) in team.entries.items() if k == kind] for kind, _ in team.entries}
        batch = {place for _, place in kinds["batch"]}
        counters, scalars = (sum(t.bytes for t, _ in kinds.get(kind, ())) for kind in ("counter", "scalar"))
        looks = sum((m if part == "micro" else 1) * (4 * len(s.exchanges) + 2) for part in ("micro", "update") for s in team._forms[0][part].stages)
        roots = {kind: max(sum(stretch(t, place, rank).size for t, place in kinds[kind]) for rank in (0, 1)) for kind in ("acc", "state")}
        planned = max(on_device(program, team._forms[rank], rank, 2, fake.Fake().description) for rank in (0, 1))
        loss = program.accumulator["loss"].bytes
        for device in made.values():
            assert device.up == m * (brought // (2 if batch != {None} else 1) + counters) + counters + scalars
            assert device.down <= m * roots["acc"] + roots["state"] + loss + 8 * looks
            assert sum(buffer.size for buffer in device._held) <= planned


@layouts
def test_it_comes_back_where_the_ranks_are_wanted_and_goes_on(layout: Layout) -> None:
    """Another training of the same program, a link by itself, and another program, on the same crew, in between."""
    made = crew(2, processes=False)
    teams = {name: Team(trainings.load(name).program, layout, made) for name in ("mlp", "batchnorm")}
    first, second, other = (begun(name, teams[name])[0] for name in ("mlp", "mlp", "batchnorm"))
    want = {name: alone(name, 3) for name in teams}
    assert stepped("mlp", first, 1) == want["mlp"][:1]
    assert stepped("mlp", second, 2) == want["mlp"][:2]
    assert stepped("mlp", first, 1) == want["mlp"][1:2]
    assert stepped("batchnorm", other, 1) == want["batchnorm"][:1]
    acc, _ = first.accumulator(1, partial(trainings.batch, trainings.load("mlp").program))
    inputs = first_inputs("mlp")
    ran = teams["mlp"].run("micro", inputs)
    assert {n: a.tobytes() for n, a in ran.items()} == {n: a.tobytes() for n, a in Cpu(trainings.load("mlp").program).run("micro", inputs).items()}
    assert stepped("mlp", first, 1) == want["mlp"][2:]
    assert stepped("batchnorm", other, 2) == want["batchnorm"][1:]
    assert stepped("mlp", second, 1) == want["mlp"][2:]
    assert to_bytes(first.state()) == to_bytes(second.state())
    assert set(acc) == set(trainings.load("mlp").program.accumulator)
    made.close()


def test_what_was_added_comes_back_too() -> None:
    training = trainings.load("mlp")
    p, batch = training.program, partial(trainings.batch, training.program, 0)
    with Team(p, BOTH, crew(2, processes=False)) as team:
        held, other = team.resident(), team.resident()
        held.put(trainings.initial(p))
        ends = held.micros(0, p.micro_batches, batch)
        other.put({name: array + 1 for name, array in trainings.initial(p).items()})
        other.micros(0, 1, batch)
        after = held.update(0, {name: training.schedule[0, i] for i, name in enumerate(p.scalars)})
        held.put(held.state())
        assert held.micros(1, 1, partial(trainings.batch, p, 1), rooted=False) == []
    record = alone("mlp", 1)[0]
    assert (*(acc_root_of(0, m + 1, roots) for m, roots in enumerate(ends)), state_root_of(1, after)) == record.ends


class Flipped:
    """Rank 1's piece of an entry of the state has another bit."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, where: type[Host] | type[Stages], rank: Any) -> None:
        put = where.put

        def wrong(kept: Any, entry: Entry, piece: Any) -> None:
            if rank(kept) == 1 and entry[0] == "state":
                piece = piece.copy()
                piece.reshape(-1).view(np.uint8)[0] ^= 1
            put(kept, entry, piece)

        monkeypatch.setattr(where, "put", wrong)


def test_other_bits_of_what_every_rank_has_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    Flipped(monkeypatch, Host, lambda kept: kept._comm.rank)
    with Team(trainings.load("mlp").program, DATA, crew(2, processes=False)) as team:
        going, _ = begun("mlp", team)
        with pytest.raises(RankLost, match="different bits of"):
            stepped("mlp", going, 1)
        assert not team.crew.size


@needs_fake
def test_on_devices_they_are_found_too(monkeypatch: pytest.MonkeyPatch, devices: Any) -> None:
    devices("mlp", DATA, 2)
    Flipped(monkeypatch, Stages, lambda kept: kept._on.comm.rank)
    with Team(trainings.load("mlp").program, DATA, crew(2, processes=False)) as team:
        going, _ = begun("mlp", team)
        with pytest.raises(RankLost, match="different bits of"):
            stepped("mlp", going, 1)


def test_what_the_program_does_not_take_is_refused() -> None:
    p = trainings.load("mlp").program
    state = trainings.initial(p)
    name = next(iter(state))
    with Team(p, TENSOR, crew(2, processes=False)) as team:
        held = team.resident()
        with pytest.raises(BadTensors, match="the program takes"):
            held.put(state | {name: state[name][..., None]})
        held.put(state)
        with pytest.raises(BadTensors, match="is not there"):
            held.micros(0, 1, lambda m: {})


def test_a_crew_that_is_over_says_so() -> None:
    made: Crew = crew(2, processes=False)
    going, _ = begun("mlp", Team(trainings.load("mlp").program, DATA, made))
    stepped("mlp", going, 1)
    made.close()
    with pytest.raises(RankLost, match="closed"):
        stepped("mlp", going, 1)
