// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {Bounds} from "../libraries/Bounds.sol";
import {Hashes} from "../libraries/Hashes.sol";
import {Merkle} from "../libraries/Merkle.sol";
import {Job, KeyRelease, Offer, Segment, SegmentState, Check} from "../types/Types.sol";
import {Base} from "./Base.sol";

/// The segment from its assignment to its commitment, and its ends other than the committee's: lapsed, settled, void, rejected.
/// Code that Jobs runs by delegatecall (see Jobs.sol); by itself it holds nothing.
contract Segments is Base {
    bytes32 private constant OFFER_TYPE = keccak256(
        "Offer(address provider,uint64 job,uint64 parent,uint64 start,uint64 stop,uint128 price,uint64 expires,uint256 nonce)"
    );
    uint256 private constant MOST_WRAPPED = 256;
    uint256 private constant MOST_RELEASES = 64;

    constructor(address stakes_) Base(stakes_) {}

    // ---- assignment ----------------------------------------------------------------------------------------------------------

    function assign(Offer calldata offer, bytes calldata signature) external nonReentrant returns (uint64 segmentId) {
        Job storage j = _job(offer.job);
        if (j.cancelled) revert JobIsCancelled(offer.job);
        if (j.completed) revert JobIsCompleted(offer.job);
        if (block.timestamp > j.deadline) revert JobPastDeadline(offer.job, j.deadline);
        _takeOffer(offer, signature);
        segmentId = ++segmentCount;
        _takeRange(j, offer, segmentId);

        uint256 cap = uint256(j.priceCap) * (offer.stop - offer.start);
        if (offer.price == 0) revert ZeroAmount();
        if (offer.price > cap) revert PriceOverCap(offer.price, cap);
        uint128 fees = j.fee * j.params.verifiers * (1 + j.params.redraws);
        uint128 bond = uint128(Math.mulDiv(offer.price, j.params.bondTenths, 10));
        if (j.escrow < offer.price + fees) revert InsufficientEscrow(j.escrow, offer.price + fees);
        j.escrow -= offer.price + fees;
        j.live += 1;

        Segment storage s = _segments[segmentId];
        s.job = offer.job;
        s.parent = offer.parent;
        s.start = offer.start;
        s.stop = offer.stop;
        s.provider = offer.provider;
        s.state = SegmentState.ASSIGNED;
        s.price = offer.price;
        s.bond = bond;
        s.feesHeld = fees;
        s.activateBy = _now() + j.params.activateWindow;
        if (bond > 0) _stakes.reserve(offer.provider, segmentId, bond);
        emit Assigned(segmentId, offer.job, offer.parent, offer.provider, offer.start, offer.stop, offer.price, s.activateBy);
    }

    function _takeOffer(Offer calldata offer, bytes calldata signature) private {
        if (block.timestamp > offer.expires) revert OfferExpired(offer.expires, _now());
        if (nonceUsed[offer.provider][offer.nonce]) revert NonceUsed(offer.provider, offer.nonce);
        nonceUsed[offer.provider][offer.nonce] = true;
        _needConsent(offer.provider, keccak256(abi.encode(OFFER_TYPE, offer)), signature);
        if (_stakes.encryptionKeyOf(offer.provider) == 0) revert NotRegistered(offer.provider);
    }

    /// Checks that the range is the one that is open after the parent, and that the sender may assign it; marks it as taken.
    function _takeRange(Job storage j, Offer calldata offer, uint64 segmentId) private {
        uint64 start = 0;
        (uint64 child, uint64 openSince) = (j.child, j.openSince);
        if (offer.parent != 0) {
            Segment storage p = _segments[offer.parent];
            if (p.job != offer.job) revert WrongParent(offer.parent, offer.job);
            if (p.state < SegmentState.COMMITTED) revert ParentNotCommitted(offer.parent, p.state);
            if (_unsettledFrom(offer.parent) >= j.params.depth) revert TooDeep(offer.parent, j.params.depth);
            (start, child, openSince) = (p.stop, p.child, p.openSince);
        }
        if (child != 0) revert RangeTaken(offer.parent, child);
        uint64 stop = uint64(Math.min(j.steps, (start / j.segmentSteps + 1) * j.segmentSteps));
        if (offer.start != start || offer.stop != stop || start == stop) revert WrongRange(start, stop);
        uint64 anyoneAfter = openSince + j.params.takeoverWindow;
        if (msg.sender != j.scheduler && msg.sender != j.client && block.timestamp <= anyoneAfter) {
            revert NotEntitledToAssign(msg.sender, anyoneAfter);
        }
        if (offer.parent == 0) j.child = segmentId;
        else _segments[offer.parent].child = segmentId;
    }

    function activate(uint64 segmentId) external {
        Segment storage s = _in(segmentId, SegmentState.ASSIGNED);
        _needProvider(s);
        _needBefore(s.activateBy);
        s.state = SegmentState.ACTIVE;
        s.leaseUntil = _now() + _jobs[s.job].params.leaseWindow;
        emit Activated(segmentId, s.leaseUntil);
    }

    function lapse(uint64 segmentId) external nonReentrant {
        Segment storage s = _segment(segmentId);
        Job storage j = _jobs[s.job];
        uint128 fee;
        if (s.state == SegmentState.ASSIGNED) {
            _needAfter(s.activateBy);
            if (s.keyed) fee = _bps(s.price, j.params.lateFeeBps);
        } else if (s.state == SegmentState.ACTIVE) {
            _needAfter(s.leaseUntil);
            fee = _bps(s.price, j.params.lateFeeBps);
        } else {
            revert WrongState(segmentId, s.state);
        }
        _unsettledFrom(s.parent);
        uint128 charged = _stakes.charge(s.provider, segmentId, fee, "late");
        j.escrow += charged;
        _releaseBond(segmentId, s);
        _end(segmentId, s, SegmentState.LAPSED);
        emit Lapsed(segmentId, charged);
    }

    // ---- commitment ----------------------------------------------------------------------------------------------------------

    function commit(
        uint64 segmentId,
        uint64 stop,
        bytes32 linkRoot,
        bytes32 endRoot,
        bytes32[] calldata proof,
        bytes calldata checkpoint,
        bytes32 keyId,
        bytes calldata keyEnvelope
    ) external {
        Segment storage s = _in(segmentId, SegmentState.ACTIVE);
        Job storage j = _jobs[s.job];
        _needProvider(s);
        _needBefore(s.leaseUntil);
        _unsettledFrom(s.parent);
        if (stop <= s.start || stop > s.stop) revert StopOutOfRange(stop, s.start, s.stop);
        Bounds.cid(checkpoint);
        if (keyEnvelope.length > MOST_WRAPPED) revert BadLength("key_envelope", keyEnvelope.length, MOST_WRAPPED);
        _needEnd(stop - s.start, j.microBatches, linkRoot, endRoot, proof);
        if (stop < s.stop) _split(s, j, stop);
        s.state = SegmentState.COMMITTED;
        s.linkRoot = linkRoot;
        s.endRoot = endRoot;
        s.commitment = _commitment(s, j, sha256(checkpoint), keyId);
        s.openSince = _now();
        _awaitSeed(s, j);
        emit Committed(segmentId, stop, linkRoot, endRoot, checkpoint, keyId, keyEnvelope, s.commitment, s.seedBlock);
    }

    /// The end root is the last of the (steps) * (micro-batches + 1) link ends.
    function _needEnd(uint64 steps, uint32 micros, bytes32 linkRoot, bytes32 endRoot, bytes32[] calldata proof) private view {
        uint64 links = steps * (uint64(micros) + 1);
        if (!Merkle.verify(linkRoot, links, links - 1, endRoot, proof)) revert BadProof();
    }

    /// A prefix is a segment of its own: its price is in proportion, the rest of the range is open after it.
    function _split(Segment storage s, Job storage j, uint64 stop) private {
        uint128 price = uint128(Math.mulDiv(s.price, stop - s.start, s.stop - s.start));
        j.escrow += s.price - price;
        s.price = price;
        s.stop = stop;
    }

    function _commitment(Segment storage s, Job storage j, bytes32 checkpointHash, bytes32 keyId) private view returns (bytes32) {
        bytes32 parent = s.parent == 0 ? j.specDigest : _segments[s.parent].commitment;
        return Hashes.commitment(s.job, parent, j.programRoot, s.start, s.stop, s.linkRoot, checkpointHash, keyId);
    }

    // ---- keys ----------------------------------------------------------------------------------------------------------------

    function release(uint64 segmentId, KeyRelease[] calldata releases) external {
        Segment storage s = _segment(segmentId);
        if (releases.length > MOST_RELEASES) revert BadLength("releases", releases.length, MOST_RELEASES);
        bool official = msg.sender == _jobs[s.job].keyService;
        for (uint256 i = 0; i < releases.length; ++i) {
            KeyRelease calldata r = releases[i];
            if (r.wrapped.length > MOST_WRAPPED) revert BadLength("wrapped", r.wrapped.length, MOST_WRAPPED);
            if (official) _noteKey(segmentId, s, r.recipient);
            emit KeyReleased(segmentId, r.recipient, r.keyId, r.wrapped, msg.sender);
        }
    }

    function _noteKey(uint64 segmentId, Segment storage s, address recipient) private {
        if (s.state == SegmentState.ASSIGNED || s.state == SegmentState.ACTIVE) {
            if (recipient == s.provider) s.keyed = true;
        } else if (s.state == SegmentState.DRAWN) {
            Check[] storage checks = _checks[segmentId][s.round];
            for (uint256 i = 0; i < checks.length; ++i) {
                if (checks[i].verifier == recipient) checks[i].keyed = true;
            }
        }
    }

    // ---- ends ----------------------------------------------------------------------------------------------------------------

    function settle(uint64 segmentId) external nonReentrant {
        Segment storage s = _in(segmentId, SegmentState.ATTESTED);
        _needAfter(s.settleAfter);
        _needNoDispute(segmentId, s);
        if (s.parent != 0 && _segments[s.parent].state != SegmentState.SETTLED) {
            revert ParentUnsettled(s.parent, _segments[s.parent].state);
        }
        _releaseBond(segmentId, s);
        _end(segmentId, s, SegmentState.SETTLED);
        emit Settled(segmentId, s.provider, s.price);
    }

    function voidSegment(uint64 segmentId) external nonReentrant {
        Segment storage s = _segment(segmentId);
        if (_terminal(s.state)) revert WrongState(segmentId, s.state);
        if (s.parent == 0 || !_failed(_segments[s.parent].state)) revert NotVoidable(segmentId);
        _needNoDispute(segmentId, s);
        _releaseBond(segmentId, s);
        _end(segmentId, s, SegmentState.VOID);
        emit Voided(segmentId);
    }

    function clearBond(uint64 segmentId) external nonReentrant {
        Segment storage s = _segment(segmentId);
        if (s.state == SegmentState.UNPAID) {
            _needAfter(s.settleAfter);
        } else if (s.state == SegmentState.WITHHELD || s.state == SegmentState.REJECTED) {
            if (msg.sender != _stakes.disputes()) revert NotDisputes(msg.sender);
        } else {
            revert WrongState(segmentId, s.state);
        }
        _needNoDispute(segmentId, s);
        if (s.bond == 0) revert NoBond(segmentId);
        emit BondCleared(segmentId, _stakes.reservation(s.provider, segmentId));
        _releaseBond(segmentId, s);
    }

    function disputeOpened(uint64 segmentId) external onlyDisputes {
        Segment storage s = _segment(segmentId);
        bool standing = s.state == SegmentState.DRAWN || s.state == SegmentState.SERVED || s.state == SegmentState.ATTESTED;
        bool bonded = s.bond > 0 && (s.state == SegmentState.WITHHELD || s.state == SegmentState.UNPAID);
        if (!standing && !bonded) revert WrongState(segmentId, s.state);
        s.disputes += 1;
    }

    function disputeResolved(uint64 segmentId, bool asserterLost) external onlyDisputes nonReentrant {
        Segment storage s = _segment(segmentId);
        if (s.disputes == 0) revert NoDisputeOpen(segmentId);
        s.disputes -= 1;
        if (!asserterLost || _terminal(s.state)) return;
        _end(segmentId, s, SegmentState.REJECTED);
        emit Rejected(segmentId);
    }

    /// The leaves differ: nobody is paid for the range, nobody is slashed, and it is open again once no other dispute is open.
    function disputeVoided(uint64 segmentId) external onlyDisputes nonReentrant {
        Segment storage s = _segment(segmentId);
        if (s.disputes == 0) revert NoDisputeOpen(segmentId);
        s.disputes -= 1;
        if (s.disputes > 0 || _terminal(s.state)) return;
        _releaseBond(segmentId, s);
        _end(segmentId, s, SegmentState.VOID);
        emit Voided(segmentId);
    }

    /// The trace root that a drawn verifier has revealed for a unit; its draw bond stays until `voteResolved`. Only a vote that agrees can
    /// be disputed: who was served something else than what was committed says no with a trace that it cannot defend.
    function voteDisputed(uint64 segmentId, uint32 round, address verifier, uint64 unit)
        external
        onlyDisputes
        returns (bytes32 root)
    {
        Check storage c = _voteOf(segmentId, round, verifier);
        if (!c.revealed || !c.agrees) revert NotRevealed(verifier);
        if (!c.bonded) revert NoBond(segmentId);
        uint64[] storage units = _units[segmentId];
        uint256 i = 0;
        while (i < c.traceRoots.length && units[i] != unit) ++i;
        if (i == c.traceRoots.length) revert NotDrawnUnit(segmentId, unit);
        _held[segmentId][verifier] += 1;
        return c.traceRoots[i];
    }

    /// A vote that fell counts no more and is not paid.
    function voteResolved(uint64 segmentId, uint32 round, address verifier, bool fell) external onlyDisputes nonReentrant {
        Check storage c = _voteOf(segmentId, round, verifier);
        uint32 held = _held[segmentId][verifier] -= 1;
        if (fell) (c.isSealed, c.revealed, c.opened, c.prevailed) = (false, false, false, false);
        if (held > 0 || !_terminal(_segments[segmentId].state)) return;
        c.bonded = false;
        uint128 left = _stakes.reservation(verifier, segmentId);
        if (left > 0) _stakes.release(verifier, segmentId, left);
    }

    function _voteOf(uint64 segmentId, uint32 round, address verifier) private view returns (Check storage) {
        Check[] storage checks = _checks[segmentId][round];
        for (uint256 i = 0; i < checks.length; ++i) {
            if (checks[i].verifier == verifier) return checks[i];
        }
        revert NotDrawn(segmentId, verifier);
    }

    function _needNoDispute(uint64 segmentId, Segment storage s) private view {
        if (s.disputes > 0) revert DisputeOpen(segmentId, s.disputes);
    }

    function _needProvider(Segment storage s) private view {
        if (msg.sender != s.provider) revert NotProvider(msg.sender, s.provider);
    }
}
