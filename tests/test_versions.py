"""Documents and contracts say which rules they follow; a program that does not know these leaves them alone."""

from __future__ import annotations

import asyncio

import pytest
from eth_abi import abi

from assay.adapters import evm, evm_abi
from assay.adapters.evm import EvmReader, NoContract
from assay.adapters.memory_blobs import BlobNet, MemoryBlobs
from assay.chain import Block
from assay.codec import encode
from assay.hands import load_job
from assay.ids import Address, Digest, JobId, PeerId
from assay.job import FORMAT
from assay.ports import Outage
from assay.runtime import Fault, TaskFailed
from assay.tasks import LoadJob
from tests.test_keyservice import document

JOBS = Address("0x" + "7" * 40)


@pytest.mark.parametrize("known", [True, False])
def test_a_job_document_of_another_format_is_refused(known: bool) -> None:
    async def body() -> None:
        blobs = MemoryBlobs(BlobNet(), PeerId("me"))
        spec = document(format=FORMAT if known else "assay-job/2")
        task = LoadJob(job=JobId(1), spec=await blobs.put(encode(spec)))
        if known:
            assert (await load_job(blobs, task)).spec == spec
            return
        with pytest.raises(TaskFailed, match="has the format 'assay-job/2', this program reads assay-job/1") as error:
            await load_job(blobs, task)
        assert error.value.fault is Fault.PEER

    asyncio.run(body())


class Node:
    """A chain node that answers what a contract of some version says of itself, and nothing else."""

    url = "here"

    def __init__(self, version: str) -> None:
        self.said = abi.encode(
            ["bytes1", "string", "string", "uint256", "address", "bytes32", "uint256[]"], [b"\x0f", "Assay", version, 1, JOBS, b"", []]
        )

    async def block(self, number: int) -> Block:
        return Block(number=number, hash=Digest(bytes(32)), time=0)

    async def head(self) -> Block:
        return await self.block(9)

    async def call(self, method: str, *params: object) -> str:
        if method == "eth_chainId":
            return "0x1"
        (asked, _) = params
        assert isinstance(asked, dict)
        if asked["data"] == "0x" + evm_abi.encode("jobs", "eip712Domain").hex():
            return "0x" + self.said.hex()
        raise Outage("not asked for in this test")


def test_a_contract_of_other_rules_is_left_alone() -> None:
    with pytest.raises(NoContract, match="has version '2', this program speaks 1"):
        asyncio.run(EvmReader._discover(Node("2"), JOBS))  # type: ignore[arg-type]
    with pytest.raises(Outage):  # it goes on to ask for the other contracts
        asyncio.run(EvmReader._discover(Node(evm.VERSION), JOBS))  # type: ignore[arg-type]
