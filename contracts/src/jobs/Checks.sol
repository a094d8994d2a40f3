// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Hashes} from "../libraries/Hashes.sol";
import {Merkle} from "../libraries/Merkle.sol";
import {Check, Job, Opening, Phase, Reveal, SealedVote, Segment, SegmentState} from "../types/Types.sol";
import {Base} from "./Base.sol";

/// The committee: draw, receipts, sealed votes, reveals, openings, decision. A round that decides nothing leads to the next one,
/// which checks the units of all rounds so far: who does not like what was drawn wins nothing by letting a round fail.
/// Code that Jobs runs by delegatecall (see Jobs.sol); by itself it holds nothing.
contract Checks is Base {
    bytes32 private constant RECEIPT_TYPE = keccak256("Receipt(uint64 segment,uint32 round)");
    bytes32 private constant SEAL_TYPE = keccak256("Seal(uint64 segment,uint32 round,bytes32 digest)");
    uint32 private constant TRIES = 64;

    constructor(address stakes_) Base(stakes_) {}

    // ---- draw ----------------------------------------------------------------------------------------------------------------

    function draw(uint64 segmentId) external nonReentrant {
        Segment storage s = _in(segmentId, SegmentState.COMMITTED);
        Job storage j = _jobs[s.job];
        bytes32 blockHash;
        (blockHash, s.seedBlock) = _reach(s.seedBlock);
        bytes32 seed = Hashes.seed(blockHash, segmentId, s.round);

        address[] memory drawn = _select(segmentId, s, j, seed);
        if (drawn.length < j.params.quorum) {
            if (block.timestamp <= s.drawBy) revert TooFewVerifiers(drawn.length, j.params.quorum);
            return _fail(segmentId, s, j, "too few verifiers", false);
        }
        for (uint256 i = 0; i < drawn.length; ++i) {
            Check storage c = _checks[segmentId][s.round].push();
            c.verifier = drawn[i];
            c.bonded = true;
            if (j.params.drawBond > 0) _stakes.reserve(drawn[i], segmentId, j.params.drawBond);
        }
        _drawUnits(segmentId, s, j, seed);
        s.state = SegmentState.DRAWN;
        s.serveBy = _now() + j.params.serveWindow;
        emit Drawn(segmentId, s.round, seed, _units[segmentId], drawn, s.serveBy);
    }

    /// Adds the round's units to those of earlier rounds. No links named in the terms means all of the segment, in order, once.
    function _drawUnits(uint64 segmentId, Segment storage s, Job storage j, bytes32 seed) private {
        uint64 steps = s.stop - s.start;
        uint64[] storage units = _units[segmentId];
        for (uint32 i = 0; i < j.params.links; ++i) {
            units.push(Hashes.unit(seed, i, steps, j.microBatches, j.microWeight, j.updateWeight));
        }
        if (j.params.links > 0 || s.round > 0) return;
        uint64 all = steps * (uint64(j.microBatches) + 1);
        for (uint64 unit = 0; unit < all; ++unit) {
            units.push(unit);
        }
    }

    /// The verifiers of a round: 64 tries among those not drawn before in this segment, then 64 that allow them.
    function _select(uint64 segmentId, Segment storage s, Job storage j, bytes32 seed)
        private
        view
        returns (address[] memory drawn)
    {
        uint64 seats = _stakes.seatCountAt(s.seatsBlock);
        uint256 wanted = j.params.verifiers;
        uint32 tries = s.round == 0 ? TRIES : 2 * TRIES;
        drawn = new address[](wanted);
        uint256 found = 0;
        for (uint32 i = 0; i < tries && found < wanted && seats > 0; ++i) {
            address holder = _stakes.holderAt(Hashes.slot(seed, i, seats), s.seatsBlock);
            if (holder == s.provider || holder == j.client || _among(drawn, found, holder)) continue;
            if (i < TRIES && _drawnBefore(segmentId, s.round, holder)) continue;
            if (_stakes.freeStake(holder) < j.params.drawBond) continue;
            drawn[found++] = holder;
        }
        assembly ("memory-safe") {
            mstore(drawn, found)
        }
    }

    function _among(address[] memory drawn, uint256 found, address who) private pure returns (bool) {
        for (uint256 i = 0; i < found; ++i) {
            if (drawn[i] == who) return true;
        }
        return false;
    }

    function _drawnBefore(uint64 segmentId, uint32 round, address who) private view returns (bool) {
        for (uint32 r = 0; r < round; ++r) {
            if (_indexOf(_checks[segmentId][r], who) != type(uint256).max) return true;
        }
        return false;
    }

    // ---- receipts ------------------------------------------------------------------------------------------------------------

    function served(uint64 segmentId, address[] calldata verifiers, bytes[] calldata signatures) external {
        Segment storage s = _in(segmentId, SegmentState.DRAWN);
        Job storage j = _jobs[s.job];
        _needBefore(s.serveBy);
        if (verifiers.length != signatures.length) revert LengthMismatch(verifiers.length, signatures.length);
        bytes32 structHash = keccak256(abi.encode(RECEIPT_TYPE, segmentId, s.round));
        uint256 receipts = 0;
        for (uint256 i = 0; i < verifiers.length; ++i) {
            Check storage c = _check(segmentId, s.round, verifiers[i]);
            if (c.receipted) continue;
            _needConsent(verifiers[i], structHash, signatures[i]);
            c.receipted = true;
            ++receipts;
        }
        if (receipts < j.params.quorum) revert NoQuorum(receipts, j.params.quorum);
        s.state = SegmentState.SERVED;
        s.phase = Phase.SEAL;
        s.sealBy = _now() + j.params.sealWindow;
        s.revealBy = s.sealBy + j.params.revealWindow;
        emit Served(segmentId, s.round, s.sealBy);
    }

    function redraw(uint64 segmentId) external nonReentrant {
        Segment storage s = _in(segmentId, SegmentState.DRAWN);
        Job storage j = _jobs[s.job];
        _needAfter(s.serveBy);
        Check[] storage checks = _checks[segmentId][s.round];
        uint32 keyed = 0;
        for (uint256 i = 0; i < checks.length; ++i) {
            if (checks[i].keyed) ++keyed;
            _releaseDraw(segmentId, checks[i], j.params.drawBond);
        }
        bool keys = keyed >= j.params.quorum;
        string memory reason = keys ? "not served" : "keys withheld";
        if (s.round < j.params.redraws) _nextRound(segmentId, s, j, reason);
        else _fail(segmentId, s, j, reason, true);
    }

    function _nextRound(uint64 segmentId, Segment storage s, Job storage j, string memory reason) private {
        s.state = SegmentState.COMMITTED;
        s.phase = Phase.NONE;
        s.round += 1;
        (s.openingHash, s.openingBlock) = (0, 0);
        _awaitSeed(s, j);
        emit Redrawn(segmentId, s.round, reason, s.seedBlock);
    }

    /// No committee came about: never paid. Disputable for as long as the bond stays, which it does where the provider may have caused this:
    /// keys are withheld, too, when its checkpoint's envelope does not open.
    function _fail(uint64 segmentId, Segment storage s, Job storage j, string memory reason, bool keepBond) private {
        if (s.negatives > 0) return _withhold(segmentId, s, 0);
        s.settleAfter = _now() + j.params.challengeWindow;
        if (!keepBond && s.disputes == 0) _releaseBond(segmentId, s);
        _end(segmentId, s, SegmentState.UNPAID);
        emit Unpaid(segmentId, reason);
    }

    function _withhold(uint64 segmentId, Segment storage s, uint32 yes) private {
        s.settleAfter = _now() + _jobs[s.job].params.challengeWindow;
        _end(segmentId, s, SegmentState.WITHHELD);
        emit Withheld(segmentId, yes, s.negatives);
    }

    // ---- seal, reveal, open (what is there already is skipped: nobody can spoil a batch by sending a part of it first)

    function attest(uint64 segmentId, SealedVote[] calldata seals) external {
        Segment storage s = _in(segmentId, SegmentState.SERVED);
        if (s.phase != Phase.SEAL) revert WrongPhase(segmentId, s.phase);
        _needBefore(s.sealBy);
        for (uint256 i = 0; i < seals.length; ++i) {
            SealedVote calldata v = seals[i];
            Check storage c = _check(segmentId, s.round, v.verifier);
            if (c.isSealed) continue;
            _needConsent(v.verifier, keccak256(abi.encode(SEAL_TYPE, segmentId, s.round, v.digest)), v.signature);
            c.isSealed = true;
            c.digest = v.digest;
            emit Sealed(segmentId, v.verifier);
        }
        Check[] storage checks = _checks[segmentId][s.round];
        for (uint256 i = 0; i < checks.length; ++i) {
            if (!checks[i].isSealed) return;
        }
        s.phase = Phase.REVEAL;
        s.revealBy = _now() + _jobs[s.job].params.revealWindow;
        emit RevealsDue(segmentId, s.revealBy);
    }

    function reveal(uint64 segmentId, Reveal[] calldata reveals) external {
        Segment storage s = _in(segmentId, SegmentState.SERVED);
        _needRevealing(segmentId, s);
        _needBefore(s.revealBy);
        uint256 units = _units[segmentId].length;
        Check[] storage checks = _checks[segmentId][s.round];
        uint32 order = 0;
        for (uint256 i = 0; i < checks.length; ++i) {
            if (checks[i].revealed) ++order;
        }
        for (uint256 i = 0; i < reveals.length; ++i) {
            Reveal calldata v = reveals[i];
            Check storage c = _check(segmentId, s.round, v.verifier);
            if (!c.isSealed) revert NotSealed(v.verifier);
            if (c.revealed) continue;
            if (v.traceRoots.length != units) revert LengthMismatch(units, v.traceRoots.length);
            if (c.digest != Hashes.attestation(segmentId, s.round, v.agrees, v.traceRoots, v.verifier, v.salt)) {
                revert DigestMismatch(v.verifier);
            }
            c.revealed = true;
            c.agrees = v.agrees;
            c.traceRoots = v.traceRoots;
            c.order = ++order;
            emit Revealed(segmentId, v.verifier, v.agrees, v.traceRoots);
        }
        if (_allRevealed(checks)) _startOpenings(segmentId, s);
    }

    function closeReveals(uint64 segmentId) external {
        Segment storage s = _in(segmentId, SegmentState.SERVED);
        _needRevealing(segmentId, s);
        if (!_allRevealed(_checks[segmentId][s.round])) _needAfter(s.revealBy);
        _startOpenings(segmentId, s);
    }

    function _needRevealing(uint64 segmentId, Segment storage s) private view {
        if (s.phase == Phase.SEAL) _needAfter(s.sealBy);
        else if (s.phase != Phase.REVEAL) revert WrongPhase(segmentId, s.phase);
    }

    /// Whether all who sealed have revealed.
    function _allRevealed(Check[] storage checks) private view returns (bool) {
        for (uint256 i = 0; i < checks.length; ++i) {
            if (checks[i].isSealed && !checks[i].revealed) return false;
        }
        return true;
    }

    function _startOpenings(uint64 segmentId, Segment storage s) private {
        Job storage j = _jobs[s.job];
        s.phase = Phase.OPEN;
        s.openingBlock = uint64(block.number) + j.params.finality;
        s.openBy = _now() + j.params.openWindow;
        emit OpeningsDue(segmentId, s.openingBlock, s.openBy);
    }

    function open(uint64 segmentId, address verifier, Opening[] calldata openings) external {
        Segment storage s = _in(segmentId, SegmentState.SERVED);
        Job storage j = _jobs[s.job];
        if (s.phase != Phase.OPEN) revert WrongPhase(segmentId, s.phase);
        _needBefore(s.openBy);
        Check storage c = _check(segmentId, s.round, verifier);
        if (!c.revealed) revert NotRevealed(verifier);
        if (c.opened) revert AlreadyOpened(verifier);
        if (openings.length != j.params.openings) revert LengthMismatch(j.params.openings, openings.length);
        if (s.openingHash == 0) (s.openingHash, s.openingBlock) = _reach(s.openingBlock);
        for (uint32 i = 0; i < openings.length; ++i) {
            (uint256 position, uint64 leaf, uint32 leaves) = _openingAt(segmentId, s, j, verifier, i);
            if (!Merkle.verify(c.traceRoots[position], leaves, leaf, openings[i].leaf, openings[i].proof)) {
                revert BadOpening(verifier, i);
            }
        }
        c.opened = true;
        emit Opened(segmentId, verifier);
    }

    function _openingAt(uint64 segmentId, Segment storage s, Job storage j, address verifier, uint32 i)
        private
        view
        returns (uint256 position, uint64 leaf, uint32 leaves)
    {
        uint64[] storage units = _units[segmentId];
        uint256 x = Hashes.opening(s.openingHash, segmentId, verifier, i);
        position = x % units.length;
        bool isUpdate = units[position] % (uint64(j.microBatches) + 1) == j.microBatches;
        leaves = isUpdate ? j.updateLeaves : j.microLeaves;
        leaf = uint64((x / units.length) % leaves);
    }

    // ---- decision ------------------------------------------------------------------------------------------------------------

    function decide(uint64 segmentId) external nonReentrant {
        Segment storage s = _in(segmentId, SegmentState.SERVED);
        Job storage j = _jobs[s.job];
        if (s.phase != Phase.OPEN) revert WrongPhase(segmentId, s.phase);
        Check[] storage checks = _checks[segmentId][s.round];
        for (uint256 i = 0; i < checks.length; ++i) {
            if (checks[i].revealed && !checks[i].opened) _needAfter(s.openBy);
        }
        (uint32 yes, uint32 no) = _tally(checks);
        s.negatives += no;
        _chargeNoShows(segmentId, s, j, checks);
        if (yes >= j.params.quorum) _attested(segmentId, s, j.params.challengeWindow);
        else if (no >= j.params.quorum) _withhold(segmentId, s, yes);
        else if (s.round < j.params.redraws) _nextRound(segmentId, s, j, "undecided");
        else if (s.negatives > 0) _withhold(segmentId, s, yes);
        else _attested(segmentId, s, 4 * uint64(j.params.challengeWindow));
    }

    function _attested(uint64 segmentId, Segment storage s, uint64 window) private {
        s.state = SegmentState.ATTESTED;
        s.phase = Phase.NONE;
        s.settleAfter = _now() + window;
        emit Attested(segmentId, s.settleAfter);
    }

    /// Counts the openers that disagree, and the largest group of openers that agree on all trace roots (of equal ones the group
    /// that revealed first), which is marked.
    function _tally(Check[] storage checks) private returns (uint32 yes, uint32 no) {
        bytes32[] memory votes = new bytes32[](checks.length);
        for (uint256 i = 0; i < checks.length; ++i) {
            if (!checks[i].opened) continue;
            if (checks[i].agrees) votes[i] = keccak256(abi.encodePacked(checks[i].traceRoots));
            else ++no;
        }
        bytes32 best;
        uint32 bestOrder;
        for (uint256 i = 0; i < checks.length; ++i) {
            if (votes[i] == 0) continue;
            uint32 count = 0;
            uint32 first = type(uint32).max;
            for (uint256 k = 0; k < checks.length; ++k) {
                if (votes[k] != votes[i]) continue;
                ++count;
                if (checks[k].order < first) first = checks[k].order;
            }
            if (count > yes || (count == yes && first < bestOrder)) (yes, best, bestOrder) = (count, votes[i], first);
        }
        for (uint256 i = 0; i < checks.length; ++i) {
            if (best != 0 && votes[i] == best) checks[i].prevailed = true;
        }
    }

    /// Those who did not see the round through get their draw bond back, less the fee if they had taken part.
    function _chargeNoShows(uint64 segmentId, Segment storage s, Job storage j, Check[] storage checks) private {
        uint128 fee = _bps(j.params.drawBond, j.params.noShowBps);
        for (uint256 i = 0; i < checks.length; ++i) {
            Check storage c = checks[i];
            if (c.opened) continue;
            uint128 charged = 0;
            if (fee > 0 && (c.receipted || c.isSealed)) {
                charged = _stakes.charge(c.verifier, segmentId, fee, "no-show");
                j.escrow += charged;
            }
            _releaseDraw(segmentId, c, j.params.drawBond - charged);
            emit NoShow(segmentId, c.verifier, charged);
        }
        s.phase = Phase.NONE;
    }

    // ---- look-up -------------------------------------------------------------------------------------------------------------

    function _indexOf(Check[] storage checks, address verifier) private view returns (uint256) {
        for (uint256 i = 0; i < checks.length; ++i) {
            if (checks[i].verifier == verifier) return i;
        }
        return type(uint256).max;
    }

    function _check(uint64 segmentId, uint32 round, address verifier) private view returns (Check storage) {
        Check[] storage checks = _checks[segmentId][round];
        uint256 index = _indexOf(checks, verifier);
        if (index == type(uint256).max) revert NotDrawn(segmentId, verifier);
        return checks[index];
    }
}
