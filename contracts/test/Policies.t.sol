// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {SegmentState, Reveal, SealedVote, Terms} from "../src/types/Types.sol";
import {Network} from "./utils/Network.sol";

/// What the policies of `assay submit --policy` (assay/policy.py) ask of the contract: every link drawn, and the gas of committees of several
/// sizes from the draw to the settlement, each call a transaction of its own, votes batched. Written to snapshots/Policies.json.
/// forge-config: default.isolate = true
contract PoliciesTest is Network {
    uint256 internal used;

    function add() internal {
        used += vm.lastCallGas().gasTotalUsed;
    }

    function test_gas_of_each_policy() public {
        measure("links 2, verifiers 3", 2, 3);
        measure("links 2, verifiers 4", 2, 4);
        measure("links 8, verifiers 3", 8, 3);
        measure("links 8, verifiers 6", 8, 6);
        measure("links 12, verifiers 4", 0, 4);
        measure("links 16, verifiers 3", 16, 3);
    }

    function measure(string memory name, uint32 links, uint32 verifiers) internal {
        used = 0;
        Terms memory t = terms();
        (t.params.links, t.params.verifiers, t.params.quorum, t.params.openings) = (links, verifiers, verifiers, 1);
        vm.prank(client);
        uint64 job = jobs.post(t);
        uint64 id = committed(job, 0);
        mine(3);
        jobs.draw(id);
        add();
        address[] memory who = committee(id);
        assertEq(who.length, verifiers, "verifiers");
        serveAll(id, who);
        voteAll(id, who);
        assertState(id, SegmentState.ATTESTED);
        pass(jobs.segment(id).settleAfter);
        jobs.settle(id);
        add();
        vm.snapshotValue("Policies", name, used);
    }

    function serveAll(uint64 id, address[] memory who) private {
        releaseKeys(id, keyService, who);
        add();
        serve(id, who);
        add();
    }

    function voteAll(uint64 id, address[] memory who) private {
        SealedVote[] memory seals = new SealedVote[](who.length);
        Reveal[] memory reveals = new Reveal[](who.length);
        for (uint256 i = 0; i < who.length; ++i) {
            seals[i] = sealOf(id, vote(id, who[i], true, 0));
        }
        jobs.attest(id, seals);
        add();
        mine(3);
        for (uint256 i = 0; i < who.length; ++i) {
            reveals[i] = fullVote(id, who[i], true, 0);
        }
        jobs.reveal(id, reveals);
        add();
    }

    function test_every_link_is_drawn_once_and_redraws_add_none() public {
        Terms memory t = terms();
        t.params.links = 0;
        vm.prank(client);
        uint64 id = drawn(jobs.post(t), 0);
        everyLink(id, 12);
        pass(jobs.segment(id).serveBy);
        jobs.redraw(id);
        mine(3);
        jobs.draw(id);
        everyLink(id, 12);
    }

    function test_every_link_of_a_prefix_is_drawn() public {
        Terms memory t = terms();
        t.params.links = 0;
        vm.prank(client);
        uint64 id = activated(provider, jobs.post(t), 0);
        commitTo(id, 3);
        mine(3);
        jobs.draw(id);
        everyLink(id, 9);
    }

    function everyLink(uint64 id, uint64 count) private view {
        uint64[] memory units = jobs.unitsOf(id);
        assertEq(units.length, count, "units");
        for (uint64 i = 0; i < count; ++i) {
            assertEq(units[i], i, "in order");
        }
    }
}
