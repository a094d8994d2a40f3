// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Added, FederatedJob, FederatedRound, FederatedTerms, Piece, Sum} from "../types/FederatedTypes.sol";

/// The money of federated jobs (docs/federated.md, "On the chain").
interface IFederated {
    event FederatedPosted(uint64 indexed id, bytes32 indexed job, address indexed host, FederatedTerms terms);
    event RoundClosed(uint64 indexed id, uint32 round, Sum sum, uint64 until);
    event RoundFalse(uint64 indexed id, uint32 round, uint64 index, address challenger, uint128 reward, uint128 burnt);
    event OwnerObjected(uint64 indexed id, uint32 round, uint8 place);
    event OwnerStruck(uint64 indexed id, uint32 round, uint8 place);
    event OwnerPaid(uint64 indexed id, uint32 round, address indexed owner, uint128 amount);
    event RoundSettled(uint64 indexed id, uint32 round, uint128 returned);
    event FederatedEnded(uint64 indexed id, uint128 returned);
    event FederatedWithdrawn(address indexed who, uint128 amount);

    error NoSuchFederated(uint64 id);
    error BadTerm(string name, uint256 value, uint256 least, uint256 most);
    error BadShare(uint256 place);
    error BadTerms(bytes32 terms);
    error NotTheHost(address sender);
    error NotTheAuditor(address sender);
    error IsOver(uint64 id);
    error TooEarly(uint64 notBefore, uint64 now_);
    error TooLate(uint64 notAfter, uint64 now_);
    error BadLength(string name, uint256 length, uint256 most);
    error TooFew(uint256 counted, uint256 least);
    error BadSignature(uint256 place);
    error NoSuchRound(uint32 round);
    error BadSum(bytes32 sum);
    error BadProof();
    error SumIsRight(uint64 index);
    error NotCounted(uint256 place);
    error IsStruck(uint256 place);
    error IsSettled(uint32 round);
    error NotSettled(uint32 settled, uint32 closed);
    error NothingToWithdraw(address who);

    /// Locks the pay of all rounds and the bond.
    function post(FederatedTerms calldata terms) external returns (uint64 id);
    /// The host, for the next round: its sum, with the signature of every owner that is counted (EIP-712, digestOf).
    function close(uint64 id, FederatedTerms calldata terms, Sum calldata sum, bytes[] calldata signatures) external;
    /// Before a challenge whose pieces do not fit one transaction: adds up number `index` of the next rows of those who are counted.
    function add(uint64 id, FederatedTerms calldata terms, uint32 round, Sum calldata sum, uint64 index, Piece[] calldata rows) external;
    /// Anybody, within the window: number `index` of the total is not the sum of that of the rows. `rows` are of those who are counted, behind those
    /// that the sender has added.
    function challenge(
        uint64 id,
        FederatedTerms calldata terms,
        uint32 round,
        Sum calldata sum,
        uint64 index,
        Piece calldata total,
        Piece[] calldata rows
    ) external;
    /// An owner that is counted, within the window: the total is false. When more than half of them say so, the bond is burnt, all of it; nobody
    /// has anything of it. For a total whose numbers the host shows nobody, so that nobody can challenge it.
    function object(uint64 id, FederatedTerms calldata terms, uint32 round, uint8 place) external;
    /// The auditor, within the window: the update that this owner showed is not one that the round's terms allow, or it showed none.
    function strike(uint64 id, FederatedTerms calldata terms, uint32 round, uint8 place) external;
    /// Anybody, after the window: credits the owners that were counted; what is left of the round's pay is the host's.
    function settle(uint64 id, FederatedTerms calldata terms, uint32 round) external;
    /// Anybody, when no round is to come any more and all are settled: what is left is the host's.
    function end(uint64 id, FederatedTerms calldata terms) external;
    function withdraw() external;

    function token() external view returns (address);
    function count() external view returns (uint64);
    function job(uint64 id) external view returns (FederatedJob memory);
    function round(uint64 id, uint32 number) external view returns (FederatedRound memory);
    function credit(address who) external view returns (uint128);
    /// What an account has added up of a number.
    function added(uint64 id, uint32 number, uint64 index, address who) external view returns (Added memory);
    /// What the owner at `place` signs: that this is its row of this round.
    function digestOf(uint64 id, uint32 number, bytes32 terms, uint32 place, bytes32 row) external view returns (bytes32);
}
