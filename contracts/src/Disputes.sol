// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {IDisputeGame, IDisputes} from "./interfaces/IDisputes.sol";
import {Merkle} from "./libraries/Merkle.sol";
import {Segment, SegmentState} from "./types/Types.sol";
import {Dispute, Outcome, Rules, Stand} from "./types/DisputeTypes.sol";
import {Clock} from "./dispute/Clock.sol";
import {Court} from "./dispute/Court.sol";

/// Disputes of a network (docs/dispute.md; interfaces/IDisputes.sol is all that it answers): the only contract that slashes. How a dispute
/// begins and ends, and its money, are here; the moves in between are in two contracts that this one runs by delegatecall, because a
/// contract may have 24,576 bytes: the descent to one element (dispute/Descent.sol) and what decides it (dispute/Verdict.sol).
/// There is no owner. A guardian may declare a resolved dispute void before it is paid, which gives all bonds back, and nothing else.
contract Disputes is Court, IDisputes {
    using SafeERC20 for IERC20;

    uint64 internal constant NO_UNIT = type(uint64).max;
    address public immutable descent;
    address public immutable verdict;

    constructor(address jobs_, Rules memory rules_, address descent_, address verdict_) Court(jobs_, rules_) {
        bytes32 same = keccak256(abi.encode(jobs_, rules_));
        if (keccak256(abi.encode(IDisputeGame(descent_).jobs(), IDisputeGame(descent_).rules())) != same) {
            revert WrongModule(descent_);
        }
        if (keccak256(abi.encode(IDisputeGame(verdict_).jobs(), IDisputeGame(verdict_).rules())) != same) {
            revert WrongModule(verdict_);
        }
        descent = descent_;
        verdict = verdict_;
    }

    fallback() external {
        address module = _decides(msg.sig) ? verdict : descent;
        assembly {
            calldatacopy(0, 0, calldatasize())
            let ok := delegatecall(gas(), module, 0, calldatasize(), 0, 0)
            returndatacopy(0, 0, returndatasize())
            if iszero(ok) { revert(0, returndatasize()) }
            return(0, returndatasize())
        }
    }

    function _decides(bytes4 sig) private pure returns (bool) {
        return sig == IDisputeGame.prove.selector || sig == IDisputeGame.fold.selector || sig == IDisputeGame.pick.selector
            || sig == IDisputeGame.split.selector || sig == IDisputeGame.choose.selector || sig == IDisputeGame.item.selector;
    }

    function disputable() external pure returns (bool) {
        return true;
    }

    // ---- beginning -----------------------------------------------------------------------------------------------------------

    /// Locks the bond and the segment. What is disputed stays hidden until `open`, so that nobody can take the challenge for its own.
    function seal(uint64 segment, bytes32 digest) external nonReentrant returns (uint64 id) {
        uint128 bond = bondOf(segment, msg.sender);
        (address provider,,) = _jobs.linksOf(segment);
        id = ++disputeCount;
        Dispute storage d = _disputes[id];
        d.stand = Stand.SEALED;
        d.since = uint40(block.timestamp);
        d.asserterBudget = _budget;
        d.challengerBudget = _budget;
        d.index = uint64(block.number);
        d.node = digest;
        d.challenger = msg.sender;
        d.segment = segment;
        d.asserter = provider;
        d.bond = bond;
        emit DisputeSealed(id, segment, msg.sender, bond, _due(d));
        _jobs.disputeOpened(segment);
        uint256 before = _token.balanceOf(address(this));
        _token.safeTransferFrom(msg.sender, address(this), bond);
        uint256 received = _token.balanceOf(address(this)) - before;
        if (received != bond) revert UnsupportedToken(bond, received);
    }

    /// What a challenger locks: twice as much for every dispute that is open on the segment, but for drawn verifiers and the client.
    function bondOf(uint64 segment, address challenger) public view returns (uint128) {
        (uint32 open_, bool party) = _jobs.partyTo(segment, challenger);
        if (party) return _bond;
        uint256 bond = uint256(_bond) << (open_ < 64 ? open_ : 64);
        return bond > type(uint128).max ? type(uint128).max : uint128(bond);
    }

    function open(uint64 id, uint8 target, uint64 unit, address verifier, uint32 round, bytes32 salt) external nonReentrant {
        Dispute storage d = _dispute(id);
        if (d.stand != Stand.SEALED) revert WrongTurn(id, d.stand, d.asserting);
        if (msg.sender != d.challenger) revert NotPlayer(msg.sender, d.challenger);
        if (block.timestamp > _due(d)) revert Clock.TooLate(_due(d), block.timestamp);
        if (block.number <= d.index) revert SameBlock(block.number);
        uint64 segment = d.segment;
        bytes32 seen = sha256(
            abi.encodePacked(
                bytes1(0x25), block.chainid, address(this), segment, target, unit, verifier, round, salt, msg.sender
            )
        );
        if (seen != d.node) revert DigestMismatch(d.node, seen);
        (address provider, bytes32 linkRoot, uint64 links) = _jobs.linksOf(segment);
        if (target > 1 || (unit >= links && (unit != NO_UNIT || target == 1))) revert BadTarget(target, unit);
        (d.target, d.unit, d.index) = (target, unit, 0);
        if (target == 1) {
            (d.asserter, d.round) = (verifier, round);
            d.node = _jobs.voteDisputed(segment, round, verifier, unit);
        } else {
            d.node = linkRoot;
        }
        emit DisputeOpened(id, segment, target == 1 ? verifier : provider, target, unit, round);
        if (unit == NO_UNIT) {
            (d.count, d.height) = (links, uint8(Merkle.depth(links)));
            _next(id, d, Stand.LINKS, true);
        } else {
            _next(id, d, Stand.TRACED, true);
        }
    }

    // ---- ends ----------------------------------------------------------------------------------------------------------------

    function concede(uint64 id) external nonReentrant {
        Dispute storage d = _dispute(id);
        if (d.stand != Stand.LINKS && d.stand != Stand.TRACED) revert WrongTurn(id, d.stand, d.asserting);
        if (d.moved) revert AlreadyMoved(id);
        _charge(id, d, true);
        _resolve(id, d, Outcome.CONCEDED);
    }

    function timeout(uint64 id) external nonReentrant {
        Dispute storage d = _dispute(id);
        if (d.stand == Stand.RESOLVED || d.stand == Stand.PAID) revert WrongTurn(id, d.stand, d.asserting);
        if (block.timestamp <= _due(d)) revert Clock.TooEarly(_due(d), block.timestamp);
        _resolve(id, d, d.asserting ? Outcome.ASSERTER_LOST : Outcome.ASSERTER_WON);
    }

    function pay(uint64 id) external nonReentrant {
        Dispute storage d = _dispute(id);
        if (d.stand != Stand.RESOLVED) revert WrongTurn(id, d.stand, d.asserting);
        if (block.timestamp <= _due(d)) revert Clock.TooEarly(_due(d), block.timestamp);
        _pay(id, d, d.outcome == Outcome.ASSERTER_WON);
    }

    function declareVoid(uint64 id) external nonReentrant {
        Dispute storage d = _dispute(id);
        if (msg.sender != _guardian) revert NotGuardian(msg.sender, _guardian);
        if (d.stand != Stand.RESOLVED) revert WrongTurn(id, d.stand, d.asserting);
        if (block.timestamp > _due(d)) revert Clock.TooLate(_due(d), block.timestamp);
        bool waits = d.outcome == Outcome.ASSERTER_WON;
        d.outcome = Outcome.VOID;
        _pay(id, d, waits);
    }

    function clear(uint64 segment) external nonReentrant {
        Segment memory s = _jobs.segment(segment);
        bool over = s.state == SegmentState.WITHHELD && block.timestamp > s.settleAfter;
        if (s.state != SegmentState.REJECTED && !over) revert NothingToClear(segment);
        _jobs.clearBond(segment);
    }

    function withdraw() external nonReentrant {
        uint128 amount = credit[msg.sender];
        if (amount == 0) revert NothingToWithdraw(msg.sender);
        credit[msg.sender] = 0;
        emit DisputeWithdrawn(msg.sender, amount);
        _token.safeTransfer(msg.sender, amount);
    }

    // ---- look-up -------------------------------------------------------------------------------------------------------------

    function dispute(uint64 id) external view returns (Dispute memory) {
        return _dispute(id);
    }

    function dueOf(uint64 id) external view returns (uint256) {
        return _due(_dispute(id));
    }
}
