// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Merkle} from "../libraries/Merkle.sol";

/// A walk down a tree: who asserts a node shows its descendants up to four levels below it, who doubts it points at one.
library Walk {
    uint256 internal constant LEVELS = 4;

    error BadChildren(bytes32 node, bytes32 seen);
    error WrongCount(uint256 given, uint256 expected);
    error TooFewLevels(uint256 levels, uint256 least);
    error TooManyLevels(uint256 levels, uint256 height);
    error BadPath(bytes32 node, bytes32 seen);
    error NotBelow(uint64 index, uint64 place);

    function step(uint256 height) internal pure returns (uint256) {
        return height < LEVELS ? height : LEVELS;
    }

    /// Reverts unless `children` are all descendants of `node` that are step(height) levels below it.
    function needChildren(bytes32 node, uint256 height, bytes32[] calldata children) internal view {
        uint256 width = 1 << step(height);
        if (children.length != width) revert WrongCount(children.length, width);
        bytes32[] memory row = children;
        for (; width > 1; width >>= 1) {
            for (uint256 i = 0; i < width >> 1; ++i) {
                row[i] = Merkle.node(row[2 * i], row[2 * i + 1]);
            }
        }
        if (row[0] != node) revert BadChildren(node, row[0]);
    }

    /// Height of the descendant `below`, which stands at `place` of its row, of the node at `index` of its own row; `path` leads up.
    function descend(bytes32 node, uint256 height, uint64 index, bytes32 below, uint64 place, bytes32[] calldata path)
        internal
        view
        returns (uint8)
    {
        if (path.length > height) revert TooManyLevels(path.length, height);
        if (path.length < step(height)) revert TooFewLevels(path.length, step(height));
        if (place >> path.length != index) revert NotBelow(index, place);
        bytes32 seen = Merkle.climb(below, place, path);
        if (seen != node) revert BadPath(node, seen);
        return uint8(height - path.length);
    }
}
