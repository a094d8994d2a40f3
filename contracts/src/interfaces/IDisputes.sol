// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// The contract that decides disputes. It is bound once, when the contracts are set up, and is the only one that may call
/// IJobs.disputeOpened / disputeResolved / clearBond and IStakes.slash. Jobs and Stakes never call it.
interface IDisputes {
    /// Whether this contract can ever open a dispute.
    function disputable() external view returns (bool);
}
