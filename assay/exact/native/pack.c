/* Packing an operand of a matrix product: gathered, quantised, and laid out in panels as gemm.c multiplies them (its first comment).
 *
 * A panel's lanes are packed side by side, a row of them for each k. Where neighbouring lanes are neighbours in memory the rows are
 * read in place; otherwise a block of them is gathered first, four elements at a time where four lie together: a transposed matrix, or
 * the windows of a convolution, which are so never written out. Lanes that fill up the last panel repeat the last one: their products go nowhere.
 */
#include "gemm.h"
#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(ASSAY_NEON)
#include <arm_neon.h>
#endif

/* LANES lanes at once; a panel takes one such vector or more. */
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
#define LANES 16
typedef __m512 reals;
typedef __m512i wholes;
#define OF(name) _mm512_##name
#elif defined(__AVX2__)
#define LANES 8
typedef __m256 reals;
typedef __m256i wholes;
#define OF(name) _mm256_##name
#else
#define LANES 4
typedef float reals __attribute__((vector_size(16)));
typedef int32_t wholes __attribute__((vector_size(16)));
typedef uint32_t patterns __attribute__((vector_size(16)));
#endif
#define WIDTH(width) (((width) + LANES - 1) / LANES * LANES) /* of a panel in lanes that are worked on */

#ifdef OF
static inline wholes all(int32_t x) { return OF(set1_epi32)(x); }
static inline reals product_of(reals a, reals b) { return OF(mul_ps)(a, b); }
static inline reals sum_of(reals a, reals b) { return OF(add_ps)(a, b); }
static inline wholes least(wholes a, wholes b) { return OF(min_epi32)(a, b); }
static inline wholes most(wholes a, wholes b) { return OF(max_epi32)(a, b); }
static inline reals reals_of(wholes a) { return OF(cvtepi32_ps)(a); }
static inline wholes plus(wholes a, wholes b) { return OF(add_epi32)(a, b); }
static inline wholes minus(wholes a, wholes b) { return OF(sub_epi32)(a, b); }
static inline wholes left(wholes a, int n) { return OF(slli_epi32)(a, n); }
static inline wholes right(wholes a, int n) { return OF(srai_epi32)(a, n); }
#else
static inline wholes all(int32_t x) { return (wholes){x, x, x, x}; }
static inline reals product_of(reals a, reals b) { return a * b; }
static inline reals sum_of(reals a, reals b) { return a + b; }
static inline wholes least(wholes a, wholes b) { wholes m = a < b; return (a & m) | (b & ~m); }
static inline wholes most(wholes a, wholes b) { wholes m = a > b; return (a & m) | (b & ~m); }
static inline reals reals_of(wholes a) { return __builtin_convertvector(a, reals); }
static inline wholes plus(wholes a, wholes b) { return a + b; }
static inline wholes minus(wholes a, wholes b) { return a - b; }
static inline wholes left(wholes a, int n) { return (wholes)((patterns)a << n); }
static inline wholes right(wholes a, int n) { return a >> n; }
#endif
/* Lane k of the result: the sum of the lanes of v[k]. */
static inline wholes totals_of(const wholes *v) {
#ifdef OF
    wholes u[LANES / 4];
    for (int i = 0; i < LANES / 4; i++) { /* each 128 bits of u[i]: the sums of theirs in v[4i .. 4i + 3] */
        const wholes *p = v + 4 * i;
        wholes ab = plus(OF(unpacklo_epi32)(p[0], p[1]), OF(unpackhi_epi32)(p[0], p[1]));
        wholes cd = plus(OF(unpacklo_epi32)(p[2], p[3]), OF(unpackhi_epi32)(p[2], p[3]));
        u[i] = plus(OF(unpacklo_epi64)(ab, cd), OF(unpackhi_epi64)(ab, cd));
    }
#if LANES == 16
    wholes low = plus(_mm512_shuffle_i32x4(u[0], u[1], 0x44), _mm512_shuffle_i32x4(u[0], u[1], 0xee));
    wholes high = plus(_mm512_shuffle_i32x4(u[2], u[3], 0x44), _mm512_shuffle_i32x4(u[2], u[3], 0xee));
    return plus(_mm512_shuffle_i32x4(low, high, 0x88), _mm512_shuffle_i32x4(low, high, 0xdd));
#else
    return plus(_mm256_permute2x128_si256(u[0], u[1], 0x20), _mm256_permute2x128_si256(u[0], u[1], 0x31));
#endif
#elif defined(ASSAY_NEON)
    return vpaddq_s32(vpaddq_s32(v[0], v[1]), vpaddq_s32(v[2], v[3]));
#else
    wholes sums;
    int32_t each[LANES][LANES], totals[LANES];
    memcpy(each, v, sizeof each);
    for (int k = 0; k < LANES; k++) { totals[k] = 0; for (int l = 0; l < LANES; l++) totals[k] += each[k][l]; }
    memcpy(&sums, totals, sizeof sums);
    return sums;
#endif
}
static inline wholes both(wholes a, wholes b) { return (wholes)(a & b); }
static inline wholes either(wholes a, wholes b) { return (wholes)(a | b); }
static inline wholes bits_in(reals x) { wholes y; memcpy(&y, &x, sizeof y); return y; }

/* What x is multiplied by, one after the other, to be x * 2^s without overflow on the way. */
static void factors_of(uint32_t top, int bits, double *back, float *one, float *two) {
    int e = (int)(top >> 23), s = bits - 1 + 126 - e, first = s > 127 ? 127 : s;
    *back = e == 255 ? from_bits64(0x7ff8000000000000u) : power64(-s);
    *one = e == 255 ? 0.0f : from_bits((uint32_t)(first + 127) << 23);
    *two = from_bits((uint32_t)(s - first + 127) << 23);
}

/* clamp(rint(x * 2^s)); |x * 2^s| <= 2^(b-1) <= 2^22. A NaN or infinity (whose lane is NaN anyway) gives some number in range. */
static inline wholes quantised(const float *x, reals one, reals two, wholes limit) {
    static const float magic = 0x1.8p23f;
    reals v, m;
    wholes zero = all(0), shift = all((int32_t)bits_of(magic));
    memcpy(&v, x, sizeof v);
    memcpy(&m, &shift, sizeof m);
    wholes q = minus(bits_in(sum_of(product_of(product_of(v, one), two), m)), shift);
    return most(least(q, limit), minus(zero, limit));
}

/* Plane z of q: q itself, or the high part, the low part, and their sum. */
static inline wholes plane_of(wholes q, int z, int planes) {
    if (planes == 1) return q;
    wholes half = all(1 << (SPLIT - 1)), low = minus(both(plus(q, half), all((1 << SPLIT) - 1)), half), high = right(minus(q, low), SPLIT);
    return z == 0 ? high : (z == 1 ? low : plus(high, low));
}

/* d[i * step + l] = p[l][at[i]] for four lanes l and four i; d[l][at[i]..] lie together. */
static inline void turn_four(float *restrict d, word step, const float *const *p, word at) {
#if defined(__SSE2__)
    __m128 a = _mm_loadu_ps(p[0] + at), b = _mm_loadu_ps(p[1] + at), c = _mm_loadu_ps(p[2] + at), e = _mm_loadu_ps(p[3] + at);
    _MM_TRANSPOSE4_PS(a, b, c, e);
    _mm_storeu_ps(d, a);
    _mm_storeu_ps(d + step, b);
    _mm_storeu_ps(d + 2 * step, c);
    _mm_storeu_ps(d + 3 * step, e);
#elif defined(ASSAY_NEON)
    float32x4_t a = vld1q_f32(p[0] + at), b = vld1q_f32(p[1] + at), c = vld1q_f32(p[2] + at), e = vld1q_f32(p[3] + at);
    float32x4_t ac = vzip1q_f32(a, c), be = vzip1q_f32(b, e), ca = vzip2q_f32(a, c), eb = vzip2q_f32(b, e);
    vst1q_f32(d, vzip1q_f32(ac, be));
    vst1q_f32(d + step, vzip2q_f32(ac, be));
    vst1q_f32(d + 2 * step, vzip1q_f32(ca, eb));
    vst1q_f32(d + 3 * step, vzip2q_f32(ca, eb));
#else
    for (int i = 0; i < 4; i++) for (int l = 0; l < 4; l++) d[i * step + l] = p[l][at + i];
#endif
}

/* Rows from..to of a panel: d[(k - from) * WIDTH(width) + lane]. */
static inline __attribute__((always_inline)) void gather(const operand *o, word panel, word from, word to, float *restrict d, const int width) {
    const word step = WIDTH(width), *lane_at = o->lane_at + panel * width, *k_at = o->k_at;
    const float *x = o->x;
    if (o->layout == LANES_FOURS && width % 4 == 0) {
        for (word k = from; k < to; k++, d += step)
            for (int l = 0; l < width; l += 4) memcpy(d + l, x + k_at[k] + lane_at[l], 16);
    } else if (o->layout == K_WHOLE || o->layout == K_FOURS) {
        for (int l = 0; l < (width + 3) / 4 * 4; l += 4) {
            const float *p[4] = {x + lane_at[l], x + lane_at[l + 1], x + lane_at[l + 2], x + lane_at[l + 3]};
            word k = from;
            if (o->layout == K_WHOLE) for (; k + 4 <= to; k += 4) turn_four(d + (k - from) * step + l, step, p, k_at[0] + k);
            else for (; k + 4 <= to; k += 4) turn_four(d + (k - from) * step + l, step, p, k_at[k]);
            for (; k < to; k++) for (int i = 0; i < 4; i++) d[(k - from) * step + l + i] = p[i][k_at[k]];
        }
    } else {
        for (word k = from; k < to; k++, d += step)
            for (int l = 0; l < width; l++) d[l] = x[k_at[k] + lane_at[l]];
    }
}

/* Largest magnitudes of `n` rows, at x + at[k], or with `step` at x + k * step. */
static inline __attribute__((always_inline)) void take_in(uint32_t *top, const float *x, const word *at, word step, word n, const int width) {
    for (int g = 0; g < WIDTH(width); g += LANES) {
        wholes high, size = all((int32_t)ABS_BITS);
        memcpy(&high, top + g, sizeof high);
        for (word k = 0; k < n; k++) {
            wholes v;
            memcpy(&v, x + (step ? k * step : at[k]) + g, sizeof v);
            high = most(high, both(v, size));
        }
        memcpy(top + g, &high, sizeof high);
    }
}

/* `direct`: the rows are read in place. */
static inline __attribute__((always_inline)) void pack(const operand *o, const shape *s, word panel, const int width, const int planes, const int direct) {
    _Alignas(64) float rows[2 * BLOCK * WIDTH(width)];
    _Alignas(64) uint32_t top[WIDTH(width)];
    _Alignas(64) float one[WIDTH(width)], two[WIDTH(width)];
    _Alignas(64) int32_t keep[WIDTH(width)];
    word pairs = s->pairs, panels = (o->lanes + width - 1) / width, first = panel * width, span = 2 * s->block;
    const float *x = o->x + o->lane_at[first];
    memset(top, 0, sizeof top);
    if (!direct && width % LANES) memset(rows, 0, sizeof rows);
    if (o->layout == K_WHOLE) {
        for (int l = 0; l < width; l++) {
            const float *p = o->x + o->lane_at[first + l] + o->k_at[0];
            uint32_t high = 0;
            for (word k = 0; k < o->k; k++) { uint32_t a = bits_of(p[k]) & ABS_BITS; high = a > high ? a : high; }
            top[l] = high;
        }
        if (s->blocks == 1) gather(o, panel, 0, o->k, rows, width);
    } else for (word from = 0; from < o->k; from += span) {
        word to = from + span < o->k ? from + span : o->k;
        if (direct) { take_in(top, x, o->k_at + from, 0, to - from, width); continue; }
        gather(o, panel, from, to, rows, width);
        take_in(top, rows, NULL, WIDTH(width), to - from, width);
    }
    for (int l = 0; l < WIDTH(width); l++) {
        double unused;
        factors_of(top[l], s->bits, l < width ? &o->back[first + l] : &unused, &one[l], &two[l]);
        keep[l] = l < width ? -1 : 0;
    }
    wholes limit = all(s->most);
    int64_t along[PLANES][WIDTH(width)];
    memset(along, 0, sizeof along);
    for (word b = 0; b < s->blocks; b++) {
        word from = b * span, to = from + span < o->k ? from + span : o->k;
        float norm = 0;
        if (!direct && s->blocks > 1) gather(o, panel, from, to, rows, width);
        for (int g = 0; g < WIDTH(width) / LANES; g++) {
            reals f1, f2, squares = reals_of(all(0));
            wholes real, stretch[PLANES]; /* sums over a block's k: at most 2 BLOCK 2^14, an int32 */
            wholes each_k[PLANES][LANES]; /* A's lanes at LANES places of k, to be summed across */
            for (int z = 0; z < planes; z++) stretch[z] = all(0);
            if (ASSAY_CHECKSUMS && width == ROWS && to - from < LANES)
                for (int z = 0; z < planes; z++) for (int l = 0; l < LANES; l++) each_k[z][l] = all(0);
            memcpy(&f1, one + g * LANES, sizeof f1);
            memcpy(&f2, two + g * LANES, sizeof f2);
            memcpy(&real, keep + g * LANES, sizeof real);
            for (word first_k = from; first_k < to; first_k += LANES) {
                const word many = to - first_k < LANES ? to - first_k : LANES;
                for (word i = 0; i < many; i += 2) {
                    const word k = first_k + i;
                    const float *even = (direct ? x + o->k_at[k] : rows + (k - from) * WIDTH(width)) + g * LANES;
                    wholes u = quantised(even, f1, f2, limit), v = all(0);
                    if (k + 1 < to) v = quantised((direct ? x + o->k_at[k + 1] : rows + (k + 1 - from) * WIDTH(width)) + g * LANES, f1, f2, limit);
                    if (width % LANES) { u = both(u, real); v = both(v, real); }
                    for (int z = 0; z < planes; z++) {
                        wholes uz = plane_of(u, z, planes), vz = plane_of(v, z, planes);
                        wholes pair = either(both(uz, all(0xffff)), left(vz, 16));
                        int32_t *out = o->panels + ((z * panels + panel) * pairs + k / 2) * width + g * LANES;
                        memcpy(out, &pair, (size_t)(width - g * LANES < LANES ? width - g * LANES : LANES) * 4);
                        if (ASSAY_CHECKSUMS && width == COLUMNS) stretch[z] = plus(stretch[z], plus(uz, vz));
                        if (ASSAY_CHECKSUMS && width == ROWS) { each_k[z][i] = uz; each_k[z][i + 1] = vz; }
                    }
                    if (planes == 1) {
                        reals a = reals_of(u), c = reals_of(v);
                        squares = sum_of(squares, sum_of(product_of(a, a), product_of(c, c)));
                    }
                }
                if (ASSAY_CHECKSUMS && width == ROWS) for (int z = 0; z < planes; z++) {
                    int32_t *across = o->across + (z * panels + panel) * 2 * pairs + first_k;
                    wholes sums = totals_of(each_k[z]), before = all(0);
                    size_t size = many == LANES ? sizeof sums : (size_t)(many + many % 2) * 4;
                    if (g) { memcpy(&before, across, size); sums = plus(sums, before); }
                    if (many == LANES) memcpy(across, &sums, sizeof sums);
                    else memcpy(across, &sums, size);
                }
            }
            if (ASSAY_CHECKSUMS && width == COLUMNS) for (int z = 0; z < planes; z++) {
                int32_t each[LANES];
                memcpy(each, &stretch[z], sizeof each);
                for (int l = 0; l < LANES; l++) along[z][g * LANES + l] += each[l];
            }
            float each[LANES];
            memcpy(each, &squares, sizeof each);
            for (int l = 0; l < LANES; l++) norm = each[l] > norm ? each[l] : norm;
        }
        if (planes == 1) o->norms[panel * s->blocks + b] = norm * 1.0001f; /* more than the rounding of BLOCK additions */
    }
    if (ASSAY_CHECKSUMS && width == COLUMNS)
        for (int z = 0; z < planes; z++) memcpy(o->along + (z * panels + panel) * width, along[z], (size_t)width * 8);
}

void assay_pack(const operand *o, const shape *s, word panel) {
    const int direct = o->layout == LANES_WHOLE && (panel + 1) * o->width + (o->width % LANES ? LANES - o->width % LANES : 0) <= o->lanes;
#define PACK(width, planes) { if (direct) pack(o, s, panel, width, planes, 1); else pack(o, s, panel, width, planes, 0); }
    if (s->planes == 1) { if (o->width == ROWS) PACK(ROWS, 1) else PACK(COLUMNS, 1) }
    else if (o->width == ROWS) PACK(ROWS, PLANES)
    else PACK(COLUMNS, PLANES)
}
