"""`assay check` of what a provider has not settled yet: one step alone, from the state that the provider shows; of a provider that lies in one link,
the step, the stage and the element; of one that shows nothing, what can still be said."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from roles.tiny import MICRO_BATCHES, Net, plan, post

from assay.adapters.engine_process import InlineEngine
from assay.adapters.memory_committee import visit_digest
from assay.adapters.memory_record import read_record
from assay.audit.bases import Bases
from assay.audit.findings import Report
from assay.audit.step import StepCheck, check_step
from assay.audit.whole import audit_job
from assay.cli.check import as_json, told
from assay.dispute.questions import Kind, Question
from assay.dispute.served import Nodes, Wanted
from assay.ids import JobId, SegmentId
from assay.keyservice.daemon import key_service
from assay.messages import Ack, Boundary, Refusal, StepRequest, TreeRequest, Visit
from assay.state import Tensors, from_bytes, to_bytes
from assay.work import Engine
from assay_scheduler.daemon import scheduler
from assay_worker.daemon import worker
from tests.liars.steps import Mute, handing_on, lying

STEPS = 4
PLAN = plan(STEPS, frozen=True)


class Story:
    """A job of one segment that a provider has committed; nobody verifies, so that it has its files."""

    def __init__(self, folder: Path, engine: type[Engine]) -> None:
        self.net, self.folder = Net(folder / "net"), folder
        self.engine = engine

    async def run(self, use: Any) -> Any:
        net = self.net
        async with net.mining():
            net.ports["worker"] = dataclasses.replace(net.make_ports("worker"), engine=InlineEngine(self.engine))
            await net.up("scheduler", scheduler, role="scheduler", offer_window=10)
            await net.up("keys", key_service, role="keyservice")
            await net.up("worker", worker, deposit=100_000, price_per_step=10)
            self.job = JobId(await post(net, PLAN, STEPS))
            await net.until(lambda: bool(net.said("committed", "worker")))
            for name in ("client", "stranger"):
                await net.make_ports(name).peers.start(refuse, lambda peer, message: None)
            return await use(self)

    async def check(self, step: int, who: str = "client", keys: str = "client", progress: Any = lambda done, total: None) -> StepCheck:
        ports = self.net.ports
        return await check_step(
            self.record(), self.job, step, ports[who].blobs, ports[keys].keys, InlineEngine(), self.folder / f"check-{who}-{step}", Bases(None),
            patience=2, peers=ports[who].peers, visit=self.visit(who), progress=progress,
        )  # fmt: skip

    async def audit(self) -> Report:
        ports = self.net.ports["client"]
        return await audit_job(
            self.record(), self.job, ports.blobs, ports.keys, InlineEngine(), self.folder / "audit", replay=3, seed=1, patience=2, peers=ports.peers,
            visit=self.visit("client"),
        )  # fmt: skip

    def record(self) -> Any:
        found: Any = self.net.ports["client"].chain
        return read_record(found, self.job)

    def visit(self, who: str, signer: str = "client") -> Visit:
        """`who` asks for the client."""
        ledger, ports = self.net.ledger, self.net.ports
        account = ports["client"].chain.account
        return Visit(account=account, signature=ledger.sign(ports[signer].chain.account, visit_digest(ledger.chain_id, ports[who].peers.peer)))

    async def ask(self, who: str, message: Any) -> Any:
        return await self.net.ports[who].peers.request(self.net.ports["worker"].peers.peer, message, 20)


async def refuse(peer: object, message: object) -> Refusal:
    return Refusal(reason="no")


def story(folder: Path, engine: type[Engine], use: Any) -> Any:
    return asyncio.run(Story(folder, engine).run(use))


def test_an_honest_step_is_run_alone_from_the_state_that_its_provider_shows(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    async def use(s: Story) -> tuple[StepCheck, StepCheck, Report]:
        middle = await s.check(2, progress=lambda done, total: seen.append((done, total)))
        return middle, await s.check(0), await s.audit()

    middle, first, report = story(tmp_path, Engine, use)
    assert middle.agrees
    assert (middle.alone, middle.computed, middle.start, middle.stop) == (True, 1, 0, STEPS)
    assert seen[-1] == (1, 1)
    assert (first.agrees, first.alone, first.computed) == (True, True, 1)
    assert "from the state before it" in "\n".join(told(middle, 1.0))
    assert as_json(middle, 1.0)["alone"]
    assert not report.failed
    assert report.rows[0].sheet.mark("replay") == "✓"


def other(value: Any) -> Any:
    """The second element is another one."""
    out = np.array(value)
    out.reshape(-1)[1] += 1
    return out


LIARS: dict[str, tuple[type[Engine], int, int, str, int | None]] = {
    "a product of a micro-batch": (lying(2, 1, "matmul", other), 2, 1, "matmul giving f32[4, 3], from batch x and state param.w", 1),
    "the second product": (lying(1, 0, "matmul", other, nth=1), 1, 0, "matmul giving f32[4, 3]", 1),
    "a root of an update": (lying(1, MICRO_BATCHES, "sqrt", other, nth=-1), 1, MICRO_BATCHES, "sqrt giving f32[4, 3]", 1),
    "an end that is none": (
        handing_on(1, MICRO_BATCHES, lambda end: end | {"param.w": other(end["param.w"])}), 1, MICRO_BATCHES, "'param.w' of the end", 1,
    ),
    "an accumulator that is none": (handing_on(3, 0, lambda end: end | {"grad.w": other(end["grad.w"])}), 3, 0, "'grad.w' of the end", 1),
}  # fmt: skip


@pytest.mark.parametrize("name", LIARS)
def test_a_lie_in_one_step_is_found_to_the_stage_and_the_element(tmp_path: Path, name: str) -> None:
    engine, step, m, what, element = LIARS[name]

    async def use(s: Story) -> tuple[StepCheck, StepCheck, Report]:
        return await s.check(step), await s.check((step + 1) % STEPS), await s.audit()

    found, beside, report = story(tmp_path, engine, use)
    assert not found.agrees
    assert found.alone
    (where,) = found.where
    assert (where.step, where.m, where.update) == (step, m, m == MICRO_BATCHES)
    assert where.parted is not None, where.why
    assert what in where.parted.what
    assert where.parted.element == element
    assert float(where.parted.theirs) == pytest.approx(float(where.parted.ours) + 1, rel=1e-5)
    text = "\n".join(told(found, 1.0))
    assert f"step {step}, {'its update' if where.update else f'micro-batch {m}'}" in text
    assert f"element {element} is {where.parted.ours} here, {where.parted.theirs} there" in text
    assert as_json(found, 1.0)["where"][0]["what"] == where.parted.what
    assert beside.agrees, "another step comes out of the state that was committed before it"
    assert report.failed
    assert any(f"step {step}" in f.text for row in report.rows for f in row.sheet.findings)


def test_a_provider_that_shows_nothing_is_checked_over_its_whole_segment(tmp_path: Path) -> None:
    class Shut(lying(1, 0, "matmul", other), Mute):  # type: ignore[misc]
        pass

    async def use(s: Story) -> StepCheck:
        return await s.check(2)

    found = story(tmp_path, Shut, use)
    assert (found.agrees, found.alone, found.computed) == (False, False, STEPS)
    assert not found.where
    assert "at which step is not to be seen: its provider does not show its link ends (it could not be made)" in found.wrong[0]


class Deaf(lying(1, 0, "matmul", other)):  # type: ignore[misc]
    """Shows link ends, and nothing below."""

    def _link(self, task: Any, inputs: Any, unit: int) -> Any:
        raise OSError("gone")


def test_where_only_the_link_ends_are_shown_the_link_is_named(tmp_path: Path) -> None:
    async def use(s: Story) -> StepCheck:
        return await s.check(1)

    found = story(tmp_path, Deaf, use)
    (where,) = found.where
    assert (found.agrees, where.step, where.m, where.parted) == (False, 1, 0, None)
    assert "its provider shows no more (it could not be made)" in found.wrong[0]


def test_only_the_client_and_verifiers_are_shown_anything(tmp_path: Path) -> None:
    top = Question(kind=Kind.ENDS, wanted=Wanted(height=4, index=0))

    async def use(s: Story) -> list[Any]:
        one, tree = StepRequest(segment=SegmentId(1), step=1), TreeRequest(segment=SegmentId(1), question=top)
        long = msgspec.structs.replace(s.visit("client"), signature=b"s" * 300)
        known = [s.visit("stranger", "stranger"), long, s.visit("client"), s.visit("client")]
        asked = [await s.ask("stranger" if i == 0 else "client", visit) for i, visit in enumerate(known)]
        asked += [await s.ask("stranger", s.visit("client"))]  # what another peer was given is of no use
        asked += [await s.ask("stranger", one), await s.ask("stranger", tree), await s.ask("client", one), await s.ask("client", tree)]
        asked += [await s.ask("client", msgspec.structs.replace(one, **change)) for change in ({"step": STEPS}, {"segment": SegmentId(9)})]
        wrong = [
            Question(kind=Kind.STAGE, at=10**6, wanted=top.wanted), Question(kind=Kind.TRACE, unit=10**6, wanted=top.wanted),
            Question(kind=Kind.ENDS, wanted=Wanted(height=60, index=0)), Question(kind=Kind.ENDS, wanted=Wanted(height=0, index=1 << 40)),
        ]  # fmt: skip
        return asked + [await s.ask("client", TreeRequest(segment=SegmentId(1), question=question)) for question in wrong]

    *visits, first, second, state, tree = (found := story(tmp_path, Engine, use))[:9]
    refused = found[9:]
    assert [type(reply) for reply in visits] == [Refusal, Refusal, Ack, Ack, Refusal]
    assert [type(reply) for reply in (first, second)] == [Refusal, Refusal]
    assert "asks neither for the job's client" in first.reason
    assert isinstance(state, Boundary)
    assert isinstance(tree, Nodes)
    assert all(isinstance(reply, Refusal) for reply in refused)


def test_what_is_over_is_not_shown_any_more(tmp_path: Path) -> None:
    async def use(s: Story) -> Any:
        node: Any = s.net.nodes["worker"]
        machine = node.core.machine
        await s.ask("client", s.visit("client"))
        del machine.state.mine[SegmentId(1)]
        return await s.ask("client", StepRequest(segment=SegmentId(1), step=1))

    reply = story(tmp_path, Engine, use)
    assert "the files of segment 1 are gone" in reply.reason


def test_a_state_that_is_not_the_committed_one_is_not_used(tmp_path: Path) -> None:
    """Its provider then counts as one that shows nothing."""

    class OtherState(Engine):
        def _open(self, task: Any) -> Any:
            opened = super()._open(task)
            path = self.root / task.segment / opened.opened[0].file
            tensors: Tensors = from_bytes(path.read_bytes(), 1 << 20)
            path.write_bytes(to_bytes({name: other(array) if "param" in name else array for name, array in tensors.items()}))
            return opened

    async def use(s: Story) -> StepCheck:
        return await s.check(2)

    found = story(tmp_path, OtherState, use)
    assert (found.agrees, found.alone, found.computed) == (True, False, STEPS)
