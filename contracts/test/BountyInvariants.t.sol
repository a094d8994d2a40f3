// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IBounties} from "../src/interfaces/IBounties.sol";
import {Bounty} from "../src/types/BountyTypes.sol";
import {TestToken} from "../src/TestToken.sol";
import {BountyHandler} from "./utils/BountyHandler.sol";
import {Fuzzed} from "./utils/Fuzzed.sol";

/// Where the money of bounties is after any calls in any order (test/utils/BountyHandler.sol makes them).
contract BountyInvariantsTest is Fuzzed {
    BountyHandler internal handler;
    IBounties internal bounties;
    TestToken internal token;

    function setUp() public {
        handler = new BountyHandler();
        (address bounties_, address token_) = handler.contracts();
        (bounties, token) = (IBounties(bounties_), TestToken(token_));
    }

    function targetContracts() public view returns (address[] memory) {
        return only(address(handler));
    }

    function targetSelectors() public view returns (FuzzSelector[] memory) {
        bytes4[] memory drawn = new bytes4[](7);
        drawn[0] = BountyHandler.offer.selector;
        drawn[1] = BountyHandler.begin.selector;
        drawn[2] = BountyHandler.showOne.selector;
        drawn[3] = BountyHandler.collect.selector;
        drawn[4] = BountyHandler.giveBack.selector;
        drawn[5] = BountyHandler.withdraw.selector;
        drawn[6] = BountyHandler.wait.selector;
        return only(address(handler), drawn);
    }

    function invariant_the_money_of_bounties() public view {
        uint256 held = 0;
        for (uint64 id = 1; id <= bounties.bountyCount(); ++id) {
            Bounty memory b = bounties.bounty(id);
            uint256 gone = handler.creditedOf(id);
            assertTrue(gone <= b.amount, "more credited than was locked");
            held += b.amount - gone;
            uint256 due = b.until == 0 ? 0 : b.shown ? b.reached : b.amount;
            assertTrue(handler.paidOf(id) <= due, "more than was earned");
            if (b.returned && handler.allPaid(id)) assertEq(gone, b.amount, "all of it, when all is done");
        }
        for (uint256 i = 0; i < handler.count(); ++i) {
            held += bounties.credit(handler.actor(i));
        }
        assertEq(token.balanceOf(address(bounties)), held, "the contract's balance");
    }
}
