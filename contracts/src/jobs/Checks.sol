// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {Hashes} from "../libraries/Hashes.sol";
import {Merkle} from "../libraries/Merkle.sol";
import {Opening, Phase, Reveal, SealedVote, SegmentState} from "../types/Types.sol";
import {Base} from "./Base.sol";
import {JobRecord, SegmentRecord, Stage, Stages} from "./Records.sol";

/// The committee: draw, receipts, sealed votes, reveals with their openings, decision. A round that decides nothing leads to the next
/// one, which checks the units of all rounds so far: who does not like what was drawn wins nothing by letting a round fail.
/// Code that Jobs runs by delegatecall (see Jobs.sol); by itself it holds nothing.
contract Checks is Base {
    bytes32 private constant RECEIPT_TYPE = keccak256("Receipt(uint64 segment,uint32 round)");
    bytes32 private constant SEAL_TYPE = keccak256("Seal(uint64 segment,uint32 round,bytes32 digest)");
    uint32 private constant TRIES = 64;

    constructor(address stakes_) Base(stakes_) {}

    // ---- draw ----------------------------------------------------------------------------------------------------------------

    function draw(uint64 segmentId) external nonReentrant {
        (SegmentRecord storage s, Stage memory g) = _in(segmentId, SegmentState.COMMITTED);
        JobRecord storage j = _jobs[s.job];
        (bytes32 blockHash, uint64 seedBlock) = _reach(g.atBlock + j.finality);
        bytes32 seed = Hashes.seed(blockHash, segmentId, g.round);

        address[] memory drawn = _select(segmentId, s, j, g, seed);
        if (drawn.length < j.quorum) {
            if (block.timestamp <= g.due) revert TooFewVerifiers(drawn.length, j.quorum);
            return _fail(segmentId, s, j, g, "too few verifiers", false);
        }
        uint128 drawBond = j.drawBond;
        for (uint256 i = 0; i < drawn.length; ++i) {
            _members[_place(segmentId, g.round, i)] = uint160(drawn[i]) | uint256(_hold(drawn[i], drawBond)) << 160;
        }
        uint64 serveBy = _now() + j.serveWindow;
        (g.state, g.due, g.atBlock) = (SegmentState.DRAWN, uint40(serveBy), uint40(seedBlock));
        (g.count, g.bonded) = (uint8(drawn.length), uint16((1 << drawn.length) - 1));
        s.stage = Stages.pack(g);
        emit Drawn(segmentId, g.round, seed, _drawUnits(segmentId, s, j, g.round, seed), drawn, serveBy);
    }

    /// Adds the round's units to those of the rounds before; returns all. No links named in the terms: all of the segment, in order.
    function _drawUnits(uint64 segmentId, SegmentRecord storage s, JobRecord storage j, uint256 round, bytes32 seed)
        private
        returns (uint64[] memory units)
    {
        uint256 before = _unitCount(s, j, round);
        units = _unitsOf(segmentId, _unitCount(s, j, round + 1));
        (uint64 steps, uint32 micros) = (s.stop - s.start, j.microBatches);
        for (uint256 i = before; i < units.length; ++i) {
            units[i] = uint64(i);
            if (j.links > 0) units[i] = Hashes.unit(seed, uint32(i - before), steps, micros, j.microWeight, j.updateWeight);
        }
        for (uint256 word = before / 4; word * 4 < units.length; ++word) {
            uint256 four = 0;
            for (uint256 i = word * 4; i < units.length && i < word * 4 + 4; ++i) {
                four |= uint256(units[i]) << (i % 4 * 64);
            }
            _units[segmentId][word] = four;
        }
    }

    /// The verifiers of a round: 64 tries among those not drawn before in this segment, then 64 that allow them.
    function _select(uint64 segmentId, SegmentRecord storage s, JobRecord storage j, Stage memory g, bytes32 seed)
        private
        view
        returns (address[] memory drawn)
    {
        uint64 seats = _stakes.seatCountAt(g.atBlock);
        uint256 wanted = j.verifiers;
        uint32 tries = g.round == 0 ? TRIES : 2 * TRIES;
        (address provider, address client, uint128 drawBond) = (s.provider, j.client, j.drawBond);
        drawn = new address[](wanted);
        uint256 found = 0;
        for (uint32 i = 0; i < tries && found < wanted && seats > 0; ++i) {
            address holder = _stakes.holderAt(Hashes.slot(seed, i, seats), g.atBlock);
            if (holder == provider || holder == client || _among(drawn, found, holder)) continue;
            if (i < TRIES && _drawnBefore(segmentId, g.round, holder)) continue;
            if (_stakes.freeStake(holder) < drawBond) continue;
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

    function _drawnBefore(uint64 segmentId, uint256 round, address who) private view returns (bool) {
        for (uint256 r = 0; r < round; ++r) {
            (uint256 i,) = _find(segmentId, _stageOf(segmentId, r), who);
            if (i < SEATS) return true;
        }
        return false;
    }

    // ---- receipts ------------------------------------------------------------------------------------------------------------

    function served(uint64 segmentId, address[] calldata verifiers, bytes[] calldata signatures) external {
        (SegmentRecord storage s, Stage memory g) = _in(segmentId, SegmentState.DRAWN);
        JobRecord storage j = _jobs[s.job];
        _needBefore(g.due);
        if (verifiers.length != signatures.length) revert LengthMismatch(verifiers.length, signatures.length);
        bytes32 structHash = keccak256(abi.encode(RECEIPT_TYPE, segmentId, g.round));
        bytes32 domain = _domainSeparatorV4();
        uint256 receipts = 0;
        for (uint256 i = 0; i < verifiers.length; ++i) {
            (uint256 index,) = _needMember(segmentId, g, verifiers[i]);
            uint16 bit = uint16(1 << index);
            if (g.receipted & bit != 0) continue;
            _needConsent(verifiers[i], domain, structHash, signatures[i]);
            g.receipted |= bit;
            ++receipts;
        }
        if (receipts < j.quorum) revert NoQuorum(receipts, j.quorum);
        uint64 sealBy = _now() + j.sealWindow;
        (g.state, g.phase, g.due, g.atBlock) = (SegmentState.SERVED, Phase.SEAL, uint40(sealBy), 0);
        s.stage = Stages.pack(g);
        emit Served(segmentId, g.round, sealBy);
    }

    function redraw(uint64 segmentId) external nonReentrant {
        (SegmentRecord storage s, Stage memory g) = _in(segmentId, SegmentState.DRAWN);
        JobRecord storage j = _jobs[s.job];
        _needAfter(g.due);
        uint256 keyed = 0;
        for (uint256 i = 0; i < g.count; ++i) {
            if (g.keyed >> i & 1 == 1) ++keyed;
            _freeDraw(segmentId, s, g, i, j.drawBond);
        }
        bool keys = keyed >= j.quorum;
        string memory reason = keys ? "not served" : "keys withheld";
        if (g.round < j.redraws) _nextRound(segmentId, s, j, g, reason);
        else _fail(segmentId, s, j, g, reason, true);
    }

    function _freeDraw(uint64 segmentId, SegmentRecord storage s, Stage memory g, uint256 i, uint256 drawBond) private {
        (address verifier, uint8 lane) = _member(segmentId, g.round, i);
        if (_stays(segmentId, s, verifier)) return;
        uint256 left = _takeDrawBond(segmentId, s, g, i, verifier, drawBond);
        _give(verifier, segmentId, 0, "", left, lane);
    }

    function _nextRound(uint64 segmentId, SegmentRecord storage s, JobRecord storage j, Stage memory g, string memory reason)
        private
    {
        (g.phase, g.due, g.atBlock, g.hashed) = (Phase.NONE, 0, 0, false);
        _past[segmentId][g.round] = Stages.pack(g);
        Stage memory next;
        (next.round, next.negatives) = (g.round + 1, g.negatives);
        uint64 seedBlock = _awaitSeed(next, j);
        s.stage = Stages.pack(next);
        emit Redrawn(segmentId, next.round, reason, seedBlock);
    }

    /// No committee came about: never paid. Disputable for as long as the bond stays, which it does where the provider may have caused this:
    /// keys are withheld, too, when its checkpoint's envelope does not open.
    function _fail(
        uint64 segmentId,
        SegmentRecord storage s,
        JobRecord storage j,
        Stage memory g,
        string memory reason,
        bool keepBond
    ) private {
        if (g.negatives > 0) return _withhold(segmentId, s, g, 0);
        g.due = uint40(block.timestamp + j.challengeWindow);
        if (!keepBond && s.disputes == 0) _releaseBond(segmentId, s);
        _end(segmentId, s, g, SegmentState.UNPAID, 0);
        emit Unpaid(segmentId, reason);
    }

    function _withhold(uint64 segmentId, SegmentRecord storage s, Stage memory g, uint256 yes) private {
        g.due = uint40(block.timestamp + _jobs[s.job].challengeWindow);
        _end(segmentId, s, g, SegmentState.WITHHELD, 0);
        emit Withheld(segmentId, uint32(yes), g.negatives);
    }

    // ---- seal, reveal, open (what is there already is skipped: nobody can spoil a batch by sending a part of it first)

    function attest(uint64 segmentId, SealedVote[] calldata seals) external {
        (SegmentRecord storage s, Stage memory g) = _in(segmentId, SegmentState.SERVED);
        if (g.phase != Phase.SEAL) revert WrongPhase(segmentId, g.phase);
        _needBefore(g.due);
        bytes32 domain = _domainSeparatorV4();
        for (uint256 i = 0; i < seals.length; ++i) {
            SealedVote calldata v = seals[i];
            (uint256 index, uint8 lane) = _needMember(segmentId, g, v.verifier);
            if (g.isSealed >> index & 1 == 1) continue;
            _needConsent(v.verifier, domain, keccak256(abi.encode(SEAL_TYPE, segmentId, g.round, v.digest)), v.signature);
            g.isSealed |= uint16(1 << index);
            _words[v.verifier][_key(segmentId, g.round, lane)] = v.digest;
            emit Sealed(segmentId, v.verifier);
        }
        if (g.isSealed == (1 << g.count) - 1) {
            JobRecord storage j = _jobs[s.job];
            uint64 revealBy = _now() + j.revealWindow;
            uint64 openingBlock = uint64(block.number) + j.finality;
            (g.phase, g.due, g.atBlock) = (Phase.REVEAL, uint40(revealBy), uint40(openingBlock));
            emit RevealsDue(segmentId, revealBy, openingBlock);
        }
        s.stage = Stages.pack(g);
    }

    function reveal(uint64 segmentId, Reveal[] calldata reveals) external nonReentrant {
        (SegmentRecord storage s, Stage memory g) = _in(segmentId, SegmentState.SERVED);
        JobRecord storage j = _jobs[s.job];
        _needBefore(g.phase == Phase.OPEN ? g.due : _needRevealing(segmentId, j, g));
        uint64[] memory units = _unitsOf(segmentId, _unitCount(s, j, uint256(g.round) + 1));
        bytes32[] memory fresh = new bytes32[](g.count);
        bytes32 openingHash;
        for (uint256 i = 0; i < reveals.length; ++i) {
            uint256 index = _reveal(segmentId, g, fresh, units.length, reveals[i]);
            if (reveals[i].openings.length == 0 || g.opened >> index & 1 == 1) continue;
            if (openingHash == 0) openingHash = _openingHash(segmentId, s, g);
            _open(segmentId, j, units, openingHash, reveals[i]);
            g.opened |= uint16(1 << index);
            emit Opened(segmentId, reveals[i].verifier);
        }
        if (_proceed(segmentId, s, j, g, fresh, g.revealed == g.isSealed)) return;
        for (uint256 i = 0; i < fresh.length; ++i) {
            if (fresh[i] == 0) continue;
            (address verifier, uint8 lane) = _member(segmentId, g.round, i);
            _words[verifier][_key(segmentId, g.round, lane)] = fresh[i];
        }
        if (openingHash != 0 && !g.hashed) {
            (_words[s.provider][_key(segmentId, 0, s.lane)], g.hashed) = (openingHash, true);
        }
        s.stage = Stages.pack(g);
    }

    function closeReveals(uint64 segmentId) external nonReentrant {
        (SegmentRecord storage s, Stage memory g) = _in(segmentId, SegmentState.SERVED);
        JobRecord storage j = _jobs[s.job];
        uint64 revealBy = _needRevealing(segmentId, j, g);
        if (g.revealed != g.isSealed) _needAfter(revealBy);
        if (!_proceed(segmentId, s, j, g, new bytes32[](g.count), true)) s.stage = Stages.pack(g);
    }

    /// Until when there are reveals.
    function _needRevealing(uint64 segmentId, JobRecord storage j, Stage memory g) private view returns (uint64) {
        if (g.phase == Phase.REVEAL) return g.due;
        if (g.phase != Phase.SEAL) revert WrongPhase(segmentId, g.phase);
        _needAfter(g.due);
        return g.due + j.revealWindow;
    }

    /// A vote that is new must be what was sealed; one that is shown again, with its openings, what was revealed. `fresh`: hashes of the
    /// trace roots that this call reveals, which need not be stored if it decides the round. Returns the verifier's index.
    function _reveal(uint64 segmentId, Stage memory g, bytes32[] memory fresh, uint256 units, Reveal calldata v)
        private
        returns (uint256 index)
    {
        uint8 lane;
        (index, lane) = _needMember(segmentId, g, v.verifier);
        uint16 bit = uint16(1 << index);
        if (g.isSealed & bit == 0) revert NotSealed(v.verifier);
        bool again = g.revealed & bit != 0;
        if (again && (v.openings.length == 0 || g.opened & bit != 0)) return index;
        if (!again && g.phase == Phase.OPEN) revert NotRevealed(v.verifier);
        if (v.traceRoots.length != units) revert LengthMismatch(units, v.traceRoots.length);
        bytes32 roots = keccak256(abi.encodePacked(v.traceRoots));
        bytes32 known = fresh[index] != 0 ? fresh[index] : _words[v.verifier][_key(segmentId, g.round, lane)];
        bytes32 shown = again ? roots : Hashes.attestation(segmentId, g.round, v.agrees, v.traceRoots, v.verifier, v.salt);
        if (known != shown) revert DigestMismatch(v.verifier);
        if (again) return index;
        fresh[index] = roots;
        g.revealed |= bit;
        if (v.agrees) g.agrees |= bit;
        emit Revealed(segmentId, v.verifier, v.agrees, v.traceRoots, v.salt);
    }

    /// When all who sealed have revealed, or can no more (`over`), the openings are due; when these are all there, the round is
    /// decided. Whether it was: then the stage is stored.
    function _proceed(
        uint64 segmentId,
        SegmentRecord storage s,
        JobRecord storage j,
        Stage memory g,
        bytes32[] memory fresh,
        bool over
    ) private returns (bool) {
        if (g.phase != Phase.OPEN && over) {
            g.phase = Phase.OPEN;
            if (g.revealed != g.opened) {
                if (g.atBlock == 0) g.atBlock = uint40(block.number + j.finality);
                g.due = uint40(block.timestamp + j.openWindow);
                emit OpeningsDue(segmentId, g.atBlock, g.due);
            }
        }
        if (g.phase != Phase.OPEN || g.revealed != g.opened) return false;
        _conclude(segmentId, s, j, g, fresh);
        return true;
    }

    /// The hash that fixes the openings: recorded with the first of them, unless the round is decided by the same call.
    function _openingHash(uint64 segmentId, SegmentRecord storage s, Stage memory g) private view returns (bytes32 hash) {
        if (g.atBlock == 0) revert WrongPhase(segmentId, g.phase);
        if (g.hashed) return _words[s.provider][_key(segmentId, 0, s.lane)];
        (hash,) = _reach(g.atBlock);
    }

    function _open(uint64 segmentId, JobRecord storage j, uint64[] memory units, bytes32 openingHash, Reveal calldata v)
        private
        view
    {
        uint256 count = j.openings;
        if (v.openings.length != count) revert LengthMismatch(count, v.openings.length);
        for (uint32 i = 0; i < count; ++i) {
            Opening calldata o = v.openings[i];
            uint256 x = Hashes.opening(openingHash, segmentId, v.verifier, i);
            uint256 position = x % units.length;
            uint32 micros = j.microBatches;
            uint32 leaves = units[position] % (uint64(micros) + 1) == micros ? j.updateLeaves : j.microLeaves;
            uint64 leaf = uint64((x / units.length) % leaves);
            if (!Merkle.verify(v.traceRoots[position], leaves, leaf, o.leaf, o.proof)) revert BadOpening(v.verifier, i);
        }
    }

    // ---- decision ------------------------------------------------------------------------------------------------------------

    /// After the time for openings; a round in which nobody is late is decided with its last opening.
    function decide(uint64 segmentId) external nonReentrant {
        (SegmentRecord storage s, Stage memory g) = _in(segmentId, SegmentState.SERVED);
        if (g.phase != Phase.OPEN) revert WrongPhase(segmentId, g.phase);
        if (g.revealed != g.opened) _needAfter(g.due);
        _conclude(segmentId, s, _jobs[s.job], g, new bytes32[](g.count));
    }

    function _conclude(uint64 segmentId, SegmentRecord storage s, JobRecord storage j, Stage memory g, bytes32[] memory fresh)
        private
    {
        (uint256 yes, uint256 no) = _tally(segmentId, g, fresh);
        g.negatives += uint8(no);
        if (g.opened != (1 << g.count) - 1) _chargeNoShows(segmentId, s, j, g);
        g.phase = Phase.NONE;
        if (yes >= j.quorum) _attested(segmentId, s, g, j.challengeWindow);
        else if (no >= j.quorum) _withhold(segmentId, s, g, yes);
        else if (g.round < j.redraws) _nextRound(segmentId, s, j, g, "undecided");
        else if (g.negatives > 0) _withhold(segmentId, s, g, yes);
        else _attested(segmentId, s, g, 4 * uint64(j.challengeWindow));
    }

    function _attested(uint64 segmentId, SegmentRecord storage s, Stage memory g, uint64 window) private {
        g.state = SegmentState.ATTESTED;
        g.due = uint40(_now() + window);
        s.stage = Stages.pack(g);
        emit Attested(segmentId, g.due);
    }

    /// Counts the openers that disagree, and the largest group of openers that agree on all trace roots (of equal ones the group
    /// with who was drawn first), which is marked.
    function _tally(uint64 segmentId, Stage memory g, bytes32[] memory votes) private view returns (uint256 yes, uint256 no) {
        for (uint256 i = 0; i < votes.length; ++i) {
            bool counts = g.opened >> i & 1 == 1;
            if (counts && g.agrees >> i & 1 == 0) ++no;
            if (!counts || g.agrees >> i & 1 == 0) {
                votes[i] = 0;
            } else if (votes[i] == 0) {
                (address verifier, uint8 lane) = _member(segmentId, g.round, i);
                votes[i] = _words[verifier][_key(segmentId, g.round, lane)];
            }
        }
        for (uint256 i = 0; i < votes.length; ++i) {
            if (votes[i] == 0) continue;
            uint256 count = 0;
            uint16 group = 0;
            for (uint256 k = i; k < votes.length; ++k) {
                if (votes[k] != votes[i]) continue;
                ++count;
                group |= uint16(1 << k);
            }
            if (count > yes) (yes, g.prevailed) = (count, group);
        }
    }

    /// Those who did not see the round through get their draw bond back, less the fee if they had taken part.
    function _chargeNoShows(uint64 segmentId, SegmentRecord storage s, JobRecord storage j, Stage memory g) private {
        uint256 drawBond = j.drawBond;
        uint256 fee = _bps(drawBond, j.noShowBps);
        uint256 sum = 0;
        for (uint256 i = 0; i < g.count; ++i) {
            if (g.opened >> i & 1 == 0) sum += _noShow(segmentId, s, g, i, drawBond, fee);
        }
        if (sum > 0) j.escrow = SafeCast.toUint96(j.escrow + sum);
    }

    function _noShow(uint64 segmentId, SegmentRecord storage s, Stage memory g, uint256 i, uint256 drawBond, uint256 fee)
        private
        returns (uint256 charged)
    {
        (address verifier, uint8 lane) = _member(segmentId, g.round, i);
        uint256 left = _takeDrawBond(segmentId, s, g, i, verifier, drawBond);
        charged = (g.receipted | g.isSealed) >> i & 1 == 1 ? Math.min(fee, left) : 0;
        if (_stays(segmentId, s, verifier)) {
            // All but the fee stays reserved: what is no longer there counts as seized.
            g.bonded |= uint16(1 << i);
            _seized[segmentId][verifier] += drawBond - left + charged;
            s.seized = true;
            (left, lane) = (charged, NO_LANE);
        }
        _give(verifier, segmentId, 0, "", left, lane);
        if (charged > 0) _stakes.charge(verifier, segmentId, uint128(charged), "no-show");
        emit NoShow(segmentId, verifier, uint128(charged));
    }

    // ---- look-up -------------------------------------------------------------------------------------------------------------

    function _needMember(uint64 segmentId, Stage memory g, address verifier) private view returns (uint256 index, uint8 lane) {
        (index, lane) = _find(segmentId, g, verifier);
        if (index >= SEATS) revert NotDrawn(segmentId, verifier);
    }
}
