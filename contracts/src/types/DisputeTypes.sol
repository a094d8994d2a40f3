// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Turn} from "./Turn.sol";

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
    FINISH,
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
    // A provider that has had so many segments settled since the last time may concede one link for nothing; 0: none may.
    uint32 pardonAfter;
    // May declare a resolved dispute void before it is paid; zero: nobody may.
    address guardian;
}

/// Records of the job's data that a dispute has shown in the clear, as places in the order in which training reads them (assay/sampling.py).
struct Shown {
    // Of the first; before any are shown, of the first of the batch.
    uint64 first;
    // From the first to the last that was shown.
    uint32 count;
    // Records of a batch, while its field is walked.
    uint32 batch;
    // Set aside for their owners when the dispute was paid.
    uint128 owed;
}

/// A dispute as the contract keeps it, five words. What a later move can bring again is kept as its hash.
struct Game {
    Turn turn;
    // Where the walk is: a node. NAME: the root over the words of the chunk; when it is named, the element's bits. TRACED: the trace root that a verifier has revealed. RANGE, the asserter's turn: `lo u64, hi u64, total i64`;
    // the challenger's: the hash of that and the parts. RESOLVED: what was taken from the asserter.
    bytes32 node;
    address challenger;
    uint64 segment;
    // Of the vote that is disputed.
    uint32 round;
    // 0 until it is opened.
    address asserter;
    // Leaves of the tree that is walked; of a tensor's, its elements.
    uint64 size;
    // SEALED: the digest. Later the hash of what earlier moves have shown.
    bytes32 facts;
}

/// The same, taken apart to be looked at.
struct Dispute {
    Stand stand;
    Outcome outcome;
    // Whose turn it is.
    bool asserting;
    // The asserter has moved: from then on anybody may show the children of a node.
    bool moved;
    // Levels of `node` above the leaves of its tree.
    uint8 height;
    // When the turn began, or the dispute was resolved.
    uint40 since;
    // What is left of each side's budget.
    uint32 asserterBudget;
    uint32 challengerBudget;
    // Block of the seal while SEALED, the link while TRACED; place of `node` in its row; the element once one is named.
    uint64 index;
    bytes32 node;
    address challenger;
    uint64 segment;
    uint8 target;
    address asserter;
    uint32 round;
    bytes32 facts;
    uint64 size;
    // Of an element, bytes.
    uint8 width;
    // The range of a fold, while it is the asserter's turn.
    uint8 fold;
    uint64 lo;
    uint64 hi;
    int64 total;
    // The challenger's.
    uint128 bond;
    // Taken from the asserter's reservation, held until it is paid.
    uint128 taken;
}

/// What Jobs knows of a link.
struct LinkFacts {
    bytes32 programRoot;
    bytes32 datasetRoot;
    bytes32 scheduleRoot;
    // The state before the segment; 0 for links of later steps, which do not need it.
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

/// Paths are siblings from the leaf up. That of the end leads to the link root; those of the accumulator and the state, which stand before
/// it, only to where they meet it: they are empty where the link names no such end. Those of head and last leaf lead to the children.
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

/// What decides an element, or an item of one of its folds. `chunk` is the one with the output; it is empty for an item,
/// and where the chunk has been shown.
struct Proof {
    Link link;
    bytes program;
    bytes stage;
    bytes chunk;
    int256[] totals;
    Evidence[] evidence;
}

/// What `fold` has shown. For each fold its total; the root over its items, each an int256 (anything where they are not shown); the hash of the
/// totals of its first parts.
struct Folded {
    bytes32 link;
    bytes32 stage;
    int256[] totals;
    bytes32[] roots;
    bytes32[] parts;
}

/// Input `value` of the program: a field of the batch.
struct Field {
    bytes program;
    uint32 value;
    bytes record;
    bytes32[] path;
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
