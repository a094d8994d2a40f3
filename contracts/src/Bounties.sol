// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Openings} from "./dispute/Openings.sol";
import {IBounties} from "./interfaces/IBounties.sol";
import {IJobs} from "./interfaces/IJobs.sol";
import {IStakes} from "./interfaces/IStakes.sol";
import {Merkle} from "./libraries/Merkle.sol";
import {Bounty, BountyTerms, Entry, Evaluation, Rung} from "./types/BountyTypes.sol";
import {Job, Segment, SegmentState} from "./types/Types.sol";

/// Payment by result: more for a training whose last state measures better on records that its providers have not seen.
///
/// A sponsor locks the money and commits to the evaluation: program, records, how it is checked, and which of its tensors are those that the
/// training leaves. When the training is over, the evaluation is a job like any other, which anybody may post; its settled last state holds the metric, and a
/// Merkle path from that pays. Who wants to pay less than all must show a result: without one in the window all of it goes to the providers,
/// because it is the sponsor who has the sealed records (docs/decisions.md).
///
/// Money: the contract holds, for every bounty, `amount` less what has been credited of it; and `credit`. It only reads Jobs, and Jobs does not
/// know it. There is no owner. It is deployed at the address that follows from its code and Jobs' address (CREATE2).
contract Bounties is IBounties, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    uint256 private constant MOST_ENTRIES = 4096;
    uint256 private constant MOST_RUNGS = 16;
    uint32 private constant MOST_WINDOW = 90 days;
    uint8 private constant F32 = 1;
    uint8 private constant I64 = 3;

    IJobs private immutable _jobs;
    IERC20 private immutable _token;

    uint64 public bountyCount;
    mapping(uint64 id => Bounty) private _bounties;
    mapping(uint64 id => mapping(uint64 segment => bool)) public paid;
    mapping(address who => uint128) public credit;

    constructor(address jobs_) {
        _jobs = IJobs(jobs_);
        _token = IERC20(IStakes(_jobs.stakes()).token());
    }

    // ---- the offer -----------------------------------------------------------------------------------------------------------

    function offer(BountyTerms calldata t) external nonReentrant returns (uint64 id) {
        _jobs.job(t.job);
        _within("window", t.window, 1, MOST_WINDOW);
        _within("entries", t.start.length, 1, MOST_ENTRIES);
        if (t.dtype != F32 && t.dtype != I64) revert BadTerm("dtype", t.dtype, F32, I64);
        _placeOf(t);
        uint128 amount = _amountOf(t);
        _within("amount", amount, 1, type(uint96).max);
        id = ++bountyCount;
        Bounty storage b = _bounties[id];
        b.terms = keccak256(abi.encode(t));
        (b.sponsor, b.job, b.window, b.amount) = (msg.sender, t.job, t.window, uint96(amount));
        emit BountyOffered(id, t.job, msg.sender, t);
        // A token that delivers another amount has no job: Jobs refuses it.
        _token.safeTransferFrom(msg.sender, address(this), amount);
    }

    function _amountOf(BountyTerms calldata t) private pure returns (uint128 amount) {
        uint256 count = t.rungs.length;
        _within("rungs", count, 1, MOST_RUNGS);
        for (uint256 i = 0; i < count; ++i) {
            Rung calldata r = t.rungs[i];
            if (r.amount <= amount) revert BadRungs(i);
            if (i > 0) {
                int64 easier = t.rungs[i - 1].threshold;
                if (t.atMost ? r.threshold >= easier : r.threshold <= easier) revert BadRungs(i);
            }
            amount = r.amount;
        }
    }

    function _within(string memory name, uint256 value, uint256 least, uint256 most) private pure {
        if (value < least || value > most) revert BadTerm(name, value, least, most);
    }

    // ---- the window ----------------------------------------------------------------------------------------------------------

    /// A job that is cancelled ends where its last settled segment does: what was done by then is what is measured.
    function begin(uint64 id, uint64 last) external {
        Bounty storage b = _known(id);
        if (b.until != 0) revert HasBegun(id);
        Job memory j = _jobs.job(b.job);
        if (j.live > 0 || !(j.completed || j.cancelled)) revert JobIsLive(b.job, j.live);
        if (last == 0) {
            if (j.child != 0) revert NotTheLast(last);
            (b.until, b.shown) = (uint40(block.timestamp), true);
        } else {
            Segment memory s = _settled(last);
            // Nothing is live, so a child would have settled.
            if (s.job != b.job || s.child != 0) revert NotTheLast(last);
            (b.last, b.until) = (last, uint40(block.timestamp + b.window));
        }
        emit BountyBegun(id, last, b.until);
    }

    function _known(uint64 id) private view returns (Bounty storage b) {
        b = _bounties[id];
        if (b.terms == 0) revert NoSuchBounty(id);
    }

    function _settled(uint64 segment) private view returns (Segment memory s) {
        s = _jobs.segment(segment);
        if (s.state != SegmentState.SETTLED) revert WrongState(segment, s.state);
    }

    // ---- the result ----------------------------------------------------------------------------------------------------------

    /// Of several results the best counts. They are the same if no false one has settled.
    function show(
        uint64 id,
        BountyTerms calldata t,
        uint64 segment,
        Entry[] calldata trained,
        uint64 value,
        bytes32[] calldata path
    ) external {
        Bounty storage b = _known(id);
        if (keccak256(abi.encode(t)) != b.terms) revert BadTerms(b.terms);
        if (b.until == 0) revert NotBegun(id);
        if (block.timestamp > b.until) revert TooLate(b.until, uint64(block.timestamp));
        Segment memory s = _settled(segment);
        if (s.stop != t.evaluation.steps) revert NotTheEvaluation(s.job, "its end");
        _needEvaluation(s.job, t, trained, b.last);
        _needMetric(t, s.endRoot, value, path);
        uint128 reached = _reached(t, value);
        if (reached > b.reached) b.reached = uint96(reached);
        b.shown = true;
        emit BountyShown(id, segment, value, reached);
    }

    function _needEvaluation(uint64 job, BountyTerms calldata t, Entry[] calldata trained, uint64 last) private view {
        Job memory j = _jobs.job(job);
        Evaluation memory e = Evaluation(
            j.programRoot,
            j.datasetRoot,
            j.scheduleRoot,
            j.steps,
            j.microBatches,
            j.segmentSteps,
            j.microWeight,
            j.updateWeight,
            j.microLeaves,
            j.updateLeaves,
            j.params
        );
        if (keccak256(abi.encode(e)) != keccak256(abi.encode(t.evaluation))) revert NotTheEvaluation(job, "its terms");
        Segment memory s = _jobs.segment(last);
        if (trained.length > MOST_ENTRIES) revert BadLength("trained", trained.length, MOST_ENTRIES);
        bytes32[] memory leaves = new bytes32[](trained.length);
        for (uint64 i = 0; i < trained.length; ++i) {
            leaves[i] = Openings.entryLeaf(i, trained[i].name, trained[i].root);
        }
        if (_stateRoot(s.stop, leaves) != s.endRoot) revert NotTheEvaluation(job, "the training's last state");
        if (_stateRoot(0, _startLeaves(t.start, trained)) != j.stateRoot) revert NotTheEvaluation(job, "its start");
    }

    function _stateRoot(uint64 step, bytes32[] memory leaves) private view returns (bytes32) {
        return Openings.stateRoot(step, uint32(leaves.length), Merkle.rootOf(leaves));
    }

    /// Both are in the order of their names.
    function _startLeaves(Entry[] calldata start, Entry[] calldata trained) private pure returns (bytes32[] memory leaves) {
        leaves = new bytes32[](start.length);
        uint256 j = 0;
        for (uint64 i = 0; i < start.length; ++i) {
            bytes32 root = start[i].root;
            if (root == 0) {
                bytes32 name = keccak256(start[i].name);
                while (j < trained.length && keccak256(trained[j].name) != name) ++j;
                if (j == trained.length) revert BadProof();
                root = trained[j].root;
            }
            leaves[i] = Openings.entryLeaf(i, start[i].name, root);
        }
    }

    function _needMetric(BountyTerms calldata t, bytes32 endRoot, uint64 value, bytes32[] calldata path) private view {
        uint256 count = t.start.length;
        uint64 place = _placeOf(t);
        if (t.dtype == F32 && value > type(uint32).max) revert BadProof();
        bytes32 leaf = Openings.entryLeaf(place, t.metric, _scalarRoot(t.dtype, value));
        if (path.length != Merkle.depth(count)) revert BadProof();
        bytes32 entries = Merkle.climb(leaf, place, path);
        if (Openings.stateRoot(t.evaluation.steps, uint32(count), entries) != endRoot) revert BadProof();
    }

    /// Of the metric among the entries.
    function _placeOf(BountyTerms calldata t) private pure returns (uint64 place) {
        bytes32 name = keccak256(t.metric);
        uint256 count = t.start.length;
        while (place < count && keccak256(t.start[place].name) != name) ++place;
        if (place == count) revert BadTerm("metric", count, 0, count);
    }

    /// Root of a tensor without axes: one chunk, its first bytes the value's, little-endian.
    function _scalarRoot(uint8 dtype, uint64 value) private pure returns (bytes32) {
        bytes memory chunk = new bytes(Openings.CHUNK);
        for (uint256 i = 0; i < 8; ++i) {
            chunk[i] = bytes1(uint8(value >> (8 * i)));
        }
        return Openings.tensorRoot(abi.encodePacked(dtype, uint8(0)), Merkle.leafOf(0, chunk));
    }

    function _reached(BountyTerms calldata t, uint64 value) private pure returns (uint128 amount) {
        if (t.dtype == F32 && _isNan(value)) return 0;
        int64 x = t.dtype == F32 ? order(uint32(value)) : int64(value);
        for (uint256 i = 0; i < t.rungs.length; ++i) {
            Rung calldata r = t.rungs[i];
            if (t.atMost ? x <= r.threshold : x >= r.threshold) amount = r.amount;
        }
    }

    function _isNan(uint64 bits) private pure returns (bool) {
        return bits & 0x7fffffff > 0x7f800000;
    }

    /// A number for the bits of each float32 but NaN, in the order of what they stand for.
    function order(uint32 bits) public pure returns (int64) {
        int64 magnitude = int64(uint64(bits & 0x7fffffff));
        return bits >> 31 == 0 ? magnitude : -magnitude;
    }

    // ---- payment -------------------------------------------------------------------------------------------------------------

    function collect(uint64 id, uint64[] calldata segments) external {
        Bounty storage b = _known(id);
        uint256 all = _earned(id, b);
        uint256 steps = b.last == 0 ? 0 : _jobs.segment(b.last).stop;
        for (uint256 i = 0; i < segments.length; ++i) {
            uint64 segment = segments[i];
            Segment memory s = _settled(segment);
            if (s.job != b.job) revert NotOfTheJob(segment, b.job);
            if (paid[id][segment]) revert IsPaid(id, segment);
            paid[id][segment] = true;
            // Every step has as many links as another. What settled is one chain from step 0 on, so these add up to all of it.
            uint128 share = uint128(all * s.stop / steps - all * s.start / steps);
            credit[s.provider] += share;
            emit BountyPaid(id, segment, s.provider, share);
        }
    }

    function giveBack(uint64 id) external {
        Bounty storage b = _known(id);
        uint128 back = b.amount - _earned(id, b);
        if (b.returned) revert IsReturned(id);
        b.returned = true;
        credit[b.sponsor] += back;
        emit BountyReturned(id, back);
    }

    function withdraw() external nonReentrant {
        uint128 amount = credit[msg.sender];
        if (amount == 0) revert NothingToWithdraw(msg.sender);
        credit[msg.sender] = 0;
        emit BountyWithdrawn(msg.sender, amount);
        _token.safeTransfer(msg.sender, amount);
    }

    /// Decided when all is earned, or the window is over.
    function _earned(uint64 id, Bounty storage b) private view returns (uint128) {
        if (b.until == 0) revert NotBegun(id);
        bool over = block.timestamp > b.until || b.reached == b.amount || b.last == 0;
        if (!over) revert TooEarly(b.until, uint64(block.timestamp));
        return b.shown ? b.reached : b.amount;
    }

    // ---- look-up -------------------------------------------------------------------------------------------------------------

    function jobs() external view returns (address) {
        return address(_jobs);
    }

    function token() external view returns (address) {
        return address(_token);
    }

    function bounty(uint64 id) external view returns (Bounty memory) {
        return _known(id);
    }

    function earned(uint64 id) external view returns (uint128) {
        return _earned(id, _known(id));
    }
}
