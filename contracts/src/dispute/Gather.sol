// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Merkle} from "../libraries/Merkle.sol";
import {GatherMove, Link} from "../types/DisputeTypes.sol";
import {Openings} from "./Openings.sol";
import {ProgramView} from "./ProgramView.sol";

/// Which record stands at a place of the training's endless sequence (assay/sampling.py), and what one of its fields holds.
library Gather {
    using ProgramView for bytes;

    uint256 private constant SALT = 32;

    /// Data root: 0x17, order key, batch u32, records u64, shards u32, merkle(shards), fields.
    struct Data {
        bytes32 order;
        uint32 batch;
        uint64 records;
        uint32 shards;
        bytes32 shardsRoot;
    }

    /// Record at `place` of an epoch: a four-round Feistel network on 2w bits, again until it is below `records`.
    function permute(bytes32 order, uint64 epoch, uint64 records, uint64 place) internal pure returns (uint64) {
        uint256 wide = 0;
        while (uint256(records - 1) >> wide != 0) ++wide;
        uint256 half = (wide + 1) / 2;
        if (half == 0) half = 1;
        uint256 mask = (1 << half) - 1;
        uint256 x = place;
        do {
            (uint256 left, uint256 right) = (x >> half, x & mask);
            for (uint8 r = 0; r < 4; ++r) {
                bytes32 digest = sha256(abi.encodePacked(bytes1(0x30), order, epoch, r, uint32(right)));
                (left, right) = (right, left ^ (uint256(uint32(bytes4(digest))) & mask));
            }
            x = left << half | right;
        } while (x >= records);
        return uint64(x);
    }

    function open(bytes memory data, bytes32 root) internal pure returns (Data memory d) {
        Openings.need(sha256(data) == root && data.number(0, 1) == 0x17, "the data root");
        d.order = bytes32(data.number(1, 32));
        d.batch = uint32(data.number(33, 4));
        d.records = uint64(data.number(37, 8));
        d.shards = uint32(data.number(45, 4));
        d.shardsRoot = bytes32(data.number(49, 32));
    }

    /// Bytes before the field in a record. fields: count u16, (len(name) u16, name, dtype u8, bytes u64) each.
    function offset(bytes memory data, bytes memory name) internal pure returns (uint256 before) {
        uint256 spot = 83;
        for (uint256 left = data.number(81, 2); left > 0; --left) {
            uint256 length = data.number(spot, 2);
            if (keccak256(data.cut(spot + 2, length)) == keccak256(name)) return before;
            before += data.number(spot + 3 + length, 8);
            spot += 11 + length;
        }
        revert Openings.BadOpening("the field of the data");
    }

    /// Bits of `element` of the batch's field, taken from the record that belongs there.
    function value(Link memory l, ProgramView.Input memory field, uint64 element, GatherMove calldata g)
        internal
        view
        returns (uint64)
    {
        Data memory d = open(g.data, l.datasetRoot);
        Openings.need(field.kindOfTensor.number(2, 8) == d.batch, "the batch's size");
        uint64 each = field.kindOfTensor.elements() / d.batch;
        uint64 record = _recordAt(d, (uint256(l.step) * l.micros + l.m) * d.batch + element / each);
        Openings.need(record >= g.first && record - g.first < g.records, "the record's shard");
        bytes32 leaf = Merkle.leafOf(g.shard, abi.encodePacked(g.first, g.records, g.shardRoot));
        Openings.need(Merkle.holds(d.shardsRoot, d.shards, g.shard, leaf, g.shardPath), "the shard");
        record -= g.first;
        leaf = Merkle.leafAt(record, g.example);
        Openings.need(Merkle.holds(g.shardRoot, g.records, record, leaf, g.examplePath), "the record");
        uint256 width = field.kindOfTensor.width();
        return Openings.bits(g.example, SALT + offset(g.data, field.name) + (element % each) * width, width);
    }

    function _recordAt(Data memory d, uint256 place) private pure returns (uint64) {
        return permute(d.order, uint64(place / d.records), d.records, uint64(place % d.records));
    }
}
