// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Walk} from "../../src/dispute/Walk.sol";
import {Merkle} from "../../src/libraries/Merkle.sol";

/// Builds the trees that Merkle verifies.
library Trees {
    bytes32 internal constant PAD = sha256(hex"02");

    function root(bytes32[] memory items) internal view returns (bytes32) {
        (bytes32 found,) = build(items, 0);
        return found;
    }

    /// Root and siblings of leaf `index`, from the leaf up.
    function build(bytes32[] memory items, uint256 index) internal view returns (bytes32 found, bytes32[] memory proof) {
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

    /// All rows of the tree over leaf hashes, the leaves first, each as wide as its power of two.
    function rows(bytes32[] memory leaves) internal view returns (bytes32[][] memory all) {
        uint256 levels = Merkle.depth(leaves.length);
        all = new bytes32[][](levels + 1);
        all[0] = new bytes32[](1 << levels);
        for (uint256 i = 0; i < all[0].length; ++i) {
            all[0][i] = i < leaves.length ? leaves[i] : PAD;
        }
        for (uint256 level = 1; level <= levels; ++level) {
            all[level] = new bytes32[](1 << (levels - level));
            for (uint256 i = 0; i < all[level].length; ++i) {
                all[level][i] = Merkle.node(all[level - 1][2 * i], all[level - 1][2 * i + 1]);
            }
        }
    }

    function top(bytes32[][] memory all) internal pure returns (bytes32) {
        return all[all.length - 1][0];
    }

    /// Siblings from the node at `place`, `low` levels above the leaves, up to but not including level `high`.
    function path(bytes32[][] memory all, uint256 low, uint256 high, uint256 place) internal pure returns (bytes32[] memory out) {
        out = new bytes32[](high - low);
        for (uint256 i = 0; i < out.length; ++i) {
            out[i] = all[low + i][(place >> i) ^ 1];
        }
    }

    function path(bytes32[][] memory all, uint256 place) internal pure returns (bytes32[] memory) {
        return path(all, 0, all.length - 1, place);
    }

    /// Descendants of the node at `place`, `height` levels above the leaves, one opening below it.
    function children(bytes32[][] memory all, uint256 height, uint256 place) internal pure returns (bytes32[] memory out) {
        uint256 down = Walk.step(height);
        out = new bytes32[](1 << down);
        for (uint256 i = 0; i < out.length; ++i) {
            out[i] = all[height - down][(place << down) + i];
        }
    }
}
