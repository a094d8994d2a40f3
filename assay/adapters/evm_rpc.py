"""One persistent HTTP connection to an EVM node, through web3.py: JSON-RPC calls whose failures say whose fault they are.

No answer, a busy node or one that lags is an `Outage` (trying again is right); a refusal by a contract is a `Refused` that carries
the raw revert data (EIP-140) for evm_abi to put in words. web3's own retries and its formatters are not used: what comes back
is plain JSON, which costs a third less time per call and is checked where it is read. Its session cache is not used either: it opens
a connection per request, and its lock stays locked for ever, for the whole process, when a task is cancelled while it waits for it.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, cast

from aiohttp import ClientError, ClientSession, ClientTimeout, ServerDisconnectedError, TCPConnector
from web3 import AsyncHTTPProvider, AsyncWeb3
from web3.exceptions import Web3Exception
from web3.types import RPCEndpoint, RPCResponse

from assay.chain import Block
from assay.ids import Digest
from assay.ports import Outage

KEEP_ALIVE = 60.0
"""Seconds that an idle connection is kept."""
REVERTED = 3
"""JSON-RPC error code of `execution reverted` (geth; anvil, reth, nethermind and erigon follow it)."""
MOST_BYTES = 64 << 20
"""Of one answer."""
BATCH = 50
"""Requests in one HTTP request; public nodes allow at least this."""


class Refused(Exception):
    """A contract reverted; `data` is what it returned (an ABI-encoded error), empty when there is none."""

    def __init__(self, message: str, data: bytes) -> None:
        super().__init__(message)
        self.data = data


class RpcError(Outage):
    """The node answered with an error that is not a revert. `code` is its JSON-RPC code."""

    def __init__(self, method: str, code: int, message: str) -> None:
        super().__init__(f"the chain node refused {method}: {message} (code {code})")
        self.code = code
        self.reason = message.lower()


class TooLong(Outage):
    """An answer of more than MOST_BYTES."""


def number(value: object) -> int:
    """A JSON-RPC quantity. Raises Outage when the node did not send one."""
    if isinstance(value, str) and value.startswith("0x"):
        try:
            return int(value, 16)
        except ValueError:
            pass
    raise Outage(f"the chain node sent {value!r} where a number was expected")


def blob(value: object, length: int | None = None) -> bytes:
    """JSON-RPC data, of `length` bytes when that is given. Raises Outage when the node did not send it."""
    if isinstance(value, str) and value.startswith("0x"):
        try:
            data = bytes.fromhex(value[2:])
        except ValueError:
            data = None
        if data is not None and length in (None, len(data)):
            return data
    raise Outage(f"the chain node sent {value!r} where {'bytes' if length is None else f'{length} bytes'} were expected")


def block_of(raw: object) -> Block:
    """A block header from JSON-RPC. Raises Outage."""
    if not isinstance(raw, dict):
        raise Outage(f"the chain node sent {raw!r} where a block was expected")
    return Block(number=number(raw.get("number")), hash=Digest(blob(raw.get("hash"), 32)), time=number(raw.get("timestamp")))


def _revert_data(error: dict[str, Any]) -> bytes:
    """Nodes put it under `data`, plain or nested."""
    data = error.get("data")
    while isinstance(data, dict):
        data = data.get("data", data.get("result"))
    if isinstance(data, str) and "0x" in data:
        try:
            return bytes.fromhex(data[data.index("0x") + 2 :])
        except ValueError:
            return b""
    return b""


def _result(method: str, answer: object) -> Any:
    """The result in a JSON-RPC answer, or the exception that its error stands for."""
    if not isinstance(answer, dict):
        return RpcError(method, 0, f"not a JSON-RPC answer: {str(answer)[:200]}")
    error = answer.get("error")
    if error is None:
        return answer.get("result")
    if not isinstance(error, dict):
        error = {"message": error}
    message, code, data = str(error.get("message", "")), error.get("code"), _revert_data(error)
    if code == REVERTED or data or "revert" in message.lower():
        return Refused(message, data)
    return RpcError(method, code if isinstance(code, int) else 0, message)


class KeepAlive(AsyncHTTPProvider):
    """web3's provider over one aiohttp session whose connections are kept, and whose answers are bounded."""

    def __init__(self, url: str, timeout: float) -> None:
        super().__init__(url, exception_retry_configuration=None)
        self._timeout = ClientTimeout(total=timeout)
        self._session: ClientSession | None = None
        self.url = url

    async def _make_request(self, method: RPCEndpoint, request_data: bytes) -> bytes:
        return await self._post(request_data)

    async def make_batch_request(self, batch_requests: list[tuple[RPCEndpoint, Any]]) -> list[RPCResponse] | RPCResponse:
        answer: Any = self.decode_rpc_response(await self._post(self.encode_batch_rpc_request(batch_requests)))
        if not isinstance(answer, list):
            return cast(RPCResponse, answer)
        rows = cast(list[dict[str, Any]], answer)
        return cast(list[RPCResponse], sorted(rows, key=lambda row: int(row["id"])))

    async def _post(self, data: bytes) -> bytes:
        try:
            return await self._post_once(data)
        except (ServerDisconnectedError, ConnectionResetError):  # a kept connection that the node has closed meanwhile
            return await self._post_once(data)

    async def _post_once(self, data: bytes) -> bytes:
        if self._session is None:
            self._session = ClientSession(timeout=self._timeout, connector=TCPConnector(keepalive_timeout=KEEP_ALIVE))
        async with self._session.post(self.url, data=data, headers={"Content-Type": "application/json"}) as answer:
            answer.raise_for_status()
            parts = bytearray()
            async for part in answer.content.iter_any():
                parts += part
                if len(parts) > MOST_BYTES:
                    raise TooLong(f"the chain node at {self.url} sent an answer of more than {MOST_BYTES} bytes")
            return bytes(parts)

    async def disconnect(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()


class Rpc:
    """`await call(method, *params)`; `close()` at the end. Safe to use from many tasks of one event loop."""

    def __init__(self, url: str, timeout: float = 10.0) -> None:
        self.url = url
        self.web3: AsyncWeb3[KeepAlive] = AsyncWeb3(KeepAlive(url, timeout))

    async def call(self, method: str, *params: object) -> Any:
        """The result. Raises Outage (RpcError when the node says why) or Refused."""
        answer = await self._ask(self.web3.provider.make_request(RPCEndpoint(method), list(params)))
        result = _result(method, answer)
        if isinstance(result, Exception):
            raise result
        return result

    async def batch(self, requests: list[tuple[str, list[object]]]) -> list[Any]:
        """One result, RpcError or Refused per request, in order, in as few round trips as BATCH allows. Raises Outage, TooLong."""
        out: list[Any] = []
        for start in range(0, len(requests), BATCH):
            part = requests[start : start + BATCH]
            answers = await self._ask(self.web3.provider.make_batch_request([(RPCEndpoint(method), params) for method, params in part]))
            if not isinstance(answers, list) or len(answers) != len(part):
                raise Outage(f"the chain node at {self.url} did not answer a batch of {len(part)} requests: {str(answers)[:200]}")
            out += [_result(method, answer) for (method, _), answer in zip(part, answers, strict=True)]
        return out

    async def _ask(self, request: Coroutine[Any, Any, Any]) -> Any:
        try:
            return await request
        except (ClientError, Web3Exception, OSError, TimeoutError, ValueError, KeyError, TypeError) as error:
            raise Outage(f"no answer from the chain node at {self.url}: {error or type(error).__name__}") from None

    async def head(self) -> Block:
        return block_of(await self.call("eth_getBlockByNumber", "latest", False))

    async def block(self, number: int) -> Block:
        """Raises Outage when there is no such block yet."""
        raw = await self.call("eth_getBlockByNumber", hex(number), False)
        if raw is None:
            raise Outage(f"block {number} does not exist yet")
        return block_of(raw)

    async def close(self) -> None:
        await self.web3.provider.disconnect()
