// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Check, Offer, SegmentState, Terms} from "../src/types/Types.sol";
import {Network} from "./utils/Network.sol";

/// The words that are used again (jobs/Base.sol): what stands in them is never another segment's, also of accounts that have more
/// bonds than lanes.
contract LanesTest is Network {
    uint256 internal constant MANY = 70;
    uint128 internal constant BOND = 1e6;

    function terms() internal view override returns (Terms memory t) {
        t = super.terms();
        (t.fee, t.budget) = (1, 1e6);
        (t.params.drawBond, t.params.verifiers, t.params.quorum) = (BOND, 6, 4);
    }

    /// The first segment of a job of its own, served to all six verifiers.
    function servedToAll() internal returns (uint64 id) {
        Offer memory o = offerOf(provider, post(), 0, 1000);
        bytes memory signature = signOffer(o);
        vm.prank(scheduler);
        id = jobs.assign(o, signature);
        vm.prank(provider);
        jobs.activate(id);
        commitTo(id, o.stop);
        mine(3);
        jobs.draw(id);
        serve(id, committee(id));
    }

    function allSeal(uint64 id) internal {
        address[] memory who = committee(id);
        for (uint256 i = 0; i < who.length; ++i) {
            seal(id, vote(id, who[i], true, 0));
        }
    }

    function sealsStand(uint64 id) internal view {
        Check[] memory checks = jobs.checksOf(id, 0);
        for (uint256 i = 0; i < checks.length; ++i) {
            assertEq(checks[i].vote, digestOf(id, vote(id, checks[i].verifier, true, 0)), "its seal");
        }
    }

    function allReveal(uint64 id) internal {
        address[] memory who = committee(id);
        for (uint256 i = 0; i < who.length; ++i) {
            reveal(id, fullVote(id, who[i], true, 0));
        }
        assertState(id, SegmentState.ATTESTED);
    }

    function test_more_bonds_than_lanes() public {
        uint64[5] memory watched = [uint64(1), 2, 48, 49, uint64(MANY)];
        for (uint64 i = 1; i <= MANY; ++i) {
            assertEq(servedToAll(), i, "segments in order");
            // Sealed at once, while the sealing lasts.
            for (uint256 k = 0; k < watched.length; ++k) {
                if (watched[k] == i) allSeal(i);
            }
            if (i == 48) sealsStand(1);
        }
        assertEq(stakes.reservedOf(verifier(0)), SEAT_STAKE + MANY * BOND, "all draw bonds");
        for (uint256 k = 0; k < watched.length; ++k) {
            sealsStand(watched[k]);
        }
        // The last is without lanes; what it records is its own.
        mine(3);
        allReveal(uint64(MANY));
        for (uint256 k = 0; k + 1 < watched.length; ++k) {
            sealsStand(watched[k]);
        }
        pass(jobs.segment(uint64(MANY)).settleAfter);
        jobs.settle(uint64(MANY));
        assertEq(stakes.reservedOf(verifier(0)), SEAT_STAKE + (MANY - 1) * BOND, "one is free");
        assertEq(jobs.credit(verifier(0)), 1, "its fee");
        assertEq(jobs.credit(provider), 1000, "the price");
    }

    function test_a_lane_is_used_again_and_says_nothing_of_the_segment_before() public {
        uint64 a = servedToAll();
        allSeal(a);
        mine(3);
        allReveal(a);
        pass(jobs.segment(a).settleAfter);
        jobs.settle(a);
        uint64 b = servedToAll();
        Check[] memory checks = jobs.checksOf(b, 0);
        for (uint256 i = 0; i < checks.length; ++i) {
            assertEq(checks[i].vote, 0, "nothing is sealed");
        }
        assertEq(jobs.openingSeed(b), 0, "no openings are drawn");
        allSeal(b);
        sealsStand(b);
        mine(3);
        assertEq(jobs.openingSeed(b), hashOf(jobs.segment(b).openingBlock), "by its own block");
        allReveal(b);
    }
}
