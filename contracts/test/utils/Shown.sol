// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Openings} from "../../src/dispute/Openings.sol";
import {Merkle} from "../../src/libraries/Merkle.sol";
import {ChunkProof} from "../../src/types/Types.sol";
import {Trees} from "./Trees.sol";

/// The smallest link ends of which a chunk can be shown: under each one entry, whose name is the end's own, with one chunk of zeros.
library Shown {
    function chunks() internal pure returns (bytes32) {
        return Merkle.leafOf(0, new bytes(1024));
    }

    function name(uint64 id, uint64 place) internal pure returns (bytes memory) {
        return abi.encodePacked(id, place);
    }

    function kind() internal pure returns (bytes memory) {
        return abi.encodePacked(uint8(4), uint8(1), uint64(10));
    }

    function entries(uint64 id, uint64 place) internal pure returns (bytes32) {
        return Openings.entryLeaf(0, name(id, place), Openings.tensorRoot(kind(), chunks()));
    }

    function end(uint64 id, uint64 start, uint64 place, uint32 micros) internal pure returns (bytes32) {
        (uint64 step, uint32 m) = (start + place / (micros + 1), uint32(place % (micros + 1)));
        if (m == micros) return Openings.stateRoot(step + 1, 1, entries(id, place));
        return Openings.accRoot(step, m + 1, 1, entries(id, place));
    }

    function proof(uint64 id, bytes32[] memory ends, uint64 place) internal view returns (ChunkProof memory c) {
        (, c.endPath) = Trees.build(ends, place);
        (c.count, c.entries, c.name, c.kind, c.chunks) = (1, entries(id, place), name(id, place), kind(), chunks());
        c.chunk = new bytes(1024);
    }
}
