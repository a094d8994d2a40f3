"""`assay infer` and `assay receipt verify`: an answer of a model with a receipt that anybody can compute again (arguing with one: answering)."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from msgspec import UNSET, UnsetType

from assay.cli.common import ENVIRONMENT, FAILED, USAGE, Data, Json, Rpc, Trouble, group, show, writable
from assay.cli.common import run as run_async
from assay.cli.folder import bases, client_folder

if TYPE_CHECKING:
    from assay.ids import Digest
    from assay.inference import Bonded, InferenceReceipt, SignedReceipt
    from assay.state import Tensors

app = group("Receipts for what models put out.")
Threads = Annotated[int, typer.Option("--threads", min=1, help="Threads of the engine.")]
THREADS = os.cpu_count() or 1


def infer(
    model: Annotated[Path, typer.Argument(metavar="MODEL.py", help="A Python file that ends in `inference = assay.Inference(...)`.")],
    text: Annotated[str, typer.Argument(metavar="INPUT", help="What the model is asked; the file encodes it.")],
    receipt: Annotated[Path | None, typer.Option("--receipt", metavar="FILE", help="Where to write the signed receipt.", callback=writable)] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", metavar="FILE", help="Where to write the weights that it names.", callback=writable)
    ] = None,
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="FILE", help="Where to write all values of the run, to be served.", callback=writable)
    ] = None,
    bond: Annotated[float, typer.Option("--bond", min=0, metavar="TOKENS", help="Of the stake, what is lost if the receipt is false.")] = 0,
    lasting: Annotated[str, typer.Option("--for", metavar="TIME", help="How long the bond stands behind it: 90m, 36h, 7d.")] = "1h",
    rpc: Rpc = None,
    receipts: Annotated[str | None, typer.Option("--receipts", envvar="ASSAY_RECEIPTS", metavar="ADDRESS", help="Where the stake is.")] = None,
    data: Data = None, threads: Threads = THREADS, json: Json = False,
) -> None:  # fmt: skip
    """Asks a model, exactly, and signs what it put out with the account in --data.

    Example: [bold]assay infer examples/ask_minilm.py "a fine film" --receipt answer.json[/bold]
    """
    from assay import inference
    from assay.adapters.keys import exists, open_keys
    from assay.adapters.signatures import sign_text
    from assay.audit.bases import Bases
    from assay.codec import encode
    from assay.dataset import Dataset
    from assay.forward import trace_inference
    from assay.ids import ZERO_ADDRESS
    from assay.state import to_bytes
    from assay.training import load_inference

    folder = data or client_folder()
    if receipt is not None and not exists(folder):
        raise Trouble(f"{folder} holds no keys to sign with", "a receipt is signed", f"assay keys new --data {folder}", USAGE)
    asked = load_inference(model)
    records = Dataset("asked", **asked.encode(text))
    traced = trace_inference(asked.model, asked.outputs, records, asked.gemm_bits)
    keys = open_keys(folder) if receipt is not None else None
    try:
        account = keys.account if keys is not None else ZERO_ADDRESS
        batch = records.read(range(len(records)))
        made, output = inference.make(asked.name, traced.program, traced.frozen, batch, account, int(time.time()), asked.origin, threads)
        signature = sign_text(keys, inference.statement(made)) if keys is not None else b""
    finally:
        if keys is not None:
            keys.close()
    if trace is not None or bond:
        bonded = _argued(made, traced.frozen, trace, rpc, receipts, folder, round(bond * 1_000_000), lasting)
    else:
        bonded = UNSET
    if receipt is not None:
        signed = encode(inference.SignedReceipt(receipt=made, signature=signature, bonded=bonded))
        receipt.write_bytes(signed)
    if weights is not None:
        weights.write_bytes(to_bytes(traced.frozen))
    if receipt is not None and traced.frozen:
        Bases(bases()).put(made.weights_root, to_bytes(traced.frozen))
    told = asked.decode(output) if asked.decode is not None else None
    if json:
        roots = {name: getattr(made, name).hex() for name in ("program_root", "weights_root", "input_root", "output_root")}
        values = {name: array.tolist() for name, array in output.items()}
        show({"told": told, "output": values, **roots, "receipt": str(receipt) if receipt else None})
        return
    print(told if told is not None else "\n".join(f"{name}: {array.tolist()}" for name, array in output.items()))
    if receipt is not None:
        print(f"receipt written to {receipt}; anybody with the weights checks it: assay receipt verify {receipt}")


def _argued(
    made: InferenceReceipt, weights: Tensors, trace: Path | None, rpc: str | None, receipts: str | None, folder: Path, bond: int, lasting: str
) -> Bonded | UnsetType:
    """Writes what a dispute over a receipt needs of its signer; signs it for the contract, where a bond is to stand behind it."""
    from assay.answering import Case
    from assay.cli import answering
    from assay.cli.bounty import seconds
    from assay.codec import encode
    from assay.inference import SignedReceipt
    from assay.state import to_bytes

    case = Case(made, weights)
    if trace is not None:
        trace.write_bytes(to_bytes(case.trace()))
    if not bond:
        return UNSET
    bonded = run_async(answering.bond(answering.where_of(rpc, receipts, folder), case, bond, seconds(lasting)))
    kept = answering.kept(folder, case.link_root)
    kept.parent.mkdir(exist_ok=True, mode=0o700)
    kept.write_bytes(encode(SignedReceipt(receipt=made, signature=b"", bonded=bonded)))
    return bonded


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The signed receipt.")],
    weights: Annotated[Path | None, typer.Option("--weights", metavar="FILE", help="The weights that it names; else from the cache.")] = None,
    threads: Threads = THREADS, json: Json = False,
) -> None:  # fmt: skip
    """Computes what a receipt says again, and says whether it is so.

    Exit code 0: it is; 1: it is not; 3: the weights that it names are not here.

    Example: [bold]assay receipt verify answer.json[/bold]
    """
    from assay import inference
    from assay.adapters.signatures import text_signer
    from assay.state import BadTensors

    signed = read_signed(file)
    made = signed.receipt
    wrong = "" if text_signer(inference.statement(made), signed.signature) == made.account else f"it is not signed by {made.account}"
    if not wrong:
        try:
            inference.replay(made, weights_of(made.weights_root, weights), threads)
        except inference.Refuted as error:
            wrong = str(error)
        except BadTensors as error:
            raise Trouble("the weights are not those that the receipt names", str(error), "--weights FILE", ENVIRONMENT) from None
    if json:
        roots = {name: getattr(made, name).hex() for name in ("program_root", "weights_root", "input_root", "output_root")}
        show({"agrees": not wrong, "wrong": wrong, "account": made.account, "name": made.name, "time": made.time, **roots})
    elif wrong:
        print(f"✗ the receipt is false: {wrong}")
    else:
        print(f"✓ {made.account} signed what comes out here: {made.name}, weights {made.weights_root.hex()[:16]}…")
    if wrong:
        raise typer.Exit(FAILED)


def read_signed(file: Path) -> SignedReceipt:
    """Raises Trouble, Malformed."""
    from assay import inference
    from assay.codec import decode

    return decode(_bounded(file, inference.MAX_RECEIPT), inference.SignedReceipt, limit=inference.MAX_RECEIPT)


def _bounded(file: Path, limit: int) -> bytes:
    if file.stat().st_size > limit:
        raise Trouble(f"{file} is too large for a receipt", f"it may have {limit} bytes", code=FAILED)
    return file.read_bytes()


def weights_of(root: Digest, file: Path | None) -> Tensors:
    from assay.audit.bases import MAX_BASE, Bases
    from assay.state import from_bytes

    if not root:
        return {}
    found: Any = _bounded(file, MAX_BASE) if file is not None else Bases(bases()).read(root)
    if found is None:
        why = f"no check or inference on this machine has used the weights {root.hex()[:16]}…"
        raise Trouble("the weights that the receipt names are not here", why, "--weights FILE (assay infer --weights FILE writes them)", ENVIRONMENT)
    return from_bytes(found, MAX_BASE)
