// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IJobsLog} from "../src/interfaces/IJobs.sol";
import {Offer, SegmentState, Terms} from "../src/types/Types.sol";
import {Network} from "./utils/Network.sol";

contract EndsTest is Network {
    uint64 internal job;

    function setUp() public override {
        super.setUp();
        job = post();
    }

    function refused(bytes memory reason) internal {
        vm.expectRevert(reason);
    }

    // ---- settle

    function test_settle_pays_provider_and_verifiers_and_frees_all_bonds() public {
        uint64 id = attested(job, 0);
        uint64 until = jobs.segment(id).settleAfter;
        vm.warp(until);
        refused(abi.encodeWithSelector(IJobsLog.TooEarly.selector, until, until));
        jobs.settle(id);
        vm.warp(until + 1);
        vm.prank(stranger);
        jobs.settle(id);
        assertState(id, SegmentState.SETTLED);
        assertEq(jobs.credit(provider), PRICE, "provider");
        assertEq(stakes.freeStake(provider), 2000e6, "its bond");
        address[] memory who = committee(id);
        for (uint256 i = 0; i < 3; ++i) {
            assertEq(jobs.credit(who[i]), FEE, "verifier");
            assertEq(stakes.freeStake(who[i]), 150e6, "its bond");
        }
        assertEq(escrow(job), BUDGET - PRICE - 3 * FEE, "escrow");
        refused(abi.encodeWithSelector(IJobsLog.WrongState.selector, id, SegmentState.SETTLED));
        jobs.settle(id);
    }

    function test_settlement_is_in_order() public {
        uint64 a = attested(job, 0);
        uint64 b = attested(job, a);
        pass(jobs.segment(b).settleAfter);
        refused(abi.encodeWithSelector(IJobsLog.ParentUnsettled.selector, a, SegmentState.ATTESTED));
        jobs.settle(b);
        jobs.settle(a);
        jobs.settle(b);
    }

    // ---- void

    function test_descendants_of_what_failed_are_void_and_unfined() public {
        uint64 a = served(job, 0);
        uint64 b = attested(job, a);
        refused(abi.encodeWithSelector(IJobsLog.NotVoidable.selector, b));
        jobs.voidSegment(b);
        refused(abi.encodeWithSelector(IJobsLog.NotVoidable.selector, a));
        jobs.voidSegment(a);
        voted(a, [1, 1, 1], 7);
        vm.prank(stranger);
        jobs.voidSegment(b);
        assertState(b, SegmentState.VOID);
        assertEq(jobs.credit(provider), 0, "not paid");
        assertEq(stakes.reservation(provider, b), 0, "not fined");
        address[] memory who = committee(b);
        for (uint256 i = 0; i < 3; ++i) {
            assertTrue(jobs.credit(who[i]) >= FEE, "its verifiers are paid");
            assertEq(stakes.reservation(who[i], b), 0, "and free");
        }
        refused(abi.encodeWithSelector(IJobsLog.WrongState.selector, b, SegmentState.VOID));
        jobs.voidSegment(b);
    }

    function test_void_reaches_grandchildren_one_by_one_and_running_work() public {
        Terms memory t = terms();
        t.params.depth = 3;
        vm.prank(client);
        job = jobs.post(t);
        uint64 a = served(job, 0);
        uint64 b = committed(job, a);
        uint64 c = activated(other, job, b);
        voted(a, [1, 1, 1], 7);
        refused(abi.encodeWithSelector(IJobsLog.NotVoidable.selector, c));
        jobs.voidSegment(c);
        pass(jobs.segment(c).leaseUntil);
        refused(abi.encodeWithSelector(IJobsLog.AncestorFailed.selector, b, a));
        jobs.lapse(c);
        jobs.voidSegment(b);
        refused(abi.encodeWithSelector(IJobsLog.AncestorFailed.selector, b, b));
        jobs.lapse(c);
        jobs.voidSegment(c);
        assertState(c, SegmentState.VOID);
        assertEq(stakes.freeStake(other), 2000e6, "no late fee");
        assertEq(jobs.job(job).live, 0, "nothing is live");
        assigned(provider, job, 0);
    }

    function test_nothing_is_committed_under_a_failed_ancestor() public {
        uint64 a = served(job, 0);
        uint64 b = activated(other, job, a);
        voted(a, [1, 1, 1], 7);
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.AncestorFailed.selector, a, a));
        vm.prank(other);
        jobs.commit(b, 8, 0, 0, new bytes32[](0), "", 0, "");
    }

    // ---- disputes

    function test_only_the_disputes_contract_disputes() public {
        uint64 id = attested(job, 0);
        bytes memory reason = abi.encodeWithSelector(IJobsLog.NotDisputes.selector, stranger);
        vm.startPrank(stranger);
        refused(reason);
        jobs.disputeOpened(id);
        refused(reason);
        jobs.disputeResolved(id, true);
        vm.stopPrank();
    }

    function test_an_open_dispute_stops_settlement_until_the_challenger_loses() public {
        uint64 id = attested(job, 0);
        pass(jobs.segment(id).settleAfter);
        disputes.opened(id);
        disputes.opened(id);
        refused(abi.encodeWithSelector(IJobsLog.DisputeOpen.selector, id, uint32(2)));
        jobs.settle(id);
        disputes.resolved(id, false);
        refused(abi.encodeWithSelector(IJobsLog.DisputeOpen.selector, id, uint32(1)));
        jobs.settle(id);
        disputes.resolved(id, false);
        refused(abi.encodeWithSelector(IJobsLog.NoDisputeOpen.selector, id));
        disputes.resolved(id, false);
        jobs.settle(id);
        refused(abi.encodeWithSelector(IJobsLog.WrongState.selector, id, SegmentState.SETTLED));
        disputes.opened(id);
    }

    function test_a_lost_dispute_rejects_and_the_bond_pays() public {
        uint64 id = served(job, 0);
        voted(id, [0, 0, 1], 4);
        assertState(id, SegmentState.ATTESTED);
        uint64 b = committed(job, id);
        disputes.opened(id);
        disputes.opened(id);
        vm.expectEmit(true, true, true, true, address(jobs));
        emit IJobsLog.Rejected(id);
        disputes.resolved(id, true);
        assertState(id, SegmentState.REJECTED);
        address[] memory who = committee(id);
        assertEq(jobs.credit(who[2]), FEE, "who said no is paid");
        assertEq(jobs.credit(who[0]) + jobs.credit(who[1]) + jobs.credit(provider), 0, "nobody else");
        assertEq(escrow(job), BUDGET - FEE - PRICE - FEES, "back to the job, but for the child's");
        disputes.slash(provider, id, 3 * PRICE, 2 * PRICE);
        assertEq(token.balanceOf(BURN), 2 * PRICE, "burnt");
        refused(abi.encodeWithSelector(IJobsLog.DisputeOpen.selector, id, uint32(1)));
        disputes.clear(id);
        disputes.resolved(id, true);
        assertState(id, SegmentState.REJECTED);
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.NotDisputes.selector, address(this)));
        jobs.clearBond(id);
        vm.expectEmit(true, true, true, true, address(jobs));
        emit IJobsLog.BondCleared(id, 3 * PRICE);
        disputes.clear(id);
        jobs.voidSegment(b);
        assertEq(stakes.freeStake(provider), 2000e6 - 3 * PRICE, "the rest is free");
        assigned(other, job, 0);
    }

    function test_a_segment_can_be_disputed_from_its_draw_on() public {
        uint64 id = committed(job, 0);
        refused(abi.encodeWithSelector(IJobsLog.WrongState.selector, id, SegmentState.COMMITTED));
        disputes.opened(id);
        mine(3);
        jobs.draw(id);
        disputes.opened(id);
        address[] memory who = committee(id);
        disputes.resolved(id, true);
        assertState(id, SegmentState.REJECTED);
        for (uint256 i = 0; i < 3; ++i) {
            assertEq(stakes.freeStake(who[i]), 150e6, "drawn verifiers are free");
        }
    }

    function test_a_no_is_paid_when_a_dispute_bears_it_out() public {
        uint64 id = served(job, 0);
        voted(id, [1, 0, 0], 1);
        disputes.opened(id);
        disputes.resolved(id, true);
        assertState(id, SegmentState.REJECTED);
        address[] memory who = committee(id);
        assertEq(jobs.credit(who[0]), FEE, "who said no");
        assertEq(jobs.credit(who[1]) + jobs.credit(who[2]), 0, "who said yes");
    }

    function test_a_withheld_segment_can_be_disputed_and_stays_what_it_is() public {
        uint64 id = withheld(job, 0);
        disputes.opened(id);
        disputes.slash(provider, id, PRICE, PRICE);
        disputes.resolved(id, true);
        assertState(id, SegmentState.WITHHELD);
        disputes.clear(id);
        assertEq(stakes.freeStake(provider), 2000e6 - PRICE, "the rest is free");
        refused(abi.encodeWithSelector(IJobsLog.WrongState.selector, id, SegmentState.WITHHELD));
        disputes.opened(id);
        refused(abi.encodeWithSelector(IJobsLog.NoBond.selector, id));
        disputes.clear(id);
    }

    function test_a_disputed_child_is_not_void_before_its_dispute_is_over() public {
        uint64 a = served(job, 0);
        uint64 b = attested(job, a);
        disputes.opened(b);
        voted(a, [1, 1, 1], 7);
        refused(abi.encodeWithSelector(IJobsLog.DisputeOpen.selector, b, uint32(1)));
        jobs.voidSegment(b);
        disputes.resolved(b, false);
        jobs.voidSegment(b);
    }

    function test_a_slashed_draw_bond_does_not_stop_the_end() public {
        uint64 id = attested(job, 0);
        address[] memory who = committee(id);
        disputes.slash(who[0], id, DRAW_BOND, DRAW_BOND);
        pass(jobs.segment(id).settleAfter);
        jobs.settle(id);
        assertEq(stakes.stakeOf(who[0]), 200e6 - DRAW_BOND, "slashed");
        assertEq(stakes.freeStake(who[0]), 150e6 - DRAW_BOND, "no more than that");
    }

    function test_clear_bond_is_for_failed_segments() public {
        uint64 id = attested(job, 0);
        refused(abi.encodeWithSelector(IJobsLog.WrongState.selector, id, SegmentState.ATTESTED));
        jobs.clearBond(id);
    }

    /// With no free stake left to be reserved: what is reserved cannot be unbonded, so a liar's bond is there when it is wanted.
    function test_what_is_reserved_cannot_leave() public {
        uint64 id = withheld(job, 0);
        uint128 free = stakes.freeStake(provider);
        vm.startPrank(provider);
        stakes.unbond(free);
        vm.warp(timeNow + 10 * UNBOND);
        stakes.withdrawStake();
        vm.expectPartialRevert(bytes4(keccak256("InsufficientStake(address,uint128,uint128)")));
        stakes.unbond(1);
        vm.stopPrank();
        assertEq(stakes.reservation(provider, id), 6 * PRICE, "reserved");
        assertEq(token.balanceOf(address(stakes)), stakes.stakeOf(provider) + 2000e6 + VERIFIERS * 200e6, "and there");
    }
}
