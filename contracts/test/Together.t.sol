// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IJobs, IJobsLog} from "../src/interfaces/IJobs.sol";
import {Offer, Reveal, SealedVote, SegmentState} from "../src/types/Types.sol";
import {Network} from "./utils/Network.sol";

/// What is refused where a committee's seals are kept together, and where calls share a transaction.
contract TogetherTest is Network {
    uint64 internal job;

    function setUp() public override {
        super.setUp();
        job = post();
    }

    function refused(bytes4 reason, uint64 id) internal {
        vm.expectRevert(abi.encodeWithSelector(reason, id));
    }

    function sealsOf(uint64 id) internal view returns (SealedVote[] memory seals, bytes memory row) {
        address[] memory who = committee(id);
        seals = new SealedVote[](who.length);
        for (uint256 i = 0; i < who.length; ++i) {
            seals[i] = sealOf(id, vote(id, who[i], true, 0));
            row = abi.encodePacked(row, who[i], seals[i].digest);
        }
    }

    function votesOf(uint64 id) internal view returns (Reveal[] memory votes) {
        address[] memory who = committee(id);
        votes = new Reveal[](who.length);
        for (uint256 i = 0; i < who.length; ++i) {
            votes[i] = fullVote(id, who[i], true, 0);
        }
    }

    /// A round whose seals came in one call, and what parts them.
    function together() internal returns (uint64 id, bytes memory row) {
        id = served(job, 0);
        SealedVote[] memory seals;
        (seals, row) = sealsOf(id);
        jobs.attest(id, seals);
        mine(3);
    }

    function test_votes_of_seals_that_are_kept_together() public {
        (uint64 id, bytes memory row) = together();
        Reveal[] memory votes = votesOf(id);
        Reveal[] memory some = new Reveal[](2);
        (some[0], some[1]) = (votes[0], votes[1]);
        refused(IJobsLog.Together.selector, id);
        jobs.reveal(id, some);
        bytes32 salt = votes[1].salt;
        votes[1].salt = ~salt;
        refused(IJobsLog.Together.selector, id);
        jobs.reveal(id, votes);
        votes[1] = vote(id, votes[1].verifier, true, 0);
        refused(IJobsLog.Together.selector, id);
        jobs.reveal(id, votes);
        votes = votesOf(id);
        jobs.reveal(id, votes);
        assertState(id, SegmentState.ATTESTED);
        refused(IJobsLog.Together.selector, id);
        jobs.disclose(id, 0, votes[0].verifier, votes[0].traceRoots, votes[0].salt);
        jobs.spread(id, 0, row);
        jobs.disclose(id, 0, votes[0].verifier, votes[0].traceRoots, votes[0].salt);
    }

    /// What it has sealed over fewer roots than units cannot be shown, with the others' or alone.
    function test_a_sealed_vote_of_too_few_roots() public {
        uint64 id = served(job, 0);
        (SealedVote[] memory seals, bytes memory row) = sealsOf(id);
        Reveal[] memory votes = votesOf(id);
        bytes32[] memory roots = new bytes32[](1);
        roots[0] = votes[2].traceRoots[0];
        votes[2].traceRoots = roots;
        seals[2] = sealOf(id, votes[2]);
        row = abi.encodePacked(seals[0].verifier, seals[0].digest, seals[1].verifier, seals[1].digest, seals[2].verifier, seals[2].digest);
        jobs.attest(id, seals);
        mine(3);
        votes = votesOf(id);
        votes[2].traceRoots = roots;
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.LengthMismatch.selector, 2, 1));
        jobs.reveal(id, votes);
        jobs.spread(id, 0, row);
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.LengthMismatch.selector, 2, 1));
        reveal(id, votes[2]);
        reveal(id, votes[0]);
        reveal(id, votes[1]);
    }

    function test_seals_are_spread_as_they_came_and_once() public {
        (uint64 id, bytes memory row) = together();
        refused(IJobsLog.NotTogether.selector, id);
        jobs.spread(id, 1, row);
        row[51] ^= 0x01;
        refused(IJobsLog.BadSeals.selector, id);
        jobs.spread(id, 0, row);
        row[51] ^= 0x01;
        jobs.spread(id, 0, row);
        refused(IJobsLog.NotTogether.selector, id);
        jobs.spread(id, 0, row);
        address first_ = committee(id)[0];
        reveal(id, vote(id, first_, true, 0));
        assertTrue(jobs.checksOf(id, 0)[0].revealed, "each by itself");
    }

    function test_seals_of_what_is_over_are_not_spread() public {
        (uint64 id, bytes memory row) = together();
        jobs.reveal(id, votesOf(id));
        pass(jobs.segment(id).settleAfter);
        jobs.settle(id);
        refused(IJobsLog.NotTogether.selector, id);
        jobs.spread(id, 0, row);
    }

    /// A call that runs out of gas says nothing: the whole is refused, or an estimate would find an amount with which nothing is done.
    function test_a_batch_whose_gas_does_not_suffice_does_nothing() public {
        bytes[] memory calls = new bytes[](2);
        for (uint256 i = 0; i < 2; ++i) {
            uint64 id = served(post(), 0);
            (SealedVote[] memory seals,) = sealsOf(id);
            calls[i] = abi.encodeCall(IJobs.attest, (id, seals));
        }
        // Whatever the amount, it is both or neither; from some amount on it has gas left to say which.
        uint256 told = 0;
        for (uint256 gas_ = 30_000; ; gas_ += 5_000) {
            uint256 before = vm.snapshotState();
            (bool done, bytes memory said) = address(jobs).call{gas: gas_}(abi.encodeCall(IJobs.batch, (calls)));
            vm.revertToState(before);
            if (done) {
                assertEq(abi.decode(said, (uint256)), 3, "both");
                break;
            }
            bytes32 first_ = keccak256(abi.encodeWithSelector(IJobsLog.OutOfGas.selector, 0));
            bytes32 second_ = keccak256(abi.encodeWithSelector(IJobsLog.OutOfGas.selector, 1));
            assertTrue(said.length == 0 || keccak256(said) == first_ || keccak256(said) == second_, "for want of gas");
            if (said.length > 0) told |= keccak256(said) == first_ ? 1 : 2;
        }
        assertEq(told, 3, "of the first and of the second");
        assertEq(jobs.batch(calls), 3, "both");
    }

    function test_a_batch_is_of_one_to_64_calls() public {
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.BadLength.selector, "calls", 0, 64));
        jobs.batch(new bytes[](0));
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.BadLength.selector, "calls", 65, 64));
        jobs.batch(new bytes[](65));
    }

    /// The job has no more steps, and says so before it looks at the offer's range.
    function test_a_completed_job_assigns_nothing() public {
        uint64 parent = 0;
        Offer memory offer;
        while (!jobs.job(job).completed) {
            offer = offerOf(provider, job, parent, PRICE);
            parent = settled(job, parent);
        }
        (offer.expires, offer.nonce) = (uint64(timeNow + 60), ++nonces);
        bytes memory signature = signOffer(offer);
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.JobIsCompleted.selector, job));
        vm.prank(scheduler);
        jobs.assign(offer, signature);
    }
}
