// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Params} from "./Types.sol";

/// What the bounties of a network speak of. Field order is that of the messages in assay/chain.py.

/// What an evaluation must be: a job's terms (types/Types.sol) as far as its result depends on them, and how closely it is checked.
struct Evaluation {
    bytes32 programRoot;
    bytes32 datasetRoot;
    bytes32 scheduleRoot;
    uint64 steps;
    uint32 microBatches;
    uint32 segmentSteps;
    uint64 microWeight;
    uint64 updateWeight;
    uint32 microLeaves;
    uint32 updateLeaves;
    Params params;
}

/// A tensor of a state, by its name. In `BountyTerms.start` a root of zero stands for what the training has left under that name.
struct Entry {
    bytes name;
    bytes32 root;
}

/// `amount` in all is paid from `threshold` on. A threshold is an integer, or the order of a float32 (Bounties.order).
struct Rung {
    int64 threshold;
    uint128 amount;
}

struct BountyTerms {
    // The training.
    uint64 job;
    // Seconds after the training is over in which a result counts.
    uint32 window;
    Evaluation evaluation;
    // All entries of the state that the evaluation starts from, by name.
    Entry[] start;
    // The entry of its last state that decides: a tensor without axes of `dtype` (1 f32, 3 i64, as in tensor roots).
    bytes metric;
    uint8 dtype;
    // Less is better.
    bool atMost;
    // Each pays more than the one before, and is harder to reach.
    Rung[] rungs;
}

/// A bounty as it is kept.
struct Bounty {
    // keccak256 of its BountyTerms.
    bytes32 terms;
    address sponsor;
    uint64 job;
    uint32 window;
    // What is locked: the last rung's.
    uint96 amount;
    // By the best result that has been shown.
    uint96 reached;
    // The training's last settled segment; 0 until the window begins, or when nothing of it has settled.
    uint64 last;
    // End of the window; 0 until it begins.
    uint40 until;
    bool shown;
    // The sponsor has had back what is not paid.
    bool returned;
}
