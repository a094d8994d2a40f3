"""`assay job certificate` and `assay certificate verify|sign|card`: a model's papers."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assay.cli.common import FAILED, USAGE, Bootstrap, Contract, Data, Json, Rpc, Settings, Trouble, group, settings, show, writable
from assay.cli.common import run as run_async
from assay.cli.folder import client_folder
from assay.ids import JobId

if TYPE_CHECKING:
    from assay.audit.findings import Report, Sheet
    from assay.papers.certificate import Envelope
    from assay.papers.statement import Statement
    from assay.state import Tensors

app = group("A model's papers: who trained it on what, and who checked it.")
File = Annotated[Path, typer.Argument(metavar="CERTIFICATE", help="The file that `assay job certificate` wrote.")]
MARKS = {True: "✓", False: "✗", None: "?"}


def certificate(
    job: Annotated[int, typer.Argument(metavar="JOB", help="The job's number on this contract.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write the certificate.", callback=writable)],
    rpc: Rpc = None, contract: Contract = None, bootstrap: Bootstrap = None, data: Data = None, json: Json = False,
) -> None:  # fmt: skip
    """Audits a job and certifies it, signed with the account in --data: the client's own lists every tensor of the weights, too.

    Example: [bold]assay job certificate 1 --out model.certificate.json[/bold]
    """
    envelope, statement, report = run_async(_certify(settings(rpc, contract, bootstrap, data, "client"), JobId(job)))
    from assay.papers.certificate import fingerprint, to_bytes

    out.write_bytes(to_bytes(envelope))
    tensors = len(statement.subject) - 1
    if json:
        shown = {"job": job, "out": str(out), "statement": fingerprint(envelope), "tensors": tensors, "segments": len(statement.internal.segments)}
        show({**shown, "verdict": report.verdict, "signer": envelope.signatures[0].keyid})
        return
    print(f"audited: {report.verdict}")
    print(f"certificate of {len(statement.internal.segments)} segments and {tensors} tensors written to {out}; statement {fingerprint(envelope)}")
    if not tensors:
        print("it names the weights by the root of their state alone: only the client can open them, and list them, with its --data")


async def _certify(where: Settings, job: JobId) -> tuple[Envelope, Statement, Report]:
    from assay.adapters.engine_process import ProcessEngine
    from assay.adapters.evm_record import read_record
    from assay.adapters.keys import exists, open_keys
    from assay.adapters.signatures import sign_text
    from assay.audit.auditor import NoSuchJob
    from assay.cli.audit import visit
    from assay.cli.node import find_sandbox
    from assay.papers.certificate import seal
    from assay.papers.make import certify
    from assay.papers.statement import NoPapers

    if not exists(where.data):
        raise Trouble(f"{where.data} holds no keys to sign with", "a certificate is signed", f"assay keys new --data {where.data}", USAGE)
    with tempfile.TemporaryDirectory(prefix="assay-papers-") as base:
        folder, keys = Path(base), open_keys(where.data)
        engine = ProcessEngine(processes=1, sandbox=await asyncio.to_thread(find_sandbox, "auto", 0, folder, True))
        try:
            async with visit(where, folder) as (reader, blobs, _):
                record = await read_record(reader, job)
                statement, report = await certify(record, job, blobs, keys, engine, folder / "work")
            return seal(statement, keys.account, lambda text: sign_text(keys, text)), statement, report
        except NoSuchJob as error:
            raise Trouble(f"there is no job {job}", str(error), "assay job list") from None
        except NoPapers as error:
            raise Trouble(f"job {job} gets no certificate", str(error), f"assay job audit {job}", FAILED) from None
        finally:
            await engine.close()
            keys.close()


@app.command()
def verify(
    file: File,
    weights: Annotated[Path | None, typer.Option("--weights", metavar="PATH", help="Weights to hold against it: a file, or PEFT's folder.")] = None,
    signer: Annotated[str | None, typer.Option("--signer", metavar="ACCOUNT", help="Who must have signed it.")] = None, json: Json = False,
) -> None:  # fmt: skip
    """Checks a certificate offline: its signatures, those of providers and verifiers in it, its roots, and weights against it.

    Exit code 0: nothing is false, and what could not be checked is named; 1: something is false.

    Example: [bold]assay certificate verify model.certificate.json --weights weights.safetensors[/bold]
    """
    from assay.adapters.evm_typed import TypedData
    from assay.adapters.signatures import text_signer
    from assay.ids import address
    from assay.papers.certificate import accounts, compare, fingerprint
    from assay.papers.certificate import verify as check

    envelope, statement = _read(file)
    external = statement.external
    sheets = [check(envelope, statement, TypedData(external.chain_id, external.contract), text_signer)]
    if signer is not None:
        right = address(signer) in accounts(envelope)
        sheets[0].check("signatures", right, f"{signer} has not signed it; {', '.join(accounts(envelope))} did")
    if weights is not None:
        sheets.append(compare(statement, _tensors(weights)))
    failed = sum(sheet.failed for sheet in sheets)
    if json:
        show({"holds": not failed, "statement": fingerprint(envelope), "signers": accounts(envelope), "client": external.client, **_as_json(sheets)})
    else:
        _tell(statement, envelope, sheets)
    if failed:
        raise typer.Exit(FAILED)


def _as_json(sheets: list[Sheet]) -> dict[str, Any]:
    held = {name: count for sheet in sheets for name, count in sheet.held.items()}
    return {"held": held, "findings": [{"check": f.check, "ok": f.ok, "text": f.text} for sheet in sheets for f in sheet.findings]}


def _tell(statement: Statement, envelope: Envelope, sheets: list[Sheet]) -> None:
    from assay.papers.card import facts
    from assay.papers.certificate import accounts

    for name, text in facts(statement) if sheets[0].mark("document") != "✗" else ():
        print(f"{name:>12}  {text}")
    for who in accounts(envelope):
        print(f"   signed by  {who}{', its client' if who == statement.external.client else ''}")
    for sheet in sheets:
        for name in dict.fromkeys([*sheet.held, *(finding.check for finding in sheet.findings)]):
            print(f"{sheet.mark(name)} {name}")
        for finding in sheet.findings:
            print(f"  {MARKS[finding.ok]} {finding.text}")
    failed = sum(sheet.failed for sheet in sheets)
    held = sum(sum(sheet.held.values()) for sheet in sheets)
    print(f"✗ {failed} of {held + failed} checks FAIL" if failed else f"✓ all {held} checks hold; the chain was not asked: assay job audit does")


@app.command()
def sign(file: File, data: Data = None, json: Json = False) -> None:
    """Adds your signature to a certificate that you have verified (and whose job you have audited).

    Example: [bold]assay certificate sign model.certificate.json --data ~/.local/share/assay/client[/bold]
    """
    from assay.adapters.keys import exists, open_keys
    from assay.adapters.signatures import sign_text
    from assay.papers.certificate import accounts, add, to_bytes

    envelope, _ = _read(file)
    folder = data or client_folder()
    if not exists(folder):
        raise Trouble(f"{folder} holds no keys to sign with", "a signature is an account's", f"assay keys new --data {folder}", USAGE)
    keys = open_keys(folder)
    try:
        envelope = add(envelope, keys.account, lambda text: sign_text(keys, text))
        file.write_bytes(to_bytes(envelope))
        if json:
            show({"signer": keys.account, "signers": accounts(envelope)})
        else:
            print(f"{keys.account} has signed {file}, as {len(envelope.signatures) - 1} others have")
    finally:
        keys.close()


@app.command()
def card(
    file: File,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="CARD.md for Markdown, CARD.html for a page to print.", callback=writable)],
    json: Json = False,
) -> None:
    """Writes a model card, or a page to print, from a certificate.

    Example: [bold]assay certificate card model.certificate.json --out README.md[/bold]
    """
    from assay.papers import card as cards

    envelope, statement = _read(file)
    if out.suffix not in (".md", ".html"):
        raise Trouble(f"{out} is neither Markdown nor HTML", "a card is one of them", "--out CARD.md or --out CARD.html", USAGE)
    out.write_text((cards.page if out.suffix == ".html" else cards.card)(envelope, statement), encoding="utf-8")
    if json:
        show({"out": str(out)})
    else:
        print(f"written to {out}")


def _read(file: Path) -> tuple[Envelope, Statement]:
    from assay.codec import Malformed
    from assay.papers.certificate import MAX_CERTIFICATE, read

    try:
        if file.stat().st_size > MAX_CERTIFICATE:
            raise Malformed(f"it has {file.stat().st_size} bytes, a certificate at most {MAX_CERTIFICATE}")
        return read(file.read_bytes())
    except OSError as error:
        raise Trouble(f"{file} cannot be read", error.strerror or str(error), code=USAGE) from None
    except Malformed as error:
        raise Trouble(f"{file} is no certificate", str(error), "assay job certificate JOB --out FILE writes one", FAILED) from None


def _tensors(path: Path) -> Tensors:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    file = path / "adapter_model.safetensors" if path.is_dir() else path
    try:
        return dict(load_file(file))
    except (SafetensorError, OSError) as error:
        why = f"{error}: expected a safetensors file, or a folder that PEFT loads"
        raise Trouble(f"{path} holds no weights", why, "--weights FILE.safetensors", FAILED) from None
