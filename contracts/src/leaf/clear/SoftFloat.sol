// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

/// IEEE-754 binary32: round to nearest even, subnormals kept, one NaN. A float is its 32 bits in a uint256.
///
/// Every operation has the same shape: find the exact result as ±m·2^e with a whole number m (or, where that would be endless, an m
/// of which only the last bit, far below the rounding, says that something follows), then `round` once.
library SoftFloat {
    uint256 internal constant NAN = 0x7fc00000;
    uint256 internal constant INFINITY = 0x7f800000;
    uint256 internal constant ONE = 0x3f800000;
    uint256 internal constant SIGN = 0x80000000;
    uint256 internal constant MAGNITUDE = 0x7fffffff;

    // ---- bits ------------------------------------------------------------------------------------------------------------------

    function isNan(uint256 x) internal pure returns (bool) {
        return x & MAGNITUDE > INFINITY;
    }

    function isInfinite(uint256 x) internal pure returns (bool) {
        return x & MAGNITUDE == INFINITY;
    }

    function isZero(uint256 x) internal pure returns (bool) {
        return x & MAGNITUDE == 0;
    }

    /// x, or the one NaN for any NaN.
    function canonical(uint256 x) internal pure returns (uint256) {
        return isNan(x) ? NAN : x;
    }

    /// The biased exponent field, 0 to 255.
    function exponent(uint256 x) internal pure returns (uint256) {
        return (x >> 23) & 255;
    }

    /// A finite x as ±m·2^e, m < 2^24.
    function parts(uint256 x) internal pure returns (uint256 m, int256 e) {
        unchecked {
            uint256 field = exponent(x);
            m = x & 0x7fffff;
            if (field == 0) return (m, -149);
            return (m | 0x800000, int256(field) - 150);
        }
    }

    /// m / 2^s to the nearest whole number, ties to even; m < 2^255.
    function shiftRight(uint256 m, uint256 s) internal pure returns (uint256 kept) {
        unchecked {
            if (s == 0) return m;
            if (s > 255) return 0;
            kept = m >> s;
            uint256 rest = m - (kept << s);
            uint256 half = 1 << (s - 1);
            if (rest > half || (rest == half && kept & 1 == 1)) ++kept;
        }
    }

    /// RN32(±m·2^e), m < 2^255; sign is 0 or SIGN.
    function round(uint256 sign, uint256 m, int256 e) internal pure returns (uint256) {
        unchecked {
            if (m == 0) return sign;
            // The last place of the result is 2^unit: 24 bits are kept, or those down to the last place of the subnormals.
            int256 unit = e + int256(Math.log2(m)) - 23;
            if (unit < -149) unit = -149;
            uint256 kept = unit > e ? shiftRight(m, uint256(unit - e)) : m << uint256(e - unit);
            // A normal number's leading bit, bit 23 of `kept`, adds one to the exponent field; so does a carry out of rounding.
            uint256 bits = (uint256(unit + 149) << 23) + kept;
            return sign | (bits < INFINITY ? bits : INFINITY);
        }
    }

    // ---- arithmetic ------------------------------------------------------------------------------------------------------------

    function add(uint256 a, uint256 b) internal pure returns (uint256) {
        unchecked {
            if (isNan(a) || isNan(b)) return NAN;
            if (isInfinite(a)) return isInfinite(b) && a != b ? NAN : a;
            if (isInfinite(b)) return b;
            if (exponent(a) < exponent(b)) (a, b) = (b, a);
            (uint256 ma, int256 e) = parts(a);
            (uint256 mb, int256 eb) = parts(b);
            uint256 apart = uint256(e - eb);
            if (apart > 32) return a; // b is below 2^-8 of a's last place
            int256 sum = int256(ma << apart);
            if (a & SIGN != 0) sum = -sum;
            sum += b & SIGN != 0 ? -int256(mb) : int256(mb);
            if (sum == 0) return a & b & SIGN; // -0 only as the sum of two of them
            return scaled(sum, e - int256(apart));
        }
    }

    function sub(uint256 a, uint256 b) internal pure returns (uint256) {
        return add(a, b ^ SIGN);
    }

    function mul(uint256 a, uint256 b) internal pure returns (uint256) {
        unchecked {
            if (isNan(a) || isNan(b)) return NAN;
            uint256 sign = (a ^ b) & SIGN;
            if (isInfinite(a) || isInfinite(b)) return isZero(a) || isZero(b) ? NAN : sign | INFINITY;
            (uint256 ma, int256 ea) = parts(a);
            (uint256 mb, int256 eb) = parts(b);
            return round(sign, ma * mb, ea + eb);
        }
    }

    function div(uint256 a, uint256 b) internal pure returns (uint256) {
        unchecked {
            if (isNan(a) || isNan(b)) return NAN;
            uint256 sign = (a ^ b) & SIGN;
            if (isInfinite(a)) return isInfinite(b) ? NAN : sign | INFINITY;
            if (isInfinite(b)) return sign;
            if (isZero(b)) return isZero(a) ? NAN : sign | INFINITY;
            (uint256 ma, int256 ea) = parts(a);
            (uint256 mb, int256 eb) = parts(b);
            // 40 bits or more (or zero), the last of which is set where the division goes on.
            ma <<= 64;
            uint256 quotient = ma / mb;
            if (quotient * mb != ma) quotient |= 1;
            return round(sign, quotient, ea - eb - 64);
        }
    }

    function sqrt(uint256 x) internal pure returns (uint256) {
        unchecked {
            if (isNan(x)) return NAN;
            if (isZero(x)) return x;
            if (x & SIGN != 0) return NAN;
            if (x == INFINITY) return x;
            (uint256 m, int256 e) = parts(x);
            // An even exponent, and 32 bits or more of the root, the last of which is set where it goes on.
            uint256 widen = e & 1 == 0 ? 64 : 65;
            m <<= widen;
            uint256 root = Math.sqrt(m);
            if (root * root != m) root |= 1;
            return round(0, root, (e - int256(widen)) / 2);
        }
    }

    // ---- order -----------------------------------------------------------------------------------------------------------------

    /// A whole number in the order of the floats, both zeros 0; for no NaN.
    function _place(uint256 x) private pure returns (int256) {
        unchecked {
            return x & SIGN == 0 ? int256(x) : -int256(x & MAGNITUDE);
        }
    }

    function eq(uint256 a, uint256 b) internal pure returns (bool) {
        return !isNan(a) && !isNan(b) && _place(a) == _place(b);
    }

    function lt(uint256 a, uint256 b) internal pure returns (bool) {
        return !isNan(a) && !isNan(b) && _place(a) < _place(b);
    }

    function le(uint256 a, uint256 b) internal pure returns (bool) {
        return !isNan(a) && !isNan(b) && _place(a) <= _place(b);
    }

    /// A whole number of 32 bits in the order of the floats, -0 before +0; for no NaN.
    function key(uint256 x) internal pure returns (int256) {
        unchecked {
            return x & SIGN == 0 ? int256(x) : -1 - int256(x & MAGNITUDE);
        }
    }

    /// The float that has this key, -2^31 <= k < 2^31.
    function ofKey(int256 k) internal pure returns (uint256) {
        unchecked {
            return k >= 0 ? uint256(k) : SIGN | uint256(-1 - k);
        }
    }

    /// NaN if either is; -0 is less than +0.
    function maximum(uint256 a, uint256 b) internal pure returns (uint256) {
        if (isNan(a) || isNan(b)) return NAN;
        return key(a) > key(b) ? a : b;
    }

    function minimum(uint256 a, uint256 b) internal pure returns (uint256) {
        if (isNan(a) || isNan(b)) return NAN;
        return key(a) < key(b) ? a : b;
    }

    // ---- whole numbers ---------------------------------------------------------------------------------------------------------

    /// RN32(n·2^shift), rounded once; +0 for n = 0. |n| < 2^255.
    function scaled(int256 n, int256 shift) internal pure returns (uint256) {
        unchecked {
            return n < 0 ? round(SIGN, uint256(-n), shift) : round(0, uint256(n), shift);
        }
    }

    /// rint(x·2^s), ties to even; 0 where x is not finite. Below 2^255 for s < 128.
    function fixedPoint(uint256 x, int256 s) internal pure returns (int256 q) {
        unchecked {
            if (exponent(x) == 255) return 0;
            (uint256 m, int256 e) = parts(x);
            e += s;
            q = int256(e < 0 ? shiftRight(m, uint256(-e)) : m << uint256(e));
            if (x & SIGN != 0) q = -q;
        }
    }

    /// x to the nearest whole number, ties to even, as a float with the sign of x.
    function rint(uint256 x) internal pure returns (uint256) {
        if (exponent(x) >= 150) return canonical(x);
        int256 q = fixedPoint(x, 0);
        return q == 0 ? x & SIGN : scaled(q, 0);
    }

    /// x cut to a whole number of `bits` bits with sign, the nearest one if it is outside; NaN gives 0.
    function truncate(uint256 x, uint256 bits) internal pure returns (int256) {
        unchecked {
            if (isNan(x)) return 0;
            uint256 limit = 1 << (bits - 1);
            uint256 whole = limit;
            if (!isInfinite(x)) {
                (uint256 m, int256 e) = parts(x);
                whole = e < 0 ? m >> uint256(-e) : m << uint256(e);
            }
            if (x & SIGN != 0) return -int256(whole < limit ? whole : limit);
            return int256(whole < limit ? whole : limit - 1);
        }
    }
}
