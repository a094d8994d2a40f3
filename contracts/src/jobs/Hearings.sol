// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Openings} from "../dispute/Openings.sol";
import {ProgramView} from "../dispute/ProgramView.sol";
import {Hashes} from "../libraries/Hashes.sol";
import {Merkle} from "../libraries/Merkle.sol";
import {ChunkProof, Phase, SegmentState} from "../types/Types.sol";
import {JobRecord, SegmentRecord, Stage, Stages} from "./Records.sol";
import {Rounds} from "./Rounds.sol";

/// What stands for receipts where they do not come. When the last round has passed without a quorum of them, though its verifiers had their
/// keys, nobody can tell a provider that keeps its states back from verifiers that deny what they have. So the chain asks for one chunk of a
/// state that a drawn link names, which a later block picks; who cannot show it is not paid. Shown, the segment counts as served, and its
/// verifiers vote: those who have nothing to check say no, those who say nothing at all are charged as no-shows.
abstract contract Hearings is Rounds {
    using ProgramView for bytes;

    /// What was named, as far as it is known.
    struct Named {
        uint64 place;
        uint64 chunk;
        uint32 entry;
        uint256 rest;
    }

    function _ask(uint64 segmentId, SegmentRecord storage s, Stage memory g, JobRecord storage j) internal {
        uint64 showBy = _now() + j.serveWindow;
        (g.phase, g.due, g.atBlock) = (Phase.SHOW, uint40(showBy), uint40(block.number + j.finality));
        s.stage = Stages.pack(g);
        emit ChunkAsked(segmentId, g.round, g.atBlock, showBy);
    }

    /// The draw is served: by a quorum's receipts, or by a chunk.
    function _serve(uint64 segmentId, SegmentRecord storage s, Stage memory g, JobRecord storage j) internal {
        uint64 sealBy = _now() + j.sealWindow;
        (g.state, g.phase, g.due, g.atBlock) = (SegmentState.SERVED, Phase.SEAL, uint40(sealBy), 0);
        s.stage = Stages.pack(g);
        emit Served(segmentId, g.round, sealBy);
    }

    /// Anyone. The entry and the chunk follow from how many the end has, so that every block names something.
    function show(uint64 segmentId, ChunkProof calldata c) external {
        (SegmentRecord storage s, Stage memory g) = _in(segmentId, SegmentState.DRAWN);
        if (g.phase != Phase.SHOW) revert WrongPhase(segmentId, g.phase);
        _needBefore(g.due);
        JobRecord storage j = _jobs[s.job];
        (bytes32 blockHash,) = _reach(g.atBlock);
        Named memory n;
        n.rest = Hashes.chunk(blockHash, segmentId);
        _needEnd(segmentId, s, j, g, n, c);
        _needChunk(n, c);
        // Who has its key, and so might have looked, is answerable as if it had signed a receipt.
        g.receipted |= g.keyed;
        emit ChunkShown(segmentId, n.place, n.entry, n.chunk);
        _serve(segmentId, s, g, j);
    }

    /// One of the ends that a drawn link names (assay/links.py): of the state before its step, but for the segment's first, whose state is
    /// the parent's end; of the accumulator before it; its own.
    function _needEnd(uint64 segmentId, SegmentRecord storage s, JobRecord storage j, Stage memory g, Named memory n, ChunkProof calldata c)
        private
        view
    {
        uint64[] memory units = _unitsOf(segmentId, _unitCount(s, j, uint256(g.round) + 1));
        uint64 perStep = uint64(j.microBatches) + 1;
        uint64 unit = units[n.rest % units.length];
        (uint64 step, uint64 m) = (unit / perStep, unit % perStep);
        uint256 named = (step > 0 ? 2 : 1) + (m > 0 ? 1 : 0);
        n.rest /= units.length;
        uint256 which = n.rest % named;
        n.rest /= named;
        n.place = unit;
        if (step > 0 && which == 0) n.place = step * perStep - 1;
        else if (which + 1 < named) n.place = unit - 1;

        bytes32 root = _rootOf(s.start + n.place / perStep, uint32(n.place % perStep), uint32(perStep) - 1, c);
        uint64 links = (s.stop - s.start) * perStep;
        if (!Merkle.verify(s.linkRoot, links, n.place, root, c.endPath)) revert NotTheChunk("the link's end");
    }

    /// The end of link (step, m): a state after an update, else an accumulator.
    function _rootOf(uint64 step, uint32 m, uint32 micros, ChunkProof calldata c) private pure returns (bytes32) {
        if (m == micros) return Openings.stateRoot(step + 1, c.count, c.entries);
        return Openings.accRoot(step, m + 1, c.count, c.entries);
    }

    function _needChunk(Named memory n, ChunkProof calldata c) private view {
        if (c.count == 0) {
            if (c.entries != Merkle.EMPTY) revert NotTheChunk("the entries");
            return;
        }
        n.entry = uint32(n.rest % c.count);
        n.rest /= c.count;
        bytes memory kind = c.kind;
        if (kind.length < 2 || kind.length != 2 + 8 * kind.number(1, 1)) revert NotTheChunk("the tensor's type");
        bytes32 leaf = Openings.entryLeaf(n.entry, c.name, Openings.tensorRoot(kind, c.chunks));
        if (!Merkle.holds(c.entries, c.count, n.entry, leaf, c.entryPath)) revert NotTheChunk("the entry");
        uint64 count = Openings.chunksOf(kind.elements(), kind.width());
        if (count == 0) {
            if (c.chunks != Merkle.EMPTY || c.chunk.length > 0) revert NotTheChunk("the chunk");
            return;
        }
        n.chunk = uint64(n.rest % count);
        bool fits = c.chunk.length == Openings.CHUNK;
        fits = fits && Merkle.holds(c.chunks, count, n.chunk, Merkle.leafAt(n.chunk, c.chunk), c.chunkPath);
        if (!fits) revert NotTheChunk("the chunk");
    }
}
