// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IJobs} from "./interfaces/IJobs.sol";
import {Check, Job, Segment} from "./types/Types.sol";
import {LinkFacts} from "./types/DisputeTypes.sol";
import {Base} from "./jobs/Base.sol";
import {Escrow} from "./jobs/Escrow.sol";

/// Jobs of a network (interfaces/IJobs.sol is all that it answers). One address and one storage (jobs/Base.sol); the code is in three
/// contracts, because a contract may have 24,576 bytes: escrow (jobs/Escrow.sol) and look-up are here, the segment machine
/// (jobs/Segments.sol) and its committees (jobs/Checks.sol) are run by delegatecall. Which they are is fixed when this is deployed.
/// There is no owner: terms are fixed when a job is posted, limits when this code is deployed.
contract Jobs is Escrow {
    address public immutable segments;
    address public immutable checks;

    constructor(address stakes_, address segments_, address checks_) Base(stakes_) {
        if (IJobs(segments_).stakes() != stakes_) revert WrongModule(segments_);
        if (IJobs(checks_).stakes() != stakes_) revert WrongModule(checks_);
        segments = segments_;
        checks = checks_;
    }

    fallback() external {
        address module = _ofCommittee(msg.sig) ? checks : segments;
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
            || sig == IJobs.open.selector || sig == IJobs.decide.selector;
    }

    // ---- look-up -------------------------------------------------------------------------------------------------------------

    function token() external view returns (address) {
        return address(_token);
    }

    function disputes() external view returns (address) {
        return _stakes.disputes();
    }

    function job(uint64 jobId) external view returns (Job memory) {
        return _job(jobId);
    }

    function segment(uint64 segmentId) external view returns (Segment memory) {
        return _segment(segmentId);
    }

    function commitmentOf(uint64 segmentId) external view returns (bytes32) {
        return _segment(segmentId).commitment;
    }

    function unitsOf(uint64 segmentId) external view returns (uint64[] memory) {
        return _units[segmentId];
    }

    function checksOf(uint64 segmentId, uint32 round) external view returns (Check[] memory) {
        return _checks[segmentId][round];
    }

    function openingSeed(uint64 segmentId) external view returns (bytes32 hash) {
        Segment storage s = _segment(segmentId);
        if (s.openingHash != 0 || s.openingBlock == 0 || block.number <= s.openingBlock) return s.openingHash;
        (hash,) = _reach(s.openingBlock);
    }

    // ---- what a dispute must know ----------------------------------------------------------------------------------------------

    function linksOf(uint64 segmentId) public view returns (address provider, bytes32 linkRoot, uint64 links) {
        Segment storage s = _segment(segmentId);
        return (s.provider, s.linkRoot, (s.stop - s.start) * (uint64(_jobs[s.job].microBatches) + 1));
    }

    function linkFacts(uint64 segmentId, uint64 unit) external view returns (LinkFacts memory f) {
        (, f.linkRoot, f.links) = linksOf(segmentId);
        Segment storage s = _segments[segmentId];
        Job storage j = _jobs[s.job];
        (f.programRoot, f.datasetRoot, f.scheduleRoot) = (j.programRoot, j.datasetRoot, j.scheduleRoot);
        f.startRoot = s.parent == 0 ? j.stateRoot : _segments[s.parent].endRoot;
        (f.start, f.steps, f.micros) = (s.start, j.steps, j.microBatches);
        f.leaves = unit % (uint64(f.micros) + 1) == f.micros ? j.updateLeaves : j.microLeaves;
    }

    function partyTo(uint64 segmentId, address who) external view returns (uint32 open_, bool party) {
        Segment storage s = _segment(segmentId);
        party = who == _jobs[s.job].client;
        for (uint32 round = 0; round <= s.round && !party; ++round) {
            Check[] storage drawn = _checks[segmentId][round];
            for (uint256 i = 0; i < drawn.length && !party; ++i) {
                party = drawn[i].verifier == who;
            }
        }
        return (s.disputes, party);
    }

    function domainSeparator() external view returns (bytes32) {
        return _domainSeparatorV4();
    }
}
