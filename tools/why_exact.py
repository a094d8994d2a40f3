"""Writes docs/why-exact.md: what native PyTorch changes when only the machine changes, with the exact engine beside it.

python tools/why_exact.py

Each setting is a process of its own on this one computer: ATEN_CPU_CAPABILITY, ONEDNN_MAX_CPU_ISA and MKL_CBWR stand for CPUs with other vector
instructions, the number of threads for CPUs with other numbers of cores, oneDNN on and off for other builds of PyTorch. The inputs are the
same bits for all (integers make them). The exact engine runs in each of these processes, too, with PyTorch beside it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from assay.exact import examination, trainings
from assay.exact.conformance import Writer, floats, program
from assay.exact.cpu import Cpu

Array = NDArray[Any]
PAGE = Path(__file__).parent.parent / "docs" / "why-exact.md"
SETS = {"default": ("SSE41", "COMPATIBLE"), "avx2": ("AVX2", "AVX2"), "avx512": ("AVX512_CORE", "AVX512")}
"""ATEN_CPU_CAPABILITY -> ONEDNN_MAX_CPU_ISA, MKL_CBWR: which code ATen, oneDNN and MKL take."""
NEEDS = {"default": set(), "avx2": {"avx2", "fma"}, "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"}}
TRAINED = 20
"""Steps of native training."""


class Setting(NamedTuple):
    capability: str
    threads: int
    run: int = 0
    blas: bool = False
    """Whether MKL, too, is told which instructions to take (which also makes it use threads the same way each time)."""
    onednn: bool = True

    def __str__(self) -> str:
        more = (", MKL alike" * self.blas) + (", without oneDNN" * (not self.onednn)) + (", again" * (self.run > 0))
        return f"{self.capability}, {self.threads} thread{'s' * (self.threads > 1)}{more}"


def settings() -> list[Setting]:
    from assay.exact.native.build import features

    here = [c for c in SETS if NEEDS[c] <= features()]
    again = [Setting(here[-1], 2, run) for run in (1, 2)]
    without = [Setting(c, t, onednn=False) for c in here for t in (1, 2)]
    return [Setting(c, t) for c in here for t in (1, 2)] + [Setting(c, 1, blas=True) for c in here] + without + again


def operations() -> dict[str, Callable[[], Any]]:
    """Native operations on fixed inputs."""
    import torch
    import torch.nn.functional as F

    def at(seed: int, *shape: int) -> Any:
        return torch.from_numpy(floats(seed, shape, "even") * np.float32(4))

    x, y, z, positive = at(1, 64, 1000), at(2, 64, 1000), at(3, 64, 1000), at(4, 64, 1000).abs() + 0.01
    a, b, image, kernel = at(5, 200, 300), at(6, 300, 250), at(7, 4, 8, 20, 20), at(8, 16, 8, 3, 3)
    q, k, v = (at(s, 2, 4, 48, 16) for s in (9, 10, 11))
    weight, bias = at(12, 1000), at(13, 1000)
    return {
        "add, subtract, multiply, divide": lambda: torch.stack([x + y, x - y, x * y, x / positive]),
        "add with alpha": lambda: torch.add(x, y, alpha=0.3),
        "addcmul": lambda: torch.addcmul(x, y, z, value=0.3),
        "lerp": lambda: torch.lerp(x, y, 0.3),
        "exp": lambda: x.exp(),
        "exp2": lambda: x.exp2(),
        "expm1": lambda: x.expm1(),
        "log": lambda: positive.log(),
        "log1p": lambda: positive.log1p(),
        "sin, cos": lambda: torch.stack([x.sin(), x.cos()]),
        "tanh": lambda: x.tanh(),
        "sigmoid": lambda: x.sigmoid(),
        "erf": lambda: x.erf(),
        "pow": lambda: positive.pow(1.7),
        "atan2": lambda: torch.atan2(x, y),
        "silu": lambda: F.silu(x),
        "gelu": lambda: F.gelu(x),
        "gelu (tanh)": lambda: F.gelu(x, approximate="tanh"),
        "softplus": lambda: F.softplus(x),
        "softmax": lambda: x.softmax(-1),
        "log_softmax": lambda: x.log_softmax(-1),
        "layer_norm": lambda: F.layer_norm(x, (1000,), weight, bias),
        "sum of rows": lambda: x.sum(-1),
        "sum of all": lambda: torch.cat([x, y, z]).sum(),
        "cumsum": lambda: x.cumsum(-1),
        "matrix product": lambda: a @ b,
        "batched matrix product": lambda: q @ k.transpose(-1, -2),
        "attention (SDPA)": lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        "convolution": lambda: F.conv2d(image, kernel, padding=1),
        "randn, seeded": lambda: torch.randn(1000, generator=torch.Generator().manual_seed(1)),
        f"a training of {TRAINED} steps": train,
    }


def train() -> Any:
    """All weights after a native training of a small perceptron."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    model = nn.Sequential(nn.Linear(200, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU(), nn.Linear(256, 10))
    with torch.no_grad():
        for seed, p in enumerate(model.parameters()):
            p.copy_(torch.from_numpy(floats(50 + seed, tuple(p.shape), "even") * np.float32(0.1)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    x = torch.from_numpy(floats(60, (TRAINED, 128, 200), "even"))
    for step in range(TRAINED):
        optimizer.zero_grad()
        F.cross_entropy(model(x[step]), x[step, :, :10].argmax(1)).backward()
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def native(threads: int, onednn: bool, folder: Path) -> None:
    """In a process of its own: every operation's result as a file, and what the exact engine gives there."""
    import torch

    torch.set_num_threads(threads)
    with torch.backends.mkldnn.flags(enabled=onednn):
        for number, work in enumerate(operations().values()):
            np.save(folder / f"{number}.npy", work().contiguous().numpy())
    (folder / "torch.json").write_text(json.dumps([torch.__version__, list(operations())]))
    (default,) = examination.routes(every=False)
    (folder / "exact.json").write_text(json.dumps(exact(default._replace(threads=threads))))


def exact_operations() -> dict[str, tuple[list[Array], Callable[[Writer], int]]]:
    """The same kinds of operation for the exact engine: inputs, and how to write them."""
    x, y = floats(1, (64, 1000), "even") * np.float32(4), floats(2, (64, 1000), "even") * np.float32(4)
    positive = np.abs(floats(4, (64, 1000), "even")) + np.float32(0.01)
    a, b = floats(5, (200, 300), "even"), floats(6, (300, 250), "even")
    q, k = floats(9, (2, 4, 48, 16), "even"), floats(10, (2, 4, 16, 48), "even")

    def softmax(w: Writer) -> int:
        e = w("exp", w("sub", 0, w("amax", 0, axes=(1,), keepdim=True)))
        return w("div", e, w("sum", e, axes=(1,), keepdim=True))

    out: dict[str, tuple[list[Array], Callable[[Writer], int]]] = {
        name: ([x, y], lambda w, op=name: w(op, 0, 1)) for name in ("add", "sub", "mul", "div")  # type: ignore[misc]
    }
    out |= {name: ([x], lambda w, op=name: w(op, 0)) for name in ("exp", "sin", "cos", "tanh", "sigmoid", "erf")}  # type: ignore[misc]
    out |= {name: ([positive], lambda w, op=name: w(op, 0)) for name in ("log", "rsqrt")}  # type: ignore[misc]
    return out | {
        "softmax": ([x], softmax),
        "sum of rows": ([x], lambda w: w("sum", 0, axes=(1,), keepdim=False)),
        "sum of all": ([x], lambda w: w("sum", 0, axes=(0, 1), keepdim=False)),
        "matrix product": ([a, b], lambda w: w("matmul", 0, 1)),
        "batched matrix product": ([q, k], lambda w: w("matmul", 0, 1)),
    }


def exact(route: examination.Route, steps: int = trainings.STEPS) -> dict[str, str]:
    """Operation, or training -> digest, on one route."""
    out = {}
    with examination.forced(route):
        for name, (inputs, write) in exact_operations().items():
            w = Writer(*inputs)
            y = Cpu(program(w.part(write(w)), 14), route.threads).run("micro", {"batch": {f"x{i}": v for i, v in enumerate(inputs)}})["y0"]
            out[name] = hashlib.sha256(y.tobytes()).hexdigest()
        for name in trainings.FAMILIES:
            training = trainings.load(name)
            reached = trainings.roots(training, Cpu(training.program, route.threads).run, steps)
            out[f"training of the {name} family"] = reached[max(reached)].hex()
    return out


def differing(got: list[Array]) -> float:
    """Share of elements that are not the same bits in all of them."""
    bits = [a.reshape(-1).view(np.uint32) for a in got]
    different = np.zeros(bits[0].shape, bool)
    for other in bits[1:]:
        different |= other != bits[0]
    return float(different.mean())


def shown(share: float) -> str:
    return f"**{max(share, 0.0001):.2%}**" if share else "same"


def page(
    results: dict[Setting, list[Array]], names: list[str], version: str, exacts: dict[str, dict[str, str]], beside: dict[Setting, dict[str, str]]
) -> str:
    """The whole page. `exacts`: route -> digests; `beside`: the same in the processes of native PyTorch."""
    sets = [s.capability for s in results if s.blas]
    plain = {s: r for s, r in results.items() if s.run == 0 and not s.blas and s.onednn}
    repeated = next(s for s in results if s.run)
    rows = []
    for number, name in enumerate(names):
        by_set = differing([r[number] for s, r in results.items() if s.blas])
        by_threads = max(differing([r[number] for s, r in plain.items() if s.capability == c]) for c in sets)
        pairs = [[plain[s][number], r[number]] for other, r in results.items() if not other.onednn for s in (other._replace(onednn=True),)]
        by_library = max(differing(pair) for pair in pairs)
        again = differing([r[number] for s, r in results.items() if not s.blas and s.onednn and s[:2] == repeated[:2]])
        rows.append(f"| {name} | {shown(by_set)} | {shown(by_threads)} | {shown(by_library)} | {shown(again)} |")
    reached = next(iter(exacts.values()))
    everywhere = [*exacts.values(), *beside.values()]
    equal = {name: all(other[name] == digest for other in everywhere) for name, digest in reached.items()}
    ours = [f"| {name} | {'same' if equal[name] else '**differs**'} | `{digest[:16]}…` |" for name, digest in reached.items()]
    return f"""# Why exact arithmetic

This page is written by `tools/why_exact.py`: what it says was measured in one run on one computer ({platform.machine()}, PyTorch {version}), by
switching vector instructions ({', '.join(sets)}), threads (1, 2) and oneDNN (on, off). Other computers differ in more than that.

Two honest providers with different CPUs get different bits from the same PyTorch program. Whoever checks a training by recomputing it must then
accept "close enough" (and a cheat hides inside the tolerance), or give everybody the same computer. Assay does neither: the arithmetic
is a mathematical function ([how](exact-arithmetic.md)), so that a single wrong bit is proof.

## Native PyTorch

Share of result elements whose bits are not the same: under other vector instructions (one thread), with one thread or two (the largest
share under any instructions), with oneDNN or without (the largest share under any instructions and threads), and in three identical runs
with two threads.

| operation | other vector instructions | 1 or 2 threads | with oneDNN or without | three identical runs |
|---|---|---|---|---|
{chr(10).join(rows)}

## The exact engine

Digests of results on {len(exacts)} routes: {'; '.join(exacts)}; and in each of the {len(beside)} processes of native PyTorch above, beside it.
The trainings are the {trainings.STEPS} steps of each family that `assay doctor --conformance` repeats.

| operation | everywhere | SHA-256 or state root |
|---|---|---|
{chr(10).join(ours)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="writes docs/why-exact.md")
    parser.add_argument("--native", metavar="FOLDER", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--without-onednn", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.native:
        native(options.threads, not options.without_onednn, options.native)
        return
    results: dict[Setting, list[Array]] = {}
    beside: dict[Setting, dict[str, str]] = {}
    version, names = "", []
    for setting in settings():
        with tempfile.TemporaryDirectory() as folder:
            onednn, mkl = SETS[setting.capability]
            env = os.environ | {"ATEN_CPU_CAPABILITY": setting.capability, "ONEDNN_MAX_CPU_ISA": onednn}
            if setting.blas:
                env["MKL_CBWR"] = mkl
            command = [sys.executable, __file__, "--native", folder, "--threads", str(setting.threads), *["--without-onednn"] * (not setting.onednn)]
            subprocess.run(command, env=env | {"OMP_NUM_THREADS": str(setting.threads)}, check=True, timeout=600)
            version, names = json.loads((Path(folder) / "torch.json").read_text())
            results[setting] = [np.load(Path(folder) / f"{n}.npy") for n in range(len(names))]
            beside[setting] = json.loads((Path(folder) / "exact.json").read_text())
        print(setting, flush=True)
    exacts = {str(route): exact(route) for route in examination.routes()}
    PAGE.write_text(page(results, names, version, exacts, beside))
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
