// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ILeaf, Need, Rule} from "../../interfaces/ILeaf.sol";
import {Folds} from "./Folds.sol";
import {Functions} from "./Functions.sol";
import {IndexMaps} from "./IndexMaps.sol";
import {SoftFloat} from "./SoftFloat.sol";
import {BOOL, F32, I32, Op, Stage, Stages, U8} from "./Stage.sol";

/// The leaf written for clarity: each operator as assay/exact/reference.py has it, in the same words. Stateless; every call decodes
/// its stage anew.
contract ClearLeaf is ILeaf {
    function folds(bytes calldata stage) external pure returns (uint256) {
        return Folds.count(Stages.decode(stage));
    }

    function range(bytes calldata stage, uint64 element, uint256 fold) external pure returns (uint64, Rule) {
        Stage memory s = Stages.decode(stage);
        return (uint64(Folds.length(s, element, fold)), Folds.rule(s, fold));
    }

    function needs(bytes calldata stage, uint64 element, uint256 fold, uint64 index, uint64[] calldata values)
        external
        pure
        returns (Need[] memory list)
    {
        Stage memory s = Stages.decode(stage);
        if (Folds.count(s) > 0) return Folds.needs(s, element, fold, index);
        if (s.op == Op.TAKE_ROWS || s.op == Op.GATHER) {
            list = new Need[](values.length == 0 ? 1 : 2);
            list[0] = Need(1, uint64(IndexMaps.index(s, element)));
            if (values.length > 0) list[1] = Need(0, uint64(IndexMaps.named(s, element, values[0])));
        } else if (s.op >= Op.RESHAPE) {
            (uint256 operand, uint256 from, bool none) = IndexMaps.source(s, element);
            list = new Need[](none ? 0 : 1);
            if (!none) list[0] = Need(uint16(operand), uint64(from));
        } else {
            list = new Need[](s.operands.length);
            for (uint16 i = 0; i < list.length; ++i) {
                list[i] = Need(i, uint64(IndexMaps.broadcast(s.operands[i].dims, s.result.dims, element)));
            }
        }
    }

    function item(bytes calldata stage, uint64 element, uint256 fold, uint64, int256[] calldata totals, uint64[] calldata values)
        external
        pure
        returns (int256)
    {
        return Folds.item(Stages.decode(stage), element, fold, totals, values);
    }

    function finish(bytes calldata stage, uint64 element, int256[] calldata totals, uint64[] calldata values)
        external
        pure
        returns (uint64)
    {
        Stage memory s = Stages.decode(stage);
        if (Folds.count(s) > 0) return uint64(Folds.finish(s, totals, values));
        if (s.op == Op.CONST) return uint64(s.numbers[0]);
        if (s.op == Op.IOTA) return element;
        if (s.op >= Op.RESHAPE) return _moved(s, values);
        uint256 bits = _map(s, values);
        return uint64(s.result.dtype == F32 ? SoftFloat.canonical(bits) : bits);
    }

    /// MOVE: the last value found, or the constant.
    function _moved(Stage memory s, uint64[] calldata values) private pure returns (uint64) {
        if (values.length > 0) return values[values.length - 1];
        return s.op == Op.PAD ? uint64(s.numbers[2]) : 0;
    }

    // ---- MAP -------------------------------------------------------------------------------------------------------------------

    function _map(Stage memory s, uint64[] calldata values) private pure returns (uint256) {
        Op op = s.op;
        uint256 dtype = s.operands[0].dtype;
        uint256 x = values[0];
        if (op == Op.CAST) return _cast(x, dtype, s.result.dtype);
        if (op == Op.NOT) return x == 0 ? 1 : 0;
        if (op <= Op.COS) return _function(op, x);
        uint256 y = values[1];
        if (op == Op.SELECT) return x != 0 ? y : values[2];
        if (op == Op.PHILOX) return Functions.philox(x, y, values[2]);
        if (op == Op.AND) return x & y;
        if (op == Op.OR) return x | y;
        if (op >= Op.EQ) return _compare(op, x, y, dtype) ? 1 : 0;
        return dtype == F32 ? _arithmetic(op, x, y) : _integers(op, x, y, dtype);
    }

    function _function(Op op, uint256 x) private pure returns (uint256) {
        if (op == Op.NEG) return x ^ SoftFloat.SIGN;
        if (op == Op.ABS) return x & SoftFloat.MAGNITUDE;
        if (op == Op.RELU) return SoftFloat.maximum(x, 0);
        if (op == Op.SQRT) return SoftFloat.sqrt(x);
        if (op == Op.RSQRT) return Functions.rsqrt(x);
        if (op == Op.RECIPROCAL) return Functions.reciprocal(x);
        if (op == Op.EXP) return Functions.exp(x);
        if (op == Op.LOG) return Functions.log(x);
        if (op == Op.TANH) return Functions.tanh(x);
        if (op == Op.ERF) return Functions.erf(x);
        if (op == Op.SIGMOID) return Functions.sigmoid(x);
        return op == Op.SIN ? Functions.sin(x) : Functions.cos(x);
    }

    function _arithmetic(Op op, uint256 x, uint256 y) private pure returns (uint256) {
        if (op == Op.ADD) return SoftFloat.add(x, y);
        if (op == Op.SUB) return SoftFloat.sub(x, y);
        if (op == Op.MUL) return SoftFloat.mul(x, y);
        if (op == Op.DIV) return SoftFloat.div(x, y);
        return op == Op.MAXIMUM ? SoftFloat.maximum(x, y) : SoftFloat.minimum(x, y);
    }

    /// add, sub, mul modulo 2^32 or 2^64.
    function _integers(Op op, uint256 x, uint256 y, uint256 dtype) private pure returns (uint256) {
        unchecked {
            uint256 z = op == Op.ADD ? x + y : op == Op.SUB ? x - y : x * y;
            return _wrapped(int256(z), dtype);
        }
    }

    function _compare(Op op, uint256 x, uint256 y, uint256 dtype) private pure returns (bool) {
        // gt and ge are lt and le with the sides exchanged.
        if (op == Op.GT) return _compare(Op.LT, y, x, dtype);
        if (op == Op.GE) return _compare(Op.LE, y, x, dtype);
        if (op == Op.NE) return !_compare(Op.EQ, x, y, dtype);
        if (dtype == F32) {
            if (op == Op.EQ) return SoftFloat.eq(x, y);
            return op == Op.LT ? SoftFloat.lt(x, y) : SoftFloat.le(x, y);
        }
        (int256 a, int256 b) = (_number(x, dtype), _number(y, dtype));
        if (op == Op.EQ) return a == b;
        return op == Op.LT ? a < b : a <= b;
    }

    function _cast(uint256 x, uint256 from, uint256 to) private pure returns (uint256) {
        if (from != F32) {
            int256 n = _number(x, from);
            return to == F32 ? SoftFloat.scaled(n, 0) : _wrapped(n, to);
        }
        if (to == F32) return x;
        if (to == BOOL) return SoftFloat.isZero(x) ? 0 : 1;
        return _wrapped(SoftFloat.truncate(x, to == I32 ? 32 : 64), to);
    }

    /// The whole number that the bits of an integer dtype or a bool mean.
    function _number(uint256 x, uint256 dtype) private pure returns (int256) {
        if (dtype == U8 || dtype == BOOL) return int256(x);
        return dtype == I32 ? int256(int32(uint32(x))) : int256(int64(uint64(x)));
    }

    /// Its bits in a dtype: modulo 2^32 or 2^64; as a bool, whether it is not zero.
    function _wrapped(int256 n, uint256 dtype) private pure returns (uint256) {
        if (dtype == BOOL) return n != 0 ? 1 : 0;
        return dtype == I32 ? uint32(uint256(n)) : uint64(uint256(n));
    }
}
