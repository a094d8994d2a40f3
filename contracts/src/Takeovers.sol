// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IJobs} from "./interfaces/IJobs.sol";
import {ITakeovers} from "./interfaces/ITakeovers.sol";
import {Job, Offer} from "./types/Types.sol";

/// A scheduler that cannot be taken over by whoever fills the job with its friends.
///
/// A job names this contract as its scheduler, so Jobs takes assignments from it, and from the client; and it gives Jobs' own takeover window the
/// longest time there is. Here the client has said who schedules, for how long a range may stay open, and with which providers anybody may go on
/// after that. Each range begins again: the job's scheduler may come back at any time.
///
/// It holds no money and has no owner; it only reads Jobs and calls `assign`, and Jobs does not know it. It is deployed at the address that follows from
/// its code and Jobs' address (CREATE2). The plan is kept by client and document, so that it can be there before the job is.
contract Takeovers is ITakeovers {
    uint256 private constant MOST_PROVIDERS = 64;
    uint32 private constant MOST_PATIENCE = 7 days;

    struct Plan {
        address scheduler;
        uint32 patience;
        bytes32 providers;
    }

    IJobs private immutable _jobs;
    mapping(address client => mapping(bytes32 specDigest => Plan)) public plan;

    constructor(address jobs_) {
        _jobs = IJobs(jobs_);
    }

    function entrust(bytes32 specDigest, address scheduler, uint32 patience, address[] calldata providers) external {
        if (scheduler == address(0)) revert BadTerm("scheduler", 0, 1, type(uint160).max);
        if (patience == 0 || patience > MOST_PATIENCE) revert BadTerm("patience", patience, 1, MOST_PATIENCE);
        if (providers.length > MOST_PROVIDERS) revert BadTerm("providers", providers.length, 0, MOST_PROVIDERS);
        if (plan[msg.sender][specDigest].scheduler != address(0)) revert AlreadyEntrusted(msg.sender, specDigest);
        plan[msg.sender][specDigest] = Plan(scheduler, patience, keccak256(abi.encode(providers)));
        emit Entrusted(msg.sender, specDigest, scheduler, patience, providers);
    }

    function assign(Offer calldata offer, bytes calldata signature, address[] calldata providers) external returns (uint64) {
        Job memory job = _jobs.job(offer.job);
        Plan memory p = plan[job.client][job.specDigest];
        if (p.scheduler == address(0)) revert NotEntrusted(offer.job);
        if (msg.sender != p.scheduler) {
            uint64 since = offer.parent == 0 ? job.openSince : _jobs.segment(offer.parent).openSince;
            if (block.timestamp <= since + p.patience) revert NotEntitledToAssign(msg.sender, since + p.patience);
            if (keccak256(abi.encode(providers)) != p.providers) revert WrongProviders(p.providers);
            _needListed(offer.provider, providers);
        }
        return _jobs.assign(offer, signature);
    }

    function _needListed(address provider, address[] calldata providers) private pure {
        for (uint256 i = 0; i < providers.length; ++i) {
            if (providers[i] == provider) return;
        }
        revert NotListed(provider);
    }
}
