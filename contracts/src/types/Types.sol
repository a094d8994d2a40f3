// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// What the contracts speak of. Field order is that of the messages in assay/chain.py; docs/protocol.md has the rules.
/// Times are seconds of block time, block numbers are named so, amounts are in the token's smallest unit.

enum SegmentState {
    NONE,
    ASSIGNED,
    ACTIVE,
    COMMITTED,
    DRAWN,
    SERVED,
    ATTESTED,
    SETTLED,
    LAPSED,
    WITHHELD,
    UNPAID,
    VOID,
    REJECTED
}

/// Where a SERVED segment stands. SHOW: a DRAWN one whose last round gave no receipts, and whose provider is to show a chunk.
enum Phase {
    NONE,
    SEAL,
    REVEAL,
    OPEN,
    SHOW
}

/// Policy of a job. Windows in seconds, finality in blocks.
struct Params {
    uint32 finality;
    uint32 activateWindow;
    uint32 leaseWindow;
    uint32 takeoverWindow;
    uint32 serveWindow;
    uint32 sealWindow;
    uint32 revealWindow;
    uint32 openWindow;
    uint32 challengeWindow;
    uint32 links;
    uint32 verifiers;
    uint32 quorum;
    uint32 openings;
    uint32 redraws;
    uint32 depth;
    uint32 bondTenths;
    uint32 lateFeeBps;
    uint32 noShowBps;
    uint128 drawBond;
    // Of a provider's bond, beyond bondTenths of the price: what both sides' gas of a dispute costs, say.
    uint128 bondBase;
}

/// What `post` locks money for. `spec` is a binary CIDv1 (36 bytes), priceCap is per step, fee per verifier and round.
struct Terms {
    bytes spec;
    bytes32 specDigest;
    bytes32 programRoot;
    bytes32 stateRoot;
    bytes32 datasetRoot;
    bytes32 scheduleRoot;
    uint64 steps;
    uint32 microBatches;
    uint32 segmentSteps;
    uint64 microWeight;
    uint64 updateWeight;
    uint32 microLeaves;
    uint32 updateLeaves;
    uint128 priceCap;
    uint128 fee;
    uint128 budget;
    uint64 deadline;
    address scheduler;
    address keyService;
    Params params;
}

/// EIP-712: Offer(address provider,uint64 job,uint64 parent,uint64 start,uint64 stop,uint128 price,uint64 expires,uint256 nonce)
struct Offer {
    address provider;
    uint64 job;
    uint64 parent;
    uint64 start;
    uint64 stop;
    uint128 price;
    uint64 expires;
    uint256 nonce;
}

/// A key, or the keys of some records of a shard, wrapped to its recipient's registered encryption key.
struct KeyRelease {
    address recipient;
    bytes32 keyId;
    bytes wrapped;
}

/// EIP-712: Seal(uint64 segment,uint32 round,bytes32 digest). The signature is empty when the verifier sends it itself.
struct SealedVote {
    address verifier;
    bytes32 digest;
    bytes signature;
}

/// A vote shown: what was sealed, and the leaves of its traces that were drawn (none: they come later).
struct Reveal {
    address verifier;
    bool agrees;
    bytes32[] traceRoots;
    bytes32 salt;
    Opening[] openings;
}

/// `leaf` is the 32-byte item (a tensor root or a head), before it is hashed as a leaf; `proof` runs from the leaf up.
struct Opening {
    bytes32 leaf;
    bytes32[] proof;
}

/// The chunk that a provider is asked for (jobs/Hearings.sol), with all that leads from it to the link root. Paths run from the leaf up.
struct ChunkProof {
    // From the link's end, which follows from `count` and `entries`, to the link root.
    bytes32[] endPath;
    // Of the state or accumulator: how many entries, and the root over them.
    uint32 count;
    bytes32 entries;
    // The entry: its name, its tensor's type (dtype u8, ndim u8, dims u64 each) and the root over its chunks.
    bytes name;
    bytes kind;
    bytes32 chunks;
    bytes32[] entryPath;
    // 1,024 bytes; none of a tensor without elements.
    bytes chunk;
    bytes32[] chunkPath;
}

/// A job as it is told. What only readers need (the spec's CID) is in the JobPosted event.
struct Job {
    address client;
    bool cancelled;
    bool completed;
    bool closed;
    // Segments that are not terminal.
    uint32 live;
    // Money that is not reserved for any segment.
    uint128 escrow;
    // The live segment that starts at the job's initial state; 0 when that range is open, since `openSince`.
    uint64 child;
    uint64 openSince;
    bytes32 specDigest;
    bytes32 programRoot;
    bytes32 stateRoot;
    bytes32 datasetRoot;
    bytes32 scheduleRoot;
    uint64 steps;
    uint32 microBatches;
    uint32 segmentSteps;
    uint64 microWeight;
    uint64 updateWeight;
    uint32 microLeaves;
    uint32 updateLeaves;
    uint64 deadline;
    uint128 priceCap;
    uint128 fee;
    address scheduler;
    address keyService;
    Params params;
}

/// A segment as it is told. A time or block is 0 unless it is the one that the segment's state waits for.
struct Segment {
    uint64 job;
    uint64 parent;
    uint64 start;
    uint64 stop;
    address provider;
    SegmentState state;
    Phase phase;
    uint32 round;
    // The job's key service has released a key to the provider.
    bool keyed;
    uint128 price;
    // The provider's reservation; 0 once it is released.
    uint128 bond;
    // What is left of the escrow that is reserved for verifiers.
    uint128 feesHeld;
    // The live segment that starts where this one stops; 0 when that range is open, since `openSince`.
    uint64 child;
    uint64 openSince;
    uint64 activateBy;
    uint64 leaseUntil;
    uint64 drawBy;
    // In SHOW: until when the chunk may be shown.
    uint64 serveBy;
    uint64 sealBy;
    uint64 revealBy;
    uint64 openBy;
    uint64 settleAfter;
    // The block (of commit or redraw) whose seats are drawn from.
    uint64 seatsBlock;
    // In SHOW: the block that names the chunk.
    uint64 seedBlock;
    uint64 openingBlock;
    // Open disputes.
    uint32 disputes;
    // Opened disagreeing votes, over all rounds.
    uint32 negatives;
    bytes32 linkRoot;
    bytes32 endRoot;
    bytes32 commitment;
}

/// One drawn verifier in one round.
struct Check {
    address verifier;
    // Its draw bond is reserved.
    bool bonded;
    // The job's key service has released a key to it.
    bool keyed;
    // It has signed that it was served, or a chunk was shown and it has its key.
    bool receipted;
    bool isSealed;
    bool revealed;
    bool opened;
    bool agrees;
    // It is on the yes side of its round.
    bool prevailed;
    // Its digest; keccak256 of its trace roots one after another, if it was revealed before the call that decided the round; 0 when
    // its draw bond is free, or the round's seals are kept together.
    bytes32 vote;
}
