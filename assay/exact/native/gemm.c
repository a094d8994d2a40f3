/* Exact GEMM: C_ij = RN32(2^-(sa_i + sb_j) * sum_k qa_ik qb_kj), a statement about integers (reference.py).
 *
 * Operands are quantised while they are packed into panels of LANES rows (columns), as pairs of int16 along k, so that one
 * instruction multiplies two and adds them into an int32. |q| <= 2^(b-1) - 1 =: Q, so `safe` = floor((2^31 - 1) / 2Q^2) pairs
 * cannot overflow (16 at b = 14). Usually far more are safe: by Cauchy and Schwarz |sum qa qb| <= |qa| |qb|, also for every part
 * of the sum, so where the norms of a block of pairs multiply to less than 2^31 the block is summed in one go. Otherwise
 * it is summed in runs of `safe` pairs. Either way the tile then goes into int64, and the integers are the same.
 *
 * b > 15: q = h 2^11 + l with |l| <= 2^10, |h| <= 2^11, and three such products (Karatsuba and Ofman 1962) of the planes h, l and
 * h + l: qa qb = hh 2^22 + (xx - hh - ll) 2^11 + ll with x = h + l. No block of these can overflow.
 *
 * Checksums (Huang and Abraham 1984), exact because everything is integer: while A is packed, s_k = sum_i qa_ik is summed from
 * registers, and while B is, r_j = sum_k qb_kj. After a panel of columns is done, sum_i C_ij + r_j must be sum_k (s_k + 1) qb_kj,
 * with qb read from the panel anew: modulo 2^64, or 2^32 where the sums are int32. One flipped bit in a packed operand, an
 * accumulator or a sum changes one side only, so the product is computed again, and refused when that does not help
 * (docs/exact-arithmetic.md says what is not covered).
 */
#include "assay.h"
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
#define ROWS 12
#define COLUMNS 32
#elif defined(__AVX2__)
#define ROWS 6
#define COLUMNS 16
#else
#define ROWS 4
#define COLUMNS 8
#endif
#define BLOCK 64 /* pairs */
#define SPLIT 11 /* bits of l */
#define PLANES 3
#define GROUP 4096 /* panels of A that share a checksum: |s| < 2^31 */
#define STRETCH 65536 /* of B's elements along k whose sum is an int32 */
#ifndef ASSAY_CHECKSUMS
#define ASSAY_CHECKSUMS 1 /* 0: for measuring what they cost */
#endif

/* tile[i][j] = sum over `pairs` of a . b; panels as packed: a[pair][ROWS], b[pair][COLUMNS], each entry two int16. */
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
static inline void multiply(const int32_t *restrict a, const int32_t *restrict b, word pairs, int32_t *restrict tile) {
#define ZERO(i) __m512i l##i = _mm512_setzero_si512(), r##i = l##i;
    EACH(ZERO)
    for (word p = 0; p < pairs; p++, a += ROWS, b += COLUMNS) {
        __m512i bl = _mm512_load_si512(b), br = _mm512_load_si512(b + 16);
#define STEP(i) { __m512i v = _mm512_set1_epi32(a[i]); l##i = _mm512_dpwssd_epi32(l##i, v, bl); r##i = _mm512_dpwssd_epi32(r##i, v, br); }
        EACH(STEP)
    }
#define STORE(i) _mm512_store_si512(tile + i * COLUMNS, l##i); _mm512_store_si512(tile + i * COLUMNS + 16, r##i);
    EACH(STORE)
}
#elif defined(__AVX2__)
#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5)
static inline void multiply(const int32_t *restrict a, const int32_t *restrict b, word pairs, int32_t *restrict tile) {
#define ZERO(i) __m256i l##i = _mm256_setzero_si256(), r##i = l##i;
    EACH(ZERO)
    for (word p = 0; p < pairs; p++, a += ROWS, b += COLUMNS) {
        __m256i bl = _mm256_load_si256((const __m256i *)b), br = _mm256_load_si256((const __m256i *)(b + 8));
#define STEP(i) { __m256i v = _mm256_set1_epi32(a[i]); \
        l##i = _mm256_add_epi32(l##i, _mm256_madd_epi16(v, bl)); r##i = _mm256_add_epi32(r##i, _mm256_madd_epi16(v, br)); }
        EACH(STEP)
    }
#define STORE(i) _mm256_store_si256((__m256i *)(tile + i * COLUMNS), l##i); _mm256_store_si256((__m256i *)(tile + i * COLUMNS + 8), r##i);
    EACH(STORE)
}
#else
static inline void multiply(const int32_t *restrict a, const int32_t *restrict b, word pairs, int32_t *restrict tile) {
    int32_t t[ROWS][COLUMNS] = {{0}};
    for (word p = 0; p < pairs; p++, a += ROWS, b += COLUMNS)
        for (int i = 0; i < ROWS; i++) {
            int32_t low = (int16_t)a[i], high = a[i] >> 16;
            for (int j = 0; j < COLUMNS; j++) t[i][j] += low * (int16_t)b[j] + high * (b[j] >> 16);
        }
    memcpy(tile, t, sizeof t);
}
#endif

/* tile[d][j] = sum over `pairs` of digit d (the words from d + row * step on) . b; modulo 2^32. */
static inline __attribute__((always_inline)) void multiply_digits(
    const int32_t *restrict d, word step, const int digits, const int32_t *restrict b, word pairs, int32_t *restrict tile) {
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
    __m512i l[PLANES], r[PLANES];
    for (int i = 0; i < digits; i++) l[i] = r[i] = _mm512_setzero_si512();
    for (word p = 0; p < pairs; p++, d++, b += COLUMNS) {
        __m512i bl = _mm512_load_si512(b), br = _mm512_load_si512(b + 16);
        for (int i = 0; i < digits; i++) {
            __m512i v = _mm512_set1_epi32(d[i * step]);
            l[i] = _mm512_dpwssd_epi32(l[i], v, bl);
            r[i] = _mm512_dpwssd_epi32(r[i], v, br);
        }
    }
    for (int i = 0; i < digits; i++) { _mm512_store_si512(tile + i * COLUMNS, l[i]); _mm512_store_si512(tile + i * COLUMNS + 16, r[i]); }
#elif defined(__AVX2__)
    __m256i l[PLANES], r[PLANES];
    for (int i = 0; i < digits; i++) l[i] = r[i] = _mm256_setzero_si256();
    for (word p = 0; p < pairs; p++, d++, b += COLUMNS) {
        __m256i bl = _mm256_load_si256((const __m256i *)b), br = _mm256_load_si256((const __m256i *)(b + 8));
        for (int i = 0; i < digits; i++) {
            __m256i v = _mm256_set1_epi32(d[i * step]);
            l[i] = _mm256_add_epi32(l[i], _mm256_madd_epi16(v, bl));
            r[i] = _mm256_add_epi32(r[i], _mm256_madd_epi16(v, br));
        }
    }
    for (int i = 0; i < digits; i++) {
        _mm256_store_si256((__m256i *)(tile + i * COLUMNS), l[i]);
        _mm256_store_si256((__m256i *)(tile + i * COLUMNS + 8), r[i]);
    }
#else
    uint32_t t[PLANES][COLUMNS] = {{0}};
    for (word p = 0; p < pairs; p++, d++, b += COLUMNS)
        for (int i = 0; i < digits; i++) {
            int32_t low = (int16_t)d[i * step], high = d[i * step] >> 16;
            for (int j = 0; j < COLUMNS; j++) t[i][j] += (uint32_t)(low * (int16_t)b[j]) + (uint32_t)(high * (b[j] >> 16));
        }
    memcpy(tile, t, sizeof t[0] * (size_t)digits);
#endif
}

/* A bit that a test flips: see assay_inject. Nothing else writes it. */
static struct { int where, bit; word index; int times; } injection;
enum { IN_A = 1, IN_B, IN_TILE, IN_SUM, IN_CHECKSUM };
static word faults; /* products that failed their checksum */

/* For tests of the checksums: flips `bit` of element `index` (modulo how many there are) in the next `times` products, of A's or
 * B's panels (between packing and multiplying), an int32 accumulator, an int64 sum, or the checksum itself. */
void assay_inject(int where, word index, int bit, int times) {
    injection.where = where;
    injection.index = index;
    injection.bit = bit;
    injection.times = times;
}

/* Products that failed their checksum since this was asked last. */
word assay_faults(void) { return __atomic_exchange_n(&faults, 0, __ATOMIC_RELAXED); }

/* One operand of one product: `lanes` rows (columns) of `k` elements, and its packed form. */
typedef struct {
    const float *x;
    word lanes, k, lane_step, k_step; /* steps in elements */
    int width;                        /* lanes of a panel */
    int32_t *panels;                  /* [planes][panels][pairs][width] */
    float *norms;                     /* [panels][blocks]: at least the largest sum of squares of a lane's block; one plane only */
    double *back;                     /* [panels * width]: 2^-s, NaN for a lane with an infinity or NaN */
    int32_t *across;                  /* A: [planes][panels][2 pairs]: sums over a panel's lanes. NULL for B. */
    int64_t *along;                   /* B: [planes][panels][width]: sums over k. NULL for A. */
} operand;

/* How operands are packed and summed, by their bits. */
typedef struct {
    int bits, planes;
    word k, pairs, block, blocks;
    int32_t most;
} shape;

static shape shape_of(int bits, word k) {
    shape s = {.bits = bits, .planes = bits > 15 ? PLANES : 1, .k = k, .pairs = (k + 1) / 2, .block = bits == 15 ? BLOCK / 4 : BLOCK};
    s.blocks = (s.pairs + s.block - 1) / s.block;
    s.most = (1 << (bits - 1)) - 1;
    return s;
}

typedef struct { float one, two; } factors; /* x * one * two = x * 2^s, without overflow on the way */

static factors factors_of(uint32_t top, int bits, double *back) {
    int e = (int)(top >> 23), s = bits - 1 + 126 - e, first = s > 127 ? 127 : s;
    *back = e == 255 ? from_bits64(0x7ff8000000000000u) : power64(-s);
    factors f = {e == 255 ? 0.0f : from_bits((uint32_t)(first + 127) << 23), from_bits((uint32_t)(s - first + 127) << 23)};
    return f;
}

/* clamp(rint(x * 2^s)); |x * 2^s| <= 2^(b-1) <= 2^22. A NaN or infinity (whose lane is NaN anyway) gives some number in range. */
static inline int32_t quantise(float x, factors f, int32_t most) {
    static const float magic = 0x1.8p23f;
    int32_t q = (int32_t)(bits_of(x * f.one * f.two + magic) - bits_of(magic));
    return q > most ? most : (q < -most ? -most : q);
}

static inline int32_t low_of(int32_t q) { return (int32_t)(((uint32_t)q + (1u << (SPLIT - 1))) & ((1u << SPLIT) - 1)) - (1 << (SPLIT - 1)); }
static inline int32_t high_of(int32_t q) { return (q - low_of(q)) >> SPLIT; }
static inline int32_t pair_of(int32_t even, int32_t odd) { return (int32_t)(((uint32_t)even & 0xffffu) | (uint32_t)odd << 16); }
/* Plane z of `planes` of q. */
static inline int32_t plane_of(int32_t q, int z, int planes) {
    if (planes == 1) return q;
    return z == 0 ? high_of(q) : (z == 1 ? low_of(q) : high_of(q) + low_of(q));
}

/* k is contiguous (or nothing is): lane by lane. */
static inline __attribute__((always_inline)) void pack_by_lane(const operand *o, const shape *s, word panel, int32_t *row, const int planes) {
    word pairs = s->pairs, panels = (o->lanes + o->width - 1) / o->width;
    int32_t *first = o->panels + panel * pairs * o->width;
    float *norms = o->norms + panel * s->blocks, *copy = (float *)(row + pairs + 16);
    if (planes == 1) for (word b = 0; b < s->blocks; b++) norms[b] = 0;
    if (ASSAY_CHECKSUMS && o->across) for (int z = 0; z < planes; z++) memset(o->across + (z * panels + panel) * 2 * pairs, 0, (size_t)pairs * 8);
    for (int l = 0; l < o->width; l++) {
        word lane = panel * o->width + l;
        if (lane >= o->lanes) {
            for (int z = 0; z < planes; z++) {
                int32_t *out = first + z * panels * pairs * o->width;
                for (word p = 0; p < pairs; p++) out[p * o->width + l] = 0;
                if (ASSAY_CHECKSUMS && o->along) o->along[(z * panels + panel) * o->width + l] = 0;
            }
            o->back[lane] = 0;
            continue;
        }
        const float *x = o->x + lane * o->lane_step;
        if (o->k_step != 1) {
            for (word i = 0; i < o->k; i++) copy[i] = x[i * o->k_step];
            x = copy;
        }
        uint32_t top = 0;
        for (word i = 0; i < o->k; i++) { uint32_t a = bits_of(x[i]) & ABS_BITS; top = a > top ? a : top; }
        factors f = factors_of(top, s->bits, &o->back[lane]);
        int16_t *restrict q = (int16_t *)row;
        for (int z = 0; z < planes; z++) {
            int32_t *out = first + z * panels * pairs * o->width;
            if (ASSAY_CHECKSUMS && o->across) {
                int32_t *restrict across = o->across + (z * panels + panel) * 2 * pairs;
                for (word i = 0; i < o->k; i++) {
                    int32_t v = plane_of(quantise(x[i], f, s->most), z, planes);
                    q[i] = (int16_t)v;
                    across[i] += v;
                }
            } else if (ASSAY_CHECKSUMS) {
                int64_t along = 0;
                for (word from = 0; from < o->k; from += STRETCH) {
                    word to = o->k - from < STRETCH ? o->k : from + STRETCH;
                    int32_t stretch = 0;
                    for (word i = from; i < to; i++) {
                        int32_t v = plane_of(quantise(x[i], f, s->most), z, planes);
                        q[i] = (int16_t)v;
                        stretch += v;
                    }
                    along += stretch;
                }
                o->along[(z * panels + panel) * o->width + l] = along;
            } else {
                for (word i = 0; i < o->k; i++) q[i] = (int16_t)plane_of(quantise(x[i], f, s->most), z, planes);
            }
            if (o->k & 1) q[o->k] = 0;
            for (word p = 0; p < pairs; p++) out[p * o->width + l] = pair_of(q[2 * p], q[2 * p + 1]);
        }
        if (planes > 1) continue;
        for (word b = 0; b < s->blocks; b++) {
            word stop = (b + 1) * 2 * s->block < o->k ? (b + 1) * 2 * s->block : o->k;
            int64_t squares = 0;
            for (word i = b * 2 * s->block; i < stop; i++) squares += (int32_t)q[i] * q[i];
            float norm = (float)squares * 1.000001f;
            norms[b] = norm > norms[b] ? norm : norms[b];
        }
    }
}

/* Lanes are contiguous: a panel's lanes side by side. */
static inline __attribute__((always_inline)) void pack_by_k(const operand *o, const shape *s, word panel, const int width, const int planes) {
    word pairs = s->pairs, panels = (o->lanes + width - 1) / width, first = panel * width;
    int32_t *out[PLANES];
    for (int z = 0; z < planes; z++) out[z] = o->panels + (z * panels + panel) * pairs * width;
    const float *x = o->x + first;
    uint32_t top[COLUMNS > ROWS ? COLUMNS : ROWS] = {0};
    float one[COLUMNS > ROWS ? COLUMNS : ROWS], two[COLUMNS > ROWS ? COLUMNS : ROWS];
    int64_t along[PLANES][COLUMNS > ROWS ? COLUMNS : ROWS] = {{0}};
    for (word k = 0; k < o->k; k++)
        for (int l = 0; l < width; l++) { uint32_t a = bits_of(x[k * o->k_step + l]) & ABS_BITS; top[l] = a > top[l] ? a : top[l]; }
    for (int l = 0; l < width; l++) {
        factors f = factors_of(top[l], s->bits, &o->back[first + l]);
        one[l] = f.one;
        two[l] = f.two;
    }
    for (word b = 0; b < s->blocks; b++) {
        float squares[COLUMNS > ROWS ? COLUMNS : ROWS] = {0};
        int32_t stretch[PLANES][COLUMNS > ROWS ? COLUMNS : ROWS] = {{0}};
        word stop = (b + 1) * s->block < pairs ? (b + 1) * s->block : pairs;
        for (word p = b * s->block; p < stop; p++) {
            const float *even = x + 2 * p * o->k_step, *odd = 2 * p + 1 < o->k ? even + o->k_step : even;
            int32_t keep = 2 * p + 1 < o->k ? -1 : 0, evens[PLANES] = {0}, odds[PLANES] = {0};
            for (int l = 0; l < width; l++) {
                factors f = {one[l], two[l]};
                int32_t u = quantise(even[l], f, s->most), v = quantise(odd[l], f, s->most) & keep;
                for (int z = 0; z < planes; z++) {
                    int32_t uz = plane_of(u, z, planes), vz = plane_of(v, z, planes);
                    out[z][p * width + l] = pair_of(uz, vz);
                    if (ASSAY_CHECKSUMS && width == ROWS) { evens[z] += uz; odds[z] += vz; }
                    if (ASSAY_CHECKSUMS && width == COLUMNS) stretch[z][l] += uz + vz;
                }
                if (planes == 1) squares[l] += (float)u * (float)u + (float)v * (float)v;
            }
            if (ASSAY_CHECKSUMS && width == ROWS) for (int z = 0; z < planes; z++) {
                o->across[(z * panels + panel) * 2 * pairs + 2 * p] = evens[z];
                o->across[(z * panels + panel) * 2 * pairs + 2 * p + 1] = odds[z];
            }
        }
        if (ASSAY_CHECKSUMS && width == COLUMNS)
            for (int z = 0; z < planes; z++) for (int l = 0; l < width; l++) along[z][l] += stretch[z][l];
        if (planes > 1) continue;
        float norm = 0;
        for (int l = 0; l < width; l++) norm = squares[l] > norm ? squares[l] : norm;
        o->norms[panel * s->blocks + b] = norm * 1.0001f; /* more than the rounding of BLOCK additions */
    }
    if (ASSAY_CHECKSUMS && width == COLUMNS)
        for (int z = 0; z < planes; z++) memcpy(o->along + (z * panels + panel) * width, along[z], (size_t)width * 8);
}

static void pack(const operand *o, const shape *s, word panel, int32_t *row) {
    int by_lane = o->lane_step != 1 || o->k_step == 1 || (panel + 1) * o->width > o->lanes;
    if (s->planes == 1) {
        if (by_lane) pack_by_lane(o, s, panel, row, 1);
        else if (o->width == ROWS) pack_by_k(o, s, panel, ROWS, 1);
        else pack_by_k(o, s, panel, COLUMNS, 1);
    } else {
        if (by_lane) pack_by_lane(o, s, panel, row, PLANES);
        else if (o->width == ROWS) pack_by_k(o, s, panel, ROWS, PLANES);
        else pack_by_k(o, s, panel, COLUMNS, PLANES);
    }
}

typedef struct {
    operand a, b;
    float *c;
    shape s;
    int no_memory, mismatch, strike; /* strike: where a test flips a bit in this attempt, else 0 */
} product;

static void pack_part(void *argument, int part, int parts) {
    product *j = argument;
    word pa = (j->a.lanes + ROWS - 1) / ROWS, pb = (j->b.lanes + COLUMNS - 1) / COLUMNS, from, to;
    int32_t *row = assay_scratch(SCRATCH_ROW, (size_t)(j->s.k + 2 + 16 + j->s.k) * 4);
    if (!row) { j->no_memory = 1; return; }
    share(pa, 1, part, parts, &from, &to);
    for (word p = from; p < to; p++) pack(&j->a, &j->s, p, row);
    share(pb, 1, part, parts, &from, &to);
    for (word p = from; p < to; p++) pack(&j->b, &j->s, p, row);
}

/* s_k + 1 of a group of A's panels as digits of 11 bits (`exact`), or of 16, enough modulo 2^32. */
typedef struct { int32_t *words; int digits, bits; word run; } checksum;

/* Digits of s, balanced: words[d][p] holds digit d of s[2p] and s[2p + 1]. */
static inline __attribute__((always_inline)) void split(const int32_t *restrict s, word pairs, const int bits, const int digits, int32_t *restrict words) {
    for (word p = 0; p < pairs; p++) {
        int64_t even = s[2 * p], odd = s[2 * p + 1];
        for (int d = 0; d < digits; d++) {
            int64_t low = ((even + (1 << (bits - 1))) & ((1 << bits) - 1)) - (1 << (bits - 1));
            int64_t high = ((odd + (1 << (bits - 1))) & ((1 << bits) - 1)) - (1 << (bits - 1));
            words[d * pairs + p] = pair_of((int32_t)low, (int32_t)high);
            even = (even - low) >> bits;
            odd = (odd - high) >> bits;
        }
    }
}

static void make_checksum(const product *j, int plane, word from, word to, int exact, int32_t *s, checksum *out) {
    word pairs = j->s.pairs, panels = (j->a.lanes + ROWS - 1) / ROWS;
    for (word k = 0; k < 2 * pairs; k++) s[k] = 1;
    for (word p = from; p < to; p++) {
        const int32_t *across = j->a.across + (plane * panels + p) * 2 * pairs;
        for (word k = 0; k < 2 * pairs; k++) s[k] += across[k];
    }
    int32_t high = 0, low = 0;
    for (word k = 0; k < 2 * pairs; k++) { high = s[k] > high ? s[k] : high; low = s[k] < low ? s[k] : low; }
    out->bits = exact ? SPLIT : 16;
    out->digits = exact && (high > 2096000 || low < -2096000) ? 3 : 2;
    out->run = exact ? INT32_MAX / ((word)2048 * (j->s.planes == 1 ? j->s.most : 4096)) : pairs;
    if (!exact) split(s, pairs, 16, 2, out->words);
    else if (out->digits == 2) split(s, pairs, SPLIT, 2, out->words);
    else split(s, pairs, SPLIT, 3, out->words);
}

/* Whether the columns' sums fit the checksum: modulo 2^64 or 2^32 (sums: of the tiles). */
static int agrees(const checksum *c, const int32_t *b, word pairs, const uint64_t *sums, const int64_t *along) {
    _Alignas(64) int32_t tile[PLANES * COLUMNS];
    uint64_t want[COLUMNS] = {0}, differ = 0;
    for (word at = 0; at < pairs; at += c->run) {
        word n = pairs - at < c->run ? pairs - at : c->run;
        if (c->digits == 2) multiply_digits(c->words + at, pairs, 2, b + at * COLUMNS, n, tile);
        else multiply_digits(c->words + at, pairs, 3, b + at * COLUMNS, n, tile);
        for (int d = 0; d < c->digits; d++)
            for (int e = 0; e < COLUMNS; e++) want[e] += (uint64_t)(int64_t)tile[d * COLUMNS + e] << (c->bits * d);
    }
    for (int e = 0; e < COLUMNS; e++) differ |= want[e] - sums[e] - (uint64_t)along[e];
    return c->bits == 16 ? (uint32_t)differ == 0 : differ == 0;
}

/* Adds a tile's rows to the sums of its columns. GCC's vectors: a plain loop goes through memory for each row. */
typedef uint32_t narrow_lanes __attribute__((vector_size(32)));
typedef uint64_t wide_lanes __attribute__((vector_size(64)));

static inline void add_columns_32(const int32_t *tile, uint32_t *sums) {
    for (int e = 0; e < COLUMNS; e += 8) {
        narrow_lanes all;
        memcpy(&all, sums + e, sizeof all);
        for (int i = 0; i < ROWS; i++) { narrow_lanes row; memcpy(&row, tile + i * COLUMNS + e, sizeof row); all += row; }
        memcpy(sums + e, &all, sizeof all);
    }
}

static inline void add_columns_64(const int64_t *tile, uint64_t *sums) {
    for (int e = 0; e < COLUMNS; e += 8) {
        wide_lanes all;
        memcpy(&all, sums + e, sizeof all);
        for (int i = 0; i < ROWS; i++) { wide_lanes row; memcpy(&row, tile + i * COLUMNS + e, sizeof row); all += row; }
        memcpy(sums + e, &all, sizeof all);
    }
}

static void multiply_part(void *argument, int part, int parts) {
    product *j = argument;
    const shape *s = &j->s;
    word m = j->a.lanes, n = j->b.lanes, pairs = s->pairs, from, to;
    word pa = (m + ROWS - 1) / ROWS, pb = (n + COLUMNS - 1) / COLUMNS;
    word safe = s->planes == 1 ? INT32_MAX / (2 * (word)s->most * s->most) : s->block;
    int wide = 2 * (s->bits - 1) + 64 - __builtin_clzll((unsigned long long)pairs * 2) > 53, planes = s->planes;
    share(pa, 1, part, parts, &from, &to);
    int32_t *scratch = NULL;
    if (ASSAY_CHECKSUMS && !(scratch = assay_scratch(SCRATCH_CHECK, (size_t)(pairs * 4 * (2 + 3 + 3 * planes))))) { j->no_memory = 1; return; }
    for (word group = from; group < to; group += GROUP) {
        word end = to - group < GROUP ? to : group + GROUP;
        checksum check[PLANES], narrow = {.words = scratch + 2 * pairs};
        float norm = 0;
        int exact = 0, modulo = 0;
        if (planes == 1 && s->blocks == 1) for (word p = group; p < end; p++) norm = j->a.norms[p] > norm ? j->a.norms[p] : norm;
        for (word q = 0; q < pb; q++) {
            int whole = planes == 1 && s->blocks == 1 && norm * j->b.norms[q] < 0x1p61f;
            uint32_t sums32[COLUMNS] = {0};
            uint64_t sums64[PLANES][COLUMNS] = {{0}};
            for (word p = group; p < end; p++) {
                _Alignas(64) int32_t tile[ROWS * COLUMNS];
                _Alignas(64) int64_t total[PLANES][ROWS * COLUMNS], *sums = total[0];
                int struck = j->strike && injection.index / (ROWS * COLUMNS) % (pa * pb) == q * pa + p;
                word at_struck = injection.index % (ROWS * COLUMNS);
                if (whole) {
                    multiply(j->a.panels + p * pairs * ROWS, j->b.panels + q * pairs * COLUMNS, pairs, tile);
                    if (struck && j->strike >= IN_TILE) tile[at_struck] = (int32_t)((uint32_t)tile[at_struck] ^ 1u << injection.bit % 32);
                    if (ASSAY_CHECKSUMS) add_columns_32(tile, sums32);
                } else for (int z = 0; z < planes; z++) {
                    const int32_t *a = j->a.panels + (z * pa + p) * pairs * ROWS, *b = j->b.panels + (z * pb + q) * pairs * COLUMNS;
                    sums = total[z];
                    for (word k = 0; k < s->blocks; k++) {
                        word stop = (k + 1) * s->block < pairs ? (k + 1) * s->block : pairs;
                        word run = planes == 1 && j->a.norms[p * s->blocks + k] * j->b.norms[q * s->blocks + k] < 0x1p61f ? s->block : safe;
                        for (word at = k * s->block; at < stop; at += run) {
                            multiply(a + at * ROWS, b + at * COLUMNS, stop - at < run ? stop - at : run, tile);
                            if (struck && j->strike == IN_TILE && at == 0) tile[at_struck] = (int32_t)((uint32_t)tile[at_struck] ^ 1u << injection.bit % 32);
                            if (at == 0) for (int e = 0; e < ROWS * COLUMNS; e++) sums[e] = tile[e];
                            else for (int e = 0; e < ROWS * COLUMNS; e++) sums[e] += tile[e];
                        }
                    }
                    if (struck && j->strike == IN_SUM) sums[at_struck] = (int64_t)((uint64_t)sums[at_struck] ^ 1ull << injection.bit % 64);
                    if (ASSAY_CHECKSUMS) add_columns_64(sums, sums64[z]);
                }
                if (planes > 1) for (int e = 0; e < ROWS * COLUMNS; e++) {
                    uint64_t hh = (uint64_t)total[0][e], ll = (uint64_t)total[1][e], xx = (uint64_t)total[2][e];
                    total[0][e] = (int64_t)((hh << 2 * SPLIT) + ((xx - hh - ll) << SPLIT) + ll);
                }
                sums = total[0];
                word i0 = p * ROWS, j0 = q * COLUMNS, height = m - i0 < ROWS ? m - i0 : ROWS, width = n - j0 < COLUMNS ? n - j0 : COLUMNS;
                const double *sa = j->a.back + i0, *sb = j->b.back + j0;
                for (word i = 0; i < height; i++) {
                    float *c = j->c + (i0 + i) * n + j0;
                    if (whole && width == COLUMNS) for (int e = 0; e < COLUMNS; e++) c[e] = (float)(tile[i * COLUMNS + e] * (sa[i] * sb[e]));
                    else if (whole) for (word e = 0; e < width; e++) c[e] = (float)(tile[i * COLUMNS + e] * (sa[i] * sb[e]));
                    else if (!wide) for (word e = 0; e < width; e++) c[e] = (float)((double)sums[i * COLUMNS + e] * (sa[i] * sb[e]));
                    else for (word e = 0; e < width; e++) c[e] = round_scaled(sums[i * COLUMNS + e], sa[i] * sb[e]);
                }
            }
            if (!ASSAY_CHECKSUMS) continue;
            if (whole && !modulo) {
                make_checksum(j, 0, group, end, 0, scratch, &narrow);
                modulo = 1;
                if (j->strike == IN_CHECKSUM) narrow.words[injection.index % pairs] ^= 1 << injection.bit % 8;
            }
            if (!whole && !exact) {
                for (int z = 0; z < planes; z++) {
                    check[z].words = scratch + 5 * pairs + 3 * pairs * z;
                    make_checksum(j, z, group, end, 1, scratch, &check[z]);
                }
                exact = 1;
                if (j->strike == IN_CHECKSUM) check[0].words[injection.index % pairs] ^= 1 << injection.bit % 8;
            }
            if (whole) {
                for (int e = 0; e < COLUMNS; e++) sums64[0][e] = sums32[e];
                if (!agrees(&narrow, j->b.panels + q * pairs * COLUMNS, pairs, sums64[0], j->b.along + q * COLUMNS)) j->mismatch = 1;
            } else for (int z = 0; z < planes; z++) {
                word panel = z * pb + q;
                if (!agrees(&check[z], j->b.panels + panel * pairs * COLUMNS, pairs, sums64[z], j->b.along + panel * COLUMNS)) j->mismatch = 1;
            }
        }
    }
}

/* 0; -1: no memory; -2: the product failed its checksum twice. */
static int one_product(product *j, int threads) {
    const shape *s = &j->s;
    word pa = (j->a.lanes + ROWS - 1) / ROWS, pb = (j->b.lanes + COLUMNS - 1) / COLUMNS;
    size_t sums_a = ASSAY_CHECKSUMS ? (size_t)(s->planes * pa * 2 * s->pairs * 4) : 0, sums_b = (size_t)(s->planes * pb * COLUMNS * 8);
    if (j->a.lanes * j->b.lanes * s->k < 1 << 18) threads = 1;
    j->a.width = ROWS;
    j->b.width = COLUMNS;
    j->a.panels = assay_scratch(SCRATCH_A, (size_t)(s->planes * pa * s->pairs * ROWS * 4));
    j->b.panels = assay_scratch(SCRATCH_B, (size_t)(s->planes * pb * s->pairs * COLUMNS * 4));
    char *side = assay_scratch(SCRATCH_SIDE, (size_t)(pa * (s->blocks * 4 + ROWS * 8) + pb * (s->blocks * 4 + COLUMNS * 8)) + sums_a + sums_b);
    if (!j->a.panels || !j->b.panels || !side) return -1;
    j->a.back = (double *)side;
    j->b.back = j->a.back + pa * ROWS;
    j->b.along = (int64_t *)(j->b.back + pb * COLUMNS);
    j->a.norms = (float *)(j->b.along + s->planes * pb * COLUMNS);
    j->b.norms = j->a.norms + pa * s->blocks;
    j->a.across = (int32_t *)(j->b.norms + pb * s->blocks);
    for (int attempt = 0; attempt < 2; attempt++) {
        j->mismatch = j->strike = 0;
        if (injection.times > 0) { injection.times--; j->strike = injection.where; }
        assay_parallel(threads, pack_part, j);
        if (j->no_memory) return -1;
        if (j->strike == IN_A) j->a.panels[injection.index % (s->planes * pa * s->pairs * ROWS)] ^= (int32_t)(1u << injection.bit % 32);
        if (j->strike == IN_B) j->b.panels[injection.index % (s->planes * pb * s->pairs * COLUMNS)] ^= (int32_t)(1u << injection.bit % 32);
        assay_parallel(threads, multiply_part, j);
        if (j->no_memory) return -1;
        if (!j->mismatch) return 0;
        __atomic_fetch_add(&faults, 1, __ATOMIC_RELAXED);
    }
    return -2;
}

/* Words: target (base, offset), a (base, offset), b (base, offset), bits, m, k, n, steps of a (row, k), of b (column, k), rank of the
 * batch; its dims, steps of a, steps of b. The target is in C order. -2: a product failed its checksum twice. */
int assay_matmul(const word *w, char **base, int threads) {
    word m = w[7], k = w[8], n = w[9], rank = w[14], products = 1, at[8] = {0};
    const word *dims = w + 15, *as = dims + rank, *bs = as + rank;
    for (word r = 0; r < rank; r++) products *= dims[r];
    for (word i = 0; i < products; i++) {
        word a = 0, b = 0;
        for (word r = 0; r < rank; r++) { a += at[r] * as[r]; b += at[r] * bs[r]; }
        product j = {.c = (float *)(base[w[0]] + w[1]) + i * m * n, .s = shape_of((int)w[6], k)};
        j.a = (operand){.x = (const float *)(base[w[2]] + w[3]) + a, .lanes = m, .k = k, .lane_step = w[10], .k_step = w[11]};
        j.b = (operand){.x = (const float *)(base[w[4]] + w[5]) + b, .lanes = n, .k = k, .lane_step = w[12], .k_step = w[13]};
        int failed = one_product(&j, threads);
        if (failed) return failed;
        for (word r = rank - 1; r >= 0; r--) { if (++at[r] < dims[r]) break; at[r] = 0; }
    }
    return 0;
}
