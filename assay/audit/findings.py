"""What checks say. A check that could not be made is never left out: it is told with the reason."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from assay.ids import Address, Digest, JobId, SegmentId

COLUMNS = ("range", "offer", "root", "draw", "served", "votes", "opened", "times", "verdict", "money")
"""Of a segment; `dispute` and `replay` follow where there are any."""


class Finding(msgspec.Struct, frozen=True):
    """One that is worth telling: what is false, or what could not be checked."""

    check: str
    ok: bool | None
    """False; or None: it could not be checked."""
    text: str


class Sheet(msgspec.Struct):
    """The checks of one segment, or of the job as a whole."""

    held: dict[str, int] = msgspec.field(default_factory=dict)
    """Facts that were found true, by check."""
    findings: list[Finding] = msgspec.field(default_factory=list)

    def check(self, check: str, ok: bool | None, text: str) -> bool:
        """Notes that a fact holds, or, with `text`, that it does not (False) or could not be checked (None). Whether it holds."""
        if ok:
            self.held[check] = self.held.get(check, 0) + 1
        else:
            self.findings.append(Finding(check, ok, text))
        return bool(ok)

    def mark(self, check: str) -> str:
        """✓ all holds, ✗ something is false, ? something could not be checked, · nothing to check yet."""
        told = [finding.ok for finding in self.findings if finding.check == check]
        if False in told:
            return "✗"
        return "?" if told else "✓" if self.held.get(check) else "·"

    @property
    def failed(self) -> int:
        return sum(finding.ok is False for finding in self.findings)

    @property
    def unchecked(self) -> int:
        return sum(finding.ok is None for finding in self.findings)


class Row(msgspec.Struct):
    """A segment."""

    segment: SegmentId
    start: int
    stop: int
    provider: Address
    state: str
    sheet: Sheet
    end_root: Digest | None = None


class Report(msgspec.Struct):
    """An audit's result. `job` number, `client`, and the block up to which the chain was read."""

    job: JobId
    client: Address
    block: int
    sheet: Sheet
    """Of the job as a whole: documents, escrow, delivery."""
    rows: list[Row]

    @property
    def sheets(self) -> Iterable[Sheet]:
        return (self.sheet, *(row.sheet for row in self.rows))

    @property
    def held(self) -> int:
        return sum(sum(sheet.held.values()) for sheet in self.sheets)

    @property
    def failed(self) -> int:
        return sum(sheet.failed for sheet in self.sheets)

    @property
    def unchecked(self) -> int:
        return sum(sheet.unchecked for sheet in self.sheets)

    @property
    def verdict(self) -> str:
        """One line."""
        if self.failed:
            first = next(f"segment {row.segment}" for row in self.rows if row.sheet.failed) if not self.sheet.failed else "the job"
            return f"✗ {self.failed} of {self.held + self.failed} checks FAIL, first in {first}; {self.unchecked} could not be made"
        rest = f"; {self.unchecked} could not be made, each with its reason above" if self.unchecked else ""
        return f"✓ all {self.held} checks hold{rest}"
