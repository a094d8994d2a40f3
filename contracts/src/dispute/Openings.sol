// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Need} from "../interfaces/ILeaf.sol";
import {Merkle} from "../libraries/Merkle.sol";
import {Evidence, Link} from "../types/DisputeTypes.sol";
import {ProgramView} from "./ProgramView.sol";
import {Words} from "./Words.sol";

/// Opens single elements of the values of a disputed link: under a trace, a state, an accumulator, a batch, the schedule, frozen tensors, a constant.
library Openings {
    using ProgramView for bytes;

    uint256 internal constant CHUNK = 1024;
    uint8 internal constant STATE = 0;
    uint8 internal constant ACC = 1;
    uint8 internal constant BATCH = 2;
    uint8 internal constant SCALAR = 3;
    uint8 internal constant COUNTER = 4;
    uint8 internal constant CONSTANT = 5;
    uint8 internal constant FROZEN = 6;

    error BadOpening(string what);

    function need(bool holds, string memory what) internal pure {
        if (!holds) revert BadOpening(what);
    }

    // ---- roots -----------------------------------------------------------------------------------------------------------------

    function tensorRoot(bytes memory t, bytes32 chunks) internal pure returns (bytes32) {
        return sha256(abi.encodePacked(bytes1(0x10), t, chunks));
    }

    function stateRoot(uint64 step, uint32 count, bytes32 entries) internal pure returns (bytes32) {
        return sha256(abi.encodePacked(bytes1(0x11), step, count, entries));
    }

    function accRoot(uint64 step, uint32 m, uint32 count, bytes32 entries) internal pure returns (bytes32) {
        return sha256(abi.encodePacked(bytes1(0x12), step, m, count, entries));
    }

    function batchRoot(uint32 count, bytes32 entries) internal pure returns (bytes32) {
        return sha256(abi.encodePacked(bytes1(0x16), count, entries));
    }

    function frozenRoot(uint32 count, bytes32 entries) internal pure returns (bytes32) {
        return sha256(abi.encodePacked(bytes1(0x18), count, entries));
    }

    function head(Link memory l) internal pure returns (bytes32) {
        bool update = l.m == l.micros;
        return sha256(
            abi.encodePacked(
                bytes1(0x14), l.programRoot, update, l.step, l.m, l.stateRoot, l.accRoot, l.batchRoot, l.scheduleRoot
            )
        );
    }

    /// Leaf of a set of tensors: len(name) u16, name, tensor root.
    function entryLeaf(uint64 place, bytes memory name, bytes32 root) internal pure returns (bytes32) {
        return Merkle.leafOf(place, abi.encodePacked(uint16(name.length), name, root));
    }

    // ---- chunks ----------------------------------------------------------------------------------------------------------------

    /// Chunks of a tensor of so many elements of so many bytes.
    function chunksOf(uint64 elements, uint256 width) internal pure returns (uint64) {
        return uint64((uint256(elements) * width + CHUNK - 1) / CHUNK);
    }

    /// Bits of an element from its bytes: little-endian, zero-extended.
    function bits(bytes calldata data, uint256 spot, uint256 width) internal pure returns (uint64) {
        need(spot + width <= data.length, "the bytes of an element");
        bytes32 from;
        assembly ("memory-safe") {
            from := calldataload(add(data.offset, spot))
        }
        return Words.little(from, width);
    }

    function inChunk(bytes calldata chunk, uint64 place, uint256 width) internal pure returns (uint64) {
        return bits(chunk, (uint256(place) * width) % CHUNK, width);
    }

    /// Reverts unless these are the bytes of chunk `index` of a tensor, whose leaf is `node`, those past the last element zero.
    function needChunk(bytes32 node, uint64 index, uint64 elements, uint256 width, bytes calldata chunk) internal view {
        need(chunk.length == CHUNK, "a chunk has 1024 bytes");
        need(Merkle.leafAt(index, chunk) == node, "the chunk");
        uint256 end = uint256(elements) * width - uint256(index) * CHUNK;
        for (uint256 i = end; i < CHUNK; ++i) {
            need(chunk[i] == 0, "the bytes past the last element");
        }
    }

    // ---- values ----------------------------------------------------------------------------------------------------------------

    /// Bits of the element that a leaf needs, as the evidence shows them.
    function value(Link memory l, ProgramView.Part memory part, bytes memory stage, Need memory wanted, Evidence calldata e)
        internal
        view
        returns (uint64)
    {
        (uint32 number, bytes memory t) = stage.operand(wanted.operand);
        need(wanted.element < t.elements(), "an element of the operand");
        if (number >= part.inputs) {
            needStage(l, part, number, tensorRoot(t, e.chunks), e);
            return element(t, wanted.element, e);
        }
        ProgramView.Input memory i = inputOf(part, number, e);
        if (i.kind == COUNTER) return i.place == 0 ? l.step : l.m;
        if (i.kind == SCALAR) return scalar(l, i, e);
        if (startsAsZeros(l, i)) return 0;
        needInput(l, i, tensorRoot(t, e.chunks), e);
        return element(t, wanted.element, e);
    }

    function inputOf(ProgramView.Part memory part, uint32 number, Evidence calldata e)
        internal
        view
        returns (ProgramView.Input memory)
    {
        bytes32 leaf = Merkle.leafAt(number, e.record);
        need(Merkle.holds(part.inputsRoot, part.inputs, number, leaf, e.recordPath), "the input's record");
        return ProgramView.input(e.record);
    }

    function startsAsZeros(Link memory l, ProgramView.Input memory i) internal pure returns (bool) {
        return i.kind == ACC && l.accRoot == 0 && i.extra.number(0, 4) == ProgramView.NO_VALUE;
    }

    function needStage(Link memory l, ProgramView.Part memory part, uint32 number, bytes32 root, Evidence calldata e) internal view {
        uint64 leaf = uint64(number) - part.inputs + 1;
        need(Merkle.verify(l.traceRoot, l.leaves, leaf, root, e.rootPath), "the operand's leaf of the trace");
    }

    /// Reverts unless `root` is the tensor root of an input that is an entry of a set, or a constant.
    function needInput(Link memory l, ProgramView.Input memory i, bytes32 root, Evidence calldata e) internal view {
        if (i.kind == CONSTANT) return need(i.extra.number(0, 32) == uint256(root), "the constant");
        uint32 place = i.place;
        if (i.kind == FROZEN) {
            need(frozenRoot(e.count, e.entries) == bytes32(i.extra.number(4, 32)), "the frozen root");
        } else if (i.kind == BATCH) {
            need(batchRoot(e.count, e.entries) == l.batchRoot, "the batch root");
        } else if (i.kind == ACC && l.accRoot != 0) {
            need(accRoot(l.step, l.m, e.count, e.entries) == l.accRoot, "the accumulator root");
        } else {
            need(i.kind == STATE || i.kind == ACC, "an input that is a tensor");
            if (i.kind == ACC) place = uint32(i.extra.number(0, 4));
            needState(l, e);
        }
        needEntry(e, place, i.name, root);
    }

    function needState(Link memory l, Evidence calldata e) internal pure {
        need(stateRoot(l.step, e.count, e.entries) == l.stateRoot, "the state root");
    }

    function needEntry(Evidence calldata e, uint32 place, bytes memory name, bytes32 root) internal view {
        need(Merkle.holds(e.entries, e.count, place, entryLeaf(place, name, root), e.rootPath), "the entry");
    }

    /// A value of the schedule, f32 [steps, columns].
    function scalar(Link memory l, ProgramView.Input memory i, Evidence calldata e) private view returns (uint64) {
        uint64 columns = uint64(i.extra.number(0, 4));
        bytes memory t = abi.encodePacked(uint8(1), uint8(2), l.steps, columns);
        need(tensorRoot(t, e.chunks) == l.scheduleRoot, "the schedule root");
        return element(t, l.step * columns + i.place, e);
    }

    /// An element of a tensor whose root over chunks is e.chunks.
    function element(bytes memory t, uint64 spot, Evidence calldata e) private view returns (uint64) {
        uint256 width = t.width();
        uint64 index = uint64(uint256(spot) * width / CHUNK);
        need(e.chunk.length == CHUNK, "a chunk has 1024 bytes");
        uint64 count = chunksOf(t.elements(), width);
        need(Merkle.holds(e.chunks, count, index, Merkle.leafAt(index, e.chunk), e.chunkPath), "the operand's chunk");
        return inChunk(e.chunk, spot, width);
    }
}
