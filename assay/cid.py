"""Names of blobs: CIDv1 of the UnixFS file that Kubo's `ipfs add --cid-version=1 --raw-leaves` makes, and nothing else.

A blob is cut into chunks of 262144 bytes, each a raw block (multicodec 0x55); 174 at a time they become the children of a dag-pb
block (0x70) with a UnixFS `File` header, and so on up to one root; all leaves lie at the same depth ("balanced"). A blob of at most
one chunk is its own root. Hashes are SHA-256. So a blob has one CID and a CID one blob: the layout follows from the size alone, and
a tree that is laid out in another way is refused (which also bounds what a hostile tree can make a reader do).

Sources: github.com/multiformats/cid, ipld.io/specs/codecs/dag-pb, specs.ipfs.tech/unixfs, Kubo's importer (balanced builder).
"""

from __future__ import annotations

import functools
import hashlib
import io
import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from assay.ids import Cid

RAW = 0x55
DAG_PB = 0x70
CHUNK = 262144
"""Bytes of a leaf; only the last may have fewer (and an empty blob is one empty leaf)."""
WIDTH = 174
"""Children of a node; only the last node of a level may have fewer."""
MAX_BLOCK = 1 << 21
"""Bytes; what a gateway will serve and a fetcher read (the bound that IPFS implementations agree on)."""
MAX_SIZE = CHUNK * WIDTH**4
"""Bytes; the largest blob that is accepted (some 240 TB)."""

_TEXT = re.compile(r"b[a-z2-7]{58}")
_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"
_PAIRS = [first + second for first in _LETTERS for second in _LETTERS]
"""Two characters of base32 (RFC 4648) for each ten bits."""
_DIGITS = str.maketrans(_LETTERS, "0123456789abcdefghijklmnopqrstuv")
_LINK = re.compile(rb"\x12[\x00-\x7f]\x0a\x24(.{36})\x12\x00\x18([\x80-\xff]{0,8}[\x00-\x7f])", re.DOTALL)
_HEADS = {RAW: b"\x01\x55\x12\x20", DAG_PB: b"\x01\x70\x12\x20"}
_CODECS = {head: codec for codec, head in _HEADS.items()}


class BadCid(ValueError):
    """Not a CID of the one kind that is used here."""


class BadNode(ValueError):
    """Not the dag-pb block that Kubo makes for a file of this size."""


class Link(NamedTuple):
    """A child in a node: its CID, the bytes of the blob under it, and its Tsize (those plus the nodes' own bytes)."""

    cid: Cid
    size: int
    tsize: int


class Block(NamedTuple):
    cid: Cid
    data: bytes


class Place(NamedTuple):
    """Where a block stands in a blob: levels above the leaves, and bytes of the blob under it."""

    height: int
    size: int


# ---- CIDs ----------------------------------------------------------------------------------------------------------------


def from_bytes(raw: bytes) -> Cid:
    """The text form of a binary CID (36 bytes). Raises BadCid."""
    if len(raw) != 36 or raw[:4] not in _CODECS:
        raise BadCid(f"{raw[:40].hex()} is not a binary CIDv1 of a raw or dag-pb block with SHA-256")
    bits = int.from_bytes(raw) << 2  # 290 of them, five to a character
    return Cid("b" + "".join([_PAIRS[bits >> at & 1023] for at in range(280, -1, -10)]))


@functools.lru_cache(maxsize=1 << 13)
def to_bytes(cid: str) -> bytes:
    """The binary form (36 bytes). Raises BadCid, also for text that is another spelling of the same CID."""
    if not _TEXT.fullmatch(cid):
        raise BadCid(f"{cid[:80]!r} is not a CID: expected 59 characters such as bafkrei… or bafybei… (CIDv1, base32, SHA-256)")
    bits = int(cid[1:].translate(_DIGITS), 32)
    if bits & 3:  # the last character has two bits to spare
        raise BadCid(f"{cid!r} is not a CID: its last character is not canonical")
    raw = (bits >> 2).to_bytes(36)
    if raw[:4] not in _CODECS:
        raise BadCid(f"{raw.hex()} is not a binary CIDv1 of a raw or dag-pb block with SHA-256")
    return raw


def parse(cid: str) -> tuple[int, bytes]:
    """(codec, SHA-256 digest) of a CID. Raises BadCid."""
    raw = to_bytes(cid)
    return _CODECS[raw[:4]], raw[4:]


def is_raw(cid: Cid) -> bool:
    """Whether the CID names a leaf, and so a whole blob of at most one chunk."""
    return parse(cid)[0] == RAW


def of_digest(codec: int, digest: bytes) -> Cid:
    """The CID of the block with this SHA-256 digest."""
    return from_bytes(_HEADS[codec] + digest)


def of_block(codec: int, block: bytes | bytearray | memoryview) -> Cid:
    return of_digest(codec, hashlib.sha256(block).digest())


def matches(cid: Cid, block: bytes | bytearray | memoryview) -> bool:
    """Whether the block is the one that the CID names."""
    return hashlib.sha256(block).digest() == parse(cid)[1]


# ---- layout --------------------------------------------------------------------------------------------------------------


def height(size: int) -> int:
    """Levels of nodes above the leaves of a blob of `size` bytes."""
    levels, holds = 0, CHUNK
    while holds < size:
        levels, holds = levels + 1, holds * WIDTH
    return levels


def children(place: Place) -> list[Place]:
    """Where the children of the node at `place` stand; none for a leaf."""
    if not place.height:
        return []
    each: int = CHUNK * WIDTH ** (place.height - 1)
    full, rest = divmod(place.size, each)
    return [Place(place.height - 1, each)] * full + ([Place(place.height - 1, rest)] if rest else [])


# ---- dag-pb --------------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(tag: int, data: bytes) -> bytes:
    return bytes((tag,)) + _varint(len(data)) + data


def encode_node(links: list[Link]) -> bytes:
    """The dag-pb block of a UnixFS file node (Links before Data, as dag-pb has it canonically)."""
    parts: list[bytes] = []
    for link in links:
        tsize = _varint(link.tsize)
        parts += (b"\x12", _varint(41 + len(tsize)), b"\x0a\x24", to_bytes(link.cid), b"\x12\x00\x18", tsize)
    head = b"\x08\x02\x18" + _varint(sum(link.size for link in links)) + b"".join([b"\x20" + _varint(link.size) for link in links])
    return b"".join(parts) + _field(0x0A, head)


class _Reader:
    """Protobuf fields of a hostile block."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def more(self) -> bool:
        return self.at < len(self.data)

    def peek(self) -> int:
        return self.data[self.at] if self.more() else -1

    def expect(self, tag: int) -> None:
        if self.peek() != tag:
            raise BadNode(f"byte {self.at} is not the tag {tag:#04x}")
        self.at += 1

    def varint(self) -> int:
        value = 0
        for shift in range(0, 63, 7):
            if not self.more():
                raise BadNode("it ends inside a number")
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise BadNode("a number is too large")

    def take(self) -> bytes:
        size = self.varint()
        if size > len(self.data) - self.at:
            raise BadNode("a field is longer than the block")
        self.at += size
        return self.data[self.at - size : self.at]


def decode_node(block: bytes, place: Place | None = None) -> list[Link]:
    """The children of a file node; with `place` None it is a root. Raises BadNode unless it is laid out as its size wants."""
    if len(block) > MAX_BLOCK:
        raise BadNode(f"it has {len(block)} bytes, over the limit of {MAX_BLOCK}")
    return _as_expected(block, place) or _field_by_field(block, place)


def _as_expected(block: bytes, place: Place | None) -> list[Link] | None:
    """The children of a node that is as it should be, which is seen by making it anew; None when it is not."""
    found: list[re.Match[bytes]] = []
    at = 0
    while (match := _LINK.match(block, at)) is not None and len(found) < WIDTH:
        found.append(match)
        at = match.end()
    try:
        reader = _Reader(block[at:])
        reader.expect(0x0A)
        head = _Reader(reader.take())
        if head.data[:3] != b"\x08\x02\x18":
            return None
        head.at = 3
        total = head.varint()
        if total > MAX_SIZE:
            return None
        below = children(place or Place(height(total), total))
        if len(below) != len(found):
            return None
        links = [Link(from_bytes(match[1]), child.size, _Reader(match[2]).varint()) for match, child in zip(found, below, strict=True)]
        _check_layout(links, total, place)
    except (BadCid, BadNode):
        return None
    return links if encode_node(links) == block else None


def _field_by_field(block: bytes, place: Place | None) -> list[Link]:
    """As `decode_node`: finds out what is wrong."""
    reader, named = _Reader(block), []
    while reader.peek() == 0x12:
        reader.expect(0x12)
        link = _Reader(reader.take())
        link.expect(0x0A)
        try:
            cid = from_bytes(link.take())
        except BadCid as error:
            raise BadNode(str(error)) from None
        link.expect(0x12)
        if link.take():
            raise BadNode("a link has a name: it is a directory, not a file")
        link.expect(0x18)
        named.append((cid, link.varint()))
        if link.more():
            raise BadNode("a link has more fields than it should")
        if len(named) > WIDTH:
            raise BadNode(f"it has over {WIDTH} children")
    reader.expect(0x0A)
    head = _Reader(reader.take())
    if reader.more():
        raise BadNode("bytes follow the end")
    head.expect(0x08)
    if head.varint() != 2:
        raise BadNode("it is not a file")
    head.expect(0x18)
    total, sizes = head.varint(), []
    while head.more():
        head.expect(0x20)
        sizes.append(head.varint())
    if len(sizes) != len(named) or sum(sizes) != total or total > MAX_SIZE:
        raise BadNode("its sizes do not add up")
    links = [Link(cid, size, tsize) for (cid, tsize), size in zip(named, sizes, strict=True)]
    _check_layout(links, total, place)
    if encode_node(links) != block:
        raise BadNode("it is not canonically encoded")
    return links


def _check_layout(links: list[Link], total: int, place: Place | None) -> None:
    place = place or Place(height(total), total)
    wanted = children(place)
    if not place.height or place.size != total or [link.size for link in links] != [child.size for child in wanted]:
        raise BadNode(f"{place.size} bytes are not laid out in chunks of {CHUNK}, {WIDTH} to a node: add the file with `ipfs add --cid-version=1`")
    codec = DAG_PB if place.height > 1 else RAW
    for link in links:
        if parse(link.cid)[0] != codec:
            raise BadNode("a child is of the wrong kind for its level")
        if codec == RAW and link.tsize != link.size:
            raise BadNode("a leaf's Tsize is not its size")


def walk(block: bytes, place: Place | None = None) -> list[tuple[Cid, Place]]:
    """The children of a node with where they stand; `place` None: a root. Raises BadNode."""
    links = decode_node(block, place)
    size = sum(link.size for link in links)
    return list(zip([link.cid for link in links], children(place or Place(height(size), size)), strict=True))


# ---- files ---------------------------------------------------------------------------------------------------------------


def blocks(source: bytes | BinaryIO) -> Iterator[Block]:
    """All blocks of a blob, children before parents, the root last. Holds one chunk and the links of the open nodes."""
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    levels: list[list[Link]] = [[]]
    """The links of the node that is open at each height; a full one is closed only when something follows: it may be the root."""

    chunk = file.read(CHUNK)
    while True:
        leaf = Block(of_block(RAW, chunk), chunk)
        yield leaf
        yield from _add(levels, 0, Link(leaf.cid, len(chunk), len(chunk)))
        chunk = file.read(CHUNK) if len(chunk) == CHUNK else b""
        if not chunk:
            break
    level = 0
    while level + 1 < len(levels) or len(levels[level]) > 1:
        yield from _close(levels, level)
        level += 1


def _add(levels: list[list[Link]], level: int, link: Link) -> Iterator[Block]:
    if len(levels[level]) == WIDTH:
        yield from _close(levels, level)
    levels[level].append(link)


def _close(levels: list[list[Link]], level: int) -> Iterator[Block]:
    links, levels[level] = levels[level], []
    data = encode_node(links)
    block = Block(of_block(DAG_PB, data), data)
    yield block
    if level + 1 == len(levels):
        levels.append([])
    yield from _add(levels, level + 1, Link(block.cid, sum(link.size for link in links), len(data) + sum(link.tsize for link in links)))


def of(source: bytes | BinaryIO) -> Cid:
    """The CID of a blob."""
    cid = Cid("")
    for block in blocks(source):
        cid = block.cid
    return cid
