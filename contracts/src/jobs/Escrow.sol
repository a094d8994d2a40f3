// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {Bounds} from "../libraries/Bounds.sol";
import {Params, Terms} from "../types/Types.sol";
import {Base} from "./Base.sol";
import {JobRecord} from "./Records.sol";

/// A job's money: posted and added to, refunded when the job is over, pulled by whom it was credited to.
abstract contract Escrow is Base {
    using SafeERC20 for IERC20;

    function post(Terms calldata terms) external nonReentrant returns (uint64 jobId) {
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
        _give(j.client, 0, refund, "refund", 0, NO_LANE);
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
}
