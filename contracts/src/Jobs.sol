// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IJobs} from "./interfaces/IJobs.sol";
import {SegmentState} from "./types/Types.sol";
import {LinkFacts} from "./types/DisputeTypes.sol";
import {Base} from "./jobs/Base.sol";
import {JobRecord, SegmentRecord, Stage, Stages} from "./jobs/Records.sol";
import {Votes} from "./jobs/Votes.sol";

/// Jobs of a network (interfaces/IJobs.sol is all that it answers). One address and one storage (jobs/Base.sol); the code is in five
/// contracts, because a contract may have 24,576 bytes. What a segment is settled with is here, where it costs least: votes
/// (jobs/Votes.sol), settlement, several calls in one transaction; with it what disputes ask. The rest is run by delegatecall: the
/// segment machine (jobs/Segments.sol), the draw (jobs/Checks.sol), what disputes do to it (jobs/Appeals.sol), money and look-up
/// (jobs/Escrow.sol). Which they are is fixed when this is deployed. There is no owner: terms are fixed when a job is posted, limits when this code is deployed.
contract Jobs is Votes {
    address public immutable segments;
    address public immutable checks;
    address public immutable escrow;
    address public immutable appeals;

    constructor(address stakes_, address segments_, address checks_, address escrow_, address appeals_) Base(stakes_) {
        segments = _module(segments_);
        checks = _module(checks_);
        escrow = _module(escrow_);
        appeals = _module(appeals_);
    }

    function _module(address module) private view returns (address) {
        if (IJobs(module).stakes() != address(_stakes)) revert WrongModule(module);
        return module;
    }

    fallback() external {
        address module = _ofSegments(msg.sig) ? segments : _ofChecks(msg.sig) ? checks : _ofAppeals(msg.sig) ? appeals : escrow;
        assembly {
            calldatacopy(0, 0, calldatasize())
            let ok := delegatecall(gas(), module, 0, calldatasize(), 0, 0)
            returndatacopy(0, 0, returndatasize())
            if iszero(ok) { revert(0, returndatasize()) }
            return(0, returndatasize())
        }
    }

    function _ofSegments(bytes4 sig) private pure returns (bool) {
        return sig == IJobs.assign.selector || sig == IJobs.activate.selector || sig == IJobs.lapse.selector
            || sig == IJobs.commit.selector || sig == IJobs.release.selector || sig == IJobs.voidSegment.selector
            || sig == IJobs.clearBond.selector;
    }

    function _ofAppeals(bytes4 sig) private pure returns (bool) {
        return sig == IJobs.disputeOpened.selector || sig == IJobs.disputeResolved.selector || sig == IJobs.disputeVoided.selector
            || sig == IJobs.pardon.selector || sig == IJobs.disclose.selector || sig == IJobs.voteDisputed.selector
            || sig == IJobs.voteResolved.selector || sig == IJobs.seize.selector;
    }

    function _ofChecks(bytes4 sig) private pure returns (bool) {
        return sig == IJobs.draw.selector || sig == IJobs.redraw.selector || sig == IJobs.served.selector
            || sig == IJobs.spread.selector || sig == IJobs.show.selector;
    }

    // ---- several calls, one transaction --------------------------------------------------------------------------------------

    /// Calls of this contract, one after another, as if the sender made each of them. One that is refused changes nothing and leaves the
    /// others as they are: who sends a part of them first spoils nothing. Returns which were taken, a bit each; when none is, it reverts as
    /// the last of them did. One that fails without a word has run out of gas, and all of it reverts: else an estimate of the gas could be
    /// one with which nothing is done.
    function batch(bytes[] calldata calls) external returns (uint256 taken) {
        if (calls.length == 0 || calls.length > MOST_CALLS) revert BadLength("calls", calls.length, MOST_CALLS);
        bytes memory refusal;
        for (uint256 i = 0; i < calls.length; ++i) {
            (bool ok, bytes memory said) = address(this).delegatecall(calls[i]);
            if (ok) taken |= 1 << i;
            else if (said.length == 0) revert OutOfGas(i);
            else refusal = said;
        }
        if (taken > 0) return taken;
        assembly ("memory-safe") {
            revert(add(refusal, 32), mload(refusal))
        }
    }

    // ---- settlement ----------------------------------------------------------------------------------------------------------

    function settle(uint64 segmentId) external {
        (SegmentRecord storage s, Stage memory g) = _in(segmentId, SegmentState.ATTESTED);
        _needAfter(g.due);
        _needNoDispute(segmentId, s);
        uint64 parent = s.parent;
        if (parent != 0 && _stateOf(parent) != SegmentState.SETTLED) revert ParentUnsettled(parent, _stateOf(parent));
        // The bond's field may stay: SETTLED says that it is free.
        _end(segmentId, s, g, SegmentState.SETTLED, s.seized ? _takeBond(segmentId, s) : s.bond);
    }

    // ---- look-up -------------------------------------------------------------------------------------------------------------

    function credit(address who) external view returns (uint128) {
        return uint96(_accounts[who]);
    }

    function heldOf(address who) external view returns (uint128) {
        return _heldOf(who);
    }

    function reservation(address who, uint64 segmentId) external view returns (uint128) {
        return _reservation(segmentId, who);
    }

    // ---- what a dispute must know ----------------------------------------------------------------------------------------------

    function commitmentOf(uint64 segmentId) external view returns (bytes32) {
        return _segment(segmentId).commitment;
    }

    function linksOf(uint64 segmentId) public view returns (address provider, bytes32 linkRoot, uint64 links) {
        SegmentRecord storage s = _segment(segmentId);
        return (s.provider, s.linkRoot, (s.stop - s.start) * (uint64(_jobs[s.job].microBatches) + 1));
    }

    function linkFacts(uint64 segmentId, uint64 unit) external view returns (LinkFacts memory f) {
        (, f.linkRoot, f.links) = linksOf(segmentId);
        SegmentRecord storage s = _segments[segmentId];
        JobRecord storage j = _jobs[s.job];
        (f.programRoot, f.datasetRoot, f.scheduleRoot) = (j.programRoot, j.datasetRoot, j.scheduleRoot);
        (f.start, f.steps, f.micros) = (s.start, j.steps, j.microBatches);
        // The state before a later step is a link's end.
        if (unit <= f.micros) f.startRoot = s.parent == 0 ? j.stateRoot : _segments[s.parent].endRoot;
        f.leaves = unit % (uint64(f.micros) + 1) == f.micros ? j.updateLeaves : j.microLeaves;
    }

    function partyTo(uint64 segmentId, address who) external view returns (uint32 open_, bool party, uint32 replay) {
        SegmentRecord storage s = _segment(segmentId);
        party = who == _jobs[s.job].client;
        uint256 last = Stages.round(s.stage);
        for (uint256 round = 0; round <= last && !party; ++round) {
            (uint256 i,) = _find(segmentId, _stageOf(segmentId, round), who);
            party = i < SEATS;
        }
        return (s.disputes, party, _jobs[s.job].sealWindow);
    }
}
