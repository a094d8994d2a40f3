// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Disputes} from "../src/Disputes.sol";
import {TestToken} from "../src/TestToken.sol";
import {Descent} from "../src/dispute/Descent.sol";
import {Verdict} from "../src/dispute/Verdict.sol";
import {IDisputeGame} from "../src/interfaces/IDisputes.sol";
import {ClearLeaf} from "../src/leaf/clear/ClearLeaf.sol";
import {TableLeaf} from "../src/leaf/table/TableLeaf.sol";
import {Dispute, LinkFacts, Rules, Stand} from "../src/types/DisputeTypes.sol";
import {Test} from "./utils/Test.sol";

/// Jobs and Stakes with the one segment of a game.
contract Told {
    TestToken public token = new TestToken();
    LinkFacts internal facts;
    uint32[2] internal leaves;
    address public asserter;
    uint128 public bond;
    uint32 internal round;
    uint64 internal unit;
    bytes32 internal traceRoot;
    uint256 public rejected;

    error Refused();

    function tell(LinkFacts memory f, uint32[2] memory leaves_, address asserter_, uint128 bond_) external {
        (facts, leaves, asserter, bond) = (f, leaves_, asserter_, bond_);
        token.mint(address(this), bond_);
    }

    function tellVote(uint32 round_, uint64 unit_, bytes32 traceRoot_) external {
        (round, unit, traceRoot) = (round_, unit_, traceRoot_);
    }

    function mint(address who, uint128 amount) external {
        token.mint(who, amount);
    }

    function stakes() external view returns (address) {
        return address(this);
    }

    function linksOf(uint64) external view returns (address, bytes32, uint64) {
        return (asserter, facts.linkRoot, facts.links);
    }

    function linkFacts(uint64, uint64 unit_) external view returns (LinkFacts memory f) {
        f = facts;
        f.leaves = leaves[unit_ % (f.micros + 1) == f.micros ? 1 : 0];
    }

    function partyTo(uint64, address) external pure returns (uint32, bool, uint32) {
        return (0, false, 0);
    }

    function disputeOpened(uint64) external pure {}

    function disputeVoided(uint64) external pure {}

    function disputeResolved(uint64, bool asserterLost) external {
        if (asserterLost) ++rejected;
    }

    function voteDisputed(uint64, uint32 round_, address verifier, uint64 unit_, uint64) external view returns (bytes32, bool) {
        if (traceRoot == 0 || round_ != round || unit_ != unit || verifier != asserter) revert Refused();
        return (traceRoot, false);
    }

    function voteResolved(uint64, uint32, address, bool) external pure {}

    function pardon(uint64, uint64, uint32) external pure returns (bool) {
        return false;
    }

    function reservation(address, uint64) external view returns (uint128) {
        return bond;
    }

    function slash(address, uint64, uint128 amount, uint128) external {
        bond -= amount;
        token.transfer(msg.sender, amount);
    }
}

/// tests/vectors/game_calls.json: whole games as assay plays them, with moves that must revert, decided by the two real leaves.
contract GamesTest is Test {
    string internal json;
    uint256 internal constant START = 1_900_000_000;
    uint256 internal constant BLOCK = 5000;
    address internal constant BURN = 0x000000000000000000000000000000000000dEaD;
    address internal challenger = address(0xCA);
    address internal asserter;
    ClearLeaf internal clearLeaf = new ClearLeaf();
    TableLeaf internal tableLeaf = new TableLeaf();

    /// Where a game stands after each of its moves.
    struct Where {
        uint256[] stands;
        uint256[] outcomes;
        uint256[] turns;
        uint256[] los;
        uint256[] his;
        int256[] totals;
    }

    Told internal told;
    IDisputeGame internal game;

    function setUp() public {
        json = vm.readFile("../tests/vectors/game_calls.json");
    }

    function numbers(string memory key, string memory field) internal view returns (uint256[] memory) {
        return vm.parseJsonUintArray(json, string.concat(key, field));
    }

    function begin(string memory key) internal {
        bytes32[] memory roots = vm.parseJsonBytes32Array(json, string.concat(key, ".roots"));
        uint256[] memory n = numbers(key, ".numbers");
        uint64 links = uint64((n[1] - n[0]) * (n[3] + 1));
        LinkFacts memory f = LinkFacts(
            roots[0], roots[1], roots[2], roots[3], roots[4], uint64(n[0]), links, uint64(n[2]), uint32(n[3]), 0
        );
        asserter = n[11] == 1 ? vm.parseJsonAddress(json, string.concat(key, ".verifier")) : address(0xA5);
        told = new Told();
        told.tell(f, [uint32(n[4]), uint32(n[5])], asserter, uint128(n[10]));
        bytes32 root = vm.parseJsonBytes32(json, string.concat(key, ".trace_root"));
        if (n[14] == 1) told.tellVote(uint32(n[12]), uint64(n[13]), root);
        Rules memory r = Rules(uint32(n[6]), uint32(n[7]), uint32(n[8]), 1000, uint128(n[9]), 0, address(0));
        address descent = address(new Descent(address(told), r, address(0)));
        address verdict = address(new Verdict(address(told), r, address(clearLeaf), address(tableLeaf)));
        game = IDisputeGame(address(new Disputes(address(told), r, descent, verdict)));
        seal(key, uint128(n[9]));
    }

    function seal(string memory key, uint128 bond) internal {
        uint256[] memory target = numbers(key, ".target");
        bytes32 salt = vm.parseJsonBytes32(json, string.concat(key, ".salt"));
        address who = target[0] == 1 ? vm.parseJsonAddress(json, string.concat(key, ".verifier")) : address(0);
        told.mint(challenger, bond);
        vm.warp(START);
        vm.roll(BLOCK + 1);
        bytes32 digest = sha256(
            abi.encodePacked(
                bytes1(0x25), block.chainid, address(game), uint64(7), uint8(target[0]), uint64(target[1]), who, uint32(target[2]), salt, challenger
            )
        );
        vm.startPrank(challenger);
        told.token().approve(address(game), bond);
        game.seal(7, digest);
        vm.stopPrank();
    }

    function test_every_game() public {
        uint256 moves = 0;
        uint256 i = 0;
        for (; vm.keyExistsJson(json, entry(i)); ++i) {
            moves += play(entry(i));
        }
        assertTrue(i > 25, "games");
        assertTrue(moves > 300, "moves");
    }

    function entry(uint256 i) internal pure returns (string memory) {
        return string.concat(".games[", vm.toString(i), "]");
    }

    function play(string memory key) internal returns (uint256) {
        begin(key);
        string memory name = vm.parseJsonString(json, string.concat(key, ".name"));
        bytes[] memory calls = vm.parseJsonBytesArray(json, string.concat(key, ".calls"));
        uint256[] memory senders = numbers(key, ".senders");
        uint256[] memory blocks = numbers(key, ".blocks");
        uint256[] memory times = numbers(key, ".times");
        uint256[] memory reverts = numbers(key, ".reverts");
        Where memory w = Where(
            numbers(key, ".stands"),
            numbers(key, ".outcomes"),
            numbers(key, ".turns"),
            numbers(key, ".los"),
            numbers(key, ".his"),
            vm.parseJsonIntArray(json, string.concat(key, ".totals"))
        );
        for (uint256 i = 0; i < calls.length; ++i) {
            vm.warp(START + times[i]);
            vm.roll(BLOCK + blocks[i]);
            bytes32 before = keccak256(abi.encode(game.dispute(1)));
            vm.prank(senders[i] == 1 ? asserter : challenger);
            (bool done,) = address(game).call(calls[i]);
            string memory what = string.concat(name, ", move ", vm.toString(i));
            assertEq(done ? 0 : 1, reverts[i], what);
            if (!done) assertEq(keccak256(abi.encode(game.dispute(1))), before, what);
            else follow(w, what, i);
        }
        compare(key, name, calls.length);
        return calls.length;
    }

    /// Where the game stands after a move.
    function follow(Where memory w, string memory what, uint256 i) internal view {
        Dispute memory d = game.dispute(1);
        uint256 stand = w.stands[i];
        if (d.stand != Stand.PAID) assertEq(uint256(d.stand), stand, what);
        assertEq(uint256(d.outcome), w.outcomes[i], what);
        if (stand < uint256(Stand.RESOLVED)) assertEq(d.asserting ? 1 : 0, w.turns[i], what);
        if (d.stand != Stand.RANGE || !d.asserting) return;
        assertEq(d.lo, w.los[i], what);
        assertEq(d.hi, w.his[i], what);
        assertTrue(d.total == w.totals[i], what);
    }

    function compare(string memory key, string memory name, uint256 count) internal {
        Dispute memory d = game.dispute(1);
        uint256 last = count - 1;
        assertEq(uint256(d.outcome), numbers(key, ".outcomes")[last], string.concat(name, ": outcome"));
        uint256[] memory result = numbers(key, ".result");
        assertEq(d.taken, result[1], string.concat(name, ": slashed"));
        uint256[] memory records = numbers(key, ".records");
        assertEq(game.shownIn(1).count, records[1], string.concat(name, ": records shown"));
        if (records[1] > 0) assertEq(game.shownIn(1).first, records[0], string.concat(name, ": the first record shown"));
        if (d.stand == Stand.RESOLVED) {
            vm.warp(game.dueOf(1) + 1);
            game.pay(1);
        }
        assertEq(told.token().balanceOf(BURN), result[2], string.concat(name, ": burnt"));
        assertEq(game.credit(challenger), result[3], string.concat(name, ": challenger"));
        assertEq(game.credit(asserter), result[4], string.concat(name, ": asserter"));
        assertEq(told.token().balanceOf(address(game)), result[3] + result[4], string.concat(name, ": held"));
    }
}
