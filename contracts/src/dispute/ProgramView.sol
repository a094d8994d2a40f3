// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// Reads what docs/dispute.md defines of a program: its head, types, stages, inputs, outputs. Integers are big-endian. A place past
/// the end of the bytes reverts.
library ProgramView {
    uint256 internal constant BYTES = 221;
    uint256 private constant HEAD = 5;
    uint256 private constant PART = 108;
    uint32 internal constant NO_VALUE = type(uint32).max;

    struct Part {
        uint32 inputs;
        uint32 stages;
        uint32 outputs;
        bytes32 inputsRoot;
        bytes32 stagesRoot;
        bytes32 outputsRoot;
    }

    struct Input {
        uint8 kind;
        uint32 place;
        bytes kindOfTensor;
        bytes name;
        bytes extra;
    }

    error BadProgram(bytes32 root, bytes32 seen);
    error BadType(bytes kindOfTensor);

    // ---- numbers -------------------------------------------------------------------------------------------------------------

    function number(bytes memory data, uint256 spot, uint256 size) internal pure returns (uint256 value) {
        if (spot + size > data.length) revert BadType(data);
        assembly ("memory-safe") {
            value := shr(sub(256, shl(3, size)), mload(add(add(data, 32), spot)))
        }
    }

    /// data[spot .. spot + length).
    function cut(bytes memory data, uint256 spot, uint256 length) internal pure returns (bytes memory out) {
        if (spot + length > data.length) revert BadType(data);
        out = new bytes(length);
        assembly ("memory-safe") {
            mcopy(add(out, 32), add(add(data, 32), spot), length)
        }
    }

    // ---- head ----------------------------------------------------------------------------------------------------------------

    /// One part of the program; `program` is what follows the tag 0x15 in the preimage of its root.
    function part(bytes calldata program, bytes32 root, bool update) internal pure returns (Part memory p) {
        bytes32 seen = sha256(abi.encodePacked(bytes1(0x15), program));
        if (program.length != BYTES || seen != root) revert BadProgram(root, seen);
        uint256 spot = HEAD + (update ? PART : 0);
        p.inputs = uint32(bytes4(program[spot:spot + 4]));
        p.stages = uint32(bytes4(program[spot + 4:spot + 8]));
        p.outputs = uint32(bytes4(program[spot + 8:spot + 12]));
        p.inputsRoot = bytes32(program[spot + 12:spot + 44]);
        p.stagesRoot = bytes32(program[spot + 44:spot + 76]);
        p.outputsRoot = bytes32(program[spot + 76:spot + 108]);
    }

    // ---- types: dtype u8, ndim u8, dims u64 each -------------------------------------------------------------------------------

    function typeAt(bytes memory data, uint256 spot) internal pure returns (bytes memory) {
        return cut(data, spot, 2 + 8 * number(data, spot + 1, 1));
    }

    /// Bytes of an element: f32, i32, i64, u8, bool.
    function width(bytes memory t) internal pure returns (uint8) {
        uint256 dtype = number(t, 0, 1);
        if (dtype == 1 || dtype == 2) return 4;
        if (dtype == 3) return 8;
        if (dtype == 4 || dtype == 5) return 1;
        revert BadType(t);
    }

    function elements(bytes memory t) internal pure returns (uint64) {
        uint256 count = 1;
        for (uint256 i = 2; i < t.length; i += 8) {
            count *= number(t, i, 8);
            if (count > 1 << 60) revert BadType(t);
        }
        return uint64(count);
    }

    // ---- stages: op u8, operands u16, (value u32, type) each, type of the result, attributes -----------------------------------

    /// Value and type of operand `k`.
    function operand(bytes memory stage, uint256 k) internal pure returns (uint32 value, bytes memory t) {
        if (k >= number(stage, 1, 2)) revert BadType(stage);
        uint256 spot = _operandAt(stage, k);
        return (uint32(number(stage, spot, 4)), typeAt(stage, spot + 4));
    }

    function result(bytes memory stage) internal pure returns (bytes memory) {
        return typeAt(stage, _operandAt(stage, number(stage, 1, 2)));
    }

    function _operandAt(bytes memory stage, uint256 k) private pure returns (uint256 spot) {
        spot = 3;
        for (; k > 0; --k) {
            spot += 6 + 8 * number(stage, spot + 5, 1);
        }
    }

    // ---- inputs: kind u8, place u32, type, len(name) u16, name, extra ----------------------------------------------------------

    function input(bytes memory record) internal pure returns (Input memory i) {
        i.kind = uint8(number(record, 0, 1));
        i.place = uint32(number(record, 1, 4));
        i.kindOfTensor = typeAt(record, 5);
        uint256 spot = 5 + i.kindOfTensor.length;
        uint256 length = number(record, spot, 2);
        i.name = cut(record, spot + 2, length);
        spot += 2 + length;
        i.extra = cut(record, spot, record.length - spot);
    }

    /// output: value u32, type, len(name) u16, name.
    function output(bytes memory record) internal pure returns (uint32 value, bytes memory name) {
        uint256 spot = 4 + typeAt(record, 4).length;
        return (uint32(number(record, 0, 4)), cut(record, spot + 2, number(record, spot, 2)));
    }
}
