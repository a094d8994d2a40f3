"""Whatever bytes come from the network, a decoder either gives a value whose canonical form they are, or raises Malformed.

Three kinds of bytes: any; valid messages; valid messages with something changed (bytes flipped, cut, or the JSON under them bent).
"""

from __future__ import annotations

import itertools
import json
import random
from functools import cache
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from assay.adapters import peerbook
from assay.adapters.libp2p_frames import Frames, pack
from assay.chain import AnyCall, AnyChainEvent, Offer, Params, Terms
from assay.codec import Malformed, decode, encode
from assay.ids import Address, Cid, PeerId
from assay.job import JobSpec
from assay.messages import AnyGossip, AnyQuest, AnyReply, AnyRequest, Found, PeerRecord, SignedGossip, SignedRecord
from assay.runtime import AnyEffect, AnyEvent

FROM_OUTSIDE = [AnyRequest, AnyQuest, AnyReply, Found, AnyGossip, JobSpec, PeerRecord, SignedRecord, SignedGossip]
FROM_OUTSIDE += [Terms, Params, Offer, AnyCall, AnyChainEvent]
FROM_DISK = [AnyEvent, AnyEffect]
KINDS = FROM_OUTSIDE + FROM_DISK
settings.register_profile("assay", max_examples=60, deadline=None, derandomize=True, database=None)
settings.load_profile("assay")

text = st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12)
number = st.integers(min_value=0, max_value=2**63 - 1)
digest = st.binary(min_size=32, max_size=32)


@cache
def values(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a message type, made from its annotations: every field within its bounds. Made once: that takes longer than any example."""
    return _values(msgspec.inspect.type_info(kind))


def _values(info: Any) -> st.SearchStrategy[Any]:
    t = msgspec.inspect
    match info:
        case t.UnionType():
            return st.one_of([_values(part) for part in info.types])
        case t.StructType():
            return st.builds(info.cls, **{field.name: _values(field.type) for field in info.fields})
        case t.IntType():
            return st.integers(info.ge if info.ge is not None else 0, info.lt - 1 if info.lt is not None else 2**63 - 1)
        case t.BoolType():
            return st.booleans()
        case t.NoneType():
            return st.none()
        case t.BytesType():
            return st.binary(min_size=info.min_length or 0, max_size=min(info.max_length or 40, 40))
        case t.StrType():
            return text.filter(lambda value: (info.min_length or 0) <= len(value) <= (info.max_length or 1 << 20))
        case t.VarTupleType() | t.ListType():
            items = st.lists(_values(info.item_type), max_size=3)
            return items.map(tuple) if isinstance(info, t.VarTupleType) else items
        case t.TupleType():
            return st.tuples(*[_values(item) for item in info.item_types])
        case t.DictType():
            return st.dictionaries(_values(info.key_type), _values(info.value_type), max_size=3)
        case t.LiteralType():
            return st.sampled_from(list(info.values))
        case t.EnumType():
            return st.sampled_from(list(info.cls))
    raise AssertionError(f"no strategy for {info}")


def harmless(data: bytes, kind: Any) -> None:
    said = ""
    try:
        assert encode(decode(data, kind)) == data
    except Malformed as error:
        said = str(error)
    assert len(said) < 2000  # what is logged stays short however long the bytes are


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: getattr(kind, "__name__", "union"))
@given(data=st.data())
def test_a_value_survives_the_round_trip_and_any_change_is_another_value_or_malformed(kind: Any, data: st.DataObject) -> None:
    value = data.draw(values(kind))
    good = encode(value)
    assert decode(good, kind) == value
    changed = bytearray(good)
    where = data.draw(st.integers(0, len(good) - 1))
    changed[where] ^= data.draw(st.integers(1, 255))
    harmless(bytes(changed), kind)
    harmless(good[:where], kind)
    harmless(good + data.draw(st.sampled_from([b" ", b"\n", b"\0", b"{}", good])), kind)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: getattr(kind, "__name__", "union"))
@given(data=st.binary(max_size=300))
@example(data=b"")
@example(data=b"\xff\xfe")
@example(data=b"[" * 200_000)
@example(data=b'{"a":' * 50_000)
@example(data=b"1" * 100_000)
@example(data=b"1e400")
@example(data=b'"\\ud800"')
@example(data=b"x" * (1 << 21))
def test_any_bytes_are_harmless(kind: Any, data: bytes) -> None:
    harmless(data, kind)


ODD: list[Any] = [None, True, -1, 0, 2**63, 2**64, 10**400, 0.5, "", "x" * 1000, "é", [], [[]], {}, {"type": "Ack"}, "AA==", "A", "\u0000"]


def bend(value: Any, choose: random.Random) -> Any:
    """The same JSON with one place changed to something odd, left out, doubled or renamed."""
    if isinstance(value, dict) and value and choose.random() < 0.8:
        key = choose.choice(sorted(value))
        how = choose.randrange(5)
        rest = {name: part for name, part in value.items() if name != key}
        return [rest, {**value, key: choose.choice(ODD)}, {**value, key + "_": value[key]}, {**value, key: bend(value[key], choose)}][min(how, 3)]
    if isinstance(value, list) and value and choose.random() < 0.8:
        place = choose.randrange(len(value))
        return [*value[:place], bend(value[place], choose), *value[place + 1 :]] if choose.random() < 0.7 else value[:place] + value[place + 1 :]
    return choose.choice(ODD)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: getattr(kind, "__name__", "union"))
@given(data=st.data(), seed=st.integers(0, 2**32))
def test_bent_json_is_harmless(kind: Any, data: st.DataObject, seed: int) -> None:
    bent = bend(json.loads(encode(data.draw(values(kind)))), random.Random(seed))
    harmless(json.dumps(bent, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass"), kind)


@given(data=st.binary(max_size=200), cuts=st.lists(st.integers(0, 200), max_size=5))
def test_the_frame_parser_takes_any_bytes_in_any_pieces(data: bytes, cuts: list[int]) -> None:
    def parse(pieces: list[bytes]) -> tuple[list[Any], bool]:
        frames, parser = [], Frames()
        try:
            for piece in pieces:
                frames += parser.feed(piece)
        except Malformed:
            return frames, True
        return frames, False

    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    whole = parse([data])
    # a list that grows by += of a generator keeps what came before the fault, in one piece or in many
    assert parse([data[a:b] for a, b in itertools.pairwise(places)]) == whole
    assert data.startswith(b"".join(map(pack, whole[0])))


SEED = bytes(range(32))
ME = peerbook.peer_id(SEED)


def record(**changes: Any) -> PeerRecord:
    fixed: dict[str, Any] = dict(
        peer=ME, account=Address("0x" + "00" * 20), role="worker", addresses=("/ip4/127.0.0.1/tcp/1",), gateway="http://127.0.0.1:1",
        sequence=1, chain_id=1, contract=Address("0x" + "11" * 20),
    )  # fmt: skip
    return PeerRecord(**(fixed | changes))


@given(data=st.data())
def test_no_change_to_a_signed_record_verifies(data: st.DataObject) -> None:
    good = encode(peerbook.sign(record(), SEED))
    assert peerbook.parse(good).record == record()
    changed = bytearray(good)
    changed[data.draw(st.integers(0, len(good) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Malformed):
        peerbook.parse(bytes(changed))


@given(peer=st.one_of(text, st.binary(max_size=60).map(lambda b: b.decode("latin-1"))), signature=st.binary(max_size=80))
@example(peer=ME, signature=bytes(64))
@example(peer="1" * 52, signature=bytes(64))
@example(peer="12D3KooW" + "1" * 44, signature=bytes(64))
def test_a_record_that_its_peer_did_not_sign_never_verifies(peer: str, signature: bytes) -> None:
    with pytest.raises(Malformed):
        peerbook.verify(SignedRecord(record=record(peer=PeerId(peer)), signature=signature))


@given(value=values(PeerRecord))
def test_a_record_beyond_its_bounds_is_refused_even_when_signed(value: PeerRecord) -> None:
    long = msgspec.structs.replace(value, peer=ME, gateway="g" * 257)
    many = msgspec.structs.replace(value, peer=ME, addresses=("a",) * 17)
    for bad in (long, many):
        with pytest.raises(Malformed):
            peerbook.verify(peerbook.sign(bad, SEED))
    assert peerbook.verify(peerbook.sign(msgspec.structs.replace(value, peer=ME), SEED))


def test_ids_that_are_no_peer_are_refused() -> None:
    for wrong in ("", "Qm" * 23, ME + "1", ME[:-1], ME.replace("K", "0"), Cid("bafkreih"), "1" + ME):
        with pytest.raises(ValueError, match=r".") as found:
            peerbook.public_key(PeerId(wrong))
        assert len(str(found.value)) < 200
