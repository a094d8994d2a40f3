// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// A single element of an operand of a stage, in C order.
struct Need {
    uint16 operand;
    uint64 element;
}

/// The total of a fold's items, or of the totals of its parts; a wrapping sum is modulo 2^64, in -2^63..2^63-1.
enum Rule {
    LARGEST,
    SUM,
    WRAPPING_SUM
}

/// One element of a stage's output, decided from single elements of its operands (docs/dispute.md, "One element"). `stage` is the
/// stage's bytes; a value is its raw bits, an i32 zero-extended; totals and items are those of the folds of the page's table.
/// An implementation reverts only for a stage that no checked program holds.
interface ILeaf {
    /// 0: CONST, MAP, MOVE
    function folds(bytes calldata stage) external pure returns (uint256 count);
    function range(bytes calldata stage, uint64 element, uint256 fold) external pure returns (uint64 items, Rule rule);

    /// What an item (or, with fold == folds(stage), the output) needs, given the values of the needs found so far; it is complete
    /// when it names no more than `values` has. It never names two elements of one operand.
    function needs(bytes calldata stage, uint64 element, uint256 fold, uint64 index, uint64[] calldata values)
        external
        pure
        returns (Need[] memory);
    function item(
        bytes calldata stage,
        uint64 element,
        uint256 fold,
        uint64 index,
        int256[] calldata totals,
        uint64[] calldata values
    ) external pure returns (int256);
    function finish(bytes calldata stage, uint64 element, int256[] calldata totals, uint64[] calldata values)
        external
        pure
        returns (uint64 bits);
}
