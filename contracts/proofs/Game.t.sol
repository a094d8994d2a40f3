// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Clock} from "../src/dispute/Clock.sol";
import {Ranges} from "../src/dispute/Ranges.sol";
import {Stand} from "../src/types/DisputeTypes.sol";
import {Turn} from "../src/types/Turn.sol";

interface Time {
    function warp(uint256 time) external;
}

/// Proofs by symbolic execution (contracts/review.py) of what every move of a dispute rests on: the clock, the word that keeps a turn, ranges.
contract GameProof {
    Time internal constant vm = Time(address(uint160(uint256(keccak256("hevm cheat code")))));

    /// External, so that a proof can see whether it reverts.
    function spend(uint40 since, uint32 grace, uint32 budget) external view returns (uint32) {
        return Clock.spend(since, grace, budget);
    }

    /// At every time exactly one of a move and a timeout is taken, and a budget never grows.
    function check_a_move_or_a_timeout(uint40 since, uint32 grace, uint32 budget, uint64 now_) public {
        vm.warp(now_);
        (bool moves, bytes memory data) = address(this).call(abi.encodeCall(this.spend, (since, grace, budget)));
        bool late = block.timestamp > Clock.due(since, grace, budget);
        assert(moves != late);
        if (moves) assert(abi.decode(data, (uint32)) <= budget);
    }

    /// Who moves within its grace spends nothing; who moves later spends what it was late.
    function check_what_a_move_costs(uint40 since, uint32 grace, uint32 budget, uint64 now_) public {
        vm.warp(now_);
        (bool moves, bytes memory data) = address(this).call(abi.encodeCall(this.spend, (since, grace, budget)));
        if (!moves) return;
        uint256 left = abi.decode(data, (uint32));
        uint256 free = uint256(since) + grace;
        assert(budget - left == (now_ > free ? now_ - free : 0));
    }

    // ---- the word of a turn: what is put in comes out, and nothing else changes -----------------------------------------------------

    /// Bits of all fields but those of the mask.
    function _others(Turn a, Turn b, uint256 mask) private pure {
        assert((Turn.unwrap(a) ^ Turn.unwrap(b)) & ~mask == 0);
    }

    function check_turn_bytes(uint256 word, uint8 v) public pure {
        Turn t = Turn.wrap(word);
        assert(t.withHeight(v).height() == v);
        _others(t, t.withHeight(v), uint256(0xff) << 24);
        assert(t.withWidth(v).width() == v);
        _others(t, t.withWidth(v), uint256(0xff) << 32);
        assert(t.withFold(v).fold() == v);
        _others(t, t.withFold(v), uint256(0xff) << 40);
        assert(t.withRule(v).rule() == v);
        _others(t, t.withRule(v), uint256(0xff) << 48);
        assert(t.withTarget(v).target() == v);
        _others(t, t.withTarget(v), uint256(0xff) << 224);
        assert(t.withDoublings(v).doublings() == v);
        _others(t, t.withDoublings(v), uint256(0xff) << 232);
    }

    function check_turn_numbers(uint256 word, uint32 budget, uint64 index, bool side) public pure {
        Turn t = Turn.wrap(word);
        assert(t.withBudget(side, budget).budget(side) == budget);
        assert(t.withBudget(side, budget).budget(!side) == t.budget(!side));
        _others(t, t.withBudget(side, budget), uint256(type(uint32).max) << (side ? 96 : 128));
        assert(t.withIndex(index).index() == index);
        _others(t, t.withIndex(index), uint256(type(uint64).max) << 160);
    }

    function check_turn_flags(uint256 word) public pure {
        Turn t = Turn.wrap(word);
        assert(t.withMoved().moved() && t.withOfBatch().ofBatch() && t.withHead().head() && t.withClaimed().claimed());
        _others(t, t.withMoved(), 1 << 17);
        _others(t, t.withOfBatch(), 1 << 18);
        _others(t, t.withHead(), 1 << 19);
        _others(t, t.withClaimed(), 1 << 20);
        assert(t.withPardoned().pardoned());
        _others(t, t.withPardoned(), 1 << 21);
    }

    function check_turn_awaits(uint256 word, uint8 stand, bool side, uint40 now_) public pure {
        if (stand > uint8(type(Stand).max)) return;
        Turn t = Turn.wrap(word).awaiting(Stand(stand), side, now_);
        assert(uint8(t.stand()) == stand && t.asserting() == side && t.since() == now_);
        _others(t, Turn.wrap(word), 0xff | (1 << 16) | (uint256(type(uint40).max) << 56));
    }

    // ---- ranges ---------------------------------------------------------------------------------------------------------------------

    function check_a_range_round_trips(uint64 lo, uint64 hi, int64 total) public pure {
        (uint64 a, uint64 b, int64 c) = Ranges.unpack(Ranges.pack(lo, hi, total));
        assert(a == lo && b == hi && c == total);
    }
}
