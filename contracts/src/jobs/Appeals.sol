// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IStakes} from "../interfaces/IStakes.sol";
import {Hashes} from "../libraries/Hashes.sol";
import {Phase, SegmentState} from "../types/Types.sol";
import {Base} from "./Base.sol";
import {JobRecord, SegmentRecord, Stage, Stages} from "./Records.sol";

/// What disputes do to segments and votes: they keep them open while they last, and reject, void or pardon them.
/// Code that Jobs runs by delegatecall (see Jobs.sol); by itself it holds nothing.
contract Appeals is Base {
    constructor(address stakes_) Base(stakes_) {}

    // ---- the Disputes contract -----------------------------------------------------------------------------------------------

    function disputeOpened(uint64 segmentId) external onlyDisputes {
        SegmentRecord storage s = _segment(segmentId);
        SegmentState state = Stages.state(s.stage);
        bool standing = state == SegmentState.DRAWN || state == SegmentState.SERVED || state == SegmentState.ATTESTED;
        bool bonded = state == SegmentState.WITHHELD || state == SegmentState.UNPAID || _pardoned[segmentId] != 0;
        if (!standing && !(bonded && s.bond > 0)) revert WrongState(segmentId, state);
        s.disputes += 1;
    }

    function disputeResolved(uint64 segmentId, bool asserterLost) external onlyDisputes nonReentrant {
        (SegmentRecord storage s, Stage memory g) = _disputed(segmentId);
        if (!asserterLost) return;
        if (g.state == SegmentState.WITHHELD) return _payNoes(segmentId, s, g);
        if (_terminal(g.state)) return;
        g.due = uint40(block.timestamp + (_pardoned[segmentId] == 0 ? 0 : _jobs[s.job].challengeWindow));
        _end(segmentId, s, g, SegmentState.REJECTED, 0);
        emit Rejected(segmentId);
    }

    /// The leaves differ: nobody is paid for the range, nobody is slashed, and it is open again once no other dispute is open.
    function disputeVoided(uint64 segmentId) external onlyDisputes nonReentrant {
        (SegmentRecord storage s, Stage memory g) = _disputed(segmentId);
        if (s.disputes > 0 || _terminal(g.state)) return;
        _releaseBond(segmentId, s);
        _end(segmentId, s, g, SegmentState.VOID, 0);
        emit Voided(segmentId);
    }

    /// Those who said no to a withheld segment were right: they earn as if they had attested.
    function _payNoes(uint64 segmentId, SegmentRecord storage s, Stage memory g) private {
        uint256 fee = _jobs[s.job].fee;
        if (!s.keepsFees || fee == 0) return;
        s.keepsFees = false;
        for (uint256 round = 0; round <= g.round; ++round) {
            Stage memory told = _stageOf(segmentId, round);
            for (uint256 i = 0; i < told.count; ++i) {
                if (told.opened >> i & 1 == 0 || told.agrees >> i & 1 == 1) continue;
                (address who,) = _member(segmentId, round, i);
                _give(who, fee, 0, NO_LANE);
                emit Credited(who, segmentId, uint128(fee), "fee");
            }
        }
    }

    /// Honest hardware errs, too, in a link now and then: once in so many settled segments a provider may concede one for its price alone.
    /// It swears by that that the rest is right: its bond stays, and the segment can be disputed, for another window, and a second link
    /// costs what it always does. Only where every verifier has had its time to find one, when the seals are over (before that it would be
    /// an exit for who dislikes what was drawn), and more than one link was drawn.
    function pardon(uint64 segmentId, uint64 unit, uint32 after_) external onlyDisputes returns (bool) {
        (SegmentRecord storage s, uint256 before) = (_segments[segmentId], _pardoned[segmentId]);
        if (before != 0) return before == uint256(unit) + 1;
        Stage memory g = Stages.unpack(s.stage);
        bool told = g.state == SegmentState.SERVED && (g.phase > Phase.SEAL || block.timestamp > g.due);
        if (!told && g.state != SegmentState.ATTESTED && g.state != SegmentState.WITHHELD) return false;
        uint256 account = _accounts[s.provider];
        JobRecord storage j = _jobs[s.job];
        if (after_ == 0 || account >> SETTLED < after_ || j.links == 1) return false;
        _accounts[s.provider] = account & ((1 << SETTLED) - 1);
        _pardoned[segmentId] = uint256(unit) + 1;
        uint40 until = uint40(block.timestamp + j.challengeWindow);
        if (g.state == SegmentState.WITHHELD) {
            g.due = until;
            s.stage = Stages.pack(g);
        }
        emit Pardoned(segmentId, unit, until);
        return true;
    }

    /// A segment with one open dispute less.
    function _disputed(uint64 segmentId) private returns (SegmentRecord storage s, Stage memory g) {
        s = _segment(segmentId);
        if (s.disputes == 0) revert NoDisputeOpen(segmentId);
        s.disputes -= 1;
        g = Stages.unpack(s.stage);
    }

    /// Brings the trace roots of a revealed vote, of which a hash is stored, so that it can be disputed. Anyone. The hash is that of the
    /// roots or, of a vote whose round was decided by the call that revealed it, still the digest.
    function disclose(uint64 segmentId, uint32 round, address verifier, bytes32[] calldata traceRoots, bytes32 salt) external {
        (Stage memory g, uint256 i, uint8 lane) = _voteOf(segmentId, round, verifier);
        if (g.revealed >> i & 1 == 0) revert NotRevealed(verifier);
        if (g.bonded >> i & 1 == 0) revert NoBond(segmentId);
        if (g.together) revert Together(segmentId);
        bytes32 vote = _words[verifier][_key(segmentId, round, lane)];
        if (vote != keccak256(abi.encodePacked(traceRoots))) {
            bool agrees = g.agrees >> i & 1 == 1;
            if (vote != Hashes.attestation(segmentId, round, agrees, traceRoots, verifier, salt)) {
                revert DigestMismatch(verifier);
            }
        }
        _disclosed[_place(segmentId, round, i)] = traceRoots;
    }

    /// The trace root that a drawn verifier has revealed for a unit; its draw bond stays until `voteResolved`. Only a vote that agrees can
    /// be disputed: who was served something else than what was committed says no with a trace that it cannot defend. `gone`: the vote fell,
    /// or its bond came free with the segment's end, at `since` or later: whoever sealed a dispute over it then could not know.
    function voteDisputed(uint64 segmentId, uint32 round, address verifier, uint64 unit, uint64 since)
        external
        onlyDisputes
        returns (bytes32 root, bool gone)
    {
        (Stage memory g, uint256 k,) = _voteOf(segmentId, round, verifier);
        if (_gone(segmentId, round, g, k, since)) return (0, true);
        if (g.revealed >> k & 1 == 0 || g.agrees >> k & 1 == 0) revert NotRevealed(verifier);
        if (g.bonded >> k & 1 == 0) revert NoBond(segmentId);
        bytes32[] storage roots = _disclosed[_place(segmentId, round, k)];
        if (roots.length == 0) revert NotDisclosed(segmentId, verifier);
        uint64[] memory units = _unitsOf(segmentId, roots.length);
        uint256 i = 0;
        while (i < units.length && units[i] != unit) ++i;
        if (i == units.length) revert NotDrawnUnit(segmentId, unit);
        _disputedVotes[segmentId][verifier] += 1;
        return (roots[i], false);
    }

    function _gone(uint64 segmentId, uint256 round, Stage memory g, uint256 i, uint64 since) private view returns (bool) {
        if (_fellAt[_place(segmentId, round, i)] >= since) return true;
        if ((g.revealed & g.agrees & ~g.bonded) >> i & 1 == 0) return false;
        SegmentRecord storage s = _segments[segmentId];
        Stage memory last = Stages.unpack(s.stage);
        // What `due` says of one that has ended: its end, and where its bond stands on from then the window.
        bool stands = last.state != SegmentState.REJECTED || _pardoned[segmentId] != 0;
        return last.state > SegmentState.LAPSED && last.due >= since + (stands ? _jobs[s.job].challengeWindow : 0);
    }

    /// A vote that fell counts no more and is not paid. When the segment has ended and nothing else is open over the verifier's votes,
    /// its draw bonds are free.
    function voteResolved(uint64 segmentId, uint32 round, address verifier, bool fell) external onlyDisputes nonReentrant {
        (Stage memory g, uint256 i,) = _voteOf(segmentId, round, verifier);
        uint32 open_ = _disputedVotes[segmentId][verifier] -= 1;
        if (fell) {
            uint16 others = ~uint16(1 << i);
            (g.isSealed, g.revealed) = (g.isSealed & others, g.revealed & others);
            (g.opened, g.prevailed) = (g.opened & others, g.prevailed & others);
            _fellAt[_place(segmentId, round, i)] = block.timestamp;
            _keep(segmentId, round, g);
        }
        SegmentRecord storage s = _segments[segmentId];
        if (open_ > 0 || !_terminal(Stages.state(s.stage))) return;
        uint256 last = Stages.round(s.stage);
        for (uint256 r = 0; r <= last; ++r) {
            _freeDraw(segmentId, s, r, verifier);
        }
    }

    function _freeDraw(uint64 segmentId, SegmentRecord storage s, uint256 round, address verifier) private {
        Stage memory g = _stageOf(segmentId, round);
        (uint256 i, uint8 lane) = _find(segmentId, g, verifier);
        if (i >= SEATS || g.bonded >> i & 1 == 0) return;
        uint256 left = _takeDrawBond(segmentId, s, g, i, verifier, _jobs[s.job].drawBond);
        _give(verifier, 0, left, lane);
        _keep(segmentId, round, g);
    }

    function _voteOf(uint64 segmentId, uint32 round, address verifier)
        private
        view
        returns (Stage memory g, uint256 i, uint8 lane)
    {
        uint256 word = _segments[segmentId].stage;
        if (round <= Stages.round(word)) {
            g = _stageOf(segmentId, round);
            (i, lane) = _find(segmentId, g, verifier);
            if (i < SEATS) return (g, i, lane);
        }
        revert NotDrawn(segmentId, verifier);
    }

    /// Takes what is slashed out of a reservation.
    function seize(uint64 segmentId, address who, uint128 amount) external {
        if (msg.sender != address(_stakes)) revert NotStakes(msg.sender);
        uint128 left = _reservation(segmentId, who);
        if (amount > left) revert IStakes.ReservationExceeded(who, segmentId, left, amount);
        _segments[segmentId].seized = true;
        _seized[segmentId][who] += amount;
        _give(who, 0, amount, NO_LANE);
    }
}
