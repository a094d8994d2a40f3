// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Bounds} from "../libraries/Bounds.sol";
import {Job, Terms} from "../types/Types.sol";
import {Base} from "./Base.sol";

/// A job's money: posted and added to, refunded when the job is over, pulled by whom it was credited to.
abstract contract Escrow is Base {
    using SafeERC20 for IERC20;

    function post(Terms calldata terms) external nonReentrant returns (uint64 jobId) {
        Bounds.check(terms, _stakes.seatStake());
        jobId = ++jobCount;
        Job storage j = _jobs[jobId];
        j.client = msg.sender;
        j.escrow = terms.budget;
        j.openSince = _now();
        j.specDigest = terms.specDigest;
        j.programRoot = terms.programRoot;
        j.stateRoot = terms.stateRoot;
        j.datasetRoot = terms.datasetRoot;
        j.scheduleRoot = terms.scheduleRoot;
        j.steps = terms.steps;
        j.microBatches = terms.microBatches;
        j.segmentSteps = terms.segmentSteps;
        j.microWeight = terms.microWeight;
        j.updateWeight = terms.updateWeight;
        j.microLeaves = terms.microLeaves;
        j.updateLeaves = terms.updateLeaves;
        j.deadline = terms.deadline;
        j.priceCap = terms.priceCap;
        j.fee = terms.fee;
        j.scheduler = terms.scheduler;
        j.keyService = terms.keyService;
        j.params = terms.params;
        emit JobPosted(jobId, msg.sender, terms);
        _pull(terms.budget);
    }

    function fund(uint64 jobId, uint128 amount) external nonReentrant {
        Job storage j = _job(jobId);
        if (amount == 0) revert ZeroAmount();
        if (j.cancelled) revert JobIsCancelled(jobId);
        if (j.completed) revert JobIsCompleted(jobId);
        j.escrow += amount;
        emit JobFunded(jobId, amount);
        _pull(amount);
    }

    function cancel(uint64 jobId) external {
        Job storage j = _job(jobId);
        if (j.cancelled) revert JobIsCancelled(jobId);
        if (j.completed) revert JobIsCompleted(jobId);
        if (msg.sender != j.client && block.timestamp <= j.deadline) revert NotClient(msg.sender, j.client);
        j.cancelled = true;
        emit JobCancelled(jobId);
    }

    function close(uint64 jobId) external {
        Job storage j = _job(jobId);
        if (j.closed) revert JobIsClosed(jobId);
        if (j.live > 0 || !(j.completed || j.cancelled)) revert JobIsLive(jobId, j.live);
        j.closed = true;
        uint128 refund = j.escrow;
        j.escrow = 0;
        emit JobClosed(jobId, refund);
        _credit(j.client, 0, refund, "refund");
    }

    function withdraw() external nonReentrant {
        uint128 amount = credit[msg.sender];
        if (amount == 0) revert NothingToWithdraw(msg.sender);
        credit[msg.sender] = 0;
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
