"""A proof of hardware: claim, seed, answer, opening and check. Pure; who holds the memory is behind `Bench` (assay.proving.benches).

`check` computes again what is drawn and looks up the rest under the committed roots:

    BLOCKS   random blocks, each with the chunks of the nine that it was mixed from; those of level 0 with nothing
    steps    random products: the whole state before, and SLABS random slabs of rows of the matrix and of the state after

A share e of blocks that are not what they should be is found with probability 1 - (1 - e)^BLOCKS, a share of steps likewise.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from assay import merkle
from assay.codec import Message, encode
from assay.ids import Address, Digest
from assay.proving import held, products
from assay.proving.products import CHUNK

MAX_LEVELS, MAX_LANES, MAX_SIDE, MAX_PRODUCTS = 1 << 16, 1 << 26, 1 << 14, 1 << 20
BLOCKS = 64
"""That are drawn."""
SLABS = 8
"""Of a drawn product. A slab is as many rows as fill a chunk, or one."""
SHOWN = 1 << 26
"""Bytes of states that an opening may show."""
PER_CHUNK = CHUNK // held.BLOCK
MAX_OPENING = 1 << 28
"""Bytes of its encoding."""


class Claim(Message, frozen=True, kw_only=True):
    """What is claimed: 64 * lanes * levels bytes, and `products` products of 2 * side^3 operations."""

    lanes: int
    levels: int
    side: int
    products: int

    @property
    def memory(self) -> int:
        """Bytes."""
        return held.BLOCK * self.lanes * self.levels

    @property
    def operations(self) -> int:
        return 2 * self.side**3 * self.products

    def check(self) -> None:
        """Raises ValueError for what nobody can prove."""
        if self.lanes % PER_CHUNK or not PER_CHUNK <= self.lanes <= MAX_LANES:
            raise ValueError(f"{self.lanes} lanes: a multiple of {PER_CHUNK}, up to {MAX_LANES}")
        if self.side & (self.side - 1) or not 128 <= self.side <= MAX_SIDE:
            raise ValueError(f"matrices of {self.side}: a power of two from 128 to {MAX_SIDE}")
        if not 2 <= self.levels <= MAX_LEVELS or not 1 <= self.products <= MAX_PRODUCTS or self.lanes * self.levels >= 1 << 32:
            raise ValueError(f"{self.levels} levels and {self.products} products: too few or too many")
        if self.side**2 > self.memory:
            raise ValueError("the matrices are larger than the memory")


class Answer(Message, frozen=True, kw_only=True):
    """What is put on the chain; `memory` over the roots of the levels, `chain` over those of the states."""

    claim: Claim
    block: int
    """Whose hash the seed was made from."""
    memory: Digest
    chain: Digest


class Piece(Message, frozen=True, kw_only=True):
    """A chunk under the root of its level (`of` a level's number) or state (a step's)."""

    of: int
    chunk: int
    data: bytes
    path: tuple[Digest, ...]


class Step(Message, frozen=True, kw_only=True):
    """A drawn product: the state before it, and for each drawn slab the chunks of its matrix and of the state after."""

    step: int
    state: bytes
    slabs: tuple[tuple[tuple[Piece, ...], tuple[Piece, ...]], ...]


class Opening(Message, frozen=True, kw_only=True):
    levels: tuple[Digest, ...]
    states: tuple[Digest, ...]
    pieces: tuple[Piece, ...]
    """The chunks that the drawn blocks and their parents are in, each once."""
    start: tuple[tuple[Piece, Piece], ...]
    """Drawn chunks of the first state: where they lie in the memory, and in the state."""
    steps: tuple[Step, ...]


class Bench(Protocol):
    """What holds the memory and multiplies. One proof at a time."""

    def fill(self, claim: Claim, seed: Digest) -> list[Digest]:
        """Fills it; returns the levels' roots. Raises MemoryError."""

    def read(self, at: int, size: int) -> bytes: ...

    def start(self) -> Digest:
        """Takes the last side^2 bytes as state; returns its root."""

    def step(self, at: int) -> Digest:
        """Makes the next state with the matrix at a byte; returns its root."""

    def state(self) -> bytes: ...


class Refuted(ValueError):
    """An opening does not bear its answer out; says why."""


def seed_of(chain_id: int, block_hash: Digest, account: Address, claim: Claim) -> Digest:
    return merkle.sha256(b"assay hardware proof", chain_id.to_bytes(32, "big"), block_hash, account.encode(), encode(claim))


def tree(roots: list[Digest] | tuple[Digest, ...]) -> Digest:
    return merkle.root_of(roots)


def drawn(sample: Digest, label: bytes, count: int, below: int) -> list[int]:
    """Numbers below `below` that follow from a later block's hash."""
    return [int.from_bytes(merkle.sha256(b"assay hardware sample", label, sample, i.to_bytes(4, "big"))[:16], "big") % below for i in range(count)]


def steps_of(claim: Claim, sample: Digest) -> list[int]:
    """Which products are opened: as many as `SHOWN` has room for, 16 at most."""
    return sorted(set(drawn(sample, b"step", max(2, min(16, SHOWN // claim.side**2)), claim.products)))


def slabs_of(claim: Claim, sample: Digest, step: int) -> list[int]:
    return sorted(set(drawn(sample, b"slab %d" % step, SLABS, claim.side**2 // _slab(claim))))


def starts_of(claim: Claim, sample: Digest) -> list[int]:
    """Chunks of the first state."""
    return sorted(set(drawn(sample, b"start", SLABS, claim.side**2 // CHUNK)))


def _slab(claim: Claim) -> int:
    """Bytes of a slab."""
    return max(CHUNK, claim.side)


# ---- proving -------------------------------------------------------------------------------------------------------------


class Proving:
    """One proof on a bench: `answer` is what has to be quick, `open` follows when the sample is drawn, over the same memory."""

    def __init__(self, bench: Bench, claim: Claim, block: int) -> None:
        claim.check()
        self.bench, self.claim, self.block = bench, claim, block
        self._levels: list[Digest] = []
        self._states: list[Digest] = []

    def answer(self, seed: Digest) -> Answer:
        self._levels = self.bench.fill(self.claim, seed)
        self._states = [self.bench.start()]
        for _ in range(self.claim.products):
            self._states.append(self.bench.step(self._at()))
        return Answer(claim=self.claim, block=self.block, memory=tree(self._levels), chain=tree(self._states))

    def _at(self) -> int:
        return products.place(self._states[-1], self.claim.memory, self.claim.side)

    def open(self, seed: Digest, sample: Digest) -> Opening:
        wanted: dict[tuple[int, int], None] = {}
        for number in drawn(sample, b"block", BLOCKS, self.claim.lanes * self.claim.levels):
            wanted |= dict.fromkeys((at // self.claim.lanes, at % self.claim.lanes // PER_CHUNK) for at in self._family(number))
        pieces = tuple(self._piece(level, chunk) for level, chunk in wanted)
        steps, states, last = [], list(self._states), steps_of(self.claim, sample)
        self.bench.start()
        begun, place = self.bench.state(), self.claim.memory - self.claim.side**2
        start = tuple((self._piece(*_chunk_of(self.claim, place + CHUNK * c)), _piece(0, c, begun)) for c in starts_of(self.claim, sample))
        for k in range(last[-1] + 1):
            before = self.bench.state() if k in last else b""
            at = products.place(states[k], self.claim.memory, self.claim.side)
            self.bench.step(at)
            if before:
                steps.append(self._step(k, at, before, self.bench.state(), slabs_of(self.claim, sample, k)))
        return Opening(levels=tuple(self._levels), states=tuple(states), pieces=pieces, start=start, steps=tuple(steps))

    def _family(self, number: int) -> list[int]:
        """A block and its parents."""
        lanes = self.claim.lanes
        if number < lanes:
            return [number]
        found = [number, number - lanes]
        acc = self._blocks(np.array([number - lanes]))
        earlier = number // lanes * lanes
        for r in range(held.REFS):
            at = held.pointed(acc, r, earlier)
            found.append(int(at[0]))
            acc = held.mix(acc, self._blocks(at))
        return found

    def _blocks(self, numbers: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> held.Words:
        data = b"".join(self.bench.read(held.BLOCK * int(n), held.BLOCK) for n in numbers)
        return np.frombuffer(data, "<u4").reshape(-1, held.WORDS)

    def _piece(self, level: int, chunk: int) -> Piece:
        size = held.BLOCK * self.claim.lanes
        return _piece(level, chunk, self.bench.read(level * size, size))

    def _step(self, k: int, at: int, before: bytes, after: bytes, slabs: list[int]) -> Step:
        size, shown = _slab(self.claim), []
        for slab in slabs:
            first = at + slab * size
            matrix = tuple(self._piece(*_chunk_of(self.claim, first + i)) for i in range(0, size, CHUNK))
            shown.append((matrix, tuple(_piece(k + 1, (slab * size + i) // CHUNK, after) for i in range(0, size, CHUNK))))
        return Step(step=k, state=before, slabs=tuple(shown))


def _chunk_of(claim: Claim, at: int) -> tuple[int, int]:
    """Level and chunk of a byte of the memory."""
    level, rest = divmod(at, held.BLOCK * claim.lanes)
    return level, rest // CHUNK


def _piece(of: int, chunk: int, data: bytes) -> Piece:
    leaves = [merkle.leaf(i, data[i * CHUNK : (i + 1) * CHUNK]) for i in range(len(data) // CHUNK)]
    return Piece(of=of, chunk=chunk, data=data[chunk * CHUNK : (chunk + 1) * CHUNK], path=merkle.prove(leaves, chunk))


# ---- checking ------------------------------------------------------------------------------------------------------------


def check(answer: Answer, seed: Digest, sample: Digest, opening: Opening) -> None:
    """Raises Refuted, or ValueError for a claim that nobody can prove."""
    claim = answer.claim
    claim.check()
    if len(opening.levels) != claim.levels or tree(opening.levels) != answer.memory:
        raise Refuted("the roots of the levels are not those of the answer")
    if len(opening.states) != claim.products + 1 or tree(opening.states) != answer.chain:
        raise Refuted("the roots of the states are not those of the answer")
    known = {(piece.of, piece.chunk): _verified(piece, opening.levels, held.BLOCK * claim.lanes) for piece in opening.pieces}
    for number in drawn(sample, b"block", BLOCKS, claim.lanes * claim.levels):
        _check_block(claim, seed, number, known)
    _check_start(claim, sample, opening)
    if [step.step for step in opening.steps] != steps_of(claim, sample):
        raise Refuted("it shows other products than the drawn ones")
    for step in opening.steps:
        _check_step(claim, sample, opening, step)


def _verified(piece: Piece, roots: tuple[Digest, ...], size: int) -> bytes:
    """The bytes of a piece that lies under its root; `size` of what is under it."""
    if not 0 <= piece.of < len(roots) or len(piece.data) != CHUNK:
        raise Refuted(f"a piece of {len(piece.data)} bytes of {piece.of} is none")
    if not merkle.verify(roots[piece.of], size // CHUNK, piece.chunk, merkle.leaf(piece.chunk, piece.data), piece.path):
        raise Refuted(f"chunk {piece.chunk} of {piece.of} is not the committed one")
    return piece.data


def _check_block(claim: Claim, seed: Digest, number: int, known: dict[tuple[int, int], bytes]) -> None:
    def block(at: int) -> held.Words:
        level, lane = divmod(at, claim.lanes)
        chunk, inside = divmod(lane, PER_CHUNK)
        if (level, chunk) not in known:
            raise Refuted(f"block {at}, which block {number} is drawn for or mixed from, is not shown")
        return np.frombuffer(known[level, chunk], "<u4").reshape(PER_CHUNK, held.WORDS)[inside : inside + 1]

    shown = block(number)
    if number < claim.lanes:
        right = held.first(seed, np.array([number]))
    else:
        right = held.mixed(block(number - claim.lanes), number // claim.lanes * claim.lanes, lambda at: block(int(at[0])))
    if not np.array_equal(shown, right):
        raise Refuted(f"block {number} is not what its parents are mixed to")


def _check_start(claim: Claim, sample: Digest, opening: Opening) -> None:
    place, chunks = claim.memory - claim.side**2, starts_of(claim, sample)
    if [(p.of, p.chunk, q.of, q.chunk) for p, q in opening.start] != [(*_chunk_of(claim, place + CHUNK * c), 0, c) for c in chunks]:
        raise Refuted("it shows other parts of the first state than the drawn ones")
    for here, there in opening.start:
        if _verified(here, opening.levels, held.BLOCK * claim.lanes) != _verified(there, opening.states, claim.side**2):
            raise Refuted("the first state is not the end of the memory")


def _check_step(claim: Claim, sample: Digest, opening: Opening, step: Step) -> None:
    from assay.exact.hashing import chunk_root

    side, size, k = claim.side, _slab(claim), step.step
    state = np.frombuffer(step.state, np.int8)
    if state.size != side * side or chunk_root(state) != opening.states[k]:
        raise Refuted(f"the state before product {k} is not the committed one")
    at, slabs = products.place(opening.states[k], claim.memory, side), slabs_of(claim, sample, k)
    if len(step.slabs) != len(slabs):
        raise Refuted(f"product {k} is shown with other slabs than the drawn ones")
    for slab, (matrix, after) in zip(slabs, step.slabs, strict=True):
        offsets = range(slab * size, (slab + 1) * size, CHUNK)
        if [(p.of, p.chunk) for p in matrix] != [_chunk_of(claim, at + i) for i in offsets]:
            raise Refuted(f"product {k} is shown with another matrix than the one that the state names")
        if [(p.of, p.chunk) for p in after] != [(k + 1, i // CHUNK) for i in offsets]:
            raise Refuted(f"product {k} is shown with other rows than the drawn ones")
        weights = b"".join(_verified(piece, opening.levels, held.BLOCK * claim.lanes) for piece in matrix)
        shown = b"".join(_verified(piece, opening.states, side * side) for piece in after)
        if products.rows(state.reshape(side, side), np.frombuffer(weights, np.int8).reshape(-1, side)).tobytes() != shown:
            raise Refuted(f"rows of product {k} are not the exact ones")

