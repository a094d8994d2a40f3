"""Links of a segment: where a link stands, and which committed ends it names (docs/protocol.md, "link ends").

Step t of a segment [a, b) with M micro-batches has the links (t-a)(M+1) … (t-a)(M+1)+M, the last of them its update. A link's own end
has its index; before it lie the state before the step and, inside a step, the accumulator before the link.
"""

from __future__ import annotations


def place(unit: int, micro_batches: int) -> tuple[int, int]:
    """(step from the segment's start, m) of a link; m = M is the update."""
    return divmod(unit, micro_batches + 1)


def named_ends(unit: int, micro_batches: int) -> tuple[int, ...]:
    """Indices of the link ends that a link names, in the order of messages.Boundary.link_ends: of the state before its step (unless
    that is the segment's first: there it is the parent's end), of the accumulator before it (unless it is the step's first), its own."""
    step, m = place(unit, micro_batches)
    before = (step * (micro_batches + 1) - 1,) if step else ()
    return (*before, *((unit - 1,) if m else ()), unit)


def count(steps: int, micro_batches: int) -> int:
    """Links of a segment of `steps` steps."""
    return steps * (micro_batches + 1)
