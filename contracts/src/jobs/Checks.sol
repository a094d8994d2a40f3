// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IDatasets} from "../interfaces/IDatasets.sol";
import {Hashes} from "../libraries/Hashes.sol";
import {Phase, SegmentState} from "../types/Types.sol";
import {JobRecord, LISTED, SegmentRecord, Stage, Stages} from "./Records.sol";
import {Base} from "./Base.sol";
import {Hearings} from "./Hearings.sol";

/// The committee's beginning: draw, receipts, and what stands for these where none come (jobs/Hearings.sol). What it does then is in jobs/Votes.sol.
/// Code that Jobs runs by delegatecall (see Jobs.sol); by itself it holds nothing.
contract Checks is Hearings {
    bytes32 private constant RECEIPT_TYPE = keccak256("Receipt(uint64 segment,uint32 round)");
    uint32 private constant TRIES = 64;

    constructor(address stakes_) Base(stakes_) {}

    // ---- draw ----------------------------------------------------------------------------------------------------------------

    function draw(uint64 segmentId) external nonReentrant {
        (SegmentRecord storage s, Stage memory g) = _in(segmentId, SegmentState.COMMITTED);
        JobRecord storage j = _jobs[s.job];
        (bytes32 blockHash, uint64 seedBlock) = _reach(g.atBlock + j.finality);
        bytes32 seed = Hashes.seed(blockHash, segmentId, g.round);

        address[] memory drawn = j.licensed == LISTED ? _selectListed(segmentId, s, j, g, seed) : _select(segmentId, s, j, g, seed);
        if (drawn.length < j.quorum) {
            if (block.timestamp <= g.due) revert TooFewVerifiers(drawn.length, j.quorum);
            return _fail(segmentId, s, j, g, "too few verifiers", false);
        }
        uint128 drawBond = j.drawBond;
        for (uint256 i = 0; i < drawn.length; ++i) {
            _members[_place(segmentId, g.round, i)] = uint160(drawn[i]) | uint256(_hold(drawn[i], drawBond)) << 160;
        }
        uint64 serveBy = _now() + j.serveWindow;
        (g.state, g.due, g.atBlock) = (SegmentState.DRAWN, uint40(serveBy), uint40(seedBlock));
        (g.count, g.bonded) = (uint8(drawn.length), uint16((1 << drawn.length) - 1));
        s.stage = Stages.pack(g);
        emit Drawn(segmentId, g.round, seed, _drawUnits(segmentId, s, j, g.round, seed), drawn, serveBy);
    }

    /// Adds the round's units to those of the rounds before; returns all. No links named in the terms: all of the segment, in order.
    function _drawUnits(uint64 segmentId, SegmentRecord storage s, JobRecord storage j, uint256 round, bytes32 seed)
        private
        returns (uint64[] memory units)
    {
        uint256 before = _unitCount(s, j, round);
        units = _unitsOf(segmentId, _unitCount(s, j, round + 1));
        (uint64 steps, uint32 micros) = (s.stop - s.start, j.microBatches);
        for (uint256 i = before; i < units.length; ++i) {
            units[i] = uint64(i);
            if (j.links > 0) units[i] = Hashes.unit(seed, uint32(i - before), steps, micros, j.microWeight, j.updateWeight);
        }
        for (uint256 word = before / 4; word * 4 < units.length; ++word) {
            uint256 four = 0;
            for (uint256 i = word * 4; i < units.length && i < word * 4 + 4; ++i) {
                four |= uint256(units[i]) << (i % 4 * 64);
            }
            _units[segmentId][word] = four;
        }
    }

    /// The verifiers of a round: 64 tries among those not drawn before in this segment, then 64 that allow them.
    function _select(uint64 segmentId, SegmentRecord storage s, JobRecord storage j, Stage memory g, bytes32 seed)
        private
        view
        returns (address[] memory drawn)
    {
        uint64 seats = _stakes.seatCountAt(g.atBlock);
        uint256 wanted = j.verifiers;
        uint32 tries = g.round == 0 ? TRIES : 2 * TRIES;
        (address provider, address client, uint128 drawBond) = (s.provider, j.client, j.drawBond);
        drawn = new address[](wanted);
        uint256 found = 0;
        for (uint32 i = 0; i < tries && found < wanted && seats > 0; ++i) {
            address holder = _stakes.holderAt(Hashes.slot(seed, i, seats), g.atBlock);
            if (holder == provider || holder == client || _among(drawn, found, holder)) continue;
            if (i < TRIES && _drawnBefore(segmentId, g.round, holder)) continue;
            if (_stakes.freeStake(holder) < drawBond) continue;
            drawn[found++] = holder;
        }
        assembly ("memory-safe") {
            mstore(drawn, found)
        }
    }

    /// Of a job whose data admit some verifiers only: these in an order that the seed gives, first those not drawn before in this segment,
    /// then the others. Who has no seat, or no stake for the draw, when the draw is made is passed over: with that nobody brings another
    /// account of its own nearer to the committee.
    function _selectListed(uint64 segmentId, SegmentRecord storage s, JobRecord storage j, Stage memory g, bytes32 seed)
        private
        view
        returns (address[] memory drawn)
    {
        address[] memory list = IDatasets(_stakes.datasets()).verifiersOf(s.job);
        (uint256 wanted, uint128 drawBond) = (j.verifiers, j.drawBond);
        drawn = new address[](wanted);
        uint256 found = 0;
        uint256 tries = g.round == 0 ? list.length : 2 * list.length;
        for (uint256 i = 0; i < tries && found < wanted; ++i) {
            if (i < list.length) {
                uint256 k = i + Hashes.slot(seed, uint32(i), uint64(list.length - i));
                (list[i], list[k]) = (list[k], list[i]);
            }
            address holder = list[i % list.length];
            if (holder == s.provider || holder == j.client || _among(drawn, found, holder)) continue;
            if (i < list.length && _drawnBefore(segmentId, g.round, holder)) continue;
            if (!_stakes.seated(holder) || _stakes.freeStake(holder) < drawBond) continue;
            drawn[found++] = holder;
        }
        assembly ("memory-safe") {
            mstore(drawn, found)
        }
    }

    function _among(address[] memory drawn, uint256 found, address who) private pure returns (bool) {
        for (uint256 i = 0; i < found; ++i) {
            if (drawn[i] == who) return true;
        }
        return false;
    }

    function _drawnBefore(uint64 segmentId, uint256 round, address who) private view returns (bool) {
        for (uint256 r = 0; r < round; ++r) {
            (uint256 i,) = _find(segmentId, _stageOf(segmentId, r), who);
            if (i < SEATS) return true;
        }
        return false;
    }

    // ---- receipts ------------------------------------------------------------------------------------------------------------

    function served(uint64 segmentId, address[] calldata verifiers, bytes[] calldata signatures) external {
        (SegmentRecord storage s, Stage memory g) = _in(segmentId, SegmentState.DRAWN);
        JobRecord storage j = _jobs[s.job];
        _needBefore(g.due);
        if (verifiers.length != signatures.length) revert LengthMismatch(verifiers.length, signatures.length);
        bytes32 structHash = keccak256(abi.encode(RECEIPT_TYPE, segmentId, g.round));
        bytes32 domain = _domainSeparatorV4();
        uint256 receipts = 0;
        for (uint256 i = 0; i < verifiers.length; ++i) {
            (uint256 index,) = _needMember(segmentId, g, verifiers[i]);
            uint16 bit = uint16(1 << index);
            if (g.receipted & bit != 0) continue;
            _needConsent(verifiers[i], domain, structHash, signatures[i]);
            g.receipted |= bit;
            ++receipts;
        }
        if (receipts < j.quorum) revert NoQuorum(receipts, j.quorum);
        _serve(segmentId, s, g, j);
    }

    function redraw(uint64 segmentId) external nonReentrant {
        (SegmentRecord storage s, Stage memory g) = _in(segmentId, SegmentState.DRAWN);
        JobRecord storage j = _jobs[s.job];
        _needAfter(g.due);
        bool keys = _count(g.keyed) >= j.quorum;
        if (keys && g.round == j.redraws && g.phase == Phase.NONE) return _ask(segmentId, s, g, j);
        for (uint256 i = 0; i < g.count; ++i) {
            _freeDraw(segmentId, s, g, i, j.drawBond);
        }
        string memory reason = keys ? "not served" : "keys withheld";
        if (g.round < j.redraws) _nextRound(segmentId, s, j, g, reason);
        else _fail(segmentId, s, j, g, reason, true);
    }

    function _count(uint256 bits) private pure returns (uint256 count) {
        for (; bits > 0; bits &= bits - 1) {
            ++count;
        }
    }

    function _freeDraw(uint64 segmentId, SegmentRecord storage s, Stage memory g, uint256 i, uint256 drawBond) private {
        (address verifier, uint8 lane) = _member(segmentId, g.round, i);
        if (_stays(segmentId, s, verifier)) return;
        uint256 left = _takeDrawBond(segmentId, s, g, i, verifier, drawBond);
        _give(verifier, 0, left, lane);
    }

    // ---- seals that were kept together -------------------------------------------------------------------------------------------

    function spread(uint64 segmentId, uint32 round, bytes calldata seals) external {
        SegmentRecord storage s = _segment(segmentId);
        if (round > Stages.round(s.stage)) revert NotTogether(segmentId);
        Stage memory g = _stageOf(segmentId, round);
        if (!g.together || _terminal(Stages.state(s.stage))) revert NotTogether(segmentId);
        if (keccak256(seals) != _words[s.provider][_sealsKey(segmentId, round, s.lane)]) revert BadSeals(segmentId);
        for (uint256 i = 0; i < g.count; ++i) {
            (address verifier, uint8 lane) = _member(segmentId, round, i);
            // One whose draw bond is free has given back its lane.
            if (g.bonded >> i & 1 == 1) _words[verifier][_key(segmentId, round, lane)] = bytes32(seals[i * 52 + 20:i * 52 + 52]);
        }
        g.together = false;
        _keep(segmentId, round, g);
    }
}
