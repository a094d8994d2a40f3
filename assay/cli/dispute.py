"""`assay dispute show`: where the two sides of a dispute part, drawn from the chain alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from assay.cli.common import Contract, Json, Rpc, Settings, Trouble, group, settings, show
from assay.cli.common import run as run_async

if TYPE_CHECKING:
    from assay.audit.disputes import Case
    from assay.dispute.drawing import Drawing
    from assay.dispute.record import Record

app = group("Disputes: what two sides disagree about, and how far they have come.")


@app.callback()
def disputes() -> None: ...


@app.command("show")
def show_(
    dispute: Annotated[int, typer.Argument(metavar="ID", help="The dispute's number on this network.")],
    rpc: Rpc = None, contract: Contract = None, json: Json = False,
) -> None:  # fmt: skip
    """Draws a dispute level by level: who moved, what was shown, where the other side pointed, down to the operation and its operands.

    Example: [bold]assay dispute show 1[/bold]
    """
    case, record, drawing = run_async(_draw(settings(rpc, contract, None, None, "client"), dispute))
    if json:
        show(as_json(case, record, drawing))
        return
    from assay.dispute.drawing import lines

    print(f"dispute {dispute} of {record.challenger} against {record.asserter}, sealed in block {record.block} with {record.stake}")
    for line in lines(drawing):
        print(line)
    if hidden := hidden_end(record, drawing):
        print(hidden)


async def _draw(where: Settings, number: int) -> tuple[Case, Record, Drawing]:
    from assay.adapters.evm import EvmReader
    from assay.adapters.evm_record import read_record
    from assay.audit.auditor import Auditor
    from assay.chain import Assigned, DisputeSealed
    from assay.dispute.drawing import draw
    from assay.dispute.moves import Moment
    from assay.ids import DisputeId, JobId

    reader = await EvmReader.open(where.rpc, where.contract)
    try:
        events = await reader.events((-1, -1), 0)
        sealed = {event.dispute: event.segment for event in events if isinstance(event, DisputeSealed)}
        if DisputeId(number) not in sealed:
            there = ", ".join(map(str, sealed)) or "none yet"
            raise Trouble(f"there is no dispute {number}", f"this network has: {there}", "assay job audit JOB tells what was disputed")
        job: JobId = next(event.job for event in events if isinstance(event, Assigned) and event.segment == sealed[DisputeId(number)])
        auditor = Auditor(await read_record(reader, job, 0), job)
    finally:
        await reader.close()
    auditor.run()
    case = auditor.cases[DisputeId(number)]
    facts, record = auditor.facts_of(case), auditor.record.disputes[case.number]
    assert facts is not None  # a segment that is disputed was committed, on a network that has disputes
    made = [(played.move, Moment(played.block, played.time)) for played in record.moves]
    return case, record, draw(facts, record.digest, Moment(record.block, record.time), made)


def hidden_end(record: Record, drawing: Drawing) -> str:
    """What is to be said where the deciding move cannot be read."""
    if record.outcome is None or drawing.outcome:
        return ""
    return f"decided: {record.outcome}, by a move that came by way of another contract, whose calldata do not show it"


def as_json(case: Case, record: Record, drawing: Drawing) -> dict[str, Any]:
    """What `--json` prints; docs/verifier.md names its keys."""
    from assay.dispute.drawing import number

    steps = [
        {
            "level": step.level, "phase": step.phase, "side": step.side, "move": step.move, "told": step.told, "seconds": step.seconds,
            "spent": step.spent,
            "values": [{"what": v.what, "dtype": v.dtype, "bits": f"0x{v.bits:x}", "value": number(v.dtype, v.bits).split()[0]} for v in step.values],
        }
        for step in drawing.steps
    ]  # fmt: skip
    parties = {"segment": case.seg.number, "job": case.seg.job, "challenger": record.challenger, "asserter": record.asserter}
    end = {"outcome": record.outcome, "reason": drawing.reason, "pays": drawing.pays, "awaits": "" if record.outcome else drawing.awaits}
    levels = [{"tree": d.tree, "opened": d.opened, "served": d.served, "leaf": d.leaf} for d in drawing.descents]
    return {"dispute": record.dispute, **parties, "title": drawing.title, "steps": steps, "descents": levels, **end, "paid": record.paid}
