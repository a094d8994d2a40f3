# Measures one round of secure aggregation (assay.federated): 10 M numbers of 32 owners, of whom 8 are gone after they have dealt shares, on a graph
# of 16 neighbours, against the SecAgg+ of Flower (flwr: its client mod and its workflow, unchanged, messages passed in memory) in the same run with
# the same owners, neighbours, threshold, losses and modulus. CPU seconds of one process and one thread: of an owner (mean of those that stayed) and
# of the coordinator; bytes that pass in each direction, without the model. Ours has signatures, roots of what is sent and a record that is checked
# at the end (timed by itself). What is not the same: Flower's masks come from a Mersenne Twister with 32 bits of seed (flwr 1.41, pseudo_rand_gen),
# ours from AES-256, and Flower sends a number in 8 bytes, ours in 4. Ours is compared with the sum in the clear. Goal: less time, fewer bytes.
# `many`: rounds of 32, 64, 128 and, without --quick, 256 owners, all of whom stay, with as many neighbours as `assay federated host` gives them (64
# at most), of 4,000 numbers. Goal: beyond 64 an owner's part grows by the signatures that it checks, one of each other owner a phase, and no more.
#
#     pip install --target DIR flwr; python bench/federated.py [--rival DIR] [--quick] [--json]
from __future__ import annotations

import argparse
import copy
import json
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from assay.codec import encode
from assay.federated import graph, record, ring
from assay.federated.client import Client
from assay.federated.coordinator import Coordinator
from assay.federated.messages import Terms
from assay.merkle import sha256

OWNERS, GONE, DEGREE, THRESHOLD = 32, 8, 16, 9
CLIP, FRACTION = 8.0, 18
"""Flower's defaults: 2^22 steps over ±8."""


class Book:
    """CPU seconds and bytes by what they went to."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.bytes: dict[str, int] = defaultdict(int)

    def time(self, what: str, work: Callable[..., Any], *args: Any) -> Any:
        start = time.process_time()
        out = work(*args)
        self.seconds[what] += time.process_time() - start
        return out


def update(base: np.ndarray, owner: int) -> np.ndarray:
    return base * np.float32((owner + 1) / OWNERS)


def ours(base: np.ndarray, gone: set[int], owners: int = OWNERS, degree: int = DEGREE, threshold: int = THRESHOLD) -> dict[str, Any]:
    keys = [sha256(b"bench", bytes([i])) for i in range(owners)]
    terms = Terms(
        job=sha256(b"job"), round=0, model=sha256(b"model"), length=base.size, bits=32, fraction=FRACTION, limit=1 << 21, norm=0,
        owners=tuple(Ed25519PrivateKey.from_private_bytes(k).public_key().public_bytes_raw() for k in keys), weights=(1,) * owners,
        degree=degree, threshold=threshold, minimum=2 * owners // 3 + 1,
    )  # fmt: skip
    book, coordinator = Book(), Coordinator(terms)
    clients = [Client(terms, k, sha256(b"round", k)) for k in keys]
    stays = [i for i in range(owners) if i not in gone]
    rows: dict[int, Any] = {}

    def each(act: Callable[[int, Any], tuple[Any, Any]], messages: dict[int, Any]) -> None:
        for i, message in messages.items():
            book.bytes["to owner"] += len(encode(message)) if message is not None and i not in gone else 0
            signed, row = act(i, message)
            if i not in gone:
                book.bytes["from owner"] += len(encode(signed)) + (row.nbytes if row is not None else 0)
            book.time("coordinator", coordinator.take, signed, row)

    def owner(i: int, work: Callable[..., Any], *args: Any) -> Any:
        return book.time("owner" if i not in gone else "gone", work, *args)

    def masked(i: int, delivery: Any) -> Any:
        def work() -> Any:
            clients[i].delivery(delivery)
            row = ring.fixed(update(base, i), FRACTION, terms.limit).astype(np.int32)
            return clients[i].upload(row, terms.model)

        signed, rows[i] = owner(i, work)
        return signed, rows[i]

    each(lambda i, _: (owner(i, clients[i].advert), None), dict.fromkeys(range(owners)))
    each(lambda i, m: (owner(i, clients[i].roster, m), None), book.time("coordinator", coordinator.close, sha256(b"beacon")))
    deliveries = book.time("coordinator", coordinator.close)
    each(masked, {i: deliveries[i] for i in stays})
    each(lambda i, m: (owner(i, clients[i].survivors, m), None), book.time("coordinator", coordinator.close))
    each(lambda i, m: (owner(i, clients[i].order, m), None), book.time("coordinator", coordinator.close))
    book.time("coordinator", coordinator.close)
    assert coordinator.record is not None
    total = book.time("record checked", record.check, coordinator.record, rows.__getitem__)
    clear = sum(ring.fixed(update(base, i), FRACTION, terms.limit) for i in stays)
    return {**figures(book, len(stays)), "exact": bool(np.array_equal(total, clear)), "record_checked_s": round(book.seconds["record checked"], 2)}


def figures(book: Book, stays: int) -> dict[str, Any]:
    return {
        "owner_s": round(book.seconds["owner"] / stays, 3),
        "coordinator_s": round(book.seconds["coordinator"], 2),
        "round_s": round(book.seconds["owner"] + book.seconds["gone"] + book.seconds["coordinator"], 2),
        "from_owner_mb": round(book.bytes["from owner"] / stays / 1e6, 3),
        "to_owner_kb": round(book.bytes["to owner"] / stays / 1e3, 1),
    }


def flower(base: np.ndarray, gone: set[int]) -> dict[str, Any]:
    """The same round by flwr: `SecAggPlusWorkflow` against `secaggplus_mod`, a grid in memory between them."""
    import flwr
    from flwr.app import Context, Error, Message, RecordDict
    from flwr.client.mod.secure_aggregation import secaggplus_mod
    from flwr.common import Code, FitIns, FitRes, Parameters, Status, ndarrays_to_parameters, parameters_to_ndarrays
    from flwr.compat.common import recorddict_compat as compat
    from flwr.server import LegacyContext
    from flwr.server.strategy import FedAvg
    from flwr.server.workflow import SecAggPlusWorkflow
    from flwr.server.workflow.secure_aggregation.secaggplus_workflow import WorkflowState
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.task_id = TaskIdentity.run_id = 1
    TaskIdentity.node_id = 0
    book = Book()
    contexts = [Context(run_id=1, node_id=i + 1, node_config={}, state=RecordDict(), run_config={}) for i in range(OWNERS)]

    class Proxy:
        def __init__(self, node_id: int) -> None:
            self.node_id = node_id

    class Sum(FedAvg):
        total: Any = None

        def configure_fit(self, server_round: int, parameters: Any, client_manager: Any) -> Any:
            return [(Proxy(i + 1), FitIns(Parameters([], ""), {})) for i in range(OWNERS)]

        def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
            self.total = parameters_to_ndarrays(results[0][1].parameters)[0]
            return None, {}

    class Managers:
        def num_available(self) -> int:
            return OWNERS

    def size(content: Any) -> int:
        out = 0
        for config in content.config_records.values():
            for value in config.values():
                out += sum(len(v) if isinstance(v, bytes) else 8 for v in (value if isinstance(value, list) else [value]) if not isinstance(v, str))
        return out

    class Grid:
        stage = 0

        def send_and_receive(self, messages: Any, *, timeout: Any = None) -> Any:
            self.stage += 1
            out, spent = [], time.process_time()
            for message in messages:
                message = copy.deepcopy(message)  # as a network does
                i = message.metadata.dst_node_id - 1
                if i in gone and self.stage > 2:
                    out.append(Message(Error(code=0), reply_to=message))
                    continue

                def trained(message: Any, context: Any, i: int = i) -> Any:
                    result = FitRes(Status(Code.OK, ""), ndarrays_to_parameters([update(base, i)]), 1, {})
                    return Message(compat.fitres_to_recorddict(result, False), reply_to=message)

                book.bytes["to owner"] += size(message.content) if i not in gone else 0
                reply = book.time("owner" if i not in gone else "gone", secaggplus_mod, message, contexts[i], trained)
                book.bytes["from owner"] += size(reply.content) if i not in gone else 0
                out.append(reply)
            book.seconds["coordinator"] -= time.process_time() - spent
            return out

    strategy = Sum()
    context = LegacyContext(
        Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config={}), strategy=strategy, client_manager=Managers()
    )
    from flwr.app import ArrayRecord, ConfigRecord
    from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD, Key

    context.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({Key.CURRENT_ROUND: 1})
    context.state.array_records[MAIN_PARAMS_RECORD] = ArrayRecord([np.zeros(1, np.float32)])
    # the weights are equal: of a range of 1, as ours
    workflow = SecAggPlusWorkflow(DEGREE + 1, THRESHOLD, max_weight=1.0, clipping_range=CLIP)
    grid, state = Grid(), WorkflowState()
    for step in (workflow.setup_stage, workflow.share_keys_stage, workflow.collect_masked_vectors_stage, workflow.unmask_stage):
        assert book.time("coordinator", step, grid, context, state), f"flwr stopped at {step.__name__}"
    clear = np.mean([update(base, i) for i in range(OWNERS) if i not in gone], axis=0, dtype=np.float64)
    return {**figures(book, OWNERS - len(gone)), "largest_error": float(np.abs(strategy.total - clear).max()), "version": flwr.__version__}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rival", help="folder that flwr was installed to")
    args = parser.parse_args()
    if args.rival:
        sys.path.append(args.rival)
    size = 200_000 if args.quick else 10_000_000
    random.seed(1)
    base = np.random.default_rng(1).normal(0, 1, size).astype(np.float32)
    gone = set(random.sample(range(OWNERS), GONE))
    out: dict[str, Any] = {
        "numbers": size, "owners": OWNERS, "gone": GONE, "neighbours": DEGREE, "threshold": THRESHOLD, "ours": ours(base, gone),
        "lost_at_most": graph.stuck(OWNERS, DEGREE, THRESHOLD, GONE), "exposed_to_five_at_most": graph.exposed(OWNERS, DEGREE, THRESHOLD, 5),
    }  # fmt: skip
    out["many"] = {}
    for owners in (32, 64, 128) if args.quick else (32, 64, 128, 256):
        near = min(64, owners - 1) // 2 * 2
        out["many"][owners] = {"neighbours": near} | ours(base[:4000], set(), owners, near, near // 2 + 1)
    try:
        out["flower"] = flower(base, gone)
        out["ratios"] = {
            key: round(out["flower"][key] / out["ours"][key], 2) for key in ("owner_s", "coordinator_s", "round_s", "from_owner_mb", "to_owner_kb")
        }
    except ImportError as error:
        print(f"without Flower ({error}): name the folder that it was installed to with --rival")
    for key, value in out.items():
        print(f"{key}: {value}")
    if args.json:
        print(json.dumps(out))


if __name__ == "__main__":
    main()
