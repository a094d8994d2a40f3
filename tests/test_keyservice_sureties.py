"""What the key service puts up for its keys, and when: the machine with the bench of tests/test_keyservice.py."""

from __future__ import annotations

import pytest
from test_keyservice import CLIENT, INITIAL, NODES, SERVICE, SHARDS, V1, V2, V3, W1, W2, Bench, document, sealed, terms

from assay.chain import (
    AnyCall,
    CheckpointKeyShown,
    ContestCheckpoint,
    JobClosed,
    JobPosted,
    JobVouched,
    Params,
    Redrawn,
    ReturnSurety,
    SuretyDeposited,
    SuretyEnding,
    SuretyOffered,
    SuretyReturned,
    SuretyWithdrawn,
    VouchJob,
)
from assay.ids import JobId, SegmentId
from assay.merkle import sha256
from assay.runtime import Failed, Fault, Send, Sent, Wake, Woke

PER_JOB = 100


def sent(bench: Bench, kind: str) -> list[AnyCall]:
    """Calls of a kind that wait to be mined."""
    return [e.call for e in bench.core.outstanding.values() if isinstance(e, Send) and e.key.split(":")[0] == kind]


def key(bench: Bench, kind: str) -> str:
    """Of the one call of a kind that waits."""
    (found,) = (e.key for e in bench.core.outstanding.values() if isinstance(e, Send) and e.key.split(":")[0] == kind)
    return found


def offers(bench: Bench, deposit: int = PER_JOB, notice: int = 60) -> None:
    bench.chain(SuretyOffered, keeper=SERVICE.account, per_job=PER_JOB, each=10, notice=notice)
    bench.chain(SuretyDeposited, keeper=SERVICE.account, amount=deposit)


def vouched(bench: Bench, job: int = 1) -> None:
    bench.feed(Sent(key=key(bench, "vouch"), block=bench.block.number))
    bench.chain(JobVouched, job=JobId(job), keeper=SERVICE.account, amount=PER_JOB, each=10)


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.register(*NODES)
    bench.post()
    offers(bench)
    return bench


def test_it_vouches_for_jobs_whose_envelopes_have_opened_with_what_is_free(bench: Bench) -> None:
    assert sent(bench, "vouch") == [VouchJob(job=JobId(1))]
    bench.post(2)
    assert len(sent(bench, "vouch")) == 1  # nothing is left
    vouched(bench)
    bench.chain(SuretyDeposited, keeper=W1.account, amount=1000)  # another's
    assert not sent(bench, "vouch")
    bench.chain(SuretyDeposited, keeper=SERVICE.account, amount=PER_JOB)
    assert sent(bench, "vouch") == [VouchJob(job=JobId(2))]


def test_a_call_that_was_not_taken_is_made_again_with_the_next_deposit(bench: Bench) -> None:
    bench.feed(Failed(key=key(bench, "vouch"), fault=Fault.REFUSED, error="no"))
    assert bench.topics()[-1] == "surety"
    bench.chain(SuretyWithdrawn, keeper=SERVICE.account, amount=1)
    assert not sent(bench, "vouch")
    bench.chain(SuretyDeposited, keeper=SERVICE.account, amount=1)
    assert sent(bench, "vouch") == [VouchJob(job=JobId(1))]


@pytest.mark.parametrize("params", [Params(serve_window=59), Params(redraws=0)])
def test_it_vouches_for_nothing_that_leaves_it_no_time(params: Params) -> None:
    bench = Bench()
    bench.register(*NODES)
    offers(bench)
    bench.post(params=params)
    assert not sent(bench, "vouch")


def test_it_vouches_for_no_job_whose_envelopes_do_not_open() -> None:
    """A client cannot have it fail by a document that is broken."""
    bench = Bench(document(state=sealed(INITIAL, bytes(80))))
    bench.register(*NODES)
    offers(bench)
    bench.post()
    assert "refused" in bench.topics()
    assert not sent(bench, "vouch")


def test_it_objects_to_an_envelope_that_does_not_open_and_releases_when_the_key_is_shown(bench: Bench) -> None:
    vouched(bench)
    bench.assign(1)
    shown = bench.commit(1, envelope=bytes(80))
    assert sent(bench, "contest") == [ContestCheckpoint(segment=SegmentId(1))]
    bench.draw(1, V1, V2)
    assert not bench.got(V1, 1)
    bench.chain(CheckpointKeyShown, segment=SegmentId(1), key=sha256(b"another key"))
    assert not bench.got(V1, 1)
    bench.chain(CheckpointKeyShown, segment=SegmentId(1), key=shown)
    assert bench.records(V1, 1) == bench.records(V2, 1) == bench.read(0)  # those of the round that is drawn, too
    bench.chain(Redrawn, segment=SegmentId(1), round=1, reason="keys withheld", seed_block=0)
    bench.draw(1, V3, round=1)
    assert bench.records(V3, 1) == bench.read(0)
    bench.assign(2, W2, parent=1, start=10, stop=20)
    assert bench.got(W2, 2) == [*SHARDS, shown]  # and whoever goes on has the checkpoint


def test_it_objects_where_it_has_vouched_and_is_heard_and_nowhere_else() -> None:
    bench = Bench(held=("checkpoint",))
    bench.register(*NODES)
    bench.post()
    bench.assign(1)
    bench.commit(1, envelope=bytes(80))
    offers(bench)
    bench.let("checkpoint")
    assert not sent(bench, "contest")  # it had not vouched
    vouched(bench)
    bench.held.add("checkpoint")
    bench.assign(2)
    bench.commit(2, envelope=bytes(80))
    bench.draw(2, V1)
    bench.chain(Redrawn, segment=SegmentId(2), round=1, reason="keys withheld", seed_block=0)
    bench.let("checkpoint")
    assert not sent(bench, "contest")  # the first round is over


def test_it_takes_back_what_is_left_when_the_job_is_closed(bench: Bench) -> None:
    vouched(bench)
    bench.chain(SuretyEnding, job=JobId(7), ends_after=9)  # another's
    bench.chain(JobClosed, job=JobId(1), refund=0)
    assert sent(bench, "return") == [ReturnSurety(job=JobId(1))]
    bench.feed(Sent(key=key(bench, "return"), block=bench.block.number))
    bench.chain(SuretyEnding, job=JobId(1), ends_after=5000)
    (wake,) = (e for e in bench.core.outstanding.values() if isinstance(e, Wake) and e.key == "ending:1")
    assert wake.at == 5001
    bench.feed(Woke(key="ending:1"))
    assert sent(bench, "return") == [ReturnSurety(job=JobId(1))]
    bench.feed(Sent(key=key(bench, "return"), block=bench.block.number))
    bench.chain(SuretyReturned, job=JobId(1), keeper=SERVICE.account, amount=PER_JOB)
    bench.chain(JobPosted, job=JobId(2), client=CLIENT.account, terms=terms(bench.spec))
    assert sent(bench, "vouch") == [VouchJob(job=JobId(2))]  # with what came back
