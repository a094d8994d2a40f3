"""An audit from its record to its report: the chain, the documents, what the client gets, and, when asked for, links computed again."""

from __future__ import annotations

from pathlib import Path

from assay.audit.auditor import Auditor
from assay.audit.bases import Bases
from assay.audit.documents import Documents, Library, Ring
from assay.audit.findings import Report
from assay.audit.provider import Providers
from assay.audit.record import Record
from assay.audit.replays import Replays
from assay.ids import JobId
from assay.messages import Visit
from assay.ports import Blobs, Engine, Keys, Peers
from assay.workshop import Workshop


async def look(record: Record, job: JobId, blobs: Blobs, keys: Keys | None, engine: Engine, folder: Path, patience: int = 20) -> Documents:
    """All that can be said of a job with no link computed again: the auditor has run over the record, documents and delivery are checked.
    `folder` and `keys` as of audit_job. Raises auditor.NoSuchJob."""
    auditor = Auditor(record, job)
    auditor.run()
    ring, library = Ring(keys, auditor.releases), Library(blobs, patience)
    shop = Workshop(folder, blobs, ring, engine)
    documents = Documents(auditor, library, shop, ring)
    await documents.check()
    await documents.delivery()
    return documents


async def audit_job(
    record: Record, job: JobId, blobs: Blobs, keys: Keys | None, engine: Engine, folder: Path, *, replay: int = 0, seed: int = 0,
    patience: int = 20, bases: Path | None = None, peers: Peers | None = None, visit: Visit | None = None,
) -> Report:  # fmt: skip
    """`folder` is the audit's own and is removed by the caller: what is opened lies there in the clear. `keys` are the caller's, if it has
    any; `replay` is how many links to compute again, chosen by `seed`; `bases` the folder of
    frozen tensors that are shared with other audits; providers are asked through `peers`, who ask as `visit` says. Raises auditor.NoSuchJob."""
    documents = await look(record, job, blobs, keys, engine, folder, patience)
    auditor, spec = documents.auditor, documents.spec
    if replay and spec is None:
        auditor.sheet.check("replay", None, "no link can be computed again without the job's document")
    elif replay and spec is not None:
        providers = Providers(record, peers, visit, spec.micro_batches, patience)
        await Replays(documents, spec, Bases(bases), providers).run(replay, seed)
    else:
        sealed = "its initial state and data are sealed, and no link was computed again: --replay N does, with the keys that --data holds"
        auditor.sheet.check("replay", None, sealed)
    return auditor.report()
