// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Check, ChunkProof, Job, KeyRelease, Offer, Reveal, SealedVote, Segment, SegmentState, Phase, Terms} from "../types/Types.sol";
import {LinkFacts} from "../types/DisputeTypes.sol";

/// What Jobs says: its log and its refusals.
interface IJobsLog {
    event JobPosted(uint64 indexed job, address indexed client, Terms terms);
    event JobFunded(uint64 indexed job, uint128 amount);
    event JobCancelled(uint64 indexed job);
    event JobClosed(uint64 indexed job, uint128 refund);
    event Assigned(
        uint64 indexed segment,
        uint64 indexed job,
        uint64 parent,
        address indexed provider,
        uint64 start,
        uint64 stop,
        uint128 price,
        uint64 activateBy
    );
    event Activated(uint64 indexed segment, uint64 leaseUntil);
    event Lapsed(uint64 indexed segment, uint128 fee);
    event Committed(
        uint64 indexed segment,
        uint64 stop,
        bytes32 linkRoot,
        bytes32 endRoot,
        bytes checkpoint,
        bytes32 keyId,
        bytes keyEnvelope,
        bytes32 commitment,
        uint64 seedBlock
    );
    event Drawn(uint64 indexed segment, uint32 round, bytes32 seed, uint64[] units, address[] verifiers, uint64 serveBy);
    event Redrawn(uint64 indexed segment, uint32 round, string reason, uint64 seedBlock);
    /// No quorum of the last round has signed for what it was served: its provider is to show the chunk that block `atBlock` names.
    event ChunkAsked(uint64 indexed segment, uint32 round, uint64 atBlock, uint64 showBy);
    /// It has: chunk `chunk` of entry `entry` of link end `place`.
    event ChunkShown(uint64 indexed segment, uint64 place, uint32 entry, uint64 chunk);
    event KeyReleased(uint64 indexed segment, address indexed recipient, bytes32 keyId, bytes wrapped, address by);
    event Served(uint64 indexed segment, uint32 round, uint64 sealBy);
    event SealedBy(uint64 indexed segment, address verifier, bytes32 digest);
    /// Of a whole committee, with one call in the order of the draw: verifier 20 B, digest 32 B, for each. Their keccak256 is kept.
    event SealedTogether(uint64 indexed segment, bytes seals);
    event RevealsDue(uint64 indexed segment, uint64 revealBy, uint64 openingBlock);
    /// What one call has shown. Per vote: verifier 20 B, flags u8 (1: it agrees, 2: it is revealed, 4: it is opened), number of trace roots u8,
    /// salt 32 B, trace roots 32 B each. Of a vote that was revealed before, no salt (zero) and no roots.
    event Voted(uint64 indexed segment, bytes votes);
    event OpeningsDue(uint64 indexed segment, uint64 openingBlock, uint64 openBy);
    event Attested(uint64 indexed segment, uint64 settleAfter);
    event Withheld(uint64 indexed segment, uint32 yes, uint32 no);
    event Unpaid(uint64 indexed segment, string reason);
    event Voided(uint64 indexed segment);
    /// A segment is settled: `price` is credited to its provider, `fee` to each of the verifiers, one for each time that it is named.
    event Paid(uint64 indexed segment, address indexed provider, uint128 price, uint128 fee, address[] verifiers);
    event Rejected(uint64 indexed segment);
    event NoShow(uint64 indexed segment, address indexed verifier, uint128 fee);
    event Credited(address indexed who, uint64 indexed segment, uint128 amount, bytes32 reason);
    event Withdrawn(address indexed who, uint128 amount);
    event BondCleared(uint64 indexed segment, uint128 amount);
    event Pardoned(uint64 indexed segment, uint64 unit, uint64 until);

    error NoSuchJob(uint64 job);
    error NoSuchSegment(uint64 segment);
    error NoDatasets();
    error WrongState(uint64 segment, SegmentState state);
    error WrongPhase(uint64 segment, Phase phase);
    error TooEarly(uint64 notBefore, uint64 now_);
    error TooLate(uint64 notAfter, uint64 now_);
    error BlockTooEarly(uint64 afterBlock, uint64 blockNumber);
    error NotClient(address sender, address client);
    error NotProvider(address sender, address provider);
    error NotDisputes(address sender);
    error NotEntitledToAssign(address sender, uint64 anyoneAfter);
    error BadTerm(string name, uint256 value, uint256 least, uint256 most);
    error BadCid(uint256 length);
    error BadLength(string name, uint256 length, uint256 most);
    error ZeroAmount();
    error UnsupportedToken(uint256 expected, uint256 received);
    error JobIsCancelled(uint64 job);
    error JobIsClosed(uint64 job);
    error JobIsCompleted(uint64 job);
    error JobIsLive(uint64 job, uint32 segments);
    error JobPastDeadline(uint64 job, uint64 deadline);
    error OfferExpired(uint64 expires, uint64 now_);
    error NonceUsed(address provider, uint256 nonce);
    error BadSignature(address signer);
    error WrongParent(uint64 parent, uint64 job);
    error ParentNotCommitted(uint64 parent, SegmentState state);
    error AncestorFailed(uint64 segment, uint64 ancestor);
    error TooDeep(uint64 parent, uint32 depth);
    error RangeTaken(uint64 parent, uint64 child);
    error WrongRange(uint64 start, uint64 stop);
    error PriceOverCap(uint128 price, uint256 cap);
    error InsufficientEscrow(uint128 escrow, uint128 needed);
    error NotRegistered(address who);
    error StopOutOfRange(uint64 stop, uint64 start, uint64 most);
    error BadProof();
    error TooFewVerifiers(uint256 found, uint32 quorum);
    error NotDrawn(uint64 segment, address verifier);
    error NoQuorum(uint256 receipts, uint32 quorum);
    error LengthMismatch(uint256 expected, uint256 given);
    error NotSealed(address verifier);
    error NotRevealed(address verifier);
    error NotDisclosed(uint64 segment, address verifier);
    error NotStakes(address sender);
    error DigestMismatch(address verifier);
    error BadOpening(address verifier, uint256 index);
    error ParentUnsettled(uint64 parent, SegmentState state);
    error NotVoidable(uint64 segment);
    error DisputeOpen(uint64 segment, uint32 disputes);
    error NoDisputeOpen(uint64 segment);
    error NoBond(uint64 segment);
    error NotDrawnUnit(uint64 segment, uint64 unit);
    error NothingToWithdraw(address who);
    error WrongModule(address module);
    error OutOfGas(uint256 call);
    error Together(uint64 segment);
    error NotTogether(uint64 segment);
    error BadSeals(uint64 segment);
    error NotTheChunk(string what);
}

/// Escrow and the segment machine (docs/protocol.md).
interface IJobs is IJobsLog {
    // ---- jobs
    function post(Terms calldata terms) external returns (uint64 jobId);
    /// A job on datasets of others, which Datasets must agree to (IDatasets.open has the form of `uses`).
    function postLicensed(Terms calldata terms, bytes calldata uses) external returns (uint64 jobId);
    function fund(uint64 jobId, uint128 amount) external;
    function cancel(uint64 jobId) external;
    function close(uint64 jobId) external;

    // ---- segments
    function assign(Offer calldata offer, bytes calldata signature) external returns (uint64 segmentId);
    function activate(uint64 segmentId) external;
    function lapse(uint64 segmentId) external;
    function commit(
        uint64 segmentId,
        uint64 stop,
        bytes32 linkRoot,
        bytes32 endRoot,
        bytes32[] calldata proof,
        bytes calldata checkpoint,
        bytes32 keyId,
        bytes calldata keyEnvelope
    ) external;
    function draw(uint64 segmentId) external;
    /// Of the last round: asks for a chunk, or ends the segment when it has not been shown in time.
    function redraw(uint64 segmentId) external;
    /// Shows the chunk that was asked for: the segment counts as served.
    function show(uint64 segmentId, ChunkProof calldata c) external;
    function release(uint64 segmentId, KeyRelease[] calldata releases) external;
    function served(uint64 segmentId, address[] calldata verifiers, bytes[] calldata signatures) external;
    function attest(uint64 segmentId, SealedVote[] calldata seals) external;
    /// Votes, with their openings or without; again with them where they are awaited. The last opening decides the round.
    function reveal(uint64 segmentId, Reveal[] calldata reveals) external;
    /// Gives each verifier its own seal, where they were kept together (SealedTogether): before one is revealed or disclosed alone.
    function spread(uint64 segmentId, uint32 round, bytes calldata seals) external;
    function closeReveals(uint64 segmentId) external;
    function decide(uint64 segmentId) external;
    function settle(uint64 segmentId) external;
    /// Calls of Jobs in one transaction, at most 64; a refused one changes nothing. Returns which were taken, a bit each;
    /// reverts when none was.
    function batch(bytes[] calldata calls) external returns (uint256 taken);
    function voidSegment(uint64 segmentId) external;
    /// UNPAID: anyone, after `settleAfter`. WITHHELD, REJECTED: the Disputes contract. Never while a dispute is open.
    function clearBond(uint64 segmentId) external;
    function withdraw() external;
    /// Brings the trace roots of a revealed vote, so that it can be disputed.
    function disclose(uint64 segmentId, uint32 round, address verifier, bytes32[] calldata traceRoots, bytes32 salt) external;

    // ---- Stakes
    /// Takes what is slashed out of a reservation.
    function seize(uint64 segmentId, address who, uint128 amount) external;

    // ---- the Disputes contract
    function disputeOpened(uint64 segmentId) external;
    function disputeResolved(uint64 segmentId, bool asserterLost) external;
    function disputeVoided(uint64 segmentId) external;
    /// Whether the provider may concede a link for nothing. Its settled segments are counted anew then.
    function pardon(uint64 segmentId, uint64 unit, uint32 after_) external returns (bool);
    function voteDisputed(uint64 segmentId, uint32 round, address verifier, uint64 unit, uint64 since)
        external
        returns (bytes32 root, bool gone);
    function voteResolved(uint64 segmentId, uint32 round, address verifier, bool fell) external;

    // ---- views
    function token() external view returns (address);
    function stakes() external view returns (address);
    function disputes() external view returns (address);
    function jobCount() external view returns (uint64);
    function segmentCount() external view returns (uint64);
    function job(uint64 jobId) external view returns (Job memory);
    function segment(uint64 segmentId) external view returns (Segment memory);
    function commitmentOf(uint64 segmentId) external view returns (bytes32);
    /// All units drawn so far, those of earlier rounds first.
    function unitsOf(uint64 segmentId) external view returns (uint64[] memory);
    function checksOf(uint64 segmentId, uint32 round) external view returns (Check[] memory);
    /// Hash that fixes the openings of a SERVED segment; zero while the opening block is not mined.
    function openingSeed(uint64 segmentId) external view returns (bytes32);
    /// The provider, its link root and the number of links.
    function linksOf(uint64 segmentId) external view returns (address provider, bytes32 linkRoot, uint64 links);
    /// What is fixed of link `unit` of a segment.
    function linkFacts(uint64 segmentId, uint64 unit) external view returns (LinkFacts memory);
    /// Open disputes, whether `who` is the client or was drawn for the segment, and in how many seconds the job's terms want what was drawn
    /// replayed (its window for seals).
    function partyTo(uint64 segmentId, address who) external view returns (uint32 open_, bool party, uint32 replay);
    function credit(address who) external view returns (uint128);
    /// Stake reserved for segments and draws.
    function heldOf(address who) external view returns (uint128);
    /// Segments of a provider that have settled since it was pardoned last; 65,535 stand for more, too.
    function settledOf(address who) external view returns (uint16);
    /// The part of it that is for one segment.
    function reservation(address who, uint64 segmentId) external view returns (uint128);
    function nonceUsed(address provider, uint256 nonce) external view returns (bool);
    function domainSeparator() external view returns (bytes32);
}
