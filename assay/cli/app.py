"""The commands of `assay`, put together. Each lives with its like in a module of this folder."""

from __future__ import annotations

from typing import Annotated

import typer

from assay.cli import (
    answering,
    audit,
    bounty,
    certificate,
    check,
    data,
    dispute,
    doctor,
    economics,
    federated,
    infer,
    jobs,
    keys,
    licences,
    net,
    peers,
    prices,
    result,
    roles,
    sim,
)  # fmt: skip
from assay.cli.common import group

app = group(
    "Training that is proven, not trusted: buy training steps, sell them, or check them.\n\n"
    "[dim]Exit codes: 0 done, 1 failed, 2 asked wrongly, 3 the environment is in the way, 4 a contract refused.[/dim]"
)


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        print(f"assay {version('assay')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")] = False,
) -> None: ...


app.command()(net.demo)
app.add_typer(net.app, name="net")
app.add_typer(keys.app, name="keys")
for name, app_of_role in roles.apps().items():
    app.add_typer(app_of_role, name=name)
app.command()(jobs.submit)
jobs.app.command()(audit.audit)
jobs.app.command()(result.result)
jobs.app.command()(certificate.certificate)
app.add_typer(jobs.app, name="job")
for command in (licences.grant, licences.revoke, licences.admit, licences.revenue, licences.readers):
    data.app.command()(command)
app.add_typer(data.app, name="data")
app.add_typer(certificate.app, name="certificate")
app.add_typer(federated.app, name="federated")
app.add_typer(bounty.app, name="bounty")
app.add_typer(dispute.app, name="dispute")
app.command()(check.check)
app.command()(peers.peers)
app.command()(prices.prices)
app.command()(infer.infer)
app.add_typer(answering.app, name="receipt")
app.command()(jobs.run)
app.command("economics")(economics.economy)
app.command()(doctor.doctor)
app.command()(sim.sim)
