// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IDisputesLog} from "../interfaces/IDisputes.sol";
import {IJobs} from "../interfaces/IJobs.sol";
import {IStakes} from "../interfaces/IStakes.sol";
import {Merkle} from "../libraries/Merkle.sol";
import {Game, Link, Outcome, Rules, Shown, Stand} from "../types/DisputeTypes.sol";
import {Turn} from "../types/Turn.sol";
import {Clock} from "./Clock.sol";
import {Openings} from "./Openings.sol";
import {ProgramView} from "./ProgramView.sol";
import {Walk} from "./Walk.sol";

/// Storage of Disputes, whose turn it is, and the one way in which a dispute is decided.
///
/// Money: the contract holds, for every dispute that is not paid, `bond + taken`; and `credit`. Every token here is in exactly one of these.
/// What is taken from an asserter is taken when it has lost, so that nothing that happens to the segment meanwhile can free it.
abstract contract Court is IDisputesLog, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    /// Where Stakes burns, too.
    address internal constant BURN = 0x000000000000000000000000000000000000dEaD;
    /// As many as a chunk has bytes.
    uint256 internal constant MOST_SHOWN = 1024;

    IJobs internal immutable _jobs;
    IStakes internal immutable _stakes;
    IERC20 internal immutable _token;
    uint32 internal immutable _openWindow;
    uint32 internal immutable _grace;
    uint32 internal immutable _budget;
    uint32 internal immutable _payoutDelay;
    uint128 internal immutable _bond;
    uint32 internal immutable _pardonAfter;
    address internal immutable _guardian;

    uint64 public disputeCount;
    mapping(uint64 id => Game) internal _games;
    mapping(address who => uint128) public credit;
    mapping(uint64 id => Shown) internal _records;

    constructor(address jobs_, Rules memory r) {
        if (r.openWindow == 0 || r.grace == 0 || r.bond == 0) revert BadRules();
        _jobs = IJobs(jobs_);
        _stakes = IStakes(_jobs.stakes());
        _token = IERC20(_stakes.token());
        (_openWindow, _grace, _budget, _payoutDelay) = (r.openWindow, r.grace, r.budget, r.payoutDelay);
        (_bond, _pardonAfter, _guardian) = (r.bond, r.pardonAfter, r.guardian);
    }

    function jobs() external view returns (address) {
        return address(_jobs);
    }

    function rules() public view returns (Rules memory) {
        return Rules(_openWindow, _grace, _budget, _payoutDelay, _bond, _pardonAfter, _guardian);
    }

    // ---- turns ---------------------------------------------------------------------------------------------------------------

    function _game(uint64 id) internal view returns (Game storage g, Turn t) {
        g = _games[id];
        t = g.turn;
        if (t.stand() == Stand.NONE) revert NoSuchDispute(id);
    }

    /// The dispute, where it is the sender's turn to make the move of `stand`; its clock is charged in `t`, which a caller stores.
    function _turn(uint64 id, Stand stand, bool asserting) internal view returns (Game storage g, Turn t) {
        g = _games[id];
        t = g.turn;
        if (t.stand() != stand) revert WrongTurn(id, t.stand(), t.asserting());
        t = _charge(id, g, t, asserting);
    }

    function _charge(uint64 id, Game storage g, Turn t, bool asserting) internal view returns (Turn) {
        if (t.asserting() != asserting) revert WrongTurn(id, t.stand(), !asserting);
        address player = asserting ? g.asserter : g.challenger;
        if (msg.sender != player) revert NotPlayer(msg.sender, player);
        t = _spend(t, asserting);
        return asserting ? t.withMoved() : t;
    }

    /// The clock of a side, charged.
    function _spend(Turn t, bool asserting) internal view returns (Turn) {
        return t.withBudget(asserting, Clock.spend(t.since(), _grace, t.budget(asserting)));
    }

    /// It is the turn of `asserting` to make the move of `stand`: to show a trace when it has had the time to replay the link.
    function _next(uint64 id, Game storage g, Turn t, Stand stand, bool asserting) internal {
        uint256 since = block.timestamp + (stand == Stand.TRACED ? t.allowance() : 0);
        g.turn = t = t.awaiting(stand, asserting, uint40(since));
        // an account with code (EIP-7702) may have called itself: then the transaction's calldata are not the move's
        bool own = msg.sender == tx.origin && msg.sender.code.length == 0;
        uint256 awaited = uint256(uint8(stand)) | (asserting ? 1 << 8 : 0) | ((since + _grace + t.budget(asserting)) << 16);
        bytes32 topic = Moved.selector;
        assembly ("memory-safe") {
            let free := mload(0x40)
            mstore(free, awaited)
            let size := mul(calldatasize(), iszero(own))
            calldatacopy(add(free, 32), 0, size)
            log2(free, add(32, size), topic, id)
        }
    }

    function _due(Turn t) internal view returns (uint256) {
        if (t.stand() == Stand.RESOLVED) return uint256(t.since()) + _payoutDelay;
        if (t.stand() == Stand.SEALED) return uint256(t.since()) + _openWindow;
        return Clock.due(t.since(), _grace, t.budget(t.asserting()));
    }

    /// Starts a walk over a tree of `count` leaves at its root, whose children the asserter has brought. `size`: as in Game.
    function _enter(uint64 id, Game storage g, Turn t, Stand stand, bytes32 root, uint64 count, uint64 size, bytes32[] calldata children)
        internal
    {
        uint256 height = Merkle.depth(count);
        Walk.needChildren(root, height, children);
        (g.node, g.size) = (root, size);
        _next(id, g, t.withHeight(height).withIndex(0), stand, false);
    }

    /// Starts a walk over the chunks of a tensor.
    function _enterTensor(uint64 id, Game storage g, Turn t, bytes memory kind, bytes32 root, bytes32[] calldata children) internal {
        (uint64 elements, uint8 width) = (ProgramView.elements(kind), ProgramView.width(kind));
        _enter(id, g, t.withWidth(width), Stand.CHUNKS, root, Openings.chunksOf(elements, width), elements, children);
    }

    // ---- what has been shown -----------------------------------------------------------------------------------------------------

    function _facts(bytes32 link, bytes32 stage, bytes32 totals) internal pure returns (bytes32) {
        return keccak256(abi.encode(link, stage, totals));
    }

    function _needFacts(Game storage g, bytes32 link, bytes32 stage, bytes32 totals) internal view {
        bytes32 seen = _facts(link, stage, totals);
        if (seen != g.facts) revert BadFacts(g.facts, seen);
    }

    function _needLink(Game storage g, Link calldata link) internal view returns (bytes32 hash) {
        hash = _hash(link);
        _needFacts(g, hash, 0, 0);
    }

    /// keccak256(abi.encode(link)): of the bytes as they came, for none but the right ones can have the hash that is kept.
    function _hash(Link calldata link) internal pure returns (bytes32 hash) {
        assembly ("memory-safe") {
            let free := mload(0x40)
            calldatacopy(free, link, 416)
            hash := keccak256(free, 416)
        }
    }

    /// Bits of the named element: known, or in the chunk that was pointed at.
    function _claimed(Game storage g, Turn t, bytes calldata chunk) internal view returns (uint64) {
        if (t.claimed()) {
            Openings.need(chunk.length == 0, "no chunk where it has been shown");
            return uint64(uint256(g.node));
        }
        (uint64 element, uint8 width) = (t.index(), t.width());
        Openings.needChunk(g.node, uint64(uint256(element) * width / Openings.CHUNK), g.size, width, chunk);
        return Openings.inChunk(chunk, element, width);
    }

    /// Number of a link's micro-batch in the training.
    function _microOf(Link calldata l) internal pure returns (uint256) {
        return uint256(l.step) * l.micros + l.m;
    }

    /// A chunk of a field of batch `micro` has been shown, the one with `element`: notes whose bytes it holds. `kind`: of the field.
    function _showField(uint64 id, uint256 micro, bytes memory kind, uint64 element) internal {
        uint256 batch = _batchOf(kind);
        _show(id, micro * batch, batch, ProgramView.elements(kind), ProgramView.width(kind), element);
    }

    /// Records of a batch, of the type of a field of it.
    function _batchOf(bytes memory kind) internal pure returns (uint256) {
        return kind.length > 2 ? ProgramView.number(kind, 2, 8) : 1;
    }

    /// `base`: place of the batch's first record; nothing here may revert, or who must show it could not.
    function _show(uint64 id, uint256 base, uint256 batch, uint256 elements, uint256 width, uint256 element) internal {
        if (batch == 0 || elements < batch) return;
        uint256 each = elements / batch;
        uint256 from = element * width / Openings.CHUNK * Openings.CHUNK / width;
        uint256 end = from + Openings.CHUNK / width;
        if (end > elements) end = elements;
        uint256 first = base + from / each;
        end = base + (end - 1) / each + 1;
        Shown storage s = _records[id];
        if (s.count > 0) {
            (uint256 first_, uint256 end_) = (s.first, uint256(s.first) + s.count);
            if (first_ <= first && end <= end_) return;
            if (first_ < first) first = first_;
            if (end_ > end) end = end_;
        }
        uint256 count = end - first;
        if (count > MOST_SHOWN) count = MOST_SHOWN;
        (s.first, s.count) = (uint64(first), uint32(count));
        emit RecordsShown(id, uint64(first), uint32(count));
    }

    function _isUpdate(Link calldata link) internal pure returns (bool) {
        return link.m == link.micros;
    }

    // ---- decision --------------------------------------------------------------------------------------------------------------

    /// What a challenger locks. Saturates.
    function _bondOf(uint8 doublings) internal view returns (uint128) {
        uint256 bond = uint256(_bond) << doublings;
        return bond > type(uint128).max ? type(uint128).max : uint128(bond);
    }

    /// The dispute is over. What the asserter loses comes here at once and is paid after the delay; a segment whose provider has lost
    /// is rejected at once, one whose provider has won waits for the payment.
    function _resolve(uint64 id, Game storage g, Turn t, Outcome outcome) internal {
        (uint64 segment, address asserter) = (g.segment, g.asserter);
        t = t.withStand(Stand.RESOLVED).withOutcome(outcome).withSince();
        g.turn = t;
        bool fell = outcome == Outcome.ASSERTER_LOST || outcome == Outcome.CONCEDED;
        uint128 taken = 0;
        if (fell) {
            uint128 reserved = _stakes.reservation(asserter, segment);
            if (outcome == Outcome.CONCEDED) taken = t.pardoned() ? 0 : reserved / 2;
            else taken = reserved;
        }
        (g.node, g.facts) = (bytes32(uint256(taken)), 0);
        emit DisputeResolved(id, segment, outcome, taken, _due(t));
        if (taken > 0) _stakes.slash(asserter, segment, taken, 0);
        if (t.target() == 1) _jobs.voteResolved(segment, g.round, asserter, fell);
        if (fell) _jobs.disputeResolved(segment, t.target() == 0);
        if (outcome == Outcome.VOID) _void(id, g, t, true);
    }

    /// Gives back all that the dispute holds; lets the segment go if it still waits.
    function _void(uint64 id, Game storage g, Turn t, bool waits) internal {
        _pay(id, g, t.withOutcome(Outcome.VOID), waits, uint128(uint256(g.node)), _bondOf(t.doublings()), 0);
    }

    /// Credits what each side gets; whoever calls sees to it that the rest is burnt, and set aside.
    function _pay(uint64 id, Game storage g, Turn t, bool waits, uint128 toAsserter, uint128 toChallenger, uint128 burnt) internal {
        Outcome outcome = t.outcome();
        g.turn = t.withStand(Stand.PAID);
        emit DisputePaid(id, outcome, toAsserter, toChallenger, burnt);
        _credit(g.asserter, id, toAsserter);
        _credit(g.challenger, id, toChallenger);
        if (waits) {
            if (outcome == Outcome.VOID && t.target() == 0) _jobs.disputeVoided(g.segment);
            else _jobs.disputeResolved(g.segment, false);
        }
    }

    function _credit(address who, uint64 id, uint128 amount) internal {
        if (amount == 0) return;
        credit[who] += amount;
        emit DisputeCredited(who, id, amount);
    }
}
