// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Federated} from "../../src/Federated.sol";
import {TestToken} from "../../src/TestToken.sol";
import {Merkle} from "../../src/libraries/Merkle.sol";
import {FederatedTerms, Piece, Rule, Sum} from "../../src/types/FederatedTypes.sol";
import {Test} from "./Test.sol";
import {Trees} from "./Trees.sol";

/// Federated jobs of four owners, and rows of them that add up.
abstract contract Summed is Test {
    uint256 internal constant OWNERS = 4;
    uint96 internal constant PAY = 101e6;
    uint96 internal constant BOND = 50e6 + 1;
    uint32 internal constant WINDOW = 1 hours;
    uint64 internal constant LENGTH = 300;
    uint256 internal constant STEP = 29;

    TestToken internal token;
    Federated internal federated;
    address internal host = address(0x4057);
    address internal auditor = address(0xA0D);
    address internal stranger = address(0x57);
    uint256 internal timeNow = 1_800_000_000;

    function setUp() public virtual {
        vm.warp(timeNow);
        token = new TestToken();
        federated = new Federated(address(token));
        token.mint(host, 1e15);
        vm.prank(host);
        token.approve(address(federated), type(uint256).max);
    }

    function key(uint256 place) internal pure returns (uint256) {
        return 0xB0B + place;
    }

    function owner(uint256 place) internal pure returns (address) {
        return vm.addr(key(place));
    }

    function refused(bytes memory reason) internal {
        vm.expectRevert(reason);
    }

    function pass(uint256 seconds_) internal {
        timeNow += seconds_;
        vm.warp(timeNow);
    }

    // ---- jobs ------------------------------------------------------------------------------------------------------------------

    function terms() internal view returns (FederatedTerms memory t) {
        (t.job, t.auditor, t.rule, t.worth) = (keccak256("job"), auditor, Rule.WORTH, keccak256("worth"));
        (t.owners, t.shares) = (new address[](OWNERS), new uint32[](OWNERS));
        for (uint32 i = 0; i < OWNERS; ++i) {
            (t.owners[i], t.shares[i]) = (owner(i), i + 1);
        }
        (t.rounds, t.minimum, t.bits, t.length) = (2, 3, 64, LENGTH);
        (t.pay, t.bond, t.window, t.deadline) = (PAY, BOND, WINDOW, uint64(timeNow + 1 days));
    }

    function posted(FederatedTerms memory t) internal returns (uint64) {
        vm.prank(host);
        return federated.post(t);
    }

    // ---- rows ------------------------------------------------------------------------------------------------------------------

    /// Number `index` of an owner's row; all others than each STEP-th are zero. All of its bits are used, so that sums wrap.
    function number(uint256 place, uint256 index) internal pure returns (uint64) {
        return uint64(uint256(keccak256(abi.encode(place, index))));
    }

    /// The bytes of a row: of the owner at `place`, or of the total of those who are counted for place 255. `bent` is added to number `where`.
    function row(uint8 bits, uint256 place, uint256 counted, uint256 where, uint64 bent) internal pure returns (bytes memory data) {
        uint256 width = bits / 8;
        data = new bytes((uint256(LENGTH) * width + 1023) / 1024 * 1024);
        for (uint256 i = 0; i < LENGTH; i += STEP) {
            uint64 x = 0;
            unchecked {
                for (uint256 o = 0; o < OWNERS; ++o) {
                    if (place == 255 ? (counted >> o) & 1 == 1 : place == o) x += number(o, i);
                }
                if (i == where) x += bent;
            }
            write(data, i * width, width, x);
        }
        if (where < LENGTH && where % STEP != 0) write(data, where * width, width, bent);
    }

    /// The lowest bytes of `x`, little-endian.
    function write(bytes memory data, uint256 spot, uint256 width, uint64 x) private pure {
        for (uint256 b = 0; b < width; ++b) {
            data[spot + b] = bytes1(uint8(x >> (8 * b)));
        }
    }

    function chunkOf(bytes memory data, uint256 index) internal pure returns (bytes memory chunk) {
        chunk = new bytes(1024);
        for (uint256 i = 32; i <= 1024; i += 32) {
            assembly ("memory-safe") {
                mstore(add(chunk, i), mload(add(data, add(mul(index, 1024), i))))
            }
        }
    }

    function treeOf(bytes memory data) internal view returns (bytes32[][] memory) {
        bytes32[] memory leaves = new bytes32[](data.length / 1024);
        for (uint64 i = 0; i < leaves.length; ++i) {
            leaves[i] = Merkle.leafOf(i, chunkOf(data, i));
        }
        return Trees.rows(leaves);
    }

    function rootOf(uint8 bits, bytes memory data) internal view returns (bytes32) {
        uint8 code = bits == 32 ? 2 : 3;
        return sha256(abi.encodePacked(hex"10", code, uint8(1), LENGTH, Trees.top(treeOf(data))));
    }

    function pieceOf(uint8 bits, bytes memory data, uint64 index) internal view returns (Piece memory p) {
        uint256 chunk = uint256(index) * (bits / 8) / 1024;
        bytes32[][] memory tree = treeOf(data);
        p = Piece(chunkOf(data, chunk), Trees.path(tree, 0, tree.length - 1, chunk));
    }

    /// The sum of a round, of those whose bit is set, with `bent` added to number `where` of the total.
    function summed(uint8 bits, uint256 counted, uint256 where, uint64 bent) internal view returns (Sum memory s) {
        (s.terms, s.total, s.rows) = (keccak256("terms"), rootOf(bits, row(bits, 255, counted, where, bent)), new bytes32[](OWNERS));
        for (uint256 i = 0; i < OWNERS; ++i) {
            if ((counted >> i) & 1 == 1) s.rows[i] = rootOf(bits, row(bits, i, 0, 0, 0));
        }
    }

    function pieces(uint8 bits, uint256 counted, uint64 index) internal view returns (Piece[] memory p) {
        uint256 many = 0;
        for (uint256 i = 0; i < OWNERS; ++i) {
            many += (counted >> i) & 1;
        }
        p = new Piece[](many);
        many = 0;
        for (uint256 i = 0; i < OWNERS; ++i) {
            if ((counted >> i) & 1 == 1) p[many++] = pieceOf(bits, row(bits, i, 0, 0, 0), index);
        }
    }

    function totalPiece(uint8 bits, uint256 counted, uint256 where, uint64 bent, uint64 index) internal view returns (Piece memory) {
        return pieceOf(bits, row(bits, 255, counted, where, bent), index);
    }

    function signatures(uint64 id, uint32 round, Sum memory s) internal view returns (bytes[] memory out) {
        out = new bytes[](s.rows.length);
        for (uint32 i = 0; i < s.rows.length; ++i) {
            if (s.rows[i] == 0) continue;
            (uint8 v, bytes32 r, bytes32 z) = vm.sign(key(i), federated.digestOf(id, round, s.terms, i, s.rows[i]));
            out[i] = abi.encodePacked(r, z, v);
        }
    }

    function closed(uint64 id, FederatedTerms memory t, Sum memory s) internal {
        bytes[] memory signed = signatures(id, federated.job(id).closed, s);
        vm.prank(host);
        federated.close(id, t, s, signed);
    }
}
