// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ILeaf, Need, Rule} from "../interfaces/ILeaf.sol";
import {Merkle} from "../libraries/Merkle.sol";
import {Evidence, Folded, Game, Outcome, Proof, Rules, Stand} from "../types/DisputeTypes.sol";
import {Turn} from "../types/Turn.sol";
import {Court} from "./Court.sol";
import {Openings} from "./Openings.sol";
import {ProgramView} from "./ProgramView.sol";
import {Ranges} from "./Ranges.sol";

/// One element, or one item of a fold, decided by two leaves that share no code. Where they differ the dispute is void. A leaf that reverts
/// makes the move revert: gas that does not suffice must not look like a difference.
/// Code that Disputes runs by delegatecall (see Disputes.sol); by itself it holds nothing.
contract Verdict is Court {
    using ProgramView for bytes;

    uint256 private constant MOST_NEEDS = 8;
    uint256 private constant MOST_FOLDS = 8;
    uint8 private constant AMAX = 34;
    uint8 private constant SCATTER_VALUE = 49;

    ILeaf public immutable clearLeaf;
    ILeaf public immutable tableLeaf;

    constructor(address jobs_, Rules memory rules_, address clearLeaf_, address tableLeaf_) Court(jobs_, rules_) {
        if (clearLeaf_ == tableLeaf_) revert WrongModule(tableLeaf_);
        clearLeaf = ILeaf(clearLeaf_);
        tableLeaf = ILeaf(tableLeaf_);
    }

    // ---- an element ----------------------------------------------------------------------------------------------------------

    /// The output from its operands: the dispute is decided.
    function prove(uint64 id, Proof calldata p) external nonReentrant {
        (Game storage g, Turn t) = _turn(id, Stand.ELEMENT, true);
        _needFacts(g, _hash(p.link), keccak256(p.stage), 0);
        if (p.totals.length != 0) revert WrongFold(p.totals.length, 0);
        _resolve(id, g, t, _output(id, g, t, p));
    }

    /// The output from the totals of its folds, after `fold`: the dispute is decided.
    function finish(uint64 id, Proof calldata p) external nonReentrant {
        (Game storage g, Turn t) = _turn(id, Stand.FINISH, true);
        _needFacts(g, _hash(p.link), keccak256(p.stage), keccak256(abi.encodePacked(p.totals)));
        _needInRange(p);
        _resolve(id, g, t, _output(id, g, t, p));
    }

    /// What the leaves say of an output.
    function _output(uint64 id, Game storage g, Turn t, Proof calldata p) private returns (Outcome) {
        uint256 folds = clearLeaf.folds(p.stage);
        if (folds != tableLeaf.folds(p.stage)) return Outcome.VOID;
        if (folds != p.totals.length) revert WrongFold(p.totals.length, folds);
        uint64 element = t.index();
        uint64 claimed = _claimed(g, t, p.chunk);
        (bool same, uint64[] memory values) = _values(id, p, element, folds, 0);
        if (!same) return Outcome.VOID;
        uint64 bits = clearLeaf.finish(p.stage, element, p.totals, values);
        if (bits != tableLeaf.finish(p.stage, element, p.totals, values)) return Outcome.VOID;
        return bits == claimed ? Outcome.ASSERTER_WON : Outcome.ASSERTER_LOST;
    }

    /// Values of all that the output (fold = number of folds) or an item needs; the evidence comes in the order of the needs. Nothing needs two
    /// elements of one operand, so that as many as the stage has operands are all.
    function _values(uint64 id, Proof calldata p, uint64 element, uint256 fold_, uint64 index)
        private
        returns (bool same, uint64[] memory values)
    {
        uint256 operands = uint16(bytes2(p.stage[1:3]));
        ProgramView.Part memory part;
        do {
            Need[] memory wanted = clearLeaf.needs(p.stage, element, fold_, index, values);
            if (!_equal(wanted, tableLeaf.needs(p.stage, element, fold_, index, values))) return (false, values);
            if (wanted.length <= values.length) break;
            if (values.length == 0) part = p.program.part(p.link.programRoot, _isUpdate(p.link));
            if (wanted.length > MOST_NEEDS || wanted.length > p.evidence.length) {
                revert WrongEvidence(p.evidence.length, wanted.length);
            }
            uint64[] memory more = new uint64[](wanted.length);
            for (uint256 i = 0; i < more.length; ++i) {
                more[i] = i < values.length ? values[i] : _value(id, p, part, wanted[i], p.evidence[i]);
            }
            values = more;
        } while (values.length < operands);
        if (p.evidence.length != values.length) revert WrongEvidence(p.evidence.length, values.length);
        return (true, values);
    }

    /// One of them. A field of the batch is shown with it.
    function _value(uint64 id, Proof calldata p, ProgramView.Part memory part, Need memory wanted, Evidence calldata e)
        private
        returns (uint64 bits)
    {
        bits = Openings.value(p.link, part, p.stage, wanted, e);
        if (e.record.length == 0 || uint8(e.record[0]) != Openings.BATCH) return bits;
        (uint32 number, bytes memory kind) = p.stage.operand(wanted.operand);
        if (number < part.inputs) _showField(id, _microOf(p.link), kind, wanted.element);
    }

    function _equal(Need[] memory a, Need[] memory b) private pure returns (bool) {
        if (a.length != b.length) return false;
        for (uint256 i = 0; i < a.length; ++i) {
            if (a[i].operand != b[i].operand || a[i].element != b[i].element) return false;
        }
        return true;
    }

    // ---- a fold --------------------------------------------------------------------------------------------------------------

    /// The totals that the output comes from, and of each what it comes from. Nothing is held against anything before the challenger doubts it:
    /// who asserts totals of another number, or out of their range, has no move when it does.
    function fold(uint64 id, Folded calldata f, bytes[] calldata parts) external nonReentrant {
        (Game storage g, Turn t) = _turn(id, Stand.ELEMENT, true);
        _needFacts(g, f.link, f.stage, 0);
        uint256 folds = f.totals.length;
        if (folds == 0 || folds > MOST_FOLDS || f.roots.length != folds || f.parts.length != folds || parts.length != folds) revert WrongFold(folds, folds);
        for (uint256 i = 0; i < folds; ++i) {
            if (int64(f.totals[i]) != f.totals[i]) revert OutOfRange(f.totals[i]);
            if (parts[i].length % 8 != 0 || keccak256(parts[i]) != f.parts[i]) revert BadRoot("the parts");
        }
        g.facts = _facts(f.link, f.stage, _shown(f));
        _next(id, g, t, Stand.PICK, false);
    }

    function _shown(Folded calldata f) private pure returns (bytes32) {
        return keccak256(abi.encodePacked(f.totals, f.roots, f.parts));
    }

    function pick(uint64 id, Folded calldata f, bytes calldata stage_, uint256 fold_, bytes calldata parts, uint256 part)
        external
        nonReentrant
    {
        (Game storage g, Turn t) = _pick(id, f);
        (bool same, uint64 items, Rule rule) = _items(t, f, stage_, fold_);
        if (!same) return _resolve(id, g, t, Outcome.VOID);
        if (keccak256(parts) != f.parts[fold_]) revert BadRoot("the parts");
        bytes32 range = Ranges.pack(0, items, int64(f.totals[fold_]));
        if (!Ranges.fits(range, uint8(rule), parts)) return _resolve(id, g, t, Outcome.ASSERTER_LOST);
        g.node = Ranges.part(range, parts, part);
        _next(id, g, t.withFold(uint8(fold_)).withRule(uint8(rule)), Stand.RANGE, true);
    }

    /// `path` leads from the value of the item to the root over the fold's items. Nobody has said that these combine to the total, which does
    /// not matter: who asserts them loses with any one that is wrong.
    function pickItem(
        uint64 id,
        Folded calldata f,
        bytes calldata stage_,
        uint256 fold_,
        uint64 item_,
        int64 value,
        bytes32[] calldata path
    ) external nonReentrant {
        (Game storage g, Turn t) = _pick(id, f);
        (bool same, uint64 items,) = _items(t, f, stage_, fold_);
        if (!same) return _resolve(id, g, t, Outcome.VOID);
        if (!Merkle.verify(f.roots[fold_], items, item_, bytes32(uint256(int256(value))), path)) revert BadRoot("the item");
        g.node = Ranges.pack(item_, item_ + 1, value);
        _next(id, g, t.withFold(uint8(fold_)), Stand.RANGE, true);
    }

    function pickOutput(uint64 id, Folded calldata f) external nonReentrant {
        (Game storage g, Turn t) = _pick(id, f);
        _next(id, g, t, Stand.FINISH, true);
    }

    /// The challenger's turn after a fold. Of what was shown only the totals are needed later.
    function _pick(uint64 id, Folded calldata f) private returns (Game storage g, Turn t) {
        (g, t) = _turn(id, Stand.PICK, false);
        // As many of each, or a word of one could pass for another's.
        if (f.roots.length != f.totals.length || f.parts.length != f.totals.length) revert WrongFold(f.roots.length, f.totals.length);
        _needFacts(g, f.link, f.stage, _shown(f));
        g.facts = _facts(f.link, f.stage, keccak256(abi.encodePacked(f.totals)));
    }

    /// Whether the leaves are of one mind about how many items the fold has and how they combine, and that.
    function _items(Turn t, Folded calldata f, bytes calldata stage_, uint256 fold_)
        private
        view
        returns (bool same, uint64 items, Rule rule)
    {
        if (keccak256(stage_) != f.stage) revert BadFacts(f.stage, keccak256(stage_));
        if (fold_ >= f.totals.length) revert WrongFold(fold_, f.totals.length);
        uint256 folds = clearLeaf.folds(stage_);
        if (folds != tableLeaf.folds(stage_)) return (false, 0, rule);
        // Of another number of totals only the output can be doubted.
        if (folds != f.totals.length) revert WrongFold(f.totals.length, folds);
        (items, rule) = clearLeaf.range(stage_, t.index(), fold_);
        (uint64 others, Rule other) = tableLeaf.range(stage_, t.index(), fold_);
        same = items == others && rule == other;
    }

    function item(uint64 id, Proof calldata p) external nonReentrant {
        (Game storage g, Turn t) = _turn(id, Stand.RANGE, true);
        _needFacts(g, _hash(p.link), keccak256(p.stage), keccak256(abi.encodePacked(p.totals)));
        _needInRange(p);
        (uint64 index, uint64 end, int64 total) = Ranges.unpack(g.node);
        if (end - index != 1) revert Ranges.WrongParts(end - index, 1);
        (bool same, int256 found) = _item(id, p, t.index(), t.fold(), index);
        if (!same) return _resolve(id, g, t, Outcome.VOID);
        _resolve(id, g, t, found == total ? Outcome.ASSERTER_WON : Outcome.ASSERTER_LOST);
    }

    /// Whether the leaves are of one mind about an item, and the item.
    function _item(uint64 id, Proof calldata p, uint64 element, uint256 fold_, uint64 index) private returns (bool same, int256 found) {
        uint64[] memory values;
        (same, values) = _values(id, p, element, fold_, index);
        if (!same) return (false, 0);
        found = clearLeaf.item(p.stage, element, fold_, index, p.totals, values);
        same = found == tableLeaf.item(p.stage, element, fold_, index, p.totals, values);
    }

    /// A total that no items can have must not reach the leaves: they might differ on it, and a lost dispute would be void. Sums (the
    /// last folds of sum, cumsum, matmul and scatter_add_rows) are in int64, keys of amax in ±2^31, counts of scatter_value 0 or 1,
    /// and all others are exponent fields.
    function _needInRange(Proof calldata p) private pure {
        uint8 op = uint8(p.stage[0]);
        int256[] calldata totals = p.totals;
        uint256 last = totals.length;
        unchecked {
            if (op != AMAX && op != SCATTER_VALUE) --last; // `fold` has seen that the sum is an int64, and that there is a total
        }
        (int256 least, int256 most) = op == AMAX ? (-int256(1 << 31), int256(1 << 31)) : (int256(0), op == SCATTER_VALUE ? int256(1) : int256(255));
        for (uint256 i = 0; i < last; ++i) {
            int256 total = totals[i];
            if (total < least || total > most) revert OutOfRange(total);
        }
    }
}
