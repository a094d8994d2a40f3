// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ClearLeaf} from "../../src/leaf/clear/ClearLeaf.sol";
import {Op} from "../../src/leaf/clear/Stage.sol";
import {Test} from "../utils/Test.sol";

/// Gas of `finish` on every operator, as another contract pays for it, on shapes of a small training: written to
/// snapshots/ClearLeaf.json, so that a change shows in the diff. And what the decoding of stages refuses.
contract ClearLeafGasTest is Test {
    ClearLeaf private leaf;
    bytes private constant ROW = hex"010200000000000000400000000000000100"; // f32[64, 256]
    bytes private constant WHOLE = hex"030200000000000000400000000000000100"; // i64[64, 256]
    bytes private constant TRUTH = hex"050200000000000000400000000000000100"; // bool[64, 256]
    bytes private constant ROWS = hex"03010000000000000040"; // i64[64]
    uint64 private constant ELEMENT = 1000;

    function setUp() public {
        leaf = new ClearLeaf();
    }

    function _operand(bytes memory t) private pure returns (bytes memory) {
        return abi.encodePacked(uint32(7), t);
    }

    function _stage(Op op, uint16 operands, bytes memory types, bytes memory result, bytes memory attributes)
        private
        pure
        returns (bytes memory)
    {
        return abi.encodePacked(uint8(op), operands, types, result, attributes);
    }

    function _took(string memory name, bytes memory stage, int256[] memory totals, uint64[] memory values) private {
        leaf.finish(stage, ELEMENT, totals, values);
        vm.snapshotGasLastCall("ClearLeaf", name);
    }

    function _values(uint64 a, uint64 b, uint64 c, uint256 count) private pure returns (uint64[] memory values) {
        values = new uint64[](count);
        if (count > 0) values[0] = a;
        if (count > 1) values[1] = b;
        if (count > 2) values[2] = c;
    }

    function _map(string memory name, Op op, bytes memory t, uint256 count, bytes memory result, bytes memory attributes)
        private
    {
        bytes memory types;
        for (uint256 i = 0; i < count; ++i) {
            types = abi.encodePacked(types, _operand(t));
        }
        // 2.7182817 and 0.7853982: no function has it easy with them
        _took(
            name, _stage(op, uint16(count), types, result, attributes), new int256[](0), _values(0x402df854, 0x3f490fdb, 5, count)
        );
    }

    function test_gas_of_maps() public {
        string[13] memory functions =
            ["neg", "abs", "relu", "sqrt", "rsqrt", "reciprocal", "exp", "log", "tanh", "erf", "sigmoid", "sin", "cos"];
        for (uint8 i = 0; i < 13; ++i) {
            _map(functions[i], Op(uint8(Op.NEG) + i), ROW, 1, ROW, "");
        }
        string[6] memory pairs = ["add", "sub", "mul", "div", "maximum", "minimum"];
        for (uint8 i = 0; i < 6; ++i) {
            _map(pairs[i], Op(uint8(Op.ADD) + i), ROW, 2, ROW, "");
        }
        _map("add i64", Op.ADD, WHOLE, 2, WHOLE, "");
        _map("and", Op.AND, TRUTH, 2, TRUTH, "");
        _map("or", Op.OR, TRUTH, 2, TRUTH, "");
        _map("not", Op.NOT, TRUTH, 1, TRUTH, "");
        string[6] memory orders = ["eq", "ne", "lt", "le", "gt", "ge"];
        for (uint8 i = 0; i < 6; ++i) {
            _map(orders[i], Op(uint8(Op.EQ) + i), ROW, 2, TRUTH, "");
        }
        bytes memory types = abi.encodePacked(_operand(TRUTH), _operand(ROW), _operand(ROW));
        _took("select", _stage(Op.SELECT, 3, types, ROW, ""), new int256[](0), _values(1, 0x3f800000, 0, 3));
        _map("philox", Op.PHILOX, WHOLE, 3, WHOLE, "");
        _map("cast f32 to i64", Op.CAST, ROW, 1, WHOLE, hex"03");
        _map("cast i64 to f32", Op.CAST, WHOLE, 1, ROW, hex"01");
    }

    function test_gas_of_constants_and_moves() public {
        int256[] memory none = new int256[](0);
        uint64[] memory one = _values(1, 0, 0, 1);
        _took("const", _stage(Op.CONST, 0, "", hex"0100", hex"010000000000000007"), none, new uint64[](0));
        _took("iota", _stage(Op.IOTA, 0, "", hex"03010000000000001000", abi.encodePacked(uint64(4096))), none, new uint64[](0));
        bytes memory x = _operand(ROW);
        bytes memory n = abi.encodePacked(uint64(1), uint64(1), uint64(1));
        _took("reshape", _stage(Op.RESHAPE, 1, x, ROW, ""), none, one);
        _took("permute", _stage(Op.PERMUTE, 1, x, ROW, hex"0001"), none, one);
        _took("expand", _stage(Op.EXPAND, 1, x, ROW, ""), none, one);
        _took("slice", _stage(Op.SLICE, 1, x, ROW, abi.encodePacked(uint8(0), n)), none, one);
        _took("reverse", _stage(Op.REVERSE, 1, x, ROW, hex"01"), none, one);
        _took("windows", _stage(Op.WINDOWS, 1, x, ROW, abi.encodePacked(uint8(0), n)), none, one);
        _took("spread", _stage(Op.SPREAD, 1, x, ROW, abi.encodePacked(uint8(0), n)), none, one);
        _took("pad", _stage(Op.PAD, 1, x, ROW, abi.encodePacked(uint8(0), n)), none, one);
        _took("concat", _stage(Op.CONCAT, 2, abi.encodePacked(x, x), ROW, hex"00"), none, one);
        bytes memory both = abi.encodePacked(x, _operand(ROWS));
        _took("take_rows", _stage(Op.TAKE_ROWS, 2, both, ROW, ""), none, _values(1, 2, 0, 2));
        _took("gather", _stage(Op.GATHER, 2, abi.encodePacked(x, _operand(WHOLE)), ROW, hex"00"), none, _values(1, 2, 0, 2));
    }

    function test_gas_of_folds() public {
        bytes memory x = _operand(ROW);
        int256[] memory totals = new int256[](2);
        (totals[0], totals[1]) = (127, 123456789012);
        uint64[] memory none = new uint64[](0);
        _took("sum", _stage(Op.SUM, 1, x, hex"01010000000000000040", hex"010100"), totals, none);
        _took("amax", _stage(Op.AMAX, 1, x, hex"01010000000000000040", hex"010100"), totals, none);
        _took("cumsum", _stage(Op.CUMSUM, 1, x, ROW, hex"01"), totals, none);
        bytes memory rows = abi.encodePacked(_operand(ROWS), x);
        _took("scatter_add_rows", _stage(Op.SCATTER_ADD_ROWS, 2, rows, ROW, abi.encodePacked(uint64(64))), totals, none);
        bytes memory both = abi.encodePacked(x, _operand(WHOLE));
        _took(
            "scatter_value",
            _stage(Op.SCATTER_VALUE, 2, both, ROW, abi.encodePacked(uint8(0), uint64(0))),
            totals,
            _values(1, 0, 0, 1)
        );
        totals = new int256[](3);
        (totals[0], totals[1], totals[2]) = (127, 120, -123456789012);
        _took("matmul", _stage(Op.MATMUL, 2, abi.encodePacked(x, x), ROW, hex"0e"), totals, none);
    }

    // ---- stages that no program holds ----------------------------------------------------------------------------------------------

    function _refused(bytes memory stage, string memory what) private view {
        try leaf.folds(stage) returns (uint256) {
            revert Untrue(what);
        } catch {}
    }

    /// Decoding is strict: the bytes are a stage's from the first to the last.
    function test_what_is_no_stage_is_refused() public view {
        bytes memory x = _operand(ROW);
        bytes memory good = _stage(Op.ADD, 2, abi.encodePacked(x, x), ROW, "");
        assertEq(leaf.folds(good), 0, "a stage");
        for (uint256 n = 0; n < good.length; ++n) {
            bytes memory cut = new bytes(n);
            for (uint256 i = 0; i < n; ++i) {
                cut[i] = good[i];
            }
            _refused(cut, "cut off");
        }
        _refused(abi.encodePacked(good, uint8(0)), "a byte too many");
        _refused(_stage(Op.ADD, 1, x, ROW, ""), "an operand too few");
        _refused(_stage(Op.NEG, 2, abi.encodePacked(x, x), ROW, ""), "an operand too many");
        _refused(_stage(Op.CONCAT, 0, "", ROW, hex"00"), "no operand");
        _refused(abi.encodePacked(uint8(50), uint16(1), x, ROW), "code 50");
        _refused(_stage(Op.NEG, 1, _operand(hex"0000"), ROW, ""), "dtype 0");
        _refused(_stage(Op.NEG, 1, _operand(hex"0600"), ROW, ""), "dtype 6");
        _refused(_stage(Op.NEG, 1, x, abi.encodePacked(uint8(1), uint8(9), new bytes(72)), ""), "rank 9");
        _refused(_stage(Op.NEG, 1, x, hex"01010000000000000000", ""), "a dimension of 0");
        _refused(_stage(Op.NEG, 1, x, hex"01010000000100000001", ""), "a dimension over 2^32");
        _refused(_stage(Op.NEG, 1, x, hex"010200000000001000000000000000100001", ""), "over 2^40 elements");
        assertEq(leaf.folds(_stage(Op.SUM, 1, x, ROW, hex"02000101")), 2, "a sum");
        _refused(_stage(Op.SUM, 1, x, ROW, hex"02010001"), "axes that descend");
        _refused(_stage(Op.SUM, 1, x, ROW, hex"02010101"), "an axis twice");
        _refused(_stage(Op.SUM, 1, x, ROW, hex"010201"), "an axis that is none");
        _refused(_stage(Op.SUM, 1, x, ROW, hex"030001"), "fewer axes than said");
        _refused(_stage(Op.REVERSE, 1, x, ROW, hex"02"), "an axis that is none");
        _refused(_stage(Op.CONST, 0, "", hex"0100", hex"030000000000000007"), "another dtype than the result's");
    }
}
