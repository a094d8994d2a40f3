// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Stakes} from "../../src/Stakes.sol";
import {IDisputes} from "../../src/interfaces/IDisputes.sol";
import {IJobs} from "../../src/interfaces/IJobs.sol";

/// A Disputes contract that does what it is told: what stands behind the interface until there is a dispute game.
contract ToldDisputes is IDisputes {
    IJobs public immutable jobs;
    Stakes public immutable stakes;

    constructor(IJobs jobs_, Stakes stakes_) {
        (jobs, stakes) = (jobs_, stakes_);
    }

    function disputable() external pure returns (bool) {
        return true;
    }

    function opened(uint64 segment) external {
        jobs.disputeOpened(segment);
    }

    function resolved(uint64 segment, bool asserterLost) external {
        jobs.disputeResolved(segment, asserterLost);
    }

    function clear(uint64 segment) external {
        jobs.clearBond(segment);
    }

    function slash(address who, uint64 segment, uint128 amount, uint128 burnt) external {
        stakes.slash(who, segment, amount, burnt);
    }
}
