"""aarch64, emulated: the NEON route and the portable one give the committed digests, operator by operator and in every family's training.

QEMU does what the instructions mean, not in their time, and orders memory as this machine does: what threads see of each other on a
weaker processor is not tested so.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from assay import sealed_records
from assay.exact import conformance, cpu, examination, faults, hashing, trainings
from assay.exact.examination import Route
from assay.exact.native import build
from tests.exact import emulated
from tests.exact.test_checksums import PLACES, Product

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(emulated.missing()), reason=emulated.missing())]
FEATURES = frozenset({"asimd", "sha2"})
ROUTES = [Route(level, threads) for level in ("portable", "neon") for threads in (1, 2)]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Level -> the program, compiled with the flags that an aarch64 machine would take."""
    folder = tmp_path_factory.mktemp("aarch64")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "features", lambda: FEATURES)
        assert build.levels() == ["portable", "neon"]
        return {level: emulated.compiled(folder / level, build._flags(level)) for level in build.levels()}


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], emulated.Emulated]]:
    """Makes the engine and the hashing use a program."""
    made: list[emulated.Emulated] = []

    def chosen(program: Path) -> emulated.Emulated:
        made.append(emulated.Emulated(program))
        monkeypatch.setattr(cpu.Native, "bind", emulated.naming(made[-1]))
        for module in (cpu, hashing):
            monkeypatch.setattr(module, "library", lambda: made[-1])
        return made[-1]

    yield chosen
    for library in made:
        library.close()


@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_every_operator(route: Route, programs: dict[str, Path], use: Callable[[Path], emulated.Emulated], monkeypatch: pytest.MonkeyPatch) -> None:
    use(programs[route.level])
    monkeypatch.setattr(build, "features", lambda: FEATURES)
    assert examination.operators(route) == []


@pytest.mark.skipif(not shutil.which("clang"), reason="wants clang")
def test_every_operator_as_clang_compiles_it(tmp_path: Path, use: Callable[[Path], emulated.Emulated], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "features", lambda: FEATURES)
    use(emulated.compiled(tmp_path / "neon", build._flags("neon"), compiler=emulated.CLANG))
    assert examination.operators(Route("neon", 2)) == []


@pytest.mark.parametrize("family", trainings.FAMILIES)
def test_every_training(family: str, programs: dict[str, Path], use: Callable[[Path], emulated.Emulated], monkeypatch: pytest.MonkeyPatch) -> None:
    use(programs["neon"])
    monkeypatch.setattr(build, "features", lambda: FEATURES)
    assert examination.trained(Route("neon", 2), family) == []


@pytest.mark.parametrize(("place", "k", "bits"), [(place, k, bits) for place in PLACES for k, bits in [(300, 14), (300, 15), (90, 23)]])
def test_every_flip_is_caught(place: str, k: int, bits: int, programs: dict[str, Path], use: Callable[[Path], emulated.Emulated]) -> None:
    library = use(programs["neon"])
    product = Product("neon", 2, 61, k, 70, bits)
    rng = np.random.default_rng(1)
    for turn in range(40):
        before = faults.count()
        library.inject(PLACES[place], int(rng.integers(1 << 20)), turn if place == "sum" else turn % 32, 1)
        assert product.run(), "a flipped bit reached the result"
        assert faults.count() == before + 1, f"turn {turn}: nobody noticed"


@pytest.mark.parametrize("level", ["portable", "neon"])
def test_sealed_records(level: str, programs: dict[str, Path], use: Callable[[Path], emulated.Emulated], monkeypatch: pytest.MonkeyPatch) -> None:
    library = use(programs[level])
    for count, width in [(1, 1), (5, 23), (9, 64), (6, 65), (7, 300), (2, 4096)]:
        rows, made = np.random.default_rng(count).integers(0, 256, (count, width), np.uint8), []
        for native in (library, None):
            monkeypatch.setattr(sealed_records, "library", lambda native=native: native)
            made.append(sealed_records.seal_records(rows, bytes(range(32))))
        assert made[0] == made[1]
        monkeypatch.setattr(sealed_records, "library", lambda: library)
        opened = sealed_records.Reader(made[1][0]).open(bytes(range(32)))
        assert (opened.rows.tobytes(), opened.root, opened.listed) == (rows.tobytes(), made[1][1], True)


CHANGES = {
    "odd elements are multiplied by even ones": ("neon.h", "c.val[1], x, at + 1)", "c.val[1], x, at)"),
    "the checksum leaves out odd elements": ("neon.h", "c.val[1], x, 1)", "c.val[1], x, 0)"),
    "products are widened one pair too late": ("gemm.c", "? INT32_MAX / (2 *", "? 1 + INT32_MAX / (2 *"),
    "rows are summed over one vector of a panel": ("pack.c", "if (g) { memcpy(&before", "if (0) { memcpy(&before"),
    "two elements of a transposition change places": ("pack.c", "ca = vzip2q_f32(a, c)", "ca = vzip2q_f32(c, a)"),
    "subnormals are flushed": ("assay.h", "STANDARD_FLOATS 0\n", "STANDARD_FLOATS (1 << 24)\n"),
    "everything is rounded up": ("assay.h", "STANDARD_FLOATS 0\n", "STANDARD_FLOATS (1 << 22)\n"),
    "one step less of the messages' schedule": ("sha256.c", "if (i < 12) w[l][i & 3] = vsha256su1q", "if (i < 11) w[l][i & 3] = vsha256su1q"),
    "a multiplication and an addition are one": ("build.py", "-ffp-contract=off", "-ffp-contract=fast"),
}
"""What is wrong -> file, what it says, what it says instead; of build.py, a flag."""


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_the_code_is_found(name: str, tmp_path: Path, use: Callable[[Path], emulated.Emulated], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "features", lambda: FEATURES)
    flags, (file, old, new) = build._flags("neon"), CHANGES[name]
    for source in (*build.SOURCES, *build.HEADERS):
        shutil.copy(Path(build.__file__).parent / source, tmp_path)
    if file == "build.py":
        flags = tuple(new if flag == old else flag for flag in flags)
    else:
        text = (tmp_path / file).read_text()
        assert old in text, f"{file} has no `{old}`: choose another fault"
        (tmp_path / file).write_text(text.replace(old, new))
    use(emulated.compiled(tmp_path / "changed", flags, tmp_path))
    want = conformance.expected()

    def wrong(case: conformance.Case) -> bool:
        try:
            return not conformance.matches(case, want[case.name], 2)
        except faults.HardwareFault:  # a product that the checksum refuses is found, too
            return True

    assert any(wrong(case) for case in conformance.cases())
