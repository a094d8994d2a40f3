// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Dispute, Field, Folded, GatherMove, Link, Outcome, Proof, Rules, Shown, Stand, TraceMove} from "../types/DisputeTypes.sol";

/// The contract that decides disputes. It is bound once, when the contracts are set up, and is the only one that may call
/// IJobs.disputeOpened / voteDisputed / disputeResolved / disputeVoided / voteResolved, clear the bond of a WITHHELD or REJECTED
/// segment, and call IStakes.slash. Jobs and Stakes never call it.
interface IDisputes {
    /// Whether this contract can ever open a dispute.
    function disputable() external view returns (bool);
}

/// What the dispute game says: its log and its refusals.
interface IDisputesLog {
    /// `allowance`: seconds that the asserter of a link is given to replay it, before its clock runs.
    event DisputeSealed(
        uint64 indexed id, uint64 indexed segment, address indexed challenger, uint128 bond, uint256 openBy, uint32 allowance
    );
    event DisputeOpened(
        uint64 indexed id, uint64 indexed segment, address indexed asserter, uint8 target, uint64 unit, uint32 round
    );
    /// A move. `awaited`: the stand of what is awaited now in its lowest byte, in the next 1 if it is the asserter's turn, above both until when.
    /// Behind that word of data stand the move's calldata, where they are not the transaction's own: nobody can hide a move inside another
    /// contract's call.
    event Moved(uint64 indexed id, uint256 awaited);
    event DisputeResolved(uint64 indexed id, uint64 indexed segment, Outcome outcome, uint128 taken, uint256 payAfter);
    event DisputePaid(uint64 indexed id, Outcome outcome, uint128 toAsserter, uint128 toChallenger, uint128 burnt);
    /// Bytes of these records of the job's data are on chain now, of all that the dispute has shown so far: `count` of them, from that which training
    /// reads as number `first` on.
    event RecordsShown(uint64 indexed id, uint64 first, uint32 count);
    /// What the loser pays to their owners (contract Showings). DisputePaid, which follows, says what is left.
    event ShowingOwed(uint64 indexed id, uint128 amount);
    event DisputeCredited(address indexed who, uint64 indexed id, uint128 amount);
    event DisputeWithdrawn(address indexed who, uint128 amount);

    error NoSuchDispute(uint64 id);
    error WrongTurn(uint64 id, Stand stand, bool asserting);
    error NotPlayer(address sender, address player);
    error NotGuardian(address sender, address guardian);
    error SameBlock(uint256 blockNumber);
    error DigestMismatch(bytes32 digest, bytes32 seen);
    error BadTarget(uint8 target, uint64 unit);
    error BadFacts(bytes32 facts, bytes32 seen);
    error BadRoot(string what);
    error NothingThere(uint64 index);
    error WrongElement(uint64 element, uint64 index);
    error WrongFold(uint256 fold, uint256 folds);
    error WrongEvidence(uint256 given, uint256 expected);
    error OutOfRange(int256 value);
    error NothingToClear(uint64 segment);
    error NothingToWithdraw(address who);
    error UnsupportedToken(uint256 expected, uint256 received);
    error BadRules();
    error WrongModule(address module);
}

/// The game of docs/dispute.md.
interface IDisputeGame is IDisputes, IDisputesLog {
    // ---- anyone, against an asserter
    function seal(uint64 segment, bytes32 digest) external returns (uint64 id);
    function open(uint64 id, uint8 target, uint64 unit, address verifier, uint32 round, bytes32 salt) external;

    // ---- the asserter
    function concede(uint64 id) external;
    function reveal(uint64 id, bytes32[] calldata children) external;
    function trace(uint64 id, TraceMove calldata m) external;
    function stage(
        uint64 id,
        Link calldata link,
        bytes calldata program,
        bytes calldata stage_,
        bytes32[] calldata path,
        bytes32 chunks,
        bytes32[] calldata children
    ) external;
    function chunk(uint64 id, bytes calldata data) external;
    function prove(uint64 id, Proof calldata p) external;
    /// `parts`: for each fold the totals of its first parts, as many as it has items, at most 64, i64 each, big-endian.
    function fold(uint64 id, Folded calldata f, bytes[] calldata parts) external;
    /// The output from the totals that were shown.
    function finish(uint64 id, Proof calldata p) external;
    /// `parts`: the totals of up to 64 parts of the range, as in `fold`.
    function split(uint64 id, bytes calldata parts) external;
    function item(uint64 id, Proof calldata p) external;
    function end(uint64 id, Link calldata link, bytes calldata program, bytes32 entries, bytes32[] calldata children) external;
    /// `evidence` shows the tensor root of the record's value: of its fields record, recordPath, entries, count and rootPath count.
    function endEntry(uint64 id, Proof calldata p, bytes calldata record, bytes32[] calldata path, bytes32 root) external;
    function batch(uint64 id, Link calldata link, uint32 count, bytes32 entries, bytes32[] calldata children) external;
    function batchEntry(uint64 id, Link calldata link, Field calldata field, bytes32 chunks, bytes32[] calldata children) external;
    function gather(uint64 id, GatherMove calldata g) external;

    // ---- the challenger
    /// Down to the node `below` at `place` of its row.
    function point(uint64 id, bytes32 below, uint64 place, bytes32[] calldata path) external;
    /// To the chunk at `place` and at once to an element in it, for who has its bytes from elsewhere.
    function pointElement(uint64 id, bytes32 below, uint64 place, bytes32[] calldata path, uint64 element_) external;
    /// `word`: the 32 bytes of the chunk that hold it, and the five siblings that lead to the root over the words (dispute/Words.sol).
    function element(uint64 id, uint64 element_, bytes32[6] calldata word) external;
    function missing(uint64 id, Link calldata link, Field calldata field) external;
    /// A fold and the first part of it that is wrong. The asserter has lost where its parts do not combine to the total.
    function pick(uint64 id, Folded calldata f, bytes calldata stage_, uint256 fold_, bytes calldata parts, uint256 part) external;
    /// At once to one item of the fold: its value stands under the root that the asserter has shown for the fold.
    function pickItem(
        uint64 id,
        Folded calldata f,
        bytes calldata stage_,
        uint256 fold_,
        uint64 item_,
        int64 value,
        bytes32[] calldata path
    ) external;
    /// The output does not follow from the totals.
    function pickOutput(uint64 id, Folded calldata f) external;
    /// `range`: as in Dispute's node before the split: `lo u64, hi u64, total i64` in a word.
    function choose(uint64 id, bytes32 range, bytes calldata parts, uint256 part) external;

    // ---- anyone
    function timeout(uint64 id) external;
    function pay(uint64 id) external;
    /// Frees what is left of the bond of a REJECTED segment, or of a WITHHELD or pardoned one after its window.
    function clear(uint64 segment) external;
    function withdraw() external;

    // ---- the guardian
    function declareVoid(uint64 id) external;

    // ---- views
    function disputeCount() external view returns (uint64);
    function dispute(uint64 id) external view returns (Dispute memory);
    /// When the side whose turn it is has lost, or a resolved dispute can be paid.
    function dueOf(uint64 id) external view returns (uint256);
    function bondOf(uint64 segment, address challenger) external view returns (uint128);
    function rules() external view returns (Rules memory);
    function credit(address who) external view returns (uint128);
    function jobs() external view returns (address);
    /// What of the job's data it has shown, and what is set aside for the owners since it was paid.
    function shownIn(uint64 id) external view returns (Shown memory);
    /// The contract that pays the owners; zero: none does.
    function showings() external view returns (address);
}
