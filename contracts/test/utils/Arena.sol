// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {Disputes} from "../../src/Disputes.sol";
import {Descent} from "../../src/dispute/Descent.sol";
import {Openings} from "../../src/dispute/Openings.sol";
import {Ranges} from "../../src/dispute/Ranges.sol";
import {Verdict} from "../../src/dispute/Verdict.sol";
import {Walk} from "../../src/dispute/Walk.sol";
import {IDisputeGame} from "../../src/interfaces/IDisputes.sol";
import {Merkle} from "../../src/libraries/Merkle.sol";
import {Dispute, Evidence, Field, Folded, GatherMove, Link, Outcome, Proof, Rules, Stand, TraceMove} from "../../src/types/DisputeTypes.sol";
import {SegmentState, Terms} from "../../src/types/Types.sol";
import {MockLeaf, TwinLeaf} from "./MockLeaf.sol";
import {Chunks} from "./Chunks.sol";
import {Network} from "./Network.sol";
import {Toy} from "./Toy.sol";
import {Trees} from "./Trees.sol";

/// A network with the dispute game and a job of the Toy; what an asserter of an honest or false link and its challenger do.
/// One file because it is one fixture, which all tests of disputes inherit.
abstract contract Arena is Network {
    uint32 internal constant GRACE = 100;
    uint32 internal constant BUDGET_TIME = 300;
    uint32 internal constant OPEN_WINDOW = 150;
    uint32 internal constant PAYOUT = 400;
    uint128 internal constant STAKED = 8e6;
    uint32 internal constant PARDON_AFTER = 2;
    uint64 internal constant NO_UNIT = type(uint64).max;
    bytes32 internal constant SALT = bytes32(uint256(0x5A17));

    IDisputeGame internal game;
    /// What pays the owners of records that a dispute shows; none here.
    address internal showings;
    Verdict internal verdict;
    address internal guardian = address(0x6A);
    address internal challenger = address(0xCA);
    address internal second = address(0xCB);
    uint64 internal job;
    /// The link that the provider computes wrongly, and how: at element `lieElement` of the output of stage `lieStage`, of the batch
    /// (BATCH_LIE) or of the first entry of the end (END_LIE).
    uint64 internal lieUnit = NO_UNIT;
    uint32 internal lieStage;
    uint64 internal lieElement;
    /// The challenger was served the asserter's nodes: it points at leaves, elements and items at once.
    bool internal leaps;
    /// The item in which a false total is hidden.
    uint64 internal falseItem;
    uint32 internal constant BATCH_LIE = 1000;
    uint32 internal constant END_LIE = 1001;

    /// One link as somebody sees it.
    struct Story {
        uint64 unit;
        Link link;
        bool update;
        uint32[] w;
        uint32[] z;
        uint32[] g;
        uint32[] x;
        uint32[][] outputs;
        uint32[] endFirst;
        bytes32[] leaves;
    }

    function deployDisputes() internal virtual override returns (address) {
        Rules memory r = rules();
        showings = deployShowings();
        Descent descent = new Descent(address(jobs), r, showings);
        verdict = new Verdict(address(jobs), r, address(new MockLeaf()), address(new TwinLeaf()));
        game = IDisputeGame(address(new Disputes(address(jobs), r, address(descent), address(verdict))));
        return address(game);
    }

    function deployShowings() internal virtual returns (address) {}

    function rules() internal view returns (Rules memory) {
        return Rules(OPEN_WINDOW, GRACE, BUDGET_TIME, PAYOUT, STAKED, PARDON_AFTER, guardian);
    }

    function setUp() public virtual override {
        super.setUp();
        address[6] memory bonded = [challenger, second, stranger, client, provider, verifier(0)];
        for (uint256 i = 0; i < bonded.length; ++i) {
            token.mint(bonded[i], 1000e6);
            vm.prank(bonded[i]);
            token.approve(address(game), type(uint256).max);
        }
        job = post();
    }

    function terms() internal view override returns (Terms memory t) {
        t = super.terms();
        t.programRoot = sha256(abi.encodePacked(hex"15", Toy.program()));
        t.stateRoot = Openings.stateRoot(0, 2, Trees.top(Toy.stateRows(stateW(0), stateZ())));
        t.datasetRoot = sha256(Toy.dataset());
        t.scheduleRoot = Openings.tensorRoot(Toy.matrix(STEPS, 2), Trees.top(Toy.rows(Toy.schedule())));
        t.microLeaves = Toy.MICRO_LEAVES;
        t.updateLeaves = Toy.UPDATE_LEAVES;
    }

    function updateLeaves() internal pure override returns (uint32) {
        return Toy.UPDATE_LEAVES;
    }

    // ---- the training ----------------------------------------------------------------------------------------------------------

    function stateZ() internal pure returns (uint32[] memory z) {
        z = new uint32[](5);
        for (uint32 i = 0; i < 5; ++i) {
            z[i] = 90 + i;
        }
    }

    function stateW(uint64 step) internal pure returns (uint32[] memory w) {
        w = new uint32[](Toy.N);
        for (uint32 i = 0; i < w.length; ++i) {
            w[i] = 7 * i + 1;
        }
        for (uint64 t = 0; t < step; ++t) {
            w = Toy.add(Toy.mul(Toy.add(w, accG(t, MICROS)), uint32(t)), Toy.constant_());
        }
    }

    function accG(uint64 step, uint32 m) internal pure returns (uint32[] memory g) {
        g = new uint32[](Toy.N);
        for (uint32 i = 0; i < m; ++i) {
            g = Toy.add(g, Toy.batchOf(step, i));
        }
    }

    function trueEnd(uint64 unit) internal view returns (bytes32) {
        (uint64 step, uint32 m) = (unit / 3, uint32(unit % 3));
        if (m == MICROS) return Openings.stateRoot(step + 1, 2, Trees.top(Toy.stateRows(stateW(step + 1), stateZ())));
        return Openings.accRoot(step, m + 1, 2, Trees.top(Toy.accRows(accG(step, m + 1), stateZ())));
    }

    function linkEnds(uint64 id, uint64 stop) internal view virtual override returns (bytes32[] memory ends) {
        uint64 start = jobs.segment(id).start;
        ends = new bytes32[]((stop - start) * 3);
        for (uint64 i = 0; i < ends.length; ++i) {
            ends[i] = start == 0 && i == lieUnit ? story(i, true).link.endRoot : start == 0 && i < 6 ? trueEnd(i) : keccak256(abi.encode("far", i));
        }
    }

    function story(uint64 unit, bool lies) internal view returns (Story memory s) {
        (s.unit, s.link.step, s.link.m, s.link.micros) = (unit, unit / 3, uint32(unit % 3), MICROS);
        s.update = s.link.m == MICROS;
        (s.w, s.z, s.g) = (stateW(s.link.step), stateZ(), accG(s.link.step, s.link.m));
        if (!s.update) s.x = Toy.batchOf(s.link.step, s.link.m);
        lies = lies && unit == lieUnit;
        if (lies && lieStage == BATCH_LIE) s.x[lieElement] ^= 1;
        s.outputs = new uint32[][](s.update ? Toy.UPDATE_LEAVES - 2 : 3);
        for (uint32 i = 0; i < s.outputs.length; ++i) {
            s.outputs[i] = stageOf(s, i);
            if (lies && lieStage == i) s.outputs[i][lieElement] ^= 1;
        }
        s.endFirst = Toy.add(s.outputs[s.update ? 4 : 0], new uint32[](Toy.N));
        if (lies && lieStage == END_LIE) s.endFirst[lieElement] ^= 1;
        fillLink(s);
        s.leaves = traceLeaves(s);
        s.link.traceRoot = Trees.top(Trees.rows(s.leaves));
    }

    function stageOf(Story memory s, uint32 i) private pure returns (uint32[] memory) {
        if (!s.update) return i == 0 ? Toy.add(s.g, s.x) : i == 1 ? Toy.add(s.z, s.z) : Toy.sum(s.x);
        if (i == 0) return Toy.add(s.w, s.g);
        if (i == 1) return Toy.mul(s.outputs[0], Toy.schedule()[s.link.step * 2 + 1]);
        if (i == 2) return Toy.sum(s.outputs[1]);
        if (i == 3) return Toy.mul(s.outputs[0], uint32(s.link.step));
        if (i == 4) return Toy.add(s.outputs[3], Toy.constant_());
        return Toy.add(s.outputs[4], s.outputs[0]);
    }

    function fillLink(Story memory s) private view {
        Terms memory t = terms();
        Link memory l = s.link;
        (l.programRoot, l.datasetRoot, l.scheduleRoot, l.steps) = (t.programRoot, t.datasetRoot, t.scheduleRoot, t.steps);
        l.stateRoot = Openings.stateRoot(l.step, 2, Trees.top(Toy.stateRows(s.w, s.z)));
        if (l.m > 0) l.accRoot = Openings.accRoot(l.step, l.m, 2, Trees.top(Toy.accRows(s.g, s.z)));
        l.batchRoot = s.update ? Openings.batchRoot(0, Merkle.EMPTY) : Openings.batchRoot(1, Trees.top(Toy.batchRows(s.x)));
        l.leaves = s.update ? t.updateLeaves : t.microLeaves;
        bytes32 entries = Trees.top(endRows(s));
        l.endRoot = s.update ? Openings.stateRoot(l.step + 1, 2, entries) : Openings.accRoot(l.step, l.m + 1, 2, entries);
    }

    function endRows(Story memory s) internal view returns (bytes32[][] memory) {
        return s.update ? Toy.stateRows(s.endFirst, s.z) : Toy.accRows(s.endFirst, s.z);
    }

    function typeOf(Story memory s, uint32 i) internal pure returns (bytes memory) {
        return s.outputs[i].length == 1 ? Toy.scalar() : Toy.vector(uint64(s.outputs[i].length));
    }

    function traceLeaves(Story memory s) private view returns (bytes32[] memory leaves) {
        leaves = new bytes32[](s.outputs.length + 2);
        leaves[0] = Merkle.leaf(0, Openings.head(s.link));
        for (uint32 i = 0; i < s.outputs.length; ++i) {
            leaves[i + 1] = Merkle.leaf(i + 1, Toy.root(typeOf(s, i), s.outputs[i]));
        }
        leaves[leaves.length - 1] = Merkle.leaf(uint64(leaves.length - 1), s.link.endRoot);
    }

    // ---- the challenger --------------------------------------------------------------------------------------------------------

    function digest(uint64 segment, uint8 target, uint64 unit, address who, uint32 round, address by) internal view returns (bytes32) {
        return sha256(
            abi.encodePacked(bytes1(0x25), block.chainid, address(game), segment, target, unit, who, round, SALT, by)
        );
    }

    function sealed_(address by, uint64 segment, uint64 unit) internal returns (uint64 id) {
        bytes32 d = digest(segment, 0, unit, address(0), 0, by);
        vm.prank(by);
        id = game.seal(segment, d);
    }

    function opened(address by, uint64 segment, uint64 unit) internal returns (uint64 id) {
        id = sealed_(by, segment, unit);
        mine(1);
        vm.prank(by);
        game.open(id, 0, unit, address(0), 0, SALT);
    }

    /// To the node over leaf `leaf`, `low` levels above the leaves.
    function pointTo(uint64 id, bytes32[][] memory rows, uint256 low, uint64 leaf) internal {
        Dispute memory d = game.dispute(id);
        uint64 place = uint64(leaf >> low);
        vm.prank(d.challenger);
        game.point(id, rows[low][place], place, Trees.path(rows, low, d.height, place));
    }

    /// The challenger's turn at the root: down to a leaf, an opening at a time.
    function walk(uint64 id, bytes32[][] memory rows, uint64 leaf) internal {
        while (true) {
            Dispute memory d = game.dispute(id);
            uint256 low = d.height - Walk.step(d.height);
            pointTo(id, rows, low, leaf);
            if (low == 0) return;
            reveal(id, rows);
        }
    }

    /// From the walk over the chunks to an element at once.
    function pointElement(uint64 id, bytes32[][] memory rows, uint64 which) internal {
        Dispute memory d = game.dispute(id);
        uint64 place = which / 256;
        vm.prank(d.challenger);
        game.pointElement(id, rows[0][place], place, Trees.path(rows, 0, d.height, place), which);
    }

    function element(uint64 id, uint32[] memory data, uint64 which) internal {
        bytes32[6] memory word = Chunks.word(Toy.chunk(data, which / 256), which % 256 * 4);
        vm.prank(game.dispute(id).challenger);
        game.element(id, which, word);
    }

    // ---- the asserter ----------------------------------------------------------------------------------------------------------

    function reveal(uint64 id, bytes32[][] memory rows) internal {
        Dispute memory d = game.dispute(id);
        vm.prank(d.asserter);
        game.reveal(id, Trees.children(rows, d.height, d.index));
    }

    function linkRows(uint64 segment) internal view returns (bytes32[][] memory) {
        bytes32[] memory ends = linkEnds(segment, jobs.segment(segment).stop);
        for (uint64 i = 0; i < ends.length; ++i) {
            ends[i] = Merkle.leaf(i, ends[i]);
        }
        return Trees.rows(ends);
    }

    function traceMove(uint64 segment, Story memory s) internal view returns (TraceMove memory t) {
        bytes32[][] memory links = linkRows(segment);
        bytes32[][] memory rows = Trees.rows(s.leaves);
        Link memory l = s.link;
        (t.stateRoot, t.accRoot, t.endRoot, t.batchRoot, t.traceRoot) = (l.stateRoot, l.accRoot, l.endRoot, l.batchRoot, l.traceRoot);
        if (l.step > 0) t.statePath = Trees.path(links, 0, Math.log2(s.unit ^ (s.unit - l.m - 1)), s.unit - l.m - 1);
        if (l.m > 0) t.accPath = Trees.path(links, 0, Math.log2(s.unit ^ (s.unit - 1)), s.unit - 1);
        t.endPath = Trees.path(links, s.unit);
        uint256 down = rows.length - 1;
        down -= Walk.step(down);
        t.headPath = Trees.path(rows, 0, down, 0);
        t.lastPath = Trees.path(rows, 0, down, uint64(s.leaves.length - 1));
        t.children = Trees.children(rows, rows.length - 1, 0);
    }

    function trace(uint64 id, Story memory s) internal {
        Dispute memory d = game.dispute(id);
        TraceMove memory t = traceMove(d.segment, s);
        vm.prank(d.asserter);
        game.trace(id, t);
    }

    function stage(uint64 id, Story memory s, uint32 i) internal {
        bytes[] memory all = Toy.stages(s.update);
        bytes32[][] memory rows = Toy.rows(s.outputs[i]);
        bytes memory program = Toy.program();
        bytes32[] memory path = Trees.path(Trees.rows(Toy.leavesOf(all)), i);
        vm.prank(game.dispute(id).asserter);
        game.stage(id, s.link, program, all[i], path, Trees.top(rows), Trees.children(rows, rows.length - 1, 0));
    }

    function chunk(uint64 id, uint32[] memory data, uint64 which) internal {
        bytes memory bytes_ = Toy.chunk(data, which);
        vm.prank(game.dispute(id).asserter);
        game.chunk(id, bytes_);
    }

    /// From TRACED to the ELEMENT of stage `i`.
    function toElement(uint64 id, Story memory s, uint32 i, uint64 which) internal {
        trace(id, s);
        walk(id, Trees.rows(s.leaves), i + 1);
        stage(id, s, i);
        toNamed(id, Toy.rows(s.outputs[i]), s.outputs[i], which);
    }

    /// From the walk over the chunks of a tensor to an element of it.
    function toNamed(uint64 id, bytes32[][] memory rows, uint32[] memory data, uint64 which) internal {
        if (leaps) return pointElement(id, rows, which);
        walk(id, rows, which / 256);
        chunk(id, data, which / 256);
        element(id, data, which);
    }

    /// What shows element `which` of value `number`.
    function evidence(Story memory s, uint32 number, uint64 which) internal view returns (Evidence memory e) {
        bytes[] memory inputs = Toy.inputs(s.update);
        uint32[] memory data;
        if (number >= inputs.length) {
            data = s.outputs[number - inputs.length];
            e.rootPath = Trees.path(Trees.rows(s.leaves), number - inputs.length + 1);
        } else {
            e.record = inputs[number];
            e.recordPath = Trees.path(Trees.rows(Toy.leavesOf(inputs)), number);
            uint8 kind = uint8(e.record[0]);
            if (kind == 4 || (s.link.accRoot == 0 && kind == 1 && number == 0)) return e;
            data = inputData(s, number);
            if (kind < 3) (e.entries, e.count, e.rootPath) = entryOf(s, kind, number);
            if (kind == 3) which = s.link.step * 2 + 1;
        }
        bytes32[][] memory rows = Toy.rows(data);
        e.chunks = Trees.top(rows);
        e.chunk = Toy.chunk(data, which / 256);
        e.chunkPath = Trees.path(rows, which / 256);
    }

    function inputData(Story memory s, uint32 number) private pure returns (uint32[] memory) {
        if (!s.update) return number == 0 ? s.g : number == 1 ? s.z : s.x;
        return number == 0 ? s.w : number == 1 ? s.g : number == 2 ? Toy.schedule() : Toy.constant_();
    }

    /// Entry of an input: in the micro part values 0 and 1 are places 0 and 1 of the accumulator (or, at first, z of the state).
    function entryOf(Story memory s, uint8 kind, uint32 number)
        private
        view
        returns (bytes32 entries, uint32 count, bytes32[] memory path)
    {
        bytes32[][] memory rows;
        if (kind == 2) rows = Toy.batchRows(s.x);
        else if (kind == 0 || s.link.accRoot == 0) rows = Toy.stateRows(s.w, s.z);
        else rows = Toy.accRows(s.g, s.z);
        uint256 place = !s.update && number == 1 ? 1 : 0;
        return (Trees.top(rows), kind == 2 ? 1 : 2, Trees.path(rows, place));
    }

    /// Operands of a stage of two.
    function operands(Story memory s, uint32 i) internal pure returns (uint32 a, uint32 b) {
        bytes memory st = Toy.stages(s.update)[i];
        uint256 first;
        uint256 second_;
        uint256 next = 3 + 6 + 8 * uint256(uint8(st[8]));
        assembly {
            first := shr(224, mload(add(st, 35)))
            second_ := shr(224, mload(add(add(st, 32), next)))
        }
        return (uint32(first), uint32(second_));
    }

    function proof(Story memory s, uint32 i) internal view returns (Proof memory p) {
        (p.link, p.program, p.stage) = (s.link, Toy.program(), Toy.stages(s.update)[i]);
    }

    /// What proves element `which` of a stage of two operands, but for its chunk.
    function proved(Story memory s, uint32 i, uint64 which) internal view returns (Proof memory p) {
        p = proof(s, i);
        (uint32 a, uint32 b) = operands(s, i);
        p.evidence = new Evidence[](2);
        p.evidence[0] = evidence(s, a, which);
        p.evidence[1] = evidence(s, b, uint8(p.stage[0]) == Toy.MUL ? 0 : which);
    }

    function prove(uint64 id, Story memory s, uint32 i, uint64 which) internal {
        Proof memory p = proved(s, i, which);
        if (leaps) p.chunk = Toy.chunk(s.outputs[i], which / 256);
        vm.prank(game.dispute(id).asserter);
        game.prove(id, p);
    }

    /// The sum at stage 2: its two totals.
    function fold(uint64 id, Story memory s, int256[] memory totals) internal {
        bytes[] memory parts = firstParts(s, totals);
        Folded memory f = folded(s, totals);
        vm.prank(game.dispute(id).asserter);
        game.fold(id, f, parts);
    }

    function folded(Story memory s, int256[] memory totals) internal view returns (Folded memory) {
        bytes[] memory parts = firstParts(s, totals);
        bytes32[] memory hashes = new bytes32[](2);
        (hashes[0], hashes[1]) = (keccak256(parts[0]), keccak256(parts[1]));
        return Folded(keccak256(abi.encode(s.link)), keccak256(Toy.stages(s.update)[2]), totals, itemRoots(s), hashes);
    }

    /// Of both folds; what a total has too much is in the part with item `falseItem`.
    function firstParts(Story memory s, int256[] memory totals) internal view returns (bytes[] memory parts) {
        parts = new bytes[](2);
        uint64 n = uint64(summed(s).length);
        for (uint8 f = 0; f < 2; ++f) {
            parts[f] = partsOf(s, f, 0, n, totals[f], partWith(falseItem, n));
        }
    }

    function partWith(uint256 item_, uint256 n) internal pure returns (uint256 part) {
        uint256 k = Ranges.partsOf(n);
        while ((part + 1) * n / k <= item_) ++part;
    }

    /// The parts of a range of a fold, as the operand has them; what the total has too much is in part `where`.
    function partsOf(Story memory s, uint8 which, uint64 lo, uint64 hi, int256 total, uint256 where) internal view returns (bytes memory parts) {
        uint256 n = hi - lo;
        uint256 k = Ranges.partsOf(n);
        int256[] memory all = new int256[](k);
        uint32[] memory data = summed(s);
        for (uint256 i = 0; i < k; ++i) {
            all[i] = Toy.folds(data, lo + i * n / k, lo + (i + 1) * n / k)[which];
        }
        int256 right = Toy.folds(data, lo, hi)[which];
        if (right != total) all[where] = which == 1 ? all[where] + total - right : total;
        for (uint256 i = 0; i < k; ++i) {
            parts = abi.encodePacked(parts, int64(all[i]));
        }
    }

    /// Over the items of both folds, as the asserter has them.
    function itemRoots(Story memory s) internal view returns (bytes32[] memory roots) {
        roots = new bytes32[](2);
        for (uint256 f = 0; f < 2; ++f) {
            roots[f] = Trees.top(itemRows(s, f));
        }
    }

    function itemRows(Story memory s, uint256 which) internal view returns (bytes32[][] memory) {
        uint32[] memory data = summed(s);
        bytes32[] memory leaves = new bytes32[](data.length);
        for (uint64 i = 0; i < leaves.length; ++i) {
            leaves[i] = Merkle.leaf(i, bytes32(uint256(Toy.folds(data, i, i + 1)[which])));
        }
        return Trees.rows(leaves);
    }

    function pick(uint64 id, Story memory s, int256[] memory totals, uint256 which, uint256 part) internal {
        bytes memory parts = firstParts(s, totals)[which];
        Folded memory f = folded(s, totals);
        vm.prank(game.dispute(id).challenger);
        game.pick(id, f, Toy.stages(s.update)[2], which, parts, part);
    }

    function pickItem(uint64 id, Story memory s, int256[] memory totals, uint256 which, uint64 item_) internal {
        Folded memory f = folded(s, totals);
        bytes32[] memory path = Trees.path(itemRows(s, which), item_);
        int64 value = int64(Toy.folds(summed(s), item_, item_ + 1)[which]);
        vm.prank(game.dispute(id).challenger);
        game.pickItem(id, f, Toy.stages(s.update)[2], which, item_, value, path);
    }

    function pickOutput(uint64 id, Story memory s, int256[] memory totals) internal {
        Folded memory f = folded(s, totals);
        vm.prank(game.dispute(id).challenger);
        game.pickOutput(id, f);
    }

    function finish(uint64 id, Story memory s, int256[] memory totals) internal {
        Proof memory p = proof(s, 2);
        if (leaps) p.chunk = Toy.chunk(s.outputs[2], 0);
        p.totals = totals;
        vm.prank(game.dispute(id).asserter);
        game.finish(id, p);
    }

    function split(uint64 id, Story memory s, uint256 where) internal returns (bytes memory parts) {
        Dispute memory d = game.dispute(id);
        parts = partsOf(s, d.fold, d.lo, d.hi, d.total, where);
        vm.prank(d.asserter);
        game.split(id, parts);
    }

    function summed(Story memory s) internal pure returns (uint32[] memory) {
        return s.update ? s.outputs[1] : s.x;
    }

    function choose(uint64 id, bytes32 range, bytes memory parts, uint256 part) internal {
        vm.prank(game.dispute(id).challenger);
        game.choose(id, range, parts, part);
    }

    function item(uint64 id, Story memory s, int256[] memory totals) internal {
        Dispute memory d = game.dispute(id);
        Proof memory p = proof(s, 2);
        p.totals = totals;
        p.evidence = new Evidence[](1);
        p.evidence[0] = evidence(s, s.update ? 6 : 2, d.lo);
        vm.prank(d.asserter);
        game.item(id, p);
    }

    function end(uint64 id, Story memory s) internal {
        bytes32[][] memory rows = endRows(s);
        bytes memory program = Toy.program();
        vm.prank(game.dispute(id).asserter);
        game.end(id, s.link, program, Trees.top(rows), Trees.children(rows, 1, 0));
    }

    function endEntry(uint64 id, Story memory s, uint64 place, bytes32 root) internal {
        Proof memory p = endProof(s, place);
        bytes[] memory outputs = Toy.outputs(s.update);
        bytes32[] memory path = Trees.path(Trees.rows(Toy.leavesOf(outputs)), place);
        vm.prank(game.dispute(id).asserter);
        game.endEntry(id, p, outputs[place], path, root);
    }

    function endProof(Story memory s, uint64 place) internal view returns (Proof memory p) {
        p = proof(s, 0);
        p.evidence = new Evidence[](1);
        if (place == 0) p.evidence[0] = evidence(s, s.update ? 9 : 3, 0);
        else if (s.update) (p.evidence[0].entries, p.evidence[0].count, p.evidence[0].rootPath) = stateZEntry(s);
        else p.evidence[0] = evidence(s, 1, 0);
    }

    function stateZEntry(Story memory s) private view returns (bytes32, uint32, bytes32[] memory) {
        bytes32[][] memory rows = Toy.stateRows(s.w, s.z);
        return (Trees.top(rows), 2, Trees.path(rows, 1));
    }

    function batch(uint64 id, Story memory s) internal {
        bytes32[][] memory rows = Toy.batchRows(s.x);
        vm.prank(game.dispute(id).asserter);
        game.batch(id, s.link, 1, Trees.top(rows), Trees.children(rows, 0, 0));
    }

    function batchEntry(uint64 id, Story memory s) internal {
        bytes[] memory inputs = Toy.inputs(false);
        bytes32[][] memory rows = Toy.rows(s.x);
        bytes memory program = Toy.program();
        bytes32[] memory path = Trees.path(Trees.rows(Toy.leavesOf(inputs)), 2);
        vm.prank(game.dispute(id).asserter);
        game.batchEntry(id, s.link, Field(program, 2, inputs[2], path), Trees.top(rows), Trees.children(rows, rows.length - 1, 0));
    }

    function gatherMove(Story memory s, uint64 which) internal view returns (GatherMove memory g) {
        (g.link, g.record, g.data) = (s.link, Toy.inputs(false)[2], Toy.dataset());
        if (leaps) g.chunk = Toy.chunk(s.x, which / 256);
        uint64 record = Toy.recordAt(s.link.step, s.link.m, which / 150);
        (g.shard, g.first, g.records) = Toy.shardOf(record);
        bytes32[][] memory rows = Toy.shardRows(g.first, g.records);
        g.shardRoot = Trees.top(rows);
        g.shardPath = Trees.path(Toy.shardsRows(), g.shard);
        g.example = Toy.record(record);
        g.examplePath = Trees.path(rows, record - g.first);
    }

    function gather(uint64 id, Story memory s, uint64 which) internal {
        GatherMove memory g = gatherMove(s, which);
        vm.prank(game.dispute(id).asserter);
        game.gather(id, g);
    }

    // ---- looking ---------------------------------------------------------------------------------------------------------------

    function assertStand(uint64 id, Stand expected) internal view {
        assertEq(uint256(game.dispute(id).stand), uint256(expected), "stand");
    }

    function assertOutcome(uint64 id, Outcome expected) internal view {
        assertEq(uint256(game.dispute(id).outcome), uint256(expected), "outcome");
    }

    function paid(uint64 id) internal {
        pass(game.dueOf(id));
        game.pay(id);
    }

    /// Every token of the game is the bond or the takings of a dispute that is not paid, or somebody's credit.
    function assertMoney() internal view {
        uint256 held = 0;
        for (uint64 id = 1; id <= game.disputeCount(); ++id) {
            Dispute memory d = game.dispute(id);
            if (d.stand != Stand.PAID) held += d.bond + d.taken;
        }
        address[7] memory who = [challenger, second, stranger, client, provider, other, verifier(0)];
        for (uint256 i = 0; i < who.length; ++i) {
            held += game.credit(who[i]);
        }
        for (uint256 i = 1; i < VERIFIERS; ++i) {
            held += game.credit(verifier(i));
        }
        assertEq(token.balanceOf(address(game)), held, "tokens of the game");
    }
}
