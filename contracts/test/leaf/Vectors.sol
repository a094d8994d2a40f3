// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ILeaf, Need, Rule} from "../../src/interfaces/ILeaf.sol";
import {Test} from "../utils/Test.sol";

library Totals {
    /// As the game combines parts (Ranges.sol).
    function combined(Rule rule, int256[] memory parts) internal pure returns (int256 total) {
        total = parts[0];
        for (uint256 i = 1; i < parts.length; ++i) {
            if (rule != Rule.LARGEST) total += parts[i];
            else if (parts[i] > total) total = parts[i];
        }
        if (rule == Rule.WRAPPING_SUM) total = int64(total);
    }
}

/// Drives a leaf through tests/vectors/leaf.json, which tools/leaf_vectors.py describes: for every element, every item of every fold,
/// the totals, and the output.
abstract contract LeafVectors is Test {
    struct Case {
        bytes stage;
        bytes[] operands;
        uint64[] elements;
        bytes bits;
        bytes totals;
    }

    /// What stands while one element is decided.
    struct Ask {
        bytes stage;
        bytes[] operands;
        uint8[] dtypes;
        uint64 element;
        uint256 fold;
        int256[] totals;
    }

    struct Item {
        bytes stage;
        uint64 element;
        uint256 fold;
        uint64 index;
        bytes totals;
        bytes values;
        int256 item;
    }

    struct Finish {
        bytes stage;
        uint64 element;
        bytes totals;
        bytes values;
        uint64 bits;
    }

    error Wrong(string op, uint256 number, uint64 element, string what, int256 seen, int256 expected);

    string private constant VECTORS = "../tests/vectors/leaf.json";

    ILeaf internal leaf;

    function _casesOf(string memory op) private view returns (Case[] memory) {
        bytes memory raw = vm.parseJsonTypeArray(
            vm.readFile(VECTORS),
            string.concat(".cases.", op),
            "Case(bytes stage,bytes[] operands,uint64[] elements,bytes bits,bytes totals)"
        );
        return abi.decode(raw, (Case[]));
    }

    /// Checks all vectors of an operator.
    function check(string memory op) internal view {
        Case[] memory cases = _casesOf(op);
        assertTrue(cases.length > 0, op);
        for (uint256 i = 0; i < cases.length; ++i) {
            _checkCase(op, i, cases[i]);
        }
    }

    function _checkCase(string memory op, uint256 number, Case memory c) private view {
        (uint8[] memory codes, uint8 code) = _dtypes(c.stage);
        uint256 width = _width(code);
        uint256 folds = leaf.folds(c.stage);
        uint256 count = c.bits.length / width;
        assertEq(c.totals.length, 8 * folds * count, string.concat(op, ": number of totals"));
        Ask memory a = Ask(c.stage, c.operands, codes, 0, 0, new int256[](folds));
        for (uint256 k = 0; k < count; ++k) {
            a.element = c.elements.length == 0 ? uint64(k) : c.elements[k];
            a.totals = new int256[](folds);
            for (a.fold = 0; a.fold < folds; ++a.fold) {
                a.totals[a.fold] = _fold(a);
                int256 expected = int64(uint64(_number(c.totals, (k * folds + a.fold) * 8, 8)));
                if (a.totals[a.fold] != expected) revert Wrong(op, number, a.element, "total", a.totals[a.fold], expected);
            }
            uint64 seen = leaf.finish(a.stage, a.element, a.totals, _values(a, 0));
            uint256 bits = _number(c.bits, k * width, width);
            if (seen != bits) revert Wrong(op, number, a.element, "bits", int256(uint256(seen)), int256(bits));
        }
    }

    /// A fold's total: of its items in two parts, so that parts of parts are seen, too.
    function _fold(Ask memory a) private view returns (int256) {
        (uint64 length, Rule rule) = leaf.range(a.stage, a.element, a.fold);
        uint64 middle = length / 2;
        if (middle == 0) return _part(a, rule, 0, length);
        int256[] memory parts = new int256[](2);
        (parts[0], parts[1]) = (_part(a, rule, 0, middle), _part(a, rule, middle, length));
        return Totals.combined(rule, parts);
    }

    function _part(Ask memory a, Rule rule, uint64 start, uint64 stop) private view returns (int256) {
        int256[] memory items = new int256[](stop - start);
        for (uint64 i = start; i < stop; ++i) {
            items[i - start] = leaf.item(a.stage, a.element, a.fold, i, a.totals, _values(a, i));
        }
        return Totals.combined(rule, items);
    }

    /// The values of all needs, asked for until no more are named.
    function _values(Ask memory a, uint64 index) private view returns (uint64[] memory values) {
        Need[] memory needs = leaf.needs(a.stage, a.element, a.fold, index, values);
        while (needs.length > values.length) {
            values = new uint64[](needs.length);
            for (uint256 i = 0; i < needs.length; ++i) {
                uint256 width = _width(a.dtypes[needs[i].operand]);
                values[i] = uint64(_number(a.operands[needs[i].operand], needs[i].element * width, width));
            }
            needs = leaf.needs(a.stage, a.element, a.fold, index, values);
        }
    }

    /// Single calls with shapes too large for operands.
    function checkSingles() internal view {
        string memory json = vm.readFile(VECTORS);
        bytes memory raw = vm.parseJsonTypeArray(
            json, ".items", "Item(bytes stage,uint64 element,uint256 fold,uint64 index,bytes totals,bytes values,int256 item)"
        );
        Item[] memory items = abi.decode(raw, (Item[]));
        assertEq(items.length, 118, "items");
        for (uint256 i = 0; i < items.length; ++i) {
            Item memory t = items[i];
            int256 seen = leaf.item(t.stage, t.element, t.fold, t.index, _signed(t.totals), _unsigned(t.values));
            if (seen != t.item) revert Wrong("items", i, t.element, "item", seen, t.item);
        }
        raw = vm.parseJsonTypeArray(json, ".finishes", "Finish(bytes stage,uint64 element,bytes totals,bytes values,uint64 bits)");
        Finish[] memory finishes = abi.decode(raw, (Finish[]));
        assertEq(finishes.length, 3, "finishes");
        for (uint256 i = 0; i < finishes.length; ++i) {
            Finish memory t = finishes[i];
            assertEq(leaf.finish(t.stage, t.element, _signed(t.totals), _unsigned(t.values)), t.bits, "finish");
        }
    }

    // ---- bytes -----------------------------------------------------------------------------------------------------------------

    /// The dtypes of a stage's operands and of its result.
    function _dtypes(bytes memory stage) private pure returns (uint8[] memory operands, uint8 result) {
        operands = new uint8[](_number(stage, 1, 2));
        uint256 next = 3;
        for (uint256 i = 0; i < operands.length; ++i) {
            operands[i] = uint8(stage[next + 4]);
            next += 6 + 8 * uint256(uint8(stage[next + 5]));
        }
        result = uint8(stage[next]);
    }

    function _width(uint8 dtype) private pure returns (uint256) {
        return dtype == 3 ? 8 : dtype <= 2 ? 4 : 1;
    }

    function _number(bytes memory data, uint256 from, uint256 size) private pure returns (uint256) {
        assertTrue(from + size <= data.length, "past the end");
        uint256 word;
        assembly ("memory-safe") {
            word := mload(add(add(data, 32), from))
        }
        return word >> (256 - 8 * size);
    }

    function _unsigned(bytes memory data) private pure returns (uint64[] memory out) {
        out = new uint64[](data.length / 8);
        for (uint256 i = 0; i < out.length; ++i) {
            out[i] = uint64(_number(data, 8 * i, 8));
        }
    }

    function _signed(bytes memory data) private pure returns (int256[] memory out) {
        out = new int256[](data.length / 8);
        for (uint256 i = 0; i < out.length; ++i) {
            out[i] = int64(uint64(_number(data, 8 * i, 8)));
        }
    }
}
