// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Gather} from "../../src/dispute/Gather.sol";
import {Openings} from "../../src/dispute/Openings.sol";
import {Merkle} from "../../src/libraries/Merkle.sol";
import {Trees} from "./Trees.sol";

/// A training of its own, small enough to be built inside a test, with every kind of input, output and stage that a dispute can meet. Numbers
/// are 32-bit integers (utils/MockLeaf.sol).
///
/// State: w [300], z [5]. Accumulator: g [300] from zeros, z [5] from the state's z. Batch: x [2, 150]. Schedule: two columns.
///   micro    inputs g 0, z 1, x 2; stages 3 = g + x, 4 = z + z, 5 = sum(x); outputs g = 3, z = 1 (an input)
///   update   inputs w 0, g 1, lr 2 (column 1), step 3, c 4; stages 5 = w + g, 6 = 5 * lr, 7 = sum(6), 8 = 5 * step, 9 = 8 + c,
///            10 .. 24 = 9 + 5; outputs w = 9, z = that of the state before
library Toy {
    uint32 internal constant NO_VALUE = type(uint32).max;
    uint32 internal constant MICROS = 2;
    uint64 internal constant STEPS = 10;
    uint32 internal constant MICRO_LEAVES = 5;
    uint32 internal constant UPDATE_LEAVES = 22;
    uint64 internal constant N = 300;
    uint32 internal constant ADD = 15;
    uint32 internal constant MUL = 17;
    uint32 internal constant SUM = 33;
    uint64 internal constant RECORDS = 7;
    bytes32 internal constant ORDER = bytes32(uint256(77));

    // ---- types and tensors -----------------------------------------------------------------------------------------------------

    function scalar() internal pure returns (bytes memory) {
        return hex"0100";
    }

    function vector(uint64 n) internal pure returns (bytes memory) {
        return abi.encodePacked(hex"0101", n);
    }

    function matrix(uint64 n, uint64 k) internal pure returns (bytes memory) {
        return abi.encodePacked(hex"0102", n, k);
    }

    function chunk(uint32[] memory data, uint256 index) internal pure returns (bytes memory out) {
        out = new bytes(1024);
        uint256 from = index * 256;
        uint256 count = data.length - from < 256 ? data.length - from : 256;
        for (uint256 i = 0; i < count; ++i) {
            uint32 v = data[from + i];
            assembly ("memory-safe") {
                let spot := add(add(out, 32), shl(2, i))
                mstore8(spot, v)
                mstore8(add(spot, 1), shr(8, v))
                mstore8(add(spot, 2), shr(16, v))
                mstore8(add(spot, 3), shr(24, v))
            }
        }
    }

    function rows(uint32[] memory data) internal view returns (bytes32[][] memory) {
        bytes32[] memory leaves = new bytes32[]((data.length + 255) / 256);
        for (uint256 i = 0; i < leaves.length; ++i) {
            leaves[i] = Merkle.leafOf(uint64(i), chunk(data, i));
        }
        return Trees.rows(leaves);
    }

    function root(bytes memory t, uint32[] memory data) internal view returns (bytes32) {
        return Openings.tensorRoot(t, Trees.top(rows(data)));
    }

    function leavesOf(bytes[] memory items) internal pure returns (bytes32[] memory leaves) {
        leaves = new bytes32[](items.length);
        for (uint256 i = 0; i < items.length; ++i) {
            leaves[i] = Merkle.leafOf(uint64(i), items[i]);
        }
    }

    // ---- the program -----------------------------------------------------------------------------------------------------------

    function input(uint8 kind, uint32 place, bytes memory t, string memory name, bytes memory extra)
        internal
        pure
        returns (bytes memory)
    {
        return abi.encodePacked(kind, place, t, uint16(bytes(name).length), name, extra);
    }

    function output(uint32 value, bytes memory t, string memory name) internal pure returns (bytes memory) {
        return abi.encodePacked(value, t, uint16(bytes(name).length), name);
    }

    function constant_() internal pure returns (uint32[] memory data) {
        data = new uint32[](N);
        for (uint32 i = 0; i < N; ++i) {
            data[i] = i * i;
        }
    }

    function inputs(bool update) internal view returns (bytes[] memory r) {
        if (!update) {
            r = new bytes[](3);
            r[0] = input(1, 0, vector(N), "g", abi.encodePacked(NO_VALUE));
            r[1] = input(1, 1, vector(5), "z", abi.encodePacked(uint32(1)));
            r[2] = input(2, 0, matrix(2, 150), "x", "");
        } else {
            r = new bytes[](5);
            r[0] = input(0, 0, vector(N), "w", "");
            r[1] = input(1, 0, vector(N), "g", abi.encodePacked(NO_VALUE));
            r[2] = input(3, 1, scalar(), "lr", abi.encodePacked(uint32(2)));
            r[3] = input(4, 0, hex"0300", "step", "");
            r[4] = input(5, 0, vector(N), "c", abi.encodePacked(root(vector(N), constant_())));
        }
    }

    function stage(uint32 op, uint32 a, bytes memory ta, uint32 b, bytes memory tb, bytes memory t) internal pure returns (bytes memory) {
        return abi.encodePacked(uint8(op), uint16(2), a, ta, b, tb, t);
    }

    function stages(bool update) internal pure returns (bytes[] memory r) {
        bytes memory v = vector(N);
        if (!update) {
            r = new bytes[](3);
            r[0] = stage(ADD, 0, v, 2, matrix(2, 150), v);
            r[1] = stage(ADD, 1, vector(5), 1, vector(5), vector(5));
            r[2] = abi.encodePacked(uint8(SUM), uint16(1), uint32(2), matrix(2, 150), scalar(), hex"02000100");
            return r;
        }
        r = new bytes[](UPDATE_LEAVES - 2);
        r[0] = stage(ADD, 0, v, 1, v, v);
        r[1] = stage(MUL, 5, v, 2, scalar(), v);
        r[2] = abi.encodePacked(uint8(SUM), uint16(1), uint32(6), v, scalar(), hex"010000");
        r[3] = stage(MUL, 5, v, 3, hex"0300", v);
        r[4] = stage(ADD, 8, v, 4, v, v);
        for (uint256 i = 5; i < r.length; ++i) {
            r[i] = stage(ADD, 9, v, 5, v, v);
        }
    }

    function outputs(bool update) internal pure returns (bytes[] memory r) {
        r = new bytes[](2);
        r[0] = update ? output(9, vector(N), "w") : output(3, vector(N), "g");
        r[1] = update ? output(NO_VALUE, vector(5), "z") : output(1, vector(5), "z");
    }

    function part(bool update) internal view returns (bytes memory) {
        (bytes[] memory i, bytes[] memory s, bytes[] memory o) = (inputs(update), stages(update), outputs(update));
        return abi.encodePacked(
            uint32(i.length),
            uint32(s.length),
            uint32(o.length),
            Trees.top(Trees.rows(leavesOf(i))),
            Trees.top(Trees.rows(leavesOf(s))),
            Trees.top(Trees.rows(leavesOf(o)))
        );
    }

    function program() internal view returns (bytes memory) {
        return abi.encodePacked(hex"18", MICROS, part(false), part(true));
    }

    // ---- data ------------------------------------------------------------------------------------------------------------------

    /// Record `i`: salt and 150 numbers, after a field of two bytes that the program does not read.
    function record(uint64 i) internal pure returns (bytes memory out) {
        bytes memory numbers = chunk(recordNumbers(i), 0);
        assembly ("memory-safe") {
            mstore(numbers, 600)
        }
        return abi.encodePacked(keccak256(abi.encode("salt", i)), hex"abcd", numbers);
    }

    function recordNumbers(uint64 i) private pure returns (uint32[] memory numbers) {
        numbers = new uint32[](150);
        for (uint32 k = 0; k < 150; ++k) {
            numbers[k] = uint32(i * 1000 + k);
        }
    }

    /// Shards of 4 and 3 records.
    function shardOf(uint64 i) internal pure returns (uint64 shard, uint64 first, uint64 records) {
        return i < 4 ? (0, 0, 4) : (uint64(1), uint64(4), uint64(3));
    }

    function shardRows(uint64 first, uint64 records) internal view returns (bytes32[][] memory) {
        bytes32[] memory leaves = new bytes32[](records);
        for (uint64 i = 0; i < records; ++i) {
            leaves[i] = Merkle.leafOf(i, record(first + i));
        }
        return Trees.rows(leaves);
    }

    function shardsRows() internal view returns (bytes32[][] memory) {
        bytes[] memory shards = new bytes[](2);
        shards[0] = abi.encodePacked(uint64(0), uint64(4), Trees.top(shardRows(0, 4)));
        shards[1] = abi.encodePacked(uint64(4), uint64(3), Trees.top(shardRows(4, 3)));
        return Trees.rows(leavesOf(shards));
    }

    function dataset() internal view returns (bytes memory) {
        bytes memory fields = abi.encodePacked(uint16(2), uint16(1), "a", uint8(4), uint64(2), uint16(1), "x", uint8(1), uint64(600));
        return abi.encodePacked(hex"17", ORDER, uint32(2), RECORDS, uint32(2), Trees.top(shardsRows()), fields);
    }

    function recordAt(uint64 step, uint32 m, uint64 row) internal pure returns (uint64) {
        uint64 place = (step * MICROS + m) * 2 + row;
        return Gather.permute(ORDER, place / RECORDS, RECORDS, place % RECORDS);
    }

    function batchOf(uint64 step, uint32 m) internal pure returns (uint32[] memory x) {
        x = new uint32[](N);
        for (uint64 row = 0; row < 2; ++row) {
            uint64 first = recordAt(step, m, row) * 1000;
            for (uint64 k = 0; k < 150; ++k) {
                x[row * 150 + k] = uint32(first + k);
            }
        }
    }

    function schedule() internal pure returns (uint32[] memory s) {
        s = new uint32[](STEPS * 2);
        for (uint32 i = 0; i < s.length; ++i) {
            s[i] = 3 + i;
        }
    }

    // ---- sets of tensors -------------------------------------------------------------------------------------------------------

    function entries(string memory a, bytes32 rootA, string memory b, bytes32 rootB) internal pure returns (bytes32[] memory leaves) {
        leaves = new bytes32[](2);
        leaves[0] = Openings.entryLeaf(0, bytes(a), rootA);
        leaves[1] = Openings.entryLeaf(1, bytes(b), rootB);
    }

    function stateRows(uint32[] memory w, uint32[] memory z) internal view returns (bytes32[][] memory) {
        return Trees.rows(entries("w", root(vector(N), w), "z", root(vector(5), z)));
    }

    function accRows(uint32[] memory g, uint32[] memory z) internal view returns (bytes32[][] memory) {
        return Trees.rows(entries("g", root(vector(N), g), "z", root(vector(5), z)));
    }

    function batchRows(uint32[] memory x) internal view returns (bytes32[][] memory) {
        bytes32[] memory leaves = new bytes32[](1);
        leaves[0] = Openings.entryLeaf(0, "x", root(matrix(2, 150), x));
        return Trees.rows(leaves);
    }

    // ---- arithmetic ------------------------------------------------------------------------------------------------------------

    function add(uint32[] memory a, uint32[] memory b) internal pure returns (uint32[] memory out) {
        out = new uint32[](a.length);
        for (uint256 i = 0; i < a.length; ++i) {
            unchecked {
                out[i] = a[i] + b[i];
            }
        }
    }

    function mul(uint32[] memory a, uint32 b) internal pure returns (uint32[] memory out) {
        out = new uint32[](a.length);
        for (uint256 i = 0; i < a.length; ++i) {
            unchecked {
                out[i] = a[i] * b;
            }
        }
    }

    /// Totals of the two folds over elements [lo, hi).
    function folds(uint32[] memory a, uint256 lo, uint256 hi) internal pure returns (int256[] memory totals) {
        totals = new int256[](2);
        for (uint256 i = lo; i < hi; ++i) {
            int256 low = int256(uint256(a[i] & 0xff));
            if (low > totals[0]) totals[0] = low;
            totals[1] += int256(uint256(a[i]));
        }
    }

    function sum(uint32[] memory a) internal pure returns (uint32[] memory out) {
        out = new uint32[](1);
        int256[] memory totals = folds(a, 0, a.length);
        out[0] = uint32(uint256(totals[0] + totals[1]));
    }
}
