// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {IDatasets} from "../interfaces/IDatasets.sol";
import {IStakes} from "../interfaces/IStakes.sol";
import {Bounds} from "../libraries/Bounds.sol";
import {Hashes} from "../libraries/Hashes.sol";
import {Merkle} from "../libraries/Merkle.sol";
import {KeyRelease, Offer, SegmentState} from "../types/Types.sol";
import {Base} from "./Base.sol";
import {JobRecord, SegmentRecord, Stage, Stages} from "./Records.sol";

/// The segment from its assignment to its commitment, and its ends other than the committee's and the settlement: lapsed, void, rejected.
/// Code that Jobs runs by delegatecall (see Jobs.sol); by itself it holds nothing.
contract Segments is Base {
    bytes32 private constant OFFER_TYPE = keccak256(
        "Offer(address provider,uint64 job,uint64 parent,uint64 start,uint64 stop,uint128 price,uint64 expires,uint256 nonce)"
    );
    /// The keys of 226 records, wrapped together (assay/bundles.py). More go in several releases, so that no event is larger than this.
    uint256 private constant MOST_WRAPPED = 8192;
    /// A key that 16 holders share: assay/threshold.py.
    uint256 private constant MOST_ENVELOPE = 2048;
    uint256 private constant MOST_RELEASES = 64;

    constructor(address stakes_) Base(stakes_) {}

    // ---- assignment ----------------------------------------------------------------------------------------------------------

    function assign(Offer calldata offer, bytes calldata signature) external nonReentrant returns (uint64 segmentId) {
        JobRecord storage j = _job(offer.job);
        if (j.cancelled) revert JobIsCancelled(offer.job);
        if (j.completed) revert JobIsCompleted(offer.job);
        if (block.timestamp > j.deadline) revert JobPastDeadline(offer.job, j.deadline);
        if (j.licensed > 0) IDatasets(_stakes.datasets()).need(offer.job, offer.provider);
        _takeOffer(offer, signature);
        segmentId = ++segmentCount;
        _takeRange(j, offer, segmentId);

        SegmentRecord storage s = _segments[segmentId];
        _takePrice(j, s, offer);
        uint64 activateBy = _now() + j.activateWindow;
        s.stage = _assignedStage(activateBy);
        (s.parent, s.start, s.stop) = (offer.parent, uint32(offer.start), uint32(offer.stop));
        (s.provider, s.job) = (offer.provider, offer.job);
        s.lane = _holdBond(offer.provider, s.bond);
        emit Assigned(segmentId, offer.job, offer.parent, offer.provider, offer.start, offer.stop, offer.price, activateBy);
    }

    /// Moves price and fees from the escrow to the segment, and sets the bond.
    function _takePrice(JobRecord storage j, SegmentRecord storage s, Offer calldata offer) private {
        uint256 cap = uint256(j.priceCap) * (offer.stop - offer.start);
        if (offer.price == 0) revert ZeroAmount();
        if (offer.price > cap) revert PriceOverCap(offer.price, cap);
        uint256 needed = offer.price + _feesOf(j);
        if (j.escrow < needed) revert InsufficientEscrow(j.escrow, uint128(needed));
        (j.escrow, j.live) = (uint96(j.escrow - needed), j.live + 1);
        s.price = SafeCast.toUint88(offer.price);
        s.bond = SafeCast.toUint88(uint256(offer.price) * j.bondTenths / 10 + j.bondBase);
    }

    function _assignedStage(uint64 activateBy) private pure returns (uint256) {
        Stage memory g;
        g.state = SegmentState.ASSIGNED;
        g.due = uint40(activateBy);
        return Stages.pack(g);
    }

    /// Reserves what the provider has free.
    function _holdBond(address provider, uint256 bond) private returns (uint8) {
        uint128 free = _stakes.freeStake(provider);
        if (free < bond) revert IStakes.InsufficientStake(provider, free, uint128(bond));
        return _hold(provider, bond);
    }

    function _takeOffer(Offer calldata offer, bytes calldata signature) private {
        if (block.timestamp > offer.expires) revert OfferExpired(offer.expires, _now());
        if (nonceUsed[offer.provider][offer.nonce]) revert NonceUsed(offer.provider, offer.nonce);
        nonceUsed[offer.provider][offer.nonce] = true;
        _needConsent(offer.provider, _domainSeparatorV4(), keccak256(abi.encode(OFFER_TYPE, offer)), signature);
        if (_stakes.encryptionKeyOf(offer.provider) == 0) revert NotRegistered(offer.provider);
    }

    /// Checks that the range is the one that is open after the parent, and that the sender may assign it; marks it as taken.
    function _takeRange(JobRecord storage j, Offer calldata offer, uint64 segmentId) private {
        uint64 start = 0;
        (uint64 child, uint64 openSince) = (j.child, j.openSince);
        if (offer.parent != 0) {
            SegmentRecord storage p = _segments[offer.parent];
            if (p.job != offer.job) revert WrongParent(offer.parent, offer.job);
            SegmentState state = Stages.state(p.stage);
            if (state < SegmentState.COMMITTED) revert ParentNotCommitted(offer.parent, state);
            if (_unsettledFrom(offer.parent) >= j.depth) revert TooDeep(offer.parent, j.depth);
            (start, child, openSince) = (p.stop, p.child, p.openSince);
        }
        if (child != 0) revert RangeTaken(offer.parent, child);
        uint64 stop = uint64(Math.min(j.steps, (start / j.segmentSteps + 1) * j.segmentSteps));
        if (offer.start != start || offer.stop != stop || start == stop) revert WrongRange(start, stop);
        uint64 anyoneAfter = openSince + j.takeoverWindow;
        if (msg.sender != j.scheduler && msg.sender != j.client && block.timestamp <= anyoneAfter) {
            revert NotEntitledToAssign(msg.sender, anyoneAfter);
        }
        if (offer.parent == 0) j.child = segmentId;
        else _segments[offer.parent].child = segmentId;
    }

    function activate(uint64 segmentId) external {
        (SegmentRecord storage s, Stage memory g) = _in(segmentId, SegmentState.ASSIGNED);
        _needProvider(s);
        _needBefore(g.due);
        uint64 leaseUntil = _now() + _jobs[s.job].leaseWindow;
        (g.state, g.due) = (SegmentState.ACTIVE, uint40(leaseUntil));
        s.stage = Stages.pack(g);
        emit Activated(segmentId, leaseUntil);
    }

    function lapse(uint64 segmentId) external nonReentrant {
        SegmentRecord storage s = _segment(segmentId);
        Stage memory g = Stages.unpack(s.stage);
        if (g.state != SegmentState.ASSIGNED && g.state != SegmentState.ACTIVE) revert WrongState(segmentId, g.state);
        _needAfter(g.due);
        _unsettledFrom(s.parent);
        JobRecord storage j = _jobs[s.job];
        uint128 fee = 0;
        if (g.state == SegmentState.ACTIVE || s.keyed) fee = uint128(Math.min(_bps(s.price, j.lateFeeBps), s.bond));
        _releaseBond(segmentId, s);
        _end(segmentId, s, g, SegmentState.LAPSED, 0);
        if (fee > 0) {
            j.escrow = SafeCast.toUint96(j.escrow + fee);
            _stakes.charge(s.provider, segmentId, fee, "late");
        }
        emit Lapsed(segmentId, fee);
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
        (SegmentRecord storage s, Stage memory g) = _in(segmentId, SegmentState.ACTIVE);
        _needProvider(s);
        _needBefore(g.due);
        _unsettledFrom(s.parent);
        if (stop <= s.start || stop > s.stop) revert StopOutOfRange(stop, s.start, s.stop);
        Bounds.cid(checkpoint);
        if (keyEnvelope.length > MOST_ENVELOPE) revert BadLength("key_envelope", keyEnvelope.length, MOST_ENVELOPE);
        _needEnd(stop - s.start, _jobs[s.job].microBatches, linkRoot, endRoot, proof);
        g.atBlock = _commitTo(s, stop, linkRoot, endRoot, sha256(checkpoint), keyId);
        emit Committed(segmentId, stop, linkRoot, endRoot, checkpoint, keyId, keyEnvelope, s.commitment, g.atBlock);
    }

    /// Returns the seed block.
    function _commitTo(SegmentRecord storage s, uint64 stop, bytes32 linkRoot, bytes32 endRoot, bytes32 checkpoint, bytes32 keyId)
        private
        returns (uint40)
    {
        JobRecord storage j = _jobs[s.job];
        if (stop < s.stop) _split(s, j, stop);
        s.linkRoot = linkRoot;
        s.endRoot = endRoot;
        s.commitment = _commitment(s, j, linkRoot, checkpoint, keyId);
        (s.openSince, s.last) = (uint40(block.timestamp), stop == j.steps);
        Stage memory g;
        uint64 seedBlock = _awaitSeed(g, j);
        s.stage = Stages.pack(g);
        return uint40(seedBlock);
    }

    /// The end root is the last of the (steps) * (micro-batches + 1) link ends.
    function _needEnd(uint64 steps, uint32 micros, bytes32 linkRoot, bytes32 endRoot, bytes32[] calldata proof) private view {
        uint64 links = steps * (uint64(micros) + 1);
        if (!Merkle.verify(linkRoot, links, links - 1, endRoot, proof)) revert BadProof();
    }

    /// A prefix is a segment of its own: its price is in proportion, the rest of the range is open after it.
    function _split(SegmentRecord storage s, JobRecord storage j, uint64 stop) private {
        uint256 price = uint256(s.price) * (stop - s.start) / (s.stop - s.start);
        j.escrow = SafeCast.toUint96(j.escrow + s.price - price);
        s.price = uint88(price);
        s.stop = uint32(stop);
    }

    function _commitment(SegmentRecord storage s, JobRecord storage j, bytes32 linkRoot, bytes32 checkpointHash, bytes32 keyId)
        private
        view
        returns (bytes32)
    {
        bytes32 parent = s.parent == 0 ? j.specDigest : _segments[s.parent].commitment;
        return Hashes.commitment(s.job, parent, j.programRoot, s.start, s.stop, linkRoot, checkpointHash, keyId);
    }

    // ---- keys ----------------------------------------------------------------------------------------------------------------

    function release(uint64 segmentId, KeyRelease[] calldata releases) external {
        SegmentRecord storage s = _segment(segmentId);
        if (releases.length > MOST_RELEASES) revert BadLength("releases", releases.length, MOST_RELEASES);
        if (msg.sender == _jobs[s.job].keyService) _noteKeys(segmentId, s, releases);
        for (uint256 i = 0; i < releases.length; ++i) {
            KeyRelease calldata r = releases[i];
            if (r.wrapped.length > MOST_WRAPPED) revert BadLength("wrapped", r.wrapped.length, MOST_WRAPPED);
            emit KeyReleased(segmentId, r.recipient, r.keyId, r.wrapped, msg.sender);
        }
    }

    function _noteKeys(uint64 segmentId, SegmentRecord storage s, KeyRelease[] calldata releases) private {
        Stage memory g = Stages.unpack(s.stage);
        if (g.state == SegmentState.ASSIGNED || g.state == SegmentState.ACTIVE) {
            for (uint256 i = 0; i < releases.length; ++i) {
                if (releases[i].recipient == s.provider) s.keyed = true;
            }
        } else if (g.state == SegmentState.DRAWN) {
            for (uint256 i = 0; i < releases.length; ++i) {
                (uint256 found,) = _find(segmentId, g, releases[i].recipient);
                if (found < SEATS) g.keyed |= uint16(1 << found);
            }
            s.stage = Stages.pack(g);
        }
    }

    // ---- ends ----------------------------------------------------------------------------------------------------------------

    function voidSegment(uint64 segmentId) external nonReentrant {
        SegmentRecord storage s = _segment(segmentId);
        Stage memory g = Stages.unpack(s.stage);
        if (_terminal(g.state)) revert WrongState(segmentId, g.state);
        if (s.parent == 0 || !_failed(_stateOf(s.parent))) revert NotVoidable(segmentId);
        _needNoDispute(segmentId, s);
        _releaseBond(segmentId, s);
        _end(segmentId, s, g, SegmentState.VOID, 0);
        emit Voided(segmentId);
    }

    function clearBond(uint64 segmentId) external nonReentrant {
        SegmentRecord storage s = _segment(segmentId);
        Stage memory g = Stages.unpack(s.stage);
        if (g.state == SegmentState.UNPAID) {
            _needAfter(g.due);
        } else if (g.state == SegmentState.WITHHELD || g.state == SegmentState.REJECTED) {
            if (msg.sender != _stakes.disputes()) revert NotDisputes(msg.sender);
        } else {
            revert WrongState(segmentId, g.state);
        }
        _needNoDispute(segmentId, s);
        if (s.bond == 0) revert NoBond(segmentId);
        _returnFees(segmentId, s, g);
        emit BondCleared(segmentId, uint128(_releaseBond(segmentId, s)));
    }

    /// What was kept for those who said no to what nobody has refuted.
    function _returnFees(uint64 segmentId, SegmentRecord storage s, Stage memory g) private {
        JobRecord storage j = _jobs[s.job];
        uint256 kept = _keptFees(s, g, j);
        if (kept == 0) return;
        s.keepsFees = false;
        if (!j.closed) {
            j.escrow = SafeCast.toUint96(j.escrow + kept);
            return;
        }
        _give(j.client, kept, 0, NO_LANE);
        emit Credited(j.client, segmentId, uint128(kept), "refund");
    }

    function _needProvider(SegmentRecord storage s) private view {
        if (msg.sender != s.provider) revert NotProvider(msg.sender, s.provider);
    }
}
