// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Stakes} from "../src/Stakes.sol";
import {TestToken} from "../src/TestToken.sol";
import {IJobsLog} from "../src/interfaces/IJobs.sol";
import {IStakes} from "../src/interfaces/IStakes.sol";
import {Network} from "./utils/Network.sol";

/// Delivers one unit less than it was asked to.
contract SkimmingToken is TestToken {
    function _update(address from, address to, uint256 value) internal override {
        super._update(from, to, value);
        if (from != address(0) && to != address(0xdead)) super._update(to, address(0xdead), 1);
    }
}

contract StakesTest is Network {
    address internal one = verifier(0);

    function refused(bytes memory reason) internal {
        vm.expectRevert(reason);
    }

    // ---- accounts

    function test_deposit_unbond_withdraw() public {
        uint256 had = token.balanceOf(one);
        vm.startPrank(one);
        stakes.deposit(30e6);
        assertEq(stakes.stakeOf(one), 230e6, "stake");
        assertEq(stakes.freeStake(one), 180e6, "free");
        stakes.unbond(100e6);
        assertEq(stakes.freeStake(one), 80e6, "free while unbonding");
        refused(abi.encodeWithSelector(IStakes.StillUnbonding.selector, uint64(timeNow) + UNBOND));
        stakes.withdrawStake();
        vm.warp(timeNow + UNBOND);
        stakes.withdrawStake();
        assertEq(token.balanceOf(one), had - 30e6 + 100e6, "tokens");
        assertEq(stakes.stakeOf(one), 130e6, "stake after");
        refused(abi.encodeWithSelector(IStakes.NothingUnbonding.selector, one));
        stakes.withdrawStake();
        vm.stopPrank();
    }

    function test_a_further_unbond_starts_the_delay_again() public {
        vm.startPrank(one);
        stakes.unbond(10e6);
        vm.warp(timeNow + UNBOND - 1);
        stakes.unbond(5e6);
        (uint128 amount, uint64 until) = stakes.unbondingOf(one);
        assertEq(amount, 15e6, "unbonding");
        assertEq(until, timeNow + 2 * UNBOND - 1, "until");
        vm.stopPrank();
    }

    function test_refuses_bad_amounts_and_registrations() public {
        vm.startPrank(one);
        refused(abi.encodeWithSelector(IStakes.ZeroAmount.selector));
        stakes.deposit(0);
        refused(abi.encodeWithSelector(IStakes.ZeroAmount.selector));
        stakes.unbond(0);
        refused(abi.encodeWithSelector(IStakes.InsufficientStake.selector, one, uint128(150e6), uint128(150e6 + 1)));
        stakes.unbond(150e6 + 1);
        refused(abi.encodeWithSelector(IStakes.BadPeer.selector, 0));
        stakes.register(bytes32(uint256(1)), "");
        string memory long = string(new bytes(129));
        refused(abi.encodeWithSelector(IStakes.BadPeer.selector, 129));
        stakes.register(bytes32(uint256(1)), long);
        refused(abi.encodeWithSelector(IStakes.BadEncryptionKey.selector));
        stakes.register(0, "peer");
        stakes.register(bytes32(uint256(7)), "peer");
        assertEq(stakes.encryptionKeyOf(one), bytes32(uint256(7)), "key");
        vm.stopPrank();
    }

    function test_refuses_a_token_that_takes_fees() public {
        SkimmingToken skimming = new SkimmingToken();
        Stakes its = new Stakes(address(skimming), 1, 1);
        skimming.mint(one, 100);
        vm.startPrank(one);
        skimming.approve(address(its), 100);
        refused(abi.encodeWithSelector(IStakes.UnsupportedToken.selector, 100, 99));
        its.deposit(100);
        vm.stopPrank();
    }

    function test_only_the_minter_mints() public {
        refused(abi.encodeWithSelector(TestToken.NotMinter.selector, one));
        vm.prank(one);
        token.mint(one, 1);
    }

    // ---- binding

    function test_binds_once_by_the_deployer() public {
        Stakes fresh = new Stakes(address(token), 1, 1);
        refused(abi.encodeWithSelector(IStakes.NotDeployer.selector, one, address(this)));
        vm.prank(one);
        fresh.bind(one, one);
        refused(abi.encodeWithSelector(IStakes.BadAddress.selector));
        fresh.bind(address(0), one);
        refused(abi.encodeWithSelector(IStakes.BadAddress.selector));
        fresh.bind(one, address(0));
        fresh.bind(address(1), address(2));
        assertEq(fresh.jobs(), address(1), "jobs");
        assertEq(fresh.disputes(), address(2), "disputes");
        refused(abi.encodeWithSelector(IStakes.AlreadyBound.selector));
        fresh.bind(address(1), address(2));
        refused(abi.encodeWithSelector(IStakes.BadAddress.selector));
        new Stakes(address(0), 1, 1);
    }

    function test_only_jobs_charges_only_disputes_slash_only_stakes_seizes() public {
        vm.startPrank(one);
        refused(abi.encodeWithSelector(IStakes.NotJobs.selector, one));
        stakes.charge(one, 1, 1, "no");
        refused(abi.encodeWithSelector(IStakes.NotDisputes.selector, one));
        stakes.slash(one, 1, 1, 1);
        refused(abi.encodeWithSelector(IJobsLog.NotStakes.selector, one));
        jobs.seize(1, one, 1);
        vm.stopPrank();
    }

    function test_what_jobs_holds_is_not_free() public {
        uint64 id = assigned(provider, post(), 0);
        uint128 bond = 6 * PRICE;
        assertEq(stakes.reservation(provider, id), bond, "reservation");
        assertEq(stakes.reservedOf(provider), bond, "reserved");
        assertEq(stakes.freeStake(provider), 2000e6 - bond, "free");
        refused(abi.encodeWithSelector(IStakes.InsufficientStake.selector, provider, 2000e6 - bond, 2000e6));
        vm.prank(provider);
        stakes.unbond(2000e6);
        assertEq(stakes.reservation(one, id), 0, "another's");
        assertEq(stakes.reservation(provider, id + 1), 0, "of another segment");
    }

    function test_slash_takes_from_the_reservation_only() public {
        uint64 id = drawn(post(), 0);
        uint128 bond = 6 * PRICE;
        refused(abi.encodeWithSelector(IStakes.ReservationExceeded.selector, provider, id, bond, bond + 1));
        disputes.slash(provider, id, bond + 1, 0);
        refused(abi.encodeWithSelector(IStakes.ReservationExceeded.selector, provider, id, uint128(5), uint128(6)));
        disputes.slash(provider, id, 5, 6);
        refused(abi.encodeWithSelector(IStakes.ZeroAmount.selector));
        disputes.slash(provider, id, 0, 0);
        disputes.slash(provider, id, 50e6, 40e6);
        assertEq(token.balanceOf(BURN), 40e6, "burnt");
        assertEq(token.balanceOf(address(disputes)), 10e6, "the rest");
        assertEq(stakes.stakeOf(provider), 1950e6, "stake");
        assertEq(stakes.reservation(provider, id), bond - 50e6, "left");
        disputes.slash(provider, id, bond - 50e6, bond - 50e6);
        assertEq(stakes.reservation(provider, id), 0, "all of it");
        assertEq(stakes.reservedOf(provider), 0, "reserved");
        assertEq(stakes.freeStake(provider), 2000e6 - bond, "free");
    }

    /// What was slashed of a bond does not come back with the rest of it.
    function test_a_bond_that_was_slashed_in_part_is_freed_in_part() public {
        uint64 id = attested(post(), 0);
        address who = committee(id)[0];
        disputes.slash(who, id, DRAW_BOND / 4, 0);
        disputes.slash(provider, id, 1e6, 0);
        assertEq(stakes.reservation(who, id), DRAW_BOND - DRAW_BOND / 4, "a draw bond");
        pass(jobs.segment(id).settleAfter);
        jobs.settle(id);
        assertEq(stakes.freeStake(who), 150e6 - DRAW_BOND / 4, "the verifier's");
        assertEq(stakes.freeStake(provider), 2000e6 - 1e6, "the provider's");
        assertEq(stakes.reservation(who, id) + stakes.reservation(provider, id), 0, "nothing is reserved");
    }

    // ---- seats

    function test_seats_need_registration_and_stake() public {
        refused(abi.encodeWithSelector(IStakes.NotRegistered.selector, stranger));
        vm.prank(stranger);
        stakes.takeSeat();
        refused(abi.encodeWithSelector(IStakes.InsufficientStake.selector, client, uint128(0), SEAT_STAKE));
        vm.prank(client);
        stakes.takeSeat();
        vm.startPrank(one);
        assertEq(stakes.takeSeat(), VERIFIERS + 1, "its second");
        assertEq(stakes.reservedOf(one), 2 * SEAT_STAKE, "reserved");
        vm.stopPrank();
    }

    function test_leaving_needs_the_holder_and_frees_the_stake() public {
        refused(abi.encodeWithSelector(IStakes.NotSeatHolder.selector, uint64(2), one));
        vm.prank(one);
        stakes.leaveSeat(2);
        vm.startPrank(one);
        stakes.leaveSeat(1);
        assertEq(stakes.freeStake(one), 200e6, "free");
        refused(abi.encodeWithSelector(IStakes.NotSeatHolder.selector, uint64(1), one));
        stakes.leaveSeat(1);
        vm.stopPrank();
        assertEq(stakes.seatHolder(1), address(0), "left");
        assertEq(stakes.seatHolder(2), verifier(1), "held");
    }

    function test_the_last_seat_moves_into_the_slot_that_is_left() public {
        uint64 before = uint64(blockNow);
        mine(1);
        vm.prank(verifier(2));
        stakes.leaveSeat(3);
        mine(1);
        uint64 after_ = uint64(blockNow) - 1;
        assertEq(stakes.seatCountAt(before), 6, "seats before");
        assertEq(stakes.seatCountAt(after_), 5, "seats after");
        assertEq(stakes.holderAt(2, before), verifier(2), "who was there");
        assertEq(stakes.holderAt(2, after_), verifier(5), "who moved");
        assertEq(stakes.holderAt(5, before), verifier(5), "where it was");
        mine(1);
        vm.prank(verifier(5));
        stakes.leaveSeat(6);
        mine(1);
        assertEq(stakes.seatCount(), 4, "it left from its new slot");
        assertEq(stakes.holderAt(2, uint64(blockNow) - 1), verifier(4), "the last again");
    }

    function test_seats_of_a_block_that_is_not_over_are_not_told() public {
        refused(abi.encodeWithSelector(IStakes.FutureBlock.selector, uint64(blockNow), blockNow));
        stakes.seatCountAt(uint64(blockNow));
        refused(abi.encodeWithSelector(IStakes.FutureBlock.selector, uint64(blockNow), blockNow));
        stakes.holderAt(0, uint64(blockNow));
    }

    /// Whatever is taken and left, in any order: slots 0..count-1 hold exactly the seats that are held.
    function testFuzz_slots_hold_the_held_seats(uint256 seed) public {
        uint64[64] memory held;
        uint256 count = VERIFIERS;
        for (uint256 i = 0; i < count; ++i) {
            held[i] = uint64(i + 1);
        }
        for (uint256 i = 0; i < 40; ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            address who = verifier(seed % VERIFIERS);
            if ((seed >> 8) % 2 == 0 && stakes.freeStake(who) >= SEAT_STAKE) {
                vm.prank(who);
                held[count++] = stakes.takeSeat();
            } else if (count > 0) {
                uint256 pick = (seed >> 16) % count;
                address holder = stakes.seatHolder(held[pick]);
                vm.prank(holder);
                stakes.leaveSeat(held[pick]);
                held[pick] = held[--count];
            }
            if ((seed >> 32) % 3 == 0) mine(1);
        }
        mine(1);
        uint64 past = uint64(blockNow) - 1;
        assertEq(stakes.seatCountAt(past), count, "count");
        uint256[6] memory bySlot;
        uint256[6] memory bySeat;
        for (uint256 i = 0; i < count; ++i) {
            for (uint256 v = 0; v < VERIFIERS; ++v) {
                if (stakes.holderAt(uint64(i), past) == verifier(v)) ++bySlot[v];
                if (stakes.seatHolder(held[i]) == verifier(v)) ++bySeat[v];
            }
        }
        for (uint256 v = 0; v < VERIFIERS; ++v) {
            assertEq(bySlot[v], bySeat[v], "seats of one account");
            assertEq(stakes.reservedOf(verifier(v)), bySeat[v] * SEAT_STAKE, "reserved for seats");
        }
    }
}
