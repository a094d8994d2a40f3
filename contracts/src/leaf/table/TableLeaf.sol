// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ILeaf, Need, Rule} from "../../interfaces/ILeaf.sol";
import {Machine} from "./Machine.sol";
import {Maps} from "./Maps.sol";
import {Programs, Recipes} from "./Tables.sol";

/// The leaf of a dispute (docs/dispute.md) from tables: where values come from is a recipe or a walk over axes (Maps.sol), what
/// becomes of them is a program (Machine.sol); tools/leaf_tables.py writes both. It shares no code with the other leaf.
contract TableLeaf is ILeaf {
    uint256 private constant IOTA = 1;
    uint256 private constant SELECT = 30;
    uint256 private constant CAST = 32;
    uint256 private constant SUM = 33;
    uint256 private constant AMAX = 34;
    uint256 private constant CUMSUM = 35;
    uint256 private constant MATMUL = 36;
    uint256 private constant SCATTER_ADD_ROWS = 37;
    uint256 private constant RESHAPE = 38;
    uint256 private constant PERMUTE = 39;
    uint256 private constant EXPAND = 40;
    uint256 private constant SLICE = 41;
    uint256 private constant REVERSE = 42;
    uint256 private constant WINDOWS = 43;
    uint256 private constant SPREAD = 44;
    uint256 private constant CONCAT = 46;
    uint256 private constant TAKE_ROWS = 47;
    uint256 private constant GATHER = 48;
    uint256 private constant SCATTER_VALUE = 49;
    /// Rows of programs that are no operators: casts from f32, the row after for casts from integers, sums of integers.
    uint256 private constant CASTS = 50;
    uint256 private constant WHOLE_SUMS = 52;
    uint256 private constant F32 = 1;
    uint256 private constant I32 = 2;
    uint256 private constant I64 = 3;

    /// @inheritdoc ILeaf
    function folds(bytes calldata stage) external pure returns (uint256 count) {
        return _folds(_at(stage));
    }

    /// @inheritdoc ILeaf
    function range(bytes calldata stage, uint64 element, uint256 fold) external pure returns (uint64 items, Rule rule) {
        uint256 s = _at(stage);
        uint256 op = Maps.op(s);
        items = _length(s, op, element, fold);
        // The last fold is a sum, but for the two operators that have none.
        if (_row(s, op) == WHOLE_SUMS) rule = Rule.WRAPPING_SUM;
        else if (fold + 1 == _folds(s) && op != AMAX && op != SCATTER_VALUE) rule = Rule.SUM;
    }

    function _length(uint256 s, uint256 op, uint64 element, uint256 fold) private pure returns (uint64) {
        uint256 x = Maps.operand(s, 0);
        unchecked {
            if (op == SUM || op == AMAX) {
                (, uint256 n) = Maps.reduction(x, _attributes(s));
                return uint64(n);
            }
            if (op == CUMSUM) {
                uint256 place = _place(x, _axis(s), element);
                return uint64(fold < _folds(s) - 1 ? Maps.dim(x, _axis(s)) : place + 1);
            }
            if (op == MATMUL) return uint64(Maps.dim(x, Maps.rank(x) - 1));
            if (op == SCATTER_ADD_ROWS) return uint64(fold == 0 ? Maps.elements(Maps.operand(s, 1), 0) : Maps.dim(x, 0));
            if (op == SCATTER_VALUE) return uint64(Maps.dim(Maps.operand(s, 1), _axis(s)));
            return 0;
        }
    }

    /// @inheritdoc ILeaf
    function needs(bytes calldata stage, uint64 element, uint256 fold, uint64 index, uint64[] calldata values)
        external
        pure
        returns (Need[] memory)
    {
        uint256 s = _at(stage);
        uint256 op = Maps.op(s);
        uint256 list;
        assembly ("memory-safe") {
            list := mload(0x40)
            mstore(0x40, add(list, 0x100))
            mstore(list, 0x20)
            mstore(add(list, 0x20), 0)
        }
        if (op < SUM) _mapNeeds(list, s, element);
        else if (op < RESHAPE || op == SCATTER_VALUE) _foldNeeds(list, s, op, element, fold, index);
        else if (op == TAKE_ROWS || op == GATHER) _indexNeeds(list, s, op, element, values);
        else _moveNeeds(list, s, op, element);
        // the list is the answer as the ABI encodes it
        assembly { return(list, add(0x40, shl(6, mload(add(list, 0x20))))) }
    }

    /// @inheritdoc ILeaf
    function item(bytes calldata stage, uint64 element, uint256 fold, uint64, int256[] calldata totals, uint64[] calldata values)
        external
        pure
        returns (int256)
    {
        uint256 s = _at(stage);
        uint256 op = Maps.op(s);
        // Items of scatter_add_rows' first fold and of scatter_value are elements of operand 1.
        uint256 first = (op == SCATTER_ADD_ROWS || op == SCATTER_VALUE) && fold == 0 ? 1 : 0;
        uint256 regs = _registers(s, first, totals, values);
        if (fold > 0 || op == SCATTER_VALUE) _parameters(regs, s, op, element);
        return int256(_run(_row(s, op), fold, regs));
    }

    /// @inheritdoc ILeaf
    function finish(bytes calldata stage, uint64 element, int256[] calldata totals, uint64[] calldata values)
        external
        pure
        returns (uint64 bits)
    {
        uint256 s = _at(stage);
        uint256 op = Maps.op(s);
        if (op == IOTA) return element;
        if (op == 0 || (op > SCATTER_ADD_ROWS && op < SCATTER_VALUE)) {
            if (values.length > 0) return values[values.length - 1];
            return op == SPREAD ? 0 : uint64(_constant(s));
        }
        uint256 regs = _registers(s, 0, totals, values);
        uint256 y = Maps.result(s);
        uint256 kind = Maps.dtype(y);
        uint256 column = 3;
        if (op == CAST) column = kind > I64 ? 3 : kind - 1;
        else if (op < SUM) column = (op == SELECT ? kind : Maps.dtype(Maps.operand(s, 0))) == F32 ? 0 : 1;
        else _parameters(regs, s, op, element);
        uint256 made = _run(_row(s, op), column, regs);
        return kind == I32 ? uint32(made) : uint64(made);
    }

    /// Place of the stage in calldata.
    function _at(bytes calldata stage) private pure returns (uint256 s) {
        assembly { s := stage.offset }
    }

    function _attributes(uint256 s) private pure returns (uint256) {
        return Maps.end(Maps.result(s));
    }

    /// The first attribute, where it is an axis.
    function _axis(uint256 s) private pure returns (uint256 axis) {
        uint256 p = _attributes(s);
        assembly { axis := byte(0, calldataload(p)) }
    }

    /// The bits that const, pad and scatter_value end with: the stage's last bytes, as many as its result's dtype has.
    function _constant(uint256 s) private pure returns (uint256 bits) {
        assembly {
            // the stage's length is before it
            let last := add(s, calldataload(sub(s, 32)))
            bits := calldataload(sub(last, 32))
        }
        uint256 kind = Maps.dtype(Maps.result(s));
        return kind == I64 ? uint64(bits) : kind > I64 ? uint8(bits) : uint32(bits);
    }

    function _folds(uint256 s) private pure returns (uint256 count) {
        uint256 op = Maps.op(s);
        if (op < SUM || op > SCATTER_VALUE) return 0;
        // by operator from 33 on
        assembly { count := byte(sub(op, 33), 0x0201020302000000000000000000000001000000000000000000000000000000) }
        if (_row(s, op) == WHOLE_SUMS) return 1;
    }

    function _row(uint256 s, uint256 op) private pure returns (uint256) {
        uint256 x = Maps.operand(s, 0);
        if (op == CAST) return Maps.dtype(x) == F32 ? CASTS : CASTS + 1;
        if ((op == SUM || op == CUMSUM) && Maps.dtype(x) == I64) return WHOLE_SUMS;
        return op;
    }

    /// Where along an axis of x an element of it is.
    function _place(uint256 x, uint256 axis, uint256 element) private pure returns (uint256 place) {
        (, place) = Maps.source(Recipes.PLACE, Maps.symbols(x, axis, Maps.dim(x, axis), 0), element, 0);
    }

    /// Fraction bits of a sum of n: min(40, 62 - ceil(log2 n)).
    function _sumBits(uint256 n) private pure returns (uint256 bits) {
        unchecked {
            bits = 40;
            while (n > 1 << (62 - bits)) --bits;
        }
    }

    // ---- what is needed ----

    function _put(uint256 list, uint256 operand, uint256 element) private pure {
        assembly ("memory-safe") {
            let n := mload(add(list, 0x20))
            mstore(add(list, 0x20), add(n, 1))
            list := add(list, shl(6, add(n, 1)))
            mstore(list, operand)
            mstore(add(list, 0x20), element)
        }
    }

    function _mapNeeds(uint256 list, uint256 s, uint256 element) private pure {
        uint256 count = Maps.operands(s);
        uint256 y = Maps.result(s);
        uint256 x = s + 7;
        unchecked {
            for (uint256 k = 0; k < count; ++k) {
                _put(list, k, Maps.broadcast(y, x, element));
                x = Maps.end(x) + 4;
            }
        }
    }

    /// By a recipe along an axis of operand x, m being that axis' size in the result.
    function _recipe(uint256 list, uint256 s, uint256 recipe, uint256 k, uint256 axis, uint256 element, uint256 item_)
        private
        pure
    {
        uint256 p = _attributes(s);
        uint256 frame = Maps.symbols(Maps.operand(s, k), axis, Maps.dim(Maps.result(s), axis), p + 1);
        (bool found, uint256 where) = Maps.source(recipe, frame, element, item_);
        if (found) _put(list, k, where);
    }

    function _foldNeeds(uint256 list, uint256 s, uint256 op, uint256 element, uint256 fold, uint256 index) private pure {
        if (op == SCATTER_VALUE) {
            if (fold > 0) _put(list, 0, element);
            else _recipe(list, s, Recipes.ALONG, 1, _axis(s), element, index);
            return;
        }
        if (fold >= _folds(s)) return;
        if (op == CUMSUM) {
            _recipe(list, s, Recipes.ALONG, 0, _axis(s), element, index);
        } else if (op == MATMUL) {
            uint256 last = Maps.rank(Maps.operand(s, 0)) - 1;
            if (fold != 1) _recipe(list, s, Recipes.LEFT, 0, last, element, index);
            if (fold != 0) _recipe(list, s, Recipes.ALONG, 1, last - 1, element, index);
        } else if (op == SCATTER_ADD_ROWS) {
            if (fold == 0) {
                _put(list, 1, index);
            } else {
                _put(list, 0, index);
                _recipe(list, s, Recipes.ROW, 1, 0, element, index);
            }
        } else {
            uint256 x = Maps.operand(s, 0);
            (uint256 order,) = Maps.reduction(x, _attributes(s));
            _put(list, 0, Maps.axes(x, Maps.rank(x), x, order, element, index));
        }
    }

    function _indexNeeds(uint256 list, uint256 s, uint256 op, uint256 element, uint64[] calldata values) private pure {
        uint256 axis;
        uint256 place = element;
        if (op == GATHER) axis = _axis(s);
        else place = element / Maps.elements(Maps.operand(s, 0), 1);
        _put(list, 1, place);
        if (values.length == 0) return;
        uint256 size = Maps.dim(Maps.operand(s, 0), axis);
        uint256 narrow = Maps.dtype(Maps.operand(s, 1)) == I64 ? 7 : 3;
        assembly {
            place := signextend(narrow, calldataload(values.offset))
            if slt(place, 0) { place := 0 }
            if iszero(lt(place, size)) { place := sub(size, 1) }
        }
        _recipe(list, s, op == GATHER ? Recipes.ALONG : Recipes.ROW, 0, axis, element, place);
    }

    function _moveNeeds(uint256 list, uint256 s, uint256 op, uint256 element) private pure {
        uint256 x = Maps.operand(s, 0);
        uint256 y = Maps.result(s);
        if (op == RESHAPE) {
            _put(list, 0, element);
        } else if (op == EXPAND) {
            _put(list, 0, Maps.broadcast(y, x, element));
        } else if (op == PERMUTE) {
            uint256 order = Maps.end(y);
            assembly { order := calldataload(order) }
            _put(list, 0, Maps.axes(y, Maps.rank(y), x, order, element, 0));
        } else if (op == CONCAT) {
            _concatNeeds(list, s, y, _axis(s), element);
        } else {
            uint256 recipe = Recipes.PAD;
            if (op == SLICE) recipe = Recipes.SLICE;
            else if (op == REVERSE) recipe = Recipes.REVERSE;
            else if (op == WINDOWS) recipe = Recipes.WINDOWS;
            else if (op == SPREAD) recipe = Recipes.SPREAD;
            _recipe(list, s, recipe, 0, _axis(s), element, 0);
        }
    }

    /// Each operand is padded to the whole; the element is of the one that has it.
    function _concatNeeds(uint256 list, uint256 s, uint256 y, uint256 axis, uint256 element) private pure {
        uint256 place = _place(y, axis, element);
        uint256 x = s + 7;
        uint256 k;
        uint256 before;
        unchecked {
            for (uint256 n = Maps.dim(x, axis); before + n <= place; n = Maps.dim(x, axis)) {
                before += n;
                x = Maps.end(x) + 4;
                ++k;
            }
        }
        uint256 frame = Maps.symbols(x, axis, Maps.dim(y, axis), 0);
        assembly ("memory-safe") { mstore(add(frame, 0xe0), before) }
        (, uint256 where) = Maps.source(Recipes.PAD, frame, element, 0);
        _put(list, k, where);
    }

    // ---- what becomes of it ----

    /// Registers in memory, the values and totals in theirs; value k is of operand first + k, integers with their sign.
    function _registers(uint256 s, uint256 first, int256[] calldata totals, uint64[] calldata values)
        private
        pure
        returns (uint256 regs)
    {
        uint256 x = Maps.operand(s, first);
        assembly ("memory-safe") {
            regs := mload(0x40)
            mstore(0x40, add(regs, 0x400))
            let count := values.length
            if gt(count, 3) { count := 3 }
            for { let k := 0 } lt(k, count) { k := add(k, 1) } {
                let v := and(calldataload(add(values.offset, shl(5, k))), 0xffffffffffffffff)
                let kind := byte(0, calldataload(x))
                if eq(kind, 2) { v := signextend(3, v) }
                if eq(kind, 3) { v := signextend(7, v) }
                mstore(add(regs, shl(5, k)), v)
                x := add(x, add(6, shl(3, byte(1, calldataload(x)))))
            }
            count := totals.length
            if gt(count, 3) { count := 3 }
            calldatacopy(add(regs, 0x60), totals.offset, shl(5, count))
        }
    }

    /// Registers 6 to 8: the bits of a sum, of a product or of the constant; the element's place, and the size, along the axis.
    function _parameters(uint256 regs, uint256 s, uint256 op, uint256 element) private pure {
        uint256 x = Maps.operand(s, 0);
        uint256 bits;
        uint256 place;
        uint256 size;
        if (op == SUM) {
            (, size) = Maps.reduction(x, _attributes(s));
            bits = _sumBits(size);
        } else if (op == CUMSUM) {
            bits = _sumBits(Maps.dim(x, _axis(s)));
        } else if (op == MATMUL) {
            bits = _axis(s);
        } else if (op == SCATTER_ADD_ROWS) {
            bits = _sumBits(Maps.dim(x, 0));
            size = Maps.dim(Maps.result(s), 0);
            place = _place(Maps.result(s), 0, element);
        } else if (op == SCATTER_VALUE) {
            bits = _constant(s);
            size = Maps.dim(x, _axis(s));
            place = _place(x, _axis(s), element);
        }
        assembly ("memory-safe") {
            mstore(add(regs, 0xc0), bits)
            mstore(add(regs, 0xe0), place)
            mstore(add(regs, 0x100), size)
        }
    }

    function _run(uint256 row, uint256 column, uint256 regs) private pure returns (uint256) {
        unchecked {
            if (row - 8 < 7) return Machine.run(_start(Programs.long(row)), regs);
            uint256 start = _start(Programs.TABLE);
            assembly { start := add(start, shr(240, mload(add(start, shl(1, add(shl(2, row), column)))))) }
            return Machine.run(start, regs);
        }
    }

    function _start(bytes memory code) private pure returns (uint256 start) {
        assembly { start := add(code, 32) }
    }
}
