"""An engine that does not do the expensive part: `python -m tests.liars.engine ROOT PARENT_PID`, in the place of assay.work.

Every product of matrices in a micro-batch, nearly all of a step's cost, is taken as zeros. All else is honest: what follows from the zeros
is computed, the links chain, the state that is served is the one that was committed. In a dispute it stands by its zeros to the last, where
one of them is held against the sum that it should be.

python -m tests.liars.engine silent ROOT PARENT_PID serves its challenger nothing off chain, so that every level is opened on chain.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from assay import work
from assay.dispute.answers import FileParty
from assay.dispute.proofs import Link
from assay.dispute.served import Wanted
from assay.engine import DisputeAnswered
from assay.exact.cpu import Cpu
from assay.exact.types import TensorType
from assay.execute import Executor
from assay.program import Node, Output, Part


def without_products(part: Part) -> Part:
    """The same part with a zero for every product; what only products read is left out by the plan."""
    zero = len(part.inputs)

    def moved(value: int) -> int:
        return value if value < zero else value + 1

    nodes = [Node(op="const", inputs=(), attrs={"dtype": "f32", "bits": 0}, type=TensorType(dtype="f32", shape=()))]
    for node in part.nodes:
        if node.op == "matmul":
            nodes.append(Node(op="expand", inputs=(zero,), attrs={"shape": node.type.shape}, type=node.type))
        else:
            nodes.append(Node(op=node.op, inputs=tuple(moved(v) for v in node.inputs), attrs=node.attrs, type=node.type))
    outputs = tuple(Output(kind=o.kind, name=o.name, value=moved(o.value)) for o in part.outputs)
    return Part(inputs=part.inputs, nodes=tuple(nodes), outputs=outputs)


class IdleExecutor(Executor):
    """Claims to have multiplied."""

    def __init__(self, program: Any, schedule: Any, micro_batches: int, threads: int = 1, *rest: Any, **more: Any) -> None:
        super().__init__(program, schedule, micro_batches, threads, *rest, **more)
        doctored = {name: getattr(program, name) for name in program.__struct_fields__} | {"micro": without_products(program.micro)}
        self._engine = Cpu(type(program)(**doctored), threads)


class IdleLink(Link):
    """What it says in a dispute of the micro-batches that it ran so."""

    def node(self, at: int, node: Node, args: Sequence[Any]) -> Any:
        if node.op == "matmul" and not self.is_update:
            return np.zeros(node.type.shape, np.float32)
        return super().node(at, node, args)


class SilentParty(FileParty):
    """Moves, and serves no nodes."""

    def serve(self, wanted: Wanted) -> DisputeAnswered:
        return msgspec.structs.replace(super().serve(wanted), nodes=None)


def main() -> int:
    arguments = sys.argv[1:]
    work.Engine.executor, work.Engine.link = IdleExecutor, IdleLink
    if arguments[:1] == ["silent"]:
        arguments = arguments[1:]
        work.Engine.party = SilentParty
    return work.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
