// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Stakes} from "../src/Stakes.sol";
import {TestToken} from "../src/TestToken.sol";
import {IJobs} from "../src/interfaces/IJobs.sol";
import {Check, Job, Segment, SegmentState} from "../src/types/Types.sol";
import {Handler} from "./utils/Handler.sol";
import {Fuzzed} from "./utils/Fuzzed.sol";

/// What holds after any calls in any order (test/utils/Handler.sol makes them, and checks what holds over each one).
contract InvariantsTest is Fuzzed {
    Handler internal handler;
    TestToken internal token;
    Stakes internal stakes;
    IJobs internal jobs;
    address internal disputes;
    uint128 internal seatStake;
    address internal constant BURN = 0x000000000000000000000000000000000000dEaD;

    function setUp() public {
        handler = new Handler();
        (address token_, address stakes_, address jobs_, address disputes_, uint128 seat) = handler.network();
        (token, stakes, jobs, disputes, seatStake) = (TestToken(token_), Stakes(stakes_), IJobs(jobs_), disputes_, seat);
    }

    function targetContracts() public view returns (address[] memory) {
        return only(address(handler));
    }

    function targetSelectors() public view returns (FuzzSelector[] memory) {
        bytes4[26] memory all = [
            Handler.postJob.selector,
            Handler.fundJob.selector,
            Handler.cancelJob.selector,
            Handler.closeJob.selector,
            Handler.withdraw.selector,
            Handler.deposit.selector,
            Handler.unbond.selector,
            Handler.withdrawStake.selector,
            Handler.takeOrLeaveSeat.selector,
            Handler.assign.selector,
            Handler.assign.selector,
            Handler.assign.selector,
            Handler.assign.selector,
            Handler.proceed.selector,
            Handler.proceed.selector,
            Handler.proceed.selector,
            Handler.proceedAgain.selector,
            Handler.proceedAgain.selector,
            Handler.proceedAgain.selector,
            Handler.proceedAgain.selector,
            Handler.voidSegment.selector,
            Handler.dispute.selector,
            Handler.dispute.selector,
            Handler.reject.selector,
            Handler.trespass.selector,
            Handler.wait.selector
        ];
        bytes4[] memory drawn = new bytes4[](all.length);
        for (uint256 i = 0; i < all.length; ++i) {
            drawn[i] = all[i];
        }
        return only(address(handler), drawn);
    }

    function live(SegmentState state) internal pure returns (bool) {
        return state != SegmentState.NONE && state < SegmentState.SETTLED;
    }

    function invariant_everything() public view {
        assertTrue(bytes(handler.fault()).length == 0, handler.fault());
        stakeIsWhereItShouldBe();
        escrowIsWhereItShouldBe();
        nothingIsLost();
        nobodyIsPaidForAnUnsettledSegment();
        segmentsStandInOrder();
    }

    /// The tokens of Stakes are the stakes; of each, what is reserved and unbonding is there, and is the sum of its parts.
    function stakeIsWhereItShouldBe() internal view {
        uint256 total = 0;
        for (uint256 i = 0; i < handler.actorCount(); ++i) {
            address who = handler.actors(i);
            uint256 reserved = handler.seats(who) * seatStake;
            for (uint64 id = 1; id <= jobs.segmentCount(); ++id) {
                reserved += stakes.reservation(who, id);
            }
            (uint128 unbonding,) = stakes.unbondingOf(who);
            assertEq(stakes.reservedOf(who), reserved, "reserved is the sum of the reservations");
            assertTrue(stakes.reservedOf(who) + unbonding <= stakes.stakeOf(who), "reserved and unbonding stake is there");
            total += stakes.stakeOf(who);
        }
        assertEq(token.balanceOf(address(stakes)), total, "tokens of Stakes");
    }

    /// The tokens of Jobs are credits, free escrow, and what live segments hold.
    function escrowIsWhereItShouldBe() internal view {
        uint256 total = 0;
        for (uint256 i = 0; i < handler.actorCount(); ++i) {
            total += jobs.credit(handler.actors(i));
        }
        for (uint64 id = 1; id <= jobs.jobCount(); ++id) {
            total += jobs.job(id).escrow;
        }
        for (uint64 id = 1; id <= jobs.segmentCount(); ++id) {
            Segment memory s = jobs.segment(id);
            if (live(s.state)) total += s.price + s.feesHeld;
            else if (s.state == SegmentState.WITHHELD) total += s.feesHeld;
            else assertEq(s.feesHeld, 0, "an ended segment holds nothing");
        }
        assertEq(token.balanceOf(address(jobs)), total, "tokens of Jobs");
    }

    /// Money in = money out + escrow + stakes + credits + burnt.
    function nothingIsLost() internal view {
        uint256 total =
            token.balanceOf(address(stakes)) + token.balanceOf(address(jobs)) + token.balanceOf(BURN) + token.balanceOf(disputes);
        for (uint256 i = 0; i < handler.actorCount(); ++i) {
            total += token.balanceOf(handler.actors(i));
        }
        assertEq(total, token.totalSupply(), "all tokens");
    }

    /// All that an account was ever credited is the prices of its settled segments, its fees by the rules, and refunds.
    function nobodyIsPaidForAnUnsettledSegment() internal view {
        for (uint256 i = 0; i < handler.actorCount(); ++i) {
            address who = handler.actors(i);
            uint256 due = i == 0 ? handler.refunds() : 0;
            for (uint64 id = 1; id <= jobs.segmentCount(); ++id) {
                Segment memory s = jobs.segment(id);
                if (live(s.state)) continue;
                if (s.state == SegmentState.SETTLED && s.provider == who) due += s.price;
                due += feesOf(who, id, s);
            }
            assertEq(jobs.credit(who) + handler.withdrawn(who), due, "credited");
        }
    }

    function feesOf(address who, uint64 id, Segment memory s) internal view returns (uint256 due) {
        uint128 fee = jobs.job(s.job).fee;
        for (uint32 round = 0; round <= s.round; ++round) {
            Check[] memory checks = jobs.checksOf(id, round);
            for (uint256 k = 0; k < checks.length; ++k) {
                if (checks[k].verifier != who || !checks[k].opened) continue;
                if (s.state == SegmentState.SETTLED && !checks[k].prevailed) continue;
                bool borneOut = s.state == SegmentState.REJECTED || (s.state == SegmentState.WITHHELD && handler.borneOut(id));
                if (borneOut ? checks[k].agrees : s.state == SegmentState.WITHHELD) continue;
                due += fee;
            }
        }
    }

    /// Settled under settled; one live child a range; a job counts its live segments; nothing is paid or bonded after the end but
    /// what a dispute may still want.
    function segmentsStandInOrder() internal view {
        uint256[8] memory lives;
        for (uint64 id = 1; id <= jobs.segmentCount(); ++id) {
            Segment memory s = jobs.segment(id);
            if (live(s.state)) ++lives[s.job];
            uint64 child = s.parent == 0 ? jobs.job(s.job).child : jobs.segment(s.parent).child;
            bool stands = live(s.state) || s.state == SegmentState.SETTLED;
            assertTrue(stands == (child == id), "the range names the segment that stands in it");
            if (s.state == SegmentState.SETTLED) {
                assertTrue(s.parent == 0 || jobs.segment(s.parent).state == SegmentState.SETTLED, "settled under settled");
                assertEq(s.disputes, 0, "no dispute open");
            }
            bool wanted = s.state == SegmentState.UNPAID || s.state == SegmentState.WITHHELD || s.state == SegmentState.REJECTED;
            if (!live(s.state) && !wanted) assertEq(stakes.reservation(s.provider, id), 0, "bond is free");
            if (!live(s.state)) noDrawBonds(id, s);
        }
        for (uint64 job = 1; job <= jobs.jobCount(); ++job) {
            assertEq(jobs.job(job).live, lives[job], "live segments");
            if (jobs.job(job).closed) assertEq(jobs.job(job).escrow, 0, "a closed job holds nothing");
        }
    }

    function noDrawBonds(uint64 id, Segment memory s) internal view {
        for (uint32 round = 0; round <= s.round; ++round) {
            Check[] memory checks = jobs.checksOf(id, round);
            for (uint256 k = 0; k < checks.length; ++k) {
                assertEq(stakes.reservation(checks[k].verifier, id), 0, "draw bonds are free");
            }
        }
    }

    /// The handler does get everywhere: every end is reached by its calls, and the invariants hold on the way.
    function test_the_handler_reaches_every_end() public {
        uint256 seed = 7;
        bytes4[] memory selectors = targetSelectors()[0].selectors;
        for (uint256 i = 0; i < 700; ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            (bool done,) = address(handler).call(abi.encodeWithSelector(selectors[seed % selectors.length], seed >> 8));
            done;
            if (i % 50 == 49) this.invariant_everything();
        }
        for (uint8 state = uint8(SegmentState.SETTLED); state <= uint8(SegmentState.REJECTED); ++state) {
            assertTrue(handler.reached(SegmentState(state)) > 0, string.concat("reached state ", vm.toString(state)));
        }
        assertTrue(handler.shown() > 0, "a chunk was shown");
    }
}
