// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Bounty, BountyTerms, Entry} from "../types/BountyTypes.sol";
import {SegmentState} from "../types/Types.sol";

/// Payment by result (docs/protocol.md, "Bounties").
interface IBounties {
    event BountyOffered(uint64 indexed bounty, uint64 indexed job, address indexed sponsor, BountyTerms terms);
    event BountyBegun(uint64 indexed bounty, uint64 last, uint64 until);
    event BountyShown(uint64 indexed bounty, uint64 segment, uint64 value, uint128 reached);
    event BountyPaid(uint64 indexed bounty, uint64 segment, address indexed provider, uint128 amount);
    event BountyReturned(uint64 indexed bounty, uint128 amount);
    event BountyWithdrawn(address indexed who, uint128 amount);

    error NoSuchBounty(uint64 bounty);
    error BadTerm(string name, uint256 value, uint256 least, uint256 most);
    error BadRungs(uint256 index);
    error BadTerms(bytes32 terms);
    error JobIsLive(uint64 job, uint32 segments);
    error NotTheLast(uint64 segment);
    error HasBegun(uint64 bounty);
    error NotBegun(uint64 bounty);
    error TooEarly(uint64 notBefore, uint64 now_);
    error TooLate(uint64 notAfter, uint64 now_);
    error WrongState(uint64 segment, SegmentState state);
    error NotTheEvaluation(uint64 job, string what);
    error BadProof();
    error BadLength(string name, uint256 length, uint256 most);
    error NotOfTheJob(uint64 segment, uint64 job);
    error IsPaid(uint64 bounty, uint64 segment);
    error IsReturned(uint64 bounty);
    error NothingToWithdraw(address who);

    /// Locks what the last rung pays.
    function offer(BountyTerms calldata terms) external returns (uint64 bounty);
    /// The training is over: `last` is the last of its segments that has settled, 0 if none has.
    function begin(uint64 bounty, uint64 last) external;
    /// The result of a settled evaluation: `value` is the metric's bits, `path` leads from its entry to the entries' root of the last state;
    /// `trained` are the entries of the state that the training ended in.
    function show(
        uint64 bounty,
        BountyTerms calldata terms,
        uint64 segment,
        Entry[] calldata trained,
        uint64 value,
        bytes32[] calldata path
    ) external;
    /// Credits the providers of settled segments of the training with their share, by links.
    function collect(uint64 bounty, uint64[] calldata segments) external;
    /// Credits the sponsor with what the result has not earned.
    function giveBack(uint64 bounty) external;
    function withdraw() external;

    function jobs() external view returns (address);
    function token() external view returns (address);
    function bountyCount() external view returns (uint64);
    function bounty(uint64 id) external view returns (Bounty memory);
    /// What is paid to providers in all, once that is decided; until then it reverts with TooEarly or NotBegun.
    function earned(uint64 id) external view returns (uint128);
    function paid(uint64 id, uint64 segment) external view returns (bool);
    function credit(address who) external view returns (uint128);
}
