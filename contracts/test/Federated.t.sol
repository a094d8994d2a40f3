// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IFederated} from "../src/interfaces/IFederated.sol";
import {FederatedJob, FederatedRound, FederatedTerms, Piece, Rule, Sum} from "../src/types/FederatedTypes.sol";
import {Summed} from "./utils/Summed.sol";

/// Who is paid for a federated round, and who loses by a false one.
contract FederatedTest is Summed {
    uint256 internal constant ALL = 15;
    uint256 internal constant NONE = LENGTH;

    function shares(uint256 share) internal pure returns (uint128) {
        return uint128(uint256(PAY) * share / 10);
    }

    function bad(string memory name, uint256 value, uint256 least, uint256 most) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(IFederated.BadTerm.selector, name, value, least, most);
    }

    // ---- posting -----------------------------------------------------------------------------------------------------------------

    function test_a_job_locks_the_pay_of_its_rounds_and_a_bond() public {
        FederatedTerms memory t = terms();
        uint64 id = posted(t);
        FederatedJob memory j = federated.job(id);
        assertEq(j.host, host, "its host");
        assertEq(j.held, 2 * uint256(PAY) + BOND, "locked");
        assertEq(token.balanceOf(address(federated)), j.held, "the balance");
        assertEq(federated.token(), address(token), "its token");
        assertEq(federated.count(), 1, "jobs");
        refused(abi.encodeWithSelector(IFederated.NoSuchFederated.selector, 2));
        federated.job(2);
    }

    function refusedPost(FederatedTerms memory t, bytes memory reason) internal {
        refused(reason);
        posted(t);
    }

    function test_terms_that_make_no_job() public {
        FederatedTerms memory t = terms();
        (t.owners, t.shares) = (new address[](2), new uint32[](2));
        refusedPost(t, bad("owners", 2, 3, 256));
        (t = terms()).rounds = 0;
        refusedPost(t, bad("rounds", 0, 1, 4096));
        (t = terms()).minimum = 2;
        refusedPost(t, bad("minimum", 2, 3, 4));
        (t = terms()).bits = 16;
        refusedPost(t, bad("bits", 16, 32, 64));
        (t = terms()).length = 0;
        refusedPost(t, bad("length", 0, 1, type(uint40).max));
        (t = terms()).pay = 0;
        refusedPost(t, bad("pay", 0, 1, type(uint96).max));
        (t = terms()).bond = 0;
        refusedPost(t, bad("bond", 0, 1, type(uint96).max));
        (t = terms()).window = 90 days + 1;
        refusedPost(t, bad("window", 90 days + 1, 1, 90 days));
        (t = terms()).deadline = uint64(timeNow) - 1;
        refusedPost(t, bad("deadline", timeNow - 1, timeNow, type(uint40).max - 90 days));
        (t = terms()).shares = new uint32[](3);
        refusedPost(t, abi.encodeWithSelector(IFederated.BadLength.selector, "shares", 3, 4));
        (t = terms()).shares = new uint32[](4);
        refusedPost(t, abi.encodeWithSelector(IFederated.BadShare.selector, 4));
        (t = terms()).worth = 0;
        refusedPost(t, bad("worth", 0, 0, 0));
        (t = terms()).rule = Rule.RECORDS;
        refusedPost(t, bad("worth", uint256(t.worth), 0, 0));
        (t.rule, t.worth) = (Rule.EQUAL, 0);
        refusedPost(t, abi.encodeWithSelector(IFederated.BadShare.selector, 1));
    }

    // ---- rounds that go well -------------------------------------------------------------------------------------------------------

    function test_owners_that_are_counted_are_paid_after_the_window() public {
        FederatedTerms memory t = terms();
        uint64 id = posted(t);
        closed(id, t, summed(64, 7, NONE, 0)); // the last owner is silent
        FederatedRound memory r = federated.round(id, 0);
        assertEq(r.counted, 7, "who is counted");
        assertEq(r.until, timeNow + WINDOW, "its window");
        refused(abi.encodeWithSelector(IFederated.TooEarly.selector, timeNow + WINDOW, timeNow));
        federated.settle(id, t, 0);
        pass(WINDOW + 1);
        federated.settle(id, t, 0);
        for (uint256 i = 0; i < 3; ++i) {
            assertEq(federated.credit(owner(i)), shares(i + 1), "an owner that is counted");
        }
        assertEq(federated.credit(owner(3)), 0, "a silent owner");
        assertEq(federated.credit(host), PAY - shares(1) - shares(2) - shares(3), "the host");
        refused(abi.encodeWithSelector(IFederated.IsSettled.selector, 0));
        federated.settle(id, t, 0);
        vm.prank(owner(2));
        federated.withdraw();
        assertEq(token.balanceOf(owner(2)), shares(3), "withdrawn");
        refused(abi.encodeWithSelector(IFederated.NothingToWithdraw.selector, owner(2)));
        vm.prank(owner(2));
        federated.withdraw();
    }

    function test_all_rounds_end_a_job_and_the_bond_goes_back() public {
        FederatedTerms memory t = terms();
        uint64 id = posted(t);
        Sum memory s = summed(64, ALL, NONE, 0);
        closed(id, t, s);
        closed(id, t, s);
        refused(abi.encodeWithSelector(IFederated.IsOver.selector, id));
        vm.prank(host);
        federated.close(id, t, s, new bytes[](4));
        pass(WINDOW + 1);
        federated.settle(id, t, 1);
        refused(abi.encodeWithSelector(IFederated.NotSettled.selector, 1, 2));
        federated.end(id, t);
        federated.settle(id, t, 0);
        federated.end(id, t);
        uint128 paid = shares(1) + shares(2) + shares(3) + shares(4);
        assertEq(federated.credit(host), 2 * (PAY - paid) + BOND, "the host");
        refused(abi.encodeWithSelector(IFederated.IsOver.selector, id));
        federated.end(id, t);
    }

    function test_a_host_that_stops_gets_the_rest_after_the_deadline() public {
        FederatedTerms memory t = terms();
        uint64 id = posted(t);
        closed(id, t, summed(64, ALL, NONE, 0));
        Sum memory s = summed(64, ALL, NONE, 0);
        bytes[] memory signed = signatures(id, 1, s);
        refused(abi.encodeWithSelector(IFederated.TooEarly.selector, t.deadline, timeNow));
        federated.end(id, t);
        pass(1 days + 1);
        refused(abi.encodeWithSelector(IFederated.TooLate.selector, t.deadline, timeNow));
        vm.prank(host);
        federated.close(id, t, s, signed);
        federated.settle(id, t, 0);
        federated.end(id, t);
        uint128 paid = shares(1) + shares(2) + shares(3) + shares(4);
        assertEq(federated.credit(host), PAY - paid + PAY + BOND, "the host");
    }

    // ---- what a round must have ------------------------------------------------------------------------------------------------------

    function test_a_round_is_the_hosts_and_signed_by_all_that_it_counts() public {
        FederatedTerms memory t = terms();
        uint64 id = posted(t);
        Sum memory s = summed(64, ALL, NONE, 0);
        bytes[] memory signed = signatures(id, 0, s);
        refused(abi.encodeWithSelector(IFederated.NotTheHost.selector, stranger));
        vm.prank(stranger);
        federated.close(id, t, s, signed);
        vm.startPrank(host);
        (signed[1], signed[2]) = (signed[2], signed[1]);
        refused(abi.encodeWithSelector(IFederated.BadSignature.selector, 1));
        federated.close(id, t, s, signed);
        bytes[] memory old = signatures(id, 1, s);
        refused(abi.encodeWithSelector(IFederated.BadSignature.selector, 0));
        federated.close(id, t, s, old);
        refused(abi.encodeWithSelector(IFederated.BadLength.selector, "signatures", 3, 4));
        federated.close(id, t, s, new bytes[](3));
        (s.rows[0], s.rows[1]) = (0, 0);
        signed = signatures(id, 0, s);
        refused(abi.encodeWithSelector(IFederated.TooFew.selector, 2, 3));
        federated.close(id, t, s, signed);
        s.rows = new bytes32[](5);
        refused(abi.encodeWithSelector(IFederated.BadLength.selector, "rows", 5, 4));
        federated.close(id, t, s, signed);
        bytes32 right = federated.job(id).terms;
        t.pay += 1;
        refused(abi.encodeWithSelector(IFederated.BadTerms.selector, right));
        federated.close(id, t, s, signed);
        refused(abi.encodeWithSelector(IFederated.NoSuchFederated.selector, 9));
        federated.close(9, t, s, signed);
        vm.stopPrank();
        refused(abi.encodeWithSelector(IFederated.NoSuchRound.selector, 0));
        federated.round(id, 0);
        refused(abi.encodeWithSelector(IFederated.NoSuchRound.selector, 0));
        federated.settle(id, terms(), 0);
    }

    // ---- false sums -----------------------------------------------------------------------------------------------------------------

    function challenged(uint64 id, FederatedTerms memory t, uint256 counted, uint256 where, uint64 bent, uint64 index) internal {
        Sum memory s = summed(t.bits, counted, where, bent);
        Piece memory total = totalPiece(t.bits, counted, where, bent, index);
        Piece[] memory rows = pieces(t.bits, counted, index);
        vm.prank(stranger);
        federated.challenge(id, t, 0, s, index, total, rows);
    }

    function testFuzz_one_number_shows_a_false_sum(uint64 where, uint64 bent, bool narrow, bool three) public {
        FederatedTerms memory t = terms();
        t.bits = narrow ? 32 : 64;
        where = uint64(where % 11 * STEP + (where >> 32) % 2);
        bent = narrow ? uint64(uint32(bent | 1)) : bent | 1;
        uint256 counted = three ? 11 : ALL;
        uint64 id = posted(t);
        closed(id, t, summed(t.bits, counted, where, bent));
        challenged(id, t, counted, where, bent, where);
        assertEq(federated.credit(stranger), BOND / 2, "the challenger");
        assertEq(token.balanceOf(federated.BURN()), BOND - BOND / 2, "burnt");
        pass(WINDOW + 1);
        federated.settle(id, t, 0);
        federated.end(id, t);
        assertEq(federated.credit(owner(0)), shares(1), "who signed is paid");
        uint128 paid = shares(1) + shares(2) + shares(4) + (three ? 0 : shares(3));
        assertEq(federated.credit(host), 2 * uint256(PAY) - paid, "the host");
        assertEq(
            token.balanceOf(address(federated)),
            uint256(federated.credit(host)) + paid + federated.credit(stranger),
            "all of it is somebody's"
        );
    }

    function testFuzz_a_right_sum_cannot_be_challenged(uint64 index, bool narrow) public {
        FederatedTerms memory t = terms();
        t.bits = narrow ? 32 : 64;
        index %= LENGTH;
        uint64 id = posted(t);
        closed(id, t, summed(t.bits, ALL, NONE, 0));
        Sum memory s = summed(t.bits, ALL, NONE, 0);
        Piece memory total = totalPiece(t.bits, ALL, NONE, 0, index);
        Piece[] memory rows = pieces(t.bits, ALL, index);
        refused(abi.encodeWithSelector(IFederated.SumIsRight.selector, index));
        federated.challenge(id, t, 0, s, index, total, rows);
        refused(bad("index", LENGTH, 0, LENGTH - 1));
        federated.challenge(id, t, 0, s, LENGTH, total, rows);
    }

    function test_what_proves_nothing() public {
        FederatedTerms memory t = terms();
        uint64 id = posted(t);
        Sum memory s = summed(64, ALL, 7, 1);
        closed(id, t, s);
        Piece memory total = totalPiece(64, ALL, 7, 1, 7);
        Piece[] memory rows = pieces(64, ALL, 7);
        refused(abi.encodeWithSelector(IFederated.NoSuchRound.selector, 1));
        federated.challenge(id, t, 1, s, 7, total, rows);
        bytes memory chunk = rows[2].chunk;
        bytes memory proof = abi.encodeWithSelector(IFederated.BadProof.selector);
        rows[2].chunk = rows[1].chunk;
        refused(proof);
        federated.challenge(id, t, 0, s, 7, total, rows);
        rows[2].chunk = new bytes(1023);
        refused(proof);
        federated.challenge(id, t, 0, s, 7, total, rows);
        rows[2].chunk = chunk;
        bytes32[] memory path = total.path;
        total.path = new bytes32[](1);
        refused(proof);
        federated.challenge(id, t, 0, s, 7, total, rows);
        total.path = path;
        refused(proof); // a number of another chunk
        federated.challenge(id, t, 0, s, 200, total, rows);
        Piece[] memory fewer = new Piece[](3);
        for (uint256 i = 0; i < 3; ++i) {
            fewer[i] = rows[i];
        }
        refused(abi.encodeWithSelector(IFederated.BadLength.selector, "pieces", 3, 4));
        federated.challenge(id, t, 0, s, 7, total, fewer);
        Piece[] memory more = new Piece[](5);
        for (uint256 i = 0; i < 4; ++i) {
            more[i] = rows[i];
        }
        refused(abi.encodeWithSelector(IFederated.BadLength.selector, "pieces", 5, 4));
        federated.challenge(id, t, 0, s, 7, total, more);
        Sum memory other = summed(64, ALL, NONE, 0);
        refused(abi.encodeWithSelector(IFederated.BadSum.selector, federated.round(id, 0).sum));
        federated.challenge(id, t, 0, other, 7, total, rows);
        pass(WINDOW + 1);
        refused(abi.encodeWithSelector(IFederated.TooLate.selector, timeNow - 1, timeNow));
        federated.challenge(id, t, 0, s, 7, total, rows);
    }

    function test_a_broken_job_has_no_more_rounds_and_one_challenger() public {
        FederatedTerms memory t = terms();
        uint64 id = posted(t);
        closed(id, t, summed(64, ALL, 130, 5));
        challenged(id, t, ALL, 130, 5, 130);
        Sum memory s = summed(64, ALL, 130, 5);
        Piece memory total = totalPiece(64, ALL, 130, 5, 130);
        Piece[] memory rows = pieces(64, ALL, 130);
        refused(abi.encodeWithSelector(IFederated.IsOver.selector, id));
        federated.challenge(id, t, 0, s, 130, total, rows);
        refused(abi.encodeWithSelector(IFederated.IsOver.selector, id));
        vm.prank(host);
        federated.close(id, t, s, new bytes[](4));
    }

    // ---- totals that nobody can open ------------------------------------------------------------------------------------------------

    function objected(uint64 id, FederatedTerms memory t, uint8 place) internal {
        vm.prank(owner(place));
        federated.object(id, t, 0, place);
    }

    function test_more_than_half_of_who_is_counted_burn_the_bond_of_a_total_that_nobody_can_open() public {
        FederatedTerms memory t = terms();
        uint64 id = posted(t);
        closed(id, t, summed(64, ALL, 7, 1));
        refused(abi.encodeWithSelector(IFederated.NotCounted.selector, 1));
        vm.prank(owner(0));
        federated.object(id, t, 0, 1);
        objected(id, t, 0);
        refused(abi.encodeWithSelector(IFederated.NotCounted.selector, 0));
        objected(id, t, 0);
        objected(id, t, 2);
        assertTrue(!federated.job(id).broken, "half of them are not enough");
        objected(id, t, 3);
        assertTrue(federated.job(id).broken, "three of four are");
        assertEq(token.balanceOf(federated.BURN()), BOND, "burnt");
        assertEq(federated.job(id).held, 2 * uint256(PAY), "locked");
        refused(abi.encodeWithSelector(IFederated.IsOver.selector, id));
        objected(id, t, 1);
    }

    function test_who_is_not_counted_does_not_object_and_two_of_three_do() public {
        FederatedTerms memory t = terms();
        uint64 id = posted(t);
        closed(id, t, summed(64, 7, NONE, 0));
        refused(abi.encodeWithSelector(IFederated.NotCounted.selector, 3));
        objected(id, t, 3);
        refused(abi.encodeWithSelector(IFederated.NotCounted.selector, 70));
        vm.prank(owner(0));
        federated.object(id, t, 0, 70);
        objected(id, t, 1);
        assertTrue(!federated.job(id).broken, "one of three is not enough");
        objected(id, t, 0);
        assertTrue(federated.job(id).broken, "two of three are");
    }

    // ---- poisoned updates -------------------------------------------------------------------------------------------------------------

    function test_an_owner_that_is_struck_loses_its_share_of_that_round() public {
        FederatedTerms memory t = terms();
        uint64 id = posted(t);
        closed(id, t, summed(64, 14, NONE, 0));
        refused(abi.encodeWithSelector(IFederated.NotTheAuditor.selector, host));
        vm.prank(host);
        federated.strike(id, t, 0, 1);
        vm.startPrank(auditor);
        refused(abi.encodeWithSelector(IFederated.NotCounted.selector, 0));
        federated.strike(id, t, 0, 0);
        refused(abi.encodeWithSelector(IFederated.NotCounted.selector, 200));
        federated.strike(id, t, 0, 200);
        federated.strike(id, t, 0, 1);
        refused(abi.encodeWithSelector(IFederated.IsStruck.selector, 1));
        federated.strike(id, t, 0, 2);
        vm.stopPrank();
        closed(id, t, summed(64, 14, NONE, 0));
        pass(WINDOW + 1);
        refused(abi.encodeWithSelector(IFederated.TooLate.selector, timeNow - 1, timeNow));
        vm.prank(auditor);
        federated.strike(id, t, 1, 1);
        federated.settle(id, t, 0);
        assertEq(federated.credit(owner(1)), 0, "the owner that was struck once");
        assertEq(federated.credit(host), PAY - shares(3) - shares(4), "the host");
        federated.settle(id, t, 1);
        assertEq(federated.credit(owner(1)), shares(2), "the owner that was struck once");
    }

    // ---- what it costs ------------------------------------------------------------------------------------------------------------------

    function test_gas_of_a_federated_round() public {
        FederatedTerms memory t = terms();
        vm.prank(host);
        uint64 id = federated.post(t);
        vm.snapshotGasLastCall("federated", "post, 4 owners");
        closed(id, t, summed(64, ALL, 7, 1));
        vm.snapshotGasLastCall("federated", "close, 4 owners");
        challenged(id, t, ALL, 7, 1, 7);
        vm.snapshotGasLastCall("federated", "challenge, 4 owners, 300 numbers");
        pass(WINDOW + 1);
        federated.settle(id, t, 0);
        vm.snapshotGasLastCall("federated", "settle, 4 owners");
    }
}
