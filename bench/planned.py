# Computes what GPTs take of a CUDA device. One of 124 million parameters with and without attention by slices, as it is and with values made again
# (assay.exact.cuda.ruler: the engine's own allocations, counted; nothing runs and no device is needed): the bytes of a training that stays
# there, of which arena and scratch, the bytes with a trace beside it, the launches of a micro-batch and the kernels that they share. For the sizes of
# an H200 (132 processors, 50 MB of level-2 cache) and contexts of 1024 and 4096 characters, 8192 a micro-batch. It is no figure of speed.
# Then GPTs of 124 million and 1 billion parameters as they are, trained by AdamW, with the moments on the device and on the host (in memory; and in
# files, under a window of 64 MiB): the bytes of a training that stays, those of the host's memory, those of the state that cross in a step each
# way, and the launches of an update. Goals: no S x S of all heads at a time where values are made again; of the moments two windows on the device.
#
#     python bench/planned.py [--quick] [--json]
from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from assay.exact.cuda import rows
from assay.exact.cuda.device import Description
from assay.exact.cuda.engine import Cuda
from assay.exact.cuda.parts import Parts, slice_bytes
from assay.exact.cuda.resident import Resident
from assay.exact.cuda.ruler import Host, Ruler, Staying
from assay.exact.offload import WINDOW, Store
from assay.program import Program

H200 = Description("H200", "", "sm_90", 150_754_820_096, 132, 50 << 20)
"""NVIDIA H200 SXM, by its data sheet and the Hopper tuning guide."""
CONTEXTS = {1024: 8, 4096: 2}
"""Characters -> texts of a micro-batch."""


def planned(program: Program, slices: int, effort: int, traced: bool) -> dict[str, Any]:
    ruler = Ruler(H200)
    stays = Resident(Parts(program, ruler, slices=slices, effort=effort))
    tape = stays._parts.tape("micro")
    kernels = {text.name for text in rows.texts([tape.plan])} | {step.name for step in tape.plan.steps if step.name not in ("map", "rows")}
    found = {
        "slices": slices, "effort": effort, "staying_bytes": ruler.held, "arena_bytes": stays._arena.size,
        "scratch_bytes": stays._scratch.size, "launches": len(stays._launches["micro"]), "steps": len(tape.plan.steps), "kernels": len(kernels),
    }  # fmt: skip
    if traced:
        del stays, tape
        counting = Ruler(H200)
        cuda = Cuda(program, counting, slices=slices, effort=effort)
        cuda.prepare(trace=True)
        found["traced_bytes"] = counting.held
    return found


def offloaded(program: Program, where: str) -> dict[str, Any]:
    """With the moments on the device, in the host's memory, or in a file."""
    host = Host(1 << 62, Store(Path("."), WINDOW) if where == "files" else None)
    apart = None if where == "device" else host.apart(program)
    found = Staying(program, H200, 0, 0, apart)
    return {
        "moments": where, "staying_bytes": found.bytes, "host_bytes": found.memory, "crossing_bytes": found.host,
        "window_bytes": apart.window if apart else 0, "update_launches": found.launches["update"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="the memory that a GPT is planned to take on a CUDA device")
    parser.add_argument("--quick", action="store_true", help="a context of 1024 alone, no traces, and the smaller GPT alone")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    options = parser.parse_args()
    import gpu_models

    from assay.trace import trace

    result: dict[str, Any] = {"device": H200._asdict(), "model": "124M", "rows": []}
    result["offloaded"] = []
    for model in ("124M",) if options.quick else ("124M", "1B"):
        program = trace(gpu_models.training(model)).program
        for where in ("device", "memory", "files"):
            row = {"model": model, **offloaded(program, where)}
            result["offloaded"].append(row)
            print(", ".join(f"{key} {value / 1e9:.2f} GB" if key.endswith("bytes") else f"{key} {value}" for key, value in row.items()), flush=True)
    by = slice_bytes(H200)
    for context, texts in list(CONTEXTS.items())[: 1 if options.quick else None]:
        gpu_models.SIZES["planned"] = gpu_models.SIZES["124M"]._replace(context=context, batch=texts)
        program = trace(gpu_models.training("planned")).program
        for slices, effort in ((0, 0), (by, 0), (0, 1), (by, 1), (by, 2), (by, 8)):
            row = {"context": context, "texts": texts, **planned(program, slices, effort, not options.quick)}
            result["rows"].append(row)
            print(", ".join(f"{key} {value / 1e9:.2f} GB" if key.endswith("bytes") else f"{key} {value}" for key, value in row.items()), flush=True)
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
