// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {IShowings} from "../interfaces/IShowings.sol";
import {Merkle} from "../libraries/Merkle.sol";
import {Segment, SegmentState} from "../types/Types.sol";
import {Field, Game, GatherMove, Link, Outcome, Proof, Rules, Shown, Stand} from "../types/DisputeTypes.sol";
import {Turn} from "../types/Turn.sol";
import {Clock} from "./Clock.sol";
import {Court} from "./Court.sol";
import {Gather} from "./Gather.sol";
import {Openings} from "./Openings.sol";
import {ProgramView} from "./ProgramView.sol";
import {Words} from "./Words.sol";

/// A chunk's bytes, what a dispute over the link's end or its batch comes to, which roots and records decide, and how a dispute ends and is
/// paid.
/// Code that Disputes runs by delegatecall (see Disputes.sol); by itself it holds nothing.
contract Descent is Court {
    using SafeERC20 for IERC20;
    using ProgramView for bytes;

    address public immutable showings;

    constructor(address jobs_, Rules memory rules_, address showings_) Court(jobs_, rules_) {
        showings = showings_;
    }

    /// The bytes of the chunk that was pointed at: a challenger sees only hashes until it has them.
    function chunk(uint64 id, bytes calldata data) external nonReentrant {
        (Game storage g, Turn t) = _turn(id, Stand.CHUNK, true);
        Openings.needChunk(g.node, t.index(), g.size, t.width(), data);
        if (t.ofBatch()) {
            Shown storage s = _records[id];
            _show(id, s.first, s.batch, g.size, t.width(), uint256(t.index()) * Openings.CHUNK / t.width());
        }
        g.node = Words.root(data);
        _next(id, g, t, Stand.NAME, false);
    }

    // ---- the link's end ------------------------------------------------------------------------------------------------------

    function end(uint64 id, Link calldata link, bytes calldata program, bytes32 entries, bytes32[] calldata children)
        external
        nonReentrant
    {
        (Game storage g, Turn t) = _turn(id, Stand.END, true);
        _needLink(g, link);
        bool update = _isUpdate(link);
        uint32 count = program.part(link.programRoot, update).outputs;
        bytes32 root = update
            ? Openings.stateRoot(link.step + 1, count, entries)
            : Openings.accRoot(link.step, link.m + 1, count, entries);
        if (root != link.endRoot) revert BadRoot("the link's end");
        _enter(id, g, t, Stand.ENTRIES, entries, count, count, children);
    }

    /// Shows that the entry is what the program puts there: then the challenger has lost.
    function endEntry(uint64 id, Proof calldata p, bytes calldata record, bytes32[] calldata path, bytes32 root)
        external
        nonReentrant
    {
        (Game storage g, Turn t) = _turn(id, Stand.ENTRY, true);
        _needLink(g, p.link);
        uint64 place = t.index();
        ProgramView.Part memory part = p.program.part(p.link.programRoot, _isUpdate(p.link));
        if (!Merkle.holds(part.outputsRoot, part.outputs, place, Merkle.leafOf(place, record), path)) revert BadRoot("the output's record");
        (uint32 value, bytes memory name) = ProgramView.output(record);
        if (Openings.entryLeaf(place, name, root) != g.node) revert BadRoot("the entry of the link's end");
        if (p.evidence.length != 1) revert WrongEvidence(p.evidence.length, 1);
        bool shown = true;
        if (value == ProgramView.NO_VALUE) {
            Openings.needState(p.link, p.evidence[0]);
            Openings.needEntry(p.evidence[0], uint32(place), name, root);
        } else {
            shown = _isRootOf(p, part, value, root);
        }
        _resolve(id, g, t, shown ? Outcome.ASSERTER_WON : Outcome.VOID);
    }

    /// Reverts unless `root` is the tensor root of the value. False where no tree holds such a root; no program that assay makes puts
    /// such a value out.
    function _isRootOf(Proof calldata p, ProgramView.Part memory part, uint32 value, bytes32 root) private view returns (bool) {
        Link memory l = p.link;
        if (value >= part.inputs) {
            Openings.needStage(l, part, value, root, p.evidence[0]);
            return true;
        }
        ProgramView.Input memory i = Openings.inputOf(part, value, p.evidence[0]);
        if (i.kind == Openings.SCALAR || i.kind == Openings.COUNTER || Openings.startsAsZeros(l, i)) return false;
        Openings.needInput(l, i, root, p.evidence[0]);
        return true;
    }

    // ---- the batch -----------------------------------------------------------------------------------------------------------

    function batch(uint64 id, Link calldata link, uint32 count, bytes32 entries, bytes32[] calldata children) external nonReentrant {
        (Game storage g, Turn t) = _turn(id, Stand.BATCH, true);
        _needLink(g, link);
        if (Openings.batchRoot(count, entries) != link.batchRoot) revert BadRoot("the batch");
        _enter(id, g, t, Stand.FIELDS, entries, count, count, children);
    }

    /// An input of the program, which must be a field of the batch.
    function _field(Link calldata link, Field calldata f) private view returns (ProgramView.Input memory i) {
        ProgramView.Part memory part = f.program.part(link.programRoot, _isUpdate(link));
        bytes32 leaf = Merkle.leafAt(f.value, f.record);
        if (!Merkle.holds(part.inputsRoot, part.inputs, f.value, leaf, f.path)) revert BadRoot("the input's record");
        i = ProgramView.input(f.record);
        if (i.kind != Openings.BATCH) revert BadRoot("a field of the batch");
    }

    /// The program reads a field that the batch lacks.
    function missing(uint64 id, Link calldata link, Field calldata field) external nonReentrant {
        (Game storage g, Turn t) = _turn(id, Stand.FIELDS, false);
        _needLink(g, link);
        if (_field(link, field).place < g.size) revert BadRoot("a field past the batch's last");
        _resolve(id, g, t, Outcome.ASSERTER_LOST);
    }

    function batchEntry(uint64 id, Link calldata link, Field calldata field, bytes32 chunks, bytes32[] calldata children)
        external
        nonReentrant
    {
        (Game storage g, Turn t) = _turn(id, Stand.FIELD, true);
        bytes32 known = _needLink(g, link);
        ProgramView.Input memory i = _field(link, field);
        bytes32 leaf = Openings.entryLeaf(i.place, i.name, Openings.tensorRoot(i.kindOfTensor, chunks));
        if (i.place != t.index() || leaf != g.node) revert BadRoot("the batch's entry");
        g.facts = _facts(known, keccak256(field.record), 0);
        _noteBatch(id, _microOf(link), uint32(_batchOf(i.kindOfTensor)));
        _enterTensor(id, g, t.withOfBatch(), i.kindOfTensor, chunks, children);
    }

    /// Which records the field is of: a chunk that is shown later comes without its link.
    function _noteBatch(uint64 id, uint256 micro, uint32 records) private {
        (_records[id].first, _records[id].batch) = (uint64(micro * records), records);
    }

    /// Opens the record that belongs at the element's place: the dispute is decided.
    function gather(uint64 id, GatherMove calldata m) external nonReentrant {
        (Game storage g, Turn t) = _turn(id, Stand.RECORD, true);
        _needFacts(g, _hash(m.link), keccak256(m.record), 0);
        uint64 place = t.index();
        uint64 claimed = _claimed(g, t, m.chunk);
        ProgramView.Input memory field = ProgramView.input(m.record);
        uint64 found = Gather.value(m.link, field, place, m);
        _showField(id, _microOf(m.link), field.kindOfTensor, place);
        _resolve(id, g, t, claimed == found ? Outcome.ASSERTER_WON : Outcome.ASSERTER_LOST);
    }

    // ---- ends ----------------------------------------------------------------------------------------------------------------

    function concede(uint64 id) external nonReentrant {
        (Game storage g, Turn t) = _game(id);
        if (t.stand() != Stand.LINKS && t.stand() != Stand.TRACED) revert WrongTurn(id, t.stand(), t.asserting());
        t = _charge(id, g, t, true);
        // Only who knows the link can be pardoned for it.
        if (t.stand() == Stand.TRACED && t.target() == 0 && _jobs.pardon(g.segment, t.index(), _pardonAfter)) t = t.withPardoned();
        _resolve(id, g, t, Outcome.CONCEDED);
    }

    function timeout(uint64 id) external nonReentrant {
        (Game storage g, Turn t) = _game(id);
        Stand stand = t.stand();
        if (stand == Stand.RESOLVED || stand == Stand.PAID) revert WrongTurn(id, stand, t.asserting());
        if (block.timestamp <= _due(t)) revert Clock.TooEarly(_due(t), block.timestamp);
        if (stand == Stand.SEALED) (g.asserter,,) = _jobs.linksOf(g.segment);
        _resolve(id, g, t, t.asserting() ? Outcome.ASSERTER_LOST : Outcome.ASSERTER_WON);
    }

    function pay(uint64 id) external nonReentrant {
        (Game storage g, Turn t) = _game(id);
        if (t.stand() != Stand.RESOLVED) revert WrongTurn(id, t.stand(), t.asserting());
        if (block.timestamp <= _due(t)) revert Clock.TooEarly(_due(t), block.timestamp);
        _payOut(id, g, t);
    }

    /// By the outcome, of which void is none: that is paid when it is found.
    function _payOut(uint64 id, Game storage g, Turn t) internal {
        (uint128 bond, uint128 taken, Outcome outcome) = (_bondOf(t.doublings()), uint128(uint256(g.node)), t.outcome());
        if (outcome == Outcome.ASSERTER_WON) return _share(id, g, t, bond - bond / 2, 0, bond / 2);
        if (outcome == Outcome.CONCEDED) return _share(id, g, t, 0, bond, taken);
        _share(id, g, t, 0, bond + taken - taken / 2, taken / 2);
    }

    /// What the loser has lost, less what the owners of records that were shown get of it: of the half that is burnt where the challenger has lost, of
    /// the half that is the challenger's where the asserter has. That one's burnt half is never touched: an owner may be the asserter's friend.
    function _share(uint64 id, Game storage g, Turn t, uint128 toAsserter, uint128 toChallenger, uint128 burnt) private {
        bool won = t.outcome() == Outcome.ASSERTER_WON;
        uint128 owed = _owed(id, g.segment, won ? burnt : uint128(uint256(g.node)) / 4);
        if (won) burnt -= owed;
        else toChallenger -= owed;
        if (owed > 0) {
            _records[id].owed = owed;
            emit ShowingOwed(id, owed);
            _credit(showings, id, owed);
        }
        _pay(id, g, t, won, toAsserter, toChallenger, burnt);
        if (burnt > 0) _token.safeTransfer(BURN, burnt);
    }

    /// What the owners ask for, at most `most`.
    function _owed(uint64 id, uint64 segment, uint128 most) private view returns (uint128) {
        uint32 count = _records[id].count;
        if (count == 0 || showings == address(0)) return 0;
        uint128 asked = IShowings(showings).asked(segment, count);
        return asked < most ? asked : most;
    }

    function declareVoid(uint64 id) external nonReentrant {
        (Game storage g, Turn t) = _game(id);
        if (msg.sender != _guardian) revert NotGuardian(msg.sender, _guardian);
        if (t.stand() != Stand.RESOLVED) revert WrongTurn(id, t.stand(), t.asserting());
        if (block.timestamp > _due(t)) revert Clock.TooLate(_due(t), block.timestamp);
        _void(id, g, t, t.outcome() == Outcome.ASSERTER_WON);
    }

    function clear(uint64 segment) external nonReentrant {
        Segment memory s = _jobs.segment(segment);
        bool over = s.state == SegmentState.REJECTED
            ? block.timestamp >= s.settleAfter
            : s.state == SegmentState.WITHHELD && block.timestamp > s.settleAfter;
        if (!over) revert NothingToClear(segment);
        _jobs.clearBond(segment);
    }

    function withdraw() external nonReentrant {
        uint128 amount = credit[msg.sender];
        if (amount == 0) revert NothingToWithdraw(msg.sender);
        credit[msg.sender] = 0;
        emit DisputeWithdrawn(msg.sender, amount);
        _token.safeTransfer(msg.sender, amount);
    }
}
