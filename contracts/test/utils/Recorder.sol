// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IDisputeGame} from "../../src/interfaces/IDisputes.sol";
import {Vm} from "./Vm.sol";

/// Stands before the game and writes down every move that it takes: who made it, and its calldata.
contract Recorder {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));
    address internal immutable game;
    bytes[] public moves;
    bool[] public asserting;

    constructor(address game_) {
        game = game_;
    }

    function count() external view returns (uint256) {
        return moves.length;
    }

    fallback() external {
        bool look = msg.sig == IDisputeGame.dispute.selector || msg.sig == IDisputeGame.dueOf.selector;
        if (!look) {
            moves.push(msg.data);
            asserting.push(IDisputeGame(game).dispute(uint64(uint256(bytes32(msg.data[4:36])))).asserter == msg.sender);
            vm.prank(msg.sender);
        }
        (bool done, bytes memory out) = game.call(msg.data);
        require(done, "a recorded move is legal");
        assembly {
            return(add(out, 32), mload(out))
        }
    }
}
