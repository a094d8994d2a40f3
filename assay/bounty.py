"""Payment by result: what a bounty's terms say of an evaluation, and what is read out of its last state (contracts/src/Bounties.sol).

    sponsor locks the last rung --> training is over, its last settled state is known --> evaluation, a job like any other, starts from that state
    --> its settled end holds the metric --> a Merkle path shows it --> the reached rung is paid to the training's providers, by links

What the evaluation computes is fixed with the offer, before the training has ended: its weights are entries of the state it starts from
(assay.forward, `live`), so that program and records can be committed to beforehand, and the start follows from the training's end.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from assay import merkle
from assay.chain import BountyTerms, Entry, Evaluated, Terms
from assay.exact.hashing import tensor_root
from assay.exact.types import DTYPE_CODES
from assay.ids import Digest
from assay.state import Array, Tensors, tensor_roots

T = TypeVar("T")
ZEROS = Digest(bytes(32))
F32, I64 = DTYPE_CODES["f32"][0], DTYPE_CODES["i64"][0]
NUMPY: dict[int, np.dtype[Any]] = {F32: np.dtype("<f4"), I64: np.dtype("<i8")}


class NoMatch(ValueError):
    """A state that is not what the bounty is about."""


# ---- thresholds ------------------------------------------------------------------------------------------------------------


def order(bits: int) -> int:
    """A number for the bits of each float32 but NaN, in the order of what they stand for (both zeros are 0)."""
    magnitude = bits & 0x7FFFFFFF
    return -magnitude if bits >> 31 else magnitude


def is_nan(bits: int) -> bool:
    return bits & 0x7FFFFFFF > 0x7F800000


def threshold(value: float, dtype: int) -> int:
    """`value` as a rung has it. Raises ValueError for what is no number of the dtype."""
    if dtype == I64:
        if value != int(value):
            raise ValueError(f"{value:g} is no whole number")
        return int(value)
    bits = struct.unpack("<I", struct.pack("<f", value))[0]
    if is_nan(bits):
        raise ValueError("NaN is no threshold")
    return order(bits)


def figure(threshold: int, dtype: int) -> float:
    """What a rung's threshold stands for."""
    if dtype == I64:
        return threshold
    return float(struct.unpack("<f", struct.pack("<I", abs(threshold) | (threshold < 0) << 31))[0])


def reached(terms: BountyTerms, value: int) -> int:
    """What is paid for a result of these bits."""
    if terms.dtype == F32:
        if is_nan(value):
            return 0
        found = order(value)
    else:
        found = value - (1 << 64) if value >> 63 else value
    met = [r.amount for r in terms.rungs if (found <= r.threshold if terms.at_most else found >= r.threshold)]
    return max(met, default=0)


# ---- states ----------------------------------------------------------------------------------------------------------------


def entry_leaf(place: int, name: bytes, root: bytes) -> Digest:
    return merkle.leaf(place, struct.pack(">H", len(name)) + name + root)


def entries_of(state: Mapping[str, Array]) -> tuple[Entry, ...]:
    """All entries of a state, in the order of its tree."""
    roots = tensor_roots(state)
    return tuple(Entry(name=name.encode(), root=roots[name]) for name in sorted(roots, key=str.encode))


def root_of(step: int, entries: Sequence[Entry]) -> Digest:
    """State root."""
    return root_over(step, len(entries), merkle.root([entry_leaf(i, e.name, e.root) for i, e in enumerate(entries)]))


def root_over(step: int, count: int, entries: bytes) -> Digest:
    """State root, from the root of its entries' tree."""
    return merkle.sha256(struct.pack(">BQI", 0x11, step, count), entries)


def started(start: Sequence[Entry], trained: Sequence[Entry]) -> tuple[Entry, ...]:
    """The entries that the evaluation starts from, with what the training left. Raises NoMatch."""
    left = {e.name: e.root for e in trained}
    if missing := next((e.name for e in start if e.root == ZEROS and e.name not in left), None):
        raise NoMatch(f"the training leaves no {missing.decode(errors='replace')!r}")
    return tuple(Entry(name=e.name, root=left[e.name]) if e.root == ZEROS else e for e in start)


def live(state: Mapping[str, T]) -> dict[str, T]:
    """The model's part of a training's state: what an evaluation may read."""
    return {name: entry for name, entry in state.items() if name.startswith(("param.", "buffer."))}


def template(state: Mapping[str, Array], live: Sequence[str]) -> tuple[Entry, ...]:
    """`start` of the terms: the evaluation's initial state, with the entries `live` to come from the training."""
    return tuple(Entry(name=e.name, root=ZEROS) if e.name.decode() in live else e for e in entries_of(state))


def place_of(terms: BountyTerms) -> int:
    """Of the metric among the entries. Raises NoMatch."""
    for place, entry in enumerate(terms.start):
        if entry.name == terms.metric:
            return place
    raise NoMatch(f"the evaluation has no {terms.metric.decode(errors='replace')!r}")


def scalar_root(dtype: int, value: int) -> Digest:
    """Tensor root of a tensor without axes, by its bits."""
    kind = NUMPY[dtype]
    return tensor_root(np.frombuffer(value.to_bytes(kind.itemsize, "little"), kind).reshape(()))


def metric_leaf(terms: BountyTerms, value: int) -> Digest:
    """Hash of the metric's entry in the evaluation's last state."""
    return entry_leaf(place_of(terms), terms.metric, scalar_root(terms.dtype, value))


def shown(terms: BountyTerms, state: Tensors) -> tuple[int, tuple[Digest, ...]]:
    """The metric's bits in the evaluation's last state, and the path of its entry. Raises NoMatch."""
    name = terms.metric.decode(errors="replace")
    array = state.get(name)
    if array is None or array.shape != () or array.dtype != NUMPY[terms.dtype]:
        raise NoMatch(f"the evaluation's last state has no {name!r} of the bounty's kind")
    leaves = [entry_leaf(i, e.name, e.root) for i, e in enumerate(entries_of(state))]
    return int.from_bytes(array.tobytes(), "little"), merkle.prove(leaves, place_of(terms))


# ---- the evaluation's job ----------------------------------------------------------------------------------------------------


def evaluated(terms: Terms) -> Evaluated:
    """What a bounty fixes of an evaluation's terms."""
    return Evaluated(**{name: getattr(terms, name) for name in Evaluated.__struct_fields__})


def record_order(program_root: Digest) -> Digest:
    """Key of the permutation of the records: fixed by the program alone, since the state is not known yet."""
    return merkle.sha256(b"assay/bounty-order/1", program_root)
