/* How operands of `bits` bits are written as digits of 8 bits, and which products of digits give theirs: what packing and multiplying share.
 *
 * |q| <= 2^(b-1) - 1. A digit of base 2^w is balanced: low = ((q + 2^(w-1)) mod 2^w) - 2^(w-1), so -2^(w-1) <= low < 2^(w-1).
 *
 * b <= 8      one plane, q itself; one product: |qq| <= 127^2 a term.
 * b <= 14     base 2^7, planes h, l and x = h + l, and three products (Karatsuba and Ofman 1962):
 *             qa qb = hh 2^14 + (xx - hh - ll) 2^7 + ll. -64 <= l <= 63 and |h| <= 64: h = 64 only for q >= 64 * 128 - 64, where
 *             q <= 8191 leaves l <= -1, and h = -64 only where l >= 1, so -127 <= x <= 126 fits a byte. |xx| <= 127^2 a term.
 * b = 15      base 2^8, planes h and l, |h| <= 64, |l| <= 128; four products in three sums: hh 2^16 + (hl + lh) 2^8 + ll.
 *             (x would need nine bits.) |hl + lh| <= 2^14 a term.
 * b <= 23     base 2^8, planes h, m, l, |h| <= 64; nine products in five sums, by weight: at most 2 * 64 * 128 + 128^2 = 2^15 a term.
 *
 * A sum is kept in an int32 for as many elements of k as product.py says (2^17, 2^17, 2^16, 2^15: no int32 overflows), then in an int64.
 *
 * On chips whose int8 is weak digits are bf16, which holds every whole number up to 256, or fp8 (e4m3), which holds those up to 16:
 *
 * fp8, b <= 8   base 2^4, planes h, l and x = h + l as above: |h| = 8 only where |q| >= 120, where l has the other sign, so |x| <= 15.
 * fp8, b <= 10, 15, 20, 25   base 2^5 in 2, 3, 4, 5 planes, |d| <= 16; as many products as pairs of planes, in sums by weight.
 *
 * Both are summed in f32, whose exactness is the chip's: up to 2^HOLDS, by what probe.py found. TERM is the most that one element of k adds to a
 * sum, and PAIR the most that a product of two digits is.
 *
 * PLANES, KARATSUBA, PLAIN, BF16 and FP8 (0 or 1), and WIDTH (128 or 64: bytes of k that lie together in a packed operand), are given.
 */

typedef signed char i8;

#define ITEM (BF16 ? 2 : 1) /* bytes of a digit */
#define BASE (FP8 ? (KARATSUBA ? 4 : 5) : KARATSUBA ? 7 : 8)
#define HALF (1 << (BASE - 1))
#define PAIR (FP8 ? 1 << 8 : 1 << 14)
#define TERM (KARATSUBA ? PAIR : FP8 ? PLANES * PAIR : PLANES == 3 ? 1 << 15 : 1 << 14)
#define SUMS (KARATSUBA ? 3 : 2 * PLANES - 1)
#define OWN (KARATSUBA ? 2 : PLANES) /* planes that are no sum of others */
#define ROW 128 /* elements of k that are packed together, and to multiples of which k is padded */

/* What makes rint(x * 2^s) of x, s = b - 1 + 126 - E, by one addition: x * factor + magic has it as its last bits. factor is 2^s, or the largest power of two
 * where that is larger; then magic has the rest. 0 for a lane with an infinity or NaN. */
__device__ __forceinline__ void factor_of(u32 top, int bits, float *factor, float *magic) {
    int e = (int)field_of(top), s = bits + 125 - e, first = s > 127 ? 127 : s;
    *factor = e == 255 ? 0.0f : __uint_as_float((u32)(first + 127) << 23);
    *magic = __uint_as_float(0x4b400000u - ((u32)(s - first) << 23)); /* 1.5 2^(23 - (s - first)), whose last bit counts as much as 1 / factor / 2^(s - first) */
}

/* rint(x * 2^s), ties to even: |x * 2^s| <= 2^22, and the sum lies where f32 has whole numbers of 2^(first - s). The product is exact but where it is less than
 * 2^-126 in size, and so is nothing. Of an infinity or NaN it is any number. */
__device__ __forceinline__ i32 rounded_to(float x, float factor, float magic) { return (i32)(__float_as_uint(fused(x, factor, magic)) - __float_as_uint(magic)); }

/* |q| <= 2^(b-1) - 1: what is just below a power of two was rounded up to it. */
__device__ __forceinline__ i32 limited(i32 q, int bits) {
    i32 most = (1 << (bits - 1)) - 1;
    return max(min(q, most), -most);
}

/* The digits of q, the highest one first; with Karatsuba, h and l alone. */
__device__ __forceinline__ void digits_of(i32 q, i32 *d) {
#if KARATSUBA
    d[1] = ((q + HALF) & (2 * HALF - 1)) - HALF;
    d[0] = (q + HALF) >> BASE;
#else
    for (int z = PLANES - 1; z > 0; z--) {
        d[z] = ((q + HALF) & (2 * HALF - 1)) - HALF;
        q = (q + HALF) >> BASE;
    }
    d[0] = q;
#endif
}

/* Of what is multiplied without h + l: with 7 bits l is from 0 to 127, and -64 <= h <= 64. */
__device__ __forceinline__ void own_digits(i32 q, i32 *d) {
#if KARATSUBA
    d[1] = q & (2 * HALF - 1);
    d[0] = q >> BASE;
#else
    digits_of(q, d);
#endif
}

/* The low bytes of four numbers, the first one's lowest. */
__device__ __forceinline__ u32 low_bytes(const i32 x[4]) {
    return __byte_perm(__byte_perm((u32)x[0], (u32)x[1], 0x0040), __byte_perm((u32)x[2], (u32)x[3], 0x0040), 0x5410);
}

/* Four sums of bytes: nothing is carried from one to the next. x = h + l fits a byte. */
__device__ __forceinline__ u32 added(u32 h, u32 l) { return ((h & 0x7f7f7f7fu) + (l & 0x7f7f7f7fu)) ^ ((h ^ l) & 0x80808080u); }

/* Packing has four elements at a time: of each the bits of x * factor + magic, CENTRE more than `factor_of`'s magic and q, and of these the bytes of all digits.
 * Between what are multiples of 2^16 for q = 0 (`magic` without CENTRE) and the next, CENTRE makes each digit a field that is never negative: l + 64 in seven bits
 * and h + 128 in eight with 7 bits a digit, l + 128 and h + 128 with 8 bits and two digits. It is even, so ties go where they went, and with at most 15 bits
 * the sum stays between 2^23 and 2^24 units. Of three digits q has 23 bits, which leave no room: there what is added is added to the sum. */
#if FP8 || PLANES == 1 || PLANES == 3 && !KARATSUBA
#define CENTRE 0u
#elif KARATSUBA
#define CENTRE 0x4040u
#else
#define CENTRE 0x8080u
#endif
#define SIGNS 0x80808080u

/* Whether any |q| of a lane may be more than 2^(bits-1) - 1, or any number: the bits - 1 upper bits of its largest magnitude's fraction are ones, without which
 * |x| < (2 - 2^(1-bits)) 2^(e-1) (e as in EXACT: |x| < 2^e), so |x 2^s| < 2^(bits-1) - 1/2; or it is an infinity or NaN. */
__device__ __forceinline__ bool at_limit(u32 top, int bits) { return (~top << 9) >> (33 - bits) == 0 || field_of(top) == 255; }

/* The bytes of the digits of four elements, plane by plane, from such bits. none: those of zero. */
__device__ __forceinline__ void bytes_of(const u32 y[4], u32 none, u32 words[PLANES]) {
#if FP8
    i32 d[OWN][4];
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        i32 own[OWN];
        digits_of((i32)(y[i] - none), own);
        #pragma unroll
        for (int z = 0; z < OWN; z++) d[z][i] = own[z];
    }
    #pragma unroll
    for (int z = 0; z < OWN; z++) words[z] = low_bytes(d[z]);
#if KARATSUBA
    words[2] = added(words[0], words[1]);
#endif
#elif PLANES == 1
    words[0] = __byte_perm(__byte_perm(y[0], y[1], 0x0040), __byte_perm(y[2], y[3], 0x0040), 0x5410);
#elif PLANES == 3 && !KARATSUBA
    u32 u[4], low[2], high[2];
    #pragma unroll
    for (int i = 0; i < 4; i++) u[i] = y[i] - (none - 0x8080u);
    #pragma unroll
    for (int i = 0; i < 2; i++) low[i] = __byte_perm(u[2 * i], u[2 * i + 1], 0x5140), high[i] = __byte_perm(u[2 * i], u[2 * i + 1], 0x0062);
    words[0] = __byte_perm(high[0], high[1], 0x5410);
    words[1] = __byte_perm(low[0], low[1], 0x7632) ^ SIGNS;
    words[2] = __byte_perm(low[0], low[1], 0x5410) ^ SIGNS;
#else
    u32 first = __byte_perm(y[0], y[1], 0x5410), last = __byte_perm(y[2], y[3], 0x5410); /* two lower halves each */
#if KARATSUBA
    u32 h = __byte_perm(first << 1, last << 1, 0x7531), l = __byte_perm(first, last, 0x6420) & 0x7f7f7f7fu;
    words[0] = h ^ SIGNS;
    words[1] = (l + 0x40404040u) ^ SIGNS;
    words[2] = (h + l - 0x40404040u) ^ SIGNS; /* h + l + 128 of each byte, which fits it, whatever is carried and borrowed on the way */
#else
    words[0] = __byte_perm(first, last, 0x7531) ^ SIGNS;
    words[1] = __byte_perm(first, last, 0x6420) ^ SIGNS;
#endif
#endif
}

/* Sum of products of q from the sums of products of digits, modulo 2^64 (none overflows: a program with wider ones is refused). */
__device__ __forceinline__ i64 recombined(const i32 s[SUMS]) {
#if KARATSUBA
    i32 middle = (i32)((u32)s[2] - (u32)s[0] - (u32)s[1]); /* sums of h l + l h, at most 2^13 a term: within an int32 */
    return (i64)s[0] * (1 << 2 * BASE) + (i64)middle * (1 << BASE) + s[1];
#else
    u64 total = 0;
    for (int i = 0; i < SUMS; i++) total = (total << BASE) + (u64)(i64)s[i];
    return (i64)total;
#endif
}

/* What plane z of an operand counts for in a checksum (check.cu): that of its own product with Karatsuba, else its digit's. */
__device__ __forceinline__ i64 weight(int z) {
#if KARATSUBA
    return z == 0 ? (1 << 2 * BASE) - (1 << BASE) : z == 1 ? 1 - (1 << BASE) : 1 << BASE;
#else
    return (i64)1 << BASE * (PLANES - 1 - z);
#endif
}

/* What plane z, one of those that are no sums of others, counts for with the plane that is their sum. */
__device__ __forceinline__ i64 summed_weight(int z) {
#if KARATSUBA
    return z == 0 ? 1 << 2 * BASE : 1;
#else
    return weight(z);
#endif
}

/* Where byte k of a lane's row of WIDTH bytes lies: chunks of 16 are exchanged by the lane's place among 8, so that 8 lanes' equal chunks lie in
 * different banks of shared memory (the layouts "128-byte swizzle" and "64-byte swizzle" of PTX's wgmma). */
#if WIDTH == 128
#define SWIZZLED(lane, k) (((((k) >> 4) ^ ((int)(lane) & 7)) << 4) | ((k) & 15))
#else
#define SWIZZLED(lane, k) (((((k) >> 4) ^ ((int)(lane) >> 1 & 3)) << 4) | ((k) & 15))
#endif

/* Where element k of a block of 128 lies in an operand that is packed in `planes` planes. PLAIN: [product][plane][padded lanes][blocks * 128], as libraries
 * want it. Else [product][plane][rows of WIDTH bytes][padded lanes][WIDTH], swizzled: what a block of threads multiplies lies in one piece, ready for
 * shared memory. */
__device__ __forceinline__ i64 spot(i64 product, int planes, int z, i64 blocks, i64 block, i64 padded, i64 lane, int k) {
#if PLAIN
    return (((product * planes + z) * padded + lane) * blocks + block) * ROW + k;
#else
    int byte = k * ITEM;
    return (((product * planes + z) * blocks + block) * (ROW * ITEM / WIDTH) + byte / WIDTH) * padded * WIDTH + lane * WIDTH + SWIZZLED(lane, byte % WIDTH);
#endif
}

/* Where packing has a tile of up to 64 x 128 elements in shared memory, element (r, c) lies at r ROW + (c ^ shift_of(r)). So 16 bytes lie together, and all banks are
 * read by eight threads that read as many of two chunks of four rows, by sixteen that read eight bytes of four columns of each sixteenth row, and by 32
 * that read eight columns of each sixteenth row. */
__device__ __forceinline__ int shift_of(int r) { return (r & 3) << 2 ^ (r >> 4 & 3) << 3; }

/* Element i of an axis: at multiples of a step, or where a table says. */
__device__ __forceinline__ i64 place(const i64 *at, i64 step, i64 i) { return at ? at[i] : i * step; }

/* Four digits as they lie in a packed operand, from and to four bytes. bf16 is the upper half of f32; e4m3 (OCP 8-bit Floating Point, 5.1) has
 * f32's sign, its exponent less 120 (in four bits), and three bits of its fraction. */
#if BF16
typedef u64 four_digits;
__device__ __forceinline__ four_digits widened(u32 bytes) {
    u64 four = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) four |= (u64)(__float_as_uint(__int2float_rn((i32)(i8)(bytes >> 8 * i))) >> 16) << 16 * i;
    return four;
}
__device__ __forceinline__ u32 narrowed(four_digits four) {
    u32 bytes = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) bytes |= ((u32)__float2int_rz(__uint_as_float((u32)(four >> 16 * i & 0xffffu) << 16)) & 255u) << 8 * i;
    return bytes;
}
#elif FP8
typedef u32 four_digits;
__device__ __forceinline__ u32 widened(u32 bytes) {
    u32 four = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        u32 one = __float_as_uint(__int2float_rn((i32)(i8)(bytes >> 8 * i)));
        four |= (one ? (one >> 24 & 128u) | ((one >> 20 & 2047u) - (120u << 3)) : 0u) << 8 * i;
    }
    return four;
}
__device__ __forceinline__ u32 narrowed(u32 four) {
    u32 bytes = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        u32 one = four >> 8 * i & 255u, size = one & 127u; /* a fraction, which no digit has, is cut off */
        i32 d = size < 8 ? 0 : (i32)((8 + (size & 7)) << (size >> 3) >> 10);
        bytes |= ((u32)(one >> 7 ? -d : d) & 255u) << 8 * i;
    }
    return bytes;
}
#else
typedef u32 four_digits;
__device__ __forceinline__ four_digits widened(u32 bytes) { return bytes; }
__device__ __forceinline__ u32 narrowed(four_digits four) { return four; }
#endif

/* An element of a product: NaN where its row or column has an infinity or NaN (top: bits of the largest magnitudes). Rounding to 24 bits
 * and then scaling by a power of two is one rounding as long as the result is normal; overflow is the same infinity. */
__device__ __forceinline__ float element(i64 total, u32 top_a, u32 top_b, int bits_of_q) {
    u32 bits = __float_as_uint(__ll2float_rn(total)), ea = field_of(top_a), eb = field_of(top_b);
    int shift = (int)(ea + eb) - 2 * (bits_of_q + 125), e = (int)(bits >> 23 & 255u) + shift;
    if (ea == 255 || eb == 255) return __uint_as_float(NAN_BITS);
    if (bits && e >= 1 && e < 255) return __uint_as_float((bits & 0x807fffffu) | (u32)e << 23);
    return round_scaled(total, shift);
}

/* The same in f32 alone, for at most 15 bits (NARROWED), where both largest magnitudes are `usual`, in [2^-50, 2^54), and |total| < 2^44 and <= 2^(2b + 15), as
 * is all that an int32 sums. Such a total is hi 2^w + lo, both less than 2^23 in size, so an addition of the two rounds it, once. Then two powers of two
 * scale it, 2^(Ea - 123 - 2b) and 2^(Eb - 127), E the exponent fields of A's lane and of B's: what comes of the first is 0 or from 2^-76 to 2^72 in size,
 * what comes of both from 2^(-96 - 2b) >= 2^-126 to 2^125, so neither rounds. Zero is +0, since of x + -x it is. */
#define NARROWED (OWN <= 2)
#define ONE 0x3f800000u     /* bits of 1: a largest magnitude for lanes that are zero, or that there are not */
#define CENTRED 0x4b400000u /* bits of 1.5 2^23; those of 1.5 2^23 + n are n more, -2^22 <= n <= 2^22 */

__device__ __forceinline__ bool usual(u32 top_a, u32 top_b) { return max(top_a - (77u << 23), top_b - (77u << 23)) < 104u << 23; }
__device__ __forceinline__ float usual_a(u32 top, int bits) { return __uint_as_float((top & 0x7f800000u) - ((u32)(2 * bits - 4) << 23)); }
__device__ __forceinline__ float usual_b(u32 top) { return __uint_as_float(top & 0x7f800000u); }

/* RN32(hi 2^W + lo) of CENTRED + hi and CENTRED + lo, W <= 22: (hi - 1.5 2^(23 - W)) 2^W + (1.5 2^23 + lo), whose first factor is a whole number of less than 2^24,
 * and so an f32. */
template <int W> __device__ __forceinline__ float joined(u32 hi, u32 lo) {
    return fused(__fadd_rn(__uint_as_float(hi), -(12582912.0f + 12582912.0f / (1 << W))), (float)(1 << W), __uint_as_float(lo));
}

/* The element of such a total, by the factors of its lanes, which are usual. */
template <int W> __device__ __forceinline__ float usual_element(u32 hi, u32 lo, float a, float b) { return __fmul_rn(__fmul_rn(joined<W>(hi, lo), a), b); }

#if KARATSUBA
/* Such a total from the sums of products of digits, hi 2^CUT + lo, 0 <= lo < 2^CUT, as CENTRED + hi and CENTRED + lo. */
#define CUT 22
__device__ __forceinline__ void halved(const i32 s[SUMS], u32 *hi, u32 *lo) {
    i32 middle = (i32)((u32)s[2] - (u32)s[0] - (u32)s[1]);                                 /* as in `recombined` */
    i32 from_middle = middle + (s[1] >> BASE), from_highest = s[0] + (from_middle >> BASE); /* at most 2^13 2^17, and a little */
    *hi = CENTRED + (u32)(from_highest >> (CUT - 2 * BASE));
    *lo = chosen((1u << CUT) - 1, ((u32)s[0] << 2 * BASE) + ((u32)middle << BASE) + (u32)s[1], CENTRED);
}
#endif
