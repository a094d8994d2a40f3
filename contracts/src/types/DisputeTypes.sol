// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// What the dispute game speaks of (docs/dispute.md). Times are seconds of block time.

/// Where a dispute stands. LINKS, TRACE, CHUNKS, ENTRIES and FIELDS are walks down a tree; the others await one move.
enum Stand {
    NONE,
    SEALED,
    LINKS,
    TRACED,
    TRACE,
    STAGE,
    CHUNKS,
    CHUNK,
    NAME,
    ELEMENT,
    PICK,
    RANGE,
    END,
    ENTRIES,
    ENTRY,
    BATCH,
    FIELDS,
    FIELD,
    RECORD,
    RESOLVED,
    PAID
}

enum Outcome {
    NONE,
    ASSERTER_WON,
    ASSERTER_LOST,
    CONCEDED,
    VOID
}

/// Rules of a network, fixed when its contracts are deployed.
struct Rules {
    // From a seal to its opening.
    uint32 openWindow;
    // A move may take this long without drawing on its side's budget.
    uint32 grace;
    uint32 budget;
    uint32 payoutDelay;
    // A challenger's, on a segment without open disputes.
    uint128 bond;
    // May declare a resolved dispute void before it is paid; zero: nobody may.
    address guardian;
}

struct Dispute {
    // ---- what moves change
    Stand stand;
    Outcome outcome;
    // Whose turn it is.
    bool asserting;
    // The asserter has moved: too late to concede.
    bool moved;
    // Levels of `node` above the leaves of its tree.
    uint8 height;
    // The tensor that is walked is a field of the batch, not a stage's output.
    bool ofBatch;
    // When the turn began, or the dispute was resolved.
    uint40 since;
    // What is left of each side's budget.
    uint32 asserterBudget;
    uint32 challengerBudget;
    // Place of `node` in its row; the element once one is named; the block of the seal while SEALED.
    uint64 index;
    // ---- where the walk is: a node; the digest while SEALED; the hash of the parts of a split in RANGE
    bytes32 node;
    address challenger;
    uint64 segment;
    uint8 target;
    address asserter;
    // Link index in the segment.
    uint64 unit;
    uint32 round;
    // Hash of what earlier moves have shown (Facts).
    bytes32 facts;
    // Leaves of the tree that is walked; of a tensor also its elements and the bytes of one.
    uint64 count;
    uint64 elements;
    uint8 width;
    // ---- the range of a fold
    uint8 fold;
    uint8 folds;
    uint64 lo;
    uint64 hi;
    int64 total;
    // ---- money
    uint128 bond;
    // Taken from the asserter's reservation, held here until it is paid.
    uint128 taken;
}

/// What Jobs knows of a link.
struct LinkFacts {
    bytes32 programRoot;
    bytes32 datasetRoot;
    bytes32 scheduleRoot;
    // The state before the segment.
    bytes32 startRoot;
    bytes32 linkRoot;
    uint64 start;
    uint64 links;
    uint64 steps;
    uint32 micros;
    uint32 leaves;
}

/// A disputed link, whose ends and trace the asserter has shown. Later moves bring it again; the contract keeps its hash.
struct Link {
    bytes32 programRoot;
    bytes32 datasetRoot;
    bytes32 scheduleRoot;
    bytes32 stateRoot;
    // Zero: that of a step's first micro-batch.
    bytes32 accRoot;
    bytes32 batchRoot;
    bytes32 endRoot;
    bytes32 traceRoot;
    // Rows of the schedule.
    uint64 steps;
    uint64 step;
    // Of the link; `micros` in an update.
    uint32 m;
    uint32 micros;
    // Of the trace.
    uint32 leaves;
}

/// Paths are siblings from the leaf up. Those of ends that the link does not name under the link root are empty.
struct TraceMove {
    bytes32 stateRoot;
    bytes32[] statePath;
    bytes32 accRoot;
    bytes32[] accPath;
    bytes32 endRoot;
    bytes32[] endPath;
    bytes32 batchRoot;
    bytes32 traceRoot;
    bytes32[] headPath;
    bytes32[] lastPath;
    bytes32[] children;
}

/// One element of an operand. `record` with its path: the input of the program, when the operand is one. `entries`, `count`: the root
/// over the entries of the state, accumulator or batch and their number. `rootPath`: of the entry, or of the trace's leaf.
struct Evidence {
    bytes record;
    bytes32[] recordPath;
    bytes32 entries;
    uint32 count;
    bytes32[] rootPath;
    bytes32 chunks;
    bytes chunk;
    bytes32[] chunkPath;
}

/// What decides an element, or an item of one of its folds. `chunk` is the one with the output (empty for an item).
struct Proof {
    Link link;
    bytes program;
    bytes stage;
    bytes chunk;
    int256[] totals;
    Evidence[] evidence;
}

/// What shows one element of a batch to be that of its record.
struct GatherMove {
    Link link;
    bytes record;
    bytes data;
    bytes chunk;
    uint64 shard;
    uint64 first;
    uint64 records;
    bytes32 shardRoot;
    bytes32[] shardPath;
    // Salt and bytes.
    bytes example;
    bytes32[] examplePath;
}
