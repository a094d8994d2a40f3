// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {Bounds} from "../libraries/Bounds.sol";
import {IDatasets} from "../interfaces/IDatasets.sol";
import {Check, Job, Params, Phase, Segment, SegmentState, Terms} from "../types/Types.sol";
import {Base} from "./Base.sol";
import {JobRecord, LICENSED, LISTED, SegmentRecord, Stage, Stages} from "./Records.sol";

/// A job's money: posted and added to, refunded when the job is over, pulled by whom it was credited to. And what readers are told.
/// Code that Jobs runs by delegatecall (see Jobs.sol); by itself it holds nothing.
contract Escrow is Base {
    using SafeERC20 for IERC20;

    constructor(address stakes_) Base(stakes_) {}

    function post(Terms calldata terms) external nonReentrant returns (uint64 jobId) {
        return _post(terms);
    }

    function postLicensed(Terms calldata terms, bytes calldata uses) external nonReentrant returns (uint64 jobId) {
        address datasets = _stakes.datasets();
        if (datasets == address(0)) revert NoDatasets();
        jobId = _post(terms);
        _jobs[jobId].licensed = LICENSED;
        if (IDatasets(datasets).open(jobId, uses)) _jobs[jobId].licensed = LISTED;
    }

    function _post(Terms calldata terms) private returns (uint64 jobId) {
        Bounds.check(terms, _stakes.seatStake());
        jobId = ++jobCount;
        JobRecord storage j = _jobs[jobId];
        j.client = msg.sender;
        j.escrow = uint96(terms.budget);
        j.openSince = uint40(block.timestamp);
        j.specDigest = terms.specDigest;
        j.programRoot = terms.programRoot;
        j.stateRoot = terms.stateRoot;
        j.datasetRoot = terms.datasetRoot;
        j.scheduleRoot = terms.scheduleRoot;
        j.steps = uint32(terms.steps);
        j.microBatches = uint24(terms.microBatches);
        j.segmentSteps = terms.segmentSteps;
        j.microWeight = terms.microWeight;
        j.updateWeight = terms.updateWeight;
        j.microLeaves = terms.microLeaves;
        j.updateLeaves = terms.updateLeaves;
        j.deadline = terms.deadline;
        j.priceCap = uint64(terms.priceCap);
        j.fee = uint64(terms.fee);
        j.scheduler = terms.scheduler;
        j.keyService = terms.keyService;
        _takeParams(j, terms.params);
        emit JobPosted(jobId, msg.sender, terms);
        _pull(terms.budget);
    }

    /// Within their bounds, all fit.
    function _takeParams(JobRecord storage j, Params calldata p) private {
        j.finality = uint8(p.finality);
        j.activateWindow = uint24(p.activateWindow);
        j.leaseWindow = uint24(p.leaseWindow);
        j.takeoverWindow = uint24(p.takeoverWindow);
        j.serveWindow = uint24(p.serveWindow);
        j.sealWindow = uint24(p.sealWindow);
        j.revealWindow = uint24(p.revealWindow);
        j.openWindow = uint24(p.openWindow);
        j.challengeWindow = uint24(p.challengeWindow);
        j.links = uint8(p.links);
        j.verifiers = uint8(p.verifiers);
        j.quorum = uint8(p.quorum);
        j.openings = uint8(p.openings);
        j.redraws = uint8(p.redraws);
        j.depth = uint8(p.depth);
        j.bondTenths = uint16(p.bondTenths);
        j.lateFeeBps = uint16(p.lateFeeBps);
        j.noShowBps = uint16(p.noShowBps);
        j.drawBond = SafeCast.toUint96(p.drawBond);
        j.bondBase = uint80(p.bondBase);
    }

    function fund(uint64 jobId, uint128 amount) external nonReentrant {
        JobRecord storage j = _job(jobId);
        if (amount == 0) revert ZeroAmount();
        if (j.cancelled) revert JobIsCancelled(jobId);
        if (j.completed) revert JobIsCompleted(jobId);
        j.escrow = SafeCast.toUint96(uint256(j.escrow) + amount);
        emit JobFunded(jobId, amount);
        _pull(amount);
    }

    function cancel(uint64 jobId) external {
        JobRecord storage j = _job(jobId);
        if (j.cancelled) revert JobIsCancelled(jobId);
        if (j.completed) revert JobIsCompleted(jobId);
        if (msg.sender != j.client && block.timestamp <= j.deadline) revert NotClient(msg.sender, j.client);
        j.cancelled = true;
        emit JobCancelled(jobId);
    }

    function close(uint64 jobId) external {
        JobRecord storage j = _job(jobId);
        if (j.closed) revert JobIsClosed(jobId);
        if (j.live > 0 || !(j.completed || j.cancelled)) revert JobIsLive(jobId, j.live);
        j.closed = true;
        uint128 refund = j.escrow;
        j.escrow = 0;
        emit JobClosed(jobId, refund);
        if (refund == 0) return;
        _give(j.client, refund, 0, NO_LANE);
        emit Credited(j.client, 0, refund, "refund");
    }

    function withdraw() external nonReentrant {
        uint256 account = _accounts[msg.sender];
        uint128 amount = uint96(account);
        if (amount == 0) revert NothingToWithdraw(msg.sender);
        _accounts[msg.sender] = account - amount;
        emit Withdrawn(msg.sender, amount);
        _token.safeTransfer(msg.sender, amount);
    }

    /// Takes money from the sender; a token that delivers another amount (fees on transfer) is refused.
    function _pull(uint128 amount) private {
        uint256 before = _token.balanceOf(address(this));
        _token.safeTransferFrom(msg.sender, address(this), amount);
        uint256 received = _token.balanceOf(address(this)) - before;
        if (received != amount) revert UnsupportedToken(amount, received);
    }

    // ---- look-up -------------------------------------------------------------------------------------------------------------

    function token() external view returns (address) {
        return address(_token);
    }

    function disputes() external view returns (address) {
        return _stakes.disputes();
    }

    function settledOf(address who) external view returns (uint16) {
        return uint16(_accounts[who] >> SETTLED);
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
        (p.lateFeeBps, p.noShowBps, p.drawBond, p.bondBase) = (j.lateFeeBps, j.noShowBps, j.drawBond, j.bondBase);
    }

    function segment(uint64 segmentId) external view returns (Segment memory t) {
        SegmentRecord storage s = _segment(segmentId);
        Stage memory g = Stages.unpack(s.stage);
        (t.job, t.parent, t.start, t.stop, t.provider) = (s.job, s.parent, s.start, s.stop, s.provider);
        (t.state, t.phase, t.round, t.keyed) = (g.state, g.phase, g.round, s.keyed);
        (t.price, t.child, t.openSince) = (s.price, s.child, s.openSince);
        t.bond = g.state == SegmentState.SETTLED ? 0 : s.bond;
        t.feesHeld = uint128(_terminal(g.state) ? _keptFees(s, g, _jobs[s.job]) : _feesOf(_jobs[s.job]));
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
            if (c.bonded && c.isSealed && !g.together) c.vote = _words[c.verifier][_key(segmentId, round, lane)];
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

    function domainSeparator() external view returns (bytes32) {
        return _domainSeparatorV4();
    }
}
