"""The conformance set's digests (assay/_data/conformance.json), and what an engine makes of each case.

The digests come from the reference alone (`python -m assay.exact.conformance` writes them anew; a change of them is a change of the
specification). Every route and device must match them before it is trusted. `assay doctor --conformance` asks assay.exact.examination,
which runs the set route by route. What the cases are: assay.exact.cases.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from assay import merkle
from assay.exact import reference
from assay.exact.cases import BINARY, KINDS, UNARY, cases
from assay.exact.engines import engine
from assay.exact.hashing import tensor_root
from assay.exact.inputs import SPECIAL, Array, Case, Writer, floats, integers, program, words
from assay.exact.table import OPS
from assay.ids import Digest

__all__ = [
    "BINARY", "KINDS", "OPS", "SPECIAL", "UNARY", "Case", "Writer", "cases", "digest_of", "expected", "failures", "floats", "from_reference",
    "integers", "matches", "program", "run", "stages", "words",
]  # fmt: skip

DATA = Path(__file__).parent.parent / "_data" / "conformance.json"


def digest_of(outputs: Sequence[Array]) -> str:
    """Hex SHA-256 over the tensor roots."""
    return _digest([tensor_root(np.asarray(a)) for a in outputs])


def _digest(roots: Sequence[Digest]) -> str:
    return merkle.sha256(struct.pack(">I", len(roots)), *roots).hex()


def expected() -> dict[str, str]:
    """Name of a case -> digest of its outputs, as published."""
    data: dict[str, str] = json.loads(DATA.read_text())["digests"]
    return data


def from_reference() -> dict[str, str]:
    """The digests that the specification gives."""
    out = {}
    for case in cases():
        values = reference.evaluate(case.part, case.inputs, case.gemm_bits)
        out[case.name] = digest_of([values[o.value] for o in case.part.outputs])
    return out


def run(case: Case, threads: int = 1) -> list[Array]:
    """The outputs that this machine's engine gives."""
    return list(engine(program(case.part, case.gemm_bits), threads).run("micro", _named(case)).values())


def matches(case: Case, want: str | None, threads: int = 1) -> bool:
    """Whether this machine's engine gives the digest: as a fused plan, and stage by stage with every stage's root, as for a dispute."""
    made, named = engine(program(case.part, case.gemm_bits), threads), _named(case)
    if digest_of(list(made.run("micro", named).values())) != want:
        return False
    outputs, roots = made.trace("micro", named)
    first = len(case.inputs)
    return digest_of(list(outputs.values())) == _digest([roots[o.value - first] for o in case.part.outputs]) == want


def stages(case: Case, threads: int = 1) -> list[Digest]:
    """The tensor root of every node's result, as this machine's engine gives it for a trace."""
    return engine(program(case.part, case.gemm_bits), threads).trace("micro", _named(case))[1]


def _named(case: Case) -> dict[str, dict[str, Array]]:
    return {"batch": {f"x{i}": a for i, a in enumerate(case.inputs)}}


def failures(threads: int = 1) -> list[str]:
    """Names of the cases that the engine of this machine gets wrong: none, where its arithmetic can be trusted."""
    want = expected()
    return [case.name for case in cases() if not matches(case, want.get(case.name), threads)]


if __name__ == "__main__":
    DATA.write_text(json.dumps({"format": "assay-conformance/1", "digests": from_reference()}, indent=1) + "\n")
