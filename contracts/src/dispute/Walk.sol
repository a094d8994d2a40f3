// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Merkle} from "../libraries/Merkle.sol";

/// A walk down a tree: who asserts a node shows its descendants up to five levels below it, who doubts it points at one.
library Walk {
    uint256 internal constant LEVELS = 5;

    error BadChildren(bytes32 node, bytes32 seen);
    error WrongCount(uint256 given, uint256 expected);
    error TooFewLevels(uint256 levels, uint256 least);
    error TooManyLevels(uint256 levels, uint256 height);
    error BadPath(bytes32 node, bytes32 seen);
    error NotBelow(uint64 index, uint64 place);

    /// Levels of the next opening: at most five, and so many that as few openings as possible are of equal size.
    function step(uint256 height) internal pure returns (uint256) {
        if (height <= LEVELS) return height;
        uint256 openings = (height + LEVELS - 1) / LEVELS;
        return (height + openings - 1) / openings;
    }

    /// Reverts unless `children` are all descendants of `node` that are step(height) levels below it.
    function needChildren(bytes32 node, uint256 height, bytes32[] calldata children) internal view {
        uint256 width = 1 << step(height);
        if (children.length != width) revert WrongCount(children.length, width);
        bytes32 seen = Merkle.join(children);
        if (seen != node) revert BadChildren(node, seen);
    }

    /// Height of the descendant `below`, which stands at `place` of its row, of the node at `index` of its own row; `path` leads up.
    function descend(bytes32 node, uint256 height, uint64 index, bytes32 below, uint64 place, bytes32[] calldata path)
        internal
        view
        returns (uint256)
    {
        if (path.length > height) revert TooManyLevels(path.length, height);
        if (path.length < step(height)) revert TooFewLevels(path.length, step(height));
        if (place >> path.length != index) revert NotBelow(index, place);
        bytes32 seen = Merkle.climb(below, place, path);
        if (seen != node) revert BadPath(node, seen);
        return height - path.length;
    }
}
