// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {Need, Rule} from "../../interfaces/ILeaf.sol";
import {IndexMaps} from "./IndexMaps.sol";
import {SoftFloat} from "./SoftFloat.sol";
import {I64, Op, Stage} from "./Stage.sol";

/// REDUCE and `scatter_value`: the folds of docs/dispute.md, their items, and the output from their totals.
///
/// Fixed point (assay/exact/reference.py): E is the largest exponent field of a set of floats, B the bits, s = B + 126 - E,
/// q = rint(x · 2^s). A total of 255 says that the set holds an infinity or a NaN: what depends on it is NaN.
library Folds {
    int256 private constant NOT_FINITE = 255;
    int256 private constant NAN_KEY = 1 << 31;

    function count(Stage memory s) internal pure returns (uint256) {
        if (s.op == Op.MATMUL) return 3;
        if (s.op == Op.AMAX || s.op == Op.SCATTER_VALUE) return 1;
        if (s.op == Op.SUM || s.op == Op.CUMSUM) return _wraps(s) ? 1 : 2;
        return s.op == Op.SCATTER_ADD_ROWS ? 2 : 0;
    }

    /// Whether this is a sum modulo 2^64.
    function _wraps(Stage memory s) private pure returns (bool) {
        return (s.op == Op.SUM || s.op == Op.CUMSUM) && s.result.dtype == I64;
    }

    /// Whether the fold is a sum; the others take the largest item.
    function _adds(Stage memory s, uint256 fold) private pure returns (bool) {
        if (_wraps(s)) return true;
        if (s.op == Op.MATMUL) return fold == 2;
        return fold == 1; // `amax` and `scatter_value` have no fold 1
    }

    function length(Stage memory s, uint256 element, uint256 fold) internal pure returns (uint256) {
        uint256[] memory dims = s.operands[0].dims;
        if (s.op == Op.SUM || s.op == Op.AMAX) return _reduced(s);
        if (s.op == Op.MATMUL) return dims[dims.length - 1];
        if (s.op == Op.CUMSUM) {
            return _adds(s, fold) ? IndexMaps.split(dims, s.axes[0], element).place + 1 : dims[s.axes[0]];
        }
        if (s.op == Op.SCATTER_ADD_ROWS) return fold == 0 ? s.operands[1].elements : dims[0];
        return s.operands[1].dims[s.axes[0]]; // scatter_value
    }

    function rule(Stage memory s, uint256 fold) internal pure returns (Rule) {
        if (_wraps(s)) return Rule.WRAPPING_SUM;
        return _adds(s, fold) ? Rule.SUM : Rule.LARGEST;
    }

    // ---- needs -----------------------------------------------------------------------------------------------------------------

    function needs(Stage memory s, uint256 element, uint256 fold, uint256 index) internal pure returns (Need[] memory list) {
        if (fold == count(s)) {
            // Only scatter_value's output needs more than totals: x, in case no index named the place.
            if (s.op == Op.SCATTER_VALUE) return _one(0, element);
            return new Need[](0);
        }
        uint256[] memory dims = s.operands[0].dims;
        if (s.op == Op.SUM || s.op == Op.AMAX) return _one(0, _within(s, element, index));
        if (s.op == Op.CUMSUM) {
            return _one(0, IndexMaps.join(IndexMaps.split(dims, s.axes[0], element), dims[s.axes[0]], index));
        }
        if (s.op == Op.SCATTER_VALUE) {
            uint256 n = s.operands[1].dims[s.axes[0]];
            return _one(1, IndexMaps.join(IndexMaps.split(dims, s.axes[0], element), n, index));
        }
        if (s.op == Op.SCATTER_ADD_ROWS) {
            if (fold == 0) return _one(1, index);
            uint256 row = s.operands[1].elements / dims[0];
            return _two(index, index * row + element % row);
        }
        return _matmul(s, element, fold, index);
    }

    /// Row of A, column of B: [.., M, K] times [.., K, N].
    function _matmul(Stage memory s, uint256 element, uint256 fold, uint256 k) private pure returns (Need[] memory) {
        uint256[] memory out = s.result.dims;
        uint256 depth = length(s, element, fold);
        (uint256 rows, uint256 columns) = (out[out.length - 2], out[out.length - 1]);
        uint256 a = (element / columns) * depth + k;
        uint256 b = (element / columns / rows * depth + k) * columns + element % columns;
        if (fold == 0) return _one(0, a);
        if (fold == 1) return _one(1, b);
        return _two(a, b);
    }

    /// Elements reduced to one.
    function _reduced(Stage memory s) private pure returns (uint256 n) {
        n = 1;
        for (uint256 i = 0; i < s.axes.length; ++i) {
            n *= s.operands[0].dims[s.axes[i]];
        }
    }

    /// The element of x that is number `index` among those reduced to `element`, in C order of the reduced axes.
    function _within(Stage memory s, uint256 element, uint256 index) private pure returns (uint256 from) {
        uint256[] memory dims = s.operands[0].dims;
        uint256 axes = s.axes.length;
        uint256 stride = 1;
        for (uint256 i = dims.length; i > 0; --i) {
            uint256 n = dims[i - 1];
            if (axes > 0 && s.axes[axes - 1] == i - 1) {
                from += (index % n) * stride;
                index /= n;
                --axes;
            } else {
                from += (element % n) * stride;
                element /= n;
            }
            stride *= n;
        }
    }

    function _one(uint256 operand, uint256 element) private pure returns (Need[] memory list) {
        list = new Need[](1);
        list[0] = Need(uint16(operand), uint64(element));
    }

    /// One element of operand 0 and one of operand 1.
    function _two(uint256 first, uint256 second) private pure returns (Need[] memory list) {
        list = new Need[](2);
        list[0] = Need(0, uint64(first));
        list[1] = Need(1, uint64(second));
    }

    // ---- items and output --------------------------------------------------------------------------------------------------------

    /// The same wherever among the items it stands.
    function item(Stage memory s, uint256 element, uint256 fold, int256[] calldata totals, uint64[] calldata values)
        internal
        pure
        returns (int256)
    {
        if (_wraps(s)) return int256(int64(values[0]));
        if (s.op == Op.AMAX) return SoftFloat.isNan(values[0]) ? NAN_KEY : SoftFloat.key(values[0]);
        if (s.op == Op.SCATTER_VALUE) {
            uint256[] memory dims = s.operands[0].dims;
            uint256 named = IndexMaps.clamp(s.operands[1].dtype, values[0], dims[s.axes[0]]);
            return named == IndexMaps.split(dims, s.axes[0], element).place ? int256(1) : int256(0);
        }
        if (!_adds(s, fold)) return int256(SoftFloat.exponent(values[0]));
        if (s.op == Op.MATMUL) {
            if (totals[0] == NOT_FINITE || totals[1] == NOT_FINITE) return 0;
            unchecked {
                return _quantised(s, values[0], totals[0]) * _quantised(s, values[1], totals[1]);
            }
        }
        if (totals[0] == NOT_FINITE) return 0;
        int256 scale = _sumScale(s, totals[0]);
        if (s.op == Op.SCATTER_ADD_ROWS) {
            uint256 row = s.operands[1].elements / s.operands[0].dims[0];
            uint256 named = IndexMaps.clamp(s.operands[0].dtype, values[0], s.result.dims[0]);
            return named == element / row ? SoftFloat.fixedPoint(values[1], scale) : int256(0);
        }
        return SoftFloat.fixedPoint(values[0], scale);
    }

    function finish(Stage memory s, int256[] calldata totals, uint64[] calldata values) internal pure returns (uint256) {
        unchecked {
            if (_wraps(s)) return uint64(int64(totals[0]));
            if (s.op == Op.AMAX) return totals[0] == NAN_KEY ? SoftFloat.NAN : SoftFloat.ofKey(totals[0]);
            if (s.op == Op.SCATTER_VALUE) return totals[0] == 1 ? s.numbers[0] : values[0];
            if (totals[0] == NOT_FINITE) return SoftFloat.NAN;
            if (s.op == Op.MATMUL) {
                if (totals[1] == NOT_FINITE) return SoftFloat.NAN;
                return SoftFloat.scaled(totals[2], -(_productScale(s, totals[0]) + _productScale(s, totals[1])));
            }
            return SoftFloat.scaled(totals[1], -_sumScale(s, totals[0]));
        }
    }

    /// s of a sum: B = min(40, 62 - ceil(log2 n)), n being all values that may come together.
    function _sumScale(Stage memory s, int256 top) private pure returns (int256) {
        unchecked {
            uint256[] memory dims = s.operands[0].dims;
            uint256 n = dims[0]; // scatter_add_rows
            if (s.op == Op.SUM) n = _reduced(s);
            if (s.op == Op.CUMSUM) n = dims[s.axes[0]];
            uint256 bits = 62 - Math.log2(n, Math.Rounding.Ceil);
            return int256(bits < 40 ? bits : 40) + 126 - top;
        }
    }

    /// s of a row or column of a product with b bits.
    function _productScale(Stage memory s, int256 top) private pure returns (int256) {
        unchecked {
            return int256(s.numbers[0]) - 1 + 126 - top;
        }
    }

    /// q of a product's operand, clamped to ±(2^(b-1) - 1).
    function _quantised(Stage memory s, uint256 x, int256 top) private pure returns (int256) {
        unchecked {
            int256 q = SoftFloat.fixedPoint(x, _productScale(s, top));
            int256 most = int256(1 << (s.numbers[0] - 1)) - 1;
            if (q > most) return most;
            return q < -most ? -most : q;
        }
    }
}
