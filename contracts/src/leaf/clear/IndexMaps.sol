// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {I32, Op, Stage, Type} from "./Stage.sol";

/// Where the elements of an output come from: broadcasting, and the index maps of MOVE. Elements count in C order.
library IndexMaps {
    /// An element seen from one axis: element = (outer · n + place) · inner + rest, n being the axis' size.
    struct Spot {
        uint256 outer;
        uint256 place;
        uint256 inner;
        uint256 rest;
    }

    function split(uint256[] memory dims, uint256 axis, uint256 element) internal pure returns (Spot memory s) {
        s.inner = 1;
        for (uint256 i = axis + 1; i < dims.length; ++i) {
            s.inner *= dims[i];
        }
        s.rest = element % s.inner;
        s.place = (element / s.inner) % dims[axis];
        s.outer = element / s.inner / dims[axis];
    }

    /// The way back, on an axis of n.
    function join(Spot memory s, uint256 n, uint256 place) internal pure returns (uint256) {
        return (s.outer * n + place) * s.inner + s.rest;
    }

    /// The element of a value of dimensions `from` that broadcasting puts at `element` of dimensions `to`.
    function broadcast(uint256[] memory from, uint256[] memory to, uint256 element) internal pure returns (uint256 chosen) {
        uint256 stride = 1;
        uint256 axis = to.length;
        for (uint256 i = from.length; i > 0; --i) {
            --axis;
            if (from[i - 1] != 1) chosen += (element % to[axis]) * stride;
            element /= to[axis];
            stride *= from[i - 1];
        }
    }

    /// The axis' place that the raw bits of an index name: clamped into it.
    function clamp(uint256 dtype, uint64 bits, uint256 n) internal pure returns (uint256) {
        int256 i = dtype == I32 ? int256(int32(uint32(bits))) : int256(int64(bits));
        if (i < 0) return 0;
        return uint256(i) < n ? uint256(i) : n - 1;
    }

    /// For a MOVE without an index: the element of an operand that the output's element copies; `none` where a constant stands.
    function source(Stage memory s, uint256 element) internal pure returns (uint256 operand, uint256 from, bool none) {
        uint256[] memory dims = s.operands[0].dims;
        uint256[] memory out = s.result.dims;
        if (s.op == Op.RESHAPE) return (0, element, false);
        if (s.op == Op.EXPAND) return (0, broadcast(dims, out, element), false);
        if (s.op == Op.PERMUTE) return (0, _permute(dims, out, s.axes, element), false);
        uint256 axis = s.axes[0];
        if (s.op == Op.CONCAT) {
            (operand, from) = _concat(s, axis, element);
            return (operand, from, false);
        }
        if (s.op == Op.WINDOWS || s.op == Op.SPREAD) {
            (from, none) = _windows(s, axis, element);
            return (0, from, none);
        }
        Spot memory here = split(out, axis, element);
        uint256 place = here.place;
        if (s.op == Op.SLICE) {
            place = s.numbers[0] + place * s.numbers[2];
        } else if (s.op == Op.REVERSE) {
            place = dims[axis] - 1 - place;
        } else {
            // PAD
            if (place < s.numbers[0] || place - s.numbers[0] >= dims[axis]) return (0, 0, true);
            place -= s.numbers[0];
        }
        return (0, join(here, dims[axis], place), false);
    }

    /// out[c] = x[c'], where c'[axes[i]] = c[i].
    function _permute(uint256[] memory dims, uint256[] memory out, uint256[] memory axes, uint256 element)
        private
        pure
        returns (uint256 from)
    {
        uint256[] memory strides = new uint256[](dims.length);
        uint256 stride = 1;
        for (uint256 i = dims.length; i > 0; --i) {
            strides[i - 1] = stride;
            stride *= dims[i - 1];
        }
        for (uint256 i = out.length; i > 0; --i) {
            from += (element % out[i - 1]) * strides[axes[i - 1]];
            element /= out[i - 1];
        }
    }

    /// The operands lie one after the other along the axis.
    function _concat(Stage memory s, uint256 axis, uint256 element) private pure returns (uint256 operand, uint256 from) {
        Spot memory here = split(s.result.dims, axis, element);
        uint256 place = here.place;
        uint256 n = s.operands[0].dims[axis];
        while (place >= n) {
            place -= n;
            n = s.operands[++operand].dims[axis];
        }
        from = join(here, n, place);
    }

    /// windows: y[.., o, j, ..] = x[.., o·stride + j·dilation, ..]. spread: y[.., i, j, ..] = x[.., o, j, ..] where
    /// i = o·stride + j·dilation, none elsewhere.
    function _windows(Stage memory s, uint256 axis, uint256 element) private pure returns (uint256 from, bool none) {
        uint256[] memory dims = s.operands[0].dims;
        Spot memory here = split(s.result.dims, axis + 1, element);
        uint256 j = here.place;
        uint256 outer = here.outer / s.result.dims[axis];
        uint256 i = here.outer % s.result.dims[axis];
        (uint256 stride, uint256 dilation) = (s.numbers[1], s.numbers[2]);
        if (s.op == Op.WINDOWS) {
            here.outer = outer;
            return (join(here, dims[axis], i * stride + j * dilation), false);
        }
        if (i < j * dilation) return (0, true);
        uint256 ahead = i - j * dilation;
        uint256 o = ahead / stride;
        if (ahead % stride != 0 || o >= dims[axis]) return (0, true);
        here.outer = outer * dims[axis] + o;
        return (join(here, dims[axis + 1], j), false);
    }

    /// For `take_rows` and `gather`: the element of the index that decides about the output's element.
    function index(Stage memory s, uint256 element) internal pure returns (uint256) {
        return s.op == Op.GATHER ? element : element / _row(s.operands[0].dims);
    }

    /// For `take_rows` and `gather`: the element of the first operand that is copied, the index having these bits.
    function named(Stage memory s, uint256 element, uint64 bits) internal pure returns (uint256) {
        Type memory x = s.operands[0];
        if (s.op == Op.TAKE_ROWS) {
            uint256 row = _row(x.dims);
            return clamp(s.operands[1].dtype, bits, x.dims[0]) * row + element % row;
        }
        uint256 n = x.dims[s.axes[0]];
        return join(split(s.result.dims, s.axes[0], element), n, clamp(s.operands[1].dtype, bits, n));
    }

    /// Elements of a row: of all axes but the first.
    function _row(uint256[] memory dims) private pure returns (uint256 elements) {
        elements = 1;
        for (uint256 i = 1; i < dims.length; ++i) {
            elements *= dims[i];
        }
    }
}
