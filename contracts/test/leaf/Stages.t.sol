// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Stage, Stages} from "../../src/leaf/clear/Stage.sol";
import {Test} from "../utils/Test.sol";

/// A stage of the program's bytes is read strictly: right ones but for one thing are refused. No leaf is asked for such a one in a dispute, whose
/// stages are those of a program that was checked.
contract StagesTest is Test {
    bytes private constant F = hex"01020000000000000003000000000000000f"; // f32[3, 15]
    bytes private constant X = abi.encodePacked(uint32(0), F);
    bytes private constant ROW = hex"010200000000000000030000000000000001"; // f32[3, 1]

    function decode(bytes calldata data) external pure returns (Stage memory) {
        return Stages.decode(data);
    }

    function refused(bytes memory data, string memory what) internal view {
        (bool done, bytes memory said) = address(this).staticcall(abi.encodeCall(this.decode, (data)));
        assertTrue(!done && said.length == 4 && bytes4(said) == Stages.BadStage.selector, what);
    }

    function one(uint8 op, bytes memory operand, bytes memory result, bytes memory attributes) internal pure returns (bytes memory) {
        return abi.encodePacked(op, uint16(1), uint32(0), operand, result, attributes);
    }

    function test_operators_and_operands() public view {
        this.decode(one(2, F, F, ""));
        refused(one(50, F, F, ""), "no operator");
        refused(abi.encodePacked(uint8(2), uint16(2), X, X, F), "two operands of one");
        refused(abi.encodePacked(uint8(15), uint16(1), X, F), "one operand of two");
        refused(abi.encodePacked(uint8(46), uint16(0), F, hex"00"), "nothing to concatenate");
    }

    function test_bytes_too_few_and_too_many() public view {
        bytes memory whole = one(33, F, ROW, hex"010101");
        this.decode(whole);
        refused(abi.encodePacked(whole, hex"00"), "one more");
        for (uint256 length = 0; length < whole.length; ++length) {
            bytes memory part = new bytes(length);
            for (uint256 i = 0; i < length; ++i) {
                part[i] = whole[i];
            }
            refused(part, "fewer");
        }
    }

    function test_types() public view {
        this.decode(one(2, F, F, ""));
        refused(one(2, F, hex"0000", ""), "no dtype 0");
        refused(one(2, F, hex"0600", ""), "no dtype 6");
        refused(one(2, F, abi.encodePacked(hex"0109", new bytes(72)), ""), "nine dimensions");
        refused(one(2, F, abi.encodePacked(hex"0101", uint64(0)), ""), "a dimension of nothing");
        this.decode(one(2, F, abi.encodePacked(hex"0101", uint64(1 << 32)), ""));
        refused(one(2, F, abi.encodePacked(hex"0101", uint64((1 << 32) + 1)), ""), "a dimension beyond 2^32");
        this.decode(one(2, F, abi.encodePacked(hex"0102", uint64(1 << 20), uint64(1 << 20)), ""));
        refused(one(2, F, abi.encodePacked(hex"0102", uint64(1 << 20), uint64((1 << 20) + 1)), ""), "beyond 2^40 elements");
    }

    function test_attributes() public view {
        this.decode(one(33, F, ROW, hex"02000101"));
        refused(one(33, F, ROW, hex"02010001"), "axes out of order");
        refused(one(33, F, ROW, hex"02010101"), "an axis twice");
        refused(one(33, F, ROW, hex"010201"), "an axis that the operand has not");
        this.decode(abi.encodePacked(uint8(0), uint16(0), ROW, uint8(1), uint64(7)));
        refused(abi.encodePacked(uint8(0), uint16(0), ROW, uint8(2), uint64(7)), "a constant of another dtype");
    }
}
