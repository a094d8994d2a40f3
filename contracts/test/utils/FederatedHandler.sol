// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {FederatedTerms, Piece, Sum} from "../../src/types/FederatedTypes.sol";
import {Summed} from "./Summed.sol";

/// Everything that anybody may do with federated jobs, in any order. What is refused changes nothing.
contract FederatedHandler is Summed {
    FederatedTerms[] internal all;
    Sum internal right;
    Sum internal few;
    Sum internal wrong;
    mapping(uint64 id => mapping(uint32 number => bool)) internal isWrong;

    constructor() {
        setUp();
        (right, few, wrong) = (summed(64, 15, LENGTH, 0), summed(64, 13, LENGTH, 0), summed(64, 15, 3, 1));
    }

    function contracts() external view returns (address, address) {
        return (address(federated), address(token));
    }

    function actor(uint256 i) public view returns (address) {
        return i < OWNERS ? owner(i) : i == OWNERS ? host : stranger;
    }

    function _job(uint256 x) private returns (uint64) {
        vm.warp(timeNow);
        if (all.length == 0) post(x);
        return uint64(bound(x, 1, all.length));
    }

    function post(uint256 x) public {
        vm.warp(timeNow);
        if (all.length >= 4) return;
        FederatedTerms memory t = terms();
        (t.pay, t.bond, t.rounds) = (uint96(bound(x, 1, 1e9)), uint96(bound(x >> 64, 1, 1e9)), uint32(bound(x >> 128, 1, 4)));
        posted(t);
        all.push(t);
    }

    function close(uint256 x, uint256 y) external {
        uint64 id = _job(x);
        uint32 number = federated.job(id).closed;
        closed(id, all[id - 1], y % 3 == 0 ? right : y % 3 == 1 ? few : wrong);
        isWrong[id][number] = y % 3 == 2;
    }

    function challenge(uint256 x, uint256 y) external {
        uint64 id = _job(x);
        uint32 number = uint32(y % (federated.job(id).closed + 1));
        bool bent = isWrong[id][number];
        Piece memory total = totalPiece(64, 15, 3, bent ? 1 : 0, 3);
        Piece[] memory rows = pieces(64, 15, 3);
        vm.prank(stranger);
        federated.challenge(id, all[id - 1], number, bent ? wrong : right, 3, total, rows);
    }

    function object(uint256 x, uint256 y, uint8 place) external {
        uint64 id = _job(x);
        vm.prank(owner(place % 4));
        federated.object(id, all[id - 1], uint32(y % (federated.job(id).closed + 1)), place % 4);
    }

    function strike(uint256 x, uint256 y, uint8 place) external {
        uint64 id = _job(x);
        vm.prank(auditor);
        federated.strike(id, all[id - 1], uint32(y % (federated.job(id).closed + 1)), place % 4);
    }

    function settle(uint256 x, uint256 y) external {
        uint64 id = _job(x);
        federated.settle(id, all[id - 1], uint32(y % (federated.job(id).closed + 1)));
    }

    function end(uint256 x) external {
        uint64 id = _job(x);
        federated.end(id, all[id - 1]);
    }

    function withdraw(uint256 x) external {
        vm.prank(actor(x % 6));
        federated.withdraw();
    }

    function wait(uint256 x) external {
        pass(bound(x, 1, 2 hours));
    }
}
