// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Disputes} from "../src/Disputes.sol";
import {Clock} from "../src/dispute/Clock.sol";
import {Descent} from "../src/dispute/Descent.sol";
import {Verdict} from "../src/dispute/Verdict.sol";
import {IDisputesLog} from "../src/interfaces/IDisputes.sol";
import {IJobsLog} from "../src/interfaces/IJobs.sol";
import {Dispute, Outcome, Rules, Stand} from "../src/types/DisputeTypes.sol";
import {Reveal, SegmentState} from "../src/types/Types.sol";
import {Arena} from "./utils/Arena.sol";
import {OddLeaf} from "./utils/MockLeaf.sol";
import {Toy} from "./utils/Toy.sol";
import {Trees} from "./utils/Trees.sol";

/// Bonds, clocks, outcomes and payments; several disputes at once; what becomes of the segment.
/// One file because every test moves the money of one arena.
contract DisputeMoneyTest is Arena {
    uint128 internal constant BOND = PRICE * 6;

    function refused(bytes4 error_) internal {
        vm.expectPartialRevert(error_);
    }

    function lost(uint64 id) internal {
        pass(game.dueOf(id));
        game.timeout(id);
    }

    // ---- beginning

    function test_a_bond_doubles_with_open_disputes_but_for_the_drawn_and_the_client() public {
        uint64 segment = drawn(job, 0);
        assertEq(game.bondOf(segment, challenger), STAKED, "first");
        sealed_(challenger, segment, 2);
        sealed_(second, segment, 2);
        assertEq(game.bondOf(segment, challenger), 4 * STAKED, "third");
        assertEq(game.bondOf(segment, client), STAKED, "client");
        assertEq(game.bondOf(segment, committee(segment)[1]), STAKED, "drawn");
        uint256 before = token.balanceOf(stranger);
        sealed_(stranger, segment, 2);
        assertEq(before - token.balanceOf(stranger), 4 * STAKED, "paid");
        assertEq(jobs.segment(segment).disputes, 3, "open");
        assertMoney();
    }

    function test_what_cannot_be_disputed() public {
        uint64 a = committed(job, 0);
        refused(IJobsLog.WrongState.selector);
        vm.prank(challenger);
        game.seal(a, SALT);
        refused(IJobsLog.NoSuchSegment.selector);
        vm.prank(challenger);
        game.seal(99, SALT);
        refused(IDisputesLog.NoSuchDispute.selector);
        game.timeout(1);
    }

    function test_a_sealed_challenge_cannot_be_taken() public {
        uint64 segment = drawn(job, 0);
        uint64 id = sealed_(challenger, segment, 2);
        // A thief copies the digest before the challenge is opened, and the opening when it sees it.
        bytes32 seen = game.dispute(id).facts;
        vm.prank(second);
        uint64 stolen = game.seal(segment, seen);
        mine(1);
        refused(IDisputesLog.DigestMismatch.selector);
        vm.prank(second);
        game.open(stolen, 0, 2, address(0), 0, SALT);
        refused(IDisputesLog.NotPlayer.selector);
        vm.prank(second);
        game.open(id, 0, 2, address(0), 0, SALT);
        vm.prank(challenger);
        game.open(id, 0, 2, address(0), 0, SALT);
        assertStand(id, Stand.TRACED);
    }

    function test_opening_is_later_and_in_time_and_of_what_was_sealed() public {
        uint64 segment = drawn(job, 0);
        uint64 id = sealed_(challenger, segment, 2);
        vm.startPrank(challenger);
        refused(IDisputesLog.SameBlock.selector);
        game.open(id, 0, 2, address(0), 0, SALT);
        mine(1);
        refused(IDisputesLog.DigestMismatch.selector);
        game.open(id, 0, 1, address(0), 0, SALT);
        vm.warp(game.dueOf(id) + 1);
        refused(Clock.TooLate.selector);
        game.open(id, 0, 2, address(0), 0, SALT);
        vm.stopPrank();
        game.timeout(id);
        assertOutcome(id, Outcome.ASSERTER_WON);
        timeNow = block.timestamp;
        paid(id);
        assertEq(game.credit(provider), STAKED / 2, "the bond is lost");
        assertMoney();
    }

    function test_targets_that_do_not_exist() public {
        uint64 segment = drawn(job, 0);
        uint8[3] memory targets = [uint8(0), 1, 2];
        uint64[3] memory units = [uint64(12), NO_UNIT, 2];
        for (uint256 i = 0; i < 3; ++i) {
            bytes32 d = digest(segment, targets[i], units[i], address(0), 0, client);
            vm.prank(client);
            uint64 id = game.seal(segment, d);
            mine(1);
            refused(IDisputesLog.BadTarget.selector);
            vm.prank(client);
            game.open(id, targets[i], units[i], address(0), 0, SALT);
        }
    }

    // ---- ends

    function test_the_asserters_loss_is_its_whole_bond() public {
        uint64 segment = attested(job, 0);
        uint64 child = drawn(job, segment);
        uint64 id = opened(challenger, segment, 2);
        pass(jobs.segment(segment).settleAfter);
        refused(IJobsLog.DisputeOpen.selector);
        jobs.settle(segment);
        pass(game.dueOf(id));
        uint256 burntBefore = token.balanceOf(BURN);
        game.timeout(id);
        assertOutcome(id, Outcome.ASSERTER_LOST);
        assertState(segment, SegmentState.REJECTED);
        assertEq(stakes.stakeOf(provider), 2000e6 - BOND, "slashed");
        assertMoney();
        refused(Clock.TooEarly.selector);
        game.pay(id);
        paid(id);
        assertEq(token.balanceOf(BURN) - burntBefore, BOND / 2, "burnt");
        assertEq(game.credit(challenger), STAKED + BOND / 2, "the challenger's");
        refused(IDisputesLog.WrongTurn.selector);
        game.pay(id);
        uint256 before = token.balanceOf(challenger);
        vm.prank(challenger);
        game.withdraw();
        assertEq(token.balanceOf(challenger) - before, STAKED + BOND / 2, "pulled");
        refused(IDisputesLog.NothingToWithdraw.selector);
        vm.prank(challenger);
        game.withdraw();
        assertMoney();
        jobs.voidSegment(child);
        assertState(child, SegmentState.VOID);
        assertEq(stakes.reservation(provider, child), 0, "a descendant is unslashed");
        game.clear(segment);
        refused(IJobsLog.NoBond.selector);
        game.clear(segment);
        assigned(other, job, 0);
    }

    function test_the_challengers_loss() public {
        uint64 segment = attested(job, 0);
        uint64 id = opened(challenger, segment, 2);
        trace(id, story(2, true));
        lost(id);
        assertOutcome(id, Outcome.ASSERTER_WON);
        assertEq(jobs.segment(segment).disputes, 1, "it holds the segment until it is paid");
        paid(id);
        assertEq(game.credit(provider), STAKED / 2, "the asserter's half");
        assertEq(token.balanceOf(BURN), STAKED / 2, "burnt");
        assertEq(stakes.reservation(provider, segment), BOND, "its bond");
        pass(jobs.segment(segment).settleAfter);
        jobs.settle(segment);
        assertState(segment, SegmentState.SETTLED);
        assertMoney();
    }

    function test_concession_burns_half_the_bond_and_ends() public {
        uint64 segment = drawn(job, 0);
        uint64 id = opened(challenger, segment, 2);
        refused(IDisputesLog.NotPlayer.selector);
        vm.prank(challenger);
        game.concede(id);
        vm.prank(provider);
        game.concede(id);
        assertOutcome(id, Outcome.CONCEDED);
        assertState(segment, SegmentState.REJECTED);
        paid(id);
        assertEq(game.credit(challenger), STAKED, "only its bond");
        assertEq(token.balanceOf(BURN), BOND / 2, "burnt");
        game.clear(segment);
        assertEq(stakes.freeStake(provider), 2000e6 - BOND / 2, "the rest is free");
        assertMoney();
    }

    /// In a walk over the links the asserter learns at its end which one is meant.
    function test_a_concession_comes_before_the_trace() public {
        uint64 segment = drawn(job, 0);
        uint64 id = opened(challenger, segment, NO_UNIT);
        reveal(id, linkRows(segment));
        refused(IDisputesLog.WrongTurn.selector);
        vm.prank(provider);
        game.concede(id);
        pointTo(id, linkRows(segment), 0, 2);
        uint64 other_ = opened(second, segment, 1);
        trace(other_, story(1, true));
        refused(IDisputesLog.WrongTurn.selector);
        vm.prank(provider);
        game.concede(other_);
        vm.prank(provider);
        game.concede(id);
        assertOutcome(id, Outcome.CONCEDED);
        assertEq(game.dispute(id).taken, BOND / 2, "half of the bond");
    }

    function test_guardian_voids_what_the_asserter_won() public {
        uint64 segment = attested(job, 0);
        uint64 id = opened(challenger, segment, 2);
        refused(IDisputesLog.WrongTurn.selector);
        vm.prank(guardian);
        game.declareVoid(id);
        trace(id, story(2, true));
        lost(id);
        refused(IDisputesLog.NotGuardian.selector);
        game.declareVoid(id);
        vm.prank(guardian);
        game.declareVoid(id);
        assertEq(game.credit(challenger), STAKED, "bond back");
        assertState(segment, SegmentState.VOID);
        assertEq(stakes.freeStake(provider), 2000e6, "and the provider's");
        assertMoney();
    }

    function test_guardian_voids_what_the_asserter_lost_only_before_it_is_paid() public {
        uint64 segment = drawn(job, 0);
        uint64 id = opened(challenger, segment, 2);
        lost(id);
        uint256 due = game.dueOf(id);
        vm.warp(due + 1);
        refused(Clock.TooLate.selector);
        vm.prank(guardian);
        game.declareVoid(id);
        vm.warp(due);
        vm.prank(guardian);
        game.declareVoid(id);
        assertEq(game.credit(provider), BOND, "the provider has it back");
        assertEq(game.credit(challenger), STAKED, "bond back");
        assertState(segment, SegmentState.REJECTED);
        assertEq(token.balanceOf(BURN), 0, "nothing burnt");
        assertMoney();
    }

    function test_leaves_that_differ_make_it_void() public {
        uint64 segment = drawn(job, 0);
        vm.etch(address(verdict.tableLeaf()), address(new OddLeaf()).code);
        uint64 id = opened(challenger, segment, 2);
        uint64 beside = opened(second, segment, 1);
        Story memory s = story(2, true);
        toElement(id, s, 0, 5);
        prove(id, s, 0, 5);
        assertOutcome(id, Outcome.VOID);
        assertStand(id, Stand.PAID);
        assertEq(game.credit(challenger), STAKED, "bond back");
        assertState(segment, SegmentState.DRAWN);
        vm.prank(guardian);
        refused(IDisputesLog.WrongTurn.selector);
        game.declareVoid(id);
        trace(beside, story(1, true));
        walk(beside, Trees.rows(story(1, true).leaves), 2);
        stage(beside, story(1, true), 1);
        walk(beside, Toy.rows(story(1, true).outputs[1]), 0);
        chunk(beside, story(1, true).outputs[1], 0);
        element(beside, story(1, true).outputs[1], 4);
        prove(beside, story(1, true), 1, 4);
        assertState(segment, SegmentState.VOID);
        assertEq(stakes.freeStake(provider), 2000e6, "nobody is slashed");
        assertMoney();
    }

    // ---- several at once

    function test_one_of_several_loses_and_the_others_go_on() public {
        uint64 segment = drawn(job, 0);
        uint64 a = opened(challenger, segment, 2);
        uint64 b = opened(second, segment, 1);
        uint64 c = opened(stranger, segment, 2);
        trace(a, story(2, true));
        trace(b, story(1, true));
        lost(a);
        assertOutcome(a, Outcome.ASSERTER_WON);
        lost(c);
        assertOutcome(c, Outcome.ASSERTER_LOST);
        assertState(segment, SegmentState.REJECTED);
        assertStand(b, Stand.TRACE);
        game.timeout(b);
        assertOutcome(b, Outcome.ASSERTER_WON);
        refused(IJobsLog.DisputeOpen.selector);
        game.clear(segment);
        paid(a);
        paid(b);
        paid(c);
        assertEq(game.credit(provider), STAKED / 2 + STAKED, "two challengers lost");
        assertEq(game.credit(stranger), 4 * STAKED + BOND / 2, "one won");
        assertMoney();
    }

    function test_who_wins_second_has_its_bond_back() public {
        uint64 segment = drawn(job, 0);
        uint64 a = opened(challenger, segment, 2);
        uint64 b = opened(second, segment, 2);
        lost(a);
        lost(b);
        assertOutcome(b, Outcome.ASSERTER_LOST);
        paid(a);
        paid(b);
        assertEq(game.credit(challenger), STAKED + BOND / 2, "first");
        assertEq(game.credit(second), 2 * STAKED, "second");
        assertMoney();
    }

    function test_a_withheld_segment_is_disputed_or_cleared_after_its_window() public {
        uint64 a = withheld(job, 0);
        refused(IDisputesLog.NothingToClear.selector);
        game.clear(a);
        uint64 id = opened(challenger, a, 2);
        lost(id);
        assertState(a, SegmentState.WITHHELD);
        assertEq(stakes.reservation(provider, a), 0, "slashed");
        uint64 b = withheld(job, 0);
        pass(jobs.segment(b).settleAfter);
        game.clear(b);
        assertEq(stakes.reservation(provider, b), 0, "free");
        assertEq(stakes.freeStake(provider), 2000e6 - BOND, "only one was slashed");
    }

    // ---- votes

    /// A dispute over the vote of a verifier that saw `story`.
    function disputeVote(uint64 segment, address who, uint256 story) internal returns (uint64 id) {
        Reveal memory v = vote(segment, who, true, story);
        jobs.disclose(segment, 0, who, v.traceRoots, v.salt);
        uint64 unit = jobs.unitsOf(segment)[0];
        bytes32 d = digest(segment, 1, unit, who, 0, challenger);
        vm.prank(challenger);
        id = game.seal(segment, d);
        mine(1);
        vm.prank(challenger);
        game.open(id, 1, unit, who, 0, SALT);
    }

    function revealed() internal returns (uint64 id) {
        id = served(job, 0);
        address[] memory who = committee(id);
        for (uint256 i = 0; i < 3; ++i) {
            seal(id, vote(id, who[i], true, i));
        }
        for (uint256 i = 0; i < 3; ++i) {
            reveal(id, vote(id, who[i], true, i));
        }
    }

    function test_a_false_vote_costs_its_draw_bond_and_nobody_elses() public {
        uint64 segment = revealed();
        address who = committee(segment)[0];
        uint64 id = disputeVote(segment, who, 0);
        assertEq(game.dispute(id).asserter, who, "asserter");
        assertEq(game.dispute(id).node, traceRoots(segment, 0)[0], "its root");
        lost(id);
        assertState(segment, SegmentState.SERVED);
        assertEq(jobs.segment(segment).disputes, 0, "no dispute is open");
        assertEq(stakes.stakeOf(who), 200e6 - DRAW_BOND, "slashed");
        assertEq(stakes.reservation(provider, segment), BOND, "the provider's bond");
        assertTrue(!jobs.checksOf(segment, 0)[0].revealed, "the vote is gone");
        paid(id);
        assertEq(game.credit(challenger), STAKED + DRAW_BOND / 2, "the challenger's");
        assertMoney();
    }

    /// Seals a dispute over the vote of a verifier.
    function sealOverVote(address by, uint64 segment, address who) internal returns (uint64 id) {
        bytes32 d = digest(segment, 1, jobs.unitsOf(segment)[0], who, 0, by);
        vm.prank(by);
        id = game.seal(segment, d);
        mine(1);
    }

    function openOverVote(address by, uint64 id, address who) internal {
        uint64 unit = jobs.unitsOf(game.dispute(id).segment)[0];
        vm.prank(by);
        game.open(id, 1, unit, who, 0, SALT);
    }

    function test_who_sealed_before_the_vote_fell_has_its_bond_back() public {
        uint64 segment = revealed();
        address who = committee(segment)[0];
        uint64 id = disputeVote(segment, who, 0);
        uint64 late = sealOverVote(second, segment, who);
        vm.prank(who);
        game.concede(id);
        openOverVote(second, late, who);
        assertOutcome(late, Outcome.VOID);
        assertStand(late, Stand.PAID);
        assertEq(game.credit(second), 2 * STAKED, "all of it");
        assertEq(jobs.segment(segment).disputes, 0, "it holds the segment no longer");
        assertState(segment, SegmentState.SERVED);
        mine(1);
        uint64 later = sealOverVote(second, segment, who);
        uint64 unit = jobs.unitsOf(segment)[0];
        vm.expectPartialRevert(IJobsLog.NotRevealed.selector);
        vm.prank(second);
        game.open(later, 1, unit, who, 0, SALT);
        assertMoney();
    }

    function test_who_sealed_before_the_segment_ended_has_its_bond_back() public {
        uint64 segment = revealed();
        address who = committee(segment)[0];
        uint64 late = sealOverVote(second, segment, who);
        uint64 id = opened(challenger, segment, 2);
        vm.prank(provider);
        game.concede(id);
        assertState(segment, SegmentState.REJECTED);
        openOverVote(second, late, who);
        assertOutcome(late, Outcome.VOID);
        assertEq(game.credit(second), STAKED, "all of it");
        assertEq(stakes.stakeOf(who), 200e6, "the verifier loses nothing");
        game.clear(segment);
        assertMoney();
    }

    function test_who_seals_over_a_withheld_segments_votes_knows_that_they_are_free() public {
        uint64 segment = withheld(job, 0);
        address who = committee(segment)[2];
        mine(5);
        uint64 id = sealOverVote(second, segment, who);
        uint64 unit = jobs.unitsOf(segment)[0];
        vm.expectPartialRevert(IJobsLog.NoBond.selector);
        vm.prank(second);
        game.open(id, 1, unit, who, 0, SALT);
    }

    // ---- those who said no

    function test_a_dispute_bears_out_those_who_said_no_to_a_withheld_segment() public {
        uint64 before = uint64(escrow(job));
        uint64 segment = withheld(job, 0);
        address[] memory who = committee(segment);
        assertEq(jobs.segment(segment).feesHeld, 2 * FEE, "held for two");
        assertEq(escrow(job), before - 2 * FEE, "the rest is back");
        uint64 id = opened(challenger, segment, 2);
        vm.prank(provider);
        game.concede(id);
        assertEq(jobs.credit(who[0]), FEE, "a no");
        assertEq(jobs.credit(who[1]), FEE, "another");
        assertEq(jobs.credit(who[2]), 0, "a yes");
        assertEq(jobs.segment(segment).feesHeld, 0, "nothing is held");
        pass(jobs.segment(segment).settleAfter);
        game.clear(segment);
        assertEq(escrow(job), before - 2 * FEE, "paid once");
    }

    function test_a_no_that_nobody_bears_out_is_not_paid() public {
        uint64 before = uint64(escrow(job));
        uint64 segment = withheld(job, 0);
        pass(jobs.segment(segment).settleAfter);
        game.clear(segment);
        assertEq(escrow(job), before, "all is back");
        segment = withheld(job, 0);
        vm.startPrank(client);
        jobs.cancel(job);
        jobs.close(job);
        vm.stopPrank();
        assertEq(jobs.credit(client), before - 2 * FEE, "less what is held");
        pass(jobs.segment(segment).settleAfter);
        game.clear(segment);
        assertEq(jobs.credit(client), before, "all of it");
    }

    // ---- time for a replay

    function test_each_open_dispute_is_given_the_time_of_a_replay() public {
        uint64 segment = drawn(job, 0);
        uint64 a = opened(challenger, segment, 2);
        assertEq(game.dueOf(a), block.timestamp + 200 + GRACE + BUDGET_TIME, "of the first");
        uint64 b = opened(second, segment, 1);
        assertEq(game.dueOf(b), block.timestamp + 400 + GRACE + BUDGET_TIME, "of the second");
        uint64 c = opened(stranger, segment, NO_UNIT);
        assertEq(game.dueOf(c), block.timestamp + GRACE + BUDGET_TIME, "a walk replays nothing");
        reveal(c, linkRows(segment));
        pointTo(c, linkRows(segment), 0, 2);
        assertEq(game.dueOf(c), block.timestamp + 600 + GRACE + BUDGET_TIME, "its end does");
        pass(block.timestamp + 650);
        trace(c, story(2, true));
        assertEq(game.dispute(c).asserterBudget, BUDGET_TIME, "nothing of its budget is spent");
    }

    function test_a_draw_bond_stays_while_its_vote_is_disputed() public {
        uint64 segment = revealed();
        address[] memory who = committee(segment);
        uint64 vote_ = disputeVote(segment, who[0], 0);
        uint64 honest = disputeVote(segment, who[1], 1);
        uint64 id = opened(second, segment, 2);
        vm.prank(provider);
        game.concede(id);
        assertState(segment, SegmentState.REJECTED);
        assertEq(stakes.reservation(who[0], segment), DRAW_BOND, "held");
        assertEq(stakes.reservation(who[1], segment), DRAW_BOND, "held, too");
        assertEq(stakes.reservation(who[2], segment), 0, "free");
        lost(vote_);
        assertEq(stakes.stakeOf(who[0]), 200e6 - DRAW_BOND, "slashed");
        vm.prank(who[1]);
        game.concede(honest);
        assertEq(stakes.reservation(who[1], segment), 0, "free");
        assertEq(stakes.stakeOf(who[1]), 200e6 - DRAW_BOND / 2, "half");
    }

    function test_a_vote_revealed_by_the_call_that_decides_can_be_disputed() public {
        uint64 segment = served(job, 0);
        address[] memory who = committee(segment);
        for (uint256 i = 0; i < 3; ++i) {
            seal(segment, vote(segment, who[i], true, i));
        }
        mine(3);
        Reveal[] memory votes = new Reveal[](3);
        for (uint256 i = 0; i < 3; ++i) {
            votes[i] = fullVote(segment, who[i], true, i);
        }
        jobs.reveal(segment, votes);
        assertState(segment, SegmentState.COMMITTED);
        mine(3);
        jobs.draw(segment);
        refused(IJobsLog.DigestMismatch.selector);
        jobs.disclose(segment, 0, who[1], votes[1].traceRoots, 0);
        refused(IJobsLog.DigestMismatch.selector);
        jobs.disclose(segment, 0, who[1], votes[0].traceRoots, votes[1].salt);
        jobs.disclose(segment, 0, who[1], votes[1].traceRoots, votes[1].salt);
        bytes32 d = digest(segment, 1, jobs.unitsOf(segment)[1], who[1], 0, challenger);
        vm.prank(challenger);
        uint64 id = game.seal(segment, d);
        mine(1);
        uint64 unit = jobs.unitsOf(segment)[1];
        vm.prank(challenger);
        game.open(id, 1, unit, who[1], 0, SALT);
        assertEq(game.dispute(id).node, votes[1].traceRoots[unit == jobs.unitsOf(segment)[0] ? 0 : 1], "its root");
        lost(id);
        assertEq(stakes.stakeOf(who[1]), 200e6 - DRAW_BOND, "slashed");
        assertMoney();
    }

    function test_votes_that_cannot_be_disputed() public {
        uint64 segment = served(job, 0);
        address[] memory drawn_ = committee(segment);
        for (uint256 i = 0; i < 3; ++i) {
            seal(segment, vote(segment, drawn_[i], i > 0, i));
        }
        reveal(segment, vote(segment, drawn_[0], false, 0));
        reveal(segment, vote(segment, drawn_[1], true, 1));
        uint64[] memory units = jobs.unitsOf(segment);
        uint64 absent = 0;
        while (absent == units[0] || absent == units[1]) ++absent;
        bytes32[] memory roots = traceRoots(segment, 1);
        refused(IJobsLog.NotRevealed.selector);
        jobs.disclose(segment, 0, drawn_[2], roots, 0);
        refused(IJobsLog.DigestMismatch.selector);
        jobs.disclose(segment, 0, drawn_[0], roots, 0);
        refused(IJobsLog.NotDrawn.selector);
        jobs.disclose(segment, 1, drawn_[1], roots, 0);
        uint64 over = settled(post(), 0);
        address free = committee(over)[0];
        Reveal memory v = vote(over, free, true, 0);
        refused(IJobsLog.NoBond.selector);
        jobs.disclose(over, 0, free, v.traceRoots, v.salt);
        // Not drawn; said no; has not revealed; its roots have not been brought; said nothing of this unit.
        address[5] memory who = [stranger, drawn_[0], drawn_[2], drawn_[1], drawn_[1]];
        bytes4[5] memory errors = [
            IJobsLog.NotDrawn.selector,
            IJobsLog.NotRevealed.selector,
            IJobsLog.NotRevealed.selector,
            IJobsLog.NotDisclosed.selector,
            IJobsLog.NotDrawnUnit.selector
        ];
        for (uint256 i = 0; i < 5; ++i) {
            if (i == 4) jobs.disclose(segment, 0, drawn_[1], roots, 0);
            uint64 unit = i == 4 ? absent : units[0];
            bytes32 d = digest(segment, 1, unit, who[i], 0, client);
            vm.prank(client);
            uint64 id = game.seal(segment, d);
            mine(1);
            refused(errors[i]);
            vm.prank(client);
            game.open(id, 1, unit, who[i], 0, SALT);
        }
    }

    // ---- modules

    function test_the_parts_belong_together() public {
        Rules memory r = rules();
        Descent descent = new Descent(address(jobs), r, address(0));
        address clear_ = address(verdict.clearLeaf());
        refused(IDisputesLog.WrongModule.selector);
        new Verdict(address(jobs), r, clear_, clear_);
        r.grace += 1;
        refused(IDisputesLog.WrongModule.selector);
        new Disputes(address(jobs), r, address(descent), address(verdict));
        Descent later = new Descent(address(jobs), r, address(0));
        refused(IDisputesLog.WrongModule.selector);
        new Disputes(address(jobs), r, address(later), address(verdict));
        r.grace = 0;
        refused(IDisputesLog.BadRules.selector);
        new Descent(address(jobs), r, address(0));
        assertTrue(game.disputable(), "disputable");
    }
}
