// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {IDisputeGame, IDisputes} from "./interfaces/IDisputes.sol";
import {Merkle} from "./libraries/Merkle.sol";
import {Dispute, Game, Link, LinkFacts, Outcome, Rules, Shown, Stand, TraceMove} from "./types/DisputeTypes.sol";
import {Turn} from "./types/Turn.sol";
import {Clock} from "./dispute/Clock.sol";
import {Court} from "./dispute/Court.sol";
import {Openings} from "./dispute/Openings.sol";
import {ProgramView} from "./dispute/ProgramView.sol";
import {Ranges} from "./dispute/Ranges.sol";
import {Walk} from "./dispute/Walk.sol";
import {Words} from "./dispute/Words.sol";

/// Disputes of a network (docs/dispute.md; interfaces/IDisputes.sol is all that it answers): the only contract that slashes. How a dispute
/// begins and the steps of its walks are here; the rest is in two contracts that this one runs by delegatecall, because a contract may have
/// 24,576 bytes: the moves between the walks and the ends (dispute/Descent.sol), and what decides (dispute/Verdict.sol).
/// There is no owner. A guardian may declare a resolved dispute void before it is paid, which gives all bonds back, and nothing else.
contract Disputes is Court, IDisputes {
    using SafeERC20 for IERC20;
    using ProgramView for bytes;

    uint64 internal constant NO_UNIT = type(uint64).max;
    uint8 internal constant MOST_DOUBLINGS = 64;
    /// Batch root of an update: SHA256(0x16, 0 u32, EMPTY).
    bytes32 private constant NO_BATCH = 0x62f3895278391703d9193d06530f534cb2c00c36996028862337a66bf8e5cbef;
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
            || sig == IDisputeGame.pickItem.selector || sig == IDisputeGame.pickOutput.selector || sig == IDisputeGame.finish.selector
            || sig == IDisputeGame.item.selector;
    }

    function disputable() external pure returns (bool) {
        return true;
    }

    // ---- beginning -----------------------------------------------------------------------------------------------------------

    /// Locks the bond and the segment. What is disputed stays hidden until `open`, so that nobody can take the challenge for its own.
    function seal(uint64 segment, bytes32 digest) external nonReentrant returns (uint64 id) {
        (uint8 doublings, uint16 allowance) = _terms(segment, msg.sender);
        uint128 bond = _bondOf(doublings);
        id = ++disputeCount;
        Game storage g = _games[id];
        Turn t = Turn.wrap(0).withStand(Stand.SEALED).withSince().withIndex(uint64(block.number)).withDoublings(doublings).withAllowance(allowance);
        g.turn = t = t.withBudget(true, _budget).withBudget(false, _budget);
        (g.challenger, g.segment, g.facts) = (msg.sender, segment, digest);
        emit DisputeSealed(id, segment, msg.sender, bond, _due(t), allowance);
        _jobs.disputeOpened(segment);
        uint256 before = _token.balanceOf(address(this));
        _token.safeTransferFrom(msg.sender, address(this), bond);
        uint256 received = _token.balanceOf(address(this)) - before;
        if (received != bond) revert UnsupportedToken(bond, received);
    }

    /// What a challenger locks: twice as much for every dispute that is open on the segment, but for drawn verifiers and the client.
    function bondOf(uint64 segment, address challenger) external view returns (uint128) {
        (uint8 doublings,) = _terms(segment, challenger);
        return _bondOf(doublings);
    }

    /// And what the asserter is given to replay the link in: one replay for each dispute that is then open, since it may have to answer all.
    function _terms(uint64 segment, address challenger) private view returns (uint8 doublings, uint16 allowance) {
        (uint32 open_, bool party, uint32 replay) = _jobs.partyTo(segment, challenger);
        if (!party) doublings = open_ < MOST_DOUBLINGS ? uint8(open_) : MOST_DOUBLINGS;
        uint256 all = (uint256(open_) + 1) * replay;
        allowance = all < type(uint16).max ? uint16(all) : type(uint16).max;
    }

    function open(uint64 id, uint8 target, uint64 unit, address verifier, uint32 round, bytes32 salt) external nonReentrant {
        (Game storage g, Turn t) = _game(id);
        if (t.stand() != Stand.SEALED) revert WrongTurn(id, t.stand(), t.asserting());
        if (msg.sender != g.challenger) revert NotPlayer(msg.sender, g.challenger);
        if (block.timestamp > _due(t)) revert Clock.TooLate(_due(t), block.timestamp);
        if (block.number <= t.index()) revert SameBlock(block.number);
        _needSealed(g, abi.encodePacked(target, unit, verifier, round, salt));
        uint64 links;
        (g.asserter, g.node, links) = _jobs.linksOf(g.segment);
        if (target > 1 || (unit >= links && (unit != NO_UNIT || target == 1))) revert BadTarget(target, unit);
        g.size = links;
        bool gone = target == 1 && _toVote(g, t, unit, verifier, round);
        emit DisputeOpened(id, g.segment, g.asserter, target, unit, round);
        t = t.withTarget(target);
        if (gone) _gone(id, g, t);
        else if (unit == NO_UNIT) _next(id, g, t.withIndex(0).withHeight(Merkle.depth(links)), Stand.LINKS, true);
        else _next(id, g, t.withIndex(unit), Stand.TRACED, true);
    }

    function _needSealed(Game storage g, bytes memory opening) private view {
        bytes32 seen = sha256(abi.encodePacked(bytes1(0x25), block.chainid, address(this), g.segment, opening, msg.sender));
        if (seen != g.facts) revert DigestMismatch(g.facts, seen);
    }

    /// Against the trace that a verifier has revealed. Whether that vote is gone since the seal.
    function _toVote(Game storage g, Turn t, uint64 unit, address verifier, uint32 round) private returns (bool gone) {
        (g.asserter, g.round) = (verifier, round);
        (g.node, gone) = _jobs.voteDisputed(g.segment, round, verifier, unit, t.since());
    }

    /// The vote that was to be disputed fell, or ended with its segment, between seal and opening: the bond goes back.
    function _gone(uint64 id, Game storage g, Turn t) private {
        g.facts = 0;
        emit DisputeResolved(id, g.segment, Outcome.VOID, 0, block.timestamp);
        _void(id, g, t, true);
    }

    // ---- walks, and the ranges of a fold: most moves, which is why they are here --------------------------------------------------

    function _walks(Stand stand) private pure returns (bool) {
        return stand == Stand.LINKS || stand == Stand.TRACE || stand == Stand.CHUNKS || stand == Stand.ENTRIES
            || stand == Stand.FIELDS;
    }

    function _walk(uint64 id, bool asserting) private view returns (Game storage g, Turn t) {
        (g, t) = _game(id);
        if (!_walks(t.stand()) || t.asserting() != asserting) revert WrongTurn(id, t.stand(), t.asserting());
    }

    /// Nobody but the asserter makes its first move. Later anybody may show the children of a node: they are what they are, whoever brings
    /// them, and it saves a look at who the asserter is.
    function reveal(uint64 id, bytes32[] calldata children) external {
        (Game storage g, Turn t) = _walk(id, true);
        t = t.moved() ? _spend(t, true) : _charge(id, g, t, true);
        Walk.needChildren(g.node, t.height(), children);
        _next(id, g, t, t.stand(), false);
    }

    /// Down to the node `below` at `place` of its row.
    function point(uint64 id, bytes32 below, uint64 place, bytes32[] calldata path) external nonReentrant {
        (Game storage g, Turn t) = _walk(id, false);
        t = _descend(g, _charge(id, g, t, false), below, place, path);
        Stand stand = t.stand();
        if (t.height() > 0) return _next(id, g, t, stand, true);
        uint256 count = stand == Stand.CHUNKS ? Openings.chunksOf(g.size, t.width()) : g.size;
        if (place >= count) {
            // Something where a pad belongs.
            if (count == 0 || below == Merkle.PAD) revert NothingThere(place);
            return _resolve(id, g, t, Outcome.ASSERTER_LOST);
        }
        if (stand == Stand.LINKS) return _next(id, g, t, Stand.TRACED, true);
        if (stand == Stand.CHUNKS) return _next(id, g, t, Stand.CHUNK, true);
        if (stand == Stand.ENTRIES) return _next(id, g, t, Stand.ENTRY, true);
        if (stand == Stand.FIELDS) return _next(id, g, t, Stand.FIELD, true);
        if (place > 0) return _next(id, g, t, place == count - 1 ? Stand.END : Stand.STAGE, true);
        if (!t.head()) revert NothingThere(place);
        _next(id, g, t, Stand.BATCH, true);
    }

    /// To the chunk at `place` and to an element of it, for a challenger who has its bytes from elsewhere.
    function pointElement(uint64 id, bytes32 below, uint64 place, bytes32[] calldata path, uint64 element_) external nonReentrant {
        (Game storage g, Turn t) = _turn(id, Stand.CHUNKS, false);
        t = _descend(g, t, below, place, path);
        if (t.height() > 0) revert Walk.TooFewLevels(path.length, path.length + t.height());
        _name(id, g, t, element_);
    }

    function _descend(Game storage g, Turn t, bytes32 below, uint64 place, bytes32[] calldata path) private returns (Turn) {
        uint256 height = Walk.descend(g.node, t.height(), t.index(), below, place, path);
        g.node = below;
        return t.withIndex(place).withHeight(height);
    }

    /// The element of the chunk that the challenger doubts.
    function element(uint64 id, uint64 element_, bytes32[6] calldata word) external nonReentrant {
        (Game storage g, Turn t) = _turn(id, Stand.NAME, false);
        uint256 width = t.width();
        g.node = bytes32(uint256(Words.bits(g.node, uint256(element_) * width % Openings.CHUNK, width, word)));
        _name(id, g, t.withClaimed(), element_);
    }

    function _name(uint64 id, Game storage g, Turn t, uint64 element_) private {
        uint64 index = t.index();
        if (element_ >= g.size || uint256(element_) * t.width() / Openings.CHUNK != index) revert WrongElement(element_, index);
        _next(id, g, t.withIndex(element_), t.ofBatch() ? Stand.RECORD : Stand.ELEMENT, true);
    }

    function split(uint64 id, bytes calldata parts) external {
        (Game storage g, Turn t) = _turn(id, Stand.RANGE, true);
        bytes32 range = g.node;
        Ranges.needParts(range, t.rule(), parts);
        g.node = keccak256(abi.encodePacked(range, parts));
        _next(id, g, t, Stand.RANGE, false);
    }

    function choose(uint64 id, bytes32 range, bytes calldata parts, uint256 part) external {
        (Game storage g, Turn t) = _turn(id, Stand.RANGE, false);
        bytes32 seen = keccak256(abi.encodePacked(range, parts));
        if (seen != g.node) revert BadFacts(g.node, seen);
        g.node = Ranges.part(range, parts, part);
        _next(id, g, t, Stand.RANGE, true);
    }

    // ---- from link to trace --------------------------------------------------------------------------------------------------------

    /// Shows the ends that the link names, and a trace between them.
    function trace(uint64 id, TraceMove calldata m) external nonReentrant {
        (Game storage g, Turn t) = _turn(id, Stand.TRACED, true);
        if (t.target() == 1 && m.traceRoot != g.node) revert BadRoot("the trace root is the one that was revealed");
        uint64 unit = t.index();
        LinkFacts memory f = _jobs.linkFacts(g.segment, unit);
        Link memory l = _link(f, unit, m);
        uint256 down = Merkle.depth(f.leaves);
        down -= Walk.step(down);
        _needBelow(m.children[0], 0, Openings.head(l), m.headPath, down, "the trace's head");
        uint64 last = f.leaves - 1;
        _needBelow(m.children[last >> down], last, m.endRoot, m.lastPath, down, "the trace's last leaf");
        g.facts = _facts(keccak256(abi.encode(l)), 0, 0);
        if (l.m != l.micros) t = t.withHead();
        _enter(id, g, t, Stand.TRACE, m.traceRoot, f.leaves, f.leaves, m.children);
    }

    function _link(LinkFacts memory f, uint64 unit, TraceMove calldata m) private view returns (Link memory l) {
        uint64 perStep = uint64(f.micros) + 1;
        (l.programRoot, l.datasetRoot, l.scheduleRoot) = (f.programRoot, f.datasetRoot, f.scheduleRoot);
        (l.steps, l.micros, l.leaves) = (f.steps, f.micros, f.leaves);
        (l.step, l.m) = (f.start + unit / perStep, uint32(unit % perStep));
        l.endRoot = m.endRoot;
        if (!Merkle.verify(f.linkRoot, f.links, unit, m.endRoot, m.endPath)) revert BadRoot("the link's end");
        l.stateRoot = f.startRoot;
        if (unit >= perStep) {
            l.stateRoot = m.stateRoot;
            _needBefore(m, unit, unit - l.m - 1, m.stateRoot, m.statePath, "the state before the step");
        }
        if (l.m > 0) {
            l.accRoot = m.accRoot;
            _needBefore(m, unit, unit - 1, m.accRoot, m.accPath, "the accumulator before the link");
        }
        l.batchRoot = m.batchRoot;
        if (l.m == l.micros && m.batchRoot != NO_BATCH) revert BadRoot("the batch of an update");
        l.traceRoot = m.traceRoot;
    }

    /// That `root` is link end `other`: below where its path and the shown one of end `unit` part, it leads to a sibling of that.
    function _needBefore(TraceMove calldata m, uint64 unit, uint64 other, bytes32 root, bytes32[] calldata path, string memory what)
        private
        view
    {
        uint256 levels = Math.log2(unit ^ other);
        _needBelow(m.endPath[levels], other, root, path, levels, what);
    }

    /// That `item` is leaf `index` below the node `levels` above it.
    function _needBelow(bytes32 node, uint64 index, bytes32 item, bytes32[] calldata path, uint256 levels, string memory what) private view {
        bool fits = path.length == levels && Merkle.climb(Merkle.leaf(index, item), index, path) == node;
        if (!fits) revert BadRoot(what);
    }

    // ---- a stage -------------------------------------------------------------------------------------------------------------

    /// Shows which stage of the program made the trace's leaf, and the root over the chunks of its output.
    function stage(
        uint64 id,
        Link calldata link,
        bytes calldata program,
        bytes calldata stage_,
        bytes32[] calldata path,
        bytes32 chunks,
        bytes32[] calldata children
    ) external nonReentrant {
        (Game storage g, Turn t) = _turn(id, Stand.STAGE, true);
        bytes32 known = _needLink(g, link);
        _needStage(link, program, t.index() - 1, stage_, path);
        bytes memory kind = ProgramView.result(stage_);
        if (Merkle.leaf(t.index(), Openings.tensorRoot(kind, chunks)) != g.node) revert BadRoot("the stage's output");
        g.facts = _facts(known, keccak256(stage_), 0);
        _enterTensor(id, g, t, kind, chunks, children);
    }

    function _needStage(Link calldata link, bytes calldata program, uint64 place, bytes calldata stage_, bytes32[] calldata path)
        private
        view
    {
        ProgramView.Part memory part = program.part(link.programRoot, _isUpdate(link));
        if (!Merkle.holds(part.stagesRoot, part.stages, place, Merkle.leafAt(place, stage_), path)) revert BadRoot("the stage");
    }

    // ---- look-up -------------------------------------------------------------------------------------------------------------

    function dispute(uint64 id) external view returns (Dispute memory d) {
        (Game storage g, Turn t) = _game(id);
        (d.stand, d.outcome, d.asserting, d.moved) = (t.stand(), t.outcome(), t.asserting(), t.moved());
        (d.height, d.since, d.index, d.width, d.fold) = (uint8(t.height()), t.since(), t.index(), t.width(), t.fold());
        (d.asserterBudget, d.challengerBudget) = (t.budget(true), t.budget(false));
        (d.challenger, d.segment, d.asserter, d.round) = (g.challenger, g.segment, g.asserter, g.round);
        (d.target, d.node, d.facts, d.size, d.bond) = (t.target(), g.node, g.facts, g.size, _bondOf(t.doublings()));
        if (d.stand == Stand.SEALED) (d.asserter,,) = _jobs.linksOf(d.segment);
        if (d.stand == Stand.RESOLVED || d.stand == Stand.PAID) d.taken = uint128(uint256(d.node));
        if (d.stand == Stand.RANGE && d.asserting) (d.lo, d.hi, d.total) = Ranges.unpack(d.node);
    }

    function shownIn(uint64 id) external view returns (Shown memory) {
        return _records[id];
    }

    function dueOf(uint64 id) external view returns (uint256) {
        (, Turn t) = _game(id);
        return _due(t);
    }
}
