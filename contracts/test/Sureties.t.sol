// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Sureties} from "../src/Sureties.sol";
import {ISureties} from "../src/interfaces/ISureties.sol";
import {IJobsLog} from "../src/interfaces/IJobs.sol";
import {SegmentState, Terms} from "../src/types/Types.sol";
import {Network} from "./utils/Network.sol";
import {Trees} from "./utils/Trees.sol";

/// What a key service puts up, and what becomes of it when it releases keys, when it does not, and when it cannot.
contract SuretiesTest is Network {
    uint96 internal constant PER_JOB = 100e6;
    uint96 internal constant EACH = 30e6;
    bytes32 internal constant KEY = keccak256("a checkpoint's key");

    ISureties internal sureties;
    uint64 internal job;
    uint32 internal redraws = 2;

    function setUp() public override {
        super.setUp();
        sureties = new Sureties(address(jobs));
        token.mint(keyService, 1000e6);
        vm.startPrank(keyService);
        token.approve(address(sureties), type(uint256).max);
        sureties.offer(PER_JOB, EACH, 60);
        sureties.deposit(250e6);
        vm.stopPrank();
        job = post();
    }

    function terms() internal view override returns (Terms memory t) {
        t = super.terms();
        t.params.redraws = redraws;
    }

    function vouched(uint64 id) internal {
        vm.prank(keyService);
        sureties.vouch(id);
    }

    function refused(bytes memory reason) internal {
        vm.expectRevert(reason);
    }

    /// Committed to with a checkpoint under KEY; the provider has its keys.
    function trained(uint64 parent) internal returns (uint64 id) {
        id = assigned(provider, job, parent);
        address[] memory who = new address[](1);
        who[0] = provider;
        releaseKeys(id, keyService, who);
        vm.prank(provider);
        jobs.activate(id);
        commitKeyed(id);
    }

    function commitKeyed(uint64 id) internal {
        uint64 stop = jobs.segment(id).stop;
        bytes32[] memory ends = linkEnds(id, stop);
        (bytes32 root, bytes32[] memory proof) = Trees.build(ends, ends.length - 1);
        bytes memory checkpoint = cid("checkpoint");
        bytes32 keyId = sha256(abi.encodePacked(KEY));
        vm.prank(provider);
        jobs.commit(id, stop, root, ends[ends.length - 1], proof, checkpoint, keyId, new bytes(80));
    }

    function draw(uint64 id) internal {
        mine(3);
        jobs.draw(id);
    }

    function missed(uint64 id) internal {
        pass(jobs.segment(id).serveBy);
        jobs.redraw(id);
    }

    /// From a commitment to its end, with keys for `keyed` of the last committee, and for nobody in rounds before.
    function unserved(uint64 id, uint256 keyed) internal {
        for (uint256 round = jobs.segment(id).round; round <= redraws; ++round) {
            draw(id);
            if (round == redraws && keyed > 0) releaseKeys(id, keyService, first(committee(id), keyed));
            missed(id);
        }
    }

    function test_a_provider_whose_verifiers_got_no_keys_is_paid_by_the_key_service() public {
        vouched(job);
        uint64 id = trained(0);
        unserved(id, 1); // one of three, two are a quorum
        assertState(id, SegmentState.UNPAID);
        uint256 had = token.balanceOf(provider);
        vm.expectEmit(true, true, true, true, address(sureties));
        emit ISureties.SuretyPaid(id, job, provider, EACH);
        sureties.claim(id);
        vm.snapshotGasLastCall("Sureties", "claim");
        assertEq(token.balanceOf(provider) - had, EACH, "at most for one segment");
        assertEq(uint256(sureties.coverOf(job).left), PER_JOB - EACH, "the rest stands");
        refused(abi.encodeWithSelector(ISureties.AlreadyPaid.selector, id));
        sureties.claim(id);
        // three more of the kind, and it is used up
        uint256 paid = EACH;
        for (uint256 i = 0; i < 3; ++i) {
            id = trained(0);
            unserved(id, 0);
            sureties.claim(id);
            paid += i < 2 ? EACH : 10e6;
            assertEq(token.balanceOf(provider) - had, paid, "what is left");
        }
        id = trained(0);
        unserved(id, 0);
        refused(abi.encodeWithSelector(ISureties.NothingLeft.selector, job));
        sureties.claim(id);
    }

    function test_a_price_below_the_most_for_a_segment_is_all_that_is_paid() public {
        vm.prank(keyService);
        sureties.offer(PER_JOB, PER_JOB, 60);
        vouched(job);
        uint64 id = trained(0);
        unserved(id, 0);
        uint256 had = token.balanceOf(provider);
        sureties.claim(id);
        assertEq(token.balanceOf(provider) - had, PRICE, "its price");
    }

    function test_nothing_is_paid_where_keys_were_released() public {
        vouched(job);
        uint64 id = trained(0);
        bytes memory reason = abi.encodeWithSelector(ISureties.NotWithheld.selector, id);
        refused(reason);
        sureties.claim(id); // committed, and nobody is late
        unserved(id, 2); // a quorum had its keys, and was not served
        refused(reason);
        sureties.claim(id); // a chunk is asked for
        pass(jobs.segment(id).serveBy);
        jobs.redraw(id);
        assertState(id, SegmentState.UNPAID);
        refused(reason);
        sureties.claim(id); // "not served" is the provider's fault
    }

    function test_nothing_is_paid_to_who_had_no_keys_itself_or_found_no_verifiers() public {
        vouched(job);
        uint64 id = activated(provider, job, 0); // it had none, and commits to something
        commitKeyed(id);
        unserved(id, 0);
        refused(abi.encodeWithSelector(ISureties.NotWithheld.selector, id));
        sureties.claim(id);
        id = trained(0);
        for (uint256 i = 0; i < VERIFIERS; ++i) {
            vm.startPrank(verifier(i));
            stakes.unbond(stakes.freeStake(verifier(i)));
            vm.stopPrank();
        }
        pass(jobs.segment(id).drawBy);
        mine(3);
        jobs.draw(id);
        assertState(id, SegmentState.UNPAID);
        refused(abi.encodeWithSelector(ISureties.NotWithheld.selector, id));
        sureties.claim(id);
    }

    /// A no of the first round makes the end a WITHHELD one: no way round the price.
    function test_a_no_in_an_earlier_round_is_no_way_out() public {
        vouched(job);
        uint64 id = trained(0);
        draw(id);
        serve(id, committee(id));
        voted(id, [255, 0, 0], 4); // one yes, one no
        assertState(id, SegmentState.COMMITTED);
        unserved(id, 0);
        assertState(id, SegmentState.WITHHELD);
        sureties.claim(id);
    }

    function test_one_that_verifiers_said_no_to_is_not_paid() public {
        vouched(job);
        uint64 id = trained(0);
        draw(id);
        serve(id, committee(id)); // by receipts, without a word of the key service's on chain
        voted(id, [1, 1, 0], 3);
        assertState(id, SegmentState.WITHHELD);
        refused(abi.encodeWithSelector(ISureties.NotWithheld.selector, id));
        sureties.claim(id);
    }

    function test_who_has_lost_a_dispute_is_not_paid() public {
        vouched(job);
        uint64 id = trained(0);
        unserved(id, 0);
        disputes.opened(id);
        disputes.slash(provider, id, 1, 0);
        refused(abi.encodeWithSelector(ISureties.IsSeized.selector, id));
        sureties.claim(id);
    }

    // ---- envelopes that do not open ------------------------------------------------------------------------------------------

    function test_a_provider_with_a_broken_envelope_gets_nothing() public {
        vouched(job);
        uint64 id = trained(0);
        vm.prank(keyService);
        sureties.object(id);
        vm.prank(keyService);
        refused(abi.encodeWithSelector(ISureties.AlreadyContested.selector, id));
        sureties.object(id);
        unserved(id, 0);
        refused(abi.encodeWithSelector(ISureties.IsContested.selector, id));
        sureties.claim(id);
        bytes32 checkpoint = sha256(cid("checkpoint")); // by a precompile, which an expected revert would take for the call
        refused(abi.encodeWithSelector(ISureties.WrongState.selector, id, SegmentState.UNPAID));
        sureties.show(id, checkpoint, KEY); // too late
    }

    function test_a_false_objection_is_answered_with_the_key() public {
        vouched(job);
        uint64 id = trained(0);
        bytes32 checkpoint = sha256(cid("checkpoint"));
        refused(abi.encodeWithSelector(ISureties.NotContested.selector, id));
        sureties.show(id, checkpoint, KEY);
        draw(id);
        vm.prank(keyService);
        sureties.object(id);
        refused(abi.encodeWithSelector(ISureties.OtherKey.selector, id));
        sureties.show(id, checkpoint, keccak256("another key"));
        refused(abi.encodeWithSelector(ISureties.OtherKey.selector, id));
        sureties.show(id, keccak256("another checkpoint"), KEY);
        vm.expectEmit(true, true, true, true, address(sureties));
        emit ISureties.CheckpointKeyShown(id, KEY);
        sureties.show(id, checkpoint, KEY);
        refused(abi.encodeWithSelector(ISureties.NotContested.selector, id));
        sureties.show(id, checkpoint, KEY);
        missed(id);
        unserved(id, 0);
        sureties.claim(id);
    }

    function test_the_key_of_a_later_segment_hangs_on_its_parents_commitment() public {
        vouched(job);
        uint64 parent = settled(job, 0);
        uint64 id = trained(parent);
        vm.prank(keyService);
        sureties.object(id);
        sureties.show(id, sha256(cid("checkpoint")), KEY);
    }

    function test_a_key_is_shown_before_the_last_draw_so_that_there_is_time_to_release() public {
        vouched(job);
        uint64 id = trained(0);
        vm.prank(keyService);
        sureties.object(id);
        for (uint256 round = 0; round < redraws; ++round) {
            draw(id);
            missed(id);
        }
        draw(id);
        bytes32 checkpoint = sha256(cid("checkpoint"));
        refused(abi.encodeWithSelector(ISureties.WrongState.selector, id, SegmentState.DRAWN));
        sureties.show(id, checkpoint, KEY);
    }

    function test_an_objection_comes_early_in_the_first_round() public {
        vouched(job);
        uint64 id = assigned(provider, job, 0);
        vm.startPrank(keyService);
        refused(abi.encodeWithSelector(ISureties.WrongState.selector, id, SegmentState.ASSIGNED));
        sureties.object(id);
        vm.stopPrank();
        vm.prank(provider);
        jobs.activate(id);
        commitKeyed(id);
        draw(id);
        uint64 until = jobs.segment(id).serveBy - 50;
        pass(until);
        vm.startPrank(keyService);
        refused(abi.encodeWithSelector(ISureties.TooLate.selector, until, uint64(timeNow)));
        sureties.object(id);
        vm.stopPrank();
        missed(id);
        vm.startPrank(keyService);
        refused(abi.encodeWithSelector(ISureties.WrongState.selector, id, SegmentState.COMMITTED));
        sureties.object(id);
        vm.stopPrank();
        refused(abi.encodeWithSelector(ISureties.NotKeyService.selector, address(this), keyService));
        sureties.object(id);
    }

    // ---- money ---------------------------------------------------------------------------------------------------------------

    function test_a_service_vouches_once_for_its_own_jobs_and_with_what_it_has() public {
        refused(abi.encodeWithSelector(ISureties.NotVouched.selector, job));
        sureties.coverOf(job);
        refused(abi.encodeWithSelector(ISureties.NotKeyService.selector, address(this), keyService));
        sureties.vouch(job);
        vouched(job);
        vm.startPrank(keyService);
        refused(abi.encodeWithSelector(ISureties.AlreadyVouched.selector, job));
        sureties.vouch(job);
        vm.stopPrank();
        vouched(post());
        uint64 third = post();
        vm.startPrank(keyService);
        refused(abi.encodeWithSelector(ISureties.InsufficientSurety.selector, keyService, 50e6, PER_JOB));
        sureties.vouch(third);
        sureties.deposit(50e6);
        sureties.offer(PER_JOB, EACH, 101);
        refused(abi.encodeWithSelector(ISureties.ShortNotice.selector, 100, 101));
        sureties.vouch(third);
        sureties.offer(PER_JOB, EACH, 100);
        vm.stopPrank();
        vm.prank(client);
        jobs.cancel(third);
        vm.startPrank(keyService);
        refused(abi.encodeWithSelector(ISureties.JobIsOver.selector, third));
        sureties.vouch(third);
        vm.stopPrank();
        redraws = 0;
        uint64 fourth = post();
        vm.prank(keyService);
        refused(abi.encodeWithSelector(ISureties.NoRedraw.selector, fourth));
        sureties.vouch(fourth);
    }

    function test_what_is_offered_and_moved_is_bounded() public {
        vm.startPrank(keyService);
        refused(abi.encodeWithSelector(ISureties.BadTerm.selector, "each", 0, 1, 5));
        sureties.offer(5, 0, 1);
        refused(abi.encodeWithSelector(ISureties.BadTerm.selector, "each", 6, 1, 5));
        sureties.offer(5, 6, 1);
        refused(abi.encodeWithSelector(ISureties.ZeroAmount.selector));
        sureties.deposit(0);
        refused(abi.encodeWithSelector(ISureties.ZeroAmount.selector));
        sureties.withdraw(0);
        refused(abi.encodeWithSelector(ISureties.InsufficientSurety.selector, keyService, 250e6, 250e6 + 1));
        sureties.withdraw(250e6 + 1);
        uint256 had = token.balanceOf(keyService);
        sureties.withdraw(250e6);
        assertEq(token.balanceOf(keyService) - had, 250e6, "all of it");
        vm.stopPrank();
        keyService = address(0xCF);
        uint64 other_ = post();
        vm.prank(keyService);
        refused(abi.encodeWithSelector(ISureties.BadTerm.selector, "each", 0, 1, type(uint96).max));
        sureties.vouch(other_); // it has offered nothing
    }

    function test_refuses_a_token_that_takes_fees() public {
        bytes[] memory balances = new bytes[](2);
        (balances[0], balances[1]) = (abi.encode(0), abi.encode(99));
        vm.mockCalls(address(token), abi.encodeCall(token.balanceOf, (address(sureties))), balances);
        vm.prank(keyService);
        refused(abi.encodeWithSelector(ISureties.UnsupportedToken.selector, 100, 99));
        sureties.deposit(100);
    }

    /// A job that is closed in the block of its last failure leaves its provider a challenge window to claim.
    function test_what_is_left_goes_back_a_window_after_the_job_is_closed() public {
        vouched(job);
        refused(abi.encodeWithSelector(ISureties.JobIsOpen.selector, job));
        sureties.giveBack(job);
        uint64 id = trained(0);
        unserved(id, 0);
        vm.prank(client);
        jobs.cancel(job);
        jobs.close(job);
        sureties.giveBack(job);
        uint64 until = sureties.coverOf(job).endsAfter;
        assertEq(until, timeNow + 500, "a challenge window");
        refused(abi.encodeWithSelector(ISureties.TooEarly.selector, until, uint64(timeNow)));
        sureties.giveBack(job);
        sureties.claim(id);
        pass(until);
        sureties.giveBack(job);
        assertEq(uint256(sureties.offered(keyService).free), 250e6 - EACH, "free again");
        refused(abi.encodeWithSelector(ISureties.NothingLeft.selector, job));
        sureties.giveBack(job);
        assertEq(token.balanceOf(address(sureties)), 250e6 - EACH, "and all of it is there");
    }

    /// After its window the provider's bond may be cleared; then there is nothing to tell the failure by.
    function test_a_claim_comes_before_the_bond_is_cleared() public {
        vouched(job);
        uint64 id = trained(0);
        unserved(id, 0);
        pass(jobs.segment(id).settleAfter);
        jobs.clearBond(id);
        refused(abi.encodeWithSelector(ISureties.NotWithheld.selector, id));
        sureties.claim(id);
        refused(abi.encodeWithSelector(IJobsLog.NoSuchSegment.selector, 99));
        sureties.claim(99);
    }
}
