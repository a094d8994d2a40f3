// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {Hashes} from "../libraries/Hashes.sol";
import {Merkle} from "../libraries/Merkle.sol";
import {Opening, Phase, Reveal, SealedVote, SegmentState} from "../types/Types.sol";
import {JobRecord, SegmentRecord, Stage, Stages} from "./Records.sol";
import {Rounds} from "./Rounds.sol";

/// A committee's votes: sealed, revealed with their openings, decided. What is there already is skipped: nobody can spoil a batch by
/// sending a part of it first.
abstract contract Votes is Rounds {
    bytes32 private constant SEAL_TYPE = keccak256("Seal(uint64 segment,uint32 round,bytes32 digest)");
    /// Bits of a vote in the log (IJobs: Voted).
    uint256 private constant AGREES = 1;
    uint256 private constant SHOWN = 2;
    uint256 private constant OPENED = 4;
    /// Bytes of a vote in the log, without its trace roots, and of a seal.
    uint256 private constant VOTE_BYTES = 54;
    uint256 private constant SEAL_BYTES = 52;

    /// What a call of `attest` works on.
    struct Row {
        bytes32 domain;
        // All of the committee, in the order of the draw.
        bool together;
        // How many have not sealed before; of each its place in the call (from bit 8 up) and its lane, and what the log says.
        uint256 count;
        uint256[] places;
        bytes told;
    }

    /// What a call of `reveal` works on.
    struct Ballot {
        uint64 segment;
        uint256 openings;
        uint256 micros;
        uint256 microLeaves;
        uint256 updateLeaves;
        // Hash of the openings' block; 0: no opening has come.
        bytes32 openingHash;
        uint64[] units;
        // By index of the verifier, hashes of the trace roots that this call reveals: they need not be stored if it decides the round.
        bytes32[] fresh;
        // The log, and how much of it is written.
        bytes log;
        uint256 written;
    }

    /// When one call brings the seals of all, in the order of the draw, their hash is kept in one word instead of each in its own.
    function attest(uint64 segmentId, SealedVote[] calldata seals) external {
        (SegmentRecord storage s, Stage memory g) = _in(segmentId, SegmentState.SERVED);
        if (g.phase != Phase.SEAL) revert WrongPhase(segmentId, g.phase);
        _needBefore(g.due);
        Row memory r;
        (r.domain, r.together) = (_domainSeparatorV4(), seals.length == g.count);
        (r.told, r.places) = (new bytes(SEAL_BYTES * seals.length), new uint256[](seals.length));
        for (uint256 i = 0; i < seals.length; ++i) {
            _seal(r, segmentId, g, seals[i], i);
        }
        _store(r, segmentId, s, g, seals);
        if (g.isSealed == (1 << g.count) - 1) _allSealed(segmentId, _jobs[s.job], g);
        s.stage = Stages.pack(g);
    }

    function _store(Row memory r, uint64 segmentId, SegmentRecord storage s, Stage memory g, SealedVote[] calldata seals) private {
        (bytes memory told, uint256 count) = (r.told, r.count);
        assembly ("memory-safe") {
            mstore(told, mul(SEAL_BYTES, count))
        }
        if (r.together) {
            g.together = true;
            _words[s.provider][_sealsKey(segmentId, g.round, s.lane)] = keccak256(told);
            emit SealedTogether(segmentId, told);
        } else if (count > 0) {
            for (uint256 k = 0; k < count; ++k) {
                SealedVote calldata v = seals[r.places[k] >> 8];
                _words[v.verifier][_key(segmentId, g.round, uint8(r.places[k]))] = v.digest;
            }
            emit SealedBy(segmentId, told);
        }
    }

    function _allSealed(uint64 segmentId, JobRecord storage j, Stage memory g) private {
        uint64 revealBy = _now() + j.revealWindow;
        uint64 openingBlock = uint64(block.number) + j.finality;
        (g.phase, g.due, g.atBlock) = (Phase.REVEAL, uint40(revealBy), uint40(openingBlock));
        emit RevealsDue(segmentId, revealBy, openingBlock);
    }

    function _seal(Row memory r, uint64 segmentId, Stage memory g, SealedVote calldata v, uint256 i) private view {
        (address verifier, bytes32 digest) = (v.verifier, v.digest);
        (uint256 index, uint8 lane) = _needMember(segmentId, g, verifier, i);
        if (g.isSealed >> index & 1 == 1) {
            r.together = false;
            return;
        }
        if (index != i) r.together = false;
        g.isSealed |= uint16(1 << index);
        _needConsent(verifier, r.domain, keccak256(abi.encode(SEAL_TYPE, segmentId, g.round, digest)), v.signature);
        r.places[r.count] = i << 8 | lane;
        _write(r.told, r.count++, verifier, digest);
    }

    /// The k-th seal of a row: verifier 20 B, digest 32 B.
    function _write(bytes memory row, uint256 k, address verifier, bytes32 digest) private pure {
        assembly ("memory-safe") {
            let to := add(add(row, 32), mul(SEAL_BYTES, k))
            mstore(to, shl(96, verifier))
            mstore(add(to, 20), digest)
        }
    }

    function reveal(uint64 segmentId, Reveal[] calldata reveals) external nonReentrant {
        (SegmentRecord storage s, Stage memory g) = _in(segmentId, SegmentState.SERVED);
        JobRecord storage j = _jobs[s.job];
        _needBefore(g.phase == Phase.OPEN ? g.due : _needRevealing(segmentId, j, g));
        Ballot memory b = _ballot(segmentId, s, j, g, reveals.length);
        if (g.together) {
            _votes(b, s, g, reveals);
        } else {
            for (uint256 i = 0; i < reveals.length; ++i) {
                _vote(b, s, g, reveals[i], i);
            }
        }
        _log(b);
        if (_proceed(segmentId, s, j, g, b.fresh, g.revealed == g.isSealed)) return;
        for (uint256 i = 0; i < b.fresh.length; ++i) {
            if (b.fresh[i] == 0) continue;
            (address verifier, uint8 lane) = _member(segmentId, g.round, i);
            _words[verifier][_key(segmentId, g.round, lane)] = b.fresh[i];
        }
        if (b.openingHash != 0 && !g.hashed) {
            (_words[s.provider][_key(segmentId, 0, s.lane)], g.hashed) = (b.openingHash, true);
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

    // ---- all votes at once ---------------------------------------------------------------------------------------------------

    /// Of a round whose seals are kept together all votes come in one call, in the order of the draw, with their openings; else the seals
    /// are spread first.
    function _votes(Ballot memory b, SegmentRecord storage s, Stage memory g, Reveal[] calldata reveals) private view {
        if (reveals.length != g.count) revert Together(b.segment);
        bytes memory seals = new bytes(SEAL_BYTES * reveals.length);
        for (uint256 i = 0; i < reveals.length; ++i) {
            Reveal calldata v = reveals[i];
            if (v.openings.length == 0) revert Together(b.segment);
            _write(seals, i, v.verifier, _digest(b.segment, g.round, v, v.traceRoots));
        }
        if (keccak256(seals) != _words[s.provider][_sealsKey(b.segment, g.round, s.lane)]) revert Together(b.segment);
        b.openingHash = _openingHash(b.segment, s, g);
        for (uint256 i = 0; i < reveals.length; ++i) {
            _wholeVote(b, g, reveals[i], i);
        }
        (g.revealed, g.opened) = (g.isSealed, g.isSealed);
    }

    function _wholeVote(Ballot memory b, Stage memory g, Reveal calldata v, uint256 index) private view {
        (address verifier, bytes32[] calldata traceRoots) = (v.verifier, v.traceRoots);
        if (traceRoots.length != b.units.length) revert LengthMismatch(b.units.length, traceRoots.length);
        b.fresh[index] = Hashes.words(traceRoots);
        uint256 told = SHOWN | OPENED;
        if (v.agrees) (told, g.agrees) = (told | AGREES, g.agrees | uint16(1 << index));
        _open(b, verifier, traceRoots, v.openings);
        _tell(b, verifier, told, v.salt, traceRoots);
    }

    // ---- one vote ------------------------------------------------------------------------------------------------------------

    function _ballot(uint64 segmentId, SegmentRecord storage s, JobRecord storage j, Stage memory g, uint256 votes)
        private
        view
        returns (Ballot memory b)
    {
        b.segment = segmentId;
        (b.openings, b.micros, b.microLeaves, b.updateLeaves) = (j.openings, j.microBatches, j.microLeaves, j.updateLeaves);
        b.units = _unitsOf(segmentId, _unitCount(s, j, uint256(g.round) + 1));
        b.fresh = new bytes32[](g.count);
        b.log = new bytes(votes * (VOTE_BYTES + 32 * b.units.length));
    }

    /// A vote that is new must be what was sealed; one that is shown again, with its openings, what was revealed.
    function _vote(Ballot memory b, SegmentRecord storage s, Stage memory g, Reveal calldata v, uint256 hint) private view {
        address verifier = v.verifier;
        (uint256 index, uint8 lane) = _needMember(b.segment, g, verifier, hint);
        uint256 bit = 1 << index;
        if (g.isSealed & bit == 0) revert NotSealed(verifier);
        bool again = g.revealed & bit != 0;
        bool opens = v.openings.length > 0 && g.opened & bit == 0;
        if (again && !opens) return;
        if (!again && g.phase == Phase.OPEN) revert NotRevealed(verifier);
        bytes32[] calldata traceRoots = v.traceRoots;
        if (traceRoots.length != b.units.length) revert LengthMismatch(b.units.length, traceRoots.length);
        _match(b, g, v, traceRoots, index, lane);
        if (opens) {
            if (b.openingHash == 0) b.openingHash = _openingHash(b.segment, s, g);
            _open(b, verifier, traceRoots, v.openings);
            g.opened |= uint16(bit);
        }
        uint256 told = (again ? 0 : SHOWN) | (!again && g.agrees & bit != 0 ? AGREES : 0) | (opens ? OPENED : 0);
        _tell(b, verifier, told, v.salt, traceRoots);
    }

    /// Compares a vote with what is known of it, and notes what is revealed.
    function _match(Ballot memory b, Stage memory g, Reveal calldata v, bytes32[] calldata traceRoots, uint256 index, uint8 lane)
        private
        view
    {
        address verifier = v.verifier;
        uint16 bit = uint16(1 << index);
        bytes32 roots = Hashes.words(traceRoots);
        bytes32 known = b.fresh[index];
        if (known == 0) known = _words[verifier][_key(b.segment, g.round, lane)];
        if (g.revealed & bit != 0) {
            if (known != roots) revert DigestMismatch(verifier);
            return;
        }
        if (known != _digest(b.segment, g.round, v, traceRoots)) revert DigestMismatch(verifier);
        b.fresh[index] = roots;
        g.revealed |= bit;
        if (v.agrees) g.agrees |= bit;
    }

    function _digest(uint64 segmentId, uint8 round, Reveal calldata v, bytes32[] calldata traceRoots) private view returns (bytes32) {
        return Hashes.attestation(segmentId, round, v.agrees, traceRoots, v.verifier, v.salt);
    }

    /// The hash that fixes the openings: recorded with the first of them, unless the round is decided by the same call.
    function _openingHash(uint64 segmentId, SegmentRecord storage s, Stage memory g) private view returns (bytes32 hash) {
        if (g.atBlock == 0) revert WrongPhase(segmentId, g.phase);
        if (g.hashed) return _words[s.provider][_key(segmentId, 0, s.lane)];
        (hash,) = _reach(g.atBlock);
    }

    function _open(Ballot memory b, address verifier, bytes32[] calldata traceRoots, Opening[] calldata openings) private view {
        if (openings.length != b.openings) revert LengthMismatch(b.openings, openings.length);
        uint256 units = b.units.length;
        for (uint256 i = 0; i < openings.length; ++i) {
            Opening calldata o = openings[i];
            uint256 x = Hashes.opening(b.openingHash, b.segment, verifier, uint32(i));
            uint256 position = x % units;
            uint256 leaves = b.units[position] % (b.micros + 1) == b.micros ? b.updateLeaves : b.microLeaves;
            uint64 leaf = uint64((x / units) % leaves);
            if (!Merkle.verify(traceRoots[position], leaves, leaf, o.leaf, o.proof)) revert BadOpening(verifier, i);
        }
    }

    /// Writes a vote into the log. Of one that was revealed before there is its opening to tell, no salt and no roots.
    function _tell(Ballot memory b, address verifier, uint256 told, bytes32 salt, bytes32[] calldata traceRoots) private pure {
        bool shown = told & SHOWN != 0;
        uint256 roots = shown ? traceRoots.length : 0;
        (bytes memory log, uint256 start) = (b.log, b.written);
        b.written = start + VOTE_BYTES + 32 * roots;
        if (!shown) salt = 0;
        assembly ("memory-safe") {
            let to := add(add(log, 32), start)
            mstore(to, or(shl(96, verifier), or(shl(88, told), shl(80, roots))))
            mstore(add(to, 22), salt)
            calldatacopy(add(to, 54), traceRoots.offset, shl(5, roots))
        }
    }

    function _log(Ballot memory b) private {
        (bytes memory log, uint256 written) = (b.log, b.written);
        if (written == 0) return;
        assembly ("memory-safe") {
            mstore(log, written)
        }
        emit Voted(b.segment, log);
    }

    // ---- decision ------------------------------------------------------------------------------------------------------------

    /// After the time for openings; a round in which nobody is late is decided with its last opening.
    function decide(uint64 segmentId) external nonReentrant {
        (SegmentRecord storage s, Stage memory g) = _in(segmentId, SegmentState.SERVED);
        if (g.phase != Phase.OPEN) revert WrongPhase(segmentId, g.phase);
        if (g.revealed != g.opened) _needAfter(g.due);
        _conclude(segmentId, s, _jobs[s.job], g, new bytes32[](g.count));
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
            uint256 agrees = g.agrees >> i & 1;
            if (g.opened >> i & 1 == 0) {
                votes[i] = 0;
            } else if (agrees == 0) {
                (votes[i], no) = (0, no + 1);
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
        _give(verifier, 0, left, lane);
        if (charged > 0) _stakes.charge(verifier, segmentId, uint128(charged), "no-show");
        emit NoShow(segmentId, verifier, uint128(charged));
    }
}
