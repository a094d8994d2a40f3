// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Offer} from "../types/Types.sol";

/// Who may place a job's segments when its scheduler is silent, and with whom (docs/scheduler.md, "When a scheduler is gone").
interface ITakeovers {
    event Entrusted(address indexed client, bytes32 indexed specDigest, address scheduler, uint32 patience, address[] providers);

    error BadTerm(string name, uint256 value, uint256 least, uint256 most);
    error AlreadyEntrusted(address client, bytes32 specDigest);
    error NotEntrusted(uint64 job);
    error NotEntitledToAssign(address sender, uint64 anyoneAfter);
    error WrongProviders(bytes32 kept);
    error NotListed(address provider);

    /// For the job that the sender will post, or has posted, with this document: `scheduler` places it with anybody; once a range has been open
    /// for more than `patience` seconds, anybody places it, with one of `providers`.
    function entrust(bytes32 specDigest, address scheduler, uint32 patience, address[] calldata providers) external;

    /// `IJobs.assign` for a job whose scheduler, by its terms, is this contract. `providers` is the list that was entrusted; the job's scheduler need not bring it.
    function assign(Offer calldata offer, bytes calldata signature, address[] calldata providers) external returns (uint64 segmentId);

    function plan(address client, bytes32 specDigest) external view returns (address scheduler, uint32 patience, bytes32 providers);
}
