/* What every CUDA source of this folder starts with. On a GPU it is compiled by NVRTC, which has no headers of C; on the fake device
 * shim.h comes first. Rounding is said operation by operation (__fadd_rn, ...), so that no compiler may contract or approximate. */
typedef unsigned char u8;
typedef int i32;
typedef unsigned u32;
typedef long long i64;
typedef unsigned long long u64;

#define KERNEL extern "C" __global__ void
#define NAN_BITS 0x7fc00000u
#define ABS_BITS 0x7fffffffu
#define ALL_LANES 0xffffffffu

#ifndef ASSAY_FAKE
#define ASSAY_SHARED(T, name) \
    extern __shared__ __align__(128) u8 assay_shared[]; \
    T *name = reinterpret_cast<T *>(assay_shared)
#endif

/* RN32(a b + c), rounded once. Only for products that are exact in f32, or less than 2^-126 and nothing beside c: all others are rounded by themselves. The PTX
 * says that it is this sum, since the compiler is told to make none. */
#ifdef ASSAY_FAKE
static inline float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
static inline float of_quotient(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
static inline void as_it_is(i32 &) {}
static inline u32 chosen(u32 mask, u32 x, u32 y) { return (x & mask) | (y & ~mask); }
#else
__device__ __forceinline__ float fused(float a, float b, float c) {
    float sum;
    asm("fma.rn.f32 %0, %1, %2, %3; // of an exact product" : "=f"(sum) : "f"(a), "f"(b), "f"(c));
    return sum;
}
/* The same for the two steps of a quotient (`divided` in map.cuh). */
__device__ __forceinline__ float of_quotient(float a, float b, float c) {
    float sum;
    asm("fma.rn.f32 %0, %1, %2, %3; // of a quotient" : "=f"(sum) : "f"(a), "f"(b), "f"(c));
    return sum;
}
/* x is made as it is written, and what is made of it of that: where the compiler knows better, and is wrong. */
__device__ __forceinline__ void as_it_is(i32 &x) { asm("" : "+r"(x)); }
/* The bits of x where mask has ones, else y's: in one operation, where the compiler makes two of two constants. */
__device__ __forceinline__ u32 chosen(u32 mask, u32 x, u32 y) {
    u32 z;
    asm("lop3.b32 %0, %1, %2, %3, 0xca;" : "=r"(z) : "r"(mask), "r"(x), "r"(y));
    return z;
}
#endif

/* The exponent field of the largest magnitude, of bits that have no sign. */
__device__ __forceinline__ u32 field_of(u32 magnitude) { return magnitude >> 23; }

/* What x is multiplied by, one after the other, to be x * 2^(s - FRACTION), for -232 <= s <= 274: two normal numbers, of which the second is 1 where one does. */
#define FRACTION 20
struct Scale { float one, two; };
__device__ __forceinline__ Scale scale_by(int s) {
    int by = s - FRACTION, first = by > 127 ? 127 : by < -126 ? -126 : by;
    return {__uint_as_float((u32)(first + 127) << 23), __uint_as_float((u32)(by - first + 127) << 23)};
}

/* rint(x * 2^s), ties to even, for finite x and |x * 2^s| <= 2^42; of others some number. Adding 1.5 * 2^23 rounds to a whole number: first
 * x * 2^(s - 20), whose rest, at most a half, is exact (it is a multiple of x's last bit, and x has 24), then the rest's 2^20 times. Parts of a tie go to even
 * with the second number, since 2^20 times the first is even. Numbers so small that a scaled one is rounded on the way are far below a half. */
__device__ __forceinline__ i64 fixed(float x, Scale by) {
    const float magic = 12582912.0f;
    float y = __fmul_rn(__fmul_rn(x, by.one), by.two), high = __fadd_rn(y, magic);
    float rest = __fsub_rn(y, __fsub_rn(high, magic)), low = fused(rest, (float)(1 << FRACTION), magic);
    const u32 none = 0x4b400000u;
    return (i64)(i32)(__float_as_uint(high) - none) * (1 << FRACTION) + (i32)(__float_as_uint(low) - none);
}

/* The same in two numbers, `high` 2^20 + `low`, whose bits are added to those of `magic`: of 2^8 elements each sum fits an i32. x is scaled where it is added, since a
 * product with a power of two is exact, or it is nothing (`fused`). Where a power of two is not enough, magic is as much smaller: 1.5 * 2^23 units of what is
 * then its last bit. -106 <= s <= 169, and |x * 2^s| <= 2^42. */
struct Halver { float factor, magic; };
struct Halves { u32 high, low; };
__device__ __forceinline__ Halver halver_of(int s) {
    int by = s - FRACTION, first = by > 127 ? 127 : by;
    return {__uint_as_float((u32)(first + 127) << 23), __uint_as_float(0x4b400000u - ((u32)(by - first) << 23))};
}
__device__ __forceinline__ Halves halves_of(float x, Halver h) {
    float high = fused(x, h.factor, h.magic), rest = fused(x, h.factor, __fsub_rn(h.magic, high));
    return {__float_as_uint(high), __float_as_uint(fused(rest, (float)(1 << FRACTION), h.magic))};
}
/* What such sums of `count` elements come to. */
__device__ __forceinline__ i64 joined_halves(Halves sum, u32 count, Halver h) {
    const u32 none = __float_as_uint(h.magic) * count;
    return (i64)(i32)(sum.high - none) * (1 << FRACTION) + (i32)(sum.low - none);
}

/* The larger one of two, -0 before +0, and NaN if either is (IEEE 754-2019 maximum); and that of x and y's size. */
#ifdef ASSAY_FAKE
static inline float maximum(float x, float y) {
    float z = x == y ? __uint_as_float(__float_as_uint(x) & __float_as_uint(y)) : (x > y ? x : y);
    return x != x ? x : z;
}
static inline float maximum_of_size(float x, float y) { return maximum(x, __uint_as_float(__float_as_uint(y) & ABS_BITS)); }
#else
__device__ __forceinline__ float maximum(float x, float y) {
    float z;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(z) : "f"(x), "f"(y));
    return z;
}
__device__ __forceinline__ float maximum_of_size(float x, float y) {
    float z;
    asm("{ .reg .f32 size; abs.f32 size, %2; max.NaN.f32 %0, %1, size; }" : "=f"(z) : "f"(x), "f"(y));
    return z;
}
#endif

/* RN32(total * 2^s), rounded once, ties to even, subnormals kept; +0 for a sum of zero. |total| < 2^63, s any int of some thousands. */
__device__ __forceinline__ float round_scaled(i64 total, int s) {
    u64 size = total < 0 ? 0 - (u64)total : (u64)total;
    u32 sign = total < 0 ? ~ABS_BITS : 0u;
    if (!size) return 0.0f;
    int top = 63 - __clzll((i64)size), e = top + s;
    if (e > 127) return __uint_as_float(sign | 0x7f800000u);
    int keep = e >= -126 ? 24 : 24 + 126 + e, drop = top + 1 - keep;
    u64 q;
    if (drop <= 0) q = size << -drop;
    else if (drop > 63) q = 0;
    else {
        u64 rest = size & ((1ull << drop) - 1), half = 1ull << (drop - 1);
        q = size >> drop;
        q += rest > half || (rest == half && (q & 1));
    }
    return __uint_as_float(sign | (u32)(q + (e >= -126 ? (u64)(e + 126) << 23 : 0)));
}

/* A result, and what is added to it where it is stored, if anything is (`more`, an array as the result, or null): rounded by itself, canonical where it is NaN. */
__device__ __forceinline__ float plus(float x, const float *more, i64 at) {
    if (more) x = __fadd_rn(x, more[at]);
    return x == x ? x : __uint_as_float(NAN_BITS);
}
