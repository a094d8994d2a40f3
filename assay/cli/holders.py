"""Key holders by their accounts, as an owner of data names them: `assay data publish --holder A --holder B --holder C --threshold 2`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from assay.cli.common import USAGE, Settings, Trouble, run

if TYPE_CHECKING:
    from assay.publish.sealing import Service


def of_accounts(where: Settings, named: list[str], threshold: int | None) -> Service:
    """The key holders, as they are registered on chain, for `sealing.publish`. Raises Trouble."""
    from assay.adapters.evm import EvmReader
    from assay.client import find_holders
    from assay.ids import address
    from assay.job import MOST_HOLDERS
    from assay.publish.sealing import Service

    try:
        accounts = [address(text) for text in named]
    except ValueError as error:
        raise Trouble("a key holder's account is malformed", str(error), code=USAGE) from None
    needed = threshold if threshold is not None else len(accounts) // 2 + 1
    if len(set(accounts)) != len(accounts) or not needed <= len(accounts) <= MOST_HOLDERS:
        why = f"{needed} of {len(accounts)} were asked for; at most {MOST_HOLDERS} different ones can be"
        raise Trouble("these key holders cannot share a key", why, "--holder A --holder B --holder C --threshold 2", USAGE)

    async def look() -> Any:
        reader: Any = await EvmReader.open(where.rpc, where.contract)
        try:
            return await find_holders(reader, accounts, needed)
        finally:
            await reader.close()

    try:
        found = run(look())
    except LookupError as error:
        raise Trouble("a key holder cannot be used", str(error), "its node has to run once: assay keyservice start") from None
    return Service(*found)
