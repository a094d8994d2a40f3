// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

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

    /// The same for bytes of the call.
    function leafAt(uint64 index, bytes calldata item) internal view returns (bytes32 hash) {
        assembly ("memory-safe") {
            let free := mload(0x40)
            mstore(free, shl(184, index))
            calldatacopy(add(free, 9), item.offset, item.length)
            if iszero(staticcall(gas(), 2, free, add(9, item.length), 0, 32)) { revert(0, 0) }
            hash := mload(0)
        }
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
        return count < 2 ? 0 : Math.log2(count - 1) + 1;
    }

    /// The node that `path` leads to from the node `here` at `position` of its row.
    function climb(bytes32 here, uint256 position, bytes32[] calldata path) internal view returns (bytes32 top) {
        assembly ("memory-safe") {
            // A byte 1, and behind it two nodes: of the next level, which the call puts there itself, and its sibling.
            let head := mload(0x40)
            let left := add(head, 1)
            mstore8(head, 1)
            let side := shl(5, and(position, 1))
            mstore(add(left, side), here)
            let ok := 1
            let end := add(path.offset, shl(5, path.length))
            for { let p := path.offset } lt(p, end) { p := add(p, 32) } {
                mstore(add(left, xor(side, 32)), calldataload(p))
                position := shr(1, position)
                side := shl(5, and(position, 1))
                ok := and(ok, staticcall(gas(), 2, head, 65, add(left, side), 32))
            }
            if iszero(ok) { revert(0, 0) }
            top := mload(add(left, side))
        }
    }

    /// The node over 2^k nodes, of which there is at least one.
    function join(bytes32[] calldata row) internal view returns (bytes32 top) {
        assembly ("memory-safe") {
            // The 1 before each pair goes where nothing is needed any more: before the row, or over a pair that is hashed already.
            let at := add(mload(0x40), 32)
            let size := shl(5, row.length)
            calldatacopy(at, row.offset, size)
            let ok := 1
            for {} gt(size, 32) { size := shr(1, size) } {
                let to := at
                let end := add(at, size)
                for { let from := at } lt(from, end) { from := add(from, 64) } {
                    let head := sub(from, 1)
                    mstore8(head, 1)
                    ok := and(ok, staticcall(gas(), 2, head, 65, to, 32))
                    to := add(to, 32)
                }
            }
            if iszero(ok) { revert(0, 0) }
            top := mload(at)
        }
    }

    /// Root over leaf hashes, of which the memory is used up.
    function rootOf(bytes32[] memory row) internal view returns (bytes32) {
        uint256 count = row.length;
        if (count == 0) return EMPTY;
        bytes32 pad = PAD;
        for (; count > 1; count = (count + 1) / 2) {
            for (uint256 i = 0; i < count; i += 2) {
                row[i / 2] = node(row[i], i + 1 < count ? row[i + 1] : pad);
            }
            pad = node(pad, pad);
        }
        return row[0];
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
