// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// The tree of keccak256 over the 32 words of a chunk that was shown, so that an element of it is known later from six words.
library Words {
    error BadWord(bytes32 root, bytes32 seen);

    /// node = keccak256(left, right), five levels. `chunk` has 1024 bytes.
    function root(bytes calldata chunk) internal pure returns (bytes32 top) {
        assembly ("memory-safe") {
            let at := mload(0x40)
            calldatacopy(at, chunk.offset, 1024)
            for { let size := 1024 } gt(size, 32) { size := shr(1, size) } {
                for { let i := 0 } lt(i, size) { i := add(i, 64) } {
                    mstore(add(at, shr(1, i)), keccak256(add(at, i), 64))
                }
            }
            top := mload(at)
        }
    }

    /// Bits of the element of `width` bytes, little-endian, at byte `spot` of the chunk. Reverts unless `word` leads to the root.
    function bits(bytes32 root_, uint256 spot, uint256 width, bytes32[6] calldata word) internal pure returns (uint64) {
        (bytes32 seen, uint256 place) = (word[0], spot / 32);
        for (uint256 i = 1; i < 6; ++i) {
            seen = place & 1 == 1 ? keccak256(abi.encode(word[i], seen)) : keccak256(abi.encode(seen, word[i]));
            place >>= 1;
        }
        if (seen != root_) revert BadWord(root_, seen);
        return little(word[0] << 8 * (spot % 32), width);
    }

    /// The number of `width` bytes, the first of them the lowest, that begins `data`; at most 8.
    function little(bytes32 data, uint256 width) internal pure returns (uint64 out) {
        assembly ("memory-safe") {
            for { let i := 0 } lt(i, width) { i := add(i, 1) } { out := or(out, shl(shl(3, i), byte(i, data))) }
        }
    }
}
