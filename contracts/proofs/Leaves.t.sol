// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ClearLeaf} from "../src/leaf/clear/ClearLeaf.sol";
import {TableLeaf} from "../src/leaf/table/TableLeaf.sol";

/// Proofs by symbolic execution (contracts/review.py): the two leaves, which share no code, give the same bits for ALL inputs of an
/// operation on single elements, and what one of them gives is what IEEE 754 says where that can be said in a line.
contract LeavesProof {
    ClearLeaf internal clear;
    TableLeaf internal table;

    function setUp() public {
        clear = new ClearLeaf();
        table = new TableLeaf();
    }

    function _stage(uint8 op, uint256 operands, uint8 dtype, uint8 result) private pure returns (bytes memory stage) {
        stage = abi.encodePacked(op, uint16(operands));
        for (uint32 i = 0; i < operands; ++i) {
            stage = abi.encodePacked(stage, i, dtype, uint8(0));
        }
        stage = abi.encodePacked(stage, result, uint8(0));
    }

    function _same(bytes memory stage, uint64[] memory values) private view returns (uint64 bits) {
        int256[] memory none = new int256[](0);
        bits = clear.finish(stage, 0, none, values);
        assert(bits == table.finish(stage, 0, none, values));
    }

    function _one(uint8 op, uint32 a) private view returns (uint32) {
        uint64[] memory values = new uint64[](1);
        values[0] = a;
        return uint32(_same(_stage(op, 1, 1, 1), values));
    }

    function _two(uint8 op, uint32 a, uint32 b, uint8 result) private view returns (uint64) {
        uint64[] memory values = new uint64[](2);
        (values[0], values[1]) = (a, b);
        return _same(_stage(op, 2, 1, result), values);
    }

    function _nan(uint32 a) private pure returns (bool) {
        return a << 1 > 0xFF000000;
    }

    function check_neg(uint32 a) public view {
        uint32 r = _one(2, a);
        assert(_nan(a) ? r == 0x7FC00000 : r == a ^ 0x80000000);
    }

    function check_abs(uint32 a) public view {
        uint32 r = _one(3, a);
        assert(_nan(a) ? r == 0x7FC00000 : r == a & 0x7FFFFFFF);
    }

    function check_relu(uint32 a) public view {
        _one(4, a);
    }

    function check_lt(uint32 a, uint32 b) public view {
        uint64 r = _two(26, a, b, 5);
        assert(r == (_nan(a) || _nan(b) ? 0 : _key(a) < _key(b) ? 1 : 0));
    }

    function check_le(uint32 a, uint32 b) public view {
        uint64 r = _two(27, a, b, 5);
        assert(r == (_nan(a) || _nan(b) ? 0 : _key(a) <= _key(b) ? 1 : 0));
    }

    function check_eq(uint32 a, uint32 b) public view {
        uint64 r = _two(24, a, b, 5);
        assert(r == (_nan(a) || _nan(b) ? 0 : _key(a) == _key(b) ? 1 : 0));
    }

    function check_maximum(uint32 a, uint32 b) public view {
        _two(19, a, b, 1);
    }

    function check_minimum(uint32 a, uint32 b) public view {
        _two(20, a, b, 1);
    }

    function check_ne(uint32 a, uint32 b) public view {
        uint64 r = _two(25, a, b, 5);
        assert(r == (_nan(a) || _nan(b) || _key(a) != _key(b) ? 1 : 0));
    }

    function check_gt(uint32 a, uint32 b) public view {
        uint64 r = _two(28, a, b, 5);
        assert(r == (_nan(a) || _nan(b) ? 0 : _key(a) > _key(b) ? 1 : 0));
    }

    function check_ge(uint32 a, uint32 b) public view {
        uint64 r = _two(29, a, b, 5);
        assert(r == (_nan(a) || _nan(b) ? 0 : _key(a) >= _key(b) ? 1 : 0));
    }

    /// Booleans are bytes of 0 or 1.
    function _bools(uint8 op, bool a, bool b) private view returns (uint64) {
        uint64[] memory values = new uint64[](2);
        (values[0], values[1]) = (a ? 1 : 0, b ? 1 : 0);
        return _same(_stage(op, 2, 5, 5), values);
    }

    function check_and(bool a, bool b) public view {
        assert(_bools(21, a, b) == (a && b ? 1 : 0));
    }

    function check_or(bool a, bool b) public view {
        assert(_bools(22, a, b) == (a || b ? 1 : 0));
    }

    function check_not(bool a) public view {
        uint64[] memory values = new uint64[](1);
        values[0] = a ? 1 : 0;
        assert(_same(_stage(23, 1, 5, 5), values) == (a ? 0 : 1));
    }

    function check_select(bool which, uint32 a, uint32 b) public view {
        uint64[] memory values = new uint64[](3);
        (values[0], values[1], values[2]) = (which ? 1 : 0, a, b);
        bytes memory stage = abi.encodePacked(uint8(30), uint16(3), uint32(0), hex"0500", uint32(1), hex"0100", uint32(2), hex"0100", hex"0100");
        uint32 chosen = which ? a : b;
        assert(_same(stage, values) == (_nan(chosen) ? 0x7FC00000 : chosen));
    }

    /// To `dtype`.
    function _cast(uint8 from, uint8 dtype, uint64 value) private view returns (uint64) {
        uint64[] memory values = new uint64[](1);
        values[0] = value;
        return _same(abi.encodePacked(_stage(32, 1, from, dtype), dtype), values);
    }

    function check_cast_i32_to_i64(int32 a) public view {
        assert(_cast(2, 3, uint32(a)) == uint64(int64(a)));
    }

    function check_cast_bool_to_f32(bool a) public view {
        assert(_cast(5, 1, a ? 1 : 0) == (a ? 0x3F800000 : 0));
    }

    /// Order of values, both zeros alike.
    function _key(uint32 a) private pure returns (int64) {
        int64 magnitude = int64(uint64(a & 0x7FFFFFFF));
        return a >> 31 == 1 ? -magnitude : magnitude;
    }
}
