// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Jobs} from "../src/Jobs.sol";
import {Appeals} from "../src/jobs/Appeals.sol";
import {Checks} from "../src/jobs/Checks.sol";
import {Escrow} from "../src/jobs/Escrow.sol";
import {Segments} from "../src/jobs/Segments.sol";
import {Stakes} from "../src/Stakes.sol";
import {IJobs, IJobsLog} from "../src/interfaces/IJobs.sol";
import {Job, SegmentState, Terms} from "../src/types/Types.sol";
import {SkimmingToken} from "./Stakes.t.sol";
import {Network} from "./utils/Network.sol";

contract EscrowTest is Network {
    function test_post_locks_the_budget() public {
        uint256 had = token.balanceOf(client);
        Terms memory t = terms();
        vm.expectEmit(true, true, true, true, address(jobs));
        emit IJobsLog.JobPosted(1, client, t);
        vm.prank(client);
        assertEq(jobs.post(t), 1, "number");
        assertEq(token.balanceOf(client), had - BUDGET, "paid");
        assertEq(token.balanceOf(address(jobs)), BUDGET, "held");
        Job memory j = jobs.job(1);
        assertEq(j.client, client, "client");
        assertEq(j.escrow, BUDGET, "escrow");
        assertEq(j.specDigest, t.specDigest, "spec");
        assertEq(j.datasetRoot, t.datasetRoot, "dataset");
        assertEq(keccak256(abi.encode(j.params)), keccak256(abi.encode(t.params)), "params");
        assertEq(jobs.jobCount(), 1, "count");
    }

    function test_post_refuses_a_spec_that_is_no_cid() public {
        for (uint256 i = 0; i < 5; ++i) {
            Terms memory t = terms();
            if (i < 4) t.spec[i] = 0x71;
            else t.spec = new bytes(35);
            vm.prank(client);
            vm.expectPartialRevert(IJobsLog.BadCid.selector);
            jobs.post(t);
        }
    }

    function test_post_says_which_term_is_out_of_bounds() public {
        for (uint256 i = 0; i < 39; ++i) {
            (Terms memory t, string memory name) = broken(i);
            vm.prank(client);
            (bool done, bytes memory said) = address(jobs).call(abi.encodeCall(jobs.post, (t)));
            assertTrue(!done && bytes4(said) == IJobsLog.BadTerm.selector, name);
            assertEq(keccak256(bytes(this.named(said))), keccak256(bytes(name)), name);
        }
        Terms memory t_ = terms();
        t_.params.quorum = 1;
        vm.prank(client);
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.BadTerm.selector, "quorum", 1, 2, 3));
        jobs.post(t_);
    }

    /// What BadTerm is about.
    function named(bytes calldata said) external pure returns (string memory name) {
        (name,,,) = abi.decode(said[4:], (string, uint256, uint256, uint256));
    }

    function broken(uint256 i) internal view returns (Terms memory t, string memory name) {
        t = terms();
        if (i == 0) (t.steps, name) = (0, "steps");
        if (i == 1) (t.steps, name) = (1 << 32, "steps");
        if (i == 2) (t.microBatches, name) = (0, "micro_batches");
        if (i == 3) (t.microBatches, name) = ((1 << 20) + 1, "micro_batches");
        if (i == 4) (t.segmentSteps, name) = (0, "segment_steps");
        if (i == 5) (t.microWeight, name) = (0, "micro_weight");
        if (i == 6) (t.updateWeight, name) = ((1 << 40) + 1, "update_weight");
        if (i == 7) (t.microLeaves, name) = (1, "micro_leaves");
        if (i == 8) (t.updateLeaves, name) = (1, "update_leaves");
        if (i == 9) (t.priceCap, name) = (0, "price_cap");
        if (i == 10) (t.fee, name) = (1 << 64, "fee");
        if (i == 11) (t.budget, name) = (0, "budget");
        if (i == 12) (t.deadline, name) = (uint64(timeNow), "deadline");
        if (i == 13) (t.scheduler, name) = (address(0), "scheduler");
        if (i == 14) (t.keyService, name) = (address(0), "key_service");
        if (i == 15) (t.params.links, t.segmentSteps, name) = (0, 22, "links of a segment");
        if (i == 16) (t.params.finality, name) = (0, "finality");
        if (i == 17) (t.params.finality, name) = (65, "finality");
        if (i == 18) (t.params.activateWindow, name) = (0, "activate_window");
        if (i == 19) (t.params.leaseWindow, name) = (7 days + 1, "lease_window");
        if (i == 20) (t.params.takeoverWindow, name) = (0, "takeover_window");
        if (i == 21) (t.params.serveWindow, name) = (7 days + 1, "serve_window");
        if (i == 22) (t.params.sealWindow, name) = (0, "seal_window");
        if (i == 23) (t.params.revealWindow, name) = (7 days + 1, "reveal_window");
        if (i == 24) (t.params.openWindow, name) = (0, "open_window");
        if (i == 25) (t.params.challengeWindow, name) = (0, "challenge_window");
        if (i == 26) (t.params.links, name) = (17, "links");
        if (i == 27) (t.params.verifiers, name) = (17, "verifiers");
        if (i == 28) (t.params.quorum, name) = (1, "quorum");
        if (i == 29) (t.params.quorum, name) = (4, "quorum");
        if (i == 30) (t.params.openings, name) = (0, "openings");
        if (i == 31) (t.params.redraws, name) = (5, "redraws");
        if (i == 32) (t.params.links, t.params.redraws, name) = (16, 4, "links * (1 + redraws)");
        if (i == 33) (t.params.depth, name) = (0, "depth");
        if (i == 34) (t.params.bondTenths, name) = (1001, "bond_tenths");
        if (i == 35) (t.params.lateFeeBps, name) = (10_001, "late_fee_bps");
        if (i == 36) (t.params.noShowBps, name) = (10_001, "no_show_bps");
        if (i == 37) (t.params.drawBond, name) = (SEAT_STAKE + 1, "draw_bond");
        if (i == 38) (t.params.bondBase, name) = (1 << 80, "bond_base");
    }

    function test_fund_adds_and_says_when_it_cannot() public {
        uint64 job = post();
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.NoSuchJob.selector, uint64(9)));
        jobs.fund(9, 1);
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.ZeroAmount.selector));
        jobs.fund(job, 0);
        vm.prank(other);
        jobs.fund(job, 7e6);
        assertEq(escrow(job), BUDGET + 7e6, "escrow");
        vm.prank(client);
        jobs.cancel(job);
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.JobIsCancelled.selector, job));
        vm.prank(other);
        jobs.fund(job, 1);
    }

    function test_cancel_by_the_client_or_after_the_deadline_by_anyone() public {
        uint64 job = post();
        uint64 second = post();
        uint64 deadline = jobs.job(job).deadline;
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.NotClient.selector, stranger, client));
        vm.prank(stranger);
        jobs.cancel(job);
        vm.prank(client);
        jobs.cancel(job);
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.JobIsCancelled.selector, job));
        vm.prank(client);
        jobs.cancel(job);
        vm.warp(deadline);
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.NotClient.selector, stranger, client));
        vm.prank(stranger);
        jobs.cancel(second);
        vm.warp(deadline + 1);
        vm.prank(stranger);
        jobs.cancel(second);
        assertTrue(jobs.job(second).cancelled, "cancelled");
    }

    function test_close_refunds_what_is_left_once_nothing_is_live() public {
        uint64 job = post();
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.JobIsLive.selector, job, uint32(0)));
        jobs.close(job);
        uint64 id = assigned(provider, job, 0);
        vm.prank(client);
        jobs.cancel(job);
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.JobIsLive.selector, job, uint32(1)));
        jobs.close(job);
        pass(jobs.segment(id).activateBy);
        jobs.lapse(id);
        vm.prank(stranger);
        jobs.close(job);
        assertEq(jobs.credit(client), BUDGET, "all of it");
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.JobIsClosed.selector, job));
        jobs.close(job);
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.NoSuchJob.selector, uint64(0)));
        jobs.close(0);
    }

    function test_a_cancelled_job_still_pays_what_was_assigned() public {
        uint64 job = post();
        uint64 id = activated(provider, job, 0);
        vm.prank(client);
        jobs.cancel(job);
        commitTo(id, 4);
        mine(3);
        jobs.draw(id);
        serve(id, committee(id));
        voted(id, [0, 0, 0], 0);
        pass(jobs.segment(id).settleAfter);
        jobs.settle(id);
        assertEq(jobs.credit(provider), PRICE, "paid");
        jobs.close(job);
        assertEq(jobs.credit(client), BUDGET - PRICE - 3 * FEE, "refund");
    }

    function test_withdraw_pays_the_credit_once() public {
        uint64 job = post();
        settled(job, 0);
        uint256 had = token.balanceOf(provider);
        vm.startPrank(provider);
        jobs.withdraw();
        assertEq(token.balanceOf(provider), had + PRICE, "paid");
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.NothingToWithdraw.selector, provider));
        jobs.withdraw();
        vm.stopPrank();
    }

    function test_a_job_ends_with_its_last_segment() public {
        uint64 job = post();
        uint64 a = settled(job, 0);
        uint64 b = settled(job, a);
        assertTrue(!jobs.job(job).completed, "not yet");
        uint64 c = settled(job, b);
        assertEq(jobs.segment(c).start, 8, "start of the short one");
        assertEq(jobs.segment(c).stop, 10, "stop of the short one");
        assertTrue(jobs.job(job).completed, "completed");
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.JobIsCompleted.selector, job));
        vm.prank(client);
        jobs.cancel(job);
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.JobIsCompleted.selector, job));
        vm.prank(client);
        jobs.fund(job, 1);
        jobs.close(job);
        assertEq(jobs.credit(client), BUDGET - PRICE * 5 / 2 - 9 * FEE, "refund");
    }

    function test_refuses_a_token_that_takes_fees() public {
        SkimmingToken skimming = new SkimmingToken();
        Stakes its = new Stakes(address(skimming), SEAT_STAKE, 1);
        Segments segments = new Segments(address(its));
        address[2] memory more = [address(new Escrow(address(its))), address(new Appeals(address(its)))];
        IJobs there = IJobs(address(new Jobs(address(its), address(segments), address(new Checks(address(its))), more[0], more[1])));
        skimming.mint(client, BUDGET);
        Terms memory t = terms();
        vm.startPrank(client);
        skimming.approve(address(there), BUDGET);
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.UnsupportedToken.selector, BUDGET, BUDGET - 1));
        there.post(t);
        vm.stopPrank();
    }

    function test_the_parts_of_jobs_belong_together() public {
        Stakes its = new Stakes(address(token), SEAT_STAKE, 1);
        address segments = address(new Segments(address(stakes)));
        address checks = address(new Checks(address(stakes)));
        address books = address(new Escrow(address(stakes)));
        address appeals = address(new Appeals(address(stakes)));
        address strange = address(new Checks(address(its)));
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.WrongModule.selector, strange));
        new Jobs(address(stakes), segments, strange, books, appeals);
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.WrongModule.selector, strange));
        new Jobs(address(stakes), strange, checks, books, appeals);
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.WrongModule.selector, strange));
        new Jobs(address(stakes), segments, checks, strange, appeals);
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.WrongModule.selector, strange));
        new Jobs(address(stakes), segments, checks, books, strange);
        IJobs alone = IJobs(segments);
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.NoSuchSegment.selector, uint64(1)));
        alone.activate(1);
        (bool ok,) = address(jobs).call(hex"deadbeef");
        assertTrue(!ok, "unknown calls are refused");
    }

    function test_views_of_what_is_not_there() public {
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.NoSuchSegment.selector, uint64(3)));
        jobs.segment(3);
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.NoSuchJob.selector, uint64(3)));
        jobs.job(3);
        assertEq(jobs.token(), address(token), "token");
        assertEq(jobs.stakes(), address(stakes), "stakes");
        assertEq(jobs.disputes(), address(disputes), "disputes");
        assertEq(
            jobs.domainSeparator(),
            keccak256(
                abi.encode(
                    keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                    keccak256("Assay"),
                    keccak256("1"),
                    block.chainid,
                    address(jobs)
                )
            ),
            "domain"
        );
    }
}
