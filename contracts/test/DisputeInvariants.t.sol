// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Outcome} from "../src/types/DisputeTypes.sol";
import {DisputeHandler} from "./utils/DisputeHandler.sol";
import {Fuzzed} from "./utils/Fuzzed.sol";

/// What holds after any calls in any order, over disputes (test/utils/DisputeHandler.sol makes them, and checks what holds over each one).
/// FOUNDRY_PROFILE=slow makes a million calls.
contract DisputeInvariantsTest is Fuzzed {
    DisputeHandler internal handler;

    function setUp() public {
        handler = new DisputeHandler();
        assertTrue(bytes(handler.fault()).length == 0, handler.fault());
    }

    function targetContracts() public view returns (address[] memory) {
        return only(address(handler));
    }

    function targetSelectors() public view returns (FuzzSelector[] memory) {
        bytes4[20] memory all = [
            DisputeHandler.seal.selector,
            DisputeHandler.seal.selector,
            DisputeHandler.play.selector,
            DisputeHandler.play.selector,
            DisputeHandler.play.selector,
            DisputeHandler.play.selector,
            DisputeHandler.play.selector,
            DisputeHandler.play.selector,
            DisputeHandler.play.selector,
            DisputeHandler.play.selector,
            DisputeHandler.meddle.selector,
            DisputeHandler.meddle.selector,
            DisputeHandler.timeout.selector,
            DisputeHandler.concede.selector,
            DisputeHandler.pay.selector,
            DisputeHandler.pay.selector,
            DisputeHandler.declareVoid.selector,
            DisputeHandler.withdraw.selector,
            DisputeHandler.clear.selector,
            DisputeHandler.wait.selector
        ];
        bytes4[] memory drawn = new bytes4[](all.length);
        for (uint256 i = 0; i < all.length; ++i) {
            drawn[i] = all[i];
        }
        return only(address(handler), drawn);
    }

    /// A revert of the handler itself would hide what it has seen.
    /// forge-config: default.invariant.fail-on-revert = true
    function invariant_disputes() public {
        handler.holds();
        assertTrue(bytes(handler.fault()).length == 0, handler.fault());
    }

    /// The handler does get everywhere: every outcome is reached by its calls, and moves are refused.
    function test_the_handler_reaches_every_outcome() public {
        uint256 seed = 7;
        bytes4[] memory selectors = targetSelectors()[0].selectors;
        for (uint256 i = 0; i < 900; ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            (bool done,) = address(handler).call(abi.encodeWithSelector(selectors[seed % selectors.length], seed >> 8));
            assertTrue(done, "a call of the handler");
            if (i % 50 == 49) this.invariant_disputes();
        }
        for (uint256 outcome = uint256(Outcome.ASSERTER_WON); outcome <= uint256(Outcome.VOID); ++outcome) {
            assertTrue(handler.reached(outcome) > 0, string.concat("reached outcome ", vm.toString(outcome)));
        }
        assertTrue(handler.movesMade() > 100 && handler.refusals() > 50, "moves and refusals");
    }
}
