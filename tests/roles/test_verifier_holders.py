"""The verifier's machine where key holders share the keys: of whom it asks parts of its records, what it takes, and whom it names."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from test_verifier_machine import CONFIG

from assay import bundles, partials, reads, threshold
from assay.chain import KeyReleased, Redrawn
from assay.ids import Digest, PeerId, SegmentId
from assay.job import JobSpec, KeyHolder, KeyHolders
from assay.messages import KeyGrant, KeyRequest
from assay.role.holding import MOST_ANSWERS
from assay.runtime import Ask, Fault
from assay.tasks import CheckRecords, GatherRecords, KeyGathered, RecordsChecked, RecordsGathered
from assay_verifier.machine import VerifierMachine
from bench import CLIENT, KEYS, ME, OTHER, PEERS, SHARDS, SPEC, VERIFIERS, Bench, cid

HOLDERS = (KEYS, *VERIFIERS[1:])
GROUP = KeyHolders(threshold=2, members=tuple(KeyHolder(account=who, peer=PeerId(f"holder {who[2]}"), encryption_key=b"k" * 32) for who in HOLDERS))
PLACES = ((2, 1),)
UNIT = 7


def envelope(number: int) -> bytes:
    return bytes((2, 2, 3)) + bytes(32) + bytes([1 + number]) * 32 + bytes(2 * 32) + bytes(3 * 80)


def spec() -> JobSpec:
    refs = [msgspec.structs.replace(shard.sealed, envelope=envelope(at)) for at, shard in enumerate(SHARDS)]
    shards = tuple(msgspec.structs.replace(shard, sealed=ref) for shard, ref in zip(SHARDS, refs, strict=True))
    return msgspec.structs.replace(SPEC, dataset=msgspec.structs.replace(SPEC.dataset, shards=shards), holders=GROUP, key_service_peer=PEERS[KEYS])


JOB = spec()
READ = reads.records(reads.reading(JOB), PLACES)
(FIRST, WANTED), *_ = ((JOB.dataset.shards[at].sealed, some) for at, some in READ.items())
MASKS = threshold.masks_ref(FIRST.envelope, 8)[0]


def parts(count: int = len(WANTED), mark: bytes = b"p") -> bytes:
    """Wrapped parts of so many records, as far as a machine sees."""
    return mark * (48 + partials.encoded_size(count))


def drawn() -> Bench:
    """A verifier that is drawn, and has the job's document."""
    made = Bench.of(VerifierMachine(CONFIG))
    made.posted()
    made.assigned(provider=OTHER)
    made.committed()
    made.drawn(units=(UNIT,), verifiers=(ME, VERIFIERS[0], OTHER))
    made.load_job(holders=GROUP, dataset=JOB.dataset)
    return made


@pytest.fixture
def bench() -> Any:
    """It has all shards, too, and not the masks."""
    made = drawn()
    for at in READ:
        made.fetched(f"fetch:1:{JOB.dataset.shards[at].sealed.cid}")
    yield made
    made.check_restart()


def masks(bench: Bench) -> None:
    for at in READ:
        bench.fetched(f"fetch:1:{threshold.masks_ref(JOB.dataset.shards[at].sealed.envelope, 8)[0]}")


def given(bench: Bench, place: int, wrapped: bytes, key: Digest = FIRST.key_id) -> None:
    bench.seen(KeyReleased, segment=SegmentId(1), recipient=ME, key_id=key, wrapped=wrapped, by=HOLDERS[place - 1])


def asked(bench: Bench, key: Digest = FIRST.key_id) -> list[int]:
    """Places of the holders that are asked now."""
    found = [effect for name, effect in bench.core.outstanding.items() if name.startswith(f"ask:1:{key.hex()}:")]
    assert all(isinstance(one, Ask) and one.message == KeyRequest(segment=SegmentId(1), key_id=key) for one in found)
    return sorted(int(one.key.split(":")[-1]) for one in found)


def gathering(key: Digest = FIRST.key_id, round: int = 0) -> str:
    return f"parts:1:{round}:{key.hex()}"


def gathered(bench: Bench, kept: bool = True, false: tuple[int, ...] = (), short: tuple[int, ...] = ()) -> None:
    bench.done(gathering(), RecordsGathered(key_id=FIRST.key_id, kept=kept, false=false, short=short))


def test_it_asks_as_many_holders_as_are_needed_and_gathers_when_parts_and_masks_are_here(bench: Bench) -> None:
    one, two = asked(bench)
    three = ({1, 2, 3} - {one, two}).pop()
    bench.answered(f"ask:1:{FIRST.key_id.hex()}:{one}", KeyGrant(key_id=FIRST.key_id, wrapped=(parts(mark=b"a"),)))
    given(bench, three, parts(mark=b"c"))
    assert bench.idle("parts:")
    masks(bench)
    answers = tuple(sorted([(one, (parts(mark=b"a"),)), (three, (parts(mark=b"c"),))]))
    assert bench.task(gathering()) == GatherRecords(spec=cid("spec"), places=PLACES, key_id=FIRST.key_id, answers=answers)
    gathered(bench)
    given(bench, two, parts(mark=b"b"))
    assert bench.idle(gathering())  # what comes then is not needed
    check = max(key for key in bench.core.outstanding if key.startswith("records:"))
    assert bench.task(check) == CheckRecords(segment=SegmentId(1), spec=cid("spec"), places=PLACES)
    assert bench.idle("sign:")
    bench.done(check, RecordsChecked(missing=(), false=()))
    assert not bench.state.needs
    assert not [name for name in bench.state.shares if "/" in name]
    assert FIRST.key_id not in bench.state.keys  # the next draw reads other records


def test_of_more_records_than_fit_an_answer_all_answers_are_waited_for(bench: Bench) -> None:
    masks(bench)
    one, two = asked(bench)
    for part in (parts(len(WANTED) - 1, b"a"), parts(1, b"b")):
        given(bench, one, part)
        assert bench.idle("parts:")
    given(bench, two, parts(mark=b"c"))
    assert dict(bench.task(gathering()).answers)[one] == (parts(len(WANTED) - 1, b"a"), parts(1, b"b"))


def test_a_holder_that_answers_falsely_is_named_and_the_next_one_asked(bench: Bench) -> None:
    masks(bench)
    one, two = asked(bench)
    given(bench, one, parts(mark=b"a"))
    given(bench, two, parts(mark=b"b"))
    gathered(bench, kept=False, false=(two,))
    (note,) = [note for note in bench.said if note.topic == "false-share"]
    assert note.data["party"] == HOLDERS[two - 1]
    three = ({1, 2, 3} - {one, two}).pop()
    assert three in asked(bench)
    given(bench, two, parts(mark=b"d"))  # it has had its turn
    assert bench.idle("parts:")
    given(bench, three, parts(mark=b"c"))
    assert [place for place, _ in bench.task(gathering()).answers] == sorted([one, three])


def test_a_holder_whose_answers_lack_a_record_is_not_named_and_the_next_one_asked(bench: Bench) -> None:
    """As many parts as are due, of other records: it may have seen an earlier draw."""
    masks(bench)
    one, two = asked(bench)
    given(bench, one, parts(mark=b"a"))
    bench.answered(f"ask:1:{FIRST.key_id.hex()}:{two}", KeyGrant(key_id=FIRST.key_id, wrapped=(parts(mark=b"b"),)))
    gathered(bench, kept=False, short=(two,))
    assert "false-share" not in bench.topics()
    three = ({1, 2, 3} - {one, two}).pop()
    assert three in asked(bench)
    given(bench, two, parts(mark=b"d"))  # what it gives later counts
    assert [place for place, _ in bench.task(gathering()).answers] == sorted([one, two])


def test_what_is_not_due_is_left_alone_and_the_next_holder_asked(bench: Bench) -> None:
    masks(bench)
    one, two = asked(bench)
    for wrapped in ((b"s" * 80,), (), (parts(len(WANTED) - 1),)):  # a share of the whole key, nothing, and too little
        if one in asked(bench):
            bench.answered(f"ask:1:{FIRST.key_id.hex()}:{one}", KeyGrant(key_id=FIRST.key_id, wrapped=wrapped))
    assert ({1, 2, 3} - {one, two}).pop() in asked(bench)
    assert bench.idle("parts:")
    assert bench.idle("shares:")
    given(bench, two, b"s" * 80)
    given(bench, one, b"s" * 80)
    assert bench.idle("shares:")


def test_a_holder_cannot_fill_the_memory_with_answers(bench: Bench) -> None:
    (shares,) = [found for name, found in bench.state.shares.items() if name == f"1/{FIRST.key_id.hex()}"]
    for number in range(MOST_ANSWERS + 3):
        given(bench, 1, number.to_bytes(2, "big") * ((48 + partials.encoded_size(2)) // 2))
    assert len(shares.have[1]) == MOST_ANSWERS
    assert bundles.MOST_TOGETHER * MOST_ANSWERS >= reads.MOST_READ


def test_answers_for_an_earlier_draw_do_not_count_for_this_one(bench: Bench) -> None:
    masks(bench)
    one, two = asked(bench)
    given(bench, one, parts(mark=b"a"))
    given(bench, two, parts(mark=b"b"))
    assert not bench.idle(gathering())
    bench.seen(Redrawn, segment=SegmentId(1), round=1, reason="not served", seed_block=bench.block + 2)
    bench.drawn(units=(UNIT, 10), verifiers=(ME, VERIFIERS[0], OTHER), round=1)
    gathered(bench)  # of the first round
    assert not bench.state.shares[f"1/{FIRST.key_id.hex()}"].have
    assert FIRST.key_id in bench.state.needs[1].keys


def test_with_true_parts_and_false_masks_the_dealer_is_named(bench: Bench) -> None:
    masks(bench)
    one, two = asked(bench)
    given(bench, one, parts(mark=b"a"))
    given(bench, two, parts(mark=b"b"))
    gathered(bench)
    check = max(key for key in bench.core.outstanding if key.startswith("records:"))
    bench.done(check, RecordsChecked(missing=(), false=((FIRST.key_id, "record 3 does not open"),)))
    (note,) = [note for note in bench.said if note.topic == "false-keys"]
    assert "the fault of who dealt its keys" in note.text
    assert note.data["party"] == CLIENT
    assert bench.idle("sign:")
    bench.woke("nag:1")  # whether they are here by then
    assert not bench.idle(gathering())


def test_masks_that_are_none_are_said_and_nothing_goes_on(bench: Bench) -> None:
    masks(bench)
    one, two = asked(bench)
    given(bench, one, parts(mark=b"a"))
    given(bench, two, parts(mark=b"b"))
    bench.failed(gathering(), Fault.PEER, "there are masks of 2 records")
    assert "there are masks of 2 records" in bench.said[-1].text
    assert bench.idle("sign:")


def test_a_whole_key_that_comes_for_another_segment_is_enough() -> None:
    """This node computes a segment of the same job, and has the shard's key by that: what was gathered of records is forgotten."""
    made = drawn()
    given(made, 1, parts())
    machine = made.core.machine
    machine._kept(FIRST.key_id)
    assert FIRST.key_id not in made.state.needs[1].keys
    assert made.idle(gathering())


def test_a_shard_that_is_read_whole_comes_as_shares() -> None:
    """All that may be read is read: its key says no more."""
    made = Bench.of(VerifierMachine(CONFIG))
    made.posted()
    made.assigned(provider=OTHER)
    made.committed()
    made.drawn(units=tuple(unit for unit in range(30) if unit % 3 != 2), verifiers=(ME, VERIFIERS[0], OTHER))
    made.load_job(holders=GROUP, dataset=JOB.dataset)
    assert made.state.needs[1].records == {}
    assert not any(key.startswith(f"fetch:1:{MASKS}") for key in made.core.outstanding)
    given(made, 1, b"a" * 80)
    given(made, 2, parts())  # not what is due
    assert made.idle("shares:")
    given(made, 3, b"c" * 80)
    made.done(f"shares:1:{FIRST.key_id.hex()}", KeyGathered(key_id=FIRST.key_id, kept=True, false=()))
    assert FIRST.key_id in made.state.keys
    made.check_restart()


def test_a_late_answer_for_a_segment_that_wants_nothing_any_more_is_nobodys_fault() -> None:
    """Another segment wants records of the same shard meanwhile."""
    made = drawn()
    one, _ = asked(made)
    made.state.needs[SegmentId(2)] = made.state.needs.pop(SegmentId(1))
    said, waiting = len(made.said), set(made.core.outstanding)
    made.answered(f"ask:1:{FIRST.key_id.hex()}:{one}", KeyGrant(key_id=FIRST.key_id, wrapped=(parts(),)))
    assert len(made.said) == said
    assert set(made.core.outstanding) < waiting
