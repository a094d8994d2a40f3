"""`assay data`: what an owner of data does. Sealing needs no network."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assay.cli.common import (
    FAILED,
    TOKEN,
    USAGE,
    Contract,
    Data,
    Json,
    Rpc,
    Trouble,
    group,
    money,
    run,
    settings,
    show,
)
from assay.cli.tables import put

if TYPE_CHECKING:
    from assay.publish.manifest import Manifest, Owner
    from assay.publish.readers import How
    from assay.publish.sealing import Published
    from assay.publish.survey import Survey

app = group("Datasets of your own: seal them, say who may use them for what, and see what they bring.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The dataset's name in this folder.")]
EVERY = 0.5
"""Seconds between two lines of progress."""


@app.command()
def publish(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file, or a folder of files of one kind.")],
    name: Annotated[str | None, typer.Option("--name", help="Name of the dataset; else that of PATH.")] = None,
    data: Data = None,
    kind: Annotated[str | None, typer.Option("--kind", help="tensors, table, images or text, where PATH has several.")] = None,
    bad: Annotated[str, typer.Option("--bad", metavar="skip|refuse", help="What becomes of a dataset that has bad files.")] = "refuse",
    licence: Annotated[str, typer.Option("--licence", help="An SPDX identifier or a title, or a file with the text.")] = "all rights reserved",
    price: Annotated[float, typer.Option("--price", min=0, help="Tokens for 1000 records read in training.")] = 0.0,
    leaf_price: Annotated[float | None, typer.Option("--leaf-price", min=0, help="Tokens for a record that a dispute shows; else --price.")] = None,
    purpose: Annotated[list[str] | None, typer.Option("--purpose", help="What it may be used for; may be given several times.")] = None,
    consent: Annotated[Path | None, typer.Option("--consent", metavar="FILE", help="What the people agreed to whom the data are about.")] = None,
    provenance: Annotated[Path | None, typer.Option("--provenance", metavar="FILE", help="Where the data come from.")] = None,
    owner: Annotated[list[str] | None, typer.Option("--owner", metavar="ACCOUNT=SHARE", help="Co-owners and their shares, in percent.")] = None,
    columns: Annotated[str | None, typer.Option("--columns", metavar="A,B", help="Of tables: the columns that are taken.")] = None,
    label: Annotated[str | None, typer.Option("--label", metavar="COLUMN", help="Of tables: the label; the others become `features`.")] = None,
    category: Annotated[list[str] | None, typer.Option("--category", metavar="COLUMN=A,B", help="Of tables: values of a column of texts.")] = None,
    missing: Annotated[float | None, typer.Option("--missing", help="Of tables: what stands for an empty cell.")] = None,
    size: Annotated[str | None, typer.Option("--size", metavar="HxW", help="Of images: height and width to scale them to.")] = None,
    grey: Annotated[bool, typer.Option("--grey", help="Of images: one channel instead of three.")] = False,
    context: Annotated[int, typer.Option("--context", min=1, help="Of texts: bytes of a record, less one.")] = 256,
    shard_records: Annotated[int, typer.Option("--shard-records", min=1, help="Most records of a shard: a key opens a whole shard.")] = 1 << 14,
    rotate: Annotated[bool, typer.Option("--rotate", help="Seal everything under new keys: it is another dataset then.")] = False,
    holder: Annotated[list[str] | None, typer.Option("--holder", metavar="ACCOUNT", help="A key holder; several share each key.")] = None,
    threshold: Annotated[int | None, typer.Option("--threshold", min=1, help="So many of them release a key; else more than half.")] = None,
    rpc: Rpc = None, contract: Contract = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Reads files, checks them, seals them into shards, and writes the manifest last.

    Run again after an interruption, it goes on where it stopped. Nothing leaves this machine in the clear.

    Example: [bold]assay data publish patients.csv --label sick --price 0.5 --purpose research[/bold]
    """
    from assay.publish import survey as surveys
    from assay.publish.readers import How

    if bad not in ("skip", "refuse"):
        raise Trouble(f"--bad {bad} is not known", "a bad file is skipped, or the whole is refused", "--bad skip, or --bad refuse", USAGE)
    try:
        root = path.expanduser().absolute()
        if not root.exists():
            raise Trouble(f"there is no {path}", "it names the data", code=USAGE)
        chosen = surveys.choose(root, kind)
        how = How(
            kind=chosen, classes=surveys.classes(root) if chosen == "images" and root.is_dir() else (), size=_size(size), channels=1 if grey else 3,
            context=context, columns=_listed(columns), label=label, categories=_categories(category or []), missing=missing,
        )  # fmt: skip
        terms = _terms(licence, price, leaf_price, purpose or [], consent)
        from assay.cli.holders import of_accounts

        keepers = of_accounts(settings(rpc, contract, None, data, "owner"), holder, threshold) if holder else None
        _publish(root, how, data, name or _named(root), bad, terms, provenance, owner or [], (shard_records, rotate), keepers, json)
    except surveys.NoDataset as error:
        raise Trouble("nothing was published", str(error), code=FAILED) from None
    except ModuleNotFoundError as error:
        raise Trouble(f"{error.name} is not installed", "tables need pyarrow, images need pillow", "pip install 'assay[data]'") from None


def _publish(
    root: Path, how: How, data: Path | None, name: str, bad: str, licence: Any, provenance: Path | None, owners: list[str], shards: tuple[int, bool],
    keepers: Any, json: bool,
) -> None:  # fmt: skip
    from assay.adapters.ipfs import LocalBlobs
    from assay.adapters.peerbook import peer_id
    from assay.cli.folder import Lock, prepare
    from assay.cli.node import open_or_create
    from assay.publish.sealing import Progress, Service, Wish
    from assay.publish.sealing import publish as seal_all
    from assay.publish.survey import Memory, survey

    folder = owner_folder(data)
    prepare(folder)
    (folder / "datasets").mkdir(mode=0o700, exist_ok=True)
    try:
        lock = Lock(folder / "datasets")
    except Trouble:
        raise Trouble(f"something is being published from {folder} already", "", "wait for it, or name another folder: --data FOLDER") from None
    keys, memory = open_or_create(folder), Memory(folder / "datasets" / "survey.jsonl", root, how)
    tell = _teller(json)
    try:
        found = survey(root, how, memory, lambda done, total, file: tell("survey", f"read {done} of {total} files: {file}", done=done, total=total))
        _say_bad(found, bad, json)
        wish = Wish(name, _owners(keys.account, owners), licence, _text(provenance), *shards)
        service = keepers or Service(keys.account, peer_id(keys.peer_seed), keys.encryption_key)
        started, blobs = time.perf_counter(), LocalBlobs(folder / "blobs", lambda near: [])
        last: list[Progress] = []

        def seen(now: Progress) -> None:
            last[:] = [now]
            text = f"sealed {now.records} of {now.total} records in {now.shards} shards"
            tell("sealing", text, records=now.records, total=now.total, shards=now.shards, fresh=now.fresh)

        made, record = run(seal_all(found, wish, service, folder, blobs, keys, seen))
    finally:
        memory.close()
        keys.close()
        lock.release()
    seconds = time.perf_counter() - started
    done = last[-1]
    if json:
        show({
            "topic": "published", "name": name, "manifest": record.manifest, "digest": record.digest, "records": done.total, "shards": done.shards,
            "fresh": done.fresh, "bytes": done.bytes, "seconds": round(seconds, 3), "skipped": record.skipped, "duplicates": record.duplicates,
        })  # fmt: skip
        return
    known = f", {done.shards - done.fresh} of them sealed before" if done.fresh < done.shards else ""
    print(f"{name}: {done.total} records, {done.bytes / 1e6:.1f} MB, in {done.shards} shards{known}; {seconds:.1f} s")
    print(f"manifest  {record.manifest}")
    print(f"fields    {', '.join(f'{field.name} {field.dtype}{list(field.shape)}' for field in made.dataset.fields)}")
    print(f"keys      in {folder / 'keys'}: keep a copy of that folder, nothing else opens the shards")


def _say_bad(found: Survey, bad: str, json: bool) -> None:
    """Names bad files and those that are there twice. Raises Trouble when bad ones are to be refused."""
    for file in found.bad:
        if json:
            show({"topic": "bad", "file": file.name, "why": file.why})
        else:
            print(f"bad: {file.name or found.root.name}: {file.why}")
    for name, first in found.duplicates:
        if json:
            show({"topic": "duplicate", "file": name, "of": first})
        else:
            print(f"twice: {name} has the bytes of {first}; it is taken once")
    if found.bad and bad == "refuse":
        what = f"{len(found.bad)} of {len(found.bad) + len(found.good) + len(found.duplicates)} files cannot be used, so nothing was published"
        raise Trouble(what, f"the first: {found.bad[0].name or found.root.name}: {found.bad[0].why}", "mend them, or leave them out: --bad skip")


def _teller(json: bool) -> Callable[..., None]:
    """A line of progress now and then."""
    due = 0.0

    def tell(topic: str, text: str, **data: Any) -> None:
        nonlocal due
        if time.monotonic() < due:
            return
        due = time.monotonic() + EVERY
        if json:
            show({"topic": topic, **data})
        else:
            print(text, flush=True)

    return tell


# ---- what was typed ------------------------------------------------------------------------------------------------------


def owner_folder(data: Path | None) -> Path:
    from assay.cli.roles import folder_of

    return folder_of(data, "owner")


def _named(root: Path) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in root.stem.lower()).lstrip("._-")[:64] or "dataset"


def _listed(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip()) if text else ()


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and 0 < int(height) <= 1 << 14 and 0 < int(width) <= 1 << 14):
        raise Trouble(f"--size {text} is no size", "it is a height and a width", "--size 224x224", USAGE)
    return int(height), int(width)


def _categories(given: list[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    found = []
    for text in given:
        column, _, values = text.partition("=")
        listed = _listed(values)
        if not column or not listed or len(set(listed)) != len(listed):
            raise Trouble(f"--category {text} lists no values", "a column of texts needs its different values", "--category sex=F,M", USAGE)
        found.append((column, listed))
    return tuple(found)


def _text(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError:
        raise Trouble(f"{path} is no UTF-8 text", code=USAGE) from None


TEXTS = (".txt", ".md", ".rst", ".html", ".pdf")
"""Endings that no licence's identifier has."""


def _terms(licence: str, price: float, leaf_price: float | None, purposes: list[str], consent: Path | None) -> Any:
    from msgspec import UNSET

    from assay.publish.manifest import MAX_TEXT, Licence, purposes_mask

    try:
        purposes_mask(tuple(purposes))
    except ValueError as error:
        raise Trouble("that purpose is not known", str(error), code=USAGE) from None
    file = Path(licence)
    if file.suffix in TEXTS and not file.is_file():
        raise Trouble(f"there is no {file}", "--licence names a file with the text", "write it, or name the licence by its identifier", USAGE)
    named, text = (file.name, _text(file)) if file.is_file() else (licence, "")
    said = _text(consent)
    if max(len(text), len(said)) > MAX_TEXT or not 1 <= len(named) <= 200:
        raise Trouble("licence or consent is too long", f"a text may have {MAX_TEXT} characters, a title 200", code=USAGE)
    shown = UNSET if leaf_price is None else round(leaf_price * TOKEN)
    return Licence(name=named, text=text, purposes=tuple(dict.fromkeys(purposes)), consent=said, price=round(price * TOKEN), record_price=shown)


def _owners(own: str, given: list[str]) -> tuple[Owner, ...]:
    """The folder's own account first, with what the others leave."""
    from assay.ids import Address, address
    from assay.publish.manifest import SHARES, Owner

    shares: dict[Address, int] = {}
    for text in given:
        account, _, share = text.partition("=")
        try:
            shares[address(account)] = round(float(share) * SHARES / 100)
        except ValueError:
            raise Trouble(f"--owner {text} is not understood", "an account and its share in percent", "--owner 0x…=25", USAGE) from None
    left = SHARES - sum(shares.values())
    if address(own) in shares or left < 1 or min(shares.values(), default=1) < 1:
        raise Trouble("the shares do not fit", "the account of this folder has what the others leave, and that must be something", code=USAGE)
    return (Owner(account=address(own), share=left), *(Owner(account=account, share=share) for account, share in shares.items()))


# ---- looking at them -------------------------------------------------------------------------------------------------------


@app.command("list")
def list_(data: Data = None, json: Json = False) -> None:
    """The datasets that were sealed in this folder.

    Example: [bold]assay data list[/bold]
    """
    from rich.table import Table

    rows: list[dict[str, Any]] = []
    for record, made in run(_all(owner_folder(data))):
        price, terms = made.licence.price, made.licence
        rows.append({
            "name": record.name, "records": made.dataset.records, "shards": len(made.dataset.shards), "licence": terms.name,
            "purposes": terms.purposes, "price": price, "manifest": record.manifest,
        })  # fmt: skip
    if json:
        show({"datasets": rows})
        return
    table = Table("name", "records", "shards", "licence", "purposes", "price", "manifest")
    for row in rows:
        purposes = ", ".join(row["purposes"]) or "any"
        table.add_row(row["name"], str(row["records"]), str(row["shards"]), row["licence"], purposes, money(row["price"]), row["manifest"])
    put(table)


@app.command("show")
def show_(name: Name, data: Data = None, json: Json = False) -> None:
    """What the manifest of a dataset tells everybody, and which files went into it, which it does not.

    Example: [bold]assay data show patients[/bold]
    """
    import msgspec

    record, made = run(find(owner_folder(data), name))
    if json:
        private = {"sources": msgspec.to_builtins(record.sources), "skipped": record.skipped}
        show({"manifest": msgspec.to_builtins(made), "digest": record.digest, **private})
        return
    terms = made.licence
    print(f"{name}: {made.dataset.records} records of {made.kind} in {len(made.dataset.shards)} shards; manifest {record.manifest}")
    for field in made.dataset.fields:
        print(f"  {field.name:<10} {field.dtype}{list(field.shape)}")
    print(f"licence   {terms.name}; {money(terms.price)} tokens for 1000 records read; for {', '.join(terms.purposes) or 'any purpose'}")
    print(f"shown     {money(terms.shown)} tokens for a record that a dispute shows on chain, as far as its loser's money goes")
    for owner in made.owners:
        print(f"owner     {owner.account} {owner.share / 100:g} %")
    if (shared := made.key_holders) is None:
        print(f"keys      wrapped to the key service {made.key_service}")
    else:
        print(f"keys      shared: any {shared.threshold} of {', '.join(one.account for one in shared.members)} release one together")
    for title, text in (("consent", terms.consent), ("origin", made.provenance)):
        if text:
            print(f"{title:<9} {text.splitlines()[0][:120]}")
    counts = made.counts
    print(f"files     {counts.used} used, {counts.skipped} skipped, {counts.duplicates} there twice (their names are not in the manifest)")


@app.command()
def verify(name: Name, data: Data = None, json: Json = False) -> None:
    """Opens every shard of a dataset and checks it against the manifest, and the files that it came from, if they are still there.

    Example: [bold]assay data verify patients[/bold]
    """
    from assay.adapters.ipfs import LocalBlobs
    from assay.adapters.keys import open_keys
    from assay.publish import sealing

    folder = owner_folder(data)
    record, made = run(find(folder, name))
    keys = open_keys(folder)
    try:
        good, wrong = run(sealing.verify(made, LocalBlobs(folder / "blobs", lambda near: []), keys))
    finally:
        keys.close()
    if sealing.sources_root(record.salt, record.sources) != made.sources:
        wrong.append("the sources in this folder's record are not those that the manifest commits to")
    if json:
        show({"name": name, "good": not wrong, "records": good, "wrong": wrong})
    else:
        print(f"{name}: {good} of {made.dataset.records} records open and are those of the manifest's roots")
        for text in wrong:
            print(f"wrong: {text}")
    if wrong:
        raise typer.Exit(FAILED)


async def _all(folder: Path) -> list[tuple[Published, Manifest]]:
    from assay.adapters.ipfs import LocalBlobs
    from assay.publish import manifest, sealing

    records = await asyncio.to_thread(sealing.records, folder)
    if not records:
        return []
    blobs = LocalBlobs(folder / "blobs", lambda near: [])
    try:
        return [(record, manifest.read(await blobs.get(record.manifest))) for record in records]
    except (KeyError, manifest.BadManifest) as error:
        raise Trouble("a manifest is not there or damaged", str(error), "publish the dataset again: what is sealed is not sealed anew") from None


async def find(folder: Path, name: str) -> tuple[Published, Manifest]:
    """Raises Trouble when this folder has no such dataset."""
    known = {record.name: (record, made) for record, made in await _all(folder)}
    if name not in known:
        raise Trouble(f"there is no dataset {name!r}", f"{folder} has: {', '.join(known) or 'none'}", "assay data list")
    return known[name]
