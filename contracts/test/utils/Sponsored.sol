// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Bounties} from "../../src/Bounties.sol";
import {Openings} from "../../src/dispute/Openings.sol";
import {Merkle} from "../../src/libraries/Merkle.sol";
import {BountyTerms, Entry, Evaluation, Rung} from "../../src/types/BountyTypes.sol";
import {Terms} from "../../src/types/Types.sol";
import {Network} from "./Network.sol";
import {Trees} from "./Trees.sol";

/// A training of three segments (4, 4 and 2 steps) and evaluations of what it ends in, for bounties.
abstract contract Sponsored is Network {
    uint128 internal constant LOW = 10e6;
    uint128 internal constant HIGH = 30e6;
    uint64 internal constant EVALUATED = 4;

    Bounties internal bounties;
    /// The last link's end of a segment, where a test cares.
    mapping(uint64 segment => bytes32) internal endOf;
    address internal sponsor = client;

    function setUp() public virtual override {
        super.setUp();
        bounties = new Bounties(address(jobs));
        vm.prank(sponsor);
        token.approve(address(bounties), type(uint256).max);
    }

    function linkEnds(uint64 id, uint64 stop) internal view override returns (bytes32[] memory ends) {
        ends = super.linkEnds(id, stop);
        if (endOf[id] != 0) ends[ends.length - 1] = endOf[id];
    }

    // ---- states ----------------------------------------------------------------------------------------------------------------

    /// What the training ends in: the weights, a moment and a buffer that the evaluation does not read.
    function trained() internal pure returns (Entry[] memory e) {
        e = new Entry[](4);
        e[0] = Entry("adam.m.w", keccak256("moment"));
        e[1] = Entry("buffer.count", keccak256("buffer"));
        e[2] = Entry("param.b", keccak256("b"));
        e[3] = Entry("param.w", keccak256("w"));
    }

    function start() internal pure returns (Entry[] memory e) {
        e = new Entry[](5);
        e[0] = Entry("mean.loss", keccak256("zero"));
        e[1] = Entry("metric.loss", keccak256("zero"));
        e[2] = Entry("metric.right", scalar(3, 0));
        e[3] = Entry("param.b", 0);
        e[4] = Entry("param.w", 0);
    }

    /// Root of a tensor without axes.
    function scalar(uint8 dtype, uint64 value) internal pure returns (bytes32) {
        bytes memory chunk = new bytes(1024);
        for (uint256 i = 0; i < 8; ++i) {
            chunk[i] = bytes1(uint8(value >> (8 * i)));
        }
        return sha256(abi.encodePacked(hex"10", dtype, uint8(0), Merkle.leafOf(0, chunk)));
    }

    function leavesOf(Entry[] memory e) internal pure returns (bytes32[] memory leaves) {
        leaves = new bytes32[](e.length);
        for (uint64 i = 0; i < e.length; ++i) {
            leaves[i] = sha256(abi.encodePacked(hex"00", i, uint16(e[i].name.length), e[i].name, e[i].root));
        }
    }

    function rootOf(uint64 step, Entry[] memory e) internal view returns (bytes32) {
        return sha256(abi.encodePacked(hex"11", step, uint32(e.length), Trees.top(Trees.rows(leavesOf(e)))));
    }

    function started() internal pure returns (Entry[] memory e) {
        e = start();
        (e[3], e[4]) = (trained()[2], trained()[3]);
    }

    /// The evaluation's last state, with `right` records of which the model was right.
    function measured(uint64 right) internal pure returns (Entry[] memory e) {
        e = started();
        e[2].root = scalar(3, right);
    }

    function pathOf(Entry[] memory e, uint256 place) internal view returns (bytes32[] memory) {
        return Trees.path(Trees.rows(leavesOf(e)), place);
    }

    // ---- the bounty ------------------------------------------------------------------------------------------------------------

    function evaluation() internal pure returns (Evaluation memory e) {
        e.programRoot = keccak256("measure");
        e.datasetRoot = keccak256("held out");
        e.scheduleRoot = keccak256("shares");
        (e.steps, e.microBatches, e.segmentSteps) = (EVALUATED, MICROS, SEGMENT_STEPS);
        (e.microWeight, e.updateWeight) = (3, 1);
        (e.microLeaves, e.updateLeaves) = (MICRO_LEAVES, UPDATE_LEAVES);
        e.params = params();
    }

    function bountyTerms(uint64 job) internal pure returns (BountyTerms memory t) {
        (t.job, t.window, t.evaluation, t.start) = (job, 1 days, evaluation(), start());
        (t.metric, t.dtype) = ("metric.right", 3);
        t.rungs = new Rung[](2);
        t.rungs[0] = Rung(700, LOW);
        t.rungs[1] = Rung(800, HIGH);
    }

    function offered(uint64 job) internal returns (uint64 id) {
        BountyTerms memory t = bountyTerms(job); // hashing is a call, too
        vm.prank(sponsor);
        id = bounties.offer(t);
    }

    // ---- jobs ------------------------------------------------------------------------------------------------------------------

    function settledBy(address by, uint64 job, uint64 parent, bytes32 end) internal returns (uint64 id) {
        id = activated(by, job, parent);
        endOf[id] = end;
        commitTo(id, jobs.segment(id).stop);
        mine(3);
        jobs.draw(id);
        serve(id, committee(id));
        voted(id, [0, 0, 0], 0);
        pass(jobs.segment(id).settleAfter);
        jobs.settle(id);
    }

    /// Its segments: the first and the last by `provider`, the second by `other`.
    function trainedJob() internal returns (uint64 job, uint64[] memory ids) {
        job = post();
        ids = new uint64[](3);
        ids[0] = settledBy(provider, job, 0, 0);
        ids[1] = settledBy(other, job, ids[0], 0);
        ids[2] = settledBy(provider, job, ids[1], rootOf(STEPS, trained()));
    }

    function evaluationTerms() internal view returns (Terms memory t) {
        Evaluation memory e = evaluation();
        t = terms();
        (t.programRoot, t.datasetRoot, t.scheduleRoot) = (e.programRoot, e.datasetRoot, e.scheduleRoot);
        (t.steps, t.stateRoot) = (e.steps, rootOf(0, started()));
    }

    function posted(Terms memory t) internal returns (uint64) {
        vm.prank(client);
        return jobs.post(t);
    }

    /// A settled evaluation that says `right`.
    function evaluated(uint64 right) internal returns (uint64) {
        return settledBy(other, posted(evaluationTerms()), 0, rootOf(EVALUATED, measured(right)));
    }

    function show(uint64 id, uint64 job, uint64 segment, uint64 right) internal {
        bounties.show(id, bountyTerms(job), segment, trained(), right, pathOf(measured(right), 2));
    }
}
