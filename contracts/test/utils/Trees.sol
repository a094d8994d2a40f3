// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Merkle} from "../../src/libraries/Merkle.sol";

/// Builds the trees that Merkle verifies.
library Trees {
    bytes32 internal constant PAD = sha256(hex"02");

    function root(bytes32[] memory items) internal view returns (bytes32) {
        (bytes32 top,) = build(items, 0);
        return top;
    }

    /// Root and siblings of leaf `index`, from the leaf up.
    function build(bytes32[] memory items, uint256 index) internal view returns (bytes32 top, bytes32[] memory proof) {
        uint256 levels = Merkle.depth(items.length);
        bytes32[] memory row = new bytes32[](1 << levels);
        for (uint256 i = 0; i < row.length; ++i) {
            row[i] = i < items.length ? Merkle.leaf(uint64(i), items[i]) : PAD;
        }
        proof = new bytes32[](levels);
        for (uint256 level = 0; level < levels; ++level) {
            proof[level] = row[index ^ 1];
            uint256 width = row.length >> (level + 1);
            for (uint256 i = 0; i < width; ++i) {
                row[i] = Merkle.node(row[2 * i], row[2 * i + 1]);
            }
            index >>= 1;
        }
        return (row[0], proof);
    }
}
