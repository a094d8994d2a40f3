// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IJobsLog} from "../src/interfaces/IJobs.sol";
import {IDisputesLog} from "../src/interfaces/IDisputes.sol";
import {Outcome} from "../src/types/DisputeTypes.sol";
import {SegmentState, Terms} from "../src/types/Types.sol";
import {Arena} from "./utils/Arena.sol";

/// A concession for nothing, once in so many settled segments (here two): who gets it, when, and what it does not cover.
contract PardonsTest is Arena {
    /// Of the third segment, which is half as long.
    uint128 internal constant BOND = PRICE * 3;
    uint64 internal last;

    /// The job's first two segments of three have settled.
    function setUp() public override {
        super.setUp();
        last = settled(job, settled(job, 0));
    }

    function conceded(uint64 segment, address by, uint64 unit) internal returns (uint64 id) {
        id = opened(by, segment, unit);
        vm.prank(provider);
        game.concede(id);
        assertOutcome(id, Outcome.CONCEDED);
    }

    function test_settled_segments_are_counted() public view {
        assertEq(jobs.settledOf(provider), 2, "both");
        assertEq(jobs.settledOf(other), 0, "nobody else's");
    }

    function test_one_concession_costs_the_price_alone() public {
        uint64 segment = attested(job, last);
        uint64 id = opened(challenger, segment, 1);
        vm.expectEmit(true, true, true, true, address(jobs));
        emit IJobsLog.Pardoned(segment, 1, uint64(block.timestamp + 500));
        vm.prank(provider);
        game.concede(id);
        assertOutcome(id, Outcome.CONCEDED);
        assertEq(game.dispute(id).taken, 0, "nothing is taken");
        assertState(segment, SegmentState.REJECTED);
        assertEq(jobs.settledOf(provider), 0, "counted anew");
        paid(id);
        assertEq(game.credit(challenger), STAKED, "its bond");
        assertEq(token.balanceOf(BURN), 0, "nothing is burnt");
        assertEq(jobs.credit(provider), 2 * PRICE, "not paid for it");
        assertEq(stakes.reservation(provider, segment), BOND, "its bond stays");
        refused(segment);
        pass(jobs.segment(segment).settleAfter);
        game.clear(segment);
        assertEq(stakes.freeStake(provider), 2000e6, "free");
        assertMoney();
    }

    function refused(uint64 segment) internal {
        vm.expectPartialRevert(IDisputesLog.NothingToClear.selector);
        game.clear(segment);
    }

    function test_it_covers_one_link_and_the_others_stay_disputable() public {
        uint64 segment = attested(job, last);
        uint64 early = opened(second, segment, 1);
        conceded(segment, challenger, 1);
        vm.prank(provider);
        game.concede(early);
        assertEq(game.dispute(early).taken, 0, "the same link");
        mine(20);
        uint64 id = conceded(segment, second, 2);
        assertEq(game.dispute(id).taken, BOND / 2, "another link");
        paid(id);
        assertEq(token.balanceOf(BURN), BOND / 2, "burnt");
        pass(jobs.segment(segment).settleAfter);
        game.clear(segment);
        vm.expectPartialRevert(IJobsLog.WrongState.selector);
        vm.prank(challenger);
        game.seal(segment, SALT);
        assertMoney();
    }

    function test_whoever_is_pardoned_can_still_lose_all() public {
        uint64 segment = attested(job, last);
        conceded(segment, challenger, 1);
        uint64 id = opened(second, segment, 2);
        pass(game.dueOf(id));
        game.timeout(id);
        assertEq(game.dispute(id).taken, BOND, "all of it");
        paid(id);
        assertMoney();
    }

    function test_a_withheld_segment_stays_withheld_and_disputable() public {
        uint64 segment = withheld(job, last);
        pass(jobs.segment(segment).settleAfter - 10);
        conceded(segment, challenger, 1);
        assertState(segment, SegmentState.WITHHELD);
        assertEq(jobs.segment(segment).settleAfter, block.timestamp + 500, "another window");
        assertEq(game.dispute(1).taken, 0, "nothing is taken");
    }

    function test_nobody_is_pardoned_before_the_seals_are_over() public {
        uint64 segment = drawn(job, last);
        uint64 id = conceded(segment, challenger, 1);
        assertEq(game.dispute(id).taken, BOND / 2, "drawn");
        assertEq(jobs.settledOf(provider), 2, "kept");
        segment = served(job, last);
        id = conceded(segment, challenger, 1);
        assertEq(game.dispute(id).taken, BOND / 2, "served");
        segment = served(job, last);
        pass(jobs.segment(segment).sealBy);
        id = conceded(segment, challenger, 1);
        assertEq(game.dispute(id).taken, 0, "the seals are over");
        assertMoney();
    }

    function test_a_walk_that_has_not_come_to_a_link_is_not_pardoned() public {
        uint64 segment = attested(job, last);
        uint64 id = conceded(segment, challenger, NO_UNIT);
        assertEq(game.dispute(id).taken, BOND / 2, "which link?");
    }

    function test_every_pardon_needs_its_own_settled_segments() public {
        uint64 other_ = post();
        uint64 segment = settled(other_, 0);
        uint64 next = attested(other_, segment);
        uint64 id = conceded(next, challenger, 1);
        assertEq(game.dispute(id).taken, 0, "of three settled");
        next = attested(other_, segment);
        id = conceded(next, second, 1);
        assertEq(game.dispute(id).taken, PRICE * 3, "the next needs two more");
    }

    function test_nobody_is_pardoned_where_one_link_is_drawn() public {
        Terms memory t = terms();
        t.params.links = 1;
        vm.prank(client);
        uint64 segment = attested(jobs.post(t), 0);
        uint64 id = conceded(segment, challenger, 1);
        assertEq(game.dispute(id).taken, PRICE * 3, "the burn");
        assertEq(jobs.settledOf(provider), 2, "kept");
    }

    function test_only_disputes_pardons() public {
        vm.expectPartialRevert(IJobsLog.NotDisputes.selector);
        jobs.pardon(last, 1, 2);
    }
}
