// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Test} from "../utils/Test.sol";

/// Blocks of results that are compared by a digest over all blocks so far (tools/softfloat_vectors.py): one block, or as many as
/// number SOFTFLOAT_COUNT of `counts` in tests/vectors/softfloat.json says.
abstract contract Blocks is Test {
    string internal constant VECTORS = "../tests/vectors/softfloat.json";

    function _count(string memory json) internal view returns (uint256) {
        return vm.parseJsonUintArray(json, ".counts")[vm.envOr("SOFTFLOAT_COUNT", uint256(0))];
    }

    /// Room for the last digest and `size` results.
    function _block(uint256 size) internal pure returns (bytes memory hashed) {
        hashed = new bytes(64 + 8 * size); // a word more than is hashed, for the last result's
        assembly ("memory-safe") {
            mstore(hashed, sub(mload(hashed), 32))
        }
    }

    /// Writes the low 64 bits of result `i`; results come in ascending order.
    function _put(bytes memory hashed, uint256 i, uint256 result) internal pure {
        assembly ("memory-safe") {
            mstore(add(add(hashed, 64), mul(i, 8)), shl(192, result))
        }
    }

    /// Ends a block: its digest stands where the next block is hashed with it.
    function _close(bytes memory hashed) internal pure {
        bytes32 digest = sha256(hashed);
        assembly ("memory-safe") {
            mstore(add(hashed, 32), digest)
        }
    }

    function _compare(string memory json, string memory kind, string memory name, bytes memory hashed) internal view {
        bytes32 digest;
        assembly ("memory-safe") {
            digest := mload(add(hashed, 32))
        }
        bytes32[] memory expected = vm.parseJsonBytes32Array(json, string.concat(".", kind, ".", name));
        assertEq(digest, expected[vm.envOr("SOFTFLOAT_COUNT", uint256(0))], name);
    }

    /// Number `i` of assay.exact.inputs.words(seed, ..): splitmix64.
    function _word(uint256 seed, uint256 i) internal pure returns (uint256 z) {
        unchecked {
            uint256 low = type(uint64).max;
            z = (seed + (i + 1) * 0x9e3779b97f4a7c15) & low;
            z = ((z ^ (z >> 30)) * 0xbf58476d1ce4e5b9) & low;
            z = ((z ^ (z >> 27)) * 0x94d049bb133111eb) & low;
            z ^= z >> 31;
        }
    }
}
