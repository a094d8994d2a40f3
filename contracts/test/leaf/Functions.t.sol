// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Functions} from "../../src/leaf/clear/Functions.sol";
import {Blocks} from "./Blocks.sol";

/// The elementary functions against the reference on generated inputs, in blocks of 1024: one block a run, or, with SOFTFLOAT_COUNT=3,
/// 640 of them (see Blocks.sol).
contract FunctionsTest is Blocks {
    uint256 private constant BLOCK = 1024;

    function test_bulk_of_rsqrt() public view {
        _check("rsqrt", Functions.rsqrt);
    }

    function test_bulk_of_reciprocal() public view {
        _check("reciprocal", Functions.reciprocal);
    }

    function test_bulk_of_exp() public view {
        _check("exp", Functions.exp);
    }

    function test_bulk_of_log() public view {
        _check("log", Functions.log);
    }

    function test_bulk_of_tanh() public view {
        _check("tanh", Functions.tanh);
    }

    function test_bulk_of_erf() public view {
        _check("erf", Functions.erf);
    }

    function test_bulk_of_sigmoid() public view {
        _check("sigmoid", Functions.sigmoid);
    }

    function test_bulk_of_sin() public view {
        _check("sin", Functions.sin);
    }

    function test_bulk_of_cos() public view {
        _check("cos", Functions.cos);
    }

    function _check(string memory name, function(uint256) pure returns (uint256) f) private view {
        string memory json = vm.readFile(VECTORS);
        bytes memory results = _block(BLOCK);
        uint256 count = _count(json);
        for (uint256 k = 0; k < count; ++k) {
            for (uint256 i = 0; i < BLOCK; ++i) {
                uint256 x = _word(k << 40, i) >> 32;
                // Every other exponent is brought to where most functions do their work.
                if (i & 1 == 1) x = (x & 0x807fffff) | ((112 + ((x >> 23) & 255) % 24) << 23);
                _put(results, i, f(x));
            }
            _close(results);
        }
        _compare(json, "functions", name, results);
    }
}
