// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Test} from "./Test.sol";

/// What forge asks of a test of invariants: which contract it may call, and which of its functions (one named twice is drawn twice as often).
abstract contract Fuzzed is Test {
    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    function only(address handler) internal pure returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = handler;
    }

    function only(address handler, bytes4[] memory drawn) internal pure returns (FuzzSelector[] memory targets) {
        targets = new FuzzSelector[](1);
        targets[0] = FuzzSelector(handler, drawn);
    }
}
