/* The scalar operators of MAP, one function each, named as in native/map.c; maps.py writes kernels that call them. The polynomials are those
 * of assay/exact/functions.py, one rounded operation at a time. What a kernel stores as f32 goes through `canon`: in between, NaNs may
 * have any pattern, since no operator tells them apart. */

#define ADD __fadd_rn
#define SUB __fsub_rn
#define MUL __fmul_rn
#define DIV __fdiv_rn
#define FN __device__ __forceinline__
#ifdef ASSAY_FAKE
#define LARGE_FN __device__ __attribute__((noinline)) /* the fake device's compiler is to be quick */
#else
#define LARGE_FN FN
#endif

FN float of_bits(u32 b) { return __uint_as_float(b); }
FN float canon(float x) { return x != x ? of_bits(NAN_BITS) : x; }
FN u8 canon(u8 x) { return x; }
FN i32 canon(i32 x) { return x; }
FN i64 canon(i64 x) { return x; }

FN float neg_f32(float x) { return of_bits(__float_as_uint(x) ^ ~ABS_BITS); }
FN float abs_f32(float x) { return of_bits(__float_as_uint(x) & ABS_BITS); }
FN float with_sign(float size, float sign) { return of_bits((__float_as_uint(size) & ABS_BITS) | (__float_as_uint(sign) & ~ABS_BITS)); }
FN float relu_f32(float x) { return x != x ? x : (x > 0.0f ? x : 0.0f); }
FN float sqrt_f32(float x) { return __fsqrt_rn(x); }
FN float rsqrt_f32(float x) { return DIV(1.0f, __fsqrt_rn(x)); }
FN float reciprocal_f32(float x) { return DIV(1.0f, x); }

/* p x + c, rounded twice */
FN float horner(float p, float x, float c) { return ADD(MUL(p, x), c); }

/* exp(x) is (p + 1) 2^k for |x| <= 104: p, and with the lower bits of *shifted, k. */
FN float exp_parts(float x, i32 *shifted) {
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number. A shift by 23 leaves nothing of its bits */
    float t = ADD(MUL(x, 0x1.715476p+0f), magic), n = SUB(t, magic);
    float r = SUB(fused(n, -0x1.63p-1f, x), MUL(n, -0x1.bd0106p-13f)); /* 8 bits times 9 */
    *shifted = (i32)__float_as_uint(t);
    float p = 0x1.6d8160p-10f;
    p = horner(p, r, 0x1.123f90p-7f);
    p = horner(p, r, 0x1.5554bap-5f);
    p = horner(p, r, 0x1.55548ap-3f);
    p = horner(p, r, 0x1p-1f);
    return ADD(MUL(p, MUL(r, r)), r);
}
/* (p + 1) 2^k by a power of two that loses nothing: a sum is rounded where it was. */
FN float plus_one(float p, float power) { return fused(p, power, power); }
LARGE_FN float exp_f32(float x) {
    x = x > 89.0f ? 89.0f : x;
    x = x < -104.0f ? -104.0f : x;
    i32 k;
    float p = exp_parts(x, &k);
    i32 half = k >> 1;
    as_it_is(half); /* else two shifts become three operations */
    return MUL(plus_one(p, of_bits(((u32)half << 23) + 0x3f800000u)), of_bits(((u32)(k - half) << 23) + 0x3f800000u));
}
/* exp_f32 of what is at most 0, or NaN: -150 <= k <= 0, and (p + 1) 2^(k + 64) is normal. So it is up to k = 62: up to 42, for what is at most 0 but for roundings. */
LARGE_FN float exp_low_f32(float x) {
    x = maximum(x, -104.0f);
    i32 k;
    float p = exp_parts(x, &k);
    return MUL(plus_one(p, of_bits(((u32)k << 23) + (191u << 23))), 0x1p-64f);
}

LARGE_FN float log_f32(float x) {
    bool small = x < 0x1p-126f;
    u32 bits = __float_as_uint(small ? MUL(x, 0x1p23f) : x);
    i32 k = ((i32)bits >> 23) - (small ? 149 : 126);
    float m = of_bits((bits & 0x7fffffu) | 0x3f000000u);
    bool low = m < 0x1.6a09e6p-1f;
    float n = __int2float_rn(low ? k - 1 : k), f = SUB(low ? ADD(m, m) : m, 1.0f), z = MUL(f, f);
    float p = 0x1.1b4378p-4f;
    p = horner(p, f, -0x1.e2e484p-4f);
    p = horner(p, f, 0x1.e64d70p-4f);
    p = horner(p, f, -0x1.fb43dep-4f);
    p = horner(p, f, 0x1.233306p-3f);
    p = horner(p, f, -0x1.5562e0p-3f);
    p = horner(p, f, 0x1.99a542p-3f);
    p = horner(p, f, -0x1.ffffeep-3f);
    p = horner(p, f, 0x1.555546p-2f);
    float y = MUL(MUL(p, f), z);
    y = ADD(y, MUL(n, -0x1.bd0106p-13f));
    y = SUB(y, MUL(z, 0.5f));
    y = ADD(ADD(f, y), MUL(n, 0x1.63p-1f));
    y = x == of_bits(0x7f800000u) ? x : y;
    y = x == 0.0f ? of_bits(0xff800000u) : y;
    return x >= 0.0f ? y : of_bits(NAN_BITS);
}

LARGE_FN float tanh_f32(float x) {
    float a = abs_f32(x), z = MUL(a, a), p = -0x1.7691fcp-8f;
    p = horner(p, z, 0x1.52509ap-6f);
    p = horner(p, z, -0x1.b84340p-5f);
    p = horner(p, z, 0x1.110760p-3f);
    p = horner(p, z, -0x1.555534p-2f);
    float small = ADD(a, MUL(a, MUL(z, p))), large = SUB(1.0f, DIV(2.0f, ADD(exp_f32(ADD(a, a)), 1.0f)));
    return with_sign(a < 0x1.4p-1f ? small : large, x);
}

LARGE_FN float erf_f32(float x) {
    float a = abs_f32(x), z = MUL(a, a), p = 0x1.4c344ep-14f;
    p = horner(p, z, -0x1.a50b0ep-11f);
    p = horner(p, z, 0x1.542e10p-8f);
    p = horner(p, z, -0x1.b7fe90p-6f);
    p = horner(p, z, 0x1.ce2d50p-4f);
    p = horner(p, z, -0x1.812740p-2f);
    p = horner(p, z, 0x1.06eba8p-3f);
    float c = a > 4.0f ? 4.0f : a, q = -0x1.86e0a0p-13f;
    q = horner(q, c, 0x1.825c66p-9f);
    q = horner(q, c, -0x1.65cc00p-6f);
    q = horner(q, c, 0x1.a65378p-4f);
    q = horner(q, c, 0x1.46bae6p-1f);
    q = horner(q, c, 0x1.2088ecp+0f);
    q = horner(q, c, 0x1.66191ep-12f);
    return with_sign(a < 1.0f ? ADD(a, MUL(a, p)) : SUB(1.0f, exp_f32(neg_f32(q))), x);
}

FN float sigmoid_f32(float x) {
    float t = exp_low_f32(of_bits(__float_as_uint(x) | ~ABS_BITS));
    return DIV(x >= 0.0f ? 1.0f : t, ADD(1.0f, t));
}

/* floor(2/pi * 2^224), least significant word first, then zeros for windows that reach past the point */
__device__ const u32 TWO_OVER_PI[9] = {0xfe5163ab, 0x3c439041, 0xdb629599, 0xf534ddc0, 0xfc2757d1, 0x4e441529, 0xa2f9836e, 0, 0};

/* sin(|x| + n pi/2), with the sign of x if asked for */
LARGE_FN float sine(float x, u64 n, bool keep_sign) {
    float a = abs_f32(x), r = a;
    if (!(a < of_bits(0x7f800000u))) return of_bits(NAN_BITS);
    if (a >= 0x1.921fb6p-1f) {
        u32 bits = __float_as_uint(a), at = 280 - (bits >> 23), first = at / 32, shift = at % 32, w[3];
        for (int i = 0; i < 3; i++) w[i] = (u32)((TWO_OVER_PI[first + i] | (u64)TWO_OVER_PI[first + i + 1] << 32) >> shift);
        u64 m = (bits & 0x7fffffu) | 0x800000u, p = m * (w[1] | (u64)w[2] << 32) + (m * w[0] >> 32), q = (p + (1ull << 61)) >> 62;
        r = MUL(MUL(__ll2float_rn((i64)(p - (q << 62))), 0x1.921fb6p+0f), 0x1p-62f);
        n += q;
    }
    float z = MUL(r, r), s = -0x1.9956b6p-13f, c = 0x1.99e0ecp-16f;
    s = horner(s, z, 0x1.11077ep-7f);
    s = horner(s, z, -0x1.555546p-3f);
    s = ADD(MUL(MUL(s, z), r), r);
    c = horner(c, z, -0x1.6c0c1ap-10f);
    c = horner(c, z, 0x1.55554ap-5f);
    c = ADD(SUB(MUL(MUL(c, z), z), MUL(z, 0.5f)), 1.0f);
    u32 flip = (n & 2 ? ~ABS_BITS : 0u) ^ (keep_sign ? __float_as_uint(x) & ~ABS_BITS : 0u);
    return of_bits(__float_as_uint(n & 1 ? c : s) ^ flip);
}
FN float sin_f32(float x) { return sine(x, 0, true); }
FN float cos_f32(float x) { return sine(x, 1, false); }

FN float add_f32(float x, float y) { return ADD(x, y); }
FN float sub_f32(float x, float y) { return SUB(x, y); }
FN float mul_f32(float x, float y) { return MUL(x, y); }
FN float div_f32(float x, float y) { return DIV(x, y); }
/* x / by for many x. With y = RN(1 / b), q = RN(x y) and r = x - b q, RN(q + r y) is the rounded quotient (Markstein, IBM Journal of Research and Development 34,
 * 1990), for numbers of 24 bits without under- and overflow: q is less than 1.5 units of its last place off, so r is exact but for a 2^-24th, and q + r y off by
 * 3 2^-24 units at most. A quotient A / B of whole numbers of 24 bits that lies so near the middle of two results has A 2^24 (or 2^25) = B M + c for an odd M and
 * 1 <= |c| <= 6; all there are were tried (tests/exact/test_cuda_quotients.py). It holds for 2^-20 <= b <= 2^20 and +0 or 2^-102 <= x <= 4 b: then
 * r is a multiple of 2^-149, and q at least 2^-122. `least` + 1 is where x - 1 unit begins to be usual, in bits; all is less where b is not usual. */
struct Divisor { float by, reciprocal; u32 least; };
FN Divisor divisor_of(float by) {
    bool usual = by >= 0x1p-20f && by <= 0x1p20f;
    return {by, DIV(1.0f, by), usual ? (25u << 23) - 2u : 0xffffffffu};
}
FN float divided(float x, const Divisor &d) {
    float q = MUL(x, d.reciprocal), r = of_quotient(-d.by, q, x);
    return of_quotient(r, d.reciprocal, q);
}
/* Two quotients of +0 or positive numbers of at most 4 b, or of NaNs, unless b is not usual. */
FN void two_quotients(const float *x, const Divisor &d, float *y) {
    y[0] = divided(x[0], d), y[1] = divided(x[1], d);
    u32 one = __float_as_uint(x[0]) - 1u, two = __float_as_uint(x[1]) - 1u;
    if ((one < two ? one : two) <= d.least) {
#pragma unroll 1
        for (int i = 0; i < 2; i++) { /* one by one, since they are few */
            float z = DIV(i ? x[1] : x[0], d.by);
            if (i) y[1] = z;
            else y[0] = z;
        }
    }
}

template <int W> FN void quotients_of(const float *x, const Divisor &d, float *y) {
#pragma unroll
    for (int i = 0; i < W; i += 2) two_quotients(x + i, d, y + i);
}

/* IEEE 754-2019 maximum and minimum: -0 before +0, NaN if either is */
FN float maximum_f32(float x, float y) { return maximum(x, y); }
FN float minimum_f32(float x, float y) {
    float z = x == y ? of_bits(__float_as_uint(x) | __float_as_uint(y)) : (x < y ? x : y);
    return x != x ? x : z;
}

#define WRAPPING(S, T, U) \
    FN T add_##S(T x, T y) { return (T)((U)x + (U)y); } \
    FN T sub_##S(T x, T y) { return (T)((U)x - (U)y); } \
    FN T mul_##S(T x, T y) { return (T)((U)x * (U)y); }
WRAPPING(i32, i32, u32)
WRAPPING(i64, i64, u64)

#define COMPARED(S, T) \
    FN u8 eq_##S(T x, T y) { return x == y; } FN u8 ne_##S(T x, T y) { return x != y; } FN u8 lt_##S(T x, T y) { return x < y; } \
    FN u8 le_##S(T x, T y) { return x <= y; } FN u8 gt_##S(T x, T y) { return x > y; } FN u8 ge_##S(T x, T y) { return x >= y; }
COMPARED(f32, float)
COMPARED(i32, i32)
COMPARED(i64, i64)

FN u8 and_bool(u8 x, u8 y) { return x & y; }
FN u8 or_bool(u8 x, u8 y) { return x | y; }
FN u8 not_bool(u8 x) { return !x; }

#define ANY_TYPE(N) \
    template <class T> FN T copy_##N(T x) { return x; } \
    template <class T> FN T select_##N(u8 which, T x, T y) { return which ? x : y; }
ANY_TYPE(1)
ANY_TYPE(4)
ANY_TYPE(8)

/* Conversions from f32 truncate and saturate, NaN becomes 0. */
FN i32 f32_to_i32(float x) { return x != x ? 0 : (x >= 0x1p31f ? 0x7fffffff : (x < -0x1p31f ? -0x7fffffff - 1 : __float2int_rz(x))); }
FN i64 f32_to_i64(float x) {
    const i64 most = 0x7fffffffffffffffll;
    return x != x ? 0 : (x >= 0x1p63f ? most : (x < -0x1p63f ? -most - 1 : __float2ll_rz(x)));
}
FN u8 f32_to_bool(float x) { return x != 0.0f; }
FN float i32_to_f32(i32 x) { return __int2float_rn(x); }
FN i64 i32_to_i64(i32 x) { return x; }
FN u8 i32_to_bool(i32 x) { return x != 0; }
FN float i64_to_f32(i64 x) { return __ll2float_rn(x); }
FN i32 i64_to_i32(i64 x) { return (i32)(u32)x; }
FN u8 i64_to_bool(i64 x) { return x != 0; }
FN float u8_to_f32(u8 x) { return __int2float_rn(x); }
FN i32 u8_to_i32(u8 x) { return x; }
FN i64 u8_to_i64(u8 x) { return x; }
FN u8 u8_to_bool(u8 x) { return x != 0; }

/* Philox4x32-10 (Salmon et al., SC 2011): the first word at counter (position, stream) under a key. */
LARGE_FN i64 philox_i64(i64 position, i64 stream, i64 key) {
    u32 c0 = (u32)position, c1 = (u32)((u64)position >> 32), c2 = (u32)stream, c3 = (u32)((u64)stream >> 32);
    u32 k0 = (u32)key, k1 = (u32)((u64)key >> 32);
    for (int turn = 0; turn < 10; turn++) {
        u32 high0 = __umulhi(c0, 0xd2511f53u), high1 = __umulhi(c2, 0xcd9e8d57u), low0 = c0 * 0xd2511f53u, low1 = c2 * 0xcd9e8d57u;
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    return (i64)c0;
}
