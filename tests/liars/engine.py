"""An engine that does not do the expensive part: `python -m tests.liars.engine ROOT PARENT_PID`, in the place of assay.work.

Micro-batches, nearly all of a step's cost, are not computed: the accumulator stays as it was, but for a loss that sounds right. All
else is honest: the update follows from that accumulator, the links chain, the state that is served is the one that was committed.
"""

from __future__ import annotations

import sys

import numpy as np

from assay import work
from assay.execute import Executor
from assay.state import Tensors

CLAIMED_LOSS = np.float32(3.0)


class IdleExecutor(Executor):
    """Claims to have seen a micro-batch."""

    def micro(self, step: int, m: int, state: Tensors, acc: Tensors, batch: Tensors) -> Tensors:
        return {**acc, "loss": np.asarray(acc["loss"] + CLAIMED_LOSS, dtype=np.float32)}


def main() -> int:
    work.Engine.executor = IdleExecutor
    return work.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
