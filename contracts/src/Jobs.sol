// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IJobs} from "./interfaces/IJobs.sol";
import {Check, Job, Params, Phase, Segment, SegmentState} from "./types/Types.sol";
import {LinkFacts} from "./types/DisputeTypes.sol";
import {Base} from "./jobs/Base.sol";
import {Escrow} from "./jobs/Escrow.sol";
import {JobRecord, SegmentRecord, Stage, Stages} from "./jobs/Records.sol";

/// Jobs of a network (interfaces/IJobs.sol is all that it answers). One address and one storage (jobs/Base.sol); the code is in four
/// contracts, because a contract may have 24,576 bytes: escrow (jobs/Escrow.sol) and look-up are here, the segment machine
/// (jobs/Segments.sol), its committees (jobs/Checks.sol) and what disputes do to it (jobs/Appeals.sol) are run by delegatecall. Which they are is fixed when this is deployed.
/// There is no owner: terms are fixed when a job is posted, limits when this code is deployed.
contract Jobs is Escrow {
    address public immutable segments;
    address public immutable checks;
    address public immutable appeals;

    constructor(address stakes_, address segments_, address checks_, address appeals_) Base(stakes_) {
        if (IJobs(segments_).stakes() != stakes_) revert WrongModule(segments_);
        if (IJobs(checks_).stakes() != stakes_) revert WrongModule(checks_);
        if (IJobs(appeals_).stakes() != stakes_) revert WrongModule(appeals_);
        segments = segments_;
        checks = checks_;
        appeals = appeals_;
    }

    fallback() external {
        address module = _ofCommittee(msg.sig) ? checks : _ofDisputes(msg.sig) ? appeals : segments;
        assembly {
            calldatacopy(0, 0, calldatasize())
            let ok := delegatecall(gas(), module, 0, calldatasize(), 0, 0)
            returndatacopy(0, 0, returndatasize())
            if iszero(ok) { revert(0, returndatasize()) }
            return(0, returndatasize())
        }
    }

    function _ofCommittee(bytes4 sig) private pure returns (bool) {
        return sig == IJobs.draw.selector || sig == IJobs.redraw.selector || sig == IJobs.served.selector
            || sig == IJobs.attest.selector || sig == IJobs.reveal.selector || sig == IJobs.closeReveals.selector
            || sig == IJobs.decide.selector;
    }

    function _ofDisputes(bytes4 sig) private pure returns (bool) {
        return sig == IJobs.disputeOpened.selector || sig == IJobs.disputeResolved.selector || sig == IJobs.disputeVoided.selector
            || sig == IJobs.pardon.selector || sig == IJobs.disclose.selector || sig == IJobs.voteDisputed.selector
            || sig == IJobs.voteResolved.selector || sig == IJobs.seize.selector;
    }

    // ---- look-up -------------------------------------------------------------------------------------------------------------

    function token() external view returns (address) {
        return address(_token);
    }

    function disputes() external view returns (address) {
        return _stakes.disputes();
    }

    function credit(address who) external view returns (uint128) {
        return uint96(_accounts[who]);
    }

    function heldOf(address who) external view returns (uint128) {
        return _heldOf(who);
    }

    function settledOf(address who) external view returns (uint16) {
        return uint16(_accounts[who] >> SETTLED);
    }

    function reservation(address who, uint64 segmentId) external view returns (uint128) {
        return _reservation(segmentId, who);
    }

    function job(uint64 jobId) external view returns (Job memory t) {
        JobRecord storage j = _job(jobId);
        (t.client, t.cancelled, t.completed, t.closed) = (j.client, j.cancelled, j.completed, j.closed);
        (t.live, t.escrow, t.child, t.openSince) = (j.live, j.escrow, j.child, j.openSince);
        (t.specDigest, t.programRoot, t.stateRoot) = (j.specDigest, j.programRoot, j.stateRoot);
        (t.datasetRoot, t.scheduleRoot) = (j.datasetRoot, j.scheduleRoot);
        (t.steps, t.microBatches, t.segmentSteps) = (j.steps, j.microBatches, j.segmentSteps);
        (t.microWeight, t.updateWeight) = (j.microWeight, j.updateWeight);
        (t.microLeaves, t.updateLeaves) = (j.microLeaves, j.updateLeaves);
        (t.deadline, t.priceCap, t.fee) = (j.deadline, j.priceCap, j.fee);
        (t.scheduler, t.keyService) = (j.scheduler, j.keyService);
        Params memory p = t.params;
        (p.finality, p.activateWindow, p.leaseWindow) = (j.finality, j.activateWindow, j.leaseWindow);
        (p.takeoverWindow, p.serveWindow, p.sealWindow) = (j.takeoverWindow, j.serveWindow, j.sealWindow);
        (p.revealWindow, p.openWindow, p.challengeWindow) = (j.revealWindow, j.openWindow, j.challengeWindow);
        (p.links, p.verifiers, p.quorum, p.openings) = (j.links, j.verifiers, j.quorum, j.openings);
        (p.redraws, p.depth, p.bondTenths) = (j.redraws, j.depth, j.bondTenths);
        (p.lateFeeBps, p.noShowBps, p.drawBond) = (j.lateFeeBps, j.noShowBps, j.drawBond);
    }

    function segment(uint64 segmentId) external view returns (Segment memory t) {
        SegmentRecord storage s = _segment(segmentId);
        Stage memory g = Stages.unpack(s.stage);
        (t.job, t.parent, t.start, t.stop, t.provider) = (s.job, s.parent, s.start, s.stop, s.provider);
        (t.state, t.phase, t.round, t.keyed) = (g.state, g.phase, g.round, s.keyed);
        (t.price, t.child, t.openSince) = (s.price, s.child, s.openSince);
        t.bond = g.state == SegmentState.SETTLED ? 0 : s.bond;
        t.feesHeld = _terminal(g.state) ? 0 : s.feesHeld;
        (t.disputes, t.negatives) = (s.disputes, g.negatives);
        (t.linkRoot, t.endRoot, t.commitment) = (s.linkRoot, s.endRoot, s.commitment);
        _times(t, g, _jobs[s.job]);
    }

    /// What `due` and `atBlock` of a stage mean.
    function _times(Segment memory t, Stage memory g, JobRecord storage j) private view {
        if (g.state == SegmentState.ASSIGNED) {
            t.activateBy = g.due;
        } else if (g.state == SegmentState.ACTIVE) {
            t.leaseUntil = g.due;
        } else if (g.state == SegmentState.COMMITTED) {
            (t.drawBy, t.seatsBlock, t.seedBlock) = (g.due, g.atBlock, g.atBlock + j.finality);
        } else if (g.state == SegmentState.DRAWN) {
            (t.serveBy, t.seedBlock) = (g.due, g.atBlock);
        } else if (g.phase == Phase.SEAL) {
            (t.sealBy, t.revealBy) = (g.due, g.due + j.revealWindow);
        } else if (g.phase == Phase.REVEAL) {
            (t.revealBy, t.openingBlock) = (g.due, g.atBlock);
        } else if (g.phase == Phase.OPEN) {
            (t.openBy, t.openingBlock) = (g.due, g.atBlock);
        } else {
            t.settleAfter = g.due;
        }
    }

    function commitmentOf(uint64 segmentId) external view returns (bytes32) {
        return _segment(segmentId).commitment;
    }

    function unitsOf(uint64 segmentId) external view returns (uint64[] memory) {
        Stage memory g = Stages.unpack(_segment(segmentId).stage);
        SegmentRecord storage s = _segments[segmentId];
        return _unitsOf(segmentId, _unitCount(s, _jobs[s.job], uint256(g.round) + (g.count > 0 ? 1 : 0)));
    }

    function checksOf(uint64 segmentId, uint32 round) external view returns (Check[] memory told) {
        if (round > Stages.round(_segments[segmentId].stage)) return told;
        Stage memory g = _stageOf(segmentId, round);
        told = new Check[](g.count);
        for (uint256 i = 0; i < g.count; ++i) {
            Check memory c = told[i];
            uint8 lane;
            (c.verifier, lane) = _member(segmentId, round, i);
            (c.bonded, c.keyed, c.receipted) = (_bit(g.bonded, i), _bit(g.keyed, i), _bit(g.receipted, i));
            (c.isSealed, c.revealed, c.opened) = (_bit(g.isSealed, i), _bit(g.revealed, i), _bit(g.opened, i));
            (c.agrees, c.prevailed) = (_bit(g.agrees, i), _bit(g.prevailed, i));
            if (c.bonded && c.isSealed) c.vote = _words[c.verifier][_key(segmentId, round, lane)];
        }
    }

    function _bit(uint16 bits, uint256 i) private pure returns (bool) {
        return bits >> i & 1 == 1;
    }

    function openingSeed(uint64 segmentId) external view returns (bytes32 hash) {
        SegmentRecord storage s = _segment(segmentId);
        Stage memory g = Stages.unpack(s.stage);
        if (g.state != SegmentState.SERVED || g.atBlock == 0) return 0;
        if (g.hashed) return _words[s.provider][_key(segmentId, 0, s.lane)];
        if (block.number > g.atBlock) (hash,) = _reach(g.atBlock);
    }

    // ---- what a dispute must know ----------------------------------------------------------------------------------------------

    function linksOf(uint64 segmentId) public view returns (address provider, bytes32 linkRoot, uint64 links) {
        SegmentRecord storage s = _segment(segmentId);
        return (s.provider, s.linkRoot, (s.stop - s.start) * (uint64(_jobs[s.job].microBatches) + 1));
    }

    function linkFacts(uint64 segmentId, uint64 unit) external view returns (LinkFacts memory f) {
        (, f.linkRoot, f.links) = linksOf(segmentId);
        SegmentRecord storage s = _segments[segmentId];
        JobRecord storage j = _jobs[s.job];
        (f.programRoot, f.datasetRoot, f.scheduleRoot) = (j.programRoot, j.datasetRoot, j.scheduleRoot);
        f.startRoot = s.parent == 0 ? j.stateRoot : _segments[s.parent].endRoot;
        (f.start, f.steps, f.micros) = (s.start, j.steps, j.microBatches);
        f.leaves = unit % (uint64(f.micros) + 1) == f.micros ? j.updateLeaves : j.microLeaves;
    }

    function partyTo(uint64 segmentId, address who) external view returns (uint32 open_, bool party) {
        SegmentRecord storage s = _segment(segmentId);
        party = who == _jobs[s.job].client;
        uint256 last = Stages.round(s.stage);
        for (uint256 round = 0; round <= last && !party; ++round) {
            (uint256 i,) = _find(segmentId, _stageOf(segmentId, round), who);
            party = i < SEATS;
        }
        return (s.disputes, party);
    }

    function domainSeparator() external view returns (bytes32) {
        return _domainSeparatorV4();
    }
}
