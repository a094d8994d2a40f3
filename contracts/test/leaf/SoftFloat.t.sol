// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {SoftFloat} from "../../src/leaf/clear/SoftFloat.sol";
import {Blocks} from "./Blocks.sol";

/// SoftFloat against the floating-point unit, on tests/vectors/softfloat.json (tools/softfloat_vectors.py says how inputs are made):
/// hard pairs one by one, and generated ones in blocks of 16384, whose results are compared by a digest over all blocks so far.
/// One block a run; all 640, ten million inputs for each operation:
///
///     SOFTFLOAT_COUNT=3 ../.tools/bin/forge test --match-contract SoftFloatTest        (the index in `counts`)
contract SoftFloatTest is Blocks {
    uint256 private constant BLOCK = 16384;

    struct Input {
        uint256 a;
        uint256 b;
        int256 whole;
        int256 shift;
        int256 s;
    }

    error Wrong(string operation, uint256 a, uint256 b, int256 whole, int256 shift, uint256 seen, uint256 expected);

    // ---- the operations, as the script names them --------------------------------------------------------------------------------

    function _add(Input memory x) private pure returns (uint256) {
        return SoftFloat.add(x.a, x.b);
    }

    function _sub(Input memory x) private pure returns (uint256) {
        return SoftFloat.sub(x.a, x.b);
    }

    function _mul(Input memory x) private pure returns (uint256) {
        return SoftFloat.mul(x.a, x.b);
    }

    function _div(Input memory x) private pure returns (uint256) {
        return SoftFloat.div(x.a, x.b);
    }

    function _sqrt(Input memory x) private pure returns (uint256) {
        return SoftFloat.sqrt(x.a);
    }

    function _rint(Input memory x) private pure returns (uint256) {
        return SoftFloat.rint(x.a);
    }

    function _order(Input memory x) private pure returns (uint256) {
        return (SoftFloat.lt(x.a, x.b) ? 1 : 0) + (SoftFloat.le(x.a, x.b) ? 2 : 0) + (SoftFloat.eq(x.a, x.b) ? 4 : 0);
    }

    function _to_i32(Input memory x) private pure returns (uint256) {
        return uint256(SoftFloat.truncate(x.a, 32));
    }

    function _to_i64(Input memory x) private pure returns (uint256) {
        return uint256(SoftFloat.truncate(x.a, 64));
    }

    function _from_i64(Input memory x) private pure returns (uint256) {
        return SoftFloat.scaled(x.whole, 0);
    }

    function _scaled(Input memory x) private pure returns (uint256) {
        return SoftFloat.scaled(x.whole >> 1, x.shift);
    }

    function _fixed(Input memory x) private pure returns (uint256) {
        return uint256(SoftFloat.fixedPoint(x.a, x.s));
    }

    // ---- tests -----------------------------------------------------------------------------------------------------------------

    function test_add() public view {
        _pairs("add", _add);
    }

    function test_sub() public view {
        _pairs("sub", _sub);
    }

    function test_mul() public view {
        _pairs("mul", _mul);
    }

    function test_div() public view {
        _pairs("div", _div);
    }

    function test_sqrt() public view {
        _pairs("sqrt", _sqrt);
    }

    function test_rint() public view {
        _pairs("rint", _rint);
    }

    function test_order() public view {
        _pairs("order", _order);
    }

    function test_to_i32() public view {
        _pairs("to_i32", _to_i32);
    }

    function test_to_i64() public view {
        _pairs("to_i64", _to_i64);
    }

    function test_from_i64() public view {
        _pairs("from_i64", _from_i64);
    }

    function test_scaled() public view {
        _pairs("scaled", _scaled);
    }

    function test_fixed() public view {
        _pairs("fixed", _fixed);
    }

    // ---- hard pairs --------------------------------------------------------------------------------------------------------------

    function _pairs(string memory name, function(Input memory) pure returns (uint256) operation) private view {
        string memory json = vm.readFile(VECTORS);
        bytes memory a = vm.parseJsonBytes(json, ".pairs.a");
        bytes memory b = vm.parseJsonBytes(json, ".pairs.b");
        bytes memory whole = vm.parseJsonBytes(json, ".pairs.whole");
        bytes memory shift = vm.parseJsonBytes(json, ".pairs.shift");
        bytes memory s = vm.parseJsonBytes(json, ".pairs.s");
        bytes memory expected = vm.parseJsonBytes(json, string.concat(".pairs.", name));
        assertEq(a.length, 4 * 3240, "pairs");
        assertEq(expected.length, 8 * 3240, "results");
        Input memory x;
        for (uint256 i = 0; i < 3240; ++i) {
            (x.a, x.b) = (_number(a, i, 4), _number(b, i, 4));
            x.whole = int64(uint64(_number(whole, i, 8)));
            x.shift = int32(uint32(_number(shift, i, 4)));
            x.s = int32(uint32(_number(s, i, 4)));
            uint256 seen = uint64(operation(x));
            uint256 wanted = _number(expected, i, 8);
            if (seen != wanted) revert Wrong(name, x.a, x.b, x.whole, x.shift, seen, wanted);
        }
    }

    /// Number `i` of a column of numbers of `size` bytes.
    function _number(bytes memory data, uint256 i, uint256 size) private pure returns (uint256) {
        uint256 word;
        assembly ("memory-safe") {
            word := mload(add(add(data, 32), mul(i, size)))
        }
        return word >> (256 - 8 * size);
    }

    // ---- generated inputs ----------------------------------------------------------------------------------------------------------

    function test_bulk_of_two_operands() public view {
        _bulk("add", _add, "sub", _sub, "mul", _mul, "div", _div);
    }

    function test_bulk_of_one_operand() public view {
        _bulk("sqrt", _sqrt, "rint", _rint, "to_i32", _to_i32, "to_i64", _to_i64);
    }

    function test_bulk_of_whole_numbers() public view {
        _bulk("order", _order, "from_i64", _from_i64, "scaled", _scaled, "fixed", _fixed);
    }

    function _bulk(
        string memory name0,
        function(Input memory) pure returns (uint256) operation0,
        string memory name1,
        function(Input memory) pure returns (uint256) operation1,
        string memory name2,
        function(Input memory) pure returns (uint256) operation2,
        string memory name3,
        function(Input memory) pure returns (uint256) operation3
    ) private view {
        bytes[4] memory results;
        for (uint256 j = 0; j < 4; ++j) {
            results[j] = _block(BLOCK);
        }
        string memory json = vm.readFile(VECTORS);
        _blocks(_count(json), results, [operation0, operation1, operation2, operation3]);
        string[4] memory names = [name0, name1, name2, name3];
        for (uint256 j = 0; j < 4; ++j) {
            _compare(json, "bulk", names[j], results[j]);
        }
    }

    /// Does `count` blocks; the last digest of each operation is left where the next block would be hashed with it.
    function _blocks(uint256 count, bytes[4] memory results, function(Input memory) pure returns (uint256)[4] memory operations)
        private
        pure
    {
        Input memory x;
        for (uint256 k = 0; k < count; ++k) {
            for (uint256 i = 0; i < BLOCK; ++i) {
                _generate(x, _word(k << 40, i), _word(k << 40 | 1 << 39, i), i);
                for (uint256 j = 0; j < 4; ++j) {
                    _put(results[j], i, operations[j](x));
                }
            }
            for (uint256 j = 0; j < 4; ++j) {
                _close(results[j]);
            }
        }
    }

    function _generate(Input memory x, uint256 w, uint256 v, uint256 i) private pure {
        unchecked {
            (uint256 a, uint256 b, uint256 mode) = (w >> 32, w & 0xffffffff, i & 7);
            if (mode == 3 || mode == 4) (a, b) = (a & 0xff9e0007, b & 0xff9e0007);
            int256 field = int256((a >> 23) & 255);
            if (mode == 2 || mode >= 4) {
                int256 e = field;
                if (mode == 5) e = 127 - field;
                if (mode == 6) e = 381 - field;
                if (mode == 7) e = field < 128 ? field + 127 : field - 127;
                e += int256((b >> 23) & 63) - 32;
                e = e < 0 ? int256(0) : e > 254 ? int256(254) : e;
                b = (b & 0x807fffff) | (uint256(e) << 23);
            }
            (x.a, x.b) = (a, b);
            x.whole = int256(int64(uint64(w))) >> (v & 63);
            int256 high = int256(v >> 8);
            x.shift = high % 512 - 400;
            field += (high >> 16) % 32;
            x.s = high % 41 + 126 - (field < 254 ? field : int256(254));
        }
    }
}
