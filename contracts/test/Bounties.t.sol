// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IBounties} from "../src/interfaces/IBounties.sol";
import {IJobsLog} from "../src/interfaces/IJobs.sol";
import {BountyTerms, Entry, Rung} from "../src/types/BountyTypes.sol";
import {SegmentState, Terms} from "../src/types/Types.sol";
import {Sponsored} from "./utils/Sponsored.sol";

contract BountiesTest is Sponsored {
    function refused(bytes memory reason) internal {
        vm.expectRevert(reason);
    }

    function collect(uint64 id, uint64[] memory ids) internal {
        vm.prank(stranger);
        bounties.collect(id, ids);
    }

    function one(uint64 id) internal pure returns (uint64[] memory ids) {
        ids = new uint64[](1);
        ids[0] = id;
    }

    /// Nothing is left in the contract but what is credited.
    function emptied(uint128 credits) internal view {
        assertEq(token.balanceOf(address(bounties)), credits, "left in the contract");
    }

    // ---- what is paid ----------------------------------------------------------------------------------------------------------

    function test_the_rung_that_was_reached_is_shared_by_links_and_the_rest_comes_back() public {
        (uint64 job, uint64[] memory ids) = trainedJob();
        uint64 id = offered(job);
        emptied(HIGH);
        bounties.begin(id, ids[2]);
        uint64 until = bounties.bounty(id).until;
        assertEq(until, timeNow + 1 days, "until");
        uint64 segment = evaluated(750);
        show(id, job, segment, 750);
        assertEq(bounties.bounty(id).reached, LOW, "reached");
        refused(abi.encodeWithSelector(IBounties.TooEarly.selector, until, uint64(timeNow)));
        bounties.collect(id, ids);
        pass(until);
        collect(id, ids);
        assertEq(bounties.credit(provider), LOW * 4 / 10 + LOW * 2 / 10, "four and two steps of ten");
        assertEq(bounties.credit(other), LOW * 4 / 10, "four steps of ten");
        bounties.giveBack(id);
        assertEq(bounties.credit(sponsor), HIGH - LOW, "back");
        emptied(HIGH);
        uint256 had = token.balanceOf(provider);
        vm.prank(provider);
        bounties.withdraw();
        assertEq(token.balanceOf(provider), had + LOW * 6 / 10, "withdrawn");
        emptied(HIGH - LOW * 6 / 10);
    }

    function test_the_highest_rung_is_paid_at_once() public {
        (uint64 job, uint64[] memory ids) = trainedJob();
        uint64 id = offered(job);
        bounties.begin(id, ids[2]);
        show(id, job, evaluated(800), 800);
        vm.snapshotGasLastCall("bounties", "show");
        assertEq(bounties.earned(id), HIGH, "earned");
        collect(id, ids);
        vm.snapshotGasLastCall("bounties", "collect of three segments");
        bounties.giveBack(id);
        assertEq(bounties.credit(sponsor), 0, "back");
        emptied(HIGH);
    }

    function test_a_sponsor_that_shows_nothing_pays_all() public {
        (uint64 job, uint64[] memory ids) = trainedJob();
        uint64 id = offered(job);
        bounties.begin(id, ids[2]);
        pass(bounties.bounty(id).until);
        collect(id, ids);
        assertEq(bounties.credit(provider) + bounties.credit(other), HIGH, "all");
        bounties.giveBack(id);
        assertEq(bounties.credit(sponsor), 0, "back");
    }

    function test_a_result_below_every_rung_pays_nothing() public {
        (uint64 job, uint64[] memory ids) = trainedJob();
        uint64 id = offered(job);
        bounties.begin(id, ids[2]);
        show(id, job, evaluated(699), 699);
        pass(bounties.bounty(id).until);
        collect(id, ids);
        assertEq(bounties.credit(provider) + bounties.credit(other), 0, "nothing");
        bounties.giveBack(id);
        assertEq(bounties.credit(sponsor), HIGH, "back");
    }

    function test_of_two_results_the_better_counts_in_any_order() public {
        (uint64 job, uint64[] memory ids) = trainedJob();
        (uint64 a, uint64 b) = (offered(job), offered(job));
        bounties.begin(a, ids[2]);
        bounties.begin(b, ids[2]);
        (uint64 low, uint64 high) = (evaluated(10), evaluated(720));
        show(a, job, low, 10);
        show(a, job, high, 720);
        show(b, job, high, 720);
        show(b, job, low, 10);
        assertEq(bounties.bounty(a).reached, LOW, "low, high");
        assertEq(bounties.bounty(b).reached, LOW, "high, low");
    }

    function test_a_training_of_which_nothing_settled_earns_nothing() public {
        uint64 job = post();
        uint64 id = offered(job);
        vm.prank(client);
        jobs.cancel(job);
        bounties.begin(id, 0);
        bounties.giveBack(id);
        assertEq(bounties.credit(sponsor), HIGH, "back");
        uint64[] memory none = new uint64[](0);
        bounties.collect(id, none);
        refused(abi.encodeWithSelector(IBounties.IsReturned.selector, id));
        bounties.giveBack(id);
    }

    function test_a_cancelled_training_is_measured_where_it_stands() public {
        uint64 job = post();
        uint64 id = offered(job);
        uint64 a = settledBy(provider, job, 0, rootOf(SEGMENT_STEPS, trained()));
        vm.prank(client);
        jobs.cancel(job);
        refused(abi.encodeWithSelector(IBounties.NotTheLast.selector, uint64(0)));
        bounties.begin(id, 0);
        bounties.begin(id, a);
        show(id, job, evaluated(900), 900);
        collect(id, one(a));
        assertEq(bounties.credit(provider), HIGH, "all of it");
    }

    function test_a_float_that_must_be_low() public {
        (uint64 job, uint64[] memory ids) = trainedJob();
        BountyTerms memory t = bountyTerms(job);
        (t.metric, t.dtype, t.atMost) = ("mean.loss", 1, true);
        t.rungs[0].threshold = bounties.order(0x3f800000); // 1.0
        t.rungs[1].threshold = bounties.order(0x3f000000); // 0.5
        vm.prank(sponsor);
        uint64 id = bounties.offer(t);
        bounties.begin(id, ids[2]);
        uint32[3] memory values = [0x7fc00000, 0x3f800001, 0x3f333333]; // NaN, just above 1, 0.7
        for (uint256 i = 0; i < 3; ++i) {
            Entry[] memory e = started();
            e[0].root = scalar(1, values[i]);
            uint64 segment = settledBy(other, posted(evaluationTerms()), 0, rootOf(EVALUATED, e));
            bounties.show(id, t, segment, trained(), values[i], pathOf(e, 0));
            assertEq(bounties.bounty(id).reached, i < 2 ? 0 : LOW, "reached");
        }
        bytes32[] memory path = pathOf(started(), 0);
        uint64 last = evaluated(1);
        refused(abi.encodeWithSelector(IBounties.BadProof.selector));
        bounties.show(id, t, last, trained(), 1 << 32, path);
    }

    /// What a state of many tensors costs to show: 240 that the evaluation reads, and two moments of each.
    function test_gas_of_many_tensors() public {
        Entry[] memory all = new Entry[](720);
        BountyTerms memory t = bountyTerms(post());
        t.start = new Entry[](241);
        t.start[0] = Entry("metric.right", scalar(3, 0));
        for (uint256 i = 0; i < 240; ++i) {
            bytes memory name = abi.encodePacked("encoder.layer.attention.", bytes2(uint16(0x6161 + (i / 16 << 8) + i % 16)), ".weight");
            all[i] = Entry(abi.encodePacked("m.", name), keccak256(name));
            all[240 + i] = Entry(abi.encodePacked("param.", name), keccak256(abi.encode(name)));
            all[480 + i] = Entry(abi.encodePacked("v.", name), keccak256(name));
            t.start[1 + i] = Entry(all[240 + i].name, 0);
        }
        uint64[] memory ids = new uint64[](3);
        ids[0] = settledBy(provider, t.job, 0, 0);
        ids[1] = settledBy(other, t.job, ids[0], 0);
        ids[2] = settledBy(provider, t.job, ids[1], rootOf(STEPS, all));
        vm.prank(sponsor);
        uint64 id = bounties.offer(t);
        vm.snapshotGasLastCall("bounties", "offer, 241 entries");
        bounties.begin(id, ids[2]);
        Entry[] memory e = new Entry[](241);
        for (uint256 i = 0; i < 241; ++i) {
            e[i] = i == 0 ? Entry("metric.right", scalar(3, 0)) : all[239 + i];
        }
        Terms memory j = evaluationTerms();
        j.stateRoot = rootOf(0, e);
        e[0].root = scalar(3, 800);
        uint64 segment = settledBy(other, posted(j), 0, rootOf(EVALUATED, e));
        bytes32[] memory path = pathOf(e, 0);
        bounties.show(id, t, segment, all, 800, path);
        vm.snapshotGasLastCall("bounties", "show, 720 and 241 entries");
    }

    function testFuzz_the_order_of_floats(uint32 x, uint32 y) public view {
        x = x & 0xbfffffff; // finite
        y = y & 0xbfffffff;
        bool less;
        if (x >> 31 != y >> 31) less = x >> 31 == 1 && (x | y) & 0x7fffffff != 0;
        else less = x >> 31 == 0 ? x < y : x > y;
        assertTrue(less == (bounties.order(x) < bounties.order(y)), "less");
    }

    function testFuzz_shares_add_up(uint96 amount) public {
        (uint64 job, uint64[] memory ids) = trainedJob();
        BountyTerms memory t = bountyTerms(job);
        t.rungs[1].amount = uint128(bound(amount, LOW + 1, 1000e6));
        vm.prank(sponsor);
        uint64 id = bounties.offer(t);
        bounties.begin(id, ids[2]);
        pass(bounties.bounty(id).until);
        collect(id, one(ids[1]));
        collect(id, one(ids[2]));
        collect(id, one(ids[0]));
        assertEq(bounties.credit(provider) + bounties.credit(other), t.rungs[1].amount, "all");
    }

    // ---- what is refused -------------------------------------------------------------------------------------------------------

    function test_offers_that_nobody_could_read() public {
        uint64 job = post();
        for (uint256 i = 0; i < 10; ++i) {
            BountyTerms memory t = bountyTerms(job);
            bytes memory why;
            if (i == 0) (t.window, why) = (0, abi.encodeWithSelector(IBounties.BadTerm.selector, "window", 0, 1, 90 days));
            if (i == 1) (t.start, why) = (new Entry[](0), abi.encodeWithSelector(IBounties.BadTerm.selector, "entries", 0, 1, 4096));
            if (i == 2) (t.dtype, why) = (2, abi.encodeWithSelector(IBounties.BadTerm.selector, "dtype", 2, 1, 3));
            if (i == 3) (t.metric, why) = ("x", abi.encodeWithSelector(IBounties.BadTerm.selector, "metric", 5, 0, 5));
            if (i == 4) (t.rungs, why) = (new Rung[](0), abi.encodeWithSelector(IBounties.BadTerm.selector, "rungs", 0, 1, 16));
            if (i == 5) (t.rungs[0].amount, why) = (0, abi.encodeWithSelector(IBounties.BadRungs.selector, 0));
            if (i == 6) (t.rungs[1].amount, why) = (LOW, abi.encodeWithSelector(IBounties.BadRungs.selector, 1));
            if (i == 7) (t.rungs[1].threshold, why) = (700, abi.encodeWithSelector(IBounties.BadRungs.selector, 1));
            if (i == 8) (t.atMost, why) = (true, abi.encodeWithSelector(IBounties.BadRungs.selector, 1));
            if (i == 9) (t.job, why) = (job + 1, abi.encodeWithSelector(IJobsLog.NoSuchJob.selector, job + 1));
            refused(why);
            vm.prank(sponsor);
            bounties.offer(t);
        }
        BountyTerms memory huge = bountyTerms(job);
        huge.rungs[1].amount = 1 << 96;
        vm.expectPartialRevert(IBounties.BadTerm.selector);
        vm.prank(sponsor);
        bounties.offer(huge);
    }

    function test_the_window_begins_when_the_training_is_over_and_once() public {
        uint64 job = post();
        uint64 id = offered(job);
        refused(abi.encodeWithSelector(IBounties.NoSuchBounty.selector, id + 1));
        bounties.begin(id + 1, 0);
        refused(abi.encodeWithSelector(IBounties.JobIsLive.selector, job, uint32(0)));
        bounties.begin(id, 0);
        uint64 a = settledBy(provider, job, 0, 0);
        refused(abi.encodeWithSelector(IBounties.JobIsLive.selector, job, uint32(0)));
        bounties.begin(id, a);
        uint64 b = attested(job, a);
        vm.prank(client);
        jobs.cancel(job);
        refused(abi.encodeWithSelector(IBounties.JobIsLive.selector, job, uint32(1)));
        bounties.begin(id, a);
        pass(jobs.segment(b).settleAfter);
        jobs.settle(b);
        refused(abi.encodeWithSelector(IBounties.NotTheLast.selector, a));
        bounties.begin(id, a);
        uint64 foreign = settledBy(provider, post(), 0, 0);
        refused(abi.encodeWithSelector(IBounties.NotTheLast.selector, foreign));
        bounties.begin(id, foreign);
        uint64 running = served(post(), 0);
        refused(abi.encodeWithSelector(IBounties.WrongState.selector, running, SegmentState.SERVED));
        bounties.begin(id, running);
        refused(abi.encodeWithSelector(IBounties.NotBegun.selector, id));
        bounties.giveBack(id);
        BountyTerms memory t = bountyTerms(job);
        refused(abi.encodeWithSelector(IBounties.NotBegun.selector, id));
        bounties.show(id, t, b, trained(), 1, new bytes32[](3));
        bounties.begin(id, b);
        refused(abi.encodeWithSelector(IBounties.HasBegun.selector, id));
        bounties.begin(id, b);
    }

    function test_an_evaluation_of_something_else_does_not_count() public {
        (uint64 job, uint64[] memory ids) = trainedJob();
        uint64 id = offered(job);
        bounties.begin(id, ids[2]);
        bytes32[] memory path = pathOf(measured(900), 2);
        bytes32 end = rootOf(EVALUATED, measured(900));
        BountyTerms memory offer_ = bountyTerms(job);
        token.mint(client, 9 * BUDGET);
        for (uint256 i = 0; i < 9; ++i) {
            Terms memory t = evaluationTerms();
            string memory what = "its terms";
            if (i == 0) t.programRoot = keccak256("another");
            if (i == 1) t.datasetRoot = keccak256("easier records");
            if (i == 2) t.scheduleRoot = keccak256("other shares");
            if (i == 3) t.params.challengeWindow = 1;
            if (i == 4) t.params.links = 1;
            if (i == 5) t.segmentSteps += 1;
            if (i == 6) t.updateWeight += 1;
            if (i == 7) (t.stateRoot, what) = (keccak256("better weights"), "its start");
            if (i == 8) (t.steps, what) = (3, "its end");
            uint64 segment = settledBy(provider, posted(t), 0, end);
            refused(abi.encodeWithSelector(IBounties.NotTheEvaluation.selector, jobs.segment(segment).job, what));
            bounties.show(id, offer_, segment, trained(), 900, path);
        }
    }

    function test_what_was_shown_must_be_what_settled() public {
        (uint64 job, uint64[] memory ids) = trainedJob();
        uint64 id = offered(job);
        bounties.begin(id, ids[2]);
        uint64 segment = evaluated(900);
        BountyTerms memory t = bountyTerms(job);
        bytes32[] memory path = pathOf(measured(900), 2);
        refused(abi.encodeWithSelector(IBounties.BadProof.selector));
        bounties.show(id, t, segment, trained(), 901, path);
        refused(abi.encodeWithSelector(IBounties.BadProof.selector));
        bounties.show(id, t, segment, trained(), 900, new bytes32[](2));
        Entry[] memory other_ = trained();
        other_[0].root = keccak256("another moment");
        uint64 evaluating = jobs.segment(segment).job;
        refused(abi.encodeWithSelector(IBounties.NotTheEvaluation.selector, evaluating, "the training's last state"));
        bounties.show(id, t, segment, other_, 900, path);
        refused(abi.encodeWithSelector(IBounties.BadLength.selector, "trained", 4097, 4096));
        bounties.show(id, t, segment, new Entry[](4097), 900, path);
        uint64 running = served(posted(evaluationTerms()), 0);
        refused(abi.encodeWithSelector(IBounties.WrongState.selector, running, SegmentState.SERVED));
        bounties.show(id, t, running, trained(), 900, path);
        BountyTerms memory changed = bountyTerms(job);
        changed.rungs[0].threshold = 1;
        refused(abi.encodeWithSelector(IBounties.BadTerms.selector, bounties.bounty(id).terms));
        bounties.show(id, changed, segment, trained(), 900, path);
        uint64 until = bounties.bounty(id).until;
        pass(until);
        refused(abi.encodeWithSelector(IBounties.TooLate.selector, until, uint64(timeNow)));
        bounties.show(id, t, segment, trained(), 900, path);
    }

    /// Names that the training does not have cannot be shown: then the sponsor pays all.
    function test_a_start_that_the_training_does_not_have() public {
        (uint64 job, uint64[] memory ids) = trainedJob();
        BountyTerms memory t = bountyTerms(job);
        t.start[4].name = "param.x";
        vm.prank(sponsor);
        uint64 id = bounties.offer(t);
        bounties.begin(id, ids[2]);
        uint64 segment = evaluated(900);
        bytes32[] memory path = pathOf(measured(900), 2);
        refused(abi.encodeWithSelector(IBounties.BadProof.selector));
        bounties.show(id, t, segment, trained(), 900, path);
    }

    function test_nobody_is_paid_twice_or_for_another_job() public {
        (uint64 job, uint64[] memory ids) = trainedJob();
        uint64 id = offered(job);
        bounties.begin(id, ids[2]);
        uint64 segment = evaluated(900);
        show(id, job, segment, 900);
        collect(id, ids);
        refused(abi.encodeWithSelector(IBounties.IsPaid.selector, id, ids[1]));
        collect(id, one(ids[1]));
        refused(abi.encodeWithSelector(IBounties.NotOfTheJob.selector, segment, job));
        collect(id, one(segment));
        uint64 running = served(post(), 0);
        refused(abi.encodeWithSelector(IBounties.WrongState.selector, running, SegmentState.SERVED));
        collect(id, one(running));
        bounties.giveBack(id);
        refused(abi.encodeWithSelector(IBounties.IsReturned.selector, id));
        bounties.giveBack(id);
        refused(abi.encodeWithSelector(IBounties.NothingToWithdraw.selector, sponsor));
        vm.prank(sponsor);
        bounties.withdraw();
    }

    function test_it_reads_one_jobs_contract() public view {
        assertEq(bounties.jobs(), address(jobs), "jobs");
        assertEq(bounties.token(), address(token), "token");
    }
}
