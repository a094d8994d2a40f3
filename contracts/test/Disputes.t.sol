// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IDisputesLog} from "../src/interfaces/IDisputes.sol";
import {Dispute, Outcome, Stand} from "../src/types/DisputeTypes.sol";
import {SegmentState} from "../src/types/Types.sol";
import {Arena} from "./utils/Arena.sol";
import {Toy} from "./utils/Toy.sol";
import {Trees} from "./utils/Trees.sol";

/// The game to its end, along every path: the truth wins, and every lie loses where it is.
contract DisputesTest is Arena {
    function lie(uint64 unit, uint32 where, uint64 which) internal {
        (lieUnit, lieStage, lieElement) = (unit, where, which);
    }

    // ---- elements without folds

    function playElement(uint64 unit, uint32 i, uint64 which) internal returns (uint64 id, uint64 segment) {
        segment = drawn(job, 0);
        id = opened(challenger, segment, unit);
        Story memory s = story(unit, true);
        toElement(id, s, i, which);
        prove(id, s, i, which);
    }

    function test_a_false_sum_loses() public {
        lie(2, 0, 299);
        (uint64 id, uint64 segment) = playElement(2, 0, 299);
        assertOutcome(id, Outcome.ASSERTER_LOST);
        assertState(segment, SegmentState.REJECTED);
    }

    function test_a_true_element_wins_with_every_kind_of_operand() public {
        uint64 segment = drawn(job, 0);
        // Unit and stage: state and accumulator; schedule; counter; constant; zeros and batch; state's entry of the same name.
        uint64[2][7] memory all = [[uint64(5), 0], [uint64(5), 1], [uint64(5), 3], [uint64(5), 4], [uint64(0), 0], [uint64(0), 1], [uint64(1), 1]];
        for (uint256 k = 0; k < all.length; ++k) {
            uint32 i = uint32(all[k][1]);
            uint64 id = opened(challenger, segment, all[k][0]);
            Story memory s = story(all[k][0], true);
            uint64 which = uint64(s.outputs[i].length - 1);
            toElement(id, s, i, which);
            prove(id, s, i, which);
            assertOutcome(id, Outcome.ASSERTER_WON);
            paid(id);
        }
        assertState(segment, SegmentState.DRAWN);
        assertMoney();
    }

    function test_a_lie_in_each_stage_loses_there() public {
        uint32[5] memory where = [uint32(0), 1, 3, 4, 19];
        for (uint256 k = 0; k < where.length; ++k) {
            lie(2, where[k], 14 * where[k]);
            job = post();
            (uint64 id,) = playElement(2, where[k], 14 * where[k]);
            assertOutcome(id, Outcome.ASSERTER_LOST);
        }
    }

    function test_through_the_links() public {
        lie(2, 0, 1);
        uint64 segment = drawn(job, 0);
        uint64 id = opened(challenger, segment, NO_UNIT);
        assertStand(id, Stand.LINKS);
        bytes32[][] memory rows = linkRows(segment);
        reveal(id, rows);
        walk(id, rows, 2);
        assertStand(id, Stand.TRACED);
        assertEq(game.dispute(id).index, 2, "unit");
        Story memory s = story(2, true);
        toElement(id, s, 0, 1);
        prove(id, s, 0, 1);
        assertOutcome(id, Outcome.ASSERTER_LOST);
    }

    // ---- folds

    function playFold(uint64 unit, int256 more, uint256 which, uint256 where) internal returns (uint64 id) {
        uint64 segment = drawn(job, 0);
        id = opened(challenger, segment, unit);
        Story memory s = story(unit, true);
        toElement(id, s, 2, 0);
        int256[] memory totals = Toy.folds(summed(s), 0, Toy.N);
        falseItem = uint64(where);
        totals[which] += more;
        fold(id, s, totals);
        pick(id, s, totals, which, partWith(where, summed(s).length));
        while (true) {
            Dispute memory d = game.dispute(id);
            if (d.hi - d.lo == 1) break;
            uint256 part = partWith(where - d.lo, d.hi - d.lo);
            choose(id, d.node, split(id, s, part), part);
        }
        assertEq(game.dispute(id).lo, where, "the item");
        item(id, s, totals);
    }

    function test_a_true_fold_wins_at_any_item() public {
        assertOutcome(playFold(2, 0, 1, 0), Outcome.ASSERTER_WON);
        job = post();
        assertOutcome(playFold(0, 0, 1, 299), Outcome.ASSERTER_WON);
    }

    function test_a_false_total_loses_at_its_item() public {
        lie(2, 2, 0);
        uint32[] memory a = story(2, false).outputs[1];
        int256 more = int256(uint256(Toy.sum(a)[0] ^ 1)) - int256(uint256(Toy.sum(a)[0]));
        assertOutcome(playFold(2, more, 1, 177), Outcome.ASSERTER_LOST);
    }

    function playOutput(uint64 unit) internal returns (uint64 id) {
        uint64 segment = drawn(job, 0);
        id = opened(challenger, segment, unit);
        Story memory s = story(unit, true);
        toElement(id, s, 2, 0);
        int256[] memory totals = Toy.folds(summed(s), 0, Toy.N);
        fold(id, s, totals);
        pickOutput(id, s, totals);
        assertStand(id, Stand.FINISH);
        finish(id, s, totals);
    }

    function test_totals_that_do_not_make_the_output_lose() public {
        assertOutcome(playOutput(2), Outcome.ASSERTER_WON);
        lie(2, 2, 0);
        job = post();
        assertOutcome(playOutput(2), Outcome.ASSERTER_LOST);
    }

    // ---- ends

    function playEnd(uint64 unit, uint64 place) internal returns (uint64 id, Story memory s) {
        id = opened(challenger, drawn(job, 0), unit);
        s = story(unit, true);
        trace(id, s);
        walk(id, Trees.rows(s.leaves), uint64(s.leaves.length - 1));
        assertStand(id, Stand.END);
        end(id, s);
        walk(id, endRows(s), place);
    }

    function test_true_entries_of_the_end_win() public {
        uint64[2] memory units = [uint64(5), 1];
        for (uint256 k = 0; k < 2; ++k) {
            for (uint64 place = 0; place < 2; ++place) {
                job = post();
                (uint64 id, Story memory s) = playEnd(units[k], place);
                endEntry(id, s, place, place == 0 ? Toy.root(Toy.vector(Toy.N), s.endFirst) : Toy.root(Toy.vector(5), s.z));
                assertOutcome(id, Outcome.ASSERTER_WON);
            }
        }
    }

    function test_a_false_entry_of_the_end_cannot_be_shown() public {
        lie(5, END_LIE, 3);
        (uint64 id, Story memory s) = playEnd(5, 0);
        bytes32 root = Toy.root(Toy.vector(Toy.N), s.endFirst);
        bytes32 other_ = Toy.root(Toy.vector(Toy.N), s.outputs[4]);
        vm.expectPartialRevert(bytes4(keccak256("BadOpening(string)")));
        this.endEntry_(id, s, 0, root);
        vm.expectRevert(abi.encodeWithSelector(IDisputesLog.BadRoot.selector, "the entry of the link's end"));
        this.endEntry_(id, s, 0, other_);
        pass(game.dueOf(id));
        game.timeout(id);
        assertOutcome(id, Outcome.ASSERTER_LOST);
    }

    function endEntry_(uint64 id, Story memory s, uint64 place, bytes32 root) external {
        endEntry(id, s, place, root);
    }

    // ---- batches

    function playBatch(uint64 unit, uint64 which) internal returns (uint64 id) {
        id = opened(challenger, drawn(job, 0), unit);
        Story memory s = story(unit, true);
        trace(id, s);
        walk(id, Trees.rows(s.leaves), 0);
        assertStand(id, Stand.BATCH);
        batch(id, s);
        walk(id, Toy.batchRows(s.x), 0);
        batchEntry(id, s);
        toNamed(id, Toy.rows(s.x), s.x, which);
        assertStand(id, Stand.RECORD);
        gather(id, s, which);
    }

    function test_a_true_batch_wins() public {
        assertOutcome(playBatch(4, 299), Outcome.ASSERTER_WON);
        job = post();
        assertOutcome(playBatch(0, 0), Outcome.ASSERTER_WON);
    }

    function test_a_false_batch_loses() public {
        lie(1, BATCH_LIE, 151);
        assertOutcome(playBatch(1, 151), Outcome.ASSERTER_LOST);
    }

    // ---- anywhere

    /// forge-config: default.fuzz.runs = 12
    function testFuzz_the_truth_wins_wherever_it_is_doubted(uint64 unit, uint32 i, uint64 which, bool lies) public {
        unit = uint64(bound(unit, 0, 5));
        bool update = unit % 3 == 2;
        i = uint32(bound(i, 0, update ? 19 : 1));
        if (update && i == 2) i = 3;
        which = uint64(bound(which, 0, !update && i == 1 ? 4 : Toy.N - 1));
        if (lies) lie(unit, i, which);
        (uint64 id, uint64 segment) = playElement(unit, i, which);
        assertOutcome(id, lies ? Outcome.ASSERTER_LOST : Outcome.ASSERTER_WON);
        paid(id);
        assertMoney();
        assertState(segment, lies ? SegmentState.REJECTED : SegmentState.DRAWN);
        assertEq(stakes.stakeOf(provider), lies ? 2000e6 - PRICE * 6 : 2000e6, "stake");
    }
}
