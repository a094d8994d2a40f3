// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IJobsLog} from "../src/interfaces/IJobs.sol";
import {Check, Opening, Phase, Reveal, SealedVote, SegmentState} from "../src/types/Types.sol";
import {Network} from "./utils/Network.sol";

contract CommitteeTest is Network {
    uint64 internal job;

    function setUp() public override {
        super.setUp();
        job = post();
    }

    function refused(bytes memory reason) internal {
        vm.expectRevert(reason);
    }

    function wrongPhase(uint64 id, Phase phase) internal {
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.WrongPhase.selector, id, phase));
    }

    // ---- seal

    function test_seal_by_signature_or_by_oneself() public {
        uint64 id = served(job, 0);
        address[] memory who = committee(id);
        SealedVote[] memory seals = new SealedVote[](2);
        seals[0] = sealOf(id, vote(id, who[0], true, 0));
        seals[1] = sealOf(id, vote(id, who[1], true, 0));
        seals[1].signature = "";
        refused(abi.encodeWithSelector(IJobsLog.BadSignature.selector, who[1]));
        jobs.attest(id, seals);
        vm.prank(who[1]);
        jobs.attest(id, seals);
        seals[0].digest = 0;
        jobs.attest(id, seals);
        assertEq(jobs.checksOf(id, 0)[0].vote, digestOf(id, vote(id, who[0], true, 0)), "the first seal counts");
        SealedVote[] memory strange = new SealedVote[](1);
        strange[0] = SealedVote(provider, 0, "");
        refused(abi.encodeWithSelector(IJobsLog.NotDrawn.selector, id, provider));
        jobs.attest(id, strange);
        strange[0] = sealOf(id, vote(id, who[2], true, 0));
        uint64 by = jobs.segment(id).sealBy;
        vm.warp(by + 1);
        refused(abi.encodeWithSelector(IJobsLog.TooLate.selector, by, by + 1));
        jobs.attest(id, strange);
        vm.warp(by);
        vm.expectEmit(true, true, true, true, address(jobs));
        emit IJobsLog.RevealsDue(id, by + 100, uint64(blockNow + 2));
        jobs.attest(id, strange);
        wrongPhase(id, Phase.REVEAL);
        jobs.attest(id, strange);
    }

    function test_a_seal_is_bound_to_segment_round_and_digest() public {
        uint64 id = served(job, 0);
        address who = committee(id)[0];
        SealedVote[] memory seals = new SealedVote[](1);
        seals[0] = sealOf(id, vote(id, who, true, 0));
        seals[0].digest = bytes32(uint256(seals[0].digest) ^ 1);
        refused(abi.encodeWithSelector(IJobsLog.BadSignature.selector, who));
        jobs.attest(id, seals);
        bytes32 kind = keccak256("Seal(uint64 segment,uint32 round,bytes32 digest)");
        seals[0].signature = signed(keyOf(who), keccak256(abi.encode(kind, id, uint32(1), seals[0].digest)));
        refused(abi.encodeWithSelector(IJobsLog.BadSignature.selector, who));
        jobs.attest(id, seals);
        seals[0].signature = signed(keyOf(who), keccak256(abi.encode(kind, id + 1, uint32(0), seals[0].digest)));
        refused(abi.encodeWithSelector(IJobsLog.BadSignature.selector, who));
        jobs.attest(id, seals);
    }

    // ---- reveal

    function test_reveal_only_what_was_sealed_in_its_time() public {
        uint64 id = served(job, 0);
        address[] memory who = committee(id);
        seal(id, vote(id, who[0], true, 0));
        seal(id, vote(id, who[1], false, 1));
        Reveal[] memory votes = new Reveal[](1);
        votes[0] = vote(id, who[0], true, 0);
        uint64 by = jobs.segment(id).sealBy;
        refused(abi.encodeWithSelector(IJobsLog.TooEarly.selector, by, uint64(timeNow)));
        jobs.reveal(id, votes);
        refused(abi.encodeWithSelector(IJobsLog.TooEarly.selector, by, uint64(timeNow)));
        jobs.closeReveals(id);
        pass(by);
        votes[0].agrees = false;
        refused(abi.encodeWithSelector(IJobsLog.DigestMismatch.selector, who[0]));
        jobs.reveal(id, votes);
        votes[0] = vote(id, who[0], true, 2);
        refused(abi.encodeWithSelector(IJobsLog.DigestMismatch.selector, who[0]));
        jobs.reveal(id, votes);
        votes[0].traceRoots = new bytes32[](1);
        refused(abi.encodeWithSelector(IJobsLog.LengthMismatch.selector, 2, 1));
        jobs.reveal(id, votes);
        votes[0] = vote(id, who[2], true, 0);
        refused(abi.encodeWithSelector(IJobsLog.NotSealed.selector, who[2]));
        jobs.reveal(id, votes);
        reveal(id, vote(id, who[0], true, 0));
        reveal(id, vote(id, who[0], true, 0));
        bytes32 roots = keccak256(abi.encodePacked(vote(id, who[0], true, 0).traceRoots));
        assertEq(jobs.checksOf(id, 0)[0].vote, roots, "once");
        uint64 until = jobs.segment(id).revealBy;
        assertEq(until, by + 100, "reveal by");
        refused(abi.encodeWithSelector(IJobsLog.TooEarly.selector, until, uint64(timeNow)));
        jobs.closeReveals(id);
        pass(until);
        votes[0] = vote(id, who[1], false, 1);
        refused(abi.encodeWithSelector(IJobsLog.TooLate.selector, until, uint64(timeNow)));
        jobs.reveal(id, votes);
        vm.expectEmit(true, true, true, true, address(jobs));
        emit IJobsLog.OpeningsDue(id, uint64(blockNow + 2), uint64(timeNow + 100));
        jobs.closeReveals(id);
        wrongPhase(id, Phase.OPEN);
        jobs.closeReveals(id);
        refused(abi.encodeWithSelector(IJobsLog.NotRevealed.selector, who[1]));
        jobs.reveal(id, votes);
    }

    function test_a_copied_digest_reveals_nothing() public {
        uint64 id = served(job, 0);
        address[] memory who = committee(id);
        Reveal memory honest = vote(id, who[0], true, 0);
        seal(id, honest);
        // The copyist seals the same digest; the address is in what it hashes.
        SealedVote[] memory copy = new SealedVote[](1);
        copy[0] = SealedVote(who[1], digestOf(id, honest), "");
        vm.prank(who[1]);
        jobs.attest(id, copy);
        pass(jobs.segment(id).sealBy);
        Reveal[] memory votes = new Reveal[](1);
        votes[0] = Reveal(who[1], true, honest.traceRoots, honest.salt, honest.openings);
        refused(abi.encodeWithSelector(IJobsLog.DigestMismatch.selector, who[1]));
        jobs.reveal(id, votes);
    }

    function test_openings_start_when_all_who_sealed_have_revealed() public {
        uint64 id = served(job, 0);
        address[] memory who = committee(id);
        for (uint256 i = 0; i < 3; ++i) {
            seal(id, vote(id, who[i], true, 0));
        }
        assertEq(uint256(jobs.segment(id).phase), uint256(Phase.REVEAL), "all sealed");
        Reveal[] memory votes = new Reveal[](3);
        for (uint256 i = 0; i < 3; ++i) {
            votes[i] = vote(id, who[i], true, 0);
        }
        jobs.reveal(id, votes);
        assertEq(uint256(jobs.segment(id).phase), uint256(Phase.OPEN), "all revealed");
        assertEq(jobs.segment(id).openBy, timeNow + 100, "open by");
    }

    // ---- open

    function test_open_shows_the_leaves_that_the_opening_block_names() public {
        uint64 id = served(job, 0);
        address[] memory who = committee(id);
        for (uint256 i = 0; i < 3; ++i) {
            seal(id, vote(id, who[i], true, 0));
        }
        Reveal memory none = vote(id, who[0], true, 0);
        none.openings = new Opening[](2);
        uint64 due = jobs.segment(id).openingBlock;
        assertEq(due, blockNow + 2, "fixed with the last seal");
        assertEq(jobs.openingSeed(id), 0, "not yet");
        refused(abi.encodeWithSelector(IJobsLog.BlockTooEarly.selector, due, uint64(blockNow)));
        reveal(id, none);
        reveal(id, vote(id, who[0], true, 0));
        reveal(id, vote(id, who[1], true, 0));
        pass(jobs.segment(id).revealBy);
        jobs.closeReveals(id);
        assertEq(jobs.segment(id).openingBlock, due, "it stays");
        mine(3);
        none.verifier = who[2];
        refused(abi.encodeWithSelector(IJobsLog.NotRevealed.selector, who[2]));
        reveal(id, none);
        none.verifier = provider;
        refused(abi.encodeWithSelector(IJobsLog.NotDrawn.selector, id, provider));
        reveal(id, none);
        Reveal memory v = vote(id, who[0], true, 0);
        v.openings = new Opening[](1);
        refused(abi.encodeWithSelector(IJobsLog.LengthMismatch.selector, 2, 1));
        reveal(id, v);
        v.openings = openingsOf(id, who[0], 1);
        refused(abi.encodeWithSelector(IJobsLog.BadOpening.selector, who[0], 0));
        reveal(id, v);
        Reveal memory other_ = fullVote(id, who[0], true, 1);
        refused(abi.encodeWithSelector(IJobsLog.DigestMismatch.selector, who[0]));
        reveal(id, other_);
        v.openings = openingsOf(id, who[0], 0);
        v.openings[1].leaf = ~v.openings[1].leaf;
        refused(abi.encodeWithSelector(IJobsLog.BadOpening.selector, who[0], 1));
        reveal(id, v);
        Reveal memory good = fullVote(id, who[0], true, 0);
        vm.prank(stranger);
        reveal(id, good);
        reveal(id, v);
        assertTrue(jobs.checksOf(id, 0)[0].opened, "what is opened already is skipped");
        Reveal memory late = fullVote(id, who[1], true, 0);
        uint64 by = jobs.segment(id).openBy;
        pass(by);
        refused(abi.encodeWithSelector(IJobsLog.TooLate.selector, by, by + 1));
        reveal(id, late);
    }

    function test_votes_may_come_with_their_openings_in_one_batch() public {
        uint64 id = served(job, 0);
        address[] memory who = committee(id);
        for (uint256 i = 0; i < 3; ++i) {
            seal(id, vote(id, who[i], true, 0));
        }
        mine(3);
        Reveal[] memory votes = new Reveal[](3);
        for (uint256 i = 0; i < 3; ++i) {
            votes[i] = fullVote(id, who[i], true, 0);
        }
        // Who sends a part of it first, with or without its openings, spoils nothing.
        reveal(id, vote(id, who[1], true, 0));
        reveal(id, votes[0]);
        assertEq(jobs.openingSeed(id), hashOf(blockNow - 1), "recorded");
        vm.expectEmit(true, true, true, true, address(jobs));
        emit IJobsLog.Attested(id, uint64(timeNow + 500));
        jobs.reveal(id, votes);
        assertState(id, SegmentState.ATTESTED);
    }

    function test_openings_come_after_all_seals() public {
        uint64 id = served(job, 0);
        address[] memory who = committee(id);
        seal(id, vote(id, who[0], true, 0));
        seal(id, vote(id, who[1], true, 0));
        pass(jobs.segment(id).sealBy);
        mine(3);
        Reveal memory v = vote(id, who[0], true, 0);
        v.openings = new Opening[](2);
        wrongPhase(id, Phase.SEAL);
        reveal(id, v);
        reveal(id, vote(id, who[0], true, 0));
        reveal(id, vote(id, who[1], true, 0));
        assertEq(jobs.segment(id).openingBlock, blockNow + 2, "one did not seal: fixed when the others have revealed");
    }

    function test_the_first_open_records_the_hash_for_all() public {
        uint64 id = served(job, 0);
        address[] memory who = committee(id);
        for (uint256 i = 0; i < 3; ++i) {
            seal(id, vote(id, who[i], true, 0));
        }
        for (uint256 i = 0; i < 3; ++i) {
            reveal(id, vote(id, who[i], true, 0));
        }
        mine(3);
        open(id, who[0], 0);
        bytes32 seed = jobs.openingSeed(id);
        blockNow += 1000;
        vm.roll(blockNow);
        assertEq(jobs.openingSeed(id), seed, "recorded");
        open(id, who[1], 0);
    }

    // ---- decide

    function test_agreement_is_attested() public {
        uint64 id = attested(job, 0);
        assertState(id, SegmentState.ATTESTED);
        assertEq(jobs.segment(id).settleAfter, timeNow + 500, "window");
        assertEq(jobs.credit(provider), 0, "not paid yet");
        Check[] memory checks = jobs.checksOf(id, 0);
        for (uint256 i = 0; i < 3; ++i) {
            assertTrue(checks[i].prevailed, "yes side");
            assertEq(stakes.reservation(checks[i].verifier, id), DRAW_BOND, "still bonded");
        }
    }

    function test_decide_waits_for_openings() public {
        uint64 id = served(job, 0);
        wrongPhase(id, Phase.SEAL);
        jobs.decide(id);
        address[] memory who = committee(id);
        for (uint256 i = 0; i < 3; ++i) {
            seal(id, vote(id, who[i], true, 0));
        }
        for (uint256 i = 0; i < 3; ++i) {
            reveal(id, vote(id, who[i], true, 0));
        }
        mine(3);
        open(id, who[0], 0);
        open(id, who[1], 0);
        uint64 by = jobs.segment(id).openBy;
        refused(abi.encodeWithSelector(IJobsLog.TooEarly.selector, by, uint64(timeNow)));
        jobs.decide(id);
        pass(by);
        vm.expectEmit(true, true, true, true, address(jobs));
        emit IJobsLog.NoShow(id, who[2], DRAW_BOND / 10);
        jobs.decide(id);
        assertState(id, SegmentState.ATTESTED);
        assertEq(stakes.stakeOf(who[2]), 200e6 - DRAW_BOND / 10, "fee");
        assertEq(stakes.reservation(who[2], id), 0, "rest released");
        assertEq(escrow(job), BUDGET - PRICE - FEES + DRAW_BOND / 10, "to the job");
    }

    function test_a_no_show_that_was_never_served_owes_nothing() public {
        uint64 id = drawn(job, 0);
        address[] memory who = committee(id);
        serve(id, first(who, 2));
        Reveal memory last = fullVote(id, almostVoted(id, [0, 0, 255], 0), true, 0);
        vm.expectEmit(true, true, true, true, address(jobs));
        emit IJobsLog.NoShow(id, who[2], 0);
        reveal(id, last);
        assertEq(stakes.freeStake(who[2]), 150e6, "nothing lost");
        assertState(id, SegmentState.ATTESTED);
    }

    function test_who_seals_without_a_receipt_and_vanishes_is_a_no_show() public {
        uint64 id = drawn(job, 0);
        address[] memory who = committee(id);
        serve(id, first(who, 2));
        for (uint256 i = 0; i < 3; ++i) {
            seal(id, vote(id, who[i], true, 0));
        }
        reveal(id, vote(id, who[0], true, 0));
        reveal(id, vote(id, who[1], true, 0));
        pass(jobs.segment(id).revealBy);
        jobs.closeReveals(id);
        mine(3);
        open(id, who[0], 0);
        open(id, who[1], 0);
        assertEq(stakes.stakeOf(who[2]), 200e6 - DRAW_BOND / 10, "fee");
    }

    function test_a_quorum_that_disagrees_withholds_the_payment() public {
        uint64 id = served(job, 0);
        Reveal memory last = fullVote(id, almostVoted(id, [1, 2, 0], 3), true, 0);
        vm.expectEmit(true, true, true, true, address(jobs));
        emit IJobsLog.Withheld(id, 1, 2);
        reveal(id, last);
        assertState(id, SegmentState.WITHHELD);
        address[] memory who = committee(id);
        for (uint256 i = 0; i < 3; ++i) {
            assertEq(jobs.credit(who[i]), 0, "neither a no that nothing bears out nor a yes is paid");
        }
        assertEq(jobs.credit(provider), 0, "nor the provider");
        assertEq(stakes.reservation(provider, id), 6 * PRICE, "the bond stays");
        assertEq(escrow(job), BUDGET - 2 * FEE, "all is back but what a dispute may bear out");
        assertEq(stakes.freeStake(who[2]), 150e6, "nobody is slashed");
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.NotDisputes.selector, stranger));
        vm.prank(stranger);
        jobs.clearBond(id);
        assigned(other, job, 0);
    }

    function test_the_largest_agreeing_group_is_the_yes_side() public {
        uint64 id = served(job, 0);
        voted(id, [3, 0, 0], 0);
        assertState(id, SegmentState.ATTESTED);
        pass(jobs.segment(id).settleAfter);
        jobs.settle(id);
        address[] memory who = committee(id);
        assertEq(jobs.credit(who[0]), 0, "another trace");
        assertEq(jobs.credit(who[1]), FEE, "yes");
        assertEq(jobs.credit(who[2]), FEE, "yes, too");
        assertEq(stakes.freeStake(who[0]), 150e6, "bond back");
    }

    function test_of_equal_groups_the_one_drawn_first_counts() public {
        uint64 id = served(job, 0);
        address[] memory who = committee(id);
        for (uint256 i = 0; i < 3; ++i) {
            seal(id, vote(id, who[i], true, i));
        }
        for (uint256 i = 0; i < 3; ++i) {
            reveal(id, vote(id, who[2 - i], true, 2 - i));
        }
        mine(3);
        for (uint256 i = 0; i < 3; ++i) {
            open(id, who[2 - i], 2 - i);
        }
        assertState(id, SegmentState.COMMITTED);
        Check[] memory checks = jobs.checksOf(id, 0);
        assertTrue(checks[0].prevailed && !checks[1].prevailed && !checks[2].prevailed, "who was drawn first");
    }

    function test_an_undecided_round_is_drawn_again_with_all_units() public {
        uint64 id = served(job, 0);
        Reveal memory last = fullVote(id, almostVoted(id, [0, 1, 255], 2), false, 1);
        vm.expectEmit(true, true, true, true, address(jobs));
        emit IJobsLog.Redrawn(id, 1, "undecided", uint64(blockNow + 2));
        reveal(id, last);
        assertEq(jobs.segment(id).negatives, 1, "a no is not forgotten");
        mine(3);
        jobs.draw(id);
        assertEq(jobs.unitsOf(id).length, 4, "units");
        assertEq(jobs.openingSeed(id), 0, "no seed of the old round");
        serve(id, committee(id));
        voted(id, [0, 0, 0], 0);
        assertState(id, SegmentState.ATTESTED);
        pass(jobs.segment(id).settleAfter);
        jobs.settle(id);
        Check[] memory before = jobs.checksOf(id, 0);
        assertEq(jobs.credit(before[0].verifier), FEE, "yes in the first round");
        assertEq(jobs.credit(before[1].verifier), 0, "no in the first round");
        assertEq(jobs.credit(committee(id)[0]), FEE, "yes in the second");
        assertEq(escrow(job), BUDGET - PRICE - 4 * FEE + DRAW_BOND / 10, "four fees, one no-show");
    }

    function test_silence_in_all_rounds_waits_longer() public {
        uint64 id = silent(255, 0);
        assertState(id, SegmentState.ATTESTED);
        assertEq(jobs.segment(id).settleAfter, timeNow + 4 * 500, "four windows");
    }

    function test_one_no_among_silence_withholds() public {
        uint64 id = silent(1, 1);
        assertState(id, SegmentState.WITHHELD);
    }

    function test_one_yes_among_silence_waits_longer() public {
        uint64 id = silent(0, 0);
        assertState(id, SegmentState.ATTESTED);
        assertEq(jobs.segment(id).settleAfter, timeNow + 4 * 500, "four windows");
    }

    /// Three rounds in which nobody votes, but the first verifier of the first round in this way.
    function silent(uint8 story, uint8 no) internal returns (uint64 id) {
        id = committed(job, 0);
        for (uint256 round = 0; round < 3; ++round) {
            mine(3);
            jobs.draw(id);
            serve(id, committee(id));
            voted(id, [round == 0 ? story : 255, 255, 255], no);
        }
    }

    function test_a_no_counts_when_later_rounds_are_not_served() public {
        uint64 id = served(job, 0);
        voted(id, [1, 255, 255], 1);
        for (uint256 round = 1; round < 3; ++round) {
            mine(3);
            jobs.draw(id);
            pass(jobs.segment(id).serveBy);
            jobs.redraw(id);
        }
        assertState(id, SegmentState.WITHHELD);
        assertEq(jobs.credit(jobs.checksOf(id, 0)[0].verifier), 0, "a no alone earns nothing");
        assertEq(stakes.reservation(provider, id), 6 * PRICE, "the bond stays");
    }
}
