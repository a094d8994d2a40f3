"""Liars of the product, for `assay sim --liars`: the honest part with one thing replaced. (tests/liars has many more.)"""

from __future__ import annotations

from assay.ids import Digest
from assay.merkle import sha256
from assay.sim.cast import HONEST, WORKER, Part
from assay.sim.hands import Hands
from assay.sim.toy import Link, Toy


class InventsEverything(Hands):
    """Commits to a segment of which it has computed nothing."""

    def run(self, toy: Toy, start: int, stop: int, state: Digest) -> list[Link]:
        made_up = [link._replace(end=sha256(b"made up", link.end)) for link in toy.links(start, stop, state)]
        return [made_up[0], *(link._replace(state=made_up[0].end) for link in made_up[1:])]


INVENTS_EVERYTHING = Part(HONEST[WORKER].machine, lambda me: InventsEverything(me.chain, me.keys, me.options))
