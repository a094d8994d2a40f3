// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IJobsLog} from "../src/interfaces/IJobs.sol";
import {Offer, Segment, SegmentState} from "../src/types/Types.sol";
import {Network} from "./utils/Network.sol";
import {Trees} from "./utils/Trees.sol";

contract CommitTest is Network {
    uint64 internal job;

    function setUp() public override {
        super.setUp();
        job = post();
    }

    // ---- commit

    function test_commit_stores_and_names_its_parent() public {
        uint64 a = committed(job, 0);
        Segment memory s = jobs.segment(a);
        bytes32[] memory ends = linkEnds(a, 4);
        assertState(a, SegmentState.COMMITTED);
        assertEq(s.endRoot, ends[ends.length - 1], "end root");
        assertEq(s.linkRoot, Trees.root(ends), "link root");
        assertEq(s.seedBlock, blockNow + 2, "seed block");
        assertEq(s.drawBy, timeNow + 100, "draw by");
        assertEq(jobs.commitmentOf(a), commitmentOf(a, keccak256("spec")), "of the job's spec");
        uint64 b = committed(job, a);
        assertEq(jobs.commitmentOf(b), commitmentOf(b, s.commitment), "of its parent");
    }

    function commitmentOf(uint64 id, bytes32 parent) internal view returns (bytes32) {
        Segment memory s = jobs.segment(id);
        return sha256(
            abi.encodePacked(
                bytes1(0x13),
                block.chainid,
                address(jobs),
                s.job,
                parent,
                keccak256("program"),
                s.start,
                s.stop,
                s.linkRoot,
                sha256(cid("checkpoint")),
                keccak256("key")
            )
        );
    }

    function test_a_prefix_splits_the_segment_and_its_price() public {
        uint64 id = activated(provider, job, 0);
        commitTo(id, 3);
        assertEq(jobs.segment(id).price, PRICE * 3 / 4, "price");
        assertEq(escrow(job), BUDGET - PRICE * 3 / 4 - FEES, "the rest is back");
        assertEq(jobs.segment(id).bond, 6 * PRICE, "the bond stays");
        Offer memory o = offerOf(other, job, id, 10e6);
        assertEq(o.start, 3, "next start");
        assertEq(o.stop, 4, "next stop");
        bytes memory signature = signOffer(o);
        vm.prank(scheduler);
        jobs.assign(o, signature);
    }

    function testFuzz_a_prefix_never_costs_more_than_its_share(uint128 price, uint64 stop) public {
        price = uint128(bound(price, 1, 40e6));
        stop = uint64(bound(stop, 1, 4));
        Offer memory o = offerOf(provider, job, 0, price);
        bytes memory signature = signOffer(o);
        vm.prank(scheduler);
        uint64 id = jobs.assign(o, signature);
        vm.prank(provider);
        jobs.activate(id);
        commitTo(id, stop);
        assertEq(jobs.segment(id).price, uint256(price) * stop / 4, "price");
        assertEq(escrow(job) + jobs.segment(id).price + FEES, BUDGET, "nothing lost");
    }

    function test_commit_refuses_what_does_not_hold() public {
        uint64 id = activated(provider, job, 0);
        bytes32[] memory ends = linkEnds(id, 4);
        (bytes32 root, bytes32[] memory proof) = Trees.build(ends, ends.length - 1);
        bytes32 end = ends[ends.length - 1];
        bytes memory good = cid("checkpoint");
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.NotProvider.selector, stranger, provider));
        vm.prank(stranger);
        jobs.commit(id, 4, root, end, proof, good, 0, "");
        vm.startPrank(provider);
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.StopOutOfRange.selector, uint64(5), uint64(0), uint64(4)));
        jobs.commit(id, 5, root, end, proof, good, 0, "");
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.StopOutOfRange.selector, uint64(0), uint64(0), uint64(4)));
        jobs.commit(id, 0, root, end, proof, good, 0, "");
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.BadCid.selector, 3));
        jobs.commit(id, 4, root, end, proof, hex"015512", 0, "");
        bytes memory long = new bytes(2049);
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.BadLength.selector, "key_envelope", 2049, 2048));
        jobs.commit(id, 4, root, end, proof, good, 0, long);
        bytes memory badProof = abi.encodeWithSelector(IJobsLog.BadProof.selector);
        vm.expectRevert(badProof);
        jobs.commit(id, 4, root, ~end, proof, good, 0, "");
        vm.expectRevert(badProof);
        jobs.commit(id, 3, root, end, proof, good, 0, "");
        vm.expectRevert(badProof);
        jobs.commit(id, 4, ~root, end, proof, good, 0, "");
        vm.stopPrank();
        (, bytes32[] memory before) = Trees.build(ends, ends.length - 2);
        vm.expectRevert(badProof);
        vm.prank(provider);
        jobs.commit(id, 4, root, ends[ends.length - 2], before, good, 0, "");
        uint64 until = jobs.segment(id).leaseUntil;
        vm.warp(until + 1);
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.TooLate.selector, until, until + 1));
        vm.prank(provider);
        jobs.commit(id, 4, root, end, proof, good, 0, "");
        vm.warp(until);
        vm.startPrank(provider);
        jobs.commit(id, 4, root, end, proof, good, 0, "");
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.WrongState.selector, id, SegmentState.COMMITTED));
        jobs.commit(id, 4, root, end, proof, good, 0, "");
        vm.stopPrank();
    }
}
