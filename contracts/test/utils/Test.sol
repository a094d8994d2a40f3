// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Vm} from "./Vm.sol";

/// What a test needs: the cheat codes and a few assertions that say what they saw.
abstract contract Test {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));
    bool public constant IS_TEST = true;

    error Unequal(string what, uint256 seen, uint256 expected);
    error UnequalBytes(string what, bytes32 seen, bytes32 expected);
    error UnequalAddress(string what, address seen, address expected);
    error Untrue(string what);

    function assertEq(uint256 seen, uint256 expected, string memory what) internal pure {
        if (seen != expected) revert Unequal(what, seen, expected);
    }

    function assertEq(bytes32 seen, bytes32 expected, string memory what) internal pure {
        if (seen != expected) revert UnequalBytes(what, seen, expected);
    }

    function assertEq(address seen, address expected, string memory what) internal pure {
        if (seen != expected) revert UnequalAddress(what, seen, expected);
    }

    function assertTrue(bool value, string memory what) internal pure {
        if (!value) revert Untrue(what);
    }

    function bound(uint256 x, uint256 least, uint256 most) internal pure returns (uint256) {
        return least + x % (most - least + 1);
    }
}
