"""What only a GPU can show (`make test-gpu`): on this machine's first CUDA device every conformance case, fused and stage by stage, and 100 steps
of every family, once with the state on the host and once with it on the device, reach the published digests: first a GPT as wide, and with texts as
long, as real ones, since some kernels are only taken at such sizes; then FEW steps of all families (also with moments on the host, and by slices);
then all steps as long as there is time, and what there was no time for is named. Needs NumPy, CuPy and msgspec; no pytest. On the fake device, with a
few steps: `python tests/gpu.py --fake`. First of all, in a process of its own, the trials of ways of multiplying that no chip has run yet
(assay/exact/cuda/trial.py): one that loses the device is then not tried again.
"""

from __future__ import annotations

import subprocess
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from assay.exact import engines, examination, trainings
from assay.exact.cuda import trial
from assay.exact.cuda.away import Apart
from assay.exact.cuda.choice import Choices
from assay.exact.cuda.parts import Parts
from assay.exact.cuda.resident import Resident
from assay.exact.cuda.tiles import FLOATING, Size, Way, digits, groups
from assay.exact.division import movable
from assay.state import state_root_of

SLICES = {"gpt": 3000, "vit": 800, "bert": 3000, "llama": 5000}
"""Bytes of slices that cut these families' attention."""
FEW = 3
TRIALS = "--trials"
TRIAL_SECONDS = 60.0
SECONDS = 180.0
"""After which no training of all steps is begun."""


def resident(kind: str, family: str, steps: int, slices: int = 0, away: bool = False) -> str | None:
    """What is wrong with a training that stays on the device; with `slices`, attention runs by these, its values made again; with `away`, what may be
    of its state lies on the host."""
    opened, training = engines._open(kind), trainings.load(family)
    p, want = training.program, trainings.expected()[family]
    device = Resident(Parts(p, opened.device, opened.kernels, opened.products, slices, int(slices > 0)), Apart(movable(p), 2000) if away else None)
    device.put(trainings.initial(p))
    for step in range(steps):
        scalars = {name: training.schedule[step, i] for i, name in enumerate(p.scalars)}
        _, roots = device.step(step, partial(trainings.batch, p, step), scalars)
        if step + 1 in trainings.CHECKED and state_root_of(step + 1, roots).hex() != want[str(step + 1)]:
            return f"the state after {step + 1} steps is not the published one"
    return None


def trials() -> int:
    """How many of the ways that need a trial are not used on this device; of bf16 and fp8 the largest tile of each width, if the probe admits any."""
    device = engines._open(examination.CUDA).device
    choices, bad = Choices(device), 0
    for kind in FLOATING:
        print(f"ok {kind}: sums are exact up to 2^{held}" if (held := choices.holds(kind)) else f"ok {kind} is not used", flush=True)
    for bits in (14, 8, 15, 23):
        for way in map(Way, groups(digits(bits), device.description.arch)):
            began, good = time.perf_counter(), choices.admitted(way, bits)
            bad += not good
            print(f"{'ok' if good else 'no'} {way} at b = {bits} ({time.perf_counter() - began:.1f} s)", flush=True)
        ways = choices.ways(Size(bits, 1, 300, 300, 300))
        for kind in FLOATING:
            for way in [way for way in ways if way.kind == kind][:1]:
                began, good = time.perf_counter(), trial.right(device, way, bits)
                if not good:
                    choices.refuse(kind)
                    bad += 1
                print(f"{'ok' if good else 'no'} {way} at b = {bits} ({time.perf_counter() - began:.1f} s)", flush=True)
    return bad


def main() -> int:
    if TRIALS in sys.argv[1:]:
        return int(trials() > 0)
    fake = "--fake" in sys.argv[1:]
    kind, steps = (examination.FAKE, 2) if fake else (examination.CUDA, trainings.STEPS)
    if not fake and (reason := engines.why_not()):
        print(f"nothing was tested: {reason}")
        return 2
    description = engines._open(kind).device.description
    print(", ".join(f"{key} {value}" for key, value in description._asdict().items()), flush=True)
    route, bad = examination.Route(kind, 1), 0

    def report(what: str, failed: list[str], began: float) -> None:
        nonlocal bad
        bad += len(failed)
        print(f"{'no' if failed else 'ok'} {what} ({time.perf_counter() - began:.1f} s)", *failed[:5], sep="\n   ", flush=True)

    start = time.perf_counter()
    untried = 0
    if not fake:
        try:
            untried = subprocess.run([sys.executable, __file__, TRIALS], timeout=TRIAL_SECONDS).returncode
        except subprocess.TimeoutExpired:
            untried = 1
        if untried:
            print("not every way of multiplying is right: see above. Products are made without what failed", flush=True)

    began = time.perf_counter()
    report("all operators", [f"{f.what}: {f.where}" for f in examination.operators(route)], began)
    if not fake:  # that would take hours
        began = time.perf_counter()
        report("a GPT of real sizes", [f"{f.what}: {f.where}" for f in examination.large(route)], began)
        began = time.perf_counter()
        found = resident(kind, trainings.LARGE, trainings.LARGE_STEPS)
        report("a GPT of real sizes on the device", [found] if found else [], began)
    left = []
    for count in (FEW, steps) if steps > FEW else (steps,):
        for family in trainings.FAMILIES:
            if count > FEW and time.perf_counter() - start > SECONDS:
                left.append(f"{family}, {count} steps")
                continue
            began = time.perf_counter()
            report(f"{family}, {count} steps", [f"{f.what}: {f.where}" for f in examination.trained(route, family, count)], began)
            began = time.perf_counter()
            found = resident(kind, family, count)
            report(f"{family}, {count} steps on the device", [found] if found else [], began)
            if count == min(FEW, steps):
                began = time.perf_counter()
                found = resident(kind, family, count, away=True)
                report(f"{family}, {count} steps with moments on the host", [found] if found else [], began)
            if family in SLICES and count == min(FEW, steps):
                began = time.perf_counter()
                found = resident(kind, family, count, SLICES[family])
                report(f"{family}, {count} steps by slices", [found] if found else [], began)
    if left:
        print("no time was left for", "; ".join(left))
    print(f"all {'that was tested' if left else 'of it'} has the published bits" if not bad else f"{bad} are wrong: this device must not work")
    return int(bad > 0 or untried != 0)


if __name__ == "__main__":
    sys.exit(main())
