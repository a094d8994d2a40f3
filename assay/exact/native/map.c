/* MAP: a chain of elementwise operators, compiled ahead of time (assay/exact/tape.py) to a short program over slots, run on blocks
 * that stay in the L1 cache. Slots are inputs (where they lie, or a copy of the block when they are broadcast or strided), outputs
 * (where they will lie) and registers. Each operator is one loop, which the compiler vectorises.
 *
 * NaNs are made canonical once per block where f32 leaves a chain ("canon"): no operator in between can tell NaNs apart.
 */
#include "assay.h"
#include <math.h>

#define BLOCK 1024
#define MAX_SLOTS 256

/* ---- functions: the polynomials of reference.py, a multiplication and an addition at a time ---- */

static const float LOG2_E = 0x1.715476p+0f, LN2_HIGH = 0x1.63p-1f, LN2_LOW = -0x1.bd0106p-13f;
static const float MAGIC = 0x1.8p23f; /* x + MAGIC - MAGIC == rint(x) for |x| < 2^22 */

static inline float exp_f32(float x) {
    x = x > 89.0f ? 89.0f : x;
    x = x < -104.0f ? -104.0f : x;
    float t = x * LOG2_E + MAGIC, n = t - MAGIC;
    float r = x - n * LN2_HIGH;
    r = r - n * LN2_LOW;
    float p = 0x1.6d8160p-10f;
    p = p * r + 0x1.123f90p-7f;
    p = p * r + 0x1.5554bap-5f;
    p = p * r + 0x1.55548ap-3f;
    p = p * r + 0.5f;
    p = p * (r * r);
    p = p + r;
    p = p + 1.0f;
    int32_t k = (int32_t)(bits_of(t) - bits_of(MAGIC)), half = k >> 1;
    return p * from_bits((uint32_t)(half + 127) << 23) * from_bits(((uint32_t)k - (uint32_t)half + 127u) << 23);
}

static inline float log_f32(float x) {
    int small = x < 0x1p-126f;
    uint32_t bits = bits_of(small ? x * 0x1p23f : x);
    int32_t k = ((int32_t)bits >> 23) - (small ? 149 : 126);
    float m = from_bits((bits & 0x7fffffu) | 0x3f000000u);
    int low = m < 0x1.6a09e6p-1f;
    float n = (float)(low ? k - 1 : k), f = (low ? m + m : m) - 1.0f, z = f * f;
    float p = 0x1.1b4378p-4f;
    p = p * f + -0x1.e2e484p-4f;
    p = p * f + 0x1.e64d70p-4f;
    p = p * f + -0x1.fb43dep-4f;
    p = p * f + 0x1.233306p-3f;
    p = p * f + -0x1.5562e0p-3f;
    p = p * f + 0x1.99a542p-3f;
    p = p * f + -0x1.ffffeep-3f;
    p = p * f + 0x1.555546p-2f;
    float y = p * f * z;
    y = y + n * LN2_LOW;
    y = y - z * 0.5f;
    y = (f + y) + n * LN2_HIGH;
    y = x == INFINITY ? x : y;
    y = x == 0 ? -INFINITY : y;
    return x >= 0 ? y : from_bits(NAN_BITS);
}

static inline float with_sign(float size, float sign) { return from_bits((bits_of(size) & ABS_BITS) | (bits_of(sign) & ~ABS_BITS)); }
static inline float abs_f32(float x) { return from_bits(bits_of(x) & ABS_BITS); }

static inline float tanh_f32(float x) {
    float a = abs_f32(x), z = a * a;
    float p = -0x1.7691fcp-8f;
    p = p * z + 0x1.52509ap-6f;
    p = p * z + -0x1.b84340p-5f;
    p = p * z + 0x1.110760p-3f;
    p = p * z + -0x1.555534p-2f;
    float small = a + a * (z * p), large = 1.0f - 2.0f / (exp_f32(a + a) + 1.0f);
    return with_sign(a < 0x1.4p-1f ? small : large, x);
}

static inline float erf_f32(float x) {
    float a = abs_f32(x), z = a * a;
    float p = 0x1.4c344ep-14f;
    p = p * z + -0x1.a50b0ep-11f;
    p = p * z + 0x1.542e10p-8f;
    p = p * z + -0x1.b7fe90p-6f;
    p = p * z + 0x1.ce2d50p-4f;
    p = p * z + -0x1.812740p-2f;
    p = p * z + 0x1.06eba8p-3f;
    float small = a + a * p, c = a > 4.0f ? 4.0f : a;
    float q = -0x1.86e0a0p-13f;
    q = q * c + 0x1.825c66p-9f;
    q = q * c + -0x1.65cc00p-6f;
    q = q * c + 0x1.a65378p-4f;
    q = q * c + 0x1.46bae6p-1f;
    q = q * c + 0x1.2088ecp+0f;
    q = q * c + 0x1.66191ep-12f;
    return with_sign(a < 1.0f ? small : 1.0f - exp_f32(-q), x);
}

static inline float sigmoid_f32(float x) {
    float t = exp_f32(from_bits(bits_of(x) | ~ABS_BITS));
    return (x >= 0 ? 1.0f : t) / (1.0f + t);
}

/* floor(2/pi * 2^224), least significant word first, then zeros for windows that reach past the point */
static const uint32_t TWO_OVER_PI[9] = {0xfe5163ab, 0x3c439041, 0xdb629599, 0xf534ddc0, 0xfc2757d1, 0x4e441529, 0xa2f9836e, 0, 0};

static inline float sine(float x, uint64_t n, int keep_sign) {
    float a = abs_f32(x), r = a;
    if (!(a < INFINITY)) return from_bits(NAN_BITS);
    if (a >= 0x1.921fb6p-1f) {
        uint32_t bits = bits_of(a), at = 280 - (bits >> 23), word32 = at / 32, shift = at % 32;
        uint32_t w[3];
        for (int i = 0; i < 3; i++) w[i] = (uint32_t)((TWO_OVER_PI[word32 + i] | (uint64_t)TWO_OVER_PI[word32 + i + 1] << 32) >> shift);
        uint64_t m = (bits & 0x7fffffu) | 0x800000u;
        uint64_t p = m * (w[1] | (uint64_t)w[2] << 32) + (m * w[0] >> 32), q = (p + (1ull << 61)) >> 62;
        r = (float)(int64_t)(p - (q << 62)) * 0x1.921fb6p+0f * 0x1p-62f;
        n += q;
    }
    float z = r * r, s = -0x1.9956b6p-13f, c = 0x1.99e0ecp-16f;
    s = s * z + 0x1.11077ep-7f;
    s = s * z + -0x1.555546p-3f;
    s = s * z * r + r;
    c = c * z + -0x1.6c0c1ap-10f;
    c = c * z + 0x1.55554ap-5f;
    c = (c * z * z - z * 0.5f) + 1.0f;
    float y = n & 1 ? c : s;
    uint32_t flip = (n & 2 ? ~ABS_BITS : 0) ^ (keep_sign ? bits_of(x) & ~ABS_BITS : 0);
    return from_bits(bits_of(y) ^ flip);
}

/* IEEE 754-2019 maximum and minimum: -0 before +0, NaN if either is */
static inline float maximum_f32(float a, float b) {
    float y = a > b ? a : b;
    y = a == b ? from_bits(bits_of(a) & bits_of(b)) : y;
    return a != a ? a : y;
}
static inline float minimum_f32(float a, float b) {
    float y = a < b ? a : b;
    y = a == b ? from_bits(bits_of(a) | bits_of(b)) : y;
    return a != a ? a : y;
}

static inline int32_t f32_to_i32(float x) {
    int inside = x >= -0x1p31f && x < 0x1p31f;
    int32_t whole = (int32_t)(inside ? x : 0.0f);
    return inside || x != x ? whole : (x < 0 ? INT32_MIN : INT32_MAX);
}
static inline int64_t f32_to_i64(float x) {
    int inside = x >= -0x1p63f && x < 0x1p63f;
    int64_t whole = (int64_t)(inside ? x : 0.0f);
    return inside || x != x ? whole : (x < 0 ? INT64_MIN : INT64_MAX);
}

/* (float)x, which clang 14 rounds twice in vectors of aarch64: what f64 does not hold exactly is rounded to odd first. */
static inline float i64_to_f32(int64_t x) {
    int64_t odd = (int64_t)((uint64_t)((x >> 10) | ((x & 1023) != 0)) << 10);
    return (float)(double)(x >= -(1ll << 53) && x <= 1ll << 53 ? x : odd);
}

/* ---- operators: name, result, operand types, expression in x, y, z ---- */

#define COMPARISONS(X, T, S) \
    X(eq_##S, uint8_t, T, x == y) X(ne_##S, uint8_t, T, x != y) X(lt_##S, uint8_t, T, x < y) \
    X(le_##S, uint8_t, T, x <= y) X(gt_##S, uint8_t, T, x > y) X(ge_##S, uint8_t, T, x >= y)

#define UNARY(X) \
    X(neg_f32, float, float, from_bits(bits_of(x) ^ ~ABS_BITS)) X(abs_f32, float, float, abs_f32(x)) \
    X(relu_f32, float, float, x != x ? x : (x > 0 ? x : 0.0f)) X(sqrt_f32, float, float, sqrtf(x)) \
    X(rsqrt_f32, float, float, 1.0f / sqrtf(x)) X(reciprocal_f32, float, float, 1.0f / x) \
    X(exp_f32, float, float, exp_f32(x)) X(log_f32, float, float, log_f32(x)) X(tanh_f32, float, float, tanh_f32(x)) \
    X(erf_f32, float, float, erf_f32(x)) X(sigmoid_f32, float, float, sigmoid_f32(x)) \
    X(sin_f32, float, float, sine(x, 0, 1)) X(cos_f32, float, float, sine(x, 1, 0)) \
    X(not_bool, uint8_t, uint8_t, !x) \
    X(copy_1, uint8_t, uint8_t, x) X(copy_4, uint32_t, uint32_t, x) X(copy_8, uint64_t, uint64_t, x) \
    X(canon, float, float, x != x ? from_bits(NAN_BITS) : x) \
    X(f32_to_i32, int32_t, float, f32_to_i32(x)) X(f32_to_i64, int64_t, float, f32_to_i64(x)) X(f32_to_bool, uint8_t, float, x != 0) \
    X(i32_to_f32, float, int32_t, (float)x) X(i32_to_i64, int64_t, int32_t, x) X(i32_to_bool, uint8_t, int32_t, x != 0) \
    X(i64_to_f32, float, int64_t, i64_to_f32(x)) X(i64_to_i32, uint32_t, uint64_t, (uint32_t)x) X(i64_to_bool, uint8_t, int64_t, x != 0) \
    X(u8_to_f32, float, uint8_t, (float)x) X(u8_to_i32, int32_t, uint8_t, x) X(u8_to_i64, int64_t, uint8_t, x) \
    X(u8_to_bool, uint8_t, uint8_t, x != 0)

#define BINARY(X) \
    X(add_f32, float, float, x + y) X(sub_f32, float, float, x - y) X(mul_f32, float, float, x * y) X(div_f32, float, float, x / y) \
    X(maximum_f32, float, float, maximum_f32(x, y)) X(minimum_f32, float, float, minimum_f32(x, y)) \
    X(add_i64, uint64_t, uint64_t, x + y) X(sub_i64, uint64_t, uint64_t, x - y) X(mul_i64, uint64_t, uint64_t, x * y) \
    X(add_i32, uint32_t, uint32_t, x + y) X(sub_i32, uint32_t, uint32_t, x - y) X(mul_i32, uint32_t, uint32_t, x * y) \
    X(and_bool, uint8_t, uint8_t, x & y) X(or_bool, uint8_t, uint8_t, x | y) \
    COMPARISONS(X, float, f32) COMPARISONS(X, int64_t, i64) COMPARISONS(X, int32_t, i32)

/* Philox4x32-10 (Salmon et al., SC 2011): the first word at counter (position, stream) under a key. */
static inline int64_t philox(uint64_t position, uint64_t stream, uint64_t key) {
    uint32_t c0 = (uint32_t)position, c1 = (uint32_t)(position >> 32), c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)c0 * 0xd2511f53u, p1 = (uint64_t)c2 * 0xcd9e8d57u;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    return c0;
}

#define TERNARY(X) X(philox_i64, int64_t, uint64_t, philox(x, y, z))
#define SELECT(X) X(select_1, uint8_t) X(select_4, uint32_t) X(select_8, uint64_t)

typedef void (*kernel)(void *restrict d, const void *restrict a, const void *restrict b, const void *restrict c, word n);

#define LOOP(name) static void k_##name(void *restrict d_, const void *restrict a_, const void *restrict b_, const void *restrict c_, word n)
#define DEFINE_UNARY(name, R, T, e) \
    LOOP(name) { R *d = d_; const T *a = a_; (void)b_; (void)c_; for (word i = 0; i < n; i++) { const T x = a[i]; d[i] = (R)(e); } }
#define DEFINE_BINARY(name, R, T, e) \
    LOOP(name) { R *d = d_; const T *a = a_, *b = b_; (void)c_; for (word i = 0; i < n; i++) { const T x = a[i], y = b[i]; d[i] = (R)(e); } }
#define DEFINE_TERNARY(name, R, T, e) \
    LOOP(name) { R *d = d_; const T *a = a_, *b = b_, *c = c_; for (word i = 0; i < n; i++) { const T x = a[i], y = b[i], z = c[i]; d[i] = (R)(e); } }
#define DEFINE_SELECT(name, T) \
    LOOP(name) { T *d = d_; const uint8_t *a = a_; const T *b = b_, *c = c_; for (word i = 0; i < n; i++) { const T x = b[i], y = c[i]; d[i] = a[i] ? x : y; } }
UNARY(DEFINE_UNARY)
BINARY(DEFINE_BINARY)
TERNARY(DEFINE_TERNARY)
SELECT(DEFINE_SELECT)

#define ENTRY(name, ...) k_##name,
static const kernel KERNELS[] = {UNARY(ENTRY) BINARY(ENTRY) TERNARY(ENTRY) SELECT(ENTRY)};
#define NAME(name, ...) #name " "
/* Names of the operators, in the order of their codes, each followed by a space. */
const char assay_kernels[] = UNARY(NAME) BINARY(NAME) TERNARY(NAME) SELECT(NAME);

/* ---- blocks ---- */

/* Copies `n` elements of `item` bytes, from index `from` of the (row-major) iteration space, to `d`. */
static void load(char *d, const char *s, int item, const word *dims, const word *strides, int rank, word from, word n) {
    word at[8], inner = dims[rank - 1], step = strides[rank - 1], offset = 0;
    for (int r = rank - 1; r >= 0; r--) { at[r] = from % dims[r]; from /= dims[r]; offset += at[r] * strides[r]; }
    while (n > 0) {
        word run = inner - at[rank - 1];
        if (run > n) run = n;
        const char *p = s + offset * item;
        if (step == 0 && item == 4) { uint32_t v, *o = (uint32_t *)d; memcpy(&v, p, 4); for (word i = 0; i < run; i++) o[i] = v; }
        else if (step == 2 && item == 4) { uint32_t *o = (uint32_t *)d; const uint32_t *q = (const uint32_t *)p; for (word i = 0; i < run; i++) o[i] = q[2 * i]; }
        else if (step == 1) memcpy(d, p, (size_t)(run * item));
        else if (item == 4) { uint32_t *o = (uint32_t *)d; const uint32_t *q = (const uint32_t *)p; for (word i = 0; i < run; i++) o[i] = q[i * step]; }
        else if (item == 8) { uint64_t *o = (uint64_t *)d; const uint64_t *q = (const uint64_t *)p; for (word i = 0; i < run; i++) o[i] = q[i * step]; }
        else for (word i = 0; i < run; i++) d[i] = p[i * step];
        d += run * item;
        n -= run;
        offset -= at[rank - 1] * step;
        at[rank - 1] = 0;
        for (int r = rank - 2; r >= 0; r--) {
            offset += strides[r];
            if (++at[r] < dims[r]) break;
            offset -= dims[r] * strides[r];
            at[r] = 0;
        }
    }
}

/* The same where elements lie in short runs: their offsets within a period, the last `inner` dimensions, are looked up. */
static void look_up(char *restrict d, const char *s, int item, const int32_t *table, word period, const word *dims, const word *strides, int rank, word from, word n) {
    word at = from % period, q = from / period;
    while (n > 0) {
        word run = period - at < n ? period - at : n, offset = 0, rest = q++;
        for (int r = rank - 1; r >= 0; r--) { offset += rest % dims[r] * strides[r]; rest /= dims[r]; }
        const char *p = s + offset * item;
        const int32_t *t = table + at;
        if (item == 4) { uint32_t *o = (uint32_t *)d; const uint32_t *e = (const uint32_t *)p; for (word i = 0; i < run; i++) o[i] = e[t[i]]; }
        else if (item == 8) { uint64_t *o = (uint64_t *)d; const uint64_t *e = (const uint64_t *)p; for (word i = 0; i < run; i++) o[i] = e[t[i]]; }
        else for (word i = 0; i < run; i++) d[i] = p[t[i]];
        d += run * item;
        n -= run;
        at = 0;
    }
}

/* Offsets of the elements of the last `inner` of `rank` dimensions; returns how many. */
static word make_table(int32_t *table, const word *dims, const word *strides, int rank, int inner) {
    word period = 1;
    for (int r = rank - inner; r < rank; r++) period *= dims[r];
    for (word i = 0; i < period; i++) {
        word rest = i, offset = 0;
        for (int r = rank - 1; r >= rank - inner; r--) { offset += rest % dims[r] * strides[r]; rest /= dims[r]; }
        table[i] = (int32_t)offset;
    }
    return period;
}

enum { DIRECT, SCALAR, STRIDED, LOOKED_UP };

/* Words: n, inputs, outputs, registers, instructions, scratch bytes; inputs (base, offset, item, how, register offset, dimensions
 * that are looked up, their table's offset, rank, dims, strides); outputs (base, offset, item); register offsets; instructions (operator, d, a, b, c). Offsets in bytes, strides in elements. */
typedef struct { const word *w; char **base; int failed; } map_job;

static void map_part(void *argument, int part, int parts) {
    map_job *j = argument;
    const word *w = j->w;
    word n = w[0], nin = w[1], nout = w[2], nreg = w[3], ninstr = w[4], from, to;
    const word *input[MAX_SLOTS], *out = w + 6;
    for (word k = 0; k < nin; k++) { input[k] = out; out += 8 + 2 * out[7]; }
    const word *regs = out + 3 * nout, *code = regs + nreg;
    share(n, BLOCK, part, parts, &from, &to);
    if (from == to) return;
    char *scratch = assay_scratch(SCRATCH_REGISTERS, (size_t)w[5]), *slot[MAX_SLOTS];
    word period[MAX_SLOTS];
    if (!scratch) { j->failed = 1; return; }
    for (word k = 0; k < nin; k++) {
        const word *i = input[k];
        char *p = j->base[i[0]] + i[1];
        slot[k] = i[3] == DIRECT ? p : scratch + i[4];
        if (i[3] == LOOKED_UP) period[k] = make_table((int32_t *)(scratch + i[6]), i + 8, i + 8 + i[7], (int)i[7], (int)i[5]);
        if (i[3] == SCALAR) {
            if (i[2] == 4) { uint32_t v, *d = (uint32_t *)slot[k]; memcpy(&v, p, 4); for (int e = 0; e < BLOCK; e++) d[e] = v; }
            else if (i[2] == 8) { uint64_t v, *d = (uint64_t *)slot[k]; memcpy(&v, p, 8); for (int e = 0; e < BLOCK; e++) d[e] = v; }
            else memset(slot[k], *p, BLOCK);
        }
    }
    for (word k = 0; k < nreg; k++) slot[nin + nout + k] = scratch + regs[k];
    for (word at = from; at < to; at += BLOCK) {
        word count = to - at < BLOCK ? to - at : BLOCK;
        for (word k = 0; k < nin; k++) {
            const word *i = input[k];
            if (i[3] == DIRECT) slot[k] = j->base[i[0]] + i[1] + at * i[2];
            else if (i[3] == STRIDED) load(slot[k], j->base[i[0]] + i[1], (int)i[2], i + 8, i + 8 + i[7], (int)i[7], at, count);
            else if (i[3] == LOOKED_UP) look_up(slot[k], j->base[i[0]] + i[1], (int)i[2], (const int32_t *)(scratch + i[6]), period[k], i + 8, i + 8 + i[7], (int)(i[7] - i[5]), at, count);
        }
        for (word k = 0; k < nout; k++) slot[nin + k] = j->base[out[3 * k]] + out[3 * k + 1] + at * out[3 * k + 2];
        const word *c = code;
        for (word k = 0; k < ninstr; k++, c += 5) KERNELS[c[0]](slot[c[1]], slot[c[2]], slot[c[3]], slot[c[4]], count);
    }
}

int assay_map(const word *w, char **base, int threads) {
    map_job j = {w, base, 0};
    assay_parallel(w[0] >= 8 * BLOCK ? threads : 1, map_part, &j);
    return j.failed ? -1 : 0;
}

/* ---- placing elements ---- */

typedef struct { const word *w; char **base; word outer; } placing;

static void copy_part(void *argument, int part, int parts) {
    placing *j = argument;
    const word *w = j->w;
    word item = w[4], rank = w[5], at[8] = {0}, a = 0, b = 0, begin, end;
    const word *dims = w + 6, *to = dims + rank, *from = to + rank;
    word inner = dims[rank - 1], dt = to[rank - 1], df = from[rank - 1];
    char *d = j->base[w[0]] + w[1];
    const char *s = j->base[w[2]] + w[3];
    share(j->outer, 1, part, parts, &begin, &end);
    for (word r = rank - 2, rest = begin; r >= 0; r--) { at[r] = rest % dims[r]; rest /= dims[r]; a += at[r] * to[r]; b += at[r] * from[r]; }
    for (word k = begin; k < end; k++) {
        char *p = d + a * item;
        const char *q = s + b * item;
        if (dt == 1 && df == 1 && inner * item == 16) memcpy(p, q, 16);
        else if (dt == 1 && df == 1) memcpy(p, q, (size_t)(inner * item));
        else if (item == 4) { uint32_t *o = (uint32_t *)p; const uint32_t *i = (const uint32_t *)q; for (word e = 0; e < inner; e++) o[e * dt] = i[e * df]; }
        else if (item == 8) { uint64_t *o = (uint64_t *)p; const uint64_t *i = (const uint64_t *)q; for (word e = 0; e < inner; e++) o[e * dt] = i[e * df]; }
        else for (word e = 0; e < inner; e++) p[e * dt] = q[e * df];
        for (word r = rank - 2; r >= 0; r--) {
            a += to[r];
            b += from[r];
            if (++at[r] < dims[r]) break;
            a -= dims[r] * to[r];
            b -= dims[r] * from[r];
            at[r] = 0;
        }
    }
}

/* Words: base and offset of the target and of the source, item, rank, dims, strides of the target, of the source (in elements). */
int assay_copy(const word *w, char **base, int threads) {
    placing j = {w, base, 1};
    for (word r = 0; r < w[5] - 1; r++) j.outer *= w[6 + r];
    assay_parallel(j.outer * w[5 + w[5]] >= 8 * BLOCK ? threads : 1, copy_part, &j);
    return 0;
}

static void fill_part(void *argument, int part, int parts) {
    placing *j = argument;
    const word *w = j->w;
    word from, to;
    share(w[3], BLOCK, part, parts, &from, &to);
    char *d = j->base[w[0]] + w[1];
    if (w[2] == 4) for (word i = from; i < to; i++) ((uint32_t *)d)[i] = (uint32_t)w[4];
    else if (w[2] == 8) for (word i = from; i < to; i++) ((uint64_t *)d)[i] = (uint64_t)w[4];
    else memset(d + from, (int)w[4], (size_t)(to - from));
}

/* Words: base, offset, item, elements, bit pattern. */
int assay_fill(const word *w, char **base, int threads) {
    placing j = {w, base, 1};
    assay_parallel(w[3] >= 8 * BLOCK ? threads : 1, fill_part, &j);
    return 0;
}
