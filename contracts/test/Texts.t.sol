// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Gather} from "../src/dispute/Gather.sol";
import {Openings} from "../src/dispute/Openings.sol";
import {ProgramView} from "../src/dispute/ProgramView.sol";
import {IDisputesLog} from "../src/interfaces/IDisputes.sol";
import {Need} from "../src/interfaces/ILeaf.sol";
import {Merkle} from "../src/libraries/Merkle.sol";
import {Evidence, Field, Folded, GatherMove, Link, Outcome, Proof, Stand, TraceMove} from "../src/types/DisputeTypes.sol";
import {Reveal} from "../src/types/Types.sol";
import {Arena} from "./utils/Arena.sol";
import {Toy} from "./utils/Toy.sol";
import {Trees} from "./utils/Trees.sol";

/// Every text of BadRoot and BadOpening, each provoked by the right move but for the one thing that it names; then that move is taken as it
/// should be. tests/test_refusals.py sees that none is left out.
contract TextsTest is Arena {
    function root(uint64 id, bytes memory data, string memory text) internal {
        refused(id, data, abi.encodeWithSelector(IDisputesLog.BadRoot.selector, text), text);
    }

    function opening(uint64 id, bytes memory data, string memory text) internal {
        refused(id, data, abi.encodeWithSelector(Openings.BadOpening.selector, text), text);
    }

    function refused(uint64 id, bytes memory data, bytes memory reason, string memory text) internal {
        vm.prank(game.dispute(id).asserting ? game.dispute(id).asserter : challenger);
        (bool done, bytes memory out) = address(game).call(data);
        assertTrue(!done && keccak256(out) == keccak256(reason), text);
    }

    /// Another word; the same again when it is called twice.
    function spoil(bytes32[] memory path, uint256 i) internal pure {
        path[i] = ~path[i];
    }

    function traced(uint64 unit, uint64 leaf) internal returns (uint64 id, Story memory s) {
        id = opened(challenger, drawn(job, 0), unit);
        s = story(unit, true);
        trace(id, s);
        walk(id, Trees.rows(s.leaves), leaf);
    }

    function test_the_ends_of_a_link() public {
        uint64 segment = drawn(job, 0);
        uint64 id = opened(challenger, segment, 5);
        TraceMove memory m = traceMove(segment, story(5, true));
        spoil(m.endPath, 0);
        root(id, abi.encodeCall(game.trace, (id, m)), "the link's end");
        spoil(m.endPath, 0);
        spoil(m.statePath, 0);
        root(id, abi.encodeCall(game.trace, (id, m)), "the state before the step");
        spoil(m.statePath, 0);
        m.accRoot = ~m.accRoot;
        root(id, abi.encodeCall(game.trace, (id, m)), "the accumulator before the link");
        m.accRoot = ~m.accRoot;
        m.batchRoot = ~m.batchRoot;
        root(id, abi.encodeCall(game.trace, (id, m)), "the batch of an update");
        m.batchRoot = ~m.batchRoot;
        spoil(m.children, 0);
        root(id, abi.encodeCall(game.trace, (id, m)), "the trace's head");
        spoil(m.children, 0);
        spoil(m.children, Toy.UPDATE_LEAVES - 1);
        root(id, abi.encodeCall(game.trace, (id, m)), "the trace's last leaf");
        trace(id, story(5, true));
        assertStand(id, Stand.TRACE);
    }

    function test_the_trace_of_a_vote() public {
        uint64 segment = served(job, 0);
        address[] memory who = committee(segment);
        for (uint256 i = 0; i < 3; ++i) {
            seal(segment, vote(segment, who[i], true, 0));
        }
        for (uint256 i = 0; i < 3; ++i) {
            reveal(segment, vote(segment, who[i], true, 0));
        }
        Reveal memory v = vote(segment, who[0], true, 0);
        jobs.disclose(segment, 0, who[0], v.traceRoots, v.salt);
        uint64 unit = jobs.unitsOf(segment)[0];
        bytes32 d = digest(segment, 1, unit, who[0], 0, challenger);
        vm.prank(challenger);
        uint64 id = game.seal(segment, d);
        mine(1);
        vm.prank(challenger);
        game.open(id, 1, unit, who[0], 0, SALT);
        // Right for the link, but not what it had revealed.
        TraceMove memory m = traceMove(segment, story(unit, false));
        root(id, abi.encodeCall(game.trace, (id, m)), "the trace root is the one that was revealed");
    }

    function test_a_stage() public {
        (uint64 id, Story memory s) = traced(2, 1);
        bytes[] memory all = Toy.stages(true);
        bytes32[][] memory rows = Toy.rows(s.outputs[0]);
        (bytes32[] memory path, bytes32[] memory children) = (Trees.path(Trees.rows(Toy.leavesOf(all)), 0), Trees.children(rows, 1, 0));
        spoil(path, 0);
        root(id, abi.encodeCall(game.stage, (id, s.link, Toy.program(), all[0], path, Trees.top(rows), children)), "the stage");
        spoil(path, 0);
        root(id, abi.encodeCall(game.stage, (id, s.link, Toy.program(), all[0], path, ~Trees.top(rows), children)), "the stage's output");
        stage(id, s, 0);
        walk(id, rows, 1);
        bytes memory data = Toy.chunk(s.outputs[0], 1);
        opening(id, abi.encodeCall(game.chunk, (id, new bytes(1023))), "a chunk has 1024 bytes");
        data[0] ^= 0x01;
        opening(id, abi.encodeCall(game.chunk, (id, data)), "the chunk");
        chunk(id, s.outputs[0], 1);
        element(id, s.outputs[0], 299);
        Proof memory p = proved(s, 0, 299);
        p.chunk = Toy.chunk(s.outputs[0], 1);
        opening(id, abi.encodeCall(game.prove, (id, p)), "no chunk where it has been shown");
        prove(id, s, 0, 299);
        assertOutcome(id, Outcome.ASSERTER_WON);
    }

    function test_the_end() public {
        (uint64 id, Story memory s) = traced(5, Toy.UPDATE_LEAVES - 1);
        bytes32[][] memory rows = endRows(s);
        bytes memory program = Toy.program();
        root(id, abi.encodeCall(game.end, (id, s.link, program, ~Trees.top(rows), Trees.children(rows, 1, 0))), "the link's end");
        end(id, s);
        uint256 before = vm.snapshotState();
        walk(id, rows, 0);
        Proof memory p = endProof(s, 0);
        bytes[] memory outputs = Toy.outputs(true);
        bytes32[] memory path = Trees.path(Trees.rows(Toy.leavesOf(outputs)), 0);
        bytes32 tensor = Toy.root(Toy.vector(Toy.N), s.endFirst);
        spoil(path, 0);
        root(id, abi.encodeCall(game.endEntry, (id, p, outputs[0], path, tensor)), "the output's record");
        spoil(path, 0);
        root(id, abi.encodeCall(game.endEntry, (id, p, outputs[0], path, ~tensor)), "the entry of the link's end");
        spoil(p.evidence[0].rootPath, 0);
        opening(id, abi.encodeCall(game.endEntry, (id, p, outputs[0], path, tensor)), "the operand's leaf of the trace");
        endEntry(id, s, 0, tensor);
        assertOutcome(id, Outcome.ASSERTER_WON);
        vm.revertToState(before);
        walk(id, rows, 1);
        p = endProof(s, 1);
        path = Trees.path(Trees.rows(Toy.leavesOf(outputs)), 1);
        tensor = Toy.root(Toy.vector(5), s.z);
        p.evidence[0].count = 3;
        opening(id, abi.encodeCall(game.endEntry, (id, p, outputs[1], path, tensor)), "the state root");
        p.evidence[0].count = 2;
        spoil(p.evidence[0].rootPath, 0);
        opening(id, abi.encodeCall(game.endEntry, (id, p, outputs[1], path, tensor)), "the entry");
        endEntry(id, s, 1, tensor);
        assertOutcome(id, Outcome.ASSERTER_WON);
    }

    function test_the_batch() public {
        (uint64 id, Story memory s) = traced(4, 0);
        bytes32[][] memory rows = Toy.batchRows(s.x);
        root(id, abi.encodeCall(game.batch, (id, s.link, 1, ~Trees.top(rows), Trees.children(rows, 0, 0))), "the batch");
        batch(id, s);
        bytes[] memory inputs = Toy.inputs(false);
        bytes32[][] memory records = Trees.rows(Toy.leavesOf(inputs));
        Field memory f = Field(Toy.program(), 2, inputs[2], Trees.path(records, 2));
        root(id, abi.encodeCall(game.missing, (id, s.link, f)), "a field past the batch's last");
        walk(id, rows, 0);
        rows = Toy.rows(s.x);
        bytes32[] memory children = Trees.children(rows, 1, 0);
        spoil(f.path, 0);
        root(id, abi.encodeCall(game.batchEntry, (id, s.link, f, Trees.top(rows), children)), "the input's record");
        f = Field(f.program, 0, inputs[0], Trees.path(records, 0));
        root(id, abi.encodeCall(game.batchEntry, (id, s.link, f, Trees.top(rows), children)), "a field of the batch");
        f = Field(f.program, 2, inputs[2], Trees.path(records, 2));
        root(id, abi.encodeCall(game.batchEntry, (id, s.link, f, ~Trees.top(rows), children)), "the batch's entry");
        batchEntry(id, s);
        toNamed(id, rows, s.x, 151);
        records_(id, s);
        gather(id, s, 151);
        assertOutcome(id, Outcome.ASSERTER_WON);
    }

    function records_(uint64 id, Story memory s) internal {
        GatherMove memory g = gatherMove(s, 151);
        bytes memory data = g.data;
        g.data = abi.encodePacked(data, hex"00");
        opening(id, abi.encodeCall(game.gather, (id, g)), "the data root");
        g.data = data;
        (g.first, g.records) = (g.first == 0 ? 4 : 0, 3);
        opening(id, abi.encodeCall(game.gather, (id, g)), "the record's shard");
        (, g.first, g.records) = Toy.shardOf(Toy.recordAt(s.link.step, s.link.m, 1));
        spoil(g.shardPath, 0);
        opening(id, abi.encodeCall(game.gather, (id, g)), "the shard");
        spoil(g.shardPath, 0);
        spoil(g.examplePath, 0);
        opening(id, abi.encodeCall(game.gather, (id, g)), "the record");
    }

    function test_a_fold() public {
        uint64 id = opened(challenger, drawn(job, 0), 2);
        Story memory s = story(2, true);
        toElement(id, s, 2, 0);
        int256[] memory totals = Toy.folds(summed(s), 0, Toy.N);
        bytes[] memory parts = firstParts(s, totals);
        Folded memory f = folded(s, totals);
        spoil(f.parts, 1);
        root(id, abi.encodeCall(game.fold, (id, f, parts)), "the parts");
        fold(id, s, totals);
        f = folded(s, totals);
        bytes memory stage_ = Toy.stages(true)[2];
        root(id, abi.encodeCall(game.pick, (id, f, stage_, 1, parts[0], 0)), "the parts");
        bytes32[] memory path = Trees.path(itemRows(s, 1), 7);
        int64 value = int64(Toy.folds(summed(s), 7, 8)[1]);
        root(id, abi.encodeCall(game.pickItem, (id, f, stage_, 1, 7, value + 1, path)), "the item");
        pickItem(id, s, totals, 1, 7);
        assertStand(id, Stand.RANGE);
    }

    // ---- operands

    /// At element 299 of a stage, and what proves it.
    function atElement(uint64 unit, uint32 i) internal returns (uint64 id, Story memory s, Proof memory p) {
        (id, s) = traced(unit, i + 1);
        stage(id, s, i);
        toNamed(id, Toy.rows(s.outputs[i]), s.outputs[i], 299);
        p = proved(s, i, 299);
    }

    function proves(uint64 id, Story memory s, uint32 i) internal {
        prove(id, s, i, 299);
        assertOutcome(id, Outcome.ASSERTER_WON);
    }

    function test_operands_of_state_and_accumulator() public {
        (uint64 id, Story memory s, Proof memory p) = atElement(5, 0);
        Evidence memory e = p.evidence[0];
        spoil(e.recordPath, 0);
        opening(id, abi.encodeCall(game.prove, (id, p)), "the input's record");
        spoil(e.recordPath, 0);
        e.entries = ~e.entries;
        opening(id, abi.encodeCall(game.prove, (id, p)), "the state root");
        e.entries = ~e.entries;
        spoil(e.rootPath, 0);
        opening(id, abi.encodeCall(game.prove, (id, p)), "the entry");
        spoil(e.rootPath, 0);
        spoil(e.chunkPath, 0);
        opening(id, abi.encodeCall(game.prove, (id, p)), "the operand's chunk");
        spoil(e.chunkPath, 0);
        e.chunk = abi.encodePacked(e.chunk, hex"00");
        opening(id, abi.encodeCall(game.prove, (id, p)), "a chunk has 1024 bytes");
        p = proved(s, 0, 299);
        p.evidence[1].entries = ~p.evidence[1].entries;
        opening(id, abi.encodeCall(game.prove, (id, p)), "the accumulator root");
        proves(id, s, 0);
    }

    function test_operands_of_stages_schedule_constant_and_batch() public {
        (uint64 id, Story memory s, Proof memory p) = atElement(5, 1);
        spoil(p.evidence[0].rootPath, 0);
        opening(id, abi.encodeCall(game.prove, (id, p)), "the operand's leaf of the trace");
        spoil(p.evidence[0].rootPath, 0);
        p.evidence[1].chunks = ~p.evidence[1].chunks;
        opening(id, abi.encodeCall(game.prove, (id, p)), "the schedule root");
        proves(id, s, 1);
        job = post();
        (id, s, p) = atElement(5, 4);
        p.evidence[1].chunks = ~p.evidence[1].chunks;
        opening(id, abi.encodeCall(game.prove, (id, p)), "the constant");
        proves(id, s, 4);
        job = post();
        (id, s, p) = atElement(4, 0);
        p.evidence[1].entries = ~p.evidence[1].entries;
        opening(id, abi.encodeCall(game.prove, (id, p)), "the batch root");
        proves(id, s, 0);
    }

    // ---- what the program of this training does not have: the libraries are asked

    function operandOf(Link memory l, ProgramView.Part memory part, bytes memory stage_, Need memory wanted, Evidence calldata e)
        external
        view
        returns (uint64)
    {
        return Openings.value(l, part, stage_, wanted, e);
    }

    function needChunk(bytes32 node, uint64 elements, bytes calldata data) external view {
        Openings.needChunk(node, 0, elements, 4, data);
    }

    function gathered(Link memory l, ProgramView.Input memory field, uint64 which, GatherMove calldata g) external view returns (uint64) {
        return Gather.value(l, field, which, g);
    }

    function asked(string memory text) internal {
        vm.expectRevert(abi.encodeWithSelector(Openings.BadOpening.selector, text));
    }

    /// A part with one input, an entry of the frozen tensors, and what shows element 299 of it.
    function frozen(uint8 kind) internal view returns (ProgramView.Part memory part, Evidence memory e) {
        bytes32[] memory entries = new bytes32[](1);
        entries[0] = Openings.entryLeaf(0, "f", Toy.root(Toy.vector(Toy.N), Toy.constant_()));
        bytes[] memory records = new bytes[](1);
        bytes32 root_ = Openings.frozenRoot(1, entries[0]);
        records[0] = Toy.input(kind, 0, Toy.vector(Toy.N), "f", abi.encodePacked(uint32(0), root_));
        (part.inputs, part.inputsRoot) = (1, Toy.leavesOf(records)[0]);
        bytes32[][] memory rows = Toy.rows(Toy.constant_());
        (e.record, e.entries, e.count, e.chunks) = (records[0], entries[0], 1, Trees.top(rows));
        (e.chunk, e.chunkPath) = (Toy.chunk(Toy.constant_(), 1), Trees.path(rows, 1));
    }

    function test_frozen_tensors_and_inputs_of_no_kind() public {
        Link memory l;
        bytes memory v = Toy.vector(Toy.N);
        bytes memory stage_ = Toy.stage(Toy.ADD, 0, v, 0, v, v);
        (ProgramView.Part memory part, Evidence memory e) = frozen(6);
        assertEq(this.operandOf(l, part, stage_, Need(0, 299), e), 299 * 299, "the element");
        asked("an element of the operand");
        this.operandOf(l, part, stage_, Need(0, 300), e);
        e.count = 2;
        asked("the frozen root");
        this.operandOf(l, part, stage_, Need(0, 299), e);
        (part, e) = frozen(7);
        asked("an input that is a tensor");
        this.operandOf(l, part, stage_, Need(0, 299), e);
    }

    function test_bytes_past_the_last_element() public {
        bytes memory data = new bytes(1024);
        data[19] = 0x01;
        this.needChunk(Merkle.leafOf(0, data), 5, data);
        data[20] = 0x01;
        bytes32 node = Merkle.leafOf(0, data);
        this.needChunk(node, 6, data);
        asked("the bytes past the last element");
        this.needChunk(node, 5, data);
    }

    function test_records_of_other_forms() public {
        Story memory s = story(4, false);
        ProgramView.Input memory field = ProgramView.input(Toy.inputs(false)[2]);
        GatherMove memory g = gatherMove(s, 151);
        assertEq(this.gathered(s.link, field, 151, g), s.x[151], "the element");
        field.kindOfTensor = Toy.matrix(3, 100);
        asked("the batch's size");
        this.gathered(s.link, field, 151, g);
        field.kindOfTensor = Toy.matrix(2, 151);
        asked("the bytes of an element");
        this.gathered(s.link, field, 301, g);
        (field.kindOfTensor, field.name) = (Toy.matrix(2, 150), "y");
        asked("the field of the data");
        this.gathered(s.link, field, 151, g);
        (field.name, g.data[0]) = ("x", 0x16);
        s.link.datasetRoot = sha256(g.data);
        asked("the data root");
        this.gathered(s.link, field, 151, g);
    }
}
