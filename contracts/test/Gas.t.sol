// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IJobs} from "../src/interfaces/IJobs.sol";
import {KeyRelease, Reveal, SealedVote, SegmentState, Terms} from "../src/types/Types.sol";
import {Network} from "./utils/Network.sol";

/// Gas of every call on the way of one segment, each as a transaction of its own, calldata included: written to
/// snapshots/Jobs.json, so that a change shows in the diff. Policy as it comes (assay/chain.py): three verifiers, two links, one
/// opening; traces of 5 and 9 leaves. Of a segment in a network that runs, whose accounts have been used before; "first" in names is
/// the first segment of all. Values named "floor" are what EIP-7623 has a transaction pay at least, for its calldata.
/// forge-config: default.isolate = true
contract GasTest is Network {
    uint64 internal job;

    function terms() internal view virtual override returns (Terms memory t) {
        t = super.terms();
        t.steps = 4000;
        t.params.openings = 1;
    }

    function prefix() internal pure virtual returns (string memory) {
        return "";
    }

    function took(string memory call_) internal {
        vm.snapshotGasLastCall("Jobs", string.concat(prefix(), call_));
    }

    function floor(string memory call_, bytes memory data) internal {
        uint256 tokens = 0;
        for (uint256 i = 0; i < data.length; ++i) {
            tokens += data[i] == 0 ? 1 : 4;
        }
        vm.snapshotValue("Jobs", string.concat("floor: ", prefix(), call_), 21_000 + 10 * tokens);
    }

    /// Settled segments after `last` until every verifier has been paid; the last of them.
    function used(uint64 last) internal returns (uint64) {
        for (uint256 paid = 0; paid < verifiers();) {
            last = settled(job, last);
            paid = 0;
            for (uint256 i = 0; i < verifiers(); ++i) {
                if (jobs.credit(verifier(i)) > 0) ++paid;
            }
        }
        return last;
    }

    function batched(uint64 id, string memory which) internal {
        address[] memory who = committee(id);
        SealedVote[] memory seals = new SealedVote[](3);
        Reveal[] memory reveals = new Reveal[](3);
        for (uint256 i = 0; i < 3; ++i) {
            seals[i] = sealOf(id, vote(id, who[i], true, 0));
        }
        jobs.attest(id, seals);
        took(string.concat(which, "attest, 3 seals"));
        mine(3);
        for (uint256 i = 0; i < 3; ++i) {
            reveals[i] = fullVote(id, who[i], true, 0);
        }
        jobs.reveal(id, reveals);
        took(string.concat(which, "reveal, 3 votes and openings"));
        floor(string.concat(which, "attest, 3 seals"), abi.encodeCall(IJobs.attest, (id, seals)));
        floor(string.concat(which, "reveal, 3 votes and openings"), abi.encodeCall(IJobs.reveal, (id, reveals)));
        pass(jobs.segment(id).settleAfter);
        jobs.settle(id);
        took(string.concat(which, "settle"));
    }

    function test_gas_of_a_segment() public virtual {
        Terms memory t = terms();
        vm.prank(client);
        job = jobs.post(t);
        took("post");
        uint64 first_ = served(job, 0);
        batched(first_, "first: ");

        uint64 id = assigned(provider, job, used(first_));
        took("assign");
        vm.prank(provider);
        jobs.activate(id);
        took("activate");
        commitTo(id, jobs.segment(id).stop);
        took("commit, 12 links");
        mine(3);
        jobs.draw(id);
        took("draw");
        address[] memory who = committee(id);
        releaseKeys(id, keyService, who);
        took("release, 3 keys");
        serve(id, who);
        took("served, 3 receipts");
        batched(id, "");
        vm.prank(provider);
        jobs.withdraw();
        took("withdraw");
    }

    function test_gas_when_everybody_posts_alone() public virtual {
        job = post();
        uint64 id = served(job, used(0));
        address[] memory who = committee(id);
        for (uint256 i = 0; i < 3; ++i) {
            SealedVote[] memory one = new SealedVote[](1);
            one[0] = sealOf(id, vote(id, who[i], true, 0));
            one[0].signature = "";
            vm.prank(who[i]);
            jobs.attest(id, one);
            took(string.concat("alone: attest ", vm.toString(i + 1)));
        }
        mine(3);
        for (uint256 i = 0; i < 3; ++i) {
            Reveal[] memory one = new Reveal[](1);
            one[0] = fullVote(id, who[i], true, 0);
            jobs.reveal(id, one);
            took(string.concat("alone: reveal ", vm.toString(i + 1)));
            floor(string.concat("alone: reveal ", vm.toString(i + 1)), abi.encodeCall(IJobs.reveal, (id, one)));
        }
        pass(jobs.segment(id).settleAfter);
        jobs.settle(id);
        took("alone: settle");
    }
}

/// The same with traces of 2^10 leaves.
/// forge-config: default.isolate = true
contract GasOfDeepTracesTest is GasTest {
    function microLeaves() internal pure override returns (uint32) {
        return 1024;
    }

    function updateLeaves() internal pure override returns (uint32) {
        return 1024;
    }

    function terms() internal view override returns (Terms memory t) {
        t = super.terms();
        t.updateLeaves = 1024;
    }

    function prefix() internal pure override returns (string memory) {
        return "1024 leaves: ";
    }

    function test_gas_of_a_segment() public override {
        job = post();
        batched(served(job, used(0)), "");
    }
}

/// Segments of one provider, each of another job, whose seals, votes and settlements share a transaction each. So many verifiers that
/// committees seldom meet.
/// forge-config: default.isolate = true
contract GasOfSeveralTest is GasTest {
    uint256 private constant CROWD = 24;
    uint128 private budget = 3600e6;

    function verifiers() internal pure override returns (uint256) {
        return CROWD;
    }

    function terms() internal view override returns (Terms memory t) {
        t = super.terms();
        t.budget = budget;
    }

    function several(uint256 count) internal {
        used(0);
        budget = 60e6;
        together(count); // so that the words of the provider's lanes have been used before
        together(count);
    }

    function together(uint256 count) private {
        string memory which = string.concat(vm.toString(count), " segments: ");
        uint64[] memory ids = new uint64[](count);
        for (uint256 i = 0; i < count; ++i) {
            ids[i] = served(post(), 0);
        }
        jobs.batch(all(ids, seals));
        took(string.concat(which, "attest"));
        mine(3);
        jobs.batch(all(ids, votes));
        took(string.concat(which, "reveal"));
        pass(jobs.segment(ids[count - 1]).settleAfter);
        jobs.batch(all(ids, settlement));
        took(string.concat(which, "settle"));
        for (uint256 i = 0; i < count; ++i) {
            assertState(ids[i], SegmentState.SETTLED);
        }
    }

    function all(uint64[] memory ids, function(uint64) view returns (bytes memory) call_) private view returns (bytes[] memory calls) {
        calls = new bytes[](ids.length);
        for (uint256 i = 0; i < ids.length; ++i) {
            calls[i] = call_(ids[i]);
        }
    }

    function seals(uint64 id) private view returns (bytes memory) {
        address[] memory who = committee(id);
        SealedVote[] memory sealed_ = new SealedVote[](who.length);
        for (uint256 i = 0; i < who.length; ++i) {
            sealed_[i] = sealOf(id, vote(id, who[i], true, 0));
        }
        return abi.encodeCall(IJobs.attest, (id, sealed_));
    }

    function votes(uint64 id) private view returns (bytes memory) {
        address[] memory who = committee(id);
        Reveal[] memory reveals = new Reveal[](who.length);
        for (uint256 i = 0; i < who.length; ++i) {
            reveals[i] = fullVote(id, who[i], true, 0);
        }
        return abi.encodeCall(IJobs.reveal, (id, reveals));
    }

    function settlement(uint64 id) private pure returns (bytes memory) {
        return abi.encodeCall(IJobs.settle, (id));
    }

    function test_gas_of_a_segment() public override {
        job = post();
        several(1);
    }

    function test_gas_when_everybody_posts_alone() public override {
        job = post();
        several(4);
    }

    function test_gas_of_eight() public {
        job = post();
        several(8);
    }

    /// To each of three verifiers the keys of so many records of one shard, wrapped together (assay/bundles.py): 36 bytes each and 53 more.
    function test_gas_of_keys_by_record() public {
        job = post();
        uint64 id = drawn(job, 0);
        releaseRecords(id, 1);
        uint256[4] memory counts = [uint256(1), 8, 64, 226];
        for (uint256 i = 0; i < counts.length; ++i) {
            string memory what = string.concat("release to 3, keys of ", vm.toString(counts[i]), counts[i] == 1 ? " record" : " records");
            bytes memory data = releaseRecords(id, counts[i]);
            took(what);
            floor(what, data);
        }
    }

    function releaseRecords(uint64 id, uint256 count) private returns (bytes memory) {
        address[] memory who = committee(id);
        KeyRelease[] memory releases = new KeyRelease[](who.length);
        for (uint256 i = 0; i < who.length; ++i) {
            bytes memory wrapped = new bytes(53 + 36 * count);
            for (uint256 k = 0; k < wrapped.length; ++k) {
                wrapped[k] = 0x5a;
            }
            releases[i] = KeyRelease(who[i], keccak256("key"), wrapped);
        }
        vm.prank(keyService);
        jobs.release(id, releases);
        return abi.encodeCall(IJobs.release, (id, releases));
    }
}
