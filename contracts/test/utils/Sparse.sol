// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Walk} from "../../src/dispute/Walk.sol";
import {Merkle} from "../../src/libraries/Merkle.sol";

/// A full tree of 2^height leaves, of which all but a few are one hash: as large as real ones, built in no time.
library Sparse {
    bytes32 internal constant FILL = keccak256("any leaf");

    struct Tree {
        uint256 height;
        uint64[] places;
        bytes32[] leaves;
        // What stands above equal leaves only, by level.
        bytes32[] fill;
    }

    function grow(uint256 height, uint64[] memory places, bytes32[] memory leaves) internal view returns (Tree memory t) {
        (t.height, t.places, t.leaves, t.fill) = (height, places, leaves, new bytes32[](height + 1));
        t.fill[0] = FILL;
        for (uint256 i = 0; i < height; ++i) {
            t.fill[i + 1] = Merkle.node(t.fill[i], t.fill[i]);
        }
    }

    function one(uint256 height, uint64 place, bytes32 leaf) internal view returns (Tree memory) {
        uint64[] memory places = new uint64[](1);
        bytes32[] memory leaves = new bytes32[](1);
        (places[0], leaves[0]) = (place, leaf);
        return grow(height, places, leaves);
    }

    function node(Tree memory t, uint256 level, uint64 index) internal view returns (bytes32) {
        bool marked = false;
        for (uint256 i = 0; i < t.places.length; ++i) {
            if (t.places[i] >> level != index) continue;
            if (level == 0) return t.leaves[i];
            marked = true;
        }
        if (!marked) return t.fill[level];
        return Merkle.node(node(t, level - 1, 2 * index), node(t, level - 1, 2 * index + 1));
    }

    function root(Tree memory t) internal view returns (bytes32) {
        return node(t, t.height, 0);
    }

    function path(Tree memory t, uint256 low, uint256 high, uint64 place) internal view returns (bytes32[] memory out) {
        out = new bytes32[](high - low);
        for (uint256 i = 0; i < out.length; ++i) {
            out[i] = node(t, low + i, (place >> i) ^ 1);
        }
    }

    function path(Tree memory t, uint64 place) internal view returns (bytes32[] memory) {
        return path(t, 0, t.height, place);
    }

    function children(Tree memory t, uint256 height, uint64 place) internal view returns (bytes32[] memory out) {
        uint256 down = Walk.step(height);
        out = new bytes32[](1 << down);
        for (uint256 i = 0; i < out.length; ++i) {
            out[i] = node(t, height - down, uint64((uint256(place) << down) + i));
        }
    }
}
