"""`assay submit --takeover`: with whom others may go on placing a job when its scheduler is silent (docs/scheduler.md)."""

from __future__ import annotations

from typing import Any

from assay.cli.common import FAILED, USAGE, Trouble
from assay.ids import address
from assay.successors import reliable


def successors(named: list[str] | None) -> tuple[str, ...] | None:
    """Of Order. Raises Trouble."""
    words = set(named or ["anybody"]) & {"anybody", "reliable"}
    if words and len(named or words) > 1:
        why = f"--takeover {words.pop()} stands beside another"
        raise Trouble("a takeover is with anybody, with reliable providers, or with those that are named", why, code=USAGE)
    return None if words == {"anybody"} else () if words else tuple(named or ())


async def successors_of(node: Any, named: tuple[str, ...] | None) -> dict[str, Any]:
    """`takeovers` and `successors` of the wish. Raises Trouble."""
    if named is None:
        return {}
    from assay.cli.submit import read_all

    if not node.chain.takeovers:
        raise Trouble("this network has no contract for takeovers", "Takeovers is not deployed on it", "--takeover anybody", FAILED)
    try:
        found = tuple(address(text) for text in named) or reliable(await read_all(node.chain, node.depth))
    except ValueError as error:
        raise Trouble("a provider's account is malformed", str(error), code=USAGE) from None
    if not found:
        what = "nobody can be listed for a takeover"
        raise Trouble(what, "no provider has settled anything on this contract", "--takeover ACCOUNT, or --takeover anybody", FAILED)
    return {"takeovers": node.chain.takeovers, "successors": found}
