"""A certificate's statement from a job's record: the job is audited first, and one of which anything is false gets no papers."""

from __future__ import annotations

from pathlib import Path

from assay.audit.findings import Report
from assay.audit.record import Record
from assay.audit.whole import look
from assay.ids import JobId
from assay.papers.statement import NoPapers, Statement, statement
from assay.ports import Blobs, Engine, Keys


async def certify(
    record: Record, job: JobId, blobs: Blobs, keys: Keys | None, engine: Engine, folder: Path, patience: int = 20
) -> tuple[Statement, Report]:
    """The statement, and the audit that it rests on. `folder` and `keys` as of audit_job: with the client's keys the state is opened, and each of
    its tensors listed. Raises auditor.NoSuchJob, NoPapers."""
    documents = await look(record, job, blobs, keys, engine, folder, patience)
    auditor = documents.auditor
    report = auditor.report()
    if report.failed:
        raise NoPapers(f"its audit fails: {report.verdict}")
    if documents.spec is None:
        raise NoPapers("its document cannot be had, which says what it was trained on")
    return statement(auditor, documents.document, documents.spec, documents.state), report
