// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ClearLeaf} from "../../src/leaf/clear/ClearLeaf.sol";
import {LeafVectors} from "./Vectors.sol";

/// ClearLeaf on the vectors of the NumPy reference, operator by operator.
contract ClearLeafTest is LeafVectors {
    function setUp() public {
        leaf = new ClearLeaf();
    }

    function test_const() public view {
        check("const");
    }

    function test_iota() public view {
        check("iota");
    }

    function test_neg() public view {
        check("neg");
    }

    function test_abs() public view {
        check("abs");
    }

    function test_relu() public view {
        check("relu");
    }

    function test_sqrt() public view {
        check("sqrt");
    }

    function test_rsqrt() public view {
        check("rsqrt");
    }

    function test_reciprocal() public view {
        check("reciprocal");
    }

    function test_exp() public view {
        check("exp");
    }

    function test_log() public view {
        check("log");
    }

    function test_tanh() public view {
        check("tanh");
    }

    function test_erf() public view {
        check("erf");
    }

    function test_sigmoid() public view {
        check("sigmoid");
    }

    function test_sin() public view {
        check("sin");
    }

    function test_cos() public view {
        check("cos");
    }

    function test_add() public view {
        check("add");
    }

    function test_sub() public view {
        check("sub");
    }

    function test_mul() public view {
        check("mul");
    }

    function test_div() public view {
        check("div");
    }

    function test_maximum() public view {
        check("maximum");
    }

    function test_minimum() public view {
        check("minimum");
    }

    function test_and() public view {
        check("and");
    }

    function test_or() public view {
        check("or");
    }

    function test_not() public view {
        check("not");
    }

    function test_eq() public view {
        check("eq");
    }

    function test_ne() public view {
        check("ne");
    }

    function test_lt() public view {
        check("lt");
    }

    function test_le() public view {
        check("le");
    }

    function test_gt() public view {
        check("gt");
    }

    function test_ge() public view {
        check("ge");
    }

    function test_select() public view {
        check("select");
    }

    function test_philox() public view {
        check("philox");
    }

    function test_cast() public view {
        check("cast");
    }

    function test_sum() public view {
        check("sum");
    }

    function test_amax() public view {
        check("amax");
    }

    function test_cumsum() public view {
        check("cumsum");
    }

    function test_matmul() public view {
        check("matmul");
    }

    function test_scatter_add_rows() public view {
        check("scatter_add_rows");
    }

    function test_reshape() public view {
        check("reshape");
    }

    function test_permute() public view {
        check("permute");
    }

    function test_expand() public view {
        check("expand");
    }

    function test_slice() public view {
        check("slice");
    }

    function test_reverse() public view {
        check("reverse");
    }

    function test_windows() public view {
        check("windows");
    }

    function test_spread() public view {
        check("spread");
    }

    function test_pad() public view {
        check("pad");
    }

    function test_concat() public view {
        check("concat");
    }

    function test_take_rows() public view {
        check("take_rows");
    }

    function test_gather() public view {
        check("gather");
    }

    function test_scatter_value() public view {
        check("scatter_value");
    }

    function test_shapes_too_large_for_operands() public view {
        checkSingles();
    }
}
