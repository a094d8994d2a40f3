// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IStakes} from "../src/interfaces/IStakes.sol";
import {IJobsLog} from "../src/interfaces/IJobs.sol";
import {KeyRelease, Offer, Segment, SegmentState, Terms} from "../src/types/Types.sol";
import {Network} from "./utils/Network.sol";

/// A contract account that signs whatever it is told to (ERC-1271).
contract Wallet {
    bytes32 public approved;

    function approve(bytes32 hash) external {
        approved = hash;
    }

    function isValidSignature(bytes32 hash, bytes calldata) external view returns (bytes4) {
        return hash == approved ? bytes4(0x1626ba7e) : bytes4(0xffffffff);
    }
}

contract AssignmentTest is Network {
    uint64 internal job;

    function setUp() public override {
        super.setUp();
        job = post();
    }

    function refuse(Offer memory o, bytes memory reason) internal {
        bytes memory signature = signOffer(o);
        vm.expectRevert(reason);
        vm.prank(scheduler);
        jobs.assign(o, signature);
    }

    // ---- assign

    function test_a_bond_has_a_part_that_does_not_follow_the_price() public {
        Terms memory t = terms();
        t.params.bondBase = 7e6;
        vm.prank(client);
        uint64 job = jobs.post(t);
        assertEq(jobs.job(job).params.bondBase, 7e6, "told");
        uint64 id = assigned(provider, job, 0);
        assertEq(jobs.segment(id).bond, 6 * PRICE + 7e6, "both parts");
        assertEq(stakes.reservation(provider, id), 6 * PRICE + 7e6, "reserved");
        t.params.bondBase = 1 << 80;
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.BadTerm.selector, "bond_base", 1 << 80, 0, type(uint80).max));
        vm.prank(client);
        jobs.post(t);
    }

    function test_assign_reserves_money_and_bond() public {
        uint64 id = assigned(provider, job, 0);
        assertState(id, SegmentState.ASSIGNED);
        assertEq(escrow(job), BUDGET - PRICE - FEES, "escrow");
        assertEq(stakes.reservation(provider, id), 6 * PRICE, "bond");
        assertEq(stakes.freeStake(provider), 2000e6 - 6 * PRICE, "free");
        Segment memory s = jobs.segment(id);
        assertEq(s.stop, SEGMENT_STEPS, "stop");
        assertEq(s.activateBy, timeNow + 100, "activate by");
        assertEq(jobs.job(job).live, 1, "live");
        assertEq(jobs.job(job).child, id, "child");
    }

    function test_assign_emits_what_was_agreed() public {
        Offer memory o = offerOf(provider, job, 0, PRICE);
        bytes memory signature = signOffer(o);
        vm.expectEmit(true, true, true, true, address(jobs));
        emit IJobsLog.Assigned(1, job, 0, provider, 0, 4, PRICE, uint64(timeNow + 100));
        vm.prank(client);
        jobs.assign(o, signature);
        assertTrue(jobs.nonceUsed(provider, o.nonce), "nonce");
    }

    function test_assign_refuses_an_offer_that_is_not_the_providers() public {
        Offer memory o = offerOf(provider, job, 0, PRICE);
        bytes memory reason = abi.encodeWithSelector(IJobsLog.BadSignature.selector, provider);
        bytes[9] memory forged;
        forged[0] = signed(OTHER_KEY, offerHash(o));
        o.price += 1;
        forged[1] = signed(PROVIDER_KEY, offerHash(o));
        o.price -= 1;
        o.nonce += 1;
        forged[2] = signed(PROVIDER_KEY, offerHash(o));
        o.nonce -= 1;
        o.stop += 1;
        forged[3] = signed(PROVIDER_KEY, offerHash(o));
        o.stop -= 1;
        o.job += 1;
        forged[4] = signed(PROVIDER_KEY, offerHash(o));
        o.job -= 1;
        o.parent += 1;
        forged[5] = signed(PROVIDER_KEY, offerHash(o));
        o.parent -= 1;
        vm.chainId(block.chainid + 1);
        forged[6] = signed(PROVIDER_KEY, offerHash(o));
        vm.chainId(block.chainid - 1);
        forged[7] = "";
        forged[8] = new bytes(65);
        for (uint256 i = 0; i < forged.length; ++i) {
            vm.expectRevert(reason);
            vm.prank(scheduler);
            jobs.assign(o, forged[i]);
        }
        bytes memory good = signOffer(o);
        vm.prank(scheduler);
        jobs.assign(o, good);
    }

    function test_a_signature_for_another_contract_is_refused() public {
        Offer memory o = offerOf(provider, job, 0, PRICE);
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("Assay"),
                keccak256("1"),
                block.chainid,
                address(stakes)
            )
        );
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(PROVIDER_KEY, keccak256(abi.encodePacked(hex"1901", domain, offerHash(o))));
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.BadSignature.selector, provider));
        vm.prank(scheduler);
        jobs.assign(o, abi.encodePacked(r, s, v));
    }

    function test_a_contract_account_may_be_a_provider() public {
        Wallet wallet = new Wallet();
        enrol(address(wallet), 1000e6);
        Offer memory o = offerOf(address(wallet), job, 0, PRICE);
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.BadSignature.selector, address(wallet)));
        vm.prank(scheduler);
        jobs.assign(o, hex"01");
        wallet.approve(keccak256(abi.encodePacked(hex"1901", jobs.domainSeparator(), offerHash(o))));
        vm.prank(scheduler);
        jobs.assign(o, hex"01");
    }

    function test_a_nonce_is_used_once() public {
        Offer memory o = offerOf(provider, job, 0, PRICE);
        bytes memory signature = signOffer(o);
        vm.prank(scheduler);
        uint64 id = jobs.assign(o, signature);
        pass(jobs.segment(id).activateBy);
        jobs.lapse(id);
        o.expires = uint64(timeNow + 1000);
        refuse(o, abi.encodeWithSelector(IJobsLog.NonceUsed.selector, provider, o.nonce));
    }

    function test_assign_refuses_what_is_not_offered_or_open() public {
        Offer memory o = offerOf(provider, job, 0, PRICE);
        o.job = 7;
        refuse(o, abi.encodeWithSelector(IJobsLog.NoSuchJob.selector, uint64(7)));
        o.job = job;
        o.expires = uint64(timeNow - 1);
        refuse(o, abi.encodeWithSelector(IJobsLog.OfferExpired.selector, o.expires, uint64(timeNow)));
        o.expires = uint64(timeNow);
        o.price = 0;
        refuse(o, abi.encodeWithSelector(IJobsLog.ZeroAmount.selector));
        o.price = 40e6 + 1;
        refuse(o, abi.encodeWithSelector(IJobsLog.PriceOverCap.selector, o.price, uint256(40e6)));
        o.price = PRICE;
        o.stop = 5;
        refuse(o, abi.encodeWithSelector(IJobsLog.WrongRange.selector, uint64(0), uint64(4)));
        o.stop = 4;
        o.start = 1;
        refuse(o, abi.encodeWithSelector(IJobsLog.WrongRange.selector, uint64(0), uint64(4)));
        o.start = 0;
        o.parent = 3;
        refuse(o, abi.encodeWithSelector(IJobsLog.WrongParent.selector, uint64(3), job));
        o.parent = 0;
        bytes memory signature = signOffer(o);
        vm.prank(scheduler);
        uint64 id = jobs.assign(o, signature);
        o.nonce += 1;
        refuse(o, abi.encodeWithSelector(IJobsLog.RangeTaken.selector, uint64(0), id));
        o.parent = id;
        refuse(o, abi.encodeWithSelector(IJobsLog.ParentNotCommitted.selector, id, SegmentState.ASSIGNED));
    }

    function test_assign_refuses_a_parent_of_another_job() public {
        uint64 id = committed(job, 0);
        uint64 second = post();
        Offer memory o = offerOf(provider, second, id, PRICE);
        refuse(o, abi.encodeWithSelector(IJobsLog.WrongParent.selector, id, second));
    }

    function test_assign_refuses_without_money_stake_or_registration() public {
        Terms memory t = terms();
        t.budget = PRICE + FEES - 1;
        vm.prank(client);
        uint64 poor = jobs.post(t);
        Offer memory o = offerOf(provider, poor, 0, PRICE);
        refuse(o, abi.encodeWithSelector(IJobsLog.InsufficientEscrow.selector, t.budget, PRICE + FEES));
        o = offerOf(client, job, 0, PRICE);
        refuse(o, abi.encodeWithSelector(IStakes.InsufficientStake.selector, client, uint128(0), 6 * PRICE));
        Wallet wallet = new Wallet();
        o = offerOf(address(wallet), job, 0, PRICE);
        wallet.approve(keccak256(abi.encodePacked(hex"1901", jobs.domainSeparator(), offerHash(o))));
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.NotRegistered.selector, address(wallet)));
        vm.prank(scheduler);
        jobs.assign(o, hex"01");
    }

    function test_assign_refuses_a_job_that_is_over() public {
        Offer memory o = offerOf(provider, job, 0, PRICE);
        uint64 deadline = jobs.job(job).deadline;
        vm.warp(deadline + 1);
        o.expires = deadline + 100;
        refuse(o, abi.encodeWithSelector(IJobsLog.JobPastDeadline.selector, job, deadline));
        vm.prank(client);
        jobs.cancel(job);
        refuse(o, abi.encodeWithSelector(IJobsLog.JobIsCancelled.selector, job));
    }

    function test_anyone_takes_over_when_the_scheduler_sleeps() public {
        Offer memory o = offerOf(provider, job, 0, PRICE);
        o.expires = type(uint64).max;
        bytes memory signature = signOffer(o);
        uint64 since = jobs.job(job).openSince;
        vm.warp(since + 300);
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.NotEntitledToAssign.selector, stranger, since + 300));
        vm.prank(stranger);
        jobs.assign(o, signature);
        vm.warp(since + 301);
        vm.prank(stranger);
        jobs.assign(o, signature);
    }

    function test_the_takeover_window_starts_anew_when_a_range_opens() public {
        uint64 id = assigned(provider, job, 0);
        pass(jobs.segment(id).activateBy + 1000);
        jobs.lapse(id);
        Offer memory o = offerOf(provider, job, 0, PRICE);
        bytes memory signature = signOffer(o);
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.NotEntitledToAssign.selector, stranger, uint64(timeNow) + 300));
        vm.prank(stranger);
        jobs.assign(o, signature);
    }

    function test_at_most_depth_unsettled_segments_stand_on_each_other() public {
        uint64 a = committed(job, 0);
        uint64 b = committed(job, a);
        Offer memory o = offerOf(provider, job, b, PRICE / 2);
        refuse(o, abi.encodeWithSelector(IJobsLog.TooDeep.selector, b, uint32(2)));
        mine(3);
        jobs.draw(a);
        serve(a, committee(a));
        voted(a, [0, 0, 0], 0);
        pass(jobs.segment(a).settleAfter);
        jobs.settle(a);
        o.expires = type(uint64).max;
        bytes memory signature = signOffer(o);
        vm.prank(scheduler);
        jobs.assign(o, signature);
    }

    function test_nothing_is_assigned_under_a_failed_ancestor() public {
        uint64 a = withheld(job, 0);
        Offer memory o = offerOf(provider, job, a, PRICE);
        refuse(o, abi.encodeWithSelector(IJobsLog.AncestorFailed.selector, a, a));
    }

    // ---- activate, lapse

    function test_activate_by_the_provider_in_time() public {
        uint64 id = assigned(provider, job, 0);
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.NotProvider.selector, stranger, provider));
        vm.prank(stranger);
        jobs.activate(id);
        uint64 by = jobs.segment(id).activateBy;
        vm.warp(by + 1);
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.TooLate.selector, by, by + 1));
        vm.prank(provider);
        jobs.activate(id);
        vm.warp(by);
        vm.prank(provider);
        jobs.activate(id);
        assertState(id, SegmentState.ACTIVE);
        assertEq(jobs.segment(id).leaseUntil, by + 1000, "lease");
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.WrongState.selector, id, SegmentState.ACTIVE));
        vm.prank(provider);
        jobs.activate(id);
    }

    function test_a_provider_without_keys_owes_no_late_fee() public {
        uint64 id = assigned(provider, job, 0);
        uint64 by = jobs.segment(id).activateBy;
        vm.warp(by);
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.TooEarly.selector, by, by));
        jobs.lapse(id);
        vm.warp(by + 1);
        vm.expectEmit(true, true, true, true, address(jobs));
        emit IJobsLog.Lapsed(id, 0);
        vm.prank(stranger);
        jobs.lapse(id);
        assertState(id, SegmentState.LAPSED);
        assertEq(stakes.freeStake(provider), 2000e6, "bond released");
        assertEq(escrow(job), BUDGET, "escrow");
        assertEq(jobs.job(job).child, 0, "open again");
    }

    function test_only_the_key_services_release_to_the_provider_counts() public {
        uint64 id = assigned(provider, job, 0);
        address[] memory who = new address[](1);
        who[0] = provider;
        releaseKeys(id, stranger, who);
        assertTrue(!jobs.segment(id).keyed, "by a stranger");
        who[0] = other;
        releaseKeys(id, keyService, who);
        assertTrue(!jobs.segment(id).keyed, "to another");
        who[0] = provider;
        releaseKeys(id, keyService, who);
        assertTrue(jobs.segment(id).keyed, "keyed");
        pass(jobs.segment(id).activateBy);
        jobs.lapse(id);
        assertEq(stakes.stakeOf(provider), 2000e6 - PRICE / 20, "late fee");
        assertEq(escrow(job), BUDGET + PRICE / 20, "to the job");
        assertEq(stakes.reservedOf(provider), 0, "the rest released");
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.WrongState.selector, id, SegmentState.LAPSED));
        jobs.lapse(id);
    }

    function test_a_lease_that_runs_out_costs_the_late_fee() public {
        uint64 id = activated(provider, job, 0);
        uint64 until = jobs.segment(id).leaseUntil;
        vm.warp(until);
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.TooEarly.selector, until, until));
        jobs.lapse(id);
        pass(until);
        jobs.lapse(id);
        assertEq(stakes.stakeOf(provider), 2000e6 - PRICE / 20, "late fee");
        uint64 again = assigned(other, job, 0);
        assertEq(again, id + 1, "a new attempt has a new number");
    }

    function test_a_late_fee_is_at_most_the_bond() public {
        Terms memory t = terms();
        (t.params.bondTenths, t.params.lateFeeBps) = (1, 5000);
        vm.prank(client);
        uint64 second = jobs.post(t);
        uint64 id = activated(provider, second, 0);
        pass(jobs.segment(id).leaseUntil);
        jobs.lapse(id);
        assertEq(stakes.stakeOf(provider), 2000e6 - PRICE / 10, "the whole bond");
    }

    function test_releases_are_bounded() public {
        uint64 id = assigned(provider, job, 0);
        KeyRelease[] memory many = new KeyRelease[](65);
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.BadLength.selector, "releases", 65, 64));
        jobs.release(id, many);
        KeyRelease[] memory one = new KeyRelease[](1);
        one[0].wrapped = new bytes(8193);
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.BadLength.selector, "wrapped", 8193, 8192));
        jobs.release(id, one);
        one[0].wrapped = new bytes(8192);
        jobs.release(id, one);
        one[0] = KeyRelease(client, keccak256("key"), hex"aabb");
        vm.expectEmit(true, true, true, true, address(jobs));
        emit IJobsLog.KeyReleased(id, client, keccak256("key"), hex"aabb", stranger);
        vm.prank(stranger);
        jobs.release(id, one);
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.NoSuchSegment.selector, uint64(99)));
        jobs.release(99, one);
    }
}
