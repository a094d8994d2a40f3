// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {IJobsLog} from "../interfaces/IJobs.sol";
import {IStakes} from "../interfaces/IStakes.sol";
import {Check, Job, Phase, Segment, SegmentState} from "../types/Types.sol";

/// Storage of Jobs, and the one way in which a segment ends.
///
/// Money: the contract holds, for every job, `escrow` (free) and, for every live segment, `price + feesHeld`; and `credit`.
/// Every token here is in exactly one of these. A segment's reservation leaves it in `_end` only.
abstract contract Base is IJobsLog, EIP712, ReentrancyGuardTransient {
    IERC20 internal immutable _token;
    IStakes internal immutable _stakes;

    uint64 public jobCount;
    uint64 public segmentCount;
    mapping(uint64 jobId => Job) internal _jobs;
    mapping(uint64 segmentId => Segment) internal _segments;
    mapping(uint64 segmentId => uint64[]) internal _units;
    mapping(uint64 segmentId => mapping(uint32 round => Check[])) internal _checks;
    mapping(address who => uint128) public credit;
    mapping(address provider => mapping(uint256 nonce => bool)) public nonceUsed;
    /// Open disputes over a verifier's trace roots: while there are any its draw bond stays.
    mapping(uint64 segmentId => mapping(address verifier => uint32)) internal _held;

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

    function _job(uint64 jobId) internal view returns (Job storage j) {
        j = _jobs[jobId];
        if (j.client == address(0)) revert NoSuchJob(jobId);
    }

    function _segment(uint64 segmentId) internal view returns (Segment storage s) {
        s = _segments[segmentId];
        if (s.state == SegmentState.NONE) revert NoSuchSegment(segmentId);
    }

    function _in(uint64 segmentId, SegmentState state) internal view returns (Segment storage s) {
        s = _segment(segmentId);
        if (s.state != state) revert WrongState(segmentId, s.state);
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
            SegmentState state = _segments[up].state;
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

    /// Accepts an account's signature (ECDSA or ERC-1271) or, when there is none, the account itself.
    function _needConsent(address who, bytes32 structHash, bytes calldata signature) internal view {
        if (signature.length == 0 && msg.sender == who) return;
        if (!SignatureChecker.isValidSignatureNowCalldata(who, _hashTypedDataV4(structHash), signature)) {
            revert BadSignature(who);
        }
    }

    // ---- shared steps --------------------------------------------------------------------------------------------------------

    /// Fixes the next draw: its seed block lies `finality` blocks ahead, its seats are those at the end of this block.
    function _awaitSeed(Segment storage s, Job storage j) internal {
        s.seatsBlock = uint64(block.number);
        s.seedBlock = uint64(block.number) + j.params.finality;
        s.drawBy = _now() + j.params.serveWindow;
    }

    function _bps(uint128 amount, uint32 bps) internal pure returns (uint128) {
        return uint128(Math.mulDiv(amount, bps, 10_000));
    }

    // ---- ends ----------------------------------------------------------------------------------------------------------------

    function _credit(address who, uint64 segmentId, uint128 amount, string memory reason) internal {
        if (amount == 0) return;
        credit[who] += amount;
        emit Credited(who, segmentId, amount, reason);
    }

    function _releaseBond(uint64 segmentId, Segment storage s) internal {
        uint128 left = _stakes.reservation(s.provider, segmentId);
        s.bond = 0;
        if (left > 0) _stakes.release(s.provider, segmentId, left);
    }

    /// Moves a live segment to a terminal state: pays those verifiers that the state entitles, releases draw bonds, pays the
    /// provider or returns the price, and opens the range again when it failed. What becomes of the bond is up to the caller.
    function _end(uint64 segmentId, Segment storage s, SegmentState to) internal {
        Job storage j = _jobs[s.job];
        s.state = to;
        s.phase = Phase.NONE;
        j.live -= 1;
        if (to == SegmentState.SETTLED) {
            _credit(s.provider, segmentId, s.price, "price");
            if (s.stop == j.steps) j.completed = true;
        } else {
            j.escrow += s.price;
            if (s.parent == 0) (j.child, j.openSince) = (0, _now());
            else (_segments[s.parent].child, _segments[s.parent].openSince) = (0, _now());
        }
        uint128 paid = _payVerifiers(segmentId, s, j, to);
        j.escrow += s.feesHeld - paid;
        s.feesHeld = 0;
    }

    function _payVerifiers(uint64 segmentId, Segment storage s, Job storage j, SegmentState to) private returns (uint128 paid) {
        (uint128 fee, uint128 drawBond) = (j.fee, j.params.drawBond);
        for (uint32 round = 0; round <= s.round; ++round) {
            Check[] storage checks = _checks[segmentId][round];
            for (uint256 i = 0; i < checks.length; ++i) {
                Check storage c = checks[i];
                _releaseDraw(segmentId, c, drawBond);
                if (c.opened && _entitled(c, to)) {
                    paid += fee;
                    _credit(c.verifier, segmentId, fee, "fee");
                }
            }
        }
    }

    /// A no asserts nothing that could be disputed, so it earns nothing by itself, else saying no without a look would pay: the fee is
    /// due where a dispute has borne it out, and who wins that dispute gets half of the bond.
    function _entitled(Check storage c, SegmentState to) private view returns (bool) {
        if (to == SegmentState.SETTLED) return c.prevailed;
        if (to == SegmentState.REJECTED) return !c.agrees;
        return to != SegmentState.WITHHELD;
    }

    function _releaseDraw(uint64 segmentId, Check storage c, uint128 drawBond) internal {
        if (!c.bonded) return;
        if (_segments[segmentId].disputes > 0 && _held[segmentId][c.verifier] > 0) return;
        c.bonded = false;
        if (drawBond > 0) _stakes.release(c.verifier, segmentId, drawBond);
    }
}
