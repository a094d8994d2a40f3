// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// A player's clock: every move may take `grace`, what it takes beyond that draws on a budget for all its moves together.
library Clock {
    error TooLate(uint256 due, uint256 now_);
    error TooEarly(uint256 due, uint256 now_);

    function due(uint40 since, uint32 grace, uint32 budget) internal pure returns (uint256) {
        return uint256(since) + grace + budget;
    }

    /// The budget after a move now. Reverts when it is spent.
    function spend(uint40 since, uint32 grace, uint32 budget) internal view returns (uint32) {
        uint256 limit = due(since, grace, budget);
        if (block.timestamp > limit) revert TooLate(limit, block.timestamp);
        uint256 free = uint256(since) + grace;
        return block.timestamp <= free ? budget : uint32(limit - block.timestamp);
    }
}
