// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Merkle} from "../libraries/Merkle.sol";
import {Dispute, GatherMove, Link, LinkFacts, Outcome, Proof, Rules, Stand, TraceMove} from "../types/DisputeTypes.sol";
import {Court} from "./Court.sol";
import {Gather} from "./Gather.sol";
import {Openings} from "./Openings.sol";
import {ProgramView} from "./ProgramView.sol";
import {Walk} from "./Walk.sol";

/// From a link to one element of one tensor: the asserter opens trees, the challenger points. What the pointing ends at is decided here
/// where roots or records decide it, in dispute/Verdict.sol where arithmetic does.
/// Code that Disputes runs by delegatecall (see Disputes.sol); by itself it holds nothing.
contract Descent is Court {
    using ProgramView for bytes;

    /// Batch root of an update: SHA256(0x16, 0 u32, EMPTY).
    bytes32 private constant NO_BATCH = 0x62f3895278391703d9193d06530f534cb2c00c36996028862337a66bf8e5cbef;

    constructor(address jobs_, Rules memory rules_) Court(jobs_, rules_) {}

    // ---- walks ---------------------------------------------------------------------------------------------------------------

    function _walks(Stand stand) private pure returns (bool) {
        return stand == Stand.LINKS || stand == Stand.TRACE || stand == Stand.CHUNKS || stand == Stand.ENTRIES
            || stand == Stand.FIELDS;
    }

    function reveal(uint64 id, bytes32[] calldata children) external nonReentrant {
        Dispute storage d = _dispute(id);
        if (!_walks(d.stand)) revert WrongTurn(id, d.stand, d.asserting);
        _charge(id, d, true);
        Walk.needChildren(d.node, d.height, children);
        _next(id, d, d.stand, false);
    }

    function point(uint64 id, bytes32 below, uint64 place, bytes32[] calldata path) external nonReentrant {
        Dispute storage d = _dispute(id);
        if (!_walks(d.stand)) revert WrongTurn(id, d.stand, d.asserting);
        _charge(id, d, false);
        uint8 height = Walk.descend(d.node, d.height, d.index, below, place, path);
        (d.node, d.index, d.height) = (below, place, height);
        if (height > 0) return _next(id, d, d.stand, true);
        if (d.count == 0) revert NothingThere(place);
        if (place < d.count) return _arrive(id, d, place);
        if (below == Merkle.PAD) revert NothingThere(place);
        _resolve(id, d, Outcome.ASSERTER_LOST);
    }

    function _arrive(uint64 id, Dispute storage d, uint64 place) private {
        Stand stand = d.stand;
        if (stand == Stand.LINKS) {
            d.unit = place;
            _next(id, d, Stand.TRACED, true);
        } else if (stand == Stand.TRACE) {
            if (place == 0) {
                if (d.elements == 0) revert NothingThere(place);
                _next(id, d, Stand.BATCH, true);
            } else {
                _next(id, d, place == d.count - 1 ? Stand.END : Stand.STAGE, true);
            }
        } else if (stand == Stand.ENTRIES) {
            _next(id, d, Stand.ENTRY, true);
        } else if (stand == Stand.FIELDS) {
            _next(id, d, Stand.FIELD, true);
        } else {
            _next(id, d, Stand.CHUNK, true);
        }
    }

    /// The bytes of the chunk that was pointed at: a challenger sees only hashes until it has them.
    function chunk(uint64 id, bytes calldata data) external nonReentrant {
        Dispute storage d = _turn(id, Stand.CHUNK, true);
        uint64 index = d.index;
        if (Merkle.leafOf(index, data) != d.node) revert BadRoot("the chunk");
        Openings.need(data.length == Openings.CHUNK, "a chunk has 1024 bytes");
        Openings.needPad(data, index, d.elements, d.width);
        _next(id, d, Stand.NAME, false);
    }

    /// The element of the chunk that the challenger doubts.
    function element(uint64 id, uint64 element_) external nonReentrant {
        Dispute storage d = _turn(id, Stand.NAME, false);
        uint64 index = d.index;
        if (element_ >= d.elements || uint256(element_) * d.width / Openings.CHUNK != index) revert WrongElement(element_, index);
        d.index = element_;
        _next(id, d, d.ofBatch ? Stand.RECORD : Stand.ELEMENT, true);
    }

    function _enterTensor(uint64 id, Dispute storage d, bytes memory t, bytes32 chunks, bytes32[] calldata children) private {
        uint64 count = Openings.chunkCount(t);
        Walk.needChildren(chunks, Merkle.depth(count), children);
        (d.elements, d.width) = (t.elements(), t.width());
        _enter(id, d, Stand.CHUNKS, chunks, count);
    }

    // ---- the link ------------------------------------------------------------------------------------------------------------

    /// Shows the ends that the link names, and a trace between them.
    function trace(uint64 id, TraceMove calldata t) external nonReentrant {
        Dispute storage d = _turn(id, Stand.TRACED, true);
        if (d.target == 1 && t.traceRoot != d.node) revert BadRoot("the trace root is the one that was revealed");
        LinkFacts memory f = _jobs.linkFacts(d.segment, d.unit);
        Link memory l = _link(d, f, t);
        if (!Merkle.verify(t.traceRoot, f.leaves, 0, Openings.head(l), t.headPath)) revert BadRoot("the trace's head");
        if (!Merkle.verify(t.traceRoot, f.leaves, f.leaves - 1, t.endRoot, t.lastPath)) revert BadRoot("the trace's last leaf");
        Walk.needChildren(t.traceRoot, Merkle.depth(f.leaves), t.children);
        d.facts = _facts(keccak256(abi.encode(l)), 0, 0);
        // Whether leaf 0 can be pointed at: all of an update's head is known.
        d.elements = l.m == l.micros ? 0 : 1;
        _enter(id, d, Stand.TRACE, t.traceRoot, f.leaves);
    }

    function _link(Dispute storage d, LinkFacts memory f, TraceMove calldata t) private view returns (Link memory l) {
        uint64 perStep = uint64(f.micros) + 1;
        uint64 unit = d.unit;
        (l.programRoot, l.datasetRoot, l.scheduleRoot) = (f.programRoot, f.datasetRoot, f.scheduleRoot);
        (l.steps, l.micros, l.leaves) = (f.steps, f.micros, f.leaves);
        (l.step, l.m) = (f.start + unit / perStep, uint32(unit % perStep));
        l.stateRoot = f.startRoot;
        if (unit >= perStep) {
            l.stateRoot = t.stateRoot;
            _needEnd(f, unit - l.m - 1, t.stateRoot, t.statePath, "the state before the step");
        }
        if (l.m > 0) {
            l.accRoot = t.accRoot;
            _needEnd(f, unit - 1, t.accRoot, t.accPath, "the accumulator before the link");
        }
        l.endRoot = t.endRoot;
        _needEnd(f, unit, t.endRoot, t.endPath, "the link's end");
        l.batchRoot = t.batchRoot;
        if (l.m == l.micros && t.batchRoot != NO_BATCH) revert BadRoot("the batch of an update");
        l.traceRoot = t.traceRoot;
    }

    function _needEnd(LinkFacts memory f, uint64 unit, bytes32 root, bytes32[] calldata path, string memory what) private view {
        if (!Merkle.verify(f.linkRoot, f.links, unit, root, path)) revert BadRoot(what);
    }

    // ---- a stage -------------------------------------------------------------------------------------------------------------

    /// Shows which stage of the program made the trace's leaf, and the root over the chunks of its output.
    function stage(
        uint64 id,
        Link calldata link,
        bytes calldata program,
        bytes calldata stage_,
        bytes32[] calldata path,
        bytes32 chunks,
        bytes32[] calldata children
    ) external nonReentrant {
        Dispute storage d = _turn(id, Stand.STAGE, true);
        _needLink(d, link);
        uint64 index = d.index;
        ProgramView.Part memory part = program.part(link.programRoot, _isUpdate(link));
        if (!Merkle.holds(part.stagesRoot, part.stages, index - 1, Merkle.leafOf(index - 1, stage_), path)) revert BadRoot("the stage");
        bytes memory t = ProgramView.result(stage_);
        if (Merkle.leaf(index, Openings.tensorRoot(t, chunks)) != d.node) revert BadRoot("the stage's output");
        d.facts = _facts(keccak256(abi.encode(link)), keccak256(stage_), 0);
        _enterTensor(id, d, t, chunks, children);
    }

    // ---- the link's end ------------------------------------------------------------------------------------------------------

    function end(uint64 id, Link calldata link, bytes calldata program, bytes32 entries, bytes32[] calldata children)
        external
        nonReentrant
    {
        Dispute storage d = _turn(id, Stand.END, true);
        _needLink(d, link);
        bool update = _isUpdate(link);
        uint32 count = program.part(link.programRoot, update).outputs;
        bytes32 root = update
            ? Openings.stateRoot(link.step + 1, count, entries)
            : Openings.accRoot(link.step, link.m + 1, count, entries);
        if (root != link.endRoot) revert BadRoot("the link's end");
        Walk.needChildren(entries, Merkle.depth(count), children);
        _enter(id, d, Stand.ENTRIES, entries, count);
    }

    /// Shows that the entry is what the program puts there: then the challenger has lost.
    function endEntry(uint64 id, Proof calldata p, bytes calldata record, bytes32[] calldata path, bytes32 root)
        external
        nonReentrant
    {
        Dispute storage d = _turn(id, Stand.ENTRY, true);
        _needLink(d, p.link);
        uint64 place = d.index;
        ProgramView.Part memory part = p.program.part(p.link.programRoot, _isUpdate(p.link));
        if (!Merkle.holds(part.outputsRoot, part.outputs, place, Merkle.leafOf(place, record), path)) revert BadRoot("the output's record");
        (uint32 value, bytes memory name) = ProgramView.output(record);
        if (Openings.entryLeaf(place, name, root) != d.node) revert BadRoot("the entry of the link's end");
        if (p.evidence.length != 1) revert WrongParts(p.evidence.length, 1);
        bool shown = true;
        if (value == ProgramView.NO_VALUE) {
            Openings.needState(p.link, p.evidence[0]);
            Openings.needEntry(p.evidence[0], uint32(place), name, root);
        } else {
            shown = _isRootOf(p, part, value, root);
        }
        _resolve(id, d, shown ? Outcome.ASSERTER_WON : Outcome.VOID);
    }

    /// Reverts unless `root` is the tensor root of the value. False where no tree holds such a root; no program that assay makes puts
    /// such a value out.
    function _isRootOf(Proof calldata p, ProgramView.Part memory part, uint32 value, bytes32 root) private view returns (bool) {
        Link memory l = p.link;
        if (value >= part.inputs) {
            Openings.needStage(l, part, value, root, p.evidence[0]);
            return true;
        }
        ProgramView.Input memory i = Openings.inputOf(part, value, p.evidence[0]);
        if (i.kind == Openings.SCALAR || i.kind == Openings.COUNTER || Openings.startsAsZeros(l, i)) return false;
        Openings.needInput(l, i, root, p.evidence[0]);
        return true;
    }

    // ---- the batch -----------------------------------------------------------------------------------------------------------

    function batch(uint64 id, Link calldata link, uint32 count, bytes32 entries, bytes32[] calldata children) external nonReentrant {
        Dispute storage d = _turn(id, Stand.BATCH, true);
        _needLink(d, link);
        if (Openings.batchRoot(count, entries) != link.batchRoot) revert BadRoot("the batch");
        Walk.needChildren(entries, Merkle.depth(count), children);
        _enter(id, d, Stand.FIELDS, entries, count);
    }

    /// Input `value` of the program, which must be a field of the batch.
    function _field(Link calldata link, bytes calldata program, uint32 value, bytes calldata record, bytes32[] calldata path)
        private
        view
        returns (ProgramView.Input memory i)
    {
        ProgramView.Part memory part = program.part(link.programRoot, _isUpdate(link));
        if (!Merkle.holds(part.inputsRoot, part.inputs, value, Merkle.leafOf(value, record), path)) revert BadRoot("the input's record");
        i = ProgramView.input(record);
        if (i.kind != Openings.BATCH) revert BadRoot("a field of the batch");
    }

    /// The program reads a field that the batch lacks.
    function missing(
        uint64 id,
        Link calldata link,
        bytes calldata program,
        uint32 value,
        bytes calldata record,
        bytes32[] calldata path
    ) external nonReentrant {
        Dispute storage d = _turn(id, Stand.FIELDS, false);
        _needLink(d, link);
        if (_field(link, program, value, record, path).place < d.count) revert BadRoot("a field past the batch's last");
        _resolve(id, d, Outcome.ASSERTER_LOST);
    }

    function batchEntry(
        uint64 id,
        Link calldata link,
        bytes calldata program,
        uint32 value,
        bytes calldata record,
        bytes32[] calldata path,
        bytes32 chunks,
        bytes32[] calldata children
    ) external nonReentrant {
        Dispute storage d = _turn(id, Stand.FIELD, true);
        _needLink(d, link);
        ProgramView.Input memory i = _field(link, program, value, record, path);
        bytes32 leaf = Openings.entryLeaf(i.place, i.name, Openings.tensorRoot(i.kindOfTensor, chunks));
        if (i.place != d.index || leaf != d.node) revert BadRoot("the batch's entry");
        d.facts = _facts(keccak256(abi.encode(link)), keccak256(record), 0);
        d.ofBatch = true;
        _enterTensor(id, d, i.kindOfTensor, chunks, children);
    }

    /// Opens the record that belongs at the element's place: the dispute is decided.
    function gather(uint64 id, GatherMove calldata g) external nonReentrant {
        Dispute storage d = _turn(id, Stand.RECORD, true);
        _needFacts(d, keccak256(abi.encode(g.link)), keccak256(g.record), 0);
        (uint64 place, uint8 width) = (d.index, d.width);
        if (Merkle.leafOf(uint64(uint256(place) * width / Openings.CHUNK), g.chunk) != d.node) revert BadRoot("the batch's chunk");
        uint64 claimed = Openings.inChunk(g.chunk, place, width);
        uint64 found = Gather.value(g.link, ProgramView.input(g.record), place, g);
        _resolve(id, d, claimed == found ? Outcome.ASSERTER_WON : Outcome.ASSERTER_LOST);
    }
}
