// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ClearLeaf} from "../../src/leaf/clear/ClearLeaf.sol";
import {Test} from "../utils/Test.sol";

/// On a stage that a program holds nothing reverts: not for totals that no fold has, values that no dtype has, elements past the end.
contract ClearLeafTotalTest is Test {
    bytes private constant F = hex"01020000000000000003000000000000000f"; // f32[3, 15]
    bytes private constant I = hex"03020000000000000003000000000000000f"; // i64[3, 15]
    bytes private constant N = hex"02010000000000000003"; // i32[3]

    ClearLeaf private leaf;
    bytes[] private stages;

    function setUp() public {
        leaf = new ClearLeaf();
        bytes memory x = abi.encodePacked(uint32(0), F);
        bytes memory i = abi.encodePacked(uint32(1), I);
        bytes memory n = abi.encodePacked(uint32(2), N);
        bytes memory last = hex"010200000000000000030000000000000001"; // f32[3, 1]
        for (uint8 op = 2; op <= 14; ++op) {
            stages.push(abi.encodePacked(op, uint16(1), x, F));
        }
        for (uint8 op = 15; op <= 20; ++op) {
            stages.push(abi.encodePacked(op, uint16(2), x, x, F));
        }
        stages.push(abi.encodePacked(uint8(17), uint16(2), i, i, I));
        stages.push(abi.encodePacked(uint8(31), uint16(3), i, i, i, I));
        stages.push(abi.encodePacked(uint8(32), uint16(1), x, I, hex"03"));
        stages.push(abi.encodePacked(uint8(32), uint16(1), i, F, hex"01"));
        stages.push(abi.encodePacked(uint8(33), uint16(1), x, last, hex"010101"));
        stages.push(abi.encodePacked(uint8(33), uint16(1), i, hex"030100000000000000030101", hex"00"));
        stages.push(abi.encodePacked(uint8(34), uint16(1), x, last, hex"010101"));
        stages.push(abi.encodePacked(uint8(35), uint16(1), x, F, hex"01"));
        stages.push(abi.encodePacked(uint8(36), uint16(2), x, x, F, hex"17"));
        stages.push(abi.encodePacked(uint8(37), uint16(2), n, x, F, uint64(3)));
        stages.push(abi.encodePacked(uint8(39), uint16(1), x, F, hex"0001"));
        stages.push(abi.encodePacked(uint8(43), uint16(1), x, F, hex"00", uint64(3), uint64(1), uint64(1)));
        stages.push(abi.encodePacked(uint8(44), uint16(1), x, F, hex"00", uint64(3), uint64(1), uint64(1)));
        stages.push(abi.encodePacked(uint8(47), uint16(2), x, n, F));
        stages.push(abi.encodePacked(uint8(48), uint16(2), x, i, F, hex"01"));
        stages.push(abi.encodePacked(uint8(49), uint16(2), x, i, F, hex"01", uint64(7)));
    }

    function testFuzz_nothing_reverts(int256[3] memory t, uint64[3] memory v, uint64 element, uint64 index) public view {
        int256[] memory totals = new int256[](3);
        uint64[] memory values = new uint64[](3);
        for (uint256 k = 0; k < 3; ++k) {
            (totals[k], values[k]) = (t[k], v[k]);
        }
        // Sometimes a total is what one may be.
        if (index & 1 == 0) totals[0] = int256(uint256(uint64(uint256(t[0]))) % 256);
        for (uint256 k = 0; k < stages.length; ++k) {
            bytes memory stage = stages[k];
            uint256 folds = leaf.folds(stage);
            leaf.finish(stage, element, totals, values);
            leaf.needs(stage, element, folds, 0, values);
            for (uint256 fold = 0; fold < folds; ++fold) {
                leaf.range(stage, element, fold);
                leaf.needs(stage, element, fold, index, values);
                leaf.item(stage, element, fold, index, totals, values);
            }
        }
    }
}
