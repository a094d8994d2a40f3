// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Phase, SegmentState} from "../types/Types.sol";

/// What Jobs stores, in as few words as it can be: a word that is written for the first time costs 22,100 gas, one that is changed
/// 5,000, and a settlement touches some dozen. Readers get the structs of types/Types.sol.

/// Terms and state of a job. The ranges are those of libraries/Bounds.sol; amounts fit 96 bits or are refused.
struct JobRecord {
    // What changes.
    uint96 escrow;
    uint64 child;
    uint40 openSince;
    uint32 live;
    bool cancelled;
    bool completed;
    bool closed;
    // What a payment needs.
    uint64 fee;
    uint96 drawBond;
    uint16 noShowBps;
    uint16 lateFeeBps;
    uint16 bondTenths;
    uint8 verifiers;
    uint8 redraws;
    uint24 serveWindow;
    // Its data are others' (Datasets): LICENSED, or LISTED where these admit some verifiers only.
    uint8 licensed;
    // What a committee needs.
    uint32 steps;
    uint24 sealWindow;
    uint24 revealWindow;
    uint24 openWindow;
    uint24 challengeWindow;
    uint24 microBatches;
    uint8 finality;
    uint8 links;
    uint8 quorum;
    uint8 openings;
    uint32 microLeaves;
    uint32 updateLeaves;
    // The rest.
    address client;
    uint64 deadline;
    uint8 depth;
    address scheduler;
    uint24 activateWindow;
    uint24 leaseWindow;
    uint24 takeoverWindow;
    address keyService;
    uint64 priceCap;
    uint32 segmentSteps;
    uint64 microWeight;
    uint64 updateWeight;
    uint80 bondBase;
    bytes32 specDigest;
    bytes32 programRoot;
    bytes32 stateRoot;
    bytes32 datasetRoot;
    bytes32 scheduleRoot;
}

// What a job's data are to it: see JobRecord.licensed. 0: its own.
uint8 constant LICENSED = 1;
uint8 constant LISTED = 2;

struct SegmentRecord {
    // A packed Stage.
    uint256 stage;
    address provider;
    uint64 job;
    // Open disputes.
    uint16 disputes;
    // The provider's lane (Base).
    uint8 lane;
    // The job's key service has released a key to the provider.
    bool keyed;
    uint88 price;
    // The provider's reservation; 0 once it is released.
    uint88 bond;
    uint64 parent;
    // Something of a reservation for this segment has been seized.
    bool seized;
    // It is the last of its job.
    bool last;
    uint32 start;
    uint32 stop;
    // The live segment that starts where this one stops; 0 when that range is open, since `openSince`.
    uint64 child;
    uint40 openSince;
    // It is WITHHELD, and the fees of those who said no are still held: a dispute may bear them out.
    bool keepsFees;
    bytes32 linkRoot;
    bytes32 endRoot;
    bytes32 commitment;
}

/// What a segment's steps change, one word: where it stands, and a bit for each drawn verifier of the round, in the draw's order.
/// `due` is the time that the state waits for: activateBy, leaseUntil, drawBy, serveBy, sealBy, revealBy, openBy, settleAfter.
/// `atBlock` is a block: COMMITTED, that whose seats are drawn from; DRAWN, the seed's or, in SHOW, that which names the chunk; SERVED,
/// that of the openings (0: not fixed yet).
struct Stage {
    SegmentState state;
    Phase phase;
    uint8 round;
    uint8 count;
    // Opened disagreeing votes, over all rounds.
    uint8 negatives;
    uint40 due;
    uint40 atBlock;
    // The hash of the openings' block is recorded.
    bool hashed;
    // The seals are kept as one hash, in a word of the provider's lane (Base).
    bool together;
    // Its draw bond is reserved.
    uint16 bonded;
    // The job's key service has released a key to it.
    uint16 keyed;
    uint16 receipted;
    uint16 isSealed;
    uint16 revealed;
    uint16 opened;
    uint16 agrees;
    // It is on the yes side of its round.
    uint16 prevailed;
}

/// A Stage as a word. By hand: the compiler reads and writes storage once for every field.
library Stages {
    function unpack(uint256 word) internal pure returns (Stage memory g) {
        g.state = SegmentState(uint8(word));
        g.phase = Phase(uint8(word >> 8));
        g.round = uint8(word >> 16);
        g.count = uint8(word >> 24);
        g.negatives = uint8(word >> 32);
        g.due = uint40(word >> 40);
        g.atBlock = uint40(word >> 80);
        g.hashed = word >> 120 & 1 == 1;
        g.together = word >> 121 & 1 == 1;
        g.bonded = uint16(word >> 128);
        g.keyed = uint16(word >> 144);
        g.receipted = uint16(word >> 160);
        g.isSealed = uint16(word >> 176);
        g.revealed = uint16(word >> 192);
        g.opened = uint16(word >> 208);
        g.agrees = uint16(word >> 224);
        g.prevailed = uint16(word >> 240);
    }

    function pack(Stage memory g) internal pure returns (uint256 word) {
        word = uint256(uint8(g.state)) | uint256(uint8(g.phase)) << 8 | uint256(g.round) << 16 | uint256(g.count) << 24;
        word |= uint256(g.negatives) << 32 | uint256(g.due) << 40 | uint256(g.atBlock) << 80;
        if (g.hashed) word |= 1 << 120;
        if (g.together) word |= 1 << 121;
        word |= uint256(g.bonded) << 128 | uint256(g.keyed) << 144 | uint256(g.receipted) << 160;
        word |= uint256(g.isSealed) << 176 | uint256(g.revealed) << 192 | uint256(g.opened) << 208;
        word |= uint256(g.agrees) << 224 | uint256(g.prevailed) << 240;
    }

    function state(uint256 word) internal pure returns (SegmentState) {
        return SegmentState(uint8(word));
    }

    function round(uint256 word) internal pure returns (uint8) {
        return uint8(word >> 16);
    }
}
