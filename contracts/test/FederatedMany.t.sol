// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IFederated} from "../src/interfaces/IFederated.sol";
import {FederatedRound, FederatedTerms, Piece, Sum} from "../src/types/FederatedTypes.sol";
import {Summed} from "./utils/Summed.sol";

/// As many owners as a job may have, whose rows do not fit one transaction. Those of all but the first four are zeros.
contract FederatedManyTest is Summed {
    uint256 internal constant MANY = 256;
    uint256 internal constant FEW = 52; // rows of a transaction
    uint256 internal constant ALL = 15;
    bytes32 internal empty;
    Piece internal nothing;

    function setUp() public override {
        super.setUp();
        empty = rootOf(64, row(64, MANY, 0, 0, 0));
        nothing = pieceOf(64, row(64, MANY, 0, 0, 0), 29);
    }

    function many() internal view returns (FederatedTerms memory t) {
        t = terms();
        (t.owners, t.shares, t.minimum) = (new address[](MANY), new uint32[](MANY), 171);
        for (uint256 i = 0; i < MANY; ++i) {
            (t.owners[i], t.shares[i]) = (owner(i), 1);
        }
    }

    function closed(uint64 bent) internal returns (uint64 id, FederatedTerms memory t, Sum memory s) {
        t = many();
        id = posted(t);
        Sum memory four = summed(64, ALL, 29, bent);
        (s.terms, s.total, s.rows) = (four.terms, four.total, new bytes32[](MANY));
        bytes[] memory signed = new bytes[](MANY);
        for (uint32 i = 0; i < MANY; ++i) {
            s.rows[i] = i < 4 ? four.rows[i] : empty;
            (uint8 v, bytes32 r, bytes32 w) = vm.sign(key(i), federated.digestOf(id, 0, s.terms, i, s.rows[i]));
            signed[i] = abi.encodePacked(r, w, v);
        }
        vm.prank(host);
        federated.close(id, t, s, signed);
        vm.snapshotGasLastCall("federated", "close, 256 owners");
    }

    /// Pieces of the rows in [from, to).
    function some(uint256 from, uint256 to) internal view returns (Piece[] memory p) {
        p = new Piece[](to - from);
        for (uint256 i = from; i < to; ++i) {
            p[i - from] = i < 4 ? pieceOf(64, row(64, i, 0, 0, 0), 29) : nothing;
        }
    }

    function test_a_false_sum_of_256_owners_is_shown_in_several_transactions() public {
        (uint64 id, FederatedTerms memory t, Sum memory s) = closed(1);
        vm.startPrank(stranger);
        Piece memory total = totalPiece(64, ALL, 29, 1, 29);
        uint256 at = 0;
        for (; at + FEW < MANY; at += FEW) {
            federated.add(id, t, 0, s, 29, some(at, at + FEW));
            vm.snapshotGasLastCall("federated", "add, 52 of 256 owners");
            assertEq(federated.added(id, 0, 29, stranger).rows, at + FEW, "added so far");
        }
        Piece[] memory rest = some(at, MANY);
        refused(abi.encodeWithSelector(IFederated.BadLength.selector, "pieces", at, MANY));
        federated.challenge(id, t, 0, s, 29, total, new Piece[](0));
        refused(abi.encodeWithSelector(IFederated.BadLength.selector, "pieces", MANY - at + 1, MANY - at));
        federated.add(id, t, 0, s, 29, some(at - 1, MANY));
        vm.stopPrank();
        refused(abi.encodeWithSelector(IFederated.BadProof.selector)); // another account has added nothing: these are not the first rows
        federated.challenge(id, t, 0, s, 29, total, rest);
        vm.prank(stranger);
        federated.challenge(id, t, 0, s, 29, total, rest);
        assertEq(federated.credit(stranger), BOND / 2, "the challenger");
        refused(abi.encodeWithSelector(IFederated.IsOver.selector, id));
        federated.add(id, t, 0, s, 29, rest);
    }

    function test_a_right_sum_of_256_owners_is_right_however_it_is_added_up_and_is_paid() public {
        (uint64 id, FederatedTerms memory t, Sum memory s) = closed(0);
        federated.add(id, t, 0, s, 29, some(0, 3));
        federated.add(id, t, 0, s, 29, some(3, 100));
        Piece memory total = totalPiece(64, ALL, 29, 0, 29);
        Piece[] memory rest = some(100, MANY);
        refused(abi.encodeWithSelector(IFederated.SumIsRight.selector, 29));
        federated.challenge(id, t, 0, s, 29, total, rest);
        rest[0].path = new bytes32[](1);
        refused(abi.encodeWithSelector(IFederated.BadProof.selector));
        federated.add(id, t, 0, s, 29, rest);
        refused(abi.encodeWithSelector(IFederated.BadTerm.selector, "index", LENGTH, 0, LENGTH - 1));
        federated.add(id, t, 0, s, LENGTH, rest);
        s.total = 0;
        refused(abi.encodeWithSelector(IFederated.BadSum.selector, federated.round(id, 0).sum));
        federated.add(id, t, 0, s, 29, rest);
        vm.prank(auditor);
        federated.strike(id, t, 0, 255);
        vm.prank(owner(255));
        federated.object(id, t, 0, 255);
        FederatedRound memory r = federated.round(id, 0);
        assertTrue(r.counted == type(uint256).max && r.objected == 1 << 255 && r.struck == 256, "the last of them");
        pass(WINDOW + 1);
        refused(abi.encodeWithSelector(IFederated.TooLate.selector, uint64(timeNow - 1), uint64(timeNow)));
        federated.add(id, t, 0, s, 29, rest);
        federated.settle(id, t, 0);
        vm.snapshotGasLastCall("federated", "settle, 256 owners");
        assertEq(federated.credit(owner(254)), PAY / MANY, "a share");
        assertEq(federated.credit(owner(255)), 0, "struck");
        assertEq(federated.credit(host), PAY - 255 * (PAY / MANY), "what is left is the host's");
    }
}
