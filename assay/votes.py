"""Whether a vote that somebody hands over would be taken: it is what was sealed, and it opens the leaves that were drawn.

The contract asks the same of it (contracts/src/jobs/Votes.sol). Who brings the votes of several verifiers in one transaction asks first,
because one bad vote would have the whole call refused.
"""

from __future__ import annotations

from assay import draw, merkle
from assay.chain import Reveal
from assay.ids import Address, Digest
from assay.tasks import VerifyVote


def is_sealed(chain_id: int, jobs: Address, task: VerifyVote) -> bool:
    """Whether the vote is that of the digest."""
    vote = task.vote
    told = (vote.agrees, vote.trace_roots, vote.verifier, vote.salt)
    return len(vote.trace_roots) == len(task.units) and draw.attestation(chain_id, jobs, task.segment, task.round, *told) == task.digest


def is_opened(block_hash: Digest, task: VerifyVote) -> bool:
    """Whether it opens all leaves that `block_hash`, that of the openings' block, draws."""
    vote: Reveal = task.vote
    if len(vote.openings) != task.terms.params.openings:
        return False
    for j, opening in enumerate(vote.openings):
        position, leaf = draw.opening(block_hash, task.segment, vote.verifier, j, task.units, task.terms)
        leaves = draw.leaves_of(task.units[position], task.terms)
        if not merkle.verify(vote.trace_roots[position], leaves, leaf, merkle.leaf(leaf, opening.leaf), opening.proof):
            return False
    return True
