# Counts what the warps of each kernel of a GPT's step start on an H200 (124 million and 1 billion parameters; all kernels but those that multiply
# tiles): NVRTC compiles the kernels for sm_90, nvdisasm (from PyPI: pip install nvidia-cuda-nvdisasm) lists their machine code, and
# machine.py runs blocks of each launch with the arguments and tables that it has. So loops run as often as in the step, and what only unusual data
# want is left out. Some blocks of a launch are run, the others taken to be like them. It is a count, no measurement; roof.py makes times of it. No
# goal of its own.
#
#     python bench/instructions.py [--quick] [--json]
from __future__ import annotations

import argparse
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import gpu_models
import numpy as np
from launched import Kernel, counted, digest, key, launched, plan_of
from machine import Block, Memory, functions, parsed
from meanings import meaning
from planned import H200
from traffic import taken

from assay.exact.cuda.device import Launch
from assay.exact.cuda.product import Products
from assay.exact.cuda.ruler import Ruler
from assay.trace import trace
from tests.exact import nvrtc

BLOCKS, MANY, SPANS, LONG = 2, 6, 16, 1_000_000
"""Blocks that are run of a launch; where a table says what each does; of attention; instructions of some from which on they are the only ones."""
CONSTANTS = {bank: np.zeros(1 << 12, np.uint32) for bank in (3, 4)}
"""What kernels have beside their code does not change what they start."""
GOLDEN = 0.6180339887498949
"""How far apart blocks are that are run, of all of a launch, so that few of them lie at an edge."""
MISSING = "nvdisasm is not installed: pip install nvidia-cuda-nvdisasm (and nvidia-cuda-nvrtc-cu12)"


def nvdisasm() -> str | None:
    """Where the disassembler is, or None."""
    found = importlib.util.find_spec("nvidia")
    homes = [Path(home) for home in (found.submodule_search_locations or [])] if found else []
    return shutil.which("nvdisasm") or next((str(path) for home in homes for path in sorted(home.glob("*/bin/nvdisasm"))), None)


class Listings:
    """The machine code of kernels; each text is compiled once."""

    def __init__(self, tool: str) -> None:
        self._tool = tool
        self._found: dict[tuple[str, str], dict[str, list[str]]] = {}

    def of(self, kernel: Kernel) -> list[str]:
        text = kernel.text, kernel.arch
        if text not in self._found:
            with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
                file.write(nvrtc.compiled(*text)[1])
                file.flush()
                self._found[text] = functions(subprocess.run([self._tool, "-c", file.name], capture_output=True, text=True, check=True).stdout)
        return self._found[text][kernel.name]


def kind(parameter: str) -> str:
    """What made-up memory holds behind an argument: data, magnitudes of lanes that are larger, or zeros (flags of attend.py's blocks among them)."""
    return "float" if "float" in parameter else "top" if "u32" in parameter and not re.search(r"\bf\d+$", parameter) else "zeros"


def different(launch: Launch, parameters: list[str]) -> int:
    """Blocks that stand for all: more where what each does is told by a table, or by its place under a mask."""
    return SPANS if launch.kernel.name.startswith("attend_") else MANY if any("table" in p for p in parameters) else BLOCKS


def count(launch: Launch, lines: list[str], known: dict[int, bytes]) -> dict[str, float]:
    """Of a launch: `blocks`, and what one of them starts on average."""
    kernel = launch.kernel
    assert isinstance(kernel, Kernel)
    parameters, code = kernel.parameters(), parsed(lines)
    places = {a: kind(p) for a, p in zip(launch.arguments, parameters, strict=True) if "*" in p and a}
    wide, tall, _ = launch.grid
    blocks, memory, total = wide * tall * launch.grid[2], Memory(known, places), Counter[str]()
    some = min(blocks, different(launch, parameters))
    for done in range(1, some + 1):
        at = int(done * GOLDEN % 1 * blocks)
        where = (at % wide, at // wide % tall, at // (wide * tall))
        total += Block(code, launch.grid, launch.block, where, launch.arguments, memory, CONSTANTS).run(meaning)
        if total["issued"] > LONG:
            break
    return {"blocks": blocks} | {name: round(n / done, 1) for name, n in total.items() if name[0] != "_"}


def of_model(name: str, listings: Listings) -> dict[str, Any]:
    program, products, kernels, launches = trace(gpu_models.training(name)).program, Products(Ruler(H200), taken), dict[str, Any](), list[Launch]()
    for part in (program.micro, program.update):
        for group in launched(plan_of(program, part, products), part):
            for launch in filter(counted, group.launches):
                launches.append(launch)
                own = key(launch)
                if own not in kernels:
                    assert isinstance(launch.kernel, Kernel)
                    kernels[own] = {"launches": 0, **count(launch, listings.of(launch.kernel), group.known)}
                kernels[own]["launches"] += 1
    return {"sources": digest(launches), "kernels": kernels}


def main() -> None:
    parser = argparse.ArgumentParser(description="instructions of the kernels of a GPT's step, by running their machine code on NumPy")
    parser.add_argument("--quick", action="store_true", help="the smaller model alone")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    options = parser.parse_args()
    tool = nvdisasm()
    if tool is None or nvrtc.library() is None:
        print(json.dumps({"skipped": MISSING}) if options.json else MISSING)
        return
    result: dict[str, Any] = {"arch": H200.arch, "models": {}}
    listings = Listings(tool)
    for name in ("124M",) if options.quick else ("124M", "1B"):
        found = result["models"][name] = of_model(name, listings)
        whole = lambda row: row["launches"] * row["blocks"] * row["issued"]  # noqa: E731
        print(f"{name}: {sum(map(whole, found['kernels'].values())) / 1e9:.2f} billion instructions of warps in a step", flush=True)
        for own, row in sorted(found["kernels"].items(), key=lambda item: -whole(item[1]))[:24]:
            print(f"  {whole(row) / 1e6:9.1f} million, {row['launches']:4d} x {row['blocks']:6d} blocks: {own[:60]}")
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
