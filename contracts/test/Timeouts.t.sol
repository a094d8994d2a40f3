// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Clock} from "../src/dispute/Clock.sol";
import {Walk} from "../src/dispute/Walk.sol";
import {Dispute, Outcome, Stand} from "../src/types/DisputeTypes.sol";
import {Arena} from "./utils/Arena.sol";
import {Toy} from "./utils/Toy.sol";
import {Trees} from "./utils/Trees.sol";

/// In every stand, on either side's turn: not before its time is up, then at anybody's call, who is silent loses.
contract TimeoutsTest is Arena {
    mapping(Stand => mapping(bool => bool)) internal seen;

    /// Here the side whose turn it is falls silent; the game then goes on as if it had not.
    function silent(uint64 id) internal {
        uint256 state = vm.snapshotState();
        Dispute memory d = game.dispute(id);
        uint256 due = game.dueOf(id);
        vm.warp(due);
        vm.expectPartialRevert(Clock.TooEarly.selector);
        game.timeout(id);
        vm.warp(due + 1);
        vm.prank(stranger);
        game.timeout(id);
        assertStand(id, Stand.RESOLVED);
        assertOutcome(id, d.asserting ? Outcome.ASSERTER_LOST : Outcome.ASSERTER_WON);
        assertMoney();
        vm.revertToState(state);
        seen[d.stand][d.asserting] = true;
    }

    function walked(uint64 id, bytes32[][] memory rows, uint64 leaf) internal {
        while (true) {
            silent(id);
            Dispute memory d = game.dispute(id);
            uint256 low = d.height - Walk.step(d.height);
            pointTo(id, rows, low, leaf);
            silent(id);
            if (low == 0) return;
            reveal(id, rows);
        }
    }

    function test_the_silent_side_loses_in_every_stand() public {
        fold_();
        pickedOutput();
        end_();
        batch_();
        for (uint256 s = uint256(Stand.SEALED); s < uint256(Stand.RESOLVED); ++s) {
            assertTrue(seen[Stand(s)][true] || seen[Stand(s)][false], vm.toString(s));
        }
        // Walks and ranges are of both sides; the toy's trees but that of the links are open with one move of the asserter.
        Stand[6] memory both = [Stand.LINKS, Stand.TRACE, Stand.CHUNKS, Stand.ENTRIES, Stand.FIELDS, Stand.RANGE];
        for (uint256 i = 0; i < 6; ++i) {
            assertTrue(seen[both[i]][false], "the challenger's turn");
        }
        assertTrue(seen[Stand.RANGE][true] && seen[Stand.LINKS][true], "the asserter's turn");
    }

    function fold_() private {
        uint64 segment = drawn(job, 0);
        uint64 id = sealed_(challenger, segment, NO_UNIT);
        silent(id);
        mine(1);
        vm.prank(challenger);
        game.open(id, 0, NO_UNIT, address(0), 0, SALT);
        silent(id);
        bytes32[][] memory links = linkRows(segment);
        reveal(id, links);
        walked(id, links, 2);
        Story memory s = story(2, true);
        trace(id, s);
        walked(id, Trees.rows(s.leaves), 3);
        stage(id, s, 2);
        walked(id, Toy.rows(s.outputs[2]), 0);
        chunk(id, s.outputs[2], 0);
        silent(id);
        element(id, s.outputs[2], 0);
        silent(id);
        int256[] memory totals = Toy.folds(summed(s), 0, Toy.N);
        fold(id, s, totals);
        silent(id);
        pick(id, s, totals, 1, 0);
        silent(id);
        bytes32 range = game.dispute(id).node;
        bytes memory parts = split(id, s, 0);
        silent(id);
        choose(id, range, parts, 0);
        silent(id);
        item(id, s, totals);
        assertOutcome(id, Outcome.ASSERTER_WON);
        paid(id);
    }

    function pickedOutput() private {
        job = post();
        uint64 id = opened(challenger, drawn(job, 0), 2);
        Story memory s = story(2, true);
        toElement(id, s, 2, 0);
        int256[] memory totals = Toy.folds(summed(s), 0, Toy.N);
        fold(id, s, totals);
        pickOutput(id, s, totals);
        silent(id);
    }

    function end_() private {
        job = post();
        uint64 id = opened(challenger, drawn(job, 0), 5);
        Story memory s = story(5, true);
        trace(id, s);
        walked(id, Trees.rows(s.leaves), uint64(s.leaves.length - 1));
        end(id, s);
        walked(id, endRows(s), 0);
    }

    function batch_() private {
        job = post();
        uint64 id = opened(challenger, drawn(job, 0), 4);
        Story memory s = story(4, true);
        trace(id, s);
        walked(id, Trees.rows(s.leaves), 0);
        batch(id, s);
        walked(id, Toy.batchRows(s.x), 0);
        batchEntry(id, s);
        walked(id, Toy.rows(s.x), 0);
        chunk(id, s.x, 0);
        element(id, s.x, 0);
        silent(id);
    }
}
