// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {SoftFloat} from "./SoftFloat.sol";

/// The elementary functions and the generator, operation by operation as in assay/exact/functions.py: that order is the specification.
/// Coefficients are the bits of that file's floats; a list of them is its first one and a word with the others, highest first.
library Functions {
    using SoftFloat for uint256;

    uint256 private constant NAN = SoftFloat.NAN;
    uint256 private constant INFINITY = SoftFloat.INFINITY;
    uint256 private constant SIGN = SoftFloat.SIGN;
    uint256 private constant ONE = SoftFloat.ONE;
    uint256 private constant HALF = 0x3f000000;
    uint256 private constant TWO = 0x40000000;
    uint256 private constant FOUR = 0x40800000;

    uint256 private constant LOG2_E = 0x3fb8aa3b;
    uint256 private constant LN2_HIGH = 0x3f318000;
    uint256 private constant LN2_LOW = 0xb95e8083;
    uint256 private constant SQRT_HALF = 0x3f3504f3;
    uint256 private constant TANH_SMALL = 0x3f200000; // 0.625
    uint256 private constant QUARTER_PI = 0x3f490fdb;
    uint256 private constant HALF_PI = 0x3fc90fdb;
    /// floor(2/π · 2^224)
    uint256 private constant TWO_OVER_PI = 0xa2f9836e4e441529fc2757d1f534ddc0db6295993c439041fe5163ab;

    /// Horner's rule: a product and a sum at a time, each rounded. `rest` holds `count` coefficients.
    function _poly(uint256 x, uint256 first, uint256 rest, uint256 count) private pure returns (uint256 p) {
        p = first;
        for (uint256 left = count; left > 0; --left) {
            p = p.mul(x).add((rest >> (32 * (left - 1))) & 0xffffffff);
        }
    }

    /// 2^n for -126 <= n <= 127.
    function _power(int256 n) private pure returns (uint256) {
        return uint256(n + 127) << 23;
    }

    function _magnitude(uint256 x) private pure returns (uint256) {
        return x & SoftFloat.MAGNITUDE;
    }

    /// y with the sign of x.
    function _signed(uint256 y, uint256 x) private pure returns (uint256) {
        return _magnitude(y) | (x & SIGN);
    }

    // ---- exponential and logarithm -----------------------------------------------------------------------------------------------

    /// n = rint(x·log2 e), r = x - n·ln 2 (two steps), 1 + (r + r²·P(r)), times 2^n in two steps (one rounding, into subnormals too).
    function exp(uint256 x) internal pure returns (uint256) {
        if (x.isNan()) return NAN;
        uint256 c = x;
        if (x.lt(0xc2d00000)) c = 0xc2d00000; // -104
        else if (uint256(0x42b20000).lt(x)) c = 0x42b20000; // 89
        uint256 n = c.mul(LOG2_E).rint();
        uint256 r = c.sub(n.mul(LN2_HIGH));
        r = r.sub(n.mul(LN2_LOW));
        uint256 p = _poly(r, 0x3ab6c0b0, 0x3c091fc83d2aaa5d3e2aaa453f000000, 4).mul(r.mul(r));
        p = p.add(r).add(ONE);
        int256 k = n.truncate(32);
        int256 half = k >> 1;
        return p.mul(_power(half)).mul(_power(k - half));
    }

    /// x = m·2^k with sqrt(1/2) <= m < sqrt 2; f = m - 1; f - f²/2 + f³·P(f) + k·ln 2.
    function log(uint256 x) internal pure returns (uint256) {
        if (x.isNan()) return NAN;
        if (x.isZero()) return SIGN | INFINITY;
        if (x & SIGN != 0) return NAN;
        if (x == INFINITY) return x;
        int256 k = -126;
        if (x < 0x00800000) {
            x = x.mul(0x4b000000); // subnormal: times 2^23
            k -= 23;
        }
        k += int256(x >> 23);
        uint256 m = (x & 0x7fffff) | HALF;
        if (m.lt(SQRT_HALF)) {
            m = m.add(m);
            --k;
        }
        uint256 n = SoftFloat.scaled(k, 0);
        uint256 f = m.sub(ONE);
        uint256 z = f.mul(f);
        uint256 y = _poly(f, 0x3d8da1bc, 0xbdf172423df326b8bdfda1ef3e119983be2ab1703e4cd2a1be7ffff73eaaaaa3, 8);
        y = y.mul(f).mul(z);
        y = y.add(n.mul(LN2_LOW));
        y = y.sub(z.mul(HALF));
        return f.add(y).add(n.mul(LN2_HIGH));
    }

    // ---- activations -------------------------------------------------------------------------------------------------------------

    /// On a = |x|: below 0.625 a + a·z·P(z), z = a²; above 1 - 2 / (exp 2a + 1). The sign is that of x.
    function tanh(uint256 x) internal pure returns (uint256) {
        if (x.isNan()) return NAN;
        uint256 a = _magnitude(x);
        if (!a.lt(TANH_SMALL)) return _signed(ONE.sub(TWO.div(exp(a.add(a)).add(ONE))), x);
        uint256 z = a.mul(a);
        uint256 p = _poly(z, 0xbbbb48fe, 0x3ca9284dbd5c21a03e0883b0beaaaa9a, 4);
        return _signed(a.add(a.mul(z.mul(p))), x);
    }

    /// On a = |x|: below 1 a + a·P(a²); above 1 - exp(-Q(a)) with a at most 4. The sign is that of x.
    function erf(uint256 x) internal pure returns (uint256) {
        if (x.isNan()) return NAN;
        uint256 a = _magnitude(x);
        uint256 p;
        if (a.lt(ONE)) {
            p = _poly(a.mul(a), 0x38a61a27, 0xba5285873baa1708bcdbff483de716a8bec093a03e0375d4, 6);
            return _signed(a.add(a.mul(p)), x);
        }
        p = _poly(FOUR.lt(a) ? FOUR : a, 0xb9437050, 0x3b412e33bcb2e6003dd329bc3f235d733f90447639b30c8f, 6);
        return _signed(ONE.sub(exp(p ^ SIGN)), x);
    }

    /// t = exp(-|x|); 1 / (1 + t), or t / (1 + t) where x is negative.
    function sigmoid(uint256 x) internal pure returns (uint256) {
        if (x.isNan()) return NAN;
        uint256 t = exp(x | SIGN);
        return (uint256(0).le(x) ? ONE : t).div(ONE.add(t));
    }

    // ---- circular functions --------------------------------------------------------------------------------------------------------

    /// (n mod 4, r) with a = n·π/2 + r, |r| <= π/4, for a finite a >= 0: below π/4 (0, a). Otherwise a = m·2^(E-150) and, with the 96
    /// bits W = floor(2/π · 2^(E-150+94)) mod 2^96, the product P = floor(m·W / 2^32) mod 2^64 is a·2/π with 62 fraction bits; n is P
    /// rounded to a whole number, r = RN32(P - n) · π/2 (Payne and Hanek 1983).
    function _quadrant(uint256 a) private pure returns (uint256 n, uint256 r) {
        if (a.lt(QUARTER_PI)) return (0, a);
        unchecked {
            uint256 window = (TWO_OVER_PI >> (280 - a.exponent())) & ((1 << 96) - 1);
            uint256 m = (a & 0x7fffff) | 0x800000;
            uint64 p = uint64((m * window) >> 32);
            n = (p + (1 << 61)) >> 62; // in 64 bits, around the circle
            int64 rest = int64(p - uint64(n << 62));
            r = SoftFloat.scaled(rest, 0).mul(HALF_PI).mul(0x20800000); // 2^-62
        }
    }

    /// sin(n·π/2 + r).
    function _sine(uint256 n, uint256 r) private pure returns (uint256 y) {
        uint256 z = r.mul(r);
        if (n & 1 == 0) {
            y = _poly(z, 0xb94cab5b, 0x3c0883bfbe2aaaa3, 2);
            y = y.mul(z).mul(r).add(r);
        } else {
            y = _poly(z, 0x37ccf076, 0xbab6060d3d2aaaa5, 2);
            y = y.mul(z).mul(z).sub(z.mul(HALF)).add(ONE);
        }
        if (n & 2 != 0) y ^= SIGN;
    }

    function sin(uint256 x) internal pure returns (uint256) {
        if (x.exponent() == 255) return NAN;
        (uint256 n, uint256 r) = _quadrant(_magnitude(x));
        return _sine(n, r) ^ (x & SIGN);
    }

    function cos(uint256 x) internal pure returns (uint256) {
        if (x.exponent() == 255) return NAN;
        (uint256 n, uint256 r) = _quadrant(_magnitude(x));
        return _sine(n + 1, r);
    }

    // ---- the rest --------------------------------------------------------------------------------------------------------------------

    function reciprocal(uint256 x) internal pure returns (uint256) {
        return ONE.div(x);
    }

    function rsqrt(uint256 x) internal pure returns (uint256) {
        return ONE.div(x.sqrt());
    }

    /// First word of Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
    function philox(uint256 position, uint256 stream, uint256 key) internal pure returns (uint256) {
        unchecked {
            uint256 low = 0xffffffff;
            (uint256 c0, uint256 c1, uint256 c2, uint256 c3) = (position & low, position >> 32, stream & low, stream >> 32);
            (uint256 k0, uint256 k1) = (key & low, key >> 32);
            for (uint256 i = 0; i < 10; ++i) {
                (uint256 p0, uint256 p1) = (c0 * 0xd2511f53, c2 * 0xcd9e8d57);
                (c0, c1, c2, c3) = ((p1 >> 32) ^ c1 ^ k0, p1 & low, (p0 >> 32) ^ c3 ^ k1, p0 & low);
                (k0, k1) = ((k0 + 0x9e3779b9) & low, (k1 + 0xbb67ae85) & low);
            }
            return c0;
        }
    }
}
