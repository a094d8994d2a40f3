// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Opening, Reveal, SealedVote, Terms} from "../src/types/Types.sol";
import {Network} from "./utils/Network.sol";

/// Gas of every call on the way of one segment, each as a transaction of its own, calldata included: written to
/// snapshots/Jobs.json, so that a change shows in the diff. Three verifiers, two links, two openings.
/// forge-config: default.isolate = true
contract GasTest is Network {
    function took(string memory call_) internal {
        vm.snapshotGasLastCall("Jobs", call_);
    }

    function test_gas_of_a_segment() public {
        Terms memory t = terms();
        vm.prank(client);
        uint64 job = jobs.post(t);
        took("post");

        uint64 id = assigned(provider, job, 0);
        took("assign");
        vm.prank(provider);
        jobs.activate(id);
        took("activate");
        commitTo(id, 4);
        took("commit, 12 links");

        mine(3);
        jobs.draw(id);
        took("draw");
        address[] memory who = committee(id);
        releaseKeys(id, keyService, who);
        took("release, 3 keys");
        serve(id, who);
        took("served, 3 receipts");

        SealedVote[] memory seals = new SealedVote[](3);
        Reveal[] memory reveals = new Reveal[](3);
        for (uint256 i = 0; i < 3; ++i) {
            reveals[i] = vote(id, who[i], true, 0);
            seals[i] = sealOf(id, reveals[i]);
        }
        jobs.attest(id, seals);
        took("attest, 3 seals");
        jobs.reveal(id, reveals);
        took("reveal, 3 votes");
        mine(3);
        for (uint256 i = 0; i < 3; ++i) {
            Opening[] memory openings = openingsOf(id, who[i], 0);
            jobs.open(id, who[i], openings);
        }
        took("open, 2 leaves");
        jobs.decide(id);
        took("decide");
        pass(jobs.segment(id).settleAfter);
        jobs.settle(id);
        took("settle");
        vm.prank(provider);
        jobs.withdraw();
        took("withdraw");
    }
}
