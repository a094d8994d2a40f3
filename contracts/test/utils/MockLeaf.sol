// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ILeaf, Need, Rule} from "../../src/interfaces/ILeaf.sol";
import {ProgramView} from "../../src/dispute/ProgramView.sol";

/// A leaf with four operations on 32-bit integers: 15 adds, 17 multiplies by a scalar, 33 adds all elements and the largest low byte (two
/// folds), 36 is a matrix product (two largest low bytes and a sum). It stands for the real ones where the game is tested, not the arithmetic.
contract MockLeaf is ILeaf {
    error UnknownOp(uint8 op);

    function folds(bytes calldata stage) public pure returns (uint256 count) {
        uint8 op = uint8(stage[0]);
        if (op == 33) return 2;
        if (op == 36) return 3;
        if (op != 15 && op != 17) revert UnknownOp(op);
    }

    function range(bytes calldata stage, uint64, uint256 fold) external pure virtual returns (uint64 items, Rule rule) {
        (, bytes memory t) = ProgramView.operand(stage, 0);
        items = uint8(stage[0]) == 36 ? uint64(ProgramView.number(t, 10, 8)) : ProgramView.elements(t);
        rule = fold == folds(stage) - 1 ? Rule.SUM : Rule.LARGEST;
    }

    function needs(bytes calldata stage, uint64 element, uint256 fold, uint64 index, uint64[] calldata)
        external
        pure
        virtual
        returns (Need[] memory wanted)
    {
        if (folds(stage) == 0) {
            wanted = new Need[](2);
            wanted[0] = Need(0, element);
            wanted[1] = Need(1, uint8(stage[0]) == 17 ? 0 : element);
        } else if (uint8(stage[0]) == 36 && fold < 3) {
            (, bytes memory t) = ProgramView.operand(stage, 1);
            uint64 columns = uint64(ProgramView.number(t, 10, 8));
            wanted = new Need[](2);
            wanted[0] = Need(0, element / columns * uint64(ProgramView.number(t, 2, 8)) + index);
            wanted[1] = Need(1, index * columns + element % columns);
        } else if (fold < 2) {
            wanted = new Need[](1);
            wanted[0] = Need(0, index);
        }
    }

    function item(bytes calldata stage, uint64, uint256 fold, uint64, int256[] calldata, uint64[] calldata values)
        external
        pure
        virtual
        returns (int256)
    {
        if (uint8(stage[0]) == 36 && fold == 2) return int256(uint256(values[0] & 0xffff) * uint256(values[1] & 0xffff));
        return int256(uint256(fold == 0 ? values[0] & 0xff : values[0]));
    }

    function finish(bytes calldata stage, uint64, int256[] calldata totals, uint64[] calldata values)
        public
        pure
        virtual
        returns (uint64 bits)
    {
        uint8 op = uint8(stage[0]);
        if (op == 36) return uint32(uint256(totals[2]));
        if (op == 33) return uint32(uint256(totals[0] + totals[1]));
        return op == 15 ? uint32(values[0] + values[1]) : uint32(values[0] * values[1]);
    }
}

/// Another program with the same results.
contract TwinLeaf is MockLeaf {
    function twin() external pure returns (bool) {
        return true;
    }
}

/// One that differs in everything that can be asked of it, but for what it needs.
contract OddLeaf is MockLeaf {
    function range(bytes calldata, uint64, uint256) external pure override returns (uint64, Rule) {
        return (299, Rule.LARGEST);
    }

    function item(bytes calldata, uint64, uint256, uint64, int256[] calldata, uint64[] calldata) external pure override returns (int256) {
        return -1;
    }

    function finish(bytes calldata, uint64, int256[] calldata, uint64[] calldata) public pure override returns (uint64) {
        return 1 << 40;
    }
}
