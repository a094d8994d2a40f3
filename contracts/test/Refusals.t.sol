// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Clock} from "../src/dispute/Clock.sol";
import {Openings} from "../src/dispute/Openings.sol";
import {ProgramView} from "../src/dispute/ProgramView.sol";
import {Ranges} from "../src/dispute/Ranges.sol";
import {Walk} from "../src/dispute/Walk.sol";
import {Words} from "../src/dispute/Words.sol";
import {IDisputesLog} from "../src/interfaces/IDisputes.sol";
import {Evidence, Folded, Link, Proof, Stand, TraceMove} from "../src/types/DisputeTypes.sol";
import {Arena} from "./utils/Arena.sol";
import {Chunks} from "./utils/Chunks.sol";
import {Toy} from "./utils/Toy.sol";
import {Trees} from "./utils/Trees.sol";

/// A token that says it has moved what it has not.
contract Taker {
    function balanceOf(address) external pure returns (uint256) {
        return 0;
    }

    function transferFrom(address, address, uint256) external pure returns (bool) {
        return true;
    }
}

/// What is refused of the moves of a dispute, with the error that says so: each is the right move but for one thing. tests/test_refusals.py sees that
/// every error of the dispute contracts is provoked somewhere.
contract RefusalsTest is Arena {
    function no(address by, bytes memory data, bytes4 reason) internal {
        vm.prank(by);
        (bool done, bytes memory out) = address(game).call(data);
        assertTrue(!done, "refused");
        assertEq(bytes32(bytes4(out)), bytes32(reason), "the reason");
    }

    function test_points_that_lead_nowhere() public {
        uint64 id = opened(challenger, drawn(job, 0), 2);
        Story memory s = story(2, true);
        trace(id, s);
        bytes32[][] memory rows = Trees.rows(s.leaves);
        no(challenger, abi.encodeCall(game.point, (id, rows[0][3], 3, new bytes32[](0))), Walk.TooFewLevels.selector);
        no(challenger, abi.encodeCall(game.point, (id, rows[0][3], 3, new bytes32[](6))), Walk.TooManyLevels.selector);
        no(challenger, abi.encodeCall(game.point, (id, rows[0][3], 35, Trees.path(rows, 3))), Walk.NotBelow.selector);
        no(challenger, abi.encodeCall(game.point, (id, rows[0][3], 4, Trees.path(rows, 3))), Walk.BadPath.selector);
        no(challenger, abi.encodeCall(game.point, (id, rows[0][31], 31, Trees.path(rows, 31))), IDisputesLog.NothingThere.selector);
        // An update's head is known: there is nothing to doubt in it.
        no(challenger, abi.encodeCall(game.point, (id, rows[0][0], 0, Trees.path(rows, 0))), IDisputesLog.NothingThere.selector);
        walk(id, rows, 3);
        assertStand(id, Stand.STAGE);
    }

    function test_stages_chunks_and_words_that_are_others() public {
        (uint64 id, Story memory s) = atStage();
        bytes32[][] memory rows = Toy.rows(s.outputs[2]);
        bytes32[] memory children = Trees.children(rows, rows.length - 1, 0);
        staged(id, s.link, hex"00", children, ProgramView.BadProgram.selector);
        staged(id, s.link, Toy.program(), new bytes32[](children.length + 1), Walk.WrongCount.selector);
        staged(id, s.link, Toy.program(), new bytes32[](children.length), Walk.BadChildren.selector);
        s.link.step += 1;
        staged(id, s.link, Toy.program(), children, IDisputesLog.BadFacts.selector);
        s.link.step -= 1;
        stage(id, s, 2);
        walk(id, rows, 0);
        no(provider, abi.encodeWithSignature("chunk(uint64,bytes)", id, new bytes(1024)), Openings.BadOpening.selector);
        chunk(id, s.outputs[2], 0);
        bytes32[6] memory word;
        no(challenger, abi.encodeCall(game.element, (id, 0, word)), Words.BadWord.selector);
        word = Chunks.word(Toy.chunk(s.outputs[2], 0), 4);
        no(challenger, abi.encodeCall(game.element, (id, 1, word)), IDisputesLog.WrongElement.selector);
    }

    function atStage() internal returns (uint64 id, Story memory s) {
        id = opened(challenger, drawn(job, 0), 2);
        s = story(2, true);
        trace(id, s);
        walk(id, Trees.rows(s.leaves), 3);
    }

    function staged(uint64 id, Link memory link, bytes memory program, bytes32[] memory children, bytes4 reason) internal {
        bytes[] memory all = Toy.stages(true);
        bytes32[] memory path = Trees.path(Trees.rows(Toy.leavesOf(all)), 2);
        bytes32 top = Trees.top(Toy.rows(story(2, true).outputs[2]));
        no(provider, abi.encodeCall(game.stage, (id, link, program, all[2], path, top, children)), reason);
    }

    function test_folds_of_another_shape() public {
        uint64 id = opened(challenger, drawn(job, 0), 2);
        Story memory s = story(2, true);
        toElement(id, s, 2, 0);
        int256[] memory totals = Toy.folds(summed(s), 0, Toy.N);
        Proof memory p = proof(s, 2);
        no(provider, abi.encodeCall(game.prove, (id, p)), IDisputesLog.WrongFold.selector);
        bytes[] memory parts = firstParts(s, totals);
        Folded memory f = folded(s, totals);
        f.totals = new int256[](2);
        f.totals[0] = 1 << 70;
        no(provider, abi.encodeCall(game.fold, (id, f, parts)), IDisputesLog.OutOfRange.selector);
        f.totals = new int256[](1);
        no(provider, abi.encodeCall(game.fold, (id, f, parts)), IDisputesLog.WrongFold.selector);
        fold(id, s, totals);
        f = folded(s, totals);
        bytes memory stage_ = Toy.stages(true)[2];
        no(challenger, abi.encodeCall(game.pick, (id, f, stage_, 1, parts[1], 64)), Ranges.WrongParts.selector);
        no(challenger, abi.encodeCall(game.pick, (id, f, stage_, 1, parts[0], 0)), IDisputesLog.BadRoot.selector);
        no(challenger, abi.encodeCall(game.pick, (id, f, hex"21", 1, parts[1], 0)), IDisputesLog.BadFacts.selector);
        pick(id, s, totals, 1, 0);
        uint256 items = game.dispute(id).hi - game.dispute(id).lo;
        no(provider, abi.encodeCall(game.split, (id, new bytes(8 * Ranges.partsOf(items)))), Ranges.WrongTotal.selector);
        p.totals = totals;
        no(provider, abi.encodeCall(game.item, (id, p)), Ranges.WrongParts.selector);
        choose(id, game.dispute(id).node, split(id, s, 0), 0);
        assertEq(game.dispute(id).hi, 1, "an item");
        no(provider, abi.encodeCall(game.split, (id, new bytes(8))), Ranges.WrongParts.selector);
        no(provider, abi.encodeCall(game.item, (id, p)), IDisputesLog.WrongEvidence.selector);
        p.evidence = new Evidence[](2);
        p.evidence[0] = evidence(s, 6, 0);
        no(provider, abi.encodeCall(game.item, (id, p)), IDisputesLog.WrongEvidence.selector);
    }

    function test_a_token_that_does_not_move() public {
        uint64 segment = drawn(job, 0);
        vm.etch(address(token), address(new Taker()).code);
        no(challenger, abi.encodeCall(game.seal, (segment, SALT)), IDisputesLog.UnsupportedToken.selector);
    }

    function test_moves_that_are_not_of_the_stand() public {
        uint64 id = opened(challenger, drawn(job, 0), 2);
        Story memory s = story(2, true);
        no(challenger, abi.encodeCall(game.open, (id, 0, 2, address(0), 0, SALT)), IDisputesLog.WrongTurn.selector);
        no(provider, abi.encodeCall(game.reveal, (id, new bytes32[](8))), IDisputesLog.WrongTurn.selector);
        TraceMove memory m = traceMove(game.dispute(id).segment, s);
        uint256 due = game.dueOf(id);
        vm.warp(due + 1);
        no(provider, abi.encodeCall(game.trace, (id, m)), Clock.TooLate.selector);
        vm.warp(due);
        trace(id, s);
    }

    function test_totals_that_are_not_those_of_the_stage() public {
        uint64 id = opened(challenger, drawn(job, 0), 2);
        Story memory s = story(2, true);
        toElement(id, s, 2, 0);
        int256[] memory totals = Toy.folds(summed(s), 0, Toy.N);
        Proof memory p = proof(s, 2);
        p.totals = totals;
        no(provider, abi.encodeCall(game.prove, (id, p)), IDisputesLog.WrongFold.selector);
        bytes memory stage_ = Toy.stages(true)[2];
        uint256 before = vm.snapshotState();
        // One total where the stage has two folds: nobody can doubt a fold of it, and its output is not shown.
        (Folded memory f, bytes[] memory parts) = (folded(s, totals), firstParts(s, totals));
        (f.totals, f.roots, f.parts) = (new int256[](1), new bytes32[](1), new bytes32[](1));
        (f.totals[0], f.parts[0]) = (totals[0], keccak256(parts[0]));
        bytes[] memory one = new bytes[](1);
        one[0] = parts[0];
        vm.prank(provider);
        game.fold(id, f, one);
        no(challenger, abi.encodeCall(game.pick, (id, f, stage_, 0, parts[0], 0)), IDisputesLog.WrongFold.selector);
        f.roots = new bytes32[](2);
        no(challenger, abi.encodeCall(game.pick, (id, f, stage_, 0, parts[0], 0)), IDisputesLog.WrongFold.selector);
        vm.revertToState(before);
        // A largest byte of 256.
        totals[0] = 256;
        fold(id, s, totals);
        pickOutput(id, s, totals);
        p.totals = totals;
        no(provider, abi.encodeCall(game.finish, (id, p)), IDisputesLog.OutOfRange.selector);
    }

    function test_parts_and_entries_of_others() public {
        uint64 id = opened(challenger, drawn(job, 0), 2);
        Story memory s = story(2, true);
        toElement(id, s, 2, 0);
        int256[] memory totals = Toy.folds(summed(s), 0, Toy.N);
        fold(id, s, totals);
        pick(id, s, totals, 1, 0);
        bytes memory parts = split(id, s, 0);
        bytes32 range = game.dispute(id).node;
        parts[7] ^= 0x01;
        no(challenger, abi.encodeCall(game.choose, (id, range, parts, 0)), IDisputesLog.BadFacts.selector);
        job = post();
        id = opened(challenger, drawn(job, 0), 5);
        s = story(5, true);
        trace(id, s);
        walk(id, Trees.rows(s.leaves), Toy.UPDATE_LEAVES - 1);
        end(id, s);
        walk(id, endRows(s), 0);
        Proof memory p = endProof(s, 0);
        bytes[] memory outputs = Toy.outputs(true);
        bytes32[] memory path = Trees.path(Trees.rows(Toy.leavesOf(outputs)), 0);
        bytes32 tensor = Toy.root(Toy.vector(Toy.N), s.endFirst);
        p.evidence = new Evidence[](2);
        no(provider, abi.encodeCall(game.endEntry, (id, p, outputs[0], path, tensor)), IDisputesLog.WrongEvidence.selector);
    }

    /// No program that was checked has such types: the library is asked.
    function test_types_that_are_none() public {
        bytes[3] memory types = [bytes(hex"0000"), hex"0600", hex""];
        for (uint256 i = 0; i < 3; ++i) {
            vm.expectPartialRevert(ProgramView.BadType.selector);
            this.width(types[i]);
        }
        vm.expectPartialRevert(ProgramView.BadType.selector);
        this.elements(hex"010210000000000000000000000000000002");
        // A type that says it has a dimension and ends; the second operand of a stage of one.
        bytes memory stage_ = Toy.stages(false)[2];
        this.operand(stage_, 0);
        vm.expectPartialRevert(ProgramView.BadType.selector);
        this.operand(stage_, 1);
        vm.expectPartialRevert(ProgramView.BadType.selector);
        this.operand(hex"0200010000000001010000", 0);
    }

    function operand(bytes memory stage_, uint256 k) external pure returns (uint32 value, bytes memory t) {
        return ProgramView.operand(stage_, k);
    }

    function width(bytes memory t) external pure returns (uint8) {
        return ProgramView.width(t);
    }

    function elements(bytes memory t) external pure returns (uint64) {
        return ProgramView.elements(t);
    }
}
