// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Outcome, Stand} from "./DisputeTypes.sol";

/// What every move changes, in one word (struct Dispute in DisputeTypes.sol says what the fields mean), lowest byte first: stand u8, outcome u8,
/// flags u8, height u8, width u8, fold u8, rule u8, since u40, budget of the asserter u32, of the challenger u32, index u64,
/// target u8, doublings u8 (the challenger's bond is the network's, doubled so often), allowance u16 (seconds for the asserter's replay).
type Turn is uint256;

using Turns for Turn global;

library Turns {
    uint256 private constant ASSERTING = 16;
    uint256 private constant MOVED = 17;
    uint256 private constant OF_BATCH = 18;
    uint256 private constant HEAD = 19;
    uint256 private constant CLAIMED = 20;
    uint256 private constant PARDONED = 21;
    uint256 private constant SINCE = 56;
    uint256 private constant AWAITED = 0xff | (1 << ASSERTING) | (uint256(type(uint40).max) << SINCE);

    function _get(Turn t, uint256 spot, uint256 mask) private pure returns (uint256) {
        return (Turn.unwrap(t) >> spot) & mask;
    }

    function _set(Turn t, uint256 spot, uint256 mask, uint256 value) private pure returns (Turn) {
        return Turn.wrap((Turn.unwrap(t) & ~(mask << spot)) | (value << spot));
    }

    function stand(Turn t) internal pure returns (Stand) {
        return Stand(_get(t, 0, 0xff));
    }

    function outcome(Turn t) internal pure returns (Outcome) {
        return Outcome(_get(t, 8, 0xff));
    }

    function asserting(Turn t) internal pure returns (bool) {
        return _get(t, ASSERTING, 1) == 1;
    }

    function moved(Turn t) internal pure returns (bool) {
        return _get(t, MOVED, 1) == 1;
    }

    /// The tensor that is walked is a field of the batch, not a stage's output.
    function ofBatch(Turn t) internal pure returns (bool) {
        return _get(t, OF_BATCH, 1) == 1;
    }

    /// Leaf 0 of the trace can be pointed at: not all of the head is known.
    function head(Turn t) internal pure returns (bool) {
        return _get(t, HEAD, 1) == 1;
    }

    /// The bits of the named element are known: its chunk has been shown.
    function claimed(Turn t) internal pure returns (bool) {
        return _get(t, CLAIMED, 1) == 1;
    }

    /// The asserter has conceded, and it costs nothing.
    function pardoned(Turn t) internal pure returns (bool) {
        return _get(t, PARDONED, 1) == 1;
    }

    function height(Turn t) internal pure returns (uint256) {
        return _get(t, 24, 0xff);
    }

    function width(Turn t) internal pure returns (uint8) {
        return uint8(_get(t, 32, 0xff));
    }

    function fold(Turn t) internal pure returns (uint8) {
        return uint8(_get(t, 40, 0xff));
    }

    function rule(Turn t) internal pure returns (uint8) {
        return uint8(_get(t, 48, 0xff));
    }

    function since(Turn t) internal pure returns (uint40) {
        return uint40(_get(t, SINCE, type(uint40).max));
    }

    function budget(Turn t, bool ofAsserter) internal pure returns (uint32) {
        return uint32(_get(t, ofAsserter ? 96 : 128, type(uint32).max));
    }

    function index(Turn t) internal pure returns (uint64) {
        return uint64(_get(t, 160, type(uint64).max));
    }

    function target(Turn t) internal pure returns (uint8) {
        return uint8(_get(t, 224, 0xff));
    }

    function doublings(Turn t) internal pure returns (uint8) {
        return uint8(_get(t, 232, 0xff));
    }

    function allowance(Turn t) internal pure returns (uint16) {
        return uint16(_get(t, 240, type(uint16).max));
    }

    function withStand(Turn t, Stand value) internal pure returns (Turn) {
        return _set(t, 0, 0xff, uint256(value));
    }

    /// From `since_` on it is the turn of `asserting_`, to make the move of `stand_`.
    function awaiting(Turn t, Stand stand_, bool asserting_, uint40 since_) internal pure returns (Turn) {
        uint256 told = uint256(uint8(stand_)) | (asserting_ ? 1 << ASSERTING : 0) | (uint256(since_) << SINCE);
        return Turn.wrap((Turn.unwrap(t) & ~AWAITED) | told);
    }

    function withOutcome(Turn t, Outcome value) internal pure returns (Turn) {
        return _set(t, 8, 0xff, uint256(value));
    }

    function withMoved(Turn t) internal pure returns (Turn) {
        return _set(t, MOVED, 1, 1);
    }

    function withOfBatch(Turn t) internal pure returns (Turn) {
        return _set(t, OF_BATCH, 1, 1);
    }

    function withHead(Turn t) internal pure returns (Turn) {
        return _set(t, HEAD, 1, 1);
    }

    function withClaimed(Turn t) internal pure returns (Turn) {
        return _set(t, CLAIMED, 1, 1);
    }

    function withPardoned(Turn t) internal pure returns (Turn) {
        return _set(t, PARDONED, 1, 1);
    }

    function withHeight(Turn t, uint256 value) internal pure returns (Turn) {
        return _set(t, 24, 0xff, value);
    }

    function withWidth(Turn t, uint8 value) internal pure returns (Turn) {
        return _set(t, 32, 0xff, value);
    }

    function withFold(Turn t, uint8 value) internal pure returns (Turn) {
        return _set(t, 40, 0xff, value);
    }

    function withRule(Turn t, uint8 value) internal pure returns (Turn) {
        return _set(t, 48, 0xff, value);
    }

    /// Now.
    function withSince(Turn t) internal view returns (Turn) {
        return _set(t, SINCE, type(uint40).max, uint40(block.timestamp));
    }

    function withBudget(Turn t, bool ofAsserter, uint32 value) internal pure returns (Turn) {
        return _set(t, ofAsserter ? 96 : 128, type(uint32).max, value);
    }

    function withIndex(Turn t, uint64 value) internal pure returns (Turn) {
        return _set(t, 160, type(uint64).max, value);
    }

    function withTarget(Turn t, uint8 value) internal pure returns (Turn) {
        return _set(t, 224, 0xff, value);
    }

    function withDoublings(Turn t, uint8 value) internal pure returns (Turn) {
        return _set(t, 232, 0xff, value);
    }

    function withAllowance(Turn t, uint16 value) internal pure returns (Turn) {
        return _set(t, 240, type(uint16).max, value);
    }
}
