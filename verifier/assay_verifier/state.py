"""What a verifier is told by its owner, and all that it remembers."""

from __future__ import annotations

import msgspec

from assay.chain import Reveal
from assay.dispute.moves import Open
from assay.ids import Address, Digest, DisputeId, SegmentId
from assay.messages import Boundary
from assay.role import RoleConfig, RoleState
from assay.tasks import UnitReplayed


class VerifierConfig(RoleConfig, frozen=True, kw_only=True):
    chain_id: int
    contract: str
    """Account of the Jobs contract: it is part of what is sealed."""
    attempts: int = 3
    """Replays of a link that fail by this node's own fault before it is given up."""
    patience: int = 60
    """Seconds of a drawn verifier's turn to begin a dispute, in the order of the draw, before it is the next one's."""


class UnitDuty(msgspec.Struct):
    """One drawn link."""

    unit: int
    boundary: Boundary | None = None
    fetched: bool = False
    keyed: bool = False
    opened: bool = False
    attempts: int = 0
    asks: int = 0
    replayed: UnitReplayed | None = None


class Duty(msgspec.Struct):
    """One draw of this node. The phases are those of assay_verifier.machine."""

    segment: SegmentId
    round: int
    salt: Digest
    units: dict[int, UnitDuty]
    phase: str = "gathering"
    supplied: bool = False
    """Program, shards and their keys are here."""
    grants: list[Address] = []
    """Who has released keys to this node for this draw. The key service does so, and each key holder, even when the keys are here from before:
    where it does not, it has found something wrong (a checkpoint whose key nobody can open), and there is no receipt."""
    unserved: bool = False
    """Its segment counts as served, and there is nothing here to check: it says no."""
    reveal: Reveal | None = None
    alone: bool = False
    """Its seal was sent by this node itself, because nobody brought it."""
    reveals: int = 0
    """Calls of `reveal` that were sent."""
    opening: bool = False
    """The openings are being made or sent."""


class Case(msgspec.Struct):
    """Something that this node disputes, or will. The phases are those of assay_verifier.challenging."""

    number: int
    segment: SegmentId
    rank: int
    """This node's place among the drawn verifiers."""
    since: int
    opening: Open
    """What it seals; the salt is nobody else's."""
    phase: str = "waiting"
    tries: int = 0
    not_before: int = 0
    shown: bool = False
    """The contract has the trace roots of the vote that it is against."""
    dispute: DisputeId | None = None


class VerifierState(RoleState):
    duties: dict[SegmentId, Duty] = msgspec.field(default_factory=dict)
    past: dict[SegmentId, Duty] = msgspec.field(default_factory=dict)
    """Of draws that are over, whose files are kept for a dispute."""
    cases: dict[int, Case] = msgspec.field(default_factory=dict)
    case_count: int = 0
    done: int = 0
    """Duties that ended with an opening."""
    disagreed: int = 0
