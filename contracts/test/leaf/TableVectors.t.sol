// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ILeaf, Need, Rule} from "../../src/interfaces/ILeaf.sol";
import {TableLeaf} from "../../src/leaf/table/TableLeaf.sol";
import {Test} from "../utils/Test.sol";
import {Totals} from "./Vectors.sol";

/// The leaf from tables on tests/vectors/leaf.json, whose bits and totals are those of the NumPy reference: every element of every
/// case is folded item by item and finished, with values fetched by what the leaf names.
contract TableVectorsTest is Test {
    struct TableCase {
        bytes stage;
        bytes[] operands;
        uint64[] elements;
        bytes bits;
        bytes totals;
    }

    struct TableItem {
        bytes stage;
        uint64 element;
        uint256 fold;
        uint64 index;
        bytes totals;
        bytes values;
        int256 item;
    }

    struct TableFinish {
        bytes stage;
        uint64 element;
        bytes totals;
        bytes values;
        uint64 bits;
    }

    ILeaf internal leaf = new TableLeaf();

    /// The list at a key of the vectors.
    function read(string memory key, string memory description) internal view returns (bytes memory) {
        return vm.parseJsonTypeArray(vm.readFile("../tests/vectors/leaf.json"), key, description);
    }

    /// Element `index` of big-endian data, `size` bytes each.
    function word(bytes memory data, uint256 index, uint256 size) internal pure returns (uint64 value) {
        assertTrue((index + 1) * size <= data.length, "an element inside its tensor");
        assembly { value := shr(sub(256, shl(3, size)), mload(add(add(data, 32), mul(index, size)))) }
    }

    function width(uint256 dtype) internal pure returns (uint256) {
        return dtype == 3 ? 8 : dtype > 3 ? 1 : 4;
    }

    /// Where the type of operand k, or after the last that of the result, is in a stage.
    function typeAt(bytes memory stage, uint256 k) internal pure returns (uint256 p) {
        uint256 operands = uint256(uint8(stage[1])) << 8 | uint8(stage[2]);
        p = 3;
        for (uint256 i = 0;; ++i) {
            if (i < operands) p += 4;
            if (i == k) return p;
            p += 2 + 8 * uint256(uint8(stage[p + 1]));
        }
    }

    function signed(bytes memory data, uint256 from, uint256 count) internal pure returns (int256[] memory list) {
        list = new int256[](count);
        for (uint256 i = 0; i < count; ++i) {
            list[i] = int256(int64(word(data, from + i, 8)));
        }
    }

    function unsigned(bytes memory data) internal pure returns (uint64[] memory list) {
        list = new uint64[](data.length / 8);
        for (uint256 i = 0; i < list.length; ++i) {
            list[i] = word(data, i, 8);
        }
    }

    /// The values that an item, or the output, needs: asked for until nothing more is named.
    function fetch(TableCase memory c, uint64 element, uint256 fold, uint64 index) internal view returns (uint64[] memory values) {
        values = new uint64[](0);
        for (uint256 round = 0; round < 3; ++round) {
            Need[] memory needs = leaf.needs(c.stage, element, fold, index, values);
            if (needs.length <= values.length) return values;
            values = new uint64[](needs.length);
            for (uint256 i = 0; i < needs.length; ++i) {
                uint256 dtype = uint8(c.stage[typeAt(c.stage, needs[i].operand)]);
                values[i] = word(c.operands[needs[i].operand], needs[i].element, width(dtype));
            }
        }
        assertTrue(false, "needs end");
    }

    function folded(TableCase memory c, uint64 element, uint256 fold, int256[] memory before) internal view returns (int256) {
        (uint64 count,) = leaf.range(c.stage, element, fold);
        int256[] memory items = new int256[](count);
        for (uint64 i = 0; i < items.length; ++i) {
            items[i] = leaf.item(c.stage, element, fold, i, before, fetch(c, element, fold, i));
        }
        (, Rule rule) = leaf.range(c.stage, element, fold);
        return Totals.combined(rule, items);
    }

    function check(TableCase memory c, string memory op) internal view {
        uint256 folds = leaf.folds(c.stage);
        uint256 each = width(uint8(c.stage[typeAt(c.stage, uint256(uint8(c.stage[1])) << 8 | uint8(c.stage[2]))]));
        uint256 count = c.bits.length / each;
        for (uint256 n = 0; n < count; ++n) {
            uint256 free;
            assembly { free := mload(0x40) }
            uint64 element = c.elements.length == 0 ? uint64(n) : c.elements[n];
            int256[] memory totals = signed(c.totals, n * folds, folds);
            for (uint256 f = 0; f < folds; ++f) {
                int256[] memory before = new int256[](f);
                for (uint256 i = 0; i < f; ++i) {
                    before[i] = totals[i];
                }
                assertEq(uint256(folded(c, element, f, before)), uint256(totals[f]), string.concat(op, ": total"));
            }
            uint64 bits = leaf.finish(c.stage, element, totals, fetch(c, element, folds, 0));
            assertEq(bits, word(c.bits, n, each), string.concat(op, ": bits"));
            // memory of one element is used again for the next
            assembly { mstore(0x40, free) }
        }
    }

    function checkAll(string memory op) internal view {
        bytes memory found = read(
            string.concat(".cases.", op), "TableCase(bytes stage,bytes[] operands,uint64[] elements,bytes bits,bytes totals)"
        );
        TableCase[] memory cases = abi.decode(found, (TableCase[]));
        assertTrue(cases.length > 0, op);
        for (uint256 i = 0; i < cases.length; ++i) {
            check(cases[i], op);
        }
    }

    function test_constants() public view {
        checkAll("const");
        checkAll("iota");
    }

    function test_signs() public view {
        checkAll("neg");
        checkAll("abs");
        checkAll("relu");
    }

    function test_roots_and_quotients() public view {
        checkAll("sqrt");
        checkAll("rsqrt");
        checkAll("reciprocal");
        checkAll("div");
    }

    function test_exp() public view {
        checkAll("exp");
    }

    function test_log() public view {
        checkAll("log");
    }

    function test_tanh() public view {
        checkAll("tanh");
    }

    function test_erf() public view {
        checkAll("erf");
    }

    function test_sigmoid() public view {
        checkAll("sigmoid");
    }

    function test_sin_and_cos() public view {
        checkAll("sin");
        checkAll("cos");
    }

    function test_add() public view {
        checkAll("add");
    }

    function test_sub() public view {
        checkAll("sub");
    }

    function test_mul() public view {
        checkAll("mul");
    }

    function test_maximum_and_minimum() public view {
        checkAll("maximum");
        checkAll("minimum");
    }

    function test_truth() public view {
        checkAll("and");
        checkAll("or");
        checkAll("not");
        checkAll("select");
    }

    function test_comparisons() public view {
        checkAll("eq");
        checkAll("ne");
        checkAll("lt");
        checkAll("le");
        checkAll("gt");
        checkAll("ge");
    }

    function test_philox() public view {
        checkAll("philox");
    }

    function test_cast() public view {
        checkAll("cast");
    }

    function test_sum() public view {
        checkAll("sum");
    }

    function test_amax() public view {
        checkAll("amax");
    }

    function test_cumsum() public view {
        checkAll("cumsum");
    }

    function test_matmul() public view {
        checkAll("matmul");
    }

    function test_scatter_add_rows() public view {
        checkAll("scatter_add_rows");
    }

    function test_scatter_value() public view {
        checkAll("scatter_value");
    }

    function test_shapes() public view {
        checkAll("reshape");
        checkAll("permute");
        checkAll("expand");
    }

    function test_slices() public view {
        checkAll("slice");
        checkAll("reverse");
        checkAll("windows");
    }

    function test_spread() public view {
        checkAll("spread");
    }

    function test_pad_and_concat() public view {
        checkAll("pad");
        checkAll("concat");
    }

    function test_rows_and_gather() public view {
        checkAll("take_rows");
        checkAll("gather");
    }

    /// Bits that end a stage may have their dtype's width or that of a u64.
    function test_bits_of_either_width() public view {
        int256[] memory none = new int256[](0);
        uint64[] memory nothing = new uint64[](0);
        assertEq(leaf.finish(hex"0000000100010000000040490fdb", 0, none, nothing), 0x40490fdb, "f32");
        assertEq(leaf.finish(hex"000000010001000000000000000040490fdb", 0, none, nothing), 0x40490fdb, "f32 in a u64");
        assertEq(leaf.finish(hex"000000050005000000000000000001", 0, none, nothing), 1, "bool in a u64");
    }

    /// What no checked program holds has no program of the table either.
    function test_there_is_no_program() public view {
        uint64[] memory value = new uint64[](1);
        bytes memory data = hex"050001000000000300" hex"0300";
        (bool done,) = address(leaf).staticcall(abi.encodeCall(ILeaf.finish, (data, 0, new int256[](0), value)));
        assertTrue(!done, "the root of an integer");
    }

    function test_items_of_large_shapes() public view {
        bytes memory found = read(
            ".items",
            "TableItem(bytes stage,uint64 element,uint256 fold,uint64 index,bytes totals,bytes values,int256 item)"
        );
        TableItem[] memory items = abi.decode(found, (TableItem[]));
        assertTrue(items.length > 0, "items");
        for (uint256 i = 0; i < items.length; ++i) {
            TableItem memory v = items[i];
            int256[] memory totals = signed(v.totals, 0, v.totals.length / 8);
            int256 item = leaf.item(v.stage, v.element, v.fold, v.index, totals, unsigned(v.values));
            assertEq(uint256(item), uint256(v.item), "item");
        }
    }

    function test_results_of_large_shapes() public view {
        bytes memory found =
            read(".finishes", "TableFinish(bytes stage,uint64 element,bytes totals,bytes values,uint64 bits)");
        TableFinish[] memory finishes = abi.decode(found, (TableFinish[]));
        assertTrue(finishes.length > 0, "finishes");
        for (uint256 i = 0; i < finishes.length; ++i) {
            TableFinish memory v = finishes[i];
            int256[] memory totals = signed(v.totals, 0, v.totals.length / 8);
            assertEq(leaf.finish(v.stage, v.element, totals, unsigned(v.values)), v.bits, "bits");
        }
    }
}
