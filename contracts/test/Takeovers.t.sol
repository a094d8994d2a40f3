// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Takeovers} from "../src/Takeovers.sol";
import {IJobsLog} from "../src/interfaces/IJobs.sol";
import {ITakeovers} from "../src/interfaces/ITakeovers.sol";
import {Offer, SegmentState, Terms} from "../src/types/Types.sol";
import {Network} from "./utils/Network.sol";

contract TakeoversTest is Network {
    uint32 internal constant PATIENCE = 300;

    Takeovers internal takeovers;
    uint64 internal job;

    function setUp() public override {
        super.setUp();
        takeovers = new Takeovers(address(jobs));
        entrust();
        job = postListed();
    }

    function listed() internal view returns (address[] memory found) {
        found = new address[](2);
        (found[0], found[1]) = (address(0x1234), other);
    }

    function entrust() internal {
        bytes32 digest = terms().specDigest;
        vm.prank(client);
        takeovers.entrust(digest, scheduler, PATIENCE, listed());
    }

    function postListed() internal returns (uint64) {
        Terms memory t = terms();
        t.scheduler = address(takeovers);
        t.params.takeoverWindow = 7 days;
        vm.prank(client);
        return jobs.post(t);
    }

    function assign(address sender, address who, uint64 parent, address[] memory providers) internal returns (uint64) {
        Offer memory o = offerOf(who, job, parent, PRICE);
        bytes memory signature = signOffer(o);
        vm.prank(sender);
        return takeovers.assign(o, signature, providers);
    }

    function refused(address sender, address who, uint64 parent, address[] memory providers, bytes memory reason) internal {
        Offer memory o = offerOf(who, job, parent, PRICE);
        bytes memory signature = signOffer(o);
        vm.expectRevert(reason);
        vm.prank(sender);
        takeovers.assign(o, signature, providers);
    }

    function test_the_job_s_scheduler_places_with_anybody_at_once() public {
        assertState(assign(scheduler, provider, 0, new address[](0)), SegmentState.ASSIGNED);
    }

    function test_the_client_places_without_it() public {
        Offer memory o = offerOf(provider, job, 0, PRICE);
        bytes memory signature = signOffer(o);
        vm.prank(client);
        assertState(jobs.assign(o, signature), SegmentState.ASSIGNED);
    }

    function test_a_stranger_waits_and_then_has_the_client_s_list_alone() public {
        uint64 until = uint64(timeNow) + PATIENCE;
        refused(stranger, other, 0, listed(), abi.encodeWithSelector(ITakeovers.NotEntitledToAssign.selector, stranger, until));
        pass(until);
        refused(stranger, provider, 0, listed(), abi.encodeWithSelector(ITakeovers.NotListed.selector, provider));
        address[] memory friends = new address[](1);
        friends[0] = provider;
        refused(
            stranger, provider, 0, friends, abi.encodeWithSelector(ITakeovers.WrongProviders.selector, keccak256(abi.encode(listed())))
        );
        assertState(assign(stranger, other, 0, listed()), SegmentState.ASSIGNED);
    }

    function test_nobody_goes_around_it() public {
        pass(uint64(timeNow) + PATIENCE);
        Offer memory o = offerOf(provider, job, 0, PRICE);
        bytes memory signature = signOffer(o);
        vm.expectRevert(
            abi.encodeWithSelector(IJobsLog.NotEntitledToAssign.selector, stranger, jobs.job(job).openSince + 7 days)
        );
        vm.prank(stranger);
        jobs.assign(o, signature);
    }

    function test_each_range_begins_again() public {
        pass(uint64(timeNow) + PATIENCE);
        uint64 id = assign(stranger, other, 0, listed());
        vm.prank(other);
        jobs.activate(id);
        commitTo(id, jobs.segment(id).stop);
        uint64 since = jobs.segment(id).openSince;
        refused(stranger, other, id, listed(), abi.encodeWithSelector(ITakeovers.NotEntitledToAssign.selector, stranger, since + PATIENCE));
        assertState(assign(scheduler, provider, id, new address[](0)), SegmentState.ASSIGNED);
    }

    function test_an_empty_list_leaves_the_scheduler_and_the_client() public {
        Terms memory t = terms();
        (t.specDigest, t.scheduler, t.params.takeoverWindow) = (keccak256("another"), address(takeovers), 7 days);
        vm.startPrank(client);
        takeovers.entrust(t.specDigest, scheduler, PATIENCE, new address[](0));
        job = jobs.post(t);
        vm.stopPrank();
        pass(uint64(timeNow) + PATIENCE);
        refused(stranger, other, 0, new address[](0), abi.encodeWithSelector(ITakeovers.NotListed.selector, other));
    }

    function test_a_plan_is_made_once_and_by_the_client() public {
        bytes32 digest = terms().specDigest;
        vm.expectRevert(abi.encodeWithSelector(ITakeovers.AlreadyEntrusted.selector, client, digest));
        vm.prank(client);
        takeovers.entrust(digest, scheduler, PATIENCE, listed());
        vm.prank(stranger);
        takeovers.entrust(digest, stranger, 1, new address[](0));
        (address who, uint32 patience, bytes32 providers) = takeovers.plan(client, digest);
        assertEq(who, scheduler, "the client's plan stands");
        assertEq(patience, PATIENCE, "patience");
        assertEq(providers, keccak256(abi.encode(listed())), "providers");
        refused(stranger, provider, 0, listed(), abi.encodeWithSelector(ITakeovers.NotEntitledToAssign.selector, stranger, uint64(timeNow) + PATIENCE));
    }

    function test_a_job_without_a_plan_and_a_plan_without_sense_are_refused() public {
        Terms memory t = terms();
        (t.specDigest, t.scheduler) = (keccak256("unplanned"), address(takeovers));
        vm.prank(client);
        job = jobs.post(t);
        refused(scheduler, provider, 0, listed(), abi.encodeWithSelector(ITakeovers.NotEntrusted.selector, job));
        vm.expectRevert(abi.encodeWithSelector(ITakeovers.BadTerm.selector, "scheduler", 0, 1, type(uint160).max));
        takeovers.entrust(0, address(0), 1, listed());
        vm.expectRevert(abi.encodeWithSelector(ITakeovers.BadTerm.selector, "patience", 0, 1, 7 days));
        takeovers.entrust(0, scheduler, 0, listed());
        vm.expectRevert(abi.encodeWithSelector(ITakeovers.BadTerm.selector, "patience", 7 days + 1, 1, 7 days));
        takeovers.entrust(0, scheduler, 7 days + 1, listed());
        vm.expectRevert(abi.encodeWithSelector(ITakeovers.BadTerm.selector, "providers", 65, 0, 64));
        takeovers.entrust(0, scheduler, 1, new address[](65));
    }
}
