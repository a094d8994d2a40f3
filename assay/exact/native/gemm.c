/* Exact GEMM: C_ij = RN32(2^-(sa_i + sb_j) * sum_k qa_ik qb_kj), a statement about integers (reference.py).
 *
 * Operands are quantised while they are packed into panels of LANES rows (columns), as pairs of int16 along k, so that one
 * instruction multiplies two and adds them into an int32. |q| <= 2^(b-1) - 1 =: Q, so `safe` = floor((2^31 - 1) / 2Q^2) pairs
 * cannot overflow (16 at b = 14). Usually far more are safe: by Cauchy and Schwarz |sum qa qb| <= |qa| |qb|, also for every part
 * of the sum, so where the norms of a block of BLOCK pairs multiply to less than 2^31 the block is summed in one go. Otherwise
 * it is summed in runs of `safe` pairs. Either way the tile then goes into int64, and the integers are the same.
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

/* One operand of one product: `lanes` rows (columns) of `k` elements, and its packed form. */
typedef struct {
    const float *x;
    word lanes, k, lane_step, k_step; /* steps in elements */
    int width;                        /* lanes of a panel */
    int32_t *panels;                  /* [panels][pairs][width] */
    float *norms;                     /* [panels][blocks]: at least the largest sum of squares of a lane's block */
    double *back;                     /* [panels * width]: 2^-s, NaN for a lane with an infinity or NaN */
} operand;

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

/* k is contiguous (or nothing is): lane by lane. */
static void pack_by_lane(const operand *o, word panel, int bits, int32_t *row) {
    word pairs = (o->k + 1) / 2, blocks = (pairs + BLOCK - 1) / BLOCK;
    int32_t most = (1 << (bits - 1)) - 1, *out = o->panels + panel * pairs * o->width;
    float *norms = o->norms + panel * blocks, *copy = (float *)(row + pairs + 16);
    for (word b = 0; b < blocks; b++) norms[b] = 0;
    for (int l = 0; l < o->width; l++) {
        word lane = panel * o->width + l;
        if (lane >= o->lanes) {
            for (word p = 0; p < pairs; p++) out[p * o->width + l] = 0;
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
        factors f = factors_of(top, bits, &o->back[lane]);
        int16_t *q = (int16_t *)row;
        for (word i = 0; i < o->k; i++) q[i] = (int16_t)quantise(x[i], f, most);
        if (o->k & 1) q[o->k] = 0;
        for (word b = 0; b < blocks; b++) {
            word stop = (b + 1) * 2 * BLOCK < o->k ? (b + 1) * 2 * BLOCK : o->k;
            int64_t squares = 0;
            for (word i = b * 2 * BLOCK; i < stop; i++) squares += (int32_t)q[i] * q[i];
            float norm = (float)squares * 1.000001f;
            norms[b] = norm > norms[b] ? norm : norms[b];
        }
        for (word p = 0; p < pairs; p++) out[p * o->width + l] = row[p];
    }
}

/* Lanes are contiguous: a panel's lanes side by side. */
static inline void pack_by_k(const operand *o, word panel, int bits, const int width) {
    word pairs = (o->k + 1) / 2, blocks = (pairs + BLOCK - 1) / BLOCK, first = panel * width;
    int32_t most = (1 << (bits - 1)) - 1, *out = o->panels + panel * pairs * width;
    const float *x = o->x + first;
    uint32_t top[COLUMNS > ROWS ? COLUMNS : ROWS] = {0};
    float one[COLUMNS > ROWS ? COLUMNS : ROWS], two[COLUMNS > ROWS ? COLUMNS : ROWS];
    for (word k = 0; k < o->k; k++)
        for (int l = 0; l < width; l++) { uint32_t a = bits_of(x[k * o->k_step + l]) & ABS_BITS; top[l] = a > top[l] ? a : top[l]; }
    for (int l = 0; l < width; l++) {
        factors f = factors_of(top[l], bits, &o->back[first + l]);
        one[l] = f.one;
        two[l] = f.two;
    }
    for (word b = 0; b < blocks; b++) {
        float squares[COLUMNS > ROWS ? COLUMNS : ROWS] = {0};
        word stop = (b + 1) * BLOCK < pairs ? (b + 1) * BLOCK : pairs;
        for (word p = b * BLOCK; p < stop; p++) {
            const float *even = x + 2 * p * o->k_step, *odd = 2 * p + 1 < o->k ? even + o->k_step : even;
            int32_t keep = 2 * p + 1 < o->k ? -1 : 0;
            for (int l = 0; l < width; l++) {
                factors f = {one[l], two[l]};
                int32_t u = quantise(even[l], f, most), v = quantise(odd[l], f, most) & keep;
                out[p * width + l] = (int32_t)(((uint32_t)u & 0xffffu) | (uint32_t)v << 16);
                squares[l] += (float)u * (float)u + (float)v * (float)v;
            }
        }
        float norm = 0;
        for (int l = 0; l < width; l++) norm = squares[l] > norm ? squares[l] : norm;
        o->norms[panel * blocks + b] = norm * 1.0001f; /* more than the rounding of BLOCK additions */
    }
}

static void pack(const operand *o, word panel, int bits, int32_t *row) {
    if (o->lane_step != 1 || o->k_step == 1 || (panel + 1) * o->width > o->lanes) pack_by_lane(o, panel, bits, row);
    else if (o->width == ROWS) pack_by_k(o, panel, bits, ROWS);
    else pack_by_k(o, panel, bits, COLUMNS);
}

typedef struct {
    operand a, b;
    float *c;
    int bits, failed;
} product;

static size_t row_bytes(word k) { return (size_t)(k + 2 + 16 + k) * 4; }

static void pack_part(void *argument, int part, int parts) {
    product *j = argument;
    word pa = (j->a.lanes + ROWS - 1) / ROWS, pb = (j->b.lanes + COLUMNS - 1) / COLUMNS, from, to;
    int32_t *row = assay_scratch(SCRATCH_ROW, row_bytes(j->a.k));
    if (!row) { j->failed = 1; return; }
    share(pa, 1, part, parts, &from, &to);
    for (word p = from; p < to; p++) pack(&j->a, p, j->bits, row);
    share(pb, 1, part, parts, &from, &to);
    for (word p = from; p < to; p++) pack(&j->b, p, j->bits, row);
}

static void multiply_part(void *argument, int part, int parts) {
    product *j = argument;
    word m = j->a.lanes, n = j->b.lanes, pairs = (j->a.k + 1) / 2, blocks = (pairs + BLOCK - 1) / BLOCK, from, to;
    word pa = (m + ROWS - 1) / ROWS, pb = (n + COLUMNS - 1) / COLUMNS;
    int64_t most = (1 << (j->bits - 1)) - 1, safe = INT32_MAX / (2 * most * most);
    int wide = 2 * (j->bits - 1) + 64 - __builtin_clzll((unsigned long long)pairs * 2) > 53;
    share(pa, 1, part, parts, &from, &to);
    for (word q = 0; q < pb; q++)
        for (word p = from; p < to; p++) {
            _Alignas(64) int32_t tile[ROWS * COLUMNS];
            _Alignas(64) int64_t sums[ROWS * COLUMNS];
            const int32_t *a = j->a.panels + p * pairs * ROWS, *b = j->b.panels + q * pairs * COLUMNS;
            int whole = blocks == 1 && j->a.norms[p] * j->b.norms[q] < 0x1p61f;
            if (whole) {
                multiply(a, b, pairs, tile);
            } else {
                memset(sums, 0, sizeof sums);
                for (word k = 0; k < blocks; k++) {
                    word stop = (k + 1) * BLOCK < pairs ? (k + 1) * BLOCK : pairs;
                    word run = j->a.norms[p * blocks + k] * j->b.norms[q * blocks + k] < 0x1p61f ? BLOCK : safe;
                    for (word at = k * BLOCK; at < stop; at += run) {
                        multiply(a + at * ROWS, b + at * COLUMNS, stop - at < run ? stop - at : run, tile);
                        for (int e = 0; e < ROWS * COLUMNS; e++) sums[e] += tile[e];
                    }
                }
            }
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
}

/* b > 16: products of int32 in int64, one lane pair at a time. Right, and slow. */
static void wide_part(void *argument, int part, int parts) {
    product *j = argument;
    word m = j->a.lanes, n = j->b.lanes, k = j->a.k, from, to;
    int32_t *qa = assay_scratch(SCRATCH_ROW, (size_t)(k * 4)), *qb = j->b.panels, most = (1 << (j->bits - 1)) - 1;
    if (!qa) { j->failed = 1; return; }
    share(m, 1, part, parts, &from, &to);
    for (word r = from; r < to; r++) {
        const float *x = j->a.x + r * j->a.lane_step;
        uint32_t top = 0;
        double back;
        for (word i = 0; i < k; i++) { uint32_t a = bits_of(x[i * j->a.k_step]) & ABS_BITS; top = a > top ? a : top; }
        factors f = factors_of(top, j->bits, &back);
        for (word i = 0; i < k; i++) qa[i] = quantise(x[i * j->a.k_step], f, most);
        for (word c = 0; c < n; c++) {
            int64_t total = 0;
            for (word i = 0; i < k; i++) total += (int64_t)qa[i] * qb[c * k + i];
            j->c[r * n + c] = round_scaled(total, back * j->b.back[c]);
        }
    }
}

static int wide_product(product *j, int threads) {
    word n = j->b.lanes, k = j->b.k;
    int32_t most = (1 << (j->bits - 1)) - 1, *q = assay_scratch(SCRATCH_B, (size_t)(n * k * 4));
    double *back = assay_scratch(SCRATCH_SIDE, (size_t)n * 8);
    if (!q || !back) return -1;
    for (word c = 0; c < n; c++) {
        const float *x = j->b.x + c * j->b.lane_step;
        uint32_t top = 0;
        for (word i = 0; i < k; i++) { uint32_t a = bits_of(x[i * j->b.k_step]) & ABS_BITS; top = a > top ? a : top; }
        factors f = factors_of(top, j->bits, &back[c]);
        for (word i = 0; i < k; i++) q[c * k + i] = quantise(x[i * j->b.k_step], f, most);
    }
    j->b.panels = q;
    j->b.back = back;
    assay_parallel(threads, wide_part, j);
    return j->failed ? -1 : 0;
}

static int one_product(product *j, int threads) {
    word k = j->a.k, pairs = (k + 1) / 2, blocks = (pairs + BLOCK - 1) / BLOCK;
    word pa = (j->a.lanes + ROWS - 1) / ROWS, pb = (j->b.lanes + COLUMNS - 1) / COLUMNS;
    if (j->a.lanes * j->b.lanes * k < 1 << 18) threads = 1;
    if (j->bits > 16) return wide_product(j, threads);
    j->a.width = ROWS;
    j->b.width = COLUMNS;
    j->a.panels = assay_scratch(SCRATCH_A, (size_t)(pa * pairs * ROWS * 4));
    j->b.panels = assay_scratch(SCRATCH_B, (size_t)(pb * pairs * COLUMNS * 4));
    char *side = assay_scratch(SCRATCH_SIDE, (size_t)(pa * (blocks * 4 + ROWS * 8) + pb * (blocks * 4 + COLUMNS * 8)));
    if (!j->a.panels || !j->b.panels || !side) return -1;
    j->a.back = (double *)side;
    j->b.back = j->a.back + pa * ROWS;
    j->a.norms = (float *)(j->b.back + pb * COLUMNS);
    j->b.norms = j->a.norms + pa * blocks;
    assay_parallel(threads, pack_part, j);
    if (j->failed) return -1;
    assay_parallel(threads, multiply_part, j);
    return 0;
}

/* Words: target (base, offset), a (base, offset), b (base, offset), bits, m, k, n, steps of a (row, k), of b (column, k), rank of the
 * batch; its dims, steps of a, steps of b. The target is in C order. */
int assay_matmul(const word *w, char **base, int threads) {
    word m = w[7], k = w[8], n = w[9], rank = w[14], products = 1, at[8] = {0};
    const word *dims = w + 15, *as = dims + rank, *bs = as + rank;
    for (word r = 0; r < rank; r++) products *= dims[r];
    for (word i = 0; i < products; i++) {
        word a = 0, b = 0;
        for (word r = 0; r < rank; r++) { a += at[r] * as[r]; b += at[r] * bs[r]; }
        product j = {.c = (float *)(base[w[0]] + w[1]) + i * m * n, .bits = (int)w[6], .failed = 0};
        j.a = (operand){.x = (const float *)(base[w[2]] + w[3]) + a, .lanes = m, .k = k, .lane_step = w[10], .k_step = w[11]};
        j.b = (operand){.x = (const float *)(base[w[4]] + w[5]) + b, .lanes = n, .k = k, .lane_step = w[12], .k_step = w[13]};
        if (one_product(&j, threads) != 0) return -1;
        for (word r = rank - 1; r >= 0; r--) { if (++at[r] < dims[r]) break; at[r] = 0; }
    }
    return 0;
}
