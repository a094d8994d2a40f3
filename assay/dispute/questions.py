"""What is asked off chain about the inside of a link, by who checks it and plays no dispute: nodes of a tree of its provider's.

    ends     over all link ends of the segment     its root is on chain
    trace    over the leaves of a link's trace     its last leaf is the committed end
    stage    over the chunks of a stage's output   its root is in the trace
    end      over the entries of the link's end    its root is in the committed end
    entry    over the chunks of one of them        its root is in the entry
"""

from __future__ import annotations

import enum

from assay.codec import Message
from assay.dispute.served import Nodes, Wanted
from assay.ids import U32, U63


class Kind(enum.StrEnum):
    ENDS = "ends"
    TRACE = "trace"
    STAGE = "stage"
    END = "end"
    ENTRY = "entry"


class Question(Message, frozen=True, kw_only=True):
    """What lies below a node of one of the trees of a segment's link."""

    kind: Kind
    unit: U63 = 0
    """Which link; 0 for the ends of all."""
    at: U32 = 0
    """Which stage, or which entry by name; 0 elsewhere."""
    wanted: Wanted


class Told(Message, frozen=True, kw_only=True):
    """A question and its answer."""

    question: Question
    nodes: Nodes


class Parted(Message, frozen=True, kw_only=True):
    """Where two runs of a link part first, in the order of its stages."""

    stage: int | None
    """None: in what is no stage's output, the inputs that the link names or the end that it hands on."""
    what: str
    """The stage with its operator, or the tensor, in words."""
    element: U63 | None = None
    """Counted in row-major order; None where the other side did not show so much."""
    ours: str = ""
    theirs: str = ""
    """The element's values."""
