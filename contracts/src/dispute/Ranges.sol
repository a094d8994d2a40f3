// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {Rule} from "../interfaces/ILeaf.sol";

/// A range of the items of a fold and its total, in one word: lo u64, hi u64, total i64. Who asserts the total splits it into parts, who
/// doubts it chooses one. Which items make the range and how totals combine have been said by both leaves.
library Ranges {
    uint256 internal constant PARTS = 64;
    uint256 private constant PART_BITS = 6;

    error WrongParts(uint256 given, uint256 expected);
    error WrongTotal();

    function pack(uint64 lo, uint64 hi, int64 total) internal pure returns (bytes32) {
        return bytes32((uint256(lo) << 192) | (uint256(hi) << 128) | uint64(total));
    }

    function unpack(bytes32 range) internal pure returns (uint64 lo, uint64 hi, int64 total) {
        uint256 r = uint256(range);
        return (uint64(r >> 192), uint64(r >> 128), int64(uint64(r)));
    }

    /// Reverts unless `parts` are a split of the range.
    function needParts(bytes32 range, uint8 rule, bytes calldata parts) internal pure {
        (uint64 lo, uint64 hi,) = unpack(range);
        if (hi - lo == 1) revert WrongParts(parts.length, 0);
        if (!fits(range, rule, parts)) revert WrongTotal();
    }

    /// Whether these are as many parts as the range has, and combine to its total.
    function fits(bytes32 range, uint8 rule, bytes calldata parts) internal pure returns (bool) {
        (uint64 lo, uint64 hi, int64 total) = unpack(range);
        return parts.length == 8 * partsOf(hi - lo) && combine(rule, parts) == total;
    }

    /// Into how many parts a range of so many items is split: a power of two that needs as few splits as splits in 64 do, the first the smallest.
    function partsOf(uint256 items) internal pure returns (uint256) {
        if (items <= PARTS) return items;
        uint256 bits = Math.log2(items - 1) + 1;
        return 1 << (bits / ((bits + PART_BITS - 1) / PART_BITS));
    }

    /// The total of parts, i64 each, of which there is at least one. Sums of 64 of them do not overflow.
    function combine(uint8 rule, bytes calldata parts) internal pure returns (int256 made) {
        assembly ("memory-safe") {
            let end := add(parts.offset, parts.length)
            made := sar(192, calldataload(parts.offset))
            for { let p := add(parts.offset, 8) } lt(p, end) { p := add(p, 8) } {
                let next := sar(192, calldataload(p))
                switch rule
                case 0 { if sgt(next, made) { made := next } }
                default { made := add(made, next) }
            }
        }
        if (rule == uint8(Rule.WRAPPING_SUM)) made = int64(made);
    }

    /// The range that is part `which`: [lo + which n/k, lo + (which + 1) n/k) of n items in k parts.
    function part(bytes32 range, bytes calldata parts, uint256 which) internal pure returns (bytes32) {
        (uint64 lo, uint64 hi,) = unpack(range);
        (uint256 items, uint256 count) = (hi - lo, parts.length / 8);
        if (which >= count) revert WrongParts(which, count);
        int64 total = int64(uint64(bytes8(parts[8 * which:8 * which + 8])));
        return pack(uint64(lo + which * items / count), uint64(lo + (which + 1) * items / count), total);
    }
}
