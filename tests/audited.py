"""What a simulated chain did is what the rules say, for whoever reads it: every check of an audit holds for each of its jobs."""

from __future__ import annotations

from assay.adapters.memory_chain import MemoryChain, MemoryLedger
from assay.adapters.memory_record import read_record
from assay.audit.auditor import Auditor
from assay.chain import JobPosted


def check_audit(ledger: MemoryLedger) -> None:
    for job in [event.job for event in ledger.events() if isinstance(event, JobPosted)]:
        report = Auditor(read_record(MemoryChain(ledger, "auditor"), job), job).run()
        found = [f"segment {row.segment}, {f.check}: {f.text}" for row in report.rows for f in row.sheet.findings]
        found += [f"{f.check}: {f.text}" for f in report.sheet.findings]
        assert not found, "\n".join(found)
