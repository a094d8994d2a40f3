"""CIDs are Kubo's, every blob has one, and no hostile block gets past the parser."""

from __future__ import annotations

import io
import random

import pytest
from aleph_cid import CidHasher
from hypothesis import given, settings
from hypothesis import strategies as st

from assay import cid
from assay.cid import CHUNK, WIDTH, Link, Place
from assay.ids import Cid

KNOWN = {
    # what `ipfs add --cid-version=1 --raw-leaves` prints
    b"": "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku",
    b"hello world": "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e",
}
SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, WIDTH * CHUNK, WIDTH * CHUNK + 1, 2 * WIDTH * CHUNK + 7]


class Stream(io.RawIOBase):
    """`size` bytes that are not all equal, without holding them."""

    def __init__(self, size: int) -> None:
        self.left = size

    def read(self, size: int = -1) -> bytes:
        size = min(size, self.left)
        self.left -= size
        return (self.left.to_bytes(8, "big") * (size // 8 + 1))[:size]


def test_known_cids() -> None:
    for data, name in KNOWN.items():
        assert cid.of(data) == name


@pytest.mark.parametrize("size", SIZES)
def test_same_as_an_independent_implementation(size: int) -> None:
    data = Stream(size).read(size)
    oracle = CidHasher.for_ipfs_v1_raw_leaves()
    oracle.update(data)
    assert cid.of(data) == oracle.finalize()


@pytest.mark.parametrize("size", SIZES)
def test_blocks_make_up_the_blob(size: int) -> None:
    """Children come before parents, every node passes the strict parser in its place, and the leaves in order are the data."""
    data = Stream(size).read(size)
    blocks = {}
    last = Cid("")
    for block in cid.blocks(io.BytesIO(data)):
        assert cid.matches(block.cid, block.data)
        blocks[block.cid] = block.data
        last = block.cid
    assert last == cid.of(data)
    assert _read(blocks, last, Place(cid.height(size), size)) == data


def _read(blocks: dict[Cid, bytes], name: Cid, place: Place) -> bytes:
    if not place.height:
        assert cid.is_raw(name)
        return blocks[name]
    links = cid.decode_node(blocks[name], place)
    return b"".join(_read(blocks, link.cid, below) for link, below in zip(links, cid.children(place), strict=True))


@given(st.integers(0, 600), st.integers(1, 5), st.integers(2, 4))
@settings(max_examples=80, deadline=None)
def test_trees_of_any_height_are_laid_out_as_the_parser_wants(size: int, chunk: int, width: int) -> None:
    """The same code with tiny chunks and nodes, so that trees grow several levels high."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cid, "CHUNK", chunk)
        patch.setattr(cid, "WIDTH", width)
        patch.setattr(cid, "MAX_SIZE", 1 << 40)
        data = random.Random(size).randbytes(size)
        blocks = {block.cid: block.data for block in cid.blocks(data)}
        assert _read(blocks, cid.of(data), Place(cid.height(size), size)) == data


# ---- hostile input -------------------------------------------------------------------------------------------------------


@given(st.text(max_size=70) | st.from_regex(r"b[a-z2-7]{58}", fullmatch=True) | st.from_regex(r"bafkrei[a-z2-7]{52}", fullmatch=True))
@settings(max_examples=400)
def test_a_cid_is_refused_or_has_one_spelling(text: str) -> None:
    try:
        raw = cid.to_bytes(text)
    except cid.BadCid as error:
        assert "is not a CID" in str(error) or "is not a binary CID" in str(error)  # noqa: PT017
        return
    assert cid.from_bytes(raw) == text
    assert cid.parse(text)[0] in (cid.RAW, cid.DAG_PB)


@given(st.binary(max_size=40))
def test_a_binary_cid_is_refused_or_comes_back(raw: bytes) -> None:
    try:
        text = cid.from_bytes(raw)
    except cid.BadCid:
        return
    assert cid.to_bytes(text) == raw


@pytest.mark.parametrize(
    "text",
    [
        "",
        "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG",  # CIDv0
        "BAFKREIHDWDCEFGH4DQKJV67UZCMW7OJEE6XEDZDETOJUZJEVTENXQUVYKU",
        "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvykv",  # bits to spare that are not zero
        "bafkqaaa",  # identity hash
        "../../../../etc/passwd",
        "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku\n",
    ],
)
def test_other_cids_are_refused(text: str) -> None:
    with pytest.raises(cid.BadCid):
        cid.parse(text)


LEAF = cid.of_block(cid.RAW, b"x")
GOOD = [Link(LEAF, CHUNK, CHUNK), Link(LEAF, 5, 5)]


def test_the_good_node_parses() -> None:
    assert cid.decode_node(cid.encode_node(GOOD)) == GOOD


@pytest.mark.parametrize(
    ("links", "why"),
    [
        ([], "not laid out"),
        ([Link(LEAF, 5, 5)], "not laid out"),
        ([Link(LEAF, 5, 5), Link(LEAF, CHUNK, CHUNK)], "not laid out"),
        ([Link(LEAF, CHUNK, CHUNK), Link(LEAF, 0, 0)], "not laid out"),
        ([Link(LEAF, CHUNK, CHUNK)] * (WIDTH + 1), "over 174 children"),
        ([Link(LEAF, CHUNK, CHUNK), Link(LEAF, 5, 6)], "Tsize"),
        ([Link(cid.of_block(cid.DAG_PB, b"x"), CHUNK, CHUNK), Link(LEAF, 5, 5)], "wrong kind"),
        ([Link(LEAF, cid.MAX_SIZE, cid.MAX_SIZE), Link(LEAF, 5, 5)], "do not add up"),
    ],
)
def test_other_layouts_are_refused(links: list[Link], why: str) -> None:
    with pytest.raises(cid.BadNode, match=why):
        cid.decode_node(cid.encode_node(links))


def test_a_node_in_another_place_is_refused() -> None:
    with pytest.raises(cid.BadNode, match="not laid out"):
        cid.decode_node(cid.encode_node(GOOD), Place(1, CHUNK + 6))
    with pytest.raises(cid.BadNode, match="not laid out"):
        cid.decode_node(cid.encode_node(GOOD), Place(2, CHUNK + 5))


def test_a_huge_block_is_refused_unread() -> None:
    with pytest.raises(cid.BadNode, match="over the limit"):
        cid.decode_node(bytes(cid.MAX_BLOCK + 1))


def _decodes(raw: bytes) -> bool:
    try:
        links = cid.decode_node(raw)
    except cid.BadNode:
        return False
    assert cid.encode_node(links) == raw
    return True


@given(st.binary(max_size=300))
@settings(max_examples=300)
def test_random_bytes_are_no_node(raw: bytes) -> None:
    assert not _decodes(raw)


@given(st.data())
@settings(max_examples=500)
def test_a_changed_node_is_refused_or_canonical(draw: st.DataObject) -> None:
    raw = bytearray(cid.encode_node(GOOD))
    for _ in range(draw.draw(st.integers(1, 3))):
        at = draw.draw(st.integers(0, len(raw) - 1))
        match draw.draw(st.sampled_from(["flip", "cut", "insert"])):
            case "flip":
                raw[at] ^= 1 << draw.draw(st.integers(0, 7))
            case "cut" if len(raw) > 1:
                del raw[at]
            case _:
                raw.insert(at, draw.draw(st.integers(0, 255)))
    _decodes(bytes(raw))


@pytest.mark.parametrize("at", range(0, len(cid.encode_node(GOOD))))
def test_a_cut_off_node_is_refused(at: int) -> None:
    assert not _decodes(cid.encode_node(GOOD)[:at])


def test_numbers_that_are_not_shortest_are_refused() -> None:
    """The same value in a longer varint would give one blob two CIDs."""
    raw = cid.encode_node(GOOD)
    tail = b"\x20\x05"
    assert raw.endswith(tail)
    inner = raw.rindex(b"\x0a", 0, len(raw) - 2)
    longer = raw[:inner] + b"\x0a" + bytes([raw[inner + 1] + 1]) + raw[inner + 2 : -2] + b"\x20\x85\x00"
    with pytest.raises(cid.BadNode, match="not canonically encoded"):
        cid.decode_node(longer)
