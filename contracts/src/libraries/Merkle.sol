// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// The trees of assay/merkle.py: SHA-256, leaves bind their index, the depth follows from the number of leaves.
library Merkle {
    /// leaf(i, item) = SHA256(0x00 || u64be(i) || item), for items of 32 bytes.
    function leaf(uint64 index, bytes32 item) internal pure returns (bytes32) {
        return sha256(abi.encodePacked(bytes1(0x00), index, item));
    }

    function node(bytes32 left, bytes32 right) internal pure returns (bytes32) {
        return sha256(abi.encodePacked(bytes1(0x01), left, right));
    }

    /// Levels above the leaves of a tree of `count` leaves.
    function depth(uint256 count) internal pure returns (uint256 levels) {
        while ((uint256(1) << levels) < count) ++levels;
    }

    /// Whether `item` is the content of leaf `index` of the tree of `count` leaves under `root`; `proof` holds the siblings from the leaf up.
    function verify(bytes32 root, uint256 count, uint64 index, bytes32 item, bytes32[] calldata proof)
        internal
        pure
        returns (bool)
    {
        if (index >= count || proof.length != depth(count)) return false;
        bytes32 here = leaf(index, item);
        uint256 position = index;
        for (uint256 i = 0; i < proof.length; ++i) {
            here = position & 1 == 1 ? node(proof[i], here) : node(here, proof[i]);
            position >>= 1;
        }
        return here == root;
    }
}
