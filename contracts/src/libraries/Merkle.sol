// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// The trees of assay/merkle.py: SHA-256, leaves bind their index, the depth follows from the number of leaves.
library Merkle {
    /// What stands at every place past the last leaf: SHA256(0x02).
    bytes32 internal constant PAD = 0xdbc1b4c900ffe48d575b5da5c638040125f65db0fe3e24494b76ea986457d986;
    /// Root of a tree without leaves: SHA256(0x03).
    bytes32 internal constant EMPTY = 0x084fed08b978af4d7d196a7446a86b58009e636b611db16211b65a9aadff29c5;

    /// leaf(i, item) = SHA256(0x00 || u64be(i) || item), for items of 32 bytes.
    function leaf(uint64 index, bytes32 item) internal view returns (bytes32 hash) {
        assembly ("memory-safe") {
            let free := mload(0x40)
            mstore(free, shl(184, index))
            mstore(add(free, 9), item)
            if iszero(staticcall(gas(), 2, free, 41, 0, 32)) { revert(0, 0) }
            hash := mload(0)
        }
    }

    /// The same for an item of any length.
    function leafOf(uint64 index, bytes memory item) internal pure returns (bytes32) {
        return sha256(abi.encodePacked(bytes1(0x00), index, item));
    }

    function node(bytes32 left, bytes32 right) internal view returns (bytes32 hash) {
        assembly ("memory-safe") {
            let free := mload(0x40)
            mstore8(free, 1)
            mstore(add(free, 1), left)
            mstore(add(free, 33), right)
            if iszero(staticcall(gas(), 2, free, 65, 0, 32)) { revert(0, 0) }
            hash := mload(0)
        }
    }

    /// Levels above the leaves of a tree of `count` leaves.
    function depth(uint256 count) internal pure returns (uint256 levels) {
        while ((uint256(1) << levels) < count) ++levels;
    }

    /// The node that `path` leads to from the node `here` at `position` of its row.
    function climb(bytes32 here, uint256 position, bytes32[] calldata path) internal view returns (bytes32) {
        for (uint256 i = 0; i < path.length; ++i) {
            here = position & 1 == 1 ? node(path[i], here) : node(here, path[i]);
            position >>= 1;
        }
        return here;
    }

    /// Whether `hash` is leaf `index` of the tree of `count` leaves under `root`; `path` holds the siblings from the leaf up.
    function holds(bytes32 root, uint256 count, uint256 index, bytes32 hash, bytes32[] calldata path) internal view returns (bool) {
        return index < count && path.length == depth(count) && climb(hash, index, path) == root;
    }

    /// The same for the content of a leaf, 32 bytes.
    function verify(bytes32 root, uint256 count, uint64 index, bytes32 item, bytes32[] calldata proof) internal view returns (bool) {
        return holds(root, count, index, leaf(index, item), proof);
    }
}
