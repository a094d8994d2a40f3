// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// The hashes of docs/protocol.md that the contract computes: commitment, seeds, what a seed draws, attestations.
/// tests/vectors/protocol.json holds values that assay computes independently.
library Hashes {
    function commitment(
        uint64 job,
        bytes32 parentCommitment,
        bytes32 programRoot,
        uint64 start,
        uint64 stop,
        bytes32 linkRoot,
        bytes32 checkpointHash,
        bytes32 keyId
    ) internal view returns (bytes32) {
        return sha256(
            abi.encodePacked(
                bytes1(0x13),
                block.chainid,
                address(this),
                job,
                parentCommitment,
                programRoot,
                start,
                stop,
                linkRoot,
                checkpointHash,
                keyId
            )
        );
    }

    function seed(bytes32 blockHash, uint64 segment, uint32 round) internal pure returns (bytes32) {
        return sha256(abi.encodePacked(bytes1(0x20), blockHash, segment, round));
    }

    /// Link index of the j-th unit that `seed_` draws among `steps` steps of `micros` micro-batches, in proportion to the weights.
    function unit(bytes32 seed_, uint32 j, uint64 steps, uint32 micros, uint64 microWeight, uint64 updateWeight)
        internal
        pure
        returns (uint64)
    {
        uint256 microsWeight = uint256(micros) * microWeight;
        uint256 stepWeight = microsWeight + updateWeight;
        uint256 x = uint256(sha256(abi.encodePacked(bytes1(0x21), seed_, j))) % (steps * stepWeight);
        uint256 rest = x % stepWeight;
        uint256 inStep = rest < microsWeight ? rest / microWeight : micros;
        return uint64((x / stepWeight) * (uint256(micros) + 1) + inStep);
    }

    /// Place of the i-th try among `seats` seats.
    function slot(bytes32 seed_, uint32 i, uint64 seats) internal pure returns (uint64) {
        return uint64(uint256(sha256(abi.encodePacked(bytes1(0x22), seed_, i))) % seats);
    }

    function attestation(uint64 segment, uint32 round, bool agrees, bytes32[] calldata traceRoots, address verifier, bytes32 salt)
        internal
        view
        returns (bytes32)
    {
        return
            sha256(
                abi.encodePacked(bytes1(0x23), block.chainid, address(this), segment, round, agrees, traceRoots, verifier, salt)
            );
    }

    /// Number that places the j-th opening of a verifier.
    function opening(bytes32 blockHash, uint64 segment, address verifier, uint32 j) internal pure returns (uint256) {
        return uint256(sha256(abi.encodePacked(bytes1(0x24), blockHash, segment, verifier, j)));
    }
}
