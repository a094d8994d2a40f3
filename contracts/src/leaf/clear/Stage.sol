// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// The operators by their codes (docs/dispute.md).
enum Op {
    CONST,
    IOTA,
    NEG,
    ABS,
    RELU,
    SQRT,
    RSQRT,
    RECIPROCAL,
    EXP,
    LOG,
    TANH,
    ERF,
    SIGMOID,
    SIN,
    COS,
    ADD,
    SUB,
    MUL,
    DIV,
    MAXIMUM,
    MINIMUM,
    AND,
    OR,
    NOT,
    EQ,
    NE,
    LT,
    LE,
    GT,
    GE,
    SELECT,
    PHILOX,
    CAST,
    SUM,
    AMAX,
    CUMSUM,
    MATMUL,
    SCATTER_ADD_ROWS,
    RESHAPE,
    PERMUTE,
    EXPAND,
    SLICE,
    REVERSE,
    WINDOWS,
    SPREAD,
    PAD,
    CONCAT,
    TAKE_ROWS,
    GATHER,
    SCATTER_VALUE
}

// Codes of dtypes.
uint256 constant F32 = 1;
uint256 constant I32 = 2;
uint256 constant I64 = 3;
uint256 constant U8 = 4;
uint256 constant BOOL = 5;

struct Type {
    uint256 dtype;
    uint256[] dims;
    uint256 elements;
}

/// `axes`: the axis or axes among the attributes. `numbers`: the other attributes, in the order of the page.
struct Stage {
    Op op;
    Type[] operands;
    Type result;
    uint256[] axes;
    uint256[] numbers;
}

/// Strict decoding of a stage's bytes. Checked are the form and the bounds of assay/exact/types.py, the number of operands, and that
/// axes are axes of the first operand. The rules between shapes are those of the table, which a program was checked for.
library Stages {
    error BadStage();

    uint256 private constant MAX_RANK = 8;
    uint256 private constant MAX_DIM = 1 << 32;
    uint256 private constant MAX_ELEMENTS = 1 << 40;

    function decode(bytes calldata data) internal pure returns (Stage memory s) {
        uint256 code = _read(data, 0, 1);
        if (code > uint256(type(Op).max)) revert BadStage();
        s.op = Op(code);
        s.operands = new Type[](_read(data, 1, 2));
        if (s.op == Op.CONCAT ? s.operands.length == 0 : s.operands.length != _arity(s.op)) revert BadStage();
        uint256 here = 3;
        for (uint256 i = 0; i < s.operands.length; ++i) {
            here = _type(data, here + 4, s.operands[i]); // past the operand's number
        }
        here = _type(data, here, s.result);
        here = _attributes(data, here, s);
        if (here != data.length) revert BadStage();
    }

    /// The big-endian number of `size` bytes at `here`, size <= 32.
    function _read(bytes calldata data, uint256 here, uint256 size) private pure returns (uint256 value) {
        if (here + size > data.length) revert BadStage();
        assembly ("memory-safe") {
            value := shr(sub(256, mul(8, size)), calldataload(add(data.offset, here)))
        }
    }

    /// Reads a type into `t`; what follows it is at `next`.
    function _type(bytes calldata data, uint256 here, Type memory t) private pure returns (uint256 next) {
        uint256 head = _read(data, here, 2);
        (uint256 dtype, uint256 rank) = (head >> 8, head & 0xff);
        if (dtype < F32 || dtype > BOOL || rank > MAX_RANK) revert BadStage();
        uint256[] memory dims = new uint256[](rank);
        uint256 elements = 1;
        // None of this overflows: a product is at most 2^40 before it is multiplied by at most 2^32.
        unchecked {
            next = here + 2 + 8 * rank;
            if (next > data.length) revert BadStage();
            for (uint256 i = 0; i < rank; ++i) {
                uint256 n;
                assembly ("memory-safe") {
                    n := shr(192, calldataload(add(add(data.offset, here), add(2, shl(3, i)))))
                    mstore(add(dims, shl(5, add(i, 1))), n)
                }
                if (n == 0 || n > MAX_DIM) revert BadStage();
                elements *= n;
                if (elements > MAX_ELEMENTS) revert BadStage();
            }
        }
        (t.dtype, t.dims, t.elements) = (dtype, dims, elements);
    }

    function _arity(Op op) private pure returns (uint256) {
        if (op <= Op.IOTA) return 0;
        if (op == Op.SELECT || op == Op.PHILOX) return 3;
        if (op >= Op.ADD && op <= Op.GE && op != Op.NOT) return 2;
        if (op == Op.MATMUL || op == Op.SCATTER_ADD_ROWS || op >= Op.TAKE_ROWS) return 2;
        return 1;
    }

    function _attributes(bytes calldata data, uint256 here, Stage memory s) private pure returns (uint256) {
        Op op = s.op;
        // Axes, with or without their count before them.
        if (op == Op.SUM || op == Op.AMAX) {
            here = _axes(data, here + 1, _read(data, here, 1), s);
            for (uint256 i = 1; i < s.axes.length; ++i) {
                if (s.axes[i] <= s.axes[i - 1]) revert BadStage();
            }
        } else if (op == Op.PERMUTE) {
            here = _axes(data, here, s.operands[0].dims.length, s);
        } else if (op == Op.CUMSUM || (op >= Op.SLICE && op != Op.TAKE_ROWS)) {
            here = _axes(data, here, 1, s);
        }
        // Numbers: of one byte ...
        if (op == Op.CAST || op == Op.SUM || op == Op.AMAX || op == Op.MATMUL) return _numbers(data, here, 1, 1, s);
        // ... or of eight.
        if (op == Op.CONST) {
            uint256 dtype = _read(data, here, 1);
            if (dtype != s.result.dtype) revert BadStage();
            return _numbers(data, here + 1, 1, 8, s);
        }
        if (op == Op.IOTA || op == Op.SCATTER_ADD_ROWS || op == Op.SCATTER_VALUE) return _numbers(data, here, 1, 8, s);
        if (op == Op.SLICE || op == Op.WINDOWS || op == Op.SPREAD || op == Op.PAD) return _numbers(data, here, 3, 8, s);
        return here;
    }

    function _axes(bytes calldata data, uint256 here, uint256 count, Stage memory s) private pure returns (uint256) {
        s.axes = new uint256[](count);
        for (uint256 i = 0; i < count; ++i) {
            s.axes[i] = _read(data, here + i, 1);
            if (s.axes[i] >= s.operands[0].dims.length) revert BadStage();
        }
        return here + count;
    }

    function _numbers(bytes calldata data, uint256 here, uint256 count, uint256 size, Stage memory s)
        private
        pure
        returns (uint256)
    {
        s.numbers = new uint256[](count);
        for (uint256 i = 0; i < count; ++i) {
            s.numbers[i] = _read(data, here + i * size, size);
        }
        return here + count * size;
    }
}
