"""The client's side over memory adapters: what is published opens for whom it should, money is locked as estimated, and weights come back
only when they are the ones that settled.
"""

from __future__ import annotations

import asyncio
import textwrap
from typing import Any, NamedTuple

import numpy as np
import pytest

from assay import chain as events
from assay import client, seal, shard
from assay.adapters.memory_blobs import BlobNet, MemoryBlobs
from assay.adapters.memory_chain import MemoryChain, MemoryLedger
from assay.adapters.memory_keys import MemoryKeys
from assay.chain import CallId, Params, Register
from assay.codec import decode
from assay.execute import Executor
from assay.ids import Address, Cid, Digest, JobId, PeerId, SegmentId
from assay.job import JobSpec, SealedRef, data_root, envelope_info
from assay.merkle import sha256
from assay.ports import Reverted
from assay.program import Program
from assay.receipts import Ledger
from assay.state import Tensors, from_bytes, state_root, to_bytes
from assay.successors import entrust

BUDGET = 50_000_000
TRAIN = """
    import numpy as np
    import torch.nn.functional as F
    from torch import nn
    import assay

    x = np.random.default_rng(0).normal(size=(40, 6)).astype("float32")
    training = assay.Training(
        model=nn.Linear(6, 3),
        loss=lambda model, batch: F.cross_entropy(model(batch["x"]), batch["y"]),
        data=assay.Dataset("dots", x=x, y=(x[:, 0] > 0).astype("int64")),
        optimizer=assay.AdamW(lr=1e-2), batch=8, micro_batches=2, steps=12,
    )
"""


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> client.Plan:
    from assay.cli.jobs import plan_of

    path = tmp_path_factory.mktemp("train") / "train.py"
    path.write_text(textwrap.dedent(TRAIN))
    return plan_of(path, None, 0)[0]


class Scene(NamedTuple):
    ledger: MemoryLedger
    chain: MemoryChain
    blobs: MemoryBlobs
    keys: MemoryKeys
    service: MemoryKeys
    wish: client.Wish


@pytest.fixture
def scene() -> Scene:
    """A client with money, and a key service that has registered."""
    ledger = MemoryLedger(b"client")
    ledger.account("client", tokens=2 * BUDGET)
    mine, theirs = MemoryChain(ledger, "client"), MemoryChain(ledger, "service")
    keys, service = MemoryKeys(b"c", mine.account), MemoryKeys(b"s", theirs.account)
    for chain, who in ((mine, keys), (theirs, service)):
        register = Register(encryption_key=who.encryption_key, peer=PeerId("peer-" + who.account[2:8]))
        asyncio.run(chain.send(CallId("register"), register))
    now = ledger.head.time
    wish = client.Wish(
        segment_steps=4, price_cap=1_000_000, fee=10_000, budget=BUDGET, deadline=now + 10_000, scheduler=Address("0x" + "77" * 20), params=Params()
    )
    return Scene(ledger, mine, MemoryBlobs(BlobNet(), PeerId("client")), keys, service, wish)


def published(plan: client.Plan, s: Scene) -> tuple[JobSpec, events.Terms]:
    async def go() -> tuple[JobSpec, events.Terms]:
        service = await client.find_service(s.chain, s.service.account, depth=0)
        return await client.publish(plan, s.wish, service, s.chain, s.blobs, s.keys)

    return asyncio.run(go())


def opened(s: Scene, ref: SealedRef) -> bytes:
    """What the key service can open."""
    key = s.service.unwrap(ref.envelope, envelope_info(s.keys.account))
    assert seal.key_id(key) == ref.key_id
    return seal.unseal(asyncio.run(s.blobs.get(ref.cid)), key)


def test_what_is_published_is_the_whole_job_and_opens_for_the_key_service(plan: client.Plan, scene: Scene) -> None:
    spec, terms = published(plan, scene)
    assert sha256(asyncio.run(scene.blobs.get(terms.spec))) == terms.spec_digest
    assert decode(asyncio.run(scene.blobs.get(terms.spec)), JobSpec) == spec
    program = Program.load(asyncio.run(scene.blobs.get(spec.program)))
    schedule = np.frombuffer(asyncio.run(scene.blobs.get(spec.schedule)), "<f4").reshape(plan.steps, len(spec.scalars))
    assert Executor(program, schedule, spec.micro_batches).root == terms.program_root
    state = from_bytes(opened(scene, spec.state), 1 << 20)
    assert state_root(0, state) == terms.state_root
    records = shard.Records(spec.dataset, lambda cid: asyncio.run(scene.blobs.get(cid)), lambda key_id: scene.keys.load(key_id))
    np.testing.assert_array_equal(records.read(range(40))["x"], plan.records["x"])
    assert data_root(spec.dataset, spec.order, spec.batch) == terms.dataset_root


def test_nothing_secret_is_published_in_the_clear(plan: client.Plan, scene: Scene) -> None:
    spec, _ = published(plan, scene)
    open_cids = {spec.program, spec.schedule}
    secret = [np.ascontiguousarray(plan.records["x"]).tobytes()[:64], plan.state["param.weight"].tobytes()]
    for cid, blob in scene.blobs._blobs.items():
        if cid not in open_cids:
            assert not any(part in blob for part in secret)


def test_an_envelope_does_not_open_in_the_name_of_another_client(plan: client.Plan, scene: Scene) -> None:
    spec, _ = published(plan, scene)
    with pytest.raises(ValueError, match="open"):
        scene.service.unwrap(spec.state.envelope, envelope_info(Address("0x" + "99" * 20)))


def test_posting_locks_the_budget_and_gives_the_jobs_number(plan: client.Plan, scene: Scene) -> None:
    _, terms = published(plan, scene)
    before = scene.ledger.view(scene.keys.account).tokens
    job = asyncio.run(client.post(scene.chain, terms))
    assert job == 1
    assert scene.ledger.view(scene.keys.account).tokens == before - BUDGET
    assert asyncio.run(client.post(scene.chain, terms)) == 1  # the same call, sent once


def test_a_budget_that_is_not_there_is_refused_by_the_contract(plan: client.Plan, scene: Scene) -> None:
    _, terms = published(plan, scene._replace(wish=scene.wish._replace(budget=3 * BUDGET)))
    with pytest.raises(Reverted):
        asyncio.run(client.post(scene.chain, terms))


def test_a_key_service_that_has_not_registered_is_named(scene: Scene) -> None:
    nobody = Address("0x" + "55" * 20)
    with pytest.raises(LookupError, match=nobody):
        asyncio.run(client.find_service(scene.chain, nobody, depth=0))


def test_the_estimate_covers_the_worst_that_the_contract_may_lock(plan: client.Plan) -> None:
    params = Params(verifiers=3, redraws=2, challenge_window=100)
    guess = client.estimate(plan, segment_steps=5, price_cap=7, fee=2, params=params)
    assert guess.segments == 3
    assert guess.total == 12 * 7 + 3 * 3 * 2 * (1 + 2)
    assert guess.seconds_computing == pytest.approx(12 * guess.seconds_a_step)
    assert guess.seconds_settling == 100


def test_a_run_in_one_process_does_not_depend_on_keys_or_threads(plan: client.Plan) -> None:
    assert client.run_plan(plan).root == client.run_plan(plan, threads=2).root


# ---- the weights ------------------------------------------------------------------------------------------------------------


class Delivery(NamedTuple):
    ledger: Ledger
    state: Tensors
    key: bytes


def delivered(
    plan: client.Plan, s: Scene, *, key: bytes | None = None, claimed: Digest | None = None, stop: int = 12, cancelled: bool = False
) -> Delivery:
    """A ledger in which segment 1 has settled up to `stop`, its checkpoint is in the store and its key was released to the client."""
    _, terms = published(plan, s)
    state = client.run_plan(plan._replace(schedule=plan.schedule[:stop])).state
    real = seal.new_key()
    cid = asyncio.run(s.blobs.put(seal.seal(to_bytes(state), real)))
    root, key_id = claimed or state_root(stop, state), seal.key_id(real)
    at: Any = {"block": 1, "time": 1, "index": 0}
    one, client_account = SegmentId(1), s.keys.account
    ledger = Ledger()
    ledger.feed([
        events.JobPosted(**at, job=JobId(1), client=client_account, terms=terms),
        events.Assigned(**at, segment=one, job=JobId(1), parent=SegmentId(0), provider=client_account, start=0, stop=stop, price=1, activate_by=9),
        events.Committed(
            **at, segment=one, stop=stop, link_root=root, end_root=root, checkpoint=Cid(cid), key_id=key_id, key_envelope=b"e" * 80, commitment=root,
            seed_block=1,
        ),
        *([events.JobCancelled(**at, job=JobId(1))] if cancelled else []),
    ])  # fmt: skip
    ledger.apply(events.Settled(**at, segment=one, provider=client_account, price=1))
    wrapped = s.keys.wrap(key or real, s.keys.encryption_key)
    ledger.apply(events.KeyReleased(**at, segment=one, recipient=client_account, key_id=key_id, wrapped=wrapped, by=s.service.account))
    return Delivery(ledger, state, real)


def fetched(d: Delivery, s: Scene) -> Tensors:
    return asyncio.run(client.fetch(d.ledger, JobId(1), s.chain, s.blobs, s.keys))


def test_weights_come_back_under_their_names_in_the_model(plan: client.Plan, scene: Scene) -> None:
    delivery = delivered(plan, scene)
    state = fetched(delivery, scene)
    assert state_root(12, state) == state_root(12, delivery.state)
    assert set(client.weights(state)) == {"weight", "bias"}


def test_weights_of_a_cancelled_job_are_those_of_its_last_settled_segment(plan: client.Plan, scene: Scene) -> None:
    delivery = delivered(plan, scene, stop=4, cancelled=True)
    assert state_root(4, fetched(delivery, scene)) == state_root(4, delivery.state)


def test_weights_that_are_not_there_yet_are_told_by_how_far_it_is(plan: client.Plan, scene: Scene) -> None:
    with pytest.raises(client.NotYet, match="4 of 12 steps"):
        fetched(delivered(plan, scene, stop=4), scene)
    with pytest.raises(client.NotYet, match="no job 1"):
        asyncio.run(client.fetch(Ledger(), JobId(1), scene.chain, scene.blobs, scene.keys))


def test_a_wrong_key_is_the_key_services_fault(plan: client.Plan, scene: Scene) -> None:
    with pytest.raises(ValueError, match="key service's fault"):
        fetched(delivered(plan, scene, key=seal.new_key()), scene)


def test_a_checkpoint_that_is_not_what_settled_is_its_providers_fault(plan: client.Plan, scene: Scene) -> None:
    with pytest.raises(ValueError, match="provider's fault"):
        fetched(delivered(plan, scene, claimed=Digest(bytes(32))), scene)


def test_a_job_whose_successors_are_listed_names_the_contract_as_its_scheduler(plan: client.Plan, scene: Scene) -> None:
    wish = scene.wish._replace(takeovers=scene.chain.takeovers, successors=(scene.service.account,))
    _, terms = published(plan, scene._replace(wish=wish))
    _, plainly = published(plan, scene)
    assert (terms.scheduler, plainly.scheduler) == (scene.chain.takeovers, wish.scheduler)
    assert (terms.params.takeover_window, plainly.params.takeover_window) == (7 * 86_400, Params().takeover_window)
    asyncio.run(entrust(scene.chain, terms.spec_digest, wish.scheduler, wish.params.takeover_window, wish.successors))
    (made,) = [e for e in scene.ledger.events() if isinstance(e, events.Entrusted)]
    assert (made.client, made.scheduler, made.patience) == (scene.chain.account, wish.scheduler, Params().takeover_window)
    assert made.providers == wish.successors
