// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ILeaf} from "../../src/interfaces/ILeaf.sol";
import {TableLeaf} from "../../src/leaf/table/TableLeaf.sol";
import {Test} from "../utils/Test.sol";

/// Gas of the leaf from tables inside a transaction, written to snapshots/TableLeaf.json: `finish` of every operator, and `needs` and
/// `item` where they differ. Values are of rank 2 (4 by 8), products of 4 by 8 and 8 by 4.
contract TableGasTest is Test {
    ILeaf internal leaf = new TableLeaf();

    bytes internal constant F32 = hex"010200000000000000040000000000000008";
    bytes internal constant I64 = hex"030200000000000000040000000000000008";
    bytes internal constant BOOL = hex"050200000000000000040000000000000008";
    bytes internal constant TURNED = hex"010200000000000000080000000000000004";
    bytes internal constant SQUARE = hex"010200000000000000040000000000000004";
    bytes internal constant WIDE = hex"01020000000000000004000000000000000a";
    bytes internal constant ROW = hex"01010000000000000008";
    bytes internal constant COLUMN = hex"01010000000000000004";
    bytes internal constant INDEX = hex"03010000000000000004";
    bytes internal constant CUBE = hex"0103000000000000000400000000000000030000000000000004";
    uint64 internal constant A = 0x3fd9999a; // 1.7
    uint64 internal constant B = 0xbe99999a; // -0.3

    function stage(uint8 op, bytes memory x, bytes memory result, bytes memory attributes) internal pure returns (bytes memory) {
        return abi.encodePacked(op, uint16(1), uint32(0), x, result, attributes);
    }

    function stage(uint8 op, bytes memory x, bytes memory y, bytes memory result, bytes memory attributes)
        internal
        pure
        returns (bytes memory)
    {
        return abi.encodePacked(op, uint16(2), uint32(0), x, uint32(1), y, result, attributes);
    }

    function stage(uint8 op, bytes memory x, bytes memory y, bytes memory z, bytes memory result, bytes memory attributes)
        internal
        pure
        returns (bytes memory)
    {
        return abi.encodePacked(op, uint16(3), uint32(0), x, uint32(1), y, uint32(2), z, result, attributes);
    }

    function list(uint64 a, uint64 b, uint64 c, uint256 count) internal pure returns (uint64[] memory values) {
        values = new uint64[](count);
        if (count > 0) values[0] = a;
        if (count > 1) values[1] = b;
        if (count > 2) values[2] = c;
    }

    function totals(int256 a, int256 b, int256 c, uint256 count) internal pure returns (int256[] memory made) {
        made = new int256[](count);
        if (count > 0) made[0] = a;
        if (count > 1) made[1] = b;
        if (count > 2) made[2] = c;
    }

    function took(string memory name) internal {
        vm.snapshotGasLastCall("TableLeaf", name);
    }

    function unary(string memory name, uint8 op) internal {
        leaf.finish(stage(op, F32, F32, ""), 13, totals(0, 0, 0, 0), list(A, 0, 0, 1));
        took(name);
    }

    function binary(string memory name, uint8 op, bytes memory operand, bytes memory result, uint64 a, uint64 b) internal {
        leaf.finish(stage(op, operand, operand, result, ""), 13, totals(0, 0, 0, 0), list(a, b, 0, 2));
        took(name);
    }

    function test_gas_of_functions() public {
        string[13] memory names =
            ["neg", "abs", "relu", "sqrt", "rsqrt", "reciprocal", "exp", "log", "tanh", "erf", "sigmoid", "sin", "cos"];
        for (uint8 k = 0; k < 13; ++k) {
            unary(names[k], k + 2);
        }
        leaf.finish(stage(10, F32, F32, ""), 13, totals(0, 0, 0, 0), list(0x3f000000, 0, 0, 1));
        took("tanh of 0.5");
        leaf.finish(stage(11, F32, F32, ""), 13, totals(0, 0, 0, 0), list(0x3f000000, 0, 0, 1));
        took("erf of 0.5");
    }

    function test_gas_of_two_operands() public {
        string[6] memory names = ["add", "sub", "mul", "div", "maximum", "minimum"];
        for (uint8 k = 0; k < 6; ++k) {
            binary(names[k], k + 15, F32, F32, A, B);
        }
        binary("add, i64", 15, I64, I64, A, B);
        binary("and", 21, BOOL, BOOL, 1, 0);
        binary("or", 22, BOOL, BOOL, 1, 0);
        leaf.finish(stage(23, BOOL, BOOL, ""), 13, totals(0, 0, 0, 0), list(1, 0, 0, 1));
        took("not");
        string[6] memory orders = ["eq", "ne", "lt", "le", "gt", "ge"];
        for (uint8 k = 0; k < 6; ++k) {
            binary(orders[k], k + 24, F32, BOOL, A, B);
        }
        leaf.finish(stage(30, BOOL, F32, F32, F32, ""), 13, totals(0, 0, 0, 0), list(1, A, B, 3));
        took("select");
        leaf.finish(stage(31, I64, I64, I64, I64, ""), 13, totals(0, 0, 0, 0), list(1, 2, 3, 3));
        took("philox");
        leaf.finish(stage(32, F32, I64, hex"03"), 13, totals(0, 0, 0, 0), list(A, 0, 0, 1));
        took("cast, f32 to i64");
        leaf.finish(stage(32, I64, F32, hex"01"), 13, totals(0, 0, 0, 0), list(A, 0, 0, 1));
        took("cast, i64 to f32");
    }

    function fold(string memory name, bytes memory s, uint256 f, int256[] memory before, uint64[] memory values) internal {
        leaf.needs(s, 1, f, 2, list(0, 0, 0, 0));
        took(string.concat(name, ": needs"));
        leaf.item(s, 1, f, 2, before, values);
        took(string.concat(name, ": item"));
    }

    function end(string memory name, bytes memory s, int256[] memory all, uint64[] memory values) internal {
        leaf.finish(s, 1, all, values);
        took(name);
    }

    function test_gas_of_reductions() public {
        bytes memory s = stage(33, F32, COLUMN, hex"010100");
        fold("sum, exponents", s, 0, totals(0, 0, 0, 0), list(A, 0, 0, 1));
        fold("sum", s, 1, totals(127, 0, 0, 1), list(A, 0, 0, 1));
        end("sum", s, totals(127, 123456789012345, 0, 2), list(0, 0, 0, 0));
        s = stage(34, F32, COLUMN, hex"010100");
        fold("amax", s, 0, totals(0, 0, 0, 0), list(A, 0, 0, 1));
        end("amax", s, totals(int256(uint256(A)), 0, 0, 1), list(0, 0, 0, 0));
        s = stage(35, F32, F32, hex"01");
        fold("cumsum", s, 1, totals(127, 0, 0, 1), list(A, 0, 0, 1));
        end("cumsum", s, totals(127, 123456789012345, 0, 2), list(0, 0, 0, 0));
        s = stage(36, F32, TURNED, SQUARE, hex"0e");
        fold("matmul", s, 2, totals(127, 125, 0, 2), list(A, B, 0, 2));
        end("matmul", s, totals(127, 125, 123456789, 3), list(0, 0, 0, 0));
        s = stage(37, INDEX, F32, F32, hex"0000000000000004");
        fold("scatter_add_rows", s, 1, totals(127, 0, 0, 1), list(0, A, 0, 2));
        end("scatter_add_rows", s, totals(127, 123456789012345, 0, 2), list(0, 0, 0, 0));
        s = stage(49, F32, I64, F32, hex"013f800000");
        fold("scatter_value", s, 0, totals(0, 0, 0, 0), list(1, 0, 0, 1));
        end("scatter_value", s, totals(0, 0, 0, 1), list(A, 0, 0, 1));
    }

    function moved(string memory name, bytes memory s) internal {
        leaf.needs(s, 13, 0, 0, list(0, 0, 0, 0));
        took(string.concat(name, ": needs"));
        leaf.finish(s, 13, totals(0, 0, 0, 0), list(A, 0, 0, 1));
        took(name);
    }

    function test_gas_of_moves() public {
        bytes memory n8 = hex"0000000000000008";
        bytes memory n1 = hex"0000000000000001";
        leaf.finish(abi.encodePacked(hex"000000010001", uint32(A)), 0, totals(0, 0, 0, 0), list(0, 0, 0, 0));
        took("const");
        leaf.finish(abi.encodePacked(hex"0100000301", n8, n8), 5, totals(0, 0, 0, 0), list(0, 0, 0, 0));
        took("iota");
        moved("add", stage(15, F32, ROW, F32, ""));
        moved("reshape", stage(38, F32, TURNED, ""));
        moved("permute", stage(39, F32, TURNED, hex"0100"));
        moved("expand", stage(40, ROW, F32, ""));
        moved("slice", stage(41, F32, F32, abi.encodePacked(hex"01", uint64(0), n8, n1)));
        moved("reverse", stage(42, F32, F32, hex"01"));
        moved("windows", stage(43, F32, CUBE, abi.encodePacked(hex"01", uint64(4), uint64(2), n1)));
        moved("spread", stage(44, CUBE, SQUARE, abi.encodePacked(hex"00", uint64(4), n1, n1)));
        moved("pad", stage(45, F32, WIDE, abi.encodePacked(hex"01", n1, n1, uint32(0))));
        moved("concat", stage(46, F32, COLUMN, WIDE, hex"01"));
        moved("take_rows", stage(47, F32, INDEX, F32, ""));
        moved("gather", stage(48, F32, I64, F32, hex"01"));
        leaf.needs(stage(48, F32, I64, F32, hex"01"), 13, 0, 0, list(3, 0, 0, 1));
        took("gather: needs, with the index");
    }
}
