// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// A stage's bytes in calldata (docs/dispute.md) by pointers, and where an element of its result comes from: an affine map of the
/// element's digits, by axes (`axes`) or by a recipe of tools/leaf_tables.py (`source`). A type pointer points at a dtype code.
library Maps {
    /// Bytes 0..7: the axes in their order.
    uint256 internal constant IN_ORDER = 0x0001020304050607 << 192;

    function op(uint256 stage) internal pure returns (uint256 code) {
        assembly { code := byte(0, calldataload(stage)) }
    }

    function operands(uint256 stage) internal pure returns (uint256 count) {
        assembly { count := and(shr(232, calldataload(stage)), 0xffff) }
    }

    /// Type pointer of operand k.
    function operand(uint256 stage, uint256 k) internal pure returns (uint256 x) {
        assembly {
            x := add(stage, 7)
            for {} k { k := sub(k, 1) } { x := add(x, add(6, shl(3, byte(1, calldataload(x))))) }
        }
    }

    function result(uint256 stage) internal pure returns (uint256) {
        unchecked { return operand(stage, operands(stage)) - 4; }
    }

    /// What follows a type: the attributes, for that of the result.
    function end(uint256 x) internal pure returns (uint256 next) {
        assembly { next := add(x, add(2, shl(3, byte(1, calldataload(x))))) }
    }

    function dtype(uint256 x) internal pure returns (uint256 code) {
        assembly { code := byte(0, calldataload(x)) }
    }

    function rank(uint256 x) internal pure returns (uint256 n) {
        assembly { n := byte(1, calldataload(x)) }
    }

    function dim(uint256 x, uint256 k) internal pure returns (uint256 n) {
        assembly { n := shr(192, calldataload(add(add(x, 2), shl(3, k)))) }
    }

    /// Product of the sizes of axes k and after.
    function elements(uint256 x, uint256 k) internal pure returns (uint256 n) {
        assembly {
            n := 1
            let last := add(add(x, 2), shl(3, byte(1, calldataload(x))))
            for { x := add(add(x, 2), shl(3, k)) } lt(x, last) { x := add(x, 8) } { n := mul(n, shr(192, calldataload(x))) }
        }
    }

    /// Symbols of the recipes, a word each, at `frame`: operand x's numbers along `axis`, the size m of that axis in the result, and
    /// the u64s at `attributes`.
    function symbols(uint256 x, uint256 axis, uint256 m, uint256 attributes) internal pure returns (uint256 frame) {
        uint256 inner = elements(x, axis + 1);
        assembly ("memory-safe") {
            frame := mload(0x40)
            mstore(0x40, add(frame, 0x1a0))
            let n := shr(128, calldataload(add(add(x, 2), shl(3, axis))))
            let next := and(n, 0xffffffffffffffff)
            n := shr(64, n)
            mstore(frame, 0)
            mstore(add(frame, 0x20), 1)
            mstore(add(frame, 0x40), not(0))
            mstore(add(frame, 0x60), shl(64, 1))
            mstore(add(frame, 0x80), inner)
            mstore(add(frame, 0xa0), n)
            mstore(add(frame, 0xc0), m)
            let w := calldataload(attributes)
            mstore(add(frame, 0xe0), shr(192, w))
            mstore(add(frame, 0x100), and(shr(128, w), 0xffffffffffffffff))
            mstore(add(frame, 0x120), and(shr(64, w), 0xffffffffffffffff))
            mstore(add(frame, 0x140), sub(n, 1))
            mstore(add(frame, 0x160), next)
            mstore(add(frame, 0x180), div(inner, next))
        }
    }

    /// The element that a recipe names for an element of the result and an item (or index), and whether there is one.
    function source(uint256 recipe, uint256 frame, uint256 element, uint256 item)
        internal
        pure
        returns (bool found, uint256 where)
    {
        assembly {
            // a product of two symbols; of what is 0, which is most, nothing is read
            function factor(f, c) -> v {
                v := mul(mload(add(f, and(shl(1, c), 0x1e0))), mload(add(f, shl(5, and(c, 15)))))
            }
            let c := byte(0, recipe)
            if c { where := factor(frame, c) }
            c := byte(1, recipe)
            if c { where := add(where, mul(item, factor(frame, c))) }
            let t
            c := byte(2, recipe)
            if c { t := factor(frame, c) }
            for { let digits := shl(48, recipe) } byte(0, digits) { digits := shl(24, digits) } {
                let size := factor(frame, byte(0, digits))
                let digit := mod(element, size)
                element := div(element, size)
                c := byte(1, digits)
                if c { where := add(where, mul(digit, factor(frame, c))) }
                c := byte(2, digits)
                if c { t := add(t, mul(digit, factor(frame, c))) }
            }
            // without a step there is no condition
            c := byte(5, recipe)
            found := iszero(c)
            if mul(c, iszero(slt(t, 0))) {
                let every := factor(frame, byte(3, recipe))
                if iszero(mod(t, every)) {
                    t := div(t, every)
                    found := lt(t, factor(frame, byte(4, recipe)))
                    where := add(where, mul(t, factor(frame, c)))
                }
            }
        }
    }

    /// The element of x whose digits along the axes are those of `element` over the axes of y, the last `count` of which count:
    /// byte k of `order` is the axis of x for the digit of y's axis k of those; with 0x80 added the digit is one of `item`.
    /// An axis of size 1 of x is read at 0.
    function axes(uint256 y, uint256 count, uint256 x, uint256 order, uint256 element, uint256 item)
        internal
        pure
        returns (uint256 where)
    {
        assembly ("memory-safe") {
            let strides := mload(0x40)
            let stride := 1
            for { let k := byte(1, calldataload(x)) } k {} {
                k := sub(k, 1)
                let n := shr(192, calldataload(add(add(x, 2), shl(3, k))))
                mstore(add(strides, shl(5, k)), mul(stride, gt(n, 1)))
                stride := mul(stride, n)
            }
            y := add(add(y, 2), shl(3, sub(byte(1, calldataload(y)), count)))
            for {} count {} {
                count := sub(count, 1)
                let n := shr(192, calldataload(add(y, shl(3, count))))
                let axis := byte(count, order)
                stride := mload(add(strides, shl(5, and(axis, 7))))
                switch gt(axis, 127)
                case 0 {
                    where := add(where, mul(stride, mod(element, n)))
                    element := div(element, n)
                }
                default {
                    where := add(where, mul(stride, mod(item, n)))
                    item := div(item, n)
                }
            }
        }
    }

    /// The element of x that broadcasting puts at an element of the result y.
    function broadcast(uint256 y, uint256 x, uint256 element) internal pure returns (uint256) {
        return axes(y, rank(x), x, IN_ORDER, element, 0);
    }

    /// The order of a reduction of x, for `axes`, and how many elements an output has: `attributes` are count u8 and the axes.
    function reduction(uint256 x, uint256 attributes) internal pure returns (uint256 order, uint256 items) {
        order = IN_ORDER;
        assembly {
            items := 1
            for { let k := byte(0, calldataload(attributes)) } k { k := sub(k, 1) } {
                let axis := byte(k, calldataload(attributes))
                order := or(order, shl(sub(248, shl(3, axis)), 0x80))
                items := mul(items, shr(192, calldataload(add(add(x, 2), shl(3, axis)))))
            }
        }
    }
}
