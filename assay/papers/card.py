"""A certificate for people: a model card in Markdown (with the front matter that model hubs read), and one page of HTML to print.

Both say what the statement says and no more; what it says nothing of (what the model is meant for, whom it may harm) is left to its author, by name.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from msgspec import UNSET, UnsetType

from assay.codec import decode
from assay.economics import TOKEN
from assay.hands import MAX_SPEC
from assay.ids import ZERO_ADDRESS
from assay.job import JobSpec
from assay.papers.certificate import Envelope, accounts, fingerprint
from assay.papers.statement import STATE_ROOT, Statement, Trained, timestamp
from assay.publish.manifest import PRICED

Rows = Sequence[tuple[str, str]]
LIMITS = (
    "A draw checks links by chance: docs/economics.md of the network says how likely a false one is found under this policy.",
    "It says what the model was made of, not what it is good for.",
)
AUTHOR = "Intended use, known limits and evaluation are its author's to add."


def facts(statement: Statement) -> Rows:
    """What there is to say in a line each."""
    external, spec, segments = statement.external, document(statement), statement.internal.segments
    params = external.terms.params
    policy = "every link is checked" if params.links == 0 else f"{params.links} links a segment are drawn and checked"
    out = [
        ("Job", f"{external.job} of contract {external.contract} on chain {external.chain_id}, posted by {external.client}"),
        ("Trained", f"{segments[-1].stop} of {external.terms.steps} steps, {statement.predicate.run_details.metadata.finished_on} (settled)"),
        ("Checked", f"{policy} by {params.verifiers} verifiers, of whom {params.quorum} must agree"),
        ("State", statement.subject[0].digest[STATE_ROOT]),
        ("Program", external.terms.program_root.hex()),
        ("Data", f"{spec.dataset.name}: {spec.dataset.records:,} records in {len(spec.dataset.shards)} sealed shards"),
        ("Data root", external.terms.dataset_root.hex()),
    ]
    if spec.origin is not UNSET:
        base = f"{spec.origin.name} ({spec.origin.licence}); root {spec.origin.root.hex()}"
        out.append(("Base model", f"{base}; tuned by {spec.origin.method}"))
    for one in statement.internal.licences:
        who = "anybody" if one.holder == ZERO_ADDRESS else one.holder
        what = f"dataset {one.dataset} of {one.owner}, {one.records:,} records: its licence {one.licence} to {who}"
        price = f"{one.price / TOKEN:g} tokens for {PRICED} records read, {one.paid / TOKEN:g} paid"
        aim = f"for {', '.join(one.purposes) or 'any purpose'} until {timestamp(one.until)}; used for {one.purpose}"
        out.append(("Licence", f"{what}, {aim}; {price}"))
    versions = statement.predicate.run_details.builder.version
    out.append(("Energy", energy(segments)))
    out.append(("Versions", ", ".join(f"{name} {number}" for name, number in sorted(versions.items()))))
    if statement.internal.others:
        out.append(("Discarded", ", ".join(f"{count} {state.lower()}" for state, count in sorted(statement.internal.others.items()))))
    return out


def energy(segments: Sequence[Trained]) -> str:
    """What providers say that they took, added up."""
    said = [one.energy for one in segments if not isinstance(one.energy, UnsetType)]
    if not said:
        return "not measured: no provider said what its segments took"
    steps, of = sum(one.steps for one in said), segments[-1].stop
    parts = [f"{kind} {sum(mine) / 1000:,.0f} J" for kind, mine in (
        ("GPUs (NVML)", [one.gpu for one in said if one.gpu_meter]), ("processors (RAPL)", [one.cpu for one in said if one.cpu_meter]),
    ) if mine]  # fmt: skip
    told = f"{sum(one.joules for one in said):,.0f} J for {steps} of {of} steps ({'; '.join(parts)})"
    return f"{told}; each provider's own claim in its signed commitment, which nothing proves"


def document(statement: Statement) -> JobSpec:
    return decode(statement.internal.document, JobSpec, limit=MAX_SPEC)


def segment_row(one: Trained) -> tuple[str, ...]:
    agreed = [vote.verifier for vote in one.votes if vote.agrees]
    took = "not measured" if isinstance(one.energy, UnsetType) else f"{one.energy.joules:,.1f}"
    return (str(one.segment), f"{one.start}-{one.stop}", one.provider, ", ".join(agreed) or "nobody objected", ", ".join(map(str, one.links)), took)


HEADS = ("segment", "steps", "trained by", "checked by", "links that were checked", "joules, says who trained")


def card(envelope: Envelope, statement: Statement) -> str:
    """Markdown."""
    spec = document(statement)
    front = ["---", "tags: [assay, verified-training]"]
    if spec.origin is not UNSET:
        front += [f"base_model: {_yaml(spec.origin.name)}", f"license: {_yaml(spec.origin.licence)}"]
    front += [f"datasets: [{_yaml(spec.dataset.name)}]", "---", ""]
    lines = [*front, f"# {_plain(spec.name)}", "", f"{AUTHOR} What follows is stated by its certificate, `{fingerprint(envelope)}`.", ""]
    lines += [f"- **{name}:** {_plain(text)}" for name, text in facts(statement)]
    lines += ["", f"| {' | '.join(HEADS)} |", f"|{'---|' * len(HEADS)}"]
    lines += [f"| {' | '.join(_plain(cell) for cell in segment_row(one))} |" for one in statement.internal.segments]
    lines += ["", f"Signed by {', '.join(accounts(envelope))}."]
    lines += ["To check it, and weights against it: `assay certificate verify FILE --weights WEIGHTS`.", ""]
    lines += [f"- {text}" for text in LIMITS]
    return "\n".join(lines) + "\n"


def page(envelope: Envelope, statement: Statement) -> str:
    """HTML, one file, to be printed."""
    spec = document(statement)
    rows = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>" for name, text in facts(statement))
    heads = "".join(f"<th>{name}</th>" for name in HEADS)
    segments = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in segment_row(one)) + "</tr>" for one in statement.internal.segments
    )
    limits = "".join(f"<li>{html.escape(text)}</li>" for text in LIMITS)
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Certificate: {html.escape(spec.name)}</title>
<style>
body {{ font: 10pt/1.45 Georgia, serif; max-width: 46em; margin: 3em auto; color: #1b1b1b; }}
h1 {{ font-weight: normal; border-bottom: 2px solid #1b1b1b; padding-bottom: .3em; }}
table {{ border-collapse: collapse; width: 100%; margin: 1.2em 0; }}
th, td {{ text-align: left; vertical-align: top; padding: .25em .6em .25em 0; border-bottom: 1px solid #ccc; overflow-wrap: anywhere; }}
td {{ font-size: 8.5pt; }}
@media print {{ body {{ margin: 0; }} }}
</style>
<h1>Certificate of training: {html.escape(spec.name)}</h1>
<table>{rows}</table>
<table><tr>{heads}</tr>{segments}</table>
<p>Statement {fingerprint(envelope)}, signed by {html.escape(", ".join(accounts(envelope)))}.</p>
<ul>{limits}</ul>
</html>
"""


def _plain(text: str) -> str:
    """A stranger's words in a line of Markdown: they format nothing and end no cell."""
    kept = "".join(c if c.isprintable() else " " for c in text)
    return "".join("\\" + c if c in "\\`*_[]<>|#!" else c for c in kept)


def _yaml(text: str) -> str:
    """A double-quoted scalar."""
    kept = "".join(c if c.isprintable() else " " for c in text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{kept}"'
