// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IJobsLog} from "../src/interfaces/IJobs.sol";
import {Hashes} from "../src/libraries/Hashes.sol";
import {SegmentState} from "../src/types/Types.sol";
import {Network} from "./utils/Network.sol";

contract DrawTest is Network {
    uint64 internal job;

    function setUp() public override {
        super.setUp();
        job = post();
    }

    function refused(bytes memory reason) internal {
        vm.expectRevert(reason);
    }

    // ---- draw

    function test_draw_is_what_the_seed_block_says() public {
        uint64 id = committed(job, 0);
        uint64 seedBlock = jobs.segment(id).seedBlock;
        mine(2);
        refused(abi.encodeWithSelector(IJobsLog.BlockTooEarly.selector, seedBlock, seedBlock));
        jobs.draw(id);
        mine(1);
        jobs.draw(id);
        bytes32 seed = Hashes.seed(hashOf(seedBlock), id, 0);
        uint64[] memory units = jobs.unitsOf(id);
        assertEq(units.length, 2, "units");
        for (uint32 j = 0; j < 2; ++j) {
            assertEq(units[j], Hashes.unit(seed, j, 4, MICROS, 3, 1), "unit");
        }
        address[] memory who = committee(id);
        assertEq(who.length, 3, "verifiers");
        uint256 found = 0;
        for (uint32 i = 0; found < 3; ++i) {
            address holder = verifier(Hashes.slot(seed, i, 6));
            bool again = false;
            for (uint256 k = 0; k < found; ++k) {
                if (who[k] == holder) again = true;
            }
            if (again) continue;
            assertEq(holder, who[found++], "verifier");
        }
        for (uint256 i = 0; i < 3; ++i) {
            assertEq(stakes.reservation(who[i], id), DRAW_BOND, "draw bond");
        }
        assertEq(jobs.segment(id).serveBy, timeNow + 100, "serve by");
        refused(abi.encodeWithSelector(IJobsLog.WrongState.selector, id, SegmentState.DRAWN));
        jobs.draw(id);
    }

    /// However late: the seed block is the due one plus a multiple of 256, in reach.
    function testFuzz_a_late_draw_has_no_choice(uint256 late) public {
        uint64 id = committed(job, 0);
        uint64 due = jobs.segment(id).seedBlock;
        late = bound(late, 1, 2000);
        blockNow = due + late;
        vm.roll(blockNow);
        uint256 expected = due;
        while (expected + 256 < blockNow) expected += 256;
        vm.setBlockhash(expected, hashOf(expected));
        jobs.draw(id);
        assertEq(jobs.segment(id).seedBlock, expected, "seed block");
        assertEq(jobs.unitsOf(id)[0], Hashes.unit(Hashes.seed(hashOf(expected), id, 0), 0, 4, MICROS, 3, 1), "unit");
    }

    function test_provider_client_and_poor_seats_are_not_drawn() public {
        vm.startPrank(provider);
        for (uint256 i = 0; i < 10; ++i) {
            stakes.takeSeat();
        }
        vm.stopPrank();
        vm.startPrank(client);
        stakes.deposit(500e6);
        for (uint256 i = 0; i < 8; ++i) {
            stakes.takeSeat();
        }
        vm.stopPrank();
        for (uint256 i = 0; i < 3; ++i) {
            vm.prank(verifier(i));
            stakes.unbond(150e6 - DRAW_BOND + 1);
        }
        mine(1);
        uint64 id = drawn(job, 0);
        address[] memory who = committee(id);
        assertEq(who.length, 3, "found");
        for (uint256 i = 0; i < 3; ++i) {
            assertTrue(who[i] == verifier(3) || who[i] == verifier(4) || who[i] == verifier(5), "the three that can");
        }
    }

    function test_seats_are_those_of_the_commitments_block() public {
        uint64 id = committed(job, 0);
        mine(1);
        for (uint256 i = 0; i < 3; ++i) {
            vm.prank(verifier(i));
            stakes.leaveSeat(uint64(i + 1));
        }
        mine(1);
        vm.startPrank(other);
        for (uint256 i = 0; i < 30; ++i) {
            stakes.takeSeat();
        }
        vm.stopPrank();
        mine(1);
        jobs.draw(id);
        bytes32 seed = Hashes.seed(hashOf(jobs.segment(id).seedBlock), id, 0);
        assertEq(committee(id)[0], verifier(Hashes.slot(seed, 0, 6)), "the first try");
    }

    function test_too_few_verifiers_refuse_and_then_fail_the_segment() public {
        for (uint256 i = 1; i < VERIFIERS; ++i) {
            vm.prank(verifier(i));
            stakes.leaveSeat(uint64(i + 1));
        }
        mine(1);
        uint64 id = committed(job, 0);
        uint64 drawBy = jobs.segment(id).drawBy;
        mine(3);
        refused(abi.encodeWithSelector(IJobsLog.TooFewVerifiers.selector, 1, uint32(2)));
        jobs.draw(id);
        pass(drawBy);
        vm.expectEmit(true, true, true, true, address(jobs));
        emit IJobsLog.Unpaid(id, "too few verifiers");
        jobs.draw(id);
        assertState(id, SegmentState.UNPAID);
        assertEq(stakes.freeStake(provider), 2000e6, "bond released");
        assertEq(escrow(job), BUDGET, "escrow");
        assertEq(jobs.job(job).child, 0, "open again");
    }

    // ---- served, redraw

    function test_served_takes_a_quorum_of_receipts() public {
        uint64 id = drawn(job, 0);
        address[] memory who = committee(id);
        bytes[] memory signatures = new bytes[](1);
        signatures[0] = receipt(id, who[0]);
        refused(abi.encodeWithSelector(IJobsLog.NoQuorum.selector, 1, uint32(2)));
        jobs.served(id, first(who, 1), signatures);
        refused(abi.encodeWithSelector(IJobsLog.LengthMismatch.selector, 2, 1));
        jobs.served(id, first(who, 2), signatures);
        address[] memory twice = first(who, 2);
        twice[1] = who[0];
        bytes[] memory both = new bytes[](2);
        both[0] = both[1] = signatures[0];
        refused(abi.encodeWithSelector(IJobsLog.NoQuorum.selector, 1, uint32(2)));
        jobs.served(id, twice, both);
        twice[1] = who[1];
        refused(abi.encodeWithSelector(IJobsLog.BadSignature.selector, who[1]));
        jobs.served(id, twice, both);
        twice[1] = provider;
        refused(abi.encodeWithSelector(IJobsLog.NotDrawn.selector, id, provider));
        jobs.served(id, twice, both);
        serve(id, first(who, 2));
        assertState(id, SegmentState.SERVED);
        assertEq(jobs.segment(id).sealBy, timeNow + 200, "seal by");
        both[1] = receipt(id, who[1]);
        refused(abi.encodeWithSelector(IJobsLog.WrongState.selector, id, SegmentState.SERVED));
        jobs.served(id, first(who, 2), both);
    }

    function test_served_needs_no_signature_of_the_sender() public {
        uint64 id = drawn(job, 0);
        address[] memory who = first(committee(id), 2);
        bytes[] memory signatures = new bytes[](2);
        signatures[1] = receipt(id, who[1]);
        vm.prank(who[0]);
        jobs.served(id, who, signatures);
        assertState(id, SegmentState.SERVED);
    }

    function test_receipts_come_in_time_and_of_this_round() public {
        uint64 id = drawn(job, 0);
        address[] memory who = committee(id);
        bytes[] memory signatures = new bytes[](2);
        (signatures[0], signatures[1]) = (receipt(id, who[0]), receipt(id, who[1]));
        uint64 by = jobs.segment(id).serveBy;
        refused(abi.encodeWithSelector(IJobsLog.TooEarly.selector, by, uint64(timeNow)));
        jobs.redraw(id);
        pass(by);
        refused(abi.encodeWithSelector(IJobsLog.TooLate.selector, by, by + 1));
        jobs.served(id, first(who, 2), signatures);
        jobs.redraw(id);
        mine(3);
        jobs.draw(id);
        who = committee(id);
        refused(abi.encodeWithSelector(IJobsLog.BadSignature.selector, who[0]));
        jobs.served(id, first(who, 2), signatures);
    }

    function test_redraw_keeps_the_units_and_asks_others() public {
        uint64 id = drawn(job, 0);
        uint64[] memory units = jobs.unitsOf(id);
        address[] memory who = committee(id);
        pass(jobs.segment(id).serveBy);
        vm.expectEmit(true, true, true, true, address(jobs));
        emit IJobsLog.Redrawn(id, 1, "keys withheld", uint64(blockNow + 2));
        jobs.redraw(id);
        assertState(id, SegmentState.COMMITTED);
        for (uint256 i = 0; i < 3; ++i) {
            assertEq(stakes.reservation(who[i], id), 0, "draw bonds are released");
        }
        mine(3);
        jobs.draw(id);
        uint64[] memory more = jobs.unitsOf(id);
        assertEq(more.length, 4, "units add up");
        assertEq(more[0], units[0], "first");
        assertEq(more[1], units[1], "second");
        address[] memory now_ = committee(id);
        for (uint256 i = 0; i < 3; ++i) {
            for (uint256 k = 0; k < 3; ++k) {
                assertTrue(now_[i] != who[k], "others");
            }
        }
        // Six verifiers are two committees: in the third round, those who were drawn are drawn again.
        pass(jobs.segment(id).serveBy);
        jobs.redraw(id);
        mine(3);
        jobs.draw(id);
        assertEq(committee(id).length, 3, "again");
        assertEq(jobs.unitsOf(id).length, 6, "all units");
    }

    function test_unserved_for_good_is_unpaid_and_disputable_for_a_while() public {
        uint64 id = unserved(true);
        assertState(id, SegmentState.UNPAID);
        assertEq(stakes.reservation(provider, id), 6 * PRICE, "bond reserved");
        assertEq(escrow(job), BUDGET, "escrow");
        uint64 until = jobs.segment(id).settleAfter;
        assertEq(until, timeNow + 500, "window");
        refused(abi.encodeWithSelector(IJobsLog.TooEarly.selector, until, uint64(timeNow)));
        jobs.clearBond(id);
        pass(until);
        vm.prank(stranger);
        jobs.clearBond(id);
        assertEq(stakes.freeStake(provider), 2000e6, "released");
        refused(abi.encodeWithSelector(IJobsLog.NoBond.selector, id));
        jobs.clearBond(id);
    }

    function test_without_keys_the_bond_is_as_long_disputable() public {
        uint64 id = unserved(false);
        assertState(id, SegmentState.UNPAID);
        assertEq(stakes.reservation(provider, id), 6 * PRICE, "bond reserved");
        pass(jobs.segment(id).settleAfter);
        jobs.clearBond(id);
        assertEq(stakes.freeStake(provider), 2000e6, "released");
    }

    /// Three rounds without receipts; with keys from the key service, and a chunk that is not shown, or without.
    function unserved(bool keys) internal returns (uint64 id) {
        id = committed(job, 0);
        for (uint256 round = 0; round < 3; ++round) {
            mine(3);
            jobs.draw(id);
            address[] memory who = committee(id);
            releaseKeys(id, provider, who);
            releaseKeys(id, keyService, keys ? first(who, 2) : first(who, 1));
            pass(jobs.segment(id).serveBy);
            if (round == 2 && keys) {
                jobs.redraw(id);
                pass(jobs.segment(id).serveBy);
            }
            if (round == 2) {
                vm.expectEmit(true, true, true, true, address(jobs));
                emit IJobsLog.Unpaid(id, keys ? "not served" : "keys withheld");
            }
            jobs.redraw(id);
        }
    }
}
