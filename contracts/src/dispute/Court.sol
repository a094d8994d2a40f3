// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IDisputesLog} from "../interfaces/IDisputes.sol";
import {IJobs} from "../interfaces/IJobs.sol";
import {IStakes} from "../interfaces/IStakes.sol";
import {Merkle} from "../libraries/Merkle.sol";
import {Dispute, Link, Outcome, Rules, Stand} from "../types/DisputeTypes.sol";
import {Clock} from "./Clock.sol";

/// Storage of Disputes, whose turn it is, and the one way in which a dispute is decided.
///
/// Money: the contract holds, for every dispute that is not paid, `bond + taken`; and `credit`. Every token here is in exactly one of these.
/// What is taken from an asserter is taken when it has lost, so that nothing that happens to the segment meanwhile can free it.
abstract contract Court is IDisputesLog, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    /// Where Stakes burns, too.
    address internal constant BURN = 0x000000000000000000000000000000000000dEaD;

    IJobs internal immutable _jobs;
    IStakes internal immutable _stakes;
    IERC20 internal immutable _token;
    uint32 internal immutable _openWindow;
    uint32 internal immutable _grace;
    uint32 internal immutable _budget;
    uint32 internal immutable _payoutDelay;
    uint128 internal immutable _bond;
    address internal immutable _guardian;

    uint64 public disputeCount;
    mapping(uint64 id => Dispute) internal _disputes;
    mapping(address who => uint128) public credit;

    constructor(address jobs_, Rules memory r) {
        if (r.openWindow == 0 || r.grace == 0 || r.bond == 0) revert BadRules();
        _jobs = IJobs(jobs_);
        _stakes = IStakes(_jobs.stakes());
        _token = IERC20(_stakes.token());
        (_openWindow, _grace, _budget, _payoutDelay) = (r.openWindow, r.grace, r.budget, r.payoutDelay);
        (_bond, _guardian) = (r.bond, r.guardian);
    }

    function jobs() external view returns (address) {
        return address(_jobs);
    }

    function rules() public view returns (Rules memory) {
        return Rules(_openWindow, _grace, _budget, _payoutDelay, _bond, _guardian);
    }

    // ---- turns ---------------------------------------------------------------------------------------------------------------

    function _dispute(uint64 id) internal view returns (Dispute storage d) {
        d = _disputes[id];
        if (d.stand == Stand.NONE) revert NoSuchDispute(id);
    }

    /// The dispute, where it is the sender's turn to make the move of `stand`; its clock is charged.
    function _turn(uint64 id, Stand stand, bool asserting) internal returns (Dispute storage d) {
        d = _disputes[id];
        if (d.stand != stand) revert WrongTurn(id, d.stand, d.asserting);
        _charge(id, d, asserting);
    }

    function _charge(uint64 id, Dispute storage d, bool asserting) internal {
        if (d.asserting != asserting) revert WrongTurn(id, d.stand, d.asserting);
        address player = asserting ? d.asserter : d.challenger;
        if (msg.sender != player) revert NotPlayer(msg.sender, player);
        if (asserting) {
            d.asserterBudget = Clock.spend(d.since, _grace, d.asserterBudget);
            d.moved = true;
        } else {
            d.challengerBudget = Clock.spend(d.since, _grace, d.challengerBudget);
        }
    }

    /// It is the turn of `asserting` to make the move of `stand`.
    function _next(uint64 id, Dispute storage d, Stand stand, bool asserting) internal {
        d.stand = stand;
        d.asserting = asserting;
        d.since = uint40(block.timestamp);
        // an account with code (EIP-7702) may have called itself: then the transaction's calldata are not the move's
        bool own = msg.sender == tx.origin && msg.sender.code.length == 0;
        emit Moved(id, stand, asserting, _due(d), own ? msg.data[:0] : msg.data);
    }

    function _due(Dispute storage d) internal view returns (uint256) {
        if (d.stand == Stand.RESOLVED) return uint256(d.since) + _payoutDelay;
        if (d.stand == Stand.SEALED) return uint256(d.since) + _openWindow;
        return Clock.due(d.since, _grace, d.asserting ? d.asserterBudget : d.challengerBudget);
    }

    /// Starts a walk over a tree of `count` leaves at its root, whose children the asserter has brought.
    function _enter(uint64 id, Dispute storage d, Stand stand, bytes32 root, uint64 count) internal {
        d.node = root;
        d.index = 0;
        d.count = count;
        d.height = uint8(Merkle.depth(count));
        _next(id, d, stand, false);
    }

    // ---- what has been shown -----------------------------------------------------------------------------------------------------

    function _facts(bytes32 link, bytes32 stage, bytes32 totals) internal pure returns (bytes32) {
        return keccak256(abi.encode(link, stage, totals));
    }

    function _needFacts(Dispute storage d, bytes32 link, bytes32 stage, bytes32 totals) internal view {
        bytes32 seen = _facts(link, stage, totals);
        if (seen != d.facts) revert BadFacts(d.facts, seen);
    }

    function _needLink(Dispute storage d, Link calldata link) internal view {
        _needFacts(d, keccak256(abi.encode(link)), 0, 0);
    }

    function _isUpdate(Link calldata link) internal pure returns (bool) {
        return link.m == link.micros;
    }

    // ---- decision --------------------------------------------------------------------------------------------------------------

    /// The dispute is over. What the asserter loses comes here at once and is paid after the delay; a segment whose provider has lost
    /// is rejected at once, one whose provider has won waits for the payment.
    function _resolve(uint64 id, Dispute storage d, Outcome outcome) internal {
        (uint64 segment, address asserter) = (d.segment, d.asserter);
        (d.stand, d.outcome, d.since) = (Stand.RESOLVED, outcome, uint40(block.timestamp));
        bool fell = outcome == Outcome.ASSERTER_LOST || outcome == Outcome.CONCEDED;
        uint128 taken = 0;
        if (fell) {
            uint128 reserved = _stakes.reservation(asserter, segment);
            taken = outcome == Outcome.CONCEDED ? reserved / 2 : reserved;
            d.taken = taken;
        }
        emit DisputeResolved(id, segment, outcome, taken, uint256(d.since) + _payoutDelay);
        if (taken > 0) _stakes.slash(asserter, segment, taken, 0);
        if (d.target == 1) _jobs.voteResolved(segment, d.round, asserter, fell);
        if (fell) _jobs.disputeResolved(segment, d.target == 0);
        if (outcome == Outcome.VOID) _pay(id, d, true);
    }

    /// Credits and burns all that the dispute holds, by its outcome; lets the segment go if it still waits.
    function _pay(uint64 id, Dispute storage d, bool waits) internal {
        (uint128 bond, uint128 taken, Outcome outcome) = (d.bond, d.taken, d.outcome);
        d.stand = Stand.PAID;
        uint128 toAsserter = 0;
        uint128 toChallenger = 0;
        if (outcome == Outcome.ASSERTER_WON) toAsserter = bond - bond / 2;
        else if (outcome == Outcome.ASSERTER_LOST) toChallenger = bond + taken - taken / 2;
        else if (outcome == Outcome.CONCEDED) toChallenger = bond;
        else (toAsserter, toChallenger) = (taken, bond);
        uint128 burnt = bond + taken - toAsserter - toChallenger;
        emit DisputePaid(id, outcome, toAsserter, toChallenger, burnt);
        _credit(d.asserter, id, toAsserter);
        _credit(d.challenger, id, toChallenger);
        if (waits) {
            if (outcome == Outcome.VOID && d.target == 0) _jobs.disputeVoided(d.segment);
            else _jobs.disputeResolved(d.segment, false);
        }
        if (burnt > 0) _token.safeTransfer(BURN, burnt);
    }

    function _credit(address who, uint64 id, uint128 amount) private {
        if (amount == 0) return;
        credit[who] += amount;
        emit DisputeCredited(who, id, amount);
    }
}
