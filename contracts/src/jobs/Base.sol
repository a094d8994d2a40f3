// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {IJobsLog} from "../interfaces/IJobs.sol";
import {IStakes} from "../interfaces/IStakes.sol";
import {Phase, SegmentState} from "../types/Types.sol";
import {JobRecord, SegmentRecord, Stage, Stages} from "./Records.sol";

/// Storage of Jobs, and the one way in which a segment ends.
///
/// Money: the contract holds, for every job, `escrow` (free) and, for every live segment, `price + feesHeld`, for a WITHHELD one `feesHeld`;
/// and the credits. Every token here is in exactly one of these. A segment's reservation leaves it in `_end`, and what a WITHHELD one has
/// kept when a dispute over it is won or its bond is cleared.
///
/// Collateral lies in Stakes; how much of an account's is reserved for segments and draws is counted here, beside its credit, so that
/// a payment that frees a bond changes one word. Stakes asks for it (`heldOf`) before it lets anything go. What is reserved for one
/// segment follows from the segment: its bond, the draw bonds whose bit is set, less what has been seized.
///
/// Lanes: words that are needed while a bond is reserved, and never after (a verifier's vote, the hash of the openings' block or of all
/// seals) stand
/// at a number that the account gets with the bond and gives back with it, so that words are used again instead of new ones.
abstract contract Base is IJobsLog, EIP712, ReentrancyGuardTransient {
    IERC20 internal immutable _token;
    IStakes internal immutable _stakes;

    uint64 public jobCount;
    uint64 public segmentCount;
    mapping(uint64 jobId => JobRecord) internal _jobs;
    mapping(uint64 segmentId => SegmentRecord) internal _segments;
    /// Stages of the rounds before the one that the segment is in.
    mapping(uint64 segmentId => mapping(uint256 round => uint256)) internal _past;
    /// Units drawn so far, four to a word.
    mapping(uint64 segmentId => mapping(uint256 word => uint256)) internal _units;
    /// Drawn verifiers: an address, and above it the lane in which its vote is kept. Place: see `_place`.
    mapping(uint256 place => uint256) internal _members;
    /// Credit, 96 bits; reserved stake, 96 bits; lanes in use, 48 bits; segments settled since its last pardon, 16 bits.
    mapping(address who => uint256) internal _accounts;
    mapping(address who => mapping(uint256 key => bytes32)) internal _words;
    mapping(address provider => mapping(uint256 nonce => bool)) public nonceUsed;
    /// What has been taken out of a reservation that still stands.
    mapping(uint64 segmentId => mapping(address who => uint256)) internal _seized;
    /// Trace roots of votes, brought before a vote is disputed.
    mapping(uint256 place => bytes32[]) internal _disclosed;
    /// Open disputes over a verifier's trace roots: while there are any its draw bond stays.
    mapping(uint64 segmentId => mapping(address verifier => uint32)) internal _disputedVotes;
    /// The link that its provider has conceded for nothing, and one; 0: none.
    mapping(uint64 segmentId => uint256) internal _pardoned;
    /// When a vote fell.
    mapping(uint256 place => uint256) internal _fellAt;

    /// Most members of a committee (libraries/Bounds.sol).
    uint256 internal constant SEATS = 16;
    /// Most calls of a batch.
    uint256 internal constant MOST_CALLS = 64;
    uint256 private constant LANES = 48;
    /// Where the settled segments of an account are counted.
    uint256 internal constant SETTLED = 240;
    /// Of an account that has all its lanes in use.
    uint8 internal constant NO_LANE = type(uint8).max;

    constructor(address stakes_) EIP712("Assay", "1") {
        _stakes = IStakes(stakes_);
        _token = IERC20(_stakes.token());
    }

    function stakes() external view returns (address) {
        return address(_stakes);
    }

    modifier onlyDisputes() {
        if (msg.sender != _stakes.disputes()) revert NotDisputes(msg.sender);
        _;
    }

    // ---- look-up -------------------------------------------------------------------------------------------------------------

    function _job(uint64 jobId) internal view returns (JobRecord storage j) {
        j = _jobs[jobId];
        if (j.client == address(0)) revert NoSuchJob(jobId);
    }

    function _segment(uint64 segmentId) internal view returns (SegmentRecord storage s) {
        s = _segments[segmentId];
        if (s.stage == 0) revert NoSuchSegment(segmentId);
    }

    function _stateOf(uint64 segmentId) internal view returns (SegmentState) {
        return Stages.state(_segments[segmentId].stage);
    }

    function _in(uint64 segmentId, SegmentState state) internal view returns (SegmentRecord storage s, Stage memory g) {
        s = _segment(segmentId);
        g = Stages.unpack(s.stage);
        if (g.state != state) revert WrongState(segmentId, g.state);
    }

    /// The stage of a round that has been drawn: the present one, or what is left of an earlier one.
    function _stageOf(uint64 segmentId, uint256 round) internal view returns (Stage memory g) {
        uint256 word = _segments[segmentId].stage;
        if (round != Stages.round(word)) word = _past[segmentId][round];
        return Stages.unpack(word);
    }

    /// Of the i-th verifier drawn in a round.
    function _place(uint64 segmentId, uint256 round, uint256 i) internal pure returns (uint256) {
        return uint256(segmentId) << 16 | round << 8 | i;
    }

    function _member(uint64 segmentId, uint256 round, uint256 i) internal view returns (address verifier, uint8 lane) {
        uint256 word = _members[_place(segmentId, round, i)];
        return (address(uint160(word)), uint8(word >> 160));
    }

    /// What is reserved for a segment's verifiers until it ends: all rounds' fees.
    function _feesOf(JobRecord storage j) internal view returns (uint256) {
        return uint256(j.fee) * j.verifiers * (1 + uint256(j.redraws));
    }

    /// Fees of those who said no to a WITHHELD segment: paid when a dispute bears them out, given back when none can any more.
    function _keptFees(SegmentRecord storage s, Stage memory g, JobRecord storage j) internal view returns (uint256) {
        return s.keepsFees ? uint256(j.fee) * g.negatives : 0;
    }

    /// Index of a verifier in a round (SEATS: it was not drawn), and its lane.
    function _find(uint64 segmentId, Stage memory g, address verifier) internal view returns (uint256 i, uint8 lane) {
        address who;
        for (; i < g.count; ++i) {
            (who, lane) = _member(segmentId, g.round, i);
            if (who == verifier) return (i, lane);
        }
        return (SEATS, 0);
    }

    /// Units that have been drawn in so many rounds. No links named in the terms means all of the segment, once.
    function _unitCount(SegmentRecord storage s, JobRecord storage j, uint256 rounds) internal view returns (uint256) {
        if (j.links > 0) return rounds * j.links;
        return rounds == 0 ? 0 : (s.stop - s.start) * (uint256(j.microBatches) + 1);
    }

    /// Link indices of the first `count` units.
    function _unitsOf(uint64 segmentId, uint256 count) internal view returns (uint64[] memory units) {
        units = new uint64[](count);
        uint256 word;
        for (uint256 i = 0; i < count; ++i) {
            if (i % 4 == 0) word = _units[segmentId][i / 4];
            units[i] = uint64(word >> (i % 4 * 64));
        }
    }

    function _failed(SegmentState state) internal pure returns (bool) {
        return state > SegmentState.SETTLED;
    }

    function _terminal(SegmentState state) internal pure returns (bool) {
        return state >= SegmentState.SETTLED;
    }

    /// Reverts when a segment on the way from `segmentId` up to what is settled has failed; counts those that are not settled.
    function _unsettledFrom(uint64 segmentId) internal view returns (uint32 count) {
        for (uint64 up = segmentId; up != 0; up = _segments[up].parent) {
            SegmentState state = _stateOf(up);
            if (state == SegmentState.SETTLED) break;
            if (_failed(state)) revert AncestorFailed(segmentId, up);
            ++count;
        }
    }

    function _needBefore(uint64 time) internal view {
        if (block.timestamp > time) revert TooLate(time, _now());
    }

    function _needAfter(uint64 time) internal view {
        if (block.timestamp <= time) revert TooEarly(time, _now());
    }

    function _now() internal view returns (uint64) {
        return uint64(block.timestamp);
    }

    /// Hash of a past block, and the block it is of: one that the EVM no longer reaches (256) stands for the first one that it
    /// does reach among those 256, 512, ... after it.
    function _reach(uint64 blockNumber) internal view returns (bytes32, uint64) {
        if (block.number <= blockNumber) revert BlockTooEarly(blockNumber, uint64(block.number));
        uint256 distance = block.number - blockNumber;
        if (distance > 256) blockNumber += uint64((distance - 1) / 256 * 256);
        return (blockhash(blockNumber), blockNumber);
    }

    /// Accepts an account's signature (ECDSA, or ERC-1271 of a contract) or, when there is none, the account itself.
    function _needConsent(address who, bytes32 domain, bytes32 structHash, bytes calldata signature) internal view {
        if (signature.length == 0 && msg.sender == who) return;
        bytes32 digest = MessageHashUtils.toTypedDataHash(domain, structHash);
        (address signer,,) = ECDSA.tryRecoverCalldata(digest, signature);
        if (signer == who && who != address(0)) return;
        if (!SignatureChecker.isValidERC1271SignatureNowCalldata(who, digest, signature)) revert BadSignature(who);
    }

    // ---- shared steps --------------------------------------------------------------------------------------------------------

    /// Fixes the next draw: its seed block lies `finality` blocks ahead, its seats are those at the end of this block.
    function _awaitSeed(Stage memory g, JobRecord storage j) internal view returns (uint64 seedBlock) {
        g.state = SegmentState.COMMITTED;
        g.atBlock = uint40(block.number);
        g.due = uint40(block.timestamp + j.serveWindow);
        return uint64(block.number) + j.finality;
    }

    function _bps(uint256 amount, uint256 bps) internal pure returns (uint128) {
        return uint128(amount * bps / 10_000);
    }

    // ---- accounts ------------------------------------------------------------------------------------------------------------

    /// Reserves free stake, which the caller has made sure of, and gives a lane.
    function _hold(address who, uint256 amount) internal returns (uint8 lane) {
        uint256 account = _accounts[who];
        uint256 idle = ~(account >> 192) & ((1 << LANES) - 1);
        lane = idle == 0 ? NO_LANE : uint8(Math.log2(idle & (~idle + 1)));
        _accounts[who] = _packed(uint96(account), uint96(account >> 96) + amount, (account >> 192) | _laneBit(lane));
    }

    /// Credits `gain`; frees `freed` of what is reserved, and the lane when it is a bond's end. Who credits says so in the log.
    function _give(address who, uint256 gain, uint256 freed, uint256 lane) internal {
        uint256 account = _accounts[who];
        _accounts[who] = _packed(uint96(account) + gain, uint96(account >> 96) - freed, (account >> 192) & ~_laneBit(lane));
    }

    function _countSettled(address who) private {
        uint256 account = _accounts[who];
        if (account >> SETTLED < type(uint16).max) _accounts[who] = account + (1 << SETTLED);
    }

    function _packed(uint256 credit_, uint256 held, uint256 lanes) private pure returns (uint256) {
        return uint256(SafeCast.toUint96(credit_)) | uint256(SafeCast.toUint96(held)) << 96 | lanes << 192;
    }

    function _laneBit(uint256 lane) private pure returns (uint256) {
        return lane < LANES ? 1 << lane : 0;
    }

    /// Where the word of a lane stands; without a lane, at a place of its own.
    function _key(uint64 segmentId, uint256 round, uint8 lane) internal pure returns (uint256) {
        return lane < LANES ? lane : uint256(segmentId) << 16 | round << 8 | NO_LANE;
    }

    /// Where a provider's lane keeps the hash of a round's seals.
    function _sealsKey(uint64 segmentId, uint256 round, uint8 lane) internal pure returns (uint256) {
        return 1 << 255 | round << 128 | _key(segmentId, round, lane);
    }

    /// Stores the stage of a round.
    function _keep(uint64 segmentId, uint256 round, Stage memory g) internal {
        SegmentRecord storage s = _segments[segmentId];
        if (round == Stages.round(s.stage)) s.stage = Stages.pack(g);
        else _past[segmentId][round] = Stages.pack(g);
    }

    function _heldOf(address who) internal view returns (uint128) {
        return uint96(_accounts[who] >> 96);
    }

    /// What of `who` is reserved for a segment, its own bond and draw bonds.
    function _reservation(uint64 segmentId, address who) internal view returns (uint128 left) {
        SegmentRecord storage s = _segments[segmentId];
        uint256 word = s.stage;
        if (who == s.provider && Stages.state(word) != SegmentState.SETTLED) left = s.bond;
        for (uint256 round = 0; round <= Stages.round(word); ++round) {
            Stage memory g = _stageOf(segmentId, round);
            (uint256 i,) = _find(segmentId, g, who);
            if (i < SEATS && g.bonded >> i & 1 == 1) left += _jobs[s.job].drawBond;
        }
        if (s.seized) left -= uint128(_seized[segmentId][who]);
    }

    // ---- ends ----------------------------------------------------------------------------------------------------------------

    function _needNoDispute(uint64 segmentId, SegmentRecord storage s) internal view {
        if (s.disputes > 0) revert DisputeOpen(segmentId, s.disputes);
    }

    /// What is left of the provider's bond; it is no longer reserved for the segment. The caller frees it.
    function _takeBond(uint64 segmentId, SegmentRecord storage s) internal returns (uint256 left) {
        left = s.bond;
        s.bond = 0;
        if (!s.seized) return left;
        left -= _seized[segmentId][s.provider];
        _seized[segmentId][s.provider] = 0;
    }

    function _releaseBond(uint64 segmentId, SegmentRecord storage s) internal returns (uint256 left) {
        if (s.bond == 0) return 0;
        left = _takeBond(segmentId, s);
        _give(s.provider, 0, left, s.lane);
    }

    /// Moves a live segment to a terminal state: pays those verifiers that the state entitles, releases draw bonds, pays the
    /// provider or returns the price, and opens the range again when it failed. Of the bond, `freed` goes with the provider's
    /// payment; otherwise what becomes of it is up to the caller.
    function _end(uint64 segmentId, SegmentRecord storage s, Stage memory g, SegmentState to, uint256 freed) internal {
        JobRecord storage j = _jobs[s.job];
        uint256 back = _feesOf(j);
        g.state = to;
        g.phase = Phase.NONE;
        if (to == SegmentState.SETTLED) {
            _give(s.provider, s.price, freed, s.lane);
            _countSettled(s.provider);
            if (s.last) j.completed = true;
        } else {
            back += s.price;
            if (s.parent == 0) (j.child, j.openSince) = (0, uint40(block.timestamp));
            else (_segments[s.parent].child, _segments[s.parent].openSince) = (0, uint40(block.timestamp));
        }
        back -= _payVerifiers(segmentId, s, j, g, to);
        if (to == SegmentState.WITHHELD && s.bond > 0) {
            s.keepsFees = true;
            back -= _keptFees(s, g, j);
        }
        (j.escrow, j.live) = (SafeCast.toUint96(j.escrow + back), j.live - 1);
        s.stage = Stages.pack(g);
    }

    function _payVerifiers(uint64 segmentId, SegmentRecord storage s, JobRecord storage j, Stage memory g, SegmentState to)
        private
        returns (uint256)
    {
        (uint256 fee, uint256 drawBond) = (j.fee, j.drawBond);
        address[] memory payees = new address[](SEATS * (uint256(g.round) + 1));
        uint256 count = 0;
        for (uint256 round = 0; round < g.round; ++round) {
            Stage memory past = Stages.unpack(_past[segmentId][round]);
            count = _payRound(segmentId, s, past, to, fee, drawBond, payees, count);
            _past[segmentId][round] = Stages.pack(past);
        }
        count = _payRound(segmentId, s, g, to, fee, drawBond, payees, count);
        assembly ("memory-safe") {
            mstore(payees, count)
        }
        if (to == SegmentState.SETTLED) {
            emit Paid(segmentId, s.provider, s.price, uint128(fee), payees);
        } else {
            for (uint256 i = 0; fee > 0 && i < count; ++i) {
                emit Credited(payees[i], segmentId, uint128(fee), "fee");
            }
        }
        return fee * count;
    }

    /// Returns how many are paid, `count` of them before.
    function _payRound(
        uint64 segmentId,
        SegmentRecord storage s,
        Stage memory g,
        SegmentState to,
        uint256 fee,
        uint256 drawBond,
        address[] memory payees,
        uint256 count
    ) private returns (uint256) {
        // A no asserts nothing that could be disputed, so it earns nothing by itself, else saying no without a look would pay: the fee is
        // due where a dispute has borne it out (of a WITHHELD segment it is kept for that), and who wins that dispute gets half of the bond.
        uint256 entitled = g.opened;
        if (to == SegmentState.SETTLED) entitled &= g.prevailed;
        else if (to == SegmentState.REJECTED) entitled &= ~uint256(g.agrees);
        else if (to == SegmentState.WITHHELD) entitled = 0;
        for (uint256 i = 0; i < g.count; ++i) {
            bool due = entitled >> i & 1 == 1;
            if (!due && g.bonded >> i & 1 == 0) continue;
            (address who, uint8 lane) = _member(segmentId, g.round, i);
            uint256 freed = 0;
            if (g.bonded >> i & 1 == 0 || _stays(segmentId, s, who)) lane = NO_LANE;
            else freed = _takeDrawBond(segmentId, s, g, i, who, drawBond);
            if (due) payees[count++] = who;
            _give(who, due ? fee : 0, freed, lane);
        }
        return count;
    }

    /// Whether a verifier's draw bonds stay, because a vote of its is disputed.
    function _stays(uint64 segmentId, SegmentRecord storage s, address verifier) internal view returns (bool) {
        return s.disputes > 0 && _disputedVotes[segmentId][verifier] > 0;
    }

    /// What is left of a draw bond; it is no longer reserved for the draw. The caller frees it.
    function _takeDrawBond(uint64 segmentId, SegmentRecord storage s, Stage memory g, uint256 i, address who, uint256 drawBond)
        internal
        returns (uint256 left)
    {
        g.bonded &= ~uint16(1 << i);
        left = drawBond;
        if (!s.seized) return left;
        uint256 lost = Math.min(_seized[segmentId][who], drawBond);
        _seized[segmentId][who] -= lost;
        return left - lost;
    }
}
