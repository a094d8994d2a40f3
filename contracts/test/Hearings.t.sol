// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Openings} from "../src/dispute/Openings.sol";
import {IJobsLog} from "../src/interfaces/IJobs.sol";
import {Hashes} from "../src/libraries/Hashes.sol";
import {Merkle} from "../src/libraries/Merkle.sol";
import {Check, ChunkProof, Phase, SegmentState, Terms} from "../src/types/Types.sol";
import {Network} from "./utils/Network.sol";
import {Trees} from "./utils/Trees.sol";

/// A provider whose verifiers deny that they were served, and one that serves nobody: the chunk that both are asked for, and what follows.
/// Under every link end there is a state or accumulator of three tensors: "a" f32 [300], "b" u8 [10], "c" i64 [0].
contract HearingsTest is Network {
    uint64 internal job;

    function setUp() public override {
        super.setUp();
        job = post();
    }

    function refused(bytes memory refusal) internal {
        vm.expectRevert(refusal);
    }

    // ---- what was committed --------------------------------------------------------------------------------------------------

    function chunkOf(uint64 id, uint64 place, uint256 entry, uint64 k) internal pure returns (bytes memory data) {
        for (uint256 i = 0; i < 32; ++i) {
            data = abi.encodePacked(data, keccak256(abi.encode("chunk", id, place, entry, k, i)));
        }
    }

    function kindOf(uint256 entry) internal pure returns (bytes memory) {
        if (entry == 0) return abi.encodePacked(uint8(1), uint8(1), uint64(300));
        if (entry == 1) return abi.encodePacked(uint8(4), uint8(1), uint64(10));
        return abi.encodePacked(uint8(3), uint8(1), uint64(0));
    }

    function chunksIn(uint256 entry) internal pure returns (uint64) {
        return entry == 0 ? 2 : entry == 1 ? 1 : 0;
    }

    function chunkRows(uint64 id, uint64 place, uint256 entry) internal view returns (bytes32[][] memory) {
        bytes32[] memory leaves = new bytes32[](chunksIn(entry));
        for (uint64 k = 0; k < leaves.length; ++k) {
            leaves[k] = Merkle.leafOf(k, chunkOf(id, place, entry, k));
        }
        return Trees.rows(leaves);
    }

    function chunkRoot(uint64 id, uint64 place, uint256 entry) internal view returns (bytes32) {
        return chunksIn(entry) == 0 ? Merkle.EMPTY : Trees.top(chunkRows(id, place, entry));
    }

    function nameOf(uint256 entry) internal pure returns (bytes memory) {
        return abi.encodePacked(bytes1(uint8(97 + entry)));
    }

    function entryRows(uint64 id, uint64 place) internal view returns (bytes32[][] memory) {
        bytes32[] memory leaves = new bytes32[](3);
        for (uint64 e = 0; e < 3; ++e) {
            leaves[e] = Openings.entryLeaf(e, nameOf(e), Openings.tensorRoot(kindOf(e), chunkRoot(id, place, e)));
        }
        return Trees.rows(leaves);
    }

    function linkEnds(uint64 id, uint64 stop) internal view override returns (bytes32[] memory ends) {
        uint64 start = jobs.segment(id).start;
        ends = new bytes32[]((stop - start) * (MICROS + 1));
        for (uint64 i = 0; i < ends.length; ++i) {
            (uint64 step, uint32 m) = (start + i / (MICROS + 1), uint32(i % (MICROS + 1)));
            bytes32 entries = Trees.top(entryRows(id, i));
            ends[i] = m == MICROS ? Openings.stateRoot(step + 1, 3, entries) : Openings.accRoot(step, m + 1, 3, entries);
        }
    }

    /// What the hash of the block that names it names: by hand, apart from the contract.
    function named(uint64 id, bytes32 hash) internal view returns (uint64 place, uint64 entry, uint64 chunk) {
        uint256 x = uint256(sha256(abi.encodePacked(bytes1(0x26), hash, id)));
        uint64[] memory units = jobs.unitsOf(id);
        uint64 unit = units[x % units.length];
        x /= units.length;
        uint64[] memory ends = new uint64[](3);
        uint256 count = 0;
        if (unit >= MICROS + 1) ends[count++] = unit / (MICROS + 1) * (MICROS + 1) - 1;
        if (unit % (MICROS + 1) > 0) ends[count++] = unit - 1;
        ends[count++] = unit;
        place = ends[x % count];
        x /= count;
        entry = uint64(x % 3);
        if (chunksIn(entry) > 0) chunk = uint64(x / 3 % chunksIn(entry));
    }

    function proofOf(uint64 id, uint64 place, uint64 entry, uint64 chunk) internal view returns (ChunkProof memory c) {
        (, c.endPath) = Trees.build(linkEnds(id, jobs.segment(id).stop), place);
        bytes32[][] memory rows = entryRows(id, place);
        (c.count, c.entries, c.entryPath) = (3, Trees.top(rows), Trees.path(rows, entry));
        (c.name, c.kind, c.chunks) = (nameOf(entry), kindOf(entry), chunkRoot(id, place, entry));
        if (chunksIn(entry) == 0) return c;
        (c.chunk, c.chunkPath) = (chunkOf(id, place, entry, chunk), Trees.path(chunkRows(id, place, entry), chunk));
    }

    function rightProof(uint64 id) internal view returns (ChunkProof memory) {
        (uint64 place, uint64 entry, uint64 chunk) = named(id, blockhash(jobs.segment(id).seedBlock));
        return proofOf(id, place, entry, chunk);
    }

    // ---- the way there -------------------------------------------------------------------------------------------------------

    /// Three rounds in which nobody signs a receipt, whoever was served; `keys` of the last committee have their keys.
    function unsigned(uint256 keys) internal returns (uint64 id) {
        id = committed(job, 0);
        for (uint256 round = 0; round < 3; ++round) {
            mine(3);
            jobs.draw(id);
            releaseKeys(id, keyService, first(committee(id), keys));
            pass(jobs.segment(id).serveBy);
            if (round < 2) jobs.redraw(id);
        }
    }

    function asked(uint256 keys) internal returns (uint64 id) {
        id = unsigned(keys);
        vm.expectEmit(true, true, true, true, address(jobs));
        emit IJobsLog.ChunkAsked(id, 2, uint64(blockNow + 2), uint64(timeNow + 100));
        jobs.redraw(id);
        assertState(id, SegmentState.DRAWN);
        assertEq(uint256(jobs.segment(id).phase), uint256(Phase.SHOW), "phase");
    }

    function shown(uint256 keys) internal returns (uint64 id) {
        id = asked(keys);
        mine(3);
        jobs.show(id, rightProof(id));
    }

    // ---- a quorum that denies ------------------------------------------------------------------------------------------------

    function test_an_honest_provider_is_paid_by_what_it_shows() public {
        uint64 id = asked(3);
        mine(3);
        ChunkProof memory c = rightProof(id);
        (uint64 place, uint64 entry, uint64 chunk) = named(id, blockhash(jobs.segment(id).seedBlock));
        vm.expectEmit(true, true, true, true, address(jobs));
        emit IJobsLog.ChunkShown(id, place, uint32(entry), chunk);
        vm.expectEmit(true, true, true, true, address(jobs));
        emit IJobsLog.Served(id, 2, uint64(timeNow + 200));
        vm.prank(stranger);
        jobs.show(id, c);
        assertState(id, SegmentState.SERVED);
        address[] memory who = committee(id);
        uint128[3] memory had = [stakes.stakeOf(who[0]), stakes.stakeOf(who[1]), stakes.stakeOf(who[2])];
        uint128 free = escrow(job);
        voted(id, [255, 255, 255], 0);
        assertState(id, SegmentState.ATTESTED);
        assertEq(jobs.segment(id).settleAfter, timeNow + 2000, "the longer window");
        for (uint256 i = 0; i < 3; ++i) {
            assertEq(stakes.stakeOf(who[i]), had[i] - DRAW_BOND / 10, "a no-show's fee");
            assertEq(stakes.reservation(who[i], id), 0, "its draw bond is free");
        }
        assertEq(escrow(job), free + 3 * DRAW_BOND / 10, "to the escrow");
        pass(jobs.segment(id).settleAfter);
        jobs.settle(id);
        assertEq(jobs.credit(provider), PRICE, "paid");
        assertEq(stakes.freeStake(provider), 2000e6, "bond free");
    }

    function test_one_honest_verifier_is_paid_with_it() public {
        uint64 id = shown(3);
        address honest = committee(id)[1];
        voted(id, [255, 0, 255], 0);
        assertState(id, SegmentState.ATTESTED);
        pass(jobs.segment(id).settleAfter);
        jobs.settle(id);
        assertEq(jobs.credit(honest), FEE, "its fee");
        assertEq(jobs.credit(provider), PRICE, "paid");
    }

    function test_who_has_no_key_owes_no_answer() public {
        uint64 id = shown(2);
        Check[] memory checks = jobs.checksOf(id, 2);
        assertTrue(checks[0].receipted && checks[1].receipted && !checks[2].receipted, "who has its key");
        address[] memory who = committee(id);
        uint128 had = stakes.stakeOf(who[2]);
        voted(id, [255, 255, 255], 0);
        assertEq(stakes.stakeOf(who[2]), had, "no fee");
    }

    // ---- a provider that keeps its states back -------------------------------------------------------------------------------

    function test_silence_is_not_paid() public {
        uint64 id = asked(3);
        refused(abi.encodeWithSelector(IJobsLog.TooEarly.selector, uint64(timeNow + 100), uint64(timeNow)));
        jobs.redraw(id);
        mine(3);
        ChunkProof memory c = rightProof(id);
        uint64 by = jobs.segment(id).serveBy;
        pass(by);
        refused(abi.encodeWithSelector(IJobsLog.TooLate.selector, by, by + 1));
        jobs.show(id, c);
        vm.expectEmit(true, true, true, true, address(jobs));
        emit IJobsLog.Unpaid(id, "not served");
        jobs.redraw(id);
        assertState(id, SegmentState.UNPAID);
        assertEq(stakes.reservation(provider, id), 6 * PRICE, "the bond stands for who may dispute");
        assertEq(escrow(job), BUDGET, "nobody is paid");
        for (uint256 i = 0; i < 3; ++i) {
            assertEq(stakes.reservation(committee(id)[i], id), 0, "draw bonds are free");
        }
    }

    /// It shows the one chunk and serves nobody: one verifier that has looked in vain is enough.
    function test_one_chunk_is_not_the_state() public {
        uint64 id = shown(3);
        voted(id, [255, 255, 1], 4);
        assertState(id, SegmentState.WITHHELD);
        assertEq(jobs.credit(provider), 0, "not paid");
        assertEq(stakes.reservation(provider, id), 6 * PRICE, "the bond stands");
    }

    function test_late_receipts_do_as_well() public {
        uint64 id = asked(3);
        serve(id, first(committee(id), 2));
        assertState(id, SegmentState.SERVED);
        voted(id, [0, 0, 0], 0);
        assertState(id, SegmentState.ATTESTED);
        assertEq(jobs.segment(id).settleAfter, timeNow + 500, "the usual window");
    }

    function test_nothing_is_asked_before_the_last_round_or_without_keys() public {
        uint64 id = drawn(job, 0);
        releaseKeys(id, keyService, committee(id));
        pass(jobs.segment(id).serveBy);
        jobs.redraw(id);
        assertState(id, SegmentState.COMMITTED);
    }

    function test_without_keys_nobody_could_have_looked() public {
        uint64 id = unsigned(1);
        vm.expectEmit(true, true, true, true, address(jobs));
        emit IJobsLog.Unpaid(id, "keys withheld");
        jobs.redraw(id);
    }

    function test_it_can_be_disputed_while_it_is_asked_and_after() public {
        uint64 id = asked(3);
        disputes.opened(id);
        mine(3);
        jobs.show(id, rightProof(id));
        voted(id, [255, 255, 255], 0);
        pass(jobs.segment(id).settleAfter);
        refused(abi.encodeWithSelector(IJobsLog.DisputeOpen.selector, id, 1));
        jobs.settle(id);
        disputes.resolved(id, true);
        assertState(id, SegmentState.REJECTED);
    }

    // ---- what is no answer ---------------------------------------------------------------------------------------------------

    function no(uint64 id, ChunkProof memory c, string memory what) internal {
        noneOf(id, c, abi.encodeWithSelector(IJobsLog.NotTheChunk.selector, what));
    }

    function noneOf(uint64 id, ChunkProof memory c, bytes memory refusal) internal {
        refused(refusal);
        jobs.show(id, c);
    }

    function test_only_the_named_chunk_is_an_answer() public {
        uint64 id = asked(3);
        noneOf(id, proofOf(id, 0, 0, 0), abi.encodeWithSelector(IJobsLog.BlockTooEarly.selector, uint64(blockNow + 2), uint64(blockNow)));
        // Until the block's hash names the second chunk of "a", under an end that has siblings.
        (uint64 place, uint64 entry, uint64 chunk) = (0, 1, 0);
        bytes32 hash;
        for (uint256 i = 0; entry > 0 || chunk == 0; ++i) {
            hash = keccak256(abi.encode(i));
            (place, entry, chunk) = named(id, hash);
        }
        mine(3);
        vm.setBlockhash(jobs.segment(id).seedBlock, hash);
        no(id, proofOf(id, place == 0 ? 1 : place - 1, 0, 1), "the link's end");
        no(id, proofOf(id, place, 1, 0), "the entry");
        no(id, proofOf(id, place, 0, 0), "the chunk");
        ChunkProof memory c = proofOf(id, place, 0, 1);
        c.count = 2;
        no(id, c, "the link's end");
        c = proofOf(id, place, 0, 1);
        c.kind = hex"01";
        no(id, c, "the tensor's type");
        c.kind = abi.encodePacked(kindOf(0), uint64(1));
        no(id, c, "the tensor's type");
        c.kind = kindOf(1);
        no(id, c, "the entry");
        c = proofOf(id, place, 0, 1);
        c.chunk = abi.encodePacked(c.chunk, bytes1(0));
        no(id, c, "the chunk");
        c.chunk = new bytes(0);
        no(id, c, "the chunk");
        c = proofOf(id, place, 0, 1);
        c.chunks = keccak256("other");
        no(id, c, "the entry");
        jobs.show(id, proofOf(id, place, 0, 1));
        assertState(id, SegmentState.SERVED);
        noneOf(id, proofOf(id, place, 0, 1), abi.encodeWithSelector(IJobsLog.WrongState.selector, id, SegmentState.SERVED));
    }

    function test_a_tensor_without_elements_has_no_chunk_to_show() public {
        uint64 id = asked(3);
        (uint64 place, uint64 entry,) = (0, 0, 0);
        bytes32 hash;
        for (uint256 i = 0; entry != 2; ++i) {
            hash = keccak256(abi.encode(i));
            (place, entry,) = named(id, hash);
        }
        mine(3);
        vm.setBlockhash(jobs.segment(id).seedBlock, hash);
        ChunkProof memory c = proofOf(id, place, 2, 0);
        c.chunk = new bytes(1024);
        no(id, c, "the chunk");
        jobs.show(id, proofOf(id, place, 2, 0));
    }

    function test_nothing_is_shown_that_was_not_asked_for() public {
        uint64 id = drawn(job, 0);
        noneOf(id, proofOf(id, 0, 0, 0), abi.encodeWithSelector(IJobsLog.WrongPhase.selector, id, Phase.NONE));
    }

    /// Every block names something that the honest provider has.
    function testFuzz_any_block_names_a_chunk(bytes32 hash) public {
        uint64 id = asked(3);
        mine(3);
        vm.setBlockhash(jobs.segment(id).seedBlock, hash);
        jobs.show(id, rightProof(id));
        assertState(id, SegmentState.SERVED);
    }

    function test_a_block_out_of_reach_is_followed_by_another() public {
        uint64 id = asked(3);
        uint64 atBlock = jobs.segment(id).seedBlock;
        // Blocks pass, and hardly any time.
        blockNow = atBlock + 300;
        vm.roll(blockNow);
        vm.setBlockhash(atBlock + 256, hashOf(atBlock + 256));
        (uint64 place, uint64 entry, uint64 chunk) = named(id, hashOf(atBlock + 256));
        jobs.show(id, proofOf(id, place, entry, chunk));
        assertState(id, SegmentState.SERVED);
    }

    /// Asked for a chunk of ends that say that they have no entries; the proof for the named one, without their root.
    function empty(bytes32 entries) internal returns (uint64 id, ChunkProof memory c) {
        id = activated(provider, job, 0);
        bytes32[] memory ends = new bytes32[](12);
        for (uint64 i = 0; i < ends.length; ++i) {
            (uint64 step, uint32 m) = (i / (MICROS + 1), uint32(i % (MICROS + 1)));
            ends[i] = m == MICROS ? Openings.stateRoot(step + 1, 0, entries) : Openings.accRoot(step, m + 1, 0, entries);
        }
        (bytes32 root, bytes32[] memory proof) = Trees.build(ends, 11);
        bytes memory checkpoint = cid("checkpoint");
        vm.prank(provider);
        jobs.commit(id, 4, root, ends[11], proof, checkpoint, keccak256("key"), new bytes(80));
        for (uint256 round = 0; round < 3; ++round) {
            mine(3);
            jobs.draw(id);
            releaseKeys(id, keyService, committee(id));
            pass(jobs.segment(id).serveBy);
            jobs.redraw(id);
        }
        mine(3);
        (uint64 place,,) = named(id, blockhash(jobs.segment(id).seedBlock));
        (, c.endPath) = Trees.build(ends, place);
    }

    function test_the_empty_state() public {
        (uint64 id, ChunkProof memory c) = empty(Merkle.EMPTY);
        no(id, c, "the link's end");
        c.entries = Merkle.EMPTY;
        jobs.show(id, c);
        assertState(id, SegmentState.SERVED);
    }

    function test_no_entries_have_one_root() public {
        (uint64 id, ChunkProof memory c) = empty(keccak256("something"));
        c.entries = keccak256("something");
        no(id, c, "the entries");
    }

    /// A block whose hash names a chunk of that entry; afterwards it is the one that names it.
    function nameEntry(uint64 id, uint64 wanted) internal returns (ChunkProof memory) {
        for (uint256 i = 0;; ++i) {
            bytes32 hash = keccak256(abi.encode(i));
            (uint64 place, uint64 entry, uint64 chunk) = named(id, hash);
            if (entry != wanted) continue;
            mine(3);
            vm.setBlockhash(jobs.segment(id).seedBlock, hash);
            return proofOf(id, place, entry, chunk);
        }
    }

    /// forge-config: default.isolate = true
    function test_gas_of_the_answer() public {
        uint64 id = asked(3);
        vm.snapshotGasLastCall("Jobs", "redraw, asks for a chunk");
        jobs.show(id, nameEntry(id, 0));
        vm.snapshotGasLastCall("Jobs", "show a chunk, of 2 in one of 3 tensors, 12 links");
    }

    /// forge-config: default.isolate = true
    function test_gas_of_the_answer_without_a_level() public {
        uint64 id = asked(3);
        jobs.show(id, nameEntry(id, 1));
        vm.snapshotGasLastCall("Jobs", "show a chunk, the only one of its tensor");
    }

    function terms() internal view override returns (Terms memory t) {
        t = super.terms();
        t.params.openings = 1;
    }
}
