// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Receipts} from "../src/Receipts.sol";
import {TestToken} from "../src/TestToken.sol";
import {ProgramView} from "../src/dispute/ProgramView.sol";
import {Accused, Claim, IReceipts} from "../src/interfaces/IReceipts.sol";
import {LinkFacts} from "../src/types/DisputeTypes.sol";
import {Test} from "./utils/Test.sol";

/// What Disputes makes of it is played in tests/ports/test_receipts_evm.py; here the calls are made by whom it is bound to.
contract ReceiptsTest is Test {
    uint128 internal constant STAKE = 100e6;
    uint128 internal constant BOND = 60e6;
    uint64 internal constant DELAY = 1 days;
    uint256 internal constant KEY = 0xA1;

    TestToken internal token;
    Receipts internal receipts;
    address internal signer = vm.addr(KEY);
    address internal disputes = address(0xD15);
    address internal stranger = address(0x57);
    uint256 internal timeNow = 1_800_000_000;

    function setUp() public {
        vm.warp(timeNow);
        token = new TestToken();
        receipts = new Receipts(address(token), DELAY);
        vm.expectRevert(abi.encodeWithSelector(IReceipts.NotDeployer.selector, stranger, address(this)));
        vm.prank(stranger);
        receipts.bind(disputes);
        receipts.bind(disputes);
        token.mint(signer, STAKE);
        vm.startPrank(signer);
        token.approve(address(receipts), STAKE);
        receipts.deposit(STAKE);
        vm.stopPrank();
    }

    function refused(bytes memory reason) internal {
        vm.expectRevert(reason);
    }

    /// A program of 7 and 2 stages, with so many micro-batches.
    function program(uint32 micros) internal pure returns (bytes memory) {
        bytes32 root = keccak256("root");
        bytes memory micro = abi.encodePacked(uint32(3), uint32(7), uint32(1), root, root, root);
        return abi.encodePacked(uint8(14), micros, micro, uint32(1), uint32(2), uint32(1), root, root, root);
    }

    function claim(uint128 bond, bytes32 linkRoot) internal view returns (Claim memory c) {
        c.signer = signer;
        c.programRoot = sha256(abi.encodePacked(bytes1(0x15), program(1)));
        (c.dataRoot, c.scheduleRoot, c.stateRoot, c.linkRoot) = (keccak256("d"), keccak256("s"), keccak256("0"), linkRoot);
        (c.bond, c.expires) = (bond, uint64(timeNow + 7 days));
    }

    function signed(Claim memory c) internal view returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(KEY, receipts.digestOf(c));
        return abi.encodePacked(r, s, v);
    }

    function brought(uint128 bond, bytes32 linkRoot) internal returns (uint64) {
        Claim memory c = claim(bond, linkRoot);
        return receipts.accuse(c, signed(c), program(1));
    }

    function opened(uint64 id) internal {
        vm.prank(disputes);
        receipts.disputeOpened(id);
    }

    function resolved(uint64 id, bool lost) internal {
        vm.prank(disputes);
        receipts.disputeResolved(id, lost);
    }

    function holds(uint128 stake, uint128 reserved) internal view {
        assertEq(receipts.stakeOf(signer), stake, "stake");
        assertEq(receipts.reservedOf(signer), reserved, "reserved");
        assertEq(token.balanceOf(address(receipts)), stake, "held");
    }

    function test_what_a_dispute_is_told() public {
        uint64 id = brought(BOND, keccak256("ends"));
        Claim memory c = claim(BOND, keccak256("ends"));
        assertEq(receipts.receiptOf(receipts.digestOf(c)), id, "number");
        Accused memory a = receipts.receipt(id);
        assertEq(a.claim.linkRoot, c.linkRoot, "claim");
        (address who, bytes32 root, uint64 links) = receipts.linksOf(id);
        assertEq(who, signer, "signer");
        assertEq(root, c.linkRoot, "ends");
        assertEq(links, 2, "a run and an update");
        LinkFacts memory run = receipts.linkFacts(id, 0);
        assertEq(run.leaves, 9, "head, seven stages, end");
        assertEq(run.programRoot, c.programRoot, "program");
        assertEq(run.datasetRoot, c.dataRoot, "data");
        assertEq(run.scheduleRoot, c.scheduleRoot, "schedule");
        assertEq(run.startRoot, c.stateRoot, "start");
        assertEq(run.steps + run.start, 1, "one step from 0");
        assertEq(receipts.linkFacts(id, 1).leaves, 4, "head, two stages, end");
        (uint32 open_, bool party, uint32 replay) = receipts.partyTo(id, signer);
        assertTrue(open_ == 0 && !party && replay > 0, "nobody is a party");
        assertEq(receipts.stakes(), address(receipts), "stakes");
        assertEq(receipts.token(), address(token), "token");
        assertTrue(!receipts.pardon(id, 0, 1), "nobody is pardoned");
    }

    function test_only_what_the_signer_signed_is_brought() public {
        Claim memory c = claim(BOND, keccak256("ends"));
        bytes memory signature = signed(c);
        c.bond += 1;
        bytes memory head = program(1);
        refused(abi.encodeWithSelector(IReceipts.BadSignature.selector, signer));
        receipts.accuse(c, signature, head);
        c.bond -= 1;
        bytes memory other = program(2);
        vm.expectPartialRevert(ProgramView.BadProgram.selector);
        receipts.accuse(c, signature, other);
        uint64 id = receipts.accuse(c, signature, head);
        refused(abi.encodeWithSelector(IReceipts.IsAccused.selector, id));
        receipts.accuse(c, signature, head);
        refused(abi.encodeWithSelector(IReceipts.NoSuchReceipt.selector, id + 1));
        receipts.receipt(id + 1);
        refused(abi.encodeWithSelector(IReceipts.AlreadyBound.selector));
        receipts.bind(stranger);
    }

    function test_the_bond_is_reserved_while_it_is_disputed() public {
        uint64 id = brought(BOND, keccak256("ends"));
        holds(STAKE, 0);
        opened(id);
        opened(id);
        holds(STAKE, BOND);
        assertEq(receipts.reservation(signer, id), BOND, "reservation");
        assertEq(receipts.reservation(stranger, id), 0, "another's");
        resolved(id, false);
        holds(STAKE, BOND);
        vm.prank(disputes);
        receipts.disputeVoided(id);
        holds(STAKE, 0);
        opened(id);
        holds(STAKE, BOND);
    }

    function test_a_fallen_one_is_slashed_once() public {
        uint64 id = brought(BOND, keccak256("ends"));
        opened(id);
        opened(id);
        vm.prank(disputes);
        receipts.slash(signer, id, BOND, 0);
        resolved(id, true);
        holds(STAKE - BOND, 0);
        assertEq(token.balanceOf(disputes), BOND, "to the dispute");
        resolved(id, true);
        refused(abi.encodeWithSelector(IReceipts.HasFallen.selector, id));
        opened(id);
    }

    function test_a_conceded_one_frees_the_other_half() public {
        uint64 id = brought(BOND, keccak256("ends"));
        opened(id);
        vm.prank(disputes);
        receipts.slash(signer, id, BOND / 2, 0);
        resolved(id, true);
        holds(STAKE - BOND / 2, 0);
    }

    function test_stake_covers_one_claim_after_another() public {
        (uint64 a, uint64 b) = (brought(BOND, keccak256("a")), brought(BOND, keccak256("b")));
        opened(a);
        refused(abi.encodeWithSelector(IReceipts.InsufficientStake.selector, signer, STAKE - BOND, BOND));
        opened(b);
        resolved(a, false);
        opened(b);
        uint64 none = brought(0, keccak256("c"));
        refused(abi.encodeWithSelector(IReceipts.InsufficientStake.selector, signer, STAKE - BOND, 0));
        opened(none);
    }

    function test_what_is_leaving_still_answers() public {
        uint64 id = brought(STAKE, keccak256("ends"));
        vm.startPrank(signer);
        refused(abi.encodeWithSelector(IReceipts.NothingUnbonding.selector, signer));
        receipts.withdrawStake();
        refused(abi.encodeWithSelector(IReceipts.InsufficientStake.selector, signer, STAKE, STAKE + 1));
        receipts.unbond(STAKE + 1);
        receipts.unbond(STAKE);
        refused(abi.encodeWithSelector(IReceipts.StillUnbonding.selector, uint64(timeNow) + DELAY));
        receipts.withdrawStake();
        vm.stopPrank();
        opened(id);
        vm.warp(timeNow += DELAY);
        vm.prank(signer);
        refused(abi.encodeWithSelector(IReceipts.InsufficientStake.selector, signer, 0, STAKE));
        receipts.withdrawStake();
        vm.prank(disputes);
        receipts.slash(signer, id, STAKE / 2, 0);
        resolved(id, true);
        (uint128 leaving,) = receipts.unbondingOf(signer);
        assertEq(leaving, STAKE / 2, "leaving");
        vm.prank(signer);
        receipts.withdrawStake();
        holds(0, 0);
        assertEq(token.balanceOf(signer), STAKE / 2, "back");
    }

    function test_a_claim_expires() public {
        uint64 id = brought(BOND, keccak256("ends"));
        vm.warp(timeNow += 7 days);
        opened(id);
        vm.warp(timeNow += 1);
        refused(abi.encodeWithSelector(IReceipts.TooLate.selector, uint64(timeNow - 1), uint64(timeNow)));
        opened(id);
    }

    function test_nobody_else_disputes_and_nothing_is_nothing() public {
        uint64 id = brought(BOND, keccak256("ends"));
        vm.startPrank(stranger);
        bytes memory reason = abi.encodeWithSelector(IReceipts.NotDisputes.selector, stranger);
        refused(reason);
        receipts.disputeOpened(id);
        refused(reason);
        receipts.disputeResolved(id, true);
        refused(reason);
        receipts.disputeVoided(id);
        refused(reason);
        receipts.slash(signer, id, 1, 0);
        refused(abi.encodeWithSelector(IReceipts.ZeroAmount.selector));
        receipts.deposit(0);
        refused(abi.encodeWithSelector(IReceipts.ZeroAmount.selector));
        receipts.unbond(0);
        vm.stopPrank();
    }

    /// Any disputes over any of four claims: what is reserved is what open disputes hold, and the contract has every stake.
    function testFuzz_the_money_of_stakes(uint256 seed) public {
        uint64[4] memory ids;
        uint128[4] memory bonds = [uint128(20e6), 30e6, 40e6, 50e6];
        for (uint256 i = 0; i < 4; ++i) {
            ids[i] = brought(bonds[i], keccak256(abi.encode(i)));
        }
        vm.startPrank(disputes);
        for (uint256 step = 0; step < 40; ++step) {
            seed = uint256(keccak256(abi.encode(seed)));
            uint64 id = ids[seed % 4];
            Accused memory a = receipts.receipt(id);
            uint256 what = (seed >> 8) % 4;
            if (what == 0) {
                try receipts.disputeOpened(id) {} catch {}
            } else if (a.disputes > 0) {
                if (what == 1) {
                    if (a.held > 0) receipts.slash(signer, id, (seed >> 16) % 2 == 0 ? a.held : a.held / 2 + 1, 0);
                    receipts.disputeResolved(id, true);
                } else if (what == 2) {
                    receipts.disputeResolved(id, false);
                } else {
                    receipts.disputeVoided(id);
                }
            }
            uint256 held = 0;
            for (uint256 i = 0; i < 4; ++i) {
                a = receipts.receipt(ids[i]);
                held += a.held;
                assertTrue(a.disputes > 0 || a.held == 0, "held without a dispute");
            }
            assertEq(receipts.reservedOf(signer), held, "reserved");
            assertTrue(receipts.stakeOf(signer) >= held, "there");
            assertEq(token.balanceOf(address(receipts)), receipts.stakeOf(signer), "the contract's balance");
        }
        vm.stopPrank();
    }
}
