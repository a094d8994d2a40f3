// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Hashes} from "../src/libraries/Hashes.sol";
import {Merkle} from "../src/libraries/Merkle.sol";
import {Test} from "./utils/Test.sol";
import {Trees} from "./utils/Trees.sol";

/// Makes the libraries callable, at any address.
contract Harness {
    function commitment(
        uint64 job,
        bytes32 parent,
        bytes32 program,
        uint64 start,
        uint64 stop,
        bytes32 links,
        bytes calldata checkpoint,
        bytes32 key
    ) external view returns (bytes32) {
        return Hashes.commitment(job, parent, program, start, stop, links, sha256(checkpoint), key);
    }

    function attestation(uint64 segment, uint32 round, bool agrees, bytes32[] calldata roots, address verifier, bytes32 salt)
        external
        view
        returns (bytes32)
    {
        return Hashes.attestation(segment, round, agrees, roots, verifier, salt);
    }

    function verify(bytes32 root, uint256 count, uint64 index, bytes32 item, bytes32[] calldata proof)
        external
        view
        returns (bool)
    {
        return Merkle.verify(root, count, index, item, proof);
    }
}

/// The hashes of the contracts on tests/vectors/protocol.json, which pytest holds against assay's.
contract VectorsTest is Test {
    string internal json;
    Harness internal harness;

    function setUp() public {
        json = vm.readFile("../tests/vectors/protocol.json");
        harness = new Harness();
    }

    function entry(string memory list, uint256 i) internal pure returns (string memory) {
        return string.concat(".", list, "[", vm.toString(i), "]");
    }

    function has(string memory key) internal view returns (bool) {
        return vm.keyExistsJson(json, key);
    }

    function number(string memory key, string memory field) internal view returns (uint256) {
        return vm.parseJsonUint(json, string.concat(key, field));
    }

    function word(string memory key, string memory field) internal view returns (bytes32) {
        return vm.parseJsonBytes32(json, string.concat(key, field));
    }

    function test_merkle() public view {
        assertEq(Trees.PAD, vm.parseJsonBytes32(json, ".pad"), "pad");
        uint256 i = 0;
        for (; has(entry("merkle", i)); ++i) {
            string memory key = entry("merkle", i);
            bytes32[] memory items = vm.parseJsonBytes32Array(json, string.concat(key, ".items"));
            bytes32 root = word(key, ".root");
            assertEq(Trees.root(items), root, "root");
            for (uint256 p = 0; has(string.concat(key, entry("proofs", p))); ++p) {
                string memory proof = string.concat(key, entry("proofs", p));
                uint64 index = uint64(number(proof, ".index"));
                bytes32[] memory path = vm.parseJsonBytes32Array(json, string.concat(proof, ".path"));
                assertTrue(harness.verify(root, items.length, index, items[index], path), "the proof holds");
                assertTrue(!harness.verify(root, items.length, index, ~items[index], path), "another item");
                assertTrue(!harness.verify(root, items.length, index + 1, items[index], path), "another index");
                assertTrue(!harness.verify(root, items.length * 2, index, items[index], path), "another count");
                assertTrue(!harness.verify(~root, items.length, index, items[index], path), "another root");
            }
        }
        assertEq(i, 9, "trees");
    }

    function test_commitment() public {
        uint256 i = 0;
        for (; has(entry("commitment", i)); ++i) {
            string memory key = entry("commitment", i);
            vm.chainId(number(key, ".chain_id"));
            address jobs = vm.parseJsonAddress(json, string.concat(key, ".jobs"));
            vm.etch(jobs, address(harness).code);
            bytes32 made = Harness(jobs)
                .commitment(
                    uint64(number(key, ".job")),
                    word(key, ".parent"),
                    word(key, ".program"),
                    uint64(number(key, ".start")),
                    uint64(number(key, ".stop")),
                    word(key, ".links"),
                    vm.parseJsonBytes(json, string.concat(key, ".checkpoint")),
                    word(key, ".key")
                );
            assertEq(made, word(key, ".digest"), "commitment");
        }
        assertEq(i, 3, "commitments");
    }

    function test_draw() public view {
        uint256 i = 0;
        for (; has(entry("draw", i)); ++i) {
            string memory key = entry("draw", i);
            bytes32 seed = Hashes.seed(word(key, ".block_hash"), uint64(number(key, ".segment")), uint32(number(key, ".round")));
            assertEq(seed, word(key, ".seed"), "seed");
            uint256[] memory units = vm.parseJsonUintArray(json, string.concat(key, ".units"));
            for (uint32 j = 0; j < units.length; ++j) {
                uint64 unit = Hashes.unit(
                    seed,
                    j,
                    uint64(number(key, ".steps")),
                    uint32(number(key, ".micros")),
                    uint64(number(key, ".micro_weight")),
                    uint64(number(key, ".update_weight"))
                );
                assertEq(unit, units[j], "unit");
            }
            uint256[] memory slots = vm.parseJsonUintArray(json, string.concat(key, ".slots"));
            for (uint32 t = 0; t < slots.length; ++t) {
                assertEq(Hashes.slot(seed, t, uint64(number(key, ".seats"))), slots[t], "slot");
            }
        }
        assertEq(i, 5, "draws");
    }

    function test_attestation() public {
        uint256 i = 0;
        for (; has(entry("attestation", i)); ++i) {
            string memory key = entry("attestation", i);
            vm.chainId(number(key, ".chain_id"));
            address jobs = vm.parseJsonAddress(json, string.concat(key, ".jobs"));
            vm.etch(jobs, address(harness).code);
            bytes32 made = Harness(jobs)
                .attestation(
                    uint64(number(key, ".segment")),
                    uint32(number(key, ".round")),
                    vm.parseJsonBool(json, string.concat(key, ".agrees")),
                    vm.parseJsonBytes32Array(json, string.concat(key, ".roots")),
                    vm.parseJsonAddress(json, string.concat(key, ".verifier")),
                    word(key, ".salt")
                );
            assertEq(made, word(key, ".digest"), "attestation");
        }
        assertEq(i, 3, "attestations");
    }

    function test_opening() public view {
        uint256 i = 0;
        for (; has(entry("opening", i)); ++i) {
            string memory key = entry("opening", i);
            address verifier = vm.parseJsonAddress(json, string.concat(key, ".verifier"));
            uint256[] memory units = vm.parseJsonUintArray(json, string.concat(key, ".units"));
            uint256[] memory positions = vm.parseJsonUintArray(json, string.concat(key, ".positions"));
            uint256[] memory leaves = vm.parseJsonUintArray(json, string.concat(key, ".leaves"));
            uint256 micros = number(key, ".micros");
            for (uint32 j = 0; j < positions.length; ++j) {
                uint256 x = Hashes.opening(word(key, ".block_hash"), uint64(number(key, ".segment")), verifier, j);
                assertEq(x % units.length, positions[j], "position");
                bool isUpdate = units[positions[j]] % (micros + 1) == micros;
                uint256 count = number(key, isUpdate ? ".update_leaves" : ".micro_leaves");
                assertEq((x / units.length) % count, leaves[j], "leaf");
            }
        }
        assertEq(i, 3, "openings");
    }

    function test_chunk() public view {
        uint256 i = 0;
        for (; has(entry("chunk", i)); ++i) {
            string memory key = entry("chunk", i);
            uint256 made = Hashes.chunk(word(key, ".block_hash"), uint64(number(key, ".segment")));
            assertEq(bytes32(made), word(key, ".number"), "number");
        }
        assertEq(i, 5, "chunks");
    }
}
