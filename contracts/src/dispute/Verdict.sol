// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ILeaf, Need} from "../interfaces/ILeaf.sol";
import {Merkle} from "../libraries/Merkle.sol";
import {Dispute, Evidence, Link, Outcome, Proof, Rules, Stand} from "../types/DisputeTypes.sol";
import {Court} from "./Court.sol";
import {Openings} from "./Openings.sol";
import {ProgramView} from "./ProgramView.sol";

/// One element, or one item of a fold, decided by two leaves that share no code. Where they differ the dispute is void. A leaf that reverts
/// makes the move revert: gas that does not suffice must not look like a difference.
/// Code that Disputes runs by delegatecall (see Disputes.sol); by itself it holds nothing.
contract Verdict is Court {
    using ProgramView for bytes;

    uint256 private constant PARTS = 16;
    uint256 private constant MOST_NEEDS = 8;
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
        Dispute storage d = _turn(id, Stand.ELEMENT, true);
        (bool same, bool right) = _element(d, p, 0);
        if (!same) return _resolve(id, d, Outcome.VOID);
        _resolve(id, d, right ? Outcome.ASSERTER_WON : Outcome.ASSERTER_LOST);
    }

    /// The output from the totals of its folds, which the challenger may doubt.
    function fold(uint64 id, Proof calldata p) external nonReentrant {
        Dispute storage d = _turn(id, Stand.ELEMENT, true);
        if (p.totals.length == 0) revert WrongFold(0, 0);
        for (uint256 i = 0; i < p.totals.length; ++i) {
            _needInRange(p.stage, i, p.totals.length, p.totals[i]);
        }
        (bool same, bool right) = _element(d, p, p.totals.length);
        if (!same) return _resolve(id, d, Outcome.VOID);
        if (!right) return _resolve(id, d, Outcome.ASSERTER_LOST);
        d.facts = _facts(keccak256(abi.encode(p.link)), keccak256(p.stage), keccak256(abi.encode(p.totals)));
        _next(id, d, Stand.PICK, false);
    }

    /// Whether the leaves are of one mind, and whether the output is what they say.
    function _element(Dispute storage d, Proof calldata p, uint256 folds) private view returns (bool same, bool right) {
        _needFacts(d, keccak256(abi.encode(p.link)), keccak256(p.stage), 0);
        uint256 count = clearLeaf.folds(p.stage);
        if (count != tableLeaf.folds(p.stage)) return (false, false);
        if (count != folds || p.totals.length != folds) revert WrongFold(p.totals.length, count);
        (uint64 element, uint8 width) = (d.index, d.width);
        if (Merkle.leafOf(uint64(uint256(element) * width / Openings.CHUNK), p.chunk) != d.node) revert BadRoot("the output's chunk");
        uint64[] memory values;
        (same, values) = _values(p, element, folds, 0);
        if (!same) return (false, false);
        uint64 bits = clearLeaf.finish(p.stage, element, p.totals, values);
        if (bits != tableLeaf.finish(p.stage, element, p.totals, values)) return (false, false);
        return (true, bits == Openings.inChunk(p.chunk, element, width));
    }

    /// Values of all that the output (fold = number of folds) or an item needs; the evidence comes in the order of the needs.
    function _values(Proof calldata p, uint64 element, uint256 fold_, uint64 index)
        private
        view
        returns (bool same, uint64[] memory values)
    {
        ProgramView.Part memory part = p.program.part(p.link.programRoot, _isUpdate(p.link));
        while (true) {
            Need[] memory wanted = clearLeaf.needs(p.stage, element, fold_, index, values);
            if (keccak256(abi.encode(wanted)) != keccak256(abi.encode(tableLeaf.needs(p.stage, element, fold_, index, values)))) {
                return (false, values);
            }
            if (wanted.length <= values.length) break;
            if (wanted.length > MOST_NEEDS || wanted.length > p.evidence.length) {
                revert WrongParts(p.evidence.length, wanted.length);
            }
            uint64[] memory more = new uint64[](wanted.length);
            for (uint256 i = 0; i < more.length; ++i) {
                more[i] = i < values.length ? values[i] : Openings.value(p.link, part, p.stage, wanted[i], p.evidence[i]);
            }
            values = more;
        }
        if (p.evidence.length != values.length) revert WrongParts(p.evidence.length, values.length);
        return (true, values);
    }

    // ---- a fold --------------------------------------------------------------------------------------------------------------

    function pick(uint64 id, bytes32 link, bytes calldata stage_, int256[] calldata totals, uint256 fold_) external nonReentrant {
        Dispute storage d = _turn(id, Stand.PICK, false);
        _needFacts(d, link, keccak256(stage_), keccak256(abi.encode(totals)));
        if (fold_ >= totals.length) revert WrongFold(fold_, totals.length);
        uint64 items = clearLeaf.length(stage_, d.index, fold_);
        if (items != tableLeaf.length(stage_, d.index, fold_)) return _resolve(id, d, Outcome.VOID);
        if (items == 0) revert WrongFold(fold_, 0);
        (d.fold, d.lo, d.hi, d.total, d.folds) =
            (uint8(fold_), 0, items, int64(totals[fold_]), uint8(totals.length));
        _next(id, d, Stand.RANGE, true);
    }

    function split(uint64 id, bytes32 link, bytes32 totals, bytes calldata stage_, int256[] calldata parts) external nonReentrant {
        Dispute storage d = _turn(id, Stand.RANGE, true);
        _needFacts(d, link, keccak256(stage_), totals);
        uint256 items = d.hi - d.lo;
        uint256 count = items < PARTS ? items : PARTS;
        if (items == 1 || parts.length != count) revert WrongParts(parts.length, count);
        for (uint256 i = 0; i < count; ++i) {
            _needInRange(stage_, d.fold, d.folds, parts[i]);
        }
        int256 total = clearLeaf.combine(stage_, d.fold, parts);
        if (total != tableLeaf.combine(stage_, d.fold, parts)) return _resolve(id, d, Outcome.VOID);
        if (total != d.total) revert OutOfRange(total);
        d.node = keccak256(abi.encode(parts));
        _next(id, d, Stand.RANGE, false);
    }

    function choose(uint64 id, int256[] calldata parts, uint256 part) external nonReentrant {
        Dispute storage d = _turn(id, Stand.RANGE, false);
        bytes32 seen = keccak256(abi.encode(parts));
        if (seen != d.node) revert BadFacts(d.node, seen);
        if (part >= parts.length) revert WrongParts(part, parts.length);
        (uint256 lo, uint256 items) = (d.lo, d.hi - d.lo);
        (d.lo, d.hi) = (uint64(lo + part * items / parts.length), uint64(lo + (part + 1) * items / parts.length));
        d.total = int64(parts[part]);
        _next(id, d, Stand.RANGE, true);
    }

    function item(uint64 id, Proof calldata p) external nonReentrant {
        Dispute storage d = _turn(id, Stand.RANGE, true);
        _needFacts(d, keccak256(abi.encode(p.link)), keccak256(p.stage), keccak256(abi.encode(p.totals)));
        if (d.hi - d.lo != 1) revert WrongParts(d.hi - d.lo, 1);
        (uint64 element, uint256 fold_, uint64 index) = (d.index, d.fold, d.lo);
        (bool same, uint64[] memory values) = _values(p, element, fold_, index);
        if (!same) return _resolve(id, d, Outcome.VOID);
        int256 found = clearLeaf.item(p.stage, element, fold_, index, p.totals, values);
        if (found != tableLeaf.item(p.stage, element, fold_, index, p.totals, values)) return _resolve(id, d, Outcome.VOID);
        _resolve(id, d, found == d.total ? Outcome.ASSERTER_WON : Outcome.ASSERTER_LOST);
    }

    /// A total that no items can have must not reach the leaves: they might differ on it, and a lost dispute would be void. Sums (the
    /// last folds of sum, cumsum, matmul and scatter_add_rows) are in int64, keys of amax in ±2^31, counts of scatter_value 0 or 1,
    /// and all others are exponent fields.
    function _needInRange(bytes calldata stage_, uint256 fold_, uint256 folds, int256 value) private pure {
        uint8 op = uint8(stage_[0]);
        (int256 least, int256 most) = (int256(0), int256(255));
        if (op == AMAX) (least, most) = (-(1 << 31), 1 << 31);
        else if (op == SCATTER_VALUE) most = 1;
        else if (fold_ == folds - 1) (least, most) = (type(int64).min, type(int64).max);
        if (value < least || value > most) revert OutOfRange(value);
    }
}
