// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IJobsLog} from "../interfaces/IJobs.sol";
import {Params, Terms} from "../types/Types.sol";

/// What terms a job may have, so that no loop is long, no window without end, no sum overflows, and nobody is drawn into
/// conditions that no one would sign.
library Bounds {
    uint32 internal constant MOST_WINDOW = 7 days;
    uint256 internal constant CID_BYTES = 36;
    /// Units that a segment's rounds may check together: each costs every verifier a replay and a trace root on chain.
    uint256 internal constant MOST_UNITS = 64;

    function check(Terms calldata terms, uint128 seatStake) internal view {
        cid(terms.spec);
        within("steps", terms.steps, 1, type(uint32).max);
        within("micro_batches", terms.microBatches, 1, 1 << 20);
        within("segment_steps", terms.segmentSteps, 1, type(uint32).max);
        within("micro_weight", terms.microWeight, 1, 1 << 40);
        within("update_weight", terms.updateWeight, 1, 1 << 40);
        within("micro_leaves", terms.microLeaves, 2, type(uint32).max);
        within("update_leaves", terms.updateLeaves, 2, type(uint32).max);
        within("price_cap", terms.priceCap, 1, type(uint64).max);
        within("fee", terms.fee, 0, type(uint64).max);
        within("budget", terms.budget, 1, type(uint64).max);
        within("deadline", terms.deadline, block.timestamp + 1, type(uint64).max);
        if (terms.scheduler == address(0)) revert IJobsLog.BadTerm("scheduler", 0, 1, type(uint160).max);
        if (terms.keyService == address(0)) revert IJobsLog.BadTerm("key_service", 0, 1, type(uint160).max);
        check(terms.params, seatStake);
        if (terms.params.links == 0) {
            within("links of a segment", uint256(terms.segmentSteps) * (uint256(terms.microBatches) + 1), 1, MOST_UNITS);
        }
    }

    function check(Params calldata p, uint128 seatStake) private pure {
        within("finality", p.finality, 1, 64);
        within("activate_window", p.activateWindow, 1, MOST_WINDOW);
        within("lease_window", p.leaseWindow, 1, MOST_WINDOW);
        within("takeover_window", p.takeoverWindow, 1, MOST_WINDOW);
        within("serve_window", p.serveWindow, 1, MOST_WINDOW);
        within("seal_window", p.sealWindow, 1, MOST_WINDOW);
        within("reveal_window", p.revealWindow, 1, MOST_WINDOW);
        within("open_window", p.openWindow, 1, MOST_WINDOW);
        within("challenge_window", p.challengeWindow, 1, MOST_WINDOW);
        within("links", p.links, 0, 16);
        within("verifiers", p.verifiers, 1, 16);
        within("quorum", p.quorum, p.verifiers / 2 + 1, p.verifiers);
        within("openings", p.openings, 1, 8);
        within("redraws", p.redraws, 0, 4);
        within("links * (1 + redraws)", p.links * (1 + p.redraws), 0, MOST_UNITS);
        within("depth", p.depth, 1, 8);
        within("bond_tenths", p.bondTenths, 0, 1000);
        within("late_fee_bps", p.lateFeeBps, 0, 10_000);
        within("no_show_bps", p.noShowBps, 0, 10_000);
        within("draw_bond", p.drawBond, 0, seatStake);
        within("bond_base", p.bondBase, 0, type(uint80).max);
    }

    /// A binary CIDv1 over SHA-256: version 1, raw (0x55) or dag-pb (0x70), sha2-256 (0x12), 32 bytes (0x20).
    function cid(bytes calldata data) internal pure {
        if (
            data.length != CID_BYTES || data[0] != 0x01 || (data[1] != 0x55 && data[1] != 0x70) || data[2] != 0x12
                || data[3] != 0x20
        ) revert IJobsLog.BadCid(data.length);
    }

    function within(string memory name, uint256 value, uint256 least, uint256 most) private pure {
        if (value < least || value > most) revert IJobsLog.BadTerm(name, value, least, most);
    }
}
