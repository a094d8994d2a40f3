"""Between the chain's vocabulary (assay.chain) and the EVM's bytes: calls to calldata, logs to events, reverts to words.

The ABI is read from assay/_data/contracts, which the contracts' build writes. Each event class of the vocabulary must have an event
of its name whose arguments are its fields, in snake case (but for RENAMED), or be one of those that a log of SPREAD stands for; that is
checked when this module is loaded, so a contract that has moved away from the vocabulary is noticed before anything is decoded. Names:
those of FILES. The moves of disputes are evm_moves'. ABI: docs.soliditylang.org, abi-spec. One file because it is one table, read both
ways.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from importlib import resources
from typing import Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from eth_abi import abi
from eth_abi.exceptions import DecodingError, EncodingError
from eth_utils.abi import collapse_if_tuple, event_abi_to_log_topic, function_abi_to_4byte_selector

from assay import chain, cid
from assay.adapters.evm_spread import SHARE, SPREAD
from assay.adapters.refusals import explain, snake
from assay.chain import AnyCall, AnyChainEvent, Outcome
from assay.codec import Message
from assay.dispute.moves import Phase
from assay.ids import Address, Cid

FILES = {
    "jobs": "Jobs", "segments": "Segments", "checks": "Checks", "escrow": "Escrow", "appeals": "Appeals", "stakes": "Stakes", "token": "TestToken",
    "disputes": "Disputes", "descent": "Descent", "verdict": "Verdict", "clear_leaf": "ClearLeaf", "table_leaf": "TableLeaf",
    "datasets": "Datasets",
    "bounties": "Bounties", "receipts": "Receipts", "takeovers": "Takeovers", "sureties": "Sureties", "showings": "Showings",
    "federated": "Federated",
}  # fmt: skip
RENAMED = {"Moved": "DisputeMoved", "id": "dispute", "stand": "phase"}
"""What Disputes calls otherwise than the vocabulary."""
AWAITED = {"phase": 0, "asserting": 8, "due": 16}
"""Fields of a DisputeMoved in the one word that its log has, from which bit up. Behind that word stand a move's calldata (moved_calldata)."""
PHASES = (None, *Phase, None)
"""By number of contracts/src/types/DisputeTypes.sol: Stand. NONE and PAID are no phases of the game."""
OUTCOMES = (None, Outcome.ASSERTER_WON, Outcome.ASSERTER_LOST, Outcome.CONCEDED, Outcome.VOID)
T = TypeVar("T", bound=Message)
ERROR_STRING, PANIC = bytes.fromhex("08c379a0"), bytes.fromhex("4e487b71")


class BadLog(ValueError):
    """A log that the contracts cannot have written: the node's fault."""


@functools.cache
def artifact(contract: str) -> dict[str, Any]:
    """`abi` (list) and `bytecode` (hex) of a contract, by one of the names in FILES."""
    path = resources.files("assay") / "_data" / "contracts" / f"{FILES[contract]}.json"
    loaded = json.loads(path.read_text())
    if not isinstance(loaded, dict):
        raise ValueError(f"{path} is not a contract artifact")
    return loaded


def _entries(contract: str, kind: str) -> list[dict[str, Any]]:
    return [entry for entry in artifact(contract)["abi"] if entry["type"] == kind]


def _types(inputs: list[dict[str, Any]]) -> list[str]:
    return [collapse_if_tuple(item) for item in inputs]


# ---- calls ---------------------------------------------------------------------------------------------------------------


def _plain(value: object) -> Any:
    """A message as the tuple of its fields, in the order of the Solidity struct."""
    if isinstance(value, chain.Terms):
        return tuple(cid.to_bytes(value.spec) if name == "spec" else _plain(getattr(value, name)) for name in value.__struct_fields__)
    if isinstance(value, Message):
        return tuple(_plain(getattr(value, name)) for name in value.__struct_fields__)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


_CALLS: dict[type[Message], tuple[str, str, Callable[[Any], tuple[object, ...]]]] = {
    chain.Register: ("stakes", "register", lambda c: (c.encryption_key, c.peer)),
    chain.Deposit: ("stakes", "deposit", lambda c: (c.amount,)),
    chain.TakeSeat: ("stakes", "takeSeat", lambda c: ()),
    chain.LeaveSeat: ("stakes", "leaveSeat", lambda c: (c.seat,)),
    chain.Unbond: ("stakes", "unbond", lambda c: (c.amount,)),
    chain.WithdrawStake: ("stakes", "withdrawStake", lambda c: ()),
    chain.PostJob: ("jobs", "post", lambda c: (c.terms,)),
    chain.FundJob: ("jobs", "fund", lambda c: (c.job, c.amount)),
    chain.CancelJob: ("jobs", "cancel", lambda c: (c.job,)),
    chain.CloseJob: ("jobs", "close", lambda c: (c.job,)),
    chain.Assign: ("jobs", "assign", lambda c: (c.offer, c.signature)),
    chain.Activate: ("jobs", "activate", lambda c: (c.segment,)),
    chain.Lapse: ("jobs", "lapse", lambda c: (c.segment,)),
    chain.Commit: (
        "jobs",
        "commit",
        lambda c: (c.segment, c.stop, c.link_root, c.end_root, c.proof, cid.to_bytes(c.checkpoint), c.key_id, c.key_envelope),
    ),
    chain.Draw: ("jobs", "draw", lambda c: (c.segment,)),
    chain.Redraw: ("jobs", "redraw", lambda c: (c.segment,)),
    chain.ShowChunk: ("jobs", "show", lambda c: (c.segment, c.proof)),
    chain.ReleaseKeys: ("jobs", "release", lambda c: (c.segment, c.releases)),
    chain.Serve: ("jobs", "served", lambda c: (c.segment, c.verifiers, c.signatures)),
    chain.Attest: ("jobs", "attest", lambda c: (c.segment, c.seals)),
    chain.RevealAll: ("jobs", "reveal", lambda c: (c.segment, c.reveals)),
    chain.Spread: ("jobs", "spread", lambda c: (c.segment, c.round, c.seals)),
    chain.CloseReveals: ("jobs", "closeReveals", lambda c: (c.segment,)),
    chain.Disclose: ("jobs", "disclose", lambda c: (c.segment, c.round, c.verifier, c.trace_roots, c.salt)),
    chain.Decide: ("jobs", "decide", lambda c: (c.segment,)),
    chain.Settle: ("jobs", "settle", lambda c: (c.segment,)),
    chain.VoidSegment: ("jobs", "voidSegment", lambda c: (c.segment,)),
    chain.ClearBond: ("jobs", "clearBond", lambda c: (c.segment,)),
    chain.Withdraw: ("jobs", "withdraw", lambda c: ()),
    chain.Batch: ("jobs", "batch", lambda c: (tuple(calldata(call)[1] for call in c.calls),)),
    chain.SealDispute: ("disputes", "seal", lambda c: (c.segment, c.digest)),
    chain.PayDispute: ("disputes", "pay", lambda c: (c.dispute,)),
    chain.ClearDisputed: ("disputes", "clear", lambda c: (c.segment,)),
    chain.WithdrawDisputes: ("disputes", "withdraw", lambda c: ()),
    chain.PublishDataset: (
        "datasets",
        "publish",
        lambda c: (cid.to_bytes(c.cid), c.manifest, c.root, c.records, c.key_service, c.owners, c.shares),
    ),
    chain.GrantLicence: ("datasets", "grant", lambda c: (c.dataset, c.who, c.price, c.uses, c.until, c.purposes)),
    chain.RevokeLicence: ("datasets", "revoke", lambda c: (c.dataset, c.who)),
    chain.AdmitVerifiers: ("datasets", "admit", lambda c: (c.dataset, c.verifiers)),
    chain.PostLicensed: ("jobs", "postLicensed", lambda c: (c.terms, c.uses)),
    chain.CollectUse: ("datasets", "collect", lambda c: (c.job, c.most)),
    chain.RefundUse: ("datasets", "refund", lambda c: (c.job,)),
    chain.WithdrawRevenue: ("datasets", "withdraw", lambda c: (c.dataset,)),
    chain.Entrust: ("takeovers", "entrust", lambda c: (c.spec_digest, c.scheduler, c.patience, c.providers)),
    chain.AssignListed: ("takeovers", "assign", lambda c: (c.offer, c.signature, c.providers)),
    chain.OfferBounty: ("bounties", "offer", lambda c: (c.terms,)),
    chain.BeginBounty: ("bounties", "begin", lambda c: (c.bounty, c.last)),
    chain.ShowBounty: ("bounties", "show", lambda c: (c.bounty, c.terms, c.segment, c.trained, c.value, c.path)),
    chain.CollectBounty: ("bounties", "collect", lambda c: (c.bounty, c.segments)),
    chain.ReturnBounty: ("bounties", "giveBack", lambda c: (c.bounty,)),
    chain.WithdrawBounties: ("bounties", "withdraw", lambda c: ()),
    chain.OfferSurety: ("sureties", "offer", lambda c: (c.per_job, c.each, c.notice)),
    chain.DepositSurety: ("sureties", "deposit", lambda c: (c.amount,)),
    chain.WithdrawSurety: ("sureties", "withdraw", lambda c: (c.amount,)),
    chain.VouchJob: ("sureties", "vouch", lambda c: (c.job,)),
    chain.ContestCheckpoint: ("sureties", "object", lambda c: (c.segment,)),
    chain.ShowCheckpointKey: ("sureties", "show", lambda c: (c.segment, c.checkpoint, c.key)),
    chain.ClaimSurety: ("sureties", "claim", lambda c: (c.segment,)),
    chain.ReturnSurety: ("sureties", "giveBack", lambda c: (c.job,)),
    chain.PriceRecords: ("showings", "setPrice", lambda c: (c.dataset, c.price)),
    chain.ClaimShowing: ("showings", "claim", lambda c: (c.dispute, c.head)),
    chain.WithdrawShowings: ("showings", "withdraw", lambda c: (c.dataset,)),
}


class _Function(NamedTuple):
    selector: bytes
    inputs: list[str]
    outputs: list[str]


@functools.cache
def _function(contract: str, name: str) -> _Function:
    (entry,) = [entry for entry in _entries(contract, "function") if entry["name"] == name]
    return _Function(function_abi_to_4byte_selector(entry), _types(entry["inputs"]), _types(entry["outputs"]))  # type: ignore[arg-type]


def selector(contract: str, function: str) -> bytes:
    """The first four bytes of its calldata."""
    return _function(contract, function).selector


def encode(contract: str, function: str, *arguments: object) -> bytes:
    """Calldata. Raises ValueError when the arguments do not fit."""
    found = _function(contract, function)
    try:
        return found.selector + abi.encode(found.inputs, [_plain(argument) for argument in arguments])
    except (EncodingError, OverflowError) as error:
        raise ValueError(f"{function} cannot be called like this: {error}") from None


def decode_result(contract: str, function: str, data: bytes) -> Any:
    """What a view returned (a tuple when it returns several values). Raises BadLog."""
    try:
        values = abi.decode(_function(contract, function).outputs, data)
    except (DecodingError, OverflowError, UnicodeDecodeError) as error:
        raise BadLog(f"{function} cannot have returned {data.hex()[:80]!r}: {error}") from None
    return values[0] if len(values) == 1 else values


def calldata(call: AnyCall) -> tuple[str, bytes]:
    """(contract, calldata) of a call that is no move of a dispute. Raises ValueError when a field does not fit."""
    contract, function, arguments = _CALLS[type(call)]
    return contract, encode(contract, function, *arguments(call))


@functools.cache
def _calls() -> dict[tuple[str, bytes], tuple[type[Message], list[str]]]:
    """The calls by contract and selector, with the ABI types of their arguments."""
    found = {}
    for kind, (contract, name, _) in _CALLS.items():
        function = _function(contract, name)
        found[contract, function.selector] = (kind, [item.replace("string", "bytes") for item in function.inputs])
    return found


def decode_call(contract: str, data: bytes) -> AnyCall | None:
    """The call that calldata stands for; None for what is none of ours, or is malformed. Of a batch, those calls that are ours."""
    kind, inputs = _calls().get((contract, data[:4]), (None, []))
    if kind is None or len(inputs) != len(kind.__struct_fields__):
        return None
    hints = get_type_hints(kind)
    try:
        values = abi.decode(inputs, data[4:])
        if kind is chain.Batch:
            calls = [decode_call(contract, one) for one in values[0][: chain.MOST_CALLS]]
            return chain.Batch(calls=tuple(call for call in calls if isinstance(call, chain.BatchedCall)))
        fields = {name: _converter(hints[name])(value) for name, value in zip(kind.__struct_fields__, values, strict=True)}
    except (DecodingError, OverflowError):
        return None
    return kind(**fields)  # type: ignore[return-value]


# ---- events --------------------------------------------------------------------------------------------------------------


def _cid(raw: bytes) -> Cid:
    """The contract checks the length alone; what is no CID stays visible and opens nowhere."""
    try:
        return cid.from_bytes(raw)
    except cid.BadCid:
        return Cid(f"invalid-{raw.hex()}")


def _named(names: tuple[Any, ...], value: int) -> Any:
    if value >= len(names) or names[value] is None:
        raise BadLog(f"a log with the number {value}, which stands for nothing")
    return names[value]


def _converter(hint: Any) -> Callable[[Any], Any]:
    """From what eth_abi gives to a field of type `hint`."""
    if hint in (Phase, Outcome):
        return functools.partial(_named, PHASES if hint is Phase else OUTCOMES)
    if hint is Address:
        return lambda value: Address(value.lower())
    if hint is Cid:
        return _cid
    if getattr(hint, "__supertype__", hint) is str:
        return lambda value: value.rstrip(b"\0").decode("utf-8", "replace")  # `bytes32` is padded
    if get_origin(hint) is tuple:
        item = _converter(get_args(hint)[0])
        return lambda value: tuple(item(entry) for entry in value)
    if isinstance(hint, type) and issubclass(hint, Message):
        hints = get_type_hints(hint)
        fields = [(name, _converter(hints[name])) for name in hint.__struct_fields__]
        return lambda value: hint(**{name: convert(entry) for (name, convert), entry in zip(fields, value, strict=True)})
    return lambda value: value


class _Event(NamedTuple):
    kind: type[Message] | None
    """None: one of SPREAD."""
    contract: str
    name: str
    indexed: list[tuple[str, str, Callable[[Any], Any]]]
    """(field, ABI type, converter)."""
    plain: list[tuple[str, str, Callable[[Any], Any]]]


def _check_struct(kind: type[Message], item: dict[str, Any]) -> None:
    names = tuple(snake(component["name"]) for component in item["components"])
    if names != kind.__struct_fields__:
        raise ImportError(f"the ABI's {kind.__name__} has the fields {names}, the vocabulary's {kind.__struct_fields__}")
    hints = get_type_hints(kind)
    for component in item["components"]:
        if component["type"] in ("tuple", "tuple[]"):
            hint = hints[snake(component["name"])]
            _check_struct(hint if component["type"] == "tuple" else get_args(hint)[0], component)


def _spread(contract: str, entry: dict[str, Any]) -> _Event:
    hints = {"address": Address, "address[]": tuple[Address, ...]}
    lists: tuple[list[Any], list[Any]] = ([], [])
    for item in entry["inputs"]:
        lists[item["indexed"]].append((item["name"], item["type"], _converter(hints.get(item["type"], int))))
    return _Event(None, contract, entry["name"], lists[1], lists[0])


@functools.cache
def events() -> dict[bytes, _Event]:
    """Decoders by topic 0. Raises ImportError when ABI and vocabulary do not fit together."""
    kinds = {kind.__name__: kind for kind in get_args(AnyChainEvent)}
    found: dict[bytes, _Event] = {}
    for contract in ("jobs", "stakes", "disputes", "datasets", "bounties", "takeovers", "sureties", "showings"):
        renamed = RENAMED if contract == "disputes" else {}
        for entry in _entries(contract, "event"):
            kind = kinds.get(renamed.get(entry["name"], entry["name"]))
            if entry["name"] in SPREAD:
                found[event_abi_to_log_topic(entry)] = _spread(contract, entry)  # type: ignore[arg-type]
                continue
            if kind is None:  # nothing that a node reacts to
                continue
            hints = get_type_hints(kind)
            names = [renamed.get(item["name"], snake(item["name"])) for item in entry["inputs"]]
            said = {part for name in names for part in (AWAITED if name == "awaited" else (name,))}
            if said != set(hints) - {"block", "time", "index"}:
                raise ImportError(f"the ABI's event {kind.__name__} has the arguments {names}, which are not the vocabulary's fields")
            lists: tuple[list[Any], list[Any]] = ([], [])
            for item, name in zip(entry["inputs"], names, strict=True):
                if item["type"] == "tuple":
                    _check_struct(hints[name], item)
                # `string` is decoded as the bytes it is: nobody's broken UTF-8 may stop a reader
                lists[item["indexed"]].append((name, collapse_if_tuple(item).replace("string", "bytes"), _converter(hints.get(name))))
            found[event_abi_to_log_topic(entry)] = _Event(kind, contract, entry["name"], lists[1], lists[0])  # type: ignore[arg-type]
    told = {kind for event in found.values() for kind in ((event.kind,) if event.kind else SPREAD[event.name][0])}
    missing = set(kinds) - {kind.__name__ for kind in told}
    if missing:
        raise ImportError(f"the ABI has no event for {', '.join(sorted(missing))}")
    return found


def decode_event(contract: str, name: str, topics: list[bytes], data: bytes) -> dict[str, Any] | None:
    """Arguments of an event of a contract by their Solidity names, structs as tuples; None for another event. Raises BadLog."""
    (entry,) = [entry for entry in _entries(contract, "event") if entry["name"] == name]
    if not topics or topics[0] != event_abi_to_log_topic(entry):  # type: ignore[arg-type]
        return None
    plain, indexed = ([item for item in entry["inputs"] if item["indexed"] is kind] for kind in (False, True))
    try:
        values = [*zip(plain, abi.decode(_types(plain), data), strict=True)]
        values += [(item, abi.decode([item["type"]], topic)[0]) for item, topic in zip(indexed, topics[1:], strict=True)]
    except (DecodingError, OverflowError, ValueError) as error:
        raise BadLog(f"a log of {name} that does not decode: {error}") from None
    return {item["name"]: value for item, value in values}


def struct(kind: type[T], value: tuple[Any, ...]) -> T:
    """A message from a Solidity struct with its fields."""
    found: T = _converter(kind)(value)
    return found


def decode_log(contract: str, topics: list[bytes], data: bytes, block: int, time: int, index: int) -> list[AnyChainEvent]:
    """The events of a log that `contract` wrote, `index` the log's place in its block; none for what is not in the vocabulary. Raises
    BadLog."""
    event = events().get(topics[0]) if topics else None
    if event is None or event.contract != contract:
        return []
    if len(topics) != len(event.indexed) + 1:
        raise BadLog(f"a log of {event.name} with {len(topics)} topics")
    try:
        plain = abi.decode([abi_type for _, abi_type, _ in event.plain], data)
        indexed = [abi.decode([abi_type], topic)[0] for (_, abi_type, _), topic in zip(event.indexed, topics[1:], strict=True)]
    except (DecodingError, OverflowError) as error:
        raise BadLog(f"a log of {event.name} that does not decode: {error}") from None
    values = [*zip(event.plain, plain, strict=True), *zip(event.indexed, indexed, strict=True)]
    fields = {name: convert(value) for (name, _, convert), value in values}
    if "awaited" in fields:
        word = fields.pop("awaited")
        fields |= {"phase": _named(PHASES, word & 0xFF), "asserting": word >> AWAITED["asserting"] & 0xFF != 0, "due": word >> AWAITED["due"]}
    try:
        told = [(event.kind, fields)] if event.kind else SPREAD[event.name][1](**fields)
    except ValueError as error:
        raise BadLog(f"a log of {event.name}: {error}") from None
    if len(told) > SHARE:
        raise BadLog(f"a log of {event.name} that stands for {len(told)} events")
    return [kind(block=block, time=time, index=index * SHARE + at, **one) for at, (kind, one) in enumerate(told)]  # type: ignore[misc]


@functools.cache
def topic(kind: type[Message]) -> bytes:
    """Topic 0 of an event of the vocabulary that has a log of its own."""
    return next(found for found, event in events().items() if event.kind is kind)


def moved_calldata(data: bytes) -> bytes:
    """What the log of a DisputeMoved holds beside it: the move's calldata, empty when that is its transaction's own. Raises BadLog."""
    if len(data) < 32:
        raise BadLog(f"a log of a move with {len(data)} bytes")
    return data[32:]


# ---- reverts -------------------------------------------------------------------------------------------------------------


@functools.cache
def _errors() -> dict[bytes, tuple[str, list[str], list[str]]]:
    """(name, argument names, ABI types) by selector, of all contracts."""
    found: dict[bytes, tuple[str, list[str], list[str]]] = {}
    for contract in FILES:
        for entry in _entries(contract, "error"):
            names = [item["name"] or f"argument {i}" for i, item in enumerate(entry["inputs"])]
            found.setdefault(function_abi_to_4byte_selector(entry), (entry["name"], names, _types(entry["inputs"])))  # type: ignore[arg-type]
    return found


def explain_revert(data: bytes, message: str) -> str:
    """Revert data in plain words; `message` is the node's own, used when the data say nothing."""
    selector, rest = data[:4], data[4:]
    try:
        if selector == ERROR_STRING:
            return str(abi.decode(["bytes"], rest)[0].decode("utf-8", "replace"))
        if selector == PANIC:
            return f"the contract failed an internal check (Panic 0x{abi.decode(['uint256'], rest)[0]:02x})"
        if selector in _errors():
            name, names, types = _errors()[selector]
            values = [value.lower() if t == "address" else value for t, value in zip(types, abi.decode(types, rest), strict=True)]
            return explain(name, **dict(zip(names, values, strict=True)))
    except (DecodingError, OverflowError):
        pass
    return f"refused without a known reason: {message or 'no message'}" + (f" (data 0x{data.hex()[:80]})" if data else "")
