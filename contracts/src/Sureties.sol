// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IJobs} from "./interfaces/IJobs.sol";
import {IStakes} from "./interfaces/IStakes.sol";
import {Cover, ISureties, Offered} from "./interfaces/ISureties.sol";
import {Check, Job, Segment, SegmentState} from "./types/Types.sol";

/// Keys that are not released have a price.
///
/// A key service puts money behind a job once it has opened all envelopes of its document (`vouch`), so no client can have it fail by a broken
/// one. From then on a segment that the provider was given keys for and has committed to, and whose last committee was not given keys by a
/// quorum, is paid from that money. What may still keep the service from releasing is the provider's own envelope, of its checkpoint: then it says
/// so early in the first round, and the provider, or anybody, can show the key itself, early enough before the last. After that the service has it.
///
/// Whether the work was right is no matter here: nobody could look. For that the provider's own bond answers, in a dispute. It reads Jobs, which does
/// not know it, and is deployed at the address that follows from its code and Jobs' (CREATE2).
///
/// Money: it holds, for every key service, `free`, and for every job `left`.
contract Sureties is ISureties, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    enum Word {
        NONE,
        CONTESTED,
        SHOWN
    }

    IJobs private immutable _jobs;
    IERC20 private immutable _token;
    mapping(address keeper => Offered) private _offered;
    mapping(uint64 job => Cover) private _covers;
    mapping(uint64 segment => Word) private _words;
    mapping(uint64 segment => bool) private _paid;

    constructor(address jobs_) {
        _jobs = IJobs(jobs_);
        _token = IERC20(IStakes(_jobs.stakes()).token());
    }

    // ---- key services --------------------------------------------------------------------------------------------------------

    function offer(uint96 perJob, uint96 each, uint32 notice) external {
        if (each == 0 || each > perJob) revert BadTerm("each", each, 1, perJob);
        Offered storage o = _offered[msg.sender];
        (o.perJob, o.each, o.notice) = (perJob, each, notice);
        emit SuretyOffered(msg.sender, perJob, each, notice);
    }

    function deposit(uint96 amount) external nonReentrant {
        if (amount == 0) revert ZeroAmount();
        _offered[msg.sender].free += amount;
        emit SuretyDeposited(msg.sender, amount);
        uint256 before = _token.balanceOf(address(this));
        _token.safeTransferFrom(msg.sender, address(this), amount);
        uint256 received = _token.balanceOf(address(this)) - before;
        if (received != amount) revert UnsupportedToken(amount, received);
    }

    function withdraw(uint96 amount) external nonReentrant {
        if (amount == 0) revert ZeroAmount();
        _take(msg.sender, amount);
        emit SuretyWithdrawn(msg.sender, amount);
        _token.safeTransfer(msg.sender, amount);
    }

    function _take(address keeper, uint96 amount) private {
        Offered storage o = _offered[keeper];
        if (o.free < amount) revert InsufficientSurety(keeper, o.free, amount);
        o.free -= amount;
    }

    function vouch(uint64 jobId) external {
        Job memory t = _jobs.job(jobId);
        if (msg.sender != t.keyService) revert NotKeyService(msg.sender, t.keyService);
        if (_covers[jobId].keeper != address(0)) revert AlreadyVouched(jobId);
        if (t.cancelled || t.completed) revert JobIsOver(jobId);
        Offered storage o = _offered[msg.sender];
        if (o.each == 0) revert BadTerm("each", 0, 1, type(uint96).max);
        if (t.params.serveWindow < o.notice) revert ShortNotice(t.params.serveWindow, o.notice);
        // Without a second round a contested key could not be shown in time.
        if (t.params.redraws == 0) revert NoRedraw(jobId);
        _take(msg.sender, o.perJob);
        _covers[jobId] = Cover(msg.sender, o.perJob, o.each, 0);
        emit JobVouched(jobId, msg.sender, o.perJob, o.each);
    }

    function object(uint64 segmentId) external {
        Segment memory s = _jobs.segment(segmentId);
        Cover storage c = _coverOf(s.job);
        if (msg.sender != c.keeper) revert NotKeyService(msg.sender, c.keeper);
        if (_words[segmentId] != Word.NONE) revert AlreadyContested(segmentId);
        if ((s.state != SegmentState.COMMITTED && s.state != SegmentState.DRAWN) || s.round > 0) revert WrongState(segmentId, s.state);
        // While there is half of the window left to show the key in.
        if (s.state == SegmentState.DRAWN) {
            uint64 until = s.serveBy - _jobs.job(s.job).params.serveWindow / 2;
            if (block.timestamp > until) revert TooLate(until, uint64(block.timestamp));
        }
        _words[segmentId] = Word.CONTESTED;
        emit CheckpointContested(segmentId, msg.sender);
    }

    // ---- anybody -------------------------------------------------------------------------------------------------------------

    function show(uint64 segmentId, bytes32 checkpoint, bytes32 key) external {
        if (_words[segmentId] != Word.CONTESTED) revert NotContested(segmentId);
        Segment memory s = _jobs.segment(segmentId);
        Job memory t = _jobs.job(s.job);
        bool early = s.state == SegmentState.COMMITTED || (s.state == SegmentState.DRAWN && s.round < t.params.redraws);
        if (!early) revert WrongState(segmentId, s.state);
        bytes32 parent = s.parent == 0 ? t.specDigest : _jobs.segment(s.parent).commitment;
        bytes memory named = abi.encodePacked(bytes1(0x13), block.chainid, address(_jobs), s.job, parent, t.programRoot, s.start, s.stop);
        bytes32 keyId = sha256(abi.encodePacked(key));
        if (sha256(abi.encodePacked(named, s.linkRoot, checkpoint, keyId)) != s.commitment) revert OtherKey(segmentId);
        _words[segmentId] = Word.SHOWN;
        emit CheckpointKeyShown(segmentId, key);
    }

    function claim(uint64 segmentId) external nonReentrant {
        Segment memory s = _jobs.segment(segmentId);
        Cover storage c = _coverOf(s.job);
        if (_paid[segmentId]) revert AlreadyPaid(segmentId);
        _needWithheld(segmentId, s);
        if (_words[segmentId] == Word.CONTESTED) revert IsContested(segmentId);
        if (_jobs.reservation(s.provider, segmentId) < s.bond) revert IsSeized(segmentId);
        uint256 amount = s.price < c.each ? s.price : c.each;
        if (amount > c.left) amount = c.left;
        if (amount == 0) revert NothingLeft(s.job);
        _paid[segmentId] = true;
        c.left -= uint96(amount);
        emit SuretyPaid(segmentId, s.job, s.provider, uint96(amount));
        _token.safeTransfer(s.provider, amount);
    }

    /// It has failed in a round that was drawn and not served, for which fewer than a quorum had their keys; and the provider had its own. A
    /// bond that stands tells that from one for which nobody was drawn. A no of an earlier round makes such a segment WITHHELD instead of UNPAID.
    function _needWithheld(uint64 segmentId, Segment memory s) private view {
        bool failed = s.state == SegmentState.UNPAID || s.state == SegmentState.WITHHELD;
        if (!failed || !s.keyed || s.bond == 0) revert NotWithheld(segmentId);
        uint256 quorum = _jobs.job(s.job).params.quorum;
        (uint256 keyed, uint256 receipted) = (0, 0);
        Check[] memory checks = _jobs.checksOf(segmentId, s.round);
        for (uint256 i = 0; i < checks.length; ++i) {
            if (checks[i].keyed) ++keyed;
            if (checks[i].receipted) ++receipted;
        }
        if (checks.length == 0 || keyed >= quorum || receipted >= quorum) revert NotWithheld(segmentId);
    }

    function giveBack(uint64 jobId) external {
        Cover storage c = _coverOf(jobId);
        Job memory t = _jobs.job(jobId);
        if (!t.closed) revert JobIsOpen(jobId);
        if (c.endsAfter == 0) {
            c.endsAfter = uint64(block.timestamp) + t.params.challengeWindow;
            emit SuretyEnding(jobId, c.endsAfter);
            return;
        }
        if (block.timestamp <= c.endsAfter) revert TooEarly(c.endsAfter, uint64(block.timestamp));
        uint96 amount = c.left;
        if (amount == 0) revert NothingLeft(jobId);
        c.left = 0;
        _offered[c.keeper].free += amount;
        emit SuretyReturned(jobId, c.keeper, amount);
    }

    // ---- look-up -------------------------------------------------------------------------------------------------------------

    function _coverOf(uint64 jobId) private view returns (Cover storage c) {
        c = _covers[jobId];
        if (c.keeper == address(0)) revert NotVouched(jobId);
    }

    function offered(address keeper) external view returns (Offered memory) {
        return _offered[keeper];
    }

    function coverOf(uint64 jobId) external view returns (Cover memory) {
        return _coverOf(jobId);
    }
}
