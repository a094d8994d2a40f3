// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IFederated} from "../src/interfaces/IFederated.sol";
import {FederatedJob} from "../src/types/FederatedTypes.sol";
import {TestToken} from "../src/TestToken.sol";
import {FederatedHandler} from "./utils/FederatedHandler.sol";
import {Fuzzed} from "./utils/Fuzzed.sol";

/// Where the money of federated jobs is after any calls in any order (test/utils/FederatedHandler.sol makes them).
contract FederatedInvariantsTest is Fuzzed {
    FederatedHandler internal handler;
    IFederated internal federated;
    TestToken internal token;

    function setUp() public {
        handler = new FederatedHandler();
        (address federated_, address token_) = handler.contracts();
        (federated, token) = (IFederated(federated_), TestToken(token_));
    }

    function targetContracts() public view returns (address[] memory) {
        return only(address(handler));
    }

    function targetSelectors() public view returns (FuzzSelector[] memory) {
        bytes4[] memory drawn = new bytes4[](9);
        drawn[0] = FederatedHandler.post.selector;
        drawn[1] = FederatedHandler.close.selector;
        drawn[2] = FederatedHandler.challenge.selector;
        drawn[3] = FederatedHandler.strike.selector;
        drawn[4] = FederatedHandler.settle.selector;
        drawn[5] = FederatedHandler.end.selector;
        drawn[6] = FederatedHandler.withdraw.selector;
        drawn[7] = FederatedHandler.wait.selector;
        drawn[8] = FederatedHandler.object.selector;
        return only(address(handler), drawn);
    }

    function invariant_the_money_of_federated_jobs() public view {
        uint256 held = 0;
        for (uint64 id = 1; id <= federated.count(); ++id) {
            FederatedJob memory j = federated.job(id);
            held += j.held;
            assertTrue(j.settled <= j.closed, "more rounds settled than closed");
            if (j.ended) assertEq(j.held, 0, "all of it, when all is done");
        }
        for (uint256 i = 0; i < 6; ++i) {
            held += federated.credit(handler.actor(i));
        }
        assertEq(token.balanceOf(address(federated)), held, "the contract's balance");
    }
}
