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
        returns (bytes32 hash)
    {
        assembly ("memory-safe") {
            let free := mload(0x40)
            mstore8(free, 0x23)
            mstore(add(free, 1), chainid())
            mstore(add(free, 33), shl(96, address()))
            mstore(add(free, 53), or(shl(192, segment), or(shl(160, round), shl(152, agrees))))
            let size := shl(5, traceRoots.length)
            calldatacopy(add(free, 66), traceRoots.offset, size)
            let rest := add(add(free, 66), size)
            mstore(rest, shl(96, verifier))
            mstore(add(rest, 20), salt)
            if iszero(staticcall(gas(), 2, free, add(118, size), 0, 32)) { revert(0, 0) }
            hash := mload(0)
        }
    }

    /// Number that names the chunk which the provider of an unserved segment is to show.
    function chunk(bytes32 blockHash, uint64 segment) internal pure returns (uint256) {
        return uint256(sha256(abi.encodePacked(bytes1(0x26), blockHash, segment)));
    }

    /// keccak256 of words, one after another.
    function words(bytes32[] calldata row) internal pure returns (bytes32 hash) {
        assembly ("memory-safe") {
            let free := mload(0x40)
            calldatacopy(free, row.offset, shl(5, row.length))
            hash := keccak256(free, shl(5, row.length))
        }
    }

    /// Number that places the j-th opening of a verifier.
    function opening(bytes32 blockHash, uint64 segment, address verifier, uint32 j) internal view returns (uint256 place) {
        assembly ("memory-safe") {
            let free := mload(0x40)
            mstore8(free, 0x24)
            mstore(add(free, 1), blockHash)
            mstore(add(free, 33), or(shl(192, segment), shl(32, verifier)))
            mstore(add(free, 61), shl(224, j))
            if iszero(staticcall(gas(), 2, free, 65, 0, 32)) { revert(0, 0) }
            place := mload(0)
        }
    }
}
