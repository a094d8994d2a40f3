// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// The machine that runs the programs of tools/leaf_tables.py: 32 registers of 256 bits, f32 values as their bits, integers signed.
///
/// A finite f32 is sign, significand m < 2^24 and exponent: m * 2^(E - 150), E the exponent field, 1 where the field is 0. Sums and
/// products of two are exact in a word; quotients and roots are exact integers with a remainder, of which only matters whether
/// there is one ("rest"). All rounding is `near`, and `rounded` makes an f32, normal or subnormal alike: with a quantum
/// 2^u, u = max(bits + e - 24, -149), and q = rint(m * 2^e / 2^u), the f32's bits are q + (u + 149) * 2^23, carries included.
library Machine {
    /// Runs the program at memory `next` with registers from memory `regs`, of which the first nine hold the start.
    function run(uint256 next, uint256 regs) internal pure returns (uint256 result) {
        assembly ("memory-safe") {
            // rint(m / 2^drop), ties to even, drop > 0; with rest, of a little more than m.
            function near(m, drop, rest) -> q {
                q := shr(drop, add(m, add(sub(shl(sub(drop, 1), 1), 1), or(rest, and(shr(drop, m), 1)))))
            }

            // Bits of x < 2^128; quick where they are `guess` or one more.
            function size(x, guess) -> n {
                if lt(sub(shr(sub(guess, 1), x), 1), 3) {
                    n := add(guess, gt(shr(guess, x), 0))
                    leave
                }
                n := shl(6, gt(x, 0xffffffffffffffff))
                n := or(n, shl(5, gt(shr(n, x), 0xffffffff)))
                n := or(n, shl(4, gt(shr(n, x), 0xffff)))
                n := or(n, shl(3, gt(shr(n, x), 0xff)))
                n := or(n, shl(2, gt(shr(n, x), 0xf)))
                n := add(n, byte(shr(n, x), 0x0001020203030303040404040404040400000000000000000000000000000000))
            }

            // RN32(m * 2^e) with that sign, m of n bits, n > 24; with rest, of a little more.
            function rounded(sign, m, n, e, rest) -> r {
                let unit := sub(add(n, e), 24)
                if slt(unit, not(148)) { unit := not(148) }
                r := add(near(m, sub(unit, e), rest), shl(23, add(unit, 149)))
                if gt(r, 0x7f800000) { r := 0x7f800000 }
                r := or(r, shl(31, sign))
            }

            function isNan(a) -> yes {
                yes := gt(and(a, 0x7fffffff), 0x7f800000)
            }

            function fmul(a, b) -> r {
                let i := and(shr(23, a), 255)
                let j := and(shr(23, b), 255)
                let e := sub(add(i, j), 128)
                // Normal by normal, far from overflow and underflow: the unit is 2^(e - 149), or one more with a carry.
                if and(lt(e, 250), and(lt(sub(i, 1), 254), lt(sub(j, 1), 254))) {
                    i := mul(or(and(a, 0x7fffff), 0x800000), or(and(b, 0x7fffff), 0x800000))
                    j := shr(47, i)
                    r := or(add(near(i, add(j, 23), 0), shl(23, add(j, e))), and(xor(a, b), 0x80000000))
                    leave
                }
                r := and(xor(a, b), 0x80000000)
                a := and(a, 0x7fffffff)
                b := and(b, 0x7fffffff)
                if or(eq(i, 255), eq(j, 255)) {
                    // infinity if one and the other is neither NaN nor zero
                    switch and(and(lt(a, 0x7f800001), lt(b, 0x7f800001)), gt(mul(a, b), 0))
                    case 0 { r := 0x7fc00000 }
                    default { r := or(0x7f800000, r) }
                    leave
                }
                if mul(a, b) {
                    a := or(and(a, 0x7fffff), shl(23, gt(i, 0)))
                    b := or(and(b, 0x7fffff), shl(23, gt(j, 0)))
                    a := shl(24, mul(a, b))
                    r := rounded(shr(31, r), a, size(a, 71), sub(add(e, add(iszero(i), iszero(j))), 196), 0)
                }
            }

            function fadd(a, b) -> r {
                let i := and(shr(23, a), 255)
                let j := and(shr(23, b), 255)
                let x := and(a, 0x7fffff)
                let y := and(b, 0x7fffff)
                switch and(lt(sub(i, 1), 254), lt(sub(j, 1), 254))
                case 1 {
                    x := or(x, 0x800000)
                    y := or(y, 0x800000)
                }
                default {
                    if or(eq(i, 255), eq(j, 255)) {
                        r := 0x7fc00000
                        if iszero(or(isNan(a), isNan(b))) {
                            switch i
                            case 255 { if or(sub(j, 255), eq(a, b)) { r := a } }
                            default { r := b }
                        }
                        leave
                    }
                    x := or(x, shl(23, gt(i, 0)))
                    y := or(y, shl(23, gt(j, 0)))
                    i := add(i, iszero(i))
                    j := add(j, iszero(j))
                }
                // The greater exponent's significand is moved up to the lesser's; further apart than 64, how far does not show.
                if shr(31, a) { x := sub(0, x) }
                if shr(31, b) { y := sub(0, y) }
                r := sub(i, j)
                switch slt(r, 0)
                case 0 {
                    if gt(r, 64) { r := 64 }
                    x := add(shl(r, x), y)
                    j := sub(i, r)
                }
                default {
                    r := sub(0, r)
                    if gt(r, 64) { r := 64 }
                    x := add(shl(r, y), x)
                    j := sub(j, r)
                }
                switch x
                case 0 { r := and(and(a, b), 0x80000000) }
                default {
                    y := shr(255, x)
                    if y { x := sub(0, x) }
                    x := shl(24, x)
                    r := rounded(y, x, size(x, add(48, r)), sub(j, 174), 0)
                }
            }

            function fdiv(a, b) -> r {
                let sign := shl(31, shr(31, xor(a, b)))
                let i := and(shr(23, a), 255)
                let j := and(shr(23, b), 255)
                a := and(a, 0x7fffffff)
                b := and(b, 0x7fffffff)
                if or(or(eq(i, 255), eq(j, 255)), iszero(mul(a, b))) {
                    r := 0x7fc00000
                    // over an infinity, or of zero: zero; an infinity, or anything but zero over zero: infinity; else NaN
                    if or(and(eq(b, 0x7f800000), lt(a, 0x7f800000)), and(iszero(a), and(gt(b, 0), lt(b, 0x7f800001)))) { r := sign }
                    if or(and(eq(a, 0x7f800000), lt(j, 255)), and(iszero(b), and(gt(a, 0), lt(i, 255)))) {
                        r := or(sign, 0x7f800000)
                    }
                    leave
                }
                a := shl(60, or(and(a, 0x7fffff), shl(23, gt(i, 0))))
                b := or(and(b, 0x7fffff), shl(23, gt(j, 0)))
                let q := div(a, b)
                r := rounded(shr(31, sign), q, size(q, 60), sub(sub(add(i, iszero(i)), add(j, iszero(j))), 60), gt(mod(a, b), 0))
            }

            function root(a) -> r {
                switch or(iszero(shl(225, a)), eq(a, 0x7f800000))
                case 1 { r := a }
                default {
                    r := 0x7fc00000
                    if lt(a, 0x7f800000) {
                        let e := shr(23, a)
                        let m := or(and(a, 0x7fffff), shl(23, gt(e, 0)))
                        e := sub(add(e, iszero(e)), 150)
                        // 2^52 <= m < 2^54 with an even exponent
                        let up := sub(54, size(m, 24))
                        up := sub(up, and(sub(e, up), 1))
                        m := shl(up, m)
                        // Newton from above: relative errors 1, 1/4, 1/40, 3e-4, 5e-8, then less than one.
                        let x := 0x8000000
                        x := shr(1, add(x, div(m, x)))
                        x := shr(1, add(x, div(m, x)))
                        x := shr(1, add(x, div(m, x)))
                        x := shr(1, add(x, div(m, x)))
                        x := shr(1, add(x, div(m, x)))
                        if gt(mul(x, x), m) { x := sub(x, 1) }
                        r := rounded(0, x, size(x, 27), sar(1, sub(e, up)), gt(m, mul(x, x)))
                    }
                }
            }

            // rint(a * 2^s) as a signed integer, or truncated; 0 for NaN and, with `near`, for infinities.
            function whole(a, s, truncate) -> r {
                let e := and(shr(23, a), 255)
                if or(isNan(a), gt(eq(e, 255), truncate)) { leave }
                r := or(and(a, 0x7fffff), shl(23, gt(e, 0)))
                s := add(s, sub(add(e, iszero(e)), 150))
                switch slt(s, 0)
                case 0 { r := shl(s, r) }
                default {
                    switch truncate
                    case 0 { r := near(r, sub(0, s), 0) }
                    default { r := shr(sub(0, s), r) }
                }
                if shr(31, a) { r := sub(0, r) }
            }

            function level(a) -> v {
                v := and(a, 0x7fffffff)
                if shr(31, a) { v := sub(0, v) }
            }

            // First word of Philox4x32-10: counter (position, stream), low words first.
            function philox(position, stream, key) -> c0 {
                let mask := 0xffffffff
                c0 := and(position, mask)
                let c1 := and(shr(32, position), mask)
                let c2 := and(stream, mask)
                let c3 := and(shr(32, stream), mask)
                let k0 := and(key, mask)
                let k1 := and(shr(32, key), mask)
                for { let i := 0 } lt(i, 10) { i := add(i, 1) } {
                    let p := mul(c0, 0xd2511f53)
                    let q := mul(c2, 0xcd9e8d57)
                    c0 := xor(xor(shr(32, q), c1), k0)
                    c1 := and(q, mask)
                    c2 := xor(xor(shr(32, p), c3), k1)
                    c3 := and(p, mask)
                    k0 := and(add(k0, 0x9e3779b9), mask)
                    k1 := and(add(k1, 0xbb67ae85), mask)
                }
            }

            for {} 1 {} {
                let w := mload(next)
                let op := byte(0, w)
                let a := mload(add(regs, shl(5, byte(2, w))))
                let b
                switch gt(op, 127)
                case 0 {
                    b := mload(add(regs, shl(5, byte(3, w))))
                    next := add(next, 4)
                }
                default {
                    b := and(shr(200, w), 0xffffffff)
                    op := sub(op, 128)
                    next := add(next, 7)
                }
                let r
                // in groups of eight, so that no choice is long
                switch shr(3, op)
                case 0 {
                    switch op
                    case 1 { r := fmul(a, b) }
                    case 2 { r := fadd(a, b) }
                    case 3 { r := fadd(a, xor(b, 0x80000000)) }
                    case 4 {
                        let last := add(next, shl(2, byte(3, w)))
                        r := shr(224, mload(next))
                        for { next := add(next, 4) } lt(next, last) { next := add(next, 4) } {
                            r := fadd(fmul(r, a), shr(224, mload(next)))
                        }
                    }
                    case 5 { r := fdiv(a, b) }
                    case 6 {
                        if a {
                            let sign := shr(255, a)
                            if sign { a := sub(0, a) }
                            a := shl(24, a)
                            r := rounded(sign, a, size(a, 64), sub(b, 24), 0)
                        }
                    }
                    case 7 { r := whole(a, b, 0) }
                    default { revert(0, 0) }
                }
                case 1 {
                    switch op
                    case 8 { r := and(a, b) }
                    case 9 {
                        if iszero(a) { next := add(next, b) }
                        continue
                    }
                    case 10 { r := a }
                    case 11 {
                        let n := byte(2, w)
                        r := shr(sub(256, shl(3, n)), shl(24, w))
                        next := add(next, sub(n, 1))
                    }
                    case 12 { r := add(a, b) }
                    case 13 { r := sub(a, b) }
                    case 14 { r := shl(b, a) }
                    case 15 { r := shr(b, a) }
                }
                case 2 {
                    switch op
                    case 16 { r := slt(a, b) }
                    case 17 { r := sgt(a, b) }
                    case 18 { r := eq(a, b) }
                    case 19 { r := or(a, b) }
                    case 20 {
                        if a { next := add(next, b) }
                        continue
                    }
                    case 21 {
                        next := add(next, b)
                        continue
                    }
                    case 22 {
                        result := a
                        break
                    }
                    case 23 { r := xor(a, b) }
                }
                case 3 {
                    switch op
                    case 24 { r := sar(b, a) }
                    case 25 {
                        r := a
                        if shr(31, a) { r := not(and(a, 0x7fffffff)) }
                        if isNan(a) { r := 0x80000000 }
                    }
                    case 26 {
                        r := a
                        if slt(a, 0) { r := or(not(a), 0x80000000) }
                        if eq(a, 0x80000000) { r := 0x7fc00000 }
                    }
                    case 27 {
                        r := a
                        if sgt(b, a) { r := b }
                    }
                    case 28 {
                        r := a
                        if slt(b, a) { r := b }
                    }
                    case 29 {
                        r := a
                        if isNan(a) { r := 0x7fc00000 }
                    }
                    case 30 {
                        r := 8
                        if iszero(or(isNan(a), isNan(b))) {
                            a := level(a)
                            b := level(b)
                            r := or(slt(a, b), or(shl(1, eq(a, b)), shl(2, sgt(a, b))))
                        }
                    }
                    case 31 { r := mul(a, b) }
                }
                case 4 {
                    switch op
                    case 32 { r := root(a) }
                    case 33 { r := whole(a, 0, 1) }
                    case 34 { r := philox(a, b, mload(add(regs, shl(5, byte(1, w))))) }
                    default { revert(0, 0) }
                }
                default { revert(0, 0) }
                mstore(add(regs, shl(5, byte(1, w))), r)
            }
        }
    }
}
