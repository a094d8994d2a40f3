// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {SegmentState, Phase} from "../types/Types.sol";
import {Base} from "./Base.sol";
import {JobRecord, SegmentRecord, Stage, Stages} from "./Records.sol";

/// What a committee's round leads to when nobody is paid for it: the next round, which checks the units of all rounds so far (who does
/// not like what was drawn wins nothing by letting a round fail), or an end.
abstract contract Rounds is Base {
    function _nextRound(uint64 segmentId, SegmentRecord storage s, JobRecord storage j, Stage memory g, string memory reason)
        internal
    {
        (g.phase, g.due, g.atBlock, g.hashed) = (Phase.NONE, 0, 0, false);
        _past[segmentId][g.round] = Stages.pack(g);
        Stage memory next;
        (next.round, next.negatives) = (g.round + 1, g.negatives);
        uint64 seedBlock = _awaitSeed(next, j);
        s.stage = Stages.pack(next);
        emit Redrawn(segmentId, next.round, reason, seedBlock);
    }

    /// No committee came about: never paid. Disputable for as long as the bond stays, which it does where the provider may have caused this:
    /// keys are withheld, too, when its checkpoint's envelope does not open.
    function _fail(
        uint64 segmentId,
        SegmentRecord storage s,
        JobRecord storage j,
        Stage memory g,
        string memory reason,
        bool keepBond
    ) internal {
        if (g.negatives > 0) return _withhold(segmentId, s, g, 0);
        g.due = uint40(block.timestamp + j.challengeWindow);
        if (!keepBond && s.disputes == 0) _releaseBond(segmentId, s);
        _end(segmentId, s, g, SegmentState.UNPAID, 0);
        emit Unpaid(segmentId, reason);
    }

    function _withhold(uint64 segmentId, SegmentRecord storage s, Stage memory g, uint256 yes) internal {
        g.due = uint40(block.timestamp + _jobs[s.job].challengeWindow);
        _end(segmentId, s, g, SegmentState.WITHHELD, 0);
        emit Withheld(segmentId, uint32(yes), g.negatives);
    }

    function _needMember(uint64 segmentId, Stage memory g, address verifier) internal view returns (uint256 index, uint8 lane) {
        (index, lane) = _find(segmentId, g, verifier);
        if (index >= SEATS) revert NotDrawn(segmentId, verifier);
    }

    /// The same, looked for at `hint` first: a batch in the order of the draw finds each at once.
    function _needMember(uint64 segmentId, Stage memory g, address verifier, uint256 hint)
        internal
        view
        returns (uint256 index, uint8 lane)
    {
        if (hint < g.count) {
            address who;
            (who, lane) = _member(segmentId, g.round, hint);
            if (who == verifier) return (hint, lane);
        }
        return _needMember(segmentId, g, verifier);
    }
}
