"""`assay keyservice surety`: what a key service puts up for keys that it does not release (contract Sureties)."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from assay.chain import DepositSurety, OfferSurety, WithdrawSurety
from assay.cli.common import TOKEN, USAGE, Contract, Data, Json, Rpc, Settings, Trouble, money, run, settings, show
from assay.cli.ordering import account, events, perform

if TYPE_CHECKING:
    from assay.sureties import Surety

NOTICE = 600
"""Seconds, unless another notice is named: finality, and a node that starts again."""


def surety(
    per_job: Annotated[float | None, typer.Option("--per-job", min=0, help="Tokens behind each job that it serves from now on.")] = None,
    each: Annotated[float | None, typer.Option("--each", min=0, help="Tokens at most for one segment; else all of --per-job.")] = None,
    notice: Annotated[int, typer.Option("--notice", min=1, help="Seconds that a job must give it to serve drawn verifiers.")] = NOTICE,
    add: Annotated[float | None, typer.Option("--add", min=0, help="Tokens to deposit.")] = None,
    take: Annotated[float | None, typer.Option("--take", min=0, help="Tokens to take back of what is behind no job.")] = None,
    rpc: Rpc = None, contract: Contract = None, data: Data = None, json: Json = False,
) -> None:  # fmt: skip
    """Puts up money for providers whose verifiers this key service keeps their keys from; without options, shows what stands.

    The node vouches by itself for jobs whose envelopes have all opened.

    Example: [bold]assay keyservice surety --per-job 50 --each 10 --add 500[/bold]
    """
    if each is not None and per_job is None:
        raise Trouble("what is put up for a job is not named", "--each is a part of it", "--per-job TOKENS --each TOKENS", USAGE)
    where = settings(rpc, contract, None, data, "keyservice")

    async def work() -> Surety:
        if add:
            await perform(where, DepositSurety(amount=round(add * TOKEN)))
        if per_job:
            most = round(per_job * TOKEN)
            await perform(where, OfferSurety(per_job=most, each=round(each * TOKEN) if each is not None else most, notice=notice))
        if take:
            await perform(where, WithdrawSurety(amount=round(take * TOKEN)))
        return await _stands(where)

    found = run(work())
    if json:
        show(asdict(found))
        return
    if not found.per_job:
        print("nothing is offered: jobs are served without a surety (assay keyservice surety --per-job TOKENS --add TOKENS)")
    else:
        print(f"{money(found.per_job)} tokens behind each job, {money(found.each)} at most for a segment; {found.notice} s to release keys in")
    print(f"free {money(found.free)}, paid to providers so far {money(found.paid)}")
    for job, left in found.behind.items():
        print(f"  job {job:<6} {money(left):>14} stand behind its keys")


async def _stands(where: Settings) -> Surety:
    from assay.sureties import Sureties

    known = Sureties()
    known.feed(await events(where))
    return known.of(account(where))
