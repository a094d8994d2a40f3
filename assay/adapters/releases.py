"""Whether a newer version of this software has been published: a look that only tells.

The index is asked for a project's page in the JSON form of the simple API (PEP 691), and nothing is downloaded. Which index, only the
owner says; without one nothing is asked. What comes back is bounded, and of it only version numbers made of digits and dots are read, so
that nothing that an index says can do more than be a wrong number on the owner's screen.
"""

from __future__ import annotations

import asyncio
import re
from urllib.parse import urlsplit

import msgspec

VERSION = re.compile(r"(?:0|[1-9]\d{0,5})(?:\.(?:0|[1-9]\d{0,5})){0,3}")
"""A final release (PEP 440, without epochs and suffixes)."""
LIMIT = 4 << 20
"""Bytes of an index page."""
FILE = re.compile(r"[^-]{1,80}-([0-9.]{1,32})(?:-[^/]{1,200}\.whl|\.tar\.gz|\.zip)")
"""The version in the name of a wheel or of a source archive."""
TIMEOUT = 10.0
ACCEPT = "application/vnd.pypi.simple.v1+json"


class _File(msgspec.Struct):
    filename: str
    yanked: bool | str = False


class _Page(msgspec.Struct):
    files: list[_File]


class NoIndex(Exception):
    """The index gave no versions; the message says why."""


def number(version: str) -> tuple[int, ...]:
    """A version to compare by: without trailing zeros; empty for what is no final release."""
    if not VERSION.fullmatch(version):
        return ()
    parts = [int(part) for part in version.split(".")]
    while parts and not parts[-1]:
        parts.pop()
    return tuple(parts) or (0,)


def newest(page: bytes) -> str:
    """The highest final version of which an index page has a file that was not withdrawn (PEP 592). Raises NoIndex."""
    try:
        files = msgspec.json.decode(page, type=_Page).files
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise NoIndex(f"its page lists no files (PEP 691): {error}") from None
    found = set()
    for file in files:
        match = FILE.fullmatch(file.filename) if not file.yanked else None
        if match and number(match[1]):
            found.add(match[1])
    if not found:
        raise NoIndex("its page lists no final version")
    return max(found, key=number)


def check_url(url: str) -> str:
    """Raises ValueError for what is no address of an index page."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
        raise ValueError(f"{url!r} is not the address of a project's page on a package index: expected https://HOST/simple/assay/")
    return url


async def ask(url: str) -> str:
    """The newest final version that the page at `url` names. Raises NoIndex."""
    import aiohttp

    try:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(check_url(url), headers={"Accept": ACCEPT}) as answer:
            if answer.status != 200:
                raise NoIndex(f"it answered {answer.status}")
            page = await answer.content.read(LIMIT + 1)
            while len(page) <= LIMIT and (more := await answer.content.read(LIMIT + 1 - len(page))):
                page += more
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise NoIndex(f"it does not answer ({type(error).__name__})") from None
    if len(page) > LIMIT:
        raise NoIndex(f"its page has more than {LIMIT} bytes")
    return await asyncio.to_thread(newest, page)


def news(here: str, there: str) -> str:
    """What to tell when `there` is newer than `here`; nothing when it is not, or when `here` is no final release."""
    mine = number(here)
    return f"version {there} is out, this is {here}" if mine and number(there) > mine else ""
