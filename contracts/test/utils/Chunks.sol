// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// The word of a chunk that holds an element, with what leads from it to the root of dispute/Words.sol.
library Chunks {
    function word(bytes memory chunk, uint256 spot) internal pure returns (bytes32[6] memory out) {
        bytes32[] memory row = new bytes32[](32);
        for (uint256 i = 0; i < 32; ++i) {
            bytes32 w;
            assembly { w := mload(add(add(chunk, 32), mul(i, 32))) }
            row[i] = w;
        }
        uint256 place = spot / 32;
        out[0] = row[place];
        for (uint256 level = 1; level < 6; ++level) {
            out[level] = row[place ^ 1];
            place /= 2;
            for (uint256 i = 0; i < 32 >> level; ++i) {
                row[i] = keccak256(abi.encode(row[2 * i], row[2 * i + 1]));
            }
        }
    }
}
