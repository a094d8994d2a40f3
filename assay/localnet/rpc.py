"""JSON-RPC over the standard library, for the few calls that are made before or beside a node: a local chain's own, and `assay doctor`'s."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from assay.ports import Outage

MAX_ANSWER = 8 << 20


class RpcRefused(Exception):
    """The node answered with an error."""


def call(url: str, method: str, *params: object, timeout: float = 5.0) -> Any:
    """The result of one call. Raises Outage when nobody answers sensibly, RpcRefused when the node says no."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    try:
        request = urllib.request.Request(url, body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=timeout) as reply:
            answer = json.loads(reply.read(MAX_ANSWER))
    except (OSError, ValueError) as error:
        raise Outage(f"{url} does not answer: {getattr(error, 'reason', error)}") from None
    if not isinstance(answer, dict) or ("result" not in answer and "error" not in answer):
        raise Outage(f"{url} does not speak JSON-RPC")
    if "error" in answer:
        raise RpcRefused(str(answer["error"].get("message", answer["error"])))
    return answer["result"]
