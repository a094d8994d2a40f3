"""What the chain draws, and the digests that bind it: the formulas of docs/protocol.md, the same as in contracts/src.

A link (the unit that is drawn) is named by its index in the segment: of micro-batch m of step t, `(t - start) * (M + 1) + m`;
of the update, `(t - start) * (M + 1) + M`. All randomness is SHA-256 of a block hash that did not exist when the commitment
was made; integers are big-endian.
"""

from __future__ import annotations

from collections.abc import Sequence

from assay import cid
from assay.chain import Terms
from assay.dispute.moves import Open
from assay.ids import Address, Cid, Digest, JobId, SegmentId
from assay.merkle import sha256

TRIES = 64
"""Seats that are looked at to find a round's verifiers among those not drawn before in the segment, and once more to find others."""
MOST_LINKS = 16
"""Links that one round may draw."""
MOST_UNITS = 64
"""Units that a segment's rounds may check together: each costs every verifier a replay and a trace root on chain."""
BLOCKHASH_REACH = 256
"""Blocks; how far back the EVM knows hashes (BLOCKHASH, yellow paper H.2)."""


def raw(address: Address) -> bytes:
    """The account's 20 bytes."""
    return bytes.fromhex(address[2:])


def u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def u64(value: int) -> bytes:
    return value.to_bytes(8, "big")


def u256(value: int) -> bytes:
    return value.to_bytes(32, "big")


def is_update(unit: int, micro_batches: int) -> bool:
    """Whether link `unit` is a step's update (and not one of its micro-batches)."""
    return unit % (micro_batches + 1) == micro_batches


def leaves_of(unit: int, terms: Terms) -> int:
    """Number of leaves in the trace of link `unit`."""
    return terms.update_leaves if is_update(unit, terms.micro_batches) else terms.micro_leaves


def commitment(
    chain_id: int,
    jobs: Address,
    job: JobId,
    parent: Digest,
    program_root: Digest,
    start: int,
    stop: int,
    link_root: Digest,
    checkpoint: Cid,
    key_id: Digest,
) -> Digest:
    """Names all that a provider asserts; `parent` is the parent's commitment, or the job's spec digest. Raises cid.BadCid."""
    return commitment_to(chain_id, jobs, job, parent, program_root, start, stop, link_root, checkpoint_digest(checkpoint), key_id)


def checkpoint_digest(checkpoint: Cid) -> Digest:
    """What a commitment holds of a checkpoint. Raises cid.BadCid."""
    return sha256(cid.to_bytes(checkpoint))


def commitment_to(
    chain_id: int,
    jobs: Address,
    job: JobId,
    parent: Digest,
    program_root: Digest,
    start: int,
    stop: int,
    link_root: Digest,
    checkpoint: Digest,
    key_id: Digest,
) -> Digest:
    """The same, of the checkpoint's digest."""
    head = (b"\x13", u256(chain_id), raw(jobs), u64(job), parent, program_root, u64(start), u64(stop))
    return sha256(*head, link_root, checkpoint, key_id)


def seed(block_hash: Digest, segment: SegmentId, round: int) -> Digest:
    return sha256(b"\x20", block_hash, u64(segment), u32(round))


def seed_block(due: int, number: int) -> int:
    """The block whose hash seeds a draw that was due from block `due`, when the draw is mined in block `number` (> due)."""
    late = number - due
    return due if late <= BLOCKHASH_REACH else due + (late - 1) // BLOCKHASH_REACH * BLOCKHASH_REACH


def units(seed: Digest, terms: Terms, steps: int, round: int = 0) -> tuple[int, ...]:
    """The links that one round draws in a segment of `steps` steps: `terms.params.links`, with replacement, in proportion to weight.
    The round checks these and those of all earlier rounds, which come first. With no links in the terms round 0 draws every link of the
    segment, in order, and later rounds none."""
    m, micro, update = terms.micro_batches, terms.micro_weight, terms.update_weight
    if terms.params.links == 0:
        return tuple(range(steps * (m + 1))) if round == 0 else ()
    per_step = m * micro + update
    out = []
    for j in range(terms.params.links):
        x = int.from_bytes(sha256(b"\x21", seed, u32(j)), "big") % (steps * per_step)
        step, rest = divmod(x, per_step)
        out.append(step * (m + 1) + (rest // micro if rest < m * micro else m))
    return tuple(out)


def slot(seed: Digest, attempt: int, seats: int) -> int:
    """The place that try `attempt` looks at, of `seats` there were when the seed block was fixed."""
    return int.from_bytes(sha256(b"\x22", seed, u32(attempt)), "big") % seats


def listed(seed: Digest, verifiers: Sequence[Address]) -> list[Address]:
    """The order in which a draw asks those whom a job's data admit (assay.licensing.Admissions): a shuffle by Fisher and Yates."""
    order = list(verifiers)
    for i in range(len(order)):
        k = i + slot(seed, i, len(order) - i)
        order[i], order[k] = order[k], order[i]
    return order


def attestation(
    chain_id: int, jobs: Address, segment: SegmentId, round: int, agrees: bool, trace_roots: Sequence[Digest], verifier: Address, salt: Digest
) -> Digest:
    """What a verifier seals before it reveals `agrees` and the trace roots of the round's units, in their order."""
    head = (b"\x23", u256(chain_id), raw(jobs), u64(segment), u32(round), bytes([agrees]))
    return sha256(*head, *trace_roots, raw(verifier), salt)


def seals(row: Sequence[tuple[Address, Digest]]) -> bytes:
    """A committee's seals, in the order of the draw, as `Spread` shows them: account and digest of each."""
    return b"".join(raw(who) + digest for who, digest in row)


def opening(block_hash: Digest, segment: SegmentId, verifier: Address, j: int, units: Sequence[int], terms: Terms) -> tuple[int, int]:
    """Which leaf opening `j` of a verifier must show: (position in `units`, leaf of that unit's trace)."""
    x = int.from_bytes(sha256(b"\x24", block_hash, u64(segment), raw(verifier), u32(j)), "big")
    position = x % len(units)
    return position, (x // len(units)) % leaves_of(units[position], terms)


def chunk(block_hash: Digest, segment: SegmentId) -> int:
    """The number that names the chunk which the provider of an unserved segment is to show (assay.hearing)."""
    return int.from_bytes(sha256(b"\x26", block_hash, u64(segment)), "big")


def dispute(chain_id: int, disputes: Address, segment: SegmentId, challenger: Address, move: Open) -> Digest:
    """What a challenger seals before it opens a dispute with `move`. Raises OverflowError for numbers that do not fit."""
    head = (b"\x25", u256(chain_id), raw(disputes), u64(segment), bytes([move.target]), u64(move.unit))
    return sha256(*head, raw(move.verifier), u32(move.round), move.salt, raw(challenger))
