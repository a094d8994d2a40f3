// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {Disputes} from "../src/Disputes.sol";
import {Descent} from "../src/dispute/Descent.sol";
import {Openings} from "../src/dispute/Openings.sol";
import {Ranges} from "../src/dispute/Ranges.sol";
import {Verdict} from "../src/dispute/Verdict.sol";
import {Walk} from "../src/dispute/Walk.sol";
import {IDisputeGame} from "../src/interfaces/IDisputes.sol";
import {ILeaf} from "../src/interfaces/ILeaf.sol";
import {Merkle} from "../src/libraries/Merkle.sol";
import {Dispute, Evidence, Folded, Link, Outcome, Proof, Rules, TraceMove} from "../src/types/DisputeTypes.sol";
import {Offer, Terms} from "../src/types/Types.sol";
import {ClearLeaf} from "../src/leaf/clear/ClearLeaf.sol";
import {TableLeaf} from "../src/leaf/table/TableLeaf.sol";
import {Chunks} from "./utils/Chunks.sol";
import {Network} from "./utils/Network.sol";
import {Sparse} from "./utils/Sparse.sol";

/// Gas of every move at the size of a training step of a billion parameters, each as a transaction of its own, calldata included, written to
/// snapshots/Disputes.json: a trace of 2^16 leaves, tensors of 2^22 chunks, a fold of 2^16 items, 2^10 links. All bytes of chunks and hashes are
/// as dear as random ones. The asserter is honest: both sides play to the last item. The leaves are the real
/// ones. The EVM is that of Prague, whose floor of 40 gas a byte of calldata (EIP-7623) is in the figures.
/// forge-config: default.isolate = true
/// forge-config: default.evm_version = "prague"
contract DisputeGasTest is Network {
    using Sparse for Sparse.Tree;

    uint256 internal constant ASSERTER = 0;
    uint256 internal constant CHALLENGER = 1;
    uint256 internal constant MOST = 500_000;
    uint256 internal constant TRACE = 16;
    uint256 internal constant CHUNKS = 22;
    uint256 internal constant LINKS = 10;
    uint64 internal constant SIDE = 1 << 15;
    /// Whose step's state lies in the other half of the links: its path is the longest.
    uint64 internal constant UNIT = 513;
    uint32 internal constant STAGE = 40_000;
    uint64 internal constant ELEMENT = 777_777_777;
    uint64 internal constant ITEM = 54_321;
    bytes32 internal constant SALT = bytes32(uint256(1));

    IDisputeGame internal game;
    ILeaf internal leaf;
    address internal challenger = address(0xCA);
    uint256[2] internal spent;
    bytes internal stageBytes;
    bytes internal program;
    bytes internal data;

    function deployDisputes() internal override returns (address) {
        Rules memory r = Rules(1000, 1000, 1000, 1000, 10e6, 0, address(0));
        Descent descent = new Descent(address(jobs), r, address(0));
        leaf = new ClearLeaf();
        Verdict verdict = new Verdict(address(jobs), r, address(leaf), address(new TableLeaf()));
        game = IDisputeGame(address(new Disputes(address(jobs), r, address(descent), address(verdict))));
        return address(game);
    }

    function setUp() public override {
        super.setUp();
        data = new bytes(1024);
        for (uint256 i = 0; i < 1024; ++i) {
            data[i] = bytes1(uint8(1 + i % 255));
        }
        token.mint(challenger, 100e6);
        vm.prank(challenger, challenger);
        token.approve(address(game), type(uint256).max);
        // A product of [2^15, 2^16] and [2^16, 2^15].
        stageBytes = abi.encodePacked(
            hex"240002", uint32(30_000), matrix(SIDE, 2 * SIDE), uint32(39_999), matrix(2 * SIDE, SIDE), matrix(SIDE, SIDE), uint8(16)
        );
        bytes32 stages = stageTree().root();
        program = abi.encodePacked(uint8(16), uint32(3));
        for (uint256 i = 0; i < 2; ++i) {
            program = abi.encodePacked(program, uint32(300), uint32((1 << TRACE) - 2), uint32(800), SALT, stages, SALT);
        }
    }

    function matrix(uint64 n, uint64 k) internal pure returns (bytes memory) {
        return abi.encodePacked(hex"0102", n, k);
    }

    function terms() internal view override returns (Terms memory t) {
        t = super.terms();
        t.programRoot = sha256(abi.encodePacked(hex"15", program));
        (t.steps, t.segmentSteps, t.microBatches) = (1000, 256, 3);
        (t.microLeaves, t.updateLeaves) = (uint32(1 << TRACE), uint32(1 << TRACE));
    }

    // ---- trees -----------------------------------------------------------------------------------------------------------------

    function stageTree() internal view returns (Sparse.Tree memory) {
        return Sparse.one(TRACE, STAGE, Merkle.leafOf(STAGE, stageBytes));
    }

    function chunkAt(uint64 element) internal pure returns (uint64) {
        return element / 256;
    }

    function tensor(uint256 height, uint64 element, bytes memory bytes_) internal view returns (Sparse.Tree memory) {
        return Sparse.one(height, chunkAt(element), Merkle.leafOf(chunkAt(element), bytes_));
    }

    function operand(uint256 k) internal view returns (uint64 element, Sparse.Tree memory t, bytes32 root) {
        element = k == 0 ? (ELEMENT / SIDE) * 2 * SIDE + ITEM : ITEM * SIDE + ELEMENT % SIDE;
        t = tensor(CHUNKS + 1, element, data);
        root = Openings.tensorRoot(k == 0 ? matrix(SIDE, 2 * SIDE) : matrix(2 * SIDE, SIDE), t.root());
    }

    function word(bytes memory bytes_, uint64 element) internal pure returns (uint64) {
        uint256 spot = (element * 4) % 1024;
        return uint64(uint32(bytes4(bytes.concat(bytes_[spot + 3], bytes_[spot + 2], bytes_[spot + 1], bytes_[spot]))));
    }

    function link() internal view returns (Link memory l, Sparse.Tree memory trace, Sparse.Tree memory output) {
        Terms memory t = terms();
        (l.programRoot, l.datasetRoot, l.scheduleRoot) = (t.programRoot, t.datasetRoot, t.scheduleRoot);
        (l.stateRoot, l.accRoot, l.endRoot, l.batchRoot) = (keccak256("s"), keccak256("a"), keccak256("e"), keccak256("b"));
        (l.steps, l.step, l.m, l.micros, l.leaves) = (t.steps, UNIT / 4, uint32(UNIT % 4), 3, t.microLeaves);
        output = tensor(CHUNKS, ELEMENT, outputChunk());
        uint64[] memory places = new uint64[](5);
        bytes32[] memory items = new bytes32[](5);
        (places[1], places[2], places[3], places[4]) = (30_000 - 300 + 1, 39_999 - 300 + 1, STAGE + 1, uint64((1 << TRACE) - 1));
        items[0] = Openings.head(l);
        (,, items[1]) = operand(0);
        (,, items[2]) = operand(1);
        items[3] = Openings.tensorRoot(matrix(SIDE, SIDE), output.root());
        items[4] = l.endRoot;
        for (uint256 i = 0; i < 5; ++i) {
            items[i] = Merkle.leaf(places[i], items[i]);
        }
        trace = Sparse.grow(TRACE, places, items);
        l.traceRoot = trace.root();
    }

    /// The chunk with the element that follows from the totals.
    function outputChunk() internal view returns (bytes memory chunk) {
        chunk = bytes.concat(data);
        uint64 bits = leaf.finish(stageBytes, ELEMENT, totals(), new uint64[](0));
        uint256 spot = (ELEMENT * 4) % 1024;
        for (uint256 i = 0; i < 4; ++i) {
            chunk[spot + i] = bytes1(uint8(bits >> (8 * i)));
        }
    }

    function linkTree(Link memory l) internal view returns (Sparse.Tree memory) {
        uint64[] memory places = new uint64[](4);
        bytes32[] memory items = new bytes32[](4);
        (places[0], places[1], places[2], places[3]) = (UNIT - 2, UNIT - 1, UNIT, uint64((1 << LINKS) - 1));
        (items[0], items[1], items[2], items[3]) = (l.stateRoot, l.accRoot, l.endRoot, keccak256("segment's end"));
        for (uint256 i = 0; i < 4; ++i) {
            items[i] = Merkle.leaf(places[i], items[i]);
        }
        return Sparse.grow(LINKS, places, items);
    }

    // ---- a fold whose total at every split is the item's and fifteen others' ---------------------------------------------------------

    function totals() internal view returns (int256[] memory all) {
        all = new int256[](3);
        (all[0], all[1], all[2]) = (int256(131), int256(129), rangeTotal(1 << 16));
    }

    function itemValue() internal view returns (int256) {
        uint64[] memory values = new uint64[](2);
        for (uint256 k = 0; k < 2; ++k) {
            (uint64 element,,) = operand(k);
            values[k] = word(data, element);
        }
        int256[] memory some = new int256[](3);
        (some[0], some[1]) = (int256(131), int256(129));
        return leaf.item(stageBytes, ELEMENT, 2, ITEM, some, values);
    }

    /// What the parts beside the pointed one are: numbers of eight bytes, as dear as they come; they add up to nothing.
    function beside(uint256 part) internal pure returns (int256) {
        return part % 2 == 0 ? int256(0x1122334455667788) : -int256(0x1122334455667788);
    }

    function rangeTotal(uint64 n) internal view returns (int256) {
        if (n == 1) return itemValue();
        uint64 count = uint64(Ranges.partsOf(n));
        return rangeTotal(n / count) - beside((ITEM % n) / (n / count));
    }

    // ---- measuring -------------------------------------------------------------------------------------------------------------

    function took(uint256 side, string memory name) internal {
        uint256 gas = vm.snapshotGasLastCall("Disputes", name);
        spent[side] += gas;
        assertTrue(gas < MOST, string.concat(name, ": over 500,000 gas"));
    }

    /// A walk over nodes that were shown on chain.
    function walk(uint64 id, Sparse.Tree memory t, uint64 place) internal {
        while (true) {
            Dispute memory d = game.dispute(id);
            uint256 low = d.height - Walk.step(d.height);
            uint64 to = place >> uint64(low);
            bytes32[] memory path = t.path(low, d.height, to);
            bytes32 below = t.node(low, to);
            vm.prank(challenger, challenger);
            game.point(id, below, to, path);
            took(CHALLENGER, path.length == 4 ? "point, 4 levels" : "point, 5 levels");
            if (low == 0) return;
            bytes32[] memory children = t.children(low, to);
            vm.prank(provider, provider);
            game.reveal(id, children);
            took(ASSERTER, children.length == 16 ? "reveal, 16 nodes" : "reveal, 32 nodes");
        }
    }

    /// Over nodes that were served.
    function leap(uint64 id, Sparse.Tree memory t, uint64 place) internal {
        bytes32 below = t.node(0, place);
        bytes32[] memory path = t.path(place);
        if (t.height == CHUNKS) noElementOnTheWay(id, t, place, path);
        vm.prank(challenger, challenger);
        if (t.height == TRACE) game.point(id, below, place, path);
        else game.pointElement(id, below, place, path, ELEMENT);
        took(CHALLENGER, t.height == TRACE ? "point, 16 levels" : "point, 22 levels and an element");
    }

    /// An element is named in a chunk, not in a node above it.
    function noElementOnTheWay(uint64 id, Sparse.Tree memory t, uint64 place, bytes32[] memory path) internal {
        bytes32[] memory up = new bytes32[](path.length - 3);
        for (uint256 i = 0; i < up.length; ++i) {
            up[i] = path[i + 3];
        }
        bytes32 below = t.node(3, place >> 3);
        vm.prank(challenger, challenger);
        vm.expectRevert(abi.encodeWithSelector(Walk.TooFewLevels.selector, CHUNKS - 3, CHUNKS));
        game.pointElement(id, below, place >> 3, up, ELEMENT);
    }

    function play(bool served_) internal {
        delete spent;
        (Link memory l, Sparse.Tree memory trace, Sparse.Tree memory output) = link();
        Sparse.Tree memory links = linkTree(l);
        uint64 id = begin(committedTo(links), links, served_);
        toTrace(id, l, links, trace);
        if (served_) leap(id, trace, STAGE + 1);
        else walk(id, trace, STAGE + 1);
        toElement(id, l, output, served_);
        toItem(id, l, served_);
        decide(id, l, trace);
        assertEq(uint256(game.dispute(id).outcome), uint256(Outcome.ASSERTER_WON), "outcome");
    }

    function committedTo(Sparse.Tree memory links) internal returns (uint64 segment) {
        Offer memory o = offerOf(provider, post(), 0, PRICE);
        o.stop = 256;
        bytes memory signature = signOffer(o);
        vm.prank(scheduler);
        segment = jobs.assign(o, signature);
        vm.prank(provider, provider);
        jobs.activate(segment);
        bytes memory checkpoint = cid("checkpoint");
        bytes32[] memory last = links.path(uint64((1 << LINKS) - 1));
        bytes32 root = links.root();
        vm.prank(provider, provider);
        jobs.commit(segment, 256, root, keccak256("segment's end"), last, checkpoint, SALT, new bytes(80));
        mine(3);
        jobs.draw(segment);
    }

    function begin(uint64 segment, Sparse.Tree memory links, bool served_) internal returns (uint64 id) {
        uint64 unit = served_ ? UNIT : type(uint64).max;
        bytes32 digest = sha256(
            abi.encodePacked(
                bytes1(0x25), block.chainid, address(game), segment, uint8(0), unit, address(0), uint32(0), SALT, challenger
            )
        );
        vm.prank(challenger, challenger);
        id = game.seal(segment, digest);
        took(CHALLENGER, "seal");
        mine(1);
        vm.prank(challenger, challenger);
        game.open(id, 0, unit, address(0), 0, SALT);
        took(CHALLENGER, "open");
        if (served_) return id;
        bytes32[] memory children = links.children(LINKS, 0);
        vm.prank(provider, provider);
        game.reveal(id, children);
        took(ASSERTER, "reveal, 32 nodes");
        walk(id, links, UNIT);
    }

    function before(Sparse.Tree memory links, uint64 unit) internal view returns (bytes32[] memory) {
        return links.path(0, Math.log2(UNIT ^ unit), unit);
    }

    function toTrace(uint64 id, Link memory l, Sparse.Tree memory links, Sparse.Tree memory trace) internal {
        TraceMove memory t;
        (t.stateRoot, t.accRoot, t.endRoot, t.batchRoot, t.traceRoot) = (l.stateRoot, l.accRoot, l.endRoot, l.batchRoot, l.traceRoot);
        (t.statePath, t.accPath, t.endPath) = (before(links, UNIT - 2), before(links, UNIT - 1), links.path(UNIT));
        (t.headPath, t.lastPath) = (trace.path(0, TRACE - 4, 0), trace.path(0, TRACE - 4, uint64((1 << TRACE) - 1)));
        t.children = trace.children(TRACE, 0);
        vm.prank(provider, provider);
        game.trace(id, t);
        took(ASSERTER, "trace");
    }

    function toElement(uint64 id, Link memory l, Sparse.Tree memory output, bool served_) internal {
        bytes32[] memory path = stageTree().path(STAGE);
        bytes32 root = output.root();
        bytes32[] memory children = output.children(CHUNKS, 0);
        vm.prank(provider, provider);
        game.stage(id, l, program, stageBytes, path, root, children);
        took(ASSERTER, "stage");
        if (served_) return leap(id, output, chunkAt(ELEMENT));
        walk(id, output, chunkAt(ELEMENT));
        bytes memory bytes_ = outputChunk();
        vm.prank(provider, provider);
        game.chunk(id, bytes_);
        took(ASSERTER, "chunk");
        bytes32[6] memory shown = Chunks.word(bytes_, (ELEMENT * 4) % 1024);
        vm.prank(challenger, challenger);
        game.element(id, ELEMENT, shown);
        took(CHALLENGER, "element");
    }

    function toItem(uint64 id, Link memory l, bool served_) internal {
        bytes[] memory parts = firstParts();
        Folded memory f = Folded(keccak256(abi.encode(l)), keccak256(stageBytes), totals(), itemRoots(), new bytes32[](3));
        for (uint256 i = 0; i < 3; ++i) {
            f.parts[i] = keccak256(parts[i]);
        }
        vm.prank(provider, provider);
        game.fold(id, f, parts);
        took(ASSERTER, "fold");
        if (served_) {
            bytes32[] memory path = itemTree().path(ITEM);
            int64 value = int64(itemValue());
            vm.prank(challenger, challenger);
            game.pickItem(id, f, stageBytes, 2, ITEM, value, path);
            took(CHALLENGER, "pick a fold and an item");
            return;
        }
        vm.prank(challenger, challenger);
        game.pick(id, f, stageBytes, 2, parts[2], ITEM / 2048);
        took(CHALLENGER, "pick a fold and a part");
        for (uint64 n = 2048; n > 1;) {
            n = halve(id, n);
        }
    }

    /// One more split, and the part with the item.
    function halve(uint64 id, uint64 n) internal returns (uint64) {
        uint64 count = uint64(Ranges.partsOf(n));
        uint256 where = (ITEM % n) / (n / count);
        bytes memory parts = partsOf(n, count, where);
        bytes32 range = game.dispute(id).node;
        vm.prank(provider, provider);
        game.split(id, parts);
        took(ASSERTER, count == 64 ? "split in 64" : "split in 32");
        vm.prank(challenger, challenger);
        game.choose(id, range, parts, where);
        took(CHALLENGER, count == 64 ? "choose of 64" : "choose of 32");
        return n / count;
    }

    /// Of the exponents of a row, of a column, and of the products.
    function firstParts() internal view returns (bytes[] memory parts) {
        parts = new bytes[](3);
        for (uint256 i = 0; i < 32; ++i) {
            (parts[0], parts[1]) = (abi.encodePacked(parts[0], int64(131)), abi.encodePacked(parts[1], int64(129)));
        }
        parts[2] = partsOf(1 << 16, 32, ITEM / 2048);
    }

    function partsOf(uint64 n, uint64 count, uint256 where) internal view returns (bytes memory parts) {
        for (uint256 i = 0; i < count; ++i) {
            parts = abi.encodePacked(parts, int64(i == where ? rangeTotal(n / count) : beside(i)));
        }
    }

    function itemTree() internal view returns (Sparse.Tree memory) {
        return Sparse.one(16, ITEM, Merkle.leaf(ITEM, bytes32(uint256(itemValue()))));
    }

    function itemRoots() internal view returns (bytes32[] memory roots) {
        roots = new bytes32[](3);
        (roots[0], roots[1], roots[2]) = (keccak256("row"), keccak256("column"), itemTree().root());
    }

    function decide(uint64 id, Link memory l, Sparse.Tree memory trace) internal {
        Proof memory p = Proof(l, program, stageBytes, "", totals(), new Evidence[](2));
        for (uint256 k = 0; k < 2; ++k) {
            (uint64 element, Sparse.Tree memory t,) = operand(k);
            p.evidence[k].rootPath = trace.path(k == 0 ? 30_000 - 300 + 1 : 39_999 - 300 + 1);
            p.evidence[k].chunks = t.root();
            p.evidence[k].chunk = data;
            p.evidence[k].chunkPath = t.path(chunkAt(element));
        }
        vm.prank(provider, provider);
        game.item(id, p);
        took(ASSERTER, "item, 2 operands");
    }

    function test_gas_of_a_dispute() public {
        play(false);
        vm.snapshotValue("Disputes", "total: asserter, every level on chain", spent[ASSERTER]);
        vm.snapshotValue("Disputes", "total: challenger, every level on chain", spent[CHALLENGER]);
    }

    function test_gas_of_a_dispute_over_served_nodes() public {
        play(true);
        vm.snapshotValue("Disputes", "total: asserter, nodes served off chain", spent[ASSERTER]);
        vm.snapshotValue("Disputes", "total: challenger, nodes served off chain", spent[CHALLENGER]);
    }
}
