"""Disputes over receipts of inferences: the same game as over a step of training, between what a signer says of its run and one's own run of it.

A receipt claims one step with two links, the run and the update; `run_root` and `output_root` are their ends. The signer's side is played from
the trace that it serves (every value of both links, `assay infer --trace`), or not at all: who shows nothing loses by silence. The challenger's
is played from one's own run. On chain the claim is what a contract with the signer's stake disputes (contracts/src/Receipts.sol).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray

from assay import merkle
from assay.codec import Message
from assay.dispute import moves
from assay.dispute.drawing import Drawing, draw
from assay.dispute.game import seal_digest
from assay.dispute.moves import AnyMove, Facts, Open, State
from assay.dispute.players import BEGIN, Asserter, Challenger, Player, play
from assay.dispute.proofs import Data, Job, Link
from assay.execute import schedule_root
from assay.ids import ZERO_ADDRESS, Address, Digest
from assay.inference import KEY, ORDER, SCHEDULE, InferenceReceipt, Refuted, data_of, opened, start_of
from assay.job import data_root
from assay.program import Node, Program
from assay.state import BadTensors, Tensors, dtype_name, from_bytes, state_root

MAX_TRACE = 1 << 31
"""Bytes of a served trace."""
RUN, UPDATE = 0, 1
"""The links."""
PARTS = ("micro", "update")


class Claim(Message, frozen=True, kw_only=True):
    """What a signer stakes on, as the contract has it."""

    signer: Address
    program_root: Digest
    data_root: Digest
    schedule_root: Digest
    state_root: Digest
    link_root: Digest
    bond: int
    expires: int


class Told(Link):
    """A link as its signer's trace tells it: nothing is computed."""

    def __init__(self, job: Job, m: int, state: Tensors, acc: Tensors | None, batch: Tensors, values: Tensors) -> None:
        super().__init__(job, 0, m, state, acc, batch)
        self._told = values

    def node(self, at: int, node: Node, args: Sequence[NDArray[Any]]) -> NDArray[Any]:
        name = f"{PARTS[self.m]}.{at}"
        value = self._told.get(name)
        if value is None or value.shape != node.type.shape or dtype_name(value) != node.type.dtype:
            raise Refuted(f"the served trace has no {name!r} of type {node.type}")
        return value


class Case:
    """A receipt, taken apart. Raises Refuted when it does not fit together, BadTensors for other weights than it names."""

    def __init__(self, receipt: InferenceReceipt, weights: Tensors) -> None:
        program, batch, _ = opened(receipt)
        if len(program.scalars) or program.micro_batches != 1:
            raise Refuted("its program is no inference: it has a schedule, or several micro-batches")
        self.receipt, self.program, self.batch = receipt, program, batch
        try:
            self.dataset, records = data_of(batch)
        except ValueError as error:
            raise Refuted(f"its input is no set of records: {error}") from None
        data = Data(self.dataset, ORDER, self.dataset.records, lambda _: (records, KEY))
        self.job = Job(program, SCHEDULE, data, weights)
        self.start = start_of(program)
        self.ends = (receipt.run_root, receipt.output_root)
        self._own: dict[int, Link] = {}

    def own(self, unit: int) -> Link:
        """A link, computed here."""
        if unit not in self._own:
            acc = self.own(RUN).end if unit == UPDATE else None
            self._own[unit] = Link(self.job, 0, unit, self.start, acc, {} if unit == UPDATE else self.batch)
        return self._own[unit]

    def told(self, trace: Tensors) -> tuple[Link, Link]:
        """Both links as the signer's trace tells them."""
        run = Told(self.job, RUN, self.start, None, self.batch, trace)
        return run, Told(self.job, UPDATE, self.start, run.end, {}, trace)

    def trace(self) -> Tensors:
        """What an honest signer serves."""
        found: Tensors = {}
        for unit, part in enumerate(PARTS):
            link = self.own(unit)
            found |= {f"{part}.{i}": value for i, value in enumerate(link.values[len(link.trees.part.inputs) :])}
        return found

    def wrong(self) -> int | None:
        """The first link that does not end as the receipt says."""
        return next((unit for unit in (RUN, UPDATE) if self.own(unit).end_root != self.ends[unit]), None)

    # ---- roots

    @property
    def link_root(self) -> Digest:
        return merkle.root_of(list(self.ends))

    def claim(self, bond: int, expires: int) -> Claim:
        return Claim(
            signer=self.receipt.account, program_root=self.receipt.program_root, data_root=data_root(self.dataset, ORDER, self.dataset.records),
            schedule_root=schedule_root(SCHEDULE), state_root=state_root(0, self.start), link_root=self.link_root, bond=bond, expires=expires,
        )  # fmt: skip

    def facts(self, **known: Any) -> Facts:
        """What a dispute over it knows; `known` is what follows from a chain."""
        made, program = self.claim(0, 0), self.program
        terms: dict[str, Any] = {"open_window": 1, "grace": 1, "budget": 0, "bond": 0, "stake": 0, "chain_id": 0, "segment": 0}
        terms |= {"disputes": ZERO_ADDRESS, "challenger": ZERO_ADDRESS}
        return Facts(
            program_root=made.program_root, schedule_root=made.schedule_root, data_root=made.data_root, steps=1, micro_batches=1,
            micro_leaves=program.micro_leaves, update_leaves=program.update_leaves, start=0, stop=1, parent_end=made.state_root,
            link_root=made.link_root, revealed=(), **(terms | known),
        )  # fmt: skip


def read_trace(data: bytes, program: Program) -> Tensors:
    """A served trace. Raises Refuted for what is none of the program."""
    try:
        found = from_bytes(data, MAX_TRACE)
    except BadTensors as error:
        raise Refuted(f"the served trace cannot be read: {error}") from None
    wanted = {f"{part}.{i}" for part in PARTS for i in range(len(getattr(program, part).nodes))}
    if found.keys() != wanted:
        raise Refuted(f"the served trace has {len(found)} values, the program {len(wanted)}")
    return found


class Silent:
    """A side that shows nothing."""

    def move(self, state: State, last: AnyMove | None) -> AnyMove | None:
        return None


def opening(unit: int, salt: Digest) -> Open:
    return moves.Open(target=0, unit=unit, verifier=ZERO_ADDRESS, round=0, salt=salt)


def challenger(case: Case, unit: int, salt: Digest) -> Challenger:
    return Challenger(case.own, (), opening(unit, salt))


def asserter(case: Case, trace: Tensors | None) -> Player:
    """The signer's side, from its trace."""
    if trace is None:
        return Silent()
    return Asserter(case.told(trace).__getitem__, case.ends)


def defender(case: Case) -> Asserter:
    """The side of a signer that runs it again."""
    return Asserter(case.own, case.ends)


class Argued(NamedTuple):
    unit: int
    drawing: Drawing
    signer_lost: bool


def argue(case: Case, trace: Tensors | None) -> Argued | None:
    """The whole dispute, played here; None when the receipt is true."""
    unit = case.wrong()
    if unit is None:
        return None
    facts, salt = case.facts(), Digest(bytes(32))
    digest = seal_digest(facts, opening(unit, salt))
    played = play(facts, digest, asserter(case, trace), challenger(case, unit, salt))
    drawing = draw(facts, digest, BEGIN, [(move, at) for move, at, _ in played.moves])
    return Argued(unit, drawing, played.state.verdict in (moves.Verdict.CHALLENGER, moves.Verdict.CONCEDED))
